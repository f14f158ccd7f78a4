//! The parameters of a request to an application (`fastcgi_param`, `uwsgi_param`, `scgi_param`), and the
//! variables that the client's fields become.
//!
//! Touches: the request whose head is encoded. Behaviour: nginx.org, `fastcgi_param` and
//! `fastcgi_pass_request_headers` of ngx_http_fastcgi_module. Unlike nginx, a client's `Proxy` field is not
//! passed on, since it would become `HTTP_PROXY`, in which many programs expect the proxy to use; and of two
//! names that become the same variable only one is passed on.

use std::collections::HashMap;

use crate::config::{Diagnostic, Node};
use crate::http::config::compile::Cx;
use crate::http::modules::http_core::request_port;
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::scope::Script;
use crate::http::upstream::cache::state::{CONDITIONS, Fetch};
use crate::proto::cgi::{self, Pairs, Unsendable};
use crate::proto::header::{Field, Id};
use crate::script::value;

/// One parameter of the configuration.
#[derive(Clone, Debug)]
pub struct Param {
    name: Box<str>,
    value: Script,
    /// Sent with an empty value too; false with `if_not_empty`.
    keeps_empty: bool,
    /// Its value contains the request's path, or the script in it.
    follows_uri: bool,
    /// A client's field could become it.
    is_field: bool,
    /// It is there only so that the client's field is not passed on: as in nginx, a variable of a field with the value "".
    only_replaces: bool,
}

impl Param {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if the client's path decides its value.
    pub fn follows_uri(&self) -> bool {
        self.follows_uri
    }
}

/// Adds a parameter to a list: `name value [if_not_empty]`.
pub fn push(list: &mut Vec<Param>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let keeps_empty = match node.arg(2) {
        "" => true,
        "if_not_empty" => false,
        other => return Err(Diagnostic::error(node.arg_span(2), format!("invalid parameter \"{other}\""))),
    };
    let value = Script::compile(&node.args[1], cx)?;
    let is_path =
        |name: &str| matches!(name, "fastcgi_script_name" | "uri" | "document_uri" | "request_filename");
    let follows_uri = value::names(node.arg(1)).any(is_path);
    let name: Box<str> = node.arg(0).into();
    let is_field = name.as_bytes().strip_prefix(cgi::FIELD_PREFIX).is_some_and(|field| !field.is_empty());
    let only_replaces = is_field && value.as_text() == Some(b"");
    list.push(Param { name, value, keeps_empty, follows_uri, is_field, only_replaces });
    Ok(())
}

/// Writes the parameters of the configuration, then the client's fields.
pub fn write(request: &mut Request, params: &'static [Param], pairs: &mut impl Pairs) {
    for param in params.iter().filter(|param| !param.only_replaces) {
        let value = |out: &mut Vec<u8>| param.value.evaluate(request, out);
        pairs.push(param.name.as_bytes(), param.keeps_empty, value);
    }
    if !is_set(params, HOST) {
        write_host(request, pairs);
    }
    if request.passes().pass_request_headers() {
        write_fields(request, params, pairs);
    }
}

/// The variable of the host that the request is for.
const HOST: &[u8] = b"HTTP_HOST";

/// Writes the host by which the server was chosen: in HTTP/1 a `Host` beside an absolute request target is ignored
/// (RFC 9112 §3.2.2), and an application must not take it for the host either.
fn write_host(request: &Request, pairs: &mut impl Pairs) {
    pairs.push(HOST, false, |out| {
        out.extend_from_slice(request.host_or_name());
        if let Some(port) = request_port(request) {
            out.push(b':');
            out.extend_from_slice(port);
        }
    });
}

/// True if the configuration sets the variable of a client's field.
fn is_set(params: &[Param], name: &[u8]) -> bool {
    params.iter().any(|param| param.is_field && param.name.as_bytes() == name)
}

/// The error for parameters that cannot be sent.
#[cold]
pub fn unsendable(why: &Unsendable) -> Error {
    Error::ours(why.to_string())
}

