//! gzip members, piece by piece: encoding at zlib's levels, decoding into a bounded buffer.
//!
//! Pure data. RFC 1951, RFC 1952. The work is done by zlib-rs, whose levels are not zlib's: see [`LEVELS`].

use std::fmt;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

/// A window of 2^15 bytes, the largest.
pub const WINDOW_BITS: u8 = 15;
/// nginx's default; zlib's memory levels are 1 to 9.
pub const MEMORY_LEVEL: u8 = 8;

/// The level of zlib-rs that replaces each level of zlib: the cheapest whose output is at most 1.05 times as
/// large; for 9 the one with the smallest output. Bytes and CPU relative to zlib 1.2.13, measured with a 64
/// KiB page of links; other pages, scripts and JSON keep the bound:
///
/// | zlib | zlib-rs | bytes | CPU  |
/// |------|---------|-------|------|
/// | 1    | 2       | 0.94  | 0.43 |
/// | 2    | 3       | 0.94  | 0.62 |
/// | 3    | 3       | 0.98  | 0.48 |
/// | 4    | 4       | 0.96  | 0.72 |
/// | 5    | 4       | 1.03  | 0.50 |
/// | 6    | 5       | 1.04  | 0.38 |
/// | 7    | 6       | 1.04  | 0.38 |
/// | 8    | 7       | 1.00  | 0.37 |
/// | 9    | 8       | 0.98  | 0.79 |
const LEVELS: [i32; 9] = [2, 3, 3, 4, 4, 5, 6, 7, 8];

/// The parameters of an encoder. An encoder can be reused for another member of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// zlib's, 1 to 9.
    pub level: u8,
    /// 9 to 15.
    pub window_bits: u8,
    /// 1 to 9.
    pub memory_level: u8,
}

impl Shape {
    /// Approximate memory of an encoder: twice the window and its links, the hash table, pending output.
    pub fn state_bytes(self) -> usize {
        (4 << self.window_bits) + (512 << self.memory_level) + 64 * 1024
    }

    pub fn of_level(level: u8) -> Self {
        Self { level, window_bits: WINDOW_BITS, memory_level: MEMORY_LEVEL }
    }
}

/// The action after the given bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// More bytes follow.
    None,
    /// The output so far must decode to all of the input so far.
    Sync,
    /// The member ends.
    End,
}

/// Encodes one member at a time; some 300 KiB.
///
/// A response that is compressed owns one; workers keep some for later responses ([`Encoder::reset`]).
/// Encoding cannot fail.
pub struct Encoder {
    deflate: Deflate,
    shape: Shape,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Encoder {
    pub fn new(shape: Shape) -> Self {
        let level = LEVELS[usize::from(shape.level.clamp(1, 9)) - 1];
        let deflate = Deflate::new_with_config(DeflateConfig {
            level,
            // 16 more selects gzip's header and trailer
            window_bits: 16 + i32::from(shape.window_bits.clamp(9, WINDOW_BITS)),
            mem_level: i32::from(shape.memory_level.clamp(1, 9)),
            ..DeflateConfig::default()
        });
        Self { deflate, shape }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Starts another member.
    pub fn reset(&mut self) {
        self.deflate.reset();
    }

    /// Bytes of the member so far: in and out.
    pub fn totals(&self) -> (u64, u64) {
        (self.deflate.total_in(), self.deflate.total_out())
    }

    /// Encodes all of `data`, and appends the output that is ready.
    pub fn push(&mut self, mut data: &[u8], flush: Flush, out: &mut Vec<u8>) {
        let how = match flush {
            Flush::None => DeflateFlush::NoFlush,
            Flush::Sync => DeflateFlush::SyncFlush,
            Flush::End => DeflateFlush::Finish,
        };
        loop {
            let (used, made) = (self.deflate.total_in(), self.deflate.total_out());
            let start = out.len();
            // pages shrink to about a fifth; a flush needs a few bytes more
            out.resize(start + data.len() / 4 + 512, 0);
            let status = self.deflate.compress(data, &mut out[start..], how);
            let used = usize::try_from(self.deflate.total_in() - used).unwrap_or(usize::MAX);
            let made = usize::try_from(self.deflate.total_out() - made).unwrap_or(usize::MAX);
            let is_full = start + made >= out.len();
            out.truncate(start + made);
            data = data.get(used..).unwrap_or(b"");
            match status {
                Ok(Status::Ok) if is_full || (flush == Flush::End && (used > 0 || made > 0)) => {}
                // a full buffer or no input left: the loop and the caller take care of both
                Ok(Status::BufError) if is_full => {}
                // the end, or all input is consumed; errors come from states that this type cannot reach
                _ => return,
            }
        }
    }
}

/// Encodes `data` as one member.
pub fn encode(data: &[u8], level: u8) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::new(Shape::of_level(level)).push(data, Flush::End, &mut out);
    out
}

/// The input is not gzip, with zlib's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The progress of one call of [`Decoder::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Input bytes consumed.
    pub used: usize,
    /// The room is used up: more output may come without more input.
    pub is_full: bool,
}

