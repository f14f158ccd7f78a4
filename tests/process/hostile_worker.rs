//! A worker that breaks the rules of its control socket, or writes anything into the shared memory: it is
//! killed and replaced, the master keeps nothing of it, and signals, reloads and upgrades still work.
//!
//! The test takes over a worker's control socket and speaks for it. Each case begins with honest workers.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::support::captured::{self, Captured, LANE_BYTES, LANES_AT, LANES_BYTES, handover, poke};
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    keepalive_timeout 60s;
    limit_conn_zone $arg_key zone=keys:32k;
    upstream backend {
        zone backend 64k;
        server %%ORIGIN%% max_fails=1 fail_timeout=1s max_conns=100;
        server 127.0.0.1:1 backup;
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%%;
        location / { return 200 "here\n"; }
        location /proxied { proxy_pass http://backend; }
        location /limited { limit_conn keys 5; proxy_pass http://backend; }
    }
}
"#;

fn start(workers: usize, origin: &str) -> Daemon {
    let daemon = Setup::new(CONF).set("WORKERS", workers).set("ORIGIN", origin).level("notice").start();
    wait_for("workers that serve", || {
        let pids = daemon.workers_now();
        let are_settled = pids.iter().all(|&pid| process::title(pid).contains("worker process"));
        (pids.len() == workers && are_settled).then_some(())
    });
    // So that each of them has sent that it is ready, and nothing else.
    daemon.reload();
    daemon
}

/// Waits until the master has noticed that this worker broke a rule, and has killed and replaced it. False if
/// the worker had answered a ping by itself before it was taken over, so that the sequence number was wrong:
/// try again.
#[must_use]
fn is_killed(daemon: &Daemon, pid: i32, rule: &str) -> bool {
    let line = daemon
        .wait_log(&format!("worker process {pid} .*breaks a rule of its control socket and is killed: "));
    wait_for("its end", || (!daemon.workers_now().contains(&pid)).then_some(()));
    let is_rule = regex::Regex::new(rule).expect("valid").is_match(&line);
    assert!(is_rule || line.contains("came where"), "not for {rule:?}: {line}");
    is_rule
}

/// Checks that the service is unharmed: other workers serve, the master obeys signals and keeps nothing.
fn assert_well(daemon: &Daemon, workers: usize, fds: usize) {
    wait_for("all workers", || (daemon.workers_now().len() == workers).then_some(()));
    let reopened = daemon.log_count("SIGUSR1");
    daemon.signal(Signal::SIGUSR1);
    wait_for("the signal to be heeded", || (daemon.log_count("SIGUSR1") > reopened).then_some(()));
    daemon.reload();
    (0..10).for_each(|_| assert_eq!(get(daemon.port(0), "/").text(), "here\n"));
    wait_for("the master's descriptors", || (process::fd_count(daemon.pid()) <= fds).then_some(()));
}

#[test]
fn a_worker_that_breaks_a_rule_is_killed_and_replaced() {
    if is_stand_in() {
        return; // nginx has another protocol
    }
    let daemon = start(2, "127.0.0.1:1");
    let fds = process::fd_count(daemon.pid());
    let memory_kib = process::rss_kib(daemon.pid());
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let null = null.as_fd();
    let many = [null; 100];
    type Attack<'a> = Box<dyn Fn(&mut Captured) + 'a>;
    let attacks: Vec<(&str, Attack<'_>)> = vec![
        ("no message", Box::new(|worker| (0..50).for_each(|_| worker.send(b"?", &many)))),
        ("no message", Box::new(|worker| worker.send(&captured::frame(b'R', 2, b"")[..4], &[]))),
        (
            "no message",
            Box::new(|worker| worker.send(&captured::frame(b'H', 2, &handover(0, 1)[..20]), &[null])),
        ),
        ("no message", Box::new(|worker| worker.say(b'x', b"", &[]))),
        ("no message", Box::new(|worker| worker.say(b'C', b"tail", &[]))),
        ("no message", Box::new(|worker| worker.send(b"H127.0.0.1:80\n1\n2\n3\n4\n", &[null]))),
        ("at most 16384 bytes", Box::new(|worker| worker.say(b'H', &[0; 17_000], &[null]))),
        ("shut it down or send empty", Box::new(|worker| worker.send(b"", &[]))),
        ("shut it down or send empty", Box::new(|worker| worker.send(b"", &many))),
        (
            "shut it down or send empty",
            Box::new(|worker| {
                socket2::SockRef::from(&worker.control).shutdown(std::net::Shutdown::Write).expect("shut");
            }),
        ),
        ("Ready must not come from a worker that is Ready", Box::new(|worker| worker.say(b'R', b"", &[]))),
        ("Closed must not come from a worker that is Ready", Box::new(|worker| worker.say(b'C', b"", &[]))),
        ("HandOver must not come .* Ready", Box::new(|worker| worker.say(b'H', &handover(0, 1), &[null]))),
        ("Pong came without a ping", Box::new(|worker| worker.say(b'I', &1_u32.to_le_bytes(), &[]))),
        (
            "Learned must not come from a worker that is Ready",
            Box::new(|worker| worker.say(b'N', &[0; 8], &[])),
        ),
        ("Replace brings 0 descriptors, it came with 1", Box::new(|worker| worker.say(b'P', b"", &[null]))),
        (
            "message 7 came where 2 is next",
            Box::new(|worker| worker.send(&captured::frame(b'P', 7, b""), &[])),
        ),
        ("Replace came too often", Box::new(|worker| (0..100).for_each(|_| worker.say(b'P', b"", &[])))),
    ];
    for (rule, attack) in attacks {
        loop {
            // Stop it, so that it does not exit by itself when told to leave.
            let mut worker = Captured::take(daemon.workers_now()[0]).stop();
            attack(&mut worker);
            let is_done = is_killed(&daemon, worker.pid, rule);
            assert_well(&daemon, 2, fds);
            if is_done {
                break;
            }
        }
    }
    let grown_kib = process::rss_kib(daemon.pid()).saturating_sub(memory_kib);
    assert!(grown_kib < 4096, "the master has {grown_kib} KiB more");
}

/// A worker that was told to leave may hand connections over, and send no other message with a descriptor.
#[test]
fn only_connections_of_its_listeners_are_handed_over() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let fds = process::fd_count(daemon.pid());
    let (reader, _writer) = nix::unistd::pipe().expect("a pipe");
    let file = tempfile::tempfile().expect("a file");
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).expect("epoll");
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (unix, _other) = UnixStream::pair().expect("a pair");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("free");
    let elsewhere = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let cases: [(&str, u32, Option<BorrowedFd<'_>>); 9] = [
        ("a descriptor that is not a socket", 0, Some(reader.as_fd())),
        ("a descriptor that is not a socket", 0, Some(file.as_fd())),
        ("a descriptor that is not a socket", 0, Some(epoll.0.as_fd())),
        ("a socket of another kind", 0, Some(datagram.as_fd())),
        ("a socket of another kind", 0, None), // its control socket
        ("a listening socket", 0, Some(listener.as_fd())),
        ("a connection of another address", 0, Some(unix.as_fd())),
        ("a connection of another address", 0, Some(elsewhere.as_fd())),
        ("there is no listener 2", 2, Some(elsewhere.as_fd())),
    ];
    for (rule, listen, fd) in cases {
        loop {
            let mut worker = Captured::take(daemon.workers_now()[0]).stop();
            dismiss(&daemon, worker.pid);
            let control = worker.control.try_clone().expect("a descriptor");
            worker.say(b'H', &handover(listen, 1), &[fd.unwrap_or(control.as_fd())]);
            let is_done = is_killed(&daemon, worker.pid, rule);
            assert_well(&daemon, 2, fds);
            if is_done {
                break;
            }
        }
    }
    // The other end of a client's connection has another address: the client's.
    loop {
        let mut worker = Captured::take(daemon.workers_now()[0]).stop();
        dismiss(&daemon, worker.pid);
        let own = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.port(0))).expect("it listens");
        worker.say(b'H', &handover(0, 1), &[own.as_fd()]);
        let is_done = is_killed(&daemon, worker.pid, "a connection of another address");
        drop(own);
        assert_well(&daemon, 2, fds);
        if is_done {
            break;
        }
    }
}

