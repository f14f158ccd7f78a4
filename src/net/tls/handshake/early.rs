//! A handshake whose early data is answered before it is complete (0-RTT and 0.5-RTT).
//!
//! Only rustls can check the client's Finished, so it keeps the keys until then, and what is sent meanwhile goes
//! through it. Afterwards the record layer goes on with the numbers of the next records: no key is ever used by
//! both. Touches: nothing; bytes in, bytes out. Truth: RFC 8446 §2.3, §4.5 and §4.6.1.

use std::rc::Rc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;

use super::course::{Course, Stop};
use super::{Error, directions, make_room, suite_of};
use crate::net::tls::Info;
use crate::net::tls::record::{Direction, OVERHEAD_BYTES};
use crate::net::tls::stream::Session;
use crate::runtime::buffer::Buffer;

/// The most records that are sent before the client's Finished. Far fewer than those after which rustls would
/// change the key, which must not happen: the secret that was caught would not be the one in force.
const RECORDS_MAX: u32 = 1 << 20;

/// A handshake that lacks the client's Finished.
pub struct Unfinished {
    course: Course<UnbufferedServerConnection>,
    suite: u16,
    sealed_count: u32,
}

/// What a handshake that has come to its end leaves behind.
pub struct Finished {
    pub reading: Direction,
    pub writing: Direction,
    /// Ciphertext behind it.
    pub input: Buffer,
}

pub(super) fn session(
    course: Course<UnbufferedServerConnection>,
    info: Info,
    record_bytes: usize,
) -> Result<Session, Error> {
    let suite = suite_of(info.cipher_suite)?;
    let mut unfinished = Unfinished { course, suite: info.cipher_suite, sealed_count: 0 };
    Ok(Session {
        reading: Direction::blank(suite),
        writing: Direction::blank(suite),
        out: unfinished.take_output(),
        plain: unfinished.take_plain(),
        input: Buffer::default(),
        is_closed: false,
        info: Rc::new(info),
        tickets: None,
        unfinished: Some(Box::new(unfinished)),
        record_bytes,
    })
}

impl Unfinished {
    /// Where more of the client's bytes belong. Errors: there are too many.
    pub fn input(&mut self) -> Result<&mut Buffer, Error> {
        make_room(&mut self.course.input)?;
        Ok(&mut self.course.input)
    }

    /// True if bytes wait for the rest of their record.
    pub fn has_input(&self) -> bool {
        !self.course.input.data().is_empty()
    }

    /// Goes on with the bytes in `input`. True: the handshake is complete. There may be more to send and more
    /// early data afterwards, also after an error: the alert.
    pub fn advance(&mut self) -> Result<bool, Error> {
        match self.course.advance()? {
            Stop::Complete => Ok(true),
            Stop::Blocked if self.course.is_closed => Err(Error::Closed),
            Stop::Blocked => Ok(false),
        }
    }

    pub fn take_output(&mut self) -> Buffer {
        std::mem::take(&mut self.course.out)
    }

    pub fn take_plain(&mut self) -> Buffer {
        std::mem::take(&mut self.course.plain)
    }

    /// Appends a record with `data` to `out`. False: rustls takes no more.
    pub fn seal(&mut self, data: &[u8], out: &mut Buffer) -> bool {
        if self.sealed_count >= RECORDS_MAX {
            return false;
        }
        self.sealed_count += 1;
        make_space(out, data.len());
        let sealed = self.course.write(|state| match state {
            ConnectionState::WriteTraffic(mut traffic) => traffic.encrypt(data, out.space()).ok(),
            _ => None,
        });
        sealed.map(|count| out.filled(count)).is_some()
    }

    /// Appends the alert `close_notify` to `out`.
    pub fn close(&mut self, out: &mut Buffer) {
        make_space(out, 2);
        let sealed = self.course.write(|state| match state {
            ConnectionState::WriteTraffic(mut traffic) => traffic.queue_close_notify(out.space()).ok(),
            _ => None,
        });
        if let Some(count) = sealed {
            out.filled(count);
        }
    }

    /// The keys, after [`Unfinished::advance`] has returned true and everything has been taken.
    pub fn finish(self) -> Result<Finished, Error> {
        let Course { connection, input, secrets: [client, server], .. } = self.course;
        let (extracted, _) = connection.dangerous_into_kernel_connection()?;
        let (reading, writing) = directions(self.suite, extracted, (client, server))?;
        Ok(Finished { reading, writing, input })
    }
}

fn make_space(out: &mut Buffer, length: usize) {
    if out.space().len() < length + OVERHEAD_BYTES {
        out.compact();
        out.grow(out.data().len() + length + OVERHEAD_BYTES);
    }
}
