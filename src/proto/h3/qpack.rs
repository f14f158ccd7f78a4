//! Field compression for HTTP/3.
//!
//! A [`Decoder`] keeps the dynamic table that the peer's encoder fills; its memory is at most
//! [`TABLE_BYTES_MAX`] and the overhead of its entries. Encoding uses the static table and Huffman code only, so it needs
//! no state, and no section of ours can be blocked. Touches: nothing. RFC 9204.

mod encode;
mod table;

use std::fmt;

pub use encode::{PREFIX, put_field, put_named, put_status};
pub use table::STATIC;
use table::Table;

use crate::proto::h2::huffman;
use crate::proto::h3::Code;
use crate::proto::h3::frame::Fault;

/// SETTINGS_QPACK_MAX_TABLE_CAPACITY as we offer it; as nginx.
pub const TABLE_BYTES_MAX: usize = 4096;
/// SETTINGS_QPACK_BLOCKED_STREAMS as we offer it; as nginx.
pub const BLOCKED_MAX: usize = 16;
/// The size that an entry counts beyond its bytes (§3.2.1).
const ENTRY_BYTES: usize = 32;
/// The most entries of the table.
const ENTRIES_MAX: u64 = (TABLE_BYTES_MAX / ENTRY_BYTES) as u64;
/// The longest string of an instruction on the encoder stream: what it decodes to has to fit into the table, and no code of
/// Huffman's is longer than 30 bits.
const INSERTED_BYTES_MAX: usize = 4 * TABLE_BYTES_MAX;

/// The most that a [`Decoder`] holds, but for what waits to be sent: the table, and the start of an instruction with two
/// strings.
#[cfg(any(test, feature = "property"))]
pub const MEMORY_BYTES_MAX: usize = TABLE_BYTES_MAX + 2 * (INSERTED_BYTES_MAX + 16);

/// Takes the fields of a section in their order. An error ends the decoding.
pub trait Sink {
    type Stop;
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Self::Stop>;
}

/// Why a section has not been decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed<S> {
    /// It needs entries that have not come yet.
    Blocked,
    /// It cannot be decoded: the connection must end with QPACK_DECOMPRESSION_FAILED.
    Invalid,
    /// The sink has stopped.
    Stopped(S),
}

impl<S> From<Wrong> for Failed<S> {
    fn from(_: Wrong) -> Self {
        Self::Invalid
    }
}

/// Bytes that are no field section, or no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong;

/// The decoder of one direction of a connection.
pub struct Decoder {
    table: Table,
    /// The longest name and the longest value that may be inserted.
    field_bytes_max: usize,
    /// The start of an instruction whose end has not come yet.
    rest: Vec<u8>,
    /// With fewer bytes in `rest` the instruction cannot be complete, so it is not looked at: bytes that come one by one would
    /// otherwise have everything before them read again each.
    wanted: usize,
    /// Insertions that the peer was told about.
    told: u64,
    /// Instructions for the decoder stream.
    out: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(TABLE_BYTES_MAX)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoder").field("inserted", &self.table.inserted()).finish_non_exhaustive()
    }
}

impl Decoder {
    /// `field_bytes_max`: the longest name and the longest value that may be inserted into the table.
    pub fn new(field_bytes_max: usize) -> Self {
        Self {
            table: Table::default(),
            field_bytes_max,
            rest: Vec::new(),
            wanted: 0,
            told: 0,
            out: Vec::new(),
        }
    }

