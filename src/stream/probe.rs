//! The prober's work for streams: health checks of the peers of upstreams, and the names of upstreams.
//!
//! A check belongs to a server, whose settings its connections have, or to an `upstream` block, and then has those of the
//! `stream` block. When and how often a peer is probed is decided in `upstream/prober.rs`, the conversation is
//! `upstream/talk.rs`. Touches: the peers' sockets, name servers. Bounded: the time by `health_check_timeout`.
//! Behaviour: nginx.org, ngx_stream_upstream_hc_module.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use crate::net::Transport;
use crate::net::connect::Options;

use crate::shared::conversation::Conversation;
use crate::shared::tls::outgoing::{self, Failure};
use crate::stream::config::server::Server;
use crate::stream::modules::health_check::Check;
use crate::stream::modules::proxy::{Layer, PREFIX, Pass};
use crate::stream::proxy::proxy_header;
use crate::stream::{Config, Session, Worker};
use crate::sys::address::SockAddr;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;
use crate::upstream::prober::{self, Board, Outcome, Permits};
use crate::upstream::talk::{self, HANDSHAKING, Talk};
use crate::upstream::{GroupState, Upstreams};

/// The datagram of a check without a `match` that says more.
const DATAGRAM: &[u8] = b"pronghorn (health check)";

/// The common part of the probes of one check.
struct Plan {
    worker: &'static Worker,
    check: &'static Check,
    conversation: Option<&'static Conversation>,
    /// The server whose settings the connections have.
    server: &'static Server,
    layer: Option<&'static Layer>,
    /// The name for TLS, unless `proxy_ssl_name` gives another.
    host: &'static str,
    group: Rc<GroupState>,
}

/// The work of the prober for a `stream` block.
#[derive(Clone, Copy)]
pub struct Prober(&'static Inner);

struct Inner {
    worker: &'static Worker,
    board: Board,
}

impl fmt::Debug for Prober {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    let agents = config.tables.health_check.agents();
    let agents = agents.map(|(index, agent)| (index, agent.check(config.root.core.log())));
    let checks = plans(worker).into_iter().map(|(index, plan)| (index, checker(plan))).chain(agents);
    let board = Board::new(&worker.upstreams, checks, permits);
    worker.upstreams.follow(tell);
    Prober(Box::leak(Box::new(Inner { worker, board })))
}

/// The checks of servers, then those of `upstream` blocks, each with the index of its group.
fn plans(worker: &'static Worker) -> Vec<(usize, Plan)> {
    let config = worker.config;
    let table = &config.tables.health_check;
    let plan = |index: usize, check: &'static Check, server, layer, host| {
        let group = Rc::clone(worker.upstreams.get(index)?);
        let conversation = check.conversation(table);
        Some((index, Plan { worker, check, conversation, server, layer, host, group }))
    };
    let of_servers = config.servers.iter().filter_map(|server| {
        let check = server.confs.health_check.check()?;
        match server.confs.proxy.pass()? {
            Pass::Fixed { group, name } => plan(*group, check, server, server.confs.proxy.layer(), &**name),
            Pass::Script(_) => None,
        }
    });
    let of_groups = table.of_groups.iter().filter_map(|of_group| {
        let name = &*config.upstreams.get(of_group.group)?.name;
        let server = &*Box::leak(Box::new(Server::without_clients(config.root.clone())));
        plan(of_group.group, &of_group.check, server, of_group.layer.as_deref(), name)
    });
    of_servers.chain(of_groups).collect()
}

fn checker(plan: Plan) -> prober::Check {
    let plan: &'static Plan = Box::leak(Box::new(plan));
    let probe = move |target: Rc<prober::Target>| -> Pin<Box<dyn Future<Output = Outcome>>> {
        Box::pin(async move { plan.probe(&target).await })
    };
    let name = plan.check.matching().unwrap_or("");
    let log = plan.server.confs.core.log();
    prober::Check { rules: &plan.check.rules, name, log, is_agent: false, probe: Box::new(probe) }
}

impl Plan {
    /// Probes a peer once.
    async fn probe(&self, target: &prober::Target) -> Outcome {
        let Some(mut session) = self.session() else {
            return Outcome::Undecided("the configuration has no address".into());
        };
        let limit_ms = self.server.confs.health_check.timeout_ms();
        let options = self.server.confs.proxy.connect_options(&mut session);
        let options = Options { is_datagram: self.check.is_udp, ..options };
        let address = &target.peer.address;
        if self.check.is_udp {
            let datagram = Talk { send: DATAGRAM, expect: None };
            let talk = self.conversation.map_or(datagram, |it| it.talk(DATAGRAM));
            return talk::check_datagram(address, &options, talk, limit_ms).await;
        }
        let talk = self.conversation.map_or(Talk::default(), |it| it.talk(b""));
        let prepare = async |transport: &mut Transport| self.prepare(&mut session, transport, target).await;
        talk::check(address, &options, prepare, talk, limit_ms).await
    }

    /// The session of a check, of which no client knows; it has no line in the log and counts for nothing. `None`:
    /// there is no address that it could be of.
    fn session(&self) -> Option<Box<Session>> {
        let nobody = SockAddr::Unix(PathBuf::new());
        let listen = self.worker.config.listens.first()?;
        let mut session = Box::new(Session::new(self.worker, listen, 0, nobody.clone(), nobody));
        session.server = self.server;
        session.is_moved = true;
        Some(session)
    }

    /// Does what comes before the bytes of a client: the PROXY header, which names nobody, and TLS.
    async fn prepare(
        &self,
        session: &mut Session,
        transport: &mut Transport,
        target: &prober::Target,
    ) -> Result<(), Outcome> {
        let failed = |why| Outcome::Failed { doing: HANDSHAKING, why };
        let proxy = &self.server.confs.proxy;
        if let Some(version) = proxy.header_version() {
            let sent = transport.write_all(&proxy_header(session, version)).await;
            sent.map_err(|error| failed(error.to_string()))?;
        }
        let Some(layer) = self.layer else { return Ok(()) };
        let terms = layer.terms(session, self.host);
        let place = format!("stream {} {}", self.group.group.name, target.peer.name);
        // No more than that: the whole check has this limit.
        let limit_ms = self.server.confs.health_check.timeout_ms();
        let made = outgoing::secure(Some(layer), transport, &terms, (PREFIX, &place), limit_ms);
        made.await.map_err(|failure| match failure {
            Failure::Ours(why) => Outcome::Undecided(why),
            Failure::Peer(why) => failed(why),
            Failure::TimedOut => failed("timed out".into()),
        })
    }
}
