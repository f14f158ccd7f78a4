//! Orders of operators: changes of upstreams, reloads, questions that only the master can answer.
//!
//! They come from the controller, and from workers if a location has `api write=on` (`rules.rs`). A change is made in
//! the configuration in force first, written to the state file, and then told to every process; only then is it
//! answered. While a configuration is being read or its workers start, changes wait: so every process has either the
//! configuration that was changed, or is told.
//!
//! Touches: the state file, the configuration in force, the control sockets.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cycle::Config;
use crate::log;
use crate::master::Master;
use crate::master::connections::Questions;
use crate::master::inherit::Legacy;
use crate::master::keyvals::{self, Keyvals};
use crate::master::seat::Worker;
use crate::master::state_file::{self, StateFile};
use crate::master::supervisor::{Event, Former, Order as Request, WorkerId};
use crate::shared::control::{Operator, Order};
use crate::sys::sealed;
use crate::upstream::edits::{Difference, Edit, Edits, Kind, Part, Refusal};
use crate::worker::messages::{AnswerPart, Edited, PART_BYTES_MAX, ToWorker};

/// Maximum size of a state file, and of the changes that go to the next binary.
const STATE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The state file is written anew when it has this many lines more than twice the differences.
pub(super) const STALE_LINES_MAX: usize = 1000;

/// The orders that were not answered yet, and the changes that were made.
#[derive(Debug, Default)]
pub struct Orders {
    edits: Edits,
    /// The changes in the configuration before this one, until this one is sure to stay.
    edits_before: Option<Edits>,
    state: Option<StateFile>,
    /// The key-value zones.
    pub(super) keyvals: Keyvals,
    pub(super) questions: Questions,
    waiting: VecDeque<Waiting>,
    /// Those who wait for the outcome of the reload under way.
    reloading: Vec<(WorkerId, u32)>,
    /// The outcome of that reload, once it is known.
    verdict: Option<bool>,
    /// Parts of answers that found no room in their sockets.
    unsent: VecDeque<(WorkerId, AnswerPart)>,
}

#[derive(Debug)]
struct Waiting {
    worker: WorkerId,
    number: u32,
    order: Order,
}

/// A process in the answer to [`Order::Processes`]; the first three fields are those of nginx's control API.
#[derive(Serialize)]
struct Process {
    name: &'static str,
    pid: i32,
    exiting: bool,
    generation: u64,
}

impl Orders {
    /// Takes over the changes that were made before: those of the older master, or those in the state file. Makes them
    /// in `config`.
    pub fn open(state: Option<PathBuf>, inherited: Legacy, config: &mut Config) -> Self {
        let mut orders = Self { keyvals: Keyvals::open(inherited.keyvals, config), ..Self::default() };
        let text = match inherited.edits {
            Some(fd) => sealed::read(fd, STATE_BYTES_MAX).map(|bytes| bytes.to_vec()).ok(),
            None => state
                .as_deref()
                .and_then(|path| state_file::read(path, STATE_BYTES_MAX, "upstreams are as configured")),
        };
        let is_whole;
        (orders.edits, is_whole) = parse(&text.unwrap_or_default(), state.as_deref());
        if let Some(path) = state.as_deref().filter(|_| !is_whole) {
            state_file::set_aside(path);
        }
        forgotten(&config.apply_edits(&mut orders.edits));
        orders.use_state(state);
        orders
    }

    /// Leaves the state file to the next binary, which replaces it. If that one ends, the next change writes it anew:
    /// the file that is open here has no name any more.
    pub fn leave_state(&mut self) {
        self.state = None;
        self.keyvals.leave_state();
    }

    /// The changes in sealed memory, for the next binary.
    pub fn sealed(&self, config: &Config) -> Legacy {
        Legacy { edits: self.sealed_edits(), keyvals: keyvals::sealed(config) }
    }

    fn sealed_edits(&self) -> Option<OwnedFd> {
        if self.edits.is_empty() {
            return None;
        }
        let why = |error: &io::Error| {
            log::alert!(
                log::process(),
                &(),
                "memfd_create() failed {}: changes of upstreams do not reach the new binary",
                log::Cause(error)
            );
        };
        sealed::seal("edits", &text(&self.edits)).inspect_err(why).ok()
    }

