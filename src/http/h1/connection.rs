//! The life of an HTTP/1.1 connection, read top to bottom.
//!
//! Touches: the client's connection. Between two requests it holds only its transport, a timer and this
//! future (`idle_connection_fits_its_budget`). RFC 9112; nginx.org, ngx_http_core_module (`keepalive_*`,
//! `client_header_*`, `lingering_*`).

mod prologue;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use prologue::{Security, check_status, close_early, read_proxy_header, secure};

use crate::base::in_place::pinned;
use crate::http::begin::{self, Arrived};
use crate::http::client::Client;
use crate::http::config::server::{Listen, Server};
use crate::http::downstream::Downstream;
use crate::http::h1::Reader;
use crate::http::handshake;
use crate::http::modules::http_core;
use crate::http::pipeline::{self, Entry};
use crate::http::request::body::{self, Body};
use crate::http::request::error::{During, Error, Limit};
use crate::http::request::limit;
use crate::http::request::parked::Parked;
use crate::http::request::target;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::request::{Connection, Request};
use crate::http::tunnel;
use crate::http::upstream::switched::Switched;
use crate::http::{Service, h2};
use crate::log::{self, access};
use crate::net::handover::{Handover, PROXY_BYTES_MAX};
use crate::net::{self, Transport, clients, drain, open, proxy_header, room};
use crate::proto::h1;
use crate::proto::h1::length;
use crate::proto::h1::request::{self as head, Progress, Seen};
use crate::proto::head::RequestHead;
use crate::proto::message::Method;
use crate::proto::proxy_protocol;
use crate::proto::uri;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, Io, Waiting, race, sleep, timeout};
use crate::shm::counter::{self, Total};
use crate::shm::heartbeat;
use crate::sys::address::SockAddr;

/// A client connection between requests.
///
/// [`serve`] owns it for the whole life of the connection, which is one task; a request borrows its
/// transport. An idle one can move to a worker of the next generation: `hand_over` gives it away,
/// [`Conn::adopted`] continues it there.
pub struct Conn {
    transport: Transport,
    service: Service,
    listen: &'static Listen,
    peer: SockAddr,
    number: u64,
    requests: u64,
    opened_ms: u64,
    /// The timer of waits for requests, reused from one to the next.
    timer: runtime::Timer,
    /// The end of the wait for the next request that has begun already: it was handed over with the
    /// connection, or bytes arrived that were no part of a request. `None`: a wait begins with its full time.
    wait_until_ms: Option<u64>,
    /// `keepalive_timeout` of the last request's location, and the minimum for which the connection stays
    /// open (`keepalive_min_timeout`).
    keepalive_ms: u32,
    keepalive_min_ms: u32,
    /// The current request started in bytes that arrived with the previous one.
    is_pipelined: bool,
    /// When it was asked to close, its head was arriving fast enough, so others were asked first.
    is_spared: bool,
    /// The client's address as sent by a proxy in front (`listen … proxy_protocol`).
    proxy: Option<Rc<proxy_protocol::Header>>,
    security: Security,
    held: Held,
    open: open::Guard,
}

/// Bytes that a connection holds while it waits.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Bytes of the next request that arrived with the previous one.
    Ahead(Buffer),
    /// An incomplete head.
    Head(Partial),
}

/// A head that has not arrived completely.
#[derive(Debug)]
struct Partial {
    bytes: Buffer,
    /// The start of the incomplete line.
    line: u32,
    /// When the first byte arrived.
    began_ms: u64,
}

/// The state of the connection after a request.
enum After {
    /// There was no request: a new connection whose client has not sent anything. Nothing is kept for it.
    Nothing,
    /// The head is incomplete: the connection keeps its bytes, and nothing else.
    Partial,
    KeepAlive,
    Close,
    /// Bytes of an unread body are on their way: close without a reset, which could destroy the response.
    Linger(&'static http_core::Conf),
    Tunnel(Box<(Switched, Parked)>),
    /// The client speaks HTTP/2 from the first byte, of which these have arrived.
    Http2(Box<Buffer>),
}

impl Conn {
    /// Registers a client's socket with the loop. Errors: those of epoll.
    pub fn open(
        fd: OwnedFd,
        service: Service,
        listen: &'static Listen,
        peer: SockAddr,
        number: u64,
    ) -> io::Result<Self> {
        Ok(Self::new(Io::register(fd)?.into(), service, listen, peer, number))
    }

