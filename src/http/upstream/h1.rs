//! HTTP/1.0 and HTTP/1.1 to upstreams: the only file of `upstream/` that knows their syntax.
//!
//! Touches: only the request whose head is encoded. RFC 9112 §3, §6, §7.1, §9.3; RFC 9110 §7.6.1 (hop-by-hop
//! fields). Bounded: a head by `proxy_buffer_size`, chunk extensions and trailers by the decoder of chunks.

use std::ops::Range;

use crate::http::config::location::Location;
use crate::http::modules::proxy::Conf;
use crate::http::modules::proxy_pass::Target;
use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::scope::Script;
use crate::http::upstream::cache::state::Fetch;
use crate::http::upstream::codec::{FRAME_HEAD_BYTES, Framing, Pieces, Progress};
use crate::http::upstream::outgoing;
use crate::http::upstream::target::Goal;
use crate::log;
use crate::proto::field_text::{Lines, Text, Token};
use crate::proto::h1::chunked;
use crate::proto::h1::encode::{self, Head};
use crate::proto::h1::length;
use crate::proto::h1::request::Progress as Parsed;
use crate::proto::h1::response::{self, Seen};
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::{BodyLength, Method, Version};

/// See [`super::codec::Encoder`].
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    is_http11: bool,
}

impl Encoder {
    pub fn of(location: &Location) -> Self {
        Self { is_http11: location.confs.proxy.version() == Version::Http11 }
    }

    /// HTTP/1.0 has no chunks.
    pub fn has_frames(self) -> bool {
        self.is_http11
    }

    /// Errors: 500 if `proxy_method` evaluates to an invalid method.
    pub fn head(
        self,
        request: &mut Request,
        goal: &Goal,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let conf: &'static Conf = &request.location.confs.proxy;
        let configured = configured_method(request, conf.method())?;
        let method = token(request, configured.as_deref());
        let (mut head, target) =
            Head::request(method, self.is_http11, out, |out| outgoing::write_target(request, goal, out));
        request.proxied.uri = other_uri(&head.as_bytes()[target], request.target());
        self.host(request, conf, goal, &mut head);
        for (label, value) in conf.lines() {
            head.written(label, |out| value.evaluate(request, out));
        }
        if !self.is_http11 && !conf.sets_connection() {
            head.constant("Connection: close\r\n");
        }
        match framing {
            Framing::None => {}
            Framing::Length(length) => head.number(Id::ContentLength, length),
            Framing::Framed => head.constant("Transfer-Encoding: chunked\r\n"),
        }
        if conf.upstream.pass_request_headers() {
            write_fields(request, conf, &mut head);
        }
        for (id, value) in request.fetch().into_iter().flat_map(Fetch::validators) {
            if !conf.sent().sets(id) {
                head.written_id(id, |out| out.extend_from_slice(value));
            }
        }
        head.end();
        Ok(())
    }

    fn host(self, request: &mut Request, conf: &'static Conf, goal: &Goal, head: &mut Head<'_>) {
        if let (None, Some(line)) = (conf.host(), goal.host_line()) {
            return head.lines(&line.0);
        }
        head.written_id(Id::Host, |out| {
            let start = out.len();
            if let Some(host) = conf.host() {
                host.evaluate(request, out);
            }
            if out.len() == start && (conf.host().is_none() || self.is_http11) {
                goal.write_host(out);
            }
        });
    }
}

/// The value of `proxy_method`, if that is set. Errors: 500 for one that is no method.
fn configured_method(request: &mut Request, script: Option<&Script>) -> Result<Option<Vec<u8>>, Error> {
    let Some(value) = script.map(|script| script.to_vec(request)) else { return Ok(None) };
    if Token::new(&value).is_some() { Ok(Some(value)) } else { Err(no_method(&value)) }
}

fn token<'a>(request: &'a Request, configured: Option<&'a [u8]>) -> Token<'a> {
    match configured.and_then(Token::new) {
        Some(token) => token,
        None if request.is_malformed() => Token::GET, // what its error page is asked for with
        None if request.upstream_method() != request.method => Token::GET, // for the cache
        None => request.method_token(),
    }
}

