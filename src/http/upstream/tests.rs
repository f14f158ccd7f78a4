//! Whole passes in memory: the bytes that an upstream and a client get while both connections play a script.

use super::*;
use crate::config::{LoadOptions, load_text};
use crate::http::downstream::Downstream;
use crate::http::h1 as http1;
use crate::http::pipeline;
use crate::http::property;
use crate::http::request::body::{self, Body, Reader};
use crate::http::upstream::carrier::Carrier;
use crate::http::{CompileOptions, Worker, compile};
use crate::log::Logger;
use crate::net::Transport;
use crate::net::open::Place;
use crate::net::transport::script::{Script, play};
use crate::proto::h1::chunked;
use crate::proto::message::BodyLength;
use crate::runtime::{Runtime, race, sleep};
use crate::upstream::pool::{Connection, Tag};

/// A server that passes everything on, with these directives. Never freed, like a worker's configuration.
pub(super) fn config(directives: &str) -> &'static Worker {
    let text = format!(
        "http {{ access_log off; error_log stderr emerg; server {{ listen 127.0.0.1:1; location / {{ \
         proxy_pass http://127.0.0.1:1; {directives} }} }} }}"
    );
    let (tree, mut out) = load_text("pass.conf", &text, &LoadOptions::default());
    let options = CompileOptions {
        prefix: std::env::temp_dir(),
        folder: std::env::temp_dir(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: true,
    };
    let config = compile(&tree.nodes[0], &options, &mut out);
    assert!(!out.has_errors(), "{:?}", out.0);
    Box::leak(Box::new(Worker::new(Box::leak(Box::new(config)))))
}

/// `start`: method and target, and after a line end further fields.
fn request(worker: &'static Worker, start: &str, declared: BodyLength) -> Box<Request> {
    let (start, fields) = start.split_once('\n').unwrap_or((start, "X-Client: 1"));
    let text = format!("{start} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let limits = body::Limits { max: 0, timeout_ms: 60_000, buffer_size: 1024, min_rate: None };
    let reader = Reader::H1(http1::Reader::new(declared, b"", false, limits.buffer_size));
    property::read(worker, &text, Body::new(declared, reader, limits)).expect("a valid head")
}

impl Pass<'_, '_> {
    /// One turn over a connection that a test has made, up to the end of the response.
    async fn over(&mut self, transport: Transport) -> Result<(), String> {
        let peer = self.session.pick(runtime::now_ms()).unwrap();
        self.request.upstream.begin(Some(peer.clone()), &self.goal.group);
        let connection = Box::new(Connection {
            transport,
            place: Place::new(),
            peer,
            tag: Tag::default(),
            terms: None,
            requests: 1,
            opened_ms: runtime::now_ms(),
            timer: Timer::new(),
            is_single: false,
            reused: false,
            client: None,
        });
        let carrier = Carrier::Own { connection, decoder: self.outgoing.decoder() };
        let mut answer = self.run(carrier).await.map_err(|stop| match stop {
            Stop::Request(error) => error.to_string(),
            Stop::Peer(failure) => failure.to_string(),
        })?;
        match self.start(&mut answer).map_err(|error| error.to_string())? {
            Step::Body => self.relay(answer).await.map_err(|error| error.to_string()),
            Step::Tunnel(response) => {
                self.begin_tunnel(*response, answer).await.map_err(|error| error.to_string())
            }
            Step::Reply(reply) => Err(format!("{reply:?}")),
        }
    }
}

/// The outcome of a pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub outcome: Result<(), String>,
    /// The bytes that the upstream got.
    pub sent: Vec<u8>,
    /// The head that the client got, without its date, and the unframed body.
    pub head: String,
    pub body: Vec<u8>,
    /// The upstream's connection is kept for another request.
    pub is_kept: bool,
}

