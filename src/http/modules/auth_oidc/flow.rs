//! The two halves of a login: the redirect to the provider, and the return from there.
//!
//! Touches: cookies and arguments of the request, the provider, the store of sessions. RFC 6749 §4.1; OpenID Connect Core
//! 1.0 §3.1.

use std::sync::Arc;

use super::kept::{Reach, ask, endpoint};
use super::provider::{self, Provider, named_in_log, wall_s};
use super::{know, store, token};
use crate::base::base64;
use crate::base::jose::{Token, Value, object};
use crate::http::modules::http_core::{cookie_value, request_port};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::verdict::{Call, Reply, Verdict};
use crate::log;
use crate::net::fetch::{self, fetch};
use crate::proto::header::Id;
use crate::proto::oidc::login::{Login, Secret, local, owner, secret_of, secret_text};
use crate::proto::oidc::metadata::Metadata;
use crate::proto::oidc::session::Session;
use crate::proto::oidc::tokens::{Expected, TokenError, Tokens};
use crate::proto::oidc::{Form, VALUES_MAX, argument, encoded};
use crate::runtime::now_ms;
use crate::sys::clock;

/// How long a user may take to log in at the provider. Whoever takes longer begins again.
const LOGIN_S_MAX: u32 = 900;
/// The longest code that is passed on to the provider.
const CODE_BYTES_MAX: usize = 4096;

/// Why a login fails: a status, and the words of the log.
#[derive(Debug)]
pub struct Failure {
    pub status: u16,
    pub why: String,
}

impl Failure {
    /// The user may not come in, or has brought something that is not good.
    fn denied(why: impl Into<String>) -> Self {
        Self { status: 403, why: why.into() }
    }

    /// The provider does not do its part.
    pub fn faulty(why: impl Into<String>) -> Self {
        Self { status: 502, why: why.into() }
    }

    fn verdict(self, request: &Request, provider: &Provider) -> Verdict {
        let name = named_in_log(provider);
        let why = &self.why;
        match self.status {
            // A client alone can cause these.
            400 | 403 => log::info!(request.error_log(), request, "login refused by {}: {}", name, why),
            _ => log::error!(request.error_log(), request, "login at {} failed: {}", name, why),
        }
        Verdict::Done(Reply::Status(self.status))
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match &error {
            TokenError::Refused(_) => Self::denied(error.to_string()),
            TokenError::Faulty(_) => Self::faulty(format!("its token endpoint: {error}")),
        }
    }
}

/// Continues with the provider's metadata, at once if they are known. `Err`: why there are none.
pub fn with_metadata(
    reach: Reach,
    request: &mut Request,
    then: impl FnOnce(&mut Request, Result<Arc<Metadata>, String>) -> Verdict + 'static,
) -> Verdict {
    match reach.metadata_at_once() {
        Some(metadata) => then(request, Ok(metadata)),
        None => Call::wait(async move {
            let metadata = reach.metadata().await.map_err(|why| why.to_string());
            Box::new(move |request: &mut Request| then(request, metadata))
        }),
    }
}

/// Sends a client without a session to the provider.
pub fn begin(request: &mut Request, provider: &'static Provider) -> Verdict {
    let reach = Reach::of(request, provider);
    with_metadata(reach, request, move |request, metadata| match metadata {
        Ok(metadata) => match redirect(request, provider, &metadata) {
            Some(verdict) => verdict,
            None => Failure { status: 500, why: "there is no key for logins".to_owned() }
                .verdict(request, provider),
        },
        Err(why) => Failure::faulty(format!("its metadata: {why}")).verdict(request, provider),
    })
}

/// The secret of the client's cookie for logins.
fn login_secret(request: &Request, provider: &Provider) -> Option<Secret> {
    secret_of(cookie_value(request, &provider.login_cookie_name)?)
}

