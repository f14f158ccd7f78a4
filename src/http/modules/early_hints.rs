//! Forwards `103 Early Hints` from an upstream to the client, ahead of the response that they announce.
//!
//! Runs while a response is awaited. Touches: the request's variables, the client's connection.
//! Behaviour: RFC 8297; nginx.org, `early_hints` of ngx_http_core_module.

use crate::config::directive::custom;
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::downstream::Downstream;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::scope::{Script, Variable};
use crate::proto::field_text::Lines;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::Version;
use crate::script::value;

settings! {
    /// The settings of one block.
    #[derive(Clone, Debug)]
    pub struct Conf {
        conditions: Vec<Script> => replace,
    }
}

impl BlockConf for Conf {}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("early_hints", Context::ANY, Arity::at_least(1), conditions,
        "Passes 103 (Early Hints) responses from an upstream to the client if any of the strings is neither empty nor 0."),
];

pub static VARIABLES: &[Variable] = &[];

fn conditions(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for word in &node.args {
        conf.conditions.push(Script::compile(word, cx)?);
    }
    Ok(())
}

/// True if the client should get hints. HTTP/1.0 has no interim responses (RFC 9110 §15.2), and a
/// subrequest's main response may already have sent its head.
pub fn is_wanted(request: &mut Request) -> bool {
    let conf: &'static Conf = &request.location.confs.early_hints;
    request.version() >= Version::Http11
        && !request.is_subrequest()
        && conf.conditions.iter().any(|script| value::is_true(&script.to_vec(request)))
}

/// Sends a 103 head with the upstream's fields, except hop-by-hop and hidden ones.
///
/// Errors: 499 if the client has gone, 408 if it reads nothing for `send_timeout`.
pub async fn pass(
    request: &Request,
    client: Downstream<'_>,
    head: &ResponseHead,
    data: &[u8],
) -> Result<(), Error> {
    let mut hints = Lines::default();
    for field in head.fields.iter() {
        let is_own = field.id.is_some_and(|id| id.is_own() || id == Id::Trailer);
        let ends_here = is_own || head.connection.ends(field, data);
        if ends_here || request.passes().hides(field.id, field.name(data)) {
            continue;
        }
        hints.push_parsed(field, data);
    }
    client.hint(&hints, request.location.confs.http_core.send_timeout_ms()).await
}
