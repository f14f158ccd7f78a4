//! Whether a certificate is for a host, beside `openssl x509 -checkhost`.

use std::net::IpAddr;

use rcgen::SanType;
use rustls_pki_types::CertificateDer;

use super::lab::{Entity, Folder, plain};
use crate::net::tls::verify::{Names, Purpose, Refusal, Trust};

/// Not among them: a host with a dot at its begin, which for OpenSSL is any host below. We take none for it.
const HOSTS: [&str; 11] = [
    "example.com",
    "www.example.com",
    "a.b.example.com",
    "wxy.example.com",
    "xn--wxy.example.com",
    "common.example",
    "*.example.com",
    "192.0.2.1",
    "www.com",
    "192.0.2.9",
    "café.example",
];

fn certificate(common: &str, names: &[SanType]) -> CertificateDer<'static> {
    let change = |params: &mut rcgen::CertificateParams| params.subject_alt_names = names.to_vec();
    Entity::single(common, &change).der
}

#[test]
fn agree_with_openssl() {
    let folder = Folder::new();
    let dns = |name: &str| SanType::DnsName(name.try_into().expect("ASCII"));
    let address = SanType::IpAddress(IpAddr::from([192, 0, 2, 1]));
    let mail = SanType::Rfc822Name("root@example.com".try_into().expect("ASCII"));
    let single = |name: &str| vec![dns(name)];
    for (common, names) in [
        ("common.example", vec![]),
        ("192.0.2.1", vec![]),
        ("*.example.com", vec![]),
        ("common.example", vec![mail]),
        ("common.example", vec![address.clone()]),
        ("192.0.2.9", vec![address.clone()]),
        ("common.example", vec![address, dns("example.com")]),
        ("common.example", single("example.com")),
        ("common.example", single("*.example.com")),
        ("common.example", single("w*.example.com")),
        ("common.example", single("*y.example.com")),
        ("common.example", single("w*y.example.com")),
        ("common.example", single("*.com")),
        ("common.example", single("*")),
        ("common.example", single("*.*.com")),
        ("common.example", single("*_*.example.com")),
        ("common.example", single("-*.example.com")),
        ("common.example", single("w-*.example.com")),
        ("common.example", single("*-.example.com")),
        ("common.example", single("*-y.example.com")),
        ("common.example", single("*.example.com.")),
        ("common.example", single("xn--*.example.com")),
        ("café.example", vec![]),
    ] {
        let der = certificate(common, &names);
        std::fs::write(folder.path("c.der"), &der).expect("a file");
        for host in HOSTS {
            let ours = Names::of(&der).check(host);
            // nginx compares addresses as if they were names; we look at the alternative names too.
            if names.iter().any(|name| matches!(name, SanType::IpAddress(_))) && host.starts_with("192") {
                let is_same = host == "192.0.2.1" || common == host;
                assert_eq!(
                    ours,
                    if is_same { Ok(()) } else { Err(Refusal::AddressMismatch) },
                    "{common} {host}"
                );
                continue;
            }
            let (_, text) =
                folder.openssl(&["x509", "-in", "c.der", "-inform", "DER", "-noout", "-checkhost", host]);
            assert!(text.contains("match certificate"), "{text}");
            assert_eq!(ours.is_ok(), text.contains("does match"), "{common} {names:?}: {host}");
        }
    }
}

#[test]
fn a_trusted_certificate_without_a_name_is_for_any_host() {
    let nameless = Entity::single("x", &|params| {
        params.subject_alt_names.clear();
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    let named = Entity::single("named.example", &plain);
    let check = |trusted: &[&CertificateDer<'static>], der| {
        let trust = Trust::new(Purpose::Server, 1, trusted.iter().copied(), []).expect("readable");
        trust.check_name(der, "any.example")
    };
    assert_eq!(check(&[&nameless.der], &nameless.der), Ok(()));
    assert_eq!(check(&[&named.der], &nameless.der), Err(Refusal::HostnameMismatch));
    assert_eq!(check(&[&named.der], &named.der), Err(Refusal::HostnameMismatch));
}
