//! The groups of a configuration in one worker, and those it makes for names that come from requests.
//!
//! Touches: the memory of names, for the addresses that were known before the fork (`known.rs`).

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::net::address::{Address, Host};
use crate::net::resolv_conf;
use crate::net::resolver::{Resolver, Source};
use crate::runtime;
use crate::upstream::follow::{self, Tell};
use crate::upstream::group::Group;
use crate::upstream::groups::{Groups, with_port};
use crate::upstream::known::Spot;
use crate::upstream::peer::{Server, Shared};
use crate::upstream::session::Session;
use crate::upstream::state::GroupState;
use crate::upstream::unresolved;

/// Maximum number of groups kept, with their connections, that were made while serving for `proxy_pass` with
/// variables.
const MADE_MAX: usize = 64;

/// Every group to which this worker passes requests.
///
/// There is one for each configuration that the worker serves. A group's state is made when it is first
/// needed, so that thousands of groups cost little if a worker uses only a few.
#[derive(Debug)]
pub struct Upstreams {
    groups: &'static Groups,
    states: Box<[OnceCell<Rc<GroupState>>]>,
    /// The most recently used last.
    made: RefCell<Vec<Made>>,
}

/// A group that was made while serving.
#[derive(Debug)]
struct Made {
    state: Rc<GroupState>,
    /// The resolver that was asked for its addresses; `None`: the system's, or no lookup was needed.
    source: Option<Rc<Resolver>>,
    asked_ms: u64,
}

impl Upstreams {
    pub fn new(groups: &'static Groups) -> Self {
        let states = (0..groups.len()).map(|_| OnceCell::new()).collect();
        Self { groups, states, made: RefCell::default() }
    }

    /// Takes over the addresses of names that were known when the process was forked. Called once.
    pub fn recall(&self) {
        let followed = self.groups.followed().map(|(index, _)| index);
        let indexes: Vec<usize> = followed.chain(self.groups.incomplete()).collect();
        indexes.into_iter().filter_map(|index| self.get(index)).for_each(|state| follow::recall(state));
    }

    /// Takes over the addresses of a server's name that the prober has found.
    pub fn learn(&self, group_index: usize, server_index: usize, spots: &[Spot]) {
        if let Some(state) = self.get(group_index) {
            follow::learn(state, server_index, spots);
        }
    }

    /// Puts another server at a position of a group, as the master says. False if there is no such position: this
    /// process is out of step with the master's configuration.
    pub fn edit(&self, group_index: usize, position: usize, server: Server, shared: Arc<[Shared]>) -> bool {
        self.get(group_index).is_some_and(|state| state.edit(position, server, shared))
    }

    /// Every group of the configuration once, with the servers that it has now.
    pub fn present(&self) -> Vec<Arc<Group>> {
        let own = (0..self.groups.len()).filter(|index| self.groups.alias(*index).is_none());
        own.filter_map(|index| self.present_at(index)).collect()
    }

    /// The group of an `upstream` block, with the servers that it has now. It costs the same however many there are.
    pub fn present_block(&self, name: &str) -> Option<Arc<Group>> {
        let index = self.groups.find(name, None, false)?;
        self.present_at(index).filter(|group| group.is_block && *group.name == *name)
    }

    fn present_at(&self, index: usize) -> Option<Arc<Group>> {
        match self.states.get(index).and_then(OnceCell::get) {
            Some(state) => Some(Arc::clone(&state.set().group)),
            None => self.groups.get(index).cloned(),
        }
    }

    /// Starts to retry the names that did not resolve, and to follow those with `resolve`. Called once, in the prober.
    pub fn follow(&self, tell: &Tell) {
        let log = self.groups.log();
        let mut sources: HashMap<usize, Rc<Source>> = HashMap::new();
        for (index, group) in self.groups.followed() {
            let resolver = group.lookup.as_ref().and_then(|lookup| lookup.resolver.as_ref());
            let key = resolver.map_or(0, |settings| Arc::as_ptr(settings).addr());
            let source = sources.entry(key).or_insert_with(|| {
                Rc::new(match resolver {
                    Some(settings) => Source::of_directive(settings),
                    None => Source::of_system(Path::new(resolv_conf::PATH)),
                })
            });
            follow::start(group, index, source, log, tell);
        }
        let waiting: Vec<_> =
            self.groups.incomplete().filter_map(|index| Some((index, self.get(index)?.clone()))).collect();
        if !waiting.is_empty() {
            runtime::spawn(unresolved::retry(waiting, log, Rc::clone(tell)));
        }
    }

