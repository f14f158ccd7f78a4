//! A text for every client (`return`).
//!
//! The pipeline sends it and closes the connection. Touches: the session's variables.
//! Behaviour: nginx.org, ngx_stream_return_module.

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::stream::config::compile::Cx;
use crate::stream::config::server::Content;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::{Script, Variable};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        text: Inherit<Script> => own,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("return", Context::STREAM_SERVER, Arity::exactly(1), set, "Sends a text, which may have variables, to the client and closes the connection."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

impl Conf {
    pub fn text(&self) -> Option<&Script> {
        self.text.as_ref()
    }
}

fn set(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = Script::compile(&node.args[0], cx)?;
    cx.set_content(Content::Return);
    conf.text.put(text, node)
}
