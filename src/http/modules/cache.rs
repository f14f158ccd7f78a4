//! The caches of the `http` block: `proxy_cache_path` and its like, and the zones by which other directives name them.
//!
//! A zone belongs to the family that declares it (`proxy_`, `fastcgi_`, `uwsgi_`, `scgi_`), and may be named before it is
//! declared. The rows are those of the families (`http/upstream/rows.rs`). Touches: memory by name in shared memory, once
//! all is read; the folders are made by the master.
//! Behaviour: nginx.org, `proxy_cache_path`.

use std::io;
use std::ops::Deref;
use std::path::PathBuf;

use crate::base::number::{parse_millis, parse_size, parse_u64};
use crate::cache::purge_file;
use crate::cache::status::Counts;
use crate::cache::zone::{LEVELS_MAX, Pace, Purger, Settings, Zone};
use crate::config::{Diagnostic, Node, Span, Word, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::log::Cause;
use crate::shm::cache_index::Index;
use crate::shm::cache_purges::Purges;
use crate::shm::named::{self, Used};

settings! {
    #[derive(Debug)]
    pub struct Conf {}
}

pub static DIRECTIVES: &[Directive<Conf>] = &[];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

/// nginx's least for a zone of keys: two pages.
const KEYS_BYTES_MIN: u64 = 8 * 1024;

/// nginx's `inactive`: ten minutes.
const INACTIVE_S: u64 = 600;

/// A zone that is used, or declared, or both.
struct Named {
    name: Box<str>,
    /// The prefix of its family's directives: `proxy`.
    family: Box<str>,
    declared: Option<Settings>,
    /// The first directive that uses it.
    used: Option<(Box<str>, Span)>,
}

/// The zones while the configuration is read.
#[derive(Default)]
pub struct Draft(Vec<Named>);

/// The caches, by the index that [`zone_of`] returns.
#[derive(Debug)]
pub struct Table {
    zones: Vec<Zone>,
    /// The families of the zones.
    families: Vec<Box<str>>,
}

impl Deref for Table {
    type Target = [Zone];

    fn deref(&self) -> &Self::Target {
        &self.zones
    }
}

impl Table {
    /// The zone that a request names by a variable; `family`: the prefix of the directive, `proxy`.
    pub fn find(&self, family: &str, name: &[u8]) -> Option<&Zone> {
        let of_family = self.zones.iter().zip(&self.families).filter(|(_, of)| &***of == family);
        of_family.map(|(zone, _)| zone).find(|zone| zone.name().as_bytes() == name)
    }

    /// The memory of the zones.
    pub fn used(&self) -> impl Iterator<Item = Used> {
        self.zones.iter().flat_map(|zone| {
            let index = Used { name: zone.id, bytes: zone.settings.keys_bytes };
            [index, Used { name: purges_id(&zone.settings), bytes: Purges::bytes() }]
        })
    }
}

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        let (mut zones, mut families) = (Vec::new(), Vec::new());
        let named = std::mem::take(&mut cx.drafts.cache).0;
        for Named { name, family, declared, used } in named {
            let Some(settings) = declared else {
                if let Some((directive, span)) = used {
                    cx.diagnostics.push(unknown(&directive, &name, &family, span));
                }
                continue;
            };
            zones.push(settings);
            families.push(family);
        }
        check_folders(&zones, cx);
        let is_test = cx.options.test_only || cx.diagnostics.has_errors();
        let zones = zones.into_iter().map(|settings| open(settings, is_test, cx)).collect();
        Self { zones, families }
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        zones.extend(self.used());
    }
}

