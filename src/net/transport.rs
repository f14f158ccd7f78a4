//! A connection as the protocols see it: bytes to read and write, and whether the peer is still there.
//!
//! The layer underneath, a plain socket or an encrypted session, is chosen once, when the connection is
//! opened. Everything above `net/` that reads or writes a connection takes a [`Transport`]. Bytes can be
//! moved inside the kernel only on a plain socket: [`Transport::plain`] is the only way to that, and
//! `into_parts` the only way to give the socket away.
//! Touches: the connection's socket.

#[cfg(test)]
pub mod script;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::num::NonZeroI32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::base::frame::Fields;
use crate::net::handover::TlsState;
use crate::net::tls::{Info, Session, Tls};
use crate::runtime::buffer::Buffer;
use crate::runtime::{Io, Waiting, relay};
use crate::sys::address::SockAddr;
use crate::sys::single;
use crate::sys::socket::{self, TcpInfo};

/// Bytes of a file copied at a time if the kernel cannot send it.
/// With TLS: four records and their overhead fit what is sent at once.
const FILE_BYTES: usize = 65_280;

/// One connection, of a client or to an upstream server.
///
/// It belongs to the task that serves it; dropping it closes the connection. All methods take `&self`, since
/// both directions are used at the same time. None of them waits: `poll_` methods have the task woken later,
/// and charge its budget if they move bytes; `try_` methods do neither.
///
/// A transport may hold plaintext that the socket does not show, so `poll_readable` and `is_quiet` ask the
/// transport rather than the socket. It may also hold written bytes that the socket has not taken, so a
/// sender finishes with `poll_flush`. A plain socket holds nothing in either direction.
#[derive(Debug)]
pub enum Transport {
    Plain(Io),
    Tls(Box<Tls>),
    /// Plays a test's script.
    #[cfg(test)]
    Scripted(script::Player),
}

/// Calls a method on whichever variant it is.
macro_rules! each {
    ($transport:expr, $inner:ident => $call:expr) => {
        match $transport {
            Transport::Plain($inner) => $call,
            Transport::Tls($inner) => $call,
            #[cfg(test)]
            Transport::Scripted($inner) => $call,
        }
    };
}

