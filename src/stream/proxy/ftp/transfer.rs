//! A transfer: both data connections, then the command, then the bytes and the server's replies.
//!
//! The command goes to the server only when both connections are open, so that a failure leaves nothing there, such as an empty file. A
//! reply of success waits until all bytes have come, and becomes a 426 if they have not.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use smallvec::SmallVec;

use super::control::{Event, Holds, Side, Takes};
use super::data::{self, Agreed, Flow, Pair};
use super::dialogue::NO_DATA;
use super::{Gateway, Outcome, Way, put};
use crate::log;
use crate::net::address::Address;
use crate::net::connect;
use crate::proto::ftp::command::{self, Line};
use crate::proto::ftp::reply::Part;
use crate::proto::ftp::{Direction, Verb};
use crate::runtime::Either;
use crate::script::Scope;

const ABORTED: &[u8] = b"426 Data connection closed, transfer aborted.\r\n";

/// The most commands that a client may send during a transfer before the first of them is answered.
const PENDING_MAX: usize = 8;

/// The end of the wait for both connections.
enum Opened {
    Pair(Box<Pair>),
    Failed,
    /// The client does not want it any more; QUIT, if it wants nothing.
    Aborted {
        quits: bool,
    },
}

/// A transfer whose command the server has got.
struct Course {
    direction: Direction,
    /// Both connections before the server has said that it begins.
    pair: Option<Pair>,
    flow: Option<Flow>,
    /// All bytes have come, once it is known.
    is_complete: bool,
    /// The server's last word about the transfer has come.
    is_answered: bool,
    /// The commands that are not answered yet.
    pending: SmallVec<[Verb; 4]>,
    /// The reply that is coming is replaced.
    replaces: bool,
}

impl Course {
    /// The index of the command that a final reply answers; `None`: the transfer's own. Before that is answered, only status and
    /// complaints about a command itself, which a transfer that has begun does not get, belong to another.
    fn owner(&self, code: u16) -> Option<usize> {
        let stat = || self.pending.iter().position(|verb| *verb == Verb::Stat);
        match code {
            211..=213 if stat().is_some() => stat(),
            500..=504 if self.flow.is_some() && !self.pending.is_empty() => Some(0),
            _ if self.is_answered && !self.pending.is_empty() => Some(0),
            _ => None,
        }
    }

    /// True if everything is over but the answer to an ABOR.
    fn awaits_abort_only(&self) -> bool {
        let is_over = self.is_answered && self.flow.is_none() && !self.pending.is_empty();
        is_over && self.pending.iter().all(|verb| *verb == Verb::Abor)
    }
}

impl Gateway {
    /// Carries out a command that moves data.
    pub(super) async fn transfer(
        &mut self,
        line: &Line<'_>,
        direction: Direction,
        agreed: Agreed,
    ) -> Outcome<()> {
        let pair = match self.open_both(agreed).await? {
            Opened::Pair(pair) => *pair,
            Opened::Failed => return self.say(NO_DATA).await,
            Opened::Aborted { quits } => {
                self.say(ABORTED).await?;
                return match quits {
                    true => Box::pin(self.command(b"QUIT")).await,
                    false => self.say(b"226 Abort successful.\r\n").await,
                };
            }
        };
        self.send(&[line.text]).await?;
        let mut course = Course {
            direction,
            pair: Some(pair),
            flow: None,
            is_complete: true,
            is_answered: false,
            pending: SmallVec::new(),
            replaces: false,
        };
        while !course.is_answered || course.flow.is_some() || !course.pending.is_empty() {
            self.step(&mut course).await?;
            if course.awaits_abort_only() && self.control.client.line().is_some() {
                // A server that has ended its transfer need not answer an ABOR on its own: the client goes on.
                self.has_aborted = true;
                break;
            }
        }
        Ok(())
    }

