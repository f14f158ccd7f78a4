//! A responder: the parts of its URL, and the requests that it takes.
//!
//! Touches: nothing. Truth: RFC 6960 appendix A.1, RFC 5019 §5; nginx.org, `ssl_stapling_responder`.

use std::fmt;

use crate::base::base64;
use crate::net::address::{BadAddress, Host, parse_upstream};

/// The longest URL that is asked with GET, which caches on the way can answer; longer requests are posted.
const GET_BYTES_MAX: usize = 255;
const SCHEME: &str = "http://";
const PORT: u16 = 80;

/// A responder (`http://host:port/path`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responder {
    pub host: Host,
    /// The value of `Host`.
    authority: Box<str>,
    /// Begins with a slash.
    path: Box<str>,
}

/// Why a URL is no responder's. Displayed in nginx's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadUrl {
    url: Box<str>,
    why: Option<BadAddress>,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Some(why) => write!(out, "{why}")?,
            None => out.write_str("invalid URL prefix")?,
        }
        write!(out, " in OCSP responder \"{}\"", crate::log::Text(self.url.as_bytes()))
    }
}

impl std::error::Error for BadUrl {}

impl Responder {
    /// Reads a URL. Errors: it is not `http://`, has no valid host, or has bytes that no URL has.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = |url: &str, why| BadUrl { url: url.into(), why };
        let rest = url
            .split_at_checked(SCHEME.len())
            .filter(|(scheme, rest)| scheme.eq_ignore_ascii_case(SCHEME) && !rest.is_empty());
        let Some((_, rest)) = rest else { return Err(bad(url, None)) };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        // Bytes that would end the request's line or a field of it, and names that no resolver is asked for.
        let is_plain = rest.bytes().all(|byte| byte.is_ascii_graphic());
        let host = parse_upstream(authority, PORT).map_err(|why| bad(rest, Some(why)))?;
        let Host::Inet { name, port } = &host else { return Err(bad(rest, Some(BadAddress::InvalidHost))) };
        if !is_plain || authority.contains(['@', '"', '\\']) {
            return Err(bad(rest, Some(BadAddress::InvalidHost)));
        }
        let name = if name.contains(':') { format!("[{name}]") } else { name.to_string() };
        let authority = if *port == PORT { name } else { format!("{name}:{port}") };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { host, authority: authority.into(), path: format!("{slash}{path}").into() })
    }

    /// The name of the host, for messages.
    pub fn name(&self) -> &str {
        match &self.host {
            Host::Inet { name, .. } => name,
            Host::Unix(_) => "",
        }
    }

    /// The whole HTTP request for an OCSP request (DER). It is HTTP/1.0: the response is not chunked, and the
    /// responder closes the connection.
    pub fn request(&self, ocsp: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        base64::encode(ocsp, &mut text);
        let mut target = self.path.trim_end_matches('/').to_owned();
        target.push('/');
        for byte in text {
            match byte {
                b'+' => target.push_str("%2B"),
                b'/' => target.push_str("%2F"),
                b'=' => target.push_str("%3D"),
                _ => target.push(char::from(byte)),
            }
        }
        let authority = &self.authority;
        if SCHEME.len() + authority.len() + target.len() <= GET_BYTES_MAX {
            return format!("GET {target} HTTP/1.0\r\nHost: {authority}\r\n\r\n").into_bytes();
        }
        let (path, length) = (&self.path, ocsp.len());
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: {authority}\r\nContent-Type: application/ocsp-request\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), ocsp].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_nginx_reads_them() {
        let cases = [
            ("http://ocsp.test", "ocsp.test", "/"),
            ("HTTP://ocsp.test/", "ocsp.test", "/"),
            ("http://ocsp.test:80/a/b?c", "ocsp.test", "/a/b?c"),
            ("http://127.0.0.1:8081", "127.0.0.1:8081", "/"),
            ("http://[::1]:8081/x", "[::1]:8081", "/x"),
            ("http://ocsp.test?x", "ocsp.test", "/?x"),
            ("http://ocsp.test/x#y", "ocsp.test", "/x"),
        ];
        for (url, authority, path) in cases {
            let responder = Responder::parse(url).expect(url);
            assert_eq!((&*responder.authority, &*responder.path), (authority, path), "{url}");
        }
        let cases = [
            ("https://ocsp.test", "invalid URL prefix in OCSP responder \"https://ocsp.test\""),
            ("http://", "invalid URL prefix in OCSP responder \"http://\""),
            ("", "invalid URL prefix in OCSP responder \"\""),
            ("http:///x", "no host in OCSP responder \"/x\""),
            ("http://a:0/", "invalid port in OCSP responder \"a:0/\""),
            ("http://unix:/tmp/s", "no path in the unix domain socket in OCSP responder \"unix:/tmp/s\""),
            ("http://a@b/", "invalid host in OCSP responder \"a@b/\""),
            ("http://a/ HTTP/1.0", "invalid host in OCSP responder \"a/ HTTP/1.0\""),
            ("http://a/\r\nX: y", "invalid host in OCSP responder \"a/\\x0D\\x0AX: y\""),
            ("http://ä/", "invalid host in OCSP responder \"ä/\""),
        ];
        for (url, text) in cases {
            assert_eq!(Responder::parse(url).expect_err(url).to_string(), text);
        }
    }

    #[test]
    fn short_requests_are_got_and_long_ones_posted() {
        let responder = Responder::parse("http://ocsp.test:8080/x").expect("a URL");
        let request = responder.request(&[0xfb, 0xff, 0xfe, 0]);
        assert_eq!(request, b"GET /x/%2B%2F%2F%2BAA%3D%3D HTTP/1.0\r\nHost: ocsp.test:8080\r\n\r\n");
        let long = [7; 250];
        let request = responder.request(&long);
        assert!(request.starts_with(b"POST /x HTTP/1.0\r\nHost: ocsp.test:8080\r\n"));
        assert!(request.ends_with(&[&b"Content-Length: 250\r\n\r\n"[..], &long].concat()));
    }
}
