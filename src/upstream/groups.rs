//! The groups that a configuration names: read in any order, then plain data for the workers.
//!
//! A group is an `upstream` block, or the single host of a `proxy_pass` that no block defines. Touches:
//! shared memory, for the counters of the groups and their peers. A name that does not resolve is a warning:
//! its server counts as down until it does (`upstream/unresolved.rs`). Behaviour: nginx.org,
//! ngx_http_upstream_module.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::{Diagnostic, Diagnostics, Node, Span};
use crate::log::{self, Logger};
use crate::net::address::Host;
use crate::net::resolver::Settings;
use crate::shm::counter::Slot;
use crate::shm::peers::{Health, SharedTurns};
use crate::sys::clock;
use crate::sys::names::Names;
use crate::upstream::block::{Block, Defined, look_up};
use crate::upstream::check::{Checks, Rules};
use crate::upstream::follow;
use crate::upstream::group::{Group, Lookup};
use crate::upstream::peer::Server;

/// A lower-case name, and the port that was written with it; without one, whether the protocol's own is that
/// of `https://`.
type Key = (Box<str>, Option<u16>, bool);

/// The default port of `https://`.
const HTTPS_PORT: u16 = 443;

/// The groups of a configuration while it is read: referenced and defined in any order.
#[derive(Debug, Default)]
pub struct Draft {
    /// The language part, if it is not `http`.
    part: &'static str,
    entries: Vec<Entry>,
    by_name: HashMap<Key, usize>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    port: Option<u16>,
    /// No port is written, and the protocol is `https://`.
    is_tls: bool,
    host: Option<Host>,
    checks: Option<Checks>,
    has_agent: bool,
    defined: Option<Defined>,
    span: Span,
}

/// The resolver settings of the block around the `upstream` blocks, for those without their own.
#[derive(Clone, Debug)]
pub struct Common {
    pub resolver: Option<Arc<Settings>>,
    pub resolver_timeout_ms: u64,
    /// Receives log lines about names while serving.
    pub log: Logger,
}

impl Draft {
    /// The draft of a language part ([`Group::part`]).
    pub fn of(part: &'static str) -> Self {
        Self { part, ..Self::default() }
    }

    /// The index of the group for a host of `proxy_pass`, as written, with the port written with it; equal
    /// hosts have the same group. `is_tls`: the URL begins with `https://`, which has another default port.
    pub fn reference(
        &mut self,
        name: &str,
        port: Option<u16>,
        is_tls: bool,
        host: Host,
        span: Span,
    ) -> usize {
        let is_tls = is_tls && port.is_none();
        let (index, is_new) = self.index(name, port, is_tls);
        let is_portless = matches!(host, Host::Inet { port: 0, .. });
        if let Some(entry) = self.entries.get_mut(index).filter(|_| is_portless) {
            (entry.host, entry.span) = (Some(host), span); // whatever port another protocol has
        } else if is_new {
            self.entries.push(Entry {
                name: name.into(),
                port,
                is_tls,
                host: Some(host),
                checks: None,
                has_agent: false,
                defined: None,
                span,
            });
        }
        index
    }

