//! Properties that hold for every head, chunked body and request target, for the fuzz targets (`fuzz/`) and
//! the property tests here.
//!
//! Touches: nothing; panics when a property does not hold. Truth: RFC 9112 §2 to §7.

pub mod applications;
pub mod ftp;
pub mod mail;
pub mod trace;

use crate::base::path::{BadUri, Escape, Parsed, escape_uri, normalize_uri};
use crate::proto::dns;
use crate::proto::field_text;
use crate::proto::h1::chunked::Decoder;
use crate::proto::h1::length::{self, BodyLength};
use crate::proto::h1::request::{self, Limits, Progress};
use crate::proto::h1::response;
use crate::proto::h1::{Error, encode};
use crate::proto::head::{RequestHead, ResponseHead};
use crate::proto::header::{Field, Id};
use crate::proto::message::{Method, Version};
use crate::proto::proxy_protocol::{self, Tlv};
use crate::proto::uri::{self, Form};

/// Maximum number of cuts tried on one text; longer texts are cut only at some of their bytes.
const CUTS_MAX: usize = 300;

/// Limits for reading a copy that was written from a parsed message: it may be longer than the original.
const WIDE: Limits = Limits {
    line_bytes_max: 1 << 20,
    head_bytes_max: 1 << 24,
    fields_max: 10_000,
    ignore_invalid: false,
    underscores: true,
};

/// Parses `data` as the head of a request under several limits: checks ranges, framing, cuts, and a copy.
pub fn reads_request_head(data: &[u8]) {
    let tight = Limits { line_bytes_max: 48, head_bytes_max: 160, fields_max: 3, ..Limits::default() };
    let lenient = Limits { ignore_invalid: false, underscores: true, ..Limits::default() };
    for limits in [Limits::default(), tight, lenient] {
        let mut head = RequestHead::default();
        let verdict = request::parse(data, &limits, &mut head);
        check_cuts(data, verdict, |part| request::parse(part, &limits, &mut RequestHead::default()));
        match verdict {
            Ok(Progress::Complete(end)) => check_request(data, end, &head, &limits),
            Ok(Progress::Partial) => assert!(data.len() <= limits.head_bytes_max),
            Err(error) => assert!(matches!(error.status(), 400 | 414 | 505), "{error:?}"),
        }
    }
}

fn check_request(data: &[u8], end: usize, head: &RequestHead, limits: &Limits) {
    let (method, target) = (&data[head.method_range.clone()], &data[head.target.clone()]);
    assert!(!method.is_empty() && method.iter().all(|byte| byte.is_ascii_graphic()));
    assert!(!target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f));
    assert_eq!(head.method, Method::of(method));
    assert_eq!(head.target.start, head.method_range.end + 1);
    assert!(end <= limits.head_bytes_max && target.len() <= limits.line_bytes_max);
    check_fields(data, head.target.end..end, &head.fields);
    assert!(head.fields.len() <= limits.fields_max);
    let host_count = head.fields.values(data, Id::Host).count();
    assert!(host_count == 1 || host_count == 0 && head.version == Version::Http10);
    let body = length::request(head, data);
    check_length(&head.fields, data, head.version, body);
    assert_ne!(body, Ok(BodyLength::UntilClose));
    reads_target(target);
    if let Ok(Some(host)) = uri::host(head, data, uri::parse(head.method, target).ok().as_ref()) {
        check_host(&host);
    }

    let version: &[u8] = if head.version == Version::Http10 { b"HTTP/1.0" } else { b"HTTP/1.1" };
    let mut copy = [method, b" ", target, b" ", version, b"\r\n"].concat();
    write_fields(&head.fields, data, &mut copy);
    let mut again = RequestHead::default();
    assert_eq!(request::parse(&copy, &WIDE, &mut again), Ok(Progress::Complete(copy.len())));
    assert_eq!((&copy[again.method_range.clone()], &copy[again.target.clone()]), (method, target));
    assert_eq!(again.version, head.version);
    assert!(again.fields.pairs(&copy).eq(head.fields.pairs(data)));
    assert_eq!(length::request(&again, &copy), body);
}

/// Parses `data` as the head of a response: checks ranges, framing for several methods, cuts, and a copy.
pub fn reads_response_head(data: &[u8]) {
    for head_bytes_max in [4096, 100] {
        let mut head = ResponseHead::default();
        let verdict = response::parse(data, head_bytes_max, &mut head);
        check_cuts(data, verdict, |part| response::parse(part, head_bytes_max, &mut ResponseHead::default()));
        match verdict {
            Ok(Progress::Complete(end)) => check_response(data, end, head_bytes_max, &head),
            Ok(Progress::Partial) => assert!(data.len() <= head_bytes_max),
            Err(_) => {}
        }
    }
}

