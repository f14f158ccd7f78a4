//! The file of a stored response, byte for byte as nginx writes it (version 5 of its format, 64-bit little-endian).
//!
//! A directory that nginx has filled serves hits here, and the other way round. A file is a fixed part with C's alignment,
//! the line `KEY: …` between two LF, the head of the response, and its body up to the end of the file.
//!
//! ```text
//!   0 version  u64      40 date          i64      56 body_start u16       187 vary_length u8
//!   8 valid    i64      48 CRC-32 of key u32      58 etag_length u8       188 vary, 128 bytes
//!  16 updating i64      52 valid_ms      u16      59 etag, 128 bytes      316 variant, 16 bytes
//!  24 error    i64      54 header_start  u16                              332 stamp        u32
//!  32 last_modified i64                                                   336 LF "KEY: " key LF, head, body
//! ```
//!
//! The stamp is ours: in nginx's files those bytes are padding, which nginx writes as zeros and does not read.
//!
//! The head is that of an HTTP/1 response as it was received. nginx stores chunked bodies decoded and leaves the head
//! as it is, so the length of a body is that of the file, whatever the head says. Answers of FastCGI and HTTP/2 begin with
//! frames in nginx's files; those files are reported as broken.
//!
//! Touches: nothing; bytes in, bytes out. The file may have been written by anybody: nothing in it is trusted.
//! Behaviour: nginx, `ngx_http_file_cache_header_t`.

#[cfg(any(test, feature = "property"))]
pub mod property;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use crate::cache::key::Key;

/// Length of the fixed part, with the bytes that nginx uses as padding.
pub const FIXED_BYTES: usize = 336;
/// No head ends later, as its end is a number of 16 bits: a reader needs no more than this to see the whole head.
pub const BODY_START_MAX: usize = u16::MAX as usize;
/// Maximum length of an ETag that is stored, and of the names of `Vary`.
pub const TEXT_BYTES_MAX: usize = 128;

const VERSION: u64 = 5;
const KEY_LABEL: &[u8] = b"\nKEY: ";
/// Where the key begins.
pub const KEY_AT: usize = FIXED_BYTES + KEY_LABEL.len();

const VALID: usize = 8;
const UPDATING: usize = 16;
const ERROR: usize = 24;
const LAST_MODIFIED: usize = 32;
const DATE: usize = 40;
const CRC32: usize = 48;
const VALID_MS: usize = 52;
const HEADER_START: usize = 54;
const BODY_START: usize = 56;
const ETAG: usize = 58;
const VARY: usize = 187;
const VARIANT: usize = 316;
const STAMP: usize = 332;

/// Everything about a stored response that is not in its head. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The response is fresh up to and including this second.
    pub valid_s: i64,
    /// Milliseconds beyond `date`, and so beyond `valid_s` too, as nginx has it, which does not read them.
    pub valid_ms: u16,
    /// How long the response may be sent stale while it is being updated (`stale-while-revalidate`).
    pub updating_s: i64,
    /// How long the response may be sent stale instead of an error (`stale-if-error`).
    pub error_s: i64,
    pub last_modified: Option<i64>,
    /// When the response was received or last validated.
    pub date: i64,
    /// Empty: the response has none. One longer than [`TEXT_BYTES_MAX`] is not stored, as in nginx.
    pub etag: Box<[u8]>,
    /// The value of `Vary`, at most [`TEXT_BYTES_MAX`] bytes; empty: the response does not vary.
    pub vary: Box<[u8]>,
    /// The request's digest over the fields named by `vary` ([`crate::cache::vary::variant`]).
    pub variant: [u8; 16],
    /// The same number in the files of one key that belong together; 0 in those of nginx. A variant is served only if it
    /// has the stamp of the file under the key itself: when that is removed and stored again it has another one, so that
    /// all variants are out of date without being looked for.
    pub stamp: u32,
    /// Where the head starts.
    pub header_start: u16,
    /// Where the body starts.
    pub body_start: u16,
}

impl Meta {
    pub fn is_fresh(&self, now_s: i64) -> bool {
        self.valid_s >= now_s
    }

    /// When the response was received or last validated, in milliseconds since 1970.
    pub fn received_ms(&self) -> i64 {
        received_ms(self.date, self.valid_ms)
    }

    /// True if `stale-while-revalidate` allows the response to be sent at this time.
    pub fn is_usable_while_updating(&self, now_s: i64) -> bool {
        self.valid_s.saturating_add(self.updating_s) >= now_s
    }