    pub(in crate::http) fn new(
        transport: Transport,
        service: Service,
        listen: &'static Listen,
        peer: SockAddr,
        number: u64,
    ) -> Self {
        let open =
            open::Guard::new(clients::Client::new(number, clients::Protocol::Http1, transport.probe()));
        let opened_ms = runtime::now_ms();
        Self {
            transport,
            service,
            listen,
            peer,
            number,
            requests: 0,
            opened_ms,
            timer: runtime::Timer::new(),
            wait_until_ms: None,
            keepalive_ms: 0,
            keepalive_min_ms: 0,
            is_pipelined: false,
            is_spared: false,
            proxy: None,
            security: Security::new(listen),
            held: Held::Nothing,
            open,
        }
    }

    /// Continues with a connection from a worker of an older generation. That worker is not trusted: an idle
    /// connection stays at most for the longest `keepalive_timeout` of this configuration, and one with an
    /// invalid PROXY header is refused.
    pub fn adopted(mut self, handover: &Handover) -> Option<Self> {
        let now = runtime::now_ms();
        self.transport.share();
        if !handshake::resume(&mut self.transport, &handover.tls, self.service.config(), self.listen) {
            return None;
        }
        self.security = Security::of_adopted(&self.transport);
        self.proxy = proxy_header::of_handover(&handover.proxy).ok()?.map(Rc::new);
        // It was idle between two requests, so it has had at least one, and it may have had many more.
        self.requests = handover.requests.clamp(1, u64::from(u32::MAX));
        self.opened_ms = now.saturating_sub(handover.opened_ms_ago);
        self.wait_until_ms = Some(now + handover.idle_ms_left.min(self.service.config().keepalive_ms_max));
        Some(self)
    }

    fn default_server(&self) -> &'static Server {
        &self.service.config().servers[self.listen.default]
    }

    /// Counts a request that starts to be answered.
    fn count_request(&mut self) {
        self.requests += 1;
        self.open.turn(Total::Writing);
        counter::add(Total::Requests, 1);
    }

    /// How long to wait for the next request.
    fn idle_ms(&self) -> u64 {
        let core = &self.default_server().root.confs.http_core;
        match self.wait_until_ms.map(|until_ms| until_ms.saturating_sub(runtime::now_ms())) {
            Some(left) => left.max(1),
            None if self.requests == 0 => room::shorten(core.client_header_timeout_ms()),
            None => room::shorten(u64::from(self.keepalive_ms)),
        }
    }

    /// The end of the wait for the rest of a head: `client_header_timeout`, or what `client_header_min_rate`
    /// leaves. `None`: no head has started.
    fn head_deadline_ms(&self) -> Option<u64> {
        let Held::Head(partial) = &self.held else { return None };
        let core = &self.default_server().root.confs.http_core;
        Some(partial.began_ms + room::shorten(core.client_header_timeout_ms()).min(partial.paced_ms(core)))
    }

    /// The worker has asked this connection to close, and its head is incomplete. If the head arrives fast
    /// enough, others go first, once.
    #[cold]
    fn gives_way(&mut self) -> bool {
        let core = &self.default_server().root.confs.http_core;
        let is_slow = match &self.held {
            Held::Head(partial) => {
                let needed_ms = core.client_header_least_rate().time_for_ms(partial.length());
                runtime::now_ms() >= partial.began_ms + needed_ms
            }
            Held::Nothing | Held::Ahead(_) => true,
        };
        if is_slow || std::mem::replace(&mut self.is_spared, true) {
            return true;
        }
        self.transport.unlist();
        false
    }

    /// Continues with HTTP/2; `first` has arrived of it already.
    fn into_h2(self, first: Buffer) -> h2::Conn {
        let Self { transport, service, listen, peer, number, opened_ms, proxy, open, .. } = self;
        h2::Conn::new(h2::Begun { transport, service, listen, peer, number, opened_ms, proxy, open, first })
    }

