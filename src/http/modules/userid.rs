//! Cookies that identify clients (`userid`).
//!
//! Runs on every response head. Touches: the request's cookies, the response's fields; sequence numbers of
//! the worker.
//! Behaviour: nginx.org, ngx_http_userid_module. The value of a cookie is 16 bytes in base64: the server's
//! number or address, the time, the worker's start time and pid, a sequence number.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;
use std::sync::OnceLock;

use crate::base::base64;
use crate::config::directive::{custom, number, one_of};
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, keywords, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, http_core};
use crate::http::request::{Request, states};
use crate::http::scope::Variable;
use crate::log;
use crate::log::format::cookie_date;
use crate::script::Scope;
use crate::script::value;
use crate::script::variable::{Change, VariableId, changeable, variable};
use crate::sys::clock;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        userid: Setting<Mode> = Mode::Off,
        name: Setting<Box<str>> = "uid".into(),
        /// `; domain=…`, or nothing.
        domain: Setting<Box<str>> = "".into(),
        path: Setting<Box<str>> = "; path=/".into(),
        expires: Setting<Expires> = Expires::Never,
        flags: Setting<Box<str>> = "".into(),
        p3p: Setting<Box<str>> = "".into(),
        mark: Setting<Option<u8>> = None,
        service: Inherit<u64>,
        /// `$uid_reset`, if cookies are set.
        reset: Option<VariableId> => own,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expires {
    Never,
    Max,
    Seconds(i64),
}

/// The cookie of a request, once something has asked for it.
pub type State = Option<Box<Cookie>>;

impl states::State for State {
    fn park(&mut self) -> Option<Self> {
        self.take().map(Some)
    }
}

/// The cookie of one request: as received and as sent.
#[derive(Debug, Default)]
pub struct Cookie {
    /// As received.
    cookie: Vec<u8>,
    got: Option<Uid>,
    set: Option<Uid>,
    /// A valid cookie is replaced by a new one.
    is_reset: bool,
}

type Uid = [u8; 16];

/// Whether cookies are read and set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Mode {
    Off,
    /// Cookies are read, but not set.
    Log,
    V1,
    V2,
}
keywords!(Mode { "off" => Off, "log" => Log, "v1" => V1, "on" => V2 });

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    one_of("userid", Context::ANY, |c| &mut c.userid, "Sets cookies of version 1 or 2 that identify clients, or only logs the received ones."),
    custom("userid_name", Context::ANY, Arity::exactly(1), |c: &mut Conf, _, n| text(&mut c.name, n, |value| value.to_owned()),
        "Sets the name of the cookie.").default("uid"),
    custom("userid_domain", Context::ANY, Arity::exactly(1), |c: &mut Conf, _, n| text(&mut c.domain, n, |value| or_none(value, "; domain=")),
        "Sets the domain of the cookie.").default("none"),
    custom("userid_path", Context::ANY, Arity::exactly(1), |c: &mut Conf, _, n| text(&mut c.path, n, |value| format!("; path={value}")),
        "Sets the path of the cookie.").default("/"),
    custom("userid_expires", Context::ANY, Arity::exactly(1), expires,
        "Sets how long browsers keep the cookie, or max. With off, it expires when the browser is closed.").default("off"),
    custom("userid_flags", Context::ANY, Arity::between(1, 3), flags,
        "Sets the attributes of the cookie: secure, httponly, samesite=strict, lax or none.").default("off"),
    custom("userid_p3p", Context::ANY, Arity::exactly(1), |c: &mut Conf, _, n| text(&mut c.p3p, n, |value| or_none(value, "")),
        "Sets the value of the P3P field that is sent with the cookie.").default("none"),
    custom("userid_mark", Context::ANY, Arity::exactly(1), mark,
        "Sets a letter, digit or = that marks valid cookies; other cookies are replaced.").default("off"),
    number("userid_service", Context::ANY, (0, u32::MAX as u64), |c: &mut Conf| &mut c.service,
        "Sets the number of this server in the cookies.").default("the server's address"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("uid_got", |request, _, out| match of(request).filter(|conf| conf.mode() != Mode::Off) {
        Some(conf) => show(conf, state(request, conf).got, out),
        None => false,
    },
        "The name and value of the cookie that the client sent, as set by userid."),
    variable("uid_set", |request, _, out| match of(request).filter(|conf| conf.mode() >= Mode::V1) {
        Some(conf) => {
            make(request, conf);
            show(conf, state(request, conf).set, out)
        }
        None => false,
    },
        "The name and value of the cookie that userid sets."),
    changeable("uid_reset", |_, _, _| true, Change::Kept,
        "Makes userid issue a new cookie if set to anything but empty and 0; the value log also logs the old cookie."),
];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        if let Some(span) = self.userid.span().filter(|_| self.mode() >= Mode::V1) {
            self.reset = Some(cx.variables.reference("uid_reset", span));
        }
    }

    fn acts(&self) -> bool {
        self.mode() >= Mode::V1
    }
}

