//! Runs the active checks of groups, and tells all workers their results through shared memory.
//!
//! One process does this for the whole machine. It has a task for each check of each peer; a probe is what the
//! protocol's room makes of it (`http/upstream/probe.rs`, `stream/probe.rs`), and this room decides when one starts and what its
//! result means. At most [`AT_ONCE_MAX`] probes are in progress. Touches: the peers' words in shared memory, the
//! error log. Behaviour: nginx.org, ngx_http_upstream_hc_module.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::log::{self, Logger};
use crate::runtime::{self, sleep};
use crate::shm::counter;
use crate::shm::peers::{Advice, Health, Place, Word};
use crate::sys::random;
use crate::upstream::Upstreams;
use crate::upstream::check::{Course, Rules, combined};
use crate::upstream::peer::Peer;
use crate::upstream::pool::Connection;
use crate::upstream::state::GroupState;

/// Maximum number of simultaneous probes. Each has one peer, and its own limit of time, so that slow peers keep
/// few of these for long.
const AT_ONCE_MAX: usize = 512;

/// Minimum pause between two checks of a peer: one that takes longer than the interval must not follow itself at
/// once.
const PAUSE_MS_MIN: u64 = 10;

/// The result of one probe. `doing`: nginx's words for what was going on, to follow `while`.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed {
        doing: &'static str,
    },
    Failed {
        doing: &'static str,
        why: String,
    },
    /// Nothing was found out about the peer, for a reason of our own.
    Undecided(String),
    /// The peer's agent has answered.
    Advised(Advice),
}

/// One peer as a check sees it.
#[derive(Debug)]
pub struct Target {
    /// At the port that the check asks for.
    pub peer: Rc<Peer>,
    /// The connection that is kept for the next probe (`keepalive_time`).
    pub kept: RefCell<Option<Box<Connection>>>,
    /// The place of the peer itself.
    place: Option<Place>,
}

impl Target {
    /// What the peer's agent has said last.
    pub fn advice(&self) -> Advice {
        self.place.map(Place::advice).unwrap_or_default()
    }
}

/// Starts a probe of a peer.
pub type Probe = Box<dyn Fn(Rc<Target>) -> Pin<Box<dyn Future<Output = Outcome>>>>;

/// A check of all peers of a group.
pub struct Check {
    pub rules: &'static Rules,
    /// The name of its `match`, for the log; may be empty.
    pub name: &'static str,
    pub log: Logger,
    /// It asks the peer's agent: its results are no health.
    pub is_agent: bool,
    pub probe: Probe,
}

/// The checks of one group, and its peers.
pub struct Watched {
    state: Rc<GroupState>,
    checks: Vec<Check>,
    permits: &'static Permits,
    /// By the name of the peer: a peer that two servers lead to is checked once.
    subjects: RefCell<HashMap<Box<str>, Rc<Subject>>>,
    /// All peers are unhealthy, and used nevertheless (`fail_open`).
    is_open: Cell<bool>,
}

/// A peer, and what each check knows of it.
struct Subject {
    peer: Rc<Peer>,
    courses: RefCell<Vec<Course>>,
    health: Cell<Health>,
}

/// The limit of simultaneous probes; those that wait go in order.
#[derive(Debug)]
pub struct Permits {
    free: Cell<usize>,
    is_paused: Cell<bool>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Default for Permits {
    fn default() -> Self {
        Self { free: Cell::new(AT_ONCE_MAX), is_paused: Cell::new(false), waiting: RefCell::default() }
    }
}

/// One of the probes in progress.
struct Permit<'a>(&'a Permits);

impl Permits {
    /// Gives no more permits, or goes on. Returns whether they are held back now.
    pub fn pause(&self, is_paused: bool) -> bool {
        self.is_paused.set(is_paused);
        if !is_paused {
            let waiting: Vec<Waker> = self.waiting.borrow_mut().drain(..).collect();
            waiting.into_iter().for_each(Waker::wake);
        }
        is_paused
    }

