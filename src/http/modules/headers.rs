//! Fields that the configuration adds to responses: `add_header`, `add_trailer`, `expires`.
//!
//! Runs on every response head, and at the end of bodies that have trailers. Touches: the request's variables, the
//! response's fields and trailers. Behaviour: nginx.org, ngx_http_headers_module.

mod expires;

use std::sync::Arc;

use crate::config::directive::{custom, one_of};
use crate::config::inherit::{replace, together};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, keywords, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::proto::field_text::{Text, Token};
use crate::proto::header::Id;

#[derive(Clone, Debug)]
struct Field {
    name: Box<str>,
    value: Script,
    /// The id of the name. An added `Content-Type` has none: it is an additional field, not the response's
    /// own.
    id: Option<Id>,
    /// Added for any status.
    always: bool,
    /// A field that a response has only once (nginx's list), which is then replaced.
    replaces: Option<Id>,
}

/// How an inner block inherits the outer one's fields (`add_header_inherit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// If it has none of its own.
    On,
    Off,
    /// In addition, after its own.
    Merge,
}

keywords!(Rule { "on" => On, "off" => Off, "merge" => Merge });

settings! {
    #[derive(Debug)]
    pub struct Conf {
        fields: Vec<Field> => together,
        trailers: Vec<Field> => together,
        fields_rule: Setting<Rule> = Rule::On,
        trailers_rule: Setting<Rule> = Rule::On,
        expires: Inherit<Arc<expires::Setting>>,
    }
    then inherit_lists
}

const ANYWHERE: Context = Context::ANY.or(Context::LOCATION_IF);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("add_header", ANYWHERE, Arity::between(2, 3), add_header,
        "Adds a field to responses with status 200, 201, 204, 206, 301, 302, 303, 304, 307 or 308, or to all responses with always. ETag and Last-Modified \
         replace the response's own fields."),
    one_of("add_header_inherit", ANYWHERE, |c| &mut c.fields_rule,
        "Selects when a block inherits add_header: only if it has none of its own (on), never (off), or in addition, after its own (merge)."),
    custom("add_trailer", ANYWHERE, Arity::between(2, 3), add_trailer,
        "Adds a trailer field after the body of responses with the statuses of add_header, or of all responses with always. The body is then sent chunked."),
    one_of("add_trailer_inherit", ANYWHERE, |c| &mut c.trailers_rule, "Does the same as add_header_inherit, for add_trailer."),
    custom("expires", ANYWHERE, Arity::between(1, 2), set_expires,
        "Sets how long responses stay fresh, as Expires and Cache-Control: a time from now or, after modified, from the last modification; @15h30m for a \
         time of the day; epoch, max or off.").default("off"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn is_shared(&self) -> bool {
        let is_cut = |rule: &Setting<Rule>, fields: &[Field]| rule.get() == Rule::Off && !fields.is_empty();
        !is_cut(&self.fields_rule, &self.fields) && !is_cut(&self.trailers_rule, &self.trailers)
    }

    fn acts(&self) -> bool {
        !self.fields.is_empty() || !self.trailers.is_empty() || self.expires.is_set()
    }
}

fn inherit_lists(conf: &mut Conf, outer: &Conf) {
    inherit(conf.fields_rule.get(), &mut conf.fields, &outer.fields);
    inherit(conf.trailers_rule.get(), &mut conf.trailers, &outer.trailers);
}

fn inherit(rule: Rule, own: &mut Vec<Field>, outer: &[Field]) {
    match rule {
        Rule::On => replace(own, outer),
        Rule::Off => {}
        Rule::Merge => own.extend_from_slice(outer),
    }
}

fn add_header(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.fields.push(field(cx, node)?);
    Ok(())
}

fn add_trailer(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.trailers.push(field(cx, node)?);
    Ok(())
}

fn field(cx: &mut Cx, node: &Node) -> Result<Field, Diagnostic> {
    let always = match node.args.get(2) {
        None => false,
        Some(word) if &*word.text == "always" => true,
        Some(word) => {
            let message = format!("invalid parameter \"{}\"", word.text);
            return Err(Diagnostic::error(word.span, message).help("only \"always\" may follow the value"));
        }
    };
    let value = Script::compile(&node.args[1], cx)?;
    let name: Box<str> = node.arg(0).into();
    if Token::new(name.as_bytes()).is_none() {
        let diagnostic =
            Diagnostic::error(node.arg_span(0), format!("\"{name}\" is not a valid header name"));
        let bare = name.trim_end_matches(':').trim();
        return Err(match Token::new(bare.as_bytes()) {
            Some(_) => diagnostic.help(format!("write the name alone: {bare}")),
            None => diagnostic.help("a name is made of letters, digits and !#$%&'*+-.^_`|~"),
        });
    }
    let replaces = [Id::Etag, Id::LastModified].into_iter().find(|id| name.eq_ignore_ascii_case(id.name()));
    let id = Id::of(name.as_bytes()).filter(|id| *id != Id::ContentType);
    Ok(Field { name, value, id, always, replaces })
}

fn set_expires(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let setting = expires::Setting::read(node, cx)?;
    conf.expires.put(Arc::new(setting), node)
}

/// Adds the fields for the response's status. An empty value adds nothing; for a field that can occur only
/// once it removes the response's own.
pub fn add(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.headers;
    // The head of a subrequest is never sent. Evaluating a `map` here would also cache a value taken from the
    // wrong head.
    if request.is_subrequest() {
        return;
    }
    if conf.fields.is_empty() && conf.trailers.is_empty() && !conf.expires.is_set() {
        return;
    }
    let is_usual = is_usual(request.response.status);
    if let Some(setting) = conf.expires.as_ref().filter(|_| is_usual) {
        expires::apply(setting, request);
    }
    for field in conf.fields.iter().filter(|field| field.always || is_usual) {
        let value = field.value.to_vec(request);
        let response = &mut request.response;
        let headers = &mut response.headers;
        match field.replaces {
            None if value.is_empty() => {}
            None => headers.push_with(field.id, field.name.as_bytes(), &value),
            Some(id) => {
                // the file's own date has a fixed position
                if value.is_empty() || response.first == Some(id) {
                    response.first = response.first.filter(|first| *first != id);
                    headers.remove(id);
                }
                if !value.is_empty() {
                    headers.set(id, &value);
                }
            }
        }
    }
    request.response.has_trailers |= conf.trailers.iter().any(|field| field.always || is_usual);
}

/// Adds the trailer fields; their variables may be known only at the end of the body.
pub fn add_trailers(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.headers;
    let is_usual = is_usual(request.response.status);
    for field in conf.trailers.iter().filter(|field| field.always || is_usual) {
        let value = field.value.to_vec(request);
        let value = Text::clean(&value);
        if let (Some(name), false) = (Token::new(field.name.as_bytes()), value.as_bytes().is_empty()) {
            request.response.trailers.push(name, &value);
        }
    }
}

/// The statuses for which `add_header` applies without `always`.
fn is_usual(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}
