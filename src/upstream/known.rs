//! What names have led to, for workers that begin: those of a new generation, and those that replace a dead one.
//!
//! Workers tell the master each change (`worker/control.rs`), and every worker forked later inherits this memory. So a
//! reload while the name servers are down goes on with the addresses before.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::Address;

/// Names that are remembered; a configuration has far less, and each reload may bring others.
const NAMES_MAX: usize = 4096;
/// Of one name, so that they fit a message.
const SPOTS_MAX: usize = 100;

/// One address of a server, with what an SRV record says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub address: Address,
    /// Instead of the server's own.
    pub weight: Option<u16>,
    /// Beside the server's own `backup`.
    pub is_backup: bool,
}

impl From<Address> for Spot {
    fn from(address: Address) -> Self {
        Self { address, weight: None, is_backup: false }
    }
}

static KNOWN: Mutex<Option<HashMap<String, Vec<Spot>>>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<HashMap<String, Vec<Spot>>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The addresses of a name, as last heard.
pub fn recall(key: &str) -> Option<Vec<Spot>> {
    known().as_ref()?.get(key).cloned()
}

/// Takes the text that [`to_text`] has made; another text is no news.
pub fn remember(text: &str) {
    let mut lines = text.lines();
    let Some(key) = lines.next() else { return };
    let Some(spots) = lines.map(spot).collect::<Option<Vec<Spot>>>() else { return };
    let mut known = known();
    let names = known.get_or_insert_default();
    if spots.is_empty() {
        names.remove(key);
    } else if names.len() < NAMES_MAX || names.contains_key(key) {
        names.insert(key.to_owned(), spots);
    }
}

/// A name and its addresses as lines.
pub fn to_text(key: &str, spots: &[Spot]) -> String {
    let mut text = key.to_owned();
    for spot in spots.iter().take(SPOTS_MAX) {
        let Address::Inet(inet) = &spot.address else { continue };
        let weight = spot.weight.unwrap_or(0);
        let _ = write!(text, "\n{} {} {weight} {}", inet.ip(), inet.port(), u8::from(spot.is_backup));
    }
    text
}

fn spot(line: &str) -> Option<Spot> {
    let mut words = line.split(' ');
    let (ip, port) = (words.next()?.parse::<IpAddr>().ok()?, words.next()?.parse().ok()?);
    let weight: u16 = words.next()?.parse().ok()?;
    let is_backup = words.next()? == "1";
    let address = Address::Inet(SocketAddr::new(ip, port));
    Some(Spot { address, weight: (weight > 0).then_some(weight), is_backup })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_tells_the_next_one_knows() {
        let address = |text: &str| Address::Inet(text.parse().unwrap());
        let spots = vec![
            Spot::from(address("10.0.0.1:80")),
            Spot { address: address("[fe80::1]:8080"), weight: Some(5), is_backup: true },
        ];
        assert_eq!(recall("group a.test"), None);
        let text = to_text("group a.test", &spots);
        remember(&text);
        assert_eq!(recall("group a.test"), Some(spots));
        remember("group a.test\nnonsense");
        assert!(recall("group a.test").is_some());
        remember(&to_text("group a.test", &[]));
        assert_eq!(recall("group a.test"), None);
    }

    #[test]
    fn the_longest_text_fits_a_message() {
        let widest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let spot = Spot { address: Address::Inet(widest), weight: Some(u16::MAX), is_backup: true };
        assert!(to_text(&"k".repeat(600), &vec![spot; 1000]).len() < 8000);
    }
}
