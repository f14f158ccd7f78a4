//! Responses inserted before and after a response (`add_before_body`, `add_after_body`).
//!
//! A body filter of the client's own request. Touches: nothing; the additions come from subrequests.
//! Behaviour: nginx.org, ngx_http_addition_module.

use crate::config::directive::{custom, text};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::request::subrequest::{Subrequest, Then};
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::response::media_types::MediaTypes;
use crate::http::scope::Variable;
use crate::proto::header::Id;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// Empty: nothing is added.
        before: Inherit<Box<str>>,
        after: Inherit<Box<str>>,
        types: MediaTypes,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    text("add_before_body", Context::ANY, |c| &mut c.before,
        "Sets a URI whose response is sent before the body of a response. An empty string disables an inherited one."),
    text("add_after_body", Context::ANY, |c| &mut c.after,
        "Sets a URI whose response is sent after the body of a response. An empty string disables an inherited one."),
    custom("addition_types", Context::ANY, Arity::at_least(1), types,
        "Adds media types, besides text/html, of responses that get additions; * matches all.").default("text/html"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        [&self.before, &self.after].iter().any(|uri| uri.as_ref().is_some_and(|uri| !uri.is_empty()))
    }
}

fn types(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.types.add(node, &mut cx.diagnostics);
    Ok(())
}

/// Prepares the head of a response that gets additions: its length is no longer known.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.addition;
    let response = &mut request.response;
    let is_meant = conf.types.has(response.headers.get(Id::ContentType), &["text/html"]);
    if response.represented_status() != 200 || request.depth > 0 || !is_meant {
        return;
    }
    response.body_changes();
    let filter = Addition { before: asked(&conf.before), after: asked(&conf.after) };
    request.filters.get_or_insert_default().add(filter);
}

fn asked(uri: &'static Inherit<Box<str>>) -> Option<&'static str> {
    uri.as_ref().map(|uri| &**uri).filter(|uri| !uri.is_empty())
}

/// The additions that have not been requested yet.
#[derive(Debug)]
struct Addition {
    before: Option<&'static str>,
    after: Option<&'static str>,
}

impl BodyFilter for Addition {
    fn push(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        if let Some(uri) = self.before.take() {
            out.push(subrequest(request, uri)?);
        }
        if !data.is_empty() {
            out.push(Piece::Bytes(data.to_vec()));
        }
        if signal == Signal::End
            && let Some(uri) = self.after.take()
        {
            out.push(subrequest(request, uri)?);
        }
        Ok(Flow::Done)
    }
}

fn subrequest(request: &mut Request, uri: &str) -> Result<Piece, Error> {
    let subrequest = Subrequest::new(request, 0, uri.as_bytes().to_vec(), Vec::new(), Then::Insert)?;
    Ok(Piece::Subrequest(subrequest))
}
