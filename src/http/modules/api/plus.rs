//! Nginx Plus' API, versions 1 to 9: documents about what runs.
//!
//! A field that Plus has and we do not count is left out. Behaviour: nginx.org, ngx_http_api_module.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    Source, Verdict, change, document, keyvals, made, made_of, made_of_one, ordered, shown, written,
};
use crate::base::json::Json;
use crate::cache::status::{Status, Sum};
use crate::cache::zone::Zone;
use crate::http::Counted;
use crate::http::modules::http_core::request_port;
use crate::http::modules::status::view::{MailServer, Named, Peer, View};
use crate::http::request::Request;
use crate::log;
use crate::log::format::time_iso8601;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::proto::uri;
use crate::shared::control::Order;
use crate::shared::status_zone::Place;
use crate::shared::zone::{self, Fate};
use crate::shm::cache_index::Index;
use crate::shm::counter::{self, Slot, Total, Word};
use crate::shm::gauges::Present;
use crate::shm::{heartbeat, lanes, named};
use crate::sys::{clock, process};
use crate::upstream::Group;
use crate::upstream::edits::Part;
use crate::upstream::peer::Server;

/// The last version that we speak; each is a superset of those before.
const VERSION: u8 = 9;

/// nginx's page.
const PAGE_BYTES: u64 = 4096;

const HREF: &str = "https://nginx.org/en/docs/http/ngx_http_api_module.html";

/// An error, in Plus' words.
pub(super) struct Failure {
    pub status: u16,
    pub text: &'static str,
    pub code: &'static str,
}

const fn fails(status: u16, text: &'static str, code: &'static str) -> Failure {
    Failure { status, text, code }
}

pub(super) const PATH_NOT_FOUND: Failure = fails(404, "path not found", "PathNotFound");
pub(super) const METHOD_DISABLED: Failure = fails(405, "method disabled", "MethodDisabled");
/// Not one of Plus: it does not look.
const CROSS_SITE: Failure = fails(403, "", "CrossSite");
pub(super) const UNKNOWN_VERSION: Failure = fails(404, "unknown version", "UnknownVersion");
pub(super) const NO_UPSTREAM: Failure = fails(404, "upstream not found", "UpstreamNotFound");
pub(super) const NO_SERVER: Failure = fails(404, "server not found", "UpstreamServerNotFound");
pub(super) const BAD_ID: Failure = fails(400, "invalid server id", "UpstreamBadServerId");
pub(super) const JSON_ERROR: Failure = fails(415, "the body is not valid JSON", "JsonError");
pub(super) const TOO_LONG: Failure =
    fails(413, "the body exceeds client_body_buffer_size", "RequestEntityTooLarge");

/// The response to a request that fails.
pub(super) fn failure(request: &mut Request, failure: &Failure) -> Verdict {
    failure_because(request, failure, failure.text)
}

/// The same with another text.
pub(super) fn failure_because(request: &mut Request, failure: &Failure, text: &str) -> Verdict {
    let (high, low) = crate::http::modules::http_core::request_id(request);
    let error = json!({ "status": failure.status, "text": text, "code": failure.code });
    document(
        failure.status,
        &json!({ "error": error, "request_id": format!("{high:016x}{low:016x}"), "href": HREF }),
    )
}

/// Serves a path below the location: `9/http/upstreams`.
pub(super) fn serve(request: &mut Request, path: &[&str], may_write: bool) -> Verdict {
    let Some((version, path)) = path.split_first() else {
        return document(200, &json!((1..=VERSION).collect::<Vec<_>>()));
    };
    if !version.parse::<u8>().is_ok_and(|version| (1..=VERSION).contains(&version)) {
        return failure(request, &UNKNOWN_VERSION);
    }
    match (&request.method, path) {
        (method, _) if method.is_get_or_head() => get(request, path),
        _ if !may_write => failure(request, &METHOD_DISABLED),
        _ if is_of_another_site(request) => {
            let why = "a page of another site had a browser send this";
            log::error!(request.error_log(), &*request, "change refused: {}", why);
            failure_because(request, &CROSS_SITE, why)
        }
        (Method::Post, [part @ ("http" | "stream"), "upstreams", name, "servers"]) => {
            change::add(request, (part_of(part), name))
        }
        (Method::Patch, [part @ ("http" | "stream"), "upstreams", name, "servers", id]) => {
            change::set(request, (part_of(part), name), id)
        }
        (Method::Delete, [part @ ("http" | "stream"), "upstreams", name, "servers", id]) => {
            change::remove(request, (part_of(part), name), id)
        }
        (Method::Post, [part @ ("http" | "stream"), "keyvals", name]) => {
            keyvals::add(request, part_of(part), name)
        }
        (Method::Patch, [part @ ("http" | "stream"), "keyvals", name]) => {
            keyvals::set(request, part_of(part), name)
        }
        (Method::Delete, [part @ ("http" | "stream"), "keyvals", name]) => {
            keyvals::clear(request, part_of(part), name)
        }
        _ => failure(request, &METHOD_DISABLED),
    }
}

