//! `daemon on`: what the starter waits for and prints, and the descriptors of the process in the background.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, deadline, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http { server { listen 127.0.0.1:%%PORT_0%%; return 200 "here\n"; } }
"#;

fn link(pid: i32, name: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The master and its workers.
fn all(daemon: &Daemon) -> Vec<i32> {
    [vec![daemon.pid()], daemon.workers()].concat()
}

#[test]
fn the_starter_returns_when_requests_are_answered() {
    if is_stand_in() {
        return; // nginx returns before there is a pid file
    }
    for _ in 0..5 {
        let daemon = Setup::new(CONF).in_background().spawn();
        assert!(daemon.wait_starter().success());
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
        assert_eq!(daemon.read("stderr"), "");
    }
}

#[test]
fn the_standard_streams_are_the_null_device_and_the_error_log() {
    let daemon = Setup::new(CONF).in_background().start();
    for pid in all(&daemon) {
        assert_eq!(link(pid, "fd/0"), PathBuf::from("/dev/null"));
        assert_eq!(link(pid, "fd/1"), PathBuf::from("/dev/null"));
        assert_eq!(link(pid, "fd/2"), daemon.path("error.log"), "{}", process::title(pid));
    }
}

#[test]
fn standard_error_follows_the_error_log_when_it_is_rotated() {
    let daemon = Setup::new(CONF).in_background().start();
    let follows = |name: &str| {
        let path = daemon.path(name);
        wait_for(&format!("standard error to be {name}"), || {
            all(&daemon).into_iter().all(|pid| link(pid, "fd/2") == path).then_some(())
        });
    };
    std::fs::rename(daemon.path("error.log"), daemon.path("error.log.1")).expect("it is there");
    daemon.signal(Signal::SIGUSR1);
    follows("error.log");
    daemon.rewrite(|text| text.replace("error.log debug", "other.log debug"));
    daemon.reload();
    follows("other.log");
}

#[test]
fn who_waits_for_the_end_of_its_output_is_not_kept() {
    // `ssh host pronghorn` ends only when no process holds the pipe any more.
    let setup = Setup::new(CONF).in_background();
    let pipe = setup.folder().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the folder is ours");
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(std::fs::read_to_string(pipe).expect("it ends")));
    let daemon = setup.prelude("exec >pipe 2>&1;").start();
    assert_eq!(is_done.recv_timeout(deadline()).expect("nobody holds the pipe"), "");
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn nothing_that_the_starter_had_open_stays_open() {
    if is_stand_in() {
        return; // nginx keeps them
    }
    let setup = Setup::new(CONF).in_background();
    std::fs::write(setup.folder().join("precious"), "").expect("the folder is ours");
    let daemon = setup.prelude("exec 3<precious 9<precious;").start();
    let precious = daemon.path("precious");
    for pid in all(&daemon) {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten();
        let held = open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == precious));
        assert_eq!(held.count(), 0, "{}", process::title(pid));
    }
}

#[test]
fn it_has_a_session_of_its_own_a_umask_and_the_starter_s_directory() {
    let daemon = Setup::new(CONF).in_background().start();
    for pid in all(&daemon) {
        assert_eq!(getsid(Some(Pid::from_raw(pid))), Ok(Pid::from_raw(daemon.pid())));
        assert_eq!(link(pid, "cwd"), daemon.folder());
        if !is_stand_in() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
            assert!(status.contains("Umask:\t0022"), "{status}");
        }
    }
}

#[test]
fn a_start_that_fails_says_so_and_leaves_nothing() {
    let holder = crate::support::port::listen(std::net::Ipv4Addr::LOCALHOST, crate::support::port::free());
    let taken = holder.local_addr().expect("bound").to_string();
    let setup = Setup::new("http { server { listen %%TAKEN%%; return 200; } }\n").set("TAKEN", &taken);
    let exit = setup.in_background().try_start().err().expect("it must not start");
    assert_eq!(exit.status.code(), Some(1));
    assert!(
        exit.stderr.contains(&taken) && exit.stderr.contains("Address already in use"),
        "{}",
        exit.stderr
    );
    if !is_stand_in() {
        assert!(!exit.left.iter().any(|name| name.starts_with("pronghorn.pid")), "{:?}", exit.left);
    }
}

#[test]
fn workers_that_cannot_run_fail_the_start_with_their_reason() {
    if is_stand_in() {
        return; // nginx's starter has returned by then
    }
    let conf = format!("working_directory %%DIR%%/nowhere;\n{CONF}");
    let setup = Setup::new(&conf).in_background();
    let folder = setup.folder().to_owned();
    let exit = setup.try_start().err().expect("it must not start");
    assert_eq!(exit.status.code(), Some(1));
    let reason = format!("chdir(\"{}/nowhere\") failed (2: No such file or directory)", folder.display());
    assert!(exit.stderr.contains(&reason), "{}", exit.stderr);
    assert!(!exit.left.iter().any(|name| name.starts_with("pronghorn.pid")), "{:?}", exit.left);
}

#[test]
fn it_starts_with_closed_standard_streams() {
    let daemon = Setup::new(CONF).in_background().prelude("exec <&- >&- 2>&-;").start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    for pid in all(&daemon) {
        assert_eq!(link(pid, "fd/0"), PathBuf::from("/dev/null"));
    }
}
