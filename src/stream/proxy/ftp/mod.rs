//! A session of FTP: a dialogue of lines with the client and with its server, and a relay of bytes for each transfer.
//!
//! ```text
//! greeting → command → reply … → QUIT or an end of either side
//!            command of a transfer: both data connections → command → 1yz → bytes (relayed) → 2yz when all have come
//! ```
//! Commands are taken one at a time, so pipelined ones are answered in order; ABOR, STAT and QUIT are taken during a transfer, too. Both
//! kinds of data connections end here: whatever a client agrees on with us, we agree on PASV or EPSV with its server, and connect to the
//! server's own address (RFC 2577). A session stays in the worker that began it. Touches: all four sockets.
//! Truth: RFC 959, RFC 2228, RFC 2389, RFC 2428, RFC 4217.

mod control;
mod data;
mod dialogue;
mod transfer;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::log;
use crate::net::Transport;
use crate::net::clients::Protocol;
use crate::net::open::{Guard, Place};
use crate::net::tls::client::Terms;
use crate::proto::ftp::reply::Part;
use crate::runtime;
use crate::script::Scope;
use crate::stream::modules::ftp::{Conf, Facts};
use crate::stream::pipeline::{self, Plain};
use crate::stream::proxy::{Course, Upstream, must_drop};
use crate::stream::session::Session;
use control::{Broken, Channel, Control, Event, Holds, Side, Takes, Unsaid};
use data::Agreed;

/// The end of a session.
struct End {
    status: u16,
    /// The last words to the client.
    words: &'static str,
}

impl End {
    const fn silent() -> Self {
        Self { status: 200, words: "" }
    }

    const fn said(status: u16, words: &'static str) -> Self {
        Self { status, words }
    }
}

type Outcome<T> = Result<T, End>;

const LEAVING: &str = "421 The service is shutting down, closing control connection.\r\n";
const IDLE: &str = "421 Timeout, closing control connection.\r\n";
const LOST: &str = "421 The server is not available, closing control connection.\r\n";
const LONG: &str = "500 Line too long, closing control connection.\r\n";

/// The longest that the last words may take.
const FAREWELL_MS: u64 = 5000;

/// A reply as it came from the server.
struct Reply {
    code: u16,
    /// The lines of one that was withheld, as far as they matter.
    text: Vec<u8>,
}

/// The way of a reply to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As it is.
    Through,
    /// With what we add and take away.
    Features,
    /// Not at all.
    Withheld,
}

/// A session in progress.
struct Gateway {
    session: Box<Session>,
    control: Control,
    conf: &'static Conf,
    /// The client's address, and the one that it has connected to.
    client: Option<SocketAddr>,
    own: Option<SocketAddr>,
    /// The terms of TLS with the server; `None`: its connections are plain.
    terms: Option<Arc<Terms>>,
    place: Place,
    course: Option<Course>,
    by_connect: bool,
    agreed: Option<Agreed>,
    /// EPSV ALL was said.
    only_epsv: bool,
    /// PBSZ was said.
    has_pbsz: bool,
    /// The client's data connections are encrypted (PROT P).
    is_private: bool,
    /// The server has agreed to encrypt its data connections.
    is_server_private: bool,
    /// An ABOR may still be answered.
    has_aborted: bool,
    open: Guard,
}

