//! Header compression for HTTP/2.
//!
//! A [`Decoder`] keeps the dynamic table of one direction; its memory is what the table's entries take, at most
//! [`TABLE_BYTES_MAX`] and their index. Encoding uses the static table and Huffman code only, so it needs no state: a
//! connection pays for no table, and the head of a response can be written before it is its turn to be sent.
//! Touches: nothing. RFC 7541.

use std::collections::VecDeque;

use crate::proto::h2::huffman;
use crate::proto::header::Id;

/// The size of the dynamic table that we offer (SETTINGS_HEADER_TABLE_SIZE): the protocol's default.
pub const TABLE_BYTES_MAX: usize = 4096;
/// What an entry counts beyond its bytes (§4.1).
const ENTRY_BYTES: usize = 32;
/// Integers of more than three bytes after their prefix are refused, as by nginx: two millions. Indexes and lengths are
/// far below that.
const INTEGER_BITS_MAX: u32 = 14;

/// The static table (appendix A); the first entry has the index 1.
#[rustfmt::skip]
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// Indexes of the pseudo-header fields in the static table.
pub const AUTHORITY: usize = 1;
pub const METHOD_GET: usize = 2;
pub const METHOD_POST: usize = 3;
pub const PATH: usize = 4;
pub const SCHEME_HTTP: usize = 6;
pub const SCHEME_HTTPS: usize = 7;
const STATUS: usize = 8;

/// Why a header block cannot be decoded. Every one of them ends the connection, since the table is lost (§4.3 of RFC 9113).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// An index that neither table has, or zero.
    Index,
    /// The block ends within an integer of several bytes.
    CutInteger,
    /// The block ends within a field.
    Cut,
    /// An integer is larger than any that makes sense.
    Integer,
    Huffman,
    /// The table would be larger than allowed.
    TableSize,
    /// A change of the table's size after the first field.
    LateTableSize,
}

/// Takes the fields of a block in their order. An error ends the decoding; the connection must end with it.
pub trait Sink {
    type Stop: From<Error>;
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Self::Stop>;
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Position of its name, counted from the first byte that was ever in the table.
    at: u32,
    name_length: u16,
    value_length: u16,
}

/// The dynamic table (§2.3.2): names and values behind each other, the oldest first.
#[derive(Debug, Default)]
struct Table {
    bytes: Vec<u8>,
    /// The position of `bytes[0]`; wraps around.
    base: u32,
    entries: VecDeque<Entry>,
    /// The sum of the entries' sizes as §4.1 counts them.
    size: usize,
}

impl Table {
    /// The entry with this index; 0 is the newest.
    fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(self.entries.len().checked_sub(index + 1)?)?;
        let start = entry.at.wrapping_sub(self.base) as usize;
        let middle = start + usize::from(entry.name_length);
        let end = middle + usize::from(entry.value_length);
        Some((self.bytes.get(start..middle)?, self.bytes.get(middle..end)?))
    }

    fn shrink_to(&mut self, max: usize) {
        while self.size > max {
            let Some(entry) = self.entries.pop_front() else { return };
            self.size -= usize::from(entry.name_length) + usize::from(entry.value_length) + ENTRY_BYTES;
        }
        match self.entries.front() {
            None => {
                self.bytes.clear();
                self.base = 0;
            }
            Some(first) => {
                let gone = first.at.wrapping_sub(self.base) as usize;
                if gone > self.bytes.len() / 2 {
                    self.bytes.drain(..gone);
                    self.base = first.at;
                }
            }
        }
    }

    fn insert(&mut self, name: &[u8], value: &[u8], max: usize) {
        let size = name.len() + value.len() + ENTRY_BYTES;
        self.shrink_to(max.saturating_sub(size));
        if size > max {
            return; // §4.4: it empties the table, and is not an error
        }
        let at = self.base.wrapping_add(self.bytes.len() as u32);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        let (name_length, value_length) = (name.len() as u16, value.len() as u16); // below `max`
        self.entries.push_back(Entry { at, name_length, value_length });
        self.size += size;
    }
}

/// The decoder of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The size that the peer has chosen.
    max: usize,
    /// Strings in Huffman code may end with a whole byte of padding.
    pub(super) is_lenient: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::default(), max: TABLE_BYTES_MAX, is_lenient: false }
    }
}

