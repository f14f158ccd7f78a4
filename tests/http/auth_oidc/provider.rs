//! An OpenID provider of the tests' own, whose faults a test chooses, and a browser with cookies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::support::base64::{encode, encode_url};
use crate::support::message::{Request, Response};
use crate::support::origin::{Origin, ok};
use crate::support::{fetch, port};

pub const CLIENT: &str = "me";
/// With bytes that must be encoded in a form and in a password.
pub const SECRET: &str = "s:e c/ret";

/// A provider at a port of 127.0.0.1.
pub struct Provider {
    pub origin: Origin,
    state: Arc<Mutex<State>>,
}

/// What it knows, and how it misbehaves.
pub struct State {
    pub issuer: String,
    key: EcdsaKeyPair,
    pub kid: String,
    /// Codes that were given out and not yet exchanged: nonce, challenge, redirect_uri.
    codes: HashMap<String, [String; 3]>,
    refresh_tokens: Vec<String>,
    /// A number that makes codes and tokens differ.
    serial: usize,
    /// Replacements in the claims of ID tokens: `"aud":"me"` by something else.
    pub replace: Vec<(String, String)>,
    /// Replacements in its metadata.
    pub metadata: Vec<(String, String)>,
    /// Paths that answer with these bytes instead.
    pub answers: HashMap<String, Vec<u8>>,
    /// Paths that do not answer before the connection ends.
    pub silent: Vec<String>,
    /// The header of ID tokens is `{"alg":"none"}`.
    pub is_unsigned: bool,
    /// Tokens are signed with this secret, by the algorithm of this name.
    pub secret_signs: Option<(&'static str, Vec<u8>)>,
    /// Tokens are encrypted with this key, after they have been signed.
    pub encrypts_with: Option<[u8; 32]>,
    /// The secret of the client.
    pub secret: String,
    /// The authorization endpoint answers with this error.
    pub denies: Option<String>,
    pub expires_in: u64,
    /// The session at the provider.
    pub sid: String,
}

impl Provider {
    pub fn start() -> Self {
        let port = port::free();
        let state = Arc::new(Mutex::new(State {
            issuer: format!("http://127.0.0.1:{port}"),
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            kid: "one".into(),
            codes: HashMap::new(),
            refresh_tokens: Vec::new(),
            serial: 0,
            replace: Vec::new(),
            metadata: Vec::new(),
            answers: HashMap::new(),
            silent: Vec::new(),
            is_unsigned: false,
            secret_signs: None,
            encrypts_with: None,
            secret: SECRET.into(),
            denies: None,
            expires_in: 3600,
            sid: "sid-1".into(),
        }));
        let theirs = Arc::clone(&state);
        let origin = Origin::start_on(port, move |peer| {
            while let Some(request) = peer.request() {
                let path = request.target.split('?').next().unwrap_or_default().to_owned();
                if theirs.lock().expect("not poisoned").silent.contains(&path) {
                    peer.some(1);
                    return;
                }
                let answer = theirs.lock().expect("not poisoned").answer(&request, &path);
                if peer.try_send(&answer).is_err() {
                    return;
                }
            }
        });
        Self { origin, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    pub fn port(&self) -> u16 {
        self.origin.port()
    }

    /// The number of requests for a path so far.
    pub fn count(&self, path: &str) -> usize {
        let requests = self.origin.requests();
        requests.iter().filter(|request| request.target.split('?').next() == Some(path)).count()
    }

    /// The last request for a path.
    pub fn last(&self, path: &str) -> Request {
        let requests = self.origin.requests();
        let mut all = requests.into_iter().filter(|request| request.target.split('?').next() == Some(path));
        all.next_back().unwrap_or_else(|| panic!("{path} was asked for"))
    }
}

impl State {
    /// Signs with another key from now on.
    pub fn change_key(&mut self, kid: &str) {
        self.key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        self.kid = kid.into();
    }

    fn answer(&mut self, request: &Request, path: &str) -> Vec<u8> {
        if let Some(bytes) = self.answers.get(path) {
            return bytes.clone();
        }
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let body = String::from_utf8_lossy(&request.body).into_owned();
        match path {
            "/.well-known/openid-configuration" => {
                let issuer = &self.issuer;
                let mut text = format!(
                    r#"{{"issuer":"{issuer}","authorization_endpoint":"{issuer}/authorize","token_endpoint":"{issuer}/token","jwks_uri":"{issuer}/keys","userinfo_endpoint":"{issuer}/userinfo","end_session_endpoint":"{issuer}/end","code_challenge_methods_supported":["S256"]}}"#
                );
                for (from, to) in &self.metadata {
                    assert!(text.contains(from), "{from}");
                    text = text.replace(from, to);
                }
                ok(text.as_bytes())
            }
            "/keys" => {
                let point = self.key.public_key().as_ref();
                let (x, y) = (encode_url(&point[1..33]), encode_url(&point[33..65]));
                let kid = &self.kid;
                ok(format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"{x}","y":"{y}"}}]}}"#)
                    .as_bytes())
            }
            "/authorize" => self.authorize(query),
            "/token" => self.token(request, &body),
            "/userinfo" => match request.header("authorization") {
                Some(value) if value.starts_with("Bearer access-") => {
                    ok(br#"{"sub":"joe","email":"joe@test","sub2":"x"}"#)
                }
                other => refused(&format!("{other:?}")),
            },
            "/end" => {
                let target = arg(query, "post_logout_redirect_uri").unwrap_or_default();
                match target.is_empty() {
                    true => ok(b"bye"),
                    false => found(&target),
                }
            }
            _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        }
    }

    fn authorize(&mut self, query: &str) -> Vec<u8> {
        let need = |name: &str| arg(query, name).unwrap_or_else(|| panic!("no {name} in {query}"));
        assert_eq!((&*need("response_type"), &*need("client_id")), ("code", CLIENT));
        assert!(need("scope").split(' ').any(|scope| scope == "openid"));
        let (redirect, state) = (need("redirect_uri"), need("state"));
        if let Some(error) = &self.denies {
            return found(&format!("{redirect}?{error}&state={state}"));
        }
        self.serial += 1;
        let code = format!("code-{}", self.serial);
        let challenge = arg(query, "code_challenge").unwrap_or_default();
        self.codes.insert(code.clone(), [need("nonce"), challenge, redirect.clone()]);
        found(&format!("{redirect}?code={code}&state={state}"))
    }

    fn token(&mut self, request: &Request, form: &str) -> Vec<u8> {
        let get = |name: &str| arg(form, name).unwrap_or_default();
        let secret = self.secret.replace(':', "%3A").replace(' ', "%20").replace('/', "%2F");
        let password = format!("Basic {}", encode(format!("{CLIENT}:{secret}").as_bytes()));
        let is_posted = get("client_id") == CLIENT && get("client_secret") == self.secret;
        if request.header("authorization") != Some(&password) && !is_posted {
            return refused("invalid_client");
        }
        let nonce = match &*get("grant_type") {
            "authorization_code" => {
                let Some([nonce, challenge, redirect]) = self.codes.remove(&get("code")) else {
                    return refused("invalid_grant");
                };
                let hashed = encode_url(digest(&SHA256, get("code_verifier").as_bytes()).as_ref());
                if redirect != get("redirect_uri") || !challenge.is_empty() && challenge != hashed {
                    return refused("invalid_grant");
                }
                Some(nonce)
            }
            "refresh_token" => {
                // Each is good once.
                let known = self.refresh_tokens.iter().position(|token| *token == get("refresh_token"));
                let Some(at) = known else { return refused("invalid_grant") };
                self.refresh_tokens.remove(at);
                None
            }
            other => return refused(other),
        };
        self.serial += 1;
        let serial = self.serial;
        self.refresh_tokens.push(format!("refresh-{serial}"));
        let (token, expires_in) = (self.id_token(nonce.as_deref()), self.expires_in);
        ok(format!(
            r#"{{"access_token":"access-{serial}","token_type":"Bearer","expires_in":{expires_in},"refresh_token":"refresh-{serial}","id_token":"{token}"}}"#
        )
        .as_bytes())
    }

    fn id_token(&self, nonce: Option<&str>) -> String {
        let (issuer, sid) = (&self.issuer, &self.sid);
        let now = now_s();
        let end = now + 300;
        let nonce = nonce.map_or_else(String::new, |nonce| format!(r#","nonce":"{nonce}""#));
        let mut claims = format!(
            r#"{{"iss":"{issuer}","aud":"{CLIENT}","sub":"joe","iat":{now},"exp":{end},"sid":"{sid}","address":{{"locality":"Zürich"}},"roles":["a","b"]{nonce}}}"#
        );
        for (from, to) in &self.replace {
            assert!(claims.contains(from), "{from} in {claims}");
            claims = claims.replace(from, to);
        }
        self.sign(&claims, "")
    }

    /// A logout token. `about`: its `sub` or `sid`, as members. `replace`: in its claims, and in the members of its header.
    pub fn logout_token(&mut self, about: &str, replace: &[(&str, &str)]) -> String {
        self.serial += 1;
        let (issuer, serial, now) = (&self.issuer, self.serial, now_s());
        let end = now + 120;
        let mut claims = format!(
            r#"{{"iss":"{issuer}","aud":"{CLIENT}","iat":{now},"exp":{end},"jti":"jti-{serial}",{about},"events":{{"http://schemas.openid.net/event/backchannel-logout":{{}}}}}}"#
        );
        let mut more = r#","typ":"logout+jwt""#.to_owned();
        for (from, to) in replace {
            assert!(claims.contains(from) || more.contains(from), "{from} in {claims}");
            (claims, more) = (claims.replace(from, to), more.replace(from, to));
        }
        self.sign(&claims, &more)
    }

    /// A token with these claims. `more`: members of its header.
    pub fn sign(&self, claims: &str, more: &str) -> String {
        let kid = &self.kid;
        let header = match (self.is_unsigned, &self.secret_signs) {
            (true, _) => format!(r#"{{"alg":"none"{more}}}"#),
            (false, Some((algorithm, _))) => format!(r#"{{"alg":"{algorithm}"{more}}}"#),
            (false, None) => format!(r#"{{"alg":"ES256","kid":"{kid}"{more}}}"#),
        };
        let signed = format!("{}.{}", encode_url(header.as_bytes()), encode_url(claims.as_bytes()));
        if self.is_unsigned {
            return format!("{signed}.");
        }
        let signature = match &self.secret_signs {
            Some((algorithm, secret)) => {
                let hash = match *algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, secret), signed.as_bytes()).as_ref().to_vec()
            }
            None => self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signs").as_ref().to_vec(),
        };
        let token = format!("{signed}.{}", encode_url(&signature));
        self.encrypts_with.map_or(token.clone(), |key| encrypted(&key, &token))
    }

    /// The point of its key, as the provider publishes it.
    pub fn point(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token around a token (RFC 7516), by a shared key.
fn encrypted(key: &[u8; 32], token: &str) -> String {
    let header = encode_url(br#"{"alg":"dir","enc":"A256GCM","cty":"JWT"}"#);
    let sealing = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"));
    let (nonce, mut content) = ([9; 12], token.as_bytes().to_vec());
    let aad = Aad::from(header.as_bytes());
    let tag = sealing.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut content);
    let parts = [&nonce[..], &content, tag.expect("seals").as_ref()].map(encode_url);
    format!("{header}..{}", parts.join("."))
}

pub fn found(url: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn refused(error: &str) -> Vec<u8> {
    let body = format!(r#"{{"error":"{error}"}}"#);
    format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The decoded value of an argument of a query or a URL.
pub fn arg(query: &str, name: &str) -> Option<String> {
    let query = query.split_once('?').map_or(query, |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut out = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().expect("a digit"), bytes.next().expect("a digit")];
                u8::from_str_radix(std::str::from_utf8(&digits).expect("ASCII"), 16).expect("hexadecimal")
            }
            other => other,
        });
    }
    Some(String::from_utf8(out).expect("UTF-8"))
}

/// A client that follows redirects and keeps cookies: one jar for each port.
#[derive(Clone, Default)]
pub struct Browser {
    jar: Vec<(u16, String, String)>,
}

impl Browser {
    /// Asks without following.
    pub fn ask(&mut self, port: u16, target: &str) -> Response {
        let own = self.jar.iter().filter(|(at, ..)| *at == port);
        let cookies: Vec<String> = own.map(|(_, name, value)| format!("{name}={value}")).collect();
        let cookie = match cookies.is_empty() {
            true => String::new(),
            false => format!("Cookie: {}\r\n", cookies.join("; ")),
        };
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{cookie}Connection: close\r\n\r\n");
        let response = fetch(port, &head);
        for line in response.all("set-cookie") {
            let (name, rest) = line.split_once('=').expect("a name and a value");
            let value = rest.split(';').next().unwrap_or_default();
            self.jar.retain(|(at, known, _)| (*at, &**known) != (port, name));
            if !line.contains("Max-Age=0") {
                self.jar.push((port, name.to_owned(), value.to_owned()));
            }
        }
        response
    }

    /// Follows redirects. Returns the last response, and where it came from: the port and the target.
    pub fn follow(&mut self, port: u16, target: &str) -> (Response, u16, String) {
        let (mut port, mut target) = (port, target.to_owned());
        for _ in 0..10 {
            let response = self.ask(port, &target);
            let Some(location) = response.header("location").filter(|_| response.status == 302) else {
                return (response, port, target);
            };
            match location.strip_prefix("http://127.0.0.1:") {
                Some(rest) => {
                    let end = rest.find('/').expect("a path");
                    (port, target) = (rest[..end].parse().expect("a port"), rest[end..].to_owned());
                }
                None => target = location.to_owned(),
            }
        }
        panic!("redirects without an end at {port} {target}");
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        let found = self.jar.iter().find(|(_, known, _)| known == name);
        found.map(|(.., value)| value.clone())
    }

    pub fn set(&mut self, port: u16, name: &str, value: &str) {
        self.jar.retain(|(at, known, _)| (*at, &**known) != (port, name));
        self.jar.push((port, name.to_owned(), value.to_owned()));
    }
}
