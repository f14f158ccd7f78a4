//! Hundreds of addresses in one configuration.

use std::collections::HashSet;

use nix::sys::signal::Signal;

use super::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Setup, get, port, process, wait_for};

const COUNT: usize = 500;

/// Each port answers with its own number.
fn conf(ports: &[u16], version: usize) -> String {
    let server = |port: &u16| {
        format!("server {{ listen 127.0.0.1:{port}; return 200 \"{port} version {version}\\n\"; }}\n")
    };
    let servers: String = ports.iter().map(server).collect();
    format!("worker_processes 2;\nhttp {{\n{servers}}}\n")
}

fn start(ports: &[u16]) -> Daemon {
    let daemon = Setup::new(&conf(ports, 1)).level("notice").start();
    wait_for("both workers", || (daemon.workers().len() == 2).then_some(()));
    daemon
}

fn assert_all_answer(ports: &[u16], version: usize) {
    for &port in ports {
        assert_eq!(get(port, "/").text(), format!("{port} version {version}\n"));
    }
}

/// The ports on which some process listens.
fn listening() -> HashSet<u16> {
    let text = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells");
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next()?.rsplit(':').next().map(str::to_owned)?;
        (words.nth(1) == Some("0A")).then(|| u16::from_str_radix(&local, 16).ok()).flatten()
    };
    text.lines().filter_map(port).collect()
}

#[test]
fn five_hundred_addresses_start_serve_and_reload() {
    let ports: Vec<u16> = (0..COUNT).map(|_| port::free()).collect();
    let daemon = start(&ports);
    assert_all_answer(&ports, 1);
    let mut kept: Vec<Client> = ports.iter().map(|&port| Client::connect(port)).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));

    // Remove half of them, with the connections to them.
    let (stay, _) = ports.split_at(COUNT / 2);
    let head = daemon
        .read("pronghorn.conf")
        .lines()
        .take_while(|line| !line.starts_with("worker_proc"))
        .fold(String::new(), |mut head, line| {
            head.push_str(line);
            head.push('\n');
            head
        });
    daemon.write("pronghorn.conf", format!("{head}{}", conf(stay, 2)));
    daemon.reload();
    assert_all_answer(stay, 2);
    if !is_stand_in() {
        for (port, client) in stay.iter().zip(&mut kept) {
            assert_eq!(client.get("/").text(), format!("{port} version 2\n"), "a kept connection");
        }
    }
    wait_for("the others to be given up", || {
        let found = listening();
        (!ports[COUNT / 2..].iter().any(|port| found.contains(port))).then_some(())
    });

    // And add them all again.
    daemon.write("pronghorn.conf", format!("{head}{}", conf(&ports, 3)));
    daemon.reload();
    assert_all_answer(&ports, 3);
    assert_eq!(daemon.complaints("emerg|alert|crit|error"), Vec::<String>::new());
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_worker_of_many_addresses_is_replaced_and_an_upgrade_takes_them_all() {
    if is_stand_in() {
        return;
    }
    let ports: Vec<u16> = (0..COUNT).map(|_| port::free()).collect();
    let daemon = start(&ports);
    let victim = daemon.workers()[0];
    send(victim, Signal::SIGKILL);
    wait_for("two workers again", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.contains(&victim)).then_some(())
    });
    assert_all_answer(&ports, 1);

    let old = daemon.pid();
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_all_answer(&ports, 1);
}

#[test]
fn a_reload_for_which_descriptors_are_missing_changes_nothing() {
    if is_stand_in() {
        return;
    }
    let ports: Vec<u16> = (0..100).map(|_| port::free()).collect();
    let daemon = Setup::new(&conf(&ports[..1], 1)).prelude("ulimit -n 60;").start();
    let few = daemon.read("pronghorn.conf");
    let many = few.replace(&conf(&ports[..1], 1), &conf(&ports, 2));
    for _ in 0..3 {
        let workers =
            wait_for("both workers", || Some(daemon.workers_now()).filter(|workers| workers.len() == 2));
        let descriptors = process::fd_count(daemon.pid());
        daemon.write("pronghorn.conf", &many);
        let before = daemon.log_count("Too many open files");
        daemon.signal(Signal::SIGHUP);
        wait_for("the refusal", || (daemon.log_count("Too many open files") > before).then_some(()));
        assert_all_answer(&ports[..1], 1);
        assert_eq!(daemon.workers(), workers);
        wait_for("what was opened to be closed", || {
            (process::fd_count(daemon.pid()) <= descriptors).then_some(())
        });
        daemon.write("pronghorn.conf", &few);
        daemon.reload();
        assert_all_answer(&ports[..1], 1);
    }
}

#[test]
fn too_few_descriptors_for_the_addresses_are_told() {
    if is_stand_in() {
        return;
    }
    let ports: Vec<u16> = (0..100).map(|_| port::free()).collect();
    let exit = Setup::new(&conf(&ports, 1)).prelude("ulimit -n 60;").try_start();
    let exit = exit.err().expect("it must not start");
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.stderr.contains("(24: Too many open files)"), "{}", exit.stderr);
    assert!(!exit.left.iter().any(|name| name.starts_with("pronghorn.pid")), "{:?}", exit.left);
}
