//! Sockets opened by a service manager (sd_listen_fds(3)): used for the configured addresses, and never shut
//! down, since the manager goes on listening with them.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Setup, get, port, process, wait_for};

const CONF: &str = r#"
worker_processes 4;
http { server { listen 127.0.0.1:%%PORT%%; return 200 "here\n"; } }
"#;

/// A socket as systemd makes it: without SO_REUSEPORT.
fn listener() -> (TcpListener, u16) {
    let listener = port::listen(Ipv4Addr::LOCALHOST, port::free());
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

fn copy(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().expect("a descriptor").into()
}

fn start(listener: &TcpListener, port: u16) -> Daemon {
    Setup::new(CONF).set("PORT", port).listen_fds(vec![copy(listener)]).start()
}

/// The sockets that a process has open, as the links in /proc.
fn sockets(pid: i32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten();
    let links = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

fn assert_listens(port: u16) {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the manager's socket still listens");
}

#[test]
fn one_without_reuseport_serves_four_workers_through_reloads() {
    if is_stand_in() {
        return;
    }
    let (listener, port) = listener();
    let daemon = start(&listener, port);
    let name = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("it is open");
    let name = name.to_string_lossy().into_owned();
    for _ in 0..3 {
        wait_for("four workers", || (daemon.workers_now().len() == 4).then_some(()));
        for worker in daemon.workers() {
            assert!(sockets(worker).contains(&name), "each worker has {name}");
        }
        (0..40).for_each(|_| assert_eq!(get(port, "/").text(), "here\n"));
        daemon.reload();
    }
    assert_eq!(daemon.complaints("emerg|alert|crit|error|warn"), Vec::<String>::new());
}

#[test]
fn one_with_reuseport_gets_siblings() {
    if is_stand_in() {
        return;
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("Linux has it");
    let port = port::free();
    let address: std::net::SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    socket.bind(&address.into()).and_then(|()| socket.listen(128)).expect("the port is free");
    let listener = TcpListener::from(socket);
    let daemon = start(&listener, port);
    drop(listener);
    (0..100).for_each(|_| assert_eq!(get(port, "/").text(), "here\n"));
    daemon.reload();
    (0..100).for_each(|_| assert_eq!(get(port, "/").text(), "here\n"));
}

#[test]
fn it_still_listens_when_the_daemon_has_ended_and_nobody_is_lost() {
    if is_stand_in() {
        return;
    }
    let (listener, port) = listener();
    for how in [Signal::SIGQUIT, Signal::SIGTERM] {
        let daemon = start(&listener, port);
        assert_eq!(get(port, "/").text(), "here\n");
        assert_eq!(daemon.stop(how).and_then(|status| status.code()), Some(0));
        assert_listens(port);
    }
    // Connections that come meanwhile wait in the queue for the next start.
    let mut early = Client::connect(port);
    let _daemon = start(&listener, port);
    assert_eq!(early.get("/").text(), "here\n");
}

#[test]
fn an_upgrade_keeps_it_and_knows_whose_it_is() {
    if is_stand_in() {
        return;
    }
    let (listener, port) = listener();
    let daemon = start(&listener, port);
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    let new = wait_for("a new master with workers", || {
        let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
        (new != old && process::children(new).len() == 4).then_some(new)
    });
    daemon.wait_log(&format!("{new}#{new}: .*start worker processes"));
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(get(port, "/").text(), "here\n");
    daemon.stop(Signal::SIGQUIT);
    assert_listens(port);
}

#[test]
fn one_that_is_not_configured_is_closed_and_told() {
    if is_stand_in() {
        return;
    }
    let ((wanted, port), (other, other_port)) = (listener(), listener());
    let name = std::fs::read_link(format!("/proc/self/fd/{}", other.as_raw_fd())).expect("it is open");
    let setup = Setup::new(CONF).set("PORT", port).listen_fds(vec![copy(&wanted), copy(&other)]);
    let daemon = setup.start();
    daemon.wait_log(&format!("\\[warn\\].*127.0.0.1:{other_port}.*not configured"));
    assert_eq!(get(port, "/").text(), "here\n");
    for pid in [vec![daemon.pid()], daemon.workers()].concat() {
        assert!(!sockets(pid).contains(&name.to_string_lossy().into_owned()), "{}", process::title(pid));
    }
    assert_listens(other_port);
}

#[test]
fn one_that_a_reload_removes_is_given_up_but_not_ended() {
    if is_stand_in() {
        return;
    }
    let ((first, port), (second, other_port)) = (listener(), listener());
    let setup = Setup::new(CONF).set("PORT", format!("{port}; listen 127.0.0.1:{other_port}"));
    let daemon = setup.listen_fds(vec![copy(&first), copy(&second)]).start();
    assert_eq!(get(other_port, "/").text(), "here\n");
    daemon.rewrite(|text| text.replace(&format!("listen 127.0.0.1:{other_port};"), ""));
    daemon.reload();
    assert_eq!(get(port, "/").text(), "here\n");
    assert_listens(other_port);
    let (mut accepted, _) = second.accept().expect("the manager accepts");
    std::io::Write::write_all(&mut accepted, b"hello").expect("it is alive");
}

#[test]
fn what_does_not_listen_is_closed_and_told() {
    if is_stand_in() {
        return;
    }
    let (wanted, port) = listener();
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let setup = Setup::new(CONF).set("PORT", port).listen_fds(vec![datagram.into(), copy(&wanted)]);
    let daemon = setup.start();
    daemon.wait_log("\\[warn\\].*LISTEN_FDS.*not a listening socket");
    assert_eq!(get(port, "/").text(), "here\n");
}

#[test]
fn those_of_another_process_are_not_taken() {
    if is_stand_in() {
        return;
    }
    let (listener, port) = listener();
    let setup = Setup::new(CONF).set("PORT", port).listen_fds(vec![copy(&listener)]);
    let exit = setup.prelude("export LISTEN_PID=1;").try_start().err().expect("the address is another's");
    assert_eq!(exit.status.code(), Some(1));
    assert!(exit.stderr.contains("Address already in use"), "{}", exit.stderr);
    assert_listens(port);
}

#[test]
fn the_path_of_a_unix_socket_stays() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new("http { server { listen unix:%%DIR%%/s; return 200 \"here\\n\"; } }\n");
    let path = setup.folder().join("s");
    let listener = UnixListener::bind(&path).expect("the folder is new");
    let daemon = setup.listen_fds(vec![listener.into()]).start();
    assert!(super::unix_socket::ask(&path).ends_with("here\n"));
    daemon.reload();
    assert!(super::unix_socket::ask(&path).ends_with("here\n"));
    daemon.stop(Signal::SIGQUIT);
    assert!(path.exists(), "it is the manager's");
}

#[test]
fn workers_know_nothing_of_them() {
    if is_stand_in() {
        return;
    }
    let (listener, port) = listener();
    let daemon = start(&listener, port);
    for worker in daemon.workers() {
        let text = std::fs::read(format!("/proc/{worker}/environ")).expect("the worker lives");
        assert!(!String::from_utf8_lossy(&text).contains("LISTEN_"));
    }
}

#[test]
fn they_go_to_the_background_with_the_daemon() {
    if is_stand_in() {
        return;
    }
    let (listener, port) = listener();
    let daemon = Setup::new(CONF).set("PORT", port).listen_fds(vec![copy(&listener)]).in_background().start();
    assert_eq!(get(port, "/").text(), "here\n");
    daemon.stop(Signal::SIGQUIT);
    assert_listens(port);
}

#[test]
fn a_count_that_is_wrong_takes_what_is_there() {
    if is_stand_in() {
        return;
    }
    for (count, is_taken) in [("5", true), ("99999999999", false), ("-1", false), ("x", false), ("", false)] {
        let (listener, port) = listener();
        let setup = Setup::new(CONF).set("PORT", port).listen_fds(vec![copy(&listener)]);
        let outcome = setup.prelude(&format!("export LISTEN_FDS={count};")).try_start();
        assert_eq!(outcome.is_ok(), is_taken, "{count:?}");
        assert_listens(port);
    }
}
