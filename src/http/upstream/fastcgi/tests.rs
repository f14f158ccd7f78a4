//! Responses of applications, however they are cut, and the requests that they get.

use super::*;
use crate::http::pipeline;
use crate::http::property;
use crate::http::request::body::Body as RequestBody;
use crate::http::request::error::Failure;
use crate::http::upstream::cgi::body_length;
use crate::http::upstream::tests::{config, pass};
use crate::net::transport::script::Script;
use crate::proto::message::Method;
use crate::runtime::Runtime;

/// The outcome of a response.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    status: u16,
    head_length: usize,
    body: Vec<u8>,
    messages: Vec<Vec<u8>>,
    has_extra: bool,
    is_done: bool,
    keeps: bool,
    error: Option<String>,
}

fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let mut out = vec![1, kind, 0, 1, high, low, padding, 0];
    out.extend_from_slice(content);
    out.extend(std::iter::repeat_n(0, padding.into()));
    out
}

fn out(text: &str) -> Vec<u8> {
    record(6, text.as_bytes(), 0)
}

fn said(text: &str) -> Vec<u8> {
    record(7, text.as_bytes(), 5)
}

fn end(status: u8) -> Vec<u8> {
    record(3, &[0, 0, 0, 0, status, 0, 0, 0], 0)
}

const KEEPING: Encoder = Encoder { keeps: true, streams: false };

/// Reads a response as the exchange and the relay do: the parts of the head are appended to one buffer, unused bytes
/// of the body come again. `None` as the last part: the connection ends.
fn read(parts: &[&[u8]], method: Method, is_closed: bool) -> Read {
    let mut decoder = Decoder::new(KEEPING);
    let (mut buffer, mut head, mut pieces) = (Buffer::take(1024), ResponseHead::default(), Pieces::new());
    let mut read = Read::default();
    let mut has_head = false;
    let fail = |read: &mut Read, kind: Kind| read.error = Some(Failure::from(kind).to_string());
    let take_notes = |decoder: &mut Decoder, read: &mut Read| {
        if let Some(notes) = decoder.notes(false) {
            read.messages.extend(notes.messages);
            read.has_extra |= notes.complaint.is_some();
        }
    };
    for part in parts {
        buffer.extend(part);
        if !has_head {
            let progress = decoder.head(&mut buffer, 900, &mut head);
            take_notes(&mut decoder, &mut read);
            match progress {
                Ok(Progress::Complete(length)) => {
                    match body_length(&head, buffer.data(), method, BodyLength::Chunked) {
                        Ok(length) => decoder.begin_body(length),
                        Err(kind) => {
                            fail(&mut read, kind);
                            return read;
                        }
                    };
                    (read.status, read.head_length, has_head) = (head.status, length, true);
                    buffer.consume(length);
                }
                Ok(_) => continue,
                Err(kind) => {
                    fail(&mut read, kind);
                    return read;
                }
            }
        }
        match decoder.body(buffer.data(), &mut pieces) {
            Ok(used) => {
                pieces.iter().for_each(|piece| read.body.extend_from_slice(&buffer.data()[piece.clone()]));
                buffer.consume(used);
            }
            Err(kind) => fail(&mut read, kind),
        }
        take_notes(&mut decoder, &mut read);
        if let Some(kind) = decoder.broken() {
            fail(&mut read, kind);
        }
        if read.error.is_some() {
            return read;
        }
    }
    if is_closed
        && !decoder.is_done()
        && let Err(kind) = decoder.closed()
    {
        fail(&mut read, kind);
    }
    (read.is_done, read.keeps) = (decoder.is_done(), decoder.may_keep() && buffer.data().is_empty());
    read
}