fn check_response(data: &[u8], end: usize, head_bytes_max: usize, head: &ResponseHead) {
    let reason = &data[head.reason.clone()];
    assert!((100..1000).contains(&head.status));
    assert!(!reason.iter().any(|byte| is_control(*byte)));
    assert!(end <= head_bytes_max);
    check_fields(data, head.reason.end..end, &head.fields);
    let mut copy = Vec::new();
    encode::Head::response(head.status, &field_text::Text::clean(reason), &mut copy);
    if head.version == Version::Http10 {
        copy[7] = b'0';
    }
    write_fields(&head.fields, data, &mut copy);
    let mut again = ResponseHead::default();
    assert_eq!(response::parse(&copy, 1 << 24, &mut again), Ok(Progress::Complete(copy.len())));
    assert_eq!((again.status, &copy[again.reason.clone()]), (head.status, reason));
    assert!(again.fields.pairs(&copy).eq(head.fields.pairs(data)));
    assert_eq!(again.keep_alive(), head.keep_alive());
    for method in [Method::Get, Method::Head, Method::Connect] {
        let body = length::response(head, data, method);
        assert_eq!(length::response(&again, &copy, method), body);
        let bodiless = method == Method::Head
            || matches!(head.status, 100..=199 | 204 | 304)
            || method == Method::Connect && head.status / 100 == 2;
        match body {
            Ok(BodyLength::None) => assert!(bodiless),
            Ok(_) => assert!(!bodiless),
            Err(_) => {}
        }
        if !bodiless {
            check_length(&head.fields, data, head.version, body);
        }
    }
}

/// Parses `data` as a PROXY protocol header: checks cuts, a copy in version 2, and its TLVs.
pub fn reads_proxy_header(data: &[u8]) {
    let verdict = proxy_protocol::parse(data);
    for cut in (0..data.len()).step_by(data.len() / CUTS_MAX + 1) {
        let part = proxy_protocol::parse(&data[..cut]);
        match &verdict {
            Ok(Some((_, end))) if cut < *end => assert_eq!(part, Ok(None), "cut at {cut}"),
            Ok(Some(_)) => assert_eq!(part, verdict, "cut at {cut}"),
            Ok(None) => assert_eq!(part, Ok(None), "cut at {cut}"),
            Err(_) => assert!(!matches!(part, Ok(Some(_))), "cut at {cut}"),
        }
    }
    let Ok(Some((header, end))) = verdict else { return };
    assert!(0 < end && end <= data.len());
    let mut copy = Vec::new();
    header.write(&mut copy);
    assert_eq!(proxy_protocol::parse(&copy), Ok(Some((header.clone(), copy.len()))));
    for kind in 0..=255 {
        for tlv in [Tlv::Plain(kind), Tlv::Ssl(kind), Tlv::SslVerify] {
            let mut out = Vec::new();
            assert!(header.write_tlv(tlv, &mut out) || out.is_empty());
            assert!(out.len() <= data.len().max(10));
        }
    }
}

/// The verdict on a part must agree with the verdict on the whole: more bytes never undo a refusal, nor
/// change a head that is complete.
fn check_cuts(
    data: &[u8],
    verdict: Result<Progress, Error>,
    mut parse: impl FnMut(&[u8]) -> Result<Progress, Error>,
) {
    let mut refused = false;
    for cut in (0..data.len()).step_by(data.len() / CUTS_MAX + 1) {
        let part = parse(&data[..cut]);
        match verdict {
            Ok(Progress::Complete(end)) if cut >= end => assert_eq!(part, verdict, "cut at {cut}"),
            Ok(_) => assert_eq!(part, Ok(Progress::Partial), "cut at {cut}, whole {verdict:?}"),
            Err(_) => {
                assert!(!matches!(part, Ok(Progress::Complete(_))), "cut at {cut}, whole {verdict:?}");
                assert!(!refused || part.is_err(), "cut at {cut} takes a refusal back");
                refused |= part.is_err();
            }
        }
    }
    if let Ok(Progress::Complete(end)) = verdict {
        assert!(0 < end && end <= data.len());
        assert_eq!(parse(&data[..end]), verdict, "without what follows");
        assert_eq!(parse(&data[..end - 1]), Ok(Progress::Partial), "without the last byte");
    }
}

