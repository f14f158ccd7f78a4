//! The generated parts of `man/pronghorn.conf.5` and `docs/from-nginx.md` agree with the directive tables.
//!
//! After a change of a row: `PRONGHORN_WRITE_MANUAL=1 cargo test --test manual`.

use std::collections::HashSet;
use std::path::Path;

use pronghorn::config::{RowInfo, Shape, absent, document};
use pronghorn::cycle;
use pronghorn::http::modules;
use pronghorn::stream;

fn variables() -> String {
    let name = |name: &str, prefix| if prefix { format!("{name}NAME") } else { name.to_owned() };
    let http = modules::VARIABLES.iter().flat_map(|list| list.iter());
    let mut rows: Vec<(String, &str)> = http.map(|v| (name(v.name, v.prefix), v.doc)).collect();
    let known: HashSet<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    let stream = stream::modules::VARIABLES.iter().flat_map(|list| list.iter());
    let stream = stream.map(|v| (name(v.name, v.prefix), v.doc));
    rows.extend(stream.filter(|(name, _)| !known.contains(name)));
    rows.sort();
    rows.dedup_by(|a, b| a.0 == b.0);
    let mut out = String::from(".Bl -tag -width Ds -compact\n");
    for (name, doc) in rows {
        assert!(!doc.is_empty(), "${name} has no line in its row");
        out.push_str(&format!(".It Dv ${name}\n{}\n", document::line(doc)));
    }
    out.push_str(".El\n");
    out
}

/// The metrics, as Prometheus names them.
fn metrics() -> String {
    use pronghorn::http::modules::status::metrics::{self, Metric};
    fn rows<E>(out: &mut String, about: &str, table: &[Metric<E>]) {
        for metric in table {
            let (name, help) = (metric.name, document::line(metric.help));
            out.push_str(&format!(".It Li pronghorn_{about}{name}\n{help}\n"));
        }
    }
    let mut out = String::from(".Bl -tag -width Ds -compact\n");
    rows(&mut out, "", metrics::PROCESS);
    rows(&mut out, "worker_", metrics::WORKER);
    rows(&mut out, "server_", metrics::RESPONSES);
    rows(&mut out, "server_", metrics::CLIENTS);
    rows(&mut out, "mail_server_", metrics::MAIL);
    rows(&mut out, "mail_server_", metrics::CLIENTS);
    rows(&mut out, "zone_", metrics::RESPONSES);
    rows(&mut out, "zone_", metrics::CLIENTS);
    rows(&mut out, "upstream_", metrics::RESPONSES);
    rows(&mut out, "upstream_", metrics::UPSTREAM);
    rows(&mut out, "upstream_peer_", metrics::RESPONSES);
    rows(&mut out, "upstream_peer_", metrics::PEER);
    rows(&mut out, "resolver_", metrics::RESOLVER);
    rows(&mut out, "cache_", metrics::CACHE);
    for (about, times) in [("zone_", metrics::ZONE_TIMES), ("upstream_", metrics::UPSTREAM_TIMES)] {
        let splits = metrics::SPLITS.iter().map(|split| (split.name, split.help));
        for (name, help) in splits.chain(times.iter().map(|times| (times.name, times.help))) {
            out.push_str(&format!(".It Li pronghorn_{about}{name}\n{}\n", document::line(help)));
        }
    }
    out.push_str(".El\n");
    out
}

/// The page with the text between `BEGIN name` and `END name` replaced.
fn replaced(page: &str, name: &str, text: &str) -> String {
    let mark = |word: &str| match page.starts_with('#') {
        true => format!("<!-- {word} {name} -->\n"),
        false => format!(".\\\" {word} {name}\n"),
    };
    let (begin, end) = (mark("BEGIN"), mark("END"));
    let start = page.find(&begin).expect("the page has the mark") + begin.len();
    let stop = page.find(&end).expect("the page has the mark");
    format!("{}{text}{}", &page[..start], &page[stop..])
}

#[test]
fn the_manual_lists_every_directive_and_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/pronghorn.conf.5");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let rows = cycle::rows();
    let expected = replaced(&page, "DIRECTIVES", &document::directives(rows));
    let expected = replaced(&expected, "VARIABLES", &variables());
    let expected = replaced(&expected, "METRICS", &metrics());
    compare(&path, &page, &expected);
}

/// Writes the page if requested; otherwise checks that it is the same already.
fn compare(path: &Path, page: &str, expected: &str) {
    if std::env::var_os("PRONGHORN_WRITE_MANUAL").is_some() {
        std::fs::write(path, expected).expect("the page can be written");
    } else if page != expected {
        let differs = page.lines().zip(expected.lines()).find(|(is, should)| is != should);
        let name = path.display();
        panic!("{name} is not what the tables say, first at {differs:?}; see the top of this file");
    }
}

fn is_unavailable(row: &RowInfo) -> bool {
    row.doc.ends_with("ot available yet.")
}

