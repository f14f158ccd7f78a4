//! The fields of requests to servers that speak HTTP: `proxy_set_header` and `grpc_set_header`.
//!
//! Settings only. Behaviour: nginx.org, `proxy_set_header` of ngx_http_proxy_module.

use crate::config::{Diagnostic, Node};
use crate::http::config::compile::Cx;
use crate::http::scope::Script;
use crate::http::upstream::cache::state::CONDITIONS;
use crate::http::upstream::conf::Names;
use crate::proto::field_text::Label;
use crate::proto::header::Id;

/// Fields of a client's request that are not passed on: hop-by-hop fields, and those written anew for the
/// upstream.
const REPLACED: &[&str] = &[
    "Host",
    "Connection",
    "Proxy-Connection",
    "Content-Length",
    "Transfer-Encoding",
    "TE",
    "Keep-Alive",
    "Expect",
    "Upgrade",
];

/// The lines of one block, in order: name and value.
pub type Lines = Vec<(Box<str>, Script)>;

/// Values computed once from the lines of a block.
#[derive(Debug)]
pub struct Sent {
    /// The `Host` that is set; `None`: the server's own.
    pub host: Option<Script>,
    /// Name and value, without `Host`; a field with an empty value is not sent.
    pub lines: Vec<(Label, Script)>,
    pub sets_connection: bool,
    /// Fields of the client that are not passed on, because they are replaced or hop-by-hop; if the response may be
    /// stored, also those that ask for less than all of it.
    replaced: [Names; 2],
}

impl Sent {
    pub fn new(set: &Lines) -> Self {
        let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
        let mut replaced = Names::default();
        REPLACED.iter().for_each(|name| replaced.insert(name));
        let (mut host, mut lines, mut sets_connection) = (None, Vec::new(), false);
        for (name, value) in set.iter().filter(|(name, _)| !name.is_empty()) {
            replaced.insert(name);
            if is(name, "host") {
                host = Some(value.clone());
                continue;
            }
            sets_connection |= is(name, "connection");
            // framing fields are decided where the body is known
            let is_framing = is(name, "content-length") || is(name, "transfer-encoding");
            if !is_framing && value.as_text() != Some(b"") {
                lines.extend(Label::new(name).map(|label| (label, value.clone())));
            }
        }
        let mut whole = replaced.clone();
        CONDITIONS.iter().for_each(|id| whole.insert(id.name()));
        Self { host, lines, sets_connection, replaced: [replaced, whole] }
    }

    /// The fields of the client that are not passed on. `is_stored`: the response may be stored.
    #[inline]
    pub fn replaced(&self, is_stored: bool) -> &Names {
        &self.replaced[usize::from(is_stored)]
    }

    /// True if a line sets this field.
    pub fn sets(&self, id: Id) -> bool {
        self.lines.iter().any(|(label, _)| Id::of(label.name()) == Some(id))
    }
}

/// Reads one line.
pub fn push(set: &mut Lines, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let value = Script::compile(&node.args[1], cx)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        let message = format!("\"{name}\" is not a valid header name");
        let bare = name.trim_end_matches(':').trim();
        if node.arg(1).is_empty() {
            cx.diagnostics
                .push(Diagnostic::warning(node.arg_span(0), message).help("this line has no effect"));
            // it still overrides the lines of the outer block
            set.push(("".into(), value));
            return Ok(());
        }
        let help = match !bare.is_empty() && bare.bytes().all(is_token) {
            true => format!("write the name alone: {bare}"),
            false => "a name is made of letters, digits and !#$%&'*+-.^_`|~".to_owned(),
        };
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    }
    let is_framing =
        ["content-length", "transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing));
    if is_framing && !node.arg(1).is_empty() {
        let message = format!("\"{name}\" is set by the proxy itself, this value is not used");
        cx.diagnostics.push(Diagnostic::warning(node.span, message));
    }
    set.push((name.into(), value));
    Ok(())
}
