//! Variables out of databases of addresses in MaxMind's older format (`geoip_country`, `geoip_city`, `geoip_org`).
//!
//! The rows and variables are those of every language part (`shared/geoip.rs`). Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_geoip_module.

use crate::config::{Context, settings};
pub use crate::shared::geoip::Databases;
use crate::shared::geoip::{self as rows, Declares, Located};
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;
use crate::stream::session::Session;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[
    rows::geoip_country(Context::STREAM),
    rows::geoip_city(Context::STREAM),
    rows::geoip_org(Context::STREAM),
];

pub static VARIABLES: &[Variable] = &rows::variables();

impl BlockConf for Conf {}

impl Declares for Cx {
    fn geoip(&mut self) -> &mut Databases {
        &mut self.drafts.geoip
    }
}

impl Located for Session {
    fn databases(&self) -> &'static Databases {
        &self.config().tables.geoip
    }
}

impl ModuleTable for Databases {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.geoip)
    }
}
