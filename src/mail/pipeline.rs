//! The course of a session, read top to bottom: the header of a proxy in front, TLS, the dialogue, the login.
//!
//! Touches: the client's connection. Everything before the relay is boxed and gone once bytes flow, so that an open session costs its
//! relay only; a client that says nothing costs no buffer. Behaviour: nginx.org, ngx_mail_core_module.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use crate::log;
use crate::mail::auth::{self, Guest};
use crate::mail::client_name;
use crate::mail::dialogue::smtp::BAD_PIPELINING;
use crate::mail::dialogue::{Dialogue, Here, Step};
use crate::mail::handshake;
use crate::mail::protocol::{Farewell, Protocol};
use crate::mail::relay::{self, Relaying};
use crate::mail::service::Service;
use crate::mail::session::{Plain, Session};
use crate::mail::upstream::{self, Failure, Upstream};
use crate::net::newcomer::Newcomer;
use crate::net::{Transport, drain, open, proxy_header, room};
use crate::proto::mail_auth::Decision;
use crate::proto::sasl::{Credentials, Method};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, Timer, Waiting, race, sleep, timeout};
use crate::script::Scope;
use crate::shm::counter::{Total, Word};
use crate::sys::{clock, random};

/// The buffer for a PROXY header: more than most have.
const HEADER_BYTES: usize = 512;

/// The shortest pause before the authentication server is asked again: a server that says WAIT and not how long would be asked as fast as
/// it answers.
const ASK_AGAIN_S: u64 = 1;

/// How often a client's last bytes are read, 16 KB at a time: as much as a socket usually holds.
const DISCARDED_PIECES_MAX: usize = 16;

/// Why the dialogue with a client ends without a login.
enum End {
    /// The connection is closed, and that is all.
    Silent,
    /// The client gets these last words.
    Farewell(Farewell),
    /// The same, in the server's own words.
    Said(Vec<u8>),
}

/// Runs a session to its end.
pub async fn serve(
    service: Service,
    mut transport: Transport,
    mut session: Box<Session>,
    mut open: open::Guard,
) {
    open.turn(Total::Writing);
    let end = match Box::pin(log_in(service, &mut session, &mut transport)).await {
        Ok((upstream, rest)) => {
            // A task of its own: what has led here takes no memory while bytes flow.
            runtime::spawn(relay::run(Relaying::begin(service, session, transport, upstream, rest, open)));
            return;
        }
        Err(end) => end,
    };
    let protocol = session.server.terms.protocol;
    let words = match end {
        End::Silent => return,
        End::Farewell(farewell) => {
            if session.status == 0 && farewell == Farewell::InternalError {
                session.status = 500;
            }
            protocol.farewell(farewell).as_bytes().to_vec()
        }
        End::Said(words) => words,
    };
    say(&mut session, &transport, &words).await;
    let _ = transport.shutdown();
    discard(&transport);
}

/// Reads what a client has sent: closing a socket with unread bytes resets the connection, which could destroy the last words on their
/// way. A client that goes on sending does not occupy the worker for longer.
fn discard(transport: &Transport) {
    let mut buffer = Buffer::take(16 * 1024);
    for _ in 0..DISCARDED_PIECES_MAX {
        if !matches!(transport.try_read(buffer.space()), Ok(1..)) || transport.is_gone() {
            return;
        }
    }
}

/// Sends words to the client; false: it does not take them within `timeout`, or the process must end.
async fn say(session: &mut Session, transport: &Transport, words: &[u8]) -> bool {
    let sending = timeout(session.server.confs.core.timeout_ms(), transport.write_all(words));
    match race(sending, drain::reached(drain::Mode::Now)).await {
        Either::First(Ok(Ok(()))) => {
            session.sent += words.len() as u64;
            true
        }
        Either::First(Err(_)) => {
            log::info!(session.logger(), &*session, "client timed out (110: Connection timed out)");
            false
        }
        Either::First(Ok(Err(_))) | Either::Second(()) => false,
    }
}

/// Logs a client in. Returns the connection to its server, and what the client has sent beyond the login.
async fn log_in(
    service: Service,
    session: &mut Session,
    transport: &mut Transport,
) -> Result<(Upstream, Buffer), End> {
    let address = &session.listen.address;
    match &session.peer {
        peer if peer.is_unix() => {
            log::info!(session.logger(), &Plain(session), "client unix: connected to {address}")
        }
        peer => log::info!(session.logger(), &Plain(session), "client {peer} connected to {address}"),
    }
    let mut input = Buffer::default();
    if session.listen.proxy_protocol {
        input = Box::pin(read_proxy_header(session, transport)).await?;
    }
    if session.listen.ssl {
        encrypt(service, session, transport, std::mem::take(&mut input)).await?;
    }
    let terms = &session.server.terms;
    let salt = if terms.needs_salt() { salt(&session.server.name) } else { Box::default() };
    let mut guest =
        Guest { dialogue: Dialogue::new(terms.protocol, salt), host: Box::default(), attempts: 0 };
    if terms.protocol == Protocol::Smtp {
        guest.host = Box::pin(client_name::find(service, session)).await;
        Box::pin(delay_greeting(session, transport, &mut input)).await?;
    }
    session.action = "sending client greeting line";
    log::debug!(session.logger(), &*session, "greeting a client of {}", terms.protocol.name());
    let greeting = guest.dialogue.greeting(terms);
    if !say(session, transport, &greeting).await {
        return Err(End::Silent);
    }
    converse(service, session, transport, guest, input).await
}

