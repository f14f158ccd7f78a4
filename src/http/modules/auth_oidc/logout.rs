//! The end of a session: by its user, who is led on to the provider's logout, or by the provider through the user's browser.
//!
//! Touches: cookies and arguments of the request, the store of sessions, the provider's metadata. OpenID Connect
//! RP-Initiated Logout 1.0 §2; Front-Channel Logout 1.0 §2.

use super::flow::{found, list_key, url_of, with_metadata};
use super::kept::Reach;
use super::know;
use super::provider::{Provider, named_in_log};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::verdict::{Reply, Verdict};
use crate::log;
use crate::proto::oidc::{Form, argument};

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
            let count = provider.store.remove_listed(&list_key(provider, &sid));
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
