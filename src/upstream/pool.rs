//! Connections to peers that wait for their next request.
//!
//! Each group has one stack per worker, with the most recently used connection on top, since that one is the
//! least likely to be closed by its peer. One task per group watches them all. It closes connections that the
//! peer has closed or sent unexpected bytes on, connections idle for too long, and all of them when the
//! worker leaves. Taking and giving cost no system call. When the worker is short of descriptors or places,
//! the longest-idle connections are closed, group by group. With `ntlm` a connection may be bound to a client's
//! connection: it serves no other client, is not among those that `keepalive` counts, and closes with the client's.
//! Behaviour: nginx.org, `keepalive` and `ntlm` of ngx_http_upstream_module.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::num::NonZeroU64;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::net::open::Place;
use crate::net::tls::client::Terms;
use crate::net::{Transport, clients, drain, room};
use crate::runtime::{self, Timer};
use crate::shm::counter::Slot;
use crate::shm::gauges::{Gauge, Present};
use crate::upstream::group::Keepalive;
use crate::upstream::links;
use crate::upstream::peer::Peer;

/// A connection to a peer, with the facts that decide about its reuse.
///
/// The exchange of a request owns it, and gives it to the [`Pool`] if the response ended cleanly. Dropping it
/// closes it. Its owners keep it in a box, since it moves at each of their steps.
#[derive(Debug)]
pub struct Connection {
    pub transport: Transport,
    /// Counts it among the worker's connections.
    pub place: Place,
    pub peer: Rc<Peer>,
    /// The location that opened it, which alone may reuse it if connections are `local`, and its protocol.
    pub tag: Tag,
    /// The terms on which it is encrypted; `None`: it is plain. Only requests with equal terms may use it.
    pub terms: Option<Arc<Terms>>,
    /// Number of requests so far, including the current one.
    pub requests: u64,
    pub opened_ms: u64,
    /// Close it after its request: its local address belongs to that request.
    pub is_single: bool,
    /// It has served a request before, so its peer may close it at any moment.
    pub reused: bool,
    /// The client's connection that it is bound to.
    pub client: Option<Rc<Binding>>,
    /// The timer for its waits, kept from one request to the next.
    pub timer: Timer,
}

impl Connection {
    /// Lends the timer, cancelled, to one request.
    pub fn take_timer(&mut self) -> Timer {
        let mut timer = std::mem::take(&mut self.timer);
        timer.cancel();
        timer
    }
}

/// The number of a client's connection.
pub type ClientNumber = NonZeroU64;

/// A client's connection that connections to peers are bound to, for as long as there are any.
#[derive(Debug)]
pub struct Binding {
    client: ClientNumber,
    /// The client's connection has ended: nobody may use those that were bound to it.
    is_over: Cell<bool>,
}

impl Binding {
    /// The binding to a client, the same for all connections that are bound to it.
    pub fn to(client: ClientNumber) -> Rc<Self> {
        clients::on_end(close_bound);
        BOUND.with_borrow_mut(|bound| {
            bound.get(&client).and_then(Weak::upgrade).unwrap_or_else(|| {
                let binding = Rc::new(Self { client, is_over: Cell::new(false) });
                bound.insert(client, Rc::downgrade(&binding));
                binding
            })
        })
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if !self.is_over.get() {
            // `Err`: the thread ends.
            let _ = BOUND.try_with(|bound| bound.borrow_mut().remove(&self.client));
        }
    }
}

/// Which requests may use a connection, besides those of the location that opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// Numbers of protocols must be below this one.
    const PROTOCOLS: u32 = 8;

    /// A location, and the number of the protocol in which it talks to its upstreams: the same server may be named for
    /// several.
    #[inline]
    pub fn new(location: u32, protocol: u8) -> Self {
        debug_assert!(u32::from(protocol) < Self::PROTOCOLS);
        Self(location.wrapping_mul(Self::PROTOCOLS) | u32::from(protocol))
    }

    /// True if a request with the other tag may use the connection.
    #[inline]
    pub(super) fn fits(self, other: Self, is_local: bool) -> bool {
        let decisive = if is_local { u32::MAX } else { Self::PROTOCOLS - 1 };
        (self.0 ^ other.0) & decisive == 0
    }
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    /// [`Peer::address_id`] of its peer, here so that a search reads one array.
    address_id: u32,
    since_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The longest idle first.
    idle: RefCell<Vec<Idle>>,
    /// The watching task has been spawned and has not ended.
    is_watched: Cell<bool>,
    /// The watching task, while it runs.
    watcher: RefCell<Option<Waker>>,
    /// Tells everybody the number of idle connections; `None`: the group is not counted.
    gauge: Option<Gauge>,
    /// The watching task has a timer that expires no later than the first idle connection.
    is_timed: Cell<bool>,
}

