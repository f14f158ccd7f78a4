//! The `http` block: from what was read to immutable settings.
//!
//! Runs when all directives are read: completes each block from the one around it, and finds what needs the whole.
//! Touches: the counters of servers, shared memory's zones (not with `-t`).

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::{Context, Diagnostic, Diagnostics, Node, Span};
use crate::http::Config;
use crate::http::config::compile::{Cx, LocationDraft, ServerDraft};
use crate::http::config::listen::{self, Places};
use crate::http::config::location::{Kind, LimitExcept, Location, Locations, Nameless};
use crate::http::config::passes;
use crate::http::config::secure;
use crate::http::config::server::Server;
use crate::http::modules::rewrite::traps;
use crate::http::modules::{self, Confs, Partial, Tables};
use crate::http::request::body_file;
use crate::http::upstream::failover;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::tls::Layer;
use crate::proto::message::Version;
use crate::shared::{CompileOptions, sockets};
use crate::shm::counter::{self, Slot};
use crate::upstream::groups;

/// Compiles the `http` block. Use the result only if `out` has no errors.
pub fn compile(http_block: &Node, options: &CompileOptions, out: &mut Diagnostics) -> Config {
    let mut cx = Cx::new(options);
    let mut partial = cx.block(http_block, Context::HTTP);
    modules::access_log::add_default(&mut partial, http_block.name.span, &mut cx);
    let defaults = cx.defaults.clone();
    let root = Confs::complete(partial, &defaults, &mut cx);
    let mut servers = Vec::new();
    let mut places = Places::default();
    for (index, draft) in std::mem::take(&mut cx.servers).into_iter().enumerate() {
        let ServerDraft { partial, listens, names, locations, span } = draft;
        let confs = Confs::complete(partial, &root, &mut cx);
        let address = first_address(&listens);
        let zone = confs.status_zone.of_server();
        let slot = zone.or_else(|| server_slot(&names, &address, options));
        places.add(index, listens, &names, span, &mut cx);
        let mut server = build_server(confs, (names, address), locations, slot, span, &mut cx);
        server.allows_connect = cx.tunnel_servers.contains(&index);
        servers.push(server);
    }
    let (mut listens, sharing) = places.finish(&mut cx);
    secure::switch_on(&mut listens, &servers);
    modules::acme::complete(&listens, &mut servers, &root, &mut cx);
    secure::complete(&listens, &sharing, &mut servers, &root, &mut cx);
    let common = groups::Common {
        resolver: root.resolver.settings().cloned(),
        resolver_timeout_ms: root.resolver.timeout_ms(),
        log: options.error_log,
    };
    modules::health_check::complete(&servers, &root, &mut cx);
    let upstreams = std::mem::take(&mut cx.upstreams);
    let upstreams = upstreams.finish(&common, &options.names, &mut cx.diagnostics);
    passes::check(&listens, &sharing, &upstreams, &mut cx);
    modules::api::warn_of_open_doors(&servers, &mut cx.diagnostics);
    modules::dav::warn_of_open_doors(&servers, &mut cx.diagnostics);
    modules::proxy_pass::warn_of_open_doors(&servers, &mut cx.diagnostics);
    let tables = Tables::open(&mut cx);
    let Cx {
        variables,
        mut diagnostics,
        body_files,
        keepalive_ms_max,
        is_unlogged,
        is_transparent,
        has_passes_of_variables,
        mut folders,
        pairs,
        ..
    } = cx;
    let variables = variables.freeze(modules::rewrite::warn_uninitialized, &mut diagnostics);
    let sockets = if has_passes_of_variables { sockets::named_in(http_block) } else { HashSet::new() };
    let client_body_temp_path = body_file::default_folder(&options.prefix);
    if (body_files || variables.is_used("request_body_file")) && root.request_body.temp_path().is_none() {
        folders.push(client_body_temp_path.path.clone());
    }
    let has_default_folder = root.request_body.temp_path().is_none();
    let wanted_folder = (has_default_folder && failover::may_need_files(&servers, &upstreams))
        .then(|| client_body_temp_path.path.clone())
        .filter(|path| !folders.contains(path));
    let (pairs, trusted) = pairs.finish();
    out.append(diagnostics);
    Config {
        listens,
        keepalive_ms_max,
        servers,
        root,
        variables,
        tables,
        upstreams,
        sockets,
        prefix: options.prefix.clone(),
        folder: options.folder.clone(),
        places: crate::config::Places::default(),
        is_control: false,
        loaded_s: crate::sys::clock::wall().0,
        sources: Vec::new(),
        is_transparent,
        is_unlogged,
        folders,
        wanted_folder,
        client_body_temp_path,
        pairs,
        trusted,
    }
}

/// The counters of the server with this name on its first address, by which a reload finds them again.
/// The first address of a server, as its counters are named.
fn first_address(listens: &[listen::Draft]) -> String {
    let address = listens.first().and_then(|listen| listen.addresses.first());
    address.map_or_else(|| "*:80".to_owned(), ToString::to_string)
}

fn server_slot(names: &[(Box<str>, Span)], address: &str, options: &CompileOptions) -> Option<Slot> {
    let name = names.first().map_or("", |(name, _)| name);
    if options.test_only { None } else { counter::slot(counter::Kind::Server, &format!("{address} {name}")) }
}

