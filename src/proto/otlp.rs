//! Spans in OpenTelemetry's protocol, and the call that hands them to a collector (OTLP/gRPC).
//!
//! Each span is encoded once, where its request ends; a call is a head and the spans as they were written, so nothing is
//! copied or measured again. Texts may have any bytes here; on the wire they are UTF-8, as Protocol Buffers require.
//! Pure. opentelemetry-proto: `common.proto`, `resource.proto`, `trace.proto`, `trace_service.proto`; gRPC over HTTP/2.

use crate::proto::protobuf::{
    Field, Value, number_length, put_bytes, put_fixed32, put_fixed64, put_head, put_message,
    put_number_field, take_field,
};
use crate::proto::trace_context::SAMPLED;

/// The target of the call.
pub const PATH: &[u8] = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The longest text of a span; the rest is cut off.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;

/// `SPAN_KIND_SERVER`.
const KIND_SERVER: u64 = 2;
/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u64 = 2;
/// Bits 8 and 9 of a span's flags: whether its parent is remote is known, and it is.
const PARENT_IS_REMOTE: u32 = 0x300;

/// The numbers of fields.
mod field {
    pub const RESOURCE_SPANS: u32 = 1;
    pub const RESOURCE: u32 = 1;
    pub const SCOPE_SPANS: u32 = 2;
    pub const RESOURCE_ATTRIBUTES: u32 = 1;
    pub const SCOPE: u32 = 1;
    pub const SPANS: u32 = 2;
    pub const SCOPE_NAME: u32 = 1;
    pub const SCOPE_VERSION: u32 = 2;
    pub const TRACE_ID: u32 = 1;
    pub const SPAN_ID: u32 = 2;
    pub const TRACE_STATE: u32 = 3;
    pub const PARENT_ID: u32 = 4;
    pub const NAME: u32 = 5;
    pub const KIND: u32 = 6;
    pub const START: u32 = 7;
    pub const END: u32 = 8;
    pub const ATTRIBUTES: u32 = 9;
    pub const STATUS: u32 = 15;
    pub const FLAGS: u32 = 16;
    pub const STATUS_CODE: u32 = 3;
    pub const KEY: u32 = 1;
    pub const VALUE: u32 = 2;
    pub const TEXT: u32 = 1;
    pub const INTEGER: u32 = 3;
    pub const ARRAY: u32 = 5;
    pub const ELEMENTS: u32 = 1;
    pub const PARTIAL_SUCCESS: u64 = 1;
    pub const REJECTED: u64 = 1;
    pub const MESSAGE: u64 = 2;
}

/// The facts about a span besides its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub trace: u128,
    pub span: u64,
    /// The caller's span; `None`: the trace begins here.
    pub parent: Option<u64>,
    /// `tracestate`; may be empty.
    pub state: &'a [u8],
    pub name: &'a [u8],
    /// In nanoseconds since 1970.
    pub start_ns: u64,
    pub end_ns: u64,
    pub is_error: bool,
}

/// Appends a span to those of a call. `attributes` writes its attributes, each by a function of this file.
pub fn put_span(span: &Span<'_>, out: &mut Vec<u8>, attributes: impl FnOnce(&mut Attributes<'_>)) {
    put_message(field::SPANS, out, |out| {
        put_bytes(field::TRACE_ID, &span.trace.to_be_bytes(), out);
        put_bytes(field::SPAN_ID, &span.span.to_be_bytes(), out);
        if !span.state.is_empty() {
            put_text(field::TRACE_STATE, span.state, out);
        }
        if let Some(parent) = span.parent {
            put_bytes(field::PARENT_ID, &parent.to_be_bytes(), out);
        }
        put_text(field::NAME, span.name, out);
        put_number_field(field::KIND, KIND_SERVER, out);
        put_fixed64(field::START, span.start_ns, out);
        put_fixed64(field::END, span.end_ns, out);
        attributes(&mut Attributes(out));
        if span.is_error {
            put_message(field::STATUS, out, |out| put_number_field(field::STATUS_CODE, STATUS_ERROR, out));
        }
        let remote = if span.parent.is_some() { PARENT_IS_REMOTE } else { 0 };
        put_fixed32(field::FLAGS, remote | u32::from(SAMPLED), out);
    });
}

/// The attributes of a span that is being written.
#[derive(Debug)]
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub fn text(&mut self, key: &str, value: &[u8]) {
        put_attribute(field::ATTRIBUTES, key, self.0, |out| put_text(field::TEXT, value, out));
    }

    pub fn integer(&mut self, key: &str, value: u64) {
        put_attribute(field::ATTRIBUTES, key, self.0, |out| put_number_field(field::INTEGER, value, out));
    }

    /// A list of one text.
    pub fn list(&mut self, key: &str, value: &[u8]) {
        put_attribute(field::ATTRIBUTES, key, self.0, |out| {
            put_message(field::ARRAY, out, |out| {
                put_message(field::ELEMENTS, out, |out| put_text(field::TEXT, value, out));
            });
        });
    }
}

