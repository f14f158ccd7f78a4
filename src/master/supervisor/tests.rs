//! Histories of workers, played in virtual time.

mod cache_manager;
mod prober;

use super::*;
use crate::master::respawn::Cause;
use crate::shm::heartbeat::State as Beat;

const LIMITS: Limits = Limits {
    has_cache_manager: false,
    has_controller: false,
    has_keeper: false,
    worker_count: 2,
    has_prober: false,
    watchdog_ms: 30_000,
    shutdown_ms: Some(5_000),
    fast_stop_ms: 1_000,
    generations_max: 2,
};

/// The first worker's.
const PLACE: Place = Place { role: Role::Worker, number: 0 };

/// A master whose actions are recorded instead of performed. Forks succeed unless told otherwise, and worker
/// `number` has the slot `number`.
struct Play {
    supervisor: Supervisor,
    now_ms: u64,
    /// All actions since they were last taken.
    done: Vec<Action>,
    can_fork: bool,
    can_lend: bool,
    is_followed: bool,
}

impl Play {
    fn new(limits: Limits) -> Self {
        let now_ms = 1_000_000;
        let supervisor = Supervisor::new(limits, 0, now_ms);
        let (can_fork, can_lend, is_followed) = (true, true, false);
        Self { supervisor, now_ms, done: Vec::new(), can_fork, can_lend, is_followed }
    }

    /// A master whose first workers, 1 and 2, are ready.
    fn serving() -> Self {
        let mut play = Self::new(LIMITS);
        play.on(Event::Started);
        play.on(Event::Ready(1));
        play.on(Event::Ready(2));
        play.take();
        play
    }

    fn on(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.supervisor.on(event, self.now_ms) {
                match &action {
                    Action::Fork { worker, place, .. } if self.can_fork => events.push_back(Event::Forked {
                        worker: *worker,
                        pid: pid(*worker),
                        leased: vec![place.number as SlotIndex],
                    }),
                    Action::Fork { worker, place, .. } => events.push_back(Event::NotForked {
                        worker: *worker,
                        leased: vec![place.number as SlotIndex],
                        why: "no room".into(),
                    }),
                    Action::Lend { helper, slots } if !self.can_lend => {
                        events.push_back(Event::NotLent { helper: *helper, slots: slots.clone() });
                    }
                    _ => {}
                }
                self.done.push(action);
            }
        }
    }

    fn order(&mut self, order: Order) -> Vec<Action> {
        let is_followed = self.is_followed;
        self.on(Event::Ordered { order, is_followed });
        self.take()
    }

    fn ended(&mut self, worker: WorkerId, code: i32) -> Vec<Action> {
        self.on(Event::Ended(worker, Ended::Exited(code)));
        self.take()
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.done)
    }

    /// Lets time pass, with a turn of the loop at its end.
    fn wait(&mut self, ms: u64) -> Vec<Action> {
        self.now_ms += ms;
        self.on(Event::Tick);
        self.take()
    }

    /// Looks at all workers, with the view of each given by `sight`.
    fn look(&mut self, sight: impl Fn(WorkerId) -> Sight) -> Vec<Action> {
        let sights = self.supervisor.members.iter().map(|member| (member.id, sight(member.id))).collect();
        self.on(Event::Looked(sights));
        self.take()
    }

    /// A worker does not answer, and after 450 ms counts as stuck.
    fn get_stuck(&mut self, stuck: WorkerId) {
        let since_ms = self.now_ms;
        let awake = move |worker| sight(if worker == stuck { Beat::Awake } else { Beat::Asleep }, since_ms);
        for ms in [20, 450] {
            self.now_ms += ms;
            self.look(awake);
        }
        assert!(self.supervisor.member(stuck).is_some_and(|member| member.stuck.is_some()));
    }

    /// HUP with a configuration that can be opened: its workers are forked.
    fn reload(&mut self, limits: Limits) -> Vec<Action> {
        assert_eq!(self.order(Order::Reload), [Action::Read]);
        self.on(Event::Opened(limits));
        self.take()
    }
}

fn pid(worker: WorkerId) -> i32 {
    1000 + worker as i32
}

fn fork(worker: WorkerId, number: usize, generation: u64) -> Action {
    Action::Fork { worker, place: Place { role: Role::Worker, number }, generation }
}

