//! A directory that nginx has filled serves hits, and the other way round.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{answer, ask_with, files_in, setup_at, status};
use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Origin, wait_for};

/// The installed nginx; otherwise says on the terminal, past cargo's capture, that nothing is compared.
fn nginx() -> Option<PathBuf> {
    let found = crate::support::program::find(&["nginx"]).or_else(|| {
        let usual = PathBuf::from("/usr/sbin/nginx");
        usual.is_file().then_some(usual)
    });
    if found.is_none() {
        assert!(std::env::var_os("PRONGHORN_NEED_NGINX").is_none(), "nginx is not installed");
        let _ = writeln!(std::io::stderr(), "caching: SKIPPED, nginx is not installed");
    }
    found
}

const SERVER: &str = "proxy_cache_valid 404 1h; proxy_cache_revalidate on; proxy_http_version 1.1;";

fn start(origin: &Origin, path: &Path, program: Option<&Path>) -> Daemon {
    let setup = setup_at(origin, SERVER, path);
    program.into_iter().fold(setup, |setup, program| setup.program(program)).start()
}

/// Paths with fields of the request; each is an entry of its own.
const REQUESTS: [(&str, &str); 9] = [
    ("/plain", ""),
    ("/tagged?a=b%20c", ""),
    ("/vary", ""),
    ("/vary", "Accept-Encoding: gzip,  br\r\nX-A: 1\r\n"),
    ("/vary", "X-A: 1\r\nX-A: 2\r\n"),
    ("/chunked", ""),
    ("/404", ""),
    ("/empty", ""),
    ("/big", ""),
];

fn origin() -> Origin {
    Origin::replying(|request| {
        let body = request.header("x-a").unwrap_or("none");
        let tag = "ETag: \"tag\"\r\n";
        match request.target.as_str() {
            "/plain" => answer("X-Accel-Expires: 3600\r\n", body, request),
            "/vary" => answer("X-Accel-Expires: 3600\r\nVary: Accept-Encoding, X-A\r\n", body, request),
            "/empty" => answer("X-Accel-Expires: 3600\r\n", "", request),
            "/big" => answer("X-Accel-Expires: 3600\r\n", &"0123456789".repeat(50_000), request),
            "/404" => b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nlost".to_vec(),
            "/chunked" => b"HTTP/1.1 200 OK\r\nX-Accel-Expires: 3600\r\nTransfer-Encoding: chunked\r\n\r\n\
                            3\r\nabc\r\n0\r\n\r\n"
                .to_vec(),
            "/stale" if request.header("if-none-match") == Some("\"tag\"") => {
                format!("HTTP/1.1 304 Same\r\nX-Accel-Expires: 3600\r\n{tag}\r\n").into_bytes()
            }
            "/stale" => answer(&format!("X-Accel-Expires: @1\r\n{tag}"), body, request),
            _ => {
                let modified = "Last-Modified: Thu, 02 Jan 2020 03:04:05 GMT\r\n";
                answer(&format!("Cache-Control: max-age=3600\r\n{tag}{modified}"), body, request)
            }
        }
    })
}

/// Fills a directory by one program and serves from it by the other.
fn exchange(fills: Option<&Path>, serves: Option<&Path>) {
    let origin = origin();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("cache");
    let daemon = start(&origin, &path, fills);
    let mut bodies = Vec::new();
    for (count, (target, fields)) in REQUESTS.into_iter().enumerate() {
        let response = ask_with(&daemon, target, fields);
        assert_eq!(status(&response), "MISS", "{target}");
        bodies.push((response.status, response.body));
        wait_for("its file", || (files_in(&path).len() == count + 1).then_some(()));
    }
    ask_with(&daemon, "/stale", "");
    wait_for("the last file", || (files_in(&path).len() == REQUESTS.len() + 1).then_some(()));
    drop(daemon);
    let asked = origin.requests().len();

    let daemon = start(&origin, &path, serves);
    for ((target, fields), body) in REQUESTS.into_iter().zip(bodies) {
        let response = ask_with(&daemon, target, fields);
        assert_eq!(status(&response), "HIT", "{target} {fields}");
        assert_eq!((response.status, response.body), body, "{target} {fields}");
    }
    assert_eq!(ask_with(&daemon, "/tagged?a=b%20c", "If-None-Match: \"tag\"\r\n").status, 304);
    assert_eq!(origin.requests().len(), asked, "the origin is not needed");
    // an update of the other program's file in place
    for expected in ["REVALIDATED", "HIT"] {
        let response = ask_with(&daemon, "/stale", "");
        assert_eq!((status(&response), response.text()), (expected, "none".into()));
    }
    drop(daemon);
    let daemon = start(&origin, &path, fills);
    assert_eq!(status(&ask_with(&daemon, "/stale", "")), "HIT", "and back");
    let other = ask_with(&daemon, "/vary", "X-A: 9\r\n");
    assert_eq!((status(&other), other.text()), ("MISS", "9".into()));
}

#[test]
fn what_nginx_has_stored_is_served() {
    if let Some(nginx) = nginx().filter(|_| !is_stand_in()) {
        exchange(Some(&nginx), None);
    }
}

#[test]
fn what_is_stored_here_is_served_by_nginx() {
    if let Some(nginx) = nginx() {
        exchange(None, Some(&nginx));
    }
}
