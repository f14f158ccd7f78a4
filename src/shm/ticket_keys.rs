//! Keys of TLS tickets that all workers share and replace in time (`ssl_session_tickets` without key files).
//!
//! ```text
//! header: magic, 2 words of a secret, phase and 1 (0: not set) | 4 slots of 16 words: state, checksum, 10 words of a key
//! state: epoch: 32 bits | 0: ready, or the second since which a process writes it; 0: empty
//! ```
//! Time is divided into epochs of one period; the phase makes one begin when the memory is first opened. Each epoch has a
//! key in the slot `epoch % 4`. The first process that needs it makes it: it claims the slot by an exchange, writes, and
//! declares it ready by another. A claim of a process that died on the way can be taken over after two seconds; meanwhile
//! the key of the epoch before goes on. A key opens tickets for two epochs after its own, and is erased when a later key is
//! made.
//!
//! A key that is damaged, by a process that slept in the middle of its writing or by a hostile one, does not
//! match its checksum and is made anew: tickets under it are lost, which costs their clients a full
//! handshake. A hostile worker can read the keys; it has them in its memory anyway.
//! Behaviour: nginx.org, `ssl_session_ticket_key` and `ssl_session_cache` (1.23.2 and later).

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use zeroize::Zeroizing;

use super::leaky_bucket::init_header;
use super::named;
use super::zone::Zone;

/// Bytes of a key: its name (16), an HMAC key and an AES-256 key.
pub const KEY_BYTES: usize = 80;
/// Bytes of its name, which come first.
pub const NAME_BYTES: usize = 16;

pub type Key = Zeroizing<[u8; KEY_BYTES]>;

/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0105;
const HEADER_WORDS: usize = 16;
const PHASE_WORD: usize = 3;
const SLOTS: usize = 4;
const SLOT_WORDS: usize = 16;
const WORD_BYTES: usize = size_of::<u64>();
const KEY_WORDS: usize = KEY_BYTES / WORD_BYTES;
/// The memory of the keys of one period.
pub const ZONE_BYTES: usize = (HEADER_WORDS + SLOTS * SLOT_WORDS) * WORD_BYTES;
/// The number of epochs for which a key opens tickets: its own, in which they are issued; the next, in which
/// the last of them ends; and one more, since a key is used for longer while the next one is being written.
const EPOCHS: u32 = 3;
/// Writing a key takes microseconds: a process that has not ended after this time is dead or stopped.
const CLAIM_S_MAX: u32 = 2;

/// The keys of one period.
///
/// The master opens them while it compiles a configuration, and makes the first one; workers call
/// [`Keys::current`] and [`Keys::find`] for each ticket. Times are seconds of one monotonic clock that all
/// workers share.
#[derive(Clone, Copy)]
pub struct Keys {
    words: &'static [AtomicU64],
    period_s: u32,
    /// Less than a period: an epoch begins when the time and this are a multiple of the period.
    phase_s: u32,
}

impl Keys {
    /// Opens the keys in the zone of this name, which is created if there is none. For the master. A key is
    /// used for `period_s`, and opens tickets for as long again at least.
    pub fn open(name: u64, period_s: u32, now_s: u32) -> io::Result<Self> {
        let zone = named::zone(name, ZONE_BYTES)?;
        // Without it a core file has the keys; nothing else depends on it.
        let _ = zone.leave_out_of_dumps();
        Self::of(zone, period_s, now_s)
    }

    fn of(zone: &Zone, period_s: u32, now_s: u32) -> io::Result<Self> {
        let words = zone.words();
        if size_of_val(words) < ZONE_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        init_header(words, MAGIC);
        let period_s = period_s.max(1);
        let own = u64::from((period_s - now_s % period_s) % period_s);
        let known = words[PHASE_WORD].compare_exchange(0, own + 1, AcqRel, Acquire).err();
        // Bounded, since a hostile worker can write it.
        let phase = known.map_or(own, |known| (known - 1) % u64::from(period_s));
        Ok(Self { words, period_s, phase_s: phase as u32 })
    }

