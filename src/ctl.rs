//! `pronghorn ctl`: shows and changes what runs, through the control socket.
//!
//! A client of the same HTTP interface that other tools use: `http/modules/api/`. Touches: the control socket, and the
//! configuration's files to find its path.

mod connections;
mod keyvals;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::sys::terminal;

/// Time limit of an answer. A reload waits for names and for its workers to start.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum size of an answer: 10,000 servers take a few megabytes.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

pub const HELP: &str = "\
Usage: pronghorn [-p prefix] [-c filename] ctl [--socket path] [--json] command

Commands:
  list [upstream]                      : show upstreams and their servers
  add upstream address [name=value]... : add a server, with the parameters of \"server\"
  set upstream server name=value...    : change parameters of a server, named by its address or id
  weigh upstream server weight         : change its weight
  drain upstream server                : send it only requests that are bound to it
  disable upstream server              : send it nothing
  enable upstream server               : take drain or disable back
  remove upstream server               : remove it
  keyval list [zone]                   : show key-value zones and their pairs
  keyval get zone key                  : show the value of a key
  keyval set zone key value [expire=T] : set the value of a key
  keyval remove zone key               : remove a key
  keyval clear zone                    : remove all keys of a zone
  diff                                 : show what is different from the configuration
  connections [old]                    : show clients' connections; old: those that hold workers of earlier generations
  end id                               : end a connection
  processes                            : show the processes of all generations
  reload                               : read the configuration again, and wait for the outcome
  status                               : show all numbers as JSON

An upstream or a zone of the \"stream\" block is written stream/NAME.
";

/// Why a command failed.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong.
    Usage(String),
    /// The socket could not be reached.
    Connect(PathBuf, io::Error),
    /// The connection broke, or the answer is none.
    Broken(String),
    /// The daemon refuses.
    Refused(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(why) => write!(out, "{why}; see \"pronghorn ctl help\""),
            Self::Connect(path, error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ": is the daemon running?",
                    io::ErrorKind::PermissionDenied => ": its owner and group may connect (control, mode=)",
                    _ => "",
                };
                write!(out, "connect() to \"{}\" failed {}{remedy}", path.display(), crate::log::Cause(error))
            }
            Self::Broken(why) | Self::Refused(why) => write!(out, "{why}"),
        }
    }
}

/// An answer of the daemon.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The document, or why there is none.
    pub fn json(&self) -> Result<Value, Error> {
        self.done()?;
        let value = serde_json::from_slice::<Value>(&self.body);
        value.map_err(|error| Error::Broken(format!("the answer is not valid JSON: {error}")))
    }

    /// Fails if the daemon refuses.
    fn done(&self) -> Result<(), Error> {
        if (200..300).contains(&self.status) {
            return Ok(());
        }
        let value = serde_json::from_slice::<Value>(&self.body);
        let why = value.ok().and_then(|value| Some(value["error"]["text"].as_str()?.to_owned()));
        Err(Error::Refused(why.unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&self.body);
            if text.is_empty() {
                format!("the daemon answers with status {}", self.status)
            } else {
                text.into()
            }
        })))
    }
}

/// Asks the daemon at its control socket.
pub fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
    let stream = UnixStream::connect(socket).map_err(|error| Error::Connect(socket.to_owned(), error))?;
    exchange(stream, method, path, body)
        .map_err(|error| Error::Broken(format!("the control socket: {error}")))
}

fn exchange(mut stream: UnixStream, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off");
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(broken)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let body = answer.split_off(end + 4);
    if length.is_some_and(|length| length != body.len()) {
        return Err(broken());
    }
    Ok(Answer { status, body })
}

