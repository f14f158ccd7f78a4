//! The layout of the shared area, counted in 64-bit words.
//!
//! ```text
//! header | lanes: LANES × 32 | names of slots: SLOTS | slots: SLOTS × 16
//!        | names of peers: PEERS | peers: PEERS × 16 | in use: LANES × PEERS × u32
//!        | names of histograms: HISTOGRAMS | histograms: HISTOGRAMS × STRIPES × 1024
//!        | names of details: DETAILS | details: DETAILS × 1024 | their histograms: DETAILS × 3 × DETAIL_STRIPES × 1024
//!        | statuses of peers: PEERS × 32 | counts of a turn: LANES × 8192 (`pending`)
//!        | gauges: LANES × SLOTS × 2 × u32
//! ```
//! Each part starts on a page of its own. An unused slot or peer costs 8 bytes (the fingerprint of its name),
//! a used one 136, and a peer another 4 per worker that used it, and 256 for its statuses. Memory that was never used is never scanned.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::detail::TIMES;
use super::pending;
use super::zone::Zone;
use crate::sys::random;

/// Maximum number of processes that count at one time: 256 workers in each of two generations. Lane 0 is the
/// master's.
pub const LANES: usize = 512;
pub(super) const LANE_WORDS: usize = 32;
/// Maximum number of names of servers, locations, upstreams and peers together.
pub(super) const SLOTS: usize = 65_536;
pub(super) const SLOT_WORDS: usize = 16;
/// Maximum number of peers in all upstream groups.
pub(super) const PEERS: usize = 65_536;
pub(super) const PEER_WORDS: usize = 16;
/// The time at which a peer was last chosen, its statuses that are told apart, and one word for all others.
pub(super) const STATUS_WORDS: usize = 32;
pub(super) const HISTOGRAMS: usize = 512;
/// Workers share stripes (lane modulo stripes): histograms only grow, so a count need not be traced to its
/// worker.
pub(super) const STRIPES: usize = 16;
pub(super) const HISTOGRAM_WORDS: usize = 1024;
/// Maximum number of zones and upstream groups with further counts.
pub(super) const DETAILS: usize = 1024;
/// 8 KiB, whole pages on most machines.
pub(super) const DETAIL_WORDS: usize = 1024;
/// Stripes of the histograms of a detail.
const DETAIL_STRIPES: usize = 4;

/// 64 KiB, the largest page size of the machines we build for.
const PAGE_WORDS: usize = 8192;
/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 7;

const LANES_AT: usize = PAGE_WORDS;
const SLOT_NAMES_AT: usize = LANES_AT + page_up(LANES * LANE_WORDS);
const SLOTS_AT: usize = SLOT_NAMES_AT + page_up(SLOTS);
const PEER_NAMES_AT: usize = SLOTS_AT + page_up(SLOTS * SLOT_WORDS);
const PEERS_AT: usize = PEER_NAMES_AT + page_up(PEERS);
const IN_USE_AT: usize = PEERS_AT + page_up(PEERS * PEER_WORDS);
/// Words in one lane's row of connections in use, two counts to a word. A row is whole pages, so that its
/// memory can be given back.
const ROW_WORDS: usize = page_up(PEERS / 2);
const HISTOGRAM_NAMES_AT: usize = IN_USE_AT + LANES * ROW_WORDS;
const HISTOGRAMS_AT: usize = HISTOGRAM_NAMES_AT + page_up(HISTOGRAMS);
const DETAIL_NAMES_AT: usize = HISTOGRAMS_AT + page_up(HISTOGRAMS * STRIPES * HISTOGRAM_WORDS);
const DETAILS_AT: usize = DETAIL_NAMES_AT + page_up(DETAILS);
const DETAIL_HISTOGRAMS_AT: usize = DETAILS_AT + page_up(DETAILS * DETAIL_WORDS);
const DETAIL_HISTOGRAM_WORDS: usize = DETAIL_STRIPES * HISTOGRAM_WORDS;
const STATUSES_AT: usize = DETAIL_HISTOGRAMS_AT + page_up(DETAILS * TIMES * DETAIL_HISTOGRAM_WORDS);
const PENDING_AT: usize = STATUSES_AT + page_up(PEERS * STATUS_WORDS);
const PENDING_WORDS: usize = page_up(pending::WORDS);
const GAUGES_AT: usize = PENDING_AT + LANES * PENDING_WORDS;
/// Words in one lane's row of gauges, whole pages as those of connections in use: two gauges of a slot to a word.
const GAUGE_ROW_WORDS: usize = page_up(SLOTS);
const END: usize = GAUGES_AT + LANES * GAUGE_ROW_WORDS;

/// Address space of the area; little of it is ever touched.
pub const BYTES: usize = END * size_of::<u64>();

