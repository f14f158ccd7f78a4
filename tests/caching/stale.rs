//! Stale answers: updates, revalidation, and answers that are sent instead of errors or while an update is under way.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::{answer, ask, numbering, start, status, wait_idle, wait_stored};
use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, deadline, get, wait_for};

/// The fields of an answer that is stale as soon as it is stored.
const STALE: &str = "X-Accel-Expires: @1\r\n";

/// An origin whose first answer has these fields, and whose later ones are `later`; an empty one closes.
fn failing(fields: &'static str, later: &'static str) -> Origin {
    let first = Mutex::new(true);
    Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            let bytes = match std::mem::take(&mut *first.lock().expect("not poisoned")) {
                true => answer(fields, "first", &request),
                false => later.as_bytes().to_vec(),
            };
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_stale_answer_is_replaced() {
    let origin = numbering(|_, _| STALE.into());
    let daemon = start(&origin, "");
    for (expected, count) in [("MISS", 1), ("EXPIRED", 2), ("EXPIRED", 3)] {
        assert_eq!(ask(&daemon, "/p"), (expected.into(), format!("/p {count}")));
        wait_idle(&daemon);
        wait_stored(&daemon, 1);
    }
}

#[test]
fn errors_are_replaced_by_stale_answers_if_that_is_allowed() {
    const ERROR: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    const LOST: &str = "HTTP/1.1 404 Lost\r\nContent-Length: 4\r\n\r\nlost";
    const ALLOWED: &str = "X-Accel-Expires: @1\r\nCache-Control: stale-if-error=99999999999\r\n";
    for (fields, server, later, expected) in [
        (STALE, "", ERROR, "EXPIRED 503"),
        (STALE, "proxy_cache_use_stale http_503;", ERROR, "STALE 200"),
        (STALE, "proxy_cache_use_stale http_500;", ERROR, "EXPIRED 503"),
        (STALE, "proxy_cache_use_stale http_404;", LOST, "STALE 200"),
        (STALE, "proxy_cache_use_stale error;", LOST, "EXPIRED 404"),
        (STALE, "proxy_cache_use_stale error;", "", "STALE 200"),
        (STALE, "proxy_cache_use_stale invalid_header;", "HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n", "STALE 200"),
        (STALE, "proxy_cache_use_stale timeout; proxy_read_timeout 1ms;", "HTTP", "STALE 200"),
        (ALLOWED, "", "", "STALE 200"),
        (ALLOWED, "", ERROR, "EXPIRED 503"),
        (ALLOWED, "proxy_ignore_headers Cache-Control;", "", "EXPIRED 502"),
    ] {
        if fields == ALLOWED && is_stand_in() {
            continue; // nginx, before 1.23, sees these directives only without X-Accel-Expires
        }
        let origin = failing(fields, later);
        // the first answer must not time out
        let patient = server.replace("proxy_read_timeout 1ms;", "");
        let daemon = start(&origin, &patient);
        assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "first".into()));
        wait_stored(&daemon, 1);
        if server != patient {
            daemon.rewrite(|conf| conf.replace(&patient, server));
            daemon.reload();
        }
        for _ in 0..2 {
            let response = get(daemon.port(0), "/p");
            let found = format!("{} {}", status(&response), response.status);
            assert_eq!(found, expected, "{server} {later:?}");
            assert_eq!(response.text() == "first", response.status == 200);
        }
        wait_stored(&daemon, 1);
    }
}

#[test]
fn an_unchanged_answer_is_kept() {
    let origin = Origin::replying(|request| {
        let validators = "ETag: \"tag\"\r\nLast-Modified: Thu, 02 Jan 2020 03:04:05 GMT\r\n";
        match request.header("if-none-match") {
            None => answer(&format!("{STALE}{validators}"), "first", request),
            Some(_) => format!("HTTP/1.1 304 Same\r\nX-Accel-Expires: 3600\r\n{validators}\r\n").into_bytes(),
        }
    });
    let daemon = start(&origin, "proxy_cache_revalidate on;");
    for expected in ["MISS", "REVALIDATED", "HIT"] {
        let response = get(daemon.port(0), "/p");
        assert_eq!((response.status, status(&response), response.text()), (200, expected, "first".into()));
        assert_eq!(response.header("etag"), Some("\"tag\""));
        wait_idle(&daemon);
        wait_stored(&daemon, 1);
    }
    let asked = origin.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("if-none-match"), Some("\"tag\""));
    assert_eq!(asked[1].header("if-modified-since"), Some("Thu, 02 Jan 2020 03:04:05 GMT"));
}

