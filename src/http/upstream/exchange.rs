//! The exchange of one request with one peer, until the response head has arrived.
//!
//! Touches: the upstream's socket, and the client's to read the body and to notice that it has gone. The
//! response may arrive before the whole request has been sent; the rest is then sent while the body is
//! relayed.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::http::modules::early_hints;
use crate::http::request::Request;
use crate::http::request::error::{Call, During, Error, Failure, Kind};
use crate::http::upstream::Pass;
use crate::http::upstream::carrier::Carrier;
use crate::http::upstream::codec::Progress;
use crate::http::upstream::conf::Conf;
use crate::http::upstream::outgoing::SendFault;
use crate::http::upstream::proxied::Head;
use crate::http::upstream::{handshake, notes, selection};
use crate::net::connect::{self, Refusal};
use crate::net::tls::client::Terms;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Timer};
use crate::upstream::link::Opened;
use crate::upstream::pool::{Binding, Connection, Tag};
use crate::upstream::trace::Action;
use crate::upstream::{Fault, GroupState, Peer};

/// Size of the buffer for a response head and the start of the body.
const READ_BYTES: usize = 16 * 1024;

/// Maximum number of interim responses (1xx) before the final one.
const INTERIM_MAX: u32 = 32;

/// The side that ended an exchange.
#[derive(Debug)]
pub enum Stop {
    /// The client, or this server: another peer cannot help.
    Request(Error),
    Peer(Failure),
}

/// A response head, and the carrier of its body.
#[derive(Debug)]
pub struct Answer {
    pub carrier: Carrier,
    /// The head; its buffer also contains the start of the body.
    pub head: Rc<Head>,
    /// The length of the head in the buffer.
    pub head_length: usize,
}

impl Answer {
    /// That of a peer of which nothing is asked but to be connected.
    pub fn connected(carrier: Carrier) -> Self {
        let mut head = Head::default();
        head.head.status = 200;
        Self { carrier, head: Rc::new(head), head_length: 0 }
    }
}

fn fail(kind: Kind) -> Stop {
    Stop::Peer(kind.into())
}

/// The tag of connections for a request.
#[inline]
fn tag(request: &Request) -> Tag {
    Tag::new(request.location.id.0, request.location.protocol as u8)
}

/// Opens a connection to `peer`, encrypted if there are terms for that; `local`: with options of its own.
async fn connection(
    request: &mut Request,
    peer: &Rc<Peer>,
    (group, terms): (&GroupState, Option<&Arc<Terms>>),
    local: Option<&connect::Options>,
) -> Result<Box<Connection>, Stop> {
    let conf = request.passes();
    let tag = tag(request);
    let is_single = local.is_some();
    request.upstream.action = Some(Action::Connecting);
    let started_us = runtime::now_us();
    let options = local.unwrap_or(conf.connect_options());
    let opened = connect::open(&peer.address, options, conf.connect_timeout_ms()).await;
    let (mut transport, place) = opened.map_err(refused)?;
    if let Some(terms) = terms {
        let spent_ms = runtime::now_us().saturating_sub(started_us) / 1000;
        let left_ms = conf.connect_timeout_ms().saturating_sub(spent_ms);
        Box::pin(handshake::secure(request, &mut transport, terms, (group, peer), left_ms)).await?;
    }
    request.upstream.last().connect_us = runtime::now_us().saturating_sub(started_us).into();
    let opened_ms = runtime::now_ms();
    Ok(Box::new(Connection {
        transport,
        place,
        peer: Rc::clone(peer),
        tag,
        terms: terms.cloned(),
        requests: 1,
        opened_ms,
        is_single,
        reused: false,
        client: binds(request, group),
        timer: Timer::new(),
    }))
}

/// The client whose connection a new one is bound to from the beginning, because it authenticates there (`ntlm`).
#[inline]
fn binds(request: &Request, group: &GroupState) -> Option<Rc<Binding>> {
    if !group.group.keepalive.binds || !selection::authenticates(request) {
        return None;
    }
    selection::client(request).map(Binding::to)
}

