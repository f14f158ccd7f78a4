//! The main and events blocks: settings of the processes, not of what they serve.
//!
//! Behaviour: nginx.org, "Core functionality".

use crate::base::network::Network;
use crate::base::number::parse_millis;
use crate::config::directive::{Accepted, accepted, block, custom, flag, millis, number, size, text};
use crate::config::inherit::{duplicate, own};
use crate::config::table::{Module, Slot, Table};
use crate::config::{
    Arity, Context, Diagnostic, Diagnostics, Directive, HasDiagnostics, Inherit, Inherits, Node, RowInfo,
    Setting, Severity, Span, absent, params, settings,
};
use crate::http;
use crate::log::{Level, Logger, Target};
use crate::mail;
use crate::net::budget;
use crate::shared::realip::read_networks;
use crate::shared::{CompileOptions, error_log};
use crate::stream;
use crate::sys::names::Names;
use crate::sys::process;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// More than the five seconds that glibc waits for the first of several name servers (resolv.conf(5)).
pub const NAMES_TIMEOUT_MS: u64 = 10_000;

settings! {
    /// The settings of the main and events blocks. No block inherits them.
    #[derive(Debug)]
    pub struct Settings {
        /// `None`: one per processor.
        worker_processes: Setting<Option<u64>> = Some(1),
        worker_connections: Setting<u64> = 512,
        worker_shutdown_timeout: Setting<u64> = 0,
        worker_watchdog: Setting<u64> = 30_000,
        worker_generations: Setting<u64> = 64,
        fast_stop_timeout: Setting<u64> = 1000,
        names_timeout: Setting<u64> = NAMES_TIMEOUT_MS,
        worker_priority: Inherit<i32> => own,
        worker_rlimit_nofile: Inherit<u64> => own,
        worker_rlimit_core: Inherit<u64> => own,
        worker_memory_budget: Setting<u64> = budget::BYTES_DEFAULT,
        /// One mask per worker, the last one for all further workers; empty with `auto`.
        worker_cpu_affinity: Inherit<Vec<Vec<usize>>> => own,
        daemon: Inherit<bool> => own,
        master_process: Setting<bool> = true,
        pid: Inherit<Box<str>> => own,
        user: Inherit<process::Identity> => own,
        working_directory: Inherit<Box<str>> => own,
        /// `env NAME` and `env NAME=value`.
        pub environment: Vec<(Box<str>, Option<Box<str>>)> => own,
        error_log: Inherit<Logger> => own,
        /// `debug_connection`
        pub debugged: Vec<Network> => own,
        log_targets: Vec<(Target, Level)> => own,
        use_: Inherit<()> => own,
        control: Inherit<Control> => own,
        control_state: Inherit<Box<str>> => own,
    }
}

/// `control`: the socket at which operators ask for changes.
#[derive(Clone, Debug)]
struct Control {
    path: Box<str>,
    /// The permissions of its file.
    mode: u32,
    /// `None`: it comes from the command line.
    span: Option<Span>,
}

/// The permissions of the control socket: its owner and group may connect.
const CONTROL_MODE: u32 = 0o660;

/// Context of compiling the main block.
pub struct Cx {
    pub options: CompileOptions,
    pub diagnostics: Diagnostics,
    pub http: Option<http::Config>,
    pub stream: Option<stream::Config>,
    pub mail: Option<mail::Config>,
    has_events: bool,
}

impl Cx {
    pub fn new(options: CompileOptions) -> Self {
        let diagnostics = Diagnostics::default();
        Self { options, diagnostics, http: None, stream: None, mail: None, has_events: false }
    }

    pub fn has_events(&self) -> bool {
        self.has_events
    }
}

impl HasDiagnostics for Cx {
    fn diagnostics(&mut self) -> &mut Diagnostics {
        &mut self.diagnostics
    }
}

type Row = Directive<Settings, Cx>;

/// Maximum number of workers of one generation: each has a lane in shared memory (`shm/area.rs`).
const WORKERS_MAX: u64 = 256;

/// Parts of module names whose directives are built in.
const BUILT_IN: [&str; 6] = ["brotli", "headers_more", "image_filter", "mail", "ngx_otel_module", "zstd"];

