//! UDP: datagrams of many clients come in on one socket, and each client has a session of its own.
//!
//! A session is found by the client's address and the address that it sent to. Touches: the listening socket, with which
//! answers are sent too. Behaviour: nginx.org, `listen … udp`, `proxy_requests`, `proxy_responses`.

mod answers;
mod inbox;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, ready};

use crate::log::{self, access};
use crate::net::{clients, open, room};
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::script::Scope;
use crate::shm::counter::{self, Total};
use crate::stream::config::server::Content;
use crate::stream::datagram::answers::Answers;
use crate::stream::datagram::inbox::{Full, Inbox};
use crate::stream::modules::Phase;
use crate::stream::pipeline::{self, Plain};
use crate::stream::proxy;
use crate::stream::service::Service;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;
use crate::stream::{Listen, modules};
use crate::sys::address::SockAddr;
use crate::sys::datagrams::{MESSAGES_MAX, Receiver};

/// The pause of receiving from a socket that was shut down.
const SHUT_MS: u64 = 500;

/// Messages that are received before other tasks get their turn.
const TURN_MAX: usize = 2 * MESSAGES_MAX;

thread_local! {
    /// One for all sockets of a worker: what it holds is used before the next call.
    static RECEIVER: RefCell<Option<Box<Receiver>>> = const { RefCell::new(None) };
}

/// Calls `f` with the worker's space for messages.
pub fn with_receiver<T>(f: impl FnOnce(&mut Receiver) -> T) -> T {
    RECEIVER.with_borrow_mut(|receiver| f(receiver.get_or_insert_default()))
}

/// A client, as datagrams name it: its address, and the one it sent to.
type Key = (SocketAddr, Option<IpAddr>);

/// The sessions of one socket.
struct Table {
    answers: Rc<Answers>,
    sessions: RefCell<HashMap<Key, Entry>>,
    next: Cell<u64>,
    /// There was no room for a client, and the log says so.
    is_full: Cell<bool>,
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

impl Drop for Client {
    fn drop(&mut self) {
        let mut sessions = self.table.sessions.borrow_mut();
        if sessions.get(&self.key).is_some_and(|entry| entry.id == self.id) {
            sessions.remove(&self.key);
        }
    }
}

/// Receives from a socket until `stop` says so, or until it is shut down.
pub async fn receive(service: Service, fd: OwnedFd, listen: &'static Listen, stop: impl Fn() -> bool) {
    let answers = match Answers::new(fd) {
        Ok(answers) => answers,
        Err(error) => {
            log::alert!(
                log::process(),
                &(),
                "epoll_ctl() failed for a listening socket {}",
                log::Cause(&error)
            );
            return;
        }
    };
    let table = Rc::new(Table {
        answers,
        sessions: RefCell::default(),
        next: Cell::new(0),
        is_full: Cell::new(false),
    });
    let io = &table.answers.io;
    loop {
        let is_over = poll_fn(|cx| {
            if stop() {
                return Poll::Ready(true);
            }
            ready!(io.poll_budget(cx));
            io.poll_readable(cx).map(|_| false)
        });
        if is_over.await || take_some(service, &table, listen) {
            return;
        }
        if io.is_hung_up() {
            // Another process has shut the socket down; the master puts that right.
            runtime::sleep(SHUT_MS).await;
        }
    }
}

/// Takes what has arrived. True: the socket was shut down.
fn take_some(service: Service, table: &Rc<Table>, listen: &'static Listen) -> bool {
    with_receiver(|receiver| {
        let mut taken = 0;
        while taken < TURN_MAX {
            let receive = |fd: BorrowedFd<'_>| receiver.receive(fd, MESSAGES_MAX);
            let count = match table.answers.io.try_receive_many(MESSAGES_MAX, receive) {
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
    let inbox = Rc::new(Inbox::default());
    let id = table.next.get();
    table.next.set(id + 1);
    let server = &service.config().servers[listen.default];
    let requests = Some(server.confs.proxy.requests()).filter(|requests| *requests > 0);
    if requests != Some(1) {
        sessions
            .insert(key, Entry { id, inbox: Rc::clone(&inbox), left: requests.map(|requests| requests - 1) });
    }
    drop(sessions);
    let client = Client { table: Rc::clone(table), key, id, inbox };
    let (from, to) = key;
    let local = match (to, listen.address.port()) {
        (Some(ip), Some(port)) => SockAddr::Datagram(Box::new((ip, port).into())),
        _ => listen.address.clone(),
    };
    let mut session = Session::new(service.worker(), listen, service.number(), SockAddr::Inet(from), local);
    let mut preread = Buffer::take(bytes.len());
    preread.extend(bytes);
    session.preread = preread;
    session.received = bytes.len() as u64;
    let record = clients::Client::of_datagrams(session.number, session.peer.clone());
    runtime::spawn(serve(client, Box::new(session), open::Guard::new(record)));
    counter::add(Total::Handled, 1);
}

/// Runs a session to its end.
async fn serve(mut client: Client, mut session: Box<Session>, mut open: open::Guard) {
    open.turn(Total::Writing);
    log::info!(
        session.logger(),
        &Plain(&session),
        "udp client {} connected to {}",
        session.peer,
        session.local
    );
    match prepare(&mut session) {
        Ok(()) => content(&mut session, &mut client).await,
        Err(status) => session.status = status,
    }
    drop(session);
    access::flush_turn();
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

async fn content(session: &mut Session, client: &mut Client) {
    match session.server.content {
        Some(Content::Proxy) => {
            session.status = Box::pin(proxy::exchange::run(session, client)).await;
        }
        Some(Content::Return) => {
            let text = session.server.confs.return_text.text().map(|text| text.to_vec(session));
            let text = text.unwrap_or_default();
            session.status = 200;
            session.action = "sending text to client";
            client.send(&text);
            session.sent += text.len() as u64;
        }
        Some(Content::Pass) => {
            log::error!(session.logger(), &*session, "\"pass\" is not possible for datagrams");
            session.status = 500;
        }
        None => session.status = 500,
    }
}
