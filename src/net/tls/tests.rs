//! Whole connections in memory: handshakes, data in both directions, moves to another process, and what must not
//! come after a handshake.

use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::certificate::Certificate;
use super::handshake::{self, Accepted, Catcher, Choice};
use super::moved::Moved;
use super::pem::Passwords;
use super::server::{Order, Server, Settings};
use super::settings::{Selected, provider};
use super::verify::ServerVerifier;
use super::*;
use crate::net::Transport;
use crate::runtime::buffer::Buffer;
use crate::runtime::{Io, Runtime, spawn, timeout};

fn pair() -> (Io, Io) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (Io::register(a.into()).unwrap(), Io::register(b.into()).unwrap())
}

fn server(selected: &Selected) -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    Server::new(Settings {
        provider: provider(selected),
        versions: selected.protocols.versions().to_vec(),
        stapling: None,
        certificates: vec![
            Certificate::from_pem(chain.as_bytes(), key.as_bytes(), &Passwords::default()).unwrap(),
        ],
        order: Order::Client,
        sessions: None,
        tickets: None,
        ticket_count: None,
        clients: None,
        protocols: vec![b"http/1.1".to_vec()],
        takes_early_data: false,
        key_log: None,
        compressors: Vec::new(),
        record_bytes: 16 * 1024,
    })
    .unwrap()
}

fn client_config(selected: &Selected) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider(selected));
    let mut config = builder
        .with_protocol_versions(selected.protocols.versions())
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(None, "proxy")))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Catcher::default());
    Arc::new(config)
}

/// Both ends of a connection whose handshake is complete: client and server.
async fn connected(selected: &Selected) -> (Transport, Transport) {
    let (a, b) = pair();
    let server = server(selected);
    let config = client_config(selected);
    let done = std::rc::Rc::new(std::cell::RefCell::new(None));
    let theirs = std::rc::Rc::clone(&done);
    spawn(async move {
        let mut transport = Transport::from(b);
        let accepted = handshake::accept(transport.plain().unwrap(), Buffer::default(), |hello| {
            assert_eq!(&*hello.server_name, "a.test");
            Some(Choice {
                config: Arc::clone(server.config(hello, false)),
                record_bytes: 16 * 1024,
                chosen: (),
            })
        });
        let Ok(Accepted::Session(session, ())) = accepted.await else { panic!("no session") };
        transport.secure(*session);
        // So does the server's in TLS 1.2, for the next poll of any kind.
        poll_fn(|cx| transport.poll_flush(cx)).await.unwrap();
        *theirs.borrow_mut() = Some(transport);
    });
    let mut client = Transport::from(a);
    let name = ServerName::try_from("a.test").unwrap();
    let protocols = config.alpn_protocols.clone();
    let session = handshake::connect(client.plain().unwrap(), config, name, protocols).await.unwrap();
    client.secure(*session);
    // The client's last flight waits for its first request.
    poll_fn(|cx| client.poll_flush(cx)).await.unwrap();
    loop {
        if let Some(server) = done.borrow_mut().take() {
            return (client, server);
        }
        crate::runtime::yield_now().await;
    }
}

async fn read_exactly(transport: &Transport, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buffer = vec![0; 10_000];
    while out.len() < length {
        let count = poll_fn(|cx| transport.poll_read(cx, &mut buffer)).await.unwrap();
        assert!(count > 0, "the end after {} bytes", out.len());
        out.extend_from_slice(&buffer[..count]);
    }
    out
}

/// Sends `length` bytes from one end to the other, both at work at the same time.
async fn travels(from: Transport, to: &Transport, length: usize) -> Transport {
    let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + at / 251) as u8).collect();
    let sent = bytes.clone();
    let back = std::rc::Rc::new(std::cell::RefCell::new(None));
    let given = std::rc::Rc::clone(&back);
    spawn(async move {
        from.write_all(&sent).await.unwrap();
        *given.borrow_mut() = Some(from);
    });
    assert!(timeout(20_000, read_exactly(to, length)).await.unwrap() == bytes);
    loop {
        if let Some(from) = back.borrow_mut().take() {
            return from;
        }
        crate::runtime::yield_now().await;
    }
}

fn each_suite(run: impl AsyncFn(&Selected) + 'static) {
    let all = Selected::default();
    Runtime::new().unwrap().block_on(async move {
        for suite in &all.ciphersuites {
            let mut one = all.clone();
            (one.protocols.tls12, one.ciphersuites) = (false, vec![*suite]);
            run(&one).await;
        }
        for suite in &all.ciphers {
            let mut one = all.clone();
            (one.protocols.tls13, one.ciphers) = (false, vec![*suite]);
            // The certificate is ECDSA.
            if format!("{:?}", suite.suite()).contains("ECDSA") {
                run(&one).await;
            }
        }
    });
}

