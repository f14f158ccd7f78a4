//! The authentication server (`auth_http` and the directives about questions to it).
//!
//! Questions are asked by `mail/auth.rs`. Touches: the table of names. Behaviour: nginx.org, ngx_mail_auth_http_module.

use std::sync::Arc;

use crate::config::directive::{custom, flag, millis};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::mail::config::compile::Cx;
use crate::mail::modules::{BlockConf, Directive};
use crate::net::Address;
use crate::net::address::parse_upstream;

/// An authentication server.
#[derive(Debug)]
pub struct AuthServer {
    /// As written, without `http://`, for messages.
    pub name: Box<str>,
    /// Its addresses, tried in turn.
    pub addresses: Vec<Address>,
    /// The value of `Host`.
    pub host: Box<str>,
    pub uri: Box<str>,
}

settings! {
    #[derive(Debug)]
    pub struct Conf {
        server: Inherit<Arc<AuthServer>>,
        timeout: Setting<u64> = 60_000,
        pass_client_cert: Setting<bool> = false,
        headers: Vec<(Box<str>, Box<str>)> => replace,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("auth_http", Context::IN_MAIL, Arity::exactly(1), auth_http,
        "Sets the URL of the HTTP server that is asked whether a client may log in, and at which server: http://host:port/uri, or http://unix:/path:/uri."),
    millis("auth_http_timeout", Context::IN_MAIL, |c| &mut c.timeout, "Limits the time for the answer of that server."),
    custom("auth_http_header", Context::IN_MAIL, Arity::exactly(2), add_header, "Adds a field to questions, such as a secret that proves who asks."),
    flag("auth_http_pass_client_cert", Context::IN_MAIL, |c| &mut c.pass_client_cert,
        "Adds the client's certificate to questions (Auth-SSL-Cert), in PEM and URL-encoded."),
];

impl BlockConf for Conf {}

impl Conf {
    pub fn server(&self) -> Option<&AuthServer> {
        self.server.as_ref().map(|server| &**server)
    }

    pub fn timeout_ms(&self) -> u64 {
        self.timeout.get()
    }

    pub fn passes_client_cert(&self) -> bool {
        self.pass_client_cert.get()
    }

    /// Fields for each question.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }
}

fn auth_http(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let text = text.strip_prefix("http://").unwrap_or(text);
    let refused = |what: &dyn std::fmt::Display| {
        Diagnostic::error(node.arg_span(0), format!("{what} in auth_http \"{text}\""))
    };
    if text.starts_with("https://") {
        let help = "questions go over plain HTTP: write http://, and keep the way there private";
        return Err(refused(&"TLS is not available").help(help));
    }
    let (address, uri) = split(text);
    if uri.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(refused(&"invalid URI"));
    }
    let host = parse_upstream(address, 80).map_err(|bad| refused(&bad))?;
    let addresses = host.find(&cx.options.names).ok_or_else(|| refused(&"host not found"))?;
    let shown = match host.literal() {
        Some(Address::Unix(_)) => "localhost",
        _ => address
            .rsplit_once(':')
            .map_or(address, |(host, _)| if address.ends_with(']') { address } else { host }),
    };
    let uri = match uri {
        "" => "/".into(),
        uri if uri.starts_with('/') => uri.into(),
        uri => format!("/{uri}").into(),
    };
    let server = AuthServer { name: address.into(), addresses, host: shown.into(), uri };
    conf.server.put(Arc::new(server), node)
}

/// The address of a URL without its scheme, and the rest.
fn split(text: &str) -> (&str, &str) {
    let path = text.strip_prefix("unix:");
    match path.map(|path| path.split_once(':')) {
        Some(Some((path, uri))) => (&text[.."unix:".len() + path.len()], uri),
        Some(None) => (text, ""),
        None => text.find(['/', '?']).map_or((text, ""), |end| text.split_at(end)),
    }
}

fn add_header(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (name, value) = (node.arg(0), node.arg(1));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        return Err(Diagnostic::error(node.arg_span(0), format!("invalid name \"{name}\" of a field")));
    }
    if value.contains(['\r', '\n', '\0']) {
        return Err(Diagnostic::error(node.arg_span(1), "the value of a field is one line"));
    }
    conf.headers.push((name.into(), value.into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_a_uri() {
        for (text, expected) in [
            ("127.0.0.1:9000/auth", ("127.0.0.1:9000", "/auth")),
            ("[::1]:9000/a:b", ("[::1]:9000", "/a:b")),
            ("localhost", ("localhost", "")),
            ("localhost?x=1", ("localhost", "?x=1")),
            ("unix:/run/auth.sock:/auth", ("unix:/run/auth.sock", "/auth")),
            ("unix:/run/auth.sock", ("unix:/run/auth.sock", "")),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }
}
