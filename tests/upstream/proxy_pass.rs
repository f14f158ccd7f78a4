//! `proxy_pass`: the URI sent to the origin, with and without a URI in the directive, and with variables.

use crate::support::{Client, Origin, Setup, get};

const CONF: &str = r#"
http {
    upstream named { server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /with/ { proxy_pass http://%%ORIGIN%%/other/; }
        location /bare { proxy_pass http://%%ORIGIN%%/; }
        location /cut/ { proxy_pass http://%%ORIGIN%%/short; }
        location = /exactly { proxy_pass http://%%ORIGIN%%/alone; }
        location /group/ { proxy_pass http://named/g/; }
        location ~ ^/regex/(.*)$ { proxy_pass http://%%ORIGIN%%; }
        location ~ ^/captured/(.*)$ { proxy_pass http://%%ORIGIN%%/c/$1; }
        location /variable/ { set $target %%ORIGIN%%; proxy_pass http://$target; }
        location /variable-uri/ { set $target named; proxy_pass http://$target/fixed; }
        location /request-uri/ { proxy_pass http://named$request_uri; }
    }
}
"#;

#[test]
fn answers_come_through_on_one_connection() {
    let origin = Origin::saying("hello\n");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        let response = client.get("/path?x=1");
        assert_eq!((response.status, response.text().as_str()), (200, "hello\n"));
    }
    assert_eq!(origin.last().target, "/path?x=1");
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn the_origin_is_asked_for_the_uri_by_nginx_s_rules() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    for (path, expected) in [
        // Without a URI the request's own is sent unchanged…
        ("/plain?a=b", "/plain?a=b"),
        ("/plain%2fslash/%41", "/plain%2fslash/%41"),
        ("/a//b/../c", "/a//b/../c"),
        ("/regex/x?y", "/regex/x?y"),
        // …with one, it replaces the location's part of the normalised path.
        ("/with/x?y=z", "/other/x?y=z"),
        ("/with/", "/other/"),
        ("/with/a/../b", "/other/b"),
        ("/with/%41%20b", "/other/A%20b"),
        ("/with/%3F%23%25", "/other/%3F%23%25"),
        ("/bare", "/"),
        ("/bare/x", "//x"),
        ("/barex", "/x"),
        ("/cut/x", "/shortx"),
        ("/exactly?q", "/alone?q"),
        ("/group/x", "/g/x"),
        // With variables the value is the whole URI.
        ("/captured/x/y?q", "/c/x/y"),
        ("/variable/x?q=1", "/variable/x?q=1"),
        ("/variable-uri/x?q=1", "/fixed"),
        ("/request-uri/%41?q=1", "/request-uri/%41?q=1"),
    ] {
        assert_eq!(get(daemon.port(0), path).status, 200, "{path}");
        assert_eq!(origin.last().target, expected, "{path}");
    }
}
