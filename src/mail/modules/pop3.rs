//! POP3 to clients (`pop3_*`).
//!
//! The dialogue is `dialogue/pop3.rs`. Touches: nothing. Behaviour: nginx.org, ngx_mail_pop3_module.

use crate::config::directive::custom;
use crate::config::inherit::replace;
use crate::config::{Arity, Context, settings};
use crate::mail::modules::methods::{add, add_capabilities};
use crate::mail::modules::{BlockConf, Directive};
use crate::mail::protocol::Allowed;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        allowed: Vec<Allowed> => replace,
        capabilities: Vec<Box<str>> => replace,
    }
}

const POSSIBLE: &[Allowed] = &[Allowed::Plain, Allowed::Apop, Allowed::CramMd5, Allowed::External];

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("pop3_auth", Context::IN_MAIL, Arity::at_least(1), |c: &mut Conf, cx, node| add(&mut c.allowed, POSSIBLE, cx, node),
        "Lists the ways to log in: plain, apop, cram-md5, external. USER and PASS, and AUTH PLAIN and LOGIN, always work.").default("plain"),
    custom("pop3_capabilities", Context::IN_MAIL, Arity::at_least(1), |c: &mut Conf, _, node| add_capabilities(&mut c.capabilities, node),
        "Lists what CAPA tells clients, besides the ways to log in and STLS.").default("TOP USER UIDL"),
];

impl BlockConf for Conf {}

impl Conf {
    pub fn allowed(&self) -> Vec<Allowed> {
        if self.allowed.is_empty() { vec![Allowed::Plain] } else { self.allowed.clone() }
    }

    /// Empty: the usual ones.
    pub fn capabilities(&self) -> &[Box<str>] {
        &self.capabilities
    }
}
