//! An encrypted connection after its handshake: the variant of `Transport` for TLS.
//!
//! Between two messages it holds two cipher contexts and no buffer. Ciphertext that the socket has not taken
//! waits in one buffer of at most [`OUT_BYTES`]; every poll of the connection goes on sending it, so that a
//! task which only reads does not keep its peer waiting. Received records are decrypted where they arrived.
//!
//! Touches: the connection's socket. Truth: RFC 8446 §4.6, §5 and §6.

mod early;
mod moved;
mod pass;
mod writer;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use early::Early;
use smallvec::SmallVec;
use writer::Writer;

use crate::net::tls::handshake::Unfinished;
use crate::net::tls::moved::Moved;
use crate::net::tls::record::{self, Content, Direction, HEAD_BYTES, OVERHEAD_BYTES, PLAIN_BYTES_MAX};
use crate::net::tls::{Info, names};
use crate::runtime::buffer::Buffer;
use crate::runtime::{Io, Waiting};

/// The most ciphertext that waits for the socket, and the most that is sent at once.
pub const OUT_BYTES: usize = 64 * 1024;
/// The most ciphertext that waits if it was read straight into the records: 8 of the longest ones.
pub const FILL_BYTES: usize = 132 * 1024;
/// The first read of a message; it has to be one that most requests fit in.
const FIRST_READ_BYTES: usize = 4096;
/// A read once records have been longer than that.
const LONG_READ_BYTES: usize = 64 * 1024;
/// The most records without content that are accepted one after the other: each costs a decryption and brings
/// nothing.
const EMPTY_RECORDS_MAX: u32 = 32;
/// The most messages of the handshake protocol (KeyUpdate, tickets) that are accepted one after the other
/// without data between them.
const UPDATES_MAX: u32 = 32;
/// Room kept in `out` for an alert behind the data.
const ALERT_BYTES: usize = 2 + OVERHEAD_BYTES;

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Takes the tickets that a server sends after the handshake (RFC 8446 §4.6.1).
pub trait Tickets {
    /// `message` is a NewSessionTicket without its header. False: it is malformed.
    fn take(&mut self, message: &[u8]) -> bool;
}

/// What is left of a handshake: the keys, and bytes that belong to the connection.
pub struct Session {
    pub reading: Direction,
    pub writing: Direction,
    /// Ciphertext still to be sent, such as tickets for the client.
    pub out: Buffer,
    /// Data that arrived together with the end of the handshake, already decrypted.
    pub plain: Buffer,
    /// Ciphertext behind it.
    pub input: Buffer,
    /// The peer has sent its close_notify.
    pub is_closed: bool,
    pub info: Rc<Info>,
    /// A client's taker of tickets.
    pub tickets: Option<Box<dyn Tickets>>,
    /// The handshake, if it is not complete: until it is, `reading` and `writing` protect nothing.
    pub unfinished: Option<Box<Unfinished>>,
    /// `ssl_buffer_size`: the most plaintext of a record.
    pub record_bytes: usize,
}

/// The receiving direction.
struct Reader {
    keys: Direction,
    /// Ciphertext, in which the record being read has been decrypted.
    input: Buffer,
    /// The part of `input` that is plaintext not yet read, within the record at its start.
    plain: Range<usize>,
    /// Length of the record in `input` that `plain` belongs to.
    record_length: usize,
    /// Data decrypted during the handshake, which comes first, and the rest of the handshake.
    early: Option<Box<Early>>,
    is_long: bool,
    /// The peer will send no more.
    is_closed: bool,
    /// The connection has ended without the peer's close_notify.
    is_cut: bool,
    empty_count: u32,
    update_count: u32,
    /// The start of a handshake message that continues in the next record.
    partial: Vec<u8>,
    tickets: Option<Box<dyn Tickets>>,
}

