//! Files as responses: `root`, `alias`, conditional requests, ranges.
//!
//! Runs last in the content phase. Touches: the file system, the client's socket.
//! Behaviour: nginx.org, ngx_http_static_module, ngx_http_not_modified_filter_module, ngx_http_core_module.

mod condition;
mod send;

pub use condition::condition;
pub use send::{Answer, Content, send};

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::config::directive::{custom, flag, size};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, params};
use crate::http::compile::Cx;
use crate::http::modules::ranges;
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::pipeline::{Reply, Verdict, is_get_or_head};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::variable::Variable;
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;

#[derive(Debug, Default)]
pub struct Conf {
    sendfile: Inherit<bool>,
    sendfile_max_chunk: Inherit<u64>,
    output_buffers: Inherit<(u64, u64)>,
}

const ANYWHERE: Context = Context::ANY.or(Context::LOCATION_IF);

pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("sendfile", ANYWHERE, |c| &mut c.sendfile, "Moves files to the socket inside the kernel, where their bytes need no change; on."),
    size("sendfile_max_chunk", ANYWHERE, |c| &mut c.sendfile_max_chunk, "Most bytes of a file that are sent before other connections get their turn, 0 for any; 2m."),
    custom("output_buffers", Context::ANY, Arity::exactly(2), output_buffers, "Number and size of buffers. Of a file that is not sent by sendfile so many bytes are read at once as a buffer has; one is used at a time; 2 32k."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.sendfile.merge(&outer.sendfile);
        self.sendfile_max_chunk.merge(&outer.sendfile_max_chunk);
        self.output_buffers.merge(&outer.output_buffers);
    }
}

impl BlockConf for Conf {}

impl Conf {
    fn sendfile(&self) -> bool {
        self.sendfile.get(true)
    }

    fn sendfile_max_chunk(&self) -> u64 {
        match self.sendfile_max_chunk.get(2 * 1024 * 1024) {
            0 => u64::MAX,
            bytes => bytes,
        }
    }

    /// Bytes of a file that are read at once.
    fn read_bytes(&self) -> usize {
        let (_, size) = self.output_buffers.get((2, 32 * 1024));
        usize::try_from(size).unwrap_or(usize::MAX).clamp(512, 1024 * 1024)
    }
}

fn output_buffers(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let count = params::number(node, 0, 1, 1024)?;
    let size = params::size(node, 1)?;
    conf.output_buffers.put((count, size), node)
}

/// Appends the path of the file that the URI stands for.
pub fn file_name(request: &mut Request, out: &mut Vec<u8>) {
    let location = request.location;
    match location.core.root() {
        Some(root) => {
            root.path.evaluate(request, out);
            let rest = match root.is_alias {
                true if matches!(location.kind, crate::http::location::Kind::Regex(_)) => match request.adds_uri_to_alias {
                    true => &request.uri,
                    false => &b""[..],
                },
                true => request.uri.get(location.name.len()..).unwrap_or(b""),
                false => &request.uri,
            };
            out.extend_from_slice(rest);
        }
        None => {
            out.extend_from_slice(request.config.prefix.join("html").as_os_str().as_bytes());
            out.extend_from_slice(&request.uri);
        }
    }
}

pub fn is_file(path: &[u8]) -> bool {
    std::fs::metadata(Path::new(OsStr::from_bytes(path))).is_ok_and(|metadata| metadata.is_file())
}

