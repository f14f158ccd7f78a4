//! OCSP over HTTP: the responses that handshakes staple (`ssl_stapling`), and the status of clients'
//! certificates (`ssl_ocsp`).
//!
//! The requests and what a response is worth are in `verify/ocsp.rs`. Knows no protocol above and no directive.
//! Behaviour: nginx.org, ngx_http_ssl_module; RFC 6960 appendix A, RFC 5019 §5.

pub mod cache;
pub mod clients;
pub mod denial;
pub mod exchange;
pub mod responder;
pub mod staples;
pub mod stapling;
