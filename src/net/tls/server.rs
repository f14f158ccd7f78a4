//! The server's side of TLS: what one virtual server has agreed to, ready for handshakes.
//!
//! A [`Server`] is made once, before the workers are forked, and never changes, except for its certificates:
//! newer ones replace them while handshakes go on. Touches: nothing; rustls' settings are values.
//! Directives: the `ssl_*` family.

use std::fmt;
use std::sync::{Arc, OnceLock, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    self, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CipherSuite, KeyLog, NoKeyLog, ProtocolVersion, ServerConfig, SignatureAlgorithm, SignatureScheme,
    SupportedProtocolVersion, compress,
};
use smallvec::SmallVec;

use crate::net::acme::challenges;
use crate::net::tls::Verdict;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::handshake::{Catcher, note_signature};
use crate::net::tls::ocsp::clients::StatusCheck;
use crate::net::tls::ocsp::denial::Denial;
use crate::net::tls::ocsp::stapling::{self, Ignored, Staple, Stapling};
use crate::net::tls::verify::{ClientVerifier, Trust};
use crate::proto::client_hello::ClientHello;
use crate::sys::clock;

/// The most early data of a client (`ssl_early_data`), as in OpenSSL.
pub const EARLY_BYTES_MAX: u32 = 16 * 1024;

/// Whose order of cipher suites counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    Client,
    Server,
    /// The server's, but a client that names ChaCha20-Poly1305 first gets it: it has no instructions for AES
    /// (OpenSSL's `PrioritizeChaCha`).
    #[default]
    ServerAfterChaCha,
}

impl Order {
    /// True if the client's order counts for these suites.
    fn is_of_client(self, suites: &[u16]) -> bool {
        const CHACHA: [CipherSuite; 3] = [
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ];
        // Values of GREASE stand for no suite (RFC 8701).
        let is_grease = |suite: u16| suite & 0x0f0f == 0x0a0a && suite >> 8 == suite & 0xff;
        match self {
            Self::Client => true,
            Self::Server => false,
            Self::ServerAfterChaCha => {
                let first = suites.iter().find(|suite| !is_grease(**suite));
                first.is_some_and(|first| CHACHA.contains(&CipherSuite::from(*first)))
            }
        }
    }
}

/// Everything that a [`Server`] is made of.
pub struct Settings {
    pub provider: Arc<CryptoProvider>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// `ssl_certificate`, in the order of the configuration; of several of one kind the last counts.
    pub certificates: Vec<Certificate>,
    /// `ssl_stapling` without a file.
    pub stapling: Option<Arc<stapling::Settings>>,
    /// `ssl_prefer_server_ciphers`.
    pub order: Order,
    /// `ssl_session_cache`.
    pub sessions: Option<Arc<dyn StoresServerSessions>>,
    /// `ssl_session_tickets`.
    pub tickets: Option<Arc<dyn ProducesTickets>>,
    /// Tickets after a handshake of TLS 1.3; `None`: two, as in OpenSSL.
    pub ticket_count: Option<usize>,
    /// `ssl_verify_client` other than off.
    pub clients: Option<Clients>,
    /// ALPN, in the order of preference.
    pub protocols: Vec<Vec<u8>>,
    /// `ssl_early_data`.
    pub takes_early_data: bool,
    /// `ssl_key_log`.
    pub key_log: Option<Arc<dyn KeyLog>>,
    /// `ssl_certificate_compression`.
    pub compressors: Vec<&'static dyn compress::CertCompressor>,
    /// `ssl_buffer_size`.
    pub record_bytes: usize,
}

/// How clients' certificates are asked for and checked.
pub struct Clients {
    pub verifier: ClientVerifier,
    pub trust: Arc<Trust>,
    /// `ssl_ocsp`.
    pub status: Option<StatusCheck>,
    /// Distinguishes this trust from others: derived from what it is made of.
    pub id: u64,
}

/// A client's certificate, its issuers, and the root.
pub type Path = Vec<CertificateDer<'static>>;

