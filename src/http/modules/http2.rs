//! The settings of HTTP/2 with clients.
//!
//! Touches: nothing; `http/h2/` uses them.
//! Behaviour: nginx.org, ngx_http_v2_module.

use crate::config::directive::{Accepted, accepted, custom, flag, number, size};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::scope::Variable;
use crate::proto::h2::frame::{PAYLOAD_LIMIT, WINDOW_MAX};
use crate::script::variable::variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: Setting<bool> = false,
        max_concurrent_streams: Setting<u64> = 128,
        body_preread_size: Setting<u64> = 64 * 1024,
        chunk_size: Setting<u64> = 8 * 1024,
        abuse_limit: Setting<u64> = 1000,
        extended_connect: Setting<bool> = false,
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        false
    }
}

const BOTH: Context = Context::HTTP.or(Context::SERVER);
const ONE: Arity = Arity::exactly(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("http2", BOTH, |c| &mut c.is_on,
        "Lets clients speak HTTP/2: by ALPN over TLS, without TLS if they begin with it. The server is the one that the handshake leads to, or the default \
         server of the address."),
    number("http2_max_concurrent_streams", BOTH, (1, u32::MAX as u64), |c| &mut c.max_concurrent_streams,
        "Limits how many requests a connection may have at a time. Further ones are refused, and their clients may send them again."),
    size("http2_body_preread_size", BOTH, |c| &mut c.body_preread_size,
        "Sets how much of a request's body may arrive before it is read."),
    size("http2_chunk_size", Context::ANY, |c| &mut c.chunk_size, "Sets the largest frame of data in a response."),
    number("http2_abuse_limit", BOTH, (0, u32::MAX as u64), |c| &mut c.abuse_limit,
        "Limits how much work a client may make for nothing, in points: 1 for a PING, PRIORITY, WINDOW_UPDATE or CONTINUATION frame, 2 for an empty DATA \
         frame, 4 for SETTINGS, for a request that it gives up and for one beyond http2_max_concurrent_streams, 8 for an error on a stream, 50 for a malformed \
         request. Useful work and time pay points back, 20 a second. A connection beyond the limit is closed; 0 switches the limit off."),
    flag("http2_extended_connect", BOTH, |c| &mut c.extended_connect,
        "Lets clients open WebSockets in streams (RFC 8441). For the configuration and the upstream such a request is a GET with Upgrade, as from a client of \
         HTTP/1.1."),
    accepted("http2_recv_buffer_size", Context::HTTP, ONE, Accepted::Size, "Data is read into a buffer of the worker's pool."),
    accepted("http2_pool_size", BOTH, ONE, Accepted::Size, "Memory comes from the allocator."),
    accepted("http2_streams_index_size", BOTH, ONE, Accepted::Number, "Streams are found without an index."),
    custom("http2_recv_timeout", BOTH, ONE, |_: &mut Conf, cx, node| replaced(cx, node, "client_header_timeout"),
        "Obsolete, and without effect: client_header_timeout is in force."),
    custom("http2_idle_timeout", BOTH, ONE, |_: &mut Conf, cx, node| replaced(cx, node, "keepalive_timeout"),
        "Obsolete, and without effect: keepalive_timeout is in force."),
    custom("http2_max_requests", BOTH, ONE, |_: &mut Conf, cx, node| replaced(cx, node, "keepalive_requests"),
        "Obsolete, and without effect: keepalive_requests is in force."),
    custom("http2_max_field_size", BOTH, ONE, |_: &mut Conf, cx, node| replaced(cx, node, "large_client_header_buffers"),
        "Obsolete, and without effect: large_client_header_buffers is in force."),
    custom("http2_max_header_size", BOTH, ONE, |_: &mut Conf, cx, node| replaced(cx, node, "large_client_header_buffers"),
        "Obsolete, and without effect: large_client_header_buffers is in force."),
    custom("http2_max_concurrent_pushes", BOTH, ONE, |_: &mut Conf, cx, node| obsolete(cx, node),
        "Obsolete, and without effect: browsers take no pushes any more."),
    custom("http2_push", Context::ANY, Arity::at_least(1), |_: &mut Conf, cx, node| obsolete(cx, node),
        "Obsolete, and without effect: browsers take no pushes any more. See early_hints."),
    custom("http2_push_preload", Context::ANY, ONE, |_: &mut Conf, cx, node| obsolete(cx, node),
        "Obsolete, and without effect: browsers take no pushes any more. See early_hints."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("http2", |r, _, out| {
        if r.is_http2() {
            out.extend_from_slice(if r.connection.tls.is_some() { b"h2" } else { b"h2c" });
        }
        true
    }, "The HTTP/2 protocol of the request: h2 over TLS, h2c without; empty for other versions."),
];

/// nginx's warning.
fn replaced(cx: &mut Cx, node: &Node, by: &str) -> Result<(), Diagnostic> {
    let message =
        format!("the \"{}\" directive is obsolete, use the \"{by}\" directive instead", node.name.text);
    cx.diagnostics.push(Diagnostic::warning(node.span, message));
    Ok(())
}

/// nginx's warning.
fn obsolete(cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let message = format!("the \"{}\" directive is obsolete, ignored", node.name.text);
    cx.diagnostics.push(Diagnostic::warning(node.span, message));
    Ok(())
}

impl Conf {
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    pub fn max_concurrent_streams(&self) -> u32 {
        u32::try_from(self.max_concurrent_streams.get()).unwrap_or(u32::MAX)
    }

    /// At most the largest window of the protocol.
    pub fn body_preread_size(&self) -> u32 {
        u32::try_from(self.body_preread_size.get()).unwrap_or(u32::MAX).min(WINDOW_MAX)
    }

    /// Not 0, and at most the longest frame of the protocol.
    pub fn chunk_size(&self) -> usize {
        self.chunk_size.get().clamp(1, u64::from(PAYLOAD_LIMIT)) as usize
    }

    pub fn takes_connect(&self) -> bool {
        self.extended_connect.get()
    }

    /// 0: no limit.
    pub fn abuse_limit(&self) -> u32 {
        u32::try_from(self.abuse_limit.get()).unwrap_or(u32::MAX)
    }
}
