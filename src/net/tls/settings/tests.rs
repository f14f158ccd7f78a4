//! Protocols and groups as in existing files, and providers that equal selections share.

use rustls::NamedGroup;

use super::*;

#[test]
fn old_protocols_are_dropped_if_others_are_left() {
    let choice = protocols(["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]).expect("two are left");
    assert_eq!(choice.value, Protocols { tls12: true, tls13: true });
    let words: Vec<&str> = choice.dropped.iter().map(|dropped| dropped.word.as_str()).collect();
    assert_eq!(words, ["TLSv1", "TLSv1.1"]);
    let choice = protocols(["SSLv3", "TLSv1.2"]).expect("one is left");
    assert_eq!(choice.value.versions().len(), 1);
    let error = protocols(["SSLv3", "TLSv1"]).map(|_| ()).expect_err("none is left");
    assert!(error.to_string().contains("TLSv1.2 TLSv1.3"), "{error}");
    assert!(matches!(protocols(["TLSv1.4"]), Err(Error::Unknown { kind: "protocol", .. })));
}

#[test]
fn groups_have_several_names() {
    let names = |list: &str| -> Result<Vec<NamedGroup>, Error> {
        Ok(groups(list)?.value.iter().map(|group| group.name()).collect())
    };
    use NamedGroup::{X25519, X25519MLKEM768, secp256r1, secp384r1};
    let default = vec![X25519MLKEM768, X25519, secp256r1, secp384r1];
    assert_eq!(names("auto"), Ok(default.clone()));
    assert_eq!(names("X25519MLKEM768:X25519:prime256v1:secp384r1"), Ok(default));
    assert_eq!(names("P-256:secp256r1:prime256v1"), Ok(vec![secp256r1]));
    assert_eq!(names("secp521r1:P-384:X448:brainpoolP512r1"), Ok(vec![secp384r1]));
    assert_eq!(names("*X25519MLKEM768:?Future/*x25519:-X25519MLKEM768"), Ok(vec![X25519]));
    assert_eq!(names("secp521r1"), Err(Error::NoGroup));
    for list in ["P-257", "", "X25519:", "X25519, P-256"] {
        assert!(matches!(names(list), Err(Error::Unknown { kind: "group", .. })), "{list}");
    }
    let notes = groups("secp521r1:P-384").expect("one").dropped;
    assert_eq!(notes, [Dropped::new("secp521r1", Reason::Group)]);
    assert!(notes[0].to_string().starts_with("\"secp521r1\" is ignored: "));
    assert!(OTHER_GROUPS.iter().all(|name| *name == name.to_lowercase()));
}

#[test]
fn equal_selections_share_a_provider() {
    let selected = Selected { groups: vec![kx_group::MLKEM1024, kx_group::X25519], ..Selected::default() };
    let one = provider(&selected);
    assert!(Arc::ptr_eq(&one, &provider(&selected.clone())));
    assert_eq!((one.cipher_suites.len(), one.kx_groups.len()), (9, 2));
    let mut other = selected.clone();
    other.protocols.tls12 = false;
    let other = provider(&other);
    assert!(!Arc::ptr_eq(&one, &other));
    assert_eq!(other.cipher_suites.len(), 3);
    let is_known = |provider: &Arc<CryptoProvider>| {
        let known = PROVIDERS.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|(_, known)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(provider)))
    };
    assert!(is_known(&one));
}

#[test]
fn rustls_takes_every_selection() {
    for (tls12, tls13) in [(true, true), (true, false), (false, true)] {
        let selected = Selected { protocols: Protocols { tls12, tls13 }, ..Selected::default() };
        let builder = rustls::ServerConfig::builder_with_provider(provider(&selected));
        assert!(builder.with_protocol_versions(selected.protocols.versions()).is_ok());
    }
}
