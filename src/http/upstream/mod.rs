//! The life of a proxied request, top to bottom: a group, a peer, a connection, the exchange, the response.
//!
//! Touches: the client's socket and the upstream's. `retry.rs` and `upstream/fault.rs` decide whether another
//! peer may be tried; the protocol's codec encodes and decodes (`codec.rs`); `relay.rs` relays the body.
//! Behaviour: nginx.org, ngx_http_proxy_module and ngx_http_upstream_module.

mod answer;
pub mod cache;
pub mod carrier;
pub mod cgi;
pub mod codec;
pub mod conf;
pub mod exchange;
pub mod failover;
pub mod fastcgi;
pub mod grpc_check;
pub mod h1;
pub mod h2;
mod handshake;
mod hedge;
mod hold;
pub mod matching;
pub mod memcached;
mod notes;
pub mod outgoing;
pub mod params;
pub mod probe;
pub mod protocol;
pub mod proxied;
mod queue;
pub mod relay;
pub mod retry;
pub mod rows;
pub mod scgi;
pub mod selection;
pub mod set_header;
pub mod sticky;
pub mod store;
mod suit;
pub mod switched;
mod target;
pub mod tls;
pub mod uwsgi;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::http::client::Client;
use crate::http::request::Request;
use crate::http::request::error::{Error, Failure, Kind, Limit, Side};
use crate::http::request::limit;
use crate::http::request::termination::{self, How, Phase, Termination, Who};
use crate::http::response::Response;
use crate::http::verdict::Reply;
use crate::log;
use crate::net::connect;
use crate::net::tls::client::Terms;
use crate::runtime::{self, Timer};
pub use crate::shared::name;
use crate::sys::clock;
use crate::upstream::session::Ejection;
use crate::upstream::trace::Action;
use crate::upstream::{Fault, Outcome, Peer, Session};
use answer::Next;
use cache::Course;
use exchange::{Answer, Stop};
use outgoing::Outgoing;
use retry::Chance;
use sticky::Binding;
use target::Goal;

/// A server that gives up after having waited for the client for this long has not failed: a client that is slow on
/// purpose would otherwise have every server of a group left out.
const SLOW_CLIENT_MS: u64 = 1000;

/// How often a peer gets a request again that it has not begun.
const REPEATS_MAX: u32 = 2;

