//! The command line: nginx's short flags, which may be combined, and long options of our own.
//!
//! Output and exit codes of nginx's flags are the same to the byte wherever scripts may depend on them
//! (`pronghorn(8)`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lexopt::Arg;
use serde::Serialize;

use crate::config::needs::Total;
use crate::config::{self, Severity, Span, Tree, convert, render};
use crate::cycle::{self, Config, Embedded, Loaded, Source, default_pid};
use crate::log;
use crate::master::{pid, problem};
use crate::net::tls::watch;
use crate::sys::{clock, memory, process, signal, socket, terminal};
use crate::{ctl, top};

/// The built-in demonstration configuration.
pub const DEMO: &str = include_str!("../conf/demo.conf");

/// The default prefix, which `-p` overrides; `PRONGHORN_PREFIX` in the environment of the build sets it.
const PREFIX: &str = match option_env!("PRONGHORN_PREFIX") {
    Some(prefix) => prefix,
    None => "/etc/pronghorn/",
};

const HELP: &str = "\
Usage: pronghorn [-?hvVtTq] [-s signal] [-p prefix] [-e filename] [-c filename] [-g directives] [-l socket]
       pronghorn [-p prefix] [-c filename] ctl command
       pronghorn [-p prefix] [-c filename] top

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and built-in prefix then exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
  -s signal     : send signal to a master process: stop, quit, reopen, reload
  -p prefix     : set prefix path (default: PREFIX)
  -e filename   : set error log file (default: logs/error.log)
  -c filename   : set configuration file (default: pronghorn.conf, else pronghorn.toml, else a demonstration)
  -g directives : set global directives out of configuration file
  -l socket     : open this control socket (unix:path)

  --effective   : with -T: print the settings in force in each block, and where they were set
  --resources   : with -t: print the open files and the memory that the configuration may need
  --format=json : with -t: print the findings and these needs as JSON
  --strict      : with -t: treat warnings as errors
  --convert file: print a configuration in the other syntax, TOML or nginx's
  --listen port : balance TCP connections to this port or address, which may be repeated,
  --upstream address: between these servers; prints the configuration that this stands for
  --pid-path    : print the path of the pid file, even if the configuration has errors

  ctl command   : show and change what runs, through the control socket; see pronghorn ctl help
  top           : show traffic, latencies, processes and upstreams in the terminal
";

/// The task that the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Serve,
    Help,
    Version { long: bool },
    Test,
    Dump,
    Signal(i32),
    Convert,
    PidPath,
    Ctl,
    Top,
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub action: Action,
    pub conf: Option<PathBuf>,
    pub prefix: PathBuf,
    pub error_log: Option<String>,
    pub globals: Vec<String>,
    /// `-l`: the control socket.
    pub control: Option<String>,
    /// The configuration that `--listen` and `--upstream` stand for.
    balancer: Option<&'static str>,
    /// The words after `ctl`.
    pub words: Vec<String>,
    pub quiet: bool,
    effective: bool,
    resources: bool,
    json: bool,
    strict: bool,
}

