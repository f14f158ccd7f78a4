//! Properties of balancers over many requests: exact shares, also between workers, and even loads.

use std::rc::Rc;
use std::sync::Arc;

use super::{By, Cursor, Eligible, Method, Time, Tried, least_conn, round_robin};
use crate::net::address;
use crate::shm::peers::{Advice, Orders, Word};
use crate::upstream::group::{Group, Keepalive};
use crate::upstream::peer::{InUse, Server};
use crate::upstream::state::GroupState;

fn server(index: usize, weight: i64) -> Server {
    let name = format!("10.1.{}.{}:80", index / 250, index % 250 + 1);
    Server { weight, ..Server::new(&name, address::parse_upstream(&name, 80).unwrap()) }
}

/// A worker's state of the group `name`; with a zone, workers of one name share its words.
fn worker(name: &str, weights: &[i64], method: Method, has_zone: bool) -> GroupState {
    let servers = weights.iter().enumerate().map(|(index, &weight)| server(index, weight)).collect();
    let group = Group::with(("", name), servers, method, Keepalive::default(), has_zone);
    GroupState::new(Arc::new(group))
}

/// The index that one request is given, alone.
fn pick(state: &GroupState, key: &str) -> usize {
    let set = state.set();
    let list = &set.levels[0];
    let tried = Tried::new(list.peers.len());
    let mut cursor = Cursor::new(key.as_bytes().into());
    state.group.method.pick(&Eligible::new(list, &tried, 0), &mut cursor).expect("a peer")
}

fn open(state: &GroupState, index: usize) -> InUse {
    state.set().levels[0].peers[index].open()
}

fn assert_shares(counts: &[u64], weights: &[i64], within: f64) {
    let (all, sum) = (counts.iter().sum::<u64>() as f64, weights.iter().sum::<i64>() as f64);
    for (count, weight) in counts.iter().zip(weights) {
        let share = all * *weight as f64 / sum;
        let off = (*count as f64 - share).abs();
        assert!(off <= share * within, "{counts:?} for {weights:?}: {count} instead of {share}");
    }
}

const WEIGHTS: [i64; 8] = [1, 2, 3, 4, 5, 10, 25, 50];

#[test]
fn four_workers_at_once_keep_exact_shares_of_100_000_requests() {
    let counts = std::thread::scope(|scope| {
        let work = || {
            let state = worker("properties.shares", &WEIGHTS, Method::RoundRobin, true);
            let mut counts = [0u64; WEIGHTS.len()];
            (0..25_000).for_each(|_| counts[pick(&state, "")] += 1);
            counts
        };
        let workers = [(); 4].map(|()| scope.spawn(work));
        let counts = workers.map(|worker| worker.join().expect("it counts"));
        (0..WEIGHTS.len()).map(|index| counts.iter().map(|counts| counts[index]).sum()).collect::<Vec<u64>>()
    });
    assert_eq!(counts.iter().sum::<u64>(), 100_000);
    assert_shares(&counts, &WEIGHTS, 0.01);
}

/// The index that one request is given by a round, as while something is against a peer.
fn round(state: &GroupState) -> usize {
    let set = state.set();
    let tried = Tried::new(WEIGHTS.len());
    let eligible = Eligible::new(&set.levels[0], &tried, 0);
    round_robin::among(&eligible, eligible.usable().iter()).expect("a peer")
}

#[test]
fn a_worker_that_dies_in_the_middle_of_a_choice_distorts_one_round() {
    let [state, other] = [(), ()].map(|()| worker("properties.death", &WEIGHTS, Method::RoundRobin, true));
    let set = state.set();
    let loads = &set.levels[0].loads;
    // It has given the first peers their share, or all of them, and never pays.
    for given in (1..=WEIGHTS.len()).cycle().take(20) {
        loads.iter().take(given).for_each(|load| _ = load.weigh(loads.bound()));
        let mut counts = [0u64; WEIGHTS.len()];
        (0..10_000).for_each(|_| counts[round(&other)] += 1);
        assert_shares(&counts, &WEIGHTS, 0.02);
    }
    // A thousand deaths have raised all weights together.
    (0..5000).for_each(|_| loads.iter().for_each(|load| _ = load.weigh(loads.bound())));
    let mut counts = [0u64; WEIGHTS.len()];
    (0..10_000).for_each(|_| counts[round(&other)] += 1);
    assert_shares(&counts, &WEIGHTS, 0.02);
}

