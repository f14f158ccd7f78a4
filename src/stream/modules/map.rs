//! Variables whose values a table derives from others (`map`).
//!
//! The table is in `script/map.rs`, as the definition of the variable. Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_map_module.

use crate::config::directive::{Accepted, accepted, block};
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::script::map::Map;
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
    block("map", Context::STREAM, Arity::exactly(2), map, "Creates a variable whose value depends on another value."),
    accepted("map_hash_max_size", Context::STREAM, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("map_hash_bucket_size", Context::STREAM, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn map(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let map = Map::read(node, cx)?;
    cx.variables.declare(&node.args[1], Definition::Map(Box::new(map)))
}