#[rustfmt::skip]
pub static MAIN: &[Row] = &[
    block("events", Context::MAIN, Arity::exactly(0), events, "Holds the settings of connection processing.").opens(&[(Context::MAIN, Context::EVENTS)]),
    block("http", Context::MAIN, Arity::exactly(0), http_block, "Holds the HTTP servers.").opens(&[(Context::MAIN, Context::HTTP)]),
    block("stream", Context::MAIN, Arity::exactly(0), stream_block, "Holds the servers that pass connections of any protocol on.")
        .opens(&[(Context::MAIN, Context::STREAM)]),
    block("mail", Context::MAIN, Arity::exactly(0), mail_block,
        "Holds the servers of mail: they ask an HTTP server whether a client of IMAP, POP3 or SMTP may log in, log it in at its own server, and pass it on.")
        .opens(&[(Context::MAIN, Context::MAIL)]),
    custom("worker_processes", Context::MAIN, Arity::exactly(1), worker_processes,
        "Sets the number of workers, up to 256, or auto for one per processor.").default("1"),
    millis("worker_shutdown_timeout", Context::MAIN, |s| &mut s.worker_shutdown_timeout,
        "Limits the time of a graceful stop, after which open connections are closed; 0 sets no limit."),
    millis("worker_watchdog", Context::MAIN, |s| &mut s.worker_watchdog,
        "Sets the time after which a worker that makes no progress is killed and replaced; 0 disables this."),
    number("worker_generations", Context::MAIN, (0, 10_000), |s: &mut Settings| &mut s.worker_generations,
        "Limits the generations of workers that finish requests after reloads. When there are more, the oldest is ended; 0 sets no limit."),
    millis("fast_stop_timeout", Context::MAIN, |s| &mut s.fast_stop_timeout, "Limits the time that workers get in a fast stop before they are killed."),
    custom("names_timeout", Context::MAIN, Arity::exactly(1), names_timeout,
        "Limits the time that the system's resolver may take for all names of the configuration together, at a start and in a reload. A name without an \
         answer counts as not found.").default("10s"),
    custom("worker_priority", Context::MAIN, Arity::exactly(1), worker_priority, "Sets the scheduling priority of workers, from -20 to 20.").default("0"),
    number("worker_rlimit_nofile", Context::MAIN, (0, u64::MAX), |s: &mut Settings| &mut s.worker_rlimit_nofile,
        "Limits the number of open files of a worker.").default("the system's"),
    size("worker_memory_budget", Context::MAIN, |s| &mut s.worker_memory_budget,
        "Limits the memory of a worker for work that requests can do without: encoders, SSI, includes that run ahead of their turn, directory listings, \
         indexes of parts of MP4 files. \
         Beyond it requests get smaller encoders or none, and includes run one after the other; 0 sets no limit."),
    size("worker_rlimit_core", Context::MAIN, |s: &mut Settings| &mut s.worker_rlimit_core, "Limits the size of a worker's core file.").default("the system's"),
    custom("worker_cpu_affinity", Context::MAIN, Arity::at_least(1), worker_cpu_affinity,
        "Binds each worker to processors, by bit masks or auto.").default("none"),
    flag("daemon", Context::MAIN, |s: &mut Settings| &mut s.daemon,
        "Runs the master in the background.").default("on, or off under a service manager (NOTIFY_SOCKET)"),
    flag("master_process", Context::MAIN, |s| &mut s.master_process,
        "Starts worker processes; off serves in a single process, for debugging, without reload, upgrade and watchdog."),
    text("pid", Context::MAIN, |s: &mut Settings| &mut s.pid,
        "Names the file that holds the process id of the master.").default("logs/pronghorn.pid, or /run/pronghorn.pid if the prefix has no logs directory"),
    custom("user", Context::MAIN, Arity::between(1, 2), user,
        "Sets the user and group of the workers, if the master runs as root.").default("nobody and its group"),
    text("working_directory", Context::MAIN, |s: &mut Settings| &mut s.working_directory,
        "Sets the current directory of the workers.").default("that of the master at its start"),
    custom("env", Context::MAIN, Arity::exactly(1), env, "Keeps an environment variable, or sets it with NAME=value.").default("TZ"),
    custom("error_log", Context::MAIN, Arity::at_least(1), error_log,
        "Sets where errors are logged, and from which level on. Several directives log to several places.")
        .default("logs/error.log error, or stderr if the prefix has no logs directory"),
    custom("control", Context::MAIN, Arity::between(1, 2), control,
        "Opens a unix socket at which `pronghorn ctl`, and tools written for the control API of nginx and the API of nginx Plus, see and change what runs. \
         mode= sets the permissions of its file, 0660 by default. Every user who may connect may change everything.").default("none"),
    text("control_state", Context::MAIN, |s: &mut Settings| &mut s.control_state,
        "Names the file in which changes to upstreams survive a restart; without it they survive reloads and upgrades only.").default("none"),
    custom("load_module", Context::MAIN, Arity::exactly(1), load_module,
        "Loads nothing, since modules are built in. Warns if the named module is not one of them."),
    accepted("lock_file", Context::MAIN, Arity::exactly(1), Accepted::Words, "Accepting connections takes no lock."),
    accepted("timer_resolution", Context::MAIN, Arity::exactly(1), Accepted::Millis, "The clock is read once in each turn of the event loop."),
    accepted("pcre_jit", Context::MAIN, Arity::exactly(1), Accepted::Flag,
        "Regular expressions are not run by PCRE; they are compiled when the configuration is read.").default("off"),
    accepted("thread_pool", Context::MAIN, Arity::between(2, 3), Accepted::Named("thread pool"), "Each worker has its own small thread pools."),
    accepted("quic_bpf", Context::MAIN, Arity::exactly(1), Accepted::Flag, "Datagrams of QUIC find the worker that has their connection without it."),
    accepted("worker_aio_requests", Context::EVENTS, Arity::exactly(1), Accepted::Number,
        "Files are sent by sendfile(2) in the event loop of the worker.").default("32"),
    accepted("ssl_object_cache_inheritable", Context::MAIN, Arity::exactly(1), Accepted::Flag,
        "A reload reads all certificates; those that change on disk are used without a reload.").default("off"),
    accepted("debug_points", Context::MAIN, Arity::exactly(1), Accepted::Keyword(&["stop", "abort"]), "These are debugging aids of nginx itself."),
    custom("worker_connections", Context::EVENTS, Arity::exactly(1), worker_connections,
        "Limits the connections of a worker, including those to upstream servers. At the limit idle connections are closed, oldest first, and the last \
         sixteenth is reserved for clients. Above three quarters of the limit, client_header_timeout and keepalive_timeout are cut to a quarter.")
        .default("512"),
    custom("use", Context::EVENTS, Arity::exactly(1), use_, "Accepts only epoll; other methods are refused.").default("epoll"),
    accepted("epoll_events", Context::EVENTS, Arity::exactly(1), Accepted::Number, "A wait takes up to 256 events.").default("512"),
    accepted("multi_accept", Context::EVENTS, Arity::exactly(1), Accepted::Flag, "A listener accepts one connection for each epoll event.").default("off"),
    accepted("accept_mutex", Context::EVENTS, Arity::exactly(1), Accepted::Flag, "Each worker has its own listeners.").default("off"),
    accepted("accept_mutex_delay", Context::EVENTS, Arity::exactly(1), Accepted::Millis, "Each worker has its own listeners.").default("500ms"),
    custom("debug_connection", Context::EVENTS, Arity::exactly(1), debug_connection,
        "Logs everything about the requests and sessions of a client, an address, a network, unix: or a name, to the error_log in force, whatever its \
         level. Once set_real_ip_from has found the client, its address counts."),
];

