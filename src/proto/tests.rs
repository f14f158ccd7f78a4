//! Heads of requests and responses: what is generated is what is parsed, what is mutated is refused or
//! forwarded with one meaning, and an independent parser (`httparse`) reads the same.
//!
//! Values in, values out. The promises that are checked at every cut are those of `proto::property`.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::proto::h1::request::{self, Limits, Progress};
use crate::proto::h1::response;
use crate::proto::h1::{Error, encode};
use crate::proto::head::{RequestHead, ResponseHead};
use crate::proto::message::{Method, Version};
use crate::proto::property;

/// Nothing is left out and nothing is too long, so that only the grammar decides.
const LIMITS: Limits = Limits {
    line_bytes_max: 1 << 16,
    head_bytes_max: 1 << 20,
    fields_max: 1000,
    ignore_invalid: false,
    underscores: true,
};

/// What mutations put in: ends of lines, separators, and the fields that framing hangs on.
const HOSTILE: [&[u8]; 28] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"%0d%0a",
    b"\r\n ",
    b"\n\t",
    b" HTTP/1.1",
    b"HTTP/1.0",
    b"Content-Length: 5\r\n",
    b"Content-Length : 6\r\n",
    b"content-length:+7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, identity\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Host: other\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    b"0\r\n\r\n",
];

type Field = (Vec<u8>, Vec<u8>);

fn field_names() -> impl Strategy<Value = Vec<u8>> {
    let token = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}".prop_map(String::into_bytes);
    let known = select(vec!["Accept", "user-agent", "COOKIE", "Via", "X-Forwarded-For", "TE"]);
    // a framing field that came about by chance would be judged as one
    let is_free = |name: &Vec<u8>| {
        !["host", "content-length", "transfer-encoding"]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
    };
    prop_oneof![token.prop_filter("has no meaning", is_free), known.prop_map(|name| name.as_bytes().to_vec())]
}

fn field_values() -> impl Strategy<Value = Vec<u8>> {
    let allowed = prop_oneof![4 => 0x21..=0x7eu8, 1 => 0x80..=0xffu8, 1 => select(vec![b' ', b'\t'])];
    vec(allowed, 0..30).prop_map(|value| value.trim_ascii().to_vec())
}

fn blanks() -> impl Strategy<Value = &'static [u8]> {
    select(vec![&b""[..], b" ", b"\t", b"  \t "])
}

fn line_ends() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![9 => Just(&b"\r\n"[..]), 1 => Just(&b"\n"[..])]
}

/// Fields, and their lines as someone may write them, with the empty line.
fn fields() -> impl Strategy<Value = (Vec<Field>, Vec<u8>)> {
    let line = (field_names(), blanks(), field_values(), blanks(), line_ends());
    (vec(line, 0..8), line_ends()).prop_map(|(lines, last)| {
        let mut text = Vec::new();
        for (name, before, value, after, end) in &lines {
            text.extend_from_slice(&[name, &b":"[..], before, value, after, end].concat());
        }
        text.extend_from_slice(last);
        (lines.into_iter().map(|(name, _, value, ..)| (name, value)).collect(), text)
    })
}

#[derive(Clone, Debug)]
struct Sent {
    text: Vec<u8>,
    method: Vec<u8>,
    target: Vec<u8>,
    version: Version,
    fields: Vec<Field>,
}

fn targets() -> impl Strategy<Value = String> {
    prop_oneof!["/[!-~]{0,40}", "http://[a-z0-9.]{1,12}(:[0-9]{1,4})?/[!-~]{0,20}", Just("*".to_owned())]
}

fn requests() -> impl Strategy<Value = Sent> {
    let method = prop_oneof!["(GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT)", "[A-Z_-]{1,10}"];
    let version = select(vec![("HTTP/1.0", Version::Http10), ("HTTP/1.1", Version::Http11)]);
    (method, targets(), version, line_ends(), fields()).prop_map(
        |(method, target, (name, version), end, (mut fields, mut lines))| {
            if end == b"\r\n" {
                lines = with_crlf(&lines); // a lone LF behind it is refused
            }
            let text =
                [format!("{method} {target} {name}").as_bytes(), end, b"Host: h.test\r\n", &lines].concat();
            fields.insert(0, (b"Host".to_vec(), b"h.test".to_vec()));
            Sent { text, method: method.into_bytes(), target: target.into_bytes(), version, fields }
        },
    )
}

