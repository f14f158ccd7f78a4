//! The services of a worker, one for each protocol, and the listeners that say which of them a connection is for.

use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::cycle::Config;
use crate::http::{self, Counted, Mail, MailServer, Shown, Streams};
use crate::log;
use crate::mail;
use crate::net::clients;
use crate::net::datagram::Turn;
use crate::net::handover::{self, Handover, MovedSession, MovedTunnel, TunnelOf};
use crate::net::listener::{Listener, Serves};
use crate::net::tunnel::moved;
use crate::runtime;
use crate::script::keyval::Zone;
use crate::script::keyval::table::Pair;
use crate::shared::control::Desk;
use crate::shared::keyvals::{News, What};
use crate::shared::status_zone::Zones;
use crate::shm::counter::Slot;
use crate::shm::peers::Place;
use crate::stream::{self, Passed};
use crate::sys::address::SockAddr;
use crate::sys::clock;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;
use crate::upstream::peer::{Server, Shared};
use crate::upstream::prober::Permits;
use crate::upstream::{Upstreams, block};
use crate::worker::messages::{Edited, LISTED_MAX, Listed, ToMaster};

/// The destination of a worker's connections.
///
/// A listener's index is the one it has in the whole configuration: slots and messages name it so. A service knows its
/// own listeners only, and counts them for itself.
#[derive(Clone, Copy, Debug)]
pub struct Services {
    listeners: &'static [Listener],
    http: Option<http::Service>,
    stream: Option<stream::Service>,
    mail: Option<mail::Service>,
    /// The upstreams of `http` as the clients use them or, in the controller, see them.
    http_upstreams: Option<&'static Upstreams>,
    stream_upstreams: Option<&'static Upstreams>,
    /// The index of the first group of `stream` among those of all protocols.
    stream_groups: usize,
    give: Give,
}

/// Gives a tunnel to a worker of the new generation.
#[derive(Clone, Copy)]
struct Give(&'static dyn Fn(MovedTunnel, Vec<OwnedFd>));

impl fmt::Debug for Give {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Give")
    }
}

/// Callbacks from the services to their worker.
pub struct Hooks {
    /// Gives an idle connection to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over: Box<dyn Fn(OwnedFd, &Handover) -> Result<(), OwnedFd>>,
    /// Gives a tunnel to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over_tunnel: Box<dyn Fn(MovedTunnel, Vec<OwnedFd>)>,
    /// Gives a session of datagrams to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over_session: Box<dyn Fn(MovedSession, OwnedFd)>,
}

thread_local! {
    /// Those of this worker, for connections that one listener passes on to another.
    static OWN: Cell<Option<Services>> = const { Cell::new(None) };
}

/// Called when everything in this worker has ended, before its logs are written for the last time.
pub fn end() {
    if let Some(http) = OWN.get().and_then(|services| services.http) {
        http.worker().end();
    }
}

/// The prober's work for all protocols.
#[derive(Clone, Copy, Debug)]
pub struct Prober {
    permits: &'static Permits,
    http: Option<http::upstream::probe::Prober>,
    stream: Option<stream::probe::Prober>,
    stream_groups: usize,
}

/// Starts to check the servers of upstreams, and to look their names up. Called once, inside the runtime of the process
/// that does it; `tell` gets news about names. `None`: the configuration has no upstreams.
pub fn probe(config: &'static Config, tell: &Tell) -> Option<Prober> {
    let first = config.stream_groups();
    let shared = Rc::clone(tell);
    let tell_of_stream: Tell =
        Rc::new(move |group, server, spots: &[Spot]| shared(first + group, server, spots));
    let permits: &'static Permits = Box::leak(Box::default());
    let http = config.http.as_ref().map(|http| http::upstream::probe::start(http, permits, tell));
    let stream = config.stream.as_ref().map(|it| stream::probe::start(it, permits, &tell_of_stream));
    (http.is_some() || stream.is_some()).then_some(Prober { permits, http, stream, stream_groups: first })
}

