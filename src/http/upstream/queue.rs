//! The wait of a request until a peer of its group may be used (`queue`).
//!
//! Touches: the client's socket, to notice that it has gone. The queue itself is `upstream/waiting.rs`.

use std::rc::Rc;

use crate::http::request::error::{During, Error};
use crate::http::upstream::Pass;
use crate::http::upstream::target::patiently;
use crate::log;
use crate::runtime::{self, timeout};
use crate::shm::counter::Word;
use crate::upstream::Peer;
use crate::upstream::trace::Action;
use crate::upstream::waiting::{Rule, Ticket, Waiting};

impl Pass<'_, '_> {
    /// Picks a peer, after those requests that wait already. `None`: none could be used in time, or the queue is full.
    pub(super) async fn pick_or_wait(&mut self, waiting: &Rc<Waiting>) -> Result<Option<Rc<Peer>>, Error> {
        let Some(rule) = self.goal.group.group.queue else { return Ok(None) };
        // A pick that fails may add peers that have just become full: those are asked again.
        let tried = self.session.tried_peers();
        if waiting.is_empty()
            && let Some(peer) = self.session.pick(runtime::now_ms())
        {
            return Ok(Some(peer));
        }
        let Some(ticket) = waiting.enter(rule.max) else {
            if let Some(slot) = self.goal.group.group.slot {
                slot.add(Word::QUEUE_OVERFLOWS, 1);
            }
            self.tell_queue("is full");
            return Ok(None);
        };
        Box::pin(self.wait(ticket, rule, &tried)).await
    }

    /// Waits for any peer of the group but those that have been `tried`. The group may change meanwhile.
    async fn wait(
        &mut self,
        mut ticket: Ticket,
        rule: Rule,
        tried: &[Rc<Peer>],
    ) -> Result<Option<Rc<Peer>>, Error> {
        let (session, group) = (&mut self.session, &self.goal.group);
        let picked = async {
            loop {
                ticket.turn().await;
                session.look_again(group, tried);
                if let Some(peer) = session.pick(runtime::now_ms()) {
                    return peer;
                }
            }
        };
        let waited = timeout(rule.timeout_ms, picked);
        match patiently(self.request, self.client.downstream(), waited).await {
            Some(Ok(peer)) => Ok(Some(peer)),
            Some(Err(_)) => {
                self.tell_queue("has been waited in for too long");
                Ok(None)
            }
            None => {
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
