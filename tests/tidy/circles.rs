//! Circles of files: sets in which every file leads to every other by imports.
//!
//! To read a file one needs those that it names, so to read one file of a circle one must read them all. Use
//! lines and inline paths make arrows; re-exports lead to the file that has the item. Declarations of modules
//! make none, nor do tests, nor macros: the table of modules names every module, and that is its purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

static USE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^[ \t]*(pub )?use ([^;]+);"));
static PATH: LazyLock<Regex> =
    LazyLock::new(|| regex(r"[a-zA-Z_][a-zA-Z0-9_]*(?:::[a-zA-Z_][a-zA-Z0-9_]*)+"));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| regex(r"//[^\n]*"));
static TEXT: LazyLock<Regex> = LazyLock::new(|| regex(r#""(?:[^"\\]|\\.)*""#));
static TESTS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?m)^#\[cfg\((?:any\()?test[^\n]*\n(?:#\[[^\n]*\n)*(?:pub )?mod [a-z_]+ ?\{"));

/// A file by its module path: `http::request::body`.
pub type Name = String;

/// The sources as a graph of imports.
pub struct Graph {
    texts: BTreeMap<Name, String>,
    /// Items that a file re-exports: `upstream::Session` is `upstream::session::Session`.
    exported: BTreeMap<Name, Name>,
}

impl Graph {
    /// `files`: paths from the repository's root, such as `src/http/mod.rs`, with their text.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut texts = BTreeMap::new();
        for (path, text) in files {
            let inside = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
            let is_test = inside
                .split('/')
                .any(|part| part == "tests" || part.ends_with("_tests") || part == "property");
            if !is_test && !matches!(inside, "main" | "lib") {
                texts.insert(inside.replace('/', "::"), code(text));
            }
        }
        let mut graph = Self { texts, exported: BTreeMap::new() };
        graph.exported = graph.exports();
        graph
    }

    /// All circles, the largest first.
    pub fn circles(&self) -> Vec<Vec<Name>> {
        let names: Vec<&Name> = self.texts.keys().collect();
        let arrows: Vec<Vec<usize>> = names
            .iter()
            .map(|name| self.arrows(name).iter().filter_map(|to| names.binary_search(&to).ok()).collect())
            .collect();
        let mut found: Vec<Vec<Name>> = components(&arrows)
            .into_iter()
            .filter(|circle| circle.len() > 1)
            .map(|circle| circle.into_iter().map(|index| names[index].clone()).collect())
            .collect();
        found.iter_mut().for_each(|circle| circle.sort_unstable());
        found.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
        found
    }

    /// The files that a file names.
    fn arrows(&self, from: &str) -> BTreeSet<Name> {
        let text = &self.texts[from];
        let imports: Vec<String> =
            used(text, false).iter().filter_map(|path| self.absolute(from, path)).collect();
        let body = USE.replace_all(text, "");
        let mut targets = imports.clone();
        for found in PATH.find_iter(&body) {
            let (first, rest) = found.as_str().split_once("::").expect("a path has parts");
            let imported = imports.iter().find(|import| import.rsplit("::").next() == Some(first));
            match imported {
                Some(import) => targets.push(format!("{import}::{rest}")),
                None => targets.extend(self.absolute(from, found.as_str())),
            }
        }
        let files = targets.iter().filter_map(|target| {
            let file = self.file_of(target)?;
            // A folder imported by its own name makes no arrow; its items that are used do.
            let has_children = self
                .texts
                .range(format!("{file}::")..)
                .next()
                .is_some_and(|(name, _)| name.starts_with(&format!("{file}::")));
            (file != from && !(file == *target && has_children)).then_some(file)
        });
        files.collect()
    }

    /// A path from the crate's root; `None` for other crates.
    fn absolute(&self, from: &str, path: &str) -> Option<String> {
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        match first {
            "crate" => Some(rest.to_owned()),
            "self" => Some(format!("{from}::{rest}")),
            "super" => {
                let mut base = from;
                let mut rest = path;
                while let Some(left) = rest.strip_prefix("super::") {
                    base = base.rsplit_once("::").map_or("", |(base, _)| base);
                    rest = left;
                }
                Some(if base.is_empty() { rest.to_owned() } else { format!("{base}::{rest}") })
            }
            _ => {
                let child = format!("{from}::{first}");
                self.texts.contains_key(&child).then(|| format!("{from}::{path}"))
            }
        }
    }

    /// The file that contains the item at a path.
    fn file_of(&self, path: &str) -> Option<Name> {
        let mut path = path.trim_end_matches("::self").to_owned();
        for _ in 0..4 {
            let exported = prefixes(&path).find_map(|prefix| Some((prefix, self.exported.get(prefix)?)));
            let Some((prefix, target)) = exported else { break };
            path = format!("{target}{}", &path[prefix.len()..]);
        }
        prefixes(&path).find(|prefix| self.texts.contains_key(*prefix)).map(str::to_owned)
    }

    fn exports(&self) -> BTreeMap<Name, Name> {
        let mut exported = BTreeMap::new();
        for (name, text) in &self.texts {
            for path in used(text, true) {
                if let Some(target) = self.absolute(name, &path) {
                    let item = target.rsplit("::").next().unwrap_or_default();
                    exported.insert(format!("{name}::{item}"), target.clone());
                }
            }
        }
        exported.retain(|name, target| name != target);
        exported
    }
}

