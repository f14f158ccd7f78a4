//! The pid file and its lock: which process may write it, and when it disappears.

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get, wait_for};

const CONF: &str = r#"
http { server { listen 127.0.0.1:%%PORT_0%%; return 200 "here\n"; } }
"#;

fn own(daemon: &Daemon) -> String {
    format!("{}\n", daemon.pid())
}

/// The files in the daemon's folder that have to do with pid files.
fn traces(daemon: &Daemon) -> Vec<String> {
    let files = std::fs::read_dir(daemon.folder()).expect("the folder is ours").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.contains(".pid")).collect();
    names.sort();
    names
}

/// A configuration with this `pid` line, as its second line.
fn with_pid(path: &str) -> Setup {
    let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
    let head = format!("daemon off;\npid {path};\nerror_log %%DIR%%/error.log debug;\nevents {{ }}\n{user}");
    Setup::new(&format!("{head}{CONF}")).bare()
}

#[test]
fn it_goes_with_the_master_and_so_does_its_lock() {
    if is_stand_in() {
        return;
    }
    for how in [Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGINT] {
        let daemon = Daemon::start(CONF);
        assert_eq!(daemon.read("pronghorn.pid"), own(&daemon));
        daemon.stop(how);
        assert_eq!(traces(&daemon), Vec::<String>::new(), "{how}");
    }
}

#[test]
fn another_path_after_a_reload_is_written_and_the_old_one_removed() {
    let daemon = Daemon::start(CONF);
    for (from, to) in [("/pronghorn.pid", "/other.pid"), ("/other.pid", "/pronghorn.pid")] {
        daemon.rewrite(|text| text.replace(from, to));
        daemon.reload();
        wait_for("the new file alone", || {
            (daemon.read(to.trim_start_matches('/')) == own(&daemon)
                && !daemon.path(from.trim_start_matches('/')).exists())
            .then_some(())
        });
        if !is_stand_in() {
            assert_eq!(traces(&daemon).len(), 2, "the file and its lock: {:?}", traces(&daemon));
        }
        let output = daemon.run(&["-s", "reopen"]);
        assert_eq!(output.status.code(), Some(0), "the command line finds it");
    }
}

#[test]
fn a_path_that_a_reload_cannot_write_leaves_the_file_where_it_was() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    let good = daemon.read("pronghorn.conf");
    daemon.rewrite(|text| text.replace("/pronghorn.pid", "/nowhere/p.pid"));
    daemon.reload();
    daemon.wait_log("\\[emerg\\].*nowhere/p.pid.*\\(2: No such file or directory\\).*stays");
    assert_eq!(daemon.read("pronghorn.pid"), own(&daemon));
    let before = daemon.log_count("\\[emerg\\]");
    daemon.write("pronghorn.conf", good);
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert_eq!(daemon.read("pronghorn.pid"), own(&daemon));
    assert_eq!(daemon.log_count("\\[emerg\\]"), before, "back again is no error:\n{}", daemon.log());
    daemon.stop(Signal::SIGQUIT);
    assert_eq!(traces(&daemon), Vec::<String>::new());
}

#[test]
fn a_second_start_is_told_whom_it_meets() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    let output = daemon.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = ["pronghorn.pid\"".to_owned(), format!("process {}", daemon.pid())];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert_eq!(traces(&daemon), ["pronghorn.pid", "pronghorn.pid.lock"]);
    assert_eq!(daemon.read("pronghorn.pid"), own(&daemon));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    // Not even when the file is gone: the lock decides.
    std::fs::remove_file(daemon.path("pronghorn.pid")).expect("it is there");
    assert_eq!(daemon.run(&[]).status.code(), Some(1));
}

#[test]
fn what_a_killed_master_has_left_is_overwritten() {
    let mut child = std::process::Command::new("true").spawn().expect("it runs");
    child.wait().expect("it ends");
    let texts = [format!("{}\n", child.id()), String::new(), "no number\n".into(), "-1\n".into()];
    for text in texts {
        let daemon = Setup::new(CONF).file("pronghorn.pid", &text).file("pronghorn.pid.lock", "").start();
        assert_eq!(daemon.read("pronghorn.pid"), own(&daemon), "instead of {text:?}");
    }
}

#[test]
fn one_that_somebody_else_has_written_is_not_removed() {
    if is_stand_in() {
        return;
    }
    let daemon = Daemon::start(CONF);
    daemon.write("pronghorn.pid", "1\n");
    daemon.stop(Signal::SIGQUIT);
    assert_eq!(daemon.read("pronghorn.pid"), "1\n");
}

#[test]
fn a_directory_that_is_not_there_is_told_with_its_place() {
    if is_stand_in() {
        return;
    }
    let setup = with_pid("%%DIR%%/nowhere/p.pid");
    let place = format!("{}:2", setup.folder().join("pronghorn.conf").display());
    let exit = setup.try_start().err().expect("it must not start");
    assert_eq!(exit.status.code(), Some(1));
    let words = ["nowhere/p.pid", "(2: No such file or directory)", &place];
    assert!(words.iter().all(|word| exit.stderr.contains(word)), "{}", exit.stderr);
}

#[test]
fn a_directory_that_must_not_be_written_is_told_with_its_place() {
    if is_stand_in() || nix::unistd::geteuid().is_root() {
        eprintln!("skipped: root may write everywhere");
        return;
    }
    let setup = with_pid("%%DIR%%/closed/p.pid").file("closed/file", "");
    let closed = setup.folder().join("closed");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o555)).expect("ours");
    let place = format!("{}:2", setup.folder().join("pronghorn.conf").display());
    let exit = setup.try_start().err().expect("it must not start");
    let words = ["closed/p.pid", "(13: Permission denied)", &place];
    assert!(words.iter().all(|word| exit.stderr.contains(word)), "{}", exit.stderr);
}

#[test]
fn a_path_that_is_no_file_is_refused_and_left_alone() {
    if is_stand_in() {
        return;
    }
    let setup = with_pid("%%DIR%%/pipe");
    let pipe = setup.folder().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the folder is ours");
    let place = format!("{}:2", setup.folder().join("pronghorn.conf").display());
    let tested = setup.run(&["-t"]);
    let text = String::from_utf8_lossy(&tested.stderr).into_owned();
    assert_eq!(tested.status.code(), Some(1), "{text}");
    assert!(text.contains("pipe\" is not a regular file") && text.contains(&place), "{text}");
    let exit = setup.try_start().err().expect("it must not start");
    let words = ["pipe\" is not a regular file", &place];
    assert!(words.iter().all(|word| exit.stderr.contains(word)), "{}", exit.stderr);
    assert!(exit.left.contains(&"pipe".to_owned()), "{:?}", exit.left);
    assert!(!exit.left.contains(&"pipe.lock".to_owned()), "{:?}", exit.left);
    let exit = with_pid("%%DIR%%/logs").try_start().err().expect("it must not start");
    assert!(exit.stderr.contains("logs\" is not a regular file"), "{}", exit.stderr);
}
