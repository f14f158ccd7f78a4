//! Configurations that would never finish: regular expressions that backtrack for ever, paths that lead back
//! to themselves.
//!
//! Each is answered with 500 in bounded time, and one line of the log names the directive.

use std::time::{Duration, Instant};

use crate::support::{Daemon, Setup, fetch, get};

/// Runs on the backtracking engine, and never finishes on the letters of `subject()`.
const HOSTILE: &str = r"^.*?((a+)+(?!c))+\1$";

/// The longest time allowed: the daemon in these tests is not optimized.
const BOUND: Duration = Duration::from_secs(20);

fn subject() -> String {
    "a".repeat(400) + "b"
}

/// The number of the line of `conf` that has `needle`.
fn line(daemon: &Daemon, needle: &str) -> usize {
    let conf = daemon.read("pronghorn.conf");
    1 + conf.lines().position(|line| line.contains(needle)).unwrap_or_else(|| panic!("{needle} in {conf}"))
}

#[test]
fn expressions_give_up_and_the_log_names_them() {
    let conf = r#"
http {
    map $arg_m $mapped {
        "~HOSTILE" in-map;
        default "";
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /location/ { location ~ "HOSTILE" { } }
        location /rewrite/ { rewrite "HOSTILE" /in-rewrite; return 200; }
        location /if/ { if ($uri ~ "HOSTILE") { set $in_if 1; } return 200; }
        location /if-not/ { if ($uri !~ "HOSTILE") { set $in_if_not 1; } return 200; }
        location /map/ { return 200 "$mapped"; }
        location /header/ { proxy_set_header X-M $mapped; proxy_pass http://127.0.0.1:%%PORT_0%%/well; }
        location /well { return 200 well; }
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name "~HOSTILE";
        return 200;
    }
}
"#;
    let daemon = Setup::new(&conf.replace("HOSTILE", HOSTILE)).start();
    let port = daemon.port(0);
    let subject = subject();
    for (path, directive) in [
        (format!("/location/{subject}"), "location /location/"),
        (format!("/rewrite/{subject}"), "/in-rewrite"),
        (format!("/if/{subject}"), "set $in_if 1"),
        (format!("/if-not/{subject}"), "set $in_if_not"),
        (format!("/map/?m={subject}"), "in-map"),
        (format!("/header/?m={subject}"), "in-map"),
    ] {
        let (before, since) = (daemon.log_count("gave up"), Instant::now());
        assert_eq!(get(port, &path).status, 500, "{directive}");
        assert!(since.elapsed() < BOUND, "{directive}: {:?}", since.elapsed());
        daemon.wait_log(&format!(r"\.conf:{} gave up after \d+ steps", line(&daemon, directive)));
        assert_eq!(daemon.log_count("gave up"), before + 1, "{directive}");
    }
    let response = fetch(port, &format!("GET / HTTP/1.1\r\nHost: {subject}\r\nConnection: close\r\n\r\n"));
    assert_eq!(response.status, 500);
    daemon.wait_log(&format!(r"\.conf:{} gave up", line(&daemon, "server_name")));
    assert_eq!(get(port, "/well").text(), "well");
    assert_eq!(daemon.workers().len(), 1, "nobody was taken for stuck");
}

#[test]
fn paths_that_lead_back_end_and_the_log_names_what_leads_them() {
    let daemon = Setup::new(
        r#"
http {
    server {
        listen 127.0.0.1:%%PORT_1%%;
        add_header X-Accel-Redirect /accel;
        return 200;
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        location /rewrite { rewrite ^ /rewrite/again; }
        location /last { if ($uri) { rewrite ^ /last/again last; } }
        location /page { recursive_error_pages on; error_page 404 /page; return 404; }
        location /named { recursive_error_pages on; error_page 404 @named; return 404; }
        location @named { recursive_error_pages on; error_page 403 @named; return 403; }
        location /files { try_files /none /files; }
        location /files-named { try_files /none @files; }
        location @files { try_files /none @files; }
        location /index { index index.html /index/; alias %%DIR%%; }
        location /accel { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /well { return 200 well; }
    }
}
"#,
    )
    .start();
    let port = daemon.port(0);
    for (path, directive) in [
        ("/rewrite", "rewrite ^ /rewrite/again"),
        ("/last", "rewrite ^ /last/again"),
        ("/page", "error_page 404 /page"),
        ("/named", "error_page 403 @named"),
        ("/files", "try_files /none /files"),
        ("/files-named", "location @files"),
        ("/index/", "location /index"),
        ("/accel", "location /accel"),
    ] {
        let before = daemon.log_count("redirection cycle");
        assert_eq!(get(port, path).status, 500, "{path}");
        let place = format!(r"redirection cycle while [a-z ]+ .*in \S+\.conf:{},", line(&daemon, directive));
        daemon.wait_log(&place);
        assert_eq!(daemon.log_count("redirection cycle"), before + 1, "{path}");
    }
    assert_eq!(get(port, "/well").text(), "well");
}

#[test]
fn an_expression_that_cannot_run_is_told_with_its_place() {
    let exit = Setup::new(
        r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location ~ "^/(a(?R)?b)$" { return 204; }
    }
}
"#,
    )
    .try_start()
    .err()
    .expect("it does not start");
    let text = format!("{exit:?}");
    for expected in ["calls itself, cannot be run", ".conf:", "write the group's pattern where it is called"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
