//! HTTP with an authority, for `instant-acme`: each request has its own connection, and every wait and every buffer a
//! limit.
//!
//! Touches: name servers, connections to the authority. Runs in the thread of tokio (`keeper.rs`).

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LINK, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::net::acme::Issuer;
use crate::net::acme::keeper::Line;
use crate::net::tls::authorities;

/// How long one exchange may take, the lookup of the name and all addresses included.
const EXCHANGE: Duration = Duration::from_secs(60);
/// How long one address may take to accept the connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The most addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// The longest answer: a chain has a few kilobytes.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// The help if there are none.
const REMEDY: &str =
    "install the package ca-certificates, or set \"ssl_trusted_certificate\" in the \"acme_issuer\"";

/// The parts of the last answer besides its body: `instant-acme` does not tell.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub retry_after: Option<Duration>,
    /// Further chains of a certificate (RFC 8555 §7.4.2).
    pub alternates: Vec<String>,
    /// The body of the last answer that is a chain.
    pub chain: Option<String>,
}

/// A client for one issuer.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    tls: TlsConnector,
    line: Line,
    issuer: usize,
    said: Mutex<Said>,
}

/// Why there is no answer.
#[derive(Debug)]
struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl StdError for Fault {}

fn fault(text: impl Into<String>) -> Error {
    Error::Other(Box::new(Fault(text.into())))
}

impl Client {
    /// Errors: the system's authorities cannot be read, in words.
    pub fn new(issuer: &Issuer, index: usize, line: Line) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let config = if issuer.verifies {
            let roots = match &issuer.trusted {
                Some(list) => roots(list.clone()),
                None => roots(authorities::system().map_err(|why| format!("{why}: {REMEDY}"))?),
            };
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            let verifier = Arc::new(Unverified(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        };
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { inner: Arc::new(Inner { tls, line, issuer: index, said: Mutex::default() }) })
    }

    /// The parts of the last answer besides its body.
    pub fn said(&self) -> Said {
        self.inner.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn roots(list: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(list);
    roots
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            *inner.said.lock().unwrap_or_else(PoisonError::into_inner) = Said::default();
            let uri = request.uri().clone();
            let limit_s = EXCHANGE.as_secs();
            let answered = timeout(EXCHANGE, exchange(&inner, request)).await;
            let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {limit_s} s")));
            let (parts, body) = answered.map_err(|why| fault(format!("request to {uri}: {why}")))?;
            note(&inner, &parts.headers, &body);
            let is_json = content_type(&parts.headers).is_some_and(|it| it.contains("json"));
            if parts.status.as_u16() >= 400 && !is_json {
                return Err(fault(format!("request to {uri}: status {}", parts.status.as_u16())));
            }
            Ok(BytesResponse::from(Response::from_parts(parts, Full::new(body))))
        })
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()
}

/// Keeps what `instant-acme` passes over.
fn note(inner: &Inner, headers: &HeaderMap, body: &Bytes) {
    let alternate = |text: &str| {
        let (url, rest) = text.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"alternate\"").then(|| url.to_owned())
    };
    let links = headers.get_all(LINK).iter().filter_map(|it| it.to_str().ok());
    let alternates = links.filter_map(alternate).collect();
    let is_chain =
        content_type(headers).is_some_and(|it| it.starts_with("application/pem-certificate-chain"));
    let chain = is_chain.then(|| String::from_utf8_lossy(body).into_owned());
    let said = Said { retry_after: retry_after(headers), alternates, chain };
    *inner.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Errors: in words.
async fn exchange(inner: &Inner, request: Request<BodyWrapper<Bytes>>) -> Result<(Parts, Bytes), String> {
    let uri = request.uri().clone();
    if uri.scheme_str() != Some("https") {
        return Err("an authority is asked over https only".into());
    }
    let authority = uri.authority().ok_or("the URL names no host")?.clone();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(443);
    let addresses = addresses(inner, &host).await?;
    let name = ServerName::try_from(host.clone()).map_err(|_| format!("\"{host}\" is no name of a host"))?;
    let mut why = String::new();
    for ip in addresses.into_iter().take(ADDRESSES_MAX) {
        let address = SocketAddr::new(ip, port);
        let socket = match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                why = format!("connect() to {address} failed ({error})");
                continue;
            }
            Err(_) => {
                why = format!("connect() to {address} timed out");
                continue;
            }
        };
        let stream = inner.tls.connect(name, socket).await;
        let stream = stream.map_err(|error| format!("TLS handshake with {address} failed: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let task = tokio::spawn(connection);
        let outcome = ask(&mut sender, request, &uri, authority.as_str()).await;
        task.abort();
        return outcome;
    }
    Err(why)
}

async fn ask(
    sender: &mut http1::SendRequest<BodyWrapper<Bytes>>,
    mut request: Request<BodyWrapper<Bytes>>,
    uri: &Uri,
    authority: &str,
) -> Result<(Parts, Bytes), String> {
    let target = uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
    *request.uri_mut() = target.parse().map_err(|_| "the URL has no path")?;
    let value = authority.parse().map_err(|_| "the URL names no host")?;
    request.headers_mut().insert(HOST, value);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
        true => format!("the answer is longer than {BODY_BYTES_MAX} bytes"),
        false => error.to_string(),
    })?;
    Ok((parts, body.to_bytes()))
}

async fn addresses(inner: &Inner, host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    if let Some(answer) = inner.line.resolve(inner.issuer, host).await {
        return answer.map_err(|why| format!("{host} could not be resolved {why}"));
    }
    let found = tokio::net::lookup_host((host, 0)).await;
    let found = found.map_err(|error| format!("host not found in \"{host}\" ({error})"))?;
    Ok(found.map(|address| address.ip()).collect())
}

/// `ssl_verify off`
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_in_both_forms() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a value"));
            retry_after(&headers)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!((read("soon"), read("-1")), (None, None));
    }
}
