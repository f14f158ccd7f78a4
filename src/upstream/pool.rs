//! Connections to peers that wait for their next request.
//!
//! One stack per group and worker, the freshest on top, because it is the least likely to be closed by its
//! peer. One task per group watches them all: it closes what the peer closed or spoke on unasked, what is
//! idle for too long, and everything when the worker leaves. Taking and giving costs no system call. Where the worker is
//! short of descriptors or of places, those that have been idle longest are closed, group by group.
//! Behaviour: nginx.org, `keepalive` of ngx_http_upstream_module.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use crate::net::open::Place;
use crate::net::{Transport, drain, room};
use crate::runtime::{self, Timer};
use crate::upstream::group::Keepalive;
use crate::upstream::peer::Peer;

/// A connection to a peer, and what its reuse depends on.
#[derive(Debug)]
pub struct Connection {
    pub transport: Transport,
    /// Counts it among the worker's connections.
    pub place: Place,
    pub peer: Rc<Peer>,
    /// Who may use it again, where connections are `local`: the location that opened it.
    pub tag: u32,
    /// Requests so far, the one under way included.
    pub requests: u64,
    pub opened_ms: u64,
    /// Is closed after its request: its local address is that request's own.
    pub is_single: bool,
    /// Has served a request before: its peer may close it at any moment.
    pub reused: bool,
    /// Of its waits; kept from one request to the next.
    pub timer: Timer,
}

impl Connection {
    /// The timer, cancelled, for one request.
    pub fn take_timer(&mut self) -> Timer {
        let mut timer = std::mem::take(&mut self.timer);
        timer.cancel();
        timer
    }
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The longest idle first.
    idle: RefCell<Vec<Idle>>,
    /// The watching task, while it runs.
    watcher: RefCell<Option<Waker>>,
    /// The watching task has a timer that ends no later than the first wait does.
    is_timed: Cell<bool>,
}

thread_local! {
    /// The groups whose idle connections are watched.
    static WATCHED: RefCell<Vec<Weak<State>>> = const { RefCell::new(Vec::new()) };
    /// Which of them closes its longest idle one next.
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// Closes up to `count` idle connections, one of each group in turn. Returns how many.
fn close_idle(count: usize) -> usize {
    let mut closed = 0;
    // Out of the cell while connections close.
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
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        closed += usize::from(oldest.is_some());
        NEXT.set(index + 1);
        drop(oldest);
    }
    WATCHED.with_borrow_mut(|list| drop(list.splice(0..0, watched)));
    closed
}

/// The idle connections of one group.
#[derive(Debug, Default)]
pub struct Pool {
    state: Rc<State>,
}

impl Pool {
    /// The freshest connection to `peer`, if one is good.
    pub fn take(&self, peer: &Rc<Peer>, tag: u32, keepalive: &Keepalive) -> Option<Connection> {
        loop {
            let fits = |idle: &Idle| {
                Rc::ptr_eq(&idle.connection.peer, peer) && (!keepalive.local || idle.connection.tag == tag)
            };
            let idle = {
                let mut list = self.state.idle.borrow_mut();
                let index = list.iter().rposition(fits)?;
                list.remove(index)
            };
            let mut connection = idle.connection;
            if connection.transport.is_quiet() || is_empty(&connection.transport) {
                connection.reused = true;
                connection.requests += 1;
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last response has ended cleanly, unless its time or the worker's is over.
    pub fn give(&self, connection: Connection, keepalive: &Keepalive) {
        let now_ms = runtime::now_ms();
        let is_over = keepalive.idle_max == 0
            || connection.is_single
            || connection.peer.is_retired()
            || connection.requests >= keepalive.requests_max
            || now_ms.saturating_sub(connection.opened_ms) > keepalive.time_ms
            || drain::mode() != drain::Mode::Serving;
        if is_over {
            return;
        }
        let watcher = self.state.watcher.borrow().clone();
        match watcher {
            // the watching task is woken by this connection from now on
            Some(waker) if !is_quiet(&connection.transport, &mut Context::from_waker(&waker)) => return,
            Some(waker) if !self.state.is_timed.get() => waker.wake(),
            Some(_) => {}
            None => runtime::spawn(watch(Rc::clone(&self.state), keepalive.timeout_ms)),
        }
        let evicted = {
            let mut list = self.state.idle.borrow_mut();
            let evicted = (list.len() >= keepalive.idle_max).then(|| list.remove(0));
            list.push(Idle { connection, since_ms: now_ms });
            evicted
        };
        drop(evicted);
    }
}

impl Pool {
    /// Closes the connections to peers that are retired.
    pub(super) fn close_retired(&self) {
        let list = self.state.idle.take();
        let (closed, kept): (Vec<Idle>, Vec<Idle>) =
            list.into_iter().partition(|idle| idle.connection.peer.is_retired());
        self.state.idle.replace(kept);
        drop(closed); // while nothing is borrowed
    }
}

/// Watches the idle connections of one group until the worker leaves.
async fn watch(state: Rc<State>, timeout_ms: u64) {
    room::on_shortage(close_idle);
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
        // out of the cell, so that closing runs while nothing is borrowed
        let list = state.idle.take();
        let (kept, closed): (Vec<Idle>, Vec<Idle>) = list.into_iter().partition(|idle| {
            now_ms < idle.since_ms + timeout_ms && is_quiet(&idle.connection.transport, cx)
        });
        drop(closed);
        let first_ms = kept.first().map(|idle| idle.since_ms + timeout_ms);
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
    drop(state.idle.take());
}

/// Nothing has come on the connection, not even its end; if so, `cx` is woken when something does.
fn is_quiet(transport: &Transport, cx: &mut Context<'_>) -> bool {
    let waits = |cx: &mut Context<'_>| transport.poll_readable(cx).is_pending();
    waits(cx) || is_empty(transport) && waits(cx)
}

/// "Ready" may be left over from the last read: the system knows.
fn is_empty(transport: &Transport) -> bool {
    transport.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
