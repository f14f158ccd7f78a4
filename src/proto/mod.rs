//! Protocols as values: bytes and time in, bytes out; no socket, no clock.

pub mod cache_control;
pub mod cgi;
pub mod client_hello;
pub mod dns;
pub mod fastcgi;
pub mod field_text;
pub mod ftp;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod head;
pub mod header;
pub mod imap;
pub mod line;
pub mod mail_auth;
pub mod memcached;
pub mod message;
pub mod mp4;
pub mod mqtt;
pub mod oidc;
pub mod otlp;
pub mod pop3;
pub mod postgres;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod protobuf;
pub mod proxy_protocol;
pub mod sasl;
pub mod scgi;
pub mod smtp;
pub mod trace_context;
pub mod uri;
pub mod uwsgi;

#[cfg(test)]
mod tests;
