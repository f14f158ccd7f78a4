//! What a whole line looks like and which target gets it.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::log;

/// A directory with one log in it, opened.
struct Bench {
    dir: tempfile::TempDir,
    _lease: Option<Lease>,
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().expect("a directory"), _lease: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn target(&self, name: &str) -> Target {
        let target = Target::file(&self.path(name));
        target.open_early().expect("opens");
        target
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).expect("reads");
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(str::to_owned).collect()
    }
}

/// A request as the proxy knows it.
struct Request;

impl Context for Request {
    fn connection(&self) -> Option<u64> {
        Some(7)
    }

    fn action(&self) -> Option<&str> {
        Some("connecting to upstream")
    }

    fn fields(&self, fields: &mut Fields<'_>) {
        fields
            .plain("client", "127.0.0.1")
            .plain("server", "a.test")
            .quoted("request", b"GET /\"\n HTTP/1.1");
        fields.quoted("upstream", b"http://127.0.0.1:1/").quoted("host", b"a.test");
    }
}

/// The line without its time, pid and tid.
fn rest(line: &str) -> String {
    let (time, rest) = line.split_at(20);
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999/99/99 99:99:99 ");
    let id = format!(" {}#{}: ", std::process::id(), nix::unistd::gettid());
    assert!(rest.contains(&id), "{rest}");
    rest.replacen(&id, " ", 1)
}

#[test]
fn a_line_is_nginx_s() {
    let bench = Bench::new();
    let logger = Logger::of(&[(bench.target("e.log"), Level::Error)]);
    let error = std::io::Error::from_raw_os_error(111);
    log::error!(logger, &Request, "connect() failed {}", Cause(&error));
    log::crit!(logger, &(), "lost\nlines"; "count" => 5, "why" => %"x");
    log::warn!(logger, &(), "not wanted");
    let lines = bench.lines("e.log");
    assert_eq!(lines.len(), 2);
    assert_eq!(
        rest(&lines[0]),
        "[error] *7 connect() failed (111: Connection refused) while connecting to upstream, client: 127.0.0.1, \
         server: a.test, request: \"GET /\\x22\\x0A HTTP/1.1\", upstream: \"http://127.0.0.1:1/\", host: \"a.test\""
    );
    assert_eq!(rest(&lines[1]), "[crit] lost\\x0Alines, count: 5, why: x");
}
