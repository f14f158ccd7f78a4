//! The responses that handshakes staple (`ssl_stapling on` without a file), asked of the responders of the
//! certificates.
//!
//! A handshake never waits: one that comes before the first response goes without. A response is renewed when
//! a handshake finds it older than an hour, as in nginx, and used for as long as it is valid. Workers share
//! their responses, so that one of them asks.
//! Touches: responders, by `exchange`; the certificates in use; shared memory, by `staples`.
//! Behaviour: nginx.org, `ssl_stapling`, `ssl_stapling_responder`, `ssl_stapling_verify`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;

use crate::log;
use crate::net::lookup::Lookup;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::ocsp::exchange::{self, EXCHANGE_MS_MAX, Subject};
use crate::net::tls::ocsp::responder::{BadUrl, Responder};
use crate::net::tls::ocsp::staples::{Shared, Staples};
use crate::net::tls::server::Certificates;
use crate::net::tls::verify::Trust;
use crate::net::tls::verify::ocsp::{self, Question, Signers, Status};
use crate::runtime;
use crate::sys::clock;

/// The longest time until a response is asked for again.
const REFRESH_S_MAX: i64 = 3600;
/// The shortest one, and the pause after a failure.
const REFRESH_S_MIN: i64 = 300;
/// How long before the end of its validity a response is asked for again.
const AHEAD_S: i64 = 300;

/// The directives of one server.
pub struct Settings {
    /// `ssl_stapling_responder`; `None`: each certificate names its own.
    pub responder: Option<Box<str>>,
    /// `ssl_stapling_verify`.
    pub is_verified: bool,
    /// `ssl_trusted_certificate` and `ssl_client_certificate`: for issuers that a chain lacks.
    pub trusted: Arc<[CertificateDer<'static>]>,
    /// The same, for `is_verified`.
    pub trust: Arc<Trust>,
    /// The names of the certificates' files, in the order of the configuration.
    pub names: Vec<Box<str>>,
    /// The responses that the workers share.
    pub staples: Arc<Staples>,
}

/// Why nothing is stapled with a certificate. Displayed in nginx's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    certificate: Box<str>,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    NoIssuer,
    NoResponder,
    BadResponder(BadUrl),
}

impl fmt::Display for Ignored {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("\"ssl_stapling\" ignored, ")?;
        match &self.why {
            Why::NoIssuer => out.write_str("issuer certificate not found for certificate")?,
            Why::NoResponder => out.write_str("no OCSP responder URL in the certificate")?,
            Why::BadResponder(bad) => write!(out, "{bad} in the certificate")?,
        }
        write!(out, " \"{}\"", self.certificate)
    }
}

/// A response to staple.
#[derive(Debug)]
pub struct Staple {
    pub response: Vec<u8>,
    /// Seconds since 1970.
    pub valid_until_s: i64,
}

/// The responder of one certificate, and when to ask it. Newer certificates have another one.
pub struct Stapling {
    settings: Arc<Settings>,
    question: Question,
    responder: Responder,
    /// The certificates that the server sends behind its own.
    chain: Vec<CertificateDer<'static>>,
    name: Box<str>,
    fingerprint: [u8; 32],
    /// Of the response among those that workers share: servers with other responders have other ones.
    key: [u8; 32],
    /// When to ask, in seconds since 1970.
    due_s: AtomicI64,
}

impl fmt::Debug for Stapling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Stapling for {:?} from {:?}", self.name, self.responder)
    }
}

impl Stapling {
    /// Finds issuer and responder of the certificate at this position among those of the server.
    pub fn new(
        certificate: &Certificate,
        position: usize,
        settings: &Arc<Settings>,
    ) -> Result<Self, Ignored> {
        let name: Box<str> = settings.names.get(position).cloned().unwrap_or_default();
        let ignored = |why| Ignored { certificate: name.clone(), why };
        let Some((own, chain)) = certificate.chain().split_first() else {
            return Err(ignored(Why::NoIssuer));
        };
        let issuer = ocsp::issuer(own, chain.iter().chain(&*settings.trusted));
        let question = issuer.and_then(|issuer| Question::new(own, issuer));
        let question = question.ok_or_else(|| ignored(Why::NoIssuer))?;
        let url = settings.responder.as_deref().map(str::to_owned).or_else(|| ocsp::responder(own));
        let url = url.ok_or_else(|| ignored(Why::NoResponder))?;
        let responder = Responder::parse(&url).map_err(|bad| ignored(Why::BadResponder(bad)))?;
        let mut key = [0; 32];
        let named = [&question.key()[..], url.as_bytes()].concat();
        key.copy_from_slice(digest::digest(&digest::SHA256, &named).as_ref());
        Ok(Self {
            settings: Arc::clone(settings),
            key,
            question,
            responder,
            chain: chain.to_vec(),
            fingerprint: *certificate.fingerprint(),
            due_s: AtomicI64::new(0),
            name,
        })
    }

