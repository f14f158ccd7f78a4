//! Password hashes of user files: `{PLAIN}`, `{SHA}`, `{SSHA}`, `$apr1$`, `$1$`, `$5$`, `$6$`, `$2y$`.
//!
//! Pure: no I/O; slow where the scheme is slow on purpose. Truth: nginx.org, `auth_basic_user_file`; Apache's
//! apr_md5; "Unix crypt using SHA-256 and SHA-512" (Drepper). Crates do bcrypt, SHA-crypt and the digests;
//! the MD5 schemes (`$apr1$`, `$1$`) are written here, since no maintained crate has them. Traditional DES is
//! not supported.

use md5::{Digest, Md5};
use sha_crypt::Params;
use sha1::Sha1;

use crate::base::base64;

/// The scheme by which a stored password was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Plain,
    Sha1,
    /// With the name between the dollar signs: `apr1` or `1`.
    Md5(&'static str),
    Sha256,
    Sha512,
    Bcrypt,
}

impl Scheme {
    /// The scheme of a stored password; `None` if it is unknown.
    pub fn of(stored: &str) -> Option<Self> {
        let has = |start: &str| stored.starts_with(start);
        Some(match () {
            () if has("{PLAIN}") => Self::Plain,
            () if has("{SHA}") || has("{SSHA}") => Self::Sha1,
            () if has("$apr1$") => Self::Md5("apr1"),
            () if has("$1$") => Self::Md5("1"),
            () if has("$5$") => Self::Sha256,
            () if has("$6$") => Self::Sha512,
            () if ["$2a$", "$2b$", "$2x$", "$2y$"].into_iter().any(has) => Self::Bcrypt,
            () => return None,
        })
    }

    /// Whether checking a password of this length may take milliseconds or more, so that it belongs on a
    /// thread.
    pub fn is_slow(self, password_bytes: usize) -> bool {
        match self {
            _ if password_bytes > self.password_bytes_max() => false,
            Self::Plain | Self::Sha1 => false,
            Self::Md5(_) => password_bytes > MD5_QUICK_BYTES_MAX,
            Self::Sha256 | Self::Sha512 | Self::Bcrypt => true,
        }
    }

    /// The longest password that can match. crypt(3) accepts no longer one, and a thousand rounds or more
    /// make each byte expensive.
    fn password_bytes_max(self) -> usize {
        match self {
            Self::Plain | Self::Sha1 => usize::MAX,
            Self::Md5(_) | Self::Sha256 | Self::Sha512 | Self::Bcrypt => HASHED_BYTES_MAX,
        }
    }
}

/// Up to this length a thousand rounds of MD5 take less than a millisecond.
const MD5_QUICK_BYTES_MAX: usize = 64;
/// libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE.
const HASHED_BYTES_MAX: usize = 512;

/// Checks a password against a stored one. False if the stored text is malformed for its scheme.
pub fn verify(password: &[u8], stored: &str) -> bool {
    match Scheme::of(stored) {
        None => false,
        Some(scheme) if password.len() > scheme.password_bytes_max() => false,
        Some(Scheme::Plain) => equal(password, &stored.as_bytes()["{PLAIN}".len()..]),
        Some(Scheme::Sha1) => verify_sha1(password, stored).unwrap_or(false),
        Some(Scheme::Md5(name)) => verify_md5(password, stored, name).unwrap_or(false),
        Some(scheme @ (Scheme::Sha256 | Scheme::Sha512)) => {
            verify_sha2(password, stored, scheme == Scheme::Sha512).unwrap_or(false)
        }
        // To programs in C a NUL would end the password.
        Some(Scheme::Bcrypt) => !password.contains(&0) && bcrypt::verify(password, stored).unwrap_or(false),
    }
}

