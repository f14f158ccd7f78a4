//! Sessions with upstreams: `proxy_ssl_session_reuse`.
//!
//! Each worker keeps those of each set of TLS settings apart, so no session is used again under another
//! client certificate or another rule for the upstream's; and those of each peer, since a group's servers
//! share a name, but seldom their sessions. Touches: nothing but memory.
//! Behaviour: nginx.org, `proxy_ssl_session_reuse`; RFC 8446 §4.6.1 and appendix C.4.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets of TLS 1.3 that are kept for one peer: each resumes once, and a server sends two or so at a time.
const TICKETS_MAX: usize = 8;

/// The sessions of one set of TLS settings in this worker. A clone is the same store.
///
/// A session has a few hundred bytes and the server's certificates, so a place has some 30 KiB at most when a
/// server with long chains sends many tickets.
#[derive(Clone)]
pub struct ClientSessions {
    places: Arc<Mutex<Places>>,
}

/// The sessions with one peer, for the `ClientConfig` of its connections: a clone of the one of these
/// settings, with this as its `resumption`. (rustls uses no session again under another verifier or other
/// credentials, which it compares by their address, so a config must be cloned rather than built anew.)
#[derive(Clone)]
pub struct PeerSessions {
    peer: Arc<str>,
    places: Arc<Mutex<Places>>,
}

type Name = (Arc<str>, ServerName<'static>);

struct Places {
    by_name: HashMap<Name, Place>,
    max: usize,
    /// Counts the uses of places.
    uses: u64,
}

#[derive(Default)]
struct Place {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// The oldest first.
    tls13: VecDeque<Tls13ClientSessionValue>,
    /// The number of its last use.
    used: u64,
}

impl ClientSessions {
    /// Room for `max` peers and names; beyond that the one that was unused for the longest time is forgotten.
    pub fn new(max: usize) -> Self {
        Self { places: Arc::new(Mutex::new(Places { by_name: HashMap::new(), max: max.max(1), uses: 0 })) }
    }

    /// The store of a peer, which is named by its address.
    pub fn of(&self, peer: &str) -> PeerSessions {
        PeerSessions { peer: peer.into(), places: self.places.clone() }
    }
}

impl PeerSessions {
    /// Looks at the place of a name; `None` if there is none.
    fn look<T>(&self, name: &ServerName<'_>, look: impl FnOnce(&mut Place) -> Option<T>) -> Option<T> {
        look(self.places().get(&(self.peer.clone(), name.to_owned()))?)
    }

    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut Place)) {
        change(self.places().get_or_make((self.peer.clone(), name)));
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn get(&mut self, name: &Name) -> Option<&mut Place> {
        self.uses += 1;
        let place = self.by_name.get_mut(name)?;
        place.used = self.uses;
        Some(place)
    }

    fn get_or_make(&mut self, name: Name) -> &mut Place {
        if self.by_name.len() >= self.max && !self.by_name.contains_key(&name) {
            // Only for a new peer, and over a bounded number of places.
            let oldest = self.by_name.iter().min_by_key(|(_, place)| place.used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.by_name.remove(&oldest);
            }
        }
        self.uses += 1;
        let place = self.by_name.entry(name).or_default();
        place.used = self.uses;
        place
    }
}

impl ClientSessionStore for PeerSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.change(name, |place| place.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.look(name, |place| place.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.change(name, |place| place.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.look(name, |place| place.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.look(name, |place| place.tls12.take());
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.change(name, |place| {
            if place.tls13.len() >= TICKETS_MAX {
                place.tls13.pop_front();
            }
            place.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.look(name, |place| place.tls13.pop_back())
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ClientSessions")
    }
}

impl fmt::Debug for PeerSessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PeerSessions({})", self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_peers_is_bounded() {
        let sessions = ClientSessions::new(10);
        let name = ServerName::try_from("a.test").expect("a name");
        let hint = |n: usize| sessions.of(&n.to_string()).kx_hint(&name);
        for n in 0..1000 {
            sessions.of(&n.to_string()).set_kx_hint(name.clone(), NamedGroup::X25519);
            assert_eq!(hint(0), Some(NamedGroup::X25519), "in use all the time");
        }
        assert_eq!((0..1000).filter(|n| hint(*n).is_some()).count(), 10);
        assert_eq!(hint(999), Some(NamedGroup::X25519));
    }
}