/// `None`: there is no randomness, or no key.
fn redirect(request: &Request, provider: &Provider, metadata: &Metadata) -> Option<Verdict> {
    // Logins in several tabs share a cookie; each has a salt of its own.
    let secret = match login_secret(request, provider) {
        Some(secret) => secret,
        None => provider::secret()?,
    };
    let salt = provider::secret()?;
    let target = request.input.data().get(request.head.target.clone()).unwrap_or_default();
    let login = Login {
        begun_s: store::now_s(),
        has_pkce: provider.has_pkce.unwrap_or(metadata.has_pkce),
        salt: *salt.first_chunk()?,
        owner: owner(&secret),
        return_to: local(target, &request.uri),
    };
    let state = provider.with_key(|key| login.seal(key, &provider.digest))?;
    let challenge = login.has_pkce.then(|| login.challenge(&secret));
    let form = Form::default()
        .with("response_type", "code")
        .with("scope", &provider.scope)
        .with("client_id", &provider.client_id)
        .with("redirect_uri", &redirect_url(request, provider))
        .with("state", &state)
        .with("nonce", &login.nonce(&secret))
        .with_some("code_challenge", challenge.as_deref())
        .with_some("code_challenge_method", challenge.as_ref().map(|_| "S256"))
        .and(&provider.extra_auth_args);
    let cookie = format!(
        "{}={}; Max-Age={LOGIN_S_MAX}{}",
        provider.login_cookie_name,
        secret_text(&secret),
        provider.attributes(request)
    );
    Some(found(&form.url(&metadata.authorization_endpoint), &[cookie]))
}

/// A redirect that no cache keeps. `location`: a URL, or a path of this server.
pub fn found(location: &str, cookies: &[String]) -> Verdict {
    let mut response = Response::new(302);
    response.headers.push_id(Id::Location, location.as_bytes());
    response.headers.push(b"Cache-Control", b"no-store");
    for cookie in cookies {
        response.headers.push(b"Set-Cookie", cookie.as_bytes());
    }
    Verdict::Done(Reply::Response(Box::new(response), Body::Empty))
}

/// The URL of a path of this server, as the client knows it.
pub fn url_of(request: &Request, path: &str) -> String {
    let scheme = if request.connection.tls.is_some() { "https" } else { "http" };
    let host = match request.host.is_empty() {
        true => request.server.name().into(),
        false => String::from_utf8_lossy(&request.host),
    };
    let port =
        request_port(request).map_or_else(String::new, |port| format!(":{}", String::from_utf8_lossy(port)));
    format!("{scheme}://{host}{port}{path}")
}

fn redirect_url(request: &Request, provider: &Provider) -> String {
    match &provider.redirect_url {
        Some(url) => url.to_string(),
        None => url_of(request, &provider.redirect_path),
    }
}

/// Takes a client back that the provider has sent.
pub fn finish(request: &mut Request, provider: &'static Provider) -> Verdict {
    match returned(request, provider) {
        Ok(Returned::Again(uri)) => found(&String::from_utf8_lossy(&uri), &[]),
        Ok(Returned::InTime(arrival)) => {
            let reach = Reach::of(request, provider);
            Call::wait(async move {
                let outcome = arrival.log_in(&reach).await;
                Box::new(move |request: &mut Request| match outcome {
                    Ok((tokens, userinfo)) => arrival.conclude(request, provider, tokens, userinfo),
                    Err(failure) => failure.verdict(request, provider),
                })
            })
        }
        Err(failure) => failure.verdict(request, provider),
    }
}

enum Returned {
    InTime(Arrival),
    /// The login took too long, or its cookie has been replaced by that of another tab, or it is that of another browser: it
    /// begins again where it began, now with the cookie that is there.
    Again(Vec<u8>),
}

/// A client that comes back in time, with a code.
struct Arrival {
    login: Login,
    secret: Secret,
    code: String,
    redirect_url: String,
    /// The issuer that the answer names (RFC 9207).
    issuer: Option<String>,
}

