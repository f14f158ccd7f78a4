//! Tests of this room, with the vectors of the RFCs where they have any.

use super::*;
use crate::proto::h2::hpack::Sink;

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "h.test")];

fn build(fields: &[(&str, &str)], ends: bool) -> Request {
    let limits = Limits::default();
    let mut builder = Builder::new(&limits, true);
    for (name, value) in fields {
        builder.field(name.as_bytes(), value.as_bytes()).expect("within the limits");
    }
    builder.finish(ends)
}

fn with(more: &[(&'static str, &'static str)]) -> Request {
    build(&[&GET[..], more].concat(), true)
}

#[test]
fn a_request_is_text_with_ranges() {
    let cookies = [("cookie", "a=1"), ("x-a", "b"), ("cookie", "b=2"), ("te", "trailers")];
    let request = with(&cookies);
    assert_eq!(request.malformed, None);
    let text = "GET /a?b HTTP/2.0\r\nHost: h.test\r\nx-a: b\r\nte: trailers\r\nCookie: a=1; b=2\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&request.text), text);
    let (head, data) = (&request.head, &request.text[..]);
    assert_eq!((head.method, head.version), (Method::Get, Version::Http2));
    assert_eq!((&data[head.method_range.clone()], &data[head.target.clone()]), (&b"GET"[..], &b"/a?b"[..]));
    assert_eq!(head.fields.value(data, Id::Cookie), Some(&b"a=1; b=2"[..]));
    assert_eq!(head.fields.value(data, Id::Host), Some(&b"h.test"[..]));
    assert!(head.fields.iter().all(|field| field.line(data).is_some()));
}

#[test]
fn the_body_is_as_long_as_declared_or_ends_itself() {
    let length = |fields: &[(&str, &str)], ends| {
        let request = build(&[&GET[..], fields].concat(), ends);
        (request.length, request.malformed)
    };
    assert_eq!(length(&[], true), (BodyLength::None, None));
    assert_eq!(length(&[], false), (BodyLength::Chunked, None));
    assert_eq!(length(&[("content-length", "5")], false), (BodyLength::Length(5), None));
    assert_eq!(length(&[("content-length", "0")], true), (BodyLength::Length(0), None));
    assert_eq!(length(&[("content-length", "5")], true).1, Some(Malformed::LengthWithoutBody));
    for bad in ["+5", "5, 5", "", "-1", "0x5", "18446744073709551616"] {
        assert!(length(&[("content-length", bad)], false).1.is_some(), "{bad}");
    }
    assert!(length(&[("content-length", "5"), ("content-length", "5")], false).1.is_some());
}

#[test]
fn what_could_become_something_else_in_http_1_is_malformed() {
    for (name, value) in [
        ("X-Test", "a"),
        ("x test", "a"),
        ("x:test", "a"),
        ("x\r\ny", "a"),
        ("", "a"),
        ("x\0", "a"),
        ("transfer-encoding ", "chunked"),
        ("x", "a\0b"),
        ("x", "a\rb"),
        ("x", "a\nb"),
        ("x", "y\r\ntransfer-encoding: chunked"),
        ("x", " a"),
        ("x", "a\t"),
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        (":path", "/late"),
        ("host", "evil.test"),
    ] {
        assert!(with(&[(name, value)]).malformed.is_some(), "{name:?}: {value:?}");
    }
    for twice in [[("host", "h.test"), ("host", "h.test")], [("host", "h.test"), ("x-b", "c")]] {
        let request = with(&twice);
        assert_eq!(request.malformed, None, "the same host may be said again");
        assert_eq!(request.head.fields.values(&request.text, Id::Host).count(), 1);
    }
    let authorizations = [("authorization", "a"), ("authorization", "b")];
    assert!(with(&authorizations).malformed.is_some());
}

