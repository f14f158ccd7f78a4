//! Files of the `openssl` command in all its encodings and encryptions, and hostile ones.
//!
//! Touches: the command `openssl`, which makes every key; none is kept.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// Runs `openssl` with these words and this input, with the ciphers of old files, and returns what it writes.
fn openssl(words: &str, input: &[u8]) -> Vec<u8> {
    let mut words = words.split(' ').collect::<Vec<_>>();
    if matches!(words[0], "rsa" | "ec" | "pkcs8" | "pkey") {
        words.extend(["-provider", "legacy", "-provider", "default"]);
    }
    let mut child = Command::new("openssl")
        .args(&words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn rsa() -> Vec<u8> {
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -quiet", b"")
}

fn ec(curve: &str) -> Vec<u8> {
    openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve}"), b"")
}

fn passwords(text: &str) -> Passwords {
    Passwords::read(text.as_bytes()).expect("short lines")
}

fn none() -> Passwords {
    Passwords::default()
}

/// The key in the form without encryption, for comparisons.
fn der(pem: &[u8], passwords: &Passwords) -> Vec<u8> {
    private_key(pem, passwords).expect("a key").secret_der().to_vec()
}

#[test]
fn password_files_read_as_in_nginx() {
    let lines = |text: &[u8]| -> Vec<Vec<u8>> {
        Passwords::read(text).expect("short lines").iter().map(<[u8]>::to_vec).collect()
    };
    assert_eq!(lines(b"one\ntwo\r\n\n three \nlast"), [&b"one"[..], b"two", b" three ", b"last"]);
    assert!(lines(b"").is_empty() && lines(b"\n\r\n").is_empty());
    assert!(Passwords::read(&[b'x'; PASSWORD_BYTES_MAX - 1]).is_ok());
    assert!(matches!(Passwords::read(&[b'x'; PASSWORD_BYTES_MAX]), Err(Error::LongPassword)));
    assert_eq!(format!("{:?}", passwords("secret\n")), "Passwords(1)");
}

#[test]
fn keys_without_encryption() {
    let rsa = rsa();
    assert!(matches!(*private_key(&rsa, &none()).expect("a key"), PrivateKeyDer::Pkcs8(_)));
    let old = openssl("rsa -traditional", &rsa);
    assert!(matches!(*private_key(&old, &none()).expect("a key"), PrivateKeyDer::Pkcs1(_)));
    for curve in ["P-256", "P-384", "P-521"] {
        let ec = ec(curve);
        assert!(matches!(*private_key(&ec, &none()).expect("a key"), PrivateKeyDer::Pkcs8(_)));
        let old = openssl("ec", &ec);
        assert!(matches!(*private_key(&old, &none()).expect("a key"), PrivateKeyDer::Sec1(_)));
    }
    // This command writes "EC PARAMETERS" in front.
    let old = openssl("ecparam -name prime256v1 -genkey", b"");
    assert!(old.starts_with(b"-----BEGIN EC PARAMETERS-----"));
    assert!(matches!(*private_key(&old, &none()).expect("a key"), PrivateKeyDer::Sec1(_)));
    let edwards = openssl("genpkey -algorithm ED25519", b"");
    assert!(matches!(*private_key(&edwards, &none()).expect("a key"), PrivateKeyDer::Pkcs8(_)));
}

#[test]
fn old_encryption_in_all_ciphers() {
    let key = ec("P-256");
    let plain = der(&openssl("ec", &key), &none());
    for cipher in ["aes128", "aes192", "aes256", "des3", "des"] {
        let sealed = openssl(&format!("ec -{cipher} -passout pass:hidden"), &key);
        assert!(sealed.windows(10).any(|part| part == b"DEK-Info: "), "{cipher}");
        assert_eq!(der(&sealed, &passwords("wrong\nhidden\nother\n")), plain, "{cipher}");
        let refused = |passwords: &Passwords| private_key(&sealed, passwords).map(|_| ());
        assert_eq!(refused(&none()), Err(Error::Encrypted));
        assert_eq!(refused(&passwords("wrong\nhidden \n")), Err(Error::NoPasswordFits), "{cipher}");
    }
    let sealed = openssl("ec -camellia128 -passout pass:hidden", &key);
    let error = private_key(&sealed, &passwords("hidden")).map(|_| ());
    assert_eq!(error, Err(Error::UnsupportedEncryption("CAMELLIA-128-CBC".to_owned())));
    let rsa = rsa();
    let sealed = openssl("rsa -traditional -aes256 -passout pass:hidden", &rsa);
    let crlf = String::from_utf8(sealed).expect("text").replace('\n', "\r\n");
    let plain = der(&openssl("rsa -traditional", &rsa), &none());
    assert_eq!(der(crlf.as_bytes(), &passwords("hidden")), plain);
}

#[test]
fn pkcs8_encryption_in_all_schemes() {
    let key = ec("P-256");
    let plain = der(&key, &none());
    for scheme in [
        "-v2 aes-128-cbc",
        "-v2 aes-192-cbc",
        "-v2 aes-256-cbc",
        "-v2 des3",
        "-v2 des",
        "-v2 aes-256-cbc -v2prf hmacWithSHA1",
        "-v2 aes-256-cbc -v2prf hmacWithSHA384",
        "-v2 aes-256-cbc -v2prf hmacWithSHA512",
        "-v2 aes-256-cbc -iter 20000",
        "-scrypt -scrypt_N 1024",
    ] {
        let sealed = openssl(&format!("pkcs8 -topk8 {scheme} -passout pass:hidden"), &key);
        assert!(sealed.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        assert_eq!(der(&sealed, &passwords("wrong\nhidden\n")), plain, "{scheme}");
        let refused = |passwords: &Passwords| private_key(&sealed, passwords).map(|_| ());
        assert_eq!(refused(&none()), Err(Error::Encrypted));
        assert_eq!(refused(&passwords("wrong")), Err(Error::NoPasswordFits), "{scheme}");
    }
    for scheme in ["-v1 PBE-MD5-DES", "-v1 PBE-SHA1-3DES", "-v2 camellia-128-cbc"] {
        let sealed = openssl(&format!("pkcs8 -topk8 {scheme} -passout pass:hidden"), &key);
        let error = private_key(&sealed, &passwords("hidden")).map(|_| ());
        assert!(matches!(error, Err(Error::UnsupportedEncryption(_))), "{scheme}: {error:?}");
    }
}

#[test]
fn costly_encryption_is_refused() {
    let key = ec("P-256");
    let sealed = openssl("pkcs8 -topk8 -v2 aes-256-cbc -iter 5000 -passout pass:hidden", &key);
    let within = |sealed: &[u8], costs| private_key_within(sealed, &passwords("hidden"), costs).map(|_| ());
    let tight = Costs { pbkdf2_iterations_max: 4999, ..Costs::default() };
    assert_eq!(within(&sealed, tight), Err(Error::CostlyEncryption));
    let sealed = openssl("pkcs8 -topk8 -scrypt -scrypt_N 1024 -scrypt_r 8 -passout pass:hidden", &key);
    let tight = Costs { scrypt_memory_bytes_max: (1 << 20) - 1, ..Costs::default() };
    assert_eq!(within(&sealed, tight), Err(Error::CostlyEncryption));
    let wide = Costs { scrypt_memory_bytes_max: 1 << 20, ..Costs::default() };
    assert_eq!(within(&sealed, wide), Ok(()));
    // The cost as a hostile file has it: 1024 is `02 02 04 00`.
    let text = String::from_utf8(sealed).expect("text");
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = base64::decode(body.as_bytes()).expect("base64");
    let at = der.windows(4).position(|part| part == [2, 2, 4, 0]).expect("the cost");
    for (cost, expected) in [
        ([0x7f, 0xff], Error::CostlyEncryption),
        ([0x00, 0x00], Error::UnsupportedEncryption("an unknown scheme".to_owned())),
        ([0x02, 0x01], Error::NoPasswordFits),
    ] {
        der[at + 2..at + 4].copy_from_slice(&cost);
        assert_eq!(within(&block("ENCRYPTED PRIVATE KEY", &der), wide), Err(expected), "{cost:?}");
    }
    let defaults = Costs::default();
    assert!(defaults.pbkdf2_iterations_max >= 1_000_000 && defaults.scrypt_memory_bytes_max >= 32 << 20);
}

#[test]
fn keys_of_other_kinds_are_named() {
    let kind = |pem: &[u8]| match private_key(pem, &none()).map(|_| ()) {
        Err(Error::UnsupportedKey(kind)) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(&openssl("genpkey -algorithm X25519", b"")), "X25519");
    assert_eq!(kind(&openssl("genpkey -algorithm ED448", b"")), "Ed448");
    assert_eq!(
        kind(&openssl("genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -quiet", b"")),
        "RSA-PSS"
    );
    assert_eq!(kind(&ec("secp256k1")), "EC on the curve 1.3.132.0.10");
    assert_eq!(kind(&block("DSA PRIVATE KEY", &[0x30, 0])), "DSA");
    assert_eq!(kind(&block("OPENSSH PRIVATE KEY", b"openssh")), "OpenSSH");
    assert!(private_key(&block("PUBLIC KEY", &[0x30, 0]), &none()).is_err_and(|error| error == Error::NoKey));
}

#[test]
fn files_hold_more_than_one_block() {
    let own = block("CERTIFICATE", &[0x30, 1, 1]);
    let other = block("X509 CERTIFICATE", &[0x30, 1, 2]);
    let trusted = block("TRUSTED CERTIFICATE", &[0x30, 1, 3, 0x30, 2, 4, 0]);
    let revoked = block("X509 CRL", &[0x30, 1, 5]);
    let key = openssl("genpkey -algorithm ED25519", b"");
    let text = b"subject=CN = a\nAn =editor's: note\n".to_vec();
    let file = [b"\xef\xbb\xbf".to_vec(), own, text, key.clone(), trusted, revoked, other].concat();
    let crlf = String::from_utf8_lossy(&file).replace('\n', "\r\n").into_bytes();
    for file in [file, crlf] {
        let expected: [&[u8]; 3] = [&[0x30, 1, 1], &[0x30, 1, 3], &[0x30, 1, 2]];
        assert_eq!(certificates(&file).expect("three"), expected.map(CertificateDer::from));
        assert_eq!(revocation_lists(&file).expect("one").len(), 1);
        assert_eq!(der(&file, &none()), der(&key, &none()));
    }
    assert_eq!(certificates(&key), Err(Error::NoCertificate));
    assert_eq!(certificates(b""), Err(Error::NoCertificate));
    assert_eq!(revocation_lists(&key), Err(Error::NoRevocationList));
}

#[test]
fn trusted_certificates_of_openssl_lose_their_settings() {
    let key = ec("P-256");
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("key.pem");
    std::fs::write(&path, key).expect("it is written");
    let plain = openssl(&format!("req -x509 -key {} -subj /CN=a -days 3", path.display()), b"");
    let trusted = openssl("x509 -trustout -addtrust serverAuth", &plain);
    assert!(trusted.starts_with(b"-----BEGIN TRUSTED CERTIFICATE-----"));
    assert_eq!(certificates(&trusted), certificates(&plain));
}

#[test]
fn broken_blocks_are_named_by_their_line() {
    let good = String::from_utf8(block("CERTIFICATE", &[0x30, 1, 1])).expect("text");
    let error = |text: &str| certificates(text.as_bytes()).expect_err("it is broken");
    let bad = |body: &str| format!("text\n-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n");
    assert_eq!(error(&good[..good.len() - 10]), Error::Unclosed { line: 1 });
    assert_eq!(error(&format!("{good}-----BEGIN CERTIFICATE-----\nMAEB")), Error::Unclosed { line: 4 });
    assert_eq!(
        error("-----BEGIN CERTIFICATE-----\nMAEB\n-----END X509 CRL-----\n"),
        Error::Unclosed { line: 1 }
    );
    assert_eq!(error(&bad("-----BEGIN CERTIFICATE-----\n")), Error::Unclosed { line: 2 });
    for body in ["MAEB!\n", "MAE\n", "MA==MAEB\n", "=\n", "\n", ""] {
        assert_eq!(error(&bad(body)), Error::NotBase64 { line: 2 }, "{body:?}");
    }
    for body in ["MAIB\n", "MAEBAA==\n", "BAEB\n", "MIT/////AQ==\n"] {
        assert_eq!(error(&bad(body)), Error::NotDer { line: 2 }, "{body:?}");
    }
    assert!(certificates(bad("MA\n EB \n").as_bytes()).is_ok());
    let large = vec![b'\n'; KEY_FILE_BYTES_MAX + 1];
    assert!(private_key(&large, &none()).is_err_and(|error| error == Error::TooLarge(KEY_FILE_BYTES_MAX)));
    for how in ["", "AES-128-CBC", "AES-128-CBC,", "AES-128-CBC,00", "AES-128-CBC,zz", "AES-128-CBC,é0"] {
        let sealed = format!(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: {how}\n\nMAEB\n\
             -----END RSA PRIVATE KEY-----\n"
        );
        let error = private_key(sealed.as_bytes(), &passwords("hidden")).map(|_| ());
        assert_eq!(error, Err(Error::NotDer { line: 1 }), "{how}");
    }
}

fn block(label: &str, der: &[u8]) -> Vec<u8> {
    let mut out = format!("-----BEGIN {label}-----\n").into_bytes();
    base64::encode(der, &mut out);
    out.extend_from_slice(format!("\n-----END {label}-----\n").as_bytes());
    out
}
