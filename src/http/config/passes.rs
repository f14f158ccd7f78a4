//! Checks of where `proxy_pass` leads, as far as the configuration tells: back to itself.
//!
//! Runs after everything has been read, for messages only. Touches: nothing.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Diagnostic, Severity, Span};
use crate::http::config::compile::Cx;
use crate::http::config::server::Listen;
use crate::net::Address;
use crate::net::address::Host;
use crate::upstream::Groups;

/// The groups of each `proxy_pass` without variables, noted while the configuration is read.
#[derive(Debug, Default)]
pub struct Passes(Vec<(usize, Place)>);

/// A `proxy_pass`.
#[derive(Clone, Copy, Debug)]
struct Place {
    span: Span,
    /// The number of its server.
    server: usize,
}

impl Cx {
    /// Notes the group of a `proxy_pass` without variables.
    pub fn note_fixed(&mut self, group: usize, span: Span) {
        let server = self.server_number();
        self.passes.0.push((group, Place { span, server }));
    }
}

/// Warns of servers that pass requests to their own address, directly or through others.
///
/// `servers`: the servers of each address.
pub fn check(listens: &[Listen], servers: &[Vec<usize>], upstreams: &Groups, cx: &mut Cx) {
    let Passes(fixed) = std::mem::take(&mut cx.passes);
    let mut next: HashMap<usize, HashSet<usize>> = HashMap::new();
    let mut edges = Vec::new();
    for (group, place) in &fixed {
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
