//! Files as responses: `root`, `alias`, conditional requests, one byte range, sent by the kernel.
//!
//! Runs last in the content phase. Touches: the file system, the client's socket (sendfile).
//! Behaviour: nginx.org, ngx_http_static_module, ngx_http_not_modified_filter_module, ngx_http_range_filter_module.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::config::Merge;
use crate::http::client::Client;
use crate::http::error::Error;
use crate::http::modules::ranges::{self, Part, parse_date};
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::pipeline::{Reply, Verdict, is_get_or_head};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::variable::Variable;
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::runtime::{blocking, relay};

/// The static module has no directives of its own; `root`, `alias` and `types` are the core's.
#[derive(Debug, Default)]
pub struct Conf {}

pub static DIRECTIVES: &[Directive<Conf>] = &[];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, _: &Self) {}
}

impl BlockConf for Conf {}

/// A file that was opened, and the part of it to send.
#[derive(Debug)]
pub struct Answer {
    file: File,
    response: Box<Response>,
    offset: u64,
    length: u64,
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
        return Reply::File(Answer { file, response: Box::new(response), offset: 0, length: size });
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
    if request.location.ranges.are_served() {
        response.headers.push_id(Id::AcceptRanges, b"bytes");
    }
    let (mut offset, mut length) = (0, size);
    // a page that is changed on its way has no parts
    let part = match request.location.ssi.applies(&core::content_type(request)) {
        true => Part::Whole,
        false => ranges::wanted(request, size, Some(metadata.mtime()), Some(etag.as_bytes())),
    };
    match part {
        Part::Whole => {}
        Part::Bytes(first, last) => {
            response.status = 206;
            response.headers.remove(Id::AcceptRanges);
            response.headers.push_id(Id::ContentRange, format!("bytes {first}-{last}/{size}").as_bytes());
            (offset, length) = (first, last - first + 1);
        }
        Part::Unsatisfiable => {
            let mut response = Response::with_type(416, b"text/html");
            response.headers.push_id(Id::ContentRange, format!("bytes */{size}").as_bytes());
            let body = crate::http::error_page::standard_body(request, 416);
            return Reply::Response(Box::new(response), body);
        }
    }
    response.content_length = Some(length);
    Reply::File(Answer { file, response: Box::new(response), offset, length })
}

fn push_etag(response: &mut Response, etag: &str) {
    if !etag.is_empty() {
        response.headers.push_id(Id::Etag, etag.as_bytes());
    }
}

/// `Some(304)` or `Some(412)` when a precondition of the request decides (RFC 9110 §13.2.2).
fn condition(request: &Request, modified: i64, etag: &[u8]) -> Option<u16> {
    if let Some(value) = request.header(Id::IfMatch) {
        if !etag_listed(value, etag, false) {
            return Some(412);
        }
    } else if let Some(date) = request.header(Id::IfUnmodifiedSince).and_then(parse_date)
        && modified > date
    {
        return Some(412);
    }
    if let Some(value) = request.header(Id::IfNoneMatch) {
        return etag_listed(value, etag, true).then_some(304);
    }

    let date = request.header(Id::IfModifiedSince).and_then(parse_date)?;
    request.location.core.is_current(modified, date).then_some(304)
}

fn etag_listed(list: &[u8], etag: &[u8], weak: bool) -> bool {
    list.trim_ascii() == b"*"
        || list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|item| {
            let item = if weak { item.strip_prefix(b"W/").unwrap_or(item) } else { item };
            item == etag && !etag.is_empty()
        })
}

/// Bytes of a file that are read at once where they cannot be moved inside the kernel.
const READ_BYTES: usize = 32 * 1024;

/// Sends a file whose bytes are changed or framed on their way.
async fn send_changed(
    request: &mut Request,
    client: &mut Client<'_>,
    file: File,
    offset: u64,
    length: u64,
) -> Result<(), Error> {
    let file = Arc::new(file);
    let mut done = 0;
    while done < length && client.wants_body() {
        let (from, at) = (Arc::clone(&file), offset + done);
        let size = READ_BYTES.min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let read = blocking::run(move || {
            let mut bytes = vec![0; size];
            let count = from.read_at(&mut bytes, at)?;
            bytes.truncate(count);
            Ok::<_, std::io::Error>(bytes)
        });
        let bytes = read.await.map_err(|error| Error::ours(format!("read() of a file failed ({error})")))?;
        if bytes.is_empty() {
            return Err(Error::ours("a file became shorter while it was sent"));
        }
        done += bytes.len() as u64;
        client.write(request, &bytes).await?;
    }
    client.flush(request).await
}

/// Sends the head and the file's bytes, which the kernel moves from the page cache to the socket.
pub async fn send(request: &mut Request, client: &mut Client<'_>, answer: Answer) -> Result<(), Error> {
    let Answer { file, response, offset, length } = answer;
    client.start(request, *response);
    let Some(room) = client.raw_room() else { return send_changed(request, client, file, offset, length).await };
    let room = room.min(length);
    if room == 0 {
        return client.flush(request).await;
    }
    client.flush(request).await?;
    let timeout = request.location.core.send_timeout();
    let limits = relay::Limits { read_timeout_ms: timeout, write_timeout_ms: timeout };
    let mut done = 0;
    while done < room {
        let part = if client.is_paced() { (room - done).min(client.pace().await?) } else { room - done };
        let sent = relay::sendfile(file.as_fd(), offset + done, part, client.io(), &limits).await;
        let moved = sent.as_ref().map_or_else(|error| error.moved, |moved| *moved);
        client.moved(request, moved);
        done += moved;
        sent.map_err(|error| match error.side {
            relay::Side::Target => Error::client(499, format!("client closed connection ({error})")),
            relay::Side::Source => Error::ours(format!("sendfile() failed ({error})")),
        })?;
    }
    Ok(())
}
