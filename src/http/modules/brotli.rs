//! brotli for clients that accept it.
//!
//! Runs on every response head if `brotli` is on. `http/response/coding.rs` decides which coding a response
//! gets. RFC 7932.
//! Behaviour: the directives are those of the module that nginx's users know (google/ngx_brotli).

use std::fmt;

use brotli::enc::encode::{BrotliEncoderOperation as Operation, BrotliEncoderStateStruct};
use brotli::enc::{BrotliEncoderParams, StandardAlloc};

use crate::config::directive::{Accepted, accepted, custom, flag, number, size};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, gzip};
use crate::http::request::Request;
use crate::http::response::coding::{self, Block, Engine, Name, Offer};
use crate::http::response::filter::Signal;
use crate::http::scope::Variable;
use crate::script::variable::variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pub offer: Offer,
        level: Setting<u64> = 6,
        window_bits: Setting<u8> = WINDOW_BITS,
    }
}

const WINDOW_BITS: u8 = 17;
/// The smallest window. A short response needs no window larger than itself.
const WINDOW_BITS_MIN: u8 = 10;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("brotli", Context::ANY.or(Context::LOCATION_IF), |c| &mut c.offer.on, "Compresses responses with brotli for clients that accept it."),
    number("brotli_comp_level", Context::ANY, (0, 11), |c| &mut c.level,
        "Sets the compression level of brotli, from 0 (fastest) to 11 (smallest). Steps that take more than a millisecond run on another thread, one at a \
         time for each worker: above level 9 a page of 64 KiB takes a tenth of a second and more."),
    custom("brotli_types", Context::ANY, Arity::at_least(1), |c: &mut Conf, cx, node| c.offer.add_types(cx, node),
        "Adds media types, besides text/html, that are compressed with brotli; * matches all.").default("text/html"),
    size("brotli_min_length", Context::ANY, |c| &mut c.offer.length_min,
        "Sets the minimum length of a response that is compressed with brotli. Responses of unknown length are compressed too."),
    custom("brotli_window", Context::ANY, Arity::exactly(1), window,
        "Sets the window in which brotli looks for repetitions, a power of two from 1k to 16m.").default("128k"),
    accepted("brotli_buffers", Context::ANY, Arity::exactly(2), Accepted::Buffers, "Compressed data is sent at once.").default("32 4k"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("brotli_ratio", |request, _, out| coding::ratio(request, Name::Brotli, out),
        "The compression ratio of brotli: 5.25 means that the response became a little smaller than a fifth."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.offer.is_on()
    }
}

fn window(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let words = "1k, 2k, 4k, 8k, 16k, 32k, 64k, 128k, 256k, 512k, 1m, 2m, 4m, 8m or 16m";
    let bits = gzip::power_of_two(node, WINDOW_BITS_MIN, 24, words)?;
    conf.window_bits.put(bits, node)
}

/// Encodes the response if brotli is the coding chosen for it.
pub fn head(request: &mut Request) {
    let ways = |request: &Request| {
        let conf = &request.location.confs.brotli;
        let best =
            Shape::new(conf.level.get() as u8, conf.window_bits.get(), request.response.content_length);
        let less = Shape { level: best.level.min(4), window_bits: best.window_bits.min(16) };
        let least = Shape { level: best.level.min(1), window_bits: best.window_bits.min(14) };
        [best, less, least].map(|shape| (shape, shape.state_bytes()))
    };
    coding::apply(request, Name::Brotli, ways, |request, shape| {
        Brotli::new(shape, request.response.content_length)
    });
}

/// Parameters of an encoder: they decide its compression ratio, its memory and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    level: u8,
    window_bits: u8,
}

impl Shape {
    /// Parameters for a response of this length, if it is known: its window need not be larger.
    fn new(level: u8, window_bits: u8, length: Option<u64>) -> Self {
        let fits = |bits: &u8| length.is_some_and(|length| length <= 1 << bits);
        let bits = (WINDOW_BITS_MIN..window_bits).find(fits).unwrap_or(window_bits);
        // With a smaller window these levels would use the tables (32 MiB) and the time of level 9.
        let least = if matches!(level, 5..=8) { 17 } else { WINDOW_BITS_MIN };
        Self { level, window_bits: bits.max(least) }
    }

    /// The largest state of an encoder that was measured, with text and with random digits: its tables, twice
    /// the window, and the commands it collects, which grow with the window.
    fn state_bytes(self) -> usize {
        const KB: usize = 1024;
        let window = 1_usize << self.window_bits;
        let commands = |windows: usize, max_kb: usize| (windows * 2 * window).min(max_kb * KB);
        match self.level {
            0 | 1 => 192 * KB,
            2 | 3 => 900 * KB + 2 * window,
            4 => 1700 * KB + 2 * window + commands(4, 8192),
            5 => 2200 * KB + 2 * window + commands(5, 16_384),
            6 => 3200 * KB + 2 * window + commands(5, 16_384),
            7 => 9300 * KB + 2 * window + commands(5, 16_384),
            8 => 17_500 * KB + 2 * window + commands(5, 16_384),
            9 => 33_500 * KB + 2 * window + commands(5, 16_384),
            10 => 3600 * KB + 12 * window,
            _ => 6000 * KB + 12 * window,
        }
    }
}

