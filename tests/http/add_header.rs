//! `add_header`: on which statuses, `always`, inheritance as a whole, variables.

use crate::support::{Origin, Setup, get};

const CONF: &str = r#"
http {
    add_header X-Level http;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /inherited { return 200 "x"; }
        location /own { add_header X-Own "a $uri"; add_header X-Twice 1; add_header X-Twice 2; return 200 "x"; }
        location /missing { add_header X-Plain p; add_header X-Always a always; return 404; }
        location /moved { add_header X-Plain p; return 302 /x; }
        location /none { add_header X-None $arg_none; return 200 "x"; }
        location /once { add_header ETag '"own"'; add_header last-modified "Mon, 28 Sep 1970 06:00:00 GMT"; proxy_pass http://%%ORIGIN%%; }
        location /never { add_header ETag ""; add_header Last-Modified $arg_none; proxy_pass http://%%ORIGIN%%; }
        location /proxied { add_header X-Proxied yes; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn fields_are_added_where_they_should_be() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-Origin: o\r\nETag: \"origin\"\r\nLast-Modified: Sat, 21 Nov 2026 09:00:00 GMT\r\n\r\nx".to_vec()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let port = daemon.port(0);

    assert_eq!(get(port, "/inherited").header("x-level"), Some("http"));

    let response = get(port, "/own");
    assert_eq!(response.header("x-own"), Some("a /own"));
    assert_eq!(response.all("x-twice"), ["1", "2"]);
    assert_eq!(response.header("x-level"), None, "its own replace those from above");

    let response = get(port, "/missing");
    assert_eq!((response.header("x-plain"), response.header("x-always")), (None, Some("a")));

    assert_eq!(get(port, "/moved").header("x-plain"), Some("p"));
    assert_eq!(get(port, "/none").header("x-none"), None, "an empty value adds nothing");

    let response = get(port, "/proxied");
    assert_eq!((response.header("x-proxied"), response.header("x-origin")), (Some("yes"), Some("o")));

    let response = get(port, "/once");
    assert_eq!(response.all("etag"), ["\"own\""], "an ETag is replaced, not added");
    assert_eq!(response.all("last-modified"), ["Mon, 28 Sep 1970 06:00:00 GMT"]);
    let response = get(port, "/never");
    assert_eq!((response.header("etag"), response.header("last-modified")), (None, None));
}
