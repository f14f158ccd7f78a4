//! Questions to name servers: UDP first, TCP after a truncated answer, the next server after silence.
//!
//! Touches: sockets. Each server has one socket a lookup, with a random port and bound to that server, so that an answer
//! must come from who was asked, to the port it was asked from, with the id of its question and the question itself.
//! Sockets stay open while the lookup lasts: a late answer is as good as one in time.
//! Truth: RFC 1035 §4.2, RFC 5452.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;

use super::Failure;
use crate::log;
use crate::net::connect::{self, connect};
use crate::net::{Address, Transport};
use crate::proto::dns::{self, Answer, Code, Kind, Name, NoAnswer};
use crate::runtime::{self, Io, Timer, timeout};
use crate::sys::{random, socket};

/// A datagram that answers; longer ones do not come unasked (RFC 1035 §2.3.4: 512).
const DATAGRAM_BYTES: usize = 4096;
/// The first wait for an answer; it doubles with each round through the servers, up to the second number.
const RESEND_MS: (u64, u64) = (1_000, 5_000);
/// For one question by TCP.
const TCP_MS: u64 = 5_000;

/// One name, asked for in one or two kinds.
pub(super) struct Exchange<'a> {
    servers: &'a [SocketAddr],
    name: &'a Name,
    questions: SmallVec<[Question; 2]>,
    ports: Vec<Port>,
}

struct Question {
    id: u16,
    kind: Kind,
    answer: Option<Answer>,
}

/// What is known of one server.
#[derive(Default)]
struct Port {
    io: Option<Io>,
    /// It will not answer this.
    refusal: Option<Code>,
}

enum Event {
    /// The length of a datagram, and from which server.
    Datagram(usize, usize),
    Broken(usize, io::Error),
    /// It is time to ask again.
    Silence,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(servers: &'a [SocketAddr], name: &'a Name, kinds: &[Kind]) -> Self {
        let question = |&kind| Question { id: random::number() as u16, kind, answer: None };
        let ports = servers.iter().map(|_| Port::default()).collect();
        Self { servers, name, questions: kinds.iter().map(question).collect(), ports }
    }

    /// Asks, beginning with the server `first`, until all is answered. It has no limit of its own, but ends when
    /// `is_wanted` says so before a question is repeated.
    ///
    /// Errors: what all servers say, if none of them answers such questions.
    pub(super) async fn run(
        mut self,
        first: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Result<SmallVec<[Answer; 2]>, Failure> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut timer = Timer::new();
        for turn in 0.. {
            if turn > 0 && !is_wanted() {
                break;
            }
            let server = (first + turn) % self.servers.len();
            if self.ports[server].refusal.is_none() {
                if let Err(error) = self.send(server) {
                    self.complain(server, "send()", &error);
                }
            } else if let Some(failure) = self.all_refused() {
                return Err(failure);
            } else {
                continue;
            }
            let round = (turn / self.servers.len()).min(8);
            timer.set(runtime::now_ms() + (RESEND_MS.0 << round).min(RESEND_MS.1));
            if self.listen(&mut timer, &mut buffer).await {
                return Ok(self.questions.into_iter().filter_map(|question| question.answer).collect());
            }
        }
        Err(Failure::TimedOut)
    }

    /// Waits for answers; true when nothing is left to ask, false when it is the next server's turn.
    async fn listen(&mut self, timer: &mut Timer, buffer: &mut [u8]) -> bool {
        loop {
            match poll_fn(|cx| self.poll_event(cx, timer, buffer)).await {
                Event::Silence => return false,
                Event::Broken(server, error) => {
                    self.ports[server].io = None;
                    self.complain(server, "recv()", &error);
                    // Where all servers are down there is nobody to hurry to.
                    if self.ports.iter().any(|port| port.io.is_some()) || self.is_untried() {
                        return false;
                    }
                }
                Event::Datagram(server, length) => {
                    let is_refusal = self.take(server, &buffer[..length]).await;
                    if self.questions.iter().all(|question| question.answer.is_some()) {
                        return true;
                    }
                    if is_refusal {
                        return false;
                    }
                }
            }
        }
    }

    /// Some server was never asked: it comes next.
    fn is_untried(&self) -> bool {
        self.ports.iter().any(|port| port.io.is_none() && port.refusal.is_none()) && self.ports.len() > 1
    }

