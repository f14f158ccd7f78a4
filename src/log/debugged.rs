//! Clients about whom everything is logged, whatever the levels of `error_log` are (`debug_connection`).

use std::net::IpAddr;
use std::sync::OnceLock;

use crate::base::network::Network;
use crate::log::Logger;

static CLIENTS: OnceLock<Box<[Network]>> = OnceLock::new();

/// Sets the clients of this process, once.
pub fn set_debugged(clients: &[Network]) {
    if !clients.is_empty() {
        let _ = CLIENTS.set(clients.into());
    }
}

/// The logger for a client with this address (`None`: of a unix socket): `usual`, or the same targets at level `debug`.
#[inline]
pub fn logger_for(usual: Logger, address: impl FnOnce() -> Option<IpAddr>) -> Logger {
    match CLIENTS.get() {
        None => usual,
        Some(clients) => choose(clients, usual, address()),
    }
}

#[cold]
fn choose(clients: &[Network], usual: Logger, address: Option<IpAddr>) -> Logger {
    let address = address.map(|address| address.to_canonical());
    if clients.iter().any(|network| network.contains(address)) { usual.debugging() } else { usual }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Level, Target};

    #[test]
    fn only_these_clients_are_logged_at_level_debug() {
        let network = |text: &str| Network::parse(text).expect("a network").network;
        let clients = ["10.0.0.0/8", "unix:"].map(network);
        let usual = Logger::of(&[(Target::stderr(), Level::Crit)]);
        let is_debugged = |address: Option<&str>| {
            let address = address.map(|text| text.parse().expect("an address"));
            choose(&clients, usual, address).accepts(Level::Debug)
        };
        assert!(is_debugged(Some("10.1.2.3")) && is_debugged(Some("::ffff:10.1.2.3")) && is_debugged(None));
        assert!(!is_debugged(Some("11.1.2.3")) && !is_debugged(Some("::1")));
        assert!(!usual.accepts(Level::Debug));
        assert!(!choose(&clients, Logger::none(), None).accepts(Level::Debug), "there is no log");
    }
}
