//! The imperative part of the language: `set` and `return`, in the order of the file.
//!
//! Runs in the server-rewrite and rewrite phases. Touches: the request's slots and captures.
//! Behaviour: nginx.org, ngx_http_rewrite_module.

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Merge, Node};
use crate::http::compile::Cx;
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::pipeline::{self, Reply, Verdict};
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::variable::Variable;

#[derive(Debug)]
enum Step {
    Set { slot: usize, value: Script },
    Return { status: u16, text: Option<Script> },
}

/// The steps of one block, run in the order of the file.
#[derive(Debug, Default)]
pub struct Conf {
    steps: Vec<Step>,
}

const CONTEXTS: Context =
    Context::SERVER.or(Context::LOCATION).or(Context::SERVER_IF).or(Context::LOCATION_IF);

pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("set", CONTEXTS, Arity::exactly(2), set, "Sets a variable to a value."),
    custom("return", CONTEXTS, Arity::between(1, 2), return_, "Answers with a status and a text or a URL to go to; 444 closes the connection."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    /// Steps belong to the block they stand in.
    fn merge(&mut self, _: &Self) {}
}

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

fn set(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let Some(name) = node.arg(0).strip_prefix('$').filter(|name| !name.is_empty()) else {
        let message = format!("invalid variable name \"{}\"", node.arg(0));
        let help = format!("a variable's name begins with \"$\": set ${} …", node.arg(0));
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    };
    let slot = cx.variables.slot(name);
    let value = Script::compile(&node.args[1], cx)?;
    conf.steps.push(Step::Set { slot, value });
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
        (Err(_), None) if first.starts_with("http://") || first.starts_with("https://") || first.starts_with('$') => {
            Step::Return { status: 302, text: Some(Script::compile(&node.args[0], cx)?) }
        }
        (Err(_), _) => {
            let diagnostic = Diagnostic::error(node.arg_span(0), format!("invalid return code \"{first}\""));
            return Err(diagnostic.help("write `return CODE [text];` or `return URL;`"));
        }
    };
    conf.steps.push(step);
    Ok(())
}

pub fn server_rewrite(request: &mut Request) -> Verdict {
    run(&request.server.root.rewrite, request)
}

pub fn rewrite(request: &mut Request) -> Verdict {
    // Outside of any location the server's steps have been run already.
    if std::ptr::eq(request.location, &request.server.root) {
        return Verdict::Next;
    }
    run(&request.location.rewrite, request)
}

fn run(conf: &'static Conf, request: &mut Request) -> Verdict {
    for step in &conf.steps {
        match step {
            Step::Set { slot, value } => {
                let value = value.to_vec(request);
                request.set_slot(*slot, value);
            }
            Step::Return { status, text } => return Verdict::Done(answer(request, *status, text.as_ref())),
        }
    }
    Verdict::Next
}

fn answer(request: &mut Request, status: u16, text: Option<&'static Script>) -> Reply {
    let Some(text) = text else {
        return match status {
            444 => Reply::Hangup,
            ..300 => pipeline::text(status, &core::content_type(request), Vec::new()),
            _ => Reply::Status(status),
        };
    };
    if status >= 400 && text.as_text() == Some(b"") {
        return Reply::Status(status); // no text: the status's page
    }
    let value = text.to_vec(request);
    if matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Reply::Redirect(status, value);
    }
    let content_type = core::content_type(request);
    pipeline::text(status, &content_type, value)
}
