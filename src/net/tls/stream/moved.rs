//! An encrypted connection of a tunnel on its way to another process: its keys, and the bytes that wait.
//!
//! Unlike an idle connection of HTTP (`net/tls/moved.rs`), a tunnel's may move in the middle of a record, with bytes that
//! the socket has not taken, and after one direction has ended. Touches: nothing but the connection itself.

use std::sync::Arc;

use super::{FILL_BYTES, OUT_BYTES, Session, Tickets, Tls, Writer};
use crate::base::frame::{Fields, put_vector16, put_vector32};
use crate::net::tls::Info;
use crate::net::tls::moved::{self, Moved, TLS_BYTES_MAX};
use crate::net::tls::record::{Direction, PLAIN_BYTES_MAX};
use crate::runtime::Io;
use crate::runtime::buffer::Buffer;

/// The most bytes of each kind that wait: what the socket has not taken, and what was received and not read.
const WAITING_BYTES_MAX: usize = FILL_BYTES + OUT_BYTES;

const IS_CLIENT: u8 = 1;
const READ_IS_CLOSED: u8 = 2;
const CLOSES: u8 = 4;
const WRITE_IS_CLOSED: u8 = 8;
const HAS_UPDATE: u8 = 16;
const FLAGS: u8 = 31;

/// Takes the tickets of a server whose sessions the process before this one kept.
struct Unwanted;

impl Tickets for Unwanted {
    fn take(&mut self, _: &[u8]) -> bool {
        true
    }
}

impl Tls {
    /// The most bytes that [`Tls::save`] appends.
    pub fn saved_bytes_max(&self) -> usize {
        let (reader, writer) = (self.reader.borrow(), self.writer.borrow());
        TLS_BYTES_MAX + 32 + reader.input.data().len() + reader.partial.len() + writer.out.data().len()
    }

    /// Appends what another process needs to go on; false if it cannot move now. Changes nothing but to send what the
    /// socket takes.
    pub fn save(&self, out: &mut Vec<u8>) -> bool {
        let _ = self.send_output();
        let (reader, writer) = (self.reader.borrow(), self.writer.borrow());
        if reader.early.is_some() || self.has_failed.get() {
            return false;
        }
        let is_client = reader.tickets.is_some();
        // The upstream's certificates are of no use any more.
        let bare = is_client.then(|| Info { peer_chain: Arc::default(), ..self.info.copy() });
        let info = bare.as_ref().unwrap_or(&self.info);
        let keys = (&reader.keys, &writer.keys);
        let Some(state) = moved::write(keys, info, writer.record_bytes) else { return false };
        put_vector16(out, &state);
        let mut flags = 0;
        for (is_set, flag) in [
            (is_client, IS_CLIENT),
            (reader.is_closed, READ_IS_CLOSED),
            (writer.closes, CLOSES),
            (writer.is_closed, WRITE_IS_CLOSED),
            (writer.has_update, HAS_UPDATE),
        ] {
            flags |= flag * u8::from(is_set);
        }
        out.push(flags);
        let input = reader.input.data();
        put_vector32(out, &input[reader.plain.clone()]);
        put_vector32(out, &input[reader.record_length..]);
        put_vector32(out, &reader.partial);
        put_vector32(out, writer.out.data());
        true
    }

    /// Gives the socket away, without a word to the peer: another process goes on with it.
    pub fn release(mut self: Box<Self>) -> Io {
        let (reader, writer) = (self.reader.get_mut(), self.writer.get_mut());
        let suite = writer.keys.suite();
        (reader.keys, writer.keys) = (Direction::blank(suite), Direction::blank(suite));
        writer.is_closed = true; // no close_notify from here
        writer.out = Buffer::default();
        self.has_output.set(false);
        self.io.take()
    }

    /// Goes on with what [`Tls::save`] has written. `None`: the bytes are something else.
    pub fn restore(io: Io, fields: &mut Fields<'_>) -> Option<Box<Self>> {
        let moved = Moved::from_bytes(fields.vector16()?)?;
        let flags = fields.u8().filter(|flags| flags & !FLAGS == 0)?;
        let mut bytes = || fields.vector32().filter(|bytes| bytes.len() <= WAITING_BYTES_MAX);
        let (plain, input, partial, out) = (bytes()?, bytes()?, bytes()?, bytes()?);
        if partial.len() > 2 * PLAIN_BYTES_MAX {
            return None;
        }
        let is = |flag| flags & flag != 0;
        let buffer = |bytes: &[u8]| match bytes.is_empty() {
            true => Buffer::default(),
            false => Buffer::of(bytes.to_vec()),
        };
        let (plain, input, out) = (buffer(plain), buffer(input), buffer(out));
        let tickets = is(IS_CLIENT).then(|| Box::new(Unwanted) as Box<dyn Tickets>);
        let is_closed = is(READ_IS_CLOSED);
        let session = Session { plain, input, out, is_closed, tickets, ..Session::moved(moved) };
        let mut tls = Self::new(io, session);
        tls.reader.get_mut().partial = partial.to_vec();
        let writer: &mut Writer = tls.writer.get_mut();
        (writer.closes, writer.is_closed) = (is(CLOSES), is(WRITE_IS_CLOSED));
        writer.has_update = is(HAS_UPDATE);
        Some(Box::new(tls))
    }
}
