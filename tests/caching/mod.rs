//! The response cache: `proxy_cache` and the directives around it.
//!
//! A lifetime that ended long ago (`X-Accel-Expires: @1`) makes an answer stale at once, so that hardly any test waits
//! for a second to pass.

mod broken;
mod exchange;
mod failures;
mod lifetimes;
mod lock;
mod numbers;
mod removal;
mod stale;
mod statuses;
mod vary;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::support::message::{Request, Response};
use crate::support::{Daemon, Origin, Setup, fetch, get, wait_for};

/// `%%CACHE%%` is the directory of the cache, `%%SERVER%%` is added to the server.
const CONF: &str = r#"
worker_processes 1;
http {
    proxy_temp_path %%DIR%%/under-way;
    proxy_cache_path %%CACHE%% levels=1:2 keys_zone=c:1m;
    proxy_cache_key $request_uri;
    add_header X-Cache $upstream_cache_status always;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_cache c;
        %%SERVER%%
        location / { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn setup(origin: &Origin, server: &str) -> Setup {
    setup_with(origin, server, "")
}

/// With further parameters of `proxy_cache_path`.
fn setup_with(origin: &Origin, server: &str, parameters: &str) -> Setup {
    let setup = Setup::new(CONF).set("SERVER", server).set("ORIGIN", origin.address());
    let cache = setup.folder().join("cache");
    setup.set("CACHE", format!("{} {parameters}", cache.display()))
}

/// With the cache in another directory, which may be on another disk and outlives the daemon.
fn setup_at(origin: &Origin, server: &str, cache: &Path) -> Setup {
    let setup = Setup::new(CONF).set("SERVER", server).set("ORIGIN", origin.address());
    setup.set("CACHE", format!("{} use_temp_path=off", cache.display()))
}

fn start(origin: &Origin, server: &str) -> Daemon {
    setup(origin, server).start()
}

/// The value of `$upstream_cache_status`; `-` for none.
fn status(response: &Response) -> &str {
    response.header("x-cache").unwrap_or("-")
}

/// Status and body of the answer to a GET on a connection of its own.
fn ask(daemon: &Daemon, path: &str) -> (String, String) {
    let response = get(daemon.port(0), path);
    (status(&response).to_owned(), response.text())
}

/// The answer to a GET with these field lines, each with its CRLF.
fn ask_with(daemon: &Daemon, path: &str, fields: &str) -> Response {
    fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n"))
}

/// An origin that numbers its answers: the body of the third one to a target is `/target 3`. The fields of an answer,
/// each with its CRLF, come from `fields`.
fn numbering(fields: impl Fn(&Request, usize) -> String + Send + Sync + 'static) -> Origin {
    let counts = Mutex::new(std::collections::HashMap::<String, usize>::new());
    Origin::replying(move |request| {
        let mut counts = counts.lock().expect("not poisoned");
        let count = counts.entry(request.target.clone()).or_default();
        *count += 1;
        answer(&fields(request, *count), &format!("{} {count}", request.target), request)
    })
}

/// An origin that numbers its answers and allows each to be stored for an hour.
fn storable() -> Origin {
    numbering(|_, _| "X-Accel-Expires: 3600\r\n".into())
}

/// A 200 with these field lines and this body, without it to HEAD.
fn answer(fields: &str, body: &str, request: &Request) -> Vec<u8> {
    let sent = if request.method == "HEAD" { "" } else { body };
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{sent}", body.len()).into_bytes()
}

/// All files below a folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_in(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files
}

/// The files of stored answers, whose names are digests; files that are being written have others.
fn stored(daemon: &Daemon) -> Vec<PathBuf> {
    let is_digest = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 32);
    files_in(&daemon.path("cache")).into_iter().filter(is_digest).collect()
}

/// Waits until so many answers are stored: a client may have its answer before the file has its name.
fn wait_stored(daemon: &Daemon, count: usize) {
    wait_for("files in the cache", || (stored(daemon).len() == count).then_some(()));
}

/// Waits until no file is being written.
fn wait_idle(daemon: &Daemon) {
    wait_for("files under way to be gone", || {
        let mut all = files_in(&daemon.path("cache"));
        all.retain(|path| !path.ends_with(".purges")); // no answer
        all.extend(files_in(&daemon.path("under-way")));
        (all.len() == stored(daemon).len()).then_some(())
    });
}