    async fn take(&self) -> Permit<'_> {
        poll_fn(|cx| match self.free.get() {
            free if free == 0 || self.is_paused.get() => {
                self.waiting.borrow_mut().push_back(cx.waker().clone());
                Poll::Pending
            }
            free => {
                self.free.set(free - 1);
                Poll::Ready(())
            }
        })
        .await;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        let next = self.0.waiting.borrow_mut().pop_front();
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// The groups of one language part that have checks, by their index.
pub struct Board(BTreeMap<usize, Rc<Watched>>);

impl Board {
    /// Starts to check the peers of groups; each check comes with the index of its group. All groups of a process share
    /// `permits`.
    pub fn new(
        upstreams: &Upstreams,
        checks: impl Iterator<Item = (usize, Check)>,
        permits: &'static Permits,
    ) -> Self {
        let mut groups: BTreeMap<usize, Vec<Check>> = BTreeMap::new();
        checks.for_each(|(index, check)| groups.entry(index).or_default().push(check));
        let watched = groups.into_iter().filter_map(|(index, checks)| {
            let state = Rc::clone(upstreams.get(index)?);
            Some((index, Watched::new(state, checks, permits)))
        });
        let board = Self(watched.collect());
        board.follow();
        board
    }

    /// Starts to check peers that are new.
    pub fn follow(&self) {
        self.0.values().for_each(Watched::follow);
    }

    /// Begins again with the health that shared memory has of each peer.
    pub fn recall(&self) {
        self.0.values().for_each(|watched| watched.recall());
    }

    /// The same for one group.
    pub fn follow_group(&self, index: usize) {
        self.0.get(&index).into_iter().for_each(Watched::follow);
    }
}

impl Watched {
    /// The checks of a group, whose peers are those of `state`. All groups of a process share `permits`.
    pub fn new(state: Rc<GroupState>, checks: Vec<Check>, permits: &'static Permits) -> Rc<Self> {
        Rc::new(Self { state, checks, permits, subjects: RefCell::default(), is_open: Cell::new(false) })
    }

    /// Starts to check the peers that are not checked yet. Called at the start, and whenever names lead to other
    /// addresses; the checks of peers that are gone end by themselves.
    pub fn follow(self: &Rc<Self>) {
        self.subjects.borrow_mut().retain(|_, subject| !subject.peer.is_retired());
        let set = self.state.set();
        for peer in set.all() {
            let is_down = set.group.servers.get(peer.server).is_some_and(|server| server.down);
            let Some(place) = peer.shared.place.filter(|_| !is_down) else { continue };
            if self.subjects.borrow().contains_key(&peer.name) {
                continue;
            }
            let courses = self.courses(place);
            let health = Cell::new(combined(courses.iter()));
            let courses = RefCell::new(courses);
            let subject = Rc::new(Subject { peer: Rc::clone(peer), courses, health });
            self.subjects.borrow_mut().insert(peer.name.clone(), Rc::clone(&subject));
            for number in 0..self.checks.len() {
                runtime::spawn(Rc::clone(self).check(Rc::clone(&subject), number));
            }
        }
        self.open_or_close();
    }

    /// Begins again with the health that shared memory has of each peer: another process has checked meanwhile.
    fn recall(&self) {
        for subject in self.subjects.borrow().values() {
            let Some(place) = subject.peer.shared.place else { continue };
            subject.courses.replace(self.courses(place));
            subject.health.set(combined(subject.courses.borrow().iter()));
        }
        self.open_or_close();
    }

    /// The checks of a peer, each of which begins with the health that shared memory has.
    fn courses(&self, place: Place) -> Vec<Course> {
        let health = place.health(runtime::now_ms()).0;
        let course = |check: &Check| Course::new(if check.is_agent { Health::Healthy } else { health });
        self.checks.iter().map(course).collect()
    }

