//! The work of the cache manager: it finds the files that are there after a start, and removes those that are no longer
//! used, or for which there is no room.
//!
//! It runs in a process of its own, for all workers, and with `master_process off` in the only one. Touches: the files
//! of the caches, on the blocking pool; their indexes. What goes and when is decided in `cache/plan.rs`.
//!
//! A file is unlinked before its key leaves the index, and only if the key is as it was seen: whoever dies between
//! the two leaves a key whose file is missed at its next use. A file that is stored in that moment may be lost, and is
//! fetched again.
//! Behaviour: nginx.org, `proxy_cache_path`.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::base::number::Bytes;
use crate::cache::loader::{Counts, Walk};
use crate::cache::plan::{Found, Holds, Limits, Look, Looked, Rhythm};
use crate::cache::purger;
use crate::cache::zone::Zone;
use crate::log::{self, Cause};
use crate::runtime::blocking::{self, Lane};
use crate::runtime::{self, sleep};
use crate::shm::cache_index::Index;
use crate::shm::cache_index::survey::{Difference, Seen};
use crate::sys::{clock, file, process};

/// The time after which another process takes the place of one that does not look any more.
const LEAD_MS: u64 = 60_000;
/// The interval at which a process asks whether the lead is free.
const LEAD_LOOK_MS: u64 = 1_000;

/// The largest number of keys that one look finds to remove: about a megabyte.
const KEYS_MAX: usize = 16_384;

/// Starts to manage a cache. Called once for each, inside the runtime of the process that does it.
pub fn start(zone: &'static Zone) {
    let Some(index) = zone.index else { return };
    runtime::spawn(async move {
        manage(zone, index).await;
    });
    if let Some(purges) = zone.purges {
        runtime::spawn(purger::run(zone, index, purges));
    }
}

/// True if this process is the one that removes the files of a cache, of this binary or of another.
pub(super) fn leads(index: &Index) -> bool {
    index.lead(process::pid().unsigned_abs(), clock::monotonic_ms(), LEAD_MS, process::is_alive)
}

/// Brings the files that are on disk into the index.
async fn load(zone: &'static Zone, index: Index) {
    let began = Instant::now();
    let pace = zone.settings.loader;
    let mut walk = match blocking::run(Lane::Files, move || Walk::begin(zone)).await {
        Ok(walk) => walk,
        Err(error) => {
            let folder = zone.settings.folder.display();
            log::crit!(log::process(), &(), "opendir() \"{}\" failed {}", folder, Cause(&error));
            index.set_loaded();
            return;
        }
    };
    loop {
        let step = move || {
            let now_s = clock::monotonic_s();
            let mut evicted = 0;
            let is_over = walk.step(&pace, |digest, bytes| {
                if let Some(other) = index.found(digest, bytes, now_s) {
                    evicted += 1;
                    // If that fails the file stays, and the next loader finds it.
                    let _ = std::fs::remove_file(zone.file_name(&other));
                }
            });
            (walk, is_over, evicted)
        };
        let (walked, is_over, evicted) = blocking::run(Lane::Files, step).await;
        walk = walked;
        if evicted > 0 && zone.tells_full(runtime::now_ms()) {
            log::warn!(log::process(), &(), "{}", zone.full());
        }
        if is_over {
            break;
        }
        if !leads(&index) {
            return; // another process loads
        }
        sleep(pace.sleep_ms).await;
    }
    index.set_loaded();
    tell_loaded(zone, &walk.counts, began.elapsed());
}

fn tell_loaded(zone: &Zone, counts: &Counts, took: Duration) {
    let (name, folder) = (zone.name(), zone.settings.folder.display());
    let Counts { files, bytes, abandoned, strange, failed } = counts;
    log::notice!(
        log::process(),
        &(),
        "cache \"{}\": loaded {} file{} ({}) from \"{}\" in {} ms",
        name,
        files,
        if *files == 1 { "" } else { "s" },
        Bytes(*bytes),
        folder,
        took.as_millis()
    );
    if *abandoned > 0 {
        log::notice!(log::process(), &(), "cache \"{name}\": removed {abandoned} abandoned temporary files");
    }
    if *strange > 0 {
        let what = "files or folders of other kinds or levels, which stay as they are";
        log::warn!(log::process(), &(), "cache \"{name}\": \"{folder}\" has {strange} {what}");
    }
    if let Some(why) = failed {
        log::crit!(log::process(), &(), "{why}, so files of cache \"{name}\" are missing");
    }
}

