//! The real daemon on a small inline configuration in a temporary directory.
//!
//! The test process is a child subreaper, so every process that the daemon leaves behind becomes its child
//! and is found. Dropping a `Daemon` stops it, kills the remaining processes by their ids, and fails the test
//! if there were any.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use regex::Regex;
use tempfile::TempDir;

use super::deadline::{deadline, wait_at_most, wait_for};
use super::{port, process};

/// The parameters for starting a daemon; `Daemon::start` is the short form.
pub struct Setup {
    folder: TempDir,
    text: String,
    ports: Vec<u16>,
    level: String,
    file_name: String,
    arguments: Vec<String>,
    bare: bool,
    in_background: bool,
    alone: bool,
    variables: Vec<(String, String)>,
    prelude: String,
    sockets: Vec<OwnedFd>,
    program: PathBuf,
    without_early_log: bool,
}

/// A running daemon with its own folder and ports.
pub struct Daemon {
    folder: TempDir,
    ports: Vec<u16>,
    child: RefCell<Child>,
    /// The master: the child itself, or the process in the pid file if started in the background.
    pid: std::cell::Cell<i32>,
    file_name: String,
}

/// How long a start waits for workers that the configuration asks for, once there is one.
const OTHERS_COME_IN: Duration = Duration::from_secs(1);

/// The end of a daemon that did not come up.
#[derive(Debug)]
pub struct Exit {
    pub status: ExitStatus,
    pub stderr: String,
    pub log: String,
    /// The names of the files left in its folder.
    pub left: Vec<String>,
}

/// The program under test: `PRONGHORN_TEST_BINARY`, or else the one that cargo has built.
pub fn binary() -> PathBuf {
    std::env::var_os("PRONGHORN_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pronghorn")), PathBuf::from)
}

/// True if another daemon is tested instead of ours; tests of features that only ours has then return early.
pub fn is_stand_in() -> bool {
    std::env::var_os("PRONGHORN_TEST_BINARY")
        .is_some_and(|path| !path.to_string_lossy().contains("pronghorn"))
}

impl Setup {
    /// A configuration in which `%%PORT_0%%`, `%%PORT_1%%`… become free ports and `%%DIR%%` the daemon's
    /// folder.
    ///
    /// Support adds the lines that every foreground daemon under test needs: `daemon off`, `pid`,
    /// `error_log`, and an empty `events` block unless there is one.
    pub fn new(conf: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("pronghorn-test-").tempdir();
        let folder = folder.expect("the temporary directory takes a folder");
        std::fs::create_dir(folder.path().join("logs")).expect("the folder is new");
        let mut setup = Self {
            folder,
            text: String::new(),
            ports: Vec::new(),
            level: "debug".into(),
            file_name: "pronghorn.conf".into(),
            arguments: Vec::new(),
            bare: false,
            in_background: false,
            alone: false,
            variables: Vec::new(),
            prelude: String::new(),
            sockets: Vec::new(),
            program: binary(),
            without_early_log: false,
        };
        setup.text = setup.filled(conf);
        setup
    }

