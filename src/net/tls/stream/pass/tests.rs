//! Bodies on their way into an encrypted connection, against a peer that has its keys.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::net::tls::record::Content;
use crate::net::tls::stream::tests::{Peer, TLS12, TLS13, run_with};
use crate::runtime::timer_count;

const LIMITS: Limits = Limits { read_timeout_ms: 20_000, write_timeout_ms: 20_000 };

fn source() -> (Io, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Io::register(ours.into()).unwrap(), theirs)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

/// The data of all records; none is longer than `record_bytes`.
fn data_of(mut peer: Peer, record_bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for (content, data) in peer.rest() {
        if content == Content::Data {
            assert!(!data.is_empty() && data.len() <= record_bytes);
            all.extend_from_slice(&data);
        }
    }
    all
}

#[test]
fn exactly_the_length_is_moved_in_records_of_any_suite_and_size() {
    for suite in [TLS13, 0x1303, TLS12, 0xcca8] {
        for record_bytes in [16_384, 5000, 1] {
            let length = if record_bytes == 1 { 3000 } else { 1_500_000 };
            run_with(suite, record_bytes, async move |tls, peer| {
                let (source, mut sender) = source();
                let writer = std::thread::spawn(move || {
                    sender.write_all(&pattern(length)).unwrap();
                    sender.write_all(b"next").unwrap();
                    sender
                });
                let reader = std::thread::spawn(move || data_of(peer, record_bytes));
                assert_eq!(tls.splice(&source, length as u64, &LIMITS, |_| {}).await.unwrap(), length as u64);
                let mut rest = [0; 10];
                let count = source.read(&mut rest).await.unwrap();
                assert_eq!(&rest[..count], b"next");
                poll_fn(|cx| tls.poll_flush(cx)).await.unwrap();
                assert_eq!(tls.held_bytes(), 0);
                drop(tls);
                assert!(reader.join().unwrap() == pattern(length), "bytes arrive as they were");
                drop(writer.join().unwrap());
            });
        }
    }
}

#[test]
fn what_was_written_before_and_new_keys_keep_their_place() {
    run_with(TLS13, 16_384, async |tls, mut peer| {
        let (source, mut sender) = source();
        sender.write_all(b"moved").unwrap();
        tls.try_write(b"head, ").unwrap();
        assert_eq!(peer.next(), Some((Content::Data, b"head, ".to_vec())));
        tls.writer.borrow_mut().keys.wear();
        peer.receiving.wear();
        assert_eq!(tls.splice(&source, 5, &LIMITS, |_| {}).await.unwrap(), 5);
        tls.try_write(b", tail").unwrap();
        drop(tls);
        assert_eq!(data_of(peer, 16_384), b"moved, tail");
    });
}

#[test]
fn a_source_that_ends_early_is_told() {
    run_with(TLS13, 16_384, async |tls, peer| {
        let (source, mut sender) = source();
        sender.write_all(b"half").unwrap();
        drop(sender);
        let error = tls.splice(&source, 8, &LIMITS, |_| {}).await.unwrap_err();
        assert!(matches!((error.side, error.cause, error.moved), (Side::Source, Cause::Eof, 4)));
        tls.abandon();
        drop(tls);
        assert_eq!(data_of(peer, 16_384), b"half");
    });
}

#[test]
fn a_silent_source_times_out_and_holds_nothing() {
    run_with(TLS13, 16_384, async |tls, _peer| {
        let (source, mut sender) = source();
        sender.write_all(b"half").unwrap();
        let limits = Limits { read_timeout_ms: 20, ..LIMITS };
        let error = tls.splice(&source, 8, &limits, |_| {}).await.unwrap_err();
        assert!(matches!((error.side, error.cause, error.moved), (Side::Source, Cause::TimedOut, 4)));
        assert_eq!((tls.held_bytes(), timer_count()), (0, 0));
    });
}

#[test]
fn a_target_that_takes_nothing_times_out_and_bounds_what_waits() {
    run_with(TLS13, 16_384, async |tls, peer| {
        let (source, mut sender) = source();
        let writer = std::thread::spawn(move || while sender.write_all(&[b'x'; 65_536]).is_ok() {});
        let limits = Limits { write_timeout_ms: 50, ..LIMITS };
        let error = tls.splice(&source, 1 << 40, &limits, |_| {}).await.unwrap_err();
        assert!(matches!((error.side, error.cause), (Side::Target, Cause::TimedOut)));
        assert!(tls.held_bytes() <= FILL_BYTES, "{}", tls.held_bytes());
        drop((source, peer));
        writer.join().unwrap();
    });
}

#[test]
fn a_target_that_is_gone_is_told() {
    run_with(TLS13, 16_384, async |tls, peer| {
        let (source, mut sender) = source();
        sender.write_all(b"data").unwrap();
        drop(peer);
        let error = tls.splice(&source, 4, &LIMITS, |_| {}).await.unwrap_err();
        assert!(matches!((error.side, error.cause), (Side::Target, Cause::Io(_))));
    });
}

#[test]
fn a_part_of_a_file_is_sent_and_a_short_file_is_told() {
    let mut file = tempfile::tempfile().unwrap();
    let data = pattern(500_000);
    file.write_all(&data).unwrap();
    run_with(TLS13, 16_384, async move |tls, peer| {
        let reader = std::thread::spawn(move || data_of(peer, 16_384));
        assert_eq!(tls.send_file(file.as_fd(), (100, 400_000), 0, &LIMITS).await.unwrap(), 400_000);
        let short = tls.send_file(file.as_fd(), (499_990, 100), 0, &LIMITS).await.unwrap_err();
        assert!(matches!((short.side, short.cause, short.moved), (Side::Source, Cause::Eof, 10)));
        poll_fn(|cx| tls.poll_flush(cx)).await.unwrap();
        drop(tls);
        assert!(reader.join().unwrap() == [&data[100..400_100], &data[499_990..]].concat());
    });
}