/// Another process' half of a connection.
fn moved(transport: Transport) -> Transport {
    let (fd, state) = transport.into_parts().unwrap_or_else(|_| panic!("it is idle"));
    let mut transport = Transport::from(Io::register(fd).unwrap());
    transport.secure(Session::moved(Moved::from_bytes(&state.0).expect("what was written")));
    transport
}

#[test]
fn bytes_travel_with_every_cipher_suite_before_and_after_a_move() {
    each_suite(async |selected| {
        let (client, server) = connected(selected).await;
        assert_eq!(client.tls().unwrap().cipher(), server.tls().unwrap().cipher());
        assert_eq!(&*server.tls().unwrap().protocol, b"http/1.1");
        let client = travels(client, &server, 300_000).await;
        let server = travels(server, &client, 1_000_000).await;
        let server = moved(server);
        assert_eq!(server.tls().unwrap().server_name(), "a.test");
        let client = travels(client, &server, 70_000).await;
        let server = travels(server, &client, 100_000).await;
        let server = moved(moved(server));
        let server = travels(server, &client, 3).await;
        // The end is told, not only the socket's.
        client.shutdown().unwrap();
        assert_eq!(poll_fn(|cx| server.poll_read(cx, &mut [0; 9])).await.unwrap(), 0);
    });
}

#[test]
fn a_reader_that_is_slow_stops_its_writer() {
    Runtime::new().unwrap().block_on(async {
        let (client, server) = connected(&Selected::default()).await;
        let data = vec![1; 200_000];
        let mut taken = 0;
        // Until the socket is full, and then a buffer of ciphertext.
        while let Ok(Ok(count)) = timeout(50, poll_fn(|cx| server.poll_write(cx, &data))).await {
            assert!(count > 0 && taken < 10_000_000, "no bound");
            taken += count;
        }
        assert!(timeout(5, poll_fn(|cx| server.poll_flush(cx))).await.is_err(), "some waits");
        assert!(server.into_parts().is_err(), "it cannot move meanwhile");
        drop(client);
    });
}

#[test]
fn keys_are_updated_when_the_peer_asks() {
    each_suite(async |selected| {
        if !selected.protocols.tls13 {
            return;
        }
        let (client, server) = connected(selected).await;
        let Transport::Tls(tls) = &client else { panic!("no TLS") };
        for _ in 0..3 {
            tls.update_keys_and_ask();
            let server_ready = poll_fn(|cx| server.poll_readable(cx)).await;
            server_ready.unwrap();
            let nothing = server.try_read(&mut [0; 9]).unwrap_err();
            assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        }
        let client = travels(client, &server, 50_000).await;
        let server = travels(moved(server), &client, 50_000).await;
        travels(client, &server, 10).await;
    });
}

#[test]
fn hostile_states_are_refused_or_useless() {
    Runtime::new().unwrap().block_on(async {
        let (client, server) = connected(&Selected::default()).await;
        let (fd, state) = server.into_parts().unwrap_or_else(|_| panic!("it is idle"));
        let bytes = &state.0[..];
        for end in 0..bytes.len() {
            assert!(Moved::from_bytes(&bytes[..end]).is_none() || end > 100, "{end}");
        }
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut wrong = bytes.to_vec();
                wrong[at] ^= flip;
                let _ = Moved::from_bytes(&wrong);
            }
        }
        assert!(Moved::from_bytes(&[bytes, &[0; 20_000]].concat()).is_none());
        // Another key reads nothing: the connection ends with an alert.
        let mut wrong = bytes.to_vec();
        wrong[12] ^= 1;
        let mut server = Transport::from(Io::register(fd).unwrap());
        server.secure(Session::moved(Moved::from_bytes(&wrong).unwrap()));
        client.write_all(b"data").await.unwrap();
        let error = poll_fn(|cx| server.poll_read(cx, &mut [0; 9])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(server.try_write(b"x").is_err());
    });
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    Runtime::new().unwrap().block_on(async {
        let (client, server) = connected(&Selected::default()).await;
        let client = travels(client, &server, 100_000).await;
        let server = travels(server, &client, 100_000).await;
        for transport in [&client, &server] {
            let Transport::Tls(tls) = transport else { panic!("no TLS") };
            assert_eq!(tls.held_bytes(), 0);
        }
    });
}
