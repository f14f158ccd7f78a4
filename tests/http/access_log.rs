//! `access_log` and `log_format`: the combined line, own formats, escapes, conditions, off.

use std::io::Read;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get, wait_for};

const CONF: &str = r#"
http {
    log_format own '$status|$request|$body_bytes_sent|$http_x|$upstream_addr|$upstream_status|$request_length';
    log_format name '$uri';
    log_format sent '$uri $pipe "$request_completion"';
    log_format json escape=json '{"x":"$http_x","uri":"$uri"}';
    map $status $worth { ~^2 0; default 1; }
    access_log logs/combined.log combined;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        location / { return 200 "hello"; }
        location /own { access_log %%DIR%%/logs/own.log own; return 200 "hello"; }
        location /proxied { access_log %%DIR%%/logs/own.log own; proxy_pass http://%%ORIGIN%%; }
        location /json { access_log %%DIR%%/logs/json.log json; return 200 "hello"; }
        location /named { access_log %%DIR%%/logs/named_$arg_name.log name; return 200 "hello"; }
        location /named/kept {
            open_log_file_cache max=10 min_uses=2;
            access_log %%DIR%%/logs/folder/$arg_name name;
            return 200 "hello";
        }
        location /named/rootless { root %%DIR%%/$arg_root; access_log %%DIR%%/logs/named_$arg_name.log name; return 200 "hello"; }
        location /packed { access_log %%DIR%%/logs/packed.gz name gzip=6 flush=100ms; return 200 "hello"; }
        location /sent { access_log %%DIR%%/logs/sent.log sent; return 200 "hello"; }
        location /sent/never { access_log %%DIR%%/logs/sent.log sent; return 444; }
        location /off { access_log off; return 200 "hello"; }
        location /some { access_log %%DIR%%/logs/some.log own if=$worth; return 200 "hello"; }
        location /some/bad { access_log %%DIR%%/logs/some.log own if=$worth; return 404; }
        location /buffered { access_log %%DIR%%/logs/buffered.log own buffer=32k flush=100ms; return 200 "hello"; }
    }
}
"#;

fn start(origin: &Origin) -> crate::support::Daemon {
    let text = CONF.replace("logs/combined.log", "%%DIR%%/logs/combined.log");
    Setup::new(&text).set("ORIGIN", origin.address()).start()
}

#[test]
fn the_combined_line_is_what_log_analysers_read() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    fetch(
        daemon.port(0),
        "GET /x?y HTTP/1.1\r\nHost: a\r\nReferer: http://r/\r\nUser-Agent: agent \"7\"\r\nConnection: close\r\n\r\n",
    );
    let line = daemon.wait_line("logs/combined.log", "GET");
    let pattern = concat!(
        r#"^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /x\?y HTTP/1\.1" 200 5 "#,
        r#""http://r/" "agent \\x227\\x22"$"#
    );
    assert!(regex::Regex::new(pattern).expect("valid").is_match(&line), "{line}");
    get(daemon.port(0), "/off");
    get(daemon.port(0), "/last");
    daemon.wait_line("logs/combined.log", "/last");
    assert!(!daemon.read("logs/combined.log").contains("/off"));
}

#[test]
fn own_formats_take_variables() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nX: \"q\" \\\r\nConnection: close\r\n\r\n");
    fetch(daemon.port(0), &request("/own"));
    let length = request("/own").len();
    let line = daemon.wait_line("logs/own.log", "/own");
    assert_eq!(line, format!(r"200|GET /own HTTP/1.1|5|\x22q\x22 \x5C|-|-|{length}"));

    fetch(daemon.port(0), &request("/proxied"));
    let line = daemon.wait_line("logs/own.log", "/proxied");
    let length = request("/proxied").len();
    assert_eq!(
        line,
        format!(r"200|GET /proxied HTTP/1.1|6|\x22q\x22 \x5C|{}|200|{length}", origin.address())
    );

    fetch(daemon.port(0), &request("/json"));
    assert_eq!(daemon.wait_line("logs/json.log", "json"), r#"{"x":"\"q\" \\","uri":"/json"}"#);
}

