//! Tracing of requests by OpenTelemetry (`otel_trace` and its kind).
//!
//! Whether a request is traced is decided in the rewrite phase of its first location, before the directives of the rewrite
//! module, and stays as it is through internal redirects. The log phase writes the span of a traced request
//! (`otel/span.rs`) into the batch of its worker, which a task of its own hands to the collector (`upstream/otlp.rs`).
//! Subrequests belong to the span of their request. Touches: the request's fields and variables. Does not wait.
//!
//! The identities are those of `$traceparent` (`trace_context.rs`): a trace that begins here has the id `$request_id`, so
//! that logs lead to traces without further variables.
//! Behaviour: nginx.org, ngx_otel_module. W3C Trace Context, level 1.

mod block;
mod span;

use std::io::Write;

use crate::config::directive::{block, custom, millis, number, one_of};
use crate::config::inherit::{own, replace};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, keywords, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, http_core, trace_context};
use crate::http::request::{Request, states};
use crate::http::scope::{Script, Variable};
use crate::http::verdict::Verdict;
use crate::proto::trace_context::{Parent, SAMPLED, state};
use crate::script::variable::{Argument, variable};

pub use block::{Draft, Table};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        trace: Inherit<Trace>,
        context: Setting<Propagation> = Propagation::Ignore,
        span_name: Inherit<Script>,
        attributes: Vec<Attribute> => replace,
        /// The directives of an `otel_exporter`.
        exporter: block::Block => own,
        interval_ms: Setting<u64> = 5000,
        batch_size: Setting<u64> = 512,
        batch_count: Setting<u64> = 4,
    }
}

/// A value of `otel_trace`.
#[derive(Clone, Debug)]
enum Trace {
    On,
    Off,
    Script(Script),
}

/// The use that is made of the client's `traceparent` and `tracestate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Extract,
    Inject,
    Propagate,
    Ignore,
}
keywords!(Propagation { "extract" => Extract, "inject" => Inject, "propagate" => Propagate, "ignore" => Ignore });

impl Propagation {
    fn extracts(self) -> bool {
        matches!(self, Self::Extract | Self::Propagate)
    }

    fn injects(self) -> bool {
        matches!(self, Self::Inject | Self::Propagate)
    }
}

/// An `otel_span_attr`.
#[derive(Clone, Debug)]
struct Attribute {
    name: Box<str>,
    /// It is a list of one text, as OpenTelemetry wants for the fields of requests and responses.
    is_list: bool,
    value: Script,
}

/// A request's part in its trace, once something has asked for it.
pub type State = Option<Box<Part>>;

/// A request's part in its trace. Its ids follow from the parent and from `$request_id`.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The client's span; `None`: the trace begins here, or the client's is not extracted.
    parent: Option<Parent>,
    /// The client's `tracestate`; empty if there is none.
    state: Vec<u8>,
    /// Its span is sent.
    is_sampled: bool,
}

/// Copied, never lent: a request that ends while it waits for a subrequest needs it for its span.
impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        outer.states.otel.clone()
    }

    fn copy(outer: &Request) -> Self {
        outer.states.otel.clone()
    }

    fn park(&mut self) -> Option<Self> {
        self.take().map(Some)
    }
}