    /// Adds the group of an `upstream` block that has been read, and returns its index. `None`: it has no servers because
    /// those that it names were refused, which has been reported since there were `errors_before`. Fails if it names none,
    /// or if there is a group of this name.
    pub fn add_block(
        &mut self,
        (block, part): (Block, &'static str),
        node: &Node,
        errors_before: usize,
        diagnostics: &mut Diagnostics,
    ) -> Result<Option<usize>, Diagnostic> {
        let (name, span) = (node.arg(0), node.arg_span(0));
        let Some(defined) = block.into_group(name, part) else {
            self.define_refused(name, span);
            if diagnostics.error_count() > errors_before {
                return Ok(None);
            }
            return Err(Diagnostic::error(node.span, "no servers are inside upstream"));
        };
        let Group { servers, method, .. } = &defined.group;
        if servers.iter().any(|server| server.slow_start_ms != 0) && !method.has_slow_start() {
            let message = "\"slow_start\" has no effect with \"hash\", \"ip_hash\" and \"random\"";
            diagnostics.push(Diagnostic::warning(span, message));
        }
        self.define(defined, span).map(Some)
    }

    /// Adds the group of an `upstream` block, and returns its index. Fails if there is one of this name.
    pub fn define(&mut self, defined: Defined, span: Span) -> Result<usize, Diagnostic> {
        let name = defined.group.name.clone();
        let (index, is_new) = self.index(&name, None, false);
        if is_new {
            let defined = Some(defined);
            let (host, checks, has_agent) = (None, None, false);
            self.entries.push(Entry {
                name,
                port: None,
                is_tls: false,
                host,
                checks,
                has_agent,
                defined,
                span,
            });
            return Ok(index);
        }
        match self.entries.get_mut(index) {
            Some(entry) if entry.defined.is_none() => {
                (entry.defined, entry.span) = (Some(defined), span);
                Ok(index)
            }
            _ => Err(Diagnostic::error(span, format!("duplicate upstream \"{name}\""))),
        }
    }

    /// Defines a group whose block has errors, which were reported: the uses of its name are no further ones.
    pub fn define_refused(&mut self, name: &str, span: Span) {
        let group = Group::uncounted(name, Vec::<Server>::new());
        // The first of two blocks with this name counts.
        let _ = self.define(Defined { group, resolver: None, resolver_timeout_ms: None }, span);
    }

    /// Notes that the peers of a group are checked.
    pub fn check(&mut self, index: usize, rules: &Rules) {
        if let Some(entry) = self.entries.get_mut(index) {
            let own = Checks::of(rules);
            entry.checks = Some(entry.checks.map_or(own, |checks| checks.and(own)));
        }
    }

    /// Notes that the peers of a group have agents.
    pub fn advise(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.has_agent = true;
        }
    }

    fn index(&mut self, name: &str, port: Option<u16>, is_tls: bool) -> (usize, bool) {
        let next = self.entries.len();
        let index = *self.by_name.entry(key(name, port, is_tls)).or_insert(next);
        (index, index == next)
    }

    /// Makes a group from each referenced host that no block defines. Called when everything has been read.
    pub fn finish(mut self, common: &Common, names: &Names, out: &mut Diagnostics) -> Groups {
        let defined = self.entries.iter().filter(|entry| entry.defined.is_some());
        let defined: HashSet<String> = defined.map(|entry| entry.name.to_ascii_lowercase()).collect();
        // A block serves `https://` as well as `http://`.
        let mut aliases = HashMap::new();
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.is_tls) {
            if let Some(&block) = self.by_name.get(&key(&entry.name, None, false))
                && self.entries.get(block).is_some_and(|entry| entry.defined.is_some())
            {
                aliases.insert(index, block);
            }
        }
        for (&index, &block) in &aliases {
            let checks = [index, block].map(|index| self.entries.get(index).and_then(|entry| entry.checks));
            if let Some(entry) = self.entries.get_mut(block) {
                entry.checks = checks.into_iter().flatten().reduce(Checks::and);
            }
        }
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.defined.is_some()) {
            self.by_name.insert(key(&entry.name, None, true), index);
        }
        let mut groups = Vec::with_capacity(self.entries.len());
        for (index, entry) in self.entries.into_iter().enumerate() {
            if aliases.contains_key(&index) {
                groups.push(Arc::new(Group::uncounted(&entry.name, Vec::<Server>::new())));
                continue;
            }
            if let Some(port) = entry.port.filter(|_| defined.contains(&entry.name.to_ascii_lowercase())) {
                let message = format!("upstream \"{}\" may not have port {port}", entry.name);
                out.push(Diagnostic::error(entry.span, message));
            }
            let is_block = entry.defined.is_some();
            let mut group = match (entry.defined, entry.host) {
                (Some(defined), _) => common.complete(defined),
                (None, Some(host)) => {
                    if matches!(host, Host::Inet { port: 0, .. }) {
                        let message = format!("no port in upstream \"{}\"", entry.name);
                        out.push(Diagnostic::error(entry.span, message));
                    }
                    let name = with_port(&entry.name, entry.port.or(entry.is_tls.then_some(HTTPS_PORT)));
                    let mut server = Server::new(&name, host);
                    look_up(&mut server, entry.span, names, out);
                    Group::of(self.part, &name, vec![server])
                }
                (None, None) => Group::of(self.part, &entry.name, Vec::new()),
            };
            (group.index, group.is_block) = (Some(index), is_block);
            (group.checks, group.has_agent) = (entry.checks, entry.has_agent);
            warn_of_no_room(&group, entry.span, out);
            groups.push(Arc::new(group));
        }
        for (&index, &block) in &aliases {
            groups[index] = Arc::clone(&groups[block]);
        }
        Groups::new(groups, aliases, self.by_name, Some(common.log))
    }
}

