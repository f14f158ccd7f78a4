//! Tests of this room, with the vectors of the RFCs where they have any.

use std::task::Waker;

use super::*;
use crate::proto::h2::hpack;

const END: u8 = flag::END_STREAM | flag::END_HEADERS;
const MORE: u8 = flag::END_HEADERS;

/// A connection whose preface and SETTINGS have been exchanged.
fn begun_with(limits: Limits) -> Connection {
    let mut connection = Connection::new(limits);
    let mut hello = PREFACE.to_vec();
    frame::put_settings(&[], &mut hello);
    frame::put(kind::SETTINGS, flag::ACK, 0, b"", &mut hello);
    assert_eq!(connection.handle(&hello, 0), hello.len());
    flushed(&mut connection);
    connection
}

fn begun() -> Connection {
    begun_with(Limits::default())
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        hpack::put_field(None, name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

fn get(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "h.test")])
}

fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(kind, flags, stream, payload, &mut out);
    out
}

/// Gives the connection a frame, which it must use.
fn send(connection: &mut Connection, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let bytes = framed(kind, flags, stream, payload);
    assert_eq!(connection.handle(&bytes, 0), bytes.len());
}

/// Opens a stream whose body is still to come.
fn post(connection: &mut Connection, stream: u32) {
    send(connection, kind::HEADERS, MORE, stream, &get("/"));
    assert_eq!(connection.next_request().expect("a request").stream, stream);
}

/// The frames that wait to be sent, as (kind, flags, stream, payload), and takes them.
fn flushed(connection: &mut Connection) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let bytes = connection.output().to_vec();
    connection.sent(bytes.len());
    let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::parse(head);
        frames.push((head.kind, head.flags, head.stream, after[..head.length].to_vec()));
        rest = &after[head.length..];
    }
    assert!(rest.is_empty());
    frames
}

/// The code of the only GOAWAY or RST_STREAM that waits.
fn ended(connection: &mut Connection) -> Option<(u8, Code)> {
    let frames = flushed(connection);
    let mut ends = frames.iter().filter_map(|(kind, _, _, payload)| match *kind {
        kind::GOAWAY => Some((*kind, Code(word(&payload[4..])))),
        kind::RST_STREAM => Some((*kind, Code(word(payload)))),
        _ => None,
    });
    ends.next()
}

/// RFC 9113 §3.4, §6.5: the first frames, and the acknowledgement.
#[test]
fn a_connection_begins_with_settings() {
    let mut connection = Connection::new(Limits::default());
    let frames = flushed(&mut connection);
    assert_eq!(frames.iter().map(|frame| frame.0).collect::<Vec<_>>(), [kind::SETTINGS, kind::WINDOW_UPDATE]);
    let mut hello = PREFACE.to_vec();
    frame::put_settings(&[(setting::MAX_FRAME_SIZE, 20_000), (99, 1)], &mut hello);
    for byte in hello.chunks(1) {
        let used = connection.handle(byte, 0);
        if used == 0 {
            break; // a frame's head has to be whole: given again below
        }
    }
    let rest = &hello[PREFACE.len()..];
    assert_eq!(connection.handle(rest, 0), rest.len());
    assert_eq!(flushed(&mut connection), [(kind::SETTINGS, flag::ACK, 0, Vec::new())]);
    let mut wrong = Connection::new(Limits::default());
    flushed(&mut wrong);
    assert_eq!(wrong.handle(b"PRI * HTTP/2.0\r\n\r\nXX", 0), 20);
    assert_eq!(ended(&mut wrong), Some((kind::GOAWAY, Code::PROTOCOL_ERROR)));
}

/// `large_client_header_buffers 4 32k`: a client may send such a field in one frame.
#[test]
fn frames_are_as_long_as_a_head_may_be() {
    let mut limits = Limits::default();
    (limits.head.line_bytes_max, limits.head.head_bytes_max) = (32 * 1024, 128 * 1024);
    let mut connection = Connection::new(limits);
    let settings = flushed(&mut connection).swap_remove(0);
    let entry = [0, setting::MAX_FRAME_SIZE as u8, 0, 2, 0, 0];
    assert!(settings.3.as_chunks::<6>().0.contains(&entry));
    let mut connection = begun_with(limits);
    let path = format!("/{}", "Z".repeat(31_000));
    send(&mut connection, kind::HEADERS, END, 1, &get(&path));
    assert!(connection.next_request().is_some_and(|event| event.request.malformed.is_none()));
    let mut connection = begun();
    let bytes = framed(kind::HEADERS, END, 1, &get(&path));
    connection.handle(&bytes, 0);
    assert_eq!(ended(&mut connection), Some((kind::GOAWAY, Code::FRAME_SIZE_ERROR)), "by default");
}

