//! Properties of the protocols of applications and of memcached: FastCGI in both directions, the heads of uwsgi and
//! SCGI, CGI's heads, replies.
//!
//! Touches: nothing; panics when a property does not hold. Truth: FastCGI specification 1.0 §3.3, §3.4; uwsgi-docs,
//! "The uwsgi Protocol"; python.ca/scgi/protocol.txt; RFC 3875 §6; memcached, doc/protocol.txt.

use crate::proto::cgi::{self, Pairs, Progress, Seen};
use crate::proto::fastcgi::{self, Outcome, Params, Records, Step, Type};
use crate::proto::head::ResponseHead;
use crate::proto::memcached::{self, Reply};
use crate::proto::property::CUTS_MAX;
use crate::proto::scgi::Headers;
use crate::proto::uwsgi::Variables;
use crate::proto::{mqtt, postgres};

/// What the records of a response contain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    stdout: Vec<u8>,
    messages: Vec<Vec<u8>>,
    /// The end, and how many bytes it took.
    end: Option<(Outcome, usize)>,
    error: Option<fastcgi::Error>,
}

/// Reads `input` as FastCGI records whole, byte by byte, and in pieces of the lengths `cuts`: the result must always be
/// the same, never longer than the input, and that of a plain implementation.
pub fn reads_records(input: &[u8], cuts: &[u8]) {
    let whole = contents(input, &mut std::iter::repeat(input.len().max(1)));
    let split = contents(input, &mut cuts.iter().map(|cut| usize::from(*cut)).chain(std::iter::repeat(3)));
    assert_eq!(split, whole);
    assert_eq!(contents(input, &mut std::iter::repeat(1)), whole);
    let message_bytes: usize = whole.messages.iter().map(Vec::len).sum();
    assert!(whole.stdout.len() + message_bytes <= input.len());
    if whole.error.is_none() {
        assert_eq!(plain_contents(input), whole);
    }
}

fn contents(input: &[u8], pieces: &mut dyn Iterator<Item = usize>) -> Contents {
    let (mut records, mut found) = (Records::default(), Contents::default());
    let mut message = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let piece_end = input.len().min(at + pieces.next().unwrap_or(1).max(1));
        while at < piece_end {
            let part = &input[at..piece_end];
            let (count, step) = match records.step(part) {
                Ok(step) => step,
                Err(error) => return Contents { error: Some(error), ..found },
            };
            assert!(count > 0 && count <= part.len(), "{step:?} took {count}");
            match step {
                Step::Stdout(piece) => found.stdout.extend_from_slice(&part[piece]),
                Step::Stderr { piece, is_last } => {
                    message.extend_from_slice(&part[piece]);
                    if is_last {
                        found.messages.push(std::mem::take(&mut message));
                    }
                }
                Step::End(outcome) => {
                    found.end = Some((outcome, at + count));
                    return found;
                }
                Step::StdoutEnd => assert!(records.is_stdout_ended()),
                Step::Nothing => {}
            }
            at += count;
        }
    }
    found
}

/// A plain implementation, for input that is not refused: whole records, and what there is of the last one's output.
fn plain_contents(input: &[u8]) -> Contents {
    let (mut found, mut rest) = (Contents::default(), input);
    while let Some((&[1, kind, 0, 1, high, low, padding, _], after)) = rest.split_first_chunk::<8>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (content, is_whole) = (after.get(..length).unwrap_or(after), after.len() >= length);
        match kind {
            6 => found.stdout.extend_from_slice(content),
            7 if is_whole && length > 0 => found.messages.push(content.to_vec()),
            3 => {
                let outcome = match content.get(4) {
                    Some(1) => Outcome::CannotMultiplex,
                    Some(2) => Outcome::Overloaded,
                    Some(3) => Outcome::UnknownRole,
                    _ => Outcome::Complete,
                };
                let end = input.len() - after.len() + length + usize::from(padding);
                found.end = (end <= input.len()).then_some((outcome, end));
                return found;
            }
            _ => {}
        }
        rest = after.get(length + usize::from(padding)..).unwrap_or(b"");
    }
    found
}

