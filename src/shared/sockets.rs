//! The unix sockets that a configuration names in its values, which is where a `proxy_pass` with variables may lead.
//!
//! Pure.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::config::Node;

/// Directives whose words become values of variables, or the URL of a `proxy_pass`.
const GIVE_VALUES: &[&str] = &[
    "map",
    "set",
    "geo",
    "split_clients",
    "proxy_pass",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
];

/// The paths after each `unix:` in the values that a block gives to variables.
pub fn named_in(block: &Node) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    let mut add = |text: &str| {
        for rest in text.split("unix:").skip(1) {
            let end = rest.find([':', '$']).unwrap_or(rest.len());
            // a path that continues with a variable is not known here
            if end > 0 && !rest[end..].starts_with('$') {
                found.insert(PathBuf::from(&rest[..end]));
            }
        }
    };
    let mut open = vec![block];
    while let Some(node) = open.pop() {
        if GIVE_VALUES.contains(&&*node.name.text) {
            node.args.iter().for_each(|word| add(&word.text));
            for entry in node.entries() {
                entry.args.iter().for_each(|word| add(word.text));
            }
        }
        open.extend(node.children());
    }
    found
}
