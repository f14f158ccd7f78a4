//! Hedged requests (`proxy_hedge_after`): a server that takes long is not waited for alone.
//!
//! If the head of a response has not come by then, the same request also goes to another server of the group, and
//! the response that comes first is used; the other exchange ends with its connection. Only requests that change
//! nothing (RFC 9110 §9.2.1) and have no body are hedged, in groups that are not sticky, and not more than a share
//! of a group's requests (`upstream/budget.rs`). The second exchange is a [`Pass`] of its own with a copy of the
//! request; its turn is then added to the record of the first. Touches: the sockets of both exchanges.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::http::client::Client;
use crate::http::request::error::{Failure, Kind};
use crate::http::upstream::Pass;
use crate::http::upstream::exchange::{Answer, Stop};
use crate::log;
use crate::proto::message::Method;
use crate::runtime::{self, sleep};
use crate::upstream::{Fault, Outcome, Peer, budget};

/// The share of a group's requests that may go to a second server. One that is slow for all of them has too much to
/// do already.
const SHARE: budget::Rule = budget::Rule { percent: 10, min_per_s: 1 };

/// The way in which a hedged turn ended.
enum End {
    /// By the server that was asked first, with the failure of the second.
    First(Result<Answer, Stop>, Option<Failure>),
    /// By the second one, with the failure of the first.
    Second(Answer, Option<Failure>),
}

impl Pass<'_, '_> {
    /// The time after which the request goes to a second server too; `None`: never.
    #[inline]
    pub(super) fn hedge_after_ms(&self) -> Option<u64> {
        let after_ms = self.request.passes().hedge_after_ms();
        (after_ms > 0 && self.may_hedge()).then_some(after_ms)
    }

    #[cold]
    fn may_hedge(&self) -> bool {
        self.goal.group.hedges.earn(SHARE);
        matches!(self.request.method, Method::Get | Method::Head | Method::Options)
            && self.binding.is_none() // a sticky group: only one server knows the client
            && !self.outgoing.has_body()
            && self.session.tries_left() > 1
            && !self.depends_on_peer()
    }

    /// One turn of `peer`, and after `after_ms` of another peer too. On return the session's current peer is the one
    /// that the result comes from.
    pub(super) async fn hedged_turn(&mut self, peer: &Rc<Peer>, after_ms: u64) -> Result<Answer, Stop> {
        // Made in advance: the first exchange has the request until it ends.
        let mut copy = self.request.again();
        let mut nobody = Client::nobody();
        let mut other = Pass {
            request: &mut copy,
            client: &mut nobody,
            goal: self.goal,
            outgoing: self.outgoing.copy(),
            terms: self.terms.clone(),
            local: self.local.clone(),
            session: self.session.beside(),
            binding: None,
            course: None,
            started_ms: self.started_ms,
        };
        let permitted = self.request.passes().next();
        let is_good = |answer: &Answer| !permitted.permits(Fault::Status(answer.head.head.status), false);
        let is_asked = Cell::new(false);
        let mut refusal = None;
        let end = {
            let (mut first, mut second) = (pin!(self.turn(peer)), pin!(other.hedge(after_ms, &is_asked)));
            let (mut first_failure, mut second_failure) = (None, None);
            let (mut is_second_over, refusal) = (false, &mut refusal);
            poll_fn(|cx| {
                if first_failure.is_none()
                    && let Poll::Ready(ended) = first.as_mut().poll(cx)
                {
                    match ended {
                        Err(Stop::Peer(failure)) if is_asked.get() && !is_second_over => {
                            first_failure = Some(failure);
                        }
                        ended => return Poll::Ready(End::First(ended, second_failure.take())),
                    }
                }
                if !is_second_over && let Poll::Ready(ended) = second.as_mut().poll(cx) {
                    is_second_over = true;
                    match (ended, first_failure.take()) {
                        (Ok(answer), failure) if is_good(&answer) || failure.is_some() => {
                            return Poll::Ready(End::Second(answer, failure));
                        }
                        (Err(Stop::Peer(failed)), Some(failure)) => {
                            return Poll::Ready(End::First(Err(Stop::Peer(failure)), Some(failed)));
                        }
                        // This server lacks room for a second connection. The first one is as good as before.
                        (Err(Stop::Request(error)), failure) => {
                            *refusal = Some(error);
                            if let Some(failure) = failure {
                                return Poll::Ready(End::First(Err(Stop::Peer(failure)), None));
                            }
                        }
                        (Err(Stop::Peer(failed)), None) => second_failure = Some(failed),
                        (Ok(answer), _) => {
                            let status = answer.head.head.status;
                            second_failure = Some(Kind::Status(status).into());
                        }
                    }
                }
                Poll::Pending
            })
            .await
        };
        let now_ms = runtime::now_ms();
        if let Some(error) = refusal {
            log::error!(self.request.error_log(), &*self.request, "no second server is asked: {error}");
        }
        match end {
            End::First(result, failure) => {
                if let Some(failure) = failure {
                    other.tell(&failure);
                    if other.session.finish(failure.kind.fault().into(), now_ms) {
                        other.tell_disabled();
                    }
                    self.session.learn_from(&other.session);
                }
                if is_asked.get() {
                    other.request.upstream.end();
                    self.request.upstream.add_before(std::mem::take(&mut other.request.upstream));
                }
                result
            }
            End::Second(answer, failure) => {
                let attempt = self.request.upstream.last();
                attempt.sent = self.outgoing.sent;
                let outcome = match failure {
                    Some(failure) => {
                        let fault = failure.kind.fault();
                        attempt.status = fault.status();
                        self.tell(&failure);
                        fault.into()
                    }
                    None => Outcome::Good,
                };
                self.request.upstream.end();
                if self.session.finish(outcome, now_ms) {
                    self.tell_disabled();
                }
                let Pass { request, outgoing, session, .. } = other;
                self.request.upstream.add(std::mem::take(&mut request.upstream));
                self.outgoing = outgoing;
                self.session.take_over(session);
                Ok(answer)
            }
        }
    }

    /// Asks another server, once `after_ms` have passed. Never ready if there is none, or the group has had its share.
    async fn hedge(&mut self, after_ms: u64, is_asked: &Cell<bool>) -> Result<Answer, Stop> {
        sleep(after_ms).await;
        let now_ms = runtime::now_ms();
        let group = &self.goal.group;
        if !group.hedges.is_left(SHARE, now_ms) {
            let request = &*self.request;
            log::info!(
                request.error_log(),
                request,
                "no second server is asked: more than {} % of the requests to \"{}\" are slow",
                SHARE.percent,
                group.group.name
            );
            return pending().await;
        }
        let picked = self.session.pick(now_ms);
        if let Some(ejection) = self.session.take_ejection() {
            self.tell_ejection(&ejection);
        }
        let group = &self.goal.group;
        let Some(peer) = picked else { return pending().await };
        group.hedges.spend(SHARE, now_ms);
        is_asked.set(true);
        self.request.upstream.begin(Some(peer.clone()), group);
        let request = &*self.request;
        log::info!(request.error_log(), request, "a second server is asked after {} ms", after_ms);
        self.turn(&peer).await
    }
}
