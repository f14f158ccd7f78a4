//! Reading a whole configuration: from its files to what a master opens and a worker serves.
//!
//! Touches the file system while reading; opens nothing. Names are looked up by a process of their own, for which
//! a start waits, and the master's loop does not.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sha1::{Digest, Sha1};

use crate::config::load::{LoadOptions, load, load_text};
use crate::config::needs;
use crate::config::{Context, Diagnostic, Diagnostics, FileId, Node, Severity, Span, Tree, render};
use crate::cycle::Config;
use crate::cycle::settings::{self, NAMES_TIMEOUT_MS, Settings};
use crate::http;
use crate::log::{self, Lease, Logger, OpenError};
use crate::mail;
use crate::net::listener::Listener;
use crate::shared::CompileOptions;
use crate::stream;
use crate::sys::address::SockAddr;
use crate::sys::lookup::Lookup;
use crate::sys::names::{Answer, Names};
use crate::sys::signal::Blocked;
use crate::sys::{clock, terminal};
use crate::upstream::Group;

/// The source of a configuration: a file or built-in text, and what the command line adds.
#[derive(Clone, Debug)]
pub struct Source {
    /// Absolute, or relative to the prefix.
    pub path: PathBuf,
    pub prefix: PathBuf,
    /// `-g`.
    pub globals: Vec<String>,
    /// `-e`: the error log of a configuration that names none.
    pub error_log: Option<String>,
    /// The text itself, if it is in no file.
    pub embedded: Option<Embedded>,
    /// `-l`: the control socket, instead of the one that the configuration names.
    pub control: Option<String>,
}

/// A configuration that is in no file.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    pub text: &'static str,
    /// It is the demonstration that is built in; otherwise the command line stands for it.
    pub is_demo: bool,
}

/// The outcome of reading: the tree for messages, the findings, and the configuration unless there were errors.
pub struct Loaded {
    pub tree: Tree,
    pub diagnostics: Diagnostics,
    pub config: Option<Config>,
    /// The claim on the logs that it names.
    pub lease: Lease,
    pub names: Rc<Names>,
}

/// A configuration that is being read: the contents of its files, and the addresses of its names as far as
/// they are known.
pub struct Draft {
    tree: Tree,
    findings: Diagnostics,
    source: Source,
    test_only: bool,
    names: Rc<Names>,
    /// Deadline of all lookups of this reading, set when the first begins.
    deadline_ms: Option<u64>,
}

/// The progress of a reading.
pub enum Compiled {
    Done(Box<Loaded>),
    /// It continues once these names were looked up.
    Asks(Box<Draft>, Lookup),
}

/// The user of workers whose master is root, unless `user` says otherwise; nginx's default.
const DEFAULT_USER: &str = "nobody";

/// Names that one finding lists.
const NAMES_SHOWN_MAX: usize = 20;

/// Maximum number of errors and of warnings reported for one configuration; more do not help.
const FINDINGS_SHOWN_MAX: usize = 100;

/// `-e FILE` receives findings before the configuration's own log is open.
pub fn early_log(error_log: Option<&str>, prefix: &Path) -> Logger {
    match error_log {
        None | Some("stderr") => Logger::none(),
        Some(word) => open_early(word, prefix).unwrap_or_else(|error| {
            terminal::tell(format_args!("pronghorn: [alert] could not open error log file: {error}"));
            Logger::none()
        }),
    }
}

fn open_early(word: &str, prefix: &Path) -> Result<Logger, OpenError> {
    let names = Names::default();
    let outcome = log::early(word, prefix, &names);
    let asked = names.take_asked();
    if asked.is_empty() {
        return outcome;
    }
    let _ends_the_wait = Blocked::ending();
    let lookup = look_up(asked, clock::monotonic_ms() + NAMES_TIMEOUT_MS);
    names.learn(lookup.map_or_else(Vec::from, Lookup::wait));
    log::early(word, prefix, &names)
}

/// Starts to look names up. If that is impossible, every name counts as not found.
fn look_up(names: Vec<Box<str>>, deadline_ms: u64) -> Result<Lookup, Vec<(Box<str>, Answer)>> {
    Lookup::start(names.clone(), deadline_ms).map_err(|error| {
        log::alert!(log::process(), &(), "fork() failed while looking names up {}", log::Cause(&error));
        names.into_iter().map(|name| (name, Answer::NotFound)).collect()
    })
}

/// Reads the files without interpreting directives: no name is resolved, nothing is declared.
pub fn read_tree(source: &Source) -> (Tree, Diagnostics) {
    let options = LoadOptions {
        prefix: source.prefix.clone(),
        globals: source.globals.clone(),
        keep_includes: false,
        data_blocks: http::modules::DATA_BLOCKS,
    };
    match source.embedded {
        Some(Embedded { text, .. }) => load_text(&source.path.to_string_lossy(), text, &options),
        None => load(&source.path, &options),
    }
}

