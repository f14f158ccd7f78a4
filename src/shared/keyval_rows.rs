//! The rows of variables whose values operators set while the server runs (`keyval`, `keyval_zone`), for every language part.
//!
//! The zones are in `script/keyval.rs`, as the definition of the variable; the API that changes them is `http/modules/api`.
//! Touches: nothing. Behaviour: nginx.org, ngx_http_keyval_module and ngx_stream_keyval_module.

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Directive, Node};
use crate::script::keyval::{Draft, Keyval, Zones};
use crate::script::variable::Definition;
use crate::shared::Environment;

/// A compile context of a language part that may declare zones.
pub trait Declares: Environment {
    /// The zones as declared so far.
    fn keyvals(&mut self) -> &mut Draft;
}

/// The zones, once everything is read; reports those that are used and not declared.
pub fn open(cx: &mut impl Declares) -> Zones {
    let (zones, missing) = std::mem::take(cx.keyvals()).finish();
    missing.into_iter().for_each(|diagnostic| cx.diagnostics().push(diagnostic));
    zones
}

/// `keyval`
#[rustfmt::skip]
pub const fn keyval<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("keyval", contexts, Arity::exactly(3), |_: &mut C, cx: &mut X, node| variable(cx, node),
        "Creates a variable whose value is looked up by a key in a zone that the API changes: KEY $NAME zone=NAME. It is empty while the zone does not \
         have the key.")
}

/// `keyval_zone`
#[rustfmt::skip]
pub const fn keyval_zone<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("keyval_zone", contexts, Arity::between(1, 5), |_: &mut C, cx: &mut X, node| zone(cx, node),
        "Declares a zone of key-value pairs, which change through the API without a reload: zone=NAME:SIZE, where SIZE bounds the memory of the pairs in \
         each process. type= says how keys match: string (exactly), ip (the smallest network that has the address) or prefix (the longest beginning). \
         With timeout= pairs are removed after that time, or after their own. state= names the file in which they survive a restart; without it they \
         survive reloads and upgrades.")
}

fn variable(cx: &mut impl Declares, node: &Node) -> Result<(), Diagnostic> {
    let mut draft = std::mem::take(cx.keyvals());
    let keyval = Keyval::read(node, &mut draft, cx);
    *cx.keyvals() = draft;
    cx.variables().declare(&node.args[1], Definition::Keyval(Box::new(keyval?)))
}

fn zone<X: Declares>(cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let is_test = cx.is_test();
    cx.keyvals().declare(node, X::BLOCK, is_test)
}
