//! A client and a server of this room, in memory, and a client whose server breaks the rules.

use std::task::Waker;

use super::super::*;
use super::*;
use crate::proto::h2::hpack;

fn limits() -> Limits {
    Limits { streams_max: 4, stream_window: RESPONSE_WINDOW_BYTES, ..Limits::default() }
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        hpack::put_field(None, name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

fn get() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "h.test")])
}

const MORE: Opening = Opening { ends: false, head_bytes_max: 4096, is_of_head: false };
const LAST: Opening = Opening { ends: true, ..MORE };

/// Moves what one side has to say to the other, in pieces of this length.
fn carry(from: &mut Connection, to: &mut Connection, held: &mut Vec<u8>, piece: usize) -> bool {
    let bytes = from.output().to_vec();
    from.sent(bytes.len());
    for part in bytes.chunks(piece) {
        held.extend_from_slice(part);
        let used = to.handle(held, 0);
        held.drain(..used);
    }
    !bytes.is_empty()
}

struct Pair {
    client: Connection,
    server: Connection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    piece: usize,
}

impl Pair {
    fn new(piece: usize) -> Self {
        let (client, server) = (Connection::client(limits()), Connection::new(Limits::default()));
        Self { client, server, to_server: Vec::new(), to_client: Vec::new(), piece }
    }

    /// Until neither has anything to say.
    fn talk(&mut self) {
        while carry(&mut self.client, &mut self.server, &mut self.to_server, self.piece)
            | carry(&mut self.server, &mut self.client, &mut self.to_client, self.piece)
        {}
    }
}

/// Sends all of `data` on a stream; the other side takes what has come, whenever it cannot go on.
fn send_all(pair: &mut Pair, is_client: bool, id: u32, data: &[u8], ends: bool) -> Vec<u8> {
    let (mut at, mut got) = (0, Vec::new());
    loop {
        let side = if is_client { &mut pair.client } else { &mut pair.server };
        let sent = side.send_data(id, &data[at..], ends, 4096, Waker::noop()).expect("an open stream");
        at += sent.count;
        pair.talk();
        let other = if is_client { &mut pair.server } else { &mut pair.client };
        let taken = other.take_data(id);
        other.release(id, taken.len());
        got.extend_from_slice(&taken);
        if sent.is_done {
            return got;
        }
    }
}

#[test]
fn a_request_and_its_response_in_pieces_of_any_length() {
    for piece in [1, 2, 3, 7, 9, 10, 64, 1000, 1 << 20] {
        let mut pair = Pair::new(piece);
        let id = pair.client.open_stream(&get(), MORE).expect("a stream");
        pair.talk();
        let event = pair.server.next_request().expect("a request");
        assert!(event.stream == id && !event.ends && event.request.malformed.is_none());
        let body = vec![b'x'; 300_000];
        assert_eq!(send_all(&mut pair, true, id, &body, true).len(), body.len(), "{piece}");
        assert!(pair.server.stream(id).expect("it").is_remote_closed());
        pair.server.send_block(id, &block(&[(":status", "103"), ("link", "a")]), false).expect("open");
        pair.server.send_block(id, &block(&[(":status", "200"), ("x-a", "b")]), false).expect("open");
        pair.talk();
        let stream = pair.client.stream(id).expect("it");
        assert_eq!(stream.take_head().expect("an interim head").head.status, 103);
        let head = stream.take_head().expect("the head");
        assert_eq!(head.text, b"HTTP/2.0 200\r\nx-a: b\r\n\r\n");
        assert!(!stream.has_head() && !stream.is_remote_closed());
        assert_eq!(send_all(&mut pair, false, id, &body, false).len(), body.len(), "{piece}");
        pair.server.send_block(id, &block(&[("grpc-status", "0"), ("x", "y")]), true).expect("open");
        pair.talk();
        let stream = pair.client.stream(id).expect("it");
        assert!(stream.is_remote_closed() && stream.is_local_closed() && stream.fault().is_none());
        assert_eq!(stream.take_trailers(), b"grpc-status: 0\r\nx: y\r\n");
        pair.client.close(id, Code::CANCEL);
        pair.server.close(id, Code::CANCEL);
        pair.talk();
        assert!(pair.client.failure().is_none() && pair.server.failure().is_none());
        assert_eq!((pair.client.stream_count(), pair.server.stream_count()), (0, 0));
    }
}

