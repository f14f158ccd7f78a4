//! The things that metrics are about, as one configuration and shared memory have them at a moment.
//!
//! Touches: shared memory. Nothing in it is trusted: a worker may have written anything there.

use std::sync::Arc;

use crate::cache::status::Counts;
use crate::http::modules::counters::Durations;
use crate::http::modules::status::metrics::Value;
use crate::http::{Config, Others};
use crate::shared::status_zone::{self, Zones};
use crate::shm::cache_index::Size;
use crate::shm::counter::{self, Slot, Total};
use crate::shm::heartbeat::{self, Heartbeat};
use crate::shm::histogram::{Histogram, Snapshot};
use crate::shm::lanes::{self, Lane};
use crate::shm::peers::{Health, Place, Word};
use crate::sys::clock;
use crate::upstream::Group;
use crate::upstream::peer::{Server, failed_for_ms};

/// All workers together.
#[derive(Debug)]
pub struct Process;

#[derive(Debug)]
pub struct Worker {
    lane: Lane,
    /// From 0 within its generation.
    pub number: u32,
    pub heartbeat: Heartbeat,
    pub longest_turn_us: u64,
}

impl Worker {
    pub fn total(&self, of: Total) -> Value {
        Value::Number(self.number_of(of))
    }

    pub fn number_of(&self, of: Total) -> u64 {
        counter::total_of(self.lane, of)
    }
}

/// A `server` block; those with the same name and the same first address count together.
#[derive(Debug)]
pub struct Zone<'a> {
    pub name: &'a str,
    pub address: &'a str,
    pub slot: Option<Slot>,
}

/// A `status_zone`.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub place: status_zone::Place,
    pub name: &'static str,
    pub slot: Option<Slot>,
}

/// A server of mail.
#[derive(Clone, Copy, Debug)]
pub struct MailServer {
    pub name: &'static str,
    pub address: &'static str,
    /// imap, pop3 or smtp.
    pub protocol: &'static str,
    pub slot: Option<Slot>,
}

/// A cache.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    pub name: &'static str,
    pub counts: Counts,
    /// The files that it has, and the bytes that they take on the disk.
    pub size: Size,
    /// 0: there is no limit.
    pub max_bytes: u64,
    /// The files that were there at the start are not all known yet.
    pub is_cold: bool,
}

#[derive(Debug)]
pub struct Upstream {
    pub group: Arc<Group>,
    pub slot: Option<Slot>,
}

/// One address of a server of an upstream group.
#[derive(Debug)]
pub struct Peer {
    pub group: Arc<Group>,
    /// The position of its server in the group.
    pub position: usize,
    pub name: String,
    pub slot: Option<Slot>,
    place: Option<Place>,
    pub weight: u64,
    pub is_backup: bool,
    is_down: bool,
    is_draining: bool,
    fails_max: u64,
    fail_timeout_ms: u64,
    now_ms: u64,
}

/// Whether a peer gets requests, in nginx Plus' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    Down,
    Draining,
    /// Left out for its failures (`max_fails`).
    Unavailable,
    Unhealthy,
    Checking,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Unavailable => "unavail",
            Self::Unhealthy => "unhealthy",
            Self::Checking => "checking",
        }
    }

    pub fn is_up(self) -> bool {
        self == Self::Up
    }
}

impl Peer {
    /// Its server as it is written in the configuration.
    pub fn server(&self) -> &Server {
        &self.group.servers[self.position]
    }

    /// Number of connections in use in all workers.
    pub fn active(&self) -> u64 {
        self.place.map_or(0, |place| u64::from(place.in_use()))
    }

    /// The time since it was last chosen, in milliseconds; `None`: it never was, as far as is known.
    pub fn chosen_ago_ms(&self) -> Option<u64> {
        Some(self.now_ms - self.place?.chosen_ms(self.now_ms)?)
    }

    /// The average time to the head of its responses, in microseconds; 0: unknown.
    pub fn head_us(&self) -> u64 {
        self.place.map_or(0, |place| place.number(Word::HeadUs, u64::MAX))
    }

    /// The same for the end of its responses.
    pub fn response_us(&self) -> u64 {
        self.place.map_or(0, |place| place.number(Word::ResponseUs, u64::MAX))
    }

    /// The time for which it has been unavailable, unhealthy or checked for the first time, in milliseconds: the present
    /// one, which is `None` while it is in no such state, and all together.
    pub fn down_ms(&self) -> (Option<u64>, u64) {
        let before = self.slot.map_or(0, |slot| slot.get(counter::Word::DOWN_MS));
        let Some(place) = self.place else { return (None, before) };
        // Once its time is over it is counted when the next request tries the peer.
        let failed_ms = failed_for_ms(place, self.fails_max, self.fail_timeout_ms, self.now_ms);
        let (health, since_ms) = self.health(place);
        let unhealthy_ms = match health {
            Health::Unhealthy | Health::Checking => self.now_ms - since_ms,
            Health::Unknown | Health::Healthy | Health::Spare => 0,
        };
        let now = match self.state() {
            State::Unhealthy | State::Checking => Some(unhealthy_ms),
            State::Unavailable => Some(failed_ms),
            State::Up | State::Down | State::Draining => None,
        };
        (now, before.saturating_add(failed_ms).saturating_add(unhealthy_ms))
    }

    /// The health that its checks say, and since when.
    fn health(&self, place: Place) -> (Health, u64) {
        match self.group.checks {
            Some(checks) => checks.shown(place, self.now_ms),
            None => place.health(self.now_ms),
        }
    }

    /// The number of its responses with each status. `None`: it has no place, or too many statuses.
    pub fn statuses(&self) -> Option<Vec<(u16, u64)>> {
        self.place?.statuses()
    }