/// A directory has the files of one cache and nothing else. nginx too refuses one that is named twice; one inside of
/// another it takes.
fn check_folders(zones: &[Settings], cx: &mut Cx) {
    for Settings { name, folder, .. } in zones {
        for (_, span) in cx.temp_paths.iter().filter(|(path, _)| path == folder) {
            let message = format!("the same path name \"{}\" used in the zone \"{name}\"", folder.display());
            let help =
                "temporary files need a directory of their own: all files in this one belong to the cache";
            cx.diagnostics.push(Diagnostic::error(*span, message).help(help));
        }
        for inner in zones.iter().filter(|inner| inner.folder != *folder && inner.folder.starts_with(folder))
        {
            let (path, span) = (inner.folder.display(), inner.span);
            let message = format!("\"{path}\" lies in the directory of the zone \"{name}\"");
            let help = "files of one cache may count as the other's: give each a directory beside the other";
            cx.diagnostics.push(Diagnostic::warning(span, message).help(help));
        }
    }
}

/// Counts a finished request, or subrequest, at its cache.
pub fn count(request: &mut Request) {
    let Some(state) = &request.proxied.cache else { return };
    let (Some(zone), Some(status)) = (state.zone, state.status) else { return };
    let bytes = match status.is_from_upstream() {
        true => request.upstream.attempts().last().map_or(0, |attempt| attempt.length),
        false => request.body_bytes_sent(),
    };
    zone.counts.count(status, bytes);
}

/// Maps the index of a zone. Its memory is the same after a reload unless something that matters to it has changed.
fn open(settings: Settings, is_test: bool, cx: &mut Cx) -> Zone {
    let Settings { name, folder, levels, keys_bytes, span, .. } = &settings;
    let id = named::name(&format!("cache {name} {keys_bytes} {levels:?} {}", folder.display()));
    let tables =
        || -> io::Result<_> { Ok((Index::open(id, *keys_bytes)?, Purges::open(purges_id(&settings))?)) };
    let tables = (!is_test).then(tables).transpose().unwrap_or_else(|error| {
        let message = format!("no memory for the zone \"{name}\" {}", Cause(&error));
        cx.diagnostics.push(Diagnostic::error(*span, message));
        None
    });
    let counts = if is_test { Counts::default() } else { Counts::open(name) };
    let (index, purges) = tables.unzip();
    if let Some(Err(error)) = purges.as_ref().map(|purges| purge_file::load(folder, purges)) {
        let message = format!("the purges in \"{}\" cannot be read {}", folder.display(), Cause(&error));
        let help = "what was purged with * and is still on the disk will be served: remove the directory";
        cx.diagnostics.push(Diagnostic::warning(*span, message).help(help));
    }
    Zone::new(settings, id, index, purges, counts)
}

/// The name of the memory of a cache's purges. It is the same whatever the size of its index.
fn purges_id(settings: &Settings) -> u64 {
    named::name(&format!("cache purges {} {}", settings.name, settings.folder.display()))
}

fn unknown(directive: &str, name: &str, family: &str, span: Span) -> Diagnostic {
    let message = format!("\"{directive}\" zone \"{name}\" is unknown");
    let help = format!("declare it in \"http\": {family}_cache_path PATH keys_zone={name}:10m;");
    Diagnostic::error(span, message).help(help)
}

/// The index, in [`Table`], of the zone that a directive such as `proxy_cache` names. It may be declared later; if it
/// is not, that is reported when everything is read.
///
/// Errors: the zone is another family's.
pub fn zone_of(cx: &mut Cx, name: &Word, node: &Node) -> Result<usize, Diagnostic> {
    let index = cx.drafts.cache.entry(family_of(node), &name.text, name.span)?;
    let used = &mut cx.drafts.cache.0[index].used;
    used.get_or_insert_with(|| ((*node.name.text).into(), name.span));
    Ok(index)
}

