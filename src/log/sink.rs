//! Formats slog records as nginx's lines: `YYYY/MM/DD HH:MM:SS [level] PID#TID: *CONN message, client: …`.
//!
//! There is one slog root per process. A record carries the set of targets, the level (slog has six, nginx
//! eight), the connection and the context as values whose keys begin with `@`; the other values are the
//! message's own. Each target gets the line in one write(2). The pid is asked for each line, so that it is
//! right after a fork.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use slog::{Drain, KV, Key, OwnedKVList, Record, RecordLocation, RecordStatic, Serializer};

use super::context::{Context, Fields};
use super::format;
use super::level::Level;
use super::repeat::{self, Summary};
use super::target::Logger;

/// nginx truncates lines at 2048 bytes; ours have room for a request line of 8k
/// (`large_client_header_buffers`).
const LINE_BYTES_MAX: usize = 16 * 1024;

static ROOT: LazyLock<slog::Logger> = LazyLock::new(|| slog::Logger::root(NginxLine, slog::o!()));

thread_local! {
    /// Buffer for one line, kept between lines. It is taken out while in use, so that a context that logs
    /// gets another.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static CAPTURED: Cell<Option<Vec<String>>> = const { Cell::new(None) };
}

/// The number of messages that are captured.
const CAPTURED_MAX: usize = 200;

/// Seconds since 1970 by the wall clock.
pub(super) fn wall_secs() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

/// Sends one message to the targets of `logger`. Called by the macros, which have checked the level.
#[doc(hidden)]
#[cold]
pub fn emit(
    logger: &Logger,
    level: Level,
    context: &dyn Context,
    (place, text): (&'static RecordLocation, &'static str),
    message: &fmt::Arguments<'_>,
    pairs: &dyn KV,
) {
    capture(level, message);
    let now_ms = repeat::now_ms();
    let (write, summary) = repeat::admit(*logger, level, std::ptr::from_ref(place).addr(), text, now_ms);
    if let Some(summary) = summary {
        tell(&summary);
    }
    if write {
        send(*logger, level, context, (place, text), message, pairs);
    }
}

/// Keeps the messages of this thread from here on, in addition to logging them: those of level `warn` and graver, up to
/// a bound. Returned by [`end_capture`].
pub fn begin_capture() {
    CAPTURED.set(Some(Vec::new()));
}

/// The messages since [`begin_capture`], each as `[level] text`.
pub fn end_capture() -> Vec<String> {
    CAPTURED.take().unwrap_or_default()
}

/// Adds a message that is captured even if no log takes it.
pub fn capture(level: Level, message: &fmt::Arguments<'_>) {
    if level > Level::Warn {
        return;
    }
    let Some(mut captured) = CAPTURED.take() else { return };
    if captured.len() < CAPTURED_MAX {
        captured.push(format!("[{}] {message}", level.name()));
    }
    CAPTURED.set(Some(captured));
}

/// Reports suppressed repeats: the message's constant text with a count.
pub(super) fn tell(summary: &Summary) {
    static PLACE: RecordLocation = RecordLocation {
        file: file!(),
        line: line!(),
        column: column!(),
        function: "",
        module: module_path!(),
    };
    let text = without_placeholders(summary.text);
    let message = format_args!("{text} ({} more like this)", summary.hidden);
    send(summary.logger, summary.level, &(), (&PLACE, summary.text), &message, &());
}

fn send(
    logger: Logger,
    level: Level,
    context: &dyn Context,
    (place, text): (&RecordLocation, &str),
    message: &fmt::Arguments<'_>,
    pairs: &dyn KV,
) {
    let fixed = RecordStatic { location: place, tag: text, level: level.slog() };
    let route = Route { logger, level, context, pairs };
    ROOT.log(&Record::new(&fixed, message, slog::BorrowedKV(&route)));
}

/// Formats a line in which a log reports on itself.
pub(super) fn own_line(secs: i64, level: Level, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut line = Vec::new();
    head(secs, level, None, &mut line);
    write(&mut line);
    line.push(b'\n');
    line
}

/// Replaces `{}` and `{name}` in a message's text by `...`.
fn without_placeholders(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        match rest[open..].find('}') {
            Some(close) => {
                out.push_str("...");
                rest = &rest[open + close + 1..];
            }
            None => rest = "",
        }
    }
    out.push_str(rest);
    out
}

