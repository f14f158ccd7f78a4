//! The master's view of one worker: its process, its socket, and the listeners and names of its
//! configuration.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::master::keyvals::Untold;
use crate::master::roles::Role;
use crate::master::rules::{Facts, Fault, LEFT_MAX, Ledger, Received, State};
use crate::master::supervisor::WorkerId;
use crate::net::acme::challenges::Challenge;
use crate::net::handover::{Handover, MovedSession, MovedTunnel, NO_LISTENER, STATE_BYTES_MAX};
use crate::shared::control::Allowed;
use crate::shm::lanes::Lane;
use crate::sys::address::SockAddr;
use crate::sys::datagram;
use crate::sys::msg;
use crate::sys::nature::{self, Nature};
use crate::sys::sealed;
use crate::sys::socket;
use crate::worker::messages::{BYTES_MAX, ToMaster, ToWorker};

/// The parts of a generation's configuration that message indexes refer to; shared by all of its workers.
#[derive(Debug, Default)]
pub struct Roster {
    pub facts: Facts,
    /// The listeners, in the order of the configuration.
    pub addresses: Vec<SockAddr>,
    /// The index of each.
    listens: HashMap<SockAddr, u32>,
    /// By port, the listeners on all IPv6 addresses that accept IPv4 too.
    dual_stack: HashMap<u16, u32>,
    /// The servers whose names are looked up.
    pub names: HashMap<(u32, u32), Name>,
    /// Their indexes, by their keys.
    indexes: HashMap<String, Vec<(u32, u32)>>,
}

/// A name that the prober looks up.
#[derive(Clone, Debug)]
pub struct Name {
    /// Its key in `upstream/known.rs`.
    pub key: String,
    /// The name of its group in shared memory.
    pub group: Box<str>,
    /// Its addresses have places there.
    pub is_placed: bool,
}

impl Roster {
    pub fn new(
        addresses: Vec<SockAddr>,
        names: HashMap<(u32, u32), Name>,
        connections_max: u64,
        allowed: Allowed,
    ) -> Self {
        let indexes = 0..u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let listens = addresses.iter().cloned().zip(indexes).collect();
        let followed = names.keys().copied().collect();
        let facts =
            Facts { listen_count: addresses.len(), connections_max, followed, allowed, ..Facts::default() };
        let mut by_key: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
        for (index, name) in &names {
            by_key.entry(name.key.clone()).or_default().push(*index);
        }
        Self { facts, addresses, listens, dual_stack: HashMap::new(), names, indexes: by_key }
    }

    /// The servers whose name has this key.
    pub fn named(&self, key: &str) -> &[(u32, u32)] {
        self.indexes.get(key).map_or(&[], Vec::as_slice)
    }

    /// Adds the ports on which sockets of both families listen.
    pub fn with_dual_stack(self, ports: impl Iterator<Item = u16>) -> Self {
        let any = |port| SockAddr::Inet((std::net::Ipv6Addr::UNSPECIFIED, port).into());
        let dual_stack = ports.filter_map(|port| Some((port, *self.listens.get(&any(port))?))).collect();
        Self { dual_stack, ..self }
    }

    /// The listener for a connection with this local address: that of the address itself, or that of its port
    /// on all addresses, its own family first.
    pub fn listener_of(&self, local: &SockAddr) -> Option<u32> {
        let find = |address: &SockAddr| self.listens.get(address).copied();
        let of_family = |local: &SockAddr| find(local).or_else(|| wildcards(local).iter().find_map(find));
        let as_ipv4 = as_ipv4(local);
        let of_both = || local.port().and_then(|port| self.dual_stack.get(&port).copied());
        of_family(local).or_else(|| as_ipv4.as_ref().and_then(of_family)).or_else(of_both)
    }
}

/// The plain form of the address of an IPv4 client on a socket of both families, which has it in IPv6 form.
fn as_ipv4(local: &SockAddr) -> Option<SockAddr> {
    let inet = local.inet().filter(|inet| inet.ip().to_canonical() != inet.ip())?;
    Some(SockAddr::Inet((inet.ip().to_canonical(), inet.port()).into()))
}