/// Takes the kept connection that is bound to the client, or another one, which is bound to it if it authenticates there.
#[cold]
fn take_for(
    request: &Request,
    group: &GroupState,
    peer: &Rc<Peer>,
    (tag, terms): (Tag, Option<&Arc<Terms>>),
) -> Option<Box<Connection>> {
    let mut connection = match selection::client(request) {
        Some(client) => group.take_for(client, peer, tag, terms)?,
        None => group.take(peer, tag, terms)?,
    };
    if connection.client.is_none() {
        connection.client = binds(request, group);
    }
    Some(connection)
}

/// If the worker lacks room, another peer could not help, and this one has not failed.
#[cold]
fn refused(refusal: Refusal) -> Stop {
    match refusal {
        Refusal::NoPlace | Refusal::Shortage(_) => Stop::Request(Error::ours(refusal.to_string())),
        Refusal::Failed(error) => fail(Kind::Failed(Call::Connect, error)),
        Refusal::TimedOut => fail(Kind::TimedOut),
    }
}

impl Pass<'_, '_> {
    /// Takes a kept connection to `peer` for one exchange, unless the request needs one with a local address of its own.
    ///
    /// Not part of [`Pass::open`]: most requests find one, and would otherwise make futures for opening it.
    pub(super) fn kept(&mut self, peer: &Rc<Peer>) -> Option<Carrier> {
        if self.request.passes().has_own_local() {
            return None;
        }
        let (tag, terms) = (tag(self.request), self.terms.as_ref());
        if self.outgoing.encoder().has_streams() {
            let stream = self.goal.group.links.take(peer, tag, terms)?;
            self.request.upstream.last().connect_us = 0.into();
            return Some(stream.into());
        }
        let group = &self.goal.group;
        let connection = if group.group.keepalive.binds {
            take_for(self.request, group, peer, (tag, terms))?
        } else {
            group.take(peer, tag, terms)?
        };
        self.request.upstream.last().connect_us = 0.into();
        Some(Carrier::Own { connection, decoder: self.outgoing.decoder() })
    }

    /// Opens a new connection to `peer` for one exchange. `shares`: it may be one that another request opens.
    pub(super) async fn open(&mut self, peer: &Rc<Peer>, shares: bool) -> Result<Carrier, Stop> {
        if self.outgoing.encoder().has_streams() {
            return Box::pin(self.open_link(peer, shares)).await;
        }
        let (goal, local) = ((&*self.goal.group, self.terms.as_ref()), self.local.as_deref());
        let connection = connection(self.request, peer, goal, local).await?;
        Ok(Carrier::Own { connection, decoder: self.outgoing.decoder() })
    }

    /// Opens a connection to `peer` that further requests may share, or waits for one that is being opened.
    async fn open_link(&mut self, peer: &Rc<Peer>, shares: bool) -> Result<Carrier, Stop> {
        let group = &self.goal.group;
        let (tag, terms, rules) = (tag(self.request), self.terms.as_ref(), &group.group.keepalive);
        let mut announced = None;
        if shares && rules.idle_max > 0 && !self.request.passes().has_own_local() {
            let started_us = runtime::now_us();
            self.request.upstream.action = Some(Action::Connecting);
            announced = group.links.announce(peer, tag, terms, rules).await;
            if announced.is_none()
                && let Some(stream) = group.links.take(peer, tag, terms)
            {
                let spent_us = runtime::now_us().saturating_sub(started_us);
                self.request.upstream.last().connect_us = spent_us.into();
                return Ok(stream.into());
            }
        }
        let connection = *connection(self.request, peer, (group, terms), self.local.as_deref()).await?;
        let Connection { transport, place, peer, tag, terms, is_single, .. } = connection;
        // what is not shared from the start does not wait for others afterwards: a probe leaves nothing behind
        let is_single = is_single || !shares;
        let stream = group.links.add(Opened { transport, place, peer, tag, terms, is_single }, &group.group);
        drop(announced);
        Ok(stream.into())
    }

