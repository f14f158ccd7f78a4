//! Lists of all kinds, compared with what the `openssl` command makes of them.
//!
//! Touches: the command `openssl`, which prints the order of the suites that a list selects.

use std::process::Command;

use proptest::prelude::*;

use super::*;

/// The six as `openssl ciphers` selects and orders them, by their indexes.
fn of_openssl(list: &str) -> Vec<usize> {
    // What begins with a dash would be an option.
    let list = if list.starts_with('-') { format!(":{list}") } else { list.to_owned() };
    let output =
        Command::new("openssl").args(["ciphers", "-s", "-tls1_2", &list]).output().expect("openssl runs");
    let names = String::from_utf8(output.stdout).expect("names");
    names.trim().split(':').filter_map(|name| SUITES.iter().position(|known| known.name == name)).collect()
}

fn of_ours(list: &str) -> Vec<usize> {
    match selected(list) {
        Ok(choice) => choice.value,
        Err(Error::NoCipher) => Vec::new(),
        Err(error) => panic!("{list}: {error}"),
    }
}

const MOZILLA_INTERMEDIATE: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:\
    ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305";

/// Lists from guides and distributions.
const WILD: [&str; 24] = [
    "HIGH:!aNULL:!MD5",
    MOZILLA_INTERMEDIATE,
    // Mozilla's old list, with TLS 1.3 names in front as many people write them.
    "TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
     ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:\
     ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:\
     ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384:\
     DHE-RSA-AES128-SHA256:DHE-RSA-AES256-SHA256:AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA256:\
     AES256-SHA256:AES128-SHA:AES256-SHA:DES-CBC3-SHA",
    "EECDH+AESGCM:EDH+AESGCM",
    "EECDH+AESGCM:EDH+AESGCM:AES256+EECDH:AES256+EDH",
    "ALL:!EXPORT:!LOW:!aNULL:!eNULL",
    "ALL:!aNULL:!ADH:!eNULL:!LOW:!EXP:RC4+RSA:+HIGH:+MEDIUM",
    "ALL:!ADH:!EXPORT56:RC4+RSA:+HIGH:+MEDIUM:+LOW:+SSLv2:+EXP",
    "ALL:!kEDH!ADH:RC4+RSA:+HIGH:+MEDIUM:+LOW:+SSLv2:+EXP",
    "EECDH+ECDSA+AESGCM EECDH+aRSA+AESGCM EECDH+ECDSA+SHA384 EECDH+ECDSA+SHA256 EECDH+aRSA+SHA384 \
     EECDH+aRSA+SHA256 EECDH+aRSA+RC4 EECDH EDH+aRSA RC4 !aNULL !eNULL !LOW !3DES !MD5 !EXP !PSK !SRP !DSS",
    "ECDH+AESGCM:DH+AESGCM:ECDH+AES256:DH+AES256:ECDH+AES128:DH+AES:ECDH+3DES:DH+3DES:RSA+AESGCM:RSA+AES:RSA+3DES:\
     !aNULL:!MD5:!DSS",
    "kEECDH+ECDSA+AES128 kEECDH+ECDSA+AES256 kEECDH+AES128 kEECDH+AES256 kEDH+AES128 kEDH+AES256 DES-CBC3-SHA \
     +SHA !aNULL !eNULL !LOW !kECDH !DSS !MD5 !EXP !PSK !SRP !CAMELLIA !SEED",
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE:ECDH:AES:HIGH:!NULL:!aNULL:!MD5:!ADH:!RC4",
    "EECDH+CHACHA20:EECDH+CHACHA20-draft:EECDH+AES128:RSA+AES128:EECDH+AES256:RSA+AES256:EECDH+3DES:RSA+3DES:!MD5",
    "ECDHE-RSA-AES256-GCM-SHA512:DHE-RSA-AES256-GCM-SHA512:ECDHE-RSA-AES256-GCM-SHA384",
    "HIGH:!RC4:!MD5:!aNULL:!eNULL:!NULL:!DH:!EDH:!EXP:+MEDIUM",
    "DEFAULT:!EXPORT:!LOW:!RC4:!DES",
    "DEFAULT@SECLEVEL=0",
    "ALL:@STRENGTH",
    "AES128+EECDH:AES128+EDH:@STRENGTH",
    "HIGH:-ECDSA:ECDSA",
    "aRSA:-AES128:CHACHA20:HIGH",
    "+AES256:ALL:+CHACHA20:-RSA",
    "ALL:@SECLEVEL=4",
];

#[test]
fn lists_select_what_openssl_selects() {
    for list in WILD {
        assert_eq!(of_ours(list), of_openssl(list), "{list}");
    }
    for list in ["SUITEB128", "SUITEB192:ALL", "SUITEB128ONLY", "SUITEB128C2", "kRSA:DHE", "AES128-SHA"] {
        assert_eq!(of_ours(list), of_openssl(list), "{list}");
    }
}

#[test]
fn every_word_means_what_it_means_to_openssl() {
    let only_others = ["AEAD", "CHACHA20POLY1305", "DEFAULT"];
    let classes = CLASSES.iter().map(|(word, _)| *word).filter(|word| !only_others.contains(word));
    for word in classes.chain(SUITES.iter().map(|known| known.name)) {
        assert_eq!(of_ours(word), of_openssl(word), "{word}");
    }
    for word in OTHER_KEY_EXCHANGES.iter().chain(&OTHER_CIPHERS) {
        assert_eq!((of_ours(word), of_openssl(word)), (Vec::new(), Vec::new()), "{word}");
    }
}