/// Reads it whole, in two parts cut anywhere, and byte by byte: the outcome is always the same.
fn read_cut(records: &[Vec<u8>], method: Method) -> Read {
    let bytes = records.concat();
    let whole = read(&[&bytes], method, false);
    for cut in 1..bytes.len() {
        assert_eq!(read(&[&bytes[..cut], &bytes[cut..]], method, false), whole, "cut at {cut}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&single, method, false), whole, "byte by byte");
    whole
}

#[test]
fn a_response_is_the_same_wherever_it_is_cut() {
    let records = [
        said("PHP Warning: first"),
        out("Status: 404 Not Found\r\nContent-Ty"),
        record(6, b"pe: text/html\r\n", 7),
        said("second"),
        out("\r\nthe "),
        out("body"),
        said("third"),
        record(6, b"", 0),
        end(0),
    ];
    let read = read_cut(&records, Method::Get);
    assert_eq!((read.status, &*read.body), (404, &b"the body"[..]));
    assert_eq!(read.messages, [&b"PHP Warning: first"[..], b"second", b"third"]);
    assert!(read.is_done && read.keeps && read.error.is_none());
}

#[test]
fn a_body_ends_where_its_head_says() {
    let with_length = |length: &str, body: &str| {
        [out(&format!("Content-Length: {length}\r\n\r\n{body}")), record(6, b"", 0), end(0)]
    };
    let exact = read_cut(&with_length("4", "body"), Method::Get);
    assert_eq!(
        (&*exact.body, exact.is_done, exact.keeps, exact.has_extra),
        (&b"body"[..], true, true, false)
    );
    let long = read_cut(&with_length("4", "bodyguard"), Method::Get);
    assert_eq!((&*long.body, long.is_done, long.keeps, long.has_extra), (&b"body"[..], true, true, true));
    let none = read_cut(&with_length("0", "body"), Method::Get);
    assert_eq!((&*none.body, none.is_done, none.has_extra), (&b""[..], true, true));
    let bytes = with_length("9", "body").concat();
    for cut in 0..bytes.len() {
        let short = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, false);
        assert!(short.body.len() <= 4 && !short.is_done, "{cut}");
        assert_eq!(short.error.as_deref(), Some("upstream prematurely closed FastCGI stdout"), "{cut}");
    }
    let short = read(&[&[out("Content-Length: 9\r\n\r\nbody"), end(0)].concat()], Method::Get, false);
    assert_eq!(
        (&*short.body, short.error.as_deref()),
        (&b"body"[..], Some("upstream prematurely closed FastCGI request"))
    );
    for length in ["-1", "x", "4\r\nContent-Length: 4"] {
        assert!(read_cut(&with_length(length, "body"), Method::Get).error.is_some(), "{length}");
    }
}

#[test]
fn a_response_without_a_body_is_complete_at_once_and_kept_once_it_has_ended() {
    let head = [out("Content-Length: 4\r\n\r\n")];
    let headed = read(&[&head.concat()], Method::Head, false);
    assert!(headed.is_done && !headed.keeps && headed.error.is_none());
    let whole = read(&[&[out("Content-Length: 4\r\n\r\nbody"), end(0)].concat()], Method::Head, false);
    assert!(whole.is_done && whole.keeps && whole.body.is_empty() && !whole.has_extra);
    let unmodified = read(&[&[out("Status: 304\r\n\r\nbody"), end(0)].concat()], Method::Get, false);
    assert!(unmodified.is_done && unmodified.body.is_empty());
}

#[test]
fn the_end_of_the_connection_is_no_end_of_a_response() {
    let ends = |records: &[Vec<u8>]| read(&[&records.concat()], Method::Get, true);
    assert!(ends(&[out("A: b\r\n\r\nbody")]).error.is_some());
    assert!(ends(&[out("Content-Length: 5\r\n\r\nbody")]).error.is_some());
    let complete = ends(&[out("Content-Length: 4\r\n\r\nbody")]);
    assert!(
        complete.is_done && !complete.keeps && complete.error.is_none(),
        "all that it announced has come"
    );
    assert!(ends(&[out("A: b\r\n\r\nbody"), end(0)]).is_done);
}

#[test]
fn an_end_before_the_head_says_why() {
    for (records, expected) in [
        (vec![record(6, b"", 0), end(0)], "upstream prematurely closed FastCGI stdout"),
        (
            vec![out("Content-Type: te"), record(6, b"", 0), end(0)],
            "upstream prematurely closed FastCGI stdout",
        ),
        (vec![end(0)], "upstream prematurely closed FastCGI request"),
        (vec![end(1)], "upstream refused the request: it is busy (FCGI_CANT_MPX_CONN)"),
        (vec![said("no room"), end(2)], "upstream refused the request: it is overloaded (FCGI_OVERLOADED)"),
        (vec![end(3)], "upstream refused the request: it is not a responder (FCGI_UNKNOWN_ROLE)"),
        (vec![out("HTTP/1.1 200 OK\r\n\r\n")], "upstream sent invalid header name"),
        (vec![out("Status: 12\r\n\r\n")], "upstream sent invalid status line"),
        (
            vec![b"HTTP/1.1 400 Bad Request\r\n".to_vec()],
            "upstream sent unsupported FastCGI protocol version",
        ),
        (vec![record(5, b"a", 0)], "upstream sent invalid FastCGI record type"),
        (vec![out(&format!("A: {}\r\n\r\n", "x".repeat(900)))], "upstream sent too big header"),
    ] {
        let read = read(&[&records.concat()], Method::Get, false);
        assert_eq!(read.error.as_deref(), Some(expected), "{records:?}");
    }
}

#[test]
fn a_response_is_refused_in_its_body_too() {
    for bad in [b"\0\x06\0\x01\0\0\0\0".to_vec(), record(5, b"a", 0)] {
        let bytes = [out("A: b\r\n\r\nbody"), bad].concat();
        for cut in 1..bytes.len() {
            assert!(read(&[&bytes[..cut], &bytes[cut..]], Method::Get, false).error.is_some(), "{cut}");
        }
    }
}

#[test]
fn a_connection_with_bytes_after_the_end_is_not_kept() {
    let bytes = [out("A: b\r\n\r\nbody"), end(0), b"more".to_vec()].concat();
    for cut in 1..bytes.len() {
        let read = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, false);
        assert!(read.is_done && !read.keeps && read.body == b"body", "{cut}");
    }
}