/// Runs a command and returns the exit code. `socket`: the one that the configuration names.
pub fn run(words: &[String], socket: Option<PathBuf>) -> i32 {
    let mut socket = socket;
    let mut is_json = false;
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => is_json = true,
            "--socket" => socket = words.next().map(PathBuf::from),
            _ if word.starts_with("--socket=") => socket = word.split_once('=').map(|(_, path)| path.into()),
            _ => rest.push(word.as_str()),
        }
    }
    if matches!(rest[..], [] | ["help"]) {
        terminal::show(HELP);
        return i32::from(rest.is_empty());
    }
    let outcome = match socket {
        Some(socket) => command(&Client { socket, is_json }, &rest),
        None => Err(Error::Usage(
            "the configuration names no control socket: add \"control unix:/run/pronghorn.sock;\" to it, or name the \
             socket with --socket"
                .to_owned(),
        )),
    };
    match outcome {
        Ok(text) => {
            terminal::show(text);
            0
        }
        Err(why) => {
            terminal::tell(format_args!("pronghorn: [error] {why}"));
            if matches!(why, Error::Usage(_)) { 2 } else { 1 }
        }
    }
}

/// Reloads through the control socket: prints the findings and returns the exit code. `None`: nobody is there.
pub fn reload(socket: &Path) -> Option<i32> {
    match ask(socket, "PATCH", "/1/control/config", None) {
        Err(Error::Connect(..)) => None,
        Err(why) => {
            terminal::tell(format_args!("pronghorn: [error] {why}"));
            Some(1)
        }
        Ok(answer) => Some(match verdict(&answer) {
            Ok(lines) => {
                terminal::tell(lines);
                0
            }
            Err(why) => {
                terminal::tell(why);
                1
            }
        }),
    }
}

/// The findings of a reload.
fn verdict(answer: &Answer) -> Result<String, Error> {
    let found: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let lines = found["logs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut text: String = lines.map(|line| format!("pronghorn: {line}\n")).collect();
    if answer.status == 200 {
        return Ok(text);
    }
    if found["logs"].is_null() {
        return answer.json().map(|_| String::new());
    }
    text.push_str("pronghorn: the configuration is refused, the previous one stays in force");
    Err(Error::Refused(text))
}

struct Client {
    socket: PathBuf,
    is_json: bool,
}

fn command(client: &Client, words: &[&str]) -> Result<String, Error> {
    match words {
        ["list"] => client.list(None),
        ["list", upstream] => client.list(Some(upstream)),
        ["add", upstream, address, parameters @ ..] => {
            let mut fields = fields(parameters)?;
            fields.insert("server".to_owned(), json!(address));
            let path = format!("{}/servers", path_of(upstream));
            client.change("POST", &path, Some(Value::from(fields)), &format!("server \"{address}\" is added"))
        }
        ["set", upstream, server, first, more @ ..] => {
            let fields = fields(&[&[*first], more].concat())?;
            client.set(upstream, server, Value::from(fields), "changed")
        }
        ["weigh", upstream, server, weight] => {
            let weight: u64 =
                weight.parse().map_err(|_| Error::Usage(format!("invalid weight \"{weight}\"")))?;
            client.set(upstream, server, json!({ "weight": weight }), "changed")
        }
        ["drain", upstream, server] => client.set(upstream, server, json!({ "drain": true }), "draining"),
        ["disable", upstream, server] => client.set(upstream, server, json!({ "down": true }), "disabled"),
        ["enable", upstream, server] => {
            client.set(upstream, server, json!({ "down": false, "drain": false }), "enabled")
        }
        ["remove", upstream, server] => {
            let id = client.find(upstream, server)?;
            let path = format!("{}/servers/{id}", path_of(upstream));
            client.change("DELETE", &path, None, &format!("server \"{server}\" is removed"))
        }
        ["connections"] => connections::list(client, false),
        ["connections", "old"] => connections::list(client, true),
        ["end", id] => connections::end(client, id),
        ["keyval", words @ ..] => keyvals::command(client, words),
        ["diff"] => client.differences(),
        ["processes"] => client.processes(),
        ["reload"] => verdict(&client.ask("PATCH", "/1/control/config", None)?),
        ["status"] => Ok(String::from_utf8_lossy(&client.ask("GET", "/pronghorn/status", None)?.body).into()),
        [command, ..] => {
            Err(Error::Usage(format!("unknown command, or wrong number of words: \"{command}\"")))
        }
        [] => Err(Error::Usage("no command".to_owned())),
    }
}

/// The words `name=value` as a JSON object.
fn fields(words: &[&str]) -> Result<Map<String, Value>, Error> {
    let mut fields = Map::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let value = match name {
            "weight" | "max_conns" | "max_fails" => {
                let number = value.parse::<u64>();
                json!(number.map_err(|_| Error::Usage(format!("invalid parameter \"{word}\"")))?)
            }
            "fail_timeout" | "slow_start" | "route" => json!(value),
            "backup" | "down" | "drain" => match value {
                "" | "on" => json!(true),
                "off" => json!(false),
                _ => {
                    return Err(Error::Usage(format!(
                        "invalid parameter \"{word}\": write {name}=on or {name}=off"
                    )));
                }
            },
            _ => return Err(Error::Usage(format!("unknown parameter \"{word}\""))),
        };
        fields.insert(name.to_owned(), value);
    }
    Ok(fields)
}

