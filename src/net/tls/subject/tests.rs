//! Each text beside that of the openssl command.

use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString, UniversalString};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber};
use rustls_pki_types::CertificateDer;

use super::*;
use crate::net::tls::verify::tests::lab::Folder;

fn certificate(change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
}

fn named(name: DistinguishedName) -> CertificateDer<'static> {
    certificate(|params| params.distinguished_name = name.clone())
}

/// What `openssl x509` prints behind the first `=`.
fn openssl(folder: &Folder, der: &[u8], words: &[&str]) -> String {
    std::fs::write(folder.path("certificate.der"), der).expect("a file");
    let fixed = ["x509", "-in", "certificate.der", "-inform", "DER", "-noout"];
    let (is_done, text) = folder.openssl(&[&fixed[..], words].concat());
    assert!(is_done, "{text}");
    let (_, value) = text.split_once('=').expect("name=value");
    value.trim_end_matches('\n').to_owned()
}

fn check_names(folder: &Folder, der: &[u8]) {
    let subject = Subject::parse(der).expect("a certificate");
    assert_eq!(subject.subject_dn(), openssl(folder, der, &["-subject", "-nameopt", "RFC2253"]));
    assert_eq!(subject.issuer_dn(), openssl(folder, der, &["-issuer", "-nameopt", "RFC2253"]));
    assert_eq!(subject.subject_dn_legacy(), openssl(folder, der, &["-subject", "-nameopt", "compat"]));
    assert_eq!(subject.issuer_dn_legacy(), openssl(folder, der, &["-issuer", "-nameopt", "compat"]));
}

#[test]
fn names_have_the_order_and_escapes_of_openssl() {
    let folder = Folder::new();
    let values: Vec<DnValue> = vec![
        "plain".into(),
        "#begin, middle; end ".into(),
        " a\"b\\c<d>e+f=g/h*".into(),
        "#".into(),
        " ".into(),
        "a#".into(),
        "ключ €\u{1f600}".into(),
        "\u{1}\u{7f}\t".into(),
        DnValue::PrintableString(PrintableString::try_from("Printable (1)").expect("printable")),
        DnValue::Ia5String(Ia5String::try_from("a@b, c").expect("ASCII")),
        DnValue::TeletexString(TeletexString::try_from("Teletex").expect("Teletex")),
        DnValue::BmpString(BmpString::try_from("Schlüssel, €").expect("BMP")),
        DnValue::UniversalString(UniversalString::try_from(", \u{1f600}").expect("UTF-32")),
    ];
    for value in values {
        let mut name = DistinguishedName::new();
        name.push(DnType::CountryName, "DE");
        name.push(DnType::OrganizationName, value.clone());
        name.push(DnType::CommonName, value);
        name.push(DnType::CustomDnType(vec![1, 2, 3, 4, 99_999]), "unknown");
        check_names(&folder, &named(name));
    }
    // The command writes a line for each name: no line feed.
    let letters: Vec<char> = (1..128_u8).map(char::from).filter(|letter| *letter != '\n').collect();
    for letters in letters.chunks(25) {
        let mut name = DistinguishedName::new();
        for (index, letter) in letters.iter().enumerate() {
            // Three places, and alone.
            let mut push = |kind, value| name.push(DnType::CustomDnType(vec![2, 5, 4, kind]), value);
            push(3 + 2 * index as u64, format!("{letter}a{letter}b{letter}"));
            push(4 + 2 * index as u64, letter.to_string());
        }
        check_names(&folder, &named(name));
    }
}

