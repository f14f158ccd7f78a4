//! Proxied requests from a client's first byte to the fate of the upstream's connection: what is kept, what is in memory,
//! what is left when either side stops, leaves or says too much, and when the worker drops it all.

use std::cell::Cell;
use std::rc::Rc;

use crate::http::h1::serve;
use crate::http::tests::stage::{Stage, answers, dropped_at_every_wait, run, statuses};
use crate::net::transport::script::{Script, play};
use crate::runtime::{registration_count, sleep, spawn, task_count, yield_now};

const PROXY: &str = "upstream u { server 127.0.0.1:1; keepalive 4; } server { listen 127.0.0.1:1; \
    location / { proxy_pass http://u; proxy_pass_trailers on; proxy_max_temp_file_size 0; } \
    location /stream { proxy_pass http://u; proxy_request_buffering off; client_max_body_size 0; } \
    location /own { return 200 own; } }";

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const KNOWN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n";

#[test]
fn a_connection_is_kept_only_where_nothing_is_left_to_come_or_to_be_sent() {
    // Method, the upstream's answer, the client's body, and whether the connection serves the next request.
    const CASES: &[(&str, &str, &str, bool)] = &[
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", true),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n",
            "ok",
            true,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", true),
        // It closes, or may.
        ("GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", false),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", false),
        // More than was asked for: another answer would be the next client's.
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", "ok", false),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP", "ok", false),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nbody", "", false),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\nbody", "", false),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", false),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "", false),
    ];
    run(PROXY, async |stage: Stage| {
        for (method, answer, body, is_kept) in CASES {
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            for cut in 1..=answer.len() {
                let upstream = stage.upstream();
                upstream.awaits(b"\r\n\r\n").sends_cut(answer.as_bytes(), cut);
                let client = stage.spawn();
                client.sends(request.as_bytes());
                sleep(10).await;
                let (got, case) = (client.written(), format!("{method} {answer:?} cut at {cut}"));
                assert!(
                    got.ends_with(format!("\r\n\r\n{body}").as_bytes()) || method == &"GET",
                    "{case}: {:?}",
                    String::from_utf8_lossy(&got)
                );
                if *method == "GET" {
                    let got = answers(&got);
                    assert!(got.len() == 1 && got[0].is_whole && got[0].body == body.as_bytes(), "{case}");
                }
                // What comes later than the answer is found by whoever watches the idle connection.
                assert_eq!(!upstream.is_closed(), *is_kept, "{case}");
                client.sends(b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n").ends();
                sleep(10).await;
                assert!(client.written().ends_with(b"own") && client.is_closed(), "{case}");
                upstream.ends();
                sleep(10).await;
                assert!(upstream.is_closed(), "{case}");
            }
        }
    });
}

#[test]
fn one_connection_serves_one_request_after_the_other() {
    run(PROXY, async |stage: Stage| {
        let upstream = stage.upstream();
        for answer in [KNOWN, CHUNKED, KNOWN] {
            upstream.awaits(b"\r\n\r\n").pauses().drips(answer);
        }
        let (first, second) = (stage.spawn(), stage.spawn());
        first.sends(GET).awaits(b"world").sends(GET);
        sleep(10).await;
        assert_eq!((answers(&first.written()).len(), second.written().len()), (2, 0));
        second.sends(GET);
        sleep(10).await;
        for answer in answers(&[first.written(), second.written()].concat()) {
            assert!(answer.is_whole && answer.body == b"hello world", "{answer:?}");
        }
        assert_eq!(memchr::memmem::find_iter(&upstream.written(), b"GET / HTTP/1.1").count(), 3);
        // Idle for too long, or told to go.
        assert!(!upstream.is_closed());
        sleep(61_000).await;
        assert!(upstream.is_closed());
    });
}

