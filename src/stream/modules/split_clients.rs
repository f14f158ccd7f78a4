//! Variables that divide sessions into shares of a given size (`split_clients`).
//!
//! The table is in `script/split_clients.rs`, as the definition of the variable. Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_split_clients_module.

use crate::config::directive::block;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::script::split_clients::Split;
use crate::script::variable::Definition;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    block("split_clients", Context::STREAM, Arity::exactly(2), split_clients,
        "Creates a variable with one of several values, each for a share of the sessions, chosen by the hash of a text: 0.5% value; * value;"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn split_clients(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let split = Split::read(node, cx)?;
    cx.variables.declare(&node.args[1], Definition::Split(Box::new(split)))
}
