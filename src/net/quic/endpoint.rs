//! All QUIC connections of one listener in this worker: datagrams come in and find their connection.
//!
//! Touches: the listener's sockets. Bounded: datagrams of one connection that wait for its task; the caller bounds
//! connections. RFC 9000 §5.2, §8.1.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use quinn_proto::{
    AcceptError, ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint, EndpointConfig,
    EndpointEvent, IdleTimeout, Incoming, MtuDiscoveryConfig, ServerConfig, TokenLog, TokenReuseError,
    Transmit, TransportConfig, ValidationTokenConfig, VarInt,
};

use crate::net::datagram::Answers;
use crate::net::quic::Keys;
use crate::net::quic::connection::Connection;
use crate::net::quic::ids::Ids;
use crate::net::quic::session::{Choose, Sessions, VERSION, choosing};
use crate::sys::datagrams::Mark;
use crate::sys::random;

/// Datagrams of one connection that may wait for its task: more than one turn receives.
const WAITING_MAX: usize = 256;
/// Unidirectional streams of a client: control and two for compression, and some whose types nobody knows.
const UNI_STREAMS_MAX: u32 = 8;
/// Bytes of one message of a handshake that wait to be understood: a chain of certificates.
const CRYPTO_BYTES_MAX: usize = 64 * 1024;

/// How the connections of a listener behave.
#[derive(Clone, Debug)]
pub struct Settings {
    pub keys: Keys,
    /// `http3_max_concurrent_streams`.
    pub streams_max: u32,
    /// `http3_stream_buffer_size`: what may arrive of a stream before it is read, or wait to be acknowledged.
    pub stream_bytes: u64,
    /// A connection without packets ends after this time.
    pub idle_ms: u64,
    /// `quic_gso`.
    pub sends_bursts: bool,
    /// The lane of this process.
    pub lane: usize,
}

impl Settings {
    fn transport(&self) -> TransportConfig {
        let bytes = |bytes: u64| VarInt::from_u64(bytes).unwrap_or(VarInt::MAX);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(self.streams_max.into())
            .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
            .stream_receive_window(bytes(self.stream_bytes))
            // Every stream may use its window: a body that nobody reads must not stop others.
            .receive_window(bytes(self.stream_bytes.saturating_mul(self.streams_max.into())))
            .send_window(self.send_bytes())
            .max_idle_timeout(IdleTimeout::try_from(Duration::from_millis(self.idle_ms)).ok())
            .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
            .datagram_receive_buffer_size(None)
            .crypto_buffer_size(CRYPTO_BYTES_MAX)
            // Bursts cost less to make, too: those that may not leave as such are taken apart.
            .enable_segmentation_offload(true);
        transport
    }

    /// Bytes of all responses of a connection that were sent and not acknowledged.
    pub fn send_bytes(&self) -> u64 {
        self.stream_bytes.saturating_mul(SENDING_STREAMS)
    }
}

/// Tokens that clients have come back with. A token is good for one connection of each worker; beyond these the oldest are
/// forgotten: all that a client gains is one more connection without a round trip (§8.1.4).
#[derive(Default)]
struct Used(Mutex<VecDeque<u128>>);

/// The most tokens that are remembered.
const USED_MAX: usize = 4096;

impl TokenLog for Used {
    fn check_and_insert(&self, nonce: u128, _: SystemTime, _: Duration) -> Result<(), TokenReuseError> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains(&nonce) {
            return Err(TokenReuseError);
        }
        if used.len() >= USED_MAX {
            used.pop_front();
        }
        used.push_back(nonce);
        Ok(())
    }
}

/// So many streams may have a whole buffer of bytes under way.
const SENDING_STREAMS: u64 = 16;

/// A connection's place among those of its listener.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    events: RefCell<VecDeque<ConnectionEvent>>,
    task: RefCell<Option<Waker>>,
}

impl Mailbox {
    pub(super) fn take(&self) -> Option<ConnectionEvent> {
        self.events.borrow_mut().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }

