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
use crate::shm::alike::{Amounts, Parts, Shape};
use crate::shm::behind::{self, Pending};
use crate::shm::counter::{Slot, Word};
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
    let request_us = runtime::now_us().saturating_sub(request.started_us);
    let zones = [request.server.slot, request.location.confs.status_zone.of_location()];
    let (group, header_us, response_us) = match request.upstream.attempts() {
        [] => (None, None, None),
        [one] if one.header_us.is_some() && one.connect_us.is_none_or(|us| us == 0) => {
            (request.upstream.slot(), one.header_us, Some(one.response_us()))
        }
        _ => return add_tries(request, zones, facts, counts),
    };
    let us = [Some(request_us), header_us, response_us];
    let shape = Shape::new([zones[0], zones[1], group], facts, us);
    let us = us.map(Option::unwrap_or_default);
    let amounts = Amounts { bytes_in: request.length(), bytes_out: request.bytes_sent, us };
    counts.finish(shape, amounts, || Parts { zones, group, times: times(request, zones) });
}

/// The histograms of a request's times: the whole of it, and to the upstream's response head and to its end.
#[cold]
fn times(request: &Request, zones: [Option<Slot>; 2]) -> [[Option<Histogram>; 3]; 3] {
    let durations = &request.config.tables.counters;
    let [server, location] = zones.map(|slot| Some(slot?.detail()?.histogram(0)));
    let detail = request.upstream.detail();
    let [_, header, response] = UPSTREAM_TIMES.map(|number| detail.map(|it| it.histogram(number)));
    [
        [durations.request, server, location],
        [durations.header, header, None],
        [durations.response, response, None],
    ]
}

/// Counts a request for which a connection was made, or that was tried more than once, or has no response of an upstream.
#[cold]
fn add_tries(request: &Request, zones: [Option<Slot>; 2], facts: Facts, counts: &mut Pending) {
    let status = facts.status();
    let durations = &request.config.tables.counters;
    let bytes = [(Word::BytesIn, request.length()), (Word::BytesOut, request.bytes_sent)];
    for slot in zones.into_iter().flatten() {
        counts.count(slot, status, &bytes);
        counts.count_facts(slot, facts);
    }
    let [request_times, header_times, response_times] = times(request, zones);
    counts.record_all(request_times, runtime::now_us().saturating_sub(request.started_us));
    request.upstream.count(status, facts, counts);
    let connect = request.upstream.detail().map(|detail| detail.histogram(UPSTREAM_TIMES[0]));
    for attempt in request.upstream.attempts() {
        if let Some(us) = attempt.connect_us.filter(|us| *us > 0) {
            counts.record_all([durations.connect, connect], us);
        }
        if let Some(us) = attempt.header_us {
            counts.record_all(header_times, us);
            counts.record_all(response_times, attempt.response_us());
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
