//! The response cache (`proxy_cache`): what is stored is served without asking the upstream, and what the upstream
//! answers is stored.
//!
//! ```text
//! lookup ─┬─ fresh ──────────────────────────────────────────────→ served (HIT)
//!         ├─ expired, another request updates it, or a copy of this one does → served (UPDATING, STALE)
//!         └─ missing, expired, bypassed → the upstream ─┬─ 304 to our own condition → served (REVALIDATED)
//!                                                       ├─ fault that `use_stale` names → served (STALE)
//!                                                       └─ response → relayed, and stored if it may be
//! ```
//! Touches: files, through the blocking pool, and the zone's index in shared memory. A response that cannot be
//! written is relayed all the same.
//! Behaviour: nginx.org, ngx_http_proxy_module; RFC 9111 where nginx is silent.

pub mod conf;
mod course;
mod fill;
mod purge;
mod revalidate;
pub mod state;
mod stored;

use std::io;
use std::path::PathBuf;

use crate::base::number::parse_u64;
use crate::cache::key::Key;
use crate::cache::lock::Lock;
use crate::cache::purger::remove_covered;
use crate::cache::vary;
use crate::cache::zone::Zone;
use crate::http::downstream::Downstream;
use crate::http::modules::cache;
use crate::http::nesting;
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::upstream::outgoing;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::target::{Goal, patiently};
use crate::http::verdict::Reply;
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::runtime;
use crate::runtime::blocking::{self, Lane};
use crate::shm::cache_index::{Digest, Index, LOCK_MS_MAX, Presence};
use crate::sys::clock;
use conf::{Place, Settings};
pub(super) use course::Course;
pub(super) use fill::Fill;
use state::{Fetch, Status};
pub(super) use stored::conditional;
use stored::{Missing, Stored};

/// How often a request that waits for another one looks whether that has ended.
const LOOK_MS: u64 = 20;

/// The result of a lookup.
pub(super) enum Found {
    /// The location stores nothing, or not for this request.
    Nothing,
    Reply(Reply),
    /// The upstream is asked.
    Ask(Box<Course>),
}

/// Looks the request up. Errors: 500 for a zone that does not exist, 499 for a client that leaves while it waits.
pub(super) async fn find(request: &mut Request, client: Downstream<'_>, goal: &Goal) -> Result<Found, Error> {
    let set: &'static Settings = &request.passes().set.cache;
    let Some((zone, index)) = zone(request, set)? else { return Ok(Found::Nothing) };
    let key = Key::new(key(request, goal, set));
    if set.is_purge(request) {
        let course = Course::new(zone, index, key);
        return Ok(Found::Reply(match course.key.text().strip_suffix(b"*") {
            Some(prefix) => Box::pin(purge::all(request, zone, prefix)).await,
            None => Box::pin(purge::one(request, &course)).await,
        }));
    }
    if !set.takes(request.method) {
        // A request that may change its target makes the response stored for it out of date (RFC 9111 §4.4).
        let is_safe = matches!(request.method, Method::Options | Method::Trace | Method::Propfind);
        return Ok(if is_safe {
            Found::Nothing
        } else {
            Found::Ask(Box::new(Course::invalidating(zone, index, key)))
        });
    }
    let state = request.proxied.cache.get_or_insert_default();
    state.zone = Some(zone);
    let update = state.update.take();
    let mut course = Course::new(zone, index, key);
    let (status, is_update) = (Status::Bypass, update.is_some());
    course.lock = update;
    let status = if set.is_bypassed(request) {
        status
    } else {
        match look_up(request, client, set, &mut course, is_update).await? {
            Outcome::Reply(reply) => return Ok(Found::Reply(reply)),
            Outcome::Ask(status) => status,
        }
    };
    let is_head = request.method == Method::Head;
    let is_get = is_head && set.convert_head.get();
    // What answers a HEAD must not be served for a GET, unless the configuration asks for it.
    let is_asked = set.convert_head.is_set() || set.key_names("request_method");
    course.is_storable &= !is_head || is_get || is_asked;
    course.is_storable &= !is_range_beyond(request, set);
    let mut fetch = Fetch { is_get, ..Fetch::default() };
    if let Some(stale) = course.stale.as_ref().filter(|_| set.revalidate.get()) {
        (fetch.etag, fetch.last_modified) = stale.validators();
    }
    course.asked_ms = clock::monotonic_ms();
    let state = request.proxied.cache.get_or_insert_default();
    state.status = Some(status);
    state.fetch = course.is_storable.then_some(fetch);
    Ok(Found::Ask(Box::new(course)))
}

