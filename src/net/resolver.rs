//! Resolves names by DNS without blocking the loop: the cache, and lookups that several requests share.
//!
//! Touches: name servers (`resolver/exchange.rs`). All state belongs to one worker. /etc/hosts is not read: without a
//! `resolver` directive, names are left to the system's resolver (`net/address.rs`).
//! Behaviour: nginx.org, `resolver` of ngx_http_core_module; RFC 2308 for negative answers.

mod exchange;
mod source;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::proto::dns::{Answer, Code, Kind, Name, Service};
use crate::runtime::channel::Notify;
use crate::runtime::{self, timeout};
use crate::shm::counter::{Slot, Word};
use crate::sys::random;
use exchange::Exchange;
pub use source::Source;

/// Maximum number of cached names; beyond it, those that expire first are dropped.
const CACHE_MAX: usize = 4096;
/// Maximum number of lookups at one time.
const FLIGHTS_MAX: usize = 1024;
/// Maximum length of a chain of aliases that come in separate answers.
const ALIASES_MAX: usize = 16;
/// The longest time that a positive and a negative answer are believed, whatever their TTL.
const TTL_S_MAX: u32 = 86_400;
const NEGATIVE_TTL_S_MAX: u32 = 60;

/// The parameters of a `resolver` directive; part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name servers, at least one; asked in turn.
    pub servers: Vec<SocketAddr>,
    /// `valid=`: the time that answers hold, instead of their TTL.
    pub valid_ms: Option<u64>,
    pub ipv4: bool,
    pub ipv6: bool,
    /// `status_zone=`: where its lookups are counted.
    pub counts: Option<Slot>,
}

/// The reason why a name has no addresses. Displays like nginx's `(3: Host not found)`, to be put after the
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not a valid host name.
    BadName,
    Code(Code),
    TimedOut,
    /// Too many lookups are in progress.
    Busy,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::BadName => "(invalid name)",
            Self::Code(Code::Format) => "(1: Format error)",
            Self::Code(Code::Server) => "(2: Server failure)",
            Self::Code(Code::NotFound) => "(3: Host not found)",
            Self::Code(Code::NotImplemented) => "(4: Unimplemented)",
            Self::Code(Code::Refused) => "(5: Operation refused)",
            Self::Code(Code::Other) => "(Unknown error)",
            Self::TimedOut => "(110: Operation timed out)",
            Self::Busy => "(too many lookups at a time)",
        })
    }
}

/// The result of a lookup, and its expiry on the clock of `runtime::now_ms`.
#[derive(Clone, Debug)]
pub struct Found<T> {
    pub list: Rc<[T]>,
    pub expires_ms: u64,
}

/// An address of a service, with the parameters of its SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub ip: IpAddr,
    pub port: u16,
    pub weight: u16,
    /// Its priority is not the best one.
    pub is_backup: bool,
}

/// The name servers of one `resolver` directive, with this worker's cache and lookups in progress.
///
/// Requests and followed upstream names call [`Resolver::addresses`] and [`Resolver::services`]. Requests for
/// the same name share one lookup, which is abandoned when none of them waits any more.
#[derive(Debug)]
pub struct Resolver {
    settings: Arc<Settings>,
    state: RefCell<State>,
}

/// The resolvers of one worker, one for each `resolver` directive that it has used.
#[derive(Debug, Default)]
pub struct Resolvers {
    /// By the address of their settings, which each resolver keeps alive.
    by_settings: RefCell<HashMap<usize, Rc<Resolver>>>,
}

impl Resolvers {
    /// The resolver of this directive, created at its first use.
    pub fn get(&self, settings: &Arc<Settings>) -> Rc<Resolver> {
        let mut resolvers = self.by_settings.borrow_mut();
        let resolver = resolvers.entry(Arc::as_ptr(settings).addr());
        Rc::clone(resolver.or_insert_with(|| Rc::new(Resolver::new(Arc::clone(settings)))))
    }
}

/// The question about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sought {
    Addresses,
    Services,
    /// The names of the host whose address the name stands for.
    Hosts,
}

type Key = (Name, Sought);

#[derive(Debug, Default)]
struct State {
    cache: HashMap<Key, (Value, u64)>,
    flights: HashMap<Key, Rc<Flight>>,
    /// Index of the server that the next lookup asks first.
    next: usize,
}

#[derive(Clone, Debug)]
enum Value {
    Addresses(Rc<[IpAddr]>),
    Services(Rc<[Service]>),
    Hosts(Rc<[Name]>),
    Failed(Failure),
}

