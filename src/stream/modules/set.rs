//! Variables with values of a server's own (`set`).
//!
//! Runs in the preaccess phase, before the limits. Touches: the session's variables.
//! Behaviour: nginx.org, ngx_stream_set_module.

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::{Script, Target, Variable};
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

settings! {
    /// The steps of one server, in the order of the file.
    #[derive(Debug)]
    pub struct Conf {
        steps: Vec<(Target, Script)> => own,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("set", Context::STREAM_SERVER, Arity::exactly(2), add, "Sets a variable to a value, when a connection has been accepted."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

fn add(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let target = cx.variables.target(&node.args[0])?;
    let value = Script::compile(&node.args[1], cx)?;
    conf.steps.push((target, value));
    Ok(())
}

pub fn set(session: &mut Session) -> Verdict {
    for (target, value) in &session.server.confs.set.steps {
        let value = value.to_vec(session);
        target.put(session, value);
    }
    Verdict::Next
}

/// Nothing is said about variables of other servers' `set` directives, as in nginx.
pub fn warn_uninitialized(_: &Session, _: &str) {}
