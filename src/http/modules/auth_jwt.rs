//! Access by signed tokens (`auth_jwt` and its kind).
//!
//! Runs in the access phase, and just before it. Touches: the request's variables, the keys (`auth_jwt/keys.rs`), the clock. Waits for keys from
//! files that a variable names, and from subrequests. Tokens and keys are read and checked in `base/jose.rs`.
//!
//! A claim is only worth something once the token is verified, and variables are evaluated everywhere. Before the access
//! phase they have the claims as the client wrote them, as in nginx, so that `limit_req` or the name of a key file may
//! depend on them; with `satisfy any` they have not, as such a token may never be looked at. From the access phase on they
//! have those of a verified token, or none.
//! Behaviour: nginx.org, ngx_http_auth_jwt_module. RFC 6750.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::jose::{Error, KeySet, Map, Sealed, Token, Value};
use crate::config::directive::{custom, millis, one_of};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, keywords, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::auth_basic::fields;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::states;
use crate::http::scope::{Script, Variable};
use crate::http::verdict::{Reply, Verdict};
use crate::log;
use crate::runtime;
use crate::script::nested;
use crate::script::value::is_true;
use crate::script::variable::{Argument, Definition, Getter, prefix, variable};
use crate::sys::clock;

mod keys;

use keys::Source;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// `None`: off.
        realm: Inherit<Option<Realm>>,
        sources: Vec<Source> => replace,
        key_cache_ms: Setting<u64> = 0,
        leeway_ms: Setting<u64> = 0,
        kind: Setting<Kind> = Kind::Signed,
        requires: Vec<Require> => replace,
    }
}

#[derive(Clone, Debug)]
struct Realm {
    /// `None`: the token is that of a login (`auth_oidc`), which has checked it. Only its claims are wanted.
    name: Option<Script>,
    /// `None`: the field `Authorization`.
    token: Option<Script>,
}

/// The type of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Signed,
    Encrypted,
    /// A signed one inside of an encrypted one.
    Nested,
}
keywords!(Kind { "signed" => Signed, "encrypted" => Encrypted, "nested" => Nested });

/// One `auth_jwt_require`.
#[derive(Clone, Debug)]
struct Require {
    values: Vec<Script>,
    status: u16,
}

/// The keys of files that were read already; a thousand servers may share one.
#[derive(Debug, Default)]
pub struct Draft {
    files: HashMap<PathBuf, Arc<KeySet>>,
}

const CONTEXTS: Context = Context::ANY.or(Context::LIMIT_EXCEPT);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("auth_jwt", CONTEXTS, Arity::between(1, 2), auth_jwt,
        "Requires a signed JSON Web Token, and names the protected area (the realm). The token is that of Authorization: Bearer, or the value of \
         token=$variable; off disables an inherited one, and off token=$oidc_id_token reads the claims of a login (auth_oidc). \
         The claims exp and nbf are obeyed. Tokens have at most 64 KiB.").default("off"),
    custom("auth_jwt_key_file", CONTEXTS, Arity::exactly(1), auth_jwt_key_file,
        "Names a file of keys, a JSON Web Key Set or a single key; there may be several. It is read with the configuration, and new workers use one that \
         has changed; if its name has variables it is read for each request. A set has at most 1 MiB and 1000 keys; RSA keys have at least 2048 bits, and \
         secrets 8 bytes; shorter ones than the hash get a warning."),
    custom("auth_jwt_key_request", CONTEXTS, Arity::exactly(1), auth_jwt_key_request,
        "Names a URI, with variables, whose response is a JSON Web Key Set; there may be several. It is asked for with each request unless \
         auth_jwt_key_cache or proxy_cache keeps it."),
    millis("auth_jwt_key_cache", Context::ANY, |c| &mut c.key_cache_ms,
        "Sets how long a worker keeps the keys of auth_jwt_key_request, unless its URI has variables; 0 keeps none. While one request asks for them \
         others wait for its keys."),
    millis("auth_jwt_leeway", Context::ANY, |c| &mut c.leeway_ms,
        "Accepts tokens for this time before nbf and after exp, for clocks that differ."),
    one_of("auth_jwt_type", CONTEXTS, |c| &mut c.kind,
        "Sets the type of tokens: signed, encrypted, or nested: a signed one inside of an encrypted one. Keys are agreed on by dir, A128KW, A256KW, \
         RSA-OAEP or RSA-OAEP-256."),
    custom("auth_jwt_require", CONTEXTS, Arity::at_least(1), auth_jwt_require,
        "Sets values that must all be neither empty nor 0, once the token is verified; otherwise the response is error=, 401 or 403."),
    custom("auth_jwt_claim_set", Context::HTTP, Arity::at_least(2), |_, cx, node| set(cx, node, claim_at),
        "Creates a variable with the claim at a path of names, such as $city address locality. A list has commas between its elements."),
    custom("auth_jwt_header_set", Context::HTTP, Arity::at_least(2), |_, cx, node| set(cx, node, header_at),
        "Creates a variable with the member at a path of names in the header of a token."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    prefix("jwt_claim_", claim_at, "A claim of the token (auth_jwt)."),
    prefix("jwt_header_", header_at, "A member of the token's header (auth_jwt)."),
    variable("jwt_payload", |request, _, out| {
        let Some(known) = known(request) else { return false };
        let Some(token) = &known.token else { return false };
        out.extend_from_slice(&token.payload);
        true
    }, "The claims of the token as JSON, or the signed token inside of a nested one (auth_jwt)."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        matches!(self.realm.as_ref(), Some(Some(realm)) if realm.name.is_some())
    }
}

