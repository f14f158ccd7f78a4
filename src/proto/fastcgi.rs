//! FastCGI records: those of a request are written, those of a response are read.
//!
//! One request at a time uses a connection, with the id 1, as in nginx. Touches: nothing. Bounded: a record
//! has at most 65,535 bytes of content, and the reader keeps none of it. FastCGI specification 1.0, §3.3, §3.4, §5.

use std::ops::Range;

use crate::proto::cgi::{Pairs, Unsendable};

pub const HEADER_BYTES: usize = 8;
/// The largest content of a record.
pub const CONTENT_BYTES_MAX: usize = 65_535;

const VERSION: u8 = 1;
const REQUEST_ID: u8 = 1;
const RESPONDER: u8 = 1;
const KEEP_CONNECTION: u8 = 1;
/// Lengths up to this one take one byte, others four.
const SHORT_LENGTH_MAX: usize = 127;

/// The types of records between a server and a responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    BeginRequest = 1,
    EndRequest = 3,
    Params = 4,
    Stdin = 5,
    Stdout = 6,
    Stderr = 7,
}

/// The header of a record with this length of content, which must fit, and without padding.
pub fn header(kind: Type, content_bytes: usize) -> [u8; HEADER_BYTES] {
    debug_assert!(content_bytes <= CONTENT_BYTES_MAX);
    let [high, low] = (content_bytes as u16).to_be_bytes();
    [VERSION, kind as u8, 0, REQUEST_ID, high, low, 0, 0]
}

/// Begins a request to a responder. `keeps`: the application is to leave the connection open afterwards.
pub fn begin_request(keeps: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&header(Type::BeginRequest, 8));
    out.extend_from_slice(&[0, RESPONDER, if keeps { KEEP_CONNECTION } else { 0 }, 0, 0, 0, 0, 0]);
}

/// Appends the content of a stream, in as many records as it needs.
pub fn stream(kind: Type, content: &[u8], out: &mut Vec<u8>) {
    for part in content.chunks(CONTENT_BYTES_MAX) {
        out.extend_from_slice(&header(kind, part.len()));
        out.extend_from_slice(part);
    }
}

/// Ends a stream.
pub fn end_stream(kind: Type, out: &mut Vec<u8>) {
    out.extend_from_slice(&header(kind, 0));
}

/// The contents of the whole records of one stream, as [`stream`] wrote them, without their headers.
pub fn contents(records: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len());
    let mut rest = records;
    while let Some((&[.., high, low, padding, _], after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        out.extend_from_slice(after.get(..length).unwrap_or(after));
        rest = after.get(length + usize::from(padding)..).unwrap_or(b"");
    }
    out
}

/// The parameters of a request. A parameter is never split between two records: there are applications that
/// read each record by itself (PHP).
pub struct Params<'a> {
    out: &'a mut Vec<u8>,
    /// Where the last record begins.
    record: usize,
    refused: Option<Unsendable>,
}

impl<'a> Params<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        let record = out.len();
        out.extend_from_slice(&header(Type::Params, 0));
        Self { out, record, refused: None }
    }

    /// Ends the stream. Errors: a parameter does not fit into a record.
    pub fn end(mut self) -> Result<(), Unsendable> {
        if self.content_bytes(self.out.len()) > 0 {
            self.seal(self.out.len());
            end_stream(Type::Params, self.out);
        }
        self.refused.map_or(Ok(()), Err)
    }

    fn content_bytes(&self, end: usize) -> usize {
        end - self.record - HEADER_BYTES
    }

    /// Writes the length of the last record, which ends there.
    fn seal(&mut self, end: usize) {
        let head = header(Type::Params, self.content_bytes(end));
        self.out[self.record..self.record + HEADER_BYTES].copy_from_slice(&head);
    }
}