#[test]
fn a_condition_chooses_the_lines() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    get(daemon.port(0), "/some");
    get(daemon.port(0), "/some/bad");
    assert!(daemon.wait_line("logs/some.log", "GET").contains("GET /some/bad"));
    assert_eq!(daemon.read("logs/some.log").lines().count(), 1);
}

#[test]
fn buffered_lines_come_whole_and_in_time() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for number in 0..300 {
        client.get(&format!("/buffered/{number}"));
    }
    let lines = wait_for("300 lines", || {
        let text = daemon.read("logs/buffered.log");
        (text.lines().count() == 300).then_some(text)
    });
    for (number, line) in lines.lines().enumerate() {
        assert!(line.starts_with(&format!("200|GET /buffered/{number} HTTP/1.1|5|")), "{line}");
    }
}

#[test]
fn a_refused_request_is_logged_too() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    fetch(daemon.port(0), "GET / HTTP/1.1\r\nno colon\0\r\n\r\n");
    assert!(daemon.wait_line("logs/combined.log", "\" 400 ").contains("127.0.0.1"));
}

#[test]
fn pipelined_and_completed_requests_are_marked() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /sent/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /sent/2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((client.response().status, client.response().status), (200, 200));
    get(daemon.port(0), "/sent/3");
    daemon.wait_line("logs/sent.log", "/sent/3");
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /sent/never HTTP/1.1\r\nHost: a\r\n\r\n");
    client.expect_end();
    daemon.wait_line("logs/sent.log", "never");
    let expected = "/sent/1 . \"OK\"\n/sent/2 p \"OK\"\n/sent/3 . \"OK\"\n/sent/never . \"\"\n";
    assert_eq!(daemon.read("logs/sent.log"), expected);
}

#[test]
fn a_variable_in_the_path_chooses_the_file() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    for query in ["name=a", "name=b", "name=a", ""] {
        get(daemon.port(0), &format!("/named?{query}"));
    }
    get(daemon.port(0), "/named/rootless?root=missing&name=never");
    get(daemon.port(0), "/named/rootless?root=logs&name=there");
    daemon.wait_line("logs/named_there.log", "rootless");
    daemon.wait_line("logs/named_.log", "named");
    assert_eq!(daemon.read("logs/named_a.log"), "/named\n/named\n");
    assert_eq!(daemon.read("logs/named_b.log"), "/named\n");
    assert!(!daemon.path("logs/named_never.log").exists(), "its root directory does not exist");
    std::fs::create_dir(daemon.path("logs/named_")).expect("the folder is ours");
    get(daemon.port(0), "/named?name=/../../climbed");
    get(daemon.port(0), "/named?name=/..x");
    daemon.wait_line("logs/named_/..x.log", "named");
    if !is_stand_in() {
        daemon
            .wait_log(r"/logs/named_/../../climbed.log. leads out of its directory: the line is not logged");
        assert!(!daemon.path("climbed.log").exists());
    }
}

#[test]
fn a_log_with_a_variable_may_stay_open() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    let lines = |path: &str| daemon.read(path).lines().count();
    std::fs::create_dir(daemon.path("logs/folder")).expect("the folder is new");
    let mut client = Client::connect(daemon.port(0));
    for name in ["twice", "once", "twice"] {
        client.get(&format!("/named/kept?name={name}"));
    }
    wait_for("the second line", || {
        (daemon.path("logs/folder/twice").exists() && lines("logs/folder/twice") == 2).then_some(())
    });
    std::fs::rename(daemon.path("logs/folder"), daemon.path("logs/moved")).expect("moves");
    for name in ["once", "twice"] {
        client.get(&format!("/named/kept?name={name}"));
    }
    wait_for("the third line", || (lines("logs/moved/twice") == 3).then_some(()));
    assert_eq!(lines("logs/moved/once"), 1, "not used often enough to stay open");
}

