//! What the rewrite module tells the log (`rewrite_log`, `uninitialized_variable_warn`).
//!
//! A module of its own because these are inherited, and the steps of `rewrite` are not. Touches: nothing.
//! Behaviour: nginx.org, ngx_http_rewrite_module.

use crate::config::directive::flag;
use crate::config::{Context, Inherit, Merge};
use crate::http::modules::{BlockConf, Directive};
use crate::http::variable::Variable;

#[derive(Debug, Default)]
pub struct Conf {
    rewrite_log: Inherit<bool>,
    uninitialized_variable_warn: Inherit<bool>,
}

const CONTEXTS: Context = Context::ANY.or(Context::SERVER_IF).or(Context::LOCATION_IF);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("rewrite_log", CONTEXTS, |c| &mut c.rewrite_log, "Logs what each rewrite does, at level notice; off."),
    flag("uninitialized_variable_warn", CONTEXTS, |c| &mut c.uninitialized_variable_warn, "Warns of variables that are used before they are set; on."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.rewrite_log.merge(&outer.rewrite_log);
        self.uninitialized_variable_warn.merge(&outer.uninitialized_variable_warn);
    }
}

impl BlockConf for Conf {}

impl Conf {
    pub fn is_logged(&self) -> bool {
        self.rewrite_log.get(false)
    }

    pub fn warns(&self) -> bool {
        self.uninitialized_variable_warn.get(true)
    }
}
