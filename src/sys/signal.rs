//! Signals that are read from a descriptor, each with the process that sent it.
//!
//! signal-hook's handlers write to a socket pair. A forked child must first drop its inherited `Signals`:
//! until then a signal for the child ends up in the parent's socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub number: i32,
    /// The sender, if the kernel tells.
    pub sender: Option<i32>,
}

/// The signals of this process, as a descriptor that becomes readable. The master and each worker own one.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<Arc<UnixStream>, WithOrigin>,
    /// Dropped after the handlers: one that wrote into a closed pair would raise SIGPIPE, whose handler writes too, for
    /// ever (test: handlers_never_write_into_a_closed_pair).
    read: Arc<UnixStream>,
}

impl Signals {
    /// Installs handlers for these signals.
    pub fn new(numbers: &[i32]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        let read = Arc::new(read);
        let delivery = SignalDelivery::with_pipe(Arc::clone(&read), write, WithOrigin::default(), numbers)?;
        Ok(Self { delivery, read })
    }

    /// Readable when signals have arrived.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The signals that have arrived since the last call; equal ones may have become one.
    pub fn take(&mut self) -> Vec<Received> {
        // The socket has one byte for each signal; its number and sender are kept by the handlers.
        let mut drain = [0; 256];
        while matches!(io::Read::read(&mut &*self.read, &mut drain), Ok(count) if count > 0) {}
        let received = |origin: signal_hook::iterator::exfiltrator::origin::Origin| Received {
            number: origin.signal,
            sender: origin.process.map(|process| process.pid),
        };
        self.delivery.pending().map(received).collect()
    }
}

/// The signals by which somebody wants a process to end.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Blocks signals in this thread until the guard is dropped.
#[derive(Debug)]
pub struct Blocked(SigSet);

impl Blocked {
    /// Blocks all signals. Used around a fork, so that no signal is lost or reaches the wrong process.
    pub fn new() -> io::Result<Self> {
        Self::set(SigmaskHow::SIG_SETMASK, &SigSet::all())
    }

    /// Blocks TERM, INT and QUIT. The kernel keeps one that arrives meanwhile even if it is ignored, as INT is in the
    /// background jobs of a shell without job control.
    pub fn ending() -> io::Result<Self> {
        Self::set(SigmaskHow::SIG_BLOCK, &ending())
    }

    fn set(how: SigmaskHow, signals: &SigSet) -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(how, Some(signals), Some(&mut before))?;
        Ok(Self(before))
    }
}

/// TERM, INT and QUIT.
pub fn ending() -> SigSet {
    SigSet::from_iter(ENDING)
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Makes a system call fail instead of ending the process by this signal, until the process executes another
/// program.
///
/// SIGXFSZ is raised by writes beyond the limit on file sizes, which applies to shared memory too.
pub fn survive(number: i32) {
    // A handler that does next to nothing: SIG_IGN would be inherited by programs that we execute.
    let _ = signal_hook::flag::register(number, Arc::default());
}

/// Sets the flag when somebody wants this process to end (SIGTERM, SIGHUP, SIGINT), instead of ending it.
pub fn note_end(flag: &Arc<AtomicBool>) -> io::Result<()> {
    for number in [nix::libc::SIGTERM, nix::libc::SIGHUP, nix::libc::SIGINT] {
        signal_hook::flag::register(number, Arc::clone(flag))?;
    }
    Ok(())
}

/// Unblocks every signal: a process started with some of them blocked would never see them.
pub fn unblock_all() {
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Sends a signal to a process. Errors: no such process, not permitted.
pub fn send(pid: i32, number: i32) -> io::Result<()> {
    let signal = Signal::try_from(number)?;
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)?)
}

/// The name of a signal: `SIGHUP` for 1.
pub fn name(number: i32) -> &'static str {
    Signal::try_from(number).map_or("unknown signal", Signal::as_str)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::libc::{SIGCONT, SIGPIPE};

    use super::*;

    #[test]
    fn handlers_never_write_into_a_closed_pair() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    send(std::process::id().cast_signed(), SIGCONT).expect("our own process");
                }
            });
            for _ in 0..2000 {
                drop(Signals::new(&[SIGCONT, SIGPIPE]).expect("a pair"));
            }
            stop.store(true, Ordering::SeqCst);
        });
    }
}
