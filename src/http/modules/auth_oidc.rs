//! Access by OpenID Connect (`auth_oidc`, `oidc_provider`): users log in at a provider, and come back with a session.
//!
//! Runs in the access phase. Touches: the request's cookies and arguments, sessions in shared memory
//! (`auth_oidc/store.rs`), the provider, by the worker's own HTTP (`net/fetch.rs`). Waits for the provider only.
//! The protocol's values are in `proto/oidc/`, the directives of a provider in `auth_oidc/provider.rs`.
//!
//! ```text
//! no session ──302, cookie with a secret──▶ provider ──302, code and state──▶ redirect_uri
//!     ▲                                                                          │ code → tokens, checked
//!     └─── session ends: timeout, logout, refresh refused ◀── session ◀──302, cookie with the id of the session
//! ```
//! Behaviour: nginx.org, ngx_http_oidc_module.

use std::sync::{Arc, OnceLock};

use crate::base::jose::{Map, Token, Value, object};
use crate::config::directive::{block, custom, flag, millis};
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::{Request, states};
use crate::http::scope::{Script, Variable};
use crate::http::verdict::{Reply, Verdict};
use crate::log;
use crate::proto::oidc::VALUES_MAX;
use crate::proto::oidc::session::Session;
use crate::script::nested;
use crate::script::variable::{Argument, prefix, variable};

mod flow;
mod kept;
mod logout;
mod provider;
mod refresh;
mod store;
mod token;

use provider::{Block, Provider};
pub use provider::{Draft, Table};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// `None`: off.
        name: Inherit<Option<Script>>,
        /// The block is an `oidc_provider`.
        provider: Block => own,
        has_token_hint: Setting<bool> = false,
        has_userinfo: Setting<bool> = false,
        session_timeout_ms: Setting<u64> = 8 * 3_600_000,
        request_timeout_ms: Setting<u64> = 10_000,
    }
}