    /// Checks one peer again and again, until it is gone.
    async fn check(self: Rc<Self>, subject: Rc<Subject>, number: usize) {
        let Some(Check { rules, probe, .. }) = self.checks.get(number) else { return };
        let peer = self.target(&subject.peer, rules);
        let target = Rc::new(Target { peer, kept: RefCell::default(), place: subject.peer.shared.place });
        // What is known stays known for a while, so that a reload causes no burst.
        let mut wait_ms = match subject.health.get() {
            Health::Unknown | Health::Checking => up_to(rules.jitter_ms),
            Health::Healthy | Health::Unhealthy | Health::Spare => up_to(rules.interval_ms),
        };
        loop {
            sleep(wait_ms).await;
            if subject.peer.is_retired() {
                return;
            }
            let permit = self.permits.take().await;
            let due_ms = runtime::now_ms() + rules.interval_ms + up_to(rules.jitter_ms);
            let outcome = probe(Rc::clone(&target)).await;
            drop(permit);
            if subject.peer.is_retired() {
                return;
            }
            self.note(&subject, number, outcome);
            wait_ms = due_ms.saturating_sub(runtime::now_ms()).max(PAUSE_MS_MIN);
        }
    }

    /// The peer at the port that a check asks for.
    fn target(&self, peer: &Rc<Peer>, rules: &Rules) -> Rc<Peer> {
        let set = self.state.set();
        match (rules.port, peer.address.inet(), set.group.servers.get(peer.server)) {
            (Some(port), Some(inet), Some(server)) => Rc::new(peer.at_port(server, *inet, port)),
            _ => Rc::clone(peer),
        }
    }

    /// Notes a result: in the log if the peer's health changes, and in shared memory.
    fn note(&self, subject: &Subject, number: usize, outcome: Outcome) {
        let Some(Check { rules, name, log, is_agent, .. }) = self.checks.get(number) else { return };
        if *is_agent {
            return self.note_advice(subject, number, outcome);
        }
        let (peer, group) = (&subject.peer.name, &self.state.group.name);
        let (has_passed, doing, why) = match outcome {
            Outcome::Passed { doing } => (true, doing, String::new()),
            Outcome::Failed { doing, why } => (false, doing, why),
            Outcome::Advised(_) => return,
            Outcome::Undecided(why) => {
                let what = "could not be made";
                log::error!(
                    log,
                    &(),
                    "health check \"{name}\" of peer {peer} in upstream \"{group}\" {what}: {why}"
                );
                return;
            }
        };
        if let Some(slot) = subject.peer.shared.slot {
            slot.add(counter::Word::CHECKS, 1);
            slot.add(counter::Word::CHECKS_FAILED, u64::from(!has_passed));
            slot.set(counter::Word::LAST_CHECK, 1 + u64::from(has_passed));
        }
        let mut courses = subject.courses.borrow_mut();
        let Some(course) = courses.get_mut(number) else { return };
        let before = course.health();
        let has_changed = course.note(has_passed, rules);
        let healths = self.checks.iter().zip(courses.iter()).filter(|(check, _)| !check.is_agent);
        let health = combined(healths.map(|(_, course)| course));
        drop(courses);
        self.publish(subject, health);
        match (has_changed, has_passed) {
            (true, false) => log::warn!(
                log,
                &(),
                "peer is unhealthy while {doing}, health check \"{name}\" of peer {peer} in upstream \"{group}\": {why}"
            ),
            (true, true) if before != Health::Unknown => log::notice!(
                log,
                &(),
                "peer is healthy while {doing}, health check \"{name}\" of peer {peer} in upstream \"{group}\""
            ),
            _ => {}
        }
    }

    /// Notes what an agent has said. While it cannot be asked, what it has said before holds.
    fn note_advice(&self, subject: &Subject, number: usize, outcome: Outcome) {
        let Some(Check { rules, log, .. }) = self.checks.get(number) else { return };
        let (peer, group) = (&subject.peer.name, &self.state.group.name);
        let mut courses = subject.courses.borrow_mut();
        let Some(course) = courses.get_mut(number) else { return };
        match outcome {
            Outcome::Advised(advice) => {
                course.note(true, rules);
                drop(courses);
                let Some(place) = subject.peer.shared.place else { return };
                let before = place.advice();
                if before != advice {
                    place.set_advice(advice);
                    if before.percent == 0 || before.is_down || before.is_in_maintenance {
                        place.set_ms(Word::ReturnedMs, runtime::now_ms());
                    }
                    log::notice!(
                        log,
                        &(),
                        "agent of peer {peer} in upstream \"{group}\" says: {}",
                        said(advice)
                    );
                }
            }
            Outcome::Failed { doing, why } => {
                // Its course only tells whether this was logged already.
                if course.note(false, rules) {
                    log::warn!(
                        log,
                        &(),
                        "agent of peer {peer} in upstream \"{group}\" does not answer while {doing}: {why}"
                    );
                }
            }
            Outcome::Passed { .. } | Outcome::Undecided(_) => {}
        }
    }

