//! An encrypted token in the compact form: read without trust, then decrypted.
//!
//! ```text
//! BASE64URL(header) . BASE64URL(encrypted key) . BASE64URL(IV) . BASE64URL(ciphertext) . BASE64URL(tag)
//! ```
//! Keys are agreed on by `dir`, A128KW, A256KW, RSA-OAEP and RSA-OAEP-256; contents are encrypted by AES in GCM, or in CBC
//! with HMAC. There is no RSA1_5, whose padding is an oracle, no PBES2, whose cost a client would choose, and no compression.
//! An encrypted key that is wrong is replaced by a random one, so that nothing tells it from a wrong tag.
//! RFC 7516 §5.2, §11.5; RFC 7518 §4, §5.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{self, AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::key_wrap::{AES_128, AES_256, AesKek, KeyWrap};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::{constant_time, hmac, iv, rand};
use zeroize::Zeroizing;

use super::document::{self, Fault, Map, Value};
use super::key::{KeySet, Refusal, bytes, text};
use super::token::{CANDIDATES_MAX, Error, TOKEN_BYTES_MAX, VALUES_MAX};
use crate::base::base64;

/// RFC 7518 §4.3, and the longest that the library takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The members of a private RSA key (RFC 7518 §6.3.2), in the order of PKCS#1.
const PRIVATE: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];

/// How the key of a token's content is found (RFC 7518 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Management {
    Direct,
    /// AES Key Wrap with a key of this many bytes.
    Wrap(usize),
    Oaep,
    Oaep256,
}

/// How the content is encrypted (RFC 7518 §5): the bytes of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Gcm(usize),
    /// Half of the key is that of the HMAC.
    Cbc(usize),
}

impl Management {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "dir" => Self::Direct,
            "A128KW" => Self::Wrap(16),
            "A256KW" => Self::Wrap(32),
            "RSA-OAEP" => Self::Oaep,
            "RSA-OAEP-256" => Self::Oaep256,
            _ => return None,
        })
    }
}

impl Content {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "A128GCM" => Self::Gcm(16),
            "A192GCM" => Self::Gcm(24),
            "A256GCM" => Self::Gcm(32),
            "A128CBC-HS256" => Self::Cbc(32),
            "A192CBC-HS384" => Self::Cbc(48),
            "A256CBC-HS512" => Self::Cbc(64),
            _ => return None,
        })
    }

    fn key_bytes(self) -> usize {
        let (Self::Gcm(bytes) | Self::Cbc(bytes)) = self;
        bytes
    }
}

/// A key that tokens are decrypted with.
pub struct Opener {
    id: Option<Box<str>>,
    /// The only algorithm, of keys or of contents, that it is for.
    only: Option<Box<str>>,
    kind: Kind,
}

enum Kind {
    Secret(Zeroizing<Vec<u8>>),
    Rsa(OaepPrivateDecryptingKey),
}

impl fmt::Debug for Opener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Opener").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Opener {
    /// `None`: the key is not for decrypting.
    pub(super) fn read(value: &Value) -> Result<Option<Self>, Refusal> {
        let Some(key) = value.as_object() else { return Ok(None) };
        let is_for = |name: &str| match key.get("key_ops") {
            Some(Value::Array(operations)) => operations.iter().any(|operation| operation == name),
            _ => true,
        };
        if text(key, "use")?.is_some_and(|purpose| purpose != "enc")
            || !(is_for("decrypt") || is_for("unwrapKey"))
        {
            return Ok(None);
        }
        let only = text(key, "alg")?;
        if only.is_some_and(|name| Management::of(name).is_none() && Content::of(name).is_none()) {
            return Ok(None);
        }
        let kind = match text(key, "kty")? {
            Some("oct") => Kind::Secret(bytes(key, "k")?),
            // One without these is used for signatures only; its private exponent does not matter there.
            Some("RSA") if PRIVATE.iter().all(|name| key.contains_key(*name)) => Kind::Rsa(private(key)?),
            _ => return Ok(None),
        };
        let id = text(key, "kid")?.map(Into::into);
        Ok(Some(Self { id, only: only.map(Into::into), kind }))
    }

    fn fits(&self, token: &Sealed) -> bool {
        let is_kind = match (&self.kind, token.management) {
            (Kind::Secret(secret), Management::Direct) => secret.len() == token.content.key_bytes(),
            (Kind::Secret(secret), Management::Wrap(bytes)) => secret.len() == bytes,
            (Kind::Rsa(_), Management::Oaep | Management::Oaep256) => true,
            _ => false,
        };
        let is_meant = |only: &str| {
            only == token.algorithm || token.management == Management::Direct && only == token.encryption
        };
        is_kind && self.only.as_deref().is_none_or(is_meant)
    }

    /// The key of the content; a random one if the encrypted key is wrong.
    fn content_key(&self, token: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
        let mut found = Zeroizing::new(vec![0; token.content.key_bytes()]);
        rand::fill(&mut found).ok()?;
        match (&self.kind, token.management) {
            (Kind::Secret(secret), Management::Direct) => found.copy_from_slice(secret),
            (Kind::Secret(secret), Management::Wrap(_)) => {
                let cipher = if secret.len() == 16 { &AES_128 } else { &AES_256 };
                let mut space = Zeroizing::new(vec![0; token.key.len()]);
                let unwrapped = AesKek::new(cipher, secret).ok()?.unwrap(&token.key, &mut space);
                take(unwrapped, &mut found);
            }
            (Kind::Rsa(private), management) => {
                let scheme = match management {
                    Management::Oaep256 => &OAEP_SHA256_MGF1SHA256,
                    _ => &OAEP_SHA1_MGF1SHA1,
                };
                let mut space = Zeroizing::new(vec![0; private.min_output_size()]);
                take(private.decrypt(scheme, &token.key, &mut space, None), &mut found);
            }
            (Kind::Secret(_), Management::Oaep | Management::Oaep256) => return None,
        }
        Some(found)
    }
}

