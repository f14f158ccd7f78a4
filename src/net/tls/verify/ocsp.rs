//! OCSP: the request for a certificate's status, and what a responder's answer says. DER and a time in, a
//! status out.
//!
//! Touches: nothing. Truth: RFC 6960 §4; OpenSSL 3.0, OCSP_basic_verify(3), with the settings of nginx, whose
//! words for each fault stand in the error log.

use std::fmt;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::certificate::{Certificate, Signed};
use super::name::canonical;
use super::{Refusal, Trust, der};

/// The longest response that is read. One with the certificate of a delegated signer has about 2 KiB.
pub const RESPONSE_BYTES_MAX: usize = 32 * 1024;
/// The most certificates of a response among which its signer is looked for.
const CERTIFICATES_MAX: usize = 8;
/// How far the responder's clock may differ from ours, as in nginx.
const CLOCK_SKEW_S: i64 = 300;

/// id-sha1, as the value of its object identifier.
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 26];
/// id-sha256.
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// id-pkix-ocsp-basic.
const BASIC_OID: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
/// id-ad-ocsp, the access method of a responder.
const RESPONDER_OID: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1];
/// NULL, the parameters of a digest.
const NULL: &[u8] = &[5, 0];

/// What a responder says of a certificate. Displayed in OpenSSL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Good,
    Revoked,
    /// The responder does not know the certificate.
    Unknown,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Good => "good",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
        })
    }
}

/// What a valid response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: Status,
    /// nextUpdate in seconds since 1970; `None`: there is newer information at any time.
    pub valid_until_s: Option<i64>,
}

/// Why a response is not used. Displayed as nginx logs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no OCSP response, or longer than [`RESPONSE_BYTES_MAX`].
    Malformed,
    /// The responder's status of a request that it does not answer.
    Unsuccessful(u8),
    /// It is not of the basic type, or that part of it is malformed.
    NotBasic,
    /// The signer's certificate is neither known nor in the response.
    SignerNotFound,
    BadSignature,
    /// The issuer of the signer's certificate has not made it a signer of responses.
    NoOcspSigning,
    /// Neither the issuer of the certificate in question has signed it, nor one whom that has delegated.
    SignerNotAuthorized,
    /// The signer's certificate is not trusted.
    SignerRefused(Refusal),
    /// There is no answer about the certificate in question.
    NotFound,
    NotYetValid,
    Expired,
    NextBeforeThis,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unverified = "OCSP_basic_verify() failed";
        let invalid = "OCSP_check_validity() failed";
        match self {
            Self::Malformed => out.write_str("d2i_OCSP_RESPONSE() failed"),
            Self::Unsuccessful(status) => {
                let words = match status {
                    1 => "malformedrequest",
                    2 => "internalerror",
                    3 => "trylater",
                    5 => "sigrequired",
                    6 => "unauthorized",
                    _ => "(UNKNOWN)",
                };
                write!(out, "OCSP response not successful ({status}: {words})")
            }
            Self::NotBasic => out.write_str("OCSP_response_get1_basic() failed"),
            Self::SignerNotFound => write!(out, "{unverified} (signer certificate not found)"),
            Self::BadSignature => write!(out, "{unverified} (signature failure)"),
            Self::NoOcspSigning => write!(out, "{unverified} (missing ocspsigning usage)"),
            Self::SignerNotAuthorized => write!(out, "{unverified} (root ca not trusted)"),
            Self::SignerRefused(refusal) => write!(out, "{unverified} (certificate verify error: {refusal})"),
            Self::NotFound => out.write_str("certificate status not found in the OCSP response"),
            Self::NotYetValid => write!(out, "{invalid} (status not yet valid)"),
            Self::Expired => write!(out, "{invalid} (status expired)"),
            Self::NextBeforeThis => write!(out, "{invalid} (nextupdate before thisupdate)"),
        }
    }
}

impl std::error::Error for Error {}

