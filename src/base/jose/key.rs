//! The keys of a JSON Web Key Set, each with the algorithms that it may be used with.
//!
//! A key that anything is wrong with is reported with its place. Kinds of keys that are not for checking signatures, or that
//! are unknown, are skipped, as RFC 7517 §5 has it. RFC 7517, RFC 7518 §6, RFC 8037 §2.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use zeroize::Zeroizing;

use super::document::{self, Fault, Map, Value};
use super::encrypted::Opener;
use crate::base::base64;

/// The longest key set that is read.
pub const SET_BYTES_MAX: usize = 1024 * 1024;
/// The most keys of a set.
pub const KEYS_MAX: usize = 1000;
/// The most values of a set: a dozen members a key, and the certificates of some.
const VALUES_MAX: usize = 32 * KEYS_MAX;
/// Secrets shorter than that are guessed at once.
const SECRET_BYTES_MIN: usize = 8;
/// RFC 7518 §3.3.
const RSA_BITS_MIN: usize = 2048;
/// The longest modulus that the library takes.
const RSA_BITS_MAX: usize = 8192;

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

use Algorithm::{EdDsa, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

impl Algorithm {
    const ALL: [(Self, &str); 13] = [
        (Hs256, "HS256"),
        (Hs384, "HS384"),
        (Hs512, "HS512"),
        (Rs256, "RS256"),
        (Rs384, "RS384"),
        (Rs512, "RS512"),
        (Ps256, "PS256"),
        (Ps384, "PS384"),
        (Ps512, "PS512"),
        (Es256, "ES256"),
        (Es384, "ES384"),
        (Es512, "ES512"),
        (EdDsa, "EdDSA"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// The fewest bytes of a secret for it (RFC 7518 §3.2); `None`: it takes a public key.
    pub fn secret_bytes_min(self) -> Option<usize> {
        SECRETS.iter().find(|(known, ..)| *known == self).map(|(.., least)| *least)
    }

    /// The algorithm of this name, in this case of letters; `none` is not one.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(algorithm, _)| *algorithm)
    }
}

/// Keys in the order of their set.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Those that tokens are decrypted with.
    openers: Vec<Opener>,
    /// Those that were left out, and why.
    skipped: Vec<KeyError>,
    /// Those that are used although they should be stronger.
    weak: Vec<KeyError>,
}

/// A key, ready to check signatures.
#[derive(Debug)]
pub struct Key {
    id: Option<Box<str>>,
    checks: Vec<(Algorithm, Check)>,
}

enum Check {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl fmt::Debug for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Secret(_) => "Secret",
            Self::Public(_) => "Public",
        })
    }
}

/// Why a key set, or a key in it, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// The key's position, counted from 1, and its `kid`. `None`: the whole set.
    place: Option<(usize, Option<Box<str>>)>,
    cause: String,
    /// Nothing is wrong: the key is for something else.
    is_other: bool,
}

impl KeyError {
    fn whole(cause: impl Into<String>) -> Self {
        Self { place: None, cause: cause.into(), is_other: false }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((number, Some(id))) => write!(out, "key {number} ({id:?}): ")?,
            Some((number, None)) => write!(out, "key {number}: ")?,
            None => {}
        }
        out.write_str(&self.cause)
    }
}

/// The reason why a key is not used.
pub(super) enum Refusal {
    /// It is weak or malformed.
    Faulty(String),
    /// It is not for checking signatures, or of an unknown kind.
    Other(String),
}

