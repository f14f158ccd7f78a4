//! The certificates of a configuration in force, as their files change: read, checked, and put in force in this process.
//!
//! For the master, which passes them on, and for the only process with `master_process off`. The decisions are in
//! `net/tls/watch.rs`. Touches: the files of certificates and keys, the error log.

use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::cycle::Config;
use crate::log;
use crate::net::tls::watch::{self, Expiry, Files, Stamp, Trusted, Watch};
use crate::sys::clock;

/// The state of the files as last seen, and of the warnings about their ends.
#[derive(Debug, Default)]
pub struct Renewal {
    watch: Watch,
    expiry: Expiry,
}

/// The outcome of a look at the files.
#[derive(Default)]
pub struct Renewed {
    /// Some path may lead elsewhere now: watch anew.
    pub has_changed: bool,
    /// The certificates that are in force now, by their indexes, as bytes for other processes (`net/tls/parcel.rs`).
    pub parcels: Vec<(usize, Zeroizing<Vec<u8>>)>,
}

impl Renewal {
    /// `was_in_force`: the configuration was so before, and its certificates may be older than its files.
    pub fn new(config: &Config, was_in_force: bool) -> Self {
        let pairs = config.certificates();
        let stamps = pairs.iter().map(|pair| (!was_in_force).then_some(pair.stamp));
        Self { watch: Watch::new(stamps), expiry: Expiry::new(pairs.len()) }
    }

    /// Some file may have changed: the next look is due at once.
    pub fn stir(&mut self) {
        self.watch.stir();
    }

    /// When to look next; `None`: there is nothing to watch.
    pub fn due_ms(&self) -> Option<u64> {
        self.watch.due_ms()
    }

    /// Reads the pairs that have changed and puts those in force that can be used.
    pub fn look(&mut self, config: &Config, now_ms: u64) -> Renewed {
        let pairs = config.certificates();
        let stamps: Vec<Stamp> = pairs.iter().map(|pair| Stamp::of(&pair.files)).collect();
        let is_regular = self.watch.is_regular(now_ms);
        let look = self.watch.look(now_ms, stamps.iter().copied());
        for (_, text) in look.faults {
            log::error!(log::process(), &(), "{text}; until then the certificate in force stays");
        }
        let mut renewed = Renewed { has_changed: look.has_changed, parcels: Vec::new() };
        for index in look.read {
            let (Some(stamp), Some(pair)) = (stamps.get(index), pairs.get(index)) else { continue };
            let parcel = self.renew(config, index, &pair.files, *stamp, now_ms);
            renewed.parcels.extend(parcel.map(|parcel| (index, parcel)));
        }
        if is_regular {
            self.tell_expiry(config);
        }
        renewed
    }

    /// Reads a pair and puts it in force, if it can be used and is another one.
    fn renew(
        &mut self,
        config: &Config,
        index: usize,
        files: &Files,
        stamp: Stamp,
        now_ms: u64,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let loaded = match watch::load(files, clock::wall_seconds()) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.watch.failed(index, stamp, now_ms, &error);
                return None;
            }
        };
        self.watch.taken(index, stamp);
        let old = config.certificate(index).filter(|old| !old.is_pending());
        if old.as_ref().is_some_and(|old| watch::is_same(old, &loaded.certificate)) {
            return None;
        }
        let path = files.certificate.display();
        if let Some(ignored) = config.replace_certificate(index, &loaded.certificate) {
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
        Some(loaded.parcel)
    }

    /// Warns of certificates that expire soon.
    pub fn tell_expiry(&mut self, config: &Config) {
        let now_s = clock::wall_seconds();
        for (index, pair) in config.certificates().iter().enumerate() {
            let Some(certificate) = config.certificate(index).filter(|it| !it.is_pending()) else { continue };
            if !self.expiry.is_due(index, now_s, certificate.not_after_s()) {
                continue;
            }
            if let Some(ending) = watch::ending(&pair.files.certificate, &certificate, now_s) {
                let level = if ending.is_expired { log::Level::Error } else { log::Level::Warn };
                log::at!(level, log::process(), &(), "{}", ending.text);
            }
        }
    }
}

/// The files by which peers' certificates are judged, as last seen.
#[derive(Debug, Default)]
pub struct TrustedRenewal {
    watch: Watch,
}

/// The outcome of a look at the files by which peers are judged.
#[derive(Debug, Default)]
pub struct Changed {
    /// Some path may lead elsewhere now: watch anew.
    pub has_changed: bool,
    /// Files that are others now, and can be used.
    pub paths: Vec<PathBuf>,
}

impl TrustedRenewal {
    /// `was_in_force`: the configuration was so before, and what it took from its files may be older than they are. Trying
    /// them again after a generation that failed would fail again, so the next change counts.
    pub fn new(config: &Config, was_in_force: bool) -> Self {
        let stamp = |file: &Trusted| if was_in_force { Stamp::of_file(&file.path) } else { file.stamp };
        Self { watch: Watch::new(config.trusted().map(|file| Some(stamp(file)))) }
    }

    /// Some file may have changed: the next look is due at once.
    pub fn stir(&mut self) {
        self.watch.stir();
    }

    /// When to look next; `None`: there is nothing to watch.
    pub fn due_ms(&self) -> Option<u64> {
        self.watch.due_ms()
    }

    /// Finds the files that have changed and can be used; the others are logged.
    pub fn look(&mut self, config: &Config, now_ms: u64) -> Changed {
        let files: Vec<&Trusted> = config.trusted().collect();
        let stamps: Vec<Stamp> = files.iter().map(|file| Stamp::of_file(&file.path)).collect();
        let look = self.watch.look(now_ms, stamps.iter().copied());
        for (_, text) in look.faults {
            log::error!(log::process(), &(), "{text}; until then the file's former contents stay in force");
        }
        let mut changed = Changed { has_changed: look.has_changed, paths: Vec::new() };
        for index in look.read {
            let (Some(file), Some(stamp)) = (files.get(index), stamps.get(index)) else { continue };
            match file.check() {
                Ok(()) => {
                    self.watch.taken(index, *stamp);
                    changed.paths.push(file.path.clone());
                }
                Err(error) => self.watch.failed(index, *stamp, now_ms, &error),
            }
        }
        changed
    }
}
