//! UDP: datagrams of many clients come in on one socket, and each client has a session of its own.
//!
//! A session is found by the client's address and the address that it sent to. Touches: the listening socket, with which
//! answers are sent too. Behaviour: nginx.org, `listen … udp`, `proxy_requests`, `proxy_responses`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, ready};

use crate::log::{self, access};
use crate::net::{clients, open, room};
use crate::runtime::buffer::Buffer;
use crate::runtime::channel::{Receiver, Sender, queue};
use crate::runtime::{self, Io};
use crate::script::Scope;
use crate::shm::counter::{self, Total};
use crate::stream::config::server::Content;
use crate::stream::modules::Phase;
use crate::stream::pipeline::{self, Plain};
use crate::stream::proxy;
use crate::stream::service::Service;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;
use crate::stream::{Listen, modules};
use crate::sys::address::SockAddr;
use crate::sys::datagram;

/// The largest datagram (RFC 768).
pub const BYTES_MAX: usize = 65_535;

/// Datagrams of one client that may wait for its session; more are dropped, as the kernel does.
const WAITING_MAX: usize = 16;

/// The pause of receiving from a socket that was shut down.
const SHUT_MS: u64 = 500;

/// Datagrams that are received before other tasks get their turn.
const TURN_MAX: usize = 64;

/// A client, as datagrams name it: its address, and the one it sent to.
type Key = (SocketAddr, Option<IpAddr>);

/// The sessions of one socket.
struct Table {
    io: Io,
    sessions: RefCell<HashMap<Key, Entry>>,
    next: Cell<u64>,
    /// There was no room for a client, and the log says so.
    is_full: Cell<bool>,
}

struct Entry {
    id: u64,
    inbox: Sender<Box<[u8]>>,
    /// Datagrams until the next one begins another session; `None`: no limit.
    left: Option<u64>,
}

/// A session's side of the socket.
pub struct Client {
    table: Rc<Table>,
    key: Key,
    id: u64,
    pub inbox: Receiver<Box<[u8]>>,
}

impl Client {
    /// Sends a datagram to the client. If the kernel has no room for it, it is lost, as it could be on its way.
    pub fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        let (to, from) = self.key;
        datagram::send(self.table.io.as_fd(), bytes, to, from)
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
    let io = match Io::register(fd) {
        Ok(io) => io,
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
    let table =
        Rc::new(Table { io, sessions: RefCell::default(), next: Cell::new(0), is_full: Cell::new(false) });
    loop {
        let is_over = poll_fn(|cx| {
            if stop() {
                return Poll::Ready(true);
            }
            ready!(table.io.poll_budget(cx));
            table.io.poll_readable(cx).map(|_| false)
        });
        if is_over.await || take_some(service, &table, listen) {
            return;
        }
        if table.io.is_hung_up() {
            // Another process has shut the socket down; the master puts that right.
            runtime::sleep(SHUT_MS).await;
        }
    }
}

/// Takes what has arrived. True: the socket was shut down.
fn take_some(service: Service, table: &Rc<Table>, listen: &'static Listen) -> bool {
    thread_local! {
        static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; BYTES_MAX]);
    }
    SPACE.with_borrow_mut(|space| {
        for _ in 0..TURN_MAX {
            match table.io.try_receive(|fd| datagram::receive(fd, space)) {
                Ok(datagram::Received { length, from: Some(from), to }) => {
                    dispatch(service, table, listen, (from, to), &space[..length]);
                }
                Ok(_) => return true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    log::alert!(log::process(), &(), "recvmsg() failed {}", log::Cause(&error));
                    break;
                }
            }
        }
        false
    })
}

/// Gives a datagram to the session of its client, or begins one.
fn dispatch(service: Service, table: &Rc<Table>, listen: &'static Listen, key: Key, bytes: &[u8]) {
    let mut sessions = table.sessions.borrow_mut();
    if let Some(entry) = sessions.get_mut(&key) {
        let _ = entry.inbox.push(bytes.into());
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
    let (inbox, ahead) = queue(WAITING_MAX);
    let id = table.next.get();
    table.next.set(id + 1);
    let server = &service.config().servers[listen.default];
    let requests = Some(server.confs.proxy.requests()).filter(|requests| *requests > 0);
    if requests != Some(1) {
        sessions.insert(key, Entry { id, inbox, left: requests.map(|requests| requests - 1) });
    }
    drop(sessions);
    let client = Client { table: Rc::clone(table), key, id, inbox: ahead };
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
            match client.send(&text) {
                Ok(()) => session.sent += text.len() as u64,
                Err(error) => {
                    log::info!(session.logger(), &*session, "sendmsg() failed {}", log::Cause(&error.into()));
                }
            }
        }
        Some(Content::Pass) => {
            log::error!(session.logger(), &*session, "\"pass\" is not possible for datagrams");
            session.status = 500;
        }
        None => session.status = 500,
    }
}
