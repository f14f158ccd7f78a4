//! Static files as responses: `root`, `alias`, conditional requests, ranges.
//!
//! Runs last in the content phase. Touches: the file system, the client's socket.
//! Behaviour: nginx.org, ngx_http_static_module, ngx_http_not_modified_filter_module, ngx_http_core_module.

use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use crate::config::directive::{buffers, flag, size};
use crate::config::{Context, Setting, settings};
use crate::http::modules::open_file_cache::{self, Entry, FileKind, Found};
use crate::http::modules::{BlockConf, Directive, ranges};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::response::file::Source;
use crate::http::response::redirect;
use crate::http::response::{condition, file};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        sendfile: Setting<bool> = true,
        /// Less than nginx's 2m, so that the data is still in the processor's caches when it is sent.
        sendfile_max_chunk: Setting<u64> = 512 * 1024,
        output_buffers: Setting<(u64, u64)> = (2, 32 * 1024),
    }
}

const CHUNK_BYTES_MAX: u64 = 2 * 1024 * 1024;

const ANYWHERE: Context = Context::ANY.or(Context::LOCATION_IF);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("sendfile", ANYWHERE, |c| &mut c.sendfile, "Sends files from inside the kernel if their bytes need no change."),
    size("sendfile_max_chunk", ANYWHERE, |c| &mut c.sendfile_max_chunk,
        "Limits how much of a file is sent before other connections get their turn, to at most 2m."),
    buffers("output_buffers", Context::ANY, |c| &mut c.output_buffers,
        "Sets the number and size of the buffers for files that sendfile does not send. One read fills at most one buffer."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Conf {
    pub fn sendfile(&self) -> bool {
        self.sendfile.get()
    }

    pub fn sendfile_max_chunk(&self) -> u64 {
        match self.sendfile_max_chunk.get() {
            0 => CHUNK_BYTES_MAX,
            bytes => bytes.min(CHUNK_BYTES_MAX),
        }
    }

    /// How many bytes of a file are read at once.
    pub fn read_bytes(&self) -> usize {
        let (_, size) = self.output_buffers.get();
        usize::try_from(size).unwrap_or(usize::MAX).clamp(512, 1024 * 1024)
    }
}

/// Appends the path of the file that the URI refers to.
pub fn file_name(request: &mut Request, out: &mut Vec<u8>) {
    let location = request.location;
    match location.confs.http_core.root() {
        Some(root) => {
            root.evaluate(request, out);
            let rest = match root.replaced {
                Some(count) => request.uri.get(count..).unwrap_or(b""),
                None if request.route.adds_uri_to_alias => &request.uri,
                None => b"",
            };
            out.extend_from_slice(rest);
        }
        None => {
            out.extend_from_slice(request.config.prefix.join("html").as_os_str().as_bytes());
            out.extend_from_slice(&request.uri);
        }
    }
}

/// The path of the file for methods that change it. Errors: the status if there is none, which is logged.
pub fn path(request: &mut Request) -> Result<Vec<u8>, u16> {
    let mut path = Vec::new();
    if is_lost(request) {
        return Err(500);
    }
    file_name(request, &mut path);
    if open_file_cache::climbs(request, &path) { Err(404) } else { Ok(path) }
}

/// The path of the file of another URI in the same location. Errors: as for [`path`]; 400 if the URI does not belong to the
/// location's `alias`.
pub fn path_of(request: &mut Request, uri: Vec<u8>) -> Result<Vec<u8>, u16> {
    let location = request.location;
    let root = location.confs.http_core.root();
    let is_aliased = root.is_some_and(|root| root.is_alias && root.replaced.is_some());
    if is_aliased && !uri.starts_with(location.name.as_bytes()) {
        return Err(400);
    }
    let own = std::mem::replace(&mut request.uri, uri);
    let path = path(request);
    request.uri = own;
    path
}

/// True if the URI was rewritten after its location, an `alias`, had been found; this is logged.
fn is_lost(request: &Request) -> bool {
    let is_alias = request.location.confs.http_core.root().is_some_and(|root| root.is_alias);
    let is_lost = is_alias && request.route.rewriting.left_location();
    if is_lost {
        let name = &request.location.name;
        let what = "\"alias\" cannot be used in location";
        log::error!(request.error_log(), request, "{} \"{}\" where URI was rewritten", what, name);
    }
    is_lost
}

/// Responds with the file, or with an error.
pub fn content(request: &mut Request) -> Verdict {
    // A POST gets 404 if the file does not exist, and 405 only otherwise.
    if !request.method.is_get_or_head() && request.method != Method::Post {
        return Verdict::Done(Reply::Status(405));
    }
    if is_lost(request) {
        return Verdict::Done(Reply::Status(500));
    }
    if request.uri.last() == Some(&b'/') {
        return forbidden_or_missing(request);
    }
    let mut path = Vec::new();
    file_name(request, &mut path);
    match open_file_cache::open(request, &path) {
        Ok(found) => opened(request, &path, found),
        Err(lookup) => lookup.then(move |request, found| opened(request, &path, found)),
    }
}

fn opened(request: &mut Request, path: &[u8], found: open_file_cache::Outcome) -> Verdict {
    Verdict::Done(match found {
        Ok(Found::Directory) => redirect::to_slash(request),
        Ok(Found::Other) => {
            log::crit!(request.error_log(), &*request, "\"{}\" is not a regular file", log::Text(path));
            Reply::Status(404)
        }
        Ok(Found::File(_)) if request.method == Method::Post => Reply::Status(405),
        Ok(Found::File(entry)) => answer(request, &entry),
        Err(errno) => Reply::Status(failed(request, path, errno)),
    })
}

fn forbidden_or_missing(request: &mut Request) -> Verdict {
    let mut path = Vec::new();
    file_name(request, &mut path);
    let decide = |request: &mut Request, path: &[u8], kind| {
        let errno = match kind {
            Ok(FileKind::Directory) => {
                let path = log::Text(path);
                log::error!(request.error_log(), &*request, "directory index of \"{path}\" is forbidden");
                return Verdict::Done(Reply::Status(403));
            }
            Ok(_) => Errno::ENOTDIR,
            Err(errno) => errno,
        };
        Verdict::Done(Reply::Status(failed(request, path, errno)))
    };
    match open_file_cache::kind(request, &path) {
        Ok(kind) => decide(request, &path, kind),
        Err(lookup) => lookup.then_kind(move |request, kind| decide(request, &path, kind)),
    }
}

/// Logs why a file could not be opened, and returns the status for it.
pub fn failed(request: &Request, path: &[u8], errno: Errno) -> u16 {
    let status = match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => 404,
        Errno::EACCES | Errno::ELOOP | Errno::EMLINK => 403,
        _ => 500,
    };
    let logger = request.error_log();
    let path = log::Text(path);
    if status == 404 && !request.location.confs.http_core.log_not_found() {
        return status;
    }
    let error = io::Error::from(errno);
    if status == 500 {
        log::crit!(logger, request, "open() \"{path}\" failed {}", log::Cause(&error));
    } else {
        log::error!(logger, request, "open() \"{path}\" failed {}", log::Cause(&error));
    }
    status
}

