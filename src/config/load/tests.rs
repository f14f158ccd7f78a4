//! Files, includes and syntax errors in nginx's spelling.

use super::*;
use crate::base::foreign;

/// A tree as text: `name arg [child child]`.
fn shape(nodes: &[Node]) -> String {
    let directive = |node: &Node| {
        let mut out = node.name.text.to_string();
        for arg in &node.args {
            out += &format!(" {}", arg.text);
        }
        if node.block.is_some() {
            out += &format!(" [{}]", shape(node.children()));
        }
        out
    };
    nodes.iter().map(directive).collect::<Vec<_>>().join(" | ")
}

/// Writes the files into a new directory and loads the first one.
fn load_files(files: &[(&str, &[u8])], globals: &[&str]) -> (tempfile::TempDir, Tree, Vec<String>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
        fs::write(path, bytes).expect("file");
    }
    let globals = globals.iter().map(|text| (*text).to_owned()).collect();
    let options = LoadOptions { prefix: directory.path().to_owned(), globals, ..LoadOptions::default() };
    let (tree, found) = load(Path::new(files[0].0), &options);
    let root = format!("{}/", directory.path().display());
    let place = |found: &Diagnostic| match found.span.and_then(|span| tree.place(span)) {
        Some(place) => format!("{}:{}:{}", place.path.display(), place.line, place.column),
        None => "-".into(),
    };
    let line = |found: &Diagnostic| format!("{} {}", found.message, place(found)).replace(&root, "");
    let found = found.0.iter().map(line).collect();
    (directory, tree, found)
}

fn errors(text: &str) -> Vec<String> {
    load_files(&[("t.conf", text.as_bytes())], &[]).2
}

#[test]
fn includes_are_relative_to_the_main_file_and_sorted() {
    let (_directory, tree, found) = load_files(
        &[
            ("conf/main.conf", b"a; include sites/*.conf; include none/*; b { include one; }"),
            ("conf/sites/2.conf", b"two;"),
            ("conf/sites/1.conf", b"include deep/x.conf; one;"),
            ("conf/sites/.hidden.conf", b"hidden;"),
            ("conf/sites/readme", b"}"),
            ("conf/deep/x.conf", b"x { y; }"),
            ("conf/one", b"in_block;"),
        ],
        &["pid x;", "user y;"],
    );
    assert_eq!(found, [""; 0]);
    assert_eq!(shape(&tree.nodes), "pid x | user y | a | x [y] | one | two | b [in_block]");
}

#[test]
fn a_missing_include_names_its_place() {
    let found = errors("a;\n  include nope.conf;\n");
    assert_eq!(found, ["open() \"nope.conf\" failed (2: No such file or directory) t.conf:2:11"]);
    assert_eq!(errors("include a b;"), ["invalid number of arguments in \"include\" directive t.conf:1:1"]);
    let (tree, found) = load(Path::new("/nonexistent/x.conf"), &LoadOptions::default());
    assert!(tree.nodes.is_empty());
    assert_eq!(found.0[0].message, "open() \"/nonexistent/x.conf\" failed (2: No such file or directory)");
    assert_eq!(found.0[0].span, None);
}

#[test]
fn include_loops_end() {
    assert_eq!(errors("a; include t.conf;").len(), 1);
    let (_directory, _, found) =
        load_files(&[("t.conf", b"include a;"), ("a", b"include b; include b;"), ("b", b"include a;")], &[]);
    assert_eq!(found, ["\"a\" includes itself b:1:9"]);
}

#[test]
fn a_file_included_often_is_kept_once() {
    let (_directory, tree, found) =
        load_files(&[("t.conf", b"a { include x; } b { include x; }"), ("x", b"y;")], &[]);
    assert_eq!(found, [""; 0]);
    assert_eq!(shape(&tree.nodes), "a [y] | b [y]");
    assert_eq!(tree.sources.len(), 2);
}

#[test]
fn every_syntax_error_is_found() {
    let cases: &[(&str, &[&str])] = &[
        ("a {\n listen 80\n}\n}\n", &["unexpected \"}\" t.conf:3:1", "unexpected \"}\" t.conf:4:1"]),
        ("a {\n", &["unexpected end of file, expecting \"}\" t.conf:2:1"]),
        ("a b\n", &["unexpected end of file, expecting \";\" or \"}\" t.conf:2:1"]),
        (
            "a \"b;\nc d\n;\n} e",
            &[
                "unexpected end of file, expecting \";\" or \"}\" t.conf:1:3",
                "unexpected \"}\" t.conf:4:1",
                "unexpected end of file, expecting \";\" or \"}\" t.conf:4:4",
            ],
        ),
        (
            "a 'b'c;\n;\n{ d; }\n",
            &["unexpected \"c\" t.conf:1:6", "unexpected \";\" t.conf:2:1", "unexpected \"{\" t.conf:3:1"],
        ),
        ("a 'b {\nc; }\nd 'e';", &["unexpected \"e\" t.conf:3:4"]),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(text), *expected, "{text:?}");
    }
}

#[test]
fn the_rest_of_a_wrong_file_is_still_read() {
    let (tree, _) = load_text("t", "a { b 1 } c; ; d 'x'y; e { f", &LoadOptions::default());
    assert_eq!(shape(&tree.nodes), "a [b 1] | c | d x y | e [f]");
}

#[test]
fn foreign_bytes_are_fine_in_nginx_spelling_and_zeros_in_comments_only() {
    let (_directory, tree, found) =
        load_files(&[("t.conf", b"# caf\xe9\na; # \xff\xfe\0\nb;\nc d\xe9;\ne '\0';\n")], &[]);
    assert_eq!(found, ["byte 0x00 is not UTF-8 text t.conf:5:4"]);
    assert_eq!(tree.nodes.len(), 4);
    assert_eq!(*foreign::bytes(tree.nodes[2].arg(0)), *b"d\xe9");
    assert_eq!(tree.sources[0].bytes()[5], 0xe9);
}

#[test]
fn command_line_text_has_its_own_words() {
    let (tree, found) =
        load_text("t", "", &LoadOptions { globals: vec!["daemon off".into()], ..LoadOptions::default() });
    assert_eq!(found.0[0].message, "unexpected end of parameter, expecting \";\"");
    assert_eq!(tree.sources[0].path, Path::new(COMMAND_LINE));
}

#[test]
fn deep_nesting_is_refused() {
    let (_, found) = load_text("t", &"a{".repeat(100_000), &LoadOptions::default());
    assert_eq!(found.0[0].message, "blocks are nested more than 100 deep");
}

#[test]
fn a_flood_of_errors_is_cut() {
    let (_, found) = load_text("t", &"}".repeat(1_000_000), &LoadOptions::default());
    assert_eq!(found.0.len(), SYNTAX_ERRORS_MAX);
}

#[test]
fn places_outlive_the_tree() {
    let (tree, _) = load_text("x.conf", "a;\nb;\n\nc d;", &LoadOptions::default());
    let places = tree.places();
    let spans: Vec<Span> = tree.nodes.iter().map(|node| node.span).collect();
    drop(tree);
    let names: Vec<String> = spans.iter().map(|&span| places.name(span)).collect();
    assert_eq!(names, ["x.conf:1", "x.conf:2", "x.conf:4"]);
}
