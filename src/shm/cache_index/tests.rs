//! The index as workers and the manager use it, and what is left of it in hostile hands.

use super::super::zone::Zone;
use super::survey::Seen;
use super::words::AHEAD_S_MAX;
use super::*;

fn index(bytes: usize) -> Index {
    Index::of(Zone::map(bytes).expect("maps").words()).expect("a page")
}

fn digest(number: u64) -> Digest {
    // As evenly spread as the MD5 of a key.
    let spread = |salt: u64| (number ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ salt;
    digest_of([spread(0x51), spread(0xabcd)])
}

fn all(index: &Index, now_s: u64) -> Vec<Seen> {
    let mut seen = Vec::new();
    (0..index.groups()).for_each(|group| index.survey(group, now_s * 1000, &mut seen));
    seen
}

#[test]
fn a_key_has_uses_and_then_a_file() {
    let index = index(64 * 1024);
    let a = digest(1);
    let first = index.touch(&a, 100);
    assert_eq!((first.uses, first.file, first.bytes), (1, Presence::Unknown, None), "nothing is loaded yet");
    index.set_loaded();
    assert_eq!(index.touch(&a, 100), Use { uses: 2, file: Presence::No, ..first });
    assert_eq!(index.stored(&a, 5000, 101), None);
    let third = index.touch(&a, 102);
    assert_eq!((third.uses, third.file, third.bytes), (3, Presence::Yes, Some(5120)));
    assert_eq!(index.size(), Size { files: 1, bytes: 5120 });
    index.stored(&a, 1024, 103);
    assert_eq!(index.size(), Size { files: 1, bytes: 1024 }, "a file replaces the one before it");
    index.forget(&a);
    index.forget(&a);
    assert_eq!(index.size(), Size::default());
    assert_eq!(index.touch(&a, 104).file, Presence::No);
    for _ in 0..2000 {
        index.touch(&a, 105);
    }
    assert_eq!(index.touch(&a, 105).uses, 1023);
}

#[test]
fn an_error_is_valid_until_its_time_or_a_file() {
    let index = index(64 * 1024);
    let (a, b) = (digest(1), digest(2));
    index.failed(&a, 502, 100, 10);
    assert_eq!(index.touch(&a, 100).error, None, "a key without a place");
    index.failed(&a, 502, 100, 10);
    assert_eq!(index.touch(&a, 110).error, Some(502));
    assert_eq!(index.touch(&b, 110).error, None);
    assert_eq!(index.touch(&a, 111).error, None);
    index.failed(&a, 504, 111, 100);
    index.stored(&a, 1, 111);
    assert_eq!(index.touch(&a, 112).error, None);
}

#[test]
fn one_request_at_a_time_holds_a_lock() {
    let index = index(64 * 1024);
    let a = digest(1);
    assert!(index.lock(&a, 1000, 5000).is_some(), "no place, no lock");
    index.touch(&a, 1);
    assert!(!index.is_locked(&a, 1000, 5000));
    let first = index.lock(&a, 1000, 5000).expect("free");
    assert!(index.lock(&a, 5999, 5000).is_none());
    assert!(index.is_locked(&a, 5999, 5000));
    index.renew(&first, 5000);
    assert!(index.lock(&a, 9999, 5000).is_none());
    let second = index.lock(&a, 10_000, 5000).expect("its holder died");
    assert_ne!(first, second);
    index.release(&first);
    index.renew(&first, 99_000);
    assert!(index.lock(&a, 10_001, 5000).is_none(), "the first holder has nothing to give back");
    index.release(&second);
    index.release(&second);
    let third = index.lock(&a, 10_002, 5000).expect("free again");
    assert!(index.is_locked(&a, 9000, 5000), "the clock of another worker");
    index.renew(&third, 10_002 + AHEAD_S_MAX * 1000 * 2);
    assert!(!index.is_locked(&a, 10_002, 5000), "no clock is that far ahead");
}

#[test]
fn no_key_gives_way_before_the_table_is_two_thirds_full() {
    let index = index(256 * 1024);
    assert!(index.capacity() > 5000, "{index:?}");
    let count = index.capacity() as u64 * 2 / 3;
    for number in 0..count {
        assert_eq!(index.stored(&digest(number), 512, 100), None, "{number} of {count}");
    }
    assert_eq!(index.size(), Size { files: count, bytes: count * 512 });
    assert_eq!(all(&index, 100).len() as u64, count);
}

#[test]
fn in_a_full_table_the_oldest_gives_way_and_those_without_a_file_first() {
    let index = index(32 * 1024);
    let count = index.capacity() as u64 * 10;
    let mut evicted = Vec::new();
    for number in 0..count {
        evicted.extend(index.stored(&digest(number), 512, 100 + number));
    }
    let kept = all(&index, 100 + count);
    assert_eq!(
        (kept.len() as u64, evicted.len() as u64),
        (index.capacity() as u64, count - kept.len() as u64)
    );
    assert_eq!(index.size().files, kept.len() as u64);
    let latest = kept.iter().filter(|seen| seen.age_s < count / 5).count();
    assert!(latest > kept.len() * 4 / 5, "{latest} of {}", kept.len());
    for seen in kept.iter().filter(|seen| seen.age_s < 100) {
        assert!(!evicted.contains(&seen.digest));
    }
    // Keys that are only counted do not displace each other's files for long: the file goes once.
    let files = index.size().files;
    for number in count..count * 3 {
        index.touch(&digest(number), 100 + count);
    }
    assert!(index.size().files >= files - 2 * index.capacity() as u64 / WAYS as u64, "{:?}", index.size());
}

#[test]
fn a_locked_key_stays() {
    let index = index(8 * 1024);
    let a = digest(1);
    index.touch(&a, 100);
    let _ticket = index.lock(&a, 100_000, 5000).expect("free");
    for number in 2..5000 {
        index.stored(&digest(number), 512, 110);
    }
    assert!(index.is_locked(&a, 104_000, 5000));
}

#[test]
fn a_key_is_removed_unless_it_changed_since() {
    let index = index(64 * 1024);
    for number in 0..4 {
        index.stored(&digest(number), 4096, 100);
    }
    let seen = all(&index, 200);
    assert!(seen.iter().all(|seen| seen.age_s == 100 && seen.bytes == Some(4096) && !seen.is_locked));
    let of = |number| *seen.iter().find(|seen| seen.digest == digest(number)).expect("seen");
    index.touch(&digest(1), 150);
    index.stored(&digest(2), 8192, 100);
    let _ticket = index.lock(&digest(3), 200_000, 1000).expect("free");
    let unchanged = [0, 1, 2, 3].map(|number| index.is_unchanged(&of(number), 200_000));
    assert_eq!(unchanged, [true, false, false, false]);
    for number in 0..3 {
        index.remove(&of(number));
        index.remove(&of(number));
    }
    index.set_loaded();
    assert_eq!(index.size(), Size { files: 2, bytes: 8192 + 4096 });
    assert_eq!(index.touch(&digest(0), 200).uses, 1, "it began anew");
    let second = index.touch(&digest(1), 200);
    assert_eq!((second.uses, second.file), (2, Presence::No), "its file was removed, its uses count on");
    assert_eq!(index.touch(&digest(2), 200).bytes, Some(8192), "stored again meanwhile");
}

#[test]
fn a_tally_that_a_dead_process_left_is_corrected() {
    let index = index(64 * 1024);
    index.stored(&digest(1), 4096, 100);
    let group =
        (0..index.groups()).find(|group| index.tally(*group)[1].load(Relaxed) == 1).expect("it has a group");
    assert_eq!(index.reconcile(group, None), None);
    // It died between the exchange of the word and the tally.
    let way = index.own(index.key(&digest(1))).expect("has a place");
    way.file().store(0, Relaxed);
    let difference = index.reconcile(group, None);
    assert!(difference.is_some());
    way.tally[3].fetch_add(1, Relaxed);
    let again = index.reconcile(group, difference);
    assert!(again.is_some() && again != difference, "something happened meanwhile");
    assert_eq!(index.reconcile(group, again), None);
    assert_eq!(index.size(), Size::default());
    way.tally[1].store(u64::MAX, Relaxed);
    assert_eq!(index.size().files, 0, "never less than none");
}

#[test]
fn a_word_under_the_key_of_another_counts_as_unset() {
    let index = index(64 * 1024);
    let (a, b) = (digest(1), digest(2));
    index.set_loaded();
    index.stored(&a, 4096, 100);
    index.failed(&a, 502, 100, 900);
    let (way, other) = (index.own(index.key(&a)).expect("placed"), index.key(&b));
    // A worker died after it had taken the way for the other key, and before it cleared the words.
    let taken = index.buckets(other)[0][3];
    taken.first.store(other.halves[0], Relaxed);
    taken.second().store(other.halves[1], Relaxed);
    for (to, from) in taken.rest.iter().zip(way.rest).skip(1) {
        to.store(from.load(Relaxed), Relaxed);
    }
    let first = index.touch(&b, 200);
    assert_eq!((first.uses, first.file, first.error), (1, Presence::No, None));
}

#[test]
fn whatever_a_hostile_worker_writes_the_table_goes_on() {
    let index = index(8 * 1024);
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.rotate_right(11)
    };
    for round in 0..3000_u64 {
        for _ in 0..20 {
            let (at, word) = (random() as usize % (index.words.len() - 4) + 4, random());
            index.words[at].store(if word % 5 == 0 { u64::MAX } else { word }, Relaxed);
        }
        let key = digest(round % 50);
        let seen = all(&index, round);
        seen.iter().take(3).for_each(|seen| index.remove(seen));
        (0..index.groups()).for_each(|group| _ = index.reconcile(group, index.reconcile(group, None)));
        let _ = (index.size(), index.lock(&key, round * 1000, 1000), index.is_locked(&key, round, 1000));
        index.forget(&key);
        index.failed(&key, 502, round, 1);
        index.stored(&key, round * 512, round + 1);
        let used = index.touch(&key, round + 1);
        assert_eq!((used.file, used.bytes, used.error), (Presence::Yes, Some(round * 512), None), "{round}");
    }
}

