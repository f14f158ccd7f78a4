//! `more_set_headers` and related directives: fields of responses and requests that are set, replaced or
//! removed.
//!
//! nginx with the module gives the same fields for the same configuration.

use crate::support::daemon::is_stand_in;
use crate::support::message::Response;
use crate::support::{Daemon, Origin, Setup, fetch};

const CONF: &str = r#"
%%LOAD%%
http {
    more_set_headers "X-Http: 1";
    types { text/html html; text/plain txt; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/files;
        more_set_headers "X-Server: 1";
        location /server { more_set_headers "Server: mine"; return 200 "a"; }
        location /bare { more_clear_headers Server Date Content-Type; return 200 "a"; }
        location /type { more_set_headers "Content-Type: text/foo"; return 200 "a"; }
        location /many { more_set_headers 'A: b' 'C:d' 'E:' F 'G:   h  i' 'H: $uri'; return 200 "a"; }
        location /status { more_set_headers -s '404 500' -s 403 'A: b'; return 403 "a"; }
        location /other { more_set_headers -s '404 500' 'A: b'; return 403 "a"; }
        location /kind { default_type text/css; more_set_headers -t 'text/plain text/css' 'A: b'; return 200 "a"; }
        location /unkind { default_type text/css; more_set_headers -t 'text/plain' 'A: b'; return 200 "a"; }
        location /add { add_header X-A 1; more_set_headers 'X-A: 2'; return 200 "a"; }
        location /wild { more_set_headers 'X-A: 2' 'X-B: 3' 'Y: 4'; more_clear_headers 'X-*'; return 200 "a"; }
        location /twice { more_set_headers 'X-A: 2'; more_set_headers 'X-A: 3' 'x-a: 4'; return 200 "a"; }
        location /moved { more_set_headers 'Location: /there'; return 302 /here; }
        location /length { more_clear_headers Content-Length; return 200 "abc"; }
        location /files/ { alias %%DIR%%/files/; more_clear_headers ETag Last-Modified Accept-Ranges; }
        location /if { more_set_headers 'X-L: 1'; if ($arg_a) { more_set_headers 'X-I: 2'; return 200 "i"; } return 200 "b"; }
        location /up { proxy_pass http://%%ORIGIN%%; more_set_headers 'X-Up: mine'; more_clear_headers 'X-Hide-*' ETag; }
        location /in {
            more_set_input_headers 'X-In: $uri' 'User-Agent: faked' 'Accept:' 'Cookie: a=b';
            more_set_input_headers -r 'X-Has: replaced' 'X-Has-Not: never';
            more_clear_input_headers 'X-Secret-*';
            more_set_input_headers -t 'text/plain' 'X-Plain: 1';
            more_set_input_headers 'Host: Foo.Example:81';
            proxy_set_header Host $host;
            proxy_set_header X-Seen "$http_user_agent|$cookie_a|$http_host|$request_length";
            proxy_pass http://%%ORIGIN%%;
        }
        location /range { more_set_input_headers 'Range: bytes=0-1'; alias %%DIR%%/files/a.txt; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    let load = "load_module /usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so;";
    let conf = CONF.replace("%%LOAD%%", load).replace("%%ORIGIN%%", &origin.address());
    Setup::new(&conf).file("files/a.txt", "hello\n").start()
}

fn ask(daemon: &Daemon, path: &str, more: &str) -> Response {
    fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: t\r\n{more}Connection: close\r\n\r\n"))
}

#[test]
fn fields_of_answers_are_set_and_taken_away() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nX-Up: theirs\r\nX-Up: two\r\nX-Hide-A: 1\r\nx-hide-b: 2\r\nETag: \"q\"\r\n\
          Content-Length: 2\r\n\r\nok"
            .to_vec()
    });
    let daemon = start(&origin);
    for (path, name, values) in [
        ("/server", "server", &["mine"][..]),
        ("/bare", "server", &[]),
        ("/bare", "date", &[]),
        ("/bare", "content-type", &[]),
        ("/type", "content-type", &["text/foo"]),
        ("/many", "a", &["b"]),
        ("/many", "c", &["d"]),
        ("/many", "e", &[]),
        ("/many", "f", &[]),
        ("/many", "g", &["h  i"]),
        ("/many", "h", &["/many"]),
        ("/many", "x-http", &["1"]),
        ("/many", "x-server", &["1"]),
        ("/status", "a", &["b"]),
        ("/other", "a", &[]),
        ("/nowhere", "x-server", &["1"]),
        ("/kind", "a", &["b"]),
        ("/unkind", "a", &[]),
        ("/add", "x-a", &["2", "1"]),
        ("/wild", "x-a", &[]),
        ("/wild", "x-b", &[]),
        ("/wild", "x-server", &[]),
        ("/wild", "y", &["4"]),
        ("/twice", "x-a", &["4"]),
        ("/length", "content-length", &[]),
        ("/length", "transfer-encoding", &["chunked"]),
        ("/files/a.txt", "etag", &[]),
        ("/files/a.txt", "last-modified", &[]),
        ("/files/a.txt", "accept-ranges", &[]),
        ("/if?a=1", "x-i", &["2"]),
        ("/if?a=1", "x-l", &["1"]),
        ("/if", "x-i", &[]),
        ("/up", "x-up", &["mine"]),
        ("/up", "x-hide-a", &[]),
        ("/up", "x-hide-b", &[]),
        ("/up", "etag", &[]),
    ] {
        assert_eq!(ask(&daemon, path, "").all(name), values, "{path} {name}");
    }
    let place = ask(&daemon, "/moved", "");
    assert_eq!(place.header("location"), Some(&*format!("http://t:{}/there", daemon.port(0))));
    assert_eq!(ask(&daemon, "/length", "").text(), "abc");
}

