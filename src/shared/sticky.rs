//! The parameters that `sticky` has in every language part: its table, and the client's address as a key.
//!
//! Touches: nothing while it reads; the table in shared memory afterwards. The engine is `upstream/sticky.rs`.
//! Behaviour: nginx.org, `sticky` of ngx_http_upstream_module; `sticky source` is ours.

use std::collections::HashMap;

use crate::base::number::parse_millis;
use crate::config::{Diagnostic, Node, Span, Word, params};
use crate::log;
use crate::shared::{Environment, zone};
use crate::sys::address::SockAddr;
use crate::upstream::sticky::{Bindings, Prefixes};

/// The default of `timeout=`; nginx's.
const TIMEOUT_MS: u64 = 600_000;

/// `sticky source`: clients are known by their address.
#[derive(Debug)]
pub struct Source {
    pub bindings: Bindings,
    prefixes: Prefixes,
}

impl Source {
    /// Reads the directive. `part` as in [`Bindings::new`].
    pub fn read(part: &'static str, node: &Node) -> Result<Self, Diagnostic> {
        let (mut table, mut prefixes) = (TableWords::default(), Prefixes::default());
        for word in &node.args[1..] {
            if table.read(node, word)? {
                continue;
            }
            let (place, value, bits_max) = if let Some(value) = params::value(word, "prefix4") {
                (&mut prefixes.v4, value, 32)
            } else if let Some(value) = params::value(word, "prefix6") {
                (&mut prefixes.v6, value, 128)
            } else {
                return Err(unknown(word, &["zone=", "timeout=", "prefix4=", "prefix6="]));
            };
            *place = value.parse().ok().filter(|bits| (1..=bits_max).contains(bits)).ok_or_else(|| {
                let diagnostic = Diagnostic::error(word.span, format!("invalid prefix \"{}\"", word.text));
                diagnostic.help(format!("it is a number of bits from 1 to {bits_max}"))
            })?;
        }
        Ok(Self { bindings: table.bindings(part, node)?, prefixes })
    }

    /// The key of a client; empty for a unix socket, whose clients stay unbound.
    pub fn key(&self, client: &SockAddr) -> Vec<u8> {
        client.ip().map(|ip| self.prefixes.key(ip)).unwrap_or_default()
    }
}

/// `zone=` and `timeout=`, as far as they were read.
#[derive(Default)]
pub struct TableWords<'a> {
    zone: Option<(&'a str, usize)>,
    timeout_ms: Option<u64>,
}

impl<'a> TableWords<'a> {
    /// False for another word.
    pub fn read(&mut self, node: &Node, word: &'a Word) -> Result<bool, Diagnostic> {
        let is_twice = if let Some(zone) = zone::parameter(word) {
            self.zone.replace(zone?).is_some()
        } else if let Some(value) = params::value(word, "timeout") {
            let timeout_ms = parse_millis(value).filter(|timeout_ms| *timeout_ms > 0);
            self.timeout_ms.replace(timeout_ms.ok_or_else(|| wrong(node, word, "invalid timeout"))?).is_some()
        } else {
            return Ok(false);
        };
        if is_twice { Err(twice(node, word)) } else { Ok(true) }
    }

    pub fn bindings(&self, part: &'static str, node: &Node) -> Result<Bindings, Diagnostic> {
        let (zone, bytes) = self.zone.ok_or_else(|| missing(node, "zone"))?;
        Ok(Bindings::new(part, zone, bytes, self.timeout_ms.unwrap_or(TIMEOUT_MS)))
    }
}

/// Maps the tables of a configuration that is complete; not with `-t`. Each comes with the place of its directive.
pub fn open<'a>(tables: impl Iterator<Item = (&'a Bindings, Span)>, cx: &mut impl Environment) {
    if cx.is_test() || cx.diagnostics().has_errors() {
        return;
    }
    for (bindings, span) in tables {
        let Err(error) = bindings.open() else { continue };
        let message = format!("no memory for \"sticky\" {}", log::Cause(&error));
        cx.diagnostics().push(Diagnostic::error(span, message));
    }
}

/// The zones of `sticky`, and the `upstream` of each.
#[derive(Debug, Default)]
pub struct Zones(HashMap<Box<str>, Box<str>>);

impl Zones {
    /// Notes whose zone it is. Errors: another `upstream` has it.
    pub fn claim(&mut self, bindings: &Bindings, span: Span, upstream: &str) -> Result<(), Diagnostic> {
        let zone = bindings.zone();
        if let Some(other) = self.0.insert(zone.into(), upstream.into()) {
            let message = format!("sticky zone \"{zone}\" is already used in upstream \"{other}\"");
            return Err(Diagnostic::error(span, message));
        }
        Ok(())
    }
}

pub fn wrong(node: &Node, word: &Word, what: &str) -> Diagnostic {
    Diagnostic::error(word.span, format!("\"{}\" directive {what}", node.name.text))
}

pub fn twice(node: &Node, word: &Word) -> Diagnostic {
    let name = word.text.split('=').next().unwrap_or_default();
    wrong(node, word, &format!("parameter \"{name}\" is duplicate"))
}

pub fn missing(node: &Node, name: &str) -> Diagnostic {
    let message = format!("\"{}\" directive \"{name}\" parameter is not specified", node.name.text);
    Diagnostic::error(node.span, message)
}

pub fn unknown(word: &Word, names: &[&str]) -> Diagnostic {
    let Diagnostic { help, .. } = params::invalid_parameter(word, names);
    let diagnostic = Diagnostic::error(word.span, format!("unknown parameter \"{}\"", word.text));
    Diagnostic { help, ..diagnostic }
}
