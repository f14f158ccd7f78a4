//! The settings of the response cache that every family has: `proxy_cache` and its relatives.
//!
//! Settings only; `proxy_cache_path` is read in `http/modules/cache.rs`.
//! Behaviour: nginx.org, ngx_http_proxy_module.

use crate::base::number::{parse_millis, parse_size};
use crate::config::inherit::replace;
use crate::config::{Diagnostic, Inherit, Node, Setting, Span, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::cache;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::proto::message::Method;
use crate::script::value;
use crate::upstream::{Fault, Faults};

/// The zone in which a location's responses are stored.
#[derive(Clone, Debug)]
pub enum Place {
    Off,
    /// Its index among the zones of the configuration.
    Zone(usize),
    /// Its name has variables.
    Named(Script),
}

/// `proxy_cache_key`, and the variables in it.
#[derive(Clone, Debug)]
struct Key {
    script: Script,
    names: Vec<Box<str>>,
}

/// How long responses with a status are valid that say nothing about it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Valid {
    /// `None`: any.
    status: Option<u16>,
    seconds: u64,
}

/// The statuses of a `proxy_cache_valid` that names none.
const USUAL_STATUSES: [u16; 3] = [200, 301, 302];

/// When an expired response is sent: the faults of upstreams, and while it is being updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UseStale {
    /// `None`: after none.
    faults: Option<Faults>,
    updating: bool,
    off: bool,
}

/// The words of `proxy_cache_methods`.
const METHODS: [(&str, Method); 3] = [("GET", Method::Get), ("HEAD", Method::Head), ("POST", Method::Post)];

settings! {
    #[derive(Debug)]
    pub struct Settings {
        place: Inherit<Place>,
        key: Inherit<Key>,
        valid: Vec<Valid> => replace,
        /// Whether POST is among them; GET and HEAD always are.
        posts: Inherit<bool>,
        pub min_uses: Setting<u64> = 1,
        bypass: Vec<Script> => replace,
        no_store: Vec<Script> => replace,
        purge: Vec<Script> => replace,
        use_stale: Inherit<UseStale>,
        pub background_update: Setting<bool> = false,
        pub lock: Setting<bool> = false,
        pub lock_timeout: Setting<u64> = 5000,
        pub lock_age: Setting<u64> = 5000,
        pub revalidate: Setting<bool> = false,
        pub convert_head: Setting<bool> = true,
        max_range_offset: Inherit<u64>,
    }
}

impl Settings {
    /// Where responses are stored; `None`: nowhere.
    #[inline]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref().filter(|place| !matches!(place, Place::Off))
    }

    /// Where that was written.
    pub fn place_span(&self) -> Option<Span> {
        self.place.span()
    }

    pub fn key(&self) -> Option<&Script> {
        self.key.as_ref().map(|key| &key.script)
    }

    /// True if the key names this variable.
    pub fn key_names(&self, variable: &str) -> bool {
        self.key.as_ref().is_some_and(|key| key.names.iter().any(|name| &**name == variable))
    }

    /// True if responses to this method are looked up and stored.
    pub fn takes(&self, method: Method) -> bool {
        method.is_get_or_head() || method == Method::Post && self.posts.get(false)
    }

    /// The seconds for which a response with this status is valid that does not say so itself; `None`: it is not
    /// stored.
    pub fn valid_s(&self, status: u16) -> Option<u64> {
        let rule = self.valid.iter().find(|rule| rule.status.is_none_or(|known| known == status));
        rule.map(|rule| rule.seconds).filter(|seconds| *seconds > 0)
    }

    /// True if an expired response is sent after this fault.
    pub fn is_stale_used_after(&self, fault: Fault) -> bool {
        self.use_stale
            .as_ref()
            .and_then(|use_stale| use_stale.faults)
            .is_some_and(|f| f.permits(fault, false))
    }

    /// True if an expired response is sent while another request updates it.
    pub fn is_stale_used_while_updating(&self) -> bool {
        self.use_stale.as_ref().is_some_and(|use_stale| use_stale.updating)
    }

    /// True if the response is not looked up (`proxy_cache_bypass`).
    pub fn is_bypassed(&self, request: &mut Request) -> bool {
        is_any_true(&self.bypass, request)
    }

    /// True if the response is not stored (`proxy_no_cache`).
    pub fn is_not_stored(&self, request: &mut Request) -> bool {
        is_any_true(&self.no_store, request)
    }

    /// True if the request removes a response (`proxy_cache_purge`).
    pub fn is_purge(&self, request: &mut Request) -> bool {
        is_any_true(&self.purge, request)
    }

    /// Ranges that begin here, or later, are asked of the upstream and not stored; `None`: there is no such limit.
    pub fn range_offset_max(&self) -> Option<u64> {
        self.max_range_offset.as_ref().copied()
    }
}

