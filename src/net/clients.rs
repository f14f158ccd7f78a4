//! The client connections of this worker, so that operators can see and end them.
//!
//! Each connection has a record while it lives (`open::Guard`): the few facts that are known when it begins, its gauge,
//! and the beginning of the request that is being answered, in memory that connections at rest do not hold. Addresses
//! are asked of the kernel when somebody looks. Touches: sockets, when they are ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::net::transport::Probe;
use crate::runtime;
use crate::shm::counter::Total;
use crate::sys::address::SockAddr;

/// Maximum number of connections that a worker lists.
pub const ROWS_MAX: usize = 1024;
/// The longest text of an address in a row, and the beginning of a request that is kept.
pub const TEXT_BYTES_MAX: usize = 120;

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1 = 0,
    Http2 = 1,
    Tcp = 2,
    Udp = 3,
    Http3 = 4,
    Imap = 5,
    Pop3 = 6,
    Smtp = 7,
    Ftp = 8,
}

/// The record of a connection.
pub struct Client {
    number: u64,
    protocol: Cell<Protocol>,
    probe: Option<Probe>,
    opened_ms: u64,
    gauge: Cell<Total>,
    requests: Cell<u32>,
    known: Cell<Known>,
    /// Its index in the list.
    index: Cell<u32>,
}

/// The things that operators see besides the connection.
#[derive(Default)]
enum Known {
    #[default]
    Nothing,
    /// The request that is being answered.
    Request(Box<Beginning<TEXT_BYTES_MAX>>),
    /// The requests of tunnels, which may last for days, in as little memory as they need.
    Short(Box<Beginning<31>>),
    Longer(Box<Beginning<63>>),
    /// A client without a socket of its own.
    Remote(Box<Remote>),
}

impl Known {
    fn request(&self) -> Option<&[u8]> {
        match self {
            Self::Request(beginning) => Some(beginning.line()),
            Self::Short(beginning) => Some(beginning.line()),
            Self::Longer(beginning) => Some(beginning.line()),
            Self::Nothing | Self::Remote(_) => None,
        }
    }
}

/// A client whose datagrams arrive at a socket that it shares with others.
struct Remote {
    peer: SockAddr,
    /// The task of its connection, if it is one that an operator may end.
    task: Option<Waker>,
    /// An operator has ended it, or it has to give way.
    is_ended: bool,
    /// Since when it only waits.
    rested_ms: u64,
}

/// The beginning of a request line.
struct Beginning<const MAX: usize> {
    length: u8,
    bytes: [u8; MAX],
}

impl<const MAX: usize> Beginning<MAX> {
    fn new() -> Box<Self> {
        Box::new(Self { length: 0, bytes: [0; MAX] })
    }

    fn set(&mut self, line: &[u8]) {
        let length = line.len().min(MAX);
        self.bytes[..length].copy_from_slice(&line[..length]);
        self.length = length as u8;
    }

    fn line(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

const _: () = assert!(TEXT_BYTES_MAX <= u8::MAX as usize);

/// A connection as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The number in the logs; those of streams and of mail have the highest bit set.
    pub id: u64,
    /// The index of its name in [`PROTOCOLS`].
    pub protocol: u8,
    /// Waiting, reading, answering.
    pub state: u8,
    pub age_ms: u64,
    pub requests: u32,
    pub peer: Box<[u8]>,
    pub local: Box<[u8]>,
    pub request: Box<[u8]>,
}

/// The names of [`Row::protocol`] and [`Row::state`].
pub const PROTOCOLS: [&str; 9] = ["HTTP/1", "HTTP/2", "TCP", "UDP", "HTTP/3", "IMAP", "POP3", "SMTP", "FTP"];
pub const STATES: [&str; 3] = ["waiting", "reading", "answering"];

/// Marks the numbers of streams and of mail, which are one series.
pub const OF_STREAM: u64 = 1 << 63;

thread_local! {
    static CLIENTS: RefCell<Vec<Rc<Client>>> = const { RefCell::new(Vec::new()) };
    static ON_END: Cell<Option<fn(u64)>> = const { Cell::new(None) };
}

/// Has a function called with the number of each client's connection that ends from now on. There is room for one.
pub fn on_end(hook: fn(u64)) {
    ON_END.set(Some(hook));
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Client({}, {:?})", self.number, self.protocol)
    }
}

