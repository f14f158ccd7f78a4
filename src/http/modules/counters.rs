//! Adds every request to the counters and histograms in shared memory.
//!
//! Runs when the last bytes of a response are about to be sent, if they are known to be the last, and otherwise in the log
//! phase, whatever the configuration says: the counters run from the start, so that a later
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
use crate::shm::behind::{self, Pending, Sign};
use crate::shm::counter::Word;
use crate::shm::detail::{self, End, Facts, Protocol};
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

/// Counts a finished request, unless it was counted before its last bytes were sent.
pub fn count(request: &mut Request) {
    if request.is_subrequest() || request.is_counted {
        return;
    }
    behind::add(|counts| add(request, request.bytes_sent, Sign::Add, counts));
}

/// Counts a request whose last bytes are about to be sent, `bytes` in all: a client that has its whole response must find it
/// counted, even if this worker is killed in the next moment.
#[inline]
pub fn count_ahead(request: &mut Request, bytes: u64) {
    request.is_counted = true;
    behind::add(|counts| add(request, bytes, Sign::Add, counts));
}

/// Undoes [`count_ahead`] within the same step: the bytes were not all sent.
#[cold]
pub fn take_back(request: &mut Request, bytes: u64) {
    request.is_counted = false;
    behind::add(|counts| add(request, bytes, Sign::TakeBack, counts));
}

fn add(request: &Request, bytes_sent: u64, sign: Sign, counts: &mut Pending) {
    // A request without any response is discarded, whatever status is logged (444, 499).
    let status = if bytes_sent > 0 { request.response.status } else { 0 };
    let facts = Facts::new(status, protocol(request), request.termination.map_or(End::OK, Termination::end));
    let request_us = runtime::now_us().saturating_sub(request.started_us);
    let zones = [request.server.slot, request.location.confs.status_zone.of_location()];
    let (group, connect_us, header_us, response_us) = match request.upstream.attempts() {
        [] => (None, None, None, None),
        [one] if one.header_us.get().is_some() => {
            // a kept connection took no time
            let connect_us = one.connect_us.get().filter(|us| *us > 0);
            (request.upstream.slot(), connect_us, one.header_us.get(), Some(one.response_us()))
        }
        _ => return add_tries(request, bytes_sent, facts, sign, counts),
    };
    let us = [Some(request_us), connect_us, header_us, response_us];
    let slots = [zones[0], zones[1], group];
    let shape = Shape::new(slots, facts, us);
    let us = us.map(Option::unwrap_or_default);
    let amounts = Amounts { bytes_in: request.length(), bytes_out: bytes_sent, us };
    let Durations { request: of_request, connect, header, response } = request.config.tables.counters;
    counts.finish(shape, amounts, sign, || Parts { slots, named: [of_request, connect, header, response] });
}

/// Counts a request that was tried more than once, or has no response of an upstream.
#[cold]
fn add_tries(request: &Request, bytes_sent: u64, facts: Facts, sign: Sign, counts: &mut Pending) {
    let status = facts.status();
    let durations = &request.config.tables.counters;
    let zones = [request.server.slot, request.location.confs.status_zone.of_location()];
    let bytes = [(Word::BytesIn, request.length()), (Word::BytesOut, bytes_sent)];
    for slot in zones.into_iter().flatten() {
        counts.count(slot, status, &bytes, sign);
        counts.count_facts(slot, facts, sign);
    }
    let [server, location] = zones.map(|slot| Some(slot?.detail()?.histogram(detail::REQUEST_TIME)));
    let request_us = runtime::now_us().saturating_sub(request.started_us);
    counts.record_all([durations.request, server, location], request_us, sign);
    request.upstream.count(status, facts, sign, counts);
    let of_group = |time| request.upstream.detail().map(|detail| detail.histogram(time));
    for attempt in request.upstream.attempts() {
        if let Some(us) = attempt.connect_us.get().filter(|us| *us > 0) {
            counts.record_all([durations.connect, of_group(detail::CONNECT_TIME)], us, sign);
        }
        if let Some(us) = attempt.header_us.get() {
            counts.record_all([durations.header, of_group(detail::HEADER_TIME)], us, sign);
            let response_us = attempt.response_us();
            counts.record_all([durations.response, of_group(detail::RESPONSE_TIME)], response_us, sign);
        }
    }
}

fn protocol(request: &Request) -> Protocol {
    match request.version() {
        Version::Http10 => Protocol::Http10,
        Version::Http11 => Protocol::Http11,
        Version::Http2 => Protocol::Http2,
        Version::Http3 => Protocol::Http3,
    }
}
