//! Access logs (`access_log`, `log_format`, `open_log_file_cache`).
//!
//! Runs when a session ends. The engine is `shared/access_log.rs`. Touches: the session's variables, the log's writer.
//! Behaviour: nginx.org, ngx_stream_log_module; without the directive nothing is logged.

use std::sync::Arc;

use crate::config::directive::custom;
use crate::config::inherit::{own, replace};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Span, settings};
use crate::log::named;
use crate::shared::access_log::{self, Log, Sink};
use crate::shared::log_format::{self, Format};
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;
use crate::stream::session::Session;

pub type Formats = log_format::Formats<Session>;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        logs: Vec<Log<Session>> => own,
        /// `access_log off`
        off: bool => own,
        cache: Inherit<Option<Arc<named::Cache>>>,
    }
    then inherit_logs
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("log_format", Context::STREAM, Arity::at_least(2), log_format,
        "Declares a format for access_log: a name, escape=default, json or none, and text with variables."),
    custom("access_log", Context::IN_STREAM, Arity::at_least(1), set_log,
        "Writes a line for each session to a file or syslog: path format [buffer=size] [gzip[=level]] [flush=time] [if=condition], or off. A name with \
         variables is a file for each value."),
    custom("open_log_file_cache", Context::IN_STREAM, Arity::between(1, 4), set_cache,
        "Keeps logs whose names have variables open: max= of them, for inactive= (10s) since their last use, after min_uses= (1); their names are checked \
         after valid= (60s).").default("off"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

/// `access_log off` inherits no log.
fn inherit_logs(conf: &mut Conf, outer: &Conf) {
    if !conf.off {
        replace(&mut conf.logs, &outer.logs);
    }
}

fn log_format(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    cx.drafts.access_log.refuse_known(node, &[])?;
    let format = Format::read(node, cx)?;
    cx.drafts.access_log.insert(node.arg(0), format);
    Ok(())
}

fn set_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) != "off" {
        conf.logs.push(Log::read(node, cx, find_format)?);
        return Ok(());
    }
    if node.args.len() > 1 {
        let message = format!("invalid parameter \"{}\"", node.arg(1));
        return Err(Diagnostic::error(node.arg_span(1), message));
    }
    conf.off = true;
    Ok(())
}

fn find_format(name: Option<&str>, span: Span, cx: &mut Cx) -> Result<Format<Session>, Diagnostic> {
    match name {
        Some(name) => cx.drafts.access_log.find(name, span),
        None => Err(Diagnostic::error(span, "log format is not specified")
            .help("stream has no format of its own: declare one with \"log_format\" and name it here")),
    }
}

fn set_cache(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.cache.put(access_log::read_cache(node)?, node)
}

/// Writes the session's line to every log of its server.
pub fn write(session: &mut Session) {
    let conf = &session.server.confs.access_log;
    for log in &conf.logs {
        let Some(line) = log.line(session) else { continue };
        match log.sink() {
            Sink::File(file) => file.write_line(&line),
            Sink::Named(name) => {
                let cache = conf.cache.as_ref().and_then(Option::as_ref);
                access_log::append_named(session, name, cache, &line);
            }
        }
    }
}
