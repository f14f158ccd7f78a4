//! Ids for the names of header fields that the program knows, and fields as ranges of their head's bytes.
//!
//! Touches: nothing. RFC 9110 §5, nginx.org for the `X-Accel` names.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::proto::head::Fields;
use crate::sys::wide;

macro_rules! ids {
    ($($id:ident = $name:literal,)*) => {
        /// A known field name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Id { $($id,)* }

        /// All ids with their names, in numerical order.
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

/// A set of ids in two words. A query for a constant id is still one instruction, as with a single word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proto) struct IdSet([u64; 2]);

const _: () = assert!(ALL.len() <= 128, "IdSet needs another word");

impl IdSet {
    pub(in crate::proto) const EMPTY: Self = Self([0; 2]);

    pub(in crate::proto) const fn of(ids: &[Id]) -> Self {
        let (mut set, mut index) = (Self::EMPTY, 0);
        while index < ids.len() {
            let (word, bit) = ids[index].place();
            set.0[word] |= bit;
            index += 1;
        }
        set
    }

    /// False if it was already in the set.
    #[inline]
    pub(in crate::proto) fn insert(&mut self, id: Id) -> bool {
        let (word, bit) = id.place();
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    pub(in crate::proto) fn remove(&mut self, id: Id) {
        let (word, bit) = id.place();
        self.0[word] &= !bit;
    }

    #[inline]
    pub(in crate::proto) const fn contains(self, id: Id) -> bool {
        let (word, bit) = id.place();
        self.0[word] & bit != 0
    }

    /// True if the sets have an id in common.
    #[inline]
    pub(in crate::proto) fn meets(self, other: Self) -> bool {
        (self.0[0] & other.0[0]) | (self.0[1] & other.0[1]) != 0
    }
}

impl FromIterator<Id> for IdSet {
    fn from_iter<I: IntoIterator<Item = Id>>(ids: I) -> Self {
        let mut set = Self::EMPTY;
        for id in ids {
            set.insert(id);
        }
        set
    }
}

/// Size of the hash table of known names; several times their number, so that a good seed is found soon.
const PLACES: usize = 512;
const NOBODY: u8 = u8::MAX;
/// Maps the hash of each name to its index, with the seed that gives every name a place of its own.
static TABLE: ([u8; PLACES], u32) = table();

/// Room for the longest known name, in words of eight bytes.
const WORD_BYTES: usize = 24;

/// A known name as words of eight bytes, padded with zeros.
struct Known {
    words: [u64; 3],
    /// The bits that must match: all but the case bits of letters.
    fixed: [u64; 3],
    length: usize,
    id: Id,
}

static KNOWN: [Known; ALL.len()] = known();

const fn known() -> [Known; ALL.len()] {
    const NONE: Known = Known { words: [0; 3], fixed: [0; 3], length: 0, id: Id::Host };
    let mut all = [NONE; ALL.len()];
    let mut index = 0;
    while index < ALL.len() {
        let name = ALL[index].1.as_bytes();
        assert!(name.len() <= WORD_BYTES);
        (all[index].length, all[index].id) = (name.len(), ALL[index].0);
        let mut at = 0;
        while at < name.len() {
            let shift = 8 * (at % 8);
            all[index].words[at / 8] |= (name[at] as u64) << shift;
            let fixed = if name[at].is_ascii_alphabetic() { 0xdf } else { 0xff };
            all[index].fixed[at / 8] |= fixed << shift;
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

/// The hash of a name (not empty): of its length and its first and last letters in lower case.
const fn place(name: &[u8], seed: u32) -> usize {
    let length = name.len();
    let key = u32::from_le_bytes([name[0] | 0x20, name[length - 1] | 0x20, length as u8, 0]);
    (key.wrapping_mul(seed) >> 16) as usize % PLACES
}

/// A one, and a high bit, in each byte of a word.
pub(in crate::proto) const ONES: u64 = u64::MAX / 255;
pub(in crate::proto) const HIGHS: u64 = ONES << 7;

impl Id {
    /// The id of a name, in any case.
    pub fn of(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; WORD_BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Self::of_padded(&bytes, name.len())
    }

    /// The id and the length of the name at the start of a line; `None` if there is no known name followed by
    /// a colon.
    #[inline]
    pub(in crate::proto) fn of_line(line: &[u8]) -> Option<(usize, Self)> {
        match line.first_chunk() {
            Some(bytes) => Self::of_begin(bytes),
            None => Self::of_short_line(line),
        }
    }

    /// The same, for a line that is at least as long as the longest known name.
    #[inline(always)]
    pub(in crate::proto) fn of_whole_line(line: &[u8]) -> Option<(usize, Self)> {
        Self::of_begin(line.first_chunk()?)
    }

    #[inline(never)]
    fn of_short_line(line: &[u8]) -> Option<(usize, Self)> {
        let mut padded = [0; WORD_BYTES];
        padded.get_mut(..line.len())?.copy_from_slice(line);
        Self::of_begin(&padded)
    }

    #[inline(always)]
    fn of_begin(bytes: &[u8; WORD_BYTES]) -> Option<(usize, Self)> {
        let length = colon(bytes)?;
        Some((length, Self::of_padded(bytes, length)?))
    }

    /// `bytes` is the name and whatever follows.
    #[inline]
    fn of_padded(bytes: &[u8; WORD_BYTES], length: usize) -> Option<Self> {
        let (places, seed) = &TABLE;
        let name = bytes.get(..length).filter(|name| !name.is_empty())?;
        let known = KNOWN.get(usize::from(places[place(name, *seed)]))?;
        let (words, _) = bytes.as_chunks::<8>();
        let differing =
            |index: usize| (u64::from_le_bytes(words[index]) ^ known.words[index]) & known.fixed[index];
        (known.length == length && differing(0) | differing(1) | differing(2) == 0).then_some(known.id)
    }

    /// The word and the bit for it in sets of ids.
    #[inline]
    const fn place(self) -> (usize, u64) {
        (self as usize >> 6, 1 << (self as u8 & 63))
    }

    /// True for a field that describes the connection between two hops or frames the body there: each hop
    /// writes its own.
    pub const fn is_own(self) -> bool {
        OWN.contains(self)
    }

    /// True for a misspelled field of framing or of the connection (`Transfer_Encoding`) that CGI and WSGI
    /// programs would mistake for the real one, since they cannot tell other characters from dashes.
    #[cold]
    #[inline(never)]
    pub(in crate::proto) fn is_mimicked(name: &[u8]) -> bool {
        let Some(bytes) = name.get(..name.len().min(WORD_BYTES)).filter(|bytes| bytes.len() == name.len())
        else {
            return false;
        };
        let dashed: SmallVec<[u8; WORD_BYTES]> =
            bytes.iter().map(|byte| if byte.is_ascii_alphanumeric() { *byte } else { b'-' }).collect();
        Self::of(&dashed).is_some_and(|id| OWN.contains(id) || HOPS.contains(id))
    }

    /// The number of known names.
    pub(in crate::proto) const COUNT: usize = ALL.len();

    /// The name of the id with this number, for tables that are made while the program is compiled.
    pub(in crate::proto) const fn name_at(number: usize) -> &'static str {
        ALL[number].1
    }

    /// The name in its usual spelling.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }
}

/// The position of the first colon.
#[inline]
fn colon(bytes: &[u8; WORD_BYTES]) -> Option<usize> {
    match wide::ask(bytes, 0, |block| block.equal(b':')) {
        Some((0, next)) => wide::find(bytes, next, |block| block.equal(b':')),
        first => first.map(|(mask, _)| mask.trailing_zeros() as usize),
    }
}

/// A field, as ranges of its head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub(in crate::proto) name_start: u32,
    pub(in crate::proto) value_start: u32,
    pub(in crate::proto) value_length: u32,
    pub(in crate::proto) name_length: u16,
    pub id: Option<Id>,
    /// The name has characters other than letters, digits and `-` (`ignore_invalid_headers off` lets it
    /// through).
    pub is_odd: bool,
}

impl Field {
    /// The name; empty if `data` is not the head's bytes.
    pub fn name<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        slice(data, self.name_start, u32::from(self.name_length))
    }

    /// The lengths of the name and the value.
    #[inline]
    pub fn lengths(&self) -> (u16, u32) {
        (self.name_length, self.value_length)
    }

    /// Where its value ends in the head's bytes.
    pub fn end(&self) -> usize {
        (self.value_start + self.value_length) as usize
    }

    /// The value without surrounding whitespace; empty if `data` is not the head's bytes.
    pub fn value<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        slice(data, self.value_start, self.value_length)
    }
}

fn slice(data: &[u8], start: u32, length: u32) -> &[u8] {
    let start = start as usize;
    data.get(start..start + length as usize).unwrap_or(&[])
}

/// Maximum number of options in all `Connection` fields of a head; messages with more are refused. Real ones
/// have two or three, and each unknown option takes memory.
pub const CONNECTION_OPTIONS_MAX: usize = 64;

/// The `Connection` fields of a head have more options than [`CONNECTION_OPTIONS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOptions;

/// The content of a head's `Connection` fields (RFC 9110 §7.6.1); all their lines form one list (§5.3).
///
/// The list is parsed once, with the head, so that asking about every field takes time linear in the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Known fields in the list.
    known: IdSet,
    /// Other names in the list, as ranges of the head's bytes; sorted by [`by_name`].
    others: Vec<(u32, u16)>,
}

impl Connection {
    /// Fails if there are more than [`CONNECTION_OPTIONS_MAX`] options.
    pub(in crate::proto) fn of(fields: &Fields, data: &[u8]) -> Result<Self, TooManyOptions> {
        let mut connection = Self::default();
        let mut lines = fields.iter().filter(|field| field.id == Some(Id::Connection));
        let is_single = !fields.repeated().contains(Id::Connection);
        // The usual values are single options.
        match lines.clone().next().filter(|_| is_single).map(|field| field.value(data)) {
            Some(b"keep-alive" | b"Keep-Alive") => connection.keep_alive = true,
            Some(b"close") => connection.close = true,
            _ => connection.add(&mut lines, data)?,
        }
        Ok(connection)
    }

    #[inline(never)]
    fn add<'f>(
        &mut self,
        fields: impl Iterator<Item = &'f Field>,
        data: &[u8],
    ) -> Result<(), TooManyOptions> {
        let mut count = 0;
        for field in fields {
            let value = field.value(data);
            let mut at = 0;
            for part in value.split(|byte| *byte == b',') {
                let token = part.trim_ascii();
                let start = at + (part.len() - part.trim_ascii_start().len());
                at += part.len() + 1;
                if token.is_empty() {
                    continue;
                }
                count += 1;
                if count > CONNECTION_OPTIONS_MAX {
                    return Err(TooManyOptions);
                }
                if token.eq_ignore_ascii_case(b"close") {
                    self.close = true;
                } else if let Some(id) = Id::of(token) {
                    self.keep_alive |= id == Id::KeepAlive;
                    self.upgrade |= id == Id::Upgrade;
                    self.known.insert(id);
                } else if let Ok(length) = u16::try_from(token.len()) {
                    // a longer one cannot be the name of a field
                    self.others.push((field.value_start + start as u32, length));
                }
            }
        }
        self.others.sort_unstable_by(|one, other| by_name(name_at(data, *one), name_at(data, *other)));
        Ok(())
    }

    /// True if the sender wants this field of the head to end at this hop. `data` is the head's bytes.
    ///
    /// It is never true for known end-to-end fields, even if they are listed (§7.6.1: a sender must not list
    /// them): otherwise a client could remove fields that a proxy between it and us has added.
    #[inline]
    pub fn ends(&self, field: &Field, data: &[u8]) -> bool {
        match field.id {
            Some(id) => self.known.contains(id) && HOPS.contains(id),
            None => !self.others.is_empty() && self.has_other(field.name(data), data),
        }
    }

    /// The same for a field that is not in the head: a trailer.
    pub fn ends_name(&self, name: &[u8], data: &[u8]) -> bool {
        match Id::of(name) {
            Some(id) => self.known.contains(id) && HOPS.contains(id),
            None => self.has_other(name, data),
        }
    }

    fn has_other(&self, name: &[u8], data: &[u8]) -> bool {
        let found = self.others.binary_search_by(|place| by_name(name_at(data, *place), name));
        found.is_ok() && !is_about_client(name)
    }
}

