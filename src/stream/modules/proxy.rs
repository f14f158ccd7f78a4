//! Passing sessions on (`proxy_pass` and the directives about connections to upstreams).
//!
//! What is done with these settings is in `stream/proxy/`. Touches: nothing; the groups of peers are made after the whole
//! configuration has been read. Behaviour: nginx.org, ngx_stream_proxy_module.

use std::sync::Arc;

use crate::base::number::parse_size;
use crate::config::directive::{Accepted, accepted, custom, flag, millis, number, one_of, size};
use crate::config::inherit::{duplicate, own};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, Span, keywords, settings};
use crate::net::address::{self, Host};
use crate::net::connect;
use crate::net::pace::Pace;
use crate::script::value;
use crate::shared::bind::Bind;
use crate::shared::name::Prefix;
use crate::shared::tls::upstream;
use crate::shared::tls::upstream_rows::{self as tls, Secures};
use crate::stream::config::compile::Cx;
use crate::stream::config::server::Content;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::{Script, Variable};
use crate::stream::session::Session;
use crate::sys::buffers::Buffers;

/// Where connections go.
#[derive(Debug)]
pub enum Pass {
    /// Index of the group in the configuration's `Groups`.
    Fixed {
        group: usize,
        /// The host as it is written, without its port.
        name: Box<str>,
    },
    /// Evaluated for each session.
    Script(Script),
}

/// The version of the PROXY header for upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderVersion {
    One,
    Two,
}
keywords!(HeaderVersion { "1" => One, "2" => Two });

/// The PROXY header for upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProxyHeader {
    Off,
    /// In the version of `proxy_protocol_version`.
    On,
    V2,
}
keywords!(ProxyHeader { "off" => Off, "on" => On, "v2" => V2 });

/// TLS to the upstreams of a server.
pub type Layer = upstream::Layer<Session>;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pass: Option<Pass> => own,
        bind: Inherit<Bind<Session>>,
        bind_dynamic: Setting<bool> = false,
        connect_timeout: Setting<u64> = 60_000,
        timeout: Setting<u64> = 600_000,
        /// Read as nginx's; memory is taken as needed.
        buffer_size: Setting<u64> = 16 * 1024,
        half_close: Setting<bool> = false,
        session_drop: Setting<bool> = false,
        next_upstream: Setting<bool> = true,
        next_upstream_tries: Setting<u64> = 0,
        next_upstream_timeout: Setting<u64> = 0,
        proxy_protocol: Setting<ProxyHeader> = ProxyHeader::Off,
        proxy_protocol_version: Setting<HeaderVersion> = HeaderVersion::One,
        socket_keepalive: Setting<bool> = false,
        socket_rcvbuf: Setting<u64> = 0,
        socket_sndbuf: Setting<u64> = 0,
        requests: Setting<u64> = 0,
        responses: Setting<u64> = NO_RESPONSES,
        upload_rate: Inherit<Script>,
        download_rate: Inherit<Script>,
        ssl: Setting<bool> = false,
        /// The directives of TLS.
        tls: upstream::Settings<Session>,
        /// TLS to the upstreams of a server.
        layer: Option<Arc<Layer>> => own,
    }
}

/// Stands for `proxy_responses` that is not given.
const NO_RESPONSES: u64 = u64::MAX;

