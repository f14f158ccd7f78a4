//! Zones whose requests or sessions are counted together (`status_zone`).
//!
//! A zone is found again by the next configuration by its place and name. Touches: the counters in shared memory.
//! Behaviour: nginx.org, ngx_http_api_module, `status_zone`.

use crate::log;
use crate::shm::counter::{self, Kind, Slot};

/// The kind of blocks that a zone counts; the same name is another zone in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Server,
    Location,
    Stream,
    /// The lookups of a `resolver`; a name is one zone for all language parts.
    Resolver,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Location => "location",
            Self::Stream => "stream",
            Self::Resolver => "resolver",
        }
    }
}

#[derive(Debug)]
pub struct Zone {
    pub place: Place,
    pub name: Box<str>,
    pub slot: Slot,
}

/// The zones of a configuration's part.
#[derive(Debug, Default)]
pub struct Zones(Vec<Zone>);

impl Zones {
    /// The counters of a zone. `None`: this is a test of the configuration, or no room is left, which is logged.
    pub fn named(&mut self, place: Place, name: &str, is_test: bool) -> Option<Slot> {
        if let Some(zone) = self.0.iter().find(|zone| zone.place == place && *zone.name == *name) {
            return Some(zone.slot);
        }
        if is_test {
            return None;
        }
        let kind = match place {
            Place::Server | Place::Stream => Kind::Zone,
            Place::Location => Kind::Location,
            Place::Resolver => Kind::Resolver,
        };
        let slot = counter::slot(kind, &format!("{} {name}", place.name()));
        if place != Place::Resolver && slot.and_then(Slot::detail).is_none() {
            let what = "there is no room for all counts of status_zone";
            log::warn!(
                log::process(),
                &(),
                "{what} \"{name}\": 1,024 zones and upstreams are counted in detail"
            );
        }
        let slot = slot?;
        self.0.push(Zone { place, name: name.into(), slot });
        Some(slot)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.0.iter()
    }
}