/// True if a browser sends this for a page of another site: access rules that let the operator's browser in would let every
/// site change something that the operator visits. Other clients send neither field.
fn is_of_another_site(request: &Request) -> bool {
    let data = request.input.data();
    let mut fields = request.head.fields.pairs(data);
    if let Some((_, site)) = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"Sec-Fetch-Site")) {
        return !matches!(site, b"same-origin" | b"none");
    }
    let Some(origin) = request.header(Id::Origin) else { return false };
    let own = memchr::memmem::find(origin, b"://").is_some_and(|at| {
        let authority = &origin[at + 3..];
        let port = memchr::memrchr(b':', authority).map(|at| &authority[at + 1..]);
        let port = port.filter(|port| port.iter().all(u8::is_ascii_digit));
        uri::authority(authority).is_ok_and(|host| *host == *request.host) && port == request_port(request)
    });
    !own
}

fn part_of(word: &str) -> Part {
    if word == "stream" { Part::Stream } else { Part::Http }
}

fn get(request: &mut Request, path: &[&str]) -> Verdict {
    let names = |names: &[&str]| document(200, &json!(names));
    match path {
        [] => {
            let mut parts = vec!["nginx", "processes", "license", "connections", "slabs", "http", "stream"];
            parts.extend(["resolvers", "ssl", "workers"]);
            parts.extend(shown(request).mail.map(|_| "mail"));
            names(&parts)
        }
        ["stream"] => names(&["server_zones", "limit_conns", "keyvals", "zone_sync", "upstreams"]),
        ["http"] => names(&[
            "requests",
            "server_zones",
            "location_zones",
            "caches",
            "limit_conns",
            "limit_reqs",
            "upstreams",
            "keyvals",
        ]),
        ["processes"] => ordered(request, Order::Processes, |request, answer| {
            let found = serde_json::from_slice::<Value>(&answer.body).ok().filter(|_| answer.status == 200);
            match found {
                Some(found) => document(200, &json!({ "respawned": found["respawned"] })),
                None => failure(request, &fails(503, "the master does not answer", "Unavailable")),
            }
        }),
        ["nginx"] => made(request, |source| filtered(source, nginx(source))),
        ["connections"] => made(request, |source| filtered(source, connections(counter::total))),
        ["http", "requests"] => made(request, |source| {
            let current = counter::total(Total::Reading) + counter::total(Total::Writing);
            filtered(source, json!({ "total": counter::total(Total::Requests), "current": current }))
        }),
        ["http", "caches"] => made(request, |source| filtered(source, caches(source).into())),
        ["http", "caches", name] => {
            one(request, name, caches, &fails(404, "cache not found", "CacheNotFound"))
        }
        // There is nothing of the kind.
        ["stream", "zone_sync"] => document(200, &json!({})),
        ["resolvers"] => made(request, |source| filtered(source, resolvers(source).into())),
        ["resolvers", name] => {
            one(request, name, resolvers, &fails(404, "resolver zone not found", "ResolverZoneNotFound"))
        }
        // There is none that could expire.
        ["license"] => document(200, &json!({ "eval": false })),
        ["ssl"] => made(request, |source| filtered(source, ssl())),
        ["slabs"] => made(request, |source| filtered(source, slabs(source).into())),
        ["slabs", name] => one(request, name, slabs, &fails(404, "slab not found", "SlabNotFound")),
        ["http", "limit_reqs"] => made(request, |source| filtered(source, limit_reqs(source).into())),
        ["http", "limit_reqs", name] => {
            one(request, name, limit_reqs, &fails(404, "limit_req not found", "LimitReqNotFound"))
        }
        ["http", "limit_conns"] => made(request, |source| filtered(source, limit_conns(source).into())),
        ["http", "limit_conns", name] => {
            one(request, name, limit_conns, &fails(404, "limit_conn not found", "LimitConnNotFound"))
        }
        ["stream", "limit_conns"] => {
            made(request, |source| filtered(source, stream_limit_conns(source).into()))
        }
        ["stream", "limit_conns", name] => {
            one(request, name, stream_limit_conns, &fails(404, "limit_conn not found", "LimitConnNotFound"))
        }
        [part @ ("http" | "stream"), "keyvals"] => keyvals::all(request, part_of(part)),
        [part @ ("http" | "stream"), "keyvals", name] => keyvals::one(request, part_of(part), name),
        ["workers"] => made(request, |source| {
            let list: Vec<Value> = source.view().workers.iter().map(|worker| {
                let of = |total| worker.number_of(total);
                let requests = json!({ "total": of(Total::Requests), "current": of(Total::Reading) + of(Total::Writing) });
                json!({
                    "id": worker.number,
                    "pid": worker.heartbeat.pid,
                    "connections": connections(of),
                    "http": { "requests": requests },
                })
            }).collect();
            document(200, &Value::from(list))
        }),
        ["http", "server_zones"] => {
            made(request, |source| filtered(source, Value::from(server_zones(&source.view()))))
        }
        ["http", "server_zones", name] => {
            let missing = fails(404, "server zone not found", "ServerZoneNotFound");
            one(request, name, |source| server_zones(&source.view()), &missing)
        }
        [part @ ("http" | "stream"), "upstreams"] => made_of(request, part_of(part), |source| {
            let view = source.view();
            let all = source.groups.iter().filter(|group| group.is_block);
            let all: Map<String, Value> =
                all.map(|group| (group.name.to_string(), upstream(&view, group, source.part))).collect();
            filtered(source, Value::from(all))
        }),
        [part @ ("http" | "stream"), "upstreams", name] => {
            made_of_one(request, (part_of(part), name), |source, group| {
                filtered(source, upstream(&source.view(), group, source.part))
            })
        }
        [part @ ("http" | "stream"), "upstreams", name, "servers"] => {
            made_of_one(request, (part_of(part), name), |_, group| written(200, servers(group)))
        }
        [part @ ("http" | "stream"), "upstreams", name, "servers", id] => {
            let Ok(id) = id.parse::<u32>() else { return failure(request, &BAD_ID) };
            made_of_one(request, (part_of(part), name), move |_, group| {
                match group.position(id).and_then(|position| group.servers.get(position)) {
                    Some(found) => written(200, server(found)),
                    None => missing(&NO_SERVER),
                }
            })
        }
        ["http", "location_zones"] => {
            made(request, |source| filtered(source, zones(source, Place::Location).into()))
        }
        ["http", "location_zones", name] => {
            let missing = fails(404, "location zone not found", "LocationZoneNotFound");
            one(request, name, |source| zones(source, Place::Location), &missing)
        }
        // Plus has nothing of mail: these documents are ours, in the form of those of streams.
        ["mail"] => names(&["server_zones"]),
        ["mail", "server_zones"] => made(request, |source| filtered(source, mail_servers(source).into())),
        ["mail", "server_zones", name] => {
            one(request, name, mail_servers, &fails(404, "server zone not found", "ServerZoneNotFound"))
        }
        ["stream", "server_zones"] => made(request, |source| filtered(source, stream_zones(source).into())),
        ["stream", "server_zones", name] => {
            one(request, name, stream_zones, &fails(404, "server zone not found", "ServerZoneNotFound"))
        }
        _ => failure(request, &PATH_NOT_FOUND),
    }
}

