//! What `ssl_protocols`, `ssl_ciphers`, `ssl_ecdh_curve` and `ssl_conf_command` select of what rustls has.
//!
//! Touches: rustls' aws-lc-rs provider. Values in, values out: words that nginx and OpenSSL accept and rustls
//! has no counterpart for come back as notes ([`Dropped`]), and an error says what to write instead.
//! Behaviour: nginx.org, ngx_http_ssl_module; OpenSSL's SSL_CTX_set1_groups_list and SSL_CONF_cmd.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use super::ciphers;

/// A selection, and the words that select nothing here.
#[derive(Clone, Debug)]
pub struct Choice<T> {
    pub value: T,
    pub dropped: Vec<Dropped>,
}

/// A word that nginx and OpenSSL know and that has no effect here; a note for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub word: String,
    pub reason: Reason,
}

/// Why a word has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A version of the protocol below TLS 1.2.
    OldProtocol,
    /// Anything but ECDHE with a certificate.
    KeyExchange,
    /// Anything but AES-GCM and ChaCha20-Poly1305.
    Cipher,
    /// A suite of TLS 1.3 in a list for TLS 1.2.
    Tls13Suite,
    /// `@SECLEVEL`: what the usual levels forbid is not there at all.
    SecurityLevel,
    /// DEFAULT in the middle of a list.
    OnlyFirst,
    /// A word after `!` that OpenSSL does not know either.
    Unknown,
    /// A group that rustls does not have.
    Group,
    /// A command or option that changes nothing in rustls.
    NoEffect,
}

impl Dropped {
    pub(super) fn new(word: &str, reason: Reason) -> Self {
        Self { word: word.to_owned(), reason }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            Reason::OldProtocol => "only TLS 1.2 and 1.3 are supported",
            Reason::KeyExchange => "of key exchanges only ECDHE with a certificate is supported",
            Reason::Cipher => "of ciphers only AES-GCM and CHACHA20-POLY1305 are supported",
            Reason::Tls13Suite => "suites of TLS 1.3 are selected with \"ssl_conf_command Ciphersuites\"",
            Reason::SecurityLevel => {
                "ciphers that levels up to 3 forbid are not supported, keys have no levels"
            }
            Reason::OnlyFirst => "it counts at the beginning of the list only",
            Reason::Unknown => "no cipher has this name",
            Reason::Group => {
                "of groups only X25519MLKEM768, SecP256r1MLKEM768, MLKEM768, MLKEM1024, X25519, P-256 and P-384 \
                 are supported"
            }
            Reason::NoEffect => "it has no effect here",
        };
        write!(f, "\"{}\" is ignored: {reason}", self.word)
    }
}

/// Why a directive cannot be used as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// OpenSSL does not know the word either. `kind` says what it should be: "protocol".
    Unknown { kind: &'static str, word: String },
    /// A character that has no meaning in a list of ciphers, or `@` with something unknown.
    Malformed { word: String },
    /// Only versions below TLS 1.2.
    OldProtocols,
    /// `MinProtocol` or `MaxProtocol` exclude all of `ssl_protocols`.
    NoProtocol,
    /// No cipher suite for TLS 1.2.
    NoCipher,
    /// No cipher suite for TLS 1.3.
    NoCiphersuite,
    /// No group for the key exchange.
    NoGroup,
    /// A command that a directive of nginx does better.
    UseDirective { command: &'static str, directive: &'static str },
    /// The value of a command.
    Value { command: &'static str, value: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { kind, word } => write!(f, "there is no {kind} \"{word}\""),
            Self::Malformed { word } => write!(f, "\"{word}\" is malformed in a list of ciphers"),
            Self::OldProtocols => f.write_str(
                "TLS before 1.2 is not supported, since its ciphers are broken: write \"TLSv1.2 TLSv1.3\"",
            ),
            Self::NoProtocol => f.write_str(
                "no protocol is left: let \"MinProtocol\" and \"MaxProtocol\" include TLSv1.2 or TLSv1.3 of \
                 \"ssl_protocols\"",
            ),
            Self::NoCipher => f.write_str(
                "no cipher is left, since only ECDHE with AES-GCM or CHACHA20-POLY1305 is supported: write \
                 \"HIGH:!aNULL:!MD5\" or \"EECDH+AESGCM:EECDH+CHACHA20\"",
            ),
            Self::NoCiphersuite => f.write_str(
                "no cipher is left for TLS 1.3: write \
                 \"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256\"",
            ),
            Self::NoGroup => f.write_str(
                "no group is left: write \"auto\" or \"X25519MLKEM768:X25519:prime256v1:secp384r1\"",
            ),
            Self::UseDirective { command, directive } => {
                write!(f, "the command \"{command}\" is not supported: use the directive \"{directive}\"")
            }
            Self::Value { command, value } => write!(f, "\"{value}\" is no value of \"{command}\""),
        }
    }
}