/// The path of an upstream's document.
fn path_of(upstream: &str) -> String {
    let (part, upstream) = match upstream.strip_prefix("stream/") {
        Some(name) => ("stream", name),
        None => ("http", upstream.strip_prefix("http/").unwrap_or(upstream)),
    };
    format!("/api/9/{part}/upstreams/{}", encoded(upstream))
}

/// A name as one part of a path. It may have any byte.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

impl Client {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        ask(&self.socket, method, path, body)
    }

    fn change(&self, method: &str, path: &str, body: Option<Value>, said: &str) -> Result<String, Error> {
        let value = self.ask(method, path, body.as_ref())?.json()?;
        Ok(if self.is_json { value.to_string() } else { said.to_owned() })
    }

    fn set(&self, upstream: &str, server: &str, fields: Value, what: &str) -> Result<String, Error> {
        let id = self.find(upstream, server)?;
        let path = format!("{}/servers/{id}", path_of(upstream));
        self.change("PATCH", &path, Some(fields), &format!("server \"{server}\" is {what}"))
    }

    /// The id of a server that is named by its address or its id.
    fn find(&self, upstream: &str, server: &str) -> Result<u64, Error> {
        let servers = self.ask("GET", &format!("{}/servers", path_of(upstream)), None)?.json()?;
        let all = servers.as_array().into_iter().flatten();
        let with_port = format!("{server}:80");
        let is_named = |found: &&Value| {
            let name = found["server"].as_str();
            name == Some(server) || name == Some(&with_port)
        };
        let named: Vec<u64> = all.clone().filter(is_named).filter_map(|found| found["id"].as_u64()).collect();
        match named[..] {
            [id] => Ok(id),
            [] => {
                let id = server.parse::<u64>().ok();
                let is_there = |id: &u64| all.clone().any(|found| found["id"].as_u64() == Some(*id));
                let missing =
                    || Error::Refused(format!("upstream \"{upstream}\" has no server \"{server}\""));
                id.filter(is_there).ok_or_else(missing)
            }
            _ => Err(Error::Refused(format!(
                "upstream \"{upstream}\" has several servers \"{server}\", name one by its id: {named:?}"
            ))),
        }
    }

    fn list(&self, upstream: Option<&str>) -> Result<String, Error> {
        let all = match upstream {
            None => self.all()?,
            Some(name) => json!({ name: self.ask("GET", &path_of(name), None)?.json()? }),
        };
        if self.is_json {
            return Ok(all.to_string());
        }
        let mut rows = vec![
            ["UPSTREAM", "ID", "SERVER", "STATE", "WEIGHT", "ACTIVE", "REQUESTS", "FAILS"].map(String::from),
        ];
        for (name, group) in all.as_object().into_iter().flatten() {
            for peer in group["peers"].as_array().into_iter().flatten() {
                let text = |key: &str| match &peer[key] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let requests = if peer["requests"].is_null() { "connections" } else { "requests" };
                let backup = if peer["backup"] == json!(true) { " (backup)" } else { "" };
                let server = text("server") + backup;
                rows.push([
                    name.clone(),
                    text("id"),
                    server,
                    text("state"),
                    text("weight"),
                    text("active"),
                    text(requests),
                    text("fails"),
                ]);
            }
        }
        Ok(table(&rows))
    }

    /// The upstreams of all protocols.
    fn all(&self) -> Result<Value, Error> {
        let mut all = self.ask("GET", "/api/9/http/upstreams", None)?.json()?;
        let streams = self.ask("GET", "/api/9/stream/upstreams", None)?.json()?;
        for (name, group) in streams.as_object().into_iter().flatten() {
            all[format!("stream/{name}")] = group.clone();
        }
        Ok(all)
    }

    fn differences(&self) -> Result<String, Error> {
        let found = self.ask("GET", "/pronghorn/differences", None)?.json()?;
        if self.is_json {
            return Ok(found.to_string());
        }
        let line = |difference: &Value| {
            let text = |key: &str| difference[key].as_str().unwrap_or_default().to_owned();
            let sign = match difference["change"].as_str() {
                Some("add") => "+",
                Some("remove") => "-",
                _ => "~",
            };
            let part = if difference["part"] == "stream" { "stream/" } else { "" };
            format!("{sign} upstream {part}{}: server {};\n", text("upstream"), text("server"))
        };
        let lines: String = found.as_array().into_iter().flatten().map(line).collect();
        Ok(if lines.is_empty() { "nothing is different from the configuration".to_owned() } else { lines })
    }

    fn processes(&self) -> Result<String, Error> {
        let found = self.ask("GET", "/1/control/processes", None)?.json()?;
        if self.is_json {
            return Ok(found.to_string());
        }
        let mut rows = vec![["PID", "GENERATION", "PROCESS", "STATE"].map(String::from)];
        for process in found.as_array().into_iter().flatten() {
            let state = if process["exiting"] == json!(true) { "leaving" } else { "serving" };
            let name = process["name"].as_str().unwrap_or_default().to_owned();
            rows.push([
                process["pid"].to_string(),
                process["generation"].to_string(),
                name,
                state.to_owned(),
            ]);
        }
        Ok(table(&rows))
    }
}

