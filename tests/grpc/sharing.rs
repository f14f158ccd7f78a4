//! Requests over HTTP/2 share connections: how many, for how long, and what one stream's failure means for the others.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::calls::{CALL, TRAILERS, echo, start, start_with};
use crate::support::h2::{DATA, END_STREAM, GOAWAY, H2};
use crate::support::{Client, Daemon, H2Server, Origin, Setup, deadline, get, wait_for};

const HTTP: &str = r#"
worker_processes 1;
http {
    access_log off;
    proxy_http_version 2;
    upstream u { server %%ORIGIN%%; keepalive 2; keepalive_requests 5; keepalive_timeout 500ms; }
    upstream two { server %%ORIGIN%%; server %%OTHER%%; }
    upstream few { server %%ORIGIN%%; keepalive_streams 2; }
    upstream none { server %%ORIGIN%%; keepalive 0; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://u; }
        location /two { proxy_pass http://two; proxy_next_upstream error non_idempotent; }
        location /bold { proxy_pass http://two; }
        location /missing { proxy_pass http://two; proxy_next_upstream http_404; }
        location /few { proxy_pass http://few; }
        location /none { proxy_pass http://none; }
        location /direct { proxy_pass http://%%ORIGIN%%; }
        location /host { proxy_pass http://u; proxy_set_header Host "h.test"; proxy_set_header Connection "Upgrade"; proxy_set_header Upgrade $http_upgrade; }
        location /method { proxy_pass http://u; proxy_method PURGE; }
        location /trailers { proxy_pass http://u; proxy_pass_trailers on; }
    }
}
"#;

type Script = dyn Fn(&mut H2Server<'_>, usize) + Send + Sync;

/// The daemon before two servers that run the same script; the second is asked only in the group of both.
fn start_http(script: impl Fn(&mut H2Server<'_>, usize) + Send + Sync + 'static) -> (Daemon, Origin, Origin) {
    let script = Arc::new(script);
    let other = Arc::clone(&script);
    let run = |script: Arc<Script>, which: usize| {
        Origin::start(move |peer| {
            let index = peer.index;
            if let Some(mut server) = H2Server::begin(peer, &[]) {
                script(&mut server, which * 100 + index);
            }
        })
    };
    let (origin, other) = (run(script, 0), run(other, 1));
    let setup = Setup::new(HTTP).set("ORIGIN", origin.address()).set("OTHER", other.address());
    (setup.level("info").start(), origin, other)
}

fn answer_all(server: &mut H2Server<'_>) {
    while let Some(call) = server.whole_request() {
        let text = format!("{} {} {:?}", call.field(":method"), call.path(), call.fields);
        server.answer(call.stream, &[("content-length", &text.len().to_string())], text.as_bytes(), &[]);
    }
}

#[test]
fn a_client_of_http_1_is_served_over_http_2() {
    let (daemon, origin, _other) = start_http(|server, _| answer_all(server));
    let response = get(daemon.port(0), "/a?b=c");
    assert_eq!(response.status, 200);
    let text = response.text();
    for part in ["GET /a?b=c", "(\":scheme\", \"http\")", "(\":authority\", \"u\")"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("connection") && !text.contains("\"host\""), "{text}");
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /host HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\nX-Own: 2\r\n\r\n");
    let text = client.response().text();
    assert!(text.contains("(\":authority\", \"h.test\")") && text.contains("(\"x-own\", \"2\")"), "{text}");
    for part in ["upgrade", "connection", "x-hop"] {
        assert!(!text.contains(part), "{part} in {text}");
    }
    client
        .send("POST /method HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let text = client.response().text();
    assert!(text.contains("PURGE /method") && text.contains("(\"content-length\", \"3\")"), "{text}");
    client.send("HEAD /head HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = client.response_head();
    assert_eq!(response.status, 200);
    assert!(response.length().is_some());
    client.send("GET /after HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.response().text().contains("GET /after"));
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_server_that_refuses_a_long_body_early_is_followed_by_another_that_gets_it_whole() {
    // More than the window of a stream: the server answers while most of the body waits in a file.
    const LENGTH: usize = 200_000;
    let (daemon, _origin, _other) = start_http(|server, which| {
        if which >= 100 {
            while let Some(call) = server.whole_request() {
                let text = call.body.len().to_string();
                server.answer(call.stream, &[], text.as_bytes(), &[]);
            }
        }
        while let Some(call) = server.request() {
            server.head(call.stream, &[(":status", "404")], END_STREAM).reset(call.stream, 0);
        }
    });
    for _ in 0..3 {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("PUT /missing HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n"));
        client.send(vec![b'x'; LENGTH]);
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, LENGTH.to_string()));
    }
}

#[test]
fn a_connection_has_as_many_streams_as_configured() {
    let (tell, told) = std::sync::mpsc::channel();
    let (tell, both) = (std::sync::Mutex::new(tell), std::sync::Barrier::new(2));
    let (daemon, origin, _other) = start_http(move |server, _| {
        // Two connections wait for each other until both have two requests; the fifth one comes alone.
        let mut calls = Vec::new();
        while let Some(call) = server.whole_request() {
            calls.push(call.stream);
            tell.lock().expect("not poisoned").send(()).expect("the test goes on");
            if calls.len() == 2 {
                both.wait();
            }
            if calls.len() == 2 || call.path() == "/few/last" {
                for stream in calls.drain(..) {
                    server.answer(stream, &[("content-length", "2")], b"ok", &[]);
                }
            }
        }
    });
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        client.send("GET /few HTTP/1.1\r\nHost: x\r\n\r\n");
        // One after the other: a request that comes while another one waits for a connection could take its place.
        told.recv_timeout(crate::support::deadline()).expect("it has come");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(origin.accepted(), 2);
    daemon
        .wait_log("a connection to upstream server .* has 2 streams, as many as .keepalive_streams. permits");
    assert_eq!(get(daemon.port(0), "/few/last").text(), "ok");
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn bodies_of_any_length_arrive_whole() {
    let (daemon, _origin, _other) = start_http(|server, _| {
        while let Some(call) = server.whole_request() {
            server.answer(call.stream, &[], &call.body, &[("x-sum", "7")]);
        }
    });
    let mut client = Client::connect(daemon.port(0));
    for length in [0, 1, 16_383, 16_384, 65_535, 65_536, 1_000_000] {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        client.send(format!("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&body);
        assert!(client.response().body == body, "{length}");
    }
    let mut chunked =
        b"POST /trailers HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..50 {
        chunked.extend_from_slice(b"1000\r\n");
        chunked.extend_from_slice(&[b'y'; 4096]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    client.send(&chunked);
    let response = client.response();
    assert_eq!(response.body.len(), 50 * 4096);
    assert_eq!(response.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[test]
fn requests_side_by_side_share_one_connection() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let (daemon, origin) = start(move |server| {
        // answers the first thirty when all have come, in the opposite order
        let mut streams = Vec::new();
        while streams.len() < 30 {
            let Some(call) = server.whole_request() else { return };
            streams.push(call.stream);
        }
        let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
        for stream in streams.iter().rev() {
            server.answer(*stream, &[], stream.to_string().as_bytes(), TRAILERS);
        }
        echo(server);
    });
    let mut client = H2::connect(daemon.port(0));
    let streams: Vec<u32> = (0..30).map(|_| client.get("/side", CALL)).collect();
    go.send(()).expect("the server waits");
    for stream in streams {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert_eq!(origin.accepted(), 1);
    let last = client.get("/again", CALL);
    assert_eq!(client.answer(last).status, 200);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_servers_limit_of_streams_opens_further_connections() {
    let (daemon, origin) = start_with(&[(3, 2)], |server| {
        // waits for two requests, unless they come over another connection
        while let Some(call) = server.request() {
            let open = server.calls.len();
            assert!(open <= 6, "never more than two at a time");
            if call.path() == "/pair" && open % 2 == 1 {
                server.read_until(|server| server.calls.len() > open);
            }
            let streams: Vec<u32> = server.calls.keys().copied().collect();
            for stream in streams {
                if !server.calls[&stream].fields.is_empty() {
                    server.answer(stream, &[], b"", TRAILERS);
                    server.calls.get_mut(&stream).expect("it").fields.clear();
                }
            }
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let warm = client.get("/warm", CALL);
    assert_eq!(client.answer(warm).status, 200); // the limit is known now
    let streams: Vec<u32> = (0..4).map(|_| client.get("/side", CALL)).collect();
    for stream in streams {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert!((1..=3).contains(&origin.accepted()), "{}", origin.accepted());
}

#[test]
fn connections_end_as_keepalive_says() {
    let (daemon, origin, _other) = start_http(|server, _| answer_all(server));
    let port = daemon.port(0);
    // `keepalive_requests 5`
    for _ in 0..10 {
        assert_eq!(get(port, "/").status, 200);
    }
    origin.wait_ended(1);
    assert_eq!(origin.accepted(), 2);
    origin.wait_ended(2);
    // `keepalive_timeout 500ms`
    assert_eq!(get(port, "/").status, 200);
    origin.wait_ended(3);
    // without `keepalive`, and without an `upstream` block
    for (path, before) in [("/none", 3), ("/direct", 5)] {
        for index in 1..=2 {
            assert_eq!(get(port, path).status, 200);
            origin.wait_ended(before + index);
        }
    }
    assert_eq!(origin.accepted(), 7);
}

/// A connection says that it ends: requests in progress are answered, later ones go elsewhere, and those that it has not
/// begun are sent again, whatever they are.
#[test]
fn a_server_may_leave_at_any_time() {
    let (daemon, origin) = start(|server| {
        // each connection answers one call, and has not begun the next
        let Some(first) = server.whole_request() else { return };
        server.go_away(first.stream, 0);
        server.answer(first.stream, &[], b"first", TRAILERS);
        server.read_until(|_| false);
    });
    let mut client = H2::connect(daemon.port(0));
    for _ in 0..3 {
        let streams: Vec<u32> = (0..3)
            .map(|_| {
                let stream = client.open("POST", "/leaving", CALL, 0);
                client.send(DATA, END_STREAM, stream, b"x");
                stream
            })
            .collect();
        for stream in streams {
            let answer = client.answer(stream);
            assert_eq!((answer.status, answer.text()), (200, "first".to_owned()));
        }
    }
    assert_eq!(origin.accepted(), 9);
    assert!(daemon.complaints("error|crit|alert|emerg").is_empty());
}

#[test]
fn a_refused_stream_is_sent_again() {
    let (daemon, origin, other) = start_http(|server, index| {
        while let Some(call) = server.whole_request() {
            // the first connection of the first server takes one request
            if index == 0 && call.stream > 1 || index < 100 && call.path() == "/bold" {
                server.reset(call.stream, 7);
            } else {
                server.answer(call.stream, &[], &call.body, &[]);
            }
        }
    });
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok";
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        client.send(post);
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!((origin.accepted(), other.accepted()), (2, 0), "over a new connection to the same server");
    // a server that refuses again is replaced, although POST is not idempotent
    for _ in 0..2 {
        client.send(post.replace("POST /", "POST /bold"));
        assert_eq!(client.response().text(), "ok");
    }
    assert!(other.accepted() > 0);
}

#[test]
fn a_stream_that_fails_leaves_the_others_alone() {
    let (daemon, origin) = start(|server| {
        let mut held = Vec::new();
        while let Some(call) = server.whole_request() {
            match call.path() {
                "/held" => held.push(call.stream),
                "/reset" => {
                    server.reset(call.stream, 2);
                }
                "/cut" => {
                    server.head(call.stream, &[(":status", "200")], 0).data(call.stream, b"part", 0);
                    server.reset(call.stream, 2);
                }
                _ => {
                    for stream in std::mem::take(&mut held) {
                        server.answer(stream, &[], b"held", TRAILERS);
                    }
                    server.answer(call.stream, &[], b"", TRAILERS);
                }
            }
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let held: Vec<u32> = (0..3).map(|_| client.get("/held", CALL)).collect();
    let reset = client.get("/reset", CALL);
    let cut = client.get("/cut", CALL);
    assert_eq!(client.answer(reset).status, 502);
    let answer = client.answer(cut);
    assert!(answer.status == 200 && answer.text() == "part" && answer.reset.is_some(), "{answer:?}");
    let last = client.get("/last", CALL);
    assert_eq!(client.answer(last).status, 200);
    for stream in held {
        assert_eq!(client.answer(stream).text(), "held");
    }
    assert_eq!(origin.accepted(), 1);
    daemon.wait_log(r"upstream rejected request with error 2 \(INTERNAL_ERROR\)");
}

/// A peer that does not even answer a PING gets no further requests.
#[test]
fn a_dead_connection_is_found_by_a_ping() {
    let (daemon, origin) = start(|server| {
        let is_first = server.request().is_some_and(|call| call.path() == "/quick");
        if is_first {
            server.answers_pings = false;
            server.read_until(|_| false);
        } else {
            let streams: Vec<u32> = server.calls.keys().copied().collect();
            for stream in streams {
                server.answer(stream, &[], b"", TRAILERS);
            }
            echo(server);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let stream = client.get("/quick", CALL);
    assert_eq!(client.answer(stream).status, 504);
    let stream = client.get("/other", CALL);
    assert_eq!(client.answer(stream).status, 200);
    assert_eq!(origin.accepted(), 2, "not over the connection that is suspected");
    origin.wait_ended(1); // it is closed without an answer
}

/// An idle connection that its server closes is not used again.
#[test]
fn a_closed_connection_costs_no_request() {
    let (daemon, origin) = start(|server| {
        if let Some(call) = server.whole_request() {
            server.answer(call.stream, &[], b"", TRAILERS);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    for count in 1..=5 {
        let stream = client.get("/once", CALL);
        assert_eq!(client.answer(stream).status, 200);
        origin.wait_ended(count);
    }
    assert_eq!(origin.accepted(), 5);
    assert!(daemon.complaints("error|crit|alert|emerg").is_empty());
}

#[test]
fn a_worker_that_leaves_closes_its_connections() {
    let (daemon, origin) = start(echo);
    let mut client = H2::connect(daemon.port(0));
    let stream = client.get("/x", CALL);
    assert_eq!(client.answer(stream).status, 200);
    daemon.reload();
    origin.wait_ended(1);
    client.read_until("GOAWAY", |client| client.frames.iter().any(|frame| frame.kind == GOAWAY));
    wait_for("the upstream's connection", || (origin.ended() == 1).then_some(()));
}
