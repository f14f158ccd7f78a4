//! A random file of a directory as its index: `random_index`.
//!
//! Runs in the content phase before `index`. Touches: the file system, on the blocking pool; randomness.
//! Behaviour: nginx.org, ngx_http_random_index_module.

use crate::config::directive::flag;
use crate::config::{Context, Setting, settings};
use crate::http::modules::autoindex::{self, listing};
use crate::http::modules::open_file_cache::{self, FileKind};
use crate::http::modules::{BlockConf, Directive, static_file};
use crate::http::pipeline::{Reply, Verdict, is_get_or_head};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::sys::random;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        on: Setting<bool> = false,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("random_index", Context::LOCATION, |c| &mut c.on, "Answers for a directory with one of its files, at random."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.on.get()
    }
}

/// Leads to one of the regular files of the directory.
pub fn content(request: &mut Request) -> Verdict {
    if request.uri.last() != Some(&b'/') || !is_get_or_head(request.method) {
        return Verdict::Next;
    }
    let mut path = Vec::new();
    static_file::file_name(request, &mut path);
    match open_file_cache::kind(request, &path, again) {
        Err(work) => return Verdict::Work(work),
        Ok(Ok(FileKind::Directory)) => {}
        Ok(_) => return Verdict::Next, // the others say so
    }
    let run = |path: &[u8]| {
        let mut names: Vec<_> =
            listing::read(path)?.into_iter().filter(|item| item.kind == listing::Kind::File).collect();
        let index = random::number().checked_rem(names.len() as u64).unwrap_or(0);
        Ok(if names.is_empty() { Vec::new() } else { names.swap_remove(index as usize).name })
    };
    autoindex::read(request, path, run, chosen)
}

fn again(request: &mut Request, _: u64) -> Verdict {
    content(request)
}

fn chosen(request: &mut Request, _: u64) -> Verdict {
    match autoindex::taken(request) {
        Ok(name) if !name.is_empty() => {
            let uri = [&request.uri[..], &name].concat();
            Verdict::Done(Reply::Internal { uri, args: request.args.clone() })
        }
        _ => Verdict::Next,
    }
}
