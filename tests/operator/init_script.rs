//! `scripts/init.d/pronghorn`: every action, its exit status, and its effect on a daemon that runs, is stuck,
//! is gone, or must not be started.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::place::{Place, has, run, shipped};
use crate::support::daemon::{binary, is_stand_in, send};
use crate::support::{Client, get, process, wait_for};

const HERE: &str = "return 200 here;";
const THERE: &str = "return 200 there;";

fn answer(place: &Place) -> String {
    get(place.port(), "/").text()
}

/// Another program, whose name is known by now.
fn sleeper() -> Child {
    let child = Command::new("sleep").arg("60").spawn().expect("it runs");
    wait_for("its name", || process::title(child.id() as i32).starts_with("sleep").then_some(()));
    child
}

#[test]
fn every_action_has_its_exit_status_with_and_without_functions_for_messages() {
    if is_stand_in() {
        return;
    }
    let plain = "log_success_msg() { echo \"$* good\"; }\nlog_failure_msg() { echo \"$* bad\"; }\n";
    for functions in ["/lib/lsb/init-functions", "/nonexistent", "functions"] {
        let place = Place::new("worker_processes 1;", HERE);
        place.write("functions", plain);
        let path = place.path(functions);
        let place = place.set(&format!("LSB_FUNCTIONS=\"{}\"\n", path.display()));
        std::fs::create_dir(place.path("lock")).expect("the folder is ours");
        // Not running.
        place.expect("status", 3);
        place.expect("stop", 0);
        place.expect("reload", 7);
        place.expect("force-reload", 7);
        place.expect("try-restart", 0);
        place.expect("condrestart", 0);
        place.expect("rotate", 0);
        place.expect("upgrade", 1);
        place.expect("configtest", 0);
        assert_eq!(place.pid(), None, "nothing of that has started it");
        // Running.
        place.expect("start", 0);
        assert!(place.path("lock/p").exists(), "who reads lock/subsys sees it");
        let first = place.master();
        assert_eq!(answer(&place), "here");
        assert!(place.expect("status", 0).out.contains(&first.to_string()));
        place.expect("start", 0);
        assert_eq!(place.master(), first, "a second start changes nothing");
        place.conf("worker_processes 1;", THERE);
        place.expect("reload", 0);
        wait_for("the new configuration", || (answer(&place) == "there").then_some(()));
        place.expect("force-reload", 0);
        assert_eq!(place.master(), first);
        for action in ["rotate", "reopen-logs"] {
            std::fs::rename(place.path("logs/access.log"), place.path("logs/old")).expect("there is one");
            place.expect(action, 0);
            wait_for("a new log", || place.path("logs/access.log").exists().then_some(()));
        }
        assert!(place.expect("testconfig", 0).out.contains("test is successful"));
        for action in ["restart", "try-restart", "condrestart"] {
            let before = place.master();
            place.expect(action, 0);
            assert_ne!(place.master(), before, "{action}");
            assert!(!process::is_alive(before), "{action}");
        }
        assert_eq!(answer(&place), "there");
        let last = place.master();
        place.expect("stop", 0);
        assert!(!process::is_alive(last) && place.pid().is_none() && !place.path("lock/p").exists());
        place.expect("restart", 0);
        place.expect("stop", 0);
        place.expect("status", 3);
        let wrong = place.expect("sleep", 3);
        assert!(wrong.err.contains("Usage: ") && wrong.out.is_empty(), "{wrong:?}");
    }
}

#[test]
fn no_action_is_a_wrong_action() {
    let outcome = run(&mut Command::new(shipped("scripts/init.d/pronghorn")));
    assert_eq!(outcome.code, Some(3));
    assert!(outcome.err.contains("{start|stop|restart|"), "{outcome:?}");
}

#[test]
fn what_is_wrong_with_the_configuration_is_shown_and_harms_nothing() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", "nonsense 1;");
    let refused = |action: &str| {
        let outcome = place.expect(action, 1);
        let told = outcome.out + &outcome.err;
        assert!(told.contains("nonsense") && told.contains("pronghorn.conf:"), "{action}: {told}");
    };
    refused("start");
    refused("configtest");
    refused("testconfig");
    place.conf("", HERE);
    place.expect("start", 0);
    let master = place.master();
    let workers = process::children(master);
    place.conf("", "nonsense 1;");
    for action in ["restart", "try-restart", "condrestart", "reload", "force-reload", "upgrade", "configtest"]
    {
        refused(action);
        assert_eq!((place.master(), process::children(master)), (master, workers.clone()), "{action}");
    }
    assert_eq!(answer(&place), "here");
    place.expect("start", 0);
    place.expect("status", 0);
    place.expect("rotate", 0);
    place.expect("stop", 0);
    assert!(!process::is_alive(master));
}