impl Client {
    pub fn new(number: u64, protocol: Protocol, probe: Option<Probe>) -> Self {
        Self {
            number,
            protocol: Cell::new(protocol),
            probe,
            opened_ms: runtime::now_ms(),
            gauge: Cell::new(Total::Waiting),
            requests: Cell::new(0),
            known: Cell::default(),
            index: Cell::new(0),
        }
    }

    /// The serial number of the connection.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A client that sends datagrams.
    pub fn of_datagrams(number: u64, peer: SockAddr) -> Self {
        let remote = Remote { peer, task: None, is_ended: false, rested_ms: runtime::now_ms() };
        Self { known: Cell::new(Known::Remote(Box::new(remote))), ..Self::new(number, Protocol::Udp, None) }
    }

    /// Ready once an operator has ended the connection of a client that sends datagrams. One that is asked for this can be
    /// ended.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut known = self.known.take();
        let mut is_ended = false;
        if let Known::Remote(remote) = &mut known {
            is_ended = remote.is_ended;
            match &mut remote.task {
                Some(task) => task.clone_from(cx.waker()),
                task => *task = Some(cx.waker().clone()),
            }
        }
        self.known.set(known);
        if is_ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Has the task of such a connection end it. False: it cannot be ended.
    fn end_remote(&self) -> bool {
        let mut known = self.known.take();
        let mut task = None;
        if let Known::Remote(remote) = &mut known {
            task = remote.task.take();
            remote.is_ended |= task.is_some();
        }
        self.known.set(known);
        task.map(Waker::wake).is_some()
    }

    pub(super) fn enlist(self) -> Rc<Self> {
        let client = Rc::new(self);
        CLIENTS.with_borrow_mut(|all| {
            client.index.set(all.len() as u32);
            all.push(Rc::clone(&client));
        });
        client
    }

    pub(super) fn leave(&self) {
        let index = self.index.get() as usize;
        let own = CLIENTS.try_with(|all| {
            let mut all = all.borrow_mut();
            let own = (index < all.len()).then(|| all.swap_remove(index));
            if let Some(moved) = all.get(index) {
                moved.index.set(index as u32);
            }
            own
        });
        self.forget_request();
        drop(own);
        if let Ok(Some(hook)) = ON_END.try_with(Cell::get) {
            hook(self.number);
        }
    }

    #[inline]
    pub(super) fn gauge(&self) -> Total {
        self.gauge.get()
    }

    #[inline]
    pub(super) fn turn(&self, gauge: Total) {
        self.gauge.set(gauge);
        if gauge == Total::Waiting {
            self.forget_request();
        }
    }

    /// The connection goes on with another protocol.
    pub fn speaks(&self, protocol: Protocol) {
        self.protocol.set(protocol);
    }

    /// Notes a request, of which `line` is the request line up to the end of the target.
    #[inline]
    pub fn asks(&self, line: &[u8]) {
        self.requests.set(self.requests.get().wrapping_add(1));
        let mut beginning = Beginning::new();
        beginning.set(line);
        self.known.set(Known::Request(beginning));
    }

    /// The request becomes a tunnel.
    pub fn lasts(&self) {
        self.known.set(match self.known.take() {
            Known::Request(beginning) if beginning.length <= 31 => Known::Short(shorter(&beginning)),
            Known::Request(beginning) if beginning.length <= 63 => Known::Longer(shorter(&beginning)),
            other => other,
        });
    }

    /// Notes one more request of a connection that carries several at a time.
    pub fn asks_once_more(&self) {
        self.requests.set(self.requests.get().wrapping_add(1));
    }

    #[inline]
    fn forget_request(&self) {
        match self.known.take() {
            Known::Nothing | Known::Request(_) | Known::Short(_) | Known::Longer(_) => {}
            Known::Remote(mut remote) => {
                remote.rested_ms = runtime::now_ms();
                self.known.set(Known::Remote(remote));
            }
        }
    }

    /// Since when the connection of a client that sends datagrams only waits, if it does, and can be ended.
    fn rested_ms(&self) -> Option<u64> {
        let known = self.known.take();
        let rested_ms = match &known {
            Known::Remote(remote) if remote.task.is_some() && self.gauge.get() == Total::Waiting => {
                Some(remote.rested_ms)
            }
            _ => None,
        };
        self.known.set(known);
        rested_ms
    }

