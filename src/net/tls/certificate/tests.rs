//! Pairs of all kinds, pairs that do not belong together, and what certificates say about themselves.
//!
//! Touches: rcgen, and the command `openssl` for what rcgen does not make.

use std::process::Command;

use rcgen::{CertificateParams, DnType, KeyPair, SignatureAlgorithm};

use super::*;

fn none() -> Passwords {
    Passwords::default()
}

/// A self-signed certificate with its key.
fn pair(algorithm: &'static SignatureAlgorithm, names: &[&str], common: &str) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, common);
    params.not_before = rcgen::date_time_ymd(2024, 2, 29);
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// A self-signed certificate and its key of `openssl req` with these words.
fn openssl_pair(words: &str) -> (String, String) {
    let folder = tempfile::tempdir().expect("a directory");
    let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
    let run = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "3", "-subj", "/CN=old.example"])
        .args(words.split(' '))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(run.status.success(), "{words}: {}", String::from_utf8_lossy(&run.stderr));
    let read = |path| std::fs::read_to_string(path).expect("openssl wrote it");
    (read(&certificate), read(&key))
}

fn load(pair: &(String, String)) -> Result<Certificate, Error> {
    Certificate::from_pem(pair.0.as_bytes(), pair.1.as_bytes(), &none())
}

#[test]
fn all_kinds_of_keys_load() {
    for (algorithm, kind) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcdsaP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcdsaP384),
        (&rcgen::PKCS_ECDSA_P521_SHA512, KeyKind::EcdsaP521),
        (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa),
    ] {
        let pair = pair(algorithm, &["a.example"], "a.example");
        let loaded = load(&pair).expect("a pair");
        assert_eq!(loaded.key_kind(), kind);
        assert!(loaded.certified_key().keys_match().is_ok());
    }
    let explicit = openssl_pair("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit");
    let loaded = load(&explicit).map(|loaded| loaded.key_kind());
    assert_eq!(loaded, Ok(KeyKind::EcdsaP256));
    let small = openssl_pair("-newkey rsa:1024");
    let error = load(&small).map(|_| ()).expect_err("too short");
    assert!(matches!(&error, Error::KeyRejected(reason) if reason.contains("2048")), "{error}");
}

#[test]
fn a_certificate_tells_names_dates_and_its_digest() {
    let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let named = pair(algorithm, &["A.example", "*.a.example", "192.0.2.1"], "ignored.example");
    let loaded = load(&named).expect("a pair");
    assert_eq!(loaded.names(), ["a.example".into(), "*.a.example".into()]);
    assert_eq!((loaded.not_before_s(), loaded.not_after_s()), (1_709_164_800, 2_524_608_000));
    assert_eq!(loaded.chain().len(), 1);
    let digest = digest::digest(&digest::SHA256, &loaded.chain()[0]);
    assert_eq!(loaded.fingerprint()[..], *digest.as_ref());
    assert_eq!(
        load(&pair(algorithm, &[], "Common.example")).expect("a pair").names(),
        ["common.example".into()]
    );
    let shown = format!("{loaded:?} {:?}", loaded.certified_key().key);
    assert!(shown.contains("a.example") && shown.contains("EcdsaP256"), "{shown}");
}

#[test]
fn pairs_that_do_not_match_are_refused() {
    let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let (one, other) = (pair(algorithm, &["a"], "a"), pair(algorithm, &["a"], "a"));
    let edwards = pair(&rcgen::PKCS_ED25519, &["a"], "a");
    for key in [&other.1, &edwards.1] {
        let error = load(&(one.0.clone(), key.clone())).map(|_| ());
        assert_eq!(error, Err(Error::Mismatch));
        assert!(Error::Mismatch.to_string().contains("key values mismatch"));
    }
    // The chain in the wrong order.
    let swapped = (format!("{}{}", other.0, one.0), one.1.clone());
    assert_eq!(load(&swapped).map(|_| ()), Err(Error::Mismatch));
    let chain = (format!("{}{}", one.0, other.0), one.1.clone());
    assert_eq!(load(&chain).expect("a pair").chain().len(), 2);
    // One file for both.
    let both = format!("{}{}", one.1, one.0);
    assert!(load(&(both.clone(), both)).is_ok());
    let missing = load(&(one.1.clone(), one.1.clone())).map(|_| ());
    assert_eq!(missing, Err(Error::Certificate(pem::Error::NoCertificate)));
    let missing = load(&(one.0.clone(), one.0.clone())).map(|_| ());
    assert_eq!(missing, Err(Error::Key(pem::Error::NoKey)));
}

#[test]
fn malformed_certificates_are_counted() {
    let one = pair(&rcgen::PKCS_ECDSA_P256_SHA256, &["a"], "a");
    let broken = "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n";
    let error = |chain: String| load(&(chain, one.1.clone())).map(|_| ()).expect_err("it is broken");
    assert_eq!(error(broken.to_owned()), Error::Malformed { index: 0 });
    assert_eq!(error(format!("{}{broken}", one.0)), Error::Malformed { index: 1 });
}

#[test]
fn a_response_is_stapled_to_a_copy() {
    let loaded = load(&pair(&rcgen::PKCS_ED25519, &["a"], "a")).expect("a pair");
    let stapled = loaded.clone().with_ocsp(vec![1, 2]);
    assert_eq!(stapled.certified_key().ocsp.as_deref(), Some(&[1, 2][..]));
    assert!(loaded.certified_key().ocsp.is_none());
    assert!(Arc::ptr_eq(&stapled.certified_key().key, &loaded.certified_key().key));
    assert!(stapled.with_ocsp(Vec::new()).certified_key().ocsp.is_none());
}