/// Writes the client's fields as variables, without those that the configuration sets.
fn write_fields(request: &Request, params: &[Param], pairs: &mut impl Pairs) {
    let data = request.input.data();
    let fields = &request.head.fields;
    let mut same = Same::new(fields, data);
    let mut variable = Vec::with_capacity(64);
    let fetch = request.fetch();
    for (index, field) in fields.iter().enumerate() {
        let name = field.name(data);
        let is_condition = field.id.is_some_and(|id| CONDITIONS.contains(&id));
        if name.eq_ignore_ascii_case(b"proxy") || fetch.is_some() && is_condition {
            continue;
        }
        cgi::variable_name(name, &mut variable);
        if variable == HOST || is_set(params, &variable) {
            continue;
        }
        match same.of(index, &variable) {
            Others::None => pairs.push(&variable, true, |out| out.extend_from_slice(field.value(data))),
            Others::Earlier => {}
            Others::Later => {
                let values = Spelling::of(&fields[index..], &variable, data);
                pairs.push(&variable, true, |out| values.join(field.id, out));
            }
        }
    }
    for (id, value) in fetch.into_iter().flat_map(Fetch::validators) {
        cgi::variable_name(id.name().as_bytes(), &mut variable);
        if !is_set(params, &variable) {
            pairs.push(&variable, true, |out| out.extend_from_slice(value));
        }
    }
}

/// Number of fields up to which they are compared with each other; of more than that there is an index, so that the
/// cost stays linear.
const COMPARED_MAX: usize = 48;

/// Finds fields that become the same variable.
struct Same<'a> {
    fields: &'a [Field],
    data: &'a [u8],
    /// A bit for each variable that may have been seen, by its length and its last bytes.
    seen: u64,
    /// The first and the last field of each variable, if there are many.
    index: Option<HashMap<Vec<u8>, (usize, usize)>>,
}

/// Other fields that become the same variable as a field.
enum Others {
    None,
    Earlier,
    Later,
}

impl<'a> Same<'a> {
    fn new(fields: &'a [Field], data: &'a [u8]) -> Self {
        let index = (fields.len() > COMPARED_MAX).then(|| {
            let mut index = HashMap::new();
            let mut name = Vec::new();
            for (at, field) in fields.iter().enumerate() {
                cgi::variable_name(field.name(data), &mut name);
                index.entry(name.clone()).or_insert((at, at)).1 = at;
            }
            index
        });
        Self { fields, data, seen: 0, index }
    }

    /// Call it for each field in order; `variable` is the name that the field becomes.
    fn of(&mut self, at: usize, variable: &[u8]) -> Others {
        if let Some(index) = &self.index {
            let (first, last) = index.get(variable).copied().unwrap_or((at, at));
            return if first < at {
                Others::Earlier
            } else if last > at {
                Others::Later
            } else {
                Others::None
            };
        }
        let is_same = |field: &Field| cgi::is_variable_of(variable, field.name(self.data));
        let bit = 1u64 << (sum(variable) % 64);
        let may_be_earlier = self.seen & bit != 0;
        self.seen |= bit;
        if may_be_earlier && self.fields[..at].iter().any(is_same) {
            return Others::Earlier;
        }
        let later = self.fields.get(at + 1..).unwrap_or(&[]);
        if later.iter().any(is_same) { Others::Later } else { Others::None }
    }
}

fn sum(name: &[u8]) -> usize {
    name.iter()
        .rev()
        .take(3)
        .fold(name.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}

/// The values of the fields that become one variable.
struct Spelling<'a>(Vec<&'a [u8]>);

impl<'a> Spelling<'a> {
    /// Those of one spelling: without underscores if one of them has none, otherwise that of the first. A name with
    /// underscores is a way to slip a field past a proxy in front that sets the usual one.
    fn of(fields: &[Field], variable: &[u8], data: &'a [u8]) -> Self {
        let same = || fields.iter().filter(|field| cgi::is_variable_of(variable, field.name(data)));
        let usual = same().find(|field| !field.name(data).contains(&b'_')).or_else(|| same().next());
        let spelling = usual.map_or(&b""[..], |field| field.name(data));
        let is_it = |field: &&Field| field.name(data).eq_ignore_ascii_case(spelling);
        Self(same().filter(is_it).map(|field| field.value(data)).collect())
    }

    fn join(&self, id: Option<Id>, out: &mut Vec<u8>) {
        let separator: &[u8] = if id == Some(Id::Cookie) { b"; " } else { b", " };
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(separator);
            }
            out.extend_from_slice(value);
        }
    }
}
