//! The file that is served for a directory (`index`).
//!
//! Runs in the content phase for URIs that end with a slash. Touches: the file system.
//! Behaviour: nginx.org, ngx_http_index_module: the URI becomes the file's, and the search for a location
//! starts again.

use nix::errno::Errno;

use crate::config::directive::custom;
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::open_file_cache::{self, FileKind};
use crate::http::modules::{BlockConf, Directive, static_file};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::http::verdict::{Reply, Verdict};
use crate::proto::message::Method;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        names: Vec<Script> => replace,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("index", Context::ANY, Arity::at_least(1), index, "Names the files that are served for a directory, tried in order.").default("index.html"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn index(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for (number, word) in node.args.iter().enumerate() {
        if word.text.is_empty() {
            let message = "index \"\" in \"index\" directive is invalid";
            return Err(Diagnostic::error(word.span, message));
        }
        if word.text.starts_with('/') && number + 1 < node.args.len() {
            let message = "only the last index in \"index\" directive should be absolute";
            cx.diagnostics.push(Diagnostic::warning(word.span, message));
        }
        conf.names.push(Script::compile(word, cx)?);
    }
    Ok(())
}

/// The default of `index`.
const INDEX: &[u8] = b"index.html";

/// Redirects internally to the first index file that exists.
pub fn content(request: &mut Request) -> Verdict {
    // a POST is refused later, as one to the file
    if request.uri.last() != Some(&b'/')
        || !(request.method.is_get_or_head() || request.method == Method::Post)
    {
        return Verdict::Next;
    }
    let location = request.location;
    let names = &location.confs.index.names;
    let mut directory = Vec::new();
    static_file::file_name(request, &mut directory);
    if names.is_empty() {
        let path = [&directory[..], INDEX].concat();
        return match open_file_cache::kind(request, &path) {
            Ok(kind) => judge(request, INDEX, &path, kind),
            Err(lookup) => lookup.then_kind(move |request, kind| judge(request, INDEX, &path, kind)),
        };
    }
    find_from(request, names, 0, directory)
}

/// Tries the names from index `first` on.
fn find_from(request: &mut Request, names: &'static [Script], first: usize, directory: Vec<u8>) -> Verdict {
    for (index, script) in names.iter().enumerate().skip(first) {
        let name = script.to_vec(request);
        if name.first() == Some(&b'/') {
            return absolute(request, index, directory, name);
        }
        let path = [&directory[..], &name].concat();
        match open_file_cache::kind(request, &path) {
            Ok(kind) => match judge(request, &name, &path, kind) {
                Verdict::Next => {}
                verdict => return verdict,
            },
            Err(lookup) => {
                return lookup.then_kind(move |request, kind| match judge(request, &name, &path, kind) {
                    Verdict::Next => find_from(request, names, index + 1, directory),
                    verdict => verdict,
                });
            }
        }
    }
    Verdict::Next
}

/// An absolute last name is a URI and need not exist; but if other names precede it, the directory must
/// exist.
fn absolute(request: &mut Request, index: usize, directory: Vec<u8>, name: Vec<u8>) -> Verdict {
    if index == 0 {
        return redirect(request, name);
    }
    let decide = |request: &mut Request, directory: &[u8], name, kind| match kind {
        Ok(_) => redirect(request, name),
        Err(errno) => Verdict::Done(Reply::Status(static_file::failed(request, directory, errno))),
    };
    match open_file_cache::kind(request, &directory) {
        Ok(kind) => decide(request, &directory, name, kind),
        Err(lookup) => lookup.then_kind(move |request, kind| decide(request, &directory, name, kind)),
    }
}

fn judge(request: &mut Request, name: &[u8], path: &[u8], kind: Result<FileKind, Errno>) -> Verdict {
    match kind {
        Ok(FileKind::File) => {
            let uri = [&request.uri[..], name].concat();
            redirect(request, uri)
        }
        Err(errno @ (Errno::EACCES | Errno::ELOOP)) => {
            Verdict::Done(Reply::Status(static_file::failed(request, path, errno)))
        }
        Ok(_) | Err(_) => Verdict::Next,
    }
}

fn redirect(request: &mut Request, uri: Vec<u8>) -> Verdict {
    request.route.led_by = None;
    Verdict::Done(Reply::Internal { uri, args: request.args.clone() })
}
