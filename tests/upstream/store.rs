//! `proxy_store`: responses stored as files, whole or not at all.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
http {
    proxy_temp_path %%DIR%%/under-way;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/kept;
        location / { proxy_pass http://%%ORIGIN%%; proxy_store on; }
        location /named/ { proxy_pass http://%%ORIGIN%%; proxy_store %%DIR%%/other$uri.copy; proxy_store_access user:rw group:rw all:r; }
        location /blocked/ { proxy_pass http://%%ORIGIN%%; proxy_store %%DIR%%/pronghorn.conf/x; }
    }
}
"#;

const BIG: usize = 300_000;

fn start() -> (Origin, Daemon) {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let head = "HTTP/1.1 200 OK\r\n";
            let answer = match request.target.as_str() {
                "/big" => format!("{head}Content-Length: {BIG}\r\n\r\n{}", "x".repeat(BIG)),
                "/cut" | "/stuck" => format!("{head}Content-Length: 10\r\n\r\nhalf"),
                "/404" => "HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno".to_owned(),
                "/chunked" => {
                    format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
                }
                _ => {
                    let date = "Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT";
                    let body = if request.method == "HEAD" { "" } else { "hello" };
                    format!("{head}{date}\r\nContent-Length: 5\r\n\r\n{body}")
                }
            };
            peer.send(answer);
            match request.target.as_str() {
                "/cut" => return,
                "/stuck" => {
                    peer.request();
                    return;
                }
                _ => {}
            }
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (origin, daemon)
}

/// Waits until no file is being written.
fn wait_idle(daemon: &Daemon) {
    wait_for("files under way to be gone", || {
        (std::fs::read_dir(daemon.path("under-way")).expect("made at the start").count() == 0).then_some(())
    });
}

#[test]
fn whole_answers_become_files() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    for (path, name, expected) in [
        ("/small", "kept/small", b"hello".to_vec()),
        ("/deep/er/small", "kept/deep/er/small", b"hello".to_vec()),
        ("/big", "kept/big", vec![b'x'; BIG]),
        ("/chunked", "kept/chunked", b"onetwo".to_vec()),
        ("/named/a?q", "other/named/a.copy", b"hello".to_vec()),
    ] {
        let response = client.get(path);
        assert_eq!((response.status, response.body == expected), (200, true), "{path}");
        wait_for("the file", || daemon.path(name).exists().then_some(()));
        assert!(std::fs::read(daemon.path(name)).expect("it exists") == expected, "{name}");
    }
    wait_idle(&daemon);
    let meta = std::fs::metadata(daemon.path("kept/small")).expect("it exists");
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let modified = UNIX_EPOCH + Duration::from_secs(23_349_600);
    assert_eq!(meta.modified().expect("a time"), modified, "the answer's Last-Modified");
    let meta = std::fs::metadata(daemon.path("other/named/a.copy")).expect("it exists");
    assert_eq!(meta.permissions().mode() & 0o777, 0o664);
}

#[test]
fn no_client_has_a_file_stored_above_the_directory() {
    let origin = Origin::saying("evil");
    let conf = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /i { alias %%DIR%%/kept/i/; proxy_pass http://%%ORIGIN%%; proxy_store on; }
        location /arg { proxy_pass http://%%ORIGIN%%; proxy_store %%DIR%%/x/../kept/$arg_name; }
    }
}"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    for folder in ["kept/i", "x"] {
        std::fs::create_dir_all(daemon.path(folder)).expect("the folder is ours");
    }
    for target in ["/i../evil", "/arg?name=../evil", "/arg?name=a/../../evil"] {
        assert_eq!(get(daemon.port(0), target).text(), "evil", "{target}");
    }
    for target in ["/i/good", "/arg?name=good", "/arg?name=..good"] {
        assert_eq!(get(daemon.port(0), target).text(), "evil", "{target}");
    }
    for name in ["kept/i/good", "kept/good", "kept/..good"] {
        wait_for(name, || daemon.path(name).exists().then_some(()));
    }
    assert!(!daemon.path("evil").exists() && !daemon.path("kept/evil").exists());
    assert_eq!(daemon.log_count("leads out of its directory"), 3, "{}", daemon.log());
}

#[test]
fn others_leave_nothing() {
    let (_origin, daemon) = start();
    let port = daemon.port(0);
    assert_eq!(get(port, "/404").status, 404);
    let mut client = Client::connect(port);
    client.send("HEAD /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    client.expect_end();
    for path in ["/cut", "/stuck"] {
        let mut client = Client::connect(port);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.response_head();
        assert_eq!(client.exactly(4), b"half");
        drop(client);
    }
    wait_idle(&daemon);
    for name in ["404", "head", "cut", "stuck"] {
        assert!(!daemon.path("kept").join(name).exists(), "{name}");
    }
}

#[test]
fn a_killed_worker_leaves_nothing() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head();
    assert_eq!(client.exactly(4), b"half");
    let (worker, folder) = (daemon.worker(), daemon.path("under-way"));
    // The file may have no name, but a descriptor.
    wait_for("the file", || {
        let mut open = std::fs::read_dir(format!("/proc/{worker}/fd")).ok()?.flatten();
        open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&folder))).then_some(())
    });
    send(worker, Signal::SIGKILL);
    client.rest();
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (!now.is_empty() && !now.contains(&worker)).then_some(())
    });
    if !is_stand_in() {
        // nginx leaves its temporary file there.
        wait_idle(&daemon);
    }
    assert!(!daemon.path("kept/stuck").exists());
}

#[test]
fn a_file_that_cannot_be_written_does_not_hurt_the_answer() {
    let (_origin, daemon) = start();
    assert_eq!(get(daemon.port(0), "/blocked/a").text(), "hello");
    daemon.wait_log("\\[error\\] .*pronghorn.conf.* failed .*: this response is not stored");
    wait_idle(&daemon);
}
