//! Makes a request's head of the fields of a header block.
//!
//! The head is written as text, as HTTP/1 would have it, with `HTTP/2.0` in its first line, so that everything behind
//! works on one form. What could be read as something else there is refused here: it is the only place at which bytes of
//! HTTP/2 become a request (RFC 9113 §8.2.1, §10.3).
//! Touches: nothing. RFC 9113 §8; RFC 8441 §4; nginx.org, `ignore_invalid_headers`, `underscores_in_headers`.

use std::fmt;

use crate::proto::h1::fields::{self, Treatment, is_token_byte};
use crate::proto::h1::length;
use crate::proto::h1::request::{Limits, check_unique};
use crate::proto::h2::frame::Code;
use crate::proto::h2::hpack;
use crate::proto::head::RequestHead;
use crate::proto::header::{Field, Id};
use crate::proto::message::{BodyLength, Method, Version};

/// Why a request is malformed. Its `Display` follows `client sent`. The stream ends, the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    UnknownPseudo,
    RepeatedPseudo,
    LatePseudo,
    NoMethod,
    NoScheme,
    NoPath,
    Method,
    Scheme,
    Path,
    Protocol,
    NoHost,
    OtherHost,
    UpperCase,
    /// A field of a connection, which HTTP/2 does not have.
    ConnectionField,
    Te,
    TooManyFields,
    LengthWithoutBody,
    /// An error that HTTP/1 has too.
    Http(crate::proto::h1::Error),
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::UnknownPseudo => "unknown pseudo-header",
            Self::RepeatedPseudo => "duplicate pseudo-header",
            Self::LatePseudo => "out of order pseudo-headers",
            Self::NoMethod => "no :method header",
            Self::NoScheme => "no :scheme header",
            Self::NoPath => "no :path header",
            Self::Method => "invalid method",
            Self::Scheme => "invalid :scheme header",
            Self::Path => "invalid :path header",
            Self::Protocol => "unexpected :protocol header",
            Self::NoHost => "neither \":authority\" nor \"host\" header",
            Self::OtherHost => "different \":authority\" and \"host\" headers",
            Self::UpperCase => "header name with upper-case letters",
            Self::ConnectionField => "header that is not allowed in this version of HTTP",
            Self::Te => "invalid \"te\" header",
            Self::TooManyFields => "too many headers",
            Self::LengthWithoutBody => "\"content-length\" header without a body",
            Self::Http(error) => error.as_str(),
        })
    }
}

impl Malformed {
    /// The status of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::Http(error) => error.status(),
            _ => 400,
        }
    }
}

impl From<crate::proto::h1::Error> for Malformed {
    fn from(error: crate::proto::h1::Error) -> Self {
        Self::Http(error)
    }
}

/// A request that has arrived.
#[derive(Debug)]
pub struct Request {
    /// The bytes to which the head refers.
    pub text: Vec<u8>,
    pub head: Box<RequestHead>,
    pub length: BodyLength,
    /// `:protocol`, of an extended CONNECT (RFC 8441): the head is that of the GET that asks for an upgrade in HTTP/1.1,
    /// without the fields for it. Data in both directions belongs to the tunnel.
    pub protocol: Option<Box<[u8]>>,
    /// It must not be served; the head is what could be read of it.
    pub malformed: Option<Malformed>,
}

/// The reason to give up a whole block, and with it the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Hpack(hpack::Error),
    /// A field is longer than `large_client_header_buffers` allows.
    LongField,
    /// All fields together are longer than it allows.
    LongHead,
}

impl From<hpack::Error> for Stop {
    fn from(error: hpack::Error) -> Self {
        Self::Hpack(error)
    }
}

impl Stop {
    pub fn code(self) -> Code {
        match self {
            Self::Hpack(hpack::Error::CutInteger) => Code::FRAME_SIZE_ERROR, // as nginx
            Self::Hpack(_) => Code::COMPRESSION_ERROR,
            Self::LongField | Self::LongHead => Code::ENHANCE_YOUR_CALM,
        }
    }

    /// Follows `client sent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hpack(hpack::Error::Index) => "invalid hpack table index",
            Self::Hpack(hpack::Error::CutInteger | hpack::Error::Cut) => "header block with incorrect length",
            Self::Hpack(hpack::Error::Integer) => "header block with too long integer",
            Self::Hpack(hpack::Error::Huffman) => "invalid encoded header field",
            Self::Hpack(hpack::Error::TableSize | hpack::Error::LateTableSize) => "invalid table size update",
            Self::LongField => "too large header field",
            Self::LongHead => "too large header",
        }
    }
}

/// Which sizes a block may have.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes_left: usize,
    field_bytes_max: usize,
}

