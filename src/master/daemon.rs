//! Going to the background: the starter returns only when the workers are ready, or with the reason of a
//! failure.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use crate::log;
use crate::sys::process::{self, Forked};

/// The end of the pipe on which the starter waits.
#[derive(Debug)]
pub struct Starter(File);

impl Starter {
    /// Releases the starter's terminal, and tells the starter that the daemon serves.
    pub fn ready(mut self) {
        log::take_stderr();
        let _ = self.0.write_all(b"0");
    }
}

/// Forks into the background. The calling process exits here: with 0 once the daemon says that it is ready,
/// with 1 if it ends without.
pub fn detach() -> io::Result<Starter> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match process::fork()? {
        Forked::Parent { .. } => {
            drop(write);
            std::process::exit(wait(read));
        }
        Forked::Child => {
            nix::unistd::setsid()?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            process::redirect(null.as_fd(), 0)?;
            process::redirect(null.as_fd(), 1)?;
            Ok(Starter(write.into()))
        }
    }
}

fn wait(read: OwnedFd) -> i32 {
    let mut answer = [0];
    match File::from(read).read(&mut answer) {
        Ok(1) => 0,
        _ => 1,
    }
}
