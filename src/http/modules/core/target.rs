//! From the request target to a location, and from a location to a redirect.
//!
//! Touches: the request. Behaviour: nginx.org, ngx_http_core_module (`merge_slashes`, `absolute_redirect`,
//! `server_name_in_redirect`, `port_in_redirect`, `internal`, `client_max_body_size`).

use crate::base::path::{Escape, escape_uri, normalize_uri};
use crate::http::config::location::{Kind, Location};
use crate::http::modules::core::{error_log, told};
use crate::http::pipeline::Reply;
use crate::http::request::Request;
use crate::http::request::error::Limit;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::response::Response;
use crate::log;
use crate::proto::header::Id;
use crate::proto::uri::Target;
use crate::script::regex::{Groups, Regex};

/// Fills the request's path and arguments from its target. Errors: 400 for a path that cannot be meant.
pub fn set_target(request: &mut Request, target: &Target) -> Result<(), u16> {
    let start = request.head.target.start;
    let range = start + target.path_and_query.start..start + target.path_and_query.end;
    let merge = request.server.root.core.merge_slashes();
    let mut uri = std::mem::take(&mut request.uri);
    let raw = request.input.data().get(range).unwrap_or(b"/");
    // An absolute target may lack the path: it is sent on with one.
    let with_slash = (raw.first() != Some(&b'/')).then(|| [b"/", raw].concat());
    request.uri_is_original &= with_slash.is_none();
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
            request.uri.clear(); // what is left of it is no path of ours
            log::info!(error_log(request), &*request, "client sent invalid request");
            Err(400)
        }
    }
}

/// What a location refuses before its first phase: outside requests to an internal one, and large bodies.
pub fn check_location(request: &mut Request) -> Option<u16> {
    let core = &request.location.core;
    if core.is_internal() && !request.internal {
        return Some(404);
    }
    if let Err(length) = request.body.admit(core.client_max_body_size()) {
        let limit = Limit::BodySize(length);
        request.body.refuse();
        request.termination = Some(
            Termination::new(Who::Client, How::Limit, Phase::RequestBody)
                .by(limit.directive(request.passes())),
        );
        let told = told(request, limit);
        log::error!(
            error_log(request),
            &*request,
            "client intended to send too large body: {length} bytes{told}"
        );
        return Some(413);
    }
    None
}

/// Keeps the named groups of the expression that chose the location.
pub fn store_named(request: &mut Request, location: &'static Location, subject: &[u8], groups: &Groups) {
    if let Kind::Regex(regex) = &location.kind {
        regex.keep_named(request, subject, groups);
    }
}

/// Keeps the groups of the `server_name` expression that chose the server.
pub fn store_regex(request: &mut Request, regex: &'static Regex) {
    let host = request.host.clone();
    regex.find(request, &host);
}

/// A redirect to the slash that the decoded path of the request lacks; it keeps the arguments.
pub fn redirect_to_slash(request: &Request) -> Reply {
    let mut target = Vec::new();
    escape_uri(&request.uri, Escape::Uri, &mut target);
    target.push(b'/');
    if !request.args.is_empty() {
        target.push(b'?');
        target.extend_from_slice(&request.args);
    }
    Reply::Redirect(301, target)
}

/// A path of this server as the URL that a client is sent to; `None`: it is sent to `target` as that is.
pub fn absolute(request: &Request, target: &[u8]) -> Option<Vec<u8>> {
    let core = &request.location.core;
    if target.first() != Some(&b'/') || !core.absolute_redirect.get() {
        return None;
    }
    let mut absolute = b"http://".to_vec();
    // Who names no host gets the address it knows, not a name it may not.
    let named = core.server_name_in_redirect.get();
    let host = if named { request.server.name().as_bytes() } else { &request.host };
    if host.is_empty() {
        let ip = request.connection.local.ip().map_or(String::new(), |ip| match ip {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        });
        absolute.extend_from_slice(ip.as_bytes());
    } else {
        absolute.extend_from_slice(host);
    }
    if let Some(port) =
        request.connection.local.port().filter(|port| *port != 80 && core.port_in_redirect.get())
    {
        absolute.extend_from_slice(format!(":{port}").as_bytes());
    }
    absolute.extend_from_slice(target);
    Some(absolute)
}

/// The response that sends a client to `target`, made absolute where the configuration wants it.
pub fn redirect(request: &Request, status: u16, target: &[u8]) -> Response {
    let mut response = Response::with_type(status, b"text/html");
    if let Some(absolute) = absolute(request, target) {
        response.first = Some(Id::Location);
        response.headers.push_id(Id::Location, &absolute);
    } else if !target.is_empty() {
        response.headers.push_id(Id::Location, target);
    }
    response
}