/// `a::b::c`, `a::b`, `a`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once("::").map(|(before, _)| before))
}

/// A source without comments, strings and the tests at its end.
fn code(text: &str) -> String {
    let text = COMMENT.replace_all(text, "");
    let text = TEXT.replace_all(&text, "\"\"");
    let end = TESTS.find(&text).map_or(text.len(), |found| found.start());
    text[..end].to_owned()
}

/// The paths of the `use` lines, groups expanded: those that re-export, or the others.
fn used(text: &str, exported: bool) -> Vec<String> {
    let lines = USE.captures_iter(text).filter(|line| line.get(1).is_some() == exported);
    lines.flat_map(|line| expand(&line[2])).collect()
}

fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, group)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let group = &group[..group.rfind('}').unwrap_or(group.len())];
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, letter) in group.char_indices().chain([(group.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = group[start..index].trim();
                start = (index + 1).min(group.len());
                found.extend(
                    expand(item)
                        .into_iter()
                        .filter(|item| !item.is_empty())
                        .map(|item| format!("{before}{item}")),
                );
            }
            _ => {}
        }
    }
    found
}

/// Strongly connected components (Tarjan), without recursion.
fn components(arrows: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut index = vec![NEW; arrows.len()];
    let mut low = vec![0; arrows.len()];
    let mut on_stack = vec![false; arrows.len()];
    let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
    for root in 0..arrows.len() {
        if index[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some(&mut (node, ref mut at)) = path.last_mut() {
            if *at == 0 {
                (index[node], low[node]) = (next, next);
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some(&to) = arrows[node].get(*at) {
                *at += 1;
                if index[to] == NEW {
                    path.push((to, 0));
                } else if on_stack[to] {
                    low[node] = low[node].min(index[to]);
                }
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[node]);
            }
            if low[node] == index[node] {
                let start = stack.iter().position(|&other| other == node).expect("pushed when it was met");
                let circle: Vec<usize> = stack.drain(start..).collect();
                circle.iter().for_each(|&member| on_stack[member] = false);
                found.push(circle);
            }
        }
    }
    found
}

#[test]
fn finds_circles_and_only_these() {
    let files = [
        ("src/a/mod.rs", "pub mod b;\npub mod c;\npub use b::B;\nuse crate::d;\nfn f() { d::g(); }"),
        ("src/a/b.rs", "use super::c::{self, C};"),
        (
            "src/a/c.rs",
            "// crate::a::b\nfn f() { crate::a::B::new(); }\n#[cfg(test)]\nmod tests {\n    use crate::d;\n}",
        ),
        ("src/d.rs", "fn f() -> &str { \"crate::a::b\" }"),
    ];
    assert_eq!(Graph::new(files).circles(), [["a::b", "a::c"]], "c leads to b through a re-export");
    let back = [("src/d.rs", "use crate::a::{b::{B}, c};")];
    let circles = Graph::new(files.into_iter().take(3).chain(back)).circles();
    assert_eq!(circles, [["a::b", "a::c"]], "nothing leads from them to a or d");
    let all = [("src/d.rs", "use crate::a::c::C;"), ("src/a/c.rs", "use crate::d::f;\nuse crate::a::b::B;")];
    let circles = Graph::new(files.into_iter().take(2).chain(all)).circles();
    assert_eq!(circles, [["a::b", "a::c", "d"]]);
}