impl Prober {
    /// Starts no checks any more, or goes on.
    pub fn pause(self, is_paused: bool) {
        if self.permits.pause(is_paused) {
            return;
        }
        // Another process has found out more meanwhile.
        self.http.iter().for_each(|http| http.recall());
        self.stream.iter().for_each(|stream| stream.recall());
    }

    /// Takes over a server that was changed, and starts to check its peers.
    pub fn edit(self, edited: &Edited) -> bool {
        let http = self.http.map(http::upstream::probe::Prober::upstreams);
        let stream = self.stream.map(stream::probe::Prober::upstreams);
        let is_known = edit_in(http, stream, self.stream_groups, edited);
        self.http.iter().for_each(|http| http.follow());
        self.stream.iter().for_each(|stream| stream.follow());
        is_known
    }

    /// Takes over the addresses of a server's name.
    pub fn learn(self, group: usize, server: usize, spots: &[Spot]) {
        match group.checked_sub(self.stream_groups) {
            Some(group) => self.stream.iter().for_each(|stream| stream.learn(group, server, spots)),
            None => self.http.iter().for_each(|http| http.learn(group, server, spots)),
        }
    }
}

/// What the control interface shows of the `stream` block.
fn streams(config: &'static Config, upstreams: &'static Upstreams) -> Streams {
    let servers = config.stream.iter().flat_map(|stream| &stream.servers);
    let zones = config.stream.as_ref().map(|stream| &stream.tables.status_zone);
    let zones: &'static Zones = zones.unwrap_or_else(|| Box::leak(Box::default()));
    let servers = servers.filter(|server| server.confs.status_zone.of_server().is_none());
    let counted = servers.filter_map(|server| {
        Some(Counted { name: server.name().into(), address: server.address.clone(), slot: server.slot? })
    });
    let limits = config.stream.iter().flat_map(|stream| stream.tables.limit_conn.shown());
    let limit_conns = Box::leak(limits.collect());
    let keyvals = config.stream.as_ref().map_or(&[][..], |stream| &stream.tables.keyval.0);
    Streams { upstreams, servers: Box::leak(counted.collect()), keyvals, zones, limit_conns }
}

/// The part of the control interface and the status page that the `mail` block provides.
fn mail(config: &'static Config) -> Option<Mail> {
    let mail = config.mail.as_ref()?;
    let servers = mail.servers.iter().filter_map(|server| {
        let (name, address) = (server.name.clone(), server.address.clone());
        let counted = Counted { name, address, slot: server.slot? };
        Some(MailServer { protocol: server.terms.protocol.name(), counted })
    });
    Some(Mail { servers: Box::leak(servers.collect()), zones: &mail.zones })
}

/// The messages that list the connections of this worker.
pub fn list_connections(query: u32) -> Vec<ToMaster> {
    let (total, clients) = clients::list();
    let listed = |is_last, rows| ToMaster::Listed(Listed { query, is_last, total, rows });
    let parts: Vec<_> = clients.chunks(LISTED_MAX).collect();
    let mut messages: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| listed(index + 1 == parts.len(), clients::rows(part)))
        .collect();
    if messages.is_empty() {
        messages.push(listed(true, Vec::new()));
    }
    messages
}

/// Takes over a change of a key-value zone. One that this process does not know came with a later configuration.
pub fn take_keyval(news: News) {
    let Some(zone) = Zone::of_id(news.zone) else { return };
    let mut table = zone.table_mut();
    table.expire(clock::monotonic_ms());
    match news.what {
        What::Put { key, value, expires_ms } => table.put(&key, Pair { value, expires_ms }),
        What::Remove { key } => _ = table.remove(&key),
        What::Clear => table.clear(),
    }
}

/// Takes over a server that was changed, in the upstreams of the protocol that has it.
fn edit_in(
    http: Option<&Upstreams>,
    stream: Option<&Upstreams>,
    stream_groups: usize,
    edited: &Edited,
) -> bool {
    let group = edited.group as usize;
    let (upstreams, group) = match group.checked_sub(stream_groups) {
        Some(group) => (stream, group),
        None => (http, group),
    };
    // A process that has no state of this protocol has nothing to change.
    upstreams.is_none_or(|upstreams| edit(upstreams, group, edited))
}