/// A lookup in progress.
#[derive(Default)]
struct Flight {
    landed: RefCell<Option<(Value, u64)>>,
    notify: Notify,
    waiters: Cell<usize>,
}

impl fmt::Debug for Flight {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Flight for {}", self.waiters.get())
    }
}

/// A task that waits for a flight.
struct Passenger<'a>(&'a Flight);

impl<'a> Passenger<'a> {
    fn board(flight: &'a Flight) -> Self {
        flight.waiters.set(flight.waiters.get() + 1);
        Self(flight)
    }
}

impl Drop for Passenger<'_> {
    fn drop(&mut self) {
        self.0.waiters.set(self.0.waiters.get() - 1);
    }
}

/// The result of one round of questions.
enum Step {
    Done(Value, u32),
    Alias(Name, u32),
}

impl Resolver {
    fn new(settings: Arc<Settings>) -> Self {
        Self { settings, state: RefCell::default() }
    }

    /// The addresses of a name, IPv4 first, each family starting at a random one.
    pub async fn addresses(self: &Rc<Self>, name: &str, timeout_ms: u64) -> Result<Found<IpAddr>, Failure> {
        let name = Name::new(name.as_bytes()).ok_or(Failure::BadName)?;
        let (value, expires_ms) = self.find((name, Sought::Addresses), timeout_ms).await;
        match value {
            Value::Addresses(list) => Ok(Found { list: shuffled(&list), expires_ms }),
            Value::Services(_) | Value::Hosts(_) => Err(Failure::Code(Code::Other)),
            Value::Failed(failure) => Err(failure),
        }
    }

    /// The first name of the host that has this address.
    pub async fn host(self: &Rc<Self>, ip: IpAddr, timeout_ms: u64) -> Result<Name, Failure> {
        let (value, _) = self.find((Name::of_address(ip), Sought::Hosts), timeout_ms).await;
        match value {
            Value::Hosts(list) => list.first().cloned().ok_or(Failure::Code(Code::NotFound)),
            Value::Addresses(_) | Value::Services(_) => Err(Failure::Code(Code::Other)),
            Value::Failed(failure) => Err(failure),
        }
    }

    /// The places where a service runs: its SRV records, each target resolved. `service` is `http` or
    /// `_http._tcp`.
    pub async fn services(
        self: &Rc<Self>,
        service: &str,
        name: &str,
        timeout_ms: u64,
    ) -> Result<Found<Place>, Failure> {
        let is_whole = service.starts_with('_') || service.contains('.');
        let full = if is_whole { format!("{service}.{name}") } else { format!("_{service}._tcp.{name}") };
        let full = Name::new(full.as_bytes()).ok_or(Failure::BadName)?;
        let deadline_ms = runtime::now_ms().saturating_add(timeout_ms);
        let (value, mut expires_ms) = self.find((full, Sought::Services), timeout_ms).await;
        let services = match value {
            Value::Services(services) => services,
            Value::Addresses(_) | Value::Hosts(_) => return Err(Failure::Code(Code::Other)),
            Value::Failed(failure) => return Err(failure),
        };
        let best = services.iter().map(|service| service.priority).min().unwrap_or(0);
        let mut places = Vec::new();
        // The root as a target says that there is no such service (RFC 2782); nobody listens at port 0.
        let offered = |service: &&Service| !service.target.is_root() && service.port != 0;
        for Service { priority, weight, port, target } in services.iter().filter(offered) {
            let left_ms = deadline_ms.saturating_sub(runtime::now_ms());
            let (value, until_ms) = self.find((target.clone(), Sought::Addresses), left_ms).await;
            expires_ms = expires_ms.min(until_ms);
            let addresses = match &value {
                Value::Addresses(addresses) => &addresses[..],
                Value::Failed(Failure::Code(Code::NotFound)) | Value::Services(_) | Value::Hosts(_) => &[],
                Value::Failed(failure) => return Err(*failure),
            };
            places.extend(addresses.iter().map(|&ip| Place {
                ip,
                port: *port,
                weight: (*weight).max(1),
                is_backup: *priority != best,
            }));
        }
        if places.is_empty() {
            Err(Failure::Code(Code::NotFound))
        } else {
            Ok(Found { list: places.into(), expires_ms })
        }
    }

    /// `valid=`, for results without a TTL of their own.
    pub fn valid_ms(&self) -> Option<u64> {
        self.settings.valid_ms
    }

