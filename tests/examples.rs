//! The configurations shipped in `conf/`: both spellings agree, and none has an error.

use std::path::Path;

use pronghorn::config::{self, LoadOptions, Node};
use pronghorn::cycle::{Source, find_row, read};

fn load(name: &str) -> Vec<Node> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    let (tree, diagnostics) = config::load(&path, &LoadOptions::default());
    assert!(!diagnostics.has_errors(), "{}", config::render(&diagnostics, &tree, false));
    tree.nodes
}

/// Names and arguments, one directive a line, indented by depth.
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
    assert_eq!(
        conf, toml,
        "the example keeps to the order that TOML can say: a table's keys before its tables"
    );
}

/// The effective values, without the places they come from.
fn effective(name: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let (tree, _) = config::load(&folder.join(name), &LoadOptions::default());
    let text = config::effective(&tree, &find_row, &|_| None);
    let value = |line: &str| line.rsplit_once(" # ").map_or(line, |(value, _)| value).to_owned();
    text.lines().map(value).collect()
}

#[test]
fn both_spellings_of_the_example_come_to_the_same_values() {
    let (conf, toml) = (effective("pronghorn.conf"), effective("pronghorn.toml"));
    assert!(conf.iter().any(|line| line.trim() == "client_max_body_size 10m;"), "{conf:#?}");
    assert_eq!(conf, toml);
}

/// The comment lines that belong to directives: all except the file's own at the top.
fn comments(text: &str) -> Vec<&str> {
    let below = text.split_once("\n\n").map_or("", |(_, rest)| rest);
    below.lines().map(str::trim).filter(|line| line.starts_with('#')).collect()
}

#[test]
fn converting_the_example_gives_its_other_spelling() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let options = LoadOptions { keep_includes: true, ..LoadOptions::default() };
    let conf = std::fs::read_to_string(folder.join("pronghorn.conf")).expect("it is shipped");
    let (tree, _) = config::load(&folder.join("pronghorn.toml"), &options);
    let converted = config::convert::to_nginx(&tree);
    assert_eq!(comments(&converted), comments(&conf));
    let (again, _) = config::load_text("again.conf", &converted, &options);
    let (mut is, mut should) = (Vec::new(), Vec::new());
    outline(&again.nodes, 0, &mut is);
    outline(&config::load(&folder.join("pronghorn.conf"), &options).0.nodes, 0, &mut should);
    assert_eq!(is, should);
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
        let source = Source {
            path: folder.join(name),
            prefix,
            globals,
            error_log: None,
            embedded: None,
            control: None,
        };
        let loaded = read(&source, true);
        let findings = config::render(&loaded.diagnostics, &loaded.tree, false);
        assert!(loaded.config.is_some() && findings.is_empty(), "{name}: {findings}");
    }
}