#[test]
fn a_log_may_be_compressed() {
    let origin = Origin::saying("origin");
    let daemon = start(&origin);
    get(daemon.port(0), "/packed/1");
    wait_for("flush=100ms", || {
        let bytes = std::fs::read(daemon.path("logs/packed.gz")).unwrap_or_default();
        let mut text = String::new();
        let read = flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text);
        (read.is_ok() && text == "/packed/1\n").then_some(())
    });
}

/// The output of `zcat` for a log; `None` if the log is truncated.
fn zcat(daemon: &Daemon, name: &str) -> Option<String> {
    let output = std::process::Command::new("gzip")
        .arg("-dc")
        .arg(daemon.path(name))
        .output()
        .expect("gzip is installed");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_compressed_log_is_whole_after_a_rotation_and_a_crash() {
    use nix::sys::signal::Signal;
    let conf = r#"
http {
    log_format uri '$uri $request_id';
    access_log %%DIR%%/packed.gz uri gzip=9 buffer=4k flush=200ms;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200; } }
}
"#;
    let daemon = Daemon::start(conf);
    let ask = |from: usize, to: usize| {
        let mut client = Client::connect(daemon.port(0));
        (from..to).for_each(|number| drop(client.get(&format!("/{number}"))));
    };
    let count = |name: &str| zcat(&daemon, name).map_or(0, |text| text.lines().count());
    ask(0, 500);
    std::fs::rename(daemon.path("packed.gz"), daemon.path("packed.gz.1")).expect("moves");
    daemon.signal(Signal::SIGUSR1);
    wait_for("the new file", || daemon.path("packed.gz").exists().then_some(()));
    ask(500, 1000);
    wait_for("all lines", || (count("packed.gz.1") + count("packed.gz") == 1000).then_some(()));
    // a worker that is killed loses the lines it had gathered, but leaves no unreadable file
    ask(1000, 1300);
    let killed = daemon.worker();
    crate::support::daemon::send(killed, Signal::SIGKILL);
    wait_for("another worker", || daemon.workers_now().iter().any(|pid| *pid != killed).then_some(()));
    ask(1300, 1400);
    let lines = || zcat(&daemon, "packed.gz").unwrap_or_default();
    wait_for("the last line", || lines().lines().any(|line| line.starts_with("/1399 ")).then_some(()));
    let text = zcat(&daemon, "packed.gz").expect("it is whole");
    let numbers: Vec<usize> = text
        .lines()
        .map(|line| line.split(['/', ' ']).nth(1).and_then(|word| word.parse().ok()).expect("a whole line"))
        .collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!((1300..1400).all(|number| numbers.contains(&number)));
    // and one that is told to leave loses nothing
    ask(1400, 1450);
    daemon.stop(Signal::SIGQUIT);
    assert!((1400..1450).all(|number| lines().contains(&format!("/{number} "))));
}

#[test]
fn a_request_may_have_several_logs() {
    let syslog = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    syslog.set_read_timeout(Some(crate::support::deadline::deadline())).expect("a time");
    let conf = r#"
http {
    log_format raw escape=none '$http_x|$uri';
    log_format shown escape=default '$http_x|$uri';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/raw.log raw;
        access_log %%DIR%%/shown.log shown buffer=1k flush=50ms;
        access_log syslog:server=127.0.0.1:%%SYSLOG%%,facility=local3,severity=crit,tag=web,nohostname raw;
        access_log %%DIR%%/never.log raw if=$no_such_argument;
        set $no_such_argument "";
        location / { return 200; }
        location /own { access_log %%DIR%%/own.log shown; return 200; }
    }
}
"#;
    let port = syslog.local_addr().expect("bound").port();
    let daemon = Setup::new(conf).set("SYSLOG", port).start();
    for path in ["/a", "/own"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX: \"1\"\r\nConnection: close\r\n\r\n");
        assert_eq!(fetch(daemon.port(0), &request).status, 200);
    }
    assert_eq!(daemon.wait_line("own.log", "own"), r"\x221\x22|/own");
    assert_eq!(daemon.wait_line("shown.log", "a$"), r"\x221\x22|/a");
    assert_eq!(daemon.read("raw.log"), "\"1\"|/a\n");
    assert_eq!(daemon.read("never.log"), "");
    let mut datagram = [0; 500];
    let length = syslog.recv(&mut datagram).expect("it comes");
    let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
    // local3 is 19, crit is 2
    let pattern = r#"^<154>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d web: "1"\|/a$"#;
    assert!(regex::Regex::new(pattern).expect("valid").is_match(&text), "{text}");
}

