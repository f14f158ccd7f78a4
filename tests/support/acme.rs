//! An authority that speaks ACME (RFC 8555), in this process: it checks signatures, nonces and URLs of what it is sent,
//! and connects to where a challenge must be answered before it issues anything.
//!
//! [`Trouble`] makes it hostile. Nothing here is pronghorn's code, nor that of its client.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::{digest, signature};
use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::base64::encode_url;
use super::deadline::deadline;
use super::tls::Authority;

/// The fault of the authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    #[default]
    None,
    /// Each first use of a nonce is refused.
    BadNonce,
    /// No order is taken, and the next may come in this many seconds.
    RateLimited(u64),
    /// Every POST is answered with 500 and no problem.
    Broken,
    /// Orders become invalid once a challenge is ready.
    InvalidOrder,
    /// The certificate is for a key of its own.
    WrongKey,
    /// The chain has a megabyte.
    LongChain,
    /// Nothing is ever decided.
    Endless,
    /// The certificate is for the first name only.
    FewNames,
    /// Each answer takes this many milliseconds.
    Slow(u64),
    /// Its answers are no JSON.
    Garbage,
    /// The connection ends in the middle of the answer.
    Cut,
}

/// The authority; it ends with this value.
pub struct Acme {
    inner: Arc<Inner>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    authority: Authority,
    tls: Arc<ServerConfig>,
    base: String,
    /// Where challenges are answered: the ports of the daemon.
    http_port: AtomicU16,
    tls_port: AtomicU16,
    /// Validity of certificates.
    lifetime_s: AtomicU64,
    ends: AtomicBool,
    trouble: Mutex<Trouble>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nonces: HashSet<String>,
    last: u64,
    /// The keys of the accounts, by their numbers.
    accounts: HashMap<u64, Jwk>,
    account_requests: Vec<Value>,
    orders: HashMap<u64, Order>,
    /// The paths that were asked for.
    asked: Vec<String>,
    /// Suggested windows, as seconds from now.
    window: Option<(i64, i64)>,
    /// Another authority, whose certificate tops an alternate chain.
    alternate: Option<String>,
    /// The key of an account elsewhere, without which none is opened here, and its id.
    external: Option<(String, Vec<u8>)>,
    profiles: Vec<Value>,
    faults: Vec<String>,
    replaced: Vec<String>,
}

#[derive(Clone)]
struct Jwk {
    x: String,
    y: String,
}

#[derive(Default)]
struct Order {
    account: u64,
    names: Vec<(String, String)>,
    /// Of each name: its challenge was checked and found good.
    valid: Vec<bool>,
    error: Option<Value>,
    chain: Option<String>,
    is_invalid: bool,
    validations: usize,
}

