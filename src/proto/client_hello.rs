//! The first message of a TLS client, as far as a server is chosen by it: server name, protocols, offers.
//!
//! Touches: nothing; bytes in, values out. Nothing is decrypted or answered here. The message may be spread
//! over several records, cut anywhere.
//! Truth: RFC 8446 §4.1.2 and §5.1, RFC 6066 §3 (server name), RFC 7301 (ALPN).

use crate::base::frame::{Fields, put_vector16};

/// Bytes of a record's header: type, version, length.
const RECORD_HEAD_BYTES: usize = 5;
/// The longest record of plaintext (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// The longest message that is read. Post-quantum key shares and lists of every extension in use fit in a
/// tenth of it.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// The longest host name (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// The most entries of one list that are kept; real clients offer a few dozen.
const ENTRIES_MAX: usize = 128;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// What a client asks for and offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name in lower case, without a final dot; empty: none, or one that is no host name.
    pub server_name: Box<str>,
    /// The protocols of ALPN in the client's order, each with its length in front, as on the wire.
    pub protocols: Box<[u8]>,
    pub cipher_suites: Box<[u16]>,
    pub groups: Box<[u16]>,
    pub signature_schemes: Box<[u16]>,
    /// Versions of `supported_versions`, or the one of the message itself.
    pub versions: Box<[u16]>,
    /// `legacy_session_id`.
    pub session_id: Box<[u8]>,
}

/// The reason why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The first byte starts no TLS record: another protocol speaks.
    NotTls,
    /// It starts like TLS, and is not well formed.
    Malformed,
    /// It is longer than [`MESSAGE_BYTES_MAX`].
    TooLarge,
}

impl ClientHello {
    /// The protocols of ALPN, without those that are empty or cut off.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Cursor(&self.protocols);
        std::iter::from_fn(move || rest.vector8()).filter(|protocol| !protocol.is_empty())
    }

    /// Appends it for another process.
    pub fn save(&self, out: &mut Vec<u8>) {
        put_vector16(out, self.server_name.as_bytes());
        put_vector16(out, &self.protocols);
        put_vector16(out, &self.session_id);
        for list in [&self.cipher_suites, &self.groups, &self.signature_schemes, &self.versions] {
            let bytes: Vec<u8> = list.iter().flat_map(|number| number.to_le_bytes()).collect();
            put_vector16(out, &bytes);
        }
    }

    /// Reads what [`ClientHello::save`] has written.
    pub fn restore(fields: &mut Fields<'_>) -> Option<Self> {
        let numbers = |bytes: &[u8]| -> Option<Box<[u16]>> {
            let (pairs, rest) = bytes.as_chunks();
            rest.is_empty().then(|| pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
        };
        Some(Self {
            server_name: std::str::from_utf8(fields.vector16()?).ok()?.into(),
            protocols: fields.vector16()?.into(),
            session_id: fields.vector16()?.into(),
            cipher_suites: numbers(fields.vector16()?)?,
            groups: numbers(fields.vector16()?)?,
            signature_schemes: numbers(fields.vector16()?)?,
            versions: numbers(fields.vector16()?)?,
        })
    }
}

/// Reads the message at the start of a connection's bytes. `None`: more bytes are needed.
pub fn parse(data: &[u8]) -> Result<Option<ClientHello>, Error> {
    match data.first() {
        None => return Ok(None),
        Some(&HANDSHAKE) => {}
        Some(_) => return Err(Error::NotTls),
    }
    // The common case, one record, is read in place.
    let mut records = Records(data);
    let Some(first) = records.next()? else { return Ok(None) };
    let mut joined = Vec::new();
    let mut message = first;
    loop {
        if let Some(hello) = parse_message(message)? {
            return Ok(Some(hello));
        }
        let Some(more) = records.next()? else { return Ok(None) };
        if joined.is_empty() {
            joined.extend_from_slice(first);
        }
        joined.extend_from_slice(more);
        message = &joined;
    }
}

/// Reads the message itself, as QUIC carries it without records. `None`: more bytes are needed.
pub fn parse_message(message: &[u8]) -> Result<Option<ClientHello>, Error> {
    let Some(head) = message.get(..4) else { return Ok(None) };
    if head[0] != CLIENT_HELLO {
        return Err(Error::Malformed);
    }
    let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    if length > MESSAGE_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    match message.get(4..4 + length) {
        Some(body) => read(body).ok_or(Error::Malformed).map(Some),
        None => Ok(None),
    }
}

