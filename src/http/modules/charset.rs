//! The charset that a text is declared to have, and its conversion (`charset`, `source_charset`,
//! `charset_map`).
//!
//! A body filter where text is converted; it holds back an incomplete character. Touches: the request's
//! variables.
//! Behaviour: nginx.org, ngx_http_charset_module; `X-Accel-Charset`.

mod recoding;

use std::sync::Arc;

use crate::config::directive::{block, custom, flag};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::error::Error;
use crate::http::request::{Request, states};
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::response::media_types::MediaTypes;
use crate::http::scope::{Script, Variable};
use crate::log;
use crate::proto::header::Id;
use recoding::{CharsetMap, Table};

/// nginx's list; `text/html` stays when `charset_types` names others.
const TYPES: &[&str] = &[
    "text/html",
    "text/xml",
    "text/plain",
    "text/vnd.wap.wml",
    "application/javascript",
    "application/rss+xml",
];

settings! {
    #[derive(Debug)]
    pub struct Conf {
        charset: Inherit<Option<Script>>,
        source: Inherit<Option<Script>>,
        overrides: Setting<bool> = false,
        types: MediaTypes,
        maps: Vec<Arc<CharsetMap>> => replace,
    }
}

const CONTEXTS: Context = Context::ANY.or(Context::LOCATION_IF);

/// The charset of one answer, whatever the configuration says.
#[derive(Debug, Default)]
pub struct State {
    /// `X-Accel-Charset`, or in a subrequest the charset of the whole. Boxed twice: one word in each request.
    told: Option<Box<Box<[u8]>>>,
}

impl State {
    pub fn tell(&mut self, charset: &[u8]) {
        self.told = Some(Box::new(charset.into()));
    }

    pub fn told(&self) -> Option<&[u8]> {
        self.told.as_ref().map(|told| &***told)
    }
}

