//! The rows of all modules of one language part, and the path of a directive: it is found by its name and the
//! block around it, checked, and passed to its module.
//!
//! Knows no module except as a [`Module`]. The order and wording of the checks are those of nginx's
//! `ngx_conf_handler`.

use std::borrow::Cow;
use std::collections::HashMap;

use smallvec::SmallVec;

use crate::base::number::{format_millis, format_size};
use crate::config::directive::{Accepted, Opens};
use crate::config::inherit::duplicate;
use crate::config::{
    Arity, Context, Diagnostic, Directive, HasDiagnostics, Inherits, Kind, Node, absent, params,
};

/// The plain data of a row, whatever its module.
#[derive(Clone, Debug)]
pub struct RowInfo {
    pub name: &'static str,
    /// The name of its module; empty for rows without one.
    pub module: &'static str,
    pub contexts: Context,
    pub arity: Arity,
    pub shape: Shape,
    pub doc: &'static str,
    /// The value that applies if nothing sets the directive, in the spelling of a configuration, or else in
    /// words.
    pub default: Option<Cow<'static, str>>,
    pub inherits: Inherits,
    /// The kind of block that it opens, by the kind of the block around it.
    pub opens: Opens,
}

impl RowInfo {
    /// The kind of block that this directive opens in a block of kind `context`; `None` if it has no block,
    /// or one of data.
    pub fn inside(&self, context: Context) -> Option<Context> {
        self.opens.iter().find(|(around, _)| *around == context).map(|(_, inside)| *inside)
    }
}

/// A row's [`Kind`] without its setter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Flag,
    Number { min: u64, max: u64 },
    Size,
    Millis,
    Buffers,
    Text,
    Keyword(&'static [&'static str]),
    Custom,
    Block,
    Accepted(Accepted),
}

impl<C, X> Directive<C, X> {
    /// The row's plain data. `defaults` are the module's settings when nothing is set; `inherits` applies to
    /// rows that do not set their own.
    pub fn info(&self, module: &'static str, inherits: Inherits, defaults: &mut C) -> RowInfo {
        let shape = match &self.kind {
            Kind::Flag(_) => Shape::Flag,
            Kind::Number { min, max, .. } => Shape::Number { min: *min, max: *max },
            Kind::Size(_) => Shape::Size,
            Kind::Millis(_) => Shape::Millis,
            Kind::Buffers(_) => Shape::Buffers,
            Kind::Text(_) => Shape::Text,
            Kind::Keyword(slot) => Shape::Keyword(slot(defaults).words()),
            Kind::Custom(_) => Shape::Custom,
            Kind::Block(_) => Shape::Block,
            Kind::Accepted(check) => Shape::Accepted(*check),
        };
        let default = self.default.map(Cow::Borrowed).or_else(|| self.field_default(defaults));
        let inherits = self.inherits.unwrap_or(inherits);
        let Self { name, contexts, arity, doc, opens, .. } = *self;
        RowInfo { name, module, contexts, arity, shape, doc, default, inherits, opens }
    }

