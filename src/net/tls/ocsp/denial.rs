//! Why the status of a client's certificate refuses the client (`ssl_ocsp`).
//!
//! Touches: nothing. Behaviour: nginx, whose words stand in `$ssl_client_verify`.

use std::fmt;

/// Why a client is refused. Displayed in nginx's words, which stand in `$ssl_client_verify` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// There is no valid response.
    RequestFailed,
    Revoked,
    Unknown,
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::RequestFailed => "certificate status request failed",
            Self::Revoked => "certificate revoked",
            Self::Unknown => "certificate status unknown",
        })
    }
}