/// Looks at a cache again and again, and removes what is due.
async fn manage(zone: &'static Zone, index: Index) {
    let mut eye = Eye { zone, index, differences: HashMap::new() };
    let mut rhythm = Rhythm::default();
    let is_loading = Rc::new(Cell::new(false));
    loop {
        if !leads(&index) {
            sleep(LEAD_LOOK_MS).await;
            continue;
        }
        // The process that leads loads: the one that led before may have ended in the middle of it.
        if !index.is_loaded() && !is_loading.replace(true) {
            let is_loading = Rc::clone(&is_loading);
            runtime::spawn(async move {
                load(zone, index).await;
                is_loading.set(false);
            });
        }
        let began = Instant::now();
        let look = move || {
            let found = eye.look();
            (eye, found)
        };
        let (back, (held, found)) = blocking::run(Lane::Files, look).await;
        eye = back;
        let cost_ms = began.elapsed().as_millis() as u64;
        let Found { goes, is_short, next_s } = found;
        remove(zone, index, goes).await;
        if is_short {
            sleep(zone.settings.manager.sleep_ms).await;
            continue;
        }
        let left = blocking::run(Lane::Files, move || holds(zone, &index)).await;
        sleep(rhythm.rest_ms(&limits(zone), &Looked { found: held, left, next_s, cost_ms })).await;
    }
}

/// Removes keys with their files, in steps with pauses.
async fn remove(zone: &'static Zone, index: Index, goes: Vec<Seen>) {
    let pace = zone.settings.manager;
    let mut goes = goes.into_iter();
    while !goes.as_slice().is_empty() {
        let step = move || {
            let failed = remove_some(zone, &index, &mut goes);
            (goes, failed)
        };
        let (left, failed) = blocking::run(Lane::Files, step).await;
        goes = left;
        if let Some(why) = failed {
            log::crit!(log::process(), &(), "{why}, while removing files of cache \"{}\"", zone.name());
        }
        if !goes.as_slice().is_empty() {
            sleep(pace.sleep_ms).await;
            if !leads(&index) {
                return;
            }
        }
    }
}

/// One step. Returns the first call that failed; as in nginx, the index forgets a file that cannot be removed.
fn remove_some(zone: &Zone, index: &Index, goes: &mut std::vec::IntoIter<Seen>) -> Option<String> {
    let pace = &zone.settings.manager;
    let (began, threshold) = (Instant::now(), Duration::from_millis(pace.threshold_ms));
    let mut failed = None;
    for (count, seen) in (1..).zip(goes) {
        if index.is_unchanged(&seen, clock::monotonic_ms()) {
            // A key that is said to have no file may have one: of a worker that was killed after it had named the file, and
            // before it told the index. If another worker names one in this moment, its next reader misses it.
            let path = zone.file_name(&seen.digest);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let why = || format!("unlink() \"{}\" failed {}", path.display(), Cause(&error));
                    failed.get_or_insert_with(why);
                }
                _ => {}
            }
            index.remove(&seen);
        }
        if count >= pace.files || began.elapsed() >= threshold {
            break;
        }
    }
    failed
}

/// Looks at all keys of a cache.
struct Eye {
    zone: &'static Zone,
    index: Index,
    /// Differences between the counts of groups and their files that the last look has found.
    differences: HashMap<usize, Difference>,
}

impl Eye {
    fn look(&mut self) -> (Holds, Found) {
        let (limits, index) = (limits(self.zone), self.index);
        let held = holds(self.zone, &index);
        let excess = limits.excess(&held);
        let keys_max = (index.capacity() / 64).clamp(256, KEYS_MAX);
        let mut look = Look::new(&limits, excess, keys_max);
        let mut differences = HashMap::new();
        let mut group_keys = Vec::new();
        for group in 0..index.groups() {
            index.survey(group, clock::monotonic_ms(), &mut group_keys);
            group_keys.drain(..).for_each(|seen| look.see(&seen));
            let before = self.differences.get(&group).copied();
            if let Some(difference) = index.reconcile(group, before) {
                differences.insert(group, difference);
            }
        }
        self.differences = differences;
        (held, look.finish())
    }
}

fn limits(zone: &Zone) -> Limits {
    let settings = &zone.settings;
    Limits {
        inactive_s: settings.inactive_s,
        max_bytes: settings.max_bytes,
        min_free_bytes: settings.min_free_bytes,
    }
}

fn holds(zone: &Zone, index: &Index) -> Holds {
    let asks = zone.settings.min_free_bytes > 0;
    let free_bytes = asks.then(|| file::free_bytes(&zone.settings.folder).ok()).flatten();
    Holds { bytes: index.size().bytes, free_bytes, now_ms: clock::monotonic_ms() }
}
