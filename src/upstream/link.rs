//! A connection to a peer that many requests share: HTTP/2, with a stream for each of them.
//!
//! A task of its own reads, writes and watches the time; requests add to its output and take from its state through
//! their [`Stream`]s, so that the frames of all streams leave in one write of a turn of the loop. The connection stays
//! open while a stream is, and then as the rules of `keepalive` say (`links.rs`). A stream that fails leaves it as it is;
//! if one has waited too long, the peer is asked by a PING whether it is alive, and gets no new requests until it answers.
//! Touches: the peer's connection. Bounded by the protocol's state (`proto/h2/connection.rs`). RFC 9113.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use crate::log;
use crate::net::open::Place;
use crate::net::tls::client::Terms;
use crate::net::{Transport, drain};
use crate::proto::h2::connection::{Failure, Gone, OUTPUT_BYTES_MAX, Opening, RESPONSE_WINDOW_BYTES};
use crate::proto::h2::{Code, Connection, Limits};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Timer};
use crate::upstream::group::{Group, Keepalive};
use crate::upstream::links::Links;
use crate::upstream::peer::Peer;
use crate::upstream::pool::Tag;

/// Size of a read, and of one after a read that was full.
const READ_BYTES: usize = 16 * 1024;
const LONG_READ_BYTES: usize = 64 * 1024;
/// How long a peer may take to answer the PING that asks whether it is alive.
const PING_MS: u64 = 5000;
/// The account of a peer's frames without use: a gRPC server measures the path with PINGs, so it gets more than a client.
const ABUSE_MAX: u32 = 10_000;

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    /// The peer closed it.
    Closed,
    /// Reading or writing failed, with this errno; 0: unknown.
    Failed(i32),
    /// It did not answer a PING.
    Silent,
    /// This worker ends.
    Ours,
}

/// The facts about a new connection.
#[derive(Debug)]
pub struct Opened {
    pub transport: Transport,
    /// Counts it among the worker's connections.
    pub place: Place,
    pub peer: Rc<Peer>,
    pub tag: Tag,
    pub terms: Option<Arc<Terms>>,
    /// It serves one request only: its local address belongs to that request.
    pub is_single: bool,
}

/// A connection that requests share.
#[derive(Debug)]
pub struct Link {
    proto: RefCell<Connection>,
    task: RefCell<Option<Waker>>,
    peer: Rc<Peer>,
    tag: Tag,
    terms: Option<Arc<Terms>>,
    opened_ms: u64,
    rules: Keepalive,
    /// It stays open when no request uses it.
    is_lasting: bool,
    /// Requests so far.
    requests: Cell<u64>,
    /// Requests that have a stream now, or are about to open one.
    users: Cell<usize>,
    /// The log says that it has as many streams as it may have.
    is_full_told: Cell<bool>,
    idle_since_ms: Cell<u64>,
    /// It gets no further requests.
    is_over: Cell<bool>,
    /// When the peer was asked whether it is alive.
    asked_ms: Cell<Option<u64>>,
    lost: Cell<Option<Lost>>,
}

impl Link {
    /// Starts the task of a new connection. `links`: where it is found as long as it lives.
    pub(super) fn start(opened: Opened, group: &Group, links: &Rc<Links>) -> Rc<Self> {
        let rules = &group.keepalive;
        let Opened { transport, place, peer, tag, terms, is_single } = opened;
        let limits = Limits {
            streams_max: rules.streams_max,
            stream_window: RESPONSE_WINDOW_BYTES,
            abuse_max: ABUSE_MAX,
            ..Limits::default()
        };
        let now_ms = runtime::now_ms();
        let link = Rc::new(Self {
            proto: RefCell::new(Connection::client(limits)),
            task: RefCell::new(None),
            peer,
            tag,
            terms,
            opened_ms: now_ms,
            rules: rules.clone(),
            is_lasting: group.is_block,
            requests: Cell::new(0),
            users: Cell::new(0),
            is_full_told: Cell::new(false),
            idle_since_ms: Cell::new(now_ms),
            is_over: Cell::new(is_single || rules.idle_max == 0),
            asked_ms: Cell::new(None),
            lost: Cell::new(None),
        });
        let task = Task {
            link: Rc::clone(&link),
            transport,
            links: Rc::downgrade(links),
            rest: Buffer::default(),
            read_bytes: READ_BYTES,
            timer: Timer::new(),
            is_idle: false,
            _place: place,
        };
        runtime::spawn(run(task));
        link
    }