    fn publish(&self, subject: &Subject, health: Health) {
        let Some(place) = subject.peer.shared.place else { return };
        let now_ms = runtime::now_ms();
        let before = subject.health.replace(health);
        self.count(subject, place, (before, health), now_ms);
        if before != health {
            self.open_or_close();
        }
        self.write(subject);
        if health == Health::Healthy && matches!(before, Health::Unhealthy | Health::Checking) {
            place.set_ms(Word::ReturnedMs, now_ms);
            if self.state.group.is_shared {
                place.set_number(Word::Fails, 0);
            }
        }
    }

    /// Counts a change of health, and the time for which the peer was out, before its new state is written.
    fn count(&self, subject: &Subject, place: Place, (before, now): (Health, Health), now_ms: u64) {
        let Some(slot) = subject.peer.shared.slot else { return };
        let is_out = |health| matches!(health, Health::Unhealthy | Health::Checking);
        if now == Health::Unhealthy && before != now {
            slot.add(counter::Word::UNHEALTHY, 1);
        }
        let (written, since_ms) = place.health(now_ms);
        match (is_out(before), is_out(now)) {
            // `write` sets the time of each of these states anew. One that was used nevertheless (`fail_open`) is not out.
            (true, _) if before != now && is_out(written) => {
                slot.add(counter::Word::DOWN_MS, now_ms - since_ms);
            }
            // From here on its checks count.
            (false, true) => subject.peer.end_failures(now_ms),
            _ => {}
        }
    }

    /// Decides anew whether all peers are to be used because all are unhealthy (`fail_open`).
    fn open_or_close(&self) {
        if !self.state.group.fails_open || self.subjects.borrow().is_empty() {
            return;
        }
        let subjects: Vec<Rc<Subject>> = self.subjects.borrow().values().cloned().collect();
        let is_open = subjects.iter().all(|subject| subject.health.get() == Health::Unhealthy);
        if self.is_open.replace(is_open) != is_open {
            let name = &self.state.group.name;
            match (self.checks.first(), is_open) {
                (Some(Check { log, .. }), true) => {
                    log::error!(
                        log,
                        &(),
                        "all peers of upstream \"{name}\" are unhealthy: all are used (fail_open)"
                    );
                }
                (Some(Check { log, .. }), false) => {
                    log::notice!(log, &(), "not all peers of upstream \"{name}\" are unhealthy any more");
                }
                (None, _) => {}
            }
            subjects.iter().for_each(|subject| self.write(subject));
        }
    }

