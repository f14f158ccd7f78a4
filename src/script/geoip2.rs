//! Variables out of a database of addresses in MaxMind's format (`geoip2`).
//!
//! The database is in memory since the configuration was read, before the workers were forked, so that all of them share
//! it. Touches: the scope's peer address, or a variable; what a proxy in front says of the client, where it is trusted.
//! Behaviour: the third-party module ngx_http_geoip2_module 3.4 (README, "Example Usage").

use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::base::mmdb::{Database, Value};
use crate::base::network::Network;
use crate::config::{Cell, Diagnostic, Entry};
use crate::net::address::parse_inet;
use crate::script::value::Script;
use crate::script::{Compile, Scope, nested};

/// A database file, and what is known of the file.
#[derive(Debug)]
pub struct Source {
    pub database: Database,
    /// When this process family read it, and when it was last changed then, in seconds since 1970.
    pub read_s: u64,
    pub changed_s: u64,
}

/// Proxies that are trusted to name the client, known once all of a block is read.
#[derive(Debug, Default)]
pub struct Trust {
    pub proxies: Vec<Network>,
    pub is_recursive: bool,
}

/// One variable of a `geoip2` block.
pub struct Geoip2<S> {
    name: Box<str>,
    source: Arc<Source>,
    /// `None`: the client's address.
    address: Option<Script<S>>,
    what: What,
    default: Option<Box<str>>,
    trust: Arc<OnceLock<Trust>>,
    slot: usize,
}

#[derive(Debug)]
enum What {
    /// The value at a path.
    Path(Box<[Box<str>]>),
    BuildEpoch,
    LastCheck,
    LastChange,
}

impl<S: Scope> Geoip2<S> {
    /// Reads an entry `$name [default=VALUE] [source=$variable] PATH…`, and declares nothing yet.
    pub fn read(
        entry: &Entry<'_>,
        source: &Arc<Source>,
        trust: &Arc<OnceLock<Trust>>,
        cx: &mut impl Compile<Scope = S>,
    ) -> Result<Self, Diagnostic> {
        let (mut address, mut default, mut path) = (None, None, Vec::<Box<str>>::new());
        for cell in &entry.args {
            match (cell.text.strip_prefix("source="), cell.text.strip_prefix("default=")) {
                (Some(text), _) if path.is_empty() && address.is_none() => {
                    address = Some(variable(text, cell, cx)?);
                }
                (_, Some(text)) if path.is_empty() && default.is_none() => default = Some(text.into()),
                _ => path.push(cell.text.into()),
            }
        }
        let words: Vec<&str> = path.iter().map(|word| &**word).collect();
        let what = match &words[..] {
            [] => {
                let message = "invalid number of the geoip2 parameters";
                return Err(Diagnostic::error(entry.span, message)
                    .help("an entry is a variable and the path of its value: $country country iso_code;"));
            }
            ["metadata", "build_epoch"] => What::BuildEpoch,
            ["metadata", "last_check"] => What::LastCheck,
            ["metadata", "last_change"] => What::LastChange,
            ["metadata", other, ..] => {
                let message = format!("unknown metadata \"{other}\"");
                return Err(Diagnostic::error(entry.span, message)
                    .help("there are build_epoch, last_check and last_change"));
            }
            _ => What::Path(path.into()),
        };
        let slot = cx.variables().new_slot();
        let (name, source, trust) =
            (entry.name.text.trim_start_matches('$').into(), source.clone(), trust.clone());
        Ok(Self { name, source, address, what, default, trust, slot })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends the value, and keeps it; false: the database has none, and there is no default.
    pub(super) fn evaluate(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        if let Some(kept) = scope.slot(self.slot) {
            out.extend_from_slice(kept);
            return true;
        }
        let start = out.len();
        if !self.find(scope, out) {
            let Some(default) = &self.default else { return false };
            out.extend_from_slice(default.as_bytes());
        }
        scope.set_slot(self.slot, out[start..].to_vec());
        true
    }

    fn find(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        let number = |number: u64, out: &mut Vec<u8>| {
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            true
        };
        match &self.what {
            What::BuildEpoch => number(self.source.database.build_epoch_s(), out),
            What::LastCheck => number(self.source.read_s, out),
            What::LastChange => number(self.source.changed_s, out),
            What::Path(path) => {
                let address = self.address(scope).map(|ip| ip.to_canonical());
                let value = address.and_then(|address| self.source.database.lookup(address, path));
                value.is_some_and(|value| put(value, out))
            }
        }
    }

    /// The address that is looked up; `None` for what is none.
    fn address(&'static self, scope: &mut S) -> Option<IpAddr> {
        if let Some(address) = &self.address {
            let text = nested(scope, &self.name, |scope| address.to_vec(scope));
            return Some(parse_inet(&text)?.ip());
        }
        let peer = scope.peer().ip();
        match self.trust.get() {
            Some(trust) if !trust.proxies.is_empty() => {
                scope.named_client(&trust.proxies, trust.is_recursive, peer).or(peer)
            }
            _ => peer,
        }
    }
}

/// The value of `source=`, which is a variable.
fn variable<S: Scope>(
    text: &str,
    cell: &Cell<'_>,
    cx: &mut impl Compile<Scope = S>,
) -> Result<Script<S>, Diagnostic> {
    let script = Script::compile_text(text, cell.span, cx)?;
    if !text.starts_with('$') || script.as_text().is_some() {
        return Err(Diagnostic::error(cell.span, format!("invalid variable name \"{text}\"")));
    }
    Ok(script)
}

/// Appends a value in the module's form.
fn put(value: Value<'_>, out: &mut Vec<u8>) -> bool {
    let written = match value {
        Value::Text(text) => out.write_all(text),
        Value::Double(number) => write!(out, "{number:.5}"),
        Value::Float(number) => write!(out, "{number:.5}"),
        Value::Unsigned(number) => write!(out, "{number}"),
        Value::Huge(number) => write!(out, "0x{number:032x}"),
        Value::Signed(number) => write!(out, "{number}"),
        Value::Bool(is_true) => write!(out, "{}", u8::from(is_true)),
    };
    written.is_ok()
}