/// Tells all workers to leave; the stopped one does not.
fn dismiss(daemon: &Daemon, stopped: i32) {
    let old = daemon.workers_now();
    daemon.signal(Signal::SIGHUP);
    wait_for("the other old worker to leave", || {
        let now = daemon.workers_now();
        (now.contains(&stopped) && now.iter().filter(|pid| old.contains(pid)).count() == 1).then_some(())
    });
}

#[test]
fn a_handed_over_connection_is_not_believed_and_never_blocks() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let fds = process::fd_count(daemon.pid());
    let blocking = |connection: &OwnedFd| {
        socket2::SockRef::from(connection).set_nonblocking(false).expect("a socket");
    };
    let (worker, connection, mut client) = loop {
        let mut client = Client::connect(daemon.port(0));
        assert_eq!(client.get("/").text(), "here\n");
        let address = client.stream().local_addr().expect("connected");
        let (worker, connection) = Captured::take_holder(&daemon.workers_now(), address);
        let mut worker = worker.stop();
        dismiss(&daemon, worker.pid);
        blocking(&connection);
        worker.say(b'H', &handover(0, u64::MAX), &[connection.as_fd()]);
        let next: Vec<i32> = daemon.workers_now().into_iter().filter(|pid| *pid != worker.pid).collect();
        let is_adopted = wait_for("it to be adopted", || {
            let is_late = daemon.log_count(&format!("process {} .*came where", worker.pid)) > 0;
            let is_there = next.iter().any(|pid| captured::has_connection(*pid, address));
            (is_late || is_there).then_some(is_there)
        });
        if is_adopted {
            break (worker, connection, client);
        }
    };
    // The hostile worker still has the socket, and keeps changing its mode.
    for _ in 0..20 {
        blocking(&connection);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        assert_eq!(get(daemon.port(0), "/").text(), "here\n", "others are served while it waits");
        client.send("1\r\n\r\n");
        assert_eq!(client.response().text(), "here\n");
    }
    send(worker.pid, Signal::SIGKILL);
    drop((client, connection));
    assert_well(&daemon, 2, fds);
}

