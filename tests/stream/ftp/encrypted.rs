//! TLS: on the control connection by AUTH TLS, on data connections by PROT P, and on those to servers (`proxy_ssl`).

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::ClientConfig;

use super::{CONF, Stored, origin, storing};
use crate::support::tls::{Authority, TlsClient, client_config, trusting};
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup};

fn start(origin: &Origin, authority: &Authority, more: &str) -> Daemon {
    let pair = authority.issue(&["ftp.test"]);
    let more = format!("ssl_certificate a.crt; ssl_certificate_key a.key; {more}");
    let conf = CONF.replace("%%MAIN%%", "");
    let setup = Setup::new(&conf).set("ORIGIN", origin.address()).set("MORE", more).level("info");
    setup
        .file("a.crt", &pair.certificate)
        .file("a.key", &pair.key)
        .file("ca.crt", authority.certificate())
        .start()
}

/// A client after AUTH TLS.
struct Tls(TlsClient, Arc<ClientConfig>);

impl Tls {
    fn connect(daemon: &Daemon, authority: &Authority) -> Self {
        Self::with(daemon, trusting(authority))
    }

    fn with(daemon: &Daemon, config: Arc<ClientConfig>) -> Self {
        let mut plain = Client::connect(daemon.port(0));
        plain.line();
        plain.line();
        plain.send("AUTH TLS\r\n");
        assert_eq!(plain.line(), b"234 Proceed with the TLS handshake.");
        Self::over(plain.stream().try_clone().expect("a socket"), config)
    }

    fn over(stream: TcpStream, config: Arc<ClientConfig>) -> Self {
        Self(TlsClient::try_over(stream, &config, "ftp.test").expect("a handshake"), config)
    }

    /// A reply of one line.
    fn reply(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.0.exactly(1));
        }
        String::from_utf8(line).expect("text").trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.send(format!("{line}\r\n"));
        self.reply()
    }

    /// A data connection in clear.
    fn data(&mut self) -> TcpStream {
        let reply = self.ask("EPSV");
        let port = reply.split('|').nth(3).unwrap_or_else(|| panic!("{reply}")).parse().expect("a port");
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("it listens")
    }

    fn secured(&self, data: TcpStream) -> TlsClient {
        TlsClient::try_over(data, &self.1, "ftp.test").expect("a handshake")
    }
}

#[test]
fn both_kinds_of_connections_are_encrypted_on_demand() {
    let stored = Stored::default();
    let origin = storing(stored.clone(), |line, _, _| {
        let ours = ["AUTH", "PBSZ", "PROT", "CCC", "REIN"];
        assert!(!ours.iter().any(|verb| line.starts_with(verb)), "the server is not asked: {line}");
        false
    });
    let authority = Authority::new("ca");
    let daemon = start(&origin, &authority, "ftp_starttls on;");
    let mut ftp = Tls::connect(&daemon, &authority);
    for (line, expected) in [
        ("AUTH TLS", "503 The connection is encrypted already."),
        ("PROT P", "503 PBSZ comes first."),
        ("PBSZ 0", "200 PBSZ=0"),
        ("PROT S", "536 TLS has PROT C and PROT P only."),
        ("PROT X", "504 Unknown protection level."),
        ("CCC", "533 The control connection stays encrypted."),
        ("REIN", "502 REIN is not available on encrypted connections."),
        ("USER me", "331 password"),
        ("PASS x", "230 welcome"),
    ] {
        assert_eq!(ftp.ask(line), expected, "{line}");
    }
    let data = ftp.data();
    assert_eq!(ftp.ask("RETR clear"), "150 here it is");
    assert_eq!(crate::support::Wire::new(data).rest().0, b"content of clear");
    assert_eq!(ftp.reply(), "226 done");
    assert_eq!(ftp.ask("PROT P"), "200 Data connections are private.");
    let data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    let mut data = ftp.secured(data);
    assert_eq!(data.exactly(12), b"content of a");
    assert!(data.ends_well(), "with the last word of TLS");
    assert_eq!(ftp.reply(), "226 done");
    let data = ftp.data();
    let raw = data.try_clone().expect("a socket");
    assert_eq!(ftp.ask("STOR a"), "150 ready");
    let mut data = ftp.secured(data);
    data.send("a part");
    // Whoever can write packets can end a connection, but not the TLS in it.
    raw.shutdown(std::net::Shutdown::Write).expect("it is connected");
    assert_eq!(ftp.reply(), "426 broken off");
    assert_eq!(stored.lock().expect("no panic")[0].1, End::Reset);
    daemon.wait_log("data connection ended without the end of its TLS");
}