impl Pairs for Params<'_> {
    fn push(&mut self, name: &[u8], keeps_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        push_length(name.len(), self.out);
        let place = self.out.len();
        self.out.push(0);
        self.out.extend_from_slice(name);
        let value_start = self.out.len();
        value(self.out);
        let length = self.out.len() - value_start;
        if length == 0 && !keeps_empty {
            return self.out.truncate(start);
        }
        if length <= SHORT_LENGTH_MAX {
            self.out[place] = length as u8;
        } else {
            self.out.splice(place..=place, long_length(length));
        }
        let bytes = self.out.len() - start;
        if bytes > CONTENT_BYTES_MAX {
            let why = Unsendable::TooLong { name: name.into(), bytes, max: CONTENT_BYTES_MAX };
            self.refused.get_or_insert(why);
            self.out.truncate(start);
        } else if self.content_bytes(self.out.len()) > CONTENT_BYTES_MAX {
            self.seal(start);
            self.out.splice(start..start, header(Type::Params, 0));
            self.record = start;
        }
    }
}

fn push_length(length: usize, out: &mut Vec<u8>) {
    match length <= SHORT_LENGTH_MAX {
        true => out.push(length as u8),
        false => out.extend_from_slice(&long_length(length)),
    }
}

fn long_length(length: usize) -> [u8; 4] {
    (u32::try_from(length).unwrap_or(u32::MAX) | 1 << 31).to_be_bytes()
}

/// The end of a request, as the application told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// It serves one request at a time on a connection, and has another one.
    CannotMultiplex,
    Overloaded,
    UnknownRole,
}

/// The reason why a response is refused. Its text follows `upstream sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Version,
    Type,
    RequestId,
}

impl Error {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "unsupported FastCGI protocol version",
            Self::Type => "invalid FastCGI record type",
            Self::RequestId => "unexpected FastCGI request id",
        }
    }
}

/// What the next bytes of a response are; ranges are of the bytes given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A part of the response.
    Stdout(Range<usize>),
    StdoutEnd,
    /// A part of a message for the error log; `is_last`: its record ends here.
    Stderr {
        piece: Range<usize>,
        is_last: bool,
    },
    /// The end of the response, its record complete.
    End(Outcome),
    /// More bytes are needed.
    Nothing,
}

/// Reads the records of a response, however their bytes arrive.
///
/// ```text
/// Header ──(8 bytes)──→ Content ──(its length)──→ Padding ──(its length)──→ Header
/// ```
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The header in progress, then that of the record in progress.
    header: [u8; HEADER_BYTES],
    header_bytes: u8,
    content_left: u16,
    padding_left: u8,
    /// The protocol status of an `EndRequest`, once it has arrived.
    status: u8,
    is_stdout_ended: bool,
}

impl Records {
    /// True if the application has ended its output.
    pub fn is_stdout_ended(&self) -> bool {
        self.is_stdout_ended
    }

    /// Reads up to one part of a record. Returns how many bytes that took, at least one if there is any.
    pub fn step(&mut self, data: &[u8]) -> Result<(usize, Step), Error> {
        let mut at = 0;
        loop {
            if usize::from(self.header_bytes) < HEADER_BYTES {
                let have = usize::from(self.header_bytes);
                let count = (HEADER_BYTES - have).min(data.len() - at);
                self.header[have..have + count].copy_from_slice(&data[at..at + count]);
                self.header_bytes += count as u8;
                at += count;
                if have + count < HEADER_BYTES {
                    return Ok((at, Step::Nothing));
                }
                self.begin_record()?;
                if self.content_left == 0 && self.is(Type::Stdout) {
                    self.is_stdout_ended = true;
                    return Ok((at, Step::StdoutEnd));
                }
            }
            if self.content_left > 0 {
                let count = usize::from(self.content_left).min(data.len() - at);
                if count == 0 {
                    return Ok((at, Step::Nothing));
                }
                let piece = at..at + count;
                let position = self.content_bytes() - usize::from(self.content_left);
                self.content_left -= count as u16;
                if self.is(Type::Stdout) {
                    return Ok((piece.end, Step::Stdout(piece)));
                }
                if self.is(Type::Stderr) {
                    return Ok((piece.end, Step::Stderr { piece, is_last: self.content_left == 0 }));
                }
                // the application's own status comes first, in four bytes
                if let Some(status) =
                    4usize.checked_sub(position).and_then(|offset| data[piece.clone()].get(offset))
                {
                    self.status = *status;
                }
                at = piece.end;
                continue;
            }
            let count = usize::from(self.padding_left).min(data.len() - at);
            self.padding_left -= count as u8;
            at += count;
            if self.padding_left > 0 {
                return Ok((at, Step::Nothing));
            }
            self.header_bytes = 0;
            if self.is(Type::EndRequest) {
                return Ok((at, Step::End(self.outcome())));
            }
            if at == data.len() {
                return Ok((at, Step::Nothing));
            }
        }
    }

