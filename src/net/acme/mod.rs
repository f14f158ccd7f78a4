//! Certificates from an authority that speaks ACME (RFC 8555): the plan of a configuration, and the work for it.
//!
//! The plan is plain data: the issuers, and the certificates that servers want of them. One process works for all
//! workers (`keeper.rs`): it keeps account, keys and certificates in a folder (`state.rs`), asks for new certificates
//! (`order.rs`) when it is time (`schedule.rs`), and has the workers answer the challenges (`challenges.rs`). The
//! protocol itself is the crate `instant-acme`, over a client of HTTP with limits (`client.rs`).
//! Behaviour: nginx.org, ngx_http_acme_module.

pub mod challenges;
mod client;
pub mod keeper;
mod order;
mod schedule;
mod state;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::net::resolver;

/// The issuers of a configuration, and the certificates that its servers want.
#[derive(Debug, Default)]
pub struct Plan {
    pub issuers: Vec<Issuer>,
    pub wanted: Vec<Wanted>,
}

impl Plan {
    /// True if there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The names that authorities ask for in handshakes.
    pub fn asked_names(&self) -> HashSet<Box<str>> {
        let identifiers = self.wanted.iter().flat_map(|wanted| &wanted.identifiers);
        identifiers.map(|it| challenges::asked_name(&it.to_string()).into()).collect()
    }
}

/// How an authority checks that a name leads here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// RFC 8555 §8.3.
    #[default]
    Http01,
    /// RFC 8737.
    TlsAlpn01,
}

/// An `acme_issuer`.
#[derive(Debug)]
pub struct Issuer {
    pub name: Box<str>,
    /// Of the authority's directory.
    pub uri: Box<str>,
    /// The key of the account (PKCS #8); `None`: one is made, and kept in `state_path`.
    pub account_key: Option<Zeroizing<Vec<u8>>>,
    pub method: Method,
    pub has_common_name: bool,
    /// URLs.
    pub contacts: Vec<String>,
    pub external: Option<External>,
    /// The common name of the issuer of the topmost certificate of the chain that is preferred.
    pub preferred_chain: Option<Box<str>>,
    pub profile: Option<Profile>,
    /// The authorities that its server may have a certificate of; `None`: the system's.
    pub trusted: Option<Vec<CertificateDer<'static>>>,
    /// `ssl_verify`
    pub verifies: bool,
    pub accepts_terms: bool,
    pub state_path: PathBuf,
    /// `resolver`; `None`: the system's.
    pub resolver: Option<Arc<resolver::Settings>>,
    pub resolver_timeout_ms: u64,
}

/// The key of an account outside of ACME (RFC 8555 §7.3.4).
#[derive(Clone)]
pub struct External {
    pub id: Box<str>,
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for External {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "External({})", self.id)
    }
}

/// `profile`
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: Box<str>,
    pub is_required: bool,
}

/// A name or an address that a certificate is for. The order is that of its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identifier {
    /// In lower case.
    Dns(Box<str>),
    Ip(IpAddr),
}

impl fmt::Display for Identifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => out.write_str(name),
            Self::Ip(ip) => ip.fmt(out),
        }
    }
}

/// The kind of a certificate's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    #[default]
    Ecdsa256,
    Ecdsa384,
    Ecdsa521,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl KeyKind {
    /// Its words in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ecdsa256 => "ecdsa:256",
            Self::Ecdsa384 => "ecdsa:384",
            Self::Ecdsa521 => "ecdsa:521",
            Self::Rsa2048 => "rsa:2048",
            Self::Rsa3072 => "rsa:3072",
            Self::Rsa4096 => "rsa:4096",
        }
    }
}

/// A certificate that some server wants. Servers that want the same share one.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Index of the issuer.
    pub issuer: usize,
    /// Without duplicates.
    pub identifiers: Vec<Identifier>,
    pub key: KeyKind,
    /// The name of its files without the end, the same for equal identifiers and keys.
    pub stem: Box<str>,
}

impl Wanted {
    pub fn new(issuer: usize, mut identifiers: Vec<Identifier>, key: KeyKind) -> Self {
        let mut seen = Vec::new();
        identifiers.retain(|it| {
            !seen.contains(it) && {
                seen.push(it.clone());
                true
            }
        });
        let mut sorted = identifiers.clone();
        sorted.sort();
        let text: Vec<String> = sorted.iter().map(ToString::to_string).chain([key.word().into()]).collect();
        let hash = digest::digest(&digest::SHA256, text.join(" ").as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let first = sorted.first().map(ToString::to_string).unwrap_or_default();
        // A name of a file has 255 bytes at most, a host's 253.
        let first: String = first.chars().take(200).map(|it| if it == ':' { '_' } else { it }).collect();
        Self { issuer, identifiers, key, stem: format!("{first}-{hash}").into() }
    }

    /// The identifiers for messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.identifiers.iter().map(ToString::to_string).collect();
        names.join(", ")
    }
}

/// The name of a certificate's file: key and chain, so that one rename replaces both.
pub fn file_name(stem: &str) -> String {
    format!("{stem}.pem")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str], key: KeyKind) -> Wanted {
        Wanted::new(0, names.iter().map(|name| Identifier::Dns((*name).into())).collect(), key)
    }

    #[test]
    fn equal_certificates_share_a_file_and_others_do_not() {
        let one = wanted(&["a.test", "b.test", "a.test"], KeyKind::Ecdsa256);
        assert_eq!(one.names(), "a.test, b.test");
        assert!(one.stem.starts_with("a.test-"), "{}", one.stem);
        assert_eq!(one.stem, wanted(&["b.test", "a.test"], KeyKind::Ecdsa256).stem);
        assert_ne!(one.stem, wanted(&["a.test", "b.test"], KeyKind::Rsa2048).stem);
        assert_ne!(one.stem, wanted(&["a.test"], KeyKind::Ecdsa256).stem);
        let ip = Wanted::new(0, vec![Identifier::Ip("::1".parse().expect("one"))], KeyKind::Ecdsa256);
        assert!(ip.stem.starts_with("__1-"), "{}", ip.stem);
    }
}