    /// True if `stale-if-error` allows the response to be sent at this time.
    pub fn is_usable_on_error(&self, now_s: i64) -> bool {
        self.valid_s.saturating_add(self.error_s) >= now_s
    }
}

/// A file whose beginning has been read up to its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub meta: Meta,
    /// The head, in the bytes that were parsed; ends where the body starts. Its lines have not been checked.
    pub head: Range<usize>,
}

/// Why a file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The body starts after the bytes that were given: `needed` is the number of bytes to give, at most
    /// [`BODY_START_MAX`]. The file is broken only if it has no more.
    Short { needed: usize },
    /// Another version of nginx's format, or no file of a cache at all.
    Version(u64),
    /// The file of another key, one whose MD5 digest is the same.
    OtherKey,
    /// A length or position that contradicts others.
    Layout(&'static str),
    /// The stored answer is no HTTP/1 response: nginx stores the frames of FastCGI and HTTP/2.
    NotHttp1,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { needed } => write!(out, "too small: {needed} bytes are needed"),
            Self::Version(version) => write!(out, "version {version} of the format instead of {VERSION}"),
            Self::OtherKey => out.write_str("it has another key (MD5 collision)"),
            Self::Layout(what) => out.write_str(what),
            Self::NotHttp1 => out.write_str("its answer is not an HTTP/1 response"),
        }
    }
}

/// All bytes before the body, for a new file: the fixed part, the key and the head.
///
/// `head` is an HTTP/1 response's, with its empty line. `header_start` and `body_start` of `meta` are not read. `None` if
/// key and head are longer than [`BODY_START_MAX`]: such a response cannot be stored.
pub fn encode(meta: &Meta, key: &Key, head: &[u8]) -> Option<Vec<u8>> {
    let header_start = header_start(key)?;
    let body_start = u16::try_from(usize::from(header_start) + head.len()).ok()?;
    let mut bytes = Vec::with_capacity(usize::from(body_start));
    bytes.extend_from_slice(&fixed(meta, key, header_start, body_start));
    bytes.extend_from_slice(KEY_LABEL);
    bytes.extend_from_slice(key.text());
    bytes.push(b'\n');
    bytes.extend_from_slice(head);
    Some(bytes)
}

/// The fixed part alone, to update a file in place: key and head stay where `meta` says they are.
pub fn encode_fixed(meta: &Meta, key: &Key) -> [u8; FIXED_BYTES] {
    fixed(meta, key, meta.header_start, meta.body_start)
}

/// Reads the beginning of the file of this key.
///
/// `bytes` is any number of bytes from the beginning of the file; those after the head are not looked at. If the head is
/// not complete, [`Broken::Short`] says how many are needed.
pub fn parse(bytes: &[u8], key: &Key) -> Result<Parsed, Broken> {
    let head_start = header_start(key).ok_or(Broken::OtherKey)?;
    if let Some(version) = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
        && version != VERSION
    {
        return Err(Broken::Version(version));
    }
    let Some((before, _)) = bytes.split_at_checked(usize::from(head_start)) else {
        return Err(Broken::Short { needed: usize::from(head_start) });
    };
    let (fixed, line) = before.split_first_chunk::<FIXED_BYTES>().ok_or(Broken::Layout("no fixed part"))?;
    let text = line.strip_prefix(KEY_LABEL).and_then(|line| line.strip_suffix(b"\n"));
    if u32::from_le_bytes(array(fixed, CRC32)) != key.crc32()
        || u16::from_le_bytes(array(fixed, HEADER_START)) != head_start
        || text != Some(key.text())
    {
        return Err(Broken::OtherKey);
    }
    let meta = Meta {
        valid_s: i64::from_le_bytes(array(fixed, VALID)),
        valid_ms: u16::from_le_bytes(array(fixed, VALID_MS)),
        updating_s: i64::from_le_bytes(array(fixed, UPDATING)),
        error_s: i64::from_le_bytes(array(fixed, ERROR)),
        last_modified: Some(i64::from_le_bytes(array(fixed, LAST_MODIFIED))).filter(|time| *time >= 0),
        date: i64::from_le_bytes(array(fixed, DATE)),
        etag: text_at(fixed, ETAG).ok_or(Broken::Layout("the length of its ETag is wrong"))?,
        vary: text_at(fixed, VARY).ok_or(Broken::Layout("the length of its Vary is wrong"))?,
        variant: array(fixed, VARIANT),
        stamp: u32::from_le_bytes(array(fixed, STAMP)),
        header_start: head_start,
        body_start: u16::from_le_bytes(array(fixed, BODY_START)),
    };
    let head = usize::from(head_start)..usize::from(meta.body_start);
    if head.start > head.end {
        return Err(Broken::Layout("its body starts before its head"));
    }
    let Some(text) = bytes.get(head.clone()) else {
        return Err(Broken::Short { needed: head.end });
    };
    if !text.starts_with(b"HTTP/1.") {
        return Err(Broken::NotHttp1);
    }
    if !text.ends_with(b"\n\r\n") && !text.ends_with(b"\n\n") {
        return Err(Broken::Layout("its head has no end"));
    }
    Ok(Parsed { meta, head })
}

