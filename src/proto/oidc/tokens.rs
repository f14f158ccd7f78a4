//! The answer of a token endpoint, and whether an ID token is for us.
//!
//! Signatures are checked in `base/jose.rs`; here the claims are. Touches: nothing. OpenID Connect Core 1.0 §3.1.3.3,
//! §3.1.3.7, §3.1.3.8, §5.3.2, §12.2; RFC 6749 §5.

use std::fmt;

use aws_lc_rs::digest;

use super::VALUES_MAX;
use crate::base::base64;
use crate::base::jose::{Map, Value, object};

/// How far the clock of a provider may be ahead of ours, or behind it.
pub const LEEWAY_S: i64 = 60;
/// The longest lifetime that an answer may claim for an access token.
const EXPIRES_S_MAX: u64 = 366 * 24 * 3600;
/// The longest part of a provider's words that goes into the log.
const SHOWN_BYTES_MAX: usize = 200;

/// The tokens of an answer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Only an answer to a refresh may be without one.
    pub id: Option<String>,
    pub access: Option<String>,
    pub refresh: Option<String>,
    /// The lifetime of the access token in seconds.
    pub expires_in_s: Option<u64>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Tokens")
    }
}

/// Why there are no tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The provider refuses the code or the refresh token (RFC 6749 §5.2): its `error`.
    Refused(String),
    /// It cannot do its work, or does not speak the protocol.
    Faulty(String),
}

impl fmt::Display for TokenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(out, "the provider answers {error:?}"),
            Self::Faulty(why) => out.write_str(why),
        }
    }
}

impl Tokens {
    /// Reads the answer to a request for tokens.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, TokenError> {
        let parsed = object(body, VALUES_MAX);
        if status != 200 {
            let error = parsed.ok().and_then(|all| Some(shown(all.get("error")?.as_str()?)));
            return Err(match (status, error) {
                // The client's own credentials are not the user's fault.
                (400 | 401 | 403, Some(error)) if error != "invalid_client" => TokenError::Refused(error),
                (_, Some(error)) => TokenError::Faulty(format!("status {status}, error {error:?}")),
                (_, None) => TokenError::Faulty(format!("status {status}")),
            });
        }
        let all = parsed.map_err(|fault| TokenError::Faulty(format!("malformed answer: {fault}")))?;
        let text = |name: &str| match all.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Some(text.clone()))
            }
            Some(_) => Err(TokenError::Faulty(format!("{name:?} is no token"))),
        };
        let seconds = all.get("expires_in").and_then(|value| match value {
            Value::String(text) => text.parse().ok(), // some providers quote it
            value => value.as_u64(),
        });
        Ok(Self {
            id: text("id_token")?,
            access: text("access_token")?,
            refresh: text("refresh_token")?,
            expires_in_s: seconds.map(|seconds: u64| seconds.min(EXPIRES_S_MAX)),
        })
    }
}

/// A provider's words for the log.
pub fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    text[..end].to_owned()
}

/// Why an ID token is not for this login, or a logout token not for this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Issuer(String),
    /// It was issued to another client.
    Audience,
    /// It is for several clients, and was not issued to this one.
    AuthorizedParty,
    /// The claim is missing, or not of its kind.
    Claim(&'static str),
    Expired,
    /// It was issued in the future: one of the two clocks is wrong.
    Future,
    Nonce,
    /// It does not belong to the access token that came with it.
    AccessToken,
    /// The user is another one than at the login.
    Subject,
    /// It is a token of another type, which its header names.
    Type(String),
    /// A logout token with a nonce, which only ID tokens have.
    HasNonce,
    /// A logout token that names neither a user nor a session.
    Nobody,
    /// A logout token that was issued long ago.
    Old,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer(other) => write!(out, "its issuer is {other:?}"),
            Self::Audience => out.write_str("it is for another client: \"client_id\" is not in its \"aud\""),
            Self::AuthorizedParty => {
                out.write_str("it was issued to another client: \"azp\" is not \"client_id\"")
            }
            Self::Claim(name) => write!(out, "its claim {name:?} is missing or malformed"),
            Self::Expired => out.write_str("it has expired"),
            Self::Future => write!(
                out,
                "it was issued in the future, by more than {LEEWAY_S} s: are the clocks of both machines right?"
            ),
            Self::Nonce => out.write_str("its \"nonce\" is not that of this login"),
            Self::AccessToken => out.write_str("its \"at_hash\" is not that of the access token"),
            Self::Subject => out.write_str("its \"sub\" is not that of the login"),
            Self::Type(other) => write!(out, "its type is {other:?}"),
            Self::HasNonce => out.write_str("it has a \"nonce\", as only ID tokens have"),
            Self::Nobody => out.write_str("it has neither \"sub\" nor \"sid\""),
            Self::Old => out.write_str("it was issued more than a day ago"),
        }
    }
}

