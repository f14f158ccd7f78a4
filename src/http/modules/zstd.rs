//! Zstandard for clients that accept it.
//!
//! Runs on every response head if `zstd` is on. `http/response/coding.rs` decides which coding a response
//! gets. Touches: the worker's store of encoders. RFC 8878, RFC 9659 (the window).
//! Behaviour: the directives are those of the module that nginx's users know (tokers/zstd-nginx-module).

use std::cell::RefCell;
use std::fmt;

use zstd_safe::zstd_sys::ZSTD_EndDirective as End;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

use crate::config::directive::{Accepted, accepted, custom, flag, number, size};
use crate::config::{Arity, Context, Setting, settings};
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::coding::{self, Block, Engine, Name, Offer};
use crate::http::response::filter::Signal;
use crate::http::scope::Variable;
use crate::runtime;
use crate::script::variable::variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pub offer: Offer,
        level: Setting<u64> = 1,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("zstd", Context::ANY.or(Context::LOCATION_IF), |c| &mut c.offer.on, "Compresses responses with Zstandard for clients that accept it."),
    number("zstd_comp_level", Context::ANY, (1, 22), |c| &mut c.level,
        "Sets the compression level of Zstandard, from 1 (fastest) to 22 (smallest). A response in progress holds 1 MiB at level 1, 20 MiB at level 19."),
    custom("zstd_types", Context::ANY, Arity::at_least(1), |c: &mut Conf, cx, node| c.offer.add_types(cx, node),
        "Adds media types, besides text/html, that are compressed with Zstandard; * matches all.").default("text/html"),
    size("zstd_min_length", Context::ANY, |c| &mut c.offer.length_min,
        "Sets the minimum length of a response that is compressed with Zstandard. Responses of unknown length are compressed too."),
    accepted("zstd_buffers", Context::ANY, Arity::exactly(2), Accepted::Buffers, "Compressed data is sent at once.").default("32 4k"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("zstd_ratio", |request, _, out| coding::ratio(request, Name::Zstd, out),
        "The compression ratio of Zstandard: 5.25 means that the response became a little smaller than a fifth."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.offer.is_on()
    }
}

/// Encodes the response if Zstandard is the coding chosen for it.
pub fn head(request: &mut Request) {
    let ways = |request: &Request| {
        let best = Shape { level: request.location.confs.zstd.level.get() as i32, window_bits: 0 };
        let less = Shape { level: 1, window_bits: 16 };
        let least = Shape { level: 1, window_bits: 15 };
        let length = request.response.content_length;
        [best, less, least].map(|shape| (shape, shape.state_bytes(length)))
    };
    coding::apply(request, Name::Zstd, ways, |request, shape| {
        Zstd::new(shape, request.response.content_length)
    });
}

/// Parameters of an encoder: they decide its compression ratio, its memory and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    level: i32,
    /// 0: the default of the level.
    window_bits: u32,
}

impl Shape {
    /// The encoder's size at these levels, as the library reports it (test: `memory_is_what_is_drawn`).
    fn state_bytes(self, length: Option<u64>) -> usize {
        let kb = match (self.level, self.window_bits) {
            (_, 15) => 300,
            (_, 16) => 550,
            (..=1, _) => 1400,
            (2, _) => 2100,
            (3, _) => 3700,
            (4, _) => 5000,
            (5..=6, _) => 5600,
            (7..=8, _) => 8200,
            (9..=12, _) => 13_500,
            _ => 21_000,
        };
        let short = length
            .and_then(|length| usize::try_from(length).ok())
            .map_or(usize::MAX, |length| length.saturating_mul(40));
        (kb * 1024).min(short.saturating_add(300 * 1024))
    }
}

/// Limits the window to 2 MiB and the tables to 8 MiB. Clients accept a window of 8 MiB (RFC 9659), but it
/// takes memory for each response in progress. Levels up to 5 have smaller windows, and levels up to 9 such
/// tables.
const BITS_MAX: u32 = 21;
/// Maximum number of idle encoders of a worker, and the size above which an encoder is not kept.
const IDLE_MAX: usize = 4;
const IDLE_BYTES_MAX: usize = 4 * 1024 * 1024; // those of levels up to 4 are smaller

thread_local! {
    static IDLE: RefCell<Vec<CCtx<'static>>> = const { RefCell::new(Vec::new()) };
}

