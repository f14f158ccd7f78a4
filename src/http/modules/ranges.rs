//! Ranges of responses: `Range` and `If-Range`, for files and for upstreams that do not support ranges.
//!
//! Runs last on response heads: the ranges are those of the body as the other modules leave it. The sender of
//! a file is told its parts and sends only these (`static_file`); any other body is cut as it passes, to a
//! single part.
//! Behaviour: nginx.org, ngx_http_range_filter_module; RFC 9110 §14.

mod parts;
#[cfg(any(test, feature = "property"))]
pub mod property;

pub use parts::Parts;

use std::ops::Range;

use crate::base::http_date;
use crate::config::directive::number;
use crate::config::{Context, Inherit, settings};
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::error::Error;
use crate::http::request::{Request, states};
use crate::http::response::Body;
use crate::http::response::error_page;
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::response::headers::Headers;
use crate::http::scope::Variable;
use crate::proto::header::Id;
use crate::proto::message::Method;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        max: Inherit<u64>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    number("max_ranges", Context::ANY, (0, u64::MAX), |c: &mut Conf| &mut c.max,
        "Limits how many ranges of a request are served; 0 disables ranges. A request with more ranges, or with ranges that add up to more than the whole \
         response, gets the whole response.").default("no limit"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

/// The ranges that a request asks for, given the size of the whole.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Parts(Vec<Range<u64>>),
    /// None lies inside, or they are malformed.
    Unsatisfiable,
}

/// What becomes of the parts that are asked for of a file.
pub type State = Option<Box<Plan>>;

impl states::State for State {}

/// Messages between the sender of a file and [`head`].
#[derive(Debug)]
pub enum Plan {
    /// From the sender: it can send parts.
    Asked,
    /// To the sender: send these parts instead of the whole.
    Parts(Parts),
    /// To the sender: send this page instead of the file.
    Page(Body),
}

/// The heads of many small parts are larger than the parts themselves. More parts than this are not served if
/// the response would become longer than the whole.
const SMALL_PARTS_MAX: usize = 32;

/// The range to cut out of a response that arrives sequentially.
#[derive(Debug)]
pub enum Single {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

/// The request's `Range`. It applies only to GET (RFC 9110 §14.2): the response to HEAD is that for the
/// whole.
pub fn asked(request: &Request) -> Option<&[u8]> {
    request.header(Id::Range).filter(|_| request.method == Method::Get)
}

/// The single range that the request asks for, of a response of this size. The response is marked as
/// supporting ranges.
pub fn single(request: &mut Request, size: u64) -> Single {
    if request.location.confs.ranges.max.as_ref().copied().unwrap_or(u64::MAX) == 0 {
        return Single::Whole;
    }
    let wanted = match asked(request) {
        Some(value) if is_same(request) => parse(value, size, 1),
        _ => Wanted::Whole,
    };
    match wanted {
        Wanted::Parts(mut parts) if parts.len() == 1 => Single::Part(parts.remove(0)),
        Wanted::Unsatisfiable => Single::Unsatisfiable,
        Wanted::Whole | Wanted::Parts(_) => {
            accept(request);
            Single::Whole
        }
    }
}

/// Cuts the requested ranges out of a response that allows it.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.ranges;
    if request.passes().force_ranges() && request.proxied.head().is_some() {
        request.response.allows_ranges = true;
    }
    if request.response.allows_ranges && request.response.status == 200 && !request.is_subrequest() {
        let max = conf.max.as_ref().copied().unwrap_or(u64::MAX);
        cut(request, if request.response.has_single_range { max.min(1) } else { max });
    }
}

fn cut(request: &mut Request, max: u64) {
    let Some(size) = request.response.content_length else { return };
    if max == 0 || request.coding.is_some() {
        return;
    }
    // a body that filters convert without changing its length is cut after them
    let is_file = request.filters.is_none() && matches!(request.states.ranges.as_deref(), Some(Plan::Asked));
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let wanted = match asked(request) {
        Some(value) if is_same(request) => parse(value, size, max),
        _ => Wanted::Whole,
    };
    match wanted {
        Wanted::Whole => accept(request),
        Wanted::Unsatisfiable => refuse(request, size, is_file),
        // The parts of other bodies are cut out of them as they pass.
        Wanted::Parts(ranges) if !is_file && !ranges.is_sorted_by(|a, b| a.end <= b.start) => accept(request),
        Wanted::Parts(ranges) => {
            let kind = request.response.headers.get(Id::ContentType);
            let parts = Parts::new(ranges, size, kind.unwrap_or(b""));
            if parts.count() > SMALL_PARTS_MAX && parts.length() > size {
                return accept(request);
            }
            serve(request, parts, is_file);
        }
    }
}

