//! The control socket: nginx's control API below `/1`, nginx Plus' API below `/api`, and what `pronghorn ctl` asks for
//! below `/pronghorn`.
//!
//! Behaviour: the description of nginx's control API (nginx 1.31.5).

use serde_json::{Value, json};

use super::{Verdict, document, made, operator, ordered, plus, reply, write};
use crate::http::request::Request;
use crate::net::clients::OF_STREAM;
use crate::proto::message::Method;
use crate::shared::control::Order;

pub(super) fn serve(request: &mut Request, path: &[&str]) -> Verdict {
    if let ["api", rest @ ..] = path {
        return plus::serve(request, rest, true);
    }
    let is_read = request.method.is_get_or_head();
    match path {
        ["1", "control", "config"] if request.method == Method::Patch => reload(request),
        ["pronghorn", "connections", id] if request.method == Method::Delete => end(request, id),
        []
        | ["1"]
        | ["1", "nginx" | "control"]
        | ["1", "control", "processes" | "config"]
        | ["pronghorn", _]
        | ["pronghorn", "connections", _]
            if !is_read =>
        {
            reply(405, b"application/json", Vec::new())
        }
        [] => document(200, &json!(["1", "api", "pronghorn"])),
        ["1"] => document(200, &json!(["control", "nginx"])),
        ["1", "nginx"] => {
            document(200, &json!({ "version": env!("CARGO_PKG_VERSION"), "build": "pronghorn" }))
        }
        ["1", "control"] => document(200, &json!(["processes", "config"])),
        ["1", "control", "processes"] => processes(request),
        ["1", "control", "config"] => config(request),
        ["pronghorn", "status"] => {
            made(request, |source| reply(200, b"application/json", write::json(&source.view())))
        }
        ["pronghorn", "metrics"] => made(request, |source| {
            reply(200, b"text/plain; version=0.0.4; charset=utf-8", write::prometheus(&source.view()))
        }),
        ["pronghorn", "connections"] => ordered(request, Order::Connections, |_, answer| {
            reply(answer.status, b"application/json", answer.body)
        }),
        ["pronghorn", "differences"] => ordered(request, Order::Differences, |_, answer| {
            reply(answer.status, b"application/json", answer.body)
        }),
        _ => reply(404, b"application/json", Vec::new()),
    }
}

/// Reads the configuration again. The answer comes when the new workers are ready, or the old ones stay.
fn reload(request: &mut Request) -> Verdict {
    let order = Order::Reload { by: operator(request) };
    ordered(request, order, |_, answer| reply(answer.status, b"application/json", answer.body))
}

/// Ends a connection, whose id is that of its process and its number: `20164-17`, or `20164-s3` of a stream.
fn end(request: &mut Request, id: &str) -> Verdict {
    let parsed = id.split_once('-').and_then(|(pid, number)| {
        let (number, mark) = number.strip_prefix('s').map_or((number, 0), |number| (number, OF_STREAM));
        let number = number.parse::<u64>().ok().filter(|number| *number < OF_STREAM)?;
        Some((pid.parse().ok()?, number | mark))
    });
    let Some((pid, id)) = parsed else {
        return reply(404, b"text/plain", b"there is no such connection".to_vec());
    };
    let order = Order::End { pid, id, by: operator(request) };
    ordered(request, order, |_, answer| reply(answer.status, b"application/json", answer.body))
}

/// The processes of the master, in the form of nginx's control API.
fn processes(request: &mut Request) -> Verdict {
    ordered(request, Order::Processes, |_, answer| match serde_json::from_slice::<Value>(&answer.body) {
        Ok(found) if answer.status == 200 => document(200, &found["processes"]),
        _ => reply(answer.status, b"application/json", answer.body),
    })
}

/// The files of the configuration in force, as they were read.
fn config(request: &mut Request) -> Verdict {
    let sources = &request.config.sources;
    made(request, move |_| {
        let file = |(name, content): &(String, String)| json!({ "name": name, "content": content });
        let files: Vec<Value> = sources.iter().map(file).collect();
        document(200, &Value::from(files))
    })
}
