//! Relays bytes from one descriptor to another, with bounded memory: a slow target stops its source.
//!
//! Touches: the two descriptors, and a pipe of the worker's pool for `splice`.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, send};

use crate::runtime::buffer::Buffer;
use crate::runtime::reactor::{Flags, READ, WRITE};
use crate::runtime::work;
use crate::runtime::{Io, Timer, now_ms};
use crate::sys::socket::{self, UNSENT_PROOF_BYTES, lift_unsent_limit};
use crate::sys::transfer::{Pipe, send_file};

/// Buffer size of a relay without a pipe.
const COPY_BYTES: usize = 64 * 1024;

/// The longest time a relay waits for either side without any progress.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub read_timeout_ms: u64,
    pub write_timeout_ms: u64,
}

/// The side on which a relay failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

#[derive(Debug)]
pub enum Cause {
    Io(io::Error),
    TimedOut,
    /// The source ended before its length was reached.
    Eof,
}

/// The side and the cause of a relay's early end, and the number of bytes that had reached the target.
#[derive(Debug)]
pub struct RelayError {
    pub side: Side,
    pub cause: Cause,
    pub moved: u64,
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(out),
            Self::TimedOut => out.write_str("110: Connection timed out"),
            Self::Eof => out.write_str("unexpected end"),
        }
    }
}

/// Moves `length` bytes from socket to socket through a pipe, without copying them to user space. Where no
/// pipe can be opened it copies through a buffer: a worker short of descriptors gets slower but does not
/// truncate responses.
///
/// `at_end(true)` is called before each call that may hand the last bytes on, and `at_end(false)` after it, in the
/// same step, if it did not.
///
/// Fails when the source ends before `length`, or when either side fails or times out. Bytes left in the pipe
/// are then lost; the caller must close both connections.
pub async fn splice(
    source: &Io,
    target: &Io,
    length: u64,
    limits: &Limits,
    mut at_end: impl FnMut(bool),
) -> Result<u64, RelayError> {
    let fail = |side, cause, moved| RelayError { side, cause, moved };
    let Ok(mut pipe) = Pipe::take() else { return copy(source, target, length, limits, at_end).await };
    let mut timer = Timer::new();
    let (mut read, mut moved) = (0, 0);
    while moved < length {
        if pipe.held() == 0 {
            let left = length - read;
            let filled = transfer(source, READ, &mut timer, limits.read_timeout_ms, || {
                pipe.fill(source.as_fd(), left)
            });
            match filled.await {
                Ok(0) => return Err(fail(Side::Source, Cause::Eof, moved)),
                Ok(count) => read += count as u64,
                Err(cause) => return Err(fail(Side::Source, cause, moved)),
            }
        }
        let drained = transfer(target, WRITE, &mut timer, limits.write_timeout_ms, || {
            let is_whole = read == length;
            if is_whole {
                at_end(true);
            }
            let drained = pipe.drain(target.as_fd());
            if is_whole && pipe.held() > 0 {
                at_end(false);
            }
            drained
        });
        match drained.await {
            Ok(count) => moved = advance(target, moved, count),
            Err(cause) => return Err(fail(Side::Target, cause, moved)),
        }
    }
    Ok(moved)
}

