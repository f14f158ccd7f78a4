//! Variables whose values operators set while the server runs (`keyval`, `keyval_zone`).
//!
//! The zones are in `script/keyval.rs`, as the definition of the variable; the API that changes them is `api`.
//! Touches: nothing. Behaviour: nginx.org, ngx_stream_keyval_module.

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::script::keyval::{self, Keyval};
pub use crate::script::keyval::{Draft, Zones};
use crate::script::variable::Definition;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("keyval", Context::STREAM, Arity::exactly(3), keyval,
        "Creates a variable whose value is looked up by a key in a zone that the API changes: KEY $NAME zone=NAME. It is empty while the zone does not \
         have the key."),
    custom("keyval_zone", Context::STREAM, Arity::between(1, 5), keyval_zone,
        "Declares a zone of key-value pairs, which change through the API without a reload: zone=NAME:SIZE, where SIZE bounds the memory of the pairs in \
         each process. type= says how keys match: string (exactly), ip (the smallest network that has the address) or prefix (the longest beginning). \
         With timeout= pairs are removed after that time, or after their own. state= names the file in which they survive a restart; without it they \
         survive reloads and upgrades."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl ModuleTable for Zones {
    fn open(cx: &mut Cx) -> Self {
        let (zones, missing) = std::mem::take(&mut cx.drafts.keyval).finish();
        missing.into_iter().for_each(|diagnostic| cx.diagnostics.push(diagnostic));
        zones
    }
}

fn keyval(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut draft = std::mem::take(&mut cx.drafts.keyval);
    let keyval = Keyval::read(node, &mut draft, cx);
    cx.drafts.keyval = draft;
    cx.variables.declare(&node.args[1], Definition::Keyval(Box::new(keyval?)))
}

fn keyval_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    cx.drafts.keyval.declare(node, keyval::STREAM, cx.options.test_only)
}
