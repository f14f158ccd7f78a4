//! What a client gets to see when a request fails: `error_page`, else a short page of our own.
//!
//! Behaviour: nginx.org, ngx_http_core_module, `error_page`, `recursive_error_pages`.

use std::borrow::Cow;

use crate::http::modules::core::{self, ErrorPage};
use crate::http::pipeline::Reply;
use crate::http::request::Request;
use crate::http::response::{Body, Response, reason};
use crate::proto::header::Id;
use crate::proto::message::Method;

/// The answer for a status: the location's `error_page` for it, else the standard page.
pub fn reply(request: &mut Request, status: u16) -> Reply {
    if closes(status) {
        request.keep_alive = false;
    }
    instead(request, status).unwrap_or_else(|| last_resort(request, status))
}

/// The location's `error_page` for a status. An error page has none itself unless `recursive_error_pages` says so.
pub fn instead(request: &mut Request, status: u16) -> Option<Reply> {
    if request.is_error_page || request.malformed {
        return None;
    }
    let core = &request.location.core;
    let page = core.error_page(status)?;
    request.is_error_page = !core.recursive_error_pages();
    Some(page_reply(request, status, page))
}

/// The standard page, whatever `error_page` says.
pub fn last_resort(request: &mut Request, status: u16) -> Reply {
    let shown = if is_bad_request(status) { 400 } else { status };
    // An error page that fails itself shows its own failure.
    request.error_status = Some(shown);
    let body = standard_body(request, status);
    let mut response = Response::new(shown);
    if !body.as_bytes().is_empty() {
        response.headers.push_id(Id::ContentType, b"text/html");
    }
    Reply::Response(Box::new(response), body)
}

fn page_reply(request: &mut Request, status: u16, page: &'static ErrorPage) -> Reply {
    let shown = page.status.unwrap_or(status);
    request.response.status = shown; // for the variables of the target
    let mut target = page.target.to_vec(request);
    request.error_status = (shown > 0).then_some(shown); // `=`: the page's own status is the answer's
    if target.first() == Some(&b'@') {
        return match page.name {
            Some(ref name) => Reply::Named(name),
            None => last_resort(request, status),
        };
    }
    if target.first() != Some(&b'/') {
        let status =
            page.status.filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308)).unwrap_or(302);
        request.error_status = Some(status);
        let response = core::redirect(request, status, &target);
        return Reply::Response(Box::new(response), standard_body(request, status));
    }
    if request.method != Method::Head {
        request.method = Method::Get;
    }
    let args = match memchr::memchr(b'?', &target) {
        Some(at) => {
            let args = target[at + 1..].to_vec();
            target.truncate(at);
            args
        }
        None => Vec::new(), // the page's own, as nginx: not those of the request that failed
    };
    Reply::Internal { uri: target, args }
}

/// The page for a status, as nginx words it; empty for statuses that have none.
pub fn standard_body(request: &Request, status: u16) -> Body {
    let reason = reason(if is_bad_request(status) { 400 } else { status });
    if !matches!(status, 301..=303 | 307 | 308 | 400..=599) || reason.is_empty() {
        return Body::Empty;
    }
    let name = if request.location.core.server_tokens() {
        concat!("pronghorn/", env!("CARGO_PKG_VERSION"))
    } else {
        "pronghorn"
    };
    let (title, headline, detail) = wording(request, status, reason);
    let mut page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{headline}</h1></center>\r\n"
    );
    if let Some(detail) = detail {
        page.push_str(&format!("<center>{detail}</center>\r\n"));
    }
    page.push_str(&format!("<hr><center>{name}</center>\r\n</body>\r\n</html>\r\n"));
    Body::Bytes(Cow::Owned(page.into_bytes()))
}

/// Title, headline, and what stands below it.
fn wording(request: &Request, status: u16, reason: &str) -> (String, String, Option<&'static str>) {
    let detail = match status {
        400 if request.head_too_large => Some("Request Header Or Cookie Too Large"),
        494 => Some("Request Header Or Cookie Too Large"),
        495 => Some("The SSL certificate error"),
        496 => Some("No required SSL certificate was sent"),
        497 => Some("The plain HTTP request was sent to HTTPS port"),
        _ => None,
    };
    if let Some(detail) = detail {
        return (format!("400 {detail}"), "400 Bad Request".into(), Some(detail));
    }
    // nginx's pages call these two by other names than its status lines.
    let reason = match status {
        302 => "Found",
        401 => "Authorization Required",
        _ => reason,
    };
    let title = format!("{status} {reason}");
    (title.clone(), title, None)
}

/// nginx's own statuses for requests that the client sees refused with 400.
fn is_bad_request(status: u16) -> bool {
    (494..=497).contains(&status)
}

/// Statuses after which nginx closes the connection.
fn closes(status: u16) -> bool {
    matches!(status, 400 | 413 | 414 | 494..=497 | 500 | 501)
}

/// The log of a request, for rooms that do not know the core module.
pub fn log(request: &Request) -> crate::log::Logger {
    core::error_log(request)
}
