//! The imperative part of the language: `rewrite`, `if`, `set`, `return` and `break`, run in the order of the
//! file.
//!
//! Runs in the server-rewrite and rewrite phases. Touches: the request's URI, slots and captures; the file
//! system if an `if` tests a file. An `if` in a location has settings of its own (`location::Nameless`): once
//! its condition holds they replace those of the location and of every earlier `if`.
//! Behaviour: nginx.org, ngx_http_rewrite_module.

mod condition;
mod replacement;
pub mod traps;

use crate::config::directive::{block, custom};
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::config::location::Location;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::target;
use crate::http::scope::{Script, Target, Variable};
use crate::http::verdict::{Reply, Verdict, hangs_up};
use crate::log;
use condition::Condition;
use replacement::Rewrite;

#[derive(Debug)]
enum Step {
    Set { target: Target, value: Script },
    Return { status: u16, text: Option<Script> },
    Rewrite(Box<Rewrite>),
    If(Box<If>),
    Break,
}

#[derive(Debug)]
struct If {
    condition: Condition,
    steps: Vec<Step>,
    /// Index of the `if`'s settings in the location; `None` in a server.
    settings: Option<usize>,
}

settings! {
    /// The steps of one block, run in the order of the file.
    #[derive(Debug)]
    pub struct Conf {
        steps: Vec<Step> => own,
    }
}

const CONTEXTS: Context =
    Context::SERVER.or(Context::LOCATION).or(Context::SERVER_IF).or(Context::LOCATION_IF);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("rewrite", CONTEXTS, Arity::between(2, 3), rewrite_,
        "Changes the path if it matches a regular expression. The flag last searches for a location again, break does not; redirect (302) and permanent \
         (301) redirect the client. A ? at the end of the replacement drops the arguments."),
    block("if", Context::SERVER.or(Context::LOCATION), Arity::at_least(1), if_,
        "Holds directives for requests that meet a condition: ($variable), ($variable = text), !=, ~ and ~* with a regular expression, !~, !~*, and -f, \
         -d, -e, -x with a path, or these after !.").opens(&[(Context::SERVER, Context::SERVER_IF), (Context::LOCATION, Context::LOCATION_IF)]),
    custom("set", CONTEXTS, Arity::exactly(2), set, "Sets a variable to a value."),
    custom("return", CONTEXTS, Arity::between(1, 2), return_, "Responds with a status and an optional text or redirect URL. Status 444 closes the connection."),
    custom("break", CONTEXTS, Arity::exactly(0), break_, "Stops processing rewrite directives for the location. The path keeps the changes made so far."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false;

    fn acts(&self) -> bool {
        !self.steps.is_empty()
    }
}

impl Conf {
    /// True if something depends on a condition.
    pub fn has_conditions(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::If(_)))
    }

    /// True if no request stays in the location after the last step: it is answered, or moves to another
    /// location.
    pub fn always_ends(&self) -> bool {
        match self.steps.last() {
            Some(Step::Return { .. }) => true,
            Some(Step::Rewrite(rewrite)) => rewrite.leaves(),
            _ => false,
        }
    }
}

fn set(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let word = &node.args[0];
    let target = cx.variables.set_target(word)?;
    let value = Script::compile(&node.args[1], cx)?;
    conf.steps.push(Step::Set { target, value });
    Ok(())
}

fn return_(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let first = node.arg(0);
    let step = match (first.parse::<u16>(), node.args.get(1)) {
        (Ok(status), _) if status > 999 => {
            return Err(Diagnostic::error(node.arg_span(0), format!("invalid return code \"{first}\"")));
        }
        (Ok(status), text) => {
            let text = text.map(|word| Script::compile(word, cx)).transpose()?;
            Step::Return { status, text }
        }
        // `return URL;` is a temporary redirect.
        (Err(_), None) if ["http://", "https://", "$scheme"].iter().any(|start| first.starts_with(start)) => {
            Step::Return { status: 302, text: Some(Script::compile(&node.args[0], cx)?) }
        }
        (Err(_), _) => {
            let diagnostic = Diagnostic::error(node.arg_span(0), format!("invalid return code \"{first}\""));
            return Err(diagnostic.help("write `return CODE [text];`, or `return URL;` with a URL that begins with http://, https:// or $scheme"));
        }
    };
    conf.steps.push(step);
    Ok(())
}

fn rewrite_(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.steps.push(Step::Rewrite(Box::new(Rewrite::compile(node, cx)?)));
    Ok(())
}

