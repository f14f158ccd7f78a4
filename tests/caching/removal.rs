//! Answers that are removed before their time: by `proxy_cache_purge`, and by requests that change their target.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use nix::sys::signal::Signal;

use super::{
    answer, ask, ask_with, files_in, numbering, setup_at, setup_with, start, status, storable, stored,
    wait_idle, wait_stored,
};
use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, deadline, fetch, wait_for};

const PURGE: &str = "proxy_cache_purge $http_x_purge; proxy_cache_bypass $http_x_bypass;";

/// An origin whose numbered answers vary by a field.
fn varying() -> Origin {
    numbering(|_, _| "X-Accel-Expires: 3600\r\nVary: X-A\r\n".into())
}

/// Asks for a variant; `status number-of-the-answer`.
fn asked(daemon: &Daemon, fields: &str) -> String {
    let response = ask_with(daemon, "/p", fields);
    format!("{} {}", status(&response), response.text().trim_start_matches("/p "))
}

/// The status of the answer to a request with this method and these field lines, each with its CRLF.
fn send(daemon: &Daemon, method: &str, fields: &str) -> u16 {
    send_to(daemon, "/p", method, fields)
}

fn send_to(daemon: &Daemon, path: &str, method: &str, fields: &str) -> u16 {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    fetch(daemon.port(0), &request).status
}

fn purge(daemon: &Daemon) -> u16 {
    send(daemon, "PURGE", "X-Purge: 1\r\n")
}

/// Purges all keys with this prefix.
fn purge_all(daemon: &Daemon, prefix: &str) -> u16 {
    send_to(daemon, &format!("{prefix}*"), "PURGE", "X-Purge: 1\r\n")
}

fn fill(daemon: &Daemon) {
    for (count, variant) in (1..).zip(["1", "2", "3"]) {
        assert_eq!(asked(daemon, &format!("X-A: {variant}\r\n")), format!("MISS {count}"));
        wait_stored(daemon, count);
    }
}

#[test]
fn a_request_that_changes_its_target_removes_all_variants() {
    if is_stand_in() {
        return; // nginx removes nothing
    }
    let origin = varying();
    let daemon = start(&origin, "");
    fill(&daemon);
    assert_eq!(send(&daemon, "POST", "X-A: 2\r\n"), 200);
    for (count, variant) in [(5, "3"), (6, "2"), (7, "1")] {
        assert_eq!(asked(&daemon, &format!("X-A: {variant}\r\n")), format!("MISS {count}"));
        wait_idle(&daemon);
        assert_eq!(asked(&daemon, &format!("X-A: {variant}\r\n")), format!("HIT {count}"));
    }
}

#[test]
fn a_purge_removes_all_variants_and_a_restart_does_not_bring_them_back() {
    if is_stand_in() {
        return; // only nginx Plus has it
    }
    let origin = varying();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("cache");
    let files = |count| wait_for("the files", || (files_in(&path).len() == count).then_some(()));
    {
        let daemon = setup_at(&origin, PURGE, &path).start();
        assert_eq!(purge(&daemon), 404);
        for (count, variant) in (1..).zip(["1", "2", "3"]) {
            assert_eq!(asked(&daemon, &format!("X-A: {variant}\r\n")), format!("MISS {count}"));
            files(count);
        }
        assert_eq!(purge(&daemon), 204);
        files(2);
        assert_eq!(purge(&daemon), 404);
    }
    let daemon = setup_at(&origin, PURGE, &path).start();
    assert_eq!(asked(&daemon, "X-A: 3\r\n"), "MISS 4");
    files(3);
    assert_eq!(asked(&daemon, "X-A: 2\r\n"), "MISS 5", "its file is there, and was purged");
    wait_for("the new file", || (asked(&daemon, "X-A: 2\r\n") == "HIT 5").then_some(()));
    assert_eq!(asked(&daemon, "X-A: 3\r\n"), "HIT 4");
}

#[test]
fn a_bypass_and_an_update_leave_the_other_variants() {
    let origin = numbering(|request, count| {
        let is_first = request.header("x-a") == Some("1") && count < 3;
        let expires = if is_first { "@1" } else { "3600" };
        format!("X-Accel-Expires: {expires}\r\nVary: X-A\r\n")
    });
    let daemon = start(&origin, "proxy_cache_bypass $http_x_bypass;");
    for (fields, expected) in [
        ("X-A: 1\r\n", "MISS 1"),
        ("X-A: 2\r\n", "MISS 2"),
        ("X-A: 1\r\n", "EXPIRED 3"),
        ("X-A: 2\r\n", "HIT 2"),
        ("X-A: 1\r\nX-Bypass: 1\r\n", "BYPASS 4"),
        ("X-A: 2\r\n", "HIT 2"),
        ("X-A: 1\r\n", "HIT 4"),
    ] {
        assert_eq!(asked(&daemon, fields), expected, "{fields}");
        wait_idle(&daemon);
    }
}

