//! What a path needs to know of one certificate, read once from its DER.
//!
//! Touches: nothing. Truth: RFC 5280 §4; OpenSSL 3.0 for what counts as self-signed, as a CA, as unknown.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::der;
use super::name::canonical;

/// Maximum size of a certificate that we read. A certificate with 1,000 names has about 30 KiB.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// Maximum number of extensions; more make a certificate unreadable. Public certificates have about ten.
const EXTENSIONS_MAX: usize = 64;

/// The minimum strength that OpenSSL asks for in Debian (security level 2, 112 bits).
const RSA_BITS_MIN: usize = 2048;

/// Signature algorithms over MD2, MD4, MD5 and SHA-1, as values of their object identifiers.
const WEAK_SIGNATURES: [&[u8]; 7] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 2],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 3],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
    &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3],
    &[0x2b, 0x0e, 3, 2, 29],
];

/// rsaEncryption.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// id-ecPublicKey.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// Server gated cryptography, which OpenSSL takes for server authentication: Microsoft's and Netscape's.
const GATED: [&[u8]; 2] =
    [&[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3], &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]];
/// id-pe-proxyCertInfo (RFC 3820).
const PROXY: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 14];
/// id-pkix-ocsp-nocheck: says nothing about TLS.
const OCSP_NO_CHECK: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 5];

/// The certificate cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Something signed: the bytes, the algorithm, and the signature.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The whole structure.
    der: Vec<u8>,
    body: std::ops::Range<usize>,
    algorithm: std::ops::Range<usize>,
    signature: std::ops::Range<usize>,
}

impl Signed {
    /// Splits a structure of body, algorithm and signature; nothing may follow it. `inner` finds the copy of
    /// the algorithm in the body, which must be equal (RFC 5280 §4.1.1.2).
    pub fn split(der: &[u8], inner: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<Self> {
        let mut input = der;
        let mut parts = der::expect(&mut input, der::SEQUENCE)?.value;
        let body = der::expect(&mut parts, der::SEQUENCE)?;
        let algorithm = der::expect(&mut parts, der::SEQUENCE)?.value;
        let signature = der::whole_bits(&mut parts)?;
        if !input.is_empty() || !parts.is_empty() || inner(body.value)? != algorithm {
            return None;
        }
        let range = |part: &[u8]| {
            let start = (part.as_ptr() as usize).checked_sub(der.as_ptr() as usize)?;
            Some(start..start + part.len())
        };
        let (body, algorithm, signature) = (range(body.whole)?, range(algorithm)?, range(signature)?);
        Some(Self { der: der.to_vec(), body, algorithm, signature })
    }

    /// Splits a structure that may go on behind the signature, and whose body has no copy of the algorithm (an
    /// OCSP response, RFC 6960 §4.2.1). Also returns the rest.
    pub fn split_open(der: &[u8]) -> Option<(Self, &[u8])> {
        let mut input = der;
        let mut parts = der::expect(&mut input, der::SEQUENCE)?.value;
        let body = der::expect(&mut parts, der::SEQUENCE)?.whole;
        let algorithm = der::expect(&mut parts, der::SEQUENCE)?.value;
        let signature = der::whole_bits(&mut parts)?;
        let range = |part: &[u8]| {
            let start = (part.as_ptr() as usize).checked_sub(der.as_ptr() as usize)?;
            Some(start..start + part.len())
        };
        let (body, algorithm, signature) = (range(body)?, range(algorithm)?, range(signature)?);
        input.is_empty().then_some((Self { der: der.to_vec(), body, algorithm, signature }, parts))
    }

    /// The whole structure.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What is signed.
    pub fn body(&self) -> &[u8] {
        self.part(&self.body)
    }

    fn part(&self, range: &std::ops::Range<usize>) -> &[u8] {
        self.der.get(range.clone()).unwrap_or_default()
    }

    /// Whether this key made the signature. False too for algorithms that we do not have.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let algorithm = self.part(&self.algorithm);
        algorithms().iter().any(|candidate| {
            candidate.signature_alg_id().as_ref() == algorithm
                && key.verify(*candidate, self.part(&self.body), self.part(&self.signature))
        })
    }

    /// Whether the signature is over a digest that is broken.
    fn is_weak(&self) -> bool {
        let mut algorithm = self.part(&self.algorithm);
        der::take(&mut algorithm).is_some_and(|oid| WEAK_SIGNATURES.contains(&oid.value))
    }
}