#[test]
fn a_reload_that_only_the_master_finds_wrong_fails_too() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE).set("START_SECONDS=1\n");
    place.expect("start", 0);
    // The configuration test accepts an address in use as the daemon's own.
    let other = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let taken = other.local_addr().expect("it is bound");
    place.conf("", &format!("listen {taken}; {THERE}"));
    let outcome = place.expect("reload", 1);
    assert!(outcome.err.contains("error log"), "{outcome:?}");
    assert_eq!(answer(&place), "here");
    place.expect("stop", 0);
}

#[test]
fn a_pid_file_of_one_that_is_gone_is_no_obstacle() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE);
    let mut gone = Command::new("true").spawn().expect("it runs");
    gone.wait().expect("it ends");
    let mut other = sleeper();
    for content in
        [format!("{}\n", gone.id()), format!("{}\n", other.id()), "".into(), "rubbish\n".into(), "0\n".into()]
    {
        place.write("main.pid", &content);
        place.expect("status", 1);
        place.expect("reload", 7);
        place.expect("rotate", 0);
        place.expect("upgrade", 1);
        place.expect("stop", 0);
        place.write("main.pid", &content);
        place.expect("start", 0);
        assert_eq!(answer(&place), "here", "{content:?}");
        place.expect("stop", 0);
    }
    assert!(other.try_wait().expect("a child").is_none(), "another's process gets no signal");
    other.kill().expect("it lives");
    other.wait().expect("it ends");
}

#[test]
fn status_tells_what_is_left_and_what_it_cannot_know() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE);
    std::fs::create_dir(place.path("lock")).expect("the folder is ours");
    place.write("lock/p", "");
    place.expect("status", 2);
    place.expect("start", 0);
    place.expect("status", 0);
    let closed = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(place.path("main.pid"), closed).expect("the file is ours");
    let outcome = run(&mut as_nobody(&place, "status"));
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(place.path("main.pid"), open).expect("the file is ours");
    if geteuid().is_root() {
        assert_eq!(run(&mut as_nobody(&place, "status")).code, Some(0));
        // `nobody` cannot open the log either, so a reload fails in the configuration test.
        for action in ["stop", "rotate"] {
            let outcome = run(&mut as_nobody(&place, action));
            assert_eq!(outcome.code, Some(4), "{action}: {outcome:?}");
        }
        assert_eq!(answer(&place), "here");
    }
    place.expect("stop", 0);
}

/// The script run by a user who owns nothing; by this user if that is not root.
fn as_nobody(place: &Place, action: &str) -> Command {
    let script = place.script(action);
    if !geteuid().is_root() {
        return script;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(script.get_program());
    command.args(script.get_args()).env("PRONGHORN_DEFAULTS", place.path("settings"));
    command
}

#[test]
fn without_the_program_what_runs_can_still_be_stopped() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE);
    place.expect("start", 0);
    let master = place.master();
    std::fs::remove_file(place.path("pronghorn")).expect("the folder is ours");
    let place = place.set("PIDFILE=\"$PREFIX/main.pid\"\n");
    place.expect("status", 0);
    for action in ["start", "restart", "reload", "configtest", "upgrade", "rotate"] {
        place.expect(action, 0);
    }
    assert_eq!(place.master(), master);
    place.expect("stop", 0);
    assert!(!process::is_alive(master));
    place.expect("status", 3);
}

#[test]
fn without_a_configuration_nothing_is_started() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE);
    std::fs::remove_file(place.path("pronghorn.conf")).expect("it is there");
    for action in ["start", "restart", "configtest"] {
        let outcome = place.expect(action, 6);
        assert!(outcome.err.contains("pronghorn.conf"), "{outcome:?}");
    }
    place.expect("status", 3);
    let root = if geteuid().is_root() { "user = \"root\"\n" } else { "" };
    let server = format!("listen = \"127.0.0.1:{}\"\nreturn = [\"200\", \"toml\"]\n", place.port());
    place.write(
        "pronghorn.toml",
        &format!("{root}pid = \"main.pid\"\n[events]\n[http]\n[[http.server]]\n{server}"),
    );
    place.expect("start", 0);
    assert_eq!(answer(&place), "toml");
    place.expect("stop", 0);
}

