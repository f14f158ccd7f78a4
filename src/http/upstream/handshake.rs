//! The TLS handshake with the upstream of a request.
//!
//! The engine is `shared/tls/outgoing.rs`. Touches: the upstream's socket.

use std::rc::Rc;
use std::sync::Arc;

use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::upstream::exchange::Stop;
use crate::net::Transport;
use crate::net::tls::client::Terms;
use crate::shared::tls::outgoing::{self, Failure};
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
    let place = format!("{} {}", group.group.name, peer.name);
    let prefix = request.passes().prefix();
    let made = outgoing::secure(request.location.tls.as_deref(), transport, terms, (prefix, &place), left_ms);
    made.await.map_err(|failure| match failure {
        Failure::Ours(why) => Stop::Request(Error::ours(why)),
        Failure::Peer(message) => Stop::Peer(Kind::Handshake(message.into()).into()),
        Failure::TimedOut => Stop::Peer(Kind::TimedOut.into()),
    })
}