/// An encrypted connection. See `Transport` for the meaning of its methods.
pub struct Tls {
    io: Io,
    reader: RefCell<Reader>,
    writer: RefCell<Writer>,
    /// `writer.out` is not empty.
    has_output: Cell<bool>,
    /// The socket has taken some of it since [`Tls::took_some`] was asked.
    has_progress: Cell<bool>,
    /// Sending has failed, so what was written is lost.
    has_failed: Cell<bool>,
    info: Rc<Info>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tls({:?})", self.io)
    }
}

fn would_block() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

impl Session {
    /// Goes on where another process stopped.
    pub fn moved(moved: Moved) -> Self {
        Self {
            reading: moved.reading,
            writing: moved.writing,
            out: Buffer::default(),
            plain: Buffer::default(),
            input: Buffer::default(),
            is_closed: false,
            info: moved.info,
            tickets: None,
            unfinished: None,
            record_bytes: moved.record_bytes,
        }
    }
}

impl Tls {
    /// Goes on with a connection whose handshake is complete.
    pub fn new(io: Io, session: Session) -> Self {
        let has_output = Cell::new(!session.out.data().is_empty());
        Self {
            io,
            reader: RefCell::new(Reader {
                keys: session.reading,
                input: session.input,
                plain: 0..0,
                record_length: 0,
                early: Early::of(session.plain, session.unfinished),
                is_long: false,
                is_closed: session.is_closed,
                is_cut: false,
                empty_count: 0,
                update_count: 0,
                partial: Vec::new(),
                tickets: session.tickets,
            }),
            writer: RefCell::new(Writer {
                keys: session.writing,
                out: session.out,
                record_bytes: session.record_bytes.clamp(1, PLAIN_BYTES_MAX),
                closes: false,
                is_closed: false,
                has_update: false,
            }),
            has_output,
            has_progress: Cell::new(false),
            has_failed: Cell::new(false),
            info: session.info,
        }
    }

    pub fn io(&self) -> &Io {
        &self.io
    }

    pub fn info(&self) -> &Rc<Info> {
        &self.info
    }

