//! epoll(7): registers interest in descriptors, each identified by a token.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::epoll::{Epoll as NixEpoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Most events that one wait returns.
const EVENTS_MAX: usize = 256;

const READING: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// Readiness of one descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    /// The peer will send no more (RDHUP), or the connection is gone (HUP, ERR).
    pub hangup: bool,
}

/// An epoll instance with a buffer for its events. Each reactor owns one.
pub struct Epoll {
    inner: NixEpoll,
    events: Vec<EpollEvent>,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        let inner = NixEpoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { inner, events: vec![EpollEvent::empty(); EVENTS_MAX] })
    }

    /// Registers edge-triggered interest in reading, for the life of a connection.
    pub fn add_reading(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.inner.add(fd, EpollEvent::new(READING, token))?)
    }

    /// Registers edge-triggered interest in both directions.
    pub fn add_both(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.inner.add(fd, EpollEvent::new(READING | EpollFlags::EPOLLOUT, token))?)
    }

    /// Widens `add_reading` to both directions; the current state is reported as an edge.
    pub fn widen(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.inner.modify(fd, &mut EpollEvent::new(READING | EpollFlags::EPOLLOUT, token))?)
    }

    /// Registers level-triggered interest in reading, for listeners and event descriptors.
    pub fn add_level(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.inner.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.inner.delete(fd)?)
    }

    /// Waits at most `timeout_ms` (`None`: forever) and calls `each` for each event.
    ///
    /// A signal ends the wait early, without events.
    pub fn wait(&mut self, timeout_ms: Option<u64>, mut each: impl FnMut(Event)) -> io::Result<()> {
        let timeout = match timeout_ms {
            None => EpollTimeout::NONE,
            Some(ms) => EpollTimeout::try_from(ms.min(i32::MAX as u64) as i32).unwrap_or(EpollTimeout::ZERO),
        };
        let count = match self.inner.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &self.events[..count] {
            let flags = event.events();
            let broken = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            each(Event {
                token: event.data(),
                readable: broken || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP),
                writable: broken || flags.contains(EpollFlags::EPOLLOUT),
                hangup: broken || flags.contains(EpollFlags::EPOLLRDHUP),
            });
        }
        Ok(())
    }
}