    /// The default of the row's field, in the spelling of a configuration.
    fn field_default(&self, defaults: &mut C) -> Option<Cow<'static, str>> {
        let text = match &self.kind {
            Kind::Flag(slot) => {
                return slot(defaults).default_value().map(|on| if *on { "on" } else { "off" }.into());
            }
            Kind::Keyword(slot) => return slot(defaults).default_word().map(Cow::Borrowed),
            Kind::Number { slot, .. } => slot(defaults).default_value()?.to_string(),
            Kind::Size(slot) => format_size(*slot(defaults).default_value()?),
            Kind::Millis(slot) => format_millis(*slot(defaults).default_value()?),
            Kind::Buffers(slot) => {
                let (count, size) = *slot(defaults).default_value()?;
                format!("{count} {}", format_size(size))
            }
            Kind::Text(slot) => slot(defaults).default_value()?.to_string(),
            Kind::Custom(_) | Kind::Block(_) | Kind::Accepted(_) => return None,
        };
        Some(text.into())
    }

    /// Sets the directive's value in `conf`. The caller has checked name, context and arity.
    pub fn apply(&self, conf: &mut C, cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
        let is_first = match &self.kind {
            Kind::Flag(slot) => slot(conf).set(params::flag(node, 0)?, node.span),
            Kind::Number { min, max, slot } => {
                slot(conf).set(params::number(node, 0, *min, *max)?, node.span)
            }
            Kind::Size(slot) => slot(conf).set(params::size(node, 0)?, node.span),
            Kind::Millis(slot) => slot(conf).set(params::millis(node, 0)?, node.span),
            Kind::Text(slot) => slot(conf).set(node.arg(0).into(), node.span),
            Kind::Buffers(slot) => slot(conf).set(params::buffers(node)?, node.span),
            Kind::Keyword(slot) => {
                let field = slot(conf);
                field.set_word(params::keyword(node, 0, field.words())?, node.span)
            }
            Kind::Custom(set) | Kind::Block(set) => return set(conf, cx, node),
            Kind::Accepted(check) => return accept(node, *check),
        };
        if is_first { Ok(()) } else { Err(duplicate(node)) }
    }
}

/// A module as the table sees it: rows that write to its part of `P`.
pub trait Module<P, X>: Sync {
    fn rows(&self) -> Vec<RowInfo>;

    /// Applies row `row`, counted as in [`Module::rows`], to the module's settings within `partial`.
    fn apply(&self, row: usize, node: &Node, partial: &mut P, cx: &mut X) -> Result<(), Diagnostic>;
}

/// A module whose settings `C` are a part of `P`.
pub struct Slot<C: 'static, P: 'static, X: 'static> {
    pub name: &'static str,
    pub rows: &'static [Directive<C, X>],
    pub conf: fn(&mut P) -> &mut C,
    /// The inheritance of its rows that do not set their own.
    pub inherits: Inherits,
}

impl<C: Default, P, X> Module<P, X> for Slot<C, P, X> {
    fn rows(&self) -> Vec<RowInfo> {
        let mut defaults = C::default();
        self.rows.iter().map(|row| row.info(self.name, self.inherits, &mut defaults)).collect()
    }

    fn apply(&self, row: usize, node: &Node, partial: &mut P, cx: &mut X) -> Result<(), Diagnostic> {
        self.rows[row].apply((self.conf)(partial), cx, node)
    }
}

/// All rows of one language part.
///
/// `P` holds every module's settings in one block, `X` is the compile context. The compilers of `cycle/` and
/// `http/` call [`Table::apply_all`] for each block; it is re-entrant, since a block's setter calls back with
/// another `P`. Errors go to the context's diagnostics, so that all of them are found in one run.
pub struct Table<P: 'static, X: 'static> {
    modules: Vec<&'static dyn Module<P, X>>,
    rows: Vec<Row>,
    /// Name to indexes of `rows`: a name may have several rows, for different contexts.
    by_name: HashMap<&'static str, SmallVec<[u16; 4]>>,
    /// Rows of other language parts, so that their directives are reported as misplaced rather than unknown.
    elsewhere: Vec<RowInfo>,
}

struct Row {
    info: RowInfo,
    module: u16,
    index: u16,
}

impl<P: 'static, X: HasDiagnostics + 'static> Table<P, X> {
    /// Panics if two rows of one name share a context: a bug in the program, which any test will show.
    pub fn new(modules: Vec<&'static dyn Module<P, X>>) -> Self {
        let mut table =
            Self { modules: Vec::new(), rows: Vec::new(), by_name: HashMap::new(), elsewhere: Vec::new() };
        for (module, of) in modules.iter().enumerate() {
            for (index, info) in of.rows().into_iter().enumerate() {
                let same_name = table.by_name.entry(info.name).or_default();
                for &other in same_name.iter() {
                    let other: &RowInfo = &table.rows[other as usize].info;
                    let shared = other.contexts.0 & info.contexts.0;
                    assert!(shared == 0, "two rows for \"{}\" in one context", info.name);
                }
                same_name.push(table.rows.len() as u16);
                table.rows.push(Row { info, module: module as u16, index: index as u16 });
            }
        }
        table.modules = modules;
        table
    }

