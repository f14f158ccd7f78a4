//! rustls on both ends, in memory: sessions resume through the shared cache and through tickets, in any
//! worker with the same settings, and in no server block with others.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};

use super::client_sessions::ClientSessions;
use super::context::{Context, Settings};
use super::session_cache::{SessionCache, TIMEOUT_S, Zone, Zones};
use super::ticket::{Keys, SharedKeys, TicketKey, Ticketer};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// One certificate, which both ends trust and present.
struct Pki {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    roots: Arc<RootCertStore>,
}

impl Pki {
    fn new() -> Self {
        let issued = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("issued");
        let certificate = issued.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("parses");
        Self { certificate, key: issued.signing_key.serialize_der(), roots: Arc::new(roots) }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// A server block as every worker makes it of its configuration.
    fn server(&self, asks_for_certificate: bool, set: impl FnOnce(&mut ServerConfig)) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_protocol_versions(&VERSIONS);
        let builder = if asks_for_certificate {
            let verifier = WebPkiClientVerifier::builder(self.roots.clone()).build().expect("built");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config =
            builder.with_single_cert(vec![self.certificate.clone()], self.key()).expect("a pair");
        set(&mut config);
        Arc::new(config)
    }

    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        store: Arc<dyn ClientSessionStore>,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_protocol_versions(&[version]);
        let builder = builder.with_root_certificates(self.roots.clone());
        let chain = vec![self.certificate.clone()];
        let mut config = builder.with_client_auth_cert(chain, self.key()).expect("a pair");
        config.resumption = Resumption::store(store);
        config.enable_early_data = true;
        Arc::new(config)
    }
}

fn any_store() -> Arc<dyn ClientSessionStore> {
    Arc::new(ClientSessionMemoryCache::new(32))
}

/// The outcome of a handshake.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    is_resumed: bool,
    /// The server knows the client's certificate.
    is_certified: bool,
    early_bytes: usize,
}

fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let name = ServerName::try_from("a.test").expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a client");
    let mut server = ServerConnection::new(server.clone()).expect("a server");
    if let Some(mut early) = client.early_data() {
        early.write_all(b"early").expect("room");
    }
    let mut early_bytes = 0;
    // The tickets of TLS 1.3 come after the handshake: go on until both are silent.
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire).expect("memory");
            server.process_new_packets().expect("the server agrees");
        }
        if let Some(mut early) = server.early_data() {
            early_bytes += early.read(&mut [0; 16]).unwrap_or(0);
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).expect("memory");
            client.process_new_packets().expect("the client agrees");
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let kinds = [client.handshake_kind(), server.handshake_kind()];
    assert_eq!(kinds[0], kinds[1]);
    let is_certified = server.peer_certificates().is_some_and(|chain| !chain.is_empty());
    Outcome { is_resumed: kinds[0] == Some(HandshakeKind::Resumed), is_certified, early_bytes }
}

