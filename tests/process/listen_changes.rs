//! A reload changes the listening sockets: parameters of `listen`, and the width of an address. No client is
//! lost, and changes that are impossible are reported.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::support::daemon::{binary, is_stand_in};
use crate::support::{Client, Daemon, Load, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    keepalive_timeout 60s;
    server {
        listen 127.0.0.1:%%PORT_0%%; #end
        keepalive_requests 100000000;
        location / { return 200 "version 0\n"; }
    }
}
"#;

/// Replaces the `listen` lines; `PORT` in them is the daemon's first one.
fn listen(daemon: &Daemon, lines: &str) {
    let lines = lines.replace("PORT", &daemon.port(0).to_string());
    daemon.rewrite(|text| {
        let from = text.find("listen ").expect("it listens");
        let to = text.find(" #end").expect("it is marked");
        [&text[..from], &lines, &text[to..]].concat()
    });
}

/// The output of `ss` for the sockets that listen on a port.
fn sockets(port: u16) -> Vec<String> {
    let output = Command::new("ss").args(["-H", "-l", "-t", "-n", "-m", "-e", "-i"]).output();
    let text = String::from_utf8_lossy(&output.expect("ss is installed").stdout).replace("\n\t", " ");
    text.lines().filter(|line| line.contains(&format!(":{port} "))).map(str::to_owned).collect()
}

/// Waits until all sockets of a port are as expected: those being retired remain for a moment.
fn expect_sockets(daemon: &Daemon, what: &str, mark: &str, is_there: bool) {
    wait_for(&format!("{mark:?}: {is_there} in every socket after {what:?}"), || {
        let seen = sockets(daemon.port(0));
        (!seen.is_empty() && seen.iter().all(|line| line.contains(mark) == is_there)).then_some(())
    });
}

fn has_multipath() -> bool {
    use socket2::{Domain, Protocol, Socket, Type};
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).is_ok()
}

/// The daemon as a process without CAP_NET_RAW.
fn unprivileged() -> Setup {
    let setup = Setup::new(CONF).level("notice");
    let program = without_net_raw(setup.folder());
    setup.program(&program)
}

/// A program in this folder that becomes the daemon without CAP_NET_RAW.
pub fn without_net_raw(folder: &Path) -> PathBuf {
    if !geteuid().is_root() {
        return binary();
    }
    let wrapper = folder.join("wrapper");
    let words = "exec setpriv --inh-caps=-net_raw --bounding-set=-net_raw";
    std::fs::write(&wrapper, format!("#!/bin/sh\n{words} '{}' \"$@\"\n", binary().display()))
        .expect("the folder is ours");
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    wrapper
}

#[test]
fn every_parameter_of_listen_comes_changes_and_goes() {
    if is_stand_in() {
        return;
    }
    // The kernel doubles the sizes of buffers (socket(7)). Options that `ss` does not show are tested in
    // `src/sys/socket.rs`; here they are changed under load.
    let table = [
        ("backlog=37", " 37 ", true),
        ("backlog=41", " 41 ", true),
        ("", " 511 ", true),
        ("rcvbuf=64k", "rb131072,", true),
        ("rcvbuf=48k sndbuf=128k", "rb98304,t0,tb262144,", true),
        ("sndbuf=96k", "tb196608,", true),
        ("rcvbuf=16k", "tb196608,", false),
        ("", "rb32768,", false),
        ("deferred fastopen=5", " 511 ", true),
        ("fastopen=7 so_keepalive=30m:10:3", " 511 ", true),
        ("so_keepalive=on bind reuseport default_server", " 511 ", true),
        ("setfib=1 accept_filter=httpready", " 511 ", true),
        ("multipath", "tcp-ulp-mptcp", true),
        ("multipath backlog=50", " 50 ", true),
        ("", "tcp-ulp-mptcp", false),
    ];
    let daemon = Setup::new(CONF).level("notice").start();
    let load = Load::start(daemon.port(0), 4);
    for (parameters, mark, is_there) in table {
        if parameters.contains("multipath") && !(has_multipath() && geteuid().is_root()) {
            continue;
        }
        listen(&daemon, &format!("listen 127.0.0.1:PORT {parameters};"));
        daemon.reload();
        expect_sockets(&daemon, parameters, mark, is_there);
        load.wait(20);
    }
    load.finish();
    assert_eq!(daemon.complaints("emerg|alert|crit|error"), [""; 0]);
}

