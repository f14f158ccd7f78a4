//! `sticky` in HTTP: which peer a request is bound to, and how it comes to be: by a cookie of ours, by a value
//! of the request, by a session that the application makes, by the client's address.
//!
//! The engine is `upstream/sticky.rs`. Touches: the request's variables, the fields of its response, a table
//! in shared memory. Behaviour: nginx.org, `sticky` of ngx_http_upstream_module; its ngx_http_upstream_sticky_module.c
//! for the order of a cookie's attributes.

use std::rc::Rc;

use crate::base::number::parse_millis;
use crate::config::{Diagnostic, Node, Span, Word, params};
use crate::http::config::compile::Cx;
use crate::http::modules::http_core;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::log::format::cookie_date;
use crate::proto::field_text::Token;
use crate::runtime;
use crate::script::Scope;
use crate::shared::sticky::{Source, TableWords, missing, twice, unknown, wrong};
use crate::sys::clock;
use crate::upstream::sticky::{Bindings, Bound};
use crate::upstream::{Peer, Session};

/// `samesite=`; another value of a variable counts as the first.
const SAME_SITE: [&str; 3] = ["strict", "lax", "none"];
const KINDS: [&str; 4] = ["cookie", "route", "learn", "source"];

/// The `sticky` of one `upstream` block.
#[derive(Debug)]
pub struct Sticky {
    kind: Kind,
    pub span: Span,
}

#[derive(Debug)]
enum Kind {
    Cookie(Box<Cookie>),
    /// The first of these values that is not empty is the id of a peer.
    Route(Box<[Script]>),
    Learn(Box<Learn>),
    Source(Box<Source>),
}

/// `sticky cookie`: each response tells the client the id of its peer.
#[derive(Debug)]
struct Cookie {
    name: Box<str>,
    expires: Option<Expires>,
    domain: Option<Script>,
    /// `; httponly; secure`, as far as they are set.
    flags: Box<str>,
    same_site: Option<Script>,
    /// `; path=…`, or nothing.
    path: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expires {
    Max,
    Seconds(i64),
}

/// `sticky learn`: the application makes sessions, and their names are learned from what passes by.
#[derive(Debug)]
struct Learn {
    bindings: Bindings,
    /// Where a new session is named.
    create: Box<[Script]>,
    /// Where a client names its session.
    lookup: Box<[Script]>,
    /// Learn when the head of the response has arrived, not when all of it has.
    is_early: bool,
}

impl Sticky {
    /// Reads the directive.
    pub fn read(node: &Node, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let kind = match node.arg(0) {
            "cookie" => Kind::Cookie(Box::new(Cookie::read(node, cx)?)),
            "route" => Kind::Route(routes(node, cx)?),
            "learn" => Kind::Learn(Box::new(Learn::read(node, cx)?)),
            "source" => Kind::Source(Box::new(Source::read("", node)?)),
            other => {
                let message = format!("unknown parameter \"{other}\"");
                let help = format!("one of: {}", KINDS.join(", "));
                return Err(Diagnostic::error(node.arg_span(0), message).help(help));
            }
        };
        Ok(Self { kind, span: node.span })
    }

    /// The table of `learn` and `source`.
    pub fn bindings(&self) -> Option<&Bindings> {
        match &self.kind {
            Kind::Cookie(_) | Kind::Route(_) => None,
            Kind::Learn(learn) => Some(&learn.bindings),
            Kind::Source(source) => Some(&source.bindings),
        }
    }

    /// Begins a request's course: has the session prefer the peer that the request is bound to.
    pub fn begin(&'static self, request: &mut Request, session: Session) -> (Session, Box<Binding>) {
        let (mut key, mut bound) = (Vec::new(), None);
        match &self.kind {
            Kind::Cookie(cookie) => bound = http_core::cookie_value(request, &cookie.name).map(named),
            Kind::Route(values) => {
                bound = Some(first(values, request)).filter(|id| !id.is_empty()).map(|id| named(&id));
            }
            Kind::Learn(learn) => key = first(&learn.lookup, request),
            Kind::Source(source) => key = source.key(request.peer()),
        }
        if let Some(bindings) = self.bindings().filter(|_| !key.is_empty()) {
            bound = bindings.find(&key, runtime::now_ms());
        }
        let session = match bound {
            Some(bound) => session.prefer(bound),
            None => session,
        };
        (session, Box::new(Binding { sticky: self, key, peer: None, has_answered: false }))
    }
}

/// The peer of an id that the client has sent.
fn named(id: &[u8]) -> Bound {
    Bound::Id(id.into())
}

/// The first value that is not empty.
fn first(values: &[Script], request: &mut Request) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        value.evaluate(request, &mut out);
        if !out.is_empty() {
            break;
        }
    }
    out
}

