//! `ftp on`: control connections are dialogues, data connections are relayed. `dialogue` and `transfers` talk to an origin that says
//! whatever a test wants; `peers` to vsftpd, with curl and Python's ftplib as clients.

mod dialogue;
mod encrypted;
mod leaving;
mod peers;
mod transfers;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::origin::Peer;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, Wire, deadline};

const CONF: &str = r#"
%%MAIN%%
stream {
    log_format ftp '$status $bytes_received/$bytes_sent $upstream_bytes_sent/$upstream_bytes_received $ftp_user $ftp_transfers';
    access_log %%DIR%%/ftp.log ftp;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_pass %%ORIGIN%%;
        ftp on;
        %%MORE%%
    }
}
"#;

fn start(origin: &Origin, more: &str) -> Daemon {
    setup(origin, more).start()
}

fn setup(origin: &Origin, more: &str) -> Setup {
    setup_with(origin, "", more)
}

/// The same, with directives of the main block.
fn setup_with(origin: &Origin, main: &str, more: &str) -> Setup {
    let conf = CONF.replace("%%MAIN%%", main);
    Setup::new(&conf).set("ORIGIN", origin.address()).set("MORE", more).level("info")
}

/// The origin's side of data connections.
#[derive(Default)]
struct Data {
    listener: Option<TcpListener>,
}

impl Data {
    /// Opens a port.
    fn listen(&mut self) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        self.listener = Some(listener);
        port
    }

    fn accept(&mut self) -> Wire {
        let listener = self.listener.take().expect("PASV came before");
        Wire::new(listener.accept().expect("the daemon has connected").0)
    }
}

/// The files that clients have stored, and how each of them ended.
type Stored = Arc<Mutex<Vec<(Vec<u8>, End)>>>;

/// An origin that speaks FTP. `hook` answers a command instead if it returns true. Its replies to PASV name a host where it is not.
fn origin(hook: impl Fn(&str, &mut Peer, &mut Data) -> bool + Send + Sync + 'static) -> Origin {
    storing(Stored::default(), hook)
}

/// The same; uploads are kept in `stored`.
fn storing(
    stored: Stored,
    hook: impl Fn(&str, &mut Peer, &mut Data) -> bool + Send + Sync + 'static,
) -> Origin {
    Origin::start(move |peer| {
        let mut data = Data::default();
        peer.send("220-an origin\r\n220 ready\r\n");
        while let Some(line) = command(peer) {
            if hook(&line, peer, &mut data) {
                continue;
            }
            let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
            match verb {
                "USER" => _ = peer.send("331 password\r\n"),
                "PASS" => _ = peer.send("230 welcome\r\n"),
                "PASV" => {
                    let [high, low] = data.listen().to_be_bytes();
                    peer.send(format!("227 Entering Passive Mode (10,9,8,7,{high},{low}).\r\n"));
                }
                "RETR" => {
                    peer.send("150 here it is\r\n");
                    data.accept().send(format!("content of {argument}"));
                    peer.send("226 done\r\n");
                }
                "STOR" => {
                    peer.send("150 ready\r\n");
                    let upload = data.accept().rest();
                    let is_whole = upload.1 == End::Closed;
                    stored.lock().expect("no panic").push(upload);
                    peer.send(if is_whole { "226 stored\r\n" } else { "426 broken off\r\n" });
                }
                "QUIT" => {
                    peer.send("221 bye\r\n");
                    return;
                }
                _ => _ = peer.send(format!("200 {line}\r\n")),
            }
        }
    })
}

/// The next command of a client; `None` at its end.
fn command(peer: &mut Peer) -> Option<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.extend(peer.try_exactly(1)?);
    }
    Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

/// A client of FTP.
struct Ftp(Client);

impl Ftp {
    /// Connects, and reads the greeting.
    fn connect(daemon: &Daemon) -> Self {
        let mut ftp = Self(Client::connect(daemon.port(0)));
        assert_eq!(ftp.reply(), "220-an origin\n220 ready");
        ftp
    }

    /// Connects and logs in.
    fn log_in(daemon: &Daemon) -> Self {
        let mut ftp = Self::connect(daemon);
        assert_eq!(ftp.ask("USER me"), "331 password");
        assert_eq!(ftp.ask("PASS secret"), "230 welcome");
        ftp
    }

    fn send(&mut self, line: &str) {
        self.0.send(format!("{line}\r\n"));
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.reply()
    }

    /// The next reply; its lines have `\n` between.
    fn reply(&mut self) -> String {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = String::from_utf8(self.0.line()).expect("text");
            let code = lines.first().unwrap_or(&line)[..3].to_owned();
            let is_last = line.starts_with(&format!("{code} "));
            lines.push(line);
            if is_last {
                return lines.join("\n");
            }
        }
    }

    /// Asks for a port, and tells its address.
    fn passive(&mut self) -> SocketAddr {
        let reply = self.ask("PASV");
        let numbers = reply.split(['(', ')']).nth(1).unwrap_or_else(|| panic!("{reply}"));
        let parts: Vec<u8> = numbers.split(',').map(|part| part.parse().expect("a number")).collect();
        let [a, b, c, d, high, low] = parts[..] else { panic!("{reply}") };
        SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
    }

    /// Opens a data connection.
    fn data(&mut self) -> Wire {
        let address = self.passive();
        Wire::new(TcpStream::connect_timeout(&address, deadline()).expect("the daemon listens"))
    }
}
