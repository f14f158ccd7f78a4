//! The shipped configurations for well-known applications, with scripted ones in their place: which paths are executed,
//! with which script, and which never are.

use crate::http::configurations::example;
use crate::support::fastcgi::{Call, whole};
use crate::support::{Daemon, Origin, Setup, fetch, get, packets};

/// An application that shows the script, the path behind it and the arguments.
fn php() -> Origin {
    Origin::start(|peer| {
        let Some(call) = Call::read(peer) else { return };
        let shown =
            ["SCRIPT_FILENAME", "PATH_INFO", "QUERY_STRING"].map(|name| call.param(name).unwrap_or("-"));
        peer.send(whole(&format!("Content-Type: text/plain\r\n\r\n{}", shown.join("|"))));
    })
}

fn start(name: &str, changes: &[(&str, &str)], files: &[&str]) -> Daemon {
    let all = [changes, &[("listen      80;", "listen 127.0.0.1:%%PORT_0%%;")]].concat();
    let setup = example(name, &all);
    let setup = files.iter().fold(setup, |setup: Setup, file| setup.file(&format!("site/{file}"), "file"));
    setup.start()
}

/// Asks for each path, and compares the status and the script below the folder of the site.
fn check(daemon: &Daemon, cases: &[(&str, &str)]) {
    let site = format!("{}/site", daemon.folder().display());
    for (path, expected) in cases {
        let answer = get(daemon.port(0), path);
        let found = match answer.status {
            200 => answer.text().replace(&site, ""),
            status => status.to_string(),
        };
        assert_eq!(found, *expected, "{path}");
    }
}

const SOCKET: &str = "unix:/run/php/php-fpm.sock";

#[test]
fn wordpress() {
    let app = php();
    let files = [
        "index.php",
        "wp-login.php",
        "wp-admin/index.php",
        "wp-content/uploads/evil.php",
        "a.css",
        "picture.jpg",
        "xmlrpc.php",
        ".git/config",
    ];
    let daemon =
        start("wordpress.conf", &[(SOCKET, &app.address()), ("/srv/wordpress", "%%DIR%%/site")], &files);
    check(
        &daemon,
        &[
            ("/", "/index.php|-|"),
            ("/2024/01/hello/?x=y", "/index.php|-|x=y"),
            ("/wp-login.php?a", "/wp-login.php|-|a"),
            ("/wp-admin/", "/wp-admin/index.php|-|"),
            ("/a.css", "file"),
            ("/none.php", "404"),
            ("/picture.jpg/x.php", "404"),
            ("/wp-content/uploads/evil.php", "403"),
            ("/wp-content/uploads/evil.php/x", "403"),
            ("/xmlrpc.php", "403"),
            ("/.git/config", "403"),
        ],
    );
}

#[test]
fn laravel() {
    let app = php();
    let daemon = start(
        "laravel.conf",
        &[(SOCKET, &app.address()), ("/srv/app/current/public", "%%DIR%%/site")],
        &["index.php", "other.php", "build/app.js"],
    );
    check(
        &daemon,
        &[
            ("/", "/index.php|-|"),
            ("/users/1?page=2", "/index.php|-|page=2"),
            ("/build/app.js", "file"),
            ("/index.php", "404"),
            ("/other.php", "404"),
        ],
    );
    assert_eq!(get(daemon.port(0), "/build/app.js").all("cache-control"), ["max-age=315360000", "immutable"]);
}

#[test]
fn nextcloud() {
    let app = php();
    let files = [
        "index.php",
        "remote.php",
        "status.php",
        "core/app.js",
        "config/config.php",
        "data/user/file",
        "core/x.php",
    ];
    let daemon =
        start("nextcloud.conf", &[(SOCKET, &app.address()), ("/srv/nextcloud", "%%DIR%%/site")], &files);
    check(
        &daemon,
        &[
            ("/", "/index.php||"),
            ("/remote.php/dav/files/me/a%20b", "/remote.php|/dav/files/me/a b|"),
            ("/status.php", "/status.php||"),
            ("/apps/files/?dir=/", "/index.php|/apps/files/|dir=/"),
            ("/core/x.php", "/index.php|/core/x.php|"),
            ("/core/app.js", "file"),
            ("/config/config.php", "404"),
            ("/data/user/file", "404"),
            ("/occ", "404"),
            ("/.htaccess", "404"),
        ],
    );
    let moved = get(daemon.port(0), "/.well-known/caldav");
    assert_eq!(
        (moved.status, moved.header("location").map(|to| to.ends_with("/remote.php/dav/"))),
        (301, Some(true))
    );
    let well_known = get(daemon.port(0), "/.well-known/webfinger?a=b");
    assert!(
        well_known.header("location").is_some_and(|to| to.ends_with("/index.php/.well-known/webfinger?a=b"))
    );
}

