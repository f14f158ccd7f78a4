//! A signed token in the compact form: read without trust, then verified.
//!
//! ```text
//! BASE64URL(header) . BASE64URL(claims) . BASE64URL(signature)
//! ```
//! RFC 7515 §3.1, §5.2; RFC 7519 §4.1, §7.2.

use std::fmt;
use std::sync::Arc;

use super::document::{self, Fault, Map, Value};
use super::key::{Algorithm, Key, KeySet};
use crate::base::base64;

/// The longest token that is read.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// The most values in a header, or among the claims.
pub(super) const VALUES_MAX: usize = 2048;
/// The most keys that one token is checked with: a check takes up to half a millisecond.
pub const CANDIDATES_MAX: usize = 16;

/// A token as it was read. Nothing in it is true before [`Token::verify`] has said so.
#[derive(Debug)]
pub struct Token {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    /// The JSON of the claims.
    pub payload: Vec<u8>,
    /// `None`: it was encrypted, and its claims are not signed.
    algorithm: Option<Algorithm>,
    signed: Box<[u8]>,
    signature: Vec<u8>,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    TooLong(usize),
    /// Not three parts of base64url.
    Form,
    /// Five parts: it is encrypted (RFC 7516), and must be signed only.
    Encrypted,
    /// Not five parts of base64url: it must be encrypted.
    NotEncrypted,
    /// Its content is compressed, which is a risk and not supported.
    Compressed,
    /// No key that fits decrypts it.
    Undecryptable,
    Header(Fault),
    /// It is not signed with a supported algorithm; its name.
    Algorithm(String),
    /// It has extensions that must be understood.
    Critical,
    Claims(Fault),
    /// No key has its `kid` and its algorithm.
    NoKey {
        id: Option<String>,
        algorithm: String,
    },
    /// More keys could have signed it than are tried.
    TooManyKeys,
    Signature,
    /// The claim is not a number.
    NoNumber(&'static str),
    Expired,
    Early,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => {
                write!(out, "it has {bytes} bytes, and at most {TOKEN_BYTES_MAX} are read")
            }
            Self::Form => out.write_str("it does not have three parts in base64url"),
            Self::Encrypted => out.write_str("it is encrypted: \"auth_jwt_type\" is signed"),
            Self::NotEncrypted => {
                out.write_str("it does not have five parts in base64url, and must be encrypted")
            }
            Self::Compressed => out.write_str("its content is compressed (\"zip\"), which is not supported"),
            Self::Undecryptable => out.write_str("no key decrypts it"),
            Self::Header(fault) => write!(out, "its header is malformed: {fault}"),
            Self::Algorithm(name) => write!(out, "its algorithm {name:?} is not accepted"),
            Self::Critical => out.write_str("its header has \"crit\", and no extension is supported"),
            Self::Claims(fault) => write!(out, "its claims are malformed: {fault}"),
            Self::NoKey { id: Some(id), algorithm } => write!(out, "there is no key {id:?} for {algorithm}"),
            Self::NoKey { id: None, algorithm } => write!(out, "there is no key for {algorithm}"),
            Self::TooManyKeys => write!(
                out,
                "none of the first {CANDIDATES_MAX} keys that could have signed it has done so: give the keys and the tokens a \"kid\""
            ),
            Self::Signature => out.write_str("its signature is wrong"),
            Self::NoNumber(claim) => write!(out, "its claim {claim:?} is not a number"),
            Self::Expired => out.write_str("it has expired"),
            Self::Early => out.write_str("it is not valid yet"),
        }
    }
}