/// Whose signature of a response counts.
#[derive(Clone, Copy, Debug)]
pub enum Signers<'a> {
    /// Anyone's who has sent the certificate along (`ssl_stapling_verify off`): a client checks the response.
    Any,
    /// The issuer's of the certificate in question, whose path has been checked, and those of its delegates.
    Issuer,
    /// The same, if their path ends at a trusted root; and those of the certificates in `chain`, which are
    /// ours (`ssl_stapling_verify on`).
    Trusted { trust: &'a Trust, chain: &'a [CertificateDer<'a>] },
}

/// A certificate whose status is asked for, as OCSP names it: by its issuer and its serial number.
#[derive(Clone, Debug)]
pub struct Question {
    issuer: Certificate,
    /// The digests of the issuer's name and key by SHA-1 and SHA-256.
    by_sha1: [digest::Digest; 2],
    by_sha256: [digest::Digest; 2],
    serial: Vec<u8>,
}

impl Question {
    /// `None`: one of them cannot be read. Whether `issuer` has issued it is not checked.
    pub fn new(certificate: &[u8], issuer: &[u8]) -> Option<Self> {
        let serial = Certificate::parse(certificate).ok()?.serial;
        let (_, parsed) = X509Certificate::from_der(issuer).ok()?;
        let name = parsed.subject().as_raw();
        let issuer = Certificate::parse(issuer).ok()?;
        let digests = |algorithm| [name, issuer.key.bits()].map(|part| digest::digest(algorithm, part));
        let (by_sha1, by_sha256) = (digests(&SHA1_FOR_LEGACY_USE_ONLY), digests(&SHA256));
        Some(Self { issuer, by_sha1, by_sha256, serial })
    }

    /// The request (OCSPRequest): the certificate is named by SHA-1, which all responders know.
    ///
    /// There is no nonce: most responders sign their answers ahead.
    pub fn request(&self) -> Vec<u8> {
        let element = |tag, parts: &[&[u8]]| {
            let mut out = Vec::new();
            der::write(tag, parts, &mut out);
            out
        };
        let oid = element(der::OBJECT_IDENTIFIER, &[SHA1_OID]);
        let algorithm = element(der::SEQUENCE, &[&oid, NULL]);
        let [name, key] = &self.by_sha1;
        let name = element(der::OCTET_STRING, &[name.as_ref()]);
        let key = element(der::OCTET_STRING, &[key.as_ref()]);
        let serial = element(der::INTEGER, &[&self.serial]);
        let id = element(der::SEQUENCE, &[&algorithm, &name, &key, &serial]);
        // Request, requestList, TBSRequest, OCSPRequest
        (0..4).fold(id, |inner, _| element(der::SEQUENCE, &[&inner]))
    }

    /// A key for caches, different for each certificate.
    pub fn key(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&SHA256);
        self.by_sha256.iter().for_each(|digest| context.update(digest.as_ref()));
        context.update(&self.serial);
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        key
    }

    /// Reads a response: it is signed, by one of `signers`, and has an answer that is valid at `now_s`
    /// (seconds since 1970).
    ///
    /// Cost: linear in its size, and at most three signature checks and those of the signer's path.
    pub fn answer(&self, response: &[u8], signers: Signers<'_>, now_s: i64) -> Result<Answer, Error> {
        let (signed, rest) = basic(response)?;
        let data = ResponseData::parse(signed.body()).ok_or(Error::NotBasic)?;
        let certificates = certificates(rest).ok_or(Error::NotBasic)?;
        let chain = match signers {
            Signers::Trusted { chain, .. } => chain,
            Signers::Any | Signers::Issuer => &[],
        };
        let is_signer = |certificate: &Certificate| data.responder.is(certificate);
        let known = chain.iter().filter_map(|der| Certificate::parse(der).ok());
        let ours = std::iter::once(self.issuer.clone()).chain(known).find(is_signer);
        let found = ours.clone().or_else(|| certificates.into_iter().find(is_signer));
        let signer = found.ok_or(Error::SignerNotFound)?;
        if !signed.is_signed_by(&signer.key) {
            return Err(Error::BadSignature);
        }
        self.authorize(&signer, ours.is_some(), signers, now_s)?;
        let answer = data.answers.iter().find(|answer| self.is_named_by(answer));
        answer.ok_or(Error::NotFound)?.checked(now_s)
    }

    /// Whether this signer may speak about the certificate. `is_ours`: it is the issuer, or one of our chain.
    fn authorize(
        &self,
        signer: &Certificate,
        is_ours: bool,
        signers: Signers<'_>,
        now_s: i64,
    ) -> Result<(), Error> {
        let (trust, chain) = match signers {
            Signers::Any => return Ok(()),
            Signers::Issuer => (None, &[][..]),
            Signers::Trusted { chain, .. } if is_ours && is_among(signer, chain) => return Ok(()),
            Signers::Trusted { trust, chain } => (Some(trust), chain),
        };
        let is_issuer = signer.subject == self.issuer.subject && signer.key == self.issuer.key;
        if !is_issuer {
            if !signer.may_be_issued_by(&self.issuer) || !signer.signed.is_signed_by(&self.issuer.key) {
                return Err(Error::SignerNotAuthorized);
            }
            if !signer.is_ocsp_signer() {
                return Err(Error::NoOcspSigning);
            }
            if now_s < signer.not_before {
                return Err(Error::SignerRefused(Refusal::NotYetValid));
            }
            if now_s >= signer.not_after {
                return Err(Error::SignerRefused(Refusal::Expired));
            }
        }
        let Some(trust) = trust else { return Ok(()) };
        let issuer = self.issuer.der();
        let own = (!is_issuer).then(|| signer.der());
        let path = own.into_iter().chain([issuer]).chain(chain.iter().map(|der| der.as_ref().into()));
        let path: Vec<CertificateDer<'_>> = path.collect();
        let now_s = u64::try_from(now_s).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_s));
        trust.check(&path, now).map_err(Error::SignerRefused)
    }

    fn is_named_by(&self, answer: &SingleResponse<'_>) -> bool {
        let [name, key] = match answer.algorithm {
            SHA1_OID => &self.by_sha1,
            SHA256_OID => &self.by_sha256,
            _ => return false,
        };
        answer.serial == self.serial && answer.name == name.as_ref() && answer.key == key.as_ref()
    }
}

