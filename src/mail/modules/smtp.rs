//! SMTP to clients (`smtp_*`).
//!
//! The dialogue is `dialogue/smtp.rs`. Touches: nothing. Behaviour: nginx.org, ngx_mail_smtp_module.

use crate::config::directive::{custom, millis, size};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Setting, settings};
use crate::mail::modules::methods::{add, add_capabilities};
use crate::mail::modules::{BlockConf, Directive};
use crate::mail::protocol::Allowed;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        client_buffer: Setting<u64> = 4096,
        greeting_delay: Setting<u64> = 0,
        allowed: Vec<Allowed> => replace,
        capabilities: Vec<Box<str>> => replace,
    }
}

const POSSIBLE: &[Allowed] =
    &[Allowed::Plain, Allowed::Login, Allowed::CramMd5, Allowed::External, Allowed::None];

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    size("smtp_client_buffer", Context::IN_MAIL, |c| &mut c.client_buffer, "Limits the size of a client's command before it has logged in."),
    millis("smtp_greeting_delay", Context::IN_MAIL, |c| &mut c.greeting_delay,
        "Delays the greeting; clients that do not wait for it are rejected. 0 disables this."),
    custom("smtp_auth", Context::IN_MAIL, Arity::at_least(1), |c: &mut Conf, cx, node| add(&mut c.allowed, POSSIBLE, cx, node),
        "Lists the ways to log in: plain, login, cram-md5, external; with none clients may send mail without logging in, if auth_http lets them.")
        .default("plain login"),
    custom("smtp_capabilities", Context::IN_MAIL, Arity::at_least(1), |c: &mut Conf, _, node| add_capabilities(&mut c.capabilities, node),
        "Lists what EHLO tells clients, besides the ways to log in and STARTTLS.").default("none"),
];

impl BlockConf for Conf {}

impl Conf {
    pub fn client_buffer_bytes(&self) -> usize {
        usize::try_from(self.client_buffer.get()).unwrap_or(usize::MAX)
    }

    /// 0: the greeting is not delayed.
    pub fn greeting_delay_ms(&self) -> u64 {
        self.greeting_delay.get()
    }

    pub fn allowed(&self) -> Vec<Allowed> {
        if self.allowed.is_empty() { vec![Allowed::Plain, Allowed::Login] } else { self.allowed.clone() }
    }

    pub fn capabilities(&self) -> &[Box<str>] {
        &self.capabilities
    }
}
