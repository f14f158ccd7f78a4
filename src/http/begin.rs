//! The beginning of a request, whatever protocol its head came by: its server, its URI, its body, and whether it is
//! served at all.
//!
//! Touches: the request.
//! Behaviour: nginx.org, ngx_http_core_module (`server_name`); RFC 9110 §7.4.

use std::fmt;

use crate::http::Service;
use crate::http::config::server::Listen;
use crate::http::handshake;
use crate::http::request::body::{self, Body, Limits};
use crate::http::request::target;
use crate::http::request::{Connection, Request};
use crate::log;
use crate::net::drain;
use crate::proto::head::RequestHead;
use crate::proto::header::Id;
use crate::proto::message::{BodyLength, Method, Version};
use crate::proto::uri;
use crate::runtime::buffer::Buffer;
use crate::script::regex;

/// A head that has arrived.
pub struct Arrived<'a, C: FnOnce() -> Connection> {
    pub service: Service,
    pub listen: &'static Listen,
    /// Makes the request's view of its connection, where it is to stay.
    pub connection: C,
    pub input: Buffer,
    pub head: Box<RequestHead>,
    /// How the body is delimited; as the error, why the head is refused, with the status. The text follows `client sent`.
    pub declared: Result<BodyLength, (&'a dyn fmt::Display, u16)>,
    /// The client speaks plain HTTP where TLS is spoken.
    pub is_plain_instead: bool,
}

/// Makes a request from a parsed head. `reader` makes the source of its body, which is told whether the client waits for
/// `100 Continue`. Errors: the status of the refusal.
#[inline]
pub fn request(
    arrived: Arrived<'_, impl FnOnce() -> Connection>,
    reader: impl FnOnce(BodyLength, bool, &Limits) -> body::Reader,
) -> Result<Box<Request>, (Box<Request>, u16)> {
    let Arrived { service, listen, connection, input, head, declared, is_plain_instead } = arrived;
    let config = service.config();
    let data = input.data();
    let target = uri::parse(head.method, data.get(head.target.clone()).unwrap_or(b""));
    let host = service.worker().last_host.borrow_mut().host(&head, data, target.as_ref().ok());
    let found = match &host {
        Ok(host) => listen.server_for(host.as_deref().unwrap_or_default()),
        Err(_) => Ok((listen.default, None)),
    };
    let ((index, regex), gave_up) =
        found.map_or_else(|error| ((listen.default, None), Some(error)), |found| (found, None));
    let server = &config.servers[index];
    let core = &server.root.confs.http_core;
    let expects = head.version >= Version::Http11
        && head
            .fields
            .value(data, Id::Expect)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let limits = Limits {
        max: core.client_max_body_size(),
        timeout_ms: core.client_body_timeout_ms(),
        buffer_size: core.client_body_buffer_size(),
        min_rate: core.client_body_min_rate(server.root.protocol),
    };
    let length = declared.as_ref().map_or(BodyLength::None, |length| *length);
    let keep_alive = wants_keep_alive(&head);
    let body = || Body::new(length, reader(length, expects, &limits), limits);
    let mut request = Request::new(service.worker(), server, connection, input, head, body);
    request.enter_zone();
    // RFC 9110 §9.3.6: bytes behind the head may be meant for the tunnel; after a refusal they must not be read as a request
    request.keep_alive = keep_alive && request.method != Method::Connect;
    let host_error = match host {
        Ok(host) => {
            request.host = host.unwrap_or_default();
            None
        }
        Err(error) => Some(error),
    };
    if let Err((error, status)) = declared {
        log::info!(request.error_log(), &request, "client sent {error}");
        request.keep_alive = false;
        return Err((request, status));
    }
    if request.has_streams() && request.method == Method::Connect {
        log::info!(request.error_log(), &request, "client sent CONNECT method");
        return Err((request, 405));
    }
    let target = match target {
        Ok(target) => target,
        Err(error) => {
            by_default_server(&mut request);
            log::info!(request.error_log(), &request, "client sent {error}");
            return Err((request, error.status()));
        }
    };
    if let Some(error) = host_error {
        log::info!(request.error_log(), &request, "client sent {error}");
        return Err((request, error.status()));
    }
    if let Some(regex) = regex {
        target::store_regex(&mut request, regex);
    }
    if let Some(error) = gave_up {
        regex::give_up(&mut *request, error);
        return Err((request, 500));
    }
    if let Some((what, status)) = method_refusal(&request, length) {
        log::info!(request.error_log(), &request, "client sent {what}");
        return Err((request, status));
    }
    if let Err(status) = target::set_target(&mut request, &target) {
        by_default_server(&mut request);
        return Err((request, status));
    }
    match handshake::refusal(&request, is_plain_instead) {
        Some(status) => Err((request, status)),
        None => Ok(request),
    }
}

/// The status for a method that is never served, or not here, and what to log.
fn method_refusal(request: &Request, length: BodyLength) -> Option<(&'static str, u16)> {
    match request.method {
        Method::Trace => Some(("TRACE method", 405)),
        Method::Connect if request.head.version != Version::Http11 || !request.server.allows_connect => {
            Some(("CONNECT method", 405))
        }
        Method::Connect if !matches!(length, BodyLength::None | BodyLength::Length(0)) => {
            Some(("CONNECT request with body", 400))
        }
        _ => None,
    }
}

/// An invalid request line is refused by the default server: nginx has not looked at `Host` yet.
pub fn by_default_server(request: &mut Request) {
    request.server = &request.config.servers[request.connection.listen.default];
    request.location = &request.server.root;
}

/// True if the client asks for keep-alive; the location decides later (`target::bound_keepalive`).
fn wants_keep_alive(head: &RequestHead) -> bool {
    let asked = &head.connection;
    let by_client = if head.version >= Version::Http11 { !asked.close } else { asked.keep_alive };
    by_client && drain::mode() < drain::Mode::Close
}
