//! Readiness of descriptors, cached between the edges that epoll reports, and the list of connections that
//! only wait.
//!
//! Pure state; the system calls are in `io`.
//!
//! A full worker closes connections that only wait ("reusable" ones, in nginx's words), the longest-waiting
//! first. Such a connection waits to read and never to write, so the links of the list are kept in the word
//! for the waiting writer: listing a connection takes no memory.

use std::cell::Cell;

use crate::sys::epoll;

/// The state of one descriptor.
pub(super) type Flags = u16;

pub(super) const READ: Flags = 1;
pub(super) const WRITE: Flags = 2;
/// The peer sends no more, or the connection is gone: a short read does not prove that nothing is left.
pub(super) const HANGUP: Flags = 4;
/// epoll also reports writability. Asked for only when a write first finds no room: any earlier, that edge
/// would come right after the registration and wake the loop for nothing.
pub(super) const WIDE: Flags = 8;
/// In the list of waiting connections; `writer` holds its links.
const LISTED: Flags = 16;
/// Keeps its place in the list when bytes arrive.
const IN_HEAD: Flags = 32;
/// Its task was woken to close the connection and has not reacted yet.
pub(super) const ASKED: Flags = 64;

/// Another process may share this socket and change its mode.
pub(super) const SHARED: Flags = 128;

/// Nagle's algorithm has not been switched off yet: it delays no first write, and many connections to upstreams have only
/// one.
pub(super) const DELAYS: Flags = 256;
/// Such a connection has had its first write.
pub(super) const WROTE: Flags = 512;

/// No task is waiting.
const NOBODY: u64 = u64::MAX;

/// No neighbour in a list.
const NONE: u32 = u32::MAX;

thread_local! {
    /// Connections that were asked to close and have not reacted yet. Kept outside the loop, so that a
    /// request can read it without borrowing anything.
    static ASKED_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Number of connections that were asked to close and have not reacted yet.
#[inline]
pub(super) fn asked_count() -> usize {
    ASKED_COUNT.get()
}

/// The input that a reusable connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The first byte of a request, or the end of a closed connection. The next event takes it off the list.
    Idle,
    /// The rest of a request's head. It keeps its place in the list until [`super::Io::unlist`], so that a
    /// head that drips in does not count as younger with each byte.
    Head,
}

/// A list of connections in the order in which they began to wait.
#[derive(Debug)]
struct List {
    first: u32,
    last: u32,
    count: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, last: NONE, count: 0 }
    }
}

#[derive(Debug)]
struct Registration {
    reader: u64,
    /// The task waiting to write; the list's links while LISTED.
    writer: u64,
    generation: u32,
    flags: Flags,
    is_live: bool,
}

/// The registered descriptors, by index.
#[derive(Debug, Default)]
pub(super) struct Reactor {
    slab: Vec<Registration>,
    free: Vec<u32>,
    waiting: List,
}

fn links(previous: u32, next: u32) -> u64 {
    u64::from(previous) << 32 | u64::from(next)
}

impl Reactor {
    /// Reserves a place for a descriptor and returns its index and its token for epoll. `flags` is the
    /// readiness to assume: the system call is tried first and corrects it.
    pub(super) fn insert(&mut self, flags: Flags) -> (u32, u64) {
        let index = match self.free.pop() {
            Some(index) => {
                let entry = &mut self.slab[index as usize];
                (entry.reader, entry.writer, entry.flags, entry.is_live) = (NOBODY, NOBODY, flags, true);
                index
            }
            None => {
                self.slab.push(Registration {
                    reader: NOBODY,
                    writer: NOBODY,
                    generation: 0,
                    flags,
                    is_live: true,
                });
                (self.slab.len() - 1) as u32
            }
        };
        (index, self.token(index))
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.unlist(index);
        let entry = &mut self.slab[index as usize];
        // An event that was fetched before this still carries the old generation.
        entry.generation = entry.generation.wrapping_add(1) & 0x7FFF_FFFF;
        entry.is_live = false;
        self.free.push(index);
    }

