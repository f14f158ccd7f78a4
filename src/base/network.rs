//! Networks: `10.0.0.0/8`, `2001:db8::/32`, `unix:`.
//!
//! Pure data. Behaviour: nginx.org, `set_real_ip_from`, `allow`, `geo`.

use std::fmt;
use std::net::IpAddr;

/// An address and the number of leading bits that must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    Inet {
        /// All bits after the prefix are zero.
        address: IpAddr,
        prefix: u8,
    },
    /// Every unix socket.
    Unix,
}

/// A network read from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub network: Network,
    /// Bits after the prefix were set in the text; they are ignored.
    pub has_low_bits: bool,
}

impl Network {
    /// Reads an address, `address/prefix`, `address/mask` (IPv4) or `unix:`. `None` for anything else.
    pub fn parse(text: &str) -> Option<Parsed> {
        if text == "unix:" {
            return Some(Parsed { network: Self::Unix, has_low_bits: false });
        }
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match length {
            None => bits_max,
            Some(length) => match mask(length).filter(|_| address.is_ipv4()) {
                Some(prefix) => prefix,
                None if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                    length.parse().ok().filter(|prefix| *prefix <= bits_max)?
                }
                None => return None,
            },
        };
        let network = Self::of(address, prefix);
        Some(Parsed {
            network,
            has_low_bits: !matches!(network, Self::Inet { address: kept, .. } if kept == address),
        })
    }

    /// The network of the first `prefix` bits of an address.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        Self::Inet { address: masked(address, prefix), prefix }
    }

    /// Tests an address; `None` is a client on a unix socket. An IPv4 address in IPv6 form
    /// (`::ffff:10.0.0.1`) counts as the IPv4 address.
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Self::Unix, None) => true,
            (Self::Inet { address: network, prefix }, Some(address)) => {
                let address = if network.is_ipv4() { address.to_canonical() } else { address };
                network.is_ipv4() == address.is_ipv4() && masked(address, *prefix) == *network
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { address, prefix } => write!(out, "{address}/{prefix}"),
            Self::Unix => out.write_str("unix:"),
        }
    }
}

/// The prefix length of a mask such as `255.255.0.0`.
fn mask(text: &str) -> Option<u8> {
    let bits = u32::from(text.parse::<std::net::Ipv4Addr>().ok()?);
    (bits.leading_ones() + bits.trailing_zeros() == 32).then_some(bits.leading_ones() as u8)
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(network: &str, address: &str) -> bool {
        let network = Network::parse(network).expect(network).network;
        network.contains(address.parse().ok())
    }

    #[test]
    fn networks_hold_their_addresses() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/255.0.0.0", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "::1", "1.2.3.4"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("unix:", "", "127.0.0.1"),
        ] {
            assert!(has(network, inside), "{network} {inside}");
            assert!(!has(network, outside), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "localhost",
            "10.0.0.0/255.0.255.0",
            "unix:/x",
            "::/255.0.0.0",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
        assert!(Network::parse("10.0.0.1/8").is_some_and(|parsed| parsed.has_low_bits));
        assert_eq!(Network::parse("10.0.0.1/8").expect("valid").network.to_string(), "10.0.0.0/8");
    }
}