#[test]
fn what_is_sent_in_clear_behind_auth_is_discarded() {
    let origin = origin(|line, _, _| {
        assert!(!line.contains("evil"), "{line}");
        false
    });
    let authority = Authority::new("ca");
    let daemon = start(&origin, &authority, "ftp_starttls on;");
    let mut plain = Client::connect(daemon.port(0));
    plain.line();
    plain.line();
    plain.send("AUTH TLS\r\nUSER evil\r\nSITE evil\r\n");
    assert_eq!(plain.line(), b"234 Proceed with the TLS handshake.");
    let mut ftp = Tls::over(plain.stream().try_clone().expect("a socket"), trusting(&authority));
    assert_eq!(ftp.ask("NOOP"), "200 NOOP");
    daemon.wait_log("client sent 22 bytes behind AUTH in plain, which were discarded");
}

#[test]
fn only_means_that_nothing_is_said_in_clear() {
    let origin = origin(|line, peer, _| {
        if line == "FEAT" {
            peer.send("211-Features:\r\n AUTH GSSAPI\r\n SIZE\r\n211 End\r\n");
        }
        line == "FEAT"
    });
    let authority = Authority::new("ca");
    let daemon = start(&origin, &authority, "ftp_starttls only;");
    let mut plain = super::Ftp::connect(&daemon);
    for line in ["USER me", "PASS x", "PASV", "RETR a", "SITE x", "STAT"] {
        assert_eq!(plain.ask(line), "530 Encrypt the connection first: AUTH TLS.", "{line}");
    }
    assert_eq!(plain.ask("AUTH GSSAPI"), "504 Only AUTH TLS is supported.");
    assert_eq!(plain.ask("PROT P"), "503 AUTH TLS comes first.");
    assert_eq!(plain.ask("NOOP"), "200 NOOP");
    assert_eq!(plain.ask("FEAT"), "211-Features:\n SIZE\n EPRT\n EPSV\n AUTH TLS\n PBSZ\n PROT\n211 End");
    let mut ftp = Tls::connect(&daemon, &authority);
    assert_eq!(ftp.ask("USER me"), "331 password");
    let _data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "522 Data connections must be encrypted: PBSZ 0, PROT P.");
    assert_eq!(
        (ftp.ask("PBSZ 0"), ftp.ask("PROT C")),
        ("200 PBSZ=0".into(), "534 Data connections must be encrypted.".into())
    );
}

#[test]
fn a_data_connection_without_tls_after_prot_p_moves_nothing() {
    let stored = Stored::default();
    let origin = storing(stored.clone(), |_, _, _| false);
    let authority = Authority::new("ca");
    let daemon = start(&origin, &authority, "ftp_starttls on; ftp_data_timeout 2s;");
    let mut ftp = Tls::connect(&daemon, &authority);
    for line in ["PBSZ 0", "PROT P", "USER me"] {
        ftp.ask(line);
    }
    let mut data = crate::support::Wire::new(ftp.data());
    assert_eq!(ftp.ask("STOR a"), "150 ready");
    data.send("in clear");
    assert_eq!(ftp.reply(), "426 broken off");
    assert_eq!(stored.lock().expect("no panic")[0], (Vec::new(), End::Reset));
    daemon.wait_log("SSL handshake of a data connection failed");
}

#[test]
fn a_data_connection_shows_the_certificate_of_its_control_connection() {
    let origin = origin(|_, _, _| false);
    let authority = Authority::new("ca");
    let daemon =
        start(&origin, &authority, "ftp_starttls on; ssl_verify_client on; ssl_client_certificate ca.crt;");
    let config =
        |name: &str| client_config(&authority, Some(&authority.issue(&[name])), rustls::ALL_VERSIONS);
    let (own, other) = (config("one.test"), config("two.test"));
    let mut ftp = Tls::with(&daemon, own);
    for line in ["PBSZ 0", "PROT P", "USER me"] {
        ftp.ask(line);
    }
    let data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    let mut data = ftp.secured(data);
    assert_eq!(data.exactly(12), b"content of a");
    drop(data);
    assert_eq!(ftp.reply(), "226 done");
    let data = ftp.data();
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    let _data = TlsClient::try_over(data, &other, "ftp.test");
    assert_eq!(ftp.reply(), "426 Data connection closed, transfer aborted.");
    daemon.wait_log("data connection with another client certificate than the control connection");
}