/// The login that an ID token must belong to.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    /// `None`: a refresh, whose token has none.
    pub nonce: Option<&'a str>,
    /// The user of the session, for a refresh.
    pub subject: Option<&'a str>,
    /// The access token that came with it.
    pub access_token: Option<&'a str>,
    /// Seconds since 1970.
    pub now_s: i64,
}

impl Expected<'_> {
    /// Checks the claims of a token whose signature is good. `algorithm` is that of its header.
    pub fn check(&self, claims: &Map<String, Value>, algorithm: &str) -> Result<(), Refusal> {
        for_client(claims, self.issuer, self.client_id, self.now_s)?;
        let subject = text(claims, "sub")?.ok_or(Refusal::Claim("sub"))?;
        if self.subject.is_some_and(|known| known != subject) {
            return Err(Refusal::Subject);
        }
        if let Some(nonce) = self.nonce
            && claims.get("nonce").and_then(Value::as_str) != Some(nonce)
        {
            return Err(Refusal::Nonce);
        }
        match (claims.get("at_hash"), self.access_token, hash_of(algorithm)) {
            (Some(Value::String(hash)), Some(token), Some(kind)) => {
                let whole = digest::digest(kind, token.as_bytes());
                let half = whole.as_ref().get(..whole.as_ref().len() / 2).unwrap_or_default();
                if *hash == base64::encode_url(half) { Ok(()) } else { Err(Refusal::AccessToken) }
            }
            _ => Ok(()),
        }
    }
}

/// A claim that is a text, and not an empty one; `None`: it is missing.
pub(super) fn text<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(Refusal::Claim(name)),
    }
}

/// A claim that is a time in seconds since 1970.
pub(super) fn seconds(claims: &Map<String, Value>, name: &'static str) -> Result<f64, Refusal> {
    claims.get(name).and_then(Value::as_f64).ok_or(Refusal::Claim(name))
}

/// Checks that a token of this issuer is for this client, and in time.
pub(super) fn for_client(
    claims: &Map<String, Value>,
    issuer: &str,
    client_id: &str,
    now_s: i64,
) -> Result<(), Refusal> {
    let own = text(claims, "iss")?.ok_or(Refusal::Claim("iss"))?;
    if own != issuer {
        return Err(Refusal::Issuer(shown(own)));
    }
    let several = match claims.get("aud") {
        Some(Value::String(one)) if one == client_id => false,
        Some(Value::Array(all)) if all.iter().any(|one| one == client_id) => all.len() > 1,
        Some(Value::String(_) | Value::Array(_)) => return Err(Refusal::Audience),
        _ => return Err(Refusal::Claim("aud")),
    };
    match claims.get("azp") {
        None if !several => {}
        Some(Value::String(party)) if party == client_id => {}
        _ => return Err(Refusal::AuthorizedParty),
    }
    let now_s = now_s as f64;
    if seconds(claims, "exp")? + LEEWAY_S as f64 <= now_s {
        return Err(Refusal::Expired);
    }
    if seconds(claims, "iat")? > now_s + LEEWAY_S as f64 {
        return Err(Refusal::Future);
    }
    Ok(())
}

