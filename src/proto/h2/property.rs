//! Properties of HTTP/2 that hold for all bytes, for the fuzz targets (`fuzz/`) and the property tests here.
//!
//! Touches: nothing; panics when a property does not hold. Truth: RFC 9113, RFC 7541.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::proto::h2::connection::{
    CONNECTION_WINDOW_BYTES, OUTPUT_BYTES_MAX, Opening, RESPONSE_WINDOW_BYTES,
};
use crate::proto::h2::frame::{self, Code, HEAD_BYTES, Head, PREFACE, WINDOW_DEFAULT, flag, kind, setting};
use crate::proto::h2::hpack::{self, Decoder, Sink};
use crate::proto::h2::huffman;
use crate::proto::h2::request::Stop;
use crate::proto::h2::stream::Reset;
use crate::proto::h2::{Connection, Event, Limits};
use crate::proto::header::Id;

/// The most that a block may become in these tests.
const DECODED_BYTES_MAX: usize = 1 << 16;

#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Sink for Decoded {
    type Stop = Stop;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.bytes += name.len() + value.len();
        if self.bytes > DECODED_BYTES_MAX {
            return Err(Stop::LongHead);
        }
        self.fields.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// Decodes `data` as two header blocks of one connection; what comes out is written and decoded again.
pub fn reads_header_block(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let mut decoder = Decoder::default();
    for block in [first, second] {
        let mut decoded = Decoded::default();
        if decoder.decode(block, &mut decoded).is_err() {
            return;
        }
        decoder.slim();
        let lower = |name: &[u8]| !name.iter().any(u8::is_ascii_uppercase);
        decoded.fields.retain(|(name, _)| lower(name));
        let mut copy = Vec::new();
        for (name, value) in &decoded.fields {
            hpack::put_field(Id::of(name), name, value, &mut copy);
        }
        let mut again = Decoded::default();
        Decoder::default().decode(&copy, &mut again).expect("what was written is a block");
        assert_eq!(again.fields, decoded.fields);
    }
}

/// Decodes `data` as Huffman code, and encodes it as text.
pub fn codes_huffman(data: &[u8]) {
    let mut text = Vec::new();
    if huffman::decode(data, &mut text).is_ok() {
        assert!(text.len() <= data.len() * 8 / 5);
        let mut code = Vec::new();
        huffman::encode(&text, &mut code);
        assert_eq!(code, data, "there is one code for each text");
    }
    let (mut code, mut copy) = (Vec::new(), Vec::new());
    huffman::encode(data, &mut code);
    huffman::decode(&code, &mut copy).expect("what was encoded is a code");
    assert!(copy == data && code.len() == huffman::encoded_length(data));
}

/// Gives `data` to a connection whole, and in pieces of the lengths `cuts`: the result must be the same.
pub fn takes_bytes(data: &[u8], cuts: &[u8]) {
    let whole = fed(data, &mut std::iter::repeat(data.len().max(1)));
    let split = fed(data, &mut cuts.iter().map(|cut| usize::from(*cut)).chain(std::iter::repeat(7)));
    assert_eq!(whole, split);
}

/// The output, the requests, and whether the connection failed.
type Fed = (Vec<u8>, Vec<(u32, Vec<u8>)>, bool);

/// What comes of these bytes behind a preface.
fn fed(data: &[u8], pieces: &mut dyn Iterator<Item = usize>) -> Fed {
    let mut connection = Connection::new(Limits { abuse_max: 50, ..Limits::default() });
    connection.handle(PREFACE, 0);
    let (mut held, mut at, mut requests) = (Vec::new(), 0, Vec::new());
    while at < data.len() {
        let end = data.len().min(at + pieces.next().unwrap_or(1).max(1));
        held.extend_from_slice(&data[at..end]);
        at = end;
        let used = connection.handle(&held, 0);
        held.drain(..used);
        assert!(held.len() < HEAD_BYTES + 64 * 6, "what is not a whole frame is short");
        while let Some(Event { stream, request, .. }) = connection.next_request() {
            check_text(&request.text, request.malformed.is_some());
            requests.push((stream, request.text));
        }
    }
    (connection.output().to_vec(), requests, connection.failure().is_some())
}

/// Gives `data` of a server to a client with requests in progress, whole and in pieces of the lengths `cuts`: the result
/// must be the same, and within its bounds.
pub fn takes_server_bytes(data: &[u8], cuts: &[u8]) {
    let whole = answered(data, &mut std::iter::repeat(data.len().max(1)));
    let split = answered(data, &mut cuts.iter().map(|cut| usize::from(*cut)).chain(std::iter::repeat(7)));
    assert_eq!(whole, split);
}

/// The outcome of a request: its heads as text, its data, its trailers, and whether it has ended or failed.
type Answered = (Vec<Vec<u8>>, Vec<u8>, Vec<u8>, bool, Option<Reset>);