fn accept(request: &mut Request) {
    request.states.ranges = None;
    request.response.headers.set(Id::AcceptRanges, b"bytes");
}

fn serve(request: &mut Request, parts: Parts, is_file: bool) {
    let response = &mut request.response;
    response.status = 206;
    response.reason.clear();
    response.content_length = Some(parts.length());
    response.headers.remove(Id::AcceptRanges);
    match parts.content_range() {
        Some(range) => response.headers.set(Id::ContentRange, range.as_bytes()),
        None => {
            response.headers.remove(Id::ContentRange); // an upstream's
            response.headers.set(Id::ContentType, parts.content_type().as_bytes());
        }
    }
    if is_file {
        request.states.ranges = Some(Box::new(Plan::Parts(parts)));
    } else {
        request.filters.get_or_insert_default().add(Cut { parts, next: 0, at: 0 });
    }
}

/// Turns the response into a 416 with its page.
pub fn refuse(request: &mut Request, size: u64, is_file: bool) {
    let page = error_page::standard_body(request, 416);
    let response = &mut request.response;
    response.status = 416;
    response.reason.clear();
    response.content_length = Some(page.as_bytes().len() as u64);
    for id in [Id::AcceptRanges, Id::LastModified, Id::Etag, Id::ContentType] {
        response.headers.remove(id);
    }
    response.headers.push_id(Id::ContentType, b"text/html");
    response.headers.set(Id::ContentRange, unsatisfied(size).as_bytes());
    if is_file {
        request.states.ranges = Some(Box::new(Plan::Page(page)));
    } else {
        request.filters.get_or_insert_default().add(Instead(page));
    }
}

/// `Content-Range` of a response that has none of the requested ranges.
pub fn unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

/// True if a file of this size, with the validators of this head, has none of the ranges that the request asks for.
pub fn is_refused(request: &Request, headers: &Headers, size: u64) -> bool {
    let Some(value) = asked(request) else { return false };
    request.location.confs.ranges.max.as_ref().copied().unwrap_or(u64::MAX) > 0
        && !request.is_subrequest()
        && is_validated(request, headers)
        && parse(value, size, usize::MAX) == Wanted::Unsatisfiable
}

/// True if the part that the client has, if any, comes from the same representation (`If-Range`).
fn is_same(request: &Request) -> bool {
    is_validated(request, &request.response.headers)
}

/// True if `If-Range` matches the validators of a head, or is missing.
fn is_validated(request: &Request, headers: &Headers) -> bool {
    match request.header(Id::IfRange) {
        None => true,
        // Weak tags never compare equal here (RFC 9110 §13.1.5).
        Some(value) if value.len() >= 2 && value.ends_with(b"\"") => {
            headers.get(Id::Etag) == Some(value) && !value.starts_with(b"W/")
        }
        Some(value) => {
            let modified = headers.get(Id::LastModified).and_then(http_date::parse);
            modified.is_some() && http_date::parse(value) == modified
        }
    }
}

/// Parses a `Range` as nginx does. With more than `max` ranges the whole is sent.
fn parse(value: &[u8], size: u64, max: usize) -> Wanted {
    let Some((unit, list)) = value.split_at_checked(6) else { return Wanted::Whole };
    if list.is_empty() || !unit.eq_ignore_ascii_case(b"bytes=") {
        return Wanted::Whole;
    }
    let mut ranges = Vec::new();
    let mut sum = 0_u64;
    for item in list.split(|byte| *byte == b',') {
        let Some(range) = parse_one(item, size) else { return Wanted::Unsatisfiable };
        if range.start >= range.end {
            if range.start == 0 {
                return Wanted::Whole; // no part of an empty body is all of it
            }
            continue;
        }
        sum = sum.saturating_add(range.end - range.start);
        if ranges.len() == max {
            return Wanted::Whole;
        }
        ranges.push(range);
    }
    match () {
        () if ranges.is_empty() => Wanted::Unsatisfiable,
        () if sum > size => Wanted::Whole,
        () => Wanted::Parts(ranges),
    }
}

/// Parses `first-last`, `first-` or `-suffix`, limited to the size. `None`: malformed.
fn parse_one(item: &[u8], size: u64) -> Option<Range<u64>> {
    let dash = memchr::memchr(b'-', item)?;
    let (first, last) = (trimmed(&item[..dash]), trimmed(&item[dash + 1..]));
    if first.is_empty() {
        let suffix = digits(last)?;
        // An empty suffix starts at the end.
        return Some(size.saturating_sub(suffix)..size);
    }
    let first = digits(first)?;
    if last.is_empty() {
        return Some(first..size);
    }
    let last = digits(last)?;
    Some(first..if last >= size { size } else { last + 1 })
}

