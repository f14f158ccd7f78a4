//! The cache manager's view of the index: all keys by groups, the removal of one, and the correction of tallies.
//!
//! Touches: the table. Groups that were never used are not read, so that they take no memory.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::words::{FileWord, LockWord, UseWord};
use super::{Digest, GROUP_BUCKETS, Index, LOCK_MS_MAX, Way, digest_of, halves_of};

/// A key as it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub digest: Digest,
    /// Seconds since its last use.
    pub age_s: u64,
    /// Bytes on disk; `None`: it has no file.
    pub bytes: Option<u64>,
    /// A request fetches or updates it.
    pub is_locked: bool,
    group: u32,
    /// Index of the way in its group.
    way: u8,
    used: UseWord,
    file: FileWord,
}

#[cfg(test)]
impl Seen {
    /// A key that is in no table, for tests of decisions.
    pub(crate) fn made_up(digest: Digest, age_s: u64, bytes: Option<u64>) -> Self {
        Self { digest, age_s, bytes, ..Self::default() }
    }
}

/// A difference between the tally of a group and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    changes: u64,
    files: u64,
    blocks: u64,
}

impl Index {
    /// The number of groups of keys.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Adds the keys of a group to `out`.
    pub fn survey(&self, group: usize, now_ms: u64, out: &mut Vec<Seen>) {
        if group >= self.groups || self.tally(group)[0].load(Relaxed) == 0 {
            return;
        }
        for (number, way) in self.ways_of(group).enumerate() {
            let halves = way.halves();
            if halves[0] == 0 {
                continue;
            }
            let (used, file) = (UseWord(way.used().load(Relaxed)), FileWord(way.file().load(Acquire)));
            out.push(Seen {
                digest: digest_of(halves),
                age_s: used.age_s(now_ms / 1000),
                bytes: file.is_present().then(|| file.bytes()),
                is_locked: LockWord(way.lock().load(Relaxed)).is_held(now_ms, LOCK_MS_MAX),
                group: group as u32,
                way: number as u8,
                used,
                file,
            });
        }
    }

    /// True if a key was neither used nor changed since it was seen, and is not locked.
    pub fn is_unchanged(&self, seen: &Seen, now_ms: u64) -> bool {
        self.way_of(seen).is_some_and(|way| {
            way.used().load(Relaxed) == seen.used.0
                && way.file().load(Acquire) == seen.file.0
                && !LockWord(way.lock().load(Relaxed)).is_held(now_ms, LOCK_MS_MAX)
        })
    }

    /// Removes a key whose file has been removed. A file that was stored since stays, and so does a key that was used.
    pub fn remove(&self, seen: &Seen) {
        let Some(way) = self.way_of(seen) else { return };
        let gone = seen.file.gone();
        if seen.file.is_present() && !way.replace_file(seen.file, gone) {
            return;
        }
        if way.used().compare_exchange(seen.used.0, 0, Relaxed, Relaxed).is_ok() {
            let first = halves_of(&seen.digest)[0];
            let _ = way.first.compare_exchange(first, 0, Release, Relaxed);
        }
    }

    /// Compares the tally of a group with its files. A difference that is seen twice, with nothing happening between,
    /// was left by a process that died, and is corrected.
    ///
    /// Returns a difference to pass with the next call for this group, which should be a second later at least.
    pub fn reconcile(&self, group: usize, before: Option<Difference>) -> Option<Difference> {
        if group >= self.groups || self.tally(group)[0].load(Relaxed) == 0 {
            return None;
        }
        let [_, files, blocks, changes] = [0, 1, 2, 3].map(|word| &self.tally(group)[word]);
        let began = changes.load(Acquire);
        let told = [files, blocks].map(|word| word.load(Relaxed));
        let all = self.ways_of(group).map(|way| FileWord(way.file().load(Acquire)));
        let (found_files, found_blocks) = all.fold((0_u64, 0_u64), |(files, blocks), file| {
            (files + u64::from(file.is_present()), blocks.saturating_add(file.blocks()))
        });
        if changes.load(Acquire) != began || told == [found_files, found_blocks] {
            return None;
        }
        let difference = Difference {
            changes: began,
            files: found_files.wrapping_sub(told[0]),
            blocks: found_blocks.wrapping_sub(told[1]),
        };
        if before != Some(difference) {
            return Some(difference);
        }
        files.fetch_add(difference.files, Relaxed);
        blocks.fetch_add(difference.blocks, Relaxed);
        None
    }

    fn ways_of(&self, group: usize) -> impl Iterator<Item = Way> + use<> {
        let index = *self;
        (0..GROUP_BUCKETS).flat_map(move |bucket| index.bucket(group * GROUP_BUCKETS + bucket))
    }

    fn way_of(&self, seen: &Seen) -> Option<Way> {
        let (group, number) = (seen.group as usize, usize::from(seen.way));
        if group >= self.groups || number >= GROUP_BUCKETS * super::WAYS {
            return None;
        }
        let way = self.bucket(group * GROUP_BUCKETS + number / super::WAYS)[number % super::WAYS];
        (digest_of(way.halves()) == seen.digest).then_some(way)
    }
}
