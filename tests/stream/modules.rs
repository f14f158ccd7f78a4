//! The modules of a stream over the engines that `http` uses too: access, limits, variables, logs.

use crate::support::{Client, Daemon, Origin, Setup};

fn said(port: u16) -> String {
    String::from_utf8(Client::connect(port).rest().0).expect("text")
}

#[test]
fn texts_are_made_of_variables() {
    let conf = r#"
        stream {
            map $server_port $name { %%PORT_0%% first; ~(%%PORT_1%%) second-$1; default other; }
            geo $place { default far; 127.0.0.0/8 near; }
            split_clients $remote_addr $half { 50% low; * high; }
            log_format line '$remote_addr $server_addr:$server_port $protocol $status $bytes_sent $session_time $connection';
            access_log %%DIR%%/line.log line;
            server { listen 127.0.0.1:%%PORT_0%%; server_name .example.org b; set $own $place-$name; return "$own $half $server_name"; }
            server { listen 127.0.0.1:%%PORT_1%%; return "$name $own"; access_log off; }
        }"#;
    let daemon = Daemon::start(conf);
    let told = said(daemon.port(0));
    assert!(told == "near-first low example.org" || told == "near-first high example.org", "{told}");
    assert_eq!(said(daemon.port(1)), format!("second-{} ", daemon.port(1)));
    let line = daemon.wait_line("line.log", "TCP");
    let expected = format!("127.0.0.1 127.0.0.1:{} TCP 200 {} 0.", daemon.port(0), told.len());
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn access_is_decided_by_the_first_rule_that_fits() {
    let conf = r"
        stream {
            log_format status $server_port:$status;
            access_log %%DIR%%/status.log status;
            deny 127.0.0.1;
            server { listen 127.0.0.1:%%PORT_0%%; return in; }
            server { listen 127.0.0.1:%%PORT_1%%; return in; allow 127.0.0.0/8; deny all; }
        }";
    let daemon = Setup::new(conf).level("error").start();
    assert_eq!((said(daemon.port(0)), said(daemon.port(1))), (String::new(), "in".into()));
    daemon.wait_line("status.log", &format!("{}:403", daemon.port(0)));
    daemon.wait_log(
        "access forbidden by rule while initializing session, client: 127.0.0.1, server: .*, rule: .*:",
    );
}

#[test]
fn open_sessions_are_limited() {
    let origin = Origin::start(|peer| {
        peer.send("open");
        peer.rest();
    });
    let conf = r"
        stream {
            limit_conn_zone $binary_remote_addr zone=clients:1m;
            log_format status $limit_conn_status:$status;
            access_log %%DIR%%/status.log status;
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; limit_conn clients 2; }
            server { listen 127.0.0.1:%%PORT_1%%; proxy_pass %%ORIGIN%%; limit_conn clients 1; limit_conn_dry_run on; }
        }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let open = || {
        let mut client = Client::connect(daemon.port(0));
        assert_eq!(client.exactly(4), b"open");
        client
    };
    let (one, two) = (open(), open());
    assert_eq!(said(daemon.port(0)), "");
    daemon.wait_line("status.log", "^REJECTED:503");
    let mut dry = Client::connect(daemon.port(1));
    assert_eq!(dry.exactly(4), b"open");
    drop((one, dry));
    daemon.wait_line("status.log", "^REJECTED_DRY_RUN:200");
    daemon.wait_line("status.log", "^PASSED:200");
    drop((open(), two));
}

#[test]
fn an_error_log_of_a_server_gets_its_lines() {
    let conf = r"
        stream {
            server { listen 127.0.0.1:%%PORT_0%%; return x; error_log %%DIR%%/own.log info; }
        }";
    let daemon = Setup::new(conf).level("error").start();
    assert_eq!(said(daemon.port(0)), "x");
    daemon.wait_line("own.log", r"\*1 client 127.0.0.1:\d+ connected to 127.0.0.1:\d+$");
}
