//! Bytes for other processes, in memory that nobody can change any more: a memfd with all seals.
//!
//! Every holder of the descriptor shares its offset, so it is read at positions. Truth: memfd_create(2), fcntl(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

/// Puts bytes into sealed memory. `name` appears only in /proc/PID/fd.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let all =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all))?;
    Ok(file.into())
}

/// True for memory of at most `bytes_max` bytes that nobody can change. Never waits: other kinds of files have no seals.
pub fn is_sealed(fd: BorrowedFd<'_>, bytes_max: usize) -> bool {
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    let is_fixed = seals.is_ok_and(|seals| {
        seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)
    });
    let length = || nix::sys::stat::fstat(fd).ok().and_then(|stat| usize::try_from(stat.st_size).ok());
    is_fixed && length().is_some_and(|length| length <= bytes_max)
}

/// Reads sealed memory of at most `bytes_max`; the copy is zeroised on drop.
pub fn read(fd: OwnedFd, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::from(fd);
    let length = file.metadata()?.len();
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes_max);
    let length = length.ok_or_else(|| io::Error::other("too long"))?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_of_the_descriptor_reads_the_same_and_none_writes() {
        let fd = seal("test", b"secret").expect("memory");
        for _ in 0..2 {
            assert_eq!(read(fd.try_clone().expect("a copy"), 6).expect("bytes").as_slice(), b"secret");
        }
        assert!(read(fd.try_clone().expect("a copy"), 5).is_err(), "longer than asked for");
        let file = File::from(fd);
        assert!(file.write_at(b"S", 0).is_err() && file.set_len(3).is_err());
    }

    #[test]
    fn only_memory_that_nobody_can_change_counts_as_sealed() {
        use std::os::fd::AsFd;
        let fd = seal("test", b"secret").expect("memory");
        assert!(is_sealed(fd.as_fd(), 6) && !is_sealed(fd.as_fd(), 5));
        let open = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memory");
        assert!(!is_sealed(open.as_fd(), 6));
        let (pipe, _writer) = nix::unistd::pipe().expect("a pipe");
        assert!(!is_sealed(pipe.as_fd(), 6));
    }
}