/// Calls `act` with the method of a request to an upstream. Errors: 500 if `proxy_method` evaluates to an invalid one.
pub fn with_method(
    request: &mut Request,
    script: Option<&Script>,
    act: impl FnOnce(&[u8]),
) -> Result<(), Error> {
    let configured = configured_method(request, script)?;
    act(token(request, configured.as_deref()).as_bytes());
    Ok(())
}

/// The target for the error log, if it is not the client's: then the request itself has it.
pub fn other_uri(sent: &[u8], received: &[u8]) -> Option<Box<[u8]>> {
    (sent != received).then(|| sent.into())
}

#[cold]
fn no_method(value: &[u8]) -> Error {
    Error::ours(format!("\"proxy_method\" has become \"{}\", which is no method", log::Text(value)))
}

/// The `Host` line of a `proxy_pass` without variables, made while the configuration is read.
#[derive(Clone, Debug)]
pub struct HostLine(Lines);

impl HostLine {
    pub fn of(target: &Target) -> Self {
        let (mut line, mut host) = (Lines::default(), Vec::new());
        target.write_host(&mut host);
        line.push(Id::Host.into(), &Text::clean(&host));
        Self(line)
    }
}

/// Writes the client's own fields, except hop-by-hop ones.
fn write_fields(request: &Request, conf: &Conf, head: &mut Head<'_>) {
    let data = request.input.data();
    let (fields, connection) = (&request.head.fields, &request.head.connection);
    let replaced = conf.sent().replaced(request.fetch().is_some());
    for field in fields.iter() {
        let name = field.name(data);
        if replaced.contains(field.id, name) {
            continue;
        }
        // A field in which a proxy in front names its client is passed on even if the client lists it in
        // `Connection`.
        if connection.ends(field, data) && !request.location.confs.realip.reads(name) {
            continue;
        }
        head.parsed(field, data);
    }
}

/// Chunks may have any length; no more than this is collected for one.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// One chunk.
pub fn frame(payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    encode::chunk_head(payload.len() as u64, out);
    let start = out.len();
    out.extend_from_slice(payload);
    let end = out.len();
    out.extend_from_slice(b"\r\n");
    start..end
}

/// Makes a chunk of a payload that is already in place.
pub fn seal(bytes: &mut Vec<u8>) -> usize {
    let mut head = Vec::with_capacity(FRAME_HEAD_BYTES);
    encode::chunk_head(bytes.len().saturating_sub(FRAME_HEAD_BYTES) as u64, &mut head);
    let start = FRAME_HEAD_BYTES.saturating_sub(head.len());
    bytes[start..FRAME_HEAD_BYTES].copy_from_slice(&head);
    bytes.extend_from_slice(b"\r\n");
    start
}

/// The last chunk.
pub fn finish(out: &mut Vec<u8>) {
    encode::last_chunk(out);
}

/// Trailer lines for another HTTP/1.1 message; `keeps` receives their names.
pub fn pass_trailers(lines: &[u8], keeps: impl FnMut(&[u8]) -> bool, out: &mut Lines) {
    chunked::Decoder::pass_trailers(lines, keeps, out);
}

/// See [`super::codec::Decoder`].
#[derive(Debug)]
pub struct Decoder {
    seen: Seen,
    body: Body,
    /// Both sides keep the connection open after this response.
    keeps: bool,
    is_http11: bool,
}

/// The rest of a response.
///
/// ```text
/// Head ─┬─(Content-Length)──→ Length ──(last byte)──→ Done
///       ├─(chunked)─────────→ Chunked ─(last chunk)─→ Done
///       ├─(neither)─────────→ UntilClose ─(end)─────→ Closed
///       └─(HEAD, 1xx, 204, 304, no bytes)───────────→ Done
/// ```
#[derive(Debug)]
enum Body {
    Head,
    Length(u64),
    Chunked(Box<chunked::Decoder>),
    UntilClose,
    Done,
    /// The end of the connection was the end of the body.
    Closed,
}