impl Common {
    /// Sets the resolver of a group that has servers with `resolve`.
    fn complete(&self, defined: Defined) -> Group {
        let Defined { mut group, resolver, resolver_timeout_ms } = defined;
        if !group.servers.iter().any(|server| server.resolve) {
            return group;
        }
        let timeout_ms = resolver_timeout_ms.unwrap_or(self.resolver_timeout_ms);
        let resolver = resolver.or_else(|| self.resolver.clone());
        group.lookup = Some(Lookup { resolver, timeout_ms });
        group
    }
}

/// Warns that peers have no place. The group works all the same; each worker finds out for itself which of
/// them fail.
fn warn_of_no_room(group: &Group, span: Span, out: &mut Diagnostics) {
    let count = group.peers_without_place();
    if count > 0 {
        let name = &group.name;
        let message = format!("no room in shared memory for {count} servers of upstream \"{name}\"");
        let help =
            "it has room for 65536 servers of all groups; workers do not share what they know of the others";
        out.push(Diagnostic::warning(span, message).help(help));
    }
}

/// A server whose name the prober looks up.
#[derive(Debug)]
pub struct Followed {
    /// The index of its group, and its own in it.
    pub group: usize,
    pub server: usize,
    /// Its key in [`crate::upstream::known`].
    pub key: String,
    /// The name of its group in shared memory.
    pub group_name: Box<str>,
    /// The group's peers have places in shared memory that matter.
    pub is_placed: bool,
}

/// The groups of a configuration, ready to serve. Plain data: state that changes while serving is in each
/// worker's [`Upstreams`](crate::upstream::Upstreams), and in shared memory.
#[derive(Debug, Default)]
pub struct Groups {
    groups: Box<[Arc<Group>]>,
    /// The groups that are another one under `https://`: its index.
    aliases: HashMap<usize, usize>,
    by_name: HashMap<Key, usize>,
    /// The groups with names that did not resolve. The master lists them, so that no worker need search all
    /// groups.
    incomplete: Box<[usize]>,
    /// The groups with names that are looked up while serving.
    followed: Box<[usize]>,
    log: Option<Logger>,
}

impl Groups {
    fn new(
        groups: Vec<Arc<Group>>,
        aliases: HashMap<usize, usize>,
        by_name: HashMap<Key, usize>,
        log: Option<Logger>,
    ) -> Self {
        let of = |is_wanted: fn(&Group) -> bool| {
            let indexes =
                (0..groups.len()).filter(|index| !aliases.contains_key(index) && is_wanted(&groups[*index]));
            indexes.collect::<Box<[usize]>>()
        };
        let incomplete = of(|group| !group.unresolved().is_empty());
        let followed = of(|group| group.lookup.is_some());
        Self { incomplete, followed, groups: groups.into(), aliases, by_name, log }
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&Arc<Group>> {
        self.groups.get(index)
    }

    /// Puts another group in the place of one, which has the same names. For the master, between two forks.
    pub fn replace(&mut self, index: usize, group: Arc<Group>) {
        let same = self.aliases.iter().filter(|(_, block)| **block == index).map(|(alias, _)| *alias);
        for index in same.chain([index]) {
            if let Some(place) = self.groups.get_mut(index) {
                *place = Arc::clone(&group);
            }
        }
    }

    /// The index of the group that this one is under `https://`.
    pub fn alias(&self, index: usize) -> Option<usize> {
        self.aliases.get(&index).copied()
    }

    /// The index of the group for a host that was evaluated.
    pub fn find(&self, name: &str, port: Option<u16>, is_tls: bool) -> Option<usize> {
        self.by_name.get(&key(name, port, is_tls && port.is_none())).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        let all = self.groups.iter().enumerate();
        all.filter(|(index, _)| !self.aliases.contains_key(index)).map(|(_, group)| &**group)
    }

    /// The groups of which no server has an address: every request passed to them fails.
    pub fn unreachable(&self) -> impl Iterator<Item = &Group> {
        let has_none =
            |group: &&Group| !group.servers.is_empty() && group.unresolved().len() == group.servers.len();
        self.iter().filter(has_none)
    }

    /// The numbers of the counter slots that these groups use, for `shm::counter::sweep`.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.iter().flat_map(Group::slots).map(Slot::index)
    }

