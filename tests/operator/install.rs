//! `scripts/install`: a whole life in a prefix (install, start, change, install again, upgrade, stop,
//! uninstall), and a distribution's layout below a DESTDIR.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::place::{Outcome, has, run, shipped};
use crate::support::daemon::{binary, is_stand_in, send};
use crate::support::{Client, get, port, process, wait_for};

/// A prefix with a space in its path, inside a folder that must be empty in the end.
struct Installed {
    folder: tempfile::TempDir,
    prefix: PathBuf,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let prefix = folder.path().join("opt it/pronghorn");
        Self { folder, prefix }
    }

    fn install(&self, words: &[&str]) -> Outcome {
        let user = run(Command::new("id").arg("-un")).out.trim().to_owned();
        let mut command = Command::new(shipped("scripts/install"));
        command.arg(format!("--prefix={}", self.prefix.display())).arg(format!("--user={user}"));
        command.env_remove("DESTDIR").args(words);
        run(&mut command)
    }

    fn with_binary(&self) -> Outcome {
        let outcome = self.install(&[&format!("--binary={}", binary().display())]);
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{outcome:?}");
        outcome
    }

    fn path(&self, name: &str) -> PathBuf {
        self.prefix.join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn act(&self, action: &str) {
        let outcome = run(Command::new(self.path("contrib/init.d/pronghorn")).arg(action));
        let log = std::fs::read_to_string(self.path("logs/error.log")).unwrap_or_default();
        assert_eq!(outcome.code, Some(0), "{action}: {outcome:?}\n{log}");
    }

    fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.path("run/pronghorn.pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let all = process::tree(pid);
            send(pid, Signal::SIGTERM);
            wait_for("the daemon to end", || {
                all.iter().for_each(|&pid| process::reap_other(pid, 0));
                all.iter().all(|&pid| !process::is_alive(pid)).then_some(())
            });
        }
    }
}

/// Every file and folder below, with the mode of files.
fn tree(root: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it can be read").flatten() {
            let path = entry.path();
            let mode = entry.metadata().expect("it is there").permissions().mode() & 0o7777;
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(name, mode);
            }
        }
    }
    found
}

