//! Sends a file to the client: from memory, by sendfile(2), read into the records of TLS, or through buffers.
//!
//! Never waits for a disk: data that is not in the page cache is first read on the blocking pool.

use std::future::poll_fn;
use std::ops::Range;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::http::client::Client;
use crate::http::modules::counters;
use crate::http::modules::ranges::{self, Parts, Plan};
use crate::http::request::Request;
use crate::http::request::error::{During, Error, Limit};
use crate::http::response::file::{Answer, Joined, OnDisk, Source, part};
use crate::log;
use crate::net::transport::Raw;
use crate::runtime;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::relay::{Cause, Limits, Side};
use crate::sys::file;

/// A part of this length or less is read instead of moved: sendfile(2) would need a call of its own.
const READ_MAX: u64 = 16 * 1024;

/// Sends the head and the file, or the requested parts of it.
pub async fn send(request: &mut Request, client: &mut Client<'_>, answer: Answer) -> Result<(), Error> {
    let Answer { source, response, start, size } = answer;
    if ranges::asked(request).is_some() {
        request.states.ranges = Some(Box::new(Plan::Asked));
    }
    client.start(request, *response);
    let plan = request.states.ranges.take();
    match plan.map(|plan| *plan) {
        None | Some(Plan::Asked) => match source {
            Source::Memory(bytes) => client.write(request, part(&bytes, &(start..start + size))).await,
            Source::File(file) => send_file(request, client, &file, start, size).await,
            Source::Joined(joined) => {
                Box::pin(send_joined(request, client, &joined, start..start + size)).await
            }
        },
        Some(Plan::Page(page)) => client.write(request, page.as_bytes()).await,
        Some(Plan::Parts(parts)) => Box::pin(send_parts(request, client, (&source, start), &parts)).await,
    }
}

/// Sends a range of bytes of which the first ones are in memory.
async fn send_joined(
    request: &mut Request,
    client: &mut Client<'_>,
    joined: &Joined,
    range: Range<u64>,
) -> Result<(), Error> {
    let head_bytes = joined.head.len() as u64;
    let head = part(&joined.head, &(range.start.min(head_bytes)..range.end.min(head_bytes)));
    client.write(request, head).await?;
    let skipped = range.start.saturating_sub(head_bytes);
    let count = range.end.saturating_sub(head_bytes) - skipped;
    if count > 0 {
        send_file(request, client, &joined.file, joined.at + skipped, count).await?;
    }
    Ok(())
}

/// The cost of a short read (`runtime::worked`): a client may request thousands of parts.
const READ_WORK: u32 = 4;

/// Parts are collected up to this size before they are written.
const GATHERED_BYTES: usize = 32 * 1024;

async fn send_parts(
    request: &mut Request,
    client: &mut Client<'_>,
    (source, start): (&Source, u64),
    parts: &Parts,
) -> Result<(), Error> {
    let mut gathered = Vec::new();
    for (index, range) in parts.ranges().iter().enumerate() {
        if !client.wants_body() {
            break;
        }
        gathered.extend_from_slice(&parts.head(index));
        let length = range.end - range.start;
        let range = start + range.start..start + range.end;
        match source {
            Source::Memory(bytes) => {
                gathered.extend_from_slice(part(bytes, &range));
            }
            Source::File(file) if length <= READ_MAX => {
                runtime::worked(READ_WORK).await;
                gathered.extend_from_slice(&read(file, range.start, length as usize).await?);
            }
            Source::File(file) => {
                client.write(request, &std::mem::take(&mut gathered)).await?;
                send_file(request, client, file, range.start, length).await?;
            }
            Source::Joined(joined) => {
                client.write(request, &std::mem::take(&mut gathered)).await?;
                send_joined(request, client, joined, range).await?;
            }
        }
        if gathered.len() >= GATHERED_BYTES {
            client.write(request, &std::mem::take(&mut gathered)).await?;
        }
    }
    gathered.extend_from_slice(&parts.tail());
    client.write(request, &gathered).await
}

