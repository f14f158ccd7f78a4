//! From the request target to a location, and settings that apply once the location is known.
//!
//! Touches: the request.
//! Behaviour: nginx.org, ngx_http_core_module (`merge_slashes`, `internal`, `client_max_body_size`,
//! `keepalive_timeout` and related directives).

use crate::base::path::normalize_uri;
use crate::http::config::location::{Kind, Location};
use crate::http::request::Request;
use crate::http::request::body::Limits;
use crate::http::request::error::Limit;
use crate::http::request::limit::told;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::log;
use crate::proto::header::Id;
use crate::proto::uri::Target;
use crate::runtime;
use crate::script::regex::{Groups, Regex};

/// Sets the request's path and arguments from its target. Errors: 400 for an invalid path.
pub fn set_target(request: &mut Request, target: &Target) -> Result<(), u16> {
    let start = request.head.target.start;
    let range = start + target.path_and_query.start..start + target.path_and_query.end;
    let merge = request.server.root.confs.http_core.merge_slashes();
    let mut uri = std::mem::take(&mut request.uri);
    let raw = request.input.data().get(range).unwrap_or(b"/");
    // An absolute target may lack the path: it is passed on with one.
    let with_slash = (raw.first() != Some(&b'/')).then(|| [b"/", raw].concat());
    if with_slash.is_some() {
        request.route.rewriting = request.route.rewriting.replaced();
    }
    let raw = with_slash.as_deref().unwrap_or(raw);
    let parsed = normalize_uri(raw, merge, &mut uri).map(|parsed| {
        let args = parsed.args.map_or(&b""[..], |args| &raw[args]);
        (args.to_vec(), parsed.complex)
    });
    request.uri = uri;
    match parsed {
        Ok((args, _)) => {
            request.args = args;
            Ok(())
        }
        Err(_) => {
            request.uri.clear(); // the rest of it is not a valid path
            log::info!(request.error_log(), &*request, "client sent invalid request");
            Err(400)
        }
    }
}

/// Refusals of a location before its first phase: external requests to an internal location, and large
/// bodies.
pub fn check_location(request: &mut Request) -> Option<u16> {
    let core = &request.location.confs.http_core;
    if core.is_internal() && !request.route.is_internal {
        return Some(404);
    }
    admit_body(request)
}

/// Refuses a body that is larger than the current location permits.
pub fn admit_body(request: &mut Request) -> Option<u16> {
    let core = &request.location.confs.http_core;
    if let Err(length) = request.body.admit(core.client_max_body_size()) {
        let limit = Limit::BodySize(length);
        request.body.refuse();
        request.termination = Some(
            Termination::new(Who::Client, How::Limit, Phase::RequestBody)
                .by(limit.directive(request.passes().prefix())),
        );
        let told = told(request, limit);
        log::error!(
            request.error_log(),
            &*request,
            "client intended to send too large body: {length} bytes{told}"
        );
        return Some(413);
    }
    None
}

/// Puts the settings of a location in force, or those of its `limit_except` for this method.
pub fn enter(request: &mut Request, location: &'static Location) {
    request.location = location.for_method(request.method);
    bound_body(request);
    bound_keepalive(request);
}

/// Applies the location's settings to reading the body. [`check_location`] judged its size when the location
/// was found; nginx does not check a length for a named location.
pub fn bound_body(request: &mut Request) {
    let core = &request.location.confs.http_core;
    request.body.set_limits(Limits {
        max: core.client_max_body_size(),
        timeout_ms: core.client_body_timeout_ms(),
        buffer_size: core.client_body_buffer_size(),
        min_rate: core.client_body_min_rate(request.location.protocol),
    });
}

/// Closes the connection after this request if its location says so.
pub fn bound_keepalive(request: &mut Request) {
    let core = &request.location.confs.http_core;
    let age_ms = runtime::now_ms().saturating_sub(request.connection.opened_ms);
    let may_stay = core.keepalive_timeout_ms() > 0
        && request.connection.requests < core.keepalive_requests()
        && age_ms < core.keepalive_time_ms();
    request.keep_alive &= may_stay;
    let browsers = core.unkept_browsers();
    // Examining the browser's name is costly: only if it can matter.
    if request.keep_alive
        && browsers.may_contain(request.method)
        && let Some(user_agent) = request.header(Id::UserAgent)
    {
        request.keep_alive = !browsers.contain(user_agent, request.method);
    }
}

/// Stores the named groups of the expression that selected the location.
pub fn store_named(request: &mut Request, location: &'static Location, subject: &[u8], groups: &Groups) {
    if let Kind::Regex(regex) = &location.kind {
        regex.keep_named(request, subject, groups);
    }
}

/// Stores the groups of the `server_name` expression that selected the server.
pub fn store_regex(request: &mut Request, regex: &'static Regex) {
    let host = request.host.clone();
    regex.find(request, &host);
}
