//! Errors that end a request: what happened on which side, the status for the client, and the message for the
//! log.
//!
//! Decisions (`$termination_reason`, another peer, whether to answer the client at all) match on [`Kind`];
//! the message is made by `Display`, for people only. `upstream/fault.rs` decides whether another peer may be
//! tried.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::http::upstream::name::{Name, Prefix};
use crate::log::Cause;
use crate::proto::h2::Code;
use crate::upstream::Fault;
use crate::upstream::trace::Action;

/// The side that caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    Ours,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Ours => "proxy",
        }
    }
}

/// The system call that failed on an upstream's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Connect,
    Send,
    Recv,
}

impl Call {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect()",
            Self::Send => "send()",
            Self::Recv => "recv()",
        }
    }
}

/// The operation for the client that an error's message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    RequestHead,
    RequestBody,
    SendResponse,
    EarlyHints,
    /// The operation of an upstream during which the client closed its connection.
    Upstream(Action),
}

impl During {
    /// nginx's words, which follow ` while `.
    fn as_str(self) -> &'static str {
        match self {
            Self::RequestHead => "reading client request headers",
            Self::RequestBody => "reading client request body",
            Self::SendResponse => "sending to client",
            Self::EarlyHints => "sending early hints to client",
            Self::Upstream(action) => action.as_str(),
        }
    }
}

