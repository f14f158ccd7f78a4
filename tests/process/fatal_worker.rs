//! Workers that cannot run as configured end with code 2: a start fails, a reload changes nothing.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Load, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
working_directory %%DIR%%;
http {
    keepalive_timeout 60s;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 1000000;
        location / { return 200 "here\n"; }
    }
}
"#;

const NOWHERE: &str = "working_directory /nonexistent/folder";

fn refused_start(conf: &str, reason: &str, in_background: bool) {
    let setup = Setup::new(conf).set("X", "").level("notice");
    let setup = if in_background { setup.in_background() } else { setup };
    let daemon = setup.spawn();
    let status = daemon.wait_end();
    let (errors, log) = (daemon.read("stderr"), daemon.log());
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{errors}");
    assert!(errors.contains(reason), "no {reason:?} in {errors:?}");
    assert!(log.contains(reason), "no {reason:?} in\n{log}");
    assert!(log.contains("exited with fatal code 2 and cannot be respawned"), "{log}");
    gone(daemon.folder());
    assert!(!daemon.path("pronghorn.pid").exists());
}

/// Checks that no process uses this folder any more.
fn gone(folder: &Path) {
    let own = std::process::id() as i32;
    wait_for("every process to end", || {
        let left = process::children(own);
        let left = left.into_iter().filter(|&pid| process::is_alive(pid) && process::touches(pid, folder));
        (left.count() == 0).then_some(())
    });
}

#[test]
fn a_working_directory_that_is_not_there_fails_the_start() {
    if is_stand_in() {
        return; // nginx stays without workers
    }
    let conf = CONF.replace("working_directory %%DIR%%", NOWHERE);
    let reason = "chdir(\"/nonexistent/folder\") failed (2: No such file or directory)";
    refused_start(&conf, reason, false);
    refused_start(&conf, reason, true);
}

#[test]
fn a_limit_that_the_worker_cannot_have_fails_the_start() {
    if is_stand_in() {
        return;
    }
    // Even root is refused more than fs.nr_open; others may not exceed their hard limit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let count = hard.saturating_add(1).max(1 << 40);
    let conf = format!("worker_rlimit_nofile {count};\n{CONF}");
    let reason = format!("setrlimit(RLIMIT_NOFILE, {count}) failed (1: Operation not permitted)");
    refused_start(&conf, &reason, false);
    refused_start(&conf, &reason, true);
}

#[test]
fn descriptors_too_few_to_run_with_fail_the_start() {
    if is_stand_in() {
        return;
    }
    let conf = format!("worker_rlimit_nofile 4;\n{CONF}");
    refused_start(&conf, "(24: Too many open files)", false);
    refused_start(&conf, "(24: Too many open files)", true);
}

fn reload_in_vain(daemon: &Daemon) {
    let before = daemon.log_count("the previous one stays in force");
    daemon.signal(Signal::SIGHUP);
    wait_for("the verdict", || (daemon.log_count("the previous one stays in force") > before).then_some(()));
}

#[test]
fn a_reload_with_workers_that_cannot_run_changes_nothing() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    let workers = daemon.workers();
    let load = Load::start(daemon.port(0), 4);
    let good = daemon.read("pronghorn.conf");
    daemon.rewrite(|text| text.replace(&format!("working_directory {}", daemon.folder().display()), NOWHERE));
    for _ in 0..3 {
        reload_in_vain(&daemon);
        load.wait(50);
    }
    daemon.wait_log("chdir\\(\"/nonexistent/folder\"\\) failed \\(2: No such file");
    assert_eq!(daemon.workers(), workers, "the same workers");
    daemon.write("pronghorn.conf", good);
    daemon.reload();
    load.wait(50);
    load.finish();
}