    /// Sends what waits, without waiting. Errors: `WouldBlock` if some is left.
    fn send_output(&self) -> io::Result<()> {
        let mut writer = self.writer.borrow_mut();
        while !writer.out.data().is_empty() {
            match self.io.try_write(writer.out.data()) {
                Ok(count) => {
                    writer.out.consume(count);
                    self.has_progress.set(true);
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.has_output.set(false);
                        self.has_failed.set(true);
                        writer.out = Buffer::default();
                        writer.is_closed = true;
                    }
                    return Err(error);
                }
            }
        }
        writer.out = Buffer::default();
        writer.has_update = false;
        self.has_output.set(false);
        if writer.closes {
            (writer.closes, writer.is_closed) = (false, true);
            self.io.shutdown_write()?;
        }
        Ok(())
    }

    /// Ready when the socket has taken everything. Errors: it will not take what was written.
    #[inline]
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_output.get() {
            let failed = || Err(io::ErrorKind::BrokenPipe.into());
            return Poll::Ready(if self.has_failed.get() { failed() } else { Ok(()) });
        }
        match self.send_output() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The readiness was cleared, so this registers the task.
                let _ = self.io.poll_writable(cx);
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// True if nothing waits to be sent.
    pub fn is_flushed(&self) -> bool {
        !self.has_output.get()
    }

    /// True if the socket has taken bytes that waited since this was last asked: the peer reads, however
    /// slowly.
    pub fn took_some(&self) -> bool {
        self.has_progress.replace(false)
    }

    /// Sends nothing more, not even close_notify: the peer must not take what it has for all.
    pub fn abandon(&self) {
        let mut writer = self.writer.borrow_mut();
        writer.out = Buffer::default();
        writer.is_closed = true;
        self.has_failed.set(self.has_failed.get() | self.has_output.replace(false));
    }

    /// True if the peer's bytes have ended without its close_notify: somebody else may have cut them off.
    pub fn was_cut(&self) -> bool {
        self.reader.borrow().is_cut
    }

    /// Goes on sending while the caller waits for something else. A failure is reported by the next write
    /// or flush.
    #[inline]
    fn drive(&self, cx: &mut Context<'_>) {
        if self.has_output.get() {
            let _ = self.poll_flush(cx);
        }
    }

    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.io.poll_budget(cx));
        match self.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.drive(cx);
                // Registers the reader; should bytes have arrived meanwhile, the task is polled again.
                if self.io.poll_readable(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = self.reader.borrow_mut();
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(count) = reader.copy_plain(buffer) {
                return Ok(count);
            }
            if reader.is_closed {
                return Ok(0);
            }
            if self.is_early() {
                self.go_on(&mut reader)?;
                continue;
            }
            match reader.next_record() {
                Ok(Some(Event::Data)) => {}
                Ok(Some(Event::Closed)) => {
                    reader.is_closed = true;
                    reader.input = Buffer::default();
                }
                Ok(Some(Event::Updated { is_asked })) => {
                    if is_asked {
                        self.update_keys();
                    }
                }
                // One refusal answers all requests that arrive before the peer has read it.
                Ok(Some(Event::Renegotiation)) if self.has_output.get() => {}
                Ok(Some(Event::Renegotiation)) => self.alert(WARNING, NO_RENEGOTIATION),
                Ok(Some(Event::Failed(alert))) => {
                    // The peer has given up: it reads no more, and what it sent may lack its end.
                    reader.is_closed = true;
                    reader.input = Buffer::default();
                    self.abandon();
                    let text = format!("the peer sent the alert {}", names::Alert(alert));
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
                Ok(None) => reader.fill(&self.io)?,
                Err(error) => {
                    reader.is_closed = true;
                    self.alert(FATAL, error.alert());
                    return Err(error.into());
                }
            }
        }
    }

    /// True if a read would return something without asking the socket.
    fn has_input(&self) -> bool {
        let reader = self.reader.borrow();
        let has_early = reader.early.as_deref().is_some_and(Early::has_plain);
        reader.is_closed || !reader.plain.is_empty() || has_early || reader.has_record()
    }

    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drive(cx);
        if self.has_input() { Poll::Ready(Ok(())) } else { self.io.poll_readable(cx) }
    }

    pub fn poll_waiting(&self, waiting: Waiting, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_input() {
            return Poll::Ready(Ok(()));
        }
        if self.has_output.get() {
            // A listed connection has no place for a waiting writer.
            self.drive(cx);
            if self.has_output.get() {
                return self.io.poll_readable(cx);
            }
        }
        self.io.poll_waiting(waiting, cx)
    }

    pub fn poll_hangup(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx);
        self.io.poll_hangup(cx)
    }

    pub fn is_hung_up(&self) -> bool {
        self.io.is_hung_up()
    }

    pub fn is_quiet(&self) -> bool {
        let has_part = || {
            let reader = self.reader.borrow();
            !reader.input.data().is_empty() || reader.early.as_deref().is_some_and(Early::has_input)
        };
        !self.has_input() && !has_part() && self.io.is_quiet()
    }

    pub fn poll_budget(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_budget(cx)
    }

    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, &[data])
    }

    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices: SmallVec<[&[u8]; 8]> = slices.iter().map(|slice| &**slice).collect();
        self.poll_write_slices(cx, &slices)
    }

    fn poll_write_slices(&self, cx: &mut Context<'_>, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
        ready!(self.io.poll_budget(cx));
        match self.try_write_slices(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = self.io.poll_writable(cx);
                Poll::Pending
            }
            outcome => {
                self.drive(cx); // what is left wakes the task, whatever it waits for next
                Poll::Ready(outcome)
            }
        }
    }

    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.try_write_slices(&[data])
    }

    /// Seals as much as fits in the buffer and sends it. What the socket does not take stays there, and counts
    /// as written.
    fn try_write_slices(&self, slices: &[&[u8]]) -> io::Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        // A client that has finished the handshake meanwhile gets the rest through our records.
        if self.is_early()
            && let Err(error) = self.go_on(&mut self.reader.borrow_mut())
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
        let taken = {
            let mut writer = self.writer.borrow_mut();
            if writer.is_closed || writer.closes {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // Behind a few bytes, such as the tickets of the handshake, there is room; behind a backlog none.
            if writer.out.data().len() > OUT_BYTES / 2 {
                drop(writer);
                self.send_output()?;
                writer = self.writer.borrow_mut();
            }
            match self.is_early() {
                false => writer.seal(slices, total)?,
                true => self.seal_early(&mut writer, slices)?,
            }
        };
        self.has_output.set(true);
        match self.send_output() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => Ok(taken),
            Err(error) => Err(error),
            Ok(()) => Ok(taken),
        }
    }

    /// Sends close_notify behind what waits, and then closes the sending direction.
    pub fn shutdown_write(&self) -> io::Result<()> {
        {
            let mut writer = self.writer.borrow_mut();
            if writer.is_closed || writer.closes {
                return Ok(());
            }
            self.seal_close(&mut writer);
            writer.closes = true;
        }
        self.has_output.set(true);
        match self.send_output() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            outcome => outcome,
        }
    }

    fn alert(&self, level: u8, description: u8) {
        let mut writer = self.writer.borrow_mut();
        if writer.is_closed {
            return;
        }
        writer.alert(level, description);
        writer.is_closed |= level == FATAL;
        drop(writer);
        self.has_output.set(true);
        let _ = self.send_output(); // the next poll goes on, or reports the failure
    }

    /// Answers a KeyUpdate that asks for one, with the keys in force before (RFC 8446 §4.6.3).
    fn update_keys(&self) {
        let mut writer = self.writer.borrow_mut();
        if writer.is_closed || writer.closes || writer.has_update {
            return;
        }
        writer.update_keys();
        writer.has_update = true;
        drop(writer);
        self.has_output.set(true);
        let _ = self.send_output();
    }

    /// The socket and what another process needs to go on with it. Errors: the connection, if it cannot move
    /// now because bytes of it are on their way.
    pub fn into_moved(mut self: Box<Self>) -> Result<(Io, Moved), Box<Self>> {
        let _ = self.send_output();
        let reader = self.reader.get_mut();
        let is_idle = !self.has_output.get()
            && !reader.is_closed
            && reader.plain.is_empty()
            && reader.early.is_none()
            && reader.input.data().is_empty()
            && reader.partial.is_empty()
            && reader.tickets.is_none();
        let writer = self.writer.get_mut();
        if !is_idle || writer.is_closed || writer.closes {
            return Err(self);
        }
        writer.is_closed = true; // no close_notify from here
        let suite = writer.keys.suite();
        let take = |keys: &mut Direction| std::mem::replace(keys, Direction::blank(suite));
        let (reading, writing) = (take(&mut reader.keys), take(&mut writer.keys));
        let record_bytes = writer.record_bytes;
        let moved = Moved { reading, writing, info: Rc::clone(&self.info), record_bytes };
        Ok((self.io.take(), moved))
    }
}

