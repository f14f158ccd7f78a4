//! Golden configurations: `tests/config/NAME.conf` and `NAME.toml` against `NAME.expect`.
//!
//! `.expect` holds the diagnostics as a user sees them, or the tree in nginx's spelling if there are none. A
//! `.toml` with the name of a `.conf` must give the same. The directives belong to a small language defined
//! in this file, so that a case shows the configuration language rather than the state of the modules.
//! `UPDATE_EXPECT=1 cargo test --test config` writes the `.expect` files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pronghorn::config::directive::{
    Accepted, accepted, block, custom, flag, millis, number, one_of, size, text,
};
use pronghorn::config::{
    Arity, Block, Context, Diagnostic, Diagnostics, Directive, Inherit, Inherits, Keyword, LoadOptions, Node,
    Slot, Table, Tree, convert, load, load_text, render,
};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/");

/// The settings of any block; no test looks at the values that directives write.
#[derive(Default)]
struct Conf {
    flag: Inherit<bool>,
    number: Inherit<u64>,
    size: Inherit<u64>,
    timeout: Inherit<u64>,
    text: Inherit<Box<str>>,
    satisfy: Inherit<Satisfy>,
    lines: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Satisfy {
    All,
    Any,
}

impl Keyword for Satisfy {
    const WORDS: &'static [&'static str] = &["all", "any"];
    const VALUES: &'static [Self] = &[Self::All, Self::Any];
}

const BELOW: Context = Context::ANY.or(Context::LOCATION_IF);
const REWRITE: Context =
    Context::SERVER.or(Context::SERVER_IF).or(Context::LOCATION).or(Context::LOCATION_IF);

static ROWS: &[Directive<Conf, Diagnostics>] = &[
    number("worker_processes", Context::MAIN, (1, 512), |c| &mut c.number, "Workers."),
    block("events", Context::MAIN, Arity::exactly(0), events, "Connections."),
    number("worker_connections", Context::EVENTS, (1, u64::MAX), |c| &mut c.number, "Most of them."),
    block("http", Context::MAIN, Arity::exactly(0), http, "All of HTTP."),
    block("upstream", Context::HTTP, Arity::exactly(1), upstream, "A group of servers."),
    custom("server", Context::UPSTREAM, Arity::at_least(1), count, "A server of the group."),
    block("server", Context::HTTP, Arity::exactly(0), server, "A virtual server."),
    block("location", Context::SERVER.or(Context::LOCATION), Arity::between(1, 2), location, "A path."),
    block("if", REWRITE, Arity::at_least(1), condition, "A condition."),
    block("map", Context::HTTP, Arity::exactly(2), count, "A variable by another."),
    custom("set", REWRITE, Arity::exactly(2), count, "Sets a variable."),
    custom("return", REWRITE, Arity::between(1, 2), count, "Ends the request."),
    custom("listen", Context::SERVER, Arity::at_least(1), count, "An address."),
    custom("server_name", Context::SERVER, Arity::at_least(1), count, "Names."),
    custom("add_header", BELOW, Arity::between(2, 3), count, "Adds a header."),
    custom("proxy_pass", BELOW, Arity::exactly(1), count, "Where to."),
    flag("sendfile", BELOW, |c| &mut c.flag, "No copies."),
    size("client_max_body_size", BELOW, |c| &mut c.size, "Longest body."),
    millis("keepalive_timeout", BELOW, |c| &mut c.timeout, "How long an idle client stays."),
    text("root", BELOW, |c| &mut c.text, "Where the files are."),
    one_of("satisfy", BELOW, |c| &mut c.satisfy, "Who may pass."),
    accepted("types_hash_max_size", BELOW, Arity::exactly(1), Accepted::Number, "Size of a hash."),
];

static CORE: Slot<Conf, Conf, Diagnostics> =
    Slot { name: "core", rows: ROWS, conf: |conf| conf, inherits: Inherits::Everywhere };
static TABLE: LazyLock<Table<Conf, Diagnostics>> = LazyLock::new(|| Table::new(vec![&CORE]));

type Set = Result<(), Diagnostic>;

fn inside(node: &Node, context: Context, found: &mut Diagnostics) -> Set {
    TABLE.apply_all(node.children(), context, &mut Conf::default(), found);
    Ok(())
}

fn events(_: &mut Conf, found: &mut Diagnostics, node: &Node) -> Set {
    inside(node, Context::EVENTS, found)
}

fn http(_: &mut Conf, found: &mut Diagnostics, node: &Node) -> Set {
    inside(node, Context::HTTP, found)
}

fn upstream(_: &mut Conf, found: &mut Diagnostics, node: &Node) -> Set {
    inside(node, Context::UPSTREAM, found)
}

fn server(_: &mut Conf, found: &mut Diagnostics, node: &Node) -> Set {
    inside(node, Context::SERVER, found)
}