fn forks(actions: &[Action]) -> Vec<(WorkerId, usize, u64)> {
    let fork = |action: &Action| match action {
        Action::Fork { worker, place, generation } => Some((*worker, place.number, *generation)),
        _ => None,
    };
    actions.iter().filter_map(fork).collect()
}

fn notices(actions: &[Action]) -> Vec<Notice> {
    let notice = |action: &Action| match action {
        Action::Tell(notice) => Some(notice.clone()),
        _ => None,
    };
    actions.iter().filter_map(notice).collect()
}

fn sight(state: Beat, since_ms: u64) -> Sight {
    let beat = Heartbeat { state, since_ms, pid: 1, generation: 1, last_event: 0, is_full: false };
    Sight { beat, has_queue: false }
}

fn asleep(_: WorkerId) -> Sight {
    sight(Beat::Asleep, 0)
}

fn full(is_full: bool) -> Sight {
    let asleep = sight(Beat::Asleep, 0);
    Sight { beat: Heartbeat { is_full, ..asleep.beat }, ..asleep }
}

#[test]
fn a_first_start_serves_once_all_are_ready() {
    let mut play = Play::new(LIMITS);
    play.on(Event::Started);
    let actions = play.take();
    assert_eq!(actions[..2], [Action::Tell(Notice::StartWorkers), Action::Prepare]);
    assert_eq!(forks(&actions), [(1, 0, 1), (2, 1, 1)]);
    play.on(Event::Ready(1));
    assert_eq!(play.take(), []);
    play.on(Event::Ready(2));
    assert_eq!(play.take(), [Action::MovePidFile, Action::Settle, Action::Serve]);
    assert!(play.supervisor.end(false).is_none() && play.supervisor.is_settled());
}

#[test]
fn a_worker_that_has_lived_is_replaced_at_once() {
    let mut play = Play::serving();
    play.now_ms += 150;
    let actions = play.ended(1, 1);
    let expected = [Action::ShutRemoved, Action::Sweep, Action::CheckSockets, fork(3, 0, 1)];
    assert_eq!(actions, expected);
}

#[test]
fn workers_that_die_young_come_ever_later() {
    let mut play = Play::serving();
    let mut worker = 1;
    let mut waits = Vec::new();
    for _ in 0..12 {
        play.now_ms += 149;
        let mut actions = play.ended(worker, 1);
        let wait_ms = notices(&actions).iter().find_map(|notice| match notice {
            Notice::DiedYoung { place: PLACE, cause: Cause::Ended { .. }, wait_ms } => Some(*wait_ms),
            _ => None,
        });
        waits.push(wait_ms.unwrap_or(0));
        if let Some(wait_ms) = wait_ms {
            let lent = Action::Lend { helper: 2, slots: vec![0] };
            assert!(actions.contains(&lent), "a sibling accepts meanwhile");
            assert_eq!(forks(&play.wait(wait_ms - 1)), []);
            actions = play.wait(1);
        }
        let [(next, 0, 1)] = forks(&actions)[..] else { panic!("one: {actions:?}") };
        worker = next;
        if wait_ms.is_some() {
            play.on(Event::Ready(worker));
            assert_eq!(play.take(), [Action::Send(2, ToWorker::Release(vec![0]))]);
        } else {
            play.on(Event::Ready(worker));
            play.take();
        }
    }
    assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    play.now_ms += 150;
    assert_eq!(forks(&play.ended(worker, 1)).len(), 1, "one that has lived makes it good");
    assert_eq!(notices(&play.take()), []);
}

#[test]
fn a_loan_that_was_not_told_is_tried_again() {
    let mut play = Play::serving();
    play.ended(1, 1);
    play.can_lend = false;
    let lend = Action::Lend { helper: 2, slots: vec![0] };
    assert!(play.ended(3, 1).contains(&lend));
    assert_eq!(play.wait(1), std::slice::from_ref(&lend));
    play.can_lend = true;
    assert_eq!(play.wait(1), [lend]);
    assert_eq!(play.wait(1), [], "it stays");
}

