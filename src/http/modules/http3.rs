//! The settings of HTTP/3 with clients, and of QUIC below it.
//!
//! Touches: the file of `quic_host_key`, when the configuration is read; `http/h3/` uses them.
//! Behaviour: nginx.org, ngx_http_v3_module.

use crate::config::directive::{Accepted, accepted, custom, flag, number, size};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::scope::Variable;
use crate::net::quic::Keys;
use crate::proto::h3::integer;
use crate::script::variable::variable;
use crate::shared::tls::Secured;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: Setting<bool> = true,
        max_concurrent_streams: Setting<u64> = 128,
        stream_buffer_size: Setting<u64> = 64 * 1024,
        abuse_limit: Setting<u64> = 1000,
        extended_connect: Setting<bool> = false,
        retry: Setting<bool> = false,
        gso: Setting<bool> = true,
        host_key: Inherit<Keys>,
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
    flag("http3", BOTH, |c| &mut c.is_on,
        "Lets clients speak HTTP/3 with this server at its listen with quic. Clients learn of it by add_header Alt-Svc 'h3=\":443\"; ma=86400'."),
    number("http3_max_concurrent_streams", BOTH, (1, 65_536), |c| &mut c.max_concurrent_streams,
        "Limits how many requests a connection may have at a time. Each of them takes 80 bytes even of an idle connection."),
    size("http3_stream_buffer_size", BOTH, |c| &mut c.stream_buffer_size,
        "Sets how much of a stream may arrive before it is read. Sixteen times as much of a connection's responses may wait to be acknowledged."),
    number("http3_abuse_limit", BOTH, (0, u32::MAX as u64), |c| &mut c.abuse_limit,
        "Limits how much work a client may make for nothing, in points: 4 for a request that it gives up, 50 for a malformed one. A request that is \
         served pays one point back, and time 20 a second. A connection beyond the limit is closed; 0 switches the limit off."),
    flag("http3_extended_connect", BOTH, |c| &mut c.extended_connect,
        "Takes WebSockets over HTTP/3 (RFC 9220); for the upstream they are the upgrade of HTTP/1.1. In force for an address by its default server."),
    flag("quic_retry", BOTH, |c| &mut c.retry,
        "Lets every new client prove its address by a Retry packet first, which costs a round trip. Without it that is asked while half as many handshakes \
         as ssl_handshakes_max are under way in a worker. In force for an address by its default server."),
    flag("quic_gso", BOTH, |c| &mut c.gso,
        "Sends equal datagrams as one burst, which the kernel or the device takes apart (UDP_SEGMENT). Where they cannot, datagrams \
         are sent one by one, as with off, at about three times the cost."),
    custom("quic_host_key", BOTH, ONE, |c: &mut Conf, cx, node| host_key(c, cx, node),
        "Takes the secret of connection IDs, tokens and stateless resets from a file of at least 32 bytes; without it a random one is \
         made at the start. Machines that share an address need the same.").default("random"),
    accepted("quic_active_connection_id_limit", BOTH, ONE, Accepted::Number, "Five connection IDs of a client are kept, which is what it is told."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("http3", |r, _, out| {
        if r.is_http3() {
            out.extend_from_slice(b"h3");
        }
        true
    }, "h3 for a request over HTTP/3; empty for other versions."),
];

/// The shortest secret.
const SECRET_BYTES_MIN: usize = 32;

fn host_key(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let path = cx.folder().join(node.arg(0));
    let refused = |why: String| Diagnostic::error(node.arg_span(0), why);
    let secret = std::fs::read(&path)
        .map_err(|error| refused(format!("cannot read \"{}\": {error}", path.display())))?;
    if secret.len() < SECRET_BYTES_MIN {
        return Err(refused(format!("\"{}\" has less than {SECRET_BYTES_MIN} bytes", path.display())));
    }
    conf.host_key.put(Keys::of_secret(&secret), node)
}

impl Conf {
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    pub fn max_concurrent_streams(&self) -> u32 {
        u32::try_from(self.max_concurrent_streams.get()).unwrap_or(u32::MAX)
    }

    /// Not 0, and at most the largest window of the protocol.
    pub fn stream_buffer_size(&self) -> u64 {
        self.stream_buffer_size.get().clamp(1024, integer::MAX >> 20)
    }

    /// 0: no limit.
    pub fn abuse_limit(&self) -> u32 {
        u32::try_from(self.abuse_limit.get()).unwrap_or(u32::MAX)
    }

    pub fn takes_connect(&self) -> bool {
        self.extended_connect.get()
    }

    pub fn retries(&self) -> bool {
        self.retry.get()
    }

    pub fn sends_bursts(&self) -> bool {
        self.gso.get()
    }

    /// The secret of the configuration, or that of the master.
    pub fn keys(&self) -> Keys {
        self.host_key.as_ref().cloned().unwrap_or_else(Keys::of_process)
    }
}
