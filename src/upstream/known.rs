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
use crate::shm::peers;

/// Maximum number of addresses of one name: as many as fit into a message.
pub const SPOTS_MAX: usize = 100;
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
    /// The number of its place in shared memory, which the master assigns.
    pub place: Option<u32>,
}

impl From<Address> for Spot {
    fn from(address: Address) -> Self {
        Self { address, weight: None, is_backup: false, place: None }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// The reports of probers about each name, the latest last.
    tellings: HashMap<String, Vec<Telling>>,
    /// The places in shared memory of addresses that were reported, by the generation that may still use them.
    places: HashMap<u32, u64>,
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

/// The places of the addresses that workers of this generation may use, for `shm::peers::sweep`. Others are forgotten.
pub fn places(generation: u64) -> Vec<u32> {
    known().as_mut().map(|known| known.places(generation)).unwrap_or_default()
}

/// Gives each address its place in shared memory, if there is room. For the process that assigns places.
pub fn place(group: &str, spots: &mut [Spot]) {
    for spot in spots {
        spot.place = peers::place(group, &spot.address.to_string()).map(|place| place.index());
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

    fn places(&mut self, generation: u64) -> Vec<u32> {
        let latest = self.tellings.values().filter_map(|tellings| tellings.last());
        let present: HashSet<u32> =
            latest.flat_map(|telling| &telling.spots).filter_map(|spot| spot.place).collect();
        self.places.retain(|place, last| *last >= generation || present.contains(place));
        self.places.keys().copied().collect()
    }

    fn remember(&mut self, key: &str, spots: &[Spot], teller: i32, generation: u64) -> bool {
        let spots = &spots[..spots.len().min(SPOTS_MAX)];
        let placed = spots.iter().filter_map(|spot| spot.place);
        self.places.extend(placed.map(|place| (place, generation)));
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
    fn places_are_kept_while_somebody_may_use_them() {
        let placed = |text: &str, place| vec![Spot { place: Some(place), ..spots(&[text]).remove(0) }];
        let mut known = Known::default();
        known.remember("a", &placed("10.0.0.1:80", 5), 7, 1);
        known.remember("a", &placed("10.0.0.2:80", 6), 7, 1);
        let sorted = |mut places: Vec<u32>| {
            places.sort_unstable();
            places
        };
        assert_eq!(sorted(known.places(1)), [5, 6], "requests of this generation may use the first one");
        assert_eq!(sorted(known.places(2)), [6]);
        assert_eq!(sorted(known.places(3)), [6], "it is in use");
    }
}
