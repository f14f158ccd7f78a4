//! A worker at `worker_connections`, or without descriptors: connections that only wait give way, those being
//! served stay, and a request that loops back to its own server ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::daemon::is_stand_in;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 1;
events { worker_connections %%LIMIT%%; }
http {
    client_body_min_rate off;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location /reused { return 200 "$connections_reused"; }
        location /app { proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection; }
        location /refused { return 403; }
    }
    server { listen 127.0.0.1:%%PORT_1%% proxy_protocol; return 200 "here\n"; }
    server { listen unix:%%DIR%%/socket; return 200 "here\n"; }
}
"#;

fn start(limit: usize, origin: &Origin) -> Daemon {
    Setup::new(CONF).set("LIMIT", limit).set("ORIGIN", origin.address()).level("info").start()
}

/// Responds to `/app` once told to.
fn patient() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            let _ = wait.lock().expect("no test panics here").recv();
            if peer.try_send(&ok(b"app")).is_err() {
                return;
            }
        }
    });
    (origin, go) // in the order in which they may be dropped: the sender first
}

fn echo() -> Origin {
    Origin::start(|peer| {
        let Some(_) = peer.request() else { return };
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
        loop {
            let bytes = peer.some(4096);
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

/// Opens twice as many connections as there are places, each of which waits after `begin`, while a tunnel is
/// open. Then another client must be served, and the tunnel must still work.
fn gives_way(port: usize, begin: impl Fn(&mut Client)) {
    let origin = echo();
    let daemon = start(48, &origin);
    let mut tunnel = Client::connect(daemon.port(0));
    tunnel.send("GET /app HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(tunnel.response_head().status, 101);
    let others: Vec<Client> = (0..96)
        .map(|_| {
            let mut client = Client::connect(daemon.port(port));
            begin(&mut client);
            client
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    tunnel.send("still here");
    assert_eq!(tunnel.exactly(10), b"still here");
    // Those of another port may still wait in its queue.
    wait_for("half of them to be asked to close", || {
        let reused: usize = get(daemon.port(0), "/reused").text().parse().expect("a number");
        (reused >= 48).then_some(())
    });
    drop(others);
    let line = daemon.wait_log("are not enough, reusing connections");
    assert!(
        line.contains("48 worker_connections") && line.contains("raise \"worker_connections\""),
        "{line}"
    );
}

#[test]
fn silent_connections_give_way() {
    gives_way(0, |_| {});
}

#[test]
fn kept_alive_connections_give_way() {
    gives_way(0, |client| assert_eq!(client.get("/").text(), "here\n"));
}

#[test]
fn connections_inside_a_head_give_way() {
    gives_way(0, |client| {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    });
}

#[test]
fn closed_connections_that_linger_give_way() {
    gives_way(0, |client| {
        client.send(
            "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nConnection: close\r\n\r\nx",
        );
        assert_eq!(client.response().status, 403);
    });
}

#[test]
fn connections_without_their_proxy_header_give_way() {
    gives_way(1, |_| {});
    gives_way(1, |client| {
        client.send("PROXY TCP4 192.0.2.1");
    });
}

#[test]
fn heads_that_drip_do_not_become_younger() {
    if is_stand_in() {
        return; // nginx keeps them until their timeout
    }
    let origin = Origin::saying("x");
    let daemon = start(32, &origin);
    let mut dripping: Vec<Client> = (0..24)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            client.send("GET / HTTP/1.1\r\nX: ");
            client
        })
        .collect();
    let mut kept: Vec<Client> = (0..4).map(|_| Client::connect(daemon.port(0))).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    // Each byte comes after the kept-alive connections became idle, and none makes its head fast.
    std::thread::sleep(Duration::from_millis(1_100)); // the clients' pace, not a synchronisation
    for client in &mut dripping {
        client.send("a");
    }
    for _ in 0..12 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    let newcomers: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            assert_eq!(client.get("/").status, 200);
            client
        })
        .collect();
    for client in &mut kept {
        assert_eq!(client.get("/").status, 200, "older heads gave way");
    }
    drop(newcomers);
}

#[test]
fn connections_of_a_unix_socket_give_way() {
    let origin = Origin::saying("x");
    let daemon = start(48, &origin);
    let path = daemon.path("socket");
    let others: Vec<UnixStream> = (0..96).map(|_| UnixStream::connect(&path).expect("connects")).collect();
    let mut client = UnixStream::connect(&path).expect("connects");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("takes a request");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("answers");
    assert!(answer.ends_with("here\n"), "{answer}");
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    drop(others);
}

#[test]
fn the_longest_idle_one_goes_and_none_without_need() {
    let origin = Origin::saying("x");
    let daemon = start(if is_stand_in() { 12 } else { 8 }, &origin);
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    if is_stand_in() {
        return; // it counts its own descriptors too
    }
    // All places are taken, but no new client has come: all stay. The second now waits the longest.
    assert_eq!(clients[0].get("/").status, 200);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    clients[1].expect_end();
    for (index, client) in clients.iter_mut().enumerate().filter(|(index, _)| *index != 1) {
        assert_eq!(client.get("/").status, 200, "client {index}");
    }
}

#[test]
fn a_head_that_comes_fast_enough_lets_others_go_first() {
    if is_stand_in() {
        return; // nginx closes neither
    }
    let origin = Origin::saying("x");
    let daemon = start(8, &origin);
    let mut fast = Client::connect(daemon.port(0));
    // `client_header_min_rate` allows 40 s for these bytes.
    fast.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(4_000)));
    let mut idle: Vec<Client> = (0..7).map(|_| Client::connect(daemon.port(0))).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    idle[0].expect_end();
    fast.send("\r\n\r\n");
    assert_eq!(fast.response().text(), "here\n");
}

#[test]
fn one_that_is_served_never_gives_way() {
    let (origin, go) = patient();
    let daemon = start(40, &origin);
    // In the middle of a body, and waiting for a response.
    let mut uploads: Vec<Client> = (0..6).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut uploads {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nx");
    }
    let mut waiting: Vec<Client> = (0..6).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut waiting {
        client.send("GET /app HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_for("the requests at the origin", || (origin.requests().len() == 6).then_some(()));
    let silent: Vec<Client> = (0..80).map(|_| Client::connect(daemon.port(0))).collect();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    for client in &mut uploads {
        client.send("xyz");
        assert_eq!(client.response().text(), "here\n");
    }
    (0..6).for_each(|_| go.send(()).expect("the origin listens"));
    for client in &mut waiting {
        assert_eq!(client.response().text(), "app");
    }
    drop(silent);
}

#[test]
fn at_the_limit_others_wait_where_nothing_gives_way() {
    if is_stand_in() {
        return; // nginx refuses
    }
    let (origin, go) = patient();
    let daemon = start(16, &origin);
    let busy = || {
        let mut client = Client::connect(daemon.port(0));
        client.send("POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        client
    };
    let mut clients: Vec<Client> = (0..16).map(|_| busy()).collect();
    let mut last = Client::connect(daemon.port(0));
    last.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let line = daemon.wait_log("accepting pauses");
    assert!(line.contains("16 worker_connections are not enough"), "{line}");
    assert!(last.is_silent(Duration::from_millis(50)));
    clients.pop();
    assert_eq!(last.response().text(), "here\n");
    drop((clients, go));
}

/// Locations that pass requests to their own server, each in another way.
const LOOPS: &str = r#"
worker_processes 1;
events { worker_connections 64; }
http {
    upstream kept { server 127.0.0.1:%%PORT_0%%; keepalive 8; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen unix:%%DIR%%/socket;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location /fine { return 200 "fine\n"; }
        location /self { proxy_pass http://127.0.0.1:%%PORT_0%%; }
        location /kept { proxy_pass http://kept; }
        location /unix { proxy_pass http://unix:%%DIR%%/socket; }
        location /two { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /page { error_page 404 500 502 = @page; return 404; }
        location @page { proxy_pass http://127.0.0.1:%%PORT_0%%; }
        location /auth { auth_request /ask; alias %%DIR%%/html/page.html; }
        location = /ask { proxy_pass http://127.0.0.1:%%PORT_0%%/auth; }
        location /ssi { ssi on; alias %%DIR%%/html/page.html; default_type text/html; }
        location /include { proxy_pass http://127.0.0.1:%%PORT_0%%/ssi; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; location / { proxy_pass http://127.0.0.1:%%PORT_0%%; } }
}
"#;

#[test]
fn requests_that_come_back_end_at_the_limit() {
    let daemon = Setup::new(LOOPS)
        .file("html/page.html", r#"a<!--#include virtual="/include" -->b"#)
        .level("info")
        .start();
    for way in ["self", "kept", "unix", "two", "page", "auth"] {
        let response = get(daemon.port(0), &format!("/{way}"));
        assert!(matches!(response.status, 500 | 502), "/{way}: {}", response.status);
        assert_eq!(get(daemon.port(0), "/fine").text(), "fine\n", "after /{way}");
    }
    assert_eq!(get(daemon.port(0), "/ssi").status, 200);
    assert_eq!(get(daemon.port(0), "/fine").text(), "fine\n");
    daemon.wait_log("64 worker_connections are not enough while connecting to upstream");
}

#[test]
fn a_server_is_not_blamed_for_places_that_are_missing() {
    if is_stand_in() {
        return; // nginx counts its own descriptors too
    }
    let (origin, go) = patient();
    let daemon = start(16, &origin);
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(daemon.port(0))).collect();
    clients.iter_mut().for_each(|client| {
        client.send("GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    });
    daemon.wait_log("16 worker_connections are not enough while connecting to upstream");
    (0..20).for_each(|_| go.send(()).expect("the origin listens"));
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&500), "{statuses:?}");
    assert_eq!(get(daemon.port(0), "/app").status, 200);
    assert_eq!(daemon.log_count("temporarily disabled|no live upstreams"), 0);
}

#[test]
fn accepting_rests_after_a_failure_where_no_client_is_open_too() {
    let daemon = Setup::new("http { server { listen 127.0.0.1:%%PORT_0%%; return 200 here; } }").start();
    let worker = daemon.worker();
    process::close_table(worker);
    let began = Instant::now();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the third failure", || (daemon.log_count("accept4\\(\\) failed \\(24") >= 3).then_some(()));
    assert!(began.elapsed() >= Duration::from_millis(900), "three failures in {:?}", began.elapsed());
    process::limit_descriptors(worker, 4096);
    assert_eq!(client.response().text(), "here");
}

#[test]
fn idle_connections_give_their_descriptors_to_clients_that_come() {
    let daemon = Setup::new("http { server { listen 127.0.0.1:%%PORT_0%%; return 200 here; } }").start();
    let mut idle = Client::connect(daemon.port(0));
    assert_eq!(idle.get("/").text(), "here");
    if is_stand_in() {
        return; // nginx waits
    }
    process::close_table(daemon.worker());
    assert_eq!(get(daemon.port(0), "/").text(), "here");
    idle.expect_end();
    let line = daemon.wait_log("descriptors are not enough, reusing connections");
    assert!(line.contains("raise \"worker_rlimit_nofile\""), "{line}");
}

#[test]
fn kept_connections_to_servers_go_before_clients_where_descriptors_are_short() {
    if is_stand_in() {
        return; // nginx fails the request
    }
    let origin = Origin::saying("x");
    let other = Origin::saying("y");
    let conf = r#"
http {
    upstream a { server %%A%%; keepalive 4; }
    upstream b { server %%B%%; keepalive 4; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location /a { proxy_pass http://a; }
        location /b { proxy_pass http://b; }
    }
}
"#;
    let daemon = Setup::new(conf).set("A", origin.address()).set("B", other.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/a").text(), "x");
    process::close_table(daemon.worker());
    // The next connection needs the descriptor of the kept one, and the client stays.
    assert_eq!(client.get("/b").text(), "y");
    origin.wait_ended(1);
    assert_eq!(client.get("/a").text(), "x");
    other.wait_ended(1);
}

#[test]
fn idle_connections_give_their_descriptors_to_files() {
    if is_stand_in() {
        return; // nginx fails the request
    }
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; location / { root %%DIR%%/html; } } }";
    let daemon = Setup::new(conf).file("html/file", "text").start();
    let mut idle = Client::connect(daemon.port(0));
    assert_eq!(idle.get("/nothing").status, 404);
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/nothing").status, 404);
    process::close_table(daemon.worker());
    assert_eq!(client.get("/file").text(), "text");
    idle.expect_end();
}

#[test]
fn a_request_fails_alone_where_no_descriptor_can_be_had() {
    let origin = Origin::saying("x");
    let conf = r#"
http {
    upstream a { server %%A%% max_fails=1; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /a { proxy_pass http://a; }
        location / { return 200 "here"; }
    }
}
"#;
    let daemon = Setup::new(conf).set("A", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/").text(), "here");
    let worker = daemon.worker();
    process::close_table(worker);
    assert_eq!(client.get("/a").status, 500);
    daemon.wait_log("socket\\(\\) failed \\(24: .* while connecting to upstream");
    process::limit_descriptors(worker, 4096);
    assert_eq!(get(daemon.port(0), "/a").text(), "x", "the server is not blamed");
    assert_eq!(daemon.log_count("temporarily disabled"), 0);
}

/// Two workers, one of which a test can fill: `/pid` shows which one serves, and a request without its body
/// keeps a place.
const TWO: &str = r#"
worker_processes 2;
events { worker_connections 24; }
http {
    client_body_timeout 60s;
    client_body_min_rate off;
    server { listen 127.0.0.1:%%PORT_0%%; location /pid { return 200 "$pid"; } location / { return 200 "here"; } }
}
"#;

fn served_by(client: &mut Client) -> i32 {
    client.get("/pid").text().parse().expect("a process id")
}

/// Opens connections that take all places of one worker.
fn fill(daemon: &Daemon, worker: i32) -> Vec<Client> {
    let mut busy = Vec::new();
    while busy.len() < 24 {
        let mut client = Client::connect(daemon.port(0));
        if served_by(&mut client) == worker {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
            busy.push(client);
        }
    }
    busy
}

fn two_workers() -> (Daemon, i32, i32) {
    let daemon = Setup::new(TWO).level("notice").start();
    let workers = wait_for("two workers", || Some(daemon.workers()).filter(|workers| workers.len() == 2));
    (daemon, workers[0], workers[1])
}

#[test]
fn a_full_worker_leaves_new_connections_to_its_sibling_until_it_has_room() {
    if is_stand_in() {
        return; // nginx has one queue
    }
    let (daemon, full, other) = two_workers();
    let busy = fill(&daemon, full);
    // Some of these arrive in the full worker's queue, before the master knows.
    for _ in 0..40 {
        let mut client = Client::connect(daemon.port(0));
        assert_eq!(served_by(&mut client), other);
    }
    daemon.wait_log(&format!("worker process {full} .* can take no more connections"));
    assert_eq!(daemon.log_count("can take no more connections"), 1);
    for mut client in busy {
        client.send("x");
        assert_eq!(client.response().text(), "here");
    }
    daemon.wait_log(&format!("worker process {full} has room again"));
    wait_for("the worker to be chosen again", || {
        (served_by(&mut Client::connect(daemon.port(0))) == full).then_some(())
    });
    assert_eq!(daemon.log_count("is stuck"), 0);
}

#[test]
fn where_all_workers_are_full_a_client_waits_for_the_first_that_has_room() {
    if is_stand_in() {
        return; // nginx refuses
    }
    let (daemon, first, second) = two_workers();
    let mut busy = fill(&daemon, first);
    busy.extend(fill(&daemon, second));
    let mut waiting: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    for worker in [first, second] {
        daemon.wait_log(&format!("worker process {worker} .* can take no more connections"));
    }
    busy.truncate(24); // frees the second one's places
    for client in &mut waiting {
        assert_eq!(client.response().text(), "here");
    }
}

#[test]
fn a_worker_without_descriptors_leaves_new_connections_to_its_sibling() {
    if is_stand_in() {
        return; // nginx has one queue
    }
    let (daemon, short, other) = two_workers();
    let mut busy: Vec<Client> = Vec::new();
    while busy.is_empty() {
        let mut client = Client::connect(daemon.port(0));
        if served_by(&mut client) == short {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
            busy.push(client);
        }
    }
    process::close_table(short);
    for _ in 0..20 {
        assert_eq!(served_by(&mut Client::connect(daemon.port(0))), other);
    }
    process::limit_descriptors(short, 4096);
    wait_for("the worker to be chosen again", || {
        (served_by(&mut Client::connect(daemon.port(0))) == short).then_some(())
    });
}
