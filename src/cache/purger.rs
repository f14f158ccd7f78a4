//! The cache purger: looks through the files of a cache for those that a purge with `*` removes.
//!
//! It runs where the manager runs. Until it has come by, such a file stays on disk, and a request for it removes it
//! instead of serving it. With `purger=off` it looks only if many purges are in progress; otherwise a file stays until it
//! is asked for or has been inactive. Touches: the files of the cache, on the blocking pool; its index and its table of
//! purges.
//! Behaviour: nginx.org, `proxy_cache_path`, its parameters `purger`, `purger_files`, `purger_threshold`, `purger_sleep`.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cache::upkeep;
use crate::cache::zone::Zone;
use crate::cache::{entry, purge_file};
use crate::log::{self, Cause};
use crate::runtime::blocking::{self, Lane};
use crate::runtime::sleep;
use crate::shm::cache_index::Index;
use crate::shm::cache_index::survey::Seen;
use crate::shm::cache_purges::{MANY, PREFIX_BYTES_MAX, Purge, Purges};
use crate::sys::clock;

/// The interval at which new purges are looked for.
const LOOK_MS: u64 = 1_000;

/// The time for which a purge whose files are gone still keeps responses from being stored that were asked for before.
const DONE_MS: u64 = 10 * 60 * 1000;

/// The time after `inactive` by which the manager has certainly removed a file.
const MARGIN_MS: u64 = 10 * 60 * 1000;

/// Purges the files of a cache, as long as this process lives.
pub async fn run(zone: &'static Zone, index: Index, purges: Purges) {
    let inactive_ms = zone.settings.inactive_s.saturating_mul(1000).saturating_add(MARGIN_MS);
    loop {
        sleep(LOOK_MS).await;
        if purges.is_empty() || !index.is_loaded() || !upkeep::leads(&index) {
            continue;
        }
        if purges.tidy(clock::monotonic_ms(), DONE_MS, inactive_ms) {
            keep(zone, purges).await;
        }
        let pending = purges.pending();
        if pending.is_empty() || !zone.settings.purger.is_on && pending.len() <= MANY {
            continue;
        }
        let mut scan = Scan { zone, index, pending, group: 0, found: Vec::new(), removed: 0, left: 0 };
        let began = Instant::now();
        while !scan.is_over() && upkeep::leads(&index) {
            let step = move || {
                scan.step();
                scan
            };
            scan = blocking::run(Lane::Files, step).await;
            sleep(zone.settings.purger.pace.sleep_ms).await;
        }
        if scan.is_over() && scan.left == 0 {
            scan.pending.iter().for_each(|purge| purges.finish(purge, clock::monotonic_ms()));
            keep(zone, purges).await;
            let (name, removed, took_ms) = (zone.name(), scan.removed, began.elapsed().as_millis());
            log::notice!(log::process(), &(), "cache \"{name}\": purged {removed} files in {took_ms} ms");
        }
    }
}

/// Writes the file of the purges, so that they outlive a restart.
pub async fn keep(zone: &'static Zone, purges: Purges) {
    let folder = &zone.settings.folder;
    if let Err(error) = blocking::run(Lane::Files, move || purge_file::write(folder, &purges)).await {
        let (name, folder, cause) = (zone.name(), folder.display(), Cause(&error));
        log::error!(
            log::process(),
            &(),
            "writing the purges of cache \"{name}\" to \"{folder}\" failed {cause}: a restart forgets them"
        );
    }
}

/// One pass through all files, in steps.
struct Scan {
    zone: &'static Zone,
    index: Index,
    pending: Vec<Purge>,
    /// The next group of keys.
    group: usize,
    /// The keys of the group before it that have not been looked at.
    found: Vec<Seen>,
    removed: u64,
    /// Files that could not be removed now, since a request uses them.
    left: u64,
}

impl Scan {
    fn is_over(&self) -> bool {
        self.group >= self.index.groups() && self.found.is_empty()
    }

    /// Goes on until it is time for a pause.
    fn step(&mut self) {
        let pace = &self.zone.settings.purger.pace;
        let (began, threshold) = (Instant::now(), Duration::from_millis(pace.threshold_ms));
        let mut count = 0;
        while !self.is_over() {
            let Some(seen) = self.found.pop() else {
                self.index.survey(self.group, clock::monotonic_ms(), &mut self.found);
                self.found.retain(|seen| seen.bytes.is_some());
                self.group += 1;
                continue;
            };
            self.look_at(&seen);
            count += 1;
            if count >= pace.files || began.elapsed() >= threshold {
                return;
            }
        }
    }

    fn look_at(&mut self, seen: &Seen) {
        let path = self.zone.file_name(&seen.digest);
        if !is_covered(&path, &self.pending) {
            return;
        }
        // As in `upkeep.rs`: one that is used meanwhile is removed by that request, or replaced.
        if self.index.is_unchanged(seen, clock::monotonic_ms()) && std::fs::remove_file(&path).is_ok() {
            self.index.remove(seen);
            self.removed += 1;
        } else {
            self.left += 1;
        }
    }
}

/// True if one of the purges removes the file. One that cannot be read is left to the request that asks for it.
fn is_covered(path: &Path, purges: &[Purge]) -> bool {
    let Some(bytes) = read_beginning(path) else { return false };
    let Some(beginning) = entry::beginning(&bytes) else { return false };
    let now_ms = clock::wall_ms();
    purges.iter().any(|purge| purge.covers(beginning.key, beginning.received_ms, now_ms))
}

/// Removes a file if a purge with `*` still removes it: another request may have replaced it meanwhile. True if it did.
pub fn remove_covered(path: &Path, purges: &Purges) -> bool {
    let bytes = read_beginning(path);
    let beginning = bytes.as_deref().and_then(entry::beginning);
    let is_covered = beginning
        .is_some_and(|beginning| purges.cover(beginning.key, beginning.received_ms, clock::wall_ms()));
    is_covered && std::fs::remove_file(path).is_ok()
}

/// The fixed part, and as much of the key as a prefix can have.
fn read_beginning(path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut bytes = vec![0; entry::KEY_AT + PREFIX_BYTES_MAX];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], length as u64).ok()? {
            0 => break,
            count => length += count,
        }
    }
    bytes.truncate(length);
    Some(bytes)
}
