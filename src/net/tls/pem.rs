//! PEM files as operators have them: certificates, revocation lists, private keys, passwords.
//!
//! Touches: nothing; bytes in, values out. Text outside of blocks is skipped, CRLF is accepted, and blocks of
//! other kinds may stand in the same file. rustls-pki-types reads neither the headers of encrypted keys nor
//! the labels of old files, therefore the blocks are cut here. Cost: linear in the input, which is bounded.
//! Format: RFC 7468, and RFC 1421 for the headers `Proc-Type` and `DEK-Info`. Which labels count is OpenSSL's
//! rule (PEM_read_bio_X509_AUX, PEM_read_bio_PrivateKey).

use std::fmt;

use pkcs8::der::{Decode, SliceReader, asn1::AnyRef};
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

use super::encrypted_key::{self, Costs};
use crate::base::base64;

/// Largest file of certificates or revocation lists; the lists of large authorities reach tens of megabytes.
pub const FILE_BYTES_MAX: usize = 64 << 20;
/// Largest file with a private key. Some hold the whole chain too.
pub const KEY_FILE_BYTES_MAX: usize = 1 << 20;
/// Longest line of `ssl_password_file`, as in nginx.
pub const PASSWORD_BYTES_MAX: usize = 4096;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Kinds of keys that people have in files and that TLS on rustls cannot sign with.
const UNSUPPORTED_KEYS: [(ObjectIdentifier, &str); 7] = [
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"), "RSA-PSS"),
    (ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"), "DSA"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.3.1"), "DH"),
    (ObjectIdentifier::new_unwrap("1.3.101.110"), "X25519"),
    (ObjectIdentifier::new_unwrap("1.3.101.111"), "X448"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448"),
    (ObjectIdentifier::new_unwrap("1.2.156.10197.1.301"), "SM2"),
];

const CURVES: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
    ObjectIdentifier::new_unwrap("1.3.132.0.34"),
    ObjectIdentifier::new_unwrap("1.3.132.0.35"),
];

/// Why a file is of no use. No variant contains bytes of a key or a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is longer than the limit, which is given in bytes.
    TooLarge(usize),
    /// A block has no end line, or another block begins inside; the number of its first line, from 1.
    Unclosed {
        line: usize,
    },
    /// A block is not base64; the number of its first line, from 1.
    NotBase64 {
        line: usize,
    },
    /// The bytes of a block are not what its label says; the number of its first line, from 1.
    NotDer {
        line: usize,
    },
    NoCertificate,
    NoRevocationList,
    NoKey,
    /// The key is encrypted, and there is no password to try.
    Encrypted,
    /// The key is encrypted, and none of the passwords fits.
    NoPasswordFits,
    /// The key has a kind that rustls does not sign with.
    UnsupportedKey(String),
    /// The key is encrypted in a way that is not supported.
    UnsupportedEncryption(String),
    /// Deriving the key from a password would take too long or too much memory ([`Costs`]).
    CostlyEncryption,
    /// A line of the password file is longer than [`PASSWORD_BYTES_MAX`].
    LongPassword,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(max) => write!(f, "the file is larger than {max} bytes"),
            Self::Unclosed { line } => write!(f, "the PEM block of line {line} has no matching END line"),
            Self::NotBase64 { line } => write!(f, "the PEM block of line {line} is not base64"),
            Self::NotDer { line } => {
                write!(f, "the PEM block of line {line} does not contain what its label says")
            }
            Self::NoCertificate => {
                f.write_str("there is no certificate in it (\"-----BEGIN CERTIFICATE-----\")")
            }
            Self::NoRevocationList => {
                f.write_str("there is no revocation list in it (\"-----BEGIN X509 CRL-----\")")
            }
            Self::NoKey => f.write_str("there is no private key in it (\"-----BEGIN PRIVATE KEY-----\")"),
            Self::Encrypted => f.write_str(
                "the private key is encrypted: name a file with its password in \"ssl_password_file\"",
            ),
            Self::NoPasswordFits => {
                f.write_str("the private key is encrypted, and no password of \"ssl_password_file\" fits")
            }
            Self::UnsupportedKey(kind) => write!(
                f,
                "private keys of the kind {kind} are not supported: use RSA, ECDSA (P-256, P-384, P-521) or Ed25519"
            ),
            Self::UnsupportedEncryption(kind) => write!(
                f,
                "the private key is encrypted with {kind}, which is not supported: encrypt it anew with \
                 \"openssl pkcs8 -topk8 -v2 aes-256-cbc\""
            ),
            Self::CostlyEncryption => f.write_str(
                "deriving the private key from its password would take too long: encrypt it anew with \
                 \"openssl pkcs8 -topk8 -v2 aes-256-cbc\"",
            ),
            Self::LongPassword => write!(f, "a line is longer than {PASSWORD_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for Error {}

/// The lines of an `ssl_password_file`, tried in their order. Zeroised on drop, not printable.
#[derive(Clone, Default)]
pub struct Passwords(Vec<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({})", self.0.len())
    }
}

