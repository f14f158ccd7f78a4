//! `$upstream_…`: information about the servers that were used, in responses and in the log.

use crate::support::{Origin, Setup, get, wait_for};

const CONF: &str = r#"
http {
    upstream two { server %%BAD%%; server %%GOOD%%; }
    log_format times '$uri [$upstream_status] [$upstream_header_time] [$upstream_response_time]';
    access_log %%DIR%%/logs/times.log times;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header X-Header "[$upstream_header_time]";
        add_header X-Response "[$upstream_response_time]";
        add_header X-Cookie "[$upstream_cookie_id]";
        location /next { proxy_pass http://two; }
        location / { proxy_pass http://%%GOOD%%; }
    }
}
"#;

fn matches(pattern: &str, text: &str) -> bool {
    regex::Regex::new(pattern).expect("valid").is_match(text)
}

#[test]
fn times_that_are_not_known_yet_are_dashes() {
    let bad = Origin::start(|peer| drop(peer.request()));
    let good = Origin::saying("good");
    let daemon = Setup::new(CONF).set("BAD", bad.address()).set("GOOD", good.address()).start();
    let response = get(daemon.port(0), "/next");
    let header = response.header("x-header").expect("added");
    assert!(matches(r"^\[-, \d\.\d{3}\]$", header), "the first server sent no head: {header}");
    let time = response.header("x-response").expect("added");
    assert!(matches(r"^\[\d\.\d{3}, -\]$", time), "the second has not ended: {time}");
    let line = daemon.wait_line("logs/times.log", "/next");
    assert!(matches(r"^/next \[502, 200\] \[-, \d\.\d{3}\] \[\d\.\d{3}, \d\.\d{3}\]$", &line), "{line}");
}

#[test]
fn a_cookie_of_the_response_is_read_as_nginx_reads_it() {
    const CASES: [(&str, Option<&str>); 10] = [
        ("id=x", Some("x")),
        ("ID = x; Path=/", Some("x")),
        ("id=a  b ;c", Some("a  b ")),
        ("id==x", Some("=x")),
        ("id=one,two", Some("one,two")),
        ("id=first\r\nSet-Cookie: id=second", Some("first")),
        ("other=1\r\nSet-Cookie: id=2", Some("2")),
        ("id\t=\tx", None),
        ("idx=1", None),
        ("x; id=1", None),
    ];
    let good = Origin::replying(|request| {
        let index: usize = request.target.trim_start_matches('/').parse().expect("a number");
        format!("HTTP/1.1 204 None\r\nSet-Cookie: {}\r\n\r\n", CASES[index].0).into_bytes()
    });
    let daemon = Setup::new(CONF).set("BAD", good.address()).set("GOOD", good.address()).start();
    for (index, (field, expected)) in CASES.iter().enumerate() {
        let response = get(daemon.port(0), &format!("/{index}"));
        let cookie = format!("[{}]", expected.unwrap_or_default());
        assert_eq!(response.header("x-cookie"), Some(&*cookie), "{field:?}");
    }
    wait_for("the log's lines", || (daemon.read("logs/times.log").lines().count() == 10).then_some(()));
}