/// One of the objects in a document.
fn one(request: &Request, name: &str, all: fn(&Source) -> Map<String, Value>, none: &Failure) -> Verdict {
    let (name, none) = (name.to_owned(), Failure { ..*none });
    made(request, move |source| match all(source).remove(&name) {
        Some(value) => filtered(source, value),
        None => missing(&none),
    })
}

/// The lookups of resolvers with a `status_zone`.
fn resolvers(source: &Source) -> Map<String, Value> {
    let zone = |zone: Named| {
        let of = |word| zone.slot.map_or(0, |slot| slot.get(word));
        let counts = json!({
            "requests": { "name": of(Word::NAMES), "srv": of(Word::SERVICES), "addr": of(Word::HOSTS) },
            "responses": {
                "noerror": of(Word::NO_ERROR),
                "formerr": of(Word::FORMAT_ERROR),
                "servfail": of(Word::SERVER_FAILURE),
                "nxdomain": of(Word::NO_NAME),
                "notimp": of(Word::NOT_IMPLEMENTED),
                "refused": of(Word::REFUSED),
                "timedout": of(Word::TIMED_OUT),
                "unknown": of(Word::OTHER_ERROR),
            },
        });
        (zone.name.to_owned(), counts)
    };
    source.view().resolvers().map(zone).collect()
}

