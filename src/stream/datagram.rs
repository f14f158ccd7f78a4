//! UDP: datagrams of many clients come in on one socket, and each client has a session of its own.
//!
//! A session is found by the client's address and the address that it sent to. Touches: the listening socket, with which
//! answers are sent too. Behaviour: nginx.org, `listen … udp`, `proxy_requests`, `proxy_responses`.

pub mod inbox;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, ready};

use crate::base::frame::{Fields, put_option, put_vector16};
use crate::log::{self, access};
use crate::net::datagram::{Answers, Turn, with_receiver};
use crate::net::handover::{MovedSession, TunnelState};
use crate::net::{clients, drain, open, room};
use crate::runtime::buffer::Buffer;
use crate::runtime::channel::Notify;
use crate::runtime::{self, Io, race};
use crate::script::Scope;
use crate::shm::counter::{self, Total};
use crate::stream::config::server::Content;
use crate::stream::datagram::inbox::{Full, Inbox};
use crate::stream::modules::Phase;
use crate::stream::pipeline::{self, Plain};
use crate::stream::proxy::{self, exchange::Outcome};
use crate::stream::service::Service;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;
use crate::stream::{Listen, modules};
use crate::sys::address::SockAddr;
use crate::sys::datagrams::MESSAGES_MAX;

/// The pause of receiving from a socket that was shut down.
const SHUT_MS: u64 = 500;

/// Messages that are received before other tasks get their turn.
const TURN_MAX: usize = 2 * MESSAGES_MAX;

/// A client, as datagrams name it: its address, and the one it sent to.
type Key = (SocketAddr, Option<IpAddr>);

/// How long a leaving worker waits for the next of its sessions to be handed over before it says that it receives no more:
/// the rest cannot move now. Thousands may take longer than this.
const HANDOVER_MS: u64 = 500;

/// The sessions of one listener: a client's datagrams arrive at one of its sockets, and answers may leave from any.
pub struct Table {
    answers: Rc<Answers>,
    sessions: RefCell<HashMap<Key, Entry>>,
    next: Cell<u64>,
    /// There was no room for a client, and the log says so.
    is_full: Cell<bool>,
    /// Sessions that live, also those that no more datagrams come to.
    count: Cell<usize>,
    /// Signals that there is none.
    emptied: Notify,
}

impl Table {
    /// `answers`: one of the sockets.
    pub fn new(answers: Rc<Answers>) -> Rc<Self> {
        Rc::new(Self {
            answers,
            sessions: RefCell::default(),
            next: Cell::new(0),
            is_full: Cell::new(false),
            count: Cell::new(0),
            emptied: Notify::new(),
        })
    }

    /// The side of a session that is about to begin.
    fn client(self: &Rc<Self>, key: Key) -> Client {
        let id = self.next.get();
        self.next.set(id + 1);
        self.count.set(self.count.get() + 1);
        Client { table: Rc::clone(self), key, id, inbox: Rc::default() }
    }

    /// Lets a session get its client's datagrams, so many of them; `None`: all.
    fn list(&self, client: &Client, left: Option<u64>) {
        let entry = Entry { id: client.id, inbox: Rc::clone(&client.inbox), left };
        self.sessions.borrow_mut().insert(client.key, entry);
    }

    /// Waits until there is no session, or none ends any more.
    async fn have_moved(&self) {
        let mut before = usize::MAX;
        while self.count.get() > 0 && self.count.get() < before {
            before = self.count.get();
            race(self.emptied.notified(), runtime::sleep(HANDOVER_MS)).await;
        }
    }
}

struct Entry {
    id: u64,
    inbox: Rc<Inbox>,
    /// Datagrams until the next one begins another session; `None`: no limit.
    left: Option<u64>,
}

/// A session's side of the socket.
pub struct Client {
    table: Rc<Table>,
    key: Key,
    id: u64,
    pub inbox: Rc<Inbox>,
}

impl Client {
    /// Sends a datagram to the client before this turn ends. If the kernel has no room for it, it is lost, as it could be
    /// on its way.
    pub fn send(&self, bytes: &[u8]) {
        let (to, from) = self.key;
        self.table.answers.push(bytes, to, from);
    }
}

