//! Handshakes: a plain socket in, a session out.
//!
//! rustls decides, these functions move its bytes. The ClientHello is read first (`proto/client_hello.rs`), so
//! that the caller chooses the server's settings by it. What arrives behind the handshake is given on with
//! the session. A handshake has no timeout of its own: the caller bounds it.
//!
//! Touches: the connection's socket. Truth: RFC 8446 §2 and §6.

mod course;
mod early;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use course::{Course, Side, Stop};
pub use early::Unfinished;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, ExtractedSecrets, HandshakeKind, KeyLog, ServerConfig};

use crate::net::tls::record::{Direction, PLAIN_BYTES_MAX, Secret, Suite};
use crate::net::tls::stream::{Session, Tickets};
use crate::net::tls::{Info, is_tls13};
use crate::proto::client_hello::{self, ClientHello};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Io, Waiting};

/// First buffer of a handshake: a ClientHello with a post-quantum key share fits.
const FIRST_BYTES: usize = 4096;
/// The most bytes of a handshake that wait to be understood: one message of 64 KiB, the longest that rustls
/// takes, in records.
const INPUT_BYTES_MAX: usize = 80 * 1024;
/// About what a step with a signature or a key exchange costs, in microseconds of the task's budget.
const STEP_COST: u32 = 200;
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
    static SIGNED: Cell<Option<u16>> = const { Cell::new(None) };
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

/// Takes the scheme that the server has signed with since the last call.
pub fn take_signature() -> Option<u16> {
    SIGNED.take()
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
    let course = run(io, input, connection, Role::Server).await?;
    let info = info(&course, Some(hello));
    let session = if course.is_complete() {
        complete(course, Ends::Client, info, record_bytes)?.0
    } else {
        early::session(course, info, record_bytes)?
    };
    Ok(Accepted::Session(Box::new(session), chosen))
}

/// Makes the client's side of a handshake; `protocols` are offered by ALPN, unless there are none.
pub async fn connect(
    io: &Io,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    protocols: Vec<Vec<u8>>,
) -> Result<Box<Session>, Error> {
    let connection = UnbufferedClientConnection::new_with_alpn(config, name, protocols)?;
    let course = run(io, Buffer::default(), connection, Role::Client).await?;
    let info = info(&course, None);
    let (mut session, kernel) = complete(course, Ends::Server, info, PLAIN_BYTES_MAX)?;
    session.tickets = Some(Box::new(Kernel { connection: kernel, left: TICKETS_MAX }));
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

/// What rustls knows.
fn info<S: Side>(course: &Course<S>, hello: Option<ClientHello>) -> Info {
    let common: &CommonState = &course.connection;
    let schemes = if hello.is_some() { course.schemes } else { [None; 2] };
    Info {
        is_tls13: is_tls13(common.protocol_version()),
        cipher_suite: common.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
        group: common.negotiated_key_exchange_group().map(|group| group.name().into()),
        signature_scheme: schemes[0],
        client_signature_scheme: schemes[1],
        protocol: common.alpn_protocol().unwrap_or_default().into(),
        is_resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        is_early: Cell::new(!course.is_complete()),
        hello: hello.map(Box::new),
        peer_chain: common.peer_certificates().unwrap_or_default().into(),
        verdict: Default::default(),
    }
}

/// The end that sends to us.
enum Ends {
    Client,
    Server,
}

/// The session of a handshake that is complete, and what is left of rustls' state.
fn complete<S: Side>(
    course: Course<S>,
    peer: Ends,
    info: Info,
    record_bytes: usize,
) -> Result<(Session, KernelConnection<S::Data>), Error> {
    let Course { connection, input, out, plain, is_closed, secrets: [client, server], .. } = course;
    let (extracted, kernel) = connection.into_kernel()?;
    let secrets = match peer {
        Ends::Client => (client, server),
        Ends::Server => (server, client),
    };
    let (reading, writing) = directions(info.cipher_suite, extracted, secrets)?;
    let (info, tickets, unfinished) = (Rc::new(info), None, None);
    let session =
        Session { reading, writing, out, plain, input, is_closed, info, tickets, unfinished, record_bytes };
    Ok((session, kernel))
}

/// The keys of both directions, the peer's first.
fn directions(
    number: u16,
    extracted: ExtractedSecrets,
    (reading, writing): (Option<Secret>, Option<Secret>),
) -> Result<(Direction, Direction), Error> {
    let suite = suite_of(number)?;
    let direction = |caught: Option<Secret>, (sequence, keys): (u64, rustls::ConnectionTrafficSecrets)| {
        let secret = if suite.is_tls13() { caught } else { Secret::of_key(&keys) };
        secret.map(|secret| Direction::new(suite, secret, sequence)).ok_or_else(without_layer)
    };
    Ok((direction(reading, extracted.rx)?, direction(writing, extracted.tx)?))
}

fn suite_of(number: u16) -> Result<&'static Suite, Error> {
    Suite::of(number).ok_or_else(without_layer)
}

fn without_layer() -> Error {
    Error::Tls(rustls::Error::General("a cipher suite without a record layer".into()))
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
        make_room(input)?;
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

/// Makes room for more of a handshake. Errors: there is too much of it.
fn make_room(input: &mut Buffer) -> Result<(), Error> {
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
    Ok(())
}

/// Goes on until the handshake is complete, or a client's early data can be answered.
async fn run<S: Side>(io: &Io, input: Buffer, connection: S, role: Role) -> Result<Course<S>, Error> {
    let mut course = Course::new(connection, input);
    loop {
        match course.advance() {
            Ok(Stop::Complete) => return Ok(course),
            Ok(Stop::Blocked) if course.may_answer() => {
                // The client goes on at once, whatever its request waits for.
                if let Ok(count) = io.try_write(course.out.data()) {
                    course.out.consume(count);
                }
                return Ok(course);
            }
            Ok(Stop::Blocked) => {
                runtime::worked(STEP_COST).await;
                io.write_all(course.out.data()).await?;
                course.out = Buffer::default();
                if course.is_closed {
                    return Err(Error::Closed);
                }
                read(io, &mut course.input, role).await?;
            }
            Err(error) => {
                let _ = io.try_write(course.out.data());
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
