//! From an upstream's response head to ours: which fields the client gets, and what happens to the body.
//!
//! Touches: nothing. RFC 9110 §7.6.1; nginx.org, `proxy_hide_header`, `proxy_pass_header`, `proxy_redirect`,
//! `proxy_intercept_errors`.

use std::rc::Rc;

use crate::base::number::parse_u64;
use crate::base::path::{climbs, normalize_uri};
use crate::http::modules::memcached;
use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::response::Response;
use crate::http::response::condition;
use crate::http::upstream::conf::Conf;
use crate::http::upstream::exchange::Answer;
use crate::http::upstream::failover;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::proxied::Head;
use crate::http::verdict::Reply;
use crate::log;
use crate::proto::header::{Field, Id};
use crate::proto::message::{BodyLength, Version};

/// Fields of a response with `X-Accel-Redirect` that are kept in the response it leads to (nginx's list).
const STAY_WITH_REDIRECT: &[&str] =
    &["Content-Type", "Set-Cookie", "Content-Disposition", "Cache-Control", "Expires", "Accept-Ranges"];

/// The continuation after a response head.
#[derive(Debug)]
pub enum Next {
    /// Another reply replaces the upstream's response: an error page, an internal redirect.
    Reply(Reply),
    /// 101: both sides may send at any time.
    Tunnel(Response),
    Body(Response),
}

/// Decides what to do with a response. `has_body`: the request's body is available for another target.
///
/// Errors: 502 for a body whose end is ambiguous.
pub fn begin(request: &mut Request, answer: &mut Answer, has_body: bool) -> Result<Next, Error> {
    let conf = request.passes();
    let (head, data) = (&answer.head.head, answer.head.buffer.data());
    request.proxied.set_head(answer.head.clone());
    if request.location.protocol == Protocol::Tunnel {
        request.keep_alive = false;
        return Ok(Next::Tunnel(Response::new(200)));
    }
    let begun = answer.carrier.decoder().begin_body(head, data, request.upstream_method());
    let length = begun.map_err(Error::upstream)?;
    let has_more = answer.carrier.decoder().may_add_trailers();
    if answer.head.head.status == 101 {
        return match request.header(Id::Upgrade) {
            Some(_) if request.is_subrequest() => Err(Error::upstream(Kind::SwitchInSubrequest)),
            Some(_) => Ok(Next::Tunnel(response(request, &answer.head, conf, (BodyLength::None, false)))),
            None => Err(Error::upstream(Kind::UnaskedSwitch)),
        };
    }
    if request.location.protocol == Protocol::Memcached {
        return Ok(value(request, answer, conf, length));
    }
    Ok(after_head(request, &answer.head, conf, (length, has_more), has_body))
}

/// The continuation after a stored response with a body of this length: as if its upstream had just sent it.
pub fn stored(request: &mut Request, head: &Rc<Head>, length: u64) -> Next {
    let conf = request.passes();
    request.proxied.set_head(Rc::clone(head));
    let length = match head.head.status {
        204 | 304 => BodyLength::None,
        _ => BodyLength::Length(length),
    };
    after_head(request, head, conf, (length, false), true)
}

fn after_head(
    request: &mut Request,
    answer: &Head,
    conf: &'static Conf,
    length: (BodyLength, bool),
    has_body: bool,
) -> Next {
    obey(request, answer, conf);
    if let Some(reply) = internal_redirect(request, answer, conf) {
        return Next::Reply(reply);
    }
    let (head, data) = (&answer.head, answer.buffer.data());
    if conf.intercept_errors()
        && head.status >= 300
        && request.location.confs.http_core.error_page(head.status).is_some()
        && (has_body || !wants_body(request, head.status))
    {
        if head.status == 401 {
            // The error page challenges the client like the upstream's response does.
            let fields =
                head.fields.pairs(data).filter(|(name, _)| name.eq_ignore_ascii_case(b"www-authenticate"));
            for (_, value) in fields {
                request.keep(Id::WwwAuthenticate, Some(value));
            }
        }
        return Next::Reply(Reply::Status(head.status));
    }
    Next::Body(response(request, answer, conf, length))
}

/// The continuation after a reply of memcached.
#[cold]
fn value(request: &mut Request, answer: &mut Answer, conf: &'static Conf, length: BodyLength) -> Next {
    if answer.head.head.status == 404 {
        memcached::tell_missing(request);
        return Next::Reply(Reply::Status(404));
    }
    let mut response = response(request, &answer.head, conf, (length, false));
    memcached::describe(request, &mut response, answer.carrier.decoder().flags());
    Next::Body(response)
}

/// True if the error page would be a named location that passes the request on with its body, which has been
/// sent and was not kept. The upstream's own response says more than an error would.
#[cold]
fn wants_body(request: &Request, status: u16) -> bool {
    let (server, location) = (request.server, request.location);
    let is_named = location.confs.http_core.error_page(status).is_some_and(|page| page.name.is_some());
    let wants = is_named && failover::error_page_is_proxied(server, location, Some(status));
    if wants {
        let why = "the request body is not kept (proxy_request_buffering)";
        log::warn!(request.error_log(), request, "no error page for {status}: {why}");
    }
    wants
}

/// `X-Accel-Buffering: yes` or `no`, unless it is ignored.
pub fn told_buffering(answer: &Head, conf: &Conf) -> Option<bool> {
    if conf.ignores(Id::XAccelBuffering) {
        return None;
    }
    let data = answer.buffer.data();
    let value = answer.head.fields.value(data, Id::XAccelBuffering)?;
    let is = |word: &[u8]| value.eq_ignore_ascii_case(word);
    is(b"yes").then_some(true).or(is(b"no").then_some(false))
}

