//! Certificates that change on disk, without a reload: the master reads them and gives them to the workers.
//!
//! The files by which peers' certificates are judged (`ssl_client_certificate`, `ssl_crl` and the like) are a part of
//! what sessions are bound to, and of each worker's settings. When one of them has changed the master gives the same
//! configuration new workers, as a reload does: sessions and tickets made under the old file are not found under the
//! new one, and connections that move are judged anew. If the configuration itself has been edited meanwhile nothing is
//! done, since the operator may not be ready.
//!
//! The decisions are in `net/tls/watch.rs`, and reading certificates in `cycle/renewal.rs`. Touches: inotify, the files of
//! certificates and keys, the workers' control sockets. A worker that is forked later inherits the newer certificate with the configuration.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::cycle::{Config, Renewal, TrustedRenewal};
use crate::log;
use crate::master::Master;
use crate::master::supervisor::{Event, Order, WorkerId};
use crate::net::tls::watch::LOOK_MS;
use crate::sys::watcher::Watcher;
use crate::sys::{clock, sealed};

/// Interval of looking whether a reload or the like is over.
const REST_MS: u64 = 250;

/// Interval of trying again to send a certificate to a worker whose socket is full.
const SEND_AGAIN_MS: u64 = 20;

/// The certificates of the configuration in force.
#[derive(Debug, Default)]
pub struct Certificates {
    renewal: Renewal,
    /// `None`: there are no events, and the files are looked at every minute.
    watcher: Option<Watcher>,
    parcels: Vec<Parcel>,
    /// Those by which peers are judged.
    trusted: TrustedRenewal,
    /// Some of them have changed, and wait for new workers.
    changed: Vec<PathBuf>,
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

impl Certificates {
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.as_ref().map(AsFd::as_fd)
    }

    /// When to look at the files or send again.
    pub fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let send_ms = (!self.parcels.is_empty()).then_some(now_ms + SEND_AGAIN_MS);
        let changed_ms = (!self.changed.is_empty()).then_some(now_ms + REST_MS);
        let due_ms = [self.renewal.due_ms(), self.trusted.due_ms(), send_ms, changed_ms, self.tidy_ms];
        due_ms.into_iter().flatten().min()
    }

    /// Watches wherever the paths lead now.
    fn follow(&mut self, config: &Config) {
        let (pairs, trusted) = (config.certificates(), || config.trusted().map(|file| &*file.path));
        if pairs.is_empty() && trusted().next().is_none() {
            self.watcher = None;
            return;
        }
        let outcome = match &mut self.watcher {
            Some(watcher) => Ok(watcher),
            None => Watcher::new().map(|watcher| self.watcher.insert(watcher)),
        };
        let outcome = outcome.map_err(|error| format!("inotify_init() failed {}", log::Cause(&error)));
        let outcome = outcome.and_then(|watcher| {
            let paths = pairs.iter().flat_map(|pair| pair.files.paths()).chain(trusted());
            watcher.set(paths).map_err(|(folder, error)| {
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
        self.certificates.renewal = Renewal::new(&self.cycle.config, was_in_force);
        self.certificates.parcels.clear();
        self.certificates.trusted = TrustedRenewal::new(&self.cycle.config, was_in_force);
        self.certificates.changed.clear();
        self.certificates.follow(&self.cycle.config);
        self.certificates.renewal.tell_expiry(&self.cycle.config);
        self.tidy();
    }

    fn tidy(&mut self) {
        let next_ms = clock::monotonic_ms() + LOOK_MS;
        self.certificates.tidy_ms = Some(next_ms).filter(|_| self.cycle.config.tidy());
    }

    /// Reads certificates that have changed, and gives them to the workers.
    pub(super) fn renew_certificates(&mut self) {
        if self.certificates.watcher.as_mut().is_some_and(Watcher::take) {
            self.certificates.renewal.stir();
            self.certificates.trusted.stir();
        }
        let now_ms = clock::monotonic_ms();
        if self.certificates.renewal.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.look_at_certificates(now_ms);
        }
        if self.certificates.trusted.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.look_at_trusted(now_ms);
        }
        self.use_trusted();
        if self.certificates.tidy_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            self.tidy();
        }
        self.send_certificates();
    }

    fn look_at_certificates(&mut self, now_ms: u64) {
        let renewed = self.certificates.renewal.look(&self.cycle.config, now_ms);
        if renewed.has_changed {
            self.certificates.follow(&self.cycle.config);
        }
        renewed.parcels.iter().for_each(|(index, parcel)| self.pass_on(*index, parcel));
    }

    /// Notes which of the files that peers are judged by have changed, and can be used.
    fn look_at_trusted(&mut self, now_ms: u64) {
        let mut changed = self.certificates.trusted.look(&self.cycle.config, now_ms);
        if changed.has_changed {
            self.certificates.follow(&self.cycle.config);
        }
        self.certificates.changed.append(&mut changed.paths);
    }

    /// Gives the configuration new workers that judge by the changed files, once nothing else is going on.
    fn use_trusted(&mut self) {
        if self.certificates.changed.is_empty() || !self.supervisor.is_at_rest() {
            return;
        }
        let changed = std::mem::take(&mut self.certificates.changed);
        let names: Vec<String> = changed.iter().map(|path| format!("\"{}\"", path.display())).collect();
        let names = names.join(", ");
        log::notice!(log::process(), &(), "{names} has changed: new workers begin with it");
        self.refreshing = Some(names);
        self.happen(Event::Ordered { order: Order::Reload, is_followed: false });
    }

    /// Notes a certificate that is in force now, for the workers.
    fn pass_on(&mut self, index: usize, parcel: &[u8]) {
        let memory = match sealed::seal("certificate", parcel) {
            Ok(memory) => memory,
            Err(error) => {
                log::error!(
                    log::process(),
                    &(),
                    "a changed certificate cannot be given to the workers {}: reload to try again",
                    log::Cause(&error)
                );
                return;
            }
        };
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
}