/// True if a connection with this local address may belong to the listener of an address, perhaps only since
/// a reload.
fn accepts(listener: &SockAddr, local: &SockAddr) -> bool {
    let of_family = |local: &SockAddr| listener == local || wildcards(local).contains(listener);
    let is_of_both = |listener: &SockAddr| {
        let is_any = listener.ip() == Some(std::net::Ipv6Addr::UNSPECIFIED.into());
        is_any && listener.port() == local.port()
    };
    of_family(local) || as_ipv4(local).as_ref().is_some_and(of_family) || is_of_both(listener)
}

/// The wildcard addresses with the port of a local one.
fn wildcards(local: &SockAddr) -> Vec<SockAddr> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    let Some(inet) = local.inet() else { return Vec::new() };
    let any = |ip: IpAddr| SockAddr::Inet(SocketAddr::new(ip, inet.port()));
    match inet.ip() {
        IpAddr::V4(_) => vec![any(Ipv4Addr::UNSPECIFIED.into())],
        IpAddr::V6(_) => vec![any(Ipv6Addr::UNSPECIFIED.into())],
    }
}

/// The process and the socket of a worker, or of the prober. Decisions about it are in its `Member` (`supervisor.rs`).
#[derive(Debug)]
pub struct Worker {
    pub id: WorkerId,
    pub pid: i32,
    pub role: Role,
    pub roster: Rc<Roster>,
    pub lane: Lane,
    pub control: OwnedFd,
    /// The worker's own end, kept so that messages which a dead worker has not read are not lost.
    pub far_end: OwnedFd,
    pub ledger: Ledger,
    /// The sequence number of the last message that was sent to it.
    pub sent: u32,
    /// The orders for which its socket had no room, in their order. Nothing else is sent before them.
    pub unsent: VecDeque<ToWorker>,
    /// The names about which there is news for it.
    pub news: BTreeSet<(u32, u32)>,
    /// The positions of upstream groups whose servers were changed, and it does not know yet.
    pub edited: BTreeSet<(u32, u32)>,
    /// The changes of key-value zones that it does not know yet.
    pub keyvals: Untold,
    /// The challenges that it has told, and that not all others know yet.
    pub challenges: VecDeque<Challenge>,
    /// Its socket had no room for the last connection.
    pub is_full: bool,
    /// Connections of other workers that were sent to it.
    pub adopted: u64,
    /// It may receive datagrams: no worker of another generation does.
    pub receives: bool,
    /// It is stuck, and has not said where it is.
    pub is_sought: bool,
    /// It is the prober, and was told that the prober of another master checks. A keeper of certificates begins with a pause.
    pub is_paused: bool,
}

impl Worker {
    /// Sends a message; false if its socket is full or gone.
    pub fn send(&mut self, message: &ToWorker) -> bool {
        self.send_with(message, &[])
    }

    /// Sends an order that must not be lost. If the socket is full it follows as soon as there is room
    /// ([`Worker::send_orders`]); an order that waits already is not added again, so that few can wait.
    pub fn order(&mut self, message: ToWorker) {
        if !self.unsent.contains(&message) {
            self.unsent.push_back(message);
        }
        self.send_orders();
    }

    /// Sends a change of the challenges. A removal of all makes those that wait pointless.
    pub fn order_challenge(&mut self, challenge: &Challenge) {
        if *challenge == Challenge::clear() {
            self.unsent.retain(|message| !matches!(message, ToWorker::Challenge(_)));
        }
        self.order(ToWorker::Challenge(challenge.clone()));
    }

    /// Sends the orders that wait; false if there is no room yet.
    pub fn send_orders(&mut self) -> bool {
        while let Some(message) = self.unsent.front() {
            match send(&self.control, &mut self.sent, message, &[]) {
                Err(nix::Error::EAGAIN) => return false,
                // Its socket is gone: its end will be noticed.
                Ok(()) | Err(_) => self.unsent.pop_front(),
            };
        }
        true
    }

