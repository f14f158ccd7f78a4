//! Bytes of a socket or a file, read straight into the records of an encrypted connection.
//!
//! What a plain connection has spliced is copied only by the kernel here: it reads the bytes into their places
//! in the buffer that is sent, where they are sealed. At most [`FILL_BYTES`] wait for the connection, and nothing
//! is read meanwhile. Touches: both descriptors.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll, ready};

use super::{FILL_BYTES, Tls};
use crate::runtime::relay::{Cause, Limits, RelayError, Side, advance};
use crate::runtime::{self, Io, Timer, now_ms};

/// Bytes of the first read; after one that found as many, the others are as long as the buffer.
const FIRST_BYTES: usize = 64 * 1024 - 256;
/// The plaintext of 8 records. Twice as many save no measurable time.
const LONG_BYTES: usize = 128 * 1024;
const _: () = assert!(LONG_BYTES < FILL_BYTES);
/// Bytes that are sealed in a microsecond.
const SEALED_BYTES: usize = 2048;

impl Tls {
    /// Moves `length` bytes that a socket receives to this connection. Ready when all of them are sealed; up to
    /// [`FILL_BYTES`] of the last ones may still wait ([`Tls::poll_flush`]).
    ///
    /// `at_end` and errors: as for [`runtime::relay::splice`]; both connections must be closed after an error.
    pub async fn splice(
        &self,
        source: &Io,
        length: u64,
        limits: &Limits,
        mut at_end: impl FnMut(bool),
    ) -> Result<u64, RelayError> {
        let mut passing = Passing::new(self, limits, 0);
        while passing.moved < length {
            let (left, wanted) = (length - passing.moved, passing.wanted(length));
            let mut taken = |count: usize, is_near| {
                if count as u64 == left {
                    at_end(is_near);
                }
            };
            let count = poll_fn(|cx| passing.poll_socket(cx, source, wanted, &mut taken)).await;
            passing.count(count, wanted)?;
        }
        Ok(passing.moved)
    }

    /// Sends a part of a file that is in memory. `before` is the number of bytes of the same response that this
    /// connection has taken already. Ready and errors: as for [`Tls::splice`]; `Eof` at the source if the file
    /// has become shorter.
    pub async fn send_file(
        &self,
        file: BorrowedFd<'_>,
        (offset, length): (u64, u64),
        before: u64,
        limits: &Limits,
    ) -> Result<u64, RelayError> {
        let mut passing = Passing::new(self, limits, before);
        while passing.moved < length {
            let wanted = passing.wanted(length);
            let at = offset + passing.moved;
            let count = poll_fn(|cx| passing.poll_file(cx, file, at, wanted)).await;
            passing.count(count, wanted)?;
        }
        Ok(passing.moved)
    }

    /// Sends what waits, has `fill` read into the places of records once nothing does, and sends those.
    fn try_fill(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> Result<usize, (Side, io::Error)> {
        let target = |error| (Side::Target, error);
        self.send_output().map_err(target)?;
        let count = {
            let mut writer = self.writer.borrow_mut();
            if writer.is_closed || writer.closes {
                return Err(target(io::ErrorKind::BrokenPipe.into()));
            }
            writer.fill(length, fill).map_err(|error| (Side::Source, error))
        };
        self.has_output.set(!self.writer.borrow().out.data().is_empty());
        match self.send_output() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(target(error)),
            _ => count,
        }
    }
}

/// A transfer under way.
struct Passing<'a> {
    target: &'a Tls,
    limits: &'a Limits,
    /// Bytes of the response before this transfer.
    before: u64,
    moved: u64,
    read_bytes: usize,
    /// Run while the source or the target is waited for.
    reading: Timer,
    writing: Timer,
}

impl<'a> Passing<'a> {
    fn new(target: &'a Tls, limits: &'a Limits, before: u64) -> Self {
        let (reading, writing) = (Timer::new(), Timer::new());
        Self { target, limits, before, moved: 0, read_bytes: FIRST_BYTES, reading, writing }
    }

    fn wanted(&self, length: u64) -> usize {
        self.read_bytes.min(usize::try_from(length - self.moved).unwrap_or(usize::MAX))
    }

    fn count(&mut self, outcome: Result<usize, (Side, Cause)>, wanted: usize) -> Result<(), RelayError> {
        match outcome {
            Ok(0) => Err((Side::Source, Cause::Eof)),
            Ok(count) => {
                self.moved = advance(self.target.io(), self.before + self.moved, count) - self.before;
                self.read_bytes = if count == wanted { LONG_BYTES } else { self.read_bytes };
                Ok(())
            }
            Err(error) => Err(error),
        }
        .map_err(|(side, cause)| RelayError { side, cause, moved: self.moved })
    }

    /// `taken` is called with each number of bytes that are about to be sealed and sent, and true; with false if the target
    /// has then failed.
    fn poll_socket(
        &mut self,
        cx: &mut Context<'_>,
        source: &Io,
        wanted: usize,
        taken: &mut impl FnMut(usize, bool),
    ) -> Poll<Result<usize, (Side, Cause)>> {
        ready!(source.poll_budget(cx));
        let mut read_count = 0;
        let read = |places: &mut [IoSliceMut<'_>]| {
            read_count = source.try_read_vectored(places)?;
            taken(read_count, true);
            Ok(read_count)
        };
        // No buffer is taken for nothing.
        let outcome = match self.target.send_output() {
            Ok(()) if source.is_quiet() => Err((Side::Source, io::ErrorKind::WouldBlock.into())),
            Ok(()) => self.target.try_fill(wanted, read),
            Err(error) => Err((Side::Target, error)),
        };
        if outcome.is_err() && read_count > 0 {
            taken(read_count, false);
        }
        match outcome {
            Err((Side::Source, error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if source.poll_readable(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                self.writing.cancel();
                if !self.reading.is_set() {
                    self.reading.set(now_ms().saturating_add(self.limits.read_timeout_ms));
                }
                ready!(self.reading.poll_expired(cx));
                Poll::Ready(Err((Side::Source, Cause::TimedOut)))
            }
            outcome => self.poll_target(cx, outcome),
        }
    }

    fn poll_file(
        &mut self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        wanted: usize,
    ) -> Poll<Result<usize, (Side, Cause)>> {
        ready!(self.target.poll_budget(cx));
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let read = |places: &mut [IoSliceMut<'_>]| Ok(nix::sys::uio::preadv(file, places, offset)?);
        let outcome = self.target.try_fill(wanted, read);
        self.poll_target(cx, outcome)
    }

    /// Waits if the target takes nothing.
    fn poll_target(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<usize, (Side, io::Error)>,
    ) -> Poll<Result<usize, (Side, Cause)>> {
        match outcome {
            Err((Side::Target, error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = self.target.io().poll_writable(cx);
                self.reading.cancel();
                if self.target.took_some() || !self.writing.is_set() {
                    self.writing.set(now_ms().saturating_add(self.limits.write_timeout_ms));
                }
                ready!(self.writing.poll_expired(cx));
                Poll::Ready(Err((Side::Target, Cause::TimedOut)))
            }
            Ok(count) => {
                runtime::charge((count / SEALED_BYTES) as u32);
                self.reading.cancel();
                self.writing.cancel();
                Poll::Ready(Ok(count))
            }
            Err((side, error)) => Poll::Ready(Err((side, Cause::Io(error)))),
        }
    }
}

#[cfg(test)]
mod tests;
