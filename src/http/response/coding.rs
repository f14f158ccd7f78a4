//! Content codings: selects gzip, br, zstd or none for a response.
//!
//! The rules that all codings share. Each coding has a module with its own settings, which calls this one
//! from its head step. Pure decisions over the request and the response's head. RFC 9110 §8.4, §12.5.3;
//! nginx.org, ngx_http_gzip_module, whose conditions for clients (`gzip_http_version`, `gzip_proxied`,
//! `gzip_disable`, `gzip_vary`) apply to every coding.

use std::fmt;
use std::pin::Pin;

use crate::base::http_date;
use crate::config::{Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::gzip::Proxied;
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::response::Response;
use crate::http::response::coded::{Coding, Report, Totals};
use crate::http::response::filter::Signal;

pub use crate::http::response::coded::Name;
use crate::http::response::media_types::MediaTypes;
use crate::log;
use crate::net::budget::{self, Part, Share};
use crate::proto::header::Id;
use crate::runtime;
use crate::runtime::blocking::{self, Lane};
use crate::sys::clock;

/// The types that are encoded by default.
const TYPES: &[&str] = &["text/html"];

settings! {
    /// The settings that every coding has: on or off, the types and the minimum length of responses.
    #[derive(Debug)]
    pub struct Offer {
        pub on: Setting<bool> = false,
        /// The shortest response that is worth encoding.
        pub length_min: Setting<u64> = 20,
        types: MediaTypes,
    }
}

impl Offer {
    pub fn add_types(&mut self, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
        self.types.add(node, &mut cx.diagnostics);
        Ok(())
    }

    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// True if responses like this one are encoded for clients that accept it.
    fn fits(&self, response: &Response) -> bool {
        self.is_on()
            && response.content_length.is_none_or(|length| length >= self.length_min.get())
            && self.types.has(response.headers.get(Id::ContentType), TYPES)
    }
}

/// An encoder, implemented by one of the libraries. It is `Send`, because long steps run on another thread.
pub trait Engine: fmt::Debug + Send {
    /// Encodes all of `data` and appends complete output. Errors: a message for the log.
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), String>;

    /// The best number of bytes for one push.
    fn step_bytes(&self) -> usize {
        STEP_BYTES
    }

    /// The microseconds that a push may take on input that is hard to encode, including earlier input if the
    /// push completes a block.
    fn work(&self, bytes: usize, signal: Signal) -> u32;
}

/// The usual number of bytes for one push.
pub const STEP_BYTES: usize = 16 * 1024;

/// The input that an encoder of whole blocks has collected.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    size: usize,
    held: usize,
    ns_per_byte: u32,
}

impl Block {
    pub fn new(size: usize, ns_per_byte: u32) -> Self {
        Self { size, held: 0, ns_per_byte }
    }

    /// [`Engine::work`] of such an encoder.
    pub fn work(&self, bytes: usize, signal: Signal) -> u32 {
        let gathered = self.held + bytes;
        let is_worked_on = gathered >= self.size || signal != Signal::More;
        work_of(bytes, COPY_NS) + if is_worked_on { work_of(gathered, self.ns_per_byte) } else { 0 }
    }

    /// Notes that this many bytes were pushed.
    pub fn push(&mut self, bytes: usize, signal: Signal) {
        self.held = if signal == Signal::More { (self.held + bytes) % self.size } else { 0 };
    }
}

/// Nanoseconds to copy a byte into a block.
const COPY_NS: u32 = 1;

/// The microseconds for this many bytes.
pub fn work_of(bytes: usize, ns_per_byte: u32) -> u32 {
    u32::try_from(bytes as u64 * u64::from(ns_per_byte) / 1000).unwrap_or(u32::MAX)
}

/// A candidate for encoding: the settings, and the memory that an encoder with them takes.
pub type Way<S> = (S, usize);

/// Puts a coding on the response if it is the chosen one.
///
/// Of three candidates, the best one and two that take less memory, it uses the first one that the worker can
/// afford: the best if half of the budget suffices, the last if all of it does. If even that is not
/// available, the response is sent unencoded.
pub fn apply<E: Engine + 'static, S: PartialEq + Copy>(
    request: &mut Request,
    name: Name,
    ways: impl FnOnce(&Request) -> [Way<S>; 3],
    engine: impl FnOnce(&Request, S) -> E,
) {
    if !is_chosen(request, name) {
        return;
    }
    if request.response.is_current {
        return request.response.body_changes(); // no body is sent that could be encoded
    }
    let Some((settings, share)) = draw(request, ways(request)) else { return };
    let engine = engine(request, settings);
    let report = Report::default();
    request.response.body_changes();
    request.response.headers.push_id(Id::ContentEncoding, name.token().as_bytes());
    request.coded = Some(report.clone());
    request.coding = Some(Box::new(Stream {
        engine: Some(engine),
        name,
        totals: Totals::default(),
        held: Vec::new(),
        is_flushed: true,
        report,
        _share: share,
    }));
}