#[test]
fn a_stream_that_nobody_reads_stops_its_server_but_not_the_others() {
    let mut pair = Pair::new(1 << 20);
    let slow = pair.client.open_stream(&get(), LAST).expect("a stream");
    let others: Vec<u32> = (0..3).map(|_| pair.client.open_stream(&get(), LAST).expect("a stream")).collect();
    assert!(!pair.client.may_open() && pair.client.may_open_later(), "four are the limit");
    assert_eq!(pair.client.open_stream(&get(), LAST), Err(Gone));
    pair.talk();
    for id in std::iter::once(slow).chain(others.iter().copied()) {
        pair.server.send_block(id, &block(&[(":status", "200")]), false).expect("open");
    }
    let data = vec![b'x'; 2 * CONNECTION_WINDOW_BYTES as usize];
    let mut sent = 0;
    loop {
        let step = pair.server.send_data(slow, &data[sent..], false, 16_384, Waker::noop()).expect("open");
        sent += step.count;
        pair.talk();
        if step.count == 0 {
            break;
        }
    }
    assert_eq!(sent, RESPONSE_WINDOW_BYTES as usize, "exactly the window of the stream");
    for id in others {
        assert_eq!(send_all(&mut pair, false, id, &data, true).len(), data.len());
        pair.client.close(id, Code::CANCEL);
    }
    let taken = pair.client.take_data(slow);
    assert_eq!(taken.len(), sent);
    pair.client.release(slow, taken.len());
    pair.talk();
    let more = pair.server.send_data(slow, &data[sent..], false, 16_384, Waker::noop()).expect("open");
    assert!(more.count > 0, "what was read makes room");
    assert!(pair.client.failure().is_none());
}

/// A client that has sent its request, which its server may now answer as it likes.
fn asked() -> (Connection, u32) {
    let mut client = Connection::client(limits());
    let id = client.open_stream(&get(), MORE).expect("a stream");
    client.sent(client.output().len());
    give(&mut client, kind::SETTINGS, 0, 0, b"");
    client.sent(client.output().len());
    (client, id)
}

fn give(client: &mut Connection, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let mut bytes = Vec::new();
    frame::put(kind, flags, stream, payload, &mut bytes);
    assert_eq!(client.handle(&bytes, 0), bytes.len());
}

fn give_head(client: &mut Connection, id: u32, fields: &[(&str, &str)], flags: u8) {
    give(client, kind::HEADERS, flags | flag::END_HEADERS, id, &block(fields));
}

const OK: &[(&str, &str)] = &[(":status", "200")];

