//! Servers that listen with `ssl`: each needs what a handshake is made with.
//!
//! Runs when all servers are complete. Touches: the files of certificates and keys.
//! Behaviour: nginx.org, ngx_http_ssl_module.

use crate::config::Diagnostic;
use crate::http::config::compile::Cx;
use crate::http::config::server::{Listen, Server};

/// Makes the TLS side of every server that an address with `ssl` may lead to.
pub fn complete(listens: &[Listen], sharing: &[Vec<usize>], servers: &mut [Server], cx: &mut Cx) {
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
                let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
                let span = listen.span.filter(|_| index == listen.default).unwrap_or(server.span);
                let help =
                    "write \"ssl_certificate FILE;\" and \"ssl_certificate_key FILE;\" into this server";
                cx.diagnostics.push(Diagnostic::error(span, message).help(help));
                break;
            }
        }
        for &index in sharing {
            let conf = std::sync::Arc::clone(&servers[index].root.confs.ssl);
            if servers[index].tls.is_none() && conf.has_certificate() {
                servers[index].tls = conf.server(cx);
            }
        }
    }
}
