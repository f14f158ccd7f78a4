//! Makes room for new connections: decides which open ones give way when there is none left.
//!
//! `worker_connections` limits clients and upstream servers together, as in nginx. When the limit is nearly
//! reached, or descriptors run out, connections that only wait are closed, the longest-waiting first: clients
//! that have sent nothing yet, kept-alive and lingering ones, and those in the middle of a head, which go
//! last if it comes fast enough; and kept connections to upstream servers. A connection that is being served,
//! a tunnel included, is never closed. The last sixteenth of the places is for clients only: if requests loop
//! back to this very worker they use up the other places, fail, and thereby free their clients' places.
//!
//! Touches: the runtime's lists of waiting connections, one counter, the error log.

use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};

use crate::log;
use crate::net::clients;
use crate::net::open::{self, Place};
use crate::runtime;
use crate::shm::counter::{self, Total};
use crate::sys::event::Event;

/// One in this many of the waiting connections is asked to close at a time, up to `ASKED_MAX`.
const SHARE: usize = 32;
const ASKED_MAX: usize = 32; // nginx has the same

/// Turns granted to connections that were asked to close; they need one or two.
const TURNS_MAX: usize = 64;

/// Minimum time between two looks for connections of QUIC that rest.
const LOOK_MS: u64 = 20;

/// Minimum time between two log lines about a shortage.
const TELL_MS: u64 = 1000;

/// The resource that a worker is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Connections,
    /// Descriptors of this process or of the system, or memory for them; the value is the errno.
    Descriptors(i32),
}

/// Closes up to this many kept connections to upstream servers; returns the number closed.
type CloseKept = fn(usize) -> usize;

thread_local! {
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// From this many connections on, waits are shorter.
    static TIGHT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// A new descriptor with at least this number means that few are left: the kernel gives out the lowest
    /// free one.
    static TIGHT_DESCRIPTOR: Cell<i32> = const { Cell::new(i32::MAX) };
    static TOLD_MS: Cell<u64> = const { Cell::new(0) };
    /// When connections of QUIC may be looked through again, and how many the last look has ended.
    static LOOKED: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    static CLOSE_KEPT: Cell<Option<CloseKept>> = const { Cell::new(None) };
}

/// Sets the maximum number of connections and descriptors of this worker.
pub fn set_limits(connections: usize, descriptors: u64) {
    LIMIT.set(connections);
    TIGHT.set((connections / 4 * 3).max(1));
    let descriptors = i32::try_from(descriptors).unwrap_or(i32::MAX);
    TIGHT_DESCRIPTOR.set(descriptors - descriptors / 16);
}

/// Registers the function that closes kept connections to upstream servers.
pub fn on_shortage(close_kept: CloseKept) {
    CLOSE_KEPT.set(Some(close_kept));
}

/// `worker_connections`, or fewer if there are not enough descriptors.
pub fn limit() -> usize {
    LIMIT.get()
}

/// Number of places reserved for clients. A full worker has room again once as many are free.
fn reserve() -> usize {
    (LIMIT.get() / 16).max(1)
}

/// Shortens a wait for a request or its head to a quarter while more than three quarters of the places are
/// taken.
#[inline]
pub fn shorten(ms: u64) -> u64 {
    if open::total() < TIGHT.get() { ms } else { (ms / 4).max(1) }
}

/// True when enough places are free, or held by connections that give way, for a worker that was full to take
/// its share again.
pub fn has_slack() -> bool {
    LIMIT.get().saturating_sub(open::total()).saturating_add(runtime::waiting_count()) >= reserve()
}

/// Called when a client was accepted with this descriptor: makes room in advance for the next one.
pub fn client_has_come(descriptor: i32) {
    if descriptor >= TIGHT_DESCRIPTOR.get() {
        reuse(Shortage::Descriptors(EMFILE));
    } else if is_short() {
        reuse(Shortage::Connections);
    }
}

fn is_short() -> bool {
    open::total() > LIMIT.get() - LIMIT.get() / 16
}

/// True if few places, one in sixteen, will be left with one more client: another connection then has to give way.
pub fn is_short_for_one_more() -> bool {
    open::total() >= LIMIT.get() - LIMIT.get() / 16
}

/// Called when a client has come that has no descriptor of its own: the same.
pub fn peer_has_come() {
    if is_short() {
        reuse(Shortage::Connections);
    }
}

/// For code that cannot wait: when all places are taken, asks connections that only wait to close. False: there is none.
pub fn is_being_made() -> bool {
    reuse(Shortage::Connections)
}

/// Makes room for a client when all places are taken. False: no connection only waits.
pub async fn make_room_for_client() -> bool {
    make_room(LIMIT.get()).await
}

/// Reserves a place for a connection to an upstream server. `None`: none is free, and no connection gives
/// way.
pub async fn for_upstream() -> Option<Place> {
    let limit = LIMIT.get() - reserve().min(LIMIT.get());
    if open::total() >= limit && !Box::pin(make_room(limit)).await {
        return None;
    }
    Some(Place::new())
}

async fn make_room(limit: usize) -> bool {
    for _ in 0..TURNS_MAX {
        if open::total() < limit {
            return true;
        }
        if !reuse(Shortage::Connections) {
            return false;
        }
        if open::total() >= limit {
            runtime::yield_now().await;
        }
    }
    false
}