/// Passes a request on, while both sides do what `plays` scripts for the client and the upstream.
pub(super) async fn pass(
    worker: &'static Worker,
    start: &str,
    declared: BodyLength,
    plays: impl FnOnce(&Script, &Script),
) -> Seen {
    let ((client_end, to_client), (upstream_end, to_upstream)) = (play(), play());
    plays(&to_client, &to_upstream);
    let mut request = request(worker, start, declared);
    assert!(matches!(pipeline::begin(&mut request, pipeline::Entry::Client), pipeline::Step::Pass));
    let downstream = Downstream::H1(&client_end);
    let mut client = Client::new(downstream);
    let goal = Goal::find(&mut request, downstream).await.unwrap();
    let outgoing = Outgoing::prepare(&mut request, downstream, &goal).await.unwrap();
    let session = Session::new(&goal.group, 0);
    let started_ms = runtime::now_ms();
    let mut pass = Pass {
        request: &mut request,
        client: &mut client,
        goal: &goal,
        outgoing,
        terms: None,
        local: None,
        session,
        binding: None,
        course: None,
        started_ms,
    };
    let mut outcome = pass.over(upstream_end).await;
    drop(pass);
    if outcome.is_ok() {
        outcome = client.finish(&mut request).await.map_err(|error| error.to_string());
    }
    let (head, body) = taken_apart(&to_client.written());
    Seen { outcome, sent: to_upstream.written(), head, body, is_kept: !to_upstream.is_closed() }
}

/// A message's head without its date, and its unframed body.
fn taken_apart(bytes: &[u8]) -> (String, Vec<u8>) {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Default::default() };
    let lines = String::from_utf8_lossy(&bytes[..end]);
    let head: Vec<&str> = lines.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
    let (mut decoder, mut body, mut rest) = (chunked::Decoder::default(), Vec::new(), &bytes[end + 4..]);
    if !head.contains(&"Transfer-Encoding: chunked") {
        return (head.join("\r\n"), rest.to_vec());
    }
    while !rest.is_empty() && !decoder.is_done() {
        let step = decoder.decode(rest).unwrap();
        body.extend_from_slice(&rest[step.data.unwrap_or(0..0)]);
        rest = &rest[step.consumed..];
    }
    (head.join("\r\n"), body)
}

/// Makes this many reads find nothing, to give the other side time.
fn pauses(script: &Script, count: usize) {
    for _ in 0..count {
        script.pauses();
    }
}

const KNOWN: &[u8] = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 11\r\n\r\nhello world";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x\r\n world\r\n0\r\nX-T: 1\r\n\r\n";
const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello world";
const INTERIM: &[u8] =
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 11\r\n\r\nhello world";

#[test]
fn an_answer_is_the_same_however_it_is_cut() {
    let config = config("");
    Runtime::new().unwrap().block_on(async move {
        for (answer, status, keeps) in
            [(KNOWN, 200, true), (CHUNKED, 200, true), (UNTIL_CLOSE, 200, false), (INTERIM, 404, true)]
        {
            let ends = |upstream: &Script| {
                if !keeps {
                    upstream.pauses().ends();
                }
            };
            let whole = pass(config, "GET /", BodyLength::None, |_, upstream| {
                upstream.sends(answer);
                ends(upstream);
            })
            .await;
            assert_eq!((&whole.outcome, &*whole.body, whole.is_kept), (&Ok(()), &b"hello world"[..], keeps));
            assert!(whole.head.starts_with(&format!("HTTP/1.1 {status} ")), "{}", whole.head);
            for cut in 1..answer.len() {
                let cut_once = pass(config, "GET /", BodyLength::None, |_, upstream| {
                    upstream.sends_cut(answer, cut);
                    ends(upstream);
                });
                assert_eq!(cut_once.await, whole, "cut at {cut}");
            }
            let slow = pass(config, "GET /", BodyLength::None, |client, upstream| {
                client.sips(500);
                upstream.drips(answer);
                ends(upstream);
                upstream.sips(200);
            });
            assert_eq!(slow.await, whole, "byte by byte on both sides");
        }
    });
}