/// The response with this file, or the outcome of the request's conditions.
pub fn answer(request: &mut Request, entry: &Entry) -> Reply {
    match head(request, entry) {
        Ok(response) => reply(request, entry.content.clone().into(), entry.size(), response),
        Err(reply) => reply,
    }
}

/// The head of a response with this file. Errors: the outcome of the request's conditions.
pub fn head(request: &mut Request, entry: &Entry) -> Result<Response, Reply> {
    let etag = if request.location.confs.http_core.etag() { &*entry.etag } else { "" };
    let mut response = Response::with_type(200, &request.content_type());
    if request.error_page.status.is_some_and(|status| status != 200) {
        // An error page is sent whole: conditions and ranges of the request refer to something else.
        push_etag(&mut response, etag);
        return Ok(response);
    }
    response.first = Some(Id::LastModified);
    response.headers.push_id(Id::LastModified, entry.last_modified.as_bytes());
    push_etag(&mut response, etag);
    response.content_length = Some(entry.size());
    if let Some(status) = condition::condition(request, Some(entry.modified()), etag.as_bytes()) {
        return Err(match status {
            412 => Reply::Status(412),
            _ => condition::not_modified(response),
        });
    }
    response.allows_ranges = true;
    Ok(response)
}

/// The reply that has the first `size` bytes of a source as its body.
pub fn reply(request: &mut Request, source: Source, size: u64, mut response: Response) -> Reply {
    response.content_length = Some(size);
    if response.allows_ranges
        && request.location.confs.http_core.error_page(416).is_some()
        && ranges::is_refused(request, &response.headers, size)
    {
        request.keep(Id::ContentRange, Some(ranges::unsatisfied(size).as_bytes()));
        return Reply::Status(416);
    }
    Reply::File(file::Answer { source, response: Box::new(response), start: 0, size })
}

fn push_etag(response: &mut Response, etag: &str) {
    if !etag.is_empty() {
        response.headers.push_id(Id::Etag, etag.as_bytes());
    }
}
