//! Certificates that change on disk, without a reload: the master reads them and gives them to the workers.
//!
//! The decisions are in `net/tls/watch.rs`. Touches: inotify, the files of certificates and keys, the workers'
//! control sockets. A worker that is forked later inherits the newer certificate with the configuration.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::log;
use crate::master::Master;
use crate::master::supervisor::WorkerId;
use crate::net::tls::watch::{self, Expiry, Files, LOOK_MS, Pair, Stamp, Watch};
use crate::sys::watcher::Watcher;
use crate::sys::{clock, sealed};

/// Interval of trying again to send a certificate to a worker whose socket is full.
const SEND_AGAIN_MS: u64 = 20;

/// The certificates of the configuration in force.
#[derive(Debug)]
pub struct Certificates {
    watch: Watch,
    expiry: Expiry,
    /// `None`: there are no events, and the files are looked at every minute.
    watcher: Option<Watcher>,
    parcels: Vec<Parcel>,
    has_complained: bool,
    /// When to forget again what is out of date in shared memory, such as keys of tickets; `None`: nothing is.
    tidy_ms: Option<u64>,
}

/// A newer certificate that some workers do not have yet.
#[derive(Debug)]
struct Parcel {
    pair: usize,
    memory: OwnedFd,
    waiting: Vec<WorkerId>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            watch: Watch::new(std::iter::empty()),
            expiry: Expiry::default(),
            watcher: None,
            parcels: Vec::new(),
            has_complained: false,
            tidy_ms: None,
        }
    }
}

impl Certificates {
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.as_ref().map(AsFd::as_fd)
    }

    /// When to look at the files or send again.
    pub fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let send_ms = (!self.parcels.is_empty()).then_some(now_ms + SEND_AGAIN_MS);
        [self.watch.due_ms(), send_ms, self.tidy_ms].into_iter().flatten().min()
    }

    /// Watches wherever the paths lead now.
    fn follow(&mut self, pairs: &[Pair]) {
        if pairs.is_empty() {
            self.watcher = None;
            return;
        }
        let outcome = match &mut self.watcher {
            Some(watcher) => Ok(watcher),
            None => Watcher::new().map(|watcher| self.watcher.insert(watcher)),
        };
        let outcome = outcome.map_err(|error| format!("inotify_init() failed {}", log::Cause(&error)));
        let outcome = outcome.and_then(|watcher| {
            watcher.set(pairs.iter().flat_map(|pair| pair.files.paths())).map_err(|(folder, error)| {
                format!("\"{}\" cannot be watched {}", folder.display(), log::Cause(&error))
            })
        });
        if let Err(why) = outcome
            && !std::mem::replace(&mut self.has_complained, true)
        {
            let what = "changed certificates are noticed once a minute only";
            let remedy = "raise fs.inotify.max_user_watches and fs.inotify.max_user_instances";
            log::warn!(log::process(), &(), "{why}: {what}: {remedy}");
        }
    }
}

impl Master {
    /// Watches the certificates of the configuration that is in force from now on.
    ///
    /// `was_in_force`: it was so before, and its certificates may be older than its files.
    pub(super) fn watch_certificates(&mut self, was_in_force: bool) {
        let pairs = self.cycle.config.certificates();
        let stamps = pairs.iter().map(|pair| (!was_in_force).then_some(pair.stamp));
        self.certificates.watch = Watch::new(stamps);
        self.certificates.expiry = Expiry::new(pairs.len());
        self.certificates.parcels.clear();
        self.certificates.follow(pairs);
        self.tell_expiry();
        self.tidy();
    }

    fn tidy(&mut self) {
        let next_ms = clock::monotonic_ms() + LOOK_MS;
        self.certificates.tidy_ms = Some(next_ms).filter(|_| self.cycle.config.tidy());
    }