#[test]
fn every_name_of_openssl_is_known() {
    let list = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";
    let output = Command::new("openssl").args(["ciphers", "-stdname", list]).output().expect("openssl runs");
    let names = String::from_utf8(output.stdout).expect("names");
    let mut count = 0;
    // TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 - ECDHE-ECDSA-AES256-GCM-SHA384 TLSv1.2 Kx=ECDH …
    for word in names.lines().flat_map(|line| line.split_whitespace().step_by(2).take(2)) {
        count += 1;
        assert!(!matches!(meaning(word), Ok(Meaning::Unknown) | Err(_)), "{word}");
    }
    assert!(count > 200, "{names}");
    // Names of older releases.
    for word in [
        "RC4-SHA",
        "RC4-MD5",
        "EXP-RC2-CBC-MD5",
        "EXP1024-DES-CBC-SHA",
        "EDH-RSA-DES-CBC3-SHA",
        "IDEA-CBC-SHA",
        "ECDH-ECDSA-AES128-SHA",
        "AECDH-NULL-SHA",
        "DH-RSA-AES256-GCM-SHA384",
        "SEED-SHA",
        "PSK-3DES-EDE-CBC-SHA",
        "GOST2001-GOST89-GOST89",
        "DES-CBC3-MD5",
        "KRB5-RC4-SHA",
    ] {
        assert!(matches!(meaning(word), Ok(Meaning::None(_))), "{word}");
    }
}

#[test]
fn notes_say_what_was_dropped() {
    let notes = |list: &str| -> Vec<(String, Reason)> {
        let choice = ciphers(list).expect("a cipher");
        choice.dropped.into_iter().map(|dropped| (dropped.word, dropped.reason)).collect()
    };
    assert_eq!(notes("HIGH:!aNULL:!MD5:-RC4:+SHA1"), []);
    let expected = [
        ("AES128-SHA", Reason::KeyExchange),
        ("EDH+AESGCM", Reason::KeyExchange),
        ("ECDHE-RSA-AES128-SHA", Reason::Cipher),
        ("EECDH+SHA384", Reason::Cipher),
        ("TLS_AES_128_GCM_SHA256", Reason::Tls13Suite),
        ("@SECLEVEL=1", Reason::SecurityLevel),
        ("DEFAULT", Reason::OnlyFirst),
        ("!ECDHE-typo", Reason::Unknown),
    ];
    let list = format!("HIGH:{}", expected.map(|(word, _)| word).join(":"));
    assert_eq!(notes(&list), expected.map(|(word, reason)| (word.to_owned(), reason)));
}

#[test]
fn mistakes_are_errors() {
    for word in ["ECDHE-RSA-AES128-GMC-SHA256", "HIHG", "high", "EECDH+AESGMC", "ECDHE", "é"] {
        let list = format!("HIGH:{word}");
        match (word, ciphers(&list)) {
            ("ECDHE", Ok(_)) => {}
            ("é", Err(Error::Malformed { .. })) => {}
            (_, Err(Error::Unknown { kind, word: named })) => {
                assert_eq!((kind, named.as_str()), ("cipher", word))
            }
            (_, other) => panic!("{word}: {other:?}"),
        }
    }
    for list in
        ["HIGH:!", "HIGH:@", "HIGH:@SECLEVEL=9", "HIGH:@NONSENSE", "HIGH:AES+", "HIGH:$ciphers", "HIGH:!!MD5"]
    {
        assert!(matches!(ciphers(list), Err(Error::Malformed { .. })), "{list}");
    }
    for list in ["", ":", "!ALL", "AES128-SHA", "HIGH:!HIGH", "kRSA", "HIGH:!kEECDH"] {
        assert_eq!(ciphers(list).map(|_| ()), Err(Error::NoCipher), "{list}");
    }
}

#[test]
fn suites_of_tls_1_3_keep_their_order() {
    let names = |list: &str| ciphersuites(list).map(|choice| (choice.value.len(), choice.dropped.len()));
    assert_eq!(names("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256"), Ok((1, 1)));
    assert_eq!(names("TLS_AES_128_GCM_SHA256:TLS_AES_128_GCM_SHA256"), Ok((1, 0)));
    assert_eq!(names("TLS_AES_128_CCM_SHA256"), Err(Error::NoCiphersuite));
    assert_eq!(names(""), Err(Error::NoCiphersuite));
    assert!(matches!(names("TLS_AES_512"), Err(Error::Unknown { .. })));
    let first = ciphersuites("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384").expect("two").value[0];
    assert_eq!(first, suite::TLS13_CHACHA20_POLY1305_SHA256);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Programs of random words, against the real one.
    #[test]
    fn random_lists_select_what_openssl_selects(items in prop::collection::vec(
        (
            prop::sample::select(vec!["", "", "", "+", "-", "!"]),
            prop::collection::vec(
                prop::sample::select(vec![
                    "ALL", "HIGH", "AES128", "AES256", "AESGCM", "CHACHA20", "aRSA", "ECDSA", "EECDH", "RSA", "SHA384",
                    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2", "FIPS", "DHE",
                ]),
                1..3,
            ),
            prop::sample::select(vec![":", ",", " ", ":@STRENGTH:"]),
        ),
        1..7,
    )) {
        let item = |(rule, words, end): &(&str, Vec<&str>, &str)| format!("{rule}{}{end}", words.join("+"));
        let list: String = items.iter().map(item).collect();
        prop_assert_eq!(of_ours(&list), of_openssl(&list), "{}", list);
    }
}