fn edit(upstreams: &Upstreams, group: usize, edited: &Edited) -> bool {
    let Ok(server) = block::server(edited.line.split(' '), Some(80)) else { return false };
    let server = Server { id: edited.id, ..server };
    let server = if edited.is_removed { server.removed() } else { server };
    let shared = |(slot, place): &(Option<u32>, Option<u32>)| Shared {
        slot: slot.and_then(Slot::of_index),
        place: place.and_then(Place::of_index),
    };
    let shared = edited.shared.iter().map(shared).collect();
    upstreams.edit(group, edited.position as usize, server, shared)
}

impl Services {
    /// Called once per worker, inside its runtime. `None`: the configuration serves nothing.
    pub fn new(config: &'static Config, hooks: Hooks, desk: Desk) -> Option<Self> {
        let Hooks { hand_over, hand_over_tunnel, hand_over_session } = hooks;
        let hand_over = move |fd, handover: &Handover| {
            let listen = config.listener_index(Serves::Http(handover.listen as usize));
            let listen = u32::try_from(listen).unwrap_or(u32::MAX);
            hand_over(fd, &Handover { listen, ..handover.clone() })
        };
        // A tunnel of a listener that a configuration before this one had keeps its mark.
        let named = |listen: u32, serves: fn(usize) -> Serves| match listen {
            handover::NO_LISTENER => listen,
            listen => u32::try_from(config.listener_index(serves(listen as usize))).unwrap_or(listen),
        };
        let give = Give(Box::leak(hand_over_tunnel));
        let of_http = move |tunnel: MovedTunnel, fds| {
            let listen = named(tunnel.listen, Serves::Http);
            give.0(MovedTunnel { listen, ..tunnel }, fds);
        };
        let of_stream = move |tunnel: MovedTunnel, fds| {
            let listen = named(tunnel.listen, Serves::Stream);
            give.0(MovedTunnel { listen, ..tunnel }, fds);
        };
        let of_mail = move |tunnel: MovedTunnel, fds| {
            let listen = named(tunnel.listen, Serves::Mail);
            give.0(MovedTunnel { listen, ..tunnel }, fds);
        };
        let hooks = http::Hooks { hand_over: Box::new(hand_over), hand_over_tunnel: Box::new(of_http) };
        let http = config.http.as_ref().map(|http| http::Service::with_orders(http, hooks, desk));
        let of_datagrams = move |session: MovedSession, fd| {
            hand_over_session(MovedSession { listen: named(session.listen, Serves::Stream), ..session }, fd);
        };
        let hooks = stream::Hooks {
            pass: Box::new(pass),
            hand_over: Box::new(of_stream),
            hand_over_session: Box::new(of_datagrams),
        };
        let stream = config.stream.as_ref().map(|stream| stream::Service::new(stream, hooks));
        let mail = config.mail.as_ref().map(|mail| {
            let own = Cell::new(0);
            let number = move || match stream {
                Some(stream) => stream.number(),
                None => {
                    own.set(own.get() + 1);
                    own.get()
                }
            };
            let hooks = mail::Hooks { hand_over: Box::new(of_mail), number: Box::new(number) };
            mail::Service::new(mail, hooks)
        });
        if http.is_none() && stream.is_none() && mail.is_none() {
            return None;
        }
        if let Some(http) = http {
            let mail_shown = self::mail(config);
            let streams = stream.map(|stream| streams(config, &stream.worker().upstreams));
            http.show(Shown { http: None, stream: streams, mail: mail_shown });
        }
        let services = Self {
            listeners: config.listeners(),
            http,
            stream,
            mail,
            http_upstreams: http.map(|http| &http.worker().upstreams),
            stream_upstreams: stream.map(|stream| &stream.worker().upstreams),
            stream_groups: config.stream_groups(),
            give,
        };
        OWN.set(Some(services));
        Some(services)
    }

