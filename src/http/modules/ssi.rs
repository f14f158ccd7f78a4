//! Server-side includes: commands in a page that insert other pages or variables, or select parts by
//! condition.
//!
//! A body filter. Touches: the request's variables; subrequests for `include`. The page after an include is
//! processed without waiting for it, unless it says `wait`. The filter holds back one unfinished command; the
//! number of commands and the memory they keep are bounded (`ssi/store.rs`, and here).
//! Behaviour: nginx.org, ngx_http_ssi_module.

mod command;
mod expression;
mod patterns;
mod store;

use crate::base::path::{Escape, escape_html, escape_uri, normalize_uri};
use crate::config::directive::{Accepted, accepted, custom, flag, size};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::error::Error;
use crate::http::request::subrequest::{Done, Subrequest, Then};
use crate::http::request::{Request, states};
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::response::media_types::MediaTypes;
use crate::http::scope::Variable;
use crate::log;
use crate::proto::header::Id;
use crate::script::variable::variable;
use crate::sys::{clock, clock_local};
use command::{Broken, Command, Cursor, Found};
use std::rc::Rc;
use store::{Blocks, Texts, Variables};

/// Maximum number of commands of a request, in its own page and in those that it includes.
const COMMANDS_MAX: u32 = 50_000;
/// Maximum nesting of conditions.
const CONDITIONS_MAX: usize = 50;
/// Commands are interrupted to send their output when it reaches this size.
const MADE_BYTES_MAX: usize = 64 * 1024;
/// The text in place of a failed command, unless `config errmsg` sets another one.
const ERROR: &[u8] = b"[an error occurred while processing the directive]";
const TIME_FORMAT: &[u8] = b"%A, %d-%b-%Y %H:%M:%S %Z";
/// Maximum length of the response to an include with a stub.
const STUBBED_BYTES_MAX: usize = 1024 * 1024;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        on: Setting<bool> = false,
        silent_errors: Setting<bool> = false,
        last_modified: Setting<bool> = false,
        value_length: Setting<u64> = 256,
        types: MediaTypes,
    }
}

/// What SSI commands have set, once one has set something.
pub type State = Option<Box<Session>>;

/// Lent; copied for an include that is made before its turn, which has the values as they are then.
impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        let lent = outer.states.ssi.take();
        // The included page puts its own blocks in the place of these.
        let blocks = lent.as_ref().and_then(|session| session.blocks.clone());
        outer.states.ssi =
            blocks.map(|blocks| Box::new(Session { blocks: Some(blocks), ..Session::default() }));
        lent
    }

    fn take_back(outer: &mut Request, inner: &mut Request) {
        let own = outer.states.ssi.take();
        outer.states.ssi = inner.states.ssi.take();
        if let Some(session) = &mut outer.states.ssi {
            session.blocks = own.and_then(|own| own.blocks);
        }
    }

    fn copy(outer: &Request) -> Self {
        outer.states.ssi.clone()
    }
}

/// State that the commands of a response share with those of its subrequests.
#[derive(Clone, Debug, Default)]
pub struct Session {
    variables: Variables,
    time_format: Option<Vec<u8>>,
    /// Commands that have been run.
    commands: u32,
    /// Expressions that have been compiled, and those that gave up.
    compiled: u16,
    given_up: u16,
    /// The response to an include that has a stub.
    kept: Option<(u16, Vec<u8>)>,
    /// The blocks of the page that has included others last: these may use them.
    blocks: Option<Rc<Texts>>,
}