/// The signature algorithms of TLS, which are those of certificates.
fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    use std::sync::LazyLock;
    static ALGORITHMS: LazyLock<&'static [&'static dyn SignatureVerificationAlgorithm]> =
        LazyLock::new(|| super::signature::supported().all);
    *ALGORITHMS
}

/// A SubjectPublicKeyInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Vec<u8>,
    bits: Vec<u8>,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn parse(mut spki: &[u8]) -> Option<Self> {
        let mut parts = der::expect(&mut spki, der::SEQUENCE)?.value;
        let algorithm = der::expect(&mut parts, der::SEQUENCE)?.value.to_vec();
        let bits = der::whole_bits(&mut parts)?.to_vec();
        parts.is_empty().then_some(Self { algorithm, bits })
    }

    /// The key itself, without its algorithm.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Whether this key made `signature` over `message` by `algorithm`. False if the key is of another kind.
    pub fn verify(
        &self,
        algorithm: &dyn SignatureVerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.fits(algorithm) && algorithm.verify_signature(&self.bits, message, signature).is_ok()
    }

    /// Whether the key is of the kind (and, for elliptic curves, on the curve) that `algorithm` takes.
    pub fn fits(&self, algorithm: &dyn SignatureVerificationAlgorithm) -> bool {
        algorithm.public_key_alg_id().as_ref() == self.algorithm
    }

    /// The object identifier's value, and the element behind it.
    fn kind(&self) -> Option<(&[u8], Option<der::Element<'_>>)> {
        let mut algorithm = &self.algorithm[..];
        let oid = der::take(&mut algorithm)?.value;
        Some((oid, der::take(&mut algorithm)))
    }

    fn is_too_weak(&self) -> bool {
        let Some((RSA, _)) = self.kind() else { return false };
        let mut bits = &self.bits[..];
        let modulus = der::expect(&mut bits, der::SEQUENCE)
            .and_then(|mut key| der::expect(&mut key.value, der::INTEGER))
            .map_or(&[][..], |modulus| modulus.value);
        let zeros: usize =
            modulus.iter().position(|byte| *byte != 0).map_or(modulus.len() * 8, |zero_bytes| {
                zero_bytes * 8 + modulus.get(zero_bytes).map_or(0, |byte| byte.leading_zeros() as usize)
            });
        modulus.len() * 8 - zeros < RSA_BITS_MIN
    }

    fn has_explicit_curve(&self) -> bool {
        matches!(self.kind(), Some((EC, Some(parameters))) if parameters.tag == der::SEQUENCE)
    }
}

/// What extended key usage allows.
#[derive(Clone, Copy, Debug)]
pub struct ExtendedUsage {
    /// id-kp-clientAuth.
    pub is_client: bool,
    /// id-kp-serverAuth, or its predecessors.
    pub is_server: bool,
    /// id-kp-OCSPSigning.
    pub is_ocsp_signer: bool,
}

/// The kinds of name constraints of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct NameConstraints {
    /// It has permitted subtrees.
    pub has_permitted: bool,
}

/// Authority key identifier (RFC 5280 §4.2.1.1).
#[derive(Clone, Debug, Default)]
pub struct Authority {
    key_id: Option<Vec<u8>>,
    serial: Option<Vec<u8>>,
    issuer: Option<Vec<u8>>,
}

impl Authority {
    /// Takes the facts out of the extension.
    pub fn of(extension: &x509_parser::extensions::AuthorityKeyIdentifier<'_>) -> Self {
        let names = extension.authority_cert_issuer.iter().flatten();
        Self {
            key_id: extension.key_identifier.as_ref().map(|id| id.0.to_vec()),
            serial: extension.authority_cert_serial.map(<[u8]>::to_vec),
            issuer: names.into_iter().find_map(|name| match name {
                GeneralName::DirectoryName(name) => Some(canonical(name)),
                _ => None,
            }),
        }
    }

    /// Whether `issuer` may be meant.
    pub fn allows(&self, issuer: &Certificate) -> bool {
        let differs = |own: &Option<Vec<u8>>, other: &[u8]| own.as_deref().is_some_and(|own| own != other);
        let key_differs = issuer.key_id.as_deref().is_some_and(|key_id| differs(&self.key_id, key_id));
        !key_differs && !differs(&self.serial, &issuer.serial) && !differs(&self.issuer, &issuer.issuer)
    }
}