#[test]
fn an_answer_that_breaks_off_is_cut_for_the_client_too() {
    let old: &[u8] = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    run(PROXY, async move |stage: Stage| {
        for (answer, head_end) in [(KNOWN, 39), (CHUNKED, 47)] {
            for cut in 1..answer.len() {
                for (request, leaves) in [
                    (GET, Script::ends as fn(&Script) -> &Script),
                    (GET, Script::resets),
                    (old, Script::ends),
                ] {
                    let upstream = stage.upstream();
                    leaves(upstream.awaits(b"\r\n\r\n").sends(&answer[..cut]).pauses());
                    let client = stage.spawn();
                    client.sends(request).awaits(b"\r\n\r\n").pauses().sends(GET);
                    sleep(100).await;
                    let got = answers(&client.written());
                    assert!(upstream.is_closed(), "{cut} bytes");
                    if cut < head_end {
                        assert_eq!(got[0].status, 502, "{cut} bytes of the head");
                    } else {
                        let cut_off = &got[0];
                        assert!(
                            got.len() == 1 && cut_off.status == 200 && client.is_closed(),
                            "{cut}: {got:?}"
                        );
                        assert!(b"hello world".starts_with(&cut_off.body), "{cut} bytes");
                        assert!(!cut_off.is_whole || request == old, "{cut} bytes: {cut_off:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn one_task_watches_a_group_though_connections_come_at_once() {
    run(PROXY, async |stage: Stage| {
        let before = task_count();
        let upstreams = [stage.upstream(), stage.upstream(), stage.upstream()];
        sleep(1).await;
        assert_eq!(task_count(), before + 1);
        upstreams[1].ends();
        sleep(1).await;
        assert_eq!(upstreams.map(|upstream| upstream.is_closed()), [false, true, false]);
    });
}

#[test]
fn trailers_pass_but_those_that_frame_or_route() {
    let answer: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\n\r\n1\r\na\r\n0\r\n\
        X-Sum: 1\r\nContent-Length: 9\r\nX-Hop: 1\r\nHost: evil\r\nTransfer-Encoding: gzip\r\nX-End: 2\r\n\r\n";
    run(PROXY, async move |stage: Stage| {
        for cut in 1..answer.len() {
            let upstream = stage.upstream();
            upstream.awaits(b"\r\n\r\n").sends_cut(answer, cut);
            let asks: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
            let client = stage.spawn();
            client.sends(asks);
            sleep(10).await;
            let written = String::from_utf8(client.written()).unwrap();
            let at = written.find("1\r\na\r\n0\r\n").expect("a chunk");
            assert_eq!(&written[at..], "1\r\na\r\n0\r\nX-Sum: 1\r\nX-End: 2\r\n\r\n", "cut at {cut}");
            assert!(!upstream.is_closed());
        }
    });
}

#[test]
fn an_answer_may_come_before_the_body_and_the_next_request_is_found_behind_it() {
    const POST: &[u8] = b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    run(PROXY, async |stage: Stage| {
        for cut in 0..10 {
            let upstream = stage.upstream();
            upstream.awaits(b"\r\n\r\n").sends(KNOWN);
            let body: &[u8] = b"0123456789";
            let client = stage.spawn();
            client.sends(POST).sends(&body[..cut]).awaits(b"world").pauses().sends(&body[cut..]);
            client.sends(b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
            sleep(1_000).await; // less than either connection is kept
            let got = answers(&client.written());
            let bodies: Vec<&[u8]> = got.iter().map(|answer| &*answer.body).collect();
            assert_eq!(bodies, [&b"hello world"[..], b"own"], "{cut} bytes of the body before the answer");
            assert!(upstream.is_closed(), "it waits for the rest of this body");
            assert!(upstream.written().ends_with(&[b"\r\n\r\n", &body[..cut]].concat()));
        }
    });
}

#[test]
fn a_body_that_breaks_off_is_no_request_for_an_upstream() {
    const CHUNKS: &[u8] =
        b"PUT /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    run(PROXY, async |stage: Stage| {
        let head = memchr::memmem::find(CHUNKS, b"4\r\n").unwrap();
        for cut in head..CHUNKS.len() {
            for leaves in [Script::ends as fn(&Script) -> &Script, Script::resets] {
                let upstream = stage.upstream();
                let written = stage.serve(|client| leaves(client.sends(&CHUNKS[..cut]).pauses())).await;
                assert!(upstream.is_closed() || upstream.written().is_empty(), "{cut} bytes");
                assert!(!upstream.written().ends_with(b"0\r\n\r\n"), "{cut} bytes look complete");
                assert!(statuses(&written).iter().all(|status| *status == 400), "{cut} bytes");
                upstream.ends();
                sleep(1).await;
            }
        }
    });
}

#[test]
fn memory_is_bounded_whichever_side_is_slow() {
    const LENGTH: usize = 2_000_000;
    run(PROXY, async |stage: Stage| {
        // The upstream is slow.
        let upstream = stage.upstream();
        upstream.is_full();
        let client = stage.spawn();
        client.sends(
            format!("POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes(),
        );
        client.sends(&vec![b'x'; LENGTH]);
        sleep(1_000).await;
        let read = LENGTH - client.unread();
        assert!((1..256 * 1024).contains(&read), "{read} bytes wait for the upstream");
        upstream.awaits(b"\r\n\r\n").sends(KNOWN);
        upstream.drains();
        sleep(1_000).await;
        assert_eq!(statuses(&client.written()), [200]);
        // The client is.
        let upstream = stage.upstream();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        upstream.awaits(b"\r\n\r\n").sends(head.as_bytes()).sends(&vec![b'y'; LENGTH]);
        let client = stage.spawn();
        client.sends(GET).is_full();
        sleep(1_000).await;
        let read = LENGTH - upstream.unread();
        assert!((1..256 * 1024).contains(&read), "{read} bytes wait for the client");
        client.drains();
        sleep(1_000).await;
        let got = answers(&client.written());
        assert!(got[0].is_whole && got[0].body.len() == LENGTH && !upstream.is_closed());
        // A client that takes nothing for long enough is left, and the upstream with it.
        let upstream = stage.upstream();
        upstream.awaits(b"\r\n\r\n").sends(head.as_bytes()).sends(&vec![b'z'; LENGTH]);
        let client = stage.spawn();
        client.sends(GET).is_full();
        sleep(59_000).await;
        assert!(!client.is_closed());
        sleep(3_000).await;
        assert!(client.is_closed() && upstream.is_closed());
    });
}

#[test]
fn many_small_chunks_leave_the_others_their_turns() {
    const CHUNKS: usize = 100_000;
    run(PROXY, async |stage: Stage| {
        let upstream = stage.upstream();
        upstream.awaits(b"\r\n\r\n").sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        upstream.sends(&b"1\r\nx\r\n".repeat(CHUNKS)).sends(b"0\r\n\r\n");
        let client = stage.spawn();
        client.sends(GET);
        let (turns, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (counted, is_over) = (Rc::clone(&turns), Rc::clone(&ended));
        spawn(async move {
            while !is_over.get() {
                counted.set(counted.get() + 1);
                yield_now().await;
            }
        });
        while !client.written().ends_with(b"0\r\n\r\n") {
            yield_now().await;
        }
        ended.set(true);
        assert_eq!(answers(&client.written())[0].body.len(), CHUNKS);
        assert!(turns.get() >= CHUNKS * 6 / 128 / 1024, "only {} turns of another task", turns.get());
        assert!(turns.get() > 3, "only {} turns of another task", turns.get());
    });
}

#[test]
fn silence_of_an_upstream_ends_with_its_timeout() {
    const SLOW: &str = "upstream u { server 127.0.0.1:1; keepalive 4; } server { listen 127.0.0.1:1; \
        location / { proxy_pass http://u; proxy_read_timeout 7s; proxy_send_timeout 9s; proxy_next_upstream off; \
        client_body_buffer_size 1m; } location /total { proxy_pass http://u; proxy_timeout_total 5s; } }";
    run(SLOW, async |stage: Stage| {
        for (sent, after_ms, status) in [(0, 7_000, 504), (10, 7_000, 504), (KNOWN.len() - 4, 7_000, 200)] {
            let upstream = stage.upstream();
            upstream.awaits(b"\r\n\r\n").sends(&KNOWN[..sent]);
            let client = stage.spawn();
            client.sends(GET);
            sleep(after_ms - 500).await;
            assert!(!upstream.is_closed(), "{sent} bytes");
            sleep(1_000).await;
            let got = answers(&client.written());
            assert!(upstream.is_closed() && got[0].status == status, "{sent} bytes: {got:?}");
            assert_eq!(got[0].is_whole, status == 504, "{sent} bytes");
        }
        let upstream = stage.upstream();
        upstream.takes(20).is_full();
        let client = stage.spawn();
        client.sends(GET);
        sleep(8_500).await;
        assert!(!upstream.is_closed());
        sleep(1_000).await;
        assert!(upstream.is_closed() && statuses(&client.written()) == [504]);
        // An answer that drips for longer than all of it may take.
        let upstream = stage.upstream();
        let client = stage.spawn();
        client.sends(b"GET /total HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.awaits(b"\r\n\r\n").sends(KNOWN.strip_suffix(b"hello world").unwrap());
        for _ in 0..11 {
            upstream.sends(b"x");
            sleep(1_000).await;
        }
        let got = answers(&client.written());
        assert!(upstream.is_closed() && client.is_closed() && !got[0].is_whole, "{got:?}");
        assert!((4..=6).contains(&got[0].body.len()), "{got:?}");
    });
}

#[test]
fn a_pass_may_end_at_each_of_its_waits() {
    const POST: &[u8] = b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n2;x\r\nde\r\n0\r\nX: y\r\n\r\n";
    run(PROXY, async |stage: Stage| {
        for answer in [KNOWN, CHUNKED] {
            let begin = async || {
                // Whatever the last one has left: a connection is used for one request here.
                let upstream = stage.upstream();
                upstream.awaits(b"\r\n0\r\n\r\n").drips(answer).sips(200);
                let (transport, client) = play();
                client.drips(POST).sips(200);
                let serving: std::pin::Pin<Box<dyn Future<Output = ()>>> =
                    Box::pin(serve(stage.accept(transport)));
                (serving, (client, upstream))
            };
            let check = |(client, upstream): (Script, Script)| {
                assert!(client.is_closed());
                let sent = upstream.written();
                if !upstream.is_closed() && !sent.is_empty() {
                    assert!(sent.ends_with(b"\r\n0\r\n\r\n"), "kept with half a request");
                    assert_eq!(upstream.unread(), 0, "kept with half an answer");
                }
                let got = answers(&client.written());
                let is_whole = got.first().is_some_and(|answer| answer.is_whole);
                assert!(!is_whole || got[0].body == b"hello world", "{got:?}");
                upstream.ends(); // so that the next one takes another
            };
            let waits = dropped_at_every_wait(begin, check).await;
            assert!(waits > 100, "{waits}");
        }
        sleep(100_000).await;
        assert_eq!(registration_count(), 0);
    });
}

#[test]
fn another_peer_answers_where_nothing_of_an_answer_has_come() {
    const TWO: &str = "upstream u { server 127.0.0.1:1; server 127.0.0.1:2; keepalive 4; } server { listen \
        127.0.0.1:1; location / { proxy_pass http://u; proxy_next_upstream error timeout http_503 non_idempotent; } \
        location /once { proxy_pass http://u; } }";
    let busy: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    run(TWO, async move |stage: Stage| {
        for (answer, ends_at) in [(busy, busy.len()), (KNOWN, 38)] {
            for cut in 1..=ends_at {
                if answer == busy && (39..busy.len()).contains(&cut) {
                    continue; // its head is whole, and with it the reason to go on
                }
                let (first, second) = (stage.upstream_at(0), stage.upstream_at(1));
                first.awaits(b"body").sends(&answer[..cut]).pauses().ends();
                second.awaits(b"body").sends(KNOWN);
                let written = stage.serve(|client| {
                    client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
                });
                let got = answers(&written.await);
                assert_eq!((got.len(), got[0].status, &*got[0].body), (1, 200, &b"hello world"[..]), "{cut}");
                let bodies = [first.written(), second.written()];
                assert!(bodies.iter().any(|sent| sent.ends_with(b"\r\n\r\nbody")), "{cut}");
                first.ends();
                second.ends();
                sleep(20_000).await; // `fail_timeout`
            }
        }
    });
}
