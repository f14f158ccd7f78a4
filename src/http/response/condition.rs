//! Conditional requests: compares the client's copy with the current representation.
//!
//! Pure, apart from the request's fields. Source: RFC 9110 §13.1, and §13.2.2 for the precedence of
//! conditions, although nginx requires all of them to hold; nginx.org, ngx_http_not_modified_filter_module,
//! `if_modified_since`.

use crate::base::http_date;
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::verdict::Reply;
use crate::proto::header::Id;

/// The reply that replaces our own response with a body of this length if a condition of the request decides:
/// the head alone, or a refusal.
pub fn instead(request: &Request, response: &Response, length: usize) -> Option<Reply> {
    let is_shown = response.status == 200 && request.error_page.status.is_none_or(|status| status == 200);
    if !is_shown || request.is_subrequest() || !has_any(request) {
        return None;
    }
    let headers = &response.headers;
    let modified = headers.get(Id::LastModified).and_then(http_date::parse);
    match condition(request, modified, headers.get(Id::Etag).unwrap_or(b""))? {
        304 => {
            let mut response = response.clone();
            response.content_length = Some(length as u64);
            Some(not_modified(response))
        }
        status => Some(Reply::Status(status)),
    }
}

/// The status by which a condition of the request replaces the response that has been made.
pub fn of_response(request: &Request) -> Option<u16> {
    let headers = &request.response.headers;
    let modified = headers.get(Id::LastModified).and_then(http_date::parse);
    condition(request, modified, headers.get(Id::Etag).unwrap_or(b""))
}

/// The head of a response whose body the client has already.
pub fn not_modified(mut response: Response) -> Reply {
    response.status = 304;
    response.is_current = true;
    Reply::Response(Box::new(response), Body::Empty)
}

fn has_any(request: &Request) -> bool {
    [Id::IfUnmodifiedSince, Id::IfMatch, Id::IfModifiedSince, Id::IfNoneMatch]
        .iter()
        .any(|id| request.header(*id).is_some())
}

/// `Some(304)` or `Some(412)` if a condition of the request decides, for a representation with this time and
/// tag, which may be `None` and empty.
pub fn condition(request: &Request, modified: Option<i64>, etag: &[u8]) -> Option<u16> {
    if request.is_subrequest() || !has_any(request) {
        return None;
    }
    let core = &request.location.confs.http_core;
    let since = |id| request.header(id).and_then(http_date::parse).zip(modified);
    // A condition with an invalid date, or without anything to compare it with, is ignored.
    let is_refused = match request.header(Id::IfMatch) {
        Some(list) => !is_listed(list, etag, false),
        None => since(Id::IfUnmodifiedSince).is_some_and(|(date, modified)| modified > date),
    };
    if is_refused {
        return Some(412);
    }
    let is_read = request.method.is_get_or_head();
    let is_always_new = request.header(Id::IfModifiedSince).is_some() && core.is_always_modified();
    match request.header(Id::IfNoneMatch) {
        Some(list) if is_read => (is_listed(list, etag, true) && !is_always_new).then_some(304),
        Some(list) => is_listed(list, etag, true).then_some(412),
        None => {
            let is_current =
                since(Id::IfModifiedSince).is_some_and(|(date, modified)| core.is_current(modified, date));
            (is_read && is_current).then_some(304)
        }
    }
}

/// Adapts the tag of an upstream's 304 to the client's copy.
///
/// A 200 that was changed on its way went out with a weak tag. When the upstream now confirms its strong tag,
/// a cache that knows only the weak one would find nothing to refresh (RFC 9110 §15.4.5).
pub fn keep_weak(request: &Request, response: &mut Response) {
    let Some(tag) = response.headers.get(Id::Etag).filter(|tag| tag.starts_with(b"\"")) else { return };
    let weak = [b"W/", tag].concat();
    let names =
        |list: &[u8], tag: &[u8]| list.split(|byte| *byte == b',').any(|item| item.trim_ascii() == tag);
    if request.header(Id::IfNoneMatch).is_some_and(|list| names(list, &weak) && !names(list, tag)) {
        response.headers.set(Id::Etag, &weak);
    }
}

/// True if a list of tags contains this one; with `is_weak` a weak match counts.
fn is_listed(list: &[u8], etag: &[u8], is_weak: bool) -> bool {
    let opaque = |tag| -> &[u8] {
        match is_weak {
            true => <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag),
            false => tag,
        }
    };
    list == b"*"
        || !etag.is_empty()
            && list.split(|byte| *byte == b',').any(|item| opaque(item.trim_ascii()) == opaque(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_lists() {
        for (list, etag, is_weak, expected) in [
            ("*", "", false, true),
            ("* ", "\"a\"", false, false),
            ("\"a\"", "\"a\"", false, true),
            ("\"b\" , \"a\"", "\"a\"", false, true),
            ("\"ab\"", "\"a\"", false, false),
            ("W/\"a\"", "\"a\"", false, false),
            ("W/\"a\"", "\"a\"", true, true),
            ("\"a\"", "W/\"a\"", true, true),
            ("W/\"a\"", "W/\"a\"", false, true),
            ("", "", true, false),
            ("\"b\",", "", true, false),
        ] {
            assert_eq!(is_listed(list.as_bytes(), etag.as_bytes(), is_weak), expected, "{list} {etag}");
        }
    }
}
