//! Room for another connection, and which of those that are open give way where there is none.
//!
//! `worker_connections` bounds clients and upstream servers together, as in nginx. Where it is nearly reached, or
//! descriptors run out, connections that only wait are closed, those that have waited longest first: clients that
//! have sent nothing yet, kept-alive and lingering ones, and those inside a head, which go last if they come fast
//! enough; and kept connections to upstream servers. One that is being served, a tunnel included, never is. The last sixteenth of the places is for clients
//! alone: requests that pass to this very worker again use up the others, fail, and set their clients' places free.
//!
//! Touches: the runtime's lists of waiting connections, one counter, the error log.

use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};

use crate::log;
use crate::net::open::{self, Place};
use crate::runtime;
use crate::shm::counter::{self, Total};
use crate::sys::event::Event;

/// Of the connections that only wait this part is asked to close at a time, and at most so many.
const SHARE: usize = 32;
const ASKED_MAX: usize = 32; // nginx's, too

/// Turns that those who were asked get for their answer; they need one or two.
const TURNS_MAX: usize = 64;

/// Time between two lines that tell of the same shortage.
const TELL_MS: u64 = 1000;

/// What a worker has too few of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Connections,
    /// Of this process, of the system, or memory for them.
    Descriptors(i32),
}

/// Closes up to so many kept connections to upstream servers, and returns how many.
type CloseKept = fn(usize) -> usize;

thread_local! {
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// From so many connections on, waits are shorter.
    static TIGHT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// From this number on a new descriptor tells that few are left: the kernel gives the lowest free one.
    static TIGHT_DESCRIPTOR: Cell<i32> = const { Cell::new(i32::MAX) };
    static TOLD_MS: Cell<u64> = const { Cell::new(0) };
    static CLOSE_KEPT: Cell<Option<CloseKept>> = const { Cell::new(None) };
}

/// Sets how many connections and descriptors this worker may have.
pub fn set_limits(connections: usize, descriptors: u64) {
    LIMIT.set(connections);
    TIGHT.set((connections / 4 * 3).max(1));
    let descriptors = i32::try_from(descriptors).unwrap_or(i32::MAX);
    TIGHT_DESCRIPTOR.set(descriptors - descriptors / 16);
}

/// Names the function that closes kept connections to upstream servers.
pub fn on_shortage(close_kept: CloseKept) {
    CLOSE_KEPT.set(Some(close_kept));
}

/// `worker_connections`, or what descriptors leave of it.
pub fn limit() -> usize {
    LIMIT.get()
}

/// The places that only clients get, and what must be free before a full worker counts as one with room.
fn reserve() -> usize {
    (LIMIT.get() / 16).max(1)
}

/// More than three quarters of the places are taken: waits for requests and heads end after a quarter of their time.
#[inline]
pub fn shorten(ms: u64) -> u64 {
    if open::total() < TIGHT.get() { ms } else { (ms / 4).max(1) }
}

/// Enough places are free, or held by connections that give way, for a worker that was full to take its share again.
pub fn has_slack() -> bool {
    LIMIT.get().saturating_sub(open::total()).saturating_add(runtime::waiting_count()) >= reserve()
}

/// A client has come, with this descriptor: looks ahead, so that the next one finds room.
pub fn client_has_come(descriptor: i32) {
    if descriptor >= TIGHT_DESCRIPTOR.get() {
        reuse(Shortage::Descriptors(EMFILE));
    } else if open::total() > LIMIT.get() - LIMIT.get() / 16 {
        reuse(Shortage::Connections);
    }
}

/// Makes room for a client where all places are taken. False: no connection only waits.
pub async fn make_room_for_client() -> bool {
    make_room(LIMIT.get()).await
}

/// A place for a connection to an upstream server. `None`: none is free, and nothing that gives way.
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

/// True for an error that says that descriptors, or memory for them, have run out.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// Closes something after a system call has failed with [`is_shortage`]: the call is worth another try. False:
/// nothing gives way.
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

/// Where nothing can wait: after a system call has failed for want of descriptors, closes kept connections to upstream
/// servers, or asks clients that only wait. True: the call is worth another try in a moment.
pub fn ask_for_descriptors(errno: Errno) -> bool {
    is_shortage(&errno.into()) && reuse(Shortage::Descriptors(errno as i32))
}

/// Finds out whether so many descriptors can be had. Errors: EMFILE and its kind.
pub fn probe(count: usize) -> io::Result<()> {
    (0..count).map(|_| Event::new()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// A new descriptor can be had, and not one of the last.
pub fn has_descriptors() -> bool {
    Event::new().is_ok_and(|event| event.as_fd().as_raw_fd() < TIGHT_DESCRIPTOR.get())
}

/// Closes some connections, or asks some to close, unless others that were asked have not answered yet. False: none
/// gives way.
fn reuse(shortage: Shortage) -> bool {
    if runtime::asked_count() > 0 {
        return true;
    }
    let ask = || {
        let asked = runtime::ask_to_close((runtime::waiting_count() / SHARE).clamp(1, ASKED_MAX));
        counter::add(Total::Reused, asked as u64);
        asked
    };
    let close_kept = || CLOSE_KEPT.get().map_or(0, |close| close(1));
    // A kept connection costs nobody anything; but where only places are short, the one that was used a moment ago is
    // worth more than a client's that was used a minute ago.
    let found = match shortage {
        Shortage::Connections => ask() > 0 || close_kept() > 0,
        Shortage::Descriptors(_) => close_kept() > 0 || ask() > 0,
    };
    if found {
        tell(shortage);
    }
    found
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

/// What to change where a system call has failed with this error.
pub fn remedy(number: i32) -> &'static str {
    match number {
        EMFILE => "raise \"worker_rlimit_nofile\"",
        ENFILE => "raise the system's fs.file-max",
        _ => "the system is short of memory",
    }
}
