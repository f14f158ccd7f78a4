//! The variables of the core module.
//!
//! Touches: the request; the clock for `$msec` and its kind.
//! Behaviour: nginx.org, ngx_http_core_module, "Embedded Variables".

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use crate::base::base64;
use crate::http::modules::static_file;
use crate::http::request::Request;
use crate::http::response::headers::trailer;
use crate::http::response::reason;
use crate::http::scope::Variable;
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Version;
use crate::proto::message::{BodyLength, Method};
use crate::proto::uri;
use crate::script::nested;
use crate::script::variable::{Argument, Change, changeable, prefix, variable};
use crate::sys::clock;

type Out<'a> = &'a mut Vec<u8>;

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("uri", |r, _, out| text(&r.uri, out), "The path of the request, decoded and normalized; internal redirects change it."),
    variable("document_uri", |r, _, out| text(&r.uri, out), "The same as $uri."),
    variable("request_uri", |r, _, out| some(r.target(), out), "The URI with its arguments, as the client sent it."),
    variable("request", |r, _, out| some(r.line(), out), "The request line, as the client sent it."),
    changeable("args", |r, _, out| some(&r.args, out), Change::By(set_args), "The arguments in the request line."),
    variable("query_string", |r, _, out| some(&r.args, out), "The same as $args."),
    variable("is_args", |r, _, out| text(if r.args.is_empty() { b"" } else { b"?" }, out), "A question mark if the request has arguments, otherwise empty."),
    prefix("arg_", argument, "The argument of this name in the request line."),
    variable("request_method", |r, _, out| some(r.method_text(), out), "The request method, such as GET or POST."),
    variable("scheme", |r, _, out| text(if r.connection.tls.is_some() { b"https" } else { b"http" }, out), "http or https."),
    variable("https", |r, _, out| text(if r.connection.tls.is_some() { b"on" } else { b"" }, out), "on if the connection uses TLS, otherwise empty."),
    variable("host", |r, _, out| text(r.host_or_name(), out),
        "The host of the request line, otherwise that of the Host field, otherwise the first name of the server; in lower case, without the port."),
    variable("server_name", |r, _, out| text(r.server.name().as_bytes(), out), "The first name of the server that handles the request."),
    variable("server_protocol", |r, _, out| some(protocol(r), out), "HTTP/1.0 or HTTP/1.1."),
    variable("connection_requests", |r, _, out| decimal(r.connection.requests, out), "The number of requests on the connection so far, including this one."),
    variable("connection_time", |r, _, out| seconds(clock::monotonic_ms().saturating_sub(r.connection.opened_ms), out),
        "The age of the connection, in seconds."),
    prefix("http_", http_field, "The request field of this name, written in lower case with underscores."),
    prefix("sent_http_", sent_http_field, "The response field of this name, written in lower case with underscores."),
    prefix("sent_trailer_", |r, argument, out| trailer(r.response.trailers.as_bytes(), &argument.name, out),
        "The trailer field of this name that follows the response body."),
    variable("request_port", |r, _, out| request_port(r).is_some_and(|port| text(port, out)),
        "The port of the request line, otherwise that of the Host field."),
    variable("is_request_port", |r, _, out| text(if request_port(r).is_some() { b":" } else { b"" }, out),
        "A colon if $request_port has a value, otherwise empty."),
    prefix("cookie_", cookie, "The cookie of this name."),
    variable("content_length", |r, _, out| field(r, Id::ContentLength, out), "The Content-Length field of the request."),
    variable("content_type", |r, _, out| field(r, Id::ContentType, out), "The Content-Type field of the request."),
    variable("request_length", |r, _, out| decimal(r.length(), out), "The bytes of the request: request line, head and body."),
    variable("request_time", |r, _, out| seconds(r.elapsed_us() / 1000, out),
        "The time since the first byte of the request, in seconds; in the log, up to the last byte of the response."),
    variable("request_completion", |r, _, out| text(if r.is_complete { b"OK" } else { b"" }, out), "OK if the whole response was sent, otherwise empty."),
    variable("request_id", request_id_text, "A unique id of the request: 16 random bytes in hexadecimal."),
    variable("status", status, "The status of the response."),
    variable("bytes_sent", |r, _, out| decimal(r.bytes_sent, out), "The number of bytes sent to the client."),
    variable("body_bytes_sent", |r, _, out| decimal(r.body_bytes_sent(), out), "The number of bytes sent to the client, without the response head."),
    variable("document_root", root_variable, "The directory set by root or alias."),
    variable("realpath_root", realpath_root, "The directory set by root or alias, with its symbolic links resolved."),
    variable("request_filename", request_filename, "The path of the file for the request."),
    variable("remote_user", remote_user, "The user name of Basic authentication."),
    variable("pipe", |r, _, out| text(if r.connection.is_pipelined { b"p" } else { b"." }, out), "p if the request was pipelined, otherwise a dot."),
];

