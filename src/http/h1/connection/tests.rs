//! Whole connections in memory: heads and bodies cut at every byte, clients that stop, leave or send what they must not,
//! and connections that end at any of their waits.

use super::*;
use crate::http::tests::stage::{Stage, answers, dropped_at_every_wait, run, statuses};
use crate::net::handover::TlsState;
use crate::net::transport::script::{Script, play};
use crate::runtime::{registration_count, spawn};

fn size_of_output<A, F>(_: fn(A) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn idle_connection_fits_its_budget() {
    // All that a worker keeps for a connection between two requests, besides 40 bytes in the runtime's tables.
    let size = size_of_output(serve);
    assert!(size <= 320, "{size} bytes");
}

const SERVER: &str =
    "server { listen 127.0.0.1:1; server_name a; location / { return 200 \"$request_method $uri\"; }
    location /body { client_max_body_size 8; return 200 ok; } location /hang { return 444; } max_headers 150; }
    server { listen 127.0.0.1:1; server_name b; return 200 \"b $args\"; }";

#[test]
fn requests_are_answered_alike_however_they_come_and_answers_are_taken() {
    const REQUESTS: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX-T: 1\r\n\r\n\
        PUT /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyHEAD /4 HTTP/1.1\r\nHost: A:80\r\n\r\n\
        GET http://b/5?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    run(SERVER, async |stage: Stage| {
        let ask = async |plays: fn(&Script, usize) -> &Script, cut: usize| {
            let written = stage.serve(|client| plays(client, cut)).await;
            let lines = String::from_utf8(written).unwrap();
            lines.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect::<String>()
        };
        let whole = ask(|client, _| client.sends(REQUESTS), 0).await;
        let bodies: Vec<&str> = whole.split("\r\n\r\n").skip(1).collect();
        for (body, expected) in bodies.iter().zip(["GET /1", "POST /2", "PUT /3", "HTTP/1.1 200", "b q"]) {
            assert!(body.starts_with(expected), "{body}");
        }
        assert!(bodies.len() == 5 && whole.ends_with("\r\n\r\nb q") && whole.contains("Connection: close"));
        for cut in 1..REQUESTS.len() {
            assert_eq!(ask(|client, cut| client.sends_cut(REQUESTS, cut), cut).await, whole, "{cut}");
        }
        assert_eq!(ask(|client, _| client.drips(REQUESTS).sips(2000), 0).await, whole, "byte by byte");
    });
}

#[test]
fn a_client_that_leaves_gets_no_answer_to_what_it_did_not_finish() {
    const WHOLE: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    const NEXT: &[u8] = b"POST /2 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    run(SERVER, async |stage: Stage| {
        for cut in 0..NEXT.len() {
            for leaves in [Script::ends as fn(&Script) -> &Script, Script::resets] {
                let begun = &NEXT[..cut];
                let written = stage.serve(|client| leaves(client.sends(WHOLE).pauses().sends(begun))).await;
                assert_eq!(statuses(&written), [200], "{cut} bytes of the second request");
                let written = stage.serve(|client| leaves(client.sends(begun).pauses())).await;
                assert_eq!(written, b"", "{cut} bytes of the first one");
            }
        }
        // It may have closed only its sending side.
        assert_eq!(statuses(&stage.serve(|client| client.sends(NEXT).ends()).await), [200]);
    });
}

