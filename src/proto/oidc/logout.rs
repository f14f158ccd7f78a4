//! A logout token: whose sessions the provider ends, which it tells us directly.
//!
//! Its signature is checked elsewhere, as that of an ID token; here its claims are. Whether it comes for the second time is for
//! the caller to remember: [`Logout::kept_s`]. Touches: nothing. OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6.

use super::tokens::{LEEWAY_S, Refusal, for_client, seconds, shown, text};
use crate::base::jose::{Map, Value};

/// The member of `events` that makes a token one of a logout.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// How long ago a token may have been issued: for so long those that have come are remembered at most.
const AGE_S_MAX: i64 = 24 * 3600;

/// The order of a logout token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logout {
    /// The user. With a `session` too, that session must be the user's.
    pub subject: Option<String>,
    /// The session at the provider; `None`: all of the user's.
    pub session: Option<String>,
    /// Tells this token from others of the issuer.
    pub id: String,
    /// How long the token could come once more.
    pub kept_s: u32,
}

impl Logout {
    /// Checks the header and the claims of a token whose signature is good.
    pub fn check(
        header: &Map<String, Value>,
        claims: &Map<String, Value>,
        (issuer, client_id): (&str, &str),
        now_s: i64,
    ) -> Result<Self, Refusal> {
        // Most providers name no type, or the general one.
        if let Some(kind) = text(header, "typ")? {
            let short = kind.strip_prefix("application/").unwrap_or(kind);
            if !["logout+jwt", "jwt"].iter().any(|known| short.eq_ignore_ascii_case(known)) {
                return Err(Refusal::Type(shown(kind)));
            }
        }
        for_client(claims, issuer, client_id, now_s)?;
        let age_s = now_s as f64 - seconds(claims, "iat")?;
        if age_s > (AGE_S_MAX + LEEWAY_S) as f64 {
            return Err(Refusal::Old);
        }
        let event = claims.get("events").and_then(|events| events.get(EVENT));
        if !event.is_some_and(Value::is_object) {
            return Err(Refusal::Claim("events"));
        }
        if claims.contains_key("nonce") {
            return Err(Refusal::HasNonce);
        }
        let (subject, session) = (text(claims, "sub")?, text(claims, "sid")?);
        if subject.is_none() && session.is_none() {
            return Err(Refusal::Nobody);
        }
        let id = text(claims, "jti")?.ok_or(Refusal::Claim("jti"))?;
        let rest_s = seconds(claims, "exp")? - now_s as f64;
        let kept_s = rest_s.clamp(0.0, AGE_S_MAX as f64) as u32 + 2 * LEEWAY_S as u32;
        let owned = |text: &str| text.to_owned();
        Ok(Self { subject: subject.map(owned), session: session.map(owned), id: id.to_owned(), kept_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::jose::object;
    use crate::proto::oidc::VALUES_MAX;

    const NOW: i64 = 1_800_000_000;
    const GOOD: &str = r#"{"iss":"https://a","aud":"me","iat":1800000000,"exp":1800000120,"jti":"j","sub":"joe","sid":"s",
        "events":{"http://schemas.openid.net/event/backchannel-logout":{}}}"#;

    fn check(header: &str, claims: &str) -> Result<Logout, Refusal> {
        let parse = |text: &str| object(text.as_bytes(), VALUES_MAX).expect("an object");
        Logout::check(&parse(header), &parse(claims), ("https://a", "me"), NOW)
    }

    fn with(from: &str, to: &str) -> Result<Logout, Refusal> {
        assert!(GOOD.contains(from), "{from}");
        check("{}", &GOOD.replace(from, to))
    }

    #[test]
    fn a_logout_token_is_for_this_client_and_nothing_else() {
        let good = check("{}", GOOD).expect("good");
        let both = (Some("joe".to_owned()), Some("s".to_owned()));
        assert_eq!((good.subject, good.session), both);
        assert_eq!((&*good.id, good.kept_s), ("j", 240));
        assert_eq!(with("\"sub\"", "\"x\"").map(|it| it.subject), Ok(None));
        assert_eq!(with("\"sid\"", "\"x\"").map(|it| it.session), Ok(None));
        let nobody = GOOD.replace("\"sid\"", "\"x\"").replace("\"sub\"", "\"y\"");
        assert_eq!(check("{}", &nobody), Err(Refusal::Nobody));
        let cases = [
            ("https://a", "https://b", Refusal::Issuer("https://b".into())),
            ("\"me\"", "\"other\"", Refusal::Audience),
            ("\"me\"", "[\"me\",\"other\"]", Refusal::AuthorizedParty),
            ("1800000120", "1799999940", Refusal::Expired),
            ("\"exp\"", "\"x\"", Refusal::Claim("exp")),
            ("\"iat\":1800000000", "\"iat\":1800000061", Refusal::Future),
            ("\"iat\":1800000000", "\"iat\":1799913539", Refusal::Old),
            ("\"iat\"", "\"x\"", Refusal::Claim("iat")),
            ("\"jti\"", "\"x\"", Refusal::Claim("jti")),
            ("\"j\"", "7", Refusal::Claim("jti")),
            ("\"joe\"", "7", Refusal::Claim("sub")),
            ("\"s\"", "\"\"", Refusal::Claim("sid")),
            ("\"events\"", "\"x\"", Refusal::Claim("events")),
            ("backchannel-logout\":{}", "backchannel-logout\":true", Refusal::Claim("events")),
            ("backchannel-logout", "other", Refusal::Claim("events")),
            ("\"jti\"", "\"nonce\":\"n\",\"jti\"", Refusal::HasNonce),
            ("\"jti\"", "\"nonce\":null,\"jti\"", Refusal::HasNonce),
        ];
        for (from, to, refusal) in cases {
            assert_eq!(with(from, to), Err(refusal), "{from} {to}");
        }
    }

    #[test]
    fn a_token_of_another_type_is_refused() {
        for kind in ["logout+jwt", "LOGOUT+JWT", "JWT", "jwt", "application/logout+jwt"] {
            assert!(check(&format!(r#"{{"typ":"{kind}"}}"#), GOOD).is_ok(), "{kind}");
        }
        for kind in ["at+jwt", "secevent+jwt", "x"] {
            let refused = check(&format!(r#"{{"typ":"{kind}"}}"#), GOOD);
            assert_eq!(refused, Err(Refusal::Type(kind.to_owned())));
        }
        assert_eq!(check(r#"{"typ":7}"#, GOOD), Err(Refusal::Claim("typ")));
    }

    #[test]
    fn a_token_is_remembered_as_long_as_it_is_good_and_not_for_ever() {
        let far = with("1800000120", "9999999999999").expect("good");
        assert_eq!(far.kept_s, 24 * 3600 + 120);
        assert_eq!(with("1800000120", "1799999999").map(|it| it.kept_s), Ok(120));
    }
}