fn is_among(certificate: &Certificate, chain: &[CertificateDer<'_>]) -> bool {
    chain.iter().any(|der| der.as_ref() == certificate.signed.der())
}

/// The URL of the first responder that a certificate names (its authority information access).
pub fn responder(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => {
            access.accessdescs.iter().find_map(|access| match access.access_location {
                GeneralName::URI(url) if access.access_method.as_bytes() == RESPONDER_OID => {
                    Some(url.to_owned())
                }
                _ => None,
            })
        }
        _ => None,
    })
}

/// The certificate among `candidates` that has issued `certificate`, by its names; if several have the name,
/// the one with the key.
pub fn issuer<'a>(
    certificate: &[u8],
    candidates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Option<&'a CertificateDer<'static>> {
    let certificate = Certificate::parse(certificate).ok()?;
    let mut first = None;
    for der in candidates {
        let Ok(candidate) = Certificate::parse(der) else { continue };
        if certificate.may_be_issued_by(&candidate) {
            if certificate.signed.is_signed_by(&candidate.key) {
                return Some(der);
            }
            first = first.or(Some(der));
        }
    }
    first
}

/// Takes the signed part out of a response: OCSPResponse, ResponseBytes, BasicOCSPResponse. Also returns what
/// stands behind the signature.
fn basic(response: &[u8]) -> Result<(Signed, &[u8]), Error> {
    if response.len() > RESPONSE_BYTES_MAX {
        return Err(Error::Malformed);
    }
    let mut input = response;
    let mut parts = der::expect(&mut input, der::SEQUENCE).ok_or(Error::Malformed)?.value;
    let status = der::expect(&mut parts, der::ENUMERATED).ok_or(Error::Malformed)?.value;
    let &[status] = status else { return Err(Error::Malformed) };
    if !input.is_empty() {
        return Err(Error::Malformed);
    }
    if status != 0 {
        return Err(Error::Unsuccessful(status));
    }
    let basic = response_bytes(parts).ok_or(Error::NotBasic)?;
    Signed::split_open(basic).ok_or(Error::NotBasic)
}