const fn page_up(words: usize) -> usize {
    words.next_multiple_of(PAGE_WORDS)
}

/// Words of the header.
#[derive(Clone, Copy)]
pub(super) enum Header {
    Magic = 0,
    /// One past the highest lane ever used: sums stop there.
    LanesUsed = 1,
    SlotsUsed = 2,
    HistogramsUsed = 3,
    PeersUsed = 4,
    DetailsUsed = 5,
    /// The last generation whose checks have begun.
    ChecksBegun = 6,
    /// The first of four words that nobody outside knows, the same in an upgraded binary.
    Secret = 8,
}

/// The words of the secret.
const SECRET_WORDS: usize = 4;

pub(super) struct Area {
    zone: Zone,
}

static AREA: OnceLock<Area> = OnceLock::new();

/// Maps the area, or adopts that of an older binary. The master calls it before anything counts.
///
/// Fails when there is no memory, or when the descriptor has another layout; the caller may then open a fresh
/// area. If an area is open already, it stays.
pub fn open(adopted: Option<OwnedFd>) -> io::Result<()> {
    if AREA.get().is_some() {
        return Ok(());
    }
    let area = Area::new(match adopted {
        Some(fd) => Zone::adopt(fd)?,
        None => Zone::map(BYTES)?,
    })?;
    // Only tests can get here with two threads at once; the second one's empty area is dropped.
    let _ = AREA.set(area);
    Ok(())
}

/// The descriptor to pass to `open` in a new binary.
pub fn as_fd() -> BorrowedFd<'static> {
    area().zone.as_fd()
}

/// A secret that the processes of this server share, of an older and a newer binary too. All workers can read it.
pub fn secret() -> [u8; SECRET_WORDS * 8] {
    let words = &area().zone.words()[Header::Secret as usize..][..SECRET_WORDS];
    let mut bytes = [0; SECRET_WORDS * 8];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    bytes
}

/// Number of bytes of the area that are in memory.
pub fn resident_bytes() -> io::Result<u64> {
    area().zone.resident_bytes()
}

/// The area; mapped on first use if `open` was not called, as in tests.
#[inline]
pub(super) fn area() -> &'static Area {
    AREA.get_or_init(|| {
        let zone = Zone::map(BYTES).expect("shared memory for the counters can be mapped");
        Area::new(zone).expect("a fresh zone has the size it was made with")
    })
}

impl Area {
    pub(super) fn new(zone: Zone) -> io::Result<Area> {
        let refused = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        if zone.words().len() < END {
            return Err(refused("shared memory of another size"));
        }
        let magic = &zone.words()[Header::Magic as usize];
        match magic.compare_exchange(0, MAGIC, Relaxed, Relaxed) {
            Ok(_) | Err(MAGIC) => {
                for word in &zone.words()[Header::Secret as usize..][..SECRET_WORDS] {
                    // An older binary has left none.
                    let _ = word.compare_exchange(0, random::number() | 1, Relaxed, Relaxed);
                }
                Ok(Area { zone })
            }
            Err(_) => Err(refused("shared memory of another version")),
        }
    }

    #[cfg(test)]
    pub(super) fn fresh() -> Area {
        Area::new(Zone::map(BYTES).expect("maps")).expect("fits")
    }

