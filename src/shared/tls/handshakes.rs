//! Handshakes with clients: how many of them a worker makes at a time, and what becomes of the clients' certificates.
//!
//! Touches: OCSP responders, if they have to be asked. Behaviour: nginx.org, ngx_http_ssl_module and
//! ngx_stream_ssl_module.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::pki_types::UnixTime;

use crate::log::{self, Logger};
use crate::net::lookup::Lookup;
use crate::net::newcomer::Newcomer;
use crate::net::resolver::Resolvers;
use crate::net::tls::handshake::{Accepted, Error};
use crate::net::tls::ocsp::denial::Denial;
use crate::net::tls::server::{self, Path};
use crate::net::tls::verify::{Mode, Refusal};
use crate::net::tls::{Info, Verdict};
use crate::runtime::channel::Notify;
use crate::runtime::{self, timeout};
use crate::shared::resolver;
use crate::shm::counter::{self, Slot, Total, Word};

/// Minimum time between two log lines about too many handshakes.
const TELL_MS: u64 = 1000;

thread_local! {
    /// The handshakes under way in this worker, the oldest first.
    static UNDER_WAY: RefCell<VecDeque<(u64, Rc<Notify>)>> = const { RefCell::new(VecDeque::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
    static TELL_AGAIN_MS: Cell<u64> = const { Cell::new(0) };
}

/// A handshake's place among those under way (`ssl_handshakes_max`).
pub struct Place {
    number: u64,
    gives_way: Rc<Notify>,
}

impl Place {
    /// Takes a place. If all are taken the oldest handshake has to give way: clients of good will need a few
    /// round trips, those that stop in the middle collect at the front.
    pub fn take(most: usize, log: log::Logger) -> Self {
        let number = NEXT.replace(NEXT.get().wrapping_add(1));
        let gives_way = Rc::new(Notify::new());
        let oldest = UNDER_WAY.with_borrow_mut(|all| {
            all.push_back((number, Rc::clone(&gives_way)));
            if all.len() > most { all.pop_front() } else { None }
        });
        if let Some((_, oldest)) = oldest {
            oldest.notify();
            if runtime::now_ms() >= TELL_AGAIN_MS.get() {
                TELL_AGAIN_MS.set(runtime::now_ms() + TELL_MS);
                log::warn!(
                    log,
                    &(),
                    "{most} TLS handshakes are under way, giving up the oldest: raise \"ssl_handshakes_max\" or shorten \
                     \"ssl_handshake_timeout\""
                );
            }
        }
        Self { number, gives_way }
    }
}

impl Place {
    /// Ready when this handshake has to give way to a newer one.
    pub async fn gives_way(&self) {
        self.gives_way.notified().await;
    }

    /// The same for a task that waits for several things.
    pub fn poll_gives_way(&self, cx: &mut Context<'_>) -> Poll<()> {
        let number = |(number, _): &(u64, Rc<Notify>)| *number;
        if UNDER_WAY.with_borrow(|all| all.binary_search_by_key(&self.number, number).is_err()) {
            return Poll::Ready(());
        }
        pin!(self.gives_way.notified()).poll(cx)
    }
}

/// The number of handshakes under way in this worker.
pub fn under_way() -> usize {
    UNDER_WAY.with_borrow(VecDeque::len)
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.with_borrow_mut(|all| {
            if let Ok(index) = all.binary_search_by_key(&self.number, |(number, _)| *number) {
                all.remove(index);
            }
        });
    }
}

/// Counts a handshake, also for its server.
pub fn count<C>(outcome: &Result<Accepted<C>, Error>, server: Option<Slot>) {
    use rustls::{AlertDescription, Error as Tls, PeerIncompatible};
    let failure = match outcome {
        Ok(Accepted::Plain(_)) => return,
        Ok(Accepted::Session(session, _)) => {
            return count_made(&session.info, server);
        }
        Err(failure) => failure,
    };
    count_failed(server);
    let reason = match failure {
        Error::Version
        | Error::Tls(Tls::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::Tls13RequiredForQuic,
        )) => Total::NoCommonProtocol,
        Error::Tls(Tls::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon,
        )) => Total::NoCommonCipher,
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Total::HandshakeTimeout,
        Error::Tls(Tls::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        )) => Total::CertificateRejected,
        _ => return,
    };
    counter::add(reason, 1);
}

/// Counts a handshake that is complete.
pub fn count_made(info: &Info, server: Option<Slot>) {
    counter::add(Total::Handshakes, 1);
    counter::add(Total::Resumed, u64::from(info.is_resumed));
    if let Some(slot) = server {
        slot.add(Word::HANDSHAKES, 1);
        slot.add(Word::RESUMED, u64::from(info.is_resumed));
    }
}

/// Counts a handshake that has failed.
pub fn count_failed(server: Option<Slot>) {
    counter::add(Total::HandshakesFailed, 1);
    if let Some(slot) = server {
        slot.add(Word::HANDSHAKES_FAILED, 1);
    }
}

/// Counts a client's certificate that is refused, once it is judged, also for its server. `mode`: whether the server asks
/// for one.
pub fn count_verdict(info: &Info, mode: Option<Mode>, server: Option<Slot>) {
    let verdict = info.verdict.get();
    let Some(mode) = mode else { return };
    let reason = match (verdict.outcome, verdict.status) {
        _ if info.peer_chain.is_empty() => match mode.refuses_none() {
            true => Total::VerifyNoCertificate,
            false => return,
        },
        (Err(refusal), _) if mode.refuses(verdict.outcome) => reason(refusal),
        (Err(_), _) => return,
        (Ok(()), Err(Denial::Revoked)) => Total::VerifyRevoked,
        (Ok(()), Err(Denial::RequestFailed | Denial::Unknown)) => Total::VerifyOther,
        (Ok(()), Ok(())) => return,
    };
    counter::add(reason, 1);
    if let Some(slot) = server {
        slot.add(Word::VERIFY_FAILED, 1);
    }
}

/// The counter of certificates that are refused for this reason.
pub fn reason(refusal: Refusal) -> Total {
    match refusal {
        Refusal::Expired => Total::VerifyExpired,
        Refusal::Revoked => Total::VerifyRevoked,
        Refusal::HostnameMismatch | Refusal::AddressMismatch => Total::VerifyOtherName,
        _ => Total::VerifyOther,
    }
}

/// How the names of responders are looked up.
pub fn lookup(conf: &resolver::Conf, resolvers: &Resolvers) -> Lookup {
    let resolver = conf.settings().map(|settings| resolvers.get(settings));
    Lookup { resolver, timeout_ms: conf.timeout_ms() }
}

/// Judges the client's certificate. Returns the path that responders have to be asked about.
pub fn judge(info: &Info, tls: &server::Server) -> Option<Path> {
    let (verdict, path) = tls.verdict(&info.peer_chain, UnixTime::now());
    info.verdict.set(verdict);
    path
}

/// Asks the responders of a client's certificate (`ssl_ocsp`); what they say becomes a part of the verdict.
pub async fn ask_status(
    info: &Info,
    tls: &server::Server,
    path: &Path,
    (lookup, log): (&Lookup, Logger),
    client: &Newcomer<'_>,
    limit_ms: u64,
) {
    let Some(check) = tls.status_check() else { return };
    let asked = timeout(limit_ms, check.check(path, lookup, log, client.number)).await;
    let status = asked.unwrap_or_else(|_| {
        log::error!(log, client, "OCSP responders did not answer within {limit_ms} ms");
        Err(Denial::RequestFailed)
    });
    info.verdict.set(Verdict { status, ..info.verdict.get() });
}
