//! Variables that depend on an address (`geo`).
//!
//! The table is in `script/geo.rs`, as the definition of the variable. Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_geo_module.

use crate::config::directive::block;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::script::geo::Geo;
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
    block("geo", Context::STREAM, Arity::between(1, 2), geo,
        "Creates a variable whose value depends on the client's address, or on the address in another variable. Entries are networks or, after ranges;, \
         address ranges; and default, delete, include, volatile."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn geo(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let geo = Geo::read(node, cx)?;
    cx.variables.declare(&node.args[node.args.len() - 1], Definition::Geo(Box::new(geo)))
}