impl Token {
    /// Reads a token; its signature is not looked at. Errors: it is malformed, or not a signed token.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Error::TooLong(text.len()));
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Error::Form);
        };
        match parts.count() {
            0 => {}
            2 => return Err(Error::Encrypted),
            _ => return Err(Error::Form),
        }
        let decode = |part: &[u8]| base64::decode_url(part).ok_or(Error::Form);
        let signed = text[..header.len() + 1 + claims.len()].into();
        let (header, payload, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header = document::object(&header, VALUES_MAX).map_err(Error::Header)?;
        let name = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let algorithm =
            Algorithm::of(name).ok_or_else(|| Error::Algorithm(document::short(name).to_owned()))?;
        if header.contains_key("crit") {
            return Err(Error::Critical);
        }
        if header.get("kid").is_some_and(|id| !id.is_string()) {
            return Err(Error::Header(Fault("\"kid\" is not a text".to_owned())));
        }
        let claims = document::object(&payload, VALUES_MAX).map_err(Error::Claims)?;
        Ok(Self { header, claims, payload, algorithm: Some(algorithm), signed, signature })
    }

    /// The token of a content that was decrypted: claims that nobody has signed. The times are checked here.
    pub fn of_content(
        header: Map<String, Value>,
        content: &[u8],
        now_s: i64,
        leeway_s: f64,
    ) -> Result<Self, Error> {
        let claims = document::object(content, VALUES_MAX).map_err(Error::Claims)?;
        let (payload, signed) = (content.to_vec(), Box::default());
        let token = Self { header, claims, payload, algorithm: None, signed, signature: Vec::new() };
        token.check_times(now_s, leeway_s)?;
        Ok(token)
    }

    /// Checks the signature with the keys, and then the times against `now_s`, in seconds since 1970.
    ///
    /// A key is tried if it may be used with the token's algorithm, and if not both have a `kid`, or both the same one; those
    /// with the token's `kid` come first.
    pub fn verify(&self, sets: &[Arc<KeySet>], now_s: i64, leeway_s: f64) -> Result<(), Error> {
        self.verify_signature(sets)?;
        self.check_times(now_s, leeway_s)
    }

    /// The algorithm that its header names; `None`: nobody has signed it.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// Gives back the memory that only [`Token::verify`] needs.
    pub fn forget_signature(&mut self) {
        (self.signed, self.signature) = (Box::default(), Vec::new());
    }

    fn verify_signature(&self, sets: &[Arc<KeySet>]) -> Result<(), Error> {
        let id = self.header.get("kid").and_then(Value::as_str);
        let Some(algorithm) = self.algorithm else { return Err(Error::Signature) };
        let all = || sets.iter().flat_map(|set| set.keys()).filter(|key| key.has(algorithm));
        let named = all().filter(|key| id.is_some() && key.id() == id);
        let others = all().filter(|key| id.is_none() || key.id().is_none());
        let verifies = |key: &Key| key.verifies(algorithm, &self.signed, &self.signature);
        let mut count = 0;
        for key in named.chain(others) {
            if count == CANDIDATES_MAX {
                return Err(Error::TooManyKeys);
            }
            count += 1;
            if verifies(key) {
                return Ok(());
            }
        }
        match count {
            0 => {
                let algorithm = self.header.get("alg").and_then(Value::as_str).unwrap_or_default().to_owned();
                Err(Error::NoKey { id: id.map(|id| document::short(id).to_owned()), algorithm })
            }
            _ => Err(Error::Signature),
        }
    }

    /// RFC 7519 §4.1.4 and §4.1.5: valid from `nbf` on, and before `exp`.
    fn check_times(&self, now_s: i64, leeway_s: f64) -> Result<(), Error> {
        let now_s = now_s as f64;
        let time = |name: &'static str| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(Error::NoNumber(name)),
        };
        if time("exp")?.is_some_and(|end_s| now_s >= end_s + leeway_s) {
            return Err(Error::Expired);
        }
        if time("nbf")?.is_some_and(|start_s| now_s + leeway_s < start_s) {
            return Err(Error::Early);
        }
        Ok(())
    }

    /// Appends the text of the value at `path` in an object. False: there is none.
    pub fn put_member<'a>(
        object: &Map<String, Value>,
        path: impl IntoIterator<Item = &'a str>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut path = path.into_iter();
        let Some(mut value) = path.next().and_then(|name| object.get(name)) else { return false };
        for name in path {
            match value.as_object().and_then(|object| object.get(name)) {
                Some(inner) => value = inner,
                None => return false,
            }
        }
        document::put_text(value, out)
    }
}
