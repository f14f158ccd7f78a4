//! PHP itself: php-fpm behind a location as operators write it, with the shipped `fastcgi.conf` and
//! the package's snippet.

use std::process::Command;

use crate::support::program::{Program, find, wait_socket};
use crate::support::{Client, Daemon, Response, Setup, fetch, get};

const CONF: &str = r#"
http {
    client_max_body_size 200m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        index index.php;
        location / { try_files $uri $uri/ /index.php?$args; }
        location ~ \.php(/|$) {
            include snippets/fastcgi-php.conf;
            fastcgi_pass unix:%%DIR%%/php.sock;
        }
        location /protected/ { internal; alias %%DIR%%/private/; }
        location /kept/ {
            include fastcgi.conf;
            fastcgi_param SCRIPT_FILENAME $document_root/page.php;
            fastcgi_keep_conn on;
            fastcgi_pass kept;
        }
    }
    upstream kept { server unix:%%DIR%%/php.sock; keepalive 2; }
}
"#;

const POOL: &str = "[global]\nerror_log = DIR/php.log\ndaemonize = no\n[www]\nuser = root\ngroup = root\n\
    listen = DIR/php.sock\npm = static\npm.max_children = 2\n\
    php_admin_value[session.save_path] = DIR\nphp_admin_value[upload_tmp_dir] = DIR\n\
    php_admin_value[upload_max_filesize] = 200M\nphp_admin_value[post_max_size] = 200M\n\
    php_admin_value[log_errors] = on\nphp_admin_value[error_log] =\nphp_admin_value[display_errors] = off\n";

const PAGE: &str = r#"<?php
header('X-Script: ' . $_SERVER['SCRIPT_NAME']);
echo 'page ', $_SERVER['REQUEST_METHOD'], ' ', $_SERVER['REQUEST_URI'], ' ', $_SERVER['PATH_INFO'] ?? '-', ' ',
    $_GET['a'] ?? '-', ' ', $_POST['b'] ?? '-', ' ', $_SERVER['CONTENT_LENGTH'], ' ', isset($_SERVER['HTTP_PROXY']) ? 'poxy' : 'clean';
"#;

/// The server with a site, and php-fpm; `None` where PHP is not installed.
fn start() -> Option<(Daemon, Program)> {
    let php = find(&["php-fpm", "php-fpm8.4", "php-fpm8.3", "php-fpm8.2", "php-fpm8.1", "php-fpm7.4"])?;
    let shipped =
        |path: &str| std::fs::read(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("it is shipped");
    let setup = Setup::new(CONF)
        .file("fastcgi.conf", shipped("conf/fastcgi.conf"))
        .file("snippets/fastcgi-php.conf", shipped("scripts/debian/conf/snippets/fastcgi-php.conf"))
        .file("site/page.php", PAGE)
        .file("site/index.php", "<?php echo 'front ', $_SERVER['REQUEST_URI'];")
        .file("site/upload.jpg", "<?php echo 'executed';")
        .file("site/session.php", "<?php session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];")
        .file("site/upload.php", "<?php $f = $_FILES['f']; echo $f['error'], ' ', $f['size'], ' ', hash_file('crc32b', $f['tmp_name']);")
        .file("site/accel.php", "<?php header('X-Accel-Redirect: /protected/secret.txt'); header('Content-Type: text/x-secret'); echo 'not this';")
        .file("site/error.php", "<?php http_response_code(418); error_log('what a pity'); echo 'teapot';")
        .file("site/input.php", "<?php echo strlen(file_get_contents('php://input')), ' ', $_SERVER['CONTENT_LENGTH'];")
        .file("site/large.php", "<?php for ($i = 0; $i < 1000; $i++) { echo str_repeat(chr(97 + $i % 26), 5000); }")
        .file("private/secret.txt", "the secret");
    let folder = setup.folder().to_owned();
    std::fs::write(folder.join("php.conf"), POOL.replace("DIR", &folder.display().to_string()))
        .expect("it is ours");
    let mut program = Program::start(
        Command::new(php).arg("-R").arg("-F").arg("-n").arg("-y").arg(folder.join("php.conf")),
    );
    wait_socket(&folder.join("php.sock"), &mut program);
    Some((setup.start(), program))
}

fn post(port: u16, path: &str, kind: &str, body: &[u8]) -> Response {
    let mut client = Client::connect(port);
    let length = body.len();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ));
    client.send(body);
    client.response()
}

