//! The key-value zones: the master alone decides about changes, writes them to the zone's state file, and tells them to
//! every process of every generation.
//!
//! A change is written before it is made: so a full disk refuses it, and nothing is lost. Touches: state files, the
//! zones of the configuration in force, the control sockets.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cycle::Config;
use crate::log;
use crate::master::Master;
use crate::master::orders::STALE_LINES_MAX;
use crate::master::seat::Worker;
use crate::master::state_file::{self, StateFile};
use crate::script::keyval::table::{Key, Pair, Table};
use crate::script::keyval::{Declared, Zone};
use crate::shared::control::Operator;
use crate::shared::keyvals::{Change, KEY_EXISTS, NO_KEY, NO_ZONE, NewPair, News, What};
use crate::sys::{clock, sealed};
use crate::upstream::edits::Part;
use crate::worker::messages::ToWorker;

/// Maximum size of a state file, and of all pairs on their way to the next binary, besides their zones' sizes.
const STATE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Beyond this many changes that a process does not know yet, it learns the whole zone again.
const UNTOLD_MAX: usize = 65_536;

/// The master's account of the zones; the pairs are in the zones.
#[derive(Debug, Default)]
pub struct Keyvals {
    /// The state files that are open, by the number of the zone.
    files: HashMap<u32, StateFile>,
    /// The zones that have got the pairs that they begin with.
    filled: HashSet<u32>,
}

/// The changes that a process does not know yet.
#[derive(Debug, Default)]
pub struct Untold {
    /// The zones that were emptied, before the changes of their keys.
    cleared: BTreeSet<u32>,
    changed: BTreeSet<(u32, Key)>,
}

/// A line of a state file. Without a value it removes the key, and without a key all keys.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    /// For the next binary: the zone to which the lines after this one belong, such as `http string one`.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

/// A change that is refused: the status, and why.
type Refused = (u16, String);

impl Untold {
    pub fn is_empty(&self) -> bool {
        self.cleared.is_empty() && self.changed.is_empty()
    }

    fn clear(&mut self, zone: u32) {
        self.changed.retain(|(other, _)| *other != zone);
        self.cleared.insert(zone);
    }

    fn change(&mut self, zone: &Zone, key: &Key) {
        self.changed.insert((zone.id(), Key::clone(key)));
        if self.changed.len() > UNTOLD_MAX + zone.table().len() {
            self.clear(zone.id());
            let all = zone.table().iter(0).map(|(key, _)| (zone.id(), Key::clone(key))).collect::<Vec<_>>();
            self.changed.extend(all);
        }
    }
}

impl Keyvals {
    /// Fills the zones of the first configuration: with what the older master had, or their files have.
    pub fn open(inherited: Option<OwnedFd>, config: &Config) -> Self {
        let mut keyvals = Self::default();
        if let Some(fd) = inherited {
            let bytes_max = config.keyval_zones().map(|(_, zone)| zone.bytes_max).sum::<usize>();
            let bytes_max = bytes_max.saturating_mul(4).saturating_add(STATE_BYTES_MAX);
            match sealed::read(fd, bytes_max) {
                Ok(text) => keyvals.take_over(&text, config),
                Err(error) => {
                    let cause = log::Cause(&error);
                    log::alert!(
                        log::process(),
                        &(),
                        "reading the key-value pairs of the old binary failed {cause}"
                    );
                }
            }
        }
        keyvals.fill(config);
        keyvals
    }

    /// Leaves the state files to the next binary, which replaces them.
    pub fn leave_state(&mut self) {
        self.files.clear();
    }