fn draw<S: PartialEq + Copy>(request: &Request, ways: [Way<S>; 3]) -> Option<(S, Share)> {
    let (best, least) = (ways[0].0, ways[2]);
    let drawn = ways.into_iter().zip([Part::Half, Part::ThreeQuarters, Part::Whole]);
    let drawn =
        drawn.into_iter().find_map(|((settings, bytes), part)| Some((settings, budget::draw(bytes, part)?)));
    if drawn.as_ref().is_some_and(|(settings, _)| *settings == best) {
        return drawn;
    }
    if let Some(why) = budget::degrade(runtime::now_ms()) {
        log::warn!(request.error_log(), request, "responses are compressed less or not at all: {why}");
    }
    drawn.or_else(|| {
        // the client accepts only encoded responses
        let list = request.header(Id::AcceptEncoding).unwrap_or(b"");
        let forbids = items(list).any(|item| item.to_ascii_lowercase().starts_with(b"identity;"));
        (forbids && quality(list, "identity").is_none_or(|quality| quality == 0)).then(|| {
            let mut share = Share::default();
            share.add(least.1);
            (least.0, share)
        })
    })
}

/// True if the response to a client's own request gets this coding. Notes that the response depends on the
/// client.
fn is_chosen(request: &mut Request, name: Name) -> bool {
    let response = &request.response;
    let is_plain = response.headers.get(Id::ContentEncoding).is_none_or(<[u8]>::is_empty);
    if request.is_subrequest()
        || request.coding.is_some()
        || !matches!(response.represented_status(), 200 | 403 | 404)
        || !is_plain
        || !offer(request, name).fits(response)
    {
        return false;
    }
    vary(request);
    best(request) == Some(name)
}

fn offer(request: &Request, name: Name) -> &'static Offer {
    match name {
        Name::Zstd => &request.location.confs.zstd.offer,
        Name::Brotli => &request.location.confs.brotli.offer,
        Name::Gzip => &request.location.confs.gzip.offer,
    }
}

/// The client's preferred coding among those that are allowed.
fn best(request: &Request) -> Option<Name> {
    let fitting = Name::ALL.into_iter().filter(|name| offer(request, *name).fits(&request.response));
    let liked = fitting.map(|name| (liking(request, name), name)).filter(|(liking, _)| *liking > 0);
    // `max_by_key` returns the last of equals, so the most preferred comes last
    liked.rev().max_by_key(|(liking, _)| *liking).map(|(_, name)| name)
}

/// Announces once, if `gzip_vary` is on, that the response depends on what the client accepts.
pub fn vary(request: &mut Request) {
    if !request.location.confs.gzip.vary() || request.is_subrequest() {
        return;
    }
    let headers = &mut request.response.headers;
    let says = |item: &[u8]| item == b"*" || item.eq_ignore_ascii_case(b"accept-encoding");
    let is_said = headers.all(b"Vary").any(|value| items(value).any(says));
    if !is_said {
        headers.push_first(Id::Vary, b"Accept-Encoding");
    }
}

/// The client's preference for a coding, in thousandths; 0: it does not accept it, or must not get it.
pub fn liking(request: &Request, name: Name) -> u16 {
    let (fields, data) = (&request.head.fields, request.input.data());
    if !fields.has(Id::AcceptEncoding) || request.is_subrequest() || !is_allowed(request) {
        return 0;
    }
    // several fields form one list (RFC 9110 §5.3)
    let mut lines = fields.values(data, Id::AcceptEncoding);
    lines.find_map(|list| quality(list, name.token())).unwrap_or(0)
}

/// True if the configuration allows encoding for this client: it excludes old versions, proxies, and
/// defective clients.
fn is_allowed(request: &Request) -> bool {
    let conf = &request.location.confs.gzip;
    request.head.version >= conf.http_version()
        && (request.header(Id::Via).is_none() || is_allowed_for_proxies(request, conf.proxied()))
        && !conf.disables(request.header(Id::UserAgent))
}

