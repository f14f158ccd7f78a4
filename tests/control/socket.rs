//! The socket itself, and nginx's control API at it.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{ask, control};
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http { server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } location = /c { stub_status; } } }
"#;

#[test]
fn its_owner_and_group_may_connect_and_it_goes_with_the_daemon() {
    if is_stand_in() {
        return;
    }
    for (parameter, mode) in [("", 0o660), (" mode=0600", 0o600)] {
        let conf = CONF.replace("/ctl;", &format!("/ctl{parameter};"));
        let daemon = Setup::new(&conf).prelude("umask 077;").start();
        let meta = std::fs::symlink_metadata(daemon.path("ctl")).expect("the path is there");
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o777, mode);
        assert_eq!(control(&daemon, "GET", "/", "").status, 200);
        daemon.stop(Signal::SIGQUIT);
        assert!(!daemon.path("ctl").exists());
    }
}

#[test]
fn each_call_of_nginx_s_control_api() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    let get = |path: &str| control(&daemon, "GET", path, "");
    assert_eq!(get("/1").json(), json!(["control", "nginx"]));
    assert_eq!(get("/1/").json(), json!(["control", "nginx"]));
    assert_eq!(get("/1/control").json(), json!(["processes", "config"]));
    let version = get("/1/nginx").json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["build"].is_string());

    let processes = get("/1/control/processes").json();
    let workers = processes.as_array().expect("a list").iter().filter(|it| it["name"] == "worker process");
    let mut pids: Vec<i64> = workers.map(|it| it["pid"].as_i64().expect("a pid")).collect();
    let mut expected: Vec<i64> = daemon.workers_now().into_iter().map(i64::from).collect();
    pids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert!(processes.as_array().expect("a list").iter().all(|it| it["exiting"] == false));

    let config = get("/1/control/config").json();
    let files = config.as_array().expect("a list");
    let is_main = |file: &&serde_json::Value| {
        file["name"].as_str().is_some_and(|name| name.ends_with("pronghorn.conf"))
    };
    let main = files.iter().find(is_main).expect("the main file");
    assert_eq!(main["content"], daemon.read("pronghorn.conf"));

    for (method, path, status) in [
        ("GET", "/2", 404),
        ("GET", "/1/control/nothing", 404),
        ("POST", "/1/control/config", 405),
        ("DELETE", "/1/control/processes", 405),
        ("PATCH", "/1/nginx", 405),
    ] {
        assert_eq!(control(&daemon, method, path, "").status, status, "{method} {path}");
    }
}

#[test]
fn what_runs_is_shown_and_not_what_was_written_later() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    let before = daemon.read("pronghorn.conf");
    daemon.rewrite(|text| text.replace("here", "there"));
    let shown = || control(&daemon, "GET", "/1/control/config", "").text;
    assert!(before.contains("here\\n") && !shown().contains("there"));
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    assert!(shown().contains("there"));
}

#[test]
fn operators_are_no_clients() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    for _ in 0..5 {
        control(&daemon, "GET", "/1", "");
    }
    assert_eq!(get(daemon.port(0), "/").status, 200);
    let connections = control(&daemon, "GET", "/api/9/connections", "").json();
    assert_eq!(connections["accepted"], 1, "{connections}");
    let workers = control(&daemon, "GET", "/api/9/workers", "").json();
    assert_eq!(workers.as_array().expect("a list").len(), 2, "{workers}");
}

#[test]
fn a_controller_that_is_killed_is_replaced() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    let pid = daemon.controller();
    send(pid, Signal::SIGKILL);
    wait_for("the controller to be replaced", || (daemon.controllers_now().first()? != &pid).then_some(()));
    assert_eq!(control(&daemon, "GET", "/1", "").status, 200);
    assert_eq!(control(&daemon, "GET", "/api/9/processes", "").json()["respawned"], 1);
    assert!(process::title(daemon.controller()).contains("controller process"));
}

#[test]
fn the_command_line_can_name_it() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new(&CONF.replace("control unix:%%DIR%%/ctl;", "")).level("notice");
    let path = setup.folder().join("other");
    let word = format!("unix:{}", path.display());
    let daemon = setup.arguments(&["-l", &word]).start();
    assert_eq!(ask(&path, "GET", "/1", "").status, 200);
    daemon.reload();
    assert_eq!(ask(&path, "GET", "/1", "").status, 200);
}

#[test]
fn a_reload_adds_moves_and_removes_it() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(&CONF.replace("control unix:%%DIR%%/ctl;", "")).level("notice").start();
    let line = |name: &str| format!("control unix:{};\nhttp {{", daemon.path(name).display());
    daemon.rewrite(|text| text.replace("http {", &line("ctl")));
    daemon.reload();
    assert_eq!(control(&daemon, "GET", "/1", "").status, 200);
    daemon.rewrite(|text| text.replace("/ctl;", "/moved;"));
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    assert_eq!(ask(&daemon.path("moved"), "GET", "/1", "").status, 200);
    wait_for("the former socket to go", || (!daemon.path("ctl").exists()).then_some(()));
    daemon.rewrite(|text| text.replace(&line("moved"), "http {"));
    daemon.reload();
    wait_for("the controller to end", || daemon.controllers_now().is_empty().then_some(()));
    assert!(!daemon.path("moved").exists());
}

/// The exporter of nginx Plus starts with a look at the processes, so a location that only reads must answer it.
#[test]
fn a_location_that_only_reads_shows_the_processes() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 2;
        http { server { listen 127.0.0.1:%%PORT_0%%; location /api { api; } location / { return 200 ok; } } }
    "#;
    let daemon = Setup::new(CONF).level("notice").start();
    for version in ["8", "9"] {
        let answer = get(daemon.port(0), &format!("/api/{version}/processes"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body, json!({ "respawned": 0 }));
    }
    assert!(!daemon.log().contains("breaks a rule"), "{}", daemon.log());
}
