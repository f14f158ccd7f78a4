//! Warnings of `-t` about `if` in a location, where nginx's behaviour surprises most people.
//!
//! Touches: the findings. Looks at each location once, while it is compiled.
//! Behaviour: nginx.org, ngx_http_rewrite_module; nginx's wiki, "If is Evil".

use crate::config::Diagnostic;
use crate::http::config::compile::{Cx, IfSettings};
use crate::http::modules::Confs;

/// Warns of the traps in one location's `if` blocks.
pub fn check(confs: &Confs, ifs: &[IfSettings], cx: &mut Cx) {
    if !cx.options.test_only {
        return;
    }
    for (index, this) in ifs.iter().enumerate() {
        if confs.try_files.is_set() && !this.ends {
            let message = "where this \"if\" holds, the \"try_files\" of its location is not in force";
            let help = "set variables by a \"map\" instead, or let the \"if\" end with \"return\" or \"rewrite … last\"";
            cx.diagnostics.push(Diagnostic::warning(this.span, message).help(help));
        }
        if let Some(earlier) =
            ifs[..index].iter().rfind(|earlier| !earlier.ends && !earlier.partial.is_empty())
        {
            let lost_proxy = earlier.partial.proxy_pass.is_some()
                && this.partial.proxy_pass.is_none()
                && !confs.proxy_pass.is_set();
            if this.ends {
                continue;
            }
            let (message, help) = if lost_proxy {
                (
                    "a request for which this \"if\" and an earlier one with \"proxy_pass\" hold is answered with 500",
                    "give both a \"proxy_pass\", or choose the backend by a \"map\"",
                )
            } else {
                (
                    "where this \"if\" and an earlier one hold, only this one's settings are in force",
                    "settings of the earlier \"if\" are lost for such requests: use a \"map\", or one \"if\"",
                )
            };
            cx.diagnostics.push(Diagnostic::warning(this.span, message).help(help));
        }
    }
}