fn returned(request: &Request, provider: &Provider) -> Result<Returned, Failure> {
    let bad = |why: &str| Failure { status: 400, why: why.to_owned() };
    let args = &request.args;
    let text = |name: &str| argument(args, name).map(|value| String::from_utf8_lossy(&value).into_owned());
    let secret = login_secret(request, provider);
    let secret = secret.ok_or_else(|| bad("this browser has not begun a login: it has no cookie for it"))?;
    let state = argument(args, "state").ok_or_else(|| bad("\"state\" is missing"))?;
    let login = Login::open(&state, &provider.digest, |name| provider.find_key(name));
    let login = login.ok_or_else(|| bad("\"state\" is not one of ours, or too old"))?;
    let is_late = store::now_s().saturating_sub(login.begun_s) >= LOGIN_S_MAX;
    if is_late || !login.is_of(&secret) {
        return Ok(Returned::Again(login.return_to));
    }
    if let Some(error) = text("error") {
        let more = text("error_description").map_or_else(String::new, |more| format!(", {more:?}"));
        return Err(Failure::denied(format!("error {error:?}{more}")));
    }
    let code = text("code").filter(|code| !code.is_empty() && code.len() <= CODE_BYTES_MAX);
    let code = code.ok_or_else(|| bad("\"code\" is missing, or too long"))?;
    let (redirect_url, issuer) = (redirect_url(request, provider), text("iss"));
    Ok(Returned::InTime(Arrival { login, secret, code, redirect_url, issuer }))
}

impl Arrival {
    /// Exchanges the code for tokens, and checks them. Also returns the UserInfo.
    async fn log_in(&self, reach: &Reach) -> Result<(Tokens, String), Failure> {
        let provider = reach.provider;
        let metadata = reach.metadata().await;
        let metadata = metadata.map_err(|why| Failure::faulty(format!("its metadata: {why}")))?;
        // The answer of another provider would bring its code there.
        match &self.issuer {
            Some(issuer) if **issuer != *provider.issuer => {
                return Err(Failure::denied(format!("the answer comes from another issuer, {issuer:?}")));
            }
            None if metadata.names_itself => {
                return Err(Failure::denied("the answer does not name its issuer (\"iss\")"));
            }
            _ => {}
        }
        let verifier = self.login.has_pkce.then(|| self.login.verifier(&self.secret));
        let form = Form::default()
            .with("grant_type", "authorization_code")
            .with("code", &self.code)
            .with("redirect_uri", &self.redirect_url)
            .with_some("code_verifier", verifier.as_deref());
        let mut tokens = tokens(reach, &metadata, form).await?;
        let Some(id_token) = &tokens.id else { return Err(Failure::faulty("there is no ID token")) };
        let nonce = self.login.nonce(&self.secret);
        let (subject, id_token) =
            verify(reach, &metadata, id_token, (Some(&nonce), None), tokens.access.as_deref()).await?;
        tokens.id = Some(id_token);
        let userinfo = match (&metadata.userinfo_endpoint, &tokens.access) {
            _ if !provider.has_userinfo => String::new(),
            (Some(url), Some(token)) => userinfo(reach, url, token, &subject).await?,
            _ => return Err(Failure::faulty("it has no UserInfo endpoint, or gives no access token for it")),
        };
        Ok((tokens, userinfo))
    }

    /// Gives the client a session, and leads it back to where it came from.
    fn conclude(
        self,
        request: &mut Request,
        provider: &'static Provider,
        tokens: Tokens,
        userinfo: String,
    ) -> Verdict {
        let Some(id) = provider::secret() else {
            return Failure { status: 500, why: "the system has no randomness".to_owned() }
                .verdict(request, provider);
        };
        let refresh = tokens.refresh.clone();
        let session = session(provider, tokens, userinfo);
        let (key, timeout_s) = (store::key("session", &id), provider.session_timeout_s);
        let log = request.error_log();
        // A session that the client had is over, whoever has begun it.
        if let Some((old, _)) = provider.session(request) {
            provider.store.remove(&old);
        }
        if let Err(too_large) = provider.store.put(&key, &session, refresh.as_deref(), timeout_s, log) {
            return Failure { status: 500, why: too_large.to_string() }.verdict(request, provider);
        }
        enlist(provider, &key, &session, log);
        let cookie = format!("{}={}{}", provider.cookie_name, secret_text(&id), provider.attributes(request));
        know(request, provider, Some((key, session)));
        found(&String::from_utf8_lossy(&self.login.return_to), &[cookie])
    }
}

/// The session of these tokens.
pub fn session(provider: &Provider, tokens: Tokens, userinfo: String) -> Session {
    let id_token = tokens.id.unwrap_or_default();
    let expires_s = match tokens.expires_in_s {
        Some(seconds) => wall_s().saturating_add(seconds),
        None => 0,
    };
    Session {
        provider: provider.digest,
        expires_s,
        id_token,
        access_token: tokens.access.unwrap_or_default(),
        userinfo,
        sid: String::new(),
    }
}

