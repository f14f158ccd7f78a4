//! The challenges that an authority may look for now, and what workers answer.
//!
//! Each process has a copy of the table, which it inherits at its fork and which the master's messages change: memory
//! that workers share could be changed by a hostile one. The process that asks for certificates is not trusted either:
//! only answers that ACME could ask for are well formed ([`Challenge::is_plausible`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::frame::{self, Fields};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::parcel;

/// The path of an answer, before the token (RFC 8555 §8.3).
pub const PATH: &[u8] = b"/.well-known/acme-challenge/";
/// The protocol of a handshake that checks a name (RFC 8737 §6.2).
pub const ALPN: &[u8] = b"acme-tls/1";

/// The most challenges at one time; a certificate has at most [`OF_ONE_MAX`].
pub const CHALLENGES_MAX: usize = 1024;
/// The most identifiers of one certificate: authorities take a hundred.
pub const OF_ONE_MAX: usize = 100;
/// The longest token.
const TOKEN_BYTES_MAX: usize = 256;
/// The base64url of a SHA-256.
const THUMBPRINT_BYTES: usize = 43;
/// The longest certificate with its key.
const PARCEL_BYTES_MAX: usize = 4096;

/// The longest name with its answer.
pub const CHALLENGE_BYTES_MAX: usize = TOKEN_BYTES_MAX + PARCEL_BYTES_MAX;

/// The kind of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The name is a token, the answer the key authorization.
    Http,
    /// The name is that of the host, the answer a certificate with its key (`net/tls/parcel.rs`).
    Tls,
}

/// A change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub kind: Kind,
    /// Empty: all are removed, of both kinds.
    pub name: Box<str>,
    /// Empty: this one is removed.
    pub answer: Box<[u8]>,
}

impl Challenge {
    /// The removal of all.
    pub fn clear() -> Self {
        Self { kind: Kind::Http, name: Box::default(), answer: Box::default() }
    }

    /// The removal of this one.
    #[must_use]
    pub fn removal(&self) -> Self {
        Self { answer: Box::default(), ..self.clone() }
    }

    /// Appends it to the payload of a message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            Kind::Http => 0,
            Kind::Tls => 1,
        });
        frame::put_vector16(out, self.name.as_bytes());
        frame::put_vector16(out, &self.answer);
    }

    /// Reads the rest of a payload.
    pub fn read(mut fields: Fields<'_>) -> Option<Self> {
        let kind = match fields.u8()? {
            0 => Kind::Http,
            1 => Kind::Tls,
            _ => return None,
        };
        let name = std::str::from_utf8(fields.vector16()?).ok()?.into();
        let answer = fields.vector16()?.into();
        fields.0.is_empty().then_some(Self { kind, name, answer })
    }

    /// True if it is what ACME asks for: nothing else may be put in front of a site.
    pub fn is_plausible(&self) -> bool {
        if self.name.is_empty() {
            return *self == Self::clear();
        }
        let is_base64 = |bytes: &[u8]| {
            bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        match self.kind {
            Kind::Http => {
                let token = self.name.as_bytes();
                let thumbprint = self.answer.strip_prefix(token).and_then(|rest| rest.strip_prefix(b"."));
                let fits = |it: &[u8]| it.len() == THUMBPRINT_BYTES && is_base64(it);
                token.len() <= TOKEN_BYTES_MAX
                    && is_base64(token)
                    && (self.answer.is_empty() || thumbprint.is_some_and(fits))
            }
            Kind::Tls => {
                let is_of_name =
                    |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
                self.name.len() <= TOKEN_BYTES_MAX
                    && self.name.bytes().all(is_of_name)
                    && self.answer.len() <= PARCEL_BYTES_MAX
            }
        }
    }
}

/// The name that a validation by TLS asks for: of an address that of its reverse lookup (RFC 8738 §6).
pub fn asked_name(name: &str) -> String {
    use std::fmt::Write;
    match name.parse() {
        Ok(std::net::IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            let mut text = String::new();
            for byte in ip.octets().iter().rev() {
                let _ = write!(text, "{:x}.{:x}.", byte & 15, byte >> 4);
            }
            text + "ip6.arpa"
        }
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// The answers, by kind and name.
type Answers = BTreeMap<(Kind, Box<str>), Box<[u8]>>;

static TABLE: Mutex<Answers> = Mutex::new(BTreeMap::new());
/// Their number, so that a request need not take the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Makes a change in this process. False: there are too many.
pub fn apply(challenge: &Challenge) -> bool {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (challenge.kind, challenge.name.clone());
    let has_room = if challenge.name.is_empty() {
        table.clear();
        true
    } else if challenge.answer.is_empty() {
        table.remove(&key);
        true
    } else if table.len() < CHALLENGES_MAX || table.contains_key(&key) {
        table.insert(key, challenge.answer.clone());
        true
    } else {
        false
    };
    COUNT.store(table.len(), Ordering::Relaxed);
    has_room
}

fn find(kind: Kind, name: &str) -> Option<Box<[u8]>> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    table.get(&(kind, name.into())).cloned()
}

/// The key authorization for the token in this path.
pub fn key_authorization(path: &[u8]) -> Option<Box<[u8]>> {
    find(Kind::Http, std::str::from_utf8(path.strip_prefix(PATH)?).ok()?)
}

/// The certificate that shows the authority that this host is ours.
pub fn certificate(host: &str) -> Option<Certificate> {
    parcel::read(&find(Kind::Tls, host)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(name: &str, answer: &str) -> Challenge {
        Challenge { kind: Kind::Http, name: name.into(), answer: answer.as_bytes().into() }
    }

    #[test]
    fn only_answers_of_acme_are_plausible() {
        let thumbprint = "x".repeat(THUMBPRINT_BYTES);
        let tls = |name: &str, bytes: usize| Challenge {
            kind: Kind::Tls,
            name: name.into(),
            answer: vec![0; bytes].into(),
        };
        for (challenge, is_one) in [
            (Challenge::clear(), true),
            (http("token", &format!("token.{thumbprint}")), true),
            (http("token", ""), true),
            (http("", "x"), false),
            (http("token", &format!("other.{thumbprint}")), false),
            (http("token", "<script>"), false),
            (http("token", &format!("token.{thumbprint}x")), false),
            (http("../token", &format!("../token.{thumbprint}")), false),
            (http(&"t".repeat(257), ""), false),
            (tls("a.test", 4096), true),
            (tls("a.test", 4097), false),
            (tls("A.test", 1), false),
            (tls("a b", 1), false),
        ] {
            assert_eq!(challenge.is_plausible(), is_one, "{challenge:?}");
        }
    }

    #[test]
    fn the_table_answers_what_it_was_told_and_forgets_it() {
        let one = http("one", "one.answer");
        assert!(apply(&one));
        assert_eq!(
            key_authorization(b"/.well-known/acme-challenge/one").as_deref(),
            Some(&b"one.answer"[..])
        );
        for other in [&b"/.well-known/acme-challenge/two"[..], b"/.well-known/acme-challenge/", b"/one"] {
            assert_eq!(key_authorization(other), None);
        }
        assert!(apply(&one.removal()));
        assert_eq!(key_authorization(b"/.well-known/acme-challenge/one"), None);
        for number in 0..CHALLENGES_MAX {
            assert!(apply(&http(&format!("t{number}"), "x")));
        }
        assert!(!apply(&http("more", "x")), "too many");
        assert!(apply(&http("t0", "y")), "a known one may change");
        assert!(apply(&Challenge::clear()));
        assert_eq!(key_authorization(b"/.well-known/acme-challenge/t0"), None);
    }
}
