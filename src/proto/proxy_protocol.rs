//! The header that a proxy in front sends before a connection's first bytes, to name the connection's real
//! ends.
//!
//! Touches: nothing; bytes in, addresses out. Versions 1 (a line of text) and 2 (binary, with TLVs).
//! Truth: HAProxy's "The PROXY protocol", versions 1 and 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::number::parse_u64;

/// The start of version 2, with which no text protocol begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// The longest line of version 1, its CRLF included.
const LINE_BYTES_MAX: usize = 107;
/// Maximum length of a version 2 header, as in nginx: the addresses and some KiB of TLVs.
const HEADER_BYTES_MAX: usize = 4096;

/// The content of a header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Source and destination; `None` for LOCAL (the proxy's own connection), for unknown families, and if it
    /// is not TCP.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Type, length and value, one after the other, as received. Each was checked to be whole.
    pub tlvs: Box<[u8]>,
}

/// The reason why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Broken,
    UnknownVersion(u8),
    TooLarge,
}

/// Parses the header at the start of `data`; returns it with its length, or `None` if more bytes are needed.
pub fn parse(data: &[u8]) -> Result<Option<(Header, usize)>, Error> {
    let known = data.len().min(SIGNATURE.len());
    if data[..known] == SIGNATURE[..known] {
        return if known < SIGNATURE.len() { Ok(None) } else { binary(data) };
    }
    let known = data.len().min(b"PROXY ".len());
    if data[..known] != b"PROXY "[..known] {
        return Err(Error::Broken);
    }
    line(data)
}

fn line(data: &[u8]) -> Result<Option<(Header, usize)>, Error> {
    let begin = &data[..data.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', begin) else {
        let family = begin.get(b"PROXY ".len()..).unwrap_or_default();
        let may_be = |name: &[u8]| name.starts_with(family) || family.starts_with(name);
        if ![&b"TCP4 "[..], b"TCP6 ", b"UNKNOWN"].into_iter().any(may_be) {
            return Err(Error::Broken);
        }
        return if begin.len() == LINE_BYTES_MAX { Err(Error::Broken) } else { Ok(None) };
    };
    let text = begin[..end].strip_suffix(b"\r").ok_or(Error::Broken)?;
    let text = std::str::from_utf8(text).map_err(|_| Error::Broken)?;
    let mut words = text.split(' ').skip(1);
    let mut next = || words.next().ok_or(Error::Broken);
    let family = next()?;
    if family == "UNKNOWN" {
        return Ok(Some((Header::default(), end + 1)));
    }
    let ip = |word: &str| -> Result<IpAddr, Error> {
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::V6),
            _ => return Err(Error::Broken),
        }
        .map_err(|_| Error::Broken)
    };
    let port = |word: &str| {
        parse_u64(word.as_bytes()).and_then(|port| u16::try_from(port).ok()).ok_or(Error::Broken)
    };
    let (source, target) = (ip(next()?)?, ip(next()?)?);
    let (source_port, target_port) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(Error::Broken);
    }
    let addresses = Some((SocketAddr::new(source, source_port), SocketAddr::new(target, target_port)));
    Ok(Some((Header { addresses, tlvs: Box::default() }, end + 1)))
}

fn binary(data: &[u8]) -> Result<Option<(Header, usize)>, Error> {
    let Some(fixed) = data.first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 15);
    if version != 2 {
        return Err(Error::UnknownVersion(version));
    }
    if command > 1 {
        return Err(Error::Broken);
    }
    let end = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if end > HEADER_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    let Some(rest) = data.get(FIXED_BYTES..end) else { return Ok(None) };
    let (addresses, tlvs) = match (command, fixed[13]) {
        (1, 0x11) => {
            let (ips, rest) = rest.split_first_chunk::<12>().ok_or(Error::Broken)?;
            let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(ips[at], ips[at + 1], ips[at + 2], ips[at + 3]));
            let port = |at: usize| u16::from_be_bytes([ips[at], ips[at + 1]]);
            (Some((SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10)))), rest)
        }
        (1, 0x21) => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(Error::Broken)?;
            let (target, rest) = rest.split_first_chunk::<16>().ok_or(Error::Broken)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(Error::Broken)?;
            let address = |ip: &[u8; 16], at: usize| {
                SocketAddr::new(IpAddr::V6((*ip).into()), u16::from_be_bytes([ports[at], ports[at + 1]]))
            };
            (Some((address(source, 0), address(target, 2))), rest)
        }
        // Other families, and LOCAL, whose content must be skipped.
        _ => (None, &[][..]),
    };
    if !is_whole(tlvs) {
        return Err(Error::Broken);
    }
    Ok(Some((Header { addresses, tlvs: tlvs.into() }, end)))
}