fn is_any_true(scripts: &[Script], request: &mut Request) -> bool {
    scripts.iter().any(|script| value::is_true(&script.to_vec(request)))
}

/// Reads `proxy_cache`.
pub fn place(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let place = match name {
        "off" => Place::Off,
        _ if value::has_variables(name) => Place::Named(Script::compile(&node.args[0], cx)?),
        _ => Place::Zone(cache::zone_of(cx, &node.args[0], node)?),
    };
    set.place.put(place, node)
}

/// Reads `proxy_cache_key`.
pub fn key(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let names = value::names(node.arg(0)).map(Into::into).collect();
    set.key.put(Key { script: Script::compile(&node.args[0], cx)?, names }, node)
}

/// Reads a line of `proxy_cache_valid`.
pub fn valid(set: &mut Settings, node: &Node) -> Result<(), Diagnostic> {
    let Some((last, statuses)) = node.args.split_last() else { return Ok(()) };
    let invalid = |index: usize, what: &str| {
        let word = &node.args[index];
        Diagnostic::error(word.span, format!("invalid {what} \"{}\"", word.text))
            .help("write statuses or any, and then a time: 200 302 10m")
    };
    let millis = parse_millis(&last.text).filter(|millis| millis % 1000 == 0);
    let seconds = millis.ok_or_else(|| invalid(statuses.len(), "time value"))? / 1000;
    if statuses.is_empty() {
        set.valid.extend(USUAL_STATUSES.map(|status| Valid { status: Some(status), seconds }));
    }
    for (index, word) in statuses.iter().enumerate() {
        let status = match &*word.text {
            "any" => None,
            text => Some(
                text.parse()
                    .ok()
                    .filter(|status| (100..=599).contains(status))
                    .ok_or_else(|| invalid(index, "status"))?,
            ),
        };
        set.valid.push(Valid { status, seconds });
    }
    Ok(())
}

/// Reads `proxy_cache_methods`.
pub fn methods(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let words: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
    let mut seen = [false; METHODS.len()];
    for index in 0..node.args.len() {
        let number = params::keyword(node, index, &words)?;
        if std::mem::replace(&mut seen[number], true) {
            cx.diagnostics.push(params::duplicate_value(node, index));
        }
    }
    let posts = METHODS.iter().zip(seen).any(|((_, method), seen)| seen && *method == Method::Post);
    set.posts.put(posts, node)
}

/// Reads the conditions of a directive.
pub fn conditions(list: &mut Vec<Script>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for word in &node.args {
        list.push(Script::compile(word, cx)?);
    }
    Ok(())
}

pub fn bypass(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conditions(&mut set.bypass, cx, node)
}

pub fn no_store(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conditions(&mut set.no_store, cx, node)
}

pub fn purge(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    // The directive of this name of a module for nginx takes addresses or a zone instead.
    if let Some(word) = node
        .args
        .iter()
        .find(|word| !value::has_variables(&word.text) && value::is_true(word.text.as_bytes()))
    {
        let message = format!("\"{}\" makes every request remove a response", word.text);
        let help = "write a variable: map $request_method $is_purge { PURGE 1; default 0; }";
        return Err(Diagnostic::error(word.span, message).help(help));
    }
    conditions(&mut set.purge, cx, node)
}

/// Reads a line of `proxy_cache_use_stale`; several form one list.
pub fn use_stale(set: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut all = set.use_stale.as_ref().copied().unwrap_or_default();
    for index in 0..node.args.len() {
        match node.arg(index) {
            "updating" if all.updating => cx.diagnostics.push(params::duplicate_value(node, index)),
            "updating" => all.updating = true,
            "off" => all.off = true,
            word => {
                let unknown = || Diagnostic::error(node.arg_span(index), format!("invalid value \"{word}\""));
                if matches!(word, "non_idempotent" | "denied") {
                    return Err(unknown());
                }
                let faults = Faults::parse(std::iter::once(word)).map_err(|_| unknown())?;
                if all.faults.is_some_and(|known| known.contains(faults)) {
                    cx.diagnostics.push(params::duplicate_value(node, index));
                }
                all.faults = Some(all.faults.map_or(faults, |known| known.and(faults)));
            }
        }
    }
    if all.off {
        all = UseStale { off: true, ..UseStale::default() };
    }
    set.use_stale = Inherit::default();
    set.use_stale.put(all, node)
}

/// Reads `proxy_cache_max_range_offset`.
pub fn max_range_offset(set: &mut Settings, node: &Node) -> Result<(), Diagnostic> {
    let offset = parse_size(node.arg(0))
        .ok_or_else(|| Diagnostic::error(node.arg_span(0), format!("invalid value \"{}\"", node.arg(0))))?;
    set.max_range_offset.put(offset, node)
}
