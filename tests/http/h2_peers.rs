//! HTTP/2 with peers that others have written: the `h2` crate and `hyper`, as clients of the daemon and as servers behind it.
//!
//! Each runs on a loop of its own, in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use h2::{Reason, RecvStream, SendStream, client, server};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::tasks::{listen, run, whole};
use crate::support::{Daemon, Setup};

const CONF: &str = "worker_processes 1;
    http {
        http2 on;
        access_log off;
        proxy_http_version 2;
        upstream u { server %%ORIGIN%%; }
        server {
            listen 127.0.0.1:%%PORT_0%%;
            client_max_body_size 10m;
            location / { proxy_pass http://u; proxy_next_upstream error non_idempotent; }
            location /svc/ { grpc_pass u; }
            location /here { return 200 here; }
        }
    }";

fn start(origin: SocketAddr) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin).level("info").start()
}

/// What a server of the `h2` crate has done.
#[derive(Default)]
struct Deeds {
    connections: AtomicUsize,
    has_refused: AtomicBool,
}

fn h2_server(deeds: Arc<Deeds>) -> SocketAddr {
    listen(move |stream| {
        let deeds = Arc::clone(&deeds);
        async move {
            deeds.connections.fetch_add(1, Ordering::SeqCst);
            let Ok(mut connection) = server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let is_last = request.uri().path() == "/last";
                tokio::spawn(answer(request, respond, Arc::clone(&deeds)));
                if is_last {
                    connection.graceful_shutdown();
                }
            }
        }
    })
}

/// Answers with the request's body and, as trailers, a status of gRPC.
async fn answer(request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>, deeds: Arc<Deeds>) {
    match request.uri().path() {
        "/refused" if !deeds.has_refused.swap(true, Ordering::SeqCst) => {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        "/broken" => {
            let mut send = respond.send_response(Response::new(()), false).expect("a head");
            send.send_data(Bytes::from_static(b"part"), false).expect("data");
            // The head and the data leave before the reset, which would take them back otherwise.
            tokio::task::yield_now().await;
            return send.send_reset(Reason::INTERNAL_ERROR);
        }
        _ => {}
    }
    let body = whole(request.into_body()).await.map(|(body, _)| body).unwrap_or_default();
    let mut send = respond.send_response(Response::new(()), false).expect("a head");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let _ = send.send_data(body.into(), false);
    let _ = send.send_trailers(trailers);
}

async fn h2_client(port: u16) -> client::SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    let (client, connection) = client::handshake(stream).await.expect("a connection");
    tokio::spawn(async move { connection.await.expect("no error of the protocol") });
    client.ready().await.expect("ready")
}

fn request(method: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("http://a.test{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).expect("a request")
}

/// Sends a request with this body; the answer's status, body and trailers.
async fn ask(
    client: &client::SendRequest<Bytes>,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut send): (_, SendStream<Bytes>) = client.send_request(request("POST", path), false)?;
    send.send_data(Bytes::copy_from_slice(body), true)?;
    let response = response.await?;
    let status = response.status().as_u16();
    let (body, trailers) = whole(response.into_body()).await?;
    Ok((status, body, trailers))
}

