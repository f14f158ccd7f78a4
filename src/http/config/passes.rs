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
    let ports: HashSet<u16> = listens.iter().filter_map(|listen| listen.address.port()).collect();
    let mut reached: HashMap<usize, Vec<usize>> = HashMap::new();
    for (group, place) in &fixed {
        let reached = reached.entry(*group).or_insert_with(|| {
            let servers = upstreams.get(*group).into_iter().flat_map(|group| &group.servers);
            servers.flat_map(|server| reached_listens(&server.host, listens, &ports)).collect()
        });
        for &index in &*reached {
            let targets = servers.get(index).cloned().unwrap_or_default();
            next.entry(place.server).or_default().extend(&targets);
            edges.push((place, targets, listens[index].address.to_string()));
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

/// The indexes of the listens that a host leads to. `ports`: theirs; most hosts have another one.
fn reached_listens(host: &Host, listens: &[Listen], ports: &HashSet<u16>) -> Vec<usize> {
    if matches!(host, Host::Inet { port, .. } if !ports.contains(port)) {
        return Vec::new();
    }
    let Some(address) = known(host) else { return Vec::new() };
    let reached = listens.iter().enumerate().filter(|(_, listen)| leads_to(&address, listen));
    reached.map(|(index, _)| index).collect()
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
