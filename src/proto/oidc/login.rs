//! A login on its way: begun by a redirect to the provider, ended by the client's return from there.
//!
//! Nothing is kept here of a login that has begun, so that those that are never finished cost nothing. The client's cookie
//! has a secret; `state`, which comes back with the client, has the rest, sealed with a key of ours, and a digest of that
//! secret. `nonce` and the verifier of PKCE are derived from the secret and a salt, so that each login has its own, and
//! several may be on their way in one browser.
//!
//! ```text
//! state: BASE64URL(name of the key, 16 | nonce, 12 | sealed | tag, 16)
//! sealed: begun_s: u32 | flags: u8 | salt, 16 | digest of the secret, 16 | URI to return to
//! ```
//! Touches: nothing. OpenID Connect Core 1.0 §3.1.2.1 and §15.5.2; RFC 7636; RFC 6749 §10.12.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, hmac};

use crate::base::base64;
use crate::base::frame::Fields;
use crate::base::path::{Escape, escape_uri};

/// Bytes of the secret in the cookie of a login, and of the id of a session.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a key's name.
pub const NAME_BYTES: usize = 16;
/// The longest URI that a login returns to; for a longer one it leads to its path, or to `/`.
pub const RETURN_BYTES_MAX: usize = 2048;
/// The longest `state` that is looked at.
const STATE_BYTES_MAX: usize = (RETURN_BYTES_MAX + 128) * 4 / 3;
const SALT_BYTES: usize = 16;
const OWNER_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

pub type Secret = [u8; SECRET_BYTES];

/// A secret as the value of a cookie.
pub fn secret_text(secret: &Secret) -> String {
    base64::encode_url(secret)
}

/// The secret of a cookie's value. `None`: it is none of ours.
pub fn secret_of(text: &[u8]) -> Option<Secret> {
    // 32 bytes have 43 letters; others are not even decoded.
    (text.len() == 43).then(|| base64::decode_url(text)?.try_into().ok())?
}

/// The key that states are sealed with, and its name.
pub struct Key<'a> {
    pub name: [u8; NAME_BYTES],
    pub bytes: &'a [u8; 32],
}

/// The part of a login that comes back with the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// When it began, on the monotonic clock that all workers share.
    pub begun_s: u32,
    pub has_pkce: bool,
    pub salt: [u8; SALT_BYTES],
    /// Tells the browser that has begun it: [`owner`].
    pub owner: [u8; OWNER_BYTES],
    /// A path of this server, with its query: [`local`] has made it.
    pub return_to: Vec<u8>,
}

/// The mark of a secret in a state.
pub fn owner(secret: &Secret) -> [u8; OWNER_BYTES] {
    let digest = digest::digest(&digest::SHA256, secret);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

impl Login {
    /// The value of `state`; `None`: the system has no randomness. `provider`: a digest of it and its settings, for which alone
    /// the state opens.
    pub fn seal(&self, key: &Key<'_>, provider: &[u8; 32]) -> Option<String> {
        let mut bytes = self.begun_s.to_le_bytes().to_vec();
        bytes.push(u8::from(self.has_pkce));
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.owner);
        bytes.extend_from_slice(&self.return_to);
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, key.bytes).ok()?;
        let nonce = sealing.seal_in_place_append_tag(Aad::from(provider), &mut bytes).ok()?;
        Some(base64::encode_url(&[&key.name[..], nonce.as_ref(), &bytes].concat()))
    }

    /// Opens a `state`. `find` has the key of a name. `None`: it is not ours, belongs to another provider, or is older than the
    /// keys. Whether it belongs to this browser remains to be asked: [`Login::is_of`].
    pub fn open(
        state: &[u8],
        provider: &[u8; 32],
        find: impl FnOnce(&[u8; NAME_BYTES]) -> Option<[u8; 32]>,
    ) -> Option<Self> {
        if state.len() > STATE_BYTES_MAX {
            return None;
        }
        let bytes = base64::decode_url(state)?;
        let (name, rest) = bytes.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let opening = RandomizedNonceKey::new(&AES_256_GCM, &find(name)?).ok()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = opening.open_in_place(nonce, Aad::from(provider), &mut sealed).ok()?;
        let mut fields = Fields(plain);
        let (begun_s, flags) = (fields.u32()?, fields.u8()?);
        let (salt, rest) = fields.0.split_first_chunk::<SALT_BYTES>()?;
        let (owner, return_to) = rest.split_first_chunk::<OWNER_BYTES>()?;
        let has_pkce = flags == 1;
        Some(Self { begun_s, has_pkce, salt: *salt, owner: *owner, return_to: return_to.to_vec() })
    }

    /// True if the browser with this secret has begun it.
    pub fn is_of(&self, secret: &Secret) -> bool {
        self.owner == owner(secret)
    }

    /// The value of `nonce`, which the ID token must have.
    pub fn nonce(&self, secret: &Secret) -> String {
        self.derive(secret, b"nonce")
    }

    /// The verifier of PKCE (RFC 7636 §4.1).
    pub fn verifier(&self, secret: &Secret) -> String {
        self.derive(secret, b"pkce")
    }

    /// The challenge of PKCE by S256 (RFC 7636 §4.2).
    pub fn challenge(&self, secret: &Secret) -> String {
        let verifier = self.verifier(secret);
        base64::encode_url(digest::digest(&digest::SHA256, verifier.as_bytes()).as_ref())
    }

    fn derive(&self, secret: &Secret, purpose: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, &[purpose, &[0][..], &self.salt].concat());
        base64::encode_url(tag.as_ref())
    }
}

