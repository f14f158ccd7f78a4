//! A tunnel: relays bytes in both directions between two connections, without looking at them.
//!
//! Bounded: each direction has one buffer, or one pipe of the worker's pool, while it holds bytes, so that a slow
//! reader stops its writer; an idle tunnel has none. Bytes that arrive faster than a buffer holds are moved inside the
//! kernel (splice(2)) if both connections are plain. Touches: the two connections.

pub mod moved;

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use crate::log;
use crate::net::Transport;
use crate::net::pace::Pace;
use crate::runtime::buffer::Buffer;
use crate::runtime::relay::{self, Cause, RelayError, Side};
use crate::runtime::{self, Timer, now_ms};
use crate::sys::transfer::Pipe;

/// Buffer size of one direction, while it holds bytes.
const TUNNEL_BYTES: usize = 16 * 1024;

/// A direction whose pipe got less than this goes back to its buffer: for short messages two copies cost less than
/// two moves of pages.
const BULK_BYTES_MIN: usize = 8 * 1024;

/// Bytes on their way.
#[derive(Debug)]
enum Held {
    Buffer(Buffer),
    Pipe(Pipe),
}

/// The rate of one direction.
#[derive(Debug)]
struct Paced {
    pace: Pace,
    timer: Timer,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Half {
    held: Option<Held>,
    moved: u64,
    /// When the first byte arrived, in terms of `runtime::now_us`; 0: none has.
    first_us: u64,
    paced: Option<Box<Paced>>,
    is_done: bool,
    /// The last read has filled a buffer.
    is_bulk: bool,
    /// The end of the source is passed on by closing the connections, which ends both.
    keeps_open: bool,
}

impl Half {
    /// Moves whatever can be moved now; true if anything was.
    fn poll(
        &mut self,
        source: &Transport,
        target: &Transport,
        cx: &mut Context<'_>,
    ) -> Result<bool, (Side, io::Error)> {
        let mut progress = false;
        while !self.is_done {
            if self.held.is_some() {
                match self.poll_send(target, cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(error)) => return Err((Side::Target, error)),
                    Poll::Ready(Ok(())) => progress = true,
                }
                continue;
            }
            match self.poll_receive(source, target, cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(Err(error)) => return Err((Side::Source, error)),
                Poll::Ready(Ok(0)) => {
                    self.is_done = true;
                    progress = true;
                    if !self.keeps_open {
                        // The target may already be gone: ignore the error.
                        let _ = target.shutdown();
                    }
                }
                Poll::Ready(Ok(count)) => {
                    progress = true;
                    if let Some(paced) = &mut self.paced {
                        paced.pace.pass(count as u64);
                    }
                    if self.first_us == 0 {
                        self.first_us = runtime::now_us();
                    }
                }
            }
        }
        Ok(progress)
    }

    fn held_bytes(&self) -> u64 {
        match &self.held {
            Some(Held::Buffer(buffer)) => buffer.data().len() as u64,
            Some(Held::Pipe(pipe)) => pipe.held() as u64,
            None => 0,
        }
    }

