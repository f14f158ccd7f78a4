//! What a TLS client asks for, read without terminating TLS (`ssl_preread`).
//!
//! Runs in the preread phase. Touches: the session's first bytes; a server with the name that the client asks for takes the
//! session over. Behaviour: nginx.org, ngx_stream_ssl_preread_module.

use crate::config::directive::flag;
use crate::config::{Context, Setting, settings};
use crate::proto::client_hello::{self, ClientHello};
use crate::script::variable::variable;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: Setting<bool> = false,
    }
}

/// What the client has said; `None`: it does not speak TLS, or was not listened to.
#[derive(Debug, Default)]
pub struct State {
    hello: Option<Box<ClientHello>>,
    is_read: bool,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("ssl_preread", Context::IN_STREAM, |c| &mut c.is_on,
        "Reads the first message of a TLS client, for $ssl_preread_server_name and other variables, and passes it on unchanged."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("ssl_preread_protocol", |s, _, out| hello(s, protocol, out),
        "The highest version of TLS that the client supports: TLSv1.3, TLSv1.2 and so on; empty if that is unknown."),
    variable("ssl_preread_server_name", |s, _, out| hello(s, |hello| hello.server_name.to_string(), out), "The server name that the client asks for by SNI."),
    variable("ssl_preread_alpn_protocols", |s, _, out| hello(s, protocols, out), "The protocols that the client offers by ALPN, with commas between."),
];

impl BlockConf for Conf {}

pub fn preread(session: &mut Session) -> Verdict {
    if !session.server.confs.ssl_preread.is_on.get()
        || session.tls.is_some()
        || session.states.ssl_preread.is_read
    {
        return Verdict::Next;
    }
    let hello = match client_hello::parse(session.preread.data()) {
        Ok(None) => return Verdict::More,
        Ok(Some(hello)) => hello,
        // Another protocol, or nothing that could be understood: the session goes on without the variables, except for the
        // version that the client asks for.
        Err(_) => {
            let versions = match client_hello::refused_versions(session.preread.data()) {
                Ok(None) => return Verdict::More,
                Ok(versions) => versions,
                Err(_) => None,
            };
            let hello = versions.map(|versions| Box::new(ClientHello { versions, ..ClientHello::default() }));
            session.states.ssl_preread = State { hello, is_read: true };
            return Verdict::Next;
        }
    };
    session.states.ssl_preread.is_read = true;
    let chosen = session.choose(hello.server_name.as_bytes());
    session.states.ssl_preread.hello = Some(Box::new(hello));
    chosen
}

/// The message of the client, for another process.
pub fn hello_of(session: &Session) -> Option<&ClientHello> {
    session.states.ssl_preread.hello.as_deref()
}

/// Goes on with a session whose client another process has listened to.
pub fn restore(session: &mut Session, hello: Option<ClientHello>) {
    session.states.ssl_preread = State { hello: hello.map(Box::new), is_read: true };
}

fn hello(session: &Session, value: impl FnOnce(&ClientHello) -> String, out: &mut Vec<u8>) -> bool {
    let Some(hello) = session.states.ssl_preread.hello.as_deref() else { return false };
    out.extend_from_slice(value(hello).as_bytes());
    true
}

fn protocol(hello: &ClientHello) -> String {
    // Drafts of TLS 1.3 have numbers of their own; values such as 0a0a and 1a1a mean nothing (GREASE, RFC 8701).
    let known = hello.versions.iter().map(|version| if version >> 8 == 0x7f { 0x0304 } else { *version });
    match known.filter(|version| (0x0300..=0x0304).contains(version) || *version == 2).max() {
        Some(0x0002) => "SSLv2",
        Some(0x0300) => "SSLv3",
        Some(0x0301) => "TLSv1",
        Some(0x0302) => "TLSv1.1",
        Some(0x0303) => "TLSv1.2",
        Some(0x0304) => "TLSv1.3",
        _ => "",
    }
    .to_owned()
}

fn protocols(hello: &ClientHello) -> String {
    let names: Vec<String> =
        hello.protocols().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect();
    names.join(",")
}
