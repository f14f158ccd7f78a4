//! Finished requests of a turn that are counted in the same places: most are, so their amounts are added up first, and
//! each place is written once for all of them.
//!
//! Touches: nothing.

use super::counter::Slot;
use super::detail::Facts;
use super::histogram::{self, Histogram};

/// The places in which a request is counted. Requests of equal shapes are counted in the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape([u32; 6]);

/// The histogram of a time that was not measured has no bucket.
const NO_BUCKET: u32 = 0xffff;

impl Shape {
    /// `slots`: those of the server, the location and the upstream group. `us`: the times of the request, and to the
    /// upstream's response head and to its end, in microseconds.
    #[inline]
    pub fn new(slots: [Option<Slot>; 3], facts: Facts, us: [Option<u64>; 3]) -> Self {
        let [server, location, group] = slots.map(|slot| slot.map_or(u32::MAX, Slot::index));
        let bucket = |us: Option<u64>| us.map_or(NO_BUCKET, |us| histogram::bucket(us) as u32);
        let [request, header, response] = us.map(bucket);
        Self([server, location, group, facts.word(), request, header << 16 | response])
    }

    pub(super) fn facts(self) -> Facts {
        Facts::of_word(self.0[3])
    }

    /// The buckets of the times, in the order of [`Shape::new`]; `None`: not measured.
    pub(super) fn buckets(self) -> [Option<usize>; 3] {
        let [.., request, others] = self.0;
        [request, others >> 16, others & 0xffff]
            .map(|bucket| (bucket != NO_BUCKET).then_some(bucket as usize))
    }
}

/// The numbers in which requests of equal shapes may differ.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amounts {
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The times of a [`Shape`]; 0 for one that was not measured.
    pub us: [u64; 3],
}

/// The slots and histograms of a [`Shape`].
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// The server and the location.
    pub zones: [Option<Slot>; 2],
    /// The upstream group.
    pub group: Option<Slot>,
    /// For each time of the shape, the histograms that have it.
    pub times: [[Option<Histogram>; 3]; 3],
}

/// Requests that were added up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alike {
    pub shape: Shape,
    pub parts: Parts,
    pub count: u64,
    pub amounts: Amounts,
}

impl Alike {
    #[inline]
    pub fn add(&mut self, amounts: Amounts) {
        self.count += 1;
        // A tunnel of an older worker comes with any numbers, since that worker is not trusted: sums wrap, as those in
        // shared memory do.
        let Amounts { bytes_in, bytes_out, us } = &mut self.amounts;
        *bytes_in = bytes_in.wrapping_add(amounts.bytes_in);
        *bytes_out = bytes_out.wrapping_add(amounts.bytes_out);
        for (sum, us) in us.iter_mut().zip(amounts.us) {
            *sum = sum.wrapping_add(us);
        }
    }
}