/// The versions that a client seems to ask for in bytes that [`parse`] has refused or not even taken for TLS, as nginx
/// tells them: those of the compatible hello of SSL 2 (RFC 5246 §E.2), or of a message that is malformed after its
/// version. `Ok(None)`: more bytes are needed.
///
/// For `$ssl_preread_protocol` only: whatever else such a client says counts for nothing. Looks at the first record and
/// at no more bytes than there are, whatever their lengths say. Errors: it asks for none.
pub fn refused_versions(data: &[u8]) -> Result<Option<Box<[u16]>>, Error> {
    if data.first().is_some_and(|first| first & 0x80 != 0) {
        return match data {
            [_, _, 1, 0, 2, ..] => Ok(Some([2].into())),
            [_, _, 1, 3, minor, ..] => Ok(Some([0x0300 | u16::from(*minor)].into())),
            [_] | [_, _] | [_, _, 1] | [_, _, 1, 0 | 3] => Ok(None),
            _ => Err(Error::NotTls),
        };
    }
    if data.first().is_some_and(|first| *first != HANDSHAKE) {
        return Err(Error::NotTls);
    }
    let Some(message) = Records(data).next()? else { return Ok(None) };
    let found = message.strip_prefix(&[CLIENT_HELLO]).and_then(|rest| versions_of(Cursor(rest.get(3..)?)));
    found.ok_or(Error::Malformed).map(Some)
}

/// `supported_versions`, if the message gets that far, or else its own version.
fn versions_of(mut body: Cursor<'_>) -> Option<Box<[u16]>> {
    let version = body.u16()?;
    let mut supported = move || {
        body.take(32)?; // random
        body.vector8()?; // session ID
        body.vector16()?; // cipher suites
        body.vector8()?; // compression methods
        body.u16()?;
        loop {
            let kind = body.u16()?;
            let length = usize::from(body.u16()?).min(body.0.len());
            let mut content = Cursor(body.take(length)?);
            if kind == SUPPORTED_VERSIONS {
                return numbers(content.vector8()?);
            }
        }
    };
    Some(supported().unwrap_or_else(|| [version].into()))
}

/// The contents of complete handshake records, one after the other.
struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, Error> {
        let Some((head, rest)) = self.0.split_at_checked(RECORD_HEAD_BYTES) else { return Ok(None) };
        let length = usize::from(head[3]) << 8 | usize::from(head[4]);
        // An empty fragment would allow a message of any number of records (RFC 8446 §5.1).
        if head[0] != HANDSHAKE || head[1] != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Err(Error::Malformed);
        }
        let Some((content, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        self.0 = rest;
        Ok(Some(content))
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

fn read(body: &[u8]) -> Option<ClientHello> {
    let mut body = Cursor(body);
    let version = body.u16()?;
    body.take(32)?; // random
    let session_id = body.vector8().filter(|id| id.len() <= 32)?;
    let suites = body.vector16()?;
    body.vector8()?; // compression methods
    let mut hello = ClientHello {
        cipher_suites: numbers(suites)?,
        versions: [version].into(),
        session_id: session_id.into(),
        ..ClientHello::default()
    };
    if body.0.is_empty() {
        return Some(hello); // TLS 1.2 without extensions
    }
    let mut extensions = Cursor(body.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = Cursor(extensions.vector16()?);
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut content)?,
            SUPPORTED_GROUPS => hello.groups = numbers(content.vector16()?)?,
            SIGNATURE_ALGORITHMS => hello.signature_schemes = numbers(content.vector16()?)?,
            SUPPORTED_VERSIONS => hello.versions = numbers(content.vector8()?)?,
            ALPN => hello.protocols = content.vector16()?.into(),
            _ => {}
        }
    }
    Some(hello)
}

/// The first host name of the list. One that is none (an address, a forbidden character) counts as absent,
/// so that the default server answers.
fn server_name(content: &mut Cursor<'_>) -> Option<Box<str>> {
    let mut list = Cursor(content.vector16()?);
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind == 0 {
            let name = name.strip_suffix(b".").unwrap_or(name);
            let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte));
            let name = std::str::from_utf8(name).ok().filter(|_| is_name).unwrap_or_default();
            return Some(name.to_ascii_lowercase().into());
        }
    }
    Some("".into())
}

