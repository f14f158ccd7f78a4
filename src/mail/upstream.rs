//! The connection to a client's server, and the login there.
//!
//! Touches: that connection. Bounded: a reply has at most `proxy_buffer` bytes, and all of it takes at most `timeout`.
//! Behaviour: nginx.org, ngx_mail_proxy_module.

use std::future::poll_fn;
use std::net::SocketAddr;

use crate::log;
use crate::mail::auth::Guest;
use crate::mail::dialogue::Dialogue;
use crate::mail::login::{Facts, Login, Step, Unsendable};
use crate::mail::modules::proxy::ProxyHeader;
use crate::mail::session::Session;
use crate::net::open::Place;
use crate::net::{Address, Transport, connect};
use crate::proto::proxy_protocol::Header;
use crate::proto::sasl::Credentials;
use crate::runtime::buffer::Buffer;
use crate::runtime::timeout;
use crate::script::Scope;
use crate::shared::connection::client_address;

/// A connection on which a client is logged in.
#[derive(Debug)]
pub struct Upstream {
    pub transport: Transport,
    pub place: Place,
    /// The server's words that the client has to hear.
    pub welcome: Vec<u8>,
}

/// Why a client is not logged in; the log says more.
#[derive(Debug)]
pub enum Failure {
    /// The client gets to know nothing.
    Internal,
    /// The client gets the server's reply (`proxy_pass_error_message`).
    Said(Vec<u8>),
}

/// Connects to a client's server, and logs the client in.
pub async fn connect(
    session: &mut Session,
    guest: &Guest,
    credentials: &Credentials,
    server: SocketAddr,
) -> Result<Upstream, Failure> {
    session.upstream = Some(server.to_string().into());
    session.action = "connecting to upstream";
    let login = login(session, guest, credentials)?;
    let limit_ms = session.server.confs.core.timeout_ms();
    match timeout(limit_ms, open(session, server, login)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            log::error!(session.logger(), &*session, "upstream timed out (110: Connection timed out)");
            Err(Failure::Internal)
        }
    }
}

/// The words for the server.
fn login(session: &Session, guest: &Guest, credentials: &Credentials) -> Result<Login, Failure> {
    let conf = &session.server.confs.proxy;
    let is_needed = !matches!(guest.dialogue, Dialogue::Smtp(_));
    if is_needed && credentials.password.is_none() {
        let name = session.server.confs.auth_http.server().map_or("", |server| &server.name);
        log::error!(session.logger(), session, "auth http server {name} did not send password");
        return Err(Failure::Internal);
    }
    let mut address = Vec::new();
    client_address(&session.peer, &mut address);
    let address = String::from_utf8_lossy(&address);
    let login = match &guest.dialogue {
        Dialogue::Imap(dialogue) => Ok(Login::imap(credentials, dialogue.tag())),
        Dialogue::Pop3(_) => Login::pop3(credentials),
        Dialogue::Smtp(dialogue) => {
            let is_open = credentials.method == crate::proto::sasl::Method::None;
            if conf.logs_in_smtp() && !is_open && credentials.password.is_none() {
                log::error!(session.logger(), session, "no password available");
                return Err(Failure::Internal);
            }
            let facts = Facts {
                server_name: &session.server.name,
                said: &dialogue.said,
                xclient: conf.sends_xclient().then_some((&*address, &*guest.host)),
                authenticates: conf.logs_in_smtp(),
            };
            Login::smtp(credentials, &facts)
        }
    };
    login.map_err(|Unsendable| {
        log::error!(
            session.logger(),
            session,
            "the name or password of the client cannot be sent: it is more than a line"
        );
        Failure::Internal
    })
}

async fn open(session: &mut Session, server: SocketAddr, login: Login) -> Result<Upstream, Failure> {
    let limit_ms = session.server.confs.core.timeout_ms();
    let opened = connect::open(&Address::Inet(server), &connect::Options::default(), limit_ms).await;
    let (transport, place) = opened.map_err(|refusal| {
        log::error!(session.logger(), &*session, "{refusal}");
        Failure::Internal
    })?;
    if let Some(header) = proxy_header(session) {
        session.action = "sending PROXY protocol header to upstream";
        send(session, &transport, &header).await?;
    }
    let welcome = converse(session, &transport, login).await?;
    Ok(Upstream { transport, place, welcome })
}

/// The header that names the client to the server; `None`: it gets none.
fn proxy_header(session: &Session) -> Option<Vec<u8>> {
    let addresses = session.peer.inet().copied().zip(session.local.inet().copied());
    let header = Header { addresses, tlvs: Box::default() };
    let mut out = Vec::new();
    match session.server.confs.proxy.header() {
        ProxyHeader::Off => return None,
        ProxyHeader::On => header.write_line(&mut out),
        ProxyHeader::V2 => header.write(&mut out),
    }
    Some(out)
}

async fn send(session: &Session, transport: &Transport, bytes: &[u8]) -> Result<(), Failure> {
    transport.write_all(bytes).await.map_err(|error| {
        log::error!(session.logger(), session, "send() failed {}", log::Cause(&error));
        Failure::Internal
    })
}

/// Logs the client in; returns what it has to hear of the server.
async fn converse(
    session: &mut Session,
    transport: &Transport,
    mut login: Login,
) -> Result<Vec<u8>, Failure> {
    let max = session.server.confs.proxy.buffer_bytes();
    let mut buffer = Buffer::default();
    loop {
        session.action = "reading response from upstream";
        match login.next(buffer.data(), max) {
            Step::More => {
                buffer.grow(max);
                let room = max.saturating_sub(buffer.data().len());
                let read = poll_fn(|cx| {
                    let space = buffer.space();
                    let room = room.min(space.len());
                    transport.poll_read(cx, &mut space[..room])
                });
                match read.await {
                    Ok(0) => {
                        log::error!(session.logger(), &*session, "upstream closed connection");
                        return Err(Failure::Internal);
                    }
                    Ok(count) => buffer.filled(count),
                    Err(error) => {
                        log::error!(session.logger(), &*session, "recv() failed {}", log::Cause(&error));
                        return Err(Failure::Internal);
                    }
                }
            }
            Step::Send { used, bytes, action } => {
                buffer.consume(used);
                buffer.compact();
                session.action = action;
                send(session, transport, &bytes.0).await?;
            }
            Step::Done { used, mut welcome } => {
                welcome.extend_from_slice(&buffer.data()[used..]);
                return Ok(welcome);
            }
            Step::Refused(length) => return Err(refused(session, &buffer.data()[..length])),
            Step::TooLong => {
                log::error!(
                    session.logger(),
                    &*session,
                    "upstream sent too long response line: raise \"proxy_buffer\""
                );
                return Err(Failure::Internal);
            }
        }
    }
}

fn refused(session: &Session, reply: &[u8]) -> Failure {
    let text = log::Text(reply.trim_ascii_end());
    if session.server.confs.proxy.passes_error_message() {
        log::info!(session.logger(), session, "upstream sent invalid response: \"{text}\"");
        return Failure::Said(reply.to_vec());
    }
    log::error!(session.logger(), session, "upstream sent invalid response: \"{text}\"");
    Failure::Internal
}
