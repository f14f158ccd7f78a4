//! The two control connections of a session: lines in, lines out, one limit on their length and one on silence.
//!
//! Memory: each direction has a buffer of at most `ftp_line_size` while it holds bytes, and none while it waits.
//! Touches: both control connections.

use std::io;
use std::task::{Context, Poll, ready};

use crate::net::{Transport, drain};
use crate::proto::ftp::command::{self, IAC};
use crate::proto::ftp::reply;
use crate::proto::line::{Lines, Next};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, Timer, race, timeout};
use crate::sys::{single, socket};

/// As much as a socket usually holds, 16 KB at a time.
const DISCARDED_PIECES_MAX: usize = 16;

/// One control connection.
pub struct Channel {
    pub transport: Transport,
    input: Buffer,
    lines: Lines,
    /// The length of the line at the front of `input`, without and with its end.
    found: Option<(usize, usize)>,
    /// Bytes read since the session began to relay FTP.
    pub received: u64,
    pub sent: u64,
}

/// Why there are no more lines.
#[derive(Debug)]
pub enum Broken {
    /// The peer has ended the connection.
    Ended,
    Io(io::Error),
    TooLong,
}

impl Channel {
    pub fn new(transport: Transport, ahead: Buffer) -> Self {
        Self { transport, input: ahead, lines: Lines::default(), found: None, received: 0, sent: 0 }
    }