/// An origin that answers GET when the test says so, by a head and a body, and other methods at once.
fn halting() -> (Sender<&'static str>, Origin) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::replying(move |request| match &*request.method {
        "GET" => wait.lock().expect("not poisoned").recv_timeout(deadline()).unwrap_or("").into(),
        _ => answer("", "done", request),
    });
    (go, origin)
}

const OLD: &str = "HTTP/1.1 200 OK\r\nX-Accel-Expires: 3600\r\nContent-Length: 3\r\n\r\nold";

#[test]
fn an_answer_that_was_asked_for_before_is_not_stored() {
    if is_stand_in() {
        return;
    }
    let requests: [fn(&Daemon) -> u16; 3] =
        [|daemon| send(daemon, "POST", ""), purge, |daemon| purge_all(daemon, "/")];
    for removes in requests {
        let (go, origin) = halting();
        let daemon = start(&origin, PURGE);
        let mut client = Client::connect(daemon.port(0));
        client.send("GET /p HTTP/1.1\r\nHost: a\r\n\r\n");
        origin.wait_requests(1);
        assert!([200, 204, 404].contains(&removes(&daemon)));
        go.send(OLD).expect("the origin waits");
        assert_eq!(client.response().text(), "old");
        wait_idle(&daemon);
        assert!(stored(&daemon).is_empty());
        go.send(&OLD.replace("old", "new").leak()[..]).expect("the origin will wait");
        assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "new".into()));
        assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "new".into()));
        assert_eq!(daemon.complaints("error|crit"), [""; 0]);
    }
}

#[test]
fn a_confirmation_does_not_bring_back_what_was_removed() {
    if is_stand_in() {
        return;
    }
    // The second one changes the head, so that the file would be written anew.
    let confirmations = [
        "HTTP/1.1 304 Not Modified\r\nX-Accel-Expires: 3600\r\nETag: \"a\"\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nX-Accel-Expires: 3600\r\nETag: \"a\"\r\nX-New: 1\r\n\r\n",
    ];
    for (confirmation, is_wide) in confirmations.into_iter().flat_map(|text| [(text, false), (text, true)]) {
        let (go, origin) = halting();
        let daemon = start(&origin, &format!("proxy_cache_revalidate on; {PURGE}"));
        go.send("HTTP/1.1 200 OK\r\nX-Accel-Expires: @1\r\nETag: \"a\"\r\nContent-Length: 3\r\n\r\nold")
            .expect("the origin will wait");
        assert_eq!(ask(&daemon, "/p").0, "MISS");
        wait_stored(&daemon, 1);
        let mut client = Client::connect(daemon.port(0));
        client.send("GET /p HTTP/1.1\r\nHost: a\r\n\r\n");
        origin.wait_requests(2);
        assert_eq!(if is_wide { purge_all(&daemon, "/") } else { purge(&daemon) }, 204);
        go.send(confirmation).expect("the origin waits");
        let response = client.response();
        assert_eq!((status(&response), response.text()), ("REVALIDATED", "old".into()));
        wait_idle(&daemon);
        assert!(is_wide || stored(&daemon).is_empty());
        go.send(OLD).expect("the origin will wait");
        assert_eq!(ask(&daemon, "/p").0, "MISS");
        assert_eq!(daemon.complaints("error|crit"), [""; 0]);
    }
}

#[test]
fn an_error_that_is_remembered_is_removed_too() {
    if is_stand_in() {
        return;
    }
    let (go, origin) = halting();
    let daemon = start(&origin, &format!("proxy_cache_valid 502 1h; {PURGE}"));
    go.send("this is not HTTP\r\n\r\n").expect("the origin will wait");
    assert_eq!(ask(&daemon, "/p").0, "MISS");
    assert_eq!(ask(&daemon, "/p").0, "HIT");
    assert_eq!((purge(&daemon), purge(&daemon)), (204, 404));
    go.send(OLD).expect("the origin will wait");
    assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "old".into()));
}

/// An origin whose numbered answers are fresh for an hour, with an answer to each of three targets stored.
fn filled(cache: &str) -> (Origin, Daemon) {
    let origin = storable();
    let daemon = setup_with(&origin, PURGE, cache).start();
    for (count, target) in (1..).zip(["/a/1", "/a/2", "/b"]) {
        assert_eq!(ask(&daemon, target), ("MISS".into(), format!("{target} 1")));
        wait_stored(&daemon, count);
    }
    (origin, daemon)
}