/// One certificate, as far as a path needs it. Owns its bytes: about twice the size of the DER.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The DER, split where the signature needs it.
    pub signed: Signed,
    /// The subject in canonical form (see [`canonical`]).
    pub subject: Vec<u8>,
    /// The issuer in canonical form.
    pub issuer: Vec<u8>,
    /// The serial number as it is encoded.
    pub serial: Vec<u8>,
    /// First second in which it is valid, since 1970.
    pub not_before: i64,
    /// Last second in which it is valid, since 1970.
    pub not_after: i64,
    /// The subject's key.
    pub key: PublicKey,
    /// Key usage bits, digitalSignature lowest; None without the extension.
    pub usage: Option<u16>,
    /// Extended key usage; None without the extension.
    pub extended: Option<ExtendedUsage>,
    /// pathLenConstraint.
    pub path_length: Option<u32>,
    /// Name constraints, if it has any.
    pub constraints: Option<NameConstraints>,
    /// It has a critical extension that we do not know.
    pub has_unknown_critical: bool,
    /// It has an extension that we know and cannot read, or two of them.
    pub has_invalid_extension: bool,
    /// It is an RFC 3820 proxy certificate.
    pub is_proxy: bool,
    /// Its alternative names have a DNS name.
    pub has_dns_name: bool,
    /// It has a common name.
    pub has_common_name: bool,
    authority: Authority,
    key_id: Option<Vec<u8>>,
    is_v1: bool,
    is_ca: Option<bool>,
    netscape: Option<Netscape>,
}

/// Netscape certificate type.
#[derive(Clone, Copy, Debug)]
struct Netscape {
    is_client: bool,
    is_server: bool,
    is_ssl_ca: bool,
    is_any_ca: bool,
}

impl Certificate {
    /// Reads a certificate. Cost: linear in its size, which is limited to [`CERTIFICATE_BYTES_MAX`].
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(Malformed);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| Malformed)?;
        if !rest.is_empty() || parsed.extensions().len() > EXTENSIONS_MAX {
            return Err(Malformed);
        }
        let signed = Signed::split(der, inner_algorithm).ok_or(Malformed)?;
        let key = PublicKey::parse(parsed.public_key().raw).ok_or(Malformed)?;
        let mut certificate = Self {
            signed,
            subject: canonical(parsed.subject()),
            issuer: canonical(parsed.issuer()),
            serial: parsed.raw_serial().to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            key,
            usage: None,
            extended: None,
            path_length: None,
            constraints: None,
            has_unknown_critical: false,
            has_invalid_extension: false,
            is_proxy: false,
            has_dns_name: false,
            has_common_name: parsed.subject().iter_common_name().next().is_some(),
            authority: Authority::default(),
            key_id: None,
            is_v1: parsed.version() == X509Version::V1,
            is_ca: None,
            netscape: None,
        };
        for (index, extension) in parsed.extensions().iter().enumerate() {
            let before = parsed.extensions().iter().take(index);
            certificate.has_invalid_extension |= before.into_iter().any(|other| other.oid == extension.oid);
            certificate.remember(extension);
        }
        Ok(certificate)
    }

    fn remember(&mut self, extension: &X509Extension<'_>) {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority = Authority::of(id);
                self.has_unknown_critical |= extension.critical;
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                self.key_id = Some(id.0.to_vec());
                self.has_unknown_critical |= extension.critical;
            }
            ParsedExtension::KeyUsage(usage) => self.usage = Some(usage.flags),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let is_gated = usage.other.iter().any(|oid| GATED.contains(&oid.as_bytes()));
                let is_server = usage.server_auth || is_gated;
                let (is_client, is_ocsp_signer) = (usage.client_auth, usage.ocsp_signing);
                self.extended = Some(ExtendedUsage { is_client, is_server, is_ocsp_signer });
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.is_ca = Some(constraints.ca);
                self.path_length = constraints.path_len_constraint;
            }
            ParsedExtension::NameConstraints(constraints) => {
                let has_permitted = constraints.permitted_subtrees.is_some();
                self.constraints = Some(NameConstraints { has_permitted });
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.has_dns_name =
                    names.general_names.iter().any(|name| matches!(name, GeneralName::DNSName(_)));
                self.has_invalid_extension |=
                    names.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..)));
            }
            ParsedExtension::NSCertType(kind) => {
                self.netscape = Some(Netscape {
                    is_client: kind.ssl_client(),
                    is_server: kind.ssl_server(),
                    is_ssl_ca: kind.ssl_ca(),
                    is_any_ca: kind.ssl_ca() || kind.smime_ca() || kind.object_signing_ca(),
                });
            }
            ParsedExtension::ParseError { .. } if is_needed(&extension.oid) => {
                self.has_invalid_extension = true
            }
            ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::CRLDistributionPoints(_)
            | ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::InhibitAnyPolicy(_) => {}
            _ if extension.oid.as_bytes() == PROXY => self.is_proxy = true,
            _ if extension.oid.as_bytes() == OCSP_NO_CHECK => {}
            _ => self.has_unknown_critical |= extension.critical,
        }
    }

    /// The whole certificate.
    pub fn der(&self) -> CertificateDer<'_> {
        CertificateDer::from(self.signed.der())
    }

    /// Whether subject and issuer are equal.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it claims to be signed by its own key. The signature is not checked.
    pub fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.authority.allows(self)
    }

    /// Whether `issuer` may have issued this certificate, by names and identifiers.
    pub fn may_be_issued_by(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject && self.authority.allows(issuer)
    }

    /// Whether `now` is within its dates.
    pub fn is_valid_at(&self, now: i64) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether its issuer lets it sign OCSP responses (RFC 6960 §4.2.2.2).
    pub fn is_ocsp_signer(&self) -> bool {
        self.extended.is_some_and(|usage| usage.is_ocsp_signer)
    }

    /// Whether key usage, where there is one, has this bit.
    pub fn allows(&self, usage_bits: u16) -> bool {
        self.usage.is_none_or(|usage| usage & usage_bits != 0)
    }

    /// Whether it may issue certificates, by OpenSSL's rules for its purposes.
    pub fn ca_kind(&self) -> CaKind {
        if !self.allows(KEY_CERT_SIGN) {
            return CaKind::None;
        }
        match self.is_ca {
            Some(true) => CaKind::Marked,
            Some(false) => CaKind::None,
            None if self.is_v1 && self.is_self_signed() => CaKind::Lenient,
            None if self.usage.is_some() => CaKind::Lenient,
            None if self.netscape.is_some_and(|kind| kind.is_any_ca) => CaKind::Netscape,
            None => CaKind::None,
        }
    }

    /// Whether the certificate may be used by a TLS client (or a server), or as a CA for such.
    pub fn suits(&self, is_client: bool, is_issuer: bool) -> bool {
        let extended =
            self.extended.is_none_or(|usage| if is_client { usage.is_client } else { usage.is_server });
        if !extended {
            return false;
        }
        if is_issuer {
            let is_ssl_ca = self.netscape.is_some_and(|kind| kind.is_ssl_ca);
            return match self.ca_kind() {
                CaKind::None => false,
                CaKind::Netscape => is_ssl_ca,
                CaKind::Marked | CaKind::Lenient => true,
            };
        }
        let netscape =
            self.netscape.is_none_or(|kind| if is_client { kind.is_client } else { kind.is_server });
        let usage = if is_client {
            DIGITAL_SIGNATURE | KEY_AGREEMENT
        } else {
            DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT
        };
        netscape && self.allows(usage)
    }

    /// Whether its key is weaker than OpenSSL's security level 2 asks for.
    pub fn has_weak_key(&self) -> bool {
        self.key.is_too_weak()
    }

    /// Whether its signature is over a broken digest.
    pub fn has_weak_signature(&self) -> bool {
        self.signed.is_weak()
    }

    /// Whether its key is on an elliptic curve that is written out.
    pub fn has_explicit_curve(&self) -> bool {
        self.key.has_explicit_curve()
    }
}

