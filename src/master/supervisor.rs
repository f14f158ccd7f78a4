//! The decisions of the master as a value: events and the time go in, actions come out.
//!
//! Touches nothing: no socket, no clock, no process, no shared memory. `master/mod.rs` performs the actions
//! in their order, and reports the outcome of those that can fail. So every history of workers that die, get
//! stuck or never start can be written down and played in a test.
//!
//! ```text
//! Serving ──WINCH──▶ Drained ──HUP, or the new master of an upgrade has ended──▶ Serving
//! Serving, Drained ──QUIT──▶ Leaving        all ──TERM, INT──▶ Stopping
//! a worker:  (Fork) Starting ─Ready→ Ready ─Drain→ Draining ─Quit→ Quitting        each ─Ended→ gone
//! a place:   worker ─ended, replaced→ vacant ─due→ worker
//! ```
//! The rest is in `respawn.rs` (vacant places), `watchdog.rs` (stuck and full workers) and `generation.rs`
//! (changes of the configuration): each is one more `impl` over the state declared here.

use std::collections::{HashMap, HashSet};

use crate::master::notice::Notice;
use crate::master::respawn::{FirstStart, Loan, Vacancy};
use crate::master::roles::{Place, Role};
use crate::master::rules::{Fault, State};
use crate::shm::heartbeat::Heartbeat;
use crate::sys::process::Ended;
use crate::worker::messages::{SlotIndex, ToWorker};

/// Identifies a worker for the life of the master: a process id exists only after the fork, and may be
/// reused.
pub type WorkerId = u64;

/// The process-related settings of the configuration in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub worker_count: usize,
    /// There are servers to check.
    pub has_prober: bool,
    /// There are caches.
    pub has_cache_manager: bool,
    /// There is a control socket.
    pub has_controller: bool,
    /// Certificates come from an authority.
    pub has_keeper: bool,
    /// `worker_watchdog`; 0: a worker is never killed for being stuck.
    pub watchdog_ms: u64,
    /// `worker_shutdown_timeout`.
    pub shutdown_ms: Option<u64>,
    pub fast_stop_ms: u64,
    /// `worker_generations`: how many earlier generations may finish their requests; 0: any number.
    pub generations_max: usize,
}

impl Limits {
    /// All processes that a generation has.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let workers = (0..self.worker_count).map(|number| Place { role: Role::Worker, number });
        let one = |role| Place { role, number: 0 };
        let prober = self.has_prober.then_some(one(Role::Prober));
        let cache_manager = self.has_cache_manager.then_some(one(Role::CacheManager));
        let controller = self.has_controller.then_some(one(Role::Controller));
        let keeper = self.has_keeper.then_some(one(Role::Keeper));
        workers.chain(prober).chain(cache_manager).chain(controller).chain(keeper)
    }
}

/// The request that a signal makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// TERM, INT.
    Stop,
    /// QUIT.
    Leave,
    /// WINCH.
    Drain,
    /// HUP.
    Reload,
    /// USR1.
    Reopen,
    /// USR2.
    Upgrade,
}

/// The view of one worker: its words in shared memory, and whether connections wait in its queues.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub beat: Heartbeat,
    pub has_queue: bool,
}

/// An event.
#[derive(Debug)]
pub enum Event {
    /// The first configuration is open.
    Started,
    /// A signal has arrived. `is_followed`: another master serves as well.
    Ordered {
        order: Order,
        is_followed: bool,
    },
    /// The outcome of [`Action::Fork`], with the slots that are the worker's own.
    Forked {
        worker: WorkerId,
        pid: i32,
        leased: Vec<SlotIndex>,
    },
    NotForked {
        worker: WorkerId,
        leased: Vec<SlotIndex>,
        why: String,
    },
    Ready(WorkerId),
    /// It asks to be replaced.
    Replace(WorkerId),
    Pong(WorkerId),
    /// It accepts no more.
    Closed(WorkerId),
    BrokeRule(WorkerId, Fault),
    Ended(WorkerId, Ended),
    /// A ping found no room in the worker's socket.
    PingUnsent(WorkerId),
    /// Slots could not be lent: the helper's socket is full or gone.
    NotLent {
        helper: WorkerId,
        slots: Vec<SlotIndex>,
    },
    /// The workers were checked; these are their states.
    Looked(Vec<(WorkerId, Sight)>),
    /// A listener that is polled while all is quiet has a connection.
    Stirred,
    /// A turn of the master's loop.
    Tick,
    /// Listening sockets were opened anew, which living workers do not have.
    SocketsReplaced,
    /// The requested configuration is open, and now in force.
    Opened(Limits),
    /// It was refused.
    Refused,
    /// The new master of an upgrade has ended.
    SuccessorEnded(i32),
}