#[cfg(test)]
impl Tls {
    /// Sends a KeyUpdate that asks for one in return.
    pub fn update_keys_and_ask(&self) {
        let mut writer = self.writer.borrow_mut();
        writer.reserve(ALERT_BYTES * 2);
        let Writer { keys, out, .. } = &mut *writer;
        keys.seal(Content::Handshake, &[&[KEY_UPDATE, 0, 0, 1, 1]], out).unwrap();
        keys.update();
        drop(writer);
        self.has_output.set(true);
        let _ = self.send_output();
    }

    /// Bytes of all buffers.
    pub fn held_bytes(&self) -> usize {
        let reader = self.reader.borrow();
        reader.input.capacity() + reader.partial.capacity() + self.writer.borrow().out.capacity()
    }
}

impl Drop for Tls {
    /// Tells the peer that nothing was cut off, if its socket takes it at once.
    fn drop(&mut self) {
        let mut writer = self.writer.borrow_mut();
        if !writer.is_closed && !writer.closes {
            self.seal_close(&mut writer);
            writer.is_closed = true;
        }
        drop(writer);
        if !self.writer.borrow().out.data().is_empty() {
            let _ = self.send_output();
        }
    }
}

/// The meaning of a record that was opened.
#[derive(Debug)]
enum Event {
    /// Data to read, possibly none.
    Data,
    Closed,
    /// A fatal alert, with its number.
    Failed(u8),
    /// The peer has new keys; `is_asked`: it wants us to follow.
    Updated {
        is_asked: bool,
    },
    /// A TLS 1.2 peer asks for another handshake.
    Renegotiation,
}