struct Ask {
    method: String,
    path: String,
    body: Vec<u8>,
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

impl Acme {
    pub fn start() -> Self {
        let authority = Authority::new("acme root");
        let own = authority.issue(&["localhost", "127.0.0.1"]);
        let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let inner = Arc::new(Inner {
            authority,
            tls: Arc::new(tls),
            base: format!("https://localhost:{port}"),
            http_port: AtomicU16::new(0),
            tls_port: AtomicU16::new(0),
            lifetime_s: AtomicU64::new(90 * 24 * 3600),
            ends: AtomicBool::new(false),
            trouble: Mutex::default(),
            state: Mutex::default(),
        });
        let own = Arc::clone(&inner);
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if own.ends.load(Ordering::SeqCst) {
                    return;
                }
                let own = Arc::clone(&own);
                std::thread::spawn(move || own.serve(socket));
            }
        });
        Self { inner, port, thread: Some(thread) }
    }

    /// The directory.
    pub fn uri(&self) -> String {
        format!("{}/dir", self.inner.base)
    }

    /// The root of all its certificates, its own included.
    pub fn root(&self) -> String {
        self.inner.authority.certificate()
    }

    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// Where the challenges of all names are answered.
    pub fn validates_at(&self, http_port: u16, tls_port: u16) {
        self.inner.http_port.store(http_port, Ordering::SeqCst);
        self.inner.tls_port.store(tls_port, Ordering::SeqCst);
    }

    pub fn lifetime_s(&self, seconds: u64) {
        self.inner.lifetime_s.store(seconds, Ordering::SeqCst);
    }

    pub fn trouble(&self, trouble: Trouble) {
        *self.inner.trouble.lock().expect("no panic") = trouble;
    }

    /// Suggests to renew between these seconds from the time of asking.
    pub fn suggest(&self, from_s: i64, to_s: i64) {
        self.inner.state().window = Some((from_s, to_s));
    }

    /// Offers another chain, with this certificate at its end.
    pub fn offers_chain(&self, top: &str) {
        self.inner.state().alternate = Some(top.to_owned());
    }

    /// Opens accounts only for those that prove to know this key (RFC 8555 §7.3.4).
    pub fn wants_external(&self, id: &str, key: &[u8]) {
        self.inner.state().external = Some((id.to_owned(), key.to_vec()));
    }

    /// The profiles that orders have asked for; `null`: none.
    pub fn profiles(&self) -> Vec<Value> {
        self.inner.state().profiles.clone()
    }

    /// How often a path that begins so was asked for.
    pub fn asked(&self, start: &str) -> usize {
        self.inner.state().asked.iter().filter(|path| path.starts_with(start)).count()
    }

    /// The orders that there are.
    pub fn orders(&self) -> usize {
        self.inner.state().orders.len()
    }

    /// The orders for which a certificate was issued.
    pub fn issued(&self) -> usize {
        self.inner.state().orders.values().filter(|order| order.chain.is_some()).count()
    }

    /// The payloads of requests for accounts.
    pub fn accounts(&self) -> Vec<Value> {
        self.inner.state().account_requests.clone()
    }

    /// The certificate that `replaces` named.
    pub fn replaced(&self) -> Vec<String> {
        self.inner.state().replaced.clone()
    }

    /// Rules of the protocol that were broken.
    pub fn faults(&self) -> Vec<String> {
        self.inner.state().faults.clone()
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.inner.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if !std::thread::panicking() {
            assert_eq!(self.faults(), Vec::<String>::new(), "rules of the protocol");
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.bytes() {
        bits = bits << 6 | u32::from(value(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

impl Jwk {
    fn of(value: &Value) -> Option<Self> {
        let is_ec = value["kty"] == "EC" && value["crv"] == "P-256";
        is_ec.then_some(())?;
        Some(Self { x: value["x"].as_str()?.to_owned(), y: value["y"].as_str()?.to_owned() })
    }

    fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        let (Some(x), Some(y)) = (decode(&self.x), decode(&self.y)) else { return false };
        let point = [&[4][..], &x, &y].concat();
        let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
        key.verify(message, signed).is_ok()
    }

    /// RFC 7638.
    fn thumbprint(&self) -> String {
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, self.x, self.y);
        encode_url(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
    }
}

fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let body =
        json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status });
    let fields = vec![("Content-Type".into(), "application/problem+json".into())];
    (status, fields, body.to_string().into_bytes())
}

fn document(status: u16, body: &Value) -> Answer {
    (status, vec![("Content-Type".into(), "application/json".into())], body.to_string().into_bytes())
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn trouble(&self) -> Trouble {
        *self.trouble.lock().expect("no panic")
    }

    fn fault(&self, text: String) -> Answer {
        self.state().faults.push(text.clone());
        problem(400, "malformed", &text)
    }

    fn serve(self: Arc<Self>, socket: TcpStream) {
        let _ = socket.set_read_timeout(Some(deadline()));
        let Ok(tls) = ServerConnection::new(Arc::clone(&self.tls)) else { return };
        let mut stream = StreamOwned::new(tls, socket);
        let Some(ask) = read(&mut stream) else { return };
        if let Trouble::Slow(ms) = self.trouble() {
            std::thread::sleep(Duration::from_millis(ms));
        }
        let is_head = ask.method == "HEAD";
        let (status, mut fields, body) = self.answer(&ask);
        let nonce = format!("nonce{}", encode_url(&std::process::id().to_le_bytes()))
            + &{
                let mut state = self.state();
                state.last += 1;
                state.last.to_string()
            };
        self.state().nonces.insert(nonce.clone());
        fields.push(("Replay-Nonce".into(), nonce));
        let mut head =
            format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        fields.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let _ = stream.write_all((head + "\r\n").as_bytes());
        if !is_head {
            let cut = if self.trouble() == Trouble::Cut { body.len() / 2 } else { body.len() };
            let _ = stream.write_all(&body[..cut]);
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }

    fn answer(self: &Arc<Self>, ask: &Ask) -> Answer {
        self.state().asked.push(ask.path.clone());
        let trouble = self.trouble();
        if trouble == Trouble::Garbage {
            return (
                200,
                vec![("Content-Type".into(), "application/json".into())],
                b"{\"newNonce\": <html>".to_vec(),
            );
        }
        if ask.method != "POST" {
            return self.plain(&ask.path);
        }
        if trouble == Trouble::Broken {
            return (500, Vec::new(), b"oops".to_vec());
        }
        self.signed(ask)
    }

    fn plain(&self, path: &str) -> Answer {
        let url = |path: &str| format!("{}{path}", self.base);
        let window = self.state().window;
        match (path, window) {
            ("/dir", _) => {
                let mut body = json!({
                    "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
                    "meta": { "profiles": { "short": "for a short time" } },
                });
                if window.is_some() {
                    body["renewalInfo"] = url("/ari").into();
                }
                document(200, &body)
            }
            ("/nonce", _) => (200, Vec::new(), Vec::new()),
            (path, Some((from_s, to_s))) if path.starts_with("/ari/") => {
                let at = |s: i64| {
                    let at = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs().cast_signed() + s;
                    date(at)
                };
                let body = json!({ "suggestedWindow": { "start": at(from_s), "end": at(to_s) } });
                let (status, mut fields, body) = document(200, &body);
                fields.push(("Retry-After".into(), "60".into()));
                (status, fields, body)
            }
            _ => problem(404, "malformed", "no such resource"),
        }
    }

    /// Checks what RFC 8555 §6 wants of every request.
    fn signed(self: &Arc<Self>, ask: &Ask) -> Answer {
        let Ok(jws) = serde_json::from_slice::<Value>(&ask.body) else {
            return self.fault(format!("no JSON at {}", ask.path));
        };
        let part = |name: &str| jws[name].as_str().unwrap_or("").to_owned();
        let (protected, payload) = (part("protected"), part("payload"));
        let header = decode(&protected).and_then(|it| serde_json::from_slice::<Value>(&it).ok());
        let Some(header) = header.filter(|header| header["alg"] == "ES256") else {
            return self.fault(format!("no header at {}", ask.path));
        };
        let account = header["kid"].as_str().and_then(|it| it.rsplit('/').next()?.parse::<u64>().ok());
        let key = match account {
            Some(account) => self.state().accounts.get(&account).cloned(),
            None => Jwk::of(&header["jwk"]),
        };
        let Some(key) = key else {
            return problem(400, "accountDoesNotExist", "no such account");
        };
        let message = format!("{protected}.{payload}");
        if !decode(&part("signature")).is_some_and(|signed| key.verifies(message.as_bytes(), &signed)) {
            return self.fault(format!("a wrong signature at {}", ask.path));
        }
        if header["url"] != format!("{}{}", self.base, ask.path) {
            return self.fault(format!("a URL of another place at {}", ask.path));
        }
        let nonce = header["nonce"].as_str().unwrap_or("").to_owned();
        let is_known = self.state().nonces.remove(&nonce);
        let number: u64 =
            nonce.chars().rev().take_while(char::is_ascii_digit).collect::<String>().len() as u64;
        let is_refused =
            self.trouble() == Trouble::BadNonce && self.state().last.is_multiple_of(3) && number > 0;
        if !is_known || is_refused {
            if !is_known {
                self.state().faults.push(format!("an unknown nonce at {}", ask.path));
            }
            return problem(400, "badNonce", "use another one");
        }
        let payload = decode(&payload).filter(|it| !it.is_empty());
        let payload = payload.and_then(|it| serde_json::from_slice::<Value>(&it).ok());
        self.post(&ask.path, account, key, payload)
    }

    fn post(self: &Arc<Self>, path: &str, account: Option<u64>, key: Jwk, payload: Option<Value>) -> Answer {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let number = |index: usize| parts.get(index).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        match (parts[0], account) {
            ("account", None) => self.account(key, payload.unwrap_or_default()),
            ("account", Some(_)) => document(200, &json!({ "status": "valid" })),
            ("order", Some(account)) if parts.len() == 1 => {
                self.new_order(account, payload.unwrap_or_default())
            }
            ("order", Some(_)) => self.order(number(1)),
            ("authz", Some(_)) => self.authorization(number(1), number(2) as usize),
            ("chal", Some(_)) => {
                self.challenge(number(1), (number(2) as usize, parts.get(3).copied().unwrap_or("")))
            }
            ("finalize", Some(_)) => self.finalize(number(1), payload.unwrap_or_default()),
            ("cert", Some(_)) => {
                let alternate = self.state().alternate.clone();
                let chain = self.state().orders.get(&number(1)).and_then(|order| order.chain.clone());
                let mut chain = chain.unwrap_or_default();
                if self.trouble() == Trouble::LongChain {
                    chain = chain.repeat(1024 * 1024 / chain.len().max(1) + 1);
                }
                let mut fields = vec![("Content-Type".into(), "application/pem-certificate-chain".into())];
                match (alternate, parts.get(2)) {
                    (Some(top), Some(_)) => chain += &top,
                    (Some(_), None) => {
                        let url = format!("<{}{path}/other>;rel=\"alternate\"", self.base);
                        fields.push(("Link".into(), format!("<{}/dir>;rel=\"index\"", self.base)));
                        fields.push(("Link".into(), url));
                    }
                    (None, _) => {}
                }
                (200, fields, chain.into_bytes())
            }
            _ => self.fault(format!("a POST to {path}")),
        }
    }

    fn account(&self, key: Jwk, payload: Value) -> Answer {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        let known = state.accounts.iter().find(|(_, known)| known.x == key.x).map(|(number, _)| *number);
        if known.is_none() && payload["onlyReturnExisting"] == true {
            return problem(400, "accountDoesNotExist", "no such account");
        }
        if known.is_none() && payload["termsOfServiceAgreed"] != true {
            return problem(403, "userActionRequired", "agree to the terms");
        }
        if let Some((id, secret)) = &state.external {
            let bound = &payload["externalAccountBinding"];
            let part = |name: &str| bound[name].as_str().unwrap_or("").to_owned();
            let (protected, own) = (part("protected"), part("payload"));
            let header = decode(&protected).and_then(|it| serde_json::from_slice::<Value>(&it).ok());
            let signed = decode(&part("signature")).unwrap_or_default();
            let mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let is_signed =
                aws_lc_rs::hmac::verify(&mac, format!("{protected}.{own}").as_bytes(), &signed).is_ok();
            let jwk = decode(&own).and_then(|it| serde_json::from_slice::<Value>(&it).ok());
            let is_own = jwk.and_then(|it| Jwk::of(&it)).is_some_and(|it| it.x == key.x);
            let is_named = header.is_some_and(|it| it["kid"] == **id && it["alg"] == "HS256");
            if !is_signed || !is_own || !is_named {
                return problem(403, "externalAccountRequired", "prove your account");
            }
        }
        state.account_requests.push(payload);
        let number = known.unwrap_or(number);
        state.accounts.insert(number, key);
        let (_, mut fields, body) = document(201, &json!({ "status": "valid" }));
        fields.push(("Location".into(), format!("{}/account/{number}", self.base)));
        (if known.is_some() { 200 } else { 201 }, fields, body)
    }

    fn new_order(&self, account: u64, payload: Value) -> Answer {
        if let Trouble::RateLimited(seconds) = self.trouble() {
            let (status, mut fields, body) = problem(429, "rateLimited", "too many orders");
            fields.push(("Retry-After".into(), seconds.to_string()));
            return (status, fields, body);
        }
        let names: Vec<(String, String)> = payload["identifiers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| (it["type"].as_str().unwrap_or("").into(), it["value"].as_str().unwrap_or("").into()))
            .collect();
        if let Some((_, name)) = names.iter().find(|(_, name)| name.ends_with(".forbidden")) {
            return problem(400, "rejectedIdentifier", &format!("no certificate for {name}"));
        }
        let mut state = self.state();
        state.profiles.push(payload["profile"].clone());
        state.replaced.extend(payload["replaces"].as_str().map(str::to_owned));
        state.last += 1;
        let number = state.last;
        let valid = vec![false; names.len()];
        state.orders.insert(number, Order { account, names, valid, ..Order::default() });
        drop(state);
        let (_, mut fields, mut body) = self.order(number);
        if let Some(replaces) = payload["replaces"].as_str() {
            let mut value: Value = serde_json::from_slice(&body).expect("our own");
            value["replaces"] = replaces.into();
            body = value.to_string().into_bytes();
        }
        fields.push(("Location".into(), format!("{}/order/{number}", self.base)));
        (201, fields, body)
    }

    fn order(&self, number: u64) -> Answer {
        let state = self.state();
        let Some(order) = state.orders.get(&number) else {
            return problem(404, "malformed", "no such order");
        };
        let status = match order {
            Order { is_invalid: true, .. } => "invalid",
            Order { chain: Some(_), .. } => "valid",
            _ if order.valid.iter().all(|it| *it) => "ready",
            _ => "pending",
        };
        let urls: Vec<String> =
            (0..order.names.len()).map(|index| format!("{}/authz/{number}/{index}", self.base)).collect();
        let names: Vec<Value> =
            order.names.iter().map(|(kind, name)| json!({ "type": kind, "value": name })).collect();
        let mut body = json!({
            "status": status, "identifiers": names, "authorizations": urls,
            "finalize": format!("{}/finalize/{number}", self.base),
        });
        if order.chain.is_some() {
            body["certificate"] = format!("{}/cert/{number}", self.base).into();
        }
        document(200, &body)
    }

    fn authorization(&self, number: u64, index: usize) -> Answer {
        let state = self.state();
        let Some(order) = state.orders.get(&number) else {
            return problem(404, "malformed", "no such order");
        };
        let status = match (order.is_invalid, order.valid.get(index)) {
            (true, _) => "invalid",
            (_, Some(true)) => "valid",
            _ => "pending",
        };
        let (kind, name) = &order.names[index];
        let challenge = |word: &str| {
            let url = format!("{}/chal/{number}/{index}/{word}", self.base);
            let mut it = json!({ "type": word, "url": url, "token": token(number, index), "status": status });
            if let Some(error) = &order.error {
                it["error"] = error.clone();
            }
            it
        };
        let challenges = [challenge("dns-01"), challenge("http-01"), challenge("tls-alpn-01")];
        document(
            200,
            &json!({ "status": status, "identifier": { "type": kind, "value": name }, "challenges": challenges }),
        )
    }

    fn challenge(self: &Arc<Self>, number: u64, (index, word): (usize, &str)) -> Answer {
        let own = Arc::clone(self);
        let kind = word.to_owned();
        let trouble = self.trouble();
        std::thread::spawn(move || own.validate(number, index, &kind, trouble));
        let url = format!("{}/chal/{number}/{index}/{word}", self.base);
        document(
            200,
            &json!({ "type": word, "url": url, "token": token(number, index), "status": "processing" }),
        )
    }

    /// Connects to where the answer must be.
    fn validate(&self, number: u64, index: usize, kind: &str, trouble: Trouble) {
        let (name, thumbprint) = {
            let state = self.state();
            let Some(order) = state.orders.get(&number) else { return };
            (order.names[index].1.clone(), state.accounts[&order.account].thumbprint())
        };
        let authorization = format!("{}.{thumbprint}", token(number, index));
        let outcome = match (trouble, kind) {
            (Trouble::Endless, _) => return,
            (Trouble::InvalidOrder, _) => Err("as it was told".to_owned()),
            (_, "http-01") => self.ask_http(&name, &token(number, index), &authorization),
            (_, "tls-alpn-01") => self.ask_tls(&name, &authorization),
            _ => Err("of another kind".to_owned()),
        };
        let mut state = self.state();
        let Some(order) = state.orders.get_mut(&number) else { return };
        order.validations += 1;
        match outcome {
            Ok(()) => order.valid[index] = true,
            Err(why) => {
                order.is_invalid = true;
                let error = problem(403, "unauthorized", &why).2;
                order.error = serde_json::from_slice(&error).ok();
            }
        }
    }

    fn ask_http(&self, name: &str, token: &str, authorization: &str) -> Result<(), String> {
        let port = self.http_port.load(Ordering::SeqCst);
        let mut socket = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        let _ = socket.set_read_timeout(Some(deadline()));
        let request = format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {name}\r\n\r\n");
        socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut text = String::new();
        socket.read_to_string(&mut text).map_err(|error| error.to_string())?;
        let good = text.starts_with("HTTP/1.1 200 ") && text.ends_with(&format!("\r\n\r\n{authorization}"));
        if good { Ok(()) } else { Err(format!("the answer is {text:?}")) }
    }

    /// RFC 8737 §3.
    fn ask_tls(&self, name: &str, authorization: &str) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(super::tls::Any))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        // RFC 8738 §6: an address is asked for by the name of its reverse lookup.
        let asked = match name.parse::<std::net::Ipv4Addr>() {
            Ok(ip) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            Err(_) => name.to_owned(),
        };
        let host = ServerName::try_from(asked).map_err(|error| error.to_string())?;
        let mut tls = ClientConnection::new(Arc::new(config), host).map_err(|error| error.to_string())?;
        let port = self.tls_port.load(Ordering::SeqCst);
        let mut socket = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        let _ = socket.set_read_timeout(Some(deadline()));
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(|error| error.to_string())?;
        }
        if tls.alpn_protocol() != Some(b"acme-tls/1") {
            return Err("the protocol was not chosen".into());
        }
        let der = tls.peer_certificates().and_then(|it| it.first()).ok_or("no certificate")?;
        let (_, found) = x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
        let digest = digest::digest(&digest::SHA256, authorization.as_bytes());
        let wanted = [&[4, 32][..], digest.as_ref()].concat();
        let own = found.extensions().iter().find(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let good = own.is_some_and(|it| it.critical && it.value == &wanted[..]);
        let names =
            found.subject_alternative_name().ok().flatten().map(|it| format!("{:?}", it.value.general_names));
        let wanted = match name.parse::<std::net::Ipv4Addr>() {
            Ok(ip) => format!("[IPAddress({:?})]", ip.octets()),
            Err(_) => format!("[DNSName({name:?})]"),
        };
        match (good, names) {
            (true, Some(names)) if names == wanted => Ok(()),
            (_, names) => Err(format!("another certificate: {names:?}")),
        }
    }

    fn finalize(&self, number: u64, payload: Value) -> Answer {
        let csr = payload["csr"].as_str().and_then(decode).unwrap_or_default();
        let Ok(mut csr) = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        else {
            return self.fault("no request for a certificate".into());
        };
        let state = self.state();
        let Some(order) = state.orders.get(&number) else {
            return problem(404, "malformed", "no such order");
        };
        if order.is_invalid || !order.valid.iter().all(|it| *it) {
            drop(state);
            return self.fault("an order was finalized that is not ready".into());
        }
        let mut wanted: Vec<String> = order.names.iter().map(|(_, name)| name.clone()).collect();
        drop(state);
        let mut named: Vec<String> = csr.params.subject_alt_names.iter().map(name_of).collect();
        named.sort();
        wanted.sort();
        if named != wanted {
            return self.fault(format!("a request for {named:?} in an order for {wanted:?}"));
        }
        let now = time::OffsetDateTime::now_utc();
        let lifetime = Duration::from_secs(self.lifetime_s.load(Ordering::SeqCst));
        let change = |params: &mut rcgen::CertificateParams| {
            params.not_before = now - Duration::from_secs(1);
            params.not_after = now + lifetime;
            params.use_authority_key_identifier_extension = true;
        };
        let chain = if self.trouble() == Trouble::WrongKey {
            let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
            let names: Vec<&str> = named.iter().map(String::as_str).collect();
            self.authority.issue_for(&key, &names, change).certificate
        } else {
            if self.trouble() == Trouble::FewNames {
                csr.params.subject_alt_names.truncate(1);
            }
            change(&mut csr.params);
            csr.signed_by(self.authority.issuer()).expect("a certificate").pem()
        };
        let mut state = self.state();
        if let Some(order) = state.orders.get_mut(&number) {
            order.chain = Some(chain);
        }
        drop(state);
        self.order(number)
    }
}

fn token(number: u64, index: usize) -> String {
    format!("token-{number}_{index}")
}

fn name_of(name: &rcgen::SanType) -> String {
    match name {
        rcgen::SanType::DnsName(name) => name.as_str().to_owned(),
        rcgen::SanType::IpAddress(ip) => ip.to_string(),
        other => format!("{other:?}"),
    }
}

/// RFC 3339.
fn date(at_s: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(at_s).expect("a time");
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

fn read(stream: &mut impl Read) -> Option<Ask> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let mut words = lines.next()?.split(' ');
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let length = lines.find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let end = end + 4;
            let length = length.unwrap_or(0);
            while bytes.len() < end + length {
                let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
                bytes.extend_from_slice(&piece[..count]);
            }
            return Some(Ask { method, path, body: bytes[end..end + length].to_vec() });
        }
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&piece[..count]);
    }
}
