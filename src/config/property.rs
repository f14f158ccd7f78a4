//! Properties that hold for every text, for the fuzz targets (`fuzz/`) and the property tests here.

use crate::config::comments::Comments;
use crate::config::convert::{to_nginx, to_toml};
use crate::config::{LoadOptions, Node, Span, Tree, effective, load_text, render};

/// Maximum depth of blocks for which TOML's reader accepts every table (it counts the keys in a header).
const TOML_DEPTH_MAX: usize = 30;

/// Panics if reading, showing or converting `text` violates a property of the configuration language: spans
/// lie in their source, and a text without errors gives the same directives and comments in either spelling.
/// `name` decides the spelling; no file is read.
pub fn reads_and_converts(name: &str, text: &str) {
    let options = LoadOptions { keep_includes: true, ..LoadOptions::default() };
    let (tree, found) = load_text(name, text, &options);
    check_spans(&tree, &tree.nodes);
    for diagnostic in &found.0 {
        assert!(diagnostic.span.is_none_or(|span| is_within(&tree, span)), "{diagnostic:?}");
    }
    render(&found, &tree, true);
    effective(&tree, &|_, _| None, &|_| None);
    if found.has_errors() {
        return;
    }
    let expected = (plain(&tree.nodes), comments(&tree));
    let nginx = to_nginx(&tree);
    let (again, found) = load_text("again.conf", &nginx, &options);
    assert!(!found.has_errors() && (plain(&again.nodes), comments(&again)) == expected, "{found:?}\n{nginx}");
    if depth(&tree.nodes) <= TOML_DEPTH_MAX {
        let toml = to_toml(&tree);
        let (again, found) = load_text("again.toml", &toml, &options);
        assert!(
            !found.has_errors() && (plain(&again.nodes), comments(&again)) == expected,
            "{found:?}\n{toml}"
        );
    }
}

fn check_spans(tree: &Tree, nodes: &[Node]) {
    for node in nodes {
        let spans = node.args.iter().map(|word| word.span);
        for span in spans.chain([node.span, node.name.span]) {
            assert!(is_within(tree, span), "{span:?} of {:?}", node.name.text);
        }
        check_spans(tree, node.children());
    }
}

fn is_within(tree: &Tree, span: Span) -> bool {
    let source = tree.source(span.file);
    source.is_some_and(|source| source.text.get(span.start as usize..span.end as usize).is_some())
}

/// A tree without its spans and quotes.
fn plain(nodes: &[Node]) -> String {
    let mut out = String::new();
    for node in nodes {
        let args: Vec<&str> = node.args.iter().map(|word| &*word.text).collect();
        out += &format!("{:?}{args:?}", node.name.text);
        if node.block.is_some() {
            out += &format!("{{{}}}", plain(node.children()));
        }
        out.push(';');
    }
    out
}

/// All comments, sorted: converting may move a comment, but must neither lose nor repeat one.
fn comments(tree: &Tree) -> Vec<String> {
    let mut comments = Comments::of(tree).rest();
    comments.sort_unstable();
    comments
}

fn depth(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| 1 + depth(node.children())).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Building blocks for the edge cases of a grammar, which random bytes seldom hit.
    const PIECES: [&str; 26] = [
        "a", "b1", "{", "}", ";", "\"", "'", "\\", "$", "#", "\n", "\r", " ", "é", "=", "[", "]", ".", ",",
        "args", "do", "include", "\u{feff}", "[[a]]\n", "a = 1\n", "x y;",
    ];

    fn assemble(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| PIECES[*byte as usize % PIECES.len()]).collect()
    }

    #[test]
    fn any_text_in_nginx_spelling() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            reads_and_converts("t.conf", &assemble(bytes));
            reads_and_converts("t.conf", &String::from_utf8_lossy(bytes));
        });
    }

    #[test]
    fn any_text_in_toml_spelling() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            reads_and_converts("t.toml", &assemble(bytes));
            reads_and_converts("t.toml", &String::from_utf8_lossy(bytes));
        });
    }
}