impl Options {
    /// Parses arguments, without the program's name. Errors: in nginx's words.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self {
            action: Action::Serve,
            conf: None,
            prefix: PREFIX.into(),
            error_log: None,
            globals: Vec::new(),
            control: None,
            balancer: None,
            words: Vec::new(),
            quiet: false,
            effective: false,
            resources: false,
            json: false,
            strict: false,
        };
        let (mut listens, mut upstreams) = (Vec::new(), Vec::new());
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next().map_err(|error| format!("invalid option: {error}"))? {
            match argument {
                Arg::Short('?' | 'h') | Arg::Long("help") => options.action = Action::Help,
                Arg::Short('v') => options.action = Action::Version { long: false },
                Arg::Short('V') | Arg::Long("version") => options.action = Action::Version { long: true },
                Arg::Short('t') if options.action == Action::Dump => {}
                Arg::Short('t') => options.action = Action::Test,
                Arg::Short('T') => options.action = Action::Dump,
                Arg::Short('q') => options.quiet = true,
                Arg::Short('s') => options.action = Action::Signal(signal_number(&text(&mut parser, "-s")?)?),
                Arg::Short('p') => options.prefix = absolute(&text(&mut parser, "-p")?),
                Arg::Short('c') => options.conf = Some(text(&mut parser, "-c")?.into()),
                Arg::Short('e') => options.error_log = Some(text(&mut parser, "-e")?),
                Arg::Short('g') => options.globals.push(text(&mut parser, "-g")?),
                Arg::Short('l') => options.control = Some(text(&mut parser, "-l")?),
                Arg::Long("effective") => options.effective = true,
                Arg::Long("resources") => options.resources = true,
                Arg::Long("strict") => options.strict = true,
                Arg::Long("format") => match &*text(&mut parser, "--format")? {
                    "json" => options.json = true,
                    "text" => options.json = false,
                    other => return Err(format!("invalid option: \"--format={other}\": json or text")),
                },
                Arg::Long("convert") => {
                    options.action = Action::Convert;
                    options.conf = Some(text(&mut parser, "--convert")?.into());
                }
                Arg::Long("listen") => listens.push(word(&mut parser, "--listen")?),
                Arg::Long("upstream") => upstreams.push(word(&mut parser, "--upstream")?),
                Arg::Long("pid-path") => options.action = Action::PidPath,
                Arg::Value(value) if value == "ctl" || value == "top" => {
                    options.action = if value == "ctl" { Action::Ctl } else { Action::Top };
                    let words = parser.raw_args().map_err(|error| format!("invalid option: {error}"))?;
                    let words = words
                        .map(|word| word.into_string().map_err(|_| "invalid option: not UTF-8".to_owned()));
                    options.words = words.collect::<Result<_, _>>()?;
                }
                Arg::Short(flag) => return Err(format!("invalid option: \"{flag}\"")),
                Arg::Long(name) => return Err(format!("invalid option: \"--{name}\"")),
                Arg::Value(value) => return Err(format!("invalid option: \"{}\"", value.to_string_lossy())),
            }
        }
        options.balancer = balancer(&listens, &upstreams)?;
        Ok(options)
    }

    /// The configuration to read: the file named by `-c`, else the default one, else the demonstration.
    pub fn source(&self) -> Source {
        if let Some(text) = self.balancer {
            return Source {
                path: "command-line.conf".into(),
                prefix: std::env::temp_dir(),
                globals: self.globals.clone(),
                error_log: self.error_log.clone(),
                embedded: Some(Embedded { text, is_demo: false }),
                control: self.control.clone(),
            };
        }
        let path = match &self.conf {
            Some(path) => path.clone(),
            None => ["pronghorn.conf", "pronghorn.toml"]
                .into_iter()
                .map(PathBuf::from)
                .find(|name| self.prefix.join(name).exists())
                .unwrap_or_else(|| "pronghorn.conf".into()),
        };
        let is_missing =
            self.conf.is_none() && self.prefix == Path::new(PREFIX) && !self.prefix.join(&path).exists();
        Source {
            path: if is_missing { "demo.conf".into() } else { path },
            prefix: if is_missing { std::env::temp_dir() } else { self.prefix.clone() },
            globals: self.globals.clone(),
            error_log: self.error_log.clone(),
            embedded: is_missing.then_some(Embedded { text: DEMO, is_demo: true }),
            control: self.control.clone(),
        }
    }
}

fn text(parser: &mut lexopt::Parser, option: &str) -> Result<String, String> {
    let value = parser.value().map_err(|_| format!("option \"{option}\" requires an argument"))?;
    value
        .into_string()
        .map_err(|value| format!("option \"{option}\": \"{}\" is not UTF-8", value.to_string_lossy()))
}

/// A value that becomes a word of a configuration.
fn word(parser: &mut lexopt::Parser, option: &str) -> Result<String, String> {
    let word = text(parser, option)?;
    let is_bad =
        |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"\"'\\;{}$#".contains(&byte);
    if word.is_empty() || word.bytes().any(is_bad) {
        return Err(format!("invalid option: \"{option} {word}\": write an address and a port"));
    }
    Ok(word)
}