    /// Takes an order.
    pub fn take(&mut self, worker: WorkerId, number: u32, order: Order) {
        self.waiting.push_back(Waiting { worker, number, order });
    }

    /// Makes the changes in the next configuration.
    pub fn carry_over(&mut self, next: &mut Config) {
        self.keyvals.fill(next);
        self.edits_before = Some(self.edits.clone());
        forgotten(&next.apply_edits(&mut self.edits));
    }

    /// The configuration that was read is not used.
    pub fn is_refused(&mut self) {
        self.verdict = Some(false);
    }

    /// The configuration before is in force again.
    pub fn is_undone(&mut self) {
        if let Some(edits) = self.edits_before.take() {
            self.edits = edits;
        }
        self.verdict = Some(false);
    }

    /// The configuration is in force, and stays. `state`: its state file.
    pub fn is_in_force(&mut self, state: Option<PathBuf>) {
        self.verdict = Some(true);
        if self.edits_before.take().is_some() {
            self.use_state(state);
        }
    }

    /// True if something waits for room in a socket.
    pub fn has_unsent(&self, workers: &[Worker]) -> bool {
        !self.unsent.is_empty() || workers.iter().any(Worker::has_untold)
    }

    /// Writes the state file anew, so that it has only what is different.
    fn use_state(&mut self, path: Option<PathBuf>) {
        self.state = None;
        let Some(path) = path else { return };
        match StateFile::create(path, &text(&self.edits), self.edits.len()) {
            Ok(state) => self.state = Some(state),
            Err((path, error)) => {
                let (path, cause) = (path.display(), log::Cause(&error));
                log::alert!(
                    log::process(),
                    &(),
                    "writing the state file \"{path}\" failed {cause}: changes are refused until it can be written"
                );
            }
        }
    }
}

impl Master {
    /// Carries out the orders that can be carried out now, and sends what could not be sent before.
    pub(super) fn carry_out_orders(&mut self) {
        self.tell_verdict();
        while let Some(Waiting { order, .. }) = self.orders.waiting.front() {
            let is_question = matches!(
                order,
                Order::Processes | Order::Differences | Order::Connections | Order::End { .. }
            );
            if !is_question
                && !self.supervisor.is_at_rest()
                && !self.supervisor.is_ending()
                && !self.is_upgrading()
            {
                break;
            }
            let Some(Waiting { worker, number, order }) = self.orders.waiting.pop_front() else { break };
            let (status, body) = match order {
                Order::Processes => (200, self.processes()),
                Order::Differences => (
                    200,
                    serde_json::to_vec(&self.orders.edits.iter().collect::<Vec<_>>()).unwrap_or_default(),
                ),
                Order::Connections => {
                    self.list_connections((worker, number));
                    continue;
                }
                Order::End { pid, id, by } => {
                    self.end_connection((worker, number), (pid, id), by);
                    continue;
                }
                _ if self.supervisor.is_ending() => (503, b"the server is shutting down".to_vec()),
                _ if self.is_upgrading() => {
                    (409, b"the binary is being upgraded: end one of the two masters first".to_vec())
                }
                Order::Edit { part, upstream, edit, by } => self.edit((part, &upstream), &edit, by),
                Order::Keyval { part, zone, change, by } => self.change_keyval((part, &zone), change, by),
                Order::Reload { by } => {
                    self.reload_for(worker, number, by);
                    continue;
                }
            };
            self.answer(worker, number, status, &body);
        }
        self.give_up_questions();
        self.send_edits();
        self.send_keyvals();
        self.send_answers();
    }

    /// Two masters serve: a change would reach the processes of one of them only.
    fn is_upgrading(&self) -> bool {
        self.elder.is_some() || self.successor.is_some()
    }