#[test]
fn a_log_that_stays_open_follows_a_rotation() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(
        r#"
http {
    log_format uri $uri;
    open_log_file_cache max=10 valid=1h inactive=1h min_uses=1;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        access_log %%DIR%%/$arg_name.log uri;
        location / { proxy_pass http://%%ORIGIN%%; }
    }
}
"#,
    )
    .set("ORIGIN", origin.address())
    .start();
    get(daemon.port(0), "/before?name=a");
    daemon.wait_line("a.log", "/before");
    std::fs::rename(daemon.path("a.log"), daemon.path("a.log.1")).expect("moves");
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    daemon.wait_log("reopening logs");
    // The worker gets the order only after the master has logged it.
    wait_for("the new file", || {
        get(daemon.port(0), "/after?name=a");
        daemon.path("a.log").exists().then_some(())
    });
    daemon.wait_line("a.log", "/after");
}

#[test]
fn subrequests_are_logged_where_that_is_asked_for() {
    let daemon = Setup::new(
        r#"
http {
    log_format uri '$uri $status';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        ssi on;
        default_type text/html;
        access_log %%DIR%%/sub.log uri;
        location / { }
        location /logged/ { log_subrequest on; }
    }
}
"#,
    )
    .file("plain/page.html", "<!--#include virtual=\"/plain/part.html\" -->")
    .file("plain/part.html", "part")
    .file("logged/page.html", "<!--#include virtual=\"/logged/part.html\" -->")
    .file("logged/part.html", "part")
    .start();
    assert_eq!(get(daemon.port(0), "/plain/page.html").text(), "part");
    assert_eq!(get(daemon.port(0), "/logged/page.html").text(), "part");
    daemon.wait_line("sub.log", "^/logged/page.html 200");
    let mut lines: Vec<String> = daemon.read("sub.log").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["/logged/page.html 200", "/logged/part.html 200", "/plain/page.html 200"]);
}

#[test]
fn who_sees_the_end_of_a_connection_finds_its_last_line() {
    let daemon = Daemon::start(CONF.replace("%%ORIGIN%%", "127.0.0.1:1").as_str());
    for count in 1..=50 {
        let mut client = Client::connect(daemon.port(0));
        client.send("GET /sent HTTP/1.0\r\nHost: a\r\n\r\n");
        client.rest();
        assert_eq!(daemon.read("logs/sent.log").lines().count(), count);
    }
}

#[test]
fn mistakes_are_named() {
    for (line, message) in [
        ("log_format combined x;", "duplicate \"log_format\" name \"combined\""),
        ("access_log %%DIR%%/a.log missing;", "unknown log format \"missing\""),
        ("access_log %%DIR%%/a.log combined flush=1s;", "no buffer is defined for access_log"),
        ("access_log %%DIR%%/a.log combined gzip=10;", "invalid parameter \"gzip=10\""),
        ("access_log %%DIR%%/$uri.log combined buffer=1k;", "buffered logs cannot have variables in name"),
        ("access_log syslog:server=127.0.0.1 combined buffer=1k;", "buffered logs cannot be sent to syslog"),
        ("error_log %%DIR%%/e.log loud;", "invalid log level \"loud\""),
    ] {
        let output =
            Setup::new(&format!("http {{ {line} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}")).run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(message), "{line}: {text}");
    }
    let conf = "http { error_log off; server { listen 127.0.0.1:%%PORT_0%%; } }";
    let output = Setup::new(conf).run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("writes to a file named \"off\""), "{text}");
}
