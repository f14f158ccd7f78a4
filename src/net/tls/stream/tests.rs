//! An encrypted connection against a peer that has the keys and may do anything with them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::net::tls::record::{Secret, Suite};
use crate::runtime::Runtime;

pub(super) const TLS13: u16 = 0x1301;
pub(super) const TLS12: u16 = 0xc02f;

/// The other end: a socket, and the keys to write and read records with.
pub(super) struct Peer {
    socket: UnixStream,
    sending: Direction,
    pub(super) receiving: Direction,
    input: Vec<u8>,
}

impl Peer {
    fn record(&mut self, content: Content, data: &[u8]) -> Vec<u8> {
        let mut out = Buffer::take(data.len() + OVERHEAD_BYTES);
        self.sending.seal(content, &[data], &mut out).unwrap();
        out.data().to_vec()
    }

    fn send(&mut self, content: Content, data: &[u8]) {
        let record = self.record(content, data);
        self.socket.write_all(&record).unwrap();
    }

    fn ask_for_key_update(&mut self) {
        self.send(Content::Handshake, &[KEY_UPDATE, 0, 0, 1, 1]);
        self.sending.update();
    }

    /// The next record; `None`: the end.
    pub(super) fn next(&mut self) -> Option<(Content, Vec<u8>)> {
        loop {
            if let Some(length) = record::record_length(&self.input).unwrap()
                && self.input.len() >= length
            {
                let mut record: Vec<u8> = self.input.drain(..length).collect();
                let (content, plain) = self.receiving.open(&mut record).unwrap();
                if content == Content::Handshake && record[plain.start] == KEY_UPDATE {
                    self.receiving.update();
                }
                return Some((content, record[plain].to_vec()));
            }
            let mut some = [0; 65_536];
            let count = self.socket.read(&mut some).expect("a record, or the end, within the deadline");
            if count == 0 {
                assert!(self.input.is_empty(), "the connection ends inside a record");
                return None;
            }
            self.input.extend_from_slice(&some[..count]);
        }
    }

    pub(super) fn rest(&mut self) -> Vec<(Content, Vec<u8>)> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn pair(suite: u16, record_bytes: usize) -> (Tls, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let suite = Suite::of(suite).unwrap();
    let direction = |byte: u8| Direction::new(suite, Secret::of_traffic(&[byte; 48]).unwrap(), 0);
    let session = Session {
        reading: direction(1),
        writing: direction(2),
        out: Buffer::default(),
        plain: Buffer::default(),
        input: Buffer::default(),
        is_closed: false,
        info: Rc::new(Info {
            is_tls13: suite.is_tls13(),
            cipher_suite: suite.number,
            group: None,
            signature_scheme: None,
            client_signature_scheme: None,
            protocol: Box::default(),
            is_resumed: false,
            is_early: Cell::new(false),
            hello: None,
            peer_chain: Vec::new().into(),
            verdict: Default::default(),
        }),
        tickets: None,
        unfinished: None,
        record_bytes,
    };
    let peer = Peer { socket: theirs, sending: direction(1), receiving: direction(2), input: Vec::new() };
    (Tls::new(Io::register(ours.into()).unwrap(), session), peer)
}

fn run(suite: u16, test: impl AsyncFnOnce(Tls, Peer) + 'static) {
    run_with(suite, PLAIN_BYTES_MAX, test);
}

pub(super) fn run_with(suite: u16, record_bytes: usize, test: impl AsyncFnOnce(Tls, Peer) + 'static) {
    Runtime::new().unwrap().block_on(async move {
        let (tls, peer) = pair(suite, record_bytes);
        test(tls, peer).await;
    });
}

async fn read(tls: &Tls) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let count = std::future::poll_fn(|cx| tls.poll_read(cx, &mut buffer)).await?;
    buffer.truncate(count);
    Ok(buffer)
}

/// Writes until the peer's socket takes nothing more. Returns the count of bytes.
fn fill(tls: &Tls) -> usize {
    let mut total = 0;
    while let Ok(count) = tls.try_write(&[b'x'; 8192]) {
        total += count;
    }
    total
}

fn data_bytes(records: &[(Content, Vec<u8>)]) -> usize {
    records.iter().filter(|(content, _)| *content == Content::Data).map(|(_, data)| data.len()).sum()
}

#[test]
fn key_updates_for_a_peer_that_does_not_read_are_answered_once() {
    run(TLS13, async |tls, mut peer| {
        let total = fill(&tls);
        for _ in 0..5000 {
            peer.ask_for_key_update();
            peer.send(Content::Data, b"!");
            assert_eq!(read(&tls).await.unwrap(), b"!");
        }
        let waiting = tls.writer.borrow().out.data().len();
        assert!(waiting <= OUT_BYTES, "{waiting} bytes wait");
        let reader = std::thread::spawn(move || peer.rest());
        std::future::poll_fn(|cx| tls.poll_flush(cx)).await.unwrap();
        tls.shutdown_write().unwrap();
        let records = reader.join().unwrap();
        assert_eq!(data_bytes(&records), total);
        let updates = records.iter().filter(|(content, _)| *content == Content::Handshake).count();
        assert_eq!(updates, 1);
    });
}

