//! The script that a URI names, in FastCGI's terms: `$fastcgi_script_name` and `$fastcgi_path_info`.
//!
//! FastCGI itself is not available, but sites also use these variables in `try_files`, `if` and headers.
//! Touches: the request's URI.
//! Behaviour: nginx.org, ngx_http_fastcgi_module.

use std::sync::Arc;

use crate::config::directive::{custom, text};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::script::regex::Pattern;
use crate::script::variable::variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        index: Inherit<Box<str>>,
        split: Inherit<Arc<Pattern>>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    text("fastcgi_index", Context::ANY, |c| &mut c.index, "Sets the file name that $fastcgi_script_name appends to a URI that ends with a slash."),
    custom("fastcgi_split_path_info", Context::ANY, Arity::exactly(1), split_path_info,
        "Sets a regular expression whose two groups become $fastcgi_script_name and $fastcgi_path_info."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("fastcgi_script_name", |request, _, out| {
        let (script, _) = split(request);
        out.extend_from_slice(&script);
        if script.ends_with(b"/") {
            out.extend_from_slice(
                request.location.confs.fastcgi.index.as_ref().map_or(b"", |index| index.as_bytes()),
            );
        }
        true
    },
        "The path of the script: the first group of fastcgi_split_path_info, otherwise $uri; fastcgi_index is appended after a slash."),
    variable("fastcgi_path_info", |request, _, out| { out.extend_from_slice(&split(request).1); true },
        "The part of the path after the script: the second group of fastcgi_split_path_info."),
];

impl BlockConf for Conf {}

fn split_path_info(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let regex = Pattern::new(node.arg(0), false, node.arg_span(0))?;
    if regex.group_count() != 3 {
        let message = format!("pattern \"{}\" must have 2 captures", node.arg(0));
        return Err(Diagnostic::error(node.arg_span(0), message)
            .help("the script and what follows it: ^(.+\\.php)(/.*)$"));
    }
    conf.split.put(Arc::new(regex), node)
}

/// Splits the URI into the script's name and the rest. The captures of the request, such as `$1`, are left
/// alone.
fn split(request: &mut Request) -> (Vec<u8>, Vec<u8>) {
    let uri = request.uri.clone();
    let split = request.location.confs.fastcgi.split.as_ref();
    let groups = split.and_then(|regex| regex.search(request, &uri));
    match groups.as_deref() {
        Some([_, script, rest, ..]) => (uri[script.clone()].to_vec(), uri[rest.clone()].to_vec()),
        _ => (uri, Vec::new()),
    }
}