fn answered(data: &[u8], pieces: &mut dyn Iterator<Item = usize>) -> (Vec<u8>, Vec<Answered>, bool) {
    const HEAD_BYTES_MAX: usize = 512;
    let limits =
        Limits { abuse_max: 50, streams_max: 4, stream_window: RESPONSE_WINDOW_BYTES, ..Limits::default() };
    let mut client = Connection::client(limits);
    for count in 0..4 {
        let opening = Opening { ends: count > 1, head_bytes_max: HEAD_BYTES_MAX, is_of_head: count == 3 };
        client.open_stream(&[0x82, 0x86, 0x84], opening).expect("four are permitted");
    }
    client.sent(client.output().len());
    let (mut held, mut at) = (Vec::new(), 0);
    while at < data.len() {
        let end = data.len().min(at + pieces.next().unwrap_or(1).max(1));
        held.extend_from_slice(&data[at..end]);
        at = end;
        let used = client.handle(&held, 0);
        held.drain(..used);
        assert!(held.len() < HEAD_BYTES + 64 * 6, "what is not a whole frame is short");
    }
    let answers = [1, 3, 5, 7].map(|id| {
        let stream = client.stream(id).expect("its task has not closed it");
        let (mut heads, trailers) = (Vec::new(), stream.take_trailers());
        while let Some(response) = stream.take_head() {
            assert!(response.text.len() <= HEAD_BYTES_MAX && heads.len() <= 33);
            let text = response.text.strip_suffix(b"\r\n\r\n").expect("an end");
            assert!(text.starts_with(b"HTTP/2.0 ") && !text.contains(&0));
            assert!(
                text.iter().filter(|byte| **byte == b'\r').count()
                    == memchr::memmem::find_iter(text, b"\r\n").count()
            );
            for field in response.head.fields.iter() {
                assert!(!field.name(&response.text).contains(&b':'));
            }
            heads.push(response.text);
        }
        let (has_ended, reset) = (stream.is_remote_closed(), stream.reset());
        let body = client.take_data(id);
        assert!(body.len() <= RESPONSE_WINDOW_BYTES as usize);
        (heads, body, trailers, has_ended, reset)
    });
    (client.output().to_vec(), answers.into(), client.failure().is_some())
}

/// The text of a request must be one head, whoever reads it.
pub(in crate::proto) fn check_text(text: &[u8], is_malformed: bool) {
    if is_malformed {
        return;
    }
    let lines: Vec<&[u8]> =
        text.strip_suffix(b"\r\n\r\n").expect("an end").split(|byte| *byte == b'\n').collect();
    assert!(text.iter().all(|byte| *byte != 0));
    for (index, line) in lines.iter().enumerate() {
        let line = if index + 1 < lines.len() { line.strip_suffix(b"\r").expect("CRLF") } else { line };
        assert!(!line.is_empty() && !line.contains(&b'\r'));
        assert!(index == 0 || line.windows(2).any(|two| two == b": "));
    }
    assert_eq!(lines[0].iter().filter(|byte| **byte == b' ').count(), 2);
}

/// The client of a connection, as the RFC defines it: what it has allowed the server to send.
#[derive(Debug)]
struct Model {
    window: i64,
    initial: i64,
    /// Windows of the streams that it has opened and the server has not ended.
    streams: BTreeMap<u32, i64>,
    /// What it may send itself.
    upload: i64,
    next: u32,
}

/// Plays well-formed frames and a server's answers, as `script` chooses them. What the server sends must be whole frames
/// on streams that are open, within the windows that its client has given.
pub fn plays_frames(script: &[u8]) {
    let mut connection = Connection::new(Limits { abuse_max: 0, streams_max: 8, ..Limits::default() });
    let mut model = Model {
        window: i64::from(WINDOW_DEFAULT),
        initial: i64::from(WINDOW_DEFAULT),
        streams: BTreeMap::new(),
        upload: i64::from(CONNECTION_WINDOW_BYTES),
        next: 1,
    };
    connection.handle(PREFACE, 0);
    let mut served: Vec<u32> = Vec::new();
    let mut output = Vec::new();
    for [act, which, amount] in script.as_chunks::<3>().0 {
        let stream = served.get(usize::from(*which) % served.len().max(1)).copied();
        play(&mut connection, &mut model, *act, stream, *amount);
        while let Some(event) = connection.next_request() {
            served.push(event.stream);
        }
        answer(&mut connection, &mut served, *act, stream, *amount);
        let count = if act.is_multiple_of(3) { connection.output().len() } else { usize::from(*amount) };
        let count = count.min(connection.output().len());
        output.extend_from_slice(&connection.output()[..count]);
        connection.sent(count);
        check_output(&mut output, &mut model);
        assert!(connection.output().len() <= OUTPUT_BYTES_MAX + 16 * 1024 + script.len() * 40);
        assert!(connection.stream_count() <= 8);
        if connection.failure().is_some() {
            return;
        }
    }
}