    /// Fills the zones of a configuration that are new. For the master, before processes are forked with them.
    pub fn fill(&mut self, config: &Config) {
        for (_, declared) in config.keyval_zones() {
            let zone = &declared.zone;
            if !self.filled.insert(zone.id()) {
                continue;
            }
            let Some(path) = declared.state.as_ref().map(|path| config.prefix.join(path)) else { continue };
            let bytes_max = declared.bytes_max.saturating_mul(4).saturating_add(STATE_BYTES_MAX);
            let otherwise = format!("keyval zone \"{}\" is empty", zone.name());
            let Some(text) = state_file::read(&path, bytes_max, &otherwise) else { continue };
            if !fill(zone, &text, &path) {
                state_file::set_aside(&path);
            }
            let bytes = zone.table().bytes();
            if bytes > declared.bytes_max {
                let (name, path) = (zone.name(), path.display());
                log::warn!(
                    log::process(),
                    &(),
                    "the pairs in \"{path}\" need {bytes} bytes: give keyval zone \"{name}\" as many, or no pair can be added"
                );
            }
        }
    }

    /// Takes the pairs of the older master over.
    fn take_over(&mut self, text: &[u8], config: &Config) {
        let mut into = None;
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            if let Some(name) = &line.zone {
                into = config.keyval_zones().find(|(_, declared)| name_of(declared) == *name);
                self.filled.extend(into.map(|(_, declared)| declared.zone.id()));
            } else if let Some((_, declared)) = into {
                apply(&mut declared.zone.table_mut(), line, Clocks::now());
            }
        }
    }

    /// Writes a change to the zone's state file, if it has one.
    fn write(
        &mut self,
        declared: &Declared,
        prefix: &Path,
        lines: &[Line],
    ) -> Result<(), (PathBuf, io::Error)> {
        let Some(path) = declared.state.as_ref().map(|path| prefix.join(path)) else { return Ok(()) };
        let table = declared.zone.table();
        let id = declared.zone.id();
        let is_good = |file: &StateFile| file.path == path && file.lines <= 2 * table.len() + STALE_LINES_MAX;
        if !self.files.get(&id).is_some_and(is_good) {
            let clocks = Clocks::now();
            let text: Vec<u8> = lines_of(&table, clocks).flat_map(|line| line.text()).collect();
            self.files.insert(id, StateFile::create(path, &text, table.len())?);
        }
        let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
        let text: Vec<u8> = lines.iter().flat_map(Line::text).collect();
        file.append(&text, lines.len()).map_err(|error| (file.path.clone(), error))
    }
}

/// All pairs in sealed memory, for the next binary.
pub fn sealed(config: &Config) -> Option<OwnedFd> {
    let mut text = Vec::new();
    let clocks = Clocks::now();
    for (_, declared) in config.keyval_zones() {
        text.extend(Line { zone: Some(name_of(declared)), ..Line::default() }.text());
        lines_of(&declared.zone.table(), clocks).for_each(|line| text.extend(line.text()));
    }
    let why = |error: &io::Error| {
        let cause = log::Cause(error);
        log::alert!(
            log::process(),
            &(),
            "memfd_create() failed {cause}: key-value pairs do not reach the new binary"
        );
    };
    (!text.is_empty()).then(|| sealed::seal("keyvals", &text).inspect_err(why).ok())?
}

fn name_of(declared: &Declared) -> String {
    let zone = &declared.zone;
    format!("{} {} {}", zone.block(), zone.kind().name(), zone.name())
}

/// The same moment on both clocks, in milliseconds.
#[derive(Clone, Copy)]
struct Clocks {
    monotonic_ms: u64,
    wall_ms: u64,
}

impl Clocks {
    fn now() -> Self {
        let (secs, nanos) = clock::wall();
        let wall_ms = u64::try_from(secs).unwrap_or(0) * 1000 + u64::from(nanos / 1_000_000);
        Self { monotonic_ms: clock::monotonic_ms(), wall_ms }
    }

    fn to_wall(self, at_ms: u64) -> u64 {
        (self.wall_ms + at_ms).saturating_sub(self.monotonic_ms)
    }

    /// A time that has passed becomes 0.
    fn to_monotonic(self, at_ms: u64) -> u64 {
        let left_ms = at_ms.saturating_sub(self.wall_ms);
        if left_ms == 0 { 0 } else { self.monotonic_ms.saturating_add(left_ms) }
    }
}