/// Checks that fields lie in `within`, in order, without overlap, and contain nothing that could end a line.
fn check_fields(data: &[u8], within: std::ops::Range<usize>, fields: &[Field]) {
    let mut at = within.start;
    let place = |part: &[u8]| part.as_ptr().addr() - data.as_ptr().addr();
    for field in fields {
        let (name, value) = (field.name(data), field.value(data));
        assert!(!name.is_empty());
        assert!(!name.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b':'), "{name:?}");
        assert!(!value.iter().any(|byte| is_control(*byte)), "{value:?}");
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        assert!(!blank(value.first()) && !blank(value.last()), "{value:?}");
        assert_eq!(field.id, Id::of(name));
        assert!(place(name) > at && place(value) > place(name) + name.len());
        at = place(value) + value.len();
    }
    assert!(at < within.end);
}

fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' || byte == 0x7f
}

fn write_fields(fields: &[Field], data: &[u8], out: &mut Vec<u8>) {
    for field in fields {
        let mut lines = field_text::Lines::default();
        lines.push_parsed(field, data);
        out.extend_from_slice(lines.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Checks that a body's length is that of the one field that declares it; two such fields are refused.
fn check_length(fields: &[Field], data: &[u8], version: Version, body: Result<BodyLength, Error>) {
    let values = |id| fields.iter().filter(move |field| field.id == Some(id)).map(|field| field.value(data));
    let (lengths, codings): (Vec<_>, Vec<_>) =
        (values(Id::ContentLength).collect(), values(Id::TransferEncoding).collect());
    match body {
        Ok(BodyLength::None | BodyLength::UntilClose) => assert!(lengths.is_empty() && codings.is_empty()),
        Ok(BodyLength::Length(bytes)) => {
            assert!(lengths.len() == 1 && codings.is_empty() && i64::try_from(bytes).is_ok());
            let digits = lengths[0].iter().skip_while(|byte| **byte == b'0').copied().collect::<Vec<u8>>();
            assert!(bytes == 0 && digits.is_empty() || digits == bytes.to_string().as_bytes());
        }
        Ok(BodyLength::Chunked) => {
            assert!(lengths.is_empty() && codings.len() == 1 && version == Version::Http11);
            assert!(codings[0].eq_ignore_ascii_case(b"chunked"));
        }
        Err(_) => assert!(!lengths.is_empty() || !codings.is_empty()),
    }
}

/// The decoder's result for a text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    trailers: Vec<u8>,
    /// Number of bytes up to the end of the body, if that was found.
    end: Option<usize>,
    error: Option<Error>,
}

/// Decodes `input` whole, byte by byte, and in pieces of the lengths `cuts`. The result must always be the
/// same, never longer than the input, and equal to that of a plain implementation.
pub fn decodes_chunked(input: &[u8], cuts: &[u8]) {
    let whole = decoded(input, &mut std::iter::repeat(input.len().max(1)));
    let split = decoded(input, &mut cuts.iter().map(|cut| usize::from(*cut)).chain(std::iter::repeat(3)));
    let bytes = decoded(input, &mut std::iter::repeat(1));
    assert_eq!(split, whole);
    assert_eq!(bytes, whole);
    assert!(whole.body.len() <= input.len());
    let Some(end) = whole.end else { return };
    assert!(whole.body.len() + whole.trailers.len() + b"0\r\n\r\n".len() <= end && end <= input.len());
    assert_eq!(plain_reading(&input[..end]), Some((whole.body.clone(), whole.trailers.clone())));

    let mut copy = Vec::new();
    if !whole.body.is_empty() {
        encode::chunk_head(whole.body.len() as u64, &mut copy);
        copy.extend_from_slice(&[&whole.body[..], b"\r\n"].concat());
    }
    copy.extend_from_slice(&[b"0\r\n", &whole.trailers[..], b"\r\n"].concat());
    let again = decoded(&copy, &mut std::iter::repeat(copy.len()));
    assert_eq!(again, Decoded { end: Some(copy.len()), ..whole });
}

fn decoded(input: &[u8], pieces: &mut dyn Iterator<Item = usize>) -> Decoded {
    let (mut decoder, mut found) = (Decoder::default(), Decoded::default());
    let mut at = 0;
    while at < input.len() {
        let piece_end = input.len().min(at + pieces.next().unwrap_or(1).max(1));
        while at < piece_end {
            let part = &input[at..piece_end];
            let step = match decoder.decode(part) {
                Ok(step) => step,
                Err(error) => return Decoded { error: Some(error), ..found },
            };
            assert!(step.consumed <= part.len() && (step.consumed > 0 || step.done));
            assert_eq!(step.done, decoder.is_done());
            if let Some(data) = step.data {
                assert!(!step.done && !data.is_empty() && data.end == step.consumed);
                found.body.extend_from_slice(&part[data]);
            }
            at += step.consumed;
            if step.done {
                let more = decoder.decode(b"0\r\n\r\n").expect("nothing is wrong behind the end");
                assert!(more.done && more.consumed == 0 && more.data.is_none());
                (found.trailers, found.end) = (decoder.trailers().to_vec(), Some(at));
                return found;
            }
        }
    }
    assert!(decoder.trailers().is_empty());
    found
}

/// A plain implementation: the body and the trailers of a complete chunked body (RFC 9112 §7.1.3).
fn plain_reading(mut input: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut body = Vec::new();
    loop {
        let line_length = input.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&input[..line_length]).ok();
        let digits = input.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&input[..digits]).ok()?;
        assert!(
            line.is_none_or(|line| matches!(line.as_bytes().get(digits), None | Some(b';' | b' ' | b'\t')))
        );
        let size = usize::from_str_radix(size, 16).ok()?;
        input = &input[line_length + 2..];
        if size == 0 {
            return Some((body, input.strip_suffix(b"\r\n")?.to_vec()));
        }
        body.extend_from_slice(input.get(..size)?);
        input = input[size..].strip_prefix(b"\r\n")?;
    }
}

