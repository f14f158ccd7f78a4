//! The `mail` block: from what was read to immutable settings.
//!
//! Runs when all directives are read: completes each server from the block around it, and finds what needs the whole.
//! Touches: the counters of servers, shared memory's zones (not with `-t`).

use crate::config::{Context, Diagnostic, Diagnostics, Node};
use crate::mail::Config;
use crate::mail::config::compile::{Cx, ServerDraft};
use crate::mail::config::listen::{Draft, Places};
use crate::mail::config::server::Server;
use crate::mail::dialogue::{StartTls, Terms, imap, pop3, smtp};
use crate::mail::modules::{Confs, Tables};
use crate::mail::protocol::{Allowed, Protocol};
use crate::proto::pop3::LINE_BYTES_MAX;
use crate::shared::CompileOptions;
use crate::shared::tls::server::certificate_missing;
use crate::shm::counter;
use crate::sys::names;

/// Compiles the `mail` block. Use the result only if `out` has no errors.
pub fn compile(mail: &Node, options: &CompileOptions, out: &mut Diagnostics) -> Config {
    let mut cx = Cx::new(options);
    let partial = cx.block(mail, Context::MAIL);
    let root = Confs::complete(partial, &Confs::default());
    let mut servers = Vec::new();
    let mut places = Places::default();
    for draft in std::mem::take(&mut cx.servers) {
        let ServerDraft { partial, listens, protocol, is_whole, span } = draft;
        let confs = Confs::complete(partial, &root);
        let protocol = protocol.or_else(|| by_port(&listens));
        if is_whole && !listens.is_empty() {
            report_missing(protocol, &confs, span, &mut cx);
        }
        let protocol = protocol.unwrap_or(Protocol::Imap);
        let first = listens.first().and_then(|listen| listen.addresses.first());
        let address: Box<str> = first.map_or_else(String::new, ToString::to_string).into();
        let name: Box<str> = confs.core.server_name().unwrap_or_else(|| names::hostname()).into();
        let index = servers.len();
        let tls = secure(index, &listens, &confs, protocol, &mut cx);
        places.add(index, listens, &mut cx);
        let slot = match options.test_only {
            true => None,
            false => counter::slot(counter::Kind::Server, &format!("mail {address} {name}")),
        };
        let terms = terms(protocol, &confs, &name);
        servers.push(Server { name, address, confs, terms, tls, slot, span });
    }
    let tables = Tables::open(&mut cx);
    let Cx { variables, mut diagnostics, pairs, zones, .. } = cx;
    let variables = variables.freeze(|_, _| {}, &mut diagnostics);
    let (pairs, trusted) = pairs.finish();
    out.append(diagnostics);
    Config {
        listens: places.listens,
        handshakes_max: root.ssl.handshakes_max(),
        servers,
        variables,
        tables,
        zones,
        places: crate::config::Places::default(),
        pairs,
        trusted,
    }
}

/// The protocol that the first port with a meaning is for.
fn by_port(listens: &[Draft]) -> Option<Protocol> {
    let addresses = listens.iter().flat_map(|listen| &listen.addresses);
    addresses.filter_map(|address| Protocol::of_port(address.port()?)).next()
}

fn report_missing(protocol: Option<Protocol>, confs: &Confs, span: crate::config::Span, cx: &mut Cx) {
    if protocol.is_none() {
        let help = "write \"protocol imap;\", pop3 or smtp: the port does not tell";
        let message = "unknown mail protocol for server";
        cx.diagnostics.push(Diagnostic::error(span, message).help(help));
    }
    if confs.auth_http.server().is_none() {
        let help = "name the server that knows the users: auth_http http://127.0.0.1:9000/auth;";
        let message = "no \"auth_http\" is defined for server";
        cx.diagnostics.push(Diagnostic::error(span, message).help(help));
    }
}

/// The terms of a server's dialogues.
fn terms(protocol: Protocol, confs: &Confs, name: &str) -> Terms {
    let (allowed, capabilities) = match protocol {
        Protocol::Imap => (confs.imap.allowed(), confs.imap.capabilities()),
        Protocol::Pop3 => (confs.pop3.allowed(), confs.pop3.capabilities()),
        Protocol::Smtp => (confs.smtp.allowed(), confs.smtp.capabilities()),
    };
    let texts = match protocol {
        Protocol::Imap => imap::texts(capabilities, &allowed),
        Protocol::Pop3 => pop3::texts(capabilities, &with_login(&allowed)),
        Protocol::Smtp => smtp::texts(name, capabilities, &allowed),
    };
    let command_bytes_max = match protocol {
        Protocol::Imap => confs.imap.client_buffer_bytes(),
        Protocol::Pop3 => LINE_BYTES_MAX,
        Protocol::Smtp => confs.smtp.client_buffer_bytes(),
    };
    let (starttls, errors_max) = (confs.core.starttls(), confs.core.errors_max());
    Terms { protocol, allowed, starttls, errors_max, command_bytes_max, texts }
}

/// `pop3_auth plain` means LOGIN too, as in nginx.
fn with_login(allowed: &[Allowed]) -> Vec<Allowed> {
    let login = allowed.contains(&Allowed::Plain).then_some(Allowed::Login);
    allowed.iter().copied().chain(login).collect()
}

/// Makes the TLS side of a server that some client may use it with.
fn secure(
    index: usize,
    listens: &[Draft],
    confs: &Confs,
    protocol: Protocol,
    cx: &mut Cx,
) -> Option<crate::net::tls::server::Server> {
    let conf = confs.ssl.clone();
    let listen = listens.iter().find(|listen| listen.ssl);
    if listen.is_none() && confs.core.starttls() == StartTls::Off {
        return None;
    }
    if !conf.has_certificate() {
        cx.diagnostics.push(match listen {
            Some(listen) => certificate_missing(listen.span),
            None => {
                let message = "no \"ssl_certificate\" is defined for the \"starttls\" directive";
                let help =
                    "write \"ssl_certificate FILE;\" and \"ssl_certificate_key FILE;\" into this server";
                let span = confs.core.starttls_span().unwrap_or_default();
                Diagnostic::error(span, message).help(help)
            }
        });
        return None;
    }
    let names = [confs.core.server_name().unwrap_or_default().into()];
    conf.watched_server(index, &names, vec![protocol.name().as_bytes().to_vec()], None, cx)
}