/// Copied: an answer that becomes a part of another one has the charset of the whole.
impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        Self::copy(outer)
    }

    fn copy(outer: &Request) -> Self {
        if outer.is_subrequest() {
            return Self { told: outer.states.charset.told.clone() };
        }
        let kind = outer.response.headers.get(Id::ContentType);
        Self { told: kind.and_then(charset_of).map(|charset| Box::new(charset.into())) }
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("charset", CONTEXTS, Arity::exactly(1), charset,
        "Sets the charset of responses, which is added to Content-Type. The argument may be a variable with the charset's name; off adds none.").default("off"),
    custom("source_charset", CONTEXTS, Arity::exactly(1), source_charset,
        "Sets the original charset of texts. They are converted if \"charset\" names another one."),
    flag("override_charset", CONTEXTS, |c| &mut c.overrides, "Also converts responses of upstreams that name a charset of their own."),
    custom("charset_types", Context::ANY, Arity::at_least(1), types,
        "Sets the media types, besides text/html, of responses that get a charset; * matches all.")
        .default("text/html text/xml text/plain text/vnd.wap.wml application/javascript application/rss+xml"),
    block("charset_map", Context::HTTP, Arity::exactly(2), charset_map,
        "Maps the bytes of one charset to another or to utf-8, and back. Each entry is a byte and a character, in hexadecimal."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        let name = |setting: &Inherit<Option<Script>>| {
            let text = setting.as_ref().and_then(|script| script.as_ref()?.as_text().map(<[u8]>::to_vec));
            text.map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let (Some(from), Some(to)) = (name(&self.source), name(&self.charset)) else { return };
        if !from.eq_ignore_ascii_case(&to) && self.table(&from, &to).is_none() {
            let message = format!("no \"charset_map\" between the charsets \"{from}\" and \"{to}\"");
            let span = self.source.span().or(self.charset.span()).unwrap_or_default();
            cx.diagnostics.push(Diagnostic::error(span, message));
        }
    }

    fn acts(&self) -> bool {
        let is_on = |setting: &Inherit<Option<Script>>| setting.as_ref().is_some_and(Option::is_some);
        is_on(&self.charset) || is_on(&self.source) || !self.maps.is_empty()
    }
}

impl Conf {
    fn table(&self, from: &str, to: &str) -> Option<&Table> {
        self.maps.iter().find_map(|map| map.between(from, to))
    }
}

fn charset(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let script = if node.arg(0) == "off" { None } else { Some(name(cx, node)?) };
    conf.charset.put(script, node)
}

fn source_charset(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let script = name(cx, node)?;
    conf.source.put(Some(script), node)
}

fn name(cx: &mut Cx, node: &Node) -> Result<Script, Diagnostic> {
    Script::compile(&node.args[0], cx)
}

fn types(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.types.add(node, &mut cx.diagnostics);
    Ok(())
}

fn charset_map(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (from, to) = (node.arg(0), node.arg(1));
    if from.eq_ignore_ascii_case(to) {
        let message = format!("\"charset_map\" between the same charsets \"{from}\" and \"{to}\"");
        return Err(Diagnostic::error(node.span, message));
    }
    if from.eq_ignore_ascii_case("utf-8") {
        let message = "utf-8 cannot be the first charset of a \"charset_map\"";
        let help = format!("the map is read in both directions: charset_map {to} {from} {{ … }}");
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    }
    if conf.table(from, to).is_some() {
        let message = format!("duplicate \"charset_map\" between \"{from}\" and \"{to}\"");
        return Err(Diagnostic::error(node.span, message));
    }
    conf.maps.push(Arc::new(CharsetMap::read(node, &mut cx.diagnostics)));
    Ok(())
}

/// Declares the charset of a response, and adds a filter that converts it if it has another one.
pub fn head(request: &mut Request) {
    let Some(charset) = destination(request) else { return };
    let Some(source) = source(request) else { return tell(request, &charset) };
    if source.eq_ignore_ascii_case(&charset) {
        return tell(request, &charset);
    }
    let conf: &'static Conf = &request.location.confs.charset;
    if request.response.headers.get(Id::ContentEncoding).is_some_and(|coding| !coding.is_empty()) {
        return;
    }
    let names = (String::from_utf8_lossy(&source), String::from_utf8_lossy(&charset));
    let Some(table) = conf.table(&names.0, &names.1) else {
        let (from, to) = (log::Text(&source), log::Text(&charset));
        log::error!(
            request.error_log(),
            &*request,
            "no \"charset_map\" between the charsets \"{from}\" and \"{to}\""
        );
        return;
    };
    tell(request, &charset);
    if !table.keeps_length() {
        request.response.content_length = None;
        request.response.allows_ranges = false;
        request.response.headers.remove(Id::AcceptRanges);
    }
    request.filters.get_or_insert_default().add(Recoding { table, begun: Vec::new() });
}

/// The charset that the response should have; `None` leaves it as it is.
fn destination(request: &mut Request) -> Option<Vec<u8>> {
    let content_type = request.response.headers.get(Id::ContentType).filter(|kind| !kind.is_empty())?;
    if request.depth > 0 {
        return request.states.charset.told().map(<[u8]>::to_vec); // that of what it becomes a part of
    }
    if let Some(charset) = request.states.charset.told() {
        return Some(charset.to_vec());
    }
    let conf: &'static Conf = &request.location.confs.charset;
    let charset = conf.charset.as_ref()?.as_ref()?;
    let is_meant = match charset_of(content_type) {
        Some(_) => conf.overrides.get(),
        None => conf.types.has(Some(content_type), TYPES),
    };
    is_meant.then(|| charset.to_vec(request))
}

/// True if a response of this type that is generated here is sent as UTF-8.
pub fn is_utf8(request: &mut Request, content_type: &[u8]) -> bool {
    let conf: &'static Conf = &request.location.confs.charset;
    let told = match (request.states.charset.told(), conf.charset.as_ref()) {
        (Some(charset), _) => Some(charset.to_vec()),
        (None, Some(Some(charset))) if conf.types.has(Some(content_type), TYPES) => {
            Some(charset.to_vec(request))
        }
        _ => None,
    };
    told.is_some_and(|charset| charset.eq_ignore_ascii_case(b"utf-8"))
}

/// The charset that the response has, as declared by its head or by the configuration.
fn source(request: &mut Request) -> Option<Vec<u8>> {
    if let Some(told) = request.response.headers.get(Id::ContentType).and_then(charset_of) {
        return Some(told.to_vec());
    }
    let conf: &'static Conf = &request.location.confs.charset;
    Some(conf.source.as_ref()?.as_ref()?.to_vec(request))
}

/// Sets the parameter `charset` of the content type. Redirects get none: some browsers would apply it to the
/// page that they lead to.
fn tell(request: &mut Request, charset: &[u8]) {
    if request.depth > 0 {
        return;
    }
    let is_redirect = matches!(request.response.status, 301 | 302);
    let headers = &mut request.response.headers;
    let Some(content_type) = headers.get(Id::ContentType) else { return };
    let mut value = plain(content_type).to_vec();
    if !is_redirect && !charset.is_empty() {
        value.extend_from_slice(b"; charset=");
        value.extend_from_slice(charset);
    }
    headers.set(Id::ContentType, &value);
}

/// The position of the `;` before the parameter `charset`, and that of its value.
fn find(content_type: &[u8]) -> Option<(usize, usize)> {
    const NAME: &[u8] = b"charset=";
    memchr::memchr_iter(b';', content_type).find_map(|at| {
        let rest = content_type[at + 1..].trim_ascii_start();
        let is_it = rest.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
        is_it.then(|| (at, content_type.len() - rest.len() + NAME.len()))
    })
}

/// The charset that a content type declares.
pub fn charset_of(content_type: &[u8]) -> Option<&[u8]> {
    let (_, start) = find(content_type)?;
    let value = &content_type[start..];
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    Some(value.strip_suffix(b"\"").unwrap_or(value)).filter(|value| !value.is_empty())
}

fn plain(content_type: &[u8]) -> &[u8] {
    find(content_type).map_or(content_type, |(end, _)| &content_type[..end])
}

#[derive(Debug)]
struct Recoding {
    table: &'static Table,
    /// The bytes of an incomplete character.
    begun: Vec<u8>,
}

impl BodyFilter for Recoding {
    fn push(&mut self, _: &mut Request, data: &[u8], _: Signal, out: &mut Vec<Piece>) -> Result<Flow, Error> {
        let mut recoded = Vec::with_capacity(data.len());
        if self.begun.is_empty() {
            let waits = self.table.recode(data, &mut recoded);
            self.begun.extend_from_slice(&data[data.len() - waits..]);
        } else {
            self.begun.extend_from_slice(data);
            let waits = self.table.recode(&self.begun, &mut recoded);
            self.begun.drain(..self.begun.len() - waits);
        }
        if !recoded.is_empty() {
            out.push(Piece::Bytes(recoded));
        }
        Ok(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charset_of_a_type_is_found() {
        let cases: &[(&str, Option<&str>, &str)] = &[
            ("text/html", None, "text/html"),
            ("text/html; charset=utf-8", Some("utf-8"), "text/html"),
            ("text/html;CharSet=\"koi8-r\"", Some("koi8-r"), "text/html"),
            ("text/html; x=y;   charset=a", Some("a"), "text/html; x=y"),
            ("text/html; charset=", None, "text/html"),
            ("text/html; charse", None, "text/html; charse"),
            (";", None, ";"),
            ("", None, ""),
        ];
        for (value, charset, rest) in cases {
            assert_eq!(charset_of(value.as_bytes()), charset.map(str::as_bytes), "{value}");
            assert_eq!(plain(value.as_bytes()), rest.as_bytes(), "{value}");
        }
    }
}
