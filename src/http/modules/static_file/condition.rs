//! Conditional requests: what the client has, and whether it is still what we have.
//!
//! Pure but for the request's fields. Behaviour: nginx.org, ngx_http_not_modified_filter_module: each condition that
//! is there must hold, also where RFC 9110 §13.2.2 would look at one only.

use crate::http::modules::ranges::parse_date;
use crate::http::pipeline::Reply;
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::proto::header::Id;

/// What stands instead of a response of our own where a condition of the request decides: nothing but its head, or
/// the refusal.
pub fn instead(request: &Request, response: &Response) -> Option<Reply> {
    let is_shown = response.status == 200 && request.error_status.is_none_or(|status| status == 200);
    if !is_shown || request.is_subrequest() || !has_any(request) {
        return None;
    }
    let headers = &response.headers;
    let modified = headers.get(Id::LastModified).and_then(parse_date);
    match condition(request, modified, headers.get(Id::Etag).unwrap_or(b""))? {
        304 => Some(not_modified(response.clone())),
        status => Some(Reply::Status(status)),
    }
}

/// The head alone of a response that the client has already.
pub fn not_modified(mut response: Response) -> Reply {
    response.status = 304;
    response.headers.remove(Id::ContentType);
    Reply::Response(Box::new(response), Body::Empty)
}

fn has_any(request: &Request) -> bool {
    [Id::IfUnmodifiedSince, Id::IfMatch, Id::IfModifiedSince, Id::IfNoneMatch]
        .iter()
        .any(|id| request.header(*id).is_some())
}

/// `Some(304)` or `Some(412)` when a condition of the request decides about something with this time and tag; `None`
/// and empty where it has none.
pub fn condition(request: &Request, modified: Option<i64>, etag: &[u8]) -> Option<u16> {
    if request.is_subrequest() || !has_any(request) {
        return None;
    }
    let is_changed = |value: &[u8]| match (modified, parse_date(value)) {
        (Some(modified), Some(date)) => modified > date,
        _ => true,
    };
    if request.header(Id::IfUnmodifiedSince).is_some_and(is_changed)
        || request.header(Id::IfMatch).is_some_and(|list| !is_listed(list, etag, false))
    {
        return Some(412);
    }
    let core = &request.location.core;
    let dated = request.header(Id::IfModifiedSince);
    let tagged = request.header(Id::IfNoneMatch);
    let is_current = (dated.is_some() || tagged.is_some())
        && dated.is_none_or(|value| {
            modified.zip(parse_date(value)).is_some_and(|(modified, date)| core.is_current(modified, date))
        })
        && tagged.is_none_or(|list| is_listed(list, etag, true));
    is_current.then_some(304)
}

/// Whether a list of tags has this one; `is_weak`: also as a weak one.
fn is_listed(list: &[u8], etag: &[u8], is_weak: bool) -> bool {
    let opaque = |tag| -> &[u8] {
        match is_weak {
            true => <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag),
            false => tag,
        }
    };
    list == b"*"
        || !etag.is_empty()
            && list
                .split(|byte| *byte == b',')
                .any(|item| opaque(item.trim_ascii()) == opaque(etag))
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
