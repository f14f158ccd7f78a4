//! Clients that mean harm: lines without end, huge literals, bytes that no protocol has, commands for the server behind.

use std::sync::atomic::Ordering::Relaxed;

use super::{answer, ask, greeted, line, pass_to, start};
use crate::support::wire::End;
use crate::support::{Client, Origin, process};

fn refusing() -> Origin {
    Origin::replying(|_| answer("Auth-Status: no\n"))
}

#[test]
fn a_line_without_an_end_takes_no_more_than_its_buffer() {
    let auth = refusing();
    for (protocol, begin, expected) in [
        ("imap", "a LOGIN ", "a BAD invalid command"),
        ("pop3", "USER ", "-ERR invalid command"),
        ("smtp", "EHLO ", "500 5.5.1 Invalid command"),
    ] {
        let daemon = start(protocol, &auth, "");
        let before = process::rss_kib(daemon.worker());
        let mut client = greeted(&daemon);
        client.send(begin);
        let piece = vec![b'x'; 64 * 1024];
        // It may close before it has read everything.
        for _ in 0..100 {
            if client.try_send(&piece).is_err() {
                break;
            }
        }
        let (said, _) = client.rest();
        assert!(
            said.is_empty() || String::from_utf8_lossy(&said).trim_end() == expected,
            "{protocol}: {said:?}"
        );
        daemon.wait_log("client sent too long command while in auth state");
        let grown = process::rss_kib(daemon.worker()).saturating_sub(before);
        assert!(grown < 3072, "{protocol}: {grown} KiB");
    }
}

#[test]
fn a_literal_that_is_too_long_is_refused_when_it_is_announced() {
    let auth = refusing();
    let daemon = start("imap", &auth, "");
    for length in ["10485760", "10485760+", "4096", "18446744073709551616", "99999999999999999999999999+"] {
        let mut client = greeted(&daemon);
        assert_eq!(ask(&mut client, &format!("a LOGIN {{{length}}}")), "a BAD invalid command", "{length}");
        assert_eq!(client.expect_end(), End::Closed);
    }
    assert!(auth.requests().is_empty());
}

#[test]
fn a_literal_behind_an_invalid_command_is_not_taken_for_commands() {
    let auth = refusing();
    let daemon = start("imap", &auth, "");
    let mut client = greeted(&daemon);
    client.send("a APPEND inbox {20+}\r\nb LOGIN evil evil\r\n");
    assert_eq!(line(&mut client), "a BAD invalid command");
    client.expect_end();
    assert!(auth.requests().is_empty());
}

#[test]
fn bytes_that_no_command_has_are_refused() {
    let auth = refusing();
    for (protocol, lines) in [
        ("imap", ["a LOGIN me\0 x", "a LOGIN me\r x", "\0\0\0"]),
        ("pop3", ["USER me\0", "USER me\rPASS x", "\u{1}"]),
        ("smtp", ["EHLO a\0b", "EHLO a\rMAIL FROM:<x>", "\u{7f}"]),
    ] {
        let daemon = start(protocol, &auth, "");
        let mut client = greeted(&daemon);
        for text in lines {
            let said = ask(&mut client, text);
            assert!(
                said.contains("BAD") || said.starts_with("-ERR") || said.starts_with("500"),
                "{text:?}: {said}"
            );
        }
        // A bare LF ends a line, as in nginx.
        client.send(if protocol == "imap" { "z NOOP\n" } else { "NOOP\n" });
        let said = line(&mut client);
        assert!(said.contains("OK"), "{protocol}: {said}");
    }
    assert!(auth.requests().is_empty());
}

