//! Commands and replies: what is passed on, translated, answered by us, or refused.

use std::time::Duration;

use super::{Ftp, command, origin, setup, start};
use crate::support::wire::End;
use crate::support::{Client, Origin, Setup};

#[test]
fn a_session_is_passed_on_and_told_in_the_log() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    assert_eq!(ftp.ask("SITE CHMOD 600 a"), "200 SITE CHMOD 600 a");
    let address = ftp.passive();
    assert_eq!(address.ip().to_string(), "127.0.0.1", "not the host that the server names");
    let mut data = crate::support::Wire::new(std::net::TcpStream::connect(address).expect("it listens"));
    assert_eq!(ftp.ask("RETR a b"), "150 here it is");
    assert_eq!(data.rest(), (b"content of a b".to_vec(), End::Closed));
    assert_eq!(ftp.reply(), "226 done");
    assert_eq!(ftp.ask("QUIT"), "221 bye");
    assert_eq!(ftp.0.expect_end(), End::Closed);
    let line = daemon.wait_line("ftp.log", "200");
    assert!(line.ends_with(" me 1"), "{line}");
    let counts: Vec<u64> =
        line.split(['/', ' ']).skip(1).take(4).map(|n| n.parse().expect("a count")).collect();
    // Nothing but the replies to PASV differs.
    assert_eq!(counts[0], counts[2], "{line}");
    assert!(counts[1] > 14 && counts[3] > 14 && counts[1].abs_diff(counts[3]) < 20, "{line}");
    daemon.wait_log("FTP session ended");
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let origin = origin(|line, peer, _| {
        if line.starts_with("HELP") {
            peer.send("214-One\r\n 214 not the end\r\n214-still not\r\n214 End\r\n");
        }
        line.starts_with("HELP")
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::connect(&daemon);
    ftp.0.send("USER me\r\nPASS x\r\nHELP\r\n\r\nPROT P\r\nNOOP\r\nQUIT\r\nNOOP after\r\n");
    for expected in [
        "331 password",
        "230 welcome",
        "214-One\n 214 not the end\n214-still not\n214 End",
        "500 Command not understood.",
        "502 Encryption is not available.",
        "200 NOOP",
        "221 bye",
    ] {
        assert_eq!(ftp.reply(), expected);
    }
    assert_eq!(ftp.0.rest(), (Vec::new(), End::Closed));
}

/// Servers that skip blanks, or take a tab for one, must not find a command that we have taken for another.
#[test]
fn lines_that_do_not_begin_with_a_verb_are_refused() {
    let origin = origin(|line, peer, _| {
        let is_known = line.starts_with("USER") || line.starts_with("PASS secret") || line == "NOOP";
        if !is_known {
            peer.send("200 the server has taken it\r\n");
        }
        !is_known
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let lines: [&[u8]; 7] = [
        b" PORT 10,0,0,1,19,136",
        b"\tPORT 10,0,0,1,19,136",
        b"PORT\t10,0,0,1,19,136",
        b"PO\xff\xf1RT 10,0,0,1,19,136",
        b" PASS secret",
        b"RETR\ta",
        b"\x0bSTOR a",
    ];
    for line in lines {
        ftp.0.send([line, b"\r\n"].concat());
        assert_eq!(ftp.reply(), "500 Command not understood.", "{}", line.escape_ascii());
    }
    assert_eq!(ftp.ask("NOOP"), "200 NOOP");
}

#[test]
fn data_connections_go_to_the_client_and_to_nobody_else() {
    let origin = origin(|line, _, _| {
        assert!(!line.starts_with("PORT") && !line.starts_with("EPRT"), "{line}");
        false
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    for (line, expected) in [
        ("PORT 10,0,0,1,19,136", "500 PORT of another address or a reserved port is refused."),
        ("PORT 127,0,0,1,0,25", "500 PORT of another address or a reserved port is refused."),
        ("PORT 127,0,0,2,19,136", "500 PORT of another address or a reserved port is refused."),
        ("EPRT |2|::1|5000|", "500 EPRT of another address or a reserved port is refused."),
        ("EPRT |1|127.0.0.1|22|", "500 EPRT of another address or a reserved port is refused."),
        ("EPRT |7|x|5000|", "522 Network protocol not supported, use (1)"),
        ("EPRT |1|127.0.0.1|", "501 EPRT has a family, an address and a port: EPRT |1|192.0.2.1|1025|"),
        ("PORT 1,2,3", "501 PORT has six numbers: PORT 192,0,2,1,4,1"),
        ("EPSV 2", "522 Network protocol not supported, use (1)"),
        ("LPSV", "502 Command not implemented."),
        ("MODE B", "504 Only stream modes are supported."),
        ("RETR a", "425 Use PASV, EPSV, PORT or EPRT first."),
        ("EPSV ALL", "200 EPSV ALL: other commands for data connections are refused."),
        ("PASV", "503 Only EPSV is allowed after EPSV ALL."),
        ("P@SW", "503 Only EPSV is allowed after EPSV ALL."),
        ("PORT 127,0,0,1,19,136", "503 Only EPSV is allowed after EPSV ALL."),
    ] {
        assert_eq!(ftp.ask(line), expected, "{line}");
    }
    assert!(ftp.ask("EPSV").starts_with("229 Entering Extended Passive Mode (|||"));
    daemon.wait_log(r"client asked for data connections to 10\.0\.0\.1:5000: only its own address");
    daemon.wait_log(r"client asked for data connections to 127\.0\.0\.1:25: only its own address");
}

#[test]
fn features_are_those_that_we_can_keep() {
    const SERVERS: &str =
        "211-Features:\r\n AUTH TLS;SSL\r\n UTF8\r\n PBSZ\r\n PROT\r\n EPSV\r\n SIZE\r\n211 End\r\n";
    let origin = origin(|line, peer, _| {
        if line == "FEAT" {
            peer.send(SERVERS);
        }
        line == "FEAT"
    });
    let daemon = start(&origin, "");
    let told = Ftp::connect(&daemon).ask("FEAT");
    assert_eq!(told, "211-Features:\n UTF8\n SIZE\n EPRT\n EPSV\n211 End");
    let without = super::origin(|line, peer, _| {
        if line == "FEAT" {
            peer.send("502 what?\r\n");
        }
        line == "FEAT"
    });
    let daemon = start(&without, "");
    assert_eq!(Ftp::connect(&daemon).ask("FEAT"), "211-Features:\n EPRT\n EPSV\n211 End");
}

#[test]
fn auth_is_refused_where_we_cannot_follow() {
    let origin = origin(|line, _, _| {
        assert!(!line.starts_with("AUTH"), "the server must not be asked");
        false
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::connect(&daemon);
    assert_eq!(ftp.ask("AUTH TLS"), "502 AUTH is not available.");
    assert_eq!(ftp.ask("ADAT x"), "502 Command not implemented.");
    assert_eq!(ftp.ask("USER me"), "331 password", "a client may go on in clear");
}

#[test]
fn lines_have_a_limit() {
    let origin = origin(|line, peer, _| {
        if line == "LONG" {
            peer.send(format!("200-a\r\n200 {}\r\n", "x".repeat(300)));
        }
        line == "LONG"
    });
    let daemon = start(&origin, "ftp_line_size 200;");
    let mut ftp = Ftp::connect(&daemon);
    assert_eq!(ftp.ask(&format!("A {}", "x".repeat(190))), format!("200 A {}", "x".repeat(190)));
    assert_eq!(ftp.ask(&"x".repeat(200)), "500 Line too long, closing control connection.");
    assert_eq!(ftp.0.expect_end(), End::Closed);
    daemon.wait_log(r#"client sent a too long command: "ftp_line_size" limits it"#);
    let mut ftp = Ftp::connect(&daemon);
    assert_eq!(ftp.ask("LONG"), "421 The server is not available, closing control connection.");
    daemon.wait_log(r#"upstream sent a too long line: raise "ftp_line_size""#);
    daemon.wait_line("ftp.log", "^502 ");
    daemon.wait_line("ftp.log", "^400 ");
}

#[test]
fn a_server_of_another_protocol_is_not_followed() {
    let origin = Origin::start(|peer| {
        peer.send("SSH-2.0-OpenSSH_9\r\n");
        peer.rest();
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.line(), b"421 The server is not available, closing control connection.");
    daemon.wait_log(r#"upstream sent an invalid reply: "SSH-2.0-OpenSSH_9""#);
}

#[test]
fn a_server_that_leaves_or_says_so_is_passed_on() {
    let origin = Origin::start(|peer| {
        peer.send("120 wait\r\n220 ready\r\n");
        assert_eq!(command(peer).as_deref(), Some("NOOP"));
        peer.send("200 ok\r\n421 going down\r\n");
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!((client.line(), client.line()), (b"120 wait".to_vec(), b"220 ready".to_vec()));
    client.send("NOOP\r\n");
    assert_eq!((client.line(), client.line()), (b"200 ok".to_vec(), b"421 going down".to_vec()));
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn a_silent_session_ends_with_421() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "proxy_timeout 300ms;");
    let mut ftp = Ftp::connect(&daemon);
    assert_eq!(ftp.reply(), "421 Timeout, closing control connection.");
    assert_eq!(ftp.0.expect_end(), End::Closed);
    origin.wait_ended(1);
}

#[test]
fn another_server_is_tried_if_one_cannot_be_reached() {
    let origin = origin(|_, _, _| false);
    let conf = "stream {
        upstream ftp { server 127.0.0.1:%%CLOSED%%; server %%ORIGIN%%; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass ftp; ftp on; }
    }";
    let setup =
        Setup::new(conf).set("ORIGIN", origin.address()).set("CLOSED", crate::support::port::refusing());
    let daemon = setup.start();
    for _ in 0..3 {
        assert_eq!(Ftp::log_in(&daemon).ask("NOOP"), "200 NOOP");
    }
}

#[test]
fn the_address_that_pasv_tells_can_be_set() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "ftp_data_address 198.51.100.7;");
    assert_eq!(Ftp::log_in(&daemon).passive().ip().to_string(), "198.51.100.7");
    let daemon = start(&origin, "set $told 198.51.100.9; ftp_data_address $told;");
    assert_eq!(Ftp::log_in(&daemon).passive().ip().to_string(), "198.51.100.9");
    let daemon = start(&origin, "ftp_data_address $server_name;");
    assert_eq!(Ftp::log_in(&daemon).ask("PASV"), "425 Cannot open a data connection.");
    daemon.wait_log(r#""ftp_data_address" has become "", which is no IPv4 address"#);
}

#[test]
fn wrong_settings_are_refused() {
    for (line, message) in [
        ("ftp_data_ports 21;", r#"invalid ports "21""#),
        ("ftp_data_ports 5000-4000;", r#"invalid ports "5000-4000""#),
        ("ftp_data_address ::1;", r#"invalid IPv4 address "::1""#),
        ("ftp_starttls on;", r#""ftp_starttls" needs a certificate"#),
    ] {
        let origin = Origin::echo();
        let output = setup(&origin, line).run(&["-t"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(message), "{line}: {told}");
    }
}

#[test]
fn telnet_signals_before_a_command_do_not_hide_what_follows() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let socket = socket2::SockRef::from(ftp.0.stream());
    socket.send_out_of_band(b"\xff\xf4\xff").expect("urgent bytes");
    ftp.0.send(b"\xf2NOOP\r\n");
    assert_eq!(ftp.reply(), "200 NOOP");
    assert!(ftp.0.is_silent(Duration::from_millis(50)));
}
