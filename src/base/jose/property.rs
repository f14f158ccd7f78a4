//! Properties that hold for every token and every key set, for the fuzz targets (`fuzz/`) and the property tests here.
//!
//! Touches: nothing; panics when a property does not hold.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{KeySet, Sealed, TOKEN_BYTES_MAX, Token};
use crate::base::base64;

/// The keys of RFC 7515's and RFC 8037's examples.
const KEYS: &str = r#"{"keys":[
    {"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
    {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// The key of RFC 7516's appendix A.3, and one for contents in AES-256-GCM.
const OPENERS: &str = r#"{"keys":[
    {"kty":"oct","k":"GawgguFyGrWKav7AX4VKUg"},
    {"kty":"oct","k":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM"}]}"#;
const CONTENT_KEY: [u8; 32] = [3; 32];

/// Reads `data` as an encrypted token: no panic, and a token that nobody has made with these keys stays closed. Encrypted as
/// the content of a token, `data` comes back as it was, and not from a token with one letter changed.
pub fn opens(data: &[u8]) {
    let sets = [Arc::new(KeySet::strict(OPENERS.as_bytes()).expect("two keys"))];
    let open = |token: &[u8]| Sealed::parse(token).and_then(|sealed| sealed.open(&sets)).ok();
    if let Some(content) = open(data) {
        assert_eq!(&content[..], b"Live long and prosper.", "a forged token");
    }
    let header = base64::encode_url(br#"{"alg":"dir","enc":"A256GCM"}"#);
    let sealing = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &CONTENT_KEY).expect("32 bytes"));
    let (nonce, mut sealed) = ([7; 12], data.to_vec());
    let aad = Aad::from(header.as_bytes());
    let tag = sealing.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
    let tag = tag.expect("seals");
    let parts = [&nonce[..], &sealed, tag.as_ref()].map(base64::encode_url);
    let token = format!("{header}..{}", parts.join("."));
    if token.len() > TOKEN_BYTES_MAX {
        assert!(open(token.as_bytes()).is_none());
        return;
    }
    assert_eq!(open(token.as_bytes()).as_deref().map(|content| &content[..]), Some(data));
    let mut other = token.into_bytes();
    let at = data.iter().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
        % other.len();
    let is_last = other.get(at + 1).is_none_or(|byte| *byte == b'.');
    // The last letter of a part may have bits that no byte has.
    if !is_last {
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert!(open(&other).is_none(), "a letter was changed, at {at}");
    }
}

/// Reads `data` as a token, and as a key set. No panic; a token that is none of the examples is never accepted; what was
/// read is no longer than its text.
pub fn reads(data: &[u8]) {
    if let Ok(token) = Token::parse(data) {
        assert!(token.payload.len() < data.len() && token.header.contains_key("alg"));
        let keys = KeySet::strict(KEYS.as_bytes()).expect("three keys");
        if token.verify(&[Arc::new(keys)], 0, 0.0).is_ok() {
            assert!(token.claims.get("iss").is_some_and(|issuer| issuer == "joe"), "a forged token");
        }
        let mut out = Vec::new();
        for name in token.claims.keys() {
            out.clear();
            Token::put_member(&token.claims, [&**name], &mut out);
            assert!(out.len() <= 6 * token.payload.len());
        }
    }
    if let Ok(set) = KeySet::read(data) {
        assert!(!set.keys().is_empty());
    }
}
