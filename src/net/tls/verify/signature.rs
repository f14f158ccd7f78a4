//! The signature of a handshake, checked with the key of the peer's certificate as our own reader finds it.
//!
//! rustls reads the certificate by webpki, which refuses X.509 v1 and some others; a handshake with such a
//! certificate would fail before anyone could look whether it is trusted.
//! Touches: nothing. Truth: RFC 8446 §4.4.3, RFC 5246 §4.7 and §7.4.8.

use std::cell::Cell;
use std::sync::LazyLock;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::{CERTIFICATE_BYTES_MAX, PublicKey};

thread_local! {
    /// The scheme of the last handshake signature that was verified.
    static SCHEME: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
}

/// Takes the scheme in which a peer signed, if this thread verified a signature since the last call
/// (`$ssl_client_sigalg`). rustls keeps it to itself: call this right after each step of a handshake, before
/// another connection gets its turn.
pub fn taken_scheme() -> Option<SignatureScheme> {
    SCHEME.take()
}

/// The name of a scheme as OpenSSL shows it, which is IANA's; None for one that we do not take.
pub fn scheme_name(scheme: SignatureScheme) -> Option<&'static str> {
    Some(match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::ED25519 => "ed25519",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        SignatureScheme::ML_DSA_44 => "mldsa44",
        SignatureScheme::ML_DSA_65 => "mldsa65",
        SignatureScheme::ML_DSA_87 => "mldsa87",
        _ => return None,
    })
}

/// The signature algorithms of rustls on aws-lc-rs.
pub fn supported() -> WebPkiSupportedAlgorithms {
    static SUPPORTED: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);
    *SUPPORTED
}

/// Checks the signature of a TLS 1.3 CertificateVerify: the scheme fixes the curve.
pub fn verify_tls13(
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = algorithms_of(signed.scheme)?;
    if !is_allowed_in_tls13(signed.scheme) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    verify(&algorithms[..algorithms.len().min(1)], message, certificate, signed)
}

/// Checks the signature of a TLS 1.2 CertificateVerify or ServerKeyExchange: the scheme names a digest only,
/// and the curve is that of the key.
pub fn verify_tls12(
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if matches!(
        signed.scheme,
        SignatureScheme::ML_DSA_44 | SignatureScheme::ML_DSA_65 | SignatureScheme::ML_DSA_87
    ) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    verify(algorithms_of(signed.scheme)?, message, certificate, signed)
}

type Algorithms = &'static [&'static dyn rustls_pki_types::SignatureVerificationAlgorithm];

fn algorithms_of(scheme: SignatureScheme) -> Result<Algorithms, Error> {
    let found = supported().mapping.iter().find(|(known, _)| *known == scheme);
    let (_, algorithms) = found.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    Ok(algorithms)
}

/// RFC 8446 §4.2.3: PKCS #1 v1.5 signs certificates only.
fn is_allowed_in_tls13(scheme: SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
            | SignatureScheme::ECDSA_SHA1_Legacy
    )
}

fn verify(
    algorithms: &[&'static dyn rustls_pki_types::SignatureVerificationAlgorithm],
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = public_key(certificate).ok_or(CertificateError::BadEncoding)?;
    // At most one algorithm fits the key: one signature check.
    match algorithms.iter().find(|algorithm| key.fits(**algorithm)) {
        Some(algorithm) if key.verify(*algorithm, message, signed.signature()) => {
            SCHEME.set(Some(signed.scheme));
            Ok(HandshakeSignatureValid::assertion())
        }
        _ => Err(CertificateError::BadSignature.into()),
    }
}

/// The key of a certificate of any version.
fn public_key(certificate: &[u8]) -> Option<PublicKey> {
    if certificate.len() > CERTIFICATE_BYTES_MAX {
        return None;
    }
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    PublicKey::parse(parsed.public_key().raw)
}
