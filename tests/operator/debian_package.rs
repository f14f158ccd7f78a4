//! `scripts/debian/build`: the package is installed on a scratch root, started, reloaded, upgraded under
//! load, removed and purged.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::{Outcome, has, run, shipped};
use super::scratch_root::ScratchRoot;
use crate::support::daemon::{binary, is_stand_in};
use crate::support::{Client, Origin, get, port, process, wait_for};

const SITE: &str = "etc/pronghorn/sites-available/default";

/// Builds the package with a version.
fn build(folder: &Path, version: &str, compression: &str) -> PathBuf {
    let mut command = Command::new(shipped("scripts/debian/build"));
    command.arg(format!("--binary={}", binary().display())).arg(format!("--version={version}"));
    command.arg(format!("--output={}", folder.display())).arg(format!("--compression={compression}"));
    command.env("DEBEMAIL", "maintainers@pronghorn.dev");
    let outcome = run(&mut command);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{outcome:?}");
    outcome.out.trim().into()
}

fn good(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

fn install(root: &ScratchRoot, package: &Path, more: &[&str]) -> Outcome {
    let mut words = more.to_vec();
    let package = package.display().to_string();
    words.extend(["-i", &package]);
    let outcome = root.dpkg(&words);
    good(&outcome);
    outcome
}

/// Waits until the process and its workers are gone.
fn wait_gone(all: &[i32]) {
    wait_for("the daemon to be gone", || {
        all.iter().for_each(|&pid| process::reap_other(pid, 0));
        all.iter().all(|&pid| !process::is_alive(pid)).then_some(())
    });
}

#[test]
fn a_life_on_a_scratch_root() {
    if is_stand_in() {
        return;
    }
    let Some(root) = ScratchRoot::new(&binary()) else { return };
    let before = root.tree();
    let packages = tempfile::tempdir().expect("a folder");
    let script = |action: &str| root.inside(&["/etc/init.d/pronghorn", action]);

    // Without an init system: installed, not started.
    install(&root, &build(packages.path(), "0.1.0-1", "none"), &[]);
    assert_eq!(root.master(), None, "nothing is started where there is no init system");
    assert_eq!(script("status").code, Some(3));
    assert!(root.path("etc/pronghorn/sites-enabled/default").is_symlink());
    assert!(root.path("etc/rc2.d/S01pronghorn").is_symlink());
    assert!(root.path("etc/systemd/system/multi-user.target.wants/pronghorn.service").is_symlink());
    good(&script("configtest"));

    // The test's site, which changes a conffile.
    let (go, origin) = Origin::in_two_parts();
    let port = port::free();
    let site = format!(
        "server {{ listen 127.0.0.1:{port}; location / {{ return 200 here; }} \
         location /slow {{ proxy_pass http://{}; include proxy_params; }} }}\n",
        origin.address()
    );
    std::fs::write(root.path(SITE), &site).expect("it is ours");
    root.boot();
    good(&script("start"));
    let first = root.master().expect("it runs");
    assert_eq!(get(port, "/").text(), "here");
    let workers = process::children(first);
    good(&script("reload"));
    wait_for("new workers alone", || {
        process::children(first).iter().all(|worker| !workers.contains(worker)).then_some(())
    });
    wait_for("the request's line", || {
        root.read("var/log/pronghorn/access.log").contains("\"GET / ").then_some(())
    });
    good(&script("rotate"));
    let log = std::fs::metadata(root.path("var/log/pronghorn/access.log")).expect("it is there");
    assert_eq!(log.permissions().mode() & 0o777, 0o640, "not for everybody");

    // Upgrade the package, and the daemon with it, with an idle connection and a request in progress.
    let mut idle = Client::connect(port);
    assert_eq!(idle.get("/").text(), "here");
    let mut busy = Client::connect(port);
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.response_head();
    let tree = process::tree(first);
    let outcome = install(&root, &build(packages.path(), "0.2.0-1", "none"), &[]);
    let second = root.master().expect("it runs");
    assert_ne!(second, first, "{outcome:?}");
    assert_eq!(idle.get("/").text(), "here", "on the same connection");
    go.send(()).expect("the origin waits");
    assert_eq!(busy.exactly(10), b"first-last");
    drop(busy);
    wait_gone(&tree);
    assert!(!root.path("run/pronghorn.pid.oldbin").exists());
    assert_eq!(root.read(SITE), site, "the change stays, and nobody is asked");
    good(&script("upgrade"));
    assert_eq!(idle.get("/").text(), "here", "and what replaces it can be replaced");

    // A version that changes a file that the operator has changed too.
    std::fs::write(root.path("etc/pronghorn/proxy_params"), "# mine\n").expect("it is ours");
    let changed = build(packages.path(), "0.3.0-1", "none");
    let unpacked = packages.path().join("unpacked");
    let words = |option: &str| {
        let mut command = Command::new("dpkg-deb");
        command.arg(option);
        command
    };
    good(&run(words("-R").arg(&changed).arg(&unpacked)));
    std::fs::write(unpacked.join("etc/pronghorn/proxy_params"), "# theirs\n").expect("it is ours");
    std::fs::write(unpacked.join("etc/pronghorn/mime.types"), "types { }\n").expect("it is ours");
    good(&run(words("-b").args(["--root-owner-group", "-Znone"]).arg(&unpacked).arg(&changed)));
    let old = process::tree(root.master().expect("it runs"));
    install(&root, &changed, &["--force-confdef", "--force-confold"]);
    wait_gone(&old);
    assert_eq!(root.read("etc/pronghorn/proxy_params"), "# mine\n");
    assert_eq!(root.read("etc/pronghorn/proxy_params.dpkg-dist"), "# theirs\n");
    assert_eq!(root.read("etc/pronghorn/mime.types"), "types { }\n", "what was not changed is new");
    assert_eq!(idle.get("/").text(), "here", "three masters later");

    // Removed: the daemon is stopped, the operator's files stay.
    let all = process::tree(root.master().expect("it runs"));
    good(&root.dpkg(&["-r", "pronghorn"]));
    wait_gone(&all);
    assert!(!root.path("usr/sbin/pronghorn").exists() && root.path("var/log/pronghorn/access.log").exists());
    assert_eq!(root.read(SITE), site);
    // The init script is a conffile and stays too, with nothing to do.
    good(&script("start"));
    assert_eq!((script("status").code, root.master()), (Some(3), None));

    // Installed again, with an init system: it starts by itself.
    install(&root, &changed, &["--force-confold"]);
    assert_eq!(get(port, "/").text(), "here");
    let all = process::tree(root.master().expect("it runs"));
    good(&root.dpkg(&["-P", "pronghorn"]));
    wait_gone(&all);
    root.shut_down();
    let systemd =
        |name: &&String| !name.starts_with("./etc/systemd") && !name.starts_with("./var/lib/systemd");
    let left: Vec<String> = root.tree().difference(&before).filter(systemd).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
    let named: Vec<String> = root.tree().into_iter().filter(|name| name.contains("pronghorn")).collect();
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn a_start_that_fails_does_not_fail_the_installation() {
    if is_stand_in() {
        return;
    }
    let Some(root) = ScratchRoot::new(&binary()) else { return };
    let packages = tempfile::tempdir().expect("a folder");
    root.boot();
    std::fs::create_dir_all(root.path("etc/pronghorn/conf.d")).expect("the folder is ours");
    std::fs::write(root.path("etc/pronghorn/conf.d/mine.conf"), "nonsense 1;\n").expect("the folder is ours");
    let outcome = install(&root, &build(packages.path(), "0.1.0-1", "none"), &[]);
    assert!(outcome.err.contains("pronghorn does not start"), "{outcome:?}");
    assert!(root.inside(&["/etc/init.d/pronghorn", "configtest"]).out.contains("mine.conf:1"));
    good(&root.dpkg(&["-P", "pronghorn"]));
    assert!(!root.path("etc/pronghorn").exists());
}

#[test]
fn the_package_says_what_it_is() {
    if is_stand_in() || !has("dpkg-deb") {
        eprintln!("skipped: dpkg-deb is not here");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let package = build(folder.path(), "1.2.3-4", "gzip");
    let field =
        |name: &str| run(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name)).out.trim().to_owned();
    assert_eq!((field("Package").as_str(), field("Version").as_str()), ("pronghorn", "1.2.3-4"));
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    let list = run(Command::new("dpkg-deb").arg("-c").arg(&package)).out;
    for line in list.lines() {
        assert!(line.contains(" root/root "), "{line}");
    }
    for path in [
        "./usr/share/man/man8/pronghorn.8.gz",
        "./usr/share/man/man5/pronghorn.conf.5.gz",
        "./usr/share/doc/pronghorn/copyright",
        "./usr/share/doc/pronghorn/changelog.gz",
        "./usr/share/doc/pronghorn/changelog.Debian.gz",
        "./usr/share/zsh/vendor-completions/_pronghorn",
        "./etc/ufw/applications.d/pronghorn",
        "./etc/default/pronghorn",
    ] {
        assert!(list.lines().any(|line| line.ends_with(path)), "{path} of {list}");
    }
    let control = folder.path().join("control");
    assert_eq!(run(Command::new("dpkg-deb").arg("-e").arg(&package).arg(&control)).code, Some(0));
    let conffiles = std::fs::read_to_string(control.join("conffiles")).expect("it has some");
    let files = list.lines().filter(|line| line.starts_with('-')).filter_map(|line| line.split(" ./").nth(1));
    let etc: Vec<String> =
        files.filter(|path| path.starts_with("etc/")).map(|path| format!("/{path}")).collect();
    assert_eq!(conffiles.lines().map(str::to_owned).collect::<Vec<_>>(), etc, "all of /etc");
    if !has("lintian") {
        eprintln!("lintian is not here: the package is not looked at");
        return;
    }
    let lint = run(Command::new("lintian").args(["--fail-on", "error,warning"]).arg(&package));
    assert!(lint.code == Some(0), "{lint:?}");
}

#[test]
fn every_script_of_the_package_is_plain_shell() {
    for name in ["build", "postinst", "prerm", "postrm"] {
        let script = shipped("scripts/debian").join(name);
        let outcome = run(Command::new("sh").arg("-n").arg(&script));
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{name}");
        if has("shellcheck") {
            let outcome = run(Command::new("shellcheck").arg(&script));
            assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.out);
        }
    }
}
