//! Changes of upstreams by nginx Plus' API: POST adds a server, PATCH changes one, DELETE removes one.

use serde_json::{Map, Value};

use super::plus::{
    self, BAD_ID, Failure, JSON_ERROR, NO_SERVER, NO_UPSTREAM, TOO_LONG, failure, failure_because,
};
use super::{Verdict, operator, ordered, upstreams, written};
use crate::base::number;
use crate::http::request::Request;
use crate::http::verdict::Pause;
use crate::proto::header::Id;
use crate::shared::control::{Answer, NAME_BYTES_MAX, Order};
use crate::upstream::block::words;
use crate::upstream::edits::{Edit, Part};
use crate::upstream::peer::{BACKUP, Server};
use crate::upstream::{Group, block};

const FORMAT_ERROR: Failure = Failure { status: 400, text: "", code: "UpstreamConfFormatError" };
const UNAVAILABLE: Failure = Failure { status: 503, text: "", code: "Unavailable" };

/// POST of a server.
pub(super) fn add(request: &mut Request, name: (Part, &str)) -> Verdict {
    if name.1.len() > NAME_BYTES_MAX || group(request, name).is_none() {
        return failure(request, &NO_UPSTREAM);
    }
    Verdict::Wait(Pause::body(added))
}

fn added(request: &mut Request) -> Verdict {
    let fields = match fields(request) {
        Ok(fields) => fields,
        Err(why) => return failure(request, why),
    };
    let Some(Value::String(address)) = fields.get("server") else {
        return failure_because(request, &FORMAT_ERROR, "missing \"server\" argument");
    };
    // Its other words come from the fields.
    let server = block::server([address.as_str()], default_port(request)).map_err(|(_, why)| why);
    let server = match server.and_then(|server| with_fields(server, &fields)) {
        Ok(server) => server,
        Err(why) => return failure_because(request, &FORMAT_ERROR, &why),
    };
    let Some(Target { part, upstream, .. }) = target(request) else { return failure(request, &NO_UPSTREAM) };
    let line = match line(&server) {
        Ok(line) => line,
        Err(why) => return failure_because(request, &FORMAT_ERROR, &why),
    };
    let edit = Edit::Add { line };
    let name = upstream.clone();
    give(request, (part, upstream), edit, move |request, id| {
        let verdict = shown(request, (part, &name), id, 201);
        if let Verdict::Done(crate::http::verdict::Reply::Response(mut response, body)) = verdict {
            let location = format!("{}/{id}", String::from_utf8_lossy(&request.uri).trim_end_matches('/'));
            response.headers.push_id(Id::Location, location.as_bytes());
            return Verdict::Done(crate::http::verdict::Reply::Response(response, body));
        }
        verdict
    })
}

/// PATCH of a server.
pub(super) fn set(request: &mut Request, name: (Part, &str), id: &str) -> Verdict {
    match found(request, name, id) {
        Ok(_) => Verdict::Wait(Pause::body(changed)),
        Err(why) => failure(request, why),
    }
}

fn changed(request: &mut Request) -> Verdict {
    let fields = match fields(request) {
        Ok(fields) => fields,
        Err(why) => return failure(request, why),
    };
    let Some(Target { part, upstream, id }) = target(request) else { return failure(request, &NO_UPSTREAM) };
    let server = match found(request, (part, &upstream), &id) {
        Ok(server) => server,
        Err(why) => return failure(request, why),
    };
    let id = server.id;
    let server = match with_fields(server, &fields) {
        Ok(server) => server,
        Err(why) => return failure_because(request, &FORMAT_ERROR, &why),
    };
    let line = match line(&server) {
        Ok(line) => line,
        Err(why) => return failure_because(request, &FORMAT_ERROR, &why),
    };
    let edit = Edit::Set { id, line };
    let name = upstream.clone();
    give(request, (part, upstream), edit, move |request, id| shown(request, (part, &name), id, 200))
}

/// The line of a server, as the order has it. Errors: it would be read as other words.
fn line(server: &Server) -> Result<Box<str>, String> {
    let words = words(server);
    if let Some(word) = words.iter().find(|word| word.contains(' ')) {
        return Err(format!("invalid parameter \"{word}\": it has a space"));
    }
    Ok(words.join(" ").into())
}

/// DELETE of a server: the response has those that are left.
pub(super) fn remove(request: &mut Request, (part, name): (Part, &str), id: &str) -> Verdict {
    let id = match found(request, (part, name), id) {
        Ok(server) => server.id,
        Err(why) => return failure(request, why),
    };
    let name: Box<str> = name.into();
    give(request, (part, name.clone()), Edit::Remove { id }, move |request, _| {
        match group(request, (part, &name)) {
            Some(group) => written(200, plus::servers(&group)),
            None => failure(request, &NO_UPSTREAM),
        }
    })
}