#[test]
fn a_request_is_the_same_however_its_body_comes() {
    let body = b"name=value&other=thing";
    let (kept, streamed) = (config(""), config("proxy_request_buffering off; client_body_buffer_size 8;"));
    Runtime::new().unwrap().block_on(async move {
        for config in [kept, streamed] {
            let declared = BodyLength::Length(body.len() as u64);
            let whole = pass(config, "POST /a?b", declared, |client, upstream| {
                client.sends(body);
                upstream.pauses().sends(KNOWN);
            })
            .await;
            assert!(whole.sent.starts_with(b"POST /a?b HTTP/1.1\r\nHost: 127.0.0.1:1\r\n"));
            assert!(whole.sent.ends_with(body) && whole.outcome.is_ok());
            for cut in 1..body.len() {
                let cut_once = pass(config, "POST /a?b", declared, |client, upstream| {
                    client.sends_cut(body, cut);
                    upstream.takes(cut).blocks();
                    pauses(upstream, 4);
                    upstream.sends(KNOWN);
                });
                let seen = cut_once.await;
                assert_eq!((&seen.sent, &seen.body), (&whole.sent, &whole.body), "cut at {cut}");
            }
            let slow = pass(config, "POST /a?b", declared, |client, upstream| {
                client.drips(body);
                upstream.sips(200);
                pauses(upstream, 1000);
                upstream.sends(KNOWN);
            });
            assert_eq!(slow.await, whole, "byte by byte");
        }
    });
}

#[test]
fn a_body_without_a_length_goes_out_in_chunks() {
    let (streamed, old) = (config("proxy_request_buffering off;"), config("proxy_http_version 1.0;"));
    let chunks = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    Runtime::new().unwrap().block_on(async move {
        for cut in 1..chunks.len() {
            let seen = pass(streamed, "PUT /", BodyLength::Chunked, |client, upstream| {
                client.sends_cut(chunks, cut);
                pauses(upstream, 4);
                upstream.sends(KNOWN);
            });
            let (head, body) = taken_apart(&seen.await.sent);
            assert_eq!(body, b"abcdefg", "cut at {cut}");
            assert!(
                head.contains("Transfer-Encoding: chunked") && !head.contains("Content-Length"),
                "{head}"
            );
            let seen = pass(old, "PUT /", BodyLength::Chunked, |client, upstream| {
                client.sends_cut(chunks, cut);
                upstream.sends(KNOWN);
            });
            let seen = seen.await;
            let (head, body) = taken_apart(&seen.sent);
            assert_eq!((&*body, seen.is_kept), (&b"abcdefg"[..], false), "HTTP/1.0, cut at {cut}");
            assert!(head.contains("Content-Length: 7") && head.contains("Connection: close"), "{head}");
        }
    });
}

#[test]
fn an_answer_that_breaks_off_never_looks_complete() {
    let config = config("");
    const ENDED: &str = "upstream prematurely closed connection";
    const RESET: &str = "recv() failed (connection reset)";
    Runtime::new().unwrap().block_on(async move {
        for answer in [KNOWN, CHUNKED] {
            for cut in 0..answer.len() {
                for (end, expected) in
                    [(Script::ends as fn(&Script) -> &Script, ENDED), (Script::resets, RESET)]
                {
                    let seen = pass(config, "GET /", BodyLength::None, |_, upstream| {
                        // reads come before the end, and the request has been sent before
                        end(upstream.pauses().sends(&answer[..cut]).pauses());
                    });
                    let seen = seen.await;
                    assert_eq!(seen.outcome, Err(expected.to_owned()), "{cut} bytes");
                    assert!(!seen.is_kept && b"hello world".starts_with(&seen.body), "{cut} bytes");
                }
            }
        }
    });
}