#[test]
fn while_a_peer_is_out_the_others_keep_their_shares_in_all_workers() {
    let workers = [(), ()].map(|()| worker("properties.out", &WEIGHTS, Method::RoundRobin, true));
    let count = |requests: usize| {
        let mut counts = [0u64; WEIGHTS.len()];
        (0..requests).for_each(|request| counts[pick(&workers[request % 2], "")] += 1);
        counts
    };
    count(137);
    let place = workers[0].set().levels[0].peers[6].shared.place.expect("room");
    place.set_orders(Orders { down: true, drain: false });
    let without = WEIGHTS.map(|weight| if weight == 25 { 0 } else { weight });
    let counts = count(7500);
    assert_eq!(counts[6], 0);
    assert_shares(&counts, &without, 0.02);
    place.set_orders(Orders::default());
    count(WEIGHTS.iter().sum::<i64>() as usize);
    assert_shares(&count(10_000), &WEIGHTS, 0.01);
}

#[test]
fn hostile_weights_do_not_last() {
    let state = worker("properties.hostile", &WEIGHTS, Method::RoundRobin, true);
    for hostile in [i64::MAX, i64::MIN, i64::MAX / 2, 1 << 40, -(1 << 40)] {
        for peer in &state.set().levels[0].peers[..3] {
            peer.shared.place.expect("room").set_weight(Word::CurrentWeight, hostile);
            peer.shared.place.expect("room").set_number(Word::LostWeight, hostile.cast_unsigned());
        }
        (0..1000).for_each(|_| _ = pick(&state, ""));
        let mut counts = [0u64; WEIGHTS.len()];
        (0..10_000).for_each(|_| counts[pick(&state, "")] += 1);
        assert_shares(&counts, &WEIGHTS, 0.02);
    }
}

/// A closed loop: `held` requests are always in progress; one at random ends, and its client sends the next one
/// to the same worker. Returns the largest difference between the connections of two peers after the start.
fn spread(workers: &[GroupState], held: usize, steps: usize) -> i64 {
    let mut seed = 1u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    let mut requests: Vec<(&GroupState, InUse)> = Vec::new();
    let mut widest = 0;
    for step in 0..steps {
        let state = if requests.len() == held {
            requests.swap_remove(random(held)).0
        } else {
            &workers[step % workers.len()]
        };
        requests.push((state, open(state, pick(state, ""))));
        if step > held * 4 {
            let conns: Vec<i64> = state.set().all().map(|peer| peer.conns()).collect();
            widest = widest.max(conns.iter().max().unwrap() - conns.iter().min().unwrap());
        }
    }
    widest
}

#[test]
fn least_conn_and_random_two_keep_equal_peers_within_two_connections() {
    for (count, held) in [(2, 16), (4, 16), (4, 64), (10, 40), (10, 160), (100, 64), (100, 1600)] {
        for method in [Method::LeastConn, Method::Random { two: Some(By::Conns) }] {
            let alone = [worker("properties.alone", &vec![1; count], method, false)];
            let widest = spread(&alone, held, 4000 + held * 8);
            assert!(widest <= 2, "{method:?}, {held} requests over {count} peers: {widest}");
        }
    }
}

#[test]
fn workers_with_a_zone_keep_equal_peers_within_two_connections() {
    for (count, held) in [(2, 16), (4, 64), (10, 40), (10, 160)] {
        for method in [Method::LeastConn, Method::Random { two: Some(By::Conns) }] {
            let name = format!("properties.zone.{count}.{held}.{}", method == Method::LeastConn);
            let workers: Vec<GroupState> =
                (0..4).map(|_| worker(&name, &vec![1; count], method, true)).collect();
            let widest = spread(&workers, held, 4000 + held * 8);
            assert!(widest <= 2, "{method:?}, {held} requests over {count} peers: {widest}");
        }
    }
}

