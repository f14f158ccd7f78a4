//! Replaces texts in responses (`sub_filter`).
//!
//! A body filter. Touches: the request's variables. It holds back the start of a possible match: less than
//! the longest text to search for.
//! Behaviour: nginx.org, ngx_http_sub_module.

mod search;

use std::sync::Arc;

use crate::config::directive::{custom, flag};
use crate::config::inherit::together;
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::response::media_types::MediaTypes;
use crate::http::scope::{Script, Variable};
use crate::proto::header::Id;
use search::{Found, Search};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pairs: Vec<Pair> => together,
        /// The search for all texts, if none of them has variables.
        search: Option<Arc<Search>> => together,
        once: Setting<bool> = true,
        last_modified: Setting<bool> = false,
        types: MediaTypes,
    }
    then inherit_pairs
}

/// One `sub_filter`.
#[derive(Clone, Debug)]
struct Pair {
    text: Script,
    replacement: Script,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("sub_filter", Context::ANY, Arity::exactly(2), sub_filter,
        "Replaces a text in responses, ignoring case, with another. Both may contain variables, and several replacements may be set in a block."),
    flag("sub_filter_once", Context::ANY, |c| &mut c.once, "Replaces only the first occurrence of each text."),
    flag("sub_filter_last_modified", Context::ANY, |c| &mut c.last_modified, "Keeps Last-Modified and a weak ETag of a response in which texts are replaced."),
    custom("sub_filter_types", Context::ANY, Arity::at_least(1), types,
        "Adds media types, besides text/html, in which texts are replaced; * matches all.").default("text/html"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn freeze(&mut self, _: &mut Cx) {
        if self.search.is_none() && !self.pairs.is_empty() {
            let texts = self.pairs.iter().map(|pair| pair.text.as_text().map(<[u8]>::to_vec));
            let texts: Option<Vec<Vec<u8>>> = texts.collect();
            self.search = texts.and_then(Search::new).map(Arc::new);
        }
    }

    fn acts(&self) -> bool {
        !self.pairs.is_empty()
    }
}

fn sub_filter(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0).is_empty() {
        return Err(Diagnostic::error(node.arg_span(0), "empty search pattern"));
    }
    let text = Script::compile(&node.args[0], cx)?;
    let replacement = Script::compile(&node.args[1], cx)?;
    conf.pairs.push(Pair { text, replacement });
    Ok(())
}

fn inherit_pairs(conf: &mut Conf, outer: &Conf) {
    if conf.pairs.is_empty() {
        conf.pairs.clone_from(&outer.pairs);
        conf.search.clone_from(&outer.search);
    }
}

fn types(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.types.add(node, &mut cx.diagnostics);
    Ok(())
}

/// Prepares a response if texts are to be replaced in its type.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.sub_filter;
    let response = &request.response;
    let is_meant = conf.types.has(response.headers.get(Id::ContentType), &["text/html"]);
    if response.content_length == Some(0) || !is_meant {
        return;
    }
    let (search, replacements) = match &conf.search {
        Some(search) => (search.clone(), conf.pairs.iter().map(Replacement::new).collect()),
        None => match evaluate(conf, request) {
            Some(found) => found,
            None => return,
        },
    };
    request.response.body_changes();
    if !conf.last_modified.get() {
        request.response.headers.remove(Id::LastModified);
        request.response.headers.remove(Id::Etag);
    }
    let is_once = conf.once.get();
    let left = search.count();
    let filter = Substitution { search, replacements, is_once, left, held: Vec::new() };
    request.filters.get_or_insert_default().add(filter);
}

/// The texts as evaluated for this request, without empty ones; `None`: there is nothing to search for.
fn evaluate(conf: &'static Conf, request: &mut Request) -> Option<(Arc<Search>, Vec<Replacement>)> {
    let pairs = conf.pairs.iter().map(|pair| (pair.text.to_vec(request), pair));
    let (texts, pairs): (Vec<_>, Vec<_>) = pairs.filter(|(text, _)| !text.is_empty()).unzip();
    if texts.is_empty() {
        return None;
    }
    Some((Arc::new(Search::new(texts)?), pairs.into_iter().map(Replacement::new).collect()))
}

#[derive(Debug)]
struct Replacement {
    script: &'static Script,
    /// The replacement's value, once it was needed.
    value: Option<Vec<u8>>,
}

impl Replacement {
    fn new(pair: &'static Pair) -> Self {
        Self { script: &pair.replacement, value: None }
    }
}

#[derive(Debug)]
struct Substitution {
    search: Arc<Search>,
    /// Indexed by the texts' numbers in `search`.
    replacements: Vec<Replacement>,
    is_once: bool,
    /// How many texts are still to be found, if each is replaced only once.
    left: usize,
    /// The start of a possible match.
    held: Vec<u8>,
}

impl BodyFilter for Substitution {
    fn push(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        let joined: Vec<u8>;
        let mut body = data;
        if !self.held.is_empty() {
            self.held.extend_from_slice(data);
            joined = std::mem::take(&mut self.held);
            body = &joined;
        }
        let search = self.search.clone();
        let mut scan = search.scan(body, signal == Signal::End);
        let mut changed = Vec::with_capacity(body.len());
        let mut at = 0;
        while self.left > 0 {
            let replacements = &self.replacements;
            match scan.next(at, |index| !self.is_once || replacements[index].value.is_none()) {
                Found::Match { start, end, index } => {
                    changed.extend_from_slice(&body[at..start]);
                    changed.extend_from_slice(self.replacement(request, index));
                    at = end;
                }
                Found::Rest(rest) => {
                    changed.extend_from_slice(&body[at..rest]);
                    self.held.extend_from_slice(&body[rest..]);
                    at = body.len();
                    break;
                }
            }
        }
        changed.extend_from_slice(&body[at..]);
        if !changed.is_empty() {
            out.push(Piece::Bytes(changed));
        }
        Ok(Flow::Done)
    }
}

impl Substitution {
    fn replacement(&mut self, request: &mut Request, index: usize) -> &[u8] {
        let Replacement { script, value } = &mut self.replacements[index];
        if value.is_none() && self.is_once {
            self.left -= 1;
        }
        value.get_or_insert_with(|| script.to_vec(request))
    }
}