/// The caches, with the results of their lookups.
fn caches(source: &Source) -> Map<String, Value> {
    let cache = |zone: &Zone| {
        let index = zone.index.as_ref();
        let mut shown = json!({
            "size": index.map_or(0, |index| index.size().bytes),
            "cold": !index.is_some_and(Index::is_loaded),
        });
        if let Some(max) = zone.settings.max_bytes {
            shown["max_size"] = max.into();
        }
        for (name, status) in CACHE_STATUSES {
            let Sum { responses, bytes } = zone.counts.sum(status);
            shown[name] = json!({ "responses": responses, "bytes": bytes });
            if let Some(Sum { responses, bytes }) = zone.counts.written(status) {
                shown[name]["responses_written"] = responses.into();
                shown[name]["bytes_written"] = bytes.into();
            }
        }
        (zone.name().to_owned(), shown)
    };
    source.config.tables.cache.iter().map(cache).collect()
}

const CACHE_STATUSES: [(&str, Status); 7] = [
    ("hit", Status::Hit),
    ("stale", Status::Stale),
    ("updating", Status::Updating),
    ("revalidated", Status::Revalidated),
    ("miss", Status::Miss),
    ("expired", Status::Expired),
    ("bypass", Status::Bypass),
];

/// The handshakes with clients.
fn ssl() -> Value {
    json!({
        "handshakes": counter::total(Total::Handshakes),
        "handshakes_failed": counter::total(Total::HandshakesFailed),
        "session_reuses": counter::total(Total::Resumed),
        "no_common_protocol": counter::total(Total::NoCommonProtocol),
        "no_common_cipher": counter::total(Total::NoCommonCipher),
        "handshake_timeout": counter::total(Total::HandshakeTimeout),
        "peer_rejected_cert": counter::total(Total::CertificateRejected),
        "verify_failures": {
            "no_cert": counter::total(Total::VerifyNoCertificate),
            "expired_cert": counter::total(Total::VerifyExpired),
            "revoked_cert": counter::total(Total::VerifyRevoked),
            "hostname_mismatch": counter::total(Total::VerifyOtherName),
            "other": counter::total(Total::VerifyOther),
        },
    })
}

/// The memory of the zones, in pages. We have no slots of one size, so there are none to show.
fn slabs(source: &Source) -> Map<String, Value> {
    let pages = |used: u64, bytes: u64| {
        let (used, all) = (used.div_ceil(PAGE_BYTES), bytes.div_ceil(PAGE_BYTES));
        json!({ "pages": { "used": used, "free": all.saturating_sub(used) }, "slots": {} })
    };
    let tables = &source.config.tables;
    let limits = tables.limit_req.shown().chain(tables.limit_conn.shown());
    let limits = limits.chain(source.stream_limits.iter().cloned());
    let caches = tables.cache.iter().map(|zone| (zone.name().into(), zone.id));
    let shared = limits.map(|zone| (zone.name, zone.id)).chain(caches).filter_map(|(name, id)| {
        let (used, bytes) = named::usage(id)?;
        Some((name.into_string(), pages(used, bytes)))
    });
    let keyvals = tables.keyval.0.iter().map(|declared| {
        let used = declared.zone.table().bytes();
        (declared.zone.name().to_owned(), pages(used as u64, declared.bytes_max as u64))
    });
    shared.chain(keyvals).collect()
}

fn limit_reqs(source: &Source) -> Map<String, Value> {
    let zone = |zone: zone::Shown| {
        let counts = json!({
            "passed": zone.count(Fate::Passed),
            "delayed": zone.count(Fate::Delayed),
            "rejected": zone.count(Fate::Rejected),
            "delayed_dry_run": zone.count(Fate::DelayedDryRun),
            "rejected_dry_run": zone.count(Fate::RejectedDryRun),
        });
        (zone.name.into_string(), counts)
    };
    source.config.tables.limit_req.shown().map(zone).collect()
}

