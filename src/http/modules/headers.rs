//! Fields that the configuration adds to responses (`add_header`).
//!
//! Runs on every response head. Touches: the request's variables, the response's fields.
//! Behaviour: nginx.org, ngx_http_headers_module.

use crate::config::directive::custom;
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Merge, Node};
use crate::http::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::variable::Variable;

#[derive(Clone, Debug)]
struct Field {
    name: Box<str>,
    value: Script,
    /// Added whatever the status.
    always: bool,
    /// A field that a response has once: nginx's list.
    replaces: bool,
}

#[derive(Debug, Default)]
pub struct Conf {
    fields: Vec<Field>,
}

pub static DIRECTIVES: &[Directive<Conf>] = &[custom(
    "add_header",
    Context::ANY.or(Context::LOCATION_IF),
    Arity::between(2, 3),
    add_header,
    "Adds a field to responses with status 200, 201, 204, 206, 301, 302, 303, 304, 307 or 308, or to all with always. ETag and Last-Modified replace the response's own.",
)];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        replace(&mut self.fields, &outer.fields);
    }
}

impl BlockConf for Conf {}

fn add_header(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
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
    let replaces = name.eq_ignore_ascii_case("ETag") || name.eq_ignore_ascii_case("Last-Modified");
    conf.fields.push(Field { name, value, always, replaces });
    Ok(())
}

/// Adds the fields that belong to the response's status; an empty value adds nothing, or removes what can only
/// stand once.
pub fn add(request: &mut Request) {
    let conf: &'static Conf = &request.location.headers;
    if conf.fields.is_empty() || request.is_subrequest() {
        return;
    }
    let is_usual = matches!(request.response.status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308);
    for field in conf.fields.iter().filter(|field| field.always || is_usual) {
        let value = field.value.to_vec(request);
        let headers = &mut request.response.headers;
        if field.replaces {
            headers.remove_name(field.name.as_bytes());
        }
        if !value.is_empty() {
            headers.push(field.name.as_bytes(), &value);
        }
    }
}
