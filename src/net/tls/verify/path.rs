//! The path from a peer's certificate to a trusted root: found by webpki or by the builder here, checked here.
//!
//! The builder follows OpenSSL: at each step it prefers a trusted issuer to one that the peer sent, matches by
//! names and key identifiers, and never goes back. So there is one path, and one signature check for each of its
//! certificates: a hostile chain cannot make it search. The checks run in OpenSSL's order, and the last fault is
//! the verdict: nginx's verify callback lets OpenSSL go on after each fault, and the last one stays.
//!
//! Touches: nothing. Truth: RFC 5280 §6.1; OpenSSL 3.0, X509_verify_cert(3).

use std::cell::RefCell;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};

use super::certificate::{CaKind, Certificate, KEY_CERT_SIGN};
use super::refusal::Refusal;
use super::{CHAIN_CERTIFICATES_MAX, Purpose, Trust, signature};

/// Checks a chain, whose certificates are given both read and as DER. It is not empty. Returns the path.
pub fn find<'a>(
    trust: &'a Trust,
    chain: &'a [Certificate],
    ders: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Vec<&'a Certificate>, Refusal> {
    let Some((leaf, sent)) = chain.split_first() else { return Err(Refusal::Unspecified) };
    let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let by_webpki = match ask_webpki(trust, chain, ders, now) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let found = build(trust, leaf, sent, now_s);
    let is_pinned = trust.purpose == Purpose::Server && found.fault.is_some() && trust.is_pinned(&leaf.der());
    let (path, fault) = if is_pinned { (vec![leaf], None) } else { (found.path, found.fault) };
    let constraints = match by_webpki {
        Error::CertDistrusted => return Err(Refusal::Rejected),
        Error::NameConstraintViolation => Constraints::Violated,
        _ => Constraints::Unknown,
    };
    let origin = if is_pinned { Origin::Pinned } else { Origin::Built(constraints) };
    inspect(trust, &path, fault, now_s, origin)?;
    Ok(path)
}

/// What was checked of a path before [`inspect`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Signatures and name constraints.
    Webpki,
    /// The only certificate is trusted itself.
    Pinned,
    /// Nothing; webpki's opinion of the names.
    Built(Constraints),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Constraints {
    Unknown,
    Violated,
}

/// Lets webpki find a path that also passes our checks.
fn ask_webpki<'a>(
    trust: &'a Trust,
    chain: &'a [Certificate],
    ders: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Vec<&'a Certificate>, Error> {
    let (Some((leaf, sent)), [leaf_der, sent_ders @ ..]) = (chain.split_first(), ders) else {
        return Err(Error::UnknownIssuer);
    };
    let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let end_entity = EndEntityCert::try_from(leaf_der)?;
    let trusted_issuers = trust.certificates.iter().filter(|trusted| !trusted.is_self_signed());
    let issuers = sent_ders.iter().map(|der| CertificateDer::from(der.as_ref()));
    let issuers: Vec<_> = issuers.chain(trusted_issuers.map(Certificate::der)).collect();
    let usage = match trust.purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
        // webpki would want the usage in each certificate, the issuer's too.
        Purpose::OcspSigner => return Err(Error::UnknownIssuer),
    };
    let accepted = RefCell::default();
    let accept = |found: &VerifiedPath<'_>| -> Result<(), Error> {
        let own = |der: &CertificateDer<'_>| {
            sent.iter().chain(&trust.certificates).find(|known| known.signed.der() == der.as_ref())
        };
        let mut path = vec![leaf];
        for issuer in found.intermediate_certificates() {
            path.push(own(&issuer.der()).ok_or(Error::UnknownIssuer)?);
        }
        let anchor = trust.anchors.iter().position(|anchor| anchor == found.anchor());
        let root = anchor.and_then(|anchor| trust.anchor_indexes.get(anchor));
        path.push(root.and_then(|root| trust.certificates.get(*root)).ok_or(Error::UnknownIssuer)?);
        if path.len() > longest(trust) {
            return Err(Error::MaximumPathDepthExceeded);
        }
        inspect(trust, &path, None, now_s, Origin::Webpki).map_err(|_| Error::UnknownIssuer)?;
        accepted.replace(path);
        Ok(())
    };
    let algorithms = signature::supported().all;
    end_entity.verify_for_usage(algorithms, &trust.anchors, &issuers, now, usage, None, Some(&accept))?;
    Ok(accepted.into_inner())
}

