//! The lines of a location, numbers, the answer of `size`, and which locations hold a response back.

use super::*;
use crate::http::tests::{config, with_request};

#[test]
fn numbers_are_read_as_nginx_reads_them() {
    for (text, expected) in [
        ("0", 0),
        ("12", 12),
        ("-", ANY),
        ("-1", 0),
        ("", 0),
        ("1x", 0),
        ("99999999999", ANY),
        ("99999999999999999999999", 0),
    ] {
        assert_eq!(value(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn the_answer_of_size() {
    let size = Size { width: 100, height: 120, is_padded: true };
    let expected = "{ \"img\" : { \"width\": 100, \"height\": 120, \"type\": \"png\" } }\r\n";
    assert_eq!(json(Some((Format::Png, size))), expected.as_bytes());
    assert_eq!(json(None), b"{}\r\n");
}

#[test]
fn lines_of_a_location_go_together_and_are_inherited_together() {
    let text = "http { server { listen 127.0.0.1:1;
        location /a { image_filter rotate 90; image_filter resize 10 -;
            location /a/b { }
            location /a/c { image_filter crop 5 6; }
            location /a/d { image_filter off; } }
        location /e { image_filter crop 1 2; image_filter rotate $arg_r; } } }";
    let config = config(text);
    let kinds: Vec<_> = config
        .servers
        .iter()
        .flat_map(|server| server.locations())
        .map(|location| {
            let Filter { kind, angle, .. } = &location.confs.image_filter.filter;
            (location.name.to_string(), *kind, angle.is_some())
        })
        .collect();
    for (name, kind, has_angle) in [
        ("/a", Kind::Resize, true),
        ("/a/b", Kind::Resize, true),
        ("/a/c", Kind::Crop, false),
        ("/a/d", Kind::Off, false),
        ("/e", Kind::Crop, true),
    ] {
        assert!(kinds.contains(&(name.to_owned(), Some(kind), has_angle)), "{name}: {kinds:?}");
    }
}

#[test]
fn only_its_own_locations_hold_a_response_back() {
    let text = "http { access_log off; server { listen 127.0.0.1:1;
        location / { gzip on; } location /a { image_filter test; gzip on; } } }";
    let config = config(text);
    let locations = config.servers.iter().flat_map(|server| server.locations());
    for location in locations.filter(|location| !location.name.is_empty()) {
        let is_filtered = &*location.name == "/a";
        let confs = &location.confs;
        let acts = |bits: u64| (0..64).filter(|bit| bits >> bit & 1 == 1).count();
        // gzip and ranges run at once, or after the image
        assert_eq!(acts(confs.acting_heads()), if is_filtered { 1 } else { 2 }, "{}", location.name);
        assert_eq!(acts(confs.later_heads()), 2);
    }
    with_request(text, "/", |request| {
        head(request);
        assert!(request.filters.is_none());
    });
}