fn location(_: &mut Conf, found: &mut Diagnostics, node: &Node) -> Set {
    inside(node, Context::LOCATION, found)
}

fn condition(_: &mut Conf, found: &mut Diagnostics, node: &Node) -> Set {
    inside(node, Context::LOCATION_IF, found)
}

fn count(conf: &mut Conf, _: &mut Diagnostics, _: &Node) -> Set {
    conf.lines += 1;
    Ok(())
}

/// Loads and applies; returns the diagnostics, or the tree if there are none.
fn outcome(path: &Path) -> (Tree, String) {
    let (tree, mut found) = load(path, &LoadOptions::default());
    TABLE.apply_all(&tree.nodes, Context::MAIN, &mut Conf::default(), &mut found);
    found.sort();
    // without its sources a tree has no comments: both spellings of a case must give the same
    let bare = Tree { nodes: tree.nodes.clone(), ..Tree::default() };
    let text = if found.0.is_empty() { convert::to_nginx(&bare) } else { render(&found, &tree, false) };
    (tree, text.replace(DIRECTORY, ""))
}

fn cases(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(DIRECTORY).expect("the folder of the cases");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

#[test]
fn each_case_gives_what_it_should() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for path in cases("conf") {
        let (_, text) = outcome(&path);
        if update {
            fs::write(path.with_extension("expect"), &text).expect("write");
        }
        let expected = fs::read_to_string(path.with_extension("expect")).expect("an .expect file");
        assert_eq!(text, expected, "{}", path.display());
    }
    for path in cases("toml") {
        let (_, text) = outcome(&path);
        if update && !path.with_extension("conf").exists() {
            fs::write(path.with_extension("expect"), &text).expect("write");
        }
        let expected = fs::read_to_string(path.with_extension("expect")).expect("an .expect file");
        assert_eq!(text, expected, "{}", path.display());
    }
}

#[test]
fn each_right_case_survives_conversion() {
    let mut survivors = 0;
    for path in cases("conf").into_iter().chain(cases("toml")) {
        let (tree, text) = outcome(&path);
        if text.starts_with("pronghorn: ") {
            continue;
        }
        survivors += 1;
        for (name, converted) in [("t.toml", convert::to_toml(&tree)), ("t.conf", convert::to_nginx(&tree))] {
            let options = LoadOptions { keep_includes: true, ..LoadOptions::default() };
            let (again, found) = load_text(name, &converted, &options);
            assert!(found.0.is_empty(), "{name} of {}: {found:?}\n{converted}", path.display());
            assert_eq!(convert::to_nginx(&again), convert::to_nginx(&tree), "{}", path.display());
        }
    }
    assert!(survivors >= 4);
}

/// The bytes and the number of directives of a tree, at all depths.
fn weigh(nodes: &[Node]) -> (usize, usize) {
    let mut bytes = std::mem::size_of_val(nodes);
    let mut count = nodes.len();
    for node in nodes {
        // Words that fit are inside their node, which is counted already.
        let apart = if node.args.spilled() { node.args.capacity() } else { 0 };
        bytes += node.name.text.len() + apart * size_of_val(&node.name);
        bytes += node.args.iter().map(|word| word.text.len()).sum::<usize>();
        let (inside, below) = weigh(node.children());
        let spare = match &node.block {
            Some(Block::Directives(nodes)) => nodes.capacity() - nodes.len(),
            _ => 0,
        };
        bytes += inside + spare * size_of::<Node>();
        count += below;
    }
    (bytes, count)
}

fn many_servers(count: usize) -> String {
    let mut text = String::from("http {\n");
    for number in 0..count {
        text += &format!(
            "upstream u{number:05} {{ server 127.0.0.1:80; }}\nserver {{ listen 80; server_name \
             h{number:05}.example; location / {{ proxy_pass http://u{number:05}; }} }}\n"
        );
    }
    text + "}\n"
}

#[test]
fn ten_thousand_servers_parse_in_linear_memory() {
    let weigh_of = |count: usize| {
        let (tree, mut found) = load_text("t.conf", &many_servers(count), &LoadOptions::default());
        TABLE.apply_all(&tree.nodes, Context::MAIN, &mut Conf::default(), &mut found);
        assert!(found.0.is_empty(), "{found:?}");
        weigh(&tree.nodes)
    };
    let (bytes_1k, count_1k) = weigh_of(1_000);
    let (bytes_10k, count_10k) = weigh_of(10_000);
    assert_eq!((count_1k, count_10k), (7 * 1_000 + 1, 7 * 10_000 + 1));
    assert!(bytes_10k <= bytes_1k * 10 + bytes_1k / 10, "{bytes_1k} bytes became {bytes_10k}");
    let per_directive = bytes_10k / count_10k;
    assert!(per_directive <= 256, "{per_directive} bytes a directive");
}
