//! Courses of requests through groups, turn by turn.

use std::sync::Arc;

use super::*;
use crate::net::address;
use crate::upstream::group::Group;
use crate::upstream::peer::{BACKUP, Server, Shared};
use crate::upstream::state::tests::state;

type Line<'a> = (&'a str, &'a dyn Fn(&mut Server));

fn group(lines: &[Line<'_>]) -> GroupState {
    let servers = lines.iter().map(|(name, set)| {
        let mut server = Server::new(name, address::parse_upstream(name, 80).unwrap());
        set(&mut server);
        server
    });
    state(servers.collect())
}

fn plain(_: &mut Server) {}

/// The last digit of the port of each peer chosen, one request each, all good.
fn turns(group: &GroupState, count: usize, now_ms: u64) -> String {
    (0..count).map(|_| turn(&mut Session::new(group, 0), now_ms)).collect()
}

fn turn(session: &mut Session, now_ms: u64) -> char {
    session.pick(now_ms).map_or('-', |peer| peer.name.chars().last().unwrap())
}

#[test]
fn spreads_by_weight_smoothly() {
    let group = group(&[("1.1.1.1:81", &|s| s.weight = 5), ("1.1.1.1:82", &plain), ("1.1.1.1:83", &plain)]);
    assert_eq!(turns(&group, 14, 0), "11213111121311");
}

#[test]
fn equal_weights_take_turns() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain), ("1.1.1.1:83", &plain)]);
    assert_eq!(turns(&group, 7, 0), "1231231");
}

#[test]
fn leaves_out_down_and_failed_peers_and_takes_them_back() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &|s| s.down = true), ("1.1.1.1:83", &plain)]);
    assert_eq!(turns(&group, 4, 0), "1313");
    let mut session = Session::new(&group, 0);
    assert_eq!(turn(&mut session, 5000), '1');
    assert!(session.finish(Outcome::Failed, 5000), "one failure is the default limit");
    assert_eq!(turn(&mut session, 5000), '3');
    drop(session);
    assert_eq!(turns(&group, 3, 15_000), "333");
    assert!(turns(&group, 4, 15_001).contains('1'));
}

#[test]
fn an_answer_that_breaks_off_counts_against_its_peer() {
    let group = group(&[("1.1.1.1:81", &|s| s.fails_max = 2), ("1.1.1.1:82", &plain)]);
    for is_last in [false, true] {
        let mut session = Session::new(&group, 0);
        while turn(&mut session, 0) != '1' {
            session = Session::new(&group, 0);
        }
        assert_eq!(session.fail_late(0), is_last);
        assert!(!session.fail_late(0), "one turn fails once");
        drop(session);
    }
    assert_eq!(turns(&group, 3, 10_000), "222");
    assert!(turns(&group, 3, 10_001).contains('1'));
}

#[test]
fn a_request_that_went_well_forgets_failures_of_an_earlier_window() {
    let group = group(&[("1.1.1.1:81", &|s| s.fails_max = 2), ("1.1.1.1:82", &|s| s.down = true)]);
    for now_ms in [1000, 20_000] {
        let mut session = Session::new(&group, 0);
        assert_eq!(turn(&mut session, now_ms), '1');
        assert!(!session.finish(Outcome::Failed, now_ms), "one of two, in a window of its own");
        assert_eq!(turns(&group, 1, now_ms + 10_001), "1", "dropped: it went well");
    }
}

#[test]
fn a_request_that_goes_well_does_not_bring_back_a_peer_that_has_failed_meanwhile() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain)]);
    let mut long = Session::new(&group, 0);
    assert_eq!(turn(&mut long, 1000), '1');
    let mut failing = Session::new(&group, 0);
    while turn(&mut failing, 2000) != '1' {
        failing = Session::new(&group, 0);
    }
    assert!(failing.finish(Outcome::Failed, 2000));
    drop(long);
    assert_eq!(turns(&group, 3, 3000), "222");
    assert!(turns(&group, 4, 12_001).contains('1'));
}

#[test]
fn one_request_tries_each_peer_once() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain)]);
    let mut session = Session::new(&group, 0);
    let mut seen = String::new();
    for _ in 0..3 {
        seen.push(turn(&mut session, 0));
        session.finish(Outcome::Next, 0);
    }
    assert_eq!(seen, "12-");
    assert_eq!(session.tries_left(), 0);
}