impl Client {
    /// Ends the delivery of datagrams. Returns how many were left, if there was one.
    fn unlist(&self) -> Option<Option<u64>> {
        let mut sessions = self.table.sessions.borrow_mut();
        let is_own = sessions.get(&self.key).is_some_and(|entry| entry.id == self.id);
        if is_own { sessions.remove(&self.key).map(|entry| entry.left) } else { None }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.unlist();
        let table = &self.table;
        table.count.set(table.count.get() - 1);
        if table.count.get() == 0 {
            table.emptied.notify();
        }
    }
}

/// Receives from a socket as long as `turn` says so, or until it is shut down.
pub async fn receive(
    service: Service,
    (socket, table): (Rc<Answers>, Rc<Table>),
    listen: &'static Listen,
    turn: impl Fn() -> Turn,
) {
    let io = &socket.io;
    loop {
        let is_over = poll_fn(|cx| match turn() {
            Turn::Over => Poll::Ready(true),
            Turn::Later => Poll::Pending, // the message that changes it wakes all tasks
            Turn::Now => {
                ready!(io.poll_budget(cx));
                io.poll_readable(cx).map(|_| false)
            }
        });
        if is_over.await || take_some(service, (io, &table), listen) {
            break;
        }
        if io.is_hung_up() {
            // Another process has shut the socket down; the master puts that right.
            runtime::sleep(SHUT_MS).await;
        }
    }
    if drain::mode() == drain::Mode::HandOver {
        table.have_moved().await;
    }
}

/// Takes what has arrived. True: the socket was shut down.
fn take_some(service: Service, (io, table): (&Io, &Rc<Table>), listen: &'static Listen) -> bool {
    with_receiver(|receiver| {
        let mut taken = 0;
        while taken < TURN_MAX {
            let receive = |fd: BorrowedFd<'_>| receiver.receive(fd, MESSAGES_MAX);
            let count = match io.try_receive_many(MESSAGES_MAX, receive) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    log::alert!(log::process(), &(), "recvmmsg() failed {}", log::Cause(&error));
                    break;
                }
            };
            for message in (0..count).map(|index| receiver.message(index)) {
                let Some(from) = message.from else { return true };
                if message.is_cut {
                    log::info!(
                        log::process(),
                        &(),
                        "a datagram of udp client {from} is too long: it is dropped"
                    );
                    continue;
                }
                for bytes in message.datagrams() {
                    dispatch(service, table, listen, (from, message.to), bytes);
                }
            }
            taken += count;
            if count < MESSAGES_MAX {
                break;
            }
        }
        runtime::charge(taken as u32);
        false
    })
}

/// Gives a datagram to the session of its client, or begins one.
fn dispatch(service: Service, table: &Rc<Table>, listen: &'static Listen, key: Key, bytes: &[u8]) {
    let mut sessions = table.sessions.borrow_mut();
    if let Some(entry) = sessions.get_mut(&key) {
        if entry.inbox.push(bytes) == Err(Full::First) {
            let (from, _) = key;
            log::info!(
                log::process(),
                &(),
                "datagrams of udp client {from} are dropped: its session is behind"
            );
        }
        entry.left = entry.left.map(|left| left - 1);
        if entry.left == Some(0) {
            sessions.remove(&key);
        }
        return;
    }
    counter::add(Total::Accepted, 1);
    if open::total() >= room::limit() {
        if !table.is_full.replace(true) {
            let limit = room::limit();
            log::alert!(
                log::process(),
                &(),
                "{limit} worker_connections are not enough, datagrams of new clients are dropped: raise \
                 \"worker_connections\" or \"worker_rlimit_nofile\", or add workers"
            );
        }
        return;
    }
    table.is_full.set(false);
    drop(sessions);
    let client = table.client(key);
    let server = &service.config().servers[listen.default];
    let requests = Some(server.confs.proxy.requests()).filter(|requests| *requests > 0);
    if requests != Some(1) {
        table.list(&client, requests.map(|requests| requests - 1));
    }
    let (from, to) = key;
    let local = match (to, listen.address.port()) {
        (Some(ip), Some(port)) => SockAddr::Datagram(Box::new((ip, port).into())),
        _ => listen.address.clone(),
    };
    let mut session = Session::new(service.worker(), listen, service.number(), SockAddr::Inet(from), local);
    session.enter_server();
    let mut preread = Buffer::take(bytes.len());
    preread.extend(bytes);
    session.preread = preread;
    session.received = bytes.len() as u64;
    let record = clients::Client::of_datagrams(session.number, session.peer.clone());
    runtime::spawn(serve(service, client, Box::new(session), open::Guard::new(record)));
    counter::add(Total::Handled, 1);
}

