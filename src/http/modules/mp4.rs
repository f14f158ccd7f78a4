//! Parts of MP4 files, and the rate at which they are sent: the settings of `mp4` (`pseudo_streaming`).
//!
//! Touches: the file, on the blocking pool: its index is read and written anew there, while its samples are sent like those
//! of any other file. A request with a part holds the new index in memory until it is sent.
//! Behaviour: nginx.org, ngx_http_mp4_module. Tracks whose samples all have the same size begin at their sample, too.

use std::io;
use std::ops::Range;

use crate::config::directive::{custom, flag, millis, size};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::open_file_cache::Entry;
use crate::http::modules::{BlockConf, Directive, static_file};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::response::file::{Content, Source, part};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Then, Verdict, Work};
use crate::log;
use crate::net::budget::{self, Part::Whole};
use crate::proto::mp4::{self, HEADER_BYTES_MAX, Length, Outline, Wish};
use crate::proto::uri;
use crate::runtime;
use crate::sys::file;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        buffer_bytes: Setting<u64> = 512 * 1024,
        buffer_bytes_max: Setting<u64> = 10 * 1024 * 1024,
        starts_on_key_frame: Setting<bool> = false,
        rate: Setting<Rate> = Rate::Unlimited,
        rate_after_ms: Setting<u64> = 60_000,
    }
}

/// The rate of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    Unlimited,
    /// Thousandths of the film's average rate.
    OfAverage(u64),
}

/// `mp4_limit_rate on`
const USUAL_RATE: Rate = Rate::OfAverage(1100);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    size("mp4_buffer_size", Context::ANY, |c: &mut Conf| &mut c.buffer_bytes,
        "Permits indexes of MP4 files of this size, if it is more than mp4_max_buffer_size.").default("512k"),
    size("mp4_max_buffer_size", Context::ANY, |c: &mut Conf| &mut c.buffer_bytes_max,
        "Limits the index (moov) of an MP4 file. Requests for parts of files with larger ones get 500. Each request for a part takes that much memory, of \
         worker_memory_budget, until it is sent.").default("10m"),
    flag("mp4_start_key_frame", Context::ANY, |c: &mut Conf| &mut c.starts_on_key_frame,
        "Lets the video of a part begin with a key frame: earlier samples are sent too, and players do not show them."),
    custom("mp4_limit_rate", Context::ANY, Arity::exactly(1), limit_rate,
        "Limits the rate of MP4 files to the average rate of each, multiplied by a factor; on means 1.1.").default("off"),
    millis("mp4_limit_rate_after", Context::ANY, |c: &mut Conf| &mut c.rate_after_ms,
        "Sets how much of a film, in time of playing, is sent before mp4_limit_rate applies.").default("60s"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn limit_rate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let rate = match &*node.args[0].text {
        "on" => Some(USUAL_RATE),
        "off" => Some(Rate::Unlimited),
        factor => thousandths(factor.as_bytes()).filter(|factor| *factor > 0).map(Rate::OfAverage),
    };
    match rate {
        Some(rate) => conf.rate.put(rate, node),
        None => Err(Diagnostic::error(node.arg_span(0), "invalid value of \"mp4_limit_rate\"")
            .help("write on, off, or a factor of the film's average rate: 1.5")),
    }
}

/// A decimal number in thousandths; further digits count for nothing. `None`: it is no number, or too large.
fn thousandths(text: &[u8]) -> Option<u64> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    if text.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let three = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(3);
    let add = |sum: u64, digit: u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    whole.iter().copied().chain(three).try_fold(0, add).filter(|sum| i64::try_from(*sum).is_ok())
}