fn limit_conns(source: &Source) -> Map<String, Value> {
    source.config.tables.limit_conn.shown().map(limit_conn).collect()
}

fn stream_limit_conns(source: &Source) -> Map<String, Value> {
    source.stream_limits.iter().cloned().map(limit_conn).collect()
}

fn limit_conn(zone: zone::Shown) -> (String, Value) {
    let counts = json!({
        "passed": zone.count(Fate::Passed),
        "rejected": zone.count(Fate::Rejected),
        "rejected_dry_run": zone.count(Fate::RejectedDryRun),
    });
    (zone.name.into_string(), counts)
}

/// A failure without the id of its request, from another thread.
pub(super) fn missing(failure: &Failure) -> Verdict {
    let error = json!({ "status": failure.status, "text": failure.text, "code": failure.code });
    document(failure.status, &json!({ "error": error, "href": HREF }))
}

/// The document, with the fields only that the client asks for (`?fields=a,b`).
pub(super) fn filtered(source: &Source, mut value: Value) -> Verdict {
    if let (Some(fields), Value::Object(object)) = (&source.fields, &mut value) {
        let wanted: Vec<&str> = fields.split(',').collect();
        object.retain(|key, _| wanted.contains(&key.as_str()));
    }
    document(200, &value)
}

fn nginx(source: &Source) -> Value {
    let (now_s, nanos) = clock::wall();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "build": "pronghorn",
        "address": source.address,
        "generation": heartbeat::read(lanes::mine()).generation,
        "load_timestamp": time(source.config.loaded_s, 0),
        "timestamp": time(now_s, nanos / 1_000_000),
        "pid": process::pid(),
        "ppid": process::parent_pid(),
    })
}

/// ISO 8601 with milliseconds, such as `2026-11-21T06:31:12.345+00:00`.
fn time(secs: i64, millis: u32) -> String {
    let mut text = Vec::new();
    time_iso8601(secs, &mut text);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    let fraction = format!(".{millis:03}");
    text.insert_str("2026-11-21T06:31:12".len().min(text.len()), &fraction);
    text
}

/// The time that lies so many milliseconds back.
fn ago(ms: u64) -> String {
    let (now_s, nanos) = clock::wall();
    let now_ms = i128::from(now_s) * 1000 + i128::from(nanos / 1_000_000);
    let at_ms = now_ms - i128::from(ms);
    time(at_ms.div_euclid(1000) as i64, at_ms.rem_euclid(1000) as u32)
}

fn connections(of: impl Fn(Total) -> u64) -> Value {
    let (accepted, active, idle) = (of(Total::Accepted), of(Total::Active), of(Total::Waiting));
    json!({
        "accepted": accepted,
        "dropped": accepted.saturating_sub(of(Total::Handled)),
        "active": active.saturating_sub(idle),
        "idle": idle,
    })
}

/// The numbers of the servers with a `status_zone`. Others have no count for each status, so that their numbers would
/// contradict each other; the status page shows them.
fn server_zones(view: &View) -> Map<String, Value> {
    let zones = view.zones().filter(|zone| zone.place == Place::Server);
    zones
        .map(|zone| {
            let numbers = with_processing(numbers(zone.slot, "received", "sent"), zone.slot);
            (zone.name.to_owned(), with_ssl(numbers, zone.slot))
        })
        .collect()
}

/// The numbers of the zones of a place.
fn zones(source: &Source, place: Place) -> Map<String, Value> {
    let zones = source.view().zones().filter(|zone| zone.place == place);
    zones.map(|zone| (zone.name.to_owned(), numbers(zone.slot, "received", "sent"))).collect()
}

/// The numbers of the zones of the `stream` block, and of its servers without one.
fn stream_zones(source: &Source) -> Map<String, Value> {
    let mut zones = Map::new();
    for zone in source.view().zones().filter(|zone| zone.place == Place::Stream) {
        let numbers = with_processing(sessions(zone.slot), zone.slot);
        zones.insert(zone.name.to_owned(), with_ssl(numbers, zone.slot));
    }
    for Counted { name, address, slot } in source.streams {
        let name = if name.is_empty() || zones.contains_key(&**name) { address } else { name };
        let numbers = with_processing(sessions(Some(*slot)), Some(*slot));
        zones.insert(name.to_string(), with_ssl(numbers, Some(*slot)));
    }
    zones
}