    /// The SHA-256 of the certificate.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// True once when it is time to ask. If the caller never asks, it is time again later.
    pub fn is_due(&self, now_s: i64) -> bool {
        let due_s = self.due_s.load(Relaxed);
        let again_s = now_s + EXCHANGE_MS_MAX as i64 / 1000 + REFRESH_S_MIN;
        due_s <= now_s && self.due_s.compare_exchange(due_s, again_s, Relaxed, Relaxed).is_ok()
    }

    /// Asks the responder. `None`: there is no response to staple, and the log says why.
    async fn ask(&self, lookup: &Lookup) -> Option<Staple> {
        let subject = Subject::new(log::process(), None, &self.name, self.responder.name());
        let asked = exchange::ask(&self.responder, &self.question.request(), lookup, &subject).await;
        let now_s = clock::wall_seconds();
        let staple = asked.and_then(|response| {
            let checked = self.checked(response, now_s);
            checked.map_err(|why| log::error!(subject.log, &subject, "{why}")).ok()
        });
        let due_s = refresh_s(now_s, staple.as_ref());
        self.due_s.store(due_s, Relaxed);
        if let Some(Staple { response, valid_until_s }) = &staple {
            let shared = Shared { response: response.clone(), due_s };
            self.settings.staples.put(&self.key, &shared, valid_until_s.saturating_sub(now_s));
        }
        staple
    }

    /// The response of another worker, if there is a valid one. Also returns whether it has to be renewed.
    fn shared(&self, now_s: i64) -> Option<(Staple, bool)> {
        let Shared { response, due_s } = self.settings.staples.get(&self.key)?;
        let staple = self.checked(response, now_s).ok()?;
        let is_due = due_s <= now_s;
        if !is_due {
            self.due_s.store(due_s.min(now_s + REFRESH_S_MAX), Relaxed);
        }
        Some((staple, is_due))
    }

    /// The response as a staple. Errors: the message for the log.
    pub fn checked(&self, response: Vec<u8>, now_s: i64) -> Result<Staple, String> {
        let signers = match self.settings.is_verified {
            true => Signers::Trusted { trust: &self.settings.trust, chain: &self.chain },
            false => Signers::Any,
        };
        let answer = self.question.answer(&response, signers, now_s).map_err(|error| error.to_string())?;
        match answer.status {
            Status::Good => Ok(Staple { response, valid_until_s: answer.valid_until_s.unwrap_or(i64::MAX) }),
            status => Err(format!("certificate status \"{status}\" in the OCSP response")),
        }
    }
}

/// When to ask again: before the response expires, but not earlier than in five minutes, and at least in an
/// hour.
fn refresh_s(now_s: i64, staple: Option<&Staple>) -> i64 {
    let valid_until_s = staple.map_or(0, |staple| staple.valid_until_s);
    (valid_until_s.saturating_sub(AHEAD_S)).clamp(now_s + REFRESH_S_MIN, now_s + REFRESH_S_MAX)
}

/// Takes the responses that other workers have, and asks for those that have to be renewed, without waiting for
/// them. For each handshake, before it looks for a certificate.
pub fn refresh(certificates: &Arc<Certificates>, lookup: impl Fn() -> Lookup) {
    let now_s = clock::wall_seconds();
    for (position, stapling) in certificates.due(now_s) {
        let mut is_due = true;
        if let Some((staple, is_old)) = stapling.shared(now_s) {
            certificates.staple(position, stapling.fingerprint(), staple);
            is_due = is_old;
        }
        if is_due {
            let (certificates, lookup) = (Arc::clone(certificates), lookup());
            runtime::spawn(async move {
                if let Some(staple) = stapling.ask(&lookup).await {
                    certificates.staple(position, stapling.fingerprint(), staple);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_renewed_as_in_nginx() {
        let staple = |valid_until_s| Staple { response: Vec::new(), valid_until_s };
        let now_s = 1_000_000;
        let cases = [
            (None, 300),
            (Some(staple(i64::MAX)), 3600),
            (Some(staple(now_s + 86_400)), 3600),
            (Some(staple(now_s + 3600)), 3300),
            (Some(staple(now_s + 400)), 300),
            (Some(staple(now_s)), 300),
        ];
        for (staple, after_s) in cases {
            assert_eq!(refresh_s(now_s, staple.as_ref()) - now_s, after_s, "{staple:?}");
        }
    }
}