/// The part that the arguments ask for; `None`: they do not ask for any.
fn wish(args: &[u8], is_on_key_frame: bool) -> Option<Wish> {
    let time = |name| uri::argument(args, name).and_then(thousandths);
    let (start_ms, end_ms) = (time(b"start"), time(b"end").filter(|end_ms| *end_ms > 0));
    let start = start_ms.or(end_ms.map(|_| 0))?;
    let length_ms = end_ms.and_then(|end_ms| end_ms.checked_sub(start)).unwrap_or(0);
    Some(Wish { start_ms: start, length_ms, is_on_key_frame })
}

/// The response with a file, or the part of it that is asked for.
pub fn answer(request: &mut Request, path: &[u8], entry: &Entry) -> Verdict {
    let conf: &'static Conf = &request.location.confs.mp4;
    let wish = wish(&request.args, conf.starts_on_key_frame.get());
    if wish.is_none() && conf.rate.get() == Rate::Unlimited {
        return Verdict::Done(static_file::answer(request, entry));
    }
    let mut response = match static_file::head(request, entry) {
        Ok(response) => response,
        Err(reply) => return Verdict::Done(reply),
    };
    response.has_single_range = wish.is_some();
    let film = Film {
        content: entry.content.clone(),
        bytes: entry.size(),
        index_bytes_max: conf.buffer_bytes_max.get().max(conf.buffer_bytes.get()),
        has_rate: conf.rate.get() != Rate::Unlimited,
    };
    if matches!(film.content, Content::Memory(_)) {
        let prepared = film.prepare(wish);
        return Verdict::Done(finish(request, path, response, prepared));
    }
    let path = path.to_vec();
    let job = move || -> Then {
        let prepared = film.prepare(wish);
        Box::new(move |request| Verdict::Done(finish(request, &path, response, prepared)))
    };
    Work::on_files(job).into()
}

/// A film that is asked for.
struct Film {
    content: Content,
    bytes: u64,
    index_bytes_max: u64,
    /// Its length must be found out.
    has_rate: bool,
}

/// The part of it that is sent.
struct Part {
    source: Source,
    bytes: u64,
    /// Those that are in memory until they are sent: the new index.
    head_bytes: usize,
    length: Option<Length>,
}

#[derive(Debug)]
enum Problem {
    Unreadable(io::Error),
    Broken(mp4::Error),
}

impl From<mp4::Error> for Problem {
    fn from(error: mp4::Error) -> Self {
        Self::Broken(error)
    }
}

impl Film {
    /// Reads the index, and makes that of the part. Waits for the disk.
    fn prepare(self, wish: Option<Wish>) -> Result<Part, Problem> {
        let whole = |film: Self, length| Part {
            source: film.content.into(),
            bytes: film.bytes,
            head_bytes: 0,
            length,
        };
        let Some(wish) = wish else {
            // the rate is not worth an error
            let length = self.length(&Wish::default()).unwrap_or(None);
            return Ok(whole(self, length));
        };
        let outline = self.outline(&wish)?;
        if outline.is_good_as_it_is() {
            let length = if self.has_rate { self.length(&wish).unwrap_or(None) } else { None };
            return Ok(whole(self, length));
        }
        let ftyp = outline.file_type().map(|range| self.read(range)).transpose()?;
        let mut moov = self.read(outline.index().ok_or(mp4::Error::Missing("moov"))?)?;
        let cut = mp4::cut(&outline, ftyp.as_deref(), &mut moov, &wish)?;
        let head_bytes = cut.head.len();
        let bytes = head_bytes as u64 + cut.media.end - cut.media.start;
        let source = Source::joined(cut.head, self.content, &cut.media);
        Ok(Part { source, bytes, head_bytes, length: cut.length })
    }

    fn outline(&self, wish: &Wish) -> Result<Outline, Problem> {
        let mut outline = Outline::new(self.bytes, self.index_bytes_max, wish);
        while let Some(at) = outline.next() {
            let header = self.read(at..self.bytes.min(at.saturating_add(HEADER_BYTES_MAX as u64)))?;
            outline.take(&header)?;
        }
        Ok(outline)
    }