#[test]
fn many_streams_of_the_h2_crate_pass_in_both_directions() {
    let deeds = Arc::new(Deeds::default());
    let daemon = start(h2_server(Arc::clone(&deeds)));
    run(async {
        let client = h2_client(daemon.port(0)).await;
        let calls = (0..60_usize).map(|index| {
            let client = client.clone();
            tokio::spawn(async move {
                // Up to five times the initial window of a stream.
                let body: Vec<u8> = (0..index * 5_500).map(|at| (at * index % 251) as u8).collect();
                let path = if index % 2 == 0 { "/svc/Echo" } else { "/echo" };
                let (status, echo, trailers) = ask(&client, path, &body).await.expect("an answer");
                assert_eq!((status, echo == body), (200, true), "{path} {index}");
                if index % 2 == 0 {
                    let trailers = trailers.expect("trailers");
                    assert_eq!(trailers.get("grpc-status").map(|value| value.as_bytes()), Some(&b"0"[..]));
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic");
        }
        let (status, body, _) = ask(&client, "/here", b"").await.expect("an answer");
        assert_eq!((status, &*body), (200, &b"here"[..]));
    });
}

#[test]
fn trailers_of_a_request_end_it() {
    let daemon = start(h2_server(Arc::default()));
    run(async {
        let mut client = h2_client(daemon.port(0)).await;
        let (response, mut send) = client.send_request(request("POST", "/svc/Echo"), false).expect("sent");
        send.send_data(Bytes::from_static(b"body"), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "1".parse().expect("a value"));
        send.send_trailers(trailers).expect("sent");
        let (body, trailers) = whole(response.await.expect("a head").into_body()).await.expect("a body");
        assert_eq!((&*body, trailers.is_some()), (&b"body"[..], true));
    });
}

#[test]
fn a_stream_that_a_server_refuses_is_repeated_and_one_that_breaks_off_harms_no_other() {
    let deeds = Arc::new(Deeds::default());
    let daemon = start(h2_server(Arc::clone(&deeds)));
    run(async {
        let client = h2_client(daemon.port(0)).await;
        let (status, body, _) = ask(&client, "/refused", b"again").await.expect("an answer");
        assert_eq!((status, &*body), (200, &b"again"[..]));
        assert!(deeds.has_refused.load(Ordering::SeqCst));
        let beside = client.clone();
        let beside = tokio::spawn(async move { ask(&beside, "/echo", b"whole").await });
        let broken = ask(&client, "/broken", b"x").await;
        assert_eq!(beside.await.expect("no panic").expect("an answer").1, b"whole");
        // Nothing had reached the client if the response fitted into a buffer.
        assert!(broken.is_err() || broken.is_ok_and(|(status, ..)| status == 502));
        // A server that leaves after a response is replaced by a connection that is new.
        for index in 0..5 {
            assert_eq!(ask(&client, "/last", b"bye").await.expect("an answer").1, b"bye", "{index}");
        }
        assert!(deeds.connections.load(Ordering::SeqCst) >= 5);
    });
}

#[test]
fn streams_that_a_client_gives_up_harm_no_other() {
    let daemon = start(h2_server(Arc::default()));
    run(async {
        let client = h2_client(daemon.port(0)).await;
        for round in 0..20 {
            let mut other = client.clone().ready().await.expect("ready");
            let (response, mut send) = other.send_request(request("POST", "/echo"), false).expect("sent");
            send.send_data(Bytes::from_static(b"half"), false).expect("sent");
            send.send_reset(Reason::CANCEL);
            drop(response);
            let answer = ask(&client, "/echo", b"whole").await.expect("an answer");
            assert_eq!(answer.1, b"whole", "{round}");
        }
    });
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    Ok(Response::new(Full::new(request.into_body().collect().await?.to_bytes())))
}

#[test]
fn hyper_on_both_sides_gets_every_body_whole() {
    let origin = listen(|stream| async {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
    });
    let daemon = start(origin);
    run(async {
        let stream = TcpStream::connect(("127.0.0.1", daemon.port(0))).await.expect("connects");
        let io = TokioIo::new(stream);
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a connection");
        tokio::spawn(connection);
        let calls = (0..40_usize).map(|index| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let body = vec![index as u8; index * 20_000];
                let request = Request::post("http://a.test/echo").body(Full::new(Bytes::from(body.clone())));
                let response = client.send_request(request.expect("a request")).await.expect("an answer");
                assert_eq!(response.status(), 200);
                let echo = response.into_body().collect().await.expect("a body").to_bytes();
                assert!(echo == body, "{index}");
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic");
        }
    });
}