impl std::error::Error for Error {}

/// The versions of TLS that are on; at least one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols {
    pub tls12: bool,
    pub tls13: bool,
}

impl Protocols {
    /// For rustls' builders.
    pub fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
        match (self.tls13, self.tls12) {
            (true, true) => BOTH,
            (true, false) => &BOTH[..1],
            _ => &BOTH[1..],
        }
    }
}

/// The words of `ssl_protocols`. Lists from the time of TLS 1.0 keep running: what is left must not be empty.
pub fn protocols<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Choice<Protocols>, Error> {
    let mut value = Protocols { tls12: false, tls13: false };
    let mut dropped = Vec::new();
    for word in words {
        match word {
            "TLSv1.3" => value.tls13 = true,
            "TLSv1.2" => value.tls12 = true,
            "SSLv2" | "SSLv3" | "TLSv1" | "TLSv1.1" => dropped.push(Dropped::new(word, Reason::OldProtocol)),
            _ => return Err(Error::Unknown { kind: "protocol", word: word.to_owned() }),
        }
    }
    if value.tls12 || value.tls13 { Ok(Choice { value, dropped }) } else { Err(Error::OldProtocols) }
}

/// The groups of `auto`, and without any list: the hybrid with ML-KEM first.
pub fn default_groups() -> Vec<&'static dyn SupportedKxGroup> {
    vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1]
}

/// The names of groups that rustls has, in lower case.
const GROUPS: [(&[&str], &dyn SupportedKxGroup); 7] = [
    (&["x25519mlkem768"], kx_group::X25519MLKEM768),
    (&["secp256r1mlkem768"], kx_group::SECP256R1MLKEM768),
    (&["mlkem768"], kx_group::MLKEM768),
    (&["mlkem1024"], kx_group::MLKEM1024),
    (&["x25519", "ecdh_x25519"], kx_group::X25519),
    (&["p-256", "prime256v1", "secp256r1"], kx_group::SECP256R1),
    (&["p-384", "secp384r1"], kx_group::SECP384R1),
];

/// The names of groups that only OpenSSL has, in lower case.
const OTHER_GROUPS: [&str; 58] = [
    "p-521",
    "secp521r1",
    "x448",
    "mlkem512",
    "secp384r1mlkem1024",
    "curvesm2",
    "curvesm2mlkem768",
    "x25519kyber768draft00",
    "brainpoolp256r1",
    "brainpoolp384r1",
    "brainpoolp512r1",
    "brainpoolp256r1tls13",
    "brainpoolp384r1tls13",
    "brainpoolp512r1tls13",
    "ffdhe2048",
    "ffdhe3072",
    "ffdhe4096",
    "ffdhe6144",
    "ffdhe8192",
    "p-224",
    "p-192",
    "prime192v1",
    "secp192r1",
    "secp192k1",
    "secp224r1",
    "secp224k1",
    "secp256k1",
    "secp160k1",
    "secp160r1",
    "secp160r2",
    "sect163k1",
    "sect163r1",
    "sect163r2",
    "sect193r1",
    "sect193r2",
    "sect233k1",
    "sect233r1",
    "sect239k1",
    "sect283k1",
    "sect283r1",
    "sect409k1",
    "sect409r1",
    "sect571k1",
    "sect571r1",
    "k-163",
    "k-233",
    "k-283",
    "k-409",
    "k-571",
    "b-163",
    "b-233",
    "b-283",
    "b-409",
    "b-571",
    "gc256a",
    "gc256b",
    "gc256c",
    "gc256d",
];