    /// True if a request to this peer, on these terms, may have a stream of it now.
    pub(super) fn fits(&self, peer: &Peer, tag: Tag, terms: Option<&Arc<Terms>>) -> bool {
        self.peer.address_id == peer.address_id
            && self.tag.fits(tag, self.rules.local)
            && super::pool::are_equal(self.terms.as_ref(), terms)
            && self.may_take()
    }

    fn may_take(&self) -> bool {
        let proto = self.proto.borrow();
        !self.is_over.get()
            && self.lost.get().is_none()
            && self.asked_ms.get().is_none()
            && (self.is_lasting || self.users.get() > 0)
            && self.users.get() < proto.streams_max()
            && proto.may_open_later()
            && proto.output().len() < OUTPUT_BYTES_MAX
    }

    /// A place for one more request. Its stream begins when its head is sent.
    pub fn join(self: &Rc<Self>) -> Stream {
        let requests = self.requests.get() + 1;
        self.requests.set(requests);
        self.users.set(self.users.get() + 1);
        self.tell_full();
        let age_ms = runtime::now_ms().saturating_sub(self.opened_ms);
        if requests >= self.rules.requests_max || age_ms > self.rules.time_ms {
            self.is_over.set(true);
        }
        Stream { link: Rc::clone(self), id: Cell::new(0), is_reused: requests > 1 }
    }

    /// Reports once that further requests need another connection.
    fn tell_full(&self) {
        let most = self.proto.borrow().streams_max();
        if self.users.get() < most || self.is_over.get() || self.is_full_told.replace(true) {
            return;
        }
        let (peer, ours) = (&self.peer.name, self.rules.streams_max as usize);
        let whose = if most < ours { "its server permits" } else { "\"keepalive_streams\" permits" };
        log::info!(
            log::process(),
            &(),
            "a connection to upstream server {peer} has {most} streams, as many as {whose}: further requests open \
             another one"
        );
    }

    /// True if no request uses it.
    pub(super) fn is_idle(&self) -> bool {
        self.users.get() == 0 && !self.is_over.get()
    }

    pub(super) fn idle_since_ms(&self) -> u64 {
        self.idle_since_ms.get()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.peer.is_retired()
    }

    /// Closes it as soon as no request uses it any more.
    pub(super) fn retire(&self) {
        self.is_over.set(true);
        self.wake();
    }

    fn wake(&self) {
        let task = self.task.take();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// The connection has ended, and with it all streams whose responses are not complete.
    fn lose(&self, lost: Lost) {
        self.is_over.set(true);
        if self.lost.get().is_none() {
            self.lost.set(Some(lost));
        }
        self.proto.borrow_mut().lose();
    }
}

/// A request's stream of a connection. Dropping it ends the stream, if it has not ended.
#[derive(Debug)]
pub struct Stream {
    link: Rc<Link>,
    /// 0: the head of the request has not been sent.
    id: Cell<u32>,
    is_reused: bool,
}

impl Stream {
    /// Opens the stream with a request's header block. Errors: the connection takes no further one.
    pub fn open(&self, block: &[u8], opening: Opening) -> Result<(), Gone> {
        let opened = self.link.proto.borrow_mut().open_stream(block, opening);
        self.id.set(opened?);
        self.link.wake();
        Ok(())
    }

    pub fn is_open(&self) -> bool {
        self.id.get() != 0
    }

    /// Calls `act` with the protocol's state and the number of the stream, then has the connection send.
    pub fn with<T>(&self, act: impl FnOnce(&mut Connection, u32) -> T) -> T {
        let result = act(&mut self.link.proto.borrow_mut(), self.id.get());
        self.link.wake();
        result
    }

    /// The same for what sends nothing.
    pub fn ask<T>(&self, act: impl FnOnce(&mut Connection, u32) -> T) -> T {
        act(&mut self.link.proto.borrow_mut(), self.id.get())
    }

    /// A place in the same connection for a further request. `None`: it takes none.
    pub fn beside(&self) -> Option<Self> {
        self.link.may_take().then(|| self.link.join())
    }

    /// True if the connection had served another request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// How the connection ended; `None`: it has not.
    pub fn lost(&self) -> Option<Lost> {
        self.link.lost.get()
    }

    /// The rule that the peer broke, or its flood, for which the connection was ended.
    pub fn failure(&self) -> Option<Failure> {
        self.link.proto.borrow().failure()
    }