    /// Sends a connection; false if its socket is full or gone.
    pub fn adopt(&mut self, listen: u32, connection: &Connection) -> bool {
        let message = match &connection.cargo {
            Cargo::Idle(handover) => ToWorker::Adopt(Handover { listen, ..handover.clone() }),
            Cargo::Tunnel(tunnel) => ToWorker::AdoptTunnel(MovedTunnel { listen, ..tunnel.clone() }),
            Cargo::Session(session) => ToWorker::AdoptSession(MovedSession { listen, ..session.clone() }),
        };
        let is_sent = self.send_with(&message, &connection.fds);
        self.is_full |= !is_sent;
        self.adopted += u64::from(is_sent);
        is_sent
    }

    /// Sends a newer certificate in sealed memory; false if its socket is full or gone.
    pub fn replace_certificate(&mut self, pair: u32, parcel: &OwnedFd) -> bool {
        self.send_with(&ToWorker::Certificate(pair), std::slice::from_ref(parcel))
    }

    /// True if this is a process of the role, and does not know yet whether it pauses.
    pub fn is_untold_of_pause(&self, role: Role, is_paused: bool) -> bool {
        self.role == role && self.is_paused != is_paused
    }

    /// Sends a ping; false if there was no room for it.
    pub fn ping(&mut self) -> bool {
        let is_sent = self.send(&ToWorker::Ping);
        if is_sent {
            self.ledger.ask(self.sent);
        }
        is_sent
    }

    /// True if there are changes that it does not know yet.
    pub fn has_untold(&self) -> bool {
        !self.edited.is_empty() || !self.keyvals.is_empty()
    }

    fn send_with(&mut self, message: &ToWorker, fds: &[OwnedFd]) -> bool {
        self.send_orders() && send(&self.control, &mut self.sent, message, fds).is_ok()
    }

