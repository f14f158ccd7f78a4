//! The engines for a scope that is no request: the rows and verdicts that a language part adds are a line or two here.

use std::path::Path;

use crate::config::Node;
use crate::script::toy::{Cx, Session};
use crate::shared::Environment;
use crate::shared::access::{Decision, Rules};
use crate::shared::log_format::{Format, Formats};
use crate::shared::realip::Trusted;
use crate::shared::{limit_conn, limit_req, resolver};
use crate::shm::held_counts::Held;
use crate::sys::address::SockAddr;
use crate::sys::names::Names;

impl Environment for Cx {
    const BLOCK: &'static str = "toy";

    fn prefix(&self) -> &Path {
        Path::new("/prefix")
    }

    fn names(&self) -> &Names {
        Cx::names(self)
    }

    fn is_test(&self) -> bool {
        self.is_test
    }

    fn status_zones(&mut self) -> &mut crate::shared::status_zone::Zones {
        Box::leak(Box::default())
    }
}

/// What an access handler of another protocol is: a few lines.
fn verdict(rules: &Rules, session: &Session) -> u16 {
    match rules.decide(session) {
        Decision::Undecided | Decision::Allowed => 200,
        Decision::Denied(rule) => {
            super::access::log_denied(session, rule);
            403
        }
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let read = |text: &str, peer: &str| {
        let (mut cx, mut rules) = (Cx::default(), Rules::default());
        for node in cx.read(text) {
            let added = rules.add(&*node.name.text == "allow", &node, &mut cx);
            added.unwrap_or_else(|error| cx.diagnostics.push(error));
        }
        let (session, found) = cx.finish(peer);
        (verdict(&rules, &session), found)
    };
    let rules = "deny 10.0.0.1; allow 10.0.0.0/8; allow unix:; deny all;";
    for (peer, expected) in [
        ("10.0.0.1:5", 403),
        ("[::ffff:10.0.0.1]:5", 403),
        ("10.0.0.2:5", 200),
        ("unix:", 200),
        ("[2001:db8::1]:5", 403),
    ] {
        assert_eq!(read(rules, peer), (expected, vec![]), "{peer}");
    }
    assert_eq!(read("", "10.0.0.1:5").0, 200);
    let (_, found) = read("allow nowhere; deny 10.0.0.1/8;", "unix:");
    assert_eq!(
        found,
        ["error: invalid parameter \"nowhere\"", "warning: low address bits of 10.0.0.1/8 are meaningless"]
    );
}

#[test]
fn a_line_has_values_escaped_and_text_not() {
    let render = |config: &str| {
        let mut cx = Cx::default();
        let node = cx.read(config).remove(0);
        let format = Format::read(&node, &mut cx);
        let (mut session, _) = cx.finish("192.0.2.1:5");
        session.bytes = b"a\"b\n".to_vec();
        let mut line = Vec::new();
        format.map_err(|error| error.message)?.render(&mut session, &mut line);
        Ok::<_, String>(String::from_utf8(line).expect("text"))
    };
    assert_eq!(
        render(r#"log_format x '"$remote_addr"' ' $bytes';"#).as_deref(),
        Ok("\"192.0.2.1\" a\\x22b\\x0A")
    );
    assert_eq!(render("log_format x escape=json '$bytes';").as_deref(), Ok("a\\\"b\\n"));
    assert_eq!(render("log_format x escape=none '$bytes';").as_deref(), Ok("a\"b\n"));
    assert_eq!(render("log_format x '<$twice_>';").as_deref(), Ok("<->"), "what has no value is a dash");
    assert_eq!(render("log_format x escape=odd a;"), Err("unknown log format escaping \"odd\"".into()));
    assert!(render("log_format x 'a$';").is_err());
}

#[test]
fn formats_have_names() {
    let mut cx = Cx::default();
    let nodes = cx.read("log_format main '$protocol'; log_format own x;");
    let mut formats: Formats<Session> = Formats::default();
    formats.insert("main", Format::read(&nodes[0], &mut cx).expect("a format"));
    assert!(formats.refuse_known(&nodes[0], &[]).is_err(), "twice");
    assert!(formats.refuse_known(&nodes[1], &["own"]).is_err(), "the part's own");
    assert!(formats.refuse_known(&nodes[1], &[]).is_ok());
    let help =
        |name: &str| formats.find(name, Default::default()).expect_err("unknown").help.unwrap_or_default();
    assert!(formats.find("main", Default::default()).is_ok());
    assert_eq!(help("mian"), "did you mean \"main\"?");
    assert!(help("other").contains("declare it"));
}

/// Limits and zones of a configuration, and a session that they are asked about.
struct Limited {
    rate: limit_req::Limits,
    rates: limit_req::Table<Session>,
    hold: limit_conn::Limits,
    holds: limit_conn::Table<Session>,
    session: Session,
    found: Vec<String>,
}

fn limited(text: &str, is_test: bool) -> Limited {
    let mut cx = Cx::default();
    cx.is_test = is_test;
    let (mut rates, mut holds) = (limit_req::Zones::default(), limit_conn::Zones::default());
    let (mut rate, mut hold) = (limit_req::Limits::default(), limit_conn::Limits::default());
    for node in cx.read(text) {
        let done = match &*node.name.text {
            "limit_req_zone" => {
                limit_req::read_zone(&node, &mut cx).and_then(|zone| rates.declare(zone, &node))
            }
            "limit_conn_zone" => {
                limit_conn::read_zone(&node, &mut cx).and_then(|zone| holds.declare(zone, &node))
            }
            "limit_req" => rate.add(&node, &mut rates),
            _ => hold.add(&node, &mut holds),
        };
        done.unwrap_or_else(|error| cx.diagnostics.push(error));
    }
    let rates = rates.open("limit_req", &mut cx, crate::shm::leaky_bucket::Table::open);
    let holds = holds.open("limit_conn", &mut cx, crate::shm::held_counts::Holders::open);
    let (session, found) = cx.finish("192.0.2.1:5");
    Limited { rate, rates, hold, holds, session, found }
}

impl Limited {
    fn hold(&mut self) -> Option<(limit_conn::Outcome, Vec<Held>)> {
        self.hold.hold(&mut self.session, &self.holds)
    }

    fn limit(&mut self, now_ms: u64) -> Option<(limit_req::Outcome, u64)> {
        self.rate.limit(&mut self.session, &self.rates, now_ms)
    }
}

#[test]
fn limits_name_zones_in_any_order() {
    let good = "limit_conn c 5; limit_req zone=r burst=3 nodelay; limit_conn_zone $remote_addr zone=c:1m; \
                limit_req_zone $remote_addr zone=r:32k rate=30r/m;";
    let mut tested = limited(good, true);
    assert_eq!(tested.found, Vec::<String>::new());
    assert!(tested.hold().is_none() && tested.limit(0).is_none(), "no memory was opened, so nothing counts");
    for (text, expected) in [
        ("limit_conn c 5;", "error: zero size shared memory zone \"c\""),
        ("limit_req zone=r;", "error: zero size shared memory zone \"r\""),
        ("limit_conn_zone $remote_addr zone=c:1k;", "error: zone \"zone=c:1k\" is too small"),
        ("limit_conn_zone $remote_addr zone=c;", "error: invalid zone size \"zone=c\""),
        ("limit_conn_zone $nothing zone=c:1m;", "error: unknown \"nothing\" variable"),
        ("limit_req_zone $remote_addr rate=5r/s;", "error: \"limit_req_zone\" must have \"zone\" parameter"),
        ("limit_req_zone $remote_addr zone=r:1m rate=5;", ""),
        ("limit_req_zone $remote_addr zone=r:1m rate=x;", "error: invalid rate \"rate=x\""),
        ("limit_conn c 0;", "error: invalid number of connections \"0\""),
        ("limit_conn c 65536;", "error: connection limit must be less 65536"),
    ] {
        assert_eq!(limited(text, true).found.first().map_or("", |found| found), expected, "{text}");
    }
    let twice = "limit_conn_zone $remote_addr zone=c:1m; limit_conn_zone $protocol zone=c:1m;";
    let expected = "error: limit_conn_zone \"c\" is already bound to key \"$remote_addr\"";
    assert_eq!(limited(twice, true).found, [expected]);
}

#[test]
fn what_is_held_is_counted_by_key_until_it_is_dropped() {
    use limit_conn::Outcome;
    let config = "limit_conn_zone $remote_addr zone=toy_held:32k; limit_conn toy_held 1;";
    let mut limited = limited(config, false);
    let (outcome, held) = limited.hold().expect("it counts");
    assert_eq!((outcome, held.len()), (Outcome::Passed, 1));
    assert_eq!(limited.hold().map(|(outcome, held)| (outcome, held.len())), Some((Outcome::Rejected, 0)));
    assert!(limited.hold.dry_run.set(true, Default::default()));
    assert_eq!(limited.hold().map(|(outcome, _)| outcome), Some(Outcome::RejectedDryRun));
    let peer = std::mem::replace(&mut limited.session.peer, SockAddr::Unix("/x".into()));
    assert!(limited.hold().is_none(), "an empty key is not counted");
    limited.session.peer = peer;
    drop(held);
    assert_eq!(limited.hold().map(|(outcome, _)| outcome), Some(Outcome::Passed));
}

#[test]
fn a_rate_passes_then_delays_then_rejects() {
    use limit_req::Outcome;
    let config =
        "limit_req_zone $remote_addr zone=toy_rate:32k rate=1r/s; limit_req zone=toy_rate burst=2 delay=1;";
    let mut limited = limited(config, false);
    assert_eq!(limited.limit(10_000), Some((Outcome::Passed, 0)));
    assert_eq!(limited.limit(10_000), Some((Outcome::Passed, 0)), "delay=1");
    assert_eq!(limited.limit(10_000), Some((Outcome::Delayed, 1000)));
    assert_eq!(limited.limit(10_000), Some((Outcome::Rejected, 0)));
    assert!(limited.rate.dry_run.set(true, Default::default()));
    assert_eq!(limited.limit(10_000), Some((Outcome::RejectedDryRun, 0)));
    assert_eq!(limited.limit(60_000), Some((Outcome::Passed, 0)), "later");
}

#[test]
fn trusted_proxies_and_name_servers_are_read() {
    let mut cx = Cx::default();
    let nodes: Vec<Node> =
        cx.read("set_real_ip_from 10.0.0.0/8; set_real_ip_from unix:; set_real_ip_from a/b;");
    let mut trusted = Trusted::default();
    assert!(trusted.is_empty());
    let read: Vec<bool> = nodes.iter().map(|node| trusted.add(node, &mut cx).is_ok()).collect();
    assert_eq!(read, [true, true, false]);
    assert!(trusted.contains(None) && trusted.contains("10.1.1.1".parse().ok()));
    assert!(!trusted.contains("9.1.1.1".parse().ok()));
    let nodes = cx.read(
        "resolver 127.0.0.53 valid=5s ipv6=off; resolver ipv4=off ipv6=off; resolver valid=5s; resolver x=1;",
    );
    let read: Vec<_> = nodes.iter().map(|node| resolver::read(node, &mut cx)).collect();
    let settings = read[0].as_ref().expect("an address");
    assert_eq!((settings.servers.len(), settings.valid_ms, settings.ipv6), (1, Some(5000), false));
    assert!(read[1..].iter().all(Result::is_err));
}
