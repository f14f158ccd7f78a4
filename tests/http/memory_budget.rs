//! `worker_memory_budget`: a worker's memory for optional work is bounded; beyond the budget requests
//! degrade.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, get, process, wait_for};

/// A long page that hardly compresses.
fn page() -> Vec<u8> {
    let mut state = 7_u32;
    let digit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"0123456789abcdef"[(state >> 28) as usize]
    };
    std::iter::repeat_with(digit).take(3 << 20).collect()
}

fn start(budget: &str, directives: &str) -> Daemon {
    let conf = format!(
        "worker_processes 1; worker_memory_budget {budget};
        http {{ server {{ listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/html; {directives}
            location /drawn {{ return 200 \"$memory_drawn $memory_degraded\"; }} }} }}"
    );
    Setup::new(&conf).file("html/a.html", page()).level("info").start()
}

/// The number of bytes drawn, and of requests that degraded.
fn drawn(daemon: &Daemon) -> (usize, usize) {
    let text = get(daemon.port(0), "/drawn").text();
    let (drawn, degraded) = text.split_once(' ').unwrap();
    (drawn.parse().unwrap(), degraded.parse().unwrap())
}

fn ask(daemon: &Daemon, accepted: &str) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("GET /a.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accepted}\r\n\r\n"));
    client
}

#[test]
fn clients_that_do_not_read_hold_no_more_than_the_budget() {
    if is_stand_in() {
        return;
    }
    const BUDGET: usize = 16 << 20;
    let codings = [
        ("br", "brotli on; brotli_comp_level 5;"),
        ("zstd", "zstd on; zstd_comp_level 3;"),
        ("gzip", "gzip on; gzip_comp_level 1;"),
    ];
    for (coding, directives) in codings {
        let daemon = start("16m", directives);
        let worker = daemon.worker();
        let before = process::rss_kib(worker) as usize;
        let mut clients: Vec<(Client, Option<String>)> = Vec::new();
        for _ in 0..100 {
            let mut client = ask(&daemon, coding);
            let head = client.response_head();
            clients.push((client, head.header("content-encoding").map(str::to_owned)));
            assert!(drawn(&daemon).0 <= BUDGET);
        }
        let encoded = clients.iter().filter(|(_, found)| found.as_deref() == Some(coding)).count();
        let plain = clients.iter().filter(|(_, found)| found.is_none()).count();
        assert!(encoded > 10 && plain > 10 && encoded + plain == 100, "{coding}: {encoded}, {plain}");
        assert!(drawn(&daemon).1 >= plain);
        // the budget, and the memory of 100 connections and the program without it
        let held = process::rss_kib(worker) as usize - before;
        assert!(held * 1024 < BUDGET + (16 << 20), "{coding}: {held} KiB");
        daemon.wait_log("responses are compressed less or not at all: [0-9]+ of 16384 KiB of the worker's memory budget are in use: raise \"worker_memory_budget\"");
        drop(clients);
        wait_for("the memory to be given back", || (drawn(&daemon).0 == 0).then_some(()));
        assert_eq!(ask(&daemon, coding).response_head().header("content-encoding"), Some(coding));
        assert_eq!(daemon.worker(), worker);
    }
}

#[test]
fn a_client_that_takes_nothing_plain_gets_the_least_encoder() {
    if is_stand_in() {
        return;
    }
    let daemon = start("1k", "gzip on;");
    assert_eq!(ask(&daemon, "gzip").response_head().header("content-encoding"), None);
    let strict = ask(&daemon, "gzip, identity;q=0").response_head();
    assert_eq!(strict.header("content-encoding"), Some("gzip"));
}

#[test]
fn without_a_budget_includes_are_made_one_after_the_other() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::replying(|request| crate::support::origin::ok(request.target.as_bytes()));
    let conf = "worker_processes 1; worker_memory_budget 1k;
        http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/html;
            location / { ssi on; }
            location /drawn { return 200 \"$memory_drawn $memory_degraded\"; }
            location /part/ { proxy_pass http://%%ORIGIN%%; } } }";
    let page: String = (0..5).map(|n| format!("<!--#include virtual=\"/part/{n}\" -->")).collect();
    let long = format!("<!--#set var=\"a\" value=\"{}\" -->", "x".repeat(250))
        + "<!--#set var=\"b\" value=\"$a$a$a$a$a\" -->";
    let setup = Setup::new(conf).set("ORIGIN", origin.address()).level("info");
    let daemon =
        setup.file("html/a.html", page).file("html/b.html", long + "[<!--#echo var=\"b\" -->]").start();
    let expected: String = (0..5).map(|n| format!("/part/{n}")).collect();
    assert_eq!(get(daemon.port(0), "/a.html").text(), expected);
    assert_eq!(drawn(&daemon), (0, 4));
    daemon.wait_log("includes run one after the other: .*raise \"worker_memory_budget\"");
    let error = "[an error occurred while processing the directive]";
    assert_eq!(get(daemon.port(0), "/b.html").text(), format!("{error}[(none)]"));
}

#[test]
fn a_list_of_a_directory_that_does_not_fit_is_refused() {
    if is_stand_in() {
        return;
    }
    let daemon = start("64k", "autoindex on;");
    for index in 0..1000 {
        daemon.write(&format!("html/many/a-name-of-some-length-{index}"), "");
    }
    assert_eq!(get(daemon.port(0), "/many/").status, 503);
    daemon.wait_log("a listing of [0-9]+ bytes is not sent: .*raise \"worker_memory_budget\"");
    assert_eq!(get(daemon.port(0), "/").status, 200, "a short one is");
    assert_eq!(drawn(&daemon).0, 0);
}
