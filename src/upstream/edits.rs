//! Changes to the servers of upstream groups that an operator makes while they serve.
//!
//! The master makes each change in its own configuration, from which later processes are forked, and tells the living
//! ones ([`GroupState::edit`](crate::upstream::state::GroupState::edit)). It remembers the changes as differences from
//! the configuration, in the configuration's own words: so they can be made again in the next configuration, written to
//! a file, and shown. A server is found again by the name in its line, and, if several lines have it, by its number
//! among them.
//!
//! Pure data, except that new peers get their counters and places in shared memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::shm::peers::Health;
use crate::upstream::block;
use crate::upstream::group::Group;
use crate::upstream::groups::Groups;
use crate::upstream::peer::Server;

/// Maximum length of a server's line.
pub const LINE_BYTES_MAX: usize = 1024;
/// Maximum number of servers in one group, with those that were removed.
const SERVERS_MAX: usize = 65_536;

/// A change of one server, as an operator asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A further server, with the words of its line: `10.0.0.1:80 weight=2`.
    Add {
        line: Box<str>,
    },
    /// Other parameters for a server; its name stays.
    Set {
        id: u32,
        line: Box<str>,
    },
    Remove {
        id: u32,
    },
}

/// A change that was made: the server at a position is this one now.
#[derive(Clone, Debug)]
pub struct Made {
    /// The group's index in the configuration.
    pub group: usize,
    pub position: usize,
    pub server: Arc<Server>,
    /// The group as it was.
    pub before: Arc<Group>,
    /// What was different about the server before.
    previous: Option<Difference>,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoGroup,
    NoServer,
    /// The line is wrong; the reason.
    Line(String),
    /// The group has [`SERVERS_MAX`] servers.
    Full,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoGroup => write!(out, "upstream not found"),
            Self::NoServer => write!(out, "server not found"),
            Self::Line(why) => write!(out, "{why}"),
            Self::Full => write!(out, "the upstream has {SERVERS_MAX} servers, which is the limit"),
        }
    }
}

/// The language part whose upstream it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    #[default]
    Http,
    Stream,
}

impl Part {
    /// The name of its block.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Stream => "stream",
        }
    }
}

/// One difference from the configuration, as it is written to the state file: one JSON object for each line.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    #[serde(default, skip_serializing_if = "is_http")]
    pub part: Part,
    pub upstream: Box<str>,
    pub change: Kind,
    /// The words of the server's line; of a removed one its name.
    pub server: Box<str>,
    /// The number of the configured server among those with the same name, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub nth: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A server that the configuration does not have.
    Add,
    /// A configured server with other parameters.
    Set,
    /// A configured server that is gone.
    Remove,
    /// Takes back an earlier change of the server. Only in the file: a later line undoes an earlier one.
    Undo,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_http(part: &Part) -> bool {
    *part == Part::Http
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_first(nth: &usize) -> bool {
    *nth == 0
}

/// What is different from the configuration, by group.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    groups: BTreeMap<(Part, Box<str>), BTreeMap<Key, Difference>>,
}

/// An added server, or a configured one with its number among those of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    is_added: bool,
    name: Box<str>,
    nth: usize,
}

impl Difference {
    fn name(&self) -> (Part, Box<str>) {
        (self.part, self.upstream.clone())
    }

    fn key(&self) -> Key {
        let name = self.server.split(' ').next().unwrap_or_default();
        Key { is_added: matches!(self.change, Kind::Add | Kind::Undo), name: name.into(), nth: self.nth }
    }
}