#[test]
fn renegotiations_for_a_peer_that_does_not_read_are_refused_once() {
    run(TLS12, async |tls, mut peer| {
        let total = fill(&tls);
        for _ in 0..5000 {
            peer.send(Content::Handshake, &[CLIENT_HELLO, 0, 0, 2, 3, 3]);
            peer.send(Content::Data, b"!");
            assert_eq!(read(&tls).await.unwrap(), b"!");
        }
        assert!(tls.writer.borrow().out.data().len() <= OUT_BYTES);
        let reader = std::thread::spawn(move || peer.rest());
        std::future::poll_fn(|cx| tls.poll_flush(cx)).await.unwrap();
        tls.shutdown_write().unwrap();
        assert_eq!(data_bytes(&reader.join().unwrap()), total);
    });
}

#[test]
fn a_renegotiation_is_refused_and_the_connection_goes_on() {
    run(TLS12, async |tls, mut peer| {
        peer.send(Content::Handshake, &[CLIENT_HELLO, 0, 0, 2, 3, 3]);
        peer.send(Content::Data, b"on");
        assert_eq!(read(&tls).await.unwrap(), b"on");
        assert_eq!(peer.next(), Some((Content::Alert, vec![WARNING, NO_RENEGOTIATION])));
    });
}

#[test]
fn close_notify_is_the_end_and_a_fatal_alert_is_an_error() {
    run(TLS13, async |tls, mut peer| {
        peer.send(Content::Data, b"all");
        peer.send(Content::Alert, &[WARNING, CLOSE_NOTIFY]);
        assert_eq!(read(&tls).await.unwrap(), b"all");
        assert_eq!(read(&tls).await.unwrap(), b"");
        assert_eq!(tls.try_write(b"still").unwrap(), 5);
        assert_eq!(peer.next(), Some((Content::Data, b"still".to_vec())));
    });
    for (suite, alert) in [(TLS13, [FATAL, 20]), (TLS12, [FATAL, 20]), (TLS13, [WARNING, 46])] {
        run(suite, async move |tls, mut peer| {
            peer.send(Content::Data, b"some");
            peer.send(Content::Alert, &alert);
            assert_eq!(read(&tls).await.unwrap(), b"some");
            let error = read(&tls).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            let name = if alert[1] == 20 { "bad_record_mac (20)" } else { "certificate_unknown (46)" };
            assert_eq!(error.to_string(), format!("the peer sent the alert {name}"));
            assert!(tls.try_write(b"x").is_err());
            drop(tls);
            assert_eq!(peer.rest(), []);
        });
    }
}

