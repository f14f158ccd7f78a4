//! `try_files`: files, directories, and the fallback.

use crate::support::{Daemon, Setup, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_1%%;
        return 200 "backend $request_uri";
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / { try_files $uri $uri/ /fallback?q=$uri&$args; }
        location = /fallback { return 200 "fallback $args"; }
        location /named/ { try_files $uri @backend; }
        location /status/ { try_files $uri /nothing =404; }
        location /gone/ { try_files $uri =410; }
        location /fixed/ { try_files /nothing /fixed.txt =404; }
        location /html/ { try_files $uri.html $uri =404; }
        location /alias/ { alias %%DIR%%/other/; try_files $uri $uri.txt @backend; }
        location ~ ^/regex/(.*)$ { alias %%DIR%%/other/$1; try_files "" .txt @backend; }
        location /in-if/ { try_files $uri /fallback; if ($arg_if) { set $a b; } }
        location /loop/ { try_files $uri /loop/again; }
        location /proxied/ { try_files $uri =404; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location @backend { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /outer/ {
            try_files $uri =418;
            location /outer/inner/ { }
        }
    }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF)
        .file("site/page.txt", "page")
        .file("site/folder/index.html", "index")
        .file("site/fixed.txt", "fixed")
        .file("site/named/there.txt", "there")
        .file("site/html/a.html", "a")
        .file("site/html/b", "b")
        .file("site/proxied/x y", "local")
        .file("other/one.txt", "one")
        .start()
}

#[test]
fn the_first_that_exists_answers() {
    let daemon = start();
    for (path, expected) in [
        ("/page.txt", "page"),
        ("/folder/", "index"),
        ("/none?x=1", "fallback q=/none&x=1"),
        ("/named/there.txt", "there"),
        ("/named/not%20there?x", "backend /named/not%20there?x"),
        ("/fixed/x", "fixed"),
        ("/html/a", "a"),
        ("/html/b", "b"),
        ("/alias/one.txt", "one"),
        ("/alias/one", "one"),
        ("/alias/two", "backend /alias/two"),
        ("/regex/one.txt", "one"),
        ("/regex/two", "backend /regex/two"),
        ("/proxied/x%20y?z", "backend /proxied/x%20y?z"),
    ] {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
}

#[test]
fn a_status_or_an_endless_loop_ends_the_search() {
    let daemon = start();
    for (path, expected) in [
        ("/status/x", 404),
        ("/gone/x", 410),
        ("/html/c", 404),
        ("/proxied/none", 404),
        ("/outer/x", 418),
        ("/outer/inner/x", 404),
        ("/loop/x", 500),
        ("/in-if/x", 200),
        ("/in-if/x?if=1", 404), // nginx's trap: it does not apply where the `if` is true
        ("/%2e%2e/other/one.txt", 400),
    ] {
        assert_eq!(get(daemon.port(0), path).status, expected, "{path}");
    }
    daemon.wait_log("rewrite or internal redirection cycle while internally redirecting to \"/loop/again\"");
}
