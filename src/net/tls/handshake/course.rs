//! The course of a handshake between two waits: rustls decides, and its bytes go in and out of buffers.
//!
//! Touches: nothing; bytes in, bytes out.

use rustls::ExtractedSecrets;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedConnectionCommon, UnbufferedStatus};

use super::{Error, FIRST_BYTES, SECRETS, SIGNED};
use crate::net::tls::record::{self, Secret};
use crate::net::tls::verify::taken_scheme;
use crate::runtime::buffer::Buffer;

/// The most data that is taken before the handshake is complete (0-RTT, or data in the packet of the last
/// flight).
const EARLY_BYTES_MAX: usize = 64 * 1024;
/// The types of records that an alert may have: its own, or that of encrypted ones in TLS 1.3.
const ALERT: u8 = 21;
const ENCRYPTED: u8 = 23;

/// A side of the unbuffered API.
pub(super) trait Side:
    std::ops::DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Sized
{
    type Data: 'static;
    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Data sent before the handshake was complete.
    fn early(state: ConnectionState<'_, '_, Self::Data>, plain: &mut Buffer) -> Result<bool, Error>;
    /// The keys, once the handshake is complete, and what tickets need.
    fn into_kernel(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn early(state: ConnectionState<'_, '_, Self::Data>, plain: &mut Buffer) -> Result<bool, Error> {
        let ConnectionState::ReadEarlyData(mut early) = state else { return Ok(false) };
        while let Some(record) = early.next_record() {
            plain.extend(record?.payload);
        }
        Ok(true)
    }

    fn into_kernel(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn early(_: ConnectionState<'_, '_, Self::Data>, _: &mut Buffer) -> Result<bool, Error> {
        Ok(false)
    }

    fn into_kernel(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

/// A handshake under way, or complete.
///
/// Its owner fills `input`, sends `out`, and takes `plain`; [`Course::advance`] does what lies between.
pub(super) struct Course<S> {
    pub(super) connection: S,
    pub(super) input: Buffer,
    /// rustls gets one record at a time: those behind the handshake are left for `Tls`. They may contain a
    /// KeyUpdate, after which the secrets that were caught would not be those in force.
    shown: usize,
    pub(super) out: Buffer,
    pub(super) plain: Buffer,
    pub(super) is_closed: bool,
    /// Traffic secrets of the client and of the server.
    pub(super) secrets: [Option<Secret>; 2],
    /// Of the server's signature and of the client's.
    pub(super) schemes: [Option<u16>; 2],
    /// rustls takes data for the peer.
    may_write: bool,
}

/// The reason why a handshake does not go on.
pub(super) enum Stop {
    /// The peer has to say more.
    Blocked,
    Complete,
}

/// What to do after a step.
enum Next {
    Step,
    Blocked,
    MayWrite,
}

impl<S: Side> Course<S> {
    pub(super) fn new(connection: S, input: Buffer) -> Self {
        SIGNED.set(None);
        Self {
            connection,
            input,
            shown: 0,
            out: Buffer::default(),
            plain: Buffer::default(),
            is_closed: false,
            secrets: [None, None],
            schemes: [None; 2],
            may_write: false,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.may_write && !self.connection.is_handshaking()
    }

    /// True if early data has arrived which can be answered before the handshake is complete.
    pub(super) fn may_answer(&self) -> bool {
        self.may_write && !self.is_closed && !self.plain.data().is_empty()
    }

    /// Goes as far as the bytes in `input` permit. Errors: rustls refuses them; the alert is in `out`.
    pub(super) fn advance(&mut self) -> Result<Stop, Error> {
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.step(&mut self.input.data_mut()[..self.shown]);
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.out, |space| data.encode(space))?;
                    Next::Step
                }
                // It is sent before the next read: several messages leave at once.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Next::Step
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend(record?.payload);
                    }
                    Next::Step
                }
                Ok(ConnectionState::BlockedHandshake) => Next::Blocked,
                Ok(ConnectionState::WriteTraffic(_)) => Next::MayWrite,
                Ok(ConnectionState::PeerClosed) => {
                    self.is_closed = true;
                    Next::Step
                }
                Ok(ConnectionState::Closed) => return Err(Error::Closed),
                Ok(other) => {
                    if !S::early(other, &mut self.plain)? {
                        return Err(Error::Closed);
                    }
                    Next::Step
                }
                Err(error) => {
                    // rustls may have found further messages in the input, so it stays. It must not look at the
                    // input again once the alert has been encoded: a second fault would be a panic.
                    self.consume(discard);
                    self.encode_alert()?;
                    return Err(error.into());
                }
            };
            self.consume(discard);
            // The callbacks of this step have filled them.
            SECRETS.with_borrow_mut(|caught| {
                for (kept, caught) in self.secrets.iter_mut().zip(caught) {
                    *kept = caught.take().or(kept.take());
                }
            });
            self.schemes =
                [SIGNED.take().or(self.schemes[0]), taken_scheme().map(u16::from).or(self.schemes[1])];
            if self.plain.data().len() > EARLY_BYTES_MAX {
                return Err(Error::TooLarge);
            }
            self.may_write |= matches!(next, Next::MayWrite);
            match next {
                Next::Step => {}
                Next::MayWrite if !self.connection.is_handshaking() => return Ok(Stop::Complete),
                Next::Blocked | Next::MayWrite => match record_end(self.input.data(), self.shown) {
                    Some(end) => self.shown = end,
                    None => return Ok(Stop::Blocked),
                },
            }
        }
    }

    fn consume(&mut self, discard: usize) {
        self.input.consume(discard);
        self.shown = self.shown.saturating_sub(discard);
    }

    /// Has rustls write what it has to say, up to its alert.
    fn encode_alert(&mut self) -> Result<(), Error> {
        while let Ok(ConnectionState::EncodeTlsData(mut record)) =
            self.connection.step(&mut self.input.data_mut()[..self.shown]).state
        {
            let start = self.out.data().len();
            encode(&mut self.out, |space| record.encode(space))?;
            if matches!(self.out.data().get(start), Some(&(ALERT | ENCRYPTED))) {
                break;
            }
        }
        Ok(())
    }

    /// Asks rustls, which has nothing else to say, for one more step: `write` appends to what is sent. `None`:
    /// rustls takes no data now, or `write` has failed.
    pub(super) fn write(
        &mut self,
        write: impl FnOnce(ConnectionState<'_, '_, S::Data>) -> Option<usize>,
    ) -> Option<usize> {
        let UnbufferedStatus { discard, state } =
            self.connection.step(&mut self.input.data_mut()[..self.shown]);
        let count = state.ok().and_then(write);
        self.consume(discard);
        count
    }
}

/// The end of the record that starts at `from`; `None`: it has not arrived completely. What is no record
/// extends to the end, and rustls finds the fault.
fn record_end(data: &[u8], from: usize) -> Option<usize> {
    let rest = data.get(from..)?;
    match record::record_length(rest) {
        Ok(Some(length)) => Some(from + length).filter(|end| *end <= data.len()),
        Ok(None) => None,
        Err(_) => Some(data.len()).filter(|end| *end > from),
    }
}

/// Appends what rustls has to send.
fn encode(
    out: &mut Buffer,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    if out.capacity() == 0 {
        *out = Buffer::take(FIRST_BYTES);
    }
    loop {
        match encode(out.space()) {
            Ok(count) => {
                out.filled(count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => {
                out.compact();
                out.grow(out.data().len() + needed.required_size);
            }
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}
