//! The `stream` block: from what was read to immutable settings.
//!
//! Runs when all directives are read: completes each block from the one around it, and finds what needs the whole.
//! Touches: the counters of servers, shared memory's zones (not with `-t`).

use crate::config::{Context, Diagnostic, Diagnostics, Node};
use crate::shared::CompileOptions;
use crate::shared::sockets;
use crate::shm::counter;
use crate::stream::Config;
use crate::stream::config::compile::{Cx, ServerDraft};
use crate::stream::config::listen::Places;
use crate::stream::config::server::{Content, Server};
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
        places.add(servers.len(), listens, &mut cx);
        let slot = match options.test_only {
            true => None,
            false => counter::slot(counter::Kind::Server, &format!("stream {address}")),
        };
        let names = names.into_iter().map(|(name, _)| name).collect();
        let content = content.unwrap_or(Content::Return);
        servers.push(Server { names, address: address.into(), confs, content, slot, span });
    }
    let common = groups::Common {
        resolver: root.resolver.settings().cloned(),
        resolver_timeout_ms: root.resolver.timeout_ms(),
        log: options.error_log,
    };
    for (group, name, span) in std::mem::take(&mut cx.portless) {
        if !cx.upstreams.is_defined(group) {
            let message = format!("no port in upstream \"{name}\"");
            let help = format!("write the port, or declare the group: upstream {name} {{ … }}");
            cx.diagnostics.push(Diagnostic::error(span, message).help(help));
        }
    }
    let upstreams = std::mem::take(&mut cx.upstreams);
    let upstreams = upstreams.finish(&common, &options.names, &mut cx.diagnostics);
    let tables = Tables::open(&mut cx);
    let Cx { variables, mut diagnostics, is_transparent, has_passes_of_variables, .. } = cx;
    let variables = variables.freeze(modules::set::warn_uninitialized, &mut diagnostics);
    let sockets = if has_passes_of_variables { sockets::named_in(stream) } else { Default::default() };
    out.append(diagnostics);
    Config {
        listens: places.finish(),
        servers,
        variables,
        tables,
        upstreams,
        sockets,
        places: crate::config::Places::default(),
        is_transparent,
    }
}
