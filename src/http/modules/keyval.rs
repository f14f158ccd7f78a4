//! Variables whose values operators set while the server runs (`keyval`, `keyval_zone`).
//!
//! The rows are those of every language part (`shared/keyval_rows.rs`). Touches: nothing.
//! Behaviour: nginx.org, ngx_http_keyval_module.

use crate::config::{Context, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::scope::Variable;
pub use crate::script::keyval::{Draft, Zones};
use crate::shared::keyval_rows::{self as rows, Declares};

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[rows::keyval(Context::HTTP), rows::keyval_zone(Context::HTTP)];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Declares for Cx {
    fn keyvals(&mut self) -> &mut Draft {
        &mut self.drafts.keyval
    }
}

impl ModuleTable for Zones {
    fn open(cx: &mut Cx) -> Self {
        rows::open(cx)
    }
}
