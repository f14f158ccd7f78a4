//! `listen … udp`: datagrams of many clients, and the sessions that they belong to.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

use crate::support::deadline::deadline;
use crate::support::{Client, Daemon, Setup, process, wait_for};

/// A server that answers each datagram with as many as its first byte says, each with the rest of it.
struct Answerer {
    port: u16,
}

impl Answerer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let count = buffer[..length].first().map_or(1, |digit| digit.saturating_sub(b'0'));
                for _ in 0..count {
                    let _ = socket.send_to(&buffer[1.min(length)..length], from);
                }
            }
        });
        Self { port }
    }
}

fn client(to: (&str, u16)) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(deadline())).expect("a timeout");
    socket.connect(to).expect("connects");
    socket
}

fn ask(socket: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    socket.send(bytes).expect("sent");
    answer(socket)
}

fn answer(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).expect("an answer");
    buffer.truncate(length);
    buffer
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(150))).expect("a timeout");
    let outcome = socket.recv(&mut [0; 16]);
    socket.set_read_timeout(Some(deadline())).expect("a timeout");
    outcome.is_err()
}

fn start(more: &str, settings: &str) -> (Daemon, Answerer) {
    let origin = Answerer::start();
    let conf = "stream {
        log_format session '$protocol $status $bytes_received/$bytes_sent $upstream_bytes_sent/$upstream_bytes_received \
         $remote_port';
        access_log %%DIR%%/session.log session;
        server {
            listen 127.0.0.1:%%PORT_0%% udp;
            proxy_pass 127.0.0.1:%%UPSTREAM%%;
            %%SETTINGS%%
        }
        %%MORE%%
    }";
    let conf = conf.replace("%%MORE%%", more).replace("%%SETTINGS%%", settings);
    let setup = Setup::new(&conf).set("UPSTREAM", origin.port);
    (setup.level("info").start(), origin)
}

fn port_of(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("bound").port()
}

#[test]
fn a_session_is_over_when_all_answers_have_come() {
    let (daemon, _origin) = start("", "proxy_responses 2;");
    let socket = client(("127.0.0.1", daemon.port(0)));
    assert_eq!(ask(&socket, b"2twice"), b"twice");
    assert_eq!(answer(&socket), b"twice");
    daemon.wait_line("session.log", &format!("^UDP 200 6/10 6/10 {}$", port_of(&socket)));
    daemon.wait_log("udp done, packets from/to client:1/2, bytes from/to client:6/10");
}

#[test]
fn datagrams_keep_their_bounds_up_to_the_largest() {
    let (daemon, _origin) = start("", "");
    let socket = client(("127.0.0.1", daemon.port(0)));
    for length in [0, 1, 1_000, 9_000, 65_000] {
        let bytes = vec![b'x'; length];
        assert!(ask(&socket, &[b"1", &*bytes].concat()) == bytes, "{length} bytes");
    }
}

#[test]
fn an_empty_datagram_is_one_too() {
    let (daemon, _origin) = start("", "proxy_responses 1;");
    let socket = client(("127.0.0.1", daemon.port(0)));
    assert_eq!(ask(&socket, b""), b"");
    daemon.wait_line("session.log", "^UDP 200 0/0 0/0 ");
}

#[test]
fn datagrams_of_a_client_are_one_session_up_to_their_number() {
    let (daemon, _origin) = start("", "proxy_requests 2; proxy_responses 1;");
    let socket = client(("127.0.0.1", daemon.port(0)));
    for text in ["1a", "1b", "1c", "1d"] {
        assert_eq!(ask(&socket, text.as_bytes()), &text.as_bytes()[1..]);
    }
    let own = port_of(&socket);
    wait_for("two sessions", || {
        let lines = daemon.read("session.log");
        (lines == format!("UDP 200 4/2 4/2 {own}\nUDP 200 4/2 4/2 {own}\n")).then_some(())
    });
}

#[test]
fn a_session_without_its_answers_has_failed() {
    let (daemon, _origin) = start("", "proxy_responses 2; proxy_timeout 200ms;");
    let socket = client(("127.0.0.1", daemon.port(0)));
    assert_eq!(ask(&socket, b"1one"), b"one");
    daemon.wait_line("session.log", "^UDP 502 4/3 4/3 ");
    daemon.wait_log(
        r"upstream timed out \(110: Connection timed out\) while proxying connection, udp client: ",
    );
}

#[test]
fn a_server_that_is_not_there_is_told_from_one_that_is_silent() {
    let more = "upstream app { server 127.0.0.1:1; server 127.0.0.1:%%UPSTREAM%%; }
        server { listen 127.0.0.1:%%PORT_1%% udp; proxy_pass app; proxy_responses 1; }";
    let (daemon, _origin) = start(more, "");
    let socket = client(("127.0.0.1", daemon.port(1)));
    socket.send(b"1lost").expect("sent");
    daemon.wait_line("session.log", "^UDP 502 5/0 5/0 ");
    assert!(is_silent(&socket));
    // The next session goes to the other server.
    for _ in 0..3 {
        assert_eq!(ask(&socket, b"1found"), b"found");
    }
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let more = "server { listen %%PORT_1%% udp; return $server_addr; }";
    let (daemon, _origin) = start(more, "");
    for address in ["127.0.0.1", "127.0.0.3"] {
        assert_eq!(ask(&client((address, daemon.port(1))), b"?"), address.as_bytes());
    }
}

