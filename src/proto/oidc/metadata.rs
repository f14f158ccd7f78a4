//! What a provider says of itself: its endpoints and abilities.
//!
//! Touches: nothing. OpenID Connect Discovery 1.0 §3 and §4.3, RFC 8414, RFC 9207 §3.

use super::VALUES_MAX;
use crate::base::jose::{Map, Value, object};

/// The longest URL of an endpoint.
const URL_BYTES_MAX: usize = 2048;

/// The document of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    pub jwks_uri: String,
    pub userinfo_endpoint: Option<String>,
    pub end_session_endpoint: Option<String>,
    /// The secret goes into the form of a request, since the provider does not take it as a password.
    pub posts_secret: bool,
    /// It knows PKCE with S256.
    pub has_pkce: bool,
    /// Each of its answers names it (RFC 9207).
    pub names_itself: bool,
}

impl Metadata {
    /// Reads the document. `is_plain`: the provider itself is asked over `http://`, so its endpoints may be.
    ///
    /// # Errors
    /// Why it cannot be used, in words: it belongs to another issuer, or an endpoint is missing or no URL.
    pub fn read(text: &[u8], issuer: &str, is_plain: bool) -> Result<Self, String> {
        let all = object(text, VALUES_MAX).map_err(|fault| format!("it is malformed: {fault}"))?;
        let own = all.get("issuer").and_then(Value::as_str);
        if own != Some(issuer) {
            let own = own.unwrap_or("none");
            return Err(format!("its issuer is {own:?}, and \"issuer\" is {issuer:?}"));
        }
        let optional = |name: &str| endpoint(&all, name, is_plain);
        let required = |name: &str| optional(name)?.ok_or_else(|| format!("{name:?} is missing"));
        let methods = list(&all, "token_endpoint_auth_methods_supported");
        let has = |name: &str| methods.contains(&name);
        Ok(Self {
            authorization_endpoint: required("authorization_endpoint")?,
            token_endpoint: required("token_endpoint")?,
            jwks_uri: required("jwks_uri")?,
            userinfo_endpoint: optional("userinfo_endpoint")?,
            end_session_endpoint: optional("end_session_endpoint")?,
            // Without a list client_secret_basic is the default (Discovery §3).
            posts_secret: !has("client_secret_basic") && has("client_secret_post"),
            has_pkce: list(&all, "code_challenge_methods_supported").contains(&"S256"),
            names_itself: all.get("authorization_response_iss_parameter_supported")
                == Some(&Value::Bool(true)),
        })
    }
}

fn list<'a>(all: &'a Map<String, Value>, name: &str) -> Vec<&'a str> {
    let list = all.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn endpoint(all: &Map<String, Value>, name: &str, is_plain: bool) -> Result<Option<String>, String> {
    let url = match all.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(url)) => url,
        Some(_) => return Err(format!("{name:?} is not a text")),
    };
    let has_scheme = url.starts_with("https://") || is_plain && url.starts_with("http://");
    // Nothing that would end a field of a response.
    let is_url = url.bytes().all(|byte| byte.is_ascii_graphic()) && !url.contains('#');
    match has_scheme && is_url && url.len() <= URL_BYTES_MAX {
        true => Ok(Some(url.clone())),
        false => Err(format!("{name:?} is no https:// URL of at most {URL_BYTES_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"{"issuer":"https://a","authorization_endpoint":"https://a/auth?x=1",
        "token_endpoint":"https://a/token","jwks_uri":"https://a/keys","code_challenge_methods_supported":["plain","S256"]}"#;

    fn read(text: &str) -> Result<Metadata, String> {
        Metadata::read(text.as_bytes(), "https://a", false)
    }

    #[test]
    fn a_document_has_what_a_login_needs() {
        let metadata = read(ALL).expect("complete");
        assert!(metadata.has_pkce && !metadata.posts_secret && !metadata.names_itself);
        assert_eq!(metadata.authorization_endpoint, "https://a/auth?x=1");
        let with = |more: &str| read(&ALL.replacen('{', &format!("{{{more},"), 1)).expect("complete");
        let methods =
            |list| with(&format!("\"token_endpoint_auth_methods_supported\":[{list}]")).posts_secret;
        assert!(methods(r#""client_secret_post""#));
        assert!(
            !methods(r#""client_secret_post","client_secret_basic""#) && !methods(r#""private_key_jwt""#)
        );
        assert!(with(r#""authorization_response_iss_parameter_supported":true"#).names_itself);
    }

    #[test]
    fn documents_of_others_are_refused() {
        let cases = [
            ("", "malformed"),
            ("[]", "malformed"),
            ("{}", "its issuer is \"none\""),
            (&ALL.replace("\"https://a\"", "\"https://a/\""), "its issuer is \"https://a/\""),
            (&ALL.replace("https://a/token", "http://a/token"), "\"token_endpoint\" is no https:// URL"),
            (&ALL.replace("https://a/token", "javascript:x"), "\"token_endpoint\" is no https:// URL"),
            (&ALL.replace("https://a/auth", "https://a/\\r\\nX: y"), "\"authorization_endpoint\" is no"),
            (&ALL.replace("jwks_uri", "other"), "\"jwks_uri\" is missing"),
        ];
        for (text, expected) in cases {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        let plain = ALL.replace("https", "http");
        assert!(Metadata::read(plain.as_bytes(), "http://a", true).is_ok());
    }
}
