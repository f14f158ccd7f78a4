//! What ended a request: who, how, in which phase, by which limit (`$termination_reason`).
//!
//! Noted only where something has gone wrong; a request without a note that was answered whole is `ok`. The words of
//! the value are an interface: operators search their logs for them, and `man/pronghorn.conf.5` lists them.
//! Idea: HAProxy's termination state.

use crate::http::request::Request;
use crate::http::request::error::{Error, Limit, Side};
use crate::http::upstream::exchange::Failure;
use crate::http::upstream::trace::Action;
use crate::upstream::Fault;

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Client,
    Upstream,
    Proxy,
}

/// How it was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The connection was closed or reset before its time.
    Abort,
    Timeout,
    /// What was sent cannot be understood, or the connection cannot be made.
    Error,
    /// More was sent than a limit of the configuration allows.
    Limit,
    /// No server of the group may be asked now.
    Down,
}

/// What was under way.
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
    pub limit: Option<&'static str>,
}

impl Termination {
    pub fn new(who: Who, how: How, phase: Phase) -> Self {
        Self { who, how, phase, limit: None }
    }

    pub fn by(self, limit: Limit) -> Self {
        self.by_directive(limit.directive())
    }

    pub fn by_directive(self, limit: &'static str) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// A head that was refused, or did not come; `limit`: what decided, where the configuration did.
    pub fn of_head(limit: Option<Limit>) -> Self {
        let client = |how| Self::new(Who::Client, how, Phase::RequestHead);
        match limit {
            Some(limit @ (Limit::HeaderTimeout | Limit::HeaderRate)) => client(How::Timeout).by(limit),
            Some(limit) => client(How::Limit).by(limit),
            None => client(How::Error),
        }
    }

    /// No peer could answer, and this is why the last one did not; `None`: it did, and its status is passed on.
    pub fn of_failure(failure: &Failure, action: Option<Action>) -> Option<Self> {
        let phase = phase_of(action);
        let upstream = |how| Self::new(Who::Upstream, how, phase);
        match failure.fault {
            Fault::Timeout => Some(timed_out(phase)),
            Fault::Error if phase == Phase::Connect => Some(upstream(How::Error)),
            Fault::Error => Some(upstream(How::Abort)),
            Fault::InvalidHeader if failure.is_too_big() => {
                Some(upstream(How::Limit).by(Limit::UpstreamHeadSize))
            }
            Fault::InvalidHeader => Some(upstream(How::Error)),
            _ => None,
        }
    }

    /// `who_how/phase` or `who_how/phase/limit`.
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
            if self.limit.is_some() { "/" } else { "" },
            self.limit.unwrap_or(""),
        ];
        words.iter().for_each(|word| out.extend_from_slice(word.as_bytes()));
    }
}

/// Notes what an error means for the request. `has_started`: the client has begun to get an answer.
#[cold]
pub fn note(request: &mut Request, has_started: bool, error: &Error) {
    let action = request.upstream.action;
    let (who, how) = match (error.side, error.status) {
        (Side::Client, 408) => (Who::Client, How::Timeout),
        (Side::Client, 413) => (Who::Client, How::Limit),
        (Side::Client, 444) => (Who::Proxy, How::Abort),
        (Side::Client, 499) => (Who::Client, How::Abort),
        (Side::Client, _) if error.is_early_end() => (Who::Client, How::Abort),
        (Side::Client, _) => (Who::Client, How::Error),
        (Side::Upstream, 504) => (Who::Upstream, How::Timeout),
        (Side::Upstream, _) if error.is_early_end() => (Who::Upstream, How::Abort),
        (Side::Upstream, _) => (Who::Upstream, How::Error),
        (Side::Ours, _) if error.limit.is_some() => (Who::Proxy, How::Limit),
        (Side::Ours, _) => (Who::Proxy, How::Error),
    };
    let phase = match error.side {
        Side::Client if matches!(error.status, 400 | 413) => Phase::RequestBody,
        Side::Client if error.status == 444 => Phase::Process,
        Side::Client if has_started => Phase::SendResponse,
        Side::Client if !request.body.is_read() => Phase::RequestBody,
        Side::Client if action.is_none() => Phase::SendResponse,
        Side::Upstream if has_started => Phase::ResponseBody,
        Side::Upstream if action.is_none() => Phase::Resolve,
        Side::Client | Side::Upstream => phase_of(action),
        Side::Ours => Phase::Process,
    };
    let limit = error.limit.map(Limit::directive).or(match who {
        Who::Upstream if how == How::Timeout => timed_out(phase).limit,
        _ => None,
    });
    request.termination = Some(Termination { who, how, phase, limit });
}

/// The value of `$termination_reason`.
pub fn write(request: &Request, out: &mut Vec<u8>) {
    match request.termination {
        Some(termination) => termination.write(out),
        None if request.is_complete => out.extend_from_slice(b"ok"),
        // Nobody complained: the worker itself has left, or it is not over yet.
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
        Some(Action::Connecting) => Phase::Connect,
        Some(Action::Sending) => Phase::SendRequest,
        Some(Action::ReadingHead) | None => Phase::ResponseHead,
        Some(Action::ReadingBody) => Phase::ResponseBody,
    }
}

fn timed_out(phase: Phase) -> Termination {
    Termination::new(Who::Upstream, How::Timeout, phase).by_directive(match phase {
        Phase::Connect => "proxy_connect_timeout",
        Phase::SendRequest => "proxy_send_timeout",
        _ => "proxy_read_timeout",
    })
}