    /// Reads certificates that have changed, and gives them to the workers.
    pub(super) fn renew_certificates(&mut self) {
        if self.certificates.watcher.as_mut().is_some_and(Watcher::take) {
            self.certificates.watch.stir();
        }
        let now_ms = clock::monotonic_ms();
        if self.certificates.watch.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.look_at_certificates(now_ms);
        }
        if self.certificates.tidy_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            self.tidy();
        }
        self.send_certificates();
    }

    fn look_at_certificates(&mut self, now_ms: u64) {
        let pairs = self.cycle.config.certificates();
        let stamps: Vec<Stamp> = pairs.iter().map(|pair| Stamp::of(&pair.files)).collect();
        let is_regular = self.certificates.watch.is_regular(now_ms);
        let look = self.certificates.watch.look(now_ms, stamps.iter().copied());
        if look.has_changed {
            self.certificates.follow(pairs);
        }
        for (_, text) in look.faults {
            log::error!(log::process(), &(), "{text}; until then the certificate in force stays");
        }
        for index in look.read {
            let (Some(stamp), Some(pair)) = (stamps.get(index), self.cycle.config.certificates().get(index))
            else {
                continue;
            };
            let files = pair.files.clone();
            self.renew(index, &files, *stamp, now_ms);
        }
        if is_regular {
            self.tell_expiry();
        }
    }

    /// Reads a pair and puts it in force, if it can be used and is another one.
    fn renew(&mut self, index: usize, files: &Files, stamp: Stamp, now_ms: u64) {
        let loaded = match watch::load(files, clock::wall_seconds()) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.certificates.watch.failed(index, stamp, now_ms, &error);
                return;
            }
        };
        self.certificates.watch.taken(index, stamp);
        let old = self.cycle.config.certificate(index);
        if old.as_ref().is_some_and(|old| watch::is_same(old, &loaded.certificate)) {
            return;
        }
        let path = files.certificate.display();
        let memory = match sealed::seal("certificate", &loaded.parcel) {
            Ok(memory) => memory,
            Err(error) => {
                log::error!(
                    log::process(),
                    &(),
                    "certificate \"{path}\" cannot be given to the workers {}: reload to try again",
                    log::Cause(&error)
                );
                return;
            }
        };
        if let Some(ignored) = self.cycle.config.replace_certificate(index, &loaded.certificate) {
            log::warn!(log::process(), &(), "{ignored}");
        }
        let (names, until) =
            (watch::names(&loaded.certificate), watch::date(loaded.certificate.not_after_s()));
        log::notice!(
            log::process(),
            &(),
            "certificate \"{path}\" has changed and is in use now ({names}), valid until {until}"
        );
        if let Some(old) = old {
            if old.names() != loaded.certificate.names() {
                let before = watch::names(&old);
                log::warn!(
                    log::process(),
                    &(),
                    "certificate \"{path}\" has other names now: {names}; before: {before}"
                );
            }
            if old.not_after_s() > loaded.certificate.not_after_s() {
                let before = watch::date(old.not_after_s());
                log::warn!(
                    log::process(),
                    &(),
                    "certificate \"{path}\" expires earlier than the one before it, which was valid until {before}"
                );
            }
        }
        // Workers of earlier generations have other indexes, and accept no clients any more.
        let workers = self.workers.iter().map(|worker| worker.id);
        let waiting = workers.filter(|worker| self.supervisor.is_of_generation(*worker)).collect();
        self.certificates.parcels.retain(|parcel| parcel.pair != index);
        self.certificates.parcels.push(Parcel { pair: index, memory, waiting });
    }

    /// Sends newer certificates to workers that do not have them yet.
    fn send_certificates(&mut self) {
        let mut parcels = std::mem::take(&mut self.certificates.parcels);
        for parcel in &mut parcels {
            let number = u32::try_from(parcel.pair).unwrap_or(u32::MAX);
            parcel.waiting.retain(|id| {
                let worker = self.workers.iter_mut().find(|worker| worker.id == *id);
                worker.is_some_and(|worker| !worker.replace_certificate(number, &parcel.memory))
            });
        }
        parcels.retain(|parcel| !parcel.waiting.is_empty());
        self.certificates.parcels = parcels;
    }

    /// Warns of certificates that expire soon.
    pub(super) fn tell_expiry(&mut self) {
        let now_s = clock::wall_seconds();
        for (index, pair) in self.cycle.config.certificates().iter().enumerate() {
            let Some(certificate) = self.cycle.config.certificate(index) else { continue };
            if !self.certificates.expiry.is_due(index, now_s, certificate.not_after_s()) {
                continue;
            }
            if let Some(ending) = watch::ending(&pair.files.certificate, &certificate, now_s) {
                let level = if ending.is_expired { log::Level::Error } else { log::Level::Warn };
                log::at!(level, log::process(), &(), "{}", ending.text);
            }
        }
    }
}