impl Line {
    fn of(key: &[u8], pair: Option<&Pair>, clocks: Clocks) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            key: Some(text(key)),
            value: pair.map(|pair| text(&pair.value)),
            expires_ms: pair.and_then(|pair| pair.expires_ms).map(|at_ms| clocks.to_wall(at_ms)),
            zone: None,
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The lines of all pairs that have not expired.
fn lines_of(table: &Table, clocks: Clocks) -> impl Iterator<Item = Line> {
    table.iter(clocks.monotonic_ms).map(move |(key, pair)| Line::of(key, Some(pair), clocks))
}

/// Makes the change of a line. False: the zone cannot have the key.
fn apply(table: &mut Table, line: Line, clocks: Clocks) -> bool {
    match line {
        Line { key: None, .. } => table.clear(),
        Line { key: Some(key), value: None, .. } => _ = table.remove(key.as_bytes()),
        Line { key: Some(key), value: Some(value), expires_ms, .. } => {
            if !table.takes(key.as_bytes()) {
                return false;
            }
            let expires_ms = expires_ms.map(|at_ms| clocks.to_monotonic(at_ms));
            table.put(key.as_bytes(), Pair { value: value.into_bytes().into(), expires_ms });
        }
    }
    true
}

/// Fills a zone from its state file. False: not all of it could be used, which was reported.
fn fill(zone: &Zone, text: &[u8], path: &Path) -> bool {
    let mut table = zone.table_mut();
    let clocks = Clocks::now();
    let is_whole = state_file::each(text, path, |line: Line| match apply(&mut table, line, clocks) {
        true => Ok(()),
        false => Err(format!("the key is no address, and the zone has type={}", zone.kind().name())),
    });
    table.expire(clocks.monotonic_ms);
    is_whole
}

impl Master {
    /// Changes a zone, and tells all processes.
    pub(super) fn change_keyval(
        &mut self,
        (part, name): (Part, &str),
        change: Change,
        by: Operator,
    ) -> (u16, Vec<u8>) {
        let config = &self.cycle.config;
        let is_it = |(other, declared): &(Part, &Declared)| *other == part && declared.zone.name() == name;
        let Some((_, declared)) = config.keyval_zones().find(is_it) else {
            return (404, NO_ZONE.as_bytes().to_vec());
        };
        let clocks = Clocks::now();
        let mut table = declared.zone.table_mut();
        table.expire(clocks.monotonic_ms);
        let changes = match decide(&table, declared, &change, clocks.monotonic_ms) {
            Ok(changes) => changes,
            Err((status, why)) => {
                if status == 507 {
                    log::error!(log::process(), &(), "{why}");
                }
                return (status, why.into_bytes());
            }
        };
        drop(table);
        let lines: Vec<Line> = match &change {
            Change::Clear => vec![Line::default()],
            _ => changes.iter().map(|(key, pair)| Line::of(key, pair.as_ref(), clocks)).collect(),
        };
        if let Err((path, error)) = self.orders.keyvals.write(declared, &config.prefix, &lines) {
            let why = format!("writing the state file \"{}\" failed {}", path.display(), log::Cause(&error));
            log::alert!(log::process(), &(), "{why}: a change of keyval zone \"{name}\" is refused");
            return (507, why.into_bytes());
        }
        let zone = &declared.zone;
        let mut table = zone.table_mut();
        if change == Change::Clear {
            log::notice!(log::process(), &(), "keyval zone \"{name}\" emptied by {by}");
            table.clear();
            drop(table);
            self.workers.iter_mut().for_each(|worker| worker.keyvals.clear(zone.id()));
        } else {
            for (key, pair) in changes {
                let shown = String::from_utf8_lossy(&key);
                let what = if pair.is_some() { "set" } else { "removed" };
                log::info!(log::process(), &(), "key {shown:?} of keyval zone \"{name}\" {what} by {by}");
                match pair {
                    Some(pair) => table.put(&key, pair),
                    None => _ = table.remove(&key),
                }
                drop(table);
                self.workers.iter_mut().for_each(|worker| worker.keyvals.change(zone, &key));
                table = zone.table_mut();
            }
        }
        (200, Vec::new())
    }