const EXPORTER: Context = Context::EXPORTER;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    block("otel_exporter", Context::HTTP, Arity::exactly(0), block::exporter,
        "Sends the spans of traced requests to an OpenTelemetry collector, by OTLP over gRPC. A worker sends its batches one after the other, tries a batch \
         up to three times, and drops spans rather than let a request wait.")
        .opens(&[(Context::HTTP, EXPORTER)]),
    custom("endpoint", EXPORTER, Arity::exactly(1), block::endpoint,
        "Sets the collector: [http://|https://]host[:port], or the name of an upstream block; the default port is 4317. With https:// its certificate is \
         verified. It must be set."),
    custom("trusted_certificate", EXPORTER, Arity::exactly(1), block::trusted_certificate,
        "Names a file with the CA certificates by which the certificate of an endpoint with https:// is verified.").default("the system's"),
    custom("header", EXPORTER, Arity::exactly(2), block::header, "Adds a field to the requests that export spans: NAME VALUE. There may be several."),
    millis("interval", EXPORTER, |c: &mut Conf| &mut c.interval_ms, "Sets how long a span waits at most before its batch is sent."),
    number("batch_size", EXPORTER, (1, 1_000_000), |c: &mut Conf| &mut c.batch_size,
        "Sets the number of spans that a batch of a worker may have. A batch of 3 MiB is full, too."),
    number("batch_count", EXPORTER, (1, 1_000), |c: &mut Conf| &mut c.batch_count,
        "Sets the number of batches that a worker may have at a time; spans beyond them are dropped."),
    custom("otel_service_name", Context::HTTP, Arity::exactly(1), block::service_name,
        "Sets the attribute service.name of the resource, by which collectors know this server.").default("unknown_service:nginx"),
    custom("otel_resource_attr", Context::HTTP, Arity::exactly(2), block::resource_attr,
        "Sets an attribute of the resource: NAME VALUE. There may be several."),
    custom("otel_trace", Context::ANY, Arity::exactly(1), trace,
        "Traces requests: on, off, or a variable that is on or 1 for those to be traced, such as one of split_clients. Needs an otel_exporter.").default("off"),
    one_of("otel_trace_context", Context::ANY, |c: &mut Conf| &mut c.context,
        "Sets what becomes of the fields traceparent and tracestate: extract continues the client's trace, inject sets them for the upstream, replacing the \
         client's, propagate does both, and ignore neither."),
    custom("otel_span_name", Context::ANY, Arity::exactly(1), |c: &mut Conf, cx, node| c.span_name.put(Script::compile(&node.args[0], cx)?, node),
        "Sets the name of spans, which may have variables.").default("the location's name"),
    custom("otel_span_attr", Context::ANY, Arity::exactly(2), span_attr,
        "Adds an attribute to spans: NAME VALUE, the value with variables. There may be several. The names http.request.header.* and http.response.header.* \
         make lists of one value."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("otel_trace_id", |request, _, out| {
        let trace = trace_id(request);
        write!(out, "{trace:032x}").is_ok()
    }, "The id of the request's trace: the client's, if otel_trace_context extracts it, otherwise that of $request_id."),
    variable("otel_span_id", |request, _, out| {
        let span = trace_context::span(request);
        write!(out, "{span:016x}").is_ok()
    }, "The id of the request's span."),
    variable("otel_parent_id", parent_id, "The id of the client's span; no value if the trace begins here."),
    variable("otel_parent_sampled", |request, _, out| {
        let is_sampled = parent(request).is_some_and(|parent| parent.is_sampled());
        out.push(if is_sampled { b'1' } else { b'0' });
        true
    }, "1 if the client's span is sampled, otherwise 0."),
];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        if let (Some(Trace::On | Trace::Script(_)), Some(span)) = (self.trace.as_ref(), self.trace.span()) {
            block::require(span, cx);
        }
    }

    fn acts(&self) -> bool {
        self.traces() || self.context.get() != Propagation::Ignore
    }
}

impl Conf {
    /// False: no request of this block is traced.
    fn traces(&self) -> bool {
        matches!(self.trace.as_ref(), Some(Trace::On | Trace::Script(_)))
    }
}

fn trace(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let value = match node.arg(0) {
        "on" | "1" => Trace::On,
        text if text.contains('$') => Trace::Script(Script::compile(&node.args[0], cx)?),
        "off" => Trace::Off,
        other => {
            // nginx traces nothing with any other word, and says nothing
            let message = format!("\"otel_trace {other}\" traces nothing");
            let warning = Diagnostic::warning(node.arg_span(0), message);
            cx.diagnostics.push(warning.help("write on, off, or a variable"));
            Trace::Off
        }
    };
    conf.trace.put(value, node)
}