fn response_bytes(mut parts: &[u8]) -> Option<&[u8]> {
    let mut outer = der::expect(&mut parts, der::explicit(0))?.value;
    let mut inner = der::expect(&mut outer, der::SEQUENCE)?.value;
    let kind = der::expect(&mut inner, der::OBJECT_IDENTIFIER)?.value;
    let basic = der::expect(&mut inner, der::OCTET_STRING)?.value;
    (kind == BASIC_OID && parts.is_empty() && outer.is_empty() && inner.is_empty()).then_some(basic)
}

/// The certificates that a response has behind its signature. Those that cannot be read are left out.
fn certificates(mut rest: &[u8]) -> Option<Vec<Certificate>> {
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let mut outer = der::expect(&mut rest, der::explicit(0))?.value;
    let mut list = der::expect(&mut outer, der::SEQUENCE)?.value;
    let mut found = Vec::new();
    while !list.is_empty() && found.len() < CERTIFICATES_MAX {
        found.extend(Certificate::parse(der::take(&mut list)?.whole));
    }
    (rest.is_empty() && outer.is_empty()).then_some(found)
}

/// Who has made a response.
enum Responder {
    /// A subject in canonical form.
    Name(Vec<u8>),
    /// The SHA-1 of a key.
    Key(Vec<u8>),
}

impl Responder {
    fn is(&self, certificate: &Certificate) -> bool {
        match self {
            Self::Name(name) => *name == certificate.subject,
            Self::Key(key) => {
                *key == digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate.key.bits()).as_ref()
            }
        }
    }
}

/// The signed part of a response.
struct ResponseData<'a> {
    responder: Responder,
    answers: Vec<SingleResponse<'a>>,
}

impl<'a> ResponseData<'a> {
    fn parse(mut body: &'a [u8]) -> Option<Self> {
        let mut parts = der::expect(&mut body, der::SEQUENCE)?.value;
        // version
        let _ = der::expect(&mut parts, der::explicit(0));
        let id = der::take(&mut parts)?;
        let mut value = id.value;
        let responder = if id.tag == der::explicit(1) {
            let (rest, name) = X509Name::from_der(value).ok()?;
            rest.is_empty().then(|| Responder::Name(canonical(&name)))?
        } else if id.tag == der::explicit(2) {
            Responder::Key(der::expect(&mut value, der::OCTET_STRING)?.value.to_vec())
        } else {
            return None;
        };
        // producedAt
        der::expect(&mut parts, der::GENERALIZED_TIME)?;
        let mut list = der::expect(&mut parts, der::SEQUENCE)?.value;
        let mut answers = Vec::new();
        while !list.is_empty() {
            answers.push(SingleResponse::parse(der::expect(&mut list, der::SEQUENCE)?.value)?);
        }
        Some(Self { responder, answers })
    }
}

/// What a response says about one certificate.
struct SingleResponse<'a> {
    algorithm: &'a [u8],
    name: &'a [u8],
    key: &'a [u8],
    serial: &'a [u8],
    status: Status,
    this_update_s: i64,
    next_update_s: Option<i64>,
}

