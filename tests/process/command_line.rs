//! The command line: glued options, dumps of the configuration, both spellings.

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Setup, get};

const CONF: &str = r#"
http {
    include part.conf;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_dump_shows_every_file_as_it_was_read() {
    let setup = Setup::new(CONF).file("part.conf", "# only a comment\nsendfile on; # and here\n");
    let output = setup.run(&["-T"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for name in ["pronghorn.conf", "part.conf"] {
        let line = format!("# configuration file {}:\n", setup.folder().join(name).display());
        assert!(out.contains(&line), "no {line:?} in {out}");
    }
    assert!(out.contains("# only a comment\nsendfile on; # and here\n"), "{out}");
}

#[test]
fn options_may_be_glued() {
    let setup = Setup::new(CONF).file("part.conf", "");
    let output = setup.run(&["-tq"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "quiet when it is good");
    let glued = format!("-c{}", setup.folder().join("pronghorn.conf").display());
    assert_eq!(setup.command(&["-t", &glued]).output().expect("it runs").status.code(), Some(0));
}

#[test]
fn a_test_sees_that_the_folder_of_the_pid_file_is_missing() {
    let conf = "error_log stderr; pid %%DIR%%/missing/pid; events { }";
    let setup = Setup::new(conf).bare();
    let output = setup.run(&["-t"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("missing/pid"), "{}", text(&output.stderr));
}

#[test]
fn a_directive_of_the_command_line_and_the_file_is_a_duplicate() {
    let setup = Setup::new(CONF).file("part.conf", "").arguments(&["-g", "pid /tmp/other.pid;"]);
    let output = setup.run(&["-t"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("\"pid\" directive is duplicate"), "{}", text(&output.stderr));
}

#[test]
fn the_effective_configuration_names_places() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new(CONF).file("part.conf", "keepalive_timeout 7s;\n");
    let output = setup.run(&["-T", "--effective"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.contains("keepalive_timeout") && out.contains("part.conf:1"), "{out}");
}

#[test]
fn a_broken_configuration_does_not_keep_it_from_being_stopped() {
    if is_stand_in() {
        return; // nginx reads the file first to find the pid file
    }
    let daemon = Setup::new(CONF).file("part.conf", "").start();
    daemon.rewrite(|text| text.replace("http {", "htpt {"));
    let output = daemon.run(&["-s", "stop"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    daemon.wait_end();
}

#[test]
fn the_toml_spelling_starts_the_same_daemon() {
    if is_stand_in() {
        return;
    }
    let conf = r#"
daemon = false
pid = "%%DIR%%/pronghorn.pid"
error_log = ["%%DIR%%/error.log", "debug"]
user = "root"
worker_processes = 2

[events]

[http.upstream]
args = "both"
server = [["127.0.0.1:%%PORT_1%%", "weight=2"], ["127.0.0.1:%%PORT_2%%"]]

[[http.server]]
listen = "127.0.0.1:%%PORT_0%%"
[http.server.location]
args = "/"
proxy_pass = "http://both"

[[http.server]]
listen = "127.0.0.1:%%PORT_1%%"
return = [200, "one"]

[[http.server]]
listen = "127.0.0.1:%%PORT_2%%"
return = [200, "two"]
"#;
    let daemon = Setup::new(conf).named("pronghorn.toml").bare().start();
    assert_eq!(daemon.workers().len(), 2);
    let answers: Vec<String> = (0..12).map(|_| get(daemon.port(0), "/").text()).collect();
    assert!(answers.contains(&"one".into()) && answers.contains(&"two".into()), "{answers:?}");
    daemon.rewrite(|text| text.replace("\"two\"", "\"three\""));
    daemon.reload();
    let answers: Vec<String> = (0..12).map(|_| get(daemon.port(0), "/").text()).collect();
    assert!(answers.contains(&"three".into()), "{answers:?}");
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_file_is_converted_to_the_other_spelling_and_back() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new(CONF).file("part.conf", "sendfile on;\n");
    setup.run(&["-tq"]); // writes the file
    let convert = |name: &str| {
        let mut command = std::process::Command::new(crate::support::daemon::binary());
        let output = command.arg("--convert").arg(setup.folder().join(name)).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let toml = convert("pronghorn.conf");
    assert!(toml.contains("http.server]") && toml.contains("return = [200"), "{toml}");
    std::fs::write(setup.folder().join("back.toml"), &toml).expect("the folder is ours");
    let back = convert("back.toml");
    assert!(back.contains("http {") && back.contains("return 200"), "{back}");
}
