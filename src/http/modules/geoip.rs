//! Variables out of databases of addresses in MaxMind's older format (`geoip_country`, `geoip_city`, `geoip_org`).
//!
//! The rows and variables are those of every language part (`shared/geoip.rs`). Touches: nothing.
//! Behaviour: nginx.org, ngx_http_geoip_module.

use crate::config::{Context, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::scope::Variable;
pub use crate::shared::geoip::Databases;
use crate::shared::geoip::{self as rows, Declares, Located};

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[
    rows::geoip_country(Context::HTTP),
    rows::geoip_city(Context::HTTP),
    rows::geoip_org(Context::HTTP),
    rows::geoip_proxy(Context::HTTP),
    rows::geoip_proxy_recursive(Context::HTTP),
];

pub static VARIABLES: &[Variable] = &rows::variables();

impl BlockConf for Conf {}

impl Declares for Cx {
    fn geoip(&mut self) -> &mut Databases {
        &mut self.drafts.geoip
    }
}

impl Located for Request {
    fn databases(&self) -> &'static Databases {
        &self.config.tables.geoip
    }
}

impl ModuleTable for Databases {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.geoip)
    }
}
