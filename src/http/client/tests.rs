//! Responses on their way through filters, subrequests and paces, to clients that take them byte by byte.

use crate::http::h1::serve;
use crate::http::tests::stage::{Stage, answers, dropped_at_every_wait, run};
use crate::net::transport::script::{Script, play};
use crate::runtime::{self, registration_count, sleep};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The bytes that a client receives for a GET of `path` when the upstream's response comes in two pieces.
async fn got(stage: &Stage, path: &str, answer: &[u8], cut: usize, sips: usize) -> Vec<u8> {
    let upstream = stage.upstream();
    upstream.awaits(b"\r\n\r\n").sends_cut(answer, cut);
    let client = stage.spawn();
    client.sends(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).sips(sips);
    sleep(1_000).await;
    let answers = answers(&client.written());
    assert!(
        answers.len() == 1 && answers[0].is_whole && answers[0].status == 200,
        "{path}, {cut}: {answers:?}"
    );
    client.ends();
    upstream.ends();
    sleep(1).await;
    assert!(client.is_closed() && upstream.is_closed());
    answers[0].body.clone()
}

#[test]
fn filters_change_a_body_alike_however_it_comes_and_is_taken() {
    const FILTERS: &str = "upstream u { server 127.0.0.1:1; keepalive 4; } server { listen 127.0.0.1:1; \
        location / { proxy_pass http://u; sub_filter needle pin; sub_filter_once off; sub_filter_types *; } \
        location /around { proxy_pass http://u; addition_types *; add_before_body /before; add_after_body /after; } \
        location /both { proxy_pass http://u; addition_types *; add_after_body /after; sub_filter e EE; \
        sub_filter_once off; sub_filter_types *; } \
        location /ssi { proxy_pass http://u; ssi on; ssi_types *; } \
        location = /before { return 200 <; } location = /after { return 200 >; } }";
    let known = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked = |body: &str| {
        let chunks: String = body.bytes().map(|byte| format!("1\r\n{}\r\n", byte as char)).collect();
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    let cases = [
        ("/", "a needle, needneedle, need", "a pin, needpin, need"),
        ("/around", "body", "<body>"),
        ("/both", "ends here", "EEnds hEErEE>"),
        ("/ssi", "1<!--#include virtual=\"/before\" -->2<!--#echo var=\"none\" default=\"d\" -->3", "1<2d3"),
    ];
    run(FILTERS, async move |stage: Stage| {
        for (path, body, expected) in cases {
            for (answer, sips) in
                [(known(body), 0), (known(body), 500), (chunked(body), 0), (chunked(body), 500)]
            {
                let step = if sips > 0 || answer.len() > 200 { 7 } else { 1 };
                for cut in (1..answer.len()).step_by(step) {
                    let body = got(&stage, path, answer.as_bytes(), cut, sips).await;
                    assert_eq!(String::from_utf8_lossy(&body), expected, "{path}, cut at {cut}");
                }
            }
        }
    });
}

#[test]
fn subrequests_to_upstreams_stand_in_their_order() {
    const PAGE: &str = "upstream u { server 127.0.0.1:1; keepalive 8; } server { listen 127.0.0.1:1; \
        location = / { ssi on; ssi_types *; default_type text/html; \
        return 200 '[<!--#include virtual=\"/u/1\" -->|<!--#include virtual=\"/own\" -->|<!--#include virtual=\"/u/2\" -->]'; } \
        location /u/ { proxy_pass http://u; } location = /own { return 200 own; } }";
    const ANSWERS: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
    ];
    run(PAGE, async |stage: Stage| {
        let begin = async || {
            let upstreams = [stage.upstream(), stage.upstream()];
            for (upstream, pauses) in upstreams.iter().zip([0, 30]) {
                for answer in ANSWERS {
                    upstream.awaits(b"\r\n\r\n");
                    for _ in 0..pauses {
                        upstream.pauses();
                    }
                    upstream.drips(answer);
                }
            }
            let (transport, client) = play();
            client.sends(GET).sips(400).awaits(b"]").ends();
            let serving: std::pin::Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(serve(stage.accept(transport)));
            (serving, (client, upstreams))
        };
        let waits = dropped_at_every_wait(begin, |(client, upstreams): (Script, [Script; 2])| {
            assert!(client.is_closed());
            for upstream in &upstreams {
                upstream.ends();
            }
            let got = answers(&client.written());
            if got.first().is_some_and(|answer| answer.is_whole) {
                let body = String::from_utf8_lossy(&got[0].body).into_owned();
                // Each connection answers its first request with "one", whichever that is.
                assert!(body.starts_with('[') && body.ends_with(']') && body.contains("|own|"), "{body}");
                assert_eq!(body.matches("one").count() + body.matches("two").count(), 2, "{body}");
            }
        });
        assert!(waits.await > 50);
        sleep(100_000).await;
        assert_eq!(registration_count(), 0);
    });
}

