//! The TLS handshake with an upstream, and what the log says if it fails.
//!
//! Touches: the upstream's socket. Behaviour: nginx.org, `proxy_ssl_*`; the words of messages are nginx's,
//! followed by the directive that helps.

use std::rc::Rc;
use std::sync::Arc;

use rustls::{AlertDescription, InvalidMessage};

use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::upstream::exchange::Stop;
use crate::http::upstream::name::Prefix;
use crate::log::Cause;
use crate::net::Transport;
use crate::net::tls::client::{self, Client, Terms};
use crate::net::tls::handshake;
use crate::net::tls::verify::Refusal;
use crate::runtime::timeout;
use crate::upstream::trace::Action;
use crate::upstream::{GroupState, Peer};

/// Encrypts a new connection. As in nginx, connecting and the handshake share `proxy_connect_timeout`, of
/// which `left_ms` is left.
///
/// Errors: the peer's, after which another one may be tried; ours if the certificate for this request cannot
/// be loaded.
pub async fn secure(
    request: &mut Request,
    transport: &mut Transport,
    terms: &Arc<Terms>,
    (group, peer): (&GroupState, &Rc<Peer>),
    left_ms: u64,
) -> Result<(), Stop> {
    request.upstream.action = Some(Action::Handshaking);
    let client = client(request, terms).await.map_err(Stop::Request)?;
    let Some(io) = transport.plain() else {
        return Err(Stop::Request(Error::ours("TLS over a connection that is no socket")));
    };
    // As in nginx, groups that have a server in common do not share its sessions.
    let place = format!("{} {}", group.group.name, peer.name);
    let made = timeout(left_ms, client.connect(io, terms, &place)).await;
    match made {
        Ok(Ok(session)) => {
            transport.secure(*session);
            Ok(())
        }
        Ok(Err(error)) => {
            let message = message(&error, terms, request.passes().prefix());
            Err(Stop::Peer(Kind::Handshake(message.into()).into()))
        }
        Err(_) => Err(Stop::Peer(Kind::TimedOut.into())),
    }
}

async fn client(request: &Request, terms: &Terms) -> Result<Arc<Client>, Error> {
    match &request.location.tls {
        Some(layer) => layer.client(terms).await,
        None => Ok(Arc::clone(&terms.client)),
    }
}

/// The message for the log.
fn message(error: &client::Error, terms: &Terms, prefix: Prefix) -> String {
    if let Some(refused) = error.refused() {
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