/// An action. Actions are performed in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Prepares the listening sockets for the next generation; its forks follow.
    Prepare,
    Fork {
        worker: WorkerId,
        place: Place,
        generation: u64,
    },
    Send(WorkerId, ToWorker),
    /// Sends a ping.
    Ping(WorkerId),
    /// Ask a silent worker where it is in the program.
    Locate(WorkerId),
    /// Lets a worker accept from these slots too.
    Lend {
        helper: WorkerId,
        slots: Vec<SlotIndex>,
    },
    /// SIGTERM.
    Terminate(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    CheckSockets,
    /// Tells the kernel which slots may get connections.
    Steer,
    /// Shuts removed addresses down that no worker accepts from any more.
    ShutRemoved,
    /// Frees counters that no configuration names.
    Sweep,
    MovePidFile,
    /// Makes clients reach exactly the sockets of this configuration.
    Settle,
    /// Announces that all workers of the generation are ready and the previous ones were told to leave.
    Serve,
    /// Puts the previous configuration back in force.
    Restore,
    /// Tells the service manager that a reload was refused.
    TellRefused,
    /// Stops new clients from reaching any address.
    RetireAll,
    Read,
    GiveUpReading,
    TellLeaving,
    ReopenLogs,
    Upgrade,
    Tell(Notice),
}

/// The phase of the master's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// WINCH: the workers have left, the addresses stay open.
    Drained,
    /// QUIT: the master exits when the last worker has finished.
    Leaving,
    /// TERM, INT: workers are told to exit at once, and are killed from this time on (monotonic ms).
    Stopping {
        kill_ms: u64,
    },
}

/// The state of the workers that leave, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Former {
    /// None of them accepts any more.
    Gone,
    /// Those that still accept were stuck when they were told to leave: nobody knows when they go on.
    Stuck,
    /// One will soon have closed its sockets.
    Moving,
}

/// A worker may be silent for this long and go on: a machine with too much to do holds it up, and most of all one that has
/// just started and takes thousands of sessions over (1.7 s were seen). Until then what only this worker can do is worth
/// waiting for.
const PAUSE_MS: u64 = 3_000;

/// The state of a worker that makes no progress, or has no room.
#[derive(Debug)]
pub struct Stuck {
    pub since_ms: u64,
    /// The worker that accepts from its slots meanwhile.
    pub helper: Option<Loan>,
}

/// A ping that has not been answered yet.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub since_ms: u64,
    /// The ping found no room in the worker's socket yet.
    pub is_unsent: bool,
    /// It has been silent for so long that it was asked where it is.
    pub is_located: bool,
}

/// The state of a worker on which decisions are based. Its socket and process are the master's (`seat.rs`).
#[derive(Debug)]
pub(super) struct Member {
    pub id: WorkerId,
    /// 0 until it is forked.
    pub pid: i32,
    pub place: Place,
    pub generation: u64,
    pub state: State,
    /// It has broken a rule and is being killed: its messages are ignored.
    pub is_condemned: bool,
    pub born_ms: u64,
    /// The time it has for leaving, according to its own configuration.
    pub shutdown_ms: Option<u64>,
    /// The time at which a worker that was told to leave is killed.
    pub leave_by_ms: Option<u64>,
    /// It was told to exit at once, since too many generations are leaving.
    pub is_ended: bool,
    /// It has reported that it accepts no more.
    pub has_closed: bool,
    /// The slots it accepts from by its number: indexes into the list that every worker of its generation
    /// has.
    pub leased: Vec<SlotIndex>,
    pub asked: Option<Asked>,
    pub stuck: Option<Stuck>,
    /// It was stuck when it was told to leave, and has not answered since.
    pub left_stuck: bool,
    /// It can take no more connections.
    pub full: Option<Stuck>,
}

impl Member {
    /// True if it takes new connections, or those of other workers.
    pub fn can_take(&self, generation: u64) -> bool {
        self.place.role.accepts()
            && self.generation == generation
            && self.state == State::Ready
            && self.stuck.is_none()
            && !self.is_condemned
    }
}

