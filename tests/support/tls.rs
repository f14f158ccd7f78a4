//! TLS for tests: a certificate authority, and a client that is not pronghorn's code (rustls on a blocking socket).

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevocationReason, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::deadline::deadline;
use super::message::{Response, head_length};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority, with an ECDSA key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Self(CertifiedIssuer::self_signed(authority(name), key).expect("a certificate"))
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    pub fn intermediate_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = authority(name);
        change(&mut params);
        Self(CertifiedIssuer::signed_by(params, key, &self.0).expect("a certificate"))
    }

    /// The key that signs requests for certificates.
    pub fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.0
    }

    pub fn certificate(&self) -> String {
        self.0.as_ref().pem()
    }

    /// Its private key, in PEM.
    pub fn key(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        self.issue_for(&key, names, change)
    }

    /// A certificate for a key that was made elsewhere.
    pub fn issue_for(
        &self,
        key: &KeyPair,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names of hosts");
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        change(&mut params);
        let certificate = params.signed_by(key, &self.0).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A list of revoked certificates with these serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).expect("a list").pem().expect("PEM")
    }
}

/// A certificate for a name, with no authority behind it.
pub fn self_signed(name: &str) -> Pair {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A client's settings: the authority it trusts, its own certificate, and the versions it speaks.
pub fn client_config(
    trusted: &Authority,
    own: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(trusted.certificate().as_bytes()).expect("a certificate");
    roots.add(der).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions with suites")
        .with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain.expect("certificates"), key).expect("a pair")
        }
    })
}

/// Both versions.
pub fn trusting(trusted: &Authority) -> Arc<ClientConfig> {
    client_config(trusted, None, rustls::ALL_VERSIONS)
}

/// A connection with TLS.
pub struct TlsClient {
    pub tls: ClientConnection,
    pub socket: TcpStream,
    input: Vec<u8>,
}

pub fn connect_tcp(port: u16) -> TcpStream {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = TcpStream::connect_timeout(&address, deadline()).expect("the daemon listens");
    socket.set_read_timeout(Some(deadline())).expect("a socket");
    socket.set_write_timeout(Some(deadline())).expect("a socket");
    socket
}

impl TlsClient {
    /// Connects to 127.0.0.1 and makes the handshake for this name.
    pub fn connect(port: u16, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::try_connect(port, config, name).expect("a handshake")
    }

    pub fn try_connect(port: u16, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Self> {
        Self::try_over(connect_tcp(port), config, name)
    }

    /// Makes the handshake over a connection.
    pub fn try_over(mut socket: TcpStream, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut tls = ClientConnection::new(Arc::clone(config), name).expect("settings");
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self { tls, socket, input: Vec::new() })
    }

    /// Goes on with a connection whose handshake may be under way.
    pub fn over(tls: ClientConnection, socket: TcpStream) -> Self {
        Self { tls, socket, input: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes.as_ref()).expect("the daemon reads");
        self
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stream = rustls::Stream::new(&mut self.tls, &mut self.socket);
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Bytes as they arrive; none at the end.
    pub fn some(&mut self) -> std::io::Result<Vec<u8>> {
        if !self.input.is_empty() {
            return Ok(std::mem::take(&mut self.input));
        }
        let mut bytes = vec![0; 65_536];
        let mut stream = rustls::Stream::new(&mut self.tls, &mut self.socket);
        let count = match stream.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Reads the head of a response.
    pub fn response_head(&mut self) -> Response {
        let mut bytes = Vec::new();
        loop {
            if let Some(length) = head_length(&bytes) {
                self.input = bytes.split_off(length);
                return Response::parse(&bytes);
            }
            let some = self.some().expect("a response");
            assert!(!some.is_empty(), "the connection ends after {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&some);
        }
    }

    /// Reads a response with `Content-Length`.
    pub fn response(&mut self) -> Response {
        let mut response = self.response_head();
        let length = response.length().unwrap_or(0);
        response.body = self.exactly(length);
        response
    }

    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let some = self.some().expect("a body");
            assert!(!some.is_empty(), "the connection ends after {} of {count} bytes", bytes.len());
            bytes.extend_from_slice(&some);
        }
        self.input = bytes.split_off(count);
        bytes
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(some) = self.some() {
            if some.is_empty() {
                break;
            }
            bytes.extend_from_slice(&some);
        }
        bytes
    }

    /// Reads to the end. True if the daemon has said that it is one.
    pub fn ends_well(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match rustls::Stream::new(&mut self.tls, &mut self.socket).read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.response()
    }
}

/// A client's verifier that takes any certificate.
#[derive(Debug)]
pub struct Any;

impl rustls::client::danger::ServerCertVerifier for Any {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}
