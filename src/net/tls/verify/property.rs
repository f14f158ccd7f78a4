//! Properties that hold for every chain and every list, for the fuzz target (`fuzz/`) and the property tests here.
//!
//! Touches: nothing; panics when a property does not hold.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::certificate::Certificate;
use super::{Names, Purpose, Refusal, Trust};
use crate::net::tls::subject::Subject;

/// Splits `data` into elements, each behind its length in two bytes, and takes them for a chain, the last of
/// which is trusted too, as a certificate or a CRL: no panic, and the same verdict twice.
pub fn reads_chain(data: &[u8]) {
    let Some((&settings, mut rest)) = data.split_first() else { return };
    let mut elements = Vec::new();
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (element, after) = after.split_at(length);
        elements.push(element);
        rest = after;
    }
    for element in &elements {
        reads_certificate(element);
    }
    let purpose = if settings & 1 == 0 { Purpose::Client } else { Purpose::Server };
    let chain: Vec<CertificateDer<'_>> = elements.iter().map(|der| CertificateDer::from(*der)).collect();
    let lists: Vec<_> = elements.iter().map(|der| CertificateRevocationListDer::from(*der)).collect();
    let readable = |der: &&CertificateDer<'_>| Certificate::parse(der).is_ok();
    let trusted: Vec<_> = chain.iter().rev().take(usize::from(settings >> 1 & 3)).filter(readable).collect();
    let lists = lists.iter().filter(|list| super::crl::Crl::parse(list).is_ok());
    let depth = usize::from(settings >> 3 & 3);
    let trust = Trust::new(purpose, depth, trusted.iter().copied(), lists).expect("readable files");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let verdict = trust.check(&chain, now);
    assert_eq!(trust.check(&chain, now), verdict);
    if trusted.is_empty() {
        assert_ne!(verdict, Ok(()));
    }
    if chain.iter().any(|der| Certificate::parse(der).is_err()) {
        assert!(matches!(verdict, Err(Refusal::Unspecified | Refusal::ChainTooLong)));
    }
}

/// Reads `data` as one certificate: what is shown of it is ASCII, and its names are compared without a panic.
pub fn reads_certificate(data: &[u8]) {
    if let Some(subject) = Subject::parse(data) {
        let texts = [
            subject.subject_dn(),
            subject.issuer_dn(),
            subject.subject_dn_legacy(),
            subject.issuer_dn_legacy(),
            subject.serial(),
            subject.fingerprint(),
            subject.not_before(),
            subject.not_after(),
        ];
        for text in texts {
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
        }
        assert!(subject.days_remaining(1_800_000_000) >= 0);
        assert!(!subject.pem_folded().ends_with(b"\n"));
    }
    let names = Names::of(data);
    for name in names.dns.iter().chain(&names.common) {
        let _ = names.check(name);
    }
    for host in ["www.example.com", "xn--a.example.com", "192.0.2.1", "[2001:db8::1]", ""] {
        let _ = names.check(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::verify::tests::lab::{Entity, now, plain};

    fn pack(settings: u8, elements: &[&[u8]]) -> Vec<u8> {
        let mut data = vec![settings];
        for element in elements {
            data.extend_from_slice(&u16::try_from(element.len()).expect("small").to_be_bytes());
            data.extend_from_slice(element);
        }
        data
    }

    #[test]
    fn any_bytes_are_a_chain() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            reads_chain(bytes);
            reads_certificate(bytes);
        });
    }

    /// A chain in which bytes are changed is never accepted, if the peer's certificate is among them; the
    /// change of another one leads to no panic.
    #[test]
    fn no_changed_certificate_is_accepted() {
        let root = Entity::root("Root", &plain);
        let one = root.ca("One", &plain);
        let leaf = one.leaf("leaf.example", &plain);
        let crl = one.crl(&[5], &|_| {});
        let elements = [leaf.der.to_vec(), one.der.to_vec(), root.der.to_vec(), crl.to_vec()];
        let trust = Trust::new(Purpose::Client, 1, [&root.der], []).expect("readable");
        let check = |leaf: &[u8]| trust.check(&[CertificateDer::from(leaf), one.der.clone()], now());
        assert_eq!(check(&leaf.der), Ok(()));
        bolero::check!().with_type::<(u8, u8, Vec<(u16, u8)>)>().for_each(|(settings, which, changes)| {
            let mut changed = elements.clone();
            let element = &mut changed[usize::from(*which) % elements.len()];
            for (at, mask) in changes {
                let at = usize::from(*at) % element.len();
                element[at] ^= mask;
            }
            reads_chain(&pack(*settings, &changed.each_ref().map(Vec::as_slice)));
            let verdict = check(&changed[0]);
            assert_eq!(verdict.is_ok(), changed[0] == elements[0]);
        });
        // One bit at a time.
        for at in 0..leaf.der.len() * 8 {
            let mut changed = leaf.der.to_vec();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(check(&changed).is_err(), "bit {at}");
        }
    }
}