/// Gives the order; `then` gets the id of the server that was changed.
fn give(
    request: &mut Request,
    (part, upstream): (Part, Box<str>),
    edit: Edit,
    then: impl FnOnce(&mut Request, u32) -> Verdict + Send + 'static,
) -> Verdict {
    let order = Order::Edit { part, upstream, edit, by: operator(request) };
    ordered(request, order, move |request, Answer { status, body }| {
        if status == 200 {
            let id = serde_json::from_slice::<Value>(&body).ok().and_then(|value| value["id"].as_u64());
            let id = id.and_then(|id| u32::try_from(id).ok());
            return match id {
                Some(id) => then(request, id),
                None => failure_because(request, &UNAVAILABLE, "the master's answer is damaged"),
            };
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        let code = match status {
            404 if text == NO_UPSTREAM.text => NO_UPSTREAM.code,
            404 => NO_SERVER.code,
            400 => FORMAT_ERROR.code,
            409 => "Conflict",
            507 => "InsufficientStorage",
            _ => UNAVAILABLE.code,
        };
        failure_because(request, &Failure { status, text: "", code }, &text)
    })
}

/// The server as it is now.
fn shown(request: &mut Request, upstream: (Part, &str), id: u32, status: u16) -> Verdict {
    let group = group(request, upstream);
    let server = group.as_ref().and_then(|group| group.servers.get(group.position(id)?));
    match server {
        Some(server) => written(status, plus::server(server)),
        None => failure(request, &NO_SERVER),
    }
}

fn group(request: &Request, (part, name): (Part, &str)) -> Option<std::sync::Arc<Group>> {
    let group = upstreams(request, part)?.find(name, None, false)?.set().group.clone();
    group.is_block.then_some(group)
}

/// A copy of the server with this id.
fn found(request: &Request, upstream: (Part, &str), id: &str) -> Result<Server, &'static Failure> {
    let group = group(request, upstream).ok_or(&NO_UPSTREAM)?;
    let id = id.parse().map_err(|_| &BAD_ID)?;
    let position = group.position(id).ok_or(&NO_SERVER)?;
    group.servers.get(position).map(|server| Server::clone(server)).ok_or(&NO_SERVER)
}

/// The server, or the list of servers, in the path of a request.
struct Target {
    part: Part,
    upstream: Box<str>,
    /// Empty if there is none.
    id: Box<str>,
}

/// The server, or the list of servers, that a request is about.
fn target(request: &Request) -> Option<Target> {
    let path = std::str::from_utf8(&request.uri).ok()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty()).rev().peekable();
    let id = if parts.peek() == Some(&"servers") { "" } else { parts.next()? };
    (parts.next() == Some("servers")).then_some(())?;
    let upstream = parts.next()?.into();
    let part = if parts.nth(1)? == "stream" { Part::Stream } else { Part::Http };
    Some(Target { part, upstream, id: id.into() })
}

/// The port of an address without one: a stream has none.
fn default_port(request: &Request) -> Option<u16> {
    target(request).is_none_or(|target| target.part == Part::Http).then_some(80)
}

/// The object in a request's body.
fn fields(request: &Request) -> Result<Map<String, Value>, &'static Failure> {
    let body = request.body.in_memory().ok_or(&TOO_LONG)?;
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(&JSON_ERROR),
    }
}

/// The server with the parameters of the object.
fn with_fields(mut server: Server, fields: &Map<String, Value>) -> Result<Server, String> {
    for (key, value) in fields {
        let invalid = || format!("invalid value of \"{key}\": {value}");
        let number = |min: u64| {
            let number = value.as_u64().filter(|number| (min..=u64::from(u32::MAX)).contains(number));
            number.ok_or_else(invalid)
        };
        let flag = || value.as_bool().ok_or_else(invalid);
        let time_ms = || match value {
            Value::String(text) => number::parse_millis(text).ok_or_else(invalid),
            Value::Number(seconds) => {
                let seconds = seconds.as_u64().filter(|seconds| *seconds <= u64::from(u32::MAX));
                Ok(seconds.ok_or_else(invalid)? * 1000)
            }
            _ => Err(invalid()),
        };
        match key.as_str() {
            "id" => {}
            "server" => {
                let text = value.as_str().ok_or_else(invalid)?;
                if text != &*server.name {
                    return Err("the address of a server cannot be changed".to_owned());
                }
            }
            "weight" => server.weight = number(1)? as i64,
            "max_conns" => server.conns_max = number(0)? as i64,
            "max_fails" => server.fails_max = number(0)?,
            "fail_timeout" => server.fail_timeout_ms = time_ms()?,
            "slow_start" => server.slow_start_ms = time_ms()?,
            "route" => {
                let route = value.as_str().ok_or_else(invalid)?;
                server.route = (!route.is_empty()).then(|| route.into());
            }
            "backup" => server.priority = if flag()? { BACKUP } else { 0 },
            "down" => (server.down, server.drain) = (flag()?, server.drain && !flag()?),
            "drain" => (server.drain, server.down) = (flag()?, server.down && !flag()?),
            _ => return Err(format!("unknown parameter \"{key}\"")),
        }
    }
    Ok(server)
}