/// Does the same through a buffer of the worker's pool.
async fn copy(
    source: &Io,
    target: &Io,
    length: u64,
    limits: &Limits,
    mut at_end: impl FnMut(bool),
) -> Result<u64, RelayError> {
    let mut timer = Timer::new();
    let mut moved = 0;
    while moved < length {
        // Take the buffer only once there is something to read: a waiting relay holds none.
        let waited = transfer(source, READ, &mut timer, limits.read_timeout_ms, || Ok(0)).await;
        waited.map_err(|cause| RelayError { side: Side::Source, cause, moved })?;
        let mut buffer = Buffer::take(COPY_BYTES);
        let room = buffer.space().len().min(usize::try_from(length - moved).unwrap_or(usize::MAX));
        let read = transfer(source, READ, &mut timer, limits.read_timeout_ms, || {
            nix::unistd::read(source.as_fd(), &mut buffer.space()[..room])
        });
        match read.await {
            Ok(0) => return Err(RelayError { side: Side::Source, cause: Cause::Eof, moved }),
            Ok(count) => buffer.filled(count),
            Err(cause) => return Err(RelayError { side: Side::Source, cause, moved }),
        }
        while !buffer.data().is_empty() {
            let is_whole = moved + buffer.data().len() as u64 == length;
            let written = transfer(target, WRITE, &mut timer, limits.write_timeout_ms, || {
                if is_whole {
                    at_end(true);
                }
                let sent = send(target.as_fd().as_raw_fd(), buffer.data(), MsgFlags::MSG_NOSIGNAL);
                if is_whole && sent != Ok(buffer.data().len()) {
                    at_end(false);
                }
                sent
            });
            match written.await {
                Ok(count) => {
                    moved += count as u64;
                    buffer.consume(count);
                }
                Err(cause) => return Err(RelayError { side: Side::Target, cause, moved }),
            }
        }
    }
    Ok(moved)
}

/// Sends a part of a file. The part is short enough for the worker's other connections to wait for it.
/// `before` is the number of bytes of the same response that the target has taken already.
///
/// Fails with `Eof` at the source when the file has become shorter than `offset + length`.
pub async fn sendfile(
    file: BorrowedFd<'_>,
    (offset, length): (u64, u64),
    before: u64,
    target: &Io,
    limits: &Limits,
) -> Result<u64, RelayError> {
    let mut timer = Timer::new();
    let mut moved = 0;
    while moved < length {
        let sent = transfer(target, WRITE, &mut timer, limits.write_timeout_ms, || {
            send_file(target.as_fd(), file, offset + moved, length - moved)
        });
        match sent.await {
            Ok(0) => return Err(RelayError { side: Side::Source, cause: Cause::Eof, moved }),
            Ok(count) => moved = advance(target, before + moved, count) - before,
            Err(cause) => return Err(RelayError { side: Side::Target, cause, moved }),
        }
    }
    Ok(moved)
}

/// Adds to the count of bytes that the target has taken. Past a threshold it is known to read: its limit is
/// lifted.
#[inline]
pub fn advance(target: &Io, moved: u64, count: usize) -> u64 {
    let total = moved + count as u64;
    if moved < UNSENT_PROOF_BYTES && total >= UNSENT_PROOF_BYTES {
        lift_unsent_limit(target.as_fd());
    }
    total
}

/// Moves up to `length` bytes from a socket into an empty pipe. Ready with 0 at the end of the peer's data.
///
/// Errors: `Interrupted` if another process has made a shared socket wait; [`may_splice`] is false from then on.
pub fn poll_fill(source: &Io, pipe: &mut Pipe, length: u64, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    poll_transfer(source, READ, cx, &mut || pipe.fill(source.as_fd(), length))
}

/// Moves the bytes of a pipe to a socket; may move fewer than there are. Errors: as for [`poll_fill`].
pub fn poll_drain(target: &Io, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    poll_transfer(target, WRITE, cx, &mut || pipe.drain(target.as_fd()))
}

thread_local! {
    /// A shared socket was made to wait.
    static IS_ABUSED: Cell<bool> = const { Cell::new(false) };
}

/// True if [`poll_fill`] and [`poll_drain`] may be used on a socket.
///
/// Another process that has a shared socket can clear its O_NONBLOCK and read or fill it just before our call, which would
/// then wait. So the mode is looked at before each call, and a signal of the master ends one that waits nevertheless
/// (`sys/whereabouts.rs`). After the first such event no shared socket is used in this way again.
pub fn may_splice(io: &Io) -> bool {
    !io.is_shared() || !IS_ABUSED.get()
}