    /// Replaces `%%NAME%%`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.text = self.text.replace(&format!("%%{name}%%"), &value.to_string());
        self
    }

    /// Writes a file into the daemon's folder, creating folders as needed.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        write(&self.folder.path().join(path), content.as_ref());
        self
    }

    /// Sets the level of the error log; the default is `debug`.
    pub fn level(mut self, level: &str) -> Self {
        self.level = level.into();
        self
    }

    /// Sets the configuration's file name; `pronghorn.toml` makes it the other spelling.
    pub fn named(mut self, name: &str) -> Self {
        self.file_name = name.into();
        self
    }

    /// Adds nothing to the configuration: it is the whole file.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Adds arguments to the command line.
    pub fn arguments(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(ToString::to_string));
        self
    }

    /// Starts it as a daemon (`daemon on`) instead of in the foreground.
    pub fn in_background(mut self) -> Self {
        self.in_background = true;
        self
    }

    /// Starts it by the path `program` in the daemon's folder, where a test can put another program.
    pub fn in_its_folder(mut self) -> Self {
        self.program = self.folder.path().join("program");
        std::os::unix::fs::symlink(binary(), &self.program).expect("the folder is ours");
        self
    }

    /// Starts another program instead of the one under test.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = path.into();
        self
    }

    /// Leaves `-e` out: the daemon has no log until it has read its configuration.
    pub fn without_early_log(mut self) -> Self {
        self.without_early_log = true;
        self
    }

    /// Does not wait for workers, for `master_process off`.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Sets an environment variable for the daemon; `%%DIR%%` in it is the daemon's folder.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        let value = value.replace("%%DIR%%", &self.folder.path().display().to_string());
        self.variables.push((name.into(), value));
        self
    }

    /// Adds shell commands, such as `ulimit -n 100;`, to run before the shell executes the daemon.
    pub fn prelude(mut self, words: &str) -> Self {
        self.prelude.push_str(words);
        self
    }

    /// Passes the daemon up to two sockets, as a service manager does (sd_listen_fds(3)).
    pub fn listen_fds(mut self, sockets: Vec<OwnedFd>) -> Self {
        let script = match sockets.len() {
            1 => "exec 3<&0 </dev/null; ",
            2 => "exec 3<&0 4<&1 </dev/null >/dev/null; ",
            count => panic!("one or two sockets, not {count}"),
        };
        self.prelude =
            format!("{script} export LISTEN_PID=$$ LISTEN_FDS={}; {}", sockets.len(), self.prelude);
        self.sockets = sockets;
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    /// Starts the daemon and waits until it listens on all its ports.
    pub fn start(self) -> Daemon {
        self.try_start().unwrap_or_else(|exit| {
            panic!("the daemon did not come up: {}\n{}\n{}", exit.status, exit.stderr, exit.log)
        })
    }

    /// Starts the daemon; the error says how it ended if it did not come up.
    pub fn try_start(self) -> Result<Daemon, Exit> {
        let (in_background, alone) = (self.in_background, self.alone);
        let daemon = self.spawn();
        daemon.wait_start(in_background, alone)?;
        Ok(daemon)
    }

    /// Starts the daemon without waiting, to test the start itself.
    pub fn spawn(mut self) -> Daemon {
        become_subreaper();
        self.write_conf();
        let mut command = self.command(&[]);
        let errors = std::fs::File::create(self.folder.path().join("stderr")).expect("the folder is ours");
        let mut sockets = std::mem::take(&mut self.sockets).into_iter().map(Stdio::from);
        let mut stream = || sockets.next().unwrap_or_else(Stdio::null);
        command.stdin(stream()).stdout(stream()).stderr(errors).process_group(0);
        let child = command.spawn().expect("the program under test can be run");
        let pid = std::cell::Cell::new(child.id() as i32);
        Daemon {
            folder: self.folder,
            ports: self.ports,
            child: RefCell::new(child),
            pid,
            file_name: self.file_name,
        }
    }

    /// Runs the program with these arguments, in addition to `-p`, `-c` and `-e`, to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.write_conf();
        self.command(words).stdin(Stdio::null()).output().expect("the program under test can be run")
    }

    /// The command with `-p DIR/ -c FILE -e error.log` and these arguments.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.program, self.folder.path(), &self.file_name);
        if !self.without_early_log {
            command.arg("-e").arg(self.folder.path().join("error.log"));
        }
        command.args(&self.arguments).args(words);
        if !self.prelude.is_empty() {
            let mut shell = Command::new("sh");
            let script = format!("{} exec \"$@\"", self.prelude);
            shell.current_dir(self.folder.path()).args(["-c", &script, "sh"]);
            command = with_arguments(shell, &command);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn write_conf(&self) {
        let mut text = String::new();
        if !self.bare {
            text.push_str(if self.in_background { "daemon on;\n" } else { "daemon off;\n" });
            let folder = self.folder.path().display();
            text.push_str(&format!(
                "pid {folder}/pronghorn.pid;\nerror_log {folder}/error.log {};\n",
                self.level
            ));
            if !self.text.contains("events") {
                text.push_str("events { }\n");
            }
            if geteuid().is_root() && !has_directive(&self.text, "user") {
                text.push_str("user root;\n");
            }
        }
        text.push_str(&self.text);
        write(&self.folder.path().join(&self.file_name), text.as_bytes());
    }

    fn filled(&mut self, conf: &str) -> String {
        let mut text = conf.replace("%%DIR%%", &self.folder.path().display().to_string());
        for index in 0.. {
            let placeholder = format!("%%PORT_{index}%%");
            if !text.contains(&placeholder) {
                break;
            }
            self.ports.push(port::free());
            text = text.replace(&placeholder, &self.ports[index].to_string());
        }
        text
    }
}

