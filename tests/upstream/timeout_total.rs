//! `proxy_timeout_total`: ends a proxied request, whatever its upstreams are doing.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::deadline::deadline;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup};

const CONF: &str = r#"
http {
    upstream two { server %%SILENT%% max_fails=0; server %%SILENT%% max_fails=0; server %%SILENT%% max_fails=0; }
    upstream mixed { server %%SILENT%%; server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_timeout_total 600ms;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /silent { proxy_pass http://%%SILENT%%; }
        location /tries { proxy_read_timeout 250ms; proxy_pass http://two; }
        location /mixed { proxy_pass http://mixed; }
        location /any { proxy_timeout_total 0; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start(origin: &Origin, silent: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).set("SILENT", silent.address()).level("info").start()
}

fn silent() -> Origin {
    Origin::start(|peer| while peer.request().is_some() {})
}

#[test]
fn a_request_without_an_answer_ends_with_504() {
    let (origin, silent) = (Origin::saying("ok"), silent());
    let daemon = start(&origin, &silent);
    let mut client = Client::connect(daemon.port(0));
    for (path, asked) in [("/silent", 1), ("/tries", 4)] {
        let begun = Instant::now();
        assert_eq!(client.get(path).status, 504, "{path}");
        let took = begun.elapsed();
        assert!((Duration::from_millis(590)..Duration::from_secs(5)).contains(&took), "{path} took {took:?}");
        silent.wait_requests(asked);
    }
    assert_eq!(silent.requests().len(), 4, "the third try was under way at the end");
    daemon.wait_log(
        "upstream timed out: the answer was not complete in time \\(\"proxy_timeout_total\" is 600ms at .*:[0-9]+\\)",
    );
    assert_eq!(client.get("/").text(), "ok", "the client's connection goes on");
}

#[test]
fn an_answer_that_takes_too_long_is_cut() {
    let (stop, stopped) = channel::<()>();
    let stopped = Mutex::new(stopped);
    let origin = Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            if request.target == "/any" {
                peer.send(ok(b"fine"));
                continue;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin");
            let _ = stopped.lock().unwrap().recv_timeout(deadline());
        }
    });
    let silent = silent();
    let daemon = start(&origin, &silent);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /body HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.rest().0, b"begin", "the connection ends inside the body");
    stop.send(()).unwrap();
    assert_eq!(Client::connect(daemon.port(0)).get("/any").text(), "fine");
}

#[test]
fn a_server_that_used_the_time_up_is_to_blame() {
    let (origin, silent) = (Origin::saying("ok"), silent());
    let daemon = start(&origin, &silent);
    let mut client = Client::connect(daemon.port(0));
    let statuses: Vec<u16> = (0..6).map(|_| client.get("/mixed").status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 504).count(), 1, "{statuses:?}");
    daemon.wait_log("upstream server temporarily disabled");
}
