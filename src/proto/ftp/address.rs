//! The addresses of data connections: PORT and EPRT of clients, and the replies to PASV and EPSV (RFC 959, RFC 2428).
//!
//! Touches: nothing. Nobody connects to a host that is written here: of a server's reply only the port counts, and a client's
//! address is compared with the one that it has (RFC 2577 §3).

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Why the argument of EPRT or EPSV is no address that we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It has another form.
    Syntax,
    /// It is of an address family that we do not know.
    Family,
}

/// A number of at most `max`, at the front of `text`, and what follows it.
fn number(text: &[u8], max: u32) -> Option<(u32, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 5 {
        return None;
    }
    let value = text[..digits].iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    (value <= max).then_some((value, &text[digits..]))
}

/// `h1,h2,h3,h4,p1,p2` at the front of `text`, and what follows it.
fn six(mut text: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let mut parts = [0u8; 6];
    for (index, part) in parts.iter_mut().enumerate() {
        if index > 0 {
            text = text.strip_prefix(b",")?;
        }
        let (value, rest) = number(text, 255)?;
        (*part, text) = (value as u8, rest);
    }
    let [a, b, c, d, high, low] = parts;
    Some((SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])), text))
}

/// The argument of PORT.
pub fn parse_port(argument: &[u8]) -> Option<SocketAddrV4> {
    six(argument.trim_ascii()).filter(|(_, rest)| rest.is_empty()).map(|(address, _)| address)
}

/// The argument of EPRT: `|1|192.0.2.1|5000|` or `|2|2001:db8::1|5000|`, with any delimiter.
pub fn parse_eprt(argument: &[u8]) -> Result<SocketAddr, Unusable> {
    let argument = argument.trim_ascii();
    let (&delimiter, rest) = argument.split_first().ok_or(Unusable::Syntax)?;
    if !(33..=126).contains(&delimiter) || delimiter.is_ascii_digit() {
        return Err(Unusable::Syntax);
    }
    let mut fields = rest.split(|byte| *byte == delimiter);
    let (Some(family), Some(host), Some(port), Some(b""), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Unusable::Syntax);
    };
    let is_v6 = match family {
        b"1" => false,
        b"2" => true,
        _ if !family.is_empty() && family.iter().all(u8::is_ascii_digit) => return Err(Unusable::Family),
        _ => return Err(Unusable::Syntax),
    };
    let host: IpAddr =
        std::str::from_utf8(host).ok().and_then(|host| host.parse().ok()).ok_or(Unusable::Syntax)?;
    let port = number(port, 65535).filter(|(_, rest)| rest.is_empty()).ok_or(Unusable::Syntax)?.0;
    if host.is_ipv6() != is_v6 {
        return Err(Unusable::Syntax);
    }
    Ok(SocketAddr::new(host, port as u16))
}

/// The port in the text of a 227 reply. Servers write the six numbers with and without parentheses, behind any words (RFC 1123
/// §4.1.2.6). `None`: there are none, or the port is 0.
pub fn port_of_227(text: &[u8]) -> Option<u16> {
    let text = text.get(3..)?;
    let begins = |at: &usize| text[*at].is_ascii_digit() && (*at == 0 || !text[at - 1].is_ascii_digit());
    let mut found = (0..text.len()).filter(begins).filter_map(|at| six(&text[at..]));
    found.next().map(|(address, _)| address.port()).filter(|port| *port > 0)
}

/// The port in the text of a 229 reply: `(|||5000|)` with any delimiter. `None`: there is none, or it is 0.
pub fn port_of_229(text: &[u8]) -> Option<u16> {
    let open = memchr::memchr(b'(', text)?;
    let &[delimiter, second, third, ref rest @ ..] = text.get(open + 1..)? else { return None };
    if delimiter.is_ascii_digit() || second != delimiter || third != delimiter {
        return None;
    }
    let (port, rest) = number(rest, 65535)?;
    (rest.first() == Some(&delimiter) && port > 0).then_some(port as u16)
}

/// Writes the six numbers of a 227 reply or of PORT.
pub fn write_six(address: SocketAddrV4, out: &mut Vec<u8>) {
    let ([a, b, c, d], [high, low]) = (address.ip().octets(), address.port().to_be_bytes());
    let _ = write!(out, "{a},{b},{c},{d},{high},{low}");
}

/// An address without the detour by which IPv4 comes to a socket of IPv6.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, v6.port())),
            None => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id())),
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_has_six_numbers_and_nothing_else() {
        assert_eq!(parse_port(b"192,0,2,1,19,136"), "192.0.2.1:5000".parse().ok());
        for wrong in [
            "",
            "1,2,3,4,5",
            "1,2,3,4,5,256",
            "1,2,3,4,5,6,7",
            "1,2,3,4,5,-6",
            "1,,2,3,4,5",
            "000001,2,3,4,5,6",
        ] {
            assert_eq!(parse_port(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn eprt_has_a_family_a_host_and_a_port() {
        assert_eq!(parse_eprt(b"|1|192.0.2.1|5000|"), Ok("192.0.2.1:5000".parse().unwrap()));
        assert_eq!(parse_eprt(b"!2!2001:db8::1!5000!"), Ok("[2001:db8::1]:5000".parse().unwrap()));
        assert_eq!(parse_eprt(b"|3|x|5000|"), Err(Unusable::Family));
        for wrong in [
            "",
            "|",
            "|1|::1|1|",
            "|2|1.2.3.4|1|",
            "|1|1.2.3.4|70000|",
            "|1|1.2.3.4|1",
            "|1|1.2.3.4|1|x",
            "1111",
            "||||",
        ] {
            assert_eq!(parse_eprt(wrong.as_bytes()), Err(Unusable::Syntax), "{wrong}");
        }
    }

    #[test]
    fn replies_name_a_port() {
        for text in [
            "227 Entering Passive Mode (10,0,0,1,19,136).",
            "227 Entering Passive Mode 10,0,0,1,19,136",
            "227 =10,0,0,1,19,136",
            "227 1,2 and (10,0,0,1,19,136)",
        ] {
            assert_eq!(port_of_227(text.as_bytes()), Some(5000), "{text}");
        }
        for text in ["227", "227 (10,0,0,1,0,0)", "227 (10,0,0,1,19)", "227 (10,0,0,1,19,999)"] {
            assert_eq!(port_of_227(text.as_bytes()), None, "{text}");
        }
        assert_eq!(port_of_229(b"229 Entering Extended Passive Mode (|||5000|)"), Some(5000));
        for text in
            ["229 (|||0|)", "229 (|||70000|)", "229 |||5000|", "229 (|1|a|5000|)", "229 (||", "229 (|||5000)"]
        {
            assert_eq!(port_of_229(text.as_bytes()), None, "{text}");
        }
    }
}
