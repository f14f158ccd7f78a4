//! Files that change while they are served: without `open_file_cache` a response is always what a fresh open
//! would give; with it nginx's rules apply.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Response, Setup};

const CONF: &str = r#"
worker_processes 1;
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / { }
        location /off/ { open_file_cache off; alias %%DIR%%/site/; }
        location /on/ { open_file_cache max=10 inactive=1h; open_file_cache_valid 1h; alias %%DIR%%/site/; }
        location /errors/ {
            open_file_cache max=10; open_file_cache_errors on; open_file_cache_valid 1h; alias %%DIR%%/site/;
        }
        location /third/ {
            open_file_cache max=10; open_file_cache_min_uses 3; open_file_cache_valid 1h; alias %%DIR%%/site/;
        }
        location /few/ { open_file_cache max=2; open_file_cache_valid 1h; alias %%DIR%%/site/; }
        location /source/ { alias %%SOURCE%%/; }
    }
}
"#;

struct Site {
    daemon: Daemon,
    client: Client,
}

impl Site {
    fn start() -> Self {
        let daemon = Setup::new(CONF).set("SOURCE", env!("CARGO_MANIFEST_DIR")).file("site/a", "one").start();
        let client = Client::connect(daemon.port(0));
        Self { daemon, client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.path("site").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the folder is ours");
    }

    /// Replaces it by another file, as editors and deployments do.
    fn replace(&self, name: &str, content: &str) {
        self.write("new", content);
        fs::rename(self.path("new"), self.path(name)).expect("the folder is ours");
    }

    fn get(&mut self, path: &str) -> Response {
        self.client.get(path)
    }

    fn text(&mut self, path: &str) -> String {
        self.get(path).text()
    }
}

#[test]
fn without_the_directive_every_change_is_seen_at_once() {
    let mut site = Site::start();
    for path in ["/a", "/off/a"] {
        for round in 0..200 {
            // the same length in the same tick of the clock
            let content = format!("{round:06}");
            if round % 3 == 0 {
                site.replace("a", &content)
            } else {
                site.write("a", &content)
            }
            assert_eq!(site.text(path), content, "{path}");
            assert_eq!(site.text(path), content, "{path}");
        }
        site.write("a", &"long".repeat(30_000));
        assert_eq!(site.get(path).body.len(), 120_000);
        site.write("a", &"short".repeat(20_000));
        assert_eq!(site.text(path), "short".repeat(20_000));
        site.replace("a", &"other".repeat(20_000));
        assert_eq!(site.text(path), "other".repeat(20_000));
        fs::remove_file(site.path("a")).unwrap();
        assert_eq!(site.get(path).status, 404);
        fs::create_dir(site.path("a")).unwrap();
        assert_eq!(site.get(path).status, 301);
        fs::remove_dir(site.path("a")).unwrap();
        site.write("a", "again");
        assert_eq!(site.text(path), "again");
    }
}

#[test]
fn a_file_that_was_left_alone_is_kept_and_still_looked_at() {
    let mut site = Site::start();
    let source = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    let (small, other) = ("Cargo.toml", "rustfmt.toml");
    symlink(source(small), site.path("link")).unwrap();
    let expected = fs::read(source(small)).unwrap();
    for _ in 0..3 {
        assert!(site.get("/link").body == expected);
        assert!(site.get("/source/Cargo.toml").body == expected);
    }
    symlink(source(other), site.path("new")).unwrap();
    fs::rename(site.path("new"), site.path("link")).unwrap();
    let response = site.get("/link");
    assert!(response.body == fs::read(source(other)).unwrap(), "the link leads elsewhere now");
    assert_eq!(response.length(), Some(response.body.len()));
    fs::remove_file(site.path("link")).unwrap();
    assert_eq!(site.get("/link").status, 404);
    symlink("link", site.path("link")).unwrap();
    assert_eq!(site.get("/link").status, 403, "round and round");
}

#[test]
fn what_may_not_be_read_any_more_is_not_served() {
    let mut site = Site::start();
    if nix::unistd::geteuid().is_root() {
        return; // this user may read everything
    }
    assert_eq!(site.text("/a"), "one");
    fs::set_permissions(site.path("a"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(site.get("/a").status, 403);
    fs::set_permissions(site.path("a"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(site.text("/a"), "one");
}

#[test]
fn with_the_directive_what_is_known_is_believed_for_its_time() {
    let mut site = Site::start();
    assert_eq!(site.text("/on/a"), "one");
    site.replace("a", "two");
    assert_eq!(site.text("/on/a"), "one", "known for an hour");
    assert_eq!(site.text("/a"), "two");
    fs::remove_file(site.path("a")).unwrap();
    assert_eq!(site.text("/on/a"), "one");
    assert_eq!(site.get("/on/b").status, 404);
    site.write("b", "new");
    assert_eq!(site.text("/on/b"), "new", "errors are not kept");
}

#[test]
fn errors_are_kept_where_asked_for() {
    let mut site = Site::start();
    assert_eq!(site.get("/errors/b").status, 404);
    site.write("b", "new");
    assert_eq!(site.get("/errors/b").status, 404);
    assert_eq!(site.text("/b"), "new");
}

#[test]
fn a_file_is_kept_after_so_many_uses_and_only_so_many_are() {
    let mut site = Site::start();
    for content in ["v1", "v2", "v3"] {
        site.replace("a", content);
        assert_eq!(site.text("/third/a"), content);
    }
    site.replace("a", "v4");
    assert_eq!(site.text("/third/a"), "v3", "used often enough");
    for name in ["a", "b", "c"] {
        site.write(name, "old");
        assert_eq!(site.text(&format!("/few/{name}")), "old");
    }
    for name in ["a", "b", "c"] {
        site.replace(name, "new");
    }
    if !is_stand_in() {
        assert_eq!(site.text("/few/c"), "old");
    }
    assert_eq!(site.text("/few/a"), "new", "the least recently used went");
}

#[test]
fn mistakes_are_named() {
    if is_stand_in() {
        return; // its messages differ
    }
    for (text, expected) in [
        ("open_file_cache inactive=5s;", "must have the \"max\" parameter"),
        ("open_file_cache max=x;", "invalid number of files"),
        ("open_file_cache max=5 inactive=x;", "invalid time"),
        ("open_file_cache max=5 mix=3;", "invalid \"open_file_cache\" parameter \"mix=3\""),
        ("open_file_cache_min_uses 0;", "open_file_cache_min_uses"),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {text} }} }}");
        let exit = Setup::new(&conf).try_start().err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(exit.stderr.contains(expected), "{text}: {}", exit.stderr);
    }
}
