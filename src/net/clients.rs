//! The client connections of this worker, so that operators can see and end them.
//!
//! Each connection has a record while it lives (`open::Guard`): the few facts that are known when it begins, its gauge,
//! and the beginning of the request that is being answered, in memory that connections at rest do not hold. Addresses
//! are asked of the kernel when somebody looks. Touches: sockets, when they are ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::net::transport::Probe;
use crate::runtime;
use crate::shm::counter::Total;
use crate::sys::address::SockAddr;

/// Maximum number of connections that a worker lists.
pub const ROWS_MAX: usize = 1024;
/// The longest text of an address in a row, and the beginning of a request that is kept.
pub const TEXT_BYTES_MAX: usize = 120;
/// Requests whose memory is kept for the next ones.
const SPARE_MAX: usize = 256;

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1 = 0,
    Http2 = 1,
    Tcp = 2,
    Udp = 3,
    Http3 = 4,
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
    /// The address of a client without a connection of its own.
    Peer(Box<SockAddr>),
}

impl Known {
    fn request(&self) -> Option<&[u8]> {
        match self {
            Self::Request(beginning) => Some(beginning.line()),
            Self::Short(beginning) => Some(beginning.line()),
            Self::Longer(beginning) => Some(beginning.line()),
            Self::Nothing | Self::Peer(_) => None,
        }
    }
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
    /// The number in the logs; those of streams have the highest bit set.
    pub id: u64,
    /// HTTP/1, HTTP/2, TCP, UDP.
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
pub const PROTOCOLS: [&str; 4] = ["HTTP/1", "HTTP/2", "TCP", "UDP"];
pub const STATES: [&str; 3] = ["waiting", "reading", "answering"];

/// Marks the numbers of streams.
pub const OF_STREAM: u64 = 1 << 63;

thread_local! {
    static CLIENTS: RefCell<Vec<Rc<Client>>> = const { RefCell::new(Vec::new()) };
    #[allow(clippy::vec_box, reason = "each goes to a connection as it is")]
    static SPARE: RefCell<Vec<Box<Beginning<TEXT_BYTES_MAX>>>> = const { RefCell::new(Vec::new()) };
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
        Self { known: Cell::new(Known::Peer(Box::new(peer))), ..Self::new(number, Protocol::Udp, None) }
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
        let kept = match self.known.take() {
            Known::Request(kept) => Some(kept),
            _ => SPARE.with_borrow_mut(Vec::pop),
        };
        let mut beginning = kept.unwrap_or_else(Beginning::new);
        beginning.set(line);
        self.known.set(Known::Request(beginning));
    }

    /// The request becomes a tunnel.
    pub fn lasts(&self) {
        self.known.set(match self.known.take() {
            Known::Request(beginning) if beginning.length <= 31 => Known::Short(shorter(beginning)),
            Known::Request(beginning) if beginning.length <= 63 => Known::Longer(shorter(beginning)),
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
            Known::Nothing | Known::Short(_) | Known::Longer(_) => {}
            Known::Request(beginning) => spare(beginning),
            peer @ Known::Peer(_) => self.known.set(peer),
        }
    }

    fn id(&self) -> u64 {
        match self.protocol.get() {
            Protocol::Http1 | Protocol::Http2 | Protocol::Http3 => self.number & !OF_STREAM,
            Protocol::Tcp | Protocol::Udp => self.number | OF_STREAM,
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
            Known::Peer(peer) => Some((**peer).clone()),
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
fn shorter<const MAX: usize>(beginning: Box<Beginning<TEXT_BYTES_MAX>>) -> Box<Beginning<MAX>> {
    let mut copy = Beginning::new();
    copy.set(beginning.line());
    spare(beginning);
    copy
}

/// Keeps the memory of a request for the next one.
fn spare(beginning: Box<Beginning<TEXT_BYTES_MAX>>) {
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(beginning);
        }
    });
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

/// Ends a connection: its socket is shut down, and its task meets the end as if the client had left. False: there is no
/// such connection, or it has no socket of its own.
pub fn end(id: u64) -> bool {
    let found = CLIENTS.with_borrow(|all| all.iter().find(|client| client.id() == id).cloned());
    found.and_then(|client| client.probe).is_some_and(Probe::shut_down)
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