#[test]
fn another_header_is_expected_after_a_reload() {
    let daemon = Setup::new(CONF).start();
    let answer = |bytes: &str| {
        let mut client = Client::connect(daemon.port(0));
        client.send(bytes);
        String::from_utf8_lossy(&client.rest().0).into_owned()
    };
    const PLAIN: &str = "GET / HTTP/1.0\r\n\r\n";
    let proxied = format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{PLAIN}");
    for (parameters, good, bad) in
        [("", PLAIN, proxied.as_str()), ("proxy_protocol", &proxied, PLAIN), ("", PLAIN, &proxied)]
    {
        listen(&daemon, &format!("listen 127.0.0.1:PORT {parameters};"));
        daemon.reload();
        assert!(answer(good).contains("version 0"), "{parameters:?}");
        assert!(!answer(bad).contains("version 0"), "{parameters:?}");
    }
}

/// The forms that an address may take, all of them reachable at 127.0.0.1.
const WIDTHS: &[&str] = &[
    "listen 127.0.0.1:PORT;",
    "listen PORT;",
    "listen [::]:PORT ipv6only=off;",
    "listen 127.0.0.1:PORT;",
    "listen 127.0.0.1:PORT; listen [::]:PORT ipv6only=off;",
    "listen PORT; listen [::]:PORT;",
    "listen [::]:PORT ipv6only=off;",
    "listen PORT; listen 127.0.0.1:PORT;",
    "listen PORT;",
    "listen 127.0.0.1:PORT backlog=100;",
];

fn change_widths(daemon: &Daemon) {
    let load = Load::start(daemon.port(0), 8);
    for line in WIDTHS.iter().chain(WIDTHS) {
        listen(daemon, line);
        daemon.reload();
        load.wait(50);
    }
    load.finish();
    assert_eq!(daemon.complaints("emerg|alert|crit|error"), [""; 0]);
}

#[test]
fn an_address_of_another_width_loses_nobody() {
    if is_stand_in() {
        return; // nginx refuses some of them
    }
    change_widths(&Setup::new(CONF).level("notice").start());
}

#[test]
fn nor_does_it_without_the_right_to_hide_sockets_first() {
    if is_stand_in() {
        return;
    }
    change_widths(&unprivileged().start());
}

#[test]
fn ipv6only_changes_both_ways() {
    if is_stand_in() {
        return;
    }
    let reaches =
        |daemon: &Daemon| ["127.0.0.1", "::1"].map(|host| TcpStream::connect((host, daemon.port(0))).is_ok());
    for setup in [Setup::new(CONF), unprivileged()] {
        let daemon = setup.start();
        for (line, expected) in [
            ("listen 127.0.0.1:PORT; listen [::]:PORT;", [true, true]),
            ("listen [::]:PORT ipv6only=off;", [true, true]),
            ("listen [::]:PORT;", [false, true]),
            ("listen [::]:PORT ipv6only=off;", [true, true]),
        ] {
            listen(&daemon, line);
            daemon.reload();
            wait_for(line, || (reaches(&daemon) == expected).then_some(()));
        }
    }
}

