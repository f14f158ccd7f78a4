//! Weighted round robin: the shares, their order, down and backup servers.

use std::collections::BTreeMap;

use crate::support::{Client, Origin, Setup, port};

const CONF: &str = r#"
http {
    upstream weighted { server %%A%% weight=3; server %%B%%; server %%C%% down; }
    upstream spare { server %%CLOSED%% max_fails=1 fail_timeout=60s; server %%B%% backup; }
    upstream equal { server %%A%%; server %%B%%; server %%C%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location /weighted { proxy_pass http://weighted; }
        location /spare { proxy_pass http://spare; }
        location /equal { proxy_pass http://equal; }
    }
}
"#;

fn start() -> ([Origin; 3], crate::support::Daemon) {
    let origins = [Origin::saying("a"), Origin::saying("b"), Origin::saying("c")];
    let daemon = Setup::new(CONF)
        .set("A", origins[0].address())
        .set("B", origins[1].address())
        .set("C", origins[2].address())
        .set("CLOSED", format!("127.0.0.1:{}", port::refusing()))
        .start();
    (origins, daemon)
}

#[test]
fn shares_follow_the_weights_smoothly() {
    let (_origins, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let answers: String = (0..40).map(|_| client.get("/weighted").text()).collect();
    assert_eq!(answers.matches('a').count(), 30);
    assert_eq!(answers.matches('b').count(), 10);
    assert!(!answers.contains("aaaa"), "never four in a row: {answers}");
}

#[test]
fn equal_servers_take_turns() {
    let (_origins, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..30 {
        *counts.entry(client.get("/equal").text()).or_default() += 1;
    }
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
}

#[test]
fn a_backup_is_asked_when_the_others_are_gone() {
    let (origins, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..5 {
        assert_eq!(client.get("/spare").text(), "b");
    }
    assert_eq!(origins[1].requests().len(), 5);
    assert_eq!(daemon.log_count("connect\\(\\) failed .*Connection refused"), 1, "asked once, then resting");
}