/// A challenge that nobody has had before.
fn salt(server_name: &str) -> Box<[u8]> {
    let (secs, _) = clock::wall();
    format!("<{}.{secs}@{server_name}>", random::number()).into_bytes().into()
}

async fn read_proxy_header(session: &mut Session, transport: &Transport) -> Result<Buffer, End> {
    let core = &session.server.confs.core;
    let action = "reading PROXY protocol";
    let (number, listener) = (session.number, &session.listen.address);
    let who = Newcomer { number, peer: &session.peer, listener, action };
    let read = proxy_header::read(transport, HEADER_BYTES, core.log(), &who);
    match timeout(room::shorten(core.timeout_ms()), read).await {
        Ok(Some((header, rest))) => {
            transport.unlist();
            let named =
                header.addresses.filter(|_| session.server.confs.realip.trusted.contains(session.peer.ip()));
            if let Some((client, _)) = named {
                session.peer = crate::sys::address::SockAddr::Inet(client);
            }
            session.proxy = Some(Box::new(header));
            Ok(rest)
        }
        Ok(None) => Err(End::Silent),
        Err(_) => {
            log::info!(core.log(), &who, "client timed out (110: Connection timed out)");
            Err(End::Silent)
        }
    }
}

async fn encrypt(
    service: Service,
    session: &mut Session,
    transport: &mut Transport,
    first: Buffer,
) -> Result<(), End> {
    let secured = Box::pin(handshake::secure(service, session, transport, first)).await;
    secured.map_err(|farewell| farewell.map_or(End::Silent, End::Farewell))
}

/// Waits before the greeting, and rejects a client that does not (`smtp_greeting_delay`).
async fn delay_greeting(session: &mut Session, transport: &Transport, input: &mut Buffer) -> Result<(), End> {
    let delay_ms = session.server.confs.smtp.greeting_delay_ms();
    if delay_ms == 0 {
        return Ok(());
    }
    session.action = "in delay pipelining state";
    if input.data().is_empty() {
        match race(timeout(delay_ms, transport.readable()), drain::reached(drain::Mode::Now)).await {
            Either::First(Err(_)) => return Ok(()),
            Either::Second(()) => return Err(End::Silent),
            Either::First(Ok(_)) => {}
        }
        if transport.is_gone() {
            return Err(End::Silent);
        }
    }
    log::info!(session.logger(), &*session, "client was rejected before greeting: it did not wait");
    Err(End::Said(BAD_PIPELINING.to_vec()))
}

/// Talks with a client until it has logged in.
async fn converse(
    service: Service,
    session: &mut Session,
    transport: &mut Transport,
    mut guest: Guest,
    mut input: Buffer,
) -> Result<(Upstream, Buffer), End> {
    let terms = &session.server.terms;
    let timeout_ms = session.server.confs.core.timeout_ms();
    let mut timer = Timer::new();
    timer.set(runtime::now_ms().saturating_add(timeout_ms));
    loop {
        session.action = "in auth state";
        let here = Here { terms, is_tls: session.tls.is_some() };
        let (used, step) = guest.dialogue.next(input.data(), here);
        input.consume(used);
        if let Some(note) = guest.dialogue.take_note() {
            log::info!(session.logger(), &*session, "{note}");
        }
        match step {
            Step::More => {
                let is_idle = input.data().is_empty() && !guest.dialogue.is_under_way();
                input = hear(session, transport, (&mut timer, is_idle), input).await?;
            }
            Step::Say(words) => {
                if !say(session, transport, &words).await {
                    return Err(End::Silent);
                }
            }
            Step::Close(words) => return Err(End::Said(words)),
            Step::StartTls(words) => {
                // RFC 3207 §4.2: nothing that has come in plain may be taken for something said under TLS.
                input = Buffer::default();
                if !say(session, transport, &words).await {
                    return Err(End::Silent);
                }
                session.starttls = true;
                encrypt(service, session, transport, Buffer::default()).await?;
                guest.dialogue.forget();
                // The handshake had a time of its own, as in nginx.
                timer.set(runtime::now_ms().saturating_add(timeout_ms));
            }
            Step::Login(credentials) => {
                let outcome = Box::pin(try_login(session, transport, &mut guest, *credentials)).await?;
                match outcome {
                    Outcome::In(upstream) => return Ok((upstream, input)),
                    Outcome::Again(words) => {
                        if !say(session, transport, &words).await {
                            return Err(End::Silent);
                        }
                        timer.set(runtime::now_ms().saturating_add(timeout_ms));
                    }
                }
            }
        }
    }
}