#[test]
fn a_client_that_leaves_ends_the_exchange_unless_it_is_ignored() {
    let (usual, patient) = (config(""), config("proxy_ignore_client_abort on;"));
    Runtime::new().unwrap().block_on(async move {
        let seen = pass(usual, "GET /", BodyLength::None, |client, _| {
            client.pauses().ends();
        });
        let expected = "client prematurely closed connection, so upstream connection is closed too \
                        while reading response header from upstream";
        let seen = seen.await;
        assert_eq!((seen.outcome, seen.is_kept), (Err(expected.to_owned()), false));
        let seen = pass(usual, "GET /", BodyLength::None, |client, upstream| {
            client.pauses().pauses().pauses().ends();
            upstream.sends(&KNOWN[..KNOWN.len() - 4]);
        });
        let error = seen.await.outcome.unwrap_err();
        assert!(error.ends_with(" while reading upstream"), "{error}");
        let seen = pass(patient, "GET /", BodyLength::None, |client, upstream| {
            client.ends();
            upstream.pauses().sends(KNOWN);
        });
        let seen = seen.await;
        assert_eq!((seen.outcome, &*seen.body, seen.is_kept), (Ok(()), &b"hello world"[..], true));
    });
}

#[test]
fn a_silent_upstream_and_a_long_head_are_told_apart() {
    let config = config("proxy_read_timeout 20ms; proxy_buffer_size 1k;");
    Runtime::new().unwrap().block_on(async move {
        for cut in [0, 10, KNOWN.len() - 1] {
            let seen = pass(config, "GET /", BodyLength::None, |_, upstream| {
                upstream.sends(&KNOWN[..cut]);
            });
            let expected = Err("upstream timed out (110: Connection timed out)".to_owned());
            assert_eq!(seen.await.outcome, expected, "{cut} bytes");
        }
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 1024]].concat();
        for cut in [1, 1000, 1023] {
            let seen = pass(config, "GET /", BodyLength::None, |_, upstream| {
                upstream.sends_cut(&long, cut);
            });
            assert_eq!(seen.await.outcome, Err("upstream sent too big header".to_owned()), "{cut}");
        }
    });
}

#[test]
fn an_answer_may_come_before_the_request_was_sent() {
    let config = config("proxy_request_buffering off;");
    Runtime::new().unwrap().block_on(async move {
        let seen = pass(config, "POST /", BodyLength::Length(100), |client, upstream| {
            client.sends(b"some");
            upstream.pauses().sends(KNOWN);
        });
        let seen = seen.await;
        assert_eq!((seen.outcome, &*seen.body), (Ok(()), &b"hello world"[..]));
        assert!(!seen.is_kept, "the peer waits for the rest of this request");
    });
}

#[test]
fn a_client_that_takes_nothing_stops_the_upstream() {
    const LENGTH: usize = 300_000;
    let config = config("proxy_buffers 2 1k;");
    let answer =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes(), &[b'x'; LENGTH]].concat();
    Runtime::new().unwrap().block_on(async move {
        let scripts = std::cell::RefCell::new(None);
        let passing = pass(config, "GET /", BodyLength::None, |client, upstream| {
            client.is_full();
            upstream.sends(&answer);
            scripts.replace(Some((client.clone(), upstream.clone())));
        });
        let mut passing = Box::pin(passing);
        assert!(matches!(race(passing.as_mut(), sleep(20)).await, runtime::Either::Second(())));
        let (client, upstream) = scripts.take().unwrap();
        let read = answer.len() - upstream.unread();
        assert!((1..64 * 1024).contains(&read), "{read} bytes are in memory");
        client.drains();
        let seen = passing.await;
        assert_eq!((seen.outcome, seen.body.len(), seen.is_kept), (Ok(()), LENGTH, true));
    });
}