    async fn find(self: &Rc<Self>, key: Key, timeout_ms: u64) -> (Value, u64) {
        if let Some(known) = self.cached(&key) {
            return known;
        }
        let failed = |failure| (Value::Failed(failure), runtime::now_ms());
        let Some(flight) = self.flight(&key) else { return failed(Failure::Busy) };
        let _passenger = Passenger::board(&flight);
        let landed = timeout(timeout_ms, flight.notify.notified()).await;
        let value = flight.landed.borrow().clone();
        match (landed, value) {
            (_, Some(value)) => value,
            (Ok(()) | Err(_), None) => failed(Failure::TimedOut),
        }
    }

    fn cached(&self, key: &Key) -> Option<(Value, u64)> {
        let state = self.state.borrow();
        state.cache.get(key).filter(|(_, expires_ms)| *expires_ms > runtime::now_ms()).cloned()
    }

    /// The lookup of this name that is in progress, or a new one.
    fn flight(self: &Rc<Self>, key: &Key) -> Option<Rc<Flight>> {
        let mut state = self.state.borrow_mut();
        if let Some(flight) = state.flights.get(key) {
            return Some(Rc::clone(flight));
        }
        if state.flights.len() >= FLIGHTS_MAX {
            return None;
        }
        let flight = Rc::new(Flight::default());
        state.flights.insert(key.clone(), Rc::clone(&flight));
        drop(state);
        let (resolver, key, own) = (Rc::clone(self), key.clone(), Rc::clone(&flight));
        runtime::spawn(async move { resolver.fly(key, own).await });
        Some(flight)
    }

    async fn fly(self: Rc<Self>, key: Key, flight: Rc<Flight>) {
        self.count(match key.1 {
            Sought::Addresses => Word::NAMES,
            Sought::Services => Word::SERVICES,
            Sought::Hosts => Word::HOSTS,
        });
        let value = self.look_up(&key, &flight).await;
        self.count(end(&value.0));
        self.state.borrow_mut().flights.remove(&key);
        flight.landed.replace(Some(value));
        flight.notify.notify();
    }

    fn count(&self, word: Word) {
        if let Some(slot) = self.settings.counts {
            slot.add(word, 1);
        }
    }

    /// Asks for a name and, while the answer is an alias, for its target.
    async fn look_up(&self, key: &Key, flight: &Flight) -> (Value, u64) {
        let (mut name, sought) = key.clone();
        // The names asked for so far, each with its own expiry.
        let mut way: Vec<(Name, u64)> = Vec::new();
        while way.len() <= ALIASES_MAX {
            let known = if way.is_empty() { None } else { self.cached(&(name.clone(), sought)) };
            if let Some((value, expires_ms)) = known {
                return self.store(way, sought, value, expires_ms);
            }
            match self.ask(&name, sought, flight).await {
                Ok(Step::Done(value, ttl_s)) => {
                    let is_found = !matches!(value, Value::Failed(_));
                    let expires_ms = self.expiry_ms(ttl_s, is_found);
                    way.push((name, expires_ms));
                    return self.store(way, sought, value, expires_ms);
                }
                Ok(Step::Alias(target, ttl_s)) => {
                    way.push((std::mem::replace(&mut name, target), self.expiry_ms(ttl_s, true)));
                }
                Err(failure) => return (Value::Failed(failure), runtime::now_ms()),
            }
        }
        (Value::Failed(Failure::Code(Code::Server)), runtime::now_ms())
    }

    async fn ask(&self, name: &Name, sought: Sought, flight: &Flight) -> Result<Step, Failure> {
        let kinds: &[Kind] = match (sought, self.settings.ipv4, self.settings.ipv6) {
            (Sought::Services, ..) => &[Kind::Srv],
            (Sought::Hosts, ..) => &[Kind::Ptr],
            (Sought::Addresses, true, true) => &[Kind::A, Kind::Aaaa],
            (Sought::Addresses, _, false) => &[Kind::A],
            (Sought::Addresses, false, true) => &[Kind::Aaaa],
        };
        let first = {
            let mut state = self.state.borrow_mut();
            let next = (state.next + 1) % self.settings.servers.len();
            std::mem::replace(&mut state.next, next)
        };
        let exchange = Exchange::new(&self.settings.servers, name, kinds);
        let answers = exchange.run(first, || flight.waiters.get() > 0).await?;
        combine(answers.into_iter())
    }

    fn expiry_ms(&self, ttl_s: u32, is_found: bool) -> u64 {
        let own_ms = u64::from(ttl_s.min(TTL_S_MAX)) * 1000;
        let ms = self.settings.valid_ms.filter(|_| is_found).unwrap_or(own_ms);
        runtime::now_ms().saturating_add(ms)
    }