#[test]
fn every_balancer_gives_idle_peers_their_weights() {
    for method in [
        Method::RoundRobin,
        Method::LeastConn,
        Method::LeastTime { time: Time::Header, inflight: false },
        Method::LeastTime { time: Time::LastByte, inflight: true },
        Method::LeastTime { time: Time::Ewma, inflight: false },
        Method::Random { two: None },
    ] {
        let state = worker("properties.idle", &WEIGHTS, method, false);
        let mut counts = [0u64; WEIGHTS.len()];
        (0..100_000).for_each(|_| counts[pick(&state, "")] += 1);
        let exact = [Method::RoundRobin, Method::LeastConn].contains(&method);
        if exact || matches!(method, Method::Random { .. }) {
            assert_shares(&counts, &WEIGHTS, if exact { 0.0 } else { 0.2 });
        }
    }
}

#[test]
fn every_balancer_heeds_what_an_agent_says_of_the_weight() {
    for (index, method) in [
        Method::RoundRobin,
        Method::LeastConn,
        Method::LeastTime { time: Time::Header, inflight: false },
        Method::Random { two: None },
        Method::Random { two: Some(By::Conns) },
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("properties.agent.{index}");
        let mut group =
            Group::with(("", &name), vec![server(0, 1), server(1, 1)], method, Keepalive::default(), true);
        group.has_agent = true;
        let state = GroupState::new(Arc::new(group));
        let place = state.set().levels[0].peers[0].shared.place.expect("room");
        place.set_advice(Advice { percent: 25, ..Advice::default() });
        let held: Vec<(usize, InUse)> =
            (0..500).map(|_| pick(&state, "")).map(|index| (index, open(&state, index))).collect();
        let first = held.iter().filter(|(index, _)| *index == 0).count();
        assert!((70..=130).contains(&first), "{method:?}: {first} of 500 instead of 100");
    }
}

#[test]
fn loops_over_plain_numbers_choose_what_the_general_ones_do() {
    let weights: Vec<i64> = (0..100).map(|index| 1 + index % 7).collect();
    for method in [Method::RoundRobin, Method::LeastConn] {
        let [plain, general] = [(), ()].map(|()| worker("properties.plain", &weights, method, false));
        let (set, tried) = (general.set(), Tried::new(weights.len()));
        let mut held: Vec<[InUse; 2]> = Vec::new();
        for step in 0..5_000 {
            let eligible = Eligible::new(&set.levels[0], &tried, 0);
            let expected = match method {
                Method::LeastConn => {
                    least_conn::least(&eligible, eligible.usable().iter(), |load| load.conns())
                }
                _ => round_robin::among(&eligible, eligible.usable().iter()),
            };
            let index = pick(&plain, "");
            assert_eq!(Some(index), expected, "{method:?}, step {step}");
            held.push([&plain, &general].map(|state| open(state, index)));
            if held.len() > step % 150 {
                held.swap_remove(step * 31 % held.len());
            }
        }
    }
}

#[test]
fn keys_of_a_peer_that_goes_are_all_that_move() {
    let count = 20;
    let names = vec![1; count];
    let method = Method::Consistent { bounded_x1000: 0 };
    let state = worker("properties.ring", &names, method, false);
    let keys: Vec<String> = (0..20_000).map(|number| format!("/item/{number}")).collect();
    let before: Vec<usize> = keys.iter().map(|key| pick(&state, key)).collect();
    for gone in 0..count {
        let servers = (0..count).filter(|index| *index != gone).map(|index| server(index, 1)).collect();
        let group = Group::with(("", "properties.ring"), servers, method, Keepalive::default(), false);
        let without = GroupState::new(Arc::new(group));
        let peers: Vec<Rc<_>> = without.set().all().cloned().collect();
        let all: Vec<Rc<_>> = state.set().all().cloned().collect();
        let moved = keys.iter().zip(&before).filter(|(key, index)| {
            let moved = peers[pick(&without, key)].name != all[**index].name;
            assert!(!moved || **index == gone, "{key} moves from a peer that stays");
            moved
        });
        let moved = moved.count();
        assert!(moved * count * 2 <= keys.len() * 3, "{moved} of {} keys move", keys.len());
    }
}