/// Names as a sentence of code words, wrapped to lines.
fn listed(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    names.dedup();
    let mut out = String::new();
    let mut width = 0;
    for (index, name) in names.iter().enumerate() {
        let end = if index + 1 == names.len() { "." } else { "," };
        let word = format!("`{name}`{end}");
        if index > 0 {
            let is_full = width + 1 + word.len() > 130;
            out.push(if is_full { '\n' } else { ' ' });
            width = if is_full { 0 } else { width + 1 };
        }
        width += word.len();
        out.push_str(&word);
    }
    out + "\n"
}

fn absent_table() -> String {
    let mut out = String::from("\n| directive | meanwhile |\n|---|---|\n");
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for feature in absent::features() {
        let names = feature.names().iter().map(|name| format!("`{name}`"));
        match rows.iter_mut().find(|(help, _)| *help == feature.help) {
            Some((_, known)) => known.extend(names),
            None => rows.push((feature.help, names.collect())),
        }
    }
    for (help, names) in rows {
        let help = help.replace('"', "`").replace('|', "\\|");
        out.push_str(&format!("| {} | {help} |\n", names.join(", ")));
    }
    let rows = cycle::rows().filter(|row| is_unavailable(row) && !matches!(row.shape, Shape::Accepted(_)));
    let refused: Vec<&str> = rows.map(|row| row.name).collect();
    if refused.is_empty() { out } else { out + "\nKnown, and refused too: " + &listed(refused) }
}

/// A default comes from the row's field, or from words of its own; the documentation does not repeat it.
#[test]
fn no_row_tells_its_default_a_second_time() {
    for row in cycle::rows() {
        let Some(default) = &row.default else { continue };
        let tells =
            [format!("; {default}."), format!("; {default}")].iter().any(|end| row.doc.ends_with(&**end));
        assert!(!tells, "{}: {}", row.name, row.doc);
        assert!(!default.is_empty() && !default.ends_with('.'), "{}: {default:?}", row.name);
    }
}

#[test]
fn the_page_for_users_of_nginx_lists_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/from-nginx.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let ignored = cycle::rows().filter(|row| matches!(row.shape, Shape::Accepted(_)));
    let expected = replaced(&page, "IGNORED", &listed(ignored.map(|row| row.name).collect()));
    let expected = replaced(&expected, "ABSENT", &absent_table());
    compare(&path, &page, &expected);
}

/// Words in code quotes that look like a directive but are not, or that belong to the language itself.
const NO_DIRECTIVES: &[&str] = &[
    "include",
    "logs",
    "http_req_rate",
    "pronghorn",
    "nginx",
    "backup",
    "down",
    "weight",
    "max_fails",
    "fail_timeout",
    "max_conns",
    "drain",
    "source",
    "route",
    "resolve",
    "reuseport",
    "auto",
    "snippets",
    "proxy_params",
    "fastcgi_params",
    "uwsgi_params",
    "scgi_params",
    "on",
    "off",
    "upgrade",
    "frontend",
    "acl",
    "default_backend",
    "use_backend",
    "retries",
    "errorfile",
    "stats",
    "backend",
];

#[test]
fn the_page_for_users_of_nginx_names_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/from-nginx.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let (before, rest) = page.split_once("## What is not supported yet").expect("it has the section");
    let (absent, after) = rest.split_once("## Step by step").expect("it has the section");
    let names = |text: &str| -> Vec<String> {
        let words = text.split('`').skip(1).step_by(2).map(str::to_owned);
        let is_name = |word: &String| {
            word.chars().all(|char| char.is_ascii_lowercase() || char == '_') && word.len() > 1
        };
        words.filter(is_name).filter(|word| !NO_DIRECTIVES.contains(&word.as_str())).collect()
    };
    let found = |name: &str| cycle::rows().find(|row| row.name == name);
    for name in names(&format!("{before}{after}")) {
        let row = found(&name).unwrap_or_else(|| panic!("there is no {name}"));
        assert!(
            !is_unavailable(row) || matches!(row.shape, Shape::Accepted(_)),
            "{name} is not available yet"
        );
    }
    let quoted = |name: &String| {
        absent.lines().any(|line| {
            line.starts_with("| `")
                && line.split(" | ").next().is_some_and(|names| names.contains(&format!("`{name}`")))
        })
    };
    for name in names(absent).iter().filter(|name| quoted(name)) {
        assert!(found(name).is_none() && absent::feature(name).is_some(), "{name} is there by now");
    }
}

#[test]
fn the_pages_are_without_a_fault() {
    if std::env::var_os("PRONGHORN_WRITE_MANUAL").is_some() {
        return;
    }
    for page in ["pronghorn.8", "pronghorn.conf.5"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page);
        let mut mandoc = std::process::Command::new("mandoc");
        // The tool is not installed everywhere; .ci/run has it.
        let Ok(lint) = mandoc.args(["-T", "lint"]).arg(path).output() else {
            eprintln!("mandoc is not here: {page} is not looked at");
            continue;
        };
        // Other pages may or may not be installed.
        let is_fault =
            |line: &&str| !line.contains("referenced manual not found") && !line.contains("mandoc.db");
        let told = String::from_utf8_lossy(&lint.stdout).into_owned();
        let faults: Vec<&str> = told.lines().filter(is_fault).collect();
        assert!(faults.is_empty(), "{}{}", faults.join("\n"), String::from_utf8_lossy(&lint.stderr));
    }
}