#[test]
fn the_next_binary_finds_what_the_last_one_stored() {
    let zone = Zone::map(32 * 1024).expect("maps");
    let old = Index::of(zone.words()).expect("a page");
    old.stored(&digest(1), 512, 100);
    old.set_loaded();
    let adopted = Zone::adopt(zone.as_fd().try_clone_to_owned().expect("dup")).expect("adopts");
    let new = Index::of(adopted.words()).expect("a page");
    assert!(new.is_loaded());
    assert_eq!(new.touch(&digest(1), 100).file, Presence::Yes);
    assert!(Index::of(&zone.words()[..HEADER_WORDS + TALLY_WORDS]).is_err());
}

#[test]
fn workers_that_store_the_same_keys_agree() {
    let index = index(16 * 1024);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            scope.spawn(move || {
                for round in 0..4000_u64 {
                    let key = digest((round * 7 + thread) % 500);
                    index.touch(&key, 100 + round);
                    if let Some(ticket) = index.lock(&key, round, 1000) {
                        index.stored(&key, 512 * (thread + 1), 100 + round);
                        index.release(&ticket);
                    }
                    if round % 16 == 0 {
                        index.forget(&key);
                    }
                }
            });
        }
    });
    let seen = all(&index, 5000);
    let sum = |seen: &[Seen]| seen.iter().filter_map(|seen| seen.bytes).sum::<u64>();
    let files = seen.iter().filter(|seen| seen.bytes.is_some()).count() as u64;
    assert_eq!(index.size(), Size { files, bytes: sum(&seen) }, "no count is lost");
    let mut digests: Vec<Digest> = seen.iter().map(|seen| seen.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), seen.len(), "each key has one place");
}