    fn poll_send(&mut self, target: &Transport, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (count, is_empty) = match &mut self.held {
            Some(Held::Buffer(buffer)) => {
                let count = ready!(target.poll_write(cx, buffer.data()))?;
                buffer.consume(count);
                (count, buffer.data().is_empty())
            }
            Some(Held::Pipe(pipe)) => {
                let moved = match target.spliceable() {
                    Some(io) => {
                        ready!(relay::poll_drain(io, pipe, cx)).inspect_err(|error| tell(error, target))
                    }
                    None => Err(io::ErrorKind::Interrupted.into()),
                };
                match moved {
                    Ok(count) => (count, pipe.held() == 0),
                    // Another process has abused a socket that it shares: copy what the pipe holds.
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        self.held = Some(Held::Buffer(Buffer::of(pipe.take_bytes()?)));
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            None => (0, true),
        };
        self.moved += count as u64;
        if is_empty {
            self.held = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready with the number of bytes that are held now; 0 at the source's end.
    fn poll_receive(
        &mut self,
        source: &Transport,
        target: &Transport,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Wait for the source first, so that a waiting tunnel needs no timer for its rate.
        ready!(source.poll_readable(cx))?;
        let allowed = match &mut self.paced {
            Some(paced) => ready!(paced.pace.poll_wait(cx, &mut paced.timer)),
            None => u64::MAX,
        };
        if self.is_bulk
            && let (Some(from), Some(_)) = (source.spliceable(), target.spliceable())
            && let Ok(mut pipe) = Pipe::take()
        {
            match ready!(relay::poll_fill(from, &mut pipe, allowed, cx)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => tell(&error, source),
                filled => {
                    let count = filled?;
                    self.is_bulk = count >= BULK_BYTES_MIN;
                    if count > 0 {
                        self.held = Some(Held::Pipe(pipe));
                    }
                    return Poll::Ready(Ok(count));
                }
            }
        }
        let mut buffer = Buffer::take(TUNNEL_BYTES);
        let room = buffer.space().len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
        let count = ready!(source.poll_read(cx, &mut buffer.space()[..room]))?;
        self.is_bulk = count == TUNNEL_BYTES;
        if count > 0 {
            buffer.filled(count);
            self.held = Some(Held::Buffer(buffer));
        }
        Poll::Ready(Ok(count))
    }
}

/// Relays in both directions until both have ended. The end of the first side is passed on to the other; that of the
/// second one by closing the connections, which the caller does.
///
/// Returns the number of bytes from `a` to `b` and from `b` to `a`. Fails with `TimedOut` after `idle_ms`
/// without a byte in either direction; the error's `moved` counts both.
pub async fn tunnel(a: &Transport, b: &Transport, idle_ms: u64) -> Result<(u64, u64), RelayError> {
    let mut tunneling = Tunneling::new(idle_ms);
    poll_fn(|cx| tunneling.poll(a, b, cx)).await
}

/// A tunnel in progress, for a task that also waits for other things.
#[derive(Debug)]
pub struct Tunneling {
    forth: Half,
    back: Half,
    timer: Timer,
    idle_ms: u64,
    /// The tunnel is over as soon as one side has ended and its bytes have reached the other.
    ends_together: bool,
    /// The task has heard that the tunnel may move, and was not woken since.
    was_told: bool,
}

impl Tunneling {
    pub fn new(idle_ms: u64) -> Self {
        Self {
            forth: Half::default(),
            back: Half::default(),
            timer: Timer::new(),
            idle_ms,
            ends_together: false,
            was_told: false,
        }
    }

    /// Ends both directions with the first side that ends, once the bytes on their way have arrived; neither side
    /// gets the end of the other before both connections are closed.
    #[must_use]
    pub fn ending_together(mut self) -> Self {
        self.ends_together = true;
        (self.forth.keeps_open, self.back.keeps_open) = (true, true);
        self
    }

    /// Leaves it to the caller to pass the end of one side on, that of `a` or that of `b`.
    #[must_use]
    pub fn holding_end(mut self, of_a: bool) -> Self {
        let half = if of_a { &mut self.forth } else { &mut self.back };
        half.keeps_open = true;
        self
    }

    /// Limits the rates of both directions.
    #[must_use]
    pub fn paced(mut self, forth: Option<Pace>, back: Option<Pace>) -> Self {
        let paced = |pace| Box::new(Paced { pace, timer: Timer::new() });
        (self.forth.paced, self.back.paced) = (forth.map(paced), back.map(paced));
        self
    }

    /// Sends these bytes to `b` before any others. They count as received.
    #[must_use]
    pub fn beginning_with(mut self, bytes: Buffer) -> Self {
        if !bytes.data().is_empty() {
            if let Some(paced) = &mut self.forth.paced {
                paced.pace.pass(bytes.data().len() as u64);
            }
            self.forth.held = Some(Held::Buffer(bytes));
        }
        self
    }

    /// Sends these bytes to `a` before any others of `b`. They count as received from there.
    #[must_use]
    pub fn answering_with(mut self, bytes: Buffer) -> Self {
        if !bytes.data().is_empty() {
            self.back.held = Some(Held::Buffer(bytes));
        }
        self
    }

    /// The bytes that have reached `b`, and those that have reached `a`.
    pub fn moved(&self) -> (u64, u64) {
        (self.forth.moved, self.back.moved)
    }

    /// The bytes that were read from `a`, and those from `b`.
    pub fn received(&self) -> (u64, u64) {
        (self.forth.moved + self.forth.held_bytes(), self.back.moved + self.back.held_bytes())
    }

    /// When the first byte of `b` arrived, in terms of `runtime::now_us`.
    pub fn answered_us(&self) -> Option<u64> {
        Some(self.back.first_us).filter(|us| *us > 0)
    }

    /// True if everything that `a` has sent has been given to `b`, its end included. Flush `b` before it is closed.
    pub fn a_is_through(&self) -> bool {
        self.forth.is_done && self.forth.held.is_none()
    }

    /// The same for the bytes of `b`.
    pub fn b_is_through(&self) -> bool {
        self.back.is_done && self.back.held.is_none()
    }

    /// True if `a` was the side that ended first.
    pub fn a_has_ended(&self) -> bool {
        self.forth.is_done
    }

    /// The poll function of [`tunnel`].
    pub fn poll(
        &mut self,
        a: &Transport,
        b: &Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(u64, u64), RelayError>> {
        // The second end is passed on when the connections are closed: its reader must find the tunnel in the log.
        self.forth.keeps_open |= self.back.is_done;
        let forth = self.forth.poll(a, b, cx);
        self.back.keeps_open |= self.forth.is_done;
        let outcome = match (forth, self.back.poll(b, a, cx)) {
            (Ok(first), Ok(second)) => Ok(first || second),
            (Err((side, error)), _) => Err((side, error)),
            (_, Err((side, error))) => Err((opposite(side), error)),
        };
        let moved = self.forth.moved + self.back.moved;
        match outcome {
            Err((side, error)) => {
                return Poll::Ready(Err(RelayError { side, cause: Cause::Io(error), moved }));
            }
            // What a transport holds back has been counted as moved, but is lost when the transport is dropped.
            Ok(_) if self.is_over() && has_flushed(a, cx) && has_flushed(b, cx) => {
                return Poll::Ready(Ok(self.moved()));
            }
            Ok(progress) if progress | a.took_some() | b.took_some() || !self.timer.is_set() => {
                self.timer.set(now_ms().saturating_add(self.idle_ms));
            }
            Ok(_) => {}
        }
        ready!(self.timer.poll_expired(cx));
        Poll::Ready(Err(RelayError { side: Side::Source, cause: Cause::TimedOut, moved }))
    }

    fn is_over(&self) -> bool {
        let Self { forth, back, .. } = self;
        match self.ends_together {
            false => forth.is_done && back.is_done,
            true => (forth.is_done || back.is_done) && forth.held.is_none() && back.held.is_none(),
        }
    }
}

/// Logs that another process has made a socket wait that this one had from it.
fn tell(error: &io::Error, transport: &Transport) {
    if error.kind() != io::ErrorKind::Interrupted {
        return;
    }
    let peer = transport.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    log::alert!(
        log::process(),
        &(),
        "another process has made the connection of {peer}, which it had handed over, a blocking one: the bytes of \
         tunnels from earlier workers are copied from now on"
    );
}

/// True if everything written has been sent, or never will be.
fn has_flushed(transport: &Transport, cx: &mut Context<'_>) -> bool {
    transport.poll_flush(cx).is_ready()
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Source => Side::Target,
        Side::Target => Side::Source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use socket2::SockRef;

    use super::*;
    use crate::net::transport::script::{Script, play};
    use crate::runtime::{Io, Runtime};

    fn run<T: 'static>(test: impl AsyncFnOnce((Transport, Script), (Transport, Script)) -> T + 'static) -> T {
        Runtime::new().unwrap().block_on(async { test(play(), play()).await })
    }

    #[test]
    fn carries_both_ways_and_passes_each_end_on() {
        run(async move |(a, left), (b, right)| {
            left.drips(b"ping").ends();
            right.sends_cut(b"and pong", 3).ends();
            left.sips(8);
            assert_eq!(tunnel(&a, &b, 1000).await.unwrap(), (4, 8));
            assert_eq!((right.written(), left.written()), (b"ping".to_vec(), b"and pong".to_vec()));
            assert!(right.is_shut() && !left.is_shut(), "the second end is passed on by closing");
        });
    }

    #[test]
    fn bytes_that_were_read_ahead_go_first_either_way() {
        run(async move |(a, left), (b, right)| {
            left.sends(b" more").ends();
            right.sends(b" there");
            let tunneling = Tunneling::new(1000).ending_together();
            let tunneling = tunneling.beginning_with(Buffer::of(b"ahead".to_vec()));
            let mut tunneling = tunneling.answering_with(Buffer::of(b"hello".to_vec()));
            assert_eq!(poll_fn(|cx| tunneling.poll(&a, &b, cx)).await.unwrap(), (10, 11));
            assert_eq!((right.written(), left.written()), (b"ahead more".to_vec(), b"hello there".to_vec()));
        });
    }

    #[test]
    fn one_direction_goes_on_after_the_other_has_ended() {
        run(async move |(a, left), (b, right)| {
            left.sends(b"question").ends();
            let ending = right.clone();
            let mut tunneling = Tunneling::new(1000);
            let mut polls = 0;
            let outcome = poll_fn(|cx| {
                polls += 1;
                if polls == 2 {
                    assert!(ending.is_shut() && !left.is_shut());
                    ending.sends(b"answer").ends();
                }
                let polled = tunneling.poll(&a, &b, cx);
                if polls == 1 {
                    cx.waker().wake_by_ref();
                }
                polled
            });
            assert_eq!(outcome.await.unwrap(), (8, 6));
            assert_eq!(left.written(), b"answer");
        });
    }

    #[test]
    fn a_reset_names_its_side_and_what_was_moved() {
        for (is_left, side) in [(true, Side::Source), (false, Side::Target)] {
            run(async move |(a, left), (b, right)| {
                left.sends(b"some");
                let broken = if is_left { left } else { right };
                broken.pauses().resets();
                let error = tunnel(&a, &b, 1000).await.unwrap_err();
                assert!(matches!(error.cause, Cause::Io(_)), "{error:?}");
                assert_eq!((error.side, error.moved), (side, 4));
            });
        }
    }

    #[test]
    fn a_slow_reader_stops_its_writer() {
        run(async move |(a, left), (b, right)| {
            left.sends(&[b'x'; 3 * TUNNEL_BYTES]);
            right.is_full();
            let error = tunnel(&a, &b, 5).await.unwrap_err();
            assert!(matches!((error.cause, error.moved), (Cause::TimedOut, 0)));
            assert_eq!(left.unread(), 2 * TUNNEL_BYTES);
        });
    }

    /// A connection that another process has as well, and what both see at its other end.
    fn shared() -> (Transport, OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let other = ours.try_clone().unwrap();
        let transport = Transport::from(Io::register(ours.into()).unwrap());
        transport.share();
        (transport, other.into(), theirs)
    }

    #[test]
    fn shared_sockets_are_spliced_until_another_process_makes_one_wait() {
        for is_abused in [false, true] {
            Runtime::new().unwrap().block_on(async move {
                let ((a, other, mut left), (b, _, mut right)) = (shared(), shared());
                let bytes = vec![b'x'; 6 * TUNNEL_BYTES];
                left.write_all(&bytes).unwrap();
                left.shutdown(Shutdown::Write).unwrap();
                right.shutdown(Shutdown::Write).unwrap();
                if is_abused {
                    SockRef::from(&other).set_nonblocking(false).unwrap();
                }
                assert_eq!(tunnel(&a, &b, 1000).await.unwrap(), (bytes.len() as u64, 0));
                let mut arrived = Vec::new();
                right.read_to_end(&mut arrived).unwrap();
                assert!(arrived == bytes);
                assert_eq!(a.spliceable().is_none(), is_abused);
            });
        }
    }

    #[test]
    fn silence_in_both_directions_ends_it() {
        let error = run(async |(a, _left), (b, _right)| tunnel(&a, &b, 5).await.unwrap_err());
        assert!(matches!(error.cause, Cause::TimedOut));
    }
}