/// Takes a name, whether it is kept without a value, and the value.
type Push<'a> = dyn FnMut(&[u8], bool, &[u8]) + 'a;

/// Writes pairs in the encodings of the three protocols, and reads them back with plain implementations. The names and
/// values are `input` between bytes 0xff; a pair whose name begins with `?` is left out if its value is empty.
pub fn writes_pairs(input: &[u8]) {
    let words: Vec<&[u8]> = input.split(|byte| *byte == 0xff).collect();
    // long enough for several records, or for none
    let long = |word: &[u8]| match word {
        [b'*', times, rest @ ..] => rest.repeat(usize::from(*times) * 40),
        word => word.to_vec(),
    };
    let pairs: Vec<(Vec<u8>, Vec<u8>)> =
        words.chunks_exact(2).map(|pair| (pair[0].to_vec(), long(pair[1]))).collect();
    let keeps_empty = |name: &[u8]| name.first() != Some(&b'?');
    let expected: Vec<_> =
        pairs.iter().filter(|(name, value)| !value.is_empty() || keeps_empty(name)).cloned().collect();
    let push = |into: &mut Push<'_>| {
        pairs.iter().for_each(|(name, value)| into(name, keeps_empty(name), value));
    };

    let mut out = b"before".to_vec();
    let mut params = Params::begin(&mut out);
    push(&mut |name, keeps, value| params.push(name, keeps, |out| out.extend_from_slice(value)));
    let fits = params.end().is_ok();
    if fits {
        assert_eq!(plain_params(&out[6..]), expected);
    } else {
        assert!(
            expected.iter().any(|(name, value)| name.len() + value.len() > fastcgi::CONTENT_BYTES_MAX - 8)
        );
    }

    let mut out = b"before".to_vec();
    let mut variables = Variables::begin((1, 2), &mut out);
    push(&mut |name, keeps, value| variables.push(name, keeps, |out| out.extend_from_slice(value)));
    let fits = variables.end().is_ok();
    let bytes: usize = expected.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    assert_eq!(fits, bytes <= 65_535);
    if fits {
        assert_eq!((out.len(), out[6], out[9]), (10 + bytes, 1, 2));
        assert_eq!(usize::from(u16::from_le_bytes([out[7], out[8]])), bytes);
        assert_eq!(plain_variables(&out[10..]), expected);
    }

    let mut out = b"before".to_vec();
    let mut headers = Headers::begin(7, &mut out);
    push(&mut |name, keeps, value| headers.push(name, keeps, |out| out.extend_from_slice(value)));
    let fits = headers.end().is_ok();
    assert_eq!(fits, !expected.iter().any(|(name, value)| name.contains(&0) || value.contains(&0)));
    if fits {
        let colon = out.iter().position(|byte| *byte == b':').expect("a netstring");
        let length: usize = std::str::from_utf8(&out[6..colon]).expect("digits").parse().expect("a length");
        let content = out[colon + 1..].strip_suffix(b",").expect("its end");
        assert_eq!(content.len(), length);
        let words: Vec<&[u8]> = content.split(|byte| *byte == 0).collect();
        let mut found = words.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
        assert_eq!(found.next(), Some((b"CONTENT_LENGTH".to_vec(), b"7".to_vec())));
        assert!(found.eq(expected.iter().cloned()));
    }
}

/// The pairs of records of parameters, each record by itself, and the empty one after them.
fn plain_params(mut rest: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let (header, after) = rest.split_first_chunk::<8>().expect("a record");
        assert_eq!((&header[..4], &header[6..]), (&[1, Type::Params as u8, 0, 1][..], &[0, 0][..]));
        let (mut content, next) = after.split_at(usize::from(u16::from_be_bytes([header[4], header[5]])));
        if content.is_empty() {
            assert!(next.is_empty(), "the stream has ended");
            return found;
        }
        while !content.is_empty() {
            let mut length = || match content {
                [short @ 0..=127, rest @ ..] => {
                    content = rest;
                    usize::from(*short)
                }
                [a, b, c, d, rest @ ..] => {
                    content = rest;
                    u32::from_be_bytes([a & 127, *b, *c, *d]) as usize
                }
                _ => panic!("a length is cut"),
            };
            let (name, value) = (length(), length());
            found.push((content[..name].to_vec(), content[name..name + value].to_vec()));
            content = &content[name + value..];
        }
        rest = next;
    }
}

