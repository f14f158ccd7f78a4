//! The placement of keys and networks on servers: a real nginx and our daemon, one after the other on the
//! same configuration and the same addresses, must send every request to the same server.
//!
//! The servers are addresses of the daemon itself, which answers with the address that was asked. Some are
//! down or refuse connections, so that second choices are compared too. Nothing is masked and nothing marked.

use std::path::Path;

use crate::nginx;
use crate::support::{Client, Setup, port};

const CONF: &str = r#"
worker_processes 1;
http {
    proxy_connect_timeout 5s;
    keepalive_requests 100000;
    proxy_next_upstream_tries 0;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    client_body_temp_path %%DIR%%/a; proxy_temp_path %%DIR%%/b; fastcgi_temp_path %%DIR%%/c; uwsgi_temp_path %%DIR%%/d; scgi_temp_path %%DIR%%/e;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Real-IP;
    upstream hash { hash $arg_k; %%EVEN%% }
    upstream hash_weights { hash $arg_k; %%WEIGHTS%% }
    upstream hash_faults { hash "$arg_k"; %%FAULTS%% }
    upstream ring { hash $arg_k consistent; %%EVEN%% }
    upstream ring_weights { hash $arg_k consistent; %%WEIGHTS%% }
    upstream ring_faults { hash "$arg_k" consistent; %%FAULTS%% }
    upstream network { ip_hash; %%EVEN%% }
    upstream network_weights { ip_hash; %%WEIGHTS%% }
    upstream network_faults { ip_hash; %%FAULTS%% }
    upstream least { least_conn; %%WEIGHTS%% }
    upstream turns { %%WEIGHTS%% }
    upstream turns_faults { %%FAULTS%% }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location ~ ^/(\w+) { proxy_pass http://$1; }
    }
    server {
        listen 127.0.0.2:%%AT%%; listen 127.0.0.3:%%AT%%; listen 127.0.0.4:%%AT%%; listen 127.0.0.5:%%AT%%;
        listen 127.0.0.6:%%AT%%; listen 127.0.0.7:%%AT%%; listen 127.0.0.8:%%AT%%; listen unix:%%SOCKET%%;
        return 200 "$server_addr\n";
    }
}
"#;

const GROUPS: [&str; 12] = [
    "hash",
    "hash_weights",
    "hash_faults",
    "ring",
    "ring_weights",
    "ring_faults",
    "network",
    "network_weights",
    "network_faults",
    "least",
    "turns",
    "turns_faults",
];

/// Requests to each group.
const COUNT: u32 = 300;

/// The servers that answered, in order, a line each.
fn answers(program: Option<&Path>, at: u16, dead: u16, socket: &Path) -> String {
    let server = |ip: u16, more: &str| format!("server 127.0.0.{ip}:{at} {more};");
    let even: String = (2..8).map(|ip| server(ip, "")).collect();
    let unix = format!("server unix:{} weight=2;", socket.display());
    let weights: String = (2..9).map(|ip| server(ip, &format!("weight={}", ip * 2 % 5 + 1))).collect();
    let faults: String = (2..9).map(|ip| server(ip, if ip % 3 == 0 { "down" } else { "weight=2" })).collect();
    let dead: String =
        [1, 2, 3].map(|ip| format!("server 127.0.0.{ip}:{dead} max_fails=0 weight=3;")).concat();
    let mut setup = Setup::new(CONF)
        .level("crit")
        .set("EVEN", even)
        .set("WEIGHTS", weights + &unix)
        .set("FAULTS", dead + &faults)
        .set("AT", at)
        .set("SOCKET", socket.display());
    if let Some(program) = program {
        setup = setup.program(program);
    }
    let daemon = setup.start();
    let mut client = Client::connect(daemon.port(0));
    let mut out = String::new();
    for group in GROUPS {
        for number in 0..COUNT {
            let network = format!("{}.{}.{}.1", number % 223 + 1, number * 7 % 256, number * 31 % 256);
            // some keys are empty
            let key = if number % 50 == 49 { String::new() } else { format!("key-{}", number * number) };
            client.send(format!("GET /{group}?k={key} HTTP/1.1\r\nHost: a\r\nX-Real-IP: {network}\r\n\r\n"));
            out.push_str(&format!("{group} {number}: {}", client.response().text()));
        }
    }
    out
}

#[test]
fn keys_and_networks_are_placed_as_nginx_places_them() {
    let Some(program) = nginx::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let socket = folder.path().join("peer.sock");
    let (at, dead) = (port::free(), port::refusing());
    let theirs = answers(Some(&program), at, dead, &socket);
    let _ = std::fs::remove_file(&socket);
    let ours = answers(None, at, dead, &socket);
    let different: Vec<_> = theirs.lines().zip(ours.lines()).filter(|(their, our)| their != our).collect();
    assert!(
        different.is_empty(),
        "{} requests: {:?}",
        different.len(),
        &different[..different.len().min(20)]
    );
    assert_eq!(ours.lines().count(), GROUPS.len() * COUNT as usize);
    assert!(
        ours.contains("unix:") && (2..9).all(|ip| ours.contains(&format!("127.0.0.{ip}"))),
        "all are used"
    );
}
