//! Hierarchical timer wheel: 6 levels of 64 slots, 1 ms tick; setting and cancelling are O(1).
//!
//! Pure: the loop passes the time in and wakes the waiters that come out. It never walks over all timers.

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const NONE: u32 = u32::MAX;
/// `slot` of an entry that has fired; its owner has not noticed yet.
const FIRED: u16 = u16::MAX;
/// Number of ticks that the whole wheel covers.
const SPAN: u64 = 1 << (SLOT_BITS * LEVELS as u32);
/// The farthest place, in ticks from now; an entry beyond it is filed there and re-filed later. One slot of
/// the top level less than the span, or a deadline would wrap around to the current slot.
const REACH: u64 = SPAN - (SPAN >> SLOT_BITS);
/// Maximum number of entries whose memory is kept once no timer is left.
const KEPT_ENTRIES: usize = 1024;

#[derive(Debug)]
struct Entry {
    deadline: u64,
    /// The task to wake; opaque here.
    waiter: u64,
    next: u32,
    previous: u32,
    slot: u16,
}

/// A wheel of timers. Times are milliseconds of one monotonic clock.
#[derive(Debug)]
pub struct Wheel {
    entries: Vec<Entry>,
    free: Vec<u32>,
    heads: [u32; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
    elapsed: u64,
}

impl Wheel {
    pub fn new(now: u64) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            heads: [NONE; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            elapsed: now,
        }
    }

