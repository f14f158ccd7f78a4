//! Encryption of a connection that begins in plain, on the client's request (STARTTLS, AUTH TLS).
//!
//! RFC 2595, RFC 3207, RFC 4217; the values are those of nginx's `starttls`.

use crate::config::keywords;

/// Whether clients may encrypt the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    Off,
    On,
    /// They must, before they log in.
    Only,
}
keywords!(StartTls { "off" => Off, "on" => On, "only" => Only });