/// Relays FTP until the session is over.
pub async fn run(
    mut session: Box<Session>,
    client: Transport,
    upstream: Upstream,
    terms: Option<Arc<Terms>>,
    open: Guard,
) {
    let conf: &'static Conf = &session.server.confs.ftp;
    let idle_ms = session.server.confs.proxy.timeout_ms();
    open.client().speaks(Protocol::Ftp);
    session.states.ftp = Some(Box::<Facts>::default());
    let Upstream { transport, place, course, by_connect } = upstream;
    let ahead = std::mem::take(&mut session.preread);
    let own = data::inet(client.local_addr());
    let peer = data::inet(Some(session.peer.clone()));
    let channels = (Channel::new(client, ahead), Channel::new(transport, Default::default()));
    let mut gateway = Box::new(Gateway {
        session,
        control: Control::new(channels.0, channels.1, idle_ms, conf.line_bytes_max()),
        conf,
        client: peer,
        own,
        terms,
        place,
        course,
        by_connect,
        agreed: None,
        only_epsv: false,
        has_pbsz: false,
        is_private: false,
        is_server_private: false,
        has_aborted: false,
        open,
    });
    let end = match Box::pin(gateway.converse()).await {
        Ok(()) => End::silent(),
        Err(end) => end,
    };
    gateway.end(end).await;
}

impl Gateway {
    /// Talks until one side has had enough.
    async fn converse(&mut self) -> Outcome<()> {
        self.greet().await?;
        loop {
            match self.event(Takes::All).await? {
                Event::Command => {
                    let line = self.control.client.take();
                    Box::pin(self.command(&line)).await?;
                }
                // Nobody has asked: 421, before the server goes.
                _ => {
                    self.reply(Way::Through).await?;
                }
            }
        }
    }

    /// Passes the server's greeting on.
    async fn greet(&mut self) -> Outcome<()> {
        self.event(Takes::None).await?;
        let attempt = self.session.upstream.last();
        let head_us = runtime::now_us().saturating_sub(attempt.started_us);
        attempt.header_us = head_us.into();
        if let Some(course) = self.course.as_mut().filter(|_| !self.by_connect).and_then(Course::timed) {
            course.note_head(head_us, runtime::now_ms());
        }
        loop {
            if self.reply(Way::Through).await?.code >= 200 {
                return Ok(());
            }
        }
    }

    /// Waits for a line: the next of the server, or of the client. Errors: the session is over.
    async fn event(&mut self, takes: Takes) -> Outcome<Event> {
        let event = poll_fn(|cx| self.control.poll_event(takes, Holds::Nothing, true, cx)).await;
        self.check(event)
    }

    /// Lets lines pass; anything else ends the session.
    fn check(&self, event: Event) -> Outcome<Event> {
        let (session, log) = (&*self.session, self.session.logger());
        if must_drop(session, || self.course.as_ref().is_none_or(Course::has_lost_peer)) {
            return Err(End::said(200, LOST));
        }
        Err(match event {
            Event::Command | Event::Reply => return Ok(event),
            Event::Leaves => End::said(200, LEAVING),
            Event::TimedOut => {
                log::info!(log, session, "connection timed out (110: Connection timed out)");
                End::said(200, IDLE)
            }
            Event::Broken(Side::Client, Broken::TooLong) => {
                log::info!(log, session, "client sent a too long command: \"ftp_line_size\" limits it");
                End::said(400, LONG)
            }
            Event::Broken(Side::Server, Broken::TooLong) => {
                log::error!(log, session, "upstream sent a too long line: raise \"ftp_line_size\"");
                End::said(502, LOST)
            }
            Event::Broken(side, Broken::Io(error)) => {
                log::info!(log, session, "the connection broke off {}", log::Cause(&error));
                if side == Side::Client { End::silent() } else { End::said(200, LOST) }
            }
            Event::Broken(Side::Client, Broken::Ended) => End::silent(),
            Event::Broken(Side::Server, Broken::Ended) => End::said(200, ""),
        })
    }

    /// Takes the server's next reply, up to its last line. Preliminary ones are replies of their own.
    async fn reply(&mut self, way: Way) -> Outcome<Reply> {
        let mut text = Vec::new();
        loop {
            self.event(Takes::None).await?;
            let (line, part) = self.take_line()?;
            match way {
                Way::Features => self.feature(&line, part, &mut text),
                Way::Through => put(&line, &mut text),
                Way::Withheld if text.len() < FLUSHED_BYTES => put(&line, &mut text),
                Way::Withheld => {}
            }
            if way != Way::Withheld && (part.is_last || text.len() >= FLUSHED_BYTES) {
                self.say(&text).await?;
                text.clear();
            }
            if part.is_last {
                return Ok(Reply { code: part.code, text });
            }
        }
    }

