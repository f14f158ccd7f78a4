//! The conditions that the response to a health check must meet (`match` blocks).
//!
//! Touches: the request's variables (`require`). Behaviour: nginx.org, `match` of ngx_http_upstream_hc_module: all
//! conditions of a block must hold.

use std::ops::RangeInclusive;

use crate::config::{Diagnostic, Node, Word};
use crate::http::config::compile::Cx;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::http::upstream::proxied::Head;
use crate::script::regex::{Pattern, Regex};
use crate::script::value;
use crate::shared::conversation::Conversation;

/// Maximum number of a body's bytes that are looked at, as in nginx.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The conditions of one block.
#[derive(Debug, Default)]
pub struct Match {
    statuses: Vec<Statuses>,
    fields: Vec<Field>,
    bodies: Vec<Test>,
    required: Vec<Script>,
    /// For checks over plain connections.
    pub conversation: Conversation,
}

/// `status`: one of these, or none of them.
#[derive(Debug)]
struct Statuses {
    is_negated: bool,
    ranges: Vec<RangeInclusive<u16>>,
}

/// `header`
#[derive(Debug)]
struct Field {
    name: Box<str>,
    test: FieldTest,
}

#[derive(Debug)]
enum FieldTest {
    Present,
    Absent,
    Value(Test),
}

/// A comparison of a text.
#[derive(Debug)]
struct Test {
    is_negated: bool,
    pattern: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Text(Box<[u8]>),
    Regex(Regex),
}

/// The condition that a response does not meet: nginx's words for what was looked at, and what was found.
pub type Refusal = (&'static str, String);

const STATUS: &str = "checking status code";
const FIELDS: &str = "checking response headers";
const BODY: &str = "checking response body";
const REQUIRED: &str = "checking required variables";

impl Match {
    /// True if the body matters.
    pub fn reads_body(&self) -> bool {
        !self.bodies.is_empty()
    }

    /// Compares a response. `body`: the first bytes of it, if they matter.
    pub fn judge(&self, request: &mut Request, head: &Head, body: &[u8]) -> Result<(), Refusal> {
        let status = head.head.status;
        if self.statuses.iter().any(|statuses| !statuses.admit(status)) {
            return Err((STATUS, status.to_string()));
        }
        for field in &self.fields {
            if !field.admits(head) {
                return Err((FIELDS, format!("\"{}\"", field.name)));
            }
        }
        if let Some(at) = self.bodies.iter().position(|test| !test.admits(body)) {
            return Err((BODY, format!("condition {} of {} bytes", at + 1, body.len())));
        }
        for script in &self.required {
            let value = script.to_vec(request);
            if !value::is_true(&value) {
                return Err((REQUIRED, format!("a value is \"{}\"", String::from_utf8_lossy(&value))));
            }
        }
        Ok(())
    }

    /// `status 200-299`, `status ! 500 503`
    pub fn add_statuses(&mut self, node: &Node) -> Result<(), Diagnostic> {
        let is_negated = node.arg(0) == "!";
        let words = node.args.get(usize::from(is_negated)..).unwrap_or(&[]);
        let ranges = words.iter().map(|word| {
            let (first, last) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
            let number = |text: &str| text.parse().ok().filter(|status| (100..=999).contains(status));
            let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            let invalid = || Diagnostic::error(word.span, format!("invalid status \"{}\"", word.text));
            range.map(|(first, last)| first..=last).ok_or_else(invalid)
        });
        let ranges: Vec<_> = ranges.collect::<Result<_, _>>()?;
        if ranges.is_empty() {
            return Err(Diagnostic::error(node.span, "no status in \"status\" directive"));
        }
        self.statuses.push(Statuses { is_negated, ranges });
        Ok(())
    }

    /// `header Name`, `header ! Name`, `header Name = value`, with `=`, `!=`, `~` or `!~`
    pub fn add_field(&mut self, node: &Node, cx: &mut Cx) -> Result<(), Diagnostic> {
        let (name, test) = match &*node.args {
            [name] => (name, FieldTest::Present),
            [not, name] if &*not.text == "!" => (name, FieldTest::Absent),
            [name, operator, value] => (name, FieldTest::Value(Test::new(operator, value, cx)?)),
            _ => {
                let help = "write \"header Name\", \"header ! Name\", or \"header Name = value\" with =, !=, ~ or !~";
                return Err(Diagnostic::error(node.span, "invalid condition of a header").help(help));
            }
        };
        self.fields.push(Field { name: (&name.text).into(), test });
        Ok(())
    }

    /// `body ~ "expression"`, `body !~ "expression"`
    pub fn add_body(&mut self, node: &Node, cx: &mut Cx) -> Result<(), Diagnostic> {
        if !matches!(node.arg(0), "~" | "!~") {
            let message = format!("invalid operator \"{}\"", node.arg(0));
            return Err(Diagnostic::error(node.arg_span(0), message).help("only ~ and !~ compare a body"));
        }
        if let [operator, value] = &*node.args {
            self.bodies.push(Test::new(operator, value, cx)?);
        }
        Ok(())
    }

    /// `require $variable …`
    pub fn require(&mut self, node: &Node, cx: &mut Cx) -> Result<(), Diagnostic> {
        for word in &node.args {
            self.required.push(Script::compile(word, cx)?);
        }
        Ok(())
    }
}

/// Judges a response without a `match` block: its status must be one of success or a redirect.
pub fn judge_status(status: u16) -> Result<(), Refusal> {
    if (200..400).contains(&status) { Ok(()) } else { Err((STATUS, status.to_string())) }
}

impl Statuses {
    fn admit(&self, status: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&status)) != self.is_negated
    }
}

