//! The parts of a request that depend on the peer chosen for it: whether a connection is permitted at all
//! (`proxy_allow_upstream`), the request itself (`proxy_request_dynamic`), the name and certificate for TLS, and the
//! local address (`proxy_bind_dynamic`). Also the turn of a peer that a tunnel is for (`tunnel_pass`).
//!
//! Touches: the request's variables, and the client's socket for a body that is still arriving.
//! Behaviour: nginx.org, ngx_http_proxy_module.

use std::rc::Rc;

use crate::http::request::error::Kind;
use crate::http::upstream::Pass;
use crate::http::upstream::exchange::{Answer, Stop};
use crate::http::upstream::outgoing::Outgoing;
use crate::http::upstream::protocol::Protocol;
use crate::upstream::Peer;
use crate::upstream::trace::Action;

impl Pass<'_, '_> {
    /// True if a request has to be suited to each peer.
    #[inline]
    pub(super) fn depends_on_peer(&self) -> bool {
        self.request.passes().depends_on_peer()
    }

    /// The turn of a peer to which the request is suited first.
    pub(super) async fn suited_turn(&mut self, peer: &Rc<Peer>) -> Result<Answer, Stop> {
        let conf = self.request.passes();
        self.request.upstream.action = Some(Action::Connecting);
        if !conf.allows(self.request) {
            return Err(Stop::Peer(Kind::Denied.into()));
        }
        if conf.set.request_dynamic.get() && self.outgoing.can_repeat() {
            self.prepare_again().await?;
        }
        if conf.names_depend_on_peer() {
            self.terms = self.goal.terms_again(self.request).map_err(Stop::Request)?;
        }
        if conf.set.bind_dynamic.get() {
            self.local = conf.own_options(self.request);
        }
        if self.request.location.protocol == Protocol::Tunnel {
            // Nothing is asked of this peer but to be connected.
            let carrier = self.open(peer, false).await?;
            self.request.upstream.last().status = 200;
            return Ok(Answer::connected(carrier));
        }
        self.turn(peer).await
    }

    /// Makes the request anew, out of the same body.
    async fn prepare_again(&mut self) -> Result<(), Stop> {
        self.outgoing.return_body(&mut self.request.body);
        let prepared = Outgoing::prepare(self.request, self.client.downstream(), self.goal).await;
        self.outgoing = prepared.map_err(Stop::Request)?;
        Ok(())
    }
}
