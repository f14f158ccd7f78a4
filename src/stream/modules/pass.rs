//! Handing an accepted connection to another listener of this process (`pass`).
//!
//! The worker does it (`worker/services.rs`); the listener may be one of another language part. Touches: the session's
//! variables. Behaviour: nginx.org, ngx_stream_pass_module.

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::log;
use crate::net::address;
use crate::script::value;
use crate::stream::config::compile::Cx;
use crate::stream::config::server::Content;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::{Script, Variable};
use crate::stream::session::Session;
use crate::sys::address::SockAddr;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        target: Inherit<Target> => own,
    }
}

#[derive(Debug)]
enum Target {
    Fixed(SockAddr),
    Script(Script),
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("pass", Context::STREAM_SERVER, Arity::exactly(1), set,
        "Hands accepted connections to a listener of http or stream, given by its address, as if that had accepted them. The address may have variables."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

fn set(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let target = if value::has_variables(text) {
        Target::Script(Script::compile(&node.args[0], cx)?)
    } else {
        let host = address::parse_upstream(text, 0)
            .map_err(|bad| Diagnostic::error(node.arg_span(0), format!("{bad} in \"{text}\"")))?;
        let found = host.find(&cx.options.names).and_then(|found| found.into_iter().next());
        let address = found.filter(|address| address.port() != Some(0)).ok_or_else(|| {
            let message = format!("no address with a port in \"{text}\"");
            Diagnostic::error(node.arg_span(0), message)
        })?;
        Target::Fixed(address)
    };
    cx.set_content(Content::Pass);
    conf.target.put(target, node)
}

/// The address of the listener that the session's connection is for; `None`: the log says what is wrong.
pub fn target(session: &mut Session) -> Option<SockAddr> {
    let conf: &'static Conf = &session.server.confs.pass;
    match conf.target.as_ref()? {
        Target::Fixed(address) => Some(address.clone()),
        Target::Script(script) => {
            let value = String::from_utf8_lossy(&script.to_vec(session)).into_owned();
            let host = address::parse_upstream(&value, 0).ok();
            let found = host.and_then(|host| host.literal()).filter(|address| address.port() != Some(0));
            if found.is_none() {
                let shown = log::Text(value.as_bytes());
                log::error!(
                    crate::script::Scope::logger(session),
                    &*session,
                    "\"pass\" has become \"{shown}\", which is no address with a port"
                );
            }
            found
        }
    }
}
