//! The end of a connection whose peer may still be sending.
//!
//! Touches: the connection. Behaviour: nginx.org, `lingering_close`.

use std::future::poll_fn;
use std::io;

use crate::net::{Transport, drain, open};
use crate::runtime::buffer::Buffer;
use crate::runtime::{Waiting, race, timeout};

/// Size of a read whose data is discarded.
const READ_BYTES: usize = 16 * 1024;

/// Ends the sending direction, and reads what is still on its way for at most `time_ms`, and at most `timeout_ms` between
/// two reads: a reset could destroy the last bytes that were sent.
pub async fn linger(transport: &Transport, open: &open::Guard, timeout_ms: u64, time_ms: u64) {
    if transport.shutdown().is_err() {
        return;
    }
    open.rests();
    let was_early = transport.is_early();
    let read = async {
        while !was_early || transport.is_early() {
            if timeout(timeout_ms, transport.waiting(Waiting::Idle)).await.is_err() {
                return;
            }
            // A client that sends faster than this reads takes turns with the others.
            poll_fn(|cx| transport.poll_budget(cx)).await;
            let mut buffer = Buffer::take(READ_BYTES);
            match transport.try_read(buffer.space()) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !transport.is_asked() => {}
                Err(_) => return,
            }
        }
    };
    let _ = race(timeout(time_ms, Box::pin(read)), drain::reached(drain::Mode::Now)).await;
}
