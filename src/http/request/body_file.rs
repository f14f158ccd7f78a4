//! Reads a request's body completely before it is used: in memory if it is short, otherwise into a file.
//!
//! Touches: the client's socket, and the disk through the blocking pool. Memory is bounded: while a piece is
//! being written, further data waits in the socket, and a client that pauses occupies at most the buffer of
//! `client_body_buffer_size`. The disk is bounded by `client_max_body_size`.
//! Behaviour: nginx.org, `client_body_in_file_only`, `client_body_buffer_size`, `proxy_request_buffering`.

use std::future::poll_fn;
use std::task::Poll;

use crate::http::downstream::Downstream;
use crate::http::modules::request_body;
use crate::http::request::Request;
use crate::http::request::body::Body;
use crate::http::request::error::Error;
use crate::http::temp_file::{Keep, Place, TempFile, TempPath};
use crate::log;

/// Size of a write to a file; a wake from the blocking pool costs about as much as copying it.
const WRITE_BYTES: usize = 64 * 1024;

/// Reads the rest of the body: appended to `kept` if it fits the buffer, otherwise all of it into a file,
/// which then belongs to the body ([`Body::file`]), and `kept` is empty.
///
/// Errors: those of reading the client's body; 500 if the file cannot be written.
pub async fn read_whole(
    request: &mut Request,
    client: Downstream<'_>,
    kept: &mut Vec<u8>,
) -> Result<(), Error> {
    read(request, client, kept).await?.map_err(failed)
}

/// Like [`read_whole`], but optional: false if no file can be created. The log has the reason, and `kept` has
/// what arrived.
///
/// Errors: as [`read_whole`], for a file that was created.
pub async fn try_read_whole(
    request: &mut Request,
    client: Downstream<'_>,
    kept: &mut Vec<u8>,
) -> Result<bool, Error> {
    let Err(why) = read(request, client, kept).await? else { return Ok(true) };
    let what = "the request body is passed on while it comes, and to one upstream only";
    log::warn!(request.error_log(), &*request, "{why} (client_body_temp_path): {what}");
    Ok(false)
}

/// The inner error: there is no file, and the reason.
async fn read(
    request: &mut Request,
    client: Downstream<'_>,
    kept: &mut Vec<u8>,
) -> Result<Result<(), String>, Error> {
    let conf = &request.location.confs.request_body;
    let (folder, wants_file) = (request_body::folder(request), request.body.wants_file());
    let keep = if wants_file { None } else { Some(conf.keep()) };
    let in_file_only = wants_file || conf.in_file_only();
    let buffer_bytes = request.location.confs.http_core.client_body_buffer_size();
    let memory_max = if in_file_only { 0 } else { buffer_bytes };
    let body = &mut request.body;
    while kept.len() <= memory_max {
        if !body.data_ready(client).await? {
            return match in_file_only && kept.is_empty() {
                // nginx creates the file even for an empty body, since an application is told its name
                true => attach(body, create(folder, keep).await).map(Ok),
                false => Ok(Ok(())),
            };
        }
        take(body, kept);
    }
    let mut file = match create(folder, keep).await {
        Ok(file) => file,
        Err(why) => return Ok(Err(why)),
    };
    let written = write(body, client, kept, &mut file, buffer_bytes).await;
    written.and_then(|()| attach(body, Ok(file))).map(Ok)
}

/// Reads the body for several requests that will send it: it is kept in the request, in memory or as a file.
///
/// Errors: as [`read_whole`].
pub async fn gather(request: &mut Request, client: Downstream<'_>) -> Result<(), Error> {
    if request.body.file().is_some() {
        return Ok(());
    }
    let mut kept = request.body.take_kept().unwrap_or_default();
    read_whole(request, client, &mut kept).await?;
    request.body.keep(Some(kept));
    Ok(())
}

async fn write(
    body: &mut Body,
    client: Downstream<'_>,
    kept: &mut Vec<u8>,
    file: &mut TempFile,
    waiting_bytes_max: usize,
) -> Result<(), Error> {
    loop {
        let arrived = poll_fn(|cx| Poll::Ready(body.poll_data(client, cx))).await;
        let is_pause = arrived.is_pending();
        if kept.len() >= WRITE_BYTES || (is_pause && kept.len() >= waiting_bytes_max) {
            *kept = file.append(std::mem::take(kept)).await.map_err(failed)?;
        }
        let has_data = match arrived {
            Poll::Ready(has_data) => has_data?,
            Poll::Pending => body.data_ready(client).await?,
        };
        if !has_data {
            break;
        }
        take(body, kept);
    }
    if !kept.is_empty() {
        file.append(std::mem::take(kept)).await.map_err(failed)?;
    }
    Ok(())
}

fn take(body: &mut Body, kept: &mut Vec<u8>) {
    let count = body.data().len();
    kept.extend_from_slice(body.data());
    body.consume(count);
}

/// `None`: the file gets its name later.
async fn create(folder: &'static TempPath, keep: Option<Keep>) -> Result<TempFile, String> {
    match keep {
        Some(keep) => TempFile::create(folder, keep).await,
        None => TempFile::create_at(Place::In(folder)).await,
    }
}

fn attach(body: &mut Body, file: Result<TempFile, String>) -> Result<(), Error> {
    let mut file = file.map_err(failed)?;
    if !body.wants_file() {
        file.complete();
    }
    body.attach(file);
    Ok(())
}

fn failed(why: String) -> Error {
    Error::ours(format!("{why} while reading client request body"))
}

/// The directory of a configuration that names none.
pub fn default_folder(prefix: &std::path::Path) -> TempPath {
    TempPath::plain(prefix.join(request_body::DEFAULT_FOLDER))
}
