//! A binary upgrade that fails: the old master keeps serving, gets its pid file's name back, and the log says
//! why.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use super::upgrade::{upgrade, workers_of};
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Load, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    keepalive_timeout 60s;
    keepalive_requests 100000000;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "version 1\n"; } }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF).level("notice").in_its_folder().without_early_log().in_background().start()
}

/// Sends USR2, and checks that the log has this reason and everything else is unchanged.
fn upgrade_in_vain(daemon: &Daemon, reason: &str) {
    let (old, workers) = (daemon.pid(), daemon.workers());
    let load = Load::start(daemon.port(0), 4);
    for _ in 0..3 {
        let before = daemon.log_count(reason);
        daemon.signal(Signal::SIGUSR2);
        wait_for(reason, || (daemon.log_count(reason) > before).then_some(()));
        wait_for("the pid file to come back", || {
            let back = daemon.read("pronghorn.pid") == format!("{old}\n");
            (back && !daemon.path("pronghorn.pid.oldbin").exists()).then_some(())
        });
        load.wait(20);
        assert_eq!(daemon.workers(), workers, "the same workers");
    }
    load.finish();
    let output = daemon.run(&["-s", "reload"]);
    assert_eq!(output.status.code(), Some(0), "it is found: {}", String::from_utf8_lossy(&output.stderr));
    wait_for("new workers", || daemon.workers_now().iter().all(|pid| !workers.contains(pid)).then_some(()));
}

#[test]
fn a_binary_that_is_not_there_is_named() {
    let daemon = start();
    std::fs::remove_file(daemon.path("program")).expect("it is a link");
    let reason = "execve\\(\\) failed while executing new binary process \".*/program\" .*No such file";
    upgrade_in_vain(&daemon, reason);
}

#[test]
fn a_binary_that_cannot_be_executed_is_named() {
    let daemon = start();
    std::fs::remove_file(daemon.path("program")).expect("it is a link");
    daemon.write("program", "no program");
    upgrade_in_vain(&daemon, "execve\\(\\) failed .*/program\" .*Permission denied");
}

#[test]
fn a_binary_that_ends_at_once_is_told_with_its_code() {
    let daemon = start();
    std::fs::remove_file(daemon.path("program")).expect("it is a link");
    daemon.write("program", "#!/bin/sh\nexit 3\n");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(daemon.path("program"), executable).expect("it is ours");
    upgrade_in_vain(&daemon, "process \\d+ exited with code 3");
}

/// A daemon has no terminal: messages of the new binary before it has a log must not be lost.
#[test]
fn a_configuration_that_is_broken_is_told_in_the_log() {
    let daemon = start();
    let good = daemon.read("pronghorn.conf");
    daemon.rewrite(|text| text.replace("listen", "lisen"));
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_log("process \\d+ exited with code 1");
    if !is_stand_in() {
        daemon.wait_log("\\[emerg\\].*unknown directive \"lisen\" in .*pronghorn.conf:\\d+");
    }
    wait_for("the pid file to come back", || {
        (daemon.read("pronghorn.pid") == format!("{old}\n")).then_some(())
    });
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
    // With a valid one the upgrade succeeds.
    daemon.write("pronghorn.conf", good);
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
}

#[test]
fn workers_of_the_new_binary_that_cannot_run_end_it() {
    if is_stand_in() {
        return; // nginx's new master stays without workers
    }
    let daemon = start();
    daemon.rewrite(|text| format!("working_directory /nonexistent/folder;\n{text}"));
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_log("chdir\\(\"/nonexistent/folder\"\\) failed");
    daemon.wait_log("new binary process \\d+ exited with code 1");
    wait_for("the pid file to come back", || {
        let back = daemon.read("pronghorn.pid") == format!("{old}\n");
        (back && !daemon.path("pronghorn.pid.oldbin").exists()).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
    }
}

#[test]
fn a_second_upgrade_beside_the_first_is_refused() {
    let daemon = start();
    let old = daemon.pid();
    let new = upgrade(&daemon);
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_log(&format!("{old}#\\d+:.*the changing binary signal is ignored"));
    if !is_stand_in() {
        let ready = || (workers_of(new, 0).len() == 2).then_some(());
        wait_for("the new master's workers", ready);
    }
    send(new, Signal::SIGUSR2);
    daemon.wait_log(&format!("{new}#\\d+:.*the changing binary signal is ignored"));
    assert_eq!(process::children(old).iter().filter(|&&pid| process::is_alive(pid)).count(), 3);
    assert_eq!(daemon.read("pronghorn.pid"), format!("{new}\n"));
    assert_eq!(daemon.read("pronghorn.pid.oldbin"), format!("{old}\n"));
    // Once the old master is gone, the new one is a master like any other.
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    let newest = upgrade(&daemon);
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
    send(new, Signal::SIGQUIT);
    wait_for("the second master to end", || (!process::is_alive(new)).then_some(()));
    daemon.follow(newest);
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
}

#[test]
fn workers_that_come_back_have_the_configuration_they_had() {
    let daemon = start();
    let old = daemon.pid();
    let new = upgrade(&daemon);
    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
    daemon.rewrite(|text| text.replace("version 1", "version 2"));
    send(old, Signal::SIGHUP);
    wait_for("the old master's workers to come back", || (workers_of(old, new).len() == 2).then_some(()));
    send(new, Signal::SIGQUIT);
    wait_for("the new master to end", || (!process::is_alive(new)).then_some(()));
    for _ in 0..10 {
        assert_eq!(get(daemon.port(0), "/").text(), "version 1\n", "not read again");
    }
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "version 2\n");
}

#[test]
fn a_new_master_that_quits_gives_its_connections_back() {
    if is_stand_in() {
        return; // nginx closes them
    }
    let daemon = start();
    let old = daemon.pid();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    for is_drained in [false, true] {
        let new = upgrade(&daemon);
        if is_drained {
            send(old, Signal::SIGWINCH); // so that they are with the new one, and no other worker can take them
            wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
        }
        clients.extend((0..20).map(|_| Client::connect(daemon.port(0))));
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
        send(new, Signal::SIGQUIT);
        wait_for("the new master to end", || (!process::is_alive(new)).then_some(()));
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
        wait_for("the pid file to come back", || {
            (daemon.read("pronghorn.pid") == format!("{old}\n")).then_some(())
        });
    }
}