#[test]
fn a_flood_of_connections_has_an_end_and_holds_nobody_up() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let fds = process::fd_count(daemon.pid());
    loop {
        let mut client = Client::connect(daemon.port(0));
        assert_eq!(client.get("/").text(), "here\n");
        let address = client.stream().local_addr().expect("connected");
        let (worker, connection) = Captured::take_holder(&daemon.workers_now(), address);
        let mut worker = worker.stop();
        dismiss(&daemon, worker.pid);
        let pid = worker.pid;
        let flood = std::thread::spawn(move || {
            worker.say_endlessly(b'H', &handover(0, 1), &[connection.as_fd()], 1_000_000);
        });
        for round in 0..3 {
            let before = daemon.log_count("SIGUSR1");
            daemon.signal(Signal::SIGUSR1);
            wait_for("the signal to be heeded", || (daemon.log_count("SIGUSR1") > before).then_some(()));
            assert_eq!(get(daemon.port(0), "/").text(), "here\n", "{round}");
        }
        let is_done = is_killed(&daemon, pid, "HandOver came too often");
        flood.join().expect("it ends with its socket");
        drop(client);
        assert_well(&daemon, 2, fds);
        if is_done {
            break;
        }
    }
}

/// Each new worker is taken over as soon as it starts: the delays grow, and the sibling serves.
#[test]
fn a_worker_that_is_always_hostile_comes_back_ever_later() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let spared = daemon.workers_now()[0];
    for pause in ["", "the next one starts in 100 ms", "the next one starts in 200 ms", "starts in 400 ms"] {
        let victim =
            wait_for("another worker", || daemon.workers_now().into_iter().find(|pid| *pid != spared));
        Captured::take(victim).send(b"?", &[]);
        assert!(is_killed(&daemon, victim, "no message"));
        daemon.wait_log(pause);
    }
    (0..10).for_each(|_| assert_eq!(get(daemon.port(0), "/").text(), "here\n"));
}

#[test]
fn shared_memory_full_of_anything_stops_neither_requests_nor_reload_nor_upgrade() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("origin\n");
    let daemon = start(2, &origin.address());
    assert_eq!(get(daemon.port(0), "/proxied").text(), "origin\n");
    assert_eq!(get(daemon.port(0), "/limited?key=a").text(), "origin\n");
    let worker = Captured::take(daemon.workers_now()[0]);
    let memory = worker.memory();
    let bytes = memory.metadata().expect("a file").len();
    // Its parts: header, lanes, names, counters, words in use, histograms.
    let mut noise = vec![0; 1 << 20];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut noise)).expect("noise");
    for pattern in [vec![0; 1 << 20], vec![0xff; 1 << 20], noise] {
        for at in (0..bytes.min(48 << 20)).step_by(1 << 20) {
            memory.write_all_at(&pattern, at).expect("it may write there");
        }
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
        let is_back = || (get(daemon.port(0), "/proxied").status == 200).then_some(());
        daemon.workers_now().into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        wait_for("the next workers", || (daemon.workers_now().len() == 2).then_some(()));
        daemon.reload();
        wait_for("the upstream, after its fail_timeout", is_back);
        wait_for("the limit to be free", || {
            (get(daemon.port(0), "/limited?key=a").status == 200).then_some(())
        });
    }
    leave_to_the_next(&daemon);
    assert_eq!(get(daemon.port(0), "/proxied").text(), "origin\n");
}