impl From<&str> for Refusal {
    fn from(cause: &str) -> Self {
        Self::Faulty(cause.to_owned())
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set, or a single key. Errors: the first fault, with the key's place; a set without a usable key.
    pub fn strict(text: &[u8]) -> Result<Self, KeyError> {
        let set = Self::read(text)?;
        let fault = set.faults().next().cloned();
        fault.map_or(Ok(set), Err)
    }

    /// The same, except that a faulty key is skipped: for sets that somebody else keeps. Errors: the text is no key set, or
    /// no key in it can be used.
    pub fn read(text: &[u8]) -> Result<Self, KeyError> {
        Self::read_all(text, false)
    }

    /// The same for a set that anybody can read: a secret in it is none, so it is skipped, and nothing is decrypted with it.
    pub fn public(text: &[u8]) -> Result<Self, KeyError> {
        Self::read_all(text, true)
    }

    /// The set of one secret, for one algorithm. `None`: that takes a public key.
    pub fn of_secret(secret: &[u8], algorithm: Algorithm) -> Option<Self> {
        let (_, hash, _) = SECRETS.iter().find(|(known, ..)| *known == algorithm)?;
        let check = Check::Secret(Box::new(hmac::Key::new(*hash, secret)));
        let key = Key { id: None, checks: vec![(algorithm, check)] };
        Some(Self { keys: vec![key], ..Self::default() })
    }

    fn read_all(text: &[u8], is_public: bool) -> Result<Self, KeyError> {
        if text.len() > SET_BYTES_MAX {
            return Err(KeyError::whole(format!("a key set has at most {SET_BYTES_MAX} bytes")));
        }
        let mut object = document::object(text, VALUES_MAX)
            .map_err(|Fault(cause)| KeyError::whole(format!("it is no JSON Web Key Set: {cause}")))?;
        let list = match object.remove("keys") {
            Some(Value::Array(list)) => list,
            Some(_) => return Err(KeyError::whole("it is no JSON Web Key Set: \"keys\" is not a list")),
            None if object.contains_key("kty") => vec![Value::Object(object)],
            None => return Err(KeyError::whole("it is no JSON Web Key Set: there is no \"keys\"")),
        };
        if list.len() > KEYS_MAX {
            let cause = format!("there are {} keys, and at most {KEYS_MAX} are allowed", list.len());
            return Err(KeyError::whole(cause));
        }
        let mut set = Self::default();
        for (index, value) in list.iter().enumerate() {
            let id = value["kid"].as_str().map(|id| document::short(id).into());
            if is_public && value["kty"] == "oct" {
                let cause = "it is a secret in a set that anybody can read".to_owned();
                set.skipped.push(KeyError { place: Some((index + 1, id)), cause, is_other: false });
                continue;
            }
            let opener = if is_public { Ok(None) } else { Opener::read(value) };
            let has_opener = match opener {
                Ok(opener) => {
                    let has_opener = opener.is_some();
                    set.openers.extend(opener);
                    has_opener
                }
                Err(Refusal::Faulty(cause) | Refusal::Other(cause)) => {
                    let place = Some((index + 1, id.clone()));
                    set.skipped.push(KeyError { place, cause, is_other: false });
                    continue;
                }
            };
            match Key::read(value) {
                Err(Refusal::Other(_)) if has_opener => {}
                Ok((key, weakness)) => {
                    set.keys.push(key);
                    let place = Some((index + 1, id));
                    set.weak.extend(weakness.map(|cause| KeyError { place, cause, is_other: false }));
                }
                Err(refusal) => {
                    let (cause, is_other) = match refusal {
                        Refusal::Faulty(cause) => (cause, false),
                        Refusal::Other(cause) => (cause, true),
                    };
                    set.skipped.push(KeyError { place: Some((index + 1, id)), cause, is_other });
                }
            }
        }
        match (set.keys.is_empty() && set.openers.is_empty(), set.skipped.first()) {
            (true, Some(error)) => Err(error.clone()),
            (true, None) => Err(KeyError::whole("there is no key")),
            (false, _) => Ok(set),
        }
    }

    /// The skipped keys that are weak or malformed.
    pub fn faults(&self) -> impl Iterator<Item = &KeyError> {
        self.skipped.iter().filter(|error| !error.is_other)
    }

    /// The keys that are used although they should be stronger: short secrets, which nginx's users have.
    pub fn weak(&self) -> impl Iterator<Item = &KeyError> {
        self.weak.iter()
    }

    /// True if there is a key that tokens are decrypted with.
    pub fn decrypts(&self) -> bool {
        !self.openers.is_empty()
    }

    pub(super) fn openers(&self) -> &[Opener] {
        &self.openers
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }
}

impl Key {
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// True if the key may be used with this algorithm.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        self.checks.iter().any(|(known, _)| *known == algorithm)
    }