    /// Adds the rows of another language part, for messages only.
    #[must_use]
    pub fn elsewhere(mut self, rows: impl IntoIterator<Item = RowInfo>) -> Self {
        self.elsewhere.extend(rows);
        self
    }

    /// Every row, module by module, in the order of the tables.
    pub fn rows(&self) -> impl Iterator<Item = &RowInfo> {
        self.rows.iter().map(|row| &row.info)
    }

    /// The row for a directive in a block.
    pub fn find(&self, name: &str, context: Context) -> Option<&RowInfo> {
        self.row(name, context).map(|row| &row.info)
    }

    /// Applies the directives of one block in their order. All errors go to `cx.diagnostics()`.
    pub fn apply_all<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Node>,
        context: Context,
        partial: &mut P,
        cx: &mut X,
    ) {
        // Directives without effect have no field that could detect a second one.
        let mut accepted: SmallVec<[(&str, &str); 8]> = SmallVec::new();
        for node in nodes {
            let row = self.row(&node.name.text, context);
            if let Some(Shape::Accepted(check)) = row.map(|row| row.info.shape)
                && let Some(diagnostic) = repeated(node, check, &mut accepted)
            {
                cx.diagnostics().push(diagnostic);
                continue;
            }
            self.apply_row(row, node, context, partial, cx);
        }
    }

    /// Applies one directive in a block of kind `context`.
    pub fn apply(&self, node: &Node, context: Context, partial: &mut P, cx: &mut X) {
        self.apply_row(self.row(&node.name.text, context), node, context, partial, cx);
    }

    fn apply_row(&self, row: Option<&Row>, node: &Node, context: Context, partial: &mut P, cx: &mut X) {
        let applied = match row {
            None => match absent::feature(&node.name.text).filter(|_| !self.has_row(&node.name.text)) {
                Some(feature) => {
                    cx.diagnostics().1.directive(feature, node);
                    Ok(())
                }
                None => Err(self.misplaced(node, context)),
            },
            Some(row) => self.check(node, context, &row.info).and_then(|()| {
                self.modules[row.module as usize].apply(row.index as usize, node, partial, cx)
            }),
        };
        if let Err(diagnostic) = applied {
            cx.diagnostics().push(diagnostic);
        }
    }

    fn row(&self, name: &str, context: Context) -> Option<&Row> {
        let mut rows = self.by_name.get(name)?.iter().map(|&row| &self.rows[row as usize]);
        rows.find(|row| row.info.contexts.contains(context))
    }

    /// True if some part of the language has a directive of this name.
    fn has_row(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.elsewhere.iter().any(|row| row.name == name)
    }

    fn misplaced(&self, node: &Node, context: Context) -> Diagnostic {
        let name = &*node.name.text;
        let all = || self.rows().chain(&self.elsewhere);
        let contexts = all().filter(|row| row.name == name).fold(0, |set, row| set | row.contexts.0);
        if contexts != 0 {
            let message = format!("\"{name}\" directive is not allowed here");
            let help = format!("\"{name}\" belongs in {}", Context(contexts));
            return Diagnostic::error(node.name.span, message).help(help);
        }
        let message = if node.name.text.is_empty() {
            "a directive has an empty name".to_owned()
        } else {
            format!("unknown directive \"{name}\"")
        };
        let diagnostic = Diagnostic::error(node.name.span, message);
        let here = all().filter(|row| row.contexts.contains(context)).map(|row| row.name);
        match params::closest(name, here) {
            Some(meant) => diagnostic.help(format!("did you mean \"{meant}\"?")),
            None => match params::closest(name, all().map(|row| row.name)) {
                Some(meant) => {
                    let contexts = all().filter(|row| row.name == meant);
                    let contexts = Context(contexts.fold(0, |set, row| set | row.contexts.0));
                    diagnostic.help(format!("did you mean \"{meant}\"? It belongs in {contexts}"))
                }
                None => diagnostic,
            },
        }
    }

    fn check(&self, node: &Node, context: Context, row: &RowInfo) -> Result<(), Diagnostic> {
        let name = row.name;
        let is_block = row.shape == Shape::Block;
        if !is_block && node.block.is_some() {
            let message = format!("directive \"{name}\" is not terminated by \";\"");
            return Err(Diagnostic::error(node.span, message).help("it has no block"));
        }
        if is_block && node.block.is_none() {
            let message = format!("directive \"{name}\" has no opening \"{{\"");
            return Err(Diagnostic::error(node.span, message));
        }
        if row.arity.accepts(node.args.len()) {
            return Ok(());
        }
        let message = format!("invalid number of arguments in \"{name}\" directive");
        let swallowed = node
            .args
            .iter()
            .skip(row.arity.min as usize)
            .find(|word| !word.quoted && self.row(&word.text, context).is_some());
        let (span, help) = match swallowed {
            Some(word) => (word.span, format!("is \";\" missing before \"{}\"?", word.text)),
            None => (node.span, format!("\"{name}\" takes {}", row.arity)),
        };
        Err(Diagnostic::error(span, message).help(help))
    }
}

