//! The variables of any client's connection, and those of the process and the clock.
//!
//! Touches: the clock for `$msec` and its kind; the client's socket for `$tcpinfo_…`.
//! Behaviour: nginx.org, ngx_http_core_module and ngx_stream_core_module, "Embedded Variables".

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::log::{self, format};
use crate::net::tls::Info;
use crate::net::transport::Probe;
use crate::proto::proxy_protocol::{Header, Tlv};
use crate::script::Scope;
use crate::script::variable::{Argument, Variable, prefix, variable};
use crate::sys::address::{SockAddr, write_ip};
use crate::sys::clock;
use crate::sys::names;
use crate::sys::socket::TcpInfo;

type Out<'a> = &'a mut Vec<u8>;

/// A scope that belongs to a client's connection.
pub trait Connected: Scope {
    /// The serial number of the connection.
    fn number(&self) -> u64;

    /// The address that the client connected to.
    fn local(&self) -> &SockAddr;

    /// The header of a proxy in front, if the listener asks for one.
    fn proxy_header(&self) -> Option<&Header>;

    /// To ask the kernel about the connection.
    fn probe(&self) -> Option<Probe>;

    /// The result of the client's TLS handshake; `None`: the connection is plain.
    fn tls(&self) -> Option<&Info>;
}

/// The rows, for a language part's table of variables.
#[rustfmt::skip]
pub const fn variables<S: Connected>() -> [Variable<S>; 22] {
    [
        variable("server_addr", server_addr, "The address that accepted the connection."),
        variable("server_port", |s, _, out| port(s.local().port(), out), "The port that accepted the connection."),
        variable("remote_addr", remote_addr, "The client's address."),
        variable("remote_port", |s, _, out| port(s.peer().port(), out), "The client's port."),
        variable("proxy_protocol_addr", |s, _, out| proxy_address(s, |(source, _)| source, out), "The client's address from the PROXY header."),
        variable("proxy_protocol_port", |s, _, out| proxy_port(s, |(source, _)| source, out), "The client's port from the PROXY header."),
        variable("proxy_protocol_server_addr", |s, _, out| proxy_address(s, |(_, target)| target, out),
            "The address that the client connected to, from the PROXY header."),
        variable("proxy_protocol_server_port", |s, _, out| proxy_port(s, |(_, target)| target, out),
            "The port that the client connected to, from the PROXY header."),
        prefix("proxy_protocol_tlv_", proxy_tlv, "The TLV of this name or number from the PROXY header."),
        variable("binary_remote_addr", binary_remote_addr, "The client's address in binary form, 4 or 16 bytes, for keys."),
        variable("connection", |s, _, out| decimal(s.number(), out), "The serial number of the connection, unique within its worker."),
        variable("tcpinfo_rtt", |s, _, out| tcp_info(s, |info| info.rtt_us, out), "The round trip time of the client's connection, in microseconds."),
        variable("tcpinfo_rttvar", |s, _, out| tcp_info(s, |info| info.rtt_variance_us, out),
            "The variance of the round trip time of the client's connection, in microseconds."),
        variable("tcpinfo_snd_cwnd", |s, _, out| tcp_info(s, |info| info.congestion_window, out),
            "The congestion window of the client's connection, in segments."),
        variable("tcpinfo_rcv_space", |s, _, out| tcp_info(s, |info| info.receive_space, out), "The receive window of the client's connection, in bytes."),
        variable("hostname", |_, _, out| text(names::hostname().as_bytes(), out), "The host name of the machine."),
        variable("pid", |_, _, out| decimal(std::process::id() as u64, out), "The process id of the worker."),
        variable("msec", |_, _, out| now(|secs, nanos, out| { format::msec(secs, nanos, out); }, out),
            "The current time in seconds since 1970, with milliseconds."),
        variable("time_local", |_, _, out| now(|secs, _, out| format::time_local(secs, out), out), "The local time, such as 31/Jan/2026:23:59:59 +0000."),
        variable("time_iso8601", |_, _, out| now(|secs, _, out| format::time_iso8601(secs, out), out),
            "The local time, such as 2026-01-31T23:59:59+00:00."),
        variable("nginx_version", |_, _, out| text(env!("CARGO_PKG_VERSION").as_bytes(), out), "The version of pronghorn."),
        variable("pronghorn_version", |_, _, out| text(env!("CARGO_PKG_VERSION").as_bytes(), out), "The version of pronghorn."),
    ]
}

fn text(value: &[u8], out: Out) -> bool {
    out.extend_from_slice(value);
    true
}

fn decimal(value: u64, out: Out) -> bool {
    text(itoa::Buffer::new().format(value).as_bytes(), out)
}

fn address(ip: IpAddr, out: Out) -> bool {
    write_ip(ip, out);
    true
}

fn port(port: Option<u16>, out: Out) -> bool {
    match port {
        Some(port) if port != 0 => decimal(u64::from(port), out),
        _ => true, // unknown: a unix socket, or a proxy that sent only the address
    }
}

fn server_addr<S: Connected>(scope: &mut S, _: &Argument, out: Out) -> bool {
    match scope.local().ip() {
        Some(ip) => address(ip, out),
        None => write!(out, "{}", scope.local()).is_ok(),
    }
}

fn remote_addr<S: Connected>(scope: &mut S, _: &Argument, out: Out) -> bool {
    client_address(scope.peer(), out)
}

/// The address of a client: `unix:` for all unix sockets.
pub fn client_address(client: &SockAddr, out: Out) -> bool {
    match client.ip() {
        Some(ip) => address(ip, out),
        None => text(b"unix:", out),
    }
}

fn binary_remote_addr<S: Connected>(scope: &mut S, _: &Argument, out: Out) -> bool {
    match scope.peer().ip() {
        Some(IpAddr::V4(ip)) => text(&ip.octets(), out),
        Some(IpAddr::V6(ip)) => text(&ip.octets(), out),
        None => text(b"unix:", out),
    }
}

type Pick = fn((SocketAddr, SocketAddr)) -> SocketAddr;

fn proxy_address<S: Connected>(scope: &S, which: Pick, out: Out) -> bool {
    let both = scope.proxy_header().and_then(|header| header.addresses);
    both.is_some_and(|both| address(which(both).ip(), out))
}

fn proxy_port<S: Connected>(scope: &S, which: Pick, out: Out) -> bool {
    let both = scope.proxy_header().and_then(|header| header.addresses);
    both.is_some_and(|both| decimal(u64::from(which(both).port()), out))
}

fn proxy_tlv<S: Connected>(scope: &mut S, argument: &Argument, out: Out) -> bool {
    let header = scope.proxy_header().filter(|header| header.addresses.is_some());
    match (header, Tlv::of(&argument.name)) {
        (Some(header), Some(tlv)) => header.write_tlv(tlv, out),
        (Some(_), None) => {
            log::error!(scope.logger(), &*scope, "unknown PROXY protocol TLV \"{}\"", argument.name);
            false
        }
        (None, _) => false,
    }
}

/// The kernel's information about the client's connection; no value unless it is TCP.
fn tcp_info<S: Connected>(scope: &S, word: fn(&TcpInfo) -> u32, out: Out) -> bool {
    let info = scope.probe().and_then(Probe::tcp_info);
    info.is_some_and(|info| decimal(u64::from(word(&info)), out))
}

fn now(render: fn(i64, u32, Out), out: Out) -> bool {
    let (secs, nanos) = clock::wall();
    render(secs, nanos, out);
    true
}