#[test]
fn a_request_comes_in_any_pieces() {
    let head = get("/a");
    let (first, rest) = head.split_at(3);
    let frames = [
        framed(kind::HEADERS, flag::END_STREAM | flag::PADDED, 1, &[&[2], first, &[0, 0]].concat()),
        framed(kind::CONTINUATION, 0, 1, b""),
        framed(kind::CONTINUATION, flag::END_HEADERS, 1, rest),
    ]
    .concat();
    for cut in 1..frames.len() {
        let mut connection = begun();
        let mut held: Vec<u8> = Vec::new();
        for piece in frames.chunks(cut) {
            held.extend_from_slice(piece);
            let used = connection.handle(&held, 0);
            held.drain(..used);
        }
        assert!(held.is_empty());
        let event = connection.next_request().expect("a request");
        assert_eq!((event.stream, event.request.malformed), (1, None));
        assert!(event.request.text.starts_with(b"GET /a HTTP/2.0\r\n"));
        assert_eq!(event.bytes as usize, head.len() + 3);
    }
}

#[test]
fn a_body_arrives_within_its_window_and_gives_room_when_it_is_used() {
    let mut connection = begun();
    post(&mut connection, 1);
    for _ in 0..4 {
        send(&mut connection, kind::DATA, 0, 1, &[7; 16 * 1024]);
    }
    assert!(flushed(&mut connection).is_empty(), "nothing is used yet");
    let data = connection.take_data(1);
    assert_eq!(data.len(), 64 * 1024);
    connection.release(1, data.len());
    assert_eq!(flushed(&mut connection), [(kind::WINDOW_UPDATE, 0, 1, 65_536u32.to_be_bytes().to_vec())]);
    connection.open_window(1);
    assert_eq!(flushed(&mut connection), [(kind::WINDOW_UPDATE, 0, 1, 65_536u32.to_be_bytes().to_vec())]);
    send(&mut connection, kind::DATA, flag::END_STREAM, 1, b"end");
    let stream = connection.stream(1).expect("it is open");
    assert!(stream.is_remote_closed() && stream.has_data() && stream.fault().is_none());
}

#[test]
fn all_bodies_together_are_bounded_by_the_window_of_the_connection() {
    let mut connection = begun();
    let mut stream = 1;
    let mut taken = 0;
    while connection.failure().is_none() {
        post(&mut connection, stream);
        for _ in 0..4 {
            send(&mut connection, kind::DATA, 0, stream, &[7; 16 * 1024]);
            taken += if connection.failure().is_none() { 16 * 1024 } else { 0 };
        }
        stream += 2;
    }
    assert_eq!(taken, CONNECTION_WINDOW_BYTES as usize);
    assert_eq!(ended(&mut connection), Some((kind::GOAWAY, Code::FLOW_CONTROL_ERROR)));
}

/// Its last bytes are used, but never released: otherwise each body would take a part of the window with it.
#[test]
fn a_body_that_was_read_to_its_end_gives_its_room_back_with_its_stream() {
    let mut connection = begun();
    for stream in (1..400).step_by(2) {
        post(&mut connection, stream);
        send(&mut connection, kind::DATA, flag::END_STREAM, stream, &[7; 16 * 1024]);
        assert_eq!(connection.take_data(stream).len(), 16 * 1024);
        connection.send_block(stream, &[0x88], true).expect("open");
        connection.close(stream, Code::INTERNAL_ERROR);
        connection.release(stream, 16 * 1024); // too late: it counts once
        flushed(&mut connection);
    }
    assert!(connection.failure().is_none());
    let room = connection.receive_window + i64::from(connection.owed);
    assert_eq!(room, i64::from(CONNECTION_WINDOW_BYTES));
}

