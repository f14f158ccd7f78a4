//! Properties of HTTP/3 that hold for all bytes, for the fuzz targets (`fuzz/`) and the property tests here.
//!
//! Touches: nothing; panics when a property does not hold. Truth: RFC 9114, RFC 9204.

use crate::proto::h2::property::check_text;
use crate::proto::h2::request::Builder;
use crate::proto::h3::peer::Fed;
use crate::proto::h3::qpack::{self, Decoder, Failed, PREFIX, Sink};
use crate::proto::h3::request::{Piece, Stream};
use crate::proto::h3::{Code, HeadLimits, Peer};
use crate::proto::header::Id;
use crate::proto::message::Version;

/// The most that a section may become in these tests.
const DECODED_BYTES_MAX: usize = 1 << 16;

#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Sink for Decoded {
    type Stop = ();

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ()> {
        self.bytes += name.len() + value.len() + 1;
        self.fields.push((name.to_vec(), value.to_vec()));
        if self.bytes > DECODED_BYTES_MAX { Err(()) } else { Ok(()) }
    }
}

/// Takes the first half of `data` for instructions and the second for a section; what comes out is written and decoded
/// again.
pub fn reads_field_section(data: &[u8]) {
    let (instructions, section) = data.split_at(data.len() / 2);
    let mut decoder = Decoder::default();
    if decoder.feed(instructions).is_err() {
        return;
    }
    let mut decoded = Decoded::default();
    match decoder.decode(0, section, &mut decoded) {
        Ok(()) => {}
        Err(Failed::Blocked | Failed::Invalid | Failed::Stopped(())) => return,
    }
    decoder.take_output();
    assert!(!decoder.has_output());
    decoded.fields.retain(|(name, _)| !name.iter().any(u8::is_ascii_uppercase));
    let mut copy = PREFIX.to_vec();
    for (name, value) in &decoded.fields {
        qpack::put_field(Id::of(name), name, value, &mut copy);
    }
    let mut again = Decoded::default();
    Decoder::default().decode(0, &copy, &mut again).expect("what was written is a section");
    assert_eq!(again.fields, decoded.fields);
}

/// Reads `data` as turns of a peer: instructions, sections, and requests that are given up. Whatever it says, the decoder's
/// memory has its bound, and what it wants to send is taken.
pub fn keeps_decoder_small(data: &[u8]) {
    let (mut decoder, mut rest) = (Decoder::default(), data);
    while let Some((&turn, after)) = rest.split_first() {
        let (bytes, after) = after.split_at(after.len().min(usize::from(turn >> 2)));
        rest = after;
        match turn & 3 {
            0 | 1 => {
                if decoder.feed(bytes).is_err() {
                    return;
                }
            }
            2 => match decoder.decode(u64::from(turn), bytes, &mut Decoded::default()) {
                Ok(()) | Err(Failed::Blocked | Failed::Stopped(())) => {}
                Err(Failed::Invalid) => return,
            },
            _ => decoder.cancel(u64::from(turn)),
        }
        assert!(decoder.memory() <= qpack::MEMORY_BYTES_MAX, "{} bytes", decoder.memory());
        // As a connection does behind each datagram.
        if turn & 4 != 0 {
            decoder.take_output();
            assert!(!decoder.has_output());
        }
    }
}

/// Gives `data` to a control, an encoder or a decoder stream whole, and in pieces of the lengths `cuts`: the result must be
/// the same.
pub fn takes_stream(data: &[u8], cuts: &[u8]) {
    let whole = fed(data, &mut std::iter::repeat(data.len().max(1)));
    let pieces = fed(data, &mut cuts.iter().map(|cut| usize::from(*cut).max(1)).chain(std::iter::repeat(7)));
    assert_eq!(whole, pieces);
}

fn fed(mut data: &[u8], lengths: &mut dyn Iterator<Item = usize>) -> (Option<Code>, bool) {
    let (mut peer, mut has_inserted) = (Peer::default(), false);
    while !data.is_empty() {
        let length = lengths.next().unwrap_or(1).min(data.len());
        let (piece, rest) = data.split_at(length);
        data = rest;
        match peer.feed(2, piece) {
            Ok(fed) => has_inserted |= fed == Fed::Inserted,
            Err(fault) => return (Some(fault.code), false),
        }
    }
    (None, has_inserted)
}

