//! Ways out of a directory, in every spelling, and names that are not files: nothing outside is ever served.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Setup, get};

const CONF: &str = r#"
worker_processes 1;
http {
    large_client_header_buffers 4 32k;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        autoindex on;
        location / { root %%DIR%%/site; }
        location /i { alias %%DIR%%/site/; }
        location /j/ { alias %%DIR%%/site/; }
        location ~ ^/re(.*)$ { alias %%DIR%%/site/$1; }
        location /try { root %%DIR%%/site; try_files /folder/$arg_x =404; }
        location /tries/ { alias %%DIR%%/site/; try_files $uri$arg_x =404; }
        location /var/ { root %%DIR%%/site/$arg_x; }
        location /up/ { alias %%DIR%%/site/folder/../; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        merge_slashes off;
        location / { root %%DIR%%/site; }
        location /i { alias %%DIR%%/site/; }
    }
}
"#;

fn start() -> Daemon {
    let setup = Setup::new(CONF)
        .file("secret.txt", "SECRET")
        .file("site/a.txt", "public")
        .file("site/folder/b.txt", "inner")
        .file("site-secret/c.txt", "SECRET");
    let site = setup.folder().join("site");
    nix::unistd::mkfifo(&site.join("fifo"), Mode::S_IRUSR).unwrap();
    symlink("/dev/zero", site.join("device")).unwrap();
    drop(UnixListener::bind(site.join("socket")).unwrap());
    setup.start()
}

/// Sends a target unchanged; returns the status and the text of the response.
fn ask(port: u16, target: &[u8]) -> (u16, String) {
    let mut client = Client::connect(port);
    client.send([b"GET ", target, b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat());
    let response = client.response();
    (response.status, String::from_utf8_lossy(&response.body).into_owned())
}

/// Two dots, a slash.
const DOTS: [&[u8]; 10] = [
    b"..",
    b"%2e%2e",
    b".%2e",
    b"%2E.",
    b"%252e%252e",
    b"%c0%ae%c0%ae",
    b"\xc0\xae\xc0\xae",
    b"%uff0e%uff0e",
    b"...",
    b"..;",
];
const SLASHES: [&[u8]; 9] = [b"/", b"%2f", b"%2F", b"//", b"/./", b"%5c", b"\\", b"%252f", b"%c0%af"];

#[test]
fn no_spelling_leads_out() {
    let daemon = start();
    let before: [&[u8]; 9] =
        [b"/", b"/i", b"/i/", b"/j/", b"/re", b"/re/", b"/folder/", b"/i/folder/", b"/up/"];
    let mut count = 0;
    for dots in DOTS {
        for slash in SLASHES {
            for start in before {
                for rest in [&b"secret.txt"[..], b"site-secret/c.txt", b""] {
                    let once = [start, dots, slash, rest].concat();
                    let twice = [start, dots, slash, dots, slash, rest].concat();
                    for target in [once, twice] {
                        if is_stand_in() && (start == b"/i" || start.starts_with(b"/re")) {
                            continue; // these are served there
                        }
                        let (status, text) = ask(daemon.port(0), &target);
                        let shown = String::from_utf8_lossy(&target).into_owned();
                        assert!(!text.contains("SECRET"), "{shown}: {status}");
                        assert!(!text.contains("secret.txt</a>"), "{shown} lists what is outside");
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(count > 2000 || is_stand_in());
    assert_eq!(ask(daemon.port(0), b"/a.txt"), (200, "public".into()));
}

#[test]
fn the_usual_ways_out_are_refused_by_status() {
    let daemon = start();
    for (target, status) in [
        (&b"/../secret.txt"[..], 400),
        (b"/%2e%2e/secret.txt", 400),
        (b"/folder/..%2f..%2fsecret.txt", 400),
        (b"http://a/../secret.txt", 400),
        (b"/a.txt%00.jpg", 400),
        (b"/..%00/secret.txt", 400),
        (b"/folder/../a.txt", 200),
        (b"/folder%2f%2e%2e%2fa.txt", 200),
        (b"//a.txt", 200),
        (b"/./a.txt", 200),
        (b"/..\\secret.txt", 404),
        (b"/a.txt/../../secret.txt", 400),
        (b"/?/../secret.txt", 200),
        (b"/up/a.txt", 200),
    ] {
        assert_eq!(ask(daemon.port(0), target).0, status, "{}", String::from_utf8_lossy(target));
    }
    for target in
        [&b"/../secret.txt"[..], b"//../secret.txt", b"//..//../secret.txt", b"/i//../../secret.txt"]
    {
        let (status, text) = ask(daemon.port(1), target);
        assert!(status >= 400 && !text.contains("SECRET"), "{}", String::from_utf8_lossy(target));
    }
}

#[test]
fn what_a_request_adds_to_a_path_cannot_lead_up() {
    if is_stand_in() {
        return; // it does
    }
    let daemon = start();
    for target in [
        "/i../secret.txt",
        "/i../",
        "/i..",
        "/re../secret.txt",
        "/re/../re../secret.txt",
        "/try?x=../../secret.txt",
        "/tries/?x=../../secret.txt",
        "/var/a?x=../../",
        "/var/secret.txt?x=../",
    ] {
        let (status, text) = ask(daemon.port(0), target.as_bytes());
        assert!(status == 404 && !text.contains("SECRET"), "{target}: {status}");
    }
    daemon.wait_log("secret.txt\" leads out of its directory");
    assert_eq!(ask(daemon.port(0), b"/try?x=b.txt"), (200, "inner".into()));
    assert_eq!(ask(daemon.port(0), b"/i/a.txt"), (200, "public".into()));
    assert_eq!(ask(daemon.port(0), b"/ia.txt"), (200, "public".into()), "as in nginx");
}

#[test]
fn an_alias_that_lies_open_is_warned_of() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let log = daemon.log();
    assert!(log.contains("\"/i../\" would lead out of the directory of this \"alias\""), "{log}");
    assert!(!log.contains("\"/j"));
}

#[test]
fn what_is_no_file_is_not_served_and_stops_nobody() {
    let daemon = start();
    let long = "x".repeat(255);
    let longer = "x".repeat(300);
    let path = "y/".repeat(2100);
    for (target, status) in [
        ("/fifo", 404),
        ("/device", 404),
        ("/folder", 301),
        (&format!("/{long}"), 404),
        (&format!("/{longer}"), 404),
        (&format!("/{path}"), 404),
        (&format!("/{path}a"), 404),
    ] {
        assert_eq!(get(daemon.port(0), target).status, status, "{}", &target[..target.len().min(20)]);
    }
    assert!(get(daemon.port(0), "/socket").status >= 404);
    assert_eq!(get(daemon.port(0), "/a.txt").text(), "public");
}

#[test]
fn an_alias_is_inherited_with_what_it_stands_for() {
    let conf = r#"
        http { server { listen 127.0.0.1:%%PORT_0%%;
            location /a/ {
                alias %%DIR%%/site/;
                location /a/folder/ { }
                location ~ \.txt$ { try_files $uri =404; }
            }
            location ~ ^/b/(.*)$ {
                alias %%DIR%%/site/$1;
                location ~ txt { }
            }
        } }"#;
    let daemon = Setup::new(conf).file("site/folder/b.html", "inner").file("site/a.txt", "public").start();
    for path in ["/a/folder/b.html", "/b/folder/b.html"] {
        assert_eq!(get(daemon.port(0), path).text(), "inner", "{path}");
    }
    assert_eq!(get(daemon.port(0), "/a/a.txt").text(), "public");
}
