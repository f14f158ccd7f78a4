//! Tables between two charsets (`charset_map`), and the conversion of text that arrives in pieces.
//!
//! Pure data. One side has one byte per character; the other one too, or it is UTF-8. A character without a
//! counterpart becomes `?`, or, from UTF-8, its number (`&#1078;`), as in nginx.

use crate::config::{Diagnostic, Diagnostics, Node, Word};

/// Maximum number of bytes of a character in UTF-8.
const CHARACTER_BYTES_MAX: usize = 4;

/// One `charset_map`.
#[derive(Debug)]
pub struct CharsetMap {
    pub from: Box<str>,
    pub to: Box<str>,
    there: Table,
    back: Table,
}

/// One direction of a map.
#[derive(Debug)]
pub enum Table {
    Bytes(Box<[u8; 256]>),
    ToUtf8(Box<[Character; 256]>),
    /// Indexed by the two bytes of a character's number; 0: the character has no byte.
    FromUtf8(Box<[Option<Box<[u8; 256]>>; 256]>),
}

/// The UTF-8 bytes of a character, and how many they are.
type Character = ([u8; CHARACTER_BYTES_MAX], u8);

impl CharsetMap {
    /// Reads the block of `charset_map FROM TO`; reports faults to `out`.
    pub fn read(node: &Node, out: &mut Diagnostics) -> Self {
        let plain: [u8; 256] = std::array::from_fn(|byte| if byte < 128 { byte as u8 } else { b'?' });
        let mut map = if node.arg(1).eq_ignore_ascii_case("utf-8") {
            let there = Box::new(plain.map(|byte| ([byte, 0, 0, 0], 1)));
            Self::new(node, Table::ToUtf8(there), Table::FromUtf8(Box::new([const { None }; 256])))
        } else {
            Self::new(node, Table::Bytes(Box::new(plain)), Table::Bytes(Box::new(plain)))
        };
        for entry in node.children() {
            if let Err(diagnostic) = map.add(entry) {
                out.push(diagnostic);
            }
        }
        map
    }

    fn new(node: &Node, there: Table, back: Table) -> Self {
        Self { from: node.arg(0).into(), to: node.arg(1).into(), there, back }
    }

    fn add(&mut self, entry: &Node) -> Result<(), Diagnostic> {
        let [target] = &*entry.args else {
            return Err(Diagnostic::error(entry.span, "invalid parameters number")
                .help("an entry is a byte of the first charset and the character of the second, in hexadecimal: 80 E282AC;"));
        };
        let byte = one_byte(&entry.name)?;
        match (&mut self.there, &mut self.back) {
            (Table::ToUtf8(there), Table::FromUtf8(back)) => {
                let (bytes, character) = utf8(target)?;
                let mut padded = [0; CHARACTER_BYTES_MAX];
                padded[..bytes.len()].copy_from_slice(&bytes);
                there[usize::from(byte)] = (padded, bytes.len() as u8);
                let page = back[usize::from(character >> 8)].get_or_insert_with(|| Box::new([0; 256]));
                page[usize::from(character & 0xff)] = byte;
            }
            (Table::Bytes(there), Table::Bytes(back)) => {
                let other = one_byte(target)?;
                there[usize::from(byte)] = other;
                back[usize::from(other)] = byte;
            }
            _ => {}
        }
        Ok(())
    }

    /// The table from one charset to another, if this map has it.
    pub fn between(&self, from: &str, to: &str) -> Option<&Table> {
        let is = |first: &str, second: &str| {
            first.eq_ignore_ascii_case(&self.from) && second.eq_ignore_ascii_case(&self.to)
        };
        match (is(from, to), is(to, from)) {
            (true, _) => Some(&self.there),
            (_, true) => Some(&self.back),
            _ => None,
        }
    }
}

fn invalid(word: &Word) -> Diagnostic {
    Diagnostic::error(word.span, format!("invalid value \"{}\"", word.text))
}

fn one_byte(word: &Word) -> Result<u8, Diagnostic> {
    hexadecimal(word.text.as_bytes()).ok_or_else(|| invalid(word))
}

/// One or two digits.
fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    match digits {
        [low] => Some(digit(low)? as u8),
        [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
        _ => None,
    }
}

/// One UTF-8 character whose number fits two bytes, and that number.
fn utf8(word: &Word) -> Result<(Vec<u8>, u16), Diagnostic> {
    let is_even = word.text.len().is_multiple_of(2);
    let bytes = word.text.as_bytes().chunks(2).map(hexadecimal).collect::<Option<Vec<u8>>>();
    let bytes = bytes.filter(|_| is_even).ok_or_else(|| invalid(word))?;
    let mut characters = std::str::from_utf8(&bytes).map_err(|_| invalid(word))?.chars();
    match (characters.next(), characters.next()) {
        (Some(one), None) => match u16::try_from(u32::from(one)) {
            Ok(number) => Ok((bytes, number)),
            Err(_) => Err(invalid(word)),
        },
        _ => Err(invalid(word)),
    }
}

impl Table {
    /// True if converted text has the same length.
    pub fn keeps_length(&self) -> bool {
        matches!(self, Self::Bytes(_))
    }

    /// Appends the conversion of `text`. Returns how many bytes at its end are an incomplete character, which
    /// must wait for more.
    pub fn recode(&self, text: &[u8], out: &mut Vec<u8>) -> usize {
        match self {
            Self::Bytes(table) => out.extend(text.iter().map(|byte| table[usize::from(*byte)])),
            Self::ToUtf8(table) => {
                for byte in text {
                    let (bytes, count) = &table[usize::from(*byte)];
                    out.extend_from_slice(&bytes[..usize::from(*count)]);
                }
            }
            Self::FromUtf8(pages) => return from_utf8(pages, text, out),
        }
        0
    }
}