impl Conf {
    fn mode(&self) -> Mode {
        self.userid.get()
    }

    fn name(&self) -> &str {
        self.name.value()
    }

    fn mark(&self) -> Option<u8> {
        self.mark.get()
    }
}

fn text(slot: &mut Setting<Box<str>>, node: &Node, make: impl Fn(&str) -> String) -> Result<(), Diagnostic> {
    slot.put(make(node.arg(0)).into(), node)
}

fn or_none(value: &str, before: &str) -> String {
    if value == "none" { String::new() } else { format!("{before}{value}") }
}

fn expires(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let value = match node.arg(0) {
        "max" => Expires::Max,
        "off" => Expires::Never,
        _ => match params::millis(node, 0)? / 1000 {
            0 => Expires::Never,
            seconds => Expires::Seconds(seconds as i64),
        },
    };
    conf.expires.put(value, node)
}

fn flags(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    const FLAGS: [&str; 5] = ["secure", "httponly", "samesite=strict", "samesite=lax", "samesite=none"];
    let mut is_set = [false; FLAGS.len()];
    for (index, word) in node.args.iter().enumerate() {
        match FLAGS.iter().position(|flag| *flag == &*word.text) {
            Some(flag) if is_set[flag] => {
                cx.diagnostics.push(params::duplicate_value(node, index));
            }
            Some(flag) => is_set[flag] = true,
            None if &*word.text == "off" => {}
            None => {
                let words = ["off", "secure", "httponly", "samesite=strict", "samesite=lax", "samesite=none"];
                return Err(params::invalid_value(node, index, &words));
            }
        }
    }
    let flags = FLAGS.iter().zip(is_set).filter(|(_, is_set)| *is_set);
    let text: String = flags.map(|(flag, _)| format!("; {flag}")).collect();
    conf.flags.put(text.into(), node)
}

fn mark(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let value = match node.arg(0).as_bytes() {
        b"off" => None,
        [byte] if byte.is_ascii_alphanumeric() || *byte == b'=' => Some(*byte),
        _ => {
            let message = "value must be \"off\" or a single letter, digit or \"=\"";
            return Err(Diagnostic::error(node.arg_span(0), format!("\"userid_mark\" directive {message}")));
        }
    };
    conf.mark.put(value, node)
}

/// Adds the cookie to the response's head.
pub fn send(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.userid;
    if conf.mode() < Mode::V1 || request.is_subrequest() {
        return;
    }
    set_cookie(request, conf);
}

fn set_cookie(request: &mut Request, conf: &'static Conf) {
    make(request, conf);
    let state = state(request, conf);
    let Some(set) = state.set else { return };
    let mut cookie = conf.name().as_bytes().to_vec();
    cookie.push(b'=');
    let value_at = cookie.len();
    if state.got.is_none() || state.is_reset {
        base64::encode(&set, &mut cookie);
        if let Some(mark) = conf.mark() {
            let at = value_at + 22;
            cookie[at] = mark;
        }
    } else {
        // The client's own cookie, with the mark.
        cookie.extend_from_slice(&state.cookie[..22]);
        cookie.extend_from_slice(&[conf.mark().unwrap_or(b'='), b'=']);
    }
    match conf.expires.get() {
        Expires::Never => {}
        Expires::Max => cookie.extend_from_slice(b"; expires=Thu, 31-Dec-37 23:55:55 GMT"),
        Expires::Seconds(seconds) => {
            cookie.extend_from_slice(b"; expires=");
            cookie_date(clock::wall_seconds().saturating_add(seconds), &mut cookie);
        }
    }
    for part in [&conf.domain, &conf.path, &conf.flags] {
        cookie.extend_from_slice(part.value().as_bytes());
    }
    request.response.headers.push(b"Set-Cookie", &cookie);
    let p3p = conf.p3p.value();
    if !p3p.is_empty() {
        request.response.headers.push(b"P3P", p3p.as_bytes());
    }
}

