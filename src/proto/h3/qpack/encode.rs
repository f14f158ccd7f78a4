//! Writing field sections: with the static table and literals only.
//!
//! Touches: nothing. RFC 9204 §4.5.

use super::put_integer;
use super::table::STATIC;
use crate::proto::h2::huffman;
use crate::proto::header::Id;

/// The beginning of every section of ours: no entry of the dynamic table is needed (§4.5.1).
pub const PREFIX: [u8; 2] = [0, 0];

/// The index of a known field's name in the static table, plus one; 0: it is not there.
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

/// Writes a string whose length has a prefix of this many bits; the bit in front of it tells Huffman code.
fn put_string(text: &[u8], prefix: u32, first: u8, out: &mut Vec<u8>) {
    let coded = huffman::encoded_length(text);
    if coded < text.len() {
        put_integer(coded as u64, prefix, first | 1 << prefix, out);
        huffman::encode(text, out);
    } else {
        put_integer(text.len() as u64, prefix, first, out);
        out.extend_from_slice(text);
    }
}

/// Writes a field whose name is that of an entry of the static table (§4.5.4).
pub fn put_named(index: usize, value: &[u8], out: &mut Vec<u8>) {
    put_integer(index as u64, 4, 0x50, out);
    put_string(value, 7, 0, out);
}

/// Writes `:status`.
pub fn put_status(status: u16, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(status);
    let mut named = 0;
    for (index, (_, value)) in STATIC.iter().enumerate().filter(|(_, (name, _))| *name == ":status") {
        if *value == digits {
            return put_integer(index as u64, 6, 0xc0, out);
        }
        named = index;
    }
    put_named(named, digits.as_bytes(), out);
}

/// Writes a field, its name in lower case.
pub fn put_field(id: Option<Id>, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    match id.map_or(0, |id| INDEX_OF[id as usize]) {
        0 => {
            if name.iter().any(u8::is_ascii_uppercase) {
                put_string(&name.to_ascii_lowercase(), 3, 0x20, out);
            } else {
                put_string(name, 3, 0x20, out);
            }
            put_string(value, 7, 0, out);
        }
        index => put_named(usize::from(index) - 1, value, out),
    }
}