    /// The numbers of their places and their peers', for `shm::peers::sweep`.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        let turns = self.iter().filter_map(|group| group.turns).map(SharedTurns::index);
        self.iter().flat_map(Group::all_places).map(|place| place.index()).chain(turns)
    }

    /// The servers whose names the prober looks up: those that are followed, and those that did not resolve.
    pub fn followed_servers(&self) -> impl Iterator<Item = Followed> {
        let indexes = self.followed.iter().chain(self.incomplete.iter()).copied().collect::<BTreeSet<_>>();
        let groups = indexes.into_iter().filter_map(|index| Some((index, self.groups.get(index)?)));
        groups.flat_map(|(index, group)| {
            let servers = group.servers.iter().enumerate().filter(|(_, server)| follow::is_followed(server));
            let is_placed = group.is_shared || group.checks.is_some() || group.has_agent;
            servers.map(move |(server, _)| Followed {
                group: index,
                server,
                key: follow::key(group, server),
                group_name: group.full_name().into(),
                is_placed,
            })
        })
    }

    /// The groups with names that are looked up while serving, and their indexes.
    pub fn followed(&self) -> impl Iterator<Item = (usize, &Arc<Group>)> {
        self.followed.iter().filter_map(|&index| Some((index, self.groups.get(index)?)))
    }

    /// The indexes of the groups with names that did not resolve.
    pub fn incomplete(&self) -> impl Iterator<Item = usize> {
        self.incomplete.iter().copied()
    }

    /// True if some group has active checks, or agents.
    pub fn has_checks(&self) -> bool {
        self.iter().any(|group| group.checks.is_some() || group.has_agent)
    }

    /// Brings the health of peers in shared memory to where their checks begin. `is_new`: a prober of another
    /// configuration is about to start.
    pub fn forget_health(&self, is_new: bool) {
        let now_ms = clock::monotonic_ms();
        // Without checks nothing changes, and reading the places would bring them into memory.
        for group in self.iter().filter(|group| is_new || group.checks.is_some()) {
            for place in group.places() {
                let health = place.health(now_ms).0;
                let begins = match group.checks {
                    Some(checks) => checks.begin(health, is_new),
                    // A later configuration may check it again.
                    None if is_new => Health::Unknown,
                    None => health,
                };
                if begins != health {
                    place.set_health(begins, now_ms);
                }
            }
        }
    }

    /// The log for news about names.
    pub fn log(&self) -> Logger {
        self.log.unwrap_or_else(log::process)
    }
}

fn key(name: &str, port: Option<u16>, is_tls: bool) -> Key {
    (name.to_ascii_lowercase().into_boxed_str(), port, is_tls)
}

