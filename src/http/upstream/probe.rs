//! The prober's work for HTTP: health checks, each probe of which is a request of our own to one peer, and the names of
//! upstreams.
//!
//! A check belongs to a location, whose settings its requests have (`proxy_set_header`, timeouts, TLS), or to an
//! `upstream` block, and then has those of the `http` block. When and how often a peer is probed is decided in
//! `upstream/prober.rs`. Touches: the peer's socket. Bounded: the time by the location's timeouts, the head by its
//! buffer, the body by [`BODY_BYTES_MAX`]. Behaviour: nginx.org, ngx_http_upstream_hc_module.

use std::future::poll_fn;
use std::rc::Rc;

use crate::base::path::normalize_uri;
use crate::http::client::Client;
use crate::http::config::location::{self, Location, LocationId, Locations};
use crate::http::config::server::Server;
use crate::http::downstream::Downstream;
use crate::http::modules::health_check::{Check, Kind, OfGroup};
use crate::http::modules::proxy_pass;
use crate::http::request::body::Body;
use crate::http::request::error::Failure;
use crate::http::request::{Connection, Request};
use crate::http::upstream::Pass;
use crate::http::upstream::carrier::Carrier;
use crate::http::upstream::codec::Pieces;
use crate::http::upstream::exchange::{Answer, Stop};
use crate::http::upstream::h1::HostLine;
use crate::http::upstream::matching::{BODY_BYTES_MAX, Match, judge_status};
use crate::http::upstream::outgoing::Outgoing;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::target::Goal;
use crate::http::{Config, Worker};
use crate::net::Transport;
use crate::proto::head::RequestHead;
use crate::proto::message::{Method, Version};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, timeout};
use crate::shared::tls::outgoing;
use crate::sys::address::SockAddr;
use crate::upstream::Upstreams;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;
use crate::upstream::prober::{self, Board, Outcome, Permits};
use crate::upstream::talk::{self, HANDSHAKING, Talk};
use crate::upstream::{GroupState, Session};

/// The name under which requests of checks introduce themselves, unless `proxy_set_header` gives another.
const AGENT: &[u8] = b"pronghorn (health check)";

/// Why there is nothing that a check's request could belong to.
const NO_ADDRESS: &str = "the configuration has no address";

/// How much of a body is read at a time.
const READ_BYTES: usize = 16 * 1024;

/// Bytes of a body that a judge does not need, but that must be read for the connection to be kept.
const SKIPPED_BYTES_MAX: usize = 64 * 1024;

/// The common part of the probes of one check.
struct Plan {
    worker: &'static Worker,
    check: &'static Check,
    conditions: Option<&'static Match>,
    server: &'static Server,
    location: &'static Location,
    target: &'static proxy_pass::Target,
    host_line: &'static HostLine,
    group: Rc<GroupState>,
}

/// The work of the prober for an `http` block: health checks, and names that are followed.
#[derive(Clone, Copy)]
pub struct Prober(&'static Inner);

struct Inner {
    worker: &'static Worker,
    board: Board,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Prober")
    }
}

impl Prober {
    /// The state of the upstreams in this process.
    pub fn upstreams(self) -> &'static Upstreams {
        &self.0.worker.upstreams
    }

    /// Starts to check peers that are new.
    pub fn follow(self) {
        self.0.board.follow();
    }

    /// Begins again with the health that shared memory has of each peer.
    pub fn recall(self) {
        self.0.board.recall();
    }

    /// Takes over the addresses of a server's name, and starts to check those that are new.
    pub fn learn(self, group_index: usize, server_index: usize, spots: &[Spot]) {
        self.0.worker.upstreams.learn(group_index, server_index, spots);
        self.0.board.follow_group(group_index);
    }
}

/// Starts all health checks and lookups of a configuration. Called once, inside the runtime of the process that makes
/// them. `tell` is called with news about names; the same addresses come back by [`Prober::learn`].
pub fn start(config: &'static Config, permits: &'static Permits, tell: &Tell) -> Prober {
    let worker: &'static Worker = Box::leak(Box::new(Worker::new(config)));
    worker.upstreams.recall();
    let log = config.root.http_core.log();
    let agents = config.tables.health_check.agents();
    let agents = agents.map(|(index, agent)| (index, agent.check(log)));
    let checks = plans(worker).into_iter().map(|(index, plan)| (index, checker(plan))).chain(agents);
    let board = Board::new(&worker.upstreams, checks, permits);
    worker.upstreams.follow(tell);
    Prober(Box::leak(Box::new(Inner { worker, board })))
}

