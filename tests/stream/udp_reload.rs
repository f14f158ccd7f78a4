//! Sessions of UDP over reloads, an upgrade, and its undoing: each keeps the socket of its upstream, so the upstream sees
//! one client per client, however often workers change.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::upgrade;
use crate::support::daemon::send;
use crate::support::deadline::deadline;
use crate::support::{Daemon, Setup, process, wait_for};

/// A server that answers each datagram with the address from which it came, and tells the test.
struct Names {
    port: u16,
    seen: Receiver<(SocketAddr, Vec<u8>)>,
    socket: UdpSocket,
}

impl Names {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("bound").port();
        let (tell, seen) = channel();
        let own = socket.try_clone().expect("a copy");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, from)) = own.recv_from(&mut buffer) {
                let _ = own.send_to(from.port().to_string().as_bytes(), from);
                if tell.send((from, buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
        Self { port, seen, socket }
    }
}

fn client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(deadline())).expect("a timeout");
    socket.connect(("127.0.0.1", port)).expect("connects");
    socket
}

fn answer(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("an answer");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The port from which the server gets this client's datagrams.
fn ask(socket: &UdpSocket) -> String {
    socket.send(b"?").expect("sent");
    answer(socket)
}

fn start(names: &Names, workers: usize, settings: &str) -> Daemon {
    let conf = "worker_processes %%WORKERS%%; events { worker_connections 4096; } stream {
        log_format session '$status $bytes_received/$bytes_sent $upstream_bytes_sent/$upstream_bytes_received';
        access_log %%DIR%%/session.log session;
        upstream app { server 127.0.0.1:%%UPSTREAM%%; }
        server { listen 127.0.0.1:%%PORT_0%% udp; proxy_pass app; %%SETTINGS%% }
        server { listen %%PORT_1%% udp; proxy_pass app; }
        server { listen 127.0.0.1:%%PORT_2%%; return here; }
    }";
    let conf = conf.replace("%%SETTINGS%%", settings);
    let setup = Setup::new(&conf).set("UPSTREAM", names.port).set("WORKERS", workers);
    setup.level("info").in_background().start()
}

fn clients_of(daemon: &Daemon, count: usize) -> Vec<(UdpSocket, String)> {
    let clients = (0..count).map(|_| client(daemon.port(0)));
    let clients: Vec<_> = clients.map(|socket| (ask(&socket), socket)).map(|(port, it)| (it, port)).collect();
    let ports: HashSet<&String> = clients.iter().map(|(_, port)| port).collect();
    assert_eq!(ports.len(), count, "each has a socket of its own");
    clients
}

/// All clients ask, at different times; each is answered through the socket that it had.
fn all_are_as_before(clients: &[(UdpSocket, String)]) {
    for (index, (socket, port)) in clients.iter().enumerate() {
        assert_eq!(&ask(socket), port, "client {index}");
    }
}