/// The zone for a request.
fn zone(request: &mut Request, set: &'static Settings) -> Result<Option<(&'static Zone, Index)>, Error> {
    let zones: &'static cache::Table = &request.config.tables.cache;
    let zone = match set.place() {
        None | Some(Place::Off) => None,
        Some(_) if request.passes().lacks_cache_key() => None,
        Some(Place::Zone(index)) => zones.get(*index),
        Some(Place::Named(script)) => {
            let name = script.to_vec(request);
            match zones.find(request.passes().prefix().0.trim_end_matches('_'), &name) {
                _ if matches!(&*name, b"" | b"off") => None,
                None => {
                    let directive = request.passes().directive("cache");
                    let name = log::Text(&name);
                    return Err(Error::ours(format!(
                        "\"{directive}\" has become \"{name}\", which is no zone"
                    )));
                }
                found => found,
            }
        }
    };
    Ok(zone.and_then(|zone| Some((zone, zone.index?))))
}

/// The text of a request's key; by default the URL that the upstream is asked for.
fn key(request: &mut Request, goal: &Goal, set: &Settings) -> Vec<u8> {
    if let Some(script) = set.key() {
        return script.to_vec(request);
    }
    let mut key = Protocol::Http.scheme(goal.terms.is_some()).as_bytes().to_vec();
    key.extend_from_slice(b"://");
    goal.write_host(&mut key);
    outgoing::write_target(request, goal, &mut key);
    key
}

/// True for a range that begins where `proxy_cache_max_range_offset` says, or later, or from the end.
fn is_range_beyond(request: &Request, set: &Settings) -> bool {
    let (Some(max), Some(range)) = (set.range_offset_max(), request.header(Id::Range)) else { return false };
    let Some(first) = range.strip_prefix(b"bytes=").map(<[u8]>::trim_ascii_start) else { return false };
    let digits = first.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // a suffix, as in bytes=-5, may be anywhere
    parse_u64(&first[..digits]).is_none_or(|offset| offset >= max)
}

/// What follows from a lookup.
enum Outcome {
    Reply(Reply),
    Ask(Status),
}

async fn look_up(
    request: &mut Request,
    client: Downstream<'_>,
    set: &'static Settings,
    course: &mut Course,
    is_update: bool,
) -> Result<Outcome, Error> {
    let began_ms = runtime::now_ms();
    let mut is_first = true;
    loop {
        let now_s = clock::wall_seconds();
        let (uses, presence, failed) = match is_first {
            true => {
                let used = course.index.touch(&course.digest, clock::monotonic_s());
                course.forget_evicted(request, used.evicted);
                (used.uses, used.file, used.error)
            }
            false => (u32::MAX, Presence::Unknown, None),
        };
        if let Some(status) = failed {
            request.proxied.cache.get_or_insert_default().status = Some(Status::Hit);
            return Ok(Outcome::Reply(Reply::Status(status)));
        }
        if is_first {
            course.is_storable &= u64::from(uses) >= set.min_uses.get();
        }
        let stored = match presence {
            Presence::No => None,
            Presence::Yes | Presence::Unknown => open(request, course, presence).await,
        };
        let now_ms = runtime::now_ms();
        let Some(stored) = stored else {
            if !set.lock.get() || !course.is_storable || course.lock.is_some() {
                return Ok(Outcome::Ask(Status::Miss));
            }
            course.lock = Lock::take(course.index, &course.digest, now_ms, set.lock_age.get());
            if course.lock.is_some() {
                return Ok(Outcome::Ask(Status::Miss));
            }
            if now_ms.saturating_sub(began_ms) >= set.lock_timeout.get() {
                course.is_storable = false;
                return Ok(Outcome::Ask(Status::Miss));
            }
            is_first = false;
            wait(request, client).await?;
            continue;
        };
        if stored.meta.is_fresh(now_s) {
            course.lock = None;
            return Ok(Outcome::Reply(serve(request, stored, Status::Hit, now_s)));
        }
        let is_allowed = set.is_stale_used_while_updating()
            || stored.meta.is_usable_while_updating(now_s) && !stored.must_be_validated(request);
        let may_be_stale = !is_update && is_allowed;
        if course.lock.is_none() {
            course.lock = Lock::take(course.index, &course.digest, now_ms, LOCK_MS_MAX);
        }
        if may_be_stale {
            if course.lock.is_none() {
                return Ok(Outcome::Reply(serve(request, stored, Status::Updating, now_s)));
            }
            if set.background_update.get() && update(request, &mut course.lock) {
                return Ok(Outcome::Reply(serve(request, stored, Status::Stale, now_s)));
            }
        }
        (course.stale, course.is_update) = (Some(stored), true);
        return Ok(Outcome::Ask(Status::Expired));
    }
}