/// The list of `ssl_ecdh_curve` or `ssl_conf_command Groups`: names with `:` between them, or `auto`.
///
/// OpenSSL 3.5 puts marks before names (`?` may be unknown, `*` send a key share, `-` remove) and `/` between
/// groups of equal rank: the marks for key shares and ranks are ignored.
pub fn groups(list: &str) -> Result<Choice<Vec<&'static dyn SupportedKxGroup>>, Error> {
    let mut value: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let mut dropped = Vec::new();
    for part in list.split([':', '/']) {
        let word = part.trim_start_matches(['?', '*', '-']);
        let marks = &part[..part.len() - word.len()];
        let name = word.to_ascii_lowercase();
        let found = match GROUPS.iter().find(|(names, _)| names.contains(&name.as_str())) {
            Some((_, group)) => vec![*group],
            None if matches!(name.as_str(), "auto" | "default") => default_groups(),
            None if OTHER_GROUPS.contains(&name.as_str()) || marks.contains('?') => {
                dropped.push(Dropped::new(word, Reason::Group));
                continue;
            }
            None => return Err(Error::Unknown { kind: "group", word: word.to_owned() }),
        };
        for group in found {
            let at = value.iter().position(|known| known.name() == group.name());
            match at {
                Some(at) if marks.contains('-') => drop(value.remove(at)),
                None if !marks.contains('-') => value.push(group),
                _ => {}
            }
        }
    }
    if value.is_empty() { Err(Error::NoGroup) } else { Ok(Choice { value, dropped }) }
}

/// All that a server or an upstream selects. `ssl_conf_command` changes it ([`super::conf_command::apply`]).
#[derive(Clone, Debug)]
pub struct Selected {
    pub protocols: Protocols,
    /// Suites of TLS 1.2, the preferred one first.
    pub ciphers: Vec<SupportedCipherSuite>,
    /// Suites of TLS 1.3, the preferred one first.
    pub ciphersuites: Vec<SupportedCipherSuite>,
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// `Options ServerPreference`; `None`: `ssl_prefer_server_ciphers` decides.
    pub server_preference: Option<bool>,
    /// `Options PrioritizeChaCha`.
    pub prioritizes_chacha: bool,
    /// `Options SessionTicket`; `None`: `ssl_session_tickets` decides.
    pub session_tickets: Option<bool>,
    /// `NumTickets`: tickets after each handshake of TLS 1.3; `None`: our default.
    pub ticket_count: Option<usize>,
    /// `Options TxCertificateCompression`; `None`: `ssl_certificate_compression` decides.
    pub certificate_compression: Option<bool>,
}

impl Default for Selected {
    /// nginx's defaults: TLS 1.2 and 1.3, `HIGH:!aNULL:!MD5`, `auto`.
    fn default() -> Self {
        Self {
            protocols: Protocols { tls12: true, tls13: true },
            ciphers: ciphers::default_ciphers(),
            ciphersuites: ciphers::default_ciphersuites(),
            groups: default_groups(),
            server_preference: None,
            prioritizes_chacha: false,
            session_tickets: None,
            ticket_count: None,
            certificate_compression: None,
        }
    }
}

/// The suites and the groups of a provider, by their numbers.
type Key = (Vec<u16>, Vec<u16>);

/// Providers that are in use.
static PROVIDERS: Mutex<Vec<(Key, Weak<CryptoProvider>)>> = Mutex::new(Vec::new());

/// rustls' provider with these suites and groups. Equal selections share one for as long as it is in use: a
/// thousand servers differ in certificates only.
pub fn provider(selected: &Selected) -> Arc<CryptoProvider> {
    let Selected { protocols, ciphers, ciphersuites, groups, .. } = selected;
    let suites13 = ciphersuites.iter().filter(|_| protocols.tls13);
    let suites: Vec<SupportedCipherSuite> =
        suites13.chain(ciphers.iter().filter(|_| protocols.tls12)).copied().collect();
    let key: Key = (
        suites.iter().map(|suite| suite.suite().into()).collect(),
        groups.iter().map(|group| group.name().into()).collect(),
    );
    let mut known = PROVIDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|(other, _)| *other == key).and_then(|(_, provider)| provider.upgrade());
    if let Some(provider) = found {
        return provider;
    }
    known.retain(|(_, provider)| provider.strong_count() > 0);
    let provider = Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: groups.clone(),
        ..aws_lc_rs::default_provider()
    });
    known.push((key, Arc::downgrade(&provider)));
    provider
}

#[cfg(test)]
mod tests;
