//! A file of cases: an nginx configuration in which special comments are the requests. They are next to the
//! lines whose effect they show:
//!
//! ```text
//!     location = /exact { return 200 "exact\n"; }
//!     #> GET /exact                      a case: this request, with "Host: localhost" unless a line names another
//!     #: Accept: text/plain              one more header line of it
//!     #= some text                       its body, with a Content-Length unless a header line frames it
//!     #> (two requests in one packet)    a case whose bytes are spelled out; here its title
//!     #| GET / HTTP/1.1                  a line of it, with CRLF; a backslash at the end takes that away
//!     #? answers=2                       how it is run, see below
//!     #! key                             it differs on purpose, for the reason that docs/nginx-differences.md has
//!     #- Content-Length: 3               under this key; these lines are nginx's
//!     #+ Content-Length: 4               and these are ours, in the order of the answer; only the status lines
//!                                        where these differ
//!
//!     #@ /cookie                         what the backend answers where the target contains this: the #| lines
//!     #| HTTP/1.1 200 OK                 after it. With "close" behind the path it closes the connection then.
//!     #/ a/b.txt some text               a file of the root
//! ```
//!
//! `#?` takes: `port=1` use the second port; `answers=2` read two responses, `answers=end` all until the
//! connection ends; `log` compare the line of the access log, `log=2` several (if any case in a file has it,
//! each case that writes a line must); `backend=2` wait until the backends have received so many requests;
//! `mask=REGEX` (the rest of the line) replace matches by `*` in the response.
//!
//! `\n`, `\r`, `\t`, `\\`, `\xNN` are bytes, `{{text*300}}` is a repetition. In the configuration,
//! `%%PORT_0%%`… are ports, `%%ROOT%%` is the folder of the documents, `%%DIR%%` the daemon's own folder
//! (with the access log `%%DIR%%/access.log`), `%%BACKEND_A%%` and `%%BACKEND_B%%` are the backends,
//! `%%DEAD%%` is an address where no process listens, `%%CONF%%` our `conf/`. Backends respond with one line
//! of text that describes the request; the requests that they received are compared too. `%%FASTCGI%%`,
//! `%%UWSGI%%` and `%%SCGI%%` are applications in these protocols, which find a reply by the parameter
//! `REQUEST_URI`.

use std::path::Path;

use regex::Regex;

#[derive(Default)]
pub struct Case {
    /// Its line in the file, from 1.
    pub line: usize,
    pub title: String,
    pub bytes: Vec<u8>,
    pub port: usize,
    /// The number of responses to read; `None`: all.
    pub answers: Option<usize>,
    /// The number of lines in the access log to compare; if any case sets it, the lines of all cases are
    /// counted.
    pub log: usize,
    pub backend: usize,
    pub masks: Vec<Regex>,
    /// The reason why it differs from nginx.
    pub key: Option<String>,
    /// The lines that differ: nginx's with `-`, ours with `+`.
    pub expected: Vec<String>,
}

/// A backend's response to targets that contain `path`.
pub struct Reply {
    pub path: String,
    pub bytes: Vec<u8>,
    pub closes: bool,
}

pub struct Script {
    pub name: String,
    pub text: String,
    pub cases: Vec<Case>,
    pub replies: Vec<Reply>,
    pub files: Vec<(String, Vec<u8>)>,
}

/// The destination of the `#|` lines.
enum Raw {
    Nothing,
    Request,
    Reply,
}

