//! Histories of a prober beside the workers, played in virtual time.

use super::*;

const WITH_PROBER: Limits = Limits { has_prober: true, ..LIMITS };

fn fork_prober(worker: WorkerId, generation: u64) -> Action {
    Action::Fork { worker, place: Place { role: Role::Prober, number: 0 }, generation }
}

/// A master whose workers, 1 and 2, and whose prober, 3, are ready.
fn probing() -> Play {
    let mut play = Play::new(WITH_PROBER);
    play.on(Event::Started);
    play.on(Event::Ready(1));
    assert!(!play.take().contains(&fork_prober(3, 1)), "a start does not wait for it, nor it for a start");
    play.on(Event::Ready(2));
    assert!(play.take().contains(&fork_prober(3, 1)));
    play.on(Event::Ready(3));
    assert_eq!(play.take(), []);
    play
}

#[test]
fn a_prober_that_dies_is_replaced_and_disturbs_no_worker() {
    let mut play = probing();
    play.wait(10_000);
    assert_eq!(play.ended(3, 1), [Action::ShutRemoved, Action::Sweep, fork_prober(4, 1)]);
    // Those that die young come ever later; nobody is lent its slots, since it has none.
    let actions = play.ended(4, 1);
    assert!(actions.contains(&fork_prober(5, 1)), "the first one may be chance");
    let place = Place { role: Role::Prober, number: 0 };
    let cause = Cause::Ended { after_ms: 0 };
    let waits = Action::Tell(Notice::DiedYoung { place, cause, wait_ms: 100 });
    assert_eq!(play.ended(5, 1), [Action::ShutRemoved, Action::Sweep, waits]);
    assert_eq!(play.wait(99), []);
    assert_eq!(play.wait(1), [fork_prober(6, 1)]);
    assert_eq!(play.supervisor.takers().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_reload_has_one_prober_after_the_other() {
    let mut play = probing();
    let forked = play.reload(WITH_PROBER);
    assert_eq!(forks(&forked), [(4, 0, 2), (5, 1, 2)], "the old prober goes on meanwhile");
    play.on(Event::Ready(4));
    play.on(Event::Ready(5));
    let actions = play.take();
    assert!(actions.contains(&Action::Send(3, ToWorker::Drain)) && !actions.contains(&fork_prober(6, 2)));
    assert!(play.ended(3, 0).contains(&fork_prober(6, 2)), "once the one before is gone");
    // One that does not leave is killed, long before the workers would be.
    play.reload(WITH_PROBER);
    [7, 8].into_iter().for_each(|worker| play.on(Event::Ready(worker)));
    play.take();
    assert_eq!(play.wait(999), []);
    let late = Action::Tell(Notice::Late { pid: pid(6), role: Role::Prober });
    assert_eq!(play.wait(1), [late, Action::Kill(6)]);
    // A configuration without checks has none.
    play.ended(6, 9);
    play.reload(LIMITS);
    [10, 11].into_iter().for_each(|worker| play.on(Event::Ready(worker)));
    play.take();
    assert_eq!(forks(&play.ended(9, 0)), []);
}

#[test]
fn a_master_checks_once_its_prober_was_ready_and_until_it_leaves() {
    let mut play = Play::new(WITH_PROBER);
    play.on(Event::Started);
    [1, 2].into_iter().for_each(|worker| play.on(Event::Ready(worker)));
    assert!(!play.supervisor.is_probing(), "it may not be able to run");
    play.on(Event::Ready(3));
    assert!(play.supervisor.is_probing());
    play.ended(3, 9);
    assert!(play.supervisor.is_probing(), "the next one follows");
    play.on(Event::Ordered { order: Order::Drain, is_followed: true });
    assert!(!play.supervisor.is_probing());
    let mut play = Play::new(LIMITS);
    play.on(Event::Started);
    [1, 2].into_iter().for_each(|worker| play.on(Event::Ready(worker)));
    assert!(!play.supervisor.is_probing());
}

#[test]
fn a_reload_that_fails_keeps_the_prober_or_brings_it_back() {
    let mut play = probing();
    play.reload(LIMITS);
    play.ended(4, 2);
    let actions = play.ended(5, 2);
    assert!(actions.contains(&Action::Restore) && forks(&actions).is_empty());
    play.reload(LIMITS);
    assert_eq!(forks(&play.ended(3, 1)), [], "its configuration may be gone soon");
    play.ended(6, 2);
    assert!(play.ended(7, 2).contains(&fork_prober(8, 3)));
}

#[test]
fn a_stuck_prober_is_killed_and_one_at_work_keeps_the_master_quiet() {
    let mut play = probing();
    let mut is_asked = false;
    for _ in 0..200 {
        play.now_ms += 250;
        let now_ms = play.now_ms;
        let actions =
            play.look(|worker| if worker == 3 { sight(Beat::Awake, now_ms - 100) } else { asleep(worker) });
        is_asked |= actions.contains(&Action::Ping(3));
        if actions.contains(&Action::Kill(3)) {
            assert!(is_asked && !actions.iter().any(|action| matches!(action, Action::Lend { .. })));
            assert!(play.supervisor.is_quiet() && play.supervisor.is_well());
            return;
        }
    }
    panic!("it lives on");
}

#[test]
fn a_prober_that_breaks_a_rule_is_killed_and_waits() {
    let mut play = probing();
    play.on(Event::BrokeRule(3, Fault::Malformed));
    assert!(play.take().contains(&Action::Kill(3)));
    let actions = play.ended(3, 9);
    assert!(actions.contains(&fork_prober(4, 1)), "the first one that was condemned may be chance");
    play.on(Event::BrokeRule(4, Fault::Malformed));
    play.take();
    assert_eq!(forks(&play.ended(4, 9)), []);
}

#[test]
fn the_prober_leaves_with_the_workers() {
    let mut play = probing();
    let actions = play.order(Order::Leave);
    assert!(actions.contains(&Action::Send(3, ToWorker::Quit)));
    assert_eq!(forks(&play.ended(3, 0)), []);
    play.ended(1, 0);
    play.ended(2, 0);
    assert_eq!(play.supervisor.end(false), Some(End { code: 0, why: None }));
}
