//! The client's side of TLS: what connections to upstreams have agreed to, ready for handshakes.
//!
//! A [`Client`] is made once for each distinct set of settings, before the workers are forked; each worker
//! then keeps its own sessions in it. [`Terms`] say which connections may stand in for each other. Touches:
//! nothing; rustls' settings are values. Directives: the `proxy_ssl_*` family.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, KeyLog, OtherError, SignatureScheme, SupportedProtocolVersion};

use zeroize::Zeroizing;

use crate::net::tls::certificate::Certificate;
use crate::net::tls::client_sessions::ClientSessions;
use crate::net::tls::handshake::{self, Catcher};
use crate::net::tls::stream::Session;
use crate::net::tls::verify::{Refused, ServerVerifier, Trust};
use crate::runtime::Io;

/// Peers and names whose sessions one [`Client`] keeps in a worker.
const SESSION_PLACES_MAX: usize = 256;

/// Everything that a [`Client`] is made of.
pub struct Settings {
    pub provider: Arc<CryptoProvider>,
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// What the upstream's certificate is checked with; `None`: any certificate is accepted.
    pub trust: Option<Arc<Trust>>,
    /// `proxy_ssl_certificate`.
    pub certificate: Option<Certificate>,
    /// `proxy_ssl_server_name`.
    pub sends_name: bool,
    /// ALPN, in the order of preference; none: the extension is not sent.
    pub protocols: Vec<Vec<u8>>,
    /// `proxy_ssl_session_reuse`.
    pub reuses_sessions: bool,
    /// `proxy_ssl_key_log`.
    pub key_log: Option<Arc<dyn KeyLog>>,
    /// The first word of the directives, for messages: `proxy`.
    pub prefix: &'static str,
}

/// The common part of connections to upstreams: one set of settings, with one certificate, which a newer one may replace.
pub struct Client {
    own: RwLock<Own>,
    sessions: Option<ClientSessions>,
    /// The upstream's certificate is checked.
    verifies: bool,
    sends_name: bool,
}

/// The certificate in force, if there is one, and the settings with it.
struct Own {
    certificate: Option<Certificate>,
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("verifies", &self.verifies).finish_non_exhaustive()
    }
}

impl Client {
    /// Errors: rustls finds the settings contradictory, such as versions without a cipher suite.
    pub fn new(settings: Settings) -> Result<Self, rustls::Error> {
        let verifies = settings.trust.is_some();
        let verifier: Arc<dyn ServerCertVerifier> =
            Arc::new(ServerVerifier::new(settings.trust, settings.prefix));
        let mut config = ClientConfig::builder_with_provider(settings.provider)
            .with_protocol_versions(settings.versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(resolver(settings.certificate.as_ref()));
        config.enable_sni = settings.sends_name;
        config.alpn_protocols = settings.protocols;
        config.resumption = Resumption::disabled();
        config.key_log = Arc::new(Catcher { log: settings.key_log });
        config.enable_secret_extraction = true;
        let sessions = settings.reuses_sessions.then(|| ClientSessions::new(SESSION_PLACES_MAX));
        let own = RwLock::new(Own { certificate: settings.certificate, config: Arc::new(config) });
        Ok(Self { own, sessions, verifies, sends_name: settings.sends_name })
    }

    fn own(&self) -> RwLockReadGuard<'_, Own> {
        self.own.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The certificate in force.
    pub fn certificate(&self) -> Option<Certificate> {
        self.own().certificate.clone()
    }

    /// Puts a newer certificate in force. Sessions of the older one are not used again: rustls compares credentials.
    pub fn replace_certificate(&self, certificate: Certificate) {
        let config = self.config_with(Some(&certificate));
        let own = Own { certificate: Some(certificate), config };
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
    }

    fn config_with(&self, certificate: Option<&Certificate>) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.own().config);
        config.client_auth_cert_resolver = resolver(certificate);
        Arc::new(config)
    }

    /// The same settings with another certificate, and with sessions of its own.
    #[must_use]
    pub fn with_certificate(&self, certificate: Option<Certificate>) -> Self {
        let config = self.config_with(certificate.as_ref());
        let sessions = self.sessions.as_ref().map(|_| ClientSessions::new(SESSION_PLACES_MAX));
        let own = RwLock::new(Own { certificate, config });
        Self { own, sessions, verifies: self.verifies, sends_name: self.sends_name }
    }

    /// True if a connection depends on the name of the upstream, because it is sent or checked.
    pub fn needs_name(&self) -> bool {
        self.verifies || self.sends_name
    }

    /// Makes the handshake with an upstream. `peer` tells apart the servers whose sessions are kept.
    ///
    /// A name that is neither a host's nor an address cannot be sent. If it were to be checked, it fits no
    /// certificate: then nothing is sent at all.
    pub async fn connect(&self, io: &Io, terms: &Terms, peer: &str) -> Result<Box<Session>, Error> {
        let name = match ServerName::try_from(&*terms.name) {
            Ok(name) => name.to_owned(),
            Err(_) if self.verifies => return Err(Error::Name),
            Err(_) => ServerName::from(IpAddr::from([0, 0, 0, 0])), // an address is never sent
        };
        let mut config = Arc::clone(&self.own().config);
        if let Some(sessions) = &self.sessions {
            let mut own = ClientConfig::clone(&config);
            own.resumption = Resumption::store(Arc::new(sessions.of(peer)));
            config = Arc::new(own);
        }
        let protocols = terms.protocols.as_deref().unwrap_or(&config.alpn_protocols).to_vec();
        handshake::connect(io, config, name, protocols).await.map_err(Error::Handshake)
    }
}

