//! Proxies in front whose word is taken for who the client is (`set_real_ip_from`).
//!
//! Touches: nothing; names were looked up before. Behaviour: nginx.org, ngx_http_realip_module and
//! ngx_stream_realip_module.

use std::net::{IpAddr, SocketAddr};

use crate::base::network::Network;
use crate::config::inherit::replace;
use crate::config::{Diagnostic, Merge, Node};
use crate::net::address::{parse_inet, parse_upstream};
use crate::shared::Environment;
use crate::sys::address::SockAddr;
use crate::sys::names::Names;

/// The networks that one block trusts.
#[derive(Clone, Debug, Default)]
pub struct Trusted(Vec<Network>);

/// Takes the networks of the outer block where this one has none.
impl Merge for Trusted {
    fn merge(&mut self, outer: &Self) {
        replace(&mut self.0, &outer.0);
    }
}

impl Trusted {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn networks(&self) -> &[Network] {
        &self.0
    }

    /// True for a trusted address; `None` is that of a unix socket.
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        is_within(&self.0, address)
    }

    /// Reads a `set_real_ip_from`.
    pub fn add(&mut self, node: &Node, cx: &mut impl Environment) -> Result<(), Diagnostic> {
        let (networks, warning) = read_networks(node, cx.names())?;
        warning.into_iter().for_each(|warning| cx.diagnostics().push(warning));
        self.0.extend(networks);
        Ok(())
    }
}

/// The networks that a directive's argument means (an address, a network, `unix:`, or a name, which has been looked up),
/// and a warning about it.
pub fn read_networks(node: &Node, names: &Names) -> Result<(Vec<Network>, Option<Diagnostic>), Diagnostic> {
    let text = node.arg(0);
    if let Some(parsed) = Network::parse(text) {
        let message = || format!("low address bits of {text} are meaningless");
        let warning = parsed.has_low_bits.then(|| Diagnostic::warning(node.arg_span(0), message()));
        return Ok((vec![parsed.network], warning));
    }
    if text.contains(['/', ':']) {
        return Err(Diagnostic::error(node.arg_span(0), format!("invalid value \"{text}\"")));
    }
    let found = parse_upstream(text, 80).ok().and_then(|host| host.find(names));
    let addresses = found.ok_or_else(|| {
        let message = format!("host not found in {} \"{text}\"", node.name.text);
        Diagnostic::error(node.arg_span(0), message)
    })?;
    let ips = addresses.iter().filter_map(SockAddr::ip);
    Ok((ips.map(|ip| Network::of(ip, if ip.is_ipv4() { 32 } else { 128 })).collect(), None))
}

/// The client that trusted proxies name. `words`: the addresses that each has appended, the last one first; the last one is
/// the client, or with `is_recursive` the last one that is not trusted itself.
pub fn named_client<'a>(
    words: impl Iterator<Item = &'a [u8]>,
    trusted: &[Network],
    is_recursive: bool,
    mut peer: Option<IpAddr>,
) -> Option<SocketAddr> {
    let mut found = None;
    for word in words {
        if !is_within(trusted, peer) {
            break;
        }
        let Some(address) = parse_inet(word) else { break };
        found = Some(address);
        peer = Some(address.ip());
        if !is_recursive {
            break;
        }
    }
    found
}

fn is_within(networks: &[Network], address: Option<IpAddr>) -> bool {
    networks.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_that_is_not_trusted_is_the_client() {
        let trusted: Vec<Network> =
            ["10.0.0.0/8", "unix:"].map(|text| Network::parse(text).expect("one").network).into();
        let named = |list: &str, is_recursive, peer: Option<&str>| {
            let words = list.rsplit(',').map(str::as_bytes);
            let peer = peer.map(|peer| peer.parse().expect("an address"));
            named_client(words, &trusted, is_recursive, peer).map(|client| client.ip().to_string())
        };
        for (list, is_recursive, peer, expected) in [
            ("1.1.1.1,10.0.0.2", false, Some("10.0.0.1"), Some("10.0.0.2")),
            ("1.1.1.1,10.0.0.2", true, Some("10.0.0.1"), Some("1.1.1.1")),
            ("2.2.2.2,1.1.1.1,10.0.0.2", true, Some("10.0.0.1"), Some("1.1.1.1")),
            ("10.0.0.3,10.0.0.2", true, Some("10.0.0.1"), Some("10.0.0.3")),
            ("1.1.1.1", true, None, Some("1.1.1.1")),
            ("1.1.1.1", true, Some("9.9.9.9"), None),
            ("1.1.1.1,forged,10.0.0.2", true, Some("10.0.0.1"), Some("10.0.0.2")),
            ("forged", true, Some("10.0.0.1"), None),
        ] {
            assert_eq!(named(list, is_recursive, peer).as_deref(), expected, "{list}");
        }
    }
}