/// All lanes get owners, and all of these claim to have been in one turn since the machine started, or to
/// have begun in the far future.
#[test]
fn forged_owners_and_signs_of_life_take_nothing_from_anybody() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let workers = daemon.workers_now();
    let memory = Captured::take(workers[0]).memory();
    for beat in [1_u64 << 2 | 1, u64::MAX, !2, 2, 0] {
        for at in (LANES_AT..LANES_AT + LANES_BYTES).step_by(LANE_BYTES as usize) {
            poke(&memory, at, 1); // its owner: process 1, which is always alive
            poke(&memory, at + 16, beat);
        }
        // The master checks several times meanwhile.
        let asked = daemon.log_count("SIGUSR1");
        for _ in 0..10 {
            assert_eq!(get(daemon.port(0), "/").text(), "here\n");
            daemon.signal(Signal::SIGUSR1);
        }
        wait_for("signals to be heeded", || (daemon.log_count("SIGUSR1") > asked).then_some(()));
    }
    assert_eq!(daemon.log_count("is stuck"), 0, "nobody is");
    assert_eq!(daemon.workers_now(), workers);
    for at in (LANES_AT + LANE_BYTES..LANES_AT + LANES_BYTES).step_by(LANE_BYTES as usize) {
        poke(&memory, at, 1);
    }
    send(workers[0], Signal::SIGKILL);
    send(workers[1], Signal::SIGKILL);
    wait_for("other workers", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.iter().any(|pid| workers.contains(pid))).then_some(())
    });
    daemon.reload();
    leave_to_the_next(&daemon);
}

/// Upgrades, and makes the old master leave.
fn leave_to_the_next(daemon: &Daemon) {
    let new = super::upgrade::upgrade(daemon);
    assert_eq!(process::children(new).len(), 2);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    send(daemon.pid(), Signal::SIGQUIT);
    daemon.follow(new);
    wait_for("the old master to leave", || (daemon.read("pronghorn.pid.oldbin").is_empty()).then_some(()));
}

#[test]
fn listening_sockets_that_a_worker_has_shut_listen_again() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let shut = |daemon: &Daemon| {
        let worker = Captured::take(daemon.workers_now()[0]);
        for listener in worker.listeners() {
            // An error means that another copy of the socket is shut down already.
            let _ = socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Read);
        }
        assert!(!process::is_listening(daemon.port(0)));
        worker.pid
    };
    // Shutting one is enough: the sibling has the same sockets.
    let pid = shut(&daemon);
    send(pid, Signal::SIGKILL);
    daemon.wait_log("a listening socket of 127.0.0.1:.* no longer listens: a worker must have changed it");
    wait_for("the address to listen", || process::is_listening(daemon.port(1)).then_some(()));
    (0..20).for_each(|_| assert_eq!(get(daemon.port(0), "/").text(), "here\n"));
    let _ = shut(&daemon);
    daemon.reload();
    (0..20).for_each(|_| assert_eq!(get(daemon.port(1), "/").text(), "here\n"));
}

#[test]
fn listening_sockets_with_a_filter_of_somebody_s_are_replaced() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2, "127.0.0.1:1");
    let old = daemon.workers_now();
    let worker = Captured::take(old[0]);
    for listener in worker.listeners() {
        captured::drop_all_for_good(&listener);
    }
    send(worker.pid, Signal::SIGKILL);
    daemon.wait_log("a listening socket of 127.0.0.1:.* has a filter: .* another one is opened");
    wait_for("two new workers", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.iter().any(|pid| old.contains(pid))).then_some(())
    });
    (0..20).for_each(|_| assert_eq!(get(daemon.port(0), "/").text(), "here\n"));
    daemon.reload();
    (0..20).for_each(|_| assert_eq!(get(daemon.port(1), "/").text(), "here\n"));
}

#[test]
fn siblings_that_a_worker_has_stopped_are_found_and_replaced() {
    if is_stand_in() {
        return;
    }
    let conf = CONF.replace("http {", "worker_watchdog 1s;\nhttp {");
    let daemon = Setup::new(&conf).set("WORKERS", 3).set("ORIGIN", "127.0.0.1:1").level("notice").start();
    daemon.reload();
    let workers = daemon.workers_now();
    workers[1..].iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    let replaced = || {
        let _ = get(daemon.port(0), "/");
        let now = daemon.workers_now();
        (now.len() == 3 && !workers[1..].iter().any(|pid| now.contains(pid))).then_some(())
    };
    wait_for("others in their places", replaced);
}