/// The configuration that balances TCP connections to these addresses between these servers.
fn balancer(listens: &[String], upstreams: &[String]) -> Result<Option<&'static str>, String> {
    match (listens, upstreams) {
        ([], []) => return Ok(None),
        ([], _) => return Err("option \"--upstream\" requires \"--listen\"".to_owned()),
        (_, []) => return Err("option \"--listen\" requires \"--upstream\"".to_owned()),
        _ => {}
    }
    let lines = |name: &str, words: &[String]| -> String {
        words.iter().map(|word| format!("        {name} {word};\n")).collect()
    };
    let (listens, servers) = (lines("listen", listens), lines("server", upstreams));
    let text = format!(
        "daemon off;\nworker_processes auto;\nerror_log stderr notice;\n\nevents {{\n    worker_connections 4096;\n}}\n\n\
         stream {{\n    upstream servers {{\n        zone servers 64k;\n{servers}    }}\n\n    server {{\n{listens}        \
         proxy_pass servers;\n    }}\n}}\n"
    );
    Ok(Some(Box::leak(text.into_boxed_str())))
}

fn signal_number(name: &str) -> Result<i32, String> {
    Ok(match name {
        "stop" => nix::libc::SIGTERM,
        "quit" => nix::libc::SIGQUIT,
        "reopen" => nix::libc::SIGUSR1,
        "reload" => nix::libc::SIGHUP,
        _ => return Err(format!("invalid option: \"-s {name}\": stop, quit, reopen or reload")),
    })
}

fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Runs the actions that need no daemon, and returns the exit code. `None`: start the daemon.
pub fn run(options: &Options) -> Option<i32> {
    match options.action {
        Action::Serve => {
            options.balancer.iter().for_each(terminal::show);
            None
        }
        Action::Help => {
            terminal::tell(format_args!("pronghorn version: pronghorn/{}", env!("CARGO_PKG_VERSION")));
            terminal::tell(HELP.replace("PREFIX", PREFIX));
            Some(0)
        }
        Action::Version { long } => {
            terminal::tell(format_args!("pronghorn version: pronghorn/{}", env!("CARGO_PKG_VERSION")));
            if long {
                terminal::tell(format_args!("prefix: {PREFIX}"));
            }
            Some(0)
        }
        Action::Test | Action::Dump => Some(test(options)),
        Action::Signal(nix::libc::SIGHUP) => {
            let socket = control_path(options);
            // Without a socket, or if nobody is there, the signal says nothing about the outcome.
            Some(
                socket
                    .and_then(|socket| ctl::reload(&socket))
                    .unwrap_or_else(|| send(options, nix::libc::SIGHUP)),
            )
        }
        Action::Signal(number) => Some(send(options, number)),
        Action::Ctl => Some(ctl::run(&options.words, control_path(options))),
        Action::Top => Some(top::run(&options.words, control_path(options))),
        Action::Convert => Some(convert(options)),
        Action::PidPath => {
            terminal::show(pid_path(options).display());
            Some(0)
        }
    }
}