const BOTH: Context = Context::IN_STREAM;
const ONE: Arity = Arity::exactly(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("proxy_pass", Context::STREAM_SERVER, ONE, proxy_pass,
        "Passes connections to a server or a group of servers: host:port, unix:/path or the name of an upstream block; it may have variables."),
    custom("proxy_bind", BOTH, Arity::between(1, 2), bind,
        "Sets the local address of connections to upstreams, with an optional port. With transparent it may be any address, such as \
         $remote_addr.").default("off"),
    flag("proxy_bind_dynamic", BOTH, |c| &mut c.bind_dynamic,
        "Evaluates the variables of proxy_bind for each server that is tried, instead of once for a session."),
    millis("proxy_connect_timeout", BOTH, |c| &mut c.connect_timeout, "Limits the time for connecting to an upstream."),
    millis("proxy_timeout", BOTH, |c| &mut c.timeout, "Ends a session after this time without a byte in either direction."),
    size("proxy_buffer_size", BOTH, |c| &mut c.buffer_size, "Accepted as in nginx; a direction holds up to 16k, or a pipe of the kernel."),
    accepted("proxy_downstream_buffer", BOTH, ONE, Accepted::Size, "An old name of proxy_buffer_size, which has no effect either."),
    accepted("proxy_upstream_buffer", BOTH, ONE, Accepted::Size, "An old name of proxy_buffer_size, which has no effect either."),
    flag("proxy_half_close", BOTH, |c| &mut c.half_close,
        "Lets each direction of a session end on its own. With off the first side that closes ends the session."),
    flag("proxy_session_drop", BOTH, |c| &mut c.session_drop,
        "Ends a session whose server was removed from its group, is down by an operator's order, or is unhealthy by its checks. The session ends when \
         the next bytes come from either side."),
    flag("proxy_next_upstream", BOTH, |c| &mut c.next_upstream, "Tries another server if a connection cannot be made."),
    number("proxy_next_upstream_tries", BOTH, (0, u32::MAX as u64), |c| &mut c.next_upstream_tries,
        "Limits how many servers are tried for one session; 0 tries all."),
    millis("proxy_next_upstream_timeout", BOTH, |c| &mut c.next_upstream_timeout,
        "Limits the time during which another server may be tried; 0 sets no limit."),
    one_of("proxy_protocol", BOTH, |c| &mut c.proxy_protocol,
        "Sends upstreams a PROXY header that names the client: off, on for the version that proxy_protocol_version sets, v2 for version 2."),
    one_of("proxy_protocol_version", BOTH, |c| &mut c.proxy_protocol_version,
        "Sets the version of the header that proxy_protocol on sends: 1, a line of text, or 2, binary."),
    flag("proxy_socket_keepalive", BOTH, |c| &mut c.socket_keepalive, "Sends TCP keepalive probes to upstreams."),
    size("proxy_socket_rcvbuf", BOTH, |c| &mut c.socket_rcvbuf,
        "Sets the size of the receive buffer (SO_RCVBUF) of connections to upstreams, at most net.core.rmem_max; 0: the kernel chooses it, and lets it \
         grow as needed."),
    size("proxy_socket_sndbuf", BOTH, |c| &mut c.socket_sndbuf,
        "Sets the size of the send buffer (SO_SNDBUF) of connections to upstreams, at most net.core.wmem_max; 0: the kernel chooses it, and lets it \
         grow as needed."),
    number("proxy_requests", BOTH, (0, i32::MAX as u64), |c| &mut c.requests,
        "Sets how many datagrams of a client belong to a session; the next one begins another. 0 sets no limit."),
    number("proxy_responses", BOTH, (0, i32::MAX as u64), |c: &mut Conf| &mut c.responses,
        "Sets how many datagrams an upstream answers with to each one of the client; the session is over when all have come. 0: none is expected.")
        .default("no limit"),
    custom("proxy_upload_rate", BOTH, ONE, |c: &mut Conf, cx, node| rate(&mut c.upload_rate, cx, node),
        "Limits the rate at which a client's bytes are read, in bytes a second; 0 sets no limit. The value may have variables.").default("0"),
    custom("proxy_download_rate", BOTH, ONE, |c: &mut Conf, cx, node| rate(&mut c.download_rate, cx, node),
        "Limits the rate at which an upstream's bytes are read, in bytes a second; 0 sets no limit. The value may have variables.").default("0"),
    flag("proxy_ssl", BOTH, |c| &mut c.ssl, "Encrypts connections to upstreams with TLS."),
    tls::session_reuse("proxy_ssl_session_reuse", BOTH),
    tls::protocols("proxy_ssl_protocols", BOTH),
    tls::ciphers("proxy_ssl_ciphers", BOTH),
    tls::conf_command("proxy_ssl_conf_command", BOTH),
    tls::name("proxy_ssl_name", BOTH, "Sets the name that the upstream's certificate must be for, and that is sent with proxy_ssl_server_name.",
        "the host of proxy_pass"),
    tls::server_name("proxy_ssl_server_name", BOTH),
    tls::verify("proxy_ssl_verify", BOTH,
        "Checks upstreams' certificates with proxy_ssl_trusted_certificate; a server whose certificate is refused counts as failed."),
    tls::verify_depth("proxy_ssl_verify_depth", BOTH),
    tls::trusted_certificate("proxy_ssl_trusted_certificate", BOTH),
    tls::crl("proxy_ssl_crl", BOTH),
    tls::certificate("proxy_ssl_certificate", BOTH),
    tls::certificate_key("proxy_ssl_certificate_key", BOTH),
    tls::certificate_caches("proxy_ssl_certificate_cache", BOTH),
    tls::password_file("proxy_ssl_password_file", BOTH),
    tls::key_log("proxy_ssl_key_log", BOTH),
    tls::alpn("proxy_ssl_alpn", BOTH),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        if !self.ssl.get() {
            return;
        }
        let host = match &self.pass {
            None => return,
            Some(Pass::Fixed { name, .. }) => Some(&**name),
            Some(Pass::Script(_)) => None,
        };
        let span = self.ssl.span().unwrap_or_default();
        self.layer = self.tls.layer(PREFIX, (host, None), span, cx);
    }
}

