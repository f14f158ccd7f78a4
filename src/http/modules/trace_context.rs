//! W3C trace context: identifies the trace of a request, for the backend and for the log (`$traceparent` and
//! its parts).
//!
//! Touches: the request's fields, and its `$request_id`, which names a trace that starts here. Nothing is
//! sent by default: `proxy_set_header traceparent $traceparent;` passes a trace on, or starts one.
//! Behaviour: W3C Trace Context, level 1, §3.2 (traceparent) and §4 (processing model).

use std::io::Write;

use crate::config::settings;
use crate::http::modules::{BlockConf, Directive, http_core};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::script::variable::variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[

];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("traceparent", |request, _, out| {
        let span = span(request);
        let trace = Trace::of(request);
        let flags = trace.parent.as_ref().map_or(SAMPLED, |parent| parent.flags);
        write!(out, "00-{}-{span:016x}-{flags:02x}", trace.id).is_ok()
    },
        "The W3C trace context for the upstream: the client's trace, or a new one, with a span for this request."),
    variable("trace_id", |request, _, out| { let trace = Trace::of(request); out.extend_from_slice(trace.id.as_bytes()); true },
        "The trace id of the client's traceparent, otherwise that of $request_id."),
    variable("parent_id", |request, _, out| {
        let parent = Trace::of(request).parent;
        parent.is_some_and(|parent| write!(out, "{:016x}", parent.span).is_ok())
    },
        "The span of the client in its traceparent; no value if the trace starts here."),
    variable("span_id", |request, _, out| { let span = span(request); write!(out, "{span:016x}").is_ok() }, "The span of this request, for its traceparent."),
];

/// The flags of a trace that starts here: it is at least recorded in the log.
const SAMPLED: u8 = 1;

impl BlockConf for Conf {}

/// The trace of a request.
struct Trace {
    /// 32 hexadecimal digits in lower case.
    id: String,
    /// The client's traceparent; `None`: the trace starts here.
    parent: Option<Parent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Trace {
    fn of(request: &mut Request) -> Self {
        let parent = sent(request);
        let id = match parent {
            Some(parent) => format!("{:032x}", parent.trace),
            None => {
                let (high, low) = http_core::request_id(request);
                format!("{high:016x}{low:016x}")
            }
        };
        Self { id, parent }
    }
}

/// The traceparent that the client sent; two fields count as none.
fn sent(request: &Request) -> Option<Parent> {
    let fields = request.head.fields.pairs(request.input.data());
    let mut values =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"traceparent")).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none()).and_then(parse)
}

/// The span id of this request: different from any client's, and the same on each call.
fn span(request: &mut Request) -> u64 {
    let (high, low) = http_core::request_id(request);
    (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1)
}

/// Parses a `traceparent`. `None`: malformed, or an invalid version.
///
/// Of future versions the known part is read; more may follow after another dash.
fn parse(value: &[u8]) -> Option<Parent> {
    let (known, rest) = value.split_at_checked(55)?;
    let [version, trace, span, flags] = [0..2, 3..35, 36..52, 53..55].map(|range| &known[range]);
    if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    match hex(version)? {
        0xff => return None,
        0 if !rest.is_empty() => return None,
        _ if !rest.is_empty() && rest[0] != b'-' => return None,
        _ => {}
    }
    let parent = Parent { trace: hex(trace)?, span: hex(span)? as u64, flags: hex(flags)? as u8 };
    (parent.trace != 0 && parent.span != 0).then_some(parent)
}

/// Parses hexadecimal digits, in lower case only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_parent_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = parse(good.as_bytes()).expect("a parent");
        assert_eq!((parent.trace >> 96, parent.span & 0xffff, parent.flags), (0x0af7_6519, 0x3331, 1));
        let future = format!("cc{}-what-comes", &good[2..]);
        assert_eq!(parse(future.as_bytes()), Some(parent));
        for wrong in [
            String::new(),
            good[..54].into(),
            format!("{good}-more"),
            format!("ff{}", &good[2..]),
            format!("cc{}.", &good[2..]),
            good.to_uppercase(),
            good.replace('-', "_"),
            good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            good.replace("b7ad6b7169203331", &"0".repeat(16)),
            good.replace("01", "0g"),
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