/// The URI to return to, from the target of a request: a path of this server and nothing else, whatever the client has
/// written. `decoded`: the normalized path, for a target that is too long, or that a browser could take for another server.
pub fn local(target: &[u8], decoded: &[u8]) -> Vec<u8> {
    let is_path = |text: &[u8]| text.first() == Some(&b'/') && !matches!(text.get(1), Some(b'/' | b'\\'));
    let is_plain = target.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\'));
    if is_path(target) && is_plain && target.len() <= RETURN_BYTES_MAX {
        return target.to_vec();
    }
    // Backslashes, which browsers take for slashes, are escaped.
    let mut path = Vec::new();
    escape_uri(decoded, Escape::Uri, &mut path);
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    path.drain(..slashes);
    path.insert(0, b'/');
    if path.len() <= RETURN_BYTES_MAX { path } else { b"/".to_vec() }
}

/// What holds for all states, for the fuzz targets and the tests here.
#[cfg(any(test, feature = "property"))]
pub mod property {
    use super::*;

    /// Panics if a state that nobody has sealed opens, or if a URI to return to leads elsewhere.
    pub fn forged_states_stay_closed(bytes: &[u8]) {
        assert_eq!(Login::open(bytes, &[1; 32], |_| Some([3; 32])), None);
        let encoded = base64::encode_url(bytes);
        assert_eq!(Login::open(encoded.as_bytes(), &[1; 32], |_| Some([3; 32])), None);
        for decoded in [&b"/"[..], bytes] {
            let uri = local(bytes, decoded);
            assert!(uri.starts_with(b"/") && !matches!(uri.get(1), Some(b'/' | b'\\')), "{uri:?}");
            assert!(uri.iter().all(u8::is_ascii_graphic) && uri.len() <= RETURN_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROVIDER: [u8; 32] = [1; 32];
    const SECRET: Secret = [2; 32];
    const KEY: [u8; 32] = [3; 32];

    fn login() -> Login {
        let return_to = b"/a?b=c".to_vec();
        Login { begun_s: 7, has_pkce: true, salt: [4; SALT_BYTES], owner: owner(&SECRET), return_to }
    }

    fn state() -> String {
        let key = Key { name: [5; NAME_BYTES], bytes: &KEY };
        login().seal(&key, &PROVIDER).expect("seals")
    }

    fn open(state: &str, provider: &[u8; 32]) -> Option<Login> {
        Login::open(state.as_bytes(), provider, |name| (*name == [5; 16]).then_some(KEY))
    }

    #[test]
    fn a_state_opens_for_its_provider_and_tells_its_browser() {
        let state = state();
        assert_eq!(open(&state, &PROVIDER), Some(login()));
        assert!(login().is_of(&SECRET) && !login().is_of(&[9; 32]));
        assert_eq!(open(&state, &[9; 32]), None, "the state of another provider");
        assert!(!state.contains("/a?b"), "the provider does not see where the client returns to");
        for at in 0..state.len() {
            let mut other = state.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            // The last letter has bits that no byte has.
            let is_same = base64::decode_url(other.as_bytes()) == base64::decode_url(state.as_bytes());
            assert!(is_same || open(&other, &PROVIDER).is_none(), "{at}");
            assert_eq!(open(&state[..at], &PROVIDER), None, "{at}");
        }
        for text in
            [&b""[..], b"//evil", b"/\\evil", b"/\r\nX: y", b"\\/\\/evil", &[0xff; 3000], b"/%2F/evil"]
        {
            property::forged_states_stay_closed(text);
        }
    }

    #[test]
    fn each_login_has_its_own_nonce_and_verifier() {
        let (one, mut other) = (login(), login());
        other.salt[0] = 9;
        assert_ne!(one.nonce(&SECRET), other.nonce(&SECRET));
        assert_ne!(one.nonce(&SECRET), one.verifier(&SECRET));
        assert_ne!(one.verifier(&SECRET), one.verifier(&[8; 32]));
        assert_eq!(one.verifier(&SECRET).len(), 43);
        assert_eq!(secret_of(secret_text(&SECRET).as_bytes()), Some(SECRET));
        for text in [&b""[..], &[b'A'; 42], &[b'A'; 44], &[b'='; 43]] {
            assert_eq!(secret_of(text), None);
        }
    }

    #[test]
    fn a_client_returns_to_this_server_only() {
        let cases: [(&str, &str, &str); 12] = [
            ("/a?b=c&d=%20", "/a", "/a?b=c&d=%20"),
            ("//evil.test/x", "//evil.test/x", "/evil.test/x"),
            ("//evil.test/x", "/evil.test/x", "/evil.test/x"),
            ("/\\evil.test", "/\\evil.test", "/%5Cevil.test"),
            ("///evil", "/evil", "/evil"),
            ("/a\\b", "/a\\b", "/a%5Cb"),
            ("http://evil.test/x", "/x", "/x"),
            ("https:evil", "/", "/"),
            ("*", "*", "/*"),
            ("/a b", "/a b", "/a%20b"),
            ("/a#b", "/a#b", "/a%23b"),
            ("", "", "/"),
        ];
        for (target, decoded, expected) in cases {
            let found = local(target.as_bytes(), decoded.as_bytes());
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{target}");
        }
        let long = format!("/a?{}", "x".repeat(RETURN_BYTES_MAX));
        assert_eq!(local(long.as_bytes(), b"/a"), b"/a");
        assert_eq!(local(long.as_bytes(), long.as_bytes()), b"/");
    }
}