#[test]
fn the_configured_number_of_tries_is_the_most() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain), ("1.1.1.1:83", &plain)]);
    let mut session = Session::new(&group, 2);
    turn(&mut session, 0);
    session.finish(Outcome::Failed, 0);
    assert_eq!(session.tries_left(), 1);
    turn(&mut session, 0);
    session.finish(Outcome::Failed, 0);
    assert_eq!(session.tries_left(), 0);
}

#[test]
fn backups_serve_only_when_no_primary_can() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &|s| s.priority = BACKUP)]);
    assert_eq!(turns(&group, 3, 0), "111");
    let mut session = Session::new(&group, 0);
    assert_eq!(turn(&mut session, 0), '1');
    session.finish(Outcome::Failed, 0);
    assert_eq!(turn(&mut session, 0), '2');
    drop(session);
    assert_eq!(turns(&group, 2, 10_000), "22");
    assert_eq!(turns(&group, 1, 10_001), "1");
}

/// Two peers in a group with these rules; the requests of `failing` are errors.
fn outliers(text: &str) -> GroupState {
    outliers_with(text, &plain)
}

/// The same; `set` changes the second one.
fn outliers_with(text: &str, set: &dyn Fn(&mut Server)) -> GroupState {
    let (tree, _) = crate::config::load_text("test.conf", text, &Default::default());
    let host = |name| address::parse_upstream(name, 80).unwrap();
    let names = ["1.1.1.1:81", "1.1.1.1:82"];
    let mut servers = names.map(|name| Server { fails_max: 0, ..Server::new(name, host(name)) });
    set(&mut servers[1]);
    let mut group = crate::upstream::Group::uncounted("test", servers.into());
    group.outliers = Some(outlier::Rules::read(&tree.nodes[0]).unwrap());
    GroupState::new(std::sync::Arc::new(group))
}

#[test]
fn an_outlier_is_left_out_until_its_time_is_over() {
    let group = outliers("outlier_ejection errors=50% requests=4 interval=1s time=5s;");
    let ask = |now_ms| {
        let mut session = Session::new(&group, 0);
        let peer = turn(&mut session, now_ms);
        if peer == '1' {
            session.note_error();
        }
        let told = session.take_ejection().map(|told| (told.reason.to_string(), told.time_ms));
        (peer, told)
    };
    // The first interval is over at once, since nothing has been counted before it.
    let first: String = (0..8).map(|_| ask(10_000).0).collect();
    assert_eq!(first, "12121212");
    assert_eq!(ask(11_000), ('2', Some(("4 of 4 requests failed".to_owned(), 5000))));
    let left: String = (0..4).map(|_| ask(15_999).0).collect();
    assert_eq!(left, "2222");
    let back: String = (0..9).map(|_| ask(16_000).0).collect();
    assert!(back.contains('1'), "{back}");
    let told = (0..2).find_map(|_| ask(17_000).1);
    assert_eq!(told.map(|(_, time_ms)| time_ms), Some(10_000), "it has not changed: twice as long");
}

#[test]
fn the_last_peer_that_can_serve_is_no_outlier() {
    let against: [&dyn Fn(&mut Server); 2] = [&|server| server.down = true, &|server| server.conns_max = 1];
    for against in against {
        let group = outliers_with("outlier_ejection errors=50% requests=4 interval=1s time=5s;", against);
        let _used =
            (!group.set().levels[0].peers[1].is_down()).then(|| group.set().levels[0].peers[1].open());
        let ask = |now_ms| {
            let mut session = Session::new(&group, 0);
            let peer = turn(&mut session, now_ms);
            session.note_error();
            (peer, session.take_ejection().is_some())
        };
        for now_ms in [10_000, 10_001, 10_002, 10_003, 10_004, 11_500, 13_000] {
            assert_eq!(ask(now_ms), ('1', false));
        }
    }
}

