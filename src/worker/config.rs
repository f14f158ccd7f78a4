//! A whole configuration, compiled: what a master opens and a worker serves.
//!
//! Touches the file system while reading; opens nothing.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::load::{LoadOptions, load, load_text};
use crate::config::needs;
use crate::config::{Context, Diagnostic, Diagnostics, FileId, Node, RowInfo, Severity, Span, Tree, render};
use crate::http;
use crate::log::{self, Logger};
use crate::sys::terminal;
use crate::worker::settings::{self, Settings};

/// Where a configuration is read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Absolute, or relative to the prefix.
    pub path: PathBuf,
    pub prefix: PathBuf,
    /// `-g`.
    pub globals: Vec<String>,
    /// `-e`: the error log of a configuration that names none.
    pub error_log: Option<String>,
    /// The text itself, for the demonstration that is built in.
    pub embedded: Option<&'static str>,
}

/// A compiled configuration.
#[derive(Debug, Default)]
pub struct Config {
    pub settings: Settings,
    pub http: Option<http::Config>,
    pub prefix: PathBuf,
}

/// What reading came to: the tree for messages, the findings, and the configuration unless there were errors.
pub struct Loaded {
    pub tree: Tree,
    pub diagnostics: Diagnostics,
    pub config: Option<Config>,
}

/// Whom the workers of a master that is root become unless `user` says otherwise; nginx's default.
const DEFAULT_USER: &str = "nobody";

/// Errors and warnings told of one configuration: who sees more than that has another problem.
const FINDINGS_SHOWN_MAX: usize = 100;

/// `-e FILE` hears what goes wrong before the configuration's own log is open.
pub fn early_log(error_log: Option<&str>, prefix: &Path) -> Logger {
    match error_log {
        None | Some("stderr") => Logger::none(),
        Some(word) => log::early(word, prefix).unwrap_or_else(|error| {
            terminal::tell(format_args!("pronghorn: [alert] could not open error log file: {error}"));
            Logger::none()
        }),
    }
}

/// Reads, and looks at no directive's meaning: names are not resolved, nothing is declared.
pub fn read_tree(source: &Source) -> (Tree, Diagnostics) {
    let options = LoadOptions {
        prefix: source.prefix.clone(),
        globals: source.globals.clone(),
        keep_includes: false,
        data_blocks: http::modules::DATA_BLOCKS,
    };
    match source.embedded {
        Some(text) => load_text(&source.path.to_string_lossy(), text, &options),
        None => load(&source.path, &options),
    }
}

/// Reads and compiles. Everything it declares to the log belongs to the caller's lease.
pub fn read(source: &Source, test_only: bool) -> Loaded {
    let (tree, mut diagnostics) = read_tree(source);
    let main = source.prefix.join(&source.path);
    let compile = http::CompileOptions {
        prefix: source.prefix.clone(),
        folder: folder_of(&main),
        error_log: log::process(),
        test_only,
    };
    let mut cx = settings::Cx::new(compile);
    let mut settings = Settings::default();
    // What the process logs to is known before anything is compiled that may log.
    let (blocks, plain): (Vec<&Node>, _) = tree.nodes.iter().partition(|node| &*node.name.text == "http");
    settings::table().apply_all(plain, Context::MAIN, &mut settings, &mut cx);
    let error_log = match &source.error_log {
        Some(word) => word,
        None if source.embedded.is_some() => "stderr",
        None if settings::has_logs(&source.prefix) => "logs/error.log",
        None => "stderr",
    };
    if source.embedded.is_none() {
        settings.warn_of_missing_logs(source.error_log.is_some(), &source.prefix, &mut cx.diagnostics);
    }
    settings.or_error_log(error_log, &source.prefix);
    settings::table().apply_all(blocks.iter().copied(), Context::MAIN, &mut settings, &mut cx);
    if let (Some(node), true) = (blocks.first(), cx.http.as_ref().is_some_and(|http| http.is_unlogged)) {
        let message =
            "requests are not logged: there is no \"access_log\", and the prefix has no folder \"logs\"";
        let warning = Diagnostic::warning(node.name.span, message);
        cx.diagnostics.push(warning.help("write where they go: access_log /var/log/nginx/access.log;"));
    }
    if let Err(why) = settings.or_user(DEFAULT_USER) {
        let missing = Diagnostic::error(file_start(&tree, &main), why);
        cx.diagnostics.push(missing.help("name the user that the workers become"));
    }
    if !cx.has_events() && !diagnostics.has_errors() && !cx.diagnostics.has_errors() {
        let missing = Diagnostic::error(file_start(&tree, &main), "no \"events\" section in configuration");
        let missing = missing.help("add `events { }`");
        cx.diagnostics.push(missing);
    }
    diagnostics.append(cx.diagnostics);
    diagnostics.report_needs();
    needs::complete(&mut diagnostics, &tree);
    diagnostics.sort();
    diagnostics.cut(FINDINGS_SHOWN_MAX);
    let config = (!diagnostics.has_errors()).then(|| Config {
        settings,
        http: cx.http.take().map(|http| http::Config { places: tree.places(), ..http }),
        prefix: source.prefix.clone(),
    });
    Loaded { tree, diagnostics, config }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

/// The begin of the main file: the place of what the file should say and does not.
fn file_start(tree: &Tree, main: &Path) -> Span {
    let file = tree.sources.iter().position(|file| file.path == main).unwrap_or(0);
    Span { file: FileId(file as u32), start: 0, end: 0 }
}

/// The row of a directive in a block, of all parts of the language.
pub fn find_row(name: &str, context: Context) -> Option<RowInfo> {
    settings::table().find(name, context).or_else(|| http::modules::table().find(name, context)).cloned()
}

/// Every row, for the manual.
pub fn rows() -> impl Iterator<Item = &'static RowInfo> {
    settings::table().rows().chain(http::modules::table().rows())
}

impl Loaded {
    /// Tells what was found: to a person with source lines, and each line to the early log.
    pub fn report(&self, early: Logger, is_quiet: bool) {
        let mut shown = self.diagnostics.clone();
        if is_quiet {
            shown.0.retain(|diagnostic| diagnostic.severity == Severity::Error);
        }
        terminal::tell(render(&shown, &self.tree, render::wants_color(&io::stderr())));
        for (level, line) in self.lines() {
            log::at!(level, early, &(), "{line}");
        }
    }

    /// The findings as log lines: level word and message with its place.
    pub fn lines(&self) -> Vec<(log::Level, String)> {
        let level = |severity| match severity {
            Severity::Error => log::Level::Emerg,
            Severity::Warning => log::Level::Warn,
        };
        let line = |diagnostic: &Diagnostic| crate::config::render::line(diagnostic, &self.tree);
        self.diagnostics.0.iter().map(|diagnostic| (level(diagnostic.severity), line(diagnostic))).collect()
    }
}
