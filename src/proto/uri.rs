//! Request targets and hosts (RFC 9112 §3.2, RFC 9110 §7.2).

use std::fmt;
use std::ops::Range;

use crate::base::number::parse_u64;
use crate::proto::h1::request::RequestHead;
use crate::proto::header::Id;
use crate::proto::message::{Method, Version};

/// The form of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Origin,
    Absolute,
    Authority,
    Asterisk,
}

/// A request target, as ranges of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub form: Form,
    /// Host and port of the absolute and the authority form.
    pub authority: Option<Range<usize>>,
    /// Empty for an absolute target without a path.
    pub path_and_query: Range<usize>,
}

/// Why a target or a host is refused; always with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    BadTarget,
    BadHost,
    SeveralHosts,
    NoHost,
    /// The request line and `Host` name different hosts.
    HostMismatch,
}

impl Error {
    pub fn status(self) -> u16 {
        400
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::BadTarget => "invalid request target",
            Self::BadHost => "invalid host header",
            Self::SeveralHosts => "duplicate host header",
            Self::NoHost => "HTTP/1.1 request without \"Host\" header",
            Self::HostMismatch => "\"Host\" header that contradicts the request line",
        })
    }
}

/// Splits a request target. `*` belongs to OPTIONS, an authority to CONNECT.
pub fn parse(method: Method, target: &[u8]) -> Result<Target, Error> {
    let whole = 0..target.len();
    if method == Method::Connect {
        return Ok(Target { form: Form::Authority, authority: Some(whole), path_and_query: 0..0 });
    }
    if target.first() == Some(&b'/') {
        return Ok(Target { form: Form::Origin, authority: None, path_and_query: whole });
    }
    if target == b"*" && method == Method::Options {
        return Ok(Target { form: Form::Asterisk, authority: None, path_and_query: 0..0 });
    }
    let start = match target {
        _ if starts_with(target, b"http://") => 7,
        _ if starts_with(target, b"https://") => 8,
        _ => return Err(Error::BadTarget),
    };
    let end = target[start..]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .map_or(target.len(), |at| start + at);
    if end == start {
        return Err(Error::BadTarget);
    }
    Ok(Target { form: Form::Absolute, authority: Some(start..end), path_and_query: end..target.len() })
}

fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

/// The host a request is for: lower case, without port and trailing dot. `None`: it names none.
///
/// Of an absolute target the request line decides, and `Host` must agree with it. Errors: several or
/// malformed hosts, none in HTTP/1.1.
pub fn host(head: &RequestHead, data: &[u8], target: Option<&Target>) -> Result<Option<Vec<u8>>, Error> {
    let mut fields = head.all(data, Id::Host);
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Error::SeveralHosts);
    }
    let named = field.map(authority).transpose()?.flatten();
    let line = target
        .filter(|target| target.form == Form::Absolute)
        .and_then(|target| target.authority.clone())
        .and_then(|range| data.get(head.target.start + range.start..head.target.start + range.end));
    match (line, field) {
        (Some(line), field) => {
            let host = authority(line)?.ok_or(Error::BadTarget)?;
            if field.is_none() && head.version >= Version::Http11 {
                return Err(Error::NoHost);
            }
            if field.is_some_and(|field| !field.is_empty()) && named.as_ref() != Some(&host) {
                return Err(Error::HostMismatch);
            }
            Ok(Some(host))
        }
        (None, None) if head.version >= Version::Http11 => Err(Error::NoHost),
        (None, _) => Ok(named),
    }
}

/// Validates `host[:port]`; `None` when it is empty.
pub fn authority(text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let end = memchr::memchr(b']', rest).ok_or(Error::BadHost)?;
            let inside = std::str::from_utf8(&rest[..end]).map_err(|_| Error::BadHost)?;
            inside.parse::<std::net::Ipv6Addr>().map_err(|_| Error::BadHost)?;
            (&text[..end + 2], &rest[end + 1..])
        }
        None => {
            let end = memchr::memchr(b':', text).unwrap_or(text.len());
            (&text[..end], &text[end..])
        }
    };
    let is_port = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => parse_u64(digits).is_some_and(|port| port <= 65535),
        _ => false,
    };
    let is_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]:".contains(byte) || *byte >= 0x80;
    if host.is_empty() || !is_port || !host.iter().all(is_name) {
        return Err(Error::BadHost);
    }
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() || host.windows(2).any(|pair| pair == b"..") {
        return Err(Error::BadHost);
    }
    Ok(Some(host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::request::{self, Limits};

    fn host_of(text: &str) -> Result<Option<String>, Error> {
        let mut head = RequestHead::default();
        request::parse(text.as_bytes(), &Limits::default(), &mut head).unwrap();
        let target = parse(head.method, &text.as_bytes()[head.target.clone()])?;
        let host = host(&head, text.as_bytes(), Some(&target))?;
        Ok(host.map(|host| String::from_utf8(host).unwrap()))
    }

    #[test]
    fn hosts() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: Ex.COM:80\r\n\r\n", Ok(Some("ex.com"))),
            ("GET / HTTP/1.1\r\nHost: ex.com.\r\n\r\n", Ok(Some("ex.com"))),
            ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Ok(Some("[::1]"))),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Ok(None)),
            ("GET / HTTP/1.0\r\n\r\n", Ok(None)),
            ("GET / HTTP/1.1\r\n\r\n", Err(Error::NoHost)),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(Error::SeveralHosts)),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(Error::BadHost)),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(Error::BadHost)),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Err(Error::BadHost)),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Err(Error::BadHost)),
            ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Err(Error::BadHost)),
            ("GET / HTTP/1.1\r\nHost: [zz]\r\n\r\n", Err(Error::BadHost)),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some("a"))),
            ("GET http://a:81/ HTTP/1.1\r\nHost: A\r\n\r\n", Ok(Some("a"))),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Err(Error::HostMismatch)),
            ("GET http:/// HTTP/1.1\r\nHost: b\r\n\r\n", Err(Error::BadTarget)),
            ("GET a HTTP/1.1\r\nHost: b\r\n\r\n", Err(Error::BadTarget)),
            ("GET * HTTP/1.1\r\nHost: b\r\n\r\n", Err(Error::BadTarget)),
            ("OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n", Ok(Some("b"))),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|host| host.map(str::to_string));
            assert_eq!(host_of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_absolute_target_keeps_its_path() {
        let target = parse(Method::Get, b"http://a.b?c").unwrap();
        assert_eq!((target.authority, target.path_and_query), (Some(7..10), 10..12));
    }
}