    /// Errors: the connection, if bytes of it are on their way, so that it cannot move now.
    #[expect(clippy::result_large_err, reason = "the connection that stays goes on")]
    fn into_handover(mut self, idle_ms_left: u64) -> Result<(Service, OwnedFd, Handover), Self> {
        let (fd, tls) = match self.transport.into_parts() {
            Ok(parts) => parts,
            Err(transport) => {
                self.transport = transport;
                return Err(self);
            }
        };
        let handover = Handover {
            listen: self.service.listen_index(self.listen),
            requests: self.requests,
            idle_ms_left,
            opened_ms_ago: runtime::now_ms().saturating_sub(self.opened_ms),
            number: self.number,
            proxy: self.proxy.as_deref().map(proxy_header::for_handover).unwrap_or_default(),
            tls,
        };
        Ok((self.service, fd, handover))
    }
}

impl Partial {
    fn length(&self) -> u64 {
        self.bytes.data().len() as u64
    }

    /// How long this many bytes may take at the minimum rate of a head.
    fn paced_ms(&self, core: &http_core::Conf) -> u64 {
        let rate = core.client_header_min_rate();
        rate.map_or(u64::MAX, |rate| u64::from(rate.grace_ms) + rate.time_for_ms(self.length()))
    }
}

/// Serves a connection until it ends.
///
/// An `async` block, not an `async fn`: the future of the latter would keep `conn` twice, as its argument and
/// as a local.
#[allow(clippy::manual_async_fn)]
pub fn serve(mut conn: Conn) -> impl Future<Output = ()> {
    async move {
        loop {
            if let Some(deadline_ms) = conn.head_deadline_ms() {
                let left = deadline_ms.saturating_sub(runtime::now_ms());
                if left == 0 || timeout(left, conn.transport.waiting(Waiting::Head)).await.is_err() {
                    return Box::pin(head_timed_out(&mut conn)).await;
                }
            } else if matches!(conn.held, Held::Nothing) {
                let wait = conn.idle_ms();
                let until_ms = runtime::now_ms() + wait;
                // TLS records without data, or a record that drips in, must not extend the wait.
                conn.wait_until_ms = Some(until_ms);
                let leaving = drain::reached(if conn.requests == 0 {
                    drain::Mode::Close
                } else {
                    drain::Mode::HandOver
                });
                let request =
                    runtime::timeout_by(&mut conn.timer, wait, conn.transport.waiting(Waiting::Idle));
                match race(request, leaving).await {
                    Either::First(Ok(Ok(()))) => {}
                    Either::First(_) => return,
                    Either::Second(()) if drain::mode() == drain::Mode::HandOver => {
                        match hand_over(conn, until_ms) {
                            None => return,
                            // Part of a record has arrived: a request is on its way.
                            Some(kept) => conn = kept,
                        }
                        if !Box::pin(conn.speaks_up(until_ms)).await {
                            return;
                        }
                    }
                    Either::Second(()) if Box::pin(conn.speaks_up(until_ms)).await => {}
                    Either::Second(()) => return,
                }
            }
            // Only before the first request: a reload may have turned `proxy_protocol` on since.
            if conn.listen.proxy_protocol && conn.proxy.is_none() && conn.requests == 0 {
                if Box::pin(read_proxy_header(&mut conn)).await {
                    conn.wait_until_ms = None;
                    continue;
                }
                return;
            }
            if conn.security == Security::Handshake {
                if !Box::pin(secure(&mut conn)).await {
                    return;
                }
                conn.wait_until_ms = None;
                if conn.transport.tls().is_some_and(|info| *info.protocol == *h2::ALPN) {
                    return speak_h2(conn, Buffer::default());
                }
                continue;
            }
            if conn.security == Security::Status {
                Box::pin(check_status(&mut conn)).await;
            }
            match pinned(|| one_request(&mut conn)).await {
                After::Nothing | After::Partial if conn.transport.is_asked() && conn.gives_way() => return,
                After::Nothing => conn.open.turn(Total::Waiting),
                After::Partial => conn.open.rests(),
                After::KeepAlive => {
                    conn.open.turn(Total::Waiting);
                    conn.wait_until_ms = None;
                }
                // Flush first: a client that sees the close must already find its request in the access log.
                After::Close if conn.transport.is_early() => return Box::pin(close_early(&conn)).await,
                After::Close => return access::flush_turn(),
                // Boxed, like the request: a future that is awaited here would make every idle connection larger.
                After::Linger(core) => {
                    access::flush_turn();
                    return Box::pin(linger(&conn, core)).await;
                }
                After::Tunnel(begun) => return tunnel(conn, *begun),
                After::Http2(first) => return speak_h2(conn, *first),
            }
        }
    }
}