    pub(super) fn wake_later(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// Gives back the memory of a burst that has been handled.
    pub(super) fn slim(&self) {
        let mut events = self.events.borrow_mut();
        if events.is_empty() {
            *events = VecDeque::new();
        }
    }

    fn push(&self, event: ConnectionEvent) {
        let mut events = self.events.borrow_mut();
        if events.len() >= WAITING_MAX {
            return; // lost, as it could be on its way
        }
        events.push_back(event);
        drop(events);
        let task = self.task.borrow_mut().take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// The connections of a listener; see the module.
pub struct Endpoint {
    inner: RefCell<quinn_proto::Endpoint>,
    config: Arc<ServerConfig>,
    ids: Ids,
    lane: usize,
    answers: Rc<Answers>,
    /// Where connections write what they send, one after the other: a burst each time.
    burst: RefCell<Vec<u8>>,
    /// By handle: quinn-proto uses the numbers of connections that have ended again.
    mailboxes: RefCell<Vec<Option<Rc<Mailbox>>>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Endpoint")
            .field("connections", &self.mailboxes.borrow().iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// How a datagram has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub from: SocketAddr,
    /// The address that it was sent to, if the socket listens on several.
    pub to: Option<IpAddr>,
    /// The mark of the packet (ECN): a router's word that it is near its limit (RFC 9000 §13.4).
    pub mark: Mark,
}

/// The kinds of datagrams.
pub enum Arrival {
    /// It belongs to a connection, or was answered, or is nothing.
    Handled,
    /// The first one of a new client.
    New(Box<Incoming>),
    /// It belongs to a connection of another process, by its lane.
    Foreign(usize),
}

impl Endpoint {
    /// `answers`: one of the listener's sockets.
    pub fn new(settings: &Settings, answers: Rc<Answers>) -> Rc<Self> {
        answers.set_bursts(settings.sends_bursts);
        let ids = Ids::new(&settings.keys.id, settings.lane);
        let mut config = EndpointConfig::new(Arc::clone(&settings.keys.reset));
        let made = ids.clone();
        let seed: Vec<u8> = (0..4).flat_map(|_| random::number().to_ne_bytes()).collect();
        config
            .cid_generator(move || Box::new(made.clone()))
            .supported_versions(vec![VERSION])
            .rng_seed(seed.try_into().ok());
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(1).log(Arc::new(Used::default()));
        let mut server = ServerConfig::with_crypto(Arc::new(Sessions));
        server
            .transport_config(Arc::new(settings.transport()))
            .token_key(Arc::clone(&settings.keys.token))
            .validation_token_config(tokens)
            .migration(true);
        let server = Arc::new(server);
        let inner = quinn_proto::Endpoint::new(Arc::new(config), Some(Arc::clone(&server)), true, None);
        Rc::new(Self {
            inner: RefCell::new(inner),
            config: server,
            ids,
            lane: settings.lane,
            answers,
            burst: RefCell::default(),
            mailboxes: RefCell::default(),
        })
    }

    /// Handles a datagram.
    pub fn take(&self, way: Way, bytes: &[u8], now: Instant) -> Arrival {
        if let Some(lane) = self.ids.lane_of_datagram(bytes).filter(|lane| *lane != self.lane) {
            return Arrival::Foreign(lane);
        }
        self.take_own(way, bytes, now)
    }

    /// The same for a datagram that another process has passed on, or that it would not take.
    pub fn take_own(&self, way: Way, bytes: &[u8], now: Instant) -> Arrival {
        let Way { from, to, mark } = way;
        let (mark, bytes) = (EcnCodepoint::from_bits(mark), BytesMut::from(bytes));
        let mut answer = Vec::new();
        let handled = self.inner.borrow_mut().handle(now, from, to, mark, bytes, &mut answer);
        match handled {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let mailbox = self.mailboxes.borrow().get(handle.0).cloned();
                if let Some(mailbox) = mailbox.flatten() {
                    mailbox.push(event);
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.send(&transmit, &answer),
            Some(DatagramEvent::NewConnection(incoming)) => return Arrival::New(Box::new(incoming)),
        }
        Arrival::Handled
    }

    /// Begins a connection. Errors: why there is none; its client has been told.
    pub fn accept(
        self: &Rc<Self>,
        incoming: Incoming,
        choose: Choose,
        now: Instant,
    ) -> Result<Connection, quinn_proto::ConnectionError> {
        let (peer, local) = (incoming.remote_address(), incoming.local_ip());
        let mut answer = Vec::new();
        let accepted = choosing(&choose, || {
            let config = Some(Arc::clone(&self.config));
            self.inner.borrow_mut().accept(incoming, now, &mut answer, config).map_err(Box::new)
        });
        match accepted {
            Ok((handle, connection)) => {
                let mailbox = Rc::<Mailbox>::default();
                let mut mailboxes = self.mailboxes.borrow_mut();
                let places = mailboxes.len().max(handle.0 + 1);
                mailboxes.resize(places, None);
                mailboxes[handle.0] = Some(Rc::clone(&mailbox));
                drop(mailboxes);
                Ok(Connection::new(Rc::clone(self), (handle, mailbox), connection, choose, (peer, local)))
            }
            Err(error) => {
                let AcceptError { cause, response } = *error;
                if let Some(transmit) = response {
                    self.send(&transmit, &answer);
                }
                Err(cause)
            }
        }
    }

    /// Lets a client prove its address first (§8.1.2). Errors: it has done that.
    pub fn retry(&self, incoming: Incoming) -> Result<(), Box<Incoming>> {
        let mut answer = Vec::new();
        let retried = self.inner.borrow_mut().retry(incoming, &mut answer);
        match retried {
            Ok(transmit) => {
                self.send(&transmit, &answer);
                Ok(())
            }
            Err(error) => Err(Box::new(error.into_incoming())),
        }
    }

    /// Tells a client that it is refused (CONNECTION_REFUSED).
    pub fn refuse(&self, incoming: Incoming) {
        let mut answer = Vec::new();
        let transmit = self.inner.borrow_mut().refuse(incoming, &mut answer);
        self.send(&transmit, &answer);
    }

    /// Drops a client's first packet.
    pub fn ignore(&self, incoming: Incoming) {
        self.inner.borrow_mut().ignore(incoming);
    }

    pub(super) fn exchange(&self, handle: ConnectionHandle, event: EndpointEvent) -> Option<ConnectionEvent> {
        self.inner.borrow_mut().handle_event(handle, event)
    }

    /// Forgets a connection.
    pub(super) fn leave(&self, handle: ConnectionHandle, is_drained: bool) {
        let mailbox = self.mailboxes.borrow_mut().get_mut(handle.0).and_then(Option::take);
        drop(mailbox);
        if !is_drained {
            self.inner.borrow_mut().handle_event(handle, EndpointEvent::drained());
        }
    }

    pub(super) fn answers(&self) -> &Rc<Answers> {
        &self.answers
    }

    /// Sends what `fill` writes into a buffer; the number of datagrams.
    pub(super) fn send_with(&self, fill: impl FnOnce(&mut Vec<u8>) -> Option<Transmit>) -> usize {
        let mut buffer = self.burst.borrow_mut();
        buffer.clear();
        let Some(transmit) = fill(&mut buffer) else { return 0 };
        let bytes = &buffer[..transmit.size.min(buffer.len())];
        let segment = transmit.segment_size.unwrap_or(bytes.len()).max(1);
        let mark = transmit.ecn.map_or(0, |mark| mark as Mark);
        self.answers.push_burst(bytes, segment, (transmit.destination, transmit.src_ip), mark);
        bytes.len().div_ceil(segment)
    }

    /// Sends an answer that belongs to no connection: one datagram, which is lost if the socket has no room.
    fn send(&self, transmit: &Transmit, bytes: &[u8]) {
        let bytes = &bytes[..transmit.size.min(bytes.len())];
        let mark = transmit.ecn.map_or(0, |mark| mark as Mark);
        self.answers.push_marked(bytes, transmit.destination, transmit.src_ip, mark);
    }
}
