//! Files that clients change: `dav_methods` and related directives.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::message::Response;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    client_body_temp_path %%DIR%%/temp;
    client_max_body_size 1m;
    absolute_redirect off;
    dav_methods PUT DELETE MKCOL COPY MOVE;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/files;
        location / { }
        location /read/ { dav_methods off; }
        location /deep/ { create_full_put_path on; min_delete_depth 3; dav_access user:rw group:rw all:r; }
        location ~ ^/regex/ { }
        location /alias/ { alias %%DIR%%/files/other/; }
        location /open { alias %%DIR%%/files/other/; }
        location /linked/ { alias %%DIR%%/files/linked/; disable_symlinks on from=%%DIR%%; create_full_put_path on; }
        location /owned/ { alias %%DIR%%/files/linked/; disable_symlinks if_not_owner from=%%DIR%%; }
        location /mirrored/ { mirror /mirror; }
        location /mirror { internal; dav_methods off; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start() -> (Origin, Daemon) {
    let origin = Origin::saying("mirrored");
    let setup = Setup::new(CONF).set("ORIGIN", origin.address());
    let setup = setup
        .file("files/regex/file", "regex")
        .file("files/other/file", "other")
        .file("files/mirrored/file", "")
        .file("files/read/file", "");
    (origin, setup.level("info").start())
}

/// Sends a request with these fields and a body, if there is one.
fn ask(daemon: &Daemon, line: &str, fields: &str, body: &[u8]) -> Response {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}{length}\r\n"));
    client.send(body);
    client.response()
}