    /// Decodes one whole field section, and acknowledges it if it uses the dynamic table (§4.4.1).
    ///
    /// Time is linear in the section and in what comes out of it, which `sink` bounds.
    pub fn decode<S: Sink>(
        &mut self,
        stream: u64,
        section: &[u8],
        sink: &mut S,
    ) -> Result<(), Failed<S::Stop>> {
        let mut rest = section;
        let required = self.required(integer(&mut rest, 8)?)?;
        if required > self.table.inserted() {
            return Err(Failed::Blocked);
        }
        let is_negative = rest.first().is_some_and(|first| first & 0x80 != 0);
        let delta = integer(&mut rest, 7)?;
        let base = match is_negative {
            true => required.checked_sub(delta + 1).ok_or(Wrong)?,
            false => required + delta,
        };
        let mut scratch = Vec::new();
        while let Some(&first) = rest.first() {
            // Only the pattern for an indexed line needs no string.
            let (name, is_dynamic) = match first {
                0x80.. => {
                    let index = integer(&mut rest, 6)?;
                    let absolute = match first & 0x40 {
                        0 => Some(base.checked_sub(index + 1).ok_or(Wrong)?),
                        _ => None,
                    };
                    let (name, value) = self.entry(index, absolute, required)?;
                    sink.field(name, value).map_err(Failed::Stopped)?;
                    continue;
                }
                0x10..0x20 => {
                    let absolute = base + integer(&mut rest, 4)?;
                    let (name, value) = self.entry(0, Some(absolute), required)?;
                    sink.field(name, value).map_err(Failed::Stopped)?;
                    continue;
                }
                0x40..0x80 => {
                    let index = integer(&mut rest, 4)?;
                    match first & 0x10 {
                        0 => (base.checked_sub(index + 1).ok_or(Wrong)?, true),
                        _ => (index, false),
                    }
                }
                0x00..0x10 => (base + integer(&mut rest, 3)?, true),
                0x20..0x40 => {
                    scratch.clear();
                    string(&mut rest, 3, &mut scratch)?;
                    let name_length = scratch.len();
                    string(&mut rest, 7, &mut scratch)?;
                    let (name, value) = scratch.split_at(name_length);
                    sink.field(name, value).map_err(Failed::Stopped)?;
                    continue;
                }
            };
            let absolute = is_dynamic.then_some(name);
            let (name, _) = self.entry(name, absolute, required)?;
            scratch.clear();
            string(&mut rest, 7, &mut scratch)?;
            sink.field(name, &scratch).map_err(Failed::Stopped)?;
        }
        // §2.2.1: a larger count than the section needs is an error, too; nginx does not look, so we do not either.
        if required > 0 {
            put_integer(stream, 7, 0x80, &mut self.out);
            self.told = self.told.max(required);
        }
        Ok(())
    }

    /// The Required Insert Count of an encoded one (§4.5.1.1).
    fn required(&self, encoded: u64) -> Result<u64, Wrong> {
        if encoded == 0 {
            return Ok(0);
        }
        let full = 2 * ENTRIES_MAX;
        if encoded > full {
            return Err(Wrong);
        }
        let most = self.table.inserted() + ENTRIES_MAX;
        let required = most / full * full + encoded - 1;
        let required = if required > most { required.checked_sub(full).ok_or(Wrong)? } else { required };
        if required == 0 { Err(Wrong) } else { Ok(required) }
    }

    /// An entry of the static table, or the one of the dynamic table with this absolute index.
    fn entry(&self, index: u64, absolute: Option<u64>, required: u64) -> Result<(&[u8], &[u8]), Wrong> {
        match absolute {
            // §2.2.3: no reference may be larger than the count that the section has declared
            Some(absolute) if absolute >= required => Err(Wrong),
            Some(absolute) => self.table.get(absolute).ok_or(Wrong),
            None => {
                let entry = usize::try_from(index).ok().and_then(|index| STATIC.get(index)).ok_or(Wrong)?;
                Ok((entry.0.as_bytes(), entry.1.as_bytes()))
            }
        }
    }