#[test]
fn the_stop_schedule_ends_with_what_is_stuck() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE).set("STOP_SCHEDULE=QUIT/1/KILL/10\n");
    place.expect("start", 0);
    let all = process::tree(place.master());
    send(place.master(), Signal::SIGSTOP);
    place.expect("stop", 0);
    assert!(!process::is_alive(all[0]) && place.pid().is_none());
    wait_for("its workers to notice", || {
        all.iter().for_each(|&pid| process::reap_other(pid, 0));
        all.iter().all(|&pid| !process::is_alive(pid)).then_some(())
    });
    place.expect("start", 0);
    place.expect("stop", 0);
}

#[test]
fn a_daemon_that_stays_in_the_foreground_does_not_hold_the_script() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("daemon off;", HERE);
    place.expect("start", 0);
    place.expect("status", 0);
    place.expect("reload", 0);
    place.expect("stop", 0);
}

#[test]
fn settings_reach_the_daemon() {
    if is_stand_in() {
        return;
    }
    let settings =
        "DAEMON_OPTS=\"-g 'worker_processes 2; pid other.pid;' -e '$PREFIX/early log'\"\nULIMIT=\"-n 200\"\n";
    let place = Place::new("", HERE).set(settings);
    let text = std::fs::read_to_string(place.path("pronghorn.conf")).expect("it is there");
    place.write("other.conf", &text.replace("pid main.pid;", ""));
    let place = place.set("CONF=\"$PREFIX/other.conf\"\n");
    place.expect("start", 0);
    let pid = std::fs::read_to_string(place.path("other.pid")).expect("where -g says");
    let pid: i32 = pid.trim().parse().expect("a number");
    assert_eq!(process::children(pid).len(), 2);
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is listed");
    assert!(files.contains(" 200 "), "{files}");
    assert!(place.path("early log").exists());
    place.expect("stop", 0);
    assert!(!process::is_alive(pid));
}

#[test]
fn an_upgrade_keeps_connections_and_leaves_one_master() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("worker_processes 1;", HERE);
    place.expect("start", 0);
    let old = place.master();
    let mut kept = Client::connect(place.port());
    assert_eq!(kept.get("/").text(), "here");
    place.expect("upgrade", 0);
    assert_ne!(place.master(), old);
    assert!(!process::is_alive(old) && !place.path("main.pid.oldbin").exists());
    assert_eq!(kept.get("/").text(), "here", "on the same connection");
    place.expect("upgrade", 0);
    place.expect("reload", 0);
    assert_eq!(kept.get("/").text(), "here", "and again");
    place.expect("stop", 0);
}

#[test]
fn an_upgrade_to_what_does_not_start_leaves_the_old_one() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE).set("START_SECONDS=1\n");
    place.expect("start", 0);
    let old = place.master();
    std::fs::remove_file(place.path("pronghorn")).expect("the folder is ours");
    let real = binary();
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" -t \"* | *--pid-path*) exec '{}' \"$@\" ;;\nesac\nexit 1\n",
        real.display()
    );
    place.write("pronghorn", &script);
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path("pronghorn"), open).expect("the file is ours");
    let outcome = place.expect("upgrade", 1);
    assert!(outcome.err.contains("no new master"), "{outcome:?}");
    wait_for("the pid file to be back", || (place.pid() == Some(old)).then_some(()));
    assert_eq!(answer(&place), "here");
    place.expect("stop", 0);
}

#[test]
fn stopping_in_the_midst_of_an_upgrade_ends_both_masters() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", HERE);
    place.expect("start", 0);
    let old = place.master();
    send(old, Signal::SIGUSR2);
    wait_for("the new master", || place.pid().filter(|&pid| pid != old));
    let new = place.master();
    let outcome = place.expect("upgrade", 1);
    assert!(outcome.err.contains("is in progress already"), "{outcome:?}");
    place.expect("stop", 0);
    assert!(!process::is_alive(old) && !process::is_alive(new));
    place.expect("status", 3);
}

#[test]
fn every_shell_can_read_it() {
    let script = shipped("scripts/init.d/pronghorn");
    let mode = std::fs::metadata(&script).expect("it is shipped").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    for shell in ["sh", "dash", "bash"] {
        if has(shell) {
            let outcome = run(Command::new(shell).arg("-n").arg(&script));
            assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{shell}");
        }
    }
    if has("shellcheck") {
        let outcome = run(Command::new("shellcheck").arg(&script));
        assert_eq!(outcome.code, Some(0), "{}", outcome.out);
    }
}