/// Applies the fields that control the relay. Invalid values are ignored, as in nginx.
fn obey(request: &mut Request, answer: &Head, conf: &Conf) {
    let (fields, data) = (&answer.head.fields, answer.buffer.data());
    let value = |id| fields.value(data, id).filter(|_| !conf.ignores(id));
    request.proxied.buffering = told_buffering(answer, conf);
    if let Some(rate) = value(Id::XAccelLimitRate).and_then(parse_u64) {
        request.states.limit_rate.told = rate.into();
    }
    if let Some(charset) = value(Id::XAccelCharset).filter(|charset| !charset.is_empty())
        && !request.is_subrequest()
    {
        request.states.charset.tell(charset);
    }
}

/// `X-Accel-Redirect`: the upstream names the location that answers.
fn internal_redirect(request: &mut Request, answer: &Head, conf: &'static Conf) -> Option<Reply> {
    if conf.ignores(Id::XAccelRedirect) {
        return None;
    }
    let data = answer.buffer.data();
    let target = answer.head.fields.value(data, Id::XAccelRedirect)?;
    for field in answer.head.fields.iter() {
        let (name, value) = (field.name(data), field.value(data));
        let stays = STAY_WITH_REDIRECT.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if stays && !conf.hides(field.id, name) {
            let new = conf.rewritten(request, field.id, value, &mut None);
            request.keep_named(name, new.as_deref().unwrap_or(value));
        }
    }
    request.route.led_by = None;
    if let Some(name) = target.strip_prefix(b"@") {
        let name = String::from_utf8_lossy(name);
        let Some(location) = request.server.named(&format!("@{name}")) else {
            let name = log::Text(name.as_bytes());
            log::error!(request.error_log(), &*request, "could not find named location \"@{name}\"");
            return Some(Reply::Status(500));
        };
        return Some(Reply::Named(&location.name));
    }
    let (path, args) = match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &b""[..]),
    };
    let mut uri = Vec::new();
    match normalize_uri(path, true, &mut uri) {
        // nginx rejects `..` here; so do we
        Ok(_) if !climbs(path) && uri.first() == Some(&b'/') => {
            request.become_get();
            Some(Reply::Internal { uri, args: args.to_vec() })
        }
        _ => {
            let target = log::Text(target);
            log::error!(
                request.error_log(),
                &*request,
                "upstream sent X-Accel-Redirect to an impossible URI \"{target}\""
            );
            Some(Reply::Status(404))
        }
    }
}

/// `has_more`: trailers may follow even a body of known length.
fn response(
    request: &mut Request,
    answer: &Head,
    conf: &'static Conf,
    (length, has_more): (BodyLength, bool),
) -> Response {
    let (head, data) = (&answer.head, answer.buffer.data());
    if head.fields.has(Id::ContentType) {
        request.forget_kept_type();
    }
    let mut response = Response::new(head.status);
    let reason = data.get(head.reason.clone()).unwrap_or(b"");
    // HTTP/2 has no reasons: ours is as good
    if head.version != Version::Http2 && reason != crate::http::response::reason(head.status).as_bytes() {
        response.reason = reason.to_vec();
    }
    response.omits = conf.omits();
    response.headers.reserve(head.fields.last().map_or(0, Field::end));
    let mut seen = 0;
    for field in head.fields.iter() {
        if let Some(bit) = single(field.id) {
            if seen & bit != 0 {
                log_duplicate(request, field.name(data), field.value(data));
                continue;
            }
            seen |= bit;
        }
        let ends_here = match field.id {
            // an offer, or for a 426 a demand (RFC 9110 §15.5.22); HTTP/2 has no such field
            Some(Id::Upgrade) => request.has_streams(),
            Some(id) if id.is_own() => true,
            _ => head.connection.ends(field, data),
        };
        if ends_here || conf.hides(field.id, field.name(data)) {
            continue;
        }
        let changed = match field.id {
            Some(Id::Location | Id::Refresh | Id::SetCookie) => {
                conf.rewritten(request, field.id, field.value(data), &mut response.first)
            }
            _ => None,
        };
        match changed {
            Some(value) => response.headers.push_with(field.id, field.name(data), &value),
            None => response.headers.push_parsed(field, data),
        }
    }
    response.content_length = match length {
        BodyLength::Length(length) => Some(length),
        // the response to HEAD and a 304 declare the length of a body that does not follow
        BodyLength::None => head.fields.value(data, Id::ContentLength).and_then(parse_u64),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    // in HTTP/2 they may follow a body of known length too
    let may_follow = match length {
        BodyLength::Chunked => true,
        BodyLength::Length(_) => has_more && request.has_streams(),
        BodyLength::None | BodyLength::UntilClose => false,
    };
    response.has_trailers = may_follow && conf.pass_trailers();
    if head.status == 304 {
        condition::keep_weak(request, &mut response);
    }
    response
}

/// An index for fields that may occur only once; further ones are dropped, as in nginx.
fn single(id: Option<Id>) -> Option<u8> {
    Some(match id? {
        Id::ContentType => 1,
        Id::LastModified => 1 << 1,
        Id::Etag => 1 << 2,
        Id::Location => 1 << 3,
        Id::Refresh => 1 << 4,
        Id::Expires => 1 << 5,
        Id::AcceptRanges => 1 << 6,
        Id::ContentEncoding => 1 << 7,
        _ => return None,
    })
}

#[cold]
fn log_duplicate(request: &Request, name: &[u8], value: &[u8]) {
    let line = [name, b": ", value].concat();
    log::warn!(
        request.error_log(),
        request,
        "upstream sent duplicate header line: \"{}\", ignored",
        log::Text(&line)
    );
}
