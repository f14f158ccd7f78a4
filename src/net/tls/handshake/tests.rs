//! Handshakes between our side and another implementation, cut, dripped and broken off.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConnection, RootCertStore};

use super::*;
use crate::net::Transport;
use crate::runtime::{self, Runtime};

/// A server for "localhost", and a client that trusts it.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.key_log = Arc::new(Catcher::default());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// Runs the server's side against a client on another thread, which gets the socket's other end.
fn serve<T: 'static>(
    config: Arc<ServerConfig>,
    client: impl FnOnce(UnixStream) + Send + 'static,
    server: impl AsyncFnOnce(Io, Result<Accepted<()>, Error>) -> T + 'static,
) -> T {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let thread = std::thread::spawn(move || client(theirs));
    let result = Runtime::new().unwrap().block_on(async move {
        let io = Io::register(ours.into()).unwrap();
        let choose = |_: &ClientHello| Some(Choice { config, record_bytes: PLAIN_BYTES_MAX, chosen: () });
        let accepted = accept(&io, Buffer::default(), choose).await;
        server(io, accepted).await
    });
    thread.join().unwrap();
    result
}

/// Everything that the client sends, until it says so by closing.
async fn text(io: Io, accepted: Result<Accepted<()>, Error>) -> Vec<u8> {
    let Ok(Accepted::Session(session, ())) = accepted else { panic!("no session") };
    let mut transport = Transport::from(io);
    transport.secure(*session);
    let mut text = Vec::new();
    loop {
        let mut some = [0; 1000];
        match std::future::poll_fn(|cx| transport.poll_read(cx, &mut some)).await.unwrap() {
            0 => return text,
            count => text.extend_from_slice(&some[..count]),
        }
    }
}

/// Makes the client's handshake up to the flight that completes it, which is returned unsent.
fn last_flight(tls: &mut ClientConnection, socket: &mut UnixStream) -> Vec<u8> {
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(socket).unwrap();
        }
        tls.read_tls(socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    let mut flight = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut flight).unwrap();
    }
    flight
}

#[test]
fn a_key_update_may_come_in_the_packet_that_ends_the_handshake() {
    let (server, config) = configs();
    let send = move |mut socket: UnixStream| {
        let mut tls = client(&config);
        let mut bytes = last_flight(&mut tls, &mut socket);
        tls.writer().write_all(b"one ").unwrap();
        tls.refresh_traffic_keys().unwrap();
        tls.writer().write_all(b"two").unwrap();
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        socket.write_all(&bytes).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    };
    assert_eq!(serve(server, send, text), b"one two");
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let (server, config) = configs();
    let send = move |mut socket: UnixStream| {
        let mut tls = client(&config);
        let mut first = Vec::new();
        tls.write_tls(&mut first).unwrap();
        for byte in first {
            socket.write_all(&[byte]).unwrap();
        }
        let mut bytes = last_flight(&mut tls, &mut socket);
        tls.writer().write_all(b"text").unwrap();
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        for byte in bytes {
            socket.write_all(&[byte]).unwrap();
        }
        let _ = socket.read_to_end(&mut Vec::new());
    };
    assert_eq!(serve(server, send, text), b"text");
}

