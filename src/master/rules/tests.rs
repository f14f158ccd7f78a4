//! The rules for the messages of workers, each with a message that breaks it.

use super::*;
use crate::net::acme::challenges::Challenge;
use crate::net::handover::{Handover, MovedSession, MovedTunnel, TlsState, TunnelOf, TunnelState};
use crate::shared::control::{Order, Sendable};
use crate::worker::messages::Learned;

const STATES: [State; 4] = [State::Starting, State::Ready, State::Draining, State::Quitting];

fn facts() -> Facts {
    let followed = HashSet::from([(0, 1), (3, 0)]);
    Facts {
        listen_count: 2,
        connections_max: 10,
        followed,
        allowed: Allowed::Changes,
        asked_names: HashSet::from(["a.test".into()]),
    }
}

fn hand_over(listen: u32) -> ToMaster {
    let (requests, idle_ms_left, opened_ms_ago, number) = (1, 2, 3, 4);
    ToMaster::HandOver(Handover {
        listen,
        requests,
        idle_ms_left,
        opened_ms_ago,
        number,
        proxy: Box::default(),
        tls: TlsState::default(),
    })
}

fn tunnel(listen: u32, state: &[u8]) -> ToMaster {
    let state = TunnelState(zeroize::Zeroizing::new(state.to_vec()));
    ToMaster::HandOverTunnel(MovedTunnel { listen, of: TunnelOf::Stream, state })
}

fn learned(group: u32, server: u32) -> ToMaster {
    ToMaster::Learned(Learned { group, server, spots: Vec::new() })
}

fn session(listen: u32) -> ToMaster {
    let client = ([192, 0, 2, 1], 53).into();
    ToMaster::HandOverSession(MovedSession { listen, client, state: TunnelState::default() })
}

fn challenge(kind: challenges::Kind, name: &str, answer: &str) -> ToMaster {
    ToMaster::Challenge(Challenge { kind, name: name.into(), answer: answer.as_bytes().into() })
}

fn all() -> [ToMaster; 11] {
    [
        ToMaster::Ready,
        hand_over(0),
        tunnel(NO_LISTENER, b"state"),
        tunnel(1, b""),
        session(0),
        ToMaster::Replace,
        ToMaster::Pong(7),
        ToMaster::Closed,
        learned(0, 1),
        ToMaster::Order(3, Sendable::new(Order::Processes).expect("short")),
        challenge(challenges::Kind::Tls, "a.test", "answer"),
    ]
}

fn with(bytes: &[u8], fd_count: usize) -> Received<'_> {
    Received { bytes, fd_count, is_cut: false, has_lost_fds: false }
}

/// Judges one message of a worker with a new ledger.
fn judge(state: State, message: &ToMaster, fds: usize) -> Result<Option<ToMaster>, Fault> {
    judge_of(Role::Worker, state, message, fds)
}

fn judge_of(role: Role, state: State, message: &ToMaster, fds: usize) -> Result<Option<ToMaster>, Fault> {
    let mut ledger = Ledger::default();
    ledger.ask(7);
    ledger.judge(role, state, &facts(), with(&message.to_bytes(1), fds), 0)
}

#[test]
fn each_message_in_each_state() {
    // For a worker, the prober, the cache manager, the controller and the keeper of certificates: Starting, Ready,
    // Draining, Quitting; `-`: not allowed; a digit: the number of descriptors that come with it.
    let table = [
        (Kind::Ready, "0-00", "0-00", "0-00", "0-00"),
        (Kind::HandOver, "--1-", "----", "----", "----"),
        (Kind::Tunnel, "--2-", "----", "----", "----"),
        (Kind::LargeTunnel, "--3-", "----", "----", "----"),
        (Kind::Session, "--1-", "----", "----", "----"),
        (Kind::Replace, "-000", "-000", "-000", "-000"),
        (Kind::Pong, "-000", "-000", "-000", "-000"),
        (Kind::Closed, "--00", "----", "----", "--00"),
        (Kind::Learned, "----", "-000", "----", "----"),
        (Kind::Order, "-000", "----", "----", "-000"),
        (Kind::Challenge, "----", "----", "----", "----"),
    ];
    let of_keeper = |kind: Kind| match kind {
        Kind::Ready => "0-00",
        Kind::Replace | Kind::Pong | Kind::Challenge => "-000",
        _ => "----",
    };
    for ((kind, of_worker, of_prober, of_manager, of_controller), message) in table.iter().zip(all()) {
        assert_eq!(Kind::of(&message), *kind);
        let rows = [
            (Role::Worker, of_worker),
            (Role::Prober, of_prober),
            (Role::CacheManager, of_manager),
            (Role::Controller, of_controller),
            (Role::Keeper, &of_keeper(*kind)),
        ];
        for (role, row) in rows {
            for (state, cell) in STATES.into_iter().zip(row.chars()) {
                for fds in [0, 1, 2, 3, 253] {
                    let expected = match cell.to_digit(10) {
                        None => Err(Fault::NotNow(role, *kind, state)),
                        Some(wanted) if wanted as usize == fds => Ok(Some(message.clone())),
                        Some(wanted) => Err(Fault::Descriptors(*kind, wanted as usize, fds)),
                    };
                    let judged = judge_of(role, state, &message, fds);
                    assert_eq!(judged, expected, "{role:?} {kind:?} {state:?} {fds}");
                }
            }
        }
    }
}

