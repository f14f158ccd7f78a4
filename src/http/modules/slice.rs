//! Responses that are fetched in slices of a fixed size (`slice`, `$slice_range`).
//!
//! A body filter. Touches: nothing; each slice but the first is a subrequest that starts in the content phase
//! of the request's own location. Slices are fetched one after the other, until the client leaves.
//! Behaviour: nginx.org, ngx_http_slice_module. Ranges are also served if the body is changed on its way.

use std::io::Write;
use std::ops::Range;

use crate::base::number::parse_u64;
use crate::config::directive::size;
use crate::config::{Context, Setting, settings};
use crate::http::modules::ranges::{self, Cut, Single};
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::error::Error;
use crate::http::request::subrequest::Subrequest;
use crate::http::request::{Request, states};
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::response::{Response, condition};
use crate::http::scope::Variable;
use crate::log;
use crate::proto::header::Id;
use crate::script::variable::{Argument, variable};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        size: Setting<u64> = 0,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    size("slice", Context::ANY, |c| &mut c.size,
        "Requests a response in slices of this size. They are named by $slice_range: proxy_set_header Range $slice_range."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("slice_range", slice_range, "The range of the current slice, for the Range field: bytes=0-1048575."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.size.get() > 0
    }
}

/// How far the answer to a request has been fetched; a request's own, and given to the subrequest for its next slice.
pub type State = Option<Box<Progress>>;

impl states::State for State {}

/// The current slice, and what is known of the whole response.
#[derive(Debug)]
pub struct Progress {
    start: u64,
    size: u64,
    /// The ETag that all slices must have.
    etag: Option<Vec<u8>>,
    /// The range of the whole response that the client gets.
    wanted: Range<u64>,
    /// The current slice has arrived as requested.
    is_answered: bool,
}

/// `bytes=FIRST-LAST` of the current slice; initially the slice in which the client's range starts.
fn slice_range(request: &mut Request, _: &Argument, out: &mut Vec<u8>) -> bool {
    if request.states.slice.is_none() {
        let size = request.location.confs.slice.size.get();
        if size == 0 || request.is_subrequest() || request.response.status != 0 {
            return false;
        }
        let start = first_wanted(request) / size * size;
        let state = Progress { start, size, etag: None, wanted: 0..0, is_answered: false };
        request.states.slice = Some(Box::new(state));
    }
    let Some(Progress { start, size, .. }) = request.states.slice.as_deref() else { return false };
    write!(out, "bytes={start}-{}", start.saturating_add(size - 1)).is_ok()
}

/// The start of the client's range, as far as it is known before the size of the whole.
fn first_wanted(request: &Request) -> u64 {
    let Some(value) = ranges::asked(request).filter(|_| request.header(Id::IfRange).is_none()) else {
        return 0;
    };
    let Some((unit, range)) = value.split_at_checked(6) else { return 0 };
    if !unit.eq_ignore_ascii_case(b"bytes=") || range.contains(&b',') {
        return 0;
    }
    let range = range.trim_ascii_start();
    let digits = range.iter().take_while(|byte| byte.is_ascii_digit()).count();
    parse_u64(&range[..digits]).filter(|first| i64::try_from(*first).is_ok()).unwrap_or(0)
}

/// Turns the head of the first slice into that of the whole response, and checks that each slice is the
/// requested one.
pub fn head(request: &mut Request) {
    let Some(mut state) = request.states.slice.take() else { return };
    if request.response.status != 206 && !request.is_subrequest() {
        return; // not a range: the response is passed as it is
    }
    let (slice, whole) = match read(&request.response, &mut state) {
        Ok(read) => read,
        Err(why) => return refuse(request, state, &why),
    };
    if request.is_subrequest() {
        request.filters.get_or_insert_default().add(state.cut(&slice));
        (state.start, state.is_answered) = (slice.end, true);
        request.states.slice = Some(state);
        return;
    }
    let response = &mut request.response;
    response.status = 200;
    response.reason.clear();
    response.content_length = Some(whole);
    response.headers.remove(Id::ContentRange);
    response.headers.remove(Id::AcceptRanges);
    if response.is_conditional
        && let Some(status) = condition::of_response(request)
    {
        return decided(request, status);
    }
    state.wanted = match ranges::single(request, whole) {
        Single::Whole => 0..whole,
        Single::Part(range) => {
            request.response.status = 206;
            request.response.content_length = Some(range.end - range.start);
            let text = format!("bytes {}-{}/{whole}", range.start, range.end - 1);
            request.response.headers.push_id(Id::ContentRange, text.as_bytes());
            range
        }
        Single::Unsatisfiable => return ranges::refuse(request, whole, false),
    };
    let cut = state.cut(&slice);
    // the next slice: the following one, or the one where the client's range starts, which may be known only
    // now
    let first = state.wanted.start / state.size * state.size;
    state.start = if slice.start > first { first } else { slice.end.max(first) };
    let cut = if slice.start > first { Cut::new(0, 0) } else { cut };
    request.filters.get_or_insert_default().add(Slices { cut, state: Some(state) });
}

