//! Memory shared by processes: a sealed memfd, mapped for as long as the process lives.
//!
//! Pages cost nothing until they are touched. The descriptor may be passed to another process (a binary
//! upgrade), which maps the same words. Truth: memfd_create(2), mmap(2), madvise(2).
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};

/// Words shared by all processes that map them.
///
/// The mapping is never unmapped, so the words may be referred to with `'static`. All access is atomic.
#[derive(Debug)]
pub struct Shared {
    fd: OwnedFd,
    words: &'static [AtomicU64],
}

/// Creates and maps `bytes` (rounded up to whole pages) of zeroes. `name` appears only in /proc/PID/maps.
pub fn shared(name: &str, bytes: usize) -> io::Result<Shared> {
    let bytes = bytes.max(1).next_multiple_of(page_bytes());
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?)?;
    // Sealed, so that no process can shrink it: access to a page that is gone would raise SIGBUS.
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    map(fd, bytes)
}

/// Maps memory that another process created with `shared`. Errors: the descriptor is not sealed, so that it
/// could shrink.
pub fn adopt(fd: OwnedFd) -> io::Result<Shared> {
    let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)?;
    if seals & SealFlag::F_SEAL_SHRINK.bits() == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory is not sealed"));
    }
    let bytes = nix::sys::stat::fstat(&fd)?.st_size;
    map(fd, usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?)
}

impl Shared {
    pub fn words(&self) -> &'static [AtomicU64] {
        self.words
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Keeps the mapping out of core files, in this process and those that it forks. For memory with keys.
    pub fn leave_out_of_dumps(&self) -> io::Result<()> {
        // SAFETY: advice on a whole mapping of ours; it changes no contents and no access.
        unsafe {
            madvise(NonNull::from(self.words).cast(), size_of_val(self.words), MmapAdvise::MADV_DONTDUMP)?
        };
        Ok(())
    }

    /// Returns the memory of `range` (in words, on page boundaries) to the system, for all processes; the
    /// words read as zero from then on. Errors: the range is out of bounds, or not of whole pages.
    pub fn clear(&self, range: Range<usize>) -> io::Result<()> {
        let part = self.words.get(range).ok_or(io::ErrorKind::InvalidInput)?;
        let start = NonNull::from(part).cast();
        if !start.addr().get().is_multiple_of(page_bytes()) || !size_of_val(part).is_multiple_of(page_bytes())
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if part.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is whole pages of a mapping of ours that is never unmapped. MADV_REMOVE punches a
        // hole into the memfd: the words become zero, a valid value of every atomic, and the addresses stay
        // mapped.
        unsafe { madvise(start, size_of_val(part), MmapAdvise::MADV_REMOVE)? };
        Ok(())
    }
}

fn map(fd: OwnedFd, bytes: usize) -> io::Result<Shared> {
    let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: no address is requested, so no existing mapping is replaced.
    let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &fd, 0)? };
    let words = NonNull::slice_from_raw_parts(start.cast::<AtomicU64>(), bytes / size_of::<AtomicU64>());
    // SAFETY: the mapping is page aligned, `bytes` long, readable and writable, never unmapped, and cannot
    // shrink (sealed). All processes touch it through atomics only, and any bits are a valid AtomicU64.
    let words: &'static [AtomicU64] = unsafe { words.as_ref() };
    Ok(Shared { fd, words })
}

fn page_bytes() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(4096)
}

/// Bytes of the mapping that are in memory now, for tests and reports.
pub fn resident_bytes(shared: &Shared) -> io::Result<u64> {
    // A memfd's blocks are the pages that have been touched.
    Ok(nix::sys::stat::fstat(&shared.fd)?.st_blocks as u64 * 512)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn two_mappings_of_one_descriptor_are_the_same_words() {
        let first = shared("test", 10_000).expect("maps");
        assert_eq!(first.words().len() * 8 % page_bytes(), 0);
        let second = adopt(first.as_fd().try_clone_to_owned().expect("dup")).expect("adopts");
        first.words()[3].store(7, Relaxed);
        assert_eq!(second.words()[3].load(Relaxed), 7);
        second.clear(0..page_bytes() / 8).expect("clears");
        assert_eq!(first.words()[3].load(Relaxed), 0);
        assert!(second.clear(1..page_bytes() / 8).is_err());
        assert!(second.clear(0..usize::MAX).is_err());
    }

    /// The flags in smaps say it: "dd" is "do not include area into core dump" (proc(5)).
    #[test]
    fn secret_memory_is_not_in_core_files() {
        let memory = shared("test-secret", 4096).expect("maps");
        let flags = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").expect("proc");
            let start = format!("{:x}-", memory.words().as_ptr().addr());
            let own = smaps.lines().skip_while(|line| !line.starts_with(&start));
            own.map(str::to_owned).find(|line| line.starts_with("VmFlags:")).expect("flags")
        };
        assert!(!flags().contains(" dd"), "{}", flags());
        memory.leave_out_of_dumps().expect("advised");
        assert!(flags().contains(" dd"), "{}", flags());
    }

    #[test]
    fn untouched_pages_cost_nothing() {
        let memory = shared("test", 1 << 30).expect("maps");
        memory.words()[100_000].store(1, Relaxed);
        assert!(resident_bytes(&memory).expect("stat") <= page_bytes() as u64);
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let file = tempfile::tempfile().expect("a file");
        assert!(adopt(file.into()).is_err());
    }
}
