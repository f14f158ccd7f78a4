//! The house rules that a machine can check: import floors, the files where `unsafe` is allowed, a header on
//! each file, no file that hides a second room.
//!
//! Reads the sources as text. Floors and rooms are those of `docs/architecture.md`.

#[path = "tidy/circles.rs"]
mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

/// From the top; the folders on one line are siblings. A file imports only from its own folder and lower
/// lines.
const FLOORS: [&[&str]; 12] = [
    &["main", "lib", "cli", "top"],
    &["ctl"],
    &["master"],
    &["worker"],
    &["cycle"],
    &["http", "mail", "stream"],
    &["shared"],
    &["script", "upstream", "cache"],
    &["net"],
    &["config", "proto"],
    &["runtime", "shm", "log"],
    &["sys", "base"],
];

/// The only places where `unsafe` is allowed: folders end with a slash.
const UNSAFE_ROOMS: [&str; 3] = ["src/sys/", "src/runtime/waker.rs", "src/shm/zone.rs"];

/// The only places that may name the runtime's `Io` and the `Transport` over it: all others use a request's
/// `Downstream` or a peer's connection.
const TRANSPORT_ROOMS: [&str; 16] = [
    "src/runtime/",
    "src/net/",
    "src/upstream/",
    "src/http/h1/",
    "src/http/h2/",
    "src/http/upstream/",
    "src/http/downstream.rs",
    "src/http/handshake.rs",
    "src/http/streams/tunnel.rs",
    "src/http/service.rs", // it takes connections that a stream listener has accepted
    "src/http/tunnel.rs",
    "src/mail/",
    "src/shared/tls/outgoing.rs",
    "src/stream/",
    "src/worker/mod.rs", // the control socket
    "src/worker/outbox.rs",
];

/// The only places that may name HTTP/1: another protocol has other rooms.
const H1_ROOMS: [&str; 6] = [
    "src/proto/",
    "src/http/h1/",
    "src/http/upstream/cache/stored.rs", // stored heads are HTTP/1's, whatever protocol they came by
    "src/http/upstream/h1.rs",
    "src/net/fetch.rs",             // services that a worker asks itself
    "src/net/tls/ocsp/exchange.rs", // responders speak HTTP
];

/// Files that still name it, for vocabulary that has no room of its own yet. The list may only get shorter.
const H1_EXCEPTIONS: &[&str] =
    &["src/http/modules/http_core.rs", "src/http/request/parked.rs", "src/http/response/headers.rs"];

const LINES_MAX: usize = 800;

/// Maximum number of files that lead to each other by imports.
const CIRCLE_FILES_MAX: usize = 20;

/// The longest lines are those of tables, which rustfmt leaves alone.
const COLUMNS_MAX: usize = 160;

#[test]
fn imports_go_down_only() {
    let faults: Vec<String> = sources("src").iter().flat_map(upward_imports).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn unsafe_stands_in_its_rooms_and_says_why() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let allowed = UNSAFE_ROOMS.iter().any(|room| source.name.starts_with(room));
        faults.extend(source.unsafe_faults(allowed));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn each_file_opens_with_what_it_is_for() {
    let mut all = sources("src");
    all.extend(sources("tests"));
    all.extend(sources("benches"));
    let without = all.iter().filter(|source| !source.text.starts_with("//! "));
    let faults: Vec<&str> = without.map(|source| source.name.as_str()).collect();
    assert!(faults.is_empty(), "no //! header: {faults:?}");
}

#[test]
fn no_file_hides_a_second_room() {
    let long = sources("src").into_iter().filter(|source| source.text.lines().count() > LINES_MAX);
    let faults: Vec<String> = long.map(|source| source.name).collect();
    assert!(faults.is_empty(), "longer than {LINES_MAX} lines: {faults:?}");
}

#[test]
fn no_line_is_wider_than_a_table() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let lines = source.text.lines().enumerate();
        let wide = lines.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
        faults.extend(wide.map(|(index, _)| format!("{}:{}", source.name, index + 1)));
    }
    assert!(faults.is_empty(), "wider than {COLUMNS_MAX} columns: {faults:?}");
}

