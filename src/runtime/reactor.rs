//! Readiness of descriptors, cached between the edges that epoll reports.
//!
//! Pure state; the system calls are in `io`.

use crate::sys::epoll;

pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
/// The peer sends no more, or the connection is gone: a short read is no proof that nothing is left.
pub(super) const HANGUP: u8 = 4;
/// epoll reports when it becomes writable. Asked for when a write first finds no room: until then that edge
/// would come right after the registration, and wake the loop for nothing.
pub(super) const WIDE: u8 = 8;

/// The index of a descriptor that is none.
pub(super) const NOWHERE: u32 = u32::MAX;

/// No task waits.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
struct Registration {
    reader: u64,
    writer: u64,
    generation: u32,
    flags: u8,
    is_live: bool,
}

/// The registered descriptors, by index.
#[derive(Debug, Default)]
pub(super) struct Reactor {
    slab: Vec<Registration>,
    free: Vec<u32>,
}

impl Reactor {
    /// A place for a descriptor and the token that epoll shall report. New sockets are taken for ready: the
    /// system call is tried first and tells.
    pub(super) fn insert(&mut self, flags: u8) -> (u32, u64) {
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
        let entry = &mut self.slab[index as usize];
        // An event that was fetched before this moment still carries the old generation.
        entry.generation = entry.generation.wrapping_add(1) & 0x7FFF_FFFF;
        entry.is_live = false;
        self.free.push(index);
    }

    /// Notes an event; who waited for it.
    pub(super) fn apply(&mut self, event: epoll::Event) -> (u64, u64) {
        let index = (event.token & u64::from(u32::MAX)) as usize;
        let Some(entry) = self.slab.get_mut(index) else { return (NOBODY, NOBODY) };
        if !entry.is_live || u64::from(entry.generation) != event.token >> 32 {
            return (NOBODY, NOBODY);
        }
        let (mut reader, mut writer) = (NOBODY, NOBODY);
        if event.readable {
            entry.flags |= READ;
            reader = std::mem::replace(&mut entry.reader, NOBODY);
        }
        if event.hangup {
            entry.flags |= HANGUP;
        }
        if event.writable {
            entry.flags |= WRITE;
            writer = std::mem::replace(&mut entry.writer, NOBODY);
        }
        (reader, writer)
    }

    pub(super) fn token(&self, index: u32) -> u64 {
        u64::from(self.slab[index as usize].generation) << 32 | u64::from(index)
    }

    pub(super) fn set(&mut self, index: u32, flags: u8) {
        self.slab[index as usize].flags |= flags;
    }

    pub(super) fn flags(&self, index: u32) -> u8 {
        self.slab.get(index as usize).map_or(0, |entry| entry.flags)
    }

    pub(super) fn clear(&mut self, index: u32, flags: u8) {
        self.slab[index as usize].flags &= !flags;
    }

    pub(super) fn wait_read(&mut self, index: u32, task: u64) {
        if let Some(entry) = self.slab.get_mut(index as usize) {
            entry.reader = task;
        }
    }

    pub(super) fn wait_write(&mut self, index: u32, task: u64) {
        if let Some(entry) = self.slab.get_mut(index as usize) {
            entry.writer = task;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len() - self.free.len()
    }
}