    /// Serves operators, in the controller. `None`: there is no control socket.
    pub fn for_operators(config: &'static Config, desk: Desk) -> Option<Self> {
        // The connections of operators do not move to another process.
        let hooks =
            http::Hooks { hand_over: Box::new(|fd, _| Err(fd)), hand_over_tunnel: Box::new(|_, _| {}) };
        let subject: Option<&'static http::Worker> = config.http.as_ref().map(|http| {
            let worker = http::Worker::new(http);
            worker.upstreams.recall();
            &*Box::leak(Box::new(worker))
        });
        let stream: Option<&'static stream::Worker> = config.stream.as_ref().map(|stream| {
            let worker = stream::Worker::new(stream);
            worker.upstreams.recall();
            &*Box::leak(Box::new(worker))
        });
        let http = http::Service::with_orders(config.control.as_ref()?, hooks, desk);
        let stream_shown = stream.map(|worker| streams(config, &worker.upstreams));
        http.show(Shown { http: subject, stream: stream_shown, mail: self::mail(config) });
        Some(Self {
            listeners: config.listeners(),
            http: Some(http),
            stream: None,
            mail: None,
            http_upstreams: subject.map(|subject| &subject.upstreams),
            stream_upstreams: stream.map(|worker| &worker.upstreams),
            stream_groups: config.stream_groups(),
            give: Give(&|_, _| {}),
        })
    }

    /// Takes over the addresses of a server's name.
    pub fn learn(self, group: usize, server: usize, spots: &[Spot]) {
        match group.checked_sub(self.stream_groups) {
            Some(group) => self.stream_upstreams.iter().for_each(|it| it.learn(group, server, spots)),
            None => self.http_upstreams.iter().for_each(|it| it.learn(group, server, spots)),
        }
    }

    /// Takes over a server that was changed. False if this process is out of step with the master's configuration.
    pub fn edit(self, edited: &Edited) -> bool {
        edit_in(self.http_upstreams, self.stream_upstreams, self.stream_groups, edited)
    }

    /// Serves a connection that this listener has accepted.
    pub fn open(self, fd: OwnedFd, peer: SockAddr, listener: usize) {
        match self.listeners[listener].serves {
            Serves::Http(listen) | Serves::Control(listen) => {
                self.http.expect("it has a listener").open(fd, peer, listen);
            }
            Serves::Stream(listen) => self.stream.expect("it has a listener").open(fd, peer, listen),
            Serves::Mail(listen) => self.mail.expect("it has a listener").open(fd, peer, listen),
        }
    }

    /// Serves the datagrams that this socket receives, as long as `turn` says so.
    pub fn receive(self, fd: OwnedFd, listener: usize, turn: impl Fn() -> Turn + 'static) {
        match (self.listeners[listener].serves, self.http, self.stream) {
            (Serves::Http(listen), Some(http), _) => http.receive(fd, listen, turn),
            (Serves::Stream(listen), _, Some(stream)) => stream.receive(fd, listen, turn),
            _ => {}
        }
    }

    /// Goes on with a session of datagrams of an older worker, which is not trusted.
    pub fn adopt_session(self, session: MovedSession, fd: OwnedFd) {
        let listener = self.listeners.get(session.listen as usize).map(|listener| listener.serves);
        let is_adopted = match (listener, self.stream) {
            (Some(Serves::Stream(listen)), Some(stream)) => stream.adopt_session(session, fd, listen),
            _ => return, // another protocol has its address now
        };
        if !is_adopted {
            let what = "a session of datagrams of an older worker could not be taken over";
            log::error!(log::process(), &(), "{what}: its state is damaged, or descriptors are short");
        }
    }

    /// Takes over an idle connection of another worker; closes it if its listener does not exist any more.
    pub fn adopt(self, fd: OwnedFd, handover: &Handover) {
        let Some(listener) = self.listeners.get(handover.listen as usize) else { return };
        match (listener.serves, self.http) {
            (Serves::Http(listen), Some(http)) => {
                let listen = u32::try_from(listen).unwrap_or(u32::MAX);
                http.adopt(fd, &Handover { listen, ..handover.clone() });
            }
            // A session is never idle between two requests, and operators stay.
            (Serves::Http(_) | Serves::Stream(_) | Serves::Mail(_) | Serves::Control(_), _) => {}
        }
    }
}

