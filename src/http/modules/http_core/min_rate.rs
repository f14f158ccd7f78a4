//! The minimum rates of clients (`client_header_min_rate`, `client_body_min_rate`).
//!
//! Pure. A client that is slower gives way to others when connections are scarce.

use crate::config::{Diagnostic, Node, params};
use crate::http::modules::http_core::Conf;
use crate::http::request::body::MinRate;

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

    pub fn client_body_min_rate(&self) -> Option<MinRate> {
        self.client_body_min_rate.get()
    }

    pub(in crate::http) fn header_buffers(&self) -> String {
        let (count, size) = self.large_client_header_buffers.get();
        format!("{count} of {size} bytes")
    }
}
