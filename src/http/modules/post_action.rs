//! A request of our own after each response (`post_action`).
//!
//! Settings only; `http/nesting.rs` runs it. Touches: nothing.
//! Behaviour: ngx_http_core_module, which does not document it: the same request goes on at the location that is named, so that
//! its variables and its line in the access log are those of the whole.

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        target: Inherit<Box<str>>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("post_action", Context::ANY.or(Context::LOCATION_IF), Arity::exactly(1), post_action,
        "Goes on with the request at this path or named location once the response has been sent, or has failed, and discards what comes of it. Its variables \
         are those of the request, such as $body_bytes_sent, and the access log is written afterwards. The next request of the connection waits for it."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Conf {
    /// A path, or a named location with its `@`.
    #[inline]
    pub fn target(&self) -> Option<&str> {
        self.target.as_ref().map(|target| &**target)
    }
}

fn post_action(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if !node.arg(0).starts_with(['/', '@']) {
        let message = format!("\"{}\" is neither a path nor a named location", node.arg(0));
        return Err(Diagnostic::error(node.arg_span(0), message).help("write /path or @name"));
    }
    conf.target.put(node.arg(0).into(), node)
}
