//! Access by the response to a subrequest (`auth_request`, `auth_request_set`).
//!
//! Runs in the access phase. Touches: the request's variables. Does not wait: the pipeline makes the
//! subrequest.
//! Behaviour: nginx.org, ngx_http_auth_request_module.

use crate::config::directive::custom;
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Target, Variable};
use crate::http::verdict::{Ask, Pause, Reply, Verdict};
use crate::log;
use crate::proto::header::Id;
use crate::script::Scope;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// `None`: off.
        uri: Inherit<Option<Box<str>>>,
        sets: Vec<Set> => replace,
    }
}

/// One `auth_request_set`.
#[derive(Clone, Debug)]
struct Set {
    target: Target,
    /// Evaluated with the variables of the subrequest.
    value: Script,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("auth_request", Context::ANY, Arity::exactly(1), auth_request,
        "Asks another URI whether a request is allowed: 2xx allows it, 401 and 403 deny it; off disables an inherited one.").default("off"),
    custom("auth_request_set", Context::ANY, Arity::exactly(2), auth_request_set,
        "Sets a variable after the subrequest of auth_request. The value may contain variables of its response, such as $upstream_http_x_user."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.uri.is_set()
    }
}

fn auth_request(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let uri = (node.arg(0) != "off").then(|| node.arg(0).into());
    conf.uri.put(uri, node)
}

fn auth_request_set(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let word = &node.args[0];
    let target = cx.variables.target(word)?;
    conf.sets.push(Set { target, value: Script::compile(&node.args[1], cx)? });
    Ok(())
}

pub fn access(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.auth_request;
    match conf.uri.as_ref() {
        Some(Some(uri)) => {
            let then = Box::new(|request: &mut Request, inner: &mut Request, _| answered(request, inner));
            Verdict::Wait(Pause::Answer(Box::new(Ask {
                uri: uri.as_bytes().to_vec(),
                kept_bytes_max: 0,
                then,
            })))
        }
        Some(None) | None => Verdict::Next,
    }
}

/// Turns the subrequest's status into a verdict. `inner` can still evaluate the variables of the subrequest.
fn answered(request: &mut Request, inner: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.auth_request;
    for set in &conf.sets {
        let value = set.value.to_vec(inner);
        match set.target {
            Target::Slot(slot) => inner.set_slot(slot, value),
            Target::By(setter) => setter(request, value),
        }
    }
    match inner.response.status {
        200..=299 => Verdict::Granted,
        403 => Verdict::Done(Reply::Status(403)),
        401 => {
            request.forget(Id::WwwAuthenticate);
            for challenge in inner.response.headers.all(b"www-authenticate") {
                request.keep(Id::WwwAuthenticate, Some(challenge));
            }
            Verdict::Done(Reply::Status(401))
        }
        status => {
            log::error!(request.error_log(), &*request, "auth request unexpected status: {}", status);
            Verdict::Done(Reply::Status(500))
        }
    }
}
