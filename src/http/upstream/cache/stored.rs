//! A stored response: its file is opened, checked and served.
//!
//! Touches: the file, without waiting for a disk; if it is not in memory, a thread of the blocking pool opens and
//! reads it. A worker keeps what it serves often open, or in memory, and checks each time that it is still the
//! file of that name (`modules/open_file_cache.rs`). Bounded: before the response is sent at most [`WHOLE_BYTES`] are
//! read, or the head.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use nix::errno::Errno;

use crate::base::number::parse_u64;
use crate::cache::entry::{self, Broken, Meta, Parsed};
use crate::cache::key::Key;
use crate::http::modules::open_file_cache::{self, Found};
use crate::http::request::Request;
use crate::http::response::file::{Answer, Content};
use crate::http::response::{Response, condition};
use crate::http::upstream::answer::{self, Next};
use crate::http::upstream::cache::course;
use crate::http::upstream::cache::state::Status;
use crate::http::upstream::proxied::Head;
use crate::http::verdict::Reply;
use crate::log;
use crate::proto::cache_control;
use crate::proto::h1::request::Progress;
use crate::proto::h1::response::{self, Seen};
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::buffer::Buffer;
use crate::sys::file;

/// The first read of a longer file. Most heads are shorter.
const READ_BYTES: usize = 4 * 1024;
/// A file of this length is read as a whole.
const WHOLE_BYTES: u64 = 16 * 1024;

/// A stored response that may be served.
#[derive(Debug)]
pub struct Stored {
    pub content: Content,
    pub path: PathBuf,
    pub meta: Meta,
    /// The first bytes of the file, the whole head among them.
    bytes: Arc<[u8]>,
    head: Range<usize>,
    /// Of the file.
    size: u64,
}

/// The reason why there is none.
#[derive(Debug)]
pub enum Missing {
    NoFile,
    /// It cannot be used, and should be removed.
    Broken(Broken),
    /// It cannot be read now.
    Failed(&'static str, io::Error),
}

impl Stored {
    /// Opens the file of a key.
    pub async fn open(path: PathBuf, key: &Key) -> Result<Self, Missing> {
        let name = path.as_os_str().as_bytes();
        let found = match open_file_cache::stored(name) {
            Some(found) => found,
            None => open_file_cache::stored_waiting(name.into()).await,
        };
        let (content, size) = match found {
            Ok(Found::File(entry)) => (entry.content.clone(), entry.size()),
            Ok(Found::Directory | Found::Other) => {
                return Err(Missing::Failed("open()", Errno::EISDIR.into()));
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(Missing::NoFile),
            Err(errno) => return Err(Missing::Failed("open()", errno.into())),
        };
        let bytes = match &content {
            Content::Memory(bytes) => Arc::clone(bytes),
            Content::File(file) => match read(file, size, key, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (file, key) = (Arc::clone(file), key.clone());
                    blocking::run(Lane::Files, move || read(&file, size, &key, true)).await
                }
                read => read,
            }
            .map_err(|error| Missing::Failed("read()", error))?,
        };
        let Parsed { meta, head } = entry::parse(&bytes, key).map_err(Missing::Broken)?;
        Ok(Self { content, path, meta, bytes, head, size })
    }

    /// The bytes of its head.
    pub fn head(&self) -> &[u8] {
        self.bytes.get(self.head.clone()).unwrap_or(b"")
    }

    /// The length of its body.
    pub fn length(&self) -> u64 {
        self.size - u64::from(self.meta.body_start)
    }

    /// The head as a value. `None`: it is malformed.
    pub fn parse(&self) -> Option<Rc<Head>> {
        parse_head(self.head())
    }

    /// True if the response forbids that it is sent stale (RFC 9111 §5.2.2.2).
    pub fn must_be_validated(&self, request: &Request) -> bool {
        self.parse().is_some_and(|head| course::lifetime(request, &head, self.meta.date).must_revalidate)
    }

    /// The `ETag` and the `Last-Modified` with which an upstream is asked whether it is current; empty: it has none.
    pub fn validators(&self) -> (Vec<u8>, Vec<u8>) {
        let mut modified = Vec::new();
        if let Some(time) = self.meta.last_modified {
            log::format::http_date(time, &mut modified);
        }
        (self.meta.etag.to_vec(), modified)
    }