    /// Ready once a whole line is there, for [`Channel::line`].
    pub fn poll_line(&mut self, max: usize, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.found.is_some() {
                return Poll::Ready(Ok(()));
            }
            match self.lines.next(self.input.data(), max) {
                Next::Line { text, whole } => self.found = Some((text, whole)),
                Next::TooLong => return Poll::Ready(Err(Broken::TooLong)),
                Next::More => {
                    if let Err(error) = ready!(self.transport.poll_readable(cx)) {
                        return Poll::Ready(Err(Broken::Io(error)));
                    }
                    ready!(self.poll_fill(max, cx))?;
                }
            }
        }
    }

    fn poll_fill(&mut self, max: usize, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.input.compact();
        self.input.grow(max);
        let held = self.input.data().len();
        let room = max.saturating_sub(held).min(self.input.space().len());
        let polled = self.transport.poll_read(cx, &mut self.input.space()[..room]);
        if held == 0 && !matches!(polled, Poll::Ready(Ok(1..))) {
            self.input = Buffer::default();
        }
        match ready!(polled) {
            Ok(0) => Poll::Ready(Err(Broken::Ended)),
            Err(error) => Poll::Ready(Err(Broken::Io(error))),
            Ok(count) => {
                let signals = memchr::memchr(IAC, &self.input.space()[..count]).is_some();
                self.input.filled(count);
                self.received += count as u64;
                if signals {
                    self.read_past_mark(max);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// A read ends at an urgent byte, although there is more behind it, of which no event tells (tcp(7)).
    fn read_past_mark(&mut self, max: usize) {
        let Some(io) = self.transport.plain() else { return };
        while self.input.data().len() < max {
            let room = max - self.input.data().len();
            let space = self.input.space();
            let room = room.min(space.len());
            match io.try_receive(|fd| socket::receive(fd, &mut space[..room])) {
                Ok(count @ 1..) => {
                    self.input.filled(count);
                    self.received += count as u64;
                }
                // The end or an error comes again.
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// The line that has come, without its end.
    pub fn line(&self) -> Option<&[u8]> {
        self.found.map(|(text, _)| &self.input.data()[..text])
    }

    /// Takes the line that has come.
    pub fn take(&mut self) -> Vec<u8> {
        let Some((text, whole)) = self.found.take() else { return Vec::new() };
        let line = self.input.data()[..text].to_vec();
        self.input.consume(whole);
        if self.input.data().is_empty() {
            self.input = Buffer::default();
        }
        line
    }

    /// Forgets what has been read; returns the number of bytes.
    pub fn discard(&mut self) -> usize {
        let count = self.input.data().len();
        (self.input, self.lines, self.found) = (Buffer::default(), Lines::default(), None);
        count
    }

    /// Reads what has come: closing a socket with unread bytes resets the connection, which could destroy the last words on
    /// their way. A peer that goes on sending is not listened to for longer.
    pub fn discard_unread(&self) {
        let mut buffer = Buffer::take(16 * 1024);
        for _ in 0..DISCARDED_PIECES_MAX {
            if !matches!(self.transport.try_read(buffer.space()), Ok(1..)) {
                return;
            }
        }
    }

    /// Sends bytes within a time. Errors: the peer does not take them, or the worker must end.
    pub async fn say(&mut self, words: &[u8], limit_ms: u64) -> Result<(), Unsaid> {
        let sending = timeout(limit_ms, self.transport.write_all(words));
        match race(sending, drain::reached(drain::Mode::Now)).await {
            Either::First(Ok(Ok(()))) => {
                self.sent += words.len() as u64;
                Ok(())
            }
            Either::First(Ok(Err(_))) => Err(Unsaid::Gone),
            Either::First(Err(_)) => Err(Unsaid::TimedOut),
            Either::Second(()) => Err(Unsaid::Leaves),
        }
    }

    /// Sends the signals of Telnet that go before an urgent command, as far as the connection can carry them.
    pub fn signal(&self) -> &'static [u8] {
        const INTERRUPT: [u8; 3] = [IAC, command::IP, IAC];
        let Some(io) = self.transport.plain() else { return b"" };
        match single::send_urgent(io.as_fd(), &INTERRUPT) {
            Ok(3) => &[command::DM],
            // None of it, as good as always: an urgent command goes without signals, too.
            _ => b"",
        }
    }
}

/// Why bytes could not be sent.
#[derive(Debug)]
pub enum Unsaid {
    Gone,
    TimedOut,
    Leaves,
}

/// The client's lines that are awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    All,
    /// Commands that a client may send during a transfer. Others wait, and so does what comes after them.
    Urgent,
    None,
}

/// The replies that wait until a transfer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    /// Those that say that it went well; with `but_status`, not those to STAT.
    Success {
        but_status: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Something that has happened on the control connections.
#[derive(Debug)]
pub enum Event {
    /// The client's line is there.
    Command,
    /// The server's line is there.
    Reply,
    Broken(Side, Broken),
    TimedOut,
    /// The worker must end.
    Leaves,
}

/// Both control connections.
pub struct Control {
    pub client: Channel,
    pub server: Channel,
    pub replies: reply::Replies,
    timer: Timer,
    /// `proxy_timeout`
    pub idle_ms: u64,
    /// `ftp_line_size`
    line_bytes_max: usize,
}

impl Control {
    pub fn new(client: Channel, server: Channel, idle_ms: u64, line_bytes_max: usize) -> Self {
        let replies = reply::Replies::default();
        let mut control = Self { client, server, replies, timer: Timer::new(), idle_ms, line_bytes_max };
        control.touch();
        control
    }

    /// Begins the time anew after which a silent session ends.
    pub fn touch(&mut self) {
        self.timer.set(runtime::now_ms().saturating_add(self.idle_ms));
    }

    /// Ready with what happens next. `is_timed`: silence ends the session.
    pub fn poll_event(
        &mut self,
        takes: Takes,
        holds: Holds,
        is_timed: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        if drain::mode() >= drain::Mode::Now {
            return Poll::Ready(Event::Leaves);
        }
        let event = match self.poll_sides(takes, holds, cx) {
            Poll::Ready(event) => event,
            Poll::Pending if is_timed => {
                ready!(self.timer.poll_expired(cx));
                return Poll::Ready(Event::TimedOut);
            }
            Poll::Pending => return Poll::Pending,
        };
        self.touch();
        Poll::Ready(event)
    }

    fn poll_sides(&mut self, takes: Takes, holds: Holds, cx: &mut Context<'_>) -> Poll<Event> {
        match self.server.poll_line(self.line_bytes_max, cx) {
            Poll::Ready(Ok(())) if !self.is_held(holds) => return Poll::Ready(Event::Reply),
            Poll::Ready(Err(broken)) => return Poll::Ready(Event::Broken(Side::Server, broken)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if takes == Takes::None {
            return Poll::Pending;
        }
        match ready!(self.client.poll_line(self.line_bytes_max, cx)) {
            Err(broken) => Poll::Ready(Event::Broken(Side::Client, broken)),
            Ok(()) if takes == Takes::All || self.is_urgent() => Poll::Ready(Event::Command),
            Ok(()) => Poll::Pending,
        }
    }

    /// Ready when the worker must end.
    pub fn poll_leaves(&self) -> Poll<Event> {
        if drain::mode() >= drain::Mode::Now { Poll::Ready(Event::Leaves) } else { Poll::Pending }
    }

    fn is_urgent(&self) -> bool {
        self.client.line().and_then(command::parse).is_some_and(|line| line.is_urgent())
    }

    fn is_held(&self, holds: Holds) -> bool {
        let Holds::Success { but_status } = holds else { return false };
        if self.replies.is_inside() {
            return false;
        }
        match self.server.line().and_then(reply::code) {
            Some(211..=213) if but_status => false,
            Some(200..=399) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::net::transport::script::{Script, play};
    use crate::runtime::Runtime;

    fn run(test: impl AsyncFnOnce(Control, Script, Script) + 'static) {
        Runtime::new().expect("a loop").block_on(async {
            let ((client, left), (server, right)) = (play(), play());
            let channel = |transport| Channel::new(transport, Buffer::default());
            test(Control::new(channel(client), channel(server), 1000, 64), left, right).await;
        });
    }

    /// The progress so far; `None`: there is none.
    async fn now(control: &mut Control, takes: Takes, holds: Holds) -> Option<Event> {
        poll_fn(|cx| match control.poll_event(takes, holds, true, cx) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[test]
    fn lines_come_one_at_a_time_and_in_pieces() {
        run(async move |mut control, left, _right| {
            left.sends(b"USER a\r\nPASS b\r\nPA");
            for expected in [&b"USER a"[..], b"PASS b"] {
                assert!(matches!(now(&mut control, Takes::All, Holds::Nothing).await, Some(Event::Command)));
                assert_eq!(control.client.take(), expected);
            }
            assert!(now(&mut control, Takes::All, Holds::Nothing).await.is_none());
            left.sends(b"SV\n").ends();
            assert!(matches!(now(&mut control, Takes::All, Holds::Nothing).await, Some(Event::Command)));
            assert_eq!(control.client.take(), b"PASV");
            let event = now(&mut control, Takes::All, Holds::Nothing).await;
            assert!(matches!(event, Some(Event::Broken(Side::Client, Broken::Ended))));
            assert_eq!(control.client.received, 21);
        });
    }

    #[test]
    fn replies_go_before_commands_and_long_lines_end_the_session() {
        run(async move |mut control, left, right| {
            left.sends(&[b'x'; 64]);
            right.sends(b"200 ok\r\n");
            assert!(matches!(now(&mut control, Takes::All, Holds::Nothing).await, Some(Event::Reply)));
            control.server.take();
            assert!(now(&mut control, Takes::None, Holds::Nothing).await.is_none());
            let event = now(&mut control, Takes::All, Holds::Nothing).await;
            assert!(matches!(event, Some(Event::Broken(Side::Client, Broken::TooLong))));
        });
    }

    #[test]
    fn during_a_transfer_urgent_commands_pass_and_success_waits() {
        run(async move |mut control, left, right| {
            let success = |but_status| Holds::Success { but_status };
            left.sends(b"\xff\xf4\xf2ABOR\r\nNOOP\r\n");
            assert!(matches!(now(&mut control, Takes::Urgent, success(false)).await, Some(Event::Command)));
            control.client.take();
            assert!(now(&mut control, Takes::Urgent, success(false)).await.is_none(), "NOOP waits");
            right.sends(b"213 status\r\n226 done\r\n");
            assert!(now(&mut control, Takes::Urgent, success(false)).await.is_none());
            assert!(matches!(now(&mut control, Takes::Urgent, success(true)).await, Some(Event::Reply)));
            control.server.take();
            assert!(now(&mut control, Takes::Urgent, success(true)).await.is_none(), "226 waits");
            assert!(matches!(now(&mut control, Takes::Urgent, Holds::Nothing).await, Some(Event::Reply)));
            assert_eq!(control.server.take(), b"226 done");
            right.sends(b"426 broken\r\n");
            assert!(matches!(now(&mut control, Takes::Urgent, success(true)).await, Some(Event::Reply)));
        });
    }

    #[test]
    fn what_came_in_clear_can_be_forgotten() {
        run(async move |mut control, left, _right| {
            left.sends(b"AUTH TLS\r\nUSER evil\r\nUS");
            now(&mut control, Takes::All, Holds::Nothing).await;
            control.client.take();
            assert_eq!(control.client.discard(), 13);
            left.sends(b"NOOP\r\n");
            assert!(matches!(now(&mut control, Takes::All, Holds::Nothing).await, Some(Event::Command)));
            assert_eq!(control.client.take(), b"NOOP");
        });
    }
}
