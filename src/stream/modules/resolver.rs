//! The name servers for names that are looked up while serving (`resolver`, `resolver_timeout`).
//!
//! The settings are in `shared/resolver.rs`, the lookups in `net/resolver.rs`. Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_core_module.

use crate::config::directive::{custom, millis};
use crate::config::{Arity, Context, Diagnostic, Node};
use crate::shared::resolver;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;

pub type Conf = resolver::Conf;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("resolver", Context::IN_STREAM, Arity::at_least(1), resolver,
        "Sets the name servers, asked in turn, for names that are looked up while serving, with the parameters valid=, ipv4= and ipv6=; \
         status_zone= names the counts of its lookups. Without this directive the system's resolver is asked, which reads /etc/hosts too."),
    millis("resolver_timeout", Context::IN_STREAM, |conf| &mut conf.timeout, "Limits how long a session waits for a name to be resolved."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn resolver(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.set(node, cx)
}
