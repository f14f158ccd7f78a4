//! `listen unix:PATH`: its mode, what may be at the path before, and when the socket is removed.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use super::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Daemon, Setup, deadline, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http { server { listen unix:%%DIR%%/s; listen 127.0.0.1:%%PORT_0%%; return 200 "here\n"; } }
"#;

/// Sends one request to a unix socket and returns the whole response.
pub fn ask(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("somebody listens");
    stream.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in time");
    text
}

fn assert_serves(daemon: &Daemon) {
    let answer = ask(&daemon.path("s"));
    assert!(answer.ends_with("here\n"), "{answer}");
}

/// The inode at the path: it changes if the socket was created anew.
fn inode(daemon: &Daemon) -> u64 {
    std::fs::symlink_metadata(daemon.path("s")).expect("the path is there").ino()
}

#[test]
fn everybody_may_connect_whatever_the_umask() {
    let daemon = Setup::new(CONF).prelude("umask 077;").start();
    let meta = std::fs::symlink_metadata(daemon.path("s")).expect("the path is there");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o666);
    assert_serves(&daemon);
}

#[test]
fn the_path_goes_with_the_daemon() {
    for how in [Signal::SIGQUIT, Signal::SIGTERM] {
        let daemon = Daemon::start(CONF);
        assert_serves(&daemon);
        daemon.stop(how);
        assert!(!daemon.path("s").exists(), "{how}");
    }
}

#[test]
fn what_a_killed_daemon_has_left_is_replaced() {
    if is_stand_in() {
        return; // nginx refuses to start
    }
    let setup = Setup::new(CONF);
    drop(UnixListener::bind(setup.folder().join("s")).expect("the folder is new"));
    assert!(setup.folder().join("s").exists());
    assert_serves(&setup.start());
}

fn refused(setup: Setup) -> String {
    let exit = setup.try_start().err().expect("it must not start");
    assert_eq!(exit.status.code(), Some(1));
    assert!(!exit.left.iter().any(|name| name.starts_with("pronghorn.pid")), "{:?}", exit.left);
    exit.stderr
}

#[test]
fn a_path_that_somebody_serves_is_refused_with_its_place() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new(CONF);
    let path = setup.folder().join("s");
    let server = UnixListener::bind(&path).expect("the folder is new");
    let place = format!("{}:", setup.folder().join("pronghorn.conf").display());
    let text = refused(setup);
    assert!(
        text.contains("unix:") && text.contains("Address already in use") && text.contains(&place),
        "{text}"
    );
    drop(server);
}

#[test]
fn a_server_that_accepts_nobody_does_not_hold_the_start_up() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new(CONF);
    let address = SockAddr::unix(setup.folder().join("s")).expect("a short path");
    let server = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    server.bind(&address).and_then(|()| server.listen(0)).expect("the folder is new");
    let mut waiting = Vec::new();
    loop {
        let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket");
        match client.connect(&address) {
            Ok(()) => waiting.push(client),
            Err(_) => break, // its queue is full
        }
    }
    let text = refused(setup);
    assert!(text.contains("Address already in use"), "{text}");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let setup = Setup::new(CONF).file("s", "precious");
    let exit = setup.try_start().err().expect("it must not start");
    assert!(exit.stderr.contains("/s failed (17: File exists)") || is_stand_in(), "{}", exit.stderr);
    assert!(exit.left.contains(&"s".to_owned()), "{:?}", exit.left);
}

#[test]
fn a_missing_directory_is_told_with_its_place() {
    let conf = CONF.replace("%%DIR%%/s", "%%DIR%%/nowhere/s");
    let setup = Setup::new(&conf);
    let line = format!("{}:", setup.folder().join("pronghorn.conf").display());
    let exit = setup.try_start().err().expect("it must not start");
    let text = exit.stderr + &exit.log;
    assert!(text.contains("nowhere/s failed (2: No such file or directory)"), "{text}");
    assert!(is_stand_in() || text.contains(&line), "{text}");
}