/// The numbers of the servers of the `mail` block, by their addresses, of which each is one server's.
fn mail_servers(source: &Source) -> Map<String, Value> {
    let server = |server: MailServer| {
        let of = |word| server.slot.map_or(0, |slot| slot.get(word));
        let mut numbers = with_ssl(with_processing(sessions(server.slot), server.slot), server.slot);
        numbers["name"] = server.name.into();
        numbers["protocol"] = server.protocol.into();
        numbers["logins"] = json!({ "passed": of(Word::LOGINS), "failed": of(Word::LOGINS_FAILED) });
        (server.address.to_owned(), numbers)
    };
    source.view().mail().map(server).collect()
}

/// Adds the requests or sessions in progress of a server to its numbers.
fn with_processing(mut numbers: Value, slot: Option<Slot>) -> Value {
    numbers["processing"] = json!(slot.map_or(0, |slot| slot.present(Present::Processing)));
    numbers
}

/// Adds the handshakes of a server to its numbers.
fn with_ssl(mut numbers: Value, slot: Option<Slot>) -> Value {
    let of = |word| slot.map_or(0, |slot| slot.get(word));
    numbers["ssl"] = json!({
        "handshakes": of(Word::HANDSHAKES),
        "handshakes_failed": of(Word::HANDSHAKES_FAILED),
        "session_reuses": of(Word::RESUMED),
    });
    numbers
}

/// The counts of a slot for connections of any protocol.
fn sessions(slot: Option<Slot>) -> Value {
    let of = |word| slot.map_or(0, |slot| slot.get(word));
    let (good, bad, failed) = (of(Word::Status2xx), of(Word::Status4xx), of(Word::Status5xx));
    let (connections, total) = (of(Word::Requests), good + bad + failed);
    json!({
        "connections": connections,
        "sessions": { "2xx": good, "4xx": bad, "5xx": failed, "total": total },
        "discarded": connections.saturating_sub(total),
        "received": of(Word::BytesIn),
        "sent": of(Word::BytesOut),
    })
}

/// The counts of a slot, with Plus' names for the bytes from and to the other side.
fn numbers(slot: Option<Slot>, bytes_in: &str, bytes_out: &str) -> Value {
    let of = |word| slot.map_or(0, |slot| slot.get(word));
    let classes = [Word::Status1xx, Word::Status2xx, Word::Status3xx, Word::Status4xx, Word::Status5xx];
    let mut responses = Map::new();
    let mut answered = 0;
    for (index, word) in classes.into_iter().enumerate() {
        let count = of(word);
        answered += count;
        responses.insert(format!("{}xx", index + 1), json!(count));
    }
    if let Some(detail) = slot.and_then(Slot::detail) {
        let codes: Map<String, Value> =
            detail.statuses().map(|(status, count)| (status.to_string(), json!(count))).collect();
        responses.insert("codes".to_owned(), Value::from(codes));
    }
    responses.insert("total".to_owned(), json!(answered));
    let requests = of(Word::Requests);
    let mut object = Map::new();
    object.insert("requests".to_owned(), json!(requests));
    object.insert("responses".to_owned(), Value::from(responses));
    object.insert("discarded".to_owned(), json!(requests.saturating_sub(answered)));
    object.insert(bytes_in.to_owned(), json!(of(Word::BytesIn)));
    object.insert(bytes_out.to_owned(), json!(of(Word::BytesOut)));
    Value::from(object)
}

fn upstream(view: &View, group: &Arc<Group>, part: Part) -> Value {
    let peers: Vec<Value> = view.peers(group).map(|found| peer(&found, part)).collect();
    let mut object = Map::new();
    object.insert("peers".to_owned(), Value::from(peers));
    let present = |of| group.slot.map_or(0, |slot| slot.present(of));
    if part == Part::Http {
        object.insert("keepalive".to_owned(), json!(present(Present::Idle)));
    }
    object.insert("zombies".to_owned(), json!(group.zombies()));
    if group.is_shared {
        object.insert("zone".to_owned(), json!(group.name));
    }
    if let Some(queue) = group.queue {
        let overflows = group.slot.map_or(0, |slot| slot.get(Word::QUEUE_OVERFLOWS));
        // As many may wait in each worker.
        let places = queue.max.saturating_mul(view.workers.len().max(1));
        object.insert(
            "queue".to_owned(),
            json!({ "size": present(Present::Waiting), "max_size": places, "overflows": overflows }),
        );
    }
    Value::from(object)
}

