//! Variables out of a database of addresses (`geoip2`).
//!
//! The rows are those of every language part (`shared/geoip2.rs`). Touches: nothing.
//! Behaviour: the third-party module ngx_stream_geoip2_module 3.4.

use crate::config::{Context, settings};
use crate::shared::geoip2::{self as rows, Declares};
pub use crate::shared::geoip2::{Draft, Settled};
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[rows::geoip2(Context::STREAM)];

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