/// More workers get more sockets; after a failed reload no process would watch the additional ones.
#[test]
fn a_failed_reload_with_more_workers_leaves_no_queue_without_a_worker() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    let load = Load::start(daemon.port(0), 4);
    let good = daemon.read("pronghorn.conf");
    daemon.rewrite(|text| {
        let text = text.replace("worker_processes 2", "worker_processes 8");
        text.replace(&format!("working_directory {}", daemon.folder().display()), NOWHERE)
    });
    for _ in 0..3 {
        reload_in_vain(&daemon);
        for _ in 0..50 {
            assert_eq!(get(daemon.port(0), "/").text(), "here\n");
        }
    }
    daemon.write("pronghorn.conf", good.replace("worker_processes 2", "worker_processes 8"));
    daemon.reload();
    for _ in 0..50 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    load.finish();
}

#[test]
fn a_worker_that_dies_during_a_failed_reload_is_replaced() {
    if is_stand_in() {
        return;
    }
    let daemon =
        Setup::new(&CONF.replace("worker_processes 2", "worker_processes 1")).level("notice").start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/").status, 200);
    daemon.rewrite(|text| text.replace(&format!("working_directory {}", daemon.folder().display()), NOWHERE));
    daemon.rewrite(|text| text.replace("worker_processes 1", "worker_processes 20"));
    let worker = daemon.worker();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("SIGHUP\\) received");
    send(worker, Signal::SIGKILL);
    daemon.wait_log("the previous one stays in force");
    // Its place cannot be filled while the directory in the current configuration is missing.
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn a_start_whose_workers_cannot_be_forked_ends_and_says_why() {
    if is_stand_in() || !nix::unistd::geteuid().is_root() {
        return; // nginx stays without workers, and only root can become a user without processes
    }
    // A separate user for each run, with room for one process for the master and one for its starter.
    let user = 60_000 + std::process::id() % 5_000;
    let prelude = format!(
        "chown -R {user} . && set -- prlimit --nproc=2 setpriv --reuid={user} --regid={user} --clear-groups \"$@\" &&"
    );
    let reason = "not one worker process can run: fork() failed while spawning a worker process (11: ";
    let setup = Setup::new(CONF).level("notice").in_background().prelude(&prelude);
    let daemon = setup.spawn();
    let status = daemon.wait_end();
    let (errors, log) = (daemon.read("stderr"), daemon.log());
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{errors}\n{log}");
    for text in [errors, log] {
        assert!(text.contains(reason) && text.contains("raise the limit of processes"), "{text:?}");
    }
    gone(daemon.folder());
}

/// If strace may be used, it makes a system call of each worker fail.
#[test]
fn a_start_whose_workers_end_at_once_ends_and_says_why() {
    const FAILS: &str = "strace -f -o /dev/null -e trace=epoll_create1 -e inject=epoll_create1:error=ENOMEM";
    let words: Vec<&str> = FAILS.split(' ').skip(1).chain(["true"]).collect();
    let can_trace = std::process::Command::new("strace").args(words).status();
    if is_stand_in() || !can_trace.is_ok_and(|status| status.success()) {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").prelude(&format!("set -- {FAILS} \"$@\";")).spawn();
    let status = daemon.wait_end();
    let (errors, log) = (daemon.read("stderr"), daemon.log());
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{errors}\n{log}");
    for text in [errors, log] {
        assert!(text.contains("not one worker process can run: worker process "), "{text:?}");
        assert!(text.contains("exited with code 1 as soon as it was born"), "{text:?}");
    }
    gone(daemon.folder());
}

/// However few descriptors there are, the daemon either serves or says why not.
#[test]
fn a_start_with_few_descriptors_serves_or_says_why() {
    if is_stand_in() {
        return;
    }
    for count in [9, 11, 12, 13, 14, 15, 16, 18, 20, 24, 32] {
        let setup = Setup::new(CONF).level("notice").in_background();
        match setup.prelude(&format!("ulimit -n {count};")).try_start() {
            Ok(daemon) => {
                assert_eq!(get(daemon.port(0), "/").text(), "here\n", "{count} descriptors");
                daemon.stop(Signal::SIGTERM);
            }
            Err(exit) => {
                assert_eq!(exit.status.code(), Some(1), "{count} descriptors: {}", exit.stderr);
                assert!(exit.stderr.contains("Too many open files"), "{count} descriptors: {}", exit.stderr);
            }
        }
    }
}