/// The outcome of an attempt to log in.
enum Outcome {
    In(Upstream),
    /// The client gets these words, and may try again.
    Again(Vec<u8>),
}

/// Asks whether a client may log in, and does it.
async fn try_login(
    session: &mut Session,
    transport: &Transport,
    guest: &mut Guest,
    mut credentials: Credentials,
) -> Result<Outcome, End> {
    session.login = credentials.login.as_slice().into();
    guest.attempts += 1;
    let internal = |session: &mut Session| {
        session.status = 502;
        Err(End::Farewell(Farewell::InternalError))
    };
    let pass = loop {
        let Some(answer) = auth::ask(session, guest, &credentials).await else { return internal(session) };
        match answer.decision {
            Decision::Pass(pass) => break pass,
            Decision::Wait => {
                pause(answer.wait_s.max(ASK_AGAIN_S)).await?;
                if transport.is_gone() {
                    return Err(End::Silent);
                }
            }
            Decision::Refuse { text, code } => {
                let shown = log::Text(&text);
                log::info!(session.logger(), &*session, "client login failed: \"{shown}\"");
                session.status = 403;
                session.add(Word::LOGINS_FAILED);
                let words = guest.dialogue.refusal(&text, code.as_deref());
                if answer.wait_s == 0 {
                    return Err(End::Said(words));
                }
                pause(answer.wait_s).await?;
                return Ok(Outcome::Again(words));
            }
        }
    };
    if matches!(credentials.method, Method::Apop | Method::CramMd5) {
        // A digest is no password: the server's must come from the authentication server.
        credentials.password = None;
    }
    if let Some(login) = pass.login {
        session.login = login.clone();
        credentials.login = login.into();
    }
    credentials.password = pass.password.or(credentials.password);
    match upstream::connect(session, guest, &credentials, pass.server).await {
        Ok(upstream) => Ok(Outcome::In(upstream)),
        Err(Failure::Internal) => internal(session),
        Err(Failure::Said(words)) => {
            session.status = 502;
            Err(End::Said(words))
        }
    }
}

async fn pause(seconds: u64) -> Result<(), End> {
    match race(sleep(seconds.saturating_mul(1000)), drain::reached(drain::Mode::Now)).await {
        Either::First(()) => Ok(()),
        Either::Second(()) => Err(End::Farewell(Farewell::Leaving)),
    }
}

/// The act of a client that is waited for.
enum Event {
    Heard(io::Result<()>),
    TimedOut,
    /// The process leaves.
    Leaves,
}

/// Waits for more bytes, and adds them to those that are there. A client that is idle is told when the process is to stop; one that is
/// about to log in has until the process must end.
async fn hear(
    session: &mut Session,
    transport: &Transport,
    (timer, is_idle): (&mut Timer, bool),
    input: Buffer,
) -> Result<Buffer, End> {
    let leaves_at = if is_idle { drain::Mode::Close } else { drain::Mode::Now };
    let max = session.server.terms.command_bytes_max;
    let mut input = if input.data().is_empty() { Buffer::default() } else { input.slim() };
    loop {
        let event = poll_fn(|cx| {
            if drain::mode() >= leaves_at {
                return Poll::Ready(Event::Leaves);
            }
            // First: there are always more bytes of a client that sends faster than it is answered.
            if timer.poll_expired(cx).is_ready() {
                return Poll::Ready(Event::TimedOut);
            }
            transport.poll_waiting(Waiting::Head, cx).map(Event::Heard)
        });
        match event.await {
            Event::Leaves => return Err(End::Farewell(Farewell::Leaving)),
            Event::TimedOut => {
                log::info!(session.logger(), &*session, "client timed out (110: Connection timed out)");
                return Err(End::Silent);
            }
            Event::Heard(Err(_)) => return Err(End::Silent),
            Event::Heard(Ok(())) => {}
        }
        let held = input.data().len();
        input.compact();
        input.grow(max);
        let room = max.saturating_sub(held).min(input.space().len());
        match transport.try_read(&mut input.space()[..room]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if transport.is_asked() {
                    return Err(End::Farewell(Farewell::Crowded));
                }
                input = if held == 0 { Buffer::default() } else { input.slim() };
            }
            Ok(0) | Err(_) => return Err(End::Silent),
            Ok(count) => {
                transport.unlist();
                input.filled(count);
                session.received += count as u64;
                return Ok(input);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::transport::script::play;

    #[test]
    fn a_client_that_goes_on_sending_is_not_read_for_ever() {
        let (transport, script) = play();
        for _ in 0..1000 {
            script.sends(&[b'x'; 16 * 1024]);
        }
        discard(&transport);
        assert!(matches!(transport.try_read(&mut [0; 1]), Ok(1)), "the rest is still there");
        let (transport, script) = play();
        script.sends(b"QUIT\r\n").sends(b"NOOP\r\n");
        discard(&transport);
        assert!(transport.try_read(&mut [0; 1]).is_err(), "everything was read");
    }
}
