//! The binary upgrade: USR2 starts a new master next to the old one, WINCH makes the old workers leave, QUIT
//! ends the old master, HUP brings its workers back.

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    keepalive_timeout 60s;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;

/// In the background, because nginx obeys WINCH only there.
fn start() -> Daemon {
    Setup::new(CONF).in_background().start()
}

/// Sends USR2 and waits for both pid files and the new workers; returns the new master.
pub fn upgrade(daemon: &Daemon) -> i32 {
    daemon.signal(Signal::SIGUSR2);
    upgraded(daemon)
}

/// Waits for both pid files and the new workers; returns the new master.
pub(super) fn upgraded(daemon: &Daemon) -> i32 {
    let old = daemon.pid();
    wait_for("a new master with workers", || {
        let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
        let oldbin: i32 = daemon.read("pronghorn.pid.oldbin").trim().parse().ok()?;
        let works = process::children(new).into_iter().filter(|&pid| process::is_alive(pid)).count() >= 2;
        (new != old && oldbin == old && works).then_some(new)
    })
}

/// The workers of a master that may have the other one as a child.
pub fn workers_of(master: i32, other: i32) -> Vec<i32> {
    let children = process::children(master).into_iter();
    children.filter(|&pid| pid != other && process::is_alive(pid)).collect()
}

#[test]
fn a_good_upgrade_ends_the_old_master() {
    let daemon = start();
    let old = daemon.pid();
    let new = upgrade(&daemon);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");

    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
    assert!(process::is_alive(old), "the old master stays");
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");

    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert!(!daemon.path("pronghorn.pid.oldbin").exists());
    assert_eq!(daemon.read("pronghorn.pid"), format!("{new}\n"));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    daemon.stop(Signal::SIGQUIT);
}

#[test]
fn a_bad_upgrade_is_taken_back() {
    let daemon = start();
    let old = daemon.pid();
    let new = upgrade(&daemon);
    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));

    send(old, Signal::SIGHUP);
    wait_for("the old master's workers to come back", || (workers_of(old, new).len() == 2).then_some(()));
    send(new, Signal::SIGQUIT);
    wait_for("the new master to end", || (!process::is_alive(new)).then_some(()));
    wait_for("the pid file to come back", || {
        let back = daemon.read("pronghorn.pid") == format!("{old}\n");
        (back && !daemon.path("pronghorn.pid.oldbin").exists()).then_some(())
    });
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn the_old_master_goes_on_when_the_new_one_dies() {
    let daemon = start();
    let old = daemon.pid();
    let new = upgrade(&daemon);
    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
    let orphans = workers_of(new, 0);
    send(new, Signal::SIGKILL);
    wait_for("the old master's workers to come back", || {
        (!process::is_alive(new) && workers_of(old, new).len() == 2).then_some(())
    });
    assert_eq!(daemon.read("pronghorn.pid"), format!("{old}\n"));
    orphans.iter().for_each(|&pid| send(pid, Signal::SIGTERM)); // nginx's stay when their master is killed
    let ended = || orphans.iter().all(|&pid| !process::is_alive(pid)).then_some(());
    wait_for("the dead master's workers to end", ended);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn an_idle_connection_lives_on_in_the_new_binary() {
    if is_stand_in() {
        return; // nginx closes it
    }
    let daemon = start();
    let old = daemon.pid();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
}
