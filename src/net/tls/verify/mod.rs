//! Whether the certificate of a peer is trusted: for clients (`ssl_verify_client`) and upstreams
//! (`proxy_ssl_verify`). DER and a time in, a verdict out.
//!
//! A certificate is accepted by the first of three that takes it: an exact copy among the trusted ones
//! (upstreams only; "pinned"), webpki, and the path builder in [`path`], which takes what private set-ups have and
//! webpki refuses: X.509 v1, a CA that is also the server, a self-signed certificate that is trusted itself. The
//! verdict of the path builder is also the refusal, in OpenSSL's words. Each path, whoever found it, passes the
//! checks in [`path`] for depth, dates, key usage, and CRLs.
//!
//! Touches: nothing. Truth: RFC 5280 §6; OpenSSL 3.0's X509_verify_cert with the settings of nginx.

mod certificate;
mod crl;
mod der;
mod name;
pub mod ocsp;
mod path;
#[cfg(any(test, feature = "property"))]
pub mod property;
mod refusal;
mod signature;
mod verifier;

#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::fmt;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};

use self::certificate::Certificate;
use self::crl::{Crl, Crls};

pub use self::name::{Names, text};
pub use self::refusal::Refusal;
pub use self::signature::{scheme_name, supported, taken_scheme, verify_tls12, verify_tls13};
pub use self::verifier::{ClientVerifier, Mode, Refused, ServerVerifier, verdict};

/// Maximum number of certificates that we read of a peer. rustls limits their size together to 64 KiB.
pub const CHAIN_CERTIFICATES_MAX: usize = 32;

/// Who shows the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client, to us.
    Client,
    /// An upstream server, to us.
    Server,
    /// Whoever has signed an OCSP response.
    OcspSigner,
}

/// Trusted certificates and CRLs, read once for a configuration.
pub struct Trust {
    purpose: Purpose,
    depth: usize,
    certificates: Vec<Certificate>,
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
    /// The roots as webpki takes them, with their index in `certificates`.
    anchors: Vec<TrustAnchor<'static>>,
    anchor_indexes: Vec<usize>,
    crls: Crls,
}

/// A file of the configuration that cannot be used: counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// This certificate cannot be read.
    Certificate(usize),
    /// This CRL cannot be read.
    Crl(usize),
}

impl fmt::Display for TrustError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(index) => write!(out, "certificate {} cannot be read", index + 1),
            Self::Crl(index) => write!(out, "CRL {} cannot be read", index + 1),
        }
    }
}

impl std::error::Error for TrustError {}

impl fmt::Debug for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.certificates.len();
        write!(out, "Trust({:?}, {count} certificates, depth {})", self.purpose, self.depth)
    }
}

impl Trust {
    /// Reads the trusted certificates (`ssl_client_certificate` and `ssl_trusted_certificate`, or
    /// `proxy_ssl_trusted_certificate`) and the CRLs (`ssl_crl`, `proxy_ssl_crl`).
    ///
    /// `depth` counts the certificates between the peer's and the root (`ssl_verify_depth`). Without a CRL,
    /// revocation is not checked; with one, each certificate of a path needs a list of its issuer.
    pub fn new<'a>(
        purpose: Purpose,
        depth: usize,
        certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
        crls: impl IntoIterator<Item = &'a CertificateRevocationListDer<'a>>,
    ) -> Result<Self, TrustError> {
        let mut trust = Self {
            purpose,
            depth,
            certificates: Vec::new(),
            by_subject: HashMap::new(),
            anchors: Vec::new(),
            anchor_indexes: Vec::new(),
            crls: Crls::default(),
        };
        for (index, der) in certificates.into_iter().enumerate() {
            let certificate = Certificate::parse(der).map_err(|_| TrustError::Certificate(index))?;
            let known = trust.by_subject.entry(certificate.subject.clone()).or_default();
            if known.iter().any(|&other| trust.certificates[other].der() == *der) {
                continue;
            }
            let own_index = trust.certificates.len();
            known.push(own_index);
            // OpenSSL's rule without X509_V_FLAG_PARTIAL_CHAIN: only a self-signed certificate ends a path.
            if certificate.is_self_signed()
                && let Ok(anchor) = webpki::anchor_from_trusted_cert(der)
            {
                trust.anchors.push(anchor.to_owned());
                trust.anchor_indexes.push(own_index);
            }
            trust.certificates.push(certificate);
        }
        for (index, der) in crls.into_iter().enumerate() {
            trust.crls.push(Crl::parse(der).map_err(|_| TrustError::Crl(index))?);
        }
        Ok(trust)
    }

    /// The number of trusted certificates.
    pub fn certificate_count(&self) -> usize {
        self.certificates.len()
    }

    /// Whether the chain that a peer sent, its own certificate first, is trusted at `now`.
    ///
    /// Cost: at most one signature check for each certificate of a path and each of its CRLs, and webpki's
    /// own limits (100 signature checks).
    pub fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
        self.path(chain, now).map(|_| ())
    }

    /// Does the same, and returns the path: the peer's certificate, its issuers, and the root.
    pub fn path(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        if chain.is_empty() {
            return Err(Refusal::Unspecified);
        }
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(Refusal::ChainTooLong);
        }
        let parsed: Result<Vec<Certificate>, _> = chain.iter().map(|der| Certificate::parse(der)).collect();
        let parsed = parsed.map_err(|_| Refusal::Unspecified)?;
        let path = path::find(self, &parsed, chain, now)?;
        Ok(path.iter().map(|certificate| certificate.der().into_owned()).collect())
    }

    /// Whether the certificate is for `host`: a DNS name, or an address as text (`proxy_ssl_name`).
    ///
    /// A trusted copy of a certificate that names no host at all is accepted for any.
    pub fn check_name(&self, leaf: &CertificateDer<'_>, host: &str) -> Result<(), Refusal> {
        let names = Names::of(leaf);
        if names.is_empty() && self.is_pinned(leaf) {
            return Ok(());
        }
        names.check(host)
    }

    /// Whether this very certificate is among the trusted ones.
    pub fn is_pinned(&self, leaf: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|trusted| trusted.signed.der() == leaf.as_ref())
    }
}
