//! Parses request targets and hosts.
//!
//! Touches: nothing. RFC 9112 §3.2, RFC 3986 §3.2; hosts as nginx's `$host`.

use std::net::Ipv6Addr;
use std::ops::{Deref, Range};
use std::rc::Rc;

use crate::base::number::parse_u64;
use crate::proto::h1::Error;
use crate::proto::head::RequestHead;
use crate::proto::header::Id;
use crate::proto::message::Method;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `host:port`, with CONNECT only
    Authority,
    /// `*`, with OPTIONS only
    Asterisk,
}

/// The parts of a request target, as ranges of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub form: Form,
    /// Including its port.
    pub host: Option<Range<usize>>,
    /// Begins with `/`, or with `?` for an absolute form without a path; empty if it has neither.
    pub path_and_query: Range<usize>,
}

/// Parses a request target. Fails with `InvalidTarget` for a form that the method does not allow, or
/// `InvalidHost`.
pub fn parse(method: Method, raw: &[u8]) -> Result<Target, Error> {
    let all = 0..raw.len();
    if method == Method::Connect {
        authority(raw)?;
        let (_, port) = split_authority(raw)?;
        if port.is_none_or(<[u8]>::is_empty) {
            return Err(Error::InvalidTarget); // RFC 9110 §9.3.6
        }
        return Ok(Target { form: Form::Authority, host: Some(all), path_and_query: raw.len()..raw.len() });
    }
    if raw.first() == Some(&b'/') {
        return Ok(Target { form: Form::Origin, host: None, path_and_query: all });
    }
    if raw == b"*" && method == Method::Options {
        return Ok(Target { form: Form::Asterisk, host: None, path_and_query: raw.len()..raw.len() });
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| raw.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))
        .ok_or(Error::InvalidTarget)?;
    let start = scheme.len();
    let length = raw[start..].iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    let end = length.map_or(raw.len(), |length| start + length);
    authority(&raw[start..end])?;
    if raw.get(end) == Some(&b'#') {
        return Err(Error::InvalidTarget); // a fragment is not part of a target; as nginx
    }
    Ok(Target { form: Form::Absolute, host: Some(start..end), path_and_query: end..raw.len() })
}

/// The host of a request, in lower case, without port and trailing dot: the target's, or else that of `Host`.
///
/// `None` for HTTP/1.0 without either. Fails with `InvalidHost` if either is not a valid host.
pub fn host(head: &RequestHead, data: &[u8], target: Option<&Target>) -> Result<Option<Vec<u8>>, Error> {
    host_by(head, data, target, authority)
}

fn host_by<T>(
    head: &RequestHead,
    data: &[u8],
    target: Option<&Target>,
    mut check: impl FnMut(&[u8]) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let named = match head.fields.value(data, Id::Host) {
        Some(text) => Some(check(text)?),
        None => None,
    };
    let in_target = target.and_then(|target| target.host.clone());
    match in_target.and_then(|range| data.get(head.target.clone())?.get(range)) {
        Some(text) => check(text).map(Some),
        None => Ok(named),
    }
}

/// The host of a request, which requests that name the same one share. Empty at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host(Option<Rc<[u8]>>);

impl From<Vec<u8>> for Host {
    fn from(host: Vec<u8>) -> Self {
        Self(Some(host.into()))
    }
}

impl Deref for Host {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The last text that [`authority`] has accepted, with its result: consecutive requests usually name the same host, and
/// comparing two texts takes a fifth of the instructions of checking one.
#[derive(Debug, Default)]
pub struct LastHost {
    /// Empty at first, which is no host.
    text: Vec<u8>,
    host: Host,
}

/// Longer texts are not kept: a domain name has at most 253 bytes (RFC 1035 §2.3.4).
const KEPT_BYTES_MAX: usize = 260;

impl LastHost {
    /// The same as [`host`].
    #[inline]
    pub fn host(
        &mut self,
        head: &RequestHead,
        data: &[u8],
        target: Option<&Target>,
    ) -> Result<Option<Host>, Error> {
        host_by(head, data, target, |text| self.authority(text))
    }

    #[inline]
    fn authority(&mut self, text: &[u8]) -> Result<Host, Error> {
        if text == self.text && !text.is_empty() { Ok(self.host.clone()) } else { self.check(text) }
    }

