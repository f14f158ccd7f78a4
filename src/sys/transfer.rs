//! Moving bytes inside the kernel: sendfile(2) from a file, splice(2) through a pipe.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};

/// Requested capacity of a pipe: few calls for a large body, little kernel memory for a slow reader.
const PIPE_BYTES: i32 = 256 * 1024;
/// Empty pipes that a worker keeps for reuse.
const KEPT_PIPES_MAX: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<(OwnedFd, OwnedFd, usize)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe from the worker's pool. When dropped, an empty one returns to the pool and any other is closed:
/// bytes of one connection must never reach another.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<(OwnedFd, OwnedFd, usize)>,
    held: usize,
}

impl Pipe {
    pub fn take() -> io::Result<Self> {
        let ends = match KEPT.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => {
                let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
                // Beyond the user's limit (pipe-user-pages-soft) the pipe keeps its default size.
                let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).unwrap_or(65_536);
                (reader, writer, usize::try_from(size).unwrap_or(65_536))
            }
        };
        Ok(Self { ends: Some(ends), held: 0 })
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `length` bytes from a socket into the empty pipe. Zero: end of the stream.
    pub fn fill(&mut self, source: BorrowedFd<'_>, length: u64) -> nix::Result<usize> {
        let Some((_, writer, size)) = &self.ends else { return Ok(0) };
        let length = (*size as u64).min(length) as usize;
        let count = nix::fcntl::splice(source, None, writer.as_fd(), None, length, flags())?;
        self.held += count;
        Ok(count)
    }

    /// Reads all of the pipe's bytes into memory.
    pub fn take_bytes(&mut self) -> nix::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let Some((reader, _, _)) = &self.ends else { return Ok(bytes) };
        while self.held > 0 {
            let at = bytes.len() - self.held;
            match nix::unistd::read(reader, &mut bytes[at..]) {
                Ok(0) => return Err(nix::Error::EPIPE),
                Ok(count) => self.held -= count,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Moves the pipe's bytes to a socket. Without SPLICE_F_MORE, which would hold the last, partial segment
    /// back for 200 ms whenever the source pauses.
    pub fn drain(&mut self, target: BorrowedFd<'_>) -> nix::Result<usize> {
        let Some((reader, _, _)) = &self.ends else { return Ok(0) };
        let count = nix::fcntl::splice(reader.as_fd(), None, target, None, self.held, flags())?;
        self.held -= count;
        Ok(count)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take().filter(|_| self.held == 0) {
            let _ = KEPT.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < KEPT_PIPES_MAX {
                    kept.push(ends);
                }
            });
        }
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// Sends at most `length` bytes of a file from `offset` on. Zero: the file ends there.
pub fn send_file(
    target: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    length: u64,
) -> nix::Result<usize> {
    let mut offset = i64::try_from(offset).map_err(|_| nix::Error::EOVERFLOW)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    nix::sys::sendfile::sendfile(target, file, Some(&mut offset), length)
}
