//! A certificate with its key: loaded, checked against each other, ready for handshakes.
//!
//! Touches: `pem`, rustls' key types, x509-parser for names and dates. No file, no clock: whoever loads it
//! compares the dates.
//! Directives: `ssl_certificate`, `ssl_certificate_key`, `ssl_stapling_file`, `proxy_ssl_certificate`.

use std::fmt;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::sign::{any_ecdsa_type, any_eddsa_type, any_supported_type};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::pem::{self, Passwords};

/// A chain, its private key, and what others ask about it. Cloning shares the key.
///
/// `Debug` shows names and dates only; rustls' keys do not print their bytes.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Box<[Box<str>]>,
    not_before_s: i64,
    not_after_s: i64,
    kind: KeyKind,
    fingerprint: [u8; 32],
    is_pending: bool,
}

/// The kind of a private key, as far as clients can choose between certificates by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    Rsa,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    /// A kind that rustls takes and that has no name here, such as ML-DSA.
    Other,
}

impl KeyKind {
    /// True for all kinds of ECDSA keys.
    pub fn is_ecdsa(self) -> bool {
        matches!(self, Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521)
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::EcdsaP521 => "ECDSA P-521",
            Self::Ed25519 => "Ed25519",
            Self::Other => "another kind",
        })
    }
}

/// Why a certificate and a key cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file of the certificates.
    Certificate(pem::Error),
    /// The file of the private key.
    Key(pem::Error),
    /// A certificate of the chain that does not parse; the first is 0.
    Malformed { index: usize },
    /// The key belongs to another certificate.
    Mismatch,
    /// rustls does not take the key: its numbers are wrong, or it is too short.
    KeyRejected(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) | Self::Key(error) => error.fmt(f),
            Self::Malformed { index: 0 } => f.write_str("the first certificate is malformed"),
            Self::Malformed { index } => write!(f, "certificate {} of the chain is malformed", index + 1),
            Self::Mismatch => f.write_str(
                "the private key does not belong to the first certificate of the chain (key values mismatch)",
            ),
            Self::KeyRejected(reason) => write!(f, "the private key cannot be used: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// True if the fault is in the file of the key, or in the pair of both.
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Mismatch | Self::KeyRejected(_))
    }
}

impl Certificate {
    /// Loads the chain of `certificates` and the key of `key`, both PEM; they may be the same file.
    ///
    /// Checks that all certificates parse, with their dates, and that the key belongs to the first. Does not
    /// check signatures, nor that the dates are now. X.509 v1 is accepted: clients decide.
    pub fn from_pem(certificates: &[u8], key: &[u8], passwords: &Passwords) -> Result<Self, Error> {
        let chain = pem::certificates(certificates).map_err(Error::Certificate)?;
        let der = pem::private_key(key, passwords).map_err(Error::Key)?;
        Self::from_der(chain, &der)
    }

    /// The same, and whether the key is encrypted.
    pub fn from_pem_noting(
        certificates: &[u8],
        key: &[u8],
        passwords: &Passwords,
    ) -> Result<(Self, bool), Error> {
        match Self::from_pem(certificates, key, &Passwords::default()) {
            Err(Error::Key(pem::Error::Encrypted)) => {
                Ok((Self::from_pem(certificates, key, passwords)?, true))
            }
            outcome => Ok((outcome?, false)),
        }
    }

    /// The same of DER: a chain, and a key that is not encrypted.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, der: &PrivateKeyDer<'_>) -> Result<Self, Error> {
        let mut facts = Facts::of(&chain)?;
        let key = signing_key(der, facts.kind)?;
        if let Some(public) = key.public_key() {
            let (_, public) = SubjectPublicKeyInfo::from_der(&public).map_err(|_| Error::Mismatch)?;
            // The algorithm is not compared: people write its parameters in several ways.
            if *public.subject_public_key.data != *facts.public_key {
                return Err(Error::Mismatch);
            }
            facts.kind = key_kind(&public);
        }
        let Facts { names, not_before_s, not_after_s, kind, .. } = facts;
        let mut fingerprint = [0; 32];
        let leaf = chain.first().ok_or(Error::Certificate(pem::Error::NoCertificate))?;
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, leaf).as_ref());
        let key = Arc::new(CertifiedKey::new(chain, key));
        Ok(Self { key, names, not_before_s, not_after_s, kind, fingerprint, is_pending: false })
    }

    /// Stands for a certificate that is not there yet: no handshake is made with it.
    ///
    /// # Panics
    /// If no key can be made, which takes random numbers and memory only.
    pub fn pending() -> Self {
        static PENDING: LazyLock<Certificate> = LazyLock::new(|| {
            let made = rcgen::generate_simple_self_signed(Vec::new()).expect("there are random numbers");
            let der = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
            let chain = vec![made.cert.der().clone()];
            let own = Certificate::from_der(chain, &der).expect("it was just made");
            Certificate { is_pending: true, ..own }
        });
        PENDING.clone()
    }

    /// True for [`Certificate::pending`].
    pub fn is_pending(&self) -> bool {
        self.is_pending
    }

    /// The same certificate with an OCSP response (DER) that handshakes staple; an empty one staples nothing.
    #[must_use]
    pub fn with_ocsp(mut self, response: Vec<u8>) -> Self {
        let mut key = CertifiedKey::clone(&self.key);
        key.ocsp = Some(response).filter(|response| !response.is_empty());
        self.key = Arc::new(key);
        self
    }

    /// The certificates in the order of the file, the server's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// What rustls' resolvers return. It owns the chain too, which is kept once.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The DNS names of the subjectAltName in lower case, wildcards included; without any, the common name.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The begin of its validity in seconds since 1970.
    pub fn not_before_s(&self) -> i64 {
        self.not_before_s
    }

    /// The end of its validity in seconds since 1970.
    pub fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    pub fn key_kind(&self) -> KeyKind {
        self.kind
    }

    /// The SHA-256 of the first certificate.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("kind", &self.kind)
            .field("not_before_s", &self.not_before_s)
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}