impl Script {
    /// Reads a file of cases; panics on a line that cannot be one of them.
    pub fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut script =
            Self { name, text: text.clone(), cases: Vec::new(), replies: Vec::new(), files: Vec::new() };
        let mut draft = Draft::default();
        let mut raw = Raw::Nothing;
        for (index, line) in text.lines().enumerate() {
            let Some((sign, rest)) = special(line) else { continue };
            let place = format!("{}:{}", path.display(), index + 1);
            if matches!(sign, '>' | '@' | '/') {
                script.cases.extend(std::mem::take(&mut draft).finished());
            }
            match sign {
                '>' => {
                    draft = Draft::begin(rest, index + 1);
                    raw = Raw::Request;
                }
                ':' => draft.headers.push(bytes(rest)),
                '=' => draft.body = Some(bytes(rest)),
                '|' => match raw {
                    Raw::Request => draft.raw.extend(raw_line(rest)),
                    Raw::Reply => script.replies.last_mut().expect("begun").bytes.extend(raw_line(rest)),
                    Raw::Nothing => panic!("{place}: neither a request nor an answer is begun"),
                },
                '?' => draft.case.options(rest, &place),
                '!' => assert_eq!(draft.case.key.replace(rest.into()), None, "{place}: a second reason"),
                '-' | '+' => draft.case.expected.push(format!("{sign}{rest}")),
                '@' => {
                    let (path, closes) =
                        rest.strip_suffix(" close").map_or((rest, false), |path| (path, true));
                    script.replies.push(Reply { path: path.into(), bytes: Vec::new(), closes });
                    raw = Raw::Reply;
                }
                _ => {
                    let (name, content) = rest.split_once(' ').unwrap_or((rest, ""));
                    script.files.push((name.into(), bytes(content)));
                }
            }
        }
        script.cases.extend(draft.finished());
        script
    }

    /// The lines near this one, for a report.
    pub fn around(&self, line: usize) -> impl Iterator<Item = &str> {
        let first = line.saturating_sub(6);
        self.text.lines().skip(first).take(line - first + 2)
    }

    /// Writes the present differences into the cases that are marked with a key.
    pub fn write_marks(&self, path: &Path, marks: &[Vec<String>]) {
        let mut lines: Vec<String> = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if !matches!(special(line), Some(('-' | '+', _))) {
                lines.push(line.into());
            }
            let Some((sign, _)) = special(line) else { continue };
            let of_mark = |(case, _): &(&Case, &Vec<String>)| index + 1 >= case.line;
            let Some((case, mark)) = self.cases.iter().zip(marks).rfind(of_mark) else { continue };
            if sign == '!' && case.key.is_some() {
                let indent = &line[..line.find('#').unwrap_or(0)];
                let shown = |line: &String| match line.split_at(1) {
                    (sign, "") => format!("{indent}#{sign}"),
                    (sign, text) => format!("{indent}#{sign} {text}"),
                };
                lines.extend(mark.iter().map(shown));
            }
        }
        std::fs::write(path, lines.join("\n") + "\n").expect("the file can be written");
    }
}

impl Case {
    fn options(&mut self, text: &str, place: &str) {
        let mut rest = text.trim();
        while !rest.is_empty() {
            if let Some(mask) = rest.strip_prefix("mask=") {
                self.masks.push(Regex::new(mask).unwrap_or_else(|error| panic!("{place}: {error}")));
                return;
            }
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key, value) {
                ("answers", "end") => self.answers = None,
                ("log", "") => self.log = 1,
                ("port" | "answers" | "backend" | "log", _) => {
                    let number = value.parse().unwrap_or_else(|_| panic!("{place}: {word}"));
                    match key {
                        "port" => self.port = number,
                        "backend" => self.backend = number,
                        "log" => self.log = number,
                        _ => self.answers = Some(number),
                    }
                }
                _ => panic!("{place}: what is {word:?}?"),
            }
            rest = after.trim_start();
        }
    }
}

/// A case while its lines are read.
#[derive(Default)]
struct Draft {
    case: Case,
    line: Option<String>,
    headers: Vec<Vec<u8>>,
    body: Option<Vec<u8>>,
    raw: Vec<u8>,
}

impl Draft {
    fn begin(text: &str, line: usize) -> Self {
        let case = Case { line, title: text.into(), answers: Some(1), ..Case::default() };
        let is_raw = text.starts_with('(');
        Self { case, line: (!is_raw).then(|| text.to_owned()), ..Self::default() }
    }

