//! Settings of every server that belong to no other module, and the variables of a session.
//!
//! Touches: nothing. Behaviour: nginx.org, ngx_stream_core_module.

use std::io::Write;

use crate::config::directive::{Accepted, accepted, custom, millis, size};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::log::Logger;
use crate::script::variable::variable;
use crate::shared::error_log;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        error_log: error_log::Conf,
        preread_buffer_size: Setting<u64> = 16 * 1024,
        preread_timeout: Setting<u64> = 30_000,
        proxy_protocol_timeout: Setting<u64> = 30_000,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("error_log", Context::IN_STREAM, Arity::at_least(1), set_error_log,
        "Sets where errors are logged, and from which level on. Several directives log to several places."),
    size("preread_buffer_size", Context::IN_STREAM, |c| &mut c.preread_buffer_size,
        "Limits how many bytes of a client are read before it is known where they go."),
    millis("preread_timeout", Context::IN_STREAM, |c| &mut c.preread_timeout, "Limits the time for that."),
    millis("proxy_protocol_timeout", Context::IN_STREAM, |c| &mut c.proxy_protocol_timeout, "Limits the time in which the PROXY header must arrive."),
    accepted("tcp_nodelay", Context::IN_STREAM, Arity::exactly(1), Accepted::Flag, "Data is never held back to fill a packet.").default("on"),
    accepted("variables_hash_max_size", Context::STREAM, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("variables_hash_bucket_size", Context::STREAM, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("server_names_hash_max_size", Context::STREAM, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("server_names_hash_bucket_size", Context::STREAM, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("server_name", |s, _, out| { out.extend_from_slice(s.server.name().as_bytes()); true }, "The first name of the server that handles the session."),
    variable("protocol", |s, _, out| { out.extend_from_slice(if s.is_udp() { b"UDP" } else { b"TCP" }); true }, "The protocol of the session: TCP or UDP."),
    variable("status", |s, _, out| write!(out, "{:03}", s.status).is_ok(),
        "The status of the session: 200 if it went well, 400 for a client that cannot be understood, 403 if access is denied, 500 for a fault of ours, 502 if \
         no upstream could be reached, 503 if a limit was exceeded."),
    variable("bytes_received", |s, _, out| write!(out, "{}", s.received).is_ok(), "The number of bytes received from the client."),
    variable("bytes_sent", |s, _, out| write!(out, "{}", s.sent).is_ok(), "The number of bytes sent to the client."),
    variable("session_time", |s, _, out| { let ms = s.elapsed_ms(); write!(out, "{}.{:03}", ms / 1000, ms % 1000).is_ok() },
        "The duration of the session, in seconds."),
];

impl BlockConf for Conf {}

impl Conf {
    /// The error log in force.
    pub fn log(&self) -> Logger {
        self.error_log.log()
    }

    /// `preread_buffer_size`
    pub fn preread_bytes_max(&self) -> usize {
        usize::try_from(self.preread_buffer_size.get()).unwrap_or(usize::MAX)
    }

    pub fn preread_timeout_ms(&self) -> u64 {
        self.preread_timeout.get()
    }

    pub fn proxy_protocol_timeout_ms(&self) -> u64 {
        self.proxy_protocol_timeout.get()
    }
}

fn set_error_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.error_log.add(node, cx)
}