#[test]
fn udp_and_tcp_share_a_port() {
    let more = "server { listen 127.0.0.1:%%PORT_1%% udp; return $protocol; }
        server { listen 127.0.0.1:%%PORT_1%%; return $protocol; }";
    let (daemon, _origin) = start(more, "");
    assert_eq!(ask(&client(("127.0.0.1", daemon.port(1))), b"?"), b"UDP");
    assert_eq!(Client::connect(daemon.port(1)).rest().0, b"TCP");
}

#[test]
fn access_and_limits_apply_to_datagrams() {
    let more = "limit_conn_zone $binary_remote_addr zone=one:1m;
        server { listen 127.0.0.1:%%PORT_1%% udp; deny all; proxy_pass 127.0.0.1:%%UPSTREAM%%; }
        server { listen 127.0.0.1:%%PORT_2%% udp; limit_conn one 1; proxy_pass 127.0.0.1:%%UPSTREAM%%; }";
    let (daemon, _origin) = start(more, "");
    let denied = client(("127.0.0.1", daemon.port(1)));
    denied.send(b"1a").expect("sent");
    daemon.wait_line("session.log", "^UDP 403 ");
    assert!(is_silent(&denied));
    let first = client(("127.0.0.1", daemon.port(2)));
    assert_eq!(ask(&first, b"1a"), b"a");
    let second = client(("127.0.0.1", daemon.port(2)));
    second.send(b"1a").expect("sent");
    daemon.wait_line("session.log", "^UDP 503 ");
    assert_eq!(ask(&first, b"1b"), b"b");
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let (daemon, _origin) = start("", "proxy_responses 1;");
    let clients: Vec<UdpSocket> = (0..200).map(|_| client(("127.0.0.1", daemon.port(0)))).collect();
    for round in 0..3 {
        for (index, socket) in clients.iter().enumerate() {
            socket.send(format!("1{index} {round}").as_bytes()).expect("sent");
        }
        for (index, socket) in clients.iter().enumerate() {
            assert_eq!(answer(socket), format!("{index} {round}").as_bytes());
        }
    }
}

#[test]
fn no_datagram_is_lost_by_a_reload_and_the_old_worker_leaves() {
    let (daemon, _origin) = start("", "proxy_timeout 300ms;");
    let old = daemon.worker();
    let socket = client(("127.0.0.1", daemon.port(0)));
    assert_eq!(ask(&socket, b"1before"), b"before");
    daemon.rewrite(|text| text.replace("300ms", "301ms"));
    daemon.signal(Signal::SIGHUP);
    for index in 0..50 {
        let text = format!("1{index}");
        assert_eq!(ask(&socket, text.as_bytes()), &text.as_bytes()[1..]);
        std::thread::sleep(Duration::from_millis(5));
    }
    wait_for("the old worker to leave", || (!process::is_alive(old)).then_some(()));
    assert_eq!(ask(&socket, b"1after"), b"after");
    assert_eq!(daemon.complaints("alert|emerg|crit|error"), Vec::<String>::new());
}

#[test]
fn a_graceful_stop_does_not_wait_for_silent_sessions() {
    let (daemon, _origin) = start("", "proxy_timeout 10m;");
    let socket = client(("127.0.0.1", daemon.port(0)));
    assert_eq!(ask(&socket, b"1a"), b"a");
    assert!(daemon.stop(Signal::SIGQUIT).is_some_and(|status| status.success()));
}

/// A server that a test plays itself.
fn own_server() -> (UdpSocket, u16) {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    server.set_read_timeout(Some(deadline())).expect("a timeout");
    let port = port_of(&server);
    (server, port)
}

/// Sends all bytes as one burst of datagrams of this length, of which the last one may be shorter.
fn send_burst(socket: &UdpSocket, bytes: &[u8], length: u16, to: Option<SocketAddr>) {
    let control = [ControlMessage::UdpGsoSegments(&length)];
    let to = to.map(SockaddrStorage::from);
    let slices = [IoSlice::new(bytes)];
    sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), to.as_ref()).expect("sent");
}

#[test]
fn a_burst_passes_as_the_datagrams_that_it_consists_of() {
    let (server, port) = own_server();
    let more = format!(
        "server {{ listen 127.0.0.1:%%PORT_1%% udp; proxy_pass 127.0.0.1:{port}; proxy_timeout 1s; }}"
    );
    let (daemon, _origin) = start(&more, "");
    let socket = client(("127.0.0.1", daemon.port(1)));
    let bytes: Vec<u8> = (0..1_050_u16).map(|index| index as u8).collect();
    let mut buffer = [0; 2_000];
    send_burst(&socket, &bytes, 100, None);
    let mut from = None;
    for part in bytes.chunks(100) {
        let (length, sender) = server.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..length], part);
        assert_eq!(*from.get_or_insert(sender), sender, "one session");
    }
    send_burst(&server, &bytes, 500, from);
    for part in bytes.chunks(500) {
        assert_eq!(answer(&socket), part);
    }
    daemon.wait_log("udp timed out, packets from/to client:11/3, bytes from/to client:1050/1050");
}

