//! Variables of TLS, HTTP/2 and HTTP/3. None of these is available, so they are all empty, as on a plain
//! connection in nginx.
//!
//! Sites without TLS also use them in log formats, maps and headers for backends. Touches: nothing.
//! Behaviour: nginx.org, ngx_http_ssl_module, ngx_http_v2_module and ngx_http_v3_module.

use crate::config::settings;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::script::variable::{Argument, variable};

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[

];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("http2", empty, "The negotiated HTTP/2 protocol; always empty, since HTTP/2 is not available."),
    variable("http3", empty, "The negotiated HTTP/3 protocol; always empty, since HTTP/3 is not available."),
    variable("ssl_alpn_protocol", none, "The protocol selected by ALPN; no value without TLS."),
    variable("ssl_cipher", none, "The cipher of the connection; no value without TLS."),
    variable("ssl_ciphers", none, "The ciphers that the client supports; no value without TLS."),
    variable("ssl_client_cert", none, "The client's certificate, with its lines indented; no value without TLS."),
    variable("ssl_client_escaped_cert", none, "The client's certificate, URL-encoded; no value without TLS."),
    variable("ssl_client_fingerprint", none, "The SHA-1 of the client's certificate; no value without TLS."),
    variable("ssl_client_i_dn", none, "The issuer DN of the client's certificate; no value without TLS."),
    variable("ssl_client_i_dn_legacy", none, "The issuer DN of the client's certificate, in the old format; no value without TLS."),
    variable("ssl_client_raw_cert", none, "The client's certificate; no value without TLS."),
    variable("ssl_client_s_dn", none, "The subject DN of the client's certificate; no value without TLS."),
    variable("ssl_client_s_dn_legacy", none, "The subject DN of the client's certificate, in the old format; no value without TLS."),
    variable("ssl_client_serial", none, "The serial number of the client's certificate; no value without TLS."),
    variable("ssl_client_sigalg", none, "The signature algorithm of the client's certificate; no value without TLS."),
    variable("ssl_client_v_end", none, "The date on which the client's certificate expires; no value without TLS."),
    variable("ssl_client_v_remain", none, "The days until the client's certificate expires; no value without TLS."),
    variable("ssl_client_v_start", none, "The date from which the client's certificate is valid; no value without TLS."),
    variable("ssl_client_verify", none, "The result of verifying the client's certificate; no value without TLS."),
    variable("ssl_curve", none, "The curve of the key exchange; no value without TLS."),
    variable("ssl_curves", none, "The curves that the client supports; no value without TLS."),
    variable("ssl_early_data", none, "1 if the request was sent as TLS 1.3 early data; no value without TLS."),
    variable("ssl_ech_outer_server_name", none, "The public name of Encrypted Client Hello; no value without TLS."),
    variable("ssl_ech_status", none, "The result of Encrypted Client Hello; no value without TLS."),
    variable("ssl_protocol", none, "The TLS version of the connection; no value without TLS."),
    variable("ssl_server_name", none, "The server name that the client requested by SNI; no value without TLS."),
    variable("ssl_session_id", none, "The id of the TLS session; no value without TLS."),
    variable("ssl_session_reused", none, "r if the TLS session was reused, otherwise a dot; no value without TLS."),
    variable("ssl_sigalg", none, "The signature algorithm of the connection; no value without TLS."),
    variable("ssl_sigalgs", none, "The signature algorithms that the client supports; no value without TLS."),
];

impl BlockConf for Conf {}

/// No value: `-` in the access log.
fn none(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    false
}

/// An empty value.
fn empty(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    true
}
