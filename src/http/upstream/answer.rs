//! From an upstream's response head to ours: what the client gets of it, and what becomes of the body.
//!
//! Touches: nothing. RFC 9110 §7.6.1; nginx.org, `proxy_hide_header`, `proxy_pass_header`, `proxy_redirect`,
//! `proxy_intercept_errors`.

use crate::http::error::Error;
use crate::http::modules::core;
use crate::http::modules::proxy::{self, Redirect};
use crate::http::pipeline::Reply;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::upstream::exchange::Answer;
use crate::http::upstream::outgoing::is_listed;
use crate::proto::h1::length::{self, BodyLength};
use crate::proto::header::Id;

/// What follows a response head.
#[derive(Debug)]
pub enum Next {
    /// Not the upstream's answer: an error page, an internal redirect.
    Reply(Reply),
    /// 101: both sides may speak at any time.
    Tunnel(Response),
    Body(Response, BodyLength),
}

/// Decides what becomes of an answer. Errors: 502 for a body whose end cannot be known for sure.
pub fn begin(request: &mut Request, answer: &Answer) -> Result<Next, Error> {
    let conf: &'static proxy::Conf = &request.location.proxy;
    let (head, data) = (&answer.head.head, answer.head.buffer.data());
    request.upstream.set_head(answer.head.clone());
    let length = length::response(head, data, request.method)
        .map_err(|error| Error::upstream(502, format!("upstream sent {error}")))?;
    if head.status == 101 {
        return match request.header(Id::Upgrade) {
            Some(_) if request.is_subrequest() => {
                Err(Error::upstream(502, "upstream sent 101 to a subrequest, which cannot switch protocols"))
            }
            Some(_) => Ok(Next::Tunnel(response(request, answer, conf, BodyLength::None))),
            None => Err(Error::upstream(502, "upstream sent 101 without being asked to switch protocols")),
        };
    }
    if let Some(reply) = internal_redirect(request, answer, conf) {
        return Ok(Next::Reply(reply));
    }
    if conf.intercept_errors()
        && head.status >= 300
        && request.location.core.error_page(head.status).is_some()
    {
        if head.status == 401 {
            // The page asks for what the upstream asks for.
            let fields =
                head.fields.pairs(data).filter(|(name, _)| name.eq_ignore_ascii_case(b"www-authenticate"));
            for (_, value) in fields {
                request.keep(Id::WwwAuthenticate, Some(value));
            }
        }
        return Ok(Next::Reply(Reply::Status(head.status)));
    }
    Ok(Next::Body(response(request, answer, conf, length), length))
}

/// `X-Accel-Redirect`: the upstream names the location that answers.
fn internal_redirect(request: &Request, answer: &Answer, conf: &proxy::Conf) -> Option<Reply> {
    if conf.ignores_accel_redirect() {
        return None;
    }
    let data = answer.head.buffer.data();
    let target = answer.head.head.fields.value(data, Id::XAccelRedirect)?;
    if let Some(name) = target.strip_prefix(b"@") {
        let name = std::str::from_utf8(name).ok()?;
        let location = request.server.named(&format!("@{name}"))?;
        return Some(Reply::Named(&location.name));
    }
    let (path, args) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &b""[..]),
    };
    let mut uri = Vec::new();
    match crate::base::path::normalize_uri(path, true, &mut uri) {
        Ok(_) if uri.first() == Some(&b'/') => Some(Reply::Internal { uri, args: args.to_vec() }),
        _ => Some(Reply::Status(404)),
    }
}

fn response(
    request: &mut Request,
    answer: &Answer,
    conf: &'static proxy::Conf,
    length: BodyLength,
) -> Response {
    let (head, data) = (&answer.head.head, answer.head.buffer.data());
    let mut response = Response::new(head.status);
    let reason = data.get(head.reason.clone()).unwrap_or(b"");
    if reason != crate::http::response::reason(head.status).as_bytes() {
        response.reason = reason.to_vec();
    }
    // The usual values name no field.
    let nominated =
        head.fields.value(data, Id::Connection).filter(|list| !matches!(*list, b"keep-alive" | b"close"));
    response.headers.reserve(answer.head_length);
    for field in head.fields.iter() {
        let (name, value) = (field.name(data), field.value(data));
        let ends_here = match field.id {
            Some(
                Id::Connection
                | Id::KeepAlive
                | Id::TransferEncoding
                | Id::ProxyConnection
                | Id::ContentLength,
            ) => true,
            Some(Id::Upgrade) => head.status != 101,
            _ => nominated.is_some_and(|list| is_listed(list, name)),
        };
        if ends_here || conf.hides(field.id, name) {
            continue;
        }
        match rewritten(request, conf, field.id, value) {
            Some(value) => response.headers.push_with(field.id, name, &value),
            None => match field.line(data) {
                Some(line) => response.headers.push_line(field.id, line, name.len(), value.len()),
                None => response.headers.push_clean(field.id, name, value),
            },
        }
    }
    response.content_length = match length {
        BodyLength::Length(length) => Some(length),
        // the answer to HEAD and a 304 tell the length of a body that does not follow
        BodyLength::None => {
            head.fields.value(data, Id::ContentLength).and_then(crate::base::number::parse_u64)
        }
        BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    response
}

/// The new value of a `Location` or `Refresh` that `proxy_redirect` changes.
fn rewritten(
    request: &mut Request,
    conf: &'static proxy::Conf,
    id: Option<Id>,
    value: &[u8],
) -> Option<Vec<u8>> {
    let prefix = match id {
        Some(Id::Location) => 0,
        Some(Id::Refresh) => {
            let lower = value.to_ascii_lowercase();
            memchr::memmem::find(&lower, b"url=")? + b"url=".len()
        }
        _ => return None,
    };
    let url = &value[prefix..];
    let new = conf.redirects().iter().find_map(|rule| apply(request, rule, url))?;
    if prefix > 0 {
        return Some([&value[..prefix], &new].concat());
    }
    // a path of ours is made absolute, as for our own redirects
    let absolute = core::redirect(request, 302, &new);
    Some(absolute.headers.get(Id::Location).map_or(new, <[u8]>::to_vec))
}

fn apply(request: &mut Request, rule: &'static Redirect, url: &[u8]) -> Option<Vec<u8>> {
    match rule {
        Redirect::Off => None,
        Redirect::Default => {
            let target = request.location.proxy_pass.target()?;
            let with_slash;
            let (from, to) = match &target.uri {
                Some(_) => (&*target.url, &*request.location.name),
                None => {
                    with_slash = format!("{}/", target.url);
                    (&*with_slash, "/")
                }
            };
            let rest = url.strip_prefix(from.as_bytes())?;
            Some([to.as_bytes(), rest].concat())
        }
        Redirect::Prefix { from, to } => {
            let from = from.to_vec(request);
            let rest = url.strip_prefix(&*from)?;
            let mut new = to.to_vec(request);
            new.extend_from_slice(rest);
            Some(new)
        }
        Redirect::Regex { from, to } => {
            let groups = from.captures(url)?;
            core::store_regex_groups(request, from, url, &groups);
            Some(to.to_vec(request))
        }
    }
}
