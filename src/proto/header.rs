//! Names of header fields that someone asks for, as numbers; fields as places in the bytes of their head.
//!
//! Touches: nothing. RFC 9110 §5, nginx.org for the `X-Accel` names.

macro_rules! ids {
    ($($id:ident = $name:literal,)*) => {
        /// A known field name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Id { $($id,)* }

        /// All ids with their names, in the order of their numbers.
        const ALL: &[(Id, &str)] = &[$((Id::$id, $name),)*];
    };
}

ids! {
    Host = "Host",
    Connection = "Connection",
    ContentLength = "Content-Length",
    TransferEncoding = "Transfer-Encoding",
    Expect = "Expect",
    Upgrade = "Upgrade",
    Te = "TE",
    Trailer = "Trailer",
    KeepAlive = "Keep-Alive",
    ProxyConnection = "Proxy-Connection",
    ProxyAuthorization = "Proxy-Authorization",
    ProxyAuthenticate = "Proxy-Authenticate",
    ContentType = "Content-Type",
    ContentEncoding = "Content-Encoding",
    ContentLanguage = "Content-Language",
    ContentRange = "Content-Range",
    Cookie = "Cookie",
    SetCookie = "Set-Cookie",
    Date = "Date",
    Server = "Server",
    Location = "Location",
    Refresh = "Refresh",
    LastModified = "Last-Modified",
    Etag = "ETag",
    IfModifiedSince = "If-Modified-Since",
    IfNoneMatch = "If-None-Match",
    IfMatch = "If-Match",
    IfUnmodifiedSince = "If-Unmodified-Since",
    IfRange = "If-Range",
    Range = "Range",
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AcceptLanguage = "Accept-Language",
    AcceptRanges = "Accept-Ranges",
    Authorization = "Authorization",
    CacheControl = "Cache-Control",
    Expires = "Expires",
    Pragma = "Pragma",
    Age = "Age",
    Vary = "Vary",
    Via = "Via",
    Referer = "Referer",
    UserAgent = "User-Agent",
    XForwardedFor = "X-Forwarded-For",
    XForwardedProto = "X-Forwarded-Proto",
    XRealIp = "X-Real-IP",
    XAccelRedirect = "X-Accel-Redirect",
    XAccelBuffering = "X-Accel-Buffering",
    XAccelExpires = "X-Accel-Expires",
    XAccelLimitRate = "X-Accel-Limit-Rate",
    XAccelCharset = "X-Accel-Charset",
    WwwAuthenticate = "WWW-Authenticate",
    Link = "Link",
    Status = "Status",
    Depth = "Depth",
    Destination = "Destination",
    Overwrite = "Overwrite",
    Http2Settings = "HTTP2-Settings",
    Origin = "Origin",
    Allow = "Allow",
}

const _: () = assert!(ALL.len() <= u64::BITS as usize, "Id::bit needs wider sets");

/// Places of the table of known names; several times as many as names, so that a good seed is found soon.
const PLACES: usize = 512;
const NOBODY: u8 = u8::MAX;
/// Where each name is, and the seed with which no two of them share a place.
static TABLE: ([u8; PLACES], u32) = table();

/// Room for the longest known name, in words of eight bytes.
const WORD_BYTES: usize = 24;
/// Each name as words, and the bit of every letter that is its case: the one in which a name may differ.
static WORDS: [([u64; 3], [u64; 3]); ALL.len()] = words();

const fn words() -> [([u64; 3], [u64; 3]); ALL.len()] {
    let mut all = [([0; 3], [0; 3]); ALL.len()];
    let mut index = 0;
    while index < ALL.len() {
        let name = ALL[index].1.as_bytes();
        assert!(name.len() <= WORD_BYTES);
        let mut at = 0;
        while at < name.len() {
            let shift = 8 * (at % 8);
            all[index].0[at / 8] |= (name[at] as u64) << shift;
            if name[at].is_ascii_alphabetic() {
                all[index].1[at / 8] |= 0x20 << shift;
            }
            at += 1;
        }
        index += 1;
    }
    all
}

