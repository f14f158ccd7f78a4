//! Both spellings preserve a tree: cases, and random trees.

use proptest::prelude::*;

use super::*;
use crate::config::{Block, LoadOptions, Span, load_text};

/// The parts of a tree that a spelling must preserve: names, arguments, blocks, order.
fn plain(nodes: &[Node]) -> String {
    let mut out = String::new();
    for node in nodes {
        let args: Vec<&str> = node.args.iter().map(|word| &*word.text).collect();
        let _ = write!(out, "{:?}{args:?}", node.name.text);
        if node.block.is_some() {
            let _ = write!(out, "{{{}}}", plain(node.children()));
        }
        out.push(';');
    }
    out
}

pub(super) fn read(name: &str, text: &str) -> Tree {
    let options = LoadOptions { keep_includes: true, ..LoadOptions::default() };
    let (tree, found) = load_text(name, text, &options);
    assert!(found.0.is_empty(), "{found:?} in\n{text}");
    tree
}

pub(super) fn survives(tree: &Tree) {
    let toml = to_toml(tree);
    assert_eq!(plain(&read("t.toml", &toml).nodes), plain(&tree.nodes), "{toml}");
    let nginx = to_nginx(tree);
    assert_eq!(plain(&read("t.conf", &nginx).nodes), plain(&tree.nodes), "{nginx}");
}

#[test]
fn toml_is_spelled_as_documented() {
    let nginx = "worker_processes 2; events {} http { sendfile on; internal; listen 80 default;
        add_header A 1; add_header B \"x\\y\"; server { location ~ \\.php$ { return 403; } }
        server { set $a 1; if ($a) { return 200; } set $b 2; } gzip off; args 1; }";
    let expected = r#"worker_processes = 2

[events]

[http]
sendfile = true
internal = []
listen = [80, "default"]
add_header = [
    ["A", 1],
    ["B", 'x\y'],
]

[[http.server]]

[http.server.location]
args = ["~", '\.php$']
return = 403

[[http.server]]
set = ["$a", 1]

[http.server.if]
args = "($a)"
return = 200

[[http.server.do]]
set = ["$b", 2]

[[http.do]]
gzip = false
'\args' = 1
"#;
    let tree = read("t.conf", nginx);
    assert_eq!(to_toml(&tree), expected);
    survives(&tree);
}

#[test]
fn nginx_words_are_quoted_where_needed() {
    let cases = [
        ("a", "a"),
        ("", "\"\""),
        ("${a}b", "${a}b"),
        ("a{2}", "\"a{2}\""),
        (r"\${a}", r#""\${a}""#),
        (r"\.php$", r"\.php$"),
        (r"\t", r"\\t"),
        ("a\tb\\", "\"a\\tb\\\\\""),
        ("say \"x\"", "'say \"x\"'"),
        ("}", "\"}\""),
        ("a#b}", "a#b}"),
    ];
    for (word, expected) in cases {
        let mut out = String::new();
        nginx_word(&mut out, word);
        assert_eq!(out, expected);
    }
}

fn word() -> impl Strategy<Value = Word> {
    let text = prop_oneof![
        "[a-z_]{1,6}",
        "[0-9]{1,3}",
        Just("on".to_owned()),
        Just("args".to_owned()),
        Just("do".to_owned()),
        r#"[ \\"'{}$;#a-ntré\t\r\n\u{feff}\u{1}]{0,6}"#,
    ];
    (text, any::<bool>()).prop_map(|(text, quoted)| Word { text: text.into(), span: Span::default(), quoted })
}

pub(super) fn node() -> impl Strategy<Value = Node> {
    let leaf = (word(), prop::collection::vec(word(), 0..4)).prop_map(|(name, args)| Node {
        name,
        args: args.into(),
        block: None,
        span: Span::default(),
    });
    leaf.prop_recursive(4, 40, 6, |inner| {
        (word(), prop::collection::vec(word(), 0..3), prop::collection::vec(inner, 0..6)).prop_map(
            |(name, args, block)| Node {
                name,
                args: args.into(),
                block: Some(Block::Directives(block)),
                span: Span::default(),
            },
        )
    })
}

proptest! {
    #[test]
    fn any_tree_survives_both_spellings(nodes in prop::collection::vec(node(), 0..6)) {
        survives(&Tree { nodes, ..Tree::default() });
    }
}