fn if_(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let condition = Condition::compile(node, cx);
    let in_location = cx.is_in_location();
    let context = if in_location { Context::LOCATION_IF } else { Context::SERVER_IF };
    // Report errors inside the block even if the condition is wrong.
    let mut partial = cx.block(node, context);
    let own = partial.rewrite.take().unwrap_or_default();
    let ends = own.always_ends();
    let settings = in_location.then(|| cx.add_if(partial, node.span, ends));
    conf.steps.push(Step::If(Box::new(If { condition: condition?, steps: own.steps, settings })));
    Ok(())
}

fn break_(conf: &mut Conf, _: &mut Cx, _: &Node) -> Result<(), Diagnostic> {
    conf.steps.push(Step::Break);
    Ok(())
}

pub fn server_rewrite(request: &mut Request) -> Verdict {
    let location = &request.server.root;
    if location.confs.rewrite.steps.is_empty() {
        return Verdict::Next;
    }
    start(location, request)
}

pub fn rewrite(request: &mut Request) -> Verdict {
    let location = request.location;
    // Outside of any location the server's steps have already been run.
    if location.confs.rewrite.steps.is_empty() || std::ptr::eq(location, &request.server.root) {
        return Verdict::Next;
    }
    start(location, request)
}

fn start(location: &'static Location, request: &mut Request) -> Verdict {
    let mut run = Run { location, escapes: true };
    match run.steps(&location.confs.rewrite.steps, request) {
        Flow::Next | Flow::End => Verdict::Next,
        Flow::Done(reply) => Verdict::Done(reply),
    }
}

/// The continuation after a step.
enum Flow {
    Next,
    /// No further step of the block is run.
    End,
    Done(Reply),
}

/// The progress through the steps of one block.
struct Run {
    location: &'static Location,
    /// Captures are inserted as the client escaped them, which is nginx's behaviour until the first `rewrite`
    /// of the block has matched.
    escapes: bool,
}

impl Run {
    fn steps(&mut self, steps: &'static [Step], request: &mut Request) -> Flow {
        for step in steps {
            match self.step(step, request) {
                Flow::Next => {}
                ended => return ended,
            }
        }
        Flow::Next
    }

    fn step(&mut self, step: &'static Step, request: &mut Request) -> Flow {
        match step {
            Step::Set { target, value } => {
                let value = self.value(value, request);
                target.put(request, value);
                Flow::Next
            }
            Step::Return { status, text } => Flow::Done(answer(request, *status, text.as_ref())),
            Step::Rewrite(rewrite) => {
                let flow = rewrite.run(request);
                if let Some(flow) = flow {
                    self.escapes = false;
                    return flow;
                }
                if request.values.gave_up { Flow::End } else { Flow::Next }
            }
            Step::If(inner) => {
                let holds = inner.condition.holds(self, request);
                if request.values.gave_up {
                    return Flow::End;
                }
                if !holds {
                    return Flow::Next;
                }
                if let Some(location) = inner.settings.and_then(|index| self.location.inside_if(index)) {
                    request.route.left_proxy |= request.location.confs.proxy_pass.is_set();
                    target::enter(request, location);
                }
                self.steps(&inner.steps, request)
            }
            Step::Break => {
                request.route.rewriting = request.route.rewriting.broken_off();
                Flow::End
            }
        }
    }

    fn value(&self, value: &'static Script, request: &mut Request) -> Vec<u8> {
        let mut out = Vec::new();
        if self.escapes && replacement::is_escaped(request) {
            value.evaluate_escaped(request, &mut out);
        } else {
            value.evaluate(request, &mut out);
        }
        out
    }
}

fn answer(request: &mut Request, status: u16, text: Option<&'static Script>) -> Reply {
    let Some(text) = text else {
        return match status {
            400.. if hangs_up(status) => Reply::Hangup(status),
            ..=300 | 305 | 306 | 309..400 => Reply::text(status, &request.content_type(), Vec::new()),
            _ => Reply::Status(status),
        };
    };
    if status >= 400 && text.as_text() == Some(b"") {
        return answer(request, status, None); // no text: send the page for the status
    }
    if request.error_page.status.is_none() {
        request.response.status = status; // the variables in the text see the new status
    }
    let value = text.to_vec(request);
    if matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Reply::Redirect(status, value);
    }
    let content_type = request.content_type();
    Reply::text(status, &content_type, value)
}

/// Logs the use of a variable that `set` declares but has not set yet, if the location asks for the warning.
pub fn warn_uninitialized(request: &Request, name: &str) {
    if request.location.confs.rewrite_log.warns() {
        log::warn!(request.error_log(), request, "using uninitialized \"{}\" variable", name);
    }
}

#[cfg(test)]
mod tests;