fn test(options: &Options) -> i32 {
    let source = options.source();
    let path = source.prefix.join(&source.path);
    signal::survive(nix::libc::SIGXFSZ);
    if let Err(error) = crate::shm::open(None) {
        let why = problem::shared_memory(&error);
        if options.json {
            let finding = Finding { severity: "error", message: &why, place: None, help: None };
            show_json(&Report { ok: false, findings: vec![finding], needs: Vec::new(), resources: None });
        } else {
            terminal::tell(format_args!("pronghorn: [emerg] {why}"));
        }
        terminal::tell(format_args!("pronghorn: configuration file {} test failed", path.display()));
        return 1;
    }
    let early = cycle::early_log(options.error_log.as_deref(), &options.prefix);
    let loaded = cycle::read(&source, true);
    let is_refused = options.strict && !loaded.diagnostics.0.is_empty();
    let mut is_good = loaded.config.is_some() && !is_refused;
    if !options.json {
        loaded.report(early, options.quiet);
    }
    if !options.json && !options.quiet {
        terminal::tell(summary(&loaded));
    }
    if loaded.config.is_some() && !options.quiet {
        terminal::tell(format_args!("pronghorn: the configuration file {} syntax is ok", path.display()));
    }
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    if let Some(config) = &loaded.config {
        warnings = problem::exposed(config, &loaded.tree);
        let unopened = loaded.lease.open(config.owner()).err().unwrap_or_default();
        problems.extend(unopened.iter().map(|error| problem::log(error, config, &loaded.tree)));
        problems.extend(unusable_addresses(config, &loaded.tree));
        problems.extend(equal_paths(config, &loaded.tree));
        problems.extend(unusable_pid(config, &loaded.tree));
    }
    is_good &= problems.is_empty() && (warnings.is_empty() || !options.strict);
    // These come and go with time: a configuration is not worse for them.
    let endings = loaded.config.iter().flat_map(|config| config.endings(clock::wall_seconds()));
    warnings.extend(endings.map(|ending| ending.text));
    let resources = loaded.config.as_ref().map(Resources::of);
    warnings.extend(resources.iter().flat_map(|resources| resources.warnings.iter().cloned()));
    if options.json {
        print_json(&loaded, (&problems, &warnings), resources.as_ref(), is_good);
    } else {
        if let Some(resources) = resources.filter(|_| options.resources) {
            resources.lines.iter().for_each(|line| terminal::tell(format_args!("pronghorn: {line}")));
        }
        if !options.quiet {
            warnings.iter().for_each(|warning| terminal::tell(format_args!("pronghorn: [warn] {warning}")));
        }
        problems.iter().for_each(|problem| terminal::tell(format_args!("pronghorn: [emerg] {problem}")));
    }
    if !is_good {
        terminal::tell(format_args!("pronghorn: configuration file {} test failed", path.display()));
        return 1;
    }
    if !options.quiet {
        terminal::tell(format_args!("pronghorn: configuration file {} test is successful", path.display()));
    }
    if options.action == Action::Dump {
        let text = if options.effective {
            let ends = loaded.config.as_ref().map(ends).unwrap_or_default();
            config::effective(&loaded.tree, &cycle::find_row, &|span| ends.get(&span).cloned()).into_bytes()
        } else {
            config::dump(&loaded.tree)
        };
        return i32::from(io::stdout().write_all(&text).is_err());
    }
    0
}

/// A table of the features that the configuration needs and that are not available; empty if there are none.
fn summary(loaded: &Loaded) -> String {
    let totals = loaded.diagnostics.1.totals(&loaded.tree);
    if totals.is_empty() {
        return String::new();
    }
    let width = totals.iter().map(|total| total.name.len()).max().unwrap_or(0);
    let mut out = "pronghorn: this configuration needs features that are not available yet:\n".to_owned();
    for Total { name, lines, servers, first } in totals {
        let plural =
            |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let lines = plural(lines, "line");
        let servers = if servers > 0 { format!(" in {}", plural(servers, "server")) } else { String::new() };
        let place = loaded.tree.place(first);
        let place = place.map(|at| format!(", {}:{}", at.path.display(), at.line)).unwrap_or_default();
        out += &format!("  {name:width$}  {lines}{servers}{place}\n");
    }
    out
}

/// When certificates expire, by the places of their names.
fn ends(config: &Config) -> HashMap<Span, String> {
    let mut ends = HashMap::new();
    for (index, pair) in config.certificates().iter().enumerate() {
        let Some(certificate) = config.certificate(index) else { continue };
        let (date, names) = (watch::date(certificate.not_after_s()), watch::names(&certificate));
        let text = match certificate.is_pending() {
            true => "has not been obtained yet".to_owned(),
            false => format!("expires on {date} ({names})"),
        };
        ends.extend(pair.spans.iter().map(|span| (*span, text.clone())));
    }
    ends
}

