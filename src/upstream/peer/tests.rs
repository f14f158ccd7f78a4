//! One peer: its failures, its health and its state in shared memory.

use super::*;
use crate::net::address;

fn peer(fails_max: u64) -> Peer {
    let host = address::parse_upstream("127.0.0.1:81", 80).unwrap();
    let server = Server { fails_max, weight: 4, ..Server::new("127.0.0.1:81", host) };
    Peer::new(&server, 0, server.addresses[0].clone(), Shared::default(), false)
}

#[test]
fn is_left_out_after_max_fails_until_the_timeout_is_over() {
    let peer = peer(2);
    assert!(!peer.fail(1000));
    assert!(!peer.is_failed(1000));
    assert!(peer.fail(2000));
    assert!(peer.is_failed(2000));
    assert!(peer.is_failed(12_000));
    assert!(!peer.is_failed(12_001));
}

#[test]
fn a_success_in_a_later_window_forgets_failures() {
    let peer = peer(2);
    peer.fail(1000);
    peer.succeed();
    assert_eq!(peer.fails(), 1, "still the window of the failure");
    peer.begin_turn(20_000);
    peer.succeed();
    assert_eq!(peer.fails(), 0);
}

#[test]
fn failures_without_a_limit_never_take_it_out() {
    let peer = peer(0);
    for _ in 0..100 {
        assert!(!peer.fail(1000));
    }
    assert!(!peer.is_failed(1000));
    assert_eq!(peer.seat.borrow().load().weigh(100), (4, 4), "nor cost it weight");
}

#[test]
fn weight_lost_by_a_failure_grows_back() {
    let peer = peer(2);
    peer.fail(1000);
    let seat = peer.seat.borrow();
    let shares: Vec<i64> = (0..4).map(|_| seat.load().weigh(100).1).collect();
    assert_eq!(shares, [2, 3, 4, 4]);
}

#[test]
fn a_time_of_the_future_does_not_take_it_out_for_ever() {
    let host = address::parse_upstream("127.0.0.1:83", 80).unwrap();
    let server = Server::new("127.0.0.1:83", host);
    let place = peers::place("peer.test/a_time_of_the_future").unwrap();
    let shared = Shared { slot: None, place: Some(place) };
    let peer = Peer::new(&server, 0, server.addresses[0].clone(), shared, true);
    for words in [u64::MAX, 1 << 62, 20_000] {
        for word in [Word::Fails, Word::FailedMs, Word::CheckedMs] {
            place.set_number(word, words);
        }
        assert!(peer.is_failed(10_000));
        assert!(peer.is_failed(20_000), "as for a failure of just before");
        assert!(!peer.is_failed(20_001));
        peer.begin_turn(20_001);
        peer.succeed();
        peer.begin_turn(40_000);
        peer.succeed();
        assert!(!peer.is_failed(40_000) && peer.fails() == 0, "the success of a later window makes it whole");
    }
    place.set_number(Word::Fails, u64::MAX);
    assert!(peer.fail(30_000));
    assert_eq!(peer.fails(), u64::MAX);
}

#[test]
fn it_becomes_unavailable_once_for_failures_at_a_time_and_again_after_its_timeout() {
    let host = address::parse_upstream("127.0.0.1:84", 80).unwrap();
    let server = Server { fails_max: 2, ..Server::new("127.0.0.1:84", host) };
    let slot = counter::slot(counter::Kind::Peer, "peer.test unavailable").unwrap();
    let place = peers::place("peer.test/unavailable");
    let shared = Shared { slot: Some(slot), place };
    let peer = Peer::new(&server, 0, server.addresses[0].clone(), shared, true);
    let count = || slot.get(counter::Word::UNAVAILABLE);
    peer.begin_turn(100_000);
    peer.fail(100_001);
    assert_eq!(count(), 0);
    // Both requests were in progress when the first of them failed.
    peer.fail(100_002);
    peer.fail(100_003);
    assert_eq!(count(), 1);
    peer.begin_turn(111_000);
    peer.fail(111_001);
    assert_eq!((count(), slot.get(counter::Word::Failures)), (2, 4));
}

#[test]
fn a_zone_shares_failures_but_a_group_without_keeps_its_own() {
    let host = address::parse_upstream("127.0.0.1:82", 80).unwrap();
    let server = Server::new("127.0.0.1:82", host);
    let shared = Shared { slot: None, place: peers::place("peer.test/a_zone_shares_failures") };
    assert!(shared.place.is_some());
    let peer = |is_shared| Peer::new(&server, 0, server.addresses[0].clone(), shared, is_shared);
    let (first, second, apart) = (peer(true), Rc::new(peer(true)), peer(false));
    assert!(first.fail(1000));
    assert!(second.is_failed(1000) && !apart.is_failed(1000));
    let used = second.open();
    assert_eq!((first.conns(), apart.conns()), (1, 0));
    drop(used);
    assert_eq!(first.conns(), 0);
}

#[test]
fn a_slow_start_after_a_check_needs_no_zone() {
    let host = address::parse_upstream("127.0.0.1:83", 80).unwrap();
    let server = Server { weight: 100, slow_start_ms: 10_000, ..Server::new("127.0.0.1:83", host) };
    let shared = Shared { slot: None, place: peers::place("peer.test/a_slow_start_after_a_check") };
    let checks = Checks { is_mandatory: false, is_persistent: false };
    let peer = Peer::new(&server, 0, server.addresses[0].clone(), shared, false).with_checks(Some(checks));
    shared.place.unwrap().set_ms(Word::ReturnedMs, 1000);
    let weight = |now_ms| {
        assert!(peer.can_serve(now_ms));
        peer.seat.borrow().load().present_weight()
    };
    assert_eq!([1000, 3500, 8500, 11_000].map(weight), [1, 25, 75, 100]);
}