#[test]
fn what_is_no_request_is_refused_at_every_cut_and_ends_the_connection() {
    let many = "X: y\r\n".repeat(200);
    let cases: &[(&str, u16)] = &[
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 413),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("\x16\x03\x01\x02\x00\x01", 400),
    ];
    let mut cases: Vec<(String, u16)> =
        cases.iter().map(|(text, status)| ((*text).into(), *status)).collect();
    cases.push((format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 400));
    cases.push((format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000)), 414));
    run(SERVER, async move |stage: Stage| {
        for (text, status) in &cases {
            let bytes = text.as_bytes();
            let step = 1 + bytes.len() / 100;
            for cut in (1..bytes.len()).step_by(step) {
                let next = b"GET / HTTP/1.1\r\n";
                let written = stage.serve(|client| client.sends_cut(bytes, cut).pauses().sends(next)).await;
                let answers = answers(&written);
                let text = &text[..text.len().min(60)];
                assert_eq!(answers.len(), 1, "{text:?} cut at {cut}: {answers:?}");
                assert_eq!(answers[0].status, *status, "{text:?} cut at {cut}");
                assert!(answers[0].is_whole && answers[0].head.contains("Connection: close"), "{text:?}");
            }
        }
        assert_eq!(stage.serve(|client| client.sends(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")).await, b"");
    });
}

#[test]
fn a_body_that_is_framed_wrongly_is_refused_wherever_it_is_cut() {
    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    run(SERVER, async |stage: Stage| {
        for chunks in
            ["x\r\n", "3\r\nabcd\r\n", "ffffffffffffffff1\r\n", "-1\r\n", "0\r\nbad trailer\r\n\r\n", "1\nx"]
        {
            let request =
                [HEAD.as_bytes(), chunks.as_bytes(), b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let seen = statuses(&stage.serve(|client| client.sends(&request)).await);
            assert_eq!(seen, [400], "{chunks:?}");
            // The response may be sent before the fault is noticed; nothing after the fault is a request.
            for cut in 1..request.len() {
                let seen = statuses(&stage.serve(|client| client.sends_cut(&request, cut)).await);
                assert!(seen == [400] || seen == [200], "{chunks:?} cut at {cut}: {seen:?}");
            }
        }
    });
}

/// The bytes that a well-behaved client gets, and after how many milliseconds its connection is closed.
async fn timed(stage: &Stage, plays: impl FnOnce(&Script) -> &Script) -> (Vec<u16>, u64) {
    let began_ms = runtime::now_ms();
    let written = stage.serve(plays).await;
    (statuses(&written), runtime::now_ms() - began_ms)
}

fn is_about(ms: u64, expected: u64) -> bool {
    (expected..expected + 1000).contains(&ms)
}

#[test]
fn silence_ends_with_the_timeout_that_is_meant_for_it() {
    const SLOW: &str = "server { listen 127.0.0.1:1; client_header_timeout 7s; keepalive_timeout 11s; \
        client_body_timeout 13s; send_timeout 17s; location / { return 200 ok; } \
        location /long { return 200 $http_x; } }";
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    run(SLOW, async |stage: Stage| {
        let (seen, ms) = timed(&stage, |client| client).await;
        assert!(seen.is_empty() && is_about(ms, 7_000), "no byte: {seen:?} after {ms} ms");
        for cut in 1..GET.len() {
            let (seen, ms) = timed(&stage, |client| client.sends(&GET[..cut])).await;
            assert!(seen == [408] && is_about(ms, 7_000), "{cut} bytes: {seen:?} after {ms} ms");
        }
        let (seen, ms) = timed(&stage, |client| client.sends(GET)).await;
        assert!(seen == [200] && is_about(ms, 11_000), "kept: {seen:?} after {ms} ms");
        let begun = [GET, b"GET"].concat();
        let (seen, ms) = timed(&stage, |client| client.sends(&begun)).await;
        assert!(seen == [200, 408] && is_about(ms, 7_000), "second head: {seen:?} after {ms} ms");
        // A response that is not read.
        let (transport, client) = play();
        client.sends(GET).is_full();
        let began_ms = runtime::now_ms();
        serve(stage.accept(transport)).await;
        assert!(client.written().is_empty() && is_about(runtime::now_ms() - began_ms, 17_000));
    });
}

#[test]
fn a_head_that_drips_has_no_more_time_than_one_that_stops() {
    const SLOW: &str = "server { listen 127.0.0.1:1; client_header_timeout 7s; return 200 ok; }";
    run(SLOW, async |stage: Stage| {
        let client = stage.spawn();
        let sending = client.clone();
        let began_ms = runtime::now_ms();
        for _ in 0..100 {
            if client.is_closed() {
                break;
            }
            sending.sends(b"G");
            sleep(1000).await;
        }
        let ms = runtime::now_ms() - began_ms;
        assert!((7_000..=8_010).contains(&ms) && statuses(&client.written()) == [408], "{ms}");
    });
}

#[test]
fn a_client_is_read_to_its_end_so_that_no_reset_overtakes_the_answer() {
    const LINGERS: &str = "server { listen 127.0.0.1:1; client_max_body_size 4; lingering_time 9s; lingering_timeout 3s; \
        location / { return 200 ok; } location /never { lingering_close off; return 200 ok; } }";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    run(LINGERS, async |stage: Stage| {
        let client = stage.spawn();
        client.sends(POST.as_bytes()).sends(&[b'x'; 50_000]).pauses().sends(&[b'x'; 50_000]).pauses().ends();
        sleep(100).await;
        assert!(client.is_closed() && client.unread() == 0 && client.is_shut());
        assert_eq!(statuses(&client.written()), [413]);
        // A client that never stops sending is dropped after a while, and so is a silent one.
        let client = stage.spawn();
        client.sends(POST.as_bytes());
        let began_ms = runtime::now_ms();
        while !client.is_closed() {
            client.sends(b"more");
            sleep(100).await;
        }
        assert!(is_about(runtime::now_ms() - began_ms, 9_000));
        let (seen, ms) = timed(&stage, |client| client.sends(POST.as_bytes())).await;
        assert!(seen == [413] && is_about(ms, 3_000), "{ms}");
        let (seen, ms) = timed(&stage, |client| client.sends(POST.replace("/ ", "/never ").as_bytes())).await;
        assert!(seen == [413] && is_about(ms, 0), "{ms}");
    });
}

#[test]
fn connections_end_after_their_number_of_requests_and_their_age() {
    const BOUNDED: &str =
        "server { listen 127.0.0.1:1; keepalive_requests 3; keepalive_time 1m; return 200 ok; }";
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    run(BOUNDED, async |stage: Stage| {
        let seen = stage.serve(|client| client.sends(&GET.repeat(5))).await;
        let heads: Vec<bool> =
            answers(&seen).iter().map(|each| each.head.contains("Connection: close")).collect();
        assert_eq!(heads, [false, false, true]);
        let client = stage.spawn();
        client.sends(GET);
        sleep(59_000).await;
        assert!(!client.is_closed());
        sleep(2_000).await;
        client.sends(GET);
        sleep(10).await;
        assert!(client.is_closed() && statuses(&client.written()) == [200, 200]);
        for (version, wish, stays) in [("1.0", "", false), ("1.0", "Connection: keep-alive\r\n", true)] {
            let client = stage.spawn();
            client.sends(format!("GET / HTTP/{version}\r\nHost: a\r\n{wish}\r\n").as_bytes());
            sleep(10).await;
            assert_eq!(client.is_closed(), !stays, "{version} {wish}");
        }
    });
}

#[test]
fn a_worker_that_leaves_ends_idle_connections_and_finishes_requests() {
    const DELAYED: &str = "limit_req_zone $uri zone=z:32k rate=1r/s; server { listen 127.0.0.1:1; \
        location / { return 200 ok; } }";
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    run(DELAYED, async |stage: Stage| {
        let (new, idle, reading) = (stage.spawn(), stage.spawn(), stage.spawn());
        idle.sends(GET);
        reading.sends(&GET[..10]);
        sleep(5).await;
        drain::begin(drain::Mode::HandOver);
        sleep(5).await;
        // A connection that plays a script has no descriptor to give away.
        assert!(idle.is_closed() && !new.is_closed() && !reading.is_closed());
        new.sends(GET);
        sleep(5).await;
        assert_eq!(statuses(&new.written()), [200], "it has spoken before it was told to go");
        drain::begin(drain::Mode::Close);
        sleep(5).await;
        assert!(new.is_closed() && !reading.is_closed());
        reading.sends(&GET[10..]);
        sleep(5).await;
        let last = answers(&reading.written());
        assert!(reading.is_closed() && last[0].head.contains("Connection: close"), "{last:?}");
        drain::begin(drain::Mode::Now);
    });
}

#[test]
fn an_idle_connection_goes_to_another_worker_with_its_time() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    const KEPT: &str = "server { listen 127.0.0.1:1; keepalive_timeout 20s; return 200 ok; }";
    run(KEPT, async |stage: Stage| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let io = runtime::Io::register(ours.into()).unwrap();
        spawn(serve(stage.accept(io.into())));
        theirs.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        sleep(1).await;
        sleep(8_000).await;
        drain::begin(drain::Mode::HandOver);
        sleep(1).await;
        let given = stage.handed_over.borrow().clone();
        assert_eq!((given.len(), given[0].requests, given[0].listen), (1, 1, 0));
        assert!((11_000..=12_000).contains(&given[0].idle_ms_left), "{given:?}");
        assert!((8_000..9_000).contains(&given[0].opened_ms_ago), "{given:?}");
        assert_eq!(registration_count(), 0);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
    });
}

#[test]
fn what_another_worker_says_of_a_connection_is_bounded() {
    const KEPT: &str =
        "keepalive_timeout 90s; server { listen 127.0.0.1:1; keepalive_requests 5; return 200 ok; }";
    let said = |requests, idle_ms_left, opened_ms_ago, proxy: &[u8]| Handover {
        listen: 0,
        requests,
        idle_ms_left,
        opened_ms_ago,
        number: u64::MAX,
        proxy: proxy.into(),
        tls: TlsState::default(),
    };
    run(KEPT, async move |stage: Stage| {
        for (handover, stays_ms) in [
            (said(1, 3_000, 0, b""), 3_000),
            (said(0, 0, u64::MAX, b""), 0),
            (said(u64::MAX, u64::MAX, u64::MAX, b""), 90_000),
        ] {
            let (transport, client) = play();
            let began_ms = runtime::now_ms();
            serve(stage.accept(transport).adopted(&handover).unwrap()).await;
            let ms = runtime::now_ms() - began_ms;
            assert!(is_about(ms, stays_ms) && client.written().is_empty(), "{handover:?}: {ms}");
            let (transport, client) = play();
            client.sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            serve(stage.accept(transport).adopted(&handover).unwrap()).await;
            assert_eq!(statuses(&client.written()), [200], "{handover:?}");
        }
        for broken in [&b"PROXY"[..], b"PROXY TCP4 1.2.3.4\r\n", b"\r\n\r\n\0\r\nQUIT\n", &[0xff; 100]] {
            let (transport, client) = play();
            assert!(stage.accept(transport).adopted(&said(1, 1, 1, broken)).is_none());
            assert!(client.is_closed());
        }
    });
}

#[test]
fn the_proxy_header_comes_first_however_it_is_cut() {
    const PROXIED: &str = "server { listen 127.0.0.1:1 proxy_protocol; client_header_timeout 5s; \
        return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }";
    const HEADER: &[u8] = b"PROXY TCP4 1.2.3.4 5.6.7.8 99 80\r\n";
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    run(PROXIED, async |stage: Stage| {
        let bytes = [HEADER, GET, GET].concat();
        for cut in 1..bytes.len() {
            let written = stage.serve(|client| client.sends_cut(&bytes, cut)).await;
            let answers = answers(&written);
            assert_eq!(answers.len(), 2, "cut at {cut}");
            assert!(answers.iter().all(|answer| answer.body == b"1.2.3.4 99"), "cut at {cut}: {answers:?}");
        }
        for cut in 0..HEADER.len() {
            let (seen, ms) = timed(&stage, |client| client.sends(&HEADER[..cut])).await;
            assert!(seen.is_empty() && is_about(ms, 5_000), "{cut} bytes of it: {seen:?} after {ms} ms");
        }
        for wrong in [GET, b"PROXY TCP9 1.2.3.4 5.6.7.8 9 8\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 9 80000\r\n"] {
            assert_eq!(stage.serve(|client| client.sends(wrong).sends(GET)).await, b"");
        }
    });
}

#[test]
fn a_connection_may_end_at_each_of_its_waits() {
    const REQUESTS: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\n\
        Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nBAD\r\n\r\n";
    run(SERVER, async |stage: Stage| {
        let begin = async || {
            let (transport, client) = play();
            client.drips(REQUESTS).sips(300);
            let serving: std::pin::Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(serve(stage.accept(transport)));
            (serving, client)
        };
        let waits = dropped_at_every_wait(begin, |client: Script| {
            assert!(client.is_closed());
            let seen = statuses(&client.written());
            assert!([200, 200, 400].starts_with(&seen) || seen.last() == Some(&0), "{seen:?}");
        });
        assert!(waits.await > REQUESTS.len(), "it waits for each byte");
        assert_eq!(registration_count(), 0);
    });
}

const PROXY: &str = "upstream u { server 127.0.0.1:1; keepalive 8; } server { listen 127.0.0.1:1; \
    location / { proxy_pass http://u; } location /own { return 200 ok; } \
    location /missing { return 404; } }";

#[test]
fn a_client_is_told_to_go_on_only_where_its_body_is_wanted() {
    let head = |path| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    };
    run(PROXY, async move |stage: Stage| {
        let bytes = head("/").into_bytes();
        for cut in 1..bytes.len() {
            let upstream = stage.upstream();
            upstream.awaits(b"\r\n\r\nbody").sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            let written = stage.serve(|client| {
                client.sends_cut(&bytes, cut).awaits(b" 100 Continue\r\n\r\n").sends(b"body")
            });
            assert_eq!(statuses(&written.await), [100, 200], "cut at {cut}");
            assert!(upstream.written().ends_with(b"\r\n\r\nbody") && !upstream.written().is_empty());
        }
        let written = stage.serve(|client| client.sends(head("/own").as_bytes()));
        assert_eq!(statuses(&written.await), [100, 200], "the answer does not need it");
        let written = stage.serve(|client| client.sends(head("/missing").as_bytes()));
        assert_eq!(statuses(&written.await), [404], "nothing may follow an answer");
        let late = stage.serve(|client| {
            let (first, next) = (head("/missing"), "GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
            client.sends(first.as_bytes()).awaits(b"</html>").sends(b"body").sends(next.as_bytes())
        });
        assert_eq!(statuses(&late.await), [404, 200], "a body that comes all the same is read");
    });
}

#[test]
fn a_tunnel_carries_what_came_early_and_ends_with_both_directions() {
    const UPGRADES: &str = "upstream u { server 127.0.0.1:1; keepalive 8; } server { listen 127.0.0.1:1; \
        location / { proxy_pass http://u; proxy_set_header Upgrade $http_upgrade; \
        proxy_set_header Connection upgrade; proxy_read_timeout 40s; } }";
    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    run(UPGRADES, async |stage: Stage| {
        let asked = [UPGRADE, b"early question"].concat();
        let answered = [SWITCHED, b"early answer"].concat();
        for cut in 1..asked.len().max(answered.len()) {
            let (upstream, client) = (stage.upstream(), stage.spawn());
            upstream.awaits(b"\r\n\r\n").sends_cut(&answered, cut.min(answered.len()));
            upstream.awaits(b"later").sends(b", later").pauses().ends().sips(cut);
            client.sends_cut(&asked, cut.min(asked.len())).awaits(b"early answer").sends(b", later").ends();
            sleep(100).await;
            assert!(client.is_closed() && upstream.is_closed(), "cut at {cut}");
            let (got, sent) = (client.written(), upstream.written());
            assert!(
                got.starts_with(b"HTTP/1.1 101 ") && got.ends_with(b"\r\n\r\nearly answer, later"),
                "{cut}"
            );
            assert!(sent.ends_with(b"\r\n\r\nearly question, later") && upstream.is_shut(), "cut at {cut}");
        }
        // A silent client runs into its timeout; one that closes its side is dropped at once.
        let begin = async || {
            let (upstream, client) = (stage.upstream(), stage.spawn());
            upstream.awaits(b"\r\n\r\n").sends(SWITCHED);
            client.sends(UPGRADE);
            sleep(1_000).await;
            assert!(!client.is_closed() && !upstream.is_closed());
            (upstream, client)
        };
        let (upstream, client) = begin().await;
        sleep(38_000).await;
        assert!(!client.is_closed());
        sleep(3_000).await;
        assert!(client.is_closed() && upstream.is_closed());
        let (upstream, client) = begin().await;
        upstream.resets();
        sleep(1).await;
        assert!(client.is_closed() && upstream.is_closed());
        let (upstream, client) = begin().await;
        drain::begin(drain::Mode::Close);
        sleep(1_000).await;
        assert!(!client.is_closed(), "a tunnel is a request under way");
        drain::begin(drain::Mode::Now);
        sleep(1).await;
        assert!(client.is_closed() && upstream.is_closed());
    });
}
