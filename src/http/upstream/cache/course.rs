//! A request's course through the cache once its upstream is asked: what the answer means for what is stored.
//!
//! Decides; `fill.rs` writes. Behaviour: nginx.org, ngx_http_proxy_module; RFC 9111 §3, §4.3.4, §5.2.

use crate::cache::entry::Meta;
use crate::cache::key::Key;
use crate::cache::lock::Lock;
use crate::cache::vary;
use crate::cache::zone::Zone;
use crate::http::modules::BlockConf;
use crate::http::request::Request;
use crate::http::upstream::cache::conf::Settings;
use crate::http::upstream::cache::fill::Fill;
use crate::http::upstream::cache::state::Status;
use crate::http::upstream::cache::stored::Stored;
use crate::http::upstream::cache::{remove, remove_now, revalidate, variant};
use crate::http::upstream::exchange::Answer;
use crate::http::upstream::proxied::Head;
use crate::http::verdict::Reply;
use crate::log;
use crate::proto::cache_control::{self, Ignored, Lifetime};
use crate::proto::header::Id;
use crate::runtime;
use crate::shm::cache_index::{Digest, Index};
use crate::sys::{clock, random};
use crate::upstream::Fault;

/// A request whose upstream is asked although its location has a cache.
///
/// Dropping it gives up the lock that it may hold.
#[derive(Debug)]
pub struct Course {
    pub zone: &'static Zone,
    pub index: Index,
    pub key: Key,
    /// The digest under which the response is stored: the key's, or that of a variant.
    pub digest: Digest,
    pub is_variant: bool,
    /// The stamp of the file under the key itself; `None`: it has not been read, or there is none.
    pub stamp: Option<u32>,
    /// When the upstream was asked, by the monotonic clock; it is not earlier than what the client did before.
    pub asked_ms: u64,
    /// The expired response, which may still be served.
    pub stale: Option<Stored>,
    pub lock: Option<Lock>,
    /// The response may be stored, as far as the request decides.
    pub is_storable: bool,
    /// What is stored has expired.
    pub is_update: bool,
    /// The response on its way into the cache.
    pub fill: Option<Box<Fill>>,
    /// The last peer's, if no other one was tried.
    pub fault: Fault,
    /// The request changes its target: what is stored is out of date if the upstream does not refuse.
    invalidates: bool,
}

impl Course {
    pub fn new(zone: &'static Zone, index: Index, key: Key) -> Self {
        let digest = *key.digest();
        Self {
            zone,
            index,
            key,
            digest,
            is_variant: false,
            stamp: None,
            asked_ms: 0,
            stale: None,
            lock: None,
            is_storable: true,
            is_update: false,
            fill: None,
            fault: Fault::Error,
            invalidates: false,
        }
    }

    /// That of a request whose response is not stored, but may make what is stored out of date.
    pub fn invalidating(zone: &'static Zone, index: Index, key: Key) -> Self {
        Self { is_storable: false, invalidates: true, ..Self::new(zone, index, key) }
    }

    /// Says that an update is in progress. The lock of a response that is not stored yet is not renewed: when it is as
    /// old as `proxy_cache_lock_age`, another request may try.
    pub fn keep_lock(&mut self, now_ms: u64) {
        if self.is_update
            && let Some(lock) = &mut self.lock
        {
            lock.renew(now_ms);
        }
    }

    /// Removes the file of a key that gave way in the index.
    pub fn forget_evicted(&self, request: &Request, evicted: Option<Digest>) {
        let Some(digest) = evicted else { return };
        if self.zone.tells_full(runtime::now_ms()) {
            log::warn!(request.error_log(), request, "{}", self.zone.full());
        }
        remove(self.zone.file_name(&digest));
    }

    /// Takes the expired response if it is to be served instead of an answer with this fault, or none.
    pub fn take_stale(&mut self, request: &Request, fault: Fault, now_s: i64) -> Option<Stored> {
        let set = &request.passes().set.cache;
        let may_be_used = |stale: &mut Stored| {
            // What the configuration says counts in any case, as in nginx.
            set.is_stale_used_after(fault)
                || is_lost(fault) && stale.meta.is_usable_on_error(now_s) && !stale.must_be_validated(request)
        };
        self.stale.take_if(may_be_used)
    }