fn auth_jwt(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.args.len() == 1 && node.arg(0) == "off" {
        return conf.realm.put(None, node);
    }
    let token = match node.args.get(1) {
        None => None,
        Some(word) => match word.text.strip_prefix("token=").filter(|text| text.starts_with('$')) {
            Some(text) => Some(Script::compile_text(text, word.span, cx)?),
            None => {
                let message = format!("invalid parameter \"{}\"", word.text);
                return Err(Diagnostic::error(word.span, message).help("token=$variable names the token"));
            }
        },
    };
    let name = match node.arg(0) {
        // Claims that nobody has checked must not get to an application: only a login has checked its token already.
        "off" if node.args[1].text.starts_with("token=$oidc_") => None,
        "off" => {
            let message = "\"off\" with a token that nobody has checked";
            let help = "name a realm, or a token of a login: token=$oidc_id_token";
            return Err(Diagnostic::error(node.arg_span(1), message).help(help));
        }
        _ => Some(Script::compile(&node.args[0], cx)?),
    };
    conf.realm.put(Some(Realm { name, token }), node)
}

fn auth_jwt_key_file(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.sources.push(Source::file(cx, node)?);
    Ok(())
}

fn auth_jwt_key_request(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.sources.push(Source::request(cx, node)?);
    Ok(())
}

fn auth_jwt_require(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut require = Require { values: Vec::new(), status: 401 };
    for (index, word) in node.args.iter().enumerate() {
        match word.text.strip_prefix("error=") {
            Some(status) if index > 0 && index + 1 == node.args.len() => {
                require.status = match status {
                    "401" => 401,
                    "403" => 403,
                    _ => {
                        let message = format!("invalid value \"{status}\" in \"error\" parameter");
                        return Err(Diagnostic::error(word.span, message).help("it is 401 or 403"));
                    }
                };
            }
            _ if word.text.starts_with('$') => require.values.push(Script::compile(word, cx)?),
            _ => {
                let message = format!("invalid value \"{}\"", word.text);
                return Err(Diagnostic::error(word.span, message)
                    .help("a value begins with a variable; error=403 comes last"));
            }
        }
    }
    conf.requires.push(require);
    Ok(())
}

/// Declares a variable for a path, whose names the getter finds with NUL between them: no name in a configuration has one.
fn set(cx: &mut Cx, node: &Node, get: Getter<Request>) -> Result<(), Diagnostic> {
    let path: Vec<&str> = node.args[1..].iter().map(|word| &*word.text).collect();
    let argument = Argument { name: path.join("\0").into() };
    cx.variables.declare(&node.args[0], Definition::Module(get, argument))
}

fn claim_at(request: &mut Request, path: &Argument, out: &mut Vec<u8>) -> bool {
    put_at(request, path, |token| &token.claims, out)
}

fn header_at(request: &mut Request, path: &Argument, out: &mut Vec<u8>) -> bool {
    put_at(request, path, |token| &token.header, out)
}

fn put_at(
    request: &mut Request,
    path: &Argument,
    part: fn(&Token) -> &Map<String, Value>,
    out: &mut Vec<u8>,
) -> bool {
    let Some(known) = known(request) else { return false };
    let Some(token) = &known.token else { return false };
    Token::put_member(part(token), path.name.split('\0'), out)
}