#[test]
fn a_file_that_was_found_is_no_newer_than_one_that_was_stored() {
    let index = index(64 * 1024);
    index.found(&digest(1), 512, 100);
    assert_eq!(index.size(), Size { files: 1, bytes: 512 });
    index.stored(&digest(1), 1024, 101);
    index.found(&digest(1), 512, 102);
    assert_eq!(index.touch(&digest(1), 103).bytes, Some(1024));
    index.forget(&digest(1));
    index.found(&digest(1), 512, 104);
    assert_eq!(index.size(), Size { files: 1, bytes: 512 });
}

#[test]
fn one_process_leads_while_it_lives() {
    let index = index(64 * 1024);
    let lead = |pid, now_ms, alive: &[u32]| index.lead(pid, now_ms, 60_000, |pid| alive.contains(&pid));
    assert!(lead(7, 1000, &[7, 8]));
    assert!(!lead(8, 2000, &[7, 8]));
    assert!(lead(7, 50_000, &[7, 8]));
    assert!(!lead(8, 109_999, &[7, 8]));
    assert!(lead(8, 110_000, &[7, 8]), "it does nothing any more");
    assert!(!lead(7, 110_001, &[7, 8]));
    assert!(lead(7, 110_001, &[7]), "the other one has ended");
}

#[test]
fn groups_that_nothing_used_take_no_memory() {
    let zone = Zone::map(64 << 20).expect("maps");
    let index = Index::of(zone.words()).expect("pages");
    index.stored(&digest(1), 512, 100);
    let before = zone.resident_bytes().expect("stat");
    assert_eq!(all(&index, 200).len(), 1);
    assert_eq!(index.size().files, 1);
    let tallies = (index.groups() * TALLY_WORDS * 8) as u64;
    let after = zone.resident_bytes().expect("stat");
    assert!(after <= before + tallies + (64 << 10), "{before} {after} {tallies}");
}

