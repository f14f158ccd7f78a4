//! The variables of a client's certificate (`$ssl_client_*`).
//!
//! The certificate is that of the handshake, whether it was found valid or not: `$ssl_client_verify` tells.
//! Touches: nothing but the request's connection. Behaviour: nginx.org, ngx_http_ssl_module.

use rustls::pki_types::UnixTime;

use crate::http::request::Request;
use crate::net::tls::subject::Subject;

/// Writes a value of the client's certificate; false without one, or if it cannot be read.
pub fn show<T: AsRef<[u8]>>(
    request: &Request,
    out: &mut Vec<u8>,
    value: impl FnOnce(&Subject<'_>) -> T,
) -> bool {
    let Some(info) = request.connection.tls.as_deref() else { return false };
    let Some(subject) = info.peer_chain.first().and_then(|own| Subject::parse(own)) else { return false };
    let before = out.len();
    out.extend_from_slice(value(&subject).as_ref());
    out.len() > before
}

/// `$ssl_client_v_remain`.
pub fn days_remaining(subject: &Subject<'_>) -> String {
    let now_s = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    subject.days_remaining(now_s).to_string()
}