/// Goes on with HTTP/2, in a task of its own. A function, so that nothing of it is part of the future of [`serve`].
#[inline(never)]
fn speak_h2(conn: Conn, first: Buffer) {
    runtime::spawn(h2::serve(conn.into_h2(first)));
}

/// Goes on as a tunnel, in a task of its own.
#[inline(never)]
fn tunnel(conn: Conn, (upstream, request): (Switched, Parked)) {
    let Conn { service, transport, open, .. } = conn;
    runtime::spawn(tunnel::run(tunnel::Tunnel::new(service, (transport, open), upstream, request)));
}

impl Conn {
    /// True if an idle connection of a leaving worker receives a request after all.
    async fn speaks_up(&self, until_ms: u64) -> bool {
        let end = race(sleep(self.stays_ms(until_ms)), drain::reached(drain::Mode::Now));
        matches!(race(self.transport.readable(), end).await, Either::First(Ok(())))
    }

    /// How long an idle connection of a leaving worker waits for a request that may be on its way; `until_ms`
    /// is when it would have closed anyway.
    fn stays_ms(&self, until_ms: u64) -> u64 {
        if self.keepalive_min_ms == 0 {
            return 1; // a request may have arrived that the loop has not seen yet: look once
        }
        let idle_since_ms = until_ms.saturating_sub(u64::from(self.keepalive_ms));
        let stays_until_ms = (idle_since_ms + u64::from(self.keepalive_min_ms)).min(until_ms);
        stays_until_ms.saturating_sub(runtime::now_ms()).max(1)
    }
}

/// Gives an idle connection away. Returns it if it cannot move now.
fn hand_over(conn: Conn, until_ms: u64) -> Option<Conn> {
    let left = until_ms.saturating_sub(runtime::now_ms());
    let (service, fd, handover) = match conn.into_handover(left) {
        Ok(parts) => parts,
        Err(kept) => return Some(kept),
    };
    if handover.proxy.len() > PROXY_BYTES_MAX {
        return None; // kilobytes of TLVs: it closes, as any idle connection may
    }
    // Refused: the connection closes, as any server may close an idle connection.
    drop(service.hand_over(fd, &handover));
    None
}

