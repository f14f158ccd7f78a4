//! The format beside a file that nginx 1.22 wrote, and hostile files.

use super::property::{check, reads_cache_file};
use super::*;
use crate::cache::vary;

const HEAD: &str = "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                    Vary: Accept-Encoding, X-A\r\n\
                    Cache-Control: max-age=3600, stale-while-revalidate=60, stale-if-error=90\r\n\
                    Content-Length: 5\r\n\r\n";

/// A file that nginx wrote for the key `/one` and a request with `Accept-Encoding: gzip,  br` and `X-A: 1, 2`.
fn nginx_file() -> Vec<u8> {
    let mut file = vec![0; FIXED_BYTES];
    let numbers = "0500000000000000b32e0e6b000000003c000000000000005a00000000000000a198bc2e00000000\
                   a3200e6b00000000973f385c00005b012302";
    put(&mut file, 0, &hex(numbers));
    put(&mut file, 58, b"\x05\"abc\"");
    put(&mut file, 187, b"\x14Accept-Encoding, X-A");
    put(&mut file, 316, &hex("d7f49aeee05b489e2c8d1743189b5ec8"));
    file.extend_from_slice(b"\nKEY: /one\n");
    file.extend_from_slice(HEAD.as_bytes());
    file.extend_from_slice(b"hello");
    return file;

    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    text.as_bytes().chunks(2).map(byte).collect()
}

fn nginx_meta() -> Meta {
    Meta {
        valid_s: 1_796_091_571,
        valid_ms: 0,
        updating_s: 60,
        error_s: 90,
        last_modified: Some(784_111_777),
        date: 1_796_087_971,
        etag: (*b"\"abc\"").into(),
        vary: (*b"Accept-Encoding, X-A").into(),
        variant: hex("d7f49aeee05b489e2c8d1743189b5ec8").try_into().expect("16 bytes"),
        stamp: 0,
        header_start: 347,
        body_start: 547,
    }
}

fn key() -> Key {
    Key::new(b"/one".to_vec())
}

#[test]
fn a_file_of_nginx_is_read_and_written_byte_for_byte() {
    let (file, key) = (nginx_file(), key());
    let parsed = parse(&file, &key).expect("nginx wrote it");
    assert_eq!(parsed.meta, nginx_meta());
    assert_eq!(&file[parsed.head.clone()], HEAD.as_bytes());
    assert_eq!(&file[parsed.head.end..], b"hello");
    let positions_unknown = Meta { header_start: 0, body_start: 0, ..nginx_meta() };
    assert_eq!(encode(&positions_unknown, &key, HEAD.as_bytes()).as_deref(), Some(&file[..parsed.head.end]));
    assert_eq!(encode_fixed(&parsed.meta, &key)[..], file[..FIXED_BYTES]);
    let variant = vary::variant(key.digest(), &parsed.meta.vary, |name, add| match name {
        b"accept-encoding" => add(b"gzip,  br"),
        b"x-a" => add(b"1, 2"),
        _ => unreachable!("not in Vary"),
    });
    assert_eq!(variant, parsed.meta.variant);
}

#[test]
fn the_second_variant_has_the_name_that_nginx_gave_it() {
    let variant = vary::variant(key().digest(), b"Accept-Encoding, X-A", |name, add| match name {
        b"accept-encoding" => add(b"zstd"),
        _ => ["1", "2"].iter().for_each(|value| add(value.as_bytes())),
    });
    assert_eq!(variant.to_vec(), hex("2f15f20fafda61881a05d5fd8bc2a46e"));
    assert_eq!(key().digest().to_vec(), hex("c836a9fe66e2d1ec0e4db7c93890d08e"));
}

#[test]
fn a_beginning_tells_how_much_is_needed() {
    let (file, key) = (nginx_file(), key());
    for length in 0..file.len() {
        let needed = match length {
            ..347 => 347,
            347..547 => 547,
            _ => {
                assert_eq!(parse(&file[..length], &key), parse(&file, &key));
                continue;
            }
        };
        assert_eq!(parse(&file[..length], &key), Err(Broken::Short { needed }), "{length}");
    }
}

#[test]
fn other_files_are_broken_and_say_why() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = nginx_file();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&file, &key()).expect_err("it is broken").to_string()
    };
    assert_eq!(changed(0, b"\x03"), "version 3 of the format instead of 5");
    assert_eq!(changed(0, b"GIF89a.."), "version 3327704073058535751 of the format instead of 5");
    for (at, bytes) in [(48, &b"\0"[..]), (54, b"\x5a"), (336, b"\rKEY"), (342, b"/two"), (346, b"\r")] {
        assert_eq!(changed(at, bytes), "it has another key (MD5 collision)", "{at}");
    }
    assert_eq!(changed(56, b"\x5a\x01"), "its body starts before its head");
    assert_eq!(changed(56, b"\xff\xff"), "too small: 65535 bytes are needed");
    assert_eq!(changed(56, b"\x5b\x01"), "its answer is not an HTTP/1 response");
    assert_eq!(changed(56, b"\x22\x02"), "its head has no end");
    assert_eq!(changed(58, b"\x81"), "the length of its ETag is wrong");
    assert_eq!(changed(187, b"\xff"), "the length of its Vary is wrong");
    assert_eq!(changed(347, b"\x01\x06\x00\x01"), "its answer is not an HTTP/1 response", "FastCGI");
    assert_eq!(changed(347, b"Status: "), "its answer is not an HTTP/1 response");
    assert_eq!(parse(&nginx_file(), &Key::new(b"/two".to_vec())), Err(Broken::OtherKey));
}

