//! Combines the verdicts of the access phase (`satisfy`), and delays refusals with 401 (`auth_delay`).
//!
//! Touches: the request. Does not wait: a delay is a verdict.
//! Behaviour: nginx.org, ngx_http_core_module (`satisfy`, `auth_delay`).

use crate::http::request::Request;
use crate::http::response::error_page;
use crate::http::verdict::{Pause, Reply, Verdict};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;

/// A location's settings for its access phase.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// A single handler that allows the request is enough.
    any: bool,
    /// A 401 is delayed by `auth_delay`.
    delays: bool,
}

/// The consequence of a verdict.
#[derive(Debug)]
enum Next {
    Verdict(Verdict),
    /// The refusal with 401 is delayed.
    Delay,
}

impl Rules {
    fn of(request: &Request) -> Self {
        let location = request.location;
        Self { any: location.confs.access.satisfies_any(), delays: location.confs.auth_basic.delay_ms() > 0 }
    }

    /// Judges a handler's verdict; `refusal` is the status with which earlier handlers have refused the
    /// request.
    fn judge(self, refusal: &mut Option<u16>, verdict: Verdict) -> Next {
        match verdict {
            Verdict::Done(Reply::Status(status @ (401 | 403 | 407))) if self.any => {
                // A client that could get in by authenticating must be told so.
                if !matches!(refusal, Some(401 | 407)) {
                    *refusal = Some(status);
                }
                return Next::Verdict(Verdict::Next);
            }
            Verdict::Done(Reply::Status(401 | 407)) if self.delays => return Next::Delay,
            Verdict::Granted if !self.any => return Next::Verdict(Verdict::Next),
            Verdict::Done(_) | Verdict::Granted => *refusal = None,
            Verdict::Next | Verdict::Pass | Verdict::Wait(_) => {}
        }
        Next::Verdict(verdict)
    }

    /// The result of the phase after its last handler.
    fn conclude(self, refusal: &mut Option<u16>) -> Next {
        match refusal.take() {
            None => Next::Verdict(Verdict::Next),
            Some(401 | 407) if self.delays => Next::Delay,
            Some(status) => Next::Verdict(Verdict::Done(Reply::Status(status))),
        }
    }
}

/// Turns a handler's verdict in the access phase into one for the phase: [`Verdict::Granted`] ends it.
pub fn judge(request: &mut Request, verdict: Verdict) -> Verdict {
    match Rules::of(request).judge(&mut request.refusal, verdict) {
        Next::Delay => delay(request),
        Next::Verdict(Verdict::Granted) => {
            request.forget(Id::WwwAuthenticate);
            request.forget(Id::ProxyAuthenticate);
            Verdict::Granted
        }
        Next::Verdict(verdict) => verdict,
    }
}

/// The result of the access phase after its last handler.
#[inline]
pub fn conclude(request: &mut Request) -> Verdict {
    if request.refusal.is_none() {
        return Verdict::Next;
    }
    match Rules::of(request).conclude(&mut request.refusal) {
        Next::Delay => delay(request),
        Next::Verdict(verdict) => {
            if matches!(verdict, Verdict::Done(Reply::Status(403))) {
                log::error!(request.error_log(), &*request, "access forbidden by rule");
            }
            verdict
        }
    }
}

/// Delays the response, so that guessing passwords takes time.
fn delay(request: &mut Request) -> Verdict {
    log::info!(request.error_log(), &*request, "delaying unauthorized request");
    let ms = request.location.confs.auth_basic.delay_ms();
    // Its page, not its status, which would be judged and delayed again.
    let then = |request: &mut Request| {
        let status = if request.method == Method::Connect { 407 } else { 401 };
        Verdict::Done(error_page::reply(request, status))
    };
    Verdict::Wait(Pause::Delay { ms, then })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Rules = Rules { any: false, delays: false };
    const ANY: Rules = Rules { any: true, delays: false };

    fn status(status: u16) -> Verdict {
        Verdict::Done(Reply::Status(status))
    }

    fn name(next: &Next) -> String {
        match next {
            Next::Delay => "delay".into(),
            Next::Verdict(Verdict::Next) => "next".into(),
            Next::Verdict(Verdict::Granted) => "granted".into(),
            Next::Verdict(Verdict::Done(Reply::Status(status))) => status.to_string(),
            Next::Verdict(other) => format!("{other:?}"),
        }
    }

    /// Runs the verdicts of a phase's handlers up to the one that ends it, and returns the result of the
    /// phase.
    fn phase(rules: Rules, verdicts: Vec<Verdict>) -> String {
        let mut refusal = None;
        for verdict in verdicts {
            let next = rules.judge(&mut refusal, verdict);
            if !matches!(next, Next::Verdict(Verdict::Next)) {
                return name(&next);
            }
        }
        name(&rules.conclude(&mut refusal))
    }

    #[test]
    fn all_must_let_a_request_in() {
        assert_eq!(phase(ALL, vec![Verdict::Granted, Verdict::Next]), "next");
        assert_eq!(phase(ALL, vec![Verdict::Granted, status(401)]), "401");
        assert_eq!(phase(ALL, vec![status(403), Verdict::Granted]), "403");
        assert_eq!(phase(ALL, vec![]), "next");
    }

    #[test]
    fn any_may_let_a_request_in() {
        assert_eq!(phase(ANY, vec![status(403), Verdict::Granted, status(401)]), "granted");
        assert_eq!(phase(ANY, vec![status(403), status(401)]), "401");
        assert_eq!(phase(ANY, vec![status(401), status(403)]), "401");
        assert_eq!(phase(ANY, vec![status(403), status(407)]), "407");
        assert_eq!(phase(ANY, vec![status(403), Verdict::Next]), "403");
        // other replies are not refusals: they end the phase
        assert_eq!(phase(ANY, vec![status(403), status(500), Verdict::Granted]), "500");
        assert_eq!(phase(ANY, vec![status(503)]), "503");
    }

    #[test]
    fn a_401_waits_whoever_refuses() {
        let delays = |any| Rules { any, delays: true };
        assert_eq!(phase(delays(false), vec![status(401)]), "delay");
        assert_eq!(phase(delays(false), vec![status(403)]), "403");
        assert_eq!(phase(delays(true), vec![status(401), status(403)]), "delay");
        assert_eq!(phase(delays(true), vec![status(401), Verdict::Granted]), "granted");
        assert_eq!(phase(delays(true), vec![status(403)]), "403");
    }
}
