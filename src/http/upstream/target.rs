//! The target of a request: the group of its location, or the one that variables name.
//!
//! Touches: name servers, for names that come from variables; the system's resolver (on the blocking pool) if
//! no `resolver` is configured, where nginx answers 502.

use std::rc::Rc;
use std::sync::Arc;

use crate::http::downstream::Downstream;
use crate::http::modules::proxy_pass::{Pass, Target};
use crate::http::modules::resolver;
use crate::http::request::Request;
use crate::http::request::error::{During, Error, Kind};
use crate::http::scope::Script;
use crate::http::upstream::h1::HostLine;
use crate::http::upstream::protocol::Protocol;
use crate::log;
use crate::net::address::Host;
use crate::net::tls::client::Terms;
use crate::runtime::{Either, race};
use crate::shared::lookup;
use crate::upstream::GroupState;
use crate::upstream::trace::Action;

/// The group to which a request is passed, and the replacement for its URI.
#[derive(Debug)]
pub struct Goal {
    pub group: Rc<GroupState>,
    target: Parts,
    /// The URL came from variables: its URI part is the whole URI.
    pub is_evaluated: bool,
    /// The terms of its connections, for `https://`.
    pub terms: Option<Arc<Terms>>,
}

#[derive(Debug)]
enum Parts {
    Fixed(&'static Target, &'static HostLine),
    /// Of a request of our own, which has the whole URI.
    Own(&'static Target, &'static HostLine),
    Evaluated(Box<Target>),
}

impl Goal {
    /// The goal that the configuration defines, if its group can be used at once. Errors: those of [`Goal::find`].
    #[inline]
    pub fn fixed(request: &mut Request) -> Option<Result<Self, Error>> {
        let Some(Pass::Fixed { group, target, host_line }) = request.location.confs.proxy_pass.pass() else {
            return None;
        };
        let group = request.worker.upstreams.get(*group).filter(|group| !is_unsettled(group))?;
        Some(Self::of(request, Rc::clone(group), target, Parts::Fixed(target, host_line)))
    }

    fn of(
        request: &mut Request,
        group: Rc<GroupState>,
        target: &'static Target,
        parts: Parts,
    ) -> Result<Self, Error> {
        request.proxied.protocol = target.protocol;
        let terms = if target.is_tls { Some(terms(request, target)?) } else { None };
        Ok(Self { group, target: parts, is_evaluated: false, terms })
    }

    /// Finds the group. Errors: 500 for a value that is not a URL, 502 for a name that does not resolve, 499
    /// for a client that leaves during a lookup.
    pub async fn find(request: &mut Request, client: Downstream<'_>) -> Result<Self, Error> {
        let upstreams = &request.worker.upstreams;
        match request.location.confs.proxy_pass.pass() {
            Some(Pass::Fixed { group, target, host_line }) => {
                let group =
                    upstreams.get(*group).ok_or_else(|| Error::ours("the location's upstream is gone"))?;
                if is_unsettled(group) {
                    settle(request, client, group).await?;
                }
                let group = Rc::clone(group);
                Self::of(request, group, target, Parts::Fixed(target, host_line))
            }
            Some(Pass::Script(script)) => {
                let protocol = request.location.protocol;
                let directive = protocol.directive();
                let url = String::from_utf8(script.to_vec(request))
                    .map_err(|_| Error::ours(format!("the value of \"{directive}\" is no text")))?;
                let shown = log::Text(url.as_bytes());
                let target = Target::parse_value(&url, protocol)
                    .map_err(|why| Error::ours(format!("{why} in \"{shown}\"")))?;
                if let Host::Unix(path) = &target.host
                    && !request.config.may_connect(path, is_literal_socket(script))
                {
                    let what = "a unix socket that the configuration does not name";
                    return Err(Error::ours(format!("\"{directive}\" has become \"{shown}\", {what}")));
                }
                Self::evaluated(request, client, target).await
            }
            None => Err(Error::ours("the location passes no requests on")),
        }
    }

    /// The goal of a request that no client has sent, whose URI is sent as it is. Errors: its location has no TLS.
    pub fn own(
        request: &mut Request,
        group: &Rc<GroupState>,
        target: &'static Target,
        host_line: &'static HostLine,
    ) -> Result<Self, Error> {
        Self::of(request, Rc::clone(group), target, Parts::Own(target, host_line))
    }

    /// The terms of a further connection: names with variables may depend on the peer that was chosen for it.
    pub fn terms_again(&self, request: &mut Request) -> Result<Option<Arc<Terms>>, Error> {
        if self.terms.is_none() { Ok(None) } else { terms(request, self.target()).map(Some) }
    }

    /// The value of `$proxy_host`.
    pub fn write_host(&self, out: &mut Vec<u8>) {
        self.target().write_host(out);
    }