#[test]
fn a_client_gets_of_a_head_what_is_for_it() {
    let config = config(
        "proxy_hide_header X-Hidden; proxy_pass_header X-Accel-Expires; proxy_cookie_path / /app/; \
         proxy_redirect http://inner/ /outer/; proxy_redirect default;",
    );
    let answer = b"HTTP/1.1 201 Well Done\r\nServer: inner\r\nX-Hidden: 1\r\nX-Accel-Expires: 9\r\n\
        X-Accel-Charset: utf-8\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\nContent-Type: a/b\r\n\
        Content-Type: c/d\r\nSet-Cookie: k=v; Path=/x\r\nRefresh: 5; url=http://inner/y\r\n\
        Location: http://inner/z\r\nContent-Length: 2\r\n\r\nok";
    Runtime::new().unwrap().block_on(async move {
        let seen = pass(config, "GET /", BodyLength::None, |_, upstream| {
            upstream.sends(answer);
        });
        let seen = seen.await;
        assert_eq!((&seen.outcome, &*seen.body), (&Ok(()), &b"ok"[..]));
        let mut lines: Vec<&str> = seen.head.split("\r\n").collect();
        assert_eq!(lines.remove(0), "HTTP/1.1 201 Well Done");
        for expected in [
            "X-Accel-Expires: 9",
            "X-End: 1",
            "Content-Type: a/b",
            "Set-Cookie: k=v; Path=/app/x",
            "Refresh: 5; url=/outer/y",
            "Location: http://127.0.0.1:1/outer/z",
        ] {
            assert!(lines.contains(&expected), "{expected}: {lines:?}");
        }
        for hidden in ["X-Hidden", "X-Hop", "X-Accel-Charset", "Server: inner", "Content-Type: c/d"] {
            assert!(!lines.iter().any(|line| line.starts_with(hidden)), "{hidden}: {lines:?}");
        }
    });
}

#[test]
fn an_answer_may_lead_elsewhere_or_be_refused() {
    let usual = config("");
    let deaf = config("proxy_ignore_headers X-Accel-Redirect;");
    let answer = |target: &str| {
        format!("HTTP/1.1 200 OK\r\nX-Accel-Redirect: {target}\r\nContent-Length: 2\r\n\r\nok")
    };
    Runtime::new().unwrap().block_on(async move {
        let ask = async |config, start, answer: String| {
            let seen = pass(config, start, BodyLength::None, |_, upstream| {
                upstream.sends(answer.as_bytes());
            });
            seen.await.outcome
        };
        let led = ask(usual, "GET /", answer("/in/a%20b?c")).await.unwrap_err();
        assert!(led.starts_with("Internal") && led.contains(&format!("{:?}", b"/in/a b")), "{led}");
        assert_eq!(ask(deaf, "GET /", answer("/in")).await, Ok(()));
        for (target, status) in [("/a/../b", 404), ("/a/%2e%2e/b", 404), ("no/slash", 404), ("@nowhere", 500)]
        {
            assert_eq!(
                ask(usual, "GET /", answer(target)).await,
                Err(format!("Status({status})")),
                "{target}"
            );
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned();
        let unasked = "upstream sent 101 without being asked to switch protocols";
        assert_eq!(ask(usual, "GET /", switch).await, Err(unasked.to_owned()));
        let unclear =
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok".to_owned();
        let refused = ask(usual, "GET /", unclear).await.unwrap_err();
        assert!(refused.contains("at the same time"), "{refused}");
    });
}

#[test]
fn a_tunnel_begins_with_what_has_come_already() {
    let config = config("proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;");
    Runtime::new().unwrap().block_on(async move {
        let seen =
            pass(config, "GET /\nUpgrade: x\r\nConnection: upgrade", BodyLength::None, |_, upstream| {
                upstream.sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nearly");
            });
        let seen = seen.await;
        assert_eq!((&seen.outcome, &*seen.body, seen.is_kept), (&Ok(()), &b"early"[..], true));
        assert!(seen.head.starts_with("HTTP/1.1 101 ") && seen.head.contains("Upgrade: x"), "{}", seen.head);
        assert!(taken_apart(&seen.sent).0.contains("Upgrade: x\r\n"));
    });
}

fn returned_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn the_future_of_a_proxied_request_stays_small() {
    let pass = |request: &'static mut Request, client: &'static mut Client<'static>| proxy(request, client);
    let bytes = returned_bytes(pass);
    assert!(bytes <= 1376, "each request under way holds one: {bytes} bytes");
}