impl Edits {
    /// Makes a change in a configuration, and remembers it. Returns what was made, and the line for the state file.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn make(
        &mut self,
        groups: &mut Groups,
        (part, name): (Part, &str),
        edit: &Edit,
    ) -> Result<(Made, Difference), Refusal> {
        let index = groups.find(name, None, false).ok_or(Refusal::NoGroup)?;
        let group = Arc::clone(groups.get(index).filter(|group| group.is_block).ok_or(Refusal::NoGroup)?);
        let (position, server) = match edit {
            Edit::Add { line } => {
                let server = read(line, part)?;
                check(&group, &server, None)?;
                // A configured server that comes back keeps its position: its absence was the difference.
                let is_it = |old: &Arc<Server>| old.is_removed && old.name == server.name;
                let configured = group.servers.iter().take(group.configured_count).position(is_it);
                let position = configured.or_else(|| vacant_position(&group)).ok_or(Refusal::Full)?;
                (position, Server { id: group.next_id, ..server })
            }
            Edit::Set { id, line } => {
                let position = group.position(*id).ok_or(Refusal::NoServer)?;
                let (old, mut server) = (&group.servers[position], read(line, part)?);
                if server.name != old.name {
                    let why =
                        format!("the address of a server cannot be changed: add \"{}\" instead", server.name);
                    return Err(Refusal::Line(why));
                }
                check(&group, &server, Some(old))?;
                (server.addresses, server.id) = (old.addresses.clone(), *id);
                (position, server)
            }
            Edit::Remove { id } => {
                let position = group.position(*id).ok_or(Refusal::NoServer)?;
                (position, group.servers[position].removed())
            }
        };
        let server = put(groups, index, &group, position, server).ok_or(Refusal::Full)?;
        let (difference, previous) = self.note(part, &group, position, &server);
        Ok((Made { group: index, position, server, before: group, previous }, difference))
    }

    /// Forgets a change that was just made.
    pub fn forget(&mut self, made: &Made, difference: &Difference) {
        let key = difference.key();
        let name = difference.name();
        if let Some(servers) = self.groups.get_mut(&name) {
            servers.remove(&key);
            if servers.is_empty() {
                self.groups.remove(&name);
            }
        }
        if let Some(previous) = &made.previous {
            self.remember(previous.clone());
        }
    }

    /// Remembers a change of the server at a position of `group`, as the group was before.
    fn note(
        &mut self,
        part: Part,
        group: &Group,
        position: usize,
        server: &Server,
    ) -> (Difference, Option<Difference>) {
        let is_added = position >= group.configured_count;
        let is_same = |other: &Arc<Server>| other.name == server.name;
        let range = if is_added { group.configured_count..position } else { 0..position };
        let nth = group.servers.get(range).unwrap_or_default().iter().filter(|other| is_same(other)).count();
        let change = match (is_added, server.is_removed) {
            (true, true) => Kind::Undo,
            (true, false) => Kind::Add,
            (false, true) => Kind::Remove,
            (false, false) => Kind::Set,
        };
        let line = if server.is_removed { server.name.to_string() } else { block::words(server).join(" ") };
        let difference = Difference { part, upstream: group.name.clone(), change, server: line.into(), nth };
        let previous = self.remember(difference.clone());
        (difference, previous)
    }

    /// Takes over a line of the state file. Returns the difference that it replaces.
    pub fn remember(&mut self, difference: Difference) -> Option<Difference> {
        let name = difference.name();
        let servers = self.groups.entry(name.clone()).or_default();
        let previous = match difference.change {
            Kind::Undo => servers.remove(&difference.key()),
            _ => servers.insert(difference.key(), difference),
        };
        if servers.is_empty() {
            self.groups.remove(&name);
        }
        previous
    }

    /// Makes all changes once more, in another configuration. What no longer applies to it is forgotten; the messages
    /// say what and why.
    pub fn apply(&mut self, part: Part, groups: &mut Groups) -> Vec<String> {
        let mut forgotten = Vec::new();
        let own = self.iter().filter(|difference| difference.part == part);
        for difference in own.cloned().collect::<Vec<_>>() {
            if let Err(why) = apply_one(groups, &difference) {
                let Difference { upstream, server, .. } = &difference;
                forgotten.push(format!(
                    "the change of server \"{server}\" in upstream \"{upstream}\" is forgotten: {why}"
                ));
                if let Some(servers) = self.groups.get_mut(&difference.name()) {
                    servers.remove(&difference.key());
                }
            }
        }
        self.groups.retain(|_, servers| !servers.is_empty());
        forgotten
    }

    /// All differences, by group.
    pub fn iter(&self) -> impl Iterator<Item = &Difference> {
        self.groups.values().flat_map(BTreeMap::values)
    }

    pub fn len(&self) -> usize {
        self.groups.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

fn apply_one(groups: &mut Groups, difference: &Difference) -> Result<(), String> {
    let index = groups.find(&difference.upstream, None, false);
    let group = index.and_then(|index| groups.get(index)).filter(|group| group.is_block).cloned();
    let (Some(index), Some(group)) = (index, group) else {
        return Err("the configuration has no such upstream".to_owned());
    };
    if group.state.is_some() {
        return Err("the upstream's servers are in a state file of its own".to_owned());
    }
    let key = difference.key();
    let configured = &group.servers[..group.configured_count.min(group.servers.len())];
    let mut same = configured.iter().enumerate().filter(|(_, server)| server.name == key.name);
    let (position, server) = match difference.change {
        Kind::Add => {
            if same.next().is_some() {
                return Err("the configuration has this server".to_owned());
            }
            let server = read(&difference.server, difference.part).map_err(|why| why.to_string())?;
            check(&group, &server, None).map_err(|why| why.to_string())?;
            let position = vacant_position(&group).ok_or_else(|| Refusal::Full.to_string())?;
            (position, Server { id: group.next_id, ..server })
        }
        Kind::Set | Kind::Remove => {
            let Some((position, old)) = same.nth(difference.nth) else {
                return Err("the configuration has no such server".to_owned());
            };
            if difference.change == Kind::Remove {
                (position, old.removed())
            } else {
                let mut server = read(&difference.server, difference.part).map_err(|why| why.to_string())?;
                check(&group, &server, Some(old)).map_err(|why| why.to_string())?;
                (server.addresses, server.id) = (old.addresses.clone(), old.id);
                (position, server)
            }
        }
        Kind::Undo => return Ok(()),
    };
    put(groups, index, &group, position, server).map(|_| ()).ok_or_else(|| Refusal::Full.to_string())
}

/// Puts a server at a position of a group of the configuration.
fn put(
    groups: &mut Groups,
    index: usize,
    group: &Group,
    position: usize,
    server: Server,
) -> Option<Arc<Server>> {
    let next = group.with_server(position, server, None)?;
    if group.checks.is_some_and(|checks| checks.is_mandatory) {
        let is_new = |place: &u32| {
            !group.shared_of(position).iter().any(|old| old.place.is_some_and(|old| old.index() == *place))
        };
        for place in next.shared_of(position).iter().filter_map(|shared| shared.place) {
            if is_new(&place.index()) {
                place.set_health(Health::Checking, crate::sys::clock::monotonic_ms());
            }
        }
    }
    let server = Arc::clone(next.servers.get(position)?);
    groups.replace(index, Arc::new(next));
    Some(server)
}

/// The position for a further server: one that another added server has left, or a new one.
fn vacant_position(group: &Group) -> Option<usize> {
    let added = group.servers.iter().enumerate().skip(group.configured_count);
    let left = added.filter(|(_, server)| server.is_removed).map(|(position, _)| position).next();
    left.or_else(|| Some(group.servers.len()).filter(|length| *length < SERVERS_MAX))
}

/// The port of an address without one.
fn default_port(part: Part) -> Option<u16> {
    (part == Part::Http).then_some(80)
}

/// A server from its line.
fn read(line: &str, part: Part) -> Result<Server, Refusal> {
    read_words(line, default_port(part)).map_err(Refusal::Line)
}

/// The same without a language part: each server has a port of its own if there is no default.
pub(super) fn read_words(line: &str, default_port: Option<u16>) -> Result<Server, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("a server's line has at most {LINE_BYTES_MAX} bytes"));
    }
    // As in a configuration without quotes, so that the line can be copied into one.
    let is_bad = |byte: &u8| byte.is_ascii_control() || b"\"'\\;{}$#".contains(byte);
    if let Some(byte) = line.bytes().find(is_bad) {
        return Err(format!("a server's line must not contain {:?}", char::from(byte)));
    }
    block::server(line.split(' ').filter(|word| !word.is_empty()), default_port).map_err(|(_, why)| why)
}

