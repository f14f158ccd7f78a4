//! The name servers that SMTP servers ask for the names of their clients (`resolver`, `resolver_timeout`).
//!
//! The settings are in `shared/resolver.rs`, the lookups in `net/resolver.rs`. Touches: nothing.
//! Behaviour: nginx.org, ngx_mail_core_module.

use crate::config::directive::{custom, millis};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::mail::config::compile::Cx;
use crate::mail::modules::{BlockConf, Directive};
use crate::shared::resolver;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pub servers: resolver::Conf,
        off: Inherit<()>,
    }
    then inherit_off
}

/// A block with name servers of its own asks them, whatever the outer one says.
fn inherit_off(conf: &mut Conf, outer: &Conf) {
    let own = conf.servers.settings().map(std::sync::Arc::as_ptr);
    let inherited = outer.servers.settings().map(std::sync::Arc::as_ptr);
    if own.is_some() && own != inherited {
        conf.off = Inherit::default();
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("resolver", Context::IN_MAIL, Arity::at_least(1), resolver,
        "Sets the name servers, asked in turn, for the names of SMTP clients, which auth_http and XCLIENT are told; with the parameters valid=, ipv4= \
         and ipv6=; status_zone= names the counts of its lookups. With off, or without this directive, no names are looked up.").default("off"),
    millis("resolver_timeout", Context::IN_MAIL, |conf| &mut conf.servers.timeout, "Limits how long a client waits for its name to be resolved."),
];

impl BlockConf for Conf {}

impl Conf {
    /// The name servers; `None`: no names are looked up.
    pub fn settings(&self) -> Option<&std::sync::Arc<crate::net::resolver::Settings>> {
        self.servers.settings().filter(|_| !self.off.is_set())
    }
}

fn resolver(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.args.len() == 1 && node.arg(0) == "off" {
        return conf.off.put((), node);
    }
    conf.servers.set(node, cx)
}
