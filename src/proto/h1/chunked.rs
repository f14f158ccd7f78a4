//! Decodes the chunked transfer coding, any number of bytes at a time.
//!
//! Touches: nothing. Holds a few words, and the trailers as they arrive. RFC 9112 §7.1.
//!
//! ```text
//! Size ─(digit)→ Digits ─(;, space)→ Extension
//!                  │ CR                │ CR
//!                  └────→ SizeLf ←─────┘ ─(LF, size > 0)→ Data → DataCr → DataLf → Size
//! (a quoted string of an extension must end on its line)
//!                           └(LF, size 0)→ Trailer lines → Done
//! ```

use std::ops::Range;

use crate::base::number::hex_digit;
use crate::proto::field_text::Lines;
use crate::proto::h1::Error;
use crate::proto::h1::fields::{self, Rules};
use crate::proto::head::Fields;

/// Maximum length of the extensions in one chunk's size line. They are legal but useless, so the limit is low
/// (nginx has none).
const EXTENSION_BYTES_MAX: u32 = 1024;
/// Maximum length of all extensions in a body: more than this can only be an attack on the decoder.
const EXTENSIONS_BYTES_MAX: u32 = 16 * 1024;
const TRAILERS_BYTES_MAX: usize = 8 * 1024;
const TRAILERS_MAX: usize = 100;
/// The largest chunk size accepted: the range of a file offset.
const SIZE_MAX: u64 = i64::MAX as u64;
/// Maximum number of digits in a size, including leading zeros.
const DIGITS_MAX: u8 = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Digits,
    /// Spaces after the size: only an extension or the end of the line may follow.
    AfterSize,
    Extension,
    /// Inside the quotes of an extension's value, and after a backslash there.
    Quoted,
    Escaped,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Decodes one chunked body.
///
/// The owner of the connection calls [`Decoder::decode`] with each piece of input. It fails on a malformed
/// chunk, and when an extension, the trailers or a size exceed their limits; the connection must then be
/// closed.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    state: State,
    /// The chunk's size while its line is read, then the number of data bytes left.
    left: u64,
    digits: u8,
    extension_bytes: u32,
    extensions_bytes: u32,
    trailers: Vec<u8>,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number of input bytes consumed; if there is data, it ends there.
    pub consumed: usize,
    /// A piece of the body, as a range of the input.
    pub data: Option<Range<usize>>,
    /// The body is complete; the bytes after `consumed` belong to the next message.
    pub done: bool,
}

