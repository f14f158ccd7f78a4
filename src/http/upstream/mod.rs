//! The life of a proxied request, top to bottom: a group, a peer, a connection, the exchange, the answer.
//!
//! Touches: the client's socket and the upstream's. Whether another peer may be tried is decided here and in
//! `upstream/fault.rs`; the body is relayed in `http/upstream/relay.rs`.
//! Behaviour: nginx.org, ngx_http_proxy_module and ngx_http_upstream_module.

mod answer;
pub mod conf;
pub mod exchange;
pub mod failover;
pub mod outgoing;
pub mod proxied;
pub mod relay;
pub mod store;
mod target;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::http::client::Client;
use crate::http::downstream::Downstream;
use crate::http::request::Request;
use crate::http::request::error::{Error, Failure, Kind, Limit, Side};
use crate::http::request::limit;
use crate::http::request::termination::{self, How, Phase, Termination, Who};
use crate::http::response::Response;
use crate::http::verdict::Reply;
use crate::log;
use crate::proto::h1::length::BodyLength;
use crate::proto::message::Method;
use crate::runtime::{self, Timer};
use crate::upstream::trace::Action;
use crate::upstream::{Fault, GroupState, Outcome, Session};
use answer::Next;
use conf::Conf;
use exchange::{Answer, Stop};
use outgoing::Outgoing;
use target::Goal;

/// Passes a request to the upstream of its location and the answer to the client.
///
/// `Some`: an answer of our own instead (an error, an internal redirect). Errors: the client's, and those of
/// an upstream that fails inside a body that the client has begun to get.
pub async fn proxy(request: &mut Request, client: &mut Client<'_>) -> Result<Option<Reply>, Error> {
    request.upstream.begin_pass();
    request.proxied.begin_pass();
    request.termination = None;
    let goal =
        Goal::find(request, client.downstream()).await.map_err(|error| noted(request, client, error))?;
    let outgoing = Outgoing::prepare(request, client.downstream(), &goal).await;
    let mut outgoing = outgoing.map_err(|error| noted(request, client, error))?;
    if std::mem::take(&mut request.values.gave_up) {
        outgoing.give_back(&mut request.body);
        return Ok(Some(Reply::Status(500)));
    }
    let mut session = Session::new(&goal.group, request.passes().next_tries());
    let total_ms = request.passes().timeout_total_ms();
    let mut deadline = Timer::new();
    if total_ms > 0 {
        deadline.set(runtime::now_ms() + total_ms);
    }
    // In one place, timed or not, so that it becomes part of this future's code.
    let outcome = {
        let mut responding = pin!(respond(request, client, &goal, &mut outgoing, &mut session));
        poll_fn(|cx| match deadline.poll_expired(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => responding.as_mut().poll(cx).map(Some),
        })
        .await
    };
    let outcome = outcome.unwrap_or_else(|| Err(too_late(request, client, &mut session)));
    let outcome = outcome.map_err(|error| noted(request, client, error));
    request.upstream.end();
    if let Ok(Some(_)) = &outcome {
        outgoing.give_back(&mut request.body);
    }
    // an error of the upstream is logged by the pipeline, with what was under way
    if !outcome.as_ref().is_err_and(|error| error.side == Side::Upstream) {
        request.upstream.action = None;
    }
    outcome
}

/// `proxy_timeout_total` is over: 504 while nothing was sent, else the answer is cut. What it was waiting for is
/// blamed if that was the upstream.
#[cold]
fn too_late(request: &mut Request, client: &Client<'_>, session: &mut Session) -> Error {
    if !client.has_started() {
        request.upstream.last().status = 504;
        blame(request, session);
    }
    Error::upstream(Kind::Late).by(Limit::TotalTimeout)
}

/// Noted while it is known what was under way.
fn noted(request: &mut Request, client: &Client<'_>, error: Error) -> Error {
    termination::note(request, client.has_started(), &error);
    error
}