    /// Starts a reload whose outcome a process waits for.
    fn reload_for(&mut self, worker: WorkerId, number: u32, by: Operator) {
        log::notice!(log::process(), &(), "reload ordered by {by}");
        self.orders.reloading.push((worker, number));
        self.orders.verdict = None;
        log::begin_capture();
        self.happen(Event::Ordered { order: Request::Reload, is_followed: false });
        self.tell_verdict();
    }

    /// Answers those who wait for the outcome of a reload, once it is known.
    fn tell_verdict(&mut self) {
        // A client that comes after the answer meets the new configuration.
        if self.orders.verdict == Some(true) && self.supervisor.former_ones() == Former::Moving {
            return;
        }
        let Some(is_accepted) = self.orders.verdict.take() else { return };
        let lines = log::end_capture();
        let body = serde_json::json!({ "logs": lines, "generation": self.supervisor.generation(),
            "configuration": format!("{:08x}", self.cycle.config.checksum) });
        let status = if is_accepted { 200 } else { 422 };
        for (worker, number) in std::mem::take(&mut self.orders.reloading) {
            self.answer(worker, number, status, body.to_string().as_bytes());
        }
    }

    fn processes(&self) -> Vec<u8> {
        let process = |worker: &Worker| Process {
            name: worker.role.title(),
            pid: worker.pid,
            exiting: self.supervisor.hears(worker.id).is_none_or(|state| state.is_leaving()),
            generation: self.supervisor.generation_of(worker.id),
        };
        let processes: Vec<Process> = self.workers.iter().map(process).collect();
        let respawned = self.respawned;
        serde_json::json!({ "processes": processes, "respawned": respawned }).to_string().into_bytes()
    }

    /// Changes a server of an upstream, and tells all processes.
    fn edit(&mut self, (part, upstream): (Part, &str), edit: &Edit, by: Operator) -> (u16, Vec<u8>) {
        let refused = |status, why: String| (status, why.into_bytes());
        let edited = self.cycle.config.edit_upstream(&mut self.orders.edits, (part, upstream), edit);
        let (made, difference) = match edited {
            Ok(edited) => edited,
            Err(why @ (Refusal::NoGroup | Refusal::NoServer)) => return refused(404, why.to_string()),
            Err(why @ Refusal::Line(_)) => return refused(400, why.to_string()),
            Err(why @ Refusal::Full) => return refused(507, why.to_string()),
        };
        let own_state = made.before.state.clone();
        let written = match &own_state {
            Some(state) => self.write_own_state(part, made.group, &state.path),
            None => self.write_state(&difference),
        };
        if own_state.is_some() || written.is_err() {
            // Its own file is the group's configuration, so nothing differs from that.
            self.orders.edits.forget(&made, &difference);
        }
        if let Err((path, error)) = written {
            self.cycle.config.put_upstream_back(part, &made);
            let cause = log::Cause(&error);
            let why = format!("writing the state file \"{}\" failed {cause}", path.display());
            log::alert!(log::process(), &(), "{why}: a change of upstream \"{upstream}\" is refused");
            return refused(507, why);
        }
        let what = match difference.change {
            Kind::Add => "added",
            Kind::Set => "changed",
            Kind::Remove | Kind::Undo => "removed",
        };
        log::notice!(
            log::process(),
            &(),
            "server \"{}\" of upstream \"{upstream}\" {what} by {by}",
            difference.server
        );
        let position = (index(self.cycle.config.upstream_index(part, made.group)), index(made.position));
        for worker in &mut self.workers {
            if self.supervisor.is_of_generation(worker.id) {
                worker.edited.insert(position);
            }
        }
        self.send_edits();
        (200, serde_json::json!({ "id": made.server.id }).to_string().into_bytes())
    }

    /// Writes the servers of a group with a `state` file to that file.
    fn write_own_state(&self, part: Part, group: usize, path: &Path) -> Result<(), (PathBuf, io::Error)> {
        let config = &self.cycle.config;
        let group = config.upstream(config.upstream_index(part, group));
        let text = group.map(|group| crate::upstream::state_file::text(group)).unwrap_or_default();
        StateFile::create(path.to_owned(), &text, 0).map(|_| ())
    }