impl Reader {
    /// Copies decrypted data out; `None`: there is none.
    fn copy_plain(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if let Some(early) = &mut self.early
            && let Some(count) = early.copy(buffer)
        {
            if early.is_over() {
                self.early = None;
            }
            return Some(count);
        }
        if self.plain.is_empty() {
            return None;
        }
        let count = self.plain.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.input.data()[self.plain.start..self.plain.start + count]);
        self.plain.start += count;
        if self.plain.is_empty() {
            self.drop_record();
        }
        Some(count)
    }

    /// Drops the record that has been read; an empty buffer goes back to the pool.
    fn drop_record(&mut self) {
        self.input.consume(self.record_length);
        self.record_length = 0;
        self.plain = 0..0;
        if self.input.data().is_empty() {
            self.input = Buffer::default();
        }
    }

    /// True if the input starts with a whole record, or with something that is none.
    fn has_record(&self) -> bool {
        match record::record_length(self.input.data()) {
            Ok(Some(length)) => self.input.data().len() >= length,
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Opens the record at the start of the input; `None`: it has not arrived completely.
    fn next_record(&mut self) -> Result<Option<Event>, record::Error> {
        let Some(length) = record::record_length(self.input.data())? else { return Ok(None) };
        let Some(bytes) = self.input.data_mut().get_mut(..length) else { return Ok(None) };
        // Only a complete record: its announcement alone must not make the peer's bytes cost more memory.
        self.is_long = length > FIRST_READ_BYTES;
        if length < HEAD_BYTES + 1 {
            return Err(record::Error::Unexpected);
        }
        let (content, plain) = self.keys.open(bytes)?;
        self.record_length = length;
        if content == Content::Data {
            if !self.partial.is_empty() {
                return Err(record::Error::Unexpected);
            }
            if plain.is_empty() {
                self.empty_count += 1;
                if self.empty_count > EMPTY_RECORDS_MAX {
                    return Err(record::Error::Unexpected);
                }
                self.drop_record();
            } else {
                (self.empty_count, self.update_count) = (0, 0);
                self.plain = plain;
            }
            return Ok(Some(Event::Data));
        }
        let event = match content {
            Content::Alert => match self.input.data()[plain] {
                [_, CLOSE_NOTIFY] => Ok(Event::Closed),
                // RFC 8446 §6.1: to be ignored, as are warnings of TLS 1.2. The count bounds them.
                [_, USER_CANCELED] => self.count_update().map(|()| Event::Data),
                [WARNING, _] if !self.keys.suite().is_tls13() => self.count_update().map(|()| Event::Data),
                [_, number] => Ok(Event::Failed(number)),
                _ => Err(record::Error::Unexpected),
            },
            Content::Handshake => self.message(plain),
            Content::Data | Content::ChangeCipherSpec => Err(record::Error::Unexpected),
        };
        self.drop_record();
        event.map(Some)
    }

    fn count_update(&mut self) -> Result<(), record::Error> {
        self.update_count += 1;
        if self.update_count > UPDATES_MAX { Err(record::Error::Unexpected) } else { Ok(()) }
    }

    /// Handles the handshake messages of a record (RFC 8446 §4.6).
    fn message(&mut self, plain: Range<usize>) -> Result<Event, record::Error> {
        self.count_update()?;
        if plain.is_empty() || self.partial.len() + plain.len() > 2 * PLAIN_BYTES_MAX {
            return Err(record::Error::Unexpected);
        }
        self.partial.extend_from_slice(&self.input.data()[plain]);
        let mut event = Event::Data;
        loop {
            let Some(head) = self.partial.get(..4) else { return Ok(event) };
            let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            if length > PLAIN_BYTES_MAX {
                return Err(record::Error::TooLong);
            }
            let kind = head[0];
            // Refused by its first bytes, so that nothing is kept of what cannot be of use.
            let is_possible = match (kind, self.keys.suite().is_tls13(), &self.tickets) {
                (KEY_UPDATE, true, _) => length == 1,
                (HELLO_REQUEST, false, Some(_)) => length == 0,
                (NEW_SESSION_TICKET, true, Some(_)) | (CLIENT_HELLO, false, None) => true,
                _ => false,
            };
            if !is_possible {
                return Err(record::Error::Unexpected);
            }
            let Some(body) = self.partial.get(4..4 + length) else { return Ok(event) };
            match (kind, self.keys.suite().is_tls13(), &mut self.tickets) {
                (KEY_UPDATE, true, _) => {
                    let &[asked @ (0 | 1)] = body else { return Err(record::Error::Unexpected) };
                    // The next record has other keys, so nothing may follow in this one.
                    if self.partial.len() != 5 {
                        return Err(record::Error::Unexpected);
                    }
                    self.partial = Vec::new();
                    self.keys.update();
                    return Ok(Event::Updated { is_asked: asked == 1 });
                }
                (NEW_SESSION_TICKET, true, Some(tickets)) => {
                    if !tickets.take(body) {
                        return Err(record::Error::Unexpected);
                    }
                }
                (CLIENT_HELLO, false, None) | (HELLO_REQUEST, false, Some(_)) => event = Event::Renegotiation,
                _ => return Err(record::Error::Unexpected),
            }
            self.partial.drain(..4 + length);
            if self.partial.is_empty() {
                self.partial = Vec::new();
            }
        }
    }

    /// Reads from the socket. Errors: those of the socket, `WouldBlock` included. At the end of the peer's
    /// data the connection counts as closed: as in nginx a missing close_notify is no error, since the length
    /// of a message is part of HTTP.
    fn fill(&mut self, io: &Io) -> io::Result<()> {
        let wanted = if self.is_long { LONG_READ_BYTES } else { FIRST_READ_BYTES };
        let wanted = match record::record_length(self.input.data()) {
            Ok(Some(length)) => wanted.max(length.min(2 * self.input.data().len())),
            _ => wanted,
        };
        if self.input.data().is_empty() {
            if io.is_quiet() {
                return Err(would_block()); // no buffer is taken for nothing
            }
            self.input = Buffer::take(wanted);
        } else if self.input.space().len() < wanted / 4 {
            self.input.compact();
            if self.input.space().len() < wanted / 4 || self.input.capacity() < wanted {
                self.input.grow(wanted.max(self.input.data().len() + FIRST_READ_BYTES));
            }
        }
        match io.try_read(self.input.space()) {
            Ok(0) => {
                self.is_cut = !self.is_closed;
                self.is_closed = true;
                self.input = Buffer::default();
                Ok(())
            }
            Ok(count) => {
                self.input.filled(count);
                Ok(())
            }
            Err(error) => {
                if self.input.data().is_empty() {
                    self.input = Buffer::default();
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
