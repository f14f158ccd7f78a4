//! Redirects: to a path with the missing slash, and the absolute URL of a redirect.
//!
//! Pure, apart from the request that it reads.
//! Behaviour: nginx.org, ngx_http_core_module (`absolute_redirect`, `server_name_in_redirect`,
//! `port_in_redirect`).

use crate::base::path::{Escape, escape_uri};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::verdict::Reply;
use crate::proto::header::Id;

/// A redirect that appends the missing slash to the decoded path of the request; it keeps the arguments.
pub fn to_slash(request: &Request) -> Reply {
    let mut target = Vec::new();
    escape_uri(&request.uri, Escape::Uri, &mut target);
    target.push(b'/');
    if !request.args.is_empty() {
        target.push(b'?');
        target.extend_from_slice(&request.args);
    }
    Reply::Redirect(301, target)
}

/// The absolute URL of a path on this server; `None`: `target` is used as it is.
pub fn absolute(request: &Request, target: &[u8]) -> Option<Vec<u8>> {
    let core = &request.location.confs.http_core;
    if target.first() != Some(&b'/') || !core.absolute_redirect.get() {
        return None;
    }
    let (scheme, default_port): (&[u8], u16) =
        if request.connection.tls.is_some() { (b"https://", 443) } else { (b"http://", 80) };
    let mut absolute = scheme.to_vec();
    // A client that sent no host gets the address that it knows, not a name that it may not.
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
        request.connection.local.port().filter(|port| *port != default_port && core.port_in_redirect.get())
    {
        absolute.extend_from_slice(format!(":{port}").as_bytes());
    }
    absolute.extend_from_slice(target);
    Some(absolute)
}

/// The redirect to `target`, made absolute if the configuration asks for it.
pub fn response(request: &Request, status: u16, target: &[u8]) -> Response {
    let mut response = Response::with_type(status, b"text/html");
    if let Some(absolute) = absolute(request, target) {
        response.first = Some(Id::Location);
        response.headers.push_id(Id::Location, &absolute);
    } else if !target.is_empty() {
        response.headers.push_id(Id::Location, target);
    }
    response
}
