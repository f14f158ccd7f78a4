//! The response to a client when a request fails: `error_page`, otherwise a short standard page.
//!
//! Behaviour: nginx.org, ngx_http_core_module, `error_page`, `recursive_error_pages`.

use std::borrow::Cow;

use crate::http::modules::http_core::ErrorPage;
use crate::http::request::Request;
use crate::http::response::redirect;
use crate::http::response::{Body, Response, reason};
use crate::http::verdict::Reply;
use crate::proto::header::Id;

/// The reply for a status: the location's `error_page` for it, otherwise the standard page.
pub fn reply(request: &mut Request, status: u16) -> Reply {
    if closes(status) {
        request.keep_alive = false;
    }
    instead(request, status).unwrap_or_else(|| last_resort(request, status))
}

/// The location's `error_page` for a status. It does not apply to a request for an error page, unless
/// `recursive_error_pages` is on.
pub fn instead(request: &mut Request, status: u16) -> Option<Reply> {
    if request.error_page.is_last {
        return None;
    }
    let core = &request.location.confs.http_core;
    let page = core.error_page(status)?;
    request.error_page.is_last = !core.recursive_error_pages();
    Some(page_reply(request, status, page))
}

/// The standard page, regardless of `error_page`.
pub fn last_resort(request: &mut Request, status: u16) -> Reply {
    let shown = if is_bad_request(status) { 400 } else { status };
    // An error page that fails shows its own failure.
    request.error_page.status = Some(shown);
    let body = standard_body(request, status);
    let mut response = Response::new(shown);
    if !body.as_bytes().is_empty() {
        response.headers.push_id(Id::ContentType, b"text/html");
    }
    Reply::Response(Box::new(response), body)
}

fn page_reply(request: &mut Request, status: u16, page: &'static ErrorPage) -> Reply {
    request.route.led_by = Some(page.target.span());
    let shown = page.status.unwrap_or(if is_bad_request(status) { 400 } else { status });
    request.response.status = shown; // the variables of the target see it
    let mut target = page.target.to_vec(request);
    request.error_page.status = (shown > 0).then_some(shown); // `=`: the page's own status is the answer's
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
    request.become_get();
    let args = match memchr::memchr(b'?', &target) {
        Some(at) => {
            let args = target[at + 1..].to_vec();
            target.truncate(at);
            args
        }
        None => Vec::new(), // as in nginx, the page's own arguments, not those of the failed request
    };
    Reply::Internal { uri: target, args }
}

/// Moves to the location whose name, including its `@`, came from variables.
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

/// A redirect with its page; with `msie_refresh`, Internet Explorer gets a page that refreshes instead.
pub fn of_redirect(request: &mut Request, status: u16, response: Response) -> (Response, Body) {
    if matches!(status, 301 | 302)
        && request.location.confs.http_core.msie_refresh()
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
        request.error_page.status = Some(200);
        return (Response::with_type(200, b"text/html"), Body::Bytes(Cow::Owned(page)));
    }
    request.error_page.status = Some(status);
    (response, standard_body(request, status))
}

/// Internet Explorer, but not a browser that merely claims its name.
fn is_msie(request: &Request) -> bool {
    let has = |name: &[u8], part: &str| memchr::memmem::find(name, part.as_bytes());
    request.header(Id::UserAgent).is_some_and(|name| {
        has(name, "MSIE ").is_some_and(|at| at + 7 < name.len()) && has(name, "Opera").is_none()
    })
}

/// True for browsers that replace a short error page with one of their own.
fn wants_padding(request: &Request, status: u16) -> bool {
    status >= 400
        && request.location.confs.http_core.msie_padding()
        && (is_msie(request)
            || request
                .header(Id::UserAgent)
                .is_some_and(|name| memchr::memmem::find(name, b"Chrome/").is_some()))
}

/// nginx's page for a status; empty for statuses that have none.
pub fn standard_body(request: &Request, status: u16) -> Body {
    let reason = reason(if is_bad_request(status) { 400 } else { status });
    if !matches!(status, 301..=303 | 307 | 308 | 400..=599) || reason.is_empty() {
        return Body::Empty;
    }
    let name = if request.location.confs.http_core.server_tokens() {
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

/// The title, the headline, and the text below it.
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
    // nginx's pages use other words for these two than its status lines.
    let reason = match status {
        302 => "Found",
        401 => "Authorization Required",
        _ => reason,
    };
    let title = format!("{status} {reason}");
    (title.clone(), title, None)
}

/// nginx's internal statuses for requests that are answered with 400.
fn is_bad_request(status: u16) -> bool {
    (494..=497).contains(&status)
}

/// The statuses after which nginx closes the connection.
fn closes(status: u16) -> bool {
    matches!(status, 400 | 413 | 414 | 494..=497 | 500 | 501)
}

#[cfg(test)]
mod tests;
