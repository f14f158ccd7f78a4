//! Limits on how many sessions of a key are open at one time (`limit_conn`, `limit_conn_zone`).
//!
//! Runs in the preaccess phase. Touches: the session's variables, one table in shared memory for each rule
//! (`shared/limit_conn.rs`). A session returns its places when it is dropped.
//! Behaviour: nginx.org, ngx_stream_limit_conn_module.

use crate::config::directive::{custom, flag, one_of};
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::script::variable::variable;
use crate::shared::limit_conn::{self, Limits, Outcome};
use crate::shm::held_counts::{Held, Holders};
use crate::shm::named::Used;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

pub type Zones = limit_conn::Zones<Session>;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        limits: Limits,
    }
}

/// What became of a session at its limits, and what it holds.
#[derive(Debug, Default)]
pub struct State {
    outcome: Option<Outcome>,
    /// Given back when the session is dropped. Not a `Vec`, which every session would pay for.
    held: Box<[Held]>,
}

/// The zones that sessions are counted in.
pub type Table = limit_conn::Table<Session>;

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
    custom("limit_conn_zone", Context::STREAM, Arity::exactly(2), limit_conn_zone,
        "Declares a zone of shared memory that counts the open sessions for each value of a key: KEY zone=NAME:SIZE."),
    custom("limit_conn", Context::IN_STREAM, Arity::exactly(2), limit_conn,
        "Limits how many sessions with the same key of a zone may be open at one time; further connections are closed."),
    one_of("limit_conn_log_level", Context::IN_STREAM, |c| &mut c.limits.level, "Sets the log level of rejections."),
    flag("limit_conn_dry_run", Context::IN_STREAM, |c| &mut c.limits.dry_run, "Counts and logs, but limits nothing."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("limit_conn_status", |session, _, out| {
        let Some(outcome) = session.states.limit_conn.outcome else { return false };
        out.extend_from_slice(outcome.name().as_bytes());
        true
    }, "The result of limit_conn: PASSED, REJECTED or REJECTED_DRY_RUN."),
];

impl BlockConf for Conf {}

fn limit_conn_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let declared = limit_conn::read_zone(node, cx)?;
    cx.drafts.limit_conn.declare(declared, node)
}

fn limit_conn(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.limits.add(node, &mut cx.drafts.limit_conn)
}

pub fn preaccess(session: &mut Session) -> Verdict {
    let conf: &'static Conf = &session.server.confs.limit_conn;
    if conf.limits.is_empty() {
        return Verdict::Next;
    }
    let zones = &session.config().tables.limit_conn;
    let Some((outcome, held)) = conf.limits.hold(session, zones) else { return Verdict::Next };
    session.states.limit_conn = State { outcome: Some(outcome), held: held.into() };
    if outcome == Outcome::Rejected { Verdict::Done(503) } else { Verdict::Next }
}

/// The word of `$limit_conn_status`, as a number for another process.
pub fn save(session: &Session) -> u8 {
    Outcome::number(session.states.limit_conn.outcome)
}

/// Counts a session that another process has admitted.
pub fn admit_again(session: &mut Session, saved: u8) {
    session.states.limit_conn.outcome = Outcome::of_number(saved);
    let conf: &'static Conf = &session.server.confs.limit_conn;
    if !conf.limits.is_empty() {
        let held = conf.limits.hold_again(session, &session.config().tables.limit_conn);
        session.states.limit_conn.held = held.into();
    }
}