static SLOTS: &[&dyn Module<Settings, Cx>] = &[&Slot {
    name: "core",
    rows: MAIN,
    conf: |settings: &mut Settings| settings,
    inherits: Inherits::Everywhere,
}];

/// The rows of the main and events blocks.
pub fn table() -> &'static Table<Settings, Cx> {
    static TABLE: OnceLock<Table<Settings, Cx>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let table = Table::new(SLOTS.to_vec());
        let (own, streams, mails) =
            (|| table.rows().cloned(), stream::modules::rows(), mail::modules::rows());
        http::modules::know_elsewhere(own().chain(streams.iter().chain(&mails).cloned()).collect());
        let http: Vec<RowInfo> = http::modules::table().rows().cloned().collect();
        stream::modules::know_elsewhere(own().chain(http.iter().chain(&mails).cloned()).collect());
        mail::modules::know_elsewhere(own().chain(http.iter().chain(&streams).cloned()).collect());
        table.elsewhere(http.into_iter().chain(streams).chain(mails))
    })
}

impl Settings {
    pub fn worker_processes(&self) -> usize {
        match self.worker_processes.get() {
            Some(count) => count as usize,
            None => process::cpu_count().min(WORKERS_MAX as usize),
        }
    }

    /// In bytes; 0: no limit.
    pub fn worker_memory_budget(&self) -> u64 {
        self.worker_memory_budget.get()
    }

    pub fn worker_connections(&self) -> usize {
        self.worker_connections.get() as usize
    }

