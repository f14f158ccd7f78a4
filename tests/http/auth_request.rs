//! `auth_request`: another location, or a backend, decides whether a request is allowed.

use crate::support::{Daemon, Origin, Setup, fetch, get, origin};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        location /status/ { auth_request /by-argument; }
        location = /by-argument {
            internal;
            if ($request_uri ~ "s=200$") { return 200 "a body that nobody gets"; }
            if ($request_uri ~ "s=204$") { return 204; }
            if ($request_uri ~ "s=401$") { return 401; }
            if ($request_uri ~ "s=403$") { return 403; }
            if ($request_uri ~ "s=500$") { return 500; }
            if ($request_uri ~ "s=302$") { return 302 /x; }
        }
        location /asked/ {
            auth_request /backend;
            auth_request_set $user $upstream_http_x_user;
            auth_request_set $code $upstream_status;
            add_header X-User $user always;
            add_header X-Code $code always;
        }
        location = /backend { proxy_pass http://%%ORIGIN%%; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
        location /dead/ { auth_request /nobody; }
        location = /nobody { proxy_pass http://127.0.0.1:1; }
        location /any/ { satisfy any; deny all; auth_request /by-argument; }
        location /off/ { auth_request /by-argument; location /off/inner { auth_request off; } }
        location /page/ { auth_request /by-argument; error_page 401 = @login; }
        location @login { return 302 /login; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).start()
}

fn backend() -> Origin {
    Origin::replying(|request| {
        let answer = match request.header("x-token") {
            Some("good") => "HTTP/1.1 200 OK\r\nX-User: joe\r\nContent-Length: 2\r\n\r\nok",
            Some(_) => "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
            None => "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
        };
        answer.as_bytes().to_vec()
    })
}

#[test]
fn the_status_of_the_answer_decides() {
    let origin = Origin::replying(|_| origin::ok(b""));
    let daemon = start(&origin);
    for (status, expected) in
        [("200", 404), ("204", 404), ("401", 401), ("403", 403), ("500", 500), ("302", 500)]
    {
        assert_eq!(get(daemon.port(0), &format!("/status/x?s={status}")).status, expected, "{status}");
    }
    for (status, expected) in [("200", 404), ("401", 401), ("403", 403), ("500", 500)] {
        assert_eq!(get(daemon.port(0), &format!("/any/x?s={status}")).status, expected, "any {status}");
    }
    assert_eq!(get(daemon.port(0), "/page/x?s=401").status, 302);
    assert_eq!(get(daemon.port(0), "/by-argument").status, 404, "internal");
    assert_eq!(get(daemon.port(0), "/off/inner/x").status, 404);
    assert_eq!(get(daemon.port(0), "/dead/x").status, 500);
    daemon.wait_log("auth request unexpected status: 502");
}

#[test]
fn a_backend_tells_who_it_is() {
    let origin = backend();
    let daemon = start(&origin);
    let ask = |token: &str| {
        fetch(
            daemon.port(0),
            &format!(
                "POST /asked/x HTTP/1.1\r\nHost: a\r\n{token}Content-Length: 4\r\nConnection: close\r\n\r\nbody"
            ),
        )
    };
    let response = ask("X-Token: good\r\n");
    assert_eq!(
        (response.status, response.header("x-user"), response.header("x-code")),
        (404, Some("joe"), Some("200"))
    );
    let asked = origin.last();
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str(), asked.header("content-length")),
        ("GET", "/backend", None)
    );
    let response = ask("X-Token: bad\r\n");
    assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Bearer realm=\"x\"")));
    assert_eq!(ask("").status, 403);
}

/// A `map` is evaluated once per request; the head of a subrequest, which no client receives, must not
/// trigger it.
#[test]
fn maps_of_the_answer_s_head_are_not_looked_up_for_a_subrequest() {
    let conf = "http {
        types { text/html html; }
        map $sent_http_content_type $policy { default \"\"; text/html self; }
        map $sent_http_content_type $fresh { default off; text/html epoch; }
        map $status $class { ~^2 good; default bad; }
        map $upstream_http_x_kind $kind { default none; part part; }
        log_format class '$request_uri $status $class $kind';
        access_log %%DIR%%/access.log class;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            root %%DIR%%/pages;
            add_header X-Policy $policy always;
            add_header X-Class $class always;
            add_trailer X-Kind $kind;
            expires $fresh;
            location /in/ { auth_request /ok; }
            location /ssi/ { ssi on; }
            location /added/ { add_before_body /missing; add_after_body /missing; }
            location /copied/ { mirror /missing; }
            location = /ok { internal; return 204; }
            location = /missing { internal; return 404; }
        }
    }";
    let pages = ["a.html", "in/a.html", "added/a.html", "copied/a.html"];
    let setup =
        pages.iter().fold(Setup::new(conf), |setup, page| setup.file(&format!("pages/{page}"), "page"));
    let include = "[<!--#include virtual=\"/missing\" set=\"x\" --><!--#include virtual=\"/missing\" --><!--#include virtual=\"/missing\" -->]";
    let daemon = setup.file("pages/ssi/a.html", include).start();
    let cases = [
        ("/a.html", 200, "good"),
        ("/in/a.html", 200, "good"),
        ("/in/none", 404, "bad"),
        ("/ssi/a.html", 200, "good"),
        ("/added/a.html", 200, "good"),
        ("/copied/a.html", 200, "good"),
    ];
    for (path, status, class) in cases {
        let response = get(daemon.port(0), path);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("x-policy"), Some("self"), "{path}");
        assert_eq!(response.header("x-class"), Some(class), "{path}");
        let is_fresh = status == 200;
        assert_eq!(response.header("cache-control"), is_fresh.then_some("no-cache"), "{path}");
        daemon.wait_line("access.log", &format!("^{path} {status} {class} none"));
    }
}
