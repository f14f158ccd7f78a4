//! Messages to the service manager (sd_notify(3)): the test plays the manager and reads the datagrams.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Setup, deadline, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http { server { listen 127.0.0.1:%%PORT_0%%; return 200 "here\n"; } }
"#;

/// A manager's socket, as a path in the daemon's folder.
fn manager(setup: Setup) -> (Setup, UnixDatagram) {
    let socket = UnixDatagram::bind(setup.folder().join("notify")).expect("the folder is new");
    socket.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    (setup.variable("NOTIFY_SOCKET", "%%DIR%%/notify"), socket)
}

/// The lines of the next message that is not from the watchdog.
fn next(socket: &UnixDatagram) -> Vec<String> {
    loop {
        let message = any(socket);
        if message != ["WATCHDOG=1"] {
            return message;
        }
    }
}

fn any(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a message in time");
    String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect()
}

fn assert_ready(message: &[String], status: &str) {
    assert!(message.contains(&"READY=1".into()), "{message:?}");
    let told = message.iter().find_map(|line| line.strip_prefix("STATUS=")).unwrap_or_default();
    assert!(told.contains(status), "{message:?}");
}

/// RELOADING=1 comes with the time at which it was sent, which systemd compares with its own clock.
fn assert_reloading(message: &[String], since_us: u64) {
    assert!(message.contains(&"RELOADING=1".into()), "{message:?}");
    let told = message.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
    let told = told.unwrap_or_else(|| panic!("no time in {message:?}"));
    assert!((since_us..=now_us()).contains(&told), "{since_us} {told} {}", now_us());
}