/// Reads and compiles, and waits for the names in it.
pub fn read(source: &Source, test_only: bool) -> Loaded {
    // A signal that arrives before the wait ends it at once, instead of being lost if the starter has it ignored.
    let _ends_the_wait = Blocked::ending();
    let mut draft = Draft::read(source, test_only);
    loop {
        match draft.compile() {
            Compiled::Done(loaded) => return *loaded,
            Compiled::Asks(asking, lookup) => {
                draft = *asking;
                draft.learn(lookup.wait());
            }
        }
    }
}

impl Draft {
    /// Reads the files, once: later changes are for the next reading.
    pub fn read(source: &Source, test_only: bool) -> Self {
        let (tree, findings) = read_tree(source);
        let (source, names) = (source.clone(), Rc::default());
        Self { tree, findings, source, test_only, names, deadline_ms: None }
    }

    /// Takes over the results of looking names up.
    pub fn learn(&mut self, answers: Vec<(Box<str>, Answer)>) {
        self.names.learn(answers);
    }

    /// Compiles the tree. If that needs names that were not looked up yet, starts their lookup and drops the
    /// result of this pass. One lookup may lead to another, but the deadline is one for all.
    pub fn compile(mut self) -> Compiled {
        loop {
            let pass = Pass::run(&self);
            let asked = self.names.take_asked();
            if asked.is_empty() {
                return Compiled::Done(Box::new(pass.loaded(self)));
            }
            let timeout_ms = pass.settings.names_timeout_ms();
            let until_ms = *self.deadline_ms.get_or_insert_with(|| clock::monotonic_ms() + timeout_ms);
            drop(pass);
            match look_up(asked, until_ms) {
                Ok(lookup) => return Compiled::Asks(Box::new(self), lookup),
                Err(answers) => self.names.learn(answers),
            }
        }
    }
}

/// One compilation of the tree.
struct Pass {
    settings: Settings,
    diagnostics: Diagnostics,
    http: Option<http::Config>,
    control: Option<http::Config>,
    stream: Option<stream::Config>,
    mail: Option<mail::Config>,
    lease: Lease,
}

impl Pass {
    fn run(draft: &Draft) -> Self {
        // A pass whose result is dropped must claim nothing.
        let lease = Lease::begin();
        let Draft { tree, source, .. } = draft;
        let main = source.prefix.join(&source.path);
        let compile = CompileOptions {
            prefix: source.prefix.clone(),
            folder: folder_of(&main),
            error_log: log::process(),
            names: draft.names.clone(),
            test_only: draft.test_only,
        };
        let mut cx = settings::Cx::new(compile.clone());
        let mut settings = Settings::default();
        // Set up the process's log before anything is compiled that may log.
        let (blocks, plain): (Vec<&Node>, _) =
            tree.nodes.iter().partition(|node| matches!(&*node.name.text, "http" | "stream" | "mail"));
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
        settings.or_error_log(error_log, &source.prefix, &draft.names);
        settings::table().apply_all(blocks.iter().copied(), Context::MAIN, &mut settings, &mut cx);
        let http_block = blocks.iter().find(|node| &*node.name.text == "http");
        if let (Some(node), true) = (http_block, cx.http.as_ref().is_some_and(|http| http.is_unlogged)) {
            let message =
                "requests are not logged: there is no \"access_log\", and the prefix has no folder \"logs\"";
            let warning = Diagnostic::warning(node.name.span, message);
            cx.diagnostics.push(warning.help("write where they go: access_log /var/log/nginx/access.log;"));
        }
        if let Err(why) = settings.or_user(DEFAULT_USER) {
            let missing = Diagnostic::error(file_start(tree, &main), why);
            cx.diagnostics.push(missing.help("name the user that the workers run as"));
        }
        if !cx.has_events() && !draft.findings.has_errors() && !cx.diagnostics.has_errors() {
            let missing =
                Diagnostic::error(file_start(tree, &main), "no \"events\" section in configuration");
            let missing = missing.help("add `events { }`");
            cx.diagnostics.push(missing);
        }
        if let Some(path) = &source.control
            && let Err(why) = settings.or_control(path)
        {
            cx.diagnostics.push(Diagnostic::global(format!("{why} in the option -l")));
        }
        let socket = settings.control_path(&source.prefix);
        let control = socket.map(|path| control_server(&path, &compile, &mut cx.diagnostics));
        let mut diagnostics = draft.findings.clone();
        let (http, stream, mail) = (cx.http.take(), cx.stream.take(), cx.mail.take());
        diagnostics.append(cx.diagnostics);
        let parts: [(&str, Vec<Listener>); 3] = [
            ("http", http.iter().flat_map(http::Config::listeners).collect()),
            ("stream", stream.iter().flat_map(stream::Config::listeners).collect()),
            ("mail", mail.iter().flat_map(mail::Config::listeners).collect()),
        ];
        diagnostics.0.extend(shared_addresses(&parts));
        let groups = http.iter().flat_map(|http| http.upstreams.iter());
        let groups = groups.chain(stream.iter().flat_map(|stream| stream.upstreams.iter()));
        diagnostics.0.extend(shared_states(groups, tree));
        Self { settings, diagnostics, http, stream, mail, control, lease }
    }

