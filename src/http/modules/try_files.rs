//! The first file that exists, otherwise another URI (`try_files`).
//!
//! Runs in the precontent phase. Touches: the file system; the request's path. It applies only to its own
//! block and is not inherited, not even by an `if`.
//! Behaviour: nginx.org, `try_files` of ngx_http_core_module.

use nix::errno::Errno;

use crate::config::directive::custom;
use crate::config::inherit::{duplicate, own};
use crate::config::{Arity, Context, Diagnostic, Node, Span, Word, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::open_file_cache::{self, FileKind};
use crate::http::modules::{BlockConf, Directive, http_core};
use crate::http::request::Request;
use crate::http::response::error_page;
use crate::http::scope::{Script, Variable};
use crate::http::verdict::{Reply, Verdict};
use crate::log;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        files: Vec<Name> => own,
        last: Option<Last> => own,
    }
}

/// A candidate name.
#[derive(Debug)]
struct Name {
    name: Script,
    is_directory: bool,
}

/// The fallback if no file exists.
#[derive(Debug)]
enum Last {
    Status(u16),
    Named(Box<str>, Span),
    Uri(Script),
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("try_files", Context::SERVER.or(Context::LOCATION), Arity::at_least(2), try_files,
        "Serves the first file that exists (or directory, with / at its end); otherwise the last argument applies: a URI, a @location or =status. With \
         =444 the connection is closed without a response."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false;

    fn acts(&self) -> bool {
        self.last.is_some()
    }
}

impl Conf {
    pub fn is_set(&self) -> bool {
        self.last.is_some()
    }
}

fn try_files(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if conf.last.is_some() {
        return Err(duplicate(node));
    }
    let Some((last, files)) = node.args.split_last() else { return Ok(()) };
    for word in files {
        let (text, is_directory) =
            word.text.strip_suffix('/').map_or((&*word.text, false), |text| (text, true));
        conf.files.push(Name { name: Script::compile_text(text, word.span, cx)?, is_directory });
    }
    conf.last = Some(last_of(last, cx)?);
    Ok(())
}

fn last_of(word: &Word, cx: &mut Cx) -> Result<Last, Diagnostic> {
    if let Some(code) = word.text.strip_prefix('=').filter(|code| code.parse() != Ok(0)) {
        let status = code.parse().ok().filter(|status| *status <= 999);
        return status.map(Last::Status).ok_or_else(|| {
            Diagnostic::error(word.span, format!("invalid code \"{}\"", word.text))
                .help("write = and a status: =404")
        });
    }
    if word.text.starts_with('@') && !word.text.contains('$') {
        return Ok(Last::Named((&word.text).into(), word.span));
    }
    Script::compile(word, cx).map(Last::Uri)
}

pub fn precontent(request: &mut Request) -> Verdict {
    match &request.location.confs.try_files.last {
        None => Verdict::Next,
        Some(last) => find(request, last),
    }
}

fn find(request: &mut Request, last: &'static Last) -> Verdict {
    let location = request.location;
    if request.route.rewriting.left_location()
        && location.confs.http_core.root().is_some_and(|root| root.is_alias)
    {
        let what = "\"alias\" cannot be used in location";
        log::error!(request.error_log(), &*request, "{} \"{}\" where URI was rewritten", what, location.name);
        return Verdict::Done(Reply::Status(500));
    }
    let mut root = Vec::new();
    http_core::document_root(request, &mut root);
    find_from(request, &location.confs.try_files.files, root, last)
}

/// Tries the remaining files, then the fallback.
fn find_from(request: &mut Request, files: &'static [Name], root: Vec<u8>, last: &'static Last) -> Verdict {
    for (index, file) in files.iter().enumerate() {
        let name = file.name.to_vec(request);
        let name = below_root(request, name);
        let path = [&root[..], &name].concat();
        match open_file_cache::kind(request, &path) {
            Ok(kind) if is_it(request, file, &path, kind) => {
                found(request, name, file.is_directory);
                return Verdict::Next;
            }
            Ok(_) => {}
            Err(lookup) => {
                return lookup.then_kind(move |request, kind| {
                    if is_it(request, file, &path, kind) {
                        found(request, name, file.is_directory);
                        return Verdict::Next;
                    }
                    find_from(request, &files[index + 1..], root, last)
                });
            }
        }
    }
    answer(request, last)
}

/// True if the path leads to the kind of file that the name asks for.
fn is_it(request: &Request, file: &Name, path: &[u8], kind: Result<FileKind, Errno>) -> bool {
    match kind {
        Ok(kind) => (kind == FileKind::Directory) == file.is_directory,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => false,
        Err(errno) => {
            let (path, error) = (log::Text(path), errno.into());
            log::crit!(request.error_log(), request, "stat() \"{path}\" failed {}", log::Cause(&error));
            false
        }
    }
}

fn answer(request: &mut Request, last: &'static Last) -> Verdict {
    Verdict::Done(match last {
        Last::Status(status) => Reply::Status(*status),
        Last::Named(name, span) => {
            request.route.led_by = Some(*span);
            Reply::Named(name)
        }
        Last::Uri(script) => {
            request.route.led_by = Some(script.span());
            let mut uri = script.to_vec(request);
            if uri.first() == Some(&b'@') {
                return Verdict::Done(error_page::named(request, &uri));
            }
            let args = match memchr::memchr(b'?', &uri) {
                Some(at) => {
                    let args = uri[at + 1..].to_vec();
                    uri.truncate(at);
                    args
                }
                None => Vec::new(),
            };
            Reply::Internal { uri, args }
        }
    })
}

/// A name without the part that an `alias` replaces.
fn below_root(request: &Request, name: Vec<u8>) -> Vec<u8> {
    match replaced(request).and_then(|start| name.strip_prefix(start)) {
        Some(rest) => rest.to_vec(),
        None => name,
    }
}

/// The part of the path that an `alias` replaces.
fn replaced(request: &Request) -> Option<&[u8]> {
    let root = request.location.confs.http_core.root().filter(|root| root.is_alias)?;
    request.uri.get(..root.replaced?)
}

/// Makes the name the path of the request.
fn found(request: &mut Request, name: Vec<u8>, is_directory: bool) {
    if let Some(start) = replaced(request) {
        request.uri = [start, &name].concat();
    } else if request.location.confs.http_core.root().is_some_and(|root| root.is_alias) {
        // The `alias` of a regular expression is the whole path; the found name is appended to it.
        if !is_directory && !name.is_empty() {
            request.uri = name;
            request.route.adds_uri_to_alias = true;
        }
    } else {
        request.uri = name;
    }
}
