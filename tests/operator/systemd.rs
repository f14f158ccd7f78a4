//! `scripts/systemd/`: systemd accepts the unit, and the program has the options that it uses.

use std::process::Command;

use super::place::{has, run, shipped};
use crate::support::Setup;
use crate::support::daemon::{binary, is_stand_in};

fn unit() -> String {
    std::fs::read_to_string(shipped("scripts/systemd/pronghorn.service")).expect("it is shipped")
}

#[test]
fn systemd_takes_the_unit() {
    if !has("systemd-analyze") {
        eprintln!("systemd-analyze is not here: the unit is not verified");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pronghorn.service");
    let here = unit().replace("/usr/sbin/pronghorn", &binary().display().to_string());
    let verify = |text: &str| {
        std::fs::write(&path, text).expect("the folder is ours");
        run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path))
    };
    let outcome = verify(&here);
    assert!(outcome.code == Some(0) && !outcome.err.contains("pronghorn.service"), "{outcome:?}");
    let outcome = verify(&here.replace("KillMode=mixed", "KillMode=all"));
    assert!(outcome.err.contains("kill mode"), "it does look: {outcome:?}");
}

#[test]
fn the_commands_of_the_unit_do_what_they_are_for() {
    if is_stand_in() {
        return;
    }
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; return 200 x; } }";
    let daemon = Setup::new(conf).start();
    for (key, log) in [("ExecStartPre", None), ("ExecReload", Some("SIGHUP\\) received"))] {
        let unit = unit();
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let commands: Vec<&str> = lines.collect();
        assert!(!commands.is_empty(), "{key}");
        for command in commands {
            let words = command.strip_prefix("/usr/sbin/pronghorn $DAEMON_OPTS ").expect("one form for all");
            let outcome = daemon.run(&words.split(' ').collect::<Vec<_>>());
            assert_eq!((outcome.status.code(), outcome.stderr.as_slice()), (Some(0), &b""[..]), "{command}");
        }
        if let Some(line) = log {
            daemon.wait_log(line);
        }
    }
}

#[test]
fn the_folders_of_tmpfiles_are_those_of_the_unit() {
    let files = std::fs::read_to_string(shipped("scripts/systemd/tmpfiles.conf")).expect("it is shipped");
    for root in ["/run", "/var/log", "/var/lib", "/var/cache"] {
        assert!(files.lines().any(|line| line.starts_with(&format!("d {root}/pronghorn "))), "{root}");
    }
    let unit = unit();
    for path in ["/var/log", "/var/lib", "/var/cache"] {
        let writable = unit.lines().find(|line| line.starts_with("ReadWritePaths=")).expect("it has some");
        assert!(writable.contains(&format!(" -{path}/pronghorn")), "{path}");
    }
    // systemd gives everything in such a folder to root.
    for key in ["LogsDirectory=", "CacheDirectory="] {
        assert!(!unit.lines().any(|line| line.starts_with(key)), "{key}");
    }
    if has("systemd-tmpfiles") && nix::unistd::geteuid().is_root() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("etc")).expect("the folder is new");
        for name in ["passwd", "group"] {
            std::fs::copy(format!("/etc/{name}"), root.path().join("etc").join(name))
                .expect("every system has it");
        }
        let mut command = Command::new("systemd-tmpfiles");
        command.arg("--create").arg(format!("--root={}", root.path().display()));
        let outcome = run(command.arg(shipped("scripts/systemd/tmpfiles.conf")));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(root.path().join("var/lib/pronghorn").is_dir());
    }
}

#[test]
fn sysusers_takes_the_user() {
    if !has("systemd-sysusers") {
        eprintln!("systemd-sysusers is not here: its file is not read");
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(root.path().join("etc")).expect("the folder is new");
    let mut command = Command::new("systemd-sysusers");
    command.arg(format!("--root={}", root.path().display()));
    let outcome = run(command.arg(shipped("scripts/systemd/sysusers.conf")));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let passwd = std::fs::read_to_string(root.path().join("etc/passwd")).expect("it is made");
    assert!(
        passwd.contains("pronghorn:") && passwd.contains(":/var/lib/pronghorn:/usr/sbin/nologin"),
        "{passwd}"
    );
}