#[test]
fn a_parameter_that_cannot_change_is_told_and_nothing_changes() {
    if is_stand_in() || !has_multipath() {
        return;
    }
    let daemon = unprivileged().start();
    let workers = daemon.workers();
    listen(&daemon, "listen 127.0.0.1:PORT multipath;");
    daemon.rewrite(|text| text.replace("version 0", "version 1"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log(
        r#"\[emerg\] .*"multipath" of "listen" for 127.0.0.1:\d+ cannot change .* restart instead of reloading in .*:\d+"#,
    );
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
    assert_eq!(daemon.workers(), workers);
}

/// Sends HUP and waits until all old workers are told to leave; they may take longer to do so.
fn begin_reload(daemon: &Daemon) {
    let told = daemon.log_count("gracefully shutting down");
    daemon.signal(Signal::SIGHUP);
    wait_for("the old workers to be told", || {
        (daemon.log_count("gracefully shutting down") == told + 2).then_some(())
    });
}

/// The kernel keeps a deferred connection half open until its first byte, like a slow handshake.
const DEFERRED: &str = "listen 127.0.0.1:PORT deferred;";

#[test]
fn a_handshake_that_is_half_way_is_finished_where_it_began() {
    if is_stand_in() {
        return;
    }
    for next in ["listen PORT deferred;", "listen [::]:PORT ipv6only=off;", "listen 127.0.0.2:PORT;"] {
        let daemon = Setup::new(CONF).level("notice").start();
        listen(&daemon, DEFERRED);
        daemon.reload();
        let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
        listen(&daemon, next);
        begin_reload(&daemon);
        for client in &mut clients {
            client.send("GET / HTTP/1.0\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), "version 0\n", "{next}");
        }
    }
}

#[test]
fn a_stop_finishes_handshakes_too_and_refuses_new_clients_at_once() {
    if is_stand_in() {
        return;
    }
    for master in ["on", "off"] {
        let setup = Setup::new(&CONF.replace("http {", &format!("master_process {master};\nhttp {{")));
        let setup = setup.level("notice");
        let port = setup.port(0);
        let daemon = if master == "off" { setup.alone() } else { setup }.start();
        let is_open = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_for("the daemon", || is_open().then_some(()));
        listen(&daemon, DEFERRED);
        if master == "off" {
            daemon.stop(Signal::SIGQUIT);
            continue; // its handshakes are complete at once
        }
        daemon.reload();
        let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(port)).collect();
        daemon.signal(Signal::SIGQUIT);
        wait_for("new clients to be refused", || (!is_open()).then_some(()));
        for client in &mut clients {
            client.send("GET / HTTP/1.0\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), "version 0\n");
        }
        daemon.wait_end();
    }
}

#[test]
fn an_address_for_workers_that_cannot_run_takes_nobody_from_those_that_serve() {
    if is_stand_in() || !geteuid().is_root() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    listen(&daemon, "listen PORT;");
    daemon.reload();
    let load = Load::start(daemon.port(0), 8);
    for round in 1..4 {
        listen(&daemon, "listen 127.0.0.1:PORT multipath;");
        daemon.rewrite(|text| format!("working_directory /nonexistent;\n{text}"));
        daemon.signal(Signal::SIGHUP);
        wait_for("the reload to fail", || {
            (daemon.log_count("no worker can run with the new configuration") == round).then_some(())
        });
        daemon.rewrite(|text| text.replace("working_directory /nonexistent;\n", ""));
        load.wait(50);
    }
    listen(&daemon, "listen 127.0.0.1:PORT;");
    daemon.reload();
    load.wait(50);
    load.finish();
}

#[test]
fn an_address_comes_back_while_its_sockets_are_on_their_way_out() {
    if is_stand_in() {
        return;
    }
    for setup in [Setup::new(CONF), unprivileged()] {
        let daemon = setup.level("notice").start();
        listen(&daemon, DEFERRED);
        daemon.reload();
        // Its handshake is half done, so the sockets wait for it.
        let mut client = Client::connect(daemon.port(0));
        daemon.rewrite(|text| text.replace("listen 127.0.0.1", "listen 127.0.0.3"));
        begin_reload(&daemon);
        daemon.rewrite(|text| text.replace("listen 127.0.0.3", "listen 127.0.0.1"));
        begin_reload(&daemon);
        client.send("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(client.response().text(), "version 0\n");
        wait_for("the address", || TcpStream::connect(("127.0.0.1", daemon.port(0))).is_ok().then_some(()));
        assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
        assert_eq!(daemon.complaints("emerg|alert|crit|error"), [""; 0]);
    }
}