/// What a server must not be that is added, or that replaces `old`.
fn check(group: &Group, server: &Server, old: Option<&Server>) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::Line(why));
    if old.is_none() && server.host.literal().is_none() {
        let name = &server.name;
        return refuse(format!(
            "server \"{name}\" is a name: add it by its addresses, or in the configuration"
        ));
    }
    if old.is_some_and(|old| (old.resolve, &old.service) != (server.resolve, &server.service)) {
        return refuse("\"resolve\" and \"service\" can be changed in the configuration only".to_owned());
    }
    if server.slow_start_ms != 0 && group.method.has_slow_start() && group.weight_scale() == 1 {
        let name = &group.name;
        return refuse(format!(
            "\"slow_start\" needs a server in the configuration of upstream \"{name}\" that has it"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Diagnostics, Span};
    use crate::log;
    use crate::sys::names::Names;
    use crate::upstream::block::Defined;
    use crate::upstream::group::Keepalive;
    use crate::upstream::groups::{Common, Draft};

    /// A configuration with the upstream `u` of these lines.
    fn groups(lines: &[&str]) -> Groups {
        let mut draft = Draft::default();
        let servers = lines.iter().map(|line| read(line, Part::Http).expect("a line")).collect();
        let group = Group::with(
            ("", "u"),
            servers,
            crate::upstream::balance::Method::default(),
            Keepalive::default(),
            true,
        );
        let defined = Defined { group, resolver: None, resolver_timeout_ms: None };
        draft.define(defined, Span::default()).expect("the first of its name");
        let common = Common { resolver: None, resolver_timeout_ms: 1000, log: log::process() };
        draft.finish(&common, &Names::default(), &mut Diagnostics::default())
    }

    fn lines(groups: &Groups) -> Vec<String> {
        let group = groups.get(0).expect("the upstream");
        group
            .present()
            .map(|(_, server)| format!("{} {}", server.id, block::words(server).join(" ")))
            .collect()
    }

    fn add(line: &str) -> Edit {
        Edit::Add { line: line.into() }
    }

    fn set(id: u32, line: &str) -> Edit {
        Edit::Set { id, line: line.into() }
    }

    #[test]
    fn changes_are_made_again_in_the_next_configuration() {
        let configured = ["1.1.1.1:80", "1.1.1.2:80", "1.1.1.2:80", "1.1.1.3:80"];
        let (mut now, mut edits) = (groups(&configured), Edits::default());
        let mut make =
            |edit: Edit| edits.make(&mut now, (Part::Http, "u"), &edit).map(|(made, _)| made.server.id);
        assert_eq!(make(add("1.1.1.4:80 weight=2")), Ok(4));
        assert_eq!(make(add("1.1.1.5:80")), Ok(5));
        assert_eq!(make(Edit::Remove { id: 4 }), Ok(4));
        assert_eq!(make(add("1.1.1.6:80")), Ok(6), "an id is used once");
        assert_eq!(make(set(2, "1.1.1.2:80 down")), Ok(2));
        assert_eq!(make(Edit::Remove { id: 3 }), Ok(3));
        assert_eq!(make(Edit::Remove { id: 3 }), Err(Refusal::NoServer));
        let expected = ["0 1.1.1.1:80", "1 1.1.1.2:80", "2 1.1.1.2:80 down", "6 1.1.1.6:80", "5 1.1.1.5:80"];
        assert_eq!(lines(&now), expected, "a position that was left is used again");

        let written: Vec<Difference> = edits.iter().cloned().collect();
        let mut again = Edits::default();
        written.into_iter().for_each(|difference| drop(again.remember(difference)));
        let mut next = groups(&configured);
        assert_eq!(again.apply(Part::Http, &mut next), [""; 0]);
        let expected = ["0 1.1.1.1:80", "1 1.1.1.2:80", "2 1.1.1.2:80 down", "4 1.1.1.5:80", "5 1.1.1.6:80"];
        assert_eq!(lines(&next), expected);
    }

    #[test]
    fn what_no_longer_applies_is_forgotten() {
        let (mut now, mut edits) = (groups(&["1.1.1.1:80", "1.1.1.2:80"]), Edits::default());
        for edit in [add("1.1.1.3:80"), set(0, "1.1.1.1:80 down"), Edit::Remove { id: 1 }] {
            edits.make(&mut now, (Part::Http, "u"), &edit).expect("a change");
        }
        let mut next = groups(&["1.1.1.3:80 weight=5"]);
        assert_eq!(edits.apply(Part::Http, &mut next).len(), 3);
        assert!(edits.is_empty() && lines(&next) == ["0 1.1.1.3:80 weight=5"]);
    }

    #[test]
    fn a_configured_server_that_comes_back_is_a_change_of_it() {
        let (mut now, mut edits) = (groups(&["1.1.1.1:80", "1.1.1.2:80"]), Edits::default());
        edits.make(&mut now, (Part::Http, "u"), &Edit::Remove { id: 0 }).expect("it is there");
        edits.make(&mut now, (Part::Http, "u"), &add("1.1.1.1:80 weight=3")).expect("it may come back");
        assert_eq!(lines(&now), ["2 1.1.1.1:80 weight=3", "1 1.1.1.2:80"]);
        let mut next = groups(&["1.1.1.1:80", "1.1.1.2:80"]);
        assert_eq!(edits.apply(Part::Http, &mut next), [""; 0]);
        assert_eq!(lines(&next), ["0 1.1.1.1:80 weight=3", "1 1.1.1.2:80"]);
    }

    #[test]
    fn a_change_that_is_taken_back_leaves_what_was_before() {
        let (mut now, mut edits) = (groups(&["1.1.1.1:80"]), Edits::default());
        edits.make(&mut now, (Part::Http, "u"), &set(0, "1.1.1.1:80 weight=2")).expect("a change");
        edits.make(&mut now, (Part::Http, "u"), &add("1.1.1.2:80")).expect("a change");
        let before: Vec<Difference> = edits.iter().cloned().collect();
        for edit in
            [set(0, "1.1.1.1:80 weight=9"), add("1.1.1.3:80"), Edit::Remove { id: 1 }, Edit::Remove { id: 0 }]
        {
            let (made, difference) = edits.make(&mut now, (Part::Http, "u"), &edit).expect("a change");
            edits.forget(&made, &difference);
            now.replace(made.group, made.before);
            assert_eq!(edits.iter().cloned().collect::<Vec<_>>(), before, "{edit:?}");
            assert_eq!(lines(&now), ["0 1.1.1.1:80 weight=2", "1 1.1.1.2:80"], "{edit:?}");
        }
    }

    #[test]
    fn lines_that_a_configuration_could_not_have_are_refused() {
        for line in [
            "",
            "1.1.1.1:99999",
            "1.1.1.1 color=red",
            "1.1.1.1;",
            "1.1.1.1 \u{7f}",
            "\"1.1.1.1\"",
            "1.1.1.1#",
            "name.test",
        ] {
            let (mut now, mut edits) = (groups(&["1.1.1.1:80"]), Edits::default());
            let made = edits.make(&mut now, (Part::Http, "u"), &add(line));
            assert!(matches!(made, Err(Refusal::Line(_))), "{line:?} {made:?}");
            assert!(edits.is_empty());
        }
        let (mut now, mut edits) = (groups(&["1.1.1.1:80"]), Edits::default());
        assert!(matches!(edits.make(&mut now, (Part::Http, "v"), &add("1.1.1.1")), Err(Refusal::NoGroup)));
        assert!(
            matches!(edits.make(&mut now, (Part::Http, "u"), &set(0, "1.1.1.2:80")), Err(Refusal::Line(_))),
            "another address"
        );
    }
}
