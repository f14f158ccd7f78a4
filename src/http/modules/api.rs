//! The control interface over HTTP: `api` serves nginx Plus' API, and lets clients change upstreams with `write=on`.
//!
//! Runs in the content phase. At the control socket (`control`) the same module also speaks nginx's control API and
//! serves what `pronghorn ctl` asks for (`api/control.rs`). Numbers come from shared memory and this process' state of
//! the upstreams, on another thread; changes are orders to the master. Behaviour: nginx.org, ngx_http_api_module; the
//! description of nginx's control API.

mod change;
mod control;
mod keyvals;
mod plus;

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Diagnostics, Node, Span, settings};
use crate::http::config::compile::Cx;
use crate::http::config::server::Server;
use crate::http::modules::status::{view::View, write};
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Then, Verdict, Work};
use crate::http::{Config, Counted, Others, Shown, Worker};
use crate::net::transport::Probe;
use crate::proto::header::Id;
use crate::runtime::blocking::Lane;
use crate::script::keyval::Declared;
use crate::shared::control::{Allowed, Answer, Operator, Order};
use crate::shared::zone;
use crate::upstream::edits::Part;
use crate::upstream::{Group, Upstreams};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        access: Option<Access> => own,
    }
}

#[derive(Clone, Copy, Debug)]
struct Access {
    may_write: bool,
    span: Span,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("api", Context::LOCATION, Arity::between(0, 1), api,
        "Serves the API of nginx Plus, versions 1 to 9, below this location: connections, requests, upstreams, key-value zones, workers, and servers, \
         locations and resolvers with a status_zone. With write=on clients may change the servers of upstreams and key-value zones, so the location needs \
         access rules."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false; // it is the content of its own block only
    const INHERITS_NAMELESS: bool = true;

    fn freeze(&mut self, cx: &mut Cx) {
        let allowed = match self.access {
            None => Allowed::Nothing,
            Some(Access { may_write: false, .. }) => Allowed::Processes,
            Some(Access { may_write: true, .. }) => Allowed::Changes,
        };
        cx.drafts.api.allowed = cx.drafts.api.allowed.max(allowed);
    }

    fn acts(&self) -> bool {
        self.access.is_some()
    }
}

/// The facts about all locations of the `http` block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    /// The orders that clients may give in some location.
    pub allowed: Allowed,
}

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        cx.drafts.api
    }
}

/// Warns of locations in which everybody may change upstreams.
pub fn warn_of_open_doors(servers: &[Server], out: &mut Diagnostics) {
    for location in servers.iter().flat_map(Server::locations) {
        let confs = &location.confs;
        let is_guarded = confs.are_guarded();
        if let Some(access) = confs.api.access.filter(|access| access.may_write && !is_guarded) {
            let message = "every client of this location may change upstreams and key-value zones";
            let help = "add access rules, such as \"allow 127.0.0.1; deny all;\", or leave \"write=on\" out";
            out.push(Diagnostic::warning(access.span, message).help(help));
        }
    }
}

fn api(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let may_write = match node.arg(0) {
        "" | "write=off" => false,
        "write=on" => true,
        word => {
            let message = format!("invalid parameter \"{word}\"");
            return Err(
                Diagnostic::error(node.arg_span(0), message).help("write \"write=on\" or \"write=off\"")
            );
        }
    };
    match conf.access.replace(Access { may_write, span: node.span }) {
        None => Ok(()),
        Some(_) => Err(crate::config::inherit::duplicate(node)),
    }
}

pub fn content(request: &mut Request) -> Verdict {
    let Some(access) = request.location.confs.api.access else { return Verdict::Next };
    let rest = request.uri.strip_prefix(request.location.name.as_bytes()).unwrap_or(&request.uri);
    let Ok(rest) = std::str::from_utf8(rest) else { return plus::failure(request, &plus::PATH_NOT_FOUND) };
    let path: Vec<Box<str>> = rest.split('/').filter(|part| !part.is_empty()).map(Box::from).collect();
    let path: Vec<&str> = path.iter().map(|part| &**part).collect();
    if request.config.is_control {
        control::serve(request, &path)
    } else {
        plus::serve(request, &path, access.may_write)
    }
}

/// The worker whose upstreams are shown and changed.
fn subject(request: &Request) -> &'static Worker {
    shown(request).http.unwrap_or(request.worker)
}

fn shown(request: &Request) -> Shown {
    request.worker.shown.get().copied().unwrap_or_default()
}

