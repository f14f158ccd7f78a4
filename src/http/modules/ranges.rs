//! Parts of answers: `Range` and `If-Range`, for files and for upstreams that know no ranges.
//!
//! One range is served; several, or one that cannot be read, are answered with the whole (RFC 9110 §14.2 leaves
//! that to the server). Behaviour: RFC 9110 §14; nginx.org, `max_ranges`, `proxy_force_ranges`.

use std::time::UNIX_EPOCH;

use crate::config::directive::{flag, number};
use crate::config::{Context, Inherit, Merge};
use crate::http::error::Error;
use crate::http::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::variable::Variable;
use crate::proto::header::Id;

#[derive(Debug, Default)]
pub struct Conf {
    max: Inherit<u64>,
    force: Inherit<bool>,
}

pub static DIRECTIVES: &[Directive<Conf>] = &[
    number("max_ranges", Context::ANY, (0, u64::MAX), |c| &mut c.max, "Ranges of a request that are served, 0: none. Several are answered with the whole; not limited."),
    flag("proxy_force_ranges", Context::ANY, |c| &mut c.force, "Serves ranges of upstreams' answers, whatever they say of ranges themselves; off."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.max.merge(&outer.max);
        self.force.merge(&outer.force);
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.force.get(false)
    }
}

impl Conf {
    /// Ranges are served at all.
    pub fn are_served(&self) -> bool {
        self.max.get(u64::MAX) > 0
    }
}

/// A part of a body that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// First and last byte.
    Bytes(u64, u64),
    /// It lies outside.
    Unsatisfiable,
}

/// What a request asks for of something that has so many bytes, a time of change and a tag.
pub fn wanted(request: &Request, size: u64, modified: Option<i64>, etag: Option<&[u8]>) -> Part {
    let Some(value) = request.header(Id::Range) else { return Part::Whole };
    if !request.location.ranges.are_served() {
        return Part::Whole;
    }
    if let Some(value) = request.header(Id::IfRange) {
        let is_same = match value.starts_with(b"\"") {
            true => etag == Some(value),
            false => parse_date(value).is_some_and(|date| modified == Some(date)),
        };
        if !is_same {
            return Part::Whole;
        }
    }
    parse(value, size).unwrap_or(Part::Whole)
}

/// `None`: several ranges, or none that can be read.
fn parse(value: &[u8], size: u64) -> Option<Part> {
    let text = std::str::from_utf8(value.get(6..)?).ok()?.trim();
    if !value[..6].eq_ignore_ascii_case(b"bytes=") || text.contains(',') {
        return None;
    }
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let suffix: u64 = last.parse().ok()?;
        let is_empty = suffix == 0 || size == 0;
        return Some(match is_empty {
            true => Part::Unsatisfiable,
            false => Part::Bytes(size.saturating_sub(suffix), size - 1),
        });
    }
    let first: u64 = first.parse().ok()?;
    let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    if last < first {
        return None;
    }
    Some(if first >= size { Part::Unsatisfiable } else { Part::Bytes(first, last.min(size - 1)) })
}

/// Seconds since 1970 of a date in a header field.
pub fn parse_date(value: &[u8]) -> Option<i64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Cuts the part that was asked for out of an upstream's answer.
pub fn head(request: &mut Request) {
    let is_forced = request.location.ranges.force.get(false);
    if !is_forced || request.is_subrequest() || request.upstream.head().is_none() {
        return;
    }
    let response = &request.response;
    let (Some(size), 200, None) = (response.content_length, response.status, &request.filters) else { return };
    let modified = response.headers.get(Id::LastModified).and_then(parse_date);
    let part = wanted(request, size, modified, response.headers.get(Id::Etag));
    let response = &mut request.response;
    let range = match part {
        Part::Whole => {
            response.headers.remove(Id::AcceptRanges);
            response.headers.push_id(Id::AcceptRanges, b"bytes");
            return;
        }
        Part::Bytes(first, last) => {
            response.status = 206;
            response.content_length = Some(last - first + 1);
            request.filters.get_or_insert_default().add(Cut { skip: first, left: last - first + 1 });
            format!("bytes {first}-{last}/{size}")
        }
        Part::Unsatisfiable => {
            response.status = 416;
            response.content_length = Some(0);
            request.filters.get_or_insert_default().add(Cut { skip: 0, left: 0 });
            format!("bytes */{size}")
        }
    };
    response.reason.clear();
    response.headers.remove(Id::AcceptRanges);
    response.headers.push_id(Id::ContentRange, range.as_bytes());
}

/// Passes a part of a body.
#[derive(Debug)]
struct Cut {
    skip: u64,
    left: u64,
}

impl BodyFilter for Cut {
    fn push(
        &mut self,
        _: &mut Request,
        data: &[u8],
        _: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        let skip = self.skip.min(data.len() as u64);
        self.skip -= skip;
        let data = &data[skip as usize..];
        let count = self.left.min(data.len() as u64);
        self.left -= count;
        if count > 0 {
            out.push(Piece::Bytes(data[..count as usize].to_vec()));
        }
        Ok(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read() {
        let read = |text: &str, size| parse(text.as_bytes(), size);
        assert_eq!(read("bytes=0-3", 10), Some(Part::Bytes(0, 3)));
        assert_eq!(read("Bytes= 4 - ", 10), Some(Part::Bytes(4, 9)));
        assert_eq!(read("bytes=-3", 10), Some(Part::Bytes(7, 9)));
        assert_eq!(read("bytes=-30", 10), Some(Part::Bytes(0, 9)));
        assert_eq!(read("bytes=5-500", 10), Some(Part::Bytes(5, 9)));
        assert_eq!(read("bytes=10-", 10), Some(Part::Unsatisfiable));
        assert_eq!(read("bytes=-0", 10), Some(Part::Unsatisfiable));
        assert_eq!(read("bytes=-1", 0), Some(Part::Unsatisfiable));
        for bad in ["", "bytes=", "bytes=3-2", "bytes=a-b", "bytes=1-2,4-5", "items=0-1", "bytes=-", "é=0-1xx"] {
            assert_eq!(read(bad, 10), None, "{bad}");
        }
    }
}
