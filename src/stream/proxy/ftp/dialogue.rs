//! The commands of a client, and what each becomes.
//!
//! Commands about connections and their protection are ours; all others are the server's.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use super::data::{self, Agreed, ClientEnd};
use super::{End, Gateway, Outcome, Way, put};
use crate::log;
use crate::proto::ftp::address::{self, Unusable};
use crate::proto::ftp::command::{self, Line};
use crate::proto::ftp::reply::Part;
use crate::proto::ftp::{Direction, Verb};
use crate::script::Scope;
use crate::stream::handshake::{self, Chooses};
use crate::stream::modules::ftp::{NoAddress, StartTls};

/// Clients may have a port of their own only from here on (RFC 2577 §3).
const CLIENT_PORT_MIN: u16 = 1024;

impl Gateway {
    /// Carries a command out.
    pub(super) async fn command(&mut self, line: &[u8]) -> Outcome<()> {
        let Some(line) = command::parse(line) else {
            return self.say(b"500 Command not understood.\r\n").await;
        };
        self.show(&line);
        if let Some(words) = self.refusal(&line) {
            return self.say(words.as_bytes()).await;
        }
        match line.verb {
            Verb::Auth => self.auth(&line).await,
            Verb::Pbsz => {
                self.has_pbsz = true;
                self.say(b"200 PBSZ=0\r\n").await
            }
            Verb::Prot => self.prot(&line).await,
            Verb::Ccc => self.say(b"533 The control connection stays encrypted.\r\n").await,
            Verb::Sealed | Verb::Foreign => self.say(b"502 Command not implemented.\r\n").await,
            Verb::Pasv => self.pasv().await,
            Verb::Epsv => self.epsv(&line).await,
            Verb::Port => self.port(&line).await,
            Verb::Eprt => self.eprt(&line).await,
            Verb::Transfer(direction) => self.begin_transfer(&line, direction).await,
            Verb::Feat => {
                self.send(&[line.text]).await?;
                self.finish(Way::Features).await.map(drop)
            }
            Verb::User => {
                if let Some(facts) = &mut self.session.states.ftp {
                    facts.user = line.argument.into();
                }
                self.pass(line.text).await.map(drop)
            }
            Verb::Rein => self.reinitialize(&line).await,
            Verb::Quit => {
                self.pass(line.text).await?;
                Err(End::silent())
            }
            Verb::Mode if !matches!(line.argument.trim_ascii(), b"S" | b"s" | b"Z" | b"z") => {
                // In the others a file's end is not the end of its connection.
                self.say(b"504 Only stream modes are supported.\r\n").await
            }
            Verb::Pass | Verb::Acct | Verb::Abor | Verb::Stat | Verb::Mode | Verb::Harmless | Verb::Other => {
                self.pass(line.text).await.map(drop)
            }
        }
    }

    /// Shows operators the command, unless it is a secret.
    fn show(&self, line: &Line<'_>) {
        match line.is_secret() {
            true => self.open.client().asks_once_more(),
            false => self.open.client().asks(line.text),
        }
    }

