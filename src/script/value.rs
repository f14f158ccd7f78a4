//! Complex values: text with variables, compiled once, evaluated as often as something asks.
//!
//! Touches: the variable registry while compiling, the scope while evaluating.
//! Behaviour: nginx's "complex values"; a `$` that starts no variable name is refused as nginx does.

use std::fmt;
use std::marker::PhantomData;

use crate::base::foreign;
use crate::base::path::{Escape, escape_uri};
use crate::config::{Diagnostic, Span, Word};
use crate::script::variable::VariableId;
use crate::script::{Compile, Scope};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Variable(VariableId),
    /// `$1` … `$9`: a group of the last regular expression that matched.
    Capture(u8),
}

/// A compiled value. Text without variables is a single part and costs a copy to evaluate.
///
/// It holds ids only, those of one language part's registry: `S` costs nothing, and keeps the script of one part from being
/// evaluated for a scope of another.
pub struct Script<S> {
    parts: Box<[Part]>,
    span: Span,
    of: PhantomData<fn(&mut S)>,
}

impl<S> Clone for Script<S> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), span: self.span, of: PhantomData }
    }
}

impl<S> PartialEq for Script<S> {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts && self.span == other.span
    }
}

impl<S> Eq for Script<S> {}

impl<S> fmt::Debug for Script<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Script").field("parts", &self.parts).field("span", &self.span).finish()
    }
}

impl<S: Scope> Script<S> {
    /// Compiles an argument. Errors: a `$` without a name, an unclosed `${`; whether the variables
    /// exist is checked when everything is read.
    pub fn compile(word: &Word, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        Self::compile_text(&word.text, word.span, cx)
    }

    /// Like [`Script::compile`] for text that is part of an argument.
    pub fn compile_text(
        text: &str,
        span: Span,
        cx: &mut impl Compile<Scope = S>,
    ) -> Result<Self, Diagnostic> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            push_text(&mut parts, &rest[..at]);
            let (name, after) = variable_name(&rest[at + 1..], span)?;
            parts.push(match name.as_bytes() {
                [digit @ b'0'..=b'9'] => Part::Capture(digit - b'0'),
                _ => Part::Variable(cx.variables().reference(name, span)),
            });
            rest = after;
        }
        push_text(&mut parts, rest);
        Ok(Self { parts: parts.into(), span, of: PhantomData })
    }

    /// The variable whose name is the whole word behind its `$`, as in `if ($arg_go-get)`: no text follows it, and `$1`
    /// is a name too. Whether the variable exists is checked when everything is read.
    pub fn variable(word: &Word, cx: &mut impl Compile<Scope = S>) -> Self {
        let name = word.text.strip_prefix('$').unwrap_or(&word.text);
        let parts = [Part::Variable(cx.variables().reference(name, word.span))];
        Self { parts: parts.into(), span: word.span, of: PhantomData }
    }

    /// Appends the value to `out`. Variables without a value add nothing.
    pub fn evaluate(&self, scope: &mut S, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(id) => {
                    scope.variable(*id, out);
                }
                Part::Capture(index) => out.extend_from_slice(scope.values().captures.group(*index)),
            }
        }
    }

    /// Like [`Script::evaluate`], with the captured groups escaped as arguments.
    pub fn evaluate_escaped(&self, scope: &mut S, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(id) => {
                    scope.variable(*id, out);
                }
                Part::Capture(index) => escape_uri(scope.values().captures.group(*index), Escape::Args, out),
            }
        }
    }

    pub fn to_vec(&self, scope: &mut S) -> Vec<u8> {
        let mut out = Vec::new();
        self.evaluate(scope, &mut out);
        out
    }

    /// The text, when no variable is in it.
    pub fn as_text(&self) -> Option<&[u8]> {
        match &*self.parts {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// True when every value begins with this text, in any case of letters: the script has it as text.
    pub fn begins_with(&self, start: &str) -> bool {
        let Some(Part::Text(text)) = self.parts.first() else { return false };
        text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()))
    }

    pub fn span(&self) -> Span {
        self.span
    }
}

/// True for the value of a condition that holds: neither empty nor 0.
pub fn is_true(value: &[u8]) -> bool {
    !matches!(value, b"" | b"0")
}

/// True when `text` has variables, so that it must be compiled.
pub fn has_variables(text: &str) -> bool {
    text.contains('$')
}

/// The names of the variables in a text, as far as it can be read.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once('$')?;
        let (name, after) = variable_name(after, Span::default()).ok()?;
        rest = after;
        Some(name)
    })
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(foreign::bytes(text).into()));
    }
}

/// Splits what follows a `$` into the variable's name and the rest.
pub fn variable_name(text: &str, span: Span) -> Result<(&str, &str), Diagnostic> {
    if let Some(braced) = text.strip_prefix('{') {
        let Some(end) = braced.find('}') else {
            let message = format!("the closing bracket in \"{braced}\" variable is missing");
            return Err(Diagnostic::error(span, message));
        };
        let (name, after) = (&braced[..end], &braced[end + 1..]);
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(invalid_name(span));
        }
        return Ok((name, after));
    }
    // A capture is one digit: $10 is $1 and a zero.
    let end = match text.as_bytes().first() {
        Some(b'1'..=b'9') => 1,
        _ => text.bytes().position(|byte| !is_name_byte(byte)).unwrap_or(text.len()),
    };
    if end == 0 {
        return Err(invalid_name(span));
    }
    Ok(text.split_at(end))
}

fn invalid_name(span: Span) -> Diagnostic {
    Diagnostic::error(span, "invalid variable name")
        .help("a literal \"$\" cannot stand in a value; use a variable that holds one (geo $dollar { default \"$\"; })")
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