impl Passwords {
    /// Reads the lines of a password file as nginx does: each ends with LF, CRLF or the end of the file, and
    /// empty ones are skipped. All other bytes belong to the password, spaces included.
    pub fn read(data: &[u8]) -> Result<Self, Error> {
        let mut passwords = Vec::new();
        for line in data.split(|byte| *byte == b'\n') {
            if line.len() >= PASSWORD_BYTES_MAX {
                return Err(Error::LongPassword);
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                passwords.push(Zeroizing::new(line.to_vec()));
            }
        }
        Ok(Self(passwords))
    }

    /// True if there is no password to try.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The passwords in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|password| password.as_slice())
    }
}

/// All certificates of a file in their order: the server's own first, then its chain, in a file of
/// `ssl_certificate`. A "TRUSTED CERTIFICATE" is cut before OpenSSL's trust settings, which are ignored.
///
/// Errors: [`Error::NoCertificate`] if there is none, and what is wrong with a block of certificates.
pub fn certificates(data: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut found = Vec::new();
    for block in Blocks::new(data, FILE_BYTES_MAX)? {
        let block = block?;
        let is_trusted = block.label == b"TRUSTED CERTIFICATE";
        if is_trusted || matches!(block.label, b"CERTIFICATE" | b"X509 CERTIFICATE") {
            found.push(CertificateDer::from(block.sequence(is_trusted)?));
        }
    }
    if found.is_empty() { Err(Error::NoCertificate) } else { Ok(found) }
}

/// All certificate revocation lists of a file (`ssl_crl`, `proxy_ssl_crl`).
///
/// Errors: [`Error::NoRevocationList`] if there is none, and what is wrong with a block of them.
pub fn revocation_lists(data: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let mut found = Vec::new();
    for block in Blocks::new(data, FILE_BYTES_MAX)? {
        let block = block?;
        if block.label == b"X509 CRL" {
            found.push(CertificateRevocationListDer::from(block.sequence(false)?));
        }
    }
    if found.is_empty() { Err(Error::NoRevocationList) } else { Ok(found) }
}

/// The first private key of a file, decrypted if necessary with the first of `passwords` that fits.
///
/// The bytes are zeroised on drop. The key's numbers are not checked: rustls does that when it takes the key.
/// Errors: all variants that name a key.
pub fn private_key(data: &[u8], passwords: &Passwords) -> Result<Zeroizing<PrivateKeyDer<'static>>, Error> {
    private_key_within(data, passwords, Costs::default())
}

/// Like [`private_key`], with other limits for deriving keys from passwords.
pub fn private_key_within(
    data: &[u8],
    passwords: &Passwords,
    costs: Costs,
) -> Result<Zeroizing<PrivateKeyDer<'static>>, Error> {
    for block in Blocks::new(data, KEY_FILE_BYTES_MAX)? {
        let block = block?;
        let key = match block.label {
            b"PRIVATE KEY" => pkcs8(&block.plain(passwords)?, block.line)?,
            b"ENCRYPTED PRIVATE KEY" => {
                let key = encrypted_key::pkcs8(&block.decoded()?, block.line, passwords, costs)?;
                pkcs8(&key, block.line)?
            }
            b"RSA PRIVATE KEY" => {
                let key = block.plain(passwords)?;
                PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.to_vec()))
            }
            b"EC PRIVATE KEY" => {
                let key = block.plain(passwords)?;
                PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key.to_vec()))
            }
            b"DSA PRIVATE KEY" => return Err(Error::UnsupportedKey("DSA".to_owned())),
            b"OPENSSH PRIVATE KEY" => return Err(Error::UnsupportedKey("OpenSSH".to_owned())),
            // "EC PARAMETERS" before the key, certificates, DH parameters.
            _ => continue,
        };
        return Ok(Zeroizing::new(key));
    }
    Err(Error::NoKey)
}

/// Takes a PKCS#8 key of a kind that rustls signs with.
fn pkcs8(der: &[u8], line: usize) -> Result<PrivateKeyDer<'static>, Error> {
    let info = PrivateKeyInfoRef::from_der(der).map_err(|_| Error::NotDer { line })?;
    let kind = info.algorithm.oid;
    if let Some((_, name)) = UNSUPPORTED_KEYS.iter().find(|(known, _)| *known == kind) {
        return Err(Error::UnsupportedKey((*name).to_owned()));
    }
    if kind == EC {
        // A curve that is written out has no name here; aws-lc compares its numbers.
        let curve = info.algorithm.parameters.and_then(|named| named.decode_as::<ObjectIdentifier>().ok());
        if let Some(curve) = curve.filter(|curve| !CURVES.contains(curve)) {
            return Err(Error::UnsupportedKey(format!("EC on the curve {curve}")));
        }
    } else if kind != RSA && kind != ED25519 && !kind.to_string().starts_with("2.16.840.1.101.3.4.3.") {
        // The last are the signature algorithms of NIST, ML-DSA among them: rustls decides.
        return Err(Error::UnsupportedKey(kind.to_string()));
    }
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec())))
}

