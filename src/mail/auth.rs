//! Questions to the authentication server (`auth_http`): may this client log in, and where?
//!
//! Touches: a connection to it, one for each question. Bounded: an answer has at most `mail_auth::ANSWER_BYTES_MAX` bytes and comes within
//! `auth_http_timeout`. Behaviour: nginx.org, ngx_mail_auth_http_module.

use crate::log;
use crate::mail::dialogue::Dialogue;
use crate::mail::modules::auth_http::AuthServer;
use crate::mail::session::Session;
use crate::net::connect;
use crate::net::tls::Info;
use crate::net::tls::subject::Subject;
use crate::net::transport::Transport;
use crate::proto::mail_auth::{ANSWER_BYTES_MAX, Answer, Fault, Question, has_end, parse};
use crate::proto::sasl::{Credentials, Method};
use crate::runtime::buffer::Buffer;
use crate::runtime::timeout;
use crate::script::Scope;
use crate::shared::connection::client_address;
use crate::shared::tls::variables;

/// A client that wants to log in.
pub struct Guest {
    pub dialogue: Dialogue,
    /// The name of an SMTP client's address, or a word in brackets if it has none; empty in other protocols.
    pub host: Box<str>,
    /// How often it has tried to log in, this time included.
    pub attempts: u64,
}

/// The first buffer for an answer.
const FIRST_BYTES: usize = 1024;

/// Asks about a client. `None`: there is no answer, and the log says why.
pub async fn ask(session: &mut Session, guest: &Guest, credentials: &Credentials) -> Option<Answer> {
    session.action = "in http auth state";
    let conf = &session.server.confs.auth_http;
    let server = conf.server()?;
    let question = question(session, guest, credentials, server);
    let log = session.logger();
    match timeout(conf.timeout_ms(), exchange(session, server, &question)).await {
        Ok(answer) => answer,
        Err(_) => {
            let name = &server.name;
            log::error!(log, &*session, "auth http server {name} timed out (110: Connection timed out)");
            None
        }
    }
}

async fn exchange(session: &Session, server: &AuthServer, question: &[u8]) -> Option<Answer> {
    let (log, name) = (session.logger(), &server.name);
    let (transport, place) = connect(session, server).await?;
    if let Err(error) = transport.write_all(question).await {
        log::error!(log, session, "send() to auth http server {name} failed {}", log::Cause(&error));
        return None;
    }
    let mut buffer = Buffer::take(FIRST_BYTES);
    let mut looked_at = 0;
    let answer = loop {
        if has_end(buffer.data(), &mut looked_at) || buffer.data().len() >= ANSWER_BYTES_MAX {
            match parse(buffer.data()) {
                Ok(Some(answer)) => break answer,
                Ok(None) => {}
                Err(fault) => {
                    report(session, name, &fault);
                    return None;
                }
            }
        }
        if buffer.space().is_empty() {
            buffer.grow((buffer.capacity() * 2).min(ANSWER_BYTES_MAX));
        }
        let read = std::future::poll_fn(|cx| transport.poll_read(cx, buffer.space())).await;
        match read {
            Ok(0) => {
                log::error!(
                    log,
                    session,
                    "auth http server {name} closed connection before its answer was complete"
                );
                return None;
            }
            Ok(count) => buffer.filled(count),
            Err(error) => {
                log::error!(
                    log,
                    session,
                    "recv() from auth http server {name} failed {}",
                    log::Cause(&error)
                );
                return None;
            }
        }
    };
    drop((transport, place));
    Some(answer)
}

/// Connects to the first of its addresses that can be reached.
async fn connect(session: &Session, server: &AuthServer) -> Option<(Transport, crate::net::open::Place)> {
    let limit_ms = session.server.confs.auth_http.timeout_ms();
    for address in &server.addresses {
        match connect::open(address, &connect::Options::default(), limit_ms).await {
            Ok(connected) => return Some(connected),
            Err(refusal) => {
                log::error!(session.logger(), session, "{refusal}, auth http server {address}");
                if refusal.is_ours() {
                    return None;
                }
            }
        }
    }
    None
}