    /// The reply that serves it, with the conditions of the request applied.
    pub fn into_reply(self, request: &mut Request, now_s: i64) -> Reply {
        let Some(head) = self.parse() else {
            log::error!(
                request.error_log(),
                &*request,
                "the head in cache file \"{}\" is malformed",
                self.path.display()
            );
            return Reply::Status(500);
        };
        let length = self.length_for(request, &head);
        let age_s = self.age_s(&head, now_s);
        match answer::stored(request, &head, length) {
            Next::Reply(reply) => reply,
            Next::Tunnel(response) | Next::Body(response) => self.with_head(request, response, length, age_s),
        }
    }

    /// The time since the response was made (RFC 9111 §4.2.3).
    fn age_s(&self, head: &Head, now_s: i64) -> i64 {
        let received_s = cache_control::received_age_s(&head.head.fields, head.buffer.data());
        // The file may have been written by anybody, and its date be any number.
        now_s.saturating_sub(self.meta.date).max(0).saturating_add(received_s)
    }

    /// The same, of an expired response that replaces an error of the upstream.
    pub fn into_stale_reply(self, request: &mut Request, now_s: i64) -> Reply {
        request.proxied.cache.get_or_insert_default().status = Some(Status::Stale);
        self.into_reply(request, now_s)
    }

    /// The length of the body that the client is told: an answer to HEAD is stored without the body that it describes
    /// (`proxy_cache_convert_head off`).
    fn length_for(&self, request: &Request, head: &Head) -> u64 {
        match self.length() {
            0 if request.method == Method::Head => {
                let told = head.head.fields.value(head.buffer.data(), Id::ContentLength);
                told.and_then(parse_u64).unwrap_or(0)
            }
            length => length,
        }
    }

    fn with_head(self, request: &mut Request, mut response: Response, size: u64, age_s: i64) -> Reply {
        response.headers.set(Id::Age, itoa::Buffer::new().format(age_s).as_bytes());
        (response.allows_ranges, response.is_conditional) = (true, true);
        if let Some(reply) = conditional(request, &response, size) {
            return reply;
        }
        let is_whole = self.bytes.len() as u64 == self.size;
        let content = if is_whole { Content::Memory(self.bytes) } else { self.content };
        let start = u64::from(self.meta.body_start);
        Reply::File(Answer { source: content.into(), response: Box::new(response), start, size })
    }
}

/// Parses a stored head. `None`: it is malformed.
pub fn parse_head(bytes: &[u8]) -> Option<Rc<Head>> {
    let mut buffer = Buffer::take(bytes.len());
    buffer.extend(bytes);
    let mut head = ResponseHead::default();
    match response::parse_more(buffer.data(), usize::MAX, &mut head, &mut Seen::default()) {
        Ok(Progress::Complete(_)) => Some(Rc::new(Head { buffer, head })),
        Ok(Progress::Partial) | Err(_) => None,
    }
}

/// The reply that replaces a response if a condition of the client's request decides.
pub fn conditional(request: &Request, response: &Response, length: u64) -> Option<Reply> {
    condition::instead(request, response, usize::try_from(length).unwrap_or(usize::MAX))
}

/// Reads the first bytes of a file, at least all of its head. Errors: `WouldBlock` if a disk had to be waited for.
fn read(opened: &File, size: u64, key: &Key, may_wait: bool) -> io::Result<Arc<[u8]>> {
    let read = |bytes: &mut [u8], at: u64| match may_wait {
        true => file::read_waiting(opened, bytes, at),
        false => match file::read_cached(opened, bytes, at)? {
            count if count == bytes.len() => Ok(count),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        },
    };
    let first = if size <= WHOLE_BYTES { usize::try_from(size).unwrap_or(0) } else { READ_BYTES };
    let mut bytes = vec![0; first];
    let count = read(&mut bytes, 0)?;
    bytes.truncate(count);
    if let Err(Broken::Short { needed }) = entry::parse(&bytes, key)
        && needed as u64 <= size
    {
        let had = bytes.len();
        bytes.resize(needed, 0);
        let count = read(&mut bytes[had..], had as u64)?;
        bytes.truncate(had + count);
    }
    Ok(bytes.into())
}
