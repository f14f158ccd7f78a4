//! Conditional requests: what the client has, and whether it is still what we have.
//!
//! Pure but for the request's fields. Behaviour: nginx.org, ngx_http_not_modified_filter_module: each condition that
//! is there must hold, also where RFC 9110 §13.2.2 would look at one only.

use crate::http::modules::ranges::parse_date;
use crate::http::request::Request;
use crate::proto::header::Id;

/// `Some(304)` or `Some(412)` when a condition of the request decides.
pub fn condition(request: &Request, modified: i64, etag: &[u8]) -> Option<u16> {
    let has_none = [Id::IfUnmodifiedSince, Id::IfMatch, Id::IfModifiedSince, Id::IfNoneMatch]
        .iter()
        .all(|id| request.header(*id).is_none());
    if has_none || request.is_subrequest() {
        return None;
    }
    let is_changed = |value: &[u8]| parse_date(value).is_none_or(|date| modified > date);
    if request.header(Id::IfUnmodifiedSince).is_some_and(is_changed)
        || request.header(Id::IfMatch).is_some_and(|list| !is_listed(list, etag, false))
    {
        return Some(412);
    }
    let core = &request.location.core;
    let dated = request.header(Id::IfModifiedSince);
    let tagged = request.header(Id::IfNoneMatch);
    let is_current = (dated.is_some() || tagged.is_some())
        && dated.is_none_or(|value| parse_date(value).is_some_and(|date| core.is_current(modified, date)))
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
