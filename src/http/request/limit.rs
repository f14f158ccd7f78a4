//! Names the directive behind an error in the error log, with its value and `file:line`.
//!
//! Pure, apart from the request that it reads. Runs only after something has been refused.

use std::fmt::Write;

use crate::config::Span;
use crate::http::request::Request;
use crate::http::request::body::MinRate;
use crate::http::request::error::{Error, Kind, Limit};
use crate::log;

/// Logs an error that a limit of the configuration caused, at nginx's level.
#[cold]
pub fn log_limit(request: &Request, error: &Error) {
    let told = error.limit.map(|limit| told(request, limit)).unwrap_or_default();
    if matches!(error.kind.root(), Kind::BodyTooLarge { .. }) {
        log::error!(request.error_log(), request, "{error}{told}");
    } else {
        log::info!(request.error_log(), request, "{error}{told}");
    }
}

/// The text after a refusal in the log: ` ("client_max_body_size" is 1048576 at conf/site.conf:14)`.
pub fn told(request: &Request, limit: Limit) -> String {
    let (core, passes) = (&request.location.confs.http_core, request.passes());
    // Until a request has a location its server's settings apply; those for heads are the default server's.
    let (value, span) = match limit {
        Limit::BodySize(_) => (core.client_max_body_size().to_string(), core.client_max_body_size.span()),
        Limit::BodyTimeout => (ms(core.client_body_timeout_ms()), core.client_body_timeout.span()),
        Limit::BodyRate => {
            (rate(core.client_body_min_rate(request.location.protocol)), core.client_body_min_rate.span())
        }
        Limit::HeaderTimeout => (ms(core.client_header_timeout_ms()), core.client_header_timeout.span()),
        Limit::HeaderRate => (rate(core.client_header_min_rate()), core.client_header_min_rate.span()),
        Limit::HeadSize => (core.header_buffers(), core.large_client_header_buffers.span()),
        Limit::FieldCount => (core.head_limits().fields_max.to_string(), core.max_headers.span()),
        Limit::TotalTimeout => (ms(passes.timeout_total_ms()), passes.timeout_total_span()),
        Limit::SubrequestSize => (core.subrequest_output_buffer_size().to_string(), None),
        Limit::SendTimeout => (ms(core.send_timeout_ms()), core.send_timeout.span()),
        Limit::UpstreamHeadSize => (passes.head_bytes_max().to_string(), passes.buffer_size_span()),
    };
    let name = limit.directive(passes.prefix());
    let mut text = format!(" (\"{name}\" is {value}");
    text.push_str(&place(request, span));
    if let Limit::BodySize(bytes) = limit {
        let _ = write!(text, ", {bytes} is needed");
    }
    text.push(')');
    text
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