impl Daemon {
    /// Starts the daemon in the foreground on this configuration; see [`Setup::new`] for the placeholders.
    pub fn start(conf: &str) -> Self {
        Setup::new(conf).start()
    }

    /// The port for `%%PORT_index%%`.
    pub fn port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    /// The master's process id.
    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// Treats another process as the master from now on, as after a binary upgrade.
    pub fn follow(&self, pid: i32) {
        self.pid.set(pid);
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The content of a file in the daemon's folder; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// The error log so far.
    pub fn log(&self) -> String {
        self.read("error.log")
    }

    /// Waits for a line of the error log that matches, and returns it.
    pub fn wait_log(&self, pattern: &str) -> String {
        self.wait_line("error.log", pattern)
    }

    /// Waits for a line that matches in a file of the daemon's folder, and returns it.
    pub fn wait_line(&self, name: &str, pattern: &str) -> String {
        let regex = Regex::new(pattern).expect("the test's pattern is valid");
        wait_for(&format!("{pattern:?} in {name}"), || {
            self.read(name).lines().find(|line| regex.is_match(line)).map(str::to_owned)
        })
    }

    /// The number of lines of the error log that match.
    pub fn log_count(&self, pattern: &str) -> usize {
        let regex = Regex::new(pattern).expect("the test's pattern is valid");
        self.log().lines().filter(|line| regex.is_match(line)).count()
    }

    /// The lines of the error log at these levels, without those about slow turns and stuck workers: on a loaded
    /// machine such complaints are justified. The levels have `|` between them.
    pub fn complaints(&self, levels: &str) -> Vec<String> {
        assert!(!levels.contains(' '), "no line has such a level: {levels}");
        let regex = Regex::new(&format!("\\[({levels})\\]")).expect("the test's pattern is valid");
        let slow = Regex::new(
            "is stuck|been stuck|responds again after|a turn of the event loop took|process [0-9]+ is in ",
        );
        let slow = slow.expect("a pattern");
        let is_one = |line: &&str| regex.is_match(line) && !slow.is_match(line);
        self.log().lines().filter(is_one).map(str::to_owned).collect()
    }

    /// The worker processes: the master's children that are alive. Waits until there is one.
    pub fn workers(&self) -> Vec<i32> {
        wait_for("a worker", || Some(self.workers_now()).filter(|workers| !workers.is_empty()))
    }

    /// The worker processes at this moment, including those that are leaving; there may be none.
    pub fn workers_now(&self) -> Vec<i32> {
        let children = process::children(self.pid());
        children
            .into_iter()
            .filter(|&pid| process::is_alive(pid) && !is_prober(pid) && !is_controller(pid))
            .filter(|&pid| !is_cache_manager(pid) && !is_keeper(pid))
            .collect()
    }

    /// The prober processes at this moment.
    pub fn probers_now(&self) -> Vec<i32> {
        let children = process::children(self.pid());
        children.into_iter().filter(|&pid| process::is_alive(pid) && is_prober(pid)).collect()
    }

    /// The cache manager processes at this moment.
    pub fn cache_managers_now(&self) -> Vec<i32> {
        let children = process::children(self.pid());
        children.into_iter().filter(|&pid| process::is_alive(pid) && is_cache_manager(pid)).collect()
    }

    /// The cache manager. Waits until there is one, and no other.
    pub fn cache_manager(&self) -> i32 {
        wait_for("a cache manager", || match self.cache_managers_now()[..] {
            [only] => Some(only),
            _ => None,
        })
    }

    /// The keepers of certificates at this moment.
    pub fn keepers_now(&self) -> Vec<i32> {
        let children = process::children(self.pid());
        children.into_iter().filter(|&pid| process::is_alive(pid) && is_keeper(pid)).collect()
    }

    /// The keeper of certificates. Waits until there is one, and no other.
    pub fn keeper(&self) -> i32 {
        wait_for("a keeper of certificates", || match self.keepers_now()[..] {
            [only] => Some(only),
            _ => None,
        })
    }

    /// The controller processes at this moment.
    pub fn controllers_now(&self) -> Vec<i32> {
        let children = process::children(self.pid());
        children.into_iter().filter(|&pid| process::is_alive(pid) && is_controller(pid)).collect()
    }

    /// The controller. Waits until there is one, and no other.
    pub fn controller(&self) -> i32 {
        wait_for("a controller", || match self.controllers_now()[..] {
            [only] => Some(only),
            _ => None,
        })
    }

    /// The prober. Waits until there is one, and no other.
    pub fn prober(&self) -> i32 {
        wait_for("a prober", || match self.probers_now()[..] {
            [only] => Some(only),
            _ => None,
        })
    }

    /// The only worker. Waits until there is one, and no other: a prober that has just been forked looks like one.
    pub fn worker(&self) -> i32 {
        wait_for("a single worker", || match self.workers_now()[..] {
            [only] => Some(only),
            _ => None,
        })
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Replaces the configuration atomically, without telling the daemon.
    pub fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let text = change(self.read(&self.file_name));
        let fresh = self.path("fresh.conf");
        write(&fresh, text.as_bytes());
        std::fs::rename(fresh, self.path(&self.file_name)).expect("the folder is ours");
    }

    /// Writes a file into the daemon's folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write(&self.path(name), content.as_ref());
    }