    fn id(&self) -> u64 {
        match self.protocol.get() {
            Protocol::Http1 | Protocol::Http2 | Protocol::Http3 => self.number & !OF_STREAM,
            Protocol::Tcp
            | Protocol::Udp
            | Protocol::Imap
            | Protocol::Pop3
            | Protocol::Smtp
            | Protocol::Ftp => self.number | OF_STREAM,
        }
    }

    fn row(&self) -> Row {
        let text = |address: Option<SockAddr>| -> Box<[u8]> {
            let text = address.map(|address| address.to_string()).unwrap_or_default();
            text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)].into()
        };
        let known = self.known.take();
        // A client may send empty lines first (RFC 9112 §2.2).
        let request = known.request().map(|line| line.trim_ascii_start().into());
        let peer = match &known {
            Known::Remote(remote) => Some(remote.peer.clone()),
            _ => self.probe.and_then(Probe::peer_addr),
        };
        self.known.set(known);
        let state = match self.gauge.get() {
            Total::Reading => 1,
            Total::Writing => 2,
            _ => 0,
        };
        Row {
            id: self.id(),
            protocol: self.protocol.get() as u8,
            state,
            age_ms: runtime::now_ms().saturating_sub(self.opened_ms),
            requests: self.requests.get(),
            peer: text(peer),
            local: text(self.probe.and_then(Probe::local_addr)),
            request: request.unwrap_or_default(),
        }
    }
}

/// Copies a request to a smaller place, which has room for it.
fn shorter<const MAX: usize>(beginning: &Beginning<TEXT_BYTES_MAX>) -> Box<Beginning<MAX>> {
    let mut copy = Beginning::new();
    copy.set(beginning.line());
    copy
}

/// The number of connections, and rows for those that matter most: requests that are being answered, the oldest first,
/// then the other connections.
pub fn list() -> (u32, Vec<Rc<Client>>) {
    let mut all = CLIENTS.with_borrow(Clone::clone);
    let total = all.len();
    let key = |client: &Rc<Client>| (client.gauge.get() != Total::Writing, client.opened_ms);
    if total > ROWS_MAX {
        all.select_nth_unstable_by_key(ROWS_MAX, key);
        all.truncate(ROWS_MAX);
    }
    all.sort_by_key(key);
    (u32::try_from(total).unwrap_or(u32::MAX), all)
}

/// The rows of connections.
pub fn rows(clients: &[Rc<Client>]) -> Vec<Row> {
    clients.iter().map(|client| client.row()).collect()
}

/// Ends as many of the connections of QUIC that only wait as this share, at most `most`; those that have waited for the
/// longest time. Returns their number.
///
/// Looks at all connections, so it is for shortages.
pub fn end_resting(share: usize, most: usize) -> usize {
    let chosen: Vec<Rc<Client>> = CLIENTS.with_borrow(|all| {
        let rest = |(index, client): (usize, &Rc<Client>)| Some((client.rested_ms()?, index));
        let mut resting: Vec<(u64, usize)> = all.iter().enumerate().filter_map(rest).collect();
        let count = (resting.len() / share.max(1)).clamp(1, most).min(resting.len());
        if count < resting.len() {
            resting.select_nth_unstable(count);
        }
        resting[..count].iter().map(|(_, index)| Rc::clone(&all[*index])).collect()
    });
    chosen.iter().filter(|client| client.end_remote()).count()
}

