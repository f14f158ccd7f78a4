//! Certificate revocation lists (`ssl_crl`, `proxy_ssl_crl`): complete lists of an issuer of the path.
//!
//! Touches: nothing. Truth: RFC 5280 §5 and §6.3; OpenSSL without X509_V_FLAG_EXTENDED_CRL_SUPPORT and
//! X509_V_FLAG_USE_DELTAS: indirect lists, delta lists and lists for some reasons only are not used.

use std::collections::HashMap;
use std::ops::Range;

use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_REASON_CODE};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use super::certificate::{Authority, CRL_SIGN, CaKind, Certificate, Malformed, Signed};
use super::der;
use super::name::canonical;
use super::refusal::Refusal;

/// CRLReason removeFromCRL: the certificate is valid again.
const REMOVED: u8 = 8;

/// One list. Owns its bytes, and 16 bytes for each certificate it names.
#[derive(Debug)]
pub struct Crl {
    signed: Signed,
    issuer: Vec<u8>,
    authority: Authority,
    this_update: i64,
    next_update: Option<i64>,
    /// Serial numbers as ranges of the DER, ordered by their bytes.
    revoked: Vec<Range<usize>>,
    scope: Scope,
    /// Delta, indirect, or for some reasons: not used.
    is_partial: bool,
    has_unknown_critical: bool,
}

/// Which certificates of its issuer a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    PeersOnly,
    IssuersOnly,
    None,
}

impl Crl {
    /// Reads a list. Cost: linear in its size, and sorting its serial numbers.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, parsed) = CertificateRevocationList::from_der(der).map_err(|_| Malformed)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        let start = der.as_ptr() as usize;
        let mut revoked = Vec::new();
        let mut has_unknown_critical = false;
        for entry in parsed.iter_revoked_certificates() {
            let serial = entry.raw_serial();
            let at = (serial.as_ptr() as usize).checked_sub(start).ok_or(Malformed)?;
            has_unknown_critical |= has_unknown_entry(entry);
            if !is_removed(entry) {
                revoked.push(at..at + serial.len());
            }
        }
        revoked.sort_by_key(|range| der.get(range.clone()));
        let mut crl = Self {
            signed: Signed::split(der, inner_algorithm).ok_or(Malformed)?,
            issuer: canonical(parsed.issuer()),
            authority: Authority::default(),
            this_update: parsed.last_update().timestamp(),
            next_update: parsed.next_update().map(|time| time.timestamp()),
            revoked,
            scope: Scope::All,
            is_partial: false,
            has_unknown_critical,
        };
        for extension in parsed.extensions() {
            crl.remember(extension);
        }
        Ok(crl)
    }

    fn remember(&mut self, extension: &X509Extension<'_>) {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => self.authority = Authority::of(id),
            ParsedExtension::IssuingDistributionPoint(point) => {
                self.is_partial |= point.indirect_crl || point.only_some_reasons.is_some();
                // A list with a distribution point is for certificates that name it: we compare none.
                let is_elsewhere = point.distribution_point.is_some() || point.only_contains_attribute_certs;
                self.scope = match (point.only_contains_user_certs, point.only_contains_ca_certs) {
                    _ if is_elsewhere => Scope::None,
                    (false, false) => Scope::All,
                    (true, false) => Scope::PeersOnly,
                    (false, true) => Scope::IssuersOnly,
                    (true, true) => Scope::None,
                };
            }
            _ if extension.oid.as_bytes() == DELTA => self.is_partial = true,
            _ if extension.oid == OID_X509_EXT_CRL_NUMBER => {}
            _ => self.has_unknown_critical |= extension.critical,
        }
    }

    fn revokes(&self, certificate: &Certificate) -> bool {
        let serial = |range: &Range<usize>| self.signed.der().get(range.clone()).unwrap_or_default();
        self.revoked.binary_search_by(|range| serial(range).cmp(&certificate.serial)).is_ok()
    }

    fn covers(&self, certificate: &Certificate) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::PeersOnly => certificate.ca_kind() != CaKind::Marked,
            Scope::IssuersOnly => certificate.ca_kind() == CaKind::Marked,
            Scope::None => false,
        }
    }

    fn is_current(&self, now: i64) -> bool {
        self.this_update <= now && self.next_update.is_none_or(|next| now < next)
    }
}

/// id-ce-deltaCRLIndicator.
const DELTA: &[u8] = &[0x55, 0x1d, 27];

fn inner_algorithm(mut body: &[u8]) -> Option<&[u8]> {
    if body.first() == Some(&der::INTEGER) {
        der::take(&mut body)?;
    }
    Some(der::expect(&mut body, der::SEQUENCE)?.value)
}

fn is_removed(entry: &RevokedCertificate<'_>) -> bool {
    entry.reason_code().is_some_and(|(_, reason)| reason.0 == REMOVED)
}

fn has_unknown_entry(entry: &RevokedCertificate<'_>) -> bool {
    entry.extensions().iter().any(|extension| extension.critical && extension.oid != OID_X509_EXT_REASON_CODE)
}

/// All lists, by their issuer's name.
#[derive(Debug, Default)]
pub struct Crls {
    by_issuer: HashMap<Vec<u8>, Vec<Crl>>,
}

impl Crls {
    /// Adds a list.
    pub fn push(&mut self, crl: Crl) {
        self.by_issuer.entry(crl.issuer.clone()).or_default().push(crl);
    }

    /// Whether there is no list: revocation is then not checked.
    pub fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    /// Looks the certificate at `index` of a path up, and reports each fault. `path` begins with the peer's.
    pub fn check(&self, path: &[&Certificate], index: usize, now: i64, mut fault: impl FnMut(Refusal)) {
        let Some(certificate) = path.get(index) else { return };
        let issuer = path.get(index + 1).or(path.last().filter(|last| last.is_self_issued()));
        let lists = self.by_issuer.get(&certificate.issuer).map(Vec::as_slice).unwrap_or_default();
        let usable = lists
            .iter()
            .filter(|list| !list.is_partial && issuer.is_some_and(|issuer| list.authority.allows(issuer)));
        let best = usable.max_by_key(|list| {
            let is_best = !list.has_unknown_critical && list.covers(certificate);
            (is_best, list.is_current(now), list.this_update)
        });
        let (Some(list), Some(issuer)) = (best, issuer) else { return fault(Refusal::CrlMissing) };
        if !issuer.allows(CRL_SIGN) {
            fault(Refusal::NoCrlSigning);
        }
        if !list.covers(certificate) {
            fault(Refusal::DifferentCrlScope);
        }
        if now < list.this_update {
            fault(Refusal::CrlNotYetValid);
        }
        if list.next_update.is_some_and(|next| next <= now) {
            fault(Refusal::CrlExpired);
        }
        if !list.signed.is_signed_by(&issuer.key) {
            fault(Refusal::BadCrlSignature);
        }
        if list.has_unknown_critical {
            fault(Refusal::UnknownCriticalCrlExtension);
        }
        if list.revokes(certificate) {
            fault(Refusal::Revoked);
        }
    }
}
