//! Variants of an answer: `Vary`, and the request's values of the fields it names.

use super::{ask_with, numbering, start, status, wait_idle, wait_stored};
use crate::support::{Daemon, Origin};

fn varying(vary: &'static str, server: &str) -> (Origin, Daemon) {
    let origin = numbering(move |_, _| format!("X-Accel-Expires: 3600\r\nVary: {vary}\r\n"));
    let daemon = start(&origin, server);
    (origin, daemon)
}

/// Asks with one field; `status number-of-the-answer`.
fn asked(daemon: &Daemon, field: &str) -> String {
    let response = ask_with(daemon, "/p", field);
    format!("{} {}", status(&response), response.text().trim_start_matches("/p "))
}

#[test]
fn each_variant_is_an_answer_of_its_own() {
    let (origin, daemon) = varying("Accept-Language, X-A", "");
    for (field, expected, files) in [
        ("", "MISS 1", 1),
        ("X-A: 1\r\n", "MISS 2", 2),
        ("X-A: 2\r\n", "MISS 3", 3),
        ("X-A: 1\r\n", "HIT 2", 3),
        ("x-a: 2\r\n", "HIT 3", 3),
        ("", "HIT 1", 3),
        ("X-B: 1\r\n", "HIT 1", 3),
        ("Accept-Language: de\r\n", "MISS 4", 4),
        ("Accept-Language: de\r\nX-A: 1\r\n", "MISS 5", 5),
        ("Accept-Language: de\r\n", "HIT 4", 5),
    ] {
        assert_eq!(asked(&daemon, field), expected, "{field:?}");
        wait_stored(&daemon, files);
    }
    assert_eq!(origin.requests().len(), 5);
}

#[test]
fn spaces_and_commas_in_lists_of_encodings_mean_nothing() {
    let (_origin, daemon) = varying("accept-encoding", "");
    assert_eq!(asked(&daemon, "Accept-Encoding: gzip, br\r\n"), "MISS 1");
    wait_stored(&daemon, 1);
    for same in ["gzip,br", "gzip ,,br", "gzip br,", "gzip\r\nAccept-Encoding: br"] {
        assert_eq!(asked(&daemon, &format!("Accept-Encoding: {same}\r\n")), "HIT 1", "{same}");
    }
    assert_eq!(asked(&daemon, "Accept-Encoding: br, gzip\r\n"), "MISS 2", "the order may matter");
}

#[test]
fn an_answer_that_depends_on_anything_is_not_stored() {
    let long: &'static str = Box::leak("x".repeat(129).into_boxed_str());
    for vary in ["*", long] {
        let (_origin, daemon) = varying(vary, "");
        assert_eq!(asked(&daemon, ""), "MISS 1");
        assert_eq!(asked(&daemon, ""), "MISS 2");
        wait_idle(&daemon);
        wait_stored(&daemon, 0);
    }
    let (_origin, daemon) = varying("*", "proxy_ignore_headers Vary;");
    assert_eq!(asked(&daemon, ""), "MISS 1");
    wait_stored(&daemon, 1);
    assert_eq!(asked(&daemon, ""), "HIT 1");
}

#[test]
fn a_new_list_of_names_makes_new_variants() {
    let origin = numbering(|_, count| {
        let (vary, expires) = if count == 1 { ("X-A", "@1") } else { ("X-B", "3600") };
        format!("X-Accel-Expires: {expires}\r\nVary: {vary}\r\n")
    });
    let daemon = start(&origin, "");
    assert_eq!(asked(&daemon, "X-A: 1\r\n"), "MISS 1");
    wait_stored(&daemon, 1);
    assert_eq!(asked(&daemon, "X-A: 1\r\nX-B: 1\r\n"), "EXPIRED 2");
    wait_idle(&daemon);
    assert_eq!(asked(&daemon, "X-A: 2\r\nX-B: 1\r\n"), "HIT 2", "X-A matters no longer");
    assert_eq!(asked(&daemon, "X-A: 2\r\nX-B: 2\r\n"), "MISS 3");
}
