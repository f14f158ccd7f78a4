//! Messages about things that cannot be opened, each with the line of the configuration that asks for it.

use std::path::Path;

use crate::config::{Node, Span, Tree};
use crate::cycle::Config;
use crate::log::{Cause, OpenError};
use crate::net::listener::Listener;
use crate::shm;
use crate::sys::{process, trusted};

/// Shared memory that cannot be mapped, with the limit that is the usual reason.
pub fn shared_memory(cause: &std::io::Error) -> String {
    let remedy = match cause.raw_os_error() {
        Some(libc::EFBIG) => "; raise the limit of file sizes (ulimit -f, LimitFSIZE=), which counts for it",
        Some(libc::ENOMEM) => {
            "; raise the limit of address space (ulimit -v, LimitAS=): little of it is ever used"
        }
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n, LimitNOFILE=)",
        _ => "",
    };
    let megabytes = shm::BYTES / 1_000_000;
    format!("mapping {megabytes} MB of shared memory failed {}{remedy}", Cause(cause))
}

/// A log that cannot be opened.
pub fn log(error: &OpenError, config: &Config, tree: &Tree) -> String {
    let names = |node: &Node| {
        let is_log = matches!(&*node.name.text, "error_log" | "access_log");
        is_log && config.prefix.join(node.arg(0)) == Path::new(&error.path)
    };
    with_place(error.to_string(), find(&tree.nodes, &names), tree)
}

/// A cache that a reload cannot put elsewhere.
pub fn moved_cache(why: &str, span: Span, tree: &Tree) -> String {
    let message =
        format!("{why}: restart instead of reloading, or give it another name or size of keys_zone");
    with_place(message, Some(span), tree)
}

/// A directory for temporary files, or of a cache, that cannot be made.
pub fn folder(path: &Path, cause: &std::io::Error, config: &Config, tree: &Tree) -> String {
    let names = |node: &Node| names_folder(&node.name.text) && config.prefix.join(node.arg(0)) == path;
    let message = format!("mkdir() \"{}\" failed {}", path.display(), Cause(cause));
    with_place(message, find(&tree.nodes, &names), tree)
}

/// True if the first argument of this directive is a directory for the workers' files.
fn names_folder(directive: &str) -> bool {
    directive.ends_with("_temp_path") || directive.ends_with("_cache_path")
}

/// An address that cannot be listened on.
pub fn address(listener: &Listener, call: &str, cause: &std::io::Error, tree: &Tree) -> String {
    with_place(format!("{call} to {} failed {}", listener.address, Cause(cause)), listener.span, tree)
}

/// An address with a parameter that a reload cannot change.
pub fn needs_restart(listener: &Listener, parameter: &str, tree: &Tree) -> String {
    let message = format!(
        "\"{parameter}\" of \"listen\" for {} cannot change while the address is served, restart instead of \
         reloading",
        listener.address
    );
    with_place(message, listener.span, tree)
}

/// The reason why no pid file can be at a path. Creates and opens nothing: the file may be the running
/// daemon's.
pub fn unusable_pid(path: &Path) -> Option<String> {
    let there = std::fs::symlink_metadata(path).map(|there| there.file_type());
    if there.is_ok_and(|kind| !kind.is_file() && !kind.is_symlink()) {
        return Some(format!("\"{}\" is not a regular file", path.display()));
    }
    let error = process::may_write(path.parent()?).err()?;
    Some(format!("open() \"{}\" failed {}", path.display(), Cause(&error)))
}

/// A warning for each log, pid file, folder of the workers' files or socket in a folder where the workers can replace it.
///
/// Root follows no link that a worker puts there, so the daemon would refuse to start, or a log would stay
/// closed.
pub fn exposed(config: &Config, tree: &Tree) -> Vec<String> {
    let Some(identity) = config.settings.user().filter(|identity| identity.uid != 0 && process::is_root())
    else {
        return Vec::new();
    };
    let mut told = Vec::new();
    let mut warnings = Vec::new();
    look(&tree.nodes, &mut |node| {
        let path = match &*node.name.text {
            "error_log" | "access_log" | "pid" | "control_state" => node.arg(0),
            "keyval_zone" => {
                node.args.iter().find_map(|word| word.text.strip_prefix("state=")).unwrap_or_default()
            }
            name if names_folder(name) => node.arg(0),
            "listen" | "control" => node.arg(0).strip_prefix("unix:").unwrap_or_default(),
            _ => return,
        };
        if path.is_empty() || path.contains(['$', ':']) || matches!(path, "off" | "stderr") {
            return;
        }
        let path = config.prefix.join(path);
        let Some(folder) = trusted::exposed_folder(&path, identity.uid, identity.gid) else { return };
        if told.contains(&folder) {
            return;
        }
        let message = format!(
            "the workers' user can replace \"{}\", since it can write to the folder \"{}\": a worker that is broken \
             into could keep this file from being opened; make the folder root's",
            path.display(),
            folder.display()
        );
        warnings.push(with_place(message, Some(node.span), tree));
        told.push(folder);
    });
    warnings
}

/// A pid file that cannot be written.
pub fn pid(why: String, tree: &Tree) -> String {
    with_place(why, find(&tree.nodes, &|node| &*node.name.text == "pid"), tree)
}

/// An upstream of which no server can be resolved any more.
pub fn upstream(server: &str, tree: &Tree) -> String {
    let names = |node: &Node| {
        let may_name = matches!(
            &*node.name.text,
            "server"
                | "proxy_pass"
                | "fastcgi_pass"
                | "uwsgi_pass"
                | "scgi_pass"
                | "memcached_pass"
                | "grpc_pass"
        );
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

fn look(nodes: &[Node], see: &mut dyn FnMut(&Node)) {
    for node in nodes {
        see(node);
        look(node.children(), see);
    }
}

fn find(nodes: &[Node], is_it: &dyn Fn(&Node) -> bool) -> Option<Span> {
    nodes.iter().find_map(|node| if is_it(node) { Some(node.span) } else { find(node.children(), is_it) })
}
