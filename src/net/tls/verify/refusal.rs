//! Why a certificate is refused, in OpenSSL's words and numbers.
//!
//! Touches: nothing. Truth: OpenSSL 3.0, `X509_V_ERR_*` and X509_verify_cert_error_string(3): operators search
//! logs and compare `$ssl_client_verify` for these words.

use std::fmt;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $words:literal;)*) => {
        /// Why a certificate is refused. Displayed in OpenSSL's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// OpenSSL's number of the error (`X509_V_ERR_*`).
            pub const fn number(self) -> u8 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            /// OpenSSL's words for the error, which nginx puts behind `FAILED:`.
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }
        }
    };
}

refusals! {
    /// The certificate cannot be read, or is larger than we read.
    Unspecified = 1, "unspecified certificate verification error";
    /// The issuer of a trusted certificate that is no root is missing.
    IssuerMissing = 2, "unable to get issuer certificate";
    /// There is no CRL for a certificate of the chain.
    CrlMissing = 3, "unable to get certificate CRL";
    /// The issuer's key did not make the signature, or in an algorithm that we do not have.
    BadSignature = 7, "certificate signature failure";
    /// The issuer's key did not sign the CRL.
    BadCrlSignature = 8, "CRL signature failure";
    /// The dates begin in the future.
    NotYetValid = 9, "certificate is not yet valid";
    /// The dates end in the past.
    Expired = 10, "certificate has expired";
    /// The CRL's date is in the future.
    CrlNotYetValid = 11, "CRL is not yet valid";
    /// The CRL's next update is overdue.
    CrlExpired = 12, "CRL has expired";
    /// The peer's certificate is self-signed and not trusted.
    SelfSigned = 18, "self-signed certificate";
    /// The chain ends at a root that is not trusted.
    SelfSignedInChain = 19, "self-signed certificate in certificate chain";
    /// An issuer is neither in the chain nor trusted.
    LocalIssuerMissing = 20, "unable to get local issuer certificate";
    /// The chain is the peer's certificate only, and its issuer is not trusted.
    LeafSignatureUnverified = 21, "unable to verify the first certificate";
    /// More intermediate certificates than `ssl_verify_depth` allows.
    ChainTooLong = 22, "certificate chain too long";
    /// A CRL names the certificate.
    Revoked = 23, "certificate revoked";
    /// More intermediate certificates than one of them allows.
    PathLengthExceeded = 25, "path length constraint exceeded";
    /// Key usage or extended key usage exclude TLS in this role.
    InvalidPurpose = 26, "unsuitable certificate purpose";
    /// A key that is known to be compromised or misused.
    Rejected = 28, "certificate rejected";
    /// The issuer must not sign certificates.
    NoCertificateSigning = 32, "key usage does not include certificate signing";
    /// A critical extension that we do not know.
    UnknownCriticalExtension = 34, "unhandled critical extension";
    /// The issuer must not sign CRLs.
    NoCrlSigning = 35, "key usage does not include CRL signing";
    /// A critical extension of a CRL that we do not know.
    UnknownCriticalCrlExtension = 36, "unhandled critical CRL extension";
    /// An RFC 3820 proxy certificate.
    ProxyCertificate = 40, "proxy certificates not allowed, please set the appropriate flag";
    /// A known extension with contents that cannot be read, or twice.
    InvalidExtension = 41, "invalid or inconsistent certificate extension";
    /// The CRL is about other certificates of the issuer.
    DifferentCrlScope = 44, "different CRL scope";
    /// A name outside the names that an issuer is limited to.
    NotPermitted = 47, "permitted subtree violation";
    /// A name that an issuer must not certify.
    Excluded = 48, "excluded subtree violation";
    /// Name constraints that we do not evaluate.
    UnsupportedConstraint = 51, "unsupported name constraint type";
    /// The certificate is for another host.
    HostnameMismatch = 62, "hostname mismatch";
    /// The certificate is for another address.
    AddressMismatch = 64, "IP address mismatch";
    /// The peer's key is shorter than RSA 2048 or a 224-bit curve.
    KeyTooWeak = 66, "EE certificate key too weak";
    /// An issuer's key is shorter than RSA 2048 or a 224-bit curve.
    IssuerKeyTooWeak = 67, "CA certificate key too weak";
    /// A certificate is signed over SHA-1 or MD5.
    DigestTooWeak = 68, "CA signature digest algorithm too weak";
    /// An issuer is no CA.
    InvalidCa = 79, "invalid CA certificate";
    /// An elliptic curve that is written out instead of named.
    ExplicitCurve = 94, "Certificate public key has explicit ECC parameters";
}

impl Refusal {
    /// Whether `ssl_verify_client optional_no_ca` lets the request pass: nobody vouches for the certificate,
    /// but nothing is wrong with it.
    pub const fn is_optional_no_ca(self) -> bool {
        matches!(
            self,
            Self::SelfSigned
                | Self::SelfSignedInChain
                | Self::LocalIssuerMissing
                | Self::LeafSignatureUnverified
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.words())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_numbers_in_order_and_the_words_that_nginx_shows() {
        assert!(Refusal::ALL.is_sorted_by(|one, other| one.number() < other.number()));
        assert_eq!(Refusal::SelfSigned.to_string(), "self-signed certificate");
        let optional = Refusal::ALL.iter().filter(|refusal| refusal.is_optional_no_ca());
        assert_eq!(optional.map(|refusal| refusal.number()).collect::<Vec<_>>(), [18, 19, 20, 21]);
    }
}