#[test]
fn a_new_lifetime_survives_a_restart() {
    let origin = Origin::replying(|request| match request.header("if-none-match") {
        None => answer(&format!("{STALE}ETag: \"tag\"\r\n"), "first", request),
        Some(_) => b"HTTP/1.1 304 Same\r\nX-Accel-Expires: 3600\r\nETag: \"tag\"\r\n\r\n".to_vec(),
    });
    let cache = tempfile::tempdir().expect("a temporary directory");
    let path = cache.path().join("cache");
    for expected in [&["MISS", "REVALIDATED"][..], &["HIT"]] {
        let daemon = super::setup_at(&origin, "proxy_cache_revalidate on;", &path).start();
        for expected in expected {
            assert_eq!(ask(&daemon, "/p"), ((*expected).into(), "first".into()));
            wait_for("the file", || (super::files_in(&path).len() == 1).then_some(()));
        }
    }
}

/// An origin whose answers wait, from the second one on, until the test says what the body is.
fn waiting(fields: &'static str) -> (Sender<&'static str>, Origin) {
    let (go, wait) = channel();
    let wait: Mutex<Receiver<&'static str>> = Mutex::new(wait);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::replying(move |request| {
        if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            return answer(fields, "first", request);
        }
        let body = wait.lock().expect("not poisoned").recv_timeout(deadline()).expect("the test goes on");
        answer("X-Accel-Expires: 3600\r\n", body, request)
    });
    (go, origin)
}

fn send(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /p HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client
}

#[test]
fn others_get_the_stale_answer_while_one_request_updates_it() {
    let (go, origin) = waiting(STALE);
    let daemon = start(&origin, "proxy_cache_use_stale updating;");
    assert_eq!(ask(&daemon, "/p").0, "MISS");
    wait_stored(&daemon, 1);
    let mut updating = send(&daemon);
    origin.wait_requests(2);
    for _ in 0..3 {
        assert_eq!(ask(&daemon, "/p"), ("UPDATING".into(), "first".into()));
    }
    go.send("second").expect("the origin waits");
    let response = updating.response();
    assert_eq!((status(&response), response.text()), ("EXPIRED", "second".into()));
    wait_idle(&daemon);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "second".into()));
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn an_update_in_the_background_delays_nobody() {
    const ALLOWED: &str = "X-Accel-Expires: @1\r\nCache-Control: stale-while-revalidate=99999999999\r\n";
    for (fields, server) in [(STALE, "proxy_cache_use_stale updating;"), (ALLOWED, "")] {
        if fields == ALLOWED && is_stand_in() {
            continue; // as above
        }
        let (go, origin) = waiting(fields);
        let daemon = start(&origin, &format!("proxy_cache_background_update on; {server}"));
        assert_eq!(ask(&daemon, "/p").0, "MISS");
        wait_stored(&daemon, 1);
        assert_eq!(ask(&daemon, "/p"), ("STALE".into(), "first".into()));
        origin.wait_requests(2);
        assert_eq!(ask(&daemon, "/p"), ("UPDATING".into(), "first".into()));
        go.send("second").expect("the origin waits");
        let last = wait_for("the update", || {
            let (status, text) = ask(&daemon, "/p");
            (status == "HIT").then_some(text)
        });
        assert_eq!(last, "second");
        assert_eq!(origin.requests().len(), 2);
    }
}

#[test]
fn an_update_that_fails_is_tried_again() {
    let origin = failing(STALE, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let daemon = start(&origin, "proxy_cache_background_update on; proxy_cache_use_stale updating http_500;");
    assert_eq!(ask(&daemon, "/p").0, "MISS");
    wait_stored(&daemon, 1);
    for count in 2..6 {
        let text = wait_for("an update", || {
            let (status, text) = ask(&daemon, "/p");
            (status == "STALE").then_some(text)
        });
        assert_eq!(text, "first");
        origin.wait_requests(count);
    }
}

#[test]
fn an_answer_that_must_be_revalidated_is_sent_stale_only_if_the_configuration_says_so() {
    if is_stand_in() {
        return;
    }
    let fields = "X-Accel-Expires: @1\r\nCache-Control: must-revalidate, stale-if-error=99999999999\r\n";
    for (server, expected) in
        [("proxy_cache_background_update on;", 502), ("proxy_cache_use_stale error;", 200)]
    {
        let origin = failing(fields, "");
        let daemon = start(&origin, server);
        assert_eq!(ask(&daemon, "/p").0, "MISS");
        wait_stored(&daemon, 1);
        assert_eq!(get(daemon.port(0), "/p").status, expected, "{server}");
    }
}
