//! Messages with descriptors between the master and its workers, and between two masters: SOCK_SEQPACKET, SCM_RIGHTS.
//!
//! The sender may be hostile. Every descriptor that the kernel has installed gets an owner before anything
//! else is looked at, however many there are and whatever was cut off, so that no message can leak one.
//! Truth: unix(7), recvmsg(2), cmsg(3).

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair,
};

/// Most descriptors that the kernel passes in one message (SCM_MAX_FD, unix(7)).
const FDS_MAX: usize = 253;

/// Room for the control message of that many descriptors; in words, so that it is aligned for its header.
const CONTROL_WORDS: usize = (FDS_MAX * size_of::<RawFd>() + 64) / size_of::<u64>();

/// One received message.
#[derive(Debug)]
pub struct Message {
    /// Bytes written into the buffer. 0: the other end is closed or shut down, or sent an empty message.
    pub length: usize,
    /// All descriptors that arrived; closed when dropped.
    pub fds: Vec<OwnedFd>,
    /// The message was longer than the buffer (MSG_TRUNC).
    pub is_cut: bool,
    /// Descriptors were lost: this process cannot have more of them (MSG_CTRUNC).
    pub has_lost_fds: bool,
}

/// Creates a connected pair; both ends are non-blocking and closed on exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Sends one whole message. Errors: EAGAIN if the receiver is behind.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let messages = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        return match sendmsg::<UnixAddr>(fd.as_raw_fd(), &[IoSlice::new(bytes)], messages, flags, None) {
            Err(nix::Error::EINTR) => continue,
            // Too many descriptors are in flight already (unix(7)): try again later, as for EAGAIN.
            Err(nix::Error::ETOOMANYREFS) => Err(nix::Error::EAGAIN),
            outcome => outcome.map(drop),
        };
    }
}

/// Receives one message into `buffer`, with all its descriptors.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Message> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr of zeroes is valid: no name, no buffers, no flags.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let length = loop {
        // SAFETY: the header points to the caller's buffer and the control space, with their true sizes; both
        // outlive the call, and the kernel writes only inside them.
        let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
        match usize::try_from(length) {
            Ok(length) => break length,
            Err(_) if nix::Error::last() == nix::Error::EINTR => {}
            Err(_) => return Err(nix::Error::last()),
        }
    };
    let fds = take_fds(&header);
    Ok(Message {
        length,
        fds,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        has_lost_fds: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Takes ownership of the descriptors in the control messages of a received header. nix's own iterator
/// returns an error for a truncated message, and leaks the descriptors in it.
fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled the header, so its control space holds whole control messages, one after the
    // other, up to its length. CMSG_FIRSTHDR and CMSG_NXTHDR stay inside and return null at the end
    // (cmsg(3)).
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: not null, so a header inside the control space, which is aligned for it.
        let control = unsafe { &*next };
        if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: arithmetic only.
            let header_bytes = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (control.cmsg_len as usize).saturating_sub(header_bytes) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptors after this header. They are new in this
                // process and have no other owner; each is read once. They need not be aligned.
                fds.push(unsafe {
                    let data = libc::CMSG_DATA(next).cast::<RawFd>();
                    OwnedFd::from_raw_fd(data.add(index).read_unaligned())
                });
            }
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Counts the descriptors of this process that refer to `of`. Other tests open and close files meanwhile,
    /// so that a count of all descriptors would tell nothing.
    fn open_copies(of: &std::fs::File) -> usize {
        use std::os::unix::fs::MetadataExt;
        let own = of.metadata().expect("open");
        let entries = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
        let is_copy = |entry: &std::fs::DirEntry| {
            std::fs::metadata(entry.path())
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (own.dev(), own.ino()))
        };
        entries.filter(is_copy).count()
    }

    #[test]
    fn every_descriptor_of_a_message_is_owned() {
        let file = tempfile::tempfile().expect("a file");
        let (ours, theirs) = pair().expect("a pair");
        for count in [0, 1, 2, 8, 9, 100, 253] {
            let fds = vec![file.as_fd(); count];
            send(theirs.as_fd(), b"x", &fds).expect("sent");
            let message = receive(ours.as_fd(), &mut [0; 16]).expect("one message");
            assert_eq!((message.length, message.fds.len()), (1, count));
            assert!(!message.is_cut && !message.has_lost_fds);
            assert_eq!(open_copies(&file), 1 + count);
            drop(message);
            assert_eq!(open_copies(&file), 1, "{count} descriptors");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_and_says_so() {
        let file = tempfile::tempfile().expect("a file");
        let (ours, theirs) = pair().expect("a pair");
        send(theirs.as_fd(), &[7; 17], &[file.as_fd()]).expect("sent");
        let message = receive(ours.as_fd(), &mut [0; 16]).expect("one message");
        assert_eq!((message.length, message.fds.len(), message.is_cut), (16, 1, true));
        assert_eq!(receive(ours.as_fd(), &mut [0; 16]).map(|_| ()), Err(nix::Error::EAGAIN));
    }
}