/// What one virtual server offers to clients.
pub struct Server {
    config: Arc<ServerConfig>,
    order: Order,
    /// The same offering HTTP/2 first, going by the client's order of suites, and both.
    variants: [OnceLock<Arc<ServerConfig>>; 3],
    /// The same for QUIC, and going by the client's order of suites.
    quic: [OnceLock<Arc<ServerConfig>>; 2],
    speaks_tls13: bool,
    /// `ssl_key_log`.
    key_log: Option<Arc<dyn KeyLog>>,
    certificates: Arc<Certificates>,
    record_bytes: usize,
    trust: Option<Arc<Trust>>,
    status: Option<StatusCheck>,
    trust_id: u64,
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Server").field("record_bytes", &self.record_bytes).finish_non_exhaustive()
    }
}

impl Server {
    /// Errors: rustls finds the settings contradictory, such as versions without a cipher suite.
    pub fn new(settings: Settings) -> Result<Self, rustls::Error> {
        let certificates = Arc::new(Certificates::new(settings.certificates, settings.stapling));
        let builder = ServerConfig::builder_with_provider(settings.provider)
            .with_protocol_versions(&settings.versions)?;
        let (verifier, trust, status, trust_id) = match settings.clients {
            Some(Clients { verifier, trust, status, id }) => {
                (Arc::new(verifier) as Arc<dyn ClientCertVerifier>, Some(trust), status, id)
            }
            None => (WebPkiClientVerifier::no_client_auth(), None, None, 0),
        };
        let resolver = Arc::clone(&certificates);
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        config.ignore_client_order = settings.order != Order::Client;
        config.session_storage = settings.sessions.unwrap_or_else(|| Arc::new(NoServerSessionStorage {}));
        if let Some(tickets) = settings.tickets {
            config.ticketer = tickets;
        }
        config.send_tls13_tickets = settings.ticket_count.unwrap_or(config.send_tls13_tickets);
        config.alpn_protocols = settings.protocols;
        config.max_early_data_size = if settings.takes_early_data { EARLY_BYTES_MAX } else { 0 };
        config.send_half_rtt_data = settings.takes_early_data; // its answer does not wait for the client's Finished
        config.key_log = Arc::new(Catcher { log: settings.key_log.clone() });
        config.enable_secret_extraction = true;
        config.cert_compressors = settings.compressors;
        config.cert_decompressors = Vec::new();
        Ok(Self {
            config: Arc::new(config),
            order: settings.order,
            variants: Default::default(),
            quic: Default::default(),
            speaks_tls13: settings.versions.iter().any(|it| it.version == ProtocolVersion::TLSv1_3),
            key_log: settings.key_log,
            certificates,
            record_bytes: settings.record_bytes,
            trust,
            status,
            trust_id,
        })
    }

    /// What rustls makes a handshake with. `takes_h2`: HTTP/2 is offered too, as the first choice.
    pub fn config(&self, hello: &ClientHello, takes_h2: bool) -> &Arc<ServerConfig> {
        let is_client_order = self.order.is_of_client(&hello.cipher_suites);
        let differs = is_client_order && self.config.ignore_client_order;
        let variant = match (takes_h2, differs) {
            (false, false) => return &self.config,
            (true, false) => &self.variants[0],
            (false, true) => &self.variants[1],
            (true, true) => &self.variants[2],
        };
        variant.get_or_init(|| {
            let mut config = ServerConfig::clone(&self.config);
            config.ignore_client_order = !is_client_order;
            if takes_h2 {
                config.alpn_protocols.insert(0, b"h2".to_vec());
            }
            Arc::new(config)
        })
    }

    /// True if TLS 1.3 is switched on, which QUIC demands.
    pub fn speaks_tls13(&self) -> bool {
        self.speaks_tls13
    }

    /// The settings of a handshake of QUIC (RFC 9001), for one protocol of ALPN. `None`: TLS 1.3 is switched off.
    pub fn quic_config(&self, hello: &ClientHello, protocol: &[u8]) -> Option<&Arc<ServerConfig>> {
        if !self.speaks_tls13 {
            return None;
        }
        let is_client_order = self.order.is_of_client(&hello.cipher_suites);
        let variant = &self.quic[usize::from(is_client_order)];
        let config = variant.get_or_init(|| {
            let mut config = ServerConfig::clone(&self.config);
            config.ignore_client_order = !is_client_order;
            config.alpn_protocols = vec![protocol.to_vec()];
            // The secrets stay with rustls, and packets carry what records would.
            config.key_log = match &self.key_log {
                Some(log) => Arc::clone(log),
                None => Arc::new(NoKeyLog {}),
            };
            if config.max_early_data_size > 0 {
                config.max_early_data_size = u32::MAX; // §4.6.1: flow control is what limits it
            }
            Arc::new(config)
        });
        Some(config)
    }