    pub(super) fn header(&self, word: Header) -> &'static AtomicU64 {
        &self.zone.words()[word as usize]
    }

    /// The words of a lane, in the order that `lanes` documents.
    #[inline]
    pub(super) fn lane(&self, lane: usize) -> &'static [AtomicU64; LANE_WORDS] {
        self.block(LANES_AT + lane % LANES * LANE_WORDS)
    }

    pub(super) fn slot_name(&self, slot: usize) -> &'static AtomicU64 {
        &self.zone.words()[SLOT_NAMES_AT + slot % SLOTS]
    }

    /// The first word of a slot, for [`Area::counter`].
    #[inline]
    pub(super) fn slot_at(slot: usize) -> usize {
        SLOTS_AT + slot % SLOTS * SLOT_WORDS
    }

    pub(super) fn slot(&self, slot: usize) -> &'static [AtomicU64; SLOT_WORDS] {
        self.block(Self::slot_at(slot))
    }

    /// Any word; `None`: there are not so many.
    #[inline]
    pub(super) fn word(&self, at: usize) -> Option<&'static AtomicU64> {
        self.zone.words().get(at)
    }

    /// A word of a slot, a detail or a histogram; `None`: it is none of these.
    #[inline]
    pub(super) fn counter(&self, at: usize) -> Option<&'static AtomicU64> {
        let counters = [SLOTS_AT..PEER_NAMES_AT, HISTOGRAMS_AT..DETAIL_NAMES_AT, DETAILS_AT..STATUSES_AT];
        counters.iter().any(|part| part.contains(&at)).then(|| &self.zone.words()[at])
    }

    /// The counts that the process of `lane` has taken in its present turn.
    pub(super) fn pending(&self, lane: usize) -> &'static pending::Words {
        self.block(PENDING_AT + lane % LANES * PENDING_WORDS)
    }

    pub(super) fn peer_name(&self, peer: usize) -> &'static AtomicU64 {
        &self.zone.words()[PEER_NAMES_AT + peer % PEERS]
    }

    pub(super) fn peer(&self, peer: usize) -> &'static [AtomicU64; PEER_WORDS] {
        self.block(PEERS_AT + peer % PEERS * PEER_WORDS)
    }

    /// The counts of the statuses that a peer has sent.
    pub(super) fn peer_statuses(&self, peer: usize) -> &'static [AtomicU64; STATUS_WORDS] {
        self.block(STATUSES_AT + peer % PEERS * STATUS_WORDS)
    }

    /// The number of connections to `peer` in use by the process of `lane`.
    #[inline]
    pub(super) fn in_use(&self, lane: usize, peer: usize) -> &'static AtomicU32 {
        let word = IN_USE_AT + lane % LANES * ROW_WORDS + peer % PEERS / 2;
        let pair = self.zone.halves(word..word + 1).expect("the plan lies inside the zone");
        &pair[peer % 2]
    }

    /// The numbers of connections to all peers in use by the process of `lane`.
    #[inline]
    pub(super) fn all_in_use(&self, lane: usize) -> &'static [AtomicU32] {
        let start = IN_USE_AT + lane % LANES * ROW_WORDS;
        self.zone.halves(start..start + ROW_WORDS).expect("the plan lies inside the zone")
    }

    /// The part of the process of `lane` in one of the two gauges of a slot.
    #[inline]
    pub(super) fn gauge(&self, lane: usize, slot: usize, half: usize) -> &'static AtomicU32 {
        let word = GAUGES_AT + lane % LANES * GAUGE_ROW_WORDS + slot % SLOTS;
        let pair = self.zone.halves(word..word + 1).expect("the plan lies inside the zone");
        &pair[half % 2]
    }

    /// Zeroes all of a lane's counts of connections in use and its gauges, and gives their memory back.
    pub(super) fn clear_row(&self, lane: usize) -> io::Result<()> {
        let rows = [(IN_USE_AT, ROW_WORDS), (GAUGES_AT, GAUGE_ROW_WORDS)];
        rows.into_iter().try_for_each(|(at, words)| {
            let start = at + lane % LANES * words;
            self.zone.clear(start..start + words)
        })
    }

    pub(super) fn histogram_name(&self, histogram: usize) -> &'static AtomicU64 {
        &self.zone.words()[HISTOGRAM_NAMES_AT + histogram % HISTOGRAMS]
    }

    #[inline]
    pub(super) fn histogram(&self, histogram: usize, stripe: usize) -> &'static [AtomicU64; HISTOGRAM_WORDS] {
        self.block(Self::histogram_at(histogram, stripe))
    }

    /// The first word of a histogram's stripe, for [`Area::counter`].
    #[inline]
    pub(super) fn histogram_at(histogram: usize, stripe: usize) -> usize {
        match histogram.checked_sub(HISTOGRAMS) {
            None => HISTOGRAMS_AT + (histogram * STRIPES + stripe % STRIPES) * HISTOGRAM_WORDS,
            Some(of_detail) => {
                let at = of_detail % (DETAILS * TIMES) * DETAIL_STRIPES + stripe % DETAIL_STRIPES;
                DETAIL_HISTOGRAMS_AT + at * HISTOGRAM_WORDS
            }
        }
    }

    /// The number of stripes of a histogram.
    pub(super) fn stripes(histogram: usize) -> usize {
        if histogram < HISTOGRAMS { STRIPES } else { DETAIL_STRIPES }
    }

    pub(super) fn detail_name(&self, detail: usize) -> &'static AtomicU64 {
        &self.zone.words()[DETAIL_NAMES_AT + detail % DETAILS]
    }

    /// The first word of a detail, for [`Area::counter`].
    pub(super) fn detail_at(detail: usize) -> usize {
        DETAILS_AT + detail % DETAILS * DETAIL_WORDS
    }

    pub(super) fn detail(&self, detail: usize) -> &'static [AtomicU64; DETAIL_WORDS] {
        self.block(Self::detail_at(detail))
    }

    /// Zeroes the words and the histograms of a detail, and gives their memory back.
    pub(super) fn clear_detail(&self, detail: usize) -> io::Result<()> {
        let detail = detail % DETAILS;
        let words = DETAILS_AT + detail * DETAIL_WORDS;
        let times = DETAIL_HISTOGRAMS_AT + detail * TIMES * DETAIL_HISTOGRAM_WORDS;
        self.zone.clear(words..words + DETAIL_WORDS)?;
        self.zone.clear(times..times + TIMES * DETAIL_HISTOGRAM_WORDS)
    }

    #[inline]
    fn block<const N: usize>(&self, start: usize) -> &'static [AtomicU64; N] {
        let words: &'static [AtomicU64] = self.zone.words();
        words[start..start + N].try_into().expect("a range of N words")
    }

    #[cfg(test)]
    pub(super) fn zone(&self) -> &Zone {
        &self.zone
    }
}