/// Answers with the file, or says why not.
pub fn content(request: &mut Request) -> Verdict {
    // A POST is told first whether there is such a file at all.
    if !is_get_or_head(request.method) && request.method != Method::Post {
        return Verdict::Done(Reply::Status(405));
    }
    if request.left_location && request.location.core.root().is_some_and(|root| root.is_alias) {
        let name = &request.location.name;
        let what = "\"alias\" cannot be used in location";
        log::error!(core::error_log(request), &*request, "{} \"{}\" where URI was rewritten", what, name);
        return Verdict::Done(Reply::Status(500));
    }
    if request.uri.last() == Some(&b'/') {
        return Verdict::Done(forbidden_or_missing(request));
    }
    let mut path = Vec::new();
    file_name(request, &mut path);
    let os_path = Path::new(OsStr::from_bytes(&path));
    match open(os_path) {
        Ok((_, metadata)) if metadata.is_dir() => Verdict::Done(core::redirect_to_slash(request)),
        Ok((_, metadata)) if !metadata.is_file() => {
            log::crit!(core::error_log(request), &*request, "\"{}\" is not a regular file", log::Text(&path));
            Verdict::Done(Reply::Status(404))
        }
        Ok(_) if request.method == Method::Post => Verdict::Done(Reply::Status(405)),
        Ok((file, metadata)) => Verdict::Done(answer(request, file, &metadata)),
        Err(error) => Verdict::Done(Reply::Status(failed(request, &path, &error))),
    }
}

fn forbidden_or_missing(request: &mut Request) -> Reply {
    let mut path = Vec::new();
    file_name(request, &mut path);
    if Path::new(OsStr::from_bytes(&path)).is_dir() {
        log::error!(core::error_log(request), &*request, "directory index of \"{}\" is forbidden", log::Text(&path));
        return Reply::Status(403);
    }
    let error = io::Error::from_raw_os_error(2);
    Reply::Status(failed(request, &path, &error))
}

/// The status for a file that could not be opened, with a line in the log.
fn failed(request: &Request, path: &[u8], error: &io::Error) -> u16 {
    let status = match error.raw_os_error() {
        Some(2 | 20 | 36) => 404, // ENOENT, ENOTDIR, ENAMETOOLONG
        Some(13) => 403,          // EACCES
        _ => 500,
    };
    let logger = core::error_log(request);
    let path = log::Text(path);
    if status == 404 && !request.location.core.log_not_found() {
        return status;
    }
    if status == 500 {
        log::crit!(logger, request, "open() \"{path}\" failed {}", log::Cause(error));
    } else {
        log::error!(logger, request, "open() \"{path}\" failed {}", log::Cause(error));
    }
    status
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Non-blocking: opening a FIFO must not stop the worker.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

fn answer(request: &mut Request, file: File, metadata: &Metadata) -> Reply {
    let size = metadata.size();
    let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.mtime()).unwrap_or(0));
    let has_etag = request.location.core.etag();
    let etag = if has_etag { format!("\"{:x}-{:x}\"", metadata.mtime(), size) } else { String::new() };
    let mut response = Response::with_type(200, &core::content_type(request));
    if request.error_status.is_some_and(|status| status != 200) {
        // The page for an error goes out whole: what the client knows or wants a part of is something else.
        push_etag(&mut response, &etag);
        response.content_length = Some(size);
        return reply(file, response, size);
    }
    response.headers.push_id(Id::LastModified, httpdate::fmt_http_date(modified).as_bytes());
    push_etag(&mut response, &etag);
    if let Some(status) = condition(request, metadata.mtime(), etag.as_bytes()) {
        if status == 412 {
            return Reply::Status(412);
        }
        response.status = 304;
        response.headers.remove(Id::ContentType);
        return Reply::Response(Box::new(response), crate::http::response::Body::Empty);
    }
    response.allows_ranges = true;
    response.content_length = Some(size);
    if request.location.core.error_page(416).is_some()
        && ranges::is_refused(request, size, metadata.mtime(), etag.as_bytes())
    {
        request.keep(Id::ContentRange, Some(ranges::unsatisfied(size).as_bytes()));
        return Reply::Status(416);
    }
    reply(file, response, size)
}

fn reply(file: File, response: Response, size: u64) -> Reply {
    Reply::File(Answer { content: Content::File(Arc::new(file)), response: Box::new(response), size })
}

fn push_etag(response: &mut Response, etag: &str) {
    if !etag.is_empty() {
        response.headers.push_id(Id::Etag, etag.as_bytes());
    }
}