fn take<E>(key: Result<&mut [u8], E>, found: &mut [u8]) {
    if let Some(key) = key.ok().filter(|key| key.len() == found.len()) {
        found.copy_from_slice(key);
    }
}

/// An RSA key as the library takes it: PKCS#8 around PKCS#1 (RFC 5958, RFC 8017 A.1.2).
fn private(key: &Map<String, Value>) -> Result<OaepPrivateDecryptingKey, Refusal> {
    let modulus = bytes(key, "n")?;
    if !RSA_BITS.contains(&(8 * modulus.len())) {
        let cause = format!("the RSA modulus has {} bits: 2048 to 8192 are allowed", 8 * modulus.len());
        return Err(Refusal::Faulty(cause));
    }
    let mut numbers = Zeroizing::new(vec![0x02, 0x01, 0x00]);
    for name in ["n", "e"].into_iter().chain(PRIVATE) {
        let number = bytes(key, name)?;
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let mut integer = Zeroizing::new(vec![0]);
        integer.extend_from_slice(&number[start..]);
        let skip = usize::from(integer.get(1).is_some_and(|byte| *byte < 0x80));
        der(0x02, &integer[skip..], &mut numbers);
    }
    let (mut inner, mut octets, mut outer) =
        (Zeroizing::default(), Zeroizing::default(), Zeroizing::default());
    der(0x30, &numbers, &mut inner);
    der(0x04, &inner, &mut octets);
    // Version 0, rsaEncryption.
    let head = [
        0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
        0x00,
    ];
    let whole = Zeroizing::new([&head[..], &octets].concat());
    der(0x30, &whole, &mut outer);
    let private = PrivateDecryptingKey::from_pkcs8(&outer).map_err(|_| "it is not a private RSA key")?;
    OaepPrivateDecryptingKey::new(private).map_err(|_| "it is not a private RSA key".into())
}

