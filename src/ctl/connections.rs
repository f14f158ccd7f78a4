//! `pronghorn ctl connections` and `end`: the clients' connections of all workers.

use serde_json::{Value, json};

use super::{Client, Error, encoded, shown, table};

/// Lists the connections; `is_old`: only those that hold workers of earlier generations.
pub(super) fn list(client: &Client, is_old: bool) -> Result<String, Error> {
    let mut found = client.ask("GET", "/pronghorn/connections", None)?.json()?;
    if let (true, Some(all)) = (is_old, found["connections"].as_array_mut()) {
        all.retain(|one| one["leaving"] == json!(true));
    }
    if client.is_json {
        return Ok(found.to_string());
    }
    let heads = ["ID", "GENERATION", "PROTOCOL", "STATE", "AGE", "REQUESTS", "CLIENT", "SERVER", "REQUEST"];
    let mut rows = vec![heads.map(String::from)];
    let all = found["connections"].as_array();
    for one in all.into_iter().flatten() {
        let text = |key: &str| match &one[key] {
            Value::String(text) => shown(text),
            other => other.to_string(),
        };
        let generation = text("generation") + if one["leaving"] == json!(true) { " (leaving)" } else { "" };
        let age = age(one["age_ms"].as_u64().unwrap_or(0));
        let (state, protocol, requests) = (text("state"), text("protocol"), text("requests"));
        let (client, server, request) = (text("client"), text("server"), text("request"));
        rows.push([text("id"), generation, protocol, state, age, requests, client, server, request]);
    }
    let mut out = table(&rows);
    let (shown, total) = (rows.len() as u64 - 1, found["total"].as_u64().unwrap_or(0));
    if !is_old && shown < total {
        out.push_str(&format!("{} more connections are not shown\n", total - shown));
    }
    for pid in found["silent"].as_array().into_iter().flatten() {
        out.push_str(&format!("worker {pid} does not answer\n"));
    }
    Ok(out)
}

/// Ends a connection.
pub(super) fn end(client: &Client, id: &str) -> Result<String, Error> {
    client.ask("DELETE", &format!("/pronghorn/connections/{}", encoded(id)), None)?.done()?;
    Ok(format!("connection {id} is ended"))
}

/// Milliseconds as people write them.
fn age(ms: u64) -> String {
    match ms / 1000 {
        0..60 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_are_short() {
        for (ms, text) in
            [(0, "0.0s"), (1250, "1.2s"), (61_000, "1m01s"), (3_720_000, "1h02m"), (360_000_000, "100h00m")]
        {
            assert_eq!(age(ms), text);
        }
    }
}
