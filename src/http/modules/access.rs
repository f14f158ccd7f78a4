//! Who may have what: `allow` and `deny` by address, `satisfy`, `limit_except` by method.
//!
//! Runs in the access phase. Touches: the request's peer address. How several answers of the phase become one
//! (`satisfy`) is decided in the pipeline.
//! Behaviour: nginx.org, ngx_http_access_module; `satisfy` and `limit_except` of ngx_http_core_module.

use crate::base::network::Network;
use crate::config::directive::{block, custom, keyword};
use crate::config::inherit::{duplicate, replace};
use crate::config::{Arity, Context, Diagnostic, Inherit, Inherits, Merge, Node, Span};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::pipeline::{Reply, Verdict};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::zone::ByRule;
use crate::log;
use crate::proto::message::Method;

/// One `allow` or `deny`.
#[derive(Clone, Copy, Debug)]
struct Rule {
    is_allow: bool,
    /// `None`: all.
    network: Option<Network>,
    span: Span,
}

#[derive(Debug, Default)]
pub struct Conf {
    rules: Vec<Rule>,
    satisfy: Inherit<usize>,
}

const RULE: Context = Context::ANY.or(Context::LIMIT_EXCEPT);
/// A block with any rule has none of the outer block's.
const LIST: Inherits = Inherits::List("allow");

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("allow", RULE, Arity::exactly(1), allow,
        "Lets clients in by address, network, unix: or all. Of all lines with \"deny\" the first that fits decides.").inherits(LIST),
    custom("deny", RULE, Arity::exactly(1), deny, "Refuses clients by address, network, unix: or all.").inherits(LIST),
    keyword("satisfy", Context::ANY, &["all", "any"], |c| &mut c.satisfy, "Whether all kinds of access control have to let a request in, or any of them; all."),
    block("limit_except", Context::LOCATION, Arity::at_least(1), limit_except,
        "Directives for all methods but those named. GET stands for HEAD too.").opens(&[(Context::LOCATION, Context::LIMIT_EXCEPT)]),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        replace(&mut self.rules, &outer.rules);
        self.satisfy.merge(&outer.satisfy);
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.rules.is_empty()
    }
}

impl Conf {
    pub fn satisfies_any(&self) -> bool {
        self.satisfy.get(0) == 1
    }
}

fn allow(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    rule(conf, cx, node, true)
}

fn deny(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    rule(conf, cx, node, false)
}

fn rule(conf: &mut Conf, cx: &mut Cx, node: &Node, is_allow: bool) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let network = if text == "all" {
        None
    } else {
        let parsed = Network::parse(text).ok_or_else(|| {
            let diagnostic = Diagnostic::error(node.arg_span(0), format!("invalid parameter \"{text}\""));
            diagnostic.help("an address, a network such as 10.0.0.0/8, unix: or all")
        })?;
        if parsed.has_low_bits {
            let message = format!("low address bits of {text} are meaningless");
            cx.diagnostics.push(Diagnostic::warning(node.arg_span(0), message));
        }
        Some(parsed.network)
    };
    conf.rules.push(Rule { is_allow, network, span: node.span });
    Ok(())
}

fn limit_except(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut methods = Vec::new();
    for word in &node.args {
        match Method::of(word.text.to_ascii_uppercase().as_bytes()) {
            Method::Other => {
                return Err(Diagnostic::error(word.span, format!("invalid method \"{}\"", word.text)));
            }
            method => methods.push(method),
        }
    }
    if methods.contains(&Method::Get) {
        methods.push(Method::Head);
    }
    let partial = cx.block(node, Context::LIMIT_EXCEPT);
    if cx.add_limit_except(methods.into(), partial, node.span) {
        return Ok(());
    }
    Err(duplicate(node))
}

pub fn access(request: &mut Request) -> Verdict {
    if request.location.access.rules.is_empty() {
        return Verdict::Next;
    }
    decide(request)
}

fn decide(request: &Request) -> Verdict {
    let conf: &Conf = &request.location.access;
    let peer = request.connection.peer.ip().map(|ip| ip.to_canonical());
    let decides = |rule: &&Rule| rule.network.is_none_or(|network| network.contains(peer));
    match conf.rules.iter().find(decides) {
        None => Verdict::Next,
        Some(rule) if rule.is_allow => Verdict::Granted,
        // Another kind of access control may let it in yet.
        Some(_) if conf.satisfies_any() => Verdict::Done(Reply::Status(403)),
        Some(rule) => {
            let by_rule = ByRule { request, rule: rule.span };
            log::error!(core::error_log(request), &by_rule, "access forbidden by rule");
            Verdict::Done(Reply::Status(403))
        }
    }
}
