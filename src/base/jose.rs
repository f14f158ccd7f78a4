//! JSON Web Tokens, signed or encrypted, in their compact forms, and the keys that they are checked or decrypted with.
//!
//! Pure values: bytes go in, what was found comes out; the time is an argument. The *key* decides which algorithms may be
//! used with it, never the token, so that neither `none` nor a public key taken for a secret ever gets anywhere.
//! RFC 7515, 7516, 7517, 7518, 7519, 8037.

mod document;
mod encrypted;
mod key;
#[cfg(any(test, feature = "property"))]
pub mod property;
mod token;

pub use document::{Fault, Map, Value, object};
pub use encrypted::Sealed;
pub use key::{Algorithm, KEYS_MAX, KeyError, KeySet, SET_BYTES_MAX};
pub use token::{CANDIDATES_MAX, Error, TOKEN_BYTES_MAX, Token};

#[cfg(test)]
mod tests;