const PROVIDER: Context = Context::PROVIDER;
const ONE: Arity = Arity::exactly(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("auth_oidc", Context::ANY, ONE, auth_oidc,
        "Has users log in at this provider (oidc_provider). The name may have variables; off disables an inherited one.").default("off"),
    block("oidc_provider", Context::HTTP, ONE, provider::block,
        "Names an OpenID provider, and the client that this server is there. Users log in by the authorization code flow.")
        .opens(&[(Context::HTTP, PROVIDER)]),
    custom("backchannel_logout_uri", PROVIDER, ONE, provider::backchannel_logout_uri,
        "Sets the path by which the provider itself ends sessions, with a logout token: one of its own, or all of a user."),
    custom("issuer", PROVIDER, ONE, provider::issuer,
        "Sets the provider's issuer, exactly as its metadata has it. It must be set, and begins with https://, or, at a loopback address, with http://."),
    custom("client_id", PROVIDER, ONE, provider::client_id, "Sets the id that this server has at the provider. It must be set."),
    custom("client_secret", PROVIDER, ONE, provider::client_secret,
        "Sets the secret of the client. It is sent as a password, or in the form if the provider only takes that; without one only the id is sent."),
    custom("config_url", PROVIDER, ONE, provider::config_url, "Sets the URL of the provider's metadata.")
        .default("ISSUER/.well-known/openid-configuration"),
    custom("cookie_name", PROVIDER, ONE, provider::cookie_name,
        "Sets the name of the session's cookie; that of a login in progress has _LOGIN behind it.").default("NGX_OIDC_SESSION"),
    custom("extra_auth_args", PROVIDER, ONE, provider::extra_auth_args, "Adds arguments, encoded, to the URL of the login: \"prompt=login\"."),
    custom("frontchannel_logout_uri", PROVIDER, ONE, provider::frontchannel_logout_uri,
        "Sets the path by which the provider ends a session through the user's browser: that of the arguments iss and sid, or of the cookie."),
    custom("id_token_key_file", PROVIDER, ONE, provider::id_token_key_file,
        "Names a file with a JSON Web Key Set: the keys that ID tokens and logout tokens are decrypted with. Without encryption they are refused."),
    custom("id_token_signed_response_alg", PROVIDER, ONE, provider::id_token_signed_response_alg,
        "Sets the only algorithm of ID tokens and logout tokens, such as RS256. With HS256, HS384 and HS512 they are signed with client_secret.")
        .default("by the published keys"),
    custom("pkce", PROVIDER, ONE, provider::pkce, "Uses PKCE (S256) or does not.").default("by the provider's metadata"),
    custom("redirect_uri", PROVIDER, ONE, provider::redirect_uri,
        "Sets the path, or https:// URL, to which users return from the provider, where it must be registered.").default("/oidc_callback"),
    custom("logout_uri", PROVIDER, ONE, provider::logout_uri,
        "Sets the path that ends a session, and leads on to the logout of the provider if it has one, otherwise to post_logout_uri, or to a page of our own."),
    custom("post_logout_uri", PROVIDER, ONE, provider::post_logout_uri,
        "Sets the path or URL to which users come after the logout. It must be registered at the provider, and a path needs auth_oidc off."),
    flag("logout_token_hint", PROVIDER, |conf: &mut Conf| &mut conf.has_token_hint, "Tells the provider's logout the ID token (id_token_hint)."),
    custom("scope", PROVIDER, Arity::at_least(1), provider::scope, "Sets the scopes to ask for; openid is always among them.").default("openid"),
    custom("session_store", PROVIDER, ONE, provider::session_store,
        "Names a keyval_zone, whose size is that of the memory for sessions. It does not show them. Without it there are 8 MB for each provider."),
    millis("session_timeout", PROVIDER, |conf: &mut Conf| &mut conf.session_timeout_ms, "Ends a session after this time, unless it was refreshed."),
    custom("ssl_crl", PROVIDER, ONE, provider::ssl_crl, "Names a file of revoked certificates; each certificate of the provider's path needs a list."),
    custom("ssl_trusted_certificate", PROVIDER, ONE, provider::ssl_trusted_certificate,
        "Names a file with the authorities by which the provider's server is judged; by default those of the system."),
    flag("userinfo", PROVIDER, |conf: &mut Conf| &mut conf.has_userinfo, "Asks the provider for more claims at a login (UserInfo)."),
    millis("request_timeout", PROVIDER, |conf: &mut Conf| &mut conf.request_timeout_ms, "Limits how long a request to the provider may take."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("oidc_id_token", |request, _, out| put(request, out, |session| &session.id_token), "The ID token of the session (auth_oidc)."),
    variable("oidc_access_token", |request, _, out| put(request, out, |session| &session.access_token), "Its access token."),
    variable("oidc_userinfo", |request, _, out| put(request, out, |session| &session.userinfo), "Its UserInfo as JSON (userinfo)."),
    prefix("oidc_claim_", claim, "A claim of its ID token, or else of its UserInfo."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        matches!(self.name.as_ref(), Some(Some(_)))
    }
}

fn auth_oidc(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) == "off" {
        return conf.name.put(None, node);
    }
    let name = Script::compile(&node.args[0], cx)?;
    if name.as_text().is_some() {
        cx.drafts.auth_oidc.refer(&node.args[0]);
    }
    conf.name.put(Some(name), node)
}

/// The knowledge of a request's session; shared with its subrequests, whose access is not checked on their own.
#[derive(Clone, Debug, Default)]
pub struct State(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    /// The address of the provider.
    by: usize,
    /// The session, and its key in the shared memory. `None`: the client has none.
    session: Option<(store::Key, Session)>,
    /// The claims of its ID token and its UserInfo, once one is asked for.
    claims: OnceLock<[Map<String, Value>; 2]>,
}

impl states::State for State {
    fn lend(outer: &mut Request) -> Self {
        outer.states.auth_oidc.clone()
    }

    fn copy(outer: &Request) -> Self {
        outer.states.auth_oidc.clone()
    }

    fn park(&mut self) -> Option<Self> {
        let has_session = self.0.as_ref().is_some_and(|known| known.session.is_some());
        has_session.then(|| std::mem::take(self))
    }
}