    pub fn state(&self) -> State {
        let orders = self.place.map(Place::orders).unwrap_or_default();
        let health = self.place.map_or(Health::Unknown, |place| self.health(place).0);
        let has_failed = self.place.is_some_and(|place| {
            let age_ms = self.now_ms - place.past_ms(Word::CheckedMs, self.now_ms);
            self.fails_max != 0
                && place.number(Word::Fails, u64::MAX) >= self.fails_max
                && age_ms <= self.fail_timeout_ms
        });
        match health {
            _ if self.is_down || orders.down => State::Down,
            Health::Unhealthy => State::Unhealthy,
            Health::Checking => State::Checking,
            _ if has_failed => State::Unavailable,
            _ if self.is_draining || orders.drain => State::Draining,
            _ => State::Up,
        }
    }
}

/// The source of the metrics of one response.
#[derive(Debug)]
pub struct View {
    config: &'static Config,
    /// The upstreams with the servers that they have now.
    groups: Vec<Arc<Group>>,
    others: Others,
    pub workers: Vec<Worker>,
    pub durations: Vec<(&'static str, &'static str, Snapshot)>,
    now_ms: u64,
}

impl View {
    /// `groups`: the upstreams with the servers that they have now.
    pub fn new(config: &'static Config, groups: Vec<Arc<Group>>, others: Others) -> Self {
        let workers = lanes::living().map(|lane| Worker {
            lane,
            number: lanes::worker(lane),
            heartbeat: heartbeat::read(lane),
            longest_turn_us: heartbeat::longest_turn_us_of(lane),
        });
        let Durations { request, connect, header, response } = config.tables.counters;
        let snapshot = |histogram: Option<Histogram>| histogram.map(Histogram::snapshot);
        let durations = [
            ("request", "Time from the first byte of a request to the end of its response.", request),
            ("upstream_connect", "Time to connect to a server of an upstream.", connect),
            ("upstream_header", "Time from the choice of a server to the end of its response head.", header),
            ("upstream_response", "Time from the choice of a server to the end of its response.", response),
        ];
        let durations = durations
            .into_iter()
            .filter_map(|(name, help, histogram)| Some((name, help, snapshot(histogram)?)))
            .collect();
        Self { config, groups, others, workers: workers.collect(), durations, now_ms: clock::monotonic_ms() }
    }

    /// The servers without a zone, each counter once.
    pub fn servers(&self) -> impl Iterator<Item = Zone<'static>> + use<> {
        let mut seen = std::collections::HashSet::new();
        let config = self.config;
        let own = config.servers.iter().filter(|server| server.root.confs.status_zone.of_server().is_none());
        let counted = own.filter_map(move |server| {
            let slot = server.slot?;
            seen.insert(slot.index()).then_some((server, slot))
        });
        counted.map(|(server, slot)| Zone { name: server.name(), address: &server.address, slot: Some(slot) })
    }

    /// The zones of servers and locations of all protocols.
    pub fn zones(&self) -> impl Iterator<Item = Named> + use<> {
        self.named().filter(|zone| zone.place != status_zone::Place::Resolver)
    }

    /// The zones of resolvers, each once.
    pub fn resolvers(&self) -> impl Iterator<Item = Named> + use<> {
        let mut seen = std::collections::HashSet::new();
        let all = self.named().filter(|zone| zone.place == status_zone::Place::Resolver);
        all.filter(move |zone| seen.insert(zone.name))
    }

    /// The servers of the `mail` block.
    pub fn mail(&self) -> impl Iterator<Item = MailServer> + use<> {
        self.others.mail.into_iter().flat_map(|mail| mail.servers).map(|server| MailServer {
            name: &server.counted.name,
            address: &server.counted.address,
            protocol: server.protocol,
            slot: Some(server.counted.slot),
        })
    }

    pub fn caches(&self) -> impl Iterator<Item = Cache> + use<> {
        self.config.tables.cache.iter().map(|zone| Cache {
            name: zone.name(),
            counts: zone.counts,
            size: zone.index.map_or_else(Size::default, |index| index.size()),
            max_bytes: zone.settings.max_bytes.unwrap_or(0),
            is_cold: !zone.index.is_some_and(|index| index.is_loaded()),
        })
    }

    fn named(&self) -> impl Iterator<Item = Named> + use<> {
        let others = [self.others.stream_zones, self.others.mail.map(|mail| mail.zones)];
        let others = others.into_iter().flatten().flat_map(Zones::iter);
        self.config.tables.status_zone.iter().chain(others).map(|zone| Named {
            place: zone.place,
            name: &zone.name,
            slot: Some(zone.slot),
        })
    }

    pub fn upstreams(&self) -> impl Iterator<Item = Upstream> {
        self.groups.iter().map(|group| Upstream { group: Arc::clone(group), slot: group.slot })
    }

    /// The peers of a group whose addresses the configuration knows, each once.
    pub fn peers<'a>(&self, group: &'a Arc<Group>) -> impl Iterator<Item = Peer> + use<'a> {
        let now_ms = self.now_ms;
        let mut seen = std::collections::HashSet::new();
        let all = group.present().flat_map(|(position, server)| {
            server.addresses.iter().map(move |address| (position, server, address))
        });
        all.filter_map(move |(position, server, address)| {
            let shared = group.shared(position, address);
            let name = address.to_string();
            seen.insert(name.clone()).then(|| Peer {
                group: Arc::clone(group),
                position,
                name,
                slot: shared.slot,
                place: shared.place,
                weight: server.weight.unsigned_abs(),
                is_backup: server.priority != 0,
                is_down: server.down,
                is_draining: server.drain,
                fails_max: server.fails_max,
                fail_timeout_ms: server.fail_timeout_ms,
                now_ms,
            })
        })
    }
}
