//! TLS to upstreams in HTTP: the `…_ssl_*` directives of every family, and what each location makes of them.
//!
//! The engine is `shared/tls/upstream.rs`. Touches: nothing.

use crate::http::request::Request;
use crate::shared::tls::upstream;

pub type Settings = upstream::Settings<Request>;
pub type Layer = upstream::Layer<Request>;