/// The settings of the location in force; `None` if no enclosing block uses the module.
fn of(request: &Request) -> Option<&'static Conf> {
    let conf: &'static Conf = &request.location.confs.userid;
    conf.userid.is_set().then_some(conf)
}

/// The state of the request; its cookie is parsed on the first call.
fn state<'a>(request: &'a mut Request, conf: &Conf) -> &'a mut Cookie {
    if request.states.userid.is_none() {
        let state = read(request, conf);
        request.states.userid = Some(Box::new(state));
    }
    request.states.userid.get_or_insert_default()
}

fn read(request: &Request, conf: &Conf) -> Cookie {
    let Some(cookie) = http_core::cookie_value(request, conf.name()) else { return Cookie::default() };
    let mut state = Cookie { cookie: cookie.to_vec(), ..Cookie::default() };
    let shown = log::Text(cookie);
    if cookie.len() < 22 {
        log::error!(request.error_log(), request, "client sent too short userid cookie \"{}\"", shown);
        return state;
    }
    // Two further characters are a mark and "=", or garbage.
    match base64::decode(&cookie[..22]).and_then(|bytes| Uid::try_from(bytes).ok()) {
        Some(uid) => state.got = Some(uid).filter(|uid| uid[12..] != [0; 4]),
        None => {
            log::error!(request.error_log(), request, "client sent invalid userid cookie \"{}\"", shown)
        }
    }
    state
}

/// Decides whether to send a cookie, and which one.
fn make(request: &mut Request, conf: &'static Conf) {
    let known = state(request, conf);
    if known.set.is_some() {
        return;
    }
    if let Some(got) = known.got {
        let mut reset = Vec::new();
        if let Some(id) = conf.reset {
            request.variable(id, &mut reset);
        }
        let known = state(request, conf);
        if !value::is_true(&reset) {
            let is_marked = conf.mark().is_none_or(|mark| known.cookie.get(22..24) == Some(&[mark, b'=']));
            known.set = (!is_marked).then_some(got);
            return;
        }
        known.is_reset = true;
        if reset == b"log" {
            let mut shown = Vec::new();
            show(conf, Some(got), &mut shown);
            let shown = log::Text(&shown);
            log::notice!(request.error_log(), &*request, "userid cookie \"{}\" was reset", shown);
        }
    }
    let uid = fresh(request, conf);
    state(request, conf).set = Some(uid);
}

thread_local! {
    static SEQUENCE_V1: Cell<u32> = const { Cell::new(1) };
    static SEQUENCE_V2: Cell<u32> = const { Cell::new(0x0303_0302) };
}

/// A value that no other worker produces at any time.
fn fresh(request: &Request, conf: &Conf) -> Uid {
    let service = conf.service.as_ref().map(|service| *service as u32);
    let now = clock::wall_seconds() as u32;
    let words = if conf.mode() == Mode::V1 {
        let sequence = SEQUENCE_V1.get();
        SEQUENCE_V1.set(sequence.wrapping_add(0x100));
        let words = [service.unwrap_or(0), now, start_value(), sequence];
        words.map(u32::to_ne_bytes)
    } else {
        let sequence = SEQUENCE_V2.get();
        SEQUENCE_V2.set(sequence.wrapping_add(0x100).max(0x0303_0302));
        let server = service.map_or_else(|| address_word(request), u32::to_be_bytes);
        [server, now.to_be_bytes(), start_value().to_be_bytes(), sequence.to_be_bytes()]
    };
    let mut uid = Uid::default();
    for (place, word) in uid.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word);
    }
    uid
}

/// The address that the client connected to, or its last four bytes.
fn address_word(request: &Request) -> [u8; 4] {
    match request.connection.local.ip() {
        Some(IpAddr::V4(ip)) => ip.octets(),
        Some(IpAddr::V6(ip)) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    }
}

/// A value that differs from worker to worker: its start time combined with its pid.
fn start_value() -> u32 {
    static VALUE: OnceLock<u32> = OnceLock::new();
    *VALUE.get_or_init(|| (clock::wall().1 / 1000 / 20) << 16 | std::process::id() & 0xffff)
}

/// Writes `name=` and the value in hexadecimal, word by word.
fn show(conf: &Conf, uid: Option<Uid>, out: &mut Vec<u8>) -> bool {
    let Some(uid) = uid else { return false };
    out.extend_from_slice(conf.name().as_bytes());
    out.push(b'=');
    for word in uid.chunks_exact(4) {
        let word = u32::from_ne_bytes(word.try_into().unwrap_or_default());
        let _ = write!(out, "{word:08X}"); // writing to memory does not fail
    }
    true
}