/// One frame of the client.
fn play(connection: &mut Connection, model: &mut Model, act: u8, stream: Option<u32>, amount: u8) {
    let mut out = Vec::new();
    match (act % 8, stream) {
        (0, _) => {
            let mut block = Vec::new();
            hpack::put_indexed(hpack::METHOD_GET, &mut block);
            hpack::put_indexed(hpack::SCHEME_HTTP, &mut block);
            hpack::put_named(hpack::PATH, b"/", &mut block);
            hpack::put_named(hpack::AUTHORITY, b"h", &mut block);
            frame::put_block(model.next, &block, amount.is_multiple_of(2), 16_384, &mut out);
            model.streams.insert(model.next, model.initial);
            model.next += 2;
        }
        (1, Some(stream)) => {
            frame::put_window_update(stream, u32::from(amount) + 1, &mut out);
            if let Some(window) = model.streams.get_mut(&stream) {
                *window += i64::from(amount) + 1;
            }
        }
        (2, _) => {
            frame::put_window_update(0, u32::from(amount) * 100 + 1, &mut out);
            model.window += i64::from(amount) * 100 + 1;
        }
        (3, _) => {
            let size = i64::from(amount) * 300;
            frame::put_settings(&[(setting::INITIAL_WINDOW_SIZE, size as u32)], &mut out);
            model.streams.values_mut().for_each(|window| *window += size - model.initial);
            model.initial = size;
        }
        (4, Some(stream)) => frame::put_reset(stream, Code::CANCEL, &mut out),
        (5, Some(stream)) if model.upload > i64::from(amount) => {
            model.upload -= i64::from(amount);
            let flags = if amount.is_multiple_of(5) { flag::END_STREAM } else { 0 };
            frame::put(kind::DATA, flags, stream, &vec![b'x'; usize::from(amount)], &mut out);
        }
        (6, _) => frame::put(kind::PING, 0, 0, &[amount; 8], &mut out),
        _ => {}
    }
    assert_eq!(connection.handle(&out, u64::from(amount)), out.len());
}

/// One act of the server.
fn answer(connection: &mut Connection, served: &mut Vec<u32>, act: u8, stream: Option<u32>, amount: u8) {
    let Some(stream) = stream else { return };
    match act / 8 % 6 {
        0 => drop(connection.send_block(stream, &[0x88], amount.is_multiple_of(16))),
        1 | 2 => {
            let data = vec![b'y'; usize::from(amount) * 200];
            let _ = connection.send_data(
                stream,
                &data,
                amount.is_multiple_of(7),
                1 + usize::from(act),
                Waker::noop(),
            );
        }
        3 => {
            let count = connection.take_data(stream).len();
            connection.open_window(stream);
            connection.release(stream, count);
        }
        4 => connection.reset(stream, Code::INTERNAL_ERROR),
        _ => {
            connection.close(stream, Code::INTERNAL_ERROR);
            served.retain(|other| *other != stream);
        }
    }
}

/// Checks the frames that the client has received.
fn check_output(output: &mut Vec<u8>, model: &mut Model) {
    let mut at = 0;
    while let Some((head, rest)) = output[at..].split_first_chunk::<HEAD_BYTES>() {
        let head = Head::parse(head);
        assert!(head.length <= 16_384 && head.kind <= kind::CONTINUATION);
        if rest.len() < head.length {
            break;
        }
        let payload = &rest[..head.length];
        match head.kind {
            kind::DATA => {
                let window = model.streams.get_mut(&head.stream).expect("DATA is for a stream that is open");
                *window -= head.length as i64;
                model.window -= head.length as i64;
                assert!(head.length == 0 || model.window >= 0, "the connection's window is kept");
                // a window that has shrunk meanwhile may be below zero: the frame was on its way
            }
            kind::WINDOW_UPDATE => {
                let bytes = payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                assert!(bytes > 0 && bytes <= frame::WINDOW_MAX);
                model.upload += if head.stream == 0 { i64::from(bytes) } else { 0 };
            }
            kind::HEADERS => {
                assert!(model.streams.contains_key(&head.stream), "a response is for an open stream")
            }
            _ => {}
        }
        let ends = matches!(head.kind, kind::DATA | kind::HEADERS) && head.has(flag::END_STREAM);
        if ends || head.kind == kind::RST_STREAM {
            model.streams.remove(&head.stream);
        }
        at += HEAD_BYTES + head.length;
    }
    output.drain(..at);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random, the same in every run.
    fn bytes(seed: u64, count: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn header_blocks_of_any_bytes() {
        for seed in 0..3000 {
            let data = bytes(seed, (seed % 90) as usize);
            reads_header_block(&data);
            codes_huffman(&data);
        }
    }

    #[test]
    fn connections_of_any_bytes() {
        for seed in 0..600 {
            let mut data = bytes(seed, (seed % 400) as usize);
            // frames of plausible lengths and types go deeper
            for (index, byte) in data.iter_mut().enumerate() {
                match index % 20 {
                    0 | 1 => *byte = 0,
                    2 => *byte = 11,
                    3 => *byte %= 10,
                    5..=7 => *byte = 0,
                    8 => *byte = 1 + (*byte % 8),
                    _ => {}
                }
            }
            takes_bytes(&data, &bytes(seed + 1, 20));
            takes_server_bytes(&data, &bytes(seed + 1, 20));
            takes_bytes(&bytes(seed, 200), &[1]);
        }
    }

    #[test]
    fn frames_and_answers_in_any_order() {
        for seed in 0..2000 {
            plays_frames(&bytes(seed, 300));
        }
    }
}
