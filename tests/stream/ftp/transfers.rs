//! Data connections: who may open them, in which order replies come, and ends that are no ends.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Ftp, Stored, origin, start, storing};
use crate::support::wire::End;
use crate::support::{Daemon, Origin, Wire, port, process, wait_for};

const LENGTH: usize = 24 * 1024 * 1024;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

/// An origin that sends much, and says that it has done so before it has arrived.
fn hasty() -> Origin {
    origin(|line, peer, data| {
        if line.starts_with("RETR") {
            let mut data = data.accept();
            peer.send("150 here it is\r\n226 done already\r\n");
            let _ = data.try_send(&pattern(LENGTH));
        }
        line.starts_with("RETR")
    })
}

#[test]
fn many_bytes_arrive_before_the_reply_that_they_have() {
    let origin = hasty();
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    assert!(ftp.0.is_silent(Duration::from_millis(200)), "226 waits for the bytes");
    let (bytes, end) = data.rest();
    assert!(bytes == pattern(LENGTH) && end == End::Closed, "{} bytes, {end:?}", bytes.len());
    assert_eq!(ftp.reply(), "226 done already");
}

#[test]
fn a_download_that_the_client_breaks_off_is_no_success() {
    let origin = hasty();
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    data.reset_on_close();
    drop(data);
    assert_eq!(ftp.reply(), "426 Data connection closed, transfer aborted.");
    assert_eq!(ftp.ask("NOOP"), "200 NOOP", "the session goes on");
}

#[test]
fn an_upload_arrives_whole_or_is_known_to_be_cut() {
    let stored = Stored::default();
    let origin = storing(stored.clone(), |_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("STOR a"), "150 ready");
    data.send(pattern(LENGTH));
    drop(data);
    assert_eq!(ftp.reply(), "226 stored");
    let mut data = ftp.data();
    assert_eq!(ftp.ask("STOR b"), "150 ready");
    data.send("part");
    data.reset_on_close();
    drop(data);
    assert_eq!(ftp.reply(), "426 broken off");
    // A client that loses everything at once, its control connection first.
    let mut data = ftp.data();
    assert_eq!(ftp.ask("STOR c"), "150 ready");
    data.send("part");
    drop(ftp);
    origin.wait_ended(1);
    let stored = stored.lock().expect("no panic");
    assert!(stored[0] == (pattern(LENGTH), End::Closed));
    assert_eq!((stored[1].1, stored[2].1), (End::Reset, End::Reset));
}

#[test]
fn a_killed_worker_leaves_no_upload_that_looks_complete() {
    let stored = Stored::default();
    let origin = storing(stored.clone(), |_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("STOR a"), "150 ready");
    data.send("part");
    crate::support::daemon::send(daemon.worker(), nix::sys::signal::Signal::SIGKILL);
    let ends = wait_for("the upload to end", || Some(stored.lock().ok()?.first()?.1));
    assert_eq!(ends, End::Reset);
}

