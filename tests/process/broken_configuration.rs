//! A configuration that is missing or broken: a message with file and line, exit 1, and nothing started.

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get};

const GOOD: &str = "http { server { listen 127.0.0.1:%%PORT_0%%; return 200 \"good\"; } }\n";

/// Starts on a bare file and expects exit code 1, with all these words on standard error.
fn refused(text: &str, words: &[&str]) {
    let setup = Setup::new(&format!("daemon off;\npid %%DIR%%/pronghorn.pid;\nevents {{ }}\n{text}")).bare();
    let name = setup.folder().join("pronghorn.conf").display().to_string();
    let exit = setup.try_start().err().unwrap_or_else(|| panic!("it started with {text:?}"));
    assert_eq!(exit.status.code(), Some(1), "{text:?}: {}", exit.stderr);
    for word in words {
        let word = word.replace("FILE", &name);
        assert!(exit.stderr.contains(&word), "{text:?}: no {word:?} in\n{}", exit.stderr);
    }
}

#[test]
fn a_missing_file_is_named() {
    let setup = Setup::new(GOOD);
    let output = setup.command(&["-c", "/nonexistent/pronghorn.conf"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("/nonexistent/pronghorn.conf") && text.contains("No such file or directory"),
        "{text}"
    );
}

#[test]
fn an_error_is_told_with_file_and_line() {
    // Three lines precede each text.
    refused("htpt { }\n", &["unknown directive \"htpt\"", "FILE:4"]);
    refused("http {\n  server {\n    lisen 80;\n  }\n}\n", &["unknown directive \"lisen\"", "FILE:6"]);
    refused("http {\n  listen 80;\n}\n", &["\"listen\" directive is not allowed here", "FILE:5"]);
    refused(
        "http {\n  keepalive_timeout;\n}\n",
        &["invalid number of arguments in \"keepalive_timeout\" directive", "FILE:5"],
    );
    refused(
        "http {\n  sendfile maybe;\n}\n",
        &["invalid value \"maybe\" in \"sendfile\" directive", "FILE:5"],
    );
    refused("http {\n  server {\n", &["unexpected end of file", "FILE:"]);
    refused("http {\n}\n}\n", &["unexpected \"}\"", "FILE:6"]);
    refused("http {\n  server {\n    listen 80\n  }\n}\n", &["FILE:"]);
    refused("http {\n  include nothing-here.conf;\n}\n", &["nothing-here.conf", "FILE:5"]);
    refused("http {\n  server {\n    location / {\n      proxy_pass http://;\n    }\n  }\n}\n", &["FILE:7"]);
    // nginx names the line on which the block ends.
    let place = if is_stand_in() { "FILE:6" } else { "FILE:5" };
    refused("http {\n  upstream u {\n  }\n}\n", &["no servers are inside upstream", place]);
}

#[test]
fn all_errors_are_told_at_once() {
    if is_stand_in() {
        return;
    }
    refused(
        "http {\n  sendfile maybe;\n  server {\n    lisen 80;\n    retrun 200;\n  }\n}\n",
        &[
            "invalid value \"maybe\"",
            "FILE:5",
            "\"lisen\"",
            "FILE:7",
            "\"retrun\"",
            "FILE:8",
            "did you mean",
            "\"listen\"",
            "\"return\"",
        ],
    );
}

#[test]
fn testing_says_what_a_start_would_say() {
    let good = Setup::new(GOOD);
    let output = good.run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("syntax is ok") && text.contains("test is successful"), "{text}");

    let bad = Setup::new("http { bad; }\n");
    let output = bad.run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("unknown directive \"bad\"") && text.contains("test failed"), "{text}");
    if !is_stand_in() {
        assert!(!bad.folder().join("pronghorn.pid").exists(), "a test leaves no pid file");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let holder = crate::support::port::listen(std::net::Ipv4Addr::LOCALHOST, crate::support::port::free());
    let port = holder.local_addr().expect("bound").port();
    let text = format!("http {{ server {{ listen 127.0.0.1:{port}; return 200; }} }}\n");
    let exit = Setup::new(&text).try_start().err().expect("it must not start");
    assert_eq!(exit.status.code(), Some(1));
    let told = format!("{}{}", exit.stderr, exit.log);
    assert!(told.contains(&format!("127.0.0.1:{port}")) && told.contains("Address already in use"), "{told}");
}

#[test]
fn a_reload_with_an_error_keeps_the_old_configuration() {
    let daemon = Daemon::start(GOOD);
    let workers = daemon.workers();
    for broken in ["http { bad; }", "events {", "http { server { listen 127.0.0.1:1x; } }"] {
        let good = daemon.read("pronghorn.conf");
        daemon.rewrite(|text| format!("{text}\n{broken}\n"));
        let before = daemon.log_count("\\[emerg\\]");
        daemon.signal(Signal::SIGHUP);
        crate::support::wait_for("the message", || (daemon.log_count("\\[emerg\\]") > before).then_some(()));
        assert_eq!(get(daemon.port(0), "/").text(), "good");
        assert_eq!(daemon.workers(), workers, "the same workers");
        daemon.write("pronghorn.conf", good);
    }
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "good");
}

#[test]
fn an_upstream_that_nobody_can_reach_does_not_replace_one_that_serves() {
    if is_stand_in() {
        return; // nginx refuses it at a start too
    }
    let conf = "http { upstream u { server %%HOST%%; } server { listen 127.0.0.1:%%PORT_0%%; \
                location / { return 200 \"good\"; } location /u { proxy_pass http://u; } } }\n";
    // The name may resolve later: the daemon starts, and says so.
    let daemon = Setup::new(conf).set("HOST", "not-there-yet.example:80").level("notice").try_start();
    if let Ok(daemon) = &daemon {
        assert_eq!(get(daemon.port(0), "/").text(), "good");
        assert_eq!(get(daemon.port(0), "/u").status, 502);
        daemon.reload(); // it did not resolve before either
    }
    let daemon = Setup::new(conf).set("HOST", "127.0.0.1:9").level("notice").start();
    let workers = daemon.workers();
    daemon.rewrite(|text| text.replace("127.0.0.1:9;", "not-there-yet.example:80;"));
    daemon.signal(Signal::SIGHUP);
    let line = daemon.wait_log("host not found in upstream \"not-there-yet.example:80\"");
    assert!(daemon.wait_log("\\[emerg\\]").contains("pronghorn.conf:"), "{line}");
    assert_eq!(daemon.workers(), workers, "the same workers");
    // Names that can never resolve are always an error.
    let never = Setup::new(conf).set("HOST", "no.such.host.invalid:80").try_start();
    let exit = never.err().expect("it must not start");
    assert!(
        exit.stderr.contains("host not found in upstream \"no.such.host.invalid:80\""),
        "{}",
        exit.stderr
    );
}

#[test]
fn an_empty_file_is_named() {
    let setup = Setup::new("").bare();
    let output = setup.run(&["-t"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no \"events\" section in configuration"), "{text}");
    assert!(is_stand_in() || text.contains("pronghorn.conf:1"), "{text}");
}