    /// The key for new tickets. `fresh` makes a random one if it is the first time that this epoch needs it.
    ///
    /// `None`: there is none at this moment; no ticket can be issued.
    pub fn current(&self, now_s: u32, fresh: impl FnOnce() -> Option<Key>) -> Option<Key> {
        let epoch = self.epoch(now_s);
        if let Some(key) = self.read(epoch, None) {
            return Some(key);
        }
        let state = &self.slot(epoch)[0];
        let seen = state.load(Acquire);
        let (owner, since_s) = ((seen >> 32) as u32, seen as u32);
        let is_claimed = owner == epoch && since_s != 0 && now_s.wrapping_sub(since_s) <= CLAIM_S_MAX;
        let claim = u64::from(epoch) << 32 | u64::from(now_s.max(1));
        if is_claimed || state.compare_exchange(seen, claim, AcqRel, Acquire).is_err() {
            // Another process is writing it, or has just written it.
            return self.read(epoch, None).or_else(|| self.read(epoch - 1, None));
        }
        let key = fresh()?;
        self.write(epoch, &key);
        let ready = u64::from(epoch) << 32;
        // If that fails, another process has taken the claim over, and its key is the one to use.
        let is_ours = state.compare_exchange(claim, ready, AcqRel, Acquire).is_ok();
        self.erase_expired(now_s);
        is_ours.then_some(key).or_else(|| self.read(epoch, None))
    }

    /// The key of this name, if it still opens tickets.
    pub fn find(&self, name: &[u8; NAME_BYTES], now_s: u32) -> Option<Key> {
        let epoch = self.epoch(now_s);
        (0..EPOCHS).find_map(|age| self.read(epoch.saturating_sub(age), Some(name)))
    }

    /// Erases the keys that open no tickets any more. Workers do that when they make a key; a server without
    /// traffic needs somebody to call it.
    pub fn erase_expired(&self, now_s: u32) {
        let epoch = self.epoch(now_s);
        for slot in self.words[HEADER_WORDS..].chunks_exact(SLOT_WORDS).take(SLOTS) {
            let state = slot[0].load(Acquire);
            // Another process may have made the next key already.
            let age = epoch.saturating_add(1).checked_sub((state >> 32) as u32);
            let is_needed = age.is_some_and(|age| age <= EPOCHS);
            if state != 0 && !is_needed && slot[0].compare_exchange(state, 0, AcqRel, Relaxed).is_ok() {
                slot[1..].iter().for_each(|word| word.store(0, Relaxed));
            }
        }
    }

    /// The number of the period, from 1.
    fn epoch(&self, now_s: u32) -> u32 {
        (now_s.saturating_add(self.phase_s) / self.period_s).saturating_add(1)
    }