fn verify_sha1(password: &[u8], stored: &str) -> Option<bool> {
    let encoded = stored.strip_prefix("{SHA}").or_else(|| stored.strip_prefix("{SSHA}"))?;
    let decoded = base64::decode(encoded.as_bytes())?;
    let (hash, salt) = decoded.split_at_checked(20)?;
    if stored.starts_with("{SHA}") && !salt.is_empty() {
        return None;
    }
    let made = Sha1::new().chain_update(password).chain_update(salt).finalize();
    Some(equal(&made, hash))
}

fn verify_md5(password: &[u8], stored: &str, name: &str) -> Option<bool> {
    let (salt, hash) = stored.get(name.len() + 2..)?.split_once('$')?;
    let salt = salt.as_bytes();
    let salt = &salt[..salt.len().min(8)];
    Some(equal(md5_crypt(password, salt, name).as_bytes(), hash.as_bytes()))
}

/// The hash of Apache's `$apr1$` and of FreeBSD's `$1$`, which differ only in the name that is hashed with
/// the rest.
fn md5_crypt(password: &[u8], salt: &[u8], name: &str) -> String {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(format!("${name}$")).chain_update(salt);
    for start in (0..password.len()).step_by(16) {
        outer.update(&inner[..(password.len() - start).min(16)]);
    }
    let mut length = password.len();
    while length > 0 {
        outer.update(if length & 1 == 1 { &[0][..] } else { &password[..1] });
        length >>= 1;
    }
    let mut hash = outer.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        next.update(if round & 1 == 1 { password } else { &hash });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if round & 1 == 1 { &hash[..] } else { password });
        hash = next.finalize();
    }
    let mut out = String::new();
    for at in 0..5 {
        let last = if at == 4 { 5 } else { at + 12 };
        push_letters([hash[at], hash[at + 6], hash[last]], 4, &mut out);
    }
    push_letters([0, 0, hash[11]], 2, &mut out);
    out
}

fn verify_sha2(password: &[u8], stored: &str, is_512: bool) -> Option<bool> {
    let mut parts = stored.get(3..)?.split('$');
    let mut part = parts.next()?;
    let mut params = Params::default();
    if let Some(rounds) = part.strip_prefix("rounds=") {
        let rounds: u32 = rounds.parse().ok()?;
        params = Params::new(rounds.clamp(Params::ROUNDS_MIN, ROUNDS_MAX)).ok()?;
        part = parts.next()?;
    }
    let salt = part.as_bytes();
    let salt = &salt[..salt.len().min(16)];
    let hash = parts.next()?;
    let made = if is_512 {
        sha2_letters(&sha_crypt::sha512_crypt(password, salt, params), [0, 21, 42], [1, 2, 0])
    } else {
        sha2_letters(&sha_crypt::sha256_crypt(password, salt, params), [0, 10, 20], [2, 0, 1])
    };
    Some(parts.next().is_none() && equal(made.as_bytes(), hash.as_bytes()))
}

/// More rounds would occupy a thread for minutes.
const ROUNDS_MAX: u32 = 10_000_000;

/// Encodes three bytes at a time as four letters; SHA-crypt takes the bytes from three places that rotate.
fn sha2_letters(hash: &[u8], mut at: [usize; 3], order: [usize; 3]) -> String {
    let mut out = String::new();
    for _ in 0..hash.len() / 3 {
        push_letters(at.map(|index| hash[index]), 4, &mut out);
        at = order.map(|index| at[index] + 1);
    }
    match hash.len() % 3 {
        1 => push_letters([0, 0, hash[63]], 2, &mut out),
        _ => push_letters([0, hash[31], hash[30]], 3, &mut out),
    }
    out
}

/// Appends bytes in crypt(3)'s alphabet, the lowest six bits first.
fn push_letters(bytes: [u8; 3], count: usize, out: &mut String) {
    const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let [a, b, c] = bytes.map(u32::from);
    let mut bits = a << 16 | b << 8 | c;
    for _ in 0..count {
        out.push(char::from(LETTERS[(bits & 63) as usize]));
        bits >>= 6;
    }
}

