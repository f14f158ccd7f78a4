//! A random file of a directory as its index: `random_index`.
//!
//! Runs in the content phase before `index`. Touches: the file system, on the blocking pool; randomness.
//! Behaviour: nginx.org, ngx_http_random_index_module.

use nix::errno::Errno;

use crate::config::directive::flag;
use crate::config::{Context, Setting, settings};
use crate::http::modules::autoindex::listing;
use crate::http::modules::open_file_cache::{self, FileKind};
use crate::http::modules::{BlockConf, Directive, static_file};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Then, Verdict, Work};
use crate::sys::random;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        on: Setting<bool> = false,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("random_index", Context::LOCATION, |c| &mut c.on, "Serves a random file of a directory."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.on.get()
    }
}

/// Redirects internally to one of the regular files of the directory.
pub fn content(request: &mut Request) -> Verdict {
    if request.uri.last() != Some(&b'/') || !request.method.is_get_or_head() {
        return Verdict::Next;
    }
    let mut path = Vec::new();
    static_file::file_name(request, &mut path);
    match open_file_cache::kind(request, &path) {
        Ok(kind) => choose(path, kind),
        Err(lookup) => lookup.then_kind(move |_, kind| choose(path, kind)),
    }
}

/// Has a file chosen on another thread.
fn choose(path: Vec<u8>, kind: Result<FileKind, Errno>) -> Verdict {
    if kind != Ok(FileKind::Directory) {
        return Verdict::Next; // later handlers report it
    }
    let job = move || -> Then {
        let name = any_file(&path);
        Box::new(|request| chosen(request, name))
    };
    Work::on_files(job).into()
}

/// The name of a random regular file of a directory; `None` if there is none, or the directory cannot be
/// read.
fn any_file(path: &[u8]) -> Option<Vec<u8>> {
    let items = listing::read(path).ok()?.into_iter();
    let mut names: Vec<_> = items.filter(|item| item.kind == listing::Kind::File).collect();
    let index = random::number().checked_rem(names.len() as u64)?;
    Some(names.swap_remove(index as usize).name)
}

fn chosen(request: &mut Request, name: Option<Vec<u8>>) -> Verdict {
    match name {
        Some(name) => {
            let uri = [&request.uri[..], &name].concat();
            Verdict::Done(Reply::Internal { uri, args: request.args.clone() })
        }
        None => Verdict::Next,
    }
}