/// Notes whose session it is, and to which one at the provider it belongs, for the logouts that come from there.
pub fn enlist(provider: &Provider, key: &store::Key, session: &Session, log: log::Logger) {
    let has_back_channel = provider.backchannel_logout_uri.is_some();
    if provider.frontchannel_logout_uri.is_none() && !has_back_channel {
        return;
    }
    let enlist = |claim: &str, value: &str| {
        let list = list_key(provider, claim, value.as_bytes());
        provider.store.enlist(&list, key, provider.session_timeout_s, log);
    };
    if let Some(sid) = session.provider_session() {
        enlist("sid", &sid);
    }
    let token = Token::parse(session.id_token.as_bytes()).ok().filter(|_| has_back_channel);
    if let Some(subject) = token.as_ref().and_then(|token| token.claims.get("sub")?.as_str()) {
        enlist("sub", subject);
    }
}

/// The key of the list of a session at the provider (`sid`), or of a user (`sub`).
pub fn list_key(provider: &Provider, claim: &str, value: &[u8]) -> store::Key {
    store::key(claim, &[&provider.digest, value].concat())
}

/// Asks the token endpoint.
pub async fn tokens(reach: &Reach, metadata: &Metadata, form: Form) -> Result<Tokens, Failure> {
    let provider = reach.provider;
    let url = endpoint(&metadata.token_endpoint, "token_endpoint").map_err(Failure::faulty)?;
    let (id, secret) = (&*provider.client_id, provider.client_secret.as_deref());
    let (form, authorization) = match secret {
        None => (form.with("client_id", id), None),
        Some(secret) if metadata.posts_secret => {
            (form.with("client_id", id).with("client_secret", secret), None)
        }
        Some(secret) => {
            let mut value = b"Basic ".to_vec();
            base64::encode(format!("{}:{}", encoded(id), encoded(secret)).as_bytes(), &mut value);
            (form, Some(String::from_utf8_lossy(&value).into_owned()))
        }
    };
    let request =
        fetch::Request { url: &url, authorization: authorization.as_deref(), form: Some(form.as_str()) };
    let response = fetch(&request, &reach.means).await;
    let response = response.map_err(|fault| Failure::faulty(format!("its token endpoint: {fault}")))?;
    Ok(Tokens::read(response.status, &response.body)?)
}

/// Checks an ID token. Returns its subject, and its text without the encryption around it.
pub async fn verify(
    reach: &Reach,
    metadata: &Metadata,
    text: &str,
    (nonce, subject): (Option<&str>, Option<&str>),
    access_token: Option<&str>,
) -> Result<(String, String), Failure> {
    let token::Signed { token, text } = token::signed(reach, metadata, ("ID token", text), now_ms()).await?;
    let provider = reach.provider;
    let expected = Expected {
        issuer: &provider.issuer,
        client_id: &provider.client_id,
        nonce,
        subject,
        access_token,
        now_s: clock::wall_seconds(),
    };
    let algorithm = token.algorithm().map_or("", |algorithm| algorithm.name());
    let checked = expected.check(&token.claims, algorithm);
    checked.map_err(|refusal| Failure::faulty(format!("its ID token is rejected: {refusal}")))?;
    let subject = token.claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((subject, text))
}

/// Asks for the UserInfo, which must be about the same user (Core §5.3.2).
async fn userinfo(reach: &Reach, url: &str, token: &str, subject: &str) -> Result<String, Failure> {
    let failed = |why: String| Failure::faulty(format!("its UserInfo: {why}"));
    let url = endpoint(url, "userinfo_endpoint").map_err(failed)?;
    let body = ask(&url, Some(&format!("Bearer {token}")), &reach.means).await.map_err(failed)?;
    let claims = object(&body, VALUES_MAX).map_err(|fault| failed(fault.to_string()))?;
    if claims.get("sub").and_then(Value::as_str) != Some(subject) {
        return Err(failed("it is about another user than the ID token".to_owned()));
    }
    String::from_utf8(body).map_err(|error| failed(error.to_string()))
}