/// A change of generations in progress: the new one starts while the old one serves.
#[derive(Debug)]
pub(super) struct Switch {
    /// The generation to return to if none of the new workers can run, and its limits.
    pub previous: Option<(u64, Limits)>,
}

/// The state on which the master decides: the workers, the vacant places, and the changes in progress.
///
/// [`on`](Self::on) is called with every event, and its actions are performed before the next one. A worker
/// exists here from the decision to fork it; [`Event::Forked`] or [`Event::NotForked`] follows. Invariant: at
/// most one change of generations is in progress, and no configuration is read during one.
#[derive(Debug)]
pub struct Supervisor {
    pub(super) limits: Limits,
    pub(super) phase: Phase,
    /// Counts the generations of workers, across binary upgrades.
    pub(super) generation: u64,
    /// The workers of all generations.
    pub(super) members: Vec<Member>,
    next_id: WorkerId,
    /// Places of this generation whose worker is gone and not replaced yet.
    pub(super) vacancies: Vec<Vacancy>,
    /// Slots lent out for places whose new workers are not ready yet.
    pub(super) loans: Vec<(Place, Loan)>,
    /// For each place, the delay for its next process that dies young.
    pub(super) delays_ms: HashMap<Place, u64>,
    /// Set while the workers of this generation are not all ready.
    pub(super) switch: Option<Switch>,
    /// A configuration is being read.
    pub(super) is_reading: bool,
    pub(super) reload_is_wanted: bool,
    pub(super) renewal_is_wanted: bool,
    /// Failures of the first workers, until one set of them was ready.
    pub(super) first: Option<FirstStart>,
    pub(super) looked_ms: u64,
    /// The heartbeats at the last look, and the number of looks in a row that found all workers asleep and
    /// unchanged.
    pub(super) last_signs: u64,
    pub(super) quiet_looks: u32,
    /// A prober of this master was ready once.
    pub(super) has_probed: bool,
    actions: Vec<Action>,
}

/// The master has nothing left to do, and exits.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub code: i32,
    /// The reason why no worker of a first start can run.
    pub why: Option<String>,
}

impl Supervisor {
    /// `generation` is that of the previous master's workers; 0 if there was none.
    pub fn new(limits: Limits, generation: u64, now_ms: u64) -> Self {
        Self {
            limits,
            phase: Phase::Serving,
            generation,
            members: Vec::new(),
            next_id: 1,
            vacancies: Vec::new(),
            loans: Vec::new(),
            delays_ms: HashMap::new(),
            switch: None,
            is_reading: false,
            reload_is_wanted: false,
            renewal_is_wanted: false,
            first: Some(FirstStart::default()),
            looked_ms: now_ms,
            last_signs: 0,
            quiet_looks: 0,
            has_probed: false,
            actions: Vec::new(),
        }
    }

