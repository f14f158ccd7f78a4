//! The end of a request: by which side, how, in which phase, by which limit (`$termination_reason`).
//!
//! Recorded only if something goes wrong; a request without a record whose whole response was sent is `ok`.
//! The words of the value are an interface: operators search their logs for them, and `man/pronghorn.conf.5`
//! lists them. The idea comes from HAProxy's termination state.

use crate::http::request::Request;
use crate::http::request::error::{Error, Failure, Kind, Limit, Side};
use crate::http::upstream::name::{Name, Prefix};
use crate::shm::detail::End;
use crate::upstream::trace::Action;

/// The side that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Client,
    Upstream,
    Proxy,
}

/// How it was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The connection was closed or reset prematurely.
    Abort,
    Timeout,
    /// Invalid data was sent, or no connection could be made.
    Error,
    /// More was sent than a limit of the configuration allows.
    Limit,
    /// No server of the group may be tried now.
    Down,
}

/// The operation in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    RequestHead,
    RequestBody,
    /// Within the proxy: rewriting, access, files.
    Process,
    Resolve,
    Connect,
    SendRequest,
    ResponseHead,
    ResponseBody,
    SendResponse,
    Tunnel,
}

/// The end of a request that was not answered as it should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    pub who: Who,
    pub how: How,
    pub phase: Phase,
    /// The directive whose value was reached.
    pub limit: Option<Name>,
}

impl Termination {
    pub fn new(who: Who, how: How, phase: Phase) -> Self {
        Self { who, how, phase, limit: None }
    }

    /// Adds the directive whose value was reached.
    #[must_use]
    pub fn by(self, directive: impl Into<Name>) -> Self {
        Self { limit: Some(directive.into()), ..self }
    }

    /// A head that was refused, or did not arrive; `limit`: the limit that decided, if it comes from the
    /// configuration.
    pub fn of_head(limit: Option<Limit>, family: Prefix) -> Self {
        let client = |how| Self::new(Who::Client, how, Phase::RequestHead);
        match limit {
            Some(limit @ (Limit::HeaderTimeout | Limit::HeaderRate)) => {
                client(How::Timeout).by(limit.directive(family))
            }
            Some(limit) => client(How::Limit).by(limit.directive(family)),
            None => client(How::Error),
        }
    }

    /// The end if no peer could answer: why the last one did not. `None`: it did, and its status is passed
    /// on.
    pub fn of_failure(failure: &Failure, action: Option<Action>, family: Prefix) -> Option<Self> {
        let phase = phase_of(action);
        let upstream = |how| Self::new(Who::Upstream, how, phase);
        match failure.kind {
            Kind::Status(_) => None,
            Kind::TimedOut | Kind::Late => Some(upstream(How::Timeout).by(timeout(phase, family))),
            Kind::HeadTooBig => Some(upstream(How::Limit).by(Limit::UpstreamHeadSize.directive(family))),
            Kind::Denied => {
                Some(Self::new(Who::Proxy, How::Error, phase).by(family.directive("allow_upstream")))
            }
            Kind::Cut | Kind::Failed(..) if phase != Phase::Connect => Some(upstream(How::Abort)),
            _ => Some(upstream(How::Error)),
        }
    }

    /// The side and the manner, for counters.
    pub fn end(self) -> End {
        End::new(self.who as u8, self.how as u8)
    }

    /// Writes `who_how/phase` or `who_how/phase/limit`.
    pub fn write(self, out: &mut Vec<u8>) {
        let words = [
            match self.who {
                Who::Client => "client_",
                Who::Upstream => "upstream_",
                Who::Proxy => "proxy_",
            },
            match self.how {
                How::Abort => "abort",
                How::Timeout => "timeout",
                How::Error => "error",
                How::Limit => "limit",
                How::Down => "down",
            },
            match self.phase {
                Phase::RequestHead => "/request_head",
                Phase::RequestBody => "/request_body",
                Phase::Process => "/process",
                Phase::Resolve => "/resolve",
                Phase::Connect => "/connect",
                Phase::SendRequest => "/send_request",
                Phase::ResponseHead => "/response_head",
                Phase::ResponseBody => "/response_body",
                Phase::SendResponse => "/send_response",
                Phase::Tunnel => "/tunnel",
            },
        ];
        words.iter().for_each(|word| out.extend_from_slice(word.as_bytes()));
        if let Some(limit) = self.limit {
            out.push(b'/');
            limit.write(out);
        }
    }
}