/// The checks of locations, then those of `upstream` blocks, each with the index of its group.
fn plans(worker: &'static Worker) -> Vec<(usize, Plan)> {
    let config = worker.config;
    let table = &config.tables.health_check;
    let plan = |index: usize, check: &'static Check, (server, location), target, host_line| {
        let index = config.upstreams.alias(index).unwrap_or(index);
        let group = Rc::clone(worker.upstreams.get(index)?);
        let conditions = check.conditions(table);
        Some((index, Plan { worker, check, conditions, server, location, target, host_line, group }))
    };
    let locations = config.servers.iter().flat_map(|server| {
        server.locations().into_iter().filter_map(move |location: &'static Location| {
            let check = location.confs.health_check.check()?;
            match location.confs.proxy_pass.pass()? {
                proxy_pass::Pass::Fixed { group, target, host_line } => {
                    plan(*group, check, (server, location), target, host_line)
                }
                proxy_pass::Pass::Script(_) => None,
            }
        })
    });
    let of_blocks = config.servers.first().into_iter().flat_map(|server| {
        table.of_groups.iter().filter_map(move |OfGroup { group: index, check, layer }| {
            let (protocol, scheme) = match (check.kind, check.is_tls) {
                (Kind::Grpc, true) => (Protocol::Grpc, "grpcs"),
                (Kind::Grpc, false) => (Protocol::Grpc, "grpc"),
                (Kind::Http | Kind::Tcp, true) => (Protocol::Http, "https"),
                (Kind::Http | Kind::Tcp, false) => (Protocol::Http, "http"),
            };
            let index = *index;
            let url = format!("{scheme}://{}", config.upstreams.get(index)?.name);
            let target: &'static _ =
                Box::leak(Box::new(proxy_pass::Target::parse_value(&url, protocol).ok()?));
            let host_line = Box::leak(Box::new(HostLine::of(target)));
            let place = (location::Kind::Server, "", server.span);
            let mut location =
                Location::new(LocationId::default(), place, config.root.clone(), Locations::default());
            (location.protocol, location.tls) = (protocol, layer.clone());
            plan(index, check, (server, &*Box::leak(Box::new(location))), target, host_line)
        })
    });
    locations.chain(of_blocks).collect()
}

fn checker(plan: Plan) -> prober::Check {
    let plan: &'static Plan = Box::leak(Box::new(plan));
    let probe = move |target: Rc<prober::Target>| -> std::pin::Pin<Box<dyn Future<Output = Outcome>>> {
        Box::pin(async move { plan.probe(&target).await })
    };
    let name = plan.check.matching().unwrap_or("");
    let log = plan.location.confs.http_core.log();
    prober::Check { rules: &plan.check.rules, name, log, is_agent: false, probe: Box::new(probe) }
}

impl Plan {
    /// Probes a peer once.
    async fn probe(&'static self, target: &prober::Target) -> Outcome {
        if self.check.kind == Kind::Tcp {
            return self.talk(target).await;
        }
        let Some(mut request) = self.request() else {
            return Outcome::Undecided(NO_ADDRESS.into());
        };
        let conf = request.passes();
        let limit_ms = conf.connect_timeout_ms().saturating_add(conf.read_timeout_ms());
        let asked = timeout(limit_ms, Box::pin(self.ask(&mut request, target))).await;
        let outcome = asked.unwrap_or_else(|_| failed(&request, format!("no response within {limit_ms} ms")));
        // A request of our own has no log line, and counts for nothing.
        request.is_parked = true;
        outcome
    }

    /// Checks a peer over a plain connection.
    async fn talk(&self, target: &prober::Target) -> Outcome {
        let conf = self.location.passes();
        let limit_ms = conf.connect_timeout_ms().saturating_add(conf.read_timeout_ms());
        let talk = self.conditions.map_or(Talk::default(), |conditions| conditions.conversation.talk(b""));
        let prepare = async |transport: &mut Transport| self.secure(transport, target, limit_ms).await;
        talk::check(&target.peer.address, conf.connect_options(), prepare, talk, limit_ms).await
    }