#[test]
fn a_burst_is_divided_among_sessions_by_the_number_of_datagrams() {
    let (daemon, _origin) = start("", "proxy_requests 4; proxy_responses 1;");
    let socket = client(("127.0.0.1", daemon.port(0)));
    send_burst(&socket, &b"1ab".repeat(10), 3, None);
    (0..10).for_each(|_| assert_eq!(answer(&socket), b"ab"));
    daemon.wait_line("session.log", "^UDP 200 12/8 12/8 ");
    wait_for("two whole sessions", || {
        (daemon.read("session.log").matches("UDP 200 12/8 12/8 ").count() == 2).then_some(())
    });
    // The third one waits for two more datagrams.
    assert_eq!([ask(&socket, b"1x"), ask(&socket, b"1y")], [b"x", b"y"]);
    daemon.wait_line("session.log", "^UDP 200 10/6 10/6 ");
}

#[test]
fn a_flood_of_one_client_is_passed_on_whole_and_in_its_order() {
    let (server, port) = own_server();
    let more = format!("server {{ listen 127.0.0.1:%%PORT_1%% udp; proxy_pass 127.0.0.1:{port}; }}");
    let (daemon, _origin) = start(&more, "");
    let socket = client(("127.0.0.1", daemon.port(1)));
    let mut buffer = [0; 2_000];
    // Fewer at a time than a socket's buffer holds, which is about 270 small ones.
    for round in 0..10_u8 {
        (0..100_u8).for_each(|index| {
            let length = 2 + usize::from(index % 7) * 11;
            socket.send(&[&[round, index], &*vec![b'x'; length - 2]].concat()).map(drop).expect("sent");
        });
        for index in 0..100_u8 {
            let (length, _) = server.recv_from(&mut buffer).expect("a datagram");
            assert_eq!((&buffer[..2], length), (&[round, index][..], 2 + usize::from(index % 7) * 11));
        }
    }
}

#[test]
fn a_unix_socket_of_datagrams_can_be_the_upstream() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app");
    let server = UnixDatagram::bind(&path).expect("a socket");
    // Workers may run as another user.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("set");
    server.set_read_timeout(Some(deadline())).expect("a timeout");
    let more = format!(
        "upstream local {{ server unix:{0}; }}
         server {{ listen 127.0.0.1:%%PORT_1%% udp; proxy_pass local; }}
         server {{ listen 127.0.0.1:%%PORT_2%% udp; proxy_pass unix:{0}; proxy_responses 1; }}",
        path.display()
    );
    let (daemon, _origin) = start(&more, "");
    let socket = client(("127.0.0.1", daemon.port(1)));
    let mut buffer = [0; 2_000];
    // More than the queue of such a socket holds, which is ten: they wait, and none is lost or joined to another.
    send_burst(&socket, &[b'x'; 4_000], 100, None);
    let mut back = None;
    for _ in 0..40 {
        let (length, from) = server.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(length, 100);
        back = Some(from);
    }
    let back =
        back.and_then(|from| from.as_abstract_name().map(<[u8]>::to_vec)).expect("a name to answer to");
    let back = std::os::unix::net::SocketAddr::from_abstract_name(back).expect("a name");
    for text in ["one", "", "three"] {
        server.send_to_addr(text.as_bytes(), &back).expect("sent");
        assert_eq!(answer(&socket), text.as_bytes());
    }
    // The session goes on with its socket after a reload.
    daemon.reload();
    socket.send(b"again").expect("sent");
    let (_, from) = server.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(from.as_abstract_name(), back.as_abstract_name());

    let other = client(("127.0.0.1", daemon.port(2)));
    other.send(b"?").expect("sent");
    let (_, from) = server.recv_from(&mut buffer).expect("a datagram");
    server.send_to_addr(&[b'y'; 1_000], &from).expect("sent");
    assert_eq!(answer(&other), [b'y'; 1_000]);
    daemon.wait_line("session.log", "^UDP 200 1/1000 1/1000 ");
    drop(server);
    let third = client(("127.0.0.1", daemon.port(2)));
    third.send(b"?").expect("sent");
    daemon.wait_line("session.log", "^UDP 502 ");
    daemon.wait_log(r"connect\(\) failed \(111: Connection refused\).*, upstream: .unix:");
}

#[test]
fn parameters_of_connections_are_refused() {
    for parameter in ["ssl", "proxy_protocol", "backlog=5", "so_keepalive=on", "deferred"] {
        let conf =
            format!("stream {{ server {{ listen 127.0.0.1:%%PORT_0%% udp {parameter}; return a; }} }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let name = parameter.split('=').next().expect("a name");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(&format!("\"{name}\" parameter is incompatible with \"udp\"")), "{text}");
    }
}
