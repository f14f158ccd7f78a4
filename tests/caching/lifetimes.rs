//! How long an answer is fresh, by its fields and by `proxy_cache_valid`; those that are not stored.

use super::{ask, ask_with, numbering, start, status, wait_idle, wait_stored};
use crate::support::daemon::is_stand_in;
use crate::support::{Origin, get, wait_for};

/// An origin whose answers have the fields that the query names: `/?field|field`, with `_` for a space.
fn obedient() -> Origin {
    numbering(|request, _| {
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        query.split('|').map(|field| format!("{}\r\n", field.replace('_', " "))).collect()
    })
}

/// The status of the second request for what these fields describe.
fn second(server: &str, cases: &[(&str, &str)]) {
    let origin = obedient();
    let daemon = start(&origin, server);
    for (fields, expected) in cases {
        let path = format!("/?{}", fields.replace(' ', "_"));
        assert_eq!(ask(&daemon, &path).0, "MISS", "{fields}");
        wait_idle(&daemon);
        assert_eq!(ask(&daemon, &path).0, *expected, "{fields}");
    }
}

#[test]
fn fields_decide_in_their_order() {
    second(
        "",
        &[
            ("X-A: b", "MISS"),
            ("Cache-Control: max-age=3600", "HIT"),
            ("Cache-Control: max-age=0", "MISS"),
            ("Cache-Control: max-age=0, s-maxage=60", "HIT"),
            ("Cache-Control: max-age=60, no-cache", "MISS"),
            ("Cache-Control: PRIVATE, max-age=60", "MISS"),
            ("Cache-Control: max-age=99999999999999999999", "HIT"),
            ("Expires: Thu, 31 Dec 2037 23:55:55 GMT", "HIT"),
            ("Expires: Thu, 01 Jan 1998 00:00:00 GMT", "MISS"),
            ("Cache-Control: max-age=60|Expires: 0", "HIT"),
            ("X-Accel-Expires: 60|Cache-Control: no-store|Expires: 0", "HIT"),
            ("X-Accel-Expires: 0|Cache-Control: max-age=60", "MISS"),
            ("X-Accel-Expires: @4000000000", "HIT"),
            ("X-Accel-Expires: @1", "EXPIRED"),
            ("Cache-Control: max-age=60|Set-Cookie: a=b", "MISS"),
        ],
    );
}

#[test]
fn ignored_fields_decide_nothing() {
    let server =
        "proxy_ignore_headers Cache-Control Expires Set-Cookie X-Accel-Expires; proxy_cache_valid any 1h;";
    second(
        server,
        &[
            ("Cache-Control: no-store", "HIT"),
            ("Expires: 0", "HIT"),
            ("X-Accel-Expires: 0", "HIT"),
            ("Set-Cookie: a=b", "HIT"),
        ],
    );
}

#[test]
fn what_newer_rules_say() {
    if is_stand_in() {
        return;
    }
    second(
        "",
        &[
            ("Expires: 0|Cache-Control: max-age=60", "HIT"),
            ("Cache-Control: no-store|Expires: 0|X-Accel-Expires: 60", "HIT"),
            ("Cache-Control: x=\"no-store\", max-age=60", "HIT"),
            ("Cache-Control: max-age=60|Age: 30", "HIT"),
            ("Cache-Control: max-age=60|Age: 90", "MISS"),
            ("Expires: Thu, 31 Dec 2037 23:55:55 GMT|Date: Thu, 31 Dec 2037 23:55:56 GMT", "MISS"),
            ("Vary: X-A, *|Cache-Control: max-age=60", "MISS"),
            ("Cache-Control: max-age=60, must-understand", "HIT"),
        ],
    );
}

#[test]
fn a_status_that_nobody_knows_is_not_stored_if_it_must_be_understood() {
    if is_stand_in() {
        return;
    }
    for (fields, expected) in [("max-age=60", "HIT"), ("max-age=60, must-understand", "MISS")] {
        let head = format!("HTTP/1.1 299 New\r\nCache-Control: {fields}\r\nContent-Length: 0\r\n\r\n");
        let origin = Origin::replying(move |_| head.clone().into_bytes());
        let daemon = start(&origin, "");
        assert_eq!(ask(&daemon, "/p").0, "MISS");
        wait_idle(&daemon);
        assert_eq!(ask(&daemon, "/p").0, expected, "{fields}");
    }
}