/// The kind of an error. Protocol errors carry the words of the parser that found them.
#[derive(Debug)]
pub enum Kind {
    /// The client closed its connection during an operation for it.
    Gone,
    /// Reading from the client or writing to it failed.
    Lost(io::Error),
    /// The connection ended inside a message.
    Cut,
    /// A system call on an upstream's socket failed.
    Failed(Call, io::Error),
    /// An upstream's connection could not be encrypted: the whole message.
    Handshake(Box<str>),
    /// Nothing was transferred for the whole timeout.
    TimedOut,
    /// The response was not complete within `proxy_timeout_total`.
    Late,
    /// A response head does not fit its buffer.
    HeadTooBig,
    /// A malformed head, or one that frames its body ambiguously.
    BadHead(&'static str),
    /// The peer ended its response too early, in the terms of its protocol: what it ended.
    EndedEarly(&'static str),
    /// The peer refused the request in the terms of its protocol: the reason.
    Refused(&'static str),
    /// The peer ended its response with RST_STREAM (RFC 9113 §6.4).
    Reset(Code),
    /// The peer ended its connection with GOAWAY and an error, before it had begun the request (RFC 9113 §6.8).
    GoAway(Code),
    /// The peer says that it has not begun the request: it may be sent again, whatever it is (RFC 9113 §8.7).
    Unprocessed,
    /// The peer sent too many frames without use: of this kind.
    Flood(&'static str),
    /// The peer reported an error that the configuration names (`fastcgi_catch_stderr`).
    Caught,
    /// More interim responses than a peer may send before the final one.
    TooManyInterim,
    /// `proxy_allow_upstream` does not permit a connection to the peer.
    Denied,
    /// 101 for a request that did not ask for another protocol.
    UnaskedSwitch,
    /// 101 for a subrequest.
    SwitchInSubrequest,
    /// Malformed chunks.
    BadChunks(&'static str),
    /// A body that contradicts its head; the words follow `client sent`.
    BadBody(&'static str),
    /// Chunk extensions or trailers that do not fit a buffer.
    LongChunks,
    /// A request body larger than `client_max_body_size`: the bytes received, or declared.
    BodyTooLarge { is_chunked: bool, bytes: u64 },
    /// A response whose status allows another peer to be tried.
    Status(u16),
    /// The request's body was sent to an upstream that failed, and no copy is left.
    BodySpent,
    /// A name without an address: the name, and the reason.
    Unresolved(Box<(String, String)>),
    /// A subrequest asks to close the whole connection without a response.
    Dropped,
    /// The response of a subrequest broke off: its URI, and the cause.
    Subrequest(Box<(String, Kind)>),
    /// An error of the proxy itself, or of its configuration.
    Other(Cow<'static, str>),
}

impl Kind {
    /// The cause at the innermost subrequest, if this error came from one.
    pub fn root(&self) -> &Self {
        match self {
            Self::Subrequest(inner) => inner.1.root(),
            kind => kind,
        }
    }

    /// The fault of a peer that gave no response to pass on.
    pub fn fault(&self) -> Fault {
        match self {
            Self::TimedOut | Self::Late => Fault::Timeout,
            Self::Status(status) => Fault::Status(*status),
            Self::HeadTooBig
            | Self::BadHead(_)
            | Self::EndedEarly(_)
            | Self::Reset(_)
            | Self::GoAway(_)
            | Self::Flood(_)
            | Self::Caught
            | Self::TooManyInterim
            | Self::UnaskedSwitch
            | Self::SwitchInSubrequest
            | Self::BadChunks(_)
            | Self::BadBody(_)
            | Self::LongChunks => Fault::InvalidHeader,
            Self::Denied => Fault::Denied,
            Self::Gone
            | Self::Lost(_)
            | Self::Cut
            | Self::Refused(_)
            | Self::Unprocessed
            | Self::Failed(..)
            | Self::Handshake(_)
            | Self::BodyTooLarge { .. }
            | Self::BodySpent
            | Self::Unresolved(_)
            | Self::Dropped
            | Self::Subrequest(_)
            | Self::Other(_) => Fault::Error,
        }
    }

    /// Writes the message for the log.
    fn write(&self, side: Side, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = side.as_str();
        match self {
            Self::Gone | Self::Cut => write!(out, "{who} prematurely closed connection"),
            Self::Lost(error) => write!(out, "{who} closed connection ({error})"),
            Self::Failed(call, error) => write!(out, "{} failed {}", call.as_str(), Cause(error)),
            Self::Handshake(text) => out.write_str(text),
            Self::TimedOut => write!(out, "{who} timed out (110: Connection timed out)"),
            Self::Late => write!(out, "{who} timed out: the answer was not complete in time"),
            Self::HeadTooBig => write!(out, "{who} sent too big header"),
            Self::BadHead(why) | Self::BadBody(why) => write!(out, "{who} sent {why}"),
            Self::EndedEarly(what) => write!(out, "{who} prematurely closed {what}"),
            Self::Reset(code) => write!(out, "{who} rejected request with error {} ({code})", code.0),
            Self::GoAway(code) => write!(out, "{who} sent goaway with error {} ({code})", code.0),
            Self::Unprocessed => write!(out, "{who} refused the request before it was processed"),
            Self::Flood(what) => write!(out, "{who} sent too many frames without use, at last {what}"),
            Self::Refused(why) => write!(out, "{who} refused the request: {why}"),
            Self::Caught => {
                write!(out, "{who} reported an error that \"fastcgi_catch_stderr\" names")
            }
            Self::TooManyInterim => write!(out, "{who} sent too many 1xx"),
            Self::Denied => write!(out, "connection to {who} denied"),
            Self::UnaskedSwitch => write!(out, "{who} sent 101 without being asked to switch protocols"),
            Self::SwitchInSubrequest => {
                write!(out, "{who} sent 101 to a subrequest, which cannot switch protocols")
            }
            Self::BadChunks(why) => {
                let what = if side == Side::Client { "body" } else { "response" };
                write!(out, "{who} sent invalid chunked {what} ({why})")
            }
            Self::LongChunks => write!(out, "{who} sent too long chunk extensions or trailers"),
            Self::BodyTooLarge { is_chunked, bytes } => {
                let kind = if *is_chunked { "chunked body" } else { "body" };
                write!(out, "{who} intended to send too large {kind}: {bytes} bytes")
            }
            Self::Status(status) => write!(out, "{who} answered with {status}"),
            Self::BodySpent => {
                out.write_str("the request body was sent to a failed upstream and is not kept")
            }
            Self::Unresolved(why) => write!(out, "{} could not be resolved {}", why.0, why.1),
            Self::Dropped => out.write_str("a subrequest closes the connection"),
            Self::Subrequest(inner) => write!(out, "the answer of the subrequest \"{}\" broke off", inner.0),
            Self::Other(text) => out.write_str(text),
        }
    }
}

/// A limit of the configuration that ended a request; the log names its directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// With the bytes that were sent, or declared.
    BodySize(u64),
    BodyTimeout,
    BodyRate,
    HeaderTimeout,
    HeaderRate,
    HeadSize,
    FieldCount,
    SendTimeout,
    UpstreamHeadSize,
    SubrequestSize,
    TotalTimeout,
}

impl Limit {
    /// The directive, for `$termination_reason`; `family`: that of the directives in force for what goes upstream.
    pub fn directive(self, family: Prefix) -> Name {
        let name = match self {
            Self::UpstreamHeadSize => return family.directive("buffer_size"),
            Self::TotalTimeout => return family.directive("timeout_total"),
            Self::BodySize(_) => "client_max_body_size",
            Self::BodyTimeout => "client_body_timeout",
            Self::BodyRate => "client_body_min_rate",
            Self::HeaderTimeout => "client_header_timeout",
            Self::HeaderRate => "client_header_min_rate",
            Self::HeadSize => "large_client_header_buffers",
            Self::FieldCount => "max_headers",
            Self::SendTimeout => "send_timeout",
            Self::SubrequestSize => "subrequest_output_buffer_size",
        };
        name.into()
    }
}

/// The end of a request before its response was complete.
///
/// All code that reads or writes for a request returns it; the pipeline logs it once and, if nothing has been
/// sent, answers with its status. [`Error::client`], [`Error::upstream`] and [`Error::ours`] tell whose fault
/// it was.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub side: Side,
    /// The status of the response if nothing has been sent; 499: the client has gone.
    pub status: u16,
    /// The limit that was reached, if it comes from the configuration.
    pub limit: Option<Limit>,
    during: Option<During>,
}

impl Error {
    pub fn client(kind: Kind) -> Self {
        let status = match kind {
            Kind::Gone | Kind::Lost(_) => 499,
            Kind::TimedOut => 408,
            Kind::BodyTooLarge { .. } => 413,
            Kind::Dropped => 444,
            _ => 400,
        };
        Self { kind, side: Side::Client, status, limit: None, during: None }
    }

    pub fn upstream(kind: Kind) -> Self {
        let status = kind.fault().status();
        Self { kind, side: Side::Upstream, status, limit: None, during: None }
    }

    pub fn ours(cause: impl Into<Cow<'static, str>>) -> Self {
        let kind = Kind::Other(cause.into());
        Self { kind, side: Side::Ours, status: 500, limit: None, during: None }
    }

    /// Adds the limit that caused it.
    #[must_use]
    pub fn by(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Adds the operation to the message.
    #[must_use]
    pub fn during(self, during: During) -> Self {
        Self { during: Some(during), ..self }
    }

    /// The client closed its connection.
    pub fn left() -> Self {
        Self::client(Kind::Gone)
    }

    /// The client's connection failed.
    pub fn gone(cause: io::Error) -> Self {
        Self::client(Kind::Lost(cause))
    }

    /// The client read nothing, or sent nothing, for as long as `limit` allows.
    pub fn client_timed_out(during: During, limit: Limit) -> Self {
        Self::client(Kind::TimedOut).during(during).by(limit)
    }

    /// The error of the outer request when a subrequest ends with this one.
    #[must_use]
    pub fn of_subrequest(self, uri: String) -> Self {
        Self { kind: Kind::Subrequest(Box::new((uri, self.kind))), during: None, ..self }
    }

    /// True if the client gets no response: it has gone, or a subrequest asked to drop it.
    pub fn ends_silently(&self) -> bool {
        matches!(self.kind, Kind::Gone | Kind::Lost(_) | Kind::Dropped)
    }

    /// The limit that the message names with its value, if the configuration is to blame for an upstream's
    /// error.
    pub fn told_limit(&self) -> Option<Limit> {
        self.limit.filter(|_| self.side == Side::Client || matches!(self.kind, Kind::Late | Kind::HeadTooBig))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.write(self.side, out)?;
        let Some(during) = self.during else { return Ok(()) };
        if let During::Upstream(action) = during
            && action != Action::Resolving
        {
            out.write_str(", so upstream connection is closed too")?;
        }
        write!(out, " while {}", during.as_str())
    }
}

/// A failure of a peer before it gave a response that can be passed on. Its `Display` is nginx's message,
/// without the operation.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    /// The connection was a kept one and received no byte of a response: the peer may just have closed it.
    pub is_stale: bool,
}

impl Failure {
    /// True if the peer says that it has not begun the request.
    pub fn is_unprocessed(&self) -> bool {
        matches!(self.kind, Kind::Unprocessed)
    }
}

impl From<Kind> for Failure {
    fn from(kind: Kind) -> Self {
        Self { kind, is_stale: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.write(Side::Upstream, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> io::Error {
        io::Error::from_raw_os_error(104)
    }

    #[test]
    fn an_error_of_the_client_in_nginx_s_words_with_its_status() {
        let cases = [
            (Error::left(), 499, "client prematurely closed connection"),
            (Error::gone(reset()), 499, "client closed connection (Connection reset by peer (os error 104))"),
            (Error::client(Kind::Cut), 400, "client prematurely closed connection"),
            (
                Error::left().during(During::Upstream(Action::Resolving)),
                499,
                "client prematurely closed connection while resolving upstream",
            ),
            (
                Error::left().during(During::Upstream(Action::ReadingHead)),
                499,
                "client prematurely closed connection, so upstream connection is closed too \
                 while reading response header from upstream",
            ),
            (
                Error::client_timed_out(During::RequestHead, Limit::HeaderTimeout),
                408,
                "client timed out (110: Connection timed out) while reading client request headers",
            ),
            (
                Error::client_timed_out(During::RequestBody, Limit::BodyTimeout),
                408,
                "client timed out (110: Connection timed out) while reading client request body",
            ),
            (
                Error::client_timed_out(During::SendResponse, Limit::SendTimeout),
                408,
                "client timed out (110: Connection timed out) while sending to client",
            ),
            (
                Error::client_timed_out(During::EarlyHints, Limit::SendTimeout),
                408,
                "client timed out (110: Connection timed out) while sending early hints to client",
            ),
            (
                Error::client(Kind::BadChunks("invalid chunk")),
                400,
                "client sent invalid chunked body (invalid chunk)",
            ),
            (Error::client(Kind::LongChunks), 400, "client sent too long chunk extensions or trailers"),
            (
                Error::client(Kind::BodyTooLarge { is_chunked: false, bytes: 11 }),
                413,
                "client intended to send too large body: 11 bytes",
            ),
            (
                Error::client(Kind::BodyTooLarge { is_chunked: true, bytes: 12 }),
                413,
                "client intended to send too large chunked body: 12 bytes",
            ),
            (Error::client(Kind::Dropped), 444, "a subrequest closes the connection"),
        ];
        for (error, status, words) in cases {
            assert_eq!((error.status, &*error.to_string()), (status, words));
        }
    }

    #[test]
    fn an_error_of_the_upstream_in_nginx_s_words_with_its_fault() {
        let (error, timeout, invalid) = (Fault::Error, Fault::Timeout, Fault::InvalidHeader);
        let unresolved = Kind::Unresolved(Box::new(("a.example".into(), "(3: Host not found)".into())));
        let cases = [
            (Kind::Cut, error, "upstream prematurely closed connection"),
            (Kind::Failed(Call::Connect, reset()), error, "connect() failed (104: Connection reset by peer)"),
            (Kind::Failed(Call::Send, reset()), error, "send() failed (104: Connection reset by peer)"),
            (Kind::Failed(Call::Recv, reset()), error, "recv() failed (104: Connection reset by peer)"),
            (Kind::TimedOut, timeout, "upstream timed out (110: Connection timed out)"),
            (Kind::Late, timeout, "upstream timed out: the answer was not complete in time"),
            (Kind::HeadTooBig, invalid, "upstream sent too big header"),
            (Kind::BadHead("invalid status line"), invalid, "upstream sent invalid status line"),
            (Kind::TooManyInterim, invalid, "upstream sent too many 1xx"),
            (Kind::Denied, Fault::Denied, "connection to upstream denied"),
            (Kind::UnaskedSwitch, invalid, "upstream sent 101 without being asked to switch protocols"),
            (
                Kind::SwitchInSubrequest,
                invalid,
                "upstream sent 101 to a subrequest, which cannot switch protocols",
            ),
            (
                Kind::BadChunks("too large chunk"),
                invalid,
                "upstream sent invalid chunked response (too large chunk)",
            ),
            (Kind::LongChunks, invalid, "upstream sent too long chunk extensions or trailers"),
            (Kind::BodySpent, error, "the request body was sent to a failed upstream and is not kept"),
            (unresolved, error, "a.example could not be resolved (3: Host not found)"),
            (Kind::Status(503), Fault::Status(503), "upstream answered with 503"),
        ];
        for (kind, fault, words) in cases {
            assert_eq!(kind.fault(), fault, "{words}");
            let error = Error::upstream(kind);
            assert_eq!((&*error.to_string(), error.status), (words, fault.status()));
            assert_eq!(Failure::from(error.kind).to_string(), words);
        }
    }

    #[test]
    fn only_a_client_that_has_gone_gets_no_answer() {
        for error in [Error::left(), Error::gone(reset()), Error::client(Kind::Dropped)] {
            assert!(error.ends_silently() && !error.of_subrequest("/a".into()).ends_silently());
        }
        for error in [Error::client(Kind::Cut), Error::upstream(Kind::Cut), Error::ours("full")] {
            assert!(!error.ends_silently(), "{error}");
        }
    }

    #[test]
    fn the_end_of_a_subrequest_keeps_what_it_was() {
        let inner = Error::upstream(Kind::Late).by(Limit::TotalTimeout);
        assert_eq!(inner.told_limit(), Some(Limit::TotalTimeout));
        let outer = inner.of_subrequest("/a?b".into()).of_subrequest("/c".into());
        assert_eq!(outer.to_string(), "the answer of the subrequest \"/c\" broke off");
        assert!(matches!(outer.kind.root(), Kind::Late));
        assert_eq!((outer.status, outer.side, outer.limit), (504, Side::Upstream, Some(Limit::TotalTimeout)));
        assert_eq!(outer.told_limit(), None, "the subrequest's own message has told it");
    }

    #[test]
    fn an_error_stays_small() {
        assert!(size_of::<Error>() <= 48, "it is part of every future of a request");
    }
}
