//! The clients' connections of all workers, for operators: the workers are asked, and their answers put together.
//!
//! Nothing that a worker says here is trusted: rows are bounded (`rules.rs`) and only shown. A worker that does not answer
//! in time is named in the answer. Touches: the control sockets.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::log;
use crate::master::Master;
use crate::master::roles::Role;
use crate::master::supervisor::WorkerId;
use crate::net::clients::{OF_STREAM, PROTOCOLS, Row, STATES};
use crate::shared::control::Operator;
use crate::sys::clock;
use crate::worker::messages::{Listed, ToWorker};

/// How long the workers have to answer.
const ANSWER_MS: u64 = 1000;
/// Maximum number of connections in an answer, which must fit into `shared::control::ANSWER_BYTES_MAX`.
const ROWS_MAX: usize = 4096;

/// The questions that were not answered yet.
#[derive(Debug, Default)]
pub struct Questions {
    last: u32,
    open: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    number: u32,
    /// The process that asks, and the number of its order.
    asker: (WorkerId, u32),
    /// It lists; otherwise it ends a connection.
    is_list: bool,
    waiting: BTreeSet<WorkerId>,
    rows: Vec<Value>,
    total: u64,
    deadline_ms: u64,
}

impl Questions {
    /// The time at which the next question is given up.
    pub fn due_ms(&self) -> Option<u64> {
        self.open.iter().map(|question| question.deadline_ms).min()
    }
}

impl Master {
    /// Asks all workers for their connections.
    pub(super) fn list_connections(&mut self, asker: (WorkerId, u32)) {
        let number = self.next_question();
        let mut waiting = BTreeSet::new();
        let mut silent = 0;
        for worker in self.workers.iter_mut().filter(|worker| worker.role == Role::Worker) {
            // One that has just been forked has no connections.
            if self
                .supervisor
                .hears(worker.id)
                .is_none_or(|state| state == crate::master::rules::State::Starting)
            {
                continue;
            }
            if worker.ledger.question(number) && worker.send(&ToWorker::List(number)) {
                waiting.insert(worker.id);
            } else {
                silent += 1;
            }
        }
        if silent > 0 {
            log::warn!(log::process(), &(), "{silent} workers cannot be asked for their connections now");
        }
        self.open_question(number, asker, true, waiting);
    }

    /// Asks a worker to end a connection.
    pub(super) fn end_connection(&mut self, asker: (WorkerId, u32), (pid, id): (u32, u64), by: Operator) {
        let number = self.next_question();
        let is_it = |worker: &&mut crate::master::seat::Worker| {
            worker.role == Role::Worker && u32::try_from(worker.pid) == Ok(pid)
        };
        let Some(worker) = self.workers.iter_mut().find(is_it) else {
            return self.answer(asker.0, asker.1, 404, b"there is no such worker");
        };
        if !worker.ledger.question(number) || !worker.send(&ToWorker::End(number, id)) {
            return self.answer(asker.0, asker.1, 503, b"the worker cannot be asked now");
        }
        log::notice!(log::process(), &(), "connection {} of worker {pid} is ended by {by}", shown(id));
        let waiting = BTreeSet::from([worker.id]);
        self.open_question(number, asker, false, waiting);
    }

    fn next_question(&mut self) -> u32 {
        let last = &mut self.orders.questions.last;
        *last = last.wrapping_add(1);
        *last
    }

    fn open_question(
        &mut self,
        number: u32,
        asker: (WorkerId, u32),
        is_list: bool,
        waiting: BTreeSet<WorkerId>,
    ) {
        let deadline_ms = clock::monotonic_ms() + ANSWER_MS;
        let question = Question { number, asker, is_list, waiting, rows: Vec::new(), total: 0, deadline_ms };
        self.orders.questions.open.push(question);
        self.close_questions(clock::monotonic_ms());
    }

    /// Takes a part of a worker's answer.
    pub(super) fn hear_listed(&mut self, id: WorkerId, listed: Listed) {
        let Some(worker) = self.workers.iter().find(|worker| worker.id == id) else { return };
        let (pid, generation) = (worker.pid, self.supervisor.generation_of(id));
        let is_leaving = self.supervisor.hears(id).is_none_or(|state| state.is_leaving());
        let questions = &mut self.orders.questions.open;
        let Some(question) = questions.iter_mut().find(|question| question.number == listed.query) else {
            return;
        };
        let room = ROWS_MAX.saturating_sub(question.rows.len());
        let rows = listed.rows.iter().take(room).map(|row| value(row, pid, generation, is_leaving));
        question.rows.extend(rows);
        if listed.is_last && question.waiting.remove(&id) {
            question.total += u64::from(listed.total);
            self.close_questions(clock::monotonic_ms());
        }
    }

    /// Answers the questions whose time is over.
    pub(super) fn give_up_questions(&mut self) {
        if !self.orders.questions.open.is_empty() {
            self.close_questions(clock::monotonic_ms());
        }
    }

    fn close_questions(&mut self, now_ms: u64) {
        let alive: BTreeSet<WorkerId> = self.workers.iter().map(|worker| worker.id).collect();
        let is_over = |question: &mut Question| {
            question.waiting.retain(|worker| alive.contains(worker));
            question.waiting.is_empty() || question.deadline_ms <= now_ms
        };
        let over: Vec<Question> = self.orders.questions.open.extract_if(.., is_over).collect();
        for question in over {
            let silent = self.workers.iter().filter(|worker| question.waiting.contains(&worker.id));
            let silent: Vec<i32> = silent.map(|worker| worker.pid).collect();
            let (status, body) = match (question.is_list, silent.is_empty(), question.total) {
                (true, ..) => {
                    let rows = question.rows;
                    (
                        200,
                        json!({ "connections": rows, "total": question.total, "silent": silent }).to_string(),
                    )
                }
                (false, true, 0) => (404, "there is no such connection, or it cannot be ended".to_owned()),
                (false, true, _) => (200, "{}".to_owned()),
                (false, false, _) => (504, "the worker does not answer".to_owned()),
            };
            self.answer(question.asker.0, question.asker.1, status, body.as_bytes());
        }
    }
}

/// The number of a connection in the logs; `s` marks those of streams.
fn shown(id: u64) -> String {
    if id & OF_STREAM == 0 { id.to_string() } else { format!("s{}", id & !OF_STREAM) }
}

fn value(row: &Row, pid: i32, generation: u64, is_leaving: bool) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "id": format!("{pid}-{}", shown(row.id)),
        "pid": pid,
        "generation": generation,
        "leaving": is_leaving,
        "client": text(&row.peer),
        "server": text(&row.local),
        "protocol": PROTOCOLS.get(usize::from(row.protocol)).unwrap_or(&""),
        "state": STATES.get(usize::from(row.state)).unwrap_or(&""),
        "age_ms": row.age_ms,
        "requests": row.requests,
        "request": text(&row.request),
    })
}