    /// Sends the request and reads until a final response head is complete.
    pub(super) async fn run(&mut self, carrier: Carrier) -> Result<Answer, Stop> {
        let mut carrier = carrier;
        let conf = self.request.passes();
        let mut held: Option<Buffer> = None;
        // Variables refer to it until the request ends. `default` builds its 700 bytes in place, unlike
        // `new`.
        let mut answer = Rc::<Head>::default();
        let mut wait = Wait::new(conf, carrier.take_timer());
        let mut interim_count = 0;
        self.request.upstream.action = Some(Action::Sending);
        loop {
            let read = poll_fn(|cx| wait.poll(cx, self, &carrier, &mut held, READ_BYTES)).await;
            let mut buffer = held.take().unwrap_or_default();
            match read {
                Ok(0) => {
                    let kind =
                        wait.send_error.take().map_or(Kind::Cut, |error| Kind::Failed(Call::Send, error));
                    return Err(lost(kind, &carrier, &buffer));
                }
                Ok(_) => self.request.upstream.last().received = buffer.data().len() as u64,
                Err(Stop::Peer(failure)) => {
                    if matches!(failure.kind, Kind::Unprocessed) {
                        self.outgoing.unsend();
                    }
                    return Err(lost(failure.kind, &carrier, &buffer));
                }
                Err(stop) => return Err(stop),
            }
            while !buffer.data().is_empty() {
                let Some(Head { head, buffer: place }) = Rc::get_mut(&mut answer) else { break };
                let progress = carrier.decoder().head(&mut buffer, conf.head_bytes_max(), head);
                if let Some(notes) = carrier.decoder().notes(progress.is_err()) {
                    notes::tell(self.request, &notes).map_err(fail)?;
                }
                match progress.map_err(fail)? {
                    Progress::Interim(length) => {
                        // a 100 answers an expectation that was never passed on
                        interim_count += 1;
                        if interim_count > INTERIM_MAX {
                            return Err(fail(Kind::TooManyInterim));
                        }
                        if head.status == 103 && early_hints::is_wanted(self.request) {
                            let passed = Box::pin(early_hints::pass(
                                self.request,
                                self.client.downstream(),
                                head,
                                buffer.data(),
                            ))
                            .await;
                            passed.map_err(Stop::Request)?;
                        }
                        buffer.consume(length);
                        head.clear();
                    }
                    Progress::Complete(head_length) => {
                        let attempt = self.request.upstream.last();
                        attempt.status = head.status;
                        attempt.header_us = runtime::now_us().saturating_sub(attempt.started_us).into();
                        carrier.keep_timer(wait.timer);
                        *place = buffer;
                        return Ok(Answer { carrier, head: answer, head_length });
                    }
                    Progress::Partial => break,
                }
            }
            if buffer.space().is_empty() {
                if buffer.data().len() >= conf.head_bytes_max() {
                    return Err(fail(Kind::HeadTooBig));
                }
                buffer.grow((buffer.capacity() * 2).min(conf.head_bytes_max().max(READ_BYTES)));
            }
            held = (!buffer.data().is_empty()).then_some(buffer);
        }
    }
}

fn lost(kind: Kind, carrier: &Carrier, buffer: &Buffer) -> Stop {
    let is_stale = matches!(kind, Kind::Unprocessed)
        || carrier.is_reused() && buffer.data().is_empty() && kind.fault() == Fault::Error;
    Stop::Peer(Failure { kind, is_stale })
}

/// The wait for the upstream while the request is being sent.
#[derive(Debug)]
pub struct Wait {
    conf: &'static Conf,
    pub timer: Timer,
    /// The timer runs for a write instead of a read.
    is_sending: bool,
    /// Sending failed; the response may have been sent before that, so reading continues.
    pub send_error: Option<io::Error>,
    sent: u64,
    /// The whole request was sent: nothing asks for its state again.
    is_sent: bool,
}

