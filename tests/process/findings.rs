//! What `-t` says of a configuration: nginx's first lines where nginx has one, and nothing where nginx is content.
//!
//! Each case is a piece of a configuration and the lines that are expected of it, without their places.

use crate::support::Setup;
use crate::support::daemon::is_stand_in;

/// Exit code and findings (`[level] message`, without place) of a whole configuration.
pub fn findings(conf: &str) -> (i32, Vec<String>) {
    let output = Setup::new(conf).run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("pronghorn: ["));
    let plain = |line: &str| {
        let line = line
            .rsplit_once(" in /")
            .filter(|(_, place)| place.contains(".conf:"))
            .map_or(line, |(line, _)| line);
        format!("[{line}")
    };
    (output.status.code().unwrap_or(-1), lines.map(plain).collect())
}

/// Wraps directives of a block into a configuration.
fn within(block: &str, text: &str) -> String {
    match block {
        "main" => text.to_owned() + "\n",
        "events" => format!("events {{ {text} }}\n"),
        "http" => format!("http {{ {text} }}\n"),
        "server" => within("http", &format!("server {{ listen 127.0.0.1:%%PORT_0%%; {text} }}")),
        "location" => within("server", &format!("location / {{ {text} }}")),
        _ => panic!("{block}"),
    }
}

/// `(block, text, findings)`; those that begin with `[emerg]` fail the test.
fn check(cases: &[(&str, &str, &[&str])]) {
    if is_stand_in() {
        return; // nginx stops at the first error, and has its own level of chatter
    }
    for (block, text, expected) in cases {
        let (code, found) = findings(&within(block, text));
        assert_eq!(found, *expected, "{block}: {text}");
        let is_error = expected.iter().any(|line| line.starts_with("[emerg]"));
        assert_eq!(code, i32::from(is_error), "{block}: {text}");
    }
}

#[test]
fn what_nginx_takes_twice_may_stand_twice() {
    check(&[
        (
            "http",
            "types { text/html html; } types { text/javascript mjs; text/x html; }",
            &[
                "[warn] duplicate extension \"html\", content type: \"text/x\", previous content type: \"text/html\"",
            ],
        ),
        (
            "http",
            "types { a/b a b c; } types { a/b a b c; }",
            &["[warn] duplicate extension \"a\", content type: \"a/b\", previous content type: \"a/b\""],
        ),
        ("server", "location @a { return 200; } location @a { }", &["[warn] duplicate location \"@a\""]),
        ("location", "stub_status; stub_status;", &[]),
        ("location", "empty_gif; empty_gif;", &[]),
        (
            "location",
            "proxy_next_upstream error; proxy_next_upstream error http_502;",
            &["[warn] duplicate value \"error\""],
        ),
        ("location", "proxy_ignore_headers Expires expires;", &["[warn] duplicate value \"expires\""]),
        (
            "location",
            "keepalive_disable none; keepalive_disable none safari;",
            &["[warn] duplicate value \"none\""],
        ),
        ("http", "gzip_types text/html;", &["[warn] duplicate MIME type \"text/html\""]),
        ("server", "server_name a a;", &[]),
        ("events", "debug_connection 127.0.0.1; debug_connection 127.0.0.1;", &[]),
        ("main", "worker_processes 0;", &["[warn] worker_processes 0 is taken for 1"]),
        ("main", "worker_processes 300;", &["[warn] worker_processes 300 is taken for 256"]),
    ]);
}

#[test]
fn what_nginx_refuses_twice_is_refused_also_where_it_has_no_effect() {
    check(&[
        ("http", "tcp_nopush on; tcp_nopush on;", &["[emerg] \"tcp_nopush\" directive is duplicate"]),
        ("http", "tcp_nopush on; server { tcp_nopush on; }", &[]),
        (
            "http",
            "server_names_hash_max_size 512; server_names_hash_max_size 512;",
            &["[emerg] \"server_names_hash_max_size\" directive is duplicate"],
        ),
        ("events", "multi_accept on; multi_accept on;", &["[emerg] \"multi_accept\" directive is duplicate"]),
        ("main", "lock_file a; lock_file b;", &["[emerg] \"lock_file\" directive is duplicate"]),
        (
            "main",
            "thread_pool a threads=2; thread_pool b threads=2; thread_pool a threads=2;",
            &["[emerg] duplicate thread pool \"a\""],
        ),
        ("location", "valid_referers a.b a.b;", &["[emerg] conflicting parameter \"a.b\""]),
    ]);
}

#[test]
fn a_header_that_is_never_sent_may_have_any_name() {
    check(&[
        (
            "location",
            "proxy_set_header X-By: \"\"; proxy_set_header \"\" \"\";",
            &["[warn] \"X-By:\" is no name of a header field", "[warn] \"\" is no name of a header field"],
        ),
        ("location", "proxy_set_header X-By: a;", &["[emerg] \"X-By:\" is no name of a header field"]),
        ("location", "proxy_set_header \"X By\" $uri;", &["[emerg] \"X By\" is no name of a header field"]),
    ]);
}

#[test]
fn names_of_servers_are_compared_where_servers_share_an_address() {
    let two = |first: &str, second: &str| {
        format!(
            "server {{ listen 127.0.0.1:%%PORT_0%%; {first} }} server {{ listen 127.0.0.1:%%PORT_0%%; {second} }}"
        )
    };
    let conf = |first, second| findings(&within("http", &two(first, second)));
    if is_stand_in() {
        return;
    }
    for (first, second, name) in [
        ("", "", ""),
        ("server_name \"\";", "", ""),
        ("server_name a;", "server_name b a;", "a"),
        ("server_name .a;", "server_name a;", "a"),
    ] {
        let (code, found) = conf(first, second);
        assert_eq!(code, 0);
        let start = format!("[warn] conflicting server name \"{name}\" on 127.0.0.1:");
        assert!(found.len() == 1 && found[0].starts_with(&start), "{found:?}");
    }
    assert_eq!(conf("server_name a;", "server_name b;").1, [""; 0]);
    let (code, found) = conf("server_name a.*.b;", "");
    assert!(
        code == 1 && found[0].starts_with("[emerg] invalid server name or wildcard \"a.*.b\" on "),
        "{found:?}"
    );
}