impl State {
    /// Call it after each change of the list.
    #[inline]
    fn tell(&self, count: usize) {
        if let Some(gauge) = self.gauge {
            gauge.set(count);
        }
    }

    /// Closes the connections of which this is true.
    fn close(&self, is_over: impl Fn(&Connection) -> bool) {
        let list = self.idle.take();
        let (closed, kept): (Vec<Idle>, Vec<Idle>) =
            list.into_iter().partition(|idle| is_over(&idle.connection));
        self.tell(kept.len());
        self.idle.replace(kept);
        drop(closed); // while nothing is borrowed
    }
}

thread_local! {
    /// The groups whose idle connections are watched.
    static WATCHED: RefCell<Vec<Weak<State>>> = const { RefCell::new(Vec::new()) };
    /// Index of the group that is next to close its longest-idle connection.
    static NEXT: Cell<usize> = const { Cell::new(0) };
    /// The clients that connections are bound to.
    static BOUND: RefCell<HashMap<ClientNumber, Weak<Binding>>> = RefCell::default();
}

/// Closes the idle connections that are bound to a client, which has left.
fn close_bound(client: u64) {
    let Some(client) = ClientNumber::new(client) else { return };
    let binding = BOUND.with_borrow_mut(|bound| bound.remove(&client));
    let Some(binding) = binding.and_then(|binding| binding.upgrade()) else { return };
    binding.is_over.set(true);
    let watched = WATCHED.take();
    for state in watched.iter().filter_map(Weak::upgrade) {
        state.close(|connection| is_bound(connection, client));
    }
    WATCHED.with_borrow_mut(|list| drop(list.splice(0..0, watched)));
}

fn is_bound(connection: &Connection, client: ClientNumber) -> bool {
    connection.client.as_ref().is_some_and(|binding| binding.client == client)
}

/// Closes up to `count` idle connections, one of each group in turn. Returns the number closed.
fn close_idle(count: usize) -> usize {
    let mut closed = 0;
    // Taken out of the cell while connections close.
    let watched = WATCHED.take();
    let first = NEXT.get();
    for step in 0..watched.len() {
        if closed == count {
            break;
        }
        let index = first.wrapping_add(step) % watched.len();
        let Some(state) = watched[index].upgrade() else { continue };
        let oldest = {
            let mut idle = state.idle.borrow_mut();
            let oldest = (!idle.is_empty()).then(|| idle.remove(0));
            state.tell(idle.len());
            oldest
        };
        closed += usize::from(oldest.is_some());
        NEXT.set(index + 1);
        drop(oldest);
    }
    WATCHED.with_borrow_mut(|list| drop(list.splice(0..0, watched)));
    closed + links::close_idle(count - closed)
}

/// Has idle connections closed when the worker is short of places or descriptors.
pub(super) fn watch_shortage() {
    room::on_shortage(close_idle);
}

/// The idle connections of one group in one worker.
#[derive(Debug)]
pub struct Pool {
    state: Rc<State>,
}

impl Pool {
    /// `slot`: the counters of its group.
    pub fn new(slot: Option<Slot>) -> Self {
        let gauge = slot.map(|slot| slot.gauge(Present::Idle));
        Self { state: Rc::new(State { gauge, ..State::default() }) }
    }

    /// Takes the most recently used connection to `peer`, on these terms, that is still good. As in nginx it may
    /// have been opened for another peer of the group with the same address.
    pub fn take(
        &self,
        peer: &Rc<Peer>,
        tag: Tag,
        terms: Option<&Arc<Terms>>,
        keepalive: &Keepalive,
    ) -> Option<Box<Connection>> {
        self.take_if(peer, |kept| {
            kept.client.is_none()
                && kept.tag.fits(tag, keepalive.local)
                && are_equal(kept.terms.as_ref(), terms)
        })
    }

    /// Takes the connection to `peer` that is bound to a client, from whatever location its request comes.
    pub fn take_bound(
        &self,
        client: ClientNumber,
        peer: &Rc<Peer>,
        tag: Tag,
        terms: Option<&Arc<Terms>>,
    ) -> Option<Box<Connection>> {
        self.take_if(peer, |kept| {
            is_bound(kept, client) && kept.tag.fits(tag, false) && are_equal(kept.terms.as_ref(), terms)
        })
    }

    /// The [`Peer::address_id`] that the connection bound to a client leads to.
    pub fn bound_address(&self, client: ClientNumber) -> Option<u32> {
        let list = self.state.idle.borrow();
        list.iter().rfind(|idle| is_bound(&idle.connection, client)).map(|idle| idle.address_id)
    }

