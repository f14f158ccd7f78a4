//! The differential test: a real nginx and our daemon run side by side on the same configuration, documents
//! and backends. Both get the same request bytes; their responses must be equal byte for byte.
//!
//! Each file `tests/differential/NAME.conf` is a configuration with its cases as comments, in the format that
//! `case.rs` documents. A few things may always differ: the values of `Date` and of our own `Server` (and so
//! the signature of error pages), chunk boundaries, and ports. Any other intended difference is marked in the
//! case, with the lines that differ and a key that `docs/nginx-differences.md` explains; a mark that is no
//! longer true fails the test too.
//!
//! A new file must be named in `files!`. To run one file: `cargo test --test differential location`.
//!
//! Environment: `PRONGHORN_NGINX` is the path of nginx, if not in PATH; with `PRONGHORN_NEED_NGINX` a missing
//! nginx is a failure (`.ci/run` sets it); `PRONGHORN_WRITE_MARKS` writes the present differences into the
//! cases that are marked.

#[path = "differential/answer.rs"]
mod answer;
#[path = "differential/backend.rs"]
mod backend;
#[path = "differential/case.rs"]
mod case;
#[path = "differential/diff.rs"]
mod diff;
#[path = "differential/nginx.rs"]
mod nginx;
#[path = "differential/placement.rs"]
mod placement;
#[path = "differential/side.rs"]
mod side;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use backend::Backends;
use case::{Case, Script};
use side::Side;

/// One test per file, so that cargo runs them in parallel and names the one that fails.
macro_rules! files {
    ($($name:ident)+) => {
        const FILES: &[&str] = &[$(stringify!($name)),+];
        $(#[test] fn $name() { run(stringify!($name)); })+
    };
}

files! {
    access
    bodies
    body_limits
    cache
    directories
    early
    error_page
    fastcgi
    files
    filters
    headers
    if_conditions
    jumps
    links
    location
    logs
    maps
    mixed
    modules
    nested
    proxy
    proxy_interim
    request
    return_forms
    rewrite
    rules
    scgi
    servers
    site_apps
    site_blog
    site_gateway
    site_legacy
    site_products
    site_spa
    ssi
    statuses
    syntax
    try_files
    upstreams
    urls
    uwsgi
    variables
}

/// Runs all cases of a file against both, and reports all that differ.
fn run(name: &str) {
    let Some(program) = nginx::find() else { return };
    let path = folder().join(format!("{name}.conf"));
    let script = Script::read(&path);
    let backends = Backends::start(&script);
    let root = side::documents(&script);
    let nginx = Side::start(&script, &backends, root.path(), Some(&program));
    let ours = Side::start(&script, &backends, root.path(), None);
    let mut faults = Vec::new();
    let mut marks = Vec::new();
    for case in &script.cases {
        let (theirs, our) = (nginx.ask(case, &backends), ours.ask(case, &backends));
        let found = diff::changed(&theirs, &our);
        if found != case.expected {
            faults.push(report(&script, case, &theirs, &our));
        }
        marks.push(found);
    }
    if std::env::var_os("PRONGHORN_WRITE_MARKS").is_some() {
        script.write_marks(&path, &marks);
    }
    let logged: usize = script.cases.iter().map(|case| case.log).sum();
    if logged > 0 && faults.is_empty() && nginx.log().len() != logged {
        faults.push(format!("{} lines in nginx's access log, {logged} by cases", nginx.log().len()));
    }
    drop((nginx, ours)); // otherwise they would add their error logs to the report
    let (count, all) = (faults.len(), script.cases.len());
    assert!(
        faults.is_empty(),
        "{count} of {all} cases of {}: - nginx, + ours\n{}",
        path.display(),
        faults.join("\n")
    );
}

fn report(script: &Script, case: &Case, theirs: &[String], our: &[String]) -> String {
    let mut out = format!("\n=== {}.conf:{}: {}\n", script.name, case.line, case.title);
    for line in script.around(case.line) {
        out.push_str(&format!("  | {line}\n"));
    }
    out.push_str(&format!("--- request\n{}\n", answer::shown(&case.bytes).join("\n")));
    if let Some(key) = &case.key {
        out.push_str(&format!("--- marked as \"{key}\", with\n{}\n", case.expected.join("\n")));
    }
    out.push_str("--- answers\n");
    out.push_str(&diff::whole(theirs, our));
    out
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

#[test]
fn every_file_is_run() {
    let entries = std::fs::read_dir(folder()).expect("the folder is there").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let found: BTreeSet<String> =
        names.filter_map(|name| name.strip_suffix(".conf").map(str::to_owned)).collect();
    let named: BTreeSet<String> = FILES.iter().map(ToString::to_string).collect();
    assert_eq!(found, named, "the files of tests/differential, and the list in tests/differential.rs");
}

/// The keys in the first table of `docs/nginx-differences.md` must be those of the marks. Running a file checks
/// that its marks are true.
#[test]
fn the_page_of_differences_has_the_marks_of_the_cases() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nginx-differences.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let first = page.split("\n## ").next().unwrap_or(&page);
    let rows = first.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    let mut marked = BTreeSet::new();
    for name in FILES {
        let script = Script::read(&folder().join(format!("{name}.conf")));
        marked.extend(script.cases.into_iter().filter_map(|case| case.key));
    }
    assert_eq!(listed, marked, "the keys of docs/nginx-differences.md, and those of the marks");
}

#[test]
fn there_are_cases_enough() {
    let count: usize =
        FILES.iter().map(|name| Script::read(&folder().join(format!("{name}.conf"))).cases.len()).sum();
    assert!(count >= CASES_MIN, "{count} cases");
}

/// The minimum number of cases, so that a file that loses its cases is noticed.
const CASES_MIN: usize = 2150;
