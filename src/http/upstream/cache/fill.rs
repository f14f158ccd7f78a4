//! A response on its way into the cache: a short one is written at once when it is complete, a long one as it arrives.
//!
//! Touches: the disk, through the blocking pool. Bounded: [`MEMORY_BYTES`] of a response that is not in its file yet. A
//! file gets its name only when it is complete. If it cannot be written the response is not stored, and the client gets
//! it all the same.

use crate::cache::entry::{self, Meta};
use crate::cache::zone::Zone;
use crate::http::request::Request;
use crate::http::temp_file::{Place, TempFile, TempPath};
use crate::http::upstream::cache::course::Course;
use crate::http::upstream::proxied::Head;
use crate::log;
use crate::proto::header::{Field, Id};
use crate::shm::cache_index::Digest;

/// A response of at most this length is written in one piece.
const MEMORY_BYTES: usize = 64 * 1024;

/// Size of a read of what a slow client has not got yet.
const READ_BYTES: usize = 16 * 1024;

/// A response that is being stored.
#[derive(Debug)]
pub struct Fill {
    place: Place,
    /// The bytes that are not in the file yet.
    pending: Vec<u8>,
    /// `None`: there is no file yet.
    file: Option<TempFile>,
    /// Where the body starts in the file.
    body_start: u64,
    /// The bytes of the body so far.
    length: u64,
    /// Of the body, for a client that is behind: it gets the rest from the file.
    read: Option<u64>,
    is_over: bool,
}

impl Fill {
    /// `None`: key and head are too long for a file.
    pub fn new(
        course: &Course,
        meta: &Meta,
        head: &Head,
        temp_path: Option<&'static TempPath>,
    ) -> Option<Self> {
        let pending = entry::encode(meta, &course.key, &stored_head(head))?;
        let place = place(course.zone, &course.digest, temp_path);
        let body_start = pending.len() as u64;
        Some(Self { place, pending, file: None, body_start, length: 0, read: None, is_over: false })
    }

    /// Takes a part of the body.
    pub async fn append(&mut self, request: &Request, data: &[u8]) {
        if self.is_over {
            return;
        }
        self.pending.extend_from_slice(data);
        self.length += data.len() as u64;
        if self.pending.len() >= MEMORY_BYTES {
            self.write(request).await;
        }
    }

    /// Writes what waits in memory. False: the disk failed, and the response is not stored.
    async fn write(&mut self, request: &Request) -> bool {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => match TempFile::create_at(self.place.clone()).await {
                Ok(file) => file,
                Err(why) => {
                    self.give_up(request, &why);
                    return false;
                }
            },
        };
        let data = std::mem::take(&mut self.pending);
        let (data, written) = file.write(data).await;
        (self.file, self.pending) = (Some(file), data);
        match written {
            Ok(()) => self.pending.clear(),
            Err(why) => self.give_up(request, &why),
        }
        !self.is_over
    }

    /// The response is complete: its file gets its name, and the index knows it.
    pub async fn complete(&mut self, request: &Request, course: &Course) {
        if self.is_over || self.read.is_some() && !self.write(request).await {
            return;
        }
        self.is_over = true;
        let target = course.zone.file_name(&course.digest);
        let data = std::mem::take(&mut self.pending);
        let stored = TempFile::finish(self.file.take(), self.place.clone(), data, target).await;
        match stored {
            Ok((file, bytes)) => {
                if course.enter(request, bytes).await
                    && let Some(status) = request.proxied.cache.as_ref().and_then(|state| state.status)
                {
                    course.zone.counts.count_written(status, self.length);
                }
                self.file = Some(file);
            }
            Err(why) => self.give_up(request, &why),
        }
    }

    /// True if the client is behind, and gets the rest from the file.
    pub fn is_read(&self) -> bool {
        self.read.is_some()
    }

    /// True if nothing more is stored: the response is complete, or the disk failed.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The client is behind: it gets what was appended last, and the rest, from the file. False: there is none.
    pub async fn begin_read(&mut self, request: &Request, last: usize) -> bool {
        if self.is_over || !self.pending.is_empty() && !self.write(request).await {
            return false;
        }
        self.read = Some(self.length - last as u64);
        true
    }

    /// The next bytes of the body for a client that is behind; empty: it has caught up. Errors: they cannot be read.
    pub async fn next(&mut self) -> Result<Vec<u8>, String> {
        let Some(at) = self.read else { return Ok(Vec::new()) };
        let Some(file) = &self.file else { return Err("the stored response is gone".to_owned()) };
        let written = file.len().saturating_sub(self.body_start);
        let data = if at < written {
            let left = usize::try_from(written - at).unwrap_or(usize::MAX);
            file.read(self.body_start + at, READ_BYTES.min(left)).await?
        } else {
            // what could not be written any more, or has not been yet
            let unwritten = usize::try_from(at - written).unwrap_or(usize::MAX);
            self.pending.get(unwritten..).unwrap_or(b"").to_vec()
        };
        if data.is_empty() {
            return Err(format!("\"{}\" became shorter", file.path().display()));
        }
        let at = at + data.len() as u64;
        self.read = (at < self.length).then_some(at);
        Ok(data)
    }

    /// Whoever is behind still gets what there is.
    fn give_up(&mut self, request: &Request, why: &str) {
        log::error!(request.error_log(), request, "{why}: this response is not stored");
        self.is_over = true;
        if self.read.is_none() {
            (self.file, self.pending) = (None, Vec::new());
        }
    }
}

/// Where the file of a key is written before it gets its name.
pub fn place(zone: &Zone, digest: &Digest, temp_path: Option<&'static TempPath>) -> Place {
    match temp_path.filter(|_| zone.settings.uses_temp_path) {
        Some(folder) => Place::In(folder),
        None => Place::Beside(zone.file_name(digest)),
    }
}

/// Response fields that belong to a connection: they are not stored (RFC 9111 §3.1).
const OF_CONNECTION: [Id; 7] = [
    Id::Connection,
    Id::KeepAlive,
    Id::ProxyConnection,
    Id::Te,
    Id::Trailer,
    Id::TransferEncoding,
    Id::Upgrade,
];

/// The fields of an answer that are stored: all but those of its connection, and the status of an application's.
pub fn stored_fields(head: &Head) -> impl Iterator<Item = &Field> {
    let (data, connection) = (head.buffer.data(), &head.head.connection);
    head.head.fields.iter().filter(|field| {
        let is_of_connection = field.id.is_some_and(|id| OF_CONNECTION.contains(&id));
        !is_of_connection
            && !connection.ends(field, data)
            && !field.name(data).eq_ignore_ascii_case(b"status")
    })
}

/// The head of a response as it is stored: in HTTP/1's form, whatever protocol it came by.
fn stored_head(head: &Head) -> Vec<u8> {
    let data = head.buffer.data();
    let reason = data.get(head.head.reason.clone()).unwrap_or(b"");
    let fields = stored_fields(head).map(|field| (field.name(data), field.value(data)));
    head_of(head.head.status, reason, fields)
}

/// The text of a head.
pub fn head_of<'a>(
    status: u16,
    reason: &[u8],
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}
