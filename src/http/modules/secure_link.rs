//! Links that require a secret to make, and that expire (`secure_link`, `secure_link_md5`,
//! `secure_link_secret`).
//!
//! Touches: the request's variables; the clock for a link's expiry. Decides nothing itself: `if ($secure_link
//! = "")` does.
//! Behaviour: nginx.org, ngx_http_secure_link_module.

use md5::{Digest, Md5};

use crate::base::base64;
use crate::base::number::{hex_digit, parse_u64};
use crate::config::directive::custom;
use crate::config::inherit::together;
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::script::nested;
use crate::script::variable::variable;
use crate::sys::clock;

/// 16 bytes in base64, padded.
const ENCODED_BYTES_MAX: usize = 24;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        link: Inherit<Script> => together,
        md5: Inherit<Script> => together,
        secret: Inherit<Box<str>> => together,
    }
    then inherit_links
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("secure_link", Context::ANY, Arity::exactly(1), secure_link,
        "Sets the value, with variables, that holds the hash of the link in base64url and, after a comma, its expiry time in seconds since 1970."),
    custom("secure_link_md5", Context::ANY, Arity::exactly(1), secure_link_md5,
        "Sets the expression, which includes a secret, whose MD5 hash must match that of the link. $secure_link is then 1, or 0 if the link has expired; \
         otherwise it is empty."),
    custom("secure_link_secret", Context::ANY, Arity::exactly(1), secure_link_secret,
        "Sets the secret for links of the form /prefix/hash/link, in which hash is the MD5 of the link and the secret in hexadecimal. $secure_link is then \
         the link, or empty if the hash is wrong."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("secure_link", |request, _, out| {
        let conf: &'static Conf = &request.location.confs.secure_link;
        match conf.secret.as_ref() {
            Some(secret) => by_secret(request, secret, out),
            None => nested(request, "secure_link", |request| by_hash(request, conf, out)),
        }
    },
        "1 if the link is valid, 0 if it has expired, otherwise empty; with secure_link_secret, the link."),
    variable("secure_link_expires", |request, _, out| {
        let conf: &'static Conf = &request.location.confs.secure_link;
        let Some(link) = conf.link.as_ref().filter(|_| conf.md5.is_set()) else { return false };
        let value = nested(request, "secure_link_expires", |request| link.to_vec(request));
        match split(&value) {
            Some((_, Some((expires, _)))) => {
                out.extend_from_slice(expires);
                true
            }
            _ => false,
        }
    },
        "The expiry time of the link, in seconds since 1970."),
];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        if let Some(span) = self.secret.span().filter(|_| self.link.is_set() || self.md5.is_set()) {
            let message =
                "\"secure_link_secret\" cannot be mixed with \"secure_link\" and \"secure_link_md5\"";
            cx.diagnostics.push(Diagnostic::error(span, message));
        }
    }
}

/// The two kinds of links are mutually exclusive.
fn inherit_links(conf: &mut Conf, outer: &Conf) {
    if !conf.secret.is_set() {
        conf.link.merge(&outer.link);
        conf.md5.merge(&outer.md5);
    }
    if !conf.link.is_set() && !conf.md5.is_set() {
        conf.secret.merge(&outer.secret);
    }
}

fn secure_link(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let link = Script::compile(&node.args[0], cx)?;
    conf.link.put(link, node)
}

fn secure_link_md5(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let md5 = Script::compile(&node.args[0], cx)?;
    conf.md5.put(md5, node)
}

fn secure_link_secret(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.secret.put(node.arg(0).into(), node)
}

/// A link's hash, and its expiry as text and number. `None`: the expiry is not a valid time.
#[allow(clippy::type_complexity, reason = "two callers, both here")]
fn split(link: &[u8]) -> Option<(&[u8], Option<(&[u8], u64)>)> {
    let Some(comma) = memchr::memchr(b',', link) else { return Some((link, None)) };
    let expires = &link[comma + 1..];
    let number = parse_u64(expires).filter(|number| (1..=i64::MAX as u64).contains(number))?;
    Some((&link[..comma], Some((expires, number))))
}

fn by_hash(request: &mut Request, conf: &'static Conf, out: &mut Vec<u8>) -> bool {
    let (Some(link), Some(md5)) = (conf.link.as_ref(), conf.md5.as_ref()) else { return false };
    let link = link.to_vec(request);
    let Some((encoded, expires)) = split(&link) else { return false };
    let Some(hash) = decode_url(encoded).filter(|_| encoded.len() <= ENCODED_BYTES_MAX) else { return false };
    if !is_equal(&hash, &Md5::digest(md5.to_vec(request))) {
        return false;
    }
    let is_over = expires.is_some_and(|(_, end)| (end as i64) < clock::wall().0);
    out.push(if is_over { b'0' } else { b'1' });
    true
}

/// Decodes base64url, which differs from base64 in two characters.
fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    let standard = |byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        b'+' | b'/' => b'!',
        other => *other,
    };
    base64::decode(&text.iter().map(standard).collect::<Vec<u8>>())
}

fn by_secret(request: &Request, secret: &str, out: &mut Vec<u8>) -> bool {
    let Some((hash, link)) = parts(request.target()) else { return false };
    let hash: Vec<u8> = hash
        .chunks(2)
        .filter_map(|pair| match pair {
            [high, low] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
            _ => None,
        })
        .collect();
    let digest = Md5::new().chain_update(link).chain_update(secret).finalize();
    if !is_equal(&hash, &digest) {
        return false;
    }
    out.extend_from_slice(link);
    true
}

/// The hash and link of `/prefix/hash/link`.
fn parts(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = target.get(1..)?;
    let rest = &rest[memchr::memchr(b'/', rest)? + 1..];
    let end = memchr::memchr(b'/', rest)?;
    let (hash, link) = (&rest[..end], &rest[end + 1..]);
    (hash.len() == 32 && !link.is_empty()).then_some((hash, link))
}

/// Compares in constant time for equal lengths.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_taken_apart() {
        assert_eq!(
            parts(b"/p/01234567890123456789012345678901/a/b?c"),
            Some((&b"01234567890123456789012345678901"[..], &b"a/b?c"[..]))
        );
        for wrong in [
            "",
            "/",
            "/p/",
            "/p/0123/a",
            "/p/01234567890123456789012345678901/",
            "/p/01234567890123456789012345678901",
        ] {
            assert_eq!(parts(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(split(b"hash,17"), Some((&b"hash"[..], Some((&b"17"[..], 17)))));
        assert_eq!(split(b"hash"), Some((&b"hash"[..], None)));
        for wrong in ["hash,", "hash,0", "hash,-1", "hash,1x", "hash,99999999999999999999", "hash,1,2"] {
            assert_eq!(split(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(decode_url(b"-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(decode_url(b"+/8"), None);
    }
}