fn numbers(bytes: &[u8]) -> Option<Box<[u16]>> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.take(ENTRIES_MAX).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[2, 0xaa, 0xbb],
            &vector16(&[0x13, 1, 0xc0, 0x2f]),
            &[1, 0],
            &vector16(&extensions.concat()),
        ]
        .concat();
        [&[1, 0][..], &vector16(&body)].concat()
    }

    fn named(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &vector16(&[&[0][..], &vector16(name)].concat()))
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
    }

    #[test]
    fn a_hello_is_read_however_it_is_cut() {
        let message = hello(&[
            named(b"WWW.example.org."),
            extension(ALPN, &vector16(b"\x02h2\x08http/1.1")),
            extension(SUPPORTED_GROUPS, &vector16(&[0x11, 0xec, 0, 29])),
            extension(SIGNATURE_ALGORITHMS, &vector16(&[4, 3, 8, 4])),
            extension(SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3]),
            extension(0xaaaa, b""),
        ]);
        let whole = parse(&records(&message, 16_384)).unwrap().unwrap();
        assert_eq!(&*whole.server_name, "www.example.org");
        assert_eq!(whole.protocols().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        assert_eq!((&*whole.groups, &*whole.versions), (&[0x11ec, 29][..], &[0x304, 0x303][..]));
        assert_eq!((&*whole.cipher_suites, &*whole.session_id), (&[0x1301, 0xc02f][..], &[0xaa, 0xbb][..]));
        for size in [1, 2, 3, 50, message.len() - 1] {
            let bytes = records(&message, size);
            assert_eq!(parse(&bytes), Ok(Some(whole.clone())), "{size}");
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{size} {end}");
            }
        }
    }

    #[test]
    fn names_that_are_no_host_names_count_as_absent() {
        for (name, expected) in [
            (&b"a"[..], "a"),
            (b"", ""),
            (b".", ""),
            (b"a b", ""),
            (b"a\0b", ""),
            (b"\xff", ""),
            (&[b'a'; 256], ""),
            (b"x_y.Z", "x_y.z"),
        ] {
            let found = parse(&records(&hello(&[named(name)]), 999)).unwrap().unwrap();
            assert_eq!(&*found.server_name, expected, "{name:?}");
        }
    }

    #[test]
    fn versions_of_a_refused_hello_are_told() {
        let told = |data: &[u8]| refused_versions(data).map(|found| found.map(|found| found.to_vec()));
        assert_eq!(told(b"\x80\x1c\x01\x00\x02\x00\x03"), Ok(Some(vec![2])));
        assert_eq!(told(b"\x80\x1c\x01\x03\x01"), Ok(Some(vec![0x0301])));
        for end in 0..5 {
            assert_eq!(told(&b"\x80\x1c\x01\x00\x02"[..end]), Ok(None), "{end}");
        }
        for other in
            [&b"\x80\x1c\x02"[..], b"\x80\x1c\x01\x04", b"\x80\x1c\x01\x00\x03", b"\xff\xff\xff", b"GE"]
        {
            assert_eq!(told(other), Err(Error::NotTls), "{other:?}");
        }
        // The extension claims to be longer than the message.
        let versions = extension(SUPPORTED_VERSIONS, &[2, 0x7f, 0x1c]);
        let mut message = hello(&[named(b"a.test"), versions]);
        let at = message.len() - 4;
        message[at] = 7;
        let bytes = records(&message, 999);
        assert_eq!(parse(&bytes), Err(Error::Malformed));
        assert_eq!(told(&bytes), Ok(Some(vec![0x7f1c])));
        for end in 0..bytes.len() {
            assert_eq!(told(&bytes[..end]), Ok(None));
        }
        // Cut or spoilt anywhere after the version, it is the version of the message or none.
        for end in 0..message.len() {
            let found = told(&records(&message[..end], 999));
            let expected = if end == 0 {
                Ok(None)
            } else if end < 6 {
                Err(Error::Malformed)
            } else {
                Ok(Some(vec![0x0303]))
            };
            assert_eq!(found, expected, "{end}");
        }
        for at in 6..message.len() {
            let mut wrong = message.clone();
            wrong[at] ^= 0xff;
            assert!(told(&records(&wrong, 999)).is_ok_and(|found| found.is_some()), "{at}");
        }
    }

    #[test]
    fn bytes_that_are_no_hello_are_told_apart() {
        let good = records(&hello(&[]), 999);
        assert!(parse(&good).unwrap().is_some());
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\n"), Err(Error::NotTls));
        assert_eq!(parse(b"\x80\x2e\x01\x03\x01"), Err(Error::NotTls), "SSL 2");
        assert_eq!(parse(&[22, 3, 1, 0, 0]), Err(Error::Malformed), "an empty record");
        assert_eq!(parse(&[22, 3, 1, 0x40, 1]), Err(Error::Malformed), "a record that is too long");
        assert_eq!(parse(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Err(Error::Malformed), "another message");
        assert_eq!(parse(&[22, 3, 1, 0, 4, 1, 0, 0x80, 1]), Err(Error::TooLarge));
        assert_eq!(parse(&[22, 3, 1, 0, 4, 1, 0, 0, 0]), Err(Error::Malformed), "an empty message");
        // Cut short inside, or with a length that leads past the end: never a panic, never accepted.
        let body = hello(&[named(b"a.example"), extension(ALPN, &vector16(b"\x02h2"))]);
        for cut in 5..body.len() {
            let mut short = body[..cut].to_vec();
            short[2..4].copy_from_slice(&((cut - 4) as u16).to_be_bytes());
            let _ = parse(&records(&short, 999));
        }
        for at in 4..body.len() {
            let mut wrong = body.clone();
            wrong[at] ^= 0xff;
            let _ = parse(&records(&wrong, 999));
        }
    }
}