fn build_server(
    confs: Confs,
    (names, address): (Vec<(Box<str>, Span)>, String),
    drafts: Vec<LocationDraft>,
    slot: Option<Slot>,
    span: Span,
    cx: &mut Cx,
) -> Server {
    let (named, other): (Vec<_>, Vec<_>) =
        drafts.into_iter().partition(|draft| matches!(draft.kind, Kind::Named));
    let named: Vec<Location> = named.into_iter().map(|draft| build_location(draft, &confs, cx)).collect();
    for (at, location) in named.iter().enumerate() {
        if named[..at].iter().any(|earlier| earlier.name == location.name) {
            let message = format!("duplicate location \"{}\"", location.name);
            let warning = Diagnostic::warning(location.span, message);
            cx.diagnostics.push(warning.help("the first one of this name applies, this one is never used"));
        }
    }
    let nested = build_locations(other, &confs, cx);
    let root = Location::new(cx.location_id(), (Kind::Server, "", span), confs, nested);
    let names = names.into_iter().map(|(name, _)| name).collect();
    let address = address.into();
    Server {
        names,
        address,
        allows_connect: false,
        root,
        named: named.into(),
        slot,
        tls: None,
        https_port: None,
        issued: None,
        span,
    }
}

fn build_locations(drafts: Vec<LocationDraft>, outer: &Confs, cx: &mut Cx) -> Locations {
    let list = drafts.into_iter().map(|draft| build_location(draft, outer, cx)).collect();
    Locations::new(list).unwrap_or_else(|error| {
        cx.diagnostics.push(duplicate(&error.name, error.span));
        Locations::default()
    })
}

fn build_location(draft: LocationDraft, outer: &Confs, cx: &mut Cx) -> Location {
    let LocationDraft { kind, name, partial, inside, span } = draft;
    let confs = Confs::complete(partial, outer, cx);
    check_nesting(&kind, &name, &inside.locations, cx);
    modules::proxy_pass::check(&confs.proxy_pass, &confs.proxy, &kind, cx);
    traps::check(&confs, &inside.nameless.ifs, cx);
    modules::fastcgi::check(&confs, &kind, span, cx);
    let mut nameless = |partial: Partial, span| {
        if let Some(own) = &partial.proxy_pass {
            modules::proxy_pass::check(own, &confs.proxy, &Kind::Named, cx);
        }
        let confs = Confs::complete_nameless(partial, &confs, cx);
        let tls = layer(&confs, cx);
        let mut location =
            Location::new(cx.location_id(), (kind.clone(), &name, span), confs, Locations::default());
        location.tls = tls;
        location
    };
    let ifs = inside.nameless.ifs.into_iter().map(|draft| nameless(draft.partial, draft.span)).collect();
    let limit_except = inside
        .nameless
        .limit_except
        .map(|(methods, partial, span)| LimitExcept { methods, location: nameless(partial, span) });
    let nested = build_locations(inside.locations, &confs, cx);
    let tls = layer(&confs, cx);
    let redirects_to_slash = name.ends_with('/') && confs.proxy_pass.is_set();
    let mut location = Location::new(cx.location_id(), (kind, &name, span), confs, nested)
        .with(Nameless { ifs, limit_except });
    location.redirects_to_slash = redirects_to_slash;
    location.tls = tls;
    location
}

/// TLS to the upstreams of a block.
fn layer(confs: &Confs, cx: &mut Cx) -> Option<Arc<Layer>> {
    let family = match confs.proxy_pass.protocol() {
        Protocol::Uwsgi => &confs.uwsgi.upstream,
        Protocol::Grpc => &confs.grpc.upstream,
        _ => &confs.proxy.upstream,
    };
    let has_http2 = match confs.proxy_pass.protocol() {
        Protocol::Http => confs.proxy.version() == Version::Http2,
        protocol => protocol == Protocol::Grpc,
    };
    modules::proxy_pass::layer(&confs.proxy_pass, family, has_http2, cx)
}

fn check_nesting(outer: &Kind, outer_name: &str, nested: &[LocationDraft], cx: &mut Cx) {
    for draft in nested {
        let message = match (outer, &draft.kind) {
            (Kind::Exact, _) => {
                format!("location \"{}\" cannot be inside the exact location \"{outer_name}\"", draft.name)
            }
            (Kind::Named, _) => {
                format!("location \"{}\" cannot be inside the named location \"{outer_name}\"", draft.name)
            }
            (_, Kind::Named) => format!("named location \"{}\" can be on the server level only", draft.name),
            // nginx compares the text of an expression too: one that does not start with the outer name never
            // matches
            (
                Kind::Prefix | Kind::PrefixFinal | Kind::Regex(_),
                Kind::Prefix | Kind::PrefixFinal | Kind::Exact,
            ) if !draft.name.starts_with(outer_name) => {
                format!("location \"{}\" is outside location \"{outer_name}\"", draft.name)
            }
            _ => continue,
        };
        cx.diagnostics.push(Diagnostic::error(draft.span, message));
    }
}

fn duplicate(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error(span, format!("duplicate location \"{name}\""))
}