/// The hash of a signature algorithm, for `at_hash`; `None`: the specification gives none.
fn hash_of(algorithm: &str) -> Option<&'static digest::Algorithm> {
    match algorithm.get(2..)? {
        "256" => Some(&digest::SHA256),
        "384" => Some(&digest::SHA384),
        "512" => Some(&digest::SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    const GOOD: &str = r#"{"iss":"https://a","aud":"me","sub":"joe","exp":1800000300,"iat":1800000000,"nonce":"n",
        "at_hash":"ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"}"#;

    fn check(text: &str) -> Result<(), Refusal> {
        let expected = Expected {
            issuer: "https://a",
            client_id: "me",
            nonce: Some("n"),
            subject: None,
            access_token: None,
            now_s: NOW,
        };
        expected.check(&object(text.as_bytes(), VALUES_MAX).expect("an object"), "RS256")
    }

    fn with(from: &str, to: &str) -> Result<(), Refusal> {
        assert!(GOOD.contains(from), "{from}");
        check(&GOOD.replace(from, to))
    }

    #[test]
    fn an_id_token_must_be_for_this_login() {
        assert_eq!(check(GOOD), Ok(()));
        assert_eq!(with("https://a", "https://a/"), Err(Refusal::Issuer("https://a/".into())));
        assert_eq!(with("\"iss\"", "\"x\""), Err(Refusal::Claim("iss")));
        assert_eq!(with("\"me\"", "\"other\""), Err(Refusal::Audience));
        assert_eq!(with("\"me\"", "[\"other\"]"), Err(Refusal::Audience));
        assert_eq!(with("\"me\"", "[]"), Err(Refusal::Audience));
        assert_eq!(with("\"me\"", "7"), Err(Refusal::Claim("aud")));
        assert_eq!(with("\"me\"", "[\"me\"]"), Ok(()));
        assert_eq!(with("\"me\"", "[\"me\",\"other\"]"), Err(Refusal::AuthorizedParty));
        assert_eq!(with("\"me\"", "[\"me\",\"other\"],\"azp\":\"me\""), Ok(()));
        assert_eq!(with("\"me\"", "\"me\",\"azp\":\"other\""), Err(Refusal::AuthorizedParty));
        assert_eq!(with("1800000300", "1799999941"), Ok(()), "within the leeway");
        assert_eq!(with("1800000300", "1799999940"), Err(Refusal::Expired));
        assert_eq!(with("1800000300", "\"never\""), Err(Refusal::Claim("exp")));
        assert_eq!(with("\"exp\"", "\"x\""), Err(Refusal::Claim("exp")));
        assert_eq!(with("1800000000", "1800000061"), Err(Refusal::Future));
        assert_eq!(with("\"iat\"", "\"x\""), Err(Refusal::Claim("iat")));
        assert_eq!(with("\"joe\"", "\"\""), Err(Refusal::Claim("sub")));
        assert_eq!(with("\"n\"", "\"m\""), Err(Refusal::Nonce));
        assert_eq!(with("\"nonce\"", "\"x\""), Err(Refusal::Nonce));
    }

    #[test]
    fn a_token_belongs_to_its_access_token_and_user() {
        let claims = |hash: &str| {
            let text = GOOD.replace("ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0", hash);
            object(text.as_bytes(), VALUES_MAX).expect("an object")
        };
        // Core 1.0, appendix A.3.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        let expected = Expected {
            issuer: "https://a",
            client_id: "me",
            nonce: None,
            subject: Some("joe"),
            access_token: Some(token),
            now_s: NOW,
        };
        assert_eq!(expected.check(&claims("77QmUPtjPfzWtF2AnpK9RQ"), "RS256"), Ok(()));
        assert_eq!(expected.check(&claims("77QmUPtjPfzWtF2AnpK9RR"), "RS256"), Err(Refusal::AccessToken));
        let expected = Expected { subject: Some("eve"), ..expected };
        assert_eq!(expected.check(&claims("77QmUPtjPfzWtF2AnpK9RQ"), "RS256"), Err(Refusal::Subject));
    }

    #[test]
    fn answers_have_tokens_or_a_reason() {
        let tokens = Tokens::read(200, br#"{"id_token":"a.b.c","access_token":"x","expires_in":"60"}"#);
        let tokens = tokens.expect("tokens");
        assert_eq!(
            (tokens.id.as_deref(), tokens.expires_in_s, tokens.refresh),
            (Some("a.b.c"), Some(60), None)
        );
        let cases = [
            (400, &br#"{"error":"invalid_grant"}"#[..], "the provider answers \"invalid_grant\""),
            (401, br#"{"error":"invalid_client"}"#, "status 401, error \"invalid_client\""),
            (503, b"<html>", "status 503"),
            (200, b"<html>", "malformed answer"),
            (200, br#"{"id_token":7}"#, "\"id_token\" is no token"),
            (200, b"{\"access_token\":\"a\\r\\nX: y\"}", "\"access_token\" is no token"),
        ];
        for (status, body, expected) in cases {
            let error = Tokens::read(status, body).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