    /// Remembers an error of our own, without a file.
    pub fn note_error(&self, request: &Request, status: u16) {
        let set = &request.passes().set.cache;
        if let Some(seconds) = set.valid_s(status).filter(|_| self.is_storable && !self.is_outdated()) {
            self.index.failed(&self.digest, status, clock::monotonic_s(), seconds);
        }
    }

    /// Remembers the status of a response that an error page replaces, for as long as the response would be stored.
    pub fn note_replaced(&self, request: &mut Request, head: &Head) {
        if !self.is_storable || self.is_outdated() || request.passes().set.cache.is_not_stored(request) {
            return;
        }
        if let Some(meta) = self.meta(request, head, clock::wall_ms()) {
            let seconds = u64::try_from(meta.valid_s.saturating_sub(meta.date)).unwrap_or(0);
            self.index.failed(&self.digest, head.head.status, clock::monotonic_s(), seconds);
        }
    }

    /// What an answer without a fault of its own does to what is stored.
    async fn invalidate(&self, request: &Request, status: u16) {
        if self.invalidates && (200..400).contains(&status) {
            self.index.invalidate(&self.digest, clock::monotonic_ms());
            remove_now(request, self.zone.file_name(&self.digest)).await;
        }
    }

    /// True if what is stored under the key was removed as out of date after the upstream was asked: its answer may be out
    /// of date too. Variants need no look, as they have the stamp of a file that is gone.
    pub fn is_outdated(&self) -> bool {
        let purges = self.zone.purges;
        !self.is_variant && self.index.was_invalidated(&self.digest, self.asked_ms, clock::monotonic_ms())
            || purges.is_some_and(|purges| purges.came_after(self.key.text(), self.asked_ms))
    }

    /// Brings a file that has got its name into the index, or removes it because it is out of date: false.
    pub async fn enter(&self, request: &Request, on_disk_bytes: u64) -> bool {
        // Look after the rename: a removal is noted before it unlinks, so it either unlinks this file or is seen here.
        if self.is_outdated() {
            remove_now(request, self.zone.file_name(&self.digest)).await;
            return false;
        }
        let evicted = self.index.stored(&self.digest, on_disk_bytes, clock::monotonic_s());
        self.forget_evicted(request, evicted);
        true
    }

    /// The reply from the cache that replaces an answer of the upstream: after a fault, or because the upstream has
    /// confirmed what is stored.
    pub async fn instead(&mut self, request: &mut Request, answer: &Answer) -> Option<Reply> {
        let (status, now_s) = (answer.head.head.status, clock::wall_seconds());
        self.invalidate(request, status).await;
        if status == 304
            && request.passes().set.cache.revalidate.get()
            && request.fetch().is_some_and(|fetch| fetch.validators().next().is_some())
            && let Some(stale) = self.stale.take()
        {
            return Some(revalidate::confirm(request, self, stale, &answer.head).await);
        }
        if let Some(stale) = self.take_stale(request, Fault::Status(status), now_s) {
            return Some(stale.into_stale_reply(request, now_s));
        }
        // A bypass has not looked at the file, whose variants stay valid.
        if self.is_storable && is_bypass(request) && answer.head.head.fields.has(Id::Vary) {
            let stored = Stored::open(self.zone.file_name(&self.digest), &self.key).await;
            self.stamp = stored.ok().map(|stored| stored.meta.stamp);
        }
        None
    }

    /// Begins to store a response, if it may be stored.
    pub fn begin(&mut self, request: &mut Request, head: &Head) {
        if self.is_storable {
            self.fill = self.fill_for(request, head).map(Box::new);
            self.is_storable = self.fill.is_some();
        }
        if !self.is_storable {
            self.lock = None; // whoever waits for it need not wait for the body
        }
    }