#[test]
fn a_key_that_ends_in_a_star_stands_for_all_that_begin_like_it() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = filled("");
    for count in 2..5 {
        assert_eq!(purge_all(&daemon, "/a/"), 204);
        for target in ["/a/1", "/a/2"] {
            assert_eq!(ask(&daemon, target), ("MISS".into(), format!("{target} {count}")));
            assert_eq!(ask(&daemon, target), ("HIT".into(), format!("{target} {count}")));
        }
        assert_eq!(ask(&daemon, "/b"), ("HIT".into(), "/b 1".into()));
    }
    assert_eq!(purge_all(&daemon, "/b"), 204, "the key itself too");
    assert_eq!(ask(&daemon, "/b").0, "MISS");
    assert_eq!(ask(&daemon, "/a/1").0, "HIT");
    assert_eq!(purge_all(&daemon, "/nothing"), 204);
    assert_eq!(purge_all(&daemon, &"/a".repeat(500)), 414);
    daemon.wait_log("cache \"c\" cannot be purged: the key is longer than 992 bytes");
}

#[test]
fn a_purged_file_is_not_served_after_a_reload_and_by_no_other_worker() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = filled("");
    assert_eq!(purge_all(&daemon, "/"), 204);
    daemon.reload();
    assert_eq!(ask(&daemon, "/a/1"), ("MISS".into(), "/a/1 2".into()));
    let worker = daemon.worker();
    crate::support::daemon::send(worker, Signal::SIGKILL);
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (!now.is_empty() && !now.contains(&worker)).then_some(())
    });
    assert_eq!(ask(&daemon, "/a/1"), ("HIT".into(), "/a/1 2".into()));
    assert_eq!(ask(&daemon, "/a/2"), ("MISS".into(), "/a/2 2".into()));
}

#[test]
fn a_restart_does_not_bring_purged_files_back() {
    if is_stand_in() {
        return;
    }
    let origin = storable();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("cache");
    {
        let daemon = setup_at(&origin, PURGE, &path).start();
        for (count, target) in (1..).zip(["/a/1", "/b"]) {
            assert_eq!(ask(&daemon, target).0, "MISS");
            wait_for("the file", || (files_in(&path).len() == count).then_some(()));
        }
        assert_eq!(purge_all(&daemon, "/a/"), 204);
    }
    // The second start finds the file of the purge with nothing left to purge.
    for (first, count) in [("MISS", 2), ("HIT", 2)] {
        let daemon = setup_at(&origin, PURGE, &path).start();
        assert_eq!(ask(&daemon, "/a/1"), (first.into(), format!("/a/1 {count}")));
        assert_eq!(ask(&daemon, "/b"), ("HIT".into(), "/b 1".into()));
    }
    let daemon = setup_with(&origin, PURGE, "").start();
    std::fs::create_dir(daemon.path("cache/.purges")).expect("made");
    assert_eq!(purge_all(&daemon, "/a/"), 204);
    daemon.wait_log("\\[error\\].*the purges of cache \"c\".*a restart forgets them");
}

#[test]
fn the_purger_removes_files_from_the_disk() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = filled("purger=on purger_files=1 purger_sleep=1ms");
    assert_eq!(purge_all(&daemon, "/a/"), 204);
    wait_stored(&daemon, 1);
    daemon.wait_log("cache \"c\": purged 2 files in ");
    wait_for("the purge to be forgotten", || (!daemon.path("cache/.purges").exists()).then_some(()));
    assert_eq!(ask(&daemon, "/b"), ("HIT".into(), "/b 1".into()));
    assert_eq!(ask(&daemon, "/a/1"), ("MISS".into(), "/a/1 2".into()));
    wait_stored(&daemon, 2);
    assert_eq!(ask(&daemon, "/a/1"), ("HIT".into(), "/a/1 2".into()));
}

#[test]
fn many_purges_are_carried_out_without_a_purger() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = filled("");
    for number in 0..300 {
        let purged = || (purge_all(&daemon, &format!("/a/1{number}/")) == 204).then_some(());
        wait_for("a place", purged);
    }
    assert_eq!(purge_all(&daemon, "/a/2"), 204);
    assert_eq!(ask(&daemon, "/a/2").0, "MISS");
    assert_eq!(ask(&daemon, "/a/1"), ("HIT".into(), "/a/1 1".into()));
}
