//! Adds every request to the counters and histograms in shared memory.
//!
//! Runs in the log phase, whatever the configuration says: the counters run from the start, so that a later
//! look at them shows the whole past. Touches: shared memory.

use crate::config::settings;
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::runtime;
use crate::shm::behind::{self, Pending};
use crate::shm::counter::Word;
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

/// Counts a finished request.
pub fn count(request: &mut Request) {
    if request.is_subrequest() {
        return;
    }
    behind::add(|counts| add(request, counts));
}

fn add(request: &Request, counts: &mut Pending) {
    let status = request.response.status;
    if let Some(slot) = request.server.slot {
        let others = [(Word::BytesIn, request.length()), (Word::BytesOut, request.bytes_sent)];
        counts.count(slot, status, &others);
    }
    let durations = &request.config.tables.counters;
    let request_us = runtime::now_us().saturating_sub(request.started_us);
    record(counts, durations.request, Some(request_us));
    request.upstream.count(status, counts);
    for attempt in request.upstream.attempts() {
        record(counts, durations.connect, attempt.connect_us.filter(|us| *us > 0));
        record(counts, durations.header, attempt.header_us);
        record(counts, durations.response, attempt.header_us.map(|_| attempt.response_us()));
    }
}

fn record(counts: &mut Pending, histogram: Option<Histogram>, us: Option<u64>) {
    if let (Some(histogram), Some(us)) = (histogram, us) {
        counts.record(histogram, us);
    }
}