    /// Takes bytes of the peer's encoder stream. True: entries were inserted, so that sections may go on.
    ///
    /// Time is linear in the bytes, however they are cut, apart from the entries that instructions copy.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let before = self.table.inserted();
        self.rest.extend_from_slice(bytes);
        if self.rest.len() < self.wanted {
            return Ok(false);
        }
        self.wanted = 0;
        let held = std::mem::take(&mut self.rest);
        let mut rest = &held[..];
        while !rest.is_empty() {
            match self.instruction(&mut rest) {
                Ok(()) => {}
                Err(Stopped::More(missing)) => {
                    self.wanted = rest.len().saturating_add(missing);
                    self.rest = rest.to_vec();
                    break;
                }
                Err(Stopped::Wrong) => {
                    return Err(Fault::new(Code::ENCODER_STREAM_ERROR, "invalid encoder instruction"));
                }
                Err(Stopped::Long) => {
                    return Err(Fault::new(Code::EXCESSIVE_LOAD, "too large header field"));
                }
            }
        }
        Ok(self.table.inserted() > before)
    }

    /// One instruction of the encoder stream (§4.3). Removes it from the input, if it is complete.
    fn instruction(&mut self, input: &mut &[u8]) -> Result<(), Stopped> {
        let mut rest = *input;
        let first = *rest.first().ok_or(Stopped::More(1))?;
        let mut name = Vec::new();
        match first {
            0x80.. => {
                let index = partial(&mut rest, 6)?;
                let entry = match first & 0x40 {
                    0 => self.table.newest(index).ok_or(Stopped::Wrong)?.0,
                    _ => {
                        let entry = usize::try_from(index).ok().and_then(|index| STATIC.get(index));
                        entry.ok_or(Stopped::Wrong)?.0.as_bytes()
                    }
                };
                name.extend_from_slice(entry);
                self.insert(&mut rest, name)?;
            }
            0x40..0x80 => {
                partial_string(&mut rest, 5, &mut name)?;
                if name.len() > self.field_bytes_max {
                    return Err(Stopped::Long);
                }
                self.insert(&mut rest, name)?;
            }
            0x20..0x40 => {
                let capacity = partial(&mut rest, 5)?;
                let capacity = usize::try_from(capacity).ok().filter(|capacity| *capacity <= TABLE_BYTES_MAX);
                self.table.set_capacity(capacity.ok_or(Stopped::Wrong)?);
            }
            _ => {
                let index = partial(&mut rest, 5)?;
                let (name, value) = self.table.newest(index).ok_or(Stopped::Wrong)?;
                let (name, value) = (name.to_vec(), value.to_vec());
                self.table.insert(&name, &value).map_err(|Wrong| Stopped::Wrong)?;
            }
        }
        *input = rest;
        Ok(())
    }

    fn insert(&mut self, rest: &mut &[u8], name: Vec<u8>) -> Result<(), Stopped> {
        let mut value = Vec::new();
        partial_string(rest, 7, &mut value)?;
        if value.len() > self.field_bytes_max {
            return Err(Stopped::Long);
        }
        self.table.insert(&name, &value).map_err(|Wrong| Stopped::Wrong)
    }

    /// Tells the peer's encoder that a section will not be decoded (§4.4.2).
    pub fn cancel(&mut self, stream: u64) {
        if self.table.capacity() > 0 {
            put_integer(stream, 6, 0x40, &mut self.out);
        }
    }

    /// The bytes for the decoder stream, insertions that no section has acknowledged included (§4.4.3).
    pub fn take_output(&mut self) -> Vec<u8> {
        let untold = self.table.inserted() - self.told;
        if untold > 0 {
            put_integer(untold, 6, 0, &mut self.out);
            self.told += untold;
        }
        std::mem::take(&mut self.out)
    }

    /// The bytes that are held, but for what waits to be sent.
    #[cfg(any(test, feature = "property"))]
    pub fn memory(&self) -> usize {
        self.table.size() + self.rest.len()
    }

    /// True if [`Decoder::take_output`] has something to send.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || self.table.inserted() > self.told
    }
}

