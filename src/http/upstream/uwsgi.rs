//! uwsgi to upstreams: the encoder. Responses are those of `cgi.rs`.
//!
//! Touches: only the request whose head is encoded. nginx.org, ngx_http_uwsgi_module.

use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::upstream::params;
use crate::proto::uwsgi::Variables;

/// Appends the head of a request. Errors: 500 for parameters that do not fit into a packet.
pub fn head(request: &mut Request, out: &mut Vec<u8>) -> Result<(), Error> {
    let conf = &request.location.confs.uwsgi;
    let mut variables = Variables::begin(conf.modifiers(), out);
    params::write(request, conf.params(), &mut variables);
    variables.append(conf.string());
    variables.end().map_err(|why| params::unsendable(&why))
}