#[test]
fn a_worker_that_cannot_run_as_configured_waits_for_the_next_reload() {
    let mut play = Play::serving();
    play.now_ms += 1000;
    let [(worker, ..)] = forks(&play.ended(1, 1))[..] else { panic!("one") };
    let actions = play.ended(worker, 2);
    assert_eq!(notices(&actions), [Notice::Fatal { pid: pid(worker), role: Role::Worker, code: 2 }]);
    assert_eq!(forks(&play.wait(1_000_000)), []);
    assert!(play.supervisor.end(false).is_none(), "its sibling serves");
    // After it was ready, the same code is not fatal.
    assert_eq!(forks(&play.ended(2, 2)).len(), 1);
}

#[test]
fn a_fork_that_fails_is_tried_again_later() {
    let mut play = Play::serving();
    play.can_fork = false;
    play.now_ms += 1000;
    let actions = play.ended(1, 1);
    let cause = Cause::NotForked;
    assert_eq!(notices(&actions), [Notice::DiedYoung { place: PLACE, cause, wait_ms: 100 }]);
    assert_eq!(forks(&play.wait(99)), []);
    assert_eq!(notices(&play.wait(1)), [Notice::DiedYoung { place: PLACE, cause, wait_ms: 100 }]);
    play.can_fork = true;
    assert_eq!(forks(&play.wait(100)).len(), 1);
}

#[test]
fn a_first_start_fails_after_two_failures_of_each_place() {
    let mut play = Play::new(LIMITS);
    play.on(Event::Started);
    for worker in 1..=4 {
        assert!(play.supervisor.end(false).is_none(), "before {worker}");
        play.ended(worker, 1);
    }
    let end = play.supervisor.end(false).expect("it is over");
    assert_eq!((end.code, end.why.is_some_and(|why| why.contains("exited with code 1"))), (1, true));
}

#[test]
fn a_first_start_whose_workers_cannot_run_fails_at_once() {
    let mut play = Play::new(LIMITS);
    play.on(Event::Started);
    play.ended(1, 2);
    assert!(play.supervisor.end(false).is_none(), "one may still come");
    play.ended(2, 2);
    assert_eq!(play.supervisor.end(false), Some(End { code: 1, why: None }));
}

#[test]
fn once_a_worker_could_serve_the_master_goes_on_trying() {
    let mut play = Play::serving();
    for worker in 1..=8 {
        play.ended(worker, 1);
        play.wait(40_000);
    }
    assert!(play.supervisor.end(false).is_none());
}

#[test]
fn a_reload_drains_the_workers_before_when_all_new_ones_are_ready() {
    let mut play = Play::serving();
    let limits = Limits { worker_count: 1, ..LIMITS };
    let actions = play.reload(limits);
    assert_eq!(actions, [Action::Prepare, fork(3, 0, 2)]);
    play.on(Event::Ready(3));
    let expected = [
        Action::MovePidFile,
        Action::Settle,
        Action::Send(1, ToWorker::Drain),
        Action::Send(2, ToWorker::Drain),
        Action::Serve,
    ];
    assert_eq!(play.take(), expected);
    assert!(!play.supervisor.is_settled() && play.supervisor.is_somebody_closing());
    assert_eq!(play.ended(1, 0), [Action::ShutRemoved, Action::Sweep], "no place of it is filled");
    play.on(Event::Closed(2));
    assert!(!play.supervisor.is_somebody_closing());
}

#[test]
fn a_worker_that_does_not_leave_in_time_is_killed() {
    let mut play = Play::serving();
    play.reload(Limits { shutdown_ms: None, ..LIMITS });
    play.on(Event::Ready(3));
    play.on(Event::Ready(4));
    play.take();
    assert_eq!(play.wait(5_999), [], "a second more than its own configuration says");
    play.look(asleep);
    assert_eq!(play.supervisor.due_ms(play.now_ms), play.now_ms + 1);
    let killed =
        |worker| [Action::Tell(Notice::Late { pid: pid(worker), role: Role::Worker }), Action::Kill(worker)];
    assert_eq!(play.wait(1), [killed(1), killed(2)].concat());
    assert_eq!(play.wait(100_000), [], "once");
    play.reload(LIMITS);
    play.on(Event::Ready(5));
    play.on(Event::Ready(6));
    play.take();
    assert_eq!(play.wait(1_000_000), [], "without worker_shutdown_timeout never");
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let mut play = Play::serving();
    play.order(Order::Reload);
    assert_eq!(play.order(Order::Reload), [], "one at a time");
    play.on(Event::Refused);
    assert_eq!(play.take(), [Action::Read], "the second HUP");
    play.on(Event::Refused);
    assert_eq!(play.take(), []);
    assert_eq!(play.supervisor.generation(), 1);
}