    /// Encrypts the connection of a check that only talks, if its location's are encrypted.
    async fn secure(
        &self,
        transport: &mut Transport,
        target: &prober::Target,
        limit_ms: u64,
    ) -> Result<(), Outcome> {
        let failed = |why| Outcome::Failed { doing: HANDSHAKING, why };
        let Some(layer) = self.location.tls.as_deref().filter(|_| self.target.is_tls) else { return Ok(()) };
        let mut request = self.request().ok_or_else(|| Outcome::Undecided(NO_ADDRESS.into()))?;
        let terms = layer.terms(&mut request, self.target.tls_name());
        request.is_parked = true;
        let place = format!("{} {}", self.group.group.name, target.peer.name);
        let prefix = self.location.passes().prefix();
        let made = outgoing::secure(Some(layer), transport, &terms, (prefix, &place), limit_ms);
        made.await.map_err(|failure| match failure {
            outgoing::Failure::Ours(why) => Outcome::Undecided(why),
            outgoing::Failure::Peer(why) => failed(why),
            outgoing::Failure::TimedOut => failed("timed out".into()),
        })
    }

    /// A request that no client has sent. `None`: there is no server that it could be for.
    fn request(&self) -> Option<Box<Request>> {
        let is_grpc = self.check.kind == Kind::Grpc;
        let uri = self.check.uri.as_bytes();
        let mut input = Buffer::take(uri.len() + 64);
        let (method, name) = if is_grpc { (Method::Post, &b"POST"[..]) } else { (Method::Get, &b"GET"[..]) };
        [name, b" ", uri, b" HTTP/1.1\r\n"].into_iter().for_each(|part| input.extend(part));
        let head = RequestHead {
            method,
            method_range: 0..name.len(),
            target: name.len() + 1..name.len() + 1 + uri.len(),
            version: Version::Http11,
            ..RequestHead::default()
        };
        let nobody = SockAddr::Unix(std::path::PathBuf::new());
        let connection = Connection {
            number: 0,
            probe: None,
            peer: nobody.clone(),
            proxy: None,
            tls: None,
            local: nobody,
            listen: self.worker.config.listens.first()?,
            requests: 1,
            opened_ms: runtime::now_ms(),
            is_pipelined: false,
        };
        let head = Box::new(head);
        let body = || if is_grpc { Body::of(self.check.call.message()) } else { Body::none() };
        let mut request = Request::new(self.worker, self.server, || connection, input, head, body);
        request.location = self.location;
        if let Ok(parsed) = normalize_uri(uri, true, &mut request.uri) {
            request.args = parsed.args.and_then(|args| uri.get(args)).unwrap_or(b"").to_vec();
        }
        let mut set = |field: &[u8], value| {
            request.set_field(|name| name.eq_ignore_ascii_case(field), field, value, false);
        };
        set(b"User-Agent", AGENT);
        if is_grpc {
            set(b"Content-Type", b"application/grpc");
            set(b"TE", b"trailers");
        }
        Some(request)
    }

    /// Sends the request and judges the response.
    async fn ask(&'static self, request: &mut Request, target: &prober::Target) -> Outcome {
        let goal = Goal::own(request, &self.group, self.target, self.host_line);
        let goal = match goal {
            Ok(goal) => goal,
            Err(error) => return Outcome::Undecided(error.to_string()),
        };
        let outgoing = match Outgoing::prepare(request, Downstream::Nobody, &goal).await {
            Ok(outgoing) => outgoing,
            Err(error) => return Outcome::Undecided(error.to_string()),
        };
        let mut client = Client::nobody();
        let session = Session::new(&goal.group, 0);
        let local = request.passes().own_options(request);
        let started_ms = runtime::now_ms();
        request.upstream.begin_pass();
        request.upstream.begin(Some(Rc::clone(&target.peer)), &goal.group);
        let mut pass = Pass {
            request: &mut *request,
            client: &mut client,
            goal: &goal,
            outgoing,
            terms: goal.terms.clone(),
            local,
            session,
            started_ms,
            binding: None,
            course: None,
        };
        let answered = pass.answer(target, self.check.keepalive_ms).await;
        drop(pass);
        let answer = match answered {
            Ok(answer) => answer,
            Err(Stop::Request(error)) => return Outcome::Undecided(error.to_string()),
            Err(Stop::Peer(failure)) => return failed(request, failure.to_string()),
        };
        self.judge(request, answer, target).await
    }

