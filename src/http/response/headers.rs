//! The fields of a response on their way to the client: their text, and an index into it.
//!
//! Each field is appended as text once; the index finds, hides and lists fields without parsing the text
//! again. Pure data.

use crate::proto::field_text::{Line, Lines, Text, Token};
use crate::proto::h1::encode::Head;
use crate::proto::header::{Field, Id};

/// One field within the text.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name_start: u32,
    name_length: u16,
    value_length: u32,
    id: Option<Id>,
}

impl Entry {
    fn name<'a>(&self, text: &'a Lines) -> &'a [u8] {
        let start = self.name_start as usize;
        &text.as_bytes()[start..start + usize::from(self.name_length)]
    }

    /// The value, which starts after `name: `.
    fn value<'a>(&self, text: &'a Lines) -> &'a [u8] {
        let start = self.name_start as usize + usize::from(self.name_length) + 2;
        &text.as_bytes()[start..start + self.value_length as usize]
    }

    /// The whole line with its CRLF.
    fn line<'a>(&self, text: &'a Lines) -> Line<'a> {
        let start = self.name_start as usize;
        text.line(start..start + usize::from(self.name_length) + 2 + self.value_length as usize + 2)
    }
}

/// Capacity for the fields of most responses.
const USUAL_COUNT: usize = 12;

/// An ordered list of fields. Names are compared without regard to case; repeated fields are kept.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    text: Lines,
    entries: Vec<Entry>,
}

impl Headers {
    /// Reserves capacity for fields whose lines have this many bytes in total.
    pub fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
        if self.entries.capacity() == 0 {
            self.entries = Vec::with_capacity(USUAL_COUNT);
        }
    }

    /// Appends a field. Bytes of the value that would end its line are dropped; so is a field whose name is
    /// not a token.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_with(Id::of(name), name, value);
    }

    pub fn push_id(&mut self, id: Id, value: &[u8]) {
        self.append(Some(id), id.into(), value);
    }

    /// Appends a field whose id is known to belong to `name`.
    pub fn push_with(&mut self, id: Option<Id>, name: &[u8], value: &[u8]) {
        if let Some(name) = Token::new(name) {
            self.append(id, name, value);
        }
    }

    fn append(&mut self, id: Option<Id>, name: Token<'_>, value: &[u8]) {
        let (name_start, value) = (self.text.len() as u32, Text::clean(value));
        self.text.push(name, &value);
        let name_length = u16::try_from(name.as_bytes().len()).unwrap_or(u16::MAX);
        self.entries.push(Entry { name_start, name_length, value_length: value.as_bytes().len() as u32, id });
    }

    /// Appends a field of a parsed head; `data` holds the head's bytes.
    #[inline]
    pub fn push_parsed(&mut self, field: &Field, data: &[u8]) {
        let (name_start, id) = (self.text.len() as u32, field.id);
        let (name_length, value_length) = match field.line(data) {
            Some(line) => {
                self.text.push_line(line);
                field.lengths()
            }
            None => {
                self.text.push_parsed(field, data);
                (field.name(data).len() as u16, field.value(data).len() as u32)
            }
        };
        self.entries.push(Entry { name_start, name_length, value_length, id });
    }

    /// Inserts a field before all that have no fixed position in a head.
    pub fn push_first(&mut self, id: Id, value: &[u8]) {
        self.push_id(id, value);
        self.entries.rotate_right(1);
    }

    /// Replaces all fields with this id by a single one, at the position of the first.
    pub fn set(&mut self, id: Id, value: &[u8]) {
        let first = self.entries.iter().position(|entry| entry.id == Some(id));
        self.remove(id);
        self.push_id(id, value);
        if let Some(behind) = first.and_then(|first| self.entries.get_mut(first..)) {
            behind.rotate_right(1);
        }
    }

    /// Moves the last fields to the front: they were there first.
    pub fn put_last_first(&mut self, count: usize) {
        self.entries.rotate_right(count);
    }

    pub fn remove(&mut self, id: Id) {
        self.entries.retain(|entry| entry.id != Some(id));
    }

    pub fn remove_name(&mut self, name: &[u8]) {
        let text = &self.text;
        self.entries.retain(|entry| !entry.name(text).eq_ignore_ascii_case(name));
    }

    /// Removes all fields whose names satisfy `is_meant`.
    pub fn remove_where(&mut self, is_meant: impl Fn(&[u8]) -> bool) {
        let text = &self.text;
        self.entries.retain(|entry| !is_meant(entry.name(text)));
    }

    /// Replaces all fields whose names satisfy `is_meant` by a single one, at the position and with the
    /// spelling of the first; appends it if there is none.
    pub fn put(&mut self, is_meant: impl Fn(&[u8]) -> bool, id: Option<Id>, name: &[u8], value: &[u8]) {
        let first = self.entries.iter().position(|entry| is_meant(entry.name(&self.text)));
        let spelled =
            first.map_or_else(|| name.to_vec(), |first| self.entries[first].name(&self.text).to_vec());
        self.remove_where(is_meant);
        self.push_with(id, &spelled, value);
        if let Some(behind) = first.and_then(|first| self.entries.get_mut(first..)) {
            behind.rotate_right(1);
        }
    }

    /// The value of the first field with this id.
    pub fn get(&self, id: Id) -> Option<&[u8]> {
        self.entries.iter().find(|entry| entry.id == Some(id)).map(|entry| entry.value(&self.text))
    }

    /// The values of all fields with this name.
    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        let same = move |entry: &&Entry| entry.name(&self.text).eq_ignore_ascii_case(name);
        self.entries.iter().filter(same).map(|entry| entry.value(&self.text))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Option<Id>, &[u8], &[u8])> {
        self.entries.iter().map(|entry| (entry.id, entry.name(&self.text), entry.value(&self.text)))
    }

    /// All fields as lines, in their order.
    pub fn to_lines(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|entry| entry.line(&self.text).as_bytes()).copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.entries.clear();
    }

    /// Writes the first field with this id as a line.
    pub fn render_first(&self, id: Option<Id>, head: &mut Head<'_>) {
        let Some(id) = id else { return };
        if let Some(entry) = self.entries.iter().find(|entry| entry.id == Some(id)) {
            head.line(entry.line(&self.text));
        }
    }

    /// Writes all fields as lines, in order, except the first field of each of these ids.
    pub fn render_others(&self, mut firsts: [Option<Id>; 2], head: &mut Head<'_>) {
        for entry in &self.entries {
            match firsts.iter_mut().find(|first| entry.id.is_some() && **first == entry.id) {
                Some(first) => *first = None,
                None => head.line(entry.line(&self.text)),
            }
        }
    }
}

