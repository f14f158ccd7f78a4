//! The addresses of a configuration: those that `listen` binds, and those that `server` and `proxy_pass`
//! connect to.
//!
//! Parses text. Where the text is a name, its addresses come from the table of names looked up so far
//! (`sys/names.rs`); only [`Host::resolve`], for workers, asks the system's resolver itself. Forms and
//! messages: nginx.org, `listen` of ngx_http_core_module and `server` of ngx_http_upstream_module.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

pub use crate::sys::address::SockAddr as Address;
use crate::sys::names::Names;

/// Maximum length of a unix socket's path: `sun_path` less its terminating zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// The reason why a text is not an address. Displays in nginx's words, to be followed by ` in "text"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAddress {
    NoHost,
    InvalidHost,
    InvalidPort,
    InvalidIpv6,
    NoUnixPath,
    UnixPathTooLong,
    /// The name does not resolve. Only [`parse_listen`] returns this; see [`Host::resolve`].
    NotFound,
}

impl fmt::Display for BadAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoHost => "no host",
            Self::InvalidHost => "invalid host",
            Self::InvalidPort => "invalid port",
            Self::InvalidIpv6 => "invalid IPv6 address",
            Self::NoUnixPath => "no path in the unix domain socket",
            Self::UnixPathTooLong => "too long path in the unix domain socket",
            Self::NotFound => "host not found",
        })
    }
}

impl std::error::Error for BadAddress {}

/// A destination as it was written: a name or address with its port, or the path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Inet {
        /// A name, an IPv4 address, or an IPv6 address without its brackets.
        name: Box<str>,
        port: u16,
    },
    Unix(PathBuf),
}

impl Host {
    /// The name or address without a port, or the path of a unix socket.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Inet { name, .. } => Cow::Borrowed(name),
            Self::Unix(path) => path.to_string_lossy(),
        }
    }

    /// The address, if it can be had without a lookup.
    pub fn literal(&self) -> Option<Address> {
        match self {
            Self::Inet { name, port } => {
                name.parse::<IpAddr>().ok().map(|ip| Address::Inet(SocketAddr::new(ip, *port)))
            }
            Self::Unix(path) => Some(Address::Unix(path.clone())),
        }
    }

    /// True for a name that no resolver will ever know (RFC 6761 §6.4), so that waiting for it is pointless.
    pub fn is_invalid_name(&self) -> bool {
        let Self::Inet { name, .. } = self else { return false };
        let name = name.strip_suffix('.').unwrap_or(name);
        name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("invalid"))
    }

    /// Every known address of the name. A name that was not looked up yet is noted for lookup. `None`: it has
    /// no address.
    pub fn find(&self, names: &Names) -> Option<Vec<Address>> {
        if let Some(address) = self.literal() {
            return Some(vec![address]);
        }
        let Self::Inet { name, port } = self else { return None };
        if self.is_invalid_name() {
            return None;
        }
        Some(names.find(name, *port)?.into_iter().map(Address::Inet).collect())
    }

    /// Looks up every address of the name: IPv4 first, in nginx's order, without duplicates.
    ///
    /// Blocks for a name, including `localhost` and names in /etc/hosts. Fails when the name is not found or
    /// the resolver does not answer.
    pub fn resolve(&self) -> std::io::Result<Vec<Address>> {
        if let Some(address) = self.literal() {
            return Ok(vec![address]);
        }
        let Self::Inet { name, port } = self else { return Ok(Vec::new()) };
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in (name.as_ref(), *port).to_socket_addrs()? {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        if found.is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
        }
        found.sort_by_key(SocketAddr::is_ipv6);
        Ok(found.into_iter().map(Address::Inet).collect())
    }
}