#[test]
fn a_generation_that_cannot_run_falls_back_and_replaces_the_dead() {
    let mut play = Play::serving();
    play.reload(Limits { worker_count: 3, watchdog_ms: 7, ..LIMITS });
    assert_eq!(forks(&play.ended(2, 1)), [], "an old one is not replaced during the change");
    play.ended(3, 2);
    play.ended(4, 2);
    assert_eq!(play.supervisor.generation(), 2);
    let actions = play.ended(5, 2);
    let restored = actions.iter().skip_while(|action| **action != Action::Restore);
    let expected = [Action::Restore, fork(6, 1, 2), Action::Tell(Notice::FellBack), Action::TellRefused];
    assert_eq!(restored.cloned().collect::<Vec<_>>(), expected);
    assert_eq!(play.supervisor.limits, LIMITS);
    assert!(play.supervisor.is_settled() && play.supervisor.end(false).is_none());
    assert_eq!(play.supervisor.takers().collect::<Vec<_>>(), [1]);
}

#[test]
fn the_successor_of_a_worker_that_panicked_receives_datagrams_after_it() {
    let mut play = Play::serving();
    let is_coming = |play: &Play, slot| play.supervisor.is_lessee_coming(slot, play.now_ms);
    assert_eq!(play.supervisor.former_ones(), Former::Gone);
    play.on(Event::Replace(1));
    assert_eq!(play.supervisor.former_ones(), Former::Moving, "it has sessions to hand over");
    assert_eq!(play.supervisor.lessee(0), None);
    assert!(is_coming(&play, 0) && !is_coming(&play, 1));
    play.on(Event::Ready(3));
    assert_eq!((play.supervisor.lessee(0), is_coming(&play, 0)), (Some(3), false));
    assert_eq!(play.supervisor.former_ones(), Former::Moving);
    play.on(Event::Closed(1));
    assert_eq!(play.supervisor.former_ones(), Former::Gone);
}

#[test]
fn a_worker_that_leaves_while_it_is_stuck_is_worth_waiting_for() {
    let mut play = Play::serving();
    play.get_stuck(1);
    play.reload(LIMITS);
    // Already when they are forked, the new workers are told to wait for it.
    assert_eq!(play.supervisor.former_ones(), Former::Moving, "its sibling is well");
    play.on(Event::Ready(3));
    play.on(Event::Ready(4));
    play.on(Event::Closed(2));
    assert_eq!(play.supervisor.former_ones(), Former::Stuck);
    play.on(Event::Pong(1));
    assert_eq!(play.supervisor.former_ones(), Former::Moving, "it goes on");
    play.on(Event::Closed(1));
    assert_eq!(play.supervisor.former_ones(), Former::Gone);
}

#[test]
fn sessions_wait_for_a_worker_that_is_stuck_and_after_a_while_go_to_its_helper() {
    let mut play = Play::serving();
    assert_eq!((play.supervisor.lessee(0), play.supervisor.helper(0)), (Some(1), None));
    play.get_stuck(1);
    assert_eq!((play.supervisor.lessee(0), play.supervisor.helper(0)), (None, Some(2)));
    // It has been silent for 450 ms.
    for (after_ms, is_coming) in [(2_549, true), (2_550, false)] {
        assert_eq!(play.supervisor.is_lessee_coming(0, play.now_ms + after_ms), is_coming, "{after_ms}");
    }
    play.on(Event::Pong(1));
    assert_eq!((play.supervisor.lessee(0), play.supervisor.helper(0)), (Some(1), None));
}

#[test]
fn a_generation_of_which_one_worker_can_run_is_not_given_up() {
    let mut play = Play::serving();
    play.reload(LIMITS);
    play.on(Event::Ready(3));
    let actions = play.ended(4, 2);
    assert!(actions.contains(&Action::Serve) && !actions.contains(&Action::Restore), "{actions:?}");
}