struct Zstd {
    level: i32,
    /// `Some` until it is dropped.
    context: Option<CCtx<'static>>,
    block: Block,
    /// The name of a parameter that the library refused.
    refused: Option<&'static str>,
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Zstd {
    fn new(Shape { level, window_bits }: Shape, length: Option<u64>) -> Self {
        // an encoder that was used at higher levels keeps its memory
        let idle = if window_bits == 0 { IDLE.with_borrow_mut(Vec::pop) } else { None };
        let mut context = idle.unwrap_or_else(CCtx::create);
        // 0 selects the level's default
        let (window, table) = match window_bits {
            0 => (if level > 5 { BITS_MAX } else { 0 }, if level > 9 { BITS_MAX } else { 0 }),
            bits => (bits, bits - 2),
        };
        let set = context
            .set_parameter(CParameter::CompressionLevel(level))
            .and_then(|_| context.set_parameter(CParameter::WindowLog(window)))
            .and_then(|_| context.set_parameter(CParameter::ChainLog(table)))
            .and_then(|_| context.set_parameter(CParameter::HashLog(table)))
            .and_then(|_| context.set_pledged_src_size(length));
        let block = Block::new(BLOCK_BYTES, ns_per_byte(level));
        Self { level, context: Some(context), block, refused: set.err().map(zstd_safe::get_error_name) }
    }
}

/// The size of a block of a frame, which is encoded in one go (RFC 8878 §3.1.1.2.4).
const BLOCK_BYTES: usize = 128 * 1024;

/// Nanoseconds per byte, measured with random words of two to four letters, the hardest input (release
/// build).
fn ns_per_byte(level: i32) -> u32 {
    match level {
        ..=3 => 5,
        4 => 7,
        5 => 12,
        6..=8 => 20,
        9..=10 => 25,
        11..=12 => 65,
        13..=15 => 300,
        _ => 4000,
    }
}

impl Engine for Zstd {
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), String> {
        let Some(context) = self.context.as_mut().filter(|_| self.refused.is_none()) else {
            return Err(format!("zstd failed: {}", self.refused.unwrap_or("no context")));
        };
        self.block.push(data.len(), signal);
        let how = match signal {
            Signal::More => End::ZSTD_e_continue,
            Signal::Flush => End::ZSTD_e_flush,
            Signal::End => End::ZSTD_e_end,
        };
        let mut input = InBuffer::around(data);
        loop {
            let start = out.len();
            out.reserve((data.len() - input.pos()) / 4 + 512);
            let room = out.capacity();
            let mut output = OutBuffer::around_pos(out, start);
            let left = context
                .compress_stream2(&mut output, &mut input, how)
                .map_err(|code| format!("zstd failed: {}", zstd_safe::get_error_name(code)))?;
            let is_full = output.pos() == room;
            let is_done = match signal {
                Signal::More => input.pos() == data.len() && !is_full,
                Signal::Flush | Signal::End => left == 0,
            };
            if is_done {
                return Ok(());
            }
        }
    }

    fn work(&self, bytes: usize, signal: Signal) -> u32 {
        self.block.work(bytes, signal)
    }
}

impl Drop for Zstd {
    fn drop(&mut self) {
        let Some(mut context) = self.context.take() else { return };
        let is_large = context.sizeof() > IDLE_BYTES_MAX;
        // if its client left, it is dropped on the coding thread, where nothing would reuse it
        if is_large || !runtime::is_running() || context.reset(ResetDirective::SessionAndParameters).is_err()
        {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < IDLE_MAX {
                idle.push(context);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], most: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(most);
        zstd_safe::decompress(&mut out, bytes).expect("it is zstd");
        out
    }

    #[test]
    fn pieces_and_flushes_make_one_frame() {
        let page: Vec<u8> = (0..30_000).flat_map(|n| format!("<li>{n}</li>\n").into_bytes()).collect();
        for (level, length) in [(1, None), (3, Some(page.len() as u64)), (9, None), (19, None)] {
            for _ in 0..2 {
                let mut engine = Zstd::new(Shape { level, window_bits: 0 }, length);
                let mut out = b"before ".to_vec();
                for (index, piece) in page.chunks(50_000).enumerate() {
                    let signal = if index % 2 == 0 { Signal::Flush } else { Signal::More };
                    engine.push(piece, signal, &mut out).expect("it goes on");
                }
                engine.push(b"", Signal::End, &mut out).expect("it ends");
                assert_eq!(&out[..7], b"before ");
                assert_eq!(decoded(&out[7..], page.len()), page, "level {level}");
            }
        }
        let mut out = Vec::new();
        Zstd::new(Shape { level: 1, window_bits: 0 }, None)
            .push(b"", Signal::End, &mut out)
            .expect("it ends");
        assert_eq!(decoded(&out, 0), b"");
    }

    #[test]
    fn an_answer_that_is_not_as_long_as_it_said_is_an_error() {
        let mut out = Vec::new();
        let mut engine = Zstd::new(Shape { level: 1, window_bits: 0 }, Some(10));
        engine.push(b"half", Signal::More, &mut out).expect("it goes on");
        assert!(engine.push(b"", Signal::End, &mut out).is_err());
    }

    #[test]
    fn memory_is_what_is_drawn() {
        let levels = (1..=22).map(|level| Shape { level, window_bits: 0 });
        let small = [15, 16].map(|window_bits| Shape { level: 1, window_bits });
        for (shape, bytes) in levels.chain(small).flat_map(|shape| [(shape, 300_000), (shape, 3000)]) {
            for length in [None, Some(bytes)] {
                let mut engine = Zstd::new(shape, length);
                let page: Vec<u8> = (0..bytes as u32)
                    .map(|n| b"0123456789abcdef"[(n.wrapping_mul(n) >> 7) as usize & 15])
                    .collect();
                engine.push(&page, Signal::More, &mut Vec::new()).expect("it goes on");
                let size = engine.context.as_ref().map_or(0, CCtx::sizeof);
                IDLE.with_borrow_mut(Vec::clear);
                assert!(size <= shape.state_bytes(length), "{shape:?} {length:?}: {size}");
                engine.context = None;
            }
        }
    }
}