    /// True if `signature` is that of `message`. Secrets are compared in constant time.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let check = self.checks.iter().find(|(known, _)| *known == algorithm);
        match check.map(|(_, check)| check) {
            Some(Check::Secret(key)) => hmac::verify(key, message, signature).is_ok(),
            Some(Check::Public(key)) => key.verify_sig(message, signature).is_ok(),
            None => false,
        }
    }

    /// Also returns what is weak about it.
    fn read(value: &Value) -> Result<(Self, Option<String>), Refusal> {
        let key = value.as_object().ok_or("it is not an object")?;
        let kind = text(key, "kty")?.ok_or("\"kty\" is missing")?;
        let id = text(key, "kid")?.map(Into::into);
        if let Some(purpose) = text(key, "use")?.filter(|purpose| *purpose != "sig") {
            return Err(Refusal::Other(format!("its \"use\" is {purpose:?}, not \"sig\"")));
        }
        match key.get("key_ops") {
            None => {}
            Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
            Some(Value::Array(_)) => {
                return Err(Refusal::Other("\"key_ops\" is without \"verify\"".to_owned()));
            }
            Some(_) => return Err("\"key_ops\" is not a list".into()),
        }
        let only = match text(key, "alg")? {
            None => None,
            Some(name) => Some(Algorithm::of(name).ok_or_else(|| {
                Refusal::Other(format!("its \"alg\" {name:?} is not a supported signature algorithm"))
            })?),
        };
        let mut weakness = None;
        let checks = match kind {
            "oct" => secret(key, only, &mut weakness)?,
            "RSA" => rsa(key, only)?,
            "EC" => elliptic(key)?,
            "OKP" => edwards(key)?,
            other => return Err(Refusal::Other(format!("keys of the type {other:?} are not supported"))),
        };
        let checks: Vec<_> =
            checks.into_iter().filter(|(algorithm, _)| only.is_none_or(|only| only == *algorithm)).collect();
        match checks.is_empty() {
            true => Err("its \"alg\" does not belong to its \"kty\"".into()),
            false => Ok((Self { id, checks }, weakness)),
        }
    }
}

pub(super) fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Refusal> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::Faulty(format!("{name:?} is not a text"))),
    }
}

/// A member of bytes in base64url.
pub(super) fn bytes(key: &Map<String, Value>, name: &str) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let encoded = text(key, name)?.ok_or_else(|| Refusal::Faulty(format!("{name:?} is missing")))?;
    let decoded = base64::decode_url(encoded.as_bytes());
    decoded
        .map(Zeroizing::new)
        .ok_or_else(|| Refusal::Faulty(format!("{name:?} is not base64url without padding")))
}

/// The algorithms of secrets, and the fewest bytes of one.
static SECRETS: [(Algorithm, hmac::Algorithm, usize); 3] =
    [(Hs256, hmac::HMAC_SHA256, 32), (Hs384, hmac::HMAC_SHA384, 48), (Hs512, hmac::HMAC_SHA512, 64)];

/// RFC 7518 §3.2: a secret should be at least as long as the hash.
fn secret(
    key: &Map<String, Value>,
    only: Option<Algorithm>,
    weakness: &mut Option<String>,
) -> Result<Vec<(Algorithm, Check)>, Refusal> {
    let secret = bytes(key, "k")?;
    let count = secret.len();
    if count < SECRET_BYTES_MIN {
        let cause = format!("the secret has {count} bytes, and needs at least {SECRET_BYTES_MIN}");
        return Err(Refusal::Faulty(cause));
    }
    let wanted = SECRETS.iter().find(|(algorithm, ..)| only.is_none_or(|only| only == *algorithm));
    if let Some((_, _, least)) = wanted.filter(|(.., least)| count < *least) {
        *weakness = Some(format!(
            "the secret has {count} bytes, and should have at least {least} (RFC 7518 §3.2): whoever has a token can guess it"
        ));
    }
    Ok(SECRETS
        .iter()
        .map(|(algorithm, hash, _)| (*algorithm, Check::Secret(Box::new(hmac::Key::new(*hash, &secret)))))
        .collect())
}

