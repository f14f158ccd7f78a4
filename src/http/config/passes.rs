//! Checks of where `proxy_pass` leads, as far as the configuration tells: to TLS through variables, or back
//! to itself.
//!
//! Runs after everything has been read, for messages only. Touches: nothing. The values of a variable are the
//! texts that `set` gives it in the blocks around a `proxy_pass`, and those of its `map`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Diagnostic, Severity, Span, absent};
use crate::http::config::compile::Cx;
use crate::http::config::server::Listen;
use crate::net::Address;
use crate::net::address::Host;
use crate::script::value::variable_name;
use crate::upstream::Groups;

/// The message for a URL that needs TLS.
pub const HTTPS: &str = "https protocol requires TLS to upstreams, which is not available yet";

/// Maximum length of a chain of variables that refer to each other.
const DEPTH_MAX: usize = 8;
/// Maximum number of values of one variable to consider.
const VALUES_MAX: usize = 64;

/// Notes taken while the configuration is read.
#[derive(Debug, Default)]
pub struct Passes {
    scripts: Vec<(Box<str>, Place)>,
    fixed: Vec<(usize, Place)>,
    /// The values that `set` gives to each name.
    sets: HashMap<Box<str>, Vec<Value>>,
    /// The values of each map's variable.
    maps: HashMap<Box<str>, Vec<Box<str>>>,
}

/// A text that `set` assigns, and the enclosing blocks.
type Value = (Box<str>, Vec<u32>);

/// A `proxy_pass`.
#[derive(Clone, Debug)]
struct Place {
    span: Span,
    /// The server, and its number.
    block: Option<Span>,
    server: usize,
    /// The enclosing blocks, outermost first.
    path: Vec<u32>,
}

/// The schemes with which the values of a text start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Schemes {
    https: bool,
    other: bool,
    /// Some value is set elsewhere, or only while serving.
    unsure: bool,
}

impl Cx {
    /// Notes the URL of a `proxy_pass` with variables.
    pub fn note_script(&mut self, url: &str, span: Span) {
        let place = self.place(span);
        self.passes.scripts.push((url.into(), place));
    }

    /// Notes the group of a `proxy_pass` without variables.
    pub fn note_fixed(&mut self, group: usize, span: Span) {
        let place = self.place(span);
        self.passes.fixed.push((group, place));
    }

    pub fn note_set(&mut self, name: &str, value: &str) {
        let path = self.open_blocks();
        self.passes.sets.entry(name.into()).or_default().push((value.into(), path));
    }

    pub fn note_map<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a [u8]>) {
        let texts = values.take(VALUES_MAX).map(|value| String::from_utf8_lossy(value).into());
        self.passes.maps.insert(name.into(), texts.collect());
    }

    fn place(&self, span: Span) -> Place {
        let (server, path) = (self.server_number(), self.open_blocks());
        Place { span, block: self.diagnostics.1.block, server, path }
    }
}

/// Reports all of them. `servers`: the servers of each address.
pub fn check(listens: &[Listen], servers: &[Vec<usize>], upstreams: &Groups, cx: &mut Cx) {
    let passes = std::mem::take(&mut cx.passes);
    for (url, place) in &passes.scripts {
        let schemes = passes.schemes(url, &place.path, 0);
        if schemes.https && !schemes.other && !schemes.unsure {
            cx.diagnostics.1.block = place.block;
            cx.diagnostics.1.line(&absent::PROXY_TLS, place.span, HTTPS.to_owned());
            cx.diagnostics.1.block = None;
        } else if schemes.https {
            let message = format!("\"{url}\" may lead to https://, for which there is no TLS to upstreams");
            cx.diagnostics.push(Diagnostic::warning(place.span, message).help(absent::PROXY_TLS.help));
        }
    }
    loops(&passes.fixed, listens, servers, upstreams, cx);
}