const fn table() -> ([u8; PLACES], u32) {
    assert!(ALL.len() < NOBODY as usize);
    let mut seed: u32 = 0x9e37_79b1;
    loop {
        let mut places = [NOBODY; PLACES];
        let mut index = 0;
        while index < ALL.len() {
            let at = place(ALL[index].1.as_bytes(), seed);
            if places[at] != NOBODY {
                break;
            }
            places[at] = index as u8;
            index += 1;
        }
        if index == ALL.len() {
            return (places, seed);
        }
        seed = seed.wrapping_mul(0x0001_0dcd).wrapping_add(2);
    }
}

/// The place of a name (not empty), made of its length and three of its letters in lower case.
const fn place(name: &[u8], seed: u32) -> usize {
    let length = name.len();
    let key =
        u32::from_le_bytes([name[0] | 0x20, name[length / 2] | 0x20, name[length - 1] | 0x20, length as u8]);
    (key.wrapping_mul(seed) >> 16) as usize % PLACES
}

/// A one, and a high bit, in each byte of a word.
pub(in crate::proto) const ONES: u64 = u64::MAX / 255;
pub(in crate::proto) const HIGHS: u64 = ONES << 7;

impl Id {
    /// The id of a name in any case.
    pub fn of(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; WORD_BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Self::of_words(words_of(&bytes), &bytes, name.len())
    }

    /// The id of the name that a line begins with, and the name's length; `None` where no known name stands before
    /// a colon.
    #[inline]
    pub(in crate::proto) fn of_line(line: &[u8]) -> Option<(usize, Self)> {
        let mut padded = [0; WORD_BYTES];
        let bytes = line.first_chunk().unwrap_or_else(|| {
            padded[..line.len()].copy_from_slice(line);
            &padded
        });
        let [first, second, third] = words_of(bytes);
        let (length, words) = if let Some(bits) = colon(first) {
            (bits / 8, [below(first, bits), 0, 0])
        } else if let Some(bits) = colon(second) {
            (8 + bits / 8, [first, below(second, bits), 0])
        } else {
            let bits = colon(third)?;
            (16 + bits / 8, [first, second, below(third, bits)])
        };
        Some((length, Self::of_words(words, bytes, length)?))
    }

    /// `words`: the name and zeros; `bytes`: the name and whatever follows.
    #[inline]
    fn of_words(words: [u64; 3], bytes: &[u8; WORD_BYTES], length: usize) -> Option<Self> {
        let (places, seed) = &TABLE;
        let name = bytes.get(..length).filter(|name| !name.is_empty())?;
        let index = usize::from(places[place(name, *seed)]);
        let (known, case) = WORDS.get(index)?;
        // Where a name ends its word has zeros, which no letter equals in any case.
        let difference = (words[0] ^ known[0]) & !case[0]
            | (words[1] ^ known[1]) & !case[1]
            | (words[2] ^ known[2]) & !case[2];
        (difference == 0).then_some(ALL[index].0)
    }

    /// A bit of its own, for sets of ids.
    pub(in crate::proto) const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// The name as it is usually written.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }
}

/// At which bit of a word the first colon begins.
#[inline]
fn colon(word: u64) -> Option<usize> {
    let word = word ^ (ONES * b':' as u64);
    let colons = word.wrapping_sub(ONES) & !word & HIGHS; // the lowest one is a colon for sure
    (colons != 0).then(|| colons.trailing_zeros() as usize - 7)
}

#[inline]
fn below(word: u64, bits: usize) -> u64 {
    word & !(u64::MAX << bits)
}

#[inline]
fn words_of(bytes: &[u8; WORD_BYTES]) -> [u64; 3] {
    let (words, _) = bytes.as_chunks::<8>();
    [0, 1, 2].map(|at| u64::from_le_bytes(words[at]))
}

/// A field as places in its head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub(in crate::proto) name_start: u32,
    pub(in crate::proto) value_start: u32,
    pub(in crate::proto) value_length: u32,
    pub(in crate::proto) name_length: u16,
    pub id: Option<Id>,
    /// The name has characters beyond letters, digits and `-` (`ignore_invalid_headers off` lets it through).
    pub is_odd: bool,
}