/// `gzip_proxied`, in nginx's order: the first field about caching decides.
fn is_allowed_for_proxies(request: &Request, proxied: Proxied) -> bool {
    let headers = &request.response.headers;
    if proxied.has(Proxied::OFF) {
        return false;
    }
    if proxied.has(Proxied::ANY) {
        return true;
    }
    if request.header(Id::Authorization).is_some() && proxied.has(Proxied::AUTH) {
        return true;
    }
    if let Some(expires) = headers.get(Id::Expires) {
        let now = match headers.get(Id::Date) {
            Some(date) => http_date::parse(date),
            None => Some(clock::wall_seconds()),
        };
        return proxied.has(Proxied::EXPIRED)
            && http_date::parse(expires).zip(now).is_some_and(|(expires, now)| expires < now);
    }
    if headers.get(Id::CacheControl).is_some() {
        let says = |word: &[u8]| {
            let is_it = |item: &[u8]| {
                item.split(|byte| *byte == b'=').next().unwrap_or(b"").trim_ascii().eq_ignore_ascii_case(word)
            };
            headers.all(b"Cache-Control").any(|value| items(value).any(is_it))
        };
        return proxied.has(Proxied::NO_CACHE) && says(b"no-cache")
            || proxied.has(Proxied::NO_STORE) && says(b"no-store")
            || proxied.has(Proxied::PRIVATE) && says(b"private");
    }
    !(proxied.has(Proxied::NO_LAST_MODIFIED) && headers.get(Id::LastModified).is_some()
        || proxied.has(Proxied::NO_ETAG) && headers.get(Id::Etag).is_some())
}

fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The weight of a coding in `Accept-Encoding`, in thousandths; 0: refused; `None`: not listed. Follows
/// nginx: the first item that starts with the token decides, and `*` is ignored.
fn quality(list: &[u8], token: &str) -> Option<u16> {
    let token = token.as_bytes();
    let begins_item = |at: usize| at == 0 || matches!(list[at - 1], b',' | b' ');
    let is_token = |at: usize| {
        list.get(at..at + token.len()).is_some_and(|text| text.eq_ignore_ascii_case(token)) && begins_item(at)
    };
    let at = (0..list.len()).find(|at| is_token(*at))?;
    let rest = list[at + token.len()..].split(|byte| *byte == b',').next().unwrap_or(b"").trim_ascii();
    let Some(parameter) = rest.strip_prefix(b";") else {
        return Some(if rest.is_empty() { 1000 } else { 0 });
    };
    Some(match parameter.trim_ascii() {
        [] => 1000,
        [b'q' | b'Q', b'=', value @ ..] => thousandths(value).unwrap_or(0),
        _ => 0,
    })
}

