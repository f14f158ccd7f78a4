//! Sessions over a reload, an upgrade and a graceful stop: a session moves to a worker of the new generation, with the bytes
//! on their way, what limits count and what its line in the log tells; on a stop it goes on in the worker that has it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::{syscalls, upgrade};
use crate::support::daemon::send;
use crate::support::tls::{Authority, TlsClient, trusting};
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, process, wait_for};

fn start(origin: &Origin, main: &str) -> Daemon {
    let conf = "%%MAIN%%
        stream {
            upstream app { server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }
            server { listen 127.0.0.1:%%PORT_1%%; return before; }
        }";
    Setup::new(conf).set("ORIGIN", origin.address()).set("MAIN", main).level("info").start()
}

fn ping(client: &mut Client, text: &str) {
    client.send(text);
    assert_eq!(client.exactly(text.len()), text.as_bytes());
}

fn wait_gone(workers: &[i32]) {
    wait_for("the old workers to leave", || workers.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

#[test]
fn a_session_moves_to_the_new_worker_and_the_old_one_is_gone() {
    let origin = Origin::echo();
    let daemon = start(&origin, "");
    let old = daemon.worker();
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    daemon.rewrite(|text| text.replace("return before", "return after"));
    daemon.signal(Signal::SIGHUP);
    wait_for("the new configuration", || {
        (Client::connect(daemon.port(1)).rest().0 == b"after").then_some(())
    });
    wait_gone(&[old]);
    ping(&mut client, "two");
    for _ in 0..3 {
        daemon.reload();
        ping(&mut client, "again");
    }
    assert_eq!(origin.accepted(), 1, "it is one connection all the time");
    drop(client);
    origin.wait_ended(1);
    daemon.wait_log("client disconnected, bytes from/to client:21/21, bytes from/to upstream:21/21");
}

#[test]
fn its_line_in_the_log_tells_of_its_whole_life() {
    let origin = Origin::echo();
    let conf = r"stream {
        map $before $mapped { ~^(?<digit>.) $digit; }
        limit_conn_zone $before zone=z:1m;
        upstream app { server %%ORIGIN%%; }
        log_format all '$status $bytes_received/$bytes_sent $upstream_addr $upstream_bytes_sent/$upstream_bytes_received'
            ' $upstream_connect_time $upstream_first_byte_time $session_time $before $limit_conn_status $proxy_protocol_addr $remote_addr $mapped';
        access_log %%DIR%%/session.log all;
        server {
            listen 127.0.0.1:%%PORT_0%% proxy_protocol;
            set_real_ip_from 127.0.0.0/8;
            set $before 7$remote_addr;
            limit_conn z 1;
            proxy_pass app;
        }
    }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n");
    ping(&mut client, "one");
    daemon.rewrite(|text| text.replace("set $before 7", "set $before 8"));
    daemon.reload();
    ping(&mut client, "three");
    drop(client);
    let line = daemon.wait_line("session.log", "200");
    let times = r"\d+\.\d{3}";
    let expected = format!(
        "^200 8/8 {} 8/8 {times} {times} {times} 7192.0.2.1 PASSED 192.0.2.1 192.0.2.1 7$",
        origin.address()
    );
    assert!(regex::Regex::new(&expected).expect("valid").is_match(&line), "{line}");
}

/// However many there are: a worker that closes its sockets one by one is killed before the last one, on a slow machine.
#[test]
fn a_fast_stop_writes_all_lines_before_the_first_client_sees_the_end() {
    const SESSIONS: usize = 1000;
    let origin = Origin::echo();
    let conf = "events { worker_connections 4096; }
        stream {
            log_format all '$status $bytes_sent';
            access_log %%DIR%%/session.log all;
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; }
        }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut clients: Vec<Client> = (0..SESSIONS).map(|_| Client::connect(daemon.port(0))).collect();
    clients.iter_mut().for_each(|client| ping(client, "one"));
    let old = daemon.worker();
    daemon.reload();
    wait_gone(&[old]);
    clients.iter_mut().for_each(|client| ping(client, "two"));
    let mut written = 0;
    let mut stop = || {
        daemon.signal(Signal::SIGTERM);
        clients[0].rest();
        written = daemon.read("session.log").lines().filter(|line| *line == "200 6").count();
        assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    };
    let calls = syscalls::counted(daemon.worker(), &daemon.path("strace"), &mut stop);
    if calls.is_none() {
        stop();
    }
    assert_eq!(written, SESSIONS);
    assert_eq!(daemon.log_count("is killed"), 0);
    let each = ["close", "shutdown", "epoll_ctl", "write"].map(|name| calls.as_ref()?.get(name).copied());
    let count: u64 = each.into_iter().flatten().sum();
    assert!(count < SESSIONS as u64, "{count} calls for {SESSIONS} sessions: {calls:?}");
}