    /// `None`: a graceful stop waits for its last connection.
    pub fn worker_shutdown_timeout_ms(&self) -> Option<u64> {
        Some(self.worker_shutdown_timeout.get()).filter(|ms| *ms > 0)
    }

    pub fn worker_watchdog_ms(&self) -> u64 {
        self.worker_watchdog.get()
    }

    pub fn generations_max(&self) -> usize {
        usize::try_from(self.worker_generations.get()).unwrap_or(usize::MAX)
    }

    pub fn fast_stop_ms(&self) -> u64 {
        self.fast_stop_timeout.get()
    }

    pub fn names_timeout_ms(&self) -> u64 {
        self.names_timeout.get()
    }

    pub fn worker_priority(&self) -> Option<i32> {
        self.worker_priority.as_ref().copied()
    }

    pub fn worker_rlimit_nofile(&self) -> Option<u64> {
        self.worker_rlimit_nofile.as_ref().copied()
    }

    pub fn worker_rlimit_core(&self) -> Option<u64> {
        self.worker_rlimit_core.as_ref().copied()
    }

    /// The processors of worker `number`; `None`: any.
    pub fn cpus(&self, number: usize) -> Option<Vec<usize>> {
        let masks = self.worker_cpu_affinity.as_ref()?;
        match masks.get(number).or(masks.last()) {
            Some(mask) => Some(mask.clone()),
            None => process::allowed_cpus().into_iter().cycle().nth(number).map(|cpu| vec![cpu]),
        }
    }

    pub fn daemon(&self) -> bool {
        // If a service manager waits for our message, going to the background would hide the master from it.
        self.daemon.get(std::env::var_os("NOTIFY_SOCKET").is_none())
    }

    pub fn master_process(&self) -> bool {
        self.master_process.get()
    }

    /// The path of the pid file.
    pub fn pid(&self, prefix: &Path) -> PathBuf {
        self.pid.as_ref().map_or_else(|| default_pid(prefix), |path| prefix.join(&**path))
    }

    /// Warns about a configuration without `error_log` and `pid` directives if the prefix has no logs
    /// directory. The packages of nginx have other paths built in.
    pub fn warn_of_missing_logs(&self, has_error_log: bool, prefix: &Path, out: &mut Diagnostics) {
        if has_logs(prefix) {
            return;
        }
        let (mut said, mut lines) = (Vec::new(), Vec::new());
        if !has_error_log && self.log_targets.is_empty() {
            said.push("errors go to stderr".to_owned());
            lines.push("error_log /var/log/nginx/error.log;");
        }
        if !self.pid.is_set() {
            said.push(format!("the pid file is {PID}"));
            lines.push("pid /run/nginx.pid;");
        }
        if said.is_empty() {
            return;
        }
        let folder = prefix.join("logs");
        let message = format!("\"{}\" is no folder: {}", folder.display(), said.join(", "));
        let help = format!("nginx has other paths built in (nginx -V), write them: {}", lines.join(" "));
        out.push(Diagnostic { severity: Severity::Warning, ..Diagnostic::global(message).help(help) });
    }

    /// The user that the workers become; `None`: they remain the user of the master, which is then not root.
    pub fn user(&self) -> Option<&process::Identity> {
        self.user.as_ref()
    }

    /// Sets the user of a configuration that names none. Errors: the system has no such user, in nginx's
    /// words.
    pub fn or_user(&mut self, name: &str) -> Result<(), String> {
        if process::is_root() && self.user.as_ref().is_none() {
            let _ = self.user.set(process::identity(name, None)?, Span::default());
        }
        Ok(())
    }

    /// Takes the control socket of the command line, which overrides the configuration's.
    pub fn or_control(&mut self, word: &str) -> Result<(), String> {
        let path = control_address(word)?.into();
        self.control = Inherit::default();
        let _ = self.control.set(Control { path, mode: CONTROL_MODE, span: None }, Span::default());
        Ok(())
    }

    /// The path of the control socket; `None`: there is none.
    pub fn control_path(&self, prefix: &Path) -> Option<PathBuf> {
        self.control.as_ref().map(|control| prefix.join(&*control.path))
    }

    pub fn control_mode(&self) -> u32 {
        self.control.as_ref().map_or(CONTROL_MODE, |control| control.mode)
    }

    pub fn control_span(&self) -> Option<Span> {
        self.control.as_ref().and_then(|control| control.span)
    }

    /// The file in which changes survive a restart.
    pub fn control_state(&self, prefix: &Path) -> Option<PathBuf> {
        self.control_state.as_ref().map(|path| prefix.join(&**path))
    }