/// Key usage bits (RFC 5280 §4.2.1.3).
pub const DIGITAL_SIGNATURE: u16 = 1;
/// For key transport by RSA.
pub const KEY_ENCIPHERMENT: u16 = 1 << 2;
/// For static Diffie-Hellman.
pub const KEY_AGREEMENT: u16 = 1 << 4;
/// For a CA.
pub const KEY_CERT_SIGN: u16 = 1 << 5;
/// For who signs CRLs.
pub const CRL_SIGN: u16 = 1 << 6;

/// How a certificate says that it is a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaKind {
    /// It is none.
    None,
    /// By basic constraints.
    Marked,
    /// A version 1 root, or key usage without basic constraints: may be the root of a path only.
    Lenient,
    /// By Netscape's certificate type only.
    Netscape,
}

/// The algorithm inside the signed part: behind version and serial number.
fn inner_algorithm(mut body: &[u8]) -> Option<&[u8]> {
    if body.first() == Some(&0xa0) {
        der::take(&mut body)?;
    }
    der::expect(&mut body, der::INTEGER)?;
    Some(der::expect(&mut body, der::SEQUENCE)?.value)
}

/// Whether a path depends on the contents of this extension.
fn is_needed(oid: &Oid<'_>) -> bool {
    [
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_NAME_CONSTRAINTS,
        OID_X509_EXT_SUBJECT_ALT_NAME,
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    ]
    .contains(oid)
}
