//! Access by the client's address (`allow`, `deny`).
//!
//! Runs in the access phase. The rules are `shared/access.rs`. Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_access_module.

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Inherits, Node, settings};
use crate::shared::access::{Decision, Rules, log_denied};
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        rules: Rules,
    }
}

const RULES: Inherits = Inherits::List("access");

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("allow", Context::IN_STREAM, Arity::exactly(1), |c: &mut Conf, cx, node| add(c, cx, node, true),
        "Allows access for an address, a network, unix: or all.").inherits(RULES),
    custom("deny", Context::IN_STREAM, Arity::exactly(1), |c: &mut Conf, cx, node| add(c, cx, node, false),
        "Denies access for an address, a network, unix: or all.").inherits(RULES),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn add(conf: &mut Conf, cx: &mut Cx, node: &Node, is_allow: bool) -> Result<(), Diagnostic> {
    conf.rules.add(is_allow, node, cx)
}

pub fn access(session: &mut Session) -> Verdict {
    match session.server.confs.access.rules.decide(session) {
        Decision::Undecided | Decision::Allowed => Verdict::Next,
        Decision::Denied(rule) => {
            log_denied(session, rule);
            Verdict::Done(403)
        }
    }
}
