//! Files that root opens, creates or gives away in folders where the workers' user can replace them; and
//! system limits that prevent the daemon from starting.
//!
//! Each test plays a compromised worker: it puts links where root will look next, and checks that nothing
//! behind them changes.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get, wait_for};

const CONF: &str = r#"
user nobody;
http {
    access_log %%DIR%%/theirs/access.log;
    client_body_temp_path %%DIR%%/theirs/body;
    server { listen 127.0.0.1:%%PORT_0%%; listen unix:%%DIR%%/theirs/socket; return 200 here; }
}
"#;

/// The uid of `nobody`; `None` unless we are root, which these tests need.
fn nobody() -> Option<u32> {
    let user = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root() && !is_stand_in());
    if user.is_none() {
        eprintln!("skipped: only root can lend its rights");
    }
    user.map(|user| user.uid.as_raw())
}

/// A setup whose folder has a file of root's, and a folder that belongs to the workers' user.
fn setup(conf: &str, uid: u32) -> Setup {
    let setup = Setup::new(conf).file("secret", "root's\n").file("theirs/.keep", "");
    let folder = setup.folder().to_owned();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("ours");
    std::fs::set_permissions(folder.join("secret"), PermissionsExt::from_mode(0o400)).expect("ours");
    std::fs::create_dir(folder.join("secrets")).expect("ours");
    chown(folder.join("theirs"), Some(uid), Some(uid)).expect("root may");
    setup
}

/// Replaces a file by a link, as its owner would.
fn replace_by_link(path: &Path, target: &Path, uid: u32) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_dir(path);
    symlink(target, path).expect("the folder is ours");
    lchown(path, Some(uid), Some(uid)).expect("root may");
}

/// Owner, mode and content of root's file.
fn secret(daemon: &Daemon) -> (u32, u32, String) {
    let meta = std::fs::metadata(daemon.path("secret")).expect("it is there");
    (meta.uid(), meta.mode() & 0o7777, daemon.read("secret"))
}

fn untouched() -> (u32, u32, String) {
    (0, 0o400, "root's\n".into())
}

#[test]
fn a_log_that_became_a_link_is_not_opened_and_its_target_stays_as_it_is() {
    let Some(uid) = nobody() else { return };
    let daemon = setup(CONF, uid).start();
    let log = daemon.path("theirs/access.log");
    assert_eq!(std::fs::metadata(&log).expect("made").uid(), uid, "a log that root has made is given away");
    assert_eq!(std::fs::metadata(&log).expect("made").mode() & 0o777, 0o640, "and is not for everybody");
    get(daemon.port(0), "/before");
    daemon.wait_line("theirs/access.log", "/before");
    let worker = daemon.worker();
    replace_by_link(&log, &daemon.path("secret"), uid);
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_log("theirs/access.log\" failed \\(.*symbolic link that user");
    get(daemon.port(0), "/after");
    assert_eq!(secret(&daemon), untouched());
    assert_eq!(daemon.worker(), worker, "it serves on");
    // The same on a reload, and with a link as a folder in the path.
    daemon.rewrite(|text| text.replace("theirs/access.log", "theirs/up/other.log"));
    replace_by_link(&daemon.path("theirs/up"), &daemon.path("secrets"), uid);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("theirs/up/other.log\" failed \\(.*symbolic link that user");
    assert_eq!(std::fs::read_dir(daemon.path("secrets")).expect("ours").count(), 0);
    assert_eq!(get(daemon.port(0), "/").status, 200, "the configuration in force stays");
    assert_eq!(secret(&daemon), untouched());
}

#[test]
fn a_temporary_folder_that_became_a_link_is_not_given_away() {
    let Some(uid) = nobody() else { return };
    let daemon = setup(CONF, uid).start();
    assert_eq!(std::fs::metadata(daemon.path("theirs/body")).expect("made").uid(), uid);
    replace_by_link(&daemon.path("theirs/body"), &daemon.path("secrets"), uid);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("mkdir\\(\\) .*theirs/body\" failed \\(.*symbolic link that user");
    assert_eq!(std::fs::metadata(daemon.path("secrets")).expect("ours").uid(), 0);
    assert_eq!(get(daemon.port(0), "/").status, 200, "the configuration in force stays");
}