struct Brotli {
    /// `Some` until the end. The library's own writer is not used: when dropped it encodes all it still
    /// holds, even if the client has gone.
    state: Option<Box<BrotliEncoderStateStruct<StandardAlloc>>>,
    block: Block,
}

impl fmt::Debug for Brotli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Brotli")
    }
}

/// Block size of the slow levels, each encoded in one go, which takes at worst 0.2 s at level 11 (release
/// build). With the encoder's own choice responses would be 0.3 percent shorter, and a step would take four
/// times as long.
const SLOW_BLOCK_BITS: i32 = 16;
/// Nanoseconds per byte at each level, measured with random words of two to four letters, the hardest input
/// (release build).
const NS: [u32; 12] = [8, 8, 15, 15, 25, 60, 90, 150, 230, 500, 1200, 2300];
/// Output space that is added at a time.
const ROOM_BYTES: usize = 4096;
/// From 1 MiB on, levels 4 to 6 use tables that are several MiB larger.
const SIZE_HINT_MAX: u64 = (1 << 20) - 1;

impl Brotli {
    fn new(Shape { level, window_bits }: Shape, length: Option<u64>) -> Self {
        let params = BrotliEncoderParams {
            quality: i32::from(level),
            lgblock: if level > 8 { SLOW_BLOCK_BITS } else { 0 },
            lgwin: i32::from(window_bits),
            size_hint: length.map_or(0, |length| length.min(SIZE_HINT_MAX) as usize),
            ..BrotliEncoderParams::default()
        };
        let block_bytes = if level < 4 { 16 * 1024 } else { 64 * 1024 };
        let block = Block::new(block_bytes, NS[usize::from(level).min(NS.len() - 1)]);
        let mut state = Box::new(BrotliEncoderStateStruct::new(StandardAlloc::default()));
        state.params = params;
        Self { state: Some(state), block }
    }
}

impl Engine for Brotli {
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), String> {
        let Some(state) = &mut self.state else { return Ok(()) };
        self.block.push(data.len(), signal);
        let how = || match signal {
            Signal::More => Operation::BROTLI_OPERATION_PROCESS,
            Signal::Flush => Operation::BROTLI_OPERATION_FLUSH,
            Signal::End => Operation::BROTLI_OPERATION_FINISH,
        };
        let (mut left, mut at) = (data.len(), 0);
        loop {
            let start = out.len();
            out.resize(start + ROOM_BYTES, 0);
            let (mut room, mut made) = (ROOM_BYTES, 0);
            let target = &mut out[start..];
            let is_good = state.compress_stream(
                how(),
                &mut left,
                data,
                &mut at,
                &mut room,
                target,
                &mut made,
                &mut None,
                &mut |_, _, _, _| (),
            );
            out.truncate(start + made);
            if !is_good {
                return Err("brotli failed".to_owned());
            }
            let is_done = match signal {
                Signal::More | Signal::Flush => left == 0 && !state.has_more_output(),
                Signal::End => state.is_finished(),
            };
            if is_done {
                break;
            }
        }
        if signal == Signal::End {
            self.state = None;
        }
        Ok(())
    }

    fn work(&self, bytes: usize, signal: Signal) -> u32 {
        self.block.work(bytes, signal)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decoded(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).expect("it is brotli");
        out
    }

    #[test]
    fn pieces_and_flushes_make_one_stream() {
        let page: Vec<u8> = (0..3_000).flat_map(|n| format!("<li>{n}</li>\n").into_bytes()).collect();
        for (level, length) in [(0, None), (5, Some(page.len() as u64)), (6, None), (11, Some(1))] {
            let mut engine = Brotli::new(Shape::new(level, WINDOW_BITS, length), length);
            let mut out = b"before ".to_vec();
            for (index, piece) in page.chunks(5_000).enumerate() {
                let signal = if index % 2 == 0 { Signal::Flush } else { Signal::More };
                engine.push(piece, signal, &mut out).expect("it goes on");
            }
            engine.push(b"", Signal::End, &mut out).expect("it ends");
            assert_eq!(&out[..7], b"before ");
            assert_eq!(decoded(&out[7..]), page, "level {level}");
        }
        let mut out = Vec::new();
        Brotli::new(Shape::new(6, WINDOW_BITS, Some(0)), Some(0))
            .push(b"", Signal::End, &mut out)
            .expect("it ends");
        assert_eq!(decoded(&out), b"");
    }
}