#[test]
fn after_a_wait_the_group_is_used_as_it_is_then() {
    let server = |name, conns_max| Server {
        conns_max,
        ..Server::new(name, address::parse_upstream(name, 80).unwrap())
    };
    let servers = vec![server("1.1.1.1:81", 0), server("1.1.1.1:82", 1)];
    let keepalive = crate::upstream::group::Keepalive::default();
    let group = Group::with(("", "session.wait"), servers, Method::RoundRobin, keepalive, false);
    let group = GroupState::new(Arc::new(group));
    let used = group.set().all().nth(1).map(|peer| peer.open());
    let mut session = Session::new(&group, 0);
    assert_eq!(turn(&mut session, 0), '1');
    session.finish(Outcome::Next, 0);
    let tried = session.tried_peers();
    assert_eq!(turn(&mut session, 0), '-');
    session.look_again(&group, &tried);
    assert_eq!(turn(&mut session, 0), '-', "not the one that has just refused it");
    // Another server takes the place of the first.
    assert!(group.edit(0, server("1.1.1.1:83", 0), [Shared::default()].into()));
    session.look_again(&group, &tried);
    assert_eq!(turn(&mut session, 0), '3');
    session.finish(Outcome::Next, 0);
    drop(used);
    let tried = session.tried_peers();
    session.look_again(&group, &tried);
    assert_eq!(turn(&mut session, 0), '2');
}

#[test]
fn all_peers_are_used_if_none_is_well_and_the_group_says_so() {
    for fail_open in [true, false] {
        let host = |name| address::parse_upstream(name, 80).unwrap();
        let names = ["1.1.1.1:81", "1.1.1.1:82", "1.1.1.1:83"];
        let mut servers = names.map(|name| Server::new(name, host(name))).to_vec();
        servers[2].down = true;
        let mut group = crate::upstream::Group::uncounted("test", servers);
        group.fails_open = fail_open;
        let group = GroupState::new(std::sync::Arc::new(group));
        let mut session = Session::new(&group, 0);
        for _ in 0..2 {
            turn(&mut session, 1000);
            session.finish(Outcome::Failed, 1000);
        }
        drop(session);
        let seen = turns(&group, 4, 1000);
        assert_eq!(seen.chars().all(|peer| peer == '-'), !fail_open, "{seen}");
        assert!(!seen.contains('3'), "down stays down: {seen}");
    }
}

#[test]
fn a_peer_that_comes_back_gets_more_and_more() {
    let slow = |server: &mut Server| (server.slow_start_ms, server.fail_timeout_ms) = (10_000, 1000);
    let group = group(&[("1.1.1.1:81", &slow), ("1.1.1.1:82", &plain)]);
    let mut session = Session::new(&group, 0);
    assert_eq!(turn(&mut session, 1000), '1');
    session.finish(Outcome::Failed, 1000);
    drop(session);
    assert_eq!(turns(&group, 3, 1500), "222");
    let count = |now_ms| turns(&group, 100, now_ms).matches('1').count();
    turns(&group, 110, 2100); // it is tried, and answers
    let shares = [2100, 4600, 7100, 12_200].map(count);
    assert!(shares[0] <= 5, "{shares:?}");
    assert!((15..=25).contains(&shares[1]), "{shares:?}");
    assert!((28..=38).contains(&shares[2]), "{shares:?}");
    // The first turns still go by rounds, the others by the order that began before the failure.
    assert!((49..=51).contains(&shares[3]), "{shares:?}");
}

#[test]
fn the_only_peer_is_never_left_out() {
    let group = group(&[("1.1.1.1:81", &plain)]);
    for _ in 0..5 {
        let mut session = Session::new(&group, 0);
        assert_eq!(turn(&mut session, 0), '1');
        assert!(!session.finish(Outcome::Failed, 0));
        assert_eq!(session.tries_left(), 0);
    }
}

#[test]
fn a_full_peer_waits_for_a_connection_to_end() {
    let group = group(&[("1.1.1.1:81", &|s| s.conns_max = 1)]);
    let mut first = Session::new(&group, 0);
    assert_eq!(turn(&mut first, 0), '1');
    assert_eq!(turns(&group, 1, 0), "-");
    drop(first);
    assert_eq!(turns(&group, 1, 0), "1");
}