/// One request's binding on its way through a sticky group.
///
/// The pass calls [`Binding::picked`] for each peer that it tries, [`Binding::answered`] when one has
/// answered and no other will be tried, and [`Binding::ended`] at the end, if it comes to that.
#[derive(Debug)]
pub struct Binding {
    sticky: &'static Sticky,
    /// The session that the client named, or the client; empty: there is none.
    key: Vec<u8>,
    peer: Option<Rc<Peer>>,
    has_answered: bool,
}

impl Binding {
    /// A peer's turn begins.
    pub fn picked(&mut self, request: &mut Request, peer: &Rc<Peer>) {
        match &self.sticky.kind {
            Kind::Cookie(cookie) => cookie.set(request, peer),
            Kind::Source(source) if !self.key.is_empty() => {
                // At once: a client's further requests may arrive before this one is answered.
                source.bindings.bind(&self.key, peer, runtime::now_ms());
            }
            Kind::Route(_) | Kind::Learn(_) | Kind::Source(..) => {}
        }
        self.peer = Some(Rc::clone(peer));
    }

    /// The head of the peer's response has arrived, and variables can be asked about it.
    pub fn answered(&mut self, request: &mut Request) {
        self.has_answered = true;
        if let Kind::Learn(learn) = &self.sticky.kind
            && learn.is_early
        {
            self.learn(learn, request);
        }
    }

    /// The response is complete, or the client did not wait for it; not called if the peer broke it off. Called
    /// before the last bytes are sent wherever possible: a client that has the whole response may use its session
    /// at once. Further calls change nothing.
    pub fn ended(&mut self, request: &mut Request) {
        if let Kind::Learn(learn) = &self.sticky.kind
            && !learn.is_early
            && std::mem::take(&mut self.has_answered)
        {
            self.learn(learn, request);
        }
    }

    fn learn(&self, learn: &Learn, request: &mut Request) {
        let Some(peer) = &self.peer else { return };
        let created = first(&learn.create, request);
        if !created.is_empty() {
            learn.bindings.bind(&created, peer, runtime::now_ms());
        } else if !self.key.is_empty() {
            learn.bindings.renew(&self.key, peer, runtime::now_ms());
        }
    }
}

impl Cookie {
    fn read(node: &Node, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let name = node.arg(1);
        if Token::new(name.as_bytes()).is_none() {
            let what = if name.is_empty() { "empty cookie name" } else { "invalid cookie name" };
            return Err(wrong(node, &node.args[1], what));
        }
        let (mut domain, mut path, mut expires, mut same_site) = (None, None, None, None);
        let (mut is_http_only, mut is_secure) = (false, false);
        for word in &node.args[2..] {
            let is_twice = if let Some(value) = params::value(word, "domain") {
                domain
                    .replace(Script::compile_text(filled(node, word, "domain", value)?, word.span, cx)?)
                    .is_some()
            } else if let Some(value) = params::value(word, "path") {
                path.replace(filled(node, word, "path", value)?).is_some()
            } else if let Some(value) = params::value(word, "expires") {
                let read = read_expires(value);
                expires
                    .replace(read.ok_or_else(|| wrong(node, word, "invalid \"expires\" parameter value"))?)
                    .is_some()
            } else if let Some(value) = params::value(word, "samesite") {
                let script = Script::compile_text(value, word.span, cx)?;
                if script.as_text().is_some_and(|text| !is_same_site(text)) {
                    return Err(wrong(node, word, "invalid \"samesite\" parameter value")
                        .help(format!("one of: {}", SAME_SITE.join(", "))));
                }
                same_site.replace(script).is_some()
            } else {
                match &*word.text {
                    "httponly" => std::mem::replace(&mut is_http_only, true),
                    "secure" => std::mem::replace(&mut is_secure, true),
                    _ => {
                        let names = ["domain=", "path=", "expires=", "samesite=", "httponly", "secure"];
                        return Err(unknown(word, &names));
                    }
                }
            };
            if is_twice {
                return Err(twice(node, word));
            }
        }
        let flags = [(is_http_only, "; httponly"), (is_secure, "; secure")];
        let flags: String = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, text)| *text).collect();
        let path = path.map(|path| format!("; path={path}")).unwrap_or_default();
        Ok(Self { name: name.into(), expires, domain, flags: flags.into(), same_site, path: path.into() })
    }

    /// Has the response tell the client the id of its peer.
    fn set(&self, request: &mut Request, peer: &Peer) {
        let Some(id) = peer.id() else { return };
        let mut text = [self.name.as_bytes(), b"=", id.text()].concat();
        match self.expires {
            None => {}
            Some(Expires::Max) => {
                text.extend_from_slice(b"; expires=Thu, 31-Dec-37 23:55:55 GMT; max-age=315360000");
            }
            Some(Expires::Seconds(seconds)) => {
                text.extend_from_slice(b"; expires=");
                cookie_date(clock::wall_seconds().saturating_add(seconds), &mut text);
                text.extend_from_slice(b"; max-age=");
                text.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
            }
        }
        attribute("; domain=", self.domain.as_ref().map(|domain| domain.to_vec(request)), &mut text);
        text.extend_from_slice(self.flags.as_bytes());
        let same_site = self.same_site.as_ref().map(|script| script.to_vec(request));
        let same_site = same_site.map(|value| match value.is_empty() || is_same_site(&value) {
            true => value,
            false => SAME_SITE[0].into(),
        });
        attribute("; samesite=", same_site, &mut text);
        text.extend_from_slice(self.path.as_bytes());
        request.proxied.set_cookie(&text);
    }
}

