//! Access control: `allow` and `deny` by address, `satisfy`, `limit_except` by method.
//!
//! Runs in the access phase. Touches: the request's peer address. The rules are in `shared/access.rs`; the
//! pipeline combines the verdicts of the phase (`satisfy`).
//! Behaviour: nginx.org, ngx_http_access_module; `satisfy` and `limit_except` of ngx_http_core_module.

use crate::config::directive::{block, custom, one_of};
use crate::config::inherit::duplicate;
use crate::config::{Arity, Context, Diagnostic, Inherits, Node, Setting, keywords, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::proto::message::Method;
use crate::shared::access::{self, Decision, Rules};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        rules: Rules,
        satisfy: Setting<Satisfy> = Satisfy::All,
    }
}

/// How many kinds of access control must allow a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Satisfy {
    All,
    Any,
}
keywords!(Satisfy { "all" => All, "any" => Any });

const RULE: Context = Context::ANY.or(Context::LIMIT_EXCEPT);
/// A block with any rule of its own inherits none of the outer block's.
const LIST: Inherits = Inherits::List("allow");

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("allow", RULE, Arity::exactly(1), allow,
        "Allows clients by address, network, unix: or all. The first allow or deny that matches decides.").inherits(LIST),
    custom("deny", RULE, Arity::exactly(1), deny,
        "Denies clients by address, network, unix: or all. The first allow or deny that matches decides.").inherits(LIST),
    one_of("satisfy", Context::ANY, |c| &mut c.satisfy, "Requires a request to pass every kind of access control (all), or at least one (any)."),
    block("limit_except", Context::LOCATION, Arity::at_least(1), limit_except,
        "Holds directives for all methods except those named. GET includes HEAD.").opens(&[(Context::LOCATION, Context::LIMIT_EXCEPT)]),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.rules.is_empty()
    }
}

impl Conf {
    pub fn satisfies_any(&self) -> bool {
        self.satisfy.get() == Satisfy::Any
    }
}

fn allow(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.rules.add(true, node, cx)
}

fn deny(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.rules.add(false, node, cx)
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
    let conf: &Conf = &request.location.confs.access;
    if conf.rules.is_empty() {
        return Verdict::Next;
    }
    match conf.rules.decide(request) {
        Decision::Undecided => Verdict::Next,
        Decision::Allowed => Verdict::Granted,
        Decision::Denied(rule) => {
            // With `satisfy any` another kind of access control may still allow the request.
            if !conf.satisfies_any() {
                access::log_denied(request, rule);
            }
            Verdict::Done(Reply::Status(403))
        }
    }
}
