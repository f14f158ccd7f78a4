//! Server side includes: commands inside a page that insert other pages, variables, or parts of it by condition.
//!
//! A body filter. Touches: the request's variables; subrequests for `include`. What follows an include does not wait
//! for it, unless it says so. What is held back is one unfinished command.
//! Behaviour: nginx.org, ngx_http_ssi_module.

mod command;
mod expression;

use crate::base::path::{Escape, escape_html, escape_uri, normalize_uri};
use crate::config::directive::{Accepted, accepted, custom, flag, number};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node};
use crate::http::compile::Cx;
use crate::http::error::Error;
use crate::http::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::media_types::MediaTypes;
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::request::Request;
use crate::http::subrequest::{Done, Subrequest, Then};
use crate::http::variable::{Variable, variable};
use crate::log;
use crate::proto::header::Id;
use crate::sys::{clock, clock_local};
use command::{Command, Found};

/// A command that is longer than this is text.
const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// What stands for a command that failed, until `config errmsg` says otherwise.
const ERROR: &[u8] = b"[an error occurred while processing the directive]";
const TIME_FORMAT: &[u8] = b"%A, %d-%b-%Y %H:%M:%S %Z";
/// The most that an include with a stub may bring.
const STUBBED_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub struct Conf {
    on: Inherit<bool>,
    silent_errors: Inherit<bool>,
    last_modified: Inherit<bool>,
    value_length: Inherit<u64>,
    types: MediaTypes,
}

/// What the commands of one answer share, with those of its subrequests.
#[derive(Clone, Debug, Default)]
pub struct State {
    variables: Vec<(Vec<u8>, Vec<u8>)>,
    time_format: Option<Vec<u8>>,
    /// The answer of an include that has a stub.
    kept: Option<(u16, Vec<u8>)>,
}

const CONTEXTS: Context = Context::ANY.or(Context::LOCATION_IF);
const ONE: Arity = Arity::exactly(1);

pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("ssi", CONTEXTS, |c| &mut c.on, "Carries out SSI commands in answers; off."),
    flag("ssi_silent_errors", Context::ANY, |c| &mut c.silent_errors, "Leaves nothing where a command failed, instead of a message; off."),
    flag("ssi_last_modified", Context::ANY, |c| &mut c.last_modified, "Keeps Last-Modified of a page with SSI; off."),
    number("ssi_value_length", Context::ANY, (1, 1 << 20), |c| &mut c.value_length, "Most bytes of a parameter's value in a command; 256."),
    custom("ssi_types", Context::ANY, Arity::at_least(1), types, "Types of answers, beside text/html, whose commands are carried out; *: all."),
    accepted("ssi_min_file_chunk", Context::ANY, ONE, Accepted::Size, "Files are read in parts as they are needed; 1k."),
];

pub static VARIABLES: &[Variable] = &[
    variable("date_local", |request, _, out| date(request, false, out)),
    variable("date_gmt", |request, _, out| date(request, true, out)),
];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.on.merge(&outer.on);
        self.silent_errors.merge(&outer.silent_errors);
        self.last_modified.merge(&outer.last_modified);
        self.value_length.merge(&outer.value_length);
        self.types.merge(&outer.types);
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.on.get(false)
    }
}

fn types(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.types.add(node, &mut cx.diagnostics);
    Ok(())
}

impl Conf {
    /// Whether answers of this type are read for commands.
    pub fn applies(&self, content_type: &[u8]) -> bool {
        self.on.get(false) && self.types.has(Some(content_type), &["text/html"])
    }
}

/// Prepares an answer that has commands: its length is not known, and it is not the file that it was.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.ssi;
    if !conf.on.get(false) {
        return;
    }
    let headers = &mut request.response.headers;
    if !conf.applies(headers.get(Id::ContentType).unwrap_or(b"")) || request.response.content_length == Some(0) {
        return;
    }
    if !conf.last_modified.get(false) {
        headers.remove(Id::LastModified);
        headers.remove(Id::Etag);
    }
    request.response.body_changes();
    let filter = Ssi {
        conf,
        input: Vec::new(),
        conditions: Vec::new(),
        block: None,
        blocks: Vec::new(),
        stub: None,
        error: ERROR.to_vec(),
        encoding: Encoding::Entity,
    };
    request.filters.get_or_insert_default().add(filter);
}

/// One `if` that is open.
#[derive(Clone, Copy, Debug)]
struct Condition {
    /// What stands here is shown.
    is_active: bool,
    /// One of its branches was shown, or the whole stands in one that is not.
    is_over: bool,
}