impl Passes {
    /// The schemes with which a `proxy_pass` URL in this block may start.
    fn schemes(&self, url: &str, path: &[u32], depth: usize) -> Schemes {
        const SCHEME: &str = "https://";
        let is_tls =
            |text: &str| text.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME));
        let known = |https| Schemes { https, other: !https, unsure: false };
        let unsure = Schemes { unsure: true, ..Schemes::default() };
        let Some(at) = url.find('$').filter(|at| *at < SCHEME.len()) else { return known(is_tls(url)) };
        let Ok((name, rest)) = variable_name(&url[at + 1..], Span::default()) else { return unsure };
        if !SCHEME.starts_with(&url[..at].to_ascii_lowercase()) {
            return known(false); // http://$host
        }
        if name == "scheme" {
            return known(is_tls(&format!("{}http{rest}", &url[..at])));
        }
        if depth >= DEPTH_MAX {
            return unsure;
        }
        let mut all = Schemes::default();
        for value in self.values(name, path, &mut all.unsure) {
            let found = self.schemes(&format!("{}{value}{rest}", &url[..at]), path, depth + 1);
            all.https |= found.https;
            all.other |= found.other;
            all.unsure |= found.unsure;
        }
        all
    }

    /// The possible texts of a variable in a block; sets `unsure` if they come from other blocks, or others
    /// are possible.
    fn values(&self, name: &str, path: &[u32], unsure: &mut bool) -> Vec<&str> {
        if let Some(values) = self.maps.get(name) {
            return values.iter().map(|value| &**value).collect();
        }
        let sets = self.sets.get(name).map_or(&[][..], |sets| sets);
        let in_force = sets.iter().filter(|(_, block)| path.starts_with(block));
        let mut values: Vec<&str> = in_force.map(|(value, _)| &**value).collect();
        if values.is_empty() {
            *unsure = true;
            let of_server = sets.iter().filter(|(_, block)| block.first() == path.first());
            values = of_server.map(|(value, _)| &**value).collect();
        }
        values.truncate(VALUES_MAX);
        values
    }
}

/// Warns of servers that pass requests to their own address, directly or through others.
fn loops(
    fixed: &[(usize, Place)],
    listens: &[Listen],
    servers: &[Vec<usize>],
    upstreams: &Groups,
    cx: &mut Cx,
) {
    let mut next: HashMap<usize, HashSet<usize>> = HashMap::new();
    let mut edges = Vec::new();
    for (group, place) in fixed {
        let group = upstreams.get(*group).into_iter();
        for address in group.flat_map(|group| &group.servers).filter_map(|server| known(&server.host)) {
            let reached = |listen: &&Listen| leads_to(&address, listen);
            for (index, listen) in listens.iter().enumerate().filter(|(_, listen)| reached(listen)) {
                let targets = servers.get(index).cloned().unwrap_or_default();
                next.entry(place.server).or_default().extend(&targets);
                edges.push((place, targets, listen.address.to_string()));
            }
        }
    }
    for (place, targets, address) in edges {
        let mut seen = HashSet::new();
        let mut open = targets;
        while let Some(server) = open.pop() {
            if seen.insert(server) {
                open.extend(next.get(&server).into_iter().flatten());
            }
        }
        if seen.contains(&place.server) {
            let message = format!("\"proxy_pass\" leads back to this server, which listens on {address}");
            let warning = Diagnostic::warning(place.span, message);
            let help = "requests loop until all connections are in use, unless another server or location answers them";
            debug_assert_eq!(warning.severity, Severity::Warning);
            cx.diagnostics.push(warning.help(help));
        }
    }
}

/// The address of a host that needs no resolver.
fn known(host: &Host) -> Option<Address> {
    match host {
        Host::Inet { name, port } if name.eq_ignore_ascii_case("localhost") => {
            Some(Address::Inet((Ipv4Addr::LOCALHOST, *port).into()))
        }
        host => host.literal(),
    }
}

fn leads_to(target: &Address, listen: &Listen) -> bool {
    match (target, listen.address.ip(), listen.address.path()) {
        (Address::Inet(target), Some(ip), _) => {
            let is_local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
            listen.address.port() == Some(target.port())
                && (target.ip() == ip || ip.is_unspecified() && is_local(target.ip()))
        }
        (Address::Unix(path), _, Some(own)) => path == own,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes() -> Passes {
        let mut passes = Passes::default();
        let mut set = |name: &str, value: &str, path: &[u32]| {
            passes.sets.entry(name.into()).or_default().push((value.into(), path.to_vec()));
        };
        set("up", "https://a", &[1, 2]);
        set("proto", "https", &[1]);
        set("mixed", "http", &[1]);
        set("mixed", "https", &[1, 2]);
        set("other", "$proto", &[1, 2]);
        set("round", "$round", &[1]);
        set("far", "https", &[1, 3]);
        passes.maps.insert("map".into(), vec!["https://x".into(), "http://y".into()]);
        passes
    }

    #[test]
    fn constants_are_followed() {
        let known = |https, other, unsure| Schemes { https, other, unsure };
        for (url, expected) in [
            ("https://$host", known(true, false, false)),
            ("http://$host", known(false, true, false)),
            ("$up", known(true, false, false)),
            ("${proto}://a:$port", known(true, false, false)),
            ("HTTP${none}://a", known(false, false, true)),
            ("$mixed://a", known(true, true, false)),
            ("$other://a", known(true, false, false)),
            ("$round://a", known(false, false, true)),
            ("$far://a", known(true, false, true)),
            ("$map", known(true, true, false)),
            ("$scheme://a", known(false, true, false)),
            ("$none", known(false, false, true)),
        ] {
            assert_eq!(passes().schemes(url, &[1, 2], 0), expected, "{url}");
        }
    }
}