    /// Takes the server's line that has come. Errors: it is none of FTP.
    fn take_line(&mut self) -> Outcome<(Vec<u8>, Part)> {
        let line = self.control.server.take();
        match self.control.replies.take(&line) {
            Ok(part) => Ok((line, part)),
            Err(_) => {
                let shown = log::Text(&line);
                log::error!(
                    self.session.logger(),
                    &*self.session,
                    "upstream sent an invalid reply: \"{shown}\""
                );
                Err(End::said(502, LOST))
            }
        }
    }

    /// Sends words to the client.
    async fn say(&mut self, words: &[u8]) -> Outcome<()> {
        let said = self.control.client.say(words, self.control.idle_ms).await;
        said.map_err(|why| self.unsaid(why, Side::Client))
    }

    /// Sends a command to the server.
    async fn send(&mut self, parts: &[&[u8]]) -> Outcome<()> {
        let mut line = parts.concat();
        line.extend_from_slice(b"\r\n");
        let said = self.control.server.say(&line, self.control.idle_ms).await;
        said.map_err(|why| self.unsaid(why, Side::Server))
    }

    fn unsaid(&self, why: Unsaid, side: Side) -> End {
        match why {
            Unsaid::Leaves => End::said(200, LEAVING),
            Unsaid::TimedOut => {
                let (log, session) = (self.session.logger(), &*self.session);
                log::info!(log, session, "connection timed out (110: Connection timed out)");
                End::silent()
            }
            Unsaid::Gone if side == Side::Client => End::silent(),
            Unsaid::Gone => End::said(200, LOST),
        }
    }

    /// Sends a command on, and its reply back.
    async fn pass(&mut self, text: &[u8]) -> Outcome<u16> {
        self.send(&[text]).await?;
        self.finish(Way::Through).await
    }

    /// Passes replies on up to the final one.
    async fn finish(&mut self, way: Way) -> Outcome<u16> {
        loop {
            let reply = self.reply(way).await?;
            if reply.code >= 200 {
                return Ok(reply.code);
            }
        }
    }

    /// Says the last words, logs, and closes both connections.
    async fn end(self: Box<Self>, end: End) {
        let Self { mut session, mut control, place, mut course, by_connect, open, agreed, .. } = *self;
        drop(agreed);
        if !end.words.is_empty() {
            // Not through `say`, which gives up at once when the worker must end.
            let words = end.words.as_bytes();
            let sent = runtime::timeout(FAREWELL_MS, control.client.transport.write_all(words)).await;
            if matches!(sent, Ok(Ok(()))) {
                control.client.sent += words.len() as u64;
            }
        }
        session.received += control.client.received;
        session.sent += control.client.sent;
        session.status = end.status;
        let attempt = session.upstream.last();
        attempt.sent += control.server.sent;
        attempt.received += control.server.received;
        attempt.length += control.server.received;
        if let Some(course) = &mut course {
            course.note_end(&mut session, by_connect);
        }
        session.upstream.end();
        let (from, to) = session.upstream.attempts().last().map_or((0, 0), |last| (last.received, last.sent));
        let (received, sent) = (session.received, session.sent);
        log::info!(
            session.logger(),
            &Plain(&session),
            "FTP session ended, bytes from/to client:{received}/{sent}, bytes from/to upstream:{from}/{to}"
        );
        drop((place, course));
        // Before the connections are closed: a client that sees the end finds the session in the log.
        let _ = control.client.transport.shutdown();
        pipeline::end(session);
        control.client.discard_unread();
        drop((control, open));
    }
}

/// Replies are passed on in pieces of this size at the least, if they are as long.
const FLUSHED_BYTES: usize = 4096;

fn put(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}
