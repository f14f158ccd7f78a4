//! The minimum rates of clients (`client_header_min_rate`, `client_body_min_rate`).
//!
//! Pure. A client that is slower gives way to others when connections are scarce.

use crate::config::{Diagnostic, Node, params};
use crate::http::modules::http_core::Conf;
use crate::http::request::body::MinRate;
use crate::http::upstream::protocol::Protocol;

/// For request heads; after the first seconds no honest client is slower.
pub const HEADER_MIN_RATE: MinRate = MinRate { bytes_per_s: 100, grace_ms: 20_000 };
/// For request bodies: half the speed of a modem of 1995.
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

impl Conf {
    pub fn client_header_min_rate(&self) -> Option<MinRate> {
        self.client_header_min_rate.get()
    }

    /// The rate below which an unfinished head gives way to others, even if the configuration sets no
    /// minimum.
    pub fn client_header_least_rate(&self) -> MinRate {
        self.client_header_min_rate().unwrap_or(HEADER_MIN_RATE)
    }

    /// The minimum rate of a body that is passed to upstreams of this protocol.
    pub fn client_body_min_rate(&self, protocol: Protocol) -> Option<MinRate> {
        // The client of a call may wait for messages of the server for as long as it likes.
        let is_call = protocol == Protocol::Grpc && !self.client_body_min_rate.is_set();
        self.client_body_min_rate.get().filter(|_| !is_call)
    }

    pub(in crate::http) fn header_buffers(&self) -> String {
        let (count, size) = self.large_client_header_buffers.get();
        format!("{count} of {size} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::with_request;

    #[test]
    fn a_call_may_be_silent_unless_the_configuration_says_otherwise() {
        let conf = "http { server { listen 127.0.0.1:1; client_body_min_rate 700;
            location /set { grpc_pass 127.0.0.1:2; } } }";
        with_request(conf, "/set", |request| {
            let core = &request.location.confs.http_core;
            assert_eq!(core.client_body_min_rate(Protocol::Grpc).map(|rate| rate.bytes_per_s), Some(700));
        });
        with_request("http { server { listen 127.0.0.1:1; } }", "/", |request| {
            let core = &request.location.confs.http_core;
            assert_eq!(core.client_body_min_rate(Protocol::Grpc).map(|rate| rate.bytes_per_s), None);
            assert_eq!(core.client_body_min_rate(Protocol::Http), Some(BODY_MIN_RATE));
        });
    }
}