fn with_crlf(lines: &[u8]) -> Vec<u8> {
    let ended = |line: &[u8]| [line.strip_suffix(b"\r").unwrap_or(line), b"\r\n"].concat();
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    lines.split(|byte| *byte == b'\n').flat_map(ended).collect()
}

/// Status, reason, version, fields, text.
fn responses() -> impl Strategy<Value = (u16, Vec<u8>, Version, Vec<Field>, Vec<u8>)> {
    let version = select(vec![("HTTP/1.0", Version::Http10), ("HTTP/1.1", Version::Http11)]);
    (version, 100..1000u16, field_values(), line_ends(), fields()).prop_map(
        |((name, version), status, reason, end, (fields, lines))| {
            let text = [format!("{name} {status} ").as_bytes(), &reason, end, &lines].concat();
            (status, reason, version, fields, text)
        },
    )
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(prop::sample::Index, &'static [u8]),
    Insert(prop::sample::Index, &'static [u8]),
    Remove(prop::sample::Index),
    RepeatLine(prop::sample::Index),
    Flip(prop::sample::Index, u8),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let index = any::<prop::sample::Index>;
    let hostile = || select(HOSTILE.to_vec());
    let one = prop_oneof![
        (index(), hostile()).prop_map(|(at, what)| Mutation::Replace(at, what)),
        (index(), hostile()).prop_map(|(at, what)| Mutation::Insert(at, what)),
        index().prop_map(Mutation::Remove),
        index().prop_map(Mutation::RepeatLine),
        (index(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
    ];
    vec(one, 1..4)
}

fn mutated(mut text: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let length = text.len().max(1);
        match mutation {
            _ if text.is_empty() => {}
            Mutation::Replace(at, what) => {
                let at = at.index(length);
                text.splice(at..at + 1, what.iter().copied());
            }
            Mutation::Insert(at, what) => {
                // half of them where a line begins, for that is where a whole field does its harm
                let at = at.index(length);
                let line = text[..at].iter().rposition(|byte| *byte == b'\n').map_or(at, |end| end + 1);
                let at = if at % 2 == 0 { line } else { at };
                text.splice(at..at, what.iter().copied());
            }
            Mutation::Remove(at) => drop(text.remove(at.index(length))),
            Mutation::RepeatLine(at) => {
                let lines: Vec<Vec<u8>> =
                    text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let line = at.index(lines.len());
                text = [lines[..=line].concat(), lines[line..].concat()].concat();
            }
            Mutation::Flip(at, bit) => text[at.index(length)] ^= 1 << bit,
        }
    }
    text
}

fn owned<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<Field> {
    fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// Left out on purpose: `Transfer_Encoding` and its like, which programs behind CGI take for the fields of our framing.
const MIMICKED: &[&str] = &[
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn without_mimics(mut fields: Vec<Field>) -> Vec<Field> {
    fields.retain(|(name, _)| {
        let dashed: String = name
            .iter()
            .map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase().into() } else { '-' })
            .collect();
        !dashed.bytes().zip(name).any(|(dash, byte)| dash == b'-' && *byte != b'-')
            || !MIMICKED.contains(&dashed.as_str())
    });
    fields
}

/// The other parser knows no version after 1.1, which a recipient must take for 1.1 (RFC 9110 §2.5).
fn is_later_version(text: &[u8]) -> bool {
    text.windows(8).any(|eight| eight.starts_with(b"HTTP/1.") && matches!(eight[7], b'2'..=b'9'))
}

/// Fails where the other parser and we both accept and differ, or where it refuses and we accept.
fn compares_as_request(text: &[u8]) -> Result<(), TestCaseError> {
    let mut room = [httparse::EMPTY_HEADER; 64];
    let mut peer = httparse::Request::new(&mut room);
    let theirs = peer.parse(text);
    let mut head = RequestHead::default();
    match (request::parse(text, &LIMITS, &mut head), theirs) {
        (Ok(Progress::Complete(end)), Ok(httparse::Status::Complete(peer_end))) => {
            prop_assert_eq!(end, peer_end);
            prop_assert_eq!(Some(&text[head.method_range.clone()]), peer.method.map(str::as_bytes));
            prop_assert_eq!(Some(&text[head.target.clone()]), peer.path.map(str::as_bytes));
            prop_assert_eq!(Some(head.version == Version::Http11), peer.version.map(|minor| minor == 1));
            let fields = owned(peer.headers.iter().map(|field| (field.name.as_bytes(), field.value)));
            prop_assert_eq!(owned(head.fields.pairs(text)), without_mimics(fields));
        }
        (Ok(Progress::Complete(_)), Ok(_)) => prop_assert!(false, "complete for us only: {:?}", text),
        (Ok(Progress::Complete(_)), Err(error)) => {
            let excused = match error {
                httparse::Error::Version => is_later_version(text),
                // it keeps targets as text
                httparse::Error::Token => std::str::from_utf8(&text[head.target]).is_err(),
                httparse::Error::TooManyHeaders => true,
                _ => false,
            };
            prop_assert!(excused, "only we accept ({}): {:?}", error, text);
        }
        (Ok(Progress::Partial), Ok(httparse::Status::Complete(_))) => {
            prop_assert!(false, "complete for the other only: {:?}", text);
        }
        (Ok(Progress::Partial), Err(error)) => {
            // it may see a fault earlier than we do, but we must see it
            let ended = [text, b"\r\n\r\n"].concat();
            let verdict = request::parse(&ended, &LIMITS, &mut head);
            let excused = error == httparse::Error::Version && is_later_version(&ended)
                || error == httparse::Error::Token && std::str::from_utf8(text).is_err();
            prop_assert!(excused || !matches!(verdict, Ok(Progress::Complete(_))), "{}: {:?}", error, text);
        }
        (Ok(Progress::Partial), Ok(httparse::Status::Partial)) | (Err(_), _) => {}
    }
    Ok(())
}

fn compares_as_response(text: &[u8]) -> Result<(), TestCaseError> {
    let mut room = [httparse::EMPTY_HEADER; 64];
    let mut peer = httparse::Response::new(&mut room);
    let theirs = peer.parse(text);
    let mut head = ResponseHead::default();
    match (response::parse(text, 1 << 20, &mut head), theirs) {
        (Ok(Progress::Complete(end)), Ok(httparse::Status::Complete(peer_end))) => {
            prop_assert_eq!(end, peer_end);
            prop_assert_eq!(Some(head.status), peer.code);
            prop_assert_eq!(Some(head.version == Version::Http11), peer.version.map(|minor| minor == 1));
            let reason = &text[head.reason.clone()];
            // it leaves a reason out that is not ASCII
            prop_assert!(!reason.is_ascii() || Some(reason) == peer.reason.map(str::as_bytes));
            let fields = owned(peer.headers.iter().map(|field| (field.name.as_bytes(), field.value)));
            prop_assert_eq!(owned(head.fields.pairs(text)), without_mimics(fields));
        }
        (Ok(Progress::Complete(_)), Ok(_)) => prop_assert!(false, "complete for us only: {:?}", text),
        (Ok(Progress::Complete(_)), Err(error)) => {
            let excused = match error {
                httparse::Error::Version => is_later_version(text),
                httparse::Error::TooManyHeaders => true,
                _ => false,
            };
            prop_assert!(excused, "only we accept ({}): {:?}", error, text);
        }
        (Ok(Progress::Partial), Ok(httparse::Status::Complete(_))) => {
            prop_assert!(false, "complete for the other only: {:?}", text);
        }
        (Ok(Progress::Partial), Ok(httparse::Status::Partial) | Err(_)) | (Err(_), _) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_generated_request_is_what_is_parsed(sent in requests(), body in vec(any::<u8>(), 0..20)) {
        let text = [&sent.text[..], &body].concat();
        let mut head = RequestHead::default();
        prop_assert_eq!(request::parse(&text, &LIMITS, &mut head), Ok(Progress::Complete(sent.text.len())));
        prop_assert_eq!(&text[head.method_range.clone()], &sent.method[..]);
        prop_assert_eq!(head.method, Method::of(&sent.method));
        prop_assert_eq!(&text[head.target.clone()], &sent.target[..]);
        prop_assert_eq!(head.version, sent.version);
        prop_assert_eq!(owned(head.fields.pairs(&text)), without_mimics(sent.fields));
        for cut in 0..sent.text.len() {
            let part = request::parse(&text[..cut], &LIMITS, &mut RequestHead::default());
            prop_assert_eq!(part, Ok(Progress::Partial), "cut at {}", cut);
        }
        property::reads_request_head(&text);
        compares_as_request(&text)?;
    }

    #[test]
    fn a_generated_response_is_what_is_parsed((status, reason, version, fields, text) in responses()) {
        let mut head = ResponseHead::default();
        prop_assert_eq!(response::parse(&text, 1 << 20, &mut head), Ok(Progress::Complete(text.len())));
        prop_assert_eq!((head.status, &text[head.reason.clone()]), (status, &reason[..]));
        prop_assert_eq!(head.version, version);
        prop_assert_eq!(owned(head.fields.pairs(&text)), without_mimics(fields));
        for cut in 0..text.len() {
            let part = response::parse(&text[..cut], 1 << 20, &mut ResponseHead::default());
            prop_assert_eq!(part, Ok(Progress::Partial), "cut at {}", cut);
        }
        property::reads_response_head(&text);
        compares_as_response(&text)?;
    }

    /// What is forwarded of a mutated head is read as we read it: nothing hides in it for the next recipient.
    #[test]
    fn a_mutated_request_is_refused_or_forwarded_with_one_meaning(sent in requests(), mutations in mutations()) {
        let text = mutated(sent.text, &mutations);
        property::reads_request_head(&text);
        compares_as_request(&text)?;
        let mut head = RequestHead::default();
        if let Ok(Progress::Complete(_)) = request::parse(&text, &Limits::default(), &mut head) {
            let (method, target) = (&text[head.method_range.clone()], &text[head.target.clone()]);
            let mut copy = [method, b" ", target, b" HTTP/1.1\r\n"].concat();
            let mut lines = encode::Lines::default();
            head.fields.iter().for_each(|field| lines.push_parsed(field, &text));
            copy.extend_from_slice(lines.as_bytes());
            copy.extend_from_slice(b"\r\n");
            let mut room = [httparse::EMPTY_HEADER; 64];
            let mut peer = httparse::Request::new(&mut room);
            let theirs = peer.parse(&copy);
            if std::str::from_utf8(target).is_ok() {
                prop_assert_eq!(theirs, Ok(httparse::Status::Complete(copy.len())));
                let fields = owned(peer.headers.iter().map(|field| (field.name.as_bytes(), field.value)));
                prop_assert_eq!(owned(head.fields.pairs(&text)), without_mimics(fields));
            }
        }
    }

    #[test]
    fn a_mutated_response_is_refused_or_forwarded_with_one_meaning(sent in responses(), mutations in mutations()) {
        let text = mutated(sent.4, &mutations);
        property::reads_response_head(&text);
        compares_as_response(&text)?;
    }

    #[test]
    fn pieces_of_heads_in_any_order(pieces in vec(select(HOSTILE.to_vec()), 0..12)) {
        let line = b"POST / HTTP/1.1\r\nHost: h\r\n";
        let text = [&line[..], &pieces.concat()].concat();
        property::reads_request_head(&text);
        compares_as_request(&text)?;
        let text = [b"HTTP/1.1 200 OK\r\n", &pieces.concat()[..]].concat();
        property::reads_response_head(&text);
        compares_as_response(&text)?;
    }

    #[test]
    fn a_generated_target_has_one_normal_form(target in targets(), pieces in vec(select(
        vec!["/", "//", ".", "..", "%2e", "%2F", "%25", "%00", "%", "?", "#", "a", "é", "%c3%a9", "+", "&", "\\", ":"]), 0..12)) {
        property::reads_target(target.as_bytes());
        property::reads_target(format!("/{}", pieces.concat()).as_bytes());
        property::reads_target(format!("http://h{}", pieces.concat()).as_bytes());
    }
}

#[test]
fn the_comparison_sees_what_it_must() {
    // both refuse, only the other accepts, both accept
    for text in
        ["GET / HTTP/1.1\r\nA : b\r\n\r\n", "get / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\nA: b\r\n\r\n"]
    {
        assert!(compares_as_request(text.as_bytes()).is_ok(), "{text}");
    }
    let mut head = RequestHead::default();
    let folded = b"GET / HTTP/1.0\r\nA: b\r\n c\r\n\r\n";
    assert_eq!(request::parse(folded, &LIMITS, &mut head), Err(Error::FoldedField));
}