fn name_at(data: &[u8], (start, length): (u32, u16)) -> &[u8] {
    slice(data, start, u32::from(length))
}

/// Orders names regardless of case, shorter ones first.
fn by_name(one: &[u8], other: &[u8]) -> Ordering {
    let (lower_one, lower_other) =
        (one.iter().map(u8::to_ascii_lowercase), other.iter().map(u8::to_ascii_lowercase));
    one.len().cmp(&other.len()).then_with(|| lower_one.cmp(lower_other))
}

/// Hop-by-hop fields: they concern an intermediary's connection, never the message.
const HOPS: IdSet = IdSet::of(&[
    Id::Connection,
    Id::KeepAlive,
    Id::ProxyConnection,
    Id::TransferEncoding,
    Id::Te,
    Id::Trailer,
    Id::Upgrade,
    Id::Http2Settings,
    Id::ProxyAuthenticate,
    Id::ProxyAuthorization,
]);

/// Fields that are never copied into the next message: each hop writes its own.
const OWN: IdSet = IdSet::of(&[
    Id::Connection,
    Id::KeepAlive,
    Id::ProxyConnection,
    Id::TransferEncoding,
    Id::Te,
    Id::Upgrade,
    Id::ContentLength,
]);

/// Prefixes of the fields in which proxies tell a server about its client.
const ABOUT_CLIENT: &[&str] = &[
    "x-forwarded",
    "x-real-",
    "x-client",
    "x-ssl",
    "x-tls",
    "x-original-",
    "x-auth",
    "x-remote",
    "x-user",
    "x-cluster-client",
    "x-envoy-",
    "x-amzn-",
    "x-arr-",
    "x-azure-",
    "cf-",
    "fastly-",
    "true-client-",
    "client-",
    "ssl-",
    "remote-",
    "forwarded",
];

