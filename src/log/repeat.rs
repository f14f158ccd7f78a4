//! The limit on repeated messages: 200 of one kind in a second; further ones are summed up in one line with a
//! count.
//!
//! A kind is one place in the code, one level and one set of targets. `debug` is not limited: with it on, all
//! messages are wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use super::lease::lock;
use super::level::Level;
use super::target::Logger;

const PER_WINDOW_MAX: u32 = 200;
const WINDOW_MS: u64 = 1000;

type Key = (u32, Level, usize);

struct Entry {
    since_ms: u64,
    written: u32,
    hidden: u64,
    text: &'static str,
}

/// The report of `hidden` suppressed messages of one kind.
pub(super) struct Summary {
    pub(super) logger: Logger,
    pub(super) level: Level,
    pub(super) text: &'static str,
    pub(super) hidden: u64,
}

static KINDS: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Mutex::default);
/// Number of kinds with suppressed messages.
static HIDING: AtomicU64 = AtomicU64::new(0);

/// True if there may be something to report: the end of a turn looks at nothing else, not even at the clock.
#[inline]
pub(super) fn is_hiding() -> bool {
    HIDING.load(Ordering::Relaxed) > 0
}

/// Milliseconds of a monotonic clock that starts with the first call.
pub(super) fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64
}

/// Decides whether to write a message, and returns a summary to write before it, if one is due.
pub(super) fn admit(
    logger: Logger,
    level: Level,
    place: usize,
    text: &'static str,
    now_ms: u64,
) -> (bool, Option<Summary>) {
    if level == Level::Debug {
        return (true, None);
    }
    let mut kinds = lock(&KINDS);
    let entry = kinds.entry((logger.id(), level, place)).or_insert(Entry {
        since_ms: now_ms,
        written: 0,
        hidden: 0,
        text,
    });
    let mut summary = None;
    if now_ms.saturating_sub(entry.since_ms) >= WINDOW_MS {
        summary = entry.close(logger, level);
        (entry.since_ms, entry.written) = (now_ms, 0);
    }
    if entry.written < PER_WINDOW_MAX {
        entry.written += 1;
        return (true, summary);
    }
    if entry.hidden == 0 {
        HIDING.fetch_add(1, Ordering::Relaxed);
    }
    entry.hidden += 1;
    (false, summary)
}

/// Takes the summaries whose second is over, or all of them (`everything`, before an exit).
pub(super) fn take_due(now_ms: u64, everything: bool) -> Vec<Summary> {
    let over = |entry: &Entry| everything || now_ms.saturating_sub(entry.since_ms) >= WINDOW_MS;
    let mut due = Vec::new();
    for (&(id, level, _), entry) in lock(&KINDS).iter_mut().filter(|(_, entry)| over(entry)) {
        if let Some(logger) = Logger::by_id(id) {
            due.extend(entry.close(logger, level));
        }
    }
    due
}

/// Milliseconds until the next summary is due.
pub(super) fn due_ms(now_ms: u64) -> Option<u64> {
    let kinds = lock(&KINDS);
    let hiding = kinds.values().filter(|entry| entry.hidden > 0);
    hiding.map(|entry| (entry.since_ms + WINDOW_MS).saturating_sub(now_ms)).min()
}

impl Entry {
    fn close(&mut self, logger: Logger, level: Level) -> Option<Summary> {
        let hidden = std::mem::take(&mut self.hidden);
        if hidden == 0 {
            return None;
        }
        HIDING.fetch_sub(1, Ordering::Relaxed);
        Some(Summary { logger, level, text: self.text, hidden })
    }
}