impl Decoder {
    /// Decodes up to the end of the next piece of data, of the body, or of the input.
    ///
    /// Call it again with the rest until `done` or the input is used up. Errors are final.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, Error> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data => {
                    let count = self.left.min((input.len() - at) as u64);
                    self.left -= count;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    let end = at + count as usize;
                    return Ok(Step { consumed: end, data: Some(at..end), done: false });
                }
                State::Trailers => {
                    at += self.trailer(&input[at..])?;
                    continue;
                }
                State::Done => break,
                State::Size | State::Digits => self.size(byte)?,
                State::AfterSize | State::Extension | State::Quoted | State::Escaped => {
                    self.extension(byte)?;
                }
                State::SizeLf if byte != b'\n' => return Err(Error::InvalidChunk),
                State::SizeLf => self.state = if self.left == 0 { State::Trailers } else { State::Data },
                State::DataCr if byte == b'\r' => self.state = State::DataLf,
                State::DataLf if byte == b'\n' => {
                    (self.state, self.digits, self.extension_bytes) = (State::Size, 0, 0);
                }
                State::DataCr | State::DataLf => return Err(Error::InvalidChunk),
            }
            at += 1;
        }
        Ok(Step { consumed: at, data: None, done: self.state == State::Done })
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The trailers of a complete body as field lines, each terminated by CRLF; empty if there were none.
    pub fn trailers(&self) -> &[u8] {
        match self.state {
            State::Done => self.trailers.strip_suffix(b"\r\n").unwrap_or(&[]),
            _ => &[],
        }
    }

    /// Copies those trailers of a complete body for whose names `keeps` returns true to another message.
    pub fn pass_trailers(lines: &[u8], mut keeps: impl FnMut(&[u8]) -> bool, out: &mut Lines) {
        let rules = Rules {
            line_bytes_max: TRAILERS_BYTES_MAX,
            count_max: TRAILERS_MAX,
            ignore_odd: false,
            underscores: true,
            crlf_only: true,
        };
        let (mut fields, whole) = (Fields::default(), [lines, b"\r\n"].concat());
        if let Ok(Some(_)) = fields::parse(&whole, 0, &rules, &mut fields) {
            fields
                .iter()
                .filter(|field| keeps(field.name(&whole)))
                .for_each(|field| out.push_parsed(field, &whole));
        }
    }

    fn size(&mut self, byte: u8) -> Result<(), Error> {
        if let Some(digit) = hex_digit(byte) {
            self.digits += 1;
            self.left = self.left.checked_mul(16).ok_or(Error::ChunkTooLarge)? | u64::from(digit);
            if self.left > SIZE_MAX || self.digits > DIGITS_MAX {
                return Err(Error::ChunkTooLarge);
            }
            self.state = State::Digits;
            return Ok(());
        }
        self.state = match (self.state, byte) {
            (State::Digits, b'\r') => State::SizeLf,
            (State::Digits, b';') => State::Extension,
            (State::Digits, b' ' | b'\t') => State::AfterSize,
            _ => return Err(Error::InvalidChunk),
        };
        Ok(())
    }

    fn extension(&mut self, byte: u8) -> Result<(), Error> {
        self.extension_bytes += 1;
        self.extensions_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX || self.extensions_bytes > EXTENSIONS_BYTES_MAX {
            return Err(Error::ChunkExtensionsTooLong);
        }
        self.state = match (self.state, byte) {
            (State::AfterSize | State::Extension, b'\r') => State::SizeLf,
            (State::AfterSize, b' ' | b'\t') => State::AfterSize,
            (State::AfterSize, b';') => State::Extension,
            (State::Extension, b'"') => State::Quoted,
            (State::Quoted, b'"') => State::Extension,
            (State::Quoted, b'\\') => State::Escaped,
            (State::Escaped, b'\t' | b' '..=b'~' | 0x80..) => State::Quoted,
            (state, b'\t' | b' '..=b'~' | 0x80..) if state != State::AfterSize => state,
            _ => return Err(Error::InvalidChunk),
        };
        Ok(())
    }

    /// Reads a trailer line, or the part of it that has arrived; every line must end with CRLF.
    fn trailer(&mut self, input: &[u8]) -> Result<usize, Error> {
        let count = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        if self.trailers.len() + count > TRAILERS_BYTES_MAX {
            return Err(Error::TrailersTooLarge);
        }
        self.trailers.extend_from_slice(&input[..count]);
        if input[..count].last() != Some(&b'\n') {
            return Ok(count);
        }
        if !self.trailers.ends_with(b"\r\n") {
            return Err(Error::InvalidChunk);
        }
        if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
            let rules = Rules {
                line_bytes_max: TRAILERS_BYTES_MAX,
                count_max: TRAILERS_MAX,
                ignore_odd: false,
                underscores: true,
                crlf_only: true,
            };
            match fields::parse(&self.trailers, 0, &rules, &mut Fields::default())? {
                Some(end) if end == self.trailers.len() => self.state = State::Done,
                _ => return Err(Error::InvalidChunk),
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::h1::encode;

    type Decoded = Result<Option<(Vec<u8>, Vec<u8>)>, Error>;

    /// Decodes `input` in pieces of `piece` bytes; returns the body and the bytes behind it.
    fn decoded(input: &[u8], piece: usize) -> Decoded {
        let (mut decoder, mut body) = (Decoder::default(), Vec::new());
        for (index, part) in input.chunks(piece).enumerate() {
            let mut at = 0;
            while at < part.len() {
                let step = decoder.decode(&part[at..])?;
                assert!(step.consumed > 0 || step.done);
                if let Some(data) = step.data {
                    assert_eq!(data.end, step.consumed);
                    body.extend_from_slice(&part[at..][data]);
                }
                at += step.consumed;
                if step.done {
                    return Ok(Some((body, input[index * piece + at..].to_vec())));
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn decodes_cut_at_every_byte() {
        let input = b"5;a=\"b; \\\" c\";d\r\nhello\r\n00A \t\r\n0123456789\r\n000\r\nX-Sum: 1\r\n\r\nGET";
        for piece in 1..=input.len() {
            let whole = decoded(input, piece).expect("valid").expect("complete");
            assert_eq!(whole, (b"hello0123456789".to_vec(), b"GET".to_vec()), "{piece}");
        }
        for cut in 0..input.len() - 3 {
            assert_eq!(decoded(&input[..cut], 7), Ok(None), "{cut}");
        }
    }

    #[test]
    fn keeps_trailers() {
        let mut decoder = Decoder::default();
        let step = decoder.decode(b"0\r\nA: b\r\nC: d\r\n\r\nrest").expect("valid");
        assert_eq!(step, Step { consumed: 17, data: None, done: true });
        assert_eq!(decoder.trailers(), b"A: b\r\nC: d\r\n");
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        for size in [
            "0x5",
            "+5",
            "-5",
            " 5",
            "5g",
            "0_5",
            "5\0",
            "",
            "5.0",
            "10000000000000005",
            "FFFFFFFFFFFFFFFF",
            "8000000000000000",
            "5\r",
            "5 5",
            "\"5\"",
            ";5",
            "\n5",
            "5\n",
            "5;a\n",
            "5;\nxx",
            "5;a\rb",
            "5;a\0b",
            "5;a=\"",
            "5;a=\"b\\\"",
            "5;a=\"b\\",
        ] {
            let input = format!("{size}\r\nhello\r\n0\r\n\r\n");
            assert!(decoded(input.as_bytes(), 1000).is_err(), "{size:?}");
            assert!(decoded(input.as_bytes(), 1).is_err(), "{size:?} by bytes");
        }
        for rest in [
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\nabc\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nGET /s HTTP/1.1\r\nHost: h\r\n\r\n",
            "0\r\nA: b\rc\r\n\r\n",
        ] {
            assert!(decoded(rest.as_bytes(), 1000).is_err(), "{rest:?}");
        }
    }

    #[test]
    fn everything_has_its_maximum() {
        let long = format!("5;{}\r\n", "x".repeat(3000));
        assert_eq!(decoded(long.as_bytes(), 100), Err(Error::ChunkExtensionsTooLong));
        let many = "1;xxxxxxxxxxxx\r\nz\r\n".repeat(3000);
        assert_eq!(decoded(many.as_bytes(), 100), Err(Error::ChunkExtensionsTooLong));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "y".repeat(100_000));
        assert_eq!(decoded(trailers.as_bytes(), 100), Err(Error::TrailersTooLarge));
        let digits = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(40));
        assert_eq!(decoded(digits.as_bytes(), 100), Err(Error::ChunkTooLarge));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10), piece in 1usize..60) {
            let mut coded = Vec::new();
            for part in &parts {
                encode::chunk_head(part.len() as u64, &mut coded);
                coded.extend_from_slice(part);
                coded.extend_from_slice(b"\r\n");
            }
            encode::last_chunk(&mut coded);
            prop_assert_eq!(decoded(&coded, piece), Ok(Some((parts.concat(), Vec::new()))));
        }

        #[test]
        fn cuts_do_not_change_the_meaning(input in "[0-9a-f;\r\n x]{0,40}", piece in 1usize..10) {
            prop_assert_eq!(decoded(input.as_bytes(), piece), decoded(input.as_bytes(), 1000));
        }
    }
}
