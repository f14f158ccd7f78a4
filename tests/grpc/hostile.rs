//! Servers that break the rules of HTTP/2: the client gets a status, the log says why, and other streams go on if the
//! connection can.

use super::calls::{CALL, TRAILERS, start};
use crate::support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, PING, SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::support::{H2Server, wait_for};

type Script = fn(&mut H2Server<'_>, u32);

/// Misbehaviour of a server, and the words of the error log for it. The client gets 502.
const STREAMS: &[(&str, Script, &str)] = &[
    (
        "no-status",
        |server, id| {
            server.head(id, &[("x", "y")], 0);
        },
        "no :status header",
    ),
    (
        "upper-case",
        |server, id| {
            server.head(id, &[(":status", "200"), ("X-A", "y")], 0);
        },
        "upper-case",
    ),
    (
        "line-break",
        |server, id| {
            server.head(id, &[(":status", "200"), ("x", "a\r\nb: c")], 0);
        },
        "invalid header value",
    ),
    (
        "connection",
        |server, id| {
            server.head(id, &[(":status", "200"), ("connection", "x")], 0);
        },
        "not allowed in HTTP/2",
    ),
    (
        "coding",
        |server, id| {
            server.head(id, &[(":status", "200"), ("transfer-encoding", "chunked")], 0);
        },
        "not allowed in HTTP/2",
    ),
    (
        "lengths",
        |server, id| {
            server.head(id, &[(":status", "200"), ("content-length", "1"), ("content-length", "2")], 0);
        },
        "duplicate \"Content-Length\"",
    ),
    (
        "switch",
        |server, id| {
            server.head(id, &[(":status", "101")], 0);
        },
        "status 101",
    ),
    (
        "status",
        |server, id| {
            server.head(id, &[(":status", "2000")], 0);
        },
        "invalid :status",
    ),
    (
        "data-first",
        |server, id| {
            server.data(id, b"x", 0);
        },
        "DATA before the head",
    ),
    (
        "bomb",
        |server, id| {
            server
                .head(id, &[(":status", "200"), ("x", &"y".repeat(15_000)), ("z", &"y".repeat(200))], 0)
                .head(id, &[], 0);
        },
        "frames that make no response",
    ),
    (
        "interim",
        |server, id| {
            (0..40).for_each(|_| {
                server.head(id, &[(":status", "103")], 0);
            })
        },
        "too many 1xx",
    ),
    (
        "reset",
        |server, id| {
            server.reset(id, 1);
        },
        "rejected request with error 1 \\(PROTOCOL_ERROR\\)",
    ),
];

#[test]
fn a_response_that_breaks_a_rule_ends_its_stream_only() {
    let (daemon, origin) = start(|server| {
        let mut held = Vec::new();
        while let Some(call) = server.request() {
            let name = call.path().trim_start_matches('/').to_owned();
            match STREAMS.iter().find(|(known, ..)| *known == name) {
                Some((_, script, _)) => script(server, call.stream),
                None if name == "held" => held.push(call.stream),
                None => {
                    for stream in held.drain(..).chain([call.stream]) {
                        server.answer(stream, &[], b"fine", TRAILERS);
                    }
                }
            }
        }
    });
    let mut client = H2::connect(daemon.port(0));
    let held = client.get("/held", CALL);
    for (name, _, words) in STREAMS {
        let stream = client.get(&format!("/{name}"), CALL);
        let answer = client.answer(stream);
        if *name == "bomb" {
            assert!(answer.reset.is_some() || answer.status == 502, "{name}: {answer:?}");
        } else {
            assert_eq!(answer.status, 502, "{name}: {answer:?}");
            daemon.wait_log(&format!("upstream (sent )?.*{words}"));
        }
    }
    let last = client.get("/fine", CALL);
    assert_eq!(client.answer(last).text(), "fine");
    assert_eq!(client.answer(held).text(), "fine");
    assert_eq!(origin.accepted(), 1, "the connection went on");
}

/// Faults that end a response that has begun: it never looks complete.
#[test]
fn a_response_that_breaks_off_is_cut_off() {
    const CUTS: &[(&str, Script)] = &[
        ("long", |server, id| {
            server.head(id, &[(":status", "200"), ("content-length", "3")], 0).data(id, b"four", 0);
        }),
        ("short", |server, id| {
            server.head(id, &[(":status", "200"), ("content-length", "9")], 0).data(id, b"four", END_STREAM);
        }),
        ("short-trailers-only", |server, id| {
            server.head(id, &[(":status", "200"), ("content-length", "9"), ("grpc-status", "0")], END_STREAM);
        }),
        ("short-trailers", |server, id| {
            server.head(id, &[(":status", "200"), ("content-length", "9")], 0).data(id, b"four", 0);
            server.head(id, TRAILERS, END_STREAM);
        }),
        ("open-trailers", |server, id| {
            server.head(id, &[(":status", "200")], 0).data(id, b"four", 0).head(id, TRAILERS, 0);
        }),
        ("odd-trailers", |server, id| {
            server.head(id, &[(":status", "200")], 0).data(id, b"four", 0);
            server.head(id, &[(":path", "/")], END_STREAM);
        }),
        ("reset", |server, id| {
            server.head(id, &[(":status", "200")], 0).data(id, b"four", 0).reset(id, 8);
        }),
    ];
    let (daemon, origin) = start(|server| {
        while let Some(call) = server.request() {
            let name = call.path().trim_start_matches('/').to_owned();
            match CUTS.iter().find(|(known, ..)| *known == name) {
                Some((_, script)) => script(server, call.stream),
                None => server.answer(call.stream, &[], b"fine", TRAILERS),
            }
        }
    });
    let mut client = H2::connect(daemon.port(0));
    for (name, _) in CUTS {
        let stream = client.get(&format!("/{name}"), CALL);
        let answer = client.answer(stream);
        assert!(!answer.is_complete || answer.status == 502, "{name}: {answer:?}");
        let next = client.get("/fine", CALL);
        assert_eq!(client.answer(next).text(), "fine", "after {name}");
    }
    assert_eq!(origin.accepted(), 1);
}

/// Faults that end a connection: its requests get 502, the next one a new connection.
#[test]
fn a_connection_that_breaks_a_rule_is_replaced() {
    const BREAKS: &[(&str, Script, &str)] = &[
        ("http1", |server, _| server.send_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ""),
        (
            "push",
            |server, id| {
                server.send(5, END_HEADERS, id, &[0, 0, 0, 2]);
            },
            "PUSH_PROMISE",
        ),
        (
            "large",
            |server, id| server.send_bytes(&[0, 0x40, 1, DATA, 0, 0, 0, 0, id as u8]),
            "too large frame",
        ),
        (
            "idle",
            |server, id| {
                server.data(id + 2, b"x", 0);
            },
            "idle stream",
        ),
        (
            "even",
            |server, _| {
                server.head(2, &[(":status", "200")], 0);
            },
            "incorrect stream",
        ),
        (
            "index",
            |server, id| {
                server.send(HEADERS, END_HEADERS, id, &[0xff, 0xff, 0x7f]);
            },
            "hpack",
        ),
        (
            "window",
            |server, _| {
                server.send(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
            },
            "window too large",
        ),
        (
            "settings",
            |server, _| {
                server.send(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]);
            },
            "INITIAL_WINDOW_SIZE",
        ),
        (
            "inside",
            |server, id| {
                server.send(HEADERS, 0, id, b"").send(PING, 0, 0, &[0; 8]);
            },
            "inside a header block",
        ),
        (
            "continuation",
            |server, id| {
                server.send(CONTINUATION, 0, id, b"");
            },
            "unexpected CONTINUATION",
        ),
        (
            "pings",
            |server, _| flood(server, &frame(PING, 0, 0, &[0; 8])),
            "too many frames without use, at last PING",
        ),
        ("settings-flood", |server, _| flood(server, &frame(SETTINGS, 0, 0, b"")), "at last SETTINGS"),
        (
            "updates",
            |server, id| flood(server, &frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 1])),
            "too many frames|too large",
        ),
        (
            "continuations",
            |server, id| {
                server.send(HEADERS, 0, id, &block(&[(":status", "200")]));
                flood(server, &frame(CONTINUATION, 0, id, &block(&[("x", "y")])));
            },
            "too large header|at last CONTINUATION",
        ),
        (
            "empty",
            |server, id| {
                server.head(id, &[(":status", "200")], 0);
                flood(server, &frame(DATA, 0, id, b""));
            },
            "",
        ),
        (
            "half",
            |server, id| server.send_bytes(&[0, 0, 50, HEADERS, END_HEADERS, 0, 0, 0, id as u8, 0x88]),
            "prematurely closed",
        ),
        (
            "leaves",
            |server, _| {
                server.go_away(0, 11);
            },
            "sent goaway with error 11",
        ),
    ];
    fn flood(server: &mut H2Server<'_>, bytes: &[u8]) {
        let many = bytes.repeat(100);
        (0..300).for_each(|_| server.send_bytes(&many));
    }
    let (daemon, origin) = start(|server| {
        while let Some(call) = server.request() {
            let name = call.path().trim_start_matches('/').to_owned();
            match BREAKS.iter().find(|(known, ..)| *known == name) {
                Some((_, script, _)) => {
                    script(server, call.stream);
                    if name != "half" {
                        server.read_until(|_| false);
                    }
                    return;
                }
                None => server.answer(call.stream, &[], b"fine", TRAILERS),
            }
        }
    });
    let mut client = H2::connect(daemon.port(0));
    for (index, (name, _, words)) in BREAKS.iter().enumerate() {
        let stream = client.open("POST", &format!("/{name}"), CALL, END_STREAM);
        let answer = client.answer(stream);
        assert!(answer.status == 502 || answer.reset.is_some(), "{name}: {answer:?}");
        if !words.is_empty() {
            daemon.wait_log(&format!("{words}.*/{name}"));
        }
        origin.wait_ended(index + 1);
        let next = client.get("/fine", CALL);
        assert_eq!(client.answer(next).text(), "fine", "after {name}");
    }
    // the worker is the one that it was
    wait_for("no crash", || daemon.complaints("crit|alert|emerg").is_empty().then_some(()));
}
