//! Reads the responses on one connection and writes them as lines for comparison: heads as received, bodies
//! decoded, and with the normal differences between two daemons (`Date`, names of programs, ports) removed.

use std::io::Read;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use regex::bytes::Regex;

use crate::case::Case;

/// After this long without a byte a response is taken to be incomplete; only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The text that replaces a program's name and version.
const SIGNATURE: &str = "SIGNATURE";

/// The bytes read from a connection, and whether it has ended.
struct Reader<'a> {
    stream: &'a mut TcpStream,
    bytes: Vec<u8>,
    ended: bool,
    late: bool,
}

/// Reads as many responses as the case expects. Returns the lines of all, and then the state of the
/// connection.
pub fn read(stream: &mut TcpStream, case: &Case) -> Vec<String> {
    let mut reader = Reader { stream, bytes: Vec::new(), ended: false, late: false };
    let methods = methods(&case.bytes);
    let mut lines = Vec::new();
    let mut count = 0;
    let mut closes = case.answers.is_none();
    while case.answers.is_none_or(|wanted| count < wanted) {
        let Some(head) = reader.head() else { break };
        let is_head = methods.get(count).is_some_and(|method| method == "HEAD");
        let answer = Answer::read(&mut reader, &head, is_head);
        count += usize::from(!answer.is_interim);
        closes |= answer.closes;
        lines.extend(answer.lines);
        if answer.closes {
            break;
        }
    }
    if closes || reader.ended {
        // a daemon that waits for the rest of a body before it closes learns that none comes
        let _ = reader.stream.shutdown(std::net::Shutdown::Write);
        reader.rest();
    }
    let rest = std::mem::take(&mut reader.bytes);
    if !rest.is_empty() {
        lines.push("(and then)".into());
        lines.extend(shown(&rest));
    }
    let end = match (reader.ended, reader.late) {
        (true, _) => "(closed)",
        (false, false) => "(open)",
        (false, true) => "(nothing more comes, and no end)",
    };
    lines.push(end.into());
    lines
}

/// The methods of the requests in these bytes, as far as they look like requests.
fn methods(bytes: &[u8]) -> Vec<String> {
    static LINE: OnceLock<Regex> = OnceLock::new();
    let line = LINE.get_or_init(|| Regex::new(r"([A-Z]+) \S+ HTTP/1").expect("valid"));
    line.captures_iter(bytes).map(|found| String::from_utf8_lossy(&found[1]).into_owned()).collect()
}

struct Answer {
    lines: Vec<String>,
    is_interim: bool,
    closes: bool,
}

impl Answer {
    fn read(reader: &mut Reader, head: &[u8], is_head: bool) -> Self {
        let mut head = Head::parse(head);
        let status = head.status;
        let is_interim = (100..200).contains(&status) && status != 101;
        let is_chunked = head.value("transfer-encoding").is_some();
        let length = head.value("content-length").and_then(|value| value.parse::<usize>().ok());
        let mut closes = head.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let mut body = Vec::new();
        let mut notes = Vec::new();
        if is_head || is_interim || matches!(status, 101 | 204 | 304) {
        } else if is_chunked {
            body = reader.chunked(&mut notes);
        } else if let Some(length) = length {
            body = reader.exactly(length, &mut notes);
        } else {
            reader.rest();
            body = std::mem::take(&mut reader.bytes);
            notes.push("(body up to the end)".into());
            closes = true;
        }
        if head.value("content-encoding").as_deref() == Some("gzip") && !body.is_empty() && status != 206 {
            let mut plain = Vec::new();
            if GzDecoder::new(body.as_slice()).read_to_end(&mut plain).is_ok() {
                notes.push("(gzip)".into());
                body = plain;
            }
        }
        head.make_same(&mut body, is_head);
        let mut lines = head.lines();
        lines.push(String::new());
        lines.extend(if body.is_empty() { Vec::new() } else { shown(&body) });
        lines.extend(notes);
        Self { lines, is_interim, closes }
    }
}

struct Head {
    first: String,
    status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(head: &[u8]) -> Self {
        let mut lines = shown(head).into_iter();
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let split = |line: String| match line.split_once(": ") {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (line, String::new()),
        };
        Self { first, status, fields: lines.filter(|line| !line.is_empty()).map(split).collect() }
    }