/// The values of one record: its logger, level and context, then the message's own values.
struct Route<'a> {
    logger: Logger,
    level: Level,
    context: &'a dyn Context,
    pairs: &'a dyn KV,
}

impl KV for Route<'_> {
    fn serialize(&self, record: &Record<'_>, to: &mut dyn Serializer) -> slog::Result {
        to.emit_u32("@logger", self.logger.id())?;
        to.emit_u8("@level", self.level as u8)?;
        if let Some(connection) = self.context.connection() {
            to.emit_u64("@connection", connection)?;
        }
        if let Some(action) = self.context.action() {
            to.emit_str("@action", action)?;
        }
        to.emit_arguments("@context", &format_args!("{}", Shown(self.context)))?;
        self.pairs.serialize(record, to)
    }
}

struct Shown<'a>(&'a dyn Context);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fields(&mut Fields::new(f));
        Ok(())
    }
}

/// The parts of a record, as the serializer collects them.
#[derive(Default)]
struct Parts {
    logger: Option<Logger>,
    level: Option<Level>,
    connection: Option<u64>,
    action: String,
    context: String,
    pairs: String,
}

impl Serializer for Parts {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        match key {
            "@context" => write!(self.context, "{value}")?,
            _ => {
                // slog passes the last pair first.
                self.pairs.insert_str(0, &format!(", {key}: {value}"));
            }
        }
        Ok(())
    }

    fn emit_str(&mut self, key: Key, value: &str) -> slog::Result {
        if key == "@action" {
            self.action.push_str(value);
            return Ok(());
        }
        self.emit_arguments(key, &format_args!("{value}"))
    }

    fn emit_u8(&mut self, key: Key, value: u8) -> slog::Result {
        if key == "@level" {
            self.level = Level::of_number(value);
            return Ok(());
        }
        self.emit_arguments(key, &format_args!("{value}"))
    }

    fn emit_u32(&mut self, key: Key, value: u32) -> slog::Result {
        if key == "@logger" {
            self.logger = Logger::by_id(value);
            return Ok(());
        }
        self.emit_arguments(key, &format_args!("{value}"))
    }

    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        if key == "@connection" {
            self.connection = Some(value);
            return Ok(());
        }
        self.emit_arguments(key, &format_args!("{value}"))
    }
}

struct NginxLine;

impl Drain for NginxLine {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), slog::Never> {
        let mut parts = Parts::default();
        // If the Display of a value fails, only that value is missing.
        let _ = record.kv().serialize(record, &mut parts);
        let (Some(logger), Some(level)) = (parts.logger, parts.level) else { return Ok(()) };
        let secs = wall_secs();
        let mut line = LINE.take();
        line.clear();
        head(secs, level, parts.connection, &mut line);
        body(record.msg(), &parts, &mut line);
        for &(target, wanted) in logger.entries() {
            if level <= wanted {
                target.write(level, secs, &line);
            }
        }
        LINE.set(line);
        Ok(())
    }
}

fn head(secs: i64, level: Level, connection: Option<u64>, line: &mut Vec<u8>) {
    use std::io::Write;
    format::error_time(secs, line);
    let _ = write!(line, " [{level}] {}#{}: ", std::process::id(), nix::unistd::gettid());
    if let Some(connection) = connection {
        let _ = write!(line, "*{connection} ");
    }
}

fn body(message: &fmt::Arguments<'_>, parts: &Parts, line: &mut Vec<u8>) {
    let mut out = OneLine { line };
    let _ = write!(out, "{message}");
    if !parts.action.is_empty() {
        let _ = write!(out, " while {}", parts.action);
    }
    let _ = write!(out, "{}{}", parts.pairs, parts.context);
    line.truncate(LINE_BYTES_MAX);
    line.push(b'\n');
}

/// Escapes control characters, so that one message stays one line.
struct OneLine<'a> {
    line: &'a mut Vec<u8>,
}

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(|c: char| c.is_ascii_control()) {
            match piece.as_bytes().split_last() {
                Some((&last, rest)) if last.is_ascii_control() => {
                    use std::io::Write;
                    self.line.extend_from_slice(rest);
                    let _ = write!(self.line, "\\x{last:02X}");
                }
                _ => self.line.extend_from_slice(piece.as_bytes()),
            }
        }
        Ok(())
    }
}
