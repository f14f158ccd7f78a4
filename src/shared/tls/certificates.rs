//! Client certificates for upstreams whose names depend on the request (`proxy_ssl_certificate` with
//! variables), and their cache.
//!
//! One per location and worker. Touches: the files of certificates and keys, read on the blocking pool.
//! Bounded: at most `max` of `proxy_ssl_certificate_cache` are kept, [`KEPT_MAX`] without it.
//! Behaviour: nginx.org, `proxy_ssl_certificate`, `proxy_ssl_certificate_cache`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use crate::log::{Cause, Text};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::client::{Client, Names};
use crate::net::tls::pem::Passwords;
use crate::runtime;
use crate::runtime::blocking::{self, Lane};
use crate::script::Scope;
use crate::script::value::Script;
use crate::shared::tls::files::{Cache, read_at, shown};

/// Certificates that are kept without a cache. They are read anew for each connection, but a certificate that
/// has not changed keeps its sessions.
const KEPT_MAX: usize = 64;

/// The certificates that a location has loaded.
pub struct Certificates<S> {
    certificate: Script<S>,
    key: Script<S>,
    passwords: Arc<Passwords>,
    cache: Cache,
    /// The base of relative names.
    folder: Arc<PathBuf>,
    /// The most recently used last.
    kept: Mutex<Vec<Kept>>,
}

impl<S> fmt::Debug for Certificates<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificates").field("cache", &self.cache).finish_non_exhaustive()
    }
}

struct Kept {
    names: Names,
    /// The certificate that `client` has.
    fingerprint: [u8; 32],
    client: Arc<Client>,
    /// As in nginx, such a key is read for each connection.
    is_encrypted: bool,
    loaded_ms: u64,
    used_ms: u64,
}

impl<S: Scope> Certificates<S> {
    pub fn new(
        certificate: Script<S>,
        key: Script<S>,
        passwords: Passwords,
        cache: Cache,
        folder: PathBuf,
    ) -> Self {
        let (passwords, folder) = (Arc::new(passwords), Arc::new(folder));
        Self { certificate, key, passwords, cache, folder, kept: Mutex::default() }
    }

    /// The names of certificate and key for a scope. An empty one means no certificate.
    pub fn evaluate(&self, scope: &mut S) -> Box<Names> {
        let mut text =
            |script: &Script<S>| Zeroizing::new(String::from_utf8_lossy(&script.to_vec(scope)).into_owned());
        Box::new([text(&self.certificate), text(&self.key)])
    }

    /// The client with the certificate of these names, made from `base`.
    ///
    /// Errors: the message for the log, since the certificate cannot be loaded.
    pub async fn client(&self, base: &Arc<Client>, names: &Names) -> Result<Arc<Client>, String> {
        if names[0].is_empty() {
            return Ok(Arc::clone(base));
        }
        if let Some(known) = self.take_known(names) {
            return Ok(known);
        }
        let job = (Arc::clone(&self.passwords), Arc::clone(&self.folder), names.clone());
        let loading = blocking::try_run(Lane::Files, move || load(&job.0, &job.1, &job.2));
        let loaded = match loading {
            Ok(loading) => loading.await,
            Err(blocking::Busy) => Err("too many files wait to be read".to_owned()),
        };
        Ok(self.keep(base, names, loaded?))
    }

    /// A client that the cache has.
    fn take_known(&self, names: &Names) -> Option<Arc<Client>> {
        let Cache::On { inactive_ms, valid_ms, .. } = self.cache else { return None };
        let now_ms = runtime::now_ms();
        let mut kept = self.kept();
        // The list is short, and this is once for a connection.
        kept.retain(|kept| now_ms.saturating_sub(kept.used_ms) <= inactive_ms);
        let index = kept.iter().position(|kept| kept.names == *names)?;
        if kept[index].is_encrypted || now_ms.saturating_sub(kept[index].loaded_ms) > valid_ms {
            return None;
        }
        let mut found = kept.remove(index);
        found.used_ms = now_ms;
        let client = Arc::clone(&found.client);
        kept.push(found);
        Some(client)
    }

    /// Keeps a certificate that was loaded; if it is the known one, its client stays.
    fn keep(
        &self,
        base: &Client,
        names: &Names,
        (certificate, is_encrypted): (Certificate, bool),
    ) -> Arc<Client> {
        let now_ms = runtime::now_ms();
        let max = if let Cache::On { pairs_max, .. } = self.cache { pairs_max } else { KEPT_MAX };
        let fingerprint = *certificate.fingerprint();
        let mut kept = self.kept();
        let known = kept.iter().position(|kept| kept.names == *names).map(|index| kept.remove(index));
        let client = match known {
            Some(known) if known.fingerprint == fingerprint => known.client,
            _ => Arc::new(base.with_certificate(Some(certificate))),
        };
        if kept.len() >= max {
            kept.remove(0);
        }
        let (names, own) = (names.clone(), Arc::clone(&client));
        kept.push(Kept { names, fingerprint, client: own, is_encrypted, loaded_ms: now_ms, used_ms: now_ms });
        client
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads both files. True: the key is encrypted. Errors: the message for the log.
fn load(passwords: &Passwords, folder: &Path, names: &Names) -> Result<(Certificate, bool), String> {
    let failed = |what: &str, name: &str, error: &io::Error| {
        format!("cannot load {what} \"{}\" {}", Text(name.as_bytes()), Cause(error))
    };
    let read = |what: &str, name: &str| {
        let (path, data) = read_at(folder, name);
        data.map_err(|error| failed(what, &path, &error))
    };
    let chain = read("certificate", &names[0])?;
    let key = read("certificate key", &names[1])?;
    Certificate::from_pem_noting(&chain, &key, passwords).map_err(|error| {
        let (what, name) =
            if error.is_of_key() { ("certificate key", &names[1]) } else { ("certificate", &names[0]) };
        format!("cannot load {what} \"{}\": {error}", Text(shown(name).as_bytes()))
    })
}