    /// Caches the result for all names of `way`. Each expires with the first of itself and the names after
    /// it.
    fn store(&self, way: Vec<(Name, u64)>, sought: Sought, value: Value, expires_ms: u64) -> (Value, u64) {
        let now_ms = runtime::now_ms();
        let mut until_ms = expires_ms;
        let mut state = self.state.borrow_mut();
        for (name, own_ms) in way.into_iter().rev() {
            until_ms = until_ms.min(own_ms);
            if until_ms > now_ms {
                state.insert((name, sought), value.clone(), until_ms, now_ms);
            } else {
                state.cache.remove(&(name, sought));
            }
        }
        (value, until_ms)
    }
}

/// The word that counts lookups with this end.
fn end(value: &Value) -> Word {
    match value {
        Value::Addresses(_) | Value::Services(_) | Value::Hosts(_) => Word::NO_ERROR,
        Value::Failed(Failure::Code(code)) => match code {
            Code::Format => Word::FORMAT_ERROR,
            Code::Server => Word::SERVER_FAILURE,
            Code::NotFound => Word::NO_NAME,
            Code::NotImplemented => Word::NOT_IMPLEMENTED,
            Code::Refused => Word::REFUSED,
            Code::Other => Word::OTHER_ERROR,
        },
        Value::Failed(Failure::TimedOut) => Word::TIMED_OUT,
        Value::Failed(Failure::BadName | Failure::Busy) => Word::OTHER_ERROR,
    }
}

impl State {
    fn insert(&mut self, key: Key, value: Value, expires_ms: u64, now_ms: u64) {
        if self.cache.len() >= CACHE_MAX && !self.cache.contains_key(&key) {
            self.cache.retain(|_, (_, until_ms)| *until_ms > now_ms);
        }
        if self.cache.len() >= CACHE_MAX && !self.cache.contains_key(&key) {
            // None has expired. Drop a quarter, so that this is not repeated for every new name.
            let mut ends: Vec<u64> = self.cache.values().map(|(_, until_ms)| *until_ms).collect();
            let (_, &mut quarter, _) = ends.select_nth_unstable(CACHE_MAX / 4);
            self.cache.retain(|_, (_, until_ms)| *until_ms > quarter);
        }
        self.cache.insert(key, (value, expires_ms));
    }
}

/// Combines the answers to the questions about one name. As in nginx, a failure of one kind is the name's
/// failure, and an alias counts only if no answer has an address.
fn combine(answers: impl Iterator<Item = Answer>) -> Result<Step, Failure> {
    let (mut addresses, mut services, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    let mut least_s = u32::MAX;
    let (mut alias, mut negative) = (None, Some(u32::MAX));
    for answer in answers {
        match answer {
            Answer::Addresses { list, ttl_s } => {
                addresses.extend(list);
                least_s = least_s.min(ttl_s);
            }
            Answer::Services { list, ttl_s } => {
                services.extend(list);
                least_s = least_s.min(ttl_s);
            }
            Answer::Hosts { list, ttl_s } => {
                hosts.extend(list);
                least_s = least_s.min(ttl_s);
            }
            Answer::Alias { name, ttl_s } => alias = Some((name, ttl_s)),
            Answer::Failed { code: Code::NotFound, ttl_s } => {
                negative = negative.zip(ttl_s).map(|(one, other)| one.min(other));
            }
            Answer::Failed { code, .. } => return Err(Failure::Code(code)),
            Answer::Truncated => return Err(Failure::Code(Code::Format)),
        }
    }
    Ok(match alias {
        _ if !addresses.is_empty() => Step::Done(Value::Addresses(addresses.into()), least_s),
        _ if !services.is_empty() => Step::Done(Value::Services(services.into()), least_s),
        _ if !hosts.is_empty() => Step::Done(Value::Hosts(hosts.into()), least_s),
        Some((name, ttl_s)) => Step::Alias(name, ttl_s),
        None => {
            let ttl_s = negative.unwrap_or(0).min(NEGATIVE_TTL_S_MAX);
            Step::Done(Value::Failed(Failure::Code(Code::NotFound)), ttl_s)
        }
    })
}

/// IPv4 first; each family starts at a random address.
fn shuffled(list: &[IpAddr]) -> Rc<[IpAddr]> {
    let (mut four, mut six): (Vec<IpAddr>, Vec<IpAddr>) = list.iter().partition(|ip| ip.is_ipv4());
    if list.len() > 1 {
        let random = random::number() as usize;
        for family in [&mut four, &mut six] {
            let count = family.len().max(1);
            family.rotate_left(random % count);
        }
    }
    four.append(&mut six);
    four.into()
}

#[cfg(test)]
mod tests;