    /// The outcome of the reading.
    fn loaded(self, draft: Draft) -> Loaded {
        let Self { settings, mut diagnostics, http, stream, mail, control, lease } = self;
        let Draft { tree, source, names, .. } = draft;
        diagnostics.report_needs();
        needs::complete(&mut diagnostics, &tree);
        diagnostics.0.extend(unanswered(&names.silent(), settings.names_timeout_ms()));
        diagnostics.sort();
        diagnostics.cut(FINDINGS_SHOWN_MAX);
        let config = (!diagnostics.has_errors()).then(|| {
            let sources = if control.is_some() { tree.texts() } else { Vec::new() };
            let http = http.map(|http| http::Config { places: tree.places(), ..http });
            let stream = stream.map(|stream| stream::Config { places: tree.places(), ..stream });
            let control = control.map(|control| http::Config { is_control: true, sources, ..control });
            let mail = mail.map(|mail| mail::Config { places: tree.places(), ..mail });
            let config = Config::new(settings, http, control, source.prefix);
            let mut config = config.with_stream(stream).with_mail(mail);
            config.checksum = checksum(&tree);
            config
        });
        Loaded { tree, diagnostics, config, lease, names }
    }
}

/// Identifies the contents of a configuration's files, in their order.
fn checksum(tree: &Tree) -> u32 {
    let mut digest = Sha1::new();
    for source in &tree.sources {
        digest.update((source.text.len() as u64).to_le_bytes());
        digest.update(source.text.as_bytes());
    }
    let digest = digest.finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The HTTP server behind the control socket, whose configuration nobody writes.
fn control_server(path: &Path, options: &http::CompileOptions, out: &mut Diagnostics) -> http::Config {
    // The address is put in below: a path may contain anything.
    let text = "http { access_log off; server_tokens off; keepalive_timeout 5s; client_header_timeout 5s; \
                client_body_timeout 5s; send_timeout 5s; client_body_buffer_size 1m; client_max_body_size 1m; \
                server { listen unix:/; server_name control; location / { api write=on; } } }";
    let load = LoadOptions {
        prefix: options.prefix.clone(),
        globals: Vec::new(),
        keep_includes: false,
        data_blocks: http::modules::DATA_BLOCKS,
    };
    let (tree, mut found) = load_text("control", text, &load);
    let block = tree.nodes.first().expect("the text has a block");
    let mut config = http::compile(block, options, &mut found);
    // Its warnings are about lines that nobody has written.
    if found.has_errors() {
        out.append(found);
    }
    config.listens.iter_mut().for_each(|listen| listen.address = SockAddr::Unix(path.to_owned()));
    config
}

/// Addresses that several protocols listen on, which cannot be.
fn shared_addresses(parts: &[(&str, Vec<Listener>)]) -> Vec<Diagnostic> {
    let mut known = HashMap::new();
    let mut findings = Vec::new();
    for (part, listeners) in parts {
        for listener in listeners {
            let Some(other) = known.insert(&listener.address, part).filter(|other| *other != part) else {
                continue;
            };
            let message = format!("duplicate \"{}\" address and port pair", listener.address);
            let finding = Diagnostic::error(listener.span.unwrap_or_default(), message);
            findings.push(finding.help(format!("a server of the {other} block listens there already")));
        }
    }
    findings
}

/// State files that several upstreams name: each would undo the changes of the others.
fn shared_states<'a>(groups: impl Iterator<Item = &'a Group>, tree: &Tree) -> Vec<Diagnostic> {
    let mut known: HashMap<PathBuf, &Group> = HashMap::new();
    let mut findings = Vec::new();
    for group in groups {
        let Some(state) = &group.state else { continue };
        let Some(other) = known.insert(state.identity(), group) else { continue };
        let part = if other.part.is_empty() { "http" } else { other.part };
        let (path, name) = (state.path.display(), &other.name);
        let message = format!("\"{path}\" is the state of upstream \"{name}\" in \"{part}\" already");
        let place = other.state.as_ref().map(|state| tree.places().name(state.span)).unwrap_or_default();
        let help = format!("it is named in {place}: give each upstream a state file of its own");
        findings.push(Diagnostic::error(state.span, message).help(help));
    }
    findings
}

/// The names that got no answer in time, in one finding.
fn unanswered(names: &[Box<str>], timeout_ms: u64) -> Option<Diagnostic> {
    let shown = names.get(..names.len().min(NAMES_SHOWN_MAX)).filter(|shown| !shown.is_empty())?;
    let more = match names.len() - shown.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let message = format!(
        "no answer within {timeout_ms} ms (\"names_timeout\") for the names {}{more}",
        shown.join(", ")
    );
    let finding = Diagnostic { severity: Severity::Warning, ..Diagnostic::global(message) };
    Some(finding.help("check the name servers of this system, or allow them more time"))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

/// The start of the main file: the place of findings about lines that are missing.
fn file_start(tree: &Tree, main: &Path) -> Span {
    let file = tree.sources.iter().position(|file| file.path == main).unwrap_or(0);
    Span { file: FileId(file as u32), start: 0, end: 0 }
}

impl Loaded {
    /// Reports the findings: to a person with source lines, and each line to the early log.
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
