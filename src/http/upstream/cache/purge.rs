//! `proxy_cache_purge`: requests that remove what is stored.
//!
//! Touches: the file of the key, through the blocking pool, and the zone's index; or, for a key that ends in `*`, the
//! zone's table of purges alone. The response is sent when nothing older can be served any more.
//! Behaviour: nginx.org, `proxy_cache_purge`.

use crate::cache::purger;
use crate::cache::zone::Zone;
use crate::http::request::Request;
use crate::http::upstream::cache::course::Course;
use crate::http::upstream::cache::remove_now;
use crate::http::verdict::Reply;
use crate::log;
use crate::runtime;
use crate::shm::cache_purges::{Moment, PLACES, PREFIX_BYTES_MAX, Refusal};
use crate::sys::clock;

/// The time between two attempts, and the least time that passes before the answer.
const WAIT_MS: u64 = 2;
/// The number of attempts to write the table, which another process has for microseconds.
const ATTEMPTS: usize = 1000;

/// Removes what is stored for the request. Its variants are out of date by that, and stay on disk until they are
/// replaced or have been inactive.
pub async fn one(request: &Request, course: &Course) -> Reply {
    let had_error = course.index.invalidate(&course.digest, clock::monotonic_ms());
    Reply::Status(match remove_now(request, course.zone.file_name(&course.digest)).await {
        Some(true) => 204,
        Some(false) if had_error => 204,
        Some(false) => 404,
        None => 500,
    })
}

/// Purges all keys with a prefix.
pub async fn all(request: &Request, zone: &'static Zone, prefix: &[u8]) -> Reply {
    let Some(purges) = zone.purges else { return Reply::Status(500) };
    let now = || Moment { wall_ms: clock::wall_ms(), monotonic_ms: clock::monotonic_ms() };
    let mut refusal = Refusal::Busy;
    for _ in 0..ATTEMPTS {
        let at = now();
        match purges.add(prefix, at) {
            Ok(()) => {
                purger::keep(zone, purges).await;
                // So that the answer to any later request is newer by both clocks.
                while clock::monotonic_ms() < at.monotonic_ms + WAIT_MS {
                    runtime::sleep(WAIT_MS).await;
                }
                return Reply::Status(204);
            }
            Err(Refusal::Busy) => runtime::sleep(WAIT_MS).await,
            Err(other) => {
                refusal = other;
                break;
            }
        }
    }
    let name = zone.name();
    let (status, why) = match refusal {
        Refusal::TooLong => (414, format!("the key is longer than {PREFIX_BYTES_MAX} bytes")),
        Refusal::Full => (503, format!("{PLACES} purges are in progress: give the cache purger=on")),
        Refusal::Busy => (503, "the table of purges is in use".to_owned()),
    };
    log::error!(request.error_log(), request, "cache \"{name}\" cannot be purged: {why}");
    Reply::Status(status)
}
