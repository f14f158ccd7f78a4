//! The words of a key: its last use, its file, its error and its lock, each with a tag of the key.
//!
//! Touches: nothing.

use std::sync::atomic::Ordering::Relaxed;

use super::{LOCK_MS_MAX, Way};

const TAG_BITS: u32 = 20;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
/// Seconds of the monotonic clock.
const SECOND_MASK: u64 = (1 << 34) - 1;
const COUNT_BITS: u32 = 10;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Where the seconds begin in the words of uses and errors.
const SECOND_AT: u32 = COUNT_BITS + TAG_BITS;

/// The unit in which files are counted: that of stat(2).
pub(super) const BLOCK_BYTES: u64 = 512;
const PRESENT: u64 = 1 << TAG_BITS;
const GENERATION_AT: u32 = TAG_BITS + 1;
const GENERATION_MASK: u64 = 0xff;
const BLOCKS_AT: u32 = GENERATION_AT + 8;
const BLOCKS_MAX: u64 = (1 << (64 - BLOCKS_AT)) - 1;

const OWNER_BITS: u32 = 24;
pub(super) const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;
const LOCK_MS_MASK: u64 = (1 << (64 - OWNER_BITS)) - 1;

/// How far another worker's clock, which it reads once a turn, may be ahead of ours.
pub(super) const AHEAD_S_MAX: u64 = 60;

/// The part of a digest's second half that marks the words of its key.
pub(super) fn tag(second: u64) -> u64 {
    second & TAG_MASK
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UseWord(pub(super) u64);

impl UseWord {
    pub(super) fn new(now_s: u64, uses: u64, tag: u64) -> Self {
        Self((now_s.max(1) & SECOND_MASK) << SECOND_AT | uses.min(COUNT_MASK) << TAG_BITS | tag)
    }

    /// 0 if another key was used.
    pub(super) fn uses(self, tag: u64) -> u64 {
        if self.0 & TAG_MASK == tag { self.0 >> TAG_BITS & COUNT_MASK } else { 0 }
    }

    /// Seconds since the last use: 0 if another worker's clock is ahead, a long time if it lies further ahead.
    pub(super) fn age_s(self, now_s: u64) -> u64 {
        let last = self.0 >> SECOND_AT;
        if last > now_s && last - now_s > AHEAD_S_MAX { u64::MAX } else { now_s.saturating_sub(last) }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileWord(pub(super) u64);

impl FileWord {
    /// A file that is written after this one.
    pub(super) fn next(self, bytes: u64, tag: u64) -> Self {
        let blocks = bytes.div_ceil(BLOCK_BYTES).min(BLOCKS_MAX);
        Self(blocks << BLOCKS_AT | self.next_generation() << GENERATION_AT | PRESENT | tag)
    }

    /// No file after this one.
    pub(super) fn gone(self) -> Self {
        Self(self.next_generation() << GENERATION_AT)
    }

    fn next_generation(self) -> u64 {
        ((self.0 >> GENERATION_AT) + 1) & GENERATION_MASK
    }

    pub(super) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// True if there is a file, of this key.
    pub(super) fn is_of(self, tag: u64) -> bool {
        self.is_present() && self.0 & TAG_MASK == tag
    }

    pub(super) fn blocks(self) -> u64 {
        if self.is_present() { self.0 >> BLOCKS_AT } else { 0 }
    }

    pub(super) fn bytes(self) -> u64 {
        self.blocks() * BLOCK_BYTES
    }
}

/// In the place of a status, which is 400 or more.
const INVALIDATION: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ErrorWord(pub(super) u64);

impl ErrorWord {
    pub(super) fn new(until_s: u64, status: u16, tag: u64) -> Self {
        Self(until_s.min(SECOND_MASK) << SECOND_AT | (u64::from(status) & COUNT_MASK) << TAG_BITS | tag)
    }

    /// Instead of an error: the key was invalidated at this time.
    pub(super) fn invalidation(now_ms: u64, tag: u64) -> Self {
        Self((now_ms & SECOND_MASK) << SECOND_AT | INVALIDATION << TAG_BITS | tag)
    }

    pub(super) fn is_invalidation(self, tag: u64) -> bool {
        self.0 & TAG_MASK == tag && self.0 >> TAG_BITS & COUNT_MASK == INVALIDATION
    }

    /// Milliseconds since this key was invalidated; `None`: it was not, as far as is known. The number starts again from
    /// 0 after 198 days, which costs at most one response that is not stored.
    pub(super) fn invalidated_ago_ms(self, tag: u64, now_ms: u64) -> Option<u64> {
        let then_ms = self.0 >> SECOND_AT;
        self.is_invalidation(tag).then_some(now_ms.wrapping_sub(then_ms) & SECOND_MASK)
    }

    /// The status, if it is an error of this key and valid now.
    pub(super) fn status(self, tag: u64, now_s: u64) -> Option<u16> {
        let status = (self.0 >> TAG_BITS & COUNT_MASK) as u16;
        let is_valid = self.0 & TAG_MASK == tag && self.0 >> SECOND_AT >= now_s;
        (is_valid && (400..=599).contains(&status)).then_some(status)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LockWord(pub(super) u64);

impl LockWord {
    pub(super) fn new(now_ms: u64, owner: u64) -> Self {
        Self((now_ms & LOCK_MS_MASK) << OWNER_BITS | owner)
    }

    /// 0: nobody.
    pub(super) fn owner(self) -> u64 {
        self.0 & OWNER_MASK
    }

    pub(super) fn is_held(self, now_ms: u64, age_ms: u64) -> bool {
        let last_ms = self.0 >> OWNER_BITS;
        let is_far_ahead = last_ms > now_ms && last_ms - now_ms > AHEAD_S_MAX * 1000;
        self.owner() != 0 && !is_far_ahead && now_ms.saturating_sub(last_ms) < age_ms
    }
}

/// How suitable a key is to give way: by its class, and then by the time since its last use.
pub(super) fn worth(way: &Way, now_s: u64) -> (usize, u64) {
    let age_s = UseWord(way.used().load(Relaxed)).age_s(now_s);
    let is_locked = LockWord(way.lock().load(Relaxed)).is_held(now_s.saturating_mul(1000), LOCK_MS_MAX);
    let class = match FileWord(way.file().load(Relaxed)).is_present() {
        _ if is_locked => 0,
        true => 1,
        false => 2,
    };
    (class, age_s)
}
