//! A listener of QUIC in one worker: clients come in, and their connections begin.
//!
//! Touches: the listening sockets. Bounded: connections by `worker_connections`, of which the longest idle ones give way;
//! handshakes by `ssl_handshakes_max`, with the oldest giving way, and at half of them clients have to prove their addresses
//! first. Behaviour: nginx.org, `listen … quic`, `quic_retry`.

use std::cell::Cell;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Instant;

use quinn_proto::Incoming;

use crate::http::config::server::{Listen, Server};
use crate::http::h3::connection::{Conn, serve};
use crate::http::{Service, handshake};
use crate::log;
use crate::net::datagram::{Answers, Turn, with_receiver};
use crate::net::newcomer::Newcomer;
use crate::net::quic::endpoint::{Arrival, Way};
use crate::net::quic::post::Passed;
use crate::net::quic::session::Choose;
use crate::net::quic::{Endpoint, Post, Settings};
use crate::net::{clients, drain, open, room};
use crate::runtime;
use crate::shared::tls::handshakes;
use crate::shm::counter::{self, Total};
use crate::shm::lanes;
use crate::sys::address::SockAddr;
use crate::sys::datagrams::MESSAGES_MAX;

/// The pause of receiving from a socket that was shut down.
const SHUT_MS: u64 = 500;
/// Messages that are received before other tasks get their turn.
const TURN_MAX: usize = 2 * MESSAGES_MAX;
/// Minimum time between two log lines about too many handshakes.
const TELL_MS: u64 = 1000;

/// The connections of a listener in this worker.
#[derive(Debug)]
pub struct Listener {
    service: Service,
    listen: &'static Listen,
    endpoint: Rc<Endpoint>,
    post: Option<Rc<Post>>,
    /// There was no room for a client, and the log says so.
    is_full: Cell<bool>,
    tell_again_ms: Cell<u64>,
}

impl Listener {
    /// `socket`: one of the listener's. `post`: where datagrams of other processes go.
    pub fn new(
        service: Service,
        listen: &'static Listen,
        socket: Rc<Answers>,
        post: Option<Rc<Post>>,
    ) -> Rc<Self> {
        let server: &Server = &service.config().servers[listen.default];
        let (http3, core) = (&server.root.confs.http3, &server.root.confs.http_core);
        let settings = Settings {
            keys: http3.keys(),
            streams_max: http3.max_concurrent_streams(),
            stream_bytes: http3.stream_buffer_size(),
            idle_ms: core.keepalive_timeout_ms(),
            sends_bursts: http3.sends_bursts(),
            lane: lanes::mine().number(),
        };
        let endpoint = Endpoint::new(&settings, socket);
        lanes::tell_taken(hash(listen.address.inet()));
        let (is_full, tell_again_ms) = (Cell::new(false), Cell::new(0));
        Rc::new(Self { service, listen, endpoint, post, is_full, tell_again_ms })
    }