    /// The stream has waited too long: if the peer does not answer a PING, the connection is dead.
    pub fn suspect(&self) {
        if self.link.asked_ms.get().is_none() && self.link.lost.get().is_none() {
            self.link.asked_ms.set(Some(runtime::now_ms()));
            self.with(|proto, _| proto.ping());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let link = &self.link;
        if self.is_open() {
            link.proto.borrow_mut().close(self.id.get(), Code::CANCEL);
        }
        link.users.set(link.users.get().saturating_sub(1));
        link.idle_since_ms.set(runtime::now_ms());
        link.wake();
    }
}

/// The task of a connection.
struct Task {
    link: Rc<Link>,
    transport: Transport,
    links: Weak<Links>,
    /// Bytes that have arrived and are less than a frame.
    rest: Buffer,
    read_bytes: usize,
    timer: Timer,
    /// No request used it at the last turn.
    is_idle: bool,
    _place: Place,
}

impl Task {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let link = Rc::clone(&self.link);
        link.task.replace(Some(cx.waker().clone()));
        loop {
            if drain::mode() >= drain::Mode::Now {
                link.lose(Lost::Ours);
                return Poll::Ready(());
            }
            match self.poll_output(cx) {
                Poll::Ready(Err(error)) => return self.lost(&error),
                Poll::Ready(Ok(())) if link.proto.borrow().failure().is_some() => return Poll::Ready(()),
                Poll::Ready(Ok(())) if self.is_over() => return Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            match self.poll_input(cx) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) => {
                    link.lose(Lost::Closed);
                    return Poll::Ready(());
                }
                Poll::Ready(Err(error)) => return self.lost(&error),
                Poll::Pending => {}
            }
            return self.poll_time(cx);
        }
    }

    fn lost(&self, error: &io::Error) -> Poll<()> {
        self.link.lose(Lost::Failed(error.raw_os_error().unwrap_or(0)));
        Poll::Ready(())
    }

    /// True if nothing keeps the connection open.
    fn is_over(&mut self) -> bool {
        let link = &self.link;
        if link.users.get() > 0 {
            self.is_idle = false;
            return false;
        }
        if !std::mem::replace(&mut self.is_idle, true) {
            link.proto.borrow_mut().slim();
            if let Some(links) = self.links.upgrade() {
                links.close_excess();
            }
        }
        link.is_over.get()
            || !link.is_lasting
            || link.is_retired()
            || drain::mode() != drain::Mode::Serving
            || !link.proto.borrow().may_open_later()
    }

    /// Writes what waits. Ready when nothing is left.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut proto = self.link.proto.borrow_mut();
            if proto.output().is_empty() {
                return self.transport.poll_flush(cx);
            }
            let count = ready!(self.transport.poll_write(cx, proto.output()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            proto.sent(count);
        }
    }

    /// Reads once. Ready with false at the end.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.link.proto.borrow().failure().is_some() {
            return Poll::Pending;
        }
        ready!(self.transport.poll_readable(cx))?;
        ready!(self.transport.poll_budget(cx));
        let mut buffer = Buffer::take(self.read_bytes);
        let kept = self.rest.data().len();
        buffer.extend(self.rest.data());
        let wanted = self.read_bytes - kept;
        let count = ready!(self.transport.poll_read(cx, &mut buffer.space()[..wanted]))?;
        if count == 0 {
            return Poll::Ready(Ok(false));
        }
        self.read_bytes = if count == wanted { LONG_READ_BYTES } else { READ_BYTES };
        buffer.filled(count);
        let used = self.link.proto.borrow_mut().handle(buffer.data(), runtime::now_ms());
        buffer.consume(used);
        self.rest = if buffer.data().is_empty() { Buffer::default() } else { Buffer::exactly(buffer.data()) };
        if self.link.asked_ms.get().is_some() && !self.link.proto.borrow().is_pinging() {
            self.link.asked_ms.set(None); // it is alive
        }
        Poll::Ready(Ok(true))
    }

    /// Waits for whichever time comes first. Ready: the connection ends.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let link = &self.link;
        let idle = self.is_idle.then(|| link.idle_since_ms.get() + link.rules.timeout_ms);
        let asked = link.asked_ms.get().map(|since| since + PING_MS);
        let Some(first) = [idle, asked].into_iter().flatten().min() else {
            self.timer.cancel();
            return Poll::Pending;
        };
        self.timer.set(first);
        ready!(self.timer.poll_expired(cx));
        if asked == Some(first) {
            link.lose(Lost::Silent);
        }
        Poll::Ready(())
    }
}

async fn run(mut task: Task) {
    poll_fn(|cx| task.poll(cx)).await;
    let Task { link, links, .. } = &task;
    link.lose(Lost::Closed);
    if let Some(links) = links.upgrade() {
        links.forget(link);
    }
}
