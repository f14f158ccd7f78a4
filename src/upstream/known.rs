//! The last known addresses of names, for new workers: those of a new generation, and those that replace a
//! dead one.
//!
//! The prober reports each change to the master (`worker/messages.rs`), which tells all workers; those forked later,
//! and the next prober, inherit this memory. So a reload while the name servers are down continues with the previous
//! addresses. Names come only from the master's own configuration, and the reports of a prober that has broken a rule
//! are forgotten with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::Address;
use crate::shm::counter::{self, Slot};
use crate::shm::peers;

/// Maximum number of addresses of one name: as many as fit into a message.
pub const SPOTS_MAX: usize = 100;
/// Maximum number of addresses with counters of their own, those included that names have had since the last reload: a
/// quarter of the table, so that names whose addresses change all the time leave room for servers of configurations.
const COUNTED_MAX: usize = 16_384;
/// Maximum number of probers whose reports about one name are kept; the latest counts.
const TELLERS_MAX: usize = 4;

/// One address of a server, with the parameters of its SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub address: Address,
    /// Replaces the weight of the server's line.
    pub weight: Option<u16>,
    /// Makes it a backup, as does `backup` on the server's line.
    pub is_backup: bool,
    /// The numbers of its counters and of its place in shared memory, which the master assigns.
    pub slot: Option<u32>,
    pub place: Option<u32>,
}

impl From<Address> for Spot {
    fn from(address: Address) -> Self {
        Self { address, weight: None, is_backup: false, slot: None, place: None }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// The reports of probers about each name, the latest last.
    tellings: HashMap<String, Vec<Telling>>,
    /// The slots and places in shared memory of addresses that were reported.
    slots: InUse,
    places: InUse,
}

/// Numbers of slots or places, each with the last generation that may use it.
#[derive(Debug, Default)]
struct InUse(HashMap<u32, u64>);

impl InUse {
    fn note(&mut self, numbers: impl Iterator<Item = u32>, generation: u64) {
        self.0.extend(numbers.map(|number| (number, generation)));
    }

    /// Those that this generation or later ones may use, or that are present. Others are forgotten.
    fn keep(&mut self, present: &HashSet<u32>, generation: u64) -> Vec<u32> {
        self.0.retain(|number, last| *last >= generation || present.contains(number));
        self.0.keys().copied().collect()
    }
}

#[derive(Debug)]
struct Telling {
    /// The prober's process id; `None` once it has exited properly.
    teller: Option<i32>,
    spots: Vec<Spot>,
}

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last known addresses of a name.
pub fn recall(key: &str) -> Option<Vec<Spot>> {
    known().as_ref()?.recall(key)
}

/// Records the addresses of a name as reported by a prober. The master calls it, and has checked the name.
/// False if they are not news. `generation`: that of the workers that are told.
pub fn remember(key: &str, spots: &[Spot], teller: i32, generation: u64) -> bool {
    known().get_or_insert_default().remember(key, spots, teller, generation)
}

/// The slots and places of the addresses that workers of this generation may use, for `shm::counter::sweep` and
/// `shm::peers::sweep`. Others are forgotten.
pub fn in_use(generation: u64) -> (Vec<u32>, Vec<u32>) {
    known().as_mut().map(|known| known.in_use(generation)).unwrap_or_default()
}

/// Gives each address of a name its counters, and, if its group needs that, its place in shared memory, as far as there is
/// room. For the process that assigns them.
pub fn place(key: &str, group: &str, is_placed: bool, spots: &mut [Spot]) {
    let (before, count) = match &*known() {
        Some(known) => (known.recall(key).unwrap_or_default(), known.slots.0.len()),
        None => (Vec::new(), 0),
    };
    let mut room = COUNTED_MAX.saturating_sub(count);
    for spot in spots {
        let peer = peers::full_name(group, &spot.address);
        spot.place = is_placed.then(|| peers::place(&peer)).flatten().map(|place| place.index());
        let had = before.iter().find(|old| old.address == spot.address).and_then(|old| old.slot);
        spot.slot = had.or_else(|| {
            room = room.checked_sub(1)?;
            counter::slot(counter::Kind::Peer, &peer).map(Slot::index)
        });
    }
}

/// Notes that a prober has ended. If it is not trusted its reports are forgotten, and those of others count again.
pub fn end(teller: i32, is_trusted: bool) {
    if let Some(known) = known().as_mut() {
        known.end(teller, is_trusted);
    }
}

/// Forgets the names that are no longer in the configuration.
pub fn retain(keys: &HashSet<String>) {
    if let Some(known) = known().as_mut() {
        known.tellings.retain(|key, _| keys.contains(key));
    }
}

impl Known {
    fn recall(&self, key: &str) -> Option<Vec<Spot>> {
        Some(self.tellings.get(key)?.last()?.spots.clone())
    }

    fn in_use(&mut self, generation: u64) -> (Vec<u32>, Vec<u32>) {
        let latest = self.tellings.values().filter_map(|tellings| tellings.last());
        let spots = latest.flat_map(|telling| &telling.spots);
        let slots = spots.clone().filter_map(|spot| spot.slot).collect();
        let places = spots.filter_map(|spot| spot.place).collect();
        (self.slots.keep(&slots, generation), self.places.keep(&places, generation))
    }