/// Each connection takes two descriptors: a worker that were given nearly all of them could lack some.
#[test]
fn sessions_are_shared_out_evenly_although_a_worker_is_slow() {
    let origin = Origin::echo();
    let daemon = start(&origin, "worker_processes 2; events { worker_connections 4096; }");
    let mut clients: Vec<Client> = (0..1400).map(|_| Client::connect(daemon.port(0))).collect();
    clients.iter_mut().for_each(|client| ping(client, "one"));
    let old = daemon.workers();
    // They hand nothing over before one of the new workers sleeps.
    old.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2 serves");
    let new: Vec<i32> = daemon.workers_now().into_iter().filter(|pid| !old.contains(pid)).collect();
    let [fast, slow] = new[..] else { panic!("two new workers: {new:?}") };
    wait_for("it to sleep", || (process::state(slow) == Some('S')).then_some(()));
    send(slow, Signal::SIGSTOP);
    let before = process::fd_count(fast);
    old.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    // The slow one's socket has room for a few hundred, and its sibling waits for it after as many again. Otherwise the old
    // workers would be gone at once.
    wait_for("some sessions", || (process::fd_count(fast) > before + 400).then_some(()));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) {
        if daemon.log().contains("is stuck") {
            return; // it was in the middle of something, and nothing waits for a worker that is stuck
        }
        assert!(old.iter().any(|pid| process::is_alive(*pid)), "nothing waits for the slow worker");
        std::thread::sleep(Duration::from_millis(10));
    }
    send(slow, Signal::SIGCONT);
    wait_gone(&old);
    clients.iter_mut().for_each(|client| ping(client, "two"));
    let taken = process::fd_count(fast) - before;
    assert!(taken <= 1400 + 256, "one worker has taken {taken} of 2800 descriptors");
}

#[test]
fn limits_count_it_in_the_new_worker() {
    let origin = Origin::echo();
    let conf = "worker_processes 2; stream {
        limit_conn_zone $remote_addr zone=z:1m;
        upstream app { zone app 64k; server %%ORIGIN%% max_conns=2; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; limit_conn z 1; }
        server { listen 127.0.0.1:%%PORT_1%%; proxy_pass app; }
    }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    for _ in 0..2 {
        daemon.reload();
        ping(&mut client, "two");
        Client::connect(daemon.port(0)).expect_end(); // limit_conn
        let mut other = Client::connect(daemon.port(1));
        ping(&mut other, "other");
        Client::connect(daemon.port(1)).expect_end(); // max_conns
        drop(other);
        wait_for("the other session to end", || (origin.ended() + 1 == origin.accepted()).then_some(()));
    }
    drop(client);
    origin.wait_ended(3);
    wait_for("its places", || {
        let mut first = Client::connect(daemon.port(0));
        let mut second = Client::connect(daemon.port(1));
        let is_served = |client: &mut Client| {
            client.try_send(b"x").is_ok() && client.try_exactly(1).is_some_and(|bytes| bytes == b"x")
        };
        (is_served(&mut first) && is_served(&mut second)).then_some(())
    });
}

