//! Properties that hold for every token and every key set, for the fuzz targets (`fuzz/`) and the property tests here.
//!
//! Touches: nothing; panics when a property does not hold.

use std::sync::Arc;

use super::{KeySet, Token};

/// The keys of RFC 7515's and RFC 8037's examples.
const KEYS: &str = r#"{"keys":[
    {"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
    {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

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
