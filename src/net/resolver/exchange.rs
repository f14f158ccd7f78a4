//! Questions to name servers: UDP first, TCP after a truncated answer, the next server after silence.
//!
//! Touches: sockets. Each lookup has one socket per server, connected to it from a random port. So an answer must come
//! from the server that was asked, to the port it was asked from, with the id and the text of its question.
//! Sockets stay open while the lookup lasts: a late answer is still good. Truth: RFC 1035 §4.2, RFC 5452.

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

/// Maximum size of an answer by UDP; servers send no longer ones unasked (RFC 1035 §2.3.4: 512).
const DATAGRAM_BYTES: usize = 4096;
/// The first wait for an answer; it doubles with each round through the servers, up to the second number.
const RESEND_MS: (u64, u64) = (1_000, 5_000);
/// Time limit for one question by TCP.
const TCP_MS: u64 = 5_000;

/// The lookup of one name, with one or two kinds of question.
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

/// The state of one server in this lookup.
#[derive(Default)]
struct Port {
    io: Option<Io>,
    /// The server refuses such questions.
    refusal: Option<Code>,
    /// It has failed since the last pause.
    has_failed: bool,
}

enum Event {
    /// A datagram: the index of its server, and its length.
    Datagram(usize, usize),
    Broken(usize, io::Error),
    /// No answer came in time: ask again.
    Silence,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(servers: &'a [SocketAddr], name: &'a Name, kinds: &[Kind]) -> Self {
        let question = |&kind| Question { id: random::number() as u16, kind, answer: None };
        let ports = servers.iter().map(|_| Port::default()).collect();
        Self { servers, name, questions: kinds.iter().map(question).collect(), ports }
    }

    /// Asks, starting with the server `first`, until every question is answered. It has no time limit, but
    /// gives up if `is_wanted` returns false before a question is repeated.
    ///
    /// Fails with the code of a refusal if all servers refuse such questions.
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

    /// Waits for answers. True when all questions are answered, false when it is the next server's turn: at once if this
    /// one has failed, but only as long as there is one that has not. Otherwise a pause comes first, or servers that
    /// all fail at once would be asked without end.
    async fn listen(&mut self, timer: &mut Timer, buffer: &mut [u8]) -> bool {
        loop {
            match poll_fn(|cx| self.poll_event(cx, timer, buffer)).await {
                Event::Silence => {
                    self.ports.iter_mut().for_each(|port| port.has_failed = false);
                    return false;
                }
                Event::Broken(server, error) => {
                    self.ports[server].io = None;
                    self.complain(server, "recv()", &error);
                    self.ports[server].has_failed = true;
                    if self.may_hurry() {
                        return false;
                    }
                }
                Event::Datagram(server, length) => {
                    let has_failed = self.take(server, &buffer[..length]).await;
                    if self.questions.iter().all(|question| question.answer.is_some()) {
                        return true;
                    }
                    self.ports[server].has_failed |= has_failed;
                    if has_failed && self.may_hurry() {
                        return false;
                    }
                }
            }
        }
    }

    /// True if another server may know more, or all have refused.
    fn may_hurry(&self) -> bool {
        let may_answer = |port: &Port| port.refusal.is_none() && !port.has_failed;
        self.ports.iter().any(may_answer) || self.all_refused().is_some()
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
                ready!(io.poll_budget(cx)); // a server that floods us must not starve other tasks
                match io.try_receive(|fd| socket::receive(fd, buffer)) {
                    Ok(length) => return Poll::Ready(Event::Datagram(server, length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {}
                    Err(error) => return Poll::Ready(Event::Broken(server, error)),
                }
            }
        }
        timer.poll_expired(cx).map(|()| Event::Silence)
    }

    /// Matches a datagram with the questions. True: this server will not answer, so ask the next one.
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

/// True if the answer concerns the name rather than the server, so that no other server need be asked.
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