/// Runs a session to its end.
async fn serve(service: Service, mut client: Client, mut session: Box<Session>, mut open: open::Guard) {
    open.turn(Total::Writing);
    log::info!(
        session.logger(),
        &Plain(&session),
        "udp client {} connected to {}",
        session.peer,
        session.local
    );
    let outcome = match prepare(&mut session) {
        Ok(()) => content(&mut session, &mut client).await,
        Err(status) => Outcome::Over(status),
    };
    end(service, client, session, open, outcome);
}

/// Ends a session here: it is over, or goes on in another worker.
fn end(service: Service, client: Client, mut session: Box<Session>, open: open::Guard, outcome: Outcome) {
    match outcome {
        Outcome::Over(status) => {
            session.status = status;
            drop((session, open));
            access::flush_turn();
        }
        Outcome::Moves(exchange, fd) => {
            session.is_moved = true;
            let left = client.unlist();
            let (from, to) = client.key;
            let mut state = vec![u8::from(left.is_some())];
            put_option(&mut state, left.flatten());
            put_vector16(&mut state, to.map(|ip| ip.to_string()).unwrap_or_default().as_bytes());
            state.extend(exchange);
            let listen = service.listen_index(session.listen);
            // Count it down here before another process can count it.
            drop((session, open));
            let state = TunnelState(state.into());
            service.hand_over_session(MovedSession { listen, client: from, state }, fd);
        }
    }
    drop(client); // last: the worker says that it receives no more once there is none
}

/// Goes on with a session of an older worker. `None`: its state is damaged, or descriptors are short.
pub fn resume(
    service: Service,
    table: &Rc<Table>,
    listen: &'static Listen,
    moved: MovedSession,
    fd: OwnedFd,
) -> Option<()> {
    let MovedSession { client: from, state: TunnelState(state), .. } = moved;
    let mut fields = Fields(&state);
    let (is_listed, left) = (fields.flag()?, fields.option()?);
    let to = match std::str::from_utf8(fields.vector16()?).ok()? {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    let key = (from, to);
    let number = service.number();
    let mut resumed = proxy::exchange::Resumed::restore(service, listen, number, fields, fd)?;
    let mut client = table.client(key);
    resumed.give_waiting(&client.inbox);
    // A datagram that came meanwhile may have begun another session, which goes on.
    if is_listed && left != Some(0) && !table.sessions.borrow().contains_key(&key) {
        table.list(&client, left);
    }
    let record = clients::Client::of_datagrams(number, SockAddr::Inet(from));
    let mut open = open::Guard::new(record);
    open.turn(Total::Writing);
    runtime::spawn(async move {
        let (session, outcome) = resumed.run(&mut client).await;
        end(service, client, session, open, outcome);
    });
    Some(())
}

/// Runs the phases: all there is to read ahead is the first datagram.
fn prepare(session: &mut Session) -> Result<(), u16> {
    for phase in [Phase::PostAccept, Phase::Preaccess, Phase::Access, Phase::Preread] {
        for (_, handler) in modules::HANDLERS.iter().filter(|(of, _)| *of == phase) {
            if let Verdict::Done(status) = pipeline::decide(session, *handler)? {
                return Err(status);
            }
        }
    }
    Ok(())
}

async fn content(session: &mut Session, client: &mut Client) -> Outcome {
    match session.server.content {
        Some(Content::Proxy) => Box::pin(proxy::exchange::run(session, client)).await,
        Some(Content::Return) => {
            let text = session.server.confs.return_text.text().map(|text| text.to_vec(session));
            let text = text.unwrap_or_default();
            session.action = "sending text to client";
            client.send(&text);
            session.sent += text.len() as u64;
            Outcome::Over(200)
        }
        Some(Content::Pass) => {
            log::error!(session.logger(), &*session, "\"pass\" is not possible for datagrams");
            Outcome::Over(500)
        }
        None => Outcome::Over(500),
    }
}
