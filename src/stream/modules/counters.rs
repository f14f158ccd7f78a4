//! Counts of each server and upstream group, for `status`.
//!
//! Runs in the log phase. Touches: the counters in shared memory, at the end of the turn.

use crate::config::settings;
use crate::shm::behind::{self, Sign};
use crate::shm::counter::Word;
use crate::shm::detail::{self, End, Facts, Protocol};
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;
use crate::stream::session::Session;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

pub fn count(session: &mut Session) {
    let status = session.status;
    let protocol = if session.is_udp() { Protocol::Udp } else { Protocol::Tcp };
    let end = match status {
        200 => End::OK,
        502 | 503 => End::UPSTREAM_ERROR,
        400 => End::CLIENT_ERROR,
        _ => End::PROXY_ERROR,
    };
    let facts = Facts::new(status, protocol, end);
    let others = [
        (Word::BytesIn, session.received),
        (Word::BytesOut, session.sent),
        (Word::ResponseUs, session.elapsed_ms() * 1000),
    ];
    behind::add(|counts| {
        if let Some(slot) = session.server.slot {
            counts.count(slot, status, &others, Sign::Add);
            counts.count_facts(slot, facts, Sign::Add);
            if let Some(detail) = slot.detail() {
                counts.record(detail.histogram(detail::REQUEST_TIME), session.elapsed_ms() * 1000);
            }
        }
        session.upstream.count(status, facts, Sign::Add, counts);
        if let Some(detail) = session.upstream.detail() {
            for attempt in session.upstream.attempts() {
                if let Some(us) = attempt.connect_us.get().filter(|us| *us > 0) {
                    counts.record(detail.histogram(detail::CONNECT_TIME), us);
                }
                if let Some(us) = attempt.header_us.get() {
                    counts.record(detail.histogram(detail::HEADER_TIME), us);
                }
                counts.record(detail.histogram(detail::RESPONSE_TIME), attempt.response_us());
            }
        }
    });
}
