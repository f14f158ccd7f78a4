//! Holds a short response back until it is complete, so that a server that breaks it off costs no client.
//!
//! Once the client has a response's head, no other server can be tried. A response that fits into the buffer of
//! its head is therefore kept there until its end has arrived. If the server breaks off first, or takes longer
//! than `proxy_read_timeout` for all of it, that is a fault like one before the head, and `proxy_next_upstream`
//! decides. nginx's buffering keeps such a response back too, but sends its head. Touches: the upstream's
//! socket, and the client's to notice that it has gone.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::http::request::error::Kind;
use crate::http::upstream::codec::{Decoder, Pieces};
use crate::http::upstream::exchange::{Answer, Stop, Wait};
use crate::http::upstream::{Pass, answer};
use crate::runtime::{self, Timer};
use crate::upstream::Fault;

/// How long a body of unknown length is held back: an end that follows at once is not lost, and an event stream
/// loses no time that anyone notices.
const FRAMED_MS: u64 = 2;

/// Finds the end of a body in the bytes that have arrived, without taking them from the decoder of the exchange.
pub(super) struct Lookahead {
    decoder: Decoder,
    /// The bytes of the body that it has seen.
    seen: usize,
}

impl Lookahead {
    /// True if the body is complete. Errors: it is malformed.
    fn is_complete(&mut self, body: &[u8]) -> Result<bool, Kind> {
        let data = body.get(self.seen..).unwrap_or(b"");
        self.seen += self.decoder.body(data, &mut Pieces::new(), &mut Vec::new())?;
        match self.decoder.broken() {
            Some(kind) => Err(kind),
            None => Ok(self.decoder.is_done()),
        }
    }
}

impl Pass<'_, '_> {
    /// Reads on until the response is complete, or there is a reason to pass on what has arrived. `Err`: the
    /// server has failed.
    pub(super) async fn hold(&mut self, answer: &mut Answer, ahead: Lookahead) -> Result<(), Stop> {
        let mut ahead = ahead;
        let conf = self.request.passes();
        let patience_ms = if ahead.decoder.is_framed() { FRAMED_MS } else { conf.read_timeout_ms() };
        let mut limit = Timer::new();
        limit.set(runtime::now_ms() + patience_ms);
        let mut wait = Wait::new(conf, answer.carrier.take_timer());
        while let Some(head) = Rc::get_mut(&mut answer.head) {
            let capacity = head.buffer.capacity();
            let mut held = Some(std::mem::take(&mut head.buffer));
            let read = poll_fn(|cx| match wait.poll(cx, self, &answer.carrier, &mut held, capacity) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => limit.poll_expired(cx).map(|()| None),
            })
            .await;
            head.buffer = held.unwrap_or_default();
            match read {
                // A body that ends with the connection is not held: this one is cut off, unless only words of the
                // protocol are missing.
                Some(Ok(0)) => match ahead.decoder.closed(&mut Vec::new()) {
                    Ok(()) => break,
                    Err(kind) => return Err(failed(kind)),
                },
                Some(Ok(count)) => self.request.upstream.last().received += count as u64,
                Some(Err(stop)) => return Err(stop),
                None if ahead.decoder.is_framed() || !self.chance().would_go_on_after(Fault::Timeout) => {
                    break;
                }
                None => return Err(failed(Kind::TimedOut)),
            }
            if is_settled(&mut ahead, answer).map_err(failed)? {
                break;
            }
        }
        answer.carrier.keep_timer(wait.timer);
        Ok(())
    }

    /// Looks whether the response is one to hold back; `None`: it is complete, long, or streamed.
    pub(super) fn incomplete(&self, answer: &mut Answer) -> Result<Option<Lookahead>, Stop> {
        let Some(mut ahead) = self.lookahead(answer) else { return Ok(None) };
        let is_settled = is_settled(&mut ahead, answer).map_err(failed)?;
        Ok((!is_settled).then_some(ahead))
    }

    fn lookahead(&self, answer: &mut Answer) -> Option<Lookahead> {
        let conf = self.request.passes();
        let is_buffered = answer::told_buffering(&answer.head, conf).unwrap_or(conf.is_buffering());
        if !is_buffered || answer.head.head.status == 101 {
            return None;
        }
        let mut decoder = answer.carrier.decoder().fork(self.outgoing.encoder());
        let (head, data) = (&answer.head.head, answer.head.buffer.data());
        // The exchange's own decoder will say what is wrong with it.
        decoder.begin_body(head, data, self.request.upstream_method()).ok()?;
        let room = answer.head.buffer.capacity() - answer.head_length;
        let fits = match decoder.raw_left() {
            Some(length) => length <= room as u64,
            None => decoder.is_framed(),
        };
        (fits && !decoder.is_done()).then_some(Lookahead { decoder, seen: 0 })
    }
}

fn failed(kind: Kind) -> Stop {
    Stop::Peer(kind.into())
}

/// True if the response is complete, or its buffer is full.
fn is_settled(ahead: &mut Lookahead, answer: &mut Answer) -> Result<bool, Kind> {
    let buffer = &answer.head.buffer;
    let body = buffer.data().get(answer.head_length..).unwrap_or(b"");
    if ahead.is_complete(body)? {
        return Ok(true);
    }
    Ok(match Rc::get_mut(&mut answer.head) {
        Some(head) => head.buffer.space().is_empty(),
        None => true,
    })
}