/// Finds addresses that cannot be bound. An address in use is no problem: the running daemon uses it.
fn unusable_addresses(config: &Config, tree: &Tree) -> Vec<String> {
    let failed = config.listeners().iter().filter_map(|listener| {
        let error = socket::probe(&listener.address).err()?;
        let is_in_use = error.kind() == io::ErrorKind::AddrInUse;
        (!is_in_use).then(|| problem::address(listener, "bind()", &error, tree))
    });
    failed.collect()
}

/// Finds unix sockets whose different paths name the same file.
fn equal_paths(config: &Config, tree: &Tree) -> Vec<String> {
    let mut known = Vec::new();
    let repeated = config.listeners().iter().filter(|listener| {
        let Some(path) = listener.address.path() else { return false };
        let folder = path.parent().map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.into()));
        let file = (folder, path.file_name());
        let is_known = known.contains(&file);
        known.push(file);
        is_known
    });
    let in_use = io::Error::from_raw_os_error(nix::libc::EADDRINUSE);
    repeated.map(|listener| problem::address(listener, "bind()", &in_use, tree)).collect()
}

/// Checks the path of the pid file. The file itself is not touched, since it belongs to the running daemon.
fn unusable_pid(config: &Config, tree: &Tree) -> Option<String> {
    let path = config.settings.pid(&config.prefix);
    problem::unusable_pid(&path).map(|why| problem::pid(why, tree))
}

/// The output of `--format=json`.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    findings: Vec<Finding<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needs: Vec<Needed>,
    /// The resources that it may need; absent if it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<&'a Resources>,
}

/// The resources that a configuration may need of the system.
#[derive(Serialize)]
struct Resources {
    /// Of one worker, and how many that may have.
    open_files: u64,
    open_files_limit: u64,
    /// In bytes, of all processes together.
    memory: u64,
    /// Of the machine, or the control group; absent if it is unknown.
    memory_limit: Option<u64>,
    #[serde(skip)]
    lines: [String; 2],
    #[serde(skip)]
    warnings: Vec<String>,
}

impl Resources {
    fn of(config: &Config) -> Self {
        let open = process::open_files();
        let open_files_limit = config.settings.worker_rlimit_nofile().unwrap_or_else(process::nofile_max);
        let open_files = config.files_needed(open);
        let (need, limit) = (config.memory_needed(memory::own_bytes()), memory::limit());
        let lacks = limit.and_then(|limit| need.missing(limit));
        Self {
            open_files,
            open_files_limit,
            memory: need.total(),
            memory_limit: limit.map(|limit| limit.bytes),
            lines: [
                format!("a worker may need {open_files} open files, and may have {open_files_limit}"),
                match limit {
                    Some(limit) => format!("{need}, of {}", cycle::Shown(limit)),
                    None => need.to_string(),
                },
            ],
            warnings: config.files_missing(open_files_limit, open).into_iter().chain(lacks).collect(),
        }
    }
}

/// A feature that the configuration needs and that is not available.
#[derive(Serialize)]
struct Needed {
    name: &'static str,
    lines: usize,
    servers: usize,
    /// `file:line:column` of the first line that would use it.
    place: Option<String>,
}

#[derive(Serialize)]
struct Finding<'a> {
    /// `error` or `warning`.
    severity: &'static str,
    message: &'a str,
    /// `file:line:column`; absent for files and addresses that could not be opened.
    place: Option<String>,
    help: Option<&'a str>,
}

/// Prints the findings, and the files and addresses that could not be opened.
fn print_json(
    loaded: &Loaded,
    (problems, warnings): (&[String], &[String]),
    resources: Option<&Resources>,
    is_good: bool,
) {
    let place =
        |span| loaded.tree.place(span).map(|at| format!("{}:{}:{}", at.path.display(), at.line, at.column));
    let found = loaded.diagnostics.0.iter().map(|diagnostic| Finding {
        severity: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        message: &diagnostic.message,
        place: diagnostic.span.and_then(place),
        help: diagnostic.help.as_deref(),
    });
    let errors = problems.iter().map(|message| ("error", message));
    let opened = errors
        .chain(warnings.iter().map(|message| ("warning", message)))
        .map(|(severity, message)| Finding { severity, message, place: None, help: None });
    let needed = |Total { name, lines, servers, first }| Needed { name, lines, servers, place: place(first) };
    let needs = loaded.diagnostics.1.totals(&loaded.tree).into_iter().map(needed).collect();
    show_json(&Report { ok: is_good, findings: found.chain(opened).collect(), needs, resources });
}