    fn finished(self) -> Option<Case> {
        let mut case = self.case;
        let Some(line) = self.line else {
            case.bytes = self.raw;
            return (case.line > 0).then_some(case);
        };
        let has_version = line.contains(" HTTP/");
        let is_1_0 = line.ends_with(" HTTP/1.0");
        let has = |name: &str| {
            let starts = |header: &&Vec<u8>| header.to_ascii_lowercase().starts_with(name.as_bytes());
            self.headers.iter().any(|header| starts(&header))
        };
        case.bytes = bytes(&line);
        if !has_version {
            case.bytes.extend_from_slice(b" HTTP/1.1");
        }
        case.bytes.extend_from_slice(b"\r\n");
        if !is_1_0 && !has("host:") {
            case.bytes.extend_from_slice(b"Host: localhost\r\n");
        }
        if let Some(body) = &self.body
            && !has("content-length:")
            && !has("transfer-encoding:")
        {
            case.bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        for header in &self.headers {
            case.bytes.extend_from_slice(header);
            case.bytes.extend_from_slice(b"\r\n");
        }
        case.bytes.extend_from_slice(b"\r\n");
        case.bytes.extend_from_slice(&self.body.unwrap_or_default());
        Some(case)
    }
}

/// The sign after `#` and the rest of a special line.
fn special(line: &str) -> Option<(char, &str)> {
    let rest = line.trim_start().strip_prefix('#')?;
    let sign = rest.chars().next().filter(|sign| ">:=|?!-+@/".contains(*sign))?;
    let rest = &rest[sign.len_utf8()..];
    (rest.is_empty() || rest.starts_with(' ')).then(|| (sign, rest.strip_prefix(' ').unwrap_or(rest)))
}

fn raw_line(text: &str) -> Vec<u8> {
    match text.strip_suffix('\\') {
        Some(text) => bytes(text),
        None => [bytes(text).as_slice(), b"\r\n"].concat(),
    }
}

/// The bytes of a line, with escapes and repetitions expanded.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        if let Some((inside, after)) = rest.strip_prefix("{{").and_then(|rest| rest.split_once("}}"))
            && let Some((word, count)) = inside.rsplit_once('*')
            && let Ok(count) = count.parse::<usize>()
        {
            out.extend(bytes(word).repeat(count));
            rest = after;
            continue;
        }
        rest = &rest[char.len_utf8()..];
        let escape = if char == '\\' { rest.chars().next() } else { None };
        match escape {
            Some('n') => out.push(b'\n'),
            Some('r') => out.push(b'\r'),
            Some('t') => out.push(b'\t'),
            Some('\\') => out.push(b'\\'),
            Some('x') => {
                let byte = rest.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                out.push(byte.unwrap_or_else(|| panic!("two hex digits belong behind \\x in {text:?}")));
                rest = &rest[2..];
            }
            _ => out.extend(char.encode_utf8(&mut [0; 4]).bytes()),
        }
        if matches!(escape, Some('n' | 'r' | 't' | '\\' | 'x')) {
            rest = &rest[1..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_what_stands_there() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x.conf");
        let text = "http { # not #> GET /x\n    #> POST /a\n    #: X-A: b\n    #= {{ab*2}}\\x00\n    #? port=1 log mask=a b\n    \
                    #! key\n    #- c\n    #+\n#> (raw)\n#| GET /\\\n#|  HTTP/1.0\n#|\n#@ /p close\n#| HTTP/1.1 200 OK\n#/ f \\n\n}\n";
        std::fs::write(&path, text).expect("the folder is ours");
        let script = Script::read(&path);
        let [posted, raw] = &script.cases[..] else { panic!("two cases") };
        let bytes = "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-A: b\r\n\r\nabab\0";
        assert_eq!(String::from_utf8_lossy(&posted.bytes), bytes);
        assert_eq!((posted.line, posted.port, posted.log, posted.masks.len()), (2, 1, 1, 1));
        assert_eq!((posted.key.as_deref(), posted.expected.join("|")), (Some("key"), "-c|+".into()));
        assert_eq!(String::from_utf8_lossy(&raw.bytes), "GET / HTTP/1.0\r\n\r\n");
        assert_eq!((script.replies[0].path.as_str(), script.replies[0].closes), ("/p", true));
        assert_eq!(script.files, [("f".to_owned(), b"\n".to_vec())]);
        script.write_marks(&path, &[vec!["-d".into()], Vec::new()]);
        let written = std::fs::read_to_string(&path).expect("it was written");
        assert_eq!(written, text.replace("    #- c\n    #+\n", "    #- d\n"));
    }
}
