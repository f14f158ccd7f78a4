//! The promises of pen to its users: clients come back to their server, also after it was gone, and limits change while it serves.
//! TLS in front of plain TCP is in `tls.rs`, clients that stay with a server over a reload in `balance.rs`.

use std::collections::BTreeMap;

use crate::control::ctl;
use crate::support::{Client, Daemon, Origin, Setup, port, wait_for};

/// A server that tells its port to each client.
fn teller(port: u16) -> Origin {
    Origin::start_on(port, move |peer| {
        let _ = peer.try_send(format!("{port};").as_bytes());
        peer.rest();
    })
}

/// The port that this client is told.
fn ask(daemon: &Daemon, client: &str) -> u16 {
    let mut connection = Client::connect(daemon.port(0));
    connection.send(format!("PROXY TCP4 {client} 127.0.0.1 1000 80\r\n"));
    let mut told = String::new();
    while !told.ends_with(';') {
        told.push(char::from(connection.exactly(1)[0]));
    }
    told.trim_end_matches(';').parse().expect("a port")
}

#[test]
fn the_clients_of_a_dead_server_move_and_come_back() {
    let ports = [port::free(), port::free(), port::free()];
    let mut origins: BTreeMap<u16, Origin> = ports.iter().map(|port| (*port, teller(*port))).collect();
    let servers: String = ports.iter().map(|port| format!("server 127.0.0.1:{port};\n")).collect();
    let conf = "stream {
        upstream app { %%SERVERS%% hash $remote_addr consistent; health_check interval=50ms; }
        server { listen 127.0.0.1:%%PORT_0%% proxy_protocol; set_real_ip_from 127.0.0.1; proxy_pass app; }
    }";
    let daemon = Setup::new(conf).set("SERVERS", servers).level("info").start();
    let clients: Vec<String> = (1..=24).map(|number| format!("10.0.{number}.1")).collect();
    let all = || -> Vec<u16> { clients.iter().map(|client| ask(&daemon, client)).collect() };
    let before = all();
    assert_eq!(all(), before, "a client comes back");
    let dead = before[0];
    assert!(before.iter().any(|port| *port != dead), "not all at one: {before:?}");
    drop(origins.remove(&dead));
    daemon.wait_log(&format!("peer is unhealthy while .* of peer 127.0.0.1:{dead} "));
    let moved = all();
    for (now, then) in moved.iter().zip(&before) {
        assert!(*now != dead && (now == then || *then == dead), "{now} instead of {then}");
    }
    assert_eq!(all(), moved, "those that have moved come back to where they are now");
    origins.insert(dead, teller(dead));
    daemon.wait_log(&format!("peer is healthy while .* of peer 127.0.0.1:{dead} "));
    assert_eq!(all(), before, "everybody is back");
}

#[test]
fn limits_on_connections_and_on_clients_change_while_it_serves() {
    let origin = Origin::start(|peer| {
        let _ = peer.try_send(b"open");
        peer.rest();
    });
    let conf = r#"control %%DIR%%/ctl;
    stream {
        keyval_zone zone=bounded:32k;
        keyval $remote_addr $is_bounded zone=bounded;
        map $is_bounded $client { yes $remote_addr; default ""; }
        limit_conn_zone $client zone=clients:32k;
        upstream app { zone app 64k; server %%ORIGIN%%; server 127.0.0.1:1 down; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; limit_conn clients 1; }
    }"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let worker = daemon.worker();
    let order = |words: &[&str]| {
        let (code, _, told) = ctl(&daemon, words);
        assert_eq!(code, 0, "{words:?}: {told}");
    };
    let open = || {
        let mut client = Client::connect(daemon.port(0));
        client.try_exactly(4).map(|_| client)
    };
    // True if so many clients can be connected at a time, and no more.
    let admits = |most: usize| {
        let clients: Vec<Client> = (0..=most).map_while(|_| open()).collect();
        let is_so = clients.len() == most;
        let ended = origin.ended() + clients.len();
        drop(clients);
        wait_for("their sessions to end", || (origin.ended() >= ended).then_some(()));
        is_so
    };
    let set = |limit: &str| order(&["set", "stream/app", &origin.address(), limit]);
    assert!(!admits(3), "there is no limit");
    for (limit, most) in [("max_conns=2", 2), ("max_conns=1", 1), ("max_conns=3", 3)] {
        set(limit);
        wait_for(limit, || admits(most).then_some(()));
    }
    set("max_conns=0");
    wait_for("no limit", || (!admits(3)).then_some(()));
    order(&["keyval", "set", "stream/bounded", "127.0.0.1", "yes"]);
    wait_for("a limit for the client", || admits(1).then_some(()));
    order(&["keyval", "remove", "stream/bounded", "127.0.0.1"]);
    wait_for("none again", || (!admits(1)).then_some(()));
    assert_eq!(daemon.worker(), worker, "nothing was started for it");
}