    #[inline(never)]
    fn check(&mut self, text: &[u8]) -> Result<Host, Error> {
        let host = Host::from(authority(text)?);
        if text.len() <= KEPT_BYTES_MAX {
            self.text.clear();
            self.text.extend_from_slice(text);
            self.host.clone_from(&host);
        }
        Ok(host)
    }
}

/// Checks `host[:port]` and returns the host in lower case, without a trailing dot.
pub fn authority(text: &[u8]) -> Result<Vec<u8>, Error> {
    let (host, _) = split_authority(text)?;
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() {
        return Err(Error::InvalidHost);
    }
    Ok(host.to_ascii_lowercase())
}

/// Splits off the digits of the port; the port may be empty (`host:`).
fn split_authority(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), Error> {
    let host_length = if text.first() == Some(&b'[') {
        let end = memchr::memchr(b']', text).ok_or(Error::InvalidHost)?;
        let inside = &text[1..end];
        let address = std::str::from_utf8(inside).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
        if address.is_none() && !is_future_address(inside) {
            return Err(Error::InvalidHost);
        }
        end + 1
    } else {
        registered_name(text)?
    };
    let (host, rest) = text.split_at(host_length);
    match rest {
        [] => Ok((host, None)),
        [b':'] => Ok((host, Some(&[]))),
        [b':', port @ ..] if parse_u64(port).is_some_and(|port| port <= 65535) => Ok((host, Some(port))),
        _ => Err(Error::InvalidHost),
    }
}

/// The length of the name that ends at a colon or with the text (RFC 3986 §3.2.2).
fn registered_name(text: &[u8]) -> Result<usize, Error> {
    let (mut length, mut has_escapes) = (0, false);
    while let Some(byte) = text.get(length) {
        if !HOST_BYTES[usize::from(*byte)] {
            match byte {
                b':' => break,
                // an empty label: its second dot would survive the first
                b'.' if text.get(length + 1) == Some(&b'.') => return Err(Error::InvalidHost),
                b'.' => {}
                b'%' => has_escapes = true,
                _ => return Err(Error::InvalidHost),
            }
        }
        length += 1;
    }
    if length == 0 || has_escapes && !has_whole_escapes(&text[..length]) {
        return Err(Error::InvalidHost);
    }
    Ok(length)
}

/// True if two hexadecimal digits follow each `%` (RFC 3986 §2.1).
fn has_whole_escapes(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'%')
        .skip(1)
        .all(|rest| matches!(rest, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

/// True for `v1.something` (RFC 3986 §3.2.2, IPvFuture).
fn is_future_address(inside: &[u8]) -> bool {
    let Some((b'v' | b'V', rest)) = inside.split_first() else { return false };
    let Some(dot) = memchr::memchr(b'.', rest) else { return false };
    let (version, address) = (&rest[..dot], &rest[dot + 1..]);
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(byte);
    !version.is_empty()
        && version.iter().all(u8::is_ascii_hexdigit)
        && !address.is_empty()
        && address.iter().all(is_plain)
}

/// The characters of a registered name (RFC 3986 §3.2.2), except the comma, which would join two hosts, and those that
/// depend on the following ones: `%`, which begins an escape, and the dot.
const HOST_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < bytes.len() {
        let is_mark =
            matches!(byte as u8, b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'('..=b'+' | b';' | b'=');
        bytes[byte] = (byte as u8).is_ascii_alphanumeric() || is_mark;
        byte += 1;
    }
    bytes
};

/// The value of an argument in the query of a URI, as it is written there; `None`: no pair has this name.
pub fn argument<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args.split(|byte| *byte == b'&').find_map(|pair| {
        let at = memchr::memchr(b'=', pair).filter(|at| pair[..*at].eq_ignore_ascii_case(name))?;
        Some(&pair[at + 1..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::request;

    #[test]
    fn hosts_are_checked_and_brought_to_one_form() {
        for (text, host) in [
            ("H.Test", "h.test"),
            ("h.test.:80", "h.test"),
            ("[::1]:80", "[::1]"),
            ("[FE80::1]", "[fe80::1]"),
            ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"),
            ("[v1F.A:b!$&'()*+,;=-._~]:80", "[v1f.a:b!$&'()*+,;=-._~]"),
            ("a_b.test", "a_b.test"),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("h:", "h"),
            ("%41b.test", "%41b.test"),
            ("[::]", "[::]"),
        ] {
            assert_eq!(authority(text.as_bytes()).as_deref(), Ok(host.as_bytes()), "{text}");
        }
        for text in [
            "",
            ".",
            ":80",
            "h .test",
            "user@h",
            "h/x",
            "h,e",
            "h\\e",
            "h\0",
            "h#x",
            "h?x",
            "\"h\"",
            "h:abc",
            "h:-1",
            "[ab..cd::1]",
            "[v.a]",
            "[v1.]",
            "[v1]",
            "[vx.a]",
            "[v1.a/b]",
            "[1,2]",
            "[::1",
            "[]",
            "[12345]",
            "[12345::1]",
            "[1:2:3]",
            "[123g::1]",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "b\u{fc}cher.example",
            "\u{feff}h",
            "a%zz",
            "a%4",
            "a%",
            "h:65536",
            "<h>",
            "h:80:81",
            "::1",
            "[::1]x",
            "h:99999",
            "a..b",
            "a..",
            "a..:80",
            "..",
        ] {
            assert_eq!(authority(text.as_bytes()), Err(Error::InvalidHost), "{text:?}");
        }
    }

    #[test]
    fn targets_have_the_form_of_their_method() {
        for (method, raw, form, host, path) in [
            (Method::Get, "/a?b", Form::Origin, None, "/a?b"),
            (Method::Get, "http://h:1/a?b", Form::Absolute, Some("h:1"), "/a?b"),
            (Method::Get, "HTTP://h", Form::Absolute, Some("h"), ""),
            (Method::Get, "http://h?q", Form::Absolute, Some("h"), "?q"),
            (Method::Options, "*", Form::Asterisk, None, ""),
            (Method::Connect, "h:443", Form::Authority, Some("h:443"), ""),
        ] {
            let target = parse(method, raw.as_bytes()).expect(raw);
            assert_eq!(target.form, form);
            assert_eq!(target.host.map(|range| &raw[range]), host);
            assert_eq!(&raw[target.path_and_query], path);
        }
        for (method, raw) in [
            (Method::Get, "*"),
            (Method::Get, "h:80"),
            (Method::Get, "c"),
            (Method::Get, "\\c"),
            (Method::Get, ""),
            (Method::Get, "ftp://h/"),
            (Method::Get, "http:///c"),
            (Method::Get, "http://u@h/"),
            (Method::Get, "http://h:x/"),
            (Method::Connect, "/c"),
            (Method::Connect, "h"),
            (Method::Connect, "h:"),
            (Method::Connect, ".:8"),
            (Method::Get, "http://h#x"),
            (Method::Get, "http://h:80#/a"),
        ] {
            assert!(parse(method, raw.as_bytes()).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_targets_host_wins_over_the_field() {
        let text = b"GET http://a.test/ HTTP/1.1\r\nHost: B.test:80\r\n\r\n";
        let mut head = RequestHead::default();
        request::parse(text, &request::Limits::default(), &mut head).expect("valid");
        let target = parse(head.method, &text[head.target.clone()]).expect("valid");
        assert_eq!(host(&head, text, Some(&target)), Ok(Some(b"a.test".to_vec())));
        assert_eq!(host(&head, text, None), Ok(Some(b"b.test".to_vec())));
    }

    #[test]
    fn a_host_is_the_same_after_any_other() {
        let long = format!("{}.test", "a".repeat(KEPT_BYTES_MAX));
        let texts =
            ["A.test:80", "A.test:80", "a.test", "", "", "b c", "b c", "[::1]:8", &long, &long, "A.test:80"];
        let mut last = LastHost::default();
        for text in texts {
            let request = format!("GET / HTTP/1.1\r\nHost: {text}\r\n\r\n");
            let mut head = RequestHead::default();
            request::parse(request.as_bytes(), &request::Limits::default(), &mut head).expect("valid");
            let fresh = host(&head, request.as_bytes(), None);
            assert_eq!(
                last.host(&head, request.as_bytes(), None),
                fresh.map(|host| host.map(Host::from)),
                "{text}"
            );
            assert!(last.text.len() <= KEPT_BYTES_MAX);
        }
        let text = b"GET http://B.test/ HTTP/1.1\r\nHost: A.test:80\r\n\r\n";
        let mut head = RequestHead::default();
        request::parse(text, &request::Limits::default(), &mut head).expect("valid");
        let target = parse(head.method, &text[head.target.clone()]).expect("valid");
        assert_eq!(last.host(&head, text, Some(&target)), Ok(Some(b"b.test".to_vec().into())));
    }
}