/// Parses `host`, `host:port`, `[ipv6]:port` or `unix:/path`; without a port the port is `default_port`.
/// Resolves nothing.
pub fn parse_upstream(text: &str, default_port: u16) -> Result<Host, BadAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_unix(path).map(Host::Unix);
    }
    let (name, port) = split_port(text)?;
    let port = match port {
        Some(port) => parse_port(port)?,
        None => default_port,
    };
    if name.is_empty() {
        return Err(BadAddress::NoHost);
    }
    let name = match name.strip_prefix('[') {
        Some(inner) => {
            let ip = inner.strip_suffix(']').ok_or(BadAddress::InvalidIpv6)?;
            ip.parse::<Ipv6Addr>().map_err(|_| BadAddress::InvalidIpv6)?;
            ip
        }
        None => name,
    };
    if name.bytes().any(|byte| byte <= b' ' || byte == b'/' || byte == 0x7f) {
        return Err(BadAddress::InvalidHost);
    }
    Ok(Host::Inet { name: name.into(), port })
}

/// Parses the address of a `listen` directive: `80`, `*:80`, `1.2.3.4`, `1.2.3.4:80`, `[::]:80`, `name:80`,
/// `unix:/path`, and ranges of ports `8000-8003`.
///
/// Returns several addresses for a range, and for a name that has several.
pub fn parse_listen(text: &str, default_port: u16, names: &Names) -> Result<Vec<Address>, BadAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_unix(path).map(|path| vec![Address::Unix(path)]);
    }
    if text.is_empty() {
        return Err(BadAddress::NoHost);
    }
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let (name, ports) = if digits_only { ("*", Some(text)) } else { split_port(text)? };
    let (first, last) = match ports {
        Some(ports) => parse_port_range(ports)?,
        None => (default_port, default_port),
    };
    let wildcard = Address::Inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), first));
    let bases = match name {
        "" => return Err(BadAddress::NoHost),
        "*" => vec![wildcard],
        _ => {
            let host = parse_upstream(name, first)?;
            host.find(names).ok_or(BadAddress::NotFound)?
        }
    };
    let addresses = bases.iter().filter_map(Address::ip).flat_map(|ip| {
        // for each address in turn, all ports of the range
        (first..=last).map(move |port| Address::Inet(SocketAddr::new(ip, port)))
    });
    Ok(addresses.collect())
}

fn parse_unix(path: &str) -> Result<PathBuf, BadAddress> {
    match path.len() {
        0 => Err(BadAddress::NoUnixPath),
        length if length > UNIX_PATH_BYTES_MAX => Err(BadAddress::UnixPathTooLong),
        _ => Ok(PathBuf::from(path)),
    }
}

/// Splits off `:port`; the brackets of an IPv6 address stay with the host.
fn split_port(text: &str) -> Result<(&str, Option<&str>), BadAddress> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(BadAddress::InvalidIpv6)? + 1;
        let (host, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BadAddress::InvalidHost),
        };
    }
    Ok(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

fn parse_port(text: &str) -> Result<u16, BadAddress> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if plain && port != 0 => Ok(port),
        _ => Err(BadAddress::InvalidPort),
    }
}

fn parse_port_range(text: &str) -> Result<(u16, u16), BadAddress> {
    let Some((first, last)) = text.split_once('-') else {
        return parse_port(text).map(|port| (port, port));
    };
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last {
        return Err(BadAddress::InvalidPort);
    }
    Ok((first, last))
}