impl Room {
    fn of(limits: &Limits) -> Self {
        Self { bytes_left: limits.head_bytes_max, field_bytes_max: limits.line_bytes_max }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        if name.len() > self.field_bytes_max || value.len() > self.field_bytes_max {
            return Err(Stop::LongField);
        }
        self.bytes_left = self.bytes_left.checked_sub(name.len() + value.len()).ok_or(Stop::LongHead)?;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Pseudo {
    method: Option<Vec<u8>>,
    scheme: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    protocol: Option<Vec<u8>>,
}

/// Takes the fields of a block in their order and makes the request.
#[derive(Debug)]
pub struct Builder<'a> {
    limits: &'a Limits,
    room: Room,
    pseudo: Pseudo,
    text: Vec<u8>,
    head: Box<RequestHead>,
    cookies: Vec<u8>,
    count: usize,
    has_begun: bool,
    malformed: Option<Malformed>,
    /// Extended CONNECT is offered.
    takes_connect: bool,
}

impl<'a> Builder<'a> {
    pub fn new(limits: &'a Limits, takes_connect: bool) -> Self {
        Self::of_version(Version::Http2, limits, takes_connect)
    }

    /// The same for HTTP/3, whose rules are the same (RFC 9114 §4.2 and §4.3).
    pub fn of_version(version: Version, limits: &'a Limits, takes_connect: bool) -> Self {
        let mut head = Box::<RequestHead>::default();
        head.version = version;
        Self {
            limits,
            room: Room::of(limits),
            pseudo: Pseudo::default(),
            text: Vec::with_capacity(512),
            head,
            cookies: Vec::new(),
            count: 0,
            has_begun: false,
            malformed: None,
            takes_connect,
        }
    }

    /// The head is too large: its request is refused.
    pub fn refuse_size(&mut self) {
        self.malformed = Some(crate::proto::h1::Error::HeadTooLarge.into());
    }

    /// The request. `ends`: no body follows.
    pub fn finish(mut self, ends: bool) -> Request {
        let mut length = BodyLength::None;
        if let Err(malformed) = self.complete(ends, &mut length) {
            self.malformed.get_or_insert(malformed);
        }
        let protocol = self.pseudo.protocol.map(Vec::into_boxed_slice);
        Request { text: self.text, head: self.head, length, protocol, malformed: self.malformed }
    }

    fn complete(&mut self, ends: bool, length: &mut BodyLength) -> Result<(), Malformed> {
        if !self.has_begun {
            self.begin()?;
        }
        if !self.cookies.is_empty() {
            let cookies = std::mem::take(&mut self.cookies);
            self.push(Some(Id::Cookie), Id::Cookie.name().as_bytes(), &cookies, false);
        }
        self.text.extend_from_slice(b"\r\n");
        check_unique(&self.head.fields)?;
        if self.head.method != Method::Connect && !self.head.fields.has(Id::Host) {
            return Err(Malformed::NoHost);
        }
        *length = match length::request(&self.head, &self.text)? {
            BodyLength::None if self.pseudo.protocol.is_some() => BodyLength::None,
            _ if self.pseudo.protocol.is_some() => return Err(Malformed::Protocol),
            BodyLength::None if !ends => BodyLength::Chunked,
            BodyLength::Length(bytes) if ends && bytes > 0 => return Err(Malformed::LengthWithoutBody),
            declared => declared,
        };
        Ok(())
    }

    /// Writes the first line and `Host`, once all pseudo-header fields are there.
    fn begin(&mut self) -> Result<(), Malformed> {
        self.has_begun = true;
        let method = self.pseudo.method.as_deref().ok_or(Malformed::NoMethod)?;
        if method.is_empty()
            || !method.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
        {
            return Err(Malformed::Method);
        }
        let mut kind = Method::of(method);
        let mut method = method;
        if let Some(protocol) = &self.pseudo.protocol {
            let is_token = !protocol.is_empty() && protocol.iter().all(|byte| is_token_byte(*byte));
            if kind != Method::Connect || !self.takes_connect || !is_token {
                return Err(Malformed::Protocol);
            }
            (kind, method) = (Method::Get, b"GET");
        }
        let authority = self.pseudo.authority.as_deref();
        // a tunnel without `:protocol` has an authority only (§8.5)
        let is_tunnel =
            kind == Method::Connect && self.pseudo.path.is_none() && self.pseudo.protocol.is_none();
        let target = match &self.pseudo.path {
            Some(path) => &path[..],
            None if is_tunnel => authority.unwrap_or_default(),
            None => return Err(Malformed::NoPath),
        };
        let is_clean = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        let is_path = target.first() == Some(&b'/') || target == b"*" && kind == Method::Options;
        if !target.iter().all(is_clean) || !(is_path || is_tunnel && !target.is_empty()) {
            return Err(Malformed::Path);
        }
        if target.len() > self.limits.line_bytes_max {
            return Err(crate::proto::h1::Error::LineTooLong.into());
        }
        let scheme = self.pseudo.scheme.as_deref();
        let is_scheme_byte = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        match scheme {
            None if is_tunnel => {}
            None => return Err(Malformed::NoScheme),
            Some([first, rest @ ..]) if first.is_ascii_alphabetic() && rest.iter().all(is_scheme_byte) => {}
            Some(_) => return Err(Malformed::Scheme),
        }
        let text = &mut self.text;
        text.extend_from_slice(method);
        text.push(b' ');
        self.head.method = kind;
        self.head.method_range = 0..method.len();
        self.head.target = text.len()..text.len() + target.len();
        text.extend_from_slice(target);
        let version: &[u8] =
            if self.head.version == Version::Http3 { b" HTTP/3.0\r\n" } else { b" HTTP/2.0\r\n" };
        text.extend_from_slice(version);
        if let Some(authority) = self.pseudo.authority.take() {
            fields::check_value(&authority)?;
            self.push(Some(Id::Host), Id::Host.name().as_bytes(), &authority, false);
            self.pseudo.authority = Some(authority);
        }
        Ok(())
    }

