//! `pronghorn ctl keyval`: the pairs of key-value zones.

use serde_json::{Value, json};

use super::{Client, Error, encoded, shown, table};
use crate::base::number::parse_millis;

pub(super) fn command(client: &Client, words: &[&str]) -> Result<String, Error> {
    match words {
        ["list"] => list(client, None),
        ["list", zone] => list(client, Some(zone)),
        ["get", zone, key] => get(client, zone, key),
        ["set", zone, key, value] => set(client, zone, key, json!(value)),
        ["set", zone, key, value, last] => {
            let ms = last.strip_prefix("expire=").and_then(parse_millis);
            let ms =
                ms.ok_or_else(|| Error::Usage(format!("invalid parameter \"{last}\": write expire=TIME")))?;
            set(client, zone, key, json!({ "value": value, "expire": ms }))
        }
        ["remove", zone, key] => {
            client.ask("PATCH", &path_of(zone), Some(&json!({ *key: null })))?.done()?;
            Ok(format!("key \"{key}\" is removed"))
        }
        ["clear", zone] => {
            client.ask("DELETE", &path_of(zone), None)?.done()?;
            Ok(format!("zone \"{zone}\" is empty"))
        }
        _ => Err(Error::Usage("keyval list, get, set, remove or clear".to_owned())),
    }
}

fn list(client: &Client, zone: Option<&str>) -> Result<String, Error> {
    let all = match zone {
        Some(zone) => json!({ zone: client.ask("GET", &path_of(zone), None)?.json()? }),
        None => {
            let mut all = client.ask("GET", "/api/9/http/keyvals", None)?.json()?;
            let streams = client.ask("GET", "/api/9/stream/keyvals", None)?.json()?;
            for (name, pairs) in streams.as_object().into_iter().flatten() {
                all[format!("stream/{name}")] = pairs.clone();
            }
            all
        }
    };
    if client.is_json {
        return Ok(all.to_string());
    }
    let mut rows = vec![["ZONE", "KEY", "VALUE"].map(String::from)];
    for (zone, pairs) in all.as_object().into_iter().flatten() {
        for (key, value) in pairs.as_object().into_iter().flatten() {
            rows.push([zone.clone(), shown(key), shown(value.as_str().unwrap_or_default())]);
        }
    }
    Ok(table(&rows))
}

fn get(client: &Client, zone: &str, key: &str) -> Result<String, Error> {
    let found = client.ask("GET", &format!("{}?key={}", path_of(zone), encoded(key)), None)?.json()?;
    Ok(if client.is_json { found.to_string() } else { found[key].as_str().unwrap_or_default().to_owned() })
}

/// Changes the pair, or adds it if there is none.
fn set(client: &Client, zone: &str, key: &str, value: Value) -> Result<String, Error> {
    let (path, pair) = (path_of(zone), json!({ key: value }));
    let changed = client.ask("PATCH", &path, Some(&pair))?;
    if changed.status == 404 {
        client.ask("POST", &path, Some(&pair))?.done()?;
    } else {
        changed.done()?;
    }
    Ok(format!("key \"{key}\" is set"))
}

/// The path of a zone's document.
fn path_of(zone: &str) -> String {
    let (part, zone) = match zone.strip_prefix("stream/") {
        Some(name) => ("stream", name),
        None => ("http", zone.strip_prefix("http/").unwrap_or(zone)),
    };
    format!("/api/9/{part}/keyvals/{}", encoded(zone))
}
