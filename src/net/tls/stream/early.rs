//! An encrypted connection whose early data is answered while its handshake is not complete.
//!
//! Until the client's Finished rustls has the keys: it opens and seals. Every read goes on with the handshake, and
//! so does every write, so that a long answer is sealed by our record layer once it may be. Touches: the
//! connection's socket. Truth: RFC 8446 §2.3.

use std::io;

use super::{CLOSE_NOTIFY, OUT_BYTES, Reader, Tls, WARNING, Writer};
use crate::net::tls::handshake::{Error, Unfinished};
use crate::net::tls::record::{OVERHEAD_BYTES, PLAIN_BYTES_MAX};
use crate::runtime::buffer::Buffer;

/// What comes before the records of our own.
pub(super) struct Early {
    plain: Buffer,
    unfinished: Option<Box<Unfinished>>,
}

impl Early {
    /// `None`: there is nothing.
    pub(super) fn of(plain: Buffer, unfinished: Option<Box<Unfinished>>) -> Option<Box<Self>> {
        let is_some = !plain.data().is_empty() || unfinished.is_some();
        is_some.then(|| Box::new(Self { plain, unfinished }))
    }

    pub(super) fn has_plain(&self) -> bool {
        !self.plain.data().is_empty()
    }

    /// True if bytes of the handshake wait for the rest of their record.
    pub(super) fn has_input(&self) -> bool {
        self.unfinished.as_deref().is_some_and(Unfinished::has_input)
    }

    pub(super) fn is_over(&self) -> bool {
        self.unfinished.is_none() && !self.has_plain()
    }

    /// Copies data out; `None`: there is none.
    pub(super) fn copy(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let count = self.plain.data().len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.plain.data()[..count]);
        self.plain.consume(count);
        if !self.has_plain() {
            self.plain = Buffer::default();
        }
        (count > 0).then_some(count)
    }
}

impl Tls {
    /// True until the client has finished the handshake.
    pub fn is_early(&self) -> bool {
        self.info.is_early.get()
    }

    /// Goes on with the handshake. Errors: `WouldBlock` if nothing has arrived; the handshake has failed.
    pub(super) fn go_on(&self, reader: &mut Reader) -> io::Result<()> {
        let Some(early) = &mut reader.early else { return Ok(()) };
        let Some(unfinished) = &mut early.unfinished else { return Ok(()) };
        if reader.is_closed || self.io.is_quiet() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outcome = match unfinished.input() {
            Ok(input) => {
                let count = self.io.try_read(input.space())?;
                input.filled(count);
                if count == 0 {
                    // It may still read the answer to its early data.
                    reader.is_closed = true;
                    return Ok(());
                }
                unfinished.advance()
            }
            Err(error) => Err(error),
        };
        let (out, plain) = (unfinished.take_output(), unfinished.take_plain());
        early.plain.extend(plain.data());
        let mut writer = self.writer.borrow_mut();
        if !out.data().is_empty() && !writer.closes && !writer.is_closed {
            writer.out.extend(out.data());
            self.has_output.set(true);
        }
        let outcome = match outcome {
            Ok(true) => match early.unfinished.take().map(|unfinished| unfinished.finish()) {
                Some(Ok(finished)) => {
                    (reader.keys, writer.keys) = (finished.reading, finished.writing);
                    reader.input = finished.input;
                    self.info.is_early.set(false);
                    Ok(())
                }
                Some(Err(error)) => Err(error),
                None => Ok(()),
            },
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            (writer.is_closed, reader.is_closed) = (true, true);
        }
        drop(writer);
        let _ = self.send_output(); // the next poll goes on, or reports the failure
        if reader.early.as_deref().is_some_and(Early::is_over) {
            reader.early = None;
        }
        outcome.map_err(|error| match error {
            Error::Closed => io::ErrorKind::ConnectionAborted.into(),
            error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        })
    }

    /// Has rustls seal as much of the slices as fits. Returns the count of plaintext bytes.
    pub(super) fn seal_early(&self, writer: &mut Writer, slices: &[&[u8]]) -> io::Result<usize> {
        let mut reader = self.reader.borrow_mut();
        let unfinished = reader.early.as_mut().and_then(|early| early.unfinished.as_mut());
        let Some(unfinished) = unfinished else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut taken = 0;
        for chunk in slices.iter().flat_map(|slice| slice.chunks(writer.record_bytes.min(PLAIN_BYTES_MAX))) {
            if writer.out.data().len() + chunk.len() + OVERHEAD_BYTES > OUT_BYTES {
                break;
            }
            if !unfinished.seal(chunk, &mut writer.out) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            taken += chunk.len();
        }
        Ok(taken)
    }

    /// Seals close_notify with whichever keys are in force.
    pub(super) fn seal_close(&self, writer: &mut Writer) {
        if !self.is_early() {
            return writer.alert(WARNING, CLOSE_NOTIFY);
        }
        let mut reader = self.reader.borrow_mut();
        if let Some(unfinished) = reader.early.as_mut().and_then(|early| early.unfinished.as_mut()) {
            unfinished.close(&mut writer.out);
        }
    }
}