/// Parses `0`, `0.5`, `1.000`: one digit and up to three decimals; anything after a space is ignored.
fn thousandths(value: &[u8]) -> Option<u16> {
    let value = value.split(|byte| *byte == b' ').next()?;
    let (whole, fraction) = match value {
        [whole @ (b'0' | b'1')] => (whole, &b""[..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut sum = u16::from(whole - b'0') * 1000;
    for (digit, unit) in fraction.iter().zip([100, 10, 1]) {
        sum += char::from(*digit).to_digit(10)? as u16 * unit;
    }
    (sum <= 1000).then_some(sum)
}

/// Output of this size is sent at once; less waits for more, for a pause or for the end.
const BYTES_MIN: usize = 4096;

/// An encoder at work on one response.
#[derive(Debug)]
struct Stream<E: Engine> {
    /// `None` while another thread works with it.
    engine: Option<E>,
    name: Name,
    totals: Totals,
    /// Output that is too short to send yet.
    held: Vec<u8>,
    /// All input so far has been output.
    is_flushed: bool,
    report: Report,
    /// The memory of the engine, returned together with it.
    _share: Share,
}

impl<E: Engine> Stream<E> {
    /// True for a pause without new input: each flush adds bytes, so a second one is skipped.
    fn is_idle(&self, data: &[u8], signal: Signal) -> bool {
        data.is_empty() && (signal == Signal::More || signal == Signal::Flush && self.is_flushed)
    }

    /// Accounts for a push of `given` bytes, whose output is what `out` has after `start`, including
    /// `held_bytes` of an earlier push.
    fn pushed(&mut self, given: usize, signal: Signal, out: &mut Vec<u8>, start: usize, held_bytes: usize) {
        self.is_flushed = signal == Signal::Flush;
        self.totals.given += given as u64;
        self.totals.made += (out.len() - start - held_bytes) as u64;
        if signal == Signal::More && out.len() - start < BYTES_MIN {
            self.held = out.split_off(start);
        }
        if signal == Signal::End {
            self.report.set(Some((self.name, self.totals)));
        }
    }
}

impl<E: Engine + 'static> Coding for Stream<E> {
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.is_idle(data, signal) {
            return Ok(());
        }
        let (start, held_bytes) = (out.len(), self.held.len());
        out.append(&mut self.held);
        let engine = self.engine.as_mut().ok_or_else(lost)?;
        engine.push(data, signal, out).map_err(Error::ours)?;
        self.pushed(data.len(), signal, out, start, held_bytes);
        Ok(())
    }

    fn step_bytes(&self) -> usize {
        self.engine.as_ref().map_or(STEP_BYTES, Engine::step_bytes)
    }

    fn work(&self, bytes: usize, signal: Signal) -> u32 {
        self.engine.as_ref().map_or(0, |engine| engine.work(bytes, signal))
    }

    fn push_elsewhere<'a>(
        &'a mut self,
        data: &'a [u8],
        signal: Signal,
        out: &'a mut Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>> {
        Box::pin(async move {
            if self.is_idle(data, signal) {
                return Ok(());
            }
            let (start, held_bytes) = (out.len(), self.held.len());
            out.append(&mut self.held);
            let mut engine = self.engine.take().ok_or_else(lost)?;
            let (given, mut made) = (data.to_vec(), std::mem::take(out));
            let pushing = blocking::run(Lane::Codings, move || {
                let outcome = engine.push(&given, signal, &mut made);
                (engine, made, outcome)
            });
            let (engine, made, outcome) = pushing.await;
            (self.engine, *out) = (Some(engine), made);
            outcome.map_err(Error::ours)?;
            self.pushed(data.len(), signal, out, start, held_bytes);
            Ok(())
        })
    }
}

/// The engine went to another thread and was not awaited.
fn lost() -> Error {
    Error::ours("the encoder was given up")
}

/// Appends a coding's `$…_ratio`, input divided by output, with two decimals; false: the response does not
/// have this coding.
pub fn ratio(request: &Request, name: Name, out: &mut Vec<u8>) -> bool {
    let report = request.coded.as_ref().and_then(|report| report.get());
    let Some((_, Totals { given, made })) = report.filter(|(of, totals)| *of == name && totals.made > 0)
    else {
        return false;
    };
    let hundredths = (given * 1000 / made + 5) / 10;
    out.extend_from_slice(format!("{}.{:02}", hundredths / 100, hundredths % 100).as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_item_of_the_name_decides() {
        let cases: &[(&str, u16)] = &[
            ("", 0),
            ("gzip", 1000),
            ("GZip", 1000),
            ("deflate, gzip", 1000),
            ("deflate,gzip ,br", 1000),
            ("xgzip", 0),
            ("gzipx", 0),
            ("x-gzip", 0),
            ("*", 0),
            ("gzip;", 1000),
            ("gzip ; q=0.5", 500),
            ("gzip;Q=0.001", 1),
            ("gzip;q=0", 0),
            ("gzip;q=0.", 0),
            ("gzip;q=0.000", 0),
            ("gzip;q=1.000, br", 1000),
            ("gzip;q=1.001", 0),
            ("gzip;q=0.0001", 0),
            ("gzip;q=2", 0),
            ("gzip;q=", 0),
            ("gzip;q", 0),
            ("gzip;x=1", 0),
            ("gzip;q=0.5 x", 500),
            ("gzip;q=0, gzip", 0),
            ("gzip gzip", 0),
            ("br;q=0.9, gzip;q=0.8", 800),
        ];
        for (list, expected) in cases {
            assert_eq!(quality(list.as_bytes(), "gzip").unwrap_or(0), *expected, "{list:?}");
        }
    }

    #[test]
    fn no_list_is_too_odd() {
        for length in 0..5 {
            for number in 0..7_usize.pow(length) {
                let digit = |at| b"gzip;q="[number / 7_usize.pow(at) % 7];
                let list: Vec<u8> = (0..length).map(digit).collect();
                let bounded = |token| quality(&list, token).is_none_or(|quality| quality <= 1000);
                assert!(bounded("gzip") && bounded("g"));
            }
        }
    }
}