#[derive(Debug)]
struct Ssi {
    conf: &'static Conf,
    /// What was not looked at yet.
    input: Vec<u8>,
    conditions: Vec<Condition>,
    /// The block that is open: its name and its text.
    block: Option<(Vec<u8>, Vec<u8>)>,
    blocks: Vec<(Vec<u8>, Vec<u8>)>,
    /// The name of the block that stands in for the include under way.
    stub: Option<Vec<u8>>,
    error: Vec<u8>,
    /// What the last echo that named one has named.
    encoding: Encoding,
}

impl BodyFilter for Ssi {
    fn push(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        let is_end = signal == Signal::End;
        self.input.extend_from_slice(data);
        self.answer_stub(request, out);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while at < input.len() {
            let (found, rest) = (command::find(&input[at..], is_end), &input[at..]);
            match found {
                Found::Text(length) => {
                    self.text(&rest[..length], out);
                    at += length;
                }
                Found::Partial if is_end || rest.len() > COMMAND_BYTES_MAX => {
                    self.text(&rest[..command::BEGIN.len().min(rest.len())], out);
                    at += command::BEGIN.len().min(rest.len());
                }
                Found::Partial => break,
                Found::Command(command, length) => {
                    at += length;
                    if self.carry_out(request, command, &rest[..length], out) {
                        self.input = input[at..].to_vec();
                        return Ok(Flow::Wait);
                    }
                }
            }
        }
        self.input = input[at..].to_vec();
        Ok(Flow::Done)
    }
}

impl Ssi {
    fn is_shown(&self) -> bool {
        self.conditions.last().is_none_or(|condition| condition.is_active)
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<Piece>) {
        if let Some((_, block)) = &mut self.block {
            block.extend_from_slice(text);
        } else if self.is_shown() {
            out.push(Piece::Bytes(text.to_vec()));
        }
    }

    /// The answer of an include with a stub is here: it, or the stub.
    fn answer_stub(&mut self, request: &mut Request, out: &mut Vec<Piece>) {
        let Some(name) = self.stub.take() else { return };
        let kept = request.ssi.as_mut().and_then(|state| state.kept.take());
        match kept {
            Some((status, body)) if status < 300 && !body.is_empty() => out.push(Piece::Bytes(body)),
            _ => {
                // The block may have commands of its own.
                if let Some((_, text)) = self.blocks.iter().find(|(known, _)| *known == name) {
                    self.input.splice(..0, text.iter().copied());
                }
            }
        }
    }

    /// True: what follows must wait for a subrequest.
    fn carry_out(
        &mut self,
        request: &mut Request,
        command: Option<Command>,
        text: &[u8],
        out: &mut Vec<Piece>,
    ) -> bool {
        let name = command.as_ref().map_or(&b""[..], |command| &command.name);
        if self.block.is_some() && name != b"endblock" {
            self.text(text, out);
            return false;
        }
        let is_condition = matches!(name, b"if" | b"elif" | b"else" | b"endif");
        if !self.is_shown() && !is_condition {
            return false;
        }
        let outcome = match command {
            Some(command) => self.run(request, &command, out),
            None => Err("invalid SSI command".to_owned()),
        };
        outcome.unwrap_or_else(|why| {
            log::error!(core::error_log(request), &*request, "{why}");
            if !self.conf.silent_errors.get(false) {
                out.push(Piece::Bytes(self.error.clone()));
            }
            false
        })
    }

