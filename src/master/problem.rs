//! What cannot be opened, in words, with the line of the configuration that asks for it.

use std::path::Path;

use crate::config::{Node, Span, Tree};
use crate::log::{Cause, OpenError};
use crate::net::address;
use crate::sys::address::SockAddr;
use crate::sys::process;
use crate::worker::config::Config;

/// A log that cannot be opened.
pub fn log(error: &OpenError, config: &Config, tree: &Tree) -> String {
    let names = |node: &Node| {
        let is_log = matches!(&*node.name.text, "error_log" | "access_log");
        is_log && config.prefix.join(node.arg(0)) == Path::new(&error.path)
    };
    with_place(error.to_string(), find(&tree.nodes, &names), tree)
}

/// A directory for temporary files that cannot be made.
pub fn folder(path: &Path, cause: &std::io::Error, config: &Config, tree: &Tree) -> String {
    let names =
        |node: &Node| node.name.text.ends_with("_temp_path") && config.prefix.join(node.arg(0)) == path;
    let message = format!("mkdir() \"{}\" failed {}", path.display(), Cause(cause));
    with_place(message, find(&tree.nodes, &names), tree)
}

/// An address that cannot be listened on.
pub fn address(address: &SockAddr, call: &str, cause: &std::io::Error, tree: &Tree) -> String {
    let names = |node: &Node| {
        let addresses = || address::parse_listen(node.arg(0), 80);
        &*node.name.text == "listen" && addresses().is_ok_and(|all| all.contains(address))
    };
    let message = format!("{call} to {address} failed {}", Cause(cause));
    with_place(message, find(&tree.nodes, &names), tree)
}

/// Why no pid file can be at a path. Nothing is made or opened: it may be the running daemon's.
pub fn unusable_pid(path: &Path) -> Option<String> {
    let there = std::fs::symlink_metadata(path).map(|there| there.file_type());
    if there.is_ok_and(|kind| !kind.is_file() && !kind.is_symlink()) {
        return Some(format!("\"{}\" is not a regular file", path.display()));
    }
    let error = process::may_write(path.parent()?).err()?;
    Some(format!("open() \"{}\" failed {}", path.display(), Cause(&error)))
}

/// A pid file that cannot be written.
pub fn pid(why: String, tree: &Tree) -> String {
    with_place(why, find(&tree.nodes, &|node| &*node.name.text == "pid"), tree)
}

/// An upstream none of whose servers can be found any more.
pub fn upstream(server: &str, tree: &Tree) -> String {
    let names = |node: &Node| {
        let may_name = matches!(&*node.name.text, "server" | "proxy_pass");
        may_name && node.args.first().is_some_and(|word| word.text.contains(server))
    };
    let message = format!("host not found in upstream \"{server}\", the configuration in force stays");
    with_place(message, find(&tree.nodes, &names), tree)
}

fn with_place(message: String, span: Option<Span>, tree: &Tree) -> String {
    match span.and_then(|span| tree.place(span)) {
        Some(place) => format!("{message} in {}:{}", place.path.display(), place.line),
        None => message,
    }
}

fn find(nodes: &[Node], is_it: &dyn Fn(&Node) -> bool) -> Option<Span> {
    nodes.iter().find_map(|node| if is_it(node) { Some(node.span) } else { find(node.children(), is_it) })
}