    /// The same with other certificates, as [`Server::config_with`].
    pub fn quic_config_with(
        &self,
        certificates: Vec<Certificate>,
        hello: &ClientHello,
        protocol: &[u8],
    ) -> Option<Arc<ServerConfig>> {
        let mut config = ServerConfig::clone(self.quic_config(hello, protocol)?);
        config.cert_resolver = Arc::new(Certificates::new(certificates, None));
        Some(Arc::new(config))
    }

    /// `ssl_buffer_size`.
    pub fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Judges a client's chain; without a chain, or where none is asked for, nothing is refused.
    ///
    /// If responders have to be asked too, the path is returned for [`Server::status_check`]; until then the
    /// verdict is that this has failed.
    pub fn verdict(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> (Verdict, Option<Path>) {
        let trust_id = self.trust_id;
        let Some(trust) = self.trust.as_ref().filter(|_| !chain.is_empty()) else {
            return (Verdict { trust_id, ..Verdict::default() }, None);
        };
        let (outcome, path) = match &self.status {
            None => (trust.check(chain, now), None),
            Some(_) => match trust.path(chain, now) {
                Ok(path) => (Ok(()), Some(path)),
                Err(refusal) => (Err(refusal), None),
            },
        };
        let status = if path.is_some() { Err(Denial::RequestFailed) } else { Ok(()) };
        (Verdict { outcome, status, trust_id }, path)
    }

    /// `ssl_ocsp`, for the paths of clients.
    pub fn status_check(&self) -> Option<&StatusCheck> {
        self.status.as_ref()
    }

    /// Equal for servers that trust the same client certificates; 0: clients are not asked for one.
    pub fn trust_id(&self) -> u64 {
        self.trust_id
    }

    /// The same with other certificates, for one client: names of files may depend on the ClientHello.
    pub fn config_with(
        &self,
        certificates: Vec<Certificate>,
        hello: &ClientHello,
        takes_h2: bool,
    ) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(self.config(hello, takes_h2));
        config.cert_resolver = Arc::new(Certificates::new(certificates, None));
        Arc::new(config)
    }

    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }
}

/// The settings of a handshake by which an authority checks a name (RFC 8737 §3): nothing is said after it.
///
/// Errors: rustls does not take them.
pub fn challenge_config(certificate: Certificate) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates::new(vec![certificate], None)));
    config.alpn_protocols = vec![challenges::ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.key_log = Arc::new(Catcher { log: None });
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// The certificates of a server, one for each kind of key; the client's signature schemes decide.
pub struct Certificates {
    entries: RwLock<Vec<Entry>>,
    stapling: Option<Arc<stapling::Settings>>,
}

struct Entry {
    certificate: Certificate,
    /// The same with a key that notes its signatures.
    key: Arc<CertifiedKey>,
    /// Where its OCSP responses come from.
    stapling: Option<Result<Arc<Stapling>, Ignored>>,
    /// The same with a response, and the end of its validity in seconds since 1970.
    stapled: Option<(Arc<CertifiedKey>, i64)>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Certificates")
    }
}

impl Entry {
    fn new(certificate: Certificate, position: usize, settings: Option<&Arc<stapling::Settings>>) -> Self {
        let mut key = CertifiedKey::clone(certificate.certified_key());
        key.key = Arc::new(NotingKey(key.key));
        let stapling = settings.map(|settings| Stapling::new(&certificate, position, settings).map(Arc::new));
        Self { certificate, key: Arc::new(key), stapling, stapled: None }
    }

    /// The key with a response that is still valid, or without one.
    fn offered(&self) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((key, valid_until_s)) if *valid_until_s >= clock::wall_seconds() => key,
            _ => &self.key,
        }
    }
}

impl Certificates {
    /// `stapling`: OCSP responses are asked of responders.
    pub fn new(certificates: Vec<Certificate>, stapling: Option<Arc<stapling::Settings>>) -> Self {
        let entry = |(position, certificate)| Entry::new(certificate, position, stapling.as_ref());
        let entries = RwLock::new(certificates.into_iter().enumerate().map(entry).collect());
        Self { entries, stapling }
    }

    /// The certificates in force.
    pub fn current(&self) -> Vec<Certificate> {
        let entries = self.entries.read();
        entries.map(|all| all.iter().map(|entry| entry.certificate.clone()).collect()).unwrap_or_default()
    }

