//! What connections may be exchanged for each other, and handshakes with servers that break off or lie.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::net::tls::settings::{Protocols, Selected, provider};
use crate::net::tls::verify::Purpose;
use crate::runtime::{Runtime, timeout};

fn client(sends_name: bool) -> Client {
    let selected = Selected::default();
    Client::new(Settings {
        provider: provider(&selected),
        versions: selected.protocols.versions(),
        trust: None,
        certificate: None,
        sends_name,
        protocols: Vec::new(),
        reuses_sessions: true,
        key_log: None,
        prefix: "proxy",
    })
    .expect("settings that fit")
}

#[test]
fn a_name_has_no_port() {
    for (text, expected) in [
        ("a.test", "a.test"),
        ("a.test:8443", "a.test"),
        ("127.0.0.1:8443", "127.0.0.1"),
        ("[::1]:8443", "::1"),
        ("[::1]", "::1"),
        ("[::1", "["),
        ("", ""),
    ] {
        assert_eq!(without_port(text), expected, "{text}");
    }
}

#[test]
fn terms_differ_by_what_a_connection_depends_on() {
    let (named, blind) = (Arc::new(client(true)), Arc::new(client(false)));
    let terms = |client: &Arc<Client>, name: &str, certificate: Option<&str>| {
        let certificate = certificate.map(|name| Box::new([name.to_owned().into(), "key".to_owned().into()]));
        Terms::new(Arc::clone(client), name, certificate)
    };
    assert_eq!(terms(&named, "a", None), terms(&named, "a:443", None));
    assert_ne!(terms(&named, "a", None), terms(&named, "b", None));
    assert_eq!(terms(&blind, "a", None), terms(&blind, "b", None), "the name is not used");
    assert_ne!(terms(&blind, "a", None), terms(&named, "a", None));
    assert_ne!(terms(&named, "a", Some("x")), terms(&named, "a", Some("y")));
    assert_ne!(terms(&named, "a", Some("x")), terms(&named, "a", None));
}

/// A server with a certificate of its own, for one version of TLS, and a client that checks it.
struct Lab {
    server: Arc<ServerConfig>,
    client: Arc<Client>,
}

impl Lab {
    /// `is_known`: the client trusts the server.
    fn new(protocols: Protocols, is_known: bool) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["up.test".to_owned()]).expect("a name");
        let certificate: CertificateDer<'static> = params.self_signed(&key).expect("a certificate").into();
        let selected = Selected { protocols, ..Selected::default() };
        let server = ServerConfig::builder_with_provider(provider(&selected))
            .with_protocol_versions(protocols.versions())
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a pair");
        let trusted: &[CertificateDer<'_>] = if is_known { &[certificate] } else { &[] };
        let trust = Trust::new(Purpose::Server, 1, trusted, []).expect("a certificate that parses");
        let client = Client::new(Settings {
            provider: provider(&selected),
            versions: protocols.versions(),
            trust: Some(Arc::new(trust)),
            certificate: None,
            sends_name: true,
            protocols: Vec::new(),
            reuses_sessions: false,
            key_log: None,
            prefix: "proxy",
        });
        Self { server: Arc::new(server), client: Arc::new(client.expect("settings that fit")) }
    }

    /// Makes a handshake in which `change` gets the server's first flight before the client does; false: the
    /// server closes the connection behind it.
    async fn shake(
        &self,
        change: impl FnOnce(&mut Vec<u8>) -> bool + Send + 'static,
    ) -> Result<Box<Session>, Error> {
        let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
        ours.set_nonblocking(true).expect("a socket");
        let io = Io::register(ours.into()).expect("a socket");
        let config = Arc::clone(&self.server);
        let server = std::thread::spawn(move || {
            let mut connection = ServerConnection::new(config).expect("a server");
            let mut change = Some(change);
            let mut flight = Vec::new();
            while connection.is_handshaking() {
                if !matches!(connection.read_tls(&mut theirs), Ok(1..))
                    || connection.process_new_packets().is_err()
                {
                    break;
                }
                flight.clear();
                while connection.wants_write() {
                    connection.write_tls(&mut flight).expect("memory");
                }
                let goes_on = flight.is_empty() || change.take().is_none_or(|change| change(&mut flight));
                let _ = theirs.write_all(&flight);
                if !goes_on {
                    let _ = theirs.shutdown(Shutdown::Write);
                    break;
                }
            }
            let _ = theirs.read_to_end(&mut Vec::new());
        });
        let terms = Terms::new(Arc::clone(&self.client), "up.test", None);
        // A length that was changed makes both sides wait for each other.
        let outcome = timeout(100, self.client.connect(&io, &terms, "peer")).await;
        drop(io);
        server.join().expect("a server that does not panic");
        outcome.unwrap_or(Err(Error::Name))
    }
}

const VERSIONS: [Protocols; 2] =
    [Protocols { tls12: true, tls13: false }, Protocols { tls12: false, tls13: true }];

#[test]
fn a_server_that_lies_breaks_off_or_babbles_ends_the_handshake_and_nothing_else() {
    Runtime::new().expect("a loop").block_on(async {
        for protocols in VERSIONS {
            let lab = Lab::new(protocols, true);
            let (send, receive) = std::sync::mpsc::channel();
            let whole = lab.shake(move |flight| send.send(flight.len()).is_ok()).await;
            assert!(whole.is_ok(), "{:?}", whole.err());
            let length = receive.recv().expect("a flight");
            for at in (0..length - 8).step_by(53) {
                // Whatever it is: an error, never a panic.
                let _ = lab
                    .shake(move |flight| {
                        flight.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x40);
                        true
                    })
                    .await;
                let cut = lab
                    .shake(move |flight| {
                        flight.truncate(at);
                        false
                    })
                    .await;
                assert!(cut.is_err(), "cut at {at}");
                let babbled = lab.shake(move |flight| {
                    flight.truncate(at);
                    flight.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                    false
                });
                assert!(babbled.await.is_err(), "babble at {at}");
            }
        }
    });
}

#[test]
fn what_follows_a_refused_certificate_is_not_looked_at() {
    Runtime::new().expect("a loop").block_on(async {
        for protocols in VERSIONS {
            let lab = Lab::new(protocols, false);
            for garbage in [
                &b""[..],
                b"HTTP/1.1 200 OK\r\n\r\n",
                &[22, 3, 3, 0, 4, 2, 0, 0, 0],
                &[21, 3, 3, 0, 2, 2, 40],
            ] {
                let outcome = lab
                    .shake(move |flight| {
                        flight.extend_from_slice(garbage);
                        true
                    })
                    .await;
                let error = outcome.err().expect("no session");
                assert!(error.refused().is_some(), "{error:?}");
            }
        }
    });
}