impl Field {
    fn admits(&self, head: &Head) -> bool {
        let data = head.buffer.data();
        let fields = head.head.fields.pairs(data);
        let mut values = fields
            .filter(|(name, _)| name.eq_ignore_ascii_case(self.name.as_bytes()))
            .map(|(_, value)| value);
        match &self.test {
            FieldTest::Present => values.next().is_some(),
            FieldTest::Absent => values.next().is_none(),
            FieldTest::Value(test) if test.is_negated => {
                let mut values = values.peekable();
                values.peek().is_some() && values.all(|value| test.admits(value))
            }
            FieldTest::Value(test) => values.any(|value| test.admits(value)),
        }
    }
}

impl Test {
    fn new(operator: &Word, value: &Word, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let regex = |cx: &mut Cx| {
            let pattern = Pattern::new(&value.text, false, value.span)?;
            Ok::<_, Diagnostic>(Wanted::Regex(pattern.declare(&mut cx.variables)))
        };
        let (is_negated, pattern) = match &*operator.text {
            "=" => (false, Wanted::Text(value.text.as_bytes().into())),
            "!=" => (true, Wanted::Text(value.text.as_bytes().into())),
            "~" => (false, regex(cx)?),
            "!~" => (true, regex(cx)?),
            other => {
                let message = format!("invalid operator \"{other}\"");
                return Err(Diagnostic::error(operator.span, message).help("it is one of =, !=, ~ and !~"));
            }
        };
        Ok(Self { is_negated, pattern })
    }

    /// A pattern that gives up does not match.
    fn admits(&self, text: &[u8]) -> bool {
        let is_match = match &self.pattern {
            Wanted::Text(wanted) => text == &**wanted,
            Wanted::Regex(regex) => regex.is_match(text).unwrap_or(self.is_negated),
        };
        is_match != self.is_negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_text};
    use crate::http::CompileOptions;
    use crate::http::tests::with_request;
    use crate::http::upstream::codec::{Decoder, Encoder};
    use crate::log::Logger;
    use crate::runtime::buffer::Buffer;

    fn read(text: &str) -> Result<Match, String> {
        let (tree, findings) = load_text("test.conf", text, &LoadOptions::default());
        assert!(!findings.has_errors(), "{text}");
        let folder = std::env::temp_dir();
        let options = CompileOptions {
            prefix: folder.clone(),
            folder,
            error_log: Logger::none(),
            names: Default::default(),
            test_only: true,
        };
        let mut cx = Cx::new(&options);
        let mut found = Match::default();
        for node in &tree.nodes {
            let added = match &*node.name.text {
                "status" => found.add_statuses(node),
                "header" => found.add_field(node, &mut cx),
                "body" => found.add_body(node, &mut cx),
                other => panic!("{other}"),
            };
            added.map_err(|diagnostic| diagnostic.message)?;
        }
        Ok(found)
    }

    fn head(request: &Request, text: &str) -> Head {
        let mut head = Head { buffer: Buffer::take(text.len()), ..Head::default() };
        head.buffer.extend(text.as_bytes());
        let mut decoder = Decoder::new(Encoder::of(request.location), b"");
        decoder.head(&mut head.buffer, text.len(), &mut head.head).expect("a head");
        head
    }

    #[test]
    fn all_conditions_must_hold() {
        with_request("http { server { location / { proxy_pass http://127.0.0.1:1; } } }", "/", |request| {
            let text = "HTTP/1.1 203 OK\r\nContent-Type: text/html\r\nX-Node: a1\r\nX-Node: b2\r\n\r\n";
            let answer = head(request, text);
            for (block, expected) in [
                ("", true),
                ("status 203;", true),
                ("status 200 201-204;", true),
                ("status 200; ", false),
                ("status ! 500 503;", true),
                ("status ! 200-299;", false),
                ("header Content-Type;", true),
                ("header ! X-Accel-Redirect;", true),
                ("header ! content-type;", false),
                ("header X-None;", false),
                ("header Content-Type = text/html;", true),
                ("header Content-Type = text;", false),
                ("header Content-Type != text/plain;", true),
                ("header X-None != text/plain;", false),
                ("header X-Node ~ ^b;", true),
                ("header X-Node !~ ^b;", false),
                ("header X-Node !~ ^c;", true),
                ("body ~ Welcome;", true),
                ("body !~ Welcome;", false),
                ("body ~ Welcome; body ~ away;", false),
                ("status 203; header X-Node; body ~ ^Welcome;", true),
            ] {
                let judged = read(block).expect(block).judge(request, &answer, b"Welcome here");
                assert_eq!(judged.is_ok(), expected, "{block}: {judged:?}");
            }
        });
        assert!(judge_status(399).is_ok() && judge_status(199).is_err() && judge_status(400).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, message) in [
            ("status x;", "invalid status \"x\""),
            ("status 300-200;", "invalid status \"300-200\""),
            ("status !;", "no status in \"status\" directive"),
            ("header A B;", "invalid condition of a header"),
            ("header A < B;", "invalid operator \"<\""),
            ("body = x;", "invalid operator \"=\""),
        ] {
            assert_eq!(read(text).expect_err(text), message);
        }
        assert!(read("body ~ (;").is_err());
    }
}
