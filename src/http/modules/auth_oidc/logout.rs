//! The end of a session: by its user, who is led on to the provider's logout, by the provider through the user's browser, or by
//! the provider itself.
//!
//! Touches: cookies, arguments and body of the request, the store of sessions, the provider's metadata and keys. OpenID
//! Connect RP-Initiated Logout 1.0 §2; Front-Channel Logout 1.0 §2; Back-Channel Logout 1.0 §2.5 to §2.8.

use super::flow::{Failure, found, list_key, url_of, with_metadata};
use super::kept::Reach;
use super::provider::{Provider, named_in_log};
use super::{know, store, token};
use crate::base::jose::Token;
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::verdict::{Call, Pause, Reply, Verdict};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::proto::oidc::logout::Logout;
use crate::proto::oidc::session::Session;
use crate::proto::oidc::{Form, argument};
use crate::runtime::now_ms;
use crate::sys::clock;

/// How old the provider's keys are at least before a logout token with a key that is not known has them fetched: anybody can
/// send such tokens.
const KEYS_MS_MIN: u64 = 10_000;

const LOGGED_OUT: &[u8] = b"<!DOCTYPE html>\n<html><head><title>Logged out</title></head>\n\
    <body><h1>You have been logged out.</h1></body></html>\n";

/// `logout_uri`.
pub fn by_user(request: &mut Request, provider: &'static Provider) -> Verdict {
    let session = provider.session(request);
    if let Some((key, _)) = &session {
        provider.store.remove(key);
    }
    know(request, provider, None);
    let hint = session.filter(|_| provider.has_token_hint).map(|(_, session)| session.id_token);
    let reach = Reach::of(request, provider);
    with_metadata(reach, request, move |request, metadata| {
        let post_logout = provider.post_logout_uri.as_ref().map(|uri| match uri.starts_with('/') {
            true => url_of(request, uri),
            false => uri.to_string(),
        });
        let cookie = expired_cookie(request, provider);
        let endpoint = match metadata {
            Ok(metadata) => metadata.end_session_endpoint.clone(),
            Err(why) => {
                let name = named_in_log(provider);
                log::error!(request.error_log(), &*request, "{} is not told of a logout: {}", name, why);
                None
            }
        };
        match (endpoint, post_logout) {
            (Some(endpoint), post_logout) => {
                let form = Form::default()
                    .with("client_id", &provider.client_id)
                    .with_some("post_logout_redirect_uri", post_logout.as_deref())
                    .with_some("id_token_hint", hint.as_deref());
                found(&form.url(&endpoint), &[cookie])
            }
            (None, Some(url)) => found(&url, &[cookie]),
            (None, None) => page(Some(&cookie)),
        }
    })
}

/// `frontchannel_logout_uri`: the session that the provider names, or that of the cookie.
pub fn by_provider(request: &mut Request, provider: &'static Provider) -> Verdict {
    let (issuer, sid) = (argument(&request.args, "iss"), argument(&request.args, "sid"));
    match (issuer, sid) {
        (Some(issuer), Some(sid)) => {
            if issuer != provider.issuer.as_bytes() {
                let (name, issuer) = (named_in_log(provider), log::Text(&issuer));
                log::info!(
                    request.error_log(),
                    &*request,
                    "logout for {} with the issuer \"{}\"",
                    name,
                    issuer
                );
                return Verdict::Done(Reply::Status(400));
            }
            let count = provider.store.remove_listed(&list_key(provider, "sid", &sid), |_| true);
            log::debug!(request.error_log(), &*request, "the provider has ended {} sessions", count);
        }
        _ => match provider.session(request) {
            Some((key, _)) => provider.store.remove(&key),
            None => return Verdict::Done(Reply::Status(400)),
        },
    }
    know(request, provider, None);
    page(Some(&expired_cookie(request, provider)))
}

