//! `grpc_pass`: unary calls and streams in both directions, what requests and responses carry, and errors as gRPC clients
//! get them.

use nix::sys::signal::Signal;

use crate::support::h2::{self, DATA, END_STREAM, H2, HEADERS, WINDOW_UPDATE};
use crate::support::{Daemon, H2Server, Origin, Setup, wait_for};

pub const CONF: &str = r#"
worker_processes 1;
http {
    http2 on;
    log_format g '$uri $status $upstream_status $upstream_trailer_grpc_status $upstream_bytes_received';
    access_log %%DIR%%/access.log g;
    upstream u { server %%ORIGIN%%; keepalive 4; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        large_client_header_buffers 4 32k;
        location / { grpc_pass u; }
        location /direct { grpc_pass grpc://%%ORIGIN%%; grpc_set_header Host custom; grpc_set_header X-Set "$arg_a"; }
        location /unnamed { grpc_pass u; grpc_set_header Host "$arg_none"; }
        location /hidden { grpc_pass u; grpc_hide_header X-Secret; grpc_hide_header X-Trailer; grpc_pass_header Server; }
        location /quick { grpc_pass u; grpc_read_timeout 300ms; grpc_send_timeout 300ms; client_body_timeout 300ms; }
        location /small { grpc_pass u; grpc_buffer_size 1k; }
        location /down { grpc_pass 127.0.0.1:1; error_page 502 = /unavailable; }
        location /intercepted { grpc_pass u; grpc_intercept_errors on; error_page 404 = /unavailable; }
        location = /unavailable {
            internal;
            default_type application/grpc;
            add_header grpc-status 14;
            add_header grpc-message "unavailable";
            return 204;
        }
    }
}
"#;

pub fn start(script: impl Fn(&mut H2Server<'_>) + Send + Sync + 'static) -> (Daemon, Origin) {
    start_with(&[], script)
}

/// The daemon before a server that runs `script` for each connection, after SETTINGS with these parameters.
pub fn start_with(
    settings: &'static [(u16, u32)],
    script: impl Fn(&mut H2Server<'_>) + Send + Sync + 'static,
) -> (Daemon, Origin) {
    let origin = Origin::start(move |peer| {
        if let Some(mut server) = H2Server::begin(peer, settings) {
            script(&mut server);
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (daemon, origin)
}

pub const CALL: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];
const OK: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc")];
pub const TRAILERS: &[(&str, &str)] = &[("grpc-status", "0"), ("grpc-message", "fine")];

/// Answers each call with what it has sent, once that is complete, and with the fields of the request.
pub fn echo(server: &mut H2Server<'_>) {
    while let Some(call) = server.whole_request() {
        let seen = format!("{:?}", call.fields);
        server.answer(
            call.stream,
            &[("content-type", "application/grpc"), ("x-seen", &seen)],
            &call.body,
            TRAILERS,
        );
    }
}

fn head_of(client: &H2, stream: u32) -> Vec<String> {
    h2::fields(&client.answers[&stream].blocks[0])
}

fn trailers_of(client: &H2, stream: u32) -> Vec<String> {
    h2::fields(client.answers[&stream].blocks.last().expect("blocks"))
}

#[test]
fn a_unary_call_arrives_as_it_was_sent() {
    let (daemon, _origin) = start(echo);
    let mut client = H2::connect(daemon.port(0));
    let stream = client.open("POST", "/svc/Method?x=1", &[CALL, &[("x-own", "a b")]].concat(), 0);
    client.send(DATA, END_STREAM, stream, b"\0\0\0\0\x05hello");
    let answer = client.answer(stream);
    assert_eq!((answer.status, &*answer.body), (200, &b"\0\0\0\0\x05hello"[..]));
    let head = head_of(&client, stream).join("\n");
    for part in [
        "(\":method\", \"POST\"), (\":scheme\", \"http\"), (\":path\", \"/svc/Method?x=1\"), (\":authority\", \"u\")",
        "(\"te\", \"trailers\")",
        "(\"content-type\", \"application/grpc\")",
        "(\"x-own\", \"a b\")",
        "content-type: application/grpc",
        "server: pronghorn",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert_eq!(trailers_of(&client, stream), ["grpc-status: 0", "grpc-message: fine"]);
    daemon.wait_line("access.log", r"/svc/Method 200 200 0 \d+");
    let stream = client.open("POST", "/direct?a=set", CALL, 0);
    client.send(DATA, END_STREAM, stream, b"x");
    client.answer(stream);
    let head = head_of(&client, stream).join("\n");
    assert!(head.contains("(\":authority\", \"custom\")") && !head.contains("\"host\""), "{head}");
    assert!(head.contains("(\"x-set\", \"set\")"), "{head}");
    let stream = client.open("POST", "/unnamed", CALL, END_STREAM);
    client.answer(stream);
    let head = head_of(&client, stream).join("\n");
    assert!(head.contains("(\":authority\", \"u\")") && !head.contains("\"host\""), "{head}");
    assert!(daemon.complaints("error|crit|alert|emerg").is_empty());
}

#[test]
fn both_sides_may_send_at_any_time() {
    // answers each message as it comes, and has the last word
    let (daemon, _origin) = start(|server| {
        let Some(call) = server.request() else { return };
        server.head(call.stream, OK, 0);
        let mut seen = 0;
        loop {
            let call = server.calls[&call.stream].clone();
            if call.body.len() > seen {
                server.data(call.stream, &call.body[seen..], 0);
                seen = call.body.len();
            }
            if call.has_ended {
                server.data(call.stream, b"bye", 0).head(call.stream, TRAILERS, END_STREAM);
            }
            if server.read().is_none() {
                return;
            }
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let stream = client.open("POST", "/chat", CALL, 0);
    // the head comes before the first message is sent
    client.read_until("a head", |client| {
        client.answers.get(&stream).is_some_and(|answer| answer.status == 200)
    });
    let mut expected = Vec::new();
    for message in [&b"one"[..], b"two", b"three"] {
        client.send(DATA, 0, stream, message);
        expected.extend_from_slice(message);
        client.read_until("an echo", |client| client.answers[&stream].body == expected);
    }
    client.send(DATA, END_STREAM, stream, b"");
    let answer = client.answer(stream);
    assert_eq!(answer.body, [&expected[..], b"bye"].concat());
    assert_eq!(trailers_of(&client, stream)[0], "grpc-status: 0");
}

#[test]
fn long_streams_in_both_directions_arrive_whole() {
    let (daemon, _origin) = start(echo);
    let mut client = H2::connect(daemon.port(0));
    let body: Vec<u8> = (0..400_000).map(|at| (at % 251) as u8).collect();
    let stream = client.open("POST", "/big", CALL, 0);
    let (mut room, mut of_connection) = (65_535, 1_048_576);
    for part in body.chunks(16_384) {
        while room < part.len() || of_connection < part.len() {
            let update = client.read().expect("room for more");
            if update.kind == WINDOW_UPDATE {
                let more = u32::from_be_bytes(update.payload.try_into().unwrap()) as usize;
                *if update.stream == 0 { &mut of_connection } else { &mut room } += more;
            }
        }
        (room, of_connection) = (room - part.len(), of_connection - part.len());
        client.send(DATA, 0, stream, part);
    }
    client.send(DATA, END_STREAM, stream, b"");
    let answer = client.answer(stream);
    assert!(answer.body == body, "{} bytes", answer.body.len());
    assert_eq!(trailers_of(&client, stream)[0], "grpc-status: 0");
}

/// A client that does not read stops the server, exactly; one that goes on gets everything.
#[test]
fn a_slow_client_stops_the_server() {
    const MOST: usize = 64 * 1024 // the client's window
        + 128 * 1024 // the stream's window
        + 128 * 1024 // what was taken out of it
        + 64 * 1024; // the client's output
    let (told, wait) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let (daemon, _origin) = start(move |server| {
        let Some(call) = server.request() else { return };
        server.head(call.stream, OK, 0);
        let part = [b'x'; 4096];
        let mut sent = 0;
        loop {
            if server.windows[&call.stream] >= 4096 && server.windows[&0] >= 4096 {
                server.data(call.stream, &part, 0);
                sent += part.len();
                if sent == 2_000_000 / 4096 * 4096 {
                    server.head(call.stream, TRAILERS, END_STREAM);
                    break;
                }
            } else {
                let _ = told.lock().expect("not poisoned").send(sent);
                if server.read().is_none() {
                    return;
                }
            }
        }
        server.read_until(|_| false);
    });
    let mut client = H2::with_settings(daemon.port(0), &[]);
    let stream = client.open("POST", "/slow", CALL, END_STREAM);
    // as much as its window, then nothing
    client.read_until("a window full", |client| {
        client.answers.get(&stream).is_some_and(|answer| answer.body.len() == 65_535)
    });
    let mut stopped = 0;
    while let Ok(sent) = wait.recv_timeout(std::time::Duration::from_millis(500)) {
        stopped = sent;
    }
    assert!(stopped > 65_535 && stopped <= MOST, "{stopped}");
    let room = 0x7000_0000u32.to_be_bytes();
    client.send(WINDOW_UPDATE, 0, 0, &room).send(WINDOW_UPDATE, 0, stream, &room);
    let answer = client.answer(stream);
    assert_eq!(answer.body.len(), 2_000_000 / 4096 * 4096);
}

/// A server that does not read stops the client.
#[test]
fn a_slow_server_stops_the_client() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (daemon, _origin) = start(move |server| {
        server.is_generous = false;
        let Some(call) = server.request() else { return };
        server.read_until(|server| server.calls[&call.stream].body.len() == 65_535);
        let _ = wait.lock().expect("not poisoned").recv_timeout(crate::support::deadline());
        let room = 0x7000_0000u32.to_be_bytes();
        server.send(WINDOW_UPDATE, 0, 0, &room).send(WINDOW_UPDATE, 0, call.stream, &room);
        server.read_until(|server| server.calls[&call.stream].has_ended);
        let length = server.calls[&call.stream].body.len().to_string();
        server.answer(call.stream, &[("x-length", &length)], b"", TRAILERS);
        server.read_until(|_| false);
    });
    let mut client = H2::connect(daemon.port(0));
    let stream = client.open("POST", "/slow", CALL, 0);
    // sends as far as it may, without a word from the server
    let (mut sent, mut room) = (0, 65_535usize);
    let part = [b'x'; 8192];
    loop {
        while room >= part.len() {
            client.send(DATA, 0, stream, &part);
            (sent, room) = (sent + part.len(), room - part.len());
        }
        // answers to PINGs come in order: no window opens once everything has been used
        client.send(h2::PING, 0, 0, b"in order");
        let before = room;
        loop {
            let frame = client.read().expect("an answer to PING");
            if frame.kind == WINDOW_UPDATE && frame.stream == stream {
                room += u32::from_be_bytes(frame.payload.try_into().unwrap()) as usize;
            } else if frame.kind == h2::PING {
                break;
            }
        }
        if room == before && client.wire.is_silent(std::time::Duration::from_millis(300)) {
            break;
        }
    }
    assert!(sent < 65_535 + 64 * 1024 + 300 * 1024, "{sent}");
    go.send(()).expect("the server waits");
    client.send(DATA, END_STREAM, stream, b"");
    client.answer(stream);
    assert!(head_of(&client, stream).contains(&format!("x-length: {sent}")));
}

#[test]
fn a_response_of_trailers_alone_ends_with_its_head() {
    let (daemon, _origin) = start(|server| {
        while let Some(call) = server.request() {
            let fields = [OK, &[("grpc-status", "12"), ("grpc-message", "unknown service")]].concat();
            server.head(call.stream, &fields, END_STREAM);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let stream = client.get("/x", CALL);
    let answer = client.answer(stream);
    assert_eq!((answer.status, answer.blocks.len(), answer.body.len()), (200, 1, 0));
    assert!(head_of(&client, stream).contains(&"grpc-status: 12".to_owned()));
    assert!(!client.frames.iter().any(|frame| frame.kind == DATA && frame.stream == stream));
}

#[test]
fn fields_are_hidden_and_passed_as_the_settings_say() {
    let (daemon, _origin) = start(|server| {
        while let Some(call) = server.whole_request() {
            let fields = [("x-secret", "s"), ("server", "theirs"), ("date", "theirs")];
            server.answer(call.stream, &fields, b"x", &[("x-trailer", "t"), ("grpc-status", "0")]);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let stream = client.get("/hidden", CALL);
    client.answer(stream);
    let head = head_of(&client, stream).join("\n");
    assert!(
        !head.contains("x-secret") && head.contains("server: theirs") && !head.contains("date: theirs"),
        "{head}"
    );
    assert_eq!(trailers_of(&client, stream), ["grpc-status: 0"]);
    let stream = client.get("/open", CALL);
    client.answer(stream);
    let head = head_of(&client, stream).join("\n");
    assert!(head.contains("x-secret: s") && head.contains("server: pronghorn"), "{head}");
    assert_eq!(trailers_of(&client, stream), ["x-trailer: t", "grpc-status: 0"]);
}

/// nginx's recipe: our own errors as gRPC has them.
#[test]
fn errors_of_ours_become_a_status_of_grpc_by_error_page() {
    let (daemon, _origin) = start(|server| {
        while let Some(call) = server.request() {
            server.head(call.stream, &[(":status", "404")], END_STREAM);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    for path in ["/down", "/intercepted"] {
        let stream = client.get(path, CALL);
        let answer = client.answer(stream);
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        let head = head_of(&client, stream);
        assert!(head.contains(&"grpc-status: 14".to_owned()), "{path}: {head:?}");
        assert!(head.contains(&"grpc-message: unavailable".to_owned()), "{path}: {head:?}");
    }
    // without a recipe a client gets a status of HTTP, which gRPC maps to its own
    let stream = client.get("/plain", CALL);
    assert_eq!(client.answer(stream).status, 404);
}

#[test]
fn a_server_that_is_silent_is_left() {
    let (daemon, _origin) = start(|server| {
        server.read_until(|_| false);
    });
    let mut client = H2::connect(daemon.port(0));
    let stream = client.get("/quick", CALL);
    assert_eq!(client.answer(stream).status, 504);
    daemon.wait_log(
        "upstream timed out \\(110: Connection timed out\\) while reading response header from upstream",
    );
    // While the client sends, its own time runs.
    let stream = client.open("POST", "/quick", CALL, 0);
    client.send(DATA, 0, stream, b"x");
    assert_eq!(client.answer(stream).status, 408);
}

#[test]
fn a_client_that_cancels_ends_the_call_at_the_server() {
    let (told, wait) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let (daemon, origin) = start(move |server| {
        while let Some(call) = server.request() {
            server.head(call.stream, OK, 0).data(call.stream, b"x", 0);
            server.read_until(|server| server.calls[&call.stream].reset.is_some());
            let reset = server.calls[&call.stream].reset;
            let _ = told.lock().expect("not poisoned").send(reset);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    for _ in 0..3 {
        let stream = client.open("POST", "/cancelled", CALL, 0);
        client.read_until("data", |client| {
            client.answers.get(&stream).is_some_and(|answer| answer.body == b"x")
        });
        client.send(h2::RST_STREAM, 0, stream, &8u32.to_be_bytes());
        assert_eq!(wait.recv_timeout(crate::support::deadline()), Ok(Some(8)));
    }
    assert_eq!(origin.accepted(), 1, "the connection goes on");
}

#[test]
fn a_reload_lets_calls_finish() {
    let (daemon, _origin) = start(|server| {
        while let Some(call) = server.request() {
            server.head(call.stream, OK, 0);
            while !server.calls[&call.stream].has_ended {
                if server.read().is_none() {
                    return;
                }
            }
            let body = server.calls[&call.stream].body.clone();
            server.data(call.stream, &body, 0).head(call.stream, TRAILERS, END_STREAM);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let old = daemon.workers();
    let stream = client.open("POST", "/chat", CALL, 0);
    client.read_until("a head", |client| client.answers.contains_key(&stream));
    daemon.signal(Signal::SIGHUP);
    // An old worker would send the second call over the connection of the first, which our server has not ended.
    wait_for("the old workers to leave", || {
        (daemon.log_count("gracefully shutting down") >= old.len()).then_some(())
    });
    let mut other = H2::connect(daemon.port(0));
    let second = other.open("POST", "/chat", CALL, 0);
    other.send(DATA, END_STREAM, second, b"new");
    assert_eq!(other.answer(second).text(), "new");
    client.send(DATA, END_STREAM, stream, b"old");
    let answer = client.answer(stream);
    assert_eq!(answer.text(), "old");
    assert_eq!(trailers_of(&client, stream)[0], "grpc-status: 0");
    drop(client);
    wait_for("the old workers to end", || {
        daemon.workers_now().iter().all(|pid| !old.contains(pid)).then_some(())
    });
    assert!(daemon.complaints("error|crit|alert|emerg").is_empty());
}

#[test]
fn a_head_that_is_too_long_names_the_directive() {
    let (daemon, _origin) = start(|server| {
        while let Some(call) = server.request() {
            let long = "x".repeat(4000);
            server.head(call.stream, &[(":status", "200"), ("x-long", &long)], END_STREAM);
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let small = client.get("/small", CALL);
    let large = client.get("/large", CALL);
    assert_eq!(client.answer(small).status, 502);
    assert_eq!(client.answer(large).status, 200);
    daemon.wait_log("upstream sent too big header.*grpc_buffer_size");
    assert!(client.frames.iter().any(|frame| frame.kind == HEADERS));
}
