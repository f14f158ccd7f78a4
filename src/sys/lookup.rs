//! Host names looked up by the system's resolver in a child process, concurrently, with one deadline for all.
//!
//! getaddrinfo(3) blocks, for ten seconds a name if no server answers, and the master's only thread must not
//! block. So a child looks the names up, with threads, and writes each answer into a pipe as soon as it has
//! it. The child inherits nothing from its parent but that pipe, and is killed at the deadline or when its
//! parent ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::clock;
use crate::sys::names::Answer;
use crate::sys::process::{self, Forked};
use crate::sys::signal::{self, Blocked};

/// Names looked up at the same time. Each takes a thread, and a name server drops queries that come faster.
const AT_ONCE_MAX: usize = 64;
const STACK_BYTES: usize = 512 * 1024;
/// Most addresses of one name, so that an answer fits a single atomic write to a pipe (PIPE_BUF, pipe(7)).
const ADDRESSES_MAX: usize = 128;
/// An answer's head is index, kind and count; each address is family, octets and scope.
const HEAD_BYTES: usize = 4 + 1 + 1;
const ADDRESS_BYTES: usize = 1 + 16 + 4;
const _: () = assert!(HEAD_BYTES + ADDRESSES_MAX * ADDRESS_BYTES <= libc::PIPE_BUF);

/// A lookup of several names, in progress.
///
/// Started for the names that compiling a configuration has noted. The master polls its descriptor along with
/// others and calls [`Lookup::hear`] when it is readable or the deadline has passed; a process with nothing
/// else to do calls [`Lookup::wait`]. Dropping it kills the child.
#[derive(Debug)]
pub struct Lookup {
    names: Vec<Box<str>>,
    answers: Vec<Option<Answer>>,
    /// `None` once the child has closed it.
    pipe: Option<File>,
    unread: Vec<u8>,
    child: i32,
    /// The process that started the child; only that one may end it.
    owner: i32,
    is_reaped: bool,
    deadline_ms: u64,
}

impl Lookup {
    /// Starts looking names up, until this time (monotonic clock). Errors: no child process can be created.
    pub fn start(names: Vec<Box<str>>, deadline_ms: u64) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let owner = process::pid();
        // The child never unblocks signals: one that is sent to the process group is meant for its parent.
        let _blocked = Blocked::new()?;
        match process::fork()? {
            Forked::Child => {
                process::die_with(owner);
                process::close_others(&[write.as_raw_fd()]);
                answer_all(&names, &File::from(write));
                process::exit_at_once(0)
            }
            Forked::Parent { child } => Ok(Self {
                answers: vec![None; names.len()],
                names,
                pipe: Some(read.into()),
                unread: Vec::new(),
                child,
                owner,
                is_reaped: false,
                deadline_ms,
            }),
        }
    }

    /// Readable when answers have arrived; `None` when no more will come.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// Reads the answers that have arrived. True: there is nothing more to wait for.
    pub fn hear(&mut self) -> bool {
        while let Some(pipe) = &mut self.pipe {
            let mut part = [0; 4096];
            match pipe.read(&mut part) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.unread.extend_from_slice(&part[..count]);
                    if self.take_answers().is_none() {
                        self.pipe = None; // the child writes nonsense
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.pipe = None,
            }
        }
        self.pipe.is_none()
            || self.answers.iter().all(Option::is_some)
            || clock::monotonic_ms() >= self.deadline_ms
    }

    /// Takes whole answers out of the bytes read so far. `None`: they are malformed.
    fn take_answers(&mut self) -> Option<()> {
        let mut rest = &self.unread[..];
        while let Some((head, behind)) = rest.split_at_checked(HEAD_BYTES) {
            let index = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let count = usize::from(head[5]);
            let Some((addresses, behind)) = behind.split_at_checked(count * ADDRESS_BYTES) else { break };
            let addresses: Option<Vec<SocketAddr>> = addresses.chunks(ADDRESS_BYTES).map(decode).collect();
            let place = self.answers.get_mut(index)?;
            *place = Some(match head[4] {
                b'+' if count > 0 => Answer::Found(addresses?),
                b'-' => Answer::NotFound,
                _ => return None,
            });
            rest = behind;
        }
        self.unread = rest.to_vec();
        Some(())
    }

    /// Notes that a child of this process was reaped, which may have been this one.
    pub fn note_reaped(&mut self, pid: i32) {
        self.is_reaped |= pid == self.child;
    }

    /// The answers. A name without one is `Silent` after the deadline, `NotFound` before.
    pub fn finish(mut self) -> Vec<(Box<str>, Answer)> {
        let is_late = clock::monotonic_ms() >= self.deadline_ms;
        let without = if is_late { Answer::Silent } else { Answer::NotFound };
        let names = std::mem::take(&mut self.names);
        let answers = std::mem::take(&mut self.answers);
        names.into_iter().zip(answers.into_iter().map(|answer| answer.unwrap_or(without.clone()))).collect()
    }

    /// Waits until all answers are in, for a process with nothing else to do. TERM, INT and QUIT end that process, also
    /// one that came earlier while they were blocked ([`Blocked::ending`]).
    pub fn wait(mut self) -> Vec<(Box<str>, Answer)> {
        // Signals without a handler do not end the first process of a container, so we handle them.
        let ending = signal::ending();
        let blocked = Blocked::ending();
        let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let mut ended_by = None;
        while ended_by.is_none() && !self.hear() {
            let wait_ms = self.deadline_ms.saturating_sub(clock::monotonic_ms());
            let fds = self.as_fd().into_iter().chain(signals.as_ref().ok().map(AsFd::as_fd));
            let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let timeout = PollTimeout::try_from(wait_ms.min(60_000) as u32 + 1).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut fds, timeout);
            let received = signals.as_ref().ok().and_then(|signals| signals.read_signal().ok().flatten());
            ended_by = received.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok());
        }
        drop(blocked);
        if let Some(signal) = ended_by {
            drop(self);
            let _ = ending.thread_unblock(); // the caller may have blocked it, too
            let _ = raise(signal);
            process::exit_at_once(128 + signal as i32); // reached by the first process of a container only
        }
        self.finish()
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        // A process forked by the owner has a copy of this value, but the child is not its own.
        if !self.is_reaped && process::pid() == self.owner {
            process::end_child(self.child);
        }
    }
}