    /// Sends HUP and waits until every worker is of the new generation and the old ones are gone.
    pub fn reload(&self) {
        let old = self.workers();
        self.signal(Signal::SIGHUP);
        wait_for("the new workers alone", || {
            let now = self.workers_now();
            (!now.is_empty() && now.iter().all(|pid| !old.contains(pid))).then_some(())
        });
    }

    /// Sends a signal and waits until the master has ended; the status is known only in the foreground.
    pub fn stop(&self, signal: Signal) -> Option<ExitStatus> {
        self.signal(signal);
        self.wait_end()
    }

    /// Waits until the master has ended; the status is known only in the foreground.
    pub fn wait_end(&self) -> Option<ExitStatus> {
        let pid = self.pid();
        wait_for("the master to end", || {
            // Check this first: once it is gone its status is there, while a running process may end between
            // two checks.
            let has_ended = !process::is_alive(pid);
            let status = self.child.borrow_mut().try_wait().ok().flatten();
            process::reap_other(pid, self.child.borrow().id() as i32);
            has_ended.then_some(status)
        })
    }

    /// Waits for the starter of a daemon with `daemon on`, rather than for the daemon.
    pub fn wait_starter(&self) -> ExitStatus {
        let status = wait_for("the starter to end", || self.child.borrow_mut().try_wait().ok().flatten());
        if let Ok(pid) = self.read("pronghorn.pid").trim().parse() {
            self.pid.set(pid);
        }
        status
    }

