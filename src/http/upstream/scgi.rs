//! SCGI to upstreams: the encoder. Responses are those of `cgi.rs`.
//!
//! Touches: only the request whose head is encoded. nginx.org, ngx_http_scgi_module.

use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::upstream::codec::Framing;
use crate::http::upstream::params;
use crate::proto::scgi::Headers;

/// Appends the head of a request. Errors: 500 for a parameter with a null byte.
pub fn head(request: &mut Request, framing: Framing, out: &mut Vec<u8>) -> Result<(), Error> {
    let body_bytes = match framing {
        Framing::Length(length) => length,
        Framing::None | Framing::Framed => 0,
    };
    let mut headers = Headers::begin(body_bytes, out);
    params::write(request, request.location.confs.scgi.params(), &mut headers);
    headers.end().map_err(|why| params::unsendable(&why))
}