/// True if `der` is one SEQUENCE and nothing else: a decrypted key that is not was decrypted wrongly.
pub(super) fn is_sequence(der: &[u8]) -> bool {
    sequence_bytes(der) == Some(der.len())
}

/// The length of the SEQUENCE that `der` begins with, head included.
fn sequence_bytes(der: &[u8]) -> Option<usize> {
    if der.first() != Some(&0x30) {
        return None;
    }
    let mut reader = SliceReader::new(der).ok()?;
    AnyRef::decode(&mut reader).ok()?;
    usize::try_from(pkcs8::der::Reader::position(&reader)).ok()
}

/// The name and the value of a header.
type Header<'a> = (&'a [u8], &'a [u8]);

/// A block: its label, its headers and its text, none of them decoded yet.
struct Block<'a> {
    label: &'a [u8],
    /// The text between the lines BEGIN and END.
    text: &'a [u8],
    /// The line of its BEGIN, from 1.
    line: usize,
}

impl<'a> Block<'a> {
    /// The headers of RFC 1421 as `name: value` lines, and the base64 below them.
    fn parts(&self) -> (Vec<Header<'a>>, &'a [u8]) {
        let mut headers = Vec::new();
        let mut rest = self.text;
        while let Some((line, below)) = split_line(rest) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
            headers.push((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()));
            rest = below;
        }
        (headers, rest)
    }

    fn decoded(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (_, text) = self.parts();
        let error = Error::NotBase64 { line: self.line };
        let mut joined = Zeroizing::new(Vec::with_capacity(text.len()));
        joined.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let padding = joined.iter().rev().take_while(|byte| **byte == b'=').count();
        let is_whole = joined.len().is_multiple_of(4) && padding <= 2 && !joined.is_empty();
        let is_split = joined[..joined.len() - padding].contains(&b'=');
        if !is_whole || is_split {
            return Err(error);
        }
        base64::decode(&joined).map(Zeroizing::new).ok_or(error)
    }

    /// The bytes of one SEQUENCE. `has_more`: other bytes may follow it, which are cut off.
    fn sequence(&self, has_more: bool) -> Result<Vec<u8>, Error> {
        let mut der = self.decoded()?;
        match sequence_bytes(&der) {
            Some(length) if length == der.len() || has_more => {
                der.truncate(length);
                Ok(std::mem::take(&mut *der))
            }
            _ => Err(Error::NotDer { line: self.line }),
        }
    }

    /// The bytes of a key, decrypted if the headers say that it is encrypted.
    fn plain(&self, passwords: &Passwords) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (headers, _) = self.parts();
        let header = |name: &[u8]| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let der = match header(b"Proc-Type") {
            Some(value) if value.ends_with(b"ENCRYPTED") => {
                let how = header(b"DEK-Info").ok_or(Error::NotDer { line: self.line })?;
                encrypted_key::legacy(how, &self.decoded()?, self.line, passwords)?
            }
            _ => self.decoded()?,
        };
        if is_sequence(&der) { Ok(der) } else { Err(Error::NotDer { line: self.line }) }
    }
}

/// The blocks of a file, one after the other.
struct Blocks<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Blocks<'a> {
    fn new(data: &'a [u8], bytes_max: usize) -> Result<Self, Error> {
        if data.len() > bytes_max {
            return Err(Error::TooLarge(bytes_max));
        }
        // Editors of other systems put a byte order mark in front.
        Ok(Self { rest: data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data), line: 0 })
    }

    fn next_line(&mut self) -> Option<&'a [u8]> {
        let (line, rest) = split_line(self.rest)?;
        self.rest = rest;
        self.line += 1;
        Some(line)
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let label = loop {
            if let Some(label) = label(self.next_line()?, b"-----BEGIN ") {
                break label;
            }
        };
        let (line, start) = (self.line, self.rest);
        loop {
            let text_bytes = start.len() - self.rest.len();
            let Some(next) = self.next_line() else {
                return Some(Err(Error::Unclosed { line }));
            };
            if label_end(next) == Some(label) {
                return Some(Ok(Block { label, text: &start[..text_bytes], line }));
            }
            if next.starts_with(b"-----") {
                self.rest = &[];
                return Some(Err(Error::Unclosed { line }));
            }
        }
    }
}

fn label_end(line: &[u8]) -> Option<&[u8]> {
    label(line, b"-----END ")
}

fn label<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    line.trim_ascii_end().strip_prefix(start)?.strip_suffix(b"-----")
}

/// The first line without its end, and what follows it.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
    Some((&text[..end], text.get(end + 1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