/// Ends a connection: its socket is shut down, and its task meets the end as if the client had left; the client of a
/// connection of QUIC is told. False: there is no such connection, or it is a session of UDP.
pub fn end(id: u64) -> bool {
    let found = CLIENTS.with_borrow(|all| all.iter().find(|client| client.id() == id).cloned());
    found.is_some_and(|client| match client.probe {
        Some(probe) => probe.shut_down(),
        None => client.end_remote(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::open::Guard;
    use crate::runtime::Runtime;

    fn listed() -> Vec<(u64, u8, String)> {
        let text =
            |row: Row| (row.id & !OF_STREAM, row.state, String::from_utf8_lossy(&row.request).into_owned());
        rows(&list().1).into_iter().map(text).collect()
    }

    #[test]
    fn a_connection_is_listed_while_it_lives_with_the_request_that_it_answers() {
        Runtime::new().expect("a loop").block_on(async {
            let guard = |number| Guard::new(Client::new(number, Protocol::Http1, None));
            let (one, mut two, three) = (guard(1), guard(2), guard(3));
            two.turn(Total::Writing);
            two.client().asks(b"\r\nGET /path");
            assert_eq!(
                listed(),
                [(2, 2, "GET /path".to_owned()), (1, 0, String::new()), (3, 0, String::new())]
            );
            for length in [1, 31, 32, 63, 64, TEXT_BYTES_MAX] {
                two.client().asks(&vec![b'x'; length]);
                two.client().lasts();
                assert_eq!(listed()[0].2, "x".repeat(length), "a tunnel's request stays as it is");
            }
            drop(one);
            two.turn(Total::Waiting);
            assert_eq!(listed().len(), 2);
            assert!(listed().iter().all(|(_, state, request)| *state == 0 && request.is_empty()));
            two.client().asks(&[b'x'; 500]);
            assert_eq!(rows(&list().1).iter().map(|row| row.request.len()).max(), Some(TEXT_BYTES_MAX));
            assert!(!end(2), "it has no socket");
            drop((two, three));
            assert_eq!(listed(), []);
        });
    }

    #[test]
    fn a_client_of_datagrams_is_ended_by_its_task_if_it_has_one() {
        Runtime::new().expect("a loop").block_on(async {
            let peer = SockAddr::Inet(([192, 0, 2, 1], 5).into());
            let (session, quic) = (
                Guard::new(Client::of_datagrams(1, peer.clone())),
                Guard::new(Client::of_datagrams(2, peer)),
            );
            quic.client().speaks(Protocol::Http3);
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                assert!(polls > 1 || quic.client().poll_ended(cx).is_pending());
                assert!(polls > 1 || end(2) && !end(1 | OF_STREAM) && !end(7));
                quic.client().poll_ended(cx)
            })
            .await;
            let found = rows(&list().1);
            let row = found.iter().find(|row| row.id == 2).expect("it is listed");
            assert_eq!((PROTOCOLS[usize::from(row.protocol)], &*row.peer), ("HTTP/3", &b"192.0.2.1:5"[..]));
            drop(session);
        });
    }

    #[test]
    fn connections_of_datagrams_that_rest_give_way_the_longest_idle_first() {
        Runtime::new().expect("a loop").block_on(async {
            let guard =
                |number| Guard::new(Client::of_datagrams(number, SockAddr::Inet(([192, 0, 2, 1], 5).into())));
            let mut guards: Vec<Guard> = (0..8).map(guard).collect();
            guards[0].turn(Total::Writing);
            std::future::poll_fn(|cx| {
                guards[..6].iter().for_each(|guard| assert!(guard.client().poll_ended(cx).is_pending()));
                Poll::Ready(())
            })
            .await;
            // Five rest and can be ended: 1 to 5.
            assert_eq!((end_resting(2, 10), end_resting(1, 1)), (2, 1));
            let mut ended = Vec::new();
            std::future::poll_fn(|cx| {
                ended = guards[..6].iter().map(|guard| guard.client().poll_ended(cx).is_ready()).collect();
                Poll::Ready(())
            })
            .await;
            assert_eq!(ended, [false, true, true, true, false, false]);
            assert_eq!(end_resting(1, 10), 5, "those that have not ended yet, too");
        });
    }

    #[test]
    fn each_protocol_has_its_name() {
        use Protocol::*;
        let names = [Http1, Http2, Tcp, Udp, Http3, Imap, Pop3, Smtp, Ftp]
            .map(|protocol| PROTOCOLS.get(protocol as usize).copied().unwrap_or_default());
        assert_eq!(names, ["HTTP/1", "HTTP/2", "TCP", "UDP", "HTTP/3", "IMAP", "POP3", "SMTP", "FTP"]);
    }

    #[test]
    fn the_list_is_bounded_and_has_those_that_are_answered() {
        Runtime::new().expect("a loop").block_on(async {
            let mut guards: Vec<Guard> =
                (0..3000).map(|number| Guard::new(Client::new(number, Protocol::Tcp, None))).collect();
            guards[2999].turn(Total::Writing);
            let (total, clients) = list();
            assert_eq!((total, clients.len()), (3000, ROWS_MAX));
            let first = &rows(&clients)[0];
            assert_eq!((first.id, first.state), (2999 | OF_STREAM, 2));
        });
    }
}
