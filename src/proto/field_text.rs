//! Names, values and lines that may go into a head, whatever protocol writes it.
//!
//! Each is a type whose constructors check or clean it ([`Token`], [`Text`], [`Line`]), so that no value,
//! wherever it came from, can end its line or the head. The checks are made in release builds too.
//! Touches: nothing. RFC 9110 §5.5, §5.6.2.

use std::borrow::Cow;
use std::ops::Range;

use crate::proto::h1::fields::{has_break, is_token_byte};
use crate::proto::head::RequestHead;
use crate::proto::header::{Field, Id};

/// A method or the name of a field (RFC 9110 §5.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a>(pub(in crate::proto) &'a [u8]);

impl<'a> Token<'a> {
    pub const GET: Token<'static> = Token(b"GET");
    pub const HEAD: Token<'static> = Token(b"HEAD");

    /// `None` if it is empty, or has a byte that is not allowed in a token.
    pub fn new(text: &'a [u8]) -> Option<Self> {
        let is_token = !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte));
        is_token.then_some(Self(text))
    }

    /// A token from a parsed head, which the parser has checked.
    pub(in crate::proto) fn parsed(text: &'a [u8]) -> Self {
        Self(text)
    }

    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl RequestHead {
    /// The method as received; `data` is the head's bytes.
    pub fn method_token<'a>(&self, data: &'a [u8]) -> Token<'a> {
        Token::parsed(data.get(self.method_range.clone()).unwrap_or(b""))
    }
}

impl From<Id> for Token<'static> {
    fn from(id: Id) -> Self {
        Self(id.name().as_bytes())
    }
}

/// The value of a field or the reason of a status: it has no CR, LF or NUL.
#[derive(Clone, Debug)]
pub struct Text<'a>(pub(in crate::proto) Cow<'a, [u8]>);

impl<'a> Text<'a> {
    /// Removes the bytes that would end the line: a variable may hold a decoded line break.
    pub fn clean(bytes: &'a [u8]) -> Self {
        match has_break(bytes) {
            false => Self(Cow::Borrowed(bytes)),
            true => Self(Cow::Owned(bytes.iter().copied().filter(|byte| !is_break(*byte)).collect())),
        }
    }

    /// A constant of the program, which has no such bytes.
    pub fn constant(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

pub(in crate::proto) fn is_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0)
}

impl Field {
    /// The whole line, if it is written in the usual form: `Name: value` and CRLF.
    pub fn line<'a>(&self, data: &'a [u8]) -> Option<Line<'a>> {
        let value_start = self.name_start + u32::from(self.name_length) + 2;
        let line_end = (self.value_start + self.value_length) as usize + 2;
        let line = data.get(self.name_start as usize..line_end)?;
        (value_start == self.value_start
            && line[usize::from(self.name_length) + 1] == b' '
            && line.ends_with(b"\r\n"))
        .then_some(Line::parsed(line))
    }
}

/// One whole field line, including its CRLF.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(pub(in crate::proto) &'a [u8]);

impl<'a> Line<'a> {
    /// A line of a parsed head; the caller has checked that it is complete.
    pub(in crate::proto) fn parsed(line: &'a [u8]) -> Self {
        Self(line)
    }

    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// The name of a field with its colon and space, made while the configuration is read.
#[derive(Clone, Debug)]
pub struct Label(pub(in crate::proto) Box<[u8]>);

impl Label {
    /// `None` if the name is not a token.
    pub fn new(name: &str) -> Option<Self> {
        Token::new(name.as_bytes())?;
        Some(Self(format!("{name}: ").into_bytes().into()))
    }

    /// The name alone.
    pub fn name(&self) -> &[u8] {
        self.0.strip_suffix(b": ").unwrap_or(&self.0)
    }
}

/// Consecutive field lines, as they are sent.
#[derive(Clone, Debug, Default)]
pub struct Lines(pub(in crate::proto) Vec<u8>);

impl Lines {
    pub fn reserve(&mut self, bytes: usize) {
        match self.0.capacity() {
            0 => self.0 = Vec::with_capacity(bytes), // half of the instructions
            _ => self.0.reserve(bytes),
        }
    }

    #[inline]
    pub fn push(&mut self, name: Token<'_>, value: &Text<'_>) {
        push_field(name.0, &value.0, &mut self.0);
    }

    #[inline]
    pub fn push_line(&mut self, line: Line<'_>) {
        self.0.extend_from_slice(line.0);
    }

    /// Appends a field of a parsed head; `data` is the head's bytes.
    #[inline]
    pub fn push_parsed(&mut self, field: &Field, data: &[u8]) {
        push_field(field.name(data), field.value(data), &mut self.0);
    }

    /// The line in this range, which must cover one or more whole lines.
    #[inline]
    pub fn line(&self, range: Range<usize>) -> Line<'_> {
        Line(self.0.get(range).unwrap_or(b""))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[inline]
pub(in crate::proto) fn push_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
