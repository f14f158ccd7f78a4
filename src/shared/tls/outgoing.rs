//! The TLS handshake with an upstream, and what the log says if it fails.
//!
//! Touches: the upstream's socket. Behaviour: nginx.org, `proxy_ssl_*`; the words of messages are nginx's,
//! followed by the directive that helps.

use std::sync::Arc;

use rustls::{AlertDescription, InvalidMessage};

use crate::log::Cause;
use crate::net::Transport;
use crate::net::tls::client::{self, Terms};
use crate::net::tls::handshake;
use crate::net::tls::verify::Refusal;
use crate::runtime::timeout;
use crate::script::Scope;
use crate::shared::name::Prefix;
use crate::shared::tls::handshakes;
use crate::shared::tls::upstream::Layer;
use crate::shm::counter;

/// Why a connection could not be encrypted.
#[derive(Debug)]
pub enum Failure {
    /// The certificate for this connection cannot be loaded, or the like: another peer would not help.
    Ours(String),
    /// The message for the log about the peer.
    Peer(String),
    TimedOut,
}

/// Encrypts a new connection on these terms. As in nginx, connecting and the handshake share the timeout for connecting,
/// of which `left_ms` is left. `place`: groups that have a server in common do not share its sessions.
pub async fn secure<S: Scope>(
    layer: Option<&Layer<S>>,
    transport: &mut Transport,
    terms: &Arc<Terms>,
    (prefix, place): (Prefix, &str),
    left_ms: u64,
) -> Result<(), Failure> {
    let client = match layer {
        Some(layer) => layer.client(terms).await.map_err(Failure::Ours)?,
        None => Arc::clone(&terms.client),
    };
    let Some(io) = transport.plain() else {
        return Err(Failure::Ours("TLS over a connection that is no socket".to_owned()));
    };
    match timeout(left_ms, client.connect(io, terms, place)).await {
        Ok(Ok(session)) => {
            transport.secure(*session);
            Ok(())
        }
        Ok(Err(error)) => Err(Failure::Peer(message(&error, terms, prefix))),
        Err(_) => Err(Failure::TimedOut),
    }
}

/// The message for the log. Counts a certificate that is refused.
fn message(error: &client::Error, terms: &Terms, prefix: Prefix) -> String {
    if let Some(refused) = error.refused() {
        counter::add(handshakes::reason(refused.refusal), 1);
        return match refused.refusal {
            Refusal::HostnameMismatch | Refusal::AddressMismatch => no_match(&terms.name, prefix),
            refusal => {
                let number = refusal.number();
                let help = refused.help().map_or_else(String::new, |help| format!("; {help}"));
                format!("upstream SSL certificate verify error: ({number}:{refusal}){help}")
            }
        };
    }
    let error = match error {
        client::Error::Name => return no_match(&terms.name, prefix),
        client::Error::Handshake(error) => error,
    };
    match error {
        handshake::Error::Closed => "peer closed connection in SSL handshake".to_owned(),
        handshake::Error::Io(error) => format!("peer closed connection in SSL handshake {}", Cause(error)),
        handshake::Error::Tls(error) => {
            let help = help(error, prefix).map_or_else(String::new, |help| format!("; {help}"));
            format!("SSL_do_handshake() failed (SSL: {error}){help}")
        }
        other => format!("SSL_do_handshake() failed (SSL: {other})"),
    }
}

fn no_match(name: &str, prefix: Prefix) -> String {
    let directive = prefix.directive("ssl_name");
    format!(
        "upstream SSL certificate does not match \"{name}\"; set \"{directive}\" to a name of the certificate"
    )
}

/// What may be done about a failed handshake.
fn help(error: &rustls::Error, prefix: Prefix) -> Option<String> {
    let directive = |rest| prefix.directive(rest);
    Some(match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "this is no TLS: should the URL begin with http://?".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            format!("set \"{}\", and \"{} on\"", directive("ssl_name"), directive("ssl_server_name"))
        }
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::AccessDenied) => {
            format!(
                "the upstream may want to know its name: \"{} on\"; or it has no cipher of \"{}\"",
                directive("ssl_server_name"),
                directive("ssl_ciphers")
            )
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => {
            format!(
                "the upstream must have TLSv1.2 or TLSv1.3 in common with \"{}\"",
                directive("ssl_protocols")
            )
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnknownCA,
        ) => format!("the upstream wants another certificate from \"{}\"", directive("ssl_certificate")),
        _ => return None,
    })
}
