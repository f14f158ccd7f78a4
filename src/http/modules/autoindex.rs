//! Directory listings: `autoindex`.
//!
//! Runs in the content phase for URIs that end with a slash, after `index`. Touches: the file system, on the
//! blocking pool, where the whole page is made: a directory may contain a million names.
//! Behaviour: nginx.org, ngx_http_autoindex_module. The page has a Content-Length; nginx sends it chunked.

pub mod listing;
mod page;

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

use crate::config::directive::{flag, one_of};
use crate::config::{Context, Setting, keywords, settings};
use crate::http::modules::open_file_cache::{self, FileKind};
use crate::http::modules::{BlockConf, Directive, charset, static_file};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Then, Verdict, Work};
use crate::log;
use crate::net::budget::{self, Part};
use crate::runtime;
use page::{Format, Page};

keywords!(Format { "html" => Html, "json" => Json, "jsonp" => Jsonp, "xml" => Xml });

settings! {
    #[derive(Debug)]
    pub struct Conf {
        on: Setting<bool> = false,
        format: Setting<Format> = Format::Html,
        exact_size: Setting<bool> = true,
        localtime: Setting<bool> = false,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("autoindex", Context::ANY, |c| &mut c.on, "Lists directories that have no index file."),
    one_of("autoindex_format", Context::ANY, |c| &mut c.format,
        "Sets the format of directory listings; jsonp calls the function that the argument named callback gives."),
    flag("autoindex_exact_size", Context::ANY, |c| &mut c.exact_size, "Shows exact sizes in bytes in HTML listings, instead of K, M or G."),
    flag("autoindex_localtime", Context::ANY, |c| &mut c.localtime, "Shows times in the local time zone in HTML listings, instead of UTC."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.on.get()
    }
}

/// Responds with the listing of a directory.
pub fn content(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.autoindex;
    if !conf.on.get() || request.uri.last() != Some(&b'/') || !request.method.is_get_or_head() {
        return Verdict::Next;
    }
    let mut path = Vec::new();
    static_file::file_name(request, &mut path);
    // this module has its own responses for paths that are not directories, and for links and `..`
    match open_file_cache::kind(request, &path) {
        Ok(kind) => list(request, conf, path, kind),
        Err(lookup) => lookup.then_kind(move |request, kind| list(request, conf, path, kind)),
    }
}

/// Has the listing made on another thread.
fn list(request: &mut Request, conf: &'static Conf, path: Vec<u8>, kind: Result<FileKind, Errno>) -> Verdict {
    match kind {
        Ok(FileKind::Directory) => {}
        Ok(_) => return failed(request, &path, Errno::ENOTDIR),
        Err(errno) => return failed(request, &path, errno),
    }
    let Some(page) = page(request, conf) else { return Verdict::Done(Reply::Status(400)) };
    let job = move || -> Then {
        let list = listing::read(&path).map(|items| page.render(&items));
        Box::new(move |request| finish(request, &path, list))
    };
    Work::on_files(job).into()
}

fn page(request: &mut Request, conf: &Conf) -> Option<Page> {
    let mut format = conf.format.get();
    let mut callback = Vec::new();
    if format == Format::Jsonp {
        callback = callback_of(&request.args)?;
        if callback.is_empty() {
            format = Format::Json;
        }
    }
    Some(Page {
        format,
        uri: request.uri.clone(),
        callback,
        has_exact_sizes: conf.exact_size.get(),
        is_local_time: conf.localtime.get(),
        is_utf8: charset::is_utf8(request, format.content_type()),
    })
}

const CALLBACK_BYTES_MAX: usize = 128;

/// The function that the argument `callback` names. `None` if it is not a valid name, which must not get into
/// a script.
fn callback_of(args: &[u8]) -> Option<Vec<u8>> {
    let named = |pair: &&[u8]| pair.get(..9).is_some_and(|name| name.eq_ignore_ascii_case(b"callback="));
    let Some(pair) = args.split(|byte| *byte == b'&').find(named) else { return Some(Vec::new()) };
    let raw = &pair[9..];
    if raw.len() > CALLBACK_BYTES_MAX {
        return None;
    }
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    raw.iter().all(is_fit).then(|| raw.to_vec())
}

fn finish(request: &mut Request, path: &[u8], list: io::Result<Vec<u8>>) -> Verdict {
    match list {
        Ok(page) if !request.share.grow(page.len(), Part::Whole) => {
            if let Some(why) = budget::degrade(runtime::now_ms()) {
                log::warn!(
                    request.error_log(),
                    &*request,
                    "a listing of {} bytes is not sent: {why}",
                    page.len()
                );
            }
            Verdict::Done(Reply::Status(503))
        }
        Ok(page) => {
            let conf: &'static Conf = &request.location.confs.autoindex;
            let asked = conf.format.get();
            let is_plain = asked == Format::Jsonp && !page.starts_with(b"/*");
            let format = if is_plain { Format::Json } else { asked };
            let response = Response::with_type(200, format.content_type());
            Verdict::Done(Reply::Response(Box::new(response), Body::Bytes(Cow::Owned(page))))
        }
        Err(error) => failed(request, path, Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
}

fn failed(request: &mut Request, path: &[u8], errno: Errno) -> Verdict {
    let status = match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => 404,
        Errno::EACCES | Errno::ELOOP => 403,
        _ => 500,
    };
    let (logger, path, error) = (request.error_log(), log::Text(path), io::Error::from(errno));
    if status == 500 {
        log::crit!(logger, &*request, "opendir() \"{path}\" failed {}", log::Cause(&error));
    } else {
        log::error!(logger, &*request, "opendir() \"{path}\" failed {}", log::Cause(&error));
    }
    Verdict::Done(Reply::Status(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_called() {
        for (args, expected) in [
            ("", Some("")),
            ("callback=", Some("")),
            ("a=b&callback=foo.bar_1", Some("foo.bar_1")),
            ("callback=%61b", None),
            ("callback=a-b", None),
            ("callback=alert(1)", None),
            ("callback=a%2fb", None),
            ("other=x", Some("")),
        ] {
            assert_eq!(callback_of(args.as_bytes()), expected.map(|name| name.as_bytes().to_vec()), "{args}");
        }
        assert!(callback_of(format!("callback={}", "x".repeat(128)).as_bytes()).is_some());
        assert_eq!(callback_of(format!("callback={}", "x".repeat(129)).as_bytes()), None);
    }
}