    fn run(&mut self, request: &mut Request, command: &Command, out: &mut Vec<Piece>) -> Result<bool, String> {
        let limit = self.conf.value_length.get(256) as usize;
        let parameter = |name: &'static str| match command.get(name) {
            Some(value) if value.len() > limit => Err(format!("too long \"{name}\" parameter, more than {limit} bytes: \"ssi_value_length\" allows more")),
            Some(value) => Ok(value),
            None => Err(format!("mandatory \"{name}\" parameter is absent in an SSI command")),
        };
        match &*command.name {
            b"echo" => {
                if let Some(encoding) = command.get("encoding") {
                    match Encoding::read(encoding) {
                        Some(encoding) => self.encoding = encoding, // for those that follow as well
                        None => {
                            let name = String::from_utf8_lossy(encoding);
                            log::error!(core::error_log(request), &*request, "unknown encoding \"{}\" in an SSI echo", name);
                        }
                    }
                }
                let value = expression::value(request, &parameter("var")?.to_ascii_lowercase());
                let value = value.unwrap_or_else(|| command.get("default").unwrap_or(b"(none)").to_vec());
                out.push(Piece::Bytes(self.encoding.apply(&value)));
            }
            b"set" => {
                let value = expression::evaluate(request, parameter("value")?);
                set(request, &parameter("var")?.to_ascii_lowercase(), value);
            }
            b"config" => {
                if let Some(message) = command.get("errmsg") {
                    self.error = message.to_vec();
                }
                if let Some(format) = command.get("timefmt") {
                    request.ssi.get_or_insert_default().time_format = Some(format.to_vec());
                }
            }
            b"include" => return self.include(request, command, out),
            b"block" => self.block = Some((parameter("name")?.to_vec(), Vec::new())),
            b"endblock" => self.blocks.extend(self.block.take()),
            b"if" => {
                let is_over = !self.is_shown();
                let is_active = !is_over && expression::is_true(request, parameter("expr")?)?;
                self.conditions.push(Condition { is_active, is_over: is_over || is_active });
            }
            b"elif" => {
                let is_true = !self.condition()?.is_over && expression::is_true(request, parameter("expr")?)?;
                let condition = self.condition()?;
                condition.is_active = is_true;
                condition.is_over |= is_true;
            }
            b"else" => {
                let condition = self.condition()?;
                condition.is_active = !condition.is_over;
                condition.is_over = true;
            }
            b"endif" => {
                self.condition()?;
                self.conditions.pop();
            }
            other => return Err(format!("invalid SSI command: \"{}\"", String::from_utf8_lossy(other))),
        }
        Ok(false)
    }

    fn condition(&mut self) -> Result<&mut Condition, String> {
        self.conditions.last_mut().ok_or_else(|| "SSI command without an \"if\"".to_owned())
    }

    fn include(&mut self, request: &mut Request, command: &Command, out: &mut Vec<Piece>) -> Result<bool, String> {
        let target = match (command.get("virtual"), command.get("file")) {
            (Some(target), None) | (None, Some(target)) => expression::evaluate(request, target),
            _ => return Err("an SSI include needs either \"virtual\" or \"file\"".to_owned()),
        };
        let target = beside(&request.uri, target);
        let (path, args) = match memchr::memchr(b'?', &target) {
            Some(at) => (&target[..at], target[at + 1..].to_vec()),
            None => (&*target, Vec::new()),
        };
        let mut uri = Vec::new();
        // nginx does not resolve `..`: who writes it did not mean it
        let is_safe = !path.split(|byte| *byte == b'/').any(|segment| segment == b"..");
        if !is_safe || normalize_uri(path, true, &mut uri).is_err() {
            let target = String::from_utf8_lossy(&target);
            return Err(format!("the URI \"{target}\" of an SSI include leads nowhere in this server"));
        }
        let then = match (command.get("set"), command.get("stub")) {
            (Some(name), _) => {
                Then::Keep { max: None, done: Done { name: name.to_ascii_lowercase(), take: keep_variable } }
            }
            (None, Some(stub)) => {
                self.stub = Some(stub.to_vec());
                Then::Keep { max: Some(STUBBED_BYTES_MAX), done: Done { name: Vec::new(), take: keep_answer } }
            }
            (None, None) => Then::Insert,
        };
        let waits = !matches!(then, Then::Insert) || command.get("wait").is_some_and(|word| word == b"yes");
        out.push(Piece::Subrequest(Subrequest { uri, args, then }));
        Ok(waits)
    }
}

/// A target that does not begin at the root begins where the page lies.
fn beside(page: &[u8], target: Vec<u8>) -> Vec<u8> {
    if target.first() == Some(&b'/') {
        return target;
    }
    let folder = memchr::memrchr(b'/', page).map_or(&b""[..], |at| &page[..=at]);
    let mut path = Vec::with_capacity(folder.len() + target.len());
    escape_uri(folder, Escape::Uri, &mut path); // what follows is decoded once more
    path.extend_from_slice(&target);
    path
}

fn keep_variable(request: &mut Request, name: &[u8], _: u16, body: Vec<u8>) {
    set(request, name, body);
}

fn keep_answer(request: &mut Request, _: &[u8], status: u16, body: Vec<u8>) {
    request.ssi.get_or_insert_default().kept = Some((status, body));
}

fn set(request: &mut Request, name: &[u8], value: Vec<u8>) {
    let variables = &mut request.ssi.get_or_insert_default().variables;
    variables.retain(|(known, _)| known != name);
    variables.push((name.to_vec(), value));
}

/// How a value is shown.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    Plain,
    Url,
    Entity,
}

impl Encoding {
    fn read(name: &[u8]) -> Option<Self> {
        match name {
            b"none" => Some(Self::Plain),
            b"url" => Some(Self::Url),
            b"entity" => Some(Self::Entity),
            _ => None,
        }
    }

    fn apply(self, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(value.len());
        match self {
            Self::Plain => out.extend_from_slice(value),
            Self::Url => escape_uri(value, Escape::Html, &mut out),
            Self::Entity => escape_html(value, &mut out),
        }
        out
    }
}

fn date(request: &Request, is_gmt: bool, out: &mut Vec<u8>) -> bool {
    let format = request.ssi.as_ref().and_then(|state| state.time_format.as_deref()).unwrap_or(TIME_FORMAT);
    clock_local::format(clock::wall_seconds(), is_gmt, format, out);
    true
}