    pub fn working_directory(&self) -> Option<&str> {
        self.working_directory.as_ref().map(|path| &**path)
    }

    /// The log of the process, and of every block without a log of its own.
    pub fn error_log(&self) -> Logger {
        self.error_log.get(Logger::none())
    }

    /// Sets the log of a configuration that names none.
    pub fn or_error_log(&mut self, word: &str, prefix: &Path, names: &Names) {
        if self.log_targets.is_empty()
            && let Ok(target) = Target::parse(word, prefix, names)
        {
            self.error_log = Inherit::default();
            let _ = self.error_log.set(Logger::of(&[(target, Level::Error)]), Span::default());
        }
    }
}

/// The path of the pid file if the prefix has no logs directory.
const PID: &str = "/run/pronghorn.pid";

/// True if the prefix has the directory of the default log and pid file.
pub fn has_logs(prefix: &Path) -> bool {
    prefix.join("logs").is_dir()
}

/// The pid file of a configuration that names none.
pub fn default_pid(prefix: &Path) -> PathBuf {
    if has_logs(prefix) { prefix.join("logs/pronghorn.pid") } else { PID.into() }
}

fn events(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if std::mem::replace(&mut cx.has_events, true) {
        return Err(duplicate(node));
    }
    table().apply_all(node.children(), Context::EVENTS, settings, cx);
    Ok(())
}

fn http_block(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if cx.http.is_some() {
        return Err(duplicate(node));
    }
    let options = CompileOptions { error_log: settings.error_log(), ..cx.options.clone() };
    let mut found = Diagnostics::default();
    cx.http = Some(http::compile(node, &options, &mut found));
    cx.diagnostics.append(found);
    Ok(())
}

/// The path of a control socket.
fn control_address(word: &str) -> Result<&str, String> {
    let path = word.strip_prefix("unix:").or_else(|| word.starts_with('/').then_some(word));
    path.filter(|path| !path.is_empty() && path.len() <= SOCKET_PATH_BYTES_MAX).ok_or_else(|| {
        format!("invalid control socket \"{word}\": write unix: and a path of at most {SOCKET_PATH_BYTES_MAX} bytes")
    })
}

/// The longest path of a unix socket: the kernel's 108 bytes end with a zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

fn control(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let path = control_address(node.arg(0)).map_err(|why| {
        Diagnostic::error(node.arg_span(0), why)
            .help("for a TCP address, use \"api write=on;\" in a location with access rules")
    })?;
    let mode = match node.arg(1) {
        "" => CONTROL_MODE,
        word => {
            let digits = word.strip_prefix("mode=").filter(|digits| digits.len() <= 4);
            let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
            mode.filter(|mode| *mode <= 0o777).ok_or_else(|| {
                let message = format!("invalid parameter \"{word}\"");
                Diagnostic::error(node.arg_span(1), message).help("write the permissions in octal: mode=0660")
            })?
        }
    };
    settings.control.put(Control { path: path.into(), mode, span: Some(node.arg_span(0)) }, node)
}

fn stream_block(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if cx.stream.is_some() {
        return Err(duplicate(node));
    }
    let options = CompileOptions { error_log: settings.error_log(), ..cx.options.clone() };
    let mut found = Diagnostics::default();
    cx.stream = Some(stream::compile(node, &options, &mut found));
    cx.diagnostics.append(found);
    Ok(())
}

fn mail_block(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if cx.mail.is_some() {
        return Err(duplicate(node));
    }
    let options = CompileOptions { error_log: settings.error_log(), ..cx.options.clone() };
    let mut found = Diagnostics::default();
    cx.mail = Some(mail::compile(node, &options, &mut found));
    cx.diagnostics.append(found);
    Ok(())
}

fn worker_processes(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let count = match node.arg(0) {
        "auto" => None,
        _ => Some(params::number(node, 0, 0, u64::MAX)?),
    };
    let taken = count.map(|count| count.clamp(1, WORKERS_MAX));
    if let (Some(count), Some(taken)) = (count, taken)
        && count != taken
    {
        let message = format!("worker_processes {count} is taken for {taken}");
        let help = format!("a number from 1 to {WORKERS_MAX}, or auto");
        cx.diagnostics.push(Diagnostic::warning(node.arg_span(0), message).help(help));
    }
    settings.worker_processes.put(taken, node)
}

