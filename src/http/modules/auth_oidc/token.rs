//! Tokens of a provider: decrypted if they must be encrypted, and their signatures checked. The claims are for the caller.
//!
//! Touches: the provider, for its keys. OpenID Connect Core 1.0 §3.1.3.7, §10.

use std::sync::Arc;

use super::flow::Failure;
use super::kept::Reach;
use super::provider::Signing;
use crate::base::jose::{Error, KeySet, Sealed, Token};
use crate::proto::oidc::metadata::Metadata;
use crate::proto::oidc::tokens::LEEWAY_S;
use crate::runtime;
use crate::sys::clock;

/// The usual time of a check with a public key.
const CHECK_US: u32 = 100;
/// The usual time of a decryption with a private one.
const OPEN_US: u32 = 1000;

/// A token whose signature is good.
pub struct Signed {
    pub token: Token,
    /// Its text, without the encryption around it.
    pub text: String,
}

/// Reads a token, which messages call `name`. If it is signed with a key that is not known, the keys are fetched once more,
/// unless that was done at `newer_ms` or later.
pub async fn signed(
    reach: &Reach,
    metadata: &Metadata,
    (name, text): (&str, &str),
    newer_ms: u64,
) -> Result<Signed, Failure> {
    let rejected = |error: Error| {
        let why = match error {
            Error::Encrypted => "it is encrypted, and there is no \"id_token_key_file\"".to_owned(),
            other => other.to_string(),
        };
        Failure::faulty(format!("its {name} is rejected: {why}"))
    };
    let text = decrypted(reach, text).map_err(rejected)?;
    let token = Token::parse(text.as_bytes()).map_err(rejected)?;
    let wanted = match &reach.provider.signing {
        Signing::Published(wanted) => *wanted,
        Signing::Secret(algorithm, _) => Some(*algorithm),
    };
    if wanted.is_some_and(|wanted| token.algorithm() != Some(wanted)) {
        let name = token.algorithm().map_or("", |algorithm| algorithm.name());
        return Err(rejected(Error::Algorithm(name.to_owned())));
    }
    let now_s = clock::wall_seconds();
    let check = |keys: Arc<KeySet>| {
        runtime::charge(CHECK_US);
        token.verify(&[keys], now_s, LEEWAY_S as f64)
    };
    let no_keys = |why: std::rc::Rc<str>| Failure::faulty(format!("its keys: {why}"));
    let checked = match &reach.provider.signing {
        Signing::Secret(_, keys) => check(Arc::clone(keys)),
        Signing::Published(_) => {
            let checked = check(reach.keys(metadata, None).await.map_err(no_keys)?);
            match checked {
                Err(Error::NoKey { .. } | Error::Signature) => {
                    check(reach.keys(metadata, Some(newer_ms)).await.map_err(no_keys)?)
                }
                checked => checked,
            }
        }
    };
    checked.map_err(rejected)?;
    Ok(Signed { token, text })
}

fn decrypted(reach: &Reach, text: &str) -> Result<String, Error> {
    let Some(keys) = &reach.provider.openers else { return Ok(text.to_owned()) };
    runtime::charge(OPEN_US);
    let content = Sealed::parse(text.as_bytes())?.open(&[Arc::clone(keys)])?;
    String::from_utf8(content.to_vec()).map_err(|_| Error::Form)
}
