//! Starting: in the foreground, as a daemon, with directives on the command line.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::daemon::{binary, is_stand_in, send};
use crate::support::{Origin, Setup, get, port, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;

#[test]
fn in_the_foreground_it_has_workers_and_stops_on_int() {
    let daemon = Setup::new(CONF).start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert_eq!(daemon.workers().len(), 2);
    assert_eq!(daemon.read("pronghorn.pid"), format!("{}\n", daemon.pid()));
    let status = daemon.stop(Signal::SIGINT);
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

#[test]
fn in_the_background_the_pid_file_names_the_master() {
    let daemon = Setup::new(CONF).in_background().start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert!(process::title(daemon.pid()).contains("master process"));
    for worker in daemon.workers() {
        assert!(process::title(worker).contains("worker process"), "{}", process::title(worker));
    }
    daemon.stop(Signal::SIGQUIT);
    assert!(!daemon.path("pronghorn.pid").exists(), "the pid file goes with the master");
}

#[test]
fn a_second_start_does_not_disturb_the_first() {
    let daemon = Setup::new(CONF).start();
    let output = daemon.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    if !is_stand_in() {
        assert_eq!(daemon.read("pronghorn.pid"), format!("{}\n", daemon.pid()));
    }
}

#[test]
fn directives_on_the_command_line_come_first() {
    let conf = CONF.replace("worker_processes 2;", "");
    let daemon = Setup::new(&conf).arguments(&["-g", "worker_processes 3;"]).start();
    assert_eq!(daemon.workers().len(), 3);
}

#[test]
fn one_process_is_enough_without_a_master() {
    let conf = format!("master_process off;\n{}", CONF.replace("worker_processes 2;", ""));
    let daemon = Setup::new(&conf).alone().start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert!(daemon.workers_now().is_empty());
}

#[test]
fn the_version_and_the_help_are_told() {
    let setup = Setup::new(CONF);
    let version = setup.run(&["-v"]);
    assert_eq!(version.status.code(), Some(0));
    let text = String::from_utf8_lossy(&version.stderr).into_owned();
    assert!(text.contains("version"), "{text}");
    let help = setup.run(&["-h"]);
    let text = String::from_utf8_lossy(&help.stderr).into_owned() + &String::from_utf8_lossy(&help.stdout);
    for flag in ["-c", "-p", "-g", "-t", "-T", "-s", "-v", "-V", "-q"] {
        assert!(text.contains(flag), "no {flag} in {text}");
    }
    assert_eq!(setup.run(&["--no-such-option"]).status.code(), Some(1));
}

#[test]
fn a_balancer_needs_no_configuration_file() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let address = format!("127.0.0.1:{}", port::free());
    let (first, second) = (one.address(), two.address());
    let words = ["--listen", &address, "--upstream", &first, "--upstream", &second];
    let mut child = Command::new(binary())
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let texts = wait_for("both servers to be asked", || {
        TcpStream::connect(&address).ok()?;
        let number = address.rsplit(':').next()?.parse().ok()?;
        let texts: BTreeSet<String> = (0..4).map(|_| get(number, "/").text()).collect();
        (texts.len() == 2).then_some(texts)
    });
    assert_eq!(texts.into_iter().collect::<Vec<_>>(), ["one", "two"]);
    send(i32::try_from(child.id()).expect("a pid"), Signal::SIGTERM);
    let mut shown = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut shown).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert!(shown.contains(&format!("server {second};")) && shown.contains("proxy_pass servers;"), "{shown}");
    // The text is a configuration.
    let file = Setup::new("").bare().file("shown.conf", &shown);
    let path = file.folder().join("shown.conf");
    let output = Command::new(binary()).args(["-q", "-t", "-c"]).arg(&path).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");

    for (words, text) in [
        (&["--listen", "5432"][..], "requires \"--upstream\""),
        (&["--upstream", "127.0.0.1:1"], "requires \"--listen\""),
        (&["--listen", "1; daemon on", "--upstream", "127.0.0.1:1"], "invalid option"),
    ] {
        let output = Command::new(binary()).args(words).output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && err.contains(text), "{words:?}: {err}");
    }
}

#[test]
fn the_demonstration_says_what_to_do_where_its_ports_are_taken() {
    if is_stand_in() || std::path::Path::new("/etc/pronghorn").exists() {
        return; // its default configuration differs
    }
    // If this fails another process has the port, which is as good.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8080");
    let output = std::process::Command::new(crate::support::daemon::binary()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("demo.conf:26") && text.contains("copy conf/demo.conf"), "{text}");
}
