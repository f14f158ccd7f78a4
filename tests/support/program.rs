//! Other programs that tests talk to: started in the foreground, ended with the test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::daemon;
use super::deadline::{deadline, wait_at_most};

/// A program that runs until it is dropped.
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it without input or output, as the leader of a process group.
    pub fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self { child: command.spawn().expect("the program can be run") }
    }

    /// True if it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None)) // another test may have reaped it
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        daemon::send(self.child.id() as i32, Signal::SIGTERM);
        if wait_at_most(deadline(), || self.has_ended().then_some(())).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The first of these programs that is installed. `None`: none is, and `PRONGHORN_NEED_PEERS` does not demand it;
/// then the test says so and ends.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut candidates = folders.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let found = candidates.find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("PRONGHORN_NEED_PEERS").is_none(), "none of {names:?} is installed");
        eprintln!("none of {names:?} is installed: not tested");
    }
    found
}

/// Waits until something accepts connections at this unix socket.
pub fn wait_socket(path: &std::path::Path, program: &mut Program) {
    let connects = || std::os::unix::net::UnixStream::connect(path).is_ok();
    let limit = deadline().max(Duration::from_secs(1));
    let up = wait_at_most(limit, || (connects() || program.has_ended()).then_some(()));
    assert!(up.is_some() && connects(), "{} does not come up", path.display());
}