fn plain_variables(mut rest: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut word = || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (word, after) = after.split_at(usize::from(u16::from_le_bytes(*length)));
        rest = after;
        Some(word.to_vec())
    };
    std::iter::from_fn(|| Some((word()?, word()?))).collect()
}

/// Parses `data` as the head of a CGI response, and as one that may begin with HTTP's status line: a head that arrives
/// in pieces must be the same, and its ranges inside it.
pub fn reads_cgi_head(data: &[u8]) {
    type Parse = fn(&[u8], usize, &mut ResponseHead, &mut Seen) -> Result<Progress, crate::proto::h1::Error>;
    for (parse, max) in [(cgi::parse_more as Parse, 4096), (cgi::parse_any, 4096), (cgi::parse_more, 60)] {
        let mut head = ResponseHead::default();
        let verdict = parse(data, max, &mut head, &mut Seen::default());
        let (mut again, mut seen, mut before) =
            (ResponseHead::default(), Seen::default(), Ok(Progress::Partial));
        for cut in (0..=data.len()).step_by(data.len() / CUTS_MAX + 1) {
            before = parse(&data[..cut], max, &mut again, &mut seen);
            if before != Ok(Progress::Partial) {
                break;
            }
        }
        match (verdict, before) {
            (Ok(Progress::Complete(end)), Ok(Progress::Complete(same))) => {
                assert_eq!((end, head.status), (same, again.status));
                assert!((200..1000).contains(&head.status) && end <= max);
                assert!(head.reason.end <= end);
                assert!(head.fields.pairs(data).eq(again.fields.pairs(data)));
            }
            (Ok(_), other) => assert_eq!(other, Ok(Progress::Partial), "whole {verdict:?}"),
            (Err(_), other) => assert!(!matches!(other, Ok(Progress::Complete(_))), "whole {verdict:?}"),
        }
    }
}

/// Parses `data` as a reply of memcached for a key: a line that is cut must never be read in another way, and a key is
/// one word of the request.
pub fn reads_memcached_reply(data: &[u8], key: &[u8]) {
    let (mut escaped, mut request) = (Vec::new(), Vec::new());
    memcached::escape_key(key, &mut escaped);
    memcached::get(&escaped, &mut request);
    assert!(!escaped.iter().any(|byte| *byte <= b' '));
    assert_eq!(memcached::asked_key(&request), escaped);
    assert_eq!(request.iter().filter(|byte| **byte == b' ').count(), 1);
    let verdict = memcached::reply(data, &escaped);
    for cut in (0..data.len()).step_by(data.len() / CUTS_MAX + 1) {
        let part = memcached::reply(&data[..cut], &escaped);
        match verdict {
            Ok(Reply::Value { line_bytes, .. } | Reply::Missing { line_bytes }) if cut >= line_bytes => {
                assert_eq!(part, verdict);
            }
            Ok(_) => assert_eq!(part, Ok(Reply::Partial), "cut at {cut}"),
            Err(error) => assert!(part == Ok(Reply::Partial) || part == Err(error), "cut at {cut}"),
        }
    }
    if let Ok(Reply::Value { line_bytes, flags, length }) = verdict {
        let line = [b"VALUE ", &escaped[..], format!(" {flags} {length}").as_bytes()].concat();
        let again = memcached::reply(&[&line[..], b"\r\n"].concat(), &escaped);
        assert_eq!(again, Ok(Reply::Value { line_bytes: line.len() + 2, flags, length }));
        assert!(data[..line_bytes].starts_with(b"VALUE "));
    }
}

