//! The beginning of a request whose head has arrived in a stream.
//!
//! Touches: the request. RFC 9113 §8.1, RFC 9114 §4.1; RFC 8441.

use std::rc::Rc;

use crate::http::Service;
use crate::http::begin::{self, Arrived};
use crate::http::config::server::Listen;
use crate::http::pipeline::Entry;
use crate::http::request::{Connection, Request, body};
use crate::http::streams::{Reader, tunnel};
use crate::log;
use crate::net::tls;
use crate::net::transport::Probe;
use crate::proto::h2::request as arrived;
use crate::proto::proxy_protocol;
use crate::runtime::buffer::Buffer;
use crate::sys::address::SockAddr;

/// Facts about a connection that each of its requests has.
#[derive(Debug)]
pub struct Facts {
    pub service: Service,
    pub listen: &'static Listen,
    pub number: u64,
    pub probe: Option<Probe>,
    pub peer: SockAddr,
    pub proxy: Option<Rc<proxy_protocol::Header>>,
    /// The result of the handshake, if it was complete when the connection began.
    pub tls: Option<Rc<tls::Info>>,
    pub local: SockAddr,
    pub opened_ms: u64,
}

/// A request that has begun.
pub struct Beginning {
    pub request: Box<Request>,
    /// How the pipeline is entered.
    pub entry: Entry,
    /// It asks for a tunnel (extended CONNECT).
    pub is_tunnel: bool,
    /// The stream is to end with an error of the protocol.
    pub is_malformed: bool,
}

impl Facts {
    /// Begins a request. `tls`: the handshake's result. `number`: of the request on its connection. `ends`: no body follows.
    /// `bytes`: the length of the head on the wire.
    pub fn begin(
        &self,
        tls: Option<Rc<tls::Info>>,
        request: arrived::Request,
        (ends, bytes, number): (bool, u32, u64),
        is_served: impl FnOnce(&Request) -> bool,
    ) -> Beginning {
        let arrived::Request { text, head, length, protocol, malformed } = request;
        let connection = || Connection {
            number: self.number,
            probe: self.probe,
            peer: self.peer.clone(),
            proxy: self.proxy.clone(),
            tls,
            local: self.local.clone(),
            listen: self.listen,
            requests: number,
            opened_ms: self.opened_ms,
            is_pipelined: false,
        };
        let declared = match &malformed {
            None => Ok(length),
            Some(malformed) => Err((malformed as &dyn std::fmt::Display, malformed.status())),
        };
        let (service, listen, input) = (self.service, self.listen, Buffer::of(text));
        let head = Arrived { service, listen, connection, input, head, declared, is_plain_instead: false };
        let begun = begin::request(head, |_, expects, _| match ends || protocol.is_some() {
            true => body::Reader::Nothing,
            false => body::Reader::Stream(Box::new(Reader::new(expects))),
        });
        let (mut request, entry) = match begun {
            // nginx's outcome: the connection was made for another server, which speaks this protocol
            Ok(request) if !is_served(&request) => {
                log::info!(
                    request.error_log(),
                    &request,
                    "client attempted to request the server name for which the negotiated protocol is disabled"
                );
                (request, Entry::Refused(421))
            }
            Ok(request) => (request, Entry::Client),
            Err((request, status)) => (request, Entry::Refused(status)),
        };
        request.set_head_length(bytes);
        if let Some(protocol) = &protocol {
            tunnel::ask(&mut request, protocol);
        }
        Beginning { request, entry, is_tunnel: protocol.is_some(), is_malformed: malformed.is_some() }
    }
}
