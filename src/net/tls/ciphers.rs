//! OpenSSL's lists of ciphers (`ssl_ciphers`, `CipherString`), and the names of TLS 1.3 (`Ciphersuites`).
//!
//! Touches: rustls' suites. A list is a little program on the order of all suites: each word adds, moves or
//! removes those it means. The suites that rustls has keep their order among each other whatever happens to
//! the rest, so the program runs on these six only. Words are checked against OpenSSL's vocabulary, old
//! releases included: their lists are in many files.
//! Grammar: openssl-ciphers(1); the order is that of ssl_create_cipher_list in OpenSSL 3.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite as suite;

use super::settings::{Choice, Dropped, Error, Reason};

/// A suite of TLS 1.2 with OpenSSL's name and the standard one.
struct Suite {
    name: &'static str,
    standard: &'static str,
    strength_bits: u16,
    suite: SupportedCipherSuite,
}

/// In the order in which OpenSSL adds them.
static SUITES: [Suite; 6] = [
    Suite {
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        standard: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        strength_bits: 256,
        suite: suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    },
    Suite {
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        standard: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        strength_bits: 256,
        suite: suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    },
    Suite {
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        standard: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        strength_bits: 256,
        suite: suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    },
    Suite {
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        standard: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        strength_bits: 256,
        suite: suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    },
    Suite {
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        standard: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        strength_bits: 128,
        suite: suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    },
    Suite {
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        standard: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        strength_bits: 128,
        suite: suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    },
];

/// A set of suites: bit i stands for `SUITES[i]`.
type Set = u8;

const ALL: Set = 0b11_1111;
const ECDSA: Set = 0b01_0101;
const RSA: Set = 0b10_1010;
const AES256: Set = 0b00_0011;
const CHACHA20: Set = 0b00_1100;
const AES128: Set = 0b11_0000;

/// Words that mean some of the six.
const CLASSES: [(&str, Set); 19] = [
    ("ALL", ALL),
    ("HIGH", ALL),
    ("TLSv1.2", ALL),
    ("ECDHE", ALL),
    ("EECDH", ALL),
    ("kECDHE", ALL),
    ("kEECDH", ALL),
    ("ECDH", ALL),
    ("FIPS", AES128 | AES256),
    ("AES", AES128 | AES256),
    ("AESGCM", AES128 | AES256),
    ("AES128", AES128),
    ("AES256", AES256),
    ("CHACHA20", CHACHA20),
    ("aRSA", RSA),
    ("aECDSA", ECDSA),
    ("ECDSA", ECDSA),
    // Not in OpenSSL 3.0; other releases and libraries have them.
    ("AEAD", ALL),
    ("CHACHA20POLY1305", CHACHA20),
];

/// Words of some release of OpenSSL that mean none of the six, for their way to exchange keys or to identify
/// the server.
const OTHER_KEY_EXCHANGES: [&str; 51] = [
    "RSA",
    "kRSA",
    "DH",
    "DHE",
    "EDH",
    "kDH",
    "kDHE",
    "kEDH",
    "kDHr",
    "kDHd",
    "aDH",
    "ADH",
    "aDSS",
    "DSS",
    "aNULL",
    "AECDH",
    "aECDH",
    "kECDH",
    "kECDHr",
    "kECDHe",
    "PSK",
    "kPSK",
    "aPSK",
    "kRSAPSK",
    "kECDHEPSK",
    "kDHEPSK",
    "SRP",
    "kSRP",
    "aSRP",
    "KRB5",
    "kKRB5",
    "aKRB5",
    "GOST",
    "kGOST",
    "kGOST18",
    "aGOST",
    "aGOST01",
    "aGOST12",
    "GOST94",
    "aGOST94",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "FZA",
    "kFZA",
    "aFZA",
    "SSLv2",
    "RSAPSK",
    "DHEPSK",
    "ECCdraft",
];