    /// A group of the configuration.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&Rc<GroupState>> {
        let state = self.states.get(index)?;
        match state.get() {
            Some(state) => Some(state),
            None => self.make_state(index, state),
        }
    }

    #[cold]
    fn make_state<'a>(
        &self,
        index: usize,
        state: &'a OnceCell<Rc<GroupState>>,
    ) -> Option<&'a Rc<GroupState>> {
        if let Some(other) = self.groups.alias(index) {
            let other = Rc::clone(self.get(other)?);
            return Some(state.get_or_init(|| other));
        }
        let group = Arc::clone(self.groups.get(index)?);
        Some(state.get_or_init(|| Rc::new(GroupState::new(group))))
    }

    /// The group of the configuration for a host that was evaluated.
    pub fn find(&self, name: &str, port: Option<u16>, is_tls: bool) -> Option<&Rc<GroupState>> {
        self.get(self.groups.find(name, port, is_tls)?)
    }

    /// The group with this name, whether the configuration has it or a value of `proxy_pass` has made it.
    pub fn named(&self, name: &str) -> Option<Rc<GroupState>> {
        let (host, port) = match name.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host, Some(port)),
            _ => (name, None),
        };
        let of = |is_tls| self.find(name, None, is_tls).or_else(|| self.find(host, port, is_tls));
        let found = of(false).or_else(|| of(true)).filter(|state| *state.group.name == *name).cloned();
        found.or_else(|| {
            let made = self.made.borrow();
            made.iter().rfind(|made| *made.state.group.name == *name).map(|made| Rc::clone(&made.state))
        })
    }

    /// The course of a connection that another process has opened to this peer. `None`: there is no such peer now.
    pub fn resume(&self, group: &str, peer: &str) -> Option<Session> {
        Session::resume(&*self.named(group)?, peer, runtime::now_ms())
    }

    /// The group that was made for a host before, and whether its addresses were looked up within `valid_ms`.
    /// If not, this caller must do it, while other requests continue with the known ones. `source` is the
    /// resolver to ask.
    pub fn find_made(
        &self,
        name: &str,
        port: Option<u16>,
        source: Option<&Rc<Resolver>>,
        valid_ms: u64,
    ) -> Option<(Rc<GroupState>, bool)> {
        let full = with_port(name, port);
        let is_source = |other: Option<&Rc<Resolver>>| match (other, source) {
            (Some(other), Some(source)) => Rc::ptr_eq(other, source),
            (other, source) => other.is_none() && source.is_none(),
        };
        let mut list = self.made.borrow_mut();
        let index = list.iter().rposition(|made| {
            is_source(made.source.as_ref()) && made.state.group.name.eq_ignore_ascii_case(&full)
        })?;
        let mut made = list.remove(index);
        let now_ms = runtime::now_ms();
        let is_fresh = now_ms.saturating_sub(made.asked_ms) < valid_ms;
        if !is_fresh {
            made.asked_ms = now_ms;
        }
        let state = Rc::clone(&made.state);
        list.push(made);
        Some((state, is_fresh))
    }

    /// The group, with a single server, for an evaluated host with these addresses. If it was made before, it
    /// keeps its connections.
    pub fn make(
        &self,
        name: &str,
        port: Option<u16>,
        source: Option<&Rc<Resolver>>,
        host: &Host,
        addresses: Vec<Address>,
    ) -> Rc<GroupState> {
        if let Some((state, _)) = self.find_made(name, port, source, 0) {
            state.learn(0, &addresses.into_iter().map(Spot::from).collect::<Vec<_>>());
            return state;
        }
        // As in nginx, failures of an address are forgotten after each request.
        let server = Server { addresses, fails_max: 0, ..Server::new(name, host.clone()) };
        let group = Arc::new(Group::uncounted(&with_port(name, port), vec![server]));
        let state = Rc::new(GroupState::new(group));
        let made = Made { state: Rc::clone(&state), source: source.cloned(), asked_ms: runtime::now_ms() };
        let oldest = {
            let mut list = self.made.borrow_mut();
            list.push(made);
            (list.len() > MADE_MAX).then(|| list.remove(0))
        };
        drop(oldest); // its connections close while nothing is borrowed
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Diagnostics, Span};
    use crate::log;
    use crate::net::address;
    use crate::net::resolver::{Resolvers, Settings};
    use crate::runtime::Runtime;
    use crate::sys::names::Names;
    use crate::upstream::groups::{Common, Draft};

    /// Runs `test` with the groups of these hosts, in its own loop.
    fn with_groups(hosts: &[&str], test: impl FnOnce(&Upstreams) + 'static) {
        let mut draft = Draft::default();
        for name in hosts {
            draft.reference(name, None, false, address::parse_upstream(name, 80).unwrap(), Span::default());
        }
        let common = Common { resolver: None, resolver_timeout_ms: 1000, log: log::process() };
        let groups = draft.finish(&common, &Names::default(), &mut Diagnostics::default());
        let groups: &'static Groups = Box::leak(Box::new(groups));
        let mut runtime = Runtime::new().expect("a loop");
        runtime.block_on(async move { test(&Upstreams::new(groups)) });
    }

    fn inet(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    #[test]
    fn a_group_has_one_state_made_when_it_is_needed() {
        with_groups(&["1.1.1.1", "1.1.1.2"], |upstreams| {
            assert!(upstreams.states.iter().all(|state| state.get().is_none()));
            let first = Rc::clone(upstreams.get(0).unwrap());
            assert!(Rc::ptr_eq(upstreams.find("1.1.1.1", None, false).unwrap(), &first));
            assert!(upstreams.states[1].get().is_none());
            assert!(upstreams.get(2).is_none() && upstreams.find("1.1.1.3", None, false).is_none());
        });
    }

    #[test]
    fn a_group_that_was_made_is_found_by_its_host_and_by_who_was_asked() {
        with_groups(&[], |upstreams| {
            let host = address::parse_upstream("a.test", 80).unwrap();
            let settings =
                Settings { servers: Vec::new(), valid_ms: None, ipv4: true, ipv6: true, counts: None };
            let resolver = Resolvers::default().get(&Arc::new(settings));
            let made = upstreams.make("a.test", Some(80), None, &host, vec![inet("1.1.1.1:80")]);
            let (found, is_fresh) = upstreams.find_made("A.test", Some(80), None, 1000).unwrap();
            assert!(Rc::ptr_eq(&found, &made) && is_fresh);
            assert!(!upstreams.find_made("a.test", Some(80), None, 0).unwrap().1, "its time is over");
            assert!(upstreams.find_made("a.test", Some(80), Some(&resolver), 1000).is_none());
            assert!(upstreams.find_made("a.test", None, None, 1000).is_none());

            let other = upstreams.make("a.test", Some(80), Some(&resolver), &host, vec![inet("1.1.1.2:80")]);
            assert!(!Rc::ptr_eq(&other, &made));
            let again = upstreams.make("a.test", Some(80), None, &host, vec![inet("1.1.1.3:80")]);
            assert!(Rc::ptr_eq(&again, &made), "its connections stay");
            assert_eq!(again.set().all().next().unwrap().address, inet("1.1.1.3:80"));
        });
    }

    #[test]
    fn those_that_were_asked_for_lately_are_kept() {
        with_groups(&[], |upstreams| {
            let host = address::parse_upstream("a.test", 80).unwrap();
            let make = |port| upstreams.make("a.test", Some(port), None, &host, vec![inet("1.1.1.1:80")]);
            let has = |port| upstreams.find_made("a.test", Some(port), None, 1000).is_some();
            (0..MADE_MAX as u16).for_each(|port| drop(make(port)));
            assert!(has(0), "which makes it the freshest");
            drop(make(1000));
            assert!(has(0) && !has(1) && has(2) && has(1000));
            assert_eq!(upstreams.made.borrow().len(), MADE_MAX);
        });
    }
}
