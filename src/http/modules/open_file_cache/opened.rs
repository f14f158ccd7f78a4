//! An opened path, and how much of it a worker may keep.
//!
//! Touches: the descriptor it is given. [`Opened`] crosses threads, [`Found`] stays in its worker.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::http::response::file::{Content, OnDisk};
use crate::sys::clock;
use crate::sys::file::{self, Place};

/// Files up to this size are kept in memory.
const SMALL_BYTES: i64 = 16 * 1024;

/// A file modified less than this many seconds before it was read may change again without new times: within
/// one tick of the clock, or through a mapping, whose pages update the times once until they are written back
/// (after 35 seconds).
const SETTLED_S: i64 = 60;

/// Identifies a file and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            mode: stat.st_mode,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn kind(&self) -> FileKind {
        match SFlag::from_bits_truncate(self.mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => FileKind::File,
            SFlag::S_IFDIR => FileKind::Directory,
            _ => FileKind::Other,
        }
    }

    /// The second from which an equal stamp means equal content.
    fn settles_s(&self) -> i64 {
        self.changed.0.saturating_add(SETTLED_S + 1)
    }
}

/// The kind of file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    /// A FIFO, a socket, a device.
    Other,
}

/// The kind of file, with the content of regular ones.
#[derive(Clone, Debug)]
pub enum Found {
    File(Rc<Entry>),
    Directory,
    Other,
}

impl Found {
    pub fn kind(&self) -> FileKind {
        match self {
            Self::File(_) => FileKind::File,
            Self::Directory => FileKind::Directory,
            Self::Other => FileKind::Other,
        }
    }
}

/// A regular file.
#[derive(Debug)]
pub struct Entry {
    pub stamp: Stamp,
    pub content: Content,
    /// The values of `Last-Modified` and `ETag`.
    pub last_modified: Box<str>,
    pub etag: Box<str>,
    place: Place,
    /// From this second on the content may be kept.
    settles_s: Option<i64>,
}

impl Entry {
    pub fn size(&self) -> u64 {
        u64::try_from(self.stamp.size).unwrap_or(0)
    }

    /// Seconds since 1970.
    pub fn modified(&self) -> i64 {
        self.stamp.modified.0
    }

    /// The bytes of memory and descriptors that it takes.
    pub fn weight(&self) -> (usize, usize) {
        match &self.content {
            Content::Memory(bytes) => (bytes.len(), 0),
            Content::File(_) => (0, 1),
        }
    }

    /// True if the content could be kept in memory by now.
    pub fn is_overdue(&self) -> bool {
        self.settles_s.is_some_and(|second| clock::wall_seconds() >= second)
    }

    /// True if the file is on this machine, as far as that was asked.
    pub fn is_local(&self) -> bool {
        self.place != Place::Elsewhere
    }
}

/// What to find out about a path.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// The content, if it is a file.
    pub reads: bool,
    /// Whether it is on a disk of this machine.
    pub asks_place: bool,
    pub may_wait: bool,
}

/// The result of opening a path.
#[derive(Debug)]
pub struct Opened {
    stamp: Stamp,
    content: Content,
    place: Place,
    settles_s: Option<i64>,
}

impl Opened {
    /// Examines an opened file, and reads a small one that may be kept in memory. Errors: EAGAIN if that
    /// would have to wait and must not.
    pub fn read(fd: OwnedFd, how: How) -> nix::Result<Self> {
        let file = File::from(fd);
        let stamp = Stamp::of(&fstat(&file)?);
        let is_asked = how.reads && how.asks_place && stamp.kind() == FileKind::File;
        let place = if is_asked { file::place(&file) } else { Place::Elsewhere };
        // the stamp is taken before the content is read: a change in between makes the file unsettled
        let is_small = place == Place::Disk && stamp.size <= SMALL_BYTES;
        let settles_s = is_small.then(|| stamp.settles_s());
        let is_settled = settles_s.is_some_and(|second| clock::wall_seconds() >= second);
        let small = is_settled.then(|| read_small(&file, stamp.size, how.may_wait)).transpose()?;
        let (content, settles_s) = match small.flatten() {
            Some(bytes) => (Content::Memory(bytes.into()), None),
            None => (
                Content::File(Arc::new(OnDisk::new(file, u64::try_from(stamp.size).unwrap_or(0)))),
                settles_s,
            ),
        };
        Ok(Self { stamp, content, place, settles_s })
    }

    pub fn into_found(self) -> Found {
        let Self { stamp, content, place, settles_s } = self;
        match stamp.kind() {
            FileKind::Directory => Found::Directory,
            FileKind::Other => Found::Other,
            FileKind::File => {
                let (seconds, _) = stamp.modified;
                let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                Found::File(Rc::new(Entry {
                    stamp,
                    content,
                    last_modified: httpdate::fmt_http_date(modified).into(),
                    etag: etag(seconds, stamp.size).into(),
                    place,
                    settles_s,
                }))
            }
        }
    }
}

/// The tag of a file with this time, in seconds, and size.
pub fn etag(modified: i64, size: i64) -> String {
    format!("\"{modified:x}-{size:x}\"")
}

/// Reads a small file completely; `None` if its size changes meanwhile.
fn read_small(file: &File, size: i64, may_wait: bool) -> nix::Result<Option<Vec<u8>>> {
    let size = usize::try_from(size).unwrap_or(0);
    let mut bytes = vec![0; size];
    let read = match may_wait {
        true => file::read_waiting(file, &mut bytes, 0),
        false => file::read_cached(file, &mut bytes, 0),
    };
    match read {
        Ok(count) if count == size => Ok(Some(bytes)),
        Ok(_) if may_wait => Ok(None),
        Ok(_) => Err(Errno::EAGAIN), // the rest is on disk
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EAGAIN as i32))),
    }
}
