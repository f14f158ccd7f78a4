//! A worker's copies of a provider's metadata and keys, each fetched by one task for all requests that wait.
//!
//! A document is used for an hour. If the provider does not answer then, the old one goes on; without one, requests fail
//! at once for a few seconds, so that a dead provider is asked by one task of a worker at a time, and not for each request.
//! Touches: the provider.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::provider::{Provider, named_in_log};
use crate::base::jose::{KeySet, SET_BYTES_MAX};
use crate::http::request::Request;
use crate::log::{self, Logger};
use crate::net::fetch::{self, Means, Url, fetch};
use crate::proto::oidc::metadata::Metadata;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::channel::Notify;
use crate::runtime::{now_ms, spawn};
use crate::shared::tls::handshakes;

/// How long a document is used before it is fetched again.
const KEPT_MS: u64 = 3_600_000;
/// How long requests fail at once after a document could not be had.
const RETRY_MS: u64 = 5_000;
/// The longest answer of a provider, other than its keys.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// The longest text of keys that is parsed at once: some ten keys, in less than a millisecond.
const AT_ONCE_BYTES_MAX: usize = 8 * 1024;

/// The documents of a provider.
#[derive(Default)]
pub struct Kept {
    pub metadata: Rc<Slot<Metadata>>,
    pub keys: Rc<Slot<KeySet>>,
}

thread_local! {
    /// By the address of the provider: as many as a configuration has.
    static KEPT: RefCell<HashMap<usize, Rc<Kept>>> = RefCell::default();
}

/// A document, or why there is none.
pub struct Slot<T> {
    value: RefCell<Option<(Arc<T>, u64)>>,
    /// When it could not be had, and why.
    failed: RefCell<Option<(u64, Rc<str>)>>,
    is_under_way: Cell<bool>,
    /// A fetch has ended.
    done: Notify,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            value: RefCell::default(),
            failed: RefCell::default(),
            is_under_way: Cell::default(),
            done: Notify::new(),
        }
    }
}

impl<T: 'static> Slot<T> {
    /// The document, if it was fetched at `since_ms` or later.
    pub fn fresh(&self, since_ms: u64) -> Option<Arc<T>> {
        let value = self.value.borrow();
        value.as_ref().filter(|(_, fetched_ms)| *fetched_ms >= since_ms).map(|(value, _)| Arc::clone(value))
    }

    /// The document, fetched at `since_ms` or later if that is possible; otherwise an older one.
    ///
    /// Errors: why there is none.
    async fn get<F>(
        self: &Rc<Self>,
        since_ms: u64,
        log: (Logger, String),
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<T>, Rc<str>>
    where
        F: Future<Output = Result<T, String>> + 'static,
    {
        if let Some(value) = self.fresh(since_ms) {
            return Ok(value);
        }
        let failed = self.failed.borrow().clone();
        match failed.filter(|(at_ms, _)| now_ms() < at_ms.saturating_add(RETRY_MS)) {
            Some((_, why)) if !self.is_under_way.get() => return self.fresh(0).ok_or(why),
            _ => {}
        }
        let done = self.done.notified();
        if !self.is_under_way.replace(true) {
            let (slot, fetching) = (Rc::clone(self), fetch());
            spawn(async move {
                let fetched = fetching.await;
                slot.store(fetched, log);
            });
        }
        done.await;
        let why = self.failed.borrow().as_ref().map(|(_, why)| Rc::clone(why));
        self.fresh(0).ok_or_else(|| why.unwrap_or_else(|| "it could not be fetched".into()))
    }

    fn store(&self, fetched: Result<T, String>, (log, what): (Logger, String)) {
        match fetched {
            Ok(value) => {
                *self.value.borrow_mut() = Some((Arc::new(value), now_ms()));
                *self.failed.borrow_mut() = None;
            }
            Err(why) => {
                let goes_on = if self.value.borrow().is_some() { "; the earlier one is used" } else { "" };
                log::error!(log, &(), "{}: {}{}", what, why, goes_on);
                *self.failed.borrow_mut() = Some((now_ms(), why.into()));
            }
        }
        self.is_under_way.set(false);
        self.done.notify();
    }
}

/// How a request reaches a provider.
#[derive(Clone)]
pub struct Reach {
    pub provider: &'static Provider,
    pub means: Means,
    pub log: Logger,
    pub kept: Rc<Kept>,
}

impl Reach {
    pub fn of(request: &Request, provider: &'static Provider) -> Self {
        let means = Means {
            tls: Arc::clone(&provider.tls),
            lookup: handshakes::lookup(&request.location.confs.resolver, &request.worker.resolvers),
            timeout_ms: provider.request_timeout_ms,
            body_bytes_max: ANSWER_BYTES_MAX,
        };
        let by = std::ptr::from_ref(provider).addr();
        let kept = KEPT.with_borrow_mut(|all| Rc::clone(all.entry(by).or_default()));
        Self { provider, means, log: request.location.confs.http_core.log(), kept }
    }

    /// The metadata, if there is no need to wait for it.
    pub fn metadata_at_once(&self) -> Option<Arc<Metadata>> {
        self.kept.metadata.fresh(now_ms().saturating_sub(KEPT_MS))
    }

    pub async fn metadata(&self) -> Result<Arc<Metadata>, Rc<str>> {
        let (provider, means) = (self.provider, self.means.clone());
        let what = format!("cannot use the metadata of {}", named_in_log(provider));
        let since_ms = now_ms().saturating_sub(KEPT_MS);
        let fetch = move || async move {
            let body = ask(&provider.config_url, None, &means).await?;
            Metadata::read(&body, &provider.issuer, provider.is_plain)
        };
        self.kept.metadata.get(since_ms, (self.log, what), fetch).await
    }

    /// The keys, fetched at `since_ms` or later; `None`: within the hour.
    pub async fn keys(&self, metadata: &Metadata, since_ms: Option<u64>) -> Result<Arc<KeySet>, Rc<str>> {
        let url = endpoint(&metadata.jwks_uri, "jwks_uri")?;
        let what = format!("cannot use the keys of {}", named_in_log(self.provider));
        let means = Means { body_bytes_max: SET_BYTES_MAX, ..self.means.clone() };
        let since_ms = since_ms.unwrap_or_else(|| now_ms().saturating_sub(KEPT_MS));
        let fetch = move || async move {
            let body = ask(&url, None, &means).await?;
            let is_short = body.len() <= AT_ONCE_BYTES_MAX;
            let read = move || KeySet::public(&body).map_err(|error| error.to_string());
            if is_short { read() } else { blocking::run(Lane::Files, read).await }
        };
        self.kept.keys.get(since_ms, (self.log, what), fetch).await
    }
}

/// The URL of an endpoint that we ask ourselves. Errors: it is none, or codes, tokens and the client's secret would go there
/// without encryption; only nobody listens on the way to a loopback address.
pub fn endpoint(url: &str, name: &str) -> Result<Url, String> {
    let url = Url::parse(url).filter(|url| url.is_tls || url.is_loopback());
    url.ok_or_else(|| format!("{name:?} is no https:// URL"))
}

/// Fetches a document. Errors: why there is none.
pub async fn ask(url: &Url, authorization: Option<&str>, means: &Means) -> Result<Vec<u8>, String> {
    let request = fetch::Request { url, authorization, form: None };
    let response = fetch(&request, means).await.map_err(|fault| fault.to_string())?;
    match response.status {
        200 => Ok(response.body),
        status => Err(format!("status {status}")),
    }
}
