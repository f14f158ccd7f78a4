//! The parts that the directives of the three protocols share: ways to log in, and lists of capabilities.
//!
//! Pure. Behaviour: nginx.org, `imap_auth`, `pop3_auth`, `smtp_auth`, `imap_capabilities` and the like.

use crate::config::{Diagnostic, HasDiagnostics, Node, params};
use crate::mail::protocol::Allowed;

/// Adds the ways that a directive names, which may be any of `possible`.
pub fn add(
    allowed: &mut Vec<Allowed>,
    possible: &[Allowed],
    cx: &mut impl HasDiagnostics,
    node: &Node,
) -> Result<(), Diagnostic> {
    let words: Vec<&str> = possible.iter().map(|method| method.word()).collect();
    for index in 0..node.args.len() {
        let method = possible[params::keyword(node, index, &words)?];
        if allowed.contains(&method) {
            cx.diagnostics().push(params::duplicate_value(node, index));
        } else {
            allowed.push(method);
        }
    }
    Ok(())
}

/// Adds capabilities, as they are written.
pub fn add_capabilities(list: &mut Vec<Box<str>>, node: &Node) -> Result<(), Diagnostic> {
    for word in &node.args {
        if word.text.contains(['\r', '\n']) {
            return Err(Diagnostic::error(word.span, "a capability is one line"));
        }
        list.push((*word.text).into());
    }
    Ok(())
}