#[test]
fn attributes_have_the_short_names_of_openssl() {
    let folder = Folder::new();
    let mut name = DistinguishedName::new();
    let mut push = |oid: &[u64]| name.push(DnType::CustomDnType(oid.to_vec()), "x");
    (1..=110).for_each(|kind| push(&[2, 5, 4, kind]));
    (1..=9).chain([20]).for_each(|kind| push(&[1, 2, 840, 113_549, 1, 9, kind]));
    [1, 2, 3, 4, 5, 6, 8, 9, 10, 20, 21, 25, 37, 38, 40, 41, 44]
        .into_iter()
        .for_each(|kind| push(&[0, 9, 2342, 19_200_300, 100, 1, kind]));
    (1..=3).for_each(|kind| push(&[1, 3, 6, 1, 4, 1, 311, 60, 2, 1, kind]));
    (1..=5).for_each(|kind| push(&[1, 2, 643, 100, kind]));
    push(&[1, 2, 643, 3, 131, 1, 1]);
    check_names(&folder, &named(name));
}

#[test]
fn a_part_may_have_several_attributes() {
    let folder = Folder::new();
    folder.write("none.cnf", "[req]\ndistinguished_name=name\n[name]\n");
    folder.run(
        "req -x509 -config none.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem \
         -subj /O=Example/CN=one+OU=two+UID=three/C=DE -multivalue-rdn -outform DER -out multi.der",
    );
    check_names(&folder, &std::fs::read(folder.path("multi.der")).expect("a certificate"));
    check_names(&folder, &named(DistinguishedName::new()));
}

#[test]
fn numbers_dates_and_pem() {
    let folder = Folder::new();
    let serials = [&[1][..], &[0], &[0x7f; 20], &[0xff, 0, 1], &[0, 0, 0x80]];
    let dates = [(2026, 11, 9), (1999, 12, 31), (2049, 2, 28), (2050, 1, 1), (9999, 12, 31)];
    for (serial, (year, month, day)) in serials.into_iter().zip(dates) {
        let der = certificate(|params| {
            params.serial_number = Some(SerialNumber::from_slice(serial));
            params.not_before = rcgen::date_time_ymd(1970, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, month, day)
                + std::time::Duration::from_secs(5 * 3600 + 7 * 60 + 9);
        });
        let subject = Subject::parse(&der).expect("a certificate");
        assert_eq!(subject.serial(), openssl(&folder, &der, &["-serial"]));
        assert_eq!(subject.not_before(), openssl(&folder, &der, &["-startdate"]));
        assert_eq!(subject.not_after(), openssl(&folder, &der, &["-enddate"]));
        let fingerprint = openssl(&folder, &der, &["-fingerprint", "-sha1"]);
        assert_eq!(subject.fingerprint(), fingerprint.replace(':', "").to_lowercase());
        let (_, pem) = folder.openssl(&["x509", "-in", "certificate.der", "-inform", "DER"]);
        assert_eq!(subject.pem(), pem.as_bytes());
        assert_eq!(subject.pem_folded(), pem.trim_end().replace('\n', "\n\t").as_bytes());
        let end_s = subject.not_after_s();
        assert_eq!(subject.days_remaining(end_s - 86_400), 1);
        assert_eq!(subject.days_remaining(end_s - 86_399), 0);
        assert_eq!(subject.days_remaining(end_s + 86_400 * 9), 0);
    }
    let der = certificate(|_| {});
    let escaped = Subject::parse(&der).expect("a certificate").pem_escaped();
    assert!(escaped.starts_with(b"-----BEGIN%20CERTIFICATE-----%0AMII") && escaped.ends_with(b"-----%0A"));
    assert!(Subject::parse(&der[1..]).is_none());
}

#[test]
fn negative_serial_numbers_have_a_sign() {
    let folder = Folder::new();
    folder.write("none.cnf", "[req]\ndistinguished_name=name\n[name]\n");
    for serial in ["-1", "-128", "-129", "-0x1234567890", "-0x8000"] {
        folder.run(&format!(
            "req -x509 -config none.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem \
             -subj /CN=x -set_serial {serial} -outform DER -out negative.der"
        ));
        let der = std::fs::read(folder.path("negative.der")).expect("a certificate");
        let serial = Subject::parse(&der).expect("a certificate").serial();
        assert_eq!(serial, openssl(&folder, &der, &["-serial"]));
    }
}
