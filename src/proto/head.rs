//! Heads of messages as values: the part of a request or response before its body, in any version of HTTP.
//!
//! A head holds ranges of the bytes it was parsed from, which its owner keeps alongside; the parsers belong
//! to the protocols (`proto/h1/`). Touches: nothing. RFC 9110 §3.9, §5.

use std::ops::{Deref, Range};

use crate::proto::header::{Connection, Field, Id, IdSet, TooManyOptions};
use crate::proto::message::{Method, Version};

/// A request's head, as ranges of the bytes it was parsed from.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub method_range: Range<usize>,
    pub target: Range<usize>,
    pub version: Version,
    pub fields: Fields,
    /// The content of its `Connection` fields.
    pub connection: Connection,
}

impl RequestHead {
    pub fn clear(&mut self) {
        self.fields.clear();
        self.connection = Connection::default();
        (self.method, self.version) = (Method::Other, Version::Http11);
        (self.method_range, self.target) = (0..0, 0..0);
    }
}

/// A response's head, as ranges of the bytes it was parsed from.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    pub reason: Range<usize>,
    pub version: Version,
    pub fields: Fields,
    /// The content of its `Connection` fields.
    pub connection: Connection,
}

impl ResponseHead {
    pub fn clear(&mut self) {
        self.fields.clear();
        self.connection = Connection::default();
        (self.status, self.version, self.reason) = (0, Version::Http11, 0..0);
    }

    /// True if the upstream keeps the connection open after this response (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        let asked = &self.connection;
        !asked.close && (self.version >= Version::Http11 || asked.keep_alive)
    }
}

/// Initial capacity of a list of fields: most heads have fewer. Room inside the head itself would be copied whenever the
/// head is moved, which costs three times as much as taking it from the allocator.
const USUAL_COUNT: usize = 24;

/// The fields of a head in their order: ranges of the head's bytes, which each method takes as `data`.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
    /// The ids that are present: most queries are for fields that are absent.
    present: IdSet,
    /// The ids that came more than once.
    repeated: IdSet,
}

impl Fields {
    pub fn clear(&mut self) {
        self.list.clear();
        (self.present, self.repeated) = (IdSet::EMPTY, IdSet::EMPTY);
    }

    /// Reserves room for the fields of most heads at once.
    #[inline]
    pub(in crate::proto) fn make_room(&mut self) {
        if self.list.capacity() == 0 {
            self.list = Vec::with_capacity(USUAL_COUNT);
        }
    }

    #[inline]
    pub(in crate::proto) fn push(&mut self, field: Field) {
        if let Some(id) = field.id
            && !self.present.insert(id)
        {
            self.repeated.insert(id);
        }
        self.list.push(field);
    }

    /// Adds a field with a known name whose line begins at `at`, with a colon and one space after the name.
    #[inline(always)]
    pub(in crate::proto) fn push_known(
        &mut self,
        id: Id,
        at: usize,
        name_length: usize,
        value_length: usize,
    ) {
        self.push(Field {
            name_start: at as u32,
            value_start: (at + name_length + 2) as u32,
            value_length: value_length as u32,
            name_length: name_length as u16,
            id: Some(id),
            is_odd: false,
        });
    }

    /// Removes all fields of this id.
    pub(in crate::proto) fn remove(&mut self, id: Id) {
        self.present.remove(id);
        self.list.retain(|field| field.id != Some(id));
    }

    /// Replaces the fields whose names satisfy `is_meant` by the line `Name: value` CRLF at `line_start`, in
    /// the place of the first of them, or at the end. `None`: only removes them.
    pub fn replace(
        &mut self,
        data: &[u8],
        is_meant: impl Fn(&[u8]) -> bool,
        line: Option<(usize, usize, usize)>,
    ) {
        let first = self.list.iter().position(|field| is_meant(field.name(data)));
        self.list.retain(|field| !is_meant(field.name(data)));
        if let Some((line_start, name_length, value_length)) = line {
            let name = data.get(line_start..line_start + name_length).unwrap_or(b"");
            let field = Field {
                name_start: line_start as u32,
                value_start: (line_start + name_length + 2) as u32,
                value_length: value_length as u32,
                name_length: u16::try_from(name_length).unwrap_or(u16::MAX),
                id: Id::of(name),
                is_odd: false,
            };
            self.list.insert(first.unwrap_or(self.list.len()), field);
        }
        self.present = self.list.iter().filter_map(|field| field.id).collect();
    }

    /// True if there is a field of this id.
    #[inline]
    pub fn has(&self, id: Id) -> bool {
        self.present.contains(id)
    }

    /// The ids that came more than once in the head.
    #[inline]
    pub(in crate::proto) fn repeated(&self) -> IdSet {
        self.repeated
    }

    /// The value of the first field of this id.
    pub fn value<'a>(&self, data: &'a [u8], id: Id) -> Option<&'a [u8]> {
        self.values(data, id).next()
    }

    /// The values of all fields of this id.
    pub fn values<'a>(&self, data: &'a [u8], id: Id) -> impl Iterator<Item = &'a [u8]> {
        let fields: &[Field] = if self.has(id) { self } else { &[] };
        fields.iter().filter(move |field| field.id == Some(id)).map(|field| field.value(data))
    }

    /// Names and values.
    pub fn pairs<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.iter().map(|field| (field.name(data), field.value(data)))
    }

    /// Parses the `Connection` fields; for the parsers of heads, which keep the result.
    #[inline]
    pub fn connection(&self, data: &[u8]) -> Result<Connection, TooManyOptions> {
        if self.has(Id::Connection) { Connection::of(self, data) } else { Ok(Connection::default()) }
    }
}

impl Deref for Fields {
    type Target = [Field];
    fn deref(&self) -> &[Field] {
        &self.list
    }
}