/// A sticky group whose peers have the routes a, b, c.
fn sticky(lines: &[Line<'_>]) -> GroupState {
    let servers = lines.iter().zip("abc".chars()).map(|((name, set), route)| {
        let mut server = Server::new(name, address::parse_upstream(name, 80).unwrap());
        server.route = Some(route.to_string().into());
        set(&mut server);
        server
    });
    let mut group = Group::uncounted("test", servers.collect());
    group.is_sticky = true;
    GroupState::new(Arc::new(group))
}

fn bound(group: &GroupState, route: &str) -> Session {
    Session::new(group, 0).prefer(Bound::Id(route.as_bytes().into()))
}

#[test]
fn a_bound_request_goes_to_its_peer_and_the_others_take_turns() {
    let group = sticky(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain), ("1.1.1.1:83", &plain)]);
    for expected in ["123", "123", "123"] {
        assert_eq!(turn(&mut bound(&group, "b"), 0), '2');
        assert_eq!(turns(&group, 3, 0), expected, "new clients are spread as if there were no others");
    }
    let ids = ["", "B", "bb", "4", "a\0"];
    let strangers: String = ids.iter().map(|id| turn(&mut bound(&group, id), 0)).collect();
    assert_eq!(strangers, "12312", "an id of no peer");
}

#[test]
fn a_bound_request_is_balanced_when_its_peer_cannot_serve() {
    let group = sticky(&[
        ("1.1.1.1:81", &|s| s.down = true),
        ("1.1.1.1:82", &plain),
        ("1.1.1.1:83", &|s| s.conns_max = 1),
    ]);
    assert_eq!(turn(&mut bound(&group, "a"), 0), '2', "down");
    let mut full = bound(&group, "c");
    assert_eq!(turn(&mut full, 0), '3');
    assert_eq!(turn(&mut bound(&group, "c"), 0), '2', "full");
    assert!(full.finish(Outcome::Failed, 0));
    assert_eq!(turn(&mut full, 0), '2', "the next one, since its own has failed");
    assert_eq!(turn(&mut bound(&group, "c"), 10_000), '2', "left out");
    assert_eq!(turn(&mut bound(&group, "c"), 10_001), '3');
}

#[test]
fn a_draining_peer_gets_bound_requests_only() {
    let group = sticky(&[("1.1.1.1:81", &|s| s.drain = true), ("1.1.1.1:82", &plain)]);
    assert_eq!(turns(&group, 4, 0), "2222");
    assert_eq!(turn(&mut bound(&group, "a"), 0), '1');
    let mut session = bound(&group, "b");
    assert_eq!(turn(&mut session, 0), '2');
    session.finish(Outcome::Failed, 0);
    assert_eq!(turn(&mut session, 0), '-', "not even as the next one");

    let single = sticky(&[("1.1.1.1:81", &|s| s.drain = true)]);
    assert_eq!((turn(&mut bound(&single, "a"), 0), turns(&single, 1, 0)), ('1', "-".to_owned()));
}

#[test]
fn a_bound_peer_among_the_backups_waits_for_its_level() {
    let backup = |s: &mut Server| s.priority = BACKUP;
    let group = sticky(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &backup), ("1.1.1.1:83", &backup)]);
    let mut session = bound(&group, "c");
    assert_eq!(turn(&mut session, 0), '1');
    session.finish(Outcome::Failed, 0);
    assert_eq!(turn(&mut session, 0), '3', "of the backups its own");
}

#[test]
fn peers_with_one_route_serve_a_client_in_turn() {
    let twin = |s: &mut Server| s.route = Some("a".into());
    let group = sticky(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain), ("1.1.1.1:83", &twin)]);
    let mut session = bound(&group, "a");
    let mut seen = String::new();
    for _ in 0..4 {
        seen.push(turn(&mut session, 0));
        session.finish(Outcome::Next, 0);
    }
    assert_eq!(seen, "132-");
}

#[test]
fn a_dropped_session_gives_its_connection_back() {
    let group = group(&[("1.1.1.1:81", &plain), ("1.1.1.1:82", &plain)]);
    let mut session = Session::new(&group, 0);
    let peer = session.pick(0).unwrap();
    assert_eq!(peer.conns(), 1);
    drop(session);
    assert_eq!(peer.conns(), 0);
    assert_eq!(peer.fails(), 0);
}

#[test]
fn more_than_64_peers_are_each_tried_once() {
    let names: Vec<String> = (0..70).map(|index| format!("1.1.1.1:{}", 1000 + index)).collect();
    let servers = names.iter().map(|name| Server::new(name, address::parse_upstream(name, 80).unwrap()));
    let group = state(servers.collect());
    let mut session = Session::new(&group, 0);
    let mut seen = std::collections::HashSet::new();
    while let Some(peer) = session.pick(0) {
        assert!(seen.insert(peer.name.clone()), "{} twice", peer.name);
        session.finish(Outcome::Failed, 0);
    }
    assert_eq!(seen.len(), 70);
}
