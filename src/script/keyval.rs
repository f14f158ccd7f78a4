//! Variables whose values operators set while the server runs (`keyval`, `keyval_zone`).
//!
//! Each process has its own copy of a zone, inherited by the fork; the master alone decides about changes and tells
//! them to the processes (`master/keyvals.rs`). So a lookup takes no lock that another process holds, and a hostile
//! worker changes nothing for the others. A zone is found again by the next configuration: by its part of the language,
//! name and type. Touches: the scope's variables, the clock.
//! Behaviour: nginx.org, ngx_http_keyval_module.

pub mod table;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use crate::base::number::{parse_millis, parse_size};
use crate::config::{Diagnostic, Node, Span, Word, params};
use crate::script::keyval::table::{Kind, Table};
use crate::script::value::Script;
use crate::script::{Compile, Scope, nested};
use crate::sys::clock;

/// nginx's least size of a zone: eight pages.
const BYTES_MIN: u64 = 32 * 1024;

/// The pairs of a zone in this process.
#[derive(Debug)]
pub struct Zone {
    /// Its number in messages between processes.
    id: u32,
    block: &'static str,
    name: Box<str>,
    kind: Kind,
    table: RwLock<Table>,
}

/// The zones of this process, which configurations own.
static ZONES: Mutex<Vec<Weak<Zone>>> = Mutex::new(Vec::new());

impl Zone {
    /// A zone that no message names, for `-t`.
    fn detached(block: &'static str, name: &str, kind: Kind) -> Arc<Self> {
        Arc::new(Self { id: 0, block, name: name.into(), kind, table: RwLock::new(Table::new(kind)) })
    }

    /// The zone of this name and kind, made now if there is none.
    fn shared(block: &'static str, name: &str, kind: Kind) -> Arc<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let mut zones = ZONES.lock().unwrap_or_else(PoisonError::into_inner);
        zones.retain(|zone| zone.strong_count() > 0);
        let is_it = |zone: &Arc<Self>| zone.block == block && *zone.name == *name && zone.kind == kind;
        if let Some(zone) = zones.iter().filter_map(Weak::upgrade).find(is_it) {
            return zone;
        }
        let id = LAST.fetch_add(1, Relaxed).wrapping_add(1);
        let table = RwLock::new(Table::new(kind));
        let zone = Arc::new(Self { id, block, name: name.into(), kind, table });
        zones.push(Arc::downgrade(&zone));
        zone
    }