/// Decodes members that follow each other; some 50 KiB.
///
/// The caller bounds the output of each call, so that a small input cannot expand without limit, and calls
/// again until a call does not fill its room.
#[derive(Default)]
pub struct Decoder {
    /// `None` between members.
    inflate: Option<Box<Inflate>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("is_between", &self.inflate.is_none()).finish()
    }
}

impl Decoder {
    /// Whether the input may end here: no member is open.
    pub fn is_between(&self) -> bool {
        self.inflate.is_none()
    }

    /// Appends at most `room` bytes of output. Errors: the input is not gzip, or a checksum is wrong.
    pub fn decode(&mut self, input: &[u8], room: usize, out: &mut Vec<u8>) -> Result<Progress, Broken> {
        let start = out.len();
        out.resize(start + room, 0);
        let (mut used, mut made) = (0, 0);
        let mut outcome = Ok(());
        while made < room && (used < input.len() || self.inflate.is_some()) {
            let inflate = self.inflate.get_or_insert_with(|| Box::new(Inflate::new(true, 16 + WINDOW_BITS)));
            let before = (inflate.total_in(), inflate.total_out());
            let target = &mut out[start + made..];
            let status = inflate.decompress(&input[used..], target, InflateFlush::NoFlush);
            let step = (inflate.total_in() - before.0) as usize;
            let grown = (inflate.total_out() - before.1) as usize;
            (used, made) = (used + step, made + grown);
            match status {
                Ok(Status::StreamEnd) => self.inflate = None,
                Ok(_) if step + grown > 0 => {}
                Ok(_) => break,
                Err(error) => {
                    outcome = Err(Broken(inflate.error_message().unwrap_or(error.as_str())));
                    break;
                }
            }
        }
        out.truncate(start + made);
        outcome.map(|()| Progress { used, is_full: made == room })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn page(count: usize) -> Vec<u8> {
        let line = |n: usize| {
            format!("<li class=\"item-{}\">{}</li>\n", n % 64, n.wrapping_mul(2_654_435_761) % 99_991)
        };
        (0..).flat_map(|n| line(n).into_bytes()).take(count).collect()
    }

    /// Decodes with another implementation.
    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("it is gzip");
        out
    }

    #[test]
    fn every_level_and_shape_is_gzip() {
        for count in [0, 1, 100, 65_536, 300_000] {
            let page = page(count);
            let mut sizes = Vec::new();
            for level in 1..=9 {
                let coded = encode(&page, level);
                assert_eq!(gunzip(&coded), page, "level {level}");
                sizes.push(coded.len());
            }
            assert!(count < 65_536 || sizes[8] < sizes[0], "{sizes:?}");
        }
        for (window_bits, memory_level) in [(9, 1), (15, 9), (12, 5)] {
            let mut out = Vec::new();
            Encoder::new(Shape { level: 6, window_bits, memory_level }).push(
                &page(90_000),
                Flush::End,
                &mut out,
            );
            assert_eq!(gunzip(&out), page(90_000));
        }
    }

    #[test]
    fn what_was_flushed_can_be_read_and_nothing_is_lost_on_the_way() {
        let page = page(50_000);
        let mut encoder = Encoder::new(Shape::of_level(5));
        for round in 0..2 {
            let mut out = Vec::new();
            let mut given = 0;
            for (index, piece) in page.chunks(333).enumerate() {
                let flush = if index % 3 == 0 { Flush::Sync } else { Flush::None };
                encoder.push(piece, flush, &mut out);
                given += piece.len();
                if flush == Flush::Sync {
                    let mut seen = Vec::new();
                    let progress = Decoder::default().decode(&out, page.len(), &mut seen).expect("gzip");
                    assert_eq!((seen.len(), progress.used), (given, out.len()));
                }
            }
            encoder.push(b"", Flush::End, &mut out);
            assert_eq!(encoder.totals(), (page.len() as u64, out.len() as u64));
            assert_eq!(gunzip(&out), page, "round {round}");
            encoder.reset();
        }
    }

