//! Variables of TLS, HTTP/2 and HTTP/3: there is none of them, so all are empty, as nginx has them on a plain connection.
//!
//! Formats of logs, headers for backends and maps name them on sites without TLS too. Touches: nothing.
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

pub static VARIABLES: &[Variable] = &[
    variable("http2", empty),
    variable("http3", empty),
    variable("ssl_alpn_protocol", none),
    variable("ssl_cipher", none),
    variable("ssl_ciphers", none),
    variable("ssl_client_cert", none),
    variable("ssl_client_escaped_cert", none),
    variable("ssl_client_fingerprint", none),
    variable("ssl_client_i_dn", none),
    variable("ssl_client_i_dn_legacy", none),
    variable("ssl_client_raw_cert", none),
    variable("ssl_client_s_dn", none),
    variable("ssl_client_s_dn_legacy", none),
    variable("ssl_client_serial", none),
    variable("ssl_client_sigalg", none),
    variable("ssl_client_v_end", none),
    variable("ssl_client_v_remain", none),
    variable("ssl_client_v_start", none),
    variable("ssl_client_verify", none),
    variable("ssl_curve", none),
    variable("ssl_curves", none),
    variable("ssl_early_data", none),
    variable("ssl_ech_outer_server_name", none),
    variable("ssl_ech_status", none),
    variable("ssl_protocol", none),
    variable("ssl_server_name", none),
    variable("ssl_session_id", none),
    variable("ssl_session_reused", none),
    variable("ssl_sigalg", none),
    variable("ssl_sigalgs", none),
];

impl BlockConf for Conf {}

/// No value: `-` in the access log.
fn none(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    false
}

/// A value that is empty.
fn empty(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    true
}