impl Decoder {
    /// Decodes one whole header block.
    ///
    /// Time is linear in the block and in what comes out of it, which `sink` bounds: a block of one-byte references to a
    /// long entry ends at its limit.
    pub fn decode<S: Sink>(&mut self, mut block: &[u8], sink: &mut S) -> Result<(), S::Stop> {
        let mut scratch = Vec::new();
        let mut has_begun = false;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let (name, value) = self.entry(index).ok_or(Error::Index)?;
                sink.field(name, value)?;
                has_begun = true;
            } else if first & 0xe0 == 0x20 {
                let max = integer(&mut block, 5)?;
                if has_begun {
                    return Err(Error::LateTableSize.into());
                }
                if max > TABLE_BYTES_MAX {
                    return Err(Error::TableSize.into());
                }
                self.max = max;
                self.table.shrink_to(max);
            } else {
                let is_indexed = first & 0x40 != 0;
                scratch.clear();
                match integer(&mut block, if is_indexed { 6 } else { 4 })? {
                    0 => self.string(&mut block, &mut scratch)?,
                    index => {
                        let (name, _) = self.entry(index).ok_or(Error::Index)?;
                        scratch.extend_from_slice(name);
                    }
                }
                let name_length = scratch.len();
                self.string(&mut block, &mut scratch)?;
                let (name, value) = scratch.split_at(name_length);
                sink.field(name, value)?;
                if is_indexed {
                    self.table.insert(name, value, self.max);
                }
                has_begun = true;
            }
        }
        Ok(())
    }

    /// A string (§5.2).
    fn string(&self, block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
        let length = integer(block, 7)?;
        let (text, rest) = block.split_at_checked(length).ok_or(Error::Cut)?;
        *block = rest;
        let decode = if self.is_lenient { huffman::decode_padded } else { huffman::decode };
        if is_coded {
            decode(text, out).map_err(|_| Error::Huffman)
        } else {
            out.extend_from_slice(text);
            Ok(())
        }
    }

    fn entry(&self, index: usize) -> Option<(&[u8], &[u8])> {
        match STATIC.get(index.checked_sub(1)?) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.table.get(index - 1 - STATIC.len()),
        }
    }

    /// Gives spare memory back, while the connection waits.
    pub fn slim(&mut self) {
        self.table.shrink_to(self.max);
        if self.table.bytes.capacity() > self.table.bytes.len() + self.table.bytes.len() / 4 {
            self.table.bytes.shrink_to_fit();
        }
        if self.table.entries.capacity() > self.table.entries.len() * 2 {
            self.table.entries.shrink_to_fit();
        }
    }
}

/// An integer with a prefix of this many bits (§5.1).
fn integer(block: &mut &[u8], prefix: u8) -> Result<usize, Error> {
    let (&first, rest) = block.split_first().ok_or(Error::Cut)?;
    *block = rest;
    let most = (1u8 << prefix).wrapping_sub(1);
    if first & most < most {
        return Ok(usize::from(first & most));
    }
    let (mut value, mut shift) = (u64::from(most), 0);
    loop {
        let (&byte, rest) = block.split_first().ok_or(Error::CutInteger)?;
        *block = rest;
        value += u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value as usize);
        }
        if shift > INTEGER_BITS_MAX {
            return Err(Error::Integer);
        }
    }
}

/// The index of a known field's name in the static table; 0: it is not there.
static INDEX_OF: [u8; Id::COUNT] = indexes();

const fn indexes() -> [u8; Id::COUNT] {
    let mut indexes = [0; Id::COUNT];
    let mut id = 0;
    while id < indexes.len() {
        let name = Id::name_at(id).as_bytes();
        let mut index = 0;
        while index < STATIC.len() {
            if name.eq_ignore_ascii_case(STATIC[index].0.as_bytes()) {
                indexes[id] = index as u8 + 1;
                break;
            }
            index += 1;
        }
        id += 1;
    }
    indexes
}

fn put_integer(value: usize, prefix: u8, first: u8, out: &mut Vec<u8>) {
    let most = (1usize << prefix) - 1;
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

fn put_string(text: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_length(text);
    if coded < text.len() {
        put_integer(coded, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        put_integer(text.len(), 7, 0, out);
        out.extend_from_slice(text);
    }
}

/// Writes a field that is an entry of the static table.
pub fn put_indexed(index: usize, out: &mut Vec<u8>) {
    out.push(0x80 | index as u8);
}

/// Writes a field whose name is that of an entry of the static table.
pub fn put_named(index: usize, value: &[u8], out: &mut Vec<u8>) {
    put_integer(index, 4, 0, out);
    put_string(value, out);
}

/// Writes `:status`.
pub fn put_status(status: u16, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(status);
    let is_same = |(name, value): &(&str, &str)| *name == ":status" && *value == digits;
    match STATIC.iter().skip(STATUS - 1).take(7).position(is_same) {
        Some(at) => put_indexed(STATUS + at, out),
        None => put_named(STATUS, digits.as_bytes(), out),
    }
}

/// Writes a field, its name in lower case. Without indexing (§6.2.2): no table has to be kept.
pub fn put_field(id: Option<Id>, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    match id.map_or(0, |id| INDEX_OF[id as usize]) {
        0 => {
            out.push(0);
            if name.iter().any(u8::is_ascii_uppercase) {
                put_string(&name.to_ascii_lowercase(), out);
            } else {
                put_string(name, out);
            }
            put_string(value, out);
        }
        index => put_named(usize::from(index), value, out),
    }
}

#[cfg(test)]
mod tests;