#[test]
fn a_start_that_fails_leaves_no_path() {
    if is_stand_in() {
        return;
    }
    let holder = crate::support::port::listen(std::net::Ipv4Addr::LOCALHOST, crate::support::port::free());
    let taken = holder.local_addr().expect("bound").to_string();
    let exit = Setup::new(&CONF.replace("127.0.0.1:%%PORT_0%%", &taken)).try_start();
    let exit = exit.err().expect("it must not start");
    assert!(!exit.left.contains(&"s".to_owned()), "{:?}", exit.left);
}

#[test]
fn it_is_kept_over_reloads_and_goes_when_it_is_not_configured_any_more() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    let first = inode(&daemon);
    daemon.reload();
    assert_eq!(inode(&daemon), first);
    assert_serves(&daemon);

    // A reload that is refused neither removes it nor leaves another one.
    let good = daemon.read("pronghorn.conf");
    let more = format!("listen unix:{}; listen unix:{};", daemon.path("t").display(), "/nonexistent/s");
    daemon.rewrite(|text| text.replace("listen 127", &format!("{more} listen 127")));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("\\[emerg\\].*/nonexistent/s failed");
    assert_eq!(inode(&daemon), first);
    assert_serves(&daemon);
    assert!(!daemon.path("t").exists(), "of the reload that was refused");

    daemon.write("pronghorn.conf", good.replace("/s;", "/t;"));
    daemon.reload();
    wait_for("the old path to go", || (!daemon.path("s").exists()).then_some(()));
    assert!(ask(&daemon.path("t")).ends_with("here\n"));
}

#[test]
fn an_upgrade_keeps_it_and_the_last_master_removes_it() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    let (old, first) = (daemon.pid(), inode(&daemon));
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(inode(&daemon), first);
    assert_serves(&daemon);
    daemon.stop(Signal::SIGQUIT);
    assert!(!daemon.path("s").exists());
}

#[test]
fn a_master_that_was_killed_does_not_keep_the_next_from_starting() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    let workers = daemon.workers();
    daemon.signal(Signal::SIGKILL);
    wait_for("its workers to end", || workers.iter().all(|&pid| !process::is_alive(pid)).then_some(()));
    daemon.wait_end();
    assert!(daemon.path("s").exists() && daemon.path("pronghorn.pid").exists());
    let mut again = std::process::Command::new(crate::support::daemon::binary());
    let folder = format!("{}/", daemon.folder().display());
    let mut child = again.args(["-p", &folder, "-c", "pronghorn.conf"]).spawn().expect("it runs");
    daemon.follow(child.id() as i32);
    wait_for("the address", || process::is_listening(daemon.port(0)).then_some(()));
    wait_for("a worker", || (!daemon.workers_now().is_empty()).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert_serves(&daemon);
    send(child.id() as i32, Signal::SIGTERM);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_path_that_was_removed_comes_back_with_a_reload_and_loses_nobody() {
    if is_stand_in() {
        return; // nginx keeps a socket that no client can find
    }
    let daemon = Daemon::start(CONF);
    let before = inode(&daemon);
    let mut waiting = UnixStream::connect(daemon.path("s")).expect("somebody listens");
    std::fs::remove_file(daemon.path("s")).expect("it is there");
    daemon.signal(Signal::SIGHUP);
    // The path is there a moment before anybody listens.
    wait_for("the path", || UnixStream::connect(daemon.path("s")).ok());
    assert_serves(&daemon);
    assert_ne!(inode(&daemon), before);
    waiting.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    let mut text = String::new();
    waiting.read_to_string(&mut text).expect("an answer in time");
    assert!(text.ends_with("here\n"), "{text}");
    // A path that leads to the socket in use is left alone.
    let again = inode(&daemon);
    daemon.reload();
    assert_serves(&daemon);
    assert_eq!(inode(&daemon), again);
    daemon.stop(Signal::SIGTERM);
    assert!(!daemon.path("s").exists());
}

#[test]
fn a_path_that_another_server_has_taken_is_left_to_it() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    std::fs::remove_file(daemon.path("s")).expect("it is there");
    let other = UnixListener::bind(daemon.path("s")).expect("the name is free");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log(r"\[emerg\] .*unix:.*/s failed \(98: Address already in use\) in .*:\d+");
    daemon.stop(Signal::SIGTERM);
    assert!(daemon.path("s").exists(), "it is the other server's");
    drop(other);
}