impl Decoder {
    #[inline]
    pub fn new(encoder: Encoder) -> Self {
        Self { seen: Seen::default(), body: Body::Head, keeps: false, is_http11: encoder.is_http11 }
    }

    #[inline]
    pub fn head(&mut self, data: &[u8], bytes_max: usize, head: &mut ResponseHead) -> Result<Progress, Kind> {
        match response::parse_more(data, bytes_max, head, &mut self.seen) {
            Ok(Parsed::Partial) => Ok(Progress::Partial),
            Ok(Parsed::Complete(length)) if is_interim(head.status) => {
                self.seen = Seen::default();
                Ok(Progress::Interim(length))
            }
            Ok(Parsed::Complete(length)) => Ok(Progress::Complete(length)),
            Err(error) if error.is_too_large() => Err(Kind::HeadTooBig),
            Err(error) => Err(Kind::BadHead(error.as_str())),
        }
    }

    #[inline]
    pub fn begin_body(
        &mut self,
        head: &ResponseHead,
        data: &[u8],
        method: Method,
    ) -> Result<BodyLength, Kind> {
        let length = length::response(head, data, method).map_err(|error| Kind::BadHead(error.as_str()))?;
        self.keeps = self.is_http11 && head.keep_alive();
        self.body = match length {
            BodyLength::None | BodyLength::Length(0) => Body::Done,
            BodyLength::Length(left) => Body::Length(left),
            BodyLength::Chunked => Body::Chunked(Box::default()),
            BodyLength::UntilClose => Body::UntilClose,
        };
        Ok(length)
    }

    #[inline]
    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces, trailers: &mut Vec<u8>) -> Result<usize, Kind> {
        pieces.clear();
        match &mut self.body {
            Body::Head | Body::Done | Body::Closed => Ok(0),
            Body::UntilClose => {
                pieces.push(0..data.len());
                Ok(data.len())
            }
            Body::Length(left) => {
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                pieces.push(0..count);
                self.moved(count as u64);
                Ok(count)
            }
            Body::Chunked(_) => self.chunks(data, pieces, trailers),
        }
    }

    fn chunks(&mut self, data: &[u8], pieces: &mut Pieces, trailers: &mut Vec<u8>) -> Result<usize, Kind> {
        let Body::Chunked(decoder) = &mut self.body else { return Ok(0) };
        let mut at = 0;
        loop {
            let step = decoder.decode(&data[at..]).map_err(|error| Kind::BadChunks(error.as_str()))?;
            if let Some(piece) = step.data {
                pieces.push(at + piece.start..at + piece.end);
            }
            at += step.consumed;
            if step.done {
                trailers.extend_from_slice(decoder.trailers());
                self.body = Body::Done;
                return Ok(at);
            }
            if at == data.len() || step.consumed == 0 {
                return Ok(at);
            }
        }
    }

    #[inline]
    pub fn is_done(&self) -> bool {
        matches!(self.body, Body::Done | Body::Closed)
    }

    pub fn is_framed(&self) -> bool {
        matches!(self.body, Body::Chunked(_))
    }

    pub fn raw_left(&self) -> Option<u64> {
        match self.body {
            Body::Length(left) => Some(left),
            _ => None,
        }
    }

    pub fn moved(&mut self, count: u64) {
        if let Body::Length(left) = &mut self.body {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.body = Body::Done;
            }
        }
    }

    pub fn closed(&mut self) -> Result<(), Kind> {
        match self.body {
            Body::Done | Body::Closed => Ok(()),
            Body::UntilClose => {
                self.body = Body::Closed;
                Ok(())
            }
            Body::Head | Body::Length(_) | Body::Chunked(_) => Err(Kind::Cut),
        }
    }

    #[inline]
    pub fn may_keep(&self) -> bool {
        self.keeps && matches!(self.body, Body::Done)
    }
}