fn is_resumed(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> bool {
    connect(client, server).is_resumed
}

fn context(verify: &str) -> Context {
    Context::new(&Settings { server: &[b"a.test"], verify, depth: 1, ..Settings::default() })
}

fn zone(name: &str) -> Arc<Zone> {
    let zone = Zones::default().declare(name, 256 << 10).expect("declared");
    zone.open().expect("maps");
    zone
}

/// Makes a server resume sessions of a context.
type Way = Box<dyn Fn(&mut ServerConfig, Context)>;

/// The ways of resumption; what two calls set is what two workers have.
fn ways(name: &str) -> Vec<(&'static str, Way)> {
    let zone = zone(name);
    let cache = move |config: &mut ServerConfig, context| {
        config.session_storage = Arc::new(SessionCache::shared(zone.clone(), context, TIMEOUT_S));
    };
    // No cache, which would hide that a ticket was refused.
    let files = |config: &mut ServerConfig, context| {
        let keys = Keys::Files([TicketKey::parse(&[7; 48]).expect("a key")].into());
        config.session_storage = Arc::new(SessionCache::none(context));
        config.ticketer = Arc::new(Ticketer::new(keys, context, TIMEOUT_S));
    };
    let shared = |config: &mut ServerConfig, context| {
        let keys = SharedKeys::new(TIMEOUT_S);
        keys.open().expect("maps");
        config.session_storage = Arc::new(SessionCache::none(context));
        config.ticketer = Arc::new(Ticketer::new(Keys::Shared(Arc::new(keys)), context, TIMEOUT_S));
    };
    vec![("cache", Box::new(cache)), ("key file", Box::new(files)), ("shared keys", Box::new(shared))]
}

#[test]
fn sessions_resume_in_any_worker() {
    let pki = Pki::new();
    for (way, set) in ways("resumption.workers") {
        for version in VERSIONS {
            let worker = || pki.server(true, |config| set(config, context("on")));
            let client = pki.client(version, any_store());
            let outcomes = [(); 3].map(|()| connect(&client, &worker()));
            let expected = [false, true, true].map(|is_resumed| (is_resumed, true));
            assert_eq!(outcomes.map(|o| (o.is_resumed, o.is_certified)), expected, "{way} {version:?}");
        }
    }
}

#[test]
fn sessions_do_not_resume_under_other_rules_for_certificates() {
    let pki = Pki::new();
    for (way, set) in ways("resumption.contexts") {
        for version in VERSIONS {
            let open = pki.server(false, |config| set(config, context("off")));
            let strict = pki.server(true, |config| set(config, context("on")));
            let stricter = pki.server(true, |config| set(config, context("optional")));
            let client = pki.client(version, any_store());
            for (server, is_certified) in [(&open, false), (&strict, true), (&stricter, true), (&open, false)]
            {
                let outcome = connect(&client, server);
                assert_eq!(
                    (outcome.is_resumed, outcome.is_certified),
                    (false, is_certified),
                    "{way} {version:?}"
                );
            }
            assert!(is_resumed(&client, &open), "{way} {version:?}");
        }
    }
}

#[test]
fn early_data_is_accepted_once() {
    let pki = Pki::new();
    let zone = zone("resumption.early");
    let worker = || {
        pki.server(false, |config| {
            config.session_storage = Arc::new(SessionCache::shared(zone.clone(), context("off"), TIMEOUT_S));
            config.max_early_data_size = 1024;
        })
    };
    let client = pki.client(&version::TLS13, any_store());
    assert_eq!(connect(&client, &worker()).early_bytes, 0);
    let name = ServerName::try_from("a.test").expect("a name");
    let mut client = ClientConnection::new(client, name).expect("a client");
    client.early_data().expect("there is a ticket").write_all(b"early").expect("room");
    let mut recorded = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut recorded).expect("memory");
    }
    // Somebody has recorded these bytes, and sends them to all workers.
    let accepted = [(); 4].map(|()| {
        let mut server = ServerConnection::new(worker()).expect("a server");
        server.read_tls(&mut &recorded[..]).expect("memory");
        // The early data of a refused ticket cannot be decrypted, and is skipped.
        server.process_new_packets().expect("a full handshake");
        server.early_data().map_or(0, |mut early| early.read(&mut [0; 16]).unwrap_or(0))
    });
    assert_eq!(accepted, [5, 0, 0, 0]);
}

#[test]
fn off_and_none_resume_nothing() {
    let pki = Pki::new();
    for version in VERSIONS {
        for cache in [SessionCache::off, SessionCache::none] {
            let server = pki.server(false, |config| config.session_storage = Arc::new(cache(context("off"))));
            let client = pki.client(version, any_store());
            assert!((0..3).all(|_| !is_resumed(&client, &server)), "{version:?}");
        }
    }
}

#[test]
fn whatever_stands_in_the_cache_costs_a_full_handshake_at_most() {
    let pki = Pki::new();
    let zone = zone("resumption.hostile");
    let server = pki.server(false, |config| {
        config.session_storage =
            Arc::new(Spoiling(SessionCache::shared(zone, context("off"), TIMEOUT_S), 0.into()));
    });
    for version in VERSIONS {
        let client = pki.client(version, any_store());
        for _ in 0..150 {
            assert!(!is_resumed(&client, &server), "{version:?}");
        }
    }
}

/// A hostile worker writes valid entries whose values are no sessions: each is cut somewhere else.
#[derive(Debug)]
struct Spoiling(SessionCache, std::sync::atomic::AtomicUsize);

impl rustls::server::StoresServerSessions for Spoiling {
    fn put(&self, id: Vec<u8>, mut value: Vec<u8>) -> bool {
        let cut = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % value.len();
        value.truncate(cut);
        self.0.put(id, value)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.get(id).expect("stored"))
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.take(id).expect("stored"))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[test]
fn sessions_with_upstreams_are_used_again_until_others_need_the_room() {
    let pki = Pki::new();
    let server = pki.server(true, |_| ());
    for version in VERSIONS {
        let sessions = ClientSessions::new(2);
        // Clones: rustls uses no session again with another verifier or other credentials.
        let base = pki.client(version, any_store());
        let client = |peer: &str| {
            let mut config = ClientConfig::clone(&base);
            config.resumption = Resumption::store(Arc::new(sessions.of(peer)));
            Arc::new(config)
        };
        assert!(!is_resumed(&client("10.0.0.1:443"), &server));
        assert!(is_resumed(&client("10.0.0.1:443"), &server), "{version:?}");
        assert!(!is_resumed(&client("10.0.0.2:443"), &server), "another peer has other sessions");
        assert!(is_resumed(&client("10.0.0.1:443"), &server));
        assert!(!is_resumed(&client("10.0.0.3:443"), &server), "takes the place of the second");
        assert!(is_resumed(&client("10.0.0.1:443"), &server));
        assert!(!is_resumed(&client("10.0.0.2:443"), &server));
    }
}