/// Compares in constant time: how long it takes does not reveal where the two differ.
fn equal(one: &[u8], two: &[u8]) -> bool {
    let different = one.iter().zip(two).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(different) == 0 && one.len() == two.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Generated by `openssl passwd` and glibc's crypt(3).
    const STORED: &[(&str, &str)] = &[
        ("secret", "{PLAIN}secret"),
        ("", "{PLAIN}"),
        ("secret", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="),
        ("secret", "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0"),
        ("secret", "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"),
        ("", "$apr1$abcdefgh$L.PT565ESX4Tp2bqNs7Ie."),
        ("a password that is longer than sixteen bytes", "$apr1$abcdefgh$AaK/FVm2z4lOI9DSq69901"),
        ("secret", "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"),
        ("a password that is longer than sixteen bytes", "$1$abcdefgh$FXMPaxNDIz0OouRGujZuQ."),
        ("secret", "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM."),
        ("", "$5$rounds=1000$saltsalt$Naw4j7Jsi9DJmo461n8iSYTXTcY98Ufoq.Xsn7KkFN7"),
        (
            "a password that is longer than sixteen bytes",
            "$5$rounds=1000$saltsalt$RBQNwaRPChoVss5VlNzOcJF8wFPBVtduXEx5k6OHKa7",
        ),
        (
            "secret",
            "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
        ),
        (
            "secret",
            "$6$rounds=1234$0123456789abcdef$VODeSFEg0EGdP8Mq9IJLg6ChBD5lEMcw5wcuG.kHh1CJw6u0uMYc89/dW0C630TSias07sp0cWvSEv6DHYlqY.",
        ),
        ("secret", "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"),
        ("", "$2y$05$abcdefghijklmnopqrstuu0oImNDIy4flhldV9YqunRgBAePKmw7m"),
    ];

    #[test]
    fn every_scheme_knows_its_password_and_no_other() {
        for (password, stored) in STORED {
            assert!(verify(password.as_bytes(), stored), "{password} {stored}");
            assert!(!verify(format!("{password}x").as_bytes(), stored), "{stored}");
            assert!(!verify(b"wrong", stored), "{stored}");
        }
    }

    #[test]
    fn broken_entries_let_nobody_in() {
        for stored in [
            "",
            "secret",
            "{SHA}",
            "{SHA}!!",
            "{SSHA}QUJD",
            "$apr1$",
            "$apr1$salt",
            "$1$salt$",
            "$5$",
            "$5$salt",
            "$6$rounds=x$s$h",
            "$6$rounds=5000",
            "$6$salt$short",
            "$2y$",
            "$2y$10$short",
            "$2y$99$abcdefghijklmnopqrstuv",
            "abJnggxhB/yWI",
            "$y$j9T$x$y",
        ] {
            assert!(!verify(b"secret", stored), "{stored}");
            assert!(!verify(b"", stored), "{stored}");
        }
    }

    #[test]
    fn a_password_that_is_expensive_to_hash_is_wrong_or_slow() {
        for (bytes, is_right) in [(64, true), (512, true), (513, false), (6000, false)] {
            let password = vec![b'x'; bytes];
            let stored = format!("$apr1$abcdefgh${}", md5_crypt(&password, b"abcdefgh", "apr1"));
            assert_eq!(verify(&password, &stored), is_right, "{bytes}");
        }
        let slow =
            |stored: &str| [8, 64, 65, 512, 513].map(|bytes| Scheme::of(stored).unwrap().is_slow(bytes));
        assert_eq!(slow("$apr1$"), [false, false, true, true, false]);
        assert_eq!(slow("$6$"), [true, true, true, true, false]);
        assert_eq!(slow("{SHA}"), [false; 5]);
        let long = "x".repeat(6000);
        assert!(verify(long.as_bytes(), &format!("{{PLAIN}}{long}")));
    }
}