#[test]
fn the_age_of_a_stored_answer_counts_from_the_one_it_came_with() {
    if is_stand_in() {
        return;
    }
    let origin = obedient();
    let daemon = start(&origin, "");
    for (age, least) in [("40", 40), ("40, 9", 40), ("40|Age:_9", 40), ("9|Age:_40", 9), ("x", 0), ("-40", 0)]
    {
        let path = format!("/?Cache-Control:_max-age=3600|Age:_{}", age.replace(' ', "_"));
        assert_eq!(ask(&daemon, &path).0, "MISS", "{age}");
        wait_idle(&daemon);
        let response = get(daemon.port(0), &path);
        assert_eq!((status(&response), response.all("age").len()), ("HIT", 1), "{age}");
        let told: u64 = response.header("age").and_then(|age| age.parse().ok()).expect("a number");
        assert!((least..least + 30).contains(&told), "{age}: {told}");
    }
}

#[test]
fn an_answer_expires_when_its_time_is_over() {
    let origin = numbering(|_, _| "Cache-Control: max-age=1\r\n".into());
    let daemon = start(&origin, "");
    assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "/p 1".into()));
    wait_stored(&daemon, 1);
    let last = wait_for("the end of a second", || {
        let (status, text) = ask(&daemon, "/p");
        match &*status {
            "HIT" => assert_eq!(text, "/p 1"),
            "EXPIRED" => return Some(text),
            _ => panic!("{status}"),
        }
        None
    });
    assert_eq!(last, "/p 2");
}

#[test]
fn lifetimes_by_status() {
    let origin = Origin::replying(|request| {
        let status = request.target.trim_start_matches('/');
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    for (valid, kept, others) in [
        ("1h", &["200", "301", "302"][..], &["404", "500", "308"][..]),
        ("200 404 1h", &["200", "404"], &["301", "403"]),
        ("any 1h", &["200", "308", "404", "500"], &[]),
        ("404 1h; proxy_cache_valid any 1h", &["200", "404"], &[]),
        ("200 0; proxy_cache_valid any 1h", &["404"], &["200"]),
    ] {
        let daemon = start(&origin, &format!("proxy_cache_valid {valid};"));
        for (statuses, expected) in [(kept, "HIT"), (others, "MISS")] {
            for status in statuses {
                let path = format!("/{status}");
                assert_eq!(ask(&daemon, &path).0, "MISS", "{valid} {status}");
                wait_idle(&daemon);
                assert_eq!(ask(&daemon, &path).0, expected, "{valid} {status}");
                assert_eq!(get(daemon.port(0), &path).status.to_string(), *status);
            }
        }
    }
}

#[test]
fn answers_to_authorized_requests_are_stored_only_if_they_may_be_shared() {
    if is_stand_in() {
        return;
    }
    let authorized = "Authorization: Basic YTpi\r\n";
    for (server, fields, expected) in [
        ("", "Cache-Control: max-age=60", "MISS"),
        ("proxy_cache_valid 1h;", "X-A: b", "MISS"),
        ("", "Cache-Control: max-age=60, public", "HIT"),
        ("", "Cache-Control: s-maxage=60", "HIT"),
        ("", "X-Accel-Expires: 60", "HIT"),
        ("proxy_cache_key $http_authorization$request_uri;", "Cache-Control: max-age=60", "HIT"),
    ] {
        let origin = obedient();
        // a key of the server replaces that of the level above
        let daemon = start(&origin, server);
        let path = format!("/?{}", fields.replace(' ', "_"));
        for expected in ["MISS", expected] {
            let response = ask_with(&daemon, &path, authorized);
            assert_eq!(status(&response), expected, "{server} {fields}");
            wait_idle(&daemon);
        }
        let other = ask_with(&daemon, &path, "");
        let is_shared = expected == "HIT" && server.is_empty();
        assert_eq!(status(&other), if is_shared { "HIT" } else { "MISS" }, "{server} {fields}");
    }
}