/// Why there is no encrypted connection to an upstream.
#[derive(Debug)]
pub enum Error {
    /// The name to check is none that a certificate could have.
    Name,
    Handshake(handshake::Error),
}

impl Error {
    /// The verdict on the upstream's certificate, if that was refused.
    pub fn refused(&self) -> Option<&Refused> {
        let Self::Handshake(handshake::Error::Tls(rustls::Error::InvalidCertificate(
            CertificateError::Other(OtherError(error)),
        ))) = self
        else {
            return None;
        };
        error.downcast_ref()
    }
}

/// The names of a certificate and of its key. Either may be `data:` and the contents, hence a secret.
pub type Names = [Zeroizing<String>; 2];

/// The terms on which a connection to an upstream is encrypted.
///
/// A kept connection serves a request only if it was opened on equal terms: otherwise a request could reach a
/// server that was checked under another name, or appear there under another client's certificate.
pub struct Terms {
    pub client: Arc<Client>,
    /// The name that is sent and checked; empty if neither is done.
    pub name: Box<str>,
    /// The values of `proxy_ssl_certificate` and its key, if they have variables.
    pub certificate: Option<Box<Names>>,
    /// ALPN, if its protocols have variables.
    pub protocols: Option<Box<[Vec<u8>]>>,
}

impl fmt::Debug for Terms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Terms").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Terms {
    /// `name` may have a port, as `$http_host` has; it is dropped.
    pub fn new(client: Arc<Client>, name: &str, certificate: Option<Box<Names>>) -> Self {
        let name = if client.needs_name() { without_port(name).into() } else { Box::default() };
        Self { client, name, certificate, protocols: None }
    }

    /// The same with protocols of its own. Those that cannot be sent, since they are empty or longer than 255 bytes, are
    /// left out.
    #[must_use]
    pub fn with_protocols(self, protocols: impl Iterator<Item = Vec<u8>>) -> Self {
        let protocols = protocols.filter(|protocol| (1..=255).contains(&protocol.len()));
        Self { protocols: Some(protocols.collect()), ..self }
    }
}

impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
            && self.name == other.name
            && self.certificate == other.certificate
            && self.protocols == other.protocols
    }
}

impl Eq for Terms {}

/// A host without its port, and without the brackets of an IPv6 address.
fn without_port(name: &str) -> &str {
    if let Some((address, _)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    name.split_once(':').map_or(name, |(host, _)| host)
}

fn resolver(certificate: Option<&Certificate>) -> Arc<dyn ResolvesClientCert> {
    match certificate {
        Some(certificate) => {
            Arc::new(SingleCertAndKey::from(CertifiedKey::clone(certificate.certified_key())))
        }
        None => Arc::new(Nothing),
    }
}

/// Answers a request for a certificate with none.
#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
