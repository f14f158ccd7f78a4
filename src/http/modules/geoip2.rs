//! Variables out of a database of addresses (`geoip2`).
//!
//! The rows are those of every language part (`shared/geoip2.rs`). Touches: nothing.
//! Behaviour: the third-party module ngx_http_geoip2_module 3.4.

use crate::config::{Context, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::scope::Variable;
use crate::shared::geoip2::{self as rows, Declares};
pub use crate::shared::geoip2::{Draft, Settled};

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[
    rows::geoip2(Context::HTTP),
    rows::geoip2_proxy(Context::HTTP),
    rows::geoip2_proxy_recursive(Context::HTTP),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Declares for Cx {
    fn geoip2(&mut self) -> &mut Draft {
        &mut self.drafts.geoip2
    }
}

impl ModuleTable for Settled {
    fn open(cx: &mut Cx) -> Self {
        rows::open(cx)
    }
}