impl Transport {
    /// Reads into `buffer`. Ready with 0 at the end of the peer's data.
    #[inline]
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_read(cx, buffer))
    }

    /// Reads without waiting. `WouldBlock`: there is nothing yet; wait with `poll_readable`.
    #[inline]
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, inner => inner.try_read(buffer))
    }

    /// Writes bytes; may take fewer than given.
    #[inline]
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write(cx, data))
    }

    #[inline]
    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write_vectored(cx, slices))
    }

    /// Sends up to `length` bytes of a file, starting at `offset`; inside the kernel where possible. Zero:
    /// the file ends there.
    pub fn poll_write_file(
        &self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<io::Result<usize>> {
        match self.plain() {
            Some(io) => io.poll_write_file(cx, file, offset, length),
            None => self.poll_copy_file(cx, file, offset, length),
        }
    }

    /// Does the same through a buffer. Bytes that are read again, because few were taken, come from the page
    /// cache.
    fn poll_copy_file(
        &self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<io::Result<usize>> {
        // Nothing is read for a socket that takes nothing.
        ready!(self.poll_flush(cx))?;
        let mut buffer = Buffer::take(FILE_BYTES);
        let room = buffer.space().len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = nix::sys::uio::pread(file, &mut buffer.space()[..room], offset)?;
        buffer.filled(count);
        if count == 0 { Poll::Ready(Ok(0)) } else { self.poll_write(cx, buffer.data()) }
    }

    /// Writes bytes without waiting; may take fewer than given.
    #[inline]
    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        each!(self, inner => inner.try_write(data))
    }

    /// Ready when the socket has taken all written bytes. A plain socket holds none back.
    #[inline]
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(tls) => tls.poll_flush(cx),
            Self::Plain(_) => Poll::Ready(Ok(())),
            #[cfg(test)]
            Self::Scripted(_) => Poll::Ready(Ok(())),
        }
    }

    /// True if no written bytes are held back.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        !matches!(self, Self::Tls(tls) if !tls.is_flushed())
    }

    /// True if the socket has taken some of the bytes held back since this was last asked.
    pub fn took_some(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.took_some())
    }

    /// Ready when a read may return something: bytes already here, the end, or an error.
    #[inline]
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_readable(cx))
    }

    /// Like [`Transport::poll_readable`], and meanwhile lists the connection as one that only waits: the
    /// worker may ask it to give up its place ([`Transport::is_asked`]).
    #[inline]
    pub fn poll_waiting(&self, waiting: Waiting, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => io.poll_waiting(waiting, cx),
            Self::Tls(tls) => tls.poll_waiting(waiting, cx),
            #[cfg(test)]
            Self::Scripted(player) => player.poll_readable(cx),
        }
    }

    /// Ready when the peer will send no more or the connection is gone. Uses the reader's place as waiter.
    #[inline]
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        each!(self, inner => inner.poll_hangup(cx))
    }

    /// True when the peer will send no more, or the connection is gone.
    #[inline]
    pub fn is_gone(&self) -> bool {
        each!(self, inner => inner.is_hung_up())
    }

    /// True when nothing has arrived since the last read and the peer is still there.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        each!(self, inner => inner.is_quiet())
    }

    /// Closes our sending direction, so that the peer sees the end.
    pub fn shutdown(&self) -> io::Result<()> {
        each!(self, inner => inner.shutdown_write())
    }

    /// Pending when the task has used up the I/O operations of this poll; it is then queued behind the other
    /// tasks. For loops of `try_` calls, which charge nothing.
    pub fn poll_budget(&self, cx: &mut Context<'_>) -> Poll<()> {
        each!(self, inner => inner.poll_budget(cx))
    }

    /// The socket itself, for splice and sendfile. `None` if its bytes are not those of the protocol, or if
    /// another process may share the socket and change its mode, which those calls follow.
    #[inline]
    pub fn plain(&self) -> Option<&Io> {
        match self {
            Self::Plain(io) => Some(io).filter(|io| !io.is_shared()),
            Self::Tls(_) => None,
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// The socket itself, for a tunnel's pipes ([`relay::poll_fill`]). `None` if its bytes are not those of the protocol, or
    /// if another process has abused a socket that it shares.
    pub fn spliceable(&self) -> Option<&Io> {
        match self {
            Self::Plain(io) => Some(io).filter(|io| relay::may_splice(io)),
            Self::Tls(_) => None,
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// What the bytes of a long body can be moved to without a buffer of the caller's. `None`: another process
    /// may share the socket, or the handshake is not complete.
    #[inline]
    pub fn raw(&self) -> Option<Raw<'_>> {
        match self {
            Self::Plain(_) => self.plain().map(Raw::Plain),
            Self::Tls(tls) => Some(Raw::Tls(tls)).filter(|_| !tls.is_early()),
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// Removes the descriptor from the loop and returns it open, for another process, with the state of its
    /// TLS. Errors: the connection, if it cannot move now because bytes of it are on their way.
    pub fn into_parts(self) -> Result<(OwnedFd, TlsState), Self> {
        match self {
            Self::Plain(io) => Ok((io.into_fd(), TlsState::default())),
            Self::Tls(tls) => {
                let (io, moved) = tls.into_moved().map_err(Self::Tls)?;
                let bytes = moved.to_bytes().unwrap_or_default();
                Ok((io.into_fd(), TlsState(bytes)))
            }
            #[cfg(test)]
            Self::Scripted(_) => Err(self),
        }
    }

    /// The most bytes that [`Transport::save`] appends.
    pub fn saved_bytes_max(&self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Tls(tls) => 1 + tls.saved_bytes_max(),
            #[cfg(test)]
            Self::Scripted(_) => 0,
        }
    }

    /// Appends what another process needs, with the socket, to go on at this very point; false if the connection
    /// cannot move now. [`Transport::release`] then gives the socket away.
    pub fn save(&self, out: &mut Vec<u8>) -> bool {
        out.push(u8::from(matches!(self, Self::Tls(_))));
        match self {
            Self::Plain(_) => true,
            Self::Tls(tls) => tls.save(out),
            #[cfg(test)]
            Self::Scripted(_) => false,
        }
    }

    /// Removes the descriptor from the loop and returns it open; the peer hears nothing of it.
    pub fn release(self) -> Option<OwnedFd> {
        match self {
            Self::Plain(io) => Some(io.into_fd()),
            Self::Tls(tls) => Some(tls.release().into_fd()),
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// Goes on with a connection that another process has saved, and may still share. `None`: the bytes are something
    /// else, or the socket cannot be watched.
    pub fn restore(fd: OwnedFd, fields: &mut Fields<'_>) -> Option<Self> {
        socket::set_nonblocking(fd.as_fd()).ok()?;
        let io = Io::register(fd).ok()?;
        io.share();
        Some(if fields.flag()? { Self::Tls(Tls::restore(io, fields)?) } else { Self::Plain(io) })
    }

    /// Puts TLS over the plain socket, whose handshake has been made.
    pub fn secure(&mut self, session: Session) {
        if let Self::Plain(io) = self {
            *self = Self::Tls(Box::new(Tls::new(io.take(), session)));
        }
    }

    /// The result of the TLS handshake; `None`: the connection is plain.
    #[inline]
    pub fn tls(&self) -> Option<&Rc<Info>> {
        match self {
            Self::Tls(tls) => Some(tls.info()),
            Self::Plain(_) => None,
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// True while the client's handshake is not complete: what it has sent is early data.
    pub fn is_early(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_early())
    }

    /// Notes that another process may share the socket.
    pub fn share(&self) {
        self.with_socket(Io::share);
    }

    /// Takes the connection off the list of those that only wait, and withdraws a request to close it.
    #[inline]
    pub fn unlist(&self) {
        self.with_socket(Io::unlist);
    }

    /// True when the worker needs this connection's place: it should close if it still only waits.
    #[inline]
    pub fn is_asked(&self) -> bool {
        self.with_socket(Io::is_asked).unwrap_or(false)
    }

    /// A handle to ask the kernel about the connection while it is open.
    pub fn probe(&self) -> Option<Probe> {
        self.with_socket(|io| Probe::of(io.as_fd().as_raw_fd()))?
    }

    /// The address that the peer connected to, if it can be had.
    pub fn local_addr(&self) -> Option<SockAddr> {
        self.with_socket(|io| socket::local_addr(io.as_fd()).ok())?
    }

    /// The address of the peer, if it can be had.
    pub fn peer_addr(&self) -> Option<SockAddr> {
        self.with_socket(|io| socket::peer_addr(io.as_fd()).ok())?
    }

    /// Makes the connection end with a reset when it is closed, discarding unsent data.
    pub fn reset_on_close(&self) {
        if let Self::Tls(tls) = self {
            tls.abandon();
        }
        self.with_socket(|io| socket::reset_on_close(io.as_fd()));
    }

    /// Makes the socket end with a reset when it is closed, unless [`Transport::finish_on_close`] is called, and whatever ends the
    /// process. TLS goes on meanwhile.
    pub fn reset_unless_finished(&self) {
        self.with_socket(|io| socket::reset_on_close(io.as_fd()));
    }

    /// Makes a plain connection end with a reset when it is closed if the peer has closed its side. TLS ends in its own way.
    pub fn reset_if_ended(&self) {
        if let Some(io) = self.plain().filter(|io| io.is_hung_up()) {
            let _ = socket::reset_on_close(io.as_fd()); // if it fails, the connection is ended
        }
    }

    /// Withdraws [`Transport::reset_unless_finished`].
    pub fn finish_on_close(&self) {
        self.with_socket(|io| single::finish_on_close(io.as_fd()));
    }

    /// True if the peer's bytes have ended in a way that TLS does not vouch for: somebody else may have cut them off.
    pub fn was_cut(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.was_cut())
    }

    /// Adds to the count of bytes of one message that the socket has taken. Past a threshold the peer is
    /// known to read: from then on the kernel may hold any number of its bytes unsent.
    #[inline]
    pub fn advance(&self, before: u64, count: usize) -> u64 {
        self.with_socket(|io| relay::advance(io, before, count)).unwrap_or(before + count as u64)
    }

    /// Calls `ask` with the socket underneath; only a test's transport has none.
    #[inline]
    fn with_socket<T>(&self, ask: impl FnOnce(&Io) -> T) -> Option<T> {
        match self {
            Self::Plain(io) => Some(ask(io)),
            Self::Tls(tls) => Some(ask(tls.io())),
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The future of [`Transport::poll_waiting`].
    pub async fn waiting(&self, waiting: Waiting) -> io::Result<()> {
        poll_fn(|cx| self.poll_waiting(waiting, cx)).await
    }

    /// The future of [`Transport::poll_gone`].
    pub async fn gone(&self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Writes all of `data` and flushes. Fails with the connection's error, or `WriteZero` if it takes
    /// nothing more.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = poll_fn(|cx| self.poll_write(cx, data)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = &data[count..];
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }
}

/// The target of a long body: a socket that the kernel moves bytes to, or a connection into whose records they
/// are read.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    Plain(&'a Io),
    Tls(&'a Tls),
}

impl Raw<'_> {
    /// Moves `length` bytes that a socket receives. `at_end` and errors: as for [`relay::splice`]; sealed bytes have been
    /// handed on.
    pub async fn splice(
        self,
        source: &Io,
        length: u64,
        limits: &relay::Limits,
        at_end: impl FnMut(bool),
    ) -> Result<u64, relay::RelayError> {
        match self {
            Self::Plain(io) => relay::splice(source, io, length, limits, at_end).await,
            // Boxed: its future is larger than the other's.
            Self::Tls(tls) => Box::pin(tls.splice(source, length, limits, at_end)).await,
        }
    }

    /// Sends a part of a file that is in memory; see [`relay::sendfile`].
    pub async fn send_file(
        self,
        file: BorrowedFd<'_>,
        range: (u64, u64),
        before: u64,
        limits: &relay::Limits,
    ) -> Result<u64, relay::RelayError> {
        match self {
            Self::Plain(io) => relay::sendfile(file, range, before, io, limits).await,
            Self::Tls(tls) => Box::pin(tls.send_file(file, range, before, limits)).await,
        }
    }
}

/// A socket to ask the kernel about, for values that outlive a borrow of its [`Transport`].
///
/// It does not keep the socket open, so its holder must not outlive the connection. If it did, the answers
/// would be those of a later connection with the same descriptor number, and nothing worse.
#[derive(Clone, Copy, Debug)]
pub struct Probe(NonZeroI32);

impl Probe {
    /// A descriptor is not negative: with one added, `None` takes no memory.
    fn of(descriptor: RawFd) -> Option<Self> {
        descriptor.checked_add(1).and_then(NonZeroI32::new).map(Self)
    }

    /// The kernel's measurements of the connection; `None` if it is not TCP.
    pub fn tcp_info(self) -> Option<TcpInfo> {
        socket::tcp_info(self.descriptor())
    }

    /// The address of the other end.
    pub fn peer_addr(self) -> Option<SockAddr> {
        socket::with_number(self.descriptor(), |fd| socket::peer_addr(fd).ok())?
    }

    /// The address of this end.
    pub fn local_addr(self) -> Option<SockAddr> {
        socket::with_number(self.descriptor(), |fd| socket::local_addr(fd).ok())?
    }

    /// Shuts both directions down; whoever uses the connection meets its end. False: it has ended already.
    pub fn shut_down(self) -> bool {
        nix::sys::socket::shutdown(self.descriptor(), nix::sys::socket::Shutdown::Both).is_ok()
    }

    /// The number of the socket.
    pub fn descriptor(self) -> i32 {
        self.0.get() - 1
    }

    /// The process and the user of a client of a unix socket.
    pub fn peer_credentials(self) -> Option<(u32, u32)> {
        socket::peer_credentials(self.descriptor())
    }
}

impl From<Io> for Transport {
    fn from(io: Io) -> Self {
        Self::Plain(io)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::runtime::{Runtime, registration_count};

    fn pair() -> (Transport, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Io::register(ours.into()).unwrap().into(), theirs)
    }

    #[test]
    fn costs_no_more_than_its_socket() {
        // Every idle connection pays for the size, and so does every kept one to an upstream.
        assert_eq!(size_of::<Io>(), 8);
        assert!(size_of::<Transport>() <= 16);
    }

    #[test]
    fn a_shared_socket_is_no_door_into_the_kernel_but_can_be_given_away() {
        Runtime::new().unwrap().block_on(async {
            let (transport, _peer) = pair();
            assert!(transport.plain().is_some());
            transport.share();
            assert!(transport.plain().is_none());
            assert!(transport.into_parts().is_ok());
            assert_eq!(registration_count(), 0);
        });
    }

    #[test]
    fn a_file_is_copied_where_the_kernel_cannot_send_it() {
        use std::io::Write;
        use std::os::fd::AsFd;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        Runtime::new().unwrap().block_on(async move {
            let (transport, script) = script::play();
            script.takes(2);
            let send = async |from, length| {
                poll_fn(|cx| transport.poll_write_file(cx, file.as_fd(), from, length)).await.unwrap()
            };
            assert_eq!(
                (send(3, 4).await, send(5, 2).await, send(9, 9).await, send(10, 5).await),
                (2, 2, 1, 0)
            );
            assert_eq!(script.written(), b"34569");
        });
    }

    #[test]
    fn the_kernel_is_asked_about_sockets_only() {
        Runtime::new().unwrap().block_on(async {
            let (transport, _peer) = pair();
            assert!(transport.probe().unwrap().tcp_info().is_none());
            let (transport, _script) = script::play();
            assert!(transport.plain().is_none() && transport.probe().is_none());
            assert!(transport.local_addr().is_none() && !transport.is_asked());
            assert_eq!(transport.advance(100, 2), 102);
            assert!(transport.into_parts().is_err());
        });
    }
}