/// The provider of a location.
enum Found {
    Off,
    Provider(&'static Provider),
    /// There is none of this name.
    Missing(Vec<u8>),
}

impl Conf {
    fn find(&self, request: &mut Request) -> Found {
        let Some(Some(name)) = self.name.as_ref() else { return Found::Off };
        let table = &request.config.tables.auth_oidc;
        let evaluated;
        let name = match name.as_text() {
            Some(text) => text,
            None => {
                evaluated = nested(request, "oidc", |request| name.to_vec(request));
                &evaluated
            }
        };
        match table.provider(name) {
            Some(provider) => Found::Provider(provider),
            None if name.is_empty() || name == b"off" => Found::Off,
            None => Found::Missing(name.to_vec()),
        }
    }
}

/// Looks for the session of the client's cookie.
fn look(request: &mut Request, provider: &'static Provider) -> Arc<Known> {
    let by = std::ptr::from_ref(provider).addr();
    if let Some(known) = request.states.auth_oidc.0.as_ref().filter(|known| known.by == by) {
        return Arc::clone(known);
    }
    let session = provider.session(request);
    know(request, provider, session)
}

fn know(
    request: &mut Request,
    provider: &'static Provider,
    session: Option<(store::Key, Session)>,
) -> Arc<Known> {
    let by = std::ptr::from_ref(provider).addr();
    let known = Arc::new(Known { by, session, claims: OnceLock::new() });
    request.states.auth_oidc = State(Some(Arc::clone(&known)));
    known
}

/// The session for variables. A location that has no provider has that of the location before it.
fn known(request: &mut Request) -> Option<Arc<Known>> {
    let conf: &'static Conf = &request.location.confs.auth_oidc;
    if request.is_subrequest() && request.states.auth_oidc.0.is_some() {
        return request.states.auth_oidc.0.clone();
    }
    match conf.find(request) {
        Found::Provider(provider) => Some(look(request, provider)),
        Found::Off => request.states.auth_oidc.0.clone(),
        Found::Missing(_) => None,
    }
}

fn put(request: &mut Request, out: &mut Vec<u8>, part: fn(&Session) -> &str) -> bool {
    let Some(known) = known(request) else { return false };
    let Some((_, session)) = &known.session else { return false };
    let text = part(session);
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}

fn claim(request: &mut Request, name: &Argument, out: &mut Vec<u8>) -> bool {
    let Some(known) = known(request) else { return false };
    let Some((_, session)) = &known.session else { return false };
    let claims = known.claims.get_or_init(|| {
        let token = Token::parse(session.id_token.as_bytes());
        let userinfo = object(session.userinfo.as_bytes(), VALUES_MAX);
        [token.map(|token| token.claims).unwrap_or_default(), userinfo.unwrap_or_default()]
    });
    claims.iter().any(|claims| Token::put_member(claims, [&*name.name], out))
}

pub fn access(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.auth_oidc;
    let provider = match conf.find(request) {
        Found::Off => return Verdict::Next,
        Found::Provider(provider) => provider,
        Found::Missing(name) => {
            let name = log::Text(&name);
            log::error!(request.error_log(), &*request, "there is no oidc_provider \"{}\"", name);
            return Verdict::Done(Reply::Status(500));
        }
    };
    if request.uri == provider.redirect_path.as_bytes() {
        return flow::finish(request, provider);
    }
    let is_at = |path: &Option<Box<str>>| path.as_ref().is_some_and(|path| request.uri == path.as_bytes());
    if is_at(&provider.logout_uri) {
        return logout::by_user(request, provider);
    }
    if is_at(&provider.frontchannel_logout_uri) {
        return logout::by_provider(request, provider);
    }
    if is_at(&provider.backchannel_logout_uri) {
        return logout::by_back_channel(request, provider);
    }
    let known = look(request, provider);
    match &known.session {
        None => flow::begin(request, provider),
        Some((key, session)) => match refresh::due(provider, key, session) {
            Some(right) => refresh::refresh(request, provider, (*key, session.clone()), right),
            None => Verdict::Granted,
        },
    }
}
