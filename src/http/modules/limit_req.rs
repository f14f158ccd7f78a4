//! Leaky-bucket limits on the rate of requests (`limit_req`, `limit_req_zone`).
//!
//! Runs in the preaccess phase. Touches: the request's variables, one table in shared memory for each rule
//! (`shared/limit_req.rs`). Does not wait: a delay is a verdict, and the pipeline sleeps.
//! Behaviour: nginx.org, ngx_http_limit_req_module.

use crate::config::directive::{custom, flag, number, one_of};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::request::{Request, states};
use crate::http::scope::Variable;
use crate::http::verdict::{Pause, Reply, Verdict};
use crate::runtime;
use crate::script::variable::variable;
use crate::shared::limit_req::{self, Limits, Outcome};
use crate::shared::zone;
use crate::shm::leaky_bucket;
use crate::shm::named::Used;

pub type Zones = limit_req::Zones<Request>;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        limits: Limits,
        status: Setting<u64> = 503,
    }
}

/// The outcome of a request's limits.
#[derive(Debug, Default)]
pub struct State {
    outcome: Option<Outcome>,
}

/// Lent: what was counted once is not counted again.
impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        std::mem::take(&mut outer.states.limit_req)
    }

    fn take_back(outer: &mut Request, inner: &mut Request) {
        outer.states.limit_req = std::mem::take(&mut inner.states.limit_req);
    }

    fn copy(outer: &Request) -> Self {
        Self { outcome: outer.states.limit_req.outcome }
    }

    fn park(&mut self) -> Option<Self> {
        self.outcome.is_some().then(|| std::mem::take(self))
    }
}

/// The zones that requests are counted in.
pub type Table = limit_req::Table<Request>;

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.limit_req).open("limit_req", cx, leaky_bucket::Table::open)
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        zones.extend(self.used());
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("limit_req_zone", Context::HTTP, Arity::between(3, 4), limit_req_zone,
        "Declares a zone of shared memory that tracks the rate of requests for each value of a key: KEY zone=NAME:SIZE rate=Nr/s or Nr/m."),
    custom("limit_req", Context::ANY, Arity::between(1, 3), limit_req,
        "Limits the rate of requests with the same key of a zone. Up to burst= excess requests wait, except for the first delay= of them; with nodelay \
         none waits. Further requests are rejected."),
    number("limit_req_status", Context::ANY, (400, 599), |c| &mut c.status,
        "Sets the status of rejected requests; 444 closes the connection without a response."),
    one_of("limit_req_log_level", Context::ANY, |c| &mut c.limits.level, "Sets the log level of rejections; delays are logged one level lower."),
    flag("limit_req_dry_run", Context::ANY, |c| &mut c.limits.dry_run, "Counts and logs, but limits nothing."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("limit_req_status", |request, _, out| {
        let Some(outcome) = request.states.limit_req.outcome else { return false };
        out.extend_from_slice(outcome.name().as_bytes());
        true
    }, "The result of limit_req: PASSED, DELAYED, REJECTED, or the latter two with _DRY_RUN."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.limits.is_empty()
    }
}

fn limit_req_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let declared = limit_req::read_zone(node, cx)?;
    if cx.drafts.limit_conn.is_declared(declared.name()) {
        return Err(zone::other_use(declared.name(), node));
    }
    cx.drafts.limit_req.declare(declared, node)
}

fn limit_req(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.limits.add(node, &mut cx.drafts.limit_req)
}

pub fn preaccess(request: &mut Request) -> Verdict {
    if request.location.confs.limit_req.limits.is_empty() || request.states.limit_req.outcome.is_some() {
        return Verdict::Next;
    }
    limit(request)
}

fn limit(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.limit_req;
    let zones = &request.config.tables.limit_req;
    let Some((outcome, delay_ms)) = conf.limits.limit(request, zones, runtime::now_ms()) else {
        return Verdict::Next;
    };
    request.states.limit_req.outcome = Some(outcome);
    match outcome {
        Outcome::Passed | Outcome::DelayedDryRun | Outcome::RejectedDryRun => Verdict::Next,
        Outcome::Delayed => Verdict::Wait(Pause::Delay { ms: delay_ms, then: |_| Verdict::Next }),
        Outcome::Rejected => {
            request.termination =
                Some(Termination::new(Who::Proxy, How::Limit, Phase::Process).by("limit_req"));
            Verdict::Done(Reply::Status(conf.status.get() as u16))
        }
    }
}
