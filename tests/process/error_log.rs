//! `error_log`: several targets, levels, inner blocks, syslog, and targets that cannot be written.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, deadline, get, wait_for};

/// A missing file is logged as an error, a start as a notice.
const CONF: &str = r#"
worker_processes 1;
%%MORE%%
http {
    server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/files; }
}
"#;

fn setup(more: &str) -> Setup {
    let conf = CONF.replace("%%MORE%%", more);
    Setup::new(&conf)
}

fn miss(daemon: &Daemon, path: &str) {
    assert_eq!(get(daemon.port(0), path).status, 404);
}

#[test]
fn every_target_has_its_own_level() {
    let daemon = setup(
        "error_log %%DIR%%/warn.log warn;\nerror_log %%DIR%%/plain.log;\nerror_log %%DIR%%/crit.log crit;\n\
         error_log stderr error;",
    )
    .level("notice")
    .start();
    miss(&daemon, "/missing");
    for name in ["error.log", "warn.log", "plain.log", "stderr"] {
        let line = daemon.wait_line(name, "/files/missing");
        assert!(line.contains("[error]") && line.contains("(2: No such file or directory)"), "{line}");
    }
    assert!(daemon.log().contains("[notice]"));
    for name in ["warn.log", "plain.log", "stderr"] {
        assert!(!daemon.read(name).contains("[notice]"), "{name}: {}", daemon.read(name));
    }
    assert_eq!(daemon.read("crit.log"), "");
}

#[test]
fn an_inner_block_replaces_the_outer_targets() {
    let conf = r#"
http {
    error_log %%DIR%%/http.log;
    server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/files; }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        error_log %%DIR%%/server.log;
        error_log %%DIR%%/again.log error;
        root %%DIR%%/files;
        location /in { error_log %%DIR%%/location.log; }
        location /quiet { error_log %%DIR%%/quiet.log crit; }
    }
}
"#;
    let daemon = Daemon::start(conf);
    assert_eq!(get(daemon.port(0), "/a").status, 404);
    assert_eq!(get(daemon.port(1), "/b").status, 404);
    assert_eq!(get(daemon.port(1), "/in/c").status, 404);
    assert_eq!(get(daemon.port(1), "/quiet/d").status, 404);
    daemon.wait_line("location.log", "/in/c");
    let errors = |name: &str| daemon.read(name).lines().filter(|line| line.contains("[error]")).count();
    for (name, count, path) in
        [("http.log", 1, "/a"), ("server.log", 1, "/b"), ("again.log", 1, "/b"), ("location.log", 1, "/in/c")]
    {
        assert_eq!(errors(name), count, "{name}: {}", daemon.read(name));
        assert!(daemon.read(name).contains(&format!("/files{path}")), "{name}: {}", daemon.read(name));
    }
    assert_eq!((errors("quiet.log"), errors("error.log")), (0, 0));
}

fn next(receive: impl Fn(&mut [u8]) -> std::io::Result<usize>, wanted: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = receive(&mut buffer).expect("a message in time");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(wanted) {
            return text;
        }
    }
}

#[test]
fn syslog_gets_a_datagram_for_each_line() {
    let setup = setup("error_log syslog:server=unix:%%DIR%%/log,facility=local3,tag=front,nohostname warn;");
    let socket = UnixDatagram::bind(setup.folder().join("log")).expect("the folder is new");
    socket.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    let daemon = setup.start();
    miss(&daemon, "/missing");
    // This is the first message: the notices of the start are below the level.
    let text = next(|buffer| socket.recv(buffer), "");
    // local3 is 19, error is 3 (RFC 3164).
    assert!(text.starts_with(&format!("<{}>", 19 * 8 + 3)), "{text}");
    assert!(text.contains(" front: ") && text.contains("[error]") && text.contains("/missing"), "{text}");
    assert!(!text.ends_with('\n'), "{text:?}");
    // After a restart of the syslog server, messages reach it again.
    drop(socket);
    std::fs::remove_file(daemon.path("log")).expect("it is there");
    miss(&daemon, "/nobody-hears");
    let socket = UnixDatagram::bind(daemon.path("log")).expect("the path is free");
    socket.set_nonblocking(true).expect("a socket");
    wait_for("a message after the restart", || {
        miss(&daemon, "/again");
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        String::from_utf8_lossy(&buffer[..length]).contains("/again").then_some(())
    });
}

#[test]
fn syslog_over_udp_has_the_default_facility_and_tag() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    let address = socket.local_addr().expect("bound");
    let daemon = setup(&format!("error_log syslog:server={address} notice;")).start();
    let text = next(|buffer| socket.recv(buffer), "start worker process ");
    assert!(text.starts_with(&format!("<{}>", 23 * 8 + 5)), "{text}");
    assert!(
        text.contains(" nginx: "),
        "the documented default, which the rules of collectors look for: {text}"
    );
    miss(&daemon, "/missing");
    let text = next(|buffer| socket.recv(buffer), "/missing");
    assert!(text.starts_with(&format!("<{}>", 23 * 8 + 3)), "{text}");
}

