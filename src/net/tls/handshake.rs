//! Handshakes: a plain socket in, a session out.
//!
//! rustls decides, these functions move its bytes. The ClientHello is read first (`proto/client_hello.rs`), so
//! that the caller chooses the server's settings by it. What arrives behind the handshake is given on with
//! the session. A handshake has no timeout of its own: the caller bounds it.
//!
//! Touches: the connection's socket. Truth: RFC 8446 §2 and §6.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ExtractedSecrets, HandshakeKind, KeyLog, ServerConfig};

use crate::net::tls::record::{self, Direction, PLAIN_BYTES_MAX, Secret, Suite};
use crate::net::tls::stream::{Session, Tickets};
use crate::net::tls::verify::taken_scheme;
use crate::net::tls::{Info, is_tls13};
use crate::proto::client_hello::{self, ClientHello};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Io, Waiting};

/// First buffer of a handshake: a ClientHello with a post-quantum key share fits.
const FIRST_BYTES: usize = 4096;
/// The most bytes of a handshake that wait to be understood: one message of 64 KiB, the longest that rustls
/// takes, in records.
const INPUT_BYTES_MAX: usize = 80 * 1024;
/// The most data that is taken before the handshake is complete (0-RTT, or data in the packet of the last
/// flight).
const EARLY_BYTES_MAX: usize = 64 * 1024;
/// About what a step with a signature or a key exchange costs, in microseconds of the task's budget.
const STEP_COST: u32 = 200;
/// The types of records that an alert may have: its own, or that of encrypted ones in TLS 1.3.
const ALERT: u8 = 21;
const ENCRYPTED: u8 = 23;
/// The most tickets of one connection that are taken from a server.
const TICKETS_MAX: u32 = 8;

const TLS12: u16 = 0x0303;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;

/// A record with a fatal alert, in plain as before any keys.
fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// The reason why there is no session.
#[derive(Debug)]
pub enum Error {
    /// rustls refused; an alert has been sent.
    Tls(rustls::Error),
    /// The caller found no settings for the name that the client asked for.
    Refused,
    /// The client offers no version that there is.
    Version,
    /// The peer closed the connection during the handshake.
    Closed,
    /// More bytes than any handshake has.
    TooLarge,
    /// The worker needed the place of the connection, which waited for its client.
    GaveWay,
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => write!(out, "{error}"),
            Self::Refused => out.write_str("no certificate for this name"),
            Self::Version => out.write_str("the client supports TLS 1.1 at most"),
            Self::Closed => out.write_str("peer closed the connection"),
            Self::TooLarge => out.write_str("the handshake's messages are too large"),
            Self::GaveWay => out.write_str("closed to make room for other connections"),
            Self::Io(error) => write!(out, "{error}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

/// The result of [`accept`].
pub enum Accepted<C> {
    /// The session, and what the caller chose by the ClientHello.
    Session(Box<Session>, C),
    /// The client does not speak TLS; its first bytes.
    Plain(Buffer),
}

/// What the caller chose for a client.
pub struct Choice<C> {
    pub config: Arc<ServerConfig>,
    /// `ssl_buffer_size`.
    pub record_bytes: usize,
    pub chosen: C,
}

thread_local! {
    /// The traffic secrets of the handshake in progress, client's and server's. Filled and emptied within one
    /// step, so handshakes of other tasks do not meet.
    static SECRETS: RefCell<[Option<Secret>; 2]> = const { RefCell::new([None, None]) };
    /// The scheme of the signature in the handshake step in progress.
    static SIGNED: std::cell::Cell<Option<u16>> = const { std::cell::Cell::new(None) };
}

/// Catches the traffic secrets of TLS 1.3, which a connection needs for KeyUpdate and to move to another
/// process, and passes everything on to a log if there is one (`ssl_key_log`).
#[derive(Debug, Default)]
pub struct Catcher {
    pub log: Option<Arc<dyn KeyLog>>,
}

impl KeyLog for Catcher {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let index = match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(0),
            "SERVER_TRAFFIC_SECRET_0" => Some(1),
            _ => None,
        };
        if let Some(index) = index {
            SECRETS.with_borrow_mut(|secrets| secrets[index] = Secret::of_traffic(secret));
        }
        if let Some(log) = &self.log {
            log.log(label, client_random, secret);
        }
    }
}

/// Notes the scheme that a server signs with, for `$ssl_sigalg`. Called by the server's key.
pub fn note_signature(scheme: u16) {
    SIGNED.set(Some(scheme));
}

