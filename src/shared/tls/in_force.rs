//! The certificates in force of a language part, which newer ones replace while it serves.
//!
//! Pure, apart from the servers' own locks.

use crate::net::tls::certificate::Certificate;
use crate::net::tls::ocsp::stapling::Ignored;
use crate::net::tls::server::Server;
use crate::net::tls::watch::Pair;

/// The certificate of a pair that is in force. `server`: a server's side of TLS, by the server's index.
pub fn certificate<'a>(pair: &Pair, server: impl Fn(usize) -> Option<&'a Server>) -> Option<Certificate> {
    match pair.uses.first() {
        Some(place) => server(place.server)?.certificates().current().get(place.position).cloned(),
        None => pair.clients.first()?.certificate(),
    }
}

/// Puts a newer certificate in force for all servers that use this pair, and towards all upstreams. Returns why nothing is stapled
/// with it although it should be.
pub fn replace<'a>(
    pair: &Pair,
    certificate: &Certificate,
    server: impl Fn(usize) -> Option<&'a Server>,
) -> Option<Ignored> {
    pair.clients.iter().for_each(|client| client.replace_certificate(certificate.clone()));
    let mut ignored = None;
    for place in &pair.uses {
        if let Some(tls) = server(place.server) {
            tls.certificates().replace(place.position, certificate.clone());
            let unstapled = tls.certificates().unstapled().into_iter();
            let own = unstapled.filter(|(position, _)| *position == place.position);
            ignored = ignored.or(own.map(|(_, ignored)| ignored).next());
        }
    }
    ignored
}
