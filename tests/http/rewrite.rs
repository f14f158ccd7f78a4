//! `rewrite`, `if`, `break` and `set` against the real daemon; each result here is also nginx 1.22's.
//!
//! A second server of the same daemon plays the backend and reports the request it received.

use crate::support::{Daemon, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_1%%;
        return 200 "backend $request_uri";
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;

        location /show { return 200 "$uri $args"; }
        location /last { rewrite ^/last/(.*) /show/$1 last; return 200 "not reached"; }
        location /plain { rewrite ^/plain(.*) /show$1; rewrite ^/show/x /show/y; }
        location /broken { rewrite ^/broken(.*) /show$1 break; return 200 "not $uri"; }
        location /broken-static { rewrite ^ /there.txt break; }
        location /args { rewrite ^/args/(.*) /show?a=$1; }
        location /dropped { rewrite ^/dropped/(.*) /show/$1?; }
        location /own-args { rewrite ^/own-args /show?x=y? last; }
        location /named { rewrite ^/named/(?<who>[^/]+) /show/$who-$who last; }
        location /no-match { rewrite ^/other /show; return 200 "stayed $1"; }
        location /loop { rewrite ^ /loop/again last; }
        location /empty { rewrite ^/empty(.*) $1; }

        location /to { rewrite ^/to/(.*) /new/$1 redirect; }
        location /for-ever { rewrite ^/for-ever/(.*) /new/$1 permanent; }
        location /away { rewrite ^/away/(.*) http://example.org/$1; }
        location /scheme { rewrite ^/scheme/(.*) $scheme://example.org/$1; }
        location /add { rewrite ^ http://example.org/?c=d redirect; }

        location /proxied { rewrite ^/proxied/(.*) /made/$1 break; proxy_pass http://127.0.0.1:%%PORT_1%%/ignored; }
        location /encoded { rewrite ^/encoded/(.*) /made/$1 break; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /set-args { set $args a=$arg_b; proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location ~ ^/kept/(.*)$ { set $kept $1; rewrite ^ /show/$kept last; }
        location /broken-first { break; return 200 "not reached"; }
        location /alias { alias %%DIR%%/; rewrite ^ /alias/there.txt break; }
    }
    server {
        listen 127.0.0.1:%%PORT_2%%;
        rewrite ^/server/(.*) /inner/$1;
        rewrite ^/inner/x /inner/z;
        rewrite ^/stop/(.*) /inner/$1 break;
        rewrite ^/inner/y /not;
        if ($http_x_old) { return 410; }
        if ($arg_set) { set $by_if $arg_set; }
        location / { return 200 "$uri $args by:$by_if"; }
        error_page 404 /server/page;
        location /missing { return 404; }
    }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF).file("there.txt", "there").start()
}

#[test]
fn paths_and_arguments_are_replaced() {
    let daemon = start();
    let cases = [
        ("/last/a/b?c=d", "/show/a/b c=d"),
        ("/plain/x", "/show/y "),
        ("/plain/z?q", "/show/z q"),
        ("/args/v?w=1", "/show a=v&w=1"),
        ("/args/v", "/show a=v"),
        ("/args/a%26b%20c", "/show a=a%26b%20c"),
        ("/args/a&b", "/show a=a&b"),
        ("/dropped/v?w=1", "/show/v "),
        ("/own-args?w=1", "/show x=y"),
        ("/named/joe/x", "/show/joe-joe "),
        ("/no-match", "stayed "),
        ("/kept/a%20b", "/show/a%20b "),
        ("/kept/ab", "/show/ab "),
    ];
    for (path, expected) in cases {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
}

#[test]
fn break_stays_in_its_location() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/broken/x").status, 404, "the steps have ended: a file is looked for");
    assert_eq!(get(daemon.port(0), "/broken-static").text(), "there");
    assert_eq!(
        get(daemon.port(0), "/proxied/a%20b?c").text(),
        "backend /made/a%20b?c",
        "the URI of proxy_pass is void"
    );
    assert_eq!(get(daemon.port(0), "/encoded/%3Fx").text(), "backend /made/%3Fx");
    assert_eq!(get(daemon.port(0), "/set-args?b=2").text(), "backend /set-args?a=2");
    assert_eq!(get(daemon.port(0), "/broken-first").status, 404);
    assert_eq!(get(daemon.port(0), "/alias/x").status, 500);
    daemon.wait_log("\"alias\" cannot be used in location \"/alias\" where URI was rewritten");
}

#[test]
fn redirects_leave_with_the_right_url() {
    let daemon = start();
    let host = format!("http://localhost:{}", daemon.port(0));
    let cases = [
        ("/to/x?a", 302, format!("{host}/new/x?a")),
        ("/for-ever/x", 301, format!("{host}/new/x")),
        ("/away/x?a=b", 302, "http://example.org/x?a=b".into()),
        ("/away/a%20b%41", 302, "http://example.org/a%20bA".into()),
        ("/away/a%0d%0aX-Evil:%20y", 302, "http://example.org/a%0D".into()),
        ("/scheme/x", 302, "http://example.org/x".into()),
        ("/add?a=b", 302, "http://example.org/?c=d&a=b".into()),
    ];
    for (path, status, expected) in cases {
        let response = get(daemon.port(0), path);
        assert_eq!((response.status, response.header("location")), (status, Some(&*expected)), "{path}");
        assert_eq!(response.header("x-evil"), None, "{path}");
    }
}

#[test]
fn endless_rewriting_ends_with_500() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/loop").status, 500);
    daemon.wait_log("rewrite or internal redirection cycle while processing \"/loop/again\"");
    assert_eq!(get(daemon.port(0), "/empty").status, 500);
    daemon.wait_log("the rewritten URI has a zero length");
    assert_eq!(get(daemon.port(0), "/show").status, 200);
}

#[test]
fn a_server_s_steps_run_before_the_location_is_found() {
    let daemon = start();
    let cases = [
        ("/server/x", "/inner/z  by:"),
        ("/stop/y", "/inner/y  by:"),
        ("/inner/y", "/not  by:"),
        ("/a?set=7", "/a set=7 by:7"),
        ("/missing", "/inner/page  by:"),
    ];
    for (path, expected) in cases {
        assert_eq!(get(daemon.port(2), path).text(), expected, "{path}");
    }
    let old = "GET / HTTP/1.1\r\nHost: a\r\nX-Old: 1\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(2), old).status, 410);
}

#[test]
fn rewrites_are_logged_where_asked_and_unset_variables_are_warned_of() {
    let daemon = Setup::new(
        r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /logged { rewrite_log on; rewrite ^/logged/(.*) /to/$1?a last; }
        location /silent { rewrite ^/silent/(.*) /to/$1 last; }
        location /to { return 200 "x$later"; }
        location /quiet { uninitialized_variable_warn off; return 200 "x$later"; }
        location /sets { set $later y; return 200 "x$later"; }
    }
}
"#,
    )
    .level("notice")
    .start();
    assert_eq!(get(daemon.port(0), "/quiet").text(), "x");
    assert_eq!(get(daemon.port(0), "/sets").text(), "xy");
    assert_eq!(get(daemon.port(0), "/silent/1").text(), "x");
    daemon.wait_log("using uninitialized \"later\" variable");
    assert_eq!(get(daemon.port(0), "/logged/1").text(), "x");
    daemon.wait_log(r#"\[notice\].*"\^/logged/\(\.\*\)" matches "/logged/1""#);
    daemon.wait_log(r#"\[notice\].*rewritten data: "/to/1", args: "a""#);
    assert_eq!(daemon.log_count("using uninitialized"), 2);
    assert!(!daemon.log().contains("/silent/1\", client"), "{}", daemon.log());
}
