//! `resolver`: names from variables, looked up at name servers that lie, fail, are late or send too much.
//!
//! A scripted name server answers; the origin that receives a connection shows which answer was believed.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use crate::support::dns::{A, AAAA, Dns, FORMERR, NXDOMAIN, REFUSED, Reply, SERVFAIL, SOA, record, wire};
use crate::support::process::fd_count;
use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
http {
    resolver %%RESOLVER%%;
    resolver_timeout 3s;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header X-Upstream $upstream_addr always;
        location / {
            set $name $arg_name;
            proxy_pass http://$name:%%ORIGIN_PORT%%;
        }
    }
}
"#;

fn start(resolver: &str, origin: &Origin) -> Daemon {
    Setup::new(CONF).set("RESOLVER", resolver).set("ORIGIN_PORT", origin.port()).start()
}

fn status(daemon: &Daemon, name: &str) -> u16 {
    get(daemon.port(0), &format!("/?name={name}")).status
}

#[test]
fn a_name_is_asked_for_once_while_its_answer_holds() {
    let origin = Origin::saying("hello");
    let dns = Dns::knowing(&[("www.test", "127.0.0.1")]);
    let daemon = start(&dns.address(), &origin);
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        assert_eq!(client.get("/?name=www.test").text(), "hello");
    }
    assert_eq!(client.get("/?name=WWW.Test.").text(), "hello", "cases and the last dot are one");
    assert_eq!((dns.asked("www.test", A), dns.asked("www.test", AAAA)), (1, 1));
    assert_eq!(origin.accepted(), 2, "the spellings are two hosts, whose connections are kept");
}

#[test]
fn an_answer_holds_as_long_as_it_says_or_as_valid_says() {
    let origin = Origin::saying("hello");
    let script = |query: &crate::support::dns::Query| {
        if query.kind == AAAA {
            return query.reply(&[]);
        }
        let ttl = if query.name == "never.test" { 0 } else { 3600 };
        query.reply(&[query.a(ttl, "127.0.0.1")])
    };
    let dns = Dns::start(script);
    let daemon = start(&dns.address(), &origin);
    for _ in 0..3 {
        assert_eq!(status(&daemon, "never.test"), 200);
    }
    assert_eq!(dns.asked("never.test", A), 3, "no time to live, no memory");
    drop(daemon);
    let daemon = start(&format!("{} valid=1h", dns.address()), &origin);
    for _ in 0..3 {
        assert_eq!(status(&daemon, "never.test"), 200);
    }
    assert_eq!(dns.asked("never.test", A), 4);
}