/// The client reads nothing while bytes come: pipes, buffers and sockets are full when the session moves.
#[test]
fn bytes_on_their_way_are_not_lost() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let origin = Origin::start(|peer| {
        peer.send(pattern(LENGTH));
        assert!(peer.exactly(100_000) == pattern(100_000), "what the origin got was changed");
        peer.send("end");
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    assert!(client.exactly(1_000_000) == pattern(LENGTH)[..1_000_000]);
    // The upload is on its way too; nobody reads it before the origin has sent all.
    client.send(pattern(100_000));
    for _ in 0..3 {
        daemon.reload();
    }
    assert!(
        client.exactly(LENGTH - 1_000_000) == pattern(LENGTH)[1_000_000..],
        "what the client got was changed"
    );
    assert_eq!(client.exactly(3), b"end");
    assert_eq!(client.expect_end(), End::Closed);
}

/// Moves bytes through a session in both directions, and returns how often its worker called splice(2), if that can be counted.
fn spliced(daemon: &Daemon, client: &mut Client, name: &str) -> Option<u64> {
    let bytes = pattern(4 * 1024 * 1024);
    let calls = syscalls::counted(daemon.worker(), &daemon.path(name), || {
        for part in bytes.chunks(256 * 1024) {
            client.send(part);
            assert!(client.exactly(part.len()) == part);
        }
    });
    calls.map(|calls| calls.get("splice").copied().unwrap_or(0))
}

#[test]
fn bulk_moves_inside_the_kernel_after_a_reload_too() {
    let origin = Origin::echo();
    let daemon = start(&origin, "worker_processes 1;");
    let mut client = Client::connect(daemon.port(0));
    let Some(before) = spliced(&daemon, &mut client, "before") else { return };
    let old = daemon.worker();
    daemon.reload();
    wait_gone(&[old]);
    let Some(after) = spliced(&daemon, &mut client, "after") else { return };
    println!("{before} calls of splice before the reload, {after} after it");
    assert!(before > 0 && after * 4 > before, "{before} calls of splice before the reload, {after} after it");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_direction_that_has_ended_stays_ended() {
    let (tell, told) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::start(move |peer| {
        assert_eq!(peer.rest().0, b"question");
        peer.send("thinking");
        told.lock().expect("not poisoned").recv().expect("the test goes on");
        peer.send("answer");
    });
    let conf =
        "stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; proxy_half_close on; } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send("question").half_close();
    assert_eq!(client.exactly(8), b"thinking");
    daemon.reload();
    tell.send(()).expect("the origin waits");
    assert_eq!(client.rest(), (b"answer".to_vec(), End::Closed));
}

/// The origin has closed, and both connections are closed in one direction at least, with bytes that nobody has read.
#[test]
fn an_answer_outlives_its_connection() {
    const LENGTH: usize = 40_000;
    let origin = Origin::start(|peer| {
        assert_eq!(peer.rest().0, b"question");
        peer.send(pattern(LENGTH));
    });
    let conf = "stream {
        log_format ends '$remote_addr $status $bytes_sent';
        access_log %%DIR%%/session.log ends;
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; proxy_half_close on;
            proxy_download_rate 20k; proxy_buffer_size 1k; }
    }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send("question").half_close();
    origin.wait_ended(1);
    daemon.reload();
    let (bytes, end) = client.rest();
    assert!(bytes == pattern(LENGTH), "{} of {LENGTH} bytes arrived", bytes.len());
    assert_eq!(end, End::Closed);
    assert_eq!(daemon.wait_line("session.log", "200"), format!("127.0.0.1 200 {LENGTH}"));
}

#[test]
fn a_session_goes_on_although_its_listener_is_gone() {
    let origin = Origin::echo();
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    daemon.rewrite(|text| {
        let line = text.lines().find(|line| line.contains("proxy_pass app")).expect("the server").to_owned();
        text.replace(&line, "")
    });
    daemon.reload();
    ping(&mut client, "two");
    daemon.reload();
    ping(&mut client, "three");
    drop(client);
    origin.wait_ended(1);
    daemon.wait_log(&format!(
        "a tunnel to {}, whose listener is not configured any more, has ended",
        origin.address()
    ));

    let mut client = Client::connect(daemon.port(1));
    assert_eq!(client.rest().0, b"before");
}

#[test]
fn a_session_goes_on_although_its_group_is_gone() {
    let origin = Origin::echo();
    let conf = "stream {
        log_format all '$status $bytes_received $upstream_addr';
        access_log %%DIR%%/session.log all;
        upstream app { server %%ORIGIN%%; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }
    }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    let other = Origin::echo();
    daemon.rewrite(|text| {
        text.replace("upstream app", "upstream other")
            .replace("pass app", "pass other")
            .replace(&format!("{};", origin.address()), &format!("{};", other.address()))
    });
    daemon.reload();
    ping(&mut client, "two");
    drop(client);
    let line = daemon.wait_line("session.log", "200");
    assert_eq!(line, format!("200 6 {}", origin.address()));
    assert_eq!(other.accepted(), 0);
}

#[test]
fn rates_and_time_limits_stay_those_of_its_beginning() {
    let origin = Origin::start(|peer| {
        peer.send(pattern(300_000));
        peer.rest();
    });
    let conf = "stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; %%MORE%% } }";
    let setup = Setup::new(conf).set("ORIGIN", origin.address());
    let daemon = setup.set("MORE", "proxy_download_rate 100k; proxy_timeout 1s;").level("info").start();
    let mut client = Client::connect(daemon.port(0));
    let began = std::time::Instant::now();
    assert!(client.exactly(1000) == pattern(1000));
    daemon.rewrite(|text| text.replace("proxy_download_rate 100k; proxy_timeout 1s;", "proxy_timeout 1h;"));
    daemon.reload();
    assert!(client.exactly(299_000) == pattern(300_000)[1000..]);
    assert!(began.elapsed().as_millis() >= 1_900, "the rate was forgotten: {:?}", began.elapsed());
    client.expect_end();
    daemon.wait_log("connection timed out");
}

