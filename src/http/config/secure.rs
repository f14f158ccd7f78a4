//! Servers that listen with `ssl`: each needs what a handshake is made with.
//!
//! Runs when all servers are complete. Touches: the files of certificates and keys.
//! Behaviour: nginx.org, ngx_http_ssl_module.

use std::sync::Arc;

use crate::config::Diagnostic;
use crate::http::config::compile::Cx;
use crate::http::config::server::{Listen, Server};
use crate::http::modules::Confs;
use crate::shared::tls::server::certificate_missing;

/// Makes TLS the protocol of each address whose default server has `ssl on`, as nginx did until 1.25.
pub fn switch_on(listens: &mut [Listen], servers: &[Server]) {
    for listen in listens {
        listen.ssl |= servers[listen.default].root.confs.ssl.switch.get();
    }
}

/// Makes the TLS side of every server that an address with `ssl` may lead to.
pub fn complete(
    listens: &[Listen],
    sharing: &[Vec<usize>],
    servers: &mut [Server],
    root: &Confs,
    cx: &mut Cx,
) {
    set_ports(listens, sharing, servers);
    check_redirects(servers, root, cx);
    for (listen, sharing) in listens.iter().zip(sharing) {
        if !listen.ssl {
            continue;
        }
        let default = &servers[listen.default].root.confs.ssl;
        let is_rejecting = default.rejects_handshakes();
        let has_default = default.has_certificate();
        for &index in sharing {
            let server = &servers[index];
            let conf = &server.root.confs.ssl;
            let needs_one = if index == listen.default { !is_rejecting } else { !has_default };
            if !conf.has_certificate() && !conf.rejects_handshakes() && needs_one {
                let span = listen.span.filter(|_| index == listen.default).unwrap_or(server.span);
                cx.diagnostics.push(certificate_missing(span));
                break;
            }
        }
        for &index in sharing {
            let conf = Arc::clone(&servers[index].root.confs.ssl);
            if servers[index].tls.is_none() && conf.has_certificate() {
                let (names, issued) = (&servers[index].names, servers[index].issued.as_deref());
                servers[index].tls = conf.watched_server(index, names, protocols(), issued, cx);
            }
            let is_older = servers[index].tls.as_ref().is_some_and(|tls| !tls.speaks_tls13());
            if is_older && listen.address.is_datagram() {
                let message =
                    "\"listen\" with \"quic\" needs TLSv1.3 in \"ssl_protocols\" of each of its servers";
                cx.diagnostics.push(Diagnostic::error(listen.span.unwrap_or(servers[index].span), message));
            }
        }
    }
}

/// The protocols of ALPN.
fn protocols() -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec(), b"http/1.0".to_vec(), b"http/0.9".to_vec()]
}

/// Notes the port that a redirect to HTTPS leads to.
fn set_ports(listens: &[Listen], sharing: &[Vec<usize>], servers: &mut [Server]) {
    let redirects_to = |listen: &Listen| listen.ssl && !listen.address.is_datagram();
    for (listen, sharing) in listens.iter().zip(sharing).filter(|(listen, _)| redirects_to(listen)) {
        let port = listen.address.port().unwrap_or(443);
        for &index in sharing {
            let known = &mut servers[index].https_port;
            if known.is_none() || port == 443 {
                *known = Some(port);
            }
        }
    }
}

/// A server that is told to redirect needs the port to redirect to. One that inherits the directive redirects
/// only if it has one.
fn check_redirects(servers: &[Server], root: &Confs, cx: &mut Cx) {
    for server in servers.iter().filter(|server| server.https_port.is_none()) {
        let conf = &server.root.confs.https_redirect;
        if conf.is_on() && !Arc::ptr_eq(conf, &root.https_redirect) {
            let message = "\"https_redirect\" needs a \"listen\" with \"ssl\" in the same server";
            let help = "add \"listen 443 ssl;\", or write \"return 301 https://$host$request_uri;\" instead";
            cx.diagnostics.push(Diagnostic::error(conf.span().unwrap_or(server.span), message).help(help));
        }
    }
}
