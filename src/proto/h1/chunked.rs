//! Decoder of the chunked coding (RFC 9112 §7.1), strict: sizes are hex digits, lines end in CR LF.
//!
//! ```text
//! Size ─digit→ Size ─;→ Extension ─CR→ SizeLf ─LF→ Data ─all→ DataCr → DataLf → Size
//!                                        └ size 0 → TrailerStart ─CR→ EndLf → Done
//!                                                     └ byte → Trailer ─CR→ TrailerLf → TrailerStart
//! ```

use std::ops::Range;

use crate::base::number::hex_digit;
use crate::proto::h1::Error;
use crate::proto::header::is_token_byte;

/// Bytes of extensions in one body; they mean nothing to anybody.
const EXTENSION_BYTES_MAX: usize = 4096;
/// Bytes of trailers in one body.
const TRAILER_BYTES_MAX: usize = 8192;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// The state between two pieces of a body.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    state: State,
    /// Of the chunk whose size is being read, or what is left of the one whose data are.
    size: u64,
    digits: u32,
    extension_bytes: usize,
    trailers: Vec<u8>,
    line_start: usize,
}

/// What [`Decoder::decode`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are dealt with: up to the end of `data`, when there is any.
    pub consumed: usize,
    /// Body bytes inside the input.
    pub data: Option<Range<usize>>,
    /// The body and its trailers are complete.
    pub done: bool,
}

impl Decoder {
    /// Decodes up to the end of the next run of data, of the body, or of the input.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, Error> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let count = self.size.min((input.len() - at) as u64) as usize;
                self.size -= count as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step { consumed: at + count, data: Some(at..at + count), done: false });
            }
            self.state = self.next(input[at])?;
            at += 1;
        }
        Ok(Step { consumed: at, data: None, done: self.state == State::Done })
    }

    /// The trailer lines, each with its CR LF; complete when the body is.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn next(&mut self, byte: u8) -> Result<State, Error> {
        match (self.state, byte) {
            (State::Size, b';') if self.digits > 0 => Ok(State::Extension),
            (State::Size, b'\r') if self.digits > 0 => Ok(State::SizeLf),
            (State::Size, _) => {
                let digit = hex_digit(byte).ok_or(Error::BadChunk)?;
                self.size = self.size.checked_mul(16).ok_or(Error::BadChunk)? | u64::from(digit);
                self.digits += 1;
                // Leading zeros are valid but nobody needs more than the digits of a u64.
                if self.digits > 16 { Err(Error::BadChunk) } else { Ok(State::Size) }
            }
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) => {
                self.extension_bytes += 1;
                let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7F);
                if !is_text || self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(Error::BadChunk);
                }
                Ok(State::Extension)
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.size == 0 { State::TrailerStart } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart, _) => {
                self.line_start = self.trailers.len();
                self.trailer_byte(byte)
            }
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::Trailer, _) => self.trailer_byte(byte),
            (State::TrailerLf, b'\n') => self.end_trailer(),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(Error::BadChunk),
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, Error> {
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7F);
        if !is_text {
            return Err(Error::BadField);
        }
        if self.trailers.len() >= TRAILER_BYTES_MAX {
            return Err(Error::TrailersTooLarge);
        }
        self.trailers.push(byte);
        Ok(State::Trailer)
    }

    fn end_trailer(&mut self) -> Result<State, Error> {
        let line = &self.trailers[self.line_start..];
        let colon = memchr::memchr(b':', line).filter(|at| *at > 0).ok_or(Error::BadField)?;
        if !line[..colon].iter().copied().all(is_token_byte) {
            return Err(Error::BadField);
        }
        self.trailers.extend_from_slice(b"\r\n");
        Ok(State::TrailerStart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, trailers, and what was left over.
    type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

    /// Feeds pieces of `size` bytes.
    fn decode(input: &[u8], size: usize) -> Result<Decoded, Error> {
        let (mut decoder, mut data, mut at) = (Decoder::default(), Vec::new(), 0);
        while at < input.len() && !decoder.is_done() {
            let piece = &input[at..(at + size).min(input.len())];
            let step = decoder.decode(piece)?;
            data.extend_from_slice(&piece[step.data.clone().unwrap_or_default()]);
            assert!(step.consumed > 0);
            at += step.consumed;
        }
        if !decoder.is_done() {
            return Err(Error::HeadTooLarge); // stands for "not complete" here
        }
        Ok((data, decoder.trailers().to_vec(), input[at..].to_vec()))
    }

    #[test]
    fn the_same_in_pieces_of_any_size() {
        let input = b"5\r\nhello\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\nC:\r\n\r\nGET";
        for size in 1..input.len() {
            let (data, trailers, rest) = decode(input, size).unwrap();
            assert_eq!(
                (&data[..], &trailers[..], &rest[..]),
                (&b"hello0123456789"[..], &b"A: b\r\nC:\r\n"[..], &b"GET"[..])
            );
        }
    }

    #[test]
    fn refuses_every_laxness() {
        let cases: [&[u8]; 14] = [
            b"5\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b";a\r\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"0\r\n\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
        ];
        for input in cases {
            let error = decode(input, input.len()).unwrap_err();
            assert!(
                matches!(error, Error::BadChunk | Error::BadField),
                "{}: {error:?}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn what_means_nothing_is_bounded() {
        let extension = [b"5;".to_vec(), vec![b'a'; 5000]].concat();
        assert_eq!(decode(&extension, 100), Err(Error::BadChunk));
        let trailers = [b"0\r\nA: ".to_vec(), vec![b'a'; 9000]].concat();
        assert_eq!(decode(&trailers, 100), Err(Error::TrailersTooLarge));
    }
}
