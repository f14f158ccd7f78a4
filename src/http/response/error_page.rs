//! What a client gets to see when a request fails: `error_page`, else a short page of our own.
//!
//! Behaviour: nginx.org, ngx_http_core_module, `error_page`, `recursive_error_pages`.

use std::borrow::Cow;

use crate::http::modules::core::ErrorPage;
use crate::http::request::Request;
use crate::http::response::redirect;
use crate::http::response::{Body, Response, reason};
use crate::http::verdict::Reply;
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
    if request.is_error_page {
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
    request.led_by = Some(page.target.span());
    let shown = page.status.unwrap_or(if is_bad_request(status) { 400 } else { status });
    request.response.status = shown; // for the variables of the target
    let mut target = page.target.to_vec(request);
    request.error_status = (shown > 0).then_some(shown); // `=`: the page's own status is the answer's
    if target.first() == Some(&b'@') {
        return match &page.name {
            Some(name) => Reply::Named(name),
            None => named(request, &target),
        };
    }
    if target.first() != Some(&b'/') {
        let status =
            page.status.filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308)).unwrap_or(302);
        let response = redirect::response(request, status, &target);
        let (response, body) = of_redirect(request, status, response);
        return Reply::Response(Box::new(response), body);
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

/// The location whose name, with its `@`, was made of variables.
pub fn named(request: &mut Request, name: &[u8]) -> Reply {
    let found = std::str::from_utf8(name).ok().and_then(|name| request.server.named(name));
    match found {
        Some(location) => Reply::Named(&location.name),
        None => {
            let name = crate::log::Text(name);
            crate::log::error!(request.error_log(), &*request, "could not find named location \"{name}\"");
            reply(request, 500)
        }
    }
}

/// A redirect with its page; for Internet Explorer a page that leads on, where `msie_refresh` says so.
pub fn of_redirect(request: &mut Request, status: u16, response: Response) -> (Response, Body) {
    if matches!(status, 301 | 302)
        && request.location.core.msie_refresh()
        && is_msie(request)
        && let Some(target) = response.headers.get(Id::Location)
    {
        let mut page = b"<html><head><meta http-equiv=\"Refresh\" content=\"0; URL=".to_vec();
        for &byte in target {
            match byte {
                0..=b' ' | b'"' | b'\'' | b'<' | b'>' | 0x7f.. => {
                    page.extend_from_slice(format!("%{byte:02X}").as_bytes());
                }
                _ => page.push(byte),
            }
        }
        page.extend_from_slice(b"\"></head><body></body></html>\r\n");
        request.error_status = Some(200);
        return (Response::with_type(200, b"text/html"), Body::Bytes(Cow::Owned(page)));
    }
    request.error_status = Some(status);
    (response, standard_body(request, status))
}

/// Internet Explorer by its name, and nobody who only takes it on.
fn is_msie(request: &Request) -> bool {
    let has = |name: &[u8], part: &str| memchr::memmem::find(name, part.as_bytes());
    request.header(Id::UserAgent).is_some_and(|name| {
        has(name, "MSIE ").is_some_and(|at| at + 7 < name.len()) && has(name, "Opera").is_none()
    })
}

/// Browsers that show a short error page of their own instead of a short one of ours.
fn wants_padding(request: &Request, status: u16) -> bool {
    status >= 400
        && request.location.core.msie_padding()
        && (is_msie(request)
            || request
                .header(Id::UserAgent)
                .is_some_and(|name| memchr::memmem::find(name, b"Chrome/").is_some()))
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
    let (title, headline, detail) = wording(status, reason);
    let mut page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{headline}</h1></center>\r\n"
    );
    if let Some(detail) = detail {
        page.push_str(&format!("<center>{detail}</center>\r\n"));
    }
    page.push_str(&format!("<hr><center>{name}</center>\r\n</body>\r\n</html>\r\n"));
    if wants_padding(request, status) {
        page.push_str(&"<!-- longer than what a browser hides behind a page of its own -->\r\n".repeat(6));
    }
    Body::Bytes(Cow::Owned(page.into_bytes()))
}

/// Title, headline, and what stands below it.
fn wording(status: u16, reason: &str) -> (String, String, Option<&'static str>) {
    let detail = match status {
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