    /// The time that the whole film takes.
    fn length(&self, wish: &Wish) -> Result<Option<Length>, Problem> {
        let Some(index) = self.outline(wish)?.index() else { return Ok(None) };
        let bytes = index.end - index.start;
        if bytes > self.index_bytes_max {
            return Err(mp4::Error::LargeIndex(bytes).into());
        }
        Ok(mp4::length(&mut self.read(index)?)?)
    }

    /// Reads bytes that the file had when it was opened.
    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, Problem> {
        let count = usize::try_from(range.end - range.start).map_err(|_| mp4::Error::Truncated)?;
        let bytes = match &self.content {
            Content::Memory(bytes) => part(bytes, &range).to_vec(),
            Content::File(file) => {
                let mut bytes = vec![0; count];
                let read = file::read_waiting(file, &mut bytes, range.start).map_err(Problem::Unreadable)?;
                bytes.truncate(read);
                bytes
            }
        };
        if bytes.len() == count { Ok(bytes) } else { Err(mp4::Error::Truncated.into()) }
    }
}

/// The reply with a part, or with the error that was met.
fn finish(request: &mut Request, path: &[u8], response: Response, prepared: Result<Part, Problem>) -> Reply {
    let part = match prepared {
        Ok(part) => part,
        Err(problem) => {
            let (logger, path) = (request.error_log(), log::Text(path));
            match problem {
                Problem::Broken(error) => log::error!(logger, &*request, "{error} in \"{path}\""),
                Problem::Unreadable(error) => {
                    log::crit!(logger, &*request, "read() \"{path}\" failed {}", log::Cause(&error));
                }
            }
            return Reply::Status(500);
        }
    };
    if !request.share.grow(part.head_bytes, Whole) {
        if let Some(why) = budget::degrade(runtime::now_ms()) {
            let (path, bytes) = (log::Text(path), part.head_bytes);
            log::warn!(
                request.error_log(),
                &*request,
                "a part of \"{path}\" with an index of {bytes} bytes is not sent: {why}"
            );
        }
        return Reply::Status(503);
    }
    let conf = &request.location.confs.mp4;
    if let Rate::OfAverage(factor) = conf.rate.get()
        && let Some(average) = part.length.and_then(|length| length.bytes_per_s(part.bytes))
        && request.states.limit_rate.told.get().is_none()
    {
        let times = |thousandths: u64| average.saturating_mul(thousandths) / 1000;
        request.states.limit_rate.told = times(factor).max(1).into();
        request.states.limit_rate.told_after = times(conf.rate_after_ms.get()).into();
    }
    static_file::reply(request, part.source, part.bytes, response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_nginx_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("1.5", Some(1500)),
            ("12.3456789", Some(12_345)),
            (".5", Some(500)),
            ("5.", Some(5000)),
            (".", Some(0)),
            ("9223372036854775.807", Some(i64::MAX as u64)),
            ("9223372036854775.808", None),
            ("99999999999999999999", None),
            ("", None),
            ("-1", None),
            ("1e3", None),
            ("1.2.3", None),
            ("1,5", None),
            (" 1", None),
        ] {
            assert_eq!(thousandths(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn arguments_ask_for_a_part() {
        let part = |start_ms, length_ms| Some(Wish { start_ms, length_ms, is_on_key_frame: false });
        for (args, expected) in [
            ("", None),
            ("x=1&begin=5", None),
            ("start=5", part(5000, 0)),
            ("x&START=5&end=7.25", part(5000, 2250)),
            ("end=7", part(0, 7000)),
            ("start=0", part(0, 0)),
            ("start=5&end=5", part(5000, 0)),
            ("start=5&end=4", part(5000, 0)),
            ("end=0", None),
            ("start=a", None),
            ("start=a&end=3", part(0, 3000)),
        ] {
            assert_eq!(wish(args.as_bytes(), false), expected, "{args}");
        }
    }
}