fn rsa(key: &Map<String, Value>, only: Option<Algorithm>) -> Result<Vec<(Algorithm, Check)>, Refusal> {
    const KINDS: [(Algorithm, &RsaParameters); 6] = [
        (Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (Ps256, &signature::RSA_PSS_2048_8192_SHA256),
        (Ps384, &signature::RSA_PSS_2048_8192_SHA384),
        (Ps512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    let (modulus, exponent) = (bytes(key, "n")?, bytes(key, "e")?);
    // RFC 7518 §2 forbids zeros in front; some writers have one nevertheless.
    let trimmed =
        |bytes: &[u8]| bytes.iter().position(|byte| *byte != 0).map(|start| bytes[start..].to_vec());
    let n = trimmed(&modulus).ok_or("the modulus is zero")?;
    let e = trimmed(&exponent).ok_or("the exponent is zero")?;
    let bits = 8 * n.len() - n[0].leading_zeros() as usize;
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        let cause =
            format!("the RSA modulus has {bits} bits: from {RSA_BITS_MIN} to {RSA_BITS_MAX} are allowed");
        return Err(Refusal::Faulty(cause));
    }
    // Beyond 33 bits the library refuses each signature, and a check of one would take long.
    let value = e.iter().try_fold(0u64, |all, byte| (all < 1 << 33).then_some(all << 8 | u64::from(*byte)));
    if value.is_none_or(|value| value < 3 || value % 2 == 0 || value >= 1 << 33)
        || n.last().is_none_or(|byte| byte % 2 == 0)
    {
        return Err("its modulus or exponent is not that of an RSA key".into());
    }
    let components = RsaPublicKeyComponents { n, e };
    let wanted = KINDS.into_iter().filter(|(algorithm, _)| only.is_none_or(|only| only == *algorithm));
    let parse = |(algorithm, parameters): (Algorithm, &'static RsaParameters)| {
        let parsed = components.to_parsed_public_key(parameters).map_err(|_| "it is not an RSA key")?;
        Ok((algorithm, Check::Public(parsed)))
    };
    wanted.map(parse).collect()
}

/// A point that is not on its curve is refused here (RFC 7518 §6.2.1).
fn elliptic(key: &Map<String, Value>) -> Result<Vec<(Algorithm, Check)>, Refusal> {
    let curve = text(key, "crv")?.ok_or("\"crv\" is missing")?;
    let (algorithm, parameters, size): (_, &'static dyn VerificationAlgorithm, _) = match curve {
        "P-256" => (Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => (Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        other => return Err(Refusal::Other(format!("the curve {other:?} is not supported"))),
    };
    let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
    if (x.len(), y.len()) != (size, size) {
        return Err(Refusal::Faulty(format!("a coordinate on {curve} has {size} bytes")));
    }
    let point = [&[4], &x[..], &y[..]].concat();
    let parsed = ParsedPublicKey::new(parameters, &point)
        .map_err(|_| Refusal::Faulty(format!("the point is not on the curve {curve}")))?;
    Ok(vec![(algorithm, Check::Public(parsed))])
}

fn edwards(key: &Map<String, Value>) -> Result<Vec<(Algorithm, Check)>, Refusal> {
    match text(key, "crv")?.ok_or("\"crv\" is missing")? {
        "Ed25519" => {}
        other => return Err(Refusal::Other(format!("the curve {other:?} is not supported"))),
    }
    let x = bytes(key, "x")?;
    if x.len() != 32 {
        return Err("a key on Ed25519 has 32 bytes".into());
    }
    let parsed =
        ParsedPublicKey::new(&signature::ED25519, &x[..]).map_err(|_| "it is not a key on Ed25519")?;
    Ok(vec![(EdDsa, Check::Public(parsed))])
}
