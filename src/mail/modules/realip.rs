//! The client behind a trusted proxy (`set_real_ip_from`), as the PROXY header names it.
//!
//! Touches: nothing. Behaviour: nginx.org, ngx_mail_realip_module.

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::mail::config::compile::Cx;
use crate::mail::modules::{BlockConf, Directive};
use crate::shared::realip::Trusted;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// Proxies that are trusted to name the client.
        pub trusted: Trusted,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("set_real_ip_from", Context::IN_MAIL, Arity::exactly(1), trust,
        "Sets an address, network, host name or unix: whose PROXY header is trusted to tell the client's address."),
];

impl BlockConf for Conf {}

fn trust(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.trusted.add(node, cx)
}