/// Sends bytes of a file, after the head if it is still pending.
async fn send_file(
    request: &mut Request,
    client: &mut Client<'_>,
    file: &Arc<OnDisk>,
    offset: u64,
    length: u64,
) -> Result<(), Error> {
    let conf = &request.location.confs.static_file;
    let target = client.downstream().raw().filter(|target| conf.sendfile() || matches!(target, Raw::Tls(_)));
    let room = client.raw_room().filter(|_| length > READ_MAX);
    let (Some(room), Some(target)) = (room, target) else {
        return copy(request, client, file, offset, length).await;
    };
    let room = room.min(length);
    client.flush(request).await?;
    let timeout = request.location.confs.http_core.send_timeout_ms();
    let limits = Limits { read_timeout_ms: timeout, write_timeout_ms: timeout };
    let chunk = conf.sendfile_max_chunk();
    let (began_ms, mut was_cold) = (runtime::now_ms(), false);
    let mut done = 0;
    while done < room {
        let at = offset + done;
        let mut part = (room - done).min(chunk);
        if client.is_paced() {
            part = part.min(client.pace().await?);
        }
        part = match if file.is_warm() { part } else { file::cached_bytes(file, at, part) } {
            0 => {
                was_cold = true;
                let (cold, part) = (Arc::clone(file), part.min(COLD_BYTES));
                let warmed = blocking::run(Lane::Files, move || file::warm(&cold, at, part)).await;
                warmed.map_err(|error| unreadable(&error))?;
                part
            }
            cached => cached,
        };
        let is_last = client.raw_room() == Some(part) && !request.is_subrequest() && !request.is_counted;
        let sending = target.send_file(file.as_fd(), (at, part), request.bytes_sent, &limits);
        let sent = count_ahead(request, is_last.then_some(part), sending).await;
        let moved = sent.as_ref().map_or_else(|error| error.moved, |moved| *moved);
        client.moved(request, moved);
        done += moved;
        sent.map_err(|error| match (error.side, error.cause) {
            (Side::Target, Cause::TimedOut) => {
                Error::client_timed_out(During::SendResponse, Limit::SendTimeout)
            }
            (Side::Target, Cause::Io(cause)) => Error::gone(cause),
            (_, cause) => Error::ours(format!("sendfile() failed ({cause})")),
        })?;
        if done < room {
            // Others get their turn, and the client reads what has been sent, which saves a tenth of the CPU
            // on loopback.
            runtime::yield_now().await;
        }
    }
    if !was_cold && offset == 0 {
        file.note_warm(room, began_ms);
    }
    Ok(())
}

/// Counts a request in each step that may send its last bytes, `left` of them, before they are sent.
async fn count_ahead<E>(
    request: &mut Request,
    left: Option<u64>,
    sending: impl Future<Output = Result<u64, E>>,
) -> Result<u64, E> {
    let (mut sending, sent_before) = (pin!(sending), request.bytes_sent);
    poll_fn(|cx| {
        let Some(left) = left else { return sending.as_mut().poll(cx) };
        counters::count_ahead(request, sent_before + left);
        let sent = sending.as_mut().poll(cx);
        if !matches!(&sent, Poll::Ready(Ok(count)) if *count == left) {
            counters::take_back(request, sent_before + left);
        }
        sent
    })
    .await
}

/// Size of a read from a disk before sending.
const COLD_BYTES: u64 = 512 * 1024;

/// Sends bytes that must be changed or framed, or for which sendfile(2) is disabled.
async fn copy(
    request: &mut Request,
    client: &mut Client<'_>,
    file: &Arc<OnDisk>,
    offset: u64,
    length: u64,
) -> Result<(), Error> {
    let size = request.location.confs.static_file.read_bytes();
    let (mut done, mut bytes) = (0, Vec::new());
    while done < length && client.wants_body() {
        let count = size.min(usize::try_from(length - done).unwrap_or(usize::MAX));
        bytes = read_into(bytes, file, offset + done, count).await?;
        done += bytes.len() as u64;
        runtime::worked((bytes.len() / READ_BYTES) as u32).await;
        client.write(request, &bytes).await?;
    }
    Ok(())
}

/// Bytes that are read from memory in a microsecond.
const READ_BYTES: usize = 4096;

/// Reads exactly `count` bytes.
async fn read(file: &Arc<OnDisk>, offset: u64, count: usize) -> Result<Vec<u8>, Error> {
    read_into(Vec::new(), file, offset, count).await
}

/// The same into memory that is used again.
async fn read_into(
    mut bytes: Vec<u8>,
    file: &Arc<OnDisk>,
    offset: u64,
    count: usize,
) -> Result<Vec<u8>, Error> {
    bytes.resize(count, 0);
    if !matches!(file::read_cached(file, &mut bytes, offset), Ok(read) if read == count) {
        let file = Arc::clone(file);
        let read = blocking::run(Lane::Files, move || {
            let read = file::read_waiting(&file, &mut bytes, offset)?;
            bytes.truncate(read);
            Ok(bytes)
        });
        bytes = read.await.map_err(|error| unreadable(&error))?;
    }
    if bytes.len() < count {
        return Err(Error::ours("a file became shorter while it was sent"));
    }
    Ok(bytes)
}

fn unreadable(error: &std::io::Error) -> Error {
    Error::ours(format!("read() of a file failed {}", log::Cause(error)))
}