fn status(daemon: &Daemon, line: &str, fields: &str) -> u16 {
    ask(daemon, line, fields, b"").status
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[test]
fn a_put_file_is_whole_whatever_its_length_and_framing() {
    let (_origin, daemon) = start();
    let long: Vec<u8> = (0..700_000u32).map(|at| (at % 251) as u8).collect();
    for (name, body) in [("empty", &b""[..]), ("short", b"short"), ("a%20b", b"x"), ("long", &long)] {
        let path = format!("/{name}");
        let created = ask(&daemon, &format!("PUT {path}"), "", body);
        assert_eq!((created.status, created.header("location")), (201, Some(&*path)), "{name}");
        assert_eq!(created.header("content-length"), Some("0"), "{name}");
        assert!(get(daemon.port(0), &path).body == body, "{name}");
        let replaced = ask(&daemon, &format!("PUT {path}"), "", b"again");
        assert_eq!((replaced.status, replaced.header("location")), (204, None), "{name}");
        assert_eq!(get(daemon.port(0), &path).text(), "again", "{name}");
    }
    let chunked = "PUT /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), chunked).status, 201);
    assert_eq!(daemon.read("files/chunked"), "abc");
    assert_eq!(mode(&daemon.path("files/chunked")), 0o600);
    assert_eq!(names(&daemon.path("temp")), [""; 0], "no temporary file is left");
    let date = "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
    assert_eq!(ask(&daemon, "PUT /dated", date, b"x").status, 201);
    assert_eq!(get(daemon.port(0), "/dated").header("last-modified"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
}

#[test]
fn an_upload_that_breaks_off_or_is_too_long_changes_nothing() {
    let (_origin, daemon) = start();
    assert_eq!(ask(&daemon, "PUT /file", "", b"before").status, 201);
    let mut client = Client::connect(daemon.port(0));
    client.send("PUT /file HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").send([b'x'; 50_000]);
    client.half_close();
    drop(client);
    daemon.wait_log("prematurely closed connection.*PUT /file");
    let head = "PUT /file HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), head).status, 413);
    assert_eq!(daemon.read("files/file"), "before");
    assert_eq!(names(&daemon.path("temp")), [""; 0]);
}

#[test]
fn directories_on_the_way_are_made_only_if_asked_for() {
    let (_origin, daemon) = start();
    assert_eq!(ask(&daemon, "PUT /none/file", "", b"x").status, 409);
    daemon.wait_log(r#"rename\(\) to ".*/files/none/file" failed \(2: No such file"#);
    assert_eq!(ask(&daemon, "PUT /deep/a/b/file", "", b"x").status, 201);
    assert_eq!(mode(&daemon.path("files/deep/a/b/file")), 0o664);
    assert_eq!(mode(&daemon.path("files/deep/a/b")), 0o775);
    assert_eq!(status(&daemon, "DELETE /deep/a/", ""), 409, "two elements of at least three");
    daemon.wait_log(r"insufficient URI depth:2 to DELETE");
    assert_eq!(status(&daemon, "DELETE /deep/a/b/", ""), 204);
    assert_eq!(names(&daemon.path("files/deep/a")), [""; 0]);
}

#[test]
fn conditions_protect_the_changes_of_others() {
    let (_origin, daemon) = start();
    let new = "If-None-Match: *\r\n";
    assert_eq!(ask(&daemon, "PUT /file", new, b"first").status, 201);
    assert_eq!(ask(&daemon, "PUT /file", new, b"second").status, 412);
    let tag = get(daemon.port(0), "/file").header("etag").expect("a tag").to_owned();
    assert_eq!(ask(&daemon, "PUT /file", &format!("If-Match: {tag}\r\n"), b"a longer one").status, 204);
    assert_eq!(ask(&daemon, "PUT /file", &format!("If-Match: {tag}\r\n"), b"third").status, 412);
    assert_eq!(status(&daemon, "DELETE /file", &format!("If-Match: {tag}\r\n")), 412);
    assert_eq!(status(&daemon, "DELETE /none", "If-Match: *\r\n"), 412);
    assert_eq!(daemon.read("files/file"), "a longer one");
}

/// The condition must hold when the file gets its name: the upload may take minutes.
#[test]
fn a_file_that_changes_during_an_upload_is_not_replaced() {
    let (_origin, daemon) = start();
    for (name, field) in
        [("new", "If-None-Match: *\r\n".to_owned()), ("old", "If-Match: %TAG%\r\n".to_owned())]
    {
        let path = format!("/{name}");
        let tag = match name {
            "old" => {
                assert_eq!(ask(&daemon, "PUT /old", "", b"before").status, 201);
                get(daemon.port(0), "/old").header("etag").expect("a tag").to_owned()
            }
            _ => String::new(),
        };
        let field = field.replace("%TAG%", &tag);
        let mut slow = Client::connect(daemon.port(0));
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n{field}\r\n"
        );
        slow.send(head);
        assert!(slow.line().starts_with(b"HTTP/1.1 100"), "the condition holds so far");
        slow.line();
        assert!(ask(&daemon, &format!("PUT {path}"), "", b"another's").status < 300);
        slow.send("mine");
        assert_eq!(slow.response().status, 412, "{name}");
        assert_eq!(daemon.read(&format!("files/{name}")), "another's");
    }
    assert_eq!(names(&daemon.path("temp")), [""; 0]);
}

/// One path is long enough for a tree that is too deep to be removed by a function that calls itself.
#[test]
fn a_tree_as_deep_as_paths_are_long_is_removed() {
    let (_origin, daemon) = start();
    let root = daemon.path("files/deep/a/b");
    let depth = (4000 - root.as_os_str().len()) / 2;
    let path = format!("/deep/a/b/{}", "d/".repeat(depth));
    assert_eq!(ask(&daemon, &format!("PUT {path}file"), "", b"x").status, 201);
    let worker = daemon.worker();
    assert_eq!(status(&daemon, "DELETE /deep/a/b/", ""), 204);
    assert!(!root.exists());
    assert_eq!(daemon.worker(), worker, "it is still the same process");
}

#[test]
fn copies_and_moves_stay_inside_what_is_served() {
    let (_origin, daemon) = start();
    let to = |destination: &str| format!("Destination: {destination}\r\n");
    let port = daemon.port(0);
    for destination in [
        "/../../secret",
        "/%2e%2e/secret",
        "/x/../y",
        "http://b/file",
        "https://a/file",
        "ftp://a/file",
        "http://ab/file",
        "http://a",
        "",
        "file",
        "/%zz",
        "/a%00b",
    ] {
        assert_eq!(status(&daemon, "COPY /other/file", &to(destination)), 400, "{destination}");
    }
    // Below a root the destination may be anywhere, as in nginx.
    for (from, text) in [("/deep/a/file", "deep"), ("/regex/file", "regex")] {
        if text == "deep" {
            assert_eq!(ask(&daemon, "PUT /deep/a/file", "", b"deep").status, 201);
        }
        assert_eq!(status(&daemon, &format!("COPY {from}"), &to("/other/copy")), 204, "{from}");
        assert_eq!(daemon.read("files/other/copy"), text);
    }
    std::fs::remove_file(daemon.path("files/other/copy")).expect("it is there");
    assert_eq!(status(&daemon, "MOVE /alias/file", &to("/elsewhere")), 400, "not below the alias");
    for line in
        ["PUT /open../put", "MKCOL /open../made/", "DELETE /open../read/file", "COPY /open../read/file"]
    {
        assert_eq!(status(&daemon, line, &to("/open/x")), 404, "{line}: the alias leads upwards");
    }
    assert_eq!(status(&daemon, "COPY /open/file", &to("/open../copied")), 404);
    assert!(daemon.path("files/read/file").exists() && !daemon.path("files/put").exists());
    assert_eq!(status(&daemon, "COPY /alias/file", &to("/alias/new")), 204);
    assert_eq!(daemon.read("files/other/new"), "other");
    assert_eq!(status(&daemon, "COPY /other/file", &to(&format!("http://A:{port}/copied?x#y"))), 204);
    assert_eq!(daemon.read("files/copied"), "other");
    assert_eq!(status(&daemon, "COPY /other/", &to("/tree/")), 201);
    assert_eq!(status(&daemon, "COPY /other/", &to("/other/tree/")), 403);
    assert_eq!(status(&daemon, "MOVE /tree/", &(to("/copied/") + "Overwrite: F\r\n")), 412);
    assert_eq!(status(&daemon, "MOVE /tree/", &to("/moved/")), 201);
    assert_eq!(daemon.read("files/moved/file"), "other");
    assert!(!daemon.path("files/tree").exists());
}

/// nginx asks `disable_symlinks` only where it reads files.
#[test]
fn links_that_are_forbidden_lead_no_change_elsewhere() {
    let (_origin, daemon) = start();
    std::fs::create_dir_all(daemon.path("files/linked/own")).expect("a folder");
    std::fs::create_dir_all(daemon.path("outside/sub")).expect("a folder");
    daemon.write("outside/secret", "secret");
    daemon.write("files/linked/file", "own");
    for (name, target) in [("out", "outside"), ("direct", "outside/secret")] {
        std::os::unix::fs::symlink(daemon.path(target), daemon.path("files/linked").join(name))
            .expect("a link");
    }
    let to = |destination: &str| format!("Destination: /linked/{destination}\r\n");
    for (line, fields) in [
        ("PUT /linked/out/new", String::new()),
        ("PUT /linked/out/a/new", String::new()),
        ("MKCOL /linked/out/made/", String::new()),
        ("DELETE /linked/out/secret", String::new()),
        ("DELETE /linked/out/sub/", String::new()),
        ("DELETE /linked/out/", String::new()),
        ("COPY /linked/out/secret", to("copy")),
        ("COPY /linked/out/", to("copies/")),
        ("MOVE /linked/out/secret", to("moved")),
        ("COPY /linked/file", to("out/copied")),
        ("COPY /linked/own/", to("out/copied/")),
        ("MOVE /linked/own/", to("out/moved/")),
        ("COPY /linked/direct", to("copy")),
    ] {
        assert_eq!(status(&daemon, line, &fields), 403, "{line}");
    }
    assert_eq!(ask(&daemon, "PUT /linked/out/new", "If-None-Match: *\r\n", b"text").status, 403);
    let mut left = names(&daemon.path("outside"));
    left.sort();
    assert_eq!((left, daemon.read("outside/secret")), (vec!["secret".into(), "sub".into()], "secret".into()));
    let mut left = names(&daemon.path("files/linked"));
    left.sort();
    assert_eq!(left, ["direct", "file", "out", "own"]);
    daemon.wait_log("/linked/out/new\" has a link that \"disable_symlinks\" forbids");
    // A link at the end is not followed but changed, and the owner is the same here.
    assert_eq!(ask(&daemon, "PUT /linked/direct", "", b"new").status, 204);
    assert_eq!(
        (daemon.read("files/linked/direct"), daemon.read("outside/secret")),
        ("new".into(), "secret".into())
    );
    assert_eq!(ask(&daemon, "PUT /linked/a/b", "", b"new").status, 201);
    assert_eq!(status(&daemon, "COPY /linked/own/", &to("copies/")), 201);
    assert_eq!(status(&daemon, "DELETE /linked/out", ""), 204);
    std::os::unix::fs::symlink(daemon.path("outside"), daemon.path("files/linked/out")).expect("a link");
    assert_eq!(ask(&daemon, "PUT /owned/out/new", "", b"new").status, 201);
    assert!(daemon.path("outside/new").exists());
}

#[test]
fn what_is_not_allowed_is_refused() {
    let (_origin, daemon) = start();
    for method in ["PUT", "DELETE", "MKCOL", "COPY", "MOVE"] {
        assert_eq!(
            status(&daemon, &format!("{method} /read/file"), "Destination: /read/x\r\n"),
            405,
            "{method}"
        );
    }
    assert_eq!(status(&daemon, "PROPFIND /other/", ""), 405);
    for method in ["DELETE", "MKCOL", "COPY", "MOVE"] {
        assert_eq!(ask(&daemon, &format!("{method} /other/"), "", b"body").status, 415, "{method}");
    }
    for depth in ["1", "2", "Infinity", ""] {
        let depth = format!("Depth: {depth}\r\n");
        assert_eq!(status(&daemon, "DELETE /other/file", &depth), 400, "{depth}");
    }
    assert_eq!(status(&daemon, "DELETE /other", ""), 409);
    assert_eq!(status(&daemon, "MKCOL /other/", ""), 405);
    assert_eq!(ask(&daemon, "PUT /other", "", b"x").status, 409);
    assert_eq!(ask(&daemon, "PUT /range", "Content-Range: bytes 0-0/9\r\n", b"x").status, 501);
    assert_eq!(daemon.read("files/other/file"), "other");
}

#[test]
fn a_body_that_a_mirror_has_read_is_put_too() {
    let (origin, daemon) = start();
    let long = "0123456789".repeat(20_000);
    for body in ["short", &long] {
        assert_eq!(ask(&daemon, "PUT /mirrored/file", "", body.as_bytes()).status, 204);
        assert!(daemon.read("files/mirrored/file") == body, "{} bytes", body.len());
    }
    origin.wait_requests(2);
}

#[test]
fn a_mistake_in_the_configuration_is_explained() {
    let setup = Setup::new("http { dav_methods PUT PATCH; dav_access user:x; }");
    let told = setup.run(&["-t"]);
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success());
    for wanted in ["invalid value \"PATCH\"", "write off, or some of PUT, DELETE", "invalid value \"user:x\""]
    {
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn a_location_where_everybody_may_write_is_a_warning() {
    for (lines, is_open) in [
        ("dav_methods PUT;", true),
        ("dav_methods off;", false),
        ("dav_methods PUT; deny all;", false),
        ("dav_methods PUT; limit_except GET { deny all; }", false),
        ("dav_methods PUT DELETE; limit_except GET PUT { deny all; }", true),
        ("dav_methods PUT; proxy_pass http://127.0.0.1:1;", false),
    ] {
        let setup = Setup::new("http { server { listen 127.0.0.1:%%PORT_0%%; location / { %%LINES%% } } }");
        let told = setup.set("LINES", lines).run(&["-t"]);
        let text = String::from_utf8_lossy(&told.stderr);
        assert_eq!(text.contains("every client may change files here"), is_open, "{lines}: {text}");
    }
}