#[test]
fn a_target_that_cannot_be_opened_is_an_error_at_the_start() {
    for place in ["%%MORE%%", "http {"] {
        let line = "error_log %%DIR%%/nowhere/e.log;";
        let conf = CONF.replace(place, &format!("{place}\n{line}")).replace("%%MORE%%", "");
        let setup = Setup::new(&conf);
        let name = setup.folder().join("pronghorn.conf");
        let exit = setup.try_start().err().expect("it must not start");
        assert_eq!(exit.status.code(), Some(1));
        let text = exit.stderr + &exit.log;
        assert!(text.contains("nowhere/e.log\" failed (2: No such file or directory)"), "{text}");
        assert!(is_stand_in() || text.contains(&format!("{}:", name.display())), "{text}");
    }
}

#[test]
fn a_target_that_a_reload_cannot_open_keeps_the_old_configuration() {
    let daemon = setup("").start();
    let workers = daemon.workers();
    daemon.rewrite(|text| {
        text.replace("http {", "error_log %%D/e.log;\nhttp {").replace("%%D", "/nonexistent")
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("\\[emerg\\].*/nonexistent/e.log\" failed \\(2: No such file or directory\\)");
    miss(&daemon, "/still-here");
    daemon.wait_log("/files/still-here");
    assert_eq!(daemon.workers(), workers);
}

#[test]
fn a_full_disk_and_a_dead_syslog_stop_nobody() {
    let udp = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let daemon = setup(&format!(
        "error_log /dev/full debug;\nerror_log syslog:server=unix:%%DIR%%/nobody debug;\n\
         error_log syslog:server={udp} debug;"
    ))
    .start();
    daemon.rewrite(|text| text.replace("http {", "http {\naccess_log /dev/full;"));
    for index in 0..50 {
        miss(&daemon, &format!("/missing{index}"));
    }
    daemon.reload();
    for index in 50..100 {
        miss(&daemon, &format!("/missing{index}"));
    }
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_log("reopening logs");
    miss(&daemon, "/last");
    daemon.wait_log("/files/last");
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    if is_stand_in() {
        return; // nginx waits for its reader
    }
    let setup = setup("error_log %%DIR%%/pipe debug;");
    nix::unistd::mkfifo(&setup.folder().join("pipe"), nix::sys::stat::Mode::S_IRWXU)
        .expect("the folder is ours");
    let daemon = setup.start();
    for index in 0..1500 {
        miss(&daemon, &format!("/missing{index}"));
    }
}

/// Clients of 127.0.0.2 and of unix sockets are debugged.
const DEBUGGED: &str = r#"
events { debug_connection 127.0.0.2; debug_connection unix:; }
http {
    error_log %%DIR%%/http.log crit;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "$remote_addr"; }
        location /as { proxy_bind $arg_from; proxy_pass http://127.0.0.1:%%PORT_0%%/seen-$arg_from; }
        location /unix { proxy_pass http://unix:%%DIR%%/a.sock:/seen-unix; }
    }
    server { listen unix:%%DIR%%/a.sock; location / { return 200 unix; } }
}
stream {
    error_log %%DIR%%/stream.log crit;
    server { listen 127.0.0.1:%%PORT_1%%; proxy_bind 127.0.0.2; proxy_pass 127.0.0.1:%%PORT_2%%; }
    server { listen 127.0.0.1:%%PORT_2%%; proxy_pass 127.0.0.1:%%PORT_0%%; }
}
"#;

#[test]
fn everything_about_some_clients_is_logged_whatever_the_level() {
    let daemon = Setup::new(DEBUGGED).start();
    for from in ["127.0.0.3", "127.0.0.2"] {
        assert_eq!(get(daemon.port(0), &format!("/as?from={from}")).text(), from);
    }
    let line = daemon.wait_line("http.log", "/seen-127");
    assert!(line.contains("[debug]") && line.contains("client: 127.0.0.2,"), "{line}");
    assert_eq!(get(daemon.port(0), "/unix").text(), "unix");
    daemon.wait_line("http.log", r"\[debug\].*client: unix:.*/seen-unix");
    // A session of each kind: from 127.0.0.1, and from 127.0.0.2 in the second server.
    assert_eq!(get(daemon.port(1), "/").text(), "127.0.0.1");
    daemon.wait_line("stream.log", r#"\[debug\].*using server """#);
    let line = daemon.wait_line("stream.log", r"\[debug\].*trying 127.0.0.1:");
    assert!(line.contains("client: 127.0.0.2,"), "{line}");
    let number = line.split([' ', ':']).find(|word| word.starts_with('*')).expect("a connection");
    let log = daemon.read("stream.log");
    assert!(log.lines().all(|line| line.contains(number)), "{log}");
    let log = daemon.read("http.log");
    let is_theirs = |line: &str| line.contains("client: 127.0.0.2,") || line.contains("client: unix:,");
    assert!(log.lines().all(is_theirs), "{log}");
}
