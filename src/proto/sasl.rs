//! SASL as mail clients use it: the mechanisms of AUTH and AUTHENTICATE, and the credentials in their answers.
//!
//! Touches: nothing. Truth: RFC 4616 (PLAIN), RFC 2195 (CRAM-MD5), RFC 4422 appendix A (EXTERNAL), and
//! draft-murchison-sasl-login (LOGIN). What is taken and what is refused is nginx's.

use std::fmt;

use zeroize::Zeroizing;

use crate::base::base64;

/// `User Name:` and `Password:` of LOGIN, encoded; the first one also asks for the name with EXTERNAL, as nginx does.
pub const ASK_NAME: &str = "VXNlcm5hbWU6";
pub const ASK_PASSWORD: &str = "UGFzc3dvcmQ6";

/// The length of an MD5 digest in hexadecimal digits.
const DIGEST_BYTES: usize = 32;

/// How a client has proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A name and a password, by any command.
    Plain,
    Apop,
    CramMd5,
    /// By the certificate of its TLS connection.
    External,
    /// It has not (SMTP only).
    None,
}

impl Method {
    /// nginx's word for it, in `Auth-Method`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Apop => "apop",
            Self::CramMd5 => "cram-md5",
            Self::External => "external",
            Self::None => "none",
        }
    }
}

/// A secret of a client, erased when dropped and not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Zeroizing<Vec<u8>>);

impl Secret {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secret({} bytes)", self.0.len())
    }
}

/// A client's words about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub method: Method,
    pub login: Vec<u8>,
    /// The password, or the digest that proves that the client knows it. `None`: it has sent neither.
    pub password: Option<Secret>,
}

impl Credentials {
    pub fn plain(login: &[u8], password: &[u8]) -> Self {
        Self { method: Method::Plain, login: login.to_vec(), password: Some(Secret::of(password)) }
    }
}

/// A mechanism that a client has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
    CramMd5,
    External,
}

impl Mechanism {
    /// Words have no case.
    pub fn of(word: &[u8]) -> Option<Self> {
        const ALL: [(&[u8], Mechanism); 4] = [
            (b"PLAIN", Mechanism::Plain),
            (b"LOGIN", Mechanism::Login),
            (b"CRAM-MD5", Mechanism::CramMd5),
            (b"EXTERNAL", Mechanism::External),
        ];
        ALL.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, mechanism)| mechanism)
    }
}

/// Why an answer is refused; displays in nginx's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Encoding(&'static str),
    Login,
    Password,
    Digest,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding(command) => {
                write!(out, "client sent invalid base64 encoding in {command} command")
            }
            Self::Login => out.write_str("client sent invalid login in AUTH PLAIN command"),
            Self::Password => out.write_str("client sent invalid password in AUTH PLAIN command"),
            Self::Digest => out.write_str("client sent invalid CRAM-MD5 hash in AUTH CRAM-MD5 command"),
        }
    }
}

fn decode(answer: &[u8], command: &'static str) -> Result<Zeroizing<Vec<u8>>, Fault> {
    base64::decode(answer).map(Zeroizing::new).ok_or(Fault::Encoding(command))
}

/// The answer of PLAIN: an authorization identity, which is ignored, the login and the password, with NULs between.
pub fn plain(answer: &[u8]) -> Result<Credentials, Fault> {
    let text = decode(answer, "AUTH PLAIN")?;
    let login =
        memchr::memchr(0, &text).map(|end| end + 1).filter(|at| *at < text.len()).ok_or(Fault::Login)?;
    let end = memchr::memchr(0, &text[login..]).map(|length| login + length).ok_or(Fault::Password)?;
    Ok(Credentials::plain(&text[login..end], &text[end + 1..]))
}

/// The login in an answer of LOGIN.
pub fn login_name(answer: &[u8]) -> Result<Vec<u8>, Fault> {
    decode(answer, "AUTH LOGIN").map(|text| text.to_vec())
}

/// The password in an answer of LOGIN.
pub fn login_password(answer: &[u8]) -> Result<Secret, Fault> {
    decode(answer, "AUTH LOGIN").map(Secret)
}

/// The answer of CRAM-MD5: the login, a space, and a digest of the challenge under the password.
pub fn cram_md5(answer: &[u8]) -> Result<Credentials, Fault> {
    let text = decode(answer, "AUTH CRAM-MD5")?;
    let space = memchr::memchr(b' ', &text).ok_or(Fault::Digest)?;
    let digest = &text[space + 1..];
    if digest.len() != DIGEST_BYTES {
        return Err(Fault::Digest);
    }
    let (login, password) = (text[..space].to_vec(), Some(Secret::of(digest)));
    Ok(Credentials { method: Method::CramMd5, login, password })
}

/// The answer of EXTERNAL: the login, for which the certificate stands.
pub fn external(answer: &[u8]) -> Result<Credentials, Fault> {
    let login = decode(answer, "AUTH EXTERNAL")?.to_vec();
    Ok(Credentials { method: Method::External, login, password: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        base64::encode(text, &mut out);
        out
    }

    /// A login and a password.
    type Expected<'a> = Result<(&'a [u8], &'a [u8]), Fault>;

    #[test]
    fn plain_has_a_login_and_a_password() {
        let cases: [(&[u8], Expected<'_>); 8] = [
            (b"\0me@example.com\0secret", Ok((b"me@example.com", b"secret"))),
            (b"other\0me\0pass", Ok((b"me", b"pass"))),
            (b"\0me\0", Ok((b"me", b""))),
            (b"\0\0pass", Ok((b"", b"pass"))),
            (b"\0me\0pa\0ss", Ok((b"me", b"pa\0ss"))),
            (b"", Err(Fault::Login)),
            (b"me", Err(Fault::Login)),
            (b"\0me", Err(Fault::Password)),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(login, password)| Credentials::plain(login, password));
            assert_eq!(plain(&encoded(text)), expected, "{text:?}");
        }
        assert_eq!(plain(b"*"), Err(Fault::Encoding("AUTH PLAIN")), "a client gives up");
        assert_eq!(plain(b"a\0b"), Err(Fault::Encoding("AUTH PLAIN")));
    }

    #[test]
    fn cram_md5_has_a_digest_of_the_right_length() {
        let digest = [b'0'; DIGEST_BYTES];
        let found = cram_md5(&encoded(&[b"me@example.com ", &digest[..]].concat())).expect("it is whole");
        assert_eq!((found.method, &found.login[..]), (Method::CramMd5, &b"me@example.com"[..]));
        assert_eq!(found.password, Some(Secret::of(&digest)));
        for text in [&b"me"[..], b"me ", b"me 0123", &[b"me ", &[b'0'; 33][..]].concat()] {
            assert_eq!(cram_md5(&encoded(text)), Err(Fault::Digest), "{text:?}");
        }
    }

    #[test]
    fn the_others_are_names_and_passwords() {
        let encoded_name = encoded(b"me");
        assert_eq!(login_name(&encoded_name), Ok(b"me".to_vec()));
        assert_eq!(login_password(&encoded_name), Ok(Secret::of(b"me")));
        assert_eq!(
            external(b""),
            Ok(Credentials { method: Method::External, login: Vec::new(), password: None })
        );
        assert_eq!(Mechanism::of(b"cram-md5"), Some(Mechanism::CramMd5));
        assert_eq!((Mechanism::of(b"PLAI"), Mechanism::of(b"")), (None, None));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::of(b"secret")), "Secret(6 bytes)");
    }
}