    fn begin_record(&mut self) -> Result<(), Error> {
        let [version, kind, id_high, id_low, _, _, padding, _] = self.header;
        if version != VERSION {
            return Err(Error::Version);
        }
        if !matches!(kind, 3 | 6 | 7) {
            return Err(Error::Type);
        }
        if (id_high, id_low) != (0, REQUEST_ID) {
            return Err(Error::RequestId);
        }
        (self.content_left, self.padding_left) = (self.content_bytes() as u16, padding);
        Ok(())
    }

    fn content_bytes(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[4], self.header[5]]))
    }

    fn is(&self, kind: Type) -> bool {
        self.header[1] == kind as u8
    }

    fn outcome(&self) -> Outcome {
        match self.status {
            1 => Outcome::CannotMultiplex,
            2 => Outcome::Overloaded,
            3 => Outcome::UnknownRole,
            _ => Outcome::Complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stdout, messages and outcome of a response, and the bytes after it.
    type Read = (Vec<u8>, Vec<Vec<u8>>, Option<Outcome>, Vec<u8>);

    fn read(parts: &[&[u8]]) -> Result<Read, Error> {
        let mut records = Records::default();
        let (mut stdout, mut messages, mut outcome, mut rest) =
            (Vec::new(), vec![Vec::new()], None, Vec::new());
        for part in parts {
            let mut at = 0;
            while at < part.len() && outcome.is_none() {
                let (count, step) = records.step(&part[at..])?;
                assert!(count > 0, "each step takes something");
                match step {
                    Step::Stdout(piece) => stdout.extend_from_slice(&part[at..][piece]),
                    Step::Stderr { piece, is_last } => {
                        messages.last_mut().unwrap().extend_from_slice(&part[at..][piece]);
                        if is_last {
                            messages.push(Vec::new());
                        }
                    }
                    Step::End(how) => outcome = Some(how),
                    Step::StdoutEnd | Step::Nothing => {}
                }
                at += count;
            }
            rest.extend_from_slice(&part[at..]);
        }
        messages.pop();
        Ok((stdout, messages, outcome, rest))
    }

    fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
        let [high, low] = (content.len() as u16).to_be_bytes();
        let mut out = vec![1, kind, 0, 1, high, low, padding, 0];
        out.extend_from_slice(content);
        out.extend(std::iter::repeat_n(b'#', padding.into()));
        out
    }

    fn end(status: u8, padding: u8) -> Vec<u8> {
        record(3, &[0, 0, 0, 9, status, 0, 0, 0], padding)
    }

    #[test]
    fn reads_a_response_at_every_cut() {
        let bytes = [
            record(6, b"Status: 200 OK\r\n", 3),
            record(7, b"a message", 0),
            record(7, b"", 0),
            record(6, b"\r\nbody", 255),
            record(7, b"another", 1),
            record(6, b"", 2),
            end(0, 5),
            b"NEXT".to_vec(),
        ]
        .concat();
        let whole = read(&[&bytes]).unwrap();
        assert_eq!(whole.0, b"Status: 200 OK\r\n\r\nbody");
        assert_eq!(whole.1, [b"a message".to_vec(), b"another".to_vec()]);
        assert_eq!((whole.2, &*whole.3), (Some(Outcome::Complete), &b"NEXT"[..]));
        for cut in 1..bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]).unwrap(), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), whole, "byte by byte");
    }

    #[test]
    fn the_end_says_how_it_went() {
        for (status, expected) in [
            (0, Outcome::Complete),
            (1, Outcome::CannotMultiplex),
            (2, Outcome::Overloaded),
            (3, Outcome::UnknownRole),
            (9, Outcome::Complete),
        ] {
            let bytes = end(status, 0);
            assert_eq!(read(&[&bytes]).unwrap().2, Some(expected));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single).unwrap().2, Some(expected));
        }
        assert_eq!(read(&[&record(3, b"", 0)]).unwrap().2, Some(Outcome::Complete), "without its content");
        assert_eq!(read(&[&end(0, 5)[..20]]).unwrap().2, None, "its padding belongs to it");
    }

    #[test]
    fn refuses_what_is_no_record_of_the_request() {
        for (bytes, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Error::Version),
            (&[0, 6, 0, 1, 0, 0, 0, 0], Error::Version),
            (&[1, 5, 0, 1, 0, 0, 0, 0], Error::Type),
            (&[1, 10, 0, 0, 0, 0, 0, 0], Error::Type),
            (&[1, 6, 0, 2, 0, 0, 0, 0], Error::RequestId),
            (&[1, 6, 1, 1, 0, 0, 0, 0], Error::RequestId),
        ] {
            assert_eq!(read(&[bytes]).unwrap_err(), expected);
        }
    }

    /// The pairs of a stream of parameters, each record read by itself.
    fn pairs(mut bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some((header, after)) = bytes.split_first_chunk::<8>() {
            assert_eq!(header[..4], [1, 4, 0, 1]);
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let mut content = &after[..length];
            while !content.is_empty() {
                let mut length = || match content[0] {
                    short @ 0..=127 => (usize::from(short), content = &content[1..]).0,
                    _ => {
                        let long = u32::from_be_bytes(content[..4].try_into().unwrap()) & !(1 << 31);
                        content = &content[4..];
                        long as usize
                    }
                };
                let (name, value) = (length(), length());
                out.push((content[..name].to_vec(), content[name..name + value].to_vec()));
                content = &content[name + value..];
            }
            bytes = &after[length..];
        }
        out
    }

    #[test]
    fn parameters_of_any_length_are_read_back() {
        let mut out = Vec::new();
        let mut params = Params::begin(&mut out);
        let mut expected = Vec::new();
        for length in [0, 1, 126, 127, 128, 129, 300, 30_000, 30_000, 30_000, 65_400] {
            let (name, value) = (vec![b'N'; length % 200], vec![b'v'; length]);
            params.push(&name, true, |out| out.extend_from_slice(&value));
            params.push(b"EMPTY", false, |_| {});
            expected.push((name, value));
        }
        params.end().unwrap();
        assert_eq!(pairs(&out), expected);
        assert!(out.ends_with(&header(Type::Params, 0)), "the stream has an end");
    }

    #[test]
    fn a_request_without_parameters_has_one_empty_record() {
        let mut out = Vec::new();
        Params::begin(&mut out).end().unwrap();
        assert_eq!(out, header(Type::Params, 0));
    }

    #[test]
    fn a_parameter_that_fits_no_record_is_refused() {
        let mut out = Vec::new();
        let mut params = Params::begin(&mut out);
        params.push(b"LONG", true, |out| out.extend_from_slice(&[b'x'; 65_527]));
        params.push(b"A", true, |out| out.push(b'b'));
        let refused = Unsendable::TooLong { name: b"LONG"[..].into(), bytes: 65_536, max: CONTENT_BYTES_MAX };
        assert_eq!(params.end(), Err(refused));
        let mut out = Vec::new();
        let mut params = Params::begin(&mut out);
        params.push(b"LONG", true, |out| out.extend_from_slice(&[b'x'; 65_526]));
        assert_eq!(params.end(), Ok(()));
    }

    #[test]
    fn a_stream_of_any_length_is_read_back() {
        for length in [1, 65_535, 65_536, 200_000] {
            let (content, mut out) = (vec![b'x'; length], Vec::new());
            stream(Type::Stdin, &content, &mut out);
            assert_eq!(out.len(), length + length.div_ceil(CONTENT_BYTES_MAX) * HEADER_BYTES);
            assert_eq!(contents(&out), content);
        }
        assert_eq!(contents(b""), b"");
        assert_eq!(contents(&header(Type::Stdin, 9)), b"", "cut off");
    }
}
