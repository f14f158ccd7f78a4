//! Checks over a plain connection: whether a peer accepts it, and whether it says what is expected; and by datagrams:
//! whether one is answered.
//!
//! Touches: the peer's socket. Bounded: each check by the limit of time that its caller gives, and by
//! [`READ_BYTES_MAX`]. Behaviour: nginx.org, ngx_stream_upstream_hc_module.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use crate::net::address::Address;
use crate::net::connect::{Options, connect};
use crate::net::{Transport, room};
use crate::runtime::{Io, timeout};
use crate::sys::socket;
use crate::upstream::prober::Outcome;

/// Maximum number of bytes that are read before what is expected must have come.
const READ_BYTES_MAX: usize = 16 * 1024;

/// The time in which a datagram that nobody expects an answer to must not be refused. ICMP comes from the server's host
/// itself, or from a router on the way.
const QUIET_MS: u64 = 1_000;

pub(super) const CONNECTING: &str = "connecting to upstream";
pub(super) const SENDING: &str = "sending to upstream";
pub(super) const READING: &str = "reading from upstream";
/// Between the two: the handshake of TLS, where there is one.
pub const HANDSHAKING: &str = "SSL handshaking to upstream";

/// A condition for the answer of a peer.
pub trait Expect {
    /// True if the bytes that have come so far are enough.
    fn is_met(&self, bytes: &[u8]) -> bool;
}

/// A conversation with a peer.
#[derive(Clone, Copy, Default)]
pub struct Talk<'a> {
    /// Sent first; may be empty.
    pub send: &'a [u8],
    /// `None`: nothing is awaited.
    pub expect: Option<&'a dyn Expect>,
}

/// Connects to a peer and talks to it, in `limit_ms`. `prepare` makes the connection ready for that: it may encrypt it.
pub async fn check(
    address: &Address,
    options: &Options,
    prepare: impl AsyncFnOnce(&mut Transport) -> Result<(), Outcome>,
    talk: Talk<'_>,
    limit_ms: u64,
) -> Outcome {
    let mut doing = CONNECTING;
    let outcome = timeout(limit_ms, converse(address, options, prepare, talk, &mut doing)).await;
    judge(outcome.ok(), doing, limit_ms)
}

/// Sends a peer a datagram and waits, at most for `limit_ms`, for what is expected; without that, whether it is refused.
pub async fn check_datagram(address: &Address, options: &Options, talk: Talk<'_>, limit_ms: u64) -> Outcome {
    let mut doing = CONNECTING;
    let wait_ms = if talk.expect.is_some() { limit_ms } else { limit_ms.min(QUIET_MS) };
    match timeout(wait_ms, exchange(address, options, talk, &mut doing)).await {
        // Nobody has refused it.
        Err(_) if talk.expect.is_none() && doing == READING => Outcome::Passed { doing },
        outcome => judge(outcome.ok(), doing, limit_ms),
    }
}

/// `None`: the time was over first.
fn judge(outcome: Option<io::Result<Outcome>>, doing: &'static str, limit_ms: u64) -> Outcome {
    match outcome {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) if room::is_shortage(&error) => Outcome::Undecided(error.to_string()),
        Some(Err(error)) => Outcome::Failed { doing, why: error.to_string() },
        None => Outcome::Failed { doing, why: format!("not done within {limit_ms} ms") },
    }
}

fn no_place() -> Outcome {
    Outcome::Undecided("worker_connections are not enough".into())
}

async fn converse(
    address: &Address,
    options: &Options,
    prepare: impl AsyncFnOnce(&mut Transport) -> Result<(), Outcome>,
    talk: Talk<'_>,
    doing: &mut &'static str,
) -> io::Result<Outcome> {
    let Some(_place) = room::for_upstream().await else { return Ok(no_place()) };
    let mut transport = connect(address, options).await?;
    *doing = HANDSHAKING;
    if let Err(outcome) = prepare(&mut transport).await {
        return Ok(outcome);
    }
    *doing = CONNECTING;
    if !talk.send.is_empty() {
        *doing = SENDING;
        transport.write_all(talk.send).await?;
    }
    let Some(expect) = talk.expect else { return Ok(Outcome::Passed { doing }) };
    *doing = READING;
    let mut found = Vec::new();
    loop {
        let count = read(&transport, &mut found, READ_BYTES_MAX).await?;
        if expect.is_met(&found) {
            return Ok(Outcome::Passed { doing: READING });
        }
        if count == 0 {
            let why = format!("what is expected is not among {} bytes", found.len());
            return Ok(Outcome::Failed { doing: READING, why });
        }
    }
}

/// Appends what has arrived; 0 at the end, or if that is enough.
pub(super) async fn read(transport: &Transport, found: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
    let mut buffer = [0; 1024];
    let room = buffer.len().min(bytes_max.saturating_sub(found.len()));
    if room == 0 {
        return Ok(0);
    }
    let count = poll_fn(|cx| transport.poll_read(cx, &mut buffer[..room])).await?;
    found.extend_from_slice(&buffer[..count.min(room)]);
    Ok(count)
}

async fn exchange(
    address: &Address,
    options: &Options,
    talk: Talk<'_>,
    doing: &mut &'static str,
) -> io::Result<Outcome> {
    let Some(_place) = room::for_upstream().await else { return Ok(no_place()) };
    let transport = connect(address, options).await?;
    let Some(io) = transport.plain() else { return Err(io::Error::from(io::ErrorKind::Unsupported)) };
    *doing = SENDING;
    io.try_write(talk.send)?;
    *doing = READING;
    let mut found = Vec::new();
    loop {
        let datagram = receive(io).await?;
        found.extend_from_slice(&datagram);
        if talk.expect.is_none_or(|expect| expect.is_met(&found)) {
            return Ok(Outcome::Passed { doing: READING });
        }
        if found.len() >= READ_BYTES_MAX {
            let why = format!("what is expected is not among {} bytes", found.len());
            return Ok(Outcome::Failed { doing: READING, why });
        }
    }
}

/// The next datagram, up to [`READ_BYTES_MAX`] of it. Errors: the peer's host has refused one of ours.
async fn receive(io: &Io) -> io::Result<Vec<u8>> {
    let mut space = vec![0; READ_BYTES_MAX];
    let count = poll_fn(|cx| {
        while io.poll_readable(cx).is_ready() {
            match io.try_receive(|fd| socket::receive(fd, &mut space)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {}
                outcome => return Poll::Ready(outcome),
            }
        }
        Poll::Pending
    });
    let count = count.await?;
    space.truncate(count);
    Ok(space)
}