/// Makes the server's side of a handshake. `first`: bytes that have been read already.
///
/// `choose` selects the settings by the ClientHello; `None` refuses the client with the alert
/// `unrecognized_name`.
pub async fn accept<C>(
    io: &Io,
    first: Buffer,
    choose: impl FnOnce(&ClientHello) -> Option<Choice<C>>,
) -> Result<Accepted<C>, Error> {
    let mut input = first;
    let hello = loop {
        match client_hello::parse(input.data()) {
            Ok(Some(hello)) => break hello,
            Ok(None) => read(io, &mut input, Role::Server).await?,
            Err(client_hello::Error::NotTls) => return Ok(Accepted::Plain(input)),
            // rustls finds the same fault, and has the alert for it.
            Err(client_hello::Error::Malformed | client_hello::Error::TooLarge) => {
                break ClientHello::default();
            }
        }
    };
    // rustls would miss the extensions of newer versions, and say so.
    if !hello.versions.is_empty() && hello.versions.iter().all(|version| *version < TLS12) {
        let _ = io.try_write(&alert(PROTOCOL_VERSION));
        return Err(Error::Version);
    }
    let Some(Choice { config, record_bytes, chosen }) = choose(&hello) else {
        let _ = io.try_write(&alert(UNRECOGNIZED_NAME));
        return Err(Error::Refused);
    };
    let connection = UnbufferedServerConnection::new(config)?;
    let done = run(io, input, connection, Role::Server).await?;
    let facts = Facts::of(&done.connection, Some(hello), done.schemes);
    let (secrets, _) = done.connection.dangerous_into_kernel_connection()?;
    let [client, server] = done.secrets;
    let session = session((facts, secrets), (client, server), done.rest, None, record_bytes)?;
    Ok(Accepted::Session(Box::new(session), chosen))
}

/// Makes the client's side of a handshake.
pub async fn connect(
    io: &Io,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Box<Session>, Error> {
    let connection = UnbufferedClientConnection::new(config, name)?;
    let done = run(io, Buffer::default(), connection, Role::Client).await?;
    let facts = Facts::of(&done.connection, None, [None; 2]);
    let (secrets, kernel) = done.connection.dangerous_into_kernel_connection()?;
    let tickets = Box::new(Kernel { connection: kernel, left: TICKETS_MAX });
    let [client, server] = done.secrets;
    let session = session((facts, secrets), (server, client), done.rest, Some(tickets), PLAIN_BYTES_MAX)?;
    Ok(Box::new(session))
}

struct Kernel {
    connection: KernelConnection<ClientConnectionData>,
    left: u32,
}

impl Tickets for Kernel {
    fn take(&mut self, message: &[u8]) -> bool {
        if self.left == 0 {
            return true; // enough are kept
        }
        self.left -= 1;
        self.connection.handle_new_session_ticket(message).is_ok()
    }
}

/// The values of [`Info`] that rustls knows.
struct Facts(Info);

impl Facts {
    fn of(common: &CommonState, hello: Option<ClientHello>, schemes: [Option<u16>; 2]) -> Self {
        Self(Info {
            is_tls13: is_tls13(common.protocol_version()),
            cipher_suite: common.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
            group: common.negotiated_key_exchange_group().map(|group| group.name().into()),
            signature_scheme: schemes[0],
            client_signature_scheme: schemes[1],
            protocol: common.alpn_protocol().unwrap_or_default().into(),
            is_resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            hello: hello.map(Box::new),
            peer_chain: common.peer_certificates().unwrap_or_default().into(),
            verdict: Default::default(),
        })
    }
}

/// The bytes that belong to the session.
struct Rest {
    out: Buffer,
    plain: Buffer,
    input: Buffer,
    is_closed: bool,
}

/// A handshake that is complete.
struct Done<C> {
    connection: C,
    secrets: [Option<Secret>; 2],
    /// Of the server's signature and of the client's.
    schemes: [Option<u16>; 2],
    rest: Rest,
}

fn session(
    (facts, extracted): (Facts, ExtractedSecrets),
    (reading, writing): (Option<Secret>, Option<Secret>),
    rest: Rest,
    tickets: Option<Box<dyn Tickets>>,
    record_bytes: usize,
) -> Result<Session, Error> {
    let missing = || Error::Tls(rustls::Error::General("a cipher suite without a record layer".into()));
    let suite = Suite::of(facts.0.cipher_suite).ok_or_else(missing)?;
    let direction = |caught: Option<Secret>, (sequence, keys): (u64, rustls::ConnectionTrafficSecrets)| {
        let secret = if suite.is_tls13() { caught } else { Secret::of_key(&keys) };
        secret.map(|secret| Direction::new(suite, secret, sequence)).ok_or_else(missing)
    };
    Ok(Session {
        reading: direction(reading, extracted.rx)?,
        writing: direction(writing, extracted.tx)?,
        out: rest.out,
        plain: rest.plain,
        input: rest.input,
        is_closed: rest.is_closed,
        info: Rc::new(facts.0),
        tickets,
        record_bytes,
    })
}

/// Our side of a handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    /// While it waits it is one of the connections that give way when the worker is short of places.
    Server,
}