    fn pseudo_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if self.has_begun {
            return Err(Malformed::LatePseudo);
        }
        let slot = match name {
            b":method" => &mut self.pseudo.method,
            b":scheme" => &mut self.pseudo.scheme,
            b":path" => &mut self.pseudo.path,
            b":authority" => &mut self.pseudo.authority,
            b":protocol" => &mut self.pseudo.protocol,
            _ => return Err(Malformed::UnknownPseudo),
        };
        match slot.replace(value.to_vec()) {
            None => Ok(()),
            Some(_) => Err(Malformed::RepeatedPseudo),
        }
    }

    fn plain_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if !self.has_begun {
            self.begin()?;
        }
        self.count += 1;
        if self.count > self.limits.fields_max {
            return Err(Malformed::TooManyFields);
        }
        if u16::try_from(name.len()).is_err() {
            return Err(crate::proto::h1::Error::HeadTooLarge.into());
        }
        check_value(value)?;
        if name.iter().any(u8::is_ascii_uppercase) {
            return Err(Malformed::UpperCase);
        }
        let id = Id::of(name);
        let is_odd = match id {
            Some(_) => false,
            None => match fields::treatment(name, self.limits.ignore_invalid, self.limits.underscores)? {
                Treatment::Keep => false,
                Treatment::Mark => true,
                Treatment::Ignore => return Ok(()),
            },
        };
        match id {
            Some(
                Id::Connection | Id::KeepAlive | Id::ProxyConnection | Id::TransferEncoding | Id::Upgrade,
            ) => Err(Malformed::ConnectionField),
            Some(Id::Te) if value != b"trailers" => Err(Malformed::Te),
            Some(Id::Http2Settings) => Ok(()),
            Some(Id::Cookie) => {
                // §8.2.3: it may come in pieces
                if !self.cookies.is_empty() {
                    self.cookies.extend_from_slice(b"; ");
                }
                self.cookies.extend_from_slice(value);
                Ok(())
            }
            Some(Id::Host) => match &self.pseudo.authority {
                Some(authority) if authority.eq_ignore_ascii_case(value) => Ok(()),
                Some(_) => Err(Malformed::OtherHost),
                None => {
                    self.push(id, name, value, false);
                    Ok(())
                }
            },
            _ => {
                self.push(id, name, value, is_odd);
                Ok(())
            }
        }
    }

    fn push(&mut self, id: Option<Id>, name: &[u8], value: &[u8], is_odd: bool) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(b"\r\n");
        self.head.fields.push(Field {
            name_start: start as u32,
            value_start: (start + name.len() + 2) as u32,
            value_length: value.len() as u32,
            name_length: name.len() as u16, // checked by `plain_field`
            id,
            is_odd,
        });
    }
}

impl hpack::Sink for Builder<'_> {
    type Stop = Stop;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.room.take(name, value)?;
        if self.malformed.is_some() {
            return Ok(()); // the rest is decoded for the table only
        }
        let taken = match name.first() {
            Some(b':') => self.pseudo_field(name, value),
            _ => self.plain_field(name, value),
        };
        self.malformed = taken.err();
        Ok(())
    }
}

/// Refuses what must not be in a value (§8.2.1).
pub(super) fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_blank(value.first()) || is_blank(value.last()) {
        return Err(crate::proto::h1::Error::InvalidFieldValue.into());
    }
    Ok(fields::check_value(value)?)
}

/// Takes the fields of trailers, or of a block that is not wanted, for their bounds and for the table.
#[derive(Debug)]
pub struct Unread {
    room: Room,
    /// Trailers that are not allowed as such: with pseudo-header fields, or characters that no field may have.
    pub is_malformed: bool,
    /// The fields are wanted.
    pub keeps: bool,
    /// Those that were, as lines.
    pub lines: Vec<u8>,
}

impl Unread {
    pub fn new(limits: &Limits) -> Self {
        Self { room: Room::of(limits), is_malformed: false, keeps: false, lines: Vec::new() }
    }
}

impl hpack::Sink for Unread {
    type Stop = Stop;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.room.take(name, value)?;
        let is_name = |byte: &u8| is_token_byte(*byte) && !byte.is_ascii_uppercase();
        self.is_malformed |= name.is_empty() || !name.iter().all(is_name) || check_value(value).is_err();
        if self.keeps && !self.is_malformed {
            self.lines.extend_from_slice(name);
            self.lines.extend_from_slice(b": ");
            self.lines.extend_from_slice(value);
            self.lines.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