    #[inline]
    fn take_if(&self, peer: &Rc<Peer>, may_serve: impl Fn(&Connection) -> bool) -> Option<Box<Connection>> {
        let fits = |idle: &Idle| idle.address_id == peer.address_id && may_serve(&idle.connection);
        loop {
            let idle = {
                let mut list = self.state.idle.borrow_mut();
                let index = list.iter().rposition(fits)?;
                let idle = list.remove(index);
                self.state.tell(list.len());
                idle
            };
            let mut connection = idle.connection;
            if connection.transport.is_quiet() || is_empty(&connection.transport) {
                if !Rc::ptr_eq(&connection.peer, peer) {
                    connection.peer = Rc::clone(peer);
                }
                connection.reused = true;
                connection.requests += 1;
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last response ended cleanly, unless it is used up or the worker is leaving.
    pub fn give(&self, connection: Box<Connection>, keepalive: &Keepalive) {
        let now_ms = runtime::now_ms();
        let is_over = keepalive.idle_max == 0
            || connection.is_single
            || connection.client.as_ref().is_some_and(|binding| binding.is_over.get())
            || connection.peer.is_retired()
            || connection.requests >= keepalive.requests_max
            || now_ms.saturating_sub(connection.opened_ms) > keepalive.time_ms
            || drain::mode() != drain::Mode::Serving;
        if is_over {
            return;
        }
        let watcher = self.state.watcher.borrow().clone();
        match watcher {
            // poll it for the watching task, which it wakes from now on
            Some(waker) if !is_quiet(&connection.transport, &mut Context::from_waker(&waker)) => return,
            Some(waker) if !self.state.is_timed.get() => waker.wake(),
            Some(_) => {}
            None if self.state.is_watched.replace(true) => {} // the task is about to run for the first time
            None => runtime::spawn(watch(Rc::clone(&self.state), keepalive.timeout_ms)),
        }
        let evicted = {
            let mut list = self.state.idle.borrow_mut();
            let evicted = match keepalive.binds {
                false => (list.len() >= keepalive.idle_max).then(|| list.remove(0)),
                true if connection.client.is_some() => None,
                true => first_above(&list, keepalive.idle_max).map(|index| list.remove(index)),
            };
            let address_id = connection.peer.address_id;
            list.push(Idle { connection, address_id, since_ms: now_ms });
            self.state.tell(list.len());
            evicted
        };
        drop(evicted);
    }
}

impl Pool {
    /// Closes the connections to retired peers.
    pub(super) fn close_retired(&self) {
        self.state.close(|connection| connection.peer.is_retired());
    }
}

/// The longest-idle connection that is bound to no client, if there are `idle_max` of these.
fn first_above(list: &[Idle], idle_max: usize) -> Option<usize> {
    let mut free = list.iter().enumerate().filter(|(_, idle)| idle.connection.client.is_none());
    let (first, _) = free.next()?;
    (1 + free.count() >= idle_max).then_some(first)
}

#[inline]
pub(super) fn are_equal(kept: Option<&Arc<Terms>>, wanted: Option<&Arc<Terms>>) -> bool {
    match (kept, wanted) {
        (None, None) => true,
        (Some(kept), Some(wanted)) => Arc::ptr_eq(kept, wanted) || kept == wanted,
        _ => false,
    }
}

/// Watches the idle connections of one group until the worker leaves.
async fn watch(state: Rc<State>, timeout_ms: u64) {
    watch_shortage();
    WATCHED.with_borrow_mut(|list| {
        list.retain(|state| state.strong_count() > 0);
        list.push(Rc::downgrade(&state));
    });
    let mut timer = Timer::new();
    poll_fn(|cx| {
        if drain::mode() != drain::Mode::Serving {
            return Poll::Ready(());
        }
        state.watcher.replace(Some(cx.waker().clone()));
        let now_ms = runtime::now_ms();
        // taken out of the cell, so that closing runs while nothing is borrowed
        let list = state.idle.take();
        let (kept, closed): (Vec<Idle>, Vec<Idle>) = list.into_iter().partition(|idle| {
            now_ms < idle.since_ms + timeout_ms && is_quiet(&idle.connection.transport, cx)
        });
        drop(closed);
        let first_ms = kept.first().map(|idle| idle.since_ms + timeout_ms);
        state.tell(kept.len());
        state.idle.replace(kept);
        state.is_timed.set(first_ms.is_some());
        match first_ms {
            Some(first_ms) => {
                timer.set(first_ms);
                if timer.poll_expired(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            None => timer.cancel(),
        }
        Poll::Pending
    })
    .await;
    state.watcher.replace(None);
    state.is_watched.set(false);
    state.tell(0);
    drop(state.idle.take());
}

/// True if nothing has arrived on the connection, not even its end; then `cx` is woken when something does.
fn is_quiet(transport: &Transport, cx: &mut Context<'_>) -> bool {
    let waits = |cx: &mut Context<'_>| transport.poll_readable(cx).is_pending();
    waits(cx) || is_empty(transport) && waits(cx)
}

/// The cached readiness may be left over from the last read, so ask the socket.
fn is_empty(transport: &Transport) -> bool {
    transport.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
