//! Sessions stored, found and taken by one, by several threads, and by processes that are killed meanwhile.
//!
//! The other process is this test binary, started with only `works_as_another_process` to run; it opens the
//! zone through /proc.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use super::*;

const NEVER: u32 = u32::MAX;

fn table(bytes: usize) -> Table {
    Table::of(&Zone::map(bytes).expect("maps")).expect("large enough")
}

fn key(n: u64) -> Key {
    let mut key = [0x5a; KEY_BYTES];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key
}

/// A value that only its key can have.
fn value(n: u64) -> Vec<u8> {
    let length = 80 + n as usize % 300;
    n.to_le_bytes().into_iter().cycle().take(length).collect()
}

#[test]
fn what_is_put_is_found_and_taken_once() {
    let table = table(64 * 1024);
    assert_eq!(table.put(&key(1), &value(1), 300, 10), Some(Stored { evicted: 0 }));
    assert_eq!(table.get(&key(1), 300, 20), Some(value(1)));
    assert_eq!(table.get(&key(2), 300, 20), None);
    assert_eq!(table.take(&key(1), 300, 20), Some(value(1)));
    assert_eq!(table.take(&key(1), 300, 20), None);
    assert_eq!(table.get(&key(1), 300, 20), None);
    for bytes in [0, 1, 7, 8, 15, 16, 17, 80, 81, table.value_bytes_max()] {
        let value = vec![7; bytes];
        assert!(table.put(&key(3), &value, 300, 20).is_some(), "{bytes}");
        assert_eq!(table.get(&key(3), 300, 20), Some(value), "{bytes}");
    }
    assert_eq!(table.put(&key(3), &vec![0; table.value_bytes_max() + 1], 300, 20), None);
}

#[test]
fn a_session_ends_with_its_time_or_the_shorter_one_of_a_reload() {
    let table = table(64 * 1024);
    table.put(&key(1), b"a", 300, 100).expect("stored");
    for (lifetime_max_s, now_s, is_there) in
        [(300, 100, true), (300, 399, true), (300, 400, false), (299, 100, false), (10, 390, true)]
    {
        assert_eq!(table.get(&key(1), lifetime_max_s, now_s).is_some(), is_there, "{lifetime_max_s} {now_s}");
    }
    assert_eq!(table.take(&key(1), 300, 400), None);
    table.put(&key(1), b"a", 0, 100).expect("stored");
    assert_eq!(table.get(&key(1), 300, 100), None);
}

#[test]
fn a_taken_session_leaves_no_secret_behind() {
    let table = table(64 * 1024);
    let secret = [0xa5_u8; 48];
    table.put(&key(1), &secret, 300, 1).expect("stored");
    let is_there = || table.ring.iter().any(|word| word.load(Relaxed) == 0xa5a5_a5a5_a5a5_a5a5);
    assert!(is_there());
    table.take(&key(1), 300, 1).expect("there");
    assert!(!is_there());
}

#[test]
fn a_full_table_forgets_the_oldest_and_says_when_they_were_live() {
    let table = table(256 * 1024);
    let count = table.capacity() as u64 * 5;
    let mut evicted = 0;
    for n in 0..count {
        evicted += u64::from(table.put(&key(n), &[n as u8; 100], 300, 1).expect("stored").evicted);
    }
    let known: Vec<u64> = (0..count).filter(|n| table.get(&key(*n), 300, 1).is_some()).collect();
    assert_eq!(evicted + known.len() as u64, count, "each is there or was reported");
    let least = table.capacity() * 98 / 100;
    assert!(known.len() >= least, "{} of {}", known.len(), table.capacity());
    assert!(known.iter().all(|n| *n >= count - table.capacity() as u64 - 1));
    // Later all have expired: nobody misses them. So few that no bucket of the index, whose hash is random,
    // overflows with newer ones.
    let later = (0..count).map(|n| table.put(&key(n), &[1; 100], 300, 1000).expect("stored").evicted);
    let first: u32 = later.take(table.capacity() / 16).sum();
    assert_eq!(first, 0);
}

