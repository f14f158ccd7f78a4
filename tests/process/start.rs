//! Starting: in the foreground, as a daemon, and what stands in the way.

use nix::sys::signal::Signal;

use crate::support::{Setup, get, process};

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
    let status = daemon.stop(Signal::SIGINT);
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

#[test]
fn in_the_background_the_pid_file_names_the_master() {
    let daemon = Setup::new(CONF).in_background().start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert!(process::title(daemon.pid()).contains("master process"));
    daemon.stop(Signal::SIGQUIT);
    assert!(!daemon.path("pronghorn.pid").exists(), "the pid file goes with the master");
}