/// `backchannel_logout_uri`: the sessions that a logout token names.
pub fn by_back_channel(request: &mut Request, provider: &'static Provider) -> Verdict {
    let kind = request.header(Id::ContentType).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if request.method != Method::Post || !kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
        return refused(request, provider, "it is no POST of a form");
    }
    Verdict::Wait(Pause::body(move |request| {
        let body = request.body.in_memory().unwrap_or_default();
        let Some(text) = argument(body, "logout_token").and_then(|text| String::from_utf8(text).ok()) else {
            return refused(request, provider, "there is no \"logout_token\", or it is too long");
        };
        let reach = Reach::of(request, provider);
        Call::wait(async move {
            let read = logout(&reach, &text).await;
            Box::new(move |request: &mut Request| match read {
                Ok(logout) => end_sessions(request, provider, &logout),
                Err(failure) => refused(request, provider, &failure.why),
            })
        })
    }))
}

/// The order of a logout token. Errors: it is not from the provider, or not for us.
async fn logout(reach: &Reach, text: &str) -> Result<Logout, Failure> {
    let provider = reach.provider;
    let metadata = reach.metadata().await.map_err(|why| Failure::faulty(format!("its metadata: {why}")))?;
    let newer_ms = now_ms().saturating_sub(KEYS_MS_MIN);
    let token::Signed { token, .. } =
        token::signed(reach, &metadata, ("logout token", text), newer_ms).await?;
    let parties = (&*provider.issuer, &*provider.client_id);
    let checked = Logout::check(&token.header, &token.claims, parties, clock::wall_seconds());
    checked.map_err(|refusal| Failure::faulty(format!("its logout token is rejected: {refusal}")))
}

fn end_sessions(request: &mut Request, provider: &'static Provider, logout: &Logout) -> Verdict {
    let id = store::key("jti", &[&provider.digest, logout.id.as_bytes()].concat());
    if provider.store.is_noted(&id) {
        return refused(request, provider, "its \"jti\" has come before");
    }
    let is_theirs = |session: &Session| {
        let token = Token::parse(session.id_token.as_bytes()).ok();
        let subject = token.as_ref().and_then(|token| token.claims.get("sub")?.as_str());
        logout.subject.as_deref().is_none_or(|known| subject == Some(known))
    };
    let list = match (&logout.session, &logout.subject) {
        (Some(sid), _) => list_key(provider, "sid", sid.as_bytes()),
        (None, subject) => list_key(provider, "sub", subject.as_deref().unwrap_or_default().as_bytes()),
    };
    let count = provider.store.remove_listed(&list, is_theirs);
    // Afterwards: if this worker dies on the way, the provider may try again.
    provider.store.note(&id, logout.kept_s, request.error_log());
    log::debug!(request.error_log(), &*request, "the provider has ended {} sessions", count);
    answer(200, b"")
}

/// A logout token that is not followed (Back-Channel Logout §2.8).
fn refused(request: &Request, provider: &Provider, why: &str) -> Verdict {
    let name = named_in_log(provider);
    // Anybody can send one.
    log::info!(request.error_log(), request, "logout refused for {}: {}", name, why);
    answer(400, b"{\"error\":\"invalid_request\"}")
}

fn answer(status: u16, body: &'static [u8]) -> Verdict {
    let mut response = Response::with_type(status, if body.is_empty() { b"" } else { b"application/json" });
    response.headers.push(b"Cache-Control", b"no-store");
    let body = if body.is_empty() { Body::Empty } else { Body::Bytes(body.into()) };
    Verdict::Done(Reply::Response(Box::new(response), body))
}

fn expired_cookie(request: &Request, provider: &Provider) -> String {
    format!("{}=; Max-Age=0{}", provider.cookie_name, provider.attributes(request))
}

fn page(cookie: Option<&str>) -> Verdict {
    let mut response = Response::with_type(200, b"text/html");
    response.headers.push(b"Cache-Control", b"no-store");
    if let Some(cookie) = cookie {
        response.headers.push(b"Set-Cookie", cookie.as_bytes());
    }
    Verdict::Done(Reply::Response(Box::new(response), Body::Bytes(LOGGED_OUT.into())))
}
