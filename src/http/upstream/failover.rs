//! Decides whether the body of a request may have to be sent again: to the next server of the group, or to
//! the proxied location of an `error_page`. Such a body is read completely before it is sent; others are
//! streamed.
//!
//! Pure, apart from the request that it reads.
//! Behaviour: nginx reads every body completely unless `proxy_request_buffering` is off, and its users'
//! configurations rely on that.

use crate::http::config::location::{Found, Location};
use crate::http::config::server::Server;
use crate::http::modules::proxy_pass::Pass;
use crate::http::request::Request;
use crate::upstream::{Group, GroupState, Groups};

/// True if a body that exceeds `client_body_buffer_size` must be read completely before it is sent.
///
/// Called only for bodies that are longer than that buffer, and only if `proxy_request_buffering` is not set.
pub fn needs_whole_body(request: &Request, group: &GroupState, is_non_idempotent: bool) -> bool {
    let conf = request.passes();
    let has_next = group.set().tries > 1 && conf.next_tries() != 1 && conf.next().repeats(is_non_idempotent);
    has_next || error_page_is_proxied(request.server, request.location, None)
}

/// True if an `error_page` for an upstream's response, or for its failure, leads to a proxied location; for
/// any status, or for this one.
pub fn error_page_is_proxied(server: &Server, location: &Location, status: Option<u16>) -> bool {
    let intercepts = location.passes().intercept_errors();
    // Without interception only the statuses of a failed upstream get here.
    let can_come = |code: &u16| intercepts || matches!(code, 502 | 504);
    let pages = location.confs.http_core.error_pages();
    pages.iter().filter(|page| page.statuses().iter().any(can_come)).any(|page| {
        if status.is_some_and(|status| !page.statuses().contains(&status)) {
            return false;
        }
        match (&page.name, page.target.as_text()) {
            (Some(name), _) => server.named(name).is_some_and(|target| target.confs.proxy_pass.is_set()),
            (None, Some(uri)) if uri.first() == Some(&b'/') => {
                let path = uri.split(|byte| *byte == b'?').next().unwrap_or(uri);
                matches!(server.root.find(path), Found::Location(target, _) if target.confs.proxy_pass.is_set())
            }
            _ => false, // another site, or a target that only a request knows
        }
    })
}

/// True if some location of these servers may read bodies completely by default, and so needs a directory for
/// them.
pub fn may_need_files(servers: &[Server], upstreams: &Groups) -> bool {
    let has_many = |group: &Group| {
        let count: usize = group.servers.iter().map(|server| server.addresses.len().max(1)).sum();
        count > 1
    };
    let buffers = |server: &Server, location: &Location| {
        let conf = location.passes();
        let streams = conf.request_buffering() == Some(false) || conf.own_body().is_some();
        let is_spread = match location.confs.proxy_pass.pass() {
            None => return false,
            Some(Pass::Fixed { group, .. }) => upstreams.get(*group).is_some_and(|group| has_many(group)),
            Some(Pass::Script(_)) => upstreams.iter().any(has_many),
        };
        !streams && (is_spread || error_page_is_proxied(server, location, None))
    };
    servers.iter().any(|server| server.locations().into_iter().any(|location| buffers(server, location)))
}
