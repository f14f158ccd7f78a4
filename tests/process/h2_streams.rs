//! Reloads and binary upgrades while streams of HTTP/2 are under way: short requests, downloads that last longer than a
//! generation, and calls of gRPC of all kinds.
//!
//! `PRONGHORN_TEST_RELOADS` is the number of reloads (4), with an upgrade after every twenty of them and after the last;
//! with more than four, downloads and calls take ten seconds each.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::upgrade::upgrade;
use crate::support::daemon::send;
use crate::support::h2_load::{self, H2Load, Plan};
use crate::support::{Setup, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    http2 on;
    access_log off;
    keepalive_requests 100000000;
    upstream u { server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location = /proxied { proxy_http_version 2; proxy_pass http://u; }
        location /svc/ { grpc_pass u; }
        location = /download { alias %%DIR%%/file; limit_rate %%RATE%%; }
        # version 0
    }
}
"#;

/// Reloads between two upgrades.
const RELOADS_A_ROUND: usize = 20;

#[test]
fn no_stream_fails_through_reloads_and_upgrades() {
    let reloads =
        std::env::var("PRONGHORN_TEST_RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let seconds = if reloads > 4 { 10 } else { 1 };
    let rate = 100_000;
    // what a second may carry is sent at once
    let plan = Plan { download_bytes: rate * (seconds + 1), call: Duration::from_secs(seconds as u64) };
    let setup = Setup::new(CONF).set("ORIGIN", h2_load::origin()).set("RATE", rate);
    let daemon = setup.file("file", vec![b'x'; plan.download_bytes]).level("notice").in_background().start();
    let load = H2Load::start(daemon.port(0), plan);
    load.wait(20);
    for done in 1..=reloads {
        let (from, to) = (format!("# version {}\n", done - 1), format!("# version {done}\n"));
        daemon.rewrite(|text| text.replace(&from, &to));
        // the next one does not wait for the streams of the earlier workers
        let served = daemon.log_count("serves configuration");
        daemon.signal(Signal::SIGHUP);
        wait_for("a new generation", || (daemon.log_count("serves configuration") > served).then_some(()));
        load.wait(50);
        if done % RELOADS_A_ROUND == 0 || done == reloads {
            let old = daemon.pid();
            let new = upgrade(&daemon);
            load.wait(50);
            send(old, Signal::SIGQUIT);
            wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
            daemon.follow(new);
        }
    }
    load.wait_all();
    eprintln!("{}", load.finish());
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}
