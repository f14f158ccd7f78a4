//! The cache and the combination of answers; misbehaving servers are in `tests/upstream/resolver.rs`.

use super::*;
use crate::runtime::Runtime;

fn resolver(valid_ms: Option<u64>) -> Rc<Resolver> {
    let servers = vec!["127.0.0.1:9".parse().unwrap()];
    Rc::new(Resolver::new(Arc::new(Settings { servers, valid_ms, ipv4: true, ipv6: true, counts: None })))
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn addresses(texts: &[&str]) -> Answer {
    Answer::Addresses { list: texts.iter().map(|text| text.parse().unwrap()).collect(), ttl_s: 60 }
}

fn alias() -> Answer {
    Answer::Alias { name: name("other.test"), ttl_s: 60 }
}

fn failed(code: Code, ttl_s: Option<u32>) -> Answer {
    Answer::Failed { code, ttl_s }
}

fn combined(answers: &[Answer]) -> String {
    match combine(answers.iter().cloned()) {
        Ok(Step::Done(Value::Addresses(list), ttl_s)) => format!("{list:?} {ttl_s}"),
        Ok(Step::Done(Value::Services(list), ttl_s)) => format!("{} services {ttl_s}", list.len()),
        Ok(Step::Done(Value::Hosts(list), ttl_s)) => format!("{} hosts {ttl_s}", list.len()),
        Ok(Step::Done(Value::Failed(failure), ttl_s)) => format!("{failure} {ttl_s}"),
        Ok(Step::Alias(name, ttl_s)) => format!("alias {name} {ttl_s}"),
        Err(failure) => failure.to_string(),
    }
}

#[test]
fn two_kinds_of_answers_mean_what_they_mean_in_nginx() {
    let nothing = failed(Code::NotFound, None);
    let one = addresses(&["10.0.0.1"]);
    assert_eq!(combined(&[one.clone(), addresses(&["::1"])]), "[10.0.0.1, ::1] 60");
    assert_eq!(combined(&[one.clone(), nothing.clone()]), "[10.0.0.1] 60");
    assert_eq!(combined(&[one.clone(), alias()]), "[10.0.0.1] 60");
    assert_eq!(combined(&[one.clone(), failed(Code::Server, None)]), "(2: Server failure)");
    assert_eq!(combined(&[nothing.clone(), alias()]), "alias other.test 60");
    assert_eq!(combined(&[nothing.clone(), nothing.clone()]), "(3: Host not found) 0");
    let long = failed(Code::NotFound, Some(900));
    assert_eq!(combined(&[long.clone(), failed(Code::NotFound, Some(30))]), "(3: Host not found) 30");
    assert_eq!(combined(&[long.clone(), long.clone()]), "(3: Host not found) 60");
    assert_eq!(combined(&[long, nothing]), "(3: Host not found) 0");
}

#[test]
fn families_stay_apart_when_addresses_are_shuffled() {
    let list: Vec<IpAddr> =
        ["::1", "10.0.0.1", "10.0.0.2", "::2"].iter().map(|text| text.parse().unwrap()).collect();
    let mut firsts = std::collections::HashSet::new();
    for _ in 0..100 {
        let shuffled = shuffled(&list);
        assert!(shuffled[..2].iter().all(IpAddr::is_ipv4) && shuffled[2..].iter().all(IpAddr::is_ipv6));
        firsts.insert(shuffled[0]);
    }
    assert_eq!(firsts.len(), 2, "each address comes first sometimes");
}

#[test]
fn a_name_holds_as_long_as_the_shortest_part_of_its_way() {
    Runtime::new().unwrap().block_on(async {
        let resolver = resolver(None);
        let now_ms = runtime::now_ms();
        let way = vec![(name("a"), now_ms + 9_000), (name("b"), now_ms + 500), (name("c"), now_ms + 7_000)];
        resolver.store(way, Sought::Addresses, Value::Addresses(Rc::new([])), now_ms + 7_000);
        let expires =
            |text| resolver.cached(&(name(text), Sought::Addresses)).map(|(_, at_ms)| at_ms - now_ms);
        assert_eq!((expires("a"), expires("b"), expires("c")), (Some(500), Some(500), Some(7_000)));
        assert!(resolver.cached(&(name("a"), Sought::Services)).is_none(), "a service is another matter");
    });
}

#[test]
fn valid_replaces_the_time_of_what_was_found_only() {
    Runtime::new().unwrap().block_on(async {
        let now_ms = runtime::now_ms();
        let own = resolver(None);
        assert_eq!(own.expiry_ms(60, true), now_ms + 60_000);
        assert_eq!(own.expiry_ms(u32::MAX, true), now_ms + 86_400_000);
        let valid = resolver(Some(5_000));
        assert_eq!(
            (valid.expiry_ms(60, true), valid.expiry_ms(60, false)),
            (now_ms + 5_000, now_ms + 60_000)
        );
    });
}

#[test]
fn the_cache_does_not_grow_over_its_bound() {
    Runtime::new().unwrap().block_on(async {
        let resolver = resolver(None);
        let now_ms = runtime::now_ms();
        for number in 0..2 * CACHE_MAX as u64 {
            let way = vec![(name(&format!("n{number}")), now_ms + 1_000 + number)];
            resolver.store(way, Sought::Addresses, Value::Addresses(Rc::new([])), u64::MAX);
            assert!(resolver.state.borrow().cache.len() <= CACHE_MAX);
        }
        let last = name(&format!("n{}", 2 * CACHE_MAX - 1));
        assert!(resolver.cached(&(last, Sought::Addresses)).is_some(), "what holds longest stays");
    });
}

#[test]
fn what_is_no_name_is_not_asked_for() {
    Runtime::new().unwrap().block_on(async {
        for text in ["", "a..b", &"a".repeat(64)] {
            assert_eq!(resolver(None).addresses(text, 1000).await.err(), Some(Failure::BadName), "{text:?}");
        }
    });
}

#[test]
fn a_directive_has_one_resolver_and_equal_ones_are_two() {
    let settings =
        || Arc::new(Settings { servers: Vec::new(), valid_ms: None, ipv4: true, ipv6: false, counts: None });
    let (first, second) = (settings(), settings());
    let resolvers = Resolvers::default();
    assert!(Rc::ptr_eq(&resolvers.get(&first), &resolvers.get(&Arc::clone(&first))));
    assert!(!Rc::ptr_eq(&resolvers.get(&first), &resolvers.get(&second)));
    drop(first);
    let third = settings();
    assert!(Arc::strong_count(&third) == 1 && resolvers.get(&third).settings == second);
    assert_eq!(resolvers.by_settings.borrow().len(), 3, "none takes the place of one that is gone");
}