#[test]
fn pseudo_fields_are_complete_unique_and_clean() {
    for (at, name) in ["method", "scheme", "path"].iter().enumerate() {
        let mut fields = GET.to_vec();
        fields.remove(at);
        assert!(build(&fields, true).malformed.is_some(), "no {name}");
    }
    for field in GET {
        let mut fields = GET.to_vec();
        fields.push(field);
        assert_eq!(build(&fields, true).malformed, Some(Malformed::RepeatedPseudo));
    }
    assert_eq!(build(&GET[..3], true).malformed, Some(Malformed::NoHost));
    assert_eq!(build(&[(":test", "a"), GET[0]], true).malformed, Some(Malformed::UnknownPseudo));
    assert_eq!(build(&[(":status", "200"), GET[0]], true).malformed, Some(Malformed::UnknownPseudo));
    for (at, value) in [
        (0, ""),
        (0, "get"),
        (0, "GET /x HTTP/1.1"),
        (0, "GET\r\n"),
        (1, ""),
        (1, "http://x/y?"),
        (2, ""),
        (2, "c"),
        (2, "*"),
        (2, "http://evil.test/c"),
        (2, "/c HTTP/1.1"),
        (2, "/c\r\nX: y"),
        (2, "/c\0"),
        (2, "/c\t"),
        (2, "/c\x7f"),
        (3, "h.test\r\nX: y"),
    ] {
        let mut fields = GET;
        fields[at].1 = value;
        assert!(build(&fields, true).malformed.is_some(), "{} {value:?}", fields[at].0);
    }
    let options = [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "h")];
    assert_eq!(build(&options, true).malformed, None);
    let connect = [(":method", "CONNECT"), (":authority", "h:443")];
    assert_eq!(build(&connect, false).malformed, None);
}

/// RFC 8441 §4.
#[test]
fn an_extended_connect_is_the_get_of_an_upgrade() {
    let connect =
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/chat")];
    let fields = [&connect[..], &[(":authority", "h.test"), ("sec-websocket-version", "13")]].concat();
    let request = build(&fields, false);
    assert_eq!((request.malformed, request.protocol.as_deref()), (None, Some(&b"websocket"[..])));
    assert!(request.text.starts_with(b"GET /chat HTTP/2.0\r\nHost: h.test\r\n"));
    assert_eq!((request.head.method, request.length), (Method::Get, BodyLength::None));
    for (at, value) in [(0, "GET"), (1, ""), (1, "web socket"), (1, "x\r\ny: z")] {
        let mut fields = fields.clone();
        fields[at].1 = value;
        assert_eq!(build(&fields, false).malformed, Some(Malformed::Protocol), "{value:?}");
    }
    let limits = Limits::default();
    let mut builder = Builder::new(&limits, false);
    for (name, value) in &fields {
        builder.field(name.as_bytes(), value.as_bytes()).expect("within the limits");
    }
    assert_eq!(builder.finish(false).malformed, Some(Malformed::Protocol), "it was not offered");
}

#[test]
fn names_that_cgi_takes_for_framing_are_left_out() {
    let request = with(&[("content_length", "5"), ("x_y", "z"), ("x.y", "z"), ("http2-settings", "x")]);
    assert_eq!((request.malformed, request.head.fields.len()), (None, 1));
}

#[test]
fn sizes_are_bounded_by_what_comes_out() {
    let limits = Limits { line_bytes_max: 10, head_bytes_max: 25, fields_max: 2, ..Limits::default() };
    let mut builder = Builder::new(&limits, true);
    assert_eq!(builder.field(b"x", &[b'a'; 11]), Err(Stop::LongField));
    let mut builder = Builder::new(&limits, true);
    assert_eq!(builder.field(&[b'a'; 11], b""), Err(Stop::LongField));
    let mut builder = Builder::new(&limits, true);
    builder.field(b"x", &[b'a'; 9]).expect("10 of 25");
    builder.field(b"x", &[b'a'; 9]).expect("20 of 25");
    assert_eq!(builder.field(b"x", &[b'a'; 9]), Err(Stop::LongHead), "also when nothing is kept any more");
    let mut unread = Unread::new(&limits);
    unread.field(b"x", &[b'a'; 9]).expect("10 of 25");
    assert_eq!(unread.field(b"x", &[b'a'; 10]).and(unread.field(b"x", &[b'a'; 9])), Err(Stop::LongHead));
    let many: Vec<(&str, &str)> = GET.into_iter().chain([("x", "y"); 1001]).collect();
    assert_eq!(build(&many, true).malformed, Some(Malformed::TooManyFields));
}

#[test]
fn trailers_have_proper_fields_only() {
    for (name, value, is_malformed) in
        [("x", "y", false), (":path", "/", true), ("X", "y", true), ("x", "y\r\n", true), ("", "", true)]
    {
        let limits = Limits::default();
        let mut trailers = Unread::new(&limits);
        trailers.field(name.as_bytes(), value.as_bytes()).expect("small");
        assert_eq!(trailers.is_malformed, is_malformed, "{name:?}");
    }
}
