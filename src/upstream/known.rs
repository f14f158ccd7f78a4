//! The last known addresses of names, for new workers: those of a new generation, and those that replace a
//! dead one.
//!
//! Workers report each change to the master (`worker/messages.rs`), and every worker forked later inherits
//! this memory. So a reload while the name servers are down continues with the previous addresses. Names come
//! only from the master's own configuration, and the reports of a worker that did not exit properly are
//! forgotten with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::Address;

/// Maximum number of addresses of one name: as many as fit into a message.
pub const SPOTS_MAX: usize = 100;
/// Maximum number of workers whose reports about one name are kept; the latest counts.
const TELLERS_MAX: usize = 4;

/// One address of a server, with the parameters of its SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub address: Address,
    /// Replaces the weight of the server's line.
    pub weight: Option<u16>,
    /// Makes it a backup, as does `backup` on the server's line.
    pub is_backup: bool,
}

impl From<Address> for Spot {
    fn from(address: Address) -> Self {
        Self { address, weight: None, is_backup: false }
    }
}

/// The reports of workers about each name, the latest last.
#[derive(Debug, Default)]
struct Known(HashMap<String, Vec<Telling>>);

#[derive(Debug)]
struct Telling {
    /// The worker's process id; `None` once it has exited properly.
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

/// Records the addresses of a name as reported by a worker. The master calls it, and has checked the name.
/// False if they are not news.
pub fn remember(key: &str, spots: &[Spot], teller: i32) -> bool {
    known().get_or_insert_default().remember(key, spots, teller)
}

/// Notes that a worker has ended. `is_trusted`: it exited properly; otherwise its reports are forgotten, and
/// those of other workers count again.
pub fn end(teller: i32, is_trusted: bool) {
    if let Some(known) = known().as_mut() {
        known.end(teller, is_trusted);
    }
}

/// Forgets the names that are no longer in the configuration.
pub fn retain(keys: &HashSet<String>) {
    if let Some(known) = known().as_mut() {
        known.0.retain(|key, _| keys.contains(key));
    }
}

impl Known {
    fn recall(&self, key: &str) -> Option<Vec<Spot>> {
        let latest = self.0.get(key)?.last()?;
        // A name that no longer exists has no addresses, and those are of no use to a new worker.
        Some(latest.spots.clone()).filter(|spots| !spots.is_empty())
    }

    fn remember(&mut self, key: &str, spots: &[Spot], teller: i32) -> bool {
        let spots = &spots[..spots.len().min(SPOTS_MAX)];
        let tellings = self.0.entry(key.to_owned()).or_default();
        let is_news = tellings.last().is_none_or(|latest| latest.spots != spots);
        tellings.retain(|telling| telling.teller != Some(teller));
        if tellings.len() == TELLERS_MAX {
            tellings.remove(0);
        }
        tellings.push(Telling { teller: Some(teller), spots: spots.to_vec() });
        is_news
    }

    fn end(&mut self, teller: i32, is_trusted: bool) {
        self.0.retain(|_, tellings| {
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
    fn what_a_worker_tells_the_next_one_knows() {
        let (first, second) = (spots(&["10.0.0.1:80"]), spots(&["10.0.0.2:80", "[fe80::1]:80"]));
        let mut known = Known::default();
        assert_eq!(known.recall("group a.test"), None);
        assert!(known.remember("group a.test", &first, 7));
        assert!(!known.remember("group a.test", &first, 8), "no news");
        assert!(known.remember("group a.test", &second, 7));
        assert_eq!(known.recall("group a.test"), Some(second));
        known.remember("group a.test", &[], 8);
        assert_eq!(known.recall("group a.test"), None, "it does not exist any more");
    }

    #[test]
    fn the_words_of_a_worker_that_went_wrong_are_forgotten() {
        let (good, evil) = (spots(&["10.0.0.1:80"]), spots(&["10.6.6.6:80"]));
        let mut known = Known::default();
        known.remember("a", &good, 7);
        known.remember("a", &evil, 8);
        known.remember("b", &evil, 8);
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
            (0..100).filter(|teller| known.remember("a", &many, *teller)).count(),
            1,
            "the first is news"
        );
        assert_eq!(known.0["a"].len(), TELLERS_MAX);
        assert_eq!(known.recall("a").map(|spots| spots.len()), Some(SPOTS_MAX));
    }
}