#[test]
fn a_hup_during_a_change_is_done_after_it() {
    let mut play = Play::serving();
    play.reload(LIMITS);
    assert_eq!(play.order(Order::Reload), []);
    play.on(Event::Ready(3));
    assert_eq!(play.take(), []);
    play.on(Event::Ready(4));
    assert_eq!(play.take().last(), Some(&Action::Read));
}

#[test]
fn a_hup_ends_a_change_whose_workers_all_died_young() {
    let mut play = Play::serving();
    play.reload(LIMITS);
    // Each dies twice, so that no worker of the new generation lives while both places wait.
    (3..=6).for_each(|worker| drop(play.ended(worker, 1)));
    assert!(play.supervisor.is_switching());
    let actions = play.order(Order::Reload);
    assert_eq!(actions, [Action::Restore, Action::Read], "without a word: another one is asked for");
    assert_eq!(play.supervisor.takers().collect::<Vec<_>>(), [1, 2]);
    // The same if the HUP came first.
    play.on(Event::Opened(LIMITS));
    play.order(Order::Reload);
    (7..=9).for_each(|worker| drop(play.ended(worker, 1)));
    assert_eq!(play.ended(10, 1).iter().rev().take(2).collect::<Vec<_>>(), [&Action::Read, &Action::Restore]);
}