const CONTEXTS: Context = Context::ANY.or(Context::LOCATION_IF);
const ONE: Arity = Arity::exactly(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("ssi", CONTEXTS, |c| &mut c.on, "Processes SSI commands in responses."),
    flag("ssi_silent_errors", Context::ANY, |c| &mut c.silent_errors, "Outputs nothing instead of a message when a command fails."),
    flag("ssi_last_modified", Context::ANY, |c| &mut c.last_modified, "Keeps the Last-Modified field of a page with SSI."),
    size("ssi_value_length", Context::ANY, |c| &mut c.value_length, "Limits the length of a parameter's value in a command."),
    custom("ssi_types", Context::ANY, Arity::at_least(1), types,
        "Adds media types, besides text/html, in which SSI commands are processed; * matches all.").default("text/html"),
    accepted("ssi_min_file_chunk", Context::ANY, ONE, Accepted::Size, "Files are read in parts, as they are needed.").default("1k"),
    accepted("ssi_ignore_recycled_buffers", Context::ANY, ONE, Accepted::Flag, "Output is sent as soon as it is ready.").default("off"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("date_local", |request, _, out| date(request, false, out), "The local time, in the format of config timefmt."),
    variable("date_gmt", |request, _, out| date(request, true, out), "The time in GMT, in the format of config timefmt."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.on.get()
    }
}

fn types(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.types.add(node, &mut cx.diagnostics);
    Ok(())
}

impl Conf {
    /// True if responses of this type are searched for commands.
    pub fn applies(&self, content_type: &[u8]) -> bool {
        self.on.get() && self.types.has(Some(content_type), &["text/html"])
    }
}

/// Prepares a response with commands: its length is unknown, and its validators no longer apply.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.ssi;
    if !conf.on.get() {
        return;
    }
    let headers = &mut request.response.headers;
    if !conf.applies(headers.get(Id::ContentType).unwrap_or(b""))
        || request.response.content_length == Some(0)
    {
        return;
    }
    if !conf.last_modified.get() {
        headers.remove(Id::LastModified);
        headers.remove(Id::Etag);
    }
    request.response.body_changes();
    let outer = request.states.ssi.as_ref().and_then(|state| state.blocks.clone());
    let filter = Ssi {
        conf,
        input: Vec::new(),
        cursor: Cursor::default(),
        stubs: Vec::new(),
        conditions: Vec::new(),
        ignored: 0,
        blocks: Blocks::within(outer),
        stub: None,
        error: ERROR.to_vec(),
        encoding: Encoding::Entity,
    };
    request.filters.get_or_insert_default().add(filter);
}

/// An open `if`.
#[derive(Clone, Copy, Debug)]
struct Condition {
    /// Text at this point is shown.
    is_active: bool,
    /// One of its branches has been shown, or all of it is inside a hidden branch.
    is_over: bool,
}

/// A block that replaces the response of an include, and how far it has been read.
#[derive(Debug)]
struct Stub {
    text: Rc<[u8]>,
    cursor: Cursor,
    /// How many stubs are nested here.
    levels: usize,
}

#[derive(Debug)]
struct Ssi {
    conf: &'static Conf,
    /// Input that has not been processed yet.
    input: Vec<u8>,
    cursor: Cursor,
    /// Stubs to process before it, the innermost last.
    stubs: Vec<Stub>,
    conditions: Vec<Condition>,
    /// Open conditions beyond the maximum nesting.
    ignored: usize,
    blocks: Blocks,
    /// The name of the block that is the stub of the current include, and how deeply that include is nested
    /// in stubs.
    stub: Option<(Vec<u8>, usize)>,
    error: Vec<u8>,
    /// The encoding of the last echo that set one.
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
        self.input.extend_from_slice(data);
        self.answer_stub(request, out);
        while let Some(mut stub) = self.stubs.pop() {
            let flow = self.read(request, &stub.text, &mut stub.cursor, stub.levels, true, out);
            if flow == Flow::Wait {
                self.stubs.push(stub);
                return Ok(flow);
            }
        }
        let (input, mut cursor) = (std::mem::take(&mut self.input), std::mem::take(&mut self.cursor));
        let flow = self.read(request, &input, &mut cursor, 0, signal == Signal::End, out);
        (self.input, self.cursor) = (input, cursor);
        // processed input is removed only when it is the larger part, otherwise each include would move the
        // rest
        if flow == Flow::Done || self.cursor.at() > self.input.len() / 2 {
            self.input.drain(..self.cursor.at());
            self.cursor.rewind();
        }
        Ok(flow)
    }
}

impl Ssi {
    /// Processes a text from the cursor on, to its end, or until a subrequest must be awaited or output must
    /// be sent.
    fn read(
        &mut self,
        request: &mut Request,
        text: &[u8],
        cursor: &mut Cursor,
        levels: usize,
        is_end: bool,
        out: &mut Vec<Piece>,
    ) -> Flow {
        let value_max = self.conf.value_length.get() as usize;
        let (mut made, mut counted) = (0, out.len());
        loop {
            let at = cursor.at();
            match cursor.next(text, value_max, is_end) {
                Found::Text(length) => self.text(request, &text[at..at + length], out),
                Found::Dropped(_) if !is_end => {}
                Found::Dropped(length) => {
                    self.carry_out(request, Err(Broken::Syntax), &text[at..at + length], levels, out);
                }
                Found::Command(command, length) => {
                    if self.carry_out(request, command, &text[at..at + length], levels, out) {
                        return Flow::Wait;
                    }
                }
                Found::Partial => return Flow::Done,
            }
            made += out[counted..].iter().map(Piece::byte_count).sum::<usize>();
            counted = out.len();
            if made > MADE_BYTES_MAX && cursor.at() < text.len() {
                return Flow::Wait;
            }
        }
    }

    fn is_shown(&self) -> bool {
        self.conditions.last().is_none_or(|condition| condition.is_active)
    }

