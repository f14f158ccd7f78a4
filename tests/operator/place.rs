//! A folder with a configuration and the settings of the init script, and the processes started from it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::support::daemon::{binary, send};
use crate::support::{port, process, wait_for};

/// A file of the repository.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// True if this machine has a program.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end. Processes that it leaves in the background may keep its output open.
pub fn run(command: &mut Command) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let file = |path: &Path| File::create(path).expect("the folder is ours");
    let status = command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).status();
    let text =
        |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("the folder is ours")).into_owned();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Outcome { code: status.code(), out: text(&out), err: text(&err) }
}

/// A prefix whose path has a space, with a program that can be replaced, and one port.
pub struct Place {
    folder: TempDir,
    port: u16,
    settings: String,
}

impl Place {
    /// `more` goes into the main context, `server` after `listen`.
    pub fn new(more: &str, server: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("pronghorn test ").tempdir().expect("a folder");
        // Other users, for whom the script is run, need access.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        std::fs::create_dir(folder.path().join("logs")).expect("the folder is new");
        let place = Self { folder, port: port::free(), settings: String::new() };
        std::os::unix::fs::symlink(binary(), place.path("pronghorn")).expect("the folder is new");
        let folder = place.path("");
        let folder = folder.display();
        place
            .set(&format!("DAEMON=\"{folder}pronghorn\"\nPREFIX=\"{folder}\"\nLOCKFILE=\"{folder}lock/p\"\n"))
            .with_conf(more, server)
    }

    fn with_conf(self, more: &str, server: &str) -> Self {
        self.conf(more, server);
        self
    }

    /// Adds lines to the settings.
    pub fn set(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self.write("settings", &self.settings);
        self
    }

    /// Writes the configuration.
    pub fn conf(&self, more: &str, server: &str) {
        let user = if geteuid().is_root() { "user root;" } else { "" };
        let listen = format!("listen 127.0.0.1:{};", self.port);
        let http = format!("http {{ server {{ {listen} {server} }} }}");
        self.write("pronghorn.conf", &format!("{user}\npid main.pid;\n{more}\nevents {{ }}\n{http}\n"));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the folder is ours");
    }

    /// The init script with one action.
    pub fn script(&self, action: &str) -> Command {
        let mut command = Command::new(shipped("scripts/init.d/pronghorn"));
        command.arg(action).env("PRONGHORN_DEFAULTS", self.path("settings"));
        command
    }

    /// Runs an action of the init script.
    pub fn act(&self, action: &str) -> Outcome {
        run(&mut self.script(action))
    }

    /// Runs an action that must end with this status.
    pub fn expect(&self, action: &str, code: i32) -> Outcome {
        let outcome = self.act(action);
        let log = std::fs::read_to_string(self.path("logs/error.log")).unwrap_or_default();
        assert_eq!(outcome.code, Some(code), "{action}: {outcome:?}\n{log}");
        outcome
    }

    /// The process id in the pid file.
    pub fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.path("main.pid")).ok()?.trim().parse().ok()
    }

    /// The process id in the pid file; the process is alive.
    pub fn master(&self) -> i32 {
        let pid = self.pid().expect("there is a pid file");
        assert!(process::is_alive(pid));
        pid
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in ["main.pid.oldbin", "main.pid"] {
            let pid = std::fs::read_to_string(self.path(name)).ok().and_then(|text| text.trim().parse().ok());
            let Some(pid) = pid.filter(|&pid| process::title(pid).contains("pronghorn")) else { continue };
            let all = process::tree(pid);
            send(pid, Signal::SIGTERM);
            wait_for("the daemon to end", || {
                all.iter().for_each(|&pid| process::reap_other(pid, 0));
                all.iter().all(|&pid| !process::is_alive(pid)).then_some(())
            });
        }
    }
}