    fn remember(&mut self, key: &str, spots: &[Spot], teller: i32, generation: u64) -> bool {
        let spots = &spots[..spots.len().min(SPOTS_MAX)];
        self.slots.note(spots.iter().filter_map(|spot| spot.slot), generation);
        self.places.note(spots.iter().filter_map(|spot| spot.place), generation);
        let tellings = self.tellings.entry(key.to_owned()).or_default();
        let is_news = tellings.last().is_none_or(|latest| latest.spots != spots);
        tellings.retain(|telling| telling.teller != Some(teller));
        if tellings.len() == TELLERS_MAX {
            tellings.remove(0);
        }
        tellings.push(Telling { teller: Some(teller), spots: spots.to_vec() });
        is_news
    }

    fn end(&mut self, teller: i32, is_trusted: bool) {
        self.tellings.retain(|_, tellings| {
            if is_trusted {
                let own = tellings.iter_mut().filter(|telling| telling.teller == Some(teller));
                own.for_each(|telling| telling.teller = None);
            } else {
                tellings.retain(|telling| telling.teller != Some(teller));
            }
            !tellings.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spots(texts: &[&str]) -> Vec<Spot> {
        texts.iter().map(|text| Spot::from(Address::Inet(text.parse().expect("an address")))).collect()
    }

    #[test]
    fn what_a_prober_tells_the_next_process_knows() {
        let (first, second) = (spots(&["10.0.0.1:80"]), spots(&["10.0.0.2:80", "[fe80::1]:80"]));
        let mut known = Known::default();
        assert_eq!(known.recall("group a.test"), None);
        assert!(known.remember("group a.test", &first, 7, 1));
        assert!(!known.remember("group a.test", &first, 8, 1), "no news");
        assert!(known.remember("group a.test", &second, 7, 1));
        assert_eq!(known.recall("group a.test"), Some(second));
        known.remember("group a.test", &[], 8, 1);
        assert_eq!(known.recall("group a.test"), Some(Vec::new()), "it does not exist any more");
    }

    #[test]
    fn the_words_of_a_prober_that_went_wrong_are_forgotten() {
        let (good, evil) = (spots(&["10.0.0.1:80"]), spots(&["10.6.6.6:80"]));
        let mut known = Known::default();
        known.remember("a", &good, 7, 1);
        known.remember("a", &evil, 8, 1);
        known.remember("b", &evil, 8, 1);
        assert_eq!(known.recall("a"), Some(evil.clone()));
        known.end(8, false);
        assert_eq!((known.recall("a"), known.recall("b")), (Some(good.clone()), None));
        known.end(7, true);
        known.end(7, false);
        assert_eq!(known.recall("a"), Some(good), "another process of that number by now");
    }

    #[test]
    fn little_is_kept_however_many_tell() {
        let mut known = Known::default();
        let many = vec![spots(&["10.0.0.1:80"]).remove(0); 1000];
        assert_eq!(
            (0..100).filter(|teller| known.remember("a", &many, *teller, 1)).count(),
            1,
            "the first is news"
        );
        assert_eq!(known.tellings["a"].len(), TELLERS_MAX);
        assert_eq!(known.recall("a").map(|spots| spots.len()), Some(SPOTS_MAX));
    }

    #[test]
    fn slots_and_places_are_kept_while_somebody_may_use_them() {
        let placed = |text: &str, number| {
            vec![Spot { slot: Some(number + 100), place: Some(number), ..spots(&[text]).remove(0) }]
        };
        let mut known = Known::default();
        known.remember("a", &placed("10.0.0.1:80", 5), 7, 1);
        known.remember("a", &placed("10.0.0.2:80", 6), 7, 1);
        let mut kept = |generation| {
            let (mut slots, mut places) = known.in_use(generation);
            slots.sort_unstable();
            places.sort_unstable();
            (slots, places)
        };
        let both = (vec![105, 106], vec![5, 6]);
        assert_eq!(kept(1), both, "requests of this generation may use the first one");
        assert_eq!(kept(2), (vec![106], vec![6]));
        assert_eq!(kept(3), (vec![106], vec![6]), "it is in use");
    }

    #[test]
    fn addresses_that_come_and_go_use_up_a_part_of_the_counters_only() {
        let (key, group) = ("known.test a", "known.test");
        let mut first = spots(&["10.9.0.1:80"]);
        place(key, group, true, &mut first);
        assert!(first[0].slot.is_some() && first[0].place.is_some());
        remember(key, &first, 7, 1);
        known().get_or_insert_default().slots.note(1_000_000..1_000_000 + COUNTED_MAX as u32, 1);
        let mut next = spots(&["10.9.0.2:80", "10.9.0.1:80"]);
        place(key, group, false, &mut next);
        let slots: Vec<_> = next.iter().map(|spot| spot.slot).collect();
        assert_eq!(slots, [None, first[0].slot], "it keeps the counters that it has");
        assert!(next.iter().all(|spot| spot.place.is_none()));
        known().get_or_insert_default().slots.0.clear();
        place(key, group, false, &mut next);
        assert!(next.iter().all(|spot| spot.slot.is_some()));
    }
}