/// Reads one request and answers it.
async fn one_request(conn: &mut Conn) -> After {
    heartbeat::event(conn.number);
    conn.open.turn(Total::Reading);
    let (input, head, rest, began_ms) = match read_head(conn) {
        Head::Complete(input, head, rest, began_ms) => {
            if began_ms.is_some() || runtime::asked_count() > 0 {
                conn.transport.unlist();
            }
            conn.is_spared = false;
            (input, head, rest, began_ms)
        }
        Head::Nothing => return After::Nothing,
        Head::Partial => return After::Partial,
        Head::Over => return After::Close,
        Head::Refused(read, error) => {
            Box::pin(refuse_head(conn, read, error)).await;
            return After::Close;
        }
        Head::Http2(first) => return After::Http2(Box::new(first)),
    };
    let mut request = match prepare(conn, input, head, &rest) {
        Ok(mut request) => {
            request.began(began_ms);
            request
        }
        Err((mut request, status)) => {
            request.began(began_ms);
            let core = &request.location.confs.http_core;
            Box::pin(refuse(request, &conn.transport, status)).await;
            return After::Linger(core);
        }
    };
    let mut client = Client::new(Downstream::H1(&conn.transport));
    let outcome = pinned(|| pipeline::handle(&mut request, &mut client, Entry::Client)).await;
    if let Some(tunnel) = request.proxied.take_tunnel() {
        // The request lives as long as its tunnel, so that the log line includes the tunnel's bytes and time.
        return After::Tunnel(Box::new((*tunnel, Parked::new(request))));
    }
    let core: &'static http_core::Conf = &request.location.confs.http_core;
    if outcome.is_err() || !request.keep_alive {
        let is_body_late = request.error_page.status == Some(408) && !request.body.is_read();
        let is_reader_late = outcome.is_err_and(|error| error.status == 408);
        let may_reset = is_body_late || request.response.status == 444;
        // A client that does not read must not occupy megabytes in the kernel either; a response that is cut
        // off loses nothing by a reset.
        if is_reader_late || (may_reset && core.resets_timed_out()) {
            conn.transport.reset_on_close();
            return After::Close;
        }
        // A client may have sent the first bytes for its tunnel, which must not turn the refusal into a reset.
        let has_more = !request.body.is_read() || request.head.method == Method::Connect;
        return if !has_more && !core.lingers_always() { After::Close } else { After::Linger(core) };
    }
    if !request.body.is_read() && !discard(&mut request, Downstream::H1(&conn.transport)).await {
        return After::Linger(core);
    }
    conn.keepalive_ms = u32::try_from(core.keepalive_timeout_ms()).unwrap_or(u32::MAX);
    conn.keepalive_min_ms = u32::try_from(core.keepalive_min_timeout_ms()).unwrap_or(u32::MAX);
    conn.held = request.body.take_rest().map_or(Held::Nothing, Held::Ahead);
    After::KeepAlive
}

/// Answers a request that is refused, and logs it.
///
/// Boxed where it is awaited, as are other rare endings: all futures of a request share one allocation, whose
/// size is that of its largest path.
async fn refuse(mut request: Box<Request>, transport: &Transport, status: u16) {
    let mut client = Client::new(Downstream::H1(transport));
    let _ = pipeline::handle(&mut request, &mut client, Entry::Refused(status)).await;
}

/// The result of waiting for a request's head.
enum Head {
    /// The head's bytes, the head, the bytes after it, and when its first part arrived (`None`: all at once).
    Complete(Buffer, Box<RequestHead>, Vec<u8>, Option<u64>),
    /// The socket had no data.
    Nothing,
    /// More must arrive; the connection keeps what it has.
    Partial,
    /// The connection ended, or its client left inside a head.
    Over,
    /// It cannot be parsed.
    Refused(Read, h1::Error),
    /// The preface of HTTP/2, and what follows it.
    Http2(Buffer),
}

/// Reads until a head is complete, once its first bytes have arrived.
fn read_head(conn: &mut Conn) -> Head {
    let core = &conn.default_server().root.confs.http_core;
    let (first, limits) = (core.client_header_buffer_size(), core.head_limits());
    let mut seen = Seen::default();
    let (mut input, began_ms) = match std::mem::take(&mut conn.held) {
        Held::Head(Partial { mut bytes, line, began_ms }) => {
            seen = Seen { bytes: bytes.data().len(), line: line as usize };
            if bytes.space().is_empty() {
                bytes.grow(first.max(bytes.data().len() * 2));
            }
            (bytes, Some(began_ms))
        }
        Held::Ahead(bytes) => {
            conn.is_pipelined = conn.requests > 0;
            (bytes, None)
        }
        Held::Nothing => {
            conn.is_pipelined = false;
            (Buffer::take(first), None)
        }
    };
    let mut head = Box::<RequestHead>::default();
    // Prior knowledge (RFC 9113 §3.3): the first bytes of a plain connection.
    let takes_h2 = conn.requests == 0 && !conn.listen.ssl && conn.listen.takes_h2(conn.default_server());
    loop {
        let data = input.data();
        if takes_h2 && !data.is_empty() && h2::begins(data) {
            if data.len() >= h2::PREFACE.len() {
                return Head::Http2(input);
            }
        } else if !data.is_empty() {
            match head::parse_more(input.data(), &limits, &mut head, &mut seen) {
                Ok(Progress::Complete(length)) => {
                    let rest = input.data()[length..].to_vec();
                    input.truncate(length);
                    return Head::Complete(input, head, rest, began_ms);
                }
                Ok(Progress::Partial) => {
                    // Skipped once. One is left if nothing follows them: the request has started.
                    let empty = head::empty_lines(input.data());
                    if empty > 0 {
                        input.consume(empty - usize::from(empty == input.data().len()));
                        seen = Seen::default();
                    }
                }
                Err(error) => return Head::Refused((input, began_ms), error),
            }
        }
        if input.space().is_empty() {
            if input.data().len() >= core.head_bytes_max() {
                let error = limits.too_large(input.data());
                return Head::Refused((input, began_ms), error);
            }
            input.grow((input.capacity() * 2).max(4096));
        }
        let read = match conn.transport.try_read(input.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if input.data().is_empty() {
                    return Head::Nothing;
                }
                // It may take a while: only these bytes are kept meanwhile.
                let began_ms = began_ms.unwrap_or_else(runtime::now_ms);
                conn.held = Held::Head(Partial { bytes: input.slim(), line: seen.line as u32, began_ms });
                return Head::Partial;
            }
            read => read,
        };
        match read {
            Ok(0) | Err(_) if input.data().is_empty() => return Head::Over,
            Ok(0) | Err(_) => return client_left(conn, (input, began_ms)),
            Ok(count) => input.filled(count),
        }
    }
}

