//! Logging of the rewrite module (`rewrite_log`, `uninitialized_variable_warn`).
//!
//! A module of its own, because these directives are inherited and the steps of `rewrite` are not. Touches:
//! nothing.
//! Behaviour: nginx.org, ngx_http_rewrite_module.

use crate::config::directive::flag;
use crate::config::{Context, Setting, settings};
use crate::http::modules::{BlockConf, Directive};
use crate::http::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        rewrite_log: Setting<bool> = false,
        uninitialized_variable_warn: Setting<bool> = true,
    }
}

const CONTEXTS: Context = Context::ANY.or(Context::SERVER_IF).or(Context::LOCATION_IF);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("rewrite_log", CONTEXTS, |c| &mut c.rewrite_log, "Logs each rewrite at level notice."),
    flag("uninitialized_variable_warn", CONTEXTS, |c| &mut c.uninitialized_variable_warn, "Logs a warning when a variable is used before it is set."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Conf {
    pub fn is_logged(&self) -> bool {
        self.rewrite_log.get()
    }

    pub fn warns(&self) -> bool {
        self.uninitialized_variable_warn.get()
    }
}