fn peer(peer: &Peer, part: Part) -> Value {
    let mut value = match part {
        Part::Http => numbers(peer.slot, "received", "sent"),
        Part::Stream => sessions(peer.slot),
    };
    let Value::Object(object) = &mut value else { return value };
    object.remove("discarded");
    object.remove("sessions");
    if part == Part::Http
        && let Some(statuses) = peer.statuses()
    {
        let codes = statuses.into_iter().map(|(status, count)| (status.to_string(), json!(count)));
        object["responses"]["codes"] = Value::from(codes.collect::<Map<_, _>>());
    }
    let server = peer.server();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("id", json!(server.id));
    put("server", json!(peer.name));
    put("name", json!(server.name));
    put("backup", json!(peer.is_backup));
    put("weight", json!(peer.weight));
    put("state", json!(peer.state().as_str()));
    put("active", json!(peer.active()));
    put("fails", json!(peer.slot.map_or(0, |slot| slot.get(Word::Failures))));
    put("unavail", json!(peer.slot.map_or(0, |slot| slot.get(Word::UNAVAILABLE))));
    if server.conns_max != 0 {
        put("max_conns", json!(server.conns_max));
    }
    let of = |word| peer.slot.map_or(0, |slot| slot.get(word));
    let mut checks = json!({
        "checks": of(Word::CHECKS),
        "fails": of(Word::CHECKS_FAILED),
        "unhealthy": of(Word::UNHEALTHY),
    });
    match of(Word::LAST_CHECK) {
        1 => checks["last_passed"] = json!(false),
        2 => checks["last_passed"] = json!(true),
        _ => {}
    }
    put("health_checks", checks);
    let (down_now_ms, down_ms) = peer.down_ms();
    put("downtime", json!(down_ms));
    if let Some(ms) = down_now_ms {
        put("downstart", json!(ago(ms)));
    }
    if let Some(ms) = peer.chosen_ago_ms() {
        put("selected", json!(ago(ms)));
    }
    let first = if part == Part::Http { "header_time" } else { "first_byte_time" };
    // Averages of the latest responses, if the peer has a place for them; otherwise of all.
    let sum_us = peer.slot.map_or(0, |slot| slot.get(Word::ResponseUs));
    let mean_us = sum_us.checked_div(peer.slot.map_or(0, |slot| slot.get(Word::Requests))).unwrap_or(0);
    let response_us = if peer.response_us() > 0 { peer.response_us() } else { mean_us };
    for (key, us) in [(first, peer.head_us()), ("response_time", response_us)] {
        if us != 0 {
            put(key, json!(us / 1000));
        }
    }
    value
}

/// The servers of an upstream, as they are configured now.
pub(super) fn servers(group: &Group) -> Vec<u8> {
    let mut out = Json::with_capacity(SERVER_BYTES * (group.servers.len() + 1));
    out.open('[');
    for (_, server) in group.present() {
        write_server(out.item(), server);
    }
    out.close(']');
    out.finish()
}

/// One of them.
pub(super) fn server(server: &Server) -> Vec<u8> {
    let mut out = Json::with_capacity(SERVER_BYTES);
    write_server(&mut out, server);
    out.finish()
}

/// The usual length of a server's object.
const SERVER_BYTES: usize = 192;

/// The fields are in the order of their names. There is no [`Value`] in between, since a removal is answered with all
/// servers that are left.
fn write_server(out: &mut Json, server: &Server) {
    out.open('{').key("backup").boolean(server.priority != 0).key("down").boolean(server.down);
    if server.drain {
        out.key("drain").boolean(true);
    }
    write_time(out.key("fail_timeout"), server.fail_timeout_ms);
    out.key("id").number(server.id);
    out.key("max_conns").number(server.conns_max).key("max_fails").number(server.fails_max);
    out.key("route").string(server.route.as_deref().unwrap_or_default()).key("server").string(&server.name);
    if let Some(service) = &server.service {
        out.key("service").string(service);
    }
    write_time(out.key("slow_start"), server.slow_start_ms);
    out.key("weight").number(server.weight);
    out.close('}');
}

/// Writes milliseconds as a time in a configuration.
fn write_time(out: &mut Json, ms: u64) {
    let (count, unit) = if ms.is_multiple_of(1000) { (ms / 1000, "s") } else { (ms, "ms") };
    out.joined(&[itoa::Buffer::new().format(count), unit]);
}