/// Passes a request to the upstream of its location, and the response to the client.
///
/// `Some`: a reply of our own instead (an error, an internal redirect). Errors: those of the client, and
/// those of an upstream that fails after the client has got part of the response.
pub async fn proxy(request: &mut Request, client: &mut Client<'_>) -> Result<Option<Reply>, Error> {
    request.upstream.begin_pass();
    request.proxied.begin_pass();
    request.termination = None;
    // Only rare requests wait here: the state of a wait would cost each of them some instructions.
    let goal = match Goal::fixed(request) {
        Some(goal) => goal,
        None => Box::pin(Goal::find(request, client.downstream())).await,
    };
    let goal = goal.map_err(|error| noted(request, client, error))?;
    let slots = request.passes().set.request_dynamic.get().then(|| request.values.slots().clone());
    let mut course = None;
    if request.passes().set.cache.place().is_some() {
        let found = Box::pin(cache::find(request, client.downstream(), &goal)).await;
        match found.map_err(|error| noted(request, client, error))? {
            cache::Found::Nothing => {}
            cache::Found::Reply(reply) => return Ok(Some(reply)),
            cache::Found::Ask(asked) => course = Some(asked),
        }
    }
    let outgoing = if Outgoing::reads_body(request) {
        Box::pin(Outgoing::prepare(request, client.downstream(), &goal)).await
    } else {
        Outgoing::without_reading(request, &goal)
    };
    if let Some(slots) = slots {
        // It is made anew for each server, so no variable keeps the value that it had before one was chosen.
        request.values.set_slots(slots);
    }
    let outgoing = outgoing.map_err(|error| noted(request, client, error))?;
    if std::mem::take(&mut request.values.gave_up) {
        outgoing.give_back(&mut request.body);
        return Ok(Some(Reply::Status(500)));
    }
    let mut binding = None;
    let session = selection::session(request, &goal.group, &mut binding);
    if let Some(rule) = goal.group.group.retries {
        goal.group.retries.earn(rule);
    }
    let total_ms = request.passes().timeout_total_ms();
    let mut deadline = Timer::new();
    if total_ms > 0 {
        deadline.set(runtime::now_ms() + total_ms);
    }
    let started_ms = runtime::now_ms();
    let terms = goal.terms.clone();
    let local = request.passes().own_options(request);
    let mut pass =
        Pass { request, client, goal: &goal, outgoing, terms, local, session, binding, course, started_ms };
    // Awaited in one place, timed or not, so that it is inlined into this future.
    let outcome = {
        let mut responding = pin!(pass.respond());
        poll_fn(|cx| match deadline.poll_expired(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => responding.as_mut().poll(cx).map(Some),
        })
        .await
    };
    let outcome = outcome.unwrap_or_else(|| Err(pass.too_late()));
    if pass.session.is_timed() && outcome.is_ok() {
        pass.note_times();
    }
    let Pass { request, client, outgoing, binding, .. } = pass;
    let outcome = outcome.map_err(|error| noted(request, client, error));
    if let Some(mut binding) = binding
        && !outcome.as_ref().is_err_and(|error| error.side == Side::Upstream)
    {
        binding.ended(request);
    }
    request.upstream.end();
    if let Ok(Some(_)) = &outcome {
        outgoing.give_back(&mut request.body);
    }
    // the pipeline logs an upstream's error, with the operation that failed
    if !outcome.as_ref().is_err_and(|error| error.side == Side::Upstream) {
        request.upstream.action = None;
    }
    outcome
}

/// Records an error while it is known what was in progress.
fn noted(request: &mut Request, client: &Client<'_>, error: Error) -> Error {
    termination::note(request, client.has_started(), &error);
    error
}

/// A request on its way through the peers of a group, from the first one to the end of a response.
///
/// [`proxy`] makes one once the target and the request to send are known. The steps of its life are its
/// methods: those that choose and decide are here, one turn of one peer is in `exchange.rs`, the body of the
/// response in `relay.rs`.
pub struct Pass<'a, 'c> {
    request: &'a mut Request,
    client: &'a mut Client<'c>,
    goal: &'a Goal,
    outgoing: Box<Outgoing>,
    /// The terms of its connections, for TLS.
    terms: Option<Arc<Terms>>,
    /// The options of its connections, if they are its own.
    local: Option<Box<connect::Options>>,
    session: Session,
    /// For a sticky group.
    binding: Option<Box<Binding>>,
    /// Through the response cache, if its location has one.
    course: Option<Box<Course>>,
    started_ms: u64,
}

/// The work that remains once the head of a response has been passed to the client.
enum Step {
    Reply(Reply),
    Tunnel(Box<Response>),
    Body,
}

impl Pass<'_, '_> {
    async fn respond(&mut self) -> Result<Option<Reply>, Error> {
        let mut answer = match self.exchange().await? {
            Ok(answer) => answer,
            Err(status) => return Ok(Some(self.unanswered(status))),
        };
        if let Some(binding) = &mut self.binding {
            self.request.proxied.set_head(Rc::clone(&answer.head));
            binding.answered(self.request);
        }
        if let Some(course) = &mut self.course {
            self.request.proxied.set_head(Rc::clone(&answer.head));
            if let Some(reply) = Box::pin(course.instead(self.request, &answer)).await {
                self.keep_replaced(answer);
                return Ok(Some(reply));
            }
        }
        // Await outside the `match`: its scrutinee would live in the future across the await.
        let step = self.start(&mut answer);
        if step.as_ref().is_err_and(|error| error.side == Side::Upstream) {
            self.blame();
        }
        match step? {
            Step::Reply(reply) => {
                if let (Reply::Status(status), Some(course)) = (&reply, &self.course)
                    && *status == answer.head.head.status
                {
                    course.note_replaced(self.request, &answer.head);
                }
                self.keep_unread(answer);
                return Ok(Some(reply));
            }
            Step::Tunnel(response) => {
                Box::pin(self.begin_tunnel(*response, answer)).await?;
                return Ok(None);
            }
            Step::Body => {}
        }
        let relayed = self.relay(answer).await;
        let is_cut = relayed.as_ref().is_err_and(|error| error.side == Side::Upstream);
        if is_cut && u64::from(self.request.upstream.last().held_ms) < SLOW_CLIENT_MS {
            self.blame();
        }
        relayed.map(|()| None)
    }