#[test]
fn close_notify_is_sent_once_and_last() {
    run(TLS13, async |tls, mut peer| {
        tls.try_write(b"bye").unwrap();
        tls.shutdown_write().unwrap();
        tls.shutdown_write().unwrap();
        assert_eq!(tls.try_write(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        drop(tls);
        let records = peer.rest();
        assert_eq!(
            records,
            [(Content::Data, b"bye".to_vec()), (Content::Alert, vec![WARNING, CLOSE_NOTIFY])]
        );
    });
}

#[test]
fn an_abandoned_connection_does_not_look_complete() {
    run(TLS13, async |tls, mut peer| {
        tls.try_write(b"half").unwrap();
        tls.abandon();
        drop(tls);
        assert_eq!(peer.rest(), [(Content::Data, b"half".to_vec())]);
    });
}

#[test]
fn a_flush_fails_if_what_was_written_is_lost() {
    run(TLS13, async |tls, peer| {
        fill(&tls);
        drop(peer);
        // A reader's poll finds the failure first.
        let _ = std::future::poll_fn(|cx| {
            let _ = tls.poll_readable(cx);
            if tls.has_output.get() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert!(std::future::poll_fn(|cx| tls.poll_flush(cx)).await.is_err());
    });
}

#[test]
fn a_record_that_is_only_announced_costs_little() {
    run(TLS13, async |tls, mut peer| {
        let record = peer.record(Content::Data, &[1; PLAIN_BYTES_MAX]);
        peer.socket.write_all(&record[..4200]).unwrap();
        std::future::poll_fn(|cx| tls.poll_readable(cx)).await.unwrap();
        assert!(tls.try_read(&mut [0; 10]).is_err());
        let capacity = tls.reader.borrow().input.capacity();
        assert!(capacity <= 32 * 1024, "{capacity} bytes");
        peer.socket.write_all(&record[4200..]).unwrap();
        let mut total = 0;
        while total < PLAIN_BYTES_MAX {
            total += read(&tls).await.unwrap().len();
        }
    });
}

#[test]
fn records_may_arrive_byte_by_byte() {
    for suite in [TLS13, TLS12, 0xcca8] {
        run(suite, async |tls, mut peer| {
            let mut bytes = peer.record(Content::Data, b"one");
            bytes.extend(peer.record(Content::Data, b""));
            if tls.info().is_tls13 {
                bytes.extend(peer.record(Content::Handshake, &[KEY_UPDATE, 0]));
                bytes.extend(peer.record(Content::Handshake, &[0, 1, 0]));
                peer.sending.update();
            }
            bytes.extend(peer.record(Content::Data, b"two"));
            bytes.extend(peer.record(Content::Alert, &[WARNING, CLOSE_NOTIFY]));
            let mut text = Vec::new();
            for byte in bytes {
                peer.socket.write_all(&[byte]).unwrap();
                std::future::poll_fn(|cx| tls.poll_readable(cx)).await.unwrap();
                let mut some = [0; 100];
                match tls.try_read(&mut some) {
                    Ok(count) => text.extend_from_slice(&some[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
                }
            }
            assert_eq!(text, b"onetwo");
            assert_eq!(read(&tls).await.unwrap(), b"");
        });
    }
}

/// The alert that ends a connection with this flood of records, and how many of them it took.
fn flood(suite: u16, content: Content, data: &'static [u8]) {
    run(suite, async move |tls, mut peer| {
        let mut count = 0;
        for _ in 0..EMPTY_RECORDS_MAX.max(UPDATES_MAX) + 2 {
            peer.send(content, data);
            count += 1;
        }
        assert!(read(&tls).await.is_err(), "{count} records");
        assert_eq!(peer.next(), Some((Content::Alert, vec![FATAL, 10])));
    });
}

#[test]
fn floods_of_records_without_data_end_the_connection() {
    flood(TLS13, Content::Data, b"");
    flood(TLS12, Content::Data, b"");
    flood(TLS12, Content::Alert, &[WARNING, 46]);
    flood(TLS13, Content::Alert, &[WARNING, USER_CANCELED]);
}

#[test]
fn messages_of_no_use_are_refused_by_their_first_bytes() {
    let cases: [(u16, &[u8]); 7] = [
        (TLS13, &[CLIENT_HELLO, 0, 0x3f, 0]),
        (TLS13, &[NEW_SESSION_TICKET, 0, 0, 9]),
        (TLS13, &[KEY_UPDATE, 0, 0, 2, 0]),
        (TLS13, &[KEY_UPDATE, 0, 0, 1, 2]),
        (TLS12, &[KEY_UPDATE, 0, 0, 1, 0]),
        (TLS12, &[HELLO_REQUEST, 0, 0, 0]),
        (TLS13, &[]),
    ];
    for (suite, message) in cases {
        run(suite, async move |tls, mut peer| {
            peer.send(Content::Handshake, message);
            assert!(read(&tls).await.is_err(), "{message:?}");
            assert_eq!(peer.next(), Some((Content::Alert, vec![FATAL, 10])), "{message:?}");
        });
    }
}

#[test]
fn a_changed_record_ends_the_connection_with_an_alert() {
    for suite in [TLS13, TLS12, 0xcca8] {
        run(suite, async |tls, mut peer| {
            let mut record = peer.record(Content::Data, b"text");
            record[HEAD_BYTES + 2] ^= 1;
            peer.socket.write_all(&record).unwrap();
            assert!(read(&tls).await.is_err());
            assert_eq!(peer.next(), Some((Content::Alert, vec![FATAL, 20])));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever records a peer with the keys sends, cut anywhere: the data comes through up to the first fault,
    /// and what waits to be sent is bounded.
    #[test]
    fn any_records_in_any_pieces(
        suite in prop::sample::select(vec![TLS13, TLS12, 0xcca8]),
        records in prop::collection::vec((0..7, prop::collection::vec(any::<u8>(), 0..30)), 0..60),
        cut in 1_usize..300,
    ) {
        run(suite, async move |tls, mut peer| {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            let mut is_all_data = true;
            for (kind, data) in records {
                is_all_data &= kind < 3 && !data.is_empty();
                bytes.extend(match kind {
                    0..3 => {
                        expected.extend_from_slice(&data);
                        peer.record(Content::Data, &data)
                    }
                    3 => peer.record(Content::Alert, &data),
                    4 => peer.record(Content::Handshake, &data),
                    5 => peer.record(Content::ChangeCipherSpec, &data),
                    _ => {
                        let record = peer.record(Content::Handshake, &[KEY_UPDATE, 0, 0, 1, 1]);
                        if suite == TLS13 {
                            peer.sending.update();
                        }
                        record
                    }
                });
            }
            let mut text = Vec::new();
            'pieces: for piece in bytes.chunks(cut) {
                if peer.socket.write_all(piece).is_err() {
                    break;
                }
                std::future::poll_fn(|cx| tls.poll_readable(cx)).await.unwrap();
                loop {
                    let mut some = [0; 50];
                    match tls.try_read(&mut some) {
                        Ok(0) => break 'pieces,
                        Ok(count) => text.extend_from_slice(&some[..count]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(_) => break 'pieces,
                    }
                }
                assert!(tls.writer.borrow().out.data().len() <= OUT_BYTES);
            }
            assert!(expected.starts_with(&text), "{text:?} of {expected:?}");
            assert!(!is_all_data || text == expected);
        });
    }
}