    async fn judge(&self, request: &mut Request, answer: Answer, target: &prober::Target) -> Outcome {
        let Answer { mut carrier, head, head_length } = answer;
        request.proxied.set_head(Rc::clone(&head));
        let is_grpc = self.check.kind == Kind::Grpc;
        let reads_body = is_grpc || self.conditions.is_some_and(Match::reads_body);
        let wanted = match (reads_body, self.check.keepalive_ms) {
            (true, _) => BODY_BYTES_MAX,
            (false, 0) => 0,
            (false, _) => SKIPPED_BYTES_MAX,
        };
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        if wanted > 0 {
            request.upstream.action = Some(crate::upstream::trace::Action::ReadingBody);
            let data = head.buffer.data();
            let begun = carrier.decoder().begin_body(&head.head, data, request.method);
            let rest = data.get(head_length..).unwrap_or(b"");
            let read = match begun {
                Ok(_) => read_body(&mut carrier, rest, wanted, &mut body, &mut trailers).await,
                Err(kind) => Err(Failure::from(kind).to_string()),
            };
            if let Err(why) = read {
                return failed(request, why);
            }
        }
        let judged = match self.conditions {
            _ if is_grpc => judge_status(head.head.status).and_then(|()| {
                let of_head = head.head.fields.pairs(head.buffer.data());
                let of_head = of_head.filter(|(name, _)| name.eq_ignore_ascii_case(GRPC_STATUS));
                let status = last_value(&trailers, GRPC_STATUS).or(of_head.map(|(_, value)| value).last());
                self.check.call.judge(status, &body)
            }),
            Some(conditions) => conditions.judge(request, &head, &body),
            None => judge_status(head.head.status),
        };
        if self.check.keepalive_ms > 0 {
            keep(carrier, target);
        }
        match judged {
            Ok(()) => Outcome::Passed { doing: "checking response" },
            Err((doing, why)) => Outcome::Failed { doing, why },
        }
    }
}

/// The field in which a gRPC server tells how a call has ended.
const GRPC_STATUS: &[u8] = b"grpc-status";

/// The value of a field in lines that end with CRLF.
fn last_value<'a>(lines: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut fields = lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon].eq_ignore_ascii_case(name).then_some(line[colon + 1..].trim_ascii())
    });
    fields.next_back()
}

/// Reads a body until it ends, or has as many bytes as are wanted. Errors: it breaks off, or has no proper end.
async fn read_body(
    carrier: &mut Carrier,
    arrived: &[u8],
    wanted: usize,
    body: &mut Vec<u8>,
    trailers: &mut Vec<u8>,
) -> Result<(), String> {
    let mut held = None;
    let mut pending = Buffer::take(arrived.len().max(1));
    pending.extend(arrived);
    loop {
        let mut pieces = Pieces::new();
        let used = carrier.decoder().body(pending.data(), &mut pieces, trailers);
        let used = used.map_err(|kind| Failure::from(kind).to_string())?;
        for piece in pieces {
            let piece = pending.data().get(piece).unwrap_or(b"");
            body.extend_from_slice(&piece[..piece.len().min(wanted - body.len().min(wanted))]);
        }
        pending.consume(used);
        if carrier.decoder().is_done() || body.len() >= wanted {
            return Ok(());
        }
        let count = poll_fn(|cx| carrier.poll_read(cx, &mut held, READ_BYTES)).await;
        let told = |error: std::io::Error| match carrier.trouble() {
            Some(kind) => Failure::from(kind).to_string(),
            None => error.to_string(),
        };
        if count.map_err(told)? == 0 {
            return carrier.decoder().closed(trailers).map_err(|kind| Failure::from(kind).to_string());
        }
        if let Some(buffer) = held.take() {
            pending.extend(buffer.data());
        }
    }
}

/// Keeps the connection for the next probe of this peer.
fn keep(carrier: Carrier, target: &prober::Target) {
    let Carrier::Own { mut connection, decoder } = carrier else { return };
    if decoder.is_done() && decoder.may_keep() {
        connection.reused = true;
        connection.requests += 1;
        target.kept.replace(Some(connection));
    }
}

fn failed(request: &Request, why: String) -> Outcome {
    let action = request.upstream.action;
    let doing = action.map_or("connecting to upstream", crate::upstream::trace::Action::as_str);
    Outcome::Failed { doing, why }
}

impl Pass<'_, '_> {
    /// The head of the response of one peer, over the connection that its last probe has left, or a new one.
    async fn answer(&mut self, target: &prober::Target, keepalive_ms: u64) -> Result<Answer, Stop> {
        let is_young = |opened_ms: u64| runtime::now_ms().saturating_sub(opened_ms) < keepalive_ms;
        let kept = target.kept.take().filter(|kept| is_young(kept.opened_ms));
        if let Some(connection) = kept {
            let decoder = self.outgoing.decoder();
            match self.run(Carrier::Own { connection, decoder }).await {
                Err(Stop::Peer(failure)) if failure.is_stale => self.outgoing.rewind(),
                answered => return answered,
            }
        }
        let carrier = self.open(&target.peer, false).await?;
        self.run(carrier).await
    }
}