#[test]
fn drupal() {
    let app = php();
    let files = [
        "index.php",
        "update.php",
        "core/install.php",
        "sites/default/files/evil.php",
        "core/lib/x.php",
        "sites/default/files/a.png",
        "core/misc/x.js",
        "sites/default/settings.yml",
    ];
    let daemon =
        start("drupal.conf", &[(SOCKET, &app.address()), ("/srv/drupal/web", "%%DIR%%/site")], &files);
    check(
        &daemon,
        &[
            ("/", "/index.php||"),
            ("/node/1?x=y", "/index.php||x=y"),
            ("/update.php/selection?op=go", "/update.php|/selection|op=go"),
            ("/core/install.php", "/core/install.php||"),
            ("/core/lib/x.php", "404"),
            ("/sites/default/files/evil.php", "404"),
            ("/sites/default/files/a.png", "file"),
            ("/sites/default/files/styles/thumb/a.png", "/index.php||"),
            ("/core/misc/x.js", "file"),
            ("/sites/default/settings.yml", "404"),
            ("/sites/default/private/key", "403"),
        ],
    );
}

#[test]
fn phpmyadmin() {
    let app = php();
    let files = ["phpmyadmin/index.php", "phpmyadmin/libraries/x.php", "phpmyadmin/themes/a.css"];
    let daemon =
        start("phpmyadmin.conf", &[(SOCKET, &app.address()), ("/usr/share;", "%%DIR%%/site;")], &files);
    check(
        &daemon,
        &[
            ("/phpmyadmin/", "/phpmyadmin/index.php|-|"),
            ("/phpmyadmin/index.php?route=/sql", "/phpmyadmin/index.php|-|route=/sql"),
            ("/phpmyadmin/themes/a.css", "file"),
            ("/phpmyadmin/libraries/x.php", "404"),
            ("/phpmyadmin/none.php", "404"),
            ("/", "404"),
        ],
    );
    assert_eq!(get(daemon.port(0), "/phpmyadmin").status, 301);
}

#[test]
fn django() {
    let app = Origin::start(|peer| {
        let Some((_, pairs)) = packets::uwsgi(peer) else { return };
        let path = packets::value(&pairs, "PATH_INFO").expect("a path").to_owned();
        peer.send(match path.as_str() {
            "/report" => "Status: 200 OK\r\nX-Accel-Redirect: /protected/report.pdf\r\nContent-Type: application/pdf\r\n\r\n".to_owned(),
            _ => format!("Status: 200 OK\r\nContent-Type: text/plain\r\n\r\napp {path}"),
        });
    });
    let changes =
        [("unix:/run/app/app.sock;", &*format!("{};", app.address())), ("/srv/app/", "%%DIR%%/site/")];
    let daemon = start("django.conf", &changes, &["static/app.css", "media/a.html", "protected/report.pdf"]);
    check(
        &daemon,
        &[
            ("/", "app /"),
            ("/admin/login/?next=/", "app /admin/login/"),
            ("/static/app.css", "file"),
            ("/media/a.html", "file"),
            ("/protected/report.pdf", "404"),
            ("/report", "file"),
        ],
    );
    assert_eq!(get(daemon.port(0), "/report").header("content-type"), Some("application/pdf"));
    assert_eq!(get(daemon.port(0), "/media/a.html").header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn memcached() {
    let memory = Origin::start(|peer| {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                match peer.some(1) {
                    byte if byte.is_empty() => return,
                    byte => line.extend(byte),
                }
            }
            peer.send(match &line[..] {
                b"get page:/stored\r\n" => "VALUE page:/stored 0 6\r\nstored\r\nEND\r\n",
                _ => "END\r\n",
            });
        }
    });
    let app = Origin::saying("made");
    let changes = [
        ("127.0.0.1:11211", &*memory.address()),
        ("        server 127.0.0.2:11211;\n", ""),
        ("127.0.0.1:3000", &*app.address()),
        ("listen       80;", "listen 127.0.0.1:%%PORT_0%%;"),
    ];
    let daemon = example("memcached.conf", &changes).start();
    let port = daemon.port(0);
    let stored = get(port, "/stored");
    assert_eq!((&*stored.text(), stored.header("content-type")), ("stored", Some("text/html")));
    assert_eq!(get(port, "/other").text(), "made");
    assert_eq!(fetch(port, "POST /stored HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").text(), "made");
    assert_eq!(
        app.requests().iter().map(|request| request.method.as_str()).collect::<Vec<_>>(),
        ["GET", "POST"]
    );
}