/// `proxy_cache_path`, `fastcgi_cache_path`, `uwsgi_cache_path`, `scgi_cache_path`
pub fn cache_path(cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let folder = cx.path(without_slash(node.arg(0)));
    let settings = read(node, folder)?;
    let folder = &settings.folder;
    let mut declared = cx.drafts.cache.0.iter().filter_map(|named| named.declared.as_ref());
    if let Some(other) = declared.find(|other| other.folder == *folder) {
        let message =
            format!("the same path name \"{}\" used in the zone \"{}\"", folder.display(), other.name);
        return Err(Diagnostic::error(node.arg_span(0), message)
            .help("each cache has a directory of its own; several locations may share one zone"));
    }
    let is_other =
        cx.drafts.limit_req.is_declared(&settings.name) || cx.drafts.limit_conn.is_declared(&settings.name);
    if is_other {
        return Err(crate::shared::zone::other_use(&settings.name, node));
    }
    cx.need_folder(&settings.folder);
    let index = cx.drafts.cache.entry(family_of(node), &settings.name, node.span)?;
    let there = &mut cx.drafts.cache.0[index].declared;
    if there.is_some() {
        return Err(Diagnostic::error(node.span, format!("duplicate zone \"{}\"", settings.name)));
    }
    *there = Some(settings);
    Ok(())
}

impl Draft {
    /// The index of a zone, which is added if it is new. Errors: another family has it.
    fn entry(&mut self, family: &str, name: &str, span: Span) -> Result<usize, Diagnostic> {
        if let Some(index) = self.0.iter().position(|named| *named.name == *name) {
            let owner = &self.0[index].family;
            if **owner == *family {
                return Ok(index);
            }
            let message =
                format!("the shared memory zone \"{name}\" is already declared for a different use");
            let help = format!("a zone of {owner}_cache_path serves {owner}_cache only");
            return Err(Diagnostic::error(span, message).help(help));
        }
        self.0.push(Named { name: name.into(), family: family.into(), declared: None, used: None });
        Ok(self.0.len() - 1)
    }
}

/// The prefix of a directive: `proxy` of `proxy_cache_path`.
fn family_of(node: &Node) -> &str {
    node.name.text.split('_').next().unwrap_or_default()
}

/// nginx compares paths without the slash at their end.
fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
}

/// Reads the parameters.
fn read(node: &Node, folder: PathBuf) -> Result<Settings, Diagnostic> {
    let mut settings = Settings {
        name: Box::default(),
        folder,
        levels: Vec::new(),
        uses_temp_path: true,
        keys_bytes: 0,
        inactive_s: INACTIVE_S,
        max_bytes: None,
        min_free_bytes: 0,
        manager: Pace::default(),
        loader: Pace::default(),
        purger: Purger::default(),
        span: node.span,
    };
    for word in &node.args[1..] {
        let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        let manager = &mut settings.manager;
        let loader = &mut settings.loader;
        let purger = &mut settings.purger;
        match name {
            _ if !word.text.contains('=') => return Err(invalid_parameter(word)),
            "levels" => settings.levels = levels(value).ok_or_else(|| invalid_levels(word))?,
            "use_temp_path" => settings.uses_temp_path = flag(word, name, value)?,
            "keys_zone" => (settings.name, settings.keys_bytes) = keys_zone(word, value)?,
            "inactive" => settings.inactive_s = seconds(word, name, value)?,
            "max_size" => settings.max_bytes = Some(bytes(word, name, value)?),
            "min_free" => settings.min_free_bytes = bytes(word, name, value)?,
            "manager_files" => manager.files = files(word, name, value)?,
            "manager_threshold" => manager.threshold_ms = millis(word, name, value)?,
            "manager_sleep" => manager.sleep_ms = millis(word, name, value)?,
            "loader_files" => loader.files = files(word, name, value)?,
            "loader_threshold" => loader.threshold_ms = millis(word, name, value)?,
            "loader_sleep" => loader.sleep_ms = millis(word, name, value)?,
            "purger" => purger.is_on = flag(word, name, value)?,
            "purger_files" => purger.pace.files = files(word, name, value)?,
            "purger_threshold" => purger.pace.threshold_ms = millis(word, name, value)?,
            "purger_sleep" => purger.pace.sleep_ms = millis(word, name, value)?,
            _ => return Err(invalid_parameter(word)),
        }
    }
    if settings.name.is_empty() || settings.keys_bytes == 0 {
        let message = format!("\"{}\" must have \"keys_zone\" parameter", node.name.text);
        let help = "write keys_zone=NAME:SIZE, such as keys_zone=pages:10m";
        return Err(Diagnostic::error(node.span, message).help(help));
    }
    Ok(settings)
}

