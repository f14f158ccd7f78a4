//! The name servers for names that are looked up while serving (`resolver`, `resolver_timeout`).
//!
//! Lookups are `net/resolver.rs`; name servers that are given by name are asked for with the other names of the
//! configuration. They serve `proxy_pass` with variables, and servers of an `upstream` with `resolve`.
//! Behaviour: nginx.org, ngx_http_core_module and ngx_stream_core_module.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::number::parse_millis;
use crate::config::{Diagnostic, Inherit, Node, Setting, Word, params, settings};
use crate::net::Address;
use crate::net::address::parse_upstream;
use crate::net::resolver::Settings;
use crate::shared::Environment;
use crate::shared::status_zone::Place;
use crate::sys::names::Names;

/// The port of name servers (RFC 1035 §4.2).
const PORT: u16 = 53;

settings! {
    /// The resolver of one block.
    #[derive(Clone, Debug)]
    pub struct Conf {
        resolver: Inherit<Arc<Settings>>,
        pub timeout: Setting<u64> = 30_000,
    }
}

impl Conf {
    /// Reads a `resolver`.
    pub fn set(&mut self, node: &Node, cx: &mut impl Environment) -> Result<(), Diagnostic> {
        self.resolver.put(Arc::new(read(node, cx)?), node)
    }

    pub fn settings(&self) -> Option<&Arc<Settings>> {
        self.resolver.as_ref()
    }

    pub fn timeout_ms(&self) -> u64 {
        self.timeout.get()
    }
}

/// The arguments of a `resolver` directive.
pub fn read(node: &Node, cx: &mut impl Environment) -> Result<Settings, Diagnostic> {
    let mut outcome = Ok(());
    let mut zone = None;
    let mut settings = Settings { servers: Vec::new(), valid_ms: None, ipv4: true, ipv6: true, counts: None };
    for word in &node.args {
        let invalid = || params::invalid_parameter(word, &["valid=", "ipv4=", "ipv6=", "status_zone="]);
        match word.text.split_once('=') {
            Some(("valid", value)) => settings.valid_ms = Some(parse_millis(value).ok_or_else(invalid)?),
            Some(("ipv4", value)) => settings.ipv4 = on_off(value).ok_or_else(invalid)?,
            Some(("ipv6", value)) => settings.ipv6 = on_off(value).ok_or_else(invalid)?,
            Some(("status_zone", value)) if !value.is_empty() => zone = Some(value),
            Some(_) => return Err(invalid()),
            None => match servers(word, cx.names()) {
                Ok(servers) => settings.servers.extend(servers),
                // The others are asked for at the same time.
                Err(diagnostic) => outcome = outcome.and(Err(diagnostic)),
            },
        }
    }
    outcome?;
    if !settings.ipv4 && !settings.ipv6 {
        return Err(Diagnostic::error(node.span, "\"ipv4\" and \"ipv6\" cannot both be \"off\""));
    }
    if settings.servers.is_empty() {
        return Err(Diagnostic::error(node.span, "no name servers defined")
            .help("give at least one address: resolver 127.0.0.53;"));
    }
    let is_test = cx.is_test();
    settings.counts = zone.and_then(|name| cx.status_zones().named(Place::Resolver, name, is_test));
    Ok(settings)
}

fn servers(word: &Word, names: &Names) -> Result<Vec<SocketAddr>, Diagnostic> {
    let text = &*word.text;
    let failed = |why: String| Diagnostic::error(word.span, format!("{why} in resolver \"{text}\""));
    let host = parse_upstream(text, PORT).map_err(|bad| failed(bad.to_string()))?;
    let found = host.find(names).ok_or_else(|| failed("host not found".to_owned()))?;
    let inet = |address| match address {
        Address::Inet(inet) => Ok(inet),
        Address::Datagram(inet) => Ok(*inet),
        Address::Unix(_) => Err(failed("a unix domain socket".to_owned())),
    };
    found.into_iter().map(inet).collect()
}

fn on_off(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}