/// The knowledge of a request's token; shared with its subrequests, whose access is not checked on their own.
#[derive(Clone, Debug, Default)]
pub struct State(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    /// The address of the settings under which the token was found.
    by: usize,
    /// `None`: it is missing or was not accepted.
    token: Option<Token>,
    trust: Trust,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// The access phase is still to come.
    Unverified,
    /// A script that selects the keys may look into it.
    Selecting,
    Verified,
}

impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        outer.states.auth_jwt.clone()
    }

    fn copy(outer: &Request) -> Self {
        outer.states.auth_jwt.clone()
    }

    fn park(&mut self) -> Option<Self> {
        let is_verified =
            self.0.as_ref().is_some_and(|known| known.trust == Trust::Verified && known.token.is_some());
        is_verified.then(|| std::mem::take(self))
    }
}

/// The token as variables may see it; `None`: they may not.
fn known(request: &mut Request) -> Option<Arc<Known>> {
    let conf: &'static Conf = &request.location.confs.auth_jwt;
    let by = std::ptr::from_ref(conf).addr();
    let state = request.states.auth_jwt.0.clone();
    let Some(Some(realm)) = conf.realm.as_ref() else {
        // A location that checks no tokens itself, after a redirect from one that does.
        return state.filter(|known| known.trust != Trust::Unverified);
    };
    if realm.name.is_none() {
        // Not kept: a refresh may bring another one.
        let token = nested(request, "jwt", |request| realm.token(request))?;
        return Some(Arc::new(Known { by, token: Token::parse(&token).ok(), trust: Trust::Verified }));
    }
    match state {
        Some(known) if known.by == by || known.trust == Trust::Selecting => return Some(known),
        _ if request.is_subrequest() || request.location.confs.access.satisfies_any() => return None,
        _ => {}
    }
    if conf.kind.get() != Kind::Signed {
        // It is decrypted in the access phase.
        return None;
    }
    let token = nested(request, "jwt", |request| realm.token(request))?;
    let known = Arc::new(Known { by, token: Token::parse(&token).ok(), trust: Trust::Unverified });
    request.states.auth_jwt = State(Some(known.clone()));
    Some(known)
}

impl Realm {
    /// The text of the token, if there is one.
    fn token(&self, request: &mut Request) -> Option<Vec<u8>> {
        let text = match &self.token {
            Some(script) => script.to_vec(request),
            None => {
                let (scheme, text) = request.header(fields(request).1)?.split_at_checked("Bearer ".len())?;
                if !scheme.eq_ignore_ascii_case(b"Bearer ") {
                    return None;
                }
                text.trim_ascii().to_vec()
            }
        };
        (!text.is_empty()).then_some(text)
    }
}

/// The usual time of a check with a public key.
const CHECK_US: u32 = 100;

/// A token as the client has sent it.
enum Subject {
    Signed(Token),
    Sealed(Box<Sealed>),
}

impl Subject {
    /// Decrypts and verifies it.
    fn check(self, kind: Kind, sets: &[Arc<KeySet>], leeway_s: f64) -> Result<Token, Error> {
        let now_s = clock::wall_seconds();
        let token = match self {
            Self::Signed(token) => token,
            Self::Sealed(sealed) => {
                let content = sealed.open(sets)?;
                if kind == Kind::Encrypted {
                    return Token::of_content(sealed.header, &content, now_s, leeway_s);
                }
                let mut token = Token::parse(&content)?;
                token.verify(sets, now_s, leeway_s)?;
                token.payload = content.to_vec();
                return Ok(token);
            }
        };
        token.verify(sets, now_s, leeway_s)?;
        Ok(token)
    }
}

/// A check in progress: the token, and the keys found so far.
struct Check {
    conf: &'static Conf,
    subject: Subject,
    sets: Vec<Arc<KeySet>>,
    /// The source to ask next.
    next: usize,
}

/// Ends the time in which variables have what the client says, whichever access module decides on the request. A subrequest
/// goes on with what is known of its request.
pub fn close(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.auth_jwt;
    if !request.is_subrequest() {
        distrust(request, conf);
    }
    Verdict::Next
}

pub fn access(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.auth_jwt;
    let Some(Some(realm)) = conf.realm.as_ref().filter(|_| conf.acts()) else { return Verdict::Next };
    let text = realm.token(request);
    distrust(request, conf);
    let Some(text) = text else {
        log::info!(request.error_log(), &*request, "no JSON web token was provided");
        return refuse(request, conf, false);
    };
    let read = match conf.kind.get() {
        Kind::Signed => Token::parse(&text).map(Subject::Signed),
        Kind::Encrypted | Kind::Nested => {
            Sealed::parse(&text).map(|sealed| Subject::Sealed(Box::new(sealed)))
        }
    };
    match read {
        Ok(subject) => Check { conf, subject, sets: Vec::new(), next: 0 }.proceed(request),
        Err(error) => reject(request, conf, &error),
    }
}