    fn slot(&self, epoch: u32) -> &'static [AtomicU64] {
        let start = HEADER_WORDS + epoch as usize % SLOTS * SLOT_WORDS;
        &self.words[start..start + SLOT_WORDS]
    }

    fn write(&self, epoch: u32, key: &Key) {
        let slot = self.slot(epoch);
        fence(Release);
        slot[1].store(self.checksum(epoch, key), Relaxed);
        for (word, bytes) in slot[2..].iter().zip(key.as_chunks().0) {
            word.store(u64::from_ne_bytes(*bytes), Relaxed);
        }
    }

    /// Copies the key of an epoch and checks the copy; a key of another name is not looked at any further.
    fn read(&self, epoch: u32, name: Option<&[u8; NAME_BYTES]>) -> Option<Key> {
        let slot = self.slot(epoch);
        let ready = u64::from(epoch) << 32;
        if epoch == 0 || slot[0].load(Acquire) != ready {
            return None;
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        for (bytes, word) in key.as_chunks_mut().0.iter_mut().zip(&slot[2..2 + KEY_WORDS]) {
            *bytes = word.load(Relaxed).to_ne_bytes();
        }
        if name.is_some_and(|name| !key.starts_with(name)) {
            return None;
        }
        let checksum = slot[1].load(Relaxed);
        fence(Acquire);
        let is_whole = slot[0].load(Relaxed) == ready && self.checksum(epoch, &key) == checksum;
        is_whole.then_some(key)
    }

    fn checksum(&self, epoch: u32, key: &Key) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.words[1].load(Relaxed));
        hasher.write_u64(self.words[2].load(Relaxed));
        hasher.write_u32(epoch);
        hasher.write(&key[..]);
        hasher.finish()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys(every {} s)", self.period_s)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use super::*;

    const PERIOD_S: u32 = 300;

    fn keys() -> Keys {
        Keys::of(&Zone::map(ZONE_BYTES).expect("maps"), PERIOD_S, 0).expect("large enough")
    }

    fn fill(byte: u8) -> impl FnOnce() -> Option<Key> {
        move || Some(Zeroizing::new([byte; KEY_BYTES]))
    }

    fn none() -> Option<Key> {
        panic!("a key is there already")
    }

    fn first(key: Option<Key>) -> Option<u8> {
        key.map(|key| {
            assert!(key.iter().all(|byte| *byte == key[0]), "whole");
            key[0]
        })
    }

    #[test]
    fn keys_rotate_and_earlier_ones_still_open_tickets() {
        let keys = keys();
        let name = |byte| [byte; NAME_BYTES];
        assert_eq!(first(keys.current(10, fill(1))), Some(1));
        assert_eq!(first(keys.current(299, none)), Some(1));
        assert_eq!(first(keys.current(300, fill(2))), Some(2));
        for (now_s, is_there) in [(300, true), (599, true), (899, true), (900, false)] {
            assert_eq!(keys.find(&name(1), now_s).is_some(), is_there, "{now_s}");
        }
        assert_eq!(first(keys.current(900, fill(3))), Some(3));
        let is_there =
            |byte| keys.words.iter().any(|word| word.load(Relaxed) == u64::from_ne_bytes([byte; 8]));
        assert_eq!([1, 2, 3].map(is_there), [false, true, true], "those that nobody needs are erased");
        keys.erase_expired(10_000);
        assert_eq!([1, 2, 3].map(is_there), [false; 3]);
    }

    #[test]
    fn the_first_key_is_used_for_a_whole_period() {
        let zone = Zone::map(ZONE_BYTES).expect("maps");
        let open = |now_s| Keys::of(&zone, PERIOD_S, now_s).expect("large enough");
        let keys = open(1_000_299);
        assert_eq!(first(keys.current(1_000_299, fill(1))), Some(1));
        assert_eq!(first(open(1_000_310).current(1_000_598, none)), Some(1), "opened again, as by a reload");
        assert_eq!(first(keys.current(1_000_599, fill(2))), Some(2));
        for bits in [u64::MAX, 1 << 32, 301] {
            keys.words[PHASE_WORD].store(bits, Relaxed);
            assert!(open(7).phase_s < PERIOD_S, "a hostile worker moves it by less than a period");
        }
    }

    #[test]
    fn while_a_key_is_being_written_the_one_before_is_used() {
        let keys = keys();
        assert_eq!(first(keys.current(10, fill(1))), Some(1));
        // A process claims the next one, and dies.
        keys.slot(2)[0].store(2 << 32 | 300, Relaxed);
        assert_eq!(first(keys.current(300, none)), Some(1));
        assert_eq!(first(keys.current(302, none)), Some(1));
        assert_eq!(first(keys.current(303, fill(2))), Some(2));
        assert_eq!(first(keys.current(304, none)), Some(2));
        assert_eq!(first(keys.find(&[1; NAME_BYTES], 304)), Some(1));
    }

    #[test]
    fn a_process_without_random_bytes_leaves_the_key_to_others() {
        let keys = keys();
        assert_eq!(first(keys.current(10, || None)), None);
        assert_eq!(first(keys.current(11, none)), None);
        assert_eq!(first(keys.current(13, fill(1))), Some(1));
    }

    #[test]
    fn a_damaged_key_is_made_anew() {
        let keys = keys();
        for index in 1..2 + KEY_WORDS {
            for bit in 0..64 {
                let made = keys.current(10, fill(7)).expect("made");
                let word = &keys.slot(1)[index];
                word.fetch_xor(1 << bit, Relaxed);
                assert!(keys.find(&[7; NAME_BYTES], 10).is_none(), "{index} {bit}");
                assert_eq!(keys.current(10, || Some(made.clone())), Some(made));
            }
        }
    }

    #[test]
    fn whatever_a_hostile_worker_writes_a_key_can_be_had_again() {
        let keys = keys();
        for bits in [u64::MAX, 1, 1 << 63, 1 << 32, 0x0000_0001_ffff_ffff] {
            keys.words[HEADER_WORDS..].iter().for_each(|word| word.store(bits, Relaxed));
            let _ = keys.find(&[0xff; NAME_BYTES], 10);
            keys.current(10, fill(1));
            assert_eq!(first(keys.current(20, fill(1))), Some(1), "{bits:x}");
        }
        assert_eq!(keys.epoch(u32::MAX), u32::MAX / PERIOD_S + 1);
    }

    #[test]
    fn all_threads_use_one_key() {
        for _ in 0..50 {
            let keys = keys();
            let next = AtomicU8::new(1);
            let make = || Some(Zeroizing::new([next.fetch_add(1, Relaxed); KEY_BYTES]));
            let barrier = std::sync::Barrier::new(4);
            let used: Vec<u8> = std::thread::scope(|scope| {
                let run = || {
                    barrier.wait();
                    first(keys.current(10, make))
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
                threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
            });
            assert!(used.iter().all(|key| *key == used[0]), "{used:?}");
            assert_eq!(next.load(Relaxed), 2);
            assert_eq!(first(keys.current(10, none)), used.first().copied());
        }
    }
}
