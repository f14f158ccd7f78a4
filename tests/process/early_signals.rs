//! Signals that arrive while the daemon starts, as soon as there is a pid file.

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 4;
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "version 1\n"; } }
}
"#;

/// Each attempt may hit another moment of the start.
const TRIES: usize = 25;

/// A daemon at the moment when its pid file names it.
fn newborn() -> Daemon {
    let daemon = Setup::new(CONF).level("notice").spawn();
    let end = std::time::Instant::now() + crate::support::deadline();
    while daemon.read("pronghorn.pid").trim().parse() != Ok(daemon.pid()) {
        assert!(std::time::Instant::now() < end, "no pid file: {}", daemon.read("stderr"));
        std::hint::spin_loop(); // a sleep would miss the moment
    }
    daemon
}

fn ends_well(signal: Signal) {
    if is_stand_in() {
        return; // it may kill nginx
    }
    for attempt in 0..TRIES {
        let daemon = newborn();
        let status = daemon.stop(signal);
        assert_eq!(status.and_then(|status| status.code()), Some(0), "attempt {attempt}: {status:?}");
        assert!(!daemon.path("pronghorn.pid").exists(), "attempt {attempt}");
        assert_eq!(daemon.log_count("is killed|exited on signal"), 0, "attempt {attempt}: {}", daemon.log());
    }
}

#[test]
fn term_is_obeyed_as_soon_as_there_is_a_pid_file() {
    ends_well(Signal::SIGTERM);
}

#[test]
fn quit_is_obeyed_as_soon_as_there_is_a_pid_file() {
    ends_well(Signal::SIGQUIT);
}

#[test]
fn hup_is_obeyed_as_soon_as_there_is_a_pid_file() {
    if is_stand_in() {
        return;
    }
    for attempt in 0..TRIES {
        let daemon = newborn();
        daemon.rewrite(|text| text.replace("version 1", "version 2"));
        daemon.signal(Signal::SIGHUP);
        wait_for("the new configuration", || {
            let serves = daemon.log_count("gracefully shutting down") >= 4 && daemon.workers_now().len() == 4;
            serves.then_some(())
        });
        assert_eq!(get(daemon.port(0), "/").text(), "version 2\n", "attempt {attempt}");
    }
}

#[test]
fn a_reload_and_an_end_in_one_breath_end_it() {
    if is_stand_in() {
        return;
    }
    for _ in 0..TRIES {
        let daemon = newborn();
        daemon.signal(Signal::SIGHUP);
        daemon.signal(Signal::SIGHUP);
        assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
        assert_eq!(daemon.log_count("is killed|exited on signal"), 0, "{}", daemon.log());
    }
}
