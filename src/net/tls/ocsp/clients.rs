//! The status of clients' certificates (`ssl_ocsp`): asked after the handshake, before the first request.
//!
//! The path of the certificate has been checked; each certificate of it, or the client's only, must be good
//! according to its responder. Touches: responders, by `exchange`; the cache that workers share.
//! Behaviour: nginx.org, `ssl_ocsp`, `ssl_ocsp_responder`, `ssl_ocsp_cache`.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::log::{self, Logger};
use crate::net::lookup::Lookup;
use crate::net::tls::ocsp::cache::Zone;
use crate::net::tls::ocsp::denial::Denial;
use crate::net::tls::ocsp::exchange::{self, Subject};
use crate::net::tls::ocsp::responder::Responder;
use crate::net::tls::verify::ocsp::{self, Question, Signers, Status};
use crate::sys::clock;

/// Which certificates of a path are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The client's only (`ssl_ocsp leaf`).
    Leaf,
    /// All but the root (`ssl_ocsp on`).
    Path,
}

/// How one server checks its clients.
#[derive(Debug)]
pub struct StatusCheck {
    pub depth: Depth,
    /// `ssl_ocsp_responder`; `None`: each certificate names its own.
    pub responder: Option<Responder>,
    /// `ssl_ocsp_cache`.
    pub cache: Option<Arc<Zone>>,
}

impl StatusCheck {
    /// Checks a path: the client's certificate, its issuers, and the root. The log says why a status cannot
    /// be had.
    pub async fn check(
        &self,
        path: &[CertificateDer<'_>],
        lookup: &Lookup,
        log: Logger,
        connection: u64,
    ) -> Result<(), Denial> {
        for (index, pair) in path.windows(2).enumerate() {
            let [certificate, issuer] = pair else { break };
            if self.depth == Depth::Leaf && index == 1 {
                break;
            }
            match self.status(certificate, issuer, lookup, log, connection).await {
                Some(Status::Good) => {}
                Some(Status::Revoked) => return Err(Denial::Revoked),
                Some(Status::Unknown) => return Err(Denial::Unknown),
                None => return Err(Denial::RequestFailed),
            }
        }
        Ok(())
    }

    async fn status(
        &self,
        certificate: &CertificateDer<'_>,
        issuer: &CertificateDer<'_>,
        lookup: &Lookup,
        log: Logger,
        connection: u64,
    ) -> Option<Status> {
        let question = Question::new(certificate, issuer)?;
        let key = question.key();
        if let Some(status) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Some(status);
        }
        let own;
        let responder = match &self.responder {
            Some(responder) => responder,
            None => {
                let parsed = match ocsp::responder(certificate) {
                    None => Err("no OCSP responder URL in certificate".to_owned()),
                    Some(url) => Responder::parse(&url).map_err(|bad| format!("{bad} in certificate")),
                };
                let subject = Subject::new(log, Some(connection), "", "");
                own = parsed.map_err(|why| log::error!(log, &subject, "{why}")).ok()?;
                &own
            }
        };
        let subject = Subject::new(log, Some(connection), "", responder.name());
        let response = exchange::ask(responder, &question.request(), lookup, &subject).await?;
        match question.answer(&response, Signers::Issuer, clock::wall_seconds()) {
            Ok(answer) => {
                if let Some(cache) = &self.cache {
                    cache.put(&key, answer.status, answer.valid_until_s);
                }
                Some(answer.status)
            }
            Err(error) => {
                log::error!(log, &subject, "{error}");
                None
            }
        }
    }
}