fn now_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("it has that clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

#[test]
fn start_reload_and_stop_are_told_in_order() {
    if is_stand_in() {
        return;
    }
    let (setup, socket) = manager(Setup::new(CONF));
    let daemon = setup.start();
    assert_ready(&next(&socket), "serving");
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");

    let since_us = now_us();
    daemon.signal(Signal::SIGHUP);
    assert_reloading(&next(&socket), since_us);
    assert_ready(&next(&socket), "serving");

    // systemd expects READY=1 after every RELOADING=1, even if the reload failed.
    let since_us = now_us();
    daemon.rewrite(|text| text.replace("http {", "htpt {"));
    daemon.signal(Signal::SIGHUP);
    assert_reloading(&next(&socket), since_us);
    assert_ready(&next(&socket), "refused");

    daemon.signal(Signal::SIGQUIT);
    assert_eq!(next(&socket), ["STOPPING=1"]);
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
}

#[test]
fn a_fast_stop_is_told_too() {
    if is_stand_in() {
        return;
    }
    let (setup, socket) = manager(Setup::new(CONF));
    let daemon = setup.start();
    assert_ready(&next(&socket), "serving");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(next(&socket), ["STOPPING=1"]);
}

#[test]
fn ready_is_told_when_requests_are_answered_and_not_before() {
    if is_stand_in() {
        return;
    }
    for _ in 0..3 {
        let (setup, socket) = manager(Setup::new(CONF));
        let port = setup.port(0);
        let manager = std::thread::spawn(move || {
            assert_ready(&next(&socket), "serving");
            assert_eq!(get(port, "/").text(), "here\n");
        });
        let daemon = setup.start();
        manager.join().expect("ready and answered");
        drop(daemon);
    }
}

#[test]
fn an_abstract_address_is_understood() {
    if is_stand_in() {
        return;
    }
    let name = format!("pronghorn-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let socket = UnixDatagram::bind_addr(&address).expect("the name is free");
    socket.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    let _daemon = Setup::new(CONF).variable("NOTIFY_SOCKET", &format!("@{name}")).start();
    assert_ready(&next(&socket), "serving");
}

#[test]
fn under_a_manager_it_stays_in_the_foreground() {
    if is_stand_in() {
        return;
    }
    // No `daemon` line: on by default.
    let conf = "pid %%DIR%%/pronghorn.pid;\nerror_log %%DIR%%/error.log debug;\nevents { }\nuser root;\n";
    let (setup, socket) = manager(Setup::new(&format!("{conf}{CONF}")).bare());
    let daemon = setup.start();
    assert_ready(&next(&socket), "serving");
    assert_eq!(daemon.read("pronghorn.pid"), format!("{}\n", daemon.pid()));
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn the_manager_s_watchdog_is_fed_also_after_an_upgrade() {
    if is_stand_in() {
        return;
    }
    let (setup, socket) = manager(Setup::new(CONF));
    // WATCHDOG_PID is the process that systemd started; the process that replaces it inherits the duty.
    let setup = setup.prelude("export WATCHDOG_PID=$$ WATCHDOG_USEC=400000;");
    let daemon = setup.start();
    let fed = || (0..3).for_each(|_| while any(&socket) != ["WATCHDOG=1"] {});
    fed();
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    let new = wait_for("the new master", || {
        daemon.read("pronghorn.pid").trim().parse::<i32>().ok().filter(|&pid| pid != old)
    });
    wait_for("its workers", || (!process::children(new).is_empty()).then_some(()));
    send(old, Signal::SIGQUIT);
    let told = wait_for("the new master to be told", || {
        next(&socket).iter().find_map(|line| line.strip_prefix("MAINPID=")?.parse::<i32>().ok())
    });
    assert_eq!(told, new);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    // The socket still has the old master's messages; after them only the new one sends.
    socket.set_nonblocking(true).expect("a socket");
    let mut buffer = [0; 4096];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_nonblocking(false).expect("a socket");
    fed();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn workers_know_nothing_of_the_manager() {
    if is_stand_in() {
        return;
    }
    let (setup, socket) = manager(Setup::new(CONF));
    let daemon = setup.start();
    assert_ready(&next(&socket), "serving");
    for worker in daemon.workers() {
        let text = std::fs::read(format!("/proc/{worker}/environ")).expect("the worker lives");
        assert!(!String::from_utf8_lossy(&text).contains("NOTIFY_SOCKET"));
    }
}

#[test]
fn a_manager_that_does_not_read_or_is_gone_holds_nobody_up() {
    if is_stand_in() {
        return;
    }
    let (setup, socket) = manager(Setup::new(CONF));
    let daemon = setup.start();
    // More messages than the queue of a datagram socket takes (net.unix.max_dgram_qlen).
    let limit = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").expect("Linux tells");
    let limit: usize = limit.trim().parse().expect("a number");
    daemon.rewrite(|text| text.replace("http {", "htpt {"));
    for count in 1..=limit.min(150) {
        daemon.signal(Signal::SIGHUP);
        wait_for("the refusal", || (daemon.log_count("unknown directive \"htpt\"") >= count).then_some(()));
    }
    daemon.rewrite(|text| text.replace("htpt {", "http {"));
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    drop(socket);
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn an_upgrade_under_a_manager_is_its_own_child_and_can_be_undone() {
    if is_stand_in() {
        return;
    }
    let (setup, socket) = manager(Setup::new(CONF));
    let daemon = setup.start();
    let old = daemon.pid();
    let upgrade = || {
        daemon.signal(Signal::SIGUSR2);
        wait_for("the new master and its workers", || {
            let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
            (new != old && !process::children(new).is_empty()).then_some(new)
        })
    };
    let new = upgrade();
    // This test adopts orphans, as a manager does. A manager would not notice the end of another process's
    // child.
    assert!(process::children(std::process::id() as i32).contains(&new));
    assert!(!process::children(old).contains(&new));
    send(new, Signal::SIGQUIT);
    daemon.wait_log(&format!("new binary process {new} has ended"));
    wait_for("the pid file to come back", || {
        (daemon.read("pronghorn.pid") == format!("{old}\n")).then_some(())
    });
    assert!(!daemon.path("pronghorn.pid.oldbin").exists());
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    process::reap_other(new, 0);
    // The old one was the main process all the time: nothing else was reported.
    socket.set_nonblocking(true).expect("a socket");
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!text.contains("MAINPID") && !text.contains("STOPPING"), "{text}");
    }
    socket.set_nonblocking(false).expect("a socket");
    let newer = upgrade();
    send(old, Signal::SIGQUIT);
    let told = wait_for("the manager to be told", || {
        next(&socket).iter().find_map(|line| line.strip_prefix("MAINPID=")?.parse::<i32>().ok())
    });
    assert_eq!(told, newer);
    daemon.follow(newer);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}