/// Parses `raw` as a request target for several methods, as a host, and as a path.
pub fn reads_target(raw: &[u8]) {
    for method in [Method::Get, Method::Options, Method::Connect] {
        let Ok(target) = uri::parse(method, raw) else { continue };
        let path = &raw[target.path_and_query.clone()];
        assert_eq!(target.path_and_query.end, raw.len());
        assert_eq!(target.host.is_some(), matches!(target.form, Form::Absolute | Form::Authority));
        assert!(matches!(path.first(), None | Some(b'/' | b'?')), "{path:?}");
        if let Some(host) = target.host {
            assert!(host.end <= target.path_and_query.start);
            check_host(&uri::authority(&raw[host]).expect("a target's host is one"));
        }
        for merge_slashes in [true, false] {
            normalizes(path, merge_slashes);
        }
    }
    for merge_slashes in [true, false] {
        normalizes(raw, merge_slashes);
    }
    if let Ok(host) = uri::authority(raw) {
        check_host(&host);
    }
}

/// Parses `data` as a name server's answer, behind a header and a question that match.
pub fn reads_dns_answer(data: &[u8]) {
    let Some(name) = dns::Name::new(b"www.test") else { unreachable!("a name") };
    for kind in [dns::Kind::A, dns::Kind::Aaaa, dns::Kind::Srv, dns::Kind::Ptr] {
        let _ = dns::read_answer(data, 7, &name, kind);
        let mut message = Vec::new();
        dns::write_query(7, &name, kind, &mut message);
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        if let Some((counts, records)) = data.split_at_checked(2) {
            (message[7], message[9]) = (counts[0], counts[1]);
            message.extend_from_slice(records);
        }
        match dns::read_answer(&message, 7, &name, kind) {
            Ok(dns::Answer::Addresses { list, .. }) => {
                assert!(!list.is_empty() && list.iter().all(|ip| ip.is_ipv4() == (kind == dns::Kind::A)));
            }
            Ok(dns::Answer::Services { list, .. }) => assert!(!list.is_empty() && kind == dns::Kind::Srv),
            Ok(dns::Answer::Hosts { list, .. }) => assert!(!list.is_empty() && kind == dns::Kind::Ptr),
            Ok(dns::Answer::Alias { name: other, .. }) => assert_ne!(other, name),
            Ok(dns::Answer::Failed { code, .. }) => assert_eq!(code, dns::Code::NotFound),
            Ok(dns::Answer::Truncated) => panic!("the flag is not set"),
            Err(_) => {}
        }
    }
}

fn check_host(host: &[u8]) {
    assert!(!host.is_empty() && !host.iter().any(u8::is_ascii_uppercase));
    assert!(!host.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || b"/\\?#@,".contains(byte)), "{host:?}");
    assert_eq!(uri::authority(host).as_deref(), Ok(host), "the host of a host is that host");
}