/// A path, peer first, and why it does not end at a trusted root.
struct Found<'a> {
    path: Vec<&'a Certificate>,
    fault: Option<Refusal>,
}

/// The longest path that is allowed: the peer's certificate, `depth` issuers, and the root.
fn longest(trust: &Trust) -> usize {
    trust.depth.saturating_add(2).min(CHAIN_CERTIFICATES_MAX)
}

/// Extends a path until it ends at a trusted root, or cannot be extended.
fn build<'a>(trust: &'a Trust, leaf: &'a Certificate, sent: &'a [Certificate], now: i64) -> Found<'a> {
    let mut path = vec![leaf];
    let mut last = leaf;
    let mut is_last_trusted = false;
    let mut may_use_sent = true;
    loop {
        // The root is the one certificate that may stand beyond the depth.
        let may_be_longer = path.len() < longest(trust);
        if may_be_longer && let Some(issuer) = trusted_issuer(trust, last, &path, now) {
            if last.is_self_signed() {
                return Found { path, fault: None };
            }
            path.push(issuer);
            (last, is_last_trusted, may_use_sent) = (issuer, true, false);
            if issuer.is_self_signed() {
                return Found { path, fault: None };
            }
            continue;
        }
        let issuer = best_issuer(sent.iter(), last, &path, now).filter(|_| may_be_longer && may_use_sent);
        let Some(issuer) = issuer.filter(|_| !last.is_self_signed()) else { break };
        path.push(issuer);
        last = issuer;
    }
    // OpenSSL reports that the chain is too long, and then what else is missing, which is what nginx shows of a
    // client. For an upstream we say what helps.
    let fault = if path.len() >= longest(trust) && trust.purpose == Purpose::Server {
        Refusal::ChainTooLong
    } else if last.is_self_signed() {
        if path.len() == 1 { Refusal::SelfSigned } else { Refusal::SelfSignedInChain }
    } else if is_last_trusted {
        Refusal::IssuerMissing
    } else {
        Refusal::LocalIssuerMissing
    };
    Found { path, fault: Some(fault) }
}

/// A trusted issuer of `certificate`; if that is self-signed, only its exact copy.
fn trusted_issuer<'a>(
    trust: &'a Trust,
    certificate: &Certificate,
    path: &[&Certificate],
    now: i64,
) -> Option<&'a Certificate> {
    let indexes = trust.by_subject.get(&certificate.issuer)?;
    let candidates = indexes.iter().filter_map(|index| trust.certificates.get(*index));
    if certificate.is_self_signed() {
        return candidates.into_iter().find(|candidate| is_same(candidate, certificate));
    }
    best_issuer(candidates, certificate, path, now)
}

/// Of the possible issuers that are not yet in the path the first that is valid, or else one that expires last.
fn best_issuer<'a>(
    candidates: impl Iterator<Item = &'a Certificate>,
    certificate: &Certificate,
    path: &[&Certificate],
    now: i64,
) -> Option<&'a Certificate> {
    candidates
        .filter(|candidate| certificate.may_be_issued_by(candidate))
        .filter(|candidate| !path.iter().any(|used| is_same(used, candidate)))
        .reduce(|best, other| {
            let is_better =
                !best.is_valid_at(now) && (other.is_valid_at(now) || other.not_after > best.not_after);
            if is_better { other } else { best }
        })
}

fn is_same(one: &Certificate, other: &Certificate) -> bool {
    one.signed.der() == other.signed.der()
}

/// Checks a path in OpenSSL's order. The last fault is the verdict.
fn inspect(
    trust: &Trust,
    path: &[&Certificate],
    fault: Option<Refusal>,
    now: i64,
    origin: Origin,
) -> Result<(), Refusal> {
    let mut last = None;
    let mut report = |refusal: Refusal| last = Some(refusal);
    if path.first().is_some_and(|leaf| leaf.has_weak_key()) {
        report(Refusal::KeyTooWeak);
    }
    fault.into_iter().for_each(&mut report);
    inspect_extensions(trust, path, &mut report);
    for (index, certificate) in path.iter().enumerate() {
        if index > 0 && certificate.has_weak_key() {
            report(Refusal::IssuerKeyTooWeak);
        }
        if index + 1 < path.len() && certificate.has_weak_signature() {
            report(Refusal::DigestTooWeak);
        }
    }
    if !trust.crls.is_empty() {
        for index in 0..path.len() {
            trust.crls.check(path, index, now, &mut report);
        }
    }
    inspect_signatures(path, fault, now, origin, &mut report);
    match last {
        Some(refusal) => Err(refusal),
        // The constraints are those of hosts; a signer of OCSP responses is known by its issuer.
        None if trust.purpose == Purpose::OcspSigner => Ok(()),
        None => inspect_names(path, origin),
    }
}