#[test]
fn a_megabyte_holds_as_many_sessions_as_nginx_documents() {
    assert!(table(1024 * 1024).capacity() >= 4000);
}

#[test]
fn a_put_replaces_the_session_of_its_key() {
    let table = table(64 * 1024);
    for n in 0..100 {
        let stored = table.put(&key(1), &value(n), 300, 1).expect("stored");
        assert_eq!(stored.evicted, 0);
        assert_eq!(table.get(&key(1), 300, 1), Some(value(n)));
    }
    table.take(&key(1), 300, 1).expect("there");
    assert_eq!(table.get(&key(1), 300, 1), None, "no older one comes back");
}

/// The steps of `put`, ended after each of them, and after each word.
#[test]
fn a_worker_that_dies_at_any_step_leaves_a_valid_table() {
    let table = table(64 * 1024);
    table.put(&key(1), &value(1), 300, 1).expect("stored");
    let (start, _) = table.reserve(blocks_of(100), 1);
    table.put(&key(2), &value(2), 300, 1).expect("stored");
    table.write(start, &key(3), &[3; 100], 301);
    assert_eq!(table.get(&key(3), 300, 1), None);
    let whole: Vec<u64> =
        (0..blocks_of(100) * BLOCK_WORDS).map(|n| table.word(start, n).load(Relaxed)).collect();
    // Published before it was written, as no worker does it but a hostile one.
    table.publish(&key(3), start, 1).expect("published");
    for cut in 0..ENTRY_WORDS + 12 {
        for (index, word) in whole.iter().enumerate() {
            table.word(start, index).store(if index < cut { *word } else { 0 }, Relaxed);
        }
        assert_eq!(table.get(&key(3), 300, 1), None, "{cut}");
    }
    for n in [1, 2] {
        assert_eq!(table.get(&key(n), 300, 1), Some(value(n)));
    }
}

#[test]
fn an_entry_with_any_bit_changed_is_not_found() {
    let table = table(64 * 1024);
    table.put(&key(1), &[9; 100], 300, 1).expect("stored");
    for index in 0..ENTRY_WORDS + 12 {
        let word = table.word(0, index);
        for bit in 0..64 {
            let before = word.fetch_xor(1 << bit, Relaxed);
            assert_eq!(table.get(&key(1), NEVER, 1), None, "{index} {bit}");
            word.store(before, Relaxed);
        }
    }
    assert!(table.get(&key(1), NEVER, 1).is_some());
}

#[test]
fn whatever_a_hostile_worker_writes_is_read_within_bounds() {
    let zone = Zone::map(32 * 1024).expect("maps");
    let table = Table::of(&zone).expect("large enough");
    for bits in [u64::MAX, 1, 1 << 63, 0x0001_0001_0001_0001, u64::MAX >> 1] {
        zone.words()[HEAD_WORD].store(bits, Relaxed);
        for (index, word) in zone.words().iter().enumerate().skip(HEADER_WORDS) {
            word.store(bits.rotate_left(index as u32), Relaxed);
        }
        for n in 0..2000 {
            table.put(&key(n), &value(n), 300, 1).expect("stored");
            assert_eq!(table.get(&key(n), 300, 1), Some(value(n)));
            let _ = table.take(&key(n / 2), 300, 1);
        }
    }
    assert!(Table::of(&Zone::map(1).expect("maps")).is_ok(), "one page will do");
}

#[test]
fn what_holds_for_any_words_holds_for_these() {
    property::survives(&[]);
    let mut seed = 1_u64;
    for _ in 0..20 {
        let damage = (0..2500).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        property::survives(&damage.collect::<Vec<u8>>());
    }
}