    /// Opens both connections, while the client may change its mind.
    async fn open_both(&mut self, agreed: Agreed) -> Outcome<Opened> {
        let limit_ms = self.conf.data_timeout_ms();
        let Some(own) = self.own else { return Ok(Opened::Failed) };
        // From the address of the control connection: servers compare.
        let bind = data::inet(self.control.server.transport.local_addr());
        let bind = bind.map(|local| Address::Inet(SocketAddr::new(local.ip(), 0)));
        let set = self.session.server.confs.proxy.connect_options(&mut self.session);
        let options = connect::Options { bind, ..set };
        let Self { session, control, .. } = &mut *self;
        let mut opening = Box::pin(data::open(session, agreed, own, &options, limit_ms));
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                    return Poll::Ready(Either::First(opened));
                }
                control.poll_event(Takes::Urgent, Holds::Nothing, false, cx).map(Either::Second)
            });
            let event = match event.await {
                Either::First(Some(pair)) => return Ok(Opened::Pair(Box::new(pair))),
                Either::First(None) => return Ok(Opened::Failed),
                Either::Second(event) => event,
            };
            if !matches!(event, Event::Command) {
                drop(opening);
                self.check(event)?;
                // The server has said something on its own: that it leaves.
                self.reply(Way::Through).await?;
                return Ok(Opened::Failed);
            }
            let line = control.client.take();
            match command::parse(&line).map(|line| line.verb) {
                Some(Verb::Abor) => return Ok(Opened::Aborted { quits: false }),
                Some(Verb::Quit) => return Ok(Opened::Aborted { quits: true }),
                _ => {
                    let said =
                        control.client.say(b"211 Waiting for the data connection.\r\n", control.idle_ms);
                    if let Err(why) = said.await {
                        drop(opening);
                        return Err(self.unsaid(why, Side::Client));
                    }
                }
            }
        }
    }

    /// Waits for the next event of a transfer, and carries it out.
    async fn step(&mut self, course: &mut Course) -> Outcome<()> {
        let only_abort = course.awaits_abort_only();
        let (session, control, flow) = (&self.session, &mut self.control, &mut course.flow);
        let but_status = course.pending.contains(&Verb::Stat);
        let holds = if flow.is_some() { Holds::Success { but_status } } else { Holds::Nothing };
        let takes = match course.pending.len() {
            _ if only_abort => Takes::All,
            ..PENDING_MAX => Takes::Urgent,
            _ => Takes::None,
        };
        let event = poll_fn(|cx| {
            let is_timed = flow.is_none();
            if let Some(flow) = flow.as_mut()
                && let Poll::Ready(is_complete) = flow.poll(session, cx)
            {
                return Poll::Ready(Either::First(is_complete));
            }
            control.poll_event(takes, holds, is_timed, cx).map(Either::Second)
        });
        match event.await {
            Either::First(is_complete) => {
                self.end_flow(course, is_complete);
                Ok(())
            }
            Either::Second(event) => match self.check(event)? {
                Event::Command if only_abort => Ok(()),
                Event::Command => {
                    let line = self.control.client.take();
                    self.urgent(course, &line).await
                }
                _ => self.hear(course).await,
            },
        }
    }

    /// Sends an urgent command on.
    async fn urgent(&mut self, course: &mut Course, line: &[u8]) -> Outcome<()> {
        let Some(line) = command::parse(line) else { return Ok(()) };
        course.pending.push(line.verb);
        let signal = if line.is_signalled { self.control.server.signal() } else { b"" };
        self.send(&[signal, line.text]).await
    }

    /// Takes a line of the server during a transfer.
    async fn hear(&mut self, course: &mut Course) -> Outcome<()> {
        let (line, part) = self.take_line()?;
        if part.is_first {
            self.begin_reply(course, part).await?;
        }
        let mut text = Vec::new();
        if !course.replaces {
            put(&line, &mut text);
        } else if part.is_first {
            text.extend_from_slice(ABORTED);
        }
        if !text.is_empty() {
            self.say(&text).await?;
        }
        if !part.is_last {
            return Ok(());
        }
        course.replaces = false;
        if part.is_preliminary() {
            return self.start(course).await;
        }
        match course.owner(part.code) {
            Some(index) => drop(course.pending.remove(index)),
            None => course.is_answered = true,
        }
        Ok(())
    }

    /// The first line of a reply has come: it may end the transfer.
    async fn begin_reply(&mut self, course: &mut Course, part: Part) -> Outcome<()> {
        if part.is_preliminary() || course.is_answered || course.owner(part.code).is_some() {
            return Ok(());
        }
        if !part.is_positive() {
            // No more bytes are worth anything.
            self.end_flow(course, false);
            course.pair.take().into_iter().for_each(Pair::close);
            return Ok(());
        }
        if course.pair.is_some() {
            // It has finished without a word before.
            self.start(course).await?;
            while course.flow.is_some() {
                let (session, control, flow) = (&self.session, &mut self.control, &mut course.flow);
                let event = poll_fn(|cx| match flow.as_mut().map(|flow| flow.poll(session, cx)) {
                    Some(Poll::Ready(is_complete)) => Poll::Ready(Ok(is_complete)),
                    _ => control.poll_leaves().map(Err),
                });
                match event.await {
                    Ok(is_complete) => self.end_flow(course, is_complete),
                    Err(event) => drop(self.check(event)?),
                }
            }
        }
        course.replaces = !course.is_complete;
        Ok(())
    }

    /// The server begins to transfer: so do we.
    async fn start(&mut self, course: &mut Course) -> Outcome<()> {
        let Some(mut pair) = course.pair.take() else { return Ok(()) };
        if let Some(facts) = &mut self.session.states.ftp {
            facts.transfers += 1;
        }
        let limit_ms = self.conf.data_timeout_ms();
        let session = &self.session;
        let mut is_good = true;
        if let Some(terms) = &self.terms {
            let (group, peer) = (self.group_name(), session.upstream.peer_name().unwrap_or_default());
            let place = format!("stream {group} {peer}");
            let securing = data::secure_server(session, &mut pair.server, terms, &place, limit_ms);
            is_good = Box::pin(securing).await;
        }
        if is_good && self.is_private {
            is_good = Box::pin(data::secure_client(session, &mut pair.client, limit_ms)).await;
        }
        let idle_ms = self.control.idle_ms;
        let paces = session.server.confs.proxy.paces(&mut self.session);
        course.flow = Some(Flow::new(pair, course.direction, idle_ms, paces));
        if !is_good {
            self.end_flow(course, false);
        }
        self.control.touch();
        Ok(())
    }

    fn group_name(&self) -> &str {
        self.course.as_ref().map_or("", super::Course::group_name)
    }

    /// Closes both connections of a transfer, and counts its bytes.
    fn end_flow(&mut self, course: &mut Course, is_complete: bool) {
        let Some(flow) = course.flow.take() else { return };
        let [from_client, to_client, to_server, from_server] = flow.end();
        self.session.received += from_client;
        self.session.sent += to_client;
        let attempt = self.session.upstream.last();
        attempt.sent += to_server;
        attempt.received += from_server;
        attempt.length += from_server;
        course.is_complete = is_complete;
        log::debug!(
            self.session.logger(),
            &*self.session,
            "transfer ended, bytes from/to client:{from_client}/{to_client}"
        );
        self.control.touch();
    }
}