#[test]
fn a_stuck_worker_is_asked_relieved_and_taken_back() {
    let mut play = Play::serving();
    let since_ms = play.now_ms;
    let awake = move |worker| sight(if worker == 1 { Beat::Awake } else { Beat::Asleep }, since_ms);
    play.now_ms += 19;
    assert_eq!(play.look(awake), [], "a turn may be long");
    play.now_ms += 1;
    assert_eq!(play.look(awake), [Action::Ping(1)]);
    assert_eq!(play.supervisor.next_look_ms(), play.now_ms + 50, "it looks more often now");
    play.now_ms += 199;
    assert_eq!(play.look(awake), []);
    play.now_ms += 1;
    assert_eq!(play.look(awake), [Action::Locate(1)]);
    play.now_ms += 249;
    assert_eq!(play.look(awake), [], "it is asked once where it is");
    play.now_ms += 1;
    let actions = play.look(awake);
    let [Notice::Stuck { pid: 1001, place: PLACE, silent_ms: 450, .. }] = notices(&actions)[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(actions[1..], [Action::Steer, Action::Lend { helper: 2, slots: vec![0] }]);
    assert_eq!(play.supervisor.closed_slots().0, HashSet::from([0]));
    assert!(play.supervisor.is_well(), "a sibling helps");
    assert_eq!(play.supervisor.takers().collect::<Vec<_>>(), [2]);
    play.now_ms += 250;
    assert_eq!(play.look(awake), [], "asked and helped already");
    play.on(Event::Pong(1));
    let moves = Notice::MovesAgain { pid: 1001, role: Role::Worker, after_ms: 700 };
    let released = Action::Send(2, ToWorker::Release(vec![0]));
    assert_eq!(play.take(), [Action::Tell(moves), released, Action::Steer]);
    assert!(play.supervisor.closed_slots().0.is_empty());
}

#[test]
fn a_worker_with_a_queue_is_asked_and_one_without_work_is_not() {
    let mut play = Play::serving();
    for _ in 0..10 {
        play.now_ms += 250;
        assert_eq!(play.look(asleep), []);
    }
    assert!(play.supervisor.is_quiet());
    assert_eq!(play.supervisor.next_look_ms(), play.now_ms + 10_000);
    play.on(Event::Stirred);
    assert_eq!(play.supervisor.next_look_ms(), play.now_ms + 250);
    assert_eq!(play.supervisor.queues_to_look_at(2), [1]);
    let actions = play.look(|worker| Sight { has_queue: worker == 2, ..asleep(worker) });
    assert_eq!(actions, [Action::Ping(2)]);
    assert!(play.supervisor.queues_to_look_at(2).is_empty(), "once");
    // A ping that found no room is sent again, and its time counts from the first attempt.
    play.on(Event::PingUnsent(2));
    play.now_ms += 100;
    assert_eq!(play.look(asleep), [Action::Ping(2)]);
    play.now_ms += 350;
    assert_eq!(notices(&play.look(asleep)).len(), 1, "stuck");
}

#[test]
fn a_worker_that_stays_stuck_is_killed_and_replaced() {
    let mut play = Play::serving();
    let since_ms = play.now_ms;
    let awake = move |worker| sight(if worker == 1 { Beat::Awake } else { Beat::Asleep }, since_ms);
    play.now_ms += 250;
    play.look(awake);
    play.now_ms += 450;
    play.look(awake);
    play.now_ms += 30_000 - 451;
    assert_eq!(play.look(awake), []);
    play.now_ms += 1;
    let killed = Notice::KilledStuck { pid: 1001, role: Role::Worker, limit_ms: 30_000 };
    assert_eq!(play.look(awake), [Action::Tell(killed), Action::Kill(1)]);
    play.on(Event::Ended(1, Ended::Signaled { number: 9, core: false }));
    let actions = play.take();
    assert_eq!(actions[..2], [Action::Send(2, ToWorker::Release(vec![0])), Action::Steer]);
    assert_eq!(forks(&actions), [(3, 0, 1)]);
}

#[test]
fn the_helper_of_a_stuck_worker_has_a_successor_when_it_ends() {
    let mut play = Play::new(Limits { worker_count: 3, ..LIMITS });
    play.on(Event::Started);
    (1..=3).for_each(|worker| play.on(Event::Ready(worker)));
    let since_ms = play.now_ms;
    let awake = move |worker| sight(if worker == 1 { Beat::Awake } else { Beat::Asleep }, since_ms);
    play.now_ms += 250;
    play.look(awake);
    play.now_ms += 450;
    assert_eq!(play.look(awake).last(), Some(&Action::Lend { helper: 2, slots: vec![0] }));
    play.ended(2, 1);
    assert!(!play.supervisor.is_well(), "nobody helps now");
    assert_eq!(play.look(awake), [Action::Lend { helper: 3, slots: vec![0] }]);
    assert!(play.supervisor.is_well());
}

#[test]
fn a_worker_that_never_starts_is_killed() {
    let mut play = Play::new(LIMITS);
    play.on(Event::Started);
    play.on(Event::Ready(1));
    play.take();
    play.now_ms += 29_999;
    assert_eq!(play.look(asleep), []);
    play.now_ms += 1;
    let never = Notice::NeverStarted { pid: 1002, role: Role::Worker, limit_ms: 30_000 };
    assert_eq!(play.look(asleep), [Action::Tell(never), Action::Kill(2)]);
}

#[test]
fn without_a_watchdog_nobody_is_killed() {
    let mut play = Play::new(Limits { watchdog_ms: 0, ..LIMITS });
    play.on(Event::Started);
    play.on(Event::Ready(1));
    let since_ms = play.now_ms;
    for _ in 0..10 {
        play.now_ms += 1_000_000;
        play.look(|_| sight(Beat::Awake, since_ms));
    }
    assert!(!play.take().iter().any(|action| matches!(action, Action::Kill(_))));
}

#[test]
fn a_full_worker_gives_its_connections_to_a_sibling_with_room() {
    let mut play = Play::serving();
    let actions = play.look(|worker| full(worker == 1));
    let told = Notice::Full { pid: 1001, number: 0 };
    let lent = Action::Lend { helper: 2, slots: vec![0] };
    assert_eq!(actions, [Action::Tell(told), Action::Steer, lent]);
    assert_eq!(play.supervisor.closed_slots().1, HashSet::from([0]));
    play.now_ms += 999;
    assert_eq!(play.look(|_| full(false)), [], "a second at least");
    play.now_ms += 1;
    let released = Action::Send(2, ToWorker::Release(vec![0]));
    let has_room = Notice::HasRoom { pid: 1001 };
    assert_eq!(play.look(|_| full(false)), [released, Action::Tell(has_room), Action::Steer]);
}

#[test]
fn where_all_are_full_each_keeps_its_share() {
    let mut play = Play::serving();
    play.look(|worker| full(worker == 1));
    let actions = play.look(|_| full(true));
    assert_eq!(notices(&actions), [Notice::Full { pid: 1002, number: 1 }]);
    assert_eq!(
        play.look(|_| full(true)),
        [Action::Send(2, ToWorker::Release(vec![0]))],
        "no helper has room"
    );
    let mut alone = Play::new(Limits { worker_count: 1, ..LIMITS });
    alone.on(Event::Started);
    alone.on(Event::Ready(1));
    alone.take();
    assert_eq!(alone.look(|_| full(true)), [], "nobody else could take them");
}

#[test]
fn a_worker_that_breaks_a_rule_is_killed_and_its_place_waits() {
    let mut play = Play::serving();
    play.now_ms += 1000;
    play.on(Event::BrokeRule(1, Fault::Malformed));
    play.on(Event::BrokeRule(1, Fault::Ended));
    let told = Notice::BrokeRule { pid: 1001, place: PLACE, fault: Fault::Malformed };
    assert_eq!(play.take(), [Action::Tell(told), Action::Kill(1)], "once");
    assert_eq!((play.supervisor.hears(1), play.supervisor.hears(2)), (None, Some(State::Ready)));
    assert_eq!(play.supervisor.takers().collect::<Vec<_>>(), [2]);
    let [(next, ..)] = forks(&play.ended(1, 9))[..] else { panic!("the first one is replaced at once") };
    play.now_ms += 59_999;
    play.on(Event::BrokeRule(next, Fault::TooLong));
    play.take();
    let cause = Cause::Condemned { after_ms: 59_999 };
    let waits = Notice::DiedYoung { place: PLACE, cause, wait_ms: 100 };
    assert_eq!(notices(&play.ended(next, 9)), [waits]);
}

#[test]
fn a_worker_that_panicked_leaves_and_is_replaced() {
    let mut play = Play::serving();
    play.now_ms += 1000;
    play.on(Event::Replace(1));
    let actions = play.take();
    assert_eq!(
        actions[..2],
        [Action::Tell(Notice::Replaced { pid: 1001, role: Role::Worker }), Action::Send(1, ToWorker::Drain)]
    );
    assert_eq!(forks(&actions), [(3, 0, 1)]);
    play.on(Event::Replace(1));
    assert_eq!(play.take(), [], "it leaves already");
    assert_eq!(forks(&play.ended(1, 0)), []);
}

#[test]
fn sockets_that_were_opened_anew_bring_new_workers() {
    let mut play = Play::serving();
    play.on(Event::SocketsReplaced);
    assert_eq!(play.supervisor.due_ms(play.now_ms), play.now_ms);
    let actions = play.wait(0);
    assert_eq!(actions[0], Action::Prepare);
    assert_eq!(forks(&actions), [(3, 0, 2), (4, 1, 2)]);
    assert_eq!(play.wait(0), []);
}

#[test]
fn quit_ends_when_the_last_worker_has_finished() {
    let mut play = Play::serving();
    let quit = |worker| Action::Send(worker, ToWorker::Quit);
    assert_eq!(play.order(Order::Leave), [Action::TellLeaving, Action::RetireAll, quit(1), quit(2)]);
    assert_eq!(play.order(Order::Leave), []);
    assert_eq!((play.order(Order::Reload), play.order(Order::Drain)), (vec![], vec![]));
    assert_eq!(forks(&play.ended(1, 1)), []);
    assert!(play.supervisor.end(false).is_none());
    play.ended(2, 0);
    assert!(play.supervisor.end(true).is_none(), "connections wait to be handed on");
    assert_eq!(play.supervisor.end(false), Some(End { code: 0, why: None }));
}

#[test]
fn quit_during_a_change_settles_for_the_new_configuration() {
    let mut play = Play::serving();
    play.reload(LIMITS);
    let actions = play.order(Order::Leave);
    assert_eq!(actions[..3], [Action::TellLeaving, Action::Settle, Action::RetireAll]);
    assert_eq!(actions.len(), 3 + 4, "all workers of both generations");
    let mut play = Play::serving();
    play.order(Order::Reload);
    assert_eq!(play.order(Order::Leave)[..2], [Action::TellLeaving, Action::GiveUpReading]);
}

#[test]
fn term_kills_those_that_stay() {
    let mut play = Play::serving();
    let actions = play.order(Order::Stop);
    assert_eq!(actions, [Action::TellLeaving, Action::Terminate(1), Action::Terminate(2)]);
    assert_eq!(play.order(Order::Stop), []);
    play.ended(1, 0);
    assert_eq!(play.wait(999), []);
    let killed = [Action::Tell(Notice::Late { pid: 1002, role: Role::Worker }), Action::Kill(2)];
    assert_eq!(play.wait(1), killed);
    assert_eq!(play.wait(999), []);
    assert_eq!(play.wait(1), killed, "again each second");
    assert!(play.supervisor.end(false).is_none());
    play.ended(2, 0);
    assert_eq!(play.supervisor.end(true), Some(End { code: 0, why: None }));
}

#[test]
fn an_upgrade_that_is_undone_brings_the_workers_back() {
    for is_by_signal in [true, false] {
        let mut play = Play::serving();
        assert_eq!(play.order(Order::Upgrade), [Action::Upgrade]);
        play.is_followed = true;
        let drain = |worker| Action::Send(worker, ToWorker::Drain);
        assert_eq!(play.order(Order::Drain), [drain(1), drain(2)], "to the other master's workers");
        play.ended(1, 0);
        play.ended(2, 0);
        assert!(play.supervisor.end(false).is_none(), "the addresses stay");
        let told = match is_by_signal {
            true => {
                play.on(Event::Ordered { order: Order::Reload, is_followed: true });
                Notice::StartWorkers
            }
            false => {
                play.on(Event::SuccessorEnded(7));
                Notice::SuccessorGone { pid: 7 }
            }
        };
        let actions = play.take();
        assert_eq!(actions[..2], [Action::Tell(told), Action::Prepare]);
        assert_eq!(forks(&actions), [(3, 0, 2), (4, 1, 2)]);
        assert_eq!(play.supervisor.phase(), Phase::Serving);
    }
}

#[test]
fn a_new_master_that_ends_while_the_old_one_serves_changes_nothing() {
    let mut play = Play::serving();
    play.on(Event::SuccessorEnded(7));
    assert_eq!(play.take(), []);
}

#[test]
fn a_worker_that_drains_is_told_to_quit_and_no_other_message_twice() {
    let mut play = Play::serving();
    play.is_followed = true;
    play.order(Order::Drain);
    assert_eq!(play.order(Order::Leave), [Action::TellLeaving], "they drain to the other master");
    let mut play = Play::serving();
    play.is_followed = true;
    play.order(Order::Drain);
    play.is_followed = false;
    let actions = play.order(Order::Leave);
    assert_eq!(actions[2..], [Action::Send(1, ToWorker::Quit), Action::Send(2, ToWorker::Quit)]);
    assert_eq!(play.supervisor.hears(1), Some(State::Draining), "by the rules of its first order");
}

#[test]
fn events_of_workers_that_are_gone_change_nothing() {
    let mut play = Play::serving();
    for event in [
        Event::Ready(99),
        Event::Replace(99),
        Event::Pong(99),
        Event::BrokeRule(99, Fault::Ended),
        Event::Ended(99, Ended::Exited(0)),
        Event::PingUnsent(99),
        Event::NotLent { helper: 99, slots: vec![0] },
        Event::Forked { worker: 99, pid: 1, leased: vec![] },
        Event::NotForked { worker: 99, leased: vec![], why: String::new() },
        Event::Looked(vec![(99, asleep(99))]),
    ] {
        play.on(event);
        assert_eq!(play.take(), []);
    }
}

#[test]
fn the_oldest_of_too_many_generations_is_ended_and_it_is_said() {
    let mut play = Play::serving();
    let reload = |play: &mut Play, first: WorkerId| {
        play.on(Event::Ordered { order: Order::Reload, is_followed: false });
        play.on(Event::Opened(LIMITS));
        play.on(Event::Ready(first));
        play.on(Event::Ready(first + 1));
        play.take()
    };
    let ended = |actions: &[Action]| -> Vec<WorkerId> {
        let of = |action: &Action| match action {
            Action::Terminate(worker) => Some(*worker),
            _ => None,
        };
        actions.iter().filter_map(of).collect()
    };
    assert_eq!(ended(&reload(&mut play, 3)), [0; 0]);
    assert_eq!(ended(&reload(&mut play, 5)), [0; 0], "two earlier ones may finish");
    let actions = reload(&mut play, 7);
    assert_eq!(ended(&actions), [1, 2], "those of the first generation");
    let notice = Notice::TooManyGenerations { generation: 1, limit: 2 };
    assert_eq!(actions.iter().filter(|action| **action == Action::Tell(notice.clone())).count(), 1);
    // They may take their time to exit, but are not ended twice.
    assert_eq!(ended(&reload(&mut play, 9)), [3, 4]);
}