    fn value(&self, name: &str) -> Option<String> {
        let found = self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    fn lines(&self) -> Vec<String> {
        let field = |(name, value): &(String, String)| format!("{name}: {value}");
        std::iter::once(self.first.clone()).chain(self.fields.iter().map(field)).collect()
    }

    /// Removes the differences between any two daemons.
    fn make_same(&mut self, body: &mut Vec<u8>, is_head: bool) {
        let date = self.value("date").and_then(|date| httpdate::parse_http_date(&date).ok());
        let server =
            self.value("server").filter(|name| name.starts_with("nginx") || name.starts_with("pronghorn"));
        let signature = sign(body);
        let page = standard_page(&self.first);
        let page_length = page.len() - SIGNATURE.len() + server.as_ref().map_or(0, String::len);
        if *body == page.as_bytes() {
            *body = format!("(the standard page of {})", self.status).into_bytes();
        }
        let boundary =
            self.value("content-type").and_then(|value| Some(value.split_once("boundary=")?.1.to_owned()));
        // nginx does not say how old an answer from its cache is
        let is_new = |value: &str| value.parse().is_ok_and(|age: u64| age < 60);
        self.fields.retain(|(name, value)| !(name.eq_ignore_ascii_case("age") && is_new(value)));
        // its place depends on the module that adds it
        self.fields.sort_by_key(|(name, _)| name.eq_ignore_ascii_case("accept-ranges"));
        for (name, value) in &mut self.fields {
            match name.to_ascii_lowercase().as_str() {
                "date" if date.is_some() => *value = "*".into(),
                "server" if server.is_some() => *value = "*".into(),
                "expires" => {
                    if let (Some(date), Ok(at)) = (date, httpdate::parse_http_date(value)) {
                        *value = match at.duration_since(date) {
                            Ok(after) if after.as_secs() < 1 << 30 => format!("Date + {}", after.as_secs()),
                            _ => value.clone(),
                        };
                    }
                }
                "content-length" => {
                    let length: usize = value.parse().unwrap_or(0);
                    if let Some(bytes) = signature {
                        *value = format!("{} + signature", length - bytes);
                    } else if is_head && server.is_some() && length == page_length {
                        *value = format!("{} + signature", length - server.as_ref().map_or(0, String::len));
                    }
                }
                "content-type" => {
                    if let Some(boundary) = &boundary {
                        *value = value.replace(boundary.as_str(), "BOUNDARY");
                    }
                }
                _ => {}
            }
        }
        if let Some(boundary) = boundary {
            let pattern = Regex::new(&regex::escape(&boundary)).expect("escaped");
            *body = pattern.replace_all(body, &b"BOUNDARY"[..]).into_owned();
        }
    }
}

/// Replaces the signature of an error page; returns its length, if there is one.
fn sign(body: &mut Vec<u8>) -> Option<usize> {
    static PATTERN: OnceLock<Regex> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        Regex::new(r"<hr><center>((?:nginx|pronghorn)(?:/[0-9.]+)?)</center>").expect("valid")
    });
    let length = pattern.captures(body)?[1].len();
    let anonymous = format!("<hr><center>{SIGNATURE}</center>");
    *body = pattern.replace(body, anonymous.as_bytes()).into_owned();
    Some(length)
}

/// nginx's page for a status line, with the signature replaced.
fn standard_page(first: &str) -> String {
    let title = match first.split_once(' ').map_or("", |(_, title)| title) {
        "302 Moved Temporarily" => "302 Found",
        "401 Unauthorized" => "401 Authorization Required",
        title => title,
    };
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>{SIGNATURE}</center>\r\n</body>\r\n</html>\r\n"
    )
}

impl Reader<'_> {
    /// Reads once more; `false` when no more bytes come.
    fn fill(&mut self) -> bool {
        if self.ended || self.late {
            return false;
        }
        let mut buffer = [0; 16384];
        let end = Instant::now() + PATIENCE;
        loop {
            let _ = self.stream.set_read_timeout(Some(PATIENCE));
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    return true;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted && Instant::now() < end => {
                    continue;
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => self.late = true,
                    _ => self.ended = true,
                },
            }
            return false;
        }
    }

    fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                return Some(self.bytes.drain(..at + 4).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn exactly(&mut self, count: usize, notes: &mut Vec<String>) -> Vec<u8> {
        while self.bytes.len() < count {
            if !self.fill() {
                notes.push(format!("(only {} bytes of {count})", self.bytes.len()));
                return std::mem::take(&mut self.bytes);
            }
        }
        self.bytes.drain(..count).collect()
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(2).position(|two| two == b"\r\n") {
                return Some(self.bytes.drain(..at + 2).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn chunked(&mut self, notes: &mut Vec<String>) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line().unwrap_or_default();
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let Ok(size) = usize::from_str_radix(&text, 16) else {
                notes.push(format!("(not whole: chunk size {text:?})"));
                return body;
            };
            if size == 0 {
                break;
            }
            body.extend(self.exactly(size, notes));
            if self.exactly(2, notes) != b"\r\n" {
                notes.push("(a chunk does not end)".into());
                return body;
            }
        }
        notes.push("(chunked)".into());
        loop {
            match self.line() {
                None => notes.push("(no end of the trailers)".into()),
                Some(line) if line != b"\r\n" => {
                    notes.extend(shown(&line).into_iter().filter(|line| !line.is_empty()));
                    continue;
                }
                Some(_) => {}
            }
            return body;
        }
    }

    fn rest(&mut self) {
        while self.fill() {}
    }
}

/// Bytes as lines: the line end CRLF is not shown, a lone LF is `\n`, and bytes that are not text are `\xNN`.
pub fn shown(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let mut line = String::new();
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if index > 0 && bytes[index - 1] == b'\r' => lines.push(std::mem::take(&mut line)),
            b'\n' => {
                line.push_str("\\n");
                lines.push(std::mem::take(&mut line));
            }
            b'\r' if bytes.get(index + 1) == Some(&b'\n') => {}
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            b'\\' => line.push_str("\\\\"),
            b' '..=b'~' => line.push(byte as char),
            _ => line.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if !line.is_empty() || bytes.ends_with(b"\r\n") {
        lines.push(line);
    }
    lines
}