impl Wait {
    /// `timer` belongs to the connection and is reused for its next request.
    pub fn new(conf: &'static Conf, timer: Timer) -> Self {
        Self { conf, timer, is_sending: false, send_error: None, sent: 0, is_sent: false }
    }

    /// Reads as [`Carrier::poll_read`] does, and meanwhile sends the rest of the request. Ready with the number of bytes
    /// read, 0 at the end of the connection.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pass: &mut Pass<'_, '_>,
        carrier: &Carrier,
        held: &mut Option<Buffer>,
        capacity: usize,
    ) -> Poll<Result<usize, Stop>> {
        if let Poll::Ready(stop) = self.poll_send(cx, pass, carrier) {
            return Poll::Ready(Err(stop));
        }
        match carrier.poll_read(cx, held, capacity) {
            Poll::Ready(Ok(count)) => {
                self.timer.cancel();
                return Poll::Ready(Ok(count));
            }
            Poll::Ready(Err(error)) => {
                let kind = match (carrier.trouble(), self.send_error.take()) {
                    (Some(kind), _) => kind,
                    (None, Some(earlier)) => Kind::Failed(Call::Send, earlier),
                    (None, None) => Kind::Failed(Call::Recv, error),
                };
                return Poll::Ready(Err(fail(kind)));
            }
            Poll::Pending => {}
        }
        let polled = self.poll_patience(cx, pass);
        if matches!(&polled, Poll::Ready(Err(Stop::Peer(_)))) {
            carrier.suspect();
        }
        polled
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, pass: &mut Pass<'_, '_>, carrier: &Carrier) -> Poll<Stop> {
        if self.is_sent {
            return Poll::Pending;
        }
        let (request, outgoing) = (&mut *pass.request, &mut pass.outgoing);
        if outgoing.is_done() || self.send_error.is_some() {
            return Poll::Pending;
        }
        let client = pass.client.downstream();
        let polled = match carrier {
            Carrier::Own { connection, .. } => {
                outgoing.poll_send(cx, &connection.transport, &mut request.body, client)
            }
            Carrier::Stream { exchange, .. } => outgoing.poll_stream(cx, exchange, request, client),
        };
        match polled {
            Poll::Ready(Ok(())) => {
                self.is_sent = true;
                let attempt = request.upstream.last();
                attempt.sent = outgoing.sent;
                attempt.sent_us = runtime::now_us().saturating_sub(attempt.started_us).into();
                request.upstream.action = Some(Action::ReadingHead);
                self.timer.cancel();
            }
            Poll::Ready(Err(SendFault::Client(error))) => return Poll::Ready(Stop::Request(error)),
            Poll::Ready(Err(SendFault::Upstream(error))) => self.send_error = Some(error),
            Poll::Pending => {}
        }
        if outgoing.sent != self.sent {
            self.sent = outgoing.sent;
            self.timer.cancel();
        }
        Poll::Pending
    }

    /// Ready if the client has gone, or the upstream has been silent for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>, pass: &Pass<'_, '_>) -> Poll<Result<usize, Stop>> {
        let outgoing = &pass.outgoing;
        if pass.heeds_client() && pass.client.downstream().poll_gone(cx).is_ready() {
            let action = pass.request.upstream.action.unwrap_or(Action::ReadingBody);
            return Poll::Ready(Err(Stop::Request(Error::left().during(During::Upstream(action)))));
        }
        let is_sending = !self.is_sent && !outgoing.is_done() && self.send_error.is_none();
        if is_sending && !outgoing.waits_for_upstream {
            // the client's own timeout is running
            self.timer.cancel();
            return Poll::Pending;
        }
        if self.is_sending != is_sending || !self.timer.is_set() {
            self.is_sending = is_sending;
            let after = if is_sending { self.conf.send_timeout_ms() } else { self.conf.read_timeout_ms() };
            self.timer.set(runtime::now_ms() + after);
        }
        if self.timer.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(fail(Kind::TimedOut)))
    }
}
