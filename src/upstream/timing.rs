//! Moving averages of a peer's response times, for `least_time`.
//!
//! The state of one worker, or in a group with `zone` words of all. A word that another worker overwrites in
//! between loses one sample. Times are microseconds unless they say otherwise. Touches: the peer's words in
//! shared memory. Behaviour: nginx.org, least_time of ngx_http_upstream_module.

use std::cell::Cell;

use crate::shm::peers::{Place, Word};

/// Longest time that is averaged, an hour: whatever stands in shared memory, sums fit.
const TIME_US_MAX: u64 = 3_600_000_000;

/// The time in which [`Timing::peak_us`] falls by half.
const HALF_LIFE_MS: u64 = 5_000;

/// A peer's times.
#[derive(Debug, Default)]
pub struct Timing {
    head_us: Cell<u64>,
    response_us: Cell<u64>,
    averaged_ms: Cell<u64>,
    /// Requests of this worker that wait for the peer: their number, and the sum of their beginnings.
    waiting: Cell<u64>,
    begun_ms: Cell<u64>,
    /// Moving average of the mean time for which they have been waiting; 0: none yet.
    waiting_ms: Cell<u64>,
}

impl Timing {
    /// The average times to the head, and to the end of a response; 0: none was measured.
    pub fn head_us(&self, place: Option<Place>) -> u64 {
        read(&self.head_us, place, Word::HeadUs)
    }

    pub fn response_us(&self, place: Option<Place>) -> u64 {
        read(&self.response_us, place, Word::ResponseUs)
    }

    /// Averages a time to the head as nginx does: a new one counts for a twentieth.
    pub fn average_head(&self, place: Option<Place>, us: u64) {
        write(&self.head_us, place, Word::HeadUs, average(self.head_us(place), us));
    }

    /// Averages a time to the end of a response.
    pub fn average_response(&self, place: Option<Place>, us: u64) {
        write(&self.response_us, place, Word::ResponseUs, average(self.response_us(place), us));
    }

    /// The peak-sensitive average at this time: it falls by half in each half life without a new one.
    pub fn peak_us(&self, place: Option<Place>, now_ms: u64) -> u64 {
        let at_ms = match place {
            Some(place) => place.past_ms(Word::AverageMs, now_ms),
            None => self.averaged_ms.get().min(now_ms),
        };
        let alone_ms = now_ms - at_ms;
        let halves = u32::try_from(alone_ms / HALF_LIFE_MS).unwrap_or(u32::MAX);
        let us = self.head_us(place).checked_shr(halves).unwrap_or(0);
        us - us * (alone_ms % HALF_LIFE_MS) / (2 * HALF_LIFE_MS) // a straight line to the next half
    }

    /// Takes a time to the head into that average: a higher one replaces it.
    pub fn peak(&self, place: Option<Place>, us: u64, now_ms: u64) {
        let (old, us) = (self.peak_us(place, now_ms), us.min(TIME_US_MAX));
        let new = if us > old { us } else { old - (old - us) / 4 };
        write(&self.head_us, place, Word::HeadUs, new);
        write(&self.averaged_ms, place, Word::AverageMs, now_ms);
    }

    /// Counts a request of this worker that waits from now on.
    pub fn begin_waiting(&self, now_ms: u64) {
        self.waiting.set(self.waiting.get() + 1);
        self.begun_ms.set(self.begun_ms.get().wrapping_add(now_ms));
    }

    /// The same request waits no longer.
    pub fn end_waiting(&self, begun_ms: u64) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        self.begun_ms.set(self.begun_ms.get().wrapping_sub(begun_ms));
    }

    /// Averages the mean time for which the waiting requests have been waiting.
    pub fn average_waiting(&self, now_ms: u64) {
        let Some(mean_begun_ms) = self.begun_ms.get().checked_div(self.waiting.get()) else { return };
        self.waiting_ms.set(average(self.waiting_ms.get(), now_ms.saturating_sub(mean_begun_ms)));
    }

    /// That average; `None`: no request is waiting.
    pub fn waiting_ms(&self) -> Option<u64> {
        (self.waiting.get() > 0).then(|| self.waiting_ms.get())
    }
}

fn read(own: &Cell<u64>, place: Option<Place>, word: Word) -> u64 {
    place.map_or(own.get(), |place| place.number(word, TIME_US_MAX))
}

fn write(own: &Cell<u64>, place: Option<Place>, word: Word, value: u64) {
    match place {
        Some(place) => place.set_number(word, value),
        None => own.set(value),
    }
}

/// nginx's moving average, rounded; the first value counts as a whole.
fn average(old: u64, new: u64) -> u64 {
    let new = new.min(TIME_US_MAX);
    if old == 0 { new } else { (old * 95 + new * 5 + 50) / 100 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::peers;

    #[test]
    fn the_first_time_counts_whole_and_others_a_twentieth() {
        let timing = Timing::default();
        timing.average_head(None, 1_000_000);
        timing.average_head(None, 0);
        assert_eq!((timing.head_us(None), timing.response_us(None)), (950_000, 0));
        timing.average_response(None, u64::MAX);
        assert_eq!(timing.response_us(None), TIME_US_MAX);
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_halves() {
        let timing = Timing::default();
        timing.peak(None, 1000, 10_000);
        timing.peak(None, 80_000, 10_000);
        assert_eq!(timing.peak_us(None, 10_000), 80_000);
        timing.peak(None, 0, 10_000);
        assert_eq!(timing.peak_us(None, 10_000), 60_000, "a lower one pulls it down");
        assert_eq!(timing.peak_us(None, 15_000), 30_000);
        assert_eq!(timing.peak_us(None, 12_500), 45_000);
        assert_eq!(timing.peak_us(None, u64::MAX), 0);
        assert_eq!(timing.peak_us(None, 5), 60_000, "before its time");
    }

    #[test]
    fn workers_share_the_averages_of_a_zone_whatever_they_write() {
        let place = peers::place("timing.test/shared");
        let (first, second) = (Timing::default(), Timing::default());
        first.peak(place, 5000, 1000);
        assert_eq!(second.peak_us(place, 1000), 5000);
        let words = place.expect("room");
        for hostile in [u64::MAX, 1 << 63, TIME_US_MAX + 1] {
            for word in [Word::HeadUs, Word::ResponseUs, Word::AverageMs] {
                words.set_number(word, hostile);
            }
            assert_eq!(first.peak_us(place, 2000), TIME_US_MAX);
            first.average_response(place, u64::MAX);
            assert_eq!(second.response_us(place), TIME_US_MAX);
        }
    }

    #[test]
    fn requests_that_wait_count_their_mean_time() {
        let timing = Timing::default();
        timing.average_waiting(500);
        assert_eq!(timing.waiting_ms(), None);
        timing.begin_waiting(1000);
        timing.begin_waiting(3000);
        timing.average_waiting(4000);
        assert_eq!(timing.waiting_ms(), Some(2000));
        timing.end_waiting(1000);
        timing.end_waiting(3000);
        assert_eq!(timing.waiting_ms(), None);
    }
}
