//! Descriptors in the loop: sockets to read and write, listeners to accept from.
//!
//! No call ever blocks, even if another process that shares the socket clears its O_NONBLOCK: reads and
//! writes ask for MSG_DONTWAIT themselves. A connection is registered once, edge-triggered; the first write
//! that finds no room adds the interest in writing with a second epoll_ctl. The system call is always tried
//! first. A short read clears the cached readiness, unless the peer's end was reported too: data and FIN may
//! come in one event.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, recv, send};

use crate::runtime::buffer::Buffer;
use crate::runtime::executor::{try_with, with};
use crate::runtime::reactor::{
    self, ASKED, DELAYS, Flags, HANGUP, READ, SHARED, WIDE, WRITE, WROTE, Waiting,
};
use crate::runtime::waker::TaskId;
use crate::runtime::work;
use crate::sys::address::SockAddr;
use crate::sys::epoll::Epoll;
use crate::sys::{socket, transfer};

/// A registered socket. Dropping it removes it from epoll and closes it.
///
/// At most one task waits for reading and one for writing at a time; a later waiter replaces the earlier one.
#[derive(Debug)]
pub struct Io {
    /// `None` only once `into_fd` has taken it.
    fd: Option<OwnedFd>,
    index: u32,
}

impl Io {
    /// Registers a non-blocking descriptor that is connected.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        // Assumed writable, as a new socket is. Data that is already there is reported by epoll as an edge.
        Self::add(fd, WRITE, Epoll::add_reading)
    }

    /// Notes that another process may share this socket. sendfile(2) and splice(2) follow the socket's
    /// O_NONBLOCK, which that process can clear, so they must not be used on it, except as `relay.rs` does.
    pub fn share(&self) {
        with(|current| current.reactor.borrow_mut().set(self.index, SHARED));
    }

    pub fn is_shared(&self) -> bool {
        self.has(SHARED)
    }

    /// Registers a socket whose connect is in progress: it becomes writable once that has succeeded or
    /// failed. `delays`: Nagle's algorithm is on, and is switched off before the second write.
    pub fn connecting(fd: OwnedFd, delays: bool) -> io::Result<Self> {
        Self::add(fd, if delays { WIDE | DELAYS } else { WIDE }, Epoll::add_both)
    }

    fn add(
        fd: OwnedFd,
        flags: Flags,
        call: impl FnOnce(&Epoll, BorrowedFd<'_>, u64) -> io::Result<()>,
    ) -> io::Result<Self> {
        with(|current| {
            let (index, token) = current.reactor.borrow_mut().insert(flags);
            match call(&current.epoll(), fd.as_fd(), token) {
                Ok(()) => Ok(Self { fd: Some(fd), index }),
                Err(error) => {
                    current.reactor.borrow_mut().remove(index);
                    Err(error)
                }
            }
        })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("present until into_fd").as_fd()
    }

    /// Moves the socket out, and leaves a value that can only be dropped: for an owner that goes on with the
    /// socket in another layer.
    pub fn take(&mut self) -> Self {
        Self { fd: self.fd.take(), index: self.index }
    }

    /// Removes the descriptor from the loop and returns it open.
    pub fn into_fd(mut self) -> OwnedFd {
        self.end_delays();
        let fd = self.fd.take().expect("present until into_fd");
        with(|current| {
            let _ = current.epoll().remove(fd.as_fd()); // it was added by register
            current.reactor.borrow_mut().remove(self.index);
        });
        fd
    }

    /// Ready when a read may return something: data, the end, or an error.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wait_unless(READ | HANGUP, cx) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Like [`Io::poll_readable`], and meanwhile lists the connection as one that only waits, so that
    /// [`ask_to_close`] may choose it. In that case it becomes ready too; if there is nothing to read,
    /// [`Io::is_asked`] says to close.
    pub fn poll_waiting(&self, waiting: Waiting, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let task = TaskId::of(cx).bits();
        with(|current| {
            let mut reactor = current.reactor.borrow_mut();
            if reactor.flags(self.index) & (READ | HANGUP) != 0 {
                return Poll::Ready(Ok(()));
            }
            reactor.wait_read(self.index, task);
            reactor.list(self.index, waiting);
            Poll::Pending
        })
    }

    /// Takes the connection off the list of those that only wait, and withdraws a request to close it.
    pub fn unlist(&self) {
        with(|current| current.reactor.borrow_mut().unlist(self.index));
    }

    /// True when the worker needs this connection's place: it should close if it still only waits.
    pub fn is_asked(&self) -> bool {
        self.has(ASKED)
    }

    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has(WRITE) {
            return Poll::Ready(Ok(()));
        }
        self.wait_write(cx);
        Poll::Pending
    }

    /// Ready when the peer will send no more or the connection is gone. Uses the reader's place as waiter.
    pub fn poll_hangup(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wait_unless(HANGUP, cx) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// True if one of the flags is set; otherwise registers the task as the reader.
    #[inline]
    fn wait_unless(&self, flags: Flags, cx: &Context<'_>) -> bool {
        let task = TaskId::of(cx).bits();
        with(|current| {
            let mut reactor = current.reactor.borrow_mut();
            let is_set = reactor.flags(self.index) & flags != 0;
            if !is_set {
                reactor.wait_read(self.index, task);
            }
            is_set
        })
    }

    /// True when nothing has arrived since the last read and the peer is still there.
    pub fn is_quiet(&self) -> bool {
        !self.has(READ | HANGUP)
    }

    /// True when the peer will send no more, or the connection is gone.
    pub fn is_hung_up(&self) -> bool {
        self.has(HANGUP)
    }

    /// Reads without waiting. `WouldBlock`: there is nothing yet, and an event will report the next bytes.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len();
        self.try_read_with(room, |fd| recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))
    }

    /// Does the same into several slices, one after the other.
    pub fn try_read_vectored(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room = slices.iter().map(|slice| slice.len()).sum();
        self.try_read_with(room, |fd| socket::receive_vectored(fd, slices))
    }

    /// Runs a system call that reads; a short count or EAGAIN clears the cached readiness.
    #[inline]
    fn try_read_with(
        &self,
        room: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let flags = self.flags();
        if flags & (READ | HANGUP) == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match call(self.as_fd()) {
                Ok(count) => {
                    // RDHUP came with the data: keep READ set (tests: eof_with_data).
                    if count < room && flags & HANGUP == 0 {
                        self.clear(READ);
                    }
                    return Ok(count);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    self.clear(READ);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        self.try_write_with(data.len(), |fd| send(fd.as_raw_fd(), data, flags))
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        self.try_write_with(total, |fd| socket::send_vectored(fd, slices))
    }

    /// Runs a system call that writes; a short count or EAGAIN clears the cached readiness.
    pub fn try_write_with(
        &self,
        total: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        match self.flags() & (WRITE | DELAYS) {
            WRITE => {}
            0 | DELAYS => return Err(io::ErrorKind::WouldBlock.into()),
            _ => self.writes_once(),
        }
        loop {
            match call(self.as_fd()) {
                Ok(count) => {
                    if count < total {
                        self.clear(WRITE);
                    }
                    return Ok(count);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    self.clear(WRITE);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Notes the first write of a connection on which Nagle's algorithm is on, and switches that off before the second.
    #[cold]
    fn writes_once(&self) {
        match self.has(WROTE) {
            true => self.end_delays(),
            false => with(|current| current.reactor.borrow_mut().set(self.index, WROTE)),
        }
    }

    /// Switches Nagle's algorithm off, if it is on.
    pub(super) fn end_delays(&self) {
        if self.has(DELAYS) {
            self.clear(DELAYS);
            socket::end_delays(self.as_fd());
        }
    }

    /// Runs a system call that receives; EAGAIN clears the cached readiness.
    pub fn try_receive<T>(&self, mut call: impl FnMut(BorrowedFd<'_>) -> nix::Result<T>) -> io::Result<T> {
        loop {
            match call(self.as_fd()) {
                Ok(value) => return Ok(value),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    self.clear(READ);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs a system call that receives up to `max` datagrams and returns their number: fewer, or EAGAIN, clear the cached
    /// readiness. After an error event it stays, since the error may have come with the last datagram.
    pub fn try_receive_many(
        &self,
        max: usize,
        call: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let count = self.try_receive(call)?;
        if count < max && !self.is_hung_up() {
            self.clear(READ);
        }
        Ok(count)
    }

    /// Runs a system call that sends datagrams; EAGAIN clears the cached readiness.
    pub fn try_send<T>(&self, mut call: impl FnMut(BorrowedFd<'_>) -> nix::Result<T>) -> io::Result<T> {
        if !self.has(WRITE) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match call(self.as_fd()) {
            Ok(value) => Ok(value),
            Err(nix::Error::EAGAIN) => {
                self.clear(WRITE);
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_budget(cx));
        match self.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_read(cx);
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_budget(cx));
        self.or_wait_write(cx, self.try_write(data))
    }

    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_budget(cx));
        self.or_wait_write(cx, self.try_write_vectored(slices))
    }

    /// Sends up to `length` bytes of a file, starting at `offset`. Zero: the file ends there.
    pub fn poll_write_file(
        &self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_budget(cx));
        // A short count says nothing, since the file may end early: only EAGAIN means that the socket is
        // full.
        let outcome = self.try_write_with(0, |fd| transfer::send_file(fd, file, offset, length));
        self.or_wait_write(cx, outcome)
    }

    /// Turns `WouldBlock` from a write into waiting.
    pub fn or_wait_write(&self, cx: &mut Context<'_>, outcome: io::Result<usize>) -> Poll<io::Result<usize>> {
        match outcome {
            Ok(count) if count > work::TRANSFER_BYTES => {
                work::transferred(count);
                Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_write(cx);
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// Pending when the task has used up the I/O operations of this poll; it is then queued behind the other
    /// tasks.
    pub fn poll_budget(&self, cx: &mut Context<'_>) -> Poll<()> {
        if with(|current| current.spend()) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The future of [`Io::poll_waiting`].
    pub async fn waiting(&self, waiting: Waiting) -> io::Result<()> {
        poll_fn(|cx| self.poll_waiting(waiting, cx)).await
    }

    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await
    }

    pub async fn hangup(&self) {
        poll_fn(|cx| self.poll_hangup(cx)).await;
    }

    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    /// Reads into the free space of a buffer.
    pub async fn read_buf(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let count = poll_fn(|cx| self.poll_read(cx, buffer.space())).await?;
        buffer.filled(count);
        Ok(count)
    }

    pub async fn write(&self, data: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_write(cx, data)).await
    }

    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = self.write(data).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = &data[count..];
        }
        Ok(())
    }

    /// Shuts down our sending side, so that the peer sees the end.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(nix::sys::socket::shutdown(self.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write)?)
    }

    #[inline]
    fn flags(&self) -> Flags {
        with(|current| current.reactor.borrow().flags(self.index))
    }

    #[inline]
    pub(super) fn has(&self, flags: Flags) -> bool {
        self.flags() & flags != 0
    }

    pub(super) fn clear(&self, flags: Flags) {
        with(|current| current.reactor.borrow_mut().clear(self.index, flags));
    }

    pub(super) fn wait_read(&self, cx: &Context<'_>) {
        let task = TaskId::of(cx).bits();
        with(|current| current.reactor.borrow_mut().wait_read(self.index, task));
    }

    pub(super) fn wait_write(&self, cx: &Context<'_>) {
        let task = TaskId::of(cx).bits();
        with(|current| {
            let mut reactor = current.reactor.borrow_mut();
            reactor.wait_write(self.index, task);
            if reactor.flags(self.index) & WIDE == 0 {
                reactor.set(self.index, WIDE);
                let token = reactor.token(self.index);
                drop(reactor);
                if current.epoll().widen(self.as_fd(), token).is_err() {
                    // epoll has no memory for it: look again in the next turn rather than never.
                    let mut reactor = current.reactor.borrow_mut();
                    reactor.clear(self.index, WIDE);
                    reactor.set(self.index, WRITE);
                    drop(reactor);
                    cx.waker().wake_by_ref();
                }
            }
        });
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        // For a socket that only we have, closing removes it from epoll and tells the peer. A shared one
        // needs both done by hand, since the other process may keep it open.
        if let Some(fd) = self.fd.take() {
            let mut stays_open = false;
            try_with(|current| {
                // A process that shares it leaves as well: it is the worker of an earlier generation that handed it over.
                stays_open = current.leaves_open();
                let mut reactor = current.reactor.borrow_mut();
                if reactor.flags(self.index) & SHARED != 0 && !stays_open {
                    let _ = current.epoll().remove(fd.as_fd()); // it was added by register
                    let _ = nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Both);
                }
                reactor.remove(self.index);
            });
            match stays_open {
                true => mem::forget(fd),
                false => drop(fd),
            }
        }
    }
}

/// Number of descriptors registered in this loop.
pub fn registration_count() -> usize {
    with(|current| current.reactor.borrow().len())
}

/// Asks up to `count` connections to close, those that have waited longest first: wakes their tasks, which
/// close them unless a request has come meanwhile. Returns the number asked.
pub fn ask_to_close(count: usize) -> usize {
    with(|current| {
        let ask = |_| current.reactor.borrow_mut().ask_oldest();
        (0..count).map_while(ask).map(|task| current.wake_bits(task)).count()
    })
}

/// Number of connections that were asked to close and have not reacted yet.
#[inline]
pub fn asked_count() -> usize {
    reactor::asked_count()
}

/// Number of connections that only wait.
pub fn waiting_count() -> usize {
    with(|current| current.reactor.borrow().listed_count())
}

/// A listening socket, level-triggered: connections left in its queue are reported again in the next turn.
///
/// The descriptor is shared with the master and other workers, so closing it here closes no queue.
#[derive(Debug)]
pub struct Acceptor {
    fd: OwnedFd,
    index: u32,
    token: u64,
    is_paused: std::cell::Cell<bool>,
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Acceptor {
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        with(|current| {
            let (index, token) = current.reactor.borrow_mut().insert(0);
            match current.epoll().add_level(fd.as_fd(), token) {
                Ok(()) => Ok(Self { fd, index, token, is_paused: std::cell::Cell::new(false) }),
                Err(error) => {
                    current.reactor.borrow_mut().remove(index);
                    Err(error)
                }
            }
        })
    }

    /// Accepts one connection. The caller judges errors: EMFILE and the like call for a pause.
    pub async fn accept(&self) -> io::Result<(OwnedFd, SockAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, SockAddr)>> {
        let is_ready = with(|current| current.reactor.borrow().flags(self.index) & READ != 0);
        if is_ready {
            // Accept one connection per report: if more are left epoll reports again, and no accept call
            // fails.
            with(|current| current.reactor.borrow_mut().clear(self.index, READ));
            loop {
                match socket::accept(self.fd.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_transient(&error) => {}
                    outcome => return Poll::Ready(outcome),
                }
            }
        }
        let task = TaskId::of(cx).bits();
        with(|current| current.reactor.borrow_mut().wait_read(self.index, task));
        Poll::Pending
    }

    /// Ready when a connection waits in the queue; leaves it there.
    pub fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<()> {
        let task = TaskId::of(cx).bits();
        with(|current| {
            let mut reactor = current.reactor.borrow_mut();
            if reactor.flags(self.index) & READ != 0 {
                return Poll::Ready(());
            }
            reactor.wait_read(self.index, task);
            Poll::Pending
        })
    }

    /// Stops watching the listener; its queue stays open and fills.
    pub fn pause(&self) {
        if !self.is_paused.replace(true) {
            try_with(|current| {
                let _ = current.epoll().remove(self.fd.as_fd());
                current.reactor.borrow_mut().clear(self.index, READ);
            });
        }
    }

    /// Watches the listener again.
    pub fn resume(&self) -> io::Result<()> {
        if self.is_paused.replace(false) {
            with(|current| current.epoll().add_level(self.fd.as_fd(), self.token))?;
        }
        Ok(())
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Other processes share the descriptor, so closing it would not remove it from epoll.
        self.pause();
        try_with(|current| current.reactor.borrow_mut().remove(self.index));
    }
}

/// True for errors that concern a single connection, lost before it was accepted (accept(2)).
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::runtime::{Runtime, TimedOut, registration_count, spawn, task_count, timeout, timer_count};
    use crate::sys::buffers::Buffers;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (a.into(), b.into())
    }

    #[test]
    fn nagle_s_algorithm_ends_before_a_second_write_could_be_delayed() {
        Runtime::new().unwrap().block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = SockAddr::Inet(listener.local_addr().unwrap());
            let connect = async || {
                let (fd, _) =
                    socket::connect_nonblocking(&address, None, false, false, Buffers::default()).unwrap();
                let io = Io::connecting(fd, true).unwrap();
                assert_eq!(io.try_write(b"early").unwrap_err().kind(), io::ErrorKind::WouldBlock);
                io.writable().await.unwrap();
                io
            };
            let is_off = |fd: BorrowedFd<'_>| socket2::SockRef::from(&fd).tcp_nodelay().unwrap();
            let io = connect().await;
            let writes = [b"a".as_slice(), b"b", b"c"].map(|bytes| {
                io.try_write(bytes).unwrap();
                is_off(io.as_fd())
            });
            assert_eq!(writes, [false, true, true]);

            let given = connect().await.into_fd();
            assert!(is_off(given.as_fd()), "its next owner does not know");

            let target = connect().await;
            let (source, other) = pair();
            Io::register(other).unwrap().write_all(b"abc").await.unwrap();
            let source = Io::register(source).unwrap();
            let limits = crate::runtime::relay::Limits { read_timeout_ms: 5000, write_timeout_ms: 5000 };
            crate::runtime::relay::splice(&source, &target, 3, &limits, |_| {}).await.unwrap();
            assert!(is_off(target.as_fd()), "pipes are drained in many steps");
        });
    }

    /// Another process may share a socket that was handed over, and clear its O_NONBLOCK at any time.
    #[test]
    fn a_blocking_socket_never_blocks() {
        let mut runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let (a, _b) = UnixStream::pair().unwrap();
            let a = Io::register(a.into()).unwrap();
            a.readable_now();
            assert_eq!(a.try_read(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let piece = [0; 65_536];
            let would_block = |outcome: io::Result<usize>| {
                outcome.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            };
            // A short write clears the cached readiness, so make each attempt ask the socket itself.
            let full = |write: &dyn Fn() -> io::Result<usize>| {
                (0..1000).any(|_| {
                    a.writable_now();
                    would_block(write())
                })
            };
            assert!(full(&|| a.try_write(&piece)));
            assert!(full(&|| a.try_write_vectored(&[IoSlice::new(&piece), IoSlice::new(&piece)])));
        });
    }

    impl Io {
        fn readable_now(&self) {
            with(|current| current.reactor.borrow_mut().set(self.index, READ));
        }

        fn writable_now(&self) {
            with(|current| current.reactor.borrow_mut().set(self.index, WRITE));
        }
    }

    #[test]
    fn bytes_travel_and_nothing_is_left_behind() {
        let mut runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let (a, b) = pair();
            let (a, b) = (Io::register(a).unwrap(), Io::register(b).unwrap());
            spawn(async move {
                let mut buffer = Buffer::take(4096);
                while b.read_buf(&mut buffer).await.unwrap() > 0 {
                    b.write_all(buffer.data()).await.unwrap();
                    buffer.clear();
                }
            });
            let mut buffer = [0; 64];
            assert_eq!(timeout(5, a.read(&mut buffer)).await.unwrap_err(), TimedOut);
            for round in 0..100u8 {
                a.write_all(&[round; 10]).await.unwrap();
                assert_eq!(timeout(5000, a.read(&mut buffer)).await.unwrap().unwrap(), 10);
                assert_eq!(buffer[0], round);
            }
            a.shutdown_write().unwrap();
            assert_eq!(timeout(5000, a.read(&mut buffer)).await.unwrap().unwrap(), 0);
            drop(a);
            assert_eq!((registration_count(), timer_count(), task_count()), (0, 0, 1));
        });
    }

    /// Data and FIN come in one event; the short read must not hide the end.
    #[test]
    fn eof_with_data() {
        let mut runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let (a, b) = pair();
            nix::unistd::write(&b, b"last words").unwrap();
            drop(b);
            let a = Io::register(a).unwrap();
            a.readable().await.unwrap();
            let mut buffer = [0; 64];
            assert_eq!(timeout(5000, a.read(&mut buffer)).await.unwrap().unwrap(), 10);
            assert_eq!(timeout(5000, a.read(&mut buffer)).await.unwrap().unwrap(), 0);
        });
    }
}
