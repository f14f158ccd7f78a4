//! Variables whose values operators set while the server runs (`keyval`, `keyval_zone`).
//!
//! The rows are those of every language part (`shared/keyval_rows.rs`). Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_keyval_module.

use crate::config::{Context, settings};
pub use crate::script::keyval::{Draft, Zones};
use crate::shared::keyval_rows::{self as rows, Declares};
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] =
    &[rows::keyval(Context::STREAM), rows::keyval_zone(Context::STREAM)];

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