/// Looks all names up and writes the answers. Runs in the child.
fn answer_all(names: &[Box<str>], pipe: &File) {
    let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..names.len()).collect());
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(index) = next else { return };
            let bytes = encode(index, &look_up(&names[index]));
            let mut pipe = pipe;
            if pipe.write_all(&bytes).is_err() {
                return; // the parent has closed its end
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..names.len().min(AT_ONCE_MAX) {
            // If no more threads can be created, those that exist do the work.
            if thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Every address of a name, IPv4 first, without duplicates. Blocks.
fn look_up(name: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in (name, 0).to_socket_addrs().into_iter().flatten() {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(SocketAddr::is_ipv6);
    found.truncate(ADDRESSES_MAX);
    found
}

fn encode(index: usize, addresses: &[SocketAddr]) -> Vec<u8> {
    let mut bytes = (index as u32).to_le_bytes().to_vec();
    bytes.push(if addresses.is_empty() { b'-' } else { b'+' });
    bytes.push(addresses.len() as u8);
    for address in addresses {
        let (family, octets, scope) = match address {
            SocketAddr::V4(v4) => (b'4', v4.ip().to_ipv6_mapped().octets(), 0),
            SocketAddr::V6(v6) => (b'6', v6.ip().octets(), v6.scope_id()),
        };
        bytes.push(family);
        bytes.extend_from_slice(&octets);
        bytes.extend_from_slice(&scope.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let (&family, rest) = bytes.split_first()?;
    let (octets, scope) = rest.split_first_chunk::<16>()?;
    let scope = u32::from_le_bytes(scope.try_into().ok()?);
    match family {
        b'4' => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(*octets.last_chunk::<4>()?)), 0)),
        b'6' => Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*octets), 0, 0, scope))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lookup without a child: the test writes into the pipe itself.
    fn scene(names: &[&str]) -> (Lookup, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe has flags");
        let lookup = Lookup {
            names: names.iter().map(|&name| name.into()).collect(),
            answers: vec![None; names.len()],
            pipe: Some(read.into()),
            unread: Vec::new(),
            child: 0,
            owner: 0,
            is_reaped: true,
            deadline_ms: u64::MAX,
        };
        (lookup, write.into())
    }

    #[test]
    fn answers_come_in_any_order_and_in_pieces() {
        let (mut lookup, mut write) = scene(&["a", "b", "c"]);
        let addresses: Vec<SocketAddr> =
            ["192.0.2.1:0", "[2001:db8::1]:0", "[fe80::1%7]:0"].map(|text| text.parse().expect("one")).into();
        let bytes = [encode(2, &addresses), encode(0, &[])].concat();
        for byte in bytes {
            assert!(!lookup.hear());
            write.write_all(&[byte]).expect("writes");
        }
        assert!(!lookup.hear(), "one is missing");
        write.write_all(&encode(1, &addresses[..1])).expect("writes");
        assert!(lookup.hear());
        let answers: Vec<Answer> = lookup.finish().into_iter().map(|(_, answer)| answer).collect();
        let found = |count| Answer::Found(addresses[..count].to_vec());
        assert_eq!(answers, [Answer::NotFound, found(1), found(3)]);
    }

    #[test]
    fn a_child_that_writes_nonsense_or_nothing_is_no_answer() {
        for bytes in [&[0, 0, 0, 9, b'-', 0][..], &[0, 0, 0, 0, b'?', 0], &[0, 0, 0, 0, b'+', 0], &[0, 0]] {
            let (mut lookup, mut write) = scene(&["a"]);
            write.write_all(bytes).expect("writes");
            drop(write);
            assert!(lookup.hear(), "{bytes:?}");
            assert_eq!(lookup.finish(), [("a".into(), Answer::NotFound)], "{bytes:?}");
        }
    }

    #[test]
    fn the_deadline_ends_the_wait_and_is_told_apart() {
        let (mut lookup, write) = scene(&["a", "b"]);
        (&write).write_all(&encode(0, &[])).expect("writes");
        lookup.deadline_ms = 0;
        assert!(lookup.hear());
        assert_eq!(lookup.finish(), [("a".into(), Answer::NotFound), ("b".into(), Answer::Silent)]);
    }

    #[test]
    fn the_system_is_asked() {
        let found = look_up("localhost");
        assert!(found.contains(&"127.0.0.1:0".parse().expect("an address")), "{found:?}");
        assert_eq!(look_up("name.invalid"), []);
    }
}