/// The error of a call on a shared socket that is in a mode to wait, or has waited.
fn abused() -> Poll<io::Result<usize>> {
    IS_ABUSED.set(true);
    Poll::Ready(Err(io::ErrorKind::Interrupted.into()))
}

/// Makes one transfer, waiting while the descriptor says EAGAIN.
async fn transfer(
    io: &Io,
    direction: Flags,
    timer: &mut Timer,
    timeout_ms: u64,
    mut call: impl FnMut() -> nix::Result<usize>,
) -> Result<usize, Cause> {
    poll_fn(|cx| {
        match poll_transfer(io, direction, cx, &mut call) {
            Poll::Ready(Ok(count)) => {
                timer.cancel();
                return Poll::Ready(Ok(count));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Cause::Io(error))),
            Poll::Pending => {}
        }
        if !timer.is_set() {
            timer.set(now_ms().saturating_add(timeout_ms));
        }
        ready!(timer.poll_expired(cx));
        Poll::Ready(Err(Cause::TimedOut))
    })
    .await
}

/// Makes one transfer; pending while the descriptor says EAGAIN, or the task has used up its budget.
fn poll_transfer(
    io: &Io,
    direction: Flags,
    cx: &mut Context<'_>,
    call: &mut impl FnMut() -> nix::Result<usize>,
) -> Poll<io::Result<usize>> {
    ready!(io.poll_budget(cx));
    let is_shared = io.is_shared();
    if is_shared && !socket::is_nonblocking(io.as_fd()) {
        return abused();
    }
    if direction == WRITE {
        io.end_delays(); // there may be many more writes
    }
    loop {
        let is_ready = match direction {
            READ => io.poll_readable(cx).is_ready(),
            _ => io.poll_writable(cx).is_ready(),
        };
        if !is_ready {
            return Poll::Pending;
        }
        match call() {
            Ok(count) => {
                work::transferred(count);
                return Poll::Ready(Ok(count));
            }
            Err(nix::Error::EINTR) if is_shared => return abused(),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) if io.is_hung_up() && direction == READ => {
                // No edge comes after a hang-up, so only the call itself can find the end.
                io.clear(READ);
                return Poll::Ready(Ok(0));
            }
            Err(nix::Error::EAGAIN) => io.clear(direction),
            Err(error) => return Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::runtime::{Runtime, registration_count, timer_count};

    const LIMITS: Limits = Limits { read_timeout_ms: 5000, write_timeout_ms: 5000 };

    /// A non-blocking socket for the loop, and its other end for a thread.
    fn pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours.into(), theirs)
    }

    /// A TCP pair, where splice has more to do than on unix sockets.
    fn tcp_pair() -> (OwnedFd, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours.into(), theirs)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 % 251) as u8).collect()
    }

    #[test]
    fn exactly_the_length_is_moved_with_a_pipe_and_without() {
        moves_exactly(true);
        moves_exactly(false);
    }

    fn moves_exactly(with_pipe: bool) {
        let data = pattern(3_000_000);
        let ((source, mut sender), (target, mut receiver)) = (tcp_pair(), tcp_pair());
        let sent = data.clone();
        let writer = std::thread::spawn(move || {
            sender.write_all(&sent).unwrap();
            sender.write_all(b"next").unwrap();
            sender
        });
        let length = data.len();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; length];
            receiver.read_exact(&mut got).unwrap();
            (got, receiver)
        });
        let rest = Runtime::new().unwrap().block_on(async move {
            let (source, target) = (Io::register(source).unwrap(), Io::register(target).unwrap());
            let length = length as u64;
            let mut ends = Vec::new();
            let at_end = |is_near| ends.push(is_near);
            let moved = if with_pipe {
                splice(&source, &target, length, &LIMITS, at_end).await
            } else {
                copy(&source, &target, length, &LIMITS, at_end).await
            };
            assert_eq!(moved.unwrap(), length);
            let (last, before) = ends.split_last().expect("it came to an end");
            assert!(
                *last && before.iter().enumerate().all(|(call, near)| *near == (call % 2 == 0)),
                "{ends:?}"
            );
            let mut rest = [0; 10];
            let count = source.read(&mut rest).await.unwrap();
            rest[..count].to_vec()
        });
        assert_eq!(rest, b"next");
        assert!(reader.join().unwrap().0 == data, "bytes arrive as they were");
        drop(writer.join().unwrap());
    }

    #[test]
    fn a_source_that_ends_early_is_told() {
        let ((source, mut sender), (target, _receiver)) = (tcp_pair(), tcp_pair());
        sender.write_all(b"half").unwrap();
        drop(sender);
        let error = Runtime::new().unwrap().block_on(async move {
            let (source, target) = (Io::register(source).unwrap(), Io::register(target).unwrap());
            let error = splice(&source, &target, 8, &LIMITS, |_| {}).await.unwrap_err();
            assert!(matches!((error.side, error.cause, error.moved), (Side::Source, Cause::Eof, 4)));
            copy(&source, &target, 8, &LIMITS, |_| {}).await.unwrap_err()
        });
        assert!(matches!((error.side, error.cause, error.moved), (Side::Source, Cause::Eof, 0)));
    }

    #[test]
    fn a_target_that_takes_nothing_times_out() {
        let ((source, mut sender), (target, _receiver)) = (tcp_pair(), tcp_pair());
        let writer = std::thread::spawn(move || {
            let chunk = pattern(1 << 20);
            while sender.write_all(&chunk).is_ok() {}
        });
        let error = Runtime::new().unwrap().block_on(async move {
            let (source, target) = (Io::register(source).unwrap(), Io::register(target).unwrap());
            let limits = Limits { write_timeout_ms: 50, ..LIMITS };
            splice(&source, &target, 1 << 40, &limits, |_| {}).await.unwrap_err()
        });
        assert!(matches!((error.side, error.cause), (Side::Target, Cause::TimedOut)));
        writer.join().unwrap();
    }

    #[test]
    fn a_silent_source_times_out_and_leaves_nothing_behind() {
        let ((source, _sender), (target, _receiver)) = (pair(), pair());
        Runtime::new().unwrap().block_on(async move {
            let (source, target) = (Io::register(source).unwrap(), Io::register(target).unwrap());
            let limits = Limits { read_timeout_ms: 20, ..LIMITS };
            let error = splice(&source, &target, 100, &limits, |_| {}).await.unwrap_err();
            assert!(matches!((error.side, error.cause, error.moved), (Side::Source, Cause::TimedOut, 0)));
            drop((source, target));
            assert_eq!((registration_count(), timer_count()), (0, 0));
        });
    }

    #[test]
    fn sendfile_sends_a_range_and_tells_of_a_short_file() {
        let mut file = tempfile::tempfile().unwrap();
        let data = pattern(500_000);
        file.write_all(&data).unwrap();
        file.rewind().unwrap();
        let (target, mut receiver) = tcp_pair();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            receiver.read_to_end(&mut got).unwrap();
            got
        });
        let (whole, short) = Runtime::new().unwrap().block_on(async move {
            let target = Io::register(target).unwrap();
            let whole = sendfile(file.as_fd(), (100, 400_000), 0, &target, &LIMITS).await.unwrap();
            let short = sendfile(file.as_fd(), (499_990, 100), 0, &target, &LIMITS).await.unwrap_err();
            (whole, short)
        });
        assert_eq!(whole, 400_000);
        assert!(matches!((short.side, short.cause, short.moved), (Side::Source, Cause::Eof, 10)));
        let got = reader.join().unwrap();
        assert!(got == [&data[100..400_100], &data[499_990..]].concat());
    }
}