#[test]
fn requests_for_one_name_share_a_question() {
    let origin = Origin::saying("hello");
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let dns = Dns::start(move |query| {
        if query.kind == A {
            let _ = wait.lock().unwrap().recv();
            return query.reply(&[query.a(60, "127.0.0.1")]);
        }
        query.reply(&[])
    });
    let daemon = start(&format!("{} ipv6=off", dns.address()), &origin);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(daemon.port(0)).into_wire()).collect();
    for client in &mut clients {
        client.send("GET /?name=slow.test HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    dns.wait_asked("slow.test", A, 1);
    drop(clients.remove(0)); // the first requester leaves; the others keep waiting
    go.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(dns.asked("slow.test", A), 1);
}

#[test]
fn forged_answers_are_not_believed() {
    let origin = Origin::saying("true");
    let dns = Dns::start(|query| {
        let records = |ip: &str| if query.kind == A { vec![query.a(60, ip)] } else { Vec::new() };
        let forged = records("127.6.6.6");
        let mut replies = Vec::new();
        let mut other = query.clone();
        other.id = query.id.wrapping_add(1);
        replies.push(Reply::Answer(other.message(0x8180, &forged)));
        let mut other = query.clone();
        other.name = "other.test".to_owned();
        replies.push(Reply::Answer(other.message(0x8180, &forged)));
        replies.push(Reply::FromElsewhere(query.message(0x8180, &forged)));
        replies.push(Reply::Answer(query.message(0x0100, &forged)));
        // a record of an unrelated name next to the right one
        let mut mixed = vec![record("bank.test", A, 60, &[127, 6, 6, 6])];
        mixed.extend(records("127.0.0.1"));
        replies.push(Reply::Answer(query.message(0x8180, &mixed)));
        replies
    });
    let daemon = start(&dns.address(), &origin);
    let response = get(daemon.port(0), "/?name=www.test");
    assert_eq!(response.text(), "true");
    assert_eq!(response.header("X-Upstream"), Some(&*origin.address()));
    assert_eq!(dns.asked("www.test", A), 1, "the true answer was taken at once");
}

#[test]
fn ids_and_ports_are_not_to_be_guessed() {
    let origin = Origin::saying("hello");
    let dns =
        Dns::start(
            |query| {
                if query.kind == A { query.reply(&[query.a(60, "127.0.0.1")]) } else { query.reply(&[]) }
            },
        );
    let daemon = start(&dns.address(), &origin);
    for number in 0..8 {
        assert_eq!(status(&daemon, &format!("n{number}.test")), 200);
    }
    let queries = dns.queries();
    let distinct = |values: Vec<u16>| values.into_iter().collect::<std::collections::HashSet<_>>().len();
    assert!(distinct(queries.iter().map(|query| query.id).collect()) >= 15, "{queries:?}");
    assert!(distinct(queries.iter().map(|query| query.from.port()).collect()) >= 7, "{queries:?}");
    let steps: Vec<u16> = queries.windows(2).map(|two| two[1].id.wrapping_sub(two[0].id)).collect();
    assert!(distinct(steps.clone()) > 10, "ids follow a pattern: {steps:?}");
}

#[test]
fn a_truncated_answer_is_asked_for_by_tcp() {
    let origin = Origin::saying("whole");
    let dns = Dns::start(|query| match (query.kind, query.is_tcp) {
        (A, true) => {
            // far more than a datagram holds, and more than is used
            let mut records: Vec<_> = (0..300).map(|_| query.a(60, "127.0.0.1")).collect();
            records.push(query.a(60, "127.6.6.6"));
            query.reply(&records)
        }
        (A, false) => query.truncate(),
        _ => query.reply(&[]),
    });
    let daemon = start(&dns.address(), &origin);
    assert_eq!(get(daemon.port(0), "/?name=big.test").text(), "whole");
    assert_eq!(dns.asked("big.test", A), 2);
}

#[test]
fn a_server_that_does_not_answer_is_passed_over() {
    let origin = Origin::saying("hello");
    let silent = Dns::start(|_| Vec::new());
    let refusing = Dns::start(|query| query.fail(REFUSED));
    let confused = Dns::start(|query| query.fail(FORMERR));
    let good = Dns::knowing(&[("www.test", "127.0.0.1")]);
    let nobody = crate::support::port::refusing();
    let all = [
        format!("127.0.0.1:{nobody}"),
        refusing.address(),
        confused.address(),
        silent.address(),
        good.address(),
    ];
    let daemon = start(&all.join(" "), &origin);
    assert_eq!(status(&daemon, "www.test"), 200);
    assert!(refusing.queries().len() >= 2 && confused.queries().len() >= 2 && silent.queries().len() >= 2);
    daemon.wait_log("failed \\(111: Connection refused\\) while resolving \"www.test\"");
}

#[test]
fn failures_end_the_request_with_502_and_are_asked_for_again() {
    let origin = Origin::saying("hello");
    let dns = Dns::start(|query| match &*query.name {
        "servfail.test" => query.fail(SERVFAIL),
        "refused.test" => query.fail(REFUSED),
        "empty.test" => query.reply(&[]),
        "short.test" => {
            let mut message = query.message(0x8180, &[query.a(60, "127.0.0.1")]);
            message.truncate(message.len() - 2);
            vec![Reply::Answer(message)]
        }
        "silent.test" => Vec::new(),
        _ => query.fail(NXDOMAIN),
    });
    let daemon = start(&dns.address(), &origin);
    let cases = [
        ("servfail.test", "(2: Server failure)"),
        ("refused.test", "(5: Operation refused)"),
        ("empty.test", "(3: Host not found)"),
        ("none.test", "(3: Host not found)"),
        ("short.test", "(110: Operation timed out)"),
        ("silent.test", "(110: Operation timed out)"),
        ("a..b", "(invalid name)"),
    ];
    for (name, why) in cases {
        assert_eq!(status(&daemon, name), 502, "{name}");
        daemon.wait_log(&regex::escape(&format!("{name} could not be resolved {why}")));
    }
    let before = dns.asked("servfail.test", A);
    assert_eq!(status(&daemon, "servfail.test"), 502);
    assert!(dns.asked("servfail.test", A) > before, "a failure is not remembered");
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn that_a_name_does_not_exist_is_remembered_as_long_as_its_zone_says() {
    let origin = Origin::saying("hello");
    let dns = Dns::start(|query| {
        let fields = [&wire("ns.test")[..], &wire("admin.test"), &[0; 16], &30u32.to_be_bytes()].concat();
        let mut message = query.message(0x8183, &[]);
        message[9] = 1;
        message.extend_from_slice(&record("test", SOA, 900, &fields));
        vec![Reply::Answer(message)]
    });
    let daemon = start(&dns.address(), &origin);
    for _ in 0..3 {
        assert_eq!(status(&daemon, "none.test"), 502);
    }
    assert_eq!(dns.asked("none.test", A), 1);
}

#[test]
fn aliases_are_followed_but_not_in_circles() {
    let origin = Origin::saying("hello");
    let dns = Dns::start(|query| {
        let next = |name: &str| query.reply(&[query.alias(60, name)]);
        match &*query.name {
            "one.test" => next("two.test"),
            "two.test" => next("three.test"),
            "three.test" if query.kind == A => query.reply(&[query.a(60, "127.0.0.1")]),
            "this.test" => next("that.test"),
            "that.test" => next("this.test"),
            "self.test" => next("self.test"),
            name => match name.strip_prefix('n').and_then(|rest| rest.strip_suffix(".test")) {
                Some(number) => next(&format!("n{}.test", number.parse::<u32>().unwrap_or(0) + 1)),
                None => query.reply(&[]),
            },
        }
    });
    let daemon = start(&dns.address(), &origin);
    assert_eq!(status(&daemon, "one.test"), 200);
    assert_eq!(status(&daemon, "two.test"), 200);
    assert_eq!(dns.asked("two.test", A), 1, "what an alias stands for is remembered too");
    for name in ["this.test", "self.test", "n1.test"] {
        assert_eq!(status(&daemon, name), 502, "{name}");
    }
    assert!(dns.queries().len() < 100, "{} questions", dns.queries().len());
}

#[test]
fn families_can_be_left_out() {
    let origin = Origin::saying("hello");
    let dns = Dns::knowing(&[("www.test", "127.0.0.1"), ("www.test", "fe80::1")]);
    let daemon = start(&format!("{} ipv6=off", dns.address()), &origin);
    assert_eq!(status(&daemon, "www.test"), 200);
    assert_eq!((dns.asked("www.test", A), dns.asked("www.test", AAAA)), (1, 0));
}

#[test]
fn an_address_that_refuses_is_not_the_last_and_changes_are_seen() {
    let origin = Origin::saying("hello");
    let turn = Arc::new(AtomicUsize::new(0));
    let theirs = turn.clone();
    let dns = Dns::start(move |query| {
        if query.kind == AAAA {
            return query.reply(&[]);
        }
        match theirs.load(Ordering::SeqCst) {
            0 => query.reply(&[query.a(0, "127.0.0.9"), query.a(0, "127.0.0.1")]),
            _ => query.reply(&[query.a(0, "127.0.0.9")]),
        }
    });
    let daemon = start(&dns.address(), &origin);
    for _ in 0..4 {
        assert_eq!(status(&daemon, "www.test"), 200);
    }
    turn.store(1, Ordering::SeqCst);
    let response = get(daemon.port(0), "/?name=www.test");
    let there = format!("127.0.0.9:{}", origin.port());
    assert_eq!((response.status, response.header("X-Upstream")), (502, Some(&*there)));
}

#[test]
fn mistakes_in_the_directive_are_named() {
    for (line, message) in [
        ("resolver valid=1s;", "no name servers defined"),
        ("resolver 127.0.0.1 ipv4=off ipv6=off;", "\"ipv4\" and \"ipv6\" cannot both be \"off\""),
        ("resolver 127.0.0.1 valid=x;", "invalid parameter \"valid=x\""),
        ("resolver 127.0.0.1 ipv6=maybe;", "invalid parameter \"ipv6=maybe\""),
        ("resolver 127.0.0.1:99999;", "invalid port in resolver \"127.0.0.1:99999\""),
        ("resolver name.invalid;", "host not found in resolver \"name.invalid\""),
        ("resolver unix:/x;", "a unix domain socket in resolver \"unix:/x\""),
        ("resolver 127.0.0.1; resolver 127.0.0.2;", "\"resolver\" directive is duplicate"),
    ] {
        let setup = Setup::new(&format!("http {{ {line} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}"));
        let output = setup.run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(message), "{line}: {text}");
    }
}

#[test]
fn who_leaves_while_a_name_is_looked_up_leaves_nothing_behind() {
    let origin = Origin::saying("hello");
    let dns = Dns::start(|query| match (&*query.name, query.kind) {
        ("good.test", A) => query.reply(&[query.a(60, "127.0.0.1")]),
        ("good.test", _) => query.reply(&[]),
        _ => Vec::new(),
    });
    let conf = CONF.replace(
        "resolver_timeout 3s;",
        "resolver_timeout 1h; log_format r '$uri|$status|$termination_reason'; access_log %%DIR%%/r.log r;",
    );
    let daemon = Setup::new(&conf).set("RESOLVER", dns.address()).set("ORIGIN_PORT", origin.port()).start();
    assert_eq!(status(&daemon, "good.test"), 200);
    let worker = daemon.worker();
    let before = fd_count(worker);
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(daemon.port(0)).into_wire()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{number}?name=n{number}.test HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    for number in 0..40 {
        dns.wait_asked(&format!("n{number}.test"), A, 1);
    }
    let count = fd_count(worker);
    assert!(count >= before + 78, "a socket for each client and each lookup: {before} {count}");
    drop(clients);
    daemon.wait_line("r.log", r"^/39\|499\|client_abort/resolve$");
    // A lookup that no request waits for ends when it would be repeated.
    wait_for("the sockets to be closed", || (fd_count(worker) <= before).then_some(()));
}

#[test]
fn a_name_server_that_does_not_stop_talking_holds_nobody_up() {
    let origin = Origin::saying("hello");
    let is_over = Arc::new(AtomicUsize::new(0));
    let theirs = is_over.clone();
    let dns = Dns::start(move |query| {
        // Unsolicited answers, for as long as the test lasts.
        let (to, over) = (query.from, theirs.clone());
        let mut other = query.clone();
        other.id = query.id.wrapping_add(1);
        let message = other.message(0x8180, &[]);
        let socket = query.socket.try_clone().expect("clones");
        std::thread::spawn(move || {
            while over.load(Ordering::SeqCst) == 0 {
                let _ = socket.send_to(&message, to);
            }
        });
        Vec::new()
    });
    let daemon = start(&dns.address(), &origin);
    let mut waiting = Client::connect(daemon.port(0)).into_wire();
    waiting.send("GET /?name=loud.test HTTP/1.1\r\nHost: h\r\n\r\n");
    dns.wait_asked("loud.test", A, 1);
    for _ in 0..20 {
        // An address needs no lookup: these requests continue despite the noise.
        assert_eq!(status(&daemon, "127.0.0.1"), 200);
    }
    is_over.store(1, Ordering::SeqCst);
    assert_eq!(waiting.response().status, 502);
}

#[test]
fn servers_that_fail_at_once_are_asked_after_pauses() {
    let nobody = || format!("127.0.0.1:{}", crate::support::port::refusing());
    let refusing = Dns::start(|query| query.fail(REFUSED));
    // Says that the answer is longer, and gives none by TCP either.
    let truncating = Dns::start(|query| query.truncate());
    for (resolver, what) in [
        (format!("{} {}", nobody(), nobody()), "nobody there"),
        (format!("{} {}", refusing.address(), nobody()), "one refuses"),
        (truncating.address(), "truncated"),
    ] {
        let conf = CONF.replace("resolver_timeout 3s", "resolver_timeout 2500ms");
        let daemon =
            Setup::new(&conf).set("RESOLVER", format!("{resolver} ipv6=off")).set("ORIGIN_PORT", 1).start();
        assert_eq!(status(&daemon, "www.test"), 502, "{what}");
        let failures = daemon.log_count("while resolving \"www.test\"");
        assert!(failures <= 12, "{what}: {failures} failures in 2.5 s");
    }
    // By UDP and by TCP, at the start and after one second.
    let asked = truncating.asked("www.test", A);
    assert!((2..=6).contains(&asked), "{asked}");
}