/// The upstreams of a language part; `None`: the configuration does not have it.
fn upstreams(request: &Request, part: Part) -> Option<&'static Upstreams> {
    match part {
        Part::Http => Some(&subject(request).upstreams),
        Part::Stream => shown(request).stream.map(|streams| streams.upstreams),
    }
}

/// The key-value zones of a language part.
fn keyval_zones(request: &Request, part: Part) -> &'static [Declared] {
    match part {
        Part::Http => &subject(request).config.tables.keyval.0,
        Part::Stream => shown(request).stream.map_or(&[], |streams| streams.keyvals),
    }
}

/// The values from which documents are made, on another thread.
struct Source {
    config: &'static Config,
    part: Part,
    /// The upstreams of the part.
    groups: Vec<Arc<Group>>,
    /// The servers of the `stream` block that have no zone.
    streams: &'static [Counted],
    stream_limits: &'static [zone::Shown],
    /// The documents of other language parts.
    others: Others,
    /// The key-value zones of the part.
    keyvals: &'static [Declared],
    fields: Option<String>,
    /// The address that the client has asked.
    address: String,
}

impl Source {
    /// `upstream`: the only one that the document is about, if so.
    fn of(request: &Request, part: Part, upstream: Option<&str>) -> Self {
        let groups = upstreams(request, part).map(|all| match upstream {
            Some(name) => all.present_block(name).into_iter().collect(),
            None => all.present(),
        });
        let subject = subject(request);
        let fields = request.args.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"fields="));
        Self {
            config: subject.config,
            part,
            groups: groups.unwrap_or_default(),
            streams: shown(request).stream.map_or(&[], |streams| streams.servers),
            stream_limits: shown(request).stream.map_or(&[], |streams| streams.limit_conns),
            others: shown(request).others(),
            keyvals: keyval_zones(request, part),
            fields: fields.map(|fields| String::from_utf8_lossy(fields).into_owned()),
            address: request.connection.local.to_string(),
        }
    }

    fn view(&self) -> View {
        View::new(self.config, self.groups.clone(), self.others)
    }
}

/// Makes a document on another thread.
fn made(request: &Request, make: impl FnOnce(&Source) -> Verdict + Send + 'static) -> Verdict {
    made_of(request, Part::Http, make)
}

/// The same about the upstreams of this part.
fn made_of(request: &Request, part: Part, make: impl FnOnce(&Source) -> Verdict + Send + 'static) -> Verdict {
    work(Lane::Documents, Source::of(request, part, None), make)
}

/// The same about one upstream, which need not wait for longer documents.
fn made_of_one(
    request: &Request,
    (part, name): (Part, &str),
    make: impl FnOnce(&Source, &Arc<Group>) -> Verdict + Send + 'static,
) -> Verdict {
    work(Lane::Files, Source::of(request, part, Some(name)), |source| match source.groups.first() {
        Some(group) => make(source, group),
        None => plus::missing(&plus::NO_UPSTREAM),
    })
}

fn work(lane: Lane, source: Source, make: impl FnOnce(&Source) -> Verdict + Send + 'static) -> Verdict {
    Work::on(lane, move || -> Then {
        let verdict = make(&source);
        let Verdict::Done(reply) = verdict else { return Box::new(|_| Verdict::Next) };
        Box::new(move |_| Verdict::Done(reply))
    })
    .into()
}

/// Gives an order to the master, and decides by its answer.
fn ordered(
    request: &Request,
    order: Order,
    then: impl FnOnce(&mut Request, Answer) -> Verdict + Send + 'static,
) -> Verdict {
    let desk = request.worker.desk.clone();
    let run = async move {
        let answer = desk.give(order).await;
        let then: Then = Box::new(move |request| then(request, answer));
        then
    };
    Work { run: Box::pin(run), lane: Lane::Files }.into()
}

/// The operator at the other end of the connection.
fn operator(request: &Request) -> Operator {
    let peer = request.connection.probe.and_then(Probe::peer_credentials);
    peer.map_or(Operator::UNKNOWN, |(pid, uid)| Operator { pid, uid })
}

fn document(status: u16, value: &impl Serialize) -> Verdict {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    written(status, text)
}

/// The same with the text of a document.
fn written(status: u16, text: Vec<u8>) -> Verdict {
    reply(status, b"application/json", text)
}

fn reply(status: u16, content_type: &[u8], body: Vec<u8>) -> Verdict {
    let mut response = Response::with_type(status, content_type);
    response.headers.push_id(Id::CacheControl, b"no-store");
    let body = if body.is_empty() { Body::Empty } else { Body::Bytes(Cow::Owned(body)) };
    Verdict::Done(Reply::Response(Box::new(response), body))
}