fn from_utf8(pages: &[Option<Box<[u8; 256]>>; 256], text: &[u8], out: &mut Vec<u8>) -> usize {
    let mut at = 0;
    while at < text.len() {
        if text[at] < 0x80 {
            out.push(text[at]);
            at += 1;
            continue;
        }
        match decode(&text[at..]) {
            Decoded::Character(number, length) => {
                let page = pages.get((number >> 8) as usize).and_then(Option::as_ref);
                match page.map_or(0, |page| page[(number & 0xff) as usize]) {
                    0 => out.extend_from_slice(format!("&#{number};").as_bytes()),
                    byte => out.push(byte),
                }
                at += length;
            }
            Decoded::Bad(length) => {
                out.push(b'?');
                at += length;
            }
            Decoded::Begun => break,
        }
    }
    text.len() - at
}

enum Decoded {
    /// A character's number and its length in bytes.
    Character(u32, usize),
    /// This many bytes are not a character.
    Bad(usize),
    /// The character is incomplete.
    Begun,
}

/// Decodes the first character of `text`, which must not be empty. Follows nginx: a byte that cannot continue
/// a character belongs to the bad character before it.
fn decode(text: &[u8]) -> Decoded {
    let (lead, follow, valid) = match text[0] {
        byte @ 0xc2..=0xdf => (u32::from(byte & 0x1f), 1, 0x7f),
        byte @ 0xe0..=0xef => (u32::from(byte & 0x0f), 2, 0x7ff),
        byte @ 0xf0..=0xf7 => (u32::from(byte & 0x07), 3, 0xffff),
        _ => return Decoded::Bad(1),
    };
    let Some(rest) = text.get(1..=follow) else { return Decoded::Begun };
    let mut number = lead;
    for (index, byte) in rest.iter().enumerate() {
        if *byte < 0x80 {
            return Decoded::Bad(index + 2);
        }
        number = number << 6 | u32::from(byte & 0x3f);
    }
    let is_character = number > valid && number <= 0x10_ffff;
    if is_character { Decoded::Character(number, follow + 1) } else { Decoded::Bad(follow + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    fn map(from: &str, to: &str, entries: &[(&str, &str)]) -> (CharsetMap, usize) {
        let word = |text: &str| Word { text: text.into(), span: Span::default(), quoted: false };
        let entry = |(byte, target): &(&str, &str)| Node {
            name: word(byte),
            args: vec![word(target)].into(),
            block: None,
            span: Span::default(),
        };
        let block = Some(entries.iter().map(entry).collect());
        let node = Node {
            name: word("charset_map"),
            args: vec![word(from), word(to)].into(),
            block,
            span: Span::default(),
        };
        let mut faults = Diagnostics::default();
        (CharsetMap::read(&node, &mut faults), faults.0.len())
    }

    fn recoded(table: &Table, text: &[u8], cut: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let waits = table.recode(&text[..cut], &mut out);
        let waits = table.recode(&text[cut - waits..], &mut out);
        assert!(waits < CHARACTER_BYTES_MAX);
        out
    }

    #[test]
    fn text_is_recoded_both_ways_wherever_it_is_cut() {
        let (koi, _) = map("koi8-r", "UTF-8", &[("C1", "D0B0"), ("80", "E282AC"), ("41", "42")]);
        let there = koi.between("KOI8-R", "utf-8").unwrap();
        let back = koi.between("utf-8", "koi8-r").unwrap();
        assert!(koi.between("utf-8", "utf-8").is_none());
        let cases: &[(&Table, &[u8], &[u8])] = &[
            (there, b"x\xc1\x80\xff", "xа€?".as_bytes()),
            (there, b"A", b"B"),
            (back, "xа€".as_bytes(), b"x\xc1\x80"),
            (back, "ж𝄞".as_bytes(), b"&#1078;&#119070;"),
            (back, b"\xff\xc0\x80a", b"???a"),
            (back, b"\xd0a\xe2\x82ab", b"??b"),
            (back, b"\xe0\x80\x80\xf7\xbf\xbf\xbf", b"??"),
            (back, b"ab\xe2\x82", b"ab"),
        ];
        for (table, text, expected) in cases {
            for cut in 0..=text.len() {
                assert_eq!(recoded(table, text, cut), *expected, "{text:?} at {cut}");
            }
        }
    }

    #[test]
    fn bytes_become_bytes() {
        let (win, _) = map("a", "b", &[("58", "59"), ("C0", "C1")]);
        assert_eq!(recoded(win.between("a", "b").unwrap(), b"aX\xc0\xc1\x7f", 2), b"aY\xc1?\x7f");
        assert_eq!(recoded(win.between("b", "a").unwrap(), b"aY\xc1\xc0\x7f", 2), b"aX\xc0?\x7f");
    }

    #[test]
    fn what_is_no_byte_and_no_character_is_refused() {
        for (byte, target) in [("100", "41"), ("x", "41"), ("+1", "41"), ("", "41")] {
            assert_eq!(map("a", "b", &[(byte, target)]).1, 1, "{byte}");
        }
        for target in ["", "D", "D0B", "D0", "4142", "F09D849E", "xx"] {
            assert_eq!(map("a", "utf-8", &[("80", target)]).1, 1, "{target}");
        }
    }
}