    /// The reply if no peer has answered: what is stored, or an error.
    #[cold]
    fn unanswered(&mut self, status: u16) -> Reply {
        let Some(course) = &mut self.course else { return Reply::Status(status) };
        let now_s = clock::wall_seconds();
        match course.take_stale(self.request, course.fault, now_s) {
            Some(stale) => stale.into_stale_reply(self.request, now_s),
            None => {
                course.note_error(self.request, status);
                Reply::Status(status)
            }
        }
    }

    /// Keeps the connection of a response that the cache's replaces.
    fn keep_replaced(&mut self, mut answer: Answer) {
        let method = self.request.upstream_method();
        let (head, data) = (&answer.head.head, answer.head.buffer.data());
        if answer.carrier.decoder().begin_body(head, data, method).is_ok() {
            self.keep_unread(answer);
        }
    }

    /// True if the client's leaving ends the exchange with the upstream.
    fn heeds_client(&self) -> bool {
        !self.request.passes().ignore_client_abort()
            && !self.course.as_ref().is_some_and(|course| course.is_storable)
    }

    /// Keeps the connection of a response that another reply replaces, if there is nothing left to read.
    #[cold]
    fn keep_unread(&mut self, answer: Answer) {
        let Answer { mut carrier, head, head_length } = answer;
        let is_read = carrier.decoder().is_done() && head.buffer.data().len() == head_length;
        if is_read && self.outgoing.is_done() {
            carrier.keep(&self.goal.group, self.outgoing.has_body());
        }
    }

    /// A function of its own, so that the response does not live in the future that waits for the body.
    fn start(&mut self, answer: &mut Answer) -> Result<Step, Error> {
        let request = &mut *self.request;
        Ok(match answer::begin(request, answer, self.outgoing.can_repeat())? {
            Next::Reply(reply) => Step::Reply(reply),
            Next::Tunnel(response) => Step::Tunnel(Box::new(response)),
            Next::Body(mut response) => {
                if let Some(course) = &mut self.course {
                    course.begin(request, &answer.head);
                    response.allows_ranges |= course.fill.is_some();
                    response.is_conditional = course.fill.is_some();
                    let length = response.content_length.unwrap_or(0);
                    if course.fill.is_some()
                        && let Some(reply) = cache::conditional(request, &response, length)
                    {
                        match reply {
                            Reply::Response(current, _) => response = *current,
                            other => return Ok(Step::Reply(other)),
                        }
                    }
                }
                self.client.start(request, response);
                if self.client.has_filters() {
                    self.outgoing.lend(&mut request.body);
                }
                Step::Body
            }
        })
    }

