//! The rate of responses: `limit_rate`, `limit_rate_after`, and their overrides for a single request.
//!
//! Touches: nothing; `http/response/output.rs` does the pacing. The upstream's `X-Accel-Limit-Rate` and `set
//! $limit_rate` take precedence.
//! Behaviour: nginx.org, ngx_http_core_module.

use crate::base::number::MaybeU64;
use crate::base::number::parse_size;
use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::{Request, states};
use crate::http::scope::{Script, Variable};
use crate::log;
use crate::net::pace::Pace;
use crate::script::nested;
use crate::script::variable::{Argument, Change, changeable};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        rate: Inherit<Script>,
        after: Inherit<Script>,
    }
}

const CONTEXTS: Context = Context::ANY.or(Context::LOCATION_IF);

/// The rates that one request was told, whatever the locations say that it goes on to.
#[derive(Debug, Default)]
pub struct State {
    /// In bytes a second, if the upstream or `set $limit_rate` set it; 0: no limit.
    pub told: MaybeU64,
    /// The bytes before that rate applies, if they are not those of `limit_rate_after`.
    pub told_after: MaybeU64,
}

impl states::State for State {}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("limit_rate", CONTEXTS, Arity::exactly(1), |c: &mut Conf, cx, node| size(&mut c.rate, cx, node),
        "Limits the rate of a response, in bytes a second; 0 sets no limit.").default("0"),
    custom("limit_rate_after", CONTEXTS, Arity::exactly(1), |c: &mut Conf, cx, node| size(&mut c.after, cx, node),
        "Sets how many bytes of a response are sent before limit_rate applies.").default("0"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    changeable("limit_rate", value, Change::By(set), "The rate at which the response is sent, in bytes a second; it can be set."),
];

fn value(request: &mut Request, _: &Argument, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(rate(request)).as_bytes());
    true
}

impl BlockConf for Conf {}

/// Reads a size, or variables that yield one for each request.
pub fn size(slot: &mut Inherit<Script>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let script = Script::compile(&node.args[0], cx)?;
    let is_size = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| parse_size(text).is_some());
    if script.as_text().is_some_and(|text| !is_size(text)) {
        let diagnostic =
            Diagnostic::error(node.arg_span(0), format!("\"{}\" directive invalid value", node.name.text));
        return Err(diagnostic.help("write bytes, or a number with k or m: 500k"));
    }
    slot.put(script, node)
}

/// Evaluates a size that may have variables. An empty value is 0; an invalid one is logged and counts as 0.
pub fn evaluate(script: Option<&'static Script>, request: &mut Request) -> u64 {
    let Some(script) = script else { return 0 };
    let value = script.to_vec(request);
    let Some(bytes) = std::str::from_utf8(&value).ok().and_then(parse_size) else {
        if !value.is_empty() {
            let value = log::Text(&value);
            log::error!(request.error_log(), &*request, "invalid size \"{value}\"");
        }
        return 0;
    };
    bytes
}

fn rate(request: &mut Request) -> u64 {
    match request.states.limit_rate.told.get() {
        Some(rate) => rate,
        None => {
            let rate = request.location.confs.limit_rate.rate.as_ref();
            nested(request, "limit_rate", |request| evaluate(rate, request))
        }
    }
}

/// `set $limit_rate`: applies to this request in every location that it passes.
fn set(request: &mut Request, value: Vec<u8>) {
    request.states.limit_rate.told = std::str::from_utf8(&value).ok().and_then(parse_size).into();
}

/// The pace of the response that starts now; `None`: unlimited.
pub fn pace(request: &mut Request) -> Option<Pace> {
    let conf: &'static Conf = &request.location.confs.limit_rate;
    if conf.rate.as_ref().is_none() && request.states.limit_rate.told.get().is_none() {
        return None;
    }
    let rate = rate(request);
    let after = request.states.limit_rate.told_after.get();
    let after = after.unwrap_or_else(|| evaluate(conf.after.as_ref(), request));
    Pace::new(rate, after)
}