impl Check {
    /// Looks for the keys of the remaining sources, then at the token.
    fn proceed(mut self, request: &mut Request) -> Verdict {
        while let Some(source) = self.conf.sources.get(self.next) {
            self.next += 1;
            match source.find(request, self) {
                Ok(check) => self = check,
                Err(verdict) => return verdict,
            }
        }
        self.conclude(request)
    }

    fn conclude(self, request: &mut Request) -> Verdict {
        let Self { conf, subject, sets, .. } = self;
        if sets.is_empty() {
            let why = "there are no keys for JSON web tokens: \"auth_jwt_key_file\" or \"auth_jwt_key_request\" is missing";
            log::error!(request.error_log(), &*request, "{}", why);
            return Verdict::Done(Reply::Status(500));
        }
        let leeway_s = conf.leeway_ms.get() as f64 / 1000.0;
        runtime::charge(CHECK_US);
        let mut token = match subject.check(conf.kind.get(), &sets, leeway_s) {
            Ok(token) => token,
            Err(error) => return reject(request, conf, &error),
        };
        token.forget_signature();
        know(request, conf, Some(token), Trust::Verified);
        for require in &conf.requires {
            for value in &require.values {
                if is_true(&value.to_vec(request)) {
                    continue;
                }
                let place = request.config.places.name(value.span());
                log::error!(
                    request.error_log(),
                    &*request,
                    "JSON web token rejected: a requirement is not met, in {}",
                    place
                );
                distrust(request, conf);
                return match require.status {
                    403 => Verdict::Done(Reply::Status(403)),
                    _ => refuse(request, conf, true),
                };
            }
        }
        Verdict::Granted
    }

    /// Evaluates a script that may depend on what the token says of itself.
    fn evaluate(self, request: &mut Request, script: &Script) -> (Self, Vec<u8>) {
        let Self { conf, subject, sets, next } = self;
        let subject = match subject {
            Subject::Signed(token) => {
                know(request, conf, Some(token), Trust::Selecting);
                None
            }
            // Nothing of it can be read yet.
            sealed @ Subject::Sealed(_) => Some(sealed),
        };
        let value = script.to_vec(request);
        let state = std::mem::take(&mut request.states.auth_jwt).0;
        distrust(request, conf);
        let token = || state.and_then(Arc::into_inner).and_then(|known| known.token);
        let subject = subject.unwrap_or_else(|| Subject::Signed(token().expect("no other task has run")));
        (Self { conf, subject, sets, next }, value)
    }
}

fn know(request: &mut Request, conf: &'static Conf, token: Option<Token>, trust: Trust) {
    let by = std::ptr::from_ref(conf).addr();
    request.states.auth_jwt = State(Some(Arc::new(Known { by, token, trust })));
}

/// Variables have nothing of the token from now on.
fn distrust(request: &mut Request, conf: &'static Conf) {
    know(request, conf, None, Trust::Verified);
}

fn reject(request: &mut Request, conf: &'static Conf, error: &Error) -> Verdict {
    log::error!(request.error_log(), &*request, "JSON web token rejected: {}", error);
    refuse(request, conf, true)
}

/// Refuses the request with 401 or 407, which asks for a token (RFC 6750 §3).
fn refuse(request: &mut Request, conf: &'static Conf, is_invalid: bool) -> Verdict {
    let mut name = Vec::new();
    if let Some(Some(Realm { name: Some(script), .. })) = conf.realm.as_ref() {
        script.evaluate(request, &mut name);
    }
    let mut value = b"Bearer realm=\"".to_vec();
    for byte in name {
        if matches!(byte, b'"' | b'\\') {
            value.push(b'\\');
        }
        value.push(byte);
    }
    value.push(b'"');
    if is_invalid {
        value.extend_from_slice(b",error=\"invalid_token\"");
    }
    let (challenge, _, status) = fields(request);
    // With "satisfy any" another module may have told how else to get in.
    if request.refusal.is_none() {
        request.forget(challenge);
    }
    request.keep(challenge, Some(&value));
    Verdict::Done(Reply::Status(status))
}