/// True for a field that a proxy in front adds for the server's decisions. A client must not be able to
/// remove it by naming it in a `Connection` field that the proxy passes on.
fn is_about_client(name: &[u8]) -> bool {
    let begins = |start: &&str| {
        name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()))
    };
    ABOUT_CLIENT.iter().any(begins) || name.to_ascii_lowercase().ends_with(b"-cert")
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
            let mut head = crate::proto::head::RequestHead::default();
            let limits = crate::proto::h1::request::Limits::default();
            crate::proto::h1::request::parse(&data, &limits, &mut head).expect("a head");
            head.fields[1].line(&data).map(|line| line.as_bytes().to_vec())
        };
        for text in ["A: b", "A: b c", "A: ", "Long-Name: value"] {
            assert_eq!(line_of(text), Some(format!("{text}\r\n").into_bytes()));
        }
        for text in ["A:b", "A:  b", "A: b ", "A:\tb", "A: b\t", "A:", "A:  "] {
            assert_eq!(line_of(text), None, "{text:?}");
        }
        let bare = b"GET / HTTP/1.1\nHost: h\n\n";
        let mut head = crate::proto::head::RequestHead::default();
        crate::proto::h1::request::parse(bare, &Default::default(), &mut head).expect("a head");
        assert!(head.fields[0].line(bare).is_none());
    }

    fn parsed(lines: &str) -> Result<(crate::proto::head::RequestHead, Vec<u8>), crate::proto::h1::Error> {
        let data = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes();
        let mut head = crate::proto::head::RequestHead::default();
        crate::proto::h1::request::parse(&data, &Default::default(), &mut head)?;
        Ok((head, data))
    }

    #[test]
    fn all_connection_lines_are_one_list() {
        let lines = "Connection: keep-alive, X-A,, x-long-name\r\nA: b\r\nconnection:\tUPGRADE , close\r\nX-A: 1\r\nX-B: 2\r\n\
                     X-Long-Name: 3\r\nTE: x\r\n";
        let (head, data) = parsed(lines).expect("a head");
        let connection = &head.connection;
        assert!(connection.close && connection.keep_alive && connection.upgrade);
        let ended = head.fields.iter().filter(|field| connection.ends(field, &data));
        let ended: Vec<&[u8]> = ended.map(|field| field.name(&data)).collect();
        assert_eq!(ended, [&b"X-A"[..], b"X-Long-Name"]);
        assert!(connection.ends_name(b"X-LONG-NAME", &data) && !connection.ends_name(b"X-Long-Nam", &data));
        for (lines, close, keep_alive) in [
            ("", false, false),
            ("Connection: Close\r\n", true, false),
            ("Connection: Keep-Alive\r\n", false, true),
            ("Connection: closed\r\n", false, false),
            ("Connection:\r\n", false, false),
        ] {
            let (head, _) = parsed(lines).expect("a head");
            assert_eq!((head.connection.close, head.connection.keep_alive), (close, keep_alive), "{lines}");
        }
    }

    #[test]
    fn no_sender_takes_away_what_is_for_the_whole_way() {
        let names = "Host, Content-Length, Content-Type, Authorization, Cookie, Cache-Control, Range, If-None-Match, Via, \
                     Forwarded, X-Forwarded-For, X-Forwarded-Client-Cert, X-Real-IP, X-Client-Cert, Client-Cert, SSL-Client-Verify, \
                     X-Remote-User, X-SSL-Cert, My-Own-Cert";
        let (head, data) = parsed(&format!("Connection: {names}, X-Own, TE, Trailer\r\n")).expect("a head");
        for name in names.split(", ") {
            assert!(!head.connection.ends_name(name.as_bytes(), &data), "{name}");
        }
        for name in ["X-Own", "TE", "Trailer"] {
            assert!(head.connection.ends_name(name.as_bytes(), &data), "{name}");
        }
    }

    #[test]
    fn a_connection_has_few_options() {
        let list = |count| format!("Connection: {}\r\n", ",x".repeat(count));
        assert!(parsed(&list(CONNECTION_OPTIONS_MAX)).is_ok());
        assert_eq!(
            parsed(&list(CONNECTION_OPTIONS_MAX + 1)).err(),
            Some(crate::proto::h1::Error::TooManyOptions)
        );
        let lines = format!("{}{}", list(CONNECTION_OPTIONS_MAX), list(1));
        assert_eq!(parsed(&lines).err(), Some(crate::proto::h1::Error::TooManyOptions), "all lines count");
    }

    #[test]
    fn spellings_that_cgi_takes_for_framing_are_known() {
        for name in
            ["Transfer_Encoding", "content_LENGTH", "Content.Length", "Keep_Alive", "Proxy_Connection"]
        {
            assert!(Id::is_mimicked(name.as_bytes()), "{name}");
        }
        for name in ["X_Forwarded_For", "Content_Type", "Transfer_Encodings", "_", ""] {
            assert!(!Id::is_mimicked(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_set_holds_each_id_apart_from_the_others() {
        let mut set = IdSet::EMPTY;
        for (id, name) in ALL {
            assert!(!set.contains(*id) && !set.meets(IdSet::of(&[*id])), "{name}");
            assert!(set.insert(*id) && !set.insert(*id));
            assert!(set.contains(*id) && set.meets(IdSet::of(&[*id])), "{name}");
        }
        let (odd, even): (Vec<Id>, Vec<Id>) =
            ALL.iter().map(|(id, _)| *id).partition(|id| *id as u8 % 2 == 1);
        let (mut odd, even): (IdSet, IdSet) = (odd.into_iter().collect(), even.into_iter().collect());
        assert!(!odd.meets(even));
        odd.insert(Id::Host);
        assert!(odd.meets(even));
        odd.remove(Id::Host);
        assert!(!odd.contains(Id::Host) && !odd.meets(even));
    }

    #[test]
    fn a_field_is_small() {
        assert_eq!(size_of::<Field>(), 16);
    }
}
