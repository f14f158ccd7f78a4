//! The file that stands for a directory (`index`).
//!
//! Runs in the content phase for URIs that end with a slash. Touches: the file system.
//! Behaviour: nginx.org, ngx_http_index_module: the URI becomes the file's and the search begins anew.

use nix::errno::Errno;

use crate::config::directive::custom;
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::open_file_cache::{self, FileKind};
use crate::http::modules::{BlockConf, Directive, static_file};
use crate::http::pipeline::{Reply, Verdict, is_get_or_head};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::proto::message::Method;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        names: Vec<Script> => replace,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("index", Context::ANY, Arity::at_least(1), index, "Files that stand for a directory, tried in order.").default("index.html"),
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

/// Redirects internally to the first index file that exists.
pub fn content(request: &mut Request) -> Verdict {
    // a POST is refused as one of the file
    if request.uri.last() != Some(&b'/')
        || !(is_get_or_head(request.method) || request.method == Method::Post)
    {
        return Verdict::Next;
    }
    let location = request.location;
    let names = &location.index.names;
    let mut directory = Vec::new();
    static_file::file_name(request, &mut directory);
    if names.is_empty() {
        return try_name(request, &directory, b"index.html".to_vec());
    }
    for (index, script) in names.iter().enumerate() {
        let name = script.to_vec(request);
        if name.first() == Some(&b'/') {
            // An absolute last name is a URI, whether it exists or not; behind other names the directory must.
            let there = match index {
                0 => Ok(Ok(FileKind::Directory)),
                _ => open_file_cache::kind(request, &directory, again),
            };
            return match there {
                Err(work) => Verdict::Work(work),
                Ok(Err(errno)) => {
                    Verdict::Done(Reply::Status(static_file::failed(request, &directory, errno)))
                }
                Ok(Ok(_)) => redirect(request, name),
            };
        }
        match try_name(request, &directory, name) {
            Verdict::Next => {}
            verdict => return verdict,
        }
    }
    Verdict::Next
}

fn again(request: &mut Request, _: u64) -> Verdict {
    content(request)
}

fn try_name(request: &mut Request, directory: &[u8], name: Vec<u8>) -> Verdict {
    let path = [directory, &name].concat();
    match open_file_cache::kind(request, &path, again) {
        Err(work) => Verdict::Work(work),
        Ok(Ok(FileKind::File)) => {
            let uri = [&request.uri[..], &name].concat();
            redirect(request, uri)
        }
        Ok(Err(errno @ (Errno::EACCES | Errno::ELOOP))) => {
            Verdict::Done(Reply::Status(static_file::failed(request, &path, errno)))
        }
        Ok(_) => Verdict::Next,
    }
}

fn redirect(request: &mut Request, uri: Vec<u8>) -> Verdict {
    request.led_by = None;
    Verdict::Done(Reply::Internal { uri, args: request.args.clone() })
}