    /// Takes an event at `now_ms` (monotonic) and returns the actions to perform.
    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        match event {
            Event::Started => {
                self.act(Action::Tell(Notice::StartWorkers));
                self.start_generation(None);
            }
            Event::Ordered { order, is_followed } => self.heed(order, is_followed, now_ms),
            Event::Forked { worker, pid, leased } => {
                if let Some(member) = self.member_mut(worker) {
                    (member.pid, member.leased, member.born_ms) = (pid, leased, now_ms);
                }
            }
            Event::NotForked { worker, leased, why } => self.not_forked(worker, leased, why, now_ms),
            Event::Ready(worker) => self.is_ready(worker, now_ms),
            Event::Replace(worker) => self.replace(worker, now_ms),
            Event::Pong(worker) => self.has_moved(worker, now_ms),
            Event::Closed(worker) => {
                if let Some(member) = self.member_mut(worker) {
                    member.has_closed = true;
                }
                self.act(Action::ShutRemoved);
            }
            Event::BrokeRule(worker, fault) => self.condemn(worker, fault),
            Event::Ended(worker, ended) => self.worker_ended(worker, ended, now_ms),
            Event::PingUnsent(worker) => {
                if let Some(asked) = self.member_mut(worker).and_then(|member| member.asked.as_mut()) {
                    asked.is_unsent = true;
                }
            }
            Event::NotLent { helper, slots } => self.forget_loan(helper, &slots),
            Event::Looked(sights) => self.look(&sights, now_ms),
            Event::Stirred => self.quiet_looks = 0,
            Event::Tick => {
                self.fill_vacancies(now_ms);
                self.kill_late(now_ms);
            }
            Event::SocketsReplaced => self.renewal_is_wanted = true,
            Event::Opened(limits) => self.change_to(limits),
            Event::Refused => {
                self.is_reading = false;
                self.reload_if_wanted(now_ms);
            }
            Event::SuccessorEnded(pid) if self.phase == Phase::Drained => {
                self.act(Action::Tell(Notice::SuccessorGone { pid }));
                self.phase = Phase::Serving;
                self.start_generation(None);
            }
            Event::SuccessorEnded(_) => {}
        }
        std::mem::take(&mut self.actions)
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn heed(&mut self, order: Order, is_followed: bool, now_ms: u64) {
        let is_serving = matches!(self.phase, Phase::Serving | Phase::Drained);
        match order {
            Order::Stop => self.stop(now_ms),
            Order::Leave if is_serving => {
                self.act(Action::TellLeaving);
                self.dismiss_all(Phase::Leaving, is_followed, now_ms);
            }
            Order::Drain if self.phase == Phase::Serving => {
                self.dismiss_all(Phase::Drained, is_followed, now_ms);
            }
            Order::Reload if self.phase == Phase::Serving => self.reload(now_ms),
            // As in nginx, when an upgrade is undone the workers start with the configuration they had.
            Order::Reload if self.phase == Phase::Drained => {
                self.phase = Phase::Serving;
                self.act(Action::Tell(Notice::StartWorkers));
                self.start_generation(None);
            }
            Order::Reopen => self.act(Action::ReopenLogs),
            Order::Upgrade if is_serving => self.act(Action::Upgrade),
            Order::Leave | Order::Drain | Order::Reload | Order::Upgrade => {}
        }
    }

    fn stop(&mut self, now_ms: u64) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        self.act(Action::TellLeaving);
        self.phase = Phase::Stopping { kill_ms: now_ms + self.limits.fast_stop_ms };
        self.give_up_reading();
        self.vacancies.clear();
        self.switch = None;
        let workers: Vec<WorkerId> = self.members.iter().map(|member| member.id).collect();
        workers.into_iter().for_each(|worker| self.act(Action::Terminate(worker)));
    }

    /// Tells all workers to leave; if another master serves as well, their connections go there.
    fn dismiss_all(&mut self, phase: Phase, is_followed: bool, now_ms: u64) {
        self.phase = phase;
        self.give_up_reading();
        self.vacancies.clear();
        if self.switch.take().is_some() {
            self.act(Action::Settle);
        }
        if phase == Phase::Leaving && !is_followed {
            // Refuse new clients from now on, instead of leaving them to wait for a process that is about to
            // exit.
            self.act(Action::RetireAll);
        }
        let how = if is_followed { ToWorker::Drain } else { ToWorker::Quit };
        for index in 0..self.members.len() {
            self.dismiss(index, &how, now_ms);
        }
    }

    /// Tells a worker to leave.
    pub(super) fn dismiss(&mut self, index: usize, how: &ToWorker, now_ms: u64) {
        let member = &mut self.members[index];
        member.left_stuck |= member.stuck.is_some();
        let helped = [member.stuck.take(), member.full.take()];
        let is_leaving = member.state.is_leaving();
        if !is_leaving {
            member.state = if *how == ToWorker::Quit { State::Quitting } else { State::Draining };
            // The worker obeys the limit itself; if it cannot, it is killed a moment later.
            member.leave_by_ms = member.shutdown_ms.map(|ms| now_ms + ms + 1000);
        }
        let worker = member.id;
        if !is_leaving || *how == ToWorker::Quit {
            self.act(Action::Send(worker, how.clone()));
        }
        helped.into_iter().flatten().for_each(|stuck| self.release_helper(stuck));
    }

    /// Condemns a worker that has broken a rule: an attacker's code runs in it, or its memory is damaged. It
    /// is killed, and its further messages are ignored.
    fn condemn(&mut self, worker: WorkerId, fault: Fault) {
        let Some(member) = self.member_mut(worker) else { return };
        if !std::mem::replace(&mut member.is_condemned, true) {
            let (pid, place) = (member.pid, member.place);
            self.act(Action::Tell(Notice::BrokeRule { pid, place, fault }));
            self.act(Action::Kill(worker));
        }
    }

    /// Decides to fork a process of this generation.
    pub(super) fn fork(&mut self, place: Place) {
        let worker = self.next_id;
        self.next_id += 1;
        self.members.push(Member {
            id: worker,
            pid: 0,
            place,
            generation: self.generation,
            state: State::Starting,
            is_condemned: false,
            born_ms: 0,
            shutdown_ms: place.role.shutdown_ms(self.limits.shutdown_ms),
            leave_by_ms: None,
            is_ended: false,
            has_closed: false,
            leased: Vec::new(),
            asked: None,
            stuck: None,
            left_stuck: false,
            full: None,
        });
        self.act(Action::Fork { worker, place, generation: self.generation });
    }

    fn kill_late(&mut self, now_ms: u64) {
        let all_from = match self.phase {
            Phase::Stopping { kill_ms } => kill_ms,
            _ => u64::MAX,
        };
        let mut late = Vec::new();
        for member in &mut self.members {
            if now_ms >= member.leave_by_ms.unwrap_or(u64::MAX).min(all_from) {
                member.leave_by_ms = None;
                late.push((member.id, member.pid, member.place.role));
            }
        }
        for (worker, pid, role) in late {
            self.act(Action::Tell(Notice::Late { pid, role }));
            self.act(Action::Kill(worker));
        }
        if let Phase::Stopping { kill_ms } = &mut self.phase
            && now_ms >= *kill_ms
        {
            *kill_ms = now_ms + 1000;
        }
    }

    pub(super) fn index(&self, worker: WorkerId) -> Option<usize> {
        // Ids are assigned in ascending order, so members are sorted.
        self.members.binary_search_by_key(&worker, |member| member.id).ok()
    }

    pub(super) fn member(&self, worker: WorkerId) -> Option<&Member> {
        self.index(worker).map(|index| &self.members[index])
    }

    pub(super) fn member_mut(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.index(worker).map(|index| &mut self.members[index])
    }
}