#[test]
fn a_prefix_is_installed_used_upgraded_and_left_empty() {
    if is_stand_in() {
        return;
    }
    let place = Installed::new();
    let outcome = place.with_binary();
    assert!(outcome.out.contains("was built for /etc/pronghorn/"), "{outcome:?}");
    let before = tree(&place.prefix);
    // Make it listen where this test may; that counts as a change by the operator.
    let port = port::free();
    let conf =
        place.read("conf/pronghorn.conf").replace("listen      8000", &format!("listen 127.0.0.1:{port}"));
    std::fs::write(place.path("conf/pronghorn.conf"), &conf).expect("it is ours");
    place.act("configtest");
    place.act("start");
    assert_eq!(get(port, "/health").text(), "ok\n");
    assert_eq!(get(port, "/").status, 503, "no backend yet");
    place.act("reload");
    place.act("status");
    wait_for("a line", || place.read("logs/access.log").contains("\"GET / HTTP/1.1\" 503").then_some(()));

    // Over a running daemon: changed files stay, the program is replaced and can be upgraded to.
    let first = place.pid().expect("it runs");
    let mut kept = Client::connect(port);
    kept.get("/health");
    let outcome = place.with_binary();
    assert!(outcome.out.contains("kept: ") && outcome.out.contains("pronghorn.conf.new"), "{outcome:?}");
    assert_eq!(place.read("conf/pronghorn.conf"), conf);
    assert!(place.read("conf/pronghorn.conf.new").contains("listen      8000"));
    assert!(!place.path("conf/mime.types.new").exists(), "what is the same is no question");
    place.act("upgrade");
    assert_ne!(place.pid(), Some(first));
    assert_eq!(kept.get("/health").text(), "ok\n", "on the same connection");

    // Not while the daemon runs.
    let outcome = place.install(&["--uninstall"]);
    assert!(outcome.code == Some(1) && outcome.err.contains("stop it first"), "{outcome:?}");
    place.act("stop");
    assert_eq!(place.pid(), None);
    let outcome = place.install(&["--uninstall"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let left: Vec<String> = tree(&place.prefix).into_keys().collect();
    let stays = |name: &&String| {
        let is_conf =
            ["conf/", "contrib/default/", "contrib/logrotate/"].iter().any(|folder| name.starts_with(folder));
        is_conf || name.starts_with("logs/") || *name == "share/pronghorn/manifest"
    };
    assert!(left.iter().all(|name| stays(&name)), "{left:?}");
    assert!(before.keys().filter(stays).all(|name| left.contains(name)), "{left:?}");
    assert_eq!(place.read("conf/pronghorn.conf"), conf);

    // Installed again, with the files that were left.
    place.with_binary();
    assert_eq!(place.read("conf/pronghorn.conf"), conf);
    place.act("start");
    assert_eq!(get(port, "/health").text(), "ok\n");
    place.act("stop");
    let outcome = place.install(&["--uninstall", "--purge"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_dir(place.folder.path()).expect("it is there").count(), 0, "nothing is left");
}

#[test]
fn an_unchanged_configuration_is_brought_up_to_date() {
    if is_stand_in() {
        return;
    }
    let place = Installed::new();
    place.with_binary();
    let types = place.read("conf/mime.types");
    // As if an older version had installed other types.
    std::fs::write(place.path("conf/mime.types"), "types { }\n").expect("it is ours");
    let sum = |text: &str| {
        let file = place.folder.path().join("sum");
        std::fs::write(&file, text).expect("the folder is ours");
        let out = run(Command::new("cksum").arg(&file)).out;
        std::fs::remove_file(&file).expect("it is ours");
        out.split(' ').next().map(str::to_owned).expect("a number")
    };
    let manifest = place.read("share/pronghorn/manifest");
    let older = manifest.replace(&format!("conf {} ", sum(&types)), &format!("conf {} ", sum("types { }\n")));
    assert_ne!(older, manifest);
    std::fs::write(place.path("share/pronghorn/manifest"), older).expect("it is ours");
    let outcome = place.with_binary();
    assert!(!outcome.out.contains("kept"), "{outcome:?}");
    assert_eq!(place.read("conf/mime.types"), types);
    assert_eq!(place.install(&["--uninstall", "--purge"]).code, Some(0));
    assert_eq!(std::fs::read_dir(place.folder.path()).expect("it is there").count(), 0);
}

#[test]
fn a_destdir_gets_the_places_of_a_distribution() {
    if is_stand_in() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    let mut install = Command::new(shipped("scripts/install"));
    install.args(["--prefix=/usr", "--user=www-data", "--group=adm"]).env("DESTDIR", &root);
    let outcome = run(install.arg(format!("--binary={}", binary().display())));
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    let files = tree(&root);
    for (name, mode) in [
        ("usr/sbin/pronghorn", 0o755),
        ("etc/pronghorn/pronghorn.conf", 0o644),
        ("etc/pronghorn/mime.types", 0o644),
        ("etc/pronghorn/proxy_params", 0o644),
        ("etc/pronghorn/fastcgi_params", 0o644),
        ("etc/pronghorn/fastcgi.conf", 0o644),
        ("etc/pronghorn/uwsgi_params", 0o644),
        ("etc/pronghorn/scgi_params", 0o644),
        ("etc/init.d/pronghorn", 0o755),
        ("etc/logrotate.d/pronghorn", 0o644),
        ("usr/lib/systemd/system/pronghorn.service", 0o644),
        ("usr/lib/tmpfiles.d/pronghorn.conf", 0o644),
        ("usr/lib/sysusers.d/pronghorn.conf", 0o644),
        ("usr/share/man/man8/pronghorn.8", 0o644),
        ("usr/share/man/man5/pronghorn.conf.5", 0o644),
        ("usr/share/bash-completion/completions/pronghorn", 0o644),
        ("usr/share/zsh/site-functions/_pronghorn", 0o644),
        ("usr/share/fish/vendor_completions.d/pronghorn.fish", 0o644),
        ("usr/share/doc/pronghorn/README.md", 0o644),
        ("usr/share/doc/pronghorn/examples/websocket.conf", 0o644),
        ("usr/share/doc/pronghorn/examples/pronghorn.toml", 0o644),
    ] {
        assert_eq!(files.get(name), Some(&mode), "{name} of {files:?}");
    }
    for name in ["var/log/pronghorn", "var/lib/pronghorn", "var/cache/pronghorn", "etc/pronghorn/conf.d"] {
        assert!(root.join(name).is_dir(), "{name}");
    }
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("it is installed");
    let conf = read("etc/pronghorn/pronghorn.conf");
    for line in
        ["\nuser www-data;", "\npid /run/pronghorn.pid;", "error_log /var/log/pronghorn/error.log notice;"]
    {
        assert!(conf.contains(line), "{line}");
    }
    assert!(!conf.contains(" logs/"), "{conf}");
    // No file names the folder where it was assembled, and the scripts are those that are shipped.
    for name in files.keys().filter(|name| !name.ends_with("sbin/pronghorn")) {
        let text = read(name);
        assert!(!text.contains(&folder.path().display().to_string()), "{name}");
    }
    assert_eq!(
        read("usr/lib/systemd/system/pronghorn.service"),
        std::fs::read_to_string(shipped("scripts/systemd/pronghorn.service")).expect("it is shipped")
    );
    for shell in ["sh", "dash"] {
        if has(shell) {
            let outcome = run(Command::new(shell).arg("-n").arg(root.join("etc/init.d/pronghorn")));
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
    }
    let mut uninstall = Command::new(shipped("scripts/install"));
    uninstall.args(["--uninstall", "--purge", "--prefix=/usr"]).arg(format!("--destdir={}", root.display()));
    let outcome = run(&mut uninstall);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_dir(&root).expect("it is there").count(), 0, "nothing is left");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let place = Installed::new();
    for words in [
        &["--binary=/nonexistent"][..],
        &["--nonsense"],
        &["--prefix=relative"],
        &["--prefix=/tmp/a|b"],
        &["--purge"],
        &["--uninstall"],
    ] {
        let outcome = place.install(words);
        assert!(
            outcome.code == Some(1) && outcome.err.contains("scripts/install: "),
            "{words:?}: {outcome:?}"
        );
        assert!(!place.prefix.exists(), "{words:?}");
    }
    let help = place.install(&["--help"]);
    assert!(help.code == Some(0) && help.out.contains("--destdir=DIR"), "{help:?}");
}

#[test]
fn shellcheck_finds_nothing() {
    if !has("shellcheck") {
        eprintln!("shellcheck is not here: the script is not looked at");
        return;
    }
    let outcome = run(Command::new("shellcheck").arg(shipped("scripts/install")));
    assert_eq!(outcome.code, Some(0), "{}", outcome.out);
}
