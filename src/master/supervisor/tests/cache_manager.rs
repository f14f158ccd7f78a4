//! Histories of a cache manager beside the workers, played in virtual time.

use super::*;

const WITH_CACHES: Limits = Limits { has_cache_manager: true, ..LIMITS };

fn fork_manager(worker: WorkerId, generation: u64) -> Action {
    Action::Fork { worker, place: Place { role: Role::CacheManager, number: 0 }, generation }
}

/// A master whose workers, 1 and 2, and whose cache manager, 3, are ready.
fn managing() -> Play {
    let mut play = Play::new(WITH_CACHES);
    play.on(Event::Started);
    play.on(Event::Ready(1));
    assert!(!play.take().contains(&fork_manager(3, 1)), "a start does not wait for it");
    play.on(Event::Ready(2));
    assert!(play.take().contains(&fork_manager(3, 1)));
    play.on(Event::Ready(3));
    assert_eq!(play.take(), []);
    play
}

#[test]
fn a_cache_manager_that_dies_is_replaced_and_disturbs_no_worker() {
    let mut play = managing();
    play.wait(10_000);
    assert_eq!(play.ended(3, 9), [Action::ShutRemoved, Action::Sweep, fork_manager(4, 1)]);
    assert_eq!(play.supervisor.takers().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_reload_has_one_cache_manager_after_the_other() {
    let mut play = managing();
    let forked = play.reload(WITH_CACHES);
    assert_eq!(forks(&forked), [(4, 0, 2), (5, 1, 2)]);
    play.on(Event::Ready(4));
    play.on(Event::Ready(5));
    let actions = play.take();
    assert!(actions.contains(&Action::Send(3, ToWorker::Drain)) && !actions.contains(&fork_manager(6, 2)));
    assert!(play.ended(3, 0).contains(&fork_manager(6, 2)), "once the one before is gone");
    play.on(Event::Ready(6));
    play.take();
    // A configuration without caches has none.
    play.reload(LIMITS);
    play.on(Event::Ready(7));
    play.on(Event::Ready(8));
    assert!(play.take().contains(&Action::Send(6, ToWorker::Drain)));
    assert_eq!(forks(&play.ended(6, 0)), []);
}