async fn respond(
    request: &mut Request,
    client: &mut Client<'_>,
    goal: &Goal,
    outgoing: &mut Outgoing,
    session: &mut Session,
) -> Result<Option<Reply>, Error> {
    let answer = match exchange(request, client.downstream(), goal, outgoing, session).await? {
        Ok(answer) => answer,
        Err(status) => return Ok(Some(Reply::Status(status))),
    };
    // What is matched lives as long as its arms: the body is awaited outside.
    let step = start(request, client, &answer, outgoing);
    if step.as_ref().is_err_and(|error| error.side == Side::Upstream) {
        blame(request, session);
    }
    let length = match step? {
        Step::Reply(reply) => return Ok(Some(reply)),
        Step::Tunnel(response) => {
            Box::pin(relay::begin_tunnel(request, client, *response, answer)).await?;
            return Ok(None);
        }
        Step::Body(length) => length,
    };
    let relayed = relay::body(request, client, &goal.group, answer, length, outgoing).await;
    if relayed.as_ref().is_err_and(|error| error.side == Side::Upstream) {
        blame(request, session);
    }
    relayed.map(|()| None)
}

/// The peer has broken its answer off: the next requests had better go to another one.
fn blame(request: &Request, session: &mut Session) {
    if session.fail_late(runtime::now_ms()) {
        log::warn!(request.error_log(), request, "upstream server temporarily disabled");
    }
}

/// What is left to do once the head of an answer is the client's.
enum Step {
    Reply(Reply),
    Tunnel(Box<Response>),
    Body(BodyLength),
}

/// A function of its own, so that no response lives in the future that waits for the body.
fn start(
    request: &mut Request,
    client: &mut Client<'_>,
    answer: &Answer,
    outgoing: &Outgoing,
) -> Result<Step, Error> {
    Ok(match answer::begin(request, answer, outgoing.can_repeat())? {
        Next::Reply(reply) => Step::Reply(reply),
        Next::Tunnel(response) => Step::Tunnel(Box::new(response)),
        Next::Body(response, length) => {
            client.start(request, response);
            if client.has_filters() {
                outgoing.lend(&mut request.body);
            }
            Step::Body(length)
        }
    })
}

/// Tries peers until one answers. `Err(status)`: none did.
async fn exchange(
    request: &mut Request,
    client: Downstream<'_>,
    goal: &Goal,
    outgoing: &mut Outgoing,
    session: &mut Session,
) -> Result<Result<Answer, u16>, Error> {
    let conf = request.passes();
    let group = &*goal.group;
    let tag = std::ptr::from_ref(request.location).addr();
    let started_ms = runtime::now_ms();
    loop {
        let Some(peer) = session.pick(runtime::now_ms()) else {
            return Ok(Err(nobody_there(request, group)));
        };
        request.upstream.begin(Some(peer.clone()), group);
        let stop = match turn(request, client, group, &peer, tag, outgoing).await {
            Ok(answer) => match refused(request, &answer, session, conf, outgoing, started_ms) {
                None => return Ok(Ok(answer)),
                Some(status) => Stop::Peer(Kind::Status(status).into()),
            },
            Err(stop) => stop,
        };
        if let Some(status) = next(request, session, outgoing, stop, started_ms)? {
            return Ok(Err(status));
        }
    }
}

#[cold]
fn nobody_there(request: &mut Request, group: &GroupState) -> u16 {
    request.upstream.begin(None, group).status = 502;
    request.upstream.action = Some(Action::Connecting);
    request.termination = Some(Termination::new(Who::Upstream, How::Down, Phase::Connect));
    log::error!(request.error_log(), &*request, "no live upstreams");
    502
}