/// The same for their cipher or digest.
const OTHER_CIPHERS: [&str; 45] = [
    "LOW",
    "MEDIUM",
    "COMPLEMENTOFDEFAULT",
    "COMPLEMENTOFALL",
    "NULL",
    "eNULL",
    "3DES",
    "DES",
    "RC2",
    "RC4",
    "IDEA",
    "SEED",
    "AESCCM",
    "AESCCM8",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "CBC",
    "MD5",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA384",
    "GOST89",
    "GOST89MAC",
    "GOST89MAC12",
    "GOST12",
    "eGOST2814789CNT",
    "eGOST2814789CNT12",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
    "TLSv1.1",
    "eFZA",
    "AESCBC",
    "STREEBOG256",
    "MAGMA",
    "KUZNYECHIK",
    "SHA2",
    "SHA224",
    "CHACHA20-draft",
];

/// What names of single suites are made of: key exchange, identification, cipher, mode, digest.
const NAME_PARTS: [&str; 49] = [
    "ECDHE",
    "ECDH",
    "AECDH",
    "DHE",
    "DH",
    "EDH",
    "ADH",
    "RSA",
    "ECDSA",
    "DSS",
    "PSK",
    "SRP",
    "KRB5",
    "EXP",
    "EXP1024",
    "GOST94",
    "GOST2001",
    "GOST2012",
    "IANA",
    "GOST89",
    "GOST8912",
    "LEGACY",
    "KUZNYECHIK",
    "MAGMA",
    "CTR",
    "OMAC",
    "AES128",
    "AES256",
    "AES",
    "128",
    "3DES",
    "256",
    "ARIA128",
    "ARIA256",
    "ARIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "CHACHA20",
    "DES",
    "EDE",
    "RC4",
    "RC2",
    "IDEA",
    "SEED",
    "NULL",
    "CBC",
    "CBC3",
    "GCM",
    "CCM",
];

/// The last parts of such names. SHA512 was never defined and is in many lists nevertheless.
const NAME_ENDS: [&str; 11] =
    ["SHA", "SHA256", "SHA384", "SHA512", "MD5", "POLY1305", "CCM", "CCM8", "OMAC", "GOST12", "GOST89"];

/// The suites of TLS 1.3 in OpenSSL's default order.
static TLS13: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
];

/// Suites of TLS 1.3 that rustls does not have.
const OTHER_TLS13: [&str; 4] =
    ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256", "TLS_SHA256_SHA256", "TLS_SHA384_SHA384"];

/// The suites of `HIGH:!aNULL:!MD5`, nginx's default.
pub fn default_ciphers() -> Vec<SupportedCipherSuite> {
    SUITES.iter().map(|known| known.suite).collect()
}

/// OpenSSL's default for TLS 1.3.
pub fn default_ciphersuites() -> Vec<SupportedCipherSuite> {
    TLS13.iter().map(|(_, suite)| *suite).collect()
}

/// The suites of TLS 1.2 that a list in OpenSSL's grammar selects, in its order.
///
/// OpenSSL ignores words it does not know; here such a word is an error unless it is after `!` or `-`, since it
/// is a mistake in most cases.
pub fn ciphers(list: &str) -> Result<Choice<Vec<SupportedCipherSuite>>, Error> {
    let Choice { value, dropped } = selected(list)?;
    let value = value.iter().filter_map(|index| SUITES.get(*index)).map(|known| known.suite).collect();
    Ok(Choice { value, dropped })
}

/// The names of TLS 1.3's suites with `:` between them.
pub fn ciphersuites(list: &str) -> Result<Choice<Vec<SupportedCipherSuite>>, Error> {
    let mut value: Vec<SupportedCipherSuite> = Vec::new();
    let mut dropped = Vec::new();
    for word in list.split(':').map(str::trim).filter(|word| !word.is_empty()) {
        match TLS13.iter().find(|(name, _)| *name == word) {
            Some((_, suite)) if !value.contains(suite) => value.push(*suite),
            Some(_) => {}
            None if OTHER_TLS13.contains(&word) => dropped.push(Dropped::new(word, Reason::Cipher)),
            None => return Err(Error::Unknown { kind: "cipher suite of TLS 1.3", word: word.to_owned() }),
        }
    }
    if value.is_empty() { Err(Error::NoCiphersuite) } else { Ok(Choice { value, dropped }) }
}

