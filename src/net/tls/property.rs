//! Properties that hold for every file and every list an operator writes for TLS, and for every connection that
//! another process hands over, for the fuzz targets (`fuzz/`) and the property tests here.
//!
//! Touches: nothing; panics when a property does not hold.

use super::encrypted_key::Costs;
use super::moved::{Moved, TLS_BYTES_MAX};
use super::pem::{self, Passwords};
use super::record::PLAIN_BYTES_MAX;
use super::settings::{self, Selected};
use super::{ciphers, conf_command};

/// A few rounds of PBKDF2 only: fuzzing tries many files a second.
const CHEAP: Costs =
    Costs { pbkdf2_iterations_max: 10, scrypt_memory_bytes_max: 64 << 10, scrypt_parallelization_max: 1 };

/// Reads `data` as each kind of PEM file: no panic, and what was found is DER that a PEM file of ours gives
/// back.
pub fn reads_pem(data: &[u8]) {
    let passwords = Passwords::read(b"first\nsecond\r\n").expect("two short lines");
    if let Ok(found) = pem::certificates(data) {
        assert!(!found.is_empty() && found.iter().map(|der| der.len()).sum::<usize>() <= data.len());
        let copy: Vec<u8> = found.iter().flat_map(|der| written("CERTIFICATE", der)).collect();
        assert_eq!(pem::certificates(&copy).as_ref(), Ok(&found));
    }
    if let Ok(found) = pem::revocation_lists(data) {
        let copy: Vec<u8> = found.iter().flat_map(|der| written("X509 CRL", der)).collect();
        assert_eq!(pem::revocation_lists(&copy).as_ref(), Ok(&found));
    }
    for passwords in [Passwords::default(), passwords] {
        if let Ok(key) = pem::private_key_within(data, &passwords, CHEAP) {
            let label = match &*key {
                rustls_pki_types::PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
                rustls_pki_types::PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
                _ => "PRIVATE KEY",
            };
            let copy = written(label, key.secret_der());
            let again = pem::private_key(&copy, &Passwords::default()).expect("a copy in the clear");
            assert_eq!(again.secret_der(), key.secret_der());
        }
    }
    if let Ok(passwords) = Passwords::read(data) {
        let clean = |line: &[u8]| !line.is_empty() && !line.contains(&b'\n');
        assert!(passwords.iter().all(clean));
    }
}

/// Reads `text` as each kind of list in the configuration: no panic, nothing twice, and never an empty
/// selection.
pub fn reads_lists(text: &str) {
    for list in [ciphers::ciphers(text), ciphers::ciphersuites(text)].into_iter().flatten() {
        let suites = list.value.iter().map(|suite| suite.suite());
        assert!(!list.value.is_empty() && is_distinct(suites));
        assert!(list.dropped.len() <= text.len());
    }
    if let Ok(list) = settings::groups(text) {
        assert!(!list.value.is_empty() && is_distinct(list.value.iter().map(|group| group.name())));
    }
    if let Ok(list) = settings::protocols(text.split(' ')) {
        assert!(list.value.tls12 || list.value.tls13);
    }
    let (name, value) = text.split_once(' ').unwrap_or((text, ""));
    let mut selected = Selected::default();
    if conf_command::apply(&mut selected, name, value).is_ok() {
        assert!(selected.protocols.tls12 || selected.protocols.tls13);
        assert!(!selected.ciphers.is_empty() && !selected.groups.is_empty());
    }
}

/// Reads `data` as a connection from a hostile process: no panic, nothing longer than the limit, and what is
/// accepted is written as it was read.
pub fn reads_moved(data: &[u8]) {
    let Some(moved) = Moved::from_bytes(data) else { return };
    assert!(data.len() <= TLS_BYTES_MAX);
    assert!((1..=PLAIN_BYTES_MAX).contains(&moved.record_bytes), "records of {}", moved.record_bytes);
    let copy = moved.to_bytes().expect("as short as it was");
    assert!(*copy == data, "another connection");
    let info = &moved.info;
    let _ = (info.server_name(), info.is_tls13, format!("{moved:?}"));
}

fn is_distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> bool {
    let items: Vec<T> = items.collect();
    items.iter().enumerate().all(|(index, item)| !items[..index].contains(item))
}

fn written(label: &str, der: &[u8]) -> Vec<u8> {
    let mut out = format!("-----BEGIN {label}-----\n").into_bytes();
    crate::base::base64::encode(der, &mut out);
    out.extend_from_slice(format!("\n-----END {label}-----\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::process::Command;
    use std::sync::LazyLock;

    use super::*;

    /// Keys that were encrypted with few rounds and the password "first", as DER.
    static SEALED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("key.pem").display().to_string();
        let openssl = |words: &str| {
            let output = Command::new("openssl").args(words.split(' ')).output().expect("openssl runs");
            assert!(output.status.success(), "{words}");
            output.stdout
        };
        openssl(&format!("genpkey -algorithm ED25519 -out {path}"));
        let schemes = ["-v2 aes-128-cbc -iter 2", "-v2 des3 -iter 1", "-scrypt -scrypt_N 16 -scrypt_r 1"];
        let seal = |scheme: &str| {
            openssl(&format!("pkcs8 -topk8 -in {path} {scheme} -passout pass:first -outform DER"))
        };
        schemes.into_iter().map(seal).collect()
    });

    #[test]
    fn sealed_keys_open() {
        let passwords = Passwords::read(b"first").expect("a short line");
        for der in SEALED.iter() {
            let text = written("ENCRYPTED PRIVATE KEY", der);
            assert!(pem::private_key_within(&text, &passwords, CHEAP).is_ok());
            reads_pem(&text);
        }
    }

    proptest! {
        #[test]
        fn changed_sealed_keys_read_or_are_refused(
            which in 0_usize..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            removed in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut der = SEALED[which].clone();
            for (at, byte) in changes {
                let at = at.index(der.len());
                der[at] = byte;
            }
            if let Some(removed) = removed {
                let at = removed.index(der.len());
                der.remove(at);
            }
            reads_pem(&written("ENCRYPTED PRIVATE KEY", &der));
        }

        #[test]
        fn any_bytes_behind_a_suite_read_as_a_connection(
            suite in prop::sample::select(vec![0x1301_u16, 0x1302, 0x1303, 0xc02f, 0xcca8]),
            body in prop::collection::vec(any::<u8>(), 0..300),
            is_padded in any::<bool>(),
        ) {
            let mut data = vec![1];
            data.extend_from_slice(&suite.to_le_bytes());
            data.extend_from_slice(&body);
            if is_padded {
                data.resize(data.len() + 200, 0);
            }
            reads_moved(&data);
        }

        #[test]
        fn any_text_reads_as_lists(text in ".{0,60}") {
            reads_lists(&text);
        }

        #[test]
        fn words_of_lists_in_any_order(words in prop::collection::vec(
            prop::sample::select(vec![
                "HIGH", "!", "+", "-", "@STRENGTH", "@SECLEVEL=4", ":", " ", "AES", "ECDSA", "DEFAULT", "X25519", "?",
                "TLSv1.2", "Options", "Protocol", "ALL", "MinProtocol", "P-256", "/", "é", ",", "NumTickets", "1",
            ]),
            0..12,
        )) {
            reads_lists(&words.concat());
        }

        #[test]
        fn any_bytes_read_as_pem(body in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..400) {
            reads_pem(&body);
            for label in ["CERTIFICATE", "X509 CRL", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY"] {
                let text = written(label, &body);
                reads_pem(&text);
                reads_pem(&text[..cut.min(text.len())]);
            }
        }
    }
}
