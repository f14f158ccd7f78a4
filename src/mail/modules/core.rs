//! Settings of every mail server that belong to no other module.
//!
//! Touches: nothing. Behaviour: nginx.org, ngx_mail_core_module, and `starttls` of ngx_mail_ssl_module.

use crate::config::directive::{custom, millis, number, one_of, text};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, Span, settings};
use crate::log::Logger;
use crate::mail::config::compile::Cx;
use crate::mail::dialogue::StartTls;
use crate::mail::modules::{BlockConf, Directive};
use crate::shared::error_log;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        error_log: error_log::Conf,
        server_name: Inherit<Box<str>>,
        timeout: Setting<u64> = 60_000,
        max_errors: Setting<u64> = 5,
        starttls: Setting<StartTls> = StartTls::Off,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("error_log", Context::IN_MAIL, Arity::at_least(1), set_error_log,
        "Sets where errors are logged, and from which level on. Several directives log to several places."),
    text("server_name", Context::IN_MAIL, |c: &mut Conf| &mut c.server_name,
        "Sets the name in greetings and challenges, and in HELO to SMTP servers.").default("the name of the host"),
    millis("timeout", Context::IN_MAIL, |c| &mut c.timeout,
        "Limits the time that a client has to log in, and then the time that logging in at its server may take."),
    number("max_errors", Context::IN_MAIL, (0, u32::MAX as u64), |c| &mut c.max_errors,
        "Closes a connection after this many lines that are no commands, before the client has logged in."),
    one_of("starttls", Context::IN_MAIL, |c| &mut c.starttls,
        "Lets clients begin TLS on a plain connection (STARTTLS, STLS): off, on, or only, which requires it before they log in."),
];

impl BlockConf for Conf {}

impl Conf {
    /// The error log in force.
    pub fn log(&self) -> Logger {
        self.error_log.log()
    }

    /// `None`: the host's name.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_ref().map(|name| &**name).filter(|name| !name.is_empty())
    }

    pub fn timeout_ms(&self) -> u64 {
        self.timeout.get()
    }

    pub fn errors_max(&self) -> u64 {
        self.max_errors.get()
    }

    pub fn starttls(&self) -> StartTls {
        self.starttls.get()
    }

    pub fn starttls_span(&self) -> Option<Span> {
        self.starttls.span()
    }
}

fn set_error_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.error_log.add(node, cx)
}
