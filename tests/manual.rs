//! The generated parts of `man/pronghorn.conf.5` are what the directive tables say.
//!
//! After a change of a row: `PRONGHORN_WRITE_MANUAL=1 cargo test --test manual`.

use std::path::Path;

use pronghorn::config::document;
use pronghorn::http::modules;
use pronghorn::worker;

fn variables() -> String {
    let all = modules::VARIABLES.iter().flat_map(|list| list.iter());
    let mut names: Vec<String> = all
        .map(|variable| if variable.prefix { format!("{}NAME", variable.name) } else { variable.name.into() })
        .collect();
    names.sort();
    names.dedup();
    let mut out = String::from(".Bl -item -compact\n");
    for name in names {
        out.push_str(&format!(".It\n.Dv ${name}\n"));
    }
    out.push_str(".El\n");
    out
}

/// The page with what stands between `BEGIN name` and `END name` replaced.
fn replaced(page: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!(".\\\" BEGIN {name}\n"), format!(".\\\" END {name}\n"));
    let start = page.find(&begin).expect("the page has the mark") + begin.len();
    let stop = page.find(&end).expect("the page has the mark");
    format!("{}{text}{}", &page[..start], &page[stop..])
}

#[test]
fn the_manual_lists_every_directive_and_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/pronghorn.conf.5");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let rows = worker::config::rows();
    let expected = replaced(&page, "DIRECTIVES", &document::directives(rows));
    let expected = replaced(&expected, "VARIABLES", &variables());
    if std::env::var_os("PRONGHORN_WRITE_MANUAL").is_some() {
        std::fs::write(&path, &expected).expect("the page can be written");
    } else if page != expected {
        let differs = page.lines().zip(expected.lines()).find(|(is, should)| is != should);
        panic!(
            "man/pronghorn.conf.5 is not what the tables say, first at {differs:?}; see the top of this file"
        );
    }
}

#[test]
fn the_pages_are_without_a_fault() {
    for page in ["pronghorn.8", "pronghorn.conf.5"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page);
        let mut mandoc = std::process::Command::new("mandoc");
        // The tool is not everywhere; .ci/run has it.
        let Ok(lint) = mandoc.args(["-T", "lint"]).arg(path).output() else {
            eprintln!("mandoc is not here: {page} is not looked at");
            continue;
        };
        // Other pages may be installed or not.
        let is_fault =
            |line: &&str| !line.contains("referenced manual not found") && !line.contains("mandoc.db");
        let told = String::from_utf8_lossy(&lint.stdout).into_owned();
        let faults: Vec<&str> = told.lines().filter(is_fault).collect();
        assert!(faults.is_empty(), "{}{}", faults.join("\n"), String::from_utf8_lossy(&lint.stderr));
    }
}