/// Parses an address as proxies write it: `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`. Without a
/// port, the port is 0.
pub fn parse_inet(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|ip| SocketAddr::new(ip, 0)).ok().or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::names::Answer;

    fn listen(text: &str) -> String {
        match parse_listen(text, 80, &Names::default()) {
            Ok(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn reads_every_form_of_listen() {
        let cases = [
            ("8080", "0.0.0.0:8080"),
            ("*:8080", "0.0.0.0:8080"),
            ("*", "0.0.0.0:80"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("[::]:8080", "[::]:8080"),
            ("[::1]", "[::1]:80"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("127.0.0.1:8000-8002", "127.0.0.1:8000 127.0.0.1:8001 127.0.0.1:8002"),
            ("8000-8001", "0.0.0.0:8000 0.0.0.0:8001"),
        ];
        for (text, expected) in cases {
            assert_eq!(listen(text), expected, "listen {text}");
        }
    }

    #[test]
    fn refuses_what_is_no_listen_address() {
        let cases = [
            ("", "no host"),
            (":80", "no host"),
            ("0", "invalid port"),
            ("65536", "invalid port"),
            ("127.0.0.1:", "invalid port"),
            ("127.0.0.1:http", "invalid port"),
            ("127.0.0.1:+80", "invalid port"),
            ("127.0.0.1:90-80", "invalid port"),
            ("[::1", "invalid IPv6 address"),
            ("[::x]:80", "invalid IPv6 address"),
            ("[::1]80", "invalid host"),
            ("unix:", "no path in the unix domain socket"),
            ("name.invalid:80", "host not found"),
        ];
        for (text, expected) in cases {
            assert_eq!(listen(text), expected, "listen {text}");
        }
        let long = parse_listen(&format!("unix:/{}", "x".repeat(120)), 80, &Names::default());
        assert_eq!(long, Err(BadAddress::UnixPathTooLong));
    }

    #[test]
    fn a_name_listens_on_its_addresses_once_they_are_known() {
        let names = Names::default();
        assert_eq!(parse_listen("name.test:8080-8081", 80, &names), Err(BadAddress::NotFound));
        assert_eq!(names.take_asked(), ["name.test".into()]);
        let found = ["192.0.2.1:0", "[2001:db8::1]:0"].map(|text| text.parse().unwrap());
        names.learn([("name.test".into(), Answer::Found(found.to_vec()))]);
        let addresses = parse_listen("name.test:8080-8081", 80, &names).unwrap();
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let expected = ["192.0.2.1:8080", "192.0.2.1:8081", "[2001:db8::1]:8080", "[2001:db8::1]:8081"];
        assert_eq!(texts, expected);
        // A name that can never resolve is not looked up.
        assert_eq!(parse_listen("name.invalid:80", 80, &names), Err(BadAddress::NotFound));
        assert_eq!(names.take_asked(), [""; 0].map(Box::from));
    }

    #[test]
    fn reads_every_form_of_an_upstream_host() {
        let inet = |name: &str, port| Ok(Host::Inet { name: name.into(), port });
        let cases = [
            ("backend", inet("backend", 80)),
            ("backend:8080", inet("backend", 8080)),
            ("10.0.0.1:81", inet("10.0.0.1", 81)),
            ("[::1]:81", inet("::1", 81)),
            ("[::1]", inet("::1", 80)),
            ("unix:/a/b", Ok(Host::Unix("/a/b".into()))),
            ("backend:", Err(BadAddress::InvalidPort)),
            ("backend:0", Err(BadAddress::InvalidPort)),
            (":80", Err(BadAddress::NoHost)),
            ("a b", Err(BadAddress::InvalidHost)),
            ("a/b", Err(BadAddress::InvalidHost)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_upstream(text, 80), expected, "{text}");
        }
    }

    #[test]
    fn a_literal_address_is_not_looked_up() {
        let literal = |text| parse_upstream(text, 80).unwrap().literal().map(|address| address.to_string());
        assert_eq!(literal("10.0.0.1"), Some("10.0.0.1:80".into()));
        assert_eq!(literal("[::1]:8"), Some("[::1]:8".into()));
        assert_eq!(literal("unix:/a"), Some("unix:/a".into()));
        assert_eq!(literal("localhost"), None);
    }

    #[test]
    fn an_unknown_name_is_an_error_not_an_empty_list() {
        assert!(parse_upstream("name.invalid", 80).unwrap().resolve().is_err());
    }

    #[test]
    fn addresses_with_and_without_a_port() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1:0")),
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("2001:db8::1", Some("[2001:db8::1]:0")),
            ("[2001:db8::1]", Some("[2001:db8::1]:0")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("unknown", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:99999", None),
            ("[192.0.2.1", None),
        ] {
            assert_eq!(
                parse_inet(text.as_bytes()).map(|address| address.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }
}