/// Parses `data` as the first message of a client of MQTT and of PostgreSQL: one that is cut needs more bytes, or is refused
/// as the whole one is, or is read alike.
///
/// # Panics
/// If that does not hold.
pub fn reads_first_messages(data: &[u8]) {
    if let Ok(Some(length)) = mqtt::message(data, usize::MAX) {
        let names = mqtt::Names { client_id: Some(b"other"), username: Some(b"ann"), password: Some(b"") };
        if let Ok(bytes) = mqtt::rewrite(&data[..length], &names, usize::MAX) {
            let read = mqtt::parse(&bytes).expect("it is one").expect("it is whole");
            assert_eq!((&*read.client_id, read.username.as_deref()), (&b"other"[..], Some(&b"ann"[..])));
        }
    }
    let (mqtt, postgres) = (mqtt::parse(data), postgres::parse(data));
    for cut in (0..data.len()).step_by(data.len() / CUTS_MAX + 1) {
        let part = mqtt::parse(&data[..cut]);
        assert!(part == Ok(None) || part == mqtt, "MQTT cut at {cut}");
        let part = postgres::parse(&data[..cut]);
        assert!(part == Ok(None) || part == postgres, "PostgreSQL cut at {cut}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(parts: &[&[u8]], bytes: &[u8]) -> Vec<u8> {
        bytes.iter().flat_map(|byte| parts[usize::from(*byte) % parts.len()]).copied().collect()
    }

    #[test]
    fn any_bytes_as_records() {
        const PARTS: &[&[u8]] = &[
            b"\x01\x06\0\x01\0\x05\0\0",
            b"\x01\x06\0\x01\0\x03\x02\0",
            b"\x01\x06\0\x01\0\0\0\0",
            b"\x01\x07\0\x01\0\x04\0\0",
            b"\x01\x07\0\x01\0\0\x01\0",
            b"\x01\x03\0\x01\0\x08\0\0",
            b"\x01\x03\0\x01\0\x08\x01\0",
            b"\x01\x03\0\x01\0\0\0\0",
            b"\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\x02\0\0\0",
            b"hello",
            b"abc",
            b"a",
        ];
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, cuts)| {
            reads_records(&joined(PARTS, bytes), cuts);
            reads_records(bytes, cuts);
        });
    }

    #[test]
    fn any_bytes_as_pairs() {
        const PARTS: &[&[u8]] =
            &[b"\xff", b"A", b"?B", b"*\xffx", b"*\x08yy", b"\0", b"value", b"\xff\xff", b"HTTP_X"];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            writes_pairs(&joined(PARTS, bytes));
            writes_pairs(bytes);
        });
    }

    #[test]
    fn any_bytes_as_first_messages() {
        const PARTS: &[&[u8]] = &[
            b"\x10\x20\0\x04MQTT\x05\xc6\0\x3c",
            b"\x10\x20\0\x06MQIsdp\x03\xc2\0\x3c",
            b"\0\0\0\x1a\0\x03\0\0",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"user\0",
            b"database\0",
            b"\0\x02",
            b"\0",
            b"x",
            b"\x80",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            reads_first_messages(&joined(PARTS, bytes));
            reads_first_messages(bytes);
        });
    }

    #[test]
    fn any_bytes_as_cgi_heads() {
        const PARTS: &[&[u8]] = &[
            b"Status: ",
            b"404",
            b" Not Found",
            b"\r\n",
            b"\n",
            b"A: b\r\n",
            b"Content-Length: 5\r\n",
            b"HTTP/",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 100 X\r\n",
            b"Location: /x\r\n",
            b" ",
            b":",
            b"\0",
            b"x",
            b"\r",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            reads_cgi_head(&joined(PARTS, bytes));
            reads_cgi_head(bytes);
        });
    }

    #[test]
    fn any_bytes_as_replies() {
        const PARTS: &[&[u8]] = &[
            b"VALUE ",
            b"/k",
            b" ",
            b"0",
            b"17",
            b"\r\n",
            b"END\r\n",
            b"ERROR",
            b"\n",
            b"-",
            b"99999999999",
            b"a",
        ];
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, key)| {
            reads_memcached_reply(&joined(PARTS, bytes), b"/k");
            reads_memcached_reply(bytes, key);
        });
    }
}
