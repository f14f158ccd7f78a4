//! The standards' examples, tokens and keys of another program, and everything that must be refused.

use std::sync::Arc;

use super::property::{opens, reads};
use super::*;

/// Made by another program: keys of every kind, and a token for each algorithm.
const SET: &str = include_str!("../../../tests/http/auth_jwt/keys.json");
const TOKENS: &str = include_str!("../../../tests/http/auth_jwt/tokens.txt");

/// RFC 7515, appendices A.1 and A.3.
const SECRET: &str = r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
const HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const POINT: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
/// RFC 8037, appendix A.4, whose payload is no object.
const EDWARDS: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
    hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
/// The time at which the examples expire.
const END_S: i64 = 1_300_819_380;

fn encode(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    crate::base::base64::encode(bytes, &mut out);
    String::from_utf8(out).unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn set(text: &str) -> Arc<KeySet> {
    Arc::new(KeySet::strict(text.as_bytes()).unwrap_or_else(|error| panic!("{error}")))
}

fn fault(text: &str) -> String {
    KeySet::strict(text.as_bytes()).expect_err(text).to_string()
}

fn check(token: &str, keys: &str, now_s: i64) -> Result<(), Error> {
    Token::parse(token.as_bytes())?.verify(&[set(keys)], now_s, 0.0)
}

/// A token with the signature of HS256 by [`SECRET`].
fn sign(header: &str, claims: &str) -> String {
    let secret = crate::base::base64::decode_url(
        b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    );
    sign_with(&secret.unwrap(), header, claims)
}

fn sign_with(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let signature = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

#[test]
fn the_examples_of_the_standards_are_accepted_until_they_expire() {
    for (token, keys) in [(HS256, SECRET), (ES256, POINT)] {
        assert_eq!(check(token, keys, END_S - 1), Ok(()));
        assert_eq!(check(token, keys, END_S), Err(Error::Expired));
    }
    let keys = set(EDWARDS);
    let (signed, signature) = EDDSA.rsplit_once('.').unwrap();
    let signature = crate::base::base64::decode_url(signature.as_bytes()).unwrap();
    assert!(keys.keys()[0].verifies(Algorithm::EdDsa, signed.as_bytes(), &signature));
    assert!(!keys.keys()[0].verifies(Algorithm::EdDsa, b"something else", &signature));
    assert!(matches!(Token::parse(EDDSA.as_bytes()), Err(Error::Claims(_))));
}

#[test]
fn every_algorithm_of_another_program_is_verified_and_no_change_of_a_token_is() {
    let mut count = 0;
    for line in TOKENS.lines() {
        let (name, token) = line.split_once(' ').unwrap();
        assert_eq!(check(token, SET, 0), Ok(()), "{name}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = crate::base::base64::decode_url(signature.as_bytes()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(check(&format!("{signed}.{}", encode(&bytes)), SET, 0), Err(Error::Signature), "{name}");
        assert_eq!(
            check(&format!("{signed}.{}", encode(&bytes[..last])), SET, 0),
            Err(Error::Signature),
            "{name}"
        );
        assert_eq!(check(&format!("{signed}."), SET, 0), Err(Error::Signature), "{name}");
        count += 1;
    }
    assert_eq!(count, 13);
}

#[test]
fn the_key_decides_on_the_algorithm() {
    let claims = r#"{"sub":"me"}"#;
    // No signature at all.
    for name in ["none", "None", "NONE", "nOnE", "", "HS1", "RS1", "hs256", "ES256K"] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        let token = format!("{}.{}.", encode(header.as_bytes()), encode(claims.as_bytes()));
        assert_eq!(check(&token, SET, 0), Err(Error::Algorithm(name.to_owned())));
    }
    assert!(matches!(check(&sign("{}", claims), SECRET, 0), Err(Error::Algorithm(_))));
    assert!(matches!(check(&sign(r#"{"alg":["HS256"]}"#, claims), SECRET, 0), Err(Error::Algorithm(_))));
    // A public key, known to everybody, as the secret of an HMAC.
    let header = r#"{"alg":"HS256","kid":"rsa"}"#;
    let rsa = SET.lines().find(|line| line.contains(r#""rsa""#)).unwrap().trim().trim_end_matches(',');
    for secret in [rsa.as_bytes(), SET.as_bytes(), b"", &[0; 32]] {
        let token = sign_with(secret, header, claims);
        let no_key = Error::NoKey { id: Some("rsa".into()), algorithm: "HS256".into() };
        assert_eq!(check(&token, SET, 0), Err(no_key));
    }
    // A key's own restrictions.
    let restricted = |members: &str| SECRET.replace("{", &format!("{{{members},"));
    let token = sign(r#"{"alg":"HS256"}"#, claims);
    assert_eq!(check(&token, &restricted(r#""alg":"HS256""#), 0), Ok(()));
    assert!(matches!(check(&token, &restricted(r#""alg":"HS512""#), 0), Err(Error::NoKey { .. })));
    assert_eq!(check(&token, &restricted(r#""use":"sig","key_ops":["sign","verify"]"#), 0), Ok(()));
    // Such a key decrypts, and no signature is checked with it.
    for members in [r#""use":"enc""#, r#""alg":"A128KW""#] {
        assert!(matches!(check(&token, &restricted(members), 0), Err(Error::NoKey { .. })), "{members}");
    }
    assert!(fault(&restricted(r#""alg":"A128GCMKW""#)).contains("not a supported signature algorithm"));
    assert!(fault(&restricted(r#""key_ops":["sign"]"#)).contains("without \"verify\""));
    assert!(fault(&restricted(r#""alg":"RS256""#)).contains("does not belong"));
    assert!(fault(&POINT.replace("{", r#"{"alg":"ES384","#)).contains("does not belong"));
}

#[test]
fn a_key_is_found_by_its_id() {
    let named = |id: &str| SECRET.replace('{', &format!(r#"{{"kid":"{id}","#));
    let of = |id: &str| sign(&format!(r#"{{"alg":"HS256","kid":"{id}"}}"#), "{}");
    let without = sign(r#"{"alg":"HS256"}"#, "{}");
    assert_eq!(check(&of("a"), &named("a"), 0), Ok(()));
    assert!(matches!(check(&of("b"), &named("a"), 0), Err(Error::NoKey { .. })));
    assert_eq!(check(&of("b"), SECRET, 0), Ok(()), "a key without a name is for any token");
    assert_eq!(check(&without, &named("a"), 0), Ok(()), "and a token without one is for any key");
    assert!(matches!(
        Token::parse(sign(r#"{"alg":"HS256","kid":7}"#, "{}").as_bytes()),
        Err(Error::Header(_))
    ));
    let id = "x".repeat(10_000);
    assert!(check(&of(&id), &named("a"), 0).unwrap_err().to_string().len() < 200);
}

#[test]
fn a_token_is_checked_with_a_bounded_number_of_keys() {
    let other = |index: usize| format!(r#"{{"kty":"oct","k":"{}"}}"#, encode(&[index as u8; 32]));
    let list = |count: usize| (0..count).map(other).chain([SECRET.to_owned()]).collect::<Vec<_>>().join(",");
    let token = sign(r#"{"alg":"HS256"}"#, "{}");
    assert_eq!(check(&token, &format!(r#"{{"keys":[{}]}}"#, list(CANDIDATES_MAX - 1)), 0), Ok(()));
    let many = format!(r#"{{"keys":[{}]}}"#, list(CANDIDATES_MAX));
    assert_eq!(check(&token, &many, 0), Err(Error::TooManyKeys));
    // A thousand keys are searched for one that has the token's name.
    let named = (0..KEYS_MAX).map(|index| SECRET.replace('{', &format!(r#"{{"kid":"{index}","#)));
    let keys = format!(r#"{{"keys":[{}]}}"#, named.collect::<Vec<_>>().join(","));
    assert_eq!(check(&sign(r#"{"alg":"HS256","kid":"999"}"#, "{}"), &keys, 0), Ok(()));
    let more = keys.replace("]}", &format!(",{SECRET}]}}"));
    assert_eq!(fault(&more), "there are 1001 keys, and at most 1000 are allowed");
}

#[test]
fn weak_and_malformed_keys_are_refused_with_their_place() {
    let weak = r#"{"kty":"RSA","kid":"old","e":"AQAB","n":"WEAK"}"#;
    let short = encode(&[0xff; 128]);
    let in_set = |key: &str| format!(r#"{{"keys":[{SECRET},{key}]}}"#);
    assert_eq!(
        fault(&in_set(&weak.replace("WEAK", &short))),
        "key 2 (\"old\"): the RSA modulus has 1024 bits: from 2048 to 8192 are allowed"
    );
    let huge = encode(&[0xff; 1025]);
    assert!(fault(&weak.replace("WEAK", &huge)).contains("the RSA modulus has 8200 bits"));
    let modulus = encode(&[0xff; 256]);
    for exponent in ["AQ", "AA", "Ag", "AQAAAAAAAAAB", ""] {
        assert!(
            fault(&weak.replace("WEAK", &modulus).replace("AQAB", exponent)).contains("xponent"),
            "{exponent}"
        );
    }
    assert!(fault(&weak.replace("WEAK", &encode(&[0xfe; 256]))).contains("not that of an RSA key"));
    assert_eq!(
        fault(&in_set(r#"{"kty":"oct","k":"c2hvcnQ"}"#)),
        "key 2: the secret has 5 bytes, and needs at least 8"
    );
    let weak = |algorithm: &str, count: usize| {
        let key = format!(r#"{{"kty":"oct","alg":"{algorithm}","k":"{}"}}"#, encode(&vec![1; count]));
        set(&key).weak().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = weak("HS512", 63);
    assert!(told[0].starts_with("key 1: the secret has 63 bytes, and should have at least 64"), "{told:?}");
    assert_eq!((weak("HS512", 64).len(), weak("HS256", 12).len(), weak("HS256", 32).len()), (0, 1, 0));
    // Off the curve, on another one, too short, at infinity.
    let (x, y) = (encode(&[1; 32]), encode(&[2; 32]));
    let point =
        |curve: &str, x: &str, y: &str| format!(r#"{{"kty":"EC","crv":"{curve}","x":"{x}","y":"{y}"}}"#);
    assert_eq!(fault(&point("P-256", &x, &y)), "key 1: the point is not on the curve P-256");
    assert!(fault(&POINT.replace("P-256", "P-384")).contains("has 48 bytes"));
    assert!(fault(&point("P-256", &encode(&[0; 32]), &encode(&[0; 32]))).contains("not on the curve"));
    assert!(fault(&point("P-256", &x, "AA")).contains("has 32 bytes"));
    assert!(fault(&point("secp256k1", &x, &y)).contains("curve \"secp256k1\" is not supported"));
    assert!(fault(&EDWARDS.replace("Ed25519", "Ed448")).contains("curve \"Ed448\" is not supported"));
    assert!(fault(&EDWARDS.replace("11qYAYKx", "11qY")).contains("has 32 bytes"));
    for (text, expected) in [
        ("", "it is no JSON Web Key Set: EOF while parsing a value at line 1 column 0"),
        ("[]", "it is no JSON Web Key Set: it is not an object"),
        ("{}", "it is no JSON Web Key Set: there is no \"keys\""),
        (r#"{"keys":{}}"#, "it is no JSON Web Key Set: \"keys\" is not a list"),
        (r#"{"keys":[]}"#, "there is no key"),
        (r#"{"keys":[7]}"#, "key 1: it is not an object"),
        (r#"{"keys":[{}]}"#, "key 1: \"kty\" is missing"),
        (r#"{"kty":"oct"}"#, "key 1: \"k\" is missing"),
        (r#"{"kty":"oct","k":"a b"}"#, "key 1: \"k\" is not base64url without padding"),
        (r#"{"kty":"oct","k":7}"#, "key 1: \"k\" is not a text"),
        (r#"{"kty":"XYZ"}"#, "key 1: keys of the type \"XYZ\" are not supported"),
        (
            r#"{"kty":"oct","kty":"RSA"}"#,
            "it is no JSON Web Key Set: a second member \"kty\" at line 1 column 18",
        ),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
}

#[test]
fn a_set_of_somebody_else_s_is_used_without_its_faulty_keys() {
    let text = format!(r#"{{"keys":[{{"kty":"oct","k":"AA"}},{{"kty":"new"}},{SECRET}]}}"#);
    let keys = KeySet::read(text.as_bytes()).unwrap();
    assert_eq!((keys.keys().len(), keys.faults().count()), (1, 1));
    assert!(KeySet::strict(text.as_bytes()).is_err());
    let strict = format!(r#"{{"keys":[{{"kty":"new"}},{SECRET}]}}"#);
    assert_eq!(KeySet::strict(strict.as_bytes()).unwrap().keys().len(), 1, "an unknown kind is skipped");
    assert!(KeySet::read(br#"{"keys":[{"kty":"new"}]}"#).is_err(), "none is left");
}

#[test]
fn times_are_obeyed() {
    for (claims, now_s, leeway_s, expected) in [
        ("{}", 0, 0.0, Ok(())),
        (r#"{"exp":100}"#, 99, 0.0, Ok(())),
        (r#"{"exp":100}"#, 100, 0.0, Err(Error::Expired)),
        (r#"{"exp":100.5}"#, 100, 0.0, Ok(())),
        (r#"{"exp":100}"#, 109, 10.0, Ok(())),
        (r#"{"exp":100}"#, 110, 10.0, Err(Error::Expired)),
        (r#"{"exp":-1}"#, 0, 0.0, Err(Error::Expired)),
        (r#"{"exp":"100"}"#, 1, 0.0, Err(Error::NoNumber("exp"))),
        (r#"{"exp":null}"#, 1, 0.0, Err(Error::NoNumber("exp"))),
        (r#"{"exp":1e300}"#, i64::MAX, 0.0, Ok(())),
        (r#"{"nbf":100}"#, 100, 0.0, Ok(())),
        (r#"{"nbf":100}"#, 99, 0.0, Err(Error::Early)),
        (r#"{"nbf":100}"#, 90, 10.0, Ok(())),
        (r#"{"nbf":[]}"#, 90, 10.0, Err(Error::NoNumber("nbf"))),
        // as in nginx, a token from the future is accepted
        (r#"{"iat":100}"#, 0, 0.0, Ok(())),
    ] {
        let token = Token::parse(sign(r#"{"alg":"HS256"}"#, claims).as_bytes()).unwrap();
        assert_eq!(token.verify(&[set(SECRET)], now_s, leeway_s), expected, "{claims} {now_s}");
    }
}

#[test]
fn malformed_tokens_are_refused() {
    let header = r#"{"alg":"HS256"}"#;
    let parse = |text: &str| Token::parse(text.as_bytes()).map(drop).expect_err(text);
    for text in ["", ".", "..", "a.b", "a.b.c.d", "a.b.c.d.e.f", "a b.c.d", "e30=.e30=.", "\0.\0.\0"] {
        let error = parse(text);
        assert!(matches!(error, Error::Form | Error::Header(_)), "{text}: {error}");
    }
    assert_eq!(parse("e30.e30.e30.e30.e30"), Error::Encrypted);
    assert_eq!(parse(&sign(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "{}")), Error::Critical);
    assert_eq!(parse(&sign(r#"{"alg":"HS256","crit":null}"#, "{}")), Error::Critical);
    for claims in [
        "",
        "[]",
        "7",
        "null",
        "{",
        "{}{}",
        "{} x",
        r#"{"a":1,"a":1}"#,
        r#"{"a":{"b":1,"b":2}}"#,
        "{\"a\":\"\u{1}\"}",
    ] {
        assert!(matches!(parse(&sign(header, claims)), Error::Claims(_)), "{claims}");
    }
    assert!(matches!(parse(&sign(r#"{"alg":"none","alg":"HS256"}"#, "{}")), Error::Header(_)));
    assert!(matches!(parse(&sign(r#"{"alg":"HS256","\u0061lg":"none"}"#, "{}")), Error::Header(_)));
    // Deep, wide and long ones.
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(Token::parse(sign(header, &nested(15)).as_bytes()).is_ok());
    for depth in [16, 100, 10_000, 20_000] {
        assert!(matches!(parse(&sign(header, &nested(depth))), Error::Claims(_)), "{depth}");
    }
    let wide = |count: usize| format!(r#"{{"a":[{}]}}"#, vec!["0"; count].join(","));
    assert!(Token::parse(sign(header, &wide(2046)).as_bytes()).is_ok());
    assert!(matches!(parse(&sign(header, &wide(2047))), Error::Claims(_)));
    let long = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes));
    assert!(Token::parse(sign(header, &long(49_000)).as_bytes()).is_ok());
    assert!(matches!(parse(&sign(header, &long(49_152))), Error::TooLong(_)));
}

#[test]
fn values_have_texts() {
    let claims = r#"{"s":"a","n":7,"f":1.5,"t":true,"z":null,"l":["a",1,null,["b","c"],{"d":1}],"o":{"p":{"q":"r"}},"e":[]}"#;
    let token = Token::parse(sign(r#"{"alg":"HS256"}"#, claims).as_bytes()).unwrap();
    let text = |path: &[&str]| {
        let mut out = Vec::new();
        Token::put_member(&token.claims, path.iter().copied(), &mut out)
            .then(|| String::from_utf8(out).unwrap())
    };
    for (path, expected) in [
        (&["s"][..], Some("a")),
        (&["n"], Some("7")),
        (&["f"], Some("1.5")),
        (&["t"], Some("true")),
        (&["z"], None),
        (&["l"], Some(r#"a,1,,["b","c"],{"d":1}"#)),
        (&["o"], Some(r#"{"p":{"q":"r"}}"#)),
        (&["o", "p", "q"], Some("r")),
        (&["o", "q"], None),
        (&["s", "t"], None),
        (&["e"], Some("")),
        (&["none"], None),
        (&[], None),
    ] {
        assert_eq!(text(path).as_deref(), expected, "{path:?}");
    }
}

#[test]
fn any_bytes_are_read_without_harm() {
    bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| reads(bytes));
    for text in [HS256, ES256, EDDSA, SET, SECRET].into_iter().chain(TOKENS.lines()) {
        reads(text.as_bytes());
        for end in 0..text.len() {
            reads(&text.as_bytes()[..end]);
        }
    }
    // RFC 7516, appendix A.3.
    const WRAPPED: &str = "eyJhbGciOiJBMTI4S1ciLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.\
        6KB707dM9YTIgHtLvtgWQ8mKwboJW3of9locizkDTHzBC2IlrT1oOQ.AxY8DCtDaGlsbGljb3RoZQ.\
        KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY.U0m_YmjN04DJvceFICbCVQ";
    bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| opens(bytes));
    for end in 0..=WRAPPED.len() {
        opens(&WRAPPED.as_bytes()[..end]);
    }
}