/// Takes a key that is probably of this kind. rustls tries RSA first, and aws-lc checks a key before it looks at
/// its kind: asking for the right one first takes half the time.
fn signing_key(der: &PrivateKeyDer<'_>, kind: KeyKind) -> Result<Arc<dyn SigningKey>, Error> {
    let likely = match (kind, der) {
        (kind, _) if kind.is_ecdsa() => any_ecdsa_type(der).ok(),
        (KeyKind::Ed25519, PrivateKeyDer::Pkcs8(der)) => any_eddsa_type(der).ok(),
        _ => None,
    };
    match likely {
        Some(key) => Ok(key),
        None => any_supported_type(der).map_err(|error| Error::KeyRejected(reason(der, &error))),
    }
}

/// rustls tries one kind after the other, and reports only that none fits.
fn reason(der: &PrivateKeyDer<'_>, error: &rustls::Error) -> String {
    match der {
        PrivateKeyDer::Sec1(_) => "it is malformed, or its curve is none of P-256, P-384, P-521".to_owned(),
        PrivateKeyDer::Pkcs1(_) => {
            "it is malformed, or it has less than 2048 or more than 8192 bits".to_owned()
        }
        PrivateKeyDer::Pkcs8(_) => {
            "it is malformed, or it has less than 2048 or more than 8192 bits (RSA)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What a chain says about itself.
struct Facts {
    names: Box<[Box<str>]>,
    not_before_s: i64,
    not_after_s: i64,
    kind: KeyKind,
    public_key: Box<[u8]>,
}

impl Facts {
    fn of(chain: &[CertificateDer<'_>]) -> Result<Self, Error> {
        let mut first = None;
        for (index, der) in chain.iter().enumerate() {
            let malformed = Error::Malformed { index };
            let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| malformed.clone())?;
            if !rest.is_empty() {
                return Err(malformed);
            }
            if index == 0 {
                first = Some(Self {
                    names: names(&parsed).ok_or(malformed)?,
                    not_before_s: parsed.validity().not_before.timestamp(),
                    not_after_s: parsed.validity().not_after.timestamp(),
                    kind: key_kind(parsed.public_key()),
                    public_key: parsed.public_key().subject_public_key.data.as_ref().into(),
                });
            }
        }
        first.ok_or(Error::Certificate(pem::Error::NoCertificate))
    }
}

/// `None`: the subjectAltName is malformed or there are two.
fn names(certificate: &X509Certificate<'_>) -> Option<Box<[Box<str>]>> {
    let lower = |name: &str| name.to_ascii_lowercase().into_boxed_str();
    let mut names: Vec<Box<str>> = Vec::new();
    if let Some(alternatives) = certificate.subject_alternative_name().ok()? {
        for name in &alternatives.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(lower(name));
            }
        }
    }
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(lower));
    }
    Some(names.into())
}

fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> KeyKind {
    let algorithm = &key.algorithm.algorithm;
    let curve = || key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        KeyKind::Rsa
    } else if *algorithm == oid::OID_SIG_ED25519 {
        KeyKind::Ed25519
    } else if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        match curve() {
            Some(curve) if curve == oid::OID_EC_P256 => KeyKind::EcdsaP256,
            Some(curve) if curve == oid::OID_NIST_EC_P384 => KeyKind::EcdsaP384,
            Some(curve) if curve == oid::OID_NIST_EC_P521 => KeyKind::EcdsaP521,
            _ => KeyKind::Other,
        }
    } else {
        KeyKind::Other
    }
}

#[cfg(test)]
mod tests;