    fn server(&self) -> &'static Server {
        &self.service.config().servers[self.listen.default]
    }

    /// Receives from a socket as long as `turn` says so, or until it is shut down.
    pub async fn receive(self: Rc<Self>, socket: Rc<Answers>, turn: impl Fn() -> Turn) {
        let io = &socket.io;
        socket.read_marks();
        loop {
            let is_over = poll_fn(|cx| match turn() {
                Turn::Over => Poll::Ready(true),
                Turn::Later => Poll::Pending, // the message that changes it wakes all tasks
                Turn::Now => {
                    ready!(io.poll_budget(cx));
                    io.poll_readable(cx).map(|_| false)
                }
            });
            if is_over.await {
                drop(turn); // with it the worker's lease of the socket
                break;
            }
            if self.take_some(&socket) {
                return;
            }
            if io.is_hung_up() {
                // Another process has shut the socket down; the master puts that right.
                runtime::sleep(SHUT_MS).await;
            }
        }
        // Nobody else will receive at a stop, or at an address that a reload has removed, so connections end here. After other
        // reloads newer workers receive, and pass on what belongs to this one.
        while drain::mode() == drain::Mode::Close || drain::mode() < drain::Mode::Now && socket.is_left() {
            poll_fn(|cx| {
                ready!(io.poll_budget(cx));
                io.poll_readable(cx).map(|_| ())
            })
            .await;
            if self.take_some(&socket) {
                return;
            }
        }
    }

    /// Takes a datagram that another process has passed on.
    fn take_passed(self: &Rc<Self>, passed: &Passed<'_>, now: Instant) {
        if let Arrival::New(incoming) = self.endpoint.take_own(passed.way, passed.bytes, now) {
            match drain::mode() {
                drain::Mode::Serving => self.welcome(*incoming, now),
                _ => self.endpoint.ignore(*incoming),
            }
        }
    }

    /// Takes what has arrived. True: the socket was shut down.
    fn take_some(self: &Rc<Self>, socket: &Answers) -> bool {
        with_receiver(|receiver| {
            let (mut taken, now) = (0, Instant::now());
            while taken < TURN_MAX {
                let receive = |fd: BorrowedFd<'_>| receiver.receive(fd, MESSAGES_MAX);
                let count = match socket.io.try_receive_many(MESSAGES_MAX, receive) {
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
                        continue; // no packet of QUIC is as long
                    }
                    let way = Way { from, to: message.to, mark: message.mark };
                    for bytes in message.datagrams() {
                        self.dispatch(way, bytes, now);
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

    /// Gives a datagram to its connection, or begins one.
    fn dispatch(self: &Rc<Self>, way: Way, bytes: &[u8], now: Instant) {
        match self.endpoint.take(way, bytes, now) {
            Arrival::Handled => {}
            Arrival::New(incoming) => match self.successor(way.from) {
                Some(lane) if self.pass_on(lane, way, bytes) => self.endpoint.ignore(*incoming),
                _ => self.welcome(*incoming, now),
            },
            Arrival::Foreign(lane) => {
                if self.pass_on(lane, way, bytes) {
                    return;
                }
                // Its process is gone: the client is told so.
                if let Arrival::New(incoming) = self.endpoint.take_own(way, bytes, now) {
                    self.endpoint.ignore(*incoming);
                }
            }
        }
    }

    /// Passes a datagram on to the process of a lane. False: there is none.
    fn pass_on(&self, lane: usize, way: Way, bytes: &[u8]) -> bool {
        let (Some(post), Some(listener)) = (&self.post, self.listen.address.inet()) else { return false };
        post.send(lane, &Passed { listener: *listener, way, bytes })
    }

    /// The lane of the process that takes a new client in place of this one, which leaves: an address that one reload has
    /// removed and the next has brought back has sockets of both. It is the same for all packets of a client.
    fn successor(&self, from: SocketAddr) -> Option<usize> {
        if drain::mode() == drain::Mode::Serving {
            return None;
        }
        let (own, here) = (lanes::generation(lanes::mine()), hash(self.listen.address.inet()));
        let takes = |lane: &lanes::Lane| lanes::post(*lane).is_some() && lanes::is_taken(*lane, here);
        let newest = lanes::living().filter(takes).map(lanes::generation).max().filter(|it| *it > own)?;
        let is_of_newest = |lane: &lanes::Lane| takes(lane) && lanes::generation(*lane) == newest;
        let count = lanes::living().filter(is_of_newest).count() as u64;
        let index = hash(from).checked_rem(count)?;
        lanes::living().filter(is_of_newest).nth(index as usize).map(lanes::Lane::number)
    }

    /// Begins the connection of a new client, if there is room for it.
    fn welcome(self: &Rc<Self>, incoming: Incoming, now: Instant) {
        if drain::mode() > drain::Mode::Serving {
            return self.endpoint.refuse(incoming);
        }
        let server = self.server();
        let (http3, ssl) = (&server.root.confs.http3, &self.service.config().root.ssl);
        let (handshakes, most) = (handshakes::under_way(), ssl.handshakes_max());
        let (is_busy, is_short) = (handshakes >= most / 2, room::is_short_for_one_more());
        // Nobody has to give way to a client that may have claimed the address of another.
        if (http3.retries() || is_busy || is_short) && incoming.may_retry() {
            let under_way = format_args!("{handshakes} TLS handshakes are under way");
            let cause = match (is_busy, is_short) {
                (true, _) => Some(under_way),
                (false, true) => Some(format_args!("worker_connections are short")),
                (false, false) => None,
            };
            if let Some(cause) = cause {
                self.tell(format_args!("{cause}: clients of QUIC must prove their addresses first"));
            }
            let _ = self.endpoint.retry(incoming); // it may: see above
            return;
        }
        counter::add(Total::Accepted, 1);
        if open::total() >= room::limit() {
            if room::is_being_made() {
                // The client sends its packet again in a moment, and then there is room.
                return self.endpoint.ignore(incoming);
            }
            if !self.is_full.replace(true) {
                let limit = room::limit();
                log::alert!(
                    log::process(),
                    &(),
                    "{limit} worker_connections are not enough, new QUIC clients are refused: raise \
                     \"worker_connections\", or add workers"
                );
            }
            return self.endpoint.refuse(incoming);
        }
        self.is_full.set(false);
        self.begin(incoming, now);
    }

    fn begin(self: &Rc<Self>, incoming: Incoming, now: Instant) {
        let (service, listen) = (self.service, self.listen);
        let number = service.next_number();
        let peer = SockAddr::Inet(incoming.remote_address());
        let local = match (incoming.local_ip(), listen.address.inet()) {
            (Some(ip), Some(own)) => SockAddr::Inet((ip, own.port()).into()),
            (None, Some(own)) => SockAddr::Inet(*own),
            (_, None) => listen.address.clone(),
        };
        let client = peer.clone();
        let choose: Choose = Rc::new(move |hello| {
            let who =
                Newcomer { number, peer: &client, listener: &listen.address, action: "SSL handshaking" };
            handshake::quic_config(hello, service.worker(), listen, &who)
        });
        match self.endpoint.accept(incoming, choose, now) {
            Ok(quic) => {
                let record = clients::Client::of_datagrams(number, peer);
                let conn = Conn::new(quic, service, listen, (number, local), open::Guard::new(record));
                room::peer_has_come();
                counter::add(Total::Handled, 1);
                runtime::spawn(serve(conn));
            }
            Err(error) => {
                let who =
                    Newcomer { number, peer: &peer, listener: &listen.address, action: "SSL handshaking" };
                log::info!(self.server().root.confs.http_core.log(), &who, "SSL handshake failed: {error}");
            }
        }
    }

    /// True if it is the listener of this address.
    fn is_at(&self, address: SocketAddr) -> bool {
        self.listen.address.inet() == Some(&address)
    }

    fn tell(&self, what: std::fmt::Arguments<'_>) {
        if runtime::now_ms() >= self.tell_again_ms.get() {
            self.tell_again_ms.set(runtime::now_ms() + TELL_MS);
            log::warn!(log::process(), &(), "{what}");
        }
    }
}

/// The same in all processes.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Takes the datagrams that other processes pass on, for the worker's life. `listeners`: those that there are.
pub async fn take_post(post: Rc<Post>, listeners: impl Fn() -> Vec<Rc<Listener>>) {
    loop {
        poll_fn(|cx| {
            ready!(post.io.poll_budget(cx));
            post.io.poll_readable(cx).map(|_| ())
        })
        .await;
        let (listeners, now) = (listeners(), Instant::now());
        with_receiver(|receiver| {
            let receive = |fd: BorrowedFd<'_>| receiver.receive(fd, MESSAGES_MAX);
            let count = post.io.try_receive_many(MESSAGES_MAX, receive).unwrap_or(0);
            for message in (0..count).map(|index| receiver.message(index)) {
                let Some(passed) = post.read(message.bytes).filter(|_| !message.is_cut) else { continue };
                for listener in listeners.iter().filter(|listener| listener.is_at(passed.listener)) {
                    listener.take_passed(&passed, now);
                }
            }
            runtime::charge(count as u32);
        });
    }
}
