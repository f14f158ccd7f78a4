//! Zones that a configuration names. A reload finds them again, and so does a new binary that adopts their
//! descriptors.
//!
//! Only the master knows names, as fingerprints; a worker has the zones of its configuration. A zone that is
//! no longer named gives its memory back, and its address range to the next zone of its size.

use std::collections::HashSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::area::fingerprint;
use super::held_counts;
use super::zone::Zone;

/// The kind byte of the names of zones, which no counter has.
const KIND: u8 = 0xff;

/// A zone that a configuration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The fingerprint of its name.
    pub name: u64,
    pub bytes: usize,
}

struct Named {
    /// Fingerprint of the name; 0: free.
    name: u64,
    zone: &'static Zone,
}

#[derive(Default)]
struct Zones(Vec<Named>);

static ZONES: Mutex<Zones> = Mutex::new(Zones(Vec::new()));

/// The fingerprint of a zone's name, for [`sweep`].
pub fn name(text: &str) -> u64 {
    fingerprint(KIND, text.as_bytes())
}

/// The zone of this name, mapped now if there is none. A name whose size has grown gets another zone.
///
/// For the master while it compiles a configuration. Fails when there is no memory.
pub fn zone(name: u64, bytes: usize) -> io::Result<&'static Zone> {
    lock().find(name, bytes)
}

/// Takes a zone over from an older binary. Fails when the descriptor is not one of our zones.
pub fn adopt(name: u64, fd: OwnedFd) -> io::Result<()> {
    lock().adopt(name, fd)
}

/// Every zone with its name, to be passed to a new binary.
pub fn all() -> Vec<(u64, BorrowedFd<'static>)> {
    lock().0.iter().filter(|named| named.name != 0).map(|named| (named.name, named.zone.as_fd())).collect()
}

/// The bytes of a zone that are in memory, and its size; `None`: there is no such zone.
pub fn usage(name: u64) -> Option<(u64, u64)> {
    let zones = lock();
    let zone = zones.0.iter().find(|named| named.name == name)?.zone;
    Some((zone.resident_bytes().ok()?, zone.bytes() as u64))
}

/// Empties the zones that no configuration names any more. Call it only when no worker of an older one is
/// alive.
pub fn sweep(live: &HashSet<u64>) {
    lock().sweep(live);
}

fn lock() -> MutexGuard<'static, Zones> {
    ZONES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Zones {
    fn find(&mut self, name: u64, bytes: usize) -> io::Result<&'static Zone> {
        if let Some(named) = self.0.iter().find(|named| named.name == name && named.zone.bytes() >= bytes) {
            return Ok(named.zone);
        }
        let is_free =
            |named: &&mut Named| named.name == 0 && (bytes..=bytes * 2).contains(&named.zone.bytes());
        if let Some(named) = self.0.iter_mut().find(is_free) {
            named.name = name;
            return Ok(named.zone);
        }
        let zone: &'static Zone = Box::leak(Box::new(Zone::map(bytes)?));
        self.0.push(Named { name, zone });
        Ok(zone)
    }

    fn adopt(&mut self, name: u64, fd: OwnedFd) -> io::Result<()> {
        let zone: &'static Zone = Box::leak(Box::new(Zone::adopt(fd)?));
        self.0.push(Named { name, zone });
        Ok(())
    }

    fn sweep(&mut self, live: &HashSet<u64>) {
        for named in self.0.iter_mut().filter(|named| named.name != 0 && !live.contains(&named.name)) {
            held_counts::forget(named.zone);
            // If the kernel cannot punch holes, the zone is never used again.
            if named.zone.clear(0..named.zone.words().len()).is_ok() {
                named.name = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn a_name_keeps_its_zone_until_it_is_swept() {
        let mut zones = Zones::default();
        let first = zones.find(1, 4096).expect("maps");
        first.words()[7].store(7, Relaxed);
        assert!(std::ptr::eq(zones.find(1, 4096).expect("found"), first));
        let second = zones.find(2, 4096).expect("maps");
        assert!(!std::ptr::eq(first, second));
        assert!(!std::ptr::eq(zones.find(1, 1 << 20).expect("larger: another one"), first));
        zones.sweep(&HashSet::from([2]));
        assert_eq!(first.words()[7].load(Relaxed), 0);
        assert!(std::ptr::eq(zones.find(4, 4096).expect("used again"), first));
        assert!(std::ptr::eq(zones.find(2, 4096).expect("kept"), second));
    }

    #[test]
    fn an_adopted_zone_has_the_words_of_the_other_binary() {
        let (mut old, mut new) = (Zones::default(), Zones::default());
        old.find(5, 4096).expect("maps").words()[7].store(7, Relaxed);
        let fd = old.0[0].zone.as_fd().try_clone_to_owned().expect("dup");
        new.adopt(5, fd).expect("one of ours");
        assert_eq!(new.find(5, 4096).expect("adopted").words()[7].load(Relaxed), 7);
        assert_ne!(name("a"), name("b"));
    }
}