/// What follows a peer's turn without an answer: another peer's, or the status that is left to tell.
#[cold]
fn next(
    request: &mut Request,
    session: &mut Session,
    outgoing: &mut Outgoing,
    stop: Stop,
    started_ms: u64,
) -> Result<Option<u16>, Error> {
    let conf = request.passes();
    let failure = match stop {
        Stop::Request(error) => return Err(error),
        Stop::Peer(failure) => failure,
    };
    tell(request, &failure);
    let fault = failure.kind.fault();
    let status = fault.status();
    let attempt = request.upstream.last();
    attempt.status = status;
    attempt.sent = outgoing.sent;
    request.upstream.end();
    let outcome = if fault.is_failure() { Outcome::Failed } else { Outcome::Next };
    if session.finish(outcome, runtime::now_ms()) {
        log::warn!(request.error_log(), &*request, "upstream server temporarily disabled");
    }
    if !may_go_on(request, session, conf, outgoing, fault, started_ms) {
        request.termination = Termination::of_failure(&failure, request.upstream.action, conf);
        return Ok(Some(status));
    }
    outgoing.rewind();
    Ok(None)
}

/// A status is not told: the access log has it, and the client may get it.
fn tell(request: &Request, failure: &Failure) {
    let told = match failure.kind {
        Kind::Status(_) => return,
        Kind::HeadTooBig => limit::told(request, Limit::UpstreamHeadSize),
        _ => String::new(),
    };
    log::error!(request.error_log(), request, "{failure}{told}");
}

/// One peer's turn. A kept connection that turns out to be closed is replaced by a new one to the same peer.
async fn turn(
    request: &mut Request,
    client: Downstream<'_>,
    group: &GroupState,
    peer: &std::rc::Rc<crate::upstream::Peer>,
    tag: usize,
    outgoing: &mut Outgoing,
) -> Result<Answer, Stop> {
    let mut is_fresh = false;
    loop {
        let connection = exchange::open(request, group, peer, tag, is_fresh).await?;
        match exchange::run(request, client, outgoing, connection).await {
            Err(Stop::Peer(failure)) if failure.is_stale && !is_fresh && may_repeat(request, outgoing) => {
                outgoing.rewind();
                is_fresh = true;
            }
            answered => return answered,
        }
    }
}

/// Whether a request that met a closed connection may be sent once more: nothing of it was sent, or it does
/// no harm to do it twice (RFC 9110 §9.2.2).
fn may_repeat(request: &Request, outgoing: &Outgoing) -> bool {
    outgoing.can_repeat()
        && (!outgoing.has_begun()
            || !is_unsafe(request)
            || request.passes().next().permits(Fault::Error, true))
}

/// The status, when the answer is one that sends the request to another peer.
fn refused(
    request: &Request,
    answer: &Answer,
    session: &Session,
    conf: &Conf,
    outgoing: &Outgoing,
    started_ms: u64,
) -> Option<u16> {
    let status = answer.head.head.status;
    let fault = Fault::Status(status);
    // the last try's answer goes to the client as it is
    let is_last = session.tries_left() <= 1;
    let is_late = is_late(conf, started_ms);
    let permitted =
        !is_last && !is_late && outgoing.can_repeat() && conf.next().permits(fault, is_unsafe(request));
    permitted.then_some(status)
}

fn may_go_on(
    request: &Request,
    session: &Session,
    conf: &Conf,
    outgoing: &Outgoing,
    fault: Fault,
    started_ms: u64,
) -> bool {
    session.tries_left() > 0
        && outgoing.can_repeat()
        && conf.next().permits(fault, outgoing.has_begun() && is_unsafe(request))
        && !is_late(conf, started_ms)
}

fn is_late(conf: &Conf, started_ms: u64) -> bool {
    let limit_ms = conf.next_timeout_ms();
    limit_ms > 0 && runtime::now_ms().saturating_sub(started_ms) >= limit_ms
}

/// The methods whose requests must not be sent twice (nginx's list).
fn is_unsafe(request: &Request) -> bool {
    matches!(request.method, Method::Post | Method::Lock | Method::Patch)
}