#[test]
fn pages_forms_and_sessions() {
    let Some((daemon, _php)) = start() else { return };
    let port = daemon.port(0);
    let page = get(port, "/page.php?a=1");
    assert_eq!((page.status, page.header("x-script")), (200, Some("/page.php")));
    assert_eq!(page.text(), "page GET /page.php?a=1  1 -  clean");
    assert!(page.header("x-powered-by").is_some(), "PHP's own fields");
    assert_eq!(
        get(port, "/page.php/more/path?a=2").text(),
        "page GET /page.php/more/path?a=2 /more/path 2 -  clean"
    );
    let form = post(port, "/page.php", "application/x-www-form-urlencoded", b"b=%66orm");
    assert_eq!(form.text(), "page POST /page.php  - form 8 clean");
    assert!(
        fetch(port, "GET /page.php HTTP/1.1\r\nHost: h\r\nProxy: evil\r\n\r\n").text().ends_with("clean")
    );
    assert_eq!(get(port, "/pretty/url?x").text(), "front /pretty/url?x");
    assert_eq!(get(port, "/").text(), "front /");
    // the trap: the upload is not executed
    assert_eq!(get(port, "/upload.jpg/x.php").status, 404);
    assert_eq!(get(port, "/none.php").status, 404);
    let first = get(port, "/session.php");
    let cookie =
        first.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a session").to_owned();
    assert_eq!(first.text(), "1");
    for count in 2..4 {
        let again = fetch(port, &format!("GET /session.php HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n"));
        assert_eq!(again.text(), count.to_string());
    }
}

#[test]
fn an_internal_redirect_and_an_error() {
    let Some((daemon, _php)) = start() else { return };
    let port = daemon.port(0);
    let secret = get(port, "/accel.php");
    assert_eq!(
        (secret.status, &*secret.text(), secret.header("content-type")),
        (200, "the secret", Some("text/x-secret;charset=UTF-8"))
    );
    assert_eq!(get(port, "/protected/secret.txt").status, 404);
    let error = get(port, "/error.php");
    assert_eq!((error.status, &*error.text()), (418, "teapot"));
    daemon.wait_log("FastCGI sent in stderr: \"PHP message: what a pity\"");
    let head = fetch(port, "HEAD /page.php HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(head.status, 200);
}

#[test]
fn large_bodies_in_both_directions() {
    let Some((daemon, _php)) = start() else { return };
    let port = daemon.port(0);
    let large = get(port, "/large.php");
    let expected: Vec<u8> = (0..1000usize).flat_map(|n| vec![b'a' + (n % 26) as u8; 5000]).collect();
    assert!(large.body == expected, "{} bytes", large.body.len());
    // an upload of 100 MB
    let length = 100 << 20;
    let (head, tail) =
        ("--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n", "\r\n--B--\r\n");
    let mut client = Client::connect(port);
    let total = head.len() + length + tail.len();
    client.send(format!(
        "POST /upload.php HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: {total}\r\n\r\n{head}"
    ));
    let part: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 % 253) as u8).collect();
    let mut sum = flate2::Crc::new();
    for _ in 0..length / part.len() {
        sum.update(&part);
        client.send(&part);
    }
    client.send(tail);
    assert_eq!(client.response().text(), format!("0 {length} {:08x}", sum.sum()));
    // in chunks, with the length that PHP needs
    let mut client = Client::connect(port);
    client.send("POST /input.php HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        client.send("10000\r\n").send(&part[..65_536]).send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().text(), "196608 196608");
}

#[test]
fn connections_to_php_are_kept() {
    let Some((daemon, _php)) = start() else { return };
    for _ in 0..20 {
        assert!(get(daemon.port(0), "/kept/x").text().starts_with("page GET /kept/x "));
    }
    assert!(daemon.complaints("error|crit|alert|emerg").is_empty(), "{:?}", daemon.complaints("error"));
}
