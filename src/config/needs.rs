//! The missing features that a configuration uses: found line by line, reported once per feature and block.
//!
//! One missing feature makes many lines useless, and reporting each would hide every other mistake. So they
//! are collected while the directives are applied, and turned into findings when all are known.

use std::collections::{HashMap, HashSet};

use crate::config::absent::Feature;
use crate::config::{Diagnostic, Diagnostics, Node, Places, Span, Tree};

/// One line that uses a missing feature.
#[derive(Clone, Debug)]
struct Need {
    feature: &'static Feature,
    /// The server around it; `None` outside of all servers.
    block: Option<Span>,
    span: Span,
    /// The message, in nginx's words or ours, if this line is the one to be reported.
    message: String,
    /// The line would do something.
    acts: bool,
}

/// All needs, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    list: Vec<Need>,
    /// The server that is being read.
    pub block: Option<Span>,
}

/// One row of the summary: a feature, and the number of lines that use it.
#[derive(Clone, Copy, Debug)]
pub struct Total {
    pub name: &'static str,
    pub lines: usize,
    /// The number of servers with such lines.
    pub servers: usize,
    pub first: Span,
}

impl Needs {
    /// Records a directive of a missing feature.
    pub fn directive(&mut self, feature: &'static Feature, node: &Node) {
        let name = &node.name.text;
        let message = if feature.is_foreign {
            format!("unknown directive \"{name}\"")
        } else {
            format!("the \"{name}\" directive is not available yet")
        };
        let acts = feature.acts(node);
        self.list.push(Need { feature, block: self.block, span: node.name.span, message, acts });
    }

    /// Records another line that needs a missing feature.
    pub fn line(&mut self, feature: &'static Feature, span: Span, message: String) {
        self.list.push(Need { feature, block: self.block, span, message, acts: !feature.never_acts() });
    }

    pub fn append(&mut self, other: &mut Self) {
        self.list.append(&mut other.list);
    }

    /// True if some line would do something that is missing.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|need| need.acts)
    }

    /// Turns the needs into findings: one for each feature and block.
    pub fn report(&self) -> Vec<Diagnostic> {
        let mut groups: Vec<Vec<&Need>> = Vec::new();
        let mut known: HashMap<(&str, Option<Span>), usize> = HashMap::new();
        for need in &self.list {
            let name = need.feature.name;
            let index = *known.entry((name, need.block)).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[index].push(need);
        }
        let in_use: HashSet<&str> =
            self.list.iter().filter(|need| need.acts).map(|need| need.feature.name).collect();
        groups.iter().filter_map(|group| finding(group, &in_use)).collect()
    }

    /// The features that must exist for this configuration to run: those with lines that would do something.
    pub fn totals(&self, tree: &Tree) -> Vec<Total> {
        let places = tree.places();
        let mut totals: Vec<(Total, HashSet<Span>, bool)> = Vec::new();
        let mut lines = HashSet::new();
        for need in &self.list {
            let name = need.feature.name;
            let at = totals.iter().position(|(total, ..)| total.name == name).unwrap_or_else(|| {
                totals.push((Total { name, lines: 0, servers: 0, first: need.span }, HashSet::new(), false));
                totals.len() - 1
            });
            let (total, servers, acts) = &mut totals[at];
            total.lines += usize::from(lines.insert((name, places.line(need.span))));
            servers.extend(need.block);
            if need.acts && !std::mem::replace(acts, true) {
                total.first = need.span;
            }
        }
        let in_use = totals.into_iter().filter(|(_, _, acts)| *acts);
        let mut totals: Vec<Total> =
            in_use.map(|(total, servers, _)| Total { servers: servers.len(), ..total }).collect();
        totals.sort_by_key(|total| std::cmp::Reverse(total.lines));
        totals
    }
}

/// The finding for the lines of one feature in one block.
fn finding(group: &[&Need], in_use: &HashSet<&str>) -> Option<Diagnostic> {
    let first = group.first()?;
    let feature = first.feature;
    let topic = Some(feature.name.to_owned());
    let finding = match group.iter().find(|need| need.acts) {
        Some(acting) => Diagnostic::error(acting.span, acting.message.clone()).help(feature.help),
        // Settings for all servers are reported with the server that needs them.
        None if first.block.is_none() && in_use.contains(feature.name) => return None,
        None => {
            let message = match first.message.strip_prefix("the ") {
                Some(rest) => rest.replace(" directive is not available yet", " has no effect"),
                None => first.message.clone(),
            };
            let help = if feature.never_acts() {
                feature.help.to_owned()
            } else {
                format!("{} is not available, and nothing here uses it", feature.name)
            };
            Diagnostic::warning(first.span, message).help(help)
        }
    };
    let lines = group.iter().map(|need| need.span).collect();
    Some(Diagnostic { lines, topic, ..finding })
}

/// `TLS: 14 lines, 25 to 48`; `None` for a single line.
fn lines_of(diagnostic: &Diagnostic, places: &Places) -> Option<String> {
    let topic = diagnostic.topic.as_deref()?;
    let mut lines: Vec<_> = diagnostic.lines.iter().filter_map(|span| places.line(*span)).collect();
    lines.sort_unstable();
    lines.dedup();
    let (first, last) = (lines.first()?, lines.last()?);
    let mut files: Vec<_> = lines.iter().map(|(path, _)| path).collect();
    files.dedup();
    match (lines.len(), files.len()) {
        (1, _) => topic.contains(',').then(|| topic.to_owned()),
        (count, 1) => Some(format!("{topic}: {count} lines, {} to {}", first.1, last.1)),
        (count, files) => Some(format!("{topic}: {count} lines in {files} files")),
    }
}

/// Adds the lines to the help of each finding that has several.
pub fn complete(diagnostics: &mut Diagnostics, tree: &Tree) {
    if diagnostics.0.iter().all(|diagnostic| diagnostic.topic.is_none()) {
        return;
    }
    let places = tree.places();
    for diagnostic in &mut diagnostics.0 {
        if let Some(lines) = lines_of(diagnostic, &places) {
            diagnostic.help = Some(match diagnostic.help.take() {
                Some(help) => format!("{lines}: {help}"),
                None => lines,
            });
        }
    }
}