    fn fill_for(&mut self, request: &mut Request, head: &Head) -> Option<Fill> {
        let set: &'static Settings = &request.passes().set.cache;
        if set.is_not_stored(request) {
            return None;
        }
        let mut meta = self.meta(request, head, clock::wall_ms())?;
        meta.vary = vary_of(request, head)?.into();
        if !meta.vary.is_empty() {
            meta.variant = variant(request, &self.key, &meta.vary);
        }
        if self.is_variant && meta.variant != self.digest {
            // The response varies by other fields than the one that led here.
            (self.is_variant, self.digest) = (false, *self.key.digest());
        }
        meta.stamp = self.stamp.unwrap_or_else(|| random::number() as u32 | 1);
        let fill = Fill::new(self, &meta, head, request.passes().temp_path());
        if fill.is_none() {
            let what = "its key and head are longer than 64k";
            log::warn!(request.error_log(), &*request, "the response is not stored: {what}");
        }
        fill
    }

    /// What is to be stored about a response besides its head and `Vary`; `None`: it must not be stored.
    pub fn meta(&self, request: &Request, head: &Head, now_ms: u64) -> Option<Meta> {
        let now_s = (now_ms / 1000).cast_signed();
        let set = &request.passes().set.cache;
        let status = head.head.status;
        let lifetime = lifetime(request, head, now_s);
        if !lifetime.storable || lifetime.must_understand && !cache_control::is_understood(status) {
            return None;
        }
        if is_private(request) && !lifetime.is_shared_despite_authorization {
            let why = "the request has Authorization, which neither the response allows nor the key contains";
            log::debug!(request.error_log(), request, "the response is not stored: {why}");
            return None;
        }
        let of_status = || set.valid_s(status).map(|seconds| now_s.saturating_add_unsigned(seconds));
        let valid_s = lifetime.valid_s.or_else(of_status)?;
        let (fields, data) = (&head.head.fields, head.buffer.data());
        let has_validators = matches!(status, 200 | 206);
        let value = |id| fields.value(data, id).filter(|_| has_validators);
        let etag = value(Id::Etag).filter(|etag| etag.len() <= crate::cache::entry::TEXT_BYTES_MAX);
        Some(Meta {
            valid_s,
            valid_ms: (now_ms % 1000) as u16,
            updating_s: lifetime.updating_s,
            error_s: lifetime.error_s,
            last_modified: value(Id::LastModified).and_then(crate::base::http_date::parse),
            date: now_s,
            etag: etag.unwrap_or(b"").into(),
            ..Meta::default()
        })
    }
}

fn is_bypass(request: &Request) -> bool {
    request.proxied.cache.as_ref().is_some_and(|state| state.status == Some(Status::Bypass))
}

/// True if the response may be meant for one user alone (RFC 9111 §3.5): the application is told who asks, and nothing
/// else tells users apart. Not if the location checks users itself before it serves them, nor for a subrequest, whose
/// location is somebody's own.
fn is_private(request: &Request) -> bool {
    let (set, confs) = (&request.passes().set.cache, &request.location.confs);
    request.header(Id::Authorization).is_some()
        && !request.is_subrequest()
        && !confs.auth_basic.acts()
        && !confs.auth_jwt.acts()
        && !confs.auth_request.acts()
        && !set.key_names("http_authorization")
        && !set.key_names("remote_user")
}

/// True if there is no response, so that `stale-if-error` applies. As in nginx it does not to a status of 500 or more,
/// which RFC 5861 §4 permits.
fn is_lost(fault: Fault) -> bool {
    match fault {
        Fault::Error | Fault::Timeout | Fault::InvalidHeader | Fault::Denied => true,
        Fault::Status(_) => false,
    }
}

/// How long a response is fresh, by its own fields.
pub fn lifetime(request: &Request, head: &Head, now_s: i64) -> Lifetime {
    let conf = request.passes();
    let ignored = Ignored {
        x_accel_expires: conf.ignores(Id::XAccelExpires),
        cache_control: conf.ignores(Id::CacheControl),
        expires: conf.ignores(Id::Expires),
        set_cookie: conf.ignores(Id::SetCookie),
    };
    Lifetime::of(&head.head.fields, head.buffer.data(), ignored, now_s)
}

/// The names in the `Vary` of a response; `None`: it must not be stored.
fn vary_of(request: &Request, head: &Head) -> Option<Vec<u8>> {
    if request.passes().ignores(Id::Vary) {
        return Some(Vec::new());
    }
    vary::join(head.head.fields.values(head.buffer.data(), Id::Vary)).ok()
}
