//! What every request adds to the counters and histograms in shared memory.
//!
//! Runs in the log phase, whatever the configuration says: the counters are there from the start, so that whoever
//! looks later sees the whole past. Touches: shared memory.

use crate::config::settings;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::runtime;
use crate::shm::behind;
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

/// A histogram for each phase of a request, each `None` when there is no room for it. In microseconds, and as fine as
/// a turn of the loop: its clock is read once a turn, and what is answered in its own turn took none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// From the first byte of a request to the end of its answer.
    pub request: Option<Histogram>,
    /// New connections to upstreams; those that are used again took no time.
    pub connect: Option<Histogram>,
    /// From the choice of a peer to the end of its response head, and of its response.
    pub header: Option<Histogram>,
    pub response: Option<Histogram>,
}

impl Durations {
    /// Those of this process tree. For the master.
    pub fn find() -> Self {
        Self {
            request: histogram::named("request"),
            connect: histogram::named("upstream connect"),
            header: histogram::named("upstream header"),
            response: histogram::named("upstream response"),
        }
    }
}

/// Counts a request that is over.
pub fn count(request: &mut Request) {
    if request.is_subrequest() {
        return;
    }
    let status = request.response.status;
    if let Some(slot) = request.server.slot {
        let others = [(Word::BytesIn, request.length()), (Word::BytesOut, request.bytes_sent)];
        behind::count(slot, status, &others);
    }
    let durations = &request.config.durations;
    record(durations.request, Some(runtime::now_us().saturating_sub(request.started_us)));
    request.upstream.count(status);
    for attempt in request.upstream.attempts() {
        record(durations.connect, attempt.connect_us.filter(|us| *us > 0));
        record(durations.header, attempt.header_us);
        record(durations.response, attempt.header_us.map(|_| attempt.response_us()));
    }
}

fn record(histogram: Option<Histogram>, us: Option<u64>) {
    if let (Some(histogram), Some(us)) = (histogram, us) {
        behind::record(histogram, us);
    }
}