/// rustfmt and clippy's module lints do not follow a `mod` that a macro generates.
#[test]
fn the_formatter_sees_every_module() {
    let hidden = Regex::new(r"\bmod \$").expect("valid");
    let sources = sources("src");
    let faults: Vec<&str> = sources
        .iter()
        .filter(|source| hidden.is_match(&source.text))
        .map(|source| source.name.as_str())
        .collect();
    assert!(faults.is_empty(), "modules that a macro declares: {faults:?}");
}

/// Modules are one line of their table, and one file: what runs them goes by the table.
#[test]
fn the_pipeline_names_no_module() {
    let module = Regex::new(r"\bmodules::(?:[a-z]\w*(?:::|;)|\{[^}]*\b[a-z]\w*[,}])").expect("valid");
    let names = |line: &str| module.is_match(&line.replace("self, ", ""));
    let pipeline = sources("src").into_iter().find(|source| source.name == "src/http/pipeline.rs");
    let pipeline = pipeline.expect("the pipeline is there");
    let faults: Vec<_> = pipeline.code().filter(|(_, line)| names(line)).collect();
    assert!(faults.is_empty(), "{faults:?}");
    for line in [
        "use crate::http::modules::http_core;",
        "modules::http_core::told()",
        "use crate::http::modules::{self, ssi, Confs};",
    ] {
        assert!(names(line), "{line}");
    }
    for line in ["use crate::http::modules::{self, Confs, Phase};", "modules::handlers(phase)"] {
        assert!(!names(line), "{line}");
    }
}

#[test]
fn no_circle_of_files_is_large() {
    let sources = sources("src");
    let files = sources.iter().map(|source| (source.name.as_str(), source.text.as_str()));
    let circles = circles::Graph::new(files).circles();
    let large: Vec<_> = circles.iter().filter(|circle| circle.len() > CIRCLE_FILES_MAX).collect();
    assert!(large.is_empty(), "circles of more than {CIRCLE_FILES_MAX} files: {large:#?}");
}