    /// Runs the program on the same configuration with these arguments, such as `-s reload`, to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = command(&binary(), self.folder.path(), &self.file_name);
        command.arg("-e").arg(self.path("error.log"));
        command.args(words).stdin(Stdio::null()).output().expect("the program under test can be run")
    }

    fn wait_start(&self, in_background: bool, alone: bool) -> Result<(), Exit> {
        let (wanted, mut first_seen) = (self.configured_workers(), None);
        let came = wait_at_most(deadline(), || {
            let ended = self.child.borrow_mut().try_wait().ok().flatten();
            if let Some(status) = ended
                && !(in_background && status.success())
            {
                return Some(Err(self.exit(status)));
            }
            if in_background {
                ended?;
                self.pid.set(self.read("pronghorn.pid").trim().parse().ok()?);
            }
            let works = alone || self.has_workers(wanted, &mut first_seen);
            let listens = || self.ports.iter().all(|&port| process::is_listening(port));
            (works && listens()).then_some(Ok(()))
        });
        came.unwrap_or_else(|| panic!("the daemon did not listen in {:?}:\n{}", deadline(), self.log()))
    }

    /// The number of workers that the configuration asks for.
    fn configured_workers(&self) -> usize {
        let regex = Regex::new("worker_processes[ =]+([0-9]+|auto)").expect("the pattern is valid");
        let text = self.read(&self.file_name);
        match regex.captures(&text).map(|found| found[1].to_owned()) {
            None => 1,
            Some(word) if word == "auto" => std::thread::available_parallelism().map_or(1, usize::from),
            Some(number) => number.parse().expect("a number"),
        }
    }

    /// True once so many workers wait for clients and the master for news, or some do and the others do not come.
    fn has_workers(&self, wanted: usize, first_seen: &mut Option<Instant>) -> bool {
        let children = process::children(self.pid());
        // A worker that has just been forked still has the master's title; one that is ready sleeps, and so does the
        // master once it knows.
        let waits = |pid: i32| process::state(pid) == Some('S');
        let is_ready = |pid: &i32| process::title(*pid).contains("worker process") && waits(*pid);
        let count = children.iter().filter(|pid| is_ready(pid)).count();
        count >= wanted && waits(self.pid())
            || !children.is_empty() && first_seen.get_or_insert_with(Instant::now).elapsed() > OTHERS_COME_IN
    }

    fn exit(&self, status: ExitStatus) -> Exit {
        let files = std::fs::read_dir(self.folder()).expect("the folder is ours").flatten();
        let left = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        Exit { status, stderr: self.read("stderr"), log: self.log(), left }
    }

    /// All processes of this daemon: its tree, and orphans adopted by us that use its folder.
    fn processes(&self) -> Vec<i32> {
        let mut all = process::tree(self.pid());
        for child in process::children(std::process::id() as i32) {
            if process::touches(child, self.folder.path()) {
                all.extend(process::tree(child));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut known = self.processes();
        let mut gone = || {
            let _ = self.child.borrow_mut().try_wait();
            for pid in self.processes() {
                if !known.contains(&pid) {
                    known.push(pid);
                }
            }
            let started = self.child.borrow().id() as i32;
            known.iter().for_each(|&pid| process::reap_other(pid, started));
            known.iter().all(|&pid| !process::is_alive(pid)).then_some(())
        };
        if gone().is_none() {
            send(self.pid(), Signal::SIGTERM);
        }
        let clean = wait_at_most(deadline(), &mut gone).is_some();
        if !clean {
            let left: Vec<i32> = known.iter().copied().filter(|&pid| process::is_alive(pid)).collect();
            let titles: Vec<String> =
                left.iter().map(|&pid| format!("{pid} {}", process::title(pid))).collect();
            left.iter().for_each(|&pid| send(pid, Signal::SIGKILL));
            let started = self.child.borrow().id() as i32;
            wait_at_most(Duration::from_secs(5), || {
                let _ = self.child.borrow_mut().try_wait();
                left.iter().for_each(|&pid| process::reap_other(pid, started));
                left.iter().all(|&pid| !process::is_alive(pid)).then_some(())
            });
            if !std::thread::panicking() {
                panic!("processes left after TERM: {titles:?}\n{}", self.log());
            }
        }
        if std::thread::panicking() {
            let lines: Vec<String> = self.log().lines().map(str::to_owned).collect();
            let tail = lines.len().saturating_sub(60);
            eprintln!("--- error.log of {}\n{}", self.folder.path().display(), lines[tail..].join("\n"));
        }
    }
}

fn with_arguments(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
}

fn is_controller(pid: i32) -> bool {
    process::title(pid).contains("controller process")
}

fn is_cache_manager(pid: i32) -> bool {
    process::title(pid).contains("cache manager process")
}

fn is_keeper(pid: i32) -> bool {
    process::title(pid).contains("certificate keeper process")
}

fn is_prober(pid: i32) -> bool {
    process::title(pid).contains("prober process")
}

/// Sends a signal to one process; ignores one that is gone.
pub fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

fn command(program: &Path, folder: &Path, file_name: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).arg("-p").arg(format!("{}/", folder.display()));
    // An absolute path, since nginx takes a relative one from its prefix only after -p.
    command.arg("-c").arg(folder.join(file_name));
    command
}

fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| prctl::set_child_subreaper(true).expect("Linux has child subreapers"));
}

fn has_directive(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
}

fn write(path: &Path, content: &[u8]) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("the folder is ours");
    }
    std::fs::write(path, content).expect("the folder is ours");
}