    #[test]
    fn noise_and_a_full_room_do_not_end_a_member_early() {
        let mut word = 1_u64;
        let noise = std::iter::repeat_with(|| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word as u8
        });
        let noise: Vec<u8> = noise.take(200_000).collect();
        let mut encoder = Encoder::new(Shape::of_level(1));
        let mut out = Vec::new();
        encoder.push(&noise, Flush::None, &mut out);
        encoder.push(&noise, Flush::Sync, &mut out);
        encoder.push(b"", Flush::End, &mut out);
        assert_eq!(gunzip(&out), [&noise[..], &noise[..]].concat());
    }

    #[test]
    fn members_are_decoded_wherever_they_are_split() {
        let coded = [encode(b"one ", 1), encode(b"", 5), encode(&b"two ".repeat(50), 9)].concat();
        let expected = [&b"one "[..], &b"two ".repeat(50)].concat();
        for split in 0..=coded.len() {
            for room in [1, 7, 1000] {
                let (mut decoder, mut out) = (Decoder::default(), Vec::new());
                for mut part in [&coded[..split], &coded[split..]] {
                    loop {
                        let progress = decoder.decode(part, room, &mut out).expect("gzip");
                        part = &part[progress.used..];
                        if !progress.is_full {
                            assert!(part.is_empty());
                            break;
                        }
                    }
                }
                assert!(decoder.is_between(), "split at {split}");
                assert_eq!(out, expected, "split at {split}");
            }
        }
    }

    #[test]
    fn a_bomb_fills_no_more_than_its_room() {
        let bomb = encode(&vec![0; 50_000_000], 9);
        let (mut decoder, mut at, mut total) = (Decoder::default(), 0, 0);
        loop {
            let mut out = Vec::new();
            let progress = decoder.decode(&bomb[at..], 32_768, &mut out).expect("gzip");
            assert!(out.len() <= 32_768);
            (at, total) = (at + progress.used, total + out.len());
            if !progress.is_full {
                break;
            }
        }
        assert_eq!((at, total, decoder.is_between()), (bomb.len(), 50_000_000, true));
    }

    #[test]
    fn what_is_no_gzip_is_an_error_and_what_is_cut_is_not_at_its_end() {
        let good = encode(&page(5_000), 6);
        let mut wrong = good.clone();
        let sum = wrong.len() - 8;
        wrong[sum] ^= 1;
        for bad in [&b"plain text, not gzip at all"[..], &wrong, &[&good[..], b"rubbish"].concat()] {
            let mut out = Vec::new();
            assert!(Decoder::default().decode(bad, 1 << 20, &mut out).is_err());
        }
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        let progress = decoder.decode(&good[..good.len() - 1], 1 << 20, &mut out).expect("so far it is");
        assert!(!decoder.is_between() && !progress.is_full);
    }

    /// The whole output for an input in pieces, and whether the input was gzip.
    fn read(pieces: &[&[u8]], room: usize) -> (Vec<u8>, bool) {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for mut piece in pieces.iter().copied() {
            loop {
                match decoder.decode(piece, room, &mut out) {
                    Ok(progress) if progress.is_full => piece = &piece[progress.used..],
                    Ok(_) => break,
                    Err(_) => return (out, false),
                }
            }
        }
        (out, true)
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_pushed_comes_out_again(
            pieces in proptest::collection::vec((proptest::collection::vec(0..9_u8, 0..900), 0..2_u8), 0..12),
            level in 1..=9_u8,
        ) {
            let mut encoder = Encoder::new(Shape::of_level(level));
            let mut out = Vec::new();
            for (piece, flush) in &pieces {
                encoder.push(piece, if *flush == 0 { Flush::None } else { Flush::Sync }, &mut out);
            }
            encoder.push(b"", Flush::End, &mut out);
            let all: Vec<u8> = pieces.iter().flat_map(|(piece, _)| piece.iter().copied()).collect();
            proptest::prop_assert_eq!(read(&[&out], 100), (all, true));
        }

        #[test]
        fn damaged_members_are_read_alike_wherever_they_are_split(
            text in proptest::collection::vec(0..4_u8, 0..2_000),
            damage in proptest::collection::vec((0..2_000_usize, 0..=255_u8), 0..4),
            split in 0..2_000_usize,
            room in 1..3_000_usize,
        ) {
            let mut coded = encode(&text, 6);
            for (at, byte) in damage {
                let at = at % coded.len();
                coded[at] = byte;
            }
            let (first, second) = coded.split_at(split % coded.len());
            proptest::prop_assert_eq!(read(&[first, second], room), read(&[&coded], 1 << 20));
        }
    }
}
