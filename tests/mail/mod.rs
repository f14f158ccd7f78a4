//! The `mail` block: clients of IMAP, POP3 and SMTP log in at an authentication server, and go to their own servers.

mod auth;
mod configuration;
mod hostile;
mod imap;
mod memory;
mod numbers;
mod peers;
mod pop3;
mod reload;
mod smtp;
mod tls;

use crate::support::origin::Peer;
use crate::support::{Client, Daemon, Origin, Request, Setup};

/// The text of a line, without its end.
pub fn line(client: &mut Client) -> String {
    String::from_utf8(client.line()).expect("text")
}

/// Sends a command and returns the first line of the reply.
pub fn ask(client: &mut Client, command: &str) -> String {
    client.send(format!("{command}\r\n"));
    line(client)
}

/// An answer of an authentication server.
pub fn answer(fields: &str) -> Vec<u8> {
    format!("HTTP/1.0 200 OK\r\n{}\r\n", fields.replace('\n', "\r\n")).into_bytes()
}

/// The answer that passes a client to this server.
pub fn pass_to(port: u16) -> Vec<u8> {
    answer(&format!("Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: {port}\n"))
}

/// An authentication server that knows one user, whose server is at this port.
pub fn knowing_me(port: u16) -> Origin {
    Origin::replying(move |question: &Request| {
        let (name, password) = (question.header("auth-user"), question.header("auth-pass"));
        match (name, password) {
            (Some("me"), Some("secret")) => pass_to(port),
            _ => answer("Auth-Status: Invalid login or password\nAuth-Wait: 1\n"),
        }
    })
}

/// Answers each line with `+ ` and the line, until the client leaves.
pub fn echo_lines(peer: &mut Peer) {
    while let Some(line) = next_line(peer) {
        if peer.try_send(format!("+ {line}\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// The next line of a client, or `None` at its end.
pub fn next_line(peer: &mut Peer) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match peer.try_exactly(1)?[0] {
            b'\n' => return Some(String::from_utf8_lossy(&line).trim_end().into()),
            byte => line.push(byte),
        }
    }
}

/// A POP3 server that lets everybody in whose password is right, and then answers with lines.
pub fn pop3_server() -> Origin {
    Origin::start(|peer| {
        peer.send("+OK backend\r\n");
        let Some(user) = next_line(peer) else { return };
        peer.send("+OK\r\n");
        let Some(pass) = next_line(peer) else { return };
        if pass != "PASS secret" {
            peer.send("-ERR backend says no\r\n");
            return;
        }
        peer.send(format!("+OK welcome {user}\r\n"));
        echo_lines(peer);
    })
}

/// A daemon with a `mail` block: one server of this protocol, with an authentication server and these lines.
pub fn start(protocol: &str, auth: &Origin, more: &str) -> Daemon {
    setup(protocol, auth, more).start()
}

pub fn setup(protocol: &str, auth: &Origin, more: &str) -> Setup {
    setup_with("", protocol, auth, more)
}

/// The same with lines for the main block.
pub fn setup_with(main: &str, protocol: &str, auth: &Origin, more: &str) -> Setup {
    let conf = "%%MAIN%% mail {
        auth_http http://%%AUTH%%/auth;
        server_name mail.example.com;
        server { listen 127.0.0.1:%%PORT_0%%; protocol %%PROTOCOL%%; %%MORE%% }
    }";
    let setup = Setup::new(conf).set("AUTH", auth.address()).set("PROTOCOL", protocol);
    setup.set("MAIN", main).set("MORE", more).level("info")
}

/// Connects, and reads the greeting.
pub fn greeted(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.port(0));
    line(&mut client);
    client
}
