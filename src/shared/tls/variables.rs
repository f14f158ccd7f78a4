//! The variables of a connection's TLS (`$ssl_*`).
//!
//! The client's certificate is that of the handshake, whether it was found valid or not: `$ssl_client_verify` tells.
//! Touches: nothing but the connection. Behaviour: nginx.org, ngx_http_ssl_module and ngx_stream_ssl_module.

use std::io::Write;

use rustls::pki_types::UnixTime;

use crate::net::tls::subject::Subject;
use crate::net::tls::{Info, names};
use crate::proto::client_hello::ClientHello;
use crate::script::variable::{Variable, replaceable};
use crate::shared::connection::Connected;

/// The rows, for a language part's table of variables.
#[rustfmt::skip]
pub const fn variables<S: Connected>() -> [Variable<S>; 25] {
    [
        replaceable("ssl_alpn_protocol", |r, _, out| info(r, |info| extend(out, &info.protocol)), "The protocol selected by ALPN."),
        replaceable("ssl_cipher", |r, _, out| info(r, |info| extend(out, info.cipher().as_bytes())), "The cipher suite of the connection, in OpenSSL's words."),
        replaceable("ssl_ciphers", |r, _, out| hello(r, |hello| list(out, &hello.cipher_suites, names::cipher)),
            "The cipher suites that the client supports; those without a name in OpenSSL as hexadecimal numbers."),
        replaceable("ssl_client_cert", |r, _, out| show(r, out, |s| s.pem_folded()),
            "The client's certificate, with its lines indented; no value without one."),
        replaceable("ssl_client_escaped_cert", |r, _, out| show(r, out, |s| s.pem_escaped()),
            "The client's certificate, URL-encoded; no value without one."),
        replaceable("ssl_client_fingerprint", |r, _, out| show(r, out, |s| s.fingerprint()), "The SHA-1 of the client's certificate; no value without one."),
        replaceable("ssl_client_i_dn", |r, _, out| show(r, out, |s| s.issuer_dn()), "The issuer DN of the client's certificate; no value without one."),
        replaceable("ssl_client_i_dn_legacy", |r, _, out| show(r, out, |s| s.issuer_dn_legacy()),
            "The issuer DN of the client's certificate, in the old format; no value without one."),
        replaceable("ssl_client_raw_cert", |r, _, out| show(r, out, |s| s.pem()), "The client's certificate; no value without one."),
        replaceable("ssl_client_s_dn", |r, _, out| show(r, out, |s| s.subject_dn()), "The subject DN of the client's certificate; no value without one."),
        replaceable("ssl_client_s_dn_legacy", |r, _, out| show(r, out, |s| s.subject_dn_legacy()),
            "The subject DN of the client's certificate, in the old format; no value without one."),
        replaceable("ssl_client_serial", |r, _, out| show(r, out, |s| s.serial()), "The serial number of the client's certificate; no value without one."),
        replaceable("ssl_client_sigalg",
            |r, _, out| info(r, |info| info.client_signature_scheme.is_some_and(|s| name_or_number(out, s, names::signature_scheme))),
            "The algorithm of the client's signature; no value without a certificate, or if a session was resumed."),
        replaceable("ssl_client_v_end", |r, _, out| show(r, out, |s| s.not_after()),
            "The date on which the client's certificate expires; no value without one."),
        replaceable("ssl_client_v_remain", |r, _, out| show(r, out, days_remaining),
            "The days until the client's certificate expires; no value without one."),
        replaceable("ssl_client_v_start", |r, _, out| show(r, out, |s| s.not_before()),
            "The date from which the client's certificate is valid; no value without one."),
        replaceable("ssl_client_verify", |r, _, out| info(r, |info| write_verdict(info, out)),
            "The result of checking the client's certificate: SUCCESS, FAILED:reason, or NONE without a certificate."),
        replaceable("ssl_curve", |r, _, out| info(r, |info| info.group.is_some_and(|group| name_or_number(out, group, names::group))),
            "The group of the key exchange."),
        replaceable("ssl_curves", |r, _, out| hello(r, |hello| list(out, &hello.groups, names::group)), "The groups that the client supports."),
        replaceable("ssl_protocol", |r, _, out| info(r, |info| extend(out, info.version().as_bytes())),
            "The TLS version of the connection: TLSv1.2 or TLSv1.3."),
        replaceable("ssl_server_name", |r, _, out| hello(r, |hello| extend(out, hello.server_name.as_bytes())),
            "The server name that the client requested by SNI."),
        replaceable("ssl_session_id", |r, _, out| hello(r, |hello| hex(out, &hello.session_id)),
            "The id of the TLS session that the client sent, in hexadecimal digits."),
        replaceable("ssl_session_reused", |r, _, out| info(r, |info| extend(out, if info.is_resumed { b"r" } else { b"." })),
            "r if the TLS session was resumed, otherwise a dot."),
        replaceable("ssl_sigalg", |r, _, out| info(r, |info| info.signature_scheme.is_some_and(|s| name_or_number(out, s, names::signature_scheme))),
            "The algorithm of the server's signature; no value if a session was resumed."),
        replaceable("ssl_sigalgs", |r, _, out| hello(r, |hello| list(out, &hello.signature_schemes, names::signature_scheme)),
            "The signature algorithms that the client supports."),
    ]
}