#[test]
fn an_upgrade_takes_sessions_along() {
    let origin = Origin::echo();
    let conf =
        "worker_processes 2; stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").in_background().start();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
    clients.iter_mut().for_each(|client| ping(client, "one"));
    let old = daemon.pid();
    let new = upgrade::upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    clients.iter_mut().for_each(|client| ping(client, "two"));
    assert_eq!(origin.accepted(), 20);
    drop(clients);
    origin.wait_ended(20);
}

#[test]
fn an_upgrade_that_is_undone_brings_sessions_back() {
    let origin = Origin::echo();
    let conf =
        "worker_processes 2; stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").in_background().start();
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    let old = daemon.pid();
    let new = upgrade::upgrade(&daemon);
    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || upgrade::workers_of(old, new).is_empty().then_some(()));
    ping(&mut client, "two");
    send(old, Signal::SIGHUP);
    wait_for("the old master's workers", || (upgrade::workers_of(old, new).len() == 2).then_some(()));
    send(new, Signal::SIGQUIT);
    wait_for("the new master to end", || (!process::is_alive(new)).then_some(()));
    ping(&mut client, "three");
}

/// TLS on both sides, over versions 1.2 and 1.3, with records that are cut by the reload.
#[test]
fn encrypted_sessions_move_too() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let conf = "stream {
        log_format tls '$ssl_protocol $ssl_server_name $ssl_cipher $bytes_received/$bytes_sent $server_port';
        server {
            listen 127.0.0.1:%%PORT_1%% ssl; ssl_protocols %%VERSION%%;
            ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
            proxy_pass %%ORIGIN%%;
        }
        server {
            listen 127.0.0.1:%%PORT_0%% ssl; ssl_protocols %%VERSION%%;
            access_log %%DIR%%/tls.log tls;
            ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
            proxy_ssl on; proxy_ssl_protocols %%VERSION%%;
            proxy_pass 127.0.0.1:%%PORT_1%%;
        }
    }";
    for version in ["TLSv1.2", "TLSv1.3"] {
        let origin = Origin::start(|peer| {
            let bytes = peer.exactly(LENGTH);
            peer.send(bytes);
            peer.rest();
        });
        let authority = Authority::new("ca");
        let pair = authority.issue(&["a.test"]);
        let setup = Setup::new(conf).set("ORIGIN", origin.address()).set("VERSION", version);
        let daemon =
            setup.file("a.test.crt", &pair.certificate).file("a.test.key", &pair.key).level("info").start();
        let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "a.test");
        client.send(&pattern(LENGTH)[..1_000_000]);
        daemon.reload();
        client.send(&pattern(LENGTH)[1_000_000..]);
        // Nothing of the answer is read yet: it fills every buffer on its way.
        daemon.reload();
        daemon.reload();
        assert!(client.exactly(LENGTH) == pattern(LENGTH), "{version}: the bytes were changed");
        drop(client);
        let line = daemon.wait_line("tls.log", "TLS");
        let port = daemon.port(0);
        let end = format!(" {LENGTH}/{LENGTH} {port}");
        assert!(line.starts_with(&format!("{version} a.test ")) && line.ends_with(&end), "{line}");
    }
}

#[test]
fn the_name_that_chose_the_server_is_known_after_a_move() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["b.test"]);
    let conf = "stream {
        log_format names '$ssl_preread_server_name $ssl_preread_protocol $server_name';
        server { listen 127.0.0.1:%%PORT_0%%; ssl_preread on; return x; }
        server { listen 127.0.0.1:%%PORT_0%%; server_name b.test; ssl_preread on; proxy_pass 127.0.0.1:%%PORT_1%%;
                 access_log %%DIR%%/names.log names; }
        server { listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate b.crt; ssl_certificate_key b.key; proxy_pass %%ORIGIN%%; }
    }";
    let origin = Origin::echo();
    let setup = Setup::new(conf).set("ORIGIN", origin.address());
    let daemon = setup.file("b.crt", &pair.certificate).file("b.key", &pair.key).start();
    let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "b.test");
    client.send("one");
    assert_eq!(client.exactly(3), b"one");
    daemon.reload();
    client.send("two");
    assert_eq!(client.exactly(3), b"two");
    drop(client);
    assert_eq!(daemon.wait_line("names.log", "test"), "b.test TLSv1.3 b.test");
}

#[test]
fn a_graceful_stop_waits_for_sessions_up_to_its_timeout() {
    let origin = Origin::echo();
    let daemon = start(&origin, "worker_shutdown_timeout 300ms;");
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(client.expect_end(), End::Closed);
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
}
