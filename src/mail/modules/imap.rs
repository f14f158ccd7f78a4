//! IMAP to clients (`imap_*`).
//!
//! The dialogue is `dialogue/imap.rs`. Touches: nothing. Behaviour: nginx.org, ngx_mail_imap_module.

use crate::config::directive::{custom, size};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Setting, settings};
use crate::mail::modules::methods::{add, add_capabilities};
use crate::mail::modules::{BlockConf, Directive};
use crate::mail::protocol::Allowed;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        client_buffer: Setting<u64> = 4096,
        allowed: Vec<Allowed> => replace,
        capabilities: Vec<Box<str>> => replace,
    }
}

const POSSIBLE: &[Allowed] = &[Allowed::Plain, Allowed::Login, Allowed::CramMd5, Allowed::External];

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    size("imap_client_buffer", Context::IN_MAIL, |c| &mut c.client_buffer, "Limits the size of a client's command before it has logged in."),
    custom("imap_auth", Context::IN_MAIL, Arity::at_least(1), |c: &mut Conf, cx, node| add(&mut c.allowed, POSSIBLE, cx, node),
        "Lists the ways to log in that clients are told of: plain, login, cram-md5, external. LOGIN and AUTHENTICATE PLAIN and LOGIN always work.")
        .default("plain"),
    custom("imap_capabilities", Context::IN_MAIL, Arity::at_least(1), |c: &mut Conf, _, node| add_capabilities(&mut c.capabilities, node),
        "Lists what CAPABILITY tells clients, besides the ways to log in and STARTTLS.").default("IMAP4 IMAP4rev1 UIDPLUS"),
];

impl BlockConf for Conf {}

impl Conf {
    pub fn client_buffer_bytes(&self) -> usize {
        usize::try_from(self.client_buffer.get()).unwrap_or(usize::MAX)
    }

    pub fn allowed(&self) -> Vec<Allowed> {
        if self.allowed.is_empty() { vec![Allowed::Plain] } else { self.allowed.clone() }
    }

    /// Empty: the usual ones.
    pub fn capabilities(&self) -> &[Box<str>] {
        &self.capabilities
    }
}