    /// Writes the health of a peer where the workers read it. A worker gone wrong may have written there: each result
    /// puts the word right again.
    fn write(&self, subject: &Subject) {
        let Some(place) = subject.peer.shared.place else { return };
        let health = match subject.health.get() {
            Health::Unhealthy if self.is_open.get() => Health::Spare,
            health => health,
        };
        let now_ms = runtime::now_ms();
        if place.health(now_ms).0 != health {
            place.set_health(health, now_ms);
        }
    }
}

/// An agent's words, as it would say them.
fn said(advice: Advice) -> String {
    let mut words = vec![if advice.is_down { "down" } else { "up" }.to_owned()];
    if advice.is_in_maintenance {
        words.push("maint".into());
    }
    if advice.drains {
        words.push("drain".into());
    }
    words.push(format!("{}%", advice.percent));
    words.join(" ")
}

/// A random time below this.
fn up_to(ms: u64) -> u64 {
    if ms == 0 { 0 } else { random::number() % ms }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::net::address;
    use crate::runtime::Runtime;
    use crate::upstream::group::Group;
    use crate::upstream::peer::Server;

    fn state(name: &str, servers: &[&str]) -> Rc<GroupState> {
        let server = |text: &&str| Server::new(text, address::parse_upstream(text, 80).unwrap());
        let group = Group::new(name, servers.iter().map(server).collect());
        Rc::new(GroupState::new(Arc::new(group)))
    }

    fn check(rules: Rules, probe: impl Fn(&Target) -> Outcome + 'static) -> Check {
        let rules = Box::leak(Box::new(rules));
        let probe = move |target: Rc<Target>| {
            let outcome = probe(&target);
            Box::pin(async move { outcome }) as Pin<Box<dyn Future<Output = Outcome>>>
        };
        Check { rules, name: "", log: Logger::none(), is_agent: false, probe: Box::new(probe) }
    }

    fn failed() -> Outcome {
        Outcome::Failed { doing: "checking", why: "it is a test".into() }
    }

    #[test]
    fn a_peer_is_checked_once_an_interval_and_its_health_is_told() {
        Runtime::new().unwrap().block_on(async {
            let state = state("prober.turns", &["1.1.1.1:81", "1.1.1.1:82", "1.1.1.1:82"]);
            let count = Rc::new(Cell::new(0));
            let counted = Rc::clone(&count);
            let rules = Rules { interval_ms: 40, fails: 2, port: Some(99), ..Rules::default() };
            let probe = move |target: &Target| {
                counted.set(counted.get() + 1);
                assert_eq!(&*target.peer.name, "1.1.1.1:99");
                failed()
            };
            let watched =
                Watched::new(Rc::clone(&state), vec![check(rules, probe)], Box::leak(Box::default()));
            watched.follow();
            watched.follow();
            sleep(20).await;
            assert_eq!(count.get(), 2, "each address at once, and once");
            let health = || -> Vec<Health> {
                let set = state.set();
                set.all().map(|peer| peer.shared.place.unwrap().health(runtime::now_ms()).0).collect()
            };
            assert_eq!(health(), [Health::Unknown; 3]);
            sleep(40).await;
            assert_eq!((count.get(), health()), (4, vec![Health::Unhealthy; 3]));
        });
    }

    #[test]
    fn a_pause_holds_checks_back_and_what_another_process_found_out_counts_after_it() {
        Runtime::new().unwrap().block_on(async {
            let count = Rc::new(Cell::new(0));
            let counted = Rc::clone(&count);
            let probe = move |_: &Target| {
                counted.set(counted.get() + 1);
                failed()
            };
            let state = state("pause", &["127.0.0.1:1"]);
            let rules = Rules { interval_ms: 2, fails: 3, ..Rules::default() };
            let permits: &'static Permits = Box::leak(Box::default());
            assert!(permits.pause(true));
            let watched = Watched::new(Rc::clone(&state), vec![check(rules, probe)], permits);
            watched.follow();
            sleep(30).await;
            assert_eq!(count.get(), 0);
            let place = state.set().all().next().and_then(|peer| peer.shared.place).expect("it is watched");
            place.set_health(Health::Unhealthy, runtime::now_ms());
            watched.recall();
            assert!(!permits.pause(false));
            while count.get() == 0 {
                sleep(1).await;
            }
            assert_eq!(place.health(runtime::now_ms()).0, Health::Unhealthy, "one failure is no news");
        });
    }

    #[test]
    fn no_more_than_so_many_probes_are_in_progress() {
        Runtime::new().unwrap().block_on(async {
            let permits: &'static Permits = Box::leak(Box::default());
            let running = Rc::new(Cell::new(0));
            for _ in 0..3 * AT_ONCE_MAX {
                let running = Rc::clone(&running);
                runtime::spawn(async move {
                    let permit = permits.take().await;
                    running.set(running.get() + 1);
                    assert!(running.get() <= AT_ONCE_MAX);
                    sleep(1).await;
                    running.set(running.get() - 1);
                    drop(permit);
                });
            }
            while runtime::task_count() > 1 {
                sleep(1).await;
            }
            assert_eq!((permits.free.get(), permits.waiting.borrow().len()), (AT_ONCE_MAX, 0));
        });
    }
}