    fn text(&mut self, request: &Request, text: &[u8], out: &mut Vec<Piece>) {
        if self.blocks.is_open() {
            if let Err(why) = self.blocks.push(text) {
                self.failed(request, &why, out);
            }
        } else if self.is_shown() {
            out.push(Piece::Bytes(text.to_vec()));
        }
    }

    fn failed(&self, request: &Request, why: &str, out: &mut Vec<Piece>) {
        if !why.is_empty() {
            log::error!(request.error_log(), request, "{why}");
        }
        if !self.conf.silent_errors.get() {
            out.push(Piece::Bytes(self.error.clone()));
        }
    }

    /// Continues after an include with a stub has been answered: with its response, or with the stub.
    fn answer_stub(&mut self, request: &mut Request, out: &mut Vec<Piece>) {
        let Some((name, levels)) = self.stub.take() else { return };
        let kept = request.states.ssi.as_mut().and_then(|state| state.kept.take());
        match kept {
            Some((status, body)) if status < 300 && !body.is_empty() => out.push(Piece::Bytes(body)),
            _ => {
                // The block may contain commands.
                if let Some(text) = self.blocks.get(&name) {
                    self.stubs.push(Stub { text, cursor: Cursor::default(), levels: levels + 1 });
                }
            }
        }
    }

    /// Runs a command. True: the rest must wait for a subrequest.
    fn carry_out(
        &mut self,
        request: &mut Request,
        command: Result<Command, Broken>,
        text: &[u8],
        levels: usize,
        out: &mut Vec<Piece>,
    ) -> bool {
        let name = command.as_ref().map_or(&b""[..], |command| &command.name);
        if self.blocks.is_open() && name != b"endblock" {
            self.text(request, text, out);
            return false;
        }
        let is_condition = matches!(name, b"if" | b"elif" | b"else" | b"endif");
        if !self.is_shown() && !is_condition {
            return false;
        }
        let outcome = count(request).and_then(|()| match command {
            Ok(command) => self.run(request, &command, levels, out),
            Err(Broken::Syntax) => Err("invalid SSI command".to_owned()),
            Err(Broken::CommandTooLong) => Err("too long SSI command".to_owned()),
            Err(Broken::ValueTooLong) => {
                let limit = self.conf.value_length.get();
                Err(format!("too long parameter of an SSI command, more than {limit} bytes: \"ssi_value_length\" allows more"))
            }
        });
        outcome.unwrap_or_else(|why| {
            self.failed(request, &why, out);
            false
        })
    }

