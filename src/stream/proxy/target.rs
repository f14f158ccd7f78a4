//! The group of peers that a session is passed on to: that of its server, or the one that variables name.
//!
//! Touches: name servers, for names that come from variables.

use std::rc::Rc;

use crate::log;
use crate::net::Transport;
use crate::net::address::Host;
use crate::script::Scope;
use crate::shared::lookup;
use crate::stream::modules::proxy::{Destination, Pass};
use crate::stream::pipeline::patiently;
use crate::stream::session::Session;
use crate::upstream::GroupState;
use crate::upstream::trace::Action;

/// Finds the group, and the host that it is written as. Errors: 500 for a value that is no destination and for a name that does not resolve, as in
/// nginx; 200 for a client that leaves during a lookup.
pub async fn find(
    session: &mut Session,
    client: Option<&Transport>,
) -> Result<(Rc<GroupState>, String), u16> {
    let upstreams = &session.worker.upstreams;
    match session.server.confs.proxy.pass() {
        Some(Pass::Fixed { group, name }) => {
            let group = upstreams.get(*group).ok_or(500u16)?;
            Ok((settled(session, client, group).await?, name.to_string()))
        }
        Some(Pass::Script(script)) => {
            let is_literal = script.begins_with("unix:");
            let text = script.to_vec(session);
            let parsed =
                std::str::from_utf8(&text).map_err(|_| "no text".to_owned()).and_then(Destination::parse);
            let target = parsed.map_err(|why| refused(session, &why))?;
            let name = target.name.to_string();
            Ok((evaluated(session, client, target, is_literal).await?, name))
        }
        None => Err(500),
    }
}

fn refused(session: &Session, why: &str) -> u16 {
    log::error!(session.logger(), session, "{why}");
    500
}

/// Waits until the names of a group that are followed have been looked up once.
async fn settled(
    session: &mut Session,
    client: Option<&Transport>,
    group: &Rc<GroupState>,
) -> Result<Rc<GroupState>, u16> {
    if let Some(names) = group.names.as_ref().filter(|names| !names.are_settled() && group.is_empty()) {
        session.upstream.action = Some(Action::Resolving);
        Box::pin(patiently(client, names.settle())).await.ok_or(200u16)?;
        session.upstream.action = None;
    }
    Ok(Rc::clone(group))
}

async fn evaluated(
    session: &mut Session,
    client: Option<&Transport>,
    target: Destination,
    is_literal: bool,
) -> Result<Rc<GroupState>, u16> {
    let shown = log::Text(target.name.as_bytes()).to_string();
    if let Host::Unix(path) = &target.host
        && !session.config().may_connect(path, is_literal)
    {
        let what = "a unix socket that the configuration does not name";
        return Err(refused(session, &format!("\"proxy_pass\" has become \"{shown}\", {what}")));
    }
    let worker = session.worker;
    if let Some(group) = worker.upstreams.find(&target.name, target.port, false) {
        return settled(session, client, group).await;
    }
    if target.is_portless() {
        return Err(refused(session, &format!("no port in upstream \"{shown}\"")));
    }
    session.upstream.action = Some(Action::Resolving);
    let conf = &session.server.confs.resolver;
    let wanted = (&*target.name, target.port);
    let looking = lookup::group(&worker.upstreams, &worker.resolvers, conf, wanted, &target.host);
    let found = Box::pin(patiently(client, looking)).await.ok_or(200u16)?;
    let found = found.map_err(|why| {
        log::error!(session.logger(), &*session, "{shown} could not be resolved {why}");
        500u16
    })?;
    session.upstream.action = None;
    Ok(found)
}
