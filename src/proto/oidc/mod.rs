//! OpenID Connect as values, for a relying party: the documents of a provider, logins on their way, sessions.
//!
//! Touches: nothing; time, randomness and keys are arguments. OpenID Connect Core 1.0, Discovery 1.0, RP-Initiated Logout
//! 1.0, Front-Channel Logout 1.0, Back-Channel Logout 1.0; RFC 6749, RFC 7636, RFC 9207.

pub mod login;
pub mod logout;
pub mod metadata;
pub mod session;
pub mod tokens;

use crate::base::path::{Escape, escape_uri};

/// The most values in a document of a provider.
pub const VALUES_MAX: usize = 2048;

/// Arguments of a URL or the fields of a form, as `application/x-www-form-urlencoded`.
#[derive(Clone, Debug, Default)]
pub struct Form(String);

impl Form {
    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encoded(value));
        self
    }

    /// Adds a field if there is a value.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds fields that are encoded already.
    #[must_use]
    pub fn and(mut self, text: &str) -> Self {
        if !text.is_empty() {
            self.0.push('&');
            self.0.push_str(text);
        }
        self
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A URL with these arguments, behind those that it has.
    pub fn url(&self, endpoint: &str) -> String {
        let mark = match endpoint.contains('?') {
            false => "?",
            true if endpoint.ends_with(['?', '&']) => "",
            true => "&",
        };
        format!("{endpoint}{mark}{}", self.0)
    }
}

/// A text with all bytes escaped that have a meaning in a form.
pub fn encoded(text: &str) -> String {
    let mut out = Vec::new();
    escape_uri(text.as_bytes(), Escape::UriComponent, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The value of an argument, decoded; `None`: there is none, or its escapes are malformed.
pub fn argument(args: &[u8], name: &str) -> Option<Vec<u8>> {
    let pair = args.split(|byte| *byte == b'&').find_map(|pair| {
        let rest = pair.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })?;
    let mut out = Vec::with_capacity(pair.len());
    let mut bytes = pair.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                (high * 16 + low) as u8
            }
            other => *other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_encoded_and_decoded() {
        let form = Form::default()
            .with("a", "b c&d=\u{e4}")
            .with_some("x", None)
            .with_some("y", Some("%"))
            .and("z=1");
        assert_eq!(form.as_str(), "a=b%20c%26d%3D%C3%A4&y=%25&z=1");
        assert_eq!(form.url("https://a/"), format!("https://a/?{}", form.as_str()));
        assert_eq!(form.url("https://a/?b"), format!("https://a/?b&{}", form.as_str()));
        assert_eq!(argument(form.as_str().as_bytes(), "a").as_deref(), Some("b c&d=\u{e4}".as_bytes()));
        for (args, expected) in [
            (&b"code=a+b"[..], Some(&b"a b"[..])),
            (b"code=", Some(b"")),
            (b"code", None),
            (b"xcode=1&code=2&code=3", Some(b"2")),
            (b"code=%4", None),
            (b"code=%zz", None),
            (b"", None),
        ] {
            assert_eq!(argument(args, "code").as_deref(), expected, "{args:?}");
        }
    }
}