    /// Applies an event. Returns the tasks that waited to read and to write, or `NOBODY`.
    pub(super) fn apply(&mut self, event: epoll::Event) -> (u64, u64) {
        let index = (event.token & u64::from(u32::MAX)) as usize;
        let Some(entry) = self.slab.get_mut(index) else { return (NOBODY, NOBODY) };
        if !entry.is_live || u64::from(entry.generation) != event.token >> 32 {
            return (NOBODY, NOBODY);
        }
        let (mut reader, mut writer) = (NOBODY, NOBODY);
        if event.hangup {
            entry.flags |= HANGUP;
        }
        if event.writable {
            entry.flags |= WRITE;
            if entry.flags & LISTED == 0 {
                writer = std::mem::replace(&mut entry.writer, NOBODY);
            }
        }
        if event.readable {
            entry.flags |= READ;
            reader = std::mem::replace(&mut entry.reader, NOBODY);
            if entry.flags & (LISTED | IN_HEAD) == LISTED {
                self.unlink(index as u32);
            }
        }
        (reader, writer)
    }

    /// Lists a connection as one that only waits, at the end; one already listed keeps its place.
    pub(super) fn list(&mut self, index: u32, waiting: Waiting) {
        let Some(entry) = self.slab.get_mut(index as usize) else { return };
        if entry.flags & (LISTED | ASKED) != 0 {
            if entry.flags & ASKED == 0 {
                return;
            }
            // It was asked to close, but waits again.
            entry.flags &= !(ASKED | IN_HEAD);
            ASKED_COUNT.set(ASKED_COUNT.get() - 1);
        }
        entry.flags |= if waiting == Waiting::Head { LISTED | IN_HEAD } else { LISTED };
        let list = &mut self.waiting;
        let previous = std::mem::replace(&mut list.last, index);
        list.count += 1;
        entry.writer = links(previous, NONE);
        match self.slab.get_mut(previous as usize) {
            Some(previous) => previous.writer = previous.writer & !u64::from(NONE) | u64::from(index),
            None => list.first = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let entry = &mut self.slab[index as usize];
        let (previous, next) = ((entry.writer >> 32) as u32, entry.writer as u32);
        let list = &mut self.waiting;
        entry.flags &= !LISTED;
        entry.writer = NOBODY;
        list.count -= 1;
        match self.slab.get_mut(previous as usize) {
            Some(entry) => entry.writer = entry.writer & !u64::from(NONE) | u64::from(next),
            None => list.first = next,
        }
        match self.slab.get_mut(next as usize) {
            Some(entry) => entry.writer = entry.writer & u64::from(NONE) | u64::from(previous) << 32,
            None => list.last = previous,
        }
    }

    /// Takes a connection off the list, and withdraws a request to close it.
    pub(super) fn unlist(&mut self, index: u32) {
        let Some(entry) = self.slab.get(index as usize) else { return };
        let flags = entry.flags;
        if flags & LISTED != 0 {
            self.unlink(index);
        }
        if flags & ASKED != 0 {
            ASKED_COUNT.set(ASKED_COUNT.get() - 1);
        }
        self.slab[index as usize].flags &= !(ASKED | IN_HEAD);
    }

    /// Asks the longest-waiting connection to close. Returns the task to wake; `None` if no connection only
    /// waits.
    pub(super) fn ask_oldest(&mut self) -> Option<u64> {
        let index = Some(self.waiting.first).filter(|first| *first != NONE)?;
        self.unlink(index);
        let entry = &mut self.slab[index as usize];
        // Assume it readable, so that its task looks for bytes that epoll has not reported yet before it
        // closes.
        entry.flags |= ASKED | READ;
        ASKED_COUNT.set(ASKED_COUNT.get() + 1);
        Some(std::mem::replace(&mut entry.reader, NOBODY))
    }

    /// Number of connections that only wait.
    pub(super) fn listed_count(&self) -> usize {
        self.waiting.count
    }

    pub(super) fn token(&self, index: u32) -> u64 {
        u64::from(self.slab[index as usize].generation) << 32 | u64::from(index)
    }

    pub(super) fn set(&mut self, index: u32, flags: Flags) {
        self.slab[index as usize].flags |= flags;
    }

    pub(super) fn flags(&self, index: u32) -> Flags {
        self.slab.get(index as usize).map_or(0, |entry| entry.flags)
    }

    pub(super) fn clear(&mut self, index: u32, flags: Flags) {
        self.slab[index as usize].flags &= !flags;
    }

    pub(super) fn wait_read(&mut self, index: u32, task: u64) {
        if let Some(entry) = self.slab.get_mut(index as usize) {
            entry.reader = task;
        }
    }

    pub(super) fn wait_write(&mut self, index: u32, task: u64) {
        self.unlist(index); // the list's links are kept in the same word
        if let Some(entry) = self.slab.get_mut(index as usize) {
            entry.writer = task;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reactor: &Reactor, index: u32) -> epoll::Event {
        epoll::Event { token: reactor.token(index), readable: true, writable: false, hangup: false }
    }

    /// A reactor with `count` descriptors; the task waiting for each has the descriptor's number.
    fn reactor(count: u32) -> Reactor {
        let mut reactor = Reactor::default();
        for index in 0..count {
            assert_eq!(reactor.insert(WRITE).0, index);
            reactor.wait_read(index, u64::from(index));
        }
        reactor
    }

    fn asked(reactor: &mut Reactor) -> Vec<u64> {
        std::iter::from_fn(|| reactor.ask_oldest()).collect()
    }

    #[test]
    fn those_that_wait_longest_go_first() {
        let mut reactor = reactor(6);
        reactor.list(4, Waiting::Head);
        for index in [3, 0, 5] {
            reactor.list(index, Waiting::Idle);
        }
        reactor.list(3, Waiting::Idle); // already listed: it keeps its place
        assert_eq!(reactor.listed_count(), 4);
        assert_eq!(asked(&mut reactor), [4, 3, 0, 5]);
        assert_eq!((reactor.listed_count(), asked_count()), (0, 4));
        for index in [4, 3, 0, 5] {
            reactor.remove(index);
        }
        assert_eq!(asked_count(), 0);
    }

    #[test]
    fn an_event_takes_an_idle_connection_from_its_list_and_leaves_a_head_where_it_is() {
        let mut reactor = reactor(4);
        reactor.list(0, Waiting::Idle);
        reactor.list(1, Waiting::Idle);
        reactor.list(2, Waiting::Head);
        reactor.list(3, Waiting::Head);
        for index in [0, 2] {
            assert_eq!(reactor.apply(event(&reactor, index)).0, u64::from(index));
        }
        reactor.wait_read(2, 2);
        reactor.list(2, Waiting::Head);
        assert_eq!(asked(&mut reactor), [1, 2, 3]);
        (0..4).for_each(|index| reactor.remove(index));
    }

    #[test]
    fn what_is_asked_can_stay() {
        let mut reactor = reactor(2);
        reactor.list(0, Waiting::Idle);
        reactor.list(1, Waiting::Head);
        assert_eq!(asked(&mut reactor), [0, 1]);
        assert_eq!(reactor.flags(0) & (ASKED | READ), ASKED | READ);
        reactor.unlist(0);
        reactor.wait_read(1, 1);
        reactor.list(1, Waiting::Head);
        assert_eq!((asked_count(), reactor.listed_count(), reactor.flags(0) & ASKED), (0, 1, 0));
        assert_eq!(asked(&mut reactor), [1]);
        (0..2).for_each(|index| reactor.remove(index));
        assert_eq!(asked_count(), 0);
    }

    /// The links share a word with the waiting writer: neither may be mistaken for the other.
    #[test]
    fn links_and_writers_do_not_mix() {
        let mut reactor = reactor(3);
        (0..3).for_each(|index| reactor.list(index, Waiting::Idle));
        let writable = epoll::Event { readable: false, writable: true, ..event(&reactor, 1) };
        assert_eq!(reactor.apply(writable), (NOBODY, NOBODY));
        reactor.wait_write(1, 77);
        assert_eq!(reactor.listed_count(), 2);
        assert_eq!(reactor.apply(writable).1, 77);
        assert_eq!(asked(&mut reactor), [0, 2]);
        (0..3).for_each(|index| reactor.remove(index));
    }

    #[test]
    fn agrees_with_a_list_that_is_simple() {
        let mut random = 1u64;
        let mut next = move |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % end
        };
        let mut reactor = reactor(64);
        let mut model: Vec<u32> = Vec::new();
        for _ in 0..20_000 {
            let index = next(64) as u32;
            match next(4) {
                0 | 1 => {
                    reactor.wait_read(index, u64::from(index));
                    reactor.list(index, Waiting::Idle);
                    if !model.contains(&index) {
                        model.push(index);
                    }
                }
                2 => {
                    reactor.unlist(index);
                    model.retain(|other| *other != index);
                }
                _ => {
                    let oldest = (!model.is_empty()).then(|| model.remove(0));
                    assert_eq!(reactor.ask_oldest(), oldest.map(u64::from));
                    oldest.iter().for_each(|index| reactor.unlist(*index));
                }
            }
            assert_eq!(reactor.listed_count(), model.len());
        }
        (0..64).for_each(|index| reactor.remove(index));
    }
}