    /// The whole line of that `Host`, if it was known with the configuration.
    pub fn host_line(&self) -> Option<&'static HostLine> {
        match self.target {
            Parts::Fixed(_, line) | Parts::Own(_, line) => Some(line),
            Parts::Evaluated(_) => None,
        }
    }

    /// The replacement for the location's name in the URI; `None`: the URI is passed on unchanged.
    pub fn uri(&self) -> Option<&str> {
        match self.target {
            Parts::Own(..) => None,
            Parts::Fixed(..) | Parts::Evaluated(_) => self.target().uri.as_deref(),
        }
    }

    fn target(&self) -> &Target {
        match &self.target {
            Parts::Fixed(target, _) | Parts::Own(target, _) => target,
            Parts::Evaluated(target) => target,
        }
    }

    async fn evaluated(request: &mut Request, client: Downstream<'_>, target: Target) -> Result<Self, Error> {
        let is_http = target.protocol == Protocol::Http;
        request.proxied.protocol = target.protocol;
        let group = match request.worker.upstreams.find(&target.name, target.port, target.is_tls && is_http) {
            Some(group) => {
                if is_unsettled(group) {
                    settle(request, client, group).await?;
                }
                Rc::clone(group)
            }
            None if target.is_portless() => {
                let name = log::Text(target.name.as_bytes());
                return Err(Error::ours(format!("no port in upstream \"{name}\"")));
            }
            None => {
                let found = Box::pin(patiently(request, client, look_up(request, &target))).await;
                found.unwrap_or_else(|| Err(left(request)))?
            }
        };
        if is_http {
            let (mut host, mut port) = (Vec::new(), Vec::new());
            target.write_host(&mut host);
            target.write_port(&mut port);
            request.proxied.host = Some((host, port));
        }
        let terms = if target.is_tls { Some(terms(request, &target)?) } else { None };
        Ok(Self { group, target: Parts::Evaluated(Box::new(target)), is_evaluated: true, terms })
    }
}

/// The terms of a request's connection to an upstream that speaks TLS.
fn terms(request: &mut Request, target: &Target) -> Result<Arc<Terms>, Error> {
    request.proxied.is_tls = true;
    let location = request.location;
    let layer = location.tls.as_ref().ok_or_else(|| Error::ours("the location has no TLS to upstreams"))?;
    Ok(layer.terms(request, target.tls_name()))
}

fn is_literal_socket(script: &Script) -> bool {
    ["", "http://", "https://", "uwsgi://", "suwsgi://", "grpc://", "grpcs://"]
        .iter()
        .any(|scheme| script.begins_with(&format!("{scheme}unix:")))
}

/// True for a group without peers whose names are looked up while serving and have no results yet.
fn is_unsettled(group: &GroupState) -> bool {
    group.names.as_ref().is_some_and(|names| !names.are_settled()) && group.is_empty()
}

/// Waits for the first results of those lookups.
async fn settle(request: &mut Request, client: Downstream<'_>, group: &GroupState) -> Result<(), Error> {
    let Some(names) = &group.names else { return Ok(()) };
    let settled = Box::pin(patiently(request, client, names.settle())).await;
    settled.ok_or_else(|| left(request))
}

/// `None`: the client left first.
pub(super) async fn patiently<T>(
    request: &Request,
    client: Downstream<'_>,
    lookup: impl Future<Output = T>,
) -> Option<T> {
    if request.passes().ignore_client_abort() {
        return Some(lookup.await);
    }
    match race(lookup, client.gone()).await {
        Either::First(found) => Some(found),
        Either::Second(()) => None,
    }
}

fn left(request: &mut Request) -> Error {
    request.upstream.action = Some(Action::Resolving);
    Error::left().during(During::Upstream(Action::Resolving))
}

#[cold]
fn unresolved(target: &Target, why: &dyn std::fmt::Display) -> Error {
    let name = log::Text(target.name.as_bytes()).to_string();
    Error::upstream(Kind::Unresolved(Box::new((name, why.to_string()))))
}

/// The port in the name of a group that is made while serving: the two protocols have different default ones.
fn port_of(target: &Target) -> Option<u16> {
    target.port.or_else(|| target.is_tls.then(|| target.own_port()))
}

/// The group for a name without an `upstream` block.
async fn look_up(request: &Request, target: &Target) -> Result<Rc<GroupState>, Error> {
    let conf: &'static resolver::Conf = &request.location.confs.resolver;
    let (worker, wanted) = (request.worker, (&*target.name, port_of(target)));
    let found = lookup::group(&worker.upstreams, &worker.resolvers, conf, wanted, &target.host).await;
    found.map_err(|why| unresolved(target, &why))
}
