//! A small Debian in a folder, made of this machine's own files: a shell, the programs that maintainer
//! scripts call, and dpkg's list of the libraries. Needs root, for chroot(2).

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::place::{Outcome, has, run};
use crate::support::daemon::send;
use crate::support::{process, wait_for};

const PROGRAMS: &str = "sh echo cat ls rm rmdir mv cp mkdir chmod chown ln basename dirname readlink sleep sed grep awk env \
                        head tail sort uniq find xargs expr getent tr id cut touch perl dpkg invoke-rc.d update-rc.d deb-systemd-helper \
                        deb-systemd-invoke";

/// The packages that a chroot of these files has.
const PACKAGES: [&str; 4] = ["libc6", "libgcc-s1", "gcc-12-base", "init-system-helpers"];

pub struct ScratchRoot {
    folder: TempDir,
    is_over: Arc<AtomicBool>,
}

/// Reaps the daemons of a pid file. The test process may be the one that adopts them, and inside the root,
/// which has no /proc, an ended process looks alive until it is reaped.
fn reap(pid_file: PathBuf, is_over: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut known = BTreeSet::new();
        while !is_over.load(Ordering::Relaxed) {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            known.extend(text.trim().parse::<i32>().ok());
            known.iter().for_each(|&pid| process::reap_other(pid, 0));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

impl ScratchRoot {
    /// `None` if this machine cannot provide it; the reason is printed.
    pub fn new(program: &Path) -> Option<Self> {
        if !has("dpkg") || !has("dpkg-deb") {
            eprintln!("skipped: dpkg is not here, so this is no Debian");
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a scratch root needs root");
            return None;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let root = Self { folder: tempfile::tempdir().expect("a folder"), is_over: is_over.clone() };
        reap(root.path("run/pronghorn.pid"), is_over);
        for folder in
            ["etc/init.d", "dev", "proc", "tmp", "run", "var/log", "var/cache", "var/lib/dpkg/info", "usr"]
        {
            std::fs::create_dir_all(root.path(folder)).expect("the folder is new");
        }
        std::fs::set_permissions(root.path(""), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::fs::create_dir(root.path("usr").join(name)).expect("the folder is new");
            symlink(format!("usr/{name}"), root.path(name)).expect("the folder is new");
        }
        for level in ["0", "1", "2", "3", "4", "5", "6", "S"] {
            std::fs::create_dir(root.path(&format!("etc/rc{level}.d"))).expect("the folder is new");
        }
        for name in ["etc/passwd", "etc/group", "etc/nsswitch.conf"] {
            std::fs::copy(Path::new("/").join(name), root.path(name)).expect("every system has it");
        }
        std::fs::write(root.path("etc/init.d/README"), "scripts\n").expect("the folder is new");
        // If no device may be created, a file does.
        if run(Command::new("mknod").arg(root.path("dev/null")).args(["c", "1", "3"])).code != Some(0) {
            std::fs::write(root.path("dev/null"), "").expect("the folder is new");
        }
        let all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(root.path("dev/null"), all).expect("it is ours");
        for name in PROGRAMS.split_whitespace() {
            root.copy_program(&which(name));
        }
        root.copy_libraries(program);
        let perl = "perl-base";
        let multiarch = run(Command::new("perl").args(["-MConfig", "-e", "print $Config{archname}"])).out;
        for place in
            [format!("/usr/lib/{}", multiarch.replace("-gnu-thread-multi", "-gnu")), "/usr/lib".into()]
        {
            let modules = Path::new(&place).join(perl);
            if modules.is_dir() {
                let target = root.path(&place[1..]);
                std::fs::create_dir_all(&target).expect("the folder is new");
                assert_eq!(run(Command::new("cp").arg("-a").arg(modules).arg(target)).code, Some(0));
            }
        }
        let packages = run(Command::new("dpkg-query").arg("-s").args(PACKAGES)).out;
        assert!(packages.contains("Package: libc6"), "{packages}");
        std::fs::write(root.path("var/lib/dpkg/status"), packages).expect("the folder is new");
        Some(root)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Copies a program, the target if it is a link, and its libraries.
    fn copy_program(&self, path: &Path) {
        let real = path.canonicalize().expect("the program is there");
        let target = self.path(&path.display().to_string()[1..]);
        std::fs::create_dir_all(target.parent().expect("below the root")).expect("the folder is ours");
        std::fs::copy(&real, &target).expect("the folder is ours");
        self.copy_libraries(&real);
    }

    fn copy_libraries(&self, program: &Path) {
        // A script has none.
        let list = run(Command::new("ldd").arg(program)).out;
        for library in
            list.split_whitespace().filter(|word| word.starts_with("/lib") || word.starts_with("/usr"))
        {
            let target = self.path(&library[1..]);
            if !target.exists() {
                std::fs::create_dir_all(target.parent().expect("below the root"))
                    .expect("the folder is ours");
                std::fs::copy(library, &target).expect("the folder is ours");
            }
        }
    }

    /// Runs dpkg on this root; its scripts run inside.
    pub fn dpkg(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new("dpkg");
        command.arg("--force-unsafe-io").arg(format!("--root={}", self.path("").display())).args(words);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        run(&mut command)
    }

    /// Pretends that an init system runs, in runlevel 2: without one invoke-rc.d starts nothing.
    pub fn boot(&self) {
        std::fs::write(self.path("sbin/init"), "").expect("the folder is ours");
        std::fs::write(self.path("sbin/runlevel"), "#!/bin/sh\necho N 2\n").expect("the folder is ours");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path("sbin/runlevel"), open).expect("it is ours");
    }

    pub fn shut_down(&self) {
        for name in ["sbin/init", "sbin/runlevel"] {
            std::fs::remove_file(self.path(name)).expect("it is there");
        }
    }

    /// Runs a command inside.
    pub fn inside(&self, words: &[&str]) -> Outcome {
        run(Command::new("chroot").arg(self.path("")).args(words).current_dir("/"))
    }

    /// All files except dpkg's own database.
    pub fn tree(&self) -> BTreeSet<String> {
        let find = "cd \"$0\" && find . -path ./var/lib/dpkg -prune -o -print";
        let out = run(Command::new("sh").arg("-c").arg(find).arg(self.path(""))).out;
        out.lines().map(str::to_owned).collect()
    }

    /// The process of the daemon's pid file, if it is alive.
    pub fn master(&self) -> Option<i32> {
        let pid = self.read("run/pronghorn.pid").trim().parse().ok()?;
        (process::is_alive(pid) && process::title(pid).contains("pronghorn")).then_some(pid)
    }
}

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let Some(pid) = self.master() else { return };
        let all = process::tree(pid);
        send(pid, Signal::SIGTERM);
        wait_for("the daemon to end", || {
            all.iter().for_each(|&pid| process::reap_other(pid, 0));
            all.iter().all(|&pid| !process::is_alive(pid)).then_some(())
        });
    }
}

fn which(name: &str) -> PathBuf {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is on every Debian"))
}