#[test]
fn of_many_threads_exactly_one_takes_a_session() {
    let table = table(4 * 1024 * 1024);
    let count = 4000;
    (0..count).for_each(|n| assert!(table.put(&key(n), &value(n), 300, 1).is_some()));
    let barrier = std::sync::Barrier::new(4);
    let taken: Vec<u64> = std::thread::scope(|scope| {
        let take_all = || {
            barrier.wait();
            (0..count).filter(|n| table.take(&key(*n), 300, 1).is_some()).collect::<Vec<u64>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take_all)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(taken.len() as u64, count);
    assert_eq!(taken.into_iter().collect::<HashSet<u64>>().len() as u64, count);
}

#[test]
fn readers_see_whole_sessions_while_writers_lap_them() {
    let table = table(32 * 1024); // a few dozen sessions: each is overwritten all the time
    std::thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || {
                for n in 0..30_000 {
                    table.put(&key(n * 2 + thread), &value(n * 2 + thread), 300, 1);
                }
            });
        }
        scope.spawn(|| {
            for n in 0..60_000 {
                if let Some(found) = table.get(&key(n), 300, 1) {
                    assert_eq!(found, value(n));
                }
            }
        });
    });
}

const ZONE: &str = "PRONGHORN_TEST_TLS_SESSIONS";

/// Starts this binary again to do `work` on the zone.
fn process(zone: &Zone, work: &str) -> Child {
    let path = format!("/proc/{}/fd/{}", std::process::id(), zone.as_fd().as_raw_fd());
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "shm::tls_sessions::tests::works_as_another_process", "--nocapture"])
        .env(ZONE, format!("{work} {path}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts")
}

/// What the other process does; as a test of its own it does nothing.
#[test]
fn works_as_another_process() {
    let Ok(order) = std::env::var(ZONE) else { return };
    let (work, path) = order.split_once(' ').expect("two words");
    let file = File::options().read(true).write(true).open(path).expect("the zone of the parent");
    let table = Table::of(&Zone::adopt(file.into()).expect("adopts")).expect("large enough");
    if work == "take" {
        let taken = (0..1000).filter(|n| table.take(&key(*n), 300, 1) == Some(value(*n))).count();
        println!("\ntaken={taken}");
        return;
    }
    for n in (0..u64::MAX).map(|n| n % 10_000) {
        let _ = table.put(&key(n), &value(n), 300, 1);
        let _ = table.take(&key(n / 3), 300, 1);
    }
}

#[test]
fn a_worker_killed_in_the_middle_costs_nobody_else_anything() {
    let zone = Zone::map(128 * 1024).expect("maps");
    let table = Table::of(&zone).expect("large enough");
    for _ in 0..6 {
        let before = table.head().load(Relaxed);
        let mut children = [process(&zone, "hammer"), process(&zone, "hammer")];
        // Both are at work once the ring has gone round several times; the deadline is for a child that
        // cannot start.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while table.head().load(Relaxed).wrapping_sub(before) < 100_000 {
            assert!(std::time::Instant::now() < deadline, "no child works");
            std::thread::yield_now();
        }
        for child in &mut children {
            child.kill().expect("ours");
            child.wait().expect("ours");
        }
        for n in 0..10_000 {
            if let Some(found) = table.get(&key(n), 300, 1) {
                assert_eq!(found, value(n));
            }
        }
        for n in 20_000..20_100 {
            table.put(&key(n), &value(n), 300, 1).expect("stored");
            assert_eq!(table.take(&key(n), 300, 1), Some(value(n)));
            assert_eq!(table.take(&key(n), 300, 1), None);
        }
    }
}

#[test]
fn of_two_processes_exactly_one_takes_a_session() {
    let zone = Zone::map(2 * 1024 * 1024).expect("maps");
    let table = Table::of(&zone).expect("large enough");
    (0..1000).for_each(|n| assert!(table.put(&key(n), &value(n), 300, 1).is_some()));
    let children = [process(&zone, "take"), process(&zone, "take")];
    let taken = children.map(|child| {
        let output = child.wait_with_output().expect("ours");
        let mut text = String::new();
        (&output.stdout[..]).read_to_string(&mut text).expect("text");
        let count = text.lines().find_map(|line| line.strip_prefix("taken=")).expect("a count");
        count.parse::<usize>().expect("a number")
    });
    assert_eq!(taken.iter().sum::<usize>(), 1000, "{taken:?}");
}