/// 101 is final: another protocol follows it.
fn is_interim(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of a response.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Read {
        interim: Vec<u16>,
        status: u16,
        body: Vec<u8>,
        trailers: Vec<u8>,
        /// Bytes after the response.
        rest: Vec<u8>,
        is_done: bool,
        keeps: bool,
    }

    /// Feeds the response as the relay does: unused bytes come again, before the next part.
    fn read(parts: &[&[u8]], method: Method, encoder: Encoder) -> Result<Read, String> {
        read_within(4096, parts, method, encoder)
    }

    fn read_within(max: usize, parts: &[&[u8]], method: Method, encoder: Encoder) -> Result<Read, String> {
        let mut decoder = Decoder::new(encoder);
        let (mut data, mut head, mut has_head) = (Vec::new(), ResponseHead::default(), false);
        let (mut out, mut pieces) = (Read::default(), Pieces::new());
        for part in parts {
            data.extend_from_slice(part);
            while !has_head && !data.is_empty() {
                match decoder.head(&data, max, &mut head).map_err(told)? {
                    Progress::Partial => break,
                    Progress::Interim(length) => {
                        out.interim.push(head.status);
                        head.clear();
                        data.drain(..length);
                    }
                    Progress::Complete(length) => {
                        decoder.begin_body(&head, &data, method).map_err(told)?;
                        out.status = head.status;
                        data.drain(..length);
                        has_head = true;
                    }
                }
            }
            if has_head {
                let used = decoder.body(&data, &mut pieces, &mut out.trailers).map_err(told)?;
                pieces.iter().for_each(|piece| out.body.extend_from_slice(&data[piece.clone()]));
                data.drain(..used);
            }
        }
        (out.rest, out.is_done, out.keeps) = (data, decoder.is_done(), decoder.may_keep());
        Ok(out)
    }

    fn told(kind: Kind) -> String {
        Error::upstream(kind).to_string()
    }

    const HTTP11: Encoder = Encoder { is_http11: true };
    const HTTP10: Encoder = Encoder { is_http11: false };

    #[test]
    fn reads_an_answer_at_every_cut() {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-A: 1\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ];
        for answer in answers {
            let bytes = [answer.as_bytes(), b"NEXT"].concat();
            let whole = read(&[&bytes], Method::Get, HTTP11).unwrap();
            assert!(whole.is_done && whole.keeps && whole.rest == b"NEXT", "{answer}: {whole:?}");
            assert_eq!(whole.body, if whole.status == 204 { &b""[..] } else { b"hello" }, "{answer}");
            for cut in 1..answer.len() {
                let two = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, HTTP11).unwrap();
                assert_eq!(two, whole, "{answer} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single, Method::Get, HTTP11).unwrap(), whole, "{answer} byte by byte");
        }
    }

    #[test]
    fn keeps_interim_heads_and_trailers_apart() {
        let read = |text: &str| read(&[text.as_bytes()], Method::Get, HTTP11).unwrap();
        let hints =
            read("HTTP/1.1 103 X\r\n\r\nHTTP/1.1 102 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((hints.interim, hints.status), (vec![103, 102], 200));
        let trailers = read(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
        );
        assert_eq!(trailers.trailers, b"X-A: 1\r\nX-B: 2\r\n");
        let switched = read("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nraw");
        assert_eq!((switched.status, &*switched.rest, switched.is_done), (101, &b"raw"[..], true));
    }

    #[test]
    fn a_connection_is_kept_only_after_an_answer_that_says_where_it_ends() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Method::Get, HTTP11, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Method::Get, HTTP10, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Method::Get, HTTP11, false),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
                Method::Get,
                HTTP11,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                Method::Get,
                HTTP11,
                false,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Method::Head, HTTP11, true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", Method::Get, HTTP11, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Method::Get, HTTP11, false),
            ("HTTP/1.1 200 OK\r\n\r\nok", Method::Get, HTTP11, false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Method::Get, HTTP11, false),
        ];
        for (answer, method, encoder, keeps) in cases {
            assert_eq!(read(&[answer.as_bytes()], method, encoder).unwrap().keeps, keeps, "{answer}");
        }
    }

    #[test]
    fn refuses_hostile_answers_at_every_cut() {
        let cases = [
            ("HTTP/2 200 OK\r\n\r\n", "upstream sent invalid status line"),
            ("ICY 200 OK\r\n\r\n", "upstream sent invalid status line"),
            ("HTTP/1.1 200 OK\r\nA b\r\n\r\n", "upstream sent invalid header name"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "upstream sent a header folded over several lines"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "upstream sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "upstream sent duplicate \"Content-Length\" header",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                "upstream sent invalid \"Content-Length\" header",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "upstream sent unknown \"Transfer-Encoding\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                "upstream sent invalid chunked response (invalid chunk)",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
                "upstream sent invalid chunked response (too large chunk)",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokNO",
                "upstream sent invalid chunked response (invalid chunk)",
            ),
        ];
        for (answer, expected) in cases {
            let bytes = answer.as_bytes();
            for cut in 0..bytes.len() {
                let found = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, HTTP11);
                assert_eq!(found.unwrap_err(), expected, "{answer} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_head_is_bounded_however_it_comes() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200));
        let bytes = long.as_bytes();
        assert!(read_within(bytes.len(), &[bytes], Method::Get, HTTP11).is_ok());
        for max in [16, 64, bytes.len() - 1] {
            let parts: Vec<&[u8]> = bytes.chunks(1).collect();
            for parts in [&[bytes][..], &parts] {
                let found = read_within(max, parts, Method::Get, HTTP11);
                assert_eq!(found.unwrap_err(), "upstream sent too big header", "{max}");
            }
        }
    }

    #[test]
    fn the_end_of_the_connection_ends_a_body_without_a_length_and_cuts_any_other() {
        let after = |answer: &str| {
            let (mut decoder, mut head) = (Decoder::new(HTTP11), ResponseHead::default());
            let Ok(Progress::Complete(length)) = decoder.head(answer.as_bytes(), 4096, &mut head) else {
                return decoder.closed().is_ok();
            };
            decoder.begin_body(&head, answer.as_bytes(), Method::Get).unwrap();
            decoder.body(&answer.as_bytes()[length..], &mut Pieces::new(), &mut Vec::new()).unwrap();
            let outcome = decoder.closed();
            assert!(outcome.is_ok() == decoder.is_done());
            outcome.is_ok()
        };
        assert!(after("HTTP/1.1 200 OK\r\n\r\nsome"));
        assert!(after("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsome"));
        assert!(!after("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsome"));
        assert!(!after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n"));
        assert!(!after("HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn raw_bytes_may_pass_by() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
        let (mut decoder, mut head) = (Decoder::new(HTTP11), ResponseHead::default());
        decoder.head(answer, 4096, &mut head).unwrap();
        assert_eq!(decoder.raw_left(), None, "not before the body has begun");
        decoder.begin_body(&head, answer, Method::Get).unwrap();
        decoder.body(&[b'x'; 10], &mut Pieces::new(), &mut Vec::new()).unwrap();
        assert_eq!(decoder.raw_left(), Some(90));
        decoder.moved(80);
        assert_eq!((decoder.raw_left(), decoder.may_keep()), (Some(10), false));
        decoder.moved(u64::MAX); // a count larger than the rest does no harm
        assert!(decoder.is_done() && decoder.may_keep() && decoder.raw_left().is_none());
    }

    #[test]
    fn chunks_of_a_request_are_what_a_decoder_reads() {
        let mut out = Vec::new();
        let place = frame(b"hello", &mut out);
        assert_eq!(&out[place], b"hello");
        for payload in [&b"x"[..], &[b'y'; 300], &[b'z'; 65536]] {
            let mut bytes = vec![b'0'; FRAME_HEAD_BYTES];
            bytes.extend_from_slice(payload);
            let start = seal(&mut bytes);
            out.extend_from_slice(&bytes[start..]);
        }
        finish(&mut out);
        let answer = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &*out].concat();
        let read = read(&[&answer], Method::Get, HTTP11).unwrap();
        assert_eq!(read.body.len(), 5 + 1 + 300 + 65536);
        assert!(read.is_done && read.rest.is_empty() && read.body.starts_with(b"helloxyyy"));
    }
}