/// The things that the beginning of a file says without its key being known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning<'a> {
    /// The key, as much of it as was given.
    pub key: &'a [u8],
    /// As [`Meta::received_ms`].
    pub received_ms: i64,
}

/// Reads the beginning of any file; `None`: it is none of this format.
pub fn beginning(bytes: &[u8]) -> Option<Beginning<'_>> {
    let (fixed, after) = bytes.split_first_chunk::<FIXED_BYTES>()?;
    let text = after.strip_prefix(KEY_LABEL)?;
    let length = usize::from(u16::from_le_bytes(array(fixed, HEADER_START))).checked_sub(KEY_AT + 1)?;
    let is_ours = u64::from_le_bytes(array(fixed, 0)) == VERSION;
    is_ours.then(|| Beginning {
        key: text.get(..length).unwrap_or(text),
        received_ms: received_ms(
            i64::from_le_bytes(array(fixed, DATE)),
            u16::from_le_bytes(array(fixed, VALID_MS)),
        ),
    })
}

fn received_ms(date: i64, ms: u16) -> i64 {
    date.saturating_mul(1000).saturating_add(ms.min(999).into())
}

/// Where the head starts in a file of this key. `None` if that is beyond 16 bits.
fn header_start(key: &Key) -> Option<u16> {
    u16::try_from(FIXED_BYTES + KEY_LABEL.len() + key.text().len() + 1).ok()
}

fn fixed(meta: &Meta, key: &Key, header_start: u16, body_start: u16) -> [u8; FIXED_BYTES] {
    let mut bytes = [0; FIXED_BYTES];
    put(&mut bytes, 0, &VERSION.to_le_bytes());
    put(&mut bytes, VALID, &meta.valid_s.to_le_bytes());
    put(&mut bytes, UPDATING, &meta.updating_s.to_le_bytes());
    put(&mut bytes, ERROR, &meta.error_s.to_le_bytes());
    put(&mut bytes, LAST_MODIFIED, &meta.last_modified.unwrap_or(-1).to_le_bytes());
    put(&mut bytes, DATE, &meta.date.to_le_bytes());
    put(&mut bytes, CRC32, &key.crc32().to_le_bytes());
    put(&mut bytes, VALID_MS, &meta.valid_ms.to_le_bytes());
    put(&mut bytes, HEADER_START, &header_start.to_le_bytes());
    put(&mut bytes, BODY_START, &body_start.to_le_bytes());
    put_text(&mut bytes, ETAG, &meta.etag);
    put_text(&mut bytes, VARY, &meta.vary);
    if !meta.vary.is_empty() {
        put(&mut bytes, VARIANT, &meta.variant);
    }
    put(&mut bytes, STAMP, &meta.stamp.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8; FIXED_BYTES], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Writes a length of one byte and that many bytes; nothing if the text is too long.
fn put_text(bytes: &mut [u8; FIXED_BYTES], at: usize, text: &[u8]) {
    if text.len() <= TEXT_BYTES_MAX {
        bytes[at] = text.len() as u8;
        put(bytes, at + 1, text);
    }
}

/// The text at a length of one byte. `None` if it is longer than its room.
fn text_at(bytes: &[u8; FIXED_BYTES], at: usize) -> Option<Box<[u8]>> {
    bytes[at + 1..at + 1 + TEXT_BYTES_MAX].get(..usize::from(bytes[at])).map(Into::into)
}

fn array<const N: usize>(bytes: &[u8; FIXED_BYTES], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the fields are within the fixed part")
}