#[test]
fn a_stream_that_sends_more_than_its_window_is_reset() {
    let mut connection = begun_with(Limits { stream_window: 70_000, ..Limits::default() });
    post(&mut connection, 1);
    for _ in 0..5 {
        send(&mut connection, kind::DATA, 0, 1, &[7; 16 * 1024]);
    }
    assert_eq!(ended(&mut connection), Some((kind::RST_STREAM, Code::FLOW_CONTROL_ERROR)));
    assert!(
        connection.failure().is_none() && connection.stream(1).is_some_and(|stream| stream.reset().is_some())
    );
}

#[test]
fn a_length_that_lies_is_a_fault_of_the_body() {
    for (declared, sent, is_fault) in [(5, 5, false), (5, 4, true), (5, 6, true), (0, 1, true)] {
        let mut connection = begun();
        let length = format!("{declared}");
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "h")];
        let head = block(&[&fields[..], &[("content-length", &length)]].concat());
        send(&mut connection, kind::HEADERS, MORE, 1, &head);
        send(&mut connection, kind::DATA, flag::END_STREAM, 1, &vec![b'x'; sent]);
        let stream = connection.stream(1).expect("it is open");
        assert_eq!(stream.fault().is_some(), is_fault, "{declared} {sent}");
        assert!(stream.received.len() <= declared, "what is too much is not passed on");
    }
}

/// RFC 9113 §5.2, §6.9: what we send stays within both windows, however they change.
#[test]
fn data_leaves_within_both_windows() {
    let waker = Waker::noop();
    let mut connection = begun();
    send(&mut connection, kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
    send(&mut connection, kind::HEADERS, END, 1, &get("/"));
    flushed(&mut connection);
    let all = [b'x'; 40];
    let sent = connection.send_data(1, &all, true, 8, waker).expect("open");
    assert_eq!((sent.count, sent.is_done), (10, false));
    let frames = flushed(&mut connection);
    assert_eq!(frames.iter().map(|frame| frame.3.len()).collect::<Vec<_>>(), [8, 2]);
    // the window shrinks below zero and grows again
    send(&mut connection, kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 3]);
    send(&mut connection, kind::WINDOW_UPDATE, 0, 1, &7u32.to_be_bytes());
    assert_eq!(connection.send_data(1, &all[10..], true, 8, waker).map(|sent| sent.count), Ok(0));
    send(&mut connection, kind::WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes());
    assert_eq!(connection.send_data(1, &all[10..], true, 8, waker).map(|sent| sent.count), Ok(1));
    send(&mut connection, kind::WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes());
    let sent = connection.send_data(1, &all[11..], true, 100, waker).expect("open");
    assert_eq!((sent.count, sent.is_done), (29, true));
    let frames = flushed(&mut connection);
    assert_eq!(frames.last().map(|frame| (frame.0, frame.1)), Some((kind::DATA, flag::END_STREAM)));
    assert_eq!(connection.send_data(1, b"more", true, 8, waker), Err(Gone), "the end was sent");
    // the window of the connection
    send(&mut connection, kind::SETTINGS, 0, 0, &[0, 4, 0x40, 0, 0, 0]);
    send(&mut connection, kind::HEADERS, END, 3, &get("/"));
    let mut count = 0;
    for _ in 0..10 {
        count += connection.send_data(3, &[0; 30_000], false, 16_384, waker).expect("open").count;
        flushed(&mut connection);
    }
    assert_eq!(count, WINDOW_DEFAULT as usize - 40);
}