fn span_attr(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let is_list = name.starts_with("http.request.header.") || name.starts_with("http.response.header.");
    let value = Script::compile(&node.args[1], cx)?;
    conf.attributes.push(Attribute { name: name.into(), is_list, value });
    Ok(())
}

fn parent_id(request: &mut Request, _: &Argument, out: &mut Vec<u8>) -> bool {
    parent(request).is_some_and(|parent| write!(out, "{:016x}", parent.span).is_ok())
}

/// The client's span. A request that extracts none needs no state for that: it may be one of many that are not sampled.
fn parent(request: &mut Request) -> Option<Parent> {
    let extracts = request.location.confs.otel.context.get().extracts();
    if request.states.otel.is_some() || extracts { part(request).parent } else { None }
}

/// Decides whether the request is traced, and sets the fields for its upstream.
pub fn start(request: &mut Request) -> Verdict {
    // The first location decides: an internal redirect changes nothing, and a subrequest has the decision of its request.
    if request.route.redirects > 0 || request.is_subrequest() {
        return Verdict::Next;
    }
    let conf: &'static Conf = &request.location.confs.otel;
    let is_sampled = match conf.trace.as_ref() {
        None | Some(Trace::Off) => false,
        Some(Trace::On) => true,
        Some(Trace::Script(script)) => matches!(&script.to_vec(request)[..], b"on" | b"1"),
    };
    let propagation = conf.context.get();
    if !is_sampled && propagation == Propagation::Ignore {
        return Verdict::Next;
    }
    part(request).is_sampled = is_sampled;
    if propagation.injects() {
        inject(request);
    }
    Verdict::Next
}

/// True if the span of the request with this state is sent.
pub fn is_traced(state: &State) -> bool {
    state.as_ref().is_some_and(|part| part.is_sampled)
}

/// Goes on with a traced request that began in another worker.
pub fn resume(request: &mut Request) {
    part(request).is_sampled = true;
}

/// The request's part in its trace. The fields of the client are read at the first call.
fn part(request: &mut Request) -> &mut Part {
    if request.states.otel.is_none() {
        let part = match request.location.confs.otel.context.get().extracts() {
            true => extract(request),
            false => Part::default(),
        };
        request.states.otel = Some(Box::new(part));
    }
    request.states.otel.get_or_insert_default()
}

/// Reads the fields of the client. Without a valid `traceparent` its `tracestate` is not looked at.
fn extract(request: &Request) -> Part {
    let Some(parent) = trace_context::sent(request) else { return Part::default() };
    let fields = request.head.fields.pairs(request.input.data());
    let states = fields.filter(|(name, _)| name.eq_ignore_ascii_case(TRACESTATE)).map(|(_, value)| value);
    Part { parent: Some(parent), state: state(states).unwrap_or_default(), is_sampled: false }
}

const TRACEPARENT: &[u8] = b"traceparent";
const TRACESTATE: &[u8] = b"tracestate";

fn trace_id(request: &mut Request) -> u128 {
    match parent(request) {
        Some(parent) => parent.trace,
        None => {
            let (high, low) = http_core::request_id(request);
            u128::from(high) << 64 | u128::from(low)
        }
    }
}

/// Replaces the client's fields by those of this request's span.
fn inject(request: &mut Request) {
    let (trace, span) = (trace_id(request), trace_context::span(request));
    let part = part(request);
    let flags = if part.is_sampled { SAMPLED } else { 0 };
    let state = part.state.clone();
    let parent = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
    let mut set = |field: &[u8], value: &[u8]| {
        request.set_field(|name| name.eq_ignore_ascii_case(field), field, value, false);
    };
    set(TRACEPARENT, parent.as_bytes());
    set(TRACESTATE, &state);
}

/// Writes the span of a traced request, whatever ended it.
pub fn end(request: &mut Request) {
    if !is_traced(&request.states.otel) || request.is_subrequest() {
        return;
    }
    if let Some(exporter) = request.worker.exporter() {
        exporter.add(|out| span::write(request, out));
    }
}