fn put_attribute(field: u32, key: &str, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    put_message(field, out, |out| {
        put_bytes(field::KEY, key.as_bytes(), out);
        put_message(field::VALUE, out, value);
    });
}

/// Writes a text, at most [`TEXT_BYTES_MAX`] of it. Bytes that are no UTF-8 become U+FFFD: a collector refuses the whole
/// call otherwise.
fn put_text(field: u32, text: &[u8], out: &mut Vec<u8>) {
    if text.len() <= TEXT_BYTES_MAX && text.is_ascii() {
        return put_bytes(field, text, out);
    }
    let whole = String::from_utf8_lossy(text);
    put_bytes(field, whole[..whole.floor_char_boundary(TEXT_BYTES_MAX)].as_bytes(), out);
}

/// The part of each call that precedes its spans: the resource and the scope, encoded once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Origin {
    /// `attributes`: those of the resource. `scope`: the name and version of the program.
    pub fn new<'a>(attributes: impl Iterator<Item = (&'a str, &'a str)>, scope: (&str, &str)) -> Self {
        let mut resource = Vec::new();
        put_message(field::RESOURCE, &mut resource, |out| {
            for (key, value) in attributes {
                let value = |out: &mut Vec<u8>| put_bytes(field::TEXT, value.as_bytes(), out);
                put_attribute(field::RESOURCE_ATTRIBUTES, key, out, value);
            }
        });
        let mut own = Vec::new();
        put_message(field::SCOPE, &mut own, |out| {
            put_bytes(field::SCOPE_NAME, scope.0.as_bytes(), out);
            put_bytes(field::SCOPE_VERSION, scope.1.as_bytes(), out);
        });
        Self { resource, scope: own }
    }

    /// The message of a call up to its spans, of which `span_bytes` follow; gRPC's own head comes first.
    pub fn head(&self, span_bytes: usize) -> Vec<u8> {
        let of_scope = self.scope.len() + span_bytes;
        let of_resource = self.resource.len() + head_length(of_scope) + of_scope;
        let message = head_length(of_resource) + of_resource;
        let mut out = Vec::with_capacity(5 + message - span_bytes);
        out.push(0); // not compressed
        out.extend_from_slice(&u32::try_from(message).unwrap_or(u32::MAX).to_be_bytes());
        put_head(field::RESOURCE_SPANS, of_resource, &mut out);
        out.extend_from_slice(&self.resource);
        put_head(field::SCOPE_SPANS, of_scope, &mut out);
        out.extend_from_slice(&self.scope);
        out
    }
}

/// The length of what [`put_head`] writes, for a field below 16.
fn head_length(length: usize) -> usize {
    1 + number_length(length as u64)
}

/// How many spans a collector has refused although the call went well, and why: `partial_success` of the response, with
/// gRPC's head. `None`: none, or the response is something else.
pub fn refused(response: &[u8]) -> Option<(u64, String)> {
    let (_, mut message) = response.split_first_chunk::<5>()?;
    let (mut count, mut why) = (0, String::new());
    while let Some(Field { number, value }) = take_field(&mut message) {
        let (field::PARTIAL_SUCCESS, Value::Bytes(mut part)) = (number, value) else { continue };
        while let Some(Field { number, value }) = take_field(&mut part) {
            match (number, value) {
                (field::REJECTED, Value::Number(rejected)) => count = rejected,
                (field::MESSAGE, Value::Bytes(text)) => why = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
    }
    (count > 0).then_some((count, why))
}

/// The name of a gRPC status code, for the log.
pub fn status_name(code: u64) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).unwrap_or(&"an unknown status")
}