    /// Tries peers until one answers. `Err(status)`: none did.
    async fn exchange(&mut self) -> Result<Result<Answer, u16>, Error> {
        loop {
            let picked = match &self.goal.group.waiting {
                None => self.session.pick(runtime::now_ms()),
                Some(waiting) => self.pick_or_wait(waiting).await?,
            };
            if let Some(ejection) = self.session.take_ejection() {
                self.tell_ejection(&ejection);
            }
            let Some(peer) = picked else {
                return Ok(Err(self.no_peer()));
            };
            if let Some(binding) = &mut self.binding {
                binding.picked(self.request, &peer);
            }
            self.request.upstream.begin(Some(peer.clone()), &self.goal.group);
            let turn = match self.hedge_after_ms() {
                None if self.depends_on_peer() => Box::pin(self.suited_turn(&peer)).await,
                None => self.turn(&peer).await,
                Some(after_ms) => Box::pin(self.hedged_turn(&peer, after_ms)).await,
            };
            let stop = match turn {
                Ok(mut answer) => {
                    let status = answer.head.head.status;
                    let chance = self.chance();
                    let is_refused = chance.refuses(status) && self.may_retry();
                    if status >= 500 {
                        self.session.note_error();
                    }
                    if !is_refused && self.session.is_timed() {
                        self.note_head();
                    }
                    if is_refused {
                        Stop::Peer(Kind::Status(status).into())
                    } else if chance.blames(status) {
                        self.note_failure();
                        return Ok(Ok(answer));
                    } else if !chance.would_go_on_after(Fault::Error) {
                        return Ok(Ok(answer));
                    } else {
                        let held = match self.incomplete(&mut answer) {
                            Ok(Some(ahead)) => Box::pin(self.hold(&mut answer, ahead)).await,
                            Ok(None) => Ok(()),
                            Err(stop) => Err(stop),
                        };
                        match held {
                            Ok(()) => return Ok(Ok(answer)),
                            Err(stop) => stop,
                        }
                    }
                }
                Err(stop) => stop,
            };
            if let Some(status) = self.next(stop)? {
                return Ok(Err(status));
            }
        }
    }

    /// One peer's turn. If a kept connection turns out to be closed, a new one to the same peer replaces it; so does, a
    /// second time, one of its own if those that requests share end before they have begun this one.
    async fn turn(&mut self, peer: &Rc<Peer>) -> Result<Answer, Stop> {
        let mut repeats = 0;
        loop {
            let kept = if repeats > 0 { None } else { self.kept(peer) };
            let carrier = match kept {
                Some(carrier) => carrier,
                None => self.open(peer, repeats < REPEATS_MAX).await?,
            };
            match self.run(carrier).await {
                Err(Stop::Peer(failure))
                    if failure.is_stale
                        && (repeats == 0 || failure.is_unprocessed() && repeats < REPEATS_MAX)
                        && self.chance().repeats() =>
                {
                    self.outgoing.rewind();
                    repeats += 1;
                }
                answered => return answered,
            }
        }
    }

    /// The facts that decide whether the request is sent again.
    fn chance(&self) -> Chance {
        let conf = self.request.passes();
        let limit_ms = conf.next_timeout_ms();
        Chance {
            permitted: conf.next(),
            tries_left: self.session.tries_left(),
            is_late: limit_ms > 0 && runtime::now_ms().saturating_sub(self.started_ms) >= limit_ms,
            is_non_idempotent: retry::is_non_idempotent(self.request.method),
            has_begun: self.outgoing.has_begun(),
            can_repeat: self.outgoing.can_repeat(),
        }
    }

    /// The continuation after a peer's turn failed: another peer, or the status for the client.
    #[cold]
    fn next(&mut self, stop: Stop) -> Result<Option<u16>, Error> {
        let failure = match stop {
            Stop::Request(error) => return Err(error),
            Stop::Peer(failure) => failure,
        };
        self.tell(&failure);
        let fault = failure.kind.fault();
        let status = fault.status();
        if let Some(course) = &mut self.course {
            course.fault = fault;
        }
        let attempt = self.request.upstream.last();
        attempt.status = status;
        attempt.sent = self.outgoing.sent;
        let outcome = if self.is_held_by_client() { Outcome::Next } else { fault.into() };
        self.request.upstream.end();
        if self.session.finish(outcome, runtime::now_ms()) {
            self.tell_disabled();
        }
        if !self.chance().goes_on_after(fault) || !self.retries() {
            let (action, conf) = (self.request.upstream.action, self.request.passes());
            self.request.termination = Termination::of_failure(&failure, action, conf.prefix());
            return Ok(Some(status));
        }
        self.outgoing.rewind();
        Ok(None)
    }