/// Gives `data` to a request's stream whole, and in pieces: the parts must be the same. The text of each head must be one
/// request, whoever reads it.
pub fn takes_request(data: &[u8], cuts: &[u8]) {
    let whole = parts(data, &mut std::iter::repeat(data.len().max(1)));
    let pieces =
        parts(data, &mut cuts.iter().map(|cut| usize::from(*cut).max(1)).chain(std::iter::repeat(7)));
    assert_eq!(whole, pieces);
    let limits = HeadLimits::default();
    for (_, section) in whole.0.iter().filter(|(kind, _)| *kind == b'H') {
        let mut builder = Builder::of_version(Version::Http3, &limits, true);
        if Decoder::default().decode(0, section, &mut builder).is_ok() {
            let request = builder.finish(false);
            check_text(&request.text, request.malformed.is_some());
        }
    }
}

type Parts = Vec<(u8, Vec<u8>)>;

fn parts(mut data: &[u8], lengths: &mut dyn Iterator<Item = usize>) -> (Parts, Option<Code>) {
    let (mut stream, mut found) = (Stream::default(), Parts::new());
    while !data.is_empty() {
        let length = lengths.next().unwrap_or(1).min(data.len());
        let (mut piece, rest) = data.split_at(length);
        data = rest;
        loop {
            match stream.next(&mut piece, 4096) {
                Ok(None) => break,
                Ok(Some(Piece::Head(section))) => found.push((b'H', section)),
                Ok(Some(Piece::Trailers(section))) => found.push((b'T', section)),
                Ok(Some(Piece::Oversized)) => found.push((b'O', Vec::new())),
                Ok(Some(Piece::Data(count))) => {
                    let (taken, rest) = piece.split_at(count);
                    match found.last_mut() {
                        Some((b'D', joined)) => joined.extend_from_slice(taken),
                        _ => found.push((b'D', taken.to_vec())),
                    }
                    piece = rest;
                }
                Err(fault) => return (found, Some(fault.code)),
            }
        }
        assert!(piece.is_empty());
    }
    (found, stream.end().err().map(|fault| fault.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random, the same in every run; most are small, so that more of them mean something.
    fn bytes(seed: u64, count: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let byte = (state >> 33) as u8;
            if state >> 60 < 10 { byte % 8 } else { byte }
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn field_sections_of_any_bytes() {
        for seed in 0..3000 {
            let data = bytes(seed, (seed % 90) as usize);
            reads_field_section(&data);
            // A table with entries, and a section that may use them.
            let filled = [&[0x3f, 0xbd, 1, 0xc0, 1, b'a', 0xc1, 1, b'b', 0, 3, 0][..], &data].concat();
            reads_field_section(&filled);
        }
    }

    #[test]
    fn turns_of_any_bytes() {
        for seed in 0..3000 {
            let data = bytes(seed, (seed % 400) as usize);
            keeps_decoder_small(&data);
            // With a table, and an entry in it.
            keeps_decoder_small(&[&[36, 0x3f, 0xe1, 0x1f, 0xc0, 1, b'a', 0, 0, 0][..], &data].concat());
        }
    }

    #[test]
    fn streams_of_any_bytes() {
        for seed in 0..3000 {
            let data = bytes(seed, (seed % 90) as usize);
            let cuts = bytes(seed + 1, 20);
            for kind in [0, 2, 3] {
                takes_stream(&[&[kind], &data[..]].concat(), &cuts);
            }
            takes_stream(&[&[0, 4, 0], &data[..]].concat(), &cuts);
            takes_stream(&[&[2, 0x3f, 0xbd, 1], &data[..]].concat(), &cuts);
        }
    }

    #[test]
    fn requests_of_any_bytes() {
        for seed in 0..3000 {
            let data = bytes(seed, (seed % 200) as usize);
            takes_request(&data, &bytes(seed + 1, 20));
            takes_request(&[&[1, 1, 0], &data[..]].concat(), &bytes(seed + 2, 20));
        }
    }
}