/// Up to three levels of 1 or 2 digits: `1:2`. An empty text has none, as in nginx.
fn levels(text: &str) -> Option<Vec<usize>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let level = |text| match text {
        "1" => Some(1),
        "2" => Some(2),
        _ => None,
    };
    let levels: Vec<usize> = text.split(':').map(level).collect::<Option<_>>()?;
    (levels.len() <= LEVELS_MAX).then_some(levels)
}

fn invalid_levels(word: &Word) -> Diagnostic {
    Diagnostic::error(word.span, format!("invalid \"levels\" \"{}\"", word.text))
        .help("write one to three numbers of digits, each 1 or 2: levels=1:2")
}

/// `NAME:SIZE`
fn keys_zone(word: &Word, value: &str) -> Result<(Box<str>, usize), Diagnostic> {
    let parsed = value.split_once(':').and_then(|(name, size)| Some((name, parse_size(size)?)));
    let Some((name, bytes)) = parsed else {
        let message = format!("invalid keys zone size \"{}\"", word.text);
        let help = "write keys_zone=NAME:SIZE, such as keys_zone=pages:10m";
        return Err(Diagnostic::error(word.span, message).help(help));
    };
    if bytes < KEYS_BYTES_MIN {
        let message = format!("keys zone \"{}\" is too small", word.text);
        return Err(Diagnostic::error(word.span, message).help("a zone has 8k or more"));
    }
    // The address space of a process has 47 bits.
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes < 1 << 47);
    bytes.map(|bytes| (name.into(), bytes)).ok_or_else(|| {
        let message = format!("invalid keys zone size \"{}\"", word.text);
        Diagnostic::error(word.span, message).help("no memory is so large")
    })
}

fn flag(word: &Word, name: &str, value: &str) -> Result<bool, Diagnostic> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => {
            let message = format!("invalid {name} value \"{}\", it must be \"on\" or \"off\"", word.text);
            Err(Diagnostic::error(word.span, message))
        }
    }
}

/// Whole seconds, as nginx reads them: `10m`, `1h 30m`.
fn seconds(word: &Word, name: &str, value: &str) -> Result<u64, Diagnostic> {
    let parsed = parse_millis(value).filter(|_| !value.contains("ms")).map(|ms| ms / 1000);
    parsed.ok_or_else(|| invalid(word, name, "a time is seconds, or numbers with units: 30s, 10m, 1d"))
}

fn millis(word: &Word, name: &str, value: &str) -> Result<u64, Diagnostic> {
    let help = "a time is seconds, or numbers with units: 500ms, 30s";
    parse_millis(value).ok_or_else(|| invalid(word, name, help))
}

fn bytes(word: &Word, name: &str, value: &str) -> Result<u64, Diagnostic> {
    let help = "a size is a number of bytes, or ends in k, m or g: 512m, 10g";
    parse_size(value).ok_or_else(|| invalid(word, name, help))
}

fn files(word: &Word, name: &str, value: &str) -> Result<u64, Diagnostic> {
    parse_u64(value.as_bytes()).ok_or_else(|| invalid(word, name, "it is a number of files"))
}

fn invalid(word: &Word, name: &str, help: &str) -> Diagnostic {
    Diagnostic::error(word.span, format!("invalid {name} value \"{}\"", word.text)).help(help)
}

fn invalid_parameter(word: &Word) -> Diagnostic {
    const NAMES: &[&str] = &[
        "levels=",
        "use_temp_path=",
        "keys_zone=",
        "inactive=",
        "max_size=",
        "min_free=",
        "manager_files=",
        "manager_sleep=",
        "manager_threshold=",
        "loader_files=",
        "loader_sleep=",
        "loader_threshold=",
        "purger=",
        "purger_files=",
        "purger_sleep=",
        "purger_threshold=",
    ];
    params::invalid_parameter(word, NAMES)
}