#[test]
fn a_challenge_is_what_an_authority_asks_for_a_name_of_ours() {
    use challenges::Kind::{Http, Tls};
    let judge = |message: &ToMaster| judge_of(Role::Keeper, State::Ready, message, 0).map(|_| ());
    let good = format!("token.{}", "x".repeat(43));
    for (message, is_one) in [
        (challenge(Http, "token", &good), true),
        (challenge(Http, "token", ""), true),
        (challenge(Http, "", ""), true),
        (challenge(Http, "token", "<script>"), false),
        (challenge(Tls, "a.test", "answer"), true),
        (challenge(Tls, "b.test", "answer"), false),
        (challenge(Tls, "b.test", ""), true),
    ] {
        assert_eq!(judge(&message), if is_one { Ok(()) } else { Err(Fault::NoChallenge) }, "{message:?}");
    }
    let mut ledger = Ledger::default();
    let mut tell = |number: u64, now_ms| {
        let bytes = challenge(Http, "token", &good).to_bytes(number as u32);
        ledger.judge(Role::Keeper, State::Ready, &facts(), with(&bytes, 0), now_ms).map(|_| ())
    };
    for number in 1..=CHALLENGES_SPARE {
        assert_eq!(tell(number, 0), Ok(()));
    }
    assert_eq!(tell(CHALLENGES_SPARE + 1, 5), Ok(()), "one in five milliseconds");
    assert_eq!(tell(CHALLENGES_SPARE + 2, 6), Err(Fault::TooOften(Kind::Challenge)));
}

#[test]
fn what_may_be_said_once_is_said_once_in_a_life() {
    for (message, first, second) in [
        (ToMaster::Ready, State::Starting, State::Draining),
        (ToMaster::Replace, State::Ready, State::Draining),
        (ToMaster::Closed, State::Draining, State::Quitting),
    ] {
        let mut ledger = Ledger::default();
        assert!(ledger.judge(Role::Worker, first, &facts(), with(&message.to_bytes(1), 0), 0).is_ok());
        let again = ledger.judge(Role::Worker, second, &facts(), with(&message.to_bytes(2), 0), u64::MAX);
        assert_eq!(again, Err(Fault::TooOften(Kind::of(&message))));
    }
}

#[test]
fn a_pong_answers_one_ping() {
    let pong = |ledger: &mut Ledger, number, ping| {
        ledger.judge(Role::Worker, State::Ready, &facts(), with(&ToMaster::Pong(ping).to_bytes(number), 0), 0)
    };
    let mut ledger = Ledger::default();
    assert_eq!(pong(&mut ledger, 1, 0), Err(Fault::NotAsked));
    ledger.ask(5);
    assert_eq!(pong(&mut ledger, 2, 5), Ok(Some(ToMaster::Pong(5))));
    assert_eq!(pong(&mut ledger, 3, 5), Err(Fault::NotAsked), "it was answered");
    ledger.ask(6);
    assert_eq!(pong(&mut ledger, 4, 5), Err(Fault::NotAsked), "the answer to another one");
}

#[test]
fn connections_are_as_many_as_it_may_hold() {
    let mut ledger = Ledger::default();
    let most = facts().connections_max + HANDED_OVER_SPARE;
    let mut next = |number: u64| {
        let bytes = hand_over(1).to_bytes(number as u32);
        ledger.judge(Role::Worker, State::Draining, &facts(), with(&bytes, 1), 0)
    };
    assert!((1..=most).all(|number| next(number).is_ok()));
    assert_eq!(next(most + 1), Err(Fault::TooOften(Kind::HandOver)));
}

#[test]
fn names_are_told_once_a_second_each() {
    let mut ledger = Ledger::default();
    let mut number = 0;
    let mut tell = |now_ms| {
        number += 1;
        ledger.judge(Role::Prober, State::Ready, &facts(), with(&learned(3, 0).to_bytes(number), 0), now_ms)
    };
    let burst = 2 * facts().followed.len() as u64 + LEARNED_SPARE;
    assert!((0..burst).all(|_| tell(1000).is_ok()), "after the master was busy for a while");
    assert_eq!(tell(1499), Err(Fault::TooOften(Kind::Learned)));
    for second in 2..1000 {
        assert!(tell(second * 1000).is_ok() && tell(second * 1000).is_ok(), "two names, each once a second");
    }
    assert_eq!(tell(999_499), Err(Fault::TooOften(Kind::Learned)), "a clock that goes back gives nothing");
}