/// Checks bytes of the peer's decoder stream: our sections use no dynamic table, so the only instruction that can be true is
/// a cancellation. `rest`: the start of an instruction, kept between calls.
pub fn check_decoder_stream(rest: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Fault> {
    rest.extend_from_slice(bytes);
    let mut input = &rest[..];
    let fault = Fault::new(Code::DECODER_STREAM_ERROR, "invalid decoder instruction");
    while let Some(first) = input.first() {
        if first & 0xc0 != 0x40 {
            return Err(fault);
        }
        match partial(&mut input, 6) {
            Ok(_) => {}
            Err(Stopped::More(_)) => break,
            Err(Stopped::Wrong | Stopped::Long) => return Err(fault),
        }
    }
    *rest = input.to_vec();
    Ok(())
}

/// Why an instruction was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// Its end has not come yet: at least so many bytes are missing.
    More(usize),
    Wrong,
    /// A name or a value is longer than any that a request may have.
    Long,
}

/// The bits of the largest integer that is read: stream numbers have as many.
const INTEGER_BITS_MAX: u32 = 62;

/// An integer with a prefix of this many bits (RFC 7541 §5.1), of a stream.
fn partial(input: &mut &[u8], prefix: u32) -> Result<u64, Stopped> {
    let mut rest = *input;
    let mut byte = || -> Option<u8> {
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(*first)
    };
    let most = (1_u64 << prefix) - 1;
    let mut value = u64::from(byte().ok_or(Stopped::More(1))?) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let next = byte().ok_or(Stopped::More(1))?;
            let bits = u64::from(next & 0x7f);
            if shift + 7 > INTEGER_BITS_MAX && bits >> (INTEGER_BITS_MAX.saturating_sub(shift)) != 0 {
                return Err(Stopped::Wrong);
            }
            value += bits << shift;
            shift += 7;
            if next & 0x80 == 0 {
                break;
            }
            if shift >= INTEGER_BITS_MAX {
                return Err(Stopped::Wrong);
            }
        }
    }
    *input = rest;
    Ok(value)
}

/// The same of something that is complete.
fn integer(input: &mut &[u8], prefix: u32) -> Result<u64, Wrong> {
    // Numbers of sections are indexes and lengths: nothing overflows that is added to them.
    partial(input, prefix).ok().filter(|value| *value < 1 << 32).ok_or(Wrong)
}

/// A string whose length has a prefix of this many bits, in front of which one bit tells Huffman code (§4.1.2).
fn string(input: &mut &[u8], prefix: u32, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let is_coded = input.first().is_some_and(|first| first >> prefix & 1 != 0);
    let length = usize::try_from(integer(input, prefix)?).map_err(|_| Wrong)?;
    let (text, rest) = input.split_at_checked(length).ok_or(Wrong)?;
    *input = rest;
    take_text(text, is_coded, out)
}

/// The same of a stream.
fn partial_string(input: &mut &[u8], prefix: u32, out: &mut Vec<u8>) -> Result<(), Stopped> {
    let is_coded = input.first().is_some_and(|first| first >> prefix & 1 != 0);
    let length = usize::try_from(partial(input, prefix)?).map_err(|_| Stopped::Wrong)?;
    if length > INSERTED_BYTES_MAX {
        return Err(Stopped::Wrong);
    }
    let (text, rest) = input.split_at_checked(length).ok_or_else(|| Stopped::More(length - input.len()))?;
    *input = rest;
    take_text(text, is_coded, out).map_err(|Wrong| Stopped::Wrong)
}

fn take_text(text: &[u8], is_coded: bool, out: &mut Vec<u8>) -> Result<(), Wrong> {
    match is_coded {
        true => huffman::decode_padded(text, out).map_err(|_| Wrong), // as nginx: some encoders pad too much
        false => {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}

fn put_integer(value: u64, prefix: u32, first: u8, out: &mut Vec<u8>) {
    let most = (1_u64 << prefix) - 1;
    if value < most {
        return out.push(first | value as u8);
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests;