/// Opens what is stored for the request: under its key, or, if that is another variant, under the variant's digest.
///
/// `presence`: what the index says about the file.
async fn open(request: &Request, course: &mut Course, presence: Presence) -> Option<Stored> {
    let mut presence = presence;
    loop {
        let path = course.zone.file_name(&course.digest);
        let stored = match Stored::open(path.clone(), &course.key).await {
            Ok(stored) => stored,
            Err(Missing::NoFile) => {
                // Only if there should be one: another worker may be about to store it.
                if presence == Presence::Yes {
                    course.index.forget(&course.digest);
                }
                return None;
            }
            Err(Missing::Broken(why)) => {
                log::error!(
                    request.error_log(),
                    request,
                    "cache file \"{}\" is removed: {why}",
                    path.display()
                );
                course.index.forget(&course.digest);
                // Before anything is stored under that name.
                remove_now(request, path).await;
                return None;
            }
            Err(Missing::Failed(call, error)) => {
                let (path, cause) = (path.display(), log::Cause(&error));
                log::error!(request.error_log(), request, "{call} \"{path}\" failed {cause}");
                return None;
            }
        };
        let meta = &stored.meta;
        if course.zone.is_purged(&course.key, meta) {
            remove_purged(course).await;
            return None;
        }
        match course.is_variant {
            true if course.stamp != Some(meta.stamp) => return None, // of a response that was removed since
            true => {}
            false => course.stamp = Some(meta.stamp),
        }
        if meta.vary.is_empty() {
            return Some(stored);
        }
        let variant = variant(request, &course.key, &meta.vary);
        if variant == meta.variant {
            return Some(stored);
        }
        if course.is_variant {
            return None; // that file belongs to a variant by other fields
        }
        (course.is_variant, course.digest) = (true, variant);
        let used = course.index.touch(&course.digest, clock::monotonic_s());
        course.forget_evicted(request, used.evicted);
        presence = used.file;
        if presence == Presence::No {
            return None;
        }
    }
}

/// The digest of the request's variant by these fields.
fn variant(request: &Request, key: &Key, vary: &[u8]) -> Digest {
    let data = request.input.data();
    vary::variant(key.digest(), vary, |name, add| {
        let same = request.head.fields.pairs(data).filter(|(own, _)| own.eq_ignore_ascii_case(name));
        same.for_each(|(_, value)| add(value));
    })
}

fn serve(request: &mut Request, stored: Stored, status: Status, now_s: i64) -> Reply {
    request.proxied.cache.get_or_insert_default().status = Some(status);
    stored.into_reply(request, now_s)
}

/// Has a copy of the request update the response. False: too many requests without a client are in progress.
fn update(request: &Request, lock: &mut Option<Lock>) -> bool {
    nesting::update(|| {
        let mut copy = request.again();
        copy.route.rewriting = request.route.rewriting;
        copy.proxied.cache.get_or_insert_default().update = lock.take();
        copy
    })
}

/// Waits until it is worth looking again whether another request has stored the response.
async fn wait(request: &Request, client: Downstream<'_>) -> Result<(), Error> {
    let slept = patiently(request, client, runtime::sleep(LOOK_MS)).await;
    slept.ok_or_else(Error::left)
}

/// Removes the file of a key that was purged with `*`, unless another request has stored a newer one.
async fn remove_purged(course: &Course) {
    let (Some(purges), path) = (course.zone.purges, course.zone.file_name(&course.digest)) else { return };
    if blocking::run(Lane::Files, move || remove_covered(&path, &purges)).await {
        course.index.forget(&course.digest);
    }
}

/// Removes a file before anything else happens: nobody may get it any more. False: there is none. `None`: it cannot be
/// removed, which is logged.
async fn remove_now(request: &Request, path: PathBuf) -> Option<bool> {
    let file = path.clone();
    match blocking::run(Lane::Files, move || std::fs::remove_file(file)).await {
        Ok(()) => Some(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Some(false)
        }
        Err(error) => {
            let (path, cause) = (path.display(), log::Cause(&error));
            log::error!(
                request.error_log(),
                request,
                "unlink() \"{path}\" failed {cause}: the stored response is out of date"
            );
            None
        }
    }
}

/// The same of a file that nobody looks for: some time later.
fn remove(path: PathBuf) {
    blocking::detach(Lane::Files, move || {
        let _ = std::fs::remove_file(path);
    });
}