/// Checks a directive without effect for repetition in its block, and notes it in `seen`.
fn repeated<'a>(
    node: &'a Node,
    check: Accepted,
    seen: &mut SmallVec<[(&'a str, &'a str); 8]>,
) -> Option<Diagnostic> {
    let key = match check {
        Accepted::List => return None,
        Accepted::Named(_) => (&*node.name.text, node.arg(0)),
        _ => (&*node.name.text, ""),
    };
    if !seen.contains(&key) {
        seen.push(key);
        return None;
    }
    Some(match check {
        Accepted::Named(what) => {
            Diagnostic::error(node.arg_span(0), format!("duplicate {what} \"{}\"", node.arg(0)))
        }
        _ => duplicate(node),
    })
}

/// Checks the arguments of a directive that has no effect.
fn accept(node: &Node, check: Accepted) -> Result<(), Diagnostic> {
    match check {
        Accepted::Flag => params::flag(node, 0).map(drop),
        Accepted::Number => params::number(node, 0, 0, u64::MAX).map(drop),
        Accepted::Size => params::size(node, 0).map(drop),
        Accepted::Millis => params::millis(node, 0).map(drop),
        Accepted::Buffers => params::buffers(node).map(drop),
        Accepted::Keyword(words) if words.contains(&node.arg(0)) => Ok(()),
        Accepted::Keyword(words) => {
            let message = format!("invalid value \"{}\"", node.arg(0));
            Err(Diagnostic::error(node.arg_span(0), message).help(format!("one of: {}", words.join(", "))))
        }
        Accepted::OneOf(words) => {
            let is_it = |word: &&str| match word.strip_suffix('=') {
                Some(_) => node.arg(0).starts_with(*word),
                None => node.arg(0) == *word,
            };
            words.iter().any(is_it).then_some(()).ok_or_else(|| {
                let message = format!("\"{}\" directive invalid value", node.name.text);
                Diagnostic::error(node.arg_span(0), message).help(format!("one of: {}", words.join(", ")))
            })
        }
        Accepted::SizeOr(word) if node.arg(0) == word => Ok(()),
        Accepted::SizeOr(_) => params::size(node, 0).map(drop),
        Accepted::Words | Accepted::List | Accepted::Named(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
