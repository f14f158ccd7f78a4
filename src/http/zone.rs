//! Shared memory zones as directives name them: `zone=name:size`, declared in `http`, used anywhere.
//!
//! A use may stand before its declaration. Touches: nothing; the modules map what is declared.
//! Wording of the errors: nginx's ngx_http_limit_req_module.

use std::collections::HashMap;

use crate::base::number::parse_size;
use crate::config::{Diagnostic, Diagnostics, Node, Span, Word, params};
use crate::http::request::Request;
use crate::log;

/// nginx's least: eight pages.
const BYTES_MIN: u64 = 32 * 1024;

/// The zones of one kind while the configuration is read. `D` is what the module knows of a declared one.
pub struct Zones<D> {
    by_name: HashMap<Box<str>, usize>,
    list: Vec<Draft<D>>,
}

struct Draft<D> {
    name: Box<str>,
    declared: Option<D>,
    used: Option<Span>,
}

impl<D> Default for Zones<D> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), list: Vec::new() }
    }
}

impl<D> Zones<D> {
    /// The index of the zone of this name, which may be declared later.
    pub fn reference(&mut self, name: &str, span: Span) -> usize {
        let index = self.entry(name);
        self.list[index].used.get_or_insert(span);
        index
    }

    /// Declares a zone. Gives back what it is declared as already.
    pub fn declare(&mut self, name: &str, declared: D) -> Result<(), &D> {
        let index = self.entry(name);
        let there = &mut self.list[index].declared;
        if there.is_none() {
            *there = Some(declared);
            return Ok(());
        }
        there.as_ref().map_or(Ok(()), Err)
    }

    pub fn is_declared(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|&index| self.list[index].declared.is_some())
    }

    /// All zones by index; those that are only used are reported.
    pub fn complete(&mut self, directive: &str, out: &mut Diagnostics) -> Vec<(Box<str>, D)> {
        let drafts = std::mem::take(&mut self.list).into_iter();
        let complete = drafts.filter_map(|Draft { name, declared, used }| match (declared, used) {
            (Some(declared), _) => Some((name, declared)),
            (None, Some(span)) => {
                let diagnostic = Diagnostic::error(span, format!("zero size shared memory zone \"{name}\""));
                out.push(
                    diagnostic.help(format!("declare it in \"http\": {directive} … zone={name}:10m …;")),
                );
                None
            }
            (None, None) => None,
        });
        complete.collect()
    }

    fn entry(&mut self, name: &str) -> usize {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        self.list.push(Draft { name: name.into(), declared: None, used: None });
        self.by_name.insert(name.into(), self.list.len() - 1);
        self.list.len() - 1
    }
}

/// The value of `zone=name:size`; `None` for another parameter.
pub fn parameter(word: &Word) -> Option<Result<(&str, usize), Diagnostic>> {
    let value = params::value(word, "zone")?;
    let invalid = || {
        let diagnostic = Diagnostic::error(word.span, format!("invalid zone size \"{}\"", word.text));
        diagnostic.help("write zone=NAME:SIZE, such as zone=clients:10m")
    };
    let parsed = value.split_once(':').and_then(|(name, size)| Some((name, parse_size(size)?)));
    Some(match parsed {
        Some((_, bytes)) if bytes < BYTES_MIN => {
            let diagnostic = Diagnostic::error(word.span, format!("zone \"{}\" is too small", word.text));
            Err(diagnostic.help("a zone has 32k or more"))
        }
        Some((name, bytes)) if !name.is_empty() => {
            usize::try_from(bytes).map(|b| (name, b)).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    })
}

/// `"x" must have "zone" parameter`.
pub fn missing(directive: &Word) -> Diagnostic {
    Diagnostic::error(directive.span, format!("\"{}\" must have \"zone\" parameter", directive.text))
}

/// What the memory of a zone is found by: the same after a reload unless something that matters has changed.
pub fn id(kind: &str, name: &str, bytes: usize, key: &str) -> u64 {
    crate::shm::named::name(&format!("{kind} {name} {bytes} {key}"))
}

/// A request as the log names it, and at the line's end the rule that decided: who reads nginx's logs looks for what
/// stands before.
pub struct ByRule<'a> {
    pub request: &'a Request,
    pub rule: Span,
}

impl log::Context for ByRule<'_> {
    fn connection(&self) -> Option<u64> {
        log::Context::connection(self.request)
    }

    fn action(&self) -> Option<&str> {
        log::Context::action(self.request)
    }

    fn fields(&self, fields: &mut log::Fields) {
        log::Context::fields(self.request, fields);
        let place = self.request.config.places.name(self.rule);
        if !place.is_empty() {
            fields.plain("rule", place);
        }
    }
}
/// Another kind of limit has a zone of this name.
pub fn other_use(name: &str, node: &Node) -> Diagnostic {
    let message = format!("the shared memory zone \"{name}\" is already declared for a different use");
    Diagnostic::error(node.span, message)
}

/// The zone is declared with this key already.
pub fn already_bound(name: &str, key: &str, node: &Node) -> Diagnostic {
    Diagnostic::error(node.span, format!("{} \"{name}\" is already bound to key \"{key}\"", node.name.text))
}
