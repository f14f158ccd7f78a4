//! TLS under any protocol: handshakes by rustls, a record layer that idle connections can afford, and
//! certificates as nginx's directives describe them.
//!
//! Knows no protocol above and no directive. `handshake` turns a plain socket into a [`Session`], `stream` goes
//! on with it as the variant of `Transport` for TLS.

pub mod authorities;
pub mod certificate;
pub mod certificate_compression;
pub mod ciphers;
pub mod client;
pub mod client_sessions;
pub mod conf_command;
pub mod context;
pub mod encrypted_key;
pub mod handshake;
pub mod key_log;
pub mod moved;
pub mod names;
pub mod ocsp;
pub mod parcel;
pub mod pem;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod record;
#[cfg(test)]
mod resumption;
pub mod server;
pub mod session_cache;
pub mod settings;
pub mod stream;
pub mod subject;
#[cfg(test)]
mod tests;
pub mod ticket;
pub mod verify;
pub mod watch;

use std::cell::Cell;
use std::sync::Arc;

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;

use crate::net::tls::ocsp::denial::Denial;
use crate::proto::client_hello::ClientHello;
pub use stream::{Session, Tls};
pub use verify::Refusal;

/// What was agreed on in a handshake, for variables and logs.
#[derive(Debug)]
pub struct Info {
    /// TLS 1.3, otherwise TLS 1.2.
    pub is_tls13: bool,
    /// IANA's number of the cipher suite.
    pub cipher_suite: u16,
    /// IANA's number of the key exchange's group.
    pub group: Option<u16>,
    /// IANA's number of the scheme of the server's signature; `None`: nothing was signed, as in a resumption.
    pub signature_scheme: Option<u16>,
    /// The same of the client's signature; `None`: it has sent no certificate in this handshake.
    pub client_signature_scheme: Option<u16>,
    /// The protocol that ALPN selected; empty: none.
    pub protocol: Box<[u8]>,
    pub is_resumed: bool,
    /// The handshake is not complete: what has been received is early data, which may be a copy of what an
    /// earlier connection has sent.
    pub is_early: Cell<bool>,
    /// What the client offered; `None` on a connection to an upstream.
    pub hello: Option<Box<ClientHello>>,
    /// The peer's certificates, its own first.
    pub peer_chain: Arc<[CertificateDer<'static>]>,
    /// Filled in by whoever knows which server the client has reached.
    pub verdict: Cell<Verdict>,
}

/// What a client's certificate is worth.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Without a certificate there is nothing to refuse.
    pub outcome: Result<(), Refusal>,
    /// What responders say of a certificate that is trusted (`ssl_ocsp`).
    pub status: Result<(), Denial>,
    /// What it was judged by ([`server::Server::trust_id`]).
    pub trust_id: u64,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { outcome: Ok(()), status: Ok(()), trust_id: 0 }
    }
}

impl Info {
    /// What is known when the client has spoken, and nothing has been agreed on.
    pub fn offered(hello: ClientHello) -> Self {
        Self {
            is_tls13: false,
            cipher_suite: 0,
            group: None,
            signature_scheme: None,
            client_signature_scheme: None,
            protocol: Box::default(),
            is_resumed: false,
            is_early: Cell::new(false),
            hello: Some(Box::new(hello)),
            peer_chain: Arc::default(),
            verdict: Cell::default(),
        }
    }

    /// The same result, for another holder.
    pub fn copy(&self) -> Self {
        Self {
            is_tls13: self.is_tls13,
            cipher_suite: self.cipher_suite,
            group: self.group,
            signature_scheme: self.signature_scheme,
            client_signature_scheme: self.client_signature_scheme,
            protocol: self.protocol.clone(),
            is_resumed: self.is_resumed,
            is_early: Cell::new(self.is_early.get()),
            hello: self.hello.clone(),
            peer_chain: Arc::clone(&self.peer_chain),
            verdict: Cell::new(self.verdict.get()),
        }
    }

    /// The cipher suite's name, as OpenSSL and nginx write it.
    pub fn cipher(&self) -> &'static str {
        names::cipher(self.cipher_suite).unwrap_or_default()
    }

    /// `TLSv1.2` or `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        if self.is_tls13 { "TLSv1.3" } else { "TLSv1.2" }
    }

    /// The server name that the client asked for; empty: none.
    pub fn server_name(&self) -> &str {
        self.hello.as_deref().map_or("", |hello| &hello.server_name)
    }
}

/// True if a version that rustls reports is TLS 1.3.
fn is_tls13(version: Option<ProtocolVersion>) -> bool {
    version == Some(ProtocolVersion::TLSv1_3)
}