#[test]
fn what_was_asked_for_before_an_invalidation_is_out_of_date() {
    let index = index(64 * 1024);
    let (a, b) = (digest(1), digest(2));
    assert!(!index.invalidate(&a, 5000), "a key without a place");
    assert!(!index.was_invalidated(&a, 1000, 6000));
    index.set_loaded();
    [&a, &b].iter().for_each(|key| _ = index.touch(key, 4));
    index.failed(&a, 404, 4, 100);
    assert!(index.invalidate(&a, 5000), "an error is forgotten too");
    assert_eq!(index.touch(&a, 5).error, None);
    for (key, since_ms, now_ms, expected) in [
        (&a, 4999, 5000, true),
        (&a, 4999, 90_000, true),
        (&a, 5000, 5000, false),
        (&a, 5000, 90_000, false),
        (&a, 6000, 90_000, false),
        (&a, 0, 4999, false),
        (&b, 0, 90_000, false),
    ] {
        assert_eq!(index.was_invalidated(key, since_ms, now_ms), expected, "{since_ms} {now_ms}");
    }
    index.stored(&a, 512, 6);
    assert!(index.was_invalidated(&a, 4999, 7000), "another request has stored it since");
    assert_eq!(index.touch(&a, 7).file, Presence::Yes);
    assert!(!index.invalidate(&a, 8000));
    assert_eq!(index.touch(&a, 8).file, Presence::No);
    index.failed(&a, 404, 8, 100);
    assert_eq!(index.touch(&a, 9).error, Some(404));
    // The number of milliseconds begins again at 0.
    let round_ms = 1 << 34;
    assert!(!index.invalidate(&b, round_ms - 1) && index.was_invalidated(&b, round_ms - 2, round_ms + 5));
    assert!(!index.was_invalidated(&b, round_ms - 1, round_ms + 5));
}