pub(super) fn with_port(name: &str, port: Option<u16>) -> String {
    port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address;

    fn host(name: &str) -> Host {
        address::parse_upstream(name, 80).unwrap()
    }

    fn defined(name: &str, servers: &[&str]) -> Defined {
        let servers = servers.iter().map(|name| Server::new(name, host(name)));
        let group = Group::new(name, servers.collect());
        Defined { group, resolver: None, resolver_timeout_ms: None }
    }

    fn common() -> Common {
        Common { resolver: None, resolver_timeout_ms: 30_000, log: log::process() }
    }

    fn finish(draft: Draft) -> (Groups, Vec<String>) {
        let mut out = Diagnostics::default();
        let groups = draft.finish(&common(), &Names::default(), &mut out);
        (groups, out.0.iter().map(|diagnostic| diagnostic.message.clone()).collect())
    }

    #[test]
    fn a_configuration_of_groups_is_plain_data() {
        fn is_plain<T: Send + Sync + 'static>() {}
        is_plain::<Groups>();
        is_plain::<Draft>();
    }

    #[test]
    fn a_block_may_stand_behind_its_use_and_is_found_in_any_case() {
        let mut draft = Draft::default();
        let used = draft.reference("Backend", None, false, host("backend"), Span::default());
        draft.define(defined("backend", &["1.1.1.1:80", "1.1.1.2:80"]), Span::default()).unwrap();
        let other = draft.reference("1.1.1.3", Some(8080), false, host("1.1.1.3:8080"), Span::default());
        assert_eq!(
            draft.reference("1.1.1.3", Some(8080), false, host("1.1.1.3:8080"), Span::default()),
            other
        );
        let (groups, findings) = finish(draft);
        assert_eq!(findings, [""; 0]);
        assert_eq!(groups.find("BACKEND", None, false), Some(used));
        assert_eq!(groups.get(used).map(|group| group.servers.len()), Some(2));
        assert_eq!(groups.get(other).map(|group| &*group.name), Some("1.1.1.3:8080"));
        assert_eq!((groups.len(), groups.find("1.1.1.3", None, false)), (2, None));
    }

    #[test]
    fn two_blocks_of_one_name_and_a_port_behind_a_block_s_name_are_refused() {
        let mut draft = Draft::default();
        draft.define(defined("twice", &["1.1.1.1"]), Span::default()).unwrap();
        let second = draft.define(defined("Twice", &["1.1.1.1"]), Span::default()).unwrap_err();
        assert_eq!(second.message, "duplicate upstream \"Twice\"");
        draft.reference("twice", Some(81), false, host("1.1.1.1:81"), Span::default());
        assert_eq!(finish(draft).1, ["upstream \"twice\" may not have port 81"]);
    }

    #[test]
    fn the_uses_of_a_block_with_errors_are_no_further_ones() {
        let mut draft = Draft::default();
        let used = draft.reference("bad.test", None, false, host("bad.test"), Span::default());
        draft.define_refused("bad.test", Span::default());
        draft.define_refused("bad.test", Span::default());
        let (groups, findings) = finish(draft);
        assert_eq!((findings, groups.find("bad.test", None, false)), (Vec::new(), Some(used)));
    }

    #[test]
    fn names_to_resolve_are_asked_of_the_system_without_a_resolver() {
        let mut draft = Draft::default();
        let mut later = defined("later", &["later.test:80"]);
        Arc::make_mut(&mut later.group.servers[0]).resolve = true;
        draft.define(later, Span::default()).unwrap();
        let (groups, findings) = finish(draft);
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!((groups.followed().count(), groups.incomplete().count()), (1, 0));
        let (_, group) = groups.followed().next().unwrap();
        assert!(group.lookup.as_ref().is_some_and(|lookup| lookup.resolver.is_none()));
        let followed: Vec<_> = groups.followed_servers().map(|it| (it.group, it.server, it.key)).collect();
        assert_eq!(followed, [(0, 0, "later later.test ".to_owned())]);
    }

    #[test]
    fn groups_without_addresses_are_unreachable_and_tried_again() {
        let mut draft = Draft::default();
        draft.define(defined("half", &["nowhere.test", "1.1.1.1"]), Span::default()).unwrap();
        let none = draft.reference("none.test", None, false, host("none.test"), Span::default());
        let (groups, findings) = finish(draft);
        assert_eq!(findings, ["host not found in upstream \"none.test\""]);
        assert_eq!(groups.incomplete().collect::<Vec<_>>(), [0, none]);
        assert_eq!(groups.unreachable().map(|group| &*group.name).collect::<Vec<_>>(), ["none.test"]);
    }
}