/// Writes a value of the connection's TLS; false without TLS.
fn info<S: Connected>(scope: &S, write: impl FnOnce(&Info) -> bool) -> bool {
    scope.tls().is_some_and(write)
}

fn hello<S: Connected>(scope: &S, write: impl FnOnce(&ClientHello) -> bool) -> bool {
    info(scope, |info| info.hello.as_deref().is_some_and(write))
}

/// An empty value is no value.
fn extend(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    out.extend_from_slice(bytes);
    !bytes.is_empty()
}

fn name_or_number(out: &mut Vec<u8>, number: u16, name: fn(u16) -> Option<&'static str>) -> bool {
    match name(number) {
        Some(name) => out.write_all(name.as_bytes()),
        None => write!(out, "0x{number:04x}"),
    }
    .is_ok()
}

/// Writes names, or numbers without a name, with colons between. Values that clients send to keep servers
/// tolerant (GREASE, RFC 8701) are included, as in nginx.
fn list(out: &mut Vec<u8>, numbers: &[u16], name: fn(u16) -> Option<&'static str>) -> bool {
    for (index, value) in numbers.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        name_or_number(out, *value, name);
    }
    !numbers.is_empty()
}

/// Appends the value of `$ssl_client_verify`.
pub fn write_verdict(info: &Info, out: &mut Vec<u8>) -> bool {
    let verdict = info.verdict.get();
    match (verdict.outcome, verdict.status) {
        _ if info.peer_chain.is_empty() => out.extend_from_slice(b"NONE"),
        (Ok(()), Ok(())) => out.extend_from_slice(b"SUCCESS"),
        (Err(refusal), _) => out.extend_from_slice(format!("FAILED:{refusal}").as_bytes()),
        (Ok(()), Err(denial)) => out.extend_from_slice(format!("FAILED:{denial}").as_bytes()),
    }
    true
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    bytes.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap_or_default());
    !bytes.is_empty()
}

/// Writes a value of the client's certificate; false without one, or if it cannot be read.
fn show<S: Connected, T: AsRef<[u8]>>(
    scope: &S,
    out: &mut Vec<u8>,
    value: impl FnOnce(&Subject<'_>) -> T,
) -> bool {
    let Some(info) = scope.tls() else { return false };
    let Some(subject) = info.peer_chain.first().and_then(|own| Subject::parse(own)) else { return false };
    let before = out.len();
    out.extend_from_slice(value(&subject).as_ref());
    out.len() > before
}

/// `$ssl_client_v_remain`.
fn days_remaining(subject: &Subject<'_>) -> String {
    let now_s = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    subject.days_remaining(now_s).to_string()
}
