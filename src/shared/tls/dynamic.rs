//! Certificates whose names depend on the client (`ssl_certificate` with variables), and their cache.
//!
//! Runs in a handshake. Touches: the files of certificates and keys, read in the loop, as in nginx.
//! Bounded by `max` of `ssl_certificate_cache`; without the directive nothing is kept.
//! Behaviour: nginx.org, `ssl_certificate`, `ssl_certificate_cache`.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::config::{Diagnostic, Node};
use crate::log;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::pem::Passwords;
use crate::runtime;
use crate::script::Scope;
use crate::script::value::Script;
use crate::shared::tls::files::{Cache as Settings, certificate_cache, read_at};
use crate::shared::tls::server::Conf;

/// The files of a certificate and its key; after `data:` they contain the key itself.
type Names = [Zeroizing<String>; 2];

/// One `ssl_certificate_cache`: the servers that inherit the directive share it.
pub struct Cache {
    settings: Settings,
    /// The most recently used last. Each worker has its own.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    names: Names,
    certificate: Certificate,
    loaded_ms: u64,
    used_ms: u64,
}

impl fmt::Debug for Cache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Cache({:?})", self.settings)
    }
}

impl Cache {
    fn new(settings: Settings) -> Self {
        Self { settings, kept: Mutex::default() }
    }

    /// The certificate of these names, unless it has to be read again.
    fn take(&self, names: &Names, now_ms: u64) -> Option<Certificate> {
        let Settings::On { inactive_ms, valid_ms, .. } = self.settings else { return None };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |kept: &Kept| {
            now_ms.saturating_sub(kept.used_ms) <= inactive_ms
                && now_ms.saturating_sub(kept.loaded_ms) <= valid_ms
        };
        kept.retain(is_fresh);
        let index = kept.iter().position(|kept| kept.names == *names)?;
        let mut found = kept.remove(index);
        found.used_ms = now_ms;
        let certificate = found.certificate.clone();
        kept.push(found);
        Some(certificate)
    }

    fn keep(&self, names: Names, certificate: &Certificate, now_ms: u64) {
        let Settings::On { pairs_max, .. } = self.settings else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.names != names);
        if kept.len() >= pairs_max {
            kept.remove(0);
        }
        let certificate = certificate.clone();
        kept.push(Kept { names, certificate, loaded_ms: now_ms, used_ms: now_ms });
    }
}

/// Reads `ssl_certificate_cache`.
pub fn set_cache<S>(conf: &mut Conf<S>, node: &Node) -> Result<(), Diagnostic> {
    conf.certificate_cache.put(Arc::new(Cache::new(certificate_cache(node)?)), node)
}

impl<S: Scope> Conf<S> {
    /// Loads the certificates whose names depend on the client; relative names begin at `folder`. Errors: the message for the log.
    pub fn load_for(&self, scope: &mut S, folder: &Path) -> Result<Vec<Certificate>, String> {
        let name = |script: &Script<S>, scope: &mut S| {
            Zeroizing::new(String::from_utf8_lossy(&script.to_vec(scope)).into_owned())
        };
        let read = |name: &str| {
            let (shown, data) = read_at(folder, name);
            data.map_err(|error| format!("cannot load certificate \"{shown}\" {}", log::Cause(&error)))
        };
        let cache = self.certificate_cache.as_ref();
        let now_ms = runtime::now_ms();
        let pairs = self.certificate_scripts.iter().zip(&self.key_scripts);
        pairs
            .map(|(certificate, key)| {
                let names = [name(certificate, scope), name(key, scope)];
                if let Some(known) = cache.and_then(|cache| cache.take(&names, now_ms)) {
                    return Ok(known);
                }
                let (chain, key) = (read(&names[0])?, read(&names[1])?);
                let (loaded, is_encrypted) =
                    Certificate::from_pem_noting(&chain, &key, &self.passwords_for(folder)?)
                        .map_err(|error| error.to_string())?;
                // As in nginx, an encrypted key is not kept: another server may not have its password.
                if let Some(cache) = cache.filter(|_| !is_encrypted) {
                    cache.keep(names, &loaded, now_ms);
                }
                Ok(loaded)
            })
            .collect()
    }

    fn passwords_for(&self, folder: &Path) -> Result<Passwords, String> {
        let Some(name) = self.password_file.as_ref() else { return Ok(Passwords::default()) };
        let (shown, data) = read_at(folder, name);
        let data = data.map_err(|error| format!("cannot read \"{shown}\" {}", log::Cause(&error)))?;
        Passwords::read(&data).map_err(|error| format!("{error} in \"{shown}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Certificate::from_pem(chain.as_bytes(), key.as_bytes(), &Passwords::default()).expect("a pair")
    }

    fn names(name: &str) -> Names {
        [".crt", ".key"].map(|end| Zeroizing::new(format!("{name}{end}")))
    }

    #[test]
    fn a_certificate_is_kept_until_it_is_old_unused_or_too_many() {
        let cache = Cache::new(Settings::On { pairs_max: 2, inactive_ms: 10, valid_ms: 25 });
        let (one, two) = (certificate("one.test"), certificate("two.test"));
        let known = |name: &str, now_ms| cache.take(&names(name), now_ms).map(|found| *found.fingerprint());
        cache.keep(names("one"), &one, 0);
        cache.keep(names("two"), &two, 1);
        assert_eq!(
            (known("one", 10), known("two", 10)),
            (Some(*one.fingerprint()), Some(*two.fingerprint()))
        );
        assert_eq!(known("one", 20), Some(*one.fingerprint()));
        assert_eq!((known("two", 21), known("one", 26)), (None, None), "unused, old");
        for (index, name) in ["one", "two", "three"].into_iter().enumerate() {
            cache.keep(names(name), &one, 30 + index as u64);
        }
        assert_eq!(
            (known("one", 33), known("two", 33).is_some(), known("three", 33).is_some()),
            (None, true, true)
        );
        let off = Cache::new(Settings::Off);
        off.keep(names("one"), &one, 0);
        assert!(off.take(&names("one"), 0).is_none());
    }
}