#[test]
fn a_pace_is_kept_over_the_whole_answer_and_ends_with_its_client() {
    const PACED: &str = "upstream u { server 127.0.0.1:1; keepalive 4; } server { listen 127.0.0.1:1; \
        location / { proxy_pass http://u; limit_rate 1000; } \
        location /late { proxy_pass http://u; limit_rate 1000; limit_rate_after 4000; } \
        location /up { proxy_pass http://u; proxy_limit_rate 1000; } }";
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n".as_slice(), &[b'x'; 10_000]].concat();
    run(PACED, async move |stage: Stage| {
        for (path, seconds) in [("/", 8..=10), ("/late", 4..=6), ("/up", 8..=10)] {
            let upstream = stage.upstream();
            upstream.awaits(b"\r\n\r\n").sends_cut(&answer, 50);
            let client = stage.spawn();
            client.sends(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            let began_ms = runtime::now_ms();
            let mut before = 0;
            while !answers(&client.written()).first().is_some_and(|answer| answer.is_whole) {
                sleep(100).await;
                let sent = client.written().len();
                assert!(path != "/" || sent - before <= 2_200, "{path}: {} bytes at once", sent - before);
                before = sent;
                assert!(runtime::now_ms() - began_ms < 60_000, "{path}");
            }
            let took = (runtime::now_ms() - began_ms) / 1000;
            assert!(seconds.contains(&took), "{path}: {took} s");
            assert!(!upstream.is_closed());
            client.ends();
            sleep(1).await;
            upstream.ends();
            sleep(1).await;
            // One that leaves is not waited for.
            let upstream = stage.upstream();
            upstream.awaits(b"\r\n\r\n").sends_cut(&answer, 50);
            let client = stage.spawn();
            client.sends(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            sleep(2_000).await;
            client.resets();
            sleep(1_500).await;
            assert!(client.is_closed(), "{path}");
        }
    });
}

#[test]
fn no_body_follows_where_none_may() {
    const BODILESS: &str = "server { listen 127.0.0.1:1; location / { return 200 body; } \
        location /204 { return 204; } location /304 { return 304; } location /404 { return 404; } \
        location /301 { return 301 /x; } }";
    run(BODILESS, async |stage: Stage| {
        for (request, has_length) in [
            ("HEAD /", true),
            ("HEAD /404", true),
            ("HEAD /301", true),
            ("GET /204", false),
            ("GET /304", false),
            ("HEAD /204", false),
        ] {
            let next = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let bytes = format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n{next}");
            let written = stage.serve(|client| client.sends(bytes.as_bytes()).sips(300)).await;
            let text = String::from_utf8(written).unwrap();
            let (head, rest) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nbody"),
                "{request}: {text}"
            );
            assert_eq!(head.contains("Content-Length: "), has_length, "{request}: {head}");
            assert!(!head.contains("Transfer-Encoding"), "{request}: {head}");
        }
    });
}

#[test]
fn a_long_document_leaves_in_steps_between_which_others_are_served() {
    const BYTES: usize = 1 << 20;
    let long = "x".repeat(BYTES);
    let directives = format!(
        "server {{ listen 127.0.0.1:1; location / {{ return 200 {long}; }} location /short {{ return 200 short; }} }}"
    );
    run(directives.leak(), async |stage: Stage| {
        let (long, short) = (stage.spawn(), stage.spawn());
        long.sends(GET);
        short.sends(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n");
        while short.written().is_empty() {
            runtime::yield_now().await;
        }
        assert!(
            (1..BYTES).contains(&long.written().len()),
            "the short response waits for a part of the other"
        );
        sleep(1).await;
        let answers = answers(&long.written());
        assert!(answers.len() == 1 && answers[0].is_whole && answers[0].body.len() == BYTES);
    });
}
