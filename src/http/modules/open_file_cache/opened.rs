//! A path that was opened, and what a worker may keep of it.
//!
//! Touches: the descriptor it is given. [`Opened`] crosses threads, [`Found`] stays in its worker.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::http::modules::static_file::Content;
use crate::sys::file;

/// Files up to this size are read when they are opened, and leave together with their head.
const SMALL_BYTES: i64 = 16 * 1024;

/// A file that was changed later than so long before it was read may change again without another time.
const SETTLED: Duration = Duration::from_secs(2);

/// What tells that a file is the same and was not changed.
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

    /// It was not changed lately; a change of the content or of what is said of the file is one.
    fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let at = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let age = now.zip(at).and_then(|(now, (seconds, nanoseconds))| {
            now.checked_sub(Duration::new(seconds, nanoseconds))
        });
        age.is_some_and(|age| age >= SETTLED)
    }
}

/// What there is under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    /// A FIFO, a socket, a device.
    Other,
}

/// The same with what a file holds.
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
    /// `Last-Modified` and `ETag`.
    pub last_modified: Box<str>,
    pub etag: Box<str>,
    is_local: bool,
    is_settled: bool,
}

impl Entry {
    pub fn size(&self) -> u64 {
        u64::try_from(self.stamp.size).unwrap_or(0)
    }

    /// Seconds since 1970.
    pub fn modified(&self) -> i64 {
        self.stamp.modified.0
    }

    /// Bytes in memory and descriptors that it takes.
    pub fn weight(&self) -> (usize, usize) {
        match &self.content {
            Content::Memory(bytes) => (bytes.len(), 0),
            Content::File(_) => (0, 1),
        }
    }

    /// The same stamp means the same content.
    pub fn is_sure(&self) -> bool {
        matches!(self.content, Content::File(_)) || self.is_settled
    }

    /// It is on a disk of this machine, as far as that was asked.
    pub fn is_local(&self) -> bool {
        self.is_local
    }
}

/// What is wanted of a path.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Its content, if it is a file.
    pub reads: bool,
    /// Whether it is on a disk of this machine.
    pub asks_place: bool,
    pub may_wait: bool,
}

/// What opening a path gave.
#[derive(Debug)]
pub struct Opened {
    stamp: Stamp,
    content: Content,
    is_local: bool,
    is_settled: bool,
}

impl Opened {
    /// Asks what was opened, and reads a small file. Errors: EAGAIN where that would have to wait and must not.
    pub fn read(fd: OwnedFd, how: How) -> nix::Result<Self> {
        let file = File::from(fd);
        let stamp = Stamp::of(&fstat(&file)?);
        let is_file = how.reads && stamp.kind() == FileKind::File;
        // asked before the content is read: what is changed meanwhile is not settled
        let is_settled = is_file && stamp.is_settled();
        let is_local = is_file && how.asks_place && file::is_local(&file);
        let may_wait = how.may_wait;
        let small = (is_file && stamp.size <= SMALL_BYTES).then(|| read_small(&file, stamp.size, may_wait)).transpose()?;
        let content = match small.flatten() {
            Some(bytes) => Content::Memory(bytes.into()),
            None => Content::File(Arc::new(file)),
        };
        Ok(Self { stamp, content, is_local, is_settled })
    }

    pub fn into_found(self) -> Found {
        let Self { stamp, content, is_local, is_settled } = self;
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
                    etag: format!("\"{seconds:x}-{:x}\"", stamp.size).into(),
                    is_local,
                    is_settled,
                }))
            }
        }
    }
}

/// All of a small file; `None` where it changes its size meanwhile.
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
        Ok(_) => Err(Errno::EAGAIN), // the rest is on the disk
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EAGAIN as i32))),
    }
}
