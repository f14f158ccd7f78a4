//! The wait of a request until a peer of its group may be used (`queue`).
//!
//! Touches: the client's socket, to notice that it has gone. The queue itself is `upstream/waiting.rs`.

use std::rc::Rc;

use crate::http::request::error::{During, Error};
use crate::http::upstream::Pass;
use crate::log;
use crate::runtime::{self, Either, race, timeout};
use crate::upstream::Peer;
use crate::upstream::trace::Action;
use crate::upstream::waiting::{Rule, Ticket, Waiting};

impl Pass<'_, '_> {
    /// Picks a peer, after those requests that wait already. `None`: none could be used in time, or the queue is full.
    pub(super) async fn pick_or_wait(&mut self, waiting: &Rc<Waiting>) -> Result<Option<Rc<Peer>>, Error> {
        let Some(rule) = self.goal.group.group.queue else { return Ok(None) };
        if waiting.is_empty()
            && let Some(peer) = self.session.pick(runtime::now_ms())
        {
            return Ok(Some(peer));
        }
        let Some(ticket) = waiting.enter(rule.max) else {
            self.tell_queue("is full");
            return Ok(None);
        };
        Box::pin(self.wait(ticket, rule)).await
    }

    async fn wait(&mut self, mut ticket: Ticket, rule: Rule) -> Result<Option<Rc<Peer>>, Error> {
        let ignores_client = self.request.passes().ignore_client_abort();
        let downstream = self.client.downstream();
        let gone = async {
            match ignores_client {
                true => std::future::pending().await,
                false => downstream.gone().await,
            }
        };
        let session = &mut self.session;
        let picked = async {
            loop {
                ticket.turn().await;
                session.start_over();
                if let Some(peer) = session.pick(runtime::now_ms()) {
                    return peer;
                }
            }
        };
        match race(timeout(rule.timeout_ms, picked), gone).await {
            Either::First(Ok(peer)) => Ok(Some(peer)),
            Either::First(Err(_)) => {
                self.tell_queue("has been waited in for too long");
                Ok(None)
            }
            Either::Second(()) => {
                self.request.upstream.action = Some(Action::Connecting);
                Err(Error::left().during(During::Upstream(Action::Connecting)))
            }
        }
    }

    #[cold]
    fn tell_queue(&self, what: &str) {
        let (request, name) = (&*self.request, &self.goal.group.group.name);
        log::error!(request.error_log(), request, "the \"queue\" of upstream \"{name}\" {what}");
    }
}
