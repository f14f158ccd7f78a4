//! Which directive decided, told in the error log: its value and its `file:line`; and the least rates of clients.
//!
//! Pure but for the request that it reads. Nothing here runs before something has been refused.

use std::fmt::Write;

use crate::config::{Diagnostic, Node, Span, params};
use crate::http::modules::core::{Conf, error_log};
use crate::http::request::Request;
use crate::http::request::body::{Limits, MinRate};
use crate::http::request::error::{Error, Kind, Limit};
use crate::log;

/// Of a request's head; beyond the first seconds nobody's head comes slower.
pub const HEADER_MIN_RATE: MinRate = MinRate { bytes_per_s: 100, grace_ms: 20_000 };
/// Of a request's body: half of what a modem of 1995 did.
pub const BODY_MIN_RATE: MinRate = MinRate { bytes_per_s: 500, grace_ms: 10_000 };

/// `500 10s`, `500`, `off`.
pub fn read_min_rate(node: &Node, default: MinRate) -> Result<Option<MinRate>, Diagnostic> {
    if node.args.len() == 1 && node.arg(0) == "off" {
        return Ok(None);
    }
    let bytes_per_s = params::size(node, 0)?;
    let grace_ms = if node.args.len() > 1 { params::millis(node, 1)? } else { u64::from(default.grace_ms) };
    let rate = MinRate {
        bytes_per_s: u32::try_from(bytes_per_s).unwrap_or(u32::MAX),
        grace_ms: u32::try_from(grace_ms).unwrap_or(u32::MAX),
    };
    Ok((rate.bytes_per_s > 0).then_some(rate))
}

/// Logs an error that a limit of the configuration has caused, at nginx's level.
#[cold]
pub fn log_limit(request: &Request, error: &Error) {
    let told = error.limit.map(|limit| told(request, limit)).unwrap_or_default();
    if matches!(error.kind.root(), Kind::BodyTooLarge { .. }) {
        log::error!(error_log(request), request, "{error}{told}");
    } else {
        log::info!(error_log(request), request, "{error}{told}");
    }
}

/// What stands behind a refusal in the log: ` ("client_max_body_size" is 1048576 at conf/site.conf:14)`.
pub fn told(request: &Request, limit: Limit) -> String {
    let (core, passes) = (&request.location.core, request.passes());
    // Until a request has its location, its server's settings decide; those of the head are the default server's.
    let (value, span) = match limit {
        Limit::BodySize(_) => (core.client_max_body_size().to_string(), core.client_max_body_size.span()),
        Limit::BodyTimeout => (ms(core.client_body_timeout()), core.client_body_timeout.span()),
        Limit::BodyRate => (rate(core.client_body_min_rate()), core.client_body_min_rate.span()),
        Limit::HeaderTimeout => (ms(core.client_header_timeout()), core.client_header_timeout.span()),
        Limit::HeaderRate => (rate(core.client_header_min_rate()), core.client_header_min_rate.span()),
        Limit::HeadSize => (core.header_buffers(), core.large_client_header_buffers.span()),
        Limit::FieldCount => (core.head_limits().fields_max.to_string(), core.max_headers.span()),
        Limit::TotalTimeout => (ms(passes.timeout_total_ms()), passes.timeout_total_span()),
        Limit::SubrequestSize => (core.subrequest_output_buffer_size().to_string(), None),
        Limit::SendTimeout => (ms(core.send_timeout()), core.send_timeout.span()),
        Limit::UpstreamHeadSize => (passes.head_bytes_max().to_string(), passes.buffer_size_span()),
    };
    let name = limit.directive(passes);
    let mut text = format!(" (\"{name}\" is {value}");
    text.push_str(&place(request, span));
    if let Limit::BodySize(bytes) = limit {
        let _ = write!(text, ", {bytes} is needed");
    }
    text.push(')');
    text
}

/// Has the request's body read as its location says. How large it may be is judged where the location was found
/// ([`super::check_location`]); nginx does not look at a length in front of a named location.
pub fn bound_body(request: &mut Request) {
    let core = &request.location.core;
    request.body.set_limits(Limits {
        max: core.client_max_body_size(),
        timeout_ms: core.client_body_timeout(),
        buffer_size: core.client_body_buffer_size(),
        min_rate: core.client_body_min_rate(),
    });
}

fn place(request: &Request, span: Option<Span>) -> String {
    match span.map(|span| request.config.places.name(span)).filter(|name| !name.is_empty()) {
        Some(name) => format!(" at {name}"),
        None => " by default".to_owned(),
    }
}

fn ms(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn rate(rate: Option<MinRate>) -> String {
    rate.map_or_else(
        || "off".into(),
        |rate| format!("{} bytes/s after {}", rate.bytes_per_s, ms(u64::from(rate.grace_ms))),
    )
}

impl Conf {
    pub fn client_header_min_rate(&self) -> Option<MinRate> {
        self.client_header_min_rate.get()
    }

    /// The rate below which an unfinished head gives way to others, also where it may be as slow as it likes.
    pub fn client_header_least_rate(&self) -> MinRate {
        self.client_header_min_rate().unwrap_or(HEADER_MIN_RATE)
    }

    pub fn client_body_min_rate(&self) -> Option<MinRate> {
        self.client_body_min_rate.get()
    }

    fn header_buffers(&self) -> String {
        let (count, size) = self.large_client_header_buffers.get();
        format!("{count} of {size} bytes")
    }
}
