//! `-t`, `-T` and `-s`: their findings, what they must not change, and their exit codes.

use std::process::Output;

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get, process, wait_for};

const CONF: &str = r#"
%%MORE%%
http { server { listen 127.0.0.1:%%PORT_0%%; %%LISTEN%% return 200 "here\n"; } }
"#;

fn setup(more: &str, listen: &str) -> Setup {
    let conf = CONF.replace("%%MORE%%", more).replace("%%LISTEN%%", listen);
    Setup::new(&conf)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that the test fails with these words and the file's name with a line.
fn fails(setup: &Setup, word: &str) {
    let output = setup.run(&["-t"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(word) && text.contains("test failed") && !text.contains("successful"), "{text}");
    let place = format!("{}:", setup.folder().join("pronghorn.conf").display());
    assert!(is_stand_in() || text.contains(&place), "{text}");
}

#[test]
fn what_a_start_could_not_open_fails_the_test() {
    let missing = "nowhere/x\" failed (2: No such file or directory)";
    fails(&setup("error_log %%DIR%%/nowhere/x;", ""), missing);
    fails(&setup("", "access_log %%DIR%%/nowhere/x;"), missing);
    fails(&setup("", "listen 192.0.2.1:%%PORT_1%%;"), "(99: Cannot assign requested address)");
    if !is_stand_in() {
        fails(
            &setup("", "listen unix:%%DIR%%/nowhere/s;"),
            "nowhere/s failed (2: No such file or directory)",
        );
        let twice = "listen unix:%%DIR%%/s; listen unix:%%DIR%%/logs/../s;";
        fails(&setup("", twice), "logs/../s failed (98: Address already in use)");
        fails(&setup("", "listen unix:%%DIR%%/logs;"), "logs failed (17: File exists)");
    }
    fails(&setup("", "listen localhost:%%PORT_0%%;"), "duplicate listen 127.0.0.1:");
    fails(&setup("", "include %%DIR%%/pronghorn.conf;"), "pronghorn.conf");
}

#[test]
fn what_must_not_be_opened_fails_the_test() {
    if nix::unistd::geteuid().is_root() || is_stand_in() {
        eprintln!("skipped: root may open everything");
        return;
    }
    let setup = setup("error_log %%DIR%%/closed/x;", "listen unix:%%DIR%%/closed/s;").file("closed/y", "");
    let closed = setup.folder().join("closed");
    std::fs::set_permissions(closed, std::os::unix::fs::PermissionsExt::from_mode(0o555)).expect("ours");
    fails(&setup, "closed/x\" failed (13: Permission denied)");
    fails(&setup, "closed/s failed (13: Permission denied)");
}

#[test]
fn a_port_that_is_taken_is_no_error_and_nothing_is_touched() {
    let daemon = Daemon::start(&CONF.replace("%%MORE%%", "").replace("%%LISTEN%%", "listen unix:%%DIR%%/s;"));
    let before = daemon.read("pronghorn.pid");
    for words in [&["-t"][..], &["-T"], &["-tq"]] {
        let output = daemon.run(words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    assert_eq!(daemon.read("pronghorn.pid"), before);
    assert!(daemon.path("s").exists());
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    if !is_stand_in() {
        daemon.stop(Signal::SIGQUIT);
        assert_eq!(daemon.run(&["-t"]).status.code(), Some(0));
        for name in ["pronghorn.pid", "pronghorn.pid.lock", "s"] {
            assert!(!daemon.path(name).exists(), "a test makes no {name}");
        }
    }
}

#[test]
fn quiet_hides_praise_and_no_error() {
    let output = setup("", "").run(&["-t", "-q"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""));
    let output = setup("bad;", "").run(&["-tq"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("unknown directive \"bad\""), "{}", text(&output));
}

#[test]
fn a_file_that_can_not_be_read_as_one_is_told() {
    if is_stand_in() {
        return;
    }
    let setup = setup("", "");
    let pipe = setup.folder().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the folder is ours");
    for (path, words) in [
        (pipe, "pipe\" is a pipe, not a file"),
        (setup.folder().join("logs"), "logs\" failed (21: Is a directory)"),
        (setup.folder().join("none"), "none\" failed (2: No such file or directory)"),
    ] {
        for more in [&["-t"][..], &[]] {
            let mut command = setup.command(more);
            let mut child = command
                .args(["-c", &path.display().to_string()])
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("it runs");
            wait_for("an answer", || child.try_wait().expect("our child"));
            let output = child.wait_with_output().expect("it has ended");
            assert_eq!(output.status.code(), Some(1));
            assert!(text(&output).contains(words), "{}", text(&output));
        }
    }
}

#[test]
fn files_that_include_each_other_end() {
    if is_stand_in() {
        return; // nginx reads until it has no descriptors
    }
    for (first, second) in
        [("include a.conf;", ""), ("include b.conf;", "include ./a.conf;\ninclude b*.conf;")]
    {
        let setup = setup("include a.conf;", "").file("a.conf", first).file("b.conf", second);
        let output = setup.run(&["-t"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("includes itself"), "{}", text(&output));
    }
}

#[test]
fn a_thousand_errors_are_cut() {
    if is_stand_in() {
        return;
    }
    let lines: String = (0..1000).map(|index| format!("bad{index} on;\n")).collect();
    let output = setup(&lines, "").run(&["-t"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text.matches("unknown directive").count(), 100);
    assert!(text.contains("\"bad99\"") && text.contains("too many errors"), "{text}");
}

#[test]
fn globals_may_be_given_more_than_once() {
    if is_stand_in() {
        return;
    }
    let daemon =
        setup("", "").arguments(&["-g", "worker_processes 3;", "-g", "worker_priority 1; env A;"]).start();
    assert_eq!(daemon.workers().len(), 3);
    let twice = setup("", "").arguments(&["-g", "worker_processes 3;", "-g", "worker_processes 3;"]);
    let output = twice.run(&["-t"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("duplicate in command line"), "{}", text(&output));
    let open = setup("", "").arguments(&["-g", "worker_processes 3"]).run(&["-t"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(text(&open).contains("command line"), "{}", text(&open));
}

#[test]
fn what_is_no_option_is_refused_before_anything_is_done() {
    let setup = setup("", "");
    for words in [&["-z"][..], &["-tz"], &["start"], &["-s"], &["-s", "sleep"], &["--test"], &["-c"]] {
        let output = setup.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(!output.stderr.is_empty(), "{words:?}");
    }
    assert!(!process::is_listening(setup.port(0)));
}

#[test]
fn a_signal_needs_a_pid_file_that_names_a_process() {
    let setup = setup("", "");
    let pid = setup.folder().join("pronghorn.pid");
    let fails = |words: &str| {
        for name in ["stop", "quit", "reopen", "reload"] {
            let output = setup.run(&["-s", name]);
            assert_eq!(output.status.code(), Some(1), "{name}");
            assert!(text(&output).contains(words), "{name}: {}", text(&output));
        }
    };
    fails("(2: No such file or directory)");
    for content in ["", "x\n", "-1\n", "0\n"] {
        std::fs::write(&pid, content).expect("the folder is ours");
        if !is_stand_in() || content == "x\n" {
            fails("invalid PID number");
        }
    }
    let mut child = std::process::Command::new("true").spawn().expect("it runs");
    child.wait().expect("it ends");
    std::fs::write(&pid, format!("{}\n", child.id())).expect("the folder is ours");
    fails("(3: No such process)");
    if is_stand_in() {
        return;
    }
    let mut other = std::process::Command::new("sleep").arg("60").spawn().expect("it runs");
    std::fs::write(&pid, format!("{}\n", other.id())).expect("the folder is ours");
    wait_for("the other process to have its name", || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", other.id())).expect("it lives");
        (name.trim() == "sleep").then_some(())
    });
    fails("is no longer pronghorn");
    assert!(other.try_wait().expect("a child").is_none(), "no signal reaches it");
    other.kill().expect("it lives");
    other.wait().expect("it ends");
}

#[test]
fn the_place_of_the_pid_file_is_told_whatever_else_is_wrong() {
    if is_stand_in() {
        return;
    }
    let told = |setup: &Setup, words: &[&str]| {
        let output = setup.run(words);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""), "{words:?}");
        out
    };
    let broken = Setup::new("include part.conf; http { nonsense 1; upstream a { server a.invalid; }").bare();
    let broken = broken.file("part.conf", "pid run/named.pid;\n");
    let folder = broken.folder().display().to_string();
    assert_eq!(told(&broken, &["--pid-path"]), format!("{folder}/run/named.pid\n"));
    let none = Setup::new("events { }").bare();
    let folder = none.folder().display().to_string();
    assert_eq!(told(&none, &["--pid-path"]), format!("{folder}/logs/pronghorn.pid\n"));
    assert_eq!(told(&none, &["--pid-path", "-g", "pid /a/b;"]), "/a/b\n");
}

#[test]
fn each_signal_name_does_its_work() {
    let daemon = setup("", "").start();
    let run = |name: &str| {
        let output = daemon.run(&["-s", name]);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""), "{name}");
    };
    run("reopen");
    daemon.wait_log("SIGUSR1\\) received");
    run("reload");
    daemon.wait_log("SIGHUP\\) received");
    run("quit");
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    daemon.wait_log("SIGQUIT\\) received");
    let daemon = setup("", "").start();
    assert_eq!(daemon.run(&["-s", "stop"]).status.code(), Some(0));
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    daemon.wait_log("SIGTERM\\) received");
}

#[test]
fn a_terminal_that_takes_nothing_changes_nothing() {
    if is_stand_in() {
        return;
    }
    let warned = "load_module x.so;";
    for (words, code) in
        [(&["-t"][..], 0), (&["-t", "-g", "bad;"], 1), (&["-v"], 0), (&["-h"], 0), (&["-z"], 1)]
    {
        let output = setup(warned, "").prelude("exec 2>/dev/full;").run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}");
    }
    let output = setup(warned, "").prelude("exec >/dev/full;").run(&["-T"]);
    assert_eq!(output.status.code(), Some(1), "the dump is incomplete");
    let daemon = setup(warned, "").prelude("exec >/dev/full 2>&1;").start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn findings_are_told_to_programs_as_json() {
    if is_stand_in() {
        return;
    }
    let report = |setup: &Setup, code: i32| -> serde_json::Value {
        let output = setup.run(&["-t", "--format=json"]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON text, and nothing beside it")
    };
    let mut good = report(&setup("", ""), 0);
    let resources =
        good.as_object_mut().and_then(|report| report.remove("resources")).expect("what it needs");
    assert_eq!(good, serde_json::json!({ "ok": true, "findings": [] }));
    assert!(
        resources["open_files"].as_u64() > Some(512) && resources["memory"].as_u64() > Some(1 << 20),
        "{resources}"
    );
    let wrong = setup("worker_procesess 2;", "");
    let finding = &report(&wrong, 1)["findings"][0];
    let conf = std::fs::read_to_string(wrong.folder().join("pronghorn.conf")).expect("it was written");
    let line = 1 + conf.lines().position(|line| line.starts_with("worker_procesess")).expect("it is there");
    let place = format!("{}:{line}:1", wrong.folder().join("pronghorn.conf").display());
    assert_eq!((&finding["severity"], &finding["place"]), (&"error".into(), &place.into()), "{finding}");
    assert_eq!(finding["message"], "unknown directive \"worker_procesess\"");
    assert!(finding["help"].as_str().is_some_and(|help| help.contains("worker_processes")), "{finding}");
    let closed = report(&setup("", "access_log %%DIR%%/nowhere/x;"), 1);
    assert_eq!((&closed["ok"], closed["findings"].as_array().map(Vec::len)), (&false.into(), Some(1)));
    let message = closed["findings"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("nowhere/x\" failed (2: No such file or directory)"), "{closed}");
}
