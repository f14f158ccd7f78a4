//! The configurations that are shipped in `conf/`: both spellings say the same, and nothing in them is an error.

use std::path::Path;

use pronghorn::config::{self, LoadOptions, Node};
use pronghorn::worker::config::{Source, read};

fn load(name: &str) -> Vec<Node> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    let (tree, diagnostics) = config::load(&path, &LoadOptions::default());
    assert!(!diagnostics.has_errors(), "{}", config::render(&diagnostics, &tree, false));
    tree.nodes
}

/// Names and arguments, a line each, indented by depth.
fn outline(nodes: &[Node], depth: usize, out: &mut Vec<String>) {
    for node in nodes {
        let words: Vec<&str> = node.args.iter().map(|word| &*word.text).collect();
        out.push(format!("{}{} {words:?}", "  ".repeat(depth), node.name.text));
        outline(node.children(), depth + 1, out);
    }
}

#[test]
fn both_spellings_of_the_example_say_the_same() {
    let (mut conf, mut toml) = (Vec::new(), Vec::new());
    outline(&load("pronghorn.conf"), 0, &mut conf);
    outline(&load("pronghorn.toml"), 0, &mut toml);
    // A table's keys come before its tables, so only the order among siblings may differ.
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&conf), sorted(&toml));
}

#[test]
fn the_demonstration_can_be_read() {
    let mut lines = Vec::new();
    outline(&load("demo.conf"), 0, &mut lines);
    assert!(lines.iter().any(|line| line.contains("daemon [\"off\"]")), "it stays in the foreground");
    assert!(lines.iter().any(|line| line.contains("weight=3")), "it has weights");
}

#[test]
fn every_shipped_configuration_compiles_without_a_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for name in ["demo.conf", "pronghorn.conf", "pronghorn.toml"] {
        let prefix = std::env::temp_dir();
        let globals = Vec::new();
        let source = Source { path: folder.join(name), prefix, globals, error_log: None, embedded: None };
        let loaded = read(&source, true);
        let findings = config::render(&loaded.diagnostics, &loaded.tree, false);
        assert!(loaded.config.is_some() && findings.is_empty(), "{name}: {findings}");
    }
}