impl Secures for Conf {
    type Scope = Session;

    fn tls(&mut self) -> &mut upstream::Settings<Session> {
        &mut self.tls
    }
}

/// What the names of the directives begin with.
pub const PREFIX: Prefix = Prefix("proxy_");

impl Conf {
    pub fn pass(&self) -> Option<&Pass> {
        self.pass.as_ref()
    }

    pub fn connect_timeout_ms(&self) -> u64 {
        self.connect_timeout.get()
    }

    /// `proxy_timeout`
    pub fn timeout_ms(&self) -> u64 {
        self.timeout.get()
    }

    pub fn half_close(&self) -> bool {
        self.half_close.get()
    }

    /// `proxy_session_drop`
    pub fn drops_sessions(&self) -> bool {
        self.session_drop.get()
    }

    /// `proxy_requests`; 0: no limit.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// `proxy_responses`; `None`: any number.
    pub fn responses(&self) -> Option<u64> {
        Some(self.responses.get()).filter(|count| *count != NO_RESPONSES)
    }

    pub fn next_upstream(&self) -> bool {
        self.next_upstream.get()
    }

    /// `proxy_ssl`
    pub fn is_encrypting(&self) -> bool {
        self.ssl.get()
    }

    /// TLS to the servers of a group for connections that no server makes. `None`: an error was reported.
    pub fn layer_of_group(&self, span: Span, cx: &mut Cx) -> Option<Arc<Layer>> {
        self.tls.layer(PREFIX, (None, None), span, cx)
    }

    /// TLS to upstreams; `None`: connections are plain.
    pub fn layer(&self) -> Option<&Layer> {
        self.layer.as_deref()
    }

    /// 0: all.
    pub fn next_upstream_tries(&self) -> u32 {
        u32::try_from(self.next_upstream_tries.get()).unwrap_or(u32::MAX)
    }

    /// 0: no limit.
    pub fn next_upstream_timeout_ms(&self) -> u64 {
        self.next_upstream_timeout.get()
    }

    /// `None`: no header is sent.
    pub fn header_version(&self) -> Option<HeaderVersion> {
        match self.proxy_protocol.get() {
            ProxyHeader::Off => None,
            ProxyHeader::On => Some(self.proxy_protocol_version.get()),
            ProxyHeader::V2 => Some(HeaderVersion::Two),
        }
    }

    /// True if the local address is evaluated for each server.
    pub fn binds_anew(&self) -> bool {
        self.bind_dynamic.get() && self.bind.as_ref().is_some_and(Bind::is_evaluated)
    }