/// True if a call that ended with this status may be made again (OTLP, "Failures").
pub fn is_retryable(code: u64) -> bool {
    matches!(code, 1 | 4 | 8 | 10 | 11 | 14 | 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span<'_> = Span {
        trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span: 0xb7ad_6b71_6920_3331,
        parent: None,
        state: b"",
        name: b"/",
        start_ns: 1,
        end_ns: 0x0102_0304_0506_0708,
        is_error: false,
    };

    /// Written by hand from trace.proto.
    #[test]
    fn a_span_has_the_bytes_of_the_format() {
        let mut out = Vec::new();
        put_span(&SPAN, &mut out, |_| {});
        let mut expected = vec![0x12, 0x38, 0x0a, 16];
        expected.extend_from_slice(&SPAN.trace.to_be_bytes());
        expected.extend_from_slice(&[0x12, 8, 0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        expected.extend_from_slice(&[0x2a, 1, b'/', 0x30, 2]);
        expected.extend_from_slice(&[0x39, 1, 0, 0, 0, 0, 0, 0, 0, 0x41, 8, 7, 6, 5, 4, 3, 2, 1]);
        expected.extend_from_slice(&[0x85, 1, 1, 0, 0, 0]);
        expected[1] = (expected.len() - 2) as u8;
        assert_eq!(out, expected);
        let mut out = Vec::new();
        let span = Span { parent: Some(2), state: b"a=1", is_error: true, name: b"", ..SPAN };
        put_span(&span, &mut out, |attributes| {
            attributes.text("k", b"v");
            attributes.integer("n", 300);
            attributes.list("l", b"v");
        });
        let has = |part: &[u8]| memchr::memmem::find(&out, part).is_some();
        assert!(has(b"\x1a\x03a=1"), "the state");
        assert!(has(&[0x22, 8, 0, 0, 0, 0, 0, 0, 0, 2]), "the parent");
        assert!(has(b"\x4a\x08\x0a\x01k\x12\x03\x0a\x01v"), "a text");
        assert!(has(b"\x4a\x08\x0a\x01n\x12\x03\x18\xac\x02"), "a number");
        assert!(has(b"\x4a\x0c\x0a\x01l\x12\x07\x2a\x05\x0a\x03\x0a\x01v"), "a list");
        assert!(has(&[0x7a, 2, 0x18, 2]), "the status");
        assert!(out.ends_with(&[0x85, 1, 1, 3, 0, 0]), "the flags");
    }

    #[test]
    fn a_call_is_its_head_and_the_spans() {
        let origin = Origin::new([("service.name", "shop")].into_iter(), ("pronghorn", "1"));
        for count in [0, 1, 3, 500] {
            let mut spans = Vec::new();
            (0..count).for_each(|_| put_span(&SPAN, &mut spans, |_| {}));
            let message = [origin.head(spans.len()), spans.clone()].concat();
            assert_eq!(message[..5], [&[0][..], &((message.len() - 5) as u32).to_be_bytes()].concat());
            let only = |mut rest: &[u8]| {
                let mut fields = Vec::new();
                while let Some(Field { number, value: Value::Bytes(bytes) }) = take_field(&mut rest) {
                    fields.push((number, bytes.to_vec()));
                }
                assert!(rest.is_empty());
                fields
            };
            let all = only(&message[5..]);
            let [(1, resource_spans)] = &all[..] else { panic!("{all:?}") };
            let parts = only(resource_spans);
            let [(1, resource), (2, scope_spans)] = &parts[..] else { panic!("{parts:?}") };
            assert_eq!(resource, b"\x0a\x16\x0a\x0cservice.name\x12\x06\x0a\x04shop");
            let parts = only(scope_spans);
            assert_eq!(parts[0], (1, b"\x0a\x09pronghorn\x12\x011".to_vec()));
            assert_eq!(parts.len(), 1 + count);
        }
    }

    #[test]
    fn a_text_is_utf_8_and_bounded() {
        let every: Vec<u8> = (0..=255).collect();
        let long = [b"a".repeat(TEXT_BYTES_MAX - 1), "é".repeat(9).into_bytes()].concat();
        let broken = b"\xff".repeat(TEXT_BYTES_MAX);
        for text in [&every[..], b"", b"plain", "é€😀".as_bytes(), &long, &broken] {
            let mut out = Vec::new();
            put_text(1, text, &mut out);
            let Some(Field { value: Value::Bytes(bytes), .. }) = take_field(&mut &out[..]) else { panic!() };
            let written = std::str::from_utf8(bytes).expect("UTF-8");
            assert!(bytes.len() <= TEXT_BYTES_MAX);
            assert!(String::from_utf8_lossy(text).starts_with(written));
            assert_eq!(written.is_empty(), text.is_empty());
        }
    }

    #[test]
    fn a_response_tells_what_was_refused() {
        for (response, expected) in [
            (&b""[..], None),
            (b"\0\0\0\0\0", None),
            (b"\0\0\0\0\x02\x0a\0", None),
            (b"\0\0\0\0\x04\x0a\x02\x08\0", None),
            (b"\0\0\0\0\x0b\x0a\x09\x08\x96\x01\x12\x04full", Some((150, "full".to_owned()))),
            (b"\0\0\0\0\x0b\x0a\x09\x08\x96", None),
        ] {
            assert_eq!(refused(response), expected, "{response:?}");
        }
        assert_eq!((status_name(14), status_name(99)), ("UNAVAILABLE", "an unknown status"));
        assert!(is_retryable(14) && !is_retryable(3) && !is_retryable(0));
    }
}