/// Answers a head that cannot be parsed, and logs it.
async fn refuse_head(conn: &mut Conn, read: Read, error: h1::Error) {
    let mut request = unfinished(conn, read, error == h1::Error::MissingHost);
    let limit = match error {
        h1::Error::TooManyFields => Some(Limit::FieldCount),
        h1::Error::HeadTooLarge | h1::Error::LineTooLong => Some(Limit::HeadSize),
        _ => None,
    };
    let told = limit.map(|limit| limit::told(&request, limit)).unwrap_or_default();
    log::info!(request.error_log(), &request, "client sent {error}{told}");
    request.termination = Some(Termination::of_head(limit, request.passes().prefix()));
    // nginx's status for a head that is too large; `error_page 494` may set its page
    let status = if error.is_too_large() { 494 } else { error.status() };
    refuse(request, &conn.transport, status).await;
    linger(conn, &conn.default_server().root.confs.http_core).await;
}

/// The part of a refused head that was read, and when its first part arrived (`None`: all at once).
type Read = (Buffer, Option<u64>);

/// The rest of a head did not arrive in time, or arrived too slowly.
async fn head_timed_out(conn: &mut Conn) {
    let core = &conn.default_server().root.confs.http_core;
    let Held::Head(partial) = std::mem::take(&mut conn.held) else { return };
    let is_slow = runtime::now_ms() >= partial.began_ms.saturating_add(partial.paced_ms(core));
    let is_late = runtime::now_ms() >= partial.began_ms + core.client_header_timeout_ms();
    let limit = if is_slow && !is_late { Limit::HeaderRate } else { Limit::HeaderTimeout };
    let resets = core.resets_timed_out();
    let mut request = unfinished(conn, (partial.bytes, Some(partial.began_ms)), false);
    request.response.status = 408;
    request.termination = Some(Termination::of_head(Some(limit), request.passes().prefix()));
    log::info!(
        request.error_log(),
        &request,
        "{}{}",
        Error::client_timed_out(During::RequestHead, limit),
        limit::told(&request, limit)
    );
    if resets {
        conn.transport.reset_on_close();
        return;
    }
    refuse(request, &conn.transport, 408).await;
}

/// The client closed the connection inside a head.
fn client_left(conn: &mut Conn, read: Read) -> Head {
    let mut request = unfinished(conn, read, false);
    request.response.status = 400;
    request.termination = Some(Termination::new(Who::Client, How::Abort, Phase::RequestHead));
    log::info!(request.error_log(), &request, "{}", Error::left().during(During::RequestHead));
    Head::Over
}

