//! `if` in servers and locations: its conditions, the settings it applies, and nginx's traps.
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
        location /if/ {
            location /if/true { if ($arg_c) { return 200 yes; } return 200 no; }
            location /if/equal { if ($arg_c = "a b") { return 200 yes; } return 200 no; }
            location /if/not { if ($arg_c != x$arg_d) { return 200 yes; } return 200 no; }
            location /if/match { if ( $arg_c ~ ^(a+)(?<rest>.*)$ ) { return 200 "yes $1 $rest"; } return 200 "no $1"; }
            location /if/caseless { if ($arg_c ~* ^a) { return 200 yes; } return 200 no; }
            location /if/mismatch { if ($arg_c !~ ^a) { return 200 yes; } return 200 no; }
            location /if/file { if (-f $document_root/$arg_c) { return 200 yes; } return 200 no; }
            location /if/directory { if (-d $document_root/$arg_c) { return 200 yes; } return 200 no; }
            location /if/absent { if (!-e $document_root/$arg_c) { return 200 yes; } return 200 no; }
            location /if/program { if (-x $document_root/$arg_c) { return 200 yes; } return 200 no; }
            location ~ ^/if/groups/(.*)$ { if ($arg_c ~ nothing) { } return 200 "lost:$1"; }
        }
        location /settings {
            add_header X-Outer outer;
            add_header X-Two two;
            default_type text/outer;
            if ($arg_a) { add_header X-If a; }
            if ($arg_b) { add_header X-If b; set $b "$uri"; }
            return 200 "b:$b";
        }
        location /choice {
            proxy_pass http://127.0.0.1:%%PORT_1%%/outer;
            if ($arg_if) { proxy_pass http://127.0.0.1:%%PORT_1%%; }
            if ($arg_empty) { }
        }
        location ~ ^/regex {
            proxy_pass http://127.0.0.1:%%PORT_1%%;
            if ($arg_empty) { }
        }
        location /crash {
            set $yes 1;
            if ($yes) { proxy_pass http://127.0.0.1:%%PORT_1%%; }
            if ($yes) { }
        }
        location /only-in-if {
            if ($arg_if) { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        }
        location /error {
            if ($arg_if) { error_page 404 =200 /page.html; }
        }
        location /root {
            if ($arg_if) { root %%DIR%%/other; }
        }
        location /broken {
            if ($arg_if) { rewrite ^ /there.txt break; }
            return 200 "not broken";
        }
        location /again {
            if ($arg_if) { rewrite ^ /settings last; }
            return 200 "not again";
        }
    }
}
"#;

fn start() -> Daemon {
    let setup = Setup::new(CONF).file("there.txt", "there").file("page.html", "page");
    setup.file("other/root/x", "other").file("root/x", "own").start()
}

#[test]
fn every_condition_holds_when_it_should() {
    let daemon = start();
    let cases = [
        ("true?c=1", "yes"),
        ("true?c=0", "no"),
        ("true?c=", "no"),
        ("true?c=00", "yes"),
        ("true", "no"),
        ("equal?c=a%20b", "no"), // arguments are compared as they were sent
        ("not?c=xy&d=y", "no"),
        ("not?c=xy&d=z", "yes"),
        ("match?c=aab", "yes aa b"),
        ("match?c=b", "no "),
        ("caseless?c=Ab", "yes"),
        ("mismatch?c=ab", "no"),
        ("mismatch", "yes"),
        ("file?c=there.txt", "yes"),
        ("file?c=other", "no"),
        ("file?c=there.txt/x", "no"),
        ("directory?c=other", "yes"),
        ("directory?c=there.txt", "no"),
        ("absent?c=there.txt", "no"),
        ("absent?c=not-there", "yes"),
        ("program?c=there.txt", "no"),
        ("program?c=other", "yes"),
        ("groups/x", "lost:"),
    ];
    for (path, expected) in cases {
        assert_eq!(get(daemon.port(0), &format!("/if/{path}")).text(), expected, "{path}");
    }
}

#[test]
fn an_if_has_settings_of_its_own_and_the_last_one_wins() {
    let daemon = start();
    let shown = |path| {
        let response = get(daemon.port(0), path);
        let header = |name| response.header(name).unwrap_or("-").to_owned();
        (header("x-outer"), header("x-two"), header("x-if"), response.text())
    };
    let is = |outer: &str, two: &str, own: &str, text: &str| {
        (outer.to_owned(), two.to_owned(), own.to_owned(), text.to_owned())
    };
    assert_eq!(shown("/settings"), is("outer", "two", "-", "b:"));
    assert_eq!(shown("/settings?a=1"), is("-", "-", "a", "b:"));
    assert_eq!(shown("/settings?a=1&b=1"), is("-", "-", "b", "b:/settings"));
    assert_eq!(
        get(daemon.port(0), "/settings?a=1").header("content-type"),
        Some("text/outer"),
        "the rest is inherited"
    );
    assert_eq!(shown("/again?if=1&a=1"), is("-", "-", "a", "b:"));
    assert_eq!(get(daemon.port(0), "/again").text(), "not again");
}

#[test]
fn proxy_pass_inside_and_around_an_if() {
    let daemon = start();
    let cases = [
        ("/choice", "backend /outer"),
        ("/choice/x?if=1", "backend /choice/x?if=1"),
        ("/choice/x?empty=1", "backend /outer/x?empty=1"),
        ("/choice/x?if=1&empty=1", "backend /outer/x?if=1&empty=1"),
        ("/regex/%20?empty=1", "backend /regex/%20?empty=1"),
        ("/only-in-if?if=1", "backend /only-in-if?if=1"),
    ];
    for (path, expected) in cases {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
    assert_eq!(get(daemon.port(0), "/only-in-if").status, 404);
    assert_eq!(get(daemon.port(0), "/crash").status, 500);
    daemon.wait_log("no upstream configuration");
}

#[test]
fn error_pages_roots_and_breaks_inside_an_if() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/error").status, 404);
    let response = get(daemon.port(0), "/error?if=1");
    assert_eq!((response.status, response.text().as_str()), (200, "page"));
    assert_eq!(get(daemon.port(0), "/root/x").text(), "own");
    assert_eq!(get(daemon.port(0), "/root/x?if=1").text(), "other");
    assert_eq!(get(daemon.port(0), "/broken").text(), "not broken");
    assert_eq!(get(daemon.port(0), "/broken?if=1").text(), "there");
}

#[test]
fn the_whole_word_behind_the_dollar_is_a_name() {
    let conf = r#"http { server {
        listen 127.0.0.1:%%PORT_0%%;
        location /a { if ($arg_go-get) { return 200 yes; } return 200 no; }
        location /b { if ($cookie_my-c.d ~ x) { return 200 yes; } return 200 no; }
        location /c { if ($ARG_X = 1) { return 200 yes; } return 200 no; }
    } }"#;
    let daemon = Daemon::start(conf);
    let cases = [("/a", "no"), ("/a?go-get=1", "yes"), ("/a?go=1", "no"), ("/c?x=1", "yes")];
    for (path, expected) in cases {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
    let with_cookie = "GET /b HTTP/1.1\r\nHost: a\r\nCookie: my-c.d=x\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), with_cookie).text(), "yes");
    for name in ["host$uri", "{host}", "host=a", "1"] {
        let conf =
            format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; if (${name}) {{ return 404; }} }} }}");
        let refused = Setup::new(&conf).run(&["-t"]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains(&format!("unknown \"{name}\" variable")), "{told}");
    }
}