#[test]
fn messages_are_bounded() {
    let mut decoder = Decoder::new(KEEPING);
    let (mut head, mut told, mut cut_count) = (ResponseHead::default(), 0, 0);
    for _ in 0..100 {
        let mut buffer = Buffer::take(16 * 1024);
        buffer.extend(&said(&"x".repeat(10_000)));
        assert_eq!(decoder.head(&mut buffer, 900, &mut head).unwrap(), Progress::Partial);
        assert!(buffer.data().is_empty());
        let notes = decoder.notes(false).unwrap_or_default();
        told += notes.messages.iter().map(Vec::len).sum::<usize>();
        cut_count += usize::from(notes.is_cut.is_some());
    }
    assert_eq!((told, cut_count), (MESSAGE_BYTES_MAX, 1), "and the log says so once");
}

#[test]
fn looking_ahead_changes_nothing() {
    let bytes = [out("A: b\r\n\r\nbo"), out("dy"), said("note"), end(0)].concat();
    let mut buffer = Buffer::take(1024);
    buffer.extend(&bytes[..20]);
    let (mut decoder, mut head, mut pieces) = (Decoder::new(KEEPING), ResponseHead::default(), Pieces::new());
    let Ok(Progress::Complete(length)) = decoder.head(&mut buffer, 900, &mut head) else { panic!("a head") };
    let mut ahead = decoder.fork();
    ahead.begin_body(BodyLength::Chunked);
    buffer.extend(&bytes[20..]);
    let data = buffer.data()[length..].to_vec();
    assert_eq!(ahead.body(&data, &mut pieces).unwrap(), data.len());
    assert!(ahead.is_done() && !decoder.is_done());
    decoder.begin_body(BodyLength::Chunked);
    assert_eq!(decoder.body(&data, &mut pieces).unwrap(), data.len());
    let body: Vec<u8> = pieces.iter().flat_map(|piece| data[piece.clone()].to_vec()).collect();
    assert_eq!((&*body, decoder.is_done()), (&b"body"[..], true));
    assert_eq!(decoder.notes(false).unwrap().messages, [b"note"]);
}

#[test]
fn bodies_are_records() {
    let mut out = Vec::new();
    let place = frame(&[b'x'; 70_000], &mut out);
    assert_eq!(place, 0..70_016);
    let mut bytes = vec![b'#'; FRAME_HEAD_BYTES];
    bytes.extend_from_slice(b"hello");
    let start = seal(&mut bytes);
    assert_eq!(bytes[start..], record(5, b"hello", 0));
    finish(&mut out);
    assert_eq!(out[70_016..], record(5, b"", 0));
}

/// The parameters of a request to this server.
type Sent = (Vec<u8>, Vec<(String, String)>);

fn sent(request: &mut Request, framing: Framing) -> Result<Sent, Error> {
    let mut bytes = Vec::new();
    Encoder::of(request.location).head(request, framing, &mut bytes)?;
    let (first, mut rest) = bytes.split_at(16);
    let mut pairs = Vec::new();
    while let [1, 4, 0, 1, high, low, 0, 0, after @ ..] = rest {
        let (mut content, next) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        while let [name, value, text @ ..] = content {
            assert!(*name < 128 && *value < 128, "short ones only");
            let (name, value) = (usize::from(*name), usize::from(*value));
            let shown = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            pairs.push((shown(&text[..name]), shown(&text[name..name + value])));
            content = &text[name + value..];
        }
        rest = next;
    }
    Ok((first.iter().chain(rest).copied().collect(), pairs))
}