fn der(tag: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        middle @ 0x80..=0xff => out.extend_from_slice(&[0x81, middle as u8]),
        // A key of 8192 bits has less than 64 KiB.
        long => out.extend_from_slice(&[0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend_from_slice(content);
}

/// An encrypted token as it was read.
pub struct Sealed {
    pub header: Map<String, Value>,
    algorithm: String,
    encryption: String,
    management: Management,
    content: Content,
    /// The header as it is written, which is authenticated too.
    aad: Vec<u8>,
    key: Vec<u8>,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

impl Sealed {
    /// Reads a token; nothing is decrypted. Errors: it is malformed, signed only, or encrypted in a way that is not supported.
    pub fn parse(token: &[u8]) -> Result<Self, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::TooLong(token.len()));
        }
        let parts: Vec<&[u8]> = token.splitn(6, |byte| *byte == b'.').collect();
        let [head, key, iv, ciphertext, tag] = parts[..] else { return Err(Error::NotEncrypted) };
        let decode = |part: &[u8]| base64::decode_url(part).ok_or(Error::NotEncrypted);
        let header = document::object(&decode(head)?, VALUES_MAX).map_err(Error::Header)?;
        let name = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (algorithm, encryption) = (name("alg"), name("enc"));
        let unknown = |name: &str| Error::Algorithm(document::short(name).to_owned());
        let management = Management::of(&algorithm).ok_or_else(|| unknown(&algorithm))?;
        let content = Content::of(&encryption).ok_or_else(|| unknown(&encryption))?;
        if header.contains_key("crit") {
            return Err(Error::Critical);
        }
        if header.contains_key("zip") {
            return Err(Error::Compressed);
        }
        if header.get("kid").is_some_and(|id| !id.is_string()) {
            return Err(Error::Header(Fault("\"kid\" is not a text".to_owned())));
        }
        let (key, iv, ciphertext, tag) = (decode(key)?, decode(iv)?, decode(ciphertext)?, decode(tag)?);
        let aad = head.to_vec();
        Ok(Self { header, algorithm, encryption, management, content, aad, key, iv, ciphertext, tag })
    }

    /// The content, decrypted with the first key that fits.
    pub fn open(&self, sets: &[Arc<KeySet>]) -> Result<Zeroizing<Vec<u8>>, Error> {
        if self.management == Management::Direct && !self.key.is_empty() {
            return Err(Error::NotEncrypted);
        }
        let id = self.header.get("kid").and_then(Value::as_str);
        let all = || sets.iter().flat_map(|set| set.openers()).filter(|opener| opener.fits(self));
        let named = all().filter(|opener| id.is_some() && opener.id.as_deref() == id);
        let others = all().filter(|opener| id.is_none() || opener.id.is_none());
        let mut count = 0;
        for opener in named.chain(others) {
            if count == CANDIDATES_MAX {
                return Err(Error::TooManyKeys);
            }
            count += 1;
            let opened = opener.content_key(self).and_then(|key| self.decrypt(&key));
            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
        match count {
            0 => Err(Error::NoKey {
                id: id.map(|id| document::short(id).to_owned()),
                algorithm: document::short(&self.algorithm).to_owned(),
            }),
            _ => Err(Error::Undecryptable),
        }
    }

    fn decrypt(&self, key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut data = Zeroizing::new(self.ciphertext.clone());
        let count = match self.content {
            Content::Gcm(bytes) => {
                let cipher: &'static aead::Algorithm = match bytes {
                    16 => &AES_128_GCM,
                    24 => &AES_192_GCM,
                    _ => &AES_256_GCM,
                };
                let nonce = Nonce::try_assume_unique_for_key(&self.iv).ok()?;
                // A shorter tag would be easier to guess (RFC 7518 §5.3).
                if self.tag.len() != 16 {
                    return None;
                }
                data.extend_from_slice(&self.tag);
                let opening = LessSafeKey::new(UnboundKey::new(cipher, key).ok()?);
                opening.open_in_place(nonce, Aad::from(&self.aad), &mut data).ok()?.len()
            }
            Content::Cbc(bytes) => {
                let (own, secret) = key.split_at_checked(bytes / 2)?;
                let (kind, cipher) = match bytes {
                    32 => (hmac::HMAC_SHA256, &cipher::AES_128),
                    48 => (hmac::HMAC_SHA384, &cipher::AES_192),
                    _ => (hmac::HMAC_SHA512, &cipher::AES_256),
                };
                let bits = 8 * self.aad.len() as u64;
                let signed = [&self.aad[..], &self.iv, &data, &bits.to_be_bytes()].concat();
                let whole = hmac::sign(&hmac::Key::new(kind, own), &signed);
                constant_time::verify_slices_are_equal(whole.as_ref().get(..bytes / 2)?, &self.tag).ok()?;
                let start: [u8; 16] = self.iv[..].try_into().ok()?;
                let opening = UnboundCipherKey::new(cipher, secret)
                    .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
                    .ok()?;
                let context = DecryptionContext::Iv128(iv::FixedLength::from(start));
                opening.decrypt(&mut data, context).ok()?.len()
            }
        };
        data.truncate(count);
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = include_str!("../../../tests/http/auth_jwt/encrypted_keys.json");
    const TOKENS: &str = include_str!("../../../tests/http/auth_jwt/encrypted.txt");

    fn sets() -> [Arc<KeySet>; 1] {
        [Arc::new(KeySet::strict(KEYS.as_bytes()).expect("keys"))]
    }

    fn tokens() -> impl Iterator<Item = (&'static str, &'static str)> {
        TOKENS.lines().map(|line| line.split_once(' ').expect("a name and a token"))
    }

    #[test]
    fn tokens_of_another_program_are_decrypted_by_all_algorithms() {
        let mut count = 0;
        for (name, token) in tokens().filter(|(name, _)| name.contains('/')) {
            let opened = Sealed::parse(token.as_bytes()).and_then(|sealed| sealed.open(&sets()));
            let claims = br#"{"sub": "joe", "iss": "python", "level": 7}"#;
            assert_eq!(opened.as_deref().map(Vec::as_slice), Ok(&claims[..]), "{name}");
            count += 1;
        }
        assert_eq!(count, 30);
    }

    #[test]
    fn a_byte_that_was_changed_spoils_the_whole() {
        let sets = sets();
        for (name, token) in tokens().filter(|(name, _)| name.contains('/')) {
            let dots: Vec<usize> = token.match_indices('.').map(|(at, _)| at).collect();
            for (part, end) in dots.iter().copied().chain([token.len()]).enumerate() {
                let mut other = token.as_bytes().to_vec();
                // The first letter of a part stands for whole bits of it.
                let start = if part == 0 { 0 } else { dots[part - 1] + 1 };
                if start == end {
                    continue;
                }
                other[start] = if other[start] == b'A' { b'B' } else { b'A' };
                let opened = Sealed::parse(&other).and_then(|sealed| sealed.open(&sets));
                assert!(opened.is_err(), "{name}, part {part}");
            }
        }
    }

    #[test]
    fn dangerous_and_malformed_tokens_are_refused() {
        let parse = |header: &str, rest: &str| {
            Sealed::parse(format!("{}{rest}", base64::encode_url(header.as_bytes())).as_bytes()).map(|_| ())
        };
        let rest = ".YQ.YQ.YQ.YQ";
        assert_eq!(parse(r#"{"alg":"dir","enc":"A128GCM"}"#, rest), Ok(()));
        for (alg, enc) in [
            ("RSA1_5", "A128GCM"),
            ("PBES2-HS256+A128KW", "A128GCM"),
            ("A128GCMKW", "A128GCM"),
            ("none", "A128GCM"),
            ("dir", "none"),
            ("dir", ""),
        ] {
            let error = parse(&format!(r#"{{"alg":"{alg}","enc":"{enc}"}}"#), rest);
            assert!(matches!(error, Err(Error::Algorithm(_))), "{alg} {enc}");
        }
        assert_eq!(parse(r#"{"alg":"dir","enc":"A128GCM","zip":"DEF"}"#, rest), Err(Error::Compressed));
        assert_eq!(parse(r#"{"alg":"dir","enc":"A128GCM","crit":[]}"#, rest), Err(Error::Critical));
        for rest in ["", ".YQ", ".YQ.YQ", ".YQ.YQ.YQ", ".YQ.YQ.YQ.YQ.YQ", ".YQ.YQ.YQ.="] {
            assert_eq!(parse(r#"{"alg":"dir","enc":"A128GCM"}"#, rest), Err(Error::NotEncrypted), "{rest}");
        }
        let header = base64::encode_url(br#"{"alg":"dir","enc":"A128GCM"}"#);
        let open =
            |rest: &str| Sealed::parse(format!("{header}{rest}").as_bytes()).and_then(|it| it.open(&sets()));
        assert_eq!(
            open(".YQ.YQ.YQ.YQ").err(),
            Some(Error::NotEncrypted),
            "an encrypted key, and none is expected"
        );
        assert_eq!(open("..YQ.YQ.YQ").err(), Some(Error::Undecryptable), "a short IV and tag");
        assert_eq!(open("....").err(), Some(Error::Undecryptable));
    }

    #[test]
    fn keys_are_used_for_what_they_are_for_only() {
        let token = tokens().find(|(name, _)| *name == "A128KW/A128GCM").expect("it is there").1;
        let sealed = Sealed::parse(token.as_bytes()).expect("it parses");
        let key = KEYS.split('}').find(|part| part.contains("\"w16\"")).expect("it is there");
        let key = format!("{{{}", key.rsplit_once('{').expect("a key").1);
        let open = |more: &str| {
            let text = format!("{key},{more}}}").replace(r#""use": "enc""#, r#""x": """#);
            match KeySet::read(text.as_bytes()) {
                Ok(set) => sealed.open(&[Arc::new(set)]).map(|_| ()),
                Err(_) => Err(Error::Form),
            }
        };
        assert_eq!(open(r#""use":"enc""#), Ok(()));
        assert_eq!(open(r#""alg":"A128KW""#), Ok(()));
        assert_eq!(open(r#""key_ops":["unwrapKey"]"#), Ok(()));
        for more in [
            r#""use":"sig""#,
            r#""alg":"A128GCM""#,
            r#""alg":"dir""#,
            r#""alg":"HS256""#,
            r#""key_ops":["verify"]"#,
        ] {
            assert!(matches!(open(more), Err(Error::NoKey { .. })), "{more}");
        }
    }
}
