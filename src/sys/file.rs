//! Opening and reading served files without waiting for a disk, where the kernel supports that.
//!
//! `openat2(RESOLVE_CACHED)` and `preadv2(RWF_NOWAIT)` fail with EAGAIN where they would have to wait. The
//! caller then hands the work to another thread.

#![allow(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;

/// openat2 does not work: the kernel is too old, or a seccomp filter blocks it.
static IS_OLD: AtomicBool = AtomicBool::new(false);

/// For reading; never waits for the other end of a FIFO.
pub const READ: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC).union(OFlag::O_NOCTTY);
/// For stat only; needs no permission to read.
pub const ASK: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Opens a path if every part of it is cached. Errors: EAGAIN if a disk, or another machine, would have to be
/// asked; otherwise those of open(2).
pub fn open_cached(path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    if IS_OLD.load(Ordering::Relaxed) {
        return open(path, flags, Mode::empty());
    }
    match open_resolved(AT_FDCWD, path, flags, libc::RESOLVE_CACHED) {
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {
            let opened = open(path, flags, Mode::empty());
            // EPERM and EINVAL may also come from the file itself.
            if !matches!(opened, Err(Errno::EPERM | Errno::EINVAL)) {
                IS_OLD.store(true, Ordering::Relaxed);
            }
            opened
        }
        other => other,
    }
}

/// Bytes of the filesystem of a path that users without privileges may use. Errors: those of statvfs(3).
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let there = statvfs(path)?;
    Ok(there.blocks_available().saturating_mul(there.fragment_size()))
}

/// Opens a path, waiting for the disk if need be.
pub fn open_waiting(path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    open(path, flags, Mode::empty())
}

/// Reads all of a regular file, with what is known of it. A named pipe, which might be waited for, is an error, and so is a
/// file of more than `bytes_max`.
pub fn read_regular(path: &Path, bytes_max: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).map_err(io::Error::other)?);
    file.by_ref().take(bytes_max).read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

/// Opens a path below a directory; no part of the path may be a symbolic link. Errors: ELOOP if one is.
pub fn open_without_links(directory: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    open_resolved(directory, path, flags, libc::RESOLVE_NO_SYMLINKS)
}

fn open_resolved(directory: impl AsFd, path: &[u8], flags: OFlag, resolve: u64) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::from_bits_retain(resolve));
    openat2(directory, path, how)
}

/// Reads the bytes at `offset` that are in memory, up to the first that is not. Errors: `WouldBlock` if none
/// are.
pub fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let Ok(offset) = i64::try_from(offset) else { return Ok(0) };
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the only vector is `buffer`, which is borrowed mutably until the call returns.
    let count = unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, offset, libc::RWF_NOWAIT) };
    match Errno::result(count) {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        // the file system does not support RWF_NOWAIT
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Err(io::ErrorKind::WouldBlock.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Fills `buffer` from `offset` on, waiting for the disk. Returns fewer bytes only at the end of the file.
pub fn read_waiting(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether the byte at `offset` is in memory. True on an error too: the real read will report it.
fn is_cached(file: &File, offset: u64) -> bool {
    let outcome = read_cached(file, &mut [0], offset);
    !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Distance of the bytes that are probed: the kernel's read-ahead is of this order.
const STEP_BYTES: u64 = 256 * 1024;

/// Estimates how many of `length` bytes from `offset` on can be sent without waiting for a disk: one byte of
/// each step and the last one are probed.
pub fn cached_bytes(file: &File, offset: u64, length: u64) -> u64 {
    let mut done = 0;
    while done < length {
        if !is_cached(file, offset + done) {
            return done;
        }
        done += STEP_BYTES.min(length - done);
    }
    if length == 0 || is_cached(file, offset + length - 1) {
        length
    } else {
        (length - 1) / STEP_BYTES * STEP_BYTES
    }
}

/// Reads these bytes into the page cache, waiting for the disk.
pub fn warm(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mut scratch = vec![0; 64 * 1024];
    let mut done = 0;
    while done < length {
        let room = scratch.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        match read_waiting(file, &mut scratch[..room], offset + done)? {
            0 => break,
            count => done += count as u64,
        }
    }
    Ok(())
}

/// The kind of storage that a file is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A disk of this machine: `stat` answers at once and shows every change.
    Disk,
    /// Memory (tmpfs): likewise, except for changes through a mapping.
    Memory,
    /// Another machine, or unknown.
    Elsewhere,
}

/// Asks the kernel for the kind of file system.
pub fn place(file: &File) -> Place {
    const DISKS: [i64; 11] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x794c_7630, // overlayfs
        0xf2f5_2010, // f2fs
        0x2fc1_2fc1, // zfs
        0xca45_1a4e, // bcachefs
        0x7371_7368, // squashfs
        0xe0f5_e1e2, // erofs
        0x9660,      // iso9660
        0x4d44,      // vfat
    ];
    const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6]; // tmpfs, ramfs
    match nix::sys::statfs::fstatfs(file).map(|found| found.filesystem_type().0) {
        Ok(kind) if DISKS.contains(&kind) => Place::Disk,
        Ok(kind) if MEMORY.contains(&kind) => Place::Memory,
        _ => Place::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_just_written_is_in_memory() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 300_000]).unwrap();
        let opened = File::from(open_cached(file.path().as_os_str().as_encoded_bytes(), READ).unwrap());
        assert_eq!(cached_bytes(&opened, 0, 300_000), 300_000);
        let mut buffer = [0; 10];
        assert_eq!(read_cached(&opened, &mut buffer, 299_995).unwrap(), 5);
        assert_eq!(&buffer[..6], &[7, 7, 7, 7, 7, 0]);
        assert_eq!(read_cached(&opened, &mut buffer, 300_000).unwrap(), 0);
        warm(&opened, 0, 300_000).unwrap();
    }

    #[test]
    fn what_was_pushed_out_of_memory_is_known_to_be() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 3_000_000]).unwrap();
        file.as_file().sync_all().unwrap();
        let is_memory = place(file.as_file()) == Place::Memory;
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // The kernel takes it as advice, and keeps pages that a processor still has in its list of new ones.
        let is_pushed_out = (0..1000).any(|_| {
            nix::fcntl::posix_fadvise(file.as_file(), 0, 0, advice).unwrap();
            std::thread::yield_now();
            cached_bytes(file.as_file(), 0, 3_000_000) == 0
        });
        assert_ne!(is_pushed_out, is_memory);
        warm(file.as_file(), 0, 3_000_000).unwrap();
        assert_eq!(cached_bytes(file.as_file(), 0, 3_000_000), 3_000_000);
        assert_eq!(cached_bytes(file.as_file(), 5, 0), 0);
    }

    #[test]
    fn links_are_refused_where_they_may_not_be() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
        let directory = File::open(folder.path()).unwrap();
        assert!(open_without_links(directory.as_fd(), b"a/file", READ).is_ok());
        assert_eq!(open_without_links(directory.as_fd(), b"link/file", READ).unwrap_err(), Errno::ELOOP);
        assert_eq!(open_without_links(directory.as_fd(), b"b", READ).unwrap_err(), Errno::ENOENT);
    }
}
