//! Key-value zones by nginx Plus' API: GET shows pairs, POST adds them, PATCH changes or removes one, DELETE all.
//!
//! Behaviour: nginx.org, ngx_http_api_module, `/http/keyvals/`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::plus::{Failure, JSON_ERROR, TOO_LONG, failure, failure_because};
use super::{Source, Verdict, document, made_of, operator, ordered, reply};
use crate::http::request::Request;
use crate::http::verdict::Pause;
use crate::script::keyval::{Declared, Zone};
use crate::shared::control::{Answer, Order};
use crate::shared::keyvals::{self, Change, KEY_EXISTS, NO_KEY, NO_ZONE, NewPair, PAIRS_BYTES_MAX};
use crate::sys::clock;
use crate::upstream::edits::Part;

const NOT_FOUND: Failure = Failure { status: 404, text: NO_ZONE, code: "KeyvalNotFound" };
const KEY_NOT_FOUND: Failure = Failure { status: 404, text: NO_KEY, code: "KeyvalKeyNotFound" };
const FORMAT_ERROR: Failure = Failure { status: 400, text: "", code: "KeyvalFormatError" };

/// Pairs that are read before the zone may change again.
const PAGE: usize = 1000;

/// GET of all zones of a part.
pub(super) fn all(request: &Request, part: Part) -> Verdict {
    made_of(request, part, |source| {
        let names_only = source.fields.as_deref() == Some("");
        if names_only {
            let names: Vec<&str> = source.keyvals.iter().map(|declared| declared.zone.name()).collect();
            return document(200, &json!(names));
        }
        let zone =
            |declared: &Declared| (declared.zone.name().to_owned(), Value::from(pairs(&declared.zone)));
        super::plus::filtered(source, source.keyvals.iter().map(zone).collect::<Map<_, _>>().into())
    })
}

/// GET of one zone, or with `?key=` of one pair.
pub(super) fn one(request: &Request, part: Part, name: &str) -> Verdict {
    let name = name.to_owned();
    let key = request.args.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"key="));
    let key = key.map(unescaped);
    made_of(request, part, move |source| {
        let Some(zone) = zone(source, &name) else { return super::plus::missing(&NOT_FOUND) };
        let Some(key) = key else { return document(200, &pairs(zone)) };
        let table = zone.table();
        match table.get(&key, clock::monotonic_ms()) {
            Some(pair) => document(200, &json!({ text(&key): text(&pair.value) })),
            None => super::plus::missing(&KEY_NOT_FOUND),
        }
    })
}

fn zone<'a>(source: &'a Source, name: &str) -> Option<&'a Arc<Zone>> {
    source.keyvals.iter().map(|declared| &declared.zone).find(|zone| zone.name() == name)
}

/// The bytes of an argument, whose `%XX` stand for others.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let digit = |at: usize| rest.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                text = &rest[2..];
            }
            _ => {
                bytes.push(*first);
                text = rest;
            }
        }
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All pairs. The event loop changes the zone meanwhile, so it is locked for a page at a time only.
fn pairs(zone: &Zone) -> Map<String, Value> {
    let now_ms = clock::monotonic_ms();
    let mut all = Map::new();
    let mut after = None;
    loop {
        let table = zone.table();
        let mut count = 0;
        let mut last = None;
        for (key, pair) in table.after(after.as_ref()).take(PAGE) {
            count += 1;
            last = Some(key.clone());
            if pair.is_alive(now_ms) {
                all.insert(text(key), text(&pair.value).into());
            }
        }
        drop(table);
        if count < PAGE {
            return all;
        }
        after = last;
    }
}

/// POST of pairs.
pub(super) fn add(request: &mut Request, part: Part, name: &str) -> Verdict {
    match exists(request, part, name) {
        true => Verdict::Wait(Pause::body(|request| read_then(request, added))),
        false => failure(request, &NOT_FOUND),
    }
}

/// PATCH of a pair.
pub(super) fn set(request: &mut Request, part: Part, name: &str) -> Verdict {
    match exists(request, part, name) {
        true => Verdict::Wait(Pause::body(|request| read_then(request, changed))),
        false => failure(request, &NOT_FOUND),
    }
}

/// DELETE of all pairs.
pub(super) fn clear(request: &mut Request, part: Part, name: &str) -> Verdict {
    match exists(request, part, name) {
        true => give(request, Change::Clear, 204),
        false => failure(request, &NOT_FOUND),
    }
}