/// A text without bytes that would move a terminal's cursor.
fn shown(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

/// Rows with aligned columns.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_a_server_line() {
        let words = ["weight=3", "down", "drain=off", "fail_timeout=5s"];
        let expected = json!({ "weight": 3, "down": true, "drain": false, "fail_timeout": "5s" });
        assert_eq!(Value::from(fields(&words).expect("fields")), expected);
        for wrong in ["weight=x", "weight", "down=1", "color=red"] {
            assert!(matches!(fields(&[wrong]), Err(Error::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_name_with_any_byte_is_one_part_of_a_path() {
        assert_eq!(path_of("http/a b/c%é"), "/api/9/http/upstreams/a%20b%2Fc%25%C3%A9");
        assert_eq!(
            (&*path_of("u"), &*path_of("stream/u")),
            ("/api/9/http/upstreams/u", "/api/9/stream/upstreams/u")
        );
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        for (text, is_good) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false),
            ("", false),
        ] {
            let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
            theirs.write_all(text.as_bytes()).expect("room");
            theirs.shutdown(std::net::Shutdown::Write).expect("a socket");
            let answer = exchange(ours, "GET", "/", None);
            assert_eq!(
                answer.is_ok_and(|answer| answer.status == 200 && answer.body == b"{}"),
                is_good,
                "{text:?}"
            );
        }
    }
}