fn is_whole(tlvs: &[u8]) -> bool {
    Tlvs(tlvs).map(|(_, value)| 3 + value.len()).sum::<usize>() == tlvs.len()
}

/// Iterates over TLVs.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([kind, high, low], rest) = self.0.split_first_chunk::<3>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        self.0 = rest;
        Some((*kind, value))
    }
}

/// The TLV for TLS: the verification of the client, and nested TLVs.
const SSL: u8 = 0x20;

/// A TLV that can be asked for with `$proxy_protocol_tlv_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv {
    Plain(u8),
    /// Nested in the TLV for TLS.
    Ssl(u8),
    SslVerify,
}

impl Tlv {
    /// Parses `alpn`, `0x05`, `ssl_cn`, `ssl_0x22`. `None` if there is no such TLV.
    pub fn of(name: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = text
                .strip_prefix("0x")
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            u8::try_from(u64::from_str_radix(digits, 16).ok()?).ok()
        };
        if let Some(inner) = name.strip_prefix("ssl_") {
            let kind = match inner {
                "verify" => return Some(Self::SslVerify),
                "version" => 0x21,
                "cn" => 0x22,
                "cipher" => 0x23,
                "sig_alg" => 0x24,
                "key_alg" => 0x25,
                other => number(other)?,
            };
            return Some(Self::Ssl(kind));
        }
        Some(Self::Plain(match name {
            "alpn" => 0x01,
            "authority" => 0x02,
            "unique_id" => 0x05,
            "ssl" => SSL,
            "netns" => 0x30,
            other => number(other)?,
        }))
    }
}

impl Header {
    /// Appends the value of a TLV; false if there is none.
    pub fn write_tlv(&self, tlv: Tlv, out: &mut Vec<u8>) -> bool {
        let find = |tlvs, kind| Tlvs(tlvs).find(|(this, _)| *this == kind).map(|(_, value)| value);
        // One byte of flags and four of the verification's result precede the nested ones.
        let ssl = || find(&self.tlvs, SSL)?.split_first_chunk::<5>();
        let value = match tlv {
            Tlv::Plain(kind) => find(&self.tlvs, kind),
            Tlv::Ssl(kind) => ssl().and_then(|(_, inner)| find(inner, kind)),
            Tlv::SslVerify => {
                let Some(([_, verify @ ..], _)) = ssl() else { return false };
                out.extend_from_slice(itoa::Buffer::new().format(u32::from_be_bytes(*verify)).as_bytes());
                return true;
            }
        };
        out.extend_from_slice(value.unwrap_or_default());
        value.is_some()
    }

    /// Writes the header in version 1. Addresses of two families are both written as IPv6, as nginx does.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        let line = match self.addresses {
            None => "PROXY UNKNOWN\r\n".to_owned(),
            Some((source, target)) => {
                let (family, source_ip, target_ip) = match (source.ip(), target.ip()) {
                    (IpAddr::V4(source), IpAddr::V4(target)) => {
                        ("TCP4", source.to_string(), target.to_string())
                    }
                    (source, target) => ("TCP6", mapped(source).to_string(), mapped(target).to_string()),
                };
                format!("PROXY {family} {source_ip} {target_ip} {} {}\r\n", source.port(), target.port())
            }
        };
        out.extend_from_slice(line.as_bytes());
    }

    /// Writes the header in version 2.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut rest = Vec::new();
        let family = match self.addresses {
            Some((source, target)) if source.is_ipv4() == target.is_ipv4() => {
                for ip in [source.ip(), target.ip()] {
                    match ip {
                        IpAddr::V4(ip) => rest.extend_from_slice(&ip.octets()),
                        IpAddr::V6(ip) => rest.extend_from_slice(&ip.octets()),
                    }
                }
                rest.extend_from_slice(&source.port().to_be_bytes());
                rest.extend_from_slice(&target.port().to_be_bytes());
                rest.extend_from_slice(&self.tlvs);
                if source.is_ipv4() { 0x11 } else { 0x21 }
            }
            _ => 0,
        };
        out.extend_from_slice(SIGNATURE);
        out.extend_from_slice(&[0x20 | u8::from(family != 0), family]);
        out.extend_from_slice(&u16::try_from(rest.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&rest);
    }
}

