//! A worker under somebody else's control: the test takes its control socket, its connections and its shared
//! memory, as code that runs inside it could, and speaks for it.
//!
//! Nothing here needs more rights than the worker has. The descriptors come by pidfd_getfd(2), which needs
//! the rights of a debugger; the frames are written by code of the test's own.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, SockType, UnixAddr, getsockopt, sendmsg, sockopt};

use crate::support::daemon::send;
use crate::support::{process, wait_for};

/// The position of the lanes in the shared memory of the counters, the bytes of one lane, and the bytes of
/// all.
pub const LANES_AT: u64 = 65_536;
pub const LANE_BYTES: u64 = 128;
pub const LANES_BYTES: u64 = 512 * LANE_BYTES;

pub struct Captured {
    pub pid: i32,
    pub control: OwnedFd,
    /// The sequence number of its next message.
    next: u32,
}

impl Captured {
    /// Takes over a worker that has sent nothing yet except that it is ready.
    pub fn take(pid: i32) -> Self {
        // A process that was just forked still has its master's descriptors.
        wait_for("a worker that has begun", || process::title(pid).contains("worker process").then_some(()));
        let is_control = |fd: &OwnedFd| getsockopt(fd, sockopt::SockType) == Ok(SockType::SeqPacket);
        let control = wait_for("the control socket", || descriptors(pid).into_iter().find(is_control));
        Self { pid, control, next: 2 }
    }

    /// Stops the worker, so that it does nothing by itself from now on.
    pub fn stop(self) -> Self {
        send(self.pid, Signal::SIGSTOP);
        self
    }

    /// Sends a frame of this kind with the next sequence number.
    pub fn say(&mut self, tag: u8, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let bytes = frame(tag, self.next, payload);
        self.next += 1;
        self.send(&bytes, fds);
    }

    /// Sends the same frame again and again, `most` times or until the socket is gone.
    pub fn say_endlessly(&mut self, tag: u8, payload: &[u8], fds: &[BorrowedFd<'_>], most: usize) {
        for _ in 0..most {
            let bytes = frame(tag, self.next, payload);
            match self.try_send(&bytes, fds) {
                Ok(()) => self.next += 1,
                Err(nix::Error::EAGAIN | nix::Error::ETOOMANYREFS) => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }

    /// Sends any bytes, once there is room.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        wait_for("room in the socket", || match self.try_send(bytes, fds) {
            Err(nix::Error::EAGAIN | nix::Error::ETOOMANYREFS) => None,
            // The master has already detected a violation.
            _ => Some(()),
        });
    }

    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.control.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None).map(drop)
    }

    /// Takes over the worker, among these, that has the connection to this client; also returns the
    /// connection.
    pub fn take_holder(workers: &[i32], client: SocketAddr) -> (Self, OwnedFd) {
        let held = |pid: &i32| {
            let connection = descriptors(*pid).into_iter().find(|fd| is_of(fd, client));
            connection.map(|connection| (*pid, connection))
        };
        let (pid, connection) = wait_for("a worker with the connection", || workers.iter().find_map(held));
        (Self::take(pid), connection)
    }

    /// The sockets that it can accept from.
    pub fn listeners(&self) -> Vec<OwnedFd> {
        let is_listening = |fd: &OwnedFd| socket2::SockRef::from(fd).is_listener().unwrap_or(false);
        descriptors(self.pid).into_iter().filter(is_listening).collect()
    }

    /// The memory in which all workers count: the largest that it shares.
    pub fn memory(&self) -> File {
        let folder = format!("/proc/{}/fd", self.pid);
        let entries = std::fs::read_dir(&folder).expect("it lives").flatten().map(|entry| entry.path());
        let shared = entries.filter(|path| {
            std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:pronghorn"))
        });
        let bytes = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.size());
        let largest = shared.max_by_key(bytes).expect("it shares memory");
        OpenOptions::new().read(true).write(true).open(largest).expect("it may write there")
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // A stopped worker would not notice the end of its master.
        if nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), None).is_ok() {
            send(self.pid, Signal::SIGCONT);
        }
    }
}

/// A frame: tag, zero, length of the payload, sequence number, payload.
pub fn frame(tag: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag, 0];
    bytes.extend_from_slice(&(payload.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload for handing over a connection that had one request, may stay idle for `idle_ms`, and was just
/// opened.
pub fn handover(listen: u32, idle_ms: u64) -> Vec<u8> {
    let numbers = [1, idle_ms, 1, u64::MAX];
    [&listen.to_le_bytes()[..], &numbers.map(u64::to_le_bytes).concat(), &[0, 0]].concat() // no PROXY header, no TLS
}

/// Writes one word.
pub fn poke(memory: &File, at: u64, value: u64) {
    memory.write_all_at(&value.to_le_bytes(), at).expect("it may write there");
}

/// Makes the kernel drop everything that comes to a listening socket, with a filter that cannot be removed.
pub fn drop_all_for_good(listener: &OwnedFd) {
    let mut nothing = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let set = |name, value: *const libc::c_void, bytes: usize| {
        // SAFETY: the kernel reads `bytes` bytes and the program that they point to; both outlive the call.
        let outcome = unsafe {
            libc::setsockopt(listener.as_raw_fd(), libc::SOL_SOCKET, name, value, bytes as libc::socklen_t)
        };
        // EPERM: another copy of the socket is already locked.
        assert!(outcome == 0 || nix::Error::last() == nix::Error::EPERM, "{}", nix::Error::last());
    };
    set(libc::SO_ATTACH_FILTER, (&raw const program).cast(), size_of_val(&program));
    let one: i32 = 1;
    set(libc::SO_LOCK_FILTER, (&raw const one).cast(), size_of_val(&one));
}

/// True if a process has the connection to this client.
pub fn has_connection(pid: i32, client: SocketAddr) -> bool {
    descriptors(pid).iter().any(|fd| is_of(fd, client))
}

fn is_of(fd: &OwnedFd, client: SocketAddr) -> bool {
    socket2::SockRef::from(fd).peer_addr().is_ok_and(|peer| peer.as_socket() == Some(client))
}

/// Copies of all descriptors of a process, from 3 on.
pub fn descriptors(pid: i32) -> Vec<OwnedFd> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let numbers: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // SAFETY: takes no pointers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
    if process < 0 {
        return Vec::new(); // it has just ended
    }
    // SAFETY: the kernel has just made it.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    let copy = |number: RawFd| {
        // SAFETY: takes no pointers.
        let fd =
            unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_fd().as_raw_fd(), number, 0) } as RawFd;
        // SAFETY: the kernel has just made it.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    numbers.into_iter().filter(|number| *number > 2).filter_map(copy).collect()
}
