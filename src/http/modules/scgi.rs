//! SCGI to upstreams: every `scgi_…` directive except `scgi_pass`.
//!
//! Settings only. Those that other upstream protocols share are in `http/upstream/conf.rs`; the encoder is in
//! `http/upstream/scgi.rs`, the decoder in `http/upstream/cgi.rs`.
//! Behaviour: nginx.org, ngx_http_scgi_module.

use crate::config::inherit::replace;
use crate::config::settings;
use crate::http::config::compile::Cx;
use crate::http::modules::fastcgi::HIDDEN;
use crate::http::modules::{BlockConf, Directive};
use crate::http::scope::Variable;
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::params::{self, Param};
use crate::http::upstream::rows::upstream_rows;

static FAMILY: Family = Family::of_applications("scgi_", HIDDEN);

settings! {
    /// The settings of one block: those of every family, and those specific to SCGI.
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
        params: Vec<Param> => replace,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("scgi_", Conf, upstream, [relay, whole], [
    custom("scgi_param", ANY, Arity::between(2, 3), |c, cx, node| params::push(&mut c.params, cx, node),
        "Sets a parameter of the request to the application. With if_not_empty it is sent only if its value is not empty."),
]);

pub static VARIABLES: &[Variable] = &[];

impl Conf {
    /// The parameters of requests.
    pub fn params(&self) -> &[Param] {
        &self.params
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        self.upstream.freeze(cx);
    }
}