/// Queries of the master between two events.
impl Supervisor {
    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// True if this master checks the servers of upstreams. While its prober is being replaced it still does.
    pub fn is_probing(&self) -> bool {
        self.has_probed && self.limits.has_prober && self.phase == Phase::Serving
    }

    /// True while a change of generations is in progress.
    pub fn is_switching(&self) -> bool {
        self.switch.is_some()
    }

    /// The state by which a worker's messages are judged; `None` if it is condemned, or not there.
    pub fn hears(&self, worker: WorkerId) -> Option<State> {
        self.member(worker).filter(|member| !member.is_condemned).map(|member| member.state)
    }

    pub fn is_of_generation(&self, worker: WorkerId) -> bool {
        self.member(worker).is_some_and(|member| member.generation == self.generation)
    }

    /// The generation of a process; 0 if it is not there.
    pub fn generation_of(&self, worker: WorkerId) -> u64 {
        self.member(worker).map_or(0, |member| member.generation)
    }

    /// True if no worker of another generation is alive, and none will be returned to.
    pub fn is_settled(&self) -> bool {
        self.switch.is_none() && self.members.iter().all(|member| member.generation == self.generation)
    }

    /// True if the configuration in force is the one that all new processes get: upstreams may be changed, and a reload
    /// may begin.
    pub fn is_at_rest(&self) -> bool {
        self.switch.is_none() && !self.is_reading && !self.reload_is_wanted && self.phase == Phase::Serving
    }

    /// Whether workers of an earlier generation, or one that is being replaced, may still accept clients.
    pub fn former_ones(&self) -> Former {
        let former = self.members.iter().filter(|member| {
            let is_former = member.generation != self.generation || member.state == State::Draining;
            is_former && member.place.role.accepts() && !member.has_closed && !member.is_condemned
        });
        let is_stuck = |member: &Member| member.left_stuck || member.stuck.is_some();
        former
            .map(|it| if is_stuck(it) { Former::Stuck } else { Former::Moving })
            .max()
            .unwrap_or(Former::Gone)
    }

    /// True if a worker that was told to leave has not said yet that it accepts no more.
    pub fn is_somebody_receiving(&self) -> bool {
        self.members.iter().any(|member| {
            member.place.role.accepts()
                && !member.has_closed
                && member.stuck.is_none()
                && !member.is_condemned
        })
    }

    /// The worker of this generation that has a slot by its number, if it can take anything.
    pub fn lessee(&self, slot: SlotIndex) -> Option<WorkerId> {
        let mut members = self.members.iter().filter(|member| member.can_take(self.generation));
        members.find(|member| member.leased.contains(&slot)).map(|member| member.id)
    }