#[test]
fn a_request_is_its_parameters_and_the_client_s_fields() {
    let worker = config(
        "fastcgi_pass 127.0.0.1:1; fastcgi_param SCRIPT_NAME $fastcgi_script_name; fastcgi_param EMPTY ''; \
         fastcgi_param NOT '' if_not_empty; fastcgi_param HTTP_ACCEPT forced; fastcgi_index i.php; fastcgi_keep_conn on;",
    );
    let text = "GET /a/ HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nProxy: http://evil/\r\nX_One: sly\r\nX-One: 1\r\nCookie: a=b\r\n\
                x-one: 2\r\nCookie: c=d\r\n\r\n";
    Runtime::new().unwrap().block_on(async {
        let mut request = property::read(worker, text, RequestBody::none()).expect("a valid head");
        request.host = b"h".to_vec().into();
        assert!(matches!(pipeline::begin(&mut request, pipeline::Entry::Client), pipeline::Step::Pass));
        let request = &mut *request;
        let (frame, pairs) = sent(request, Framing::None).unwrap();
        assert_eq!(frame[..16], [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(frame[16..], record(5, b"", 0), "an empty body has its end");
        let found: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("SCRIPT_NAME", "/a/i.php"),
            ("EMPTY", ""),
            ("HTTP_ACCEPT", "forced"),
            ("HTTP_HOST", "h"),
            ("HTTP_X_ONE", "1, 2"),
            ("HTTP_COOKIE", "a=b; c=d"),
        ];
        assert_eq!(found, expected);
        assert_eq!(sent(request, Framing::Length(3)).unwrap().0.len(), 16, "the body follows");
    });
}

/// A pass of a request to an application, while both sides do what `plays` scripts.
fn passed(
    directives: &'static str,
    start: &'static str,
    declared: BodyLength,
    plays: impl FnOnce(&Script, &Script) + Send + 'static,
) -> crate::http::upstream::tests::Seen {
    Runtime::new().unwrap().block_on(async move {
        pass(config(&format!("fastcgi_pass 127.0.0.1:1; {directives}")), start, declared, plays).await
    })
}

#[test]
fn a_whole_pass_is_the_same_wherever_the_response_is_cut() {
    let records = [
        out("Status: 201 Made\r\nX-Accel-Buffering: no\r\nServer: app\r\nA: b\r\n"),
        said("a message"),
        out("\r\nthe body"),
        record(6, b"", 3),
        end(0),
    ];
    let bytes = records.concat();
    for cut in 0..bytes.len() {
        let (first, second) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
        let seen = passed("fastcgi_keep_conn on;", "GET /", BodyLength::None, move |_, upstream| {
            if !first.is_empty() {
                upstream.sends(&first);
            }
            upstream.sends(&second);
        });
        assert_eq!(seen.outcome, Ok(()), "cut at {cut}");
        let head =
            "HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nServer: app\r\nA: b";
        assert_eq!((&*seen.head, &*seen.body), (head, &b"the body"[..]), "cut at {cut}");
        assert!(seen.is_kept, "cut at {cut}");
    }
}

#[test]
fn a_body_in_chunks_gets_a_length_unless_it_is_streamed() {
    let answer = || [out("A: b\r\n\r\n"), end(0)].concat();
    let chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let conf = "fastcgi_param CONTENT_LENGTH $content_length; fastcgi_pass_request_headers off;";
    let start = "POST /\nTransfer-Encoding: chunked";
    let seen = passed(conf, start, BodyLength::Chunked, move |client, upstream| {
        client.sends(chunks);
        upstream.sends(&answer());
    });
    let length = [&[14, 1][..], b"CONTENT_LENGTH5"].concat();
    let expected =
        [record(4, &length, 0), record(4, b"", 0), record(5, b"abcde", 0), record(5, b"", 0)].concat();
    assert_eq!((seen.outcome, &seen.sent[16..]), (Ok(()), &*expected));
    let conf = "fastcgi_param CONTENT_LENGTH $content_length if_not_empty; fastcgi_pass_request_headers off; \
                fastcgi_request_buffering off;";
    let seen = passed(conf, start, BodyLength::Chunked, move |client, upstream| {
        client.sends(&chunks[..8]).pauses().sends(&chunks[8..]);
        upstream.sends(&answer());
    });
    let expected = [record(4, b"", 0), record(5, b"abc", 0), record(5, b"de", 0), record(5, b"", 0)].concat();
    assert_eq!(seen.outcome, Ok(()));
    let contents = fastcgi::contents(&seen.sent[24..]);
    assert_eq!(
        (contents, &seen.sent[..24]),
        (b"abcde".to_vec(), &[&seen.sent[..16], &expected[..8]].concat()[..])
    );
    assert!(seen.sent.ends_with(&record(5, b"", 0)));
}
