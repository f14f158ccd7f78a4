//! Health checks, as far as every language part has them: `match` blocks by name, and the agents of upstream servers.
//!
//! The rules of checks are `upstream/check.rs`, the prober that follows them `upstream/prober.rs`. Touches: the sockets of
//! agents. Behaviour: nginx.org, ngx_http_upstream_hc_module and ngx_stream_upstream_hc_module; HAProxy's `agent-check`.

use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::directive::custom;
use crate::config::inherit::duplicate;
use crate::config::{Arity, Context, Diagnostic, Diagnostics, Directive, Node, Span, Word, params};
use crate::log::Logger;
use crate::upstream::agent;
use crate::upstream::check::Rules;
use crate::upstream::prober::{self, Outcome};

/// Minimum time that an agent has for its line.
const AGENT_MS_MIN: u64 = 1_000;

/// The `match` blocks of a language part while it is read: `M` is what one contains.
#[derive(Debug)]
pub struct Matches<M> {
    blocks: HashMap<Box<str>, M>,
    /// The names that checks refer to.
    used: Vec<(Box<str>, Span)>,
}

impl<M> Default for Matches<M> {
    fn default() -> Self {
        Self { blocks: HashMap::new(), used: Vec::new() }
    }
}

impl<M> Matches<M> {
    /// Adds the block whose name `node` has.
    pub fn define(&mut self, node: &Node, conditions: M) -> Result<(), Diagnostic> {
        match self.blocks.insert(node.arg(0).into(), conditions) {
            None => Ok(()),
            Some(_) => Err(Diagnostic::error(node.span, format!("duplicate match \"{}\"", node.arg(0)))),
        }
    }

    /// Notes that a check refers to the block of this name, in this word.
    pub fn refer(&mut self, name: &str, word: &Word) {
        self.used.push((name.into(), word.span));
    }

    /// The blocks, once everything is read; reports the names that no block has.
    fn finish(self, out: &mut Diagnostics) -> HashMap<Box<str>, M> {
        for (name, span) in self.used.iter().filter(|(name, _)| !self.blocks.contains_key(name)) {
            out.push(Diagnostic::error(*span, format!("\"match\" block \"{name}\" is not defined")));
        }
        self.blocks
    }
}

/// The check of an `upstream` block. `C`: a check of its language part; `L`: TLS for that.
#[derive(Debug)]
pub struct OfGroup<C, L> {
    /// The index of the group.
    pub group: usize,
    pub check: C,
    /// `None`: its connections are plain.
    pub layer: Option<Arc<L>>,
}

/// The checks of a language part, while it is read. `M`: what a `match` block contains.
#[derive(Debug)]
pub struct Draft<M, C, L> {
    pub matches: Matches<M>,
    pub of_groups: Vec<OfGroup<C, L>>,
    /// Agents, with the indexes of their groups.
    pub agents: Vec<(usize, Agent)>,
}

impl<M, C, L> Default for Draft<M, C, L> {
    fn default() -> Self {
        Self { matches: Matches::default(), of_groups: Vec::new(), agents: Vec::new() }
    }
}

impl<M, C, L> Draft<M, C, L> {
    /// The checks, once everything is read; reports the names that no `match` block has.
    pub fn finish(self, out: &mut Diagnostics) -> Table<M, C, L> {
        let Self { matches, of_groups, agents } = self;
        Table { matches: matches.finish(out), of_groups, agents }
    }
}

/// The checks of a language part.
#[derive(Debug)]
pub struct Table<M, C, L> {
    matches: HashMap<Box<str>, M>,
    pub of_groups: Vec<OfGroup<C, L>>,
    agents: Vec<(usize, Agent)>,
}

impl<M, C, L> Table<M, C, L> {
    /// The agents of groups, with the indexes of these.
    pub fn agents(&self) -> impl Iterator<Item = (usize, &Agent)> {
        self.agents.iter().map(|(index, agent)| (*index, agent))
    }

    /// The `match` block of this name.
    pub fn matching(&self, name: &str) -> Option<&M> {
        self.matches.get(name)
    }
}

/// Reports a check that is to be persistent and is not mandatory, of which nothing would persist.
pub fn demand_mandatory(rules: &Rules, node: &Node) -> Result<(), Diagnostic> {
    if rules.is_persistent && !rules.is_mandatory {
        return Err(Diagnostic::error(node.span, "\"persistent\" requires \"mandatory\" parameter"));
    }
    Ok(())
}

/// An `agent_check`.
#[derive(Debug)]
pub struct Agent {
    /// They have the port.
    rules: Rules,
    /// Sent before the agent answers.
    send: Box<[u8]>,
}

/// `agent_check`
#[rustfmt::skip]
pub const fn agent_check<C: HasAgent, X: 'static>(contexts: Context) -> Directive<C, X> {
    custom("agent_check", contexts, Arity::at_least(1), |conf: &mut C, _, node| read_agent(conf.agent(), node),
        "Asks an agent on each server of the group at port=, every interval= (5s), after send=, for a line that says how the server is: up, down, ready, \
         drain, maint, or 50% of its weight; methods that choose by key take no notice of the percentage, except with bounded=. While an agent does not \
         answer, what it has said holds.")
}

/// The settings of a block that may have an agent.
pub trait HasAgent: 'static {
    fn agent(&mut self) -> &mut Option<Agent>;
}

fn read_agent(slot: &mut Option<Agent>, node: &Node) -> Result<(), Diagnostic> {
    if slot.is_some() {
        return Err(duplicate(node));
    }
    let mut agent = Agent { rules: Rules::default(), send: Box::default() };
    for word in &node.args {
        let invalid = || params::invalid_parameter(word, &["port=", "interval=", "send="]);
        let (name, value) = word.text.split_once('=').ok_or_else(invalid)?;
        match name {
            "port" | "interval" => drop(agent.rules.take(word)?),
            "send" => agent.send = value.as_bytes().into(),
            _ => return Err(invalid()),
        }
    }
    if agent.rules.port.is_none() {
        return Err(Diagnostic::error(node.span, "\"agent_check\" must have the \"port\" parameter"));
    }
    *slot = Some(agent);
    Ok(())
}

impl Agent {
    /// The questions to the agents of a group's peers.
    pub fn check(&'static self, log: Logger) -> prober::Check {
        let limit_ms = self.rules.interval_ms.max(AGENT_MS_MIN);
        let probe = move |target: Rc<prober::Target>| -> Pin<Box<dyn Future<Output = Outcome>>> {
            Box::pin(async move {
                let before = target.advice();
                agent::ask(&target.peer.address, &self.send, before, limit_ms).await
            })
        };
        prober::Check { rules: &self.rules, name: "", log, is_agent: true, probe: Box::new(probe) }
    }
}