/// A new protocol must require no change there: the master asks `cycle/` for listeners, folders and counters.
#[test]
fn the_master_names_no_protocol() {
    let protocol = Regex::new(r"\bcrate::(http|stream|mail|proto)\b").expect("valid");
    let mut faults = Vec::new();
    for source in sources("src").iter().filter(|source| source.floor == "master") {
        let lines = source.code().filter(|(_, line)| protocol.is_match(line));
        faults.extend(lines.map(|(number, line)| format!("{}:{number}: {}", source.name, line.trim())));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// `config/` is the language: the meaning of a directive, the block it opens and its inheritance are in its
/// row.
#[test]
fn the_language_knows_no_directive() {
    // the list of nginx's directives that we do not have, and the kinds of blocks
    const EXEMPT: [&str; 2] = ["src/config/absent.rs", "src/config/directive.rs"];
    let names: BTreeSet<&str> = pronghorn::cycle::rows().map(|row| row.name).collect();
    let words = Regex::new("\"([a-z_]+)\"").expect("valid");
    let mut faults = Vec::new();
    for source in sources("src/config").iter().filter(|source| !EXEMPT.contains(&&*source.name)) {
        if source.name.ends_with("/tests.rs") {
            continue;
        }
        let code = source.code().take_while(|(_, line)| *line != "mod tests {");
        for (number, line) in code {
            let found = words.captures_iter(line).filter(|found| names.contains(&found[1]));
            faults.extend(found.map(|found| format!("{}:{number}: {}", source.name, &found[0])));
        }
    }
    assert!(faults.is_empty(), "directives by name: {faults:?}");
}

#[test]
fn connections_are_named_in_their_rooms() {
    let word = Regex::new(r"\b(?:Io|Transport)\b").expect("valid");
    // `Cause::Io` and similar names are errors, and one field is named like that.
    let error = Regex::new(r"\w::Io\b|\bIo\(|Strict-Transport-Security").expect("valid");
    let import = Regex::new(r"\bruntime::(?:io::)?Io\b").expect("valid");
    let mut faults = Vec::new();
    for source in sources("src") {
        if TRANSPORT_ROOMS.iter().any(|room| source.name.starts_with(room)) {
            continue;
        }
        // Tests make connections from scripts.
        if source.name.contains("/tests") {
            continue;
        }
        for (number, line) in source.code().take_while(|(_, line)| *line != "#[cfg(test)]") {
            if word.is_match(&error.replace_all(line, "")) || import.is_match(line) {
                faults.push(format!("{}:{number}: {}", source.name, line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn http_1_is_named_in_its_rooms() {
    let word = Regex::new(r"\bproto::h1\b|\bproto::\{[^}]*\bh1\b").expect("valid");
    let is_test = |name: &str| {
        ["/tests.rs", "property.rs"].iter().any(|end| name.ends_with(end)) || name.contains("/tests/")
    };
    let mut naming: Vec<String> = Vec::new();
    for source in sources("src") {
        let is_allowed = H1_ROOMS.iter().any(|room| source.name.starts_with(room));
        if !is_allowed && !is_test(&source.name) && source.code().any(|(_, line)| word.is_match(line)) {
            naming.push(source.name);
        }
    }
    let is_known = |name: &str| H1_EXCEPTIONS.iter().any(|room| name.starts_with(room));
    let new: Vec<&String> = naming.iter().filter(|name| !is_known(name.as_str())).collect();
    assert!(new.is_empty(), "these name proto::h1: {new:?}");
    let over: Vec<&&str> =
        H1_EXCEPTIONS.iter().filter(|name| !naming.iter().any(|other| other.starts_with(**name))).collect();
    assert!(over.is_empty(), "these do not name proto::h1 any more, strike them out: {over:?}");
}

#[test]
fn every_folder_of_the_sources_has_a_floor() {
    let known = ranks();
    let strange: Vec<String> = sources("src").into_iter().map(|source| source.floor).collect();
    let strange: Vec<&String> = strange.iter().filter(|floor| !known.contains_key(floor.as_str())).collect();
    assert!(strange.is_empty(), "no floor for {strange:?}");
}

#[test]
fn the_floor_check_sees_what_it_must() {
    let case = |name: &str, text: &str| !upward_imports(&Source::new(name, text)).is_empty();
    assert!(case("src/net/listen.rs", "use crate::http::Request;"), "up");
    assert!(case("src/proto/uri.rs", "use crate::config::Tree;"), "sideways");
    assert!(case("src/net/listen.rs", "fn f() { crate::worker::stop(); }"), "an inline path");
    assert!(case("src/net/listen.rs", "use crate::{sys, http::{self, Request}};"), "in a group");
    assert!(case("src/net/listen.rs", "use crate::{\n    sys,\n    master,\n};"), "in a group of lines");
    assert!(case("src/net/mod.rs", "use super::http;"), "by way of the parent");
    assert!(case("src/http/modules/gzip.rs", "use super::super::super::master;"), "by way of the root");
    assert!(!case("src/http/modules/gzip.rs", "use super::super::Request;"), "its own floor");
    assert!(!case("src/net/mod.rs", "mod tests {\n    use super::*;\n}"), "tests see their file");
    assert!(!case("src/net/listen.rs", "use crate::{net::Address, sys::{self, http}};"), "down");
    assert!(!case("src/net/listen.rs", "// not crate::http::Request"), "a comment");
    assert!(!case("src/http/mod.rs", "use crate::upstream::Peer;"), "down");
}

struct Source {
    /// From the repository's root: `src/net/listen.rs`.
    name: String,
    text: String,
    /// The folder below `src`, or for a file directly in it, the file's own name.
    floor: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        let inside = name.split_once('/').map_or(name, |(_, inside)| inside);
        let floor = inside.split_once('/').map_or(inside.trim_end_matches(".rs"), |(folder, _)| folder);
        Self { name: name.into(), text: text.into(), floor: floor.into() }
    }

    /// The lines without comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    /// The number of `super::` that lead from the file to the crate's root.
    fn depth(&self) -> usize {
        let inside = self.name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inside.split('/').count()
    }

    fn unsafe_faults(&self, allowed: bool) -> Vec<String> {
        let word = Regex::new(r"\bunsafe\b").expect("valid");
        let lines: Vec<&str> = self.text.lines().collect();
        let mut faults = Vec::new();
        for (number, line) in self.code().filter(|(_, line)| word.is_match(line)) {
            let before = &lines[number.saturating_sub(9)..number];
            let says_why = before.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !allowed {
                faults.push(format!("{}:{number}: unsafe outside its rooms: {}", self.name, line.trim()));
            } else if !says_why {
                faults.push(format!("{}:{number}: unsafe without SAFETY: {}", self.name, line.trim()));
            }
        }
        faults
    }
}

fn upward_imports(source: &Source) -> Vec<String> {
    let ranks = ranks();
    let Some(&own) = ranks.get(source.floor.as_str()) else { return Vec::new() };
    let mut faults = Vec::new();
    for (number, floor) in mentioned(source) {
        let Some(&rank) = ranks.get(floor.as_str()) else { continue };
        if floor != source.floor && rank <= own && own != 0 {
            faults.push(format!("{}:{number}: {} imports {floor}", source.name, source.floor));
        }
    }
    faults
}

/// The floors that a file names, with their lines: `crate::x`, `crate::{x, y::z}`, and `super::` up to the
/// root.
fn mentioned(source: &Source) -> Vec<(usize, String)> {
    let path = Regex::new(r"\bcrate::(?:r#)?(\w+)").expect("valid");
    let parents = Regex::new(r"\b((?:super::)+)(\w+)").expect("valid");
    let mut found = Vec::new();
    let mut inner = 0;
    for (number, line) in source.code() {
        if line.starts_with("mod ") && line.trim_end().ends_with('{') {
            inner = 1;
        } else if line.starts_with('}') {
            inner = 0;
        }
        found.extend(path.captures_iter(line).map(|captures| (number, captures[1].to_owned())));
        for captures in parents.captures_iter(line) {
            if captures[1].matches("super::").count() >= source.depth() + inner {
                found.push((number, captures[2].to_owned()));
            }
        }
    }
    found.extend(grouped(source));
    found
}

/// The first names inside `crate::{…}`, which may span lines.
fn grouped(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let code: String = source.code().flat_map(|(_, line)| [line, "\n"]).collect();
    for (start, open) in code.match_indices("crate::{") {
        let number = code[..start].matches('\n').count() + 1;
        let mut depth = 1;
        let mut first = String::new();
        let mut in_first = true;
        for letter in code[start + open.len()..].chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && in_first && (letter.is_alphanumeric() || letter == '_') {
                first.push(letter);
            } else if !letter.is_whitespace() {
                in_first = false;
            }
            if (depth == 1 && letter == ',') || depth == 0 {
                found.push((number, std::mem::take(&mut first)));
                in_first = true;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn ranks() -> BTreeMap<&'static str, usize> {
    let floors = FLOORS.iter().enumerate();
    floors.flat_map(|(rank, names)| names.iter().map(move |&name| (name, rank))).collect()
}

/// Every Rust file under a folder of the repository.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("found under the root").display().to_string();
                found.push(Source::new(&name, &std::fs::read_to_string(&path).expect("a source is UTF-8")));
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
