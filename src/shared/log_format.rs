//! Formats of access log lines (`log_format`): compiled once, rendered for each line.
//!
//! Touches: the scope's variables. Behaviour: nginx.org, ngx_http_log_module and ngx_stream_log_module.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use crate::base::foreign;
use crate::config::{Diagnostic, Node, Span};
use crate::log::escape;
use crate::script::value::variable_name;
use crate::script::variable::VariableId;
use crate::script::{Compile, Scope};

/// The escaping of values. Text is never escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Default,
    Json,
    None,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<[u8]>),
    Variable(VariableId),
}

/// A `log_format`.
///
/// Like a script, but its parts stay apart while it is rendered: values are escaped, and a variable without a value is `-`.
pub struct Format<S> {
    parts: Box<[Part]>,
    escape: Escape,
    of: PhantomData<fn(&mut S)>,
}

impl<S> Clone for Format<S> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), escape: self.escape, of: PhantomData }
    }
}

impl<S> fmt::Debug for Format<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Format").field("parts", &self.parts).field("escape", &self.escape).finish()
    }
}

impl<S: Scope> Format<S> {
    /// Compiles a text whose values are escaped as by default.
    pub fn compile(text: &str, span: Span, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        let mut parts = Vec::new();
        compile(text, span, cx, &mut parts)?;
        Ok(Self { parts: parts.into(), escape: Escape::Default, of: PhantomData })
    }

    /// Reads what follows the name in a `log_format`.
    pub fn read(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        let mut escape = Escape::Default;
        let mut texts = &node.args[1..];
        if let Some((first, rest)) = texts.split_first()
            && let Some(kind) = first.text.strip_prefix("escape=")
        {
            escape = match kind {
                "default" => Escape::Default,
                "json" => Escape::Json,
                "none" => Escape::None,
                _ => {
                    let message = format!("unknown log format escaping \"{kind}\"");
                    return Err(Diagnostic::error(first.span, message).help("one of default, json and none"));
                }
            };
            texts = rest;
        }
        let mut parts = Vec::new();
        for word in texts {
            compile(&word.text, word.span, cx, &mut parts)?;
        }
        Ok(Self { parts: parts.into(), escape, of: PhantomData })
    }

    /// Appends the line of a scope, without its end.
    pub fn render(&self, scope: &mut S, line: &mut Vec<u8>) {
        let mut value = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => line.extend_from_slice(text),
                Part::Variable(id) => {
                    value.clear();
                    let found = scope.variable(*id, &mut value);
                    match self.escape {
                        Escape::Default if !found => line.push(b'-'),
                        Escape::Default => escape::default(&value, line),
                        Escape::Json => escape::json(&value, line),
                        Escape::None => line.extend_from_slice(&value),
                    }
                }
            }
        }
    }
}

fn compile<S: Scope>(
    text: &str,
    span: Span,
    cx: &mut impl Compile<Scope = S>,
    parts: &mut Vec<Part>,
) -> Result<(), Diagnostic> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            parts.push(Part::Text(foreign::bytes(&rest[..at]).into()));
        }
        let (name, after) = variable_name(&rest[at + 1..], span)?;
        parts.push(Part::Variable(cx.variables().reference(name, span)));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(foreign::bytes(rest).into()));
    }
    Ok(())
}

/// The formats of one language part by name.
#[derive(Debug)]
pub struct Formats<S>(HashMap<Box<str>, Format<S>>);

impl<S> Default for Formats<S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S: Scope> Formats<S> {
    /// Errors: a `log_format` has a name that is taken, or one of the part's own.
    pub fn refuse_known(&self, node: &Node, own: &[&str]) -> Result<(), Diagnostic> {
        let name = node.arg(0);
        if !self.0.contains_key(name) && !own.contains(&name) {
            return Ok(());
        }
        Err(Diagnostic::error(node.arg_span(0), format!("duplicate \"log_format\" name \"{name}\"")))
    }

    pub fn insert(&mut self, name: &str, format: Format<S>) {
        self.0.insert(name.into(), format);
    }

    pub fn get(&self, name: &str) -> Option<&Format<S>> {
        self.0.get(name)
    }

    /// The format that an `access_log` names at `span`. Errors: there is none.
    pub fn find(&self, name: &str, span: Span) -> Result<Format<S>, Diagnostic> {
        if let Some(format) = self.0.get(name) {
            return Ok(format.clone());
        }
        let diagnostic = Diagnostic::error(span, format!("unknown log format \"{name}\""));
        let near = self.0.keys().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
        Err(match near {
            Some(near) => diagnostic.help(format!("did you mean \"{near}\"?")),
            None => diagnostic.help("declare it with \"log_format\" before this line"),
        })
    }
}