fn text(value: &[u8], out: Out) -> bool {
    out.extend_from_slice(value);
    true
}

fn set_args(request: &mut Request, value: Vec<u8>) {
    request.args = value;
    request.route.rewriting = request.route.rewriting.replaced();
}

/// Writes a value; an empty one counts as missing.
fn some(value: &[u8], out: Out) -> bool {
    out.extend_from_slice(value);
    !value.is_empty()
}

fn decimal(value: u64, out: Out) -> bool {
    text(itoa::Buffer::new().format(value).as_bytes(), out)
}

/// Milliseconds as seconds with three decimals.
fn seconds(ms: u64, out: Out) -> bool {
    write!(out, "{}.{:03}", ms / 1000, ms % 1000).is_ok()
}

fn protocol(request: &Request) -> &'static [u8] {
    match request.version() {
        _ if request.is_malformed() => b"",
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
        Version::Http2 => b"HTTP/2.0",
        Version::Http3 => b"HTTP/3.0",
    }
}

fn field(request: &Request, id: Id, out: Out) -> bool {
    match (id, request.body.declared(), request.header(id)) {
        (Id::ContentType, _, Some(_)) => {
            let data = request.input.data();
            let fields = request
                .head
                .fields
                .pairs(data)
                .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-type"));
            join(fields.map(|(_, value)| value), b", ", out)
        }
        (_, _, Some(value)) => text(value, out),
        (Id::ContentLength, BodyLength::Length(length), None) => decimal(length, out),
        // of a body in chunks once all of it has arrived
        (Id::ContentLength, BodyLength::Chunked, None) if request.body.is_read() => {
            decimal(request.body.received(), out)
        }
        _ => false,
    }
}

fn argument(request: &mut Request, argument: &Argument, out: Out) -> bool {
    uri::argument(&request.args, argument.name.as_bytes()).is_some_and(|value| text(value, out))
}

/// `$http_user_agent`: the field with dashes for underscores; repeated fields joined as nginx does.
fn http_field(request: &mut Request, argument: &Argument, out: Out) -> bool {
    let data = request.input.data();
    let separator: &[u8] = if &*argument.name == "cookie" { b"; " } else { b", " };
    let values = request
        .head
        .fields
        .pairs(data)
        .filter(|(name, _)| is_variable_name(name, &argument.name))
        .map(|(_, value)| value);
    join(values, separator, out)
}

fn sent_http_field(request: &mut Request, argument: &Argument, out: Out) -> bool {
    let response = &request.response;
    match &*argument.name {
        "content_length" => match response.content_length {
            Some(length) => return decimal(length, out),
            None => return false,
        },
        "connection" if response.status == 101 => return text(b"upgrade", out),
        "connection" => return text(if request.keep_alive { b"keep-alive" } else { b"close" }, out),
        "keep_alive" => {
            return match request.location.confs.http_core.keepalive_header().filter(|_| request.keep_alive) {
                Some(seconds) => write!(out, "timeout={seconds}").is_ok(),
                None => false,
            };
        }
        "transfer_encoding" => {
            return response.content_length.is_none() && !response.is_bodiless() && text(b"chunked", out);
        }
        _ => {}
    }
    let values = response
        .headers
        .iter()
        .filter(|(_, name, _)| is_variable_name(name, &argument.name))
        .map(|(_, _, value)| value);
    join(values, b", ", out)
}

fn join<'a>(values: impl Iterator<Item = &'a [u8]>, separator: &[u8], out: Out) -> bool {
    let mut found = false;
    for value in values {
        if found {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value);
        found = true;
    }
    found
}

/// Compares a field's name with that of a variable: in lower case, with `_` for `-`.
pub fn is_variable_name(field: &[u8], variable: &str) -> bool {
    field.len() == variable.len()
        && field.iter().zip(variable.bytes()).all(|(a, b)| {
            let a = if *a == b'-' { b'_' } else { a.to_ascii_lowercase() };
            a == b
        })
}

fn cookie(request: &mut Request, argument: &Argument, out: Out) -> bool {
    match cookie_value(request, &argument.name) {
        Some(value) => text(value, out),
        None => false,
    }
}