/// Basic constraints, key usage, and what the extensions say of a certificate's place in a path.
fn inspect_extensions(trust: &Trust, path: &[&Certificate], mut report: impl FnMut(Refusal)) {
    let suits = |certificate: &Certificate, is_issuer| match trust.purpose {
        Purpose::Client => certificate.suits(true, is_issuer),
        Purpose::Server => certificate.suits(false, is_issuer),
        // Who may sign for which certificate is for `ocsp` to say.
        Purpose::OcspSigner => true,
    };
    // Issuers below the certificate that are not self-issued (RFC 5280 §4.2.1.9).
    let mut issuers_below = 0;
    for (index, certificate) in path.iter().enumerate() {
        let is_issuer = index > 0;
        if certificate.has_unknown_critical {
            report(Refusal::UnknownCriticalExtension);
        }
        if certificate.is_proxy {
            report(Refusal::ProxyCertificate);
        }
        let kind = certificate.ca_kind();
        // A CA that says so in an old way may be the root only.
        if is_issuer && (kind == CaKind::None || index + 1 < path.len() && kind != CaKind::Marked) {
            report(Refusal::InvalidCa);
        }
        if path.len() > 1 && certificate.has_explicit_curve() {
            report(Refusal::ExplicitCurve);
        }
        if certificate.has_invalid_extension {
            report(Refusal::InvalidExtension);
        }
        if !suits(certificate, is_issuer) {
            report(Refusal::InvalidPurpose);
        }
        if index > 1 && certificate.path_length.is_some_and(|max| issuers_below > max) {
            report(Refusal::PathLengthExceeded);
        }
        if is_issuer && !certificate.is_self_issued() {
            issuers_below += 1;
        }
    }
}

/// Signatures and dates, from the root down.
fn inspect_signatures(
    path: &[&Certificate],
    fault: Option<Refusal>,
    now: i64,
    origin: Origin,
    mut report: impl FnMut(Refusal),
) {
    for (index, certificate) in path.iter().enumerate().rev() {
        match path.get(index + 1) {
            Some(issuer) => {
                if !issuer.allows(KEY_CERT_SIGN) {
                    report(Refusal::NoCertificateSigning);
                }
                // Weak ones are refused already, and we have no algorithm to check them.
                let is_weak = certificate.has_weak_signature() || issuer.has_weak_key();
                let is_known = origin == Origin::Webpki || is_weak;
                if !is_known && !certificate.signed.is_signed_by(&issuer.key) {
                    report(Refusal::BadSignature);
                }
            }
            None if path.len() == 1 && fault.is_some() && !certificate.is_self_issued() => {
                report(Refusal::LeafSignatureUnverified);
            }
            None => {}
        }
        if now < certificate.not_before {
            report(Refusal::NotYetValid);
        }
        if certificate.not_after <= now {
            report(Refusal::Expired);
        }
    }
}

/// Name constraints are evaluated by webpki only. A path with constraints that webpki refused is refused; so is
/// one whose peer is named by a common name only, to which webpki does not apply them.
fn inspect_names(path: &[&Certificate], origin: Origin) -> Result<(), Refusal> {
    let Some((leaf, issuers)) = path.split_first() else { return Ok(()) };
    let Some(constraints) = issuers.iter().find_map(|issuer| issuer.constraints) else { return Ok(()) };
    match origin {
        Origin::Webpki if leaf.has_dns_name || !leaf.has_common_name => Ok(()),
        Origin::Built(Constraints::Violated) if constraints.has_permitted => Err(Refusal::NotPermitted),
        Origin::Built(Constraints::Violated) => Err(Refusal::Excluded),
        _ => Err(Refusal::UnsupportedConstraint),
    }
}
