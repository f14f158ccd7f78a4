//! A reload with its verdict: by the control API, and by `-s reload`.

use super::control;
use crate::support::daemon::is_stand_in;
use crate::support::{Setup, get};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http { server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "one\n"; } } }
"#;

#[test]
fn the_answer_comes_when_the_new_workers_serve() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    for round in 0..5 {
        let (before, after) = (format!("text{round}"), format!("text{}", round + 1));
        daemon.rewrite(|text| text.replace("one\\n", "text0").replace(&before, &after));
        let answer = control(&daemon, "PATCH", "/1/control/config", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["generation"], round + 2);
        assert_eq!(get(daemon.port(0), "/").text(), after, "already in force");
    }
}

#[test]
fn a_configuration_that_is_refused_says_why() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    daemon.rewrite(|text| text.replace("return 200", "retrun 200"));
    let answer = control(&daemon, "PATCH", "/1/control/config", "");
    assert_eq!(answer.status, 422, "{answer:?}");
    let logs = answer.json()["logs"].to_string();
    assert!(logs.contains("unknown directive") && logs.contains("pronghorn.conf:"), "{logs}");
    assert_eq!(get(daemon.port(0), "/").text(), "one\n");
    // Warnings come with the verdict, whatever the level of the log.
    daemon.rewrite(|text| {
        text.replace("retrun 200", "return 200").replace("http {", "load_module x.so;\nhttp {")
    });
    daemon.rewrite(|text| text.replace(" notice;", " crit;"));
    let answer = control(&daemon, "PATCH", "/1/control/config", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.rewrite(|text| text.replace("x.so", "y.so"));
    let answer = control(&daemon, "PATCH", "/1/control/config", "");
    assert!(answer.json()["logs"].to_string().contains("y.so"), "{answer:?}");
}

#[test]
fn workers_that_cannot_run_are_a_refusal() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    daemon.rewrite(|text| text.replace("http {", "working_directory /nowhere;\nhttp {"));
    let answer = control(&daemon, "PATCH", "/1/control/config", "");
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.json()["logs"].to_string().contains("the previous one stays in force"), "{answer:?}");
    assert_eq!(get(daemon.port(0), "/").text(), "one\n");
    daemon.rewrite(|text| text.replace("working_directory /nowhere;", ""));
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
}

#[test]
fn the_command_waits_for_the_verdict_and_exits_with_it() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    daemon.rewrite(|text| text.replace("one\\n", "two\\n"));
    let output = daemon.run(&["-s", "reload"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(get(daemon.port(0), "/").text(), "two\n");

    daemon.rewrite(|text| text.replace("return 200", "retrun 200"));
    let output = daemon.run(&["-s", "reload"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("unknown directive \"retrun\"") && text.contains("stays in force"), "{text}");
    assert_eq!(get(daemon.port(0), "/").text(), "two\n");
}

#[test]
fn without_the_socket_it_is_a_signal() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(&CONF.replace("control unix:%%DIR%%/ctl;", "")).level("notice").start();
    daemon.rewrite(|text| {
        text.replace("http {", &format!("control unix:{};\nhttp {{", daemon.path("ctl").display()))
    });
    let output = daemon.run(&["-s", "reload"]);
    assert!(output.status.success(), "{output:?}");
    daemon.wait_log("start controller process");
}

#[test]
fn orders_given_at_once_are_all_answered() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    let path = daemon.path("ctl");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || super::ask(&path, "PATCH", "/1/control/config", "").status)
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(get(daemon.port(0), "/").text(), "one\n");
}