/// The range of bytes in a response, and the size of the whole. Errors: it is not the requested range.
fn read(response: &Response, state: &mut Progress) -> Result<(Range<u64>, u64), String> {
    if response.status != 206 {
        return Err(format!("unexpected status code {} in slice response", response.status));
    }
    let etag = response.headers.get(Id::Etag);
    if state.etag.is_some() && state.etag.as_deref() != etag {
        return Err("etag mismatch in slice response".into());
    }
    state.etag = etag.map(<[u8]>::to_vec);
    let range = response.headers.get(Id::ContentRange).and_then(content_range);
    let Some((slice, whole)) = range else { return Err("invalid range in slice response".into()) };
    let Some(whole) = whole else { return Err("no complete length in slice response".into()) };
    if slice.start != state.start || slice.end != state.start.saturating_add(state.size).min(whole) {
        return Err(format!("unexpected range in slice response: {}-{}", slice.start, slice.end));
    }
    Ok((slice, whole))
}

/// Parses `bytes FIRST-LAST/SIZE`; a size of `*` is unknown.
fn content_range(value: &[u8]) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = value.split_at_checked(6)?;
    let rest = rest.trim_ascii();
    let dash = memchr::memchr(b'-', rest)?;
    let slash = memchr::memchr(b'/', rest)?;
    let first = parse_u64(rest.get(..dash)?.trim_ascii())?;
    let last = parse_u64(rest.get(dash + 1..slash)?.trim_ascii())?;
    let size = match rest[slash + 1..].trim_ascii() {
        b"*" => None,
        digits => Some(parse_u64(digits)?),
    };
    let is_range = unit.eq_ignore_ascii_case(b"bytes ") && first <= last;
    is_range.then_some((first..last.checked_add(1)?, size))
}

/// A condition of the client's request has decided, now that the head is that of the whole: nothing of the body is sent.
fn decided(request: &mut Request, status: u16) {
    request.filters.get_or_insert_default().add(Cut::new(0, 0));
    if status == 304 {
        (request.response.status, request.response.is_current) = (304, true);
    } else {
        request.response = Response::new(status);
        request.response.content_length = Some(0);
    }
}

/// The whole response cannot be made. If nothing of it has been sent, the client gets an error status.
#[cold]
fn refuse(request: &mut Request, state: Box<Progress>, why: &str) {
    log::error!(request.error_log(), &*request, "{why}");
    request.filters.get_or_insert_default().add(Cut::new(0, 0));
    if request.is_subrequest() {
        request.states.slice = Some(state);
        return;
    }
    request.response = Response::new(502);
    request.response.content_length = Some(0);
}

impl Progress {
    /// The part of a slice that the client gets.
    fn cut(&self, slice: &Range<u64>) -> Cut {
        let first = self.wanted.start.clamp(slice.start, slice.end);
        let end = self.wanted.end.clamp(first, slice.end);
        Cut::new(first - slice.start, end - first)
    }
}

/// Passes the wanted part of the first slice, and requests the others after it.
#[derive(Debug)]
struct Slices {
    cut: Cut,
    /// `None` while a subrequest owns it.
    state: Option<Box<Progress>>,
}

impl BodyFilter for Slices {
    fn push(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        self.cut.push(request, data, signal, out)?;
        if signal != Signal::End {
            return Ok(Flow::Done);
        }
        let state = match self.state.take() {
            Some(state) => state,
            None => request
                .states
                .slice
                .take()
                .filter(|state| state.is_answered)
                .ok_or_else(|| missing(request))?,
        };
        if state.start >= state.wanted.end {
            self.state = Some(state);
            return Ok(Flow::Done);
        }
        request.states.slice = Some(Box::new(Progress { is_answered: false, ..*state }));
        let swap = |outer: &mut Request, inner: &mut Request| {
            std::mem::swap(&mut outer.states.slice, &mut inner.states.slice);
        };
        out.push(Piece::Subrequest(Subrequest::more(request, swap)));
        Ok(Flow::Wait)
    }
}

fn missing(request: &Request) -> Error {
    let why = "missing slice response";
    log::error!(request.error_log(), request, "{why}");
    Error::ours(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_part_is_read() {
        let read = |text: &str| content_range(text.as_bytes());
        assert_eq!(read("bytes 0-1/10"), Some((0..2, Some(10))));
        assert_eq!(read("Bytes  4 - 9 / 10 "), Some((4..10, Some(10))));
        assert_eq!(read("bytes 0-1/*"), Some((0..2, None)));
        let bad = [
            "",
            "bytes",
            "bytes ",
            "bytes 0-1",
            "bytes */10",
            "bytes 2-1/10",
            "items 0-1/2",
            "bytes /-",
            "bytes 0-/1",
            "bytes 0-18446744073709551615/1",
            "bytes 0/1-2",
        ];
        for text in bad {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
