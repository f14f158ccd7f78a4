//! The `stream` block: from what was read to immutable settings.
//!
//! Runs when all directives are read: completes each block from the one around it, and finds what needs the whole.
//! Touches: the counters of servers, shared memory's zones (not with `-t`).

use std::sync::Arc;

use crate::config::{Context, Diagnostic, Diagnostics, Node};
use crate::shared::tls::server::certificate_missing;
use crate::shared::{CompileOptions, sockets};
use crate::shm::counter;
use crate::stream::Config;
use crate::stream::config::compile::{Cx, ServerDraft};
use crate::stream::config::listen::Places;
use crate::stream::config::server::{Listen, Server};
use crate::stream::modules::ftp::StartTls;
use crate::stream::modules::{self, Confs, Tables};
use crate::upstream::groups;

/// Compiles the `stream` block. Use the result only if `out` has no errors.
pub fn compile(stream: &Node, options: &CompileOptions, out: &mut Diagnostics) -> Config {
    let mut cx = Cx::new(options);
    let partial = cx.block(stream, Context::STREAM);
    let defaults = cx.defaults.clone();
    let root = Confs::complete(partial, &defaults, &mut cx);
    let mut servers = Vec::new();
    let mut places = Places::default();
    for draft in std::mem::take(&mut cx.servers) {
        let ServerDraft { partial, listens, names, content, span } = draft;
        let confs = Confs::complete(partial, &root, &mut cx);
        let address = listens.first().and_then(|listen| listen.addresses.first());
        let address = address.map_or_else(String::new, ToString::to_string);
        places.add(servers.len(), listens, (&names, span), &mut cx);
        let slot = match confs.status_zone.of_server() {
            None if options.test_only => None,
            Some(zone) => Some(zone),
            None => {
                let name = names.first().map_or("", |(name, _)| name);
                counter::slot(counter::Kind::Server, &format!("stream {address} {name}"))
            }
        };
        let names = names.into_iter().map(|(name, _)| name).collect();
        let address = address.into();
        servers.push(Server { names, address, confs, content, tls: None, slot, span });
    }
    let (listens, sharing) = places.finish(&mut cx);
    secure(&listens, &sharing, &mut servers, &mut cx);
    secure_on_demand(&mut servers, &mut cx);
    let common = groups::Common {
        resolver: root.resolver.settings().cloned(),
        resolver_timeout_ms: root.resolver.timeout_ms(),
        log: options.error_log,
    };
    modules::health_check::complete(&servers, &root, &mut cx);
    let upstreams = std::mem::take(&mut cx.upstreams);
    let upstreams = upstreams.finish(&common, &options.names, &mut cx.diagnostics);
    let tables = Tables::open(&mut cx);
    let Cx { variables, mut diagnostics, is_transparent, has_passes_of_variables, pairs, .. } = cx;
    let variables = variables.freeze(modules::set::warn_uninitialized, &mut diagnostics);
    let sockets = if has_passes_of_variables { sockets::named_in(stream) } else { Default::default() };
    let (pairs, trusted) = pairs.finish();
    out.append(diagnostics);
    Config {
        listens,
        handshakes_max: root.ssl.handshakes_max(),
        root,
        servers,
        variables,
        tables,
        upstreams,
        sockets,
        places: crate::config::Places::default(),
        is_transparent,
        folder: options.folder.clone(),
        pairs,
        trusted,
    }
}

/// Makes the TLS side of every server whose clients may ask for it (`ftp_starttls`).
fn secure_on_demand(servers: &mut [Server], cx: &mut Cx) {
    for (index, server) in servers.iter_mut().enumerate() {
        if server.tls.is_some() || server.confs.ftp.starttls() == StartTls::Off {
            continue;
        }
        let conf = Arc::clone(&server.confs.ssl);
        if conf.has_certificate() {
            server.tls = conf.watched_server(index, &server.names, conf.alpn(), None, cx);
        } else {
            let message = "\"ftp_starttls\" needs a certificate";
            let help = "write \"ssl_certificate FILE;\" and \"ssl_certificate_key FILE;\" into this server";
            cx.diagnostics.push(Diagnostic::error(server.span, message).help(help));
        }
    }
}

/// Makes the TLS side of every server that an address with `ssl` may lead to.
fn secure(listens: &[Listen], sharing: &[Vec<usize>], servers: &mut [Server], cx: &mut Cx) {
    for (listen, sharing) in listens.iter().zip(sharing).filter(|(listen, _)| listen.ssl) {
        let default = &servers[listen.default].confs.ssl;
        let (is_rejecting, has_default) = (default.rejects_handshakes(), default.has_certificate());
        for &index in sharing {
            let conf = Arc::clone(&servers[index].confs.ssl);
            let needs_one = if index == listen.default { !is_rejecting } else { !has_default };
            if !conf.has_certificate() && !conf.rejects_handshakes() && needs_one {
                let span = if index == listen.default { listen.span } else { servers[index].span };
                cx.diagnostics.push(certificate_missing(span));
                break;
            }
            if servers[index].tls.is_none() && conf.has_certificate() {
                servers[index].tls = conf.watched_server(index, &servers[index].names, conf.alpn(), None, cx);
            }
        }
    }
}