/// Appends an attribute of a cookie, unless it has no value.
fn attribute(name: &str, value: Option<Vec<u8>>, out: &mut Vec<u8>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&value);
    }
}

fn is_same_site(value: &[u8]) -> bool {
    SAME_SITE.iter().any(|known| value.eq_ignore_ascii_case(known.as_bytes()))
}

/// `max`, or a time in whole seconds.
fn read_expires(text: &str) -> Option<Expires> {
    if text == "max" {
        return Some(Expires::Max);
    }
    let millis = parse_millis(text).filter(|millis| millis.is_multiple_of(1000))?;
    Some(Expires::Seconds(i64::try_from(millis / 1000).ok()?))
}

/// The variables of `sticky route`.
fn routes(node: &Node, cx: &mut Cx) -> Result<Box<[Script]>, Diagnostic> {
    let mut values = Vec::new();
    for word in &node.args[1..] {
        if !word.text.starts_with('$') {
            let message = format!("invalid variable name \"{}\"", word.text);
            return Err(Diagnostic::error(word.span, message)
                .help("a route is the value of a variable: $cookie_route"));
        }
        values.push(Script::variable(word, cx));
    }
    Ok(values.into())
}

impl Learn {
    fn read(node: &Node, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let (mut create, mut lookup) = (Vec::new(), Vec::new());
        let (mut table, mut is_early) = (TableWords::default(), false);
        for word in &node.args[1..] {
            if table.read(node, word)? {
                continue;
            }
            if let Some(value) = params::value(word, "create") {
                create.push(variable(node, word, "create", value, cx)?);
            } else if let Some(value) = params::value(word, "lookup") {
                lookup.push(variable(node, word, "lookup", value, cx)?);
            } else if &*word.text == "header" {
                is_early = true;
            } else if &*word.text == "sync" {
                let message = "\"sync\" has no effect: zones are not shared between machines";
                cx.diagnostics.push(Diagnostic::warning(word.span, message));
            } else {
                return Err(unknown(word, &["create=", "lookup=", "zone=", "timeout=", "header", "sync"]));
            }
        }
        for (name, values) in [("lookup", &lookup), ("create", &create)] {
            if values.is_empty() {
                return Err(missing(node, name));
            }
        }
        let bindings = table.bindings("", node)?;
        Ok(Self { bindings, create: create.into(), lookup: lookup.into(), is_early })
    }
}

/// The variable of `create=$name` or `lookup=$name`.
fn variable(node: &Node, word: &Word, name: &str, value: &str, cx: &mut Cx) -> Result<Script, Diagnostic> {
    if !value.starts_with('$') {
        return Err(wrong(node, word, &format!("missing variable in the \"{name}\" parameter")));
    }
    let value = Word { text: value.into(), span: word.span, quoted: false };
    Ok(Script::variable(&value, cx))
}