#[test]
fn a_server_that_leaves_has_not_begun_what_is_above_its_number() {
    let (mut client, first) = asked();
    let second = client.open_stream(&get(), LAST).expect("a stream");
    give(&mut client, kind::GOAWAY, 0, 0, &[0, 0, 0, first as u8, 0, 0, 0, 0, b'x', b'y']);
    assert!(!client.may_open() && !client.may_open_later());
    assert_eq!(client.server_left(), Some(Code::NO_ERROR));
    assert_eq!(client.stream(first).expect("it").reset(), None);
    assert_eq!(client.stream(second).expect("it").reset(), Some(Reset::Unprocessed(Code::NO_ERROR)));
    give_head(&mut client, first, OK, flag::END_STREAM);
    assert_eq!(client.stream(first).expect("it").take_head().expect("a head").head.status, 200);
    // a higher number later changes nothing
    give(&mut client, kind::GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert!(client.stream(second).expect("it").reset().is_some() && client.failure().is_none());
}

#[test]
fn a_reset_after_a_complete_response_ends_only_the_request() {
    let (mut client, id) = asked();
    give_head(&mut client, id, OK, 0);
    give(&mut client, kind::DATA, flag::END_STREAM, id, b"all");
    give(&mut client, kind::RST_STREAM, 0, id, &[0; 4]);
    let stream = client.stream(id).expect("it");
    assert!(stream.is_stopped() && stream.reset().is_none() && stream.has_data());
    assert_eq!(client.send_data(id, b"x", true, 100, Waker::noop()), Err(Gone));
    client.close(id, Code::CANCEL);
    assert_eq!(client.output(), b"", "it is closed on both sides");
    let (mut client, id) = asked();
    give_head(&mut client, id, OK, 0);
    give(&mut client, kind::RST_STREAM, 0, id, &[0; 4]);
    let reset = client.stream(id).expect("it").reset();
    assert_eq!(reset, Some(Reset::ByPeer(Code::NO_ERROR)), "it was not complete");
}

#[test]
fn what_breaks_a_response_leaves_the_connection() {
    type Break = fn(&mut Connection, u32);
    let cases: &[(&str, Break)] = &[
        ("no :status header before the others", |client, id| give_head(client, id, &[("x", "y")], 0)),
        ("DATA before the head of the response", |client, id| give(client, kind::DATA, 0, id, b"x")),
        ("too big header", |client, id| give_head(client, id, &[OK[0], ("x", &"y".repeat(5000))], 0)),
        ("1xx that ends the response", |client, id| {
            give_head(client, id, &[(":status", "103")], flag::END_STREAM);
        }),
        ("too many 1xx", |client, id| {
            (0..40).for_each(|_| give_head(client, id, &[(":status", "100")], 0));
        }),
        ("a body longer than its \"content-length\"", |client, id| {
            give_head(client, id, &[OK[0], ("content-length", "2")], 0);
            give(client, kind::DATA, 0, id, b"abc");
        }),
        ("a body shorter than its \"content-length\"", |client, id| {
            give_head(client, id, &[OK[0], ("content-length", "2")], 0);
            give(client, kind::DATA, flag::END_STREAM, id, b"a");
        }),
        ("a body shorter than its \"content-length\"", |client, id| {
            give_head(client, id, &[OK[0], ("content-length", "2")], flag::END_STREAM);
        }),
    ];
    for (text, act) in cases {
        let (mut client, id) = asked();
        let other = client.open_stream(&get(), LAST).expect("a stream");
        act(&mut client, id);
        assert_eq!(client.stream(id).expect("it").fault(), Some(*text));
        assert!(client.failure().is_none(), "{text}");
        give_head(&mut client, other, OK, flag::END_STREAM);
        assert!(client.stream(other).expect("it").take_head().is_some(), "{text}");
    }
    // trailers that do not end the stream
    let (mut client, id) = asked();
    give_head(&mut client, id, OK, 0);
    give_head(&mut client, id, &[("x", "y")], 0);
    assert_eq!(client.stream(id).expect("it").reset(), Some(Reset::ByUs(Code::PROTOCOL_ERROR)));
    assert!(client.failure().is_none());
    // more data than the window
    let (mut client, id) = asked();
    give_head(&mut client, id, OK, 0);
    for _ in 0..=RESPONSE_WINDOW_BYTES / 16_384 {
        give(&mut client, kind::DATA, 0, id, &[0; 16_384]);
    }
    assert_eq!(client.stream(id).expect("it").reset(), Some(Reset::ByUs(Code::FLOW_CONTROL_ERROR)));
    assert!(client.failure().is_none());
}

#[test]
fn what_breaks_a_connection_ends_it() {
    type Break = fn(&mut Connection, u32);
    let cases: &[(&str, Break)] = &[
        ("PUSH_PROMISE frame", |client, id| give(client, kind::PUSH_PROMISE, 4, id, &[0, 0, 0, 2])),
        ("HEADERS frame with an incorrect stream", |client, _| give_head(client, 2, OK, 0)),
        ("HEADERS frame for an idle stream", |client, id| give_head(client, id + 2, OK, 0)),
        ("DATA frame for an idle stream", |client, id| give(client, kind::DATA, 0, id + 2, b"x")),
        ("RST_STREAM frame for an idle stream", |client, id| {
            give(client, kind::RST_STREAM, 0, id + 2, &[0; 4]);
        }),
        ("SETTINGS frame with incorrect ENABLE_PUSH value", |client, _| {
            give(client, kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1]);
        }),
        ("WINDOW_UPDATE frame that makes the window too large", |client, _| {
            give(client, kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
        }),
        ("invalid hpack table index", |client, id| {
            give(client, kind::HEADERS, flag::END_HEADERS, id, &[0xff, 0x20]);
        }),
        ("a response in HTTP/1, not HTTP/2", |_, _| {}),
    ];
    for (text, act) in cases {
        let (mut client, id) = asked();
        act(&mut client, id);
        if client.failure().is_none() {
            client = Connection::client(limits());
            client.open_stream(&get(), LAST).expect("a stream");
            client.handle(b"HTTP/1.1 400 Bad Request\r\n", 0);
        }
        assert_eq!(client.failure(), Some(Failure::Violation(text)));
        assert!(client.stream(id).expect("it").reset().is_some() && !client.may_open_later());
    }
}

#[test]
fn floods_of_a_server_end_its_connection() {
    type Flood = fn(&mut Connection, u32);
    let cases: &[(&str, Flood)] = &[
        ("SETTINGS", |client, _| give(client, kind::SETTINGS, 0, 0, b"")),
        ("PING", |client, _| give(client, kind::PING, 0, 0, &[0; 8])),
        ("empty DATA", |client, id| give(client, kind::DATA, 0, id, b"")),
        ("WINDOW_UPDATE", |client, id| give(client, kind::WINDOW_UPDATE, 0, id, &[0, 0, 0, 1])),
        ("DATA for a stream that has ended", |client, _| give(client, kind::DATA, 0, 1, b"x")),
        ("HEADERS for a stream that has ended", |client, _| give_head(client, 1, OK, 0)),
    ];
    for (text, act) in cases {
        let (mut client, first) = asked();
        client.close(first, Code::CANCEL);
        // not among the streams that were reset lately
        for _ in 0..100 {
            let id = client.open_stream(&get(), LAST).expect("a stream");
            client.close(id, Code::CANCEL);
        }
        let id = client.open_stream(&get(), LAST).expect("a stream");
        give_head(&mut client, id, OK, 0);
        let mut bytes = 0;
        let turns = (0..5000).find(|_| {
            if client.failure().is_none() {
                act(&mut client, id);
            }
            bytes += client.output().len();
            client.sent(client.output().len());
            client.failure().is_some()
        });
        assert!(matches!(client.failure(), Some(Failure::Abuse(_))), "{text}: {turns:?}");
    }
}

/// CVE-2024-27316 and its like, from a server: a head that never ends.
#[test]
fn a_flood_of_continuations_ends_its_connection() {
    let (mut client, id) = asked();
    give(&mut client, kind::HEADERS, 0, id, b"");
    let turns = (0..2000).find(|_| {
        if client.failure().is_none() {
            give(&mut client, kind::CONTINUATION, 0, id, &[0x88; 100]);
        }
        client.failure().is_some()
    });
    assert!(turns.is_some_and(|turns| turns < 1000));
}

#[test]
fn a_ping_asks_once_and_is_answered() {
    let mut pair = Pair::new(5);
    pair.talk();
    pair.client.ping();
    pair.client.ping();
    assert!(pair.client.is_pinging());
    assert_eq!(pair.client.output().len(), HEAD_BYTES + 8);
    pair.talk();
    assert!(!pair.client.is_pinging());
}

#[test]
fn a_lost_connection_keeps_what_is_complete() {
    let (mut client, first) = asked();
    let second = client.open_stream(&get(), LAST).expect("a stream");
    give_head(&mut client, first, OK, 0);
    give(&mut client, kind::DATA, flag::END_STREAM, first, b"all");
    give_head(&mut client, second, OK, 0);
    client.lose();
    let stream = client.stream(first).expect("it");
    assert!(stream.reset().is_none() && stream.has_data() && stream.is_stopped());
    assert_eq!(client.stream(second).expect("it").reset(), Some(Reset::Lost));
    assert_eq!(client.open_stream(&get(), LAST), Err(Gone));
}

#[test]
fn a_servers_limit_of_streams_is_kept() {
    let (mut client, id) = asked();
    give(&mut client, kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
    assert!(!client.may_open() && client.may_open_later());
    client.close(id, Code::CANCEL);
    assert!(client.may_open());
    give(&mut client, kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
    assert!(!client.may_open());
}