/// A name with an end of line would be a command for the server behind.
#[test]
fn a_name_cannot_be_a_command_for_the_server() {
    let server = Origin::start(|peer| {
        peer.send("+OK\r\n");
        assert!(super::next_line(peer).is_none(), "nothing is sent to it");
    });
    let port = server.port();
    let auth = Origin::replying(move |_| pass_to(port));
    let daemon = start("pop3", &auth, "");
    let mut client = greeted(&daemon);
    // "\0me\r\nDELE 1\0secret"
    assert_eq!(ask(&mut client, "AUTH PLAIN AG1lDQpERUxFIDEAc2VjcmV0"), "-ERR internal server error");
    daemon.wait_log("the name or password of the client cannot be sent: it is more than a line");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn too_many_errors_end_the_connection() {
    let auth = refusing();
    let daemon = start("pop3", &auth, "max_errors 3;");
    let mut client = greeted(&daemon);
    client.send("A\r\nB\r\nC\r\nQUIT\r\n");
    for _ in 0..3 {
        assert_eq!(line(&mut client), "-ERR invalid command");
    }
    assert_eq!(client.expect_end(), End::Closed);
    daemon.wait_log("client sent too many invalid commands");
}

/// The time to log in is one for all commands: a client cannot stay by sending one now and then.
#[test]
fn a_client_that_only_chats_is_closed_in_time() {
    let auth = refusing();
    let daemon = start("smtp", &auth, "timeout 1s;");
    let mut client = greeted(&daemon);
    let mut count = 0;
    while client.try_send(b"NOOP\r\n").is_ok() && client.try_exactly(14).is_some() {
        count += 1;
        std::thread::sleep(std::time::Duration::from_millis(50)); // its pace, which no event sets
    }
    assert!((2..200).contains(&count), "{count}");
    daemon.wait_log("client timed out .* while in auth state");
}

/// The same for one that never stops sending, so that there is always a command to answer.
#[test]
fn a_client_that_chats_without_a_break_is_closed_in_time() {
    let auth = refusing();
    let daemon = start("smtp", &auth, "timeout 1s;");
    let client = greeted(&daemon);
    let mut sender = client.stream().try_clone().expect("a descriptor");
    let mut reader = client.stream().try_clone().expect("a descriptor");
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_ended = std::sync::Arc::clone(&ended);
    let floods = std::thread::spawn(move || {
        let commands = b"NOOP\r\n".repeat(10_000);
        while std::io::Write::write_all(&mut sender, &commands).is_ok() && !is_ended.load(Relaxed) {}
    });
    let reads = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 20];
        while matches!(std::io::Read::read(&mut reader, &mut piece), Ok(1..)) {}
    });
    daemon.wait_log("client timed out .* while in auth state");
    ended.store(true, Relaxed);
    [floods, reads].into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// An authentication server that asks for patience for ever is not asked for ever.
#[test]
fn nobody_waits_for_a_client_that_has_left() {
    let auth = Origin::replying(|_| answer("Auth-Status: WAIT\nAuth-Wait: 1\n"));
    let daemon = super::setup_with("control unix:ctl;", "imap", &auth, "").start();
    let mut client = greeted(&daemon);
    client.send("a LOGIN me secret\r\n");
    auth.wait_requests(1);
    let connections = || String::from_utf8_lossy(&daemon.run(&["ctl", "connections"]).stdout).into_owned();
    let listed = connections();
    assert!(listed.contains("IMAP"), "{listed}");
    drop(client);
    crate::support::wait_for("the session to end", || (!connections().contains("IMAP")).then_some(()));
}

/// Clients that have not logged in give way to new ones, the oldest first, when places are short.
#[test]
fn a_client_that_only_waits_gives_its_place_to_another() {
    let auth = refusing();
    let daemon = super::setup_with("events { worker_connections 8; }", "smtp", &auth, "").start();
    let mut first = greeted(&daemon);
    let others: Vec<Client> = (0..12).map(|_| greeted(&daemon)).collect();
    let (said, _) = first.rest();
    assert_eq!(String::from_utf8_lossy(&said), "421 4.3.2 Too many connections\r\n");
    daemon.wait_log("8 worker_connections are not enough, reusing connections");
    drop(others);
}

#[test]
fn a_client_that_leaves_at_any_point_leaves_nothing_behind() {
    let auth = Origin::start(|peer| _ = peer.rest());
    let daemon = start("imap", &auth, "auth_http_timeout 300ms;");
    for text in ["", "a", "a LOGIN {3}\r\n", "a LOGIN me x\r\n", "a AUTHENTICATE PLAIN\r\n"] {
        let mut client = greeted(&daemon);
        client.send(text);
        drop(client);
    }
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "a LOGIN me x"), "* BAD internal server error");
    drop(client);
    crate::support::wait_for("all connections to end", || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", daemon.worker())).expect("it is alive");
        let sockets = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let count = sockets.filter(|link| link.to_string_lossy().starts_with("socket:")).count();
        let idle = greeted(&daemon);
        drop(idle);
        (count < 12).then_some(())
    });
    assert!(daemon.complaints("alert|crit|emerg").is_empty());
    let _ = Client::connect(daemon.port(0));
}
