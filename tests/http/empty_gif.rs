//! `empty_gif`: one pixel, its conditions, its methods.

use crate::support::{Setup, fetch, get};

#[test]
fn a_pixel_is_served() {
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; location / { empty_gif; } } }";
    let daemon = Setup::new(conf).start();
    let response = get(daemon.port(0), "/any");
    assert_eq!((response.status, response.header("content-type")), (200, Some("image/gif")));
    assert_eq!(
        (response.body.len(), &response.body[..6], response.body.last()),
        (43, &b"GIF89a"[..], Some(&b';'))
    );
    let date = "Mon, 28 Sep 1970 06:00:00 GMT";
    assert_eq!(response.header("last-modified"), Some(date));
    let ask = |line: &str, field: &str| {
        fetch(daemon.port(0), &format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n"))
            .status
    };
    assert_eq!(ask("GET /", &format!("If-Modified-Since: {date}\r\n")), 304);
    assert_eq!(ask("GET /", "If-Match: \"x\"\r\n"), 412);
    assert_eq!(ask("PUT /", "Content-Length: 0\r\n"), 405);
}