    /// True if there is none to make a handshake with yet.
    pub fn is_pending(&self) -> bool {
        let is_one = |entry: &Entry| entry.certificate.is_pending();
        self.entries.read().is_ok_and(|all| !all.is_empty() && all.iter().all(is_one))
    }

    /// Puts a newer certificate in the place of one. False: there is no such place.
    pub fn replace(&self, index: usize, certificate: Certificate) -> bool {
        let Ok(mut all) = self.entries.write() else { return false };
        let place = all.get_mut(index);
        place.map(|place| *place = Entry::new(certificate, index, self.stapling.as_ref())).is_some()
    }

    /// Why nothing is stapled with some of the certificates although it should be, by their positions.
    pub fn unstapled(&self) -> Vec<(usize, Ignored)> {
        let Ok(all) = self.entries.read() else { return Vec::new() };
        let ignored = |entry: &Entry| entry.stapling.as_ref()?.as_ref().err().cloned();
        all.iter().enumerate().filter_map(|(index, entry)| Some((index, ignored(entry)?))).collect()
    }

    /// The responders that it is time to ask, each with the position of its certificate. Each is returned
    /// once.
    pub fn due(&self, now_s: i64) -> impl Iterator<Item = (usize, Arc<Stapling>)> + use<> {
        let mut due: SmallVec<[_; 2]> = SmallVec::new();
        if self.stapling.is_some()
            && let Ok(all) = self.entries.read()
        {
            for (index, entry) in all.iter().enumerate() {
                if let Some(Ok(stapling)) = &entry.stapling
                    && stapling.is_due(now_s)
                {
                    due.push((index, Arc::clone(stapling)));
                }
            }
        }
        due.into_iter()
    }

    /// Staples a response from now on, unless the certificate has been replaced meanwhile.
    pub fn staple(&self, index: usize, fingerprint: &[u8; 32], staple: Staple) {
        let Ok(mut all) = self.entries.write() else { return };
        if let Some(entry) = all.get_mut(index).filter(|entry| entry.certificate.fingerprint() == fingerprint)
        {
            let mut key = CertifiedKey::clone(&entry.key);
            key.ocsp = Some(staple.response);
            entry.stapled = Some((Arc::new(key), staple.valid_until_s));
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = self.entries.read().ok()?;
        let schemes = hello.signature_schemes();
        // The client's first choice among the schemes that any key has, as OpenSSL does.
        let rank = |entry: &&Entry| {
            let scheme = entry.key.key.choose_scheme(schemes)?.scheme();
            schemes.iter().position(|offered| *offered == scheme)
        };
        let found = match &**all {
            [only] => Some(only).filter(|only| !only.certificate.is_pending()),
            // As with OpenSSL, the last of several certificates of one kind counts.
            _ => {
                let is_usable = |entry: &&Entry| !entry.certificate.is_pending() && rank(entry).is_some();
                all.iter().rev().filter(is_usable).min_by_key(rank)
            }
        };
        found.map(|entry| Arc::clone(entry.offered()))
    }
}

/// A key that notes which scheme it signs with, for `$ssl_sigalg`.
#[derive(Debug)]
struct NotingKey(Arc<dyn SigningKey>);

impl SigningKey for NotingKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered).map(|signer| Box::new(NotingSigner(signer)) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }
}

#[derive(Debug)]
struct NotingSigner(Box<dyn Signer>);

impl Signer for NotingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        note_signature(self.0.scheme().into());
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chacha_first_is_the_client_s_order() {
        let counts = |order: Order, suites: &[u16]| order.is_of_client(suites);
        for suites in [
            &[0x1303, 0x1301][..],
            &[0xcca8],
            &[0xcca9, 0xc02b],
            &[0xcaca, 0x1303],
            &[0x0a0a, 0xfafa, 0x1303],
        ] {
            assert!(counts(Order::ServerAfterChaCha, suites), "{suites:x?}");
            assert!(!counts(Order::Server, suites));
        }
        for suites in [&[][..], &[0x1301, 0x1303], &[0xcaca], &[0xcafa, 0x1303], &[0x1a0a, 0x1303]] {
            assert!(!counts(Order::ServerAfterChaCha, suites), "{suites:x?}");
            assert!(counts(Order::Client, suites));
        }
    }
}