fn use_(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) != "epoll" {
        let message = format!("invalid event type \"{}\"", node.arg(0));
        return Err(Diagnostic::error(node.arg_span(0), message).help("only epoll is available"));
    }
    settings.use_.put((), node)
}

fn worker_connections(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let count = node.arg(0).parse::<u64>().map_err(|_| {
        let message = format!("invalid number \"{}\" in \"worker_connections\" directive", node.arg(0));
        Diagnostic::error(node.arg_span(0), message)
    })?;
    if !(1..=u64::from(u32::MAX)).contains(&count) {
        return Err(Diagnostic::error(
            node.arg_span(0),
            format!("{count} worker_connections are not enough"),
        ));
    }
    settings.worker_connections.put(count, node)
}

fn names_timeout(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let timeout_ms = parse_millis(node.arg(0)).filter(|&ms| ms > 0).ok_or_else(|| {
        let message = format!("invalid value \"{}\" in \"names_timeout\" directive", node.arg(0));
        Diagnostic::error(node.arg_span(0), message).help("use a time greater than zero, such as 10s")
    })?;
    settings.names_timeout.put(timeout_ms, node)
}

fn worker_priority(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let nice = node.arg(0).parse().ok().filter(|nice| (-20..=20).contains(nice)).ok_or_else(|| {
        Diagnostic::error(node.arg_span(0), "\"worker_priority\" directive invalid number")
            .help("a priority is a number from -20 to 20")
    })?;
    settings.worker_priority.put(nice, node)
}

fn worker_cpu_affinity(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (first, masks) = match node.arg(0) {
        "auto" => (0, &node.args[1..]),
        _ => (1, &node.args[..]),
    };
    let mut parsed = Vec::new();
    for word in masks {
        if !word.text.bytes().all(|bit| matches!(bit, b'0' | b'1')) {
            let odd = word.text.chars().find(|bit| !matches!(bit, '0' | '1')).unwrap_or_default();
            let message = format!("invalid character \"{odd}\" in \"{}\"", word.text);
            return Err(Diagnostic::error(word.span, message)
                .help("a mask consists of 0 and 1, the lowest processor last: 0001 0010"));
        }
        let bits = word.text.bytes().rev().enumerate().filter(|(_, bit)| *bit == b'1');
        parsed.push(bits.map(|(cpu, _)| cpu).collect::<Vec<_>>());
    }
    if first == 0 && parsed.len() == 1 {
        // `auto` with a mask: one of its processors per worker
        let allowed = parsed.remove(0);
        parsed = allowed.into_iter().map(|cpu| vec![cpu]).collect();
    }
    settings.worker_cpu_affinity.put(parsed, node)
}

fn user(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if !process::is_root() {
        let message = "the \"user\" directive makes sense only if the master process runs with super-user privileges, ignored";
        cx.diagnostics.push(Diagnostic::warning(node.span, message));
        return Ok(());
    }
    let group = node.args.get(1).map(|word| &*word.text);
    let identity = process::identity(node.arg(0), group).map_err(|why| Diagnostic::error(node.span, why))?;
    settings.user.put(identity, node)
}

fn env(settings: &mut Settings, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (name, value) = match node.arg(0).split_once('=') {
        Some((name, value)) => (name, Some(value.into())),
        None => (node.arg(0), None),
    };
    settings.environment.push((name.into(), value));
    Ok(())
}

fn debug_connection(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (networks, warning) = read_networks(node, &cx.options.names)?;
    warning.into_iter().for_each(|warning| cx.diagnostics.push(warning));
    settings.debugged.extend(networks);
    Ok(())
}

fn error_log(settings: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if let Some(warning) = error_log::misread_off(node) {
        cx.diagnostics.push(warning);
    }
    let (target, level) = error_log::log_target(node, &cx.options.prefix, &cx.options.names)?;
    settings.log_targets.push((target, level));
    settings.error_log = Inherit::default();
    let _ = settings.error_log.set(Logger::of(&settings.log_targets), node.span);
    Ok(())
}

fn load_module(_: &mut Settings, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let file = node.arg(0).rsplit('/').next().unwrap_or_default();
    if BUILT_IN.iter().any(|module| file.contains(module)) {
        return Ok(());
    }
    let message = format!("\"{}\" is not loaded, modules of nginx cannot be", node.arg(0));
    let help = match absent::module(file) {
        Some(name) => format!("{name} is not available; this line does no harm"),
        None => "remove this line".to_owned(),
    };
    cx.diagnostics.push(Diagnostic::warning(node.arg_span(0), message).help(help));
    Ok(())
}
