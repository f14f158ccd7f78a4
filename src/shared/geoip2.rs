//! The rows of variables out of MaxMind's databases (`geoip2`, `geoip2_proxy`, `geoip2_proxy_recursive`), for every language
//! part.
//!
//! The variables are in `script/geoip2.rs`. A file is read once for each configuration, by the process that reads that:
//! workers share its memory with the master, and a file that is changed or cut off later harms none of them.
//! Touches: the files. Behaviour: the third-party module ngx_http_geoip2_module 3.4, and its twin of `stream`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use crate::base::mmdb::{BYTES_MAX, Database};
use crate::base::network::Network;
use crate::base::number::parse_millis;
use crate::config::directive::{block, custom};
use crate::config::{Arity, Context, Diagnostic, Directive, Node, Word};
use crate::net::tls::watch::Kind;
use crate::script::geoip2::{Geoip2, Source, Trust};
use crate::script::variable::Definition;
use crate::shared::geoip::on_or_off;
use crate::shared::realip::read_networks;
use crate::shared::tls::Secured;
use crate::sys::{clock, file};

/// The databases while a configuration is read.
#[derive(Debug, Default)]
pub struct Draft {
    databases: Vec<(PathBuf, Arc<Source>)>,
    trust: Arc<OnceLock<Trust>>,
    proxies: Vec<Network>,
    is_recursive: Option<bool>,
}

/// A compile context of a language part that has such variables.
pub trait Declares: Secured {
    fn geoip2(&mut self) -> &mut Draft;
}

/// The state once everything is read: the variables know which proxies they trust.
#[derive(Debug)]
pub struct Settled;

/// Tells the variables which proxies to trust.
pub fn open(cx: &mut impl Declares) -> Settled {
    let Draft { trust, proxies, is_recursive, .. } = std::mem::take(cx.geoip2());
    let _ = trust.set(Trust { proxies, is_recursive: is_recursive.unwrap_or(false) });
    Settled
}

/// `geoip2`
#[rustfmt::skip]
pub const fn geoip2<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    block("geoip2", contexts, Arity::exactly(1), |_: &mut C, cx: &mut X, node| read(cx, node),
        "Creates variables whose values are looked up by the client's address in a database in MaxMind's format. An entry is a variable and the path of \
         its value, $country country iso_code; before the path may come default=, the value if there is none, and source=, a variable with the address. \
         The path metadata has build_epoch, last_check and last_change. With auto_reload new workers use a file that has changed.")
}

/// `geoip2_proxy`
#[rustfmt::skip]
pub const fn geoip2_proxy<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip2_proxy", contexts, Arity::exactly(1), |_: &mut C, cx: &mut X, node| proxy(cx, node),
        "Names a proxy (an address, a network, or a name) whose X-Forwarded-For tells geoip2 the client's address.")
}

/// `geoip2_proxy_recursive`
#[rustfmt::skip]
pub const fn geoip2_proxy_recursive<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip2_proxy_recursive", contexts, Arity::exactly(1), |_: &mut C, cx: &mut X, node| recursive(cx, node),
        "Looks up the last address in X-Forwarded-For that is not one of geoip2_proxy, instead of the last one.").default("off")
}

fn read<X: Declares>(cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let path = cx.prefix().join(node.arg(0));
    let known = cx.geoip2().databases.iter().find(|(known, _)| *known == path);
    if known.is_some() {
        let message = format!("duplicate geoip2 database \"{}\"", path.display());
        return Err(Diagnostic::error(node.arg_span(0), message));
    }
    let reloads = node.entries().any(|entry| entry.name.text == "auto_reload");
    if reloads {
        cx.pairs().add_trusted(path.clone(), Kind::Addresses);
    }
    let source = load(&path).map_err(|error| {
        let message = format!("MMDB_open(\"{}\") failed - {error}", path.display());
        Diagnostic::error(node.arg_span(0), message)
    })?;
    let source = Arc::new(source);
    let trust = cx.geoip2().trust.clone();
    cx.geoip2().databases.push((path, source.clone()));
    for entry in node.entries() {
        let outcome = if entry.name.text == "auto_reload" {
            match &entry.args[..] {
                [interval] if parse_millis(interval.text).is_some() => Ok(()),
                _ => Err(Diagnostic::error(entry.span, "invalid interval for auto_reload")),
            }
        } else {
            let word = Word { text: entry.name.text.into(), span: entry.name.span, quoted: false };
            Geoip2::read(&entry, &source, &trust, cx)
                .and_then(|variable| cx.variables().declare(&word, Definition::Geoip2(Box::new(variable))))
        };
        if let Err(diagnostic) = outcome {
            cx.diagnostics().push(diagnostic);
        }
    }
    Ok(())
}

/// Reads a database into memory. Errors: the file cannot be read, or is none.
pub fn load(path: &Path) -> Result<Source, String> {
    let (bytes, metadata) = file::read_regular(path, BYTES_MAX).map_err(|error| error.to_string())?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let changed_s = since.map_or(0, |since| since.as_secs());
    let database = Database::parse(bytes.into()).map_err(|error| error.to_string())?;
    Ok(Source { database, read_s: u64::try_from(clock::wall_seconds()).unwrap_or(0), changed_s })
}

fn proxy<X: Declares>(cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let (networks, warning) = read_networks(node, cx.names())?;
    warning.into_iter().for_each(|warning| cx.diagnostics().push(warning));
    cx.geoip2().proxies.extend(networks);
    Ok(())
}

fn recursive<X: Declares>(cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let is_recursive = on_or_off(node)?;
    match cx.geoip2().is_recursive.replace(is_recursive) {
        None => Ok(()),
        Some(_) => Err(crate::config::inherit::duplicate(node)),
    }
}