    /// Reads the next message into `buffer`, and judges it. `None`: there is none. `Ok(None)`: it cannot be used.
    #[allow(clippy::type_complexity, reason = "three answers, each named above")]
    pub fn hear(
        &mut self,
        buffer: &mut [u8; BYTES_MAX],
        state: State,
        now_ms: u64,
    ) -> Option<Result<Option<(ToMaster, Vec<OwnedFd>)>, Fault>> {
        let message = match msg::receive(self.control.as_fd(), buffer) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN) => return None,
            // The worker has ended with messages of ours unread; those that it had sent still arrive
            // (unix(7)).
            Err(_) => return None,
        };
        let received = Received {
            bytes: &buffer[..message.length],
            fd_count: message.fds.len(),
            is_cut: message.is_cut,
            has_lost_fds: message.has_lost_fds,
        };
        let judged = self.ledger.judge(self.role, state, &self.roster.facts, received, now_ms);
        Some(judged.map(|heard| heard.map(|heard| (heard, message.fds))))
    }

    /// Takes over a connection. `Ok(None)`: its client is gone.
    pub fn receive_connection(&self, handover: Handover, fd: OwnedFd) -> Result<Option<Connection>, Fault> {
        let Some(listener) = self.roster.addresses.get(handover.listen as usize) else {
            return Err(Fault::UnknownListener(handover.listen));
        };
        match nature::of(fd.as_fd()) {
            Nature::Other(what) => Err(Fault::NoConnection(what)),
            Nature::Unconnected | Nature::Ended(_) => Ok(None),
            Nature::Connected(local) if accepts(listener, &local) => {
                Ok(Connection::new(handover, listener.clone(), fd, false))
            }
            Nature::Connected(_) => Err(Fault::OtherAddress),
        }
    }

    /// Takes over a tunnel. `Ok(None)`: one of its ends is gone. An end that is closed in both directions is not: the
    /// last bytes of its peer may wait to be read.
    ///
    /// The upstream's connection may lead anywhere: the worker that sends it has made it.
    pub fn receive_tunnel(
        &self,
        tunnel: MovedTunnel,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Connection>, Fault> {
        let listener = match tunnel.listen {
            NO_LISTENER => None,
            listen => {
                let known = self.roster.addresses.get(listen as usize);
                Some(known.ok_or(Fault::UnknownListener(listen))?)
            }
        };
        let [client, upstream, memory @ ..] = &fds[..] else { return Ok(None) };
        match (nature::of(client.as_fd()), nature::of(upstream.as_fd())) {
            (Nature::Other(what), _) | (_, Nature::Other(what)) => return Err(Fault::NoConnection(what)),
            (Nature::Unconnected, _) | (_, Nature::Unconnected) => return Ok(None),
            (Nature::Connected(local) | Nature::Ended(local), _) => {
                if listener.is_some_and(|listener| !accepts(listener, &local)) {
                    return Err(Fault::OtherAddress);
                }
            }
        }
        if !memory.iter().all(|memory| sealed::is_sealed(memory.as_fd(), STATE_BYTES_MAX)) {
            return Err(Fault::OpenMemory);
        }
        Ok(Some(Connection::of_tunnel(tunnel, listener.cloned(), fds, false)))
    }

    /// Takes over a session of datagrams. `Ok(None)`: its upstream's socket is not connected any more.
    ///
    /// Its client is the one that the worker names: it could have received that client's datagrams as well.
    pub fn receive_session(&self, session: MovedSession, fd: OwnedFd) -> Result<Option<Connection>, Fault> {
        let listener = self.roster.addresses.get(session.listen as usize);
        let Some(address) = listener.filter(|address| address.is_datagram()) else {
            return Err(Fault::UnknownListener(session.listen));
        };
        match datagram::is_connected(fd.as_fd()) {
            None => Err(Fault::NoConnection("a socket of another kind")),
            Some(false) => Ok(None),
            Some(true) => Ok(Connection::of_session(session, address.clone(), fd, false)),
        }
    }

    /// The connections that were sent to it and that it will never read.
    pub fn unread(&self) -> Vec<Connection> {
        let mut found = Vec::new();
        let mut buffer = [0; BYTES_MAX];
        for _ in 0..LEFT_MAX {
            let Ok(mut message) = msg::receive(self.far_end.as_fd(), &mut buffer) else { break };
            // We wrote these messages; the worker may have removed descriptors, but cannot have added any.
            let address = |listen: u32| self.roster.addresses.get(listen as usize).cloned();
            match ToWorker::from_bytes(&buffer[..message.length]) {
                Some((_, ToWorker::Adopt(handover))) => {
                    if let (Some(address), Some(fd)) = (address(handover.listen), message.fds.pop()) {
                        found.extend(Connection::new(handover, address, fd, false));
                    }
                }
                Some((_, ToWorker::AdoptSession(session))) => {
                    if let (Some(address), Some(fd)) = (address(session.listen), message.fds.pop()) {
                        found.extend(Connection::of_session(session, address, fd, false));
                    }
                }
                Some((_, ToWorker::AdoptTunnel(tunnel))) if message.fds.len() == tunnel.fd_count() => {
                    let address = address(tunnel.listen);
                    found.push(Connection::of_tunnel(tunnel, address, message.fds, false));
                }
                _ => {}
            }
        }
        found
    }
}

/// Sends one message under the next sequence number.
fn send(control: &OwnedFd, sent: &mut u32, message: &ToWorker, fds: &[OwnedFd]) -> nix::Result<()> {
    let sequence = sent.wrapping_add(1);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    msg::send(control.as_fd(), &message.to_bytes(sequence), &fds)?;
    *sent = sequence;
    Ok(())
}

/// The facts that travel with a connection.
#[derive(Debug)]
pub enum Cargo {
    Idle(Handover),
    Tunnel(MovedTunnel),
    Session(MovedSession),
}

/// An idle connection, a tunnel or a session of datagrams, between two workers.
#[derive(Debug)]
pub struct Connection {
    pub cargo: Cargo,
    /// The listener it was accepted on; `None` for a tunnel that has none any more.
    pub address: Option<SockAddr>,
    /// The client's connection first.
    pub fds: Vec<OwnedFd>,
    /// It came from the other master, so it does not go back there.
    pub is_from_link: bool,
}

