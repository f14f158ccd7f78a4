//! Signals as something to read: each arrives on a descriptor, with the process that sent it.
//!
//! signal-hook's handlers write to a socket pair. A child that was forked must drop its inherited `Signals`
//! first: until then a signal for the child lands in the parent's socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub number: i32,
    /// The sender, when the kernel tells.
    pub sender: Option<i32>,
}

/// The signals of this process, as a descriptor that becomes readable.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
}

impl Signals {
    /// Installs handlers for these signals.
    pub fn new(numbers: &[i32]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), numbers)?;
        Ok(Self { delivery })
    }

    /// Readable when signals have arrived.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    /// The signals that have arrived since the last call; equal ones may have become one.
    pub fn take(&mut self) -> Vec<Received> {
        // One byte came for each signal; the handlers themselves keep which and from whom.
        let mut drain = [0; 256];
        while matches!(io::Read::read(&mut self.delivery.get_read(), &mut drain), Ok(count) if count > 0) {}
        let received = |origin: signal_hook::iterator::exfiltrator::origin::Origin| Received {
            number: origin.signal,
            sender: origin.process.map(|process| process.pid),
        };
        self.delivery.pending().map(received).collect()
    }
}

/// Blocks all signals of this thread until the guard is dropped: around a fork, so that none is lost or
/// reaches the wrong process.
#[derive(Debug)]
pub struct Blocked(SigSet);

impl Blocked {
    pub fn new() -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        Ok(Self(before))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Lets a system call fail where it would end the process by a signal, until the process executes another program.
///
/// SIGXFSZ is for writing past the limit of file sizes, which also counts for shared memory.
pub fn survive(number: i32) {
    // A handler that does next to nothing: one that ignores would be inherited by what we execute.
    let _ = signal_hook::flag::register(number, Arc::default());
}

/// Unblocks every signal: a process that was started with some blocked would never see them.
pub fn unblock_all() {
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Sends a signal to a process. Errors: no such process, not permitted.
pub fn send(pid: i32, number: i32) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(number)?;
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)?)
}

/// `SIGHUP` for 1.
pub fn name(number: i32) -> &'static str {
    nix::sys::signal::Signal::try_from(number).map_or("unknown signal", nix::sys::signal::Signal::as_str)
}