    /// Makes a change survive a restart, if the configuration names a state file.
    fn write_state(&mut self, difference: &Difference) -> Result<(), (PathBuf, io::Error)> {
        let Some(path) = self.settings().control_state(&self.cycle.config.prefix) else { return Ok(()) };
        let is_stale = |state: &StateFile| state.lines > 2 * self.orders.edits.len() + STALE_LINES_MAX;
        match &mut self.orders.state {
            Some(state) if state.path == path && !is_stale(state) => {
                state.append(&line(difference), 1).map_err(|error| (path, error))
            }
            // It could not be written before, or has grown long.
            _ => {
                let edits = &self.orders.edits;
                self.orders.state = Some(StateFile::create(path, &text(edits), edits.len())?);
                Ok(())
            }
        }
    }

    /// Tells the processes which servers were changed; one whose socket is full is told later.
    fn send_edits(&mut self) {
        let config = &self.cycle.config;
        for worker in &mut self.workers {
            let mut edited: BTreeSet<_> = std::mem::take(&mut worker.edited);
            while let Some((group, position)) = edited.pop_first() {
                let Some(message) = message(config, group, position) else { continue };
                if !worker.send(&ToWorker::Edited(message)) {
                    edited.insert((group, position));
                    break;
                }
            }
            worker.edited = edited;
        }
    }

    /// Queues an answer. It counts as unanswered until its last part has been sent, so that a worker that reads nothing
    /// cannot order without end.
    pub(super) fn answer(&mut self, worker: WorkerId, number: u32, status: u16, body: &[u8]) {
        let mut rest = body;
        loop {
            let (part, next) = rest.split_at(rest.len().min(PART_BYTES_MAX));
            let part = AnswerPart { number, status, is_last: next.is_empty(), body: part.to_vec() };
            self.orders.unsent.push_back((worker, part));
            rest = next;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Sends what the workers' sockets take. One whose socket is full holds up only itself.
    fn send_answers(&mut self) {
        let mut full: Vec<WorkerId> = Vec::new();
        for (id, part) in std::mem::take(&mut self.orders.unsent) {
            let Some(worker) = self.worker_mut(id) else { continue }; // it is gone, and so is its client
            let is_last = part.is_last;
            let message = ToWorker::Answer(part);
            // A change is told before it is answered, so that whoever asked sees it.
            let is_full = full.contains(&id);
            if !is_full && !worker.has_untold() && worker.send(&message) {
                if is_last {
                    worker.ledger.answer();
                }
                continue;
            }
            if !is_full {
                full.push(id);
            }
            if let ToWorker::Answer(part) = message {
                self.orders.unsent.push_back((id, part));
            }
        }
    }
}

fn index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The message about the server at a position of a group.
fn message(config: &Config, group: u32, position: u32) -> Option<Edited> {
    let found = config.upstream(group as usize)?;
    let server = found.servers.get(position as usize)?;
    let line = match server.is_removed {
        true => server.name.to_string(),
        false => crate::upstream::block::words(server).join(" "),
    };
    let shared = found.shared_of(position as usize).iter();
    let shared = shared.map(|it| (it.slot.map(|slot| slot.index()), it.place.map(|place| place.index())));
    let (id, is_removed, line) = (server.id, server.is_removed, line.into());
    Some(Edited { group, position, id, line, is_removed, shared: shared.collect() })
}

fn forgotten(messages: &[String]) {
    for message in messages {
        log::warn!(log::process(), &(), "{message}");
    }
}

/// The differences in a state file, and whether that is all of it.
fn parse(text: &[u8], path: Option<&Path>) -> (Edits, bool) {
    let mut edits = Edits::default();
    let is_whole = state_file::each(text, path.unwrap_or(Path::new("")), |difference: Difference| {
        edits.remember(difference);
        Ok(())
    });
    (edits, is_whole)
}

fn text(edits: &Edits) -> Vec<u8> {
    edits.iter().flat_map(line).collect()
}

fn line(difference: &Difference) -> Vec<u8> {
    let mut line = serde_json::to_vec(difference).unwrap_or_default();
    line.push(b'\n');
    line
}