/// Writes the values of a trailer field, joined. `name` spells it with underscores.
pub fn trailer(lines: &[u8], name: &str, out: &mut Vec<u8>) -> bool {
    let spelled = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    let mut found = false;
    for line in lines.split(|&byte| byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if line[..colon].iter().map(spelled).eq(name.bytes()) {
            if std::mem::replace(&mut found, true) {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(line[colon + 1..].trim_ascii());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_puts_the_named_ones_first() {
        let mut headers = Headers::default();
        headers.push(b"X-One", b"1");
        headers.push_id(Id::ContentType, b"a");
        headers.push(b"x-two", b"2");
        headers.push_id(Id::ContentType, b"b");
        let mut out = Vec::new();
        let mut head = Head::response(200, &Text::clean(b""), &mut out);
        headers.render_first(Some(Id::ContentType), &mut head);
        headers.render_others([Some(Id::ContentType), None], &mut head);
        assert_eq!(out, b"HTTP/1.1 200 \r\nContent-Type: a\r\nX-One: 1\r\nx-two: 2\r\nContent-Type: b\r\n");
    }

    #[test]
    fn a_value_cannot_split_the_head() {
        let mut headers = Headers::default();
        headers.push(b"X-A", b"1\r\nX-B: 2");
        headers.push(b"X-C\r\nX-D", b"1");
        let mut out = Vec::new();
        headers.render_others([None, None], &mut Head::response(200, &Text::clean(b""), &mut out));
        assert_eq!(out, b"HTTP/1.1 200 \r\nX-A: 1X-B: 2\r\n");
    }

    #[test]
    fn set_replaces_and_remove_hides() {
        let mut headers = Headers::default();
        headers.push_id(Id::ContentType, b"a");
        headers.set(Id::ContentType, b"b");
        assert_eq!(headers.get(Id::ContentType), Some(&b"b"[..]));
        headers.push(b"X", b"1");
        headers.set(Id::ContentType, b"c");
        headers.push_first(Id::Vary, b"*");
        let names: Vec<&[u8]> = headers.iter().map(|(_, name, _)| name).collect();
        assert_eq!(names, [&b"Vary"[..], b"Content-Type", b"X"]);
        headers.remove_name(b"x");
        headers.remove(Id::Vary);
        headers.remove_name(b"content-TYPE");
        assert!(headers.is_empty());
    }
}
