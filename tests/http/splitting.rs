//! Values with line breaks: wherever a variable is used in a head, none of them ends a line or begins one.
//! Each place gets each of several payloads from the path; the client's response and the origin's request are
//! read as bytes.

use std::sync::{Arc, Mutex};

use crate::support::{Client, Origin, Setup, fetch};

/// The text for HERE in `location ~ ^/NAME/(?<v>(?s:.*))$ { set $v …; HERE }`.
const PLACES: &[(&str, &str)] = &[
    ("add_header", "add_header X-A $v; return 200 ok;"),
    ("add_header_always", "add_header X-A \"a $uri b\" always; return 404;"),
    ("add_header_etag", "add_header ETag $v; add_header Last-Modified $v; return 200 ok;"),
    ("add_header_type", "add_header Content-Type $v; return 200 ok;"),
    ("add_trailer", "add_trailer X-A $v; return 200 ok;"),
    ("return", "return 302 http://x/$v;"),
    ("return_path", "return 301 $v;"),
    ("rewrite", "rewrite ^/[a-z_]+/(.*)$ /y/$1 redirect;"),
    ("rewrite_whole", "rewrite ^(.*)$ http://x$1? permanent;"),
    ("error_page", "error_page 404 =302 http://x/$v; return 404;"),
    ("expires", "expires $v; return 200 ok;"),
    ("charset", "charset $v; return 200 ok;"),
    ("type", "default_type $v; return 200 ok;"),
    ("realm", "auth_basic \"r $v\"; auth_basic_user_file %%DIR%%/pw; try_files /x =404;"),
    ("cookie_path", "proxy_cookie_path /p $v; proxy_pass http://%%ORIGIN%%;"),
    ("cookie_domain", "proxy_cookie_domain d $v; proxy_pass http://%%ORIGIN%%;"),
    ("redirect", "proxy_redirect http://up/ http://$v/; proxy_pass http://%%ORIGIN%%;"),
    ("set_header", "proxy_set_header X-A $v; proxy_set_header Host $v; proxy_pass http://%%ORIGIN%%;"),
    ("pass", "proxy_pass http://%%ORIGIN%%/$v;"),
    ("pass_rewritten", "rewrite ^/pass_rewritten/(.*)$ /$1 break; proxy_pass http://%%ORIGIN%%;"),
    ("args", "set $args $v; proxy_pass http://%%ORIGIN%%;"),
    ("pass_host", "set $q %%ORIGIN%%/$v; proxy_pass http://$q;"),
    ("method", "proxy_method $v; proxy_pass http://%%ORIGIN%%;"),
    ("body", "proxy_set_body $v; proxy_pass http://%%ORIGIN%%;"),
    ("bind", "proxy_bind $v; proxy_pass http://%%ORIGIN%%;"),
    ("userid", "userid on; userid_path /; add_header X-U $uid_set; add_header X-V $v; return 200 ok;"),
    ("rate", "set $limit_rate $v; return 200 ok;"),
];

const PAYLOADS: &[&str] = &[
    "%0d%0aInjected:%20yes%0d%0a%0d%0aBODY",
    "%0aInjected:%20yes%0a",
    "%0dInjected:%20yes%0d",
    "x%00y",
    "%0d%0a%20Injected:%20yes",
    "GET%20/%20HTTP/1.1%0d%0aInjected:%20yes%0d%0a%0d%0aGET",
];

/// True if a message's head has an injected line, or a byte that ends one.
fn is_split(message: &[u8]) -> bool {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(message.len());
    let text = String::from_utf8_lossy(&message[..end]).replace("\r\n", "\u{1}");
    let mut lines = text.split(['\u{1}', '\r', '\n']);
    text.contains(['\r', '\n', '\0']) || lines.any(|line| line.trim_start().starts_with("Injected"))
}

#[test]
fn no_value_ends_a_line_of_a_head() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = Arc::clone(&seen);
    let origin = Origin::start(move |peer| {
        if let Some(head) = peer.head_or_end() {
            heads.lock().expect("not poisoned").push(head);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b; path=/p; domain=d\r\n\
                          Location: http://up/x\r\nConnection: close\r\n\r\nok";
            let _ = peer.try_send(answer.as_bytes());
        }
    });
    let locations: String = PLACES
        .iter()
        .map(|(name, here)| {
            format!("location ~ ^/{name}/(?<v_{name}>(?s:.*))$ {{ set $v $v_{name}; {here} }}\n")
        })
        .collect();
    let conf = format!("http {{ charset_types *; server {{ listen 127.0.0.1:%%PORT_0%%;\n{locations} }} }}");
    let daemon = Setup::new(&conf).file("pw", "u:{PLAIN}p\n").set("ORIGIN", origin.address()).start();
    for (name, _) in PLACES {
        for payload in PAYLOADS {
            let mut client = Client::connect(daemon.port(0));
            client.send(format!(
                "GET /{name}/{payload} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n"
            ));
            let (answer, _) = client.rest();
            assert!(answer.starts_with(b"HTTP/1.1 "), "{name} {payload}: {}", answer.escape_ascii());
            assert!(!is_split(&answer), "{name} {payload}: {}", answer.escape_ascii());
            for head in seen.lock().expect("not poisoned").drain(..) {
                assert!(!is_split(&head), "{name} {payload}: {}", head.escape_ascii());
                let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
                assert_eq!(
                    first.split(|byte| *byte == b' ').count(),
                    3,
                    "{name} {payload}: {}",
                    head.escape_ascii()
                );
            }
        }
    }
}

#[test]
fn a_method_that_is_no_word_is_500_and_told() {
    let origin = Origin::saying("ok");
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_method $http_x_method; proxy_pass http://%%ORIGIN%%; } } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let with = |method: &str| {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nX-Method: {method}\r\nConnection: close\r\n\r\n");
        fetch(daemon.port(0), &request).status
    };
    assert_eq!((with("GET /admin?"), with(""), with("REPORT")), (500, 500, 200));
    daemon.wait_log(r#"\[error\].*"proxy_method" has become "GET /admin\?", which is no method"#);
    assert_eq!(origin.last().method, "REPORT");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn names_of_fields_and_methods_are_checked_when_the_configuration_is_read() {
    for (line, message) in [
        ("add_header \"A\\nB\" c;", "is not a valid header name"),
        ("add_header A: c;", "is not a valid header name"),
        ("add_trailer \"A B\" c;", "is not a valid header name"),
        ("proxy_method \"GET /\";", "is no method"),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ {line} }} }} }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(message), "{line}: {said}");
    }
}