#[test]
fn fields_of_requests_are_set_and_taken_away() {
    let origin = Origin::saying("x");
    let daemon = start(&origin);
    let more = "X-Has: old\r\nX-Has: older\r\nX-Secret-A: 1\r\nx-secret-b: 2\r\nAccept: */*\r\nCookie: c=d\r\n\
                Content-Type: text/plain\r\n";
    assert_eq!(ask(&daemon, "/in/a", more).text(), "x");
    let request = origin.last();
    for (name, value) in [
        ("x-in", Some("/in/a")),
        ("user-agent", Some("faked")),
        ("accept", None),
        ("cookie", Some("a=b")),
        ("x-has", Some("replaced")),
        ("x-has-not", None),
        ("x-secret-a", None),
        ("x-secret-b", None),
        ("x-plain", Some("1")),
        ("host", Some("foo.example")),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    let sent = format!("GET /in/a HTTP/1.1\r\nHost: t\r\n{more}Connection: close\r\n\r\n").len();
    assert_eq!(request.header("x-seen"), Some(&*format!("faked|b|Foo.Example:81|{sent}")));
    assert_eq!(request.names().iter().filter(|name| name.eq_ignore_ascii_case("x-has")).count(), 1);
    assert_eq!(ask(&daemon, "/in/a", "").text(), "x");
    assert_eq!(origin.last().header("x-has"), None, "-r replaces only");
    assert_eq!(origin.last().header("x-plain"), None);
    assert_eq!(ask(&daemon, "/range", "").text(), "he");
}

#[test]
fn what_would_break_a_head_is_left_out() {
    if is_stand_in() {
        return;
    }
    let conf = r#"http { server {
        listen 127.0.0.1:%%PORT_0%%;
        location ~ "^/(?s)(.*)" { more_set_headers "X-A: $1" 'Transfer-Encoding: gzip' 'Connection: x'; return 200 "abc"; }
    } }"#;
    let daemon = Setup::new(conf).start();
    let response = ask(&daemon, "/a%0d%0aX-B:%20c", "");
    assert_eq!((response.header("x-a"), response.header("x-b")), (Some("aX-B: c"), None));
    assert_eq!(response.all("connection"), ["close"]);
    assert_eq!(response.all("transfer-encoding"), [""; 0]);
}