/// The value of the first cookie of this name, which is compared without case.
pub fn cookie_value<'a>(request: &'a Request, wanted: &str) -> Option<&'a [u8]> {
    let fields = request.head.fields.pairs(request.input.data());
    let cookies = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie")).map(|(_, value)| value);
    cookies.flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        let is_it = pair[..at].trim_ascii_end().eq_ignore_ascii_case(wanted.as_bytes());
        is_it.then(|| pair[at + 1..].trim_ascii_start())
    })
}

/// The status of a request as logs show it; 0: there is none.
pub fn logged_status(request: &Request) -> u16 {
    match (request.response.status, request.error_page.status) {
        (0, Some(status)) => status,
        (0, None) => 0,
        (status, _) => status,
    }
}

fn status(request: &mut Request, _: &Argument, out: Out) -> bool {
    let status = logged_status(request);
    debug_assert!(status < 1000 || reason(status).is_empty());
    write!(out, "{status:03}").is_ok()
}

fn root_variable(request: &mut Request, _: &Argument, out: Out) -> bool {
    nested(request, "document_root", |request| document_root(request, out));
    true
}

/// The root directory with all symbolic links resolved; no value if it is missing.
fn realpath_root(request: &mut Request, _: &Argument, out: Out) -> bool {
    let mut root = Vec::new();
    nested(request, "realpath_root", |request| document_root(request, &mut root));
    match std::fs::canonicalize(OsStr::from_bytes(&root)) {
        Ok(path) => text(path.as_os_str().as_bytes(), out),
        Err(error) => {
            let (root, cause) = (log::Text(&root), log::Cause(&error));
            log::error!(request.error_log(), &*request, "realpath() \"{root}\" failed {cause}");
            false
        }
    }
}

/// The port of the request line, otherwise that of `Host`; `None` if neither has one.
pub fn request_port(request: &Request) -> Option<&[u8]> {
    let target = request.input.data().get(request.head.target.clone())?;
    let authority = match memchr::memmem::find(target, b"://").filter(|_| target.first() != Some(&b'/')) {
        Some(at) => {
            let rest = &target[at + 3..];
            &rest[..rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())]
        }
        None if request.method == Method::Connect => target,
        None => request.header(Id::Host)?,
    };
    let colon = memchr::memrchr(b':', authority)?;
    let port = &authority[colon + 1..];
    (!port.is_empty() && port.iter().all(u8::is_ascii_digit)).then_some(port)
}

/// Appends the directory of `root` or `alias`.
pub fn document_root(request: &mut Request, out: Out) {
    match request.location.confs.http_core.root() {
        Some(root) => root.evaluate(request, out),
        None => out.extend_from_slice(request.config.prefix.join("html").as_os_str().as_bytes()),
    }
}

fn request_filename(request: &mut Request, _: &Argument, out: Out) -> bool {
    nested(request, "request_filename", |request| static_file::file_name(request, out));
    true
}

/// The user of Basic authentication, as sent.
fn remote_user(request: &mut Request, _: &Argument, out: Out) -> bool {
    let name = if request.method == Method::Connect { Id::ProxyAuthorization } else { Id::Authorization };
    let Some(value) = request.header(name) else { return false };
    if value.len() < 6 || !value[..6].eq_ignore_ascii_case(b"basic ") {
        return false;
    }
    let Some(decoded) = base64::decode(value[6..].trim_ascii()) else { return false };
    match memchr::memchr(b':', &decoded) {
        Some(end) => some(&decoded[..end], out),
        None => false,
    }
}

/// 16 random bytes in hex, the same for the whole request.
fn request_id_text(request: &mut Request, _: &Argument, out: Out) -> bool {
    let (high, low) = request_id(request);
    write!(out, "{high:016x}{low:016x}").is_ok()
}

/// The bytes of `$request_id`, the same for the whole request.
pub fn request_id(request: &mut Request) -> (u64, u64) {
    use std::hash::{BuildHasher, Hasher, RandomState};
    if request.id.is_none() {
        let keys = RandomState::new();
        let half = |salt: u64| {
            let mut hasher = keys.build_hasher();
            hasher.write_u64(clock::monotonic_us() ^ salt);
            hasher.write_u64(request.connection.number << 32 | request.connection.requests);
            hasher.write_u32(std::process::id());
            hasher.finish()
        };
        request.id = Some((half(1), half(2)));
    }
    request.id.unwrap_or_default()
}