    fn run(
        &mut self,
        request: &mut Request,
        command: &Command,
        levels: usize,
        out: &mut Vec<Piece>,
    ) -> Result<bool, String> {
        let parameter = |name: &'static str| {
            command
                .get(name)
                .ok_or_else(|| format!("mandatory \"{name}\" parameter is absent in an SSI command"))
        };
        match &*command.name {
            b"echo" => {
                if let Some(encoding) = command.get("encoding") {
                    match Encoding::read(encoding) {
                        Some(encoding) => self.encoding = encoding, // it also applies to later commands
                        None => {
                            let name = String::from_utf8_lossy(encoding);
                            log::error!(
                                request.error_log(),
                                &*request,
                                "unknown encoding \"{}\" in an SSI echo",
                                name
                            );
                        }
                    }
                }
                let value = expression::value(request, &parameter("var")?.to_ascii_lowercase());
                let value = value.unwrap_or_else(|| command.get("default").unwrap_or(b"(none)").to_vec());
                out.push(Piece::Bytes(self.encoding.apply(&value)));
            }
            b"set" => {
                let value = expression::evaluate(request, parameter("value")?)?;
                set(request, &parameter("var")?.to_ascii_lowercase(), &value)?;
            }
            b"config" => {
                if let Some(message) = command.get("errmsg") {
                    self.error = message.to_vec();
                }
                if let Some(format) = command.get("timefmt") {
                    request.states.ssi.get_or_insert_default().time_format = Some(format.to_vec());
                }
            }
            b"include" => return self.include(request, command, levels, out),
            b"block" => self.blocks.open(parameter("name")?),
            b"endblock" => self.blocks.close(),
            b"if" if self.ignored > 0 || self.conditions.len() == CONDITIONS_MAX => {
                self.ignored += 1;
                return Err(format!("more than {CONDITIONS_MAX} SSI conditions inside one another"));
            }
            b"endif" if self.ignored > 0 => self.ignored -= 1,
            b"elif" | b"else" if self.ignored > 0 => {}
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

    fn include(
        &mut self,
        request: &mut Request,
        command: &Command,
        levels: usize,
        out: &mut Vec<Piece>,
    ) -> Result<bool, String> {
        let target = match (command.get("virtual"), command.get("file")) {
            (Some(target), None) | (None, Some(target)) => expression::evaluate(request, target)?,
            _ => return Err("an SSI include needs either \"virtual\" or \"file\"".to_owned()),
        };
        let target = beside(&request.uri, target);
        let (path, args) = match memchr::memchr(b'?', &target) {
            Some(at) => (&target[..at], target[at + 1..].to_vec()),
            None => (&*target, Vec::new()),
        };
        let mut uri = Vec::new();
        // nginx rejects `..` here; so do we
        let is_safe = !path.split(|byte| *byte == b'/').any(|segment| segment == b"..");
        if !is_safe || normalize_uri(path, true, &mut uri).is_err() {
            let target = String::from_utf8_lossy(&target);
            return Err(format!("the URI \"{target}\" of an SSI include leads nowhere in this server"));
        }
        // Any case is right, as in nginx.
        let waits = match command.get("wait") {
            None => false,
            Some(_) if command.get("virtual").is_none() => {
                return Err("\"wait\" cannot be used with \"file\" in an SSI include".to_owned());
            }
            Some(word) if word.eq_ignore_ascii_case(b"yes") => true,
            Some(word) if word.eq_ignore_ascii_case(b"no") => false,
            Some(word) => {
                let word = String::from_utf8_lossy(word);
                return Err(format!("invalid value \"{word}\" of \"wait\" in an SSI include"));
            }
        };
        let (then, stub) = match (command.get("set"), command.get("stub")) {
            (Some(_), Some(_)) => {
                return Err("\"set\" and \"stub\" cannot be used together in an SSI include".to_owned());
            }
            (None, Some(stub)) if self.blocks.get(stub).is_none() => {
                let stub = String::from_utf8_lossy(stub);
                return Err(format!("the block \"{stub}\", the stub of an SSI include, is not there"));
            }
            (Some(name), None) => (
                Then::Keep { max: None, done: Done { name: name.to_ascii_lowercase(), take: keep_variable } },
                None,
            ),
            (None, Some(stub)) => {
                let done = Done { name: Vec::new(), take: keep_answer };
                (Then::Keep { max: Some(STUBBED_BYTES_MAX), done }, Some((stub.to_vec(), levels)))
            }
            (None, None) => (Then::Insert, None),
        };
        let waits = waits || !matches!(then, Then::Insert);
        request.states.ssi.get_or_insert_default().blocks = Some(self.blocks.texts());
        let subrequest = Subrequest::new(request, levels, uri, args, then)
            .map_err(|refusal| if refusal.is_told { String::new() } else { refusal.to_string() })?;
        self.stub = stub;
        out.push(Piece::Subrequest(subrequest));
        Ok(waits)
    }
}

/// Resolves a target that does not start with a slash relative to the page.
fn beside(page: &[u8], target: Vec<u8>) -> Vec<u8> {
    if target.first() == Some(&b'/') {
        return target;
    }
    let folder = memchr::memrchr(b'/', page).map_or(&b""[..], |at| &page[..=at]);
    let mut path = Vec::with_capacity(folder.len() + target.len());
    escape_uri(folder, Escape::Uri, &mut path); // the path is decoded once more later
    path.extend_from_slice(&target);
    path
}

fn keep_variable(request: &mut Request, name: &[u8], _: u16, body: Vec<u8>) {
    if let Err(why) = set(request, name, &body) {
        log::error!(request.error_log(), &*request, "{why}");
    }
}

fn keep_answer(request: &mut Request, _: &[u8], status: u16, body: Vec<u8>) {
    request.states.ssi.get_or_insert_default().kept = Some((status, body));
}

/// Sets a variable. Errors: it would exceed a limit.
fn set(request: &mut Request, name: &[u8], value: &[u8]) -> Result<(), String> {
    request.states.ssi.get_or_insert_default().variables.set(name, value)
}

/// Counts a command. Errors: there were too many; the text is empty once that has been logged.
fn count(request: &mut Request) -> Result<(), String> {
    let state = request.states.ssi.get_or_insert_default();
    state.commands = state.commands.saturating_add(1);
    match state.commands {
        0..=COMMANDS_MAX => Ok(()),
        count if count == COMMANDS_MAX + 1 => {
            Err(format!("too many SSI commands: a request has at most {COMMANDS_MAX}"))
        }
        _ => Err(String::new()),
    }
}

/// How to encode a value for output.
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
    let format =
        request.states.ssi.as_ref().and_then(|state| state.time_format.as_deref()).unwrap_or(TIME_FORMAT);
    clock_local::format(clock::wall_seconds(), is_gmt, format, out);
    true
}
