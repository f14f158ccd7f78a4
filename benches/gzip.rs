//! The cost of gzip at each level: `cargo bench --bench gzip [-- FILE]` prints bytes and CPU for a page of
//! links or a file, for the table in `src/base/gzip.rs`. zlib's own figures there are those of a program that
//! links zlib.

use std::hint::black_box;
use std::time::Instant;

use pronghorn::base::gzip::{Decoder, Encoder, Flush, Shape, encode};

const ROUNDS: u32 = 30;
/// Number of runs, of which the best counts: others use this machine too.
const TRIES: u32 = 10;

/// 64 KiB of links like those of a site, with generated numbers.
fn page() -> Vec<u8> {
    let words = [
        "accept4",
        "bind",
        "close",
        "epoll_wait",
        "futex",
        "mmap",
        "pread64",
        "recvfrom",
        "sendto",
        "socket",
    ];
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = String::from("<!doctype html><title>page</title><ul>\n");
    while text.len() < 65_536 {
        let (item, app, query) = (next(64), next(200), next(1_000_000));
        let (first, second) = (words[next(10) as usize], words[next(10) as usize]);
        text.push_str(&format!(
            "<li class=\"item-{item}\"><a href=\"/app{app}/x?q={query}\">{first} {second}</a></li>\n"
        ));
    }
    text.truncate(65_536);
    text.into_bytes()
}

fn measure(name: &str, mut operation: impl FnMut() -> usize) {
    let mut best = f64::INFINITY;
    let mut bytes = 0;
    for _ in 0..TRIES {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            bytes = operation();
        }
        best = best.min(began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }
    println!("{name:<44} {best:>8.1} us {bytes:>8} bytes");
}

fn main() {
    let file = std::env::args().nth(1).filter(|word| !word.starts_with('-'));
    let page = file.map_or_else(page, |path| std::fs::read(path).expect("the file can be read"));
    for level in 1..=9 {
        let mut encoder = Encoder::new(Shape::of_level(level));
        let mut out = Vec::new();
        measure(&format!("level {level}"), || {
            encoder.reset();
            out.clear();
            encoder.push(black_box(&page), Flush::End, &mut out);
            out.len()
        });
    }
    let mut encoder = Encoder::new(Shape::of_level(5));
    let mut out = Vec::new();
    measure("level 5, an event of 40 bytes and its flush", || {
        out.clear();
        encoder.push(black_box(&page[..40]), Flush::Sync, &mut out);
        out.len()
    });
    measure("level 5, an encoder that is not kept", || encode(black_box(&page), 5).len());
    let coded = encode(&page, 5);
    measure("decoding", || {
        let mut out = Vec::new();
        let progress = Decoder::default().decode(black_box(&coded), 1 << 20, &mut out).expect("it is gzip");
        assert!(!progress.is_full);
        out.len()
    });
    let members = encode(b"", 1).repeat(800);
    measure("decoding 800 empty members, 16 KB", || {
        let mut out = Vec::new();
        let progress = Decoder::default().decode(black_box(&members), 1 << 20, &mut out).expect("it is gzip");
        progress.used
    });
}