fn trimmed(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| *byte == b' ';
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// Parses a number that fits a file's size.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

/// Passes the parts of a body.
#[derive(Debug)]
pub struct Cut {
    /// Ascending, none in another.
    parts: Parts,
    /// Index of the first one that is not complete.
    next: usize,
    /// Bytes of the body so far.
    at: u64,
}

impl Cut {
    /// Skips `skip` bytes, then passes `left` bytes.
    pub fn new(skip: u64, left: u64) -> Self {
        let range = skip..skip.saturating_add(left);
        Self { parts: Parts::new(Vec::from([range]), 0, b""), next: 0, at: 0 }
    }
}

impl BodyFilter for Cut {
    fn push(&mut self, _: &mut Request, data: &[u8], _: Signal, out: &mut Vec<Piece>) -> Result<Flow, Error> {
        let mut push =
            |bytes: Vec<u8>| out.extend(Some(bytes).filter(|bytes| !bytes.is_empty()).map(Piece::Bytes));
        let chunk = self.at..self.at + data.len() as u64;
        self.at = chunk.end;
        while let Some(range) = self.parts.ranges().get(self.next).filter(|range| range.start < chunk.end) {
            if chunk.contains(&range.start) {
                push(self.parts.head(self.next));
            }
            let inside = range.start.max(chunk.start)..range.end.min(chunk.end);
            push(data[(inside.start - chunk.start) as usize..(inside.end - chunk.start) as usize].to_vec());
            if range.end > chunk.end {
                break;
            }
            self.next += 1;
            if self.next == self.parts.count() {
                push(self.parts.tail());
            }
        }
        Ok(Flow::Done)
    }
}

/// Passes a page instead of the body.
#[derive(Debug)]
struct Instead(Body);

impl BodyFilter for Instead {
    fn push(
        &mut self,
        _: &mut Request,
        _: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        if signal == Signal::End {
            let Body::Bytes(page) = std::mem::replace(&mut self.0, Body::Empty) else {
                return Ok(Flow::Done);
            };
            out.push(Piece::Bytes(page.into_owned()));
        }
        Ok(Flow::Done)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use super::*;

    fn read(text: &str, size: u64) -> Wanted {
        parse(text.as_bytes(), size, 5)
    }

    #[test]
    fn ranges_are_read_as_nginx_reads_them() {
        for (text, size, expected) in [
            ("bytes=0-3", 10, &[0..4][..]),
            ("Bytes= 4 - ", 10, &[4..10]),
            ("bytes=-3", 10, &[7..10]),
            ("bytes=-30", 10, &[0..10]),
            ("bytes=5-500", 10, &[5..10]),
            ("bytes=1-2, 4 -5 ,-1", 10, &[1..3, 4..6, 9..10]),
            ("bytes=2-3,1-2", 10, &[2..4, 1..3]),
            ("bytes=0-1,20-30", 10, &[0..2]),
            ("bytes=9-1,0-0", 10, &[0..1]),
        ] {
            assert_eq!(read(text, size), Wanted::Parts(expected.to_vec()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_had_or_read_is_refused() {
        let too_many = format!("bytes=0-{}", u64::MAX);
        for text in [
            "bytes=10-",
            "bytes=-0",
            "bytes=3-2",
            "bytes=a-b",
            "bytes=-",
            "bytes=1",
            "bytes=,",
            "bytes=1-2,",
            "bytes=--1",
            "bytes=1-2-3",
            "bytes=1 2-3",
            "bytes=0x1-2",
            "bytes=+1-2",
            &too_many,
            "bytes=99999999999999999999999-",
            "bytes=\t1-2",
        ] {
            assert_eq!(read(text, 10), Wanted::Unsatisfiable, "{text}");
        }
        assert_eq!(read("bytes=-1", 0), Wanted::Whole, "all of nothing");
    }

    #[test]
    fn other_units_many_ranges_and_much_in_all_mean_the_whole() {
        for text in
            ["", "bytes", "bytes=", "items=0-1", "é=0-1xx", "bytes=0-0,1-1,2-2,3-3,4-4,5-5", "bytes=0-7,2-5"]
        {
            assert_eq!(read(text, 10), Wanted::Whole, "{text}");
        }
        assert_eq!(read("bytes=0-", 0), Wanted::Whole);
    }
}