#[test]
fn sessions_keep_their_upstream_over_reloads_with_traffic() {
    let names = Names::start();
    let daemon = start(&names, 2, "proxy_timeout 1m;");
    let clients = clients_of(&daemon, 200);
    for _ in 0..5 {
        let old = daemon.workers();
        daemon.signal(Signal::SIGHUP);
        // While the generations change.
        all_are_as_before(&clients);
        wait_for("the old workers to leave", || old.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
        all_are_as_before(&clients);
    }
    assert_eq!(daemon.complaints("alert|emerg|crit|error|warn"), Vec::<String>::new());
}

/// A control socket holds about 200 of them: a session must wait for the worker that gets its client's datagrams.
#[test]
fn more_sessions_than_the_control_sockets_hold_find_their_clients() {
    let names = Names::start();
    let daemon = start(&names, 2, "proxy_timeout 5m;");
    let clients = clients_of(&daemon, 1_000);
    for _ in 0..2 {
        let old = daemon.workers();
        daemon.reload();
        wait_for("the old workers to leave", || old.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
        if daemon.log().contains("is stuck") {
            return; // this machine has no time for it, and the sessions of a stuck worker go to its sibling
        }
        all_are_as_before(&clients);
    }
    assert_eq!(daemon.complaints("alert|emerg|crit|error"), Vec::<String>::new());
}

/// Stops a worker, and waits until the master has noticed: connections wait in its queue, and it does not answer.
fn stop(daemon: &Daemon, worker: i32) -> Vec<TcpStream> {
    send(worker, Signal::SIGSTOP);
    let connect = |_| TcpStream::connect(("127.0.0.1", daemon.port(2))).expect("a connection");
    // Each worker has a queue of its own: one of them is in that of this worker.
    let clients = (0..24).map(connect).collect();
    daemon.wait_log(&format!("process {worker} .*stuck"));
    clients
}

#[test]
fn sessions_of_a_worker_that_is_stuck_when_it_is_told_to_leave_stay() {
    let names = Names::start();
    let daemon = start(&names, 1, "");
    let clients = clients_of(&daemon, 20);
    daemon.wait_log("generation 1 serves");
    let old = daemon.workers()[0];
    let _waiting = stop(&daemon, old);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2 serves");
    for (socket, _) in &clients {
        socket.send(b"?").expect("sent");
    }
    send(old, Signal::SIGCONT);
    for (socket, port) in &clients {
        assert_eq!(&answer(socket), port);
    }
    wait_for("the old worker to leave", || (!process::is_alive(old)).then_some(()));
    all_are_as_before(&clients);
}

#[test]
fn sessions_wait_for_their_next_worker_while_it_is_stuck() {
    let names = Names::start();
    let daemon = start(&names, 2, "");
    let clients = clients_of(&daemon, 40);
    daemon.wait_log("generation 1 serves");
    let old = daemon.workers();
    // They keep their sessions until the next one is stuck.
    old.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2 serves");
    let new = daemon.workers_now().into_iter().find(|pid| !old.contains(pid)).expect("a new worker");
    let _waiting = stop(&daemon, new);
    let since = Instant::now();
    old.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    wait_for("the old workers to leave", || old.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
    send(new, Signal::SIGCONT);
    if since.elapsed() > Duration::from_millis(500) {
        return; // this machine had no time for it, and the sessions may have gone to the worker's sibling
    }
    all_are_as_before(&clients);
}

#[test]
fn sessions_find_their_clients_whatever_the_number_of_workers() {
    let names = Names::start();
    let daemon = start(&names, 1, "");
    let clients = clients_of(&daemon, 40);
    for (before, after) in [(1, 3), (3, 2), (2, 4)] {
        daemon.rewrite(|text| {
            text.replace(&format!("worker_processes {before};"), &format!("worker_processes {after};"))
        });
        let old = daemon.workers();
        daemon.reload();
        wait_for("the old workers to leave", || old.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
        all_are_as_before(&clients);
    }
}

#[test]
fn an_answer_that_comes_after_a_reload_reaches_its_client_from_the_address_that_it_had_asked() {
    let names = Names::start();
    let daemon = start(&names, 2, "");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(deadline())).expect("a timeout");
    socket.connect(("127.0.0.5", daemon.port(1))).expect("connects");
    let port = ask(&socket);
    let old = daemon.workers();
    daemon.reload();
    wait_for("the old workers to leave", || old.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
    let (from, _) = names.seen.recv_timeout(deadline()).expect("it was asked");
    names.socket.send_to(b"late", from).expect("sent");
    // The client is connected: it would not take a datagram from another address.
    assert_eq!(answer(&socket), "late");
    assert_eq!(ask(&socket), port);
}

#[test]
fn counts_times_and_numbers_go_on() {
    let names = Names::start();
    let daemon = start(&names, 1, "proxy_requests 3; proxy_responses 1;");
    let socket = client(daemon.port(0));
    let port = ask(&socket);
    daemon.reload();
    assert_eq!([ask(&socket), ask(&socket)], [port.clone(), port.clone()]);
    let bytes = 3 * port.len();
    daemon.wait_line("session.log", &format!("^200 3/{bytes} 3/{bytes}$"));
    assert_ne!(ask(&socket), port, "the fourth datagram begins a session");
}

#[test]
fn the_time_of_an_idle_session_goes_on() {
    let names = Names::start();
    let daemon = start(&names, 1, "proxy_timeout 2s;");
    let begun = Instant::now();
    let socket = client(daemon.port(0));
    ask(&socket);
    for _ in 0..3 {
        daemon.reload();
    }
    daemon.wait_log("udp timed out, packets from/to client:1/1");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    daemon.wait_line("session.log", "^200 ");
    let lines = daemon.read("session.log");
    assert_eq!(lines.lines().count(), 1, "{lines}");
}

#[test]
fn a_session_whose_address_is_gone_ends_and_keeps_no_worker() {
    let names = Names::start();
    let daemon = start(&names, 1, "");
    let socket = client(daemon.port(0));
    ask(&socket);
    let old = daemon.workers();
    let port = daemon.port(0);
    daemon.rewrite(|text| text.replace(&format!("127.0.0.1:{port} "), &format!("127.0.0.9:{port} ")));
    daemon.reload();
    daemon.wait_log("the session of udp client .* ends: .* is not configured any more");
    wait_for("the old worker to leave", || old.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
}

#[test]
fn clients_of_a_worker_that_is_killed_are_answered_at_once_in_new_sessions() {
    let names = Names::start();
    for workers in [1, 2] {
        let daemon = start(&names, workers, "");
        let clients = clients_of(&daemon, 40);
        let victim = daemon.workers()[0];
        send(victim, Signal::SIGKILL);
        daemon.wait_log("exited on signal 9");
        // Datagrams may wait in its sockets for its successor.
        let after: Vec<String> = clients.iter().map(|(socket, _)| ask(socket)).collect();
        let kept = clients.iter().zip(&after).filter(|((_, port), after)| port == *after).count();
        assert_eq!(kept == 0, workers == 1, "those of its sibling go on: {kept} of 40");
        let again: Vec<String> = clients.iter().map(|(socket, _)| ask(socket)).collect();
        assert_eq!(again, after, "nothing is left behind in a socket that nobody reads");
    }
}

#[test]
fn an_upgrade_takes_sessions_along() {
    let names = Names::start();
    let daemon = start(&names, 2, "");
    let clients = clients_of(&daemon, 100);
    let old = daemon.pid();
    let new = upgrade::upgrade(&daemon);
    // Both masters have workers now.
    all_are_as_before(&clients);
    send(old, Signal::SIGQUIT);
    all_are_as_before(&clients);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    all_are_as_before(&clients);
    daemon.reload();
    all_are_as_before(&clients);
}

#[test]
fn an_upgrade_that_is_undone_brings_sessions_back() {
    let names = Names::start();
    let daemon = start(&names, 2, "");
    let clients = clients_of(&daemon, 20);
    let old = daemon.pid();
    let new = upgrade::upgrade(&daemon);
    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || upgrade::workers_of(old, new).is_empty().then_some(()));
    all_are_as_before(&clients);
    send(old, Signal::SIGHUP);
    wait_for("the old master's workers", || (upgrade::workers_of(old, new).len() == 2).then_some(()));
    send(new, Signal::SIGQUIT);
    wait_for("the new master to end", || (!process::is_alive(new)).then_some(()));
    all_are_as_before(&clients);
    let sources: HashSet<SocketAddr> = names.seen.try_iter().map(|(from, _)| from).collect();
    assert_eq!(sources.len(), 20);
}