#[test]
fn streams_share_the_output_in_turns_and_the_urgent_ones_go_first() {
    let waker = Waker::noop();
    let mut connection = begun();
    send(&mut connection, kind::SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    send(&mut connection, kind::WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes());
    for stream in [1, 3, 5] {
        send(&mut connection, kind::HEADERS, END, stream, &get("/"));
    }
    send(&mut connection, kind::PRIORITY_UPDATE, 0, 0, b"\0\0\0\x05u=1");
    flushed(&mut connection);
    let long = vec![0; 1 << 20];
    let mut left = [long.len(); 3];
    let mut order = Vec::new();
    while left.iter().any(|left| *left > 0) {
        for (index, left) in left.iter_mut().enumerate().filter(|(_, left)| **left > 0) {
            let stream = 1 + 2 * index as u32;
            let sent = connection.send_data(stream, &long[..*left], true, 8192, waker).expect("open");
            *left -= sent.count;
            order.extend((sent.count > 0).then_some((stream, sent.count)));
        }
        assert!(connection.output().len() < OUTPUT_BYTES_MAX + 2 * 8192 + 100);
        flushed(&mut connection);
    }
    let first_done = order.iter().position(|(stream, _)| *stream == 5).expect("it sends");
    let of_others = order[first_done..].iter().take_while(|(stream, _)| *stream != 5).count();
    assert_eq!(of_others, 0);
    let last_of_urgent = order.iter().rposition(|(stream, _)| *stream == 5).expect("it sends");
    let behind: Vec<u32> = order[last_of_urgent + 1..].iter().map(|(stream, _)| *stream).collect();
    let of_first = behind.iter().filter(|stream| **stream == 1).count();
    assert!(
        behind.len() > 20 && of_first.abs_diff(behind.len() - of_first) <= behind.len() / 4,
        "{behind:?}"
    );
}

/// RFC 9113, sections as named: each broken rule ends the stream or the connection with the code given there.
#[test]
fn broken_rules_end_what_they_break() {
    let head = get("/");
    let stream = |code| Some((kind::RST_STREAM, code));
    let connection = |code| Some((kind::GOAWAY, code));
    let post = framed(kind::HEADERS, MORE, 1, &head);
    let whole = framed(kind::HEADERS, END, 1, &head);
    let update = |bytes: u32| bytes.to_be_bytes();
    type Case = (&'static str, Vec<u8>, Option<(u8, Code)>);
    let cases: Vec<Case> = vec![
        ("4.2 a long frame", framed(kind::DATA, 0, 1, &[0; 16_385]), connection(Code::FRAME_SIZE_ERROR)),
        ("4.1 an unknown frame", framed(0x42, 0xff, 7, &[0; 100]), None),
        ("4.3 junk", framed(kind::HEADERS, END, 1, &[0xff; 30]), connection(Code::COMPRESSION_ERROR)),
        (
            "4.3 another frame in a block",
            [framed(kind::HEADERS, 0, 1, &head), framed(kind::PING, 0, 0, &[0; 8])].concat(),
            connection(Code::PROTOCOL_ERROR),
        ),
        ("5.1 DATA on an idle stream", framed(kind::DATA, 1, 1, b"x"), connection(Code::PROTOCOL_ERROR)),
        (
            "5.1 RST_STREAM on an idle stream",
            framed(kind::RST_STREAM, 0, 1, &[0; 4]),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            framed(kind::WINDOW_UPDATE, 0, 1, &update(1)),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA behind the end",
            [whole.clone(), framed(kind::DATA, 0, 1, b"x")].concat(),
            stream(Code::STREAM_CLOSED),
        ),
        ("5.1 HEADERS behind the end", [whole.clone(), whole.clone()].concat(), stream(Code::STREAM_CLOSED)),
        ("5.1.1 an even stream", framed(kind::HEADERS, END, 2, &head), connection(Code::PROTOCOL_ERROR)),
        (
            "5.1.1 a lower stream",
            [framed(kind::HEADERS, END, 5, &head), framed(kind::HEADERS, END, 3, &head)].concat(),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "5.3.1 a stream that depends on itself",
            framed(kind::HEADERS, END | flag::PRIORITY, 1, &[&[0, 0, 0, 1, 15], &head[..]].concat()),
            stream(Code::PROTOCOL_ERROR),
        ),
        (
            "6.1 long padding",
            [post.clone(), framed(kind::DATA, flag::PADDED, 1, b"\x06hello")].concat(),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "6.2 long padding",
            framed(kind::HEADERS, END | flag::PADDED, 1, b"\xff"),
            connection(Code::PROTOCOL_ERROR),
        ),
        ("6.3 PRIORITY of 4 bytes", framed(kind::PRIORITY, 0, 1, &[0; 4]), stream(Code::FRAME_SIZE_ERROR)),
        (
            "6.3 PRIORITY for no stream",
            framed(kind::PRIORITY, 0, 0, &[0; 5]),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "6.4 RST_STREAM of 3 bytes",
            [post.clone(), framed(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
            connection(Code::FRAME_SIZE_ERROR),
        ),
        (
            "6.5 SETTINGS of 7 bytes",
            framed(kind::SETTINGS, 0, 0, &[0; 7]),
            connection(Code::FRAME_SIZE_ERROR),
        ),
        ("6.5 SETTINGS with ACK", framed(kind::SETTINGS, 1, 0, &[0; 6]), connection(Code::FRAME_SIZE_ERROR)),
        (
            "6.5 SETTINGS for a stream",
            framed(kind::SETTINGS, 0, 1, &[0; 6]),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "6.5.2 ENABLE_PUSH",
            framed(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "6.5.2 INITIAL_WINDOW_SIZE",
            framed(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            connection(Code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE",
            framed(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "6.6 PUSH_PROMISE",
            framed(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            connection(Code::PROTOCOL_ERROR),
        ),
        ("6.7 PING of 6 bytes", framed(kind::PING, 0, 0, &[0; 6]), connection(Code::FRAME_SIZE_ERROR)),
        ("6.8 GOAWAY of 4 bytes", framed(kind::GOAWAY, 0, 0, &[0; 4]), connection(Code::FRAME_SIZE_ERROR)),
        (
            "6.9 an update by nothing",
            [post.clone(), framed(kind::WINDOW_UPDATE, 0, 1, &update(0))].concat(),
            stream(Code::PROTOCOL_ERROR),
        ),
        ("6.9 the same", framed(kind::WINDOW_UPDATE, 0, 0, &update(0)), connection(Code::PROTOCOL_ERROR)),
        (
            "6.9.1 a window beyond 2^31-1",
            [post.clone(), framed(kind::WINDOW_UPDATE, 0, 1, &update(0x7fff_ffff))].concat(),
            stream(Code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.1 the same for the connection",
            framed(kind::WINDOW_UPDATE, 0, 0, &update(0x7fff_ffff)),
            connection(Code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 SETTINGS that make a window too large",
            [
                post.clone(),
                framed(kind::WINDOW_UPDATE, 0, 1, &update(0x7fff_0000)),
                framed(kind::SETTINGS, 0, 0, &[0, 4, 0, 2, 0, 0]),
            ]
            .concat(),
            connection(Code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.10 CONTINUATION behind a block",
            [whole.clone(), framed(kind::CONTINUATION, 4, 1, b"")].concat(),
            connection(Code::PROTOCOL_ERROR),
        ),
        (
            "8.1 HEADERS in the middle",
            [post.clone(), framed(kind::HEADERS, MORE, 1, &block(&[("x", "y")]))].concat(),
            stream(Code::PROTOCOL_ERROR),
        ),
        (
            "8.1 pseudo-header in trailers",
            [post.clone(), framed(kind::HEADERS, END, 1, &block(&[(":path", "/x")]))].concat(),
            stream(Code::PROTOCOL_ERROR),
        ),
        (
            "RFC 9218 7.1 PRIORITY_UPDATE",
            framed(kind::PRIORITY_UPDATE, 0, 1, &[0; 4]),
            connection(Code::PROTOCOL_ERROR),
        ),
    ];
    for (name, bytes, expected) in cases {
        let mut connection = begun();
        connection.handle(&bytes, 0);
        let frames = ended(&mut connection);
        assert_eq!(frames, expected, "{name}");
        assert_eq!(
            connection.failure().is_some(),
            expected.is_some_and(|(kind, _)| kind == kind::GOAWAY),
            "{name}"
        );
    }
}

#[test]
fn streams_beyond_the_limit_are_refused_until_a_task_is_done() {
    let mut connection = begun_with(Limits { streams_max: 2, ..Limits::default() });
    for stream in [1, 3] {
        send(&mut connection, kind::HEADERS, END, stream, &get("/"));
        assert!(connection.next_request().is_some());
    }
    send(&mut connection, kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    send(&mut connection, kind::HEADERS, END, 5, &get("/"));
    assert!(connection.next_request().is_none(), "the task of the first one is not done yet");
    assert_eq!(ended(&mut connection), Some((kind::RST_STREAM, Code::REFUSED_STREAM)));
    connection.close(1, Code::INTERNAL_ERROR);
    assert!(connection.output().is_empty(), "its client knows that it has ended");
    send(&mut connection, kind::HEADERS, END, 7, &get("/"));
    assert!(connection.next_request().is_some());
}

#[test]
fn a_stream_that_its_task_leaves_ends_for_its_client_too() {
    let mut connection = begun();
    post(&mut connection, 1);
    connection.close(1, Code::INTERNAL_ERROR);
    assert_eq!(ended(&mut connection), Some((kind::RST_STREAM, Code::INTERNAL_ERROR)));
    post(&mut connection, 3);
    connection.send_block(3, &[0x88], true).expect("open");
    connection.close(3, Code::INTERNAL_ERROR);
    assert_eq!(
        ended(&mut connection),
        Some((kind::RST_STREAM, Code::NO_ERROR)),
        "the rest of the body is not wanted"
    );
    // data on its way is dropped, and gives its room on the connection back
    for _ in 0..3 {
        send(&mut connection, kind::DATA, 0, 3, &[0; 16_384]);
    }
    assert_eq!((ended(&mut connection), connection.owed), (None, 3 * 16_384));
    send(&mut connection, kind::HEADERS, END, 5, &get("/"));
    connection.send_block(5, &[0x88], true).expect("open");
    connection.close(5, Code::INTERNAL_ERROR);
    assert_eq!(ended(&mut connection), None, "nothing is left to say");
}

#[test]
fn leaving_is_announced_first() {
    let mut connection = begun();
    post(&mut connection, 1);
    connection.announce_leaving();
    let frames = flushed(&mut connection);
    assert_eq!((frames[0].0, word(&frames[0].3)), (kind::GOAWAY, STREAM_MAX));
    let ping = frames[1].3.clone();
    send(&mut connection, kind::HEADERS, END, 3, &get("/"));
    assert!(connection.next_request().is_some(), "it was on its way");
    assert!(!connection.has_announced());
    send(&mut connection, kind::PING, flag::ACK, 0, &ping);
    assert!(connection.has_announced());
    connection.leave();
    let frames = flushed(&mut connection);
    assert_eq!((frames[0].0, word(&frames[0].3)), (kind::GOAWAY, 3));
    send(&mut connection, kind::HEADERS, END, 5, &get("/"));
    assert!(connection.next_request().is_none() && connection.stream_count() == 2);
}

#[test]
fn a_block_that_takes_too_long_ends_its_stream_only() {
    let head = get("/");
    let whole = framed(kind::HEADERS, END, 1, &head);
    for cut in [HEAD_BYTES, HEAD_BYTES + 4] {
        let mut connection = begun();
        let used = connection.handle(&whole[..cut], 0);
        assert!(connection.give_up_head(&whole[used..cut]));
        assert_eq!(ended(&mut connection), Some((kind::RST_STREAM, Code::PROTOCOL_ERROR)));
        assert!(!connection.give_up_head(&whole[used..cut]), "once");
        connection.handle(&whole[used..], 0);
        assert!(connection.next_request().is_none() && connection.failure().is_none());
        send(&mut connection, kind::PING, 0, 0, b"12345678");
        assert_eq!(flushed(&mut connection), [(kind::PING, flag::ACK, 0, b"12345678".to_vec())]);
    }
}

/// The attacks of the field that one connection can mount: each ends within 2,000 frames, with little output.
#[test]
fn floods_end_early() {
    let small = get("/p");
    let reset = framed(kind::RST_STREAM, 0, 0, &[0, 0, 0, 8]);
    type Flood<'a> = (&'a str, Vec<u8>, Box<dyn Fn(u32) -> Vec<u8> + 'a>);
    let stream_of = |turn: u32| 1 + 2 * turn;
    let on = |stream: u32, mut frame: Vec<u8>| {
        frame[5..9].copy_from_slice(&stream.to_be_bytes());
        frame
    };
    let bomb = |turn: u32| {
        let entry = if turn == 0 {
            [&[0x40, 1, b'x', 0x7f, 0x81, 0x1e][..], &[b'y'; 3968]].concat()
        } else {
            Vec::new()
        };
        [&small[..], &entry, &[0xbe; 4000]].concat()
    };
    let floods: Vec<Flood<'_>> = vec![
        (
            "rapid reset (CVE-2023-44487)",
            Vec::new(),
            Box::new(|turn| {
                [framed(kind::HEADERS, END, stream_of(turn), &small), on(stream_of(turn), reset.clone())]
                    .concat()
            }),
        ),
        (
            "MadeYouReset (CVE-2025-8671)",
            Vec::new(),
            Box::new(|turn| {
                let update = framed(kind::WINDOW_UPDATE, 0, stream_of(turn), &[0; 4]);
                [framed(kind::HEADERS, MORE, stream_of(turn), &small), update].concat()
            }),
        ),
        (
            "CONTINUATION (CVE-2024-27316)",
            framed(kind::HEADERS, flag::END_STREAM, 1, &small),
            Box::new(|_| framed(kind::CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(16_000))]))),
        ),
        (
            "empty CONTINUATION (CVE-2024-30255)",
            framed(kind::HEADERS, flag::END_STREAM, 1, &small),
            Box::new(|_| framed(kind::CONTINUATION, 0, 1, b"")),
        ),
        ("PING (CVE-2019-9512)", Vec::new(), Box::new(|_| framed(kind::PING, 0, 0, b"12345678"))),
        (
            "SETTINGS (CVE-2019-9515)",
            Vec::new(),
            Box::new(|_| framed(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ),
        (
            "SETTINGS, window up and down",
            framed(kind::HEADERS, MORE, 1, &small),
            Box::new(|turn| framed(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, (turn % 2) as u8, 0])),
        ),
        (
            "PRIORITY (CVE-2019-9513)",
            Vec::new(),
            Box::new(|_| framed(kind::PRIORITY, 0, 9, &[0, 0, 0, 0, 15])),
        ),
        ("PRIORITY_UPDATE", Vec::new(), Box::new(|_| framed(kind::PRIORITY_UPDATE, 0, 0, b"\0\0\0\x09u=1"))),
        (
            "empty DATA (CVE-2019-9518)",
            framed(kind::HEADERS, MORE, 1, &small),
            Box::new(|_| framed(kind::DATA, 0, 1, b"")),
        ),
        (
            "padding only",
            framed(kind::HEADERS, MORE, 1, &small),
            Box::new(|_| framed(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0])),
        ),
        ("WINDOW_UPDATE", Vec::new(), Box::new(|_| framed(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("unknown frames", Vec::new(), Box::new(|_| framed(0x42, 0, 0, &[0; 100]))),
        (
            "HPACK bomb (CVE-2016-6581)",
            Vec::new(),
            Box::new(|turn| framed(kind::HEADERS, END, stream_of(turn), &bomb(turn))),
        ),
        (
            "malformed requests",
            Vec::new(),
            Box::new(|turn| framed(kind::HEADERS, END, stream_of(turn), &block(&[("X", "y")]))),
        ),
        (
            "streams beyond the limit",
            Vec::new(),
            Box::new(|turn| framed(kind::HEADERS, END, stream_of(turn), &small)),
        ),
    ];
    for (name, first, turn_of) in floods {
        let mut connection = begun();
        connection.handle(&first, 0);
        let (mut turns, mut begun, mut most) = (0, 0, 0);
        while connection.failure().is_none() {
            assert!(turns < 2000, "{name}");
            let bytes = turn_of(turns);
            connection.handle(&bytes, 0);
            while let Some(event) = connection.next_request() {
                begun += 1;
                if name.contains("reset") || name.contains("Reset") || name.contains("malformed") {
                    connection.close(event.stream, Code::INTERNAL_ERROR);
                }
            }
            most = most.max(connection.output().len());
            turns += 1;
        }
        assert!(most < 32 * 1024, "{name}: {most} bytes wait to be sent");
        assert!(begun <= 1000 / 4, "{name}: {begun} requests");
        assert_eq!(connection.handle(&[0; 1000], 0), 1000, "nothing is read any more");
    }
}

#[test]
fn an_idle_connection_is_small() {
    let mut connection = begun();
    for stream in (1..200).step_by(2) {
        send(&mut connection, kind::HEADERS, END, stream, &get("/"));
        connection.next_request().expect("a request");
        connection.send_block(stream, &[0x88], false).expect("open");
        connection.send_data(stream, &[0; 600], true, 8192, Waker::noop()).expect("open");
        connection.close(stream, Code::INTERNAL_ERROR);
        flushed(&mut connection);
    }
    connection.slim();
    assert!(size_of::<Connection>() <= 640, "{}", size_of::<Connection>());
    let held = connection.output.capacity()
        + connection.block_bytes.capacity()
        + connection.streams.capacity() * size_of::<Box<Stream>>()
        + connection.queue.capacity() * 4
        + connection.ended.capacity() * 4
        + connection.events.capacity() * size_of::<Event>();
    assert!(held <= 64, "{held}");
}