/// Records what an error means for the request. `has_started`: the client has got part of a response.
#[cold]
pub fn note(request: &mut Request, has_started: bool, error: &Error) {
    let action = request.upstream.action;
    let (who, how) = decide(error);
    let phase = match error.side {
        Side::Client if is_of_body(error.kind.root()) => Phase::RequestBody,
        Side::Client if matches!(error.kind, Kind::Dropped) => Phase::Process,
        Side::Client if has_started => Phase::SendResponse,
        Side::Client if !request.body.is_read() => Phase::RequestBody,
        Side::Client if action.is_none() => Phase::SendResponse,
        Side::Upstream if has_started => Phase::ResponseBody,
        Side::Upstream if action.is_none() => Phase::Resolve,
        Side::Client | Side::Upstream => phase_of(action),
        Side::Ours => Phase::Process,
    };
    let family = request.passes().prefix();
    let limit = error.limit.map(|limit| limit.directive(family));
    let timed_out = || (who == Who::Upstream && how == How::Timeout).then(|| timeout(phase, family));
    let limit = limit.or_else(timed_out);
    request.termination = Some(Termination { who, how, phase, limit });
}

/// Which side ended a request, and how. The end of a subrequest aborts nothing: the outer request continues
/// to its end.
fn decide(error: &Error) -> (Who, How) {
    match (error.side, error.kind.root()) {
        (Side::Client, Kind::Dropped) => (Who::Proxy, How::Abort),
        (Side::Client, Kind::TimedOut) => (Who::Client, How::Timeout),
        (Side::Client, Kind::BodyTooLarge { .. }) => (Who::Client, How::Limit),
        (Side::Upstream, Kind::TimedOut | Kind::Late) => (Who::Upstream, How::Timeout),
        (Side::Ours, _) if error.limit.is_some() => (Who::Proxy, How::Limit),
        (Side::Ours, _) => (Who::Proxy, How::Error),
        (side, _) => {
            let who = if side == Side::Client { Who::Client } else { Who::Upstream };
            let is_abort = matches!(error.kind, Kind::Gone | Kind::Lost(_) | Kind::Cut | Kind::Failed(..));
            (who, if is_abort { How::Abort } else { How::Error })
        }
    }
}

/// True if the request's body caused the error, not sending the response.
fn is_of_body(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Cut | Kind::BadChunks(_) | Kind::BadBody(_) | Kind::LongChunks | Kind::BodyTooLarge { .. }
    )
}

/// The value of `$termination_reason`.
pub fn write(request: &Request, out: &mut Vec<u8>) {
    match request.termination {
        Some(termination) => termination.write(out),
        None if request.is_complete => out.extend_from_slice(b"ok"),
        // No error was recorded: the worker itself has left, or the request is still in progress.
        None => {
            let phase = match request.upstream.action {
                _ if request.head_bytes_sent > 0 => Phase::SendResponse,
                None => Phase::Process,
                action => phase_of(action),
            };
            Termination::new(Who::Proxy, How::Abort, phase).write(out);
        }
    }
}

fn phase_of(action: Option<Action>) -> Phase {
    match action {
        Some(Action::Resolving) => Phase::Resolve,
        Some(Action::Connecting | Action::Handshaking) => Phase::Connect,
        Some(Action::Sending) => Phase::SendRequest,
        Some(Action::ReadingHead) | None => Phase::ResponseHead,
        Some(Action::ReadingBody) => Phase::ResponseBody,
    }
}

