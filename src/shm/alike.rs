//! Finished requests of a turn that are counted in the same places: most are, so their amounts are added up first, and
//! each place is written once for all of them.
//!
//! Touches: nothing.

use super::counter::Slot;
use super::detail::Facts;
use super::histogram::{self, Histogram};

/// The number of times that are measured.
pub const TIMES: usize = 4;

/// The places in which a request is counted. Requests of equal shapes are counted in the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape([u32; 6]);

/// The histogram of a time that was not measured has no bucket.
const NO_BUCKET: u32 = 0xffff;

impl Shape {
    /// `slots`: those of the server, the location and the upstream group. `us`: the times of the request, of connecting to
    /// the upstream, and to the upstream's response head and to its end, in microseconds.
    #[inline]
    pub fn new(slots: [Option<Slot>; 3], facts: Facts, us: [Option<u64>; TIMES]) -> Self {
        let [server, location, group] = slots.map(|slot| slot.map_or(u32::MAX, Slot::index));
        let bucket = |us: Option<u64>| us.map_or(NO_BUCKET, |us| histogram::bucket(us) as u32);
        let [request, connect, header, response] = us.map(bucket);
        Self([server, location, group, facts.word(), request << 16 | connect, header << 16 | response])
    }

    /// Its parts, two to a word.
    #[inline]
    pub(super) fn words(self) -> [u64; 3] {
        let [server, location, group, facts, first, second] = self.0.map(u64::from);
        [server | location << 32, group | facts << 32, first | second << 32]
    }
}

/// The numbers in which requests of equal shapes may differ.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amounts {
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The times of a [`Shape`]; 0 for one that was not measured.
    pub us: [u64; TIMES],
}

/// The histograms and details of a [`Shape`].
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// The slots of the shape.
    pub slots: [Option<Slot>; 3],
    /// For each time of the shape, the histogram of all requests.
    pub named: [Option<Histogram>; TIMES],
}