    fn send(&mut self, server: usize) -> io::Result<()> {
        let port = &mut self.ports[server];
        if port.io.is_none() {
            let address = Address::Inet(self.servers[server]);
            port.io = Some(Io::register(socket::connect_datagram(&address)?)?);
        }
        let mut message = Vec::with_capacity(300);
        for question in self.questions.iter().filter(|question| question.answer.is_none()) {
            message.clear();
            dns::write_query(question.id, self.name, question.kind, &mut message);
            if let Some(io) = &port.io
                && let Err(error) = io.try_write(&message)
            {
                port.io = None;
                return Err(error);
            }
        }
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, timer: &mut Timer, buffer: &mut [u8]) -> Poll<Event> {
        for (server, port) in self.ports.iter().enumerate() {
            let Some(io) = &port.io else { continue };
            while io.poll_readable(cx).is_ready() {
                ready!(io.poll_budget(cx)); // a server that does not stop talking keeps nobody else waiting
                match io.try_receive(|fd| socket::receive(fd, buffer)) {
                    Ok(length) => return Poll::Ready(Event::Datagram(server, length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {}
                    Err(error) => return Poll::Ready(Event::Broken(server, error)),
                }
            }
        }
        timer.poll_expired(cx).map(|()| Event::Silence)
    }

    /// Takes a datagram for what it answers. True: this server will not answer, so another is to be asked.
    async fn take(&mut self, server: usize, message: &[u8]) -> bool {
        for index in 0..self.questions.len() {
            let Question { id, kind, answer } = &self.questions[index];
            if answer.is_some() {
                continue;
            }
            let mut answer = dns::read_answer(message, *id, self.name, *kind);
            if answer == Ok(Answer::Truncated) {
                answer = match timeout(TCP_MS, self.ask_by_tcp(server, *id, *kind)).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => {
                        self.complain(server, "asking by TCP", &error);
                        return true;
                    }
                    Err(_) => {
                        self.complain(server, "asking by TCP", &io::ErrorKind::TimedOut.into());
                        return true;
                    }
                };
            }
            match answer {
                Ok(Answer::Failed { code, .. }) if !is_final(code) => {
                    self.ports[server].refusal = Some(code);
                    return true;
                }
                Ok(Answer::Truncated) => return true,
                Ok(answer) => {
                    self.questions[index].answer = Some(answer);
                    return false;
                }
                Err(NoAnswer::Foreign) => {} // perhaps the other question's
                Err(NoAnswer::Malformed) => {
                    let (name, server) = (self.name, self.servers[server]);
                    log::error!(
                        log::process(),
                        &(),
                        "unexpected DNS response for \"{name}\", resolver: {server}"
                    );
                    return false;
                }
            }
        }
        false
    }

    async fn ask_by_tcp(&self, server: usize, id: u16, kind: Kind) -> io::Result<Result<Answer, NoAnswer>> {
        let mut message = vec![0, 0];
        dns::write_query(id, self.name, kind, &mut message);
        let length = (message.len() - 2) as u16;
        message[..2].copy_from_slice(&length.to_be_bytes());
        let server = connect(&Address::Inet(self.servers[server]), &connect::Options::default()).await?;
        server.write_all(&message).await?;
        let mut length = [0; 2];
        read_exact(&server, &mut length).await?;
        message.resize(usize::from(u16::from_be_bytes(length)), 0);
        read_exact(&server, &mut message).await?;
        Ok(dns::read_answer(&message, id, self.name, kind))
    }

    fn all_refused(&self) -> Option<Failure> {
        let is_refused = self.ports.iter().all(|port| port.refusal.is_some());
        let code = self.ports.iter().find_map(|port| port.refusal)?;
        is_refused.then_some(Failure::Code(code))
    }

    fn complain(&self, server: usize, call: &str, error: &io::Error) {
        let (name, server, cause) = (self.name, self.servers[server], log::Cause(error));
        log::error!(
            log::process(),
            &(),
            "{call} failed {cause} while resolving \"{name}\", resolver: {server}"
        );
    }
}

/// The answer is the name's, not the server's: another server need not be asked.
fn is_final(code: Code) -> bool {
    match code {
        Code::Server | Code::NotFound => true,
        Code::Format | Code::NotImplemented | Code::Refused | Code::Other => false,
    }
}

async fn read_exact(transport: &Transport, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match poll_fn(|cx| transport.poll_read(cx, buffer)).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => buffer = &mut buffer[count..],
        }
    }
    Ok(())
}