/// The request for a head that was refused or is incomplete: the bytes read are available to its error page
/// and its log line.
///
/// The server is the one that nginx would have chosen by then: by the `Host` that was read (without one, if
/// `has_all_fields`, the server for no name), or the default server if the request line is invalid.
fn unfinished(conn: &mut Conn, (input, began_ms): Read, has_all_fields: bool) -> Box<Request> {
    conn.count_request();
    let data = input.data();
    // Fields were parsed piecemeal as they arrived: parse again, as far as possible.
    let mut head = Box::<RequestHead>::default();
    let _ = head::parse(data, &conn.default_server().root.confs.http_core.head_limits(), &mut head);
    head.connection = head.fields.connection(data).unwrap_or_default();
    let target = uri::parse(head.method, &data[head.target.clone()]).ok();
    let host = target.as_ref().and_then(|target| uri::host(&head, data, Some(target)).ok()).flatten();
    let found = match &host {
        Some(host) => conn.listen.server_for(host).ok(),
        None if has_all_fields => conn.listen.server_for(b"").ok(),
        None => None,
    };
    let (index, regex) = found.unwrap_or((conn.listen.default, None));
    let config = conn.service.config();
    let mut request = Request::new(
        conn.service.worker(),
        &config.servers[index],
        || connection(conn),
        input,
        head,
        Body::none,
    );
    request.began(began_ms);
    request.host = host.map(uri::Host::from).unwrap_or_default();
    if let Some(regex) = regex {
        target::store_regex(&mut request, regex);
    }
    if let Some(target) = target
        && target::set_target(&mut request, &target).is_err()
    {
        begin::by_default_server(&mut request);
    }
    request
}

#[inline(always)]
fn connection(conn: &Conn) -> Connection {
    let local = if conn.listen.is_wildcard() {
        conn.transport.local_addr().unwrap_or_else(|| conn.listen.address.clone())
    } else {
        conn.listen.address.clone()
    };
    Connection {
        number: conn.number,
        probe: conn.transport.probe(),
        peer: conn.peer.clone(),
        proxy: conn.proxy.clone(),
        tls: conn.transport.tls().cloned(),
        local,
        listen: conn.listen,
        requests: conn.requests,
        opened_ms: conn.opened_ms,
        is_pipelined: conn.is_pipelined,
    }
}

/// Makes a request from a parsed head and the bytes after it. Errors: the status of the refusal.
fn prepare(
    conn: &mut Conn,
    input: Buffer,
    head: Box<RequestHead>,
    rest: &[u8],
) -> Result<Box<Request>, (Box<Request>, u16)> {
    conn.count_request();
    conn.open.client().asks(&input.data()[..head.target.end]);
    let declared = length::request(&head, input.data());
    let declared = declared.as_ref().map(|length| *length);
    let arrived = Arrived {
        service: conn.service,
        listen: conn.listen,
        connection: || connection(conn),
        input,
        head,
        declared: declared.map_err(|error| (error as &dyn std::fmt::Display, error.status())),
        is_plain_instead: conn.security == Security::PlainInstead,
    };
    begin::request(arrived, |length, expects, limits| {
        body::Reader::H1(Reader::new(length, rest, expects, limits.buffer_size))
    })
}

/// Reads the rest of a request's body, to find the next request; false: it took too long.
async fn discard(request: &mut Request, client: Downstream<'_>) -> bool {
    let core = &request.location.confs.http_core;
    let (timeout_ms, time_ms) = (core.lingering_timeout_ms(), core.lingering_time_ms());
    request.body.forget_continue();
    request.body.set_limits(body::Limits { max: 0, timeout_ms, buffer_size: 4096, min_rate: None });
    let _ = request.body.admit(0); // nothing is kept: the time bounds it
    let read = async {
        while let Ok(true) = request.body.data_ready(client).await {
            let count = request.body.data().len();
            request.body.consume(count);
        }
        request.body.is_read()
    };
    timeout(time_ms, read).await.unwrap_or(false)
}

/// Lingers as the settings say.
async fn linger(conn: &Conn, core: &http_core::Conf) {
    if core.lingering_close() {
        let (timeout_ms, time_ms) = (core.lingering_timeout_ms(), core.lingering_time_ms());
        net::linger::linger(&conn.transport, &conn.open, timeout_ms, time_ms).await;
    }
}

#[cfg(test)]
mod tests;