    /// True if the peer has long been waiting for the rest of the client's body: it has not failed if it gives up then.
    /// Otherwise a slow client could have every server of a group left out.
    fn is_held_by_client(&mut self) -> bool {
        let is_waiting =
            self.outgoing.has_begun() && !self.outgoing.is_done() && !self.outgoing.waits_for_upstream;
        is_waiting && self.request.upstream.last().response_us() >= SLOW_CLIENT_MS * 1000
    }

    /// True if the group's budget permits another retry.
    fn may_retry(&self) -> bool {
        let group = &self.goal.group;
        group.group.retries.is_none_or(|rule| group.retries.is_left(rule, runtime::now_ms()))
    }

    /// Counts a retry. False: the group has had its share.
    fn retries(&self) -> bool {
        let group = &self.goal.group;
        let Some(rule) = group.group.retries else { return true };
        let is_left = group.retries.spend(rule, runtime::now_ms());
        if !is_left {
            let (request, name) = (&*self.request, &group.group.name);
            log::warn!(
                request.error_log(),
                request,
                "no other server is tried: more than {} % of the requests to \"{name}\" were repeated; \
                 \"retry_budget\" permits no more",
                rule.percent
            );
        }
        is_left
    }

    #[cold]
    fn no_peer(&mut self) -> u16 {
        let request = &mut *self.request;
        request.upstream.begin(None, &self.goal.group).status = 502;
        request.upstream.action = Some(Action::Connecting);
        request.termination = Some(Termination::new(Who::Upstream, How::Down, Phase::Connect));
        log::error!(request.error_log(), &*request, "no live upstreams");
        502
    }

    /// Logs a failure, unless it is a status, which the access log and perhaps the client get.
    fn tell(&self, failure: &Failure) {
        let request = &*self.request;
        let told = match failure.kind {
            Kind::Status(_) => return,
            Kind::HeadTooBig => limit::told(request, Limit::UpstreamHeadSize),
            _ => String::new(),
        };
        log::error!(request.error_log(), request, "{failure}{told}");
    }

    #[cold]
    fn tell_ejection(&self, ejection: &Ejection) {
        let (request, Ejection { peer, reason, time_ms }) = (&*self.request, ejection);
        log::warn!(
            request.error_log(),
            request,
            "upstream server {} of \"{}\" is ejected for {} s: {reason}",
            peer.name,
            self.goal.group.group.name,
            time_ms / 1000
        );
    }

    fn tell_disabled(&self) {
        let request = &*self.request;
        log::warn!(request.error_log(), request, "upstream server temporarily disabled");
    }

    /// Counts a failure of the peer whose response the client gets all the same.
    #[cold]
    fn note_failure(&mut self) {
        if self.session.blame(runtime::now_ms()) {
            self.tell_disabled();
        }
    }

    /// Tells the balancer when the head of a response has arrived.
    #[cold]
    fn note_head(&mut self) {
        let head_us = self.request.upstream.last().header_us.get().unwrap_or(0);
        self.session.note_head(head_us, runtime::now_ms());
    }

    /// Tells the balancer the times of a response that went well.
    #[cold]
    fn note_times(&mut self) {
        let attempt = self.request.upstream.last();
        if let Some(head_us) = attempt.header_us.get() {
            self.session.note_end(head_us, attempt.response_us());
        }
    }

    /// The peer cut its response off: later requests should prefer another peer.
    fn blame(&mut self) {
        if self.session.fail_late(runtime::now_ms()) {
            self.tell_disabled();
        }
    }

    /// `proxy_timeout_total` has expired: 504 if nothing was sent, otherwise the response is cut off. If the
    /// request was waiting for the upstream, that is blamed.
    #[cold]
    fn too_late(&mut self) -> Error {
        if !self.client.has_started() {
            self.request.upstream.last().status = 504;
            if !self.is_held_by_client() {
                self.blame();
            }
        }
        Error::upstream(Kind::Late).by(Limit::TotalTimeout)
    }
}

#[cfg(test)]
mod tests;