    /// Tells the processes about changes of zones; one whose socket is full is told later.
    pub(super) fn send_keyvals(&mut self) {
        self.workers.iter_mut().for_each(send);
    }
}

fn send(worker: &mut Worker) {
    let mut untold = std::mem::take(&mut worker.keyvals);
    while let Some(zone) = untold.cleared.pop_first() {
        if !worker.send(&ToWorker::Keyval(News { zone, what: What::Clear })) {
            untold.cleared.insert(zone);
            break;
        }
    }
    while untold.cleared.is_empty()
        && let Some((id, key)) = untold.changed.pop_first()
    {
        let Some(zone) = Zone::of_id(id) else { continue };
        let what = match zone.table().get(&key, clock::monotonic_ms()) {
            Some(Pair { value, expires_ms }) => {
                What::Put { key: (*key).into(), value: value.clone(), expires_ms: *expires_ms }
            }
            None => What::Remove { key: (*key).into() },
        };
        if !worker.send(&ToWorker::Keyval(News { zone: id, what })) {
            untold.changed.insert((id, key));
            break;
        }
    }
    worker.keyvals = untold;
}

/// The pairs that a change makes, and the keys that it removes. Nothing is changed yet.
fn decide(
    table: &Table,
    declared: &Declared,
    change: &Change,
    now_ms: u64,
) -> Result<Vec<(Key, Option<Pair>)>, Refused> {
    let wrong = |why: &str| (400, why.to_owned());
    let made = |pair: &NewPair, value: Box<[u8]>| {
        let time_ms = match (declared.timeout_ms, pair.expire_ms) {
            (None, Some(_)) => return Err(wrong("keyval timeout is not enabled")),
            (timeout_ms, own_ms) => own_ms.or(timeout_ms),
        };
        let expires_ms = time_ms.map(|ms| now_ms.saturating_add(ms));
        Ok((Key::from(pair.key.as_bytes()), Some(Pair { value, expires_ms })))
    };
    let mut changes = Vec::new();
    match change {
        Change::Clear => {}
        Change::Remove(key) => {
            let key = table.key_of(key.as_bytes()).ok_or((404, NO_KEY.to_owned()))?;
            changes.push((Key::clone(key), None));
        }
        Change::Set(pair) => {
            let old = table.key_of(pair.key.as_bytes()).and_then(|key| Some((key, table.get(key, now_ms)?)));
            let (key, old) = old.ok_or((404, NO_KEY.to_owned()))?;
            let value =
                pair.value.as_deref().map_or_else(|| old.value.clone(), |text| text.as_bytes().into());
            let (_, made) = made(pair, value)?;
            changes.push((Key::clone(key), made));
        }
        Change::Add(pairs) => {
            let mut seen = HashSet::new();
            for pair in pairs {
                let key = pair.key.as_bytes();
                if !table.takes(key) {
                    return Err(wrong("invalid key format"));
                }
                if table.key_of(key).is_some() || !seen.insert(key) {
                    return Err((409, KEY_EXISTS.to_owned()));
                }
                let value = pair.value.as_deref().ok_or_else(|| wrong("a value is required"))?;
                changes.push(made(pair, value.as_bytes().into())?);
            }
            match changes.len() {
                0 => return Err(wrong("key required")),
                1 => {}
                _ if !table.is_empty() => return Err(wrong("only one key can be added")),
                _ => {}
            }
        }
    }
    let more = changes.iter().map(|(key, pair)| match pair {
        Some(pair) => table.bytes_with(key, &pair.value).saturating_sub(table.bytes()),
        None => 0,
    });
    let more: usize = more.sum();
    if more > 0 && table.bytes() + more > declared.bytes_max {
        let (name, size) = (declared.zone.name(), declared.bytes_max);
        return Err((
            507,
            format!("keyval zone \"{name}\" is full: give it more than {size} bytes in \"keyval_zone\""),
        ));
    }
    Ok(changes)
}