#[test]
fn the_mode_of_a_socket_is_set_before_it_has_a_name() {
    let Some(uid) = nobody() else { return };
    let daemon = setup(CONF, uid).start();
    let meta = std::fs::symlink_metadata(daemon.path("theirs/socket")).expect("made");
    assert_eq!(meta.mode() & 0o777, 0o666, "every user can connect");
    // At the end the path is removed only if it is still a socket.
    std::fs::remove_file(daemon.path("theirs/socket")).expect("ours");
    std::fs::write(daemon.path("theirs/socket"), "another's").expect("ours");
    daemon.stop(Signal::SIGQUIT);
    assert_eq!(std::fs::read_to_string(daemon.path("theirs/socket")).expect("it stays"), "another's");
}

#[test]
fn links_beside_the_pid_file_are_not_written_through() {
    let Some(uid) = nobody() else { return };
    let head =
        "daemon off; user nobody; pid %%DIR%%/theirs/p.pid; error_log %%DIR%%/error.log debug; events { }";
    let conf = format!("{head} http {{ server {{ listen 127.0.0.1:%%PORT_0%%; return 200 here; }} }}");
    let setup = setup(&conf, uid).bare();
    let at = |name: &str| -> PathBuf { setup.folder().join(name) };
    replace_by_link(&at("theirs/p.pid.new"), &at("secret"), uid);
    replace_by_link(&at("theirs/p.pid.lock"), &at("made-by-root"), uid);
    let output = setup.run(&[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("p.pid.lock\" is a symbolic link"), "{told}");
    assert!(!at("made-by-root").exists());
    std::fs::remove_file(at("theirs/p.pid.lock")).expect("ours");
    let daemon = setup.start();
    wait_for("the pid file", || (daemon.read("theirs/p.pid") == format!("{}\n", daemon.pid())).then_some(()));
    assert_eq!(secret(&daemon), untouched());
}

#[test]
fn the_test_warns_of_folders_that_belong_to_the_workers() {
    let Some(uid) = nobody() else { return };
    let setup = setup(CONF, uid);
    let output = setup.run(&["-t"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    let warnings: Vec<&str> = told.lines().filter(|line| line.contains("can write to the folder")).collect();
    assert_eq!(warnings.len(), 1, "one for each folder: {told}");
    assert!(warnings[0].contains("[warn]") && warnings[0].contains("/theirs\""), "{told}");
    assert_eq!(setup.run(&["-t", "--strict"]).status.code(), Some(1));
    let root = std::fs::metadata(setup.folder().join("secret")).expect("ours").uid();
    chown(setup.folder().join("theirs"), Some(root), Some(root)).expect("root may");
    let output = setup.run(&["-t"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("can write to the folder"));
}

#[test]
fn a_state_file_of_key_values_in_a_folder_of_the_workers_is_warned_of() {
    let Some(uid) = nobody() else { return };
    let conf = "user nobody;\nhttp {\n    keyval_zone zone=k:1m state=%%DIR%%/theirs/k;\n    \
                server { listen 127.0.0.1:%%PORT_0%%; return 200 here; }\n}\n";
    let daemon = setup(conf, uid).start();
    let warned =
        |daemon: &Daemon| String::from_utf8_lossy(&daemon.run(&["-t"]).stderr).contains("theirs/k\"");
    assert!(warned(&daemon));
    daemon.rewrite(|text| text.replace("theirs/k", "k"));
    assert!(!warned(&daemon));
}

#[test]
fn a_start_and_the_test_name_the_limit_that_is_too_small_for_shared_memory() {
    if is_stand_in() {
        return;
    }
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; return 200 here; } }";
    for (limit, name) in [("ulimit -f 1024", "ulimit -f"), ("ulimit -v 150000", "ulimit -v")] {
        for words in [&[][..], &["-t"], &["-t", "--format=json"]] {
            let output = Setup::new(conf).prelude(&format!("{limit}; ")).run(words);
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            assert_eq!(output.status.code(), Some(1), "{limit} {words:?}: {told}");
            assert!(told.contains("of shared memory failed") && told.contains(name), "{limit}: {told}");
        }
    }
}