impl Connection {
    /// `None`: the descriptor cannot be made non-blocking.
    pub fn new(handover: Handover, address: SockAddr, fd: OwnedFd, is_from_link: bool) -> Option<Self> {
        socket::set_nonblocking(fd.as_fd()).ok()?;
        Some(Self { cargo: Cargo::Idle(handover), address: Some(address), fds: vec![fd], is_from_link })
    }

    /// `None`: the descriptor cannot be made non-blocking.
    pub fn of_session(
        session: MovedSession,
        address: SockAddr,
        fd: OwnedFd,
        is_from_link: bool,
    ) -> Option<Self> {
        socket::set_nonblocking(fd.as_fd()).ok()?;
        Some(Self { cargo: Cargo::Session(session), address: Some(address), fds: vec![fd], is_from_link })
    }

    /// The worker that takes it over makes its descriptors non-blocking: there may be tens of thousands.
    pub fn of_tunnel(
        tunnel: MovedTunnel,
        address: Option<SockAddr>,
        fds: Vec<OwnedFd>,
        is_from_link: bool,
    ) -> Self {
        Self { cargo: Cargo::Tunnel(tunnel), address, fds, is_from_link }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::handover::TunnelState;

    fn inet(text: &str) -> SockAddr {
        SockAddr::Inet(text.parse().expect("an address"))
    }

    #[test]
    fn a_connection_belongs_to_the_closest_listener() {
        let addresses = ["0.0.0.0:80", "127.0.0.1:80", "[::]:81"].map(inet).to_vec();
        let roster = Roster::new(addresses, HashMap::new(), 1, Allowed::Nothing);
        let of = |text| roster.listener_of(&inet(text));
        assert_eq!((of("127.0.0.1:80"), of("127.0.0.2:80")), (Some(1), Some(0)));
        assert_eq!((of("[::1]:81"), of("[::ffff:127.0.0.1]:81")), (Some(2), Some(2)));
        assert_eq!((of("127.0.0.1:81"), of("[::1]:80")), (None, None));
        assert_eq!(roster.listener_of(&SockAddr::Unix("/run/a".into())), None);
        assert_eq!(of("[::ffff:127.0.0.1]:80"), Some(1), "a client of what was a socket of both families");
        let roster = roster.with_dual_stack([80, 81].into_iter());
        let of = |text| roster.listener_of(&inet(text));
        assert_eq!((of("127.0.0.1:81"), of("127.0.0.1:80"), of("[::1]:80")), (Some(2), Some(1), None));
    }

    /// A process that does not run, with a small socket, and what it would read.
    fn worker() -> Worker {
        let (control, far_end) = msg::pair().expect("a pair");
        Worker {
            id: 1,
            pid: 0,
            role: Role::Worker,
            roster: Rc::default(),
            lane: Lane::of_number(1).expect("a lane"),
            control,
            far_end,
            ledger: Ledger::default(),
            sent: 0,
            unsent: VecDeque::new(),
            news: BTreeSet::new(),
            edited: BTreeSet::new(),
            keyvals: Untold::default(),
            challenges: VecDeque::new(),
            is_full: false,
            adopted: 0,
            receives: true,
            is_sought: false,
            is_paused: false,
        }
    }

    #[test]
    fn a_session_comes_with_a_connected_socket_of_datagrams_of_a_listener_for_them() {
        use std::net::UdpSocket;

        let datagram = SockAddr::Datagram(Box::new(([127, 0, 0, 1], 53).into()));
        let addresses = vec![inet("127.0.0.1:53"), datagram.clone()];
        let worker = Worker {
            roster: Rc::new(Roster::new(addresses, HashMap::new(), 1, Allowed::Nothing)),
            ..worker()
        };
        let session = |listen| {
            let (client, state) = (([192, 0, 2, 1], 53).into(), TunnelState::default());
            MovedSession { listen, client, state }
        };
        let open = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let connected = || {
            let socket = open();
            socket.connect(socket.local_addr().expect("bound")).expect("connects");
            OwnedFd::from(socket)
        };
        let taken = worker.receive_session(session(1), connected()).expect("no fault").expect("it is taken");
        assert_eq!((taken.address, taken.fds.len(), taken.is_from_link), (Some(datagram), 1, false));
        assert!(worker.receive_session(session(1), open().into()).is_ok_and(|taken| taken.is_none()));
        for listen in [0, 2, NO_LISTENER] {
            let fault = worker.receive_session(session(listen), connected()).expect_err("a fault");
            assert_eq!(fault, Fault::UnknownListener(listen));
        }
        let (stream, _other) = msg::pair().expect("a pair");
        let fault = worker.receive_session(session(1), stream).expect_err("a fault");
        assert_eq!(fault, Fault::NoConnection("a socket of another kind"));
    }

    fn next_of(worker: &Worker) -> Option<(u32, ToWorker)> {
        let mut buffer = [0; BYTES_MAX];
        let message = msg::receive(worker.far_end.as_fd(), &mut buffer).ok()?;
        ToWorker::from_bytes(&buffer[..message.length])
    }

    #[test]
    fn an_order_waits_for_room_and_goes_first() {
        let mut worker = worker();
        let filled = (0..1_000_000).take_while(|_| worker.ping()).count();
        worker.order(ToWorker::Reopen);
        worker.order(ToWorker::Reopen);
        worker.order(ToWorker::Drain);
        assert_eq!(worker.unsent, [ToWorker::Reopen, ToWorker::Drain]);
        for _ in 0..filled {
            assert!(matches!(next_of(&worker), Some((_, ToWorker::Ping))));
        }
        assert!(worker.ping());
        let rest: Vec<_> = std::iter::from_fn(|| next_of(&worker)).map(|(_, message)| message).collect();
        assert_eq!(rest, [ToWorker::Reopen, ToWorker::Drain, ToWorker::Ping]);
        assert_eq!(worker.sent as usize, filled + 3);
    }

    #[test]
    fn challenges_that_wait_make_room_for_a_removal_of_all() {
        let mut worker = worker();
        (0..1_000_000).take_while(|_| worker.ping()).for_each(drop);
        worker.order(ToWorker::Reopen);
        for round in 0..3 {
            for number in 0..100 {
                let name = format!("{round}-{number}").into();
                worker.order_challenge(&Challenge {
                    name,
                    answer: b"x".as_slice().into(),
                    ..Challenge::clear()
                });
            }
            assert_eq!(worker.unsent.len(), if round == 0 { 101 } else { 102 });
            worker.order_challenge(&Challenge::clear());
            assert_eq!(worker.unsent, [ToWorker::Reopen, ToWorker::Challenge(Challenge::clear())]);
        }
    }

    #[test]
    fn an_order_to_a_worker_that_is_gone_is_dropped() {
        let mut worker = worker();
        worker.far_end = tempfile::tempfile().expect("a file").into();
        worker.order(ToWorker::Drain);
        assert!(worker.unsent.is_empty() && worker.send_orders() && !worker.ping());
    }

    #[test]
    fn a_listener_accepts_its_own_addresses_only() {
        assert!(accepts(&inet("0.0.0.0:80"), &inet("10.0.0.1:80")));
        assert!(accepts(&inet("10.0.0.1:80"), &inet("10.0.0.1:80")));
        assert!(!accepts(&inet("10.0.0.1:80"), &inet("10.0.0.2:80")));
        assert!(!accepts(&inet("0.0.0.0:80"), &inet("10.0.0.1:81")));
        assert!(!accepts(&inet("0.0.0.0:80"), &SockAddr::Unix("".into())));
        // A connection over a socket of both families may belong to an IPv4 listener now, and vice versa.
        assert!(accepts(&inet("10.0.0.1:80"), &inet("[::ffff:10.0.0.1]:80")));
        assert!(accepts(&inet("[::]:80"), &inet("10.0.0.1:80")));
        assert!(!accepts(&inet("[::]:80"), &inet("10.0.0.1:81")));
        assert!(!accepts(&inet("[::]:80"), &SockAddr::Unix("".into())));
        assert!(accepts(&SockAddr::Unix("/run/a".into()), &SockAddr::Unix("/run/a".into())));
        assert!(!accepts(&SockAddr::Unix("/run/a".into()), &SockAddr::Unix("".into())));
    }
}