    /// True if the name for TLS has variables, which may be those of the server that was chosen.
    pub fn names_depend_on_peer(&self) -> bool {
        self.tls.name.as_ref().is_some_and(|name| name.as_text().is_none())
    }

    /// The options of a session's connections.
    pub fn connect_options(&self, session: &mut Session) -> connect::Options {
        let (fixed, is_transparent) = self.bind.as_ref().map_or((None, false), Bind::fixed);
        let own = self.bind.as_ref().and_then(|bind| bind.evaluate(session));
        connect::Options {
            bind: fixed.or(own),
            is_transparent,
            probes: self.socket_keepalive.get(),
            is_datagram: session.is_udp(),
            speaks_first: false,
            buffers: Buffers::new(self.socket_rcvbuf.get(), self.socket_sndbuf.get()),
        }
    }

    /// The rates of both directions: from the client, and to it.
    pub fn paces(&self, session: &mut Session) -> (Option<Pace>, Option<Pace>) {
        let pace = |script: &Inherit<Script>, session: &mut Session| {
            let value = script.as_ref()?.to_vec(session);
            let text = std::str::from_utf8(&value).ok()?;
            Pace::by_turns(parse_size(text)?)
        };
        (pace(&self.upload_rate, session), pace(&self.download_rate, session))
    }
}

/// The parts of a destination as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As written, without the port; `unix:/path` for a unix socket.
    pub name: Box<str>,
    /// `None`: none is written.
    pub port: Option<u16>,
    pub host: Host,
}

impl Destination {
    /// Reads `host:port`, `unix:/path`, or the name of a group. Errors: nginx's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let host = address::parse_upstream(text, 0).map_err(|bad| format!("{bad} in upstream \"{text}\""))?;
        let port = match &host {
            Host::Inet { port, .. } => Some(*port).filter(|port| *port != 0),
            Host::Unix(_) => None,
        };
        let name = match port {
            Some(_) => text.rsplit_once(':').map_or(text, |(name, _)| name),
            None => text,
        };
        Ok(Self { name: name.into(), port, host })
    }

    /// True if it can only be the name of a group.
    pub fn is_portless(&self) -> bool {
        self.port.is_none() && matches!(self.host, Host::Inet { .. })
    }
}

fn proxy_pass(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if conf.pass.is_some() {
        return Err(duplicate(node));
    }
    let word = &node.args[0];
    cx.set_content(Content::Proxy);
    conf.pass = Some(if value::has_variables(&word.text) {
        cx.has_passes_of_variables = true;
        Pass::Script(Script::compile(word, cx)?)
    } else {
        let target = Destination::parse(&word.text).map_err(|why| Diagnostic::error(word.span, why))?;
        let Destination { name, port, host } = target;
        Pass::Fixed { group: cx.upstreams.reference(&name, port, false, host, word.span), name }
    });
    Ok(())
}

fn bind(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let bind = Bind::read(node, cx)?;
    cx.is_transparent |= bind.is_transparent();
    conf.bind.put(bind, node)
}

fn rate(slot: &mut Inherit<Script>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    if !value::has_variables(text) && parse_size(text).is_none() {
        return Err(Diagnostic::error(node.arg_span(0), format!("invalid value \"{text}\"")));
    }
    slot.put(Script::compile(&node.args[0], cx)?, node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_name_and_perhaps_a_port() {
        let shown = |text: &str| match Destination::parse(text) {
            Ok(target) => format!("{} {:?} {}", target.name, target.port, target.is_portless()),
            Err(why) => why,
        };
        for (text, expected) in [
            ("127.0.0.1:80", "127.0.0.1 Some(80) false"),
            ("[::1]:80", "[::1] Some(80) false"),
            ("backend", "backend None true"),
            ("[::1]", "[::1] None true"),
            ("unix:/run/a.sock", "unix:/run/a.sock None false"),
            (":80", "no host in upstream \":80\""),
            ("a:0", "invalid port in upstream \"a:0\""),
            ("", "no host in upstream \"\""),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