/// The directive that limits the upstream's time in a phase.
fn timeout(phase: Phase, family: Prefix) -> Name {
    family.directive(match phase {
        Phase::Connect => "connect_timeout",
        Phase::SendRequest => "send_timeout",
        _ => "read_timeout",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::error::Call;

    fn reset() -> std::io::Error {
        std::io::Error::from_raw_os_error(104)
    }

    fn shown(termination: Option<Termination>) -> String {
        let mut out = Vec::new();
        termination.inspect(|termination| termination.write(&mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_failure_of_the_last_peer_names_its_phase_and_limit() {
        let family = Prefix("proxy_");
        let connecting = Some(Action::Connecting);
        let reading = Some(Action::ReadingHead);
        let cases = [
            (Kind::Failed(Call::Connect, reset()), connecting, "upstream_error/connect"),
            (Kind::TimedOut, connecting, "upstream_timeout/connect/proxy_connect_timeout"),
            (Kind::TimedOut, Some(Action::Sending), "upstream_timeout/send_request/proxy_send_timeout"),
            (Kind::TimedOut, reading, "upstream_timeout/response_head/proxy_read_timeout"),
            (Kind::Failed(Call::Send, reset()), Some(Action::Sending), "upstream_abort/send_request"),
            (Kind::Failed(Call::Recv, reset()), reading, "upstream_abort/response_head"),
            (Kind::Cut, reading, "upstream_abort/response_head"),
            (Kind::HeadTooBig, reading, "upstream_limit/response_head/proxy_buffer_size"),
            (Kind::BadHead("invalid status line"), reading, "upstream_error/response_head"),
            (Kind::TooManyInterim, reading, "upstream_error/response_head"),
            (Kind::Denied, connecting, "proxy_error/connect/proxy_allow_upstream"),
            (Kind::Status(503), reading, ""),
        ];
        for (kind, action, expected) in cases {
            let failure = Failure::from(kind);
            assert_eq!(shown(Termination::of_failure(&failure, action, family)), expected, "{failure}");
        }
    }

    #[test]
    fn each_kind_of_error_says_who_and_how() {
        let unresolved = Kind::Unresolved(Box::new(("a".into(), "(3: Host not found)".into())));
        let cases = [
            (Error::left(), (Who::Client, How::Abort)),
            (Error::gone(reset()), (Who::Client, How::Abort)),
            (Error::client(Kind::Cut), (Who::Client, How::Abort)),
            (Error::client(Kind::TimedOut), (Who::Client, How::Timeout)),
            (Error::client(Kind::BodyTooLarge { is_chunked: true, bytes: 1 }), (Who::Client, How::Limit)),
            (Error::client(Kind::BadChunks("invalid chunk")), (Who::Client, How::Error)),
            (Error::client(Kind::LongChunks), (Who::Client, How::Error)),
            (Error::client(Kind::Dropped), (Who::Proxy, How::Abort)),
            (Error::upstream(Kind::Cut), (Who::Upstream, How::Abort)),
            (Error::upstream(Kind::Failed(Call::Recv, reset())), (Who::Upstream, How::Abort)),
            (Error::upstream(Kind::TimedOut), (Who::Upstream, How::Timeout)),
            (Error::upstream(Kind::Late), (Who::Upstream, How::Timeout)),
            (Error::upstream(Kind::BadChunks("invalid chunk")), (Who::Upstream, How::Error)),
            (Error::upstream(Kind::UnaskedSwitch), (Who::Upstream, How::Error)),
            (Error::upstream(unresolved), (Who::Upstream, How::Error)),
            (Error::ours("full"), (Who::Proxy, How::Error)),
            (Error::ours("full").by(Limit::SubrequestSize), (Who::Proxy, How::Limit)),
            (Error::upstream(Kind::Cut).of_subrequest("/a".into()), (Who::Upstream, How::Error)),
            (Error::upstream(Kind::Late).of_subrequest("/a".into()), (Who::Upstream, How::Timeout)),
            (Error::client(Kind::TimedOut).of_subrequest("/a".into()), (Who::Client, How::Timeout)),
        ];
        for (error, expected) in cases {
            assert_eq!(decide(&error), expected, "{error:?}");
        }
    }
}
