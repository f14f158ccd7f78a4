//! Limits on how many scopes of a key are being served at one time: `limit_conn` and its zones.
//!
//! Touches: the scope's variables, one table in shared memory for each rule. What a rule holds is given back when the
//! [`Held`]s are dropped; what a dead worker held the master gives back.
//! Behaviour: nginx.org, ngx_http_limit_conn_module and ngx_stream_limit_conn_module.

use crate::config::inherit::{duplicate, replace};
use crate::config::{Diagnostic, Node, Setting, Span, params, settings};
use crate::log;
use crate::script::value::Script;
use crate::script::{Compile, Scope};
use crate::shared::zone::Fate;
use crate::shared::{ByRule, Severity, zone};
use crate::shm::held_counts::{Held, Holders, Refused};

pub type Declared<S> = zone::Declared<S, ()>;
pub type Zones<S> = zone::Zones<S>;
pub type Zone<S> = zone::Zone<S, Holders>;
pub type Table<S> = zone::Table<S, Holders>;

/// nginx's limit on the length of a key.
const KEY_BYTES_MAX: usize = 255;

/// One `limit_conn`.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Index of the zone.
    zone: usize,
    max: u32,
    span: Span,
}

settings! {
    /// The limits of one block.
    #[derive(Debug)]
    pub struct Limits {
        rules: Vec<Rule> => replace,
        /// The severity of a rejection.
        pub level: Setting<Severity> = Severity::Error,
        pub dry_run: Setting<bool> = false,
    }
}

/// The outcome of a scope's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Rejected,
    RejectedDryRun,
}

impl Outcome {
    /// As `$limit_conn_status` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Rejected => "REJECTED",
            Self::RejectedDryRun => "REJECTED_DRY_RUN",
        }
    }

    /// For another process; 0: no limit applied.
    pub fn number(outcome: Option<Self>) -> u8 {
        match outcome {
            None => 0,
            Some(Self::Passed) => 1,
            Some(Self::Rejected) => 2,
            Some(Self::RejectedDryRun) => 3,
        }
    }

    /// Reads [`Self::number`].
    pub fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Passed),
            2 => Some(Self::Rejected),
            3 => Some(Self::RejectedDryRun),
            _ => None,
        }
    }
}

/// Reads a `limit_conn_zone`.
pub fn read_zone<S: Scope>(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Declared<S>, Diagnostic> {
    let key = Script::compile(&node.args[0], cx)?;
    let word = &node.args[1];
    let zone = zone::parameter(word).ok_or_else(|| params::invalid_parameter(word, &["zone="]))??;
    Ok(Declared::new(node, key, zone, ()))
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Reads a `limit_conn`.
    pub fn add<S: Scope>(&mut self, node: &Node, zones: &mut Zones<S>) -> Result<(), Diagnostic> {
        let invalid = |message: String| Diagnostic::error(node.arg_span(1), message);
        let max = match node.arg(1).parse::<u64>() {
            Ok(0) | Err(_) => {
                return Err(invalid(format!("invalid number of connections \"{}\"", node.arg(1))));
            }
            Ok(65_536..) => return Err(invalid("connection limit must be less 65536".into())),
            Ok(max) => max as u32,
        };
        let zone = zones.reference(node.arg(0), node.arg_span(0));
        if self.rules.iter().any(|rule| rule.zone == zone) {
            return Err(duplicate(node));
        }
        self.rules.push(Rule { zone, max, span: node.span });
        Ok(())
    }

    /// Counts a scope in the zone of each rule: what became of it, and what it holds now. `None`: no zone counts it.
    pub fn hold<S: Scope>(&self, scope: &mut S, zones: &[Zone<S>]) -> Option<(Outcome, Vec<Held>)> {
        let (mut is_counted, mut all) = (false, Vec::with_capacity(self.rules.len()));
        for rule in &self.rules {
            let Some(zone) = zones.get(rule.zone) else { continue };
            let Some(holders) = zone.memory else { continue };
            let Some(key) = zone.key_of(scope, KEY_BYTES_MAX) else { continue };
            is_counted = true;
            match holders.hold(holders.key(&key), rule.max) {
                Ok(held) => {
                    zone.count(Fate::Passed);
                    all.push(held);
                }
                Err(why) => {
                    let outcome = self.reject(scope, rule, &zone.name, why);
                    let is_dry = outcome == Outcome::RejectedDryRun;
                    zone.count(if is_dry { Fate::RejectedDryRun } else { Fate::Rejected });
                    return Some((outcome, Vec::new()));
                }
            }
        }
        is_counted.then_some((Outcome::Passed, all))
    }

    /// Counts a scope that another process has admitted: no limit applies to it any more. What it holds now.
    pub fn hold_again<S: Scope>(&self, scope: &mut S, zones: &[Zone<S>]) -> Vec<Held> {
        let mut hold = |rule: &Rule| {
            let zone = zones.get(rule.zone)?;
            let holders = zone.memory?;
            let key = zone.key_of(scope, KEY_BYTES_MAX)?;
            holders.hold(holders.key(&key), u32::MAX).ok()
        };
        self.rules.iter().filter_map(&mut hold).collect()
    }

    #[cold]
    fn reject<S: Scope>(&self, scope: &S, rule: &Rule, zone: &str, why: Refused) -> Outcome {
        let is_dry = self.dry_run.get();
        let level = self.level.get().level();
        let by_rule = ByRule { scope, rule: rule.span };
        let dry = if is_dry { ", dry run," } else { "" };
        match why {
            Refused::Limit => {
                log::at!(level, scope.logger(), &by_rule, "limiting connections{} by zone \"{}\"", dry, zone)
            }
            Refused::Full => log::alert!(
                scope.logger(),
                &by_rule,
                "could not allocate node{} in limit_conn zone \"{}\"; give \"limit_conn_zone\" a larger one",
                dry,
                zone
            ),
        }
        if is_dry { Outcome::RejectedDryRun } else { Outcome::Rejected }
    }
}