    /// Adds a timer; the key is valid until `remove`.
    pub fn insert(&mut self, deadline: u64, waiter: u64) -> u32 {
        let entry = Entry { deadline, waiter, next: NONE, previous: NONE, slot: FIRED };
        let key = match self.free.pop() {
            Some(key) => {
                self.entries[key as usize] = entry;
                key
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.link(key);
        key
    }

    /// Removes a timer, fired or not.
    pub fn remove(&mut self, key: u32) {
        self.unlink(key);
        self.free.push(key);
        if self.free.len() == self.entries.len() && self.entries.len() > KEPT_ENTRIES {
            // No timer is left: give the memory of a busy hour back.
            self.entries = Vec::new();
            self.free = Vec::new();
        }
    }

    /// Sets another deadline and waiter. A timer that is filed for an earlier time stays where it is: the task that it
    /// wakes then comes back with the later deadline.
    pub fn update(&mut self, key: u32, deadline: u64, waiter: u64) {
        let entry = &mut self.entries[key as usize];
        entry.waiter = waiter;
        if entry.slot == FIRED || entry.deadline > deadline {
            self.unlink(key);
            self.entries[key as usize].deadline = deadline;
            self.link(key);
        }
    }

    /// Number of timers added and not removed.
    #[allow(clippy::len_without_is_empty, reason = "a count, asked by tests of leaks")]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The time of the next `advance`; it may be earlier than any deadline, since coarse slots must be
    /// re-filed.
    pub fn next_ms(&self) -> Option<u64> {
        (0..LEVELS).find_map(|level| self.next_slot(level)).map(|(_, at)| at)
    }

    /// Moves the wheel to `now` and calls `fire` with the waiter of every timer that is due.
    pub fn advance(&mut self, now: u64, mut fire: impl FnMut(u64)) {
        while let Some((slot, at)) = (0..LEVELS).find_map(|level| self.next_slot(level)) {
            if at > now {
                break;
            }
            self.elapsed = self.elapsed.max(at);
            let mut key = self.heads[slot];
            self.heads[slot] = NONE;
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            while key != NONE {
                let entry = &mut self.entries[key as usize];
                let next = entry.next;
                (entry.next, entry.previous, entry.slot) = (NONE, NONE, FIRED);
                if entry.deadline <= now {
                    fire(entry.waiter);
                } else {
                    self.link(key);
                }
                key = next;
            }
        }
        self.elapsed = self.elapsed.max(now);
    }

    /// The next occupied slot of a level and the time at which it begins.
    fn next_slot(&self, level: usize) -> Option<(usize, u64)> {
        let occupied = self.occupied[level];
        if occupied == 0 {
            return None;
        }
        let shift = SLOT_BITS * level as u32;
        let now_slot = (self.elapsed >> shift) as usize % SLOTS;
        let ahead = occupied.rotate_right(now_slot as u32).trailing_zeros() as usize;
        let slot = (now_slot + ahead) % SLOTS;
        let begin = ((self.elapsed >> shift) + ahead as u64) << shift;
        Some((level * SLOTS + slot, begin.max(self.elapsed)))
    }

    fn link(&mut self, key: u32) {
        let deadline = self.entries[key as usize].deadline.clamp(self.elapsed, self.elapsed + REACH);
        let difference = self.elapsed ^ deadline;
        let level = if difference < SLOTS as u64 { 0 } else { (difference.ilog2() / SLOT_BITS) as usize };
        let level = level.min(LEVELS - 1);
        let slot = level * SLOTS + (deadline >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let head = self.heads[slot];
        if head != NONE {
            self.entries[head as usize].previous = key;
        }
        let entry = &mut self.entries[key as usize];
        (entry.next, entry.previous, entry.slot) = (head, NONE, slot as u16);
        self.heads[slot] = key;
        self.occupied[level] |= 1 << (slot % SLOTS);
    }

    fn unlink(&mut self, key: u32) {
        let Entry { next, previous, slot, .. } = self.entries[key as usize];
        if slot == FIRED {
            return;
        }
        if previous == NONE {
            self.heads[slot as usize] = next;
            if next == NONE {
                self.occupied[slot as usize / SLOTS] &= !(1 << (slot as usize % SLOTS));
            }
        } else {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        self.entries[key as usize].slot = FIRED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timer_fires_once_at_its_time_in_any_order_of_setting() {
        let mut wheel = Wheel::new(1000);
        let delays = [0, 1, 63, 64, 65, 4095, 4096, 100_000, 262_144, 20_000_000, 5_000_000_000];
        for delay in delays {
            wheel.insert(1000 + delay, delay);
        }
        let mut fired = Vec::new();
        while let Some(at) = wheel.next_ms() {
            wheel.advance(at, |delay| fired.push((delay, at)));
        }
        assert_eq!(fired, delays.map(|delay| (delay, 1000 + delay)));
        assert_eq!(wheel.len(), delays.len(), "fired timers stay until their owner removes them");
    }

    /// A deadline years away is re-filed at the wheel's end again and again, and never falls into the current
    /// slot.
    #[test]
    fn a_deadline_beyond_the_wheel_waits_for_its_time() {
        let mut wheel = Wheel::new(SPAN - 3);
        wheel.insert(SPAN * 3 + 77, 1);
        wheel.insert(SPAN * 2 - 4, 2);
        let (mut fired, mut steps) = (Vec::new(), 0);
        while let Some(at) = wheel.next_ms() {
            wheel.advance(at, |waiter| fired.push((waiter, at)));
            steps += 1;
            assert!(steps < 100, "the wheel turns on the spot");
        }
        assert_eq!(fired, [(2, SPAN * 2 - 4), (1, SPAN * 3 + 77)]);
    }

    #[test]
    fn a_timer_moves_at_once_to_an_earlier_time_and_to_a_later_one_when_it_has_fired() {
        let mut wheel = Wheel::new(0);
        let key = wheel.insert(100, 1);
        let fired_at = |wheel: &mut Wheel| {
            let mut fired = Vec::new();
            while let Some(at) = wheel.next_ms().filter(|_| fired.is_empty()) {
                wheel.advance(at, |waiter| fired.push((waiter, at)));
            }
            fired
        };
        wheel.update(key, 200, 2);
        assert_eq!(fired_at(&mut wheel), [(2, 100)], "filed for its first time still");
        wheel.update(key, 200, 3);
        wheel.update(key, 120, 4);
        assert_eq!(fired_at(&mut wheel), [(4, 120)]);
        assert_eq!((wheel.next_ms(), wheel.len()), (None, 1));
        wheel.remove(key);
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn agrees_with_a_sorted_list() {
        let mut random = 1u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random >> 33
        };
        let (mut wheel, mut now, mut model) = (Wheel::new(7), 7, std::collections::BTreeMap::new());
        for number in 0..20_000u64 {
            match next() % 3 {
                0 | 1 => {
                    let deadline = now + next() % (1 << (next() % 24));
                    model.insert((deadline, number), wheel.insert(deadline, number));
                }
                _ => {
                    if let Some((id, key)) = model.pop_first() {
                        wheel.remove(key);
                        let _ = id;
                    }
                }
            }
            if next() % 8 == 0 {
                now += next() % 5000;
                let mut fired = Vec::new();
                wheel.advance(now, |number| fired.push(number));
                let mut due: Vec<u64> = Vec::new();
                while model.first_key_value().is_some_and(|((deadline, _), _)| *deadline <= now) {
                    let ((_, number), key) = model.pop_first().unwrap();
                    wheel.remove(key);
                    due.push(number);
                }
                fired.sort_unstable();
                due.sort_unstable();
                assert_eq!(fired, due);
            }
        }
    }
}
