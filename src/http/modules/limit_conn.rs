//! Limits on how many requests of a key are in progress at one time (`limit_conn`, `limit_conn_zone`).
//!
//! Runs in the preaccess phase. Touches: the request's variables, one table in shared memory for each rule
//! (`shared/limit_conn.rs`). A request returns its places when it is dropped.
//! Behaviour: nginx.org, ngx_http_limit_conn_module.

use crate::config::directive::{custom, flag, number, one_of};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::request::{Request, states};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::script::variable::variable;
use crate::shared::limit_conn::{self, Limits, Outcome};
use crate::shared::zone;
use crate::shm::held_counts::{Held, Holders};
use crate::shm::named::Used;

pub type Zones = limit_conn::Zones<Request>;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        limits: Limits,
        status: Setting<u64> = 503,
    }
}

/// The outcome of a request's limits, and the places that it holds. Boxed: one word in each request.
#[derive(Debug, Default)]
pub struct State(Option<Box<Judged>>);

#[derive(Debug)]
struct Judged {
    outcome: Outcome,
    /// Kept until the request is over.
    _held: Vec<Held>,
}

impl State {
    fn new((outcome, held): (Outcome, Vec<Held>)) -> Self {
        Self(Some(Box::new(Judged { outcome, _held: held })))
    }

    fn outcome(&self) -> Option<Outcome> {
        self.0.as_ref().map(|judged| judged.outcome)
    }

    /// The outcome, as a number for another process.
    pub fn number(&self) -> u8 {
        Outcome::number(self.outcome())
    }
}

/// Lent: what was counted once is not counted again.
impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        std::mem::take(&mut outer.states.limit_conn)
    }

    fn take_back(outer: &mut Request, inner: &mut Request) {
        outer.states.limit_conn = std::mem::take(&mut inner.states.limit_conn);
    }

    fn copy(outer: &Request) -> Self {
        outer
            .states
            .limit_conn
            .outcome()
            .map_or_else(Self::default, |outcome| Self::new((outcome, Vec::new())))
    }

    fn park(&mut self) -> Option<Self> {
        self.0.take().map(|judged| Self(Some(judged)))
    }
}

/// The zones that requests are counted in.
pub type Table = limit_conn::Table<Request>;

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.limit_conn).open("limit_conn", cx, Holders::open)
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        zones.extend(self.used());
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("limit_conn_zone", Context::HTTP, Arity::exactly(2), limit_conn_zone,
        "Declares a zone of shared memory that counts the requests in progress for each value of a key: KEY zone=NAME:SIZE."),
    custom("limit_conn", Context::ANY, Arity::exactly(2), limit_conn, "Limits how many requests with the same key of a zone may be in progress at one time."),
    number("limit_conn_status", Context::ANY, (400, 599), |c| &mut c.status,
        "Sets the status of rejected requests; 444 closes the connection without a response."),
    one_of("limit_conn_log_level", Context::ANY, |c| &mut c.limits.level, "Sets the log level of rejections."),
    flag("limit_conn_dry_run", Context::ANY, |c| &mut c.limits.dry_run, "Counts and logs, but limits nothing."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("limit_conn_status", |request, _, out| {
        let Some(outcome) = request.states.limit_conn.outcome() else { return false };
        out.extend_from_slice(outcome.name().as_bytes());
        true
    }, "The result of limit_conn: PASSED, REJECTED or REJECTED_DRY_RUN."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.limits.is_empty()
    }
}

fn limit_conn_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let declared = limit_conn::read_zone(node, cx)?;
    if cx.drafts.limit_req.is_declared(declared.name()) {
        return Err(zone::other_use(declared.name(), node));
    }
    cx.drafts.limit_conn.declare(declared, node)
}

fn limit_conn(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.limits.add(node, &mut cx.drafts.limit_conn)
}

pub fn preaccess(request: &mut Request) -> Verdict {
    if request.location.confs.limit_conn.limits.is_empty() || request.states.limit_conn.0.is_some() {
        return Verdict::Next;
    }
    limit(request)
}

fn limit(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.limit_conn;
    let zones = &request.config.tables.limit_conn;
    let Some((outcome, held)) = conf.limits.hold(request, zones) else { return Verdict::Next };
    request.states.limit_conn = State::new((outcome, held));
    if outcome != Outcome::Rejected {
        return Verdict::Next;
    }
    request.termination = Some(Termination::new(Who::Proxy, How::Limit, Phase::Process).by("limit_conn"));
    Verdict::Done(Reply::Status(conf.status.get() as u16))
}

/// Counts a request that another process has admitted.
pub fn admit_again(request: &mut Request, saved: u8) {
    let Some(outcome) = Outcome::of_number(saved) else { return };
    let conf: &'static Conf = &request.location.confs.limit_conn;
    let held = conf.limits.hold_again(request, &request.config.tables.limit_conn);
    request.states.limit_conn = State::new((outcome, held));
}