/// Indexes into [`SUITES`].
fn selected(list: &str) -> Result<Choice<Vec<usize>>, Error> {
    let mut order = Order::new();
    let mut dropped = Vec::new();
    // From level 4 on a key has at least 192 bits.
    let mut are_short_forbidden = false;
    let mut rest = list.trim_start_matches(is_separator);
    // These replace the list, whatever follows.
    for (word, replacement) in [
        ("SUITEB128ONLY", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("SUITEB128C2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("SUITEB128", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("SUITEB192", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        if rest.starts_with(word) {
            rest = replacement;
        }
    }
    // PROFILE=SYSTEM is Red Hat's word for the default of the system.
    for word in ["DEFAULT", "PROFILE=SYSTEM"] {
        if let Some(after) = rest.strip_prefix(word) {
            order.apply(Rule::Add, ALL);
            rest = after;
        }
    }
    while let Some(first) = rest.chars().next() {
        if is_separator(first) {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        // These end a word too: "DEFAULT@SECLEVEL=1", "HIGH!aNULL".
        let is_end = |letter: char| is_separator(letter) || matches!(letter, '@' | '!');
        let end = rest.char_indices().skip(1).find(|(_, letter)| is_end(*letter));
        let (item, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        rest = after;
        let (rule, word) = match first {
            '!' => (Rule::Kill, &item[1..]),
            '-' => (Rule::Remove, &item[1..]),
            '+' => (Rule::Move, &item[1..]),
            '@' => {
                match item.as_bytes() {
                    b"@STRENGTH" => order.sort_by_strength(),
                    [start @ .., level @ b'0'..=b'5'] if start == b"@SECLEVEL=" => {
                        are_short_forbidden = *level >= b'4';
                        dropped.push(Dropped::new(item, Reason::SecurityLevel));
                    }
                    _ => return Err(Error::Malformed { word: item.to_owned() }),
                }
                continue;
            }
            _ => (Rule::Add, item),
        };
        match meaning(word)? {
            Meaning::Suites(set) => order.apply(rule, set),
            Meaning::None(reason) if rule == Rule::Add => dropped.push(Dropped::new(word, reason)),
            Meaning::None(_) => {}
            Meaning::Unknown if matches!(rule, Rule::Kill | Rule::Remove) => {
                dropped.push(Dropped::new(item, Reason::Unknown));
            }
            Meaning::Unknown => return Err(Error::Unknown { kind: "cipher", word: word.to_owned() }),
        }
    }
    if are_short_forbidden {
        order.apply(Rule::Kill, AES128);
    }
    let value = order.active();
    if value.is_empty() { Err(Error::NoCipher) } else { Ok(Choice { value, dropped }) }
}

fn is_separator(letter: char) -> bool {
    matches!(letter, ':' | ' ' | ';' | ',')
}

enum Meaning {
    Suites(Set),
    /// OpenSSL knows suites of this word; we have none of them.
    None(Reason),
    Unknown,
}

/// What a word means: a name, or classes with `+` between them.
fn meaning(word: &str) -> Result<Meaning, Error> {
    let is_letter =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '=' | '_' | '+');
    if word.is_empty() || !word.chars().all(is_letter) || word.split('+').any(str::is_empty) {
        return Err(Error::Malformed { word: word.to_owned() });
    }
    let (mut set, mut reason) = (ALL, Reason::Cipher);
    for part in word.split('+') {
        if let Some(at) = SUITES.iter().position(|known| known.name == part || known.standard == part) {
            set &= 1 << at;
        } else if let Some((_, class)) = CLASSES.iter().find(|(name, _)| *name == part) {
            set &= class;
        } else if let Some(other) = other_reason(part) {
            (set, reason) = (0, other);
        } else {
            return Ok(Meaning::Unknown);
        }
    }
    // For OpenSSL both are strengths, and no suite has two.
    let has = |name| word.split('+').any(|part| part == name);
    if has("HIGH") && has("FIPS") {
        set = 0;
    }
    Ok(if set == 0 { Meaning::None(reason) } else { Meaning::Suites(set) })
}

/// Why none of our suites has this name or is in this class. `None`: OpenSSL does not know it either.
fn other_reason(word: &str) -> Option<Reason> {
    if word == "DEFAULT" {
        return Some(Reason::OnlyFirst);
    }
    if OTHER_KEY_EXCHANGES.contains(&word) {
        return Some(Reason::KeyExchange);
    }
    if OTHER_CIPHERS.contains(&word) {
        return Some(Reason::Cipher);
    }
    if TLS13.iter().any(|(name, _)| *name == word) || OTHER_TLS13.contains(&word) {
        return Some(Reason::Tls13Suite);
    }
    let has_forward_secrecy = |name: &str| name.starts_with("ECDHE-RSA-") || name.starts_with("ECDHE-ECDSA-");
    let reason = |is_ours| if is_ours { Reason::Cipher } else { Reason::KeyExchange };
    if let Some((exchange, _)) = word.strip_prefix("TLS_").and_then(|name| name.split_once("_WITH_")) {
        // The standard names of all suites are spelled out; there is no list of them here.
        return Some(reason(matches!(exchange, "ECDHE_RSA" | "ECDHE_ECDSA")));
    }
    // "EXP-RC2-CBC-MD5", "ECDHE-PSK-CHACHA20-POLY1305"
    let (start, end) = word.rsplit_once('-')?;
    let is_name = NAME_ENDS.contains(&end) && start.split('-').all(|part| NAME_PARTS.contains(&part));
    is_name.then(|| reason(has_forward_secrecy(word)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Appends those that are not in the list.
    Add,
    /// Moves those in the list to its end.
    Move,
    /// Takes them out; they may come back.
    Remove,
    /// Takes them out for good.
    Kill,
}

/// OpenSSL's list of all suites, of which the active ones are selected.
struct Order(Vec<(usize, bool)>);

impl Order {
    fn new() -> Self {
        Self((0..SUITES.len()).map(|index| (index, false)).collect())
    }

    fn apply(&mut self, rule: Rule, set: Set) {
        let is_meant = |&(index, is_active): &(usize, bool)| {
            let is_of_rule = match rule {
                Rule::Add => !is_active,
                Rule::Move | Rule::Remove => is_active,
                Rule::Kill => true,
            };
            is_of_rule && set & (1 << index) != 0
        };
        let (meant, others): (Vec<_>, Vec<_>) = self.0.drain(..).partition(is_meant);
        let meant = meant.into_iter().map(|(index, _)| (index, rule != Rule::Remove));
        self.0 = match rule {
            Rule::Add | Rule::Move => others.into_iter().chain(meant).collect(),
            // In front: what is added later keeps its old order.
            Rule::Remove => meant.chain(others).collect(),
            Rule::Kill => others,
        };
    }

    fn sort_by_strength(&mut self) {
        for bits in [256, 128] {
            let of_bits = SUITES.iter().enumerate().filter(|(_, known)| known.strength_bits == bits);
            self.apply(Rule::Move, of_bits.fold(0, |set, (index, _)| set | 1 << index));
        }
    }

    fn active(&self) -> Vec<usize> {
        self.0.iter().filter(|(_, is_active)| *is_active).map(|(index, _)| *index).collect()
    }
}

#[cfg(test)]
mod tests;