#[test]
fn messages_of_tiny_records_cost_linear_time_and_bounded_memory() {
    let (server, config) = configs();
    let send = move |mut socket: UnixStream| {
        let mut tls = client(&config);
        let mut first = Vec::new();
        tls.write_tls(&mut first).unwrap();
        let tiny: Vec<u8> = first[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
        socket.write_all(&tiny).unwrap();
        let mut answer = [0; 1];
        assert_eq!(socket.read(&mut answer).unwrap(), 1);
        // The start of a message that never ends.
        let endless = [&[22, 3, 3, 0, 4, 11, 0, 255, 255][..], &[22, 3, 3, 0, 1, 7].repeat(20_000)].concat();
        let _ = socket.write_all(&endless);
    };
    serve(server, send, async |_, accepted| {
        assert!(matches!(accepted, Err(Error::TooLarge | Error::Tls(_))));
    });
}

#[test]
fn a_client_that_ends_early_is_told_apart_wherever_it_ends() {
    let (server, config) = configs();
    let mut first = Vec::new();
    client(&config).write_tls(&mut first).unwrap();
    for length in [1, 4, 5, 6, 100, first.len() - 1, first.len()] {
        let part = first[..length].to_vec();
        let send = move |mut socket: UnixStream| socket.write_all(&part).unwrap();
        serve(Arc::clone(&server), send, async move |_, accepted| {
            assert!(matches!(accepted, Err(Error::Closed | Error::Io(_))), "{length}");
        });
    }
}

#[test]
fn what_is_no_tls_is_given_back() {
    let (server, _) = configs();
    let send = |mut socket: UnixStream| socket.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    serve(server, send, async |_, accepted| {
        let Ok(Accepted::Plain(first)) = accepted else { panic!("TLS") };
        assert_eq!(first.data(), b"GET / HTTP/1.1\r\n");
    });
}

#[test]
fn a_handshake_that_waits_gives_way_to_other_connections() {
    let (server, _) = configs();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(&[22, 3, 1, 2]).unwrap();
    Runtime::new().unwrap().block_on(async move {
        let io = Io::register(ours.into()).unwrap();
        runtime::spawn(async {
            while runtime::ask_to_close(1) == 0 {
                runtime::sleep(1).await;
            }
        });
        let choose = |_: &ClientHello| {
            let config = Arc::clone(&server);
            Some(Choice { config, record_bytes: PLAIN_BYTES_MAX, chosen: () })
        };
        let accepted = accept(&io, Buffer::default(), choose).await;
        assert!(matches!(accepted, Err(Error::GaveWay)));
    });
}

/// Changes bytes, cuts the end off, and appends more.
fn damaged(mut bytes: Vec<u8>, changes: &[(usize, u8)], cut: usize, more: &[u8]) -> Vec<u8> {
    bytes.truncate(bytes.len() - cut.min(bytes.len()));
    for &(at, value) in changes {
        let length = bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at % length) {
            *byte = value;
        }
    }
    bytes.extend_from_slice(more);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Damage to either flight of a client ends the handshake or does not, and never ends the task.
    #[test]
    fn damaged_handshakes_are_survived(
        is_second in any::<bool>(),
        is_tls12 in any::<bool>(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        cut in prop::sample::select(vec![0_usize, 0, 0, 1, 5, 50]),
        more in prop::sample::select(vec![
            vec![], vec![22, 3, 3, 0, 4, 1, 0, 0, 0], vec![21, 3, 3, 0, 2, 2, 40], vec![20, 3, 3, 0, 1, 1],
            vec![22, 3, 3, 0, 4, 11, 0, 0, 0, 22, 3, 3, 0, 4, 14, 0, 0, 0], vec![23, 3, 3, 0, 1, 0], vec![0; 40],
            vec![22, 3, 1, 255, 255],
        ]),
    ) {
        let (server, config) = configs();
        let send = move |mut socket: UnixStream| {
            let mut config = ClientConfig::clone(&config);
            if is_tls12 {
                let provider = Arc::clone(config.crypto_provider());
                config = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[&rustls::version::TLS12])
                    .unwrap()
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Anyone))
                    .with_no_client_auth();
            }
            let mut tls = client(&Arc::new(config));
            let mut first = Vec::new();
            tls.write_tls(&mut first).unwrap();
            if !is_second {
                socket.write_all(&damaged(first, &changes, cut, &more)).unwrap();
            } else {
                socket.write_all(&first).unwrap();
                while tls.is_handshaking() && !tls.wants_write() {
                    tls.read_tls(&mut socket).unwrap();
                    tls.process_new_packets().unwrap();
                }
                let mut second = Vec::new();
                while tls.wants_write() {
                    tls.write_tls(&mut second).unwrap();
                }
                socket.write_all(&damaged(second, &changes, cut, &more)).unwrap();
            }
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = socket.read_to_end(&mut Vec::new());
        };
        serve(server, send, async |io, accepted| {
            if let Ok(Accepted::Session(session, ())) = accepted {
                let mut transport = Transport::from(io);
                transport.secure(*session);
                let mut some = [0; 1000];
                while std::future::poll_fn(|cx| transport.poll_read(cx, &mut some)).await.is_ok_and(|count| count > 0) {}
            }
        });
    }
}

/// Accepts any certificate: what is damaged is the client's part.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