fn exists(request: &Request, part: Part, name: &str) -> bool {
    name.len() <= keyvals::NAME_BYTES_MAX
        && super::keyval_zones(request, part).iter().any(|declared| declared.zone.name() == name)
}

fn added(members: Map<String, Value>) -> Result<Change, String> {
    let pairs = members.into_iter().map(|(key, value)| {
        let Some(pair) = pair(&key, &value)? else {
            return Err(format!("invalid value of \"{key}\": {value}"));
        };
        Ok(pair)
    });
    Ok(Change::Add(pairs.collect::<Result<_, _>>()?))
}

fn changed(members: Map<String, Value>) -> Result<Change, String> {
    let mut members = members.into_iter();
    let (key, value) = members.next().ok_or("key required")?;
    if members.next().is_some() {
        return Err("only one key can be updated".to_owned());
    }
    Ok(match pair(&key, &value)? {
        Some(pair) => Change::Set(pair),
        None => Change::Remove(key.into()),
    })
}

/// The pair of a member: `"value"` or `{"value": "value", "expire": 30000}`; `None`: the key is to be removed.
fn pair(key: &str, value: &Value) -> Result<Option<NewPair>, String> {
    let invalid = || format!("invalid value of \"{key}\": {value}");
    let (value, expire_ms) = match value {
        Value::Null => return Ok(None),
        Value::String(text) => (Some(text.as_str().into()), None),
        Value::Object(fields) => {
            let (mut value, mut expire_ms) = (None, None);
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("value", Value::Null) if fields.len() == 1 => return Ok(None),
                    ("value", Value::String(text)) => value = Some(text.as_str().into()),
                    ("expire", Value::Number(ms)) => expire_ms = Some(ms.as_u64().ok_or_else(invalid)?),
                    _ => return Err(invalid()),
                }
            }
            (value, expire_ms)
        }
        _ => return Err(invalid()),
    };
    if value.is_none() && expire_ms.is_none() {
        return Err(invalid());
    }
    Ok(Some(NewPair { key: key.into(), value, expire_ms }))
}

/// Reads the body as an object, and gives the order that it is.
fn read_then(request: &mut Request, change: fn(Map<String, Value>) -> Result<Change, String>) -> Verdict {
    let Some(body) = request.body.in_memory() else { return failure(request, &TOO_LONG) };
    let members = match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return failure_because(request, &FORMAT_ERROR, "invalid JSON: an object is required"),
        Err(_) => return failure(request, &JSON_ERROR),
    };
    let change = match change(members) {
        Ok(change) => change,
        Err(why) => return failure_because(request, &FORMAT_ERROR, &why),
    };
    if matches!(change, Change::Add(_)) && change.encoded_bytes() > PAIRS_BYTES_MAX {
        let why = format!("the pairs of one request have at most {PAIRS_BYTES_MAX} bytes");
        return failure_because(request, &TOO_LONG, &why);
    }
    let status = if matches!(change, Change::Add(_)) { 201 } else { 204 };
    give(request, change, status)
}

fn give(request: &mut Request, change: Change, status: u16) -> Verdict {
    let Some((part, zone)) = target(request) else { return failure(request, &NOT_FOUND) };
    let order = Order::Keyval { part, zone, change, by: operator(request) };
    ordered(request, order, move |request, Answer { status: decided, body }| {
        if decided == 200 {
            return reply(status, b"application/json", Vec::new());
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        let code = match (decided, &*text) {
            (404, NO_KEY) => KEY_NOT_FOUND.code,
            (404, _) => NOT_FOUND.code,
            (400, _) => FORMAT_ERROR.code,
            (409, KEY_EXISTS) => "KeyvalKeyExists",
            (409, _) => "Conflict",
            (507, _) => "InsufficientStorage",
            _ => "Unavailable",
        };
        failure_because(request, &Failure { status: decided, text: "", code }, &text)
    })
}

/// The zone in the path of a request.
fn target(request: &Request) -> Option<(Part, Box<str>)> {
    let path = std::str::from_utf8(&request.uri).ok()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty()).rev();
    let name = parts.next()?.into();
    let part = if parts.nth(1)? == "stream" { Part::Stream } else { Part::Http };
    Some((part, name))
}
