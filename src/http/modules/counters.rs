//! Adds every request to the counters and histograms in shared memory.
//!
//! Runs in the log phase, whatever the configuration says: the counters run from the start, so that a later
//! look at them shows the whole past. Touches: shared memory.

use crate::config::settings;
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::request::termination::Termination;
use crate::http::scope::Variable;
use crate::proto::message::Version;
use crate::runtime;
use crate::shm::behind::{self, Pending};
use crate::shm::counter::Word;
use crate::shm::detail::{End, Facts, Protocol};
use crate::shm::histogram::{self, Histogram};

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[

];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

/// A histogram for each phase of a request, in microseconds; `None` if there is no room for it. The
/// resolution is a turn of the loop, since the clock is read once a turn: a request answered within one turn
/// took no time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// From the first byte of a request to the end of its response.
    pub request: Option<Histogram>,
    /// Time to connect to upstreams; reused connections are not counted.
    pub connect: Option<Histogram>,
    /// From the choice of a peer to the end of its response head and of its response, respectively.
    pub header: Option<Histogram>,
    pub response: Option<Histogram>,
}

impl ModuleTable for Durations {
    /// Those of this process tree. In the master.
    fn open(cx: &mut Cx) -> Self {
        if cx.options.test_only {
            return Self::default();
        }
        Self {
            request: histogram::named("request"),
            connect: histogram::named("upstream connect"),
            header: histogram::named("upstream header"),
            response: histogram::named("upstream response"),
        }
    }
}

/// The histograms of an upstream's detail: connect, header, response.
pub const UPSTREAM_TIMES: [usize; 3] = [0, 1, 2];

/// Counts a finished request.
pub fn count(request: &mut Request) {
    if request.is_subrequest() {
        return;
    }
    behind::add(|counts| add(request, counts));
}

fn add(request: &Request, counts: &mut Pending) {
    // A request without any response is discarded, whatever status is logged (444, 499).
    let status = if request.bytes_sent > 0 { request.response.status } else { 0 };
    let facts = Facts::new(status, protocol(request), request.termination.map_or(End::OK, Termination::end));
    let durations = &request.config.tables.counters;
    let request_us = runtime::now_us().saturating_sub(request.started_us);
    let location = request.location.confs.status_zone.of_location();
    let zones = [request.server.slot, location];
    for slot in &zones {
        let Some(slot) = *slot else { continue };
        let others = [(Word::BytesIn, request.length()), (Word::BytesOut, request.bytes_sent)];
        counts.count(slot, status, &others);
        counts.count_facts(slot, facts);
    }
    let [server, location] = zones.map(|slot| Some(slot?.detail()?.histogram(0)));
    counts.record_all([durations.request, server, location], request_us);
    request.upstream.count(status, facts, counts);
    let attempts = request.upstream.attempts();
    if attempts.is_empty() {
        return;
    }
    let detail = request.upstream.detail();
    let [connect, header, response] = UPSTREAM_TIMES.map(|number| detail.map(|it| it.histogram(number)));
    for attempt in attempts {
        if let Some(us) = attempt.connect_us.filter(|us| *us > 0) {
            counts.record_all([durations.connect, connect], us);
        }
        if let Some(us) = attempt.header_us {
            counts.record_all([durations.header, header], us);
            counts.record_all([durations.response, response], attempt.response_us());
        }
    }
}

fn protocol(request: &Request) -> Protocol {
    match request.version() {
        Version::Http10 => Protocol::Http10,
        Version::Http11 => Protocol::Http11,
        Version::Http2 => Protocol::Http2,
    }
}
