//! Counts of each server and upstream group, for `status`.
//!
//! Runs in the log phase. Touches: the counters in shared memory, at the end of the turn.

use crate::config::settings;
use crate::shm::behind;
use crate::shm::counter::Word;
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
    let others = [
        (Word::BytesIn, session.received),
        (Word::BytesOut, session.sent),
        (Word::ResponseUs, session.elapsed_ms() * 1000),
    ];
    behind::add(|counts| {
        if let Some(slot) = session.server.slot {
            counts.count(slot, status, &others);
        }
        session.upstream.count(status, counts);
    });
}