fn filled<'a>(node: &Node, word: &Word, name: &str, value: &'a str) -> Result<&'a str, Diagnostic> {
    if value.is_empty() { Err(wrong(node, word, &format!("no value for \"{name}\""))) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use crate::http::tests::findings;

    /// The first finding about a `sticky` with these arguments.
    fn finding(arguments: &str) -> String {
        let text = format!("http {{ upstream u {{ server 127.0.0.1:1; sticky {arguments}; }} }}");
        findings(&text).0.first().map(|finding| finding.message.clone()).unwrap_or_default()
    }

    #[test]
    fn what_it_says_is_read() {
        for arguments in [
            "cookie a",
            "cookie srv-id expires=1h domain=.example.com path=/ httponly secure samesite=Lax",
            "cookie a expires=max domain=$host samesite=$arg_x",
            "cookie a 'expires=1h 3m'",
            "route $cookie_route $arg_route",
            "learn create=$upstream_cookie_a lookup=$cookie_a lookup=$arg_a zone=sticky_read_1:1m",
            "learn create=$upstream_cookie_a lookup=$cookie_a zone=sticky_read_2:32k timeout=1h header",
            "source zone=sticky_read_3:32k",
            "source zone=sticky_read_4:32k timeout=2h prefix4=24 prefix6=48",
        ] {
            assert_eq!(finding(arguments), "", "{arguments}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (arguments, message) in [
            ("cooky a", "unknown parameter \"cooky\""),
            ("cookie ''", "\"sticky\" directive empty cookie name"),
            ("cookie 'a b'", "\"sticky\" directive invalid cookie name"),
            ("cookie a expires=", "\"sticky\" directive invalid \"expires\" parameter value"),
            ("cookie a expires=10ms", "\"sticky\" directive invalid \"expires\" parameter value"),
            ("cookie a domain=", "\"sticky\" directive no value for \"domain\""),
            ("cookie a path=", "\"sticky\" directive no value for \"path\""),
            ("cookie a path=/ path=/b", "\"sticky\" directive parameter \"path\" is duplicate"),
            ("cookie a secure secure", "\"sticky\" directive parameter \"secure\" is duplicate"),
            ("cookie a samesite=some", "\"sticky\" directive invalid \"samesite\" parameter value"),
            ("cookie a samesite=", "\"sticky\" directive invalid \"samesite\" parameter value"),
            ("cookie a httponly=1", "unknown parameter \"httponly=1\""),
            ("route a", "invalid variable name \"a\""),
            ("route $nothing_of_this_name", "unknown \"nothing_of_this_name\" variable"),
            ("learn create=$a zone=z:1m", "\"sticky\" directive \"lookup\" parameter is not specified"),
            ("learn lookup=$a zone=z:1m", "\"sticky\" directive \"create\" parameter is not specified"),
            ("learn lookup=$a create=$a", "\"sticky\" directive \"zone\" parameter is not specified"),
            (
                "learn lookup=a create=$a zone=z:1m",
                "\"sticky\" directive missing variable in the \"lookup\" parameter",
            ),
            ("learn lookup=$a create=$a zone=z:1k", "zone \"zone=z:1k\" is too small"),
            ("learn lookup=$a create=$a zone=:1m", "invalid zone size \"zone=:1m\""),
            ("learn lookup=$a create=$a zone=z:1m timeout=0", "\"sticky\" directive invalid timeout"),
            (
                "learn lookup=$a create=$a zone=z:1m zone=y:1m",
                "\"sticky\" directive parameter \"zone\" is duplicate",
            ),
            ("source prefix4=24", "\"sticky\" directive \"zone\" parameter is not specified"),
            ("source zone=z:1m prefix4=33", "invalid prefix \"prefix4=33\""),
            ("source zone=z:1m prefix6=0", "invalid prefix \"prefix6=0\""),
            ("source zone=z:1m prefix6=999", "invalid prefix \"prefix6=999\""),
            ("source zone=z:1m header", "unknown parameter \"header\""),
            ("cookie a; sticky cookie b", "\"sticky\" directive is duplicate"),
            (
                "learn lookup=$host create=$host zone=sticky_sync:32k sync",
                "\"sync\" has no effect: zones are not shared between machines",
            ),
        ] {
            assert_eq!(finding(arguments), message, "{arguments}");
        }
    }

    #[test]
    fn a_zone_belongs_to_one_upstream() {
        let upstream = |name: &str, what: &str| {
            format!("upstream {name} {{ server 127.0.0.1:1; sticky {what} zone=sticky_twice:32k; }} ")
        };
        let learn = "learn lookup=$host create=$host";
        let text = format!("http {{ {}{} }}", upstream("a", learn), upstream("b", "source"));
        let found: Vec<_> = findings(&text).0.iter().map(|finding| finding.message.clone()).collect();
        assert_eq!(found, ["sticky zone \"sticky_twice\" is already used in upstream \"a\""]);
    }
}
