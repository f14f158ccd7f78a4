//! The span of a request: its name, its times, and its attributes in nginx's words.
//!
//! Touches: the request. Behaviour: nginx.org, ngx_otel_module, "Default span attributes".

use crate::http::modules::otel::{self, trace_id};
use crate::http::modules::{http_core, trace_context};
use crate::http::request::Request;
use crate::proto::header::Id;
use crate::proto::message::{BodyLength, Version};
use crate::proto::otlp::{Attributes, Span, put_span};
use crate::shared::connection::client_address;
use crate::sys::clock;

/// A response with this status, or a higher one, is an error of the server.
const ERROR_MIN: u16 = 500;

/// Appends the span of a request that ends now.
pub fn write(request: &mut Request, out: &mut Vec<u8>) {
    let conf: &'static otel::Conf = &request.location.confs.otel;
    let (trace, span) = (trace_id(request), trace_context::span(request));
    let name = match conf.span_name.as_ref() {
        Some(script) => script.to_vec(request),
        None => request.location.name.as_bytes().to_vec(),
    };
    let values: Vec<Vec<u8>> =
        conf.attributes.iter().map(|attribute| attribute.value.to_vec(request)).collect();
    let (seconds, nanoseconds) = clock::wall();
    let end_ns = seconds.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(u64::from(nanoseconds));
    let status = http_core::logged_status(request);
    let part = request.states.otel.take().unwrap_or_default();
    let facts = Span {
        trace,
        span,
        parent: part.parent.map(|parent| parent.span),
        state: &part.state,
        name: &name,
        // one clock for both ends: a step of the wall clock makes no span negative
        start_ns: end_ns.saturating_sub(request.elapsed_us().saturating_mul(1000)),
        end_ns,
        is_error: status >= ERROR_MIN,
    };
    put_span(&facts, out, |attributes| {
        default_attributes(request, status, attributes);
        for (attribute, value) in conf.attributes.iter().zip(&values) {
            match attribute.is_list {
                true => attributes.list(&attribute.name, value),
                false => attributes.text(&attribute.name, value),
            }
        }
    });
    request.states.otel = Some(part);
}

/// The attributes that nginx writes, in its order: those of OpenTelemetry's conventions for HTTP, version 1.16.
fn default_attributes(request: &Request, status: u16, out: &mut Attributes<'_>) {
    let is_tls = request.connection.tls.is_some();
    out.text("http.method", request.method_text());
    out.text("http.target", request.target());
    if !request.location.name.is_empty() {
        out.text("http.route", request.location.name.as_bytes());
    }
    out.text("http.scheme", if is_tls { b"https" } else { b"http" });
    if !request.is_malformed() {
        out.text(
            "http.flavor",
            match request.version() {
                Version::Http10 => b"1.0",
                Version::Http11 => b"1.1",
                Version::Http2 => b"2.0",
                Version::Http3 => b"3.0",
            },
        );
    }
    if let Some(agent) = request.header(Id::UserAgent) {
        out.text("http.user_agent", agent);
    }
    let received = match request.body.declared() {
        BodyLength::Length(length) => length,
        _ => request.body.received(),
    };
    out.integer("http.request_content_length", received);
    out.integer("http.response_content_length", request.body_bytes_sent());
    if status > 0 {
        out.integer("http.status_code", u64::from(status));
    }
    let name = request.server.name();
    out.text("net.host.name", if name.is_empty() { &request.host } else { name.as_bytes() });
    let port = request.connection.local.port().unwrap_or(0);
    if port != if is_tls { 443 } else { 80 } {
        out.integer("net.host.port", u64::from(port));
    }
    let mut peer = Vec::new();
    client_address(&request.connection.peer, &mut peer);
    out.text("net.sock.peer.addr", &peer);
    out.integer("net.sock.peer.port", u64::from(request.connection.peer.port().unwrap_or(0)));
}
