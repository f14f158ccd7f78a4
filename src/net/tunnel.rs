//! A tunnel: relays bytes in both directions between two connections, without looking at them.
//!
//! Bounded: each direction has one buffer while it holds bytes, so that a slow reader stops its writer; an
//! idle tunnel has none. Touches: the two connections.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use crate::net::Transport;
use crate::runtime::buffer::Buffer;
use crate::runtime::relay::{Cause, RelayError, Side};
use crate::runtime::{Timer, now_ms};

/// Buffer size of one direction, while it holds bytes.
const TUNNEL_BYTES: usize = 16 * 1024;

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Half {
    buffer: Option<Buffer>,
    moved: u64,
    is_done: bool,
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
            if let Some(buffer) = &mut self.buffer {
                match target.poll_write(cx, buffer.data()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(error)) => return Err((Side::Target, error)),
                    Poll::Ready(Ok(count)) => {
                        progress = true;
                        self.moved += count as u64;
                        buffer.consume(count);
                        if buffer.data().is_empty() {
                            self.buffer = None;
                        }
                    }
                }
                continue;
            }
            if source.poll_readable(cx).is_pending() {
                return Ok(progress);
            }
            let mut buffer = Buffer::take(TUNNEL_BYTES);
            match source.poll_read(cx, buffer.space()) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(Err(error)) => return Err((Side::Source, error)),
                Poll::Ready(Ok(0)) => {
                    self.is_done = true;
                    progress = true;
                    // The target may already be gone: ignore the error.
                    let _ = target.shutdown();
                }
                Poll::Ready(Ok(count)) => {
                    progress = true;
                    buffer.filled(count);
                    self.buffer = Some(buffer);
                }
            }
        }
        Ok(progress)
    }
}

/// Relays in both directions until both have ended; the end of each side is passed on to the other.
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
}

impl Tunneling {
    pub fn new(idle_ms: u64) -> Self {
        Self { forth: Half::default(), back: Half::default(), timer: Timer::new(), idle_ms }
    }

    /// The poll function of [`tunnel`].
    pub fn poll(
        &mut self,
        a: &Transport,
        b: &Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(u64, u64), RelayError>> {
        let Self { forth, back, timer, idle_ms } = self;
        let outcome = match (forth.poll(a, b, cx), back.poll(b, a, cx)) {
            (Ok(first), Ok(second)) => Ok(first || second),
            (Err((side, error)), _) => Err((side, error)),
            (_, Err((side, error))) => Err((opposite(side), error)),
        };
        let moved = forth.moved + back.moved;
        match outcome {
            Err((side, error)) => {
                return Poll::Ready(Err(RelayError { side, cause: Cause::Io(error), moved }));
            }
            // What a transport holds back has been counted as moved, but is lost when the transport is dropped.
            Ok(_) if forth.is_done && back.is_done && has_flushed(a, cx) && has_flushed(b, cx) => {
                return Poll::Ready(Ok((forth.moved, back.moved)));
            }
            Ok(progress) if progress | a.took_some() | b.took_some() || !timer.is_set() => {
                timer.set(now_ms().saturating_add(*idle_ms));
            }
            Ok(_) => {}
        }
        ready!(timer.poll_expired(cx));
        Poll::Ready(Err(RelayError { side: Side::Source, cause: Cause::TimedOut, moved }))
    }
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
    use super::*;
    use crate::net::transport::script::{Script, play};
    use crate::runtime::Runtime;

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
            assert!(left.is_shut() && right.is_shut());
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

    #[test]
    fn silence_in_both_directions_ends_it() {
        let error = run(async |(a, _left), (b, _right)| tunnel(&a, &b, 5).await.unwrap_err());
        assert!(matches!(error.cause, Cause::TimedOut));
    }
}
