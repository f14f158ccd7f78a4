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
use crate::proto::trace_context::{Parent, SAMPLED};
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
        // A trace that starts here is at least recorded in the log.
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

impl BlockConf for Conf {}

/// The trace of a request.
struct Trace {
    /// 32 hexadecimal digits in lower case.
    id: String,
    /// The client's traceparent; `None`: the trace starts here.
    parent: Option<Parent>,
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
pub fn sent(request: &Request) -> Option<Parent> {
    let fields = request.head.fields.pairs(request.input.data());
    let mut values =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"traceparent")).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none()).and_then(Parent::parse)
}

/// The span id of this request: different from any client's, and the same on each call.
pub fn span(request: &mut Request) -> u64 {
    let (high, low) = http_core::request_id(request);
    (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1)
}
