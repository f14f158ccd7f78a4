//! `health_check type=grpc`: the call of gRPC's health service, and what its answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::calls::{CALL, TRAILERS};
use crate::support::h2::{END_STREAM, H2};
use crate::support::{H2Server, Origin, Setup};

/// A server whose health service gives this answer, or none (255).
fn answer(server: &mut H2Server<'_>, health: &AtomicU8) {
    while let Some(call) = server.whole_request() {
        if call.path() != "/grpc.health.v1.Health/Check" {
            server.answer(call.stream, &[], b"", TRAILERS);
            continue;
        }
        assert_eq!((call.field(":method"), call.field("te")), ("POST", "trailers"));
        assert_eq!(call.field("content-type"), "application/grpc");
        assert_eq!(call.body, b"\0\0\0\0\x05\x0a\x03a.B");
        match health.load(Ordering::SeqCst) {
            255 => {
                server.head(call.stream, &[(":status", "200"), ("grpc-status", "12")], END_STREAM);
            }
            status => server.answer(call.stream, &[], &[0, 0, 0, 0, 2, 8, status], &[("grpc-status", "0")]),
        }
    }
}

fn checked(parameters: &str, in_block: bool) -> (crate::support::Daemon, Origin, Arc<AtomicU8>) {
    let health = Arc::new(AtomicU8::new(1));
    let theirs = Arc::clone(&health);
    let origin = Origin::start(move |peer| {
        if let Some(mut server) = H2Server::begin(peer, &[]) {
            answer(&mut server, &theirs);
        }
    });
    let check = format!("health_check type=grpc grpc_service=a.B interval=50ms {parameters};");
    let (of_block, of_location) = if in_block { (&*check, "") } else { ("", &*check) };
    let conf = format!(
        "worker_processes 1; http {{ http2 on; upstream u {{ zone u 64k; server %%ORIGIN%%; {of_block} }} \
         server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ grpc_pass u; {of_location} }} }} }}"
    );
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).level("info").start();
    (daemon, origin, health)
}

#[test]
fn a_server_that_does_not_serve_gets_no_calls() {
    for in_block in [false, true] {
        let (daemon, _origin, health) = checked("", in_block);
        let mut client = H2::connect(daemon.port(0));
        let stream = client.get("/a.B/C", CALL);
        assert_eq!(client.answer(stream).status, 200);
        health.store(2, Ordering::SeqCst);
        let line = daemon.wait_log("peer is unhealthy");
        assert!(line.contains("checking gRPC status") && line.contains("NOT_SERVING"), "{line}");
        let stream = client.get("/a.B/C", CALL);
        assert_eq!(client.answer(stream).status, 502);
        health.store(1, Ordering::SeqCst);
        daemon.wait_log("peer is healthy");
        let stream = client.get("/a.B/C", CALL);
        assert_eq!(client.answer(stream).status, 200);
        health.store(255, Ordering::SeqCst);
        daemon.wait_log("peer is unhealthy.*grpc-status 12, not 0");
    }
}

#[test]
fn a_server_without_the_health_service_may_be_well() {
    let (daemon, _origin, health) = checked("grpc_status=12", false);
    daemon.wait_log("peer is unhealthy.*grpc-status 0, not 12");
    health.store(255, Ordering::SeqCst);
    daemon.wait_log("peer is healthy");
}

#[test]
fn parameters_that_contradict_each_other_are_refused() {
    let cases = [
        ("grpc_pass u; health_check type=grpc uri=/x;", "has neither \"uri\" nor \"match\""),
        ("grpc_pass u; health_check grpc_service=a;", "require \"type=grpc\""),
        ("grpc_pass u; health_check type=grpc grpc_status=x;", "grpc_status=x"),
        ("proxy_pass http://u; health_check type=grpc;", "requires \"grpc_pass\""),
    ];
    for (lines, expected) in cases {
        let conf = format!(
            "http {{ upstream u {{ zone u 64k; server 127.0.0.1:1; }} server {{ listen 127.0.0.1:%%PORT_0%%; \
             location / {{ {lines} }} }} }}"
        );
        let output = Setup::new(&conf).run(&["-t"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(expected), "{lines}: {told}");
    }
}