/// True for an error that means that descriptors, or memory for them, have run out.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// Closes something after a system call has failed with [`is_shortage`], so that the call can be tried again.
/// False: nothing gives way.
pub async fn free_descriptors(error: &io::Error) -> bool {
    let before = open::closed_count();
    let shortage = Shortage::Descriptors(error.raw_os_error().unwrap_or(EMFILE));
    for _ in 0..TURNS_MAX {
        if open::closed_count() != before {
            return true;
        }
        if !reuse(shortage) {
            return false;
        }
        if open::closed_count() == before {
            runtime::yield_now().await;
        }
    }
    false
}

/// For code that cannot wait: after a system call has failed for want of descriptors, closes kept connections
/// to upstream servers, or asks waiting clients to close. True: the call can be tried again in a moment.
pub fn ask_for_descriptors(errno: Errno) -> bool {
    is_shortage(&errno.into()) && reuse(Shortage::Descriptors(errno as i32))
}

/// Checks that this many descriptors can be had. Fails with EMFILE and the like.
pub fn probe(count: usize) -> io::Result<()> {
    (0..count).map(|_| Event::new()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// True if a new descriptor can be had, and not one of the last.
pub fn has_descriptors() -> bool {
    Event::new().is_ok_and(|event| event.as_fd().as_raw_fd() < TIGHT_DESCRIPTOR.get())
}

/// Closes some connections or asks some to close, unless others that were asked have not reacted yet. False:
/// none gives way.
fn reuse(shortage: Shortage) -> bool {
    if runtime::asked_count() > 0 {
        return true;
    }
    let ask = || {
        let asked = runtime::ask_to_close((runtime::waiting_count() / SHARE).clamp(1, ASKED_MAX));
        // Connections of QUIC have no descriptors, and are not in the runtime's list.
        let (ended, are_ending) = match shortage {
            Shortage::Connections => end_quic(),
            Shortage::Descriptors(_) => (0, false),
        };
        counter::add(Total::Reused, (asked + ended) as u64);
        asked + usize::from(are_ending)
    };
    let close_kept = || CLOSE_KEPT.get().map_or(0, |close| close(1));
    // Closing a kept connection harms no client. But if only places are short, a kept connection used a
    // moment ago is worth more than a client's that was used a minute ago.
    let found = match shortage {
        Shortage::Connections => ask() > 0 || close_kept() > 0,
        Shortage::Descriptors(_) => close_kept() > 0 || ask() > 0,
    };
    if found {
        tell(shortage);
    }
    found
}

/// Ends connections of QUIC that rest. Returns their number, and whether any end now, these or those of the last time.
///
/// Each time it looks at all connections of the worker, so it does that seldom, however many clients come.
fn end_quic() -> (usize, bool) {
    let (again_ms, last) = LOOKED.get();
    let now_ms = runtime::now_ms();
    if now_ms < again_ms {
        return (0, last > 0);
    }
    let ended = clients::end_resting(SHARE, ASKED_MAX);
    LOOKED.set((now_ms + LOOK_MS, ended));
    (ended, ended > 0)
}

fn tell(shortage: Shortage) {
    let now_ms = runtime::now_ms();
    if now_ms < TOLD_MS.get() {
        return;
    }
    TOLD_MS.set(now_ms + TELL_MS);
    match shortage {
        Shortage::Connections => {
            let limit = LIMIT.get();
            log::warn!(
                log::process(),
                &(),
                "{limit} worker_connections are not enough, reusing connections: raise \"worker_connections\" or \
                 \"worker_rlimit_nofile\", or add workers"
            );
        }
        Shortage::Descriptors(number) => {
            let remedy = remedy(number);
            log::warn!(log::process(), &(), "descriptors are not enough, reusing connections: {remedy}");
        }
    }
}

/// The remedy to suggest when a system call has failed with this error.
pub fn remedy(number: i32) -> &'static str {
    match number {
        EMFILE => "raise \"worker_rlimit_nofile\"",
        ENFILE => "raise the system's fs.file-max",
        _ => "the system is short of memory",
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::net::clients::Client;
    use crate::net::open::Guard;
    use crate::runtime::{Runtime, skip_waits, sleep};
    use crate::sys::address::SockAddr;

    #[test]
    fn connections_of_quic_are_looked_through_seldom() {
        Runtime::new().expect("a loop").block_on(async {
            skip_waits();
            let peer = || SockAddr::Inet(([192, 0, 2, 1], 5).into());
            let guards = [1, 2].map(|number| Guard::new(Client::of_datagrams(number, peer())));
            let ended = async || {
                poll_fn(|cx| {
                    Poll::Ready(
                        guards.iter().filter(|guard| guard.client().poll_ended(cx).is_ready()).count(),
                    )
                })
                .await
            };
            assert_eq!(ended().await, 0);
            assert_eq!((end_quic(), ended().await), ((1, true), 1));
            assert_eq!((end_quic(), ended().await), ((0, true), 1), "not looked through again at once");
            drop(guards);
            sleep(LOOK_MS).await;
            assert_eq!(end_quic(), (0, false));
            assert_eq!(end_quic(), (0, false));
        });
    }
}
