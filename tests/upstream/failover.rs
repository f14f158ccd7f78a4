//! Bodies that may have to be sent twice: to the next server of a group, or to the proxied location of an
//! `error_page`. Some origins refuse, others accept; what they received is compared with what the client
//! sent.

use std::sync::mpsc::channel;

use crate::support::deadline::deadline;
use crate::support::message::Response;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup};

const CONF: &str = r#"
http {
    client_max_body_size 0;
    upstream group { server %%BUSY%% max_fails=0; server %%ORIGIN%% backup; }
    upstream pair { server %%ORIGIN%%; server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /next { proxy_next_upstream error timeout http_503; proxy_pass http://group; }
        location /next-post { proxy_next_upstream error timeout http_503 non_idempotent; proxy_pass http://group; }
        location /named { proxy_intercept_errors on; error_page 503 = @other; proxy_pass http://%%BUSY%%; }
        location /page { proxy_intercept_errors on; error_page 503 = /other; proxy_pass http://%%BUSY%%; }
        location /dead { error_page 502 = @other; proxy_pass http://%%CUT%%; }
        location @other { proxy_pass http://%%ORIGIN%%; }
        location /other { proxy_pass http://%%ORIGIN%%; }
        location /off { proxy_request_buffering off; proxy_intercept_errors on; error_page 503 = @other; proxy_pass http://%%BUSY%%; }
        location /off-page { proxy_request_buffering off; proxy_intercept_errors on; error_page 503 = /other; proxy_pass http://%%BUSY%%; }
        location /pair { proxy_pass http://pair; }
        location /single { error_page 502 503 504 /50x.html; proxy_pass http://%%ORIGIN%%; }
        location /once { proxy_next_upstream_tries 1; proxy_pass http://pair; }
    }
}
"#;

fn busy() -> Origin {
    Origin::replying(|_| b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nbusy\n".to_vec())
}

fn setup(busy: &Origin, origin: &Origin) -> Setup {
    setup_with(busy, origin, busy)
}

fn setup_with(busy: &Origin, origin: &Origin, cut: &Origin) -> Setup {
    let setup = Setup::new(CONF).set("BUSY", busy.address()).set("ORIGIN", origin.address());
    setup.set("CUT", cut.address())
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
}

fn upload(daemon: &Daemon, method: &str, path: &str, body: &[u8]) -> Response {
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(body);
    client.response()
}

#[test]
fn an_upload_of_any_size_is_failed_over() {
    let (refuses, origin) = (busy(), Origin::saying("taken"));
    let daemon = setup(&refuses, &origin).start();
    let cases =
        [("PUT", "/next"), ("POST", "/next-post"), ("PUT", "/named"), ("POST", "/named"), ("PUT", "/page")];
    for (method, path) in cases {
        for length in [5, 17_000, 2_000_000] {
            let sent = body(length);
            let response = upload(&daemon, method, path, &sent);
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, "taken"),
                "{method} {path} {length}"
            );
            assert!(refuses.last().body == sent && origin.last().body == sent, "{method} {path} {length}");
        }
    }
    let sent = body(100_000);
    let mut client = Client::connect(daemon.port(0));
    client.send("PUT /next HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in sent.chunks(30_000) {
        client.send(format!("{:x}\r\n", piece.len())).send(piece).send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().text(), "taken");
    assert!(origin.last().body == sent);
}

#[test]
fn an_upload_outlives_an_upstream_that_breaks_off() {
    let origin = Origin::saying("taken");
    let cut = Origin::start(|peer| {
        peer.request(); // and does not respond
    });
    let daemon = setup_with(&cut, &origin, &cut).start();
    let sent = body(300_000);
    assert_eq!(upload(&daemon, "POST", "/dead", &sent).text(), "taken");
    assert!(origin.last().body == sent);
}

#[test]
fn the_answer_of_an_upstream_that_has_the_whole_body_is_passed_on() {
    let (refuses, origin) = (busy(), Origin::saying("taken"));
    let daemon = setup(&refuses, &origin).start();
    let response = upload(&daemon, "PUT", "/off", &body(300_000));
    assert_eq!((response.status, response.text().as_str()), (503, "busy\n"));
    assert!(origin.requests().is_empty());
    daemon.wait_log("no error page for 503: the request body is not kept \\(proxy_request_buffering\\)");
}

#[test]
fn a_page_instead_of_the_answer_goes_without_a_body_that_is_not_kept() {
    let (refuses, origin) = (busy(), Origin::saying("taken"));
    let daemon = setup(&refuses, &origin).start();
    for method in ["GET", "POST", "PUT"] {
        let response = upload(&daemon, method, "/off-page", &body(300_000));
        assert_eq!((response.status, response.text().as_str()), (200, "taken"), "{method}");
        let page = origin.last();
        assert_eq!((&*page.method, &*page.target, page.body.len()), ("GET", "/other", 0), "{method}");
    }
}

/// The origin reports a head as soon as it has arrived, while the client still holds back half of the body.
#[test]
fn a_body_that_nobody_would_send_again_streams() {
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::start(move |peer| {
        while let Some(mut request) = peer.head() {
            tell.lock().expect("one at a time").send(()).expect("somebody waits");
            peer.request_body(&mut request);
            peer.send(ok(b"taken"));
        }
    });
    let refuses = busy();
    let daemon = setup(&refuses, &origin).start();
    for (method, path) in [("POST", "/pair"), ("PUT", "/single"), ("PUT", "/once")] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n"));
        client.send(body(20_000));
        told.recv_timeout(deadline()).expect("the upstream is asked before the body is here");
        client.send(body(20_000));
        assert_eq!(client.response().text(), "taken", "{method} {path}");
    }
}

#[test]
fn without_a_place_for_files_long_bodies_go_to_one_upstream() {
    let (refuses, origin) = (busy(), Origin::saying("taken"));
    let daemon = setup(&refuses, &origin).file("client_body_temp", "no folder").start();
    let said = "mkdir\\(\\) .*client_body_temp\" failed .*: long request bodies go to one upstream only";
    daemon.wait_log(said);
    assert_eq!(upload(&daemon, "PUT", "/next", &body(5)).status, 200);
    let response = upload(&daemon, "PUT", "/next", &body(300_000));
    assert_eq!((response.status, response.text().as_str()), (503, "busy\n"));
    daemon.wait_log("the request body is passed on while it comes, and to one upstream only");
}