fn show_json(report: &Report) {
    terminal::show(serde_json::to_string(report).unwrap_or_default());
}

/// The path of the pid file, found even in a broken configuration. No host names are looked up, so that `-s
/// stop` does not wait for a resolver.
fn pid_path(options: &Options) -> PathBuf {
    let source = options.source();
    let (tree, _) = cycle::read_tree(&source);
    let named = tree.nodes.iter().rfind(|node| &*node.name.text == "pid").map(|node| node.arg(0));
    named.map_or_else(|| default_pid(&source.prefix), |path| source.prefix.join(path))
}

/// The path of the control socket, found like that of the pid file.
fn control_path(options: &Options) -> Option<PathBuf> {
    let source = options.source();
    let word = match &options.control {
        Some(word) => word.clone(),
        None => {
            let (tree, _) = cycle::read_tree(&source);
            tree.nodes
                .iter()
                .rfind(|node| &*node.name.text == "control")
                .map(|node| node.arg(0).to_owned())?
        }
    };
    Some(source.prefix.join(word.strip_prefix("unix:").unwrap_or(&word)))
}

/// Sends a signal to the process named in the pid file.
fn send(options: &Options, number: i32) -> i32 {
    let path = pid_path(options);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            terminal::tell(format_args!(
                "pronghorn: [error] open() \"{}\" failed {}",
                path.display(),
                log::Cause(&error)
            ));
            return 1;
        }
    };
    let Some(pid) = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0) else {
        terminal::tell(format_args!(
            "pronghorn: [error] invalid PID number \"{}\" in \"{}\"",
            text.trim(),
            path.display()
        ));
        return 1;
    };
    if pid::is_left_behind(&path, pid) {
        terminal::tell(format_args!(
            "pronghorn: [error] process {pid} of \"{}\" is no longer pronghorn",
            path.display()
        ));
        return 1;
    }
    match signal::send(pid, number) {
        Ok(()) => 0,
        Err(error) => {
            terminal::tell(format_args!(
                "pronghorn: [alert] kill({pid}, {number}) failed {}",
                log::Cause(&error)
            ));
            1
        }
    }
}

fn convert(options: &Options) -> i32 {
    let Some(path) = &options.conf else { return 1 };
    let load = config::LoadOptions {
        prefix: std::env::current_dir().unwrap_or_default(),
        globals: Vec::new(),
        keep_includes: true,
        data_blocks: &[],
    };
    let (tree, diagnostics) = config::load(path, &load);
    terminal::tell(render(&diagnostics, &tree, render::wants_color(&io::stderr())));
    if diagnostics.has_errors() {
        return 1;
    }
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let text = if is_toml { convert::to_nginx(&tree) } else { convert::to_toml(&tree) };
    i32::from(io::stdout().write_all(text.as_bytes()).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn flags_may_be_glued() {
        let options = parse(&["-tq", "-cfile", "-p/x", "-g", "a;", "-gb;"]).unwrap();
        assert_eq!((options.action, options.quiet), (Action::Test, true));
        assert_eq!(options.conf.as_deref(), Some(Path::new("file")));
        assert_eq!(
            (options.prefix, options.globals),
            ("/x".into(), vec!["a;".to_string(), "b;".to_string()])
        );
        assert_eq!(parse(&["-tT"]).unwrap().action, Action::Dump);
        assert_eq!(parse(&["-s", "reload"]).unwrap().action, Action::Signal(1));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for words in [&["-x"][..], &["file"], &["-s", "sleep"], &["-c"], &["--nonsense"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
