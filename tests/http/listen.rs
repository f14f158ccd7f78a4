//! `listen`: several addresses, IPv6, unix sockets, ports alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::support::daemon::is_stand_in;
use crate::support::{Setup, deadline, get, wait_for};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen %%PORT_1%%;
        listen [::1]:%%PORT_2%%;
        listen unix:%%DIR%%/http.sock;
        return 200 "$server_port|$remote_addr|$server_addr";
    }
}
"#;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn last_line(mut stream: impl Read + Write) -> String {
    stream.write_all(REQUEST).expect("it listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

#[test]
fn every_kind_of_address_is_listened_on() {
    let daemon = Setup::new(CONF).start();
    let ports: Vec<u16> = (0..3).map(|index| daemon.port(index)).collect();
    assert_eq!(get(ports[0], "/").text(), format!("{}|127.0.0.1|127.0.0.1", ports[0]));
    assert_eq!(get(ports[1], "/").text(), format!("{}|127.0.0.1|127.0.0.1", ports[1]));

    let six = TcpStream::connect(("::1", ports[2])).expect("it listens on IPv6");
    six.set_read_timeout(Some(deadline())).expect("not zero");
    assert_eq!(last_line(six), format!("{}|::1|::1", ports[2]));

    let path = daemon.path("http.sock");
    let unix = wait_for("the unix socket", || UnixStream::connect(&path).ok());
    unix.set_read_timeout(Some(deadline())).expect("not zero");
    assert!(last_line(unix).starts_with("|unix:|"), "a unix client has no port and no address");
}

/// The output of `ss` for the sockets that listen on a port: queue lengths, and the options that it knows.
fn listeners(port: u16) -> Vec<String> {
    let output =
        std::process::Command::new("ss").args(["-H", "-l", "-t", "-n", "-m", "-o", "-e", "-i"]).output();
    let text = String::from_utf8_lossy(&output.expect("ss is installed").stdout).replace("\n\t", " ");
    text.lines().filter(|line| line.contains(&format!(":{port} "))).map(str::to_owned).collect()
}

const OPTIONS: &str = r#"
worker_processes 2;
http {
    server {
        listen 127.0.0.1:%%PORT_0%% backlog=37 rcvbuf=64k sndbuf=128k so_keepalive=30m:10:3 fastopen=5 deferred bind reuseport;
        listen [::]:%%PORT_1%% ipv6only=off default_server;
        listen 127.0.0.1:%%PORT_2%% so_keepalive=off setfib=1 accept_filter=httpready;
        return 200 "$server_port|$remote_addr";
    }
}
"#;

#[test]
fn the_socket_s_parameters_are_set_and_change_with_a_reload() {
    if is_stand_in() {
        return; // nginx opens one socket for all workers
    }
    let daemon = Setup::new(OPTIONS).start();
    let port = daemon.port(0);
    let lines = listeners(port);
    assert_eq!(lines.len(), 2, "a socket for each worker: {lines:?}");
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[2], "37", "the length of the queue in {line:?}");
        // The kernel doubles the given size (socket(7)).
        assert!(line.contains("rb131072") && line.contains("tb262144"), "{line:?}");
    }
    daemon.wait_log("\"setfib\" ignored");
    daemon.wait_log("accept filters \"httpready\" are not supported on this platform, ignored");

    // Deferred: a connection without a byte does not reach the worker; with one it is served.
    assert_eq!(get(port, "/").text(), format!("{port}|127.0.0.1"));
    // ipv6only=off accepts IPv4 too, in IPv6 form.
    let text = get(daemon.port(1), "/").text();
    assert!(text.ends_with("127.0.0.1"), "{text}");

    daemon.rewrite(|text| text.replace("backlog=37", "backlog=41").replace("rcvbuf=64k", "rcvbuf=32k"));
    daemon.reload();
    let lines = listeners(port);
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!(line.split_whitespace().nth(2), Some("41"), "{line:?}");
        assert!(line.contains("rb65536"), "{line:?}");
    }
    assert_eq!(get(port, "/").text(), format!("{port}|127.0.0.1"));
}

#[test]
fn accepted_connections_are_probed() {
    let daemon = Setup::new(OPTIONS).start();
    let connections = |port: u16| {
        let output =
            std::process::Command::new("ss").args(["-H", "-t", "-n", "-o", "state", "established"]).output();
        let text = String::from_utf8_lossy(&output.expect("ss is installed").stdout).into_owned();
        let of_daemon = move |line: &&str| {
            line.split_whitespace().nth(2).is_some_and(|local| local.ends_with(&format!(":{port}")))
        };
        text.lines().filter(of_daemon).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut clients: Vec<crate::support::Client> =
        [0, 2].map(|index| crate::support::Client::connect(daemon.port(index))).into();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    let probed = connections(daemon.port(0));
    assert!(
        probed
            .iter()
            .any(|line| line.contains("timer:(keepalive,29min") || line.contains("timer:(keepalive,30min")),
        "{probed:?}"
    );
    let silent = connections(daemon.port(2));
    assert!(!silent.is_empty() && !silent.iter().any(|line| line.contains("keepalive")), "{silent:?}");
}

#[test]
fn contradictions_are_errors() {
    let fails = |listens: &str, message: &str| {
        let conf = format!("http {{ server {{ {} }} }}", listens.replace(" / ", "} server {"));
        let conf = conf.replace("%%A%%", "127.0.0.1:%%PORT_0%%");
        let exit = Setup::new(&conf).try_start().err().expect(listens);
        assert!(exit.stderr.contains(message), "{listens}: {}", exit.stderr);
    };
    fails("listen %%A%% backlog=5; / listen %%A%% backlog=5;", "duplicate listen options for 127.0.0.1:");
    fails("listen %%A%% bind; / listen %%A%% rcvbuf=8k;", "duplicate listen options for 127.0.0.1:");
    fails(
        "listen %%A%% default_server; / listen %%A%% default_server;",
        "a duplicate default server for 127.0.0.1:",
    );
    fails("listen %%A%%; listen %%A%%;", "a duplicate listen 127.0.0.1:");
    fails("listen %%A%% backlog=0;", "invalid backlog \"backlog=0\"");
    fails("listen %%A%% backlog=x;", "invalid backlog \"backlog=x\"");
    fails("listen %%A%% rcvbuf=x;", "invalid rcvbuf \"rcvbuf=x\"");
    fails("listen %%A%% fastopen=x;", "invalid fastopen \"fastopen=x\"");
    fails("listen %%A%% so_keepalive=x;", "invalid so_keepalive value: \"x\"");
    fails("listen %%A%% so_keepalive=::;", "invalid so_keepalive value: \"::\"");
    fails("listen [::1]:%%PORT_0%% ipv6only=x;", "invalid ipv6only flags \"x\"");
    fails("listen %%A%% ipv6only=on;", "ipv6only is not supported on addr \"127.0.0.1:");
    fails("listen %%A%% deffered;", "invalid parameter \"deffered\"");
}
