//! `proxy_bind`: the local address of connections to upstreams. The origin responds with the address it sees.

use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_bind 127.0.0.2;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /here { proxy_bind 127.0.0.1; proxy_pass http://%%ORIGIN%%; }
        location /off { proxy_bind off; proxy_pass http://%%ORIGIN%%; }
        location /var { proxy_bind $arg_b; proxy_pass http://%%ORIGIN%%; }
        location /port { proxy_bind 127.0.0.3:$remote_port; proxy_pass http://%%ORIGIN%%; }
        location /transparent { proxy_bind $arg_b transparent; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn origin() -> Origin {
    Origin::start(|peer| {
        let address = peer.stream().peer_addr().expect("connected").to_string();
        while peer.request().is_some() {
            peer.send(ok(address.as_bytes()));
        }
    })
}

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start()
}

fn seen(daemon: &Daemon, path: &str) -> String {
    let text = get(daemon.port(0), path).text();
    text.rsplit_once(':').map_or(text.clone(), |(address, _)| address.to_owned())
}

#[test]
fn connections_come_from_the_address_that_is_bound() {
    let origin = origin();
    let daemon = start(&origin);
    for (path, address) in [
        ("/", "127.0.0.2"),
        ("/here", "127.0.0.1"),
        ("/off", "127.0.0.1"),
        ("/var?b=127.0.0.4", "127.0.0.4"),
        ("/var?b=127.0.0.5", "127.0.0.5"),
        ("/var?b=", "127.0.0.1"),
        ("/var?b=nonsense", "127.0.0.1"),
    ] {
        assert_eq!(seen(&daemon, path), address, "{path}");
    }
    daemon.wait_log("\\[error\\] .* invalid local address \"nonsense\"");
}

#[test]
fn the_port_may_be_the_clients() {
    let origin = origin();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let port = client.stream().local_addr().expect("connected").port();
    assert_eq!(client.get("/port").text(), format!("127.0.0.3:{port}"));
}

#[test]
fn a_connection_of_one_address_serves_no_other_request() {
    let origin = origin();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for address in ["127.0.0.6", "127.0.0.7", "127.0.0.6"] {
        assert!(client.get(&format!("/var?b={address}")).text().starts_with(&format!("{address}:")));
    }
    assert_eq!(origin.accepted(), 3);
    client.get("/");
    client.get("/");
    assert_eq!(origin.accepted(), 4, "others are kept");
}

#[test]
fn a_transparent_bind_keeps_the_one_capability_it_needs() {
    if !nix::unistd::geteuid().is_root() {
        return; // only root may bind so
    }
    let origin = origin();
    let daemon = start(&origin);
    assert_eq!(seen(&daemon, "/transparent?b=127.0.0.8"), "127.0.0.8");
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.worker())).expect("the worker lives");
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    if !line("Uid:").contains("\t0\t") {
        assert_eq!(line("CapEff:"), "CapEff:\t0000000000002000", "CAP_NET_RAW and nothing else");
        assert_eq!(line("CapPrm:"), "CapPrm:\t0000000000002000");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for (line, expected) in [
        ("proxy_bind nonsense;", "invalid address \"nonsense\""),
        ("proxy_bind 127.0.0.1 opaque;", "invalid parameter \"opaque\""),
        ("proxy_bind 127.0.0.1; proxy_bind off;", "\"proxy_bind\" directive is duplicate"),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {line} }} }}");
        let exit = Setup::new(&conf).try_start().err().expect("no start");
        assert!(exit.stderr.contains(expected), "{line}: {}", exit.stderr);
    }
}
