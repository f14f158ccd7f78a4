//! The verifiers as rustls calls them during a handshake.
//!
//! A client's handshake always succeeds if the client has the key of its certificate: nginx answers a refused or
//! missing certificate with a page (495, 496), not with an alert. The connection asks [`verdict`] afterwards. An
//! upstream's handshake fails, and the error says which directive would help.
//! Touches: nothing. Truth: ngx_http_ssl_module, ngx_http_proxy_module (`proxy_ssl_verify`).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::signature::{self, supported};
use super::{Refusal, Trust, der};

/// `ssl_verify_client`, other than `off`: a client is asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A request needs a certificate that is trusted.
    On,
    /// A request needs no certificate, but one that is sent must be trusted.
    Optional,
    /// A certificate that is sent may have an unknown issuer.
    OptionalNoCa,
}

impl Mode {
    /// Whether nginx answers 400 (495: bad certificate) to a request whose certificate has this verdict.
    pub fn refuses(self, verdict: Result<(), Refusal>) -> bool {
        verdict.is_err_and(|refusal| self != Self::OptionalNoCa || !refusal.is_optional_no_ca())
    }

    /// Whether nginx answers 400 (496: no certificate) to a request without a certificate.
    pub fn refuses_none(self) -> bool {
        self == Self::On
    }
}

/// What a client's chain is worth. For the connection to ask when the handshake is over, with the certificates
/// that rustls kept.
pub fn verdict(trust: &Trust, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
    trust.check(chain, now)
}

/// Asks clients for a certificate, and accepts any whose key signed the handshake.
#[derive(Debug)]
pub struct ClientVerifier {
    hints: Vec<DistinguishedName>,
}

impl ClientVerifier {
    /// `certificates` are those of `ssl_client_certificate`: their names are sent to the client as a hint which
    /// certificate to choose, each once. Those of `ssl_trusted_certificate` are not.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> Self {
        let mut seen = HashSet::new();
        let hints = certificates.into_iter().filter_map(|der| subject(der));
        Self { hints: hints.filter(|name| seen.insert(name.as_ref().to_vec())).collect() }
    }
}

/// The subject of a certificate as it is encoded.
fn subject(certificate: &[u8]) -> Option<DistinguishedName> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut name = parsed.subject().as_raw();
    Some(DistinguishedName::in_sequence(der::expect(&mut name, der::SEQUENCE)?.value))
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        supported().supported_schemes()
    }
}

/// Checks the certificate of an upstream server, if `proxy_ssl_verify` is on.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Option<Arc<Trust>>,
    /// `proxy` of `proxy_ssl_verify`, or `grpc`, and so on.
    prefix: &'static str,
}

impl ServerVerifier {
    /// Without `trust` (verify off) any certificate is accepted whose key signed the handshake. `prefix` is the
    /// first word of the directives: `proxy`.
    pub fn new(trust: Option<Arc<Trust>>, prefix: &'static str) -> Self {
        Self { trust, prefix }
    }
}

/// An upstream's certificate is refused: why, and what may be done.
///
/// It is inside `rustls::Error::InvalidCertificate(CertificateError::Other(_))`.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The name that was looked for.
    pub host: String,
    prefix: &'static str,
}

impl Refused {
    /// What may be done about it, for the log.
    pub fn help(&self) -> Option<String> {
        let prefix = self.prefix;
        Some(match self.refusal {
            Refusal::SelfSigned => {
                format!("add this certificate to \"{prefix}_ssl_trusted_certificate\" to accept it")
            }
            Refusal::SelfSignedInChain => format!("add its root to \"{prefix}_ssl_trusted_certificate\""),
            Refusal::LocalIssuerMissing | Refusal::LeafSignatureUnverified | Refusal::IssuerMissing => {
                format!(
                    "add its issuers up to the root, or the certificate itself, to \
                 \"{prefix}_ssl_trusted_certificate\""
                )
            }
            Refusal::ChainTooLong => format!("raise \"{prefix}_ssl_verify_depth\""),
            Refusal::HostnameMismatch | Refusal::AddressMismatch => {
                format!("set \"{prefix}_ssl_name\" to a name of the certificate")
            }
            Refusal::CrlMissing | Refusal::CrlExpired | Refusal::CrlNotYetValid => {
                format!("\"{prefix}_ssl_crl\" needs a current list of each issuer")
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (refusal, host) = (self.refusal, &self.host);
        write!(out, "upstream certificate for \"{host}\" refused: ({}:{refusal})", refusal.number())?;
        self.help().map_or(Ok(()), |help| write!(out, "; {help}"))
    }
}

impl std::error::Error for Refused {}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let host = server_name.to_str();
        let leaf = std::iter::once(end_entity);
        let chain = leaf.chain(intermediates).map(|der| CertificateDer::from(der.as_ref()));
        let chain: Vec<_> = chain.collect();
        match trust.check(&chain, now).and_then(|()| trust.check_name(end_entity, &host)) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => {
                let refused = Refused { refusal, host: host.into_owned(), prefix: self.prefix };
                Err(CertificateError::Other(OtherError(Arc::new(refused))).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        supported().supported_schemes()
    }
}