#[test]
fn indexes_are_those_of_its_configuration() {
    assert_eq!(judge(State::Draining, &hand_over(2), 1), Err(Fault::UnknownListener(2)));
    assert_eq!(judge(State::Draining, &hand_over(u32::MAX), 1), Err(Fault::UnknownListener(u32::MAX)));
    assert_eq!(judge(State::Draining, &tunnel(2, b""), 3), Err(Fault::UnknownListener(2)));
    assert_eq!(judge(State::Draining, &tunnel(2, b"x"), 2), Err(Fault::UnknownListener(2)));
    for (group, server) in [(0, 0), (1, 1), (u32::MAX, u32::MAX)] {
        assert_eq!(
            judge_of(Role::Prober, State::Ready, &learned(group, server), 0),
            Err(Fault::UnknownServer(group, server))
        );
    }
}

#[test]
fn a_worker_gives_the_orders_that_its_configuration_allows() {
    let judge = |allowed, order| {
        let facts = Facts { allowed, ..facts() };
        let message = ToMaster::Order(1, Sendable::new(order).expect("short"));
        Ledger::default().judge(Role::Worker, State::Ready, &facts, with(&message.to_bytes(1), 0), 0)
    };
    for allowed in [Allowed::Processes, Allowed::Changes] {
        assert!(matches!(judge(allowed, Order::Processes), Ok(Some(_))), "{allowed:?}");
    }
    assert!(matches!(judge(Allowed::Changes, Order::Connections), Ok(Some(_))));
    let refused = judge(Allowed::Nothing, Order::Processes);
    assert_eq!(refused, Err(Fault::NotEntitled(Allowed::Processes)));
    for allowed in [Allowed::Nothing, Allowed::Processes] {
        let refused = judge(allowed, Order::Connections);
        assert_eq!(refused, Err(Fault::NotEntitled(Allowed::Changes)), "{allowed:?}");
    }
}

#[test]
fn messages_come_in_their_order() {
    let mut ledger = Ledger::default();
    let mut come = |state, message: ToMaster, number| {
        ledger.judge(Role::Prober, state, &facts(), with(&message.to_bytes(number), 0), 0).map(drop)
    };
    assert_eq!(come(State::Starting, ToMaster::Ready, 1), Ok(()));
    assert_eq!(come(State::Ready, learned(0, 1), 2), Ok(()));
    assert_eq!(come(State::Ready, learned(0, 1), 2), Err(Fault::Sequence(3, 2)), "somebody else writes too");
    assert_eq!(come(State::Ready, learned(0, 1), 4), Err(Fault::Sequence(3, 4)));
}

#[test]
fn what_is_no_message_breaks_a_rule() {
    let mut ledger = Ledger::default();
    let mut come = |received| ledger.judge(Role::Worker, State::Draining, &facts(), received, 0);
    assert_eq!(come(with(b"", 0)), Err(Fault::Ended));
    assert_eq!(come(with(b"", 3)), Err(Fault::Ended));
    assert_eq!(come(with(b"I", 0)), Err(Fault::Malformed));
    let bytes = hand_over(0).to_bytes(1);
    assert_eq!(come(with(&bytes[..bytes.len() / 2], 1)), Err(Fault::Malformed));
    assert_eq!(come(Received { is_cut: true, ..with(&bytes, 1) }), Err(Fault::TooLong));
}

#[test]
fn a_connection_that_the_master_had_no_room_for_is_nobody_s_fault() {
    let bytes = hand_over(0).to_bytes(1);
    let lost = Received { has_lost_fds: true, ..with(&bytes, 0) };
    assert_eq!(Ledger::default().judge(Role::Worker, State::Draining, &facts(), lost, 0), Ok(None));
    let many = Received { has_lost_fds: true, ..with(&bytes, 2) };
    let fault = Fault::Descriptors(Kind::HandOver, 1, 2);
    assert_eq!(Ledger::default().judge(Role::Worker, State::Draining, &facts(), many, 0), Err(fault));
    let elsewhere = Received { has_lost_fds: true, ..with(&bytes, 0) };
    let fault = Fault::NotNow(Role::Worker, Kind::HandOver, State::Ready);
    assert_eq!(Ledger::default().judge(Role::Worker, State::Ready, &facts(), elsewhere, 0), Err(fault));
}

#[test]
fn any_bytes_and_descriptors_leave_nothing() {
    for message in all() {
        (0..4).for_each(|fds| property::leaves_nothing(&[&[fds], &message.to_bytes(1)[..]].concat()));
    }
    proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64), fds in proptest::prelude::any::<u8>())| {
        property::leaves_nothing(&[&[fds], &bytes[..]].concat());
    });
}