    /// The reply to a command that comes at a wrong time.
    fn refusal(&self, line: &Line<'_>) -> Option<&'static str> {
        let needs_tls = self.conf.starttls() == StartTls::Only;
        let (is_tls, is_data) = (self.session.tls.is_some(), matches!(line.verb, Verb::Transfer(_)));
        let is_ours = matches!(line.verb, Verb::Auth | Verb::Pbsz | Verb::Prot | Verb::Ccc);
        let is_free = is_ours || matches!(line.verb, Verb::Feat | Verb::Quit | Verb::Harmless);
        if needs_tls && !is_tls && !is_free {
            return Some("530 Encrypt the connection first: AUTH TLS.\r\n");
        }
        if needs_tls && is_data && !self.is_private {
            return Some("522 Data connections must be encrypted: PBSZ 0, PROT P.\r\n");
        }
        let opens = matches!(line.verb, Verb::Pasv | Verb::Port | Verb::Eprt | Verb::Foreign);
        if self.only_epsv && opens {
            return Some("503 Only EPSV is allowed after EPSV ALL.\r\n");
        }
        match line.verb {
            Verb::Auth if is_tls => Some("503 The connection is encrypted already.\r\n"),
            Verb::Auth if self.conf.starttls() == StartTls::Off => Some("502 AUTH is not available.\r\n"),
            Verb::Pbsz | Verb::Prot if !is_tls && self.conf.starttls() == StartTls::Off => {
                Some("502 Encryption is not available.\r\n")
            }
            Verb::Pbsz | Verb::Prot | Verb::Ccc if !is_tls => Some("503 AUTH TLS comes first.\r\n"),
            Verb::Prot if !self.has_pbsz => Some("503 PBSZ comes first.\r\n"),
            _ => None,
        }
    }

    /// Encrypts the control connection (RFC 4217 §4).
    async fn auth(&mut self, line: &Line<'_>) -> Outcome<()> {
        let mechanism = line.argument.trim_ascii().to_ascii_uppercase();
        if !matches!(&mechanism[..], b"TLS" | b"TLS-C" | b"SSL" | b"TLS-P") {
            return self.say(b"504 Only AUTH TLS is supported.\r\n").await;
        }
        // Nothing that has come in plain may be taken for something said under TLS.
        let discarded = self.control.client.discard();
        if discarded > 0 {
            log::warn!(
                self.session.logger(),
                &*self.session,
                "client sent {discarded} bytes behind AUTH in plain, which were discarded"
            );
        }
        self.say(b"234 Proceed with the TLS handshake.\r\n").await?;
        let transport = &mut self.control.client.transport;
        let secured = Box::pin(handshake::secure(&mut self.session, transport, Chooses::Nothing)).await;
        self.session.action = "proxying connection";
        secured.map_err(|status| End::said(status, ""))?;
        // As the RFC's draft had it, and clients of that time expect.
        self.is_private = matches!(&mechanism[..], b"SSL" | b"TLS-P");
        self.has_pbsz = self.is_private;
        self.agreed = None;
        self.control.touch();
        Ok(())
    }

    async fn prot(&mut self, line: &Line<'_>) -> Outcome<()> {
        let words: &[u8] = match line.argument.trim_ascii() {
            b"P" | b"p" => {
                self.is_private = true;
                b"200 Data connections are private.\r\n"
            }
            b"C" | b"c" if self.conf.starttls() == StartTls::Only => {
                b"534 Data connections must be encrypted.\r\n"
            }
            b"C" | b"c" => {
                self.is_private = false;
                b"200 Data connections are clear.\r\n"
            }
            b"S" | b"s" | b"E" | b"e" => b"536 TLS has PROT C and PROT P only.\r\n",
            _ => b"504 Unknown protection level.\r\n",
        };
        self.say(words).await
    }

    /// REIN: a new user on the same connections. TLS cannot be taken off them.
    async fn reinitialize(&mut self, line: &Line<'_>) -> Outcome<()> {
        if self.session.tls.is_some() || self.terms.is_some() {
            return self.say(b"502 REIN is not available on encrypted connections.\r\n").await;
        }
        if self.pass(line.text).await? < 400 {
            if let Some(facts) = &mut self.session.states.ftp {
                facts.user = Box::default();
            }
            (self.agreed, self.only_epsv, self.has_aborted) = (None, false, false);
        }
        Ok(())
    }

    async fn pasv(&mut self) -> Outcome<()> {
        let Some(own) = self.own else { return self.say(NO_DATA).await };
        let told = match self.conf.data_address(&mut self.session) {
            Ok(told) => told.unwrap_or(own.ip()),
            Err(NoAddress) => return self.say(NO_DATA).await,
        };
        let (IpAddr::V4(told), true) = (told, own.is_ipv4()) else {
            return self.say(b"425 PASV has no IPv6: use EPSV.\r\n").await;
        };
        let Some(port) = self.agree_passive(own).await? else { return Ok(()) };
        let mut words = b"227 Entering Passive Mode (".to_vec();
        address::write_six(SocketAddrV4::new(told, port), &mut words);
        words.extend_from_slice(b").\r\n");
        self.say(&words).await
    }

    async fn epsv(&mut self, line: &Line<'_>) -> Outcome<()> {
        let argument = line.argument.trim_ascii();
        if argument.eq_ignore_ascii_case(b"ALL") {
            self.only_epsv = true;
            return self.say(b"200 EPSV ALL: other commands for data connections are refused.\r\n").await;
        }
        let Some(own) = self.own else { return self.say(NO_DATA).await };
        let family: &[u8] = if own.is_ipv4() { b"1" } else { b"2" };
        if !argument.is_empty() && argument != family {
            return self.say(other_family(own).as_bytes()).await;
        }
        let Some(port) = self.agree_passive(own).await? else { return Ok(()) };
        self.say(format!("229 Entering Extended Passive Mode (|||{port}|)\r\n").as_bytes()).await
    }

    /// Opens a port for the client, and has the server open one for us. `None`: the client knows already why not.
    async fn agree_passive(&mut self, own: SocketAddr) -> Outcome<Option<u16>> {
        self.agreed = None;
        let Some(listening) = Box::pin(data::listen(&self.session, own, self.conf.data_ports())).await else {
            self.say(b"425 No port for a data connection is free.\r\n").await?;
            return Ok(None);
        };
        let port = listening.port;
        let Some(server) = self.server_passive().await? else { return Ok(None) };
        self.agreed = Some(Agreed { client: ClientEnd::Listening(listening), server });
        Ok(Some(port))
    }

    async fn port(&mut self, line: &Line<'_>) -> Outcome<()> {
        match address::parse_port(line.argument) {
            Some(address) => self.agree_active(SocketAddr::V4(address), "PORT").await,
            None => self.say(b"501 PORT has six numbers: PORT 192,0,2,1,4,1\r\n").await,
        }
    }

    async fn eprt(&mut self, line: &Line<'_>) -> Outcome<()> {
        match address::parse_eprt(line.argument) {
            Ok(address) => self.agree_active(address, "EPRT").await,
            Err(Unusable::Syntax) => {
                self.say(b"501 EPRT has a family, an address and a port: EPRT |1|192.0.2.1|1025|\r\n").await
            }
            Err(Unusable::Family) => match self.own {
                Some(own) => self.say(other_family(own).as_bytes()).await,
                None => self.say(NO_DATA).await,
            },
        }
    }

    /// Notes where the client listens, if that is its own address, and has the server open a port.
    async fn agree_active(&mut self, address: SocketAddr, verb: &str) -> Outcome<()> {
        self.agreed = None;
        let address = address::plain(address);
        let own = self.client.filter(|own| own.ip() == address.ip() && address.port() >= CLIENT_PORT_MIN);
        let Some(own) = own else {
            log::warn!(
                self.session.logger(),
                &*self.session,
                "client asked for data connections to {address}: only its own address and ports from \
                 {CLIENT_PORT_MIN} on are allowed"
            );
            let words = format!("500 {verb} of another address or a reserved port is refused.\r\n");
            return self.say(words.as_bytes()).await;
        };
        let Some(server) = self.server_passive().await? else { return Ok(()) };
        let client = ClientEnd::At(data::with_port(own, address.port()));
        self.agreed = Some(Agreed { client, server });
        self.say(format!("200 {verb} command successful.\r\n").as_bytes()).await
    }

    /// Has the server open a port. `None`: the client has got a reply that says that it does not.
    async fn server_passive(&mut self) -> Outcome<Option<SocketAddr>> {
        let Some(server) = data::inet(self.control.server.transport.peer_addr()) else {
            log::error!(
                self.session.logger(),
                &*self.session,
                "no data connections to a server at a unix socket"
            );
            self.say(NO_DATA).await?;
            return Ok(None);
        };
        if self.terms.is_some() && !self.is_server_private && !self.protect_server().await? {
            return Ok(None);
        }
        // EPSV is the only way with IPv6, and PASV the one that all servers have.
        let mut verb: &[u8] = if server.is_ipv4() { b"PASV" } else { b"EPSV" };
        loop {
            self.send(&[verb]).await?;
            let reply = self.withheld().await?;
            let port = match reply.code {
                227 => address::port_of_227(&reply.text),
                229 => address::port_of_229(&reply.text),
                500 | 502 if verb == b"PASV" => {
                    verb = b"EPSV";
                    continue;
                }
                400.. => {
                    self.say(&reply.text).await?;
                    return Ok(None);
                }
                _ => None,
            };
            if port.is_none() {
                let shown = log::Text(reply.text.trim_ascii_end());
                log::error!(
                    self.session.logger(),
                    &*self.session,
                    "upstream sent no port for data: \"{shown}\""
                );
                self.say(NO_DATA).await?;
            }
            // Its own address, whatever it says.
            return Ok(port.map(|port| data::with_port(server, port)));
        }
    }

    /// The final reply to a command of ours. One to an earlier ABOR goes to the client.
    async fn withheld(&mut self) -> Outcome<super::Reply> {
        loop {
            let reply = self.reply(Way::Withheld).await?;
            if std::mem::take(&mut self.has_aborted) && matches!(reply.code, 225 | 226 | 426) {
                self.say(&reply.text).await?;
            } else if reply.code >= 200 {
                return Ok(reply);
            }
        }
    }

    /// Has a server that we reach by TLS encrypt its data connections, too. False: the client knows that it does not.
    async fn protect_server(&mut self) -> Outcome<bool> {
        for command in [&b"PBSZ 0"[..], b"PROT P"] {
            self.send(&[command]).await?;
            let reply = self.withheld().await?;
            if reply.code >= 300 {
                let shown = log::Text(reply.text.trim_ascii_end());
                log::error!(
                    self.session.logger(),
                    &*self.session,
                    "upstream does not encrypt data connections, as \"proxy_ssl\" demands: \"{shown}\""
                );
                // Before a login it may just want that first.
                let words = if reply.code == 530 { &reply.text[..] } else { NO_DATA };
                self.say(words).await?;
                return Ok(false);
            }
        }
        self.is_server_private = true;
        Ok(true)
    }

    /// Passes a line of the reply to FEAT on, with what we add and take away (RFC 2389).
    pub(super) fn feature(&self, line: &[u8], part: Part, out: &mut Vec<u8>) {
        let is_ours = self.session.tls.is_some() || self.conf.starttls() != StartTls::Off;
        let mut own = vec![&b" EPRT"[..], b" EPSV"];
        if is_ours {
            own.extend([&b" AUTH TLS"[..], b" PBSZ", b" PROT"]);
        }
        if !matches!(part.code, 211 | 500 | 502) {
            return put(line, out);
        }
        match (part.is_first, part.is_last) {
            // A server without FEAT, or without features.
            (true, true) => {
                put(b"211-Features:", out);
                own.iter().for_each(|feature| put(feature, out));
                put(b"211 End", out);
            }
            (false, true) => {
                own.iter().for_each(|feature| put(feature, out));
                put(line, out);
            }
            (true, false) => put(line, out),
            (false, false) if is_connection_feature(line) => {}
            (false, false) => put(line, out),
        }
    }

    async fn begin_transfer(&mut self, line: &Line<'_>, direction: Direction) -> Outcome<()> {
        match self.agreed.take() {
            Some(agreed) => Box::pin(self.transfer(line, direction, agreed)).await,
            None => self.say(b"425 Use PASV, EPSV, PORT or EPRT first.\r\n").await,
        }
    }
}

pub(super) const NO_DATA: &[u8] = b"425 Cannot open a data connection.\r\n";

fn other_family(own: SocketAddr) -> String {
    format!("522 Network protocol not supported, use ({})\r\n", if own.is_ipv4() { 1 } else { 2 })
}

/// True for a feature of a server that is about connections, which are ours.
fn is_connection_feature(line: &[u8]) -> bool {
    const TAKEN: [&[u8]; 8] = [b"AUTH", b"PBSZ", b"PROT", b"CCC", b"EPRT", b"EPSV", b"CPSV", b"SSCN"];
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"211-").unwrap_or(line);
    let word = line.split(|byte| matches!(byte, b' ' | b';')).next().unwrap_or_default();
    TAKEN.iter().any(|taken| word.eq_ignore_ascii_case(taken)) || word.eq_ignore_ascii_case(b"SPSV")
}