    /// True if the worker of this generation that has a slot by its number cannot take anything yet, but soon will: it
    /// starts, or has not been stuck for long.
    pub fn is_lessee_coming(&self, slot: SlotIndex, now_ms: u64) -> bool {
        let mut members =
            self.members.iter().filter(|it| it.generation == self.generation && !it.is_condemned);
        let is_coming = |member: &Member| match &member.stuck {
            Some(stuck) => now_ms < stuck.since_ms + PAUSE_MS,
            None => member.state == State::Starting,
        };
        members.any(|member| member.leased.contains(&slot) && is_coming(member))
    }

    /// The worker that receives from a slot while the one that has it by its number is stuck.
    pub fn helper(&self, slot: SlotIndex) -> Option<WorkerId> {
        let stuck = self.members.iter().filter(|member| member.leased.contains(&slot));
        let mut loans = stuck.filter_map(|member| member.stuck.as_ref()?.helper.as_ref());
        loans.find(|loan| self.can_lend(loan.helper)).map(|loan| loan.helper)
    }

    /// True if no order can be carried out any more.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Leaving | Phase::Stopping { .. })
    }

    /// The workers that take over connections of others, in the order of their ids.
    pub fn takers(&self) -> impl Iterator<Item = WorkerId> {
        self.members.iter().filter(|member| member.can_take(self.generation)).map(|member| member.id)
    }

    /// True if some worker still accepts from addresses that are being retired.
    pub fn is_somebody_closing(&self) -> bool {
        let is_own_kept = matches!(self.phase, Phase::Serving | Phase::Drained);
        let mut members = self.members.iter().filter(|member| member.place.role.accepts());
        members.any(|member| !member.has_closed && (member.generation != self.generation || !is_own_kept))
    }

    /// The slots of stuck workers, and those of full ones that no other worker accepts from.
    pub fn closed_slots(&self) -> (HashSet<SlotIndex>, HashSet<SlotIndex>) {
        let slots_of = |is_one: &dyn Fn(&Member) -> bool| -> HashSet<SlotIndex> {
            let own = self.members.iter().filter(|it| it.generation == self.generation && is_one(it));
            own.flat_map(|member| member.leased.iter().copied()).collect()
        };
        let stuck = slots_of(&|member| member.stuck.is_some());
        let open = slots_of(&|member| member.stuck.is_none() && member.full.is_none());
        let full = &slots_of(&|member| member.full.is_some()) - &open;
        (stuck, full)
    }

    /// True unless some worker is stuck without a sibling that accepts for it.
    pub fn is_well(&self) -> bool {
        let is_helped = |stuck: &Stuck| stuck.helper.as_ref().is_some_and(|loan| self.can_lend(loan.helper));
        let mut members = self.members.iter().filter(|member| member.place.role.accepts());
        members.all(|member| member.stuck.as_ref().is_none_or(is_helped))
    }

    /// The time of the next timed event: a look, a respawn, a kill.
    pub fn due_ms(&self, now_ms: u64) -> u64 {
        let stopping = match self.phase {
            Phase::Stopping { kill_ms } => Some(kill_ms),
            _ => None,
        };
        let leaving = self.members.iter().filter_map(|member| member.leave_by_ms);
        let vacant = self.vacancies.iter().filter_map(|vacancy| vacancy.due_ms);
        let renewal = self.is_renewal_due().then_some(now_ms);
        let others = leaving.chain(vacant).chain(stopping).chain(renewal);
        others.min().unwrap_or(u64::MAX).min(self.next_look_ms())
    }

    /// The end, once there is nothing left to do. `is_waited_for`: connections wait to be passed on.
    pub fn end(&self, is_waited_for: bool) -> Option<End> {
        let end = |code| End { code, why: None };
        match self.phase {
            Phase::Leaving => (self.members.is_empty() && !is_waited_for).then(|| end(0)),
            Phase::Stopping { .. } => self.members.is_empty().then(|| end(0)),
            // No worker of the first generation can run: tell the starter.
            Phase::Serving if self.generation_has_failed() => Some(end(1)),
            Phase::Serving => self.first_start_failure().map(|why| End { code: 1, why: Some(why) }),
            Phase::Drained => None,
        }
    }
}

#[cfg(test)]
mod tests;