/// Reads more of a handshake. Errors: the end of the peer's data, or too much of it.
async fn read(io: &Io, input: &mut Buffer, role: Role) -> Result<(), Error> {
    loop {
        match role {
            Role::Client => io.readable().await?,
            Role::Server if io.is_asked() => return Err(Error::GaveWay),
            Role::Server => io.waiting(Waiting::Head).await?,
        }
        if input.capacity() == 0 {
            *input = Buffer::take(FIRST_BYTES); // not before there is something
        }
        if input.space().is_empty() {
            input.compact();
        }
        if input.space().is_empty() {
            if input.data().len() >= INPUT_BYTES_MAX {
                return Err(Error::TooLarge);
            }
            input.grow((input.data().len() * 2).min(INPUT_BYTES_MAX));
        }
        match io.try_read(input.space()) {
            Ok(0) => return Err(Error::Closed),
            Ok(count) => {
                input.filled(count);
                return Ok(());
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => {} // the worker asked, or there was nothing after all
        }
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

/// A side of the unbuffered API.
trait Side: std::ops::DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data: 'static;
    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Data sent before the handshake was complete.
    fn early(state: ConnectionState<'_, '_, Self::Data>, plain: &mut Buffer) -> Result<bool, Error>;
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
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn early(_: ConnectionState<'_, '_, Self::Data>, _: &mut Buffer) -> Result<bool, Error> {
        Ok(false)
    }
}

/// What to do after a step.
enum Next {
    Step,
    /// The peer has to say more.
    Read,
    Complete,
}

async fn run<S: Side>(io: &Io, mut input: Buffer, mut connection: S, role: Role) -> Result<Done<S>, Error> {
    let (mut out, mut plain) = (Buffer::default(), Buffer::default());
    let mut is_closed = false;
    let mut secrets = [None, None];
    let mut schemes = [None; 2];
    // rustls gets one record at a time: those behind the handshake are left for `Tls`. They may contain a
    // KeyUpdate, after which the secrets that were caught would not be those in force.
    let mut shown = 0;
    SIGNED.set(None);
    loop {
        let UnbufferedStatus { discard, state } = connection.step(&mut input.data_mut()[..shown]);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut out, |space| data.encode(space))?;
                Next::Step
            }
            // It is sent before the next read: several messages leave at once.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Next::Step
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    plain.extend(record?.payload);
                }
                Next::Step
            }
            Ok(ConnectionState::BlockedHandshake) => Next::Read,
            Ok(ConnectionState::WriteTraffic(_)) => Next::Complete,
            Ok(ConnectionState::PeerClosed) => {
                is_closed = true;
                Next::Step
            }
            Ok(ConnectionState::Closed) => return Err(Error::Closed),
            Ok(other) => {
                if !S::early(other, &mut plain)? {
                    return Err(Error::Closed);
                }
                Next::Step
            }
            Err(error) => {
                // rustls may have found further messages in the input, so it stays. It must not look at the
                // input again once the alert has been encoded: a second fault would be a panic.
                input.consume(discard);
                shown = shown.saturating_sub(discard);
                while let Ok(ConnectionState::EncodeTlsData(mut record)) =
                    connection.step(&mut input.data_mut()[..shown]).state
                {
                    let start = out.data().len();
                    encode(&mut out, |space| record.encode(space))?;
                    if matches!(out.data().get(start), Some(&(ALERT | ENCRYPTED))) {
                        break;
                    }
                }
                let _ = io.try_write(out.data());
                return Err(error.into());
            }
        };
        input.consume(discard);
        shown = shown.saturating_sub(discard);
        // The callbacks of this step have filled them.
        SECRETS.with_borrow_mut(|caught| {
            for (kept, caught) in secrets.iter_mut().zip(caught) {
                *kept = caught.take().or(kept.take());
            }
        });
        schemes = [SIGNED.take().or(schemes[0]), taken_scheme().map(u16::from).or(schemes[1])];
        if plain.data().len() > EARLY_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        match next {
            Next::Step => {}
            Next::Complete if !connection.is_handshaking() => break,
            Next::Read | Next::Complete => {
                if let Some(end) = record_end(input.data(), shown) {
                    shown = end;
                    continue;
                }
                runtime::worked(STEP_COST).await;
                io.write_all(out.data()).await?;
                out = Buffer::default();
                if is_closed {
                    return Err(Error::Closed);
                }
                read(io, &mut input, role).await?;
            }
        }
    }
    let rest = Rest { out, plain, input, is_closed };
    Ok(Done { connection, secrets, schemes, rest })
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

#[cfg(test)]
mod tests;