fn normalizes(raw: &[u8], merge_slashes: bool) {
    let mut path = b"left from before".to_vec();
    let found = normalize_uri(raw, merge_slashes, &mut path);
    let path_end = raw.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(raw.len());
    let expected = plainly_normalized(&raw[..path_end], merge_slashes);
    let Ok(Parsed { args, complex }) = found else {
        assert_eq!(expected, None, "{raw:?} is refused");
        return;
    };
    assert_eq!(expected.as_ref(), Some(&path), "{raw:?}");
    assert_eq!(complex, path != raw[..path_end]);
    assert!(path[0] == b'/' && !path.contains(&0));
    assert!(!path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b"..")), "{path:?}");
    assert!(!merge_slashes || !path.windows(2).any(|two| two == b"//"), "{path:?}");
    match args {
        Some(args) => {
            assert!(
                args.start == path_end + 1 && raw[path_end] == b'?' && !raw[args.clone()].contains(&b'#')
            );
            assert!(matches!(raw.get(args.end), None | Some(b'#')));
        }
        None => assert!(raw.get(path_end) != Some(&b'?')),
    }
    for kind in [Escape::Uri, Escape::Args, Escape::UriComponent, Escape::Html] {
        let (mut escaped, mut again) = (b"/".to_vec(), Vec::new());
        escape_uri(&path[1..], kind, &mut escaped);
        assert!(!escaped.iter().any(|byte| !byte.is_ascii_graphic() || b"?#\"<>".contains(byte)));
        let parsed = normalize_uri(&escaped, merge_slashes, &mut again);
        assert_eq!(parsed.map(|parsed| parsed.args), Ok::<_, BadUri>(None));
        assert_eq!(again, path, "escaped as {kind:?}");
    }
}

/// A plain implementation of normalizing a path: decode everything, then walk over the segments.
fn plainly_normalized(raw: &[u8], merge_slashes: bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut rest = raw.strip_prefix(b"/")?;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|two| two.bytes().all(|d| d.is_ascii_hexdigit()))?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        rest = behind;
    }
    let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
    let mut kept: Vec<&[u8]> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        match *segment {
            b"." => {}
            b".." => drop(kept.pop()?),
            b"" if merge_slashes || is_last => {}
            segment => kept.push(segment),
        }
        if is_last && matches!(*segment, b"" | b"." | b"..") {
            kept.push(b"");
        }
    }
    (!decoded.contains(&0)).then(|| [&b"/"[..], &kept.join(&b'/')].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Building blocks for the edge cases of the grammars, which random bytes seldom hit.
    const PIECES: [&[u8]; 36] = [
        b"GET / HTTP/1.1\r\n",
        b"GET ",
        b"/",
        b" HTTP/1.1",
        b" HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 304",
        b"Host: h\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b"0",
        b"5",
        b"a",
        b";",
        b"%2e",
        b"%2F",
        b"%00",
        b"%",
        b".",
        b"..",
        b"?",
        b"#",
        b"http://",
        b"[::1]",
        b"@",
        b"\0",
        b"\xff",
        b"0\r\n\r\n",
    ];

    fn assemble(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().flat_map(|byte| PIECES[usize::from(*byte) % PIECES.len()]).copied().collect()
    }

    #[test]
    fn any_bytes_as_heads() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            for data in [assemble(bytes), bytes.clone()] {
                reads_request_head(&data);
                reads_response_head(&data);
            }
        });
    }

    #[test]
    fn any_bytes_as_chunked_body() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, cuts)| {
            decodes_chunked(&assemble(bytes), cuts);
            decodes_chunked(bytes, cuts);
        });
    }

    #[test]
    fn any_bytes_as_proxy_header() {
        const PARTS: &[&[u8]] = &[
            b"\r\n\r\n\0\r\nQUIT\n",
            b"PROXY ",
            b"TCP4 ",
            b"TCP6 ",
            b"UNKNOWN",
            b"1.2.3.4 ",
            b"::1 ",
            b"80 ",
            b"80\r\n",
            b"\r\n",
            b"\x21\x11\0\x0c",
            b"\x21\x11\0\x14",
            b"\x21\x21\0\x28",
            b"\x20\0\0\0",
            b"\0\0\0\0",
            b"\x01\0\x02h2",
            b"\x20\0\x05",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let parts = bytes.iter().flat_map(|byte| PARTS[usize::from(*byte) % PARTS.len()]);
            reads_proxy_header(&parts.copied().collect::<Vec<u8>>());
            reads_proxy_header(bytes);
            reads_proxy_header(&[SIGNED, bytes].concat());
        });
        const SIGNED: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
    }

    #[test]
    fn any_bytes_as_target() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            reads_target(&assemble(bytes));
            reads_target(bytes);
        });
    }

    #[test]
    fn any_bytes_as_dns_answer() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| reads_dns_answer(bytes));
    }
}