    /// The zone of this number.
    pub fn of_id(id: u32) -> Option<Arc<Self>> {
        let zones = ZONES.lock().unwrap_or_else(PoisonError::into_inner);
        zones.iter().filter_map(Weak::upgrade).find(|zone| zone.id == id)
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part of the language that declares it.
    pub fn block(&self) -> &'static str {
        self.block
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The pairs, to look at. Requests wait while a process changes its copy, which takes microseconds.
    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pairs, to be changed. For the master, and for what the master tells.
    pub fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `keyval_zone`.
#[derive(Clone, Debug)]
pub struct Declared {
    pub zone: Arc<Zone>,
    /// The size that it must not exceed.
    pub bytes_max: usize,
    /// How long a pair stays that says nothing else; `None`: for ever, and no pair may say otherwise.
    pub timeout_ms: Option<u64>,
    /// The file in which its pairs survive a restart, as it is written in the configuration.
    pub state: Option<PathBuf>,
}

/// The zone of a use, set once everything is read.
type Link = Arc<OnceLock<Arc<Zone>>>;

/// The zones while a configuration is read. One may be used before it is declared.
#[derive(Debug, Default)]
pub struct Draft {
    declared: Vec<Declared>,
    used: Vec<(Box<str>, Span, Link)>,
}

/// The zones of a configuration's part.
#[derive(Debug, Default)]
pub struct Zones(pub Vec<Declared>);

impl Draft {
    /// Reads a `keyval_zone`. `is_test`: nothing is shared with a server that runs.
    ///
    /// # Errors
    /// An unknown parameter, a zone that is declared twice, or `sync`.
    pub fn declare(&mut self, node: &Node, block: &'static str, is_test: bool) -> Result<(), Diagnostic> {
        let (mut zone, mut kind, mut timeout_ms, mut state) = (None, Kind::default(), None, None);
        for word in &node.args {
            if let Some(value) = params::value(word, "zone") {
                zone = Some(name_and_size(word, value)?);
            } else if let Some(value) = params::value(word, "type") {
                kind = Kind::of(value).ok_or_else(|| {
                    Diagnostic::error(word.span, format!("invalid type \"{value}\""))
                        .help("a type is string, ip or prefix")
                })?;
            } else if let Some(value) = params::value(word, "timeout") {
                let ms = parse_millis(value).filter(|ms| *ms > 0);
                timeout_ms = Some(ms.ok_or_else(|| {
                    Diagnostic::error(word.span, format!("invalid timeout \"{value}\""))
                        .help("a time is seconds, or numbers with units: 30s, 1h")
                })?);
            } else if let Some(value) = params::value(word, "state") {
                if value.is_empty() {
                    return Err(Diagnostic::error(word.span, "\"state\" names no file"));
                }
                state = Some(PathBuf::from(value));
            } else if &*word.text == "sync" {
                let message = "\"sync\" is not supported: pairs are not exchanged with other machines";
                return Err(Diagnostic::error(word.span, message)
                    .help("take it out, and change each machine through its own API"));
            } else {
                return Err(params::invalid_parameter(word, &["zone=", "type=", "timeout=", "state="]));
            }
        }
        let Some((name, bytes_max)) = zone else {
            let message = "\"keyval_zone\" must have \"zone\" parameter";
            return Err(Diagnostic::error(node.name.span, message).help("write zone=NAME:SIZE"));
        };
        if self.declared.iter().any(|other| other.zone.name() == name) {
            return Err(Diagnostic::error(node.span, format!("duplicate keyval zone \"{name}\"")));
        }
        if let Some(other) = self.declared.iter().find(|other| state.is_some() && other.state == state) {
            let message = format!("keyval zone \"{}\" has this state file too", other.zone.name());
            return Err(Diagnostic::error(node.span, message).help("give each zone a file of its own"));
        }
        let make = if is_test { Zone::detached } else { Zone::shared };
        self.declared.push(Declared { zone: make(block, name, kind), bytes_max, timeout_ms, state });
        Ok(())
    }

    /// The size of a zone that is declared.
    pub fn bytes_of(&self, name: &str) -> Option<usize> {
        self.declared.iter().find(|declared| declared.zone.name() == name).map(|declared| declared.bytes_max)
    }

    /// Connects the uses with their zones when everything is read. Returns those that have none.
    pub fn finish(self) -> (Zones, Vec<Diagnostic>) {
        let mut missing = Vec::new();
        for (name, span, link) in self.used {
            match self.declared.iter().find(|declared| declared.zone.name() == &*name) {
                Some(declared) => _ = link.set(Arc::clone(&declared.zone)),
                None => missing.push(
                    Diagnostic::error(span, format!("zero size shared memory zone \"{name}\""))
                        .help(format!("declare it: keyval_zone zone={name}:1m;")),
                ),
            }
        }
        (Zones(self.declared), missing)
    }
}

/// The value of `zone=name:size`.
fn name_and_size<'a>(word: &Word, value: &'a str) -> Result<(&'a str, usize), Diagnostic> {
    let invalid = || {
        let diagnostic = Diagnostic::error(word.span, format!("invalid zone size \"{}\"", word.text));
        diagnostic.help("write zone=NAME:SIZE, such as zone=one:1m")
    };
    let (name, size) = value.split_once(':').ok_or_else(invalid)?;
    let bytes = parse_size(size).filter(|_| !name.is_empty()).ok_or_else(invalid)?;
    if bytes < BYTES_MIN {
        let diagnostic = Diagnostic::error(word.span, format!("zone \"{value}\" is too small"));
        return Err(diagnostic.help("a zone has 32k or more"));
    }
    Ok((name, usize::try_from(bytes).map_err(|_| invalid())?))
}

/// One `keyval`: the definition of the variable that it makes.
pub struct Keyval<S> {
    name: Box<str>,
    key: Script<S>,
    zone: Link,
}

impl<S: Scope> Keyval<S> {
    /// Reads `keyval KEY $name zone=NAME`.
    pub fn read(
        node: &Node,
        draft: &mut Draft,
        cx: &mut impl Compile<Scope = S>,
    ) -> Result<Self, Diagnostic> {
        let key = Script::compile(&node.args[0], cx)?;
        let word = &node.args[2];
        let zone = params::value(word, "zone").filter(|name| !name.is_empty());
        let zone = zone.ok_or_else(|| params::invalid_parameter(word, &["zone="]))?;
        let link = Link::default();
        draft.used.push((zone.into(), word.span, Arc::clone(&link)));
        let name = node.arg(1).trim_start_matches('$').into();
        Ok(Self { name, key, zone: link })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends the value. It is not kept by the scope: a change counts from the next use on.
    pub(super) fn evaluate(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        let Some(zone) = self.zone.get() else { return false };
        let key = nested(scope, &self.name, |scope| self.key.to_vec(scope));
        let table = zone.table();
        let now_ms = if table.has_expiries() { clock::monotonic_ms() } else { 0 };
        match table.find(&key, now_ms) {
            Some(value) => {
                out.extend_from_slice(value);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_found_again_while_a_configuration_has_it() {
        let first = Zone::shared("http", "again.test", Kind::String);
        first.table_mut().put(b"a", table::Pair { value: b"1"[..].into(), expires_ms: None });
        let second = Zone::shared("http", "again.test", Kind::String);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &Zone::shared("stream", "again.test", Kind::String)));
        assert!(!Arc::ptr_eq(&first, &Zone::shared("http", "again.test", Kind::Ip)));
        let id = first.id();
        assert!(Zone::of_id(id).is_some_and(|zone| zone.table().len() == 1));
        drop((first, second));
        assert!(Zone::of_id(id).is_none());
        let third = Zone::shared("http", "again.test", Kind::String);
        assert!(third.table().is_empty() && third.id() != id, "a number names one zone for ever");
    }
}