/// The fingerprint of a name: FNV-1a with a final mix; never 0, which means "free". It must be equal in every
/// build, since a new binary finds by it the counters of the old one; std's hashers promise no such
/// stability.
pub(super) fn fingerprint(kind: u8, name: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in [kind].iter().chain(name) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash ^ (hash >> 29)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_the_last_word_is_inside() {
        let area = Area::fresh();
        area.lane(LANES - 1)[LANE_WORDS - 1].store(1, Relaxed);
        area.slot_name(SLOTS - 1).store(2, Relaxed);
        area.slot(SLOTS - 1)[SLOT_WORDS - 1].store(3, Relaxed);
        area.in_use(LANES - 1, PEERS - 1).store(4, Relaxed);
        area.peer_name(PEERS - 1).store(7, Relaxed);
        area.peer(PEERS - 1)[PEER_WORDS - 1].store(8, Relaxed);
        area.histogram_name(HISTOGRAMS - 1).store(5, Relaxed);
        area.histogram(HISTOGRAMS - 1, STRIPES - 1)[HISTOGRAM_WORDS - 1].store(6, Relaxed);
        area.detail_name(DETAILS - 1).store(9, Relaxed);
        area.detail(DETAILS - 1)[DETAIL_WORDS - 1].store(10, Relaxed);
        area.histogram(HISTOGRAMS, 0)[0].store(11, Relaxed);
        area.pending(LANES - 1)[pending::WORDS - 1].store(13, Relaxed);
        area.gauge(LANES - 1, SLOTS - 1, 1).store(14, Relaxed);
        area.histogram(HISTOGRAMS + DETAILS * TIMES - 1, DETAIL_STRIPES - 1)[HISTOGRAM_WORDS - 1]
            .store(12, Relaxed);
        assert_eq!(area.lane(LANES - 1)[LANE_WORDS - 1].load(Relaxed), 1);
        assert_eq!(area.slot_name(SLOTS - 1).load(Relaxed), 2);
        assert_eq!(area.slot(SLOTS - 1)[SLOT_WORDS - 1].load(Relaxed), 3);
        assert_eq!(area.in_use(LANES - 1, PEERS - 1).load(Relaxed), 4);
        assert_eq!(area.in_use(LANES - 1, PEERS - 2).load(Relaxed), 0);
        assert_eq!(area.peer_name(PEERS - 1).load(Relaxed), 7);
        assert_eq!(area.peer(PEERS - 1)[PEER_WORDS - 1].load(Relaxed), 8);
        assert_eq!(area.histogram_name(HISTOGRAMS - 1).load(Relaxed), 5);
        assert_eq!(area.histogram(HISTOGRAMS - 1, STRIPES - 1)[HISTOGRAM_WORDS - 1].load(Relaxed), 6);
        assert_eq!(area.detail_name(DETAILS - 1).load(Relaxed), 9);
        assert_eq!(area.detail(DETAILS - 1)[DETAIL_WORDS - 1].load(Relaxed), 10);
        assert_eq!(area.histogram(HISTOGRAMS, 0)[0].load(Relaxed), 11);
    }

    #[test]
    fn another_plan_is_refused() {
        assert!(Area::new(Zone::map(4096).expect("maps")).is_err());
        let zone = Zone::map(BYTES).expect("maps");
        zone.words()[0].store(MAGIC + 1, Relaxed);
        assert!(Area::new(zone).is_err());
    }

    #[test]
    fn an_adopted_area_has_the_same_words() {
        let area = Area::fresh();
        area.lane(3)[0].store(77, Relaxed);
        let fd = area.zone().as_fd().try_clone_to_owned().expect("dup");
        let other = Area::new(Zone::adopt(fd).expect("adopts")).expect("same plan");
        assert_eq!(other.lane(3)[0].load(Relaxed), 77);
    }

    #[test]
    fn fingerprints_tell_kinds_and_names_apart() {
        assert_ne!(fingerprint(0, b"a"), fingerprint(1, b"a"));
        assert_ne!(fingerprint(0, b"ab"), fingerprint(0, b"ba"));
        let all: std::collections::HashSet<u64> =
            (0..100_000).map(|n| fingerprint(0, format!("host{n}.example.com").as_bytes())).collect();
        assert_eq!(all.len(), 100_000);
    }
}