impl Field {
    /// The name; empty when `data` is not the head's bytes.
    pub fn name<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        slice(data, self.name_start, u32::from(self.name_length))
    }

    /// The whole line, where it is written as everybody writes it: `Name: value` and CRLF.
    pub fn line<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let value_start = self.name_start + u32::from(self.name_length) + 2;
        let line_end = (self.value_start + self.value_length) as usize + 2;
        let line = data.get(self.name_start as usize..line_end)?;
        (value_start == self.value_start
            && line[usize::from(self.name_length) + 1] == b' '
            && line.ends_with(b"\r\n"))
        .then_some(line)
    }

    /// The value without the whitespace around it; empty when `data` is not the head's bytes.
    pub fn value<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        slice(data, self.value_start, self.value_length)
    }
}

fn slice(data: &[u8], start: u32, length: u32) -> &[u8] {
    let start = start as usize;
    data.get(start..start + length as usize).unwrap_or(&[])
}

/// What the `Connection` fields of a head ask for (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    fields: &'a [Field],
    data: &'a [u8],
}

impl<'a> Connection<'a> {
    pub(in crate::proto) fn of(fields: &'a [Field], data: &'a [u8]) -> Self {
        let mut connection = Self { close: false, keep_alive: false, upgrade: false, fields, data };
        let mut values = fields.iter().filter(|field| field.id == Some(Id::Connection));
        // The usual values are no lists.
        match (values.next().map(|field| field.value(data)), values.next()) {
            (None, _) => return connection,
            (Some(value), None) if value.eq_ignore_ascii_case(b"keep-alive") => {
                return Self { keep_alive: true, ..connection };
            }
            (Some(value), None) if value.eq_ignore_ascii_case(b"close") => {
                return Self { close: true, ..connection };
            }
            _ => {}
        }
        for token in connection.tokens() {
            connection.close |= token.eq_ignore_ascii_case(b"close");
            connection.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            connection.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
        connection
    }

    /// Every token, among them the names of fields that must not be forwarded.
    pub fn tokens(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let data = self.data;
        let values = self
            .fields
            .iter()
            .filter(|field| field.id == Some(Id::Connection))
            .map(|field| field.value(data));
        values.flat_map(tokens)
    }

    /// The field of this name ends at this hop.
    pub fn names(&self, field_name: &[u8]) -> bool {
        self.tokens().any(|token| token.eq_ignore_ascii_case(field_name))
    }
}

/// The members of a comma-separated list, without empty ones.
pub fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (index, (id, name)) in ALL.iter().enumerate() {
            assert_eq!(*id as usize, index);
            assert_eq!(Id::of(name.as_bytes()), Some(*id));
            assert_eq!(Id::of(name.to_ascii_uppercase().as_bytes()), Some(*id));
            assert_eq!(Id::of(&name.as_bytes()[1..]), None, "{name}");
        }
        assert_eq!(Id::of(b""), None);
        assert_eq!(Id::of(&[b'h'; 100]), None);
    }

    #[test]
    fn a_line_is_whole_only_as_everybody_writes_it() {
        let line_of = |text: &'static str| {
            let data = format!("GET / HTTP/1.1\r\nHost: h\r\n{text}\r\nB: c\r\n\r\n").into_bytes();
            let mut head = crate::proto::h1::request::RequestHead::default();
            let limits = crate::proto::h1::request::Limits::default();
            crate::proto::h1::request::parse(&data, &limits, &mut head).expect("a head");
            head.fields[1].line(&data).map(<[u8]>::to_vec)
        };
        for text in ["A: b", "A: b c", "A: ", "Long-Name: value"] {
            assert_eq!(line_of(text), Some(format!("{text}\r\n").into_bytes()));
        }
        for text in ["A:b", "A:  b", "A: b ", "A:\tb", "A: b\t", "A:", "A:  "] {
            assert_eq!(line_of(text), None, "{text:?}");
        }
        let bare = b"GET / HTTP/1.1\nHost: h\n\n";
        let mut head = crate::proto::h1::request::RequestHead::default();
        crate::proto::h1::request::parse(bare, &Default::default(), &mut head).expect("a head");
        assert_eq!(head.fields[0].line(bare), None);
    }

    #[test]
    fn a_field_is_small() {
        assert_eq!(size_of::<Field>(), 16);
    }
}
