//! Access by the client's address: `allow` and `deny`.
//!
//! Touches: the scope's peer address. Behaviour: nginx.org, ngx_http_access_module and ngx_stream_access_module.

use crate::base::network::Network;
use crate::config::inherit::replace;
use crate::config::{Diagnostic, HasDiagnostics, Merge, Node, Span};
use crate::log;
use crate::script::Scope;
use crate::shared::ByRule;

/// One `allow` or `deny`.
#[derive(Clone, Copy, Debug)]
struct Rule {
    is_allow: bool,
    /// `None`: all.
    network: Option<Network>,
    span: Span,
}

/// The rules of one block, in the order of the file.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

/// The decision of the first rule that fits a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No rule fits.
    Undecided,
    Allowed,
    /// By the rule at this place.
    Denied(Span),
}

/// Takes the rules of the outer block where this one has none.
impl Merge for Rules {
    fn merge(&mut self, outer: &Self) {
        replace(&mut self.0, &outer.0);
    }
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads an `allow` or a `deny`.
    pub fn add(
        &mut self,
        is_allow: bool,
        node: &Node,
        cx: &mut impl HasDiagnostics,
    ) -> Result<(), Diagnostic> {
        let text = node.arg(0);
        let network = if text == "all" {
            None
        } else {
            let parsed = Network::parse(text).ok_or_else(|| {
                let diagnostic = Diagnostic::error(node.arg_span(0), format!("invalid parameter \"{text}\""));
                diagnostic.help("an address, a network such as 10.0.0.0/8, unix: or all")
            })?;
            if parsed.has_low_bits {
                let message = format!("low address bits of {text} are meaningless");
                cx.diagnostics().push(Diagnostic::warning(node.arg_span(0), message));
            }
            Some(parsed.network)
        };
        self.0.push(Rule { is_allow, network, span: node.span });
        Ok(())
    }

    pub fn decide(&self, scope: &impl Scope) -> Decision {
        let peer = scope.peer().ip().map(|ip| ip.to_canonical());
        let decides = |rule: &&Rule| rule.network.is_none_or(|network| network.contains(peer));
        match self.0.iter().find(decides) {
            None => Decision::Undecided,
            Some(rule) if rule.is_allow => Decision::Allowed,
            Some(rule) => Decision::Denied(rule.span),
        }
    }
}

/// Logs that the rule at this place has denied access.
pub fn log_denied(scope: &impl Scope, rule: Span) {
    log::error!(scope.logger(), &ByRule { scope, rule }, "access forbidden by rule");
}