impl<'a> SingleResponse<'a> {
    fn parse(mut parts: &'a [u8]) -> Option<Self> {
        let mut id = der::expect(&mut parts, der::SEQUENCE)?.value;
        let mut algorithm = der::expect(&mut id, der::SEQUENCE)?.value;
        let algorithm = der::expect(&mut algorithm, der::OBJECT_IDENTIFIER)?.value;
        let name = der::expect(&mut id, der::OCTET_STRING)?.value;
        let key = der::expect(&mut id, der::OCTET_STRING)?.value;
        let serial = der::expect(&mut id, der::INTEGER)?.value;
        let status = match der::take(&mut parts)?.tag {
            0x80 => Status::Good,
            0xa1 => Status::Revoked,
            0x82 => Status::Unknown,
            _ => return None,
        };
        let this_update_s = seconds(&mut parts)?;
        let next_update_s = match der::expect(&mut parts, der::explicit(0)) {
            Some(next) => Some(seconds(&mut &*next.value)?),
            None => None,
        };
        Some(Self { algorithm, name, key, serial, status, this_update_s, next_update_s })
    }

    fn checked(&self, now_s: i64) -> Result<Answer, Error> {
        if self.this_update_s > now_s.saturating_add(CLOCK_SKEW_S) {
            return Err(Error::NotYetValid);
        }
        if self.next_update_s.is_some_and(|next_s| next_s.saturating_add(CLOCK_SKEW_S) < now_s) {
            return Err(Error::Expired);
        }
        if self.next_update_s.is_some_and(|next_s| next_s < self.this_update_s) {
            return Err(Error::NextBeforeThis);
        }
        Ok(Answer { status: self.status, valid_until_s: self.next_update_s })
    }
}

/// A GeneralizedTime in seconds since 1970.
fn seconds(input: &mut &[u8]) -> Option<i64> {
    let whole = der::expect(input, der::GENERALIZED_TIME)?.whole;
    let (_, time) = ASN1Time::from_der(whole).ok()?;
    Some(time.timestamp())
}

/// What holds for any bytes, for the fuzz targets (`fuzz/`) and the tests here.
#[cfg(any(test, feature = "property"))]
pub mod property {
    use super::*;

    /// Splits `data` into a certificate, its issuer and a response, the first two behind their lengths in two
    /// bytes. No panic; the same answer twice; whoever counts for a client counts for any handshake.
    pub fn reads_response(data: &[u8]) {
        read_parts(data);
        let Some((certificate, rest)) = element(data) else { return };
        let Some((issuer_der, response)) = element(rest) else { return };
        read_parts(response);
        let _ = responder(certificate);
        let der = CertificateDer::from(issuer_der).into_owned();
        let _ = issuer(certificate, [&der]);
        let Some(question) = Question::new(certificate, issuer_der) else { return };
        let request = question.request();
        let mut rest = &request[..];
        assert!(der::expect(&mut rest, der::SEQUENCE).is_some() && rest.is_empty());
        let now_s = 1_800_000_000;
        let strict = question.answer(response, Signers::Issuer, now_s);
        assert_eq!(question.answer(response, Signers::Issuer, now_s), strict);
        if strict.is_ok() {
            assert_eq!(question.answer(response, Signers::Any, now_s), strict);
        }
    }

    fn element(data: &[u8]) -> Option<(&[u8], &[u8])> {
        let (&[high, low], rest) = data.split_first_chunk()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))
    }

    /// Each part by itself: most inputs end at an earlier one.
    fn read_parts(data: &[u8]) {
        if let Ok((signed, rest)) = basic(data) {
            let _ = (ResponseData::parse(signed.body()), certificates(rest));
        }
        if let Some(found) = certificates(data) {
            assert!(found.len() <= CERTIFICATES_MAX);
        }
        if let Some(data) = ResponseData::parse(data) {
            for answer in data.answers {
                if let Ok(valid) = answer.checked(1_800_000_000) {
                    assert!(
                        valid.valid_until_s.is_none_or(|until_s| until_s + CLOCK_SKEW_S >= 1_800_000_000)
                    );
                }
            }
        }
    }
}
