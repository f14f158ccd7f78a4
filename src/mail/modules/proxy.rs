//! Passing sessions on to the server of a client (`proxy_*`, `xclient`).
//!
//! `mail/upstream.rs` and `mail/relay.rs` use these settings. Touches: nothing.
//! Behaviour: nginx.org, ngx_mail_proxy_module.

use crate::config::directive::{Accepted, accepted, flag, millis, one_of, size};
use crate::config::{Arity, Context, Setting, keywords, settings};
use crate::mail::modules::{BlockConf, Directive};

/// `proxy_protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    Off,
    /// Version 1.
    On,
    V2,
}
keywords!(ProxyHeader { "off" => Off, "on" => On, "v2" => V2 });

settings! {
    #[derive(Debug)]
    pub struct Conf {
        buffer: Setting<u64> = 4096,
        timeout: Setting<u64> = 86_400_000,
        pass_error_message: Setting<bool> = false,
        xclient: Setting<bool> = true,
        smtp_auth: Setting<bool> = false,
        protocol: Setting<ProxyHeader> = ProxyHeader::Off,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    accepted("proxy", Context::IN_MAIL, Arity::exactly(1), Accepted::Flag, "Clients that may log in are always passed on."),
    size("proxy_buffer", Context::IN_MAIL, |c| &mut c.buffer, "Limits the size of a reply of the server while a client is being logged in there."),
    millis("proxy_timeout", Context::IN_MAIL, |c| &mut c.timeout, "Ends a session that has logged in after this time without a byte in either direction."),
    flag("proxy_pass_error_message", Context::IN_MAIL, |c| &mut c.pass_error_message,
        "Passes the reply of a server that refuses to log a client in on to the client, instead of an internal error."),
    flag("xclient", Context::IN_MAIL, |c| &mut c.xclient,
        "Tells SMTP servers the address and name of the client, and its login, by XCLIENT."),
    flag("proxy_smtp_auth", Context::IN_MAIL, |c| &mut c.smtp_auth, "Logs clients in at SMTP servers by AUTH PLAIN."),
    one_of("proxy_protocol", Context::IN_MAIL, |c| &mut c.protocol,
        "Sends servers a PROXY header that names the client: off, on for version 1, v2 for version 2."),
];

impl BlockConf for Conf {}

impl Conf {
    /// `proxy_buffer`
    pub fn buffer_bytes(&self) -> usize {
        usize::try_from(self.buffer.get()).unwrap_or(usize::MAX)
    }

    /// `proxy_timeout`
    pub fn timeout_ms(&self) -> u64 {
        self.timeout.get()
    }

    pub fn passes_error_message(&self) -> bool {
        self.pass_error_message.get()
    }

    pub fn sends_xclient(&self) -> bool {
        self.xclient.get()
    }

    /// `proxy_smtp_auth`
    pub fn logs_in_smtp(&self) -> bool {
        self.smtp_auth.get()
    }

    /// `proxy_protocol`
    pub fn header(&self) -> ProxyHeader {
        self.protocol.get()
    }
}