#[test]
fn a_download_that_the_server_breaks_off_is_reset() {
    let origin = origin(|line, peer, data| {
        if line.starts_with("RETR") {
            let mut data = data.accept();
            peer.send("150 here it is\r\n");
            data.send("part");
            data.reset_on_close();
            drop(data);
            peer.send("426 disk on fire\r\n");
        }
        line.starts_with("RETR")
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    assert_eq!(data.rest().1, End::Reset);
    assert_eq!(ftp.reply(), "426 disk on fire");
}

#[test]
fn a_transfer_that_the_server_refuses_ends_in_order() {
    let origin = origin(|line, peer, _| {
        if line.starts_with("RETR") {
            peer.send("550-no such file\r\n550 really\r\n");
        }
        line.starts_with("RETR")
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "550-no such file\n550 really");
    assert_eq!(data.expect_end(), End::Closed);
    drop(ftp);
    assert!(daemon.wait_line("ftp.log", "^200").ends_with(" me 0"), "it was none");
}

#[test]
fn the_client_may_listen_instead() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    for extended in [false, true] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let [high, low] = port.to_be_bytes();
        let (line, verb) = match extended {
            false => (format!("PORT 127,0,0,1,{high},{low}"), "PORT"),
            true => (format!("EPRT |1|127.0.0.1|{port}|"), "EPRT"),
        };
        assert_eq!(ftp.ask(&line), format!("200 {verb} command successful."));
        assert_eq!(ftp.ask("RETR a"), "150 here it is");
        let (data, from) = listener.accept().expect("a connection");
        assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(Wire::new(data).rest(), (b"content of a".to_vec(), End::Closed));
        assert_eq!(ftp.reply(), "226 done");
    }
    let closed = port::refusing().to_be_bytes();
    ftp.ask(&format!("PORT 127,0,0,1,{},{}", closed[0], closed[1]));
    assert_eq!(ftp.ask("RETR a"), "425 Cannot open a data connection.");
}

#[test]
fn clients_of_ipv6_reach_servers_of_ipv4() {
    let origin = origin(|_, _, _| false);
    let conf = "stream { server { listen [::1]:%%PORT_0%%; proxy_pass %%ORIGIN%%; ftp on; } }";
    let daemon = crate::support::Setup::new(conf).set("ORIGIN", origin.address()).start();
    let stream = TcpStream::connect(("::1", daemon.port(0))).expect("it listens");
    let mut wire = Wire::new(stream);
    assert_eq!((wire.line(), wire.line()), (b"220-an origin".to_vec(), b"220 ready".to_vec()));
    let mut ask = |line: &str| {
        wire.send(format!("{line}\r\n"));
        String::from_utf8(wire.line()).expect("text")
    };
    assert_eq!(ask("PASV"), "425 PASV has no IPv6: use EPSV.");
    assert_eq!(ask("EPSV 1"), "522 Network protocol not supported, use (2)");
    let reply = ask("EPSV 2");
    let port = reply.split('|').nth(3).unwrap_or_else(|| panic!("{reply}")).parse::<u16>().expect("a port");
    let data = TcpStream::connect(("::1", port)).expect("it listens");
    assert_eq!(ask("RETR a"), "150 here it is");
    assert_eq!(Wire::new(data).rest().0, b"content of a");
    let listener = TcpListener::bind(("::1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    assert_eq!(ask(&format!("EPRT |2|::1|{port}|")), "226 done");
    assert_eq!(ask("RETR b"), "200 EPRT command successful.");
    assert_eq!(Wire::new(listener.accept().expect("a connection").0).rest().0, b"content of b");
}

#[test]
fn strangers_are_kept_out_of_data_connections() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let address = ftp.passive();
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    stranger.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("an address of this machine");
    stranger.connect(&address.into()).expect("it listens");
    ftp.send("RETR a");
    assert_eq!(Wire::new(stranger.into()).expect_end(), End::Reset);
    daemon.wait_log(r"data connection from 127\.0\.0\.2:\d+, which is not the client: closed");
    let mut data = Wire::new(TcpStream::connect(address).expect("it still listens"));
    assert_eq!(ftp.reply(), "150 here it is");
    assert_eq!(data.rest().0, b"content of a");
}

#[test]
fn a_data_connection_that_is_not_opened_leaves_nothing_at_the_server() {
    let origin = origin(|line, peer, data| {
        assert!(!line.starts_with("STOR"), "it would leave an empty file");
        match line {
            "PASV" if peer.read_bytes() > 40 => {
                // Nothing listens there any more.
                let [high, low] = data.listen().to_be_bytes();
                data.listener = None;
                peer.send(format!("227 (127,0,0,1,{high},{low})\r\n"));
                true
            }
            _ => false,
        }
    });
    let daemon = start(&origin, "ftp_data_timeout 300ms;");
    let mut ftp = Ftp::log_in(&daemon);
    ftp.passive();
    assert_eq!(ftp.ask("STOR a"), "425 Cannot open a data connection.");
    daemon.wait_log(r#"client opened no data connection within "ftp_data_timeout""#);
    ftp.ask("NOOP to have more than forty bytes");
    let _data = ftp.data();
    assert_eq!(ftp.ask("STOR a"), "425 Cannot open a data connection.");
    daemon.wait_log(r"data connection to upstream 127\.0\.0\.1:\d+: connect\(\) failed");
    assert_eq!(ftp.ask("NOOP"), "200 NOOP");
}

#[test]
fn a_server_without_a_port_is_told_from_one_that_refuses() {
    let origin = origin(|line, peer, _| {
        match (line, peer.read_bytes()) {
            ("PASV", ..40) => peer.send("530 not now\r\n"),
            ("PASV", _) => peer.send("227 lost my port\r\n"),
            _ => return false,
        };
        true
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    assert_eq!(ftp.ask("PASV"), "530 not now");
    ftp.ask("NOOP to have more than forty bytes");
    assert_eq!(ftp.ask("EPSV"), "425 Cannot open a data connection.");
    daemon.wait_log(r#"upstream sent no port for data: "227 lost my port""#);
}

#[test]
fn a_transfer_is_aborted_wherever_it_is() {
    let origin = origin(|line, peer, data| {
        if line.starts_with("RETR") {
            let _data = data.accept();
            peer.send("150 here it is\r\n");
            let signals = peer.exactly(9);
            assert_eq!(signals, b"\xff\xf4\xf2ABOR\r\n", "the urgent byte is not in the stream");
            peer.send("426 aborted\r\n226 abort successful\r\n");
        }
        line.starts_with("RETR")
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    ftp.passive();
    ftp.send("RETR a");
    assert_eq!(ftp.ask("ABOR"), "426 Data connection closed, transfer aborted.", "before it has begun");
    assert_eq!(ftp.reply(), "226 Abort successful.");
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    let socket = socket2::SockRef::from(ftp.0.stream());
    socket.send_out_of_band(b"\xff\xf4\xff").expect("urgent bytes");
    ftp.0.send(b"\xf2ABOR\r\n");
    assert_eq!(ftp.reply(), "426 aborted");
    assert_eq!(ftp.reply(), "226 abort successful");
    data.rest();
    assert_eq!(ftp.ask("NOOP"), "200 NOOP");
}

#[test]
fn an_abort_that_is_not_answered_does_not_stop_the_session() {
    let origin = origin(|line, peer, data| {
        match line {
            "RETR a" => {
                let _data = data.accept();
                peer.send("150 here it is\r\n");
                assert_eq!(super::command(peer).as_deref(), Some("ABOR"));
                peer.send("426 aborted\r\n");
            }
            _ => return false,
        }
        true
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let _data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    assert_eq!(ftp.ask("ABOR"), "426 aborted");
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR b"), "150 here it is");
    assert_eq!(data.rest().0, b"content of b");
}

/// A client in the middle of a transfer, whose server answers STAT like this.
fn asked_for_status(answer: &'static str) -> ((Daemon, Origin), Ftp, Wire) {
    let origin = origin(move |line, peer, data| {
        if line.starts_with("RETR") {
            let mut data = data.accept();
            peer.send("150 here it is\r\n");
            data.send("some ");
            assert_eq!(super::command(peer).as_deref(), Some("STAT"));
            peer.send(answer);
            data.send("more");
            drop(data);
            peer.send("226 done\r\n");
        }
        line.starts_with("RETR")
    });
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    assert_eq!(data.exactly(5), b"some ");
    ((daemon, origin), ftp, data)
}

#[test]
fn status_is_told_during_a_transfer_and_other_commands_wait() {
    let (_daemon, mut ftp, mut data) = asked_for_status("213-status\r\n226 is no code here\r\n213 half\r\n");
    ftp.0.send("STAT\r\nNOOP\r\n");
    assert_eq!(ftp.reply(), "213-status\n226 is no code here\n213 half");
    assert_eq!(data.rest().0, b"more");
    assert_eq!((ftp.reply(), ftp.reply()), ("226 done".into(), "200 NOOP".into()));
}

#[test]
fn a_server_that_refuses_to_tell_its_status_goes_on_with_the_transfer() {
    let (_daemon, mut ftp, mut data) = asked_for_status("502 not now\r\n");
    assert_eq!(ftp.ask("STAT"), "502 not now");
    assert_eq!(data.rest(), (b"more".to_vec(), End::Closed));
    assert_eq!(ftp.reply(), "226 done");
}

/// The end of a session by silence is for those that transfer nothing.
#[test]
fn a_transfer_keeps_its_control_connection() {
    let origin = origin(|line, peer, data| {
        if line.starts_with("RETR") {
            let mut data = data.accept();
            peer.send("150 here it is\r\n");
            for _ in 0..8 {
                std::thread::sleep(Duration::from_millis(150)); // a slow disk
                data.send("x");
            }
            drop(data);
            peer.send("226 done\r\n");
        }
        line.starts_with("RETR")
    });
    let daemon = start(&origin, "proxy_timeout 600ms;");
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    assert_eq!(data.rest().0, b"xxxxxxxx");
    assert_eq!(ftp.reply(), "226 done");
    assert_eq!(ftp.reply(), "421 Timeout, closing control connection.");
}

#[test]
fn the_ports_for_data_are_bounded() {
    let origin = origin(|_, _, _| false);
    let own = port::free();
    let daemon = start(&origin, &format!("ftp_data_ports {own}-{own};"));
    let (mut first, mut second) = (Ftp::log_in(&daemon), Ftp::log_in(&daemon));
    assert_eq!(first.passive().port(), own);
    assert_eq!(second.ask("PASV"), "425 No port for a data connection is free.");
    daemon.wait_log(&format!(
        r#"all ports {own}-{own} for data connections are in use: widen "ftp_data_ports""#
    ));
    assert_eq!(first.passive().port(), own, "an earlier port is given back first");
    drop(first);
    origin.wait_ended(1);
    for _ in 0..3 {
        let mut data = second.data();
        assert_eq!(second.ask("RETR a"), "150 here it is");
        assert_eq!(data.rest().0, b"content of a");
        assert_eq!(second.reply(), "226 done");
    }
}

#[test]
fn connections_for_data_count_among_those_of_the_worker() {
    let origin = origin(|_, _, _| false);
    let daemon = super::setup_with(&origin, "events { worker_connections 16; }", "").start();
    let mut sessions: Vec<Ftp> = (0..6).map(|_| Ftp::log_in(&daemon)).collect();
    let replies: Vec<String> = sessions.iter_mut().map(|ftp| ftp.ask("EPSV")).collect();
    assert!(replies[0].starts_with("229"), "{replies:?}");
    assert_eq!(replies[5], "425 No port for a data connection is free.");
    daemon.wait_log("worker_connections are not enough for a data connection");
}

#[test]
fn sessions_leave_nothing_however_they_end() {
    // It is not told when its clients have gone.
    let origin = origin(|line, peer, data| {
        if line.starts_with("RETR") {
            let _ = peer.try_send(b"150 here it is\r\n");
            let _ = data.accept().try_send(b"content");
            let _ = peer.try_send(b"226 done\r\n");
        }
        line.starts_with("RETR")
    });
    let daemon = start(&origin, "");
    let worker = daemon.worker();
    let run = |how: usize| {
        let mut ftp = Ftp::log_in(&daemon);
        match how {
            0 => drop(ftp.passive()),
            1 => drop(ftp.data()),
            2 => {
                let _data = ftp.data();
                ftp.send("RETR a");
            }
            _ => {
                ftp.passive();
                ftp.send("RETR a");
            }
        }
    };
    (0..4).for_each(run);
    origin.wait_ended(4);
    let mut before = 0;
    wait_for("the descriptors to settle", || {
        let now = process::fd_count(worker);
        std::mem::replace(&mut before, now).eq(&now).then_some(())
    });
    (0..20).for_each(|index| run(index % 4));
    origin.wait_ended(24);
    wait_for("all descriptors to be closed", || (process::fd_count(worker) <= before).then_some(()));
}

#[test]
fn a_data_connection_that_waits_for_its_command_costs_nothing() {
    let origin = origin(|_, _, _| false);
    let daemon = start(&origin, "");
    let mut ftp = Ftp::log_in(&daemon);
    let _data = ftp.data();
    let worker = daemon.worker();
    let (ticks, began) = (process::cpu_ticks(worker), std::time::Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    let used = process::cpu_ticks(worker) - ticks;
    assert!(used <= 2, "{used} ticks in {:?} for nothing", began.elapsed());
}
