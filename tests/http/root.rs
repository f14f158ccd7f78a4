//! `root`: files with their type and validators, whole files by sendfile, and files that cannot be had.

use crate::support::{Client, Daemon, Setup, fetch, get};

const CONF: &str = r#"
http {
    types { text/plain txt; text/html html; image/png png; }
    default_type application/x-unknown;
    sendfile on;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / { }
        location /else/ { root %%DIR%%/other; }
        location /quiet/ { log_not_found off; }
        location /copied/ { sendfile off; }
    }
}
"#;

fn big() -> Vec<u8> {
    (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn start() -> Daemon {
    Setup::new(CONF)
        .file("site/a.txt", "text\n")
        .file("site/empty.txt", "")
        .file("site/index.html", "<p>index</p>\n")
        .file("site/folder/index.html", "<p>inner</p>\n")
        .file("site/with space.txt", "space\n")
        .file("site/a \"?#%<b/index.html", "<p>odd</p>\n")
        .file("site/big.bin", big())
        .file("site/copied/big.bin", big())
        .file("other/else/b.txt", "else\n")
        .level("info")
        .start()
}

#[test]
fn a_file_has_its_type_length_and_validators() {
    let daemon = start();
    let response = get(daemon.port(0), "/a.txt");
    assert_eq!((response.status, response.text().as_str()), (200, "text\n"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(response.length(), Some(5));
    assert!(response.header("last-modified").is_some_and(|date| date.ends_with(" GMT")));
    assert!(response.header("etag").is_some_and(|etag| etag.starts_with('"') && etag.ends_with("-5\"")));
    assert_eq!(get(daemon.port(0), "/big.bin").header("content-type"), Some("application/x-unknown"));
    assert_eq!(get(daemon.port(0), "/with%20space.txt").text(), "space\n");
    assert_eq!(get(daemon.port(0), "/else/b.txt").text(), "else\n");
    assert_eq!(get(daemon.port(0), "/empty.txt").length(), Some(0));
}

#[test]
fn a_large_file_arrives_whole_with_and_without_sendfile() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    for path in ["/big.bin", "/copied/big.bin", "/big.bin"] {
        let response = client.get(path);
        assert!(response.body == big(), "{path} came changed");
    }
}

#[test]
fn head_of_a_file_has_no_body() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("HEAD /big.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().length(), Some(3_000_000));
    assert_eq!(client.get("/a.txt").text(), "text\n");
}

#[test]
fn a_folder_is_its_index_or_a_redirect() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/").text(), "<p>index</p>\n");
    assert_eq!(get(daemon.port(0), "/folder/").text(), "<p>inner</p>\n");
    let response = get(daemon.port(0), "/folder");
    let location = format!("http://localhost:{}/folder/", daemon.port(0));
    assert_eq!((response.status, response.header("location")), (301, Some(location.as_str())));
    assert_eq!(get(daemon.port(0), "/copied/").status, 403, "no index and no list");
}

#[test]
fn what_is_not_there_or_not_to_be_had() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/missing").status, 404);
    assert_eq!(get(daemon.port(0), "/a.txt/").status, 404);
    assert_eq!(get(daemon.port(0), "/../pronghorn.conf").status, 400);
    assert_eq!(get(daemon.port(0), "/%2e%2e/pronghorn.conf").status, 400);
    assert_eq!(get(daemon.port(0), "/folder/%2e%2e/a.txt").text(), "text\n");
    let post = "POST /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), post).status, 405);
}

#[test]
fn an_unchanged_file_is_not_sent_again() {
    let daemon = start();
    let first = get(daemon.port(0), "/a.txt");
    let date = first.header("last-modified").expect("a date");
    let request =
        |field: &str| format!("GET /a.txt HTTP/1.1\r\nHost: a\r\n{field}\r\nConnection: close\r\n\r\n");
    let response = fetch(daemon.port(0), &request(&format!("If-Modified-Since: {date}")));
    assert_eq!((response.status, response.body.len(), response.length()), (304, 0, None));
    let response = fetch(daemon.port(0), &request("If-Modified-Since: Thu, 01 Jan 1970 00:00:01 GMT"));
    assert_eq!(response.status, 200);
}

#[test]
fn a_folder_of_any_name_is_redirected_to_safely() {
    let daemon = start();
    let escaped = "/a%20%22%3F%23%25%3Cb";
    let response = get(daemon.port(0), &format!("{escaped}?x=%20y"));
    let location = format!("http://localhost:{}{escaped}/?x=%20y", daemon.port(0));
    assert_eq!((response.status, response.header("location")), (301, Some(location.as_str())));
    assert_eq!(get(daemon.port(0), &format!("{escaped}/")).text(), "<p>odd</p>\n");
}

#[test]
fn missing_files_are_logged_unless_told_otherwise() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/quiet/missing").status, 404);
    assert_eq!(get(daemon.port(0), "/missing").status, 404);
    daemon.wait_log("site/missing\" failed \\(2: No such file or directory\\)");
    assert_eq!(daemon.log_count("quiet/missing"), 0);
}

const LED: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        index index.php;
        error_page 403 /forbidden;
        if ($uri = /stop) { return 403; }
        if (!-e $request_filename) { rewrite ^/[a-z]+(/.*\.php)$ $1 last; }
        location / { return 200 "site"; }
        location ~ \.php$ { return 200 "script $uri"; }
        location = /forbidden { return 200 "page of the server"; }
        location @other { return 200 "page of the location"; }
        location /apps/ { alias %%DIR%%/other/; }
        location /tried { root %%DIR%%/other; try_files /none /apps/index.php; }
        location /failed { root %%DIR%%/other; error_page 404 = /apps/index.php; return 404; }
        location /stopped { error_page 403 = @other; try_files /none /stop; }
    }
}
"#;

#[test]
fn the_servers_own_steps_go_by_the_servers_settings_after_a_jump_too() {
    let setup = Setup::new(LED).file("other/index.php", "source").file("site/a.txt", "");
    let daemon = setup.start();
    for path in ["/apps/index.php", "/apps/", "/tried", "/failed"] {
        assert_eq!(get(daemon.port(0), path).text(), "script /index.php", "{path}");
    }
    let stopped = get(daemon.port(0), "/stopped");
    assert_eq!((stopped.status, stopped.text().as_str()), (403, "page of the server"));
}