fn report(session: &Session, name: &str, fault: &Fault) {
    let log = session.logger();
    match fault {
        Fault::Malformed => {
            log::error!(log, session, "auth http server {name} sent invalid header in response")
        }
        Fault::TooLong => log::error!(log, session, "auth http server {name} sent too long response"),
        Fault::NoServer => log::error!(log, session, "auth http server {name} did not send server or port"),
        Fault::Server(text) => {
            let text = log::Text(text);
            log::error!(log, session, "auth http server {name} sent invalid server address:\"{text}\"");
        }
        Fault::Port(text) => {
            let text = log::Text(text);
            log::error!(log, session, "auth http server {name} sent invalid server port:\"{text}\"");
        }
    }
}

/// The question about a client, in nginx's words and order.
fn question(session: &Session, guest: &Guest, credentials: &Credentials, server: &AuthServer) -> Vec<u8> {
    let conf = &session.server.confs.auth_http;
    let mut out = Question::new(&server.uri, &server.host);
    out.field("Auth-Method", credentials.method.name());
    out.escaped("Auth-User", &credentials.login);
    out.escaped("Auth-Pass", credentials.password.as_ref().map_or(&[][..], |password| &password.0));
    if matches!(credentials.method, Method::Apop | Method::CramMd5) {
        out.field_if_any("Auth-Salt", guest.dialogue.salt());
    }
    out.field("Auth-Protocol", session.server.terms.protocol.name());
    out.field("Auth-Login-Attempt", guest.attempts.to_string());
    let mut address = Vec::new();
    client_address(&session.peer, &mut address);
    out.field("Client-IP", address);
    out.field_if_any("Client-Host", &*guest.host);
    if let Some((source, target)) = session.proxy.as_ref().and_then(|header| header.addresses) {
        out.field("Proxy-Protocol-Addr", source.ip().to_string());
        out.field("Proxy-Protocol-Port", source.port().to_string());
        out.field("Proxy-Protocol-Server-Addr", target.ip().to_string());
        out.field("Proxy-Protocol-Server-Port", target.port().to_string());
    }
    if let (Method::None, Dialogue::Smtp(dialogue)) = (credentials.method, &guest.dialogue) {
        out.field("Auth-SMTP-Helo", &dialogue.said.helo);
        out.field("Auth-SMTP-From", &dialogue.said.from);
        out.field("Auth-SMTP-To", &dialogue.said.to);
    }
    if let Some(info) = &session.tls {
        write_tls(session, info, conf.passes_client_cert(), &mut out);
    }
    for (name, value) in conf.headers() {
        out.field(name, value);
    }
    out.end()
}

fn write_tls(session: &Session, info: &Info, passes_certificate: bool, out: &mut Question) {
    out.field("Auth-SSL", "on");
    out.field("Auth-SSL-Protocol", info.version());
    out.field("Auth-SSL-Cipher", info.cipher());
    if session.server.confs.ssl.client_mode().is_none() {
        return;
    }
    let mut verdict = Vec::new();
    variables::write_verdict(info, &mut verdict);
    out.field("Auth-SSL-Verify", verdict);
    let Some(subject) = info.peer_chain.first().and_then(|own| Subject::parse(own)) else { return };
    // Names in a certificate are the client's words.
    let mut line = |name: &str, text: String| {
        let text: String =
            text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
        out.field_if_any(name, text);
    };
    line("Auth-SSL-Subject", subject.subject_dn());
    line("Auth-SSL-Issuer", subject.issuer_dn());
    line("Auth-SSL-Serial", subject.serial());
    line("Auth-SSL-Fingerprint", subject.fingerprint());
    if passes_certificate {
        out.escaped("Auth-SSL-Cert", &subject.pem());
    }
}