/// The address in IPv6.
fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &[u8]) -> Result<Option<(Header, usize)>, Error> {
        for cut in 0..data.len() {
            let part = parse(&data[..cut]);
            assert!(part == Ok(None) || part == parse(data), "cut at {cut}: {part:?}");
        }
        parse(data)
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    #[test]
    fn reads_lines() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n";
        let (header, length) = of(line).expect("valid").expect("whole");
        assert_eq!(length, line.len());
        let (source, target) = header.addresses.expect("TCP");
        assert_eq!(
            (source.to_string(), target.to_string()),
            ("192.0.2.1:123".into(), "192.0.2.2:5678".into())
        );
        let (header, _) = of(b"PROXY TCP6 2001:Db8::1 ::2 0 65535\r\n").expect("valid").expect("whole");
        assert_eq!(
            header.addresses.map(|(source, _)| source.to_string()).as_deref(),
            Some("[2001:db8::1]:0")
        );
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN 1 2 3 4 5 6\r\n"] {
            assert_eq!(parse(format!("{line}GET").as_bytes()), Ok(Some((Header::default(), line.len()))));
        }
    }

    #[test]
    fn refuses_lines_that_are_none() {
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        for line in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY \r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX\r\n",
            &endless,
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Error::Broken), "{line:?}");
        }
    }

    #[test]
    fn reads_the_binary_form_with_its_tlvs() {
        let addresses = [192, 0, 2, 1, 192, 0, 2, 2, 0, 123, 22, 46];
        let ssl = [&[SSL, 0, 12, 1, 0, 0, 0, 255, 0x22, 0, 4][..], b"a.bc"].concat();
        let tlvs = [&[1, 0, 2][..], b"h2", &ssl, &[0xae, 0, 0]].concat();
        let data = v2(0x21, 0x11, &[&addresses[..], &tlvs].concat());
        let (header, length) = of(&data).expect("valid").expect("whole");
        assert_eq!(length, data.len());
        let (source, target) = header.addresses.expect("TCP");
        assert_eq!(
            (source.to_string(), target.to_string()),
            ("192.0.2.1:123".into(), "192.0.2.2:5678".into())
        );
        for (name, value) in [
            ("alpn", Some("h2")),
            ("0x0001", Some("h2")),
            ("ssl_verify", Some("255")),
            ("ssl_cn", Some("a.bc")),
            ("ssl_0x22", Some("a.bc")),
            ("ssl_cipher", None),
            ("0xae", Some("")),
            ("0xaf", None),
        ] {
            let mut out = Vec::new();
            let found = header.write_tlv(Tlv::of(name).expect(name), &mut out);
            assert_eq!(found.then_some(out), value.map(|value| value.as_bytes().to_vec()), "{name}");
        }
        for name in ["", "0x", "0x100", "0x-1", "alpn2", "ssl_", "ssl_0xfff", "0xffffffffffffffffff"] {
            assert_eq!(Tlv::of(name), None, "{name}");
        }
        let mut copy = Vec::new();
        header.write(&mut copy);
        assert_eq!(copy, data);
    }

    #[test]
    fn skips_what_speaks_of_nobody_and_refuses_what_is_broken() {
        for (command, family) in [(0x20, 0x11), (0x21, 0x00), (0x21, 0x31), (0x21, 0x12), (0x20, 0)] {
            let data = v2(command, family, &[9; 20]);
            assert_eq!(of(&data), Ok(Some((Header::default(), data.len()))), "{command:x} {family:x}");
        }
        assert_eq!(of(&v2(0x11, 0x11, &[0; 12])), Err(Error::UnknownVersion(1)));
        assert_eq!(of(&v2(0x22, 0x11, &[0; 12])), Err(Error::Broken));
        assert_eq!(of(&v2(0x21, 0x11, &[0; 11])), Err(Error::Broken));
        assert_eq!(of(&v2(0x21, 0x21, &[0; 35])), Err(Error::Broken));
        assert_eq!(of(&v2(0x21, 0x11, &[&[0; 12][..], &[1, 0, 9, 1]].concat())), Err(Error::Broken));
        assert_eq!(of(&v2(0x21, 0x11, &[0; 4100])), Err(Error::TooLarge));
    }
}
