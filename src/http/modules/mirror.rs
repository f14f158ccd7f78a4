//! Copies of requests to other URIs, whose responses are discarded (`mirror`).
//!
//! Runs in the precontent phase. Touches: the request's body, which is read completely first. Does not wait:
//! each copy is a task of its own (`http/request/subrequest.rs`).
//! Behaviour: nginx.org, ngx_http_mirror_module. The rest of a mirror's response is not awaited after its
//! head.

use crate::config::directive::{custom, flag};
use crate::config::inherit::{duplicate, replace, together};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::nesting;
use crate::http::request::Request;
use crate::http::request::body::Body;
use crate::http::scope::Variable;
use crate::http::verdict::{Pause, Verdict};
use crate::proto::message::BodyLength;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        uris: Vec<Box<str>> => together,
        off: bool => together,
        request_body: Setting<bool> = true,
    }
    then inherit_uris
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("mirror", Context::ANY, Arity::exactly(1), mirror,
        "Also sends a copy of each request to this URI and ignores the response. Several mirrors may be set in a block. A worker has at most 512 copies in \
         progress.").default("off"),
    flag("mirror_request_body", Context::ANY, |c| &mut c.request_body, "Also copies the request body, which is read completely before the request continues."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        cx.body_files |= self.acts() && self.request_body.get();
    }

    fn acts(&self) -> bool {
        !self.uris.is_empty()
    }
}

/// `mirror off` inherits no URIs, and inner blocks inherit the `off`.
fn inherit_uris(conf: &mut Conf, outer: &Conf) {
    if !conf.off {
        replace(&mut conf.uris, &outer.uris);
    }
}

fn mirror(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let is_off = node.arg(0) == "off";
    if conf.off || (is_off && !conf.uris.is_empty()) {
        return Err(duplicate(node));
    }
    match is_off {
        true => conf.off = true,
        false => conf.uris.push(node.arg(0).into()),
    }
    Ok(())
}

/// Starts the copies, once the body that they share has been read.
pub fn precontent(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.mirror;
    if request.is_subrequest() {
        return Verdict::Next;
    }
    let has_body = matches!(request.body.declared(), BodyLength::Length(1..) | BodyLength::Chunked);
    if has_body && conf.request_body.get() {
        return Verdict::Wait(Pause::body(copy_with_body));
    }
    copy(request, conf, Body::without)
}

fn copy_with_body(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.mirror;
    copy(request, conf, Body::copy)
}

fn copy(request: &mut Request, conf: &'static Conf, body: fn(&Body) -> Body) -> Verdict {
    for uri in &conf.uris {
        nesting::detach(request, uri, body(&request.body));
    }
    Verdict::Next
}