impl Services {
    /// Goes on with a tunnel of an older worker, which is not trusted: what cannot be understood is closed.
    ///
    /// If this configuration has no listener for it, or another protocol has its address now, the tunnel goes on
    /// without a session: nothing but its peer's connections is counted, and there is no line in an access log.
    pub fn adopt_tunnel(self, tunnel: MovedTunnel, fds: Vec<OwnedFd>) {
        let listener = self.listeners.get(tunnel.listen as usize).map(|listener| listener.serves);
        let number = match tunnel.of {
            TunnelOf::Stream => self.stream.map(stream::Service::number),
            TunnelOf::Http => self.http.map(http::Service::next_number),
            TunnelOf::Mail => self.mail.map(mail::Service::number),
        };
        let number = number.unwrap_or(0);
        let Some(arrived) = moved::arrive((number, tunnel.of), tunnel.state, fds) else {
            let what = "a tunnel of an older worker could not be taken over";
            log::error!(log::process(), &(), "{what}: its state is damaged, or descriptors are short");
            return;
        };
        let (name, is_adopted) = match (tunnel.of, listener, self) {
            (TunnelOf::Stream, Some(Serves::Stream(listen)), Self { stream: Some(stream), .. }) => {
                ("session", stream.adopt(arrived, listen))
            }
            (TunnelOf::Http, Some(Serves::Http(listen)), Self { http: Some(http), .. }) => {
                ("tunnel", http.adopt_tunnel(arrived, listen))
            }
            (TunnelOf::Mail, Some(Serves::Mail(listen)), Self { mail: Some(mail), .. }) => {
                ("session of mail", mail.adopt(arrived, listen))
            }
            _ => {
                let upstreams = match tunnel.of {
                    TunnelOf::Stream => self.stream_upstreams,
                    TunnelOf::Http => self.http_upstreams,
                    TunnelOf::Mail => None, // its servers belong to no group
                };
                let course = upstreams.and_then(|all| all.resume(&arrived.group, &arrived.peer));
                let give = self.give;
                runtime::spawn(async move {
                    arrived.run_alone(give.0, tunnel.of).await;
                    drop(course);
                });
                return;
            }
        };
        if !is_adopted {
            let what = format!("a {name} of an older worker could not be taken over");
            log::error!(log::process(), &(), "{what}: its state is damaged");
        }
    }
}

/// Hands a connection to the listener that accepts connections to this address. The error: there is none.
fn pass(passed: Passed, address: &SockAddr) -> Result<(), Passed> {
    let Some(services) = OWN.get() else { return Err(passed) };
    let covers = |listener: &&Listener| {
        let own = &listener.address;
        let is_wildcard = own.ip().zip(address.ip()).is_some_and(|(own, ip)| {
            own.is_unspecified() && own.is_ipv4() == ip.is_ipv4() && listener.address.port() == address.port()
        });
        own == address || is_wildcard && !own.is_datagram()
    };
    let exact = services.listeners.iter().find(|listener| listener.address == *address);
    let Some(listener) = exact.or_else(|| services.listeners.iter().find(covers)) else { return Err(passed) };
    match (listener.serves, services.http, services.stream) {
        (Serves::Http(listen), Some(http), _) => {
            let Passed { transport, peer, ahead, hops: _ } = passed;
            http.take(transport, peer, ahead, listen);
        }
        (Serves::Stream(listen), _, Some(stream)) => stream.take(passed, listen),
        _ => return Err(passed),
    }
    Ok(())
}