#[test]
fn a_beginning_tells_key_and_time_to_those_who_do_not_know_the_key() {
    let file = nginx_file();
    let known = Beginning { key: b"/one", received_ms: 1_796_087_971_000 };
    assert_eq!(beginning(&file), Some(known));
    assert_eq!(
        beginning(&file[..KEY_AT + 2]),
        Some(Beginning { key: b"/o", ..known }),
        "as far as it is there"
    );
    assert_eq!(beginning(&file[..KEY_AT - 1]), None);
    let meta = Meta { date: 7, valid_ms: 8, ..Meta::default() };
    let ours = encode(&meta, &key(), HEAD.as_bytes()).expect("it fits");
    assert_eq!(beginning(&ours), Some(Beginning { key: b"/one", received_ms: 7008 }));
    for (at, bytes) in [(0, &b"\x03"[..]), (54, b"\x10\x00"), (336, b"\rKEY")] {
        let mut other = file.clone();
        other[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(beginning(&other), None, "{at}");
    }
}

#[test]
fn keys_and_heads_must_end_within_16_bits() {
    let meta = Meta::default();
    let room = BODY_START_MAX - FIXED_BYTES - KEY_LABEL.len() - 1;
    let largest = Key::new(vec![b'k'; room]);
    assert_eq!(encode(&meta, &largest, b"").map(|bytes| bytes.len()), Some(BODY_START_MAX));
    assert_eq!(encode(&meta, &largest, b"x"), None);
    let head = [b"HTTP/1.1 200 OK\r\nA: ", &vec![b'a'; room - 27][..], b"\r\n\r\n"].concat();
    let bytes = encode(&meta, &Key::new(b"key".to_vec()), &head).expect("it fits");
    assert_eq!(bytes.len(), BODY_START_MAX);
    check(&bytes, &Key::new(b"key".to_vec()));
    assert_eq!(encode(&meta, &Key::new(b"keys".to_vec()), &head), None);
    let longer = Key::new(vec![b'k'; room + 1]);
    assert_eq!(encode(&meta, &longer, b""), None);
    assert_eq!(parse(&bytes, &longer), Err(Broken::OtherKey), "no file can be of this key");
}

#[test]
fn what_is_absent_or_too_long_is_written_as_nginx_writes_it() {
    let meta = Meta { etag: vec![b'e'; 129].into(), variant: [1; 16], ..Meta::default() };
    let bytes = encode(&meta, &key(), HEAD.as_bytes()).expect("it fits");
    assert_eq!(bytes[LAST_MODIFIED..LAST_MODIFIED + 8], (-1i64).to_le_bytes());
    assert_eq!(bytes[ETAG], 0);
    assert_eq!(bytes[VARIANT..FIXED_BYTES], [0; 20], "without Vary there is no variant");
    let parsed = parse(&bytes, &key()).expect("complete");
    assert_eq!((parsed.meta.last_modified, parsed.meta.etag.len()), (None, 0));
    let full = Meta {
        etag: vec![b'e'; 128].into(),
        vary: vec![b'v'; 128].into(),
        variant: [1; 16],
        stamp: u32::MAX - 1,
        ..meta
    };
    let bytes = encode(&full, &key(), HEAD.as_bytes()).expect("it fits");
    assert_eq!(
        parse(&bytes, &key()).map(|parsed| (parsed.meta.etag, parsed.meta.vary, parsed.meta.stamp)),
        Ok((full.etag, full.vary, full.stamp))
    );
}

#[test]
fn freshness_and_staleness_end_after_their_last_second() {
    let meta = Meta { valid_s: 100, updating_s: 10, error_s: 20, ..Meta::default() };
    let of =
        |now_s| (meta.is_fresh(now_s), meta.is_usable_while_updating(now_s), meta.is_usable_on_error(now_s));
    for (now_s, expected) in [
        (100, (true, true, true)),
        (101, (false, true, true)),
        (110, (false, true, true)),
        (111, (false, false, true)),
        (120, (false, false, true)),
        (121, (false, false, false)),
    ] {
        assert_eq!(of(now_s), expected, "{now_s}");
    }
    let hostile = Meta { valid_s: i64::MAX, updating_s: i64::MAX, error_s: i64::MIN, ..meta };
    assert!(hostile.is_usable_while_updating(i64::MAX) && !hostile.is_usable_on_error(100));
}

#[test]
fn every_flipped_byte_gives_a_reason_or_a_harmless_value() {
    let (file, key) = (nginx_file(), key());
    for at in 0..file.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] ^= flip;
            check(&changed, &key);
            (0..FIXED_BYTES).step_by(97).for_each(|cut| check(&changed[..cut], &key));
        }
    }
}

#[test]
fn any_bytes_as_a_file() {
    bolero::check!().for_each(|bytes: &[u8]| {
        reads_cache_file(bytes);
        let head = [b"HTTP/1.1 200 OK\r\n\r\n", bytes].concat();
        reads_cache_file(&[&[2][..], b"/k", &[0x81; FIXED_BYTES], &head].concat());
    });
}
