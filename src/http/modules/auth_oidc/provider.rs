//! The directives of an `oidc_provider`, and what becomes of them.
//!
//! Touches: the files of authorities, while the configuration is read; shared memory by name, once all is read.
//! Behaviour: nginx.org, ngx_http_oidc_module.

use std::sync::Arc;

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::store::{self, Store};
use super::{Conf, PROVIDER};
use crate::base::jose::{Algorithm, KeySet, SET_BYTES_MAX};
use crate::config::inherit::duplicate;
use crate::config::{Diagnostic, Node, Span, Word, params};
use crate::http::config::compile::Cx;
use crate::http::modules::ModuleTable;
use crate::http::modules::http_core::cookie_value;
use crate::http::request::Request;
use crate::log;
use crate::net::fetch::Url;
use crate::net::tls::client::{self, Client};
use crate::net::tls::settings as selection;
use crate::net::tls::verify::{Purpose, Trust};
use crate::net::tls::watch::Kind;
use crate::net::tls::{authorities, pem};
use crate::proto::oidc::login::{Key, NAME_BYTES, SECRET_BYTES, secret_of};
use crate::proto::oidc::session::Session;
use crate::shared::tls::files::{self, reported};
use crate::shm::named::{self, Used};
use crate::shm::ticket_keys::{self, Keys};
use crate::sys::{clock, file};

/// The most certificates between a provider's and its authority.
const DEPTH_MAX: usize = 10;
/// How long a key seals states; it opens them for as long again at least.
const KEY_PERIOD_S: u32 = 3600;

/// The directives of a block.
#[derive(Debug, Default)]
pub struct Block {
    issuer: Option<Box<str>>,
    backchannel_logout_uri: Option<Box<str>>,
    client_id: Option<Box<str>>,
    client_secret: Option<Zeroizing<String>>,
    config_url: Option<Box<str>>,
    cookie_name: Option<Box<str>>,
    extra_auth_args: Option<Box<str>>,
    frontchannel_logout_uri: Option<Box<str>>,
    signed_with: Option<(Algorithm, Span)>,
    key_file: Option<Arc<KeySet>>,
    has_pkce: Option<bool>,
    redirect_uri: Option<Box<str>>,
    logout_uri: Option<Box<str>>,
    post_logout_uri: Option<Box<str>>,
    scope: Option<Box<str>>,
    session_store: Option<(Box<str>, Span)>,
    crl: Option<Box<str>>,
    trusted: Option<Box<str>>,
}

/// The keys by which a provider's tokens are judged.
pub enum Signing {
    /// Those that it publishes, none of which is a secret, with one algorithm or any.
    Published(Option<Algorithm>),
    /// The client's secret, with one algorithm; what the provider publishes is not looked at.
    Secret(Algorithm, Arc<KeySet>),
}

/// A provider, and the client that this server is there.
pub struct Provider {
    pub name: Box<str>,
    pub issuer: Box<str>,
    pub client_id: Box<str>,
    pub client_secret: Option<Zeroizing<String>>,
    pub config_url: Url,
    pub cookie_name: Box<str>,
    /// The cookie of a login in progress.
    pub login_cookie_name: Box<str>,
    pub extra_auth_args: Box<str>,
    /// The path where users return to.
    pub redirect_path: Box<str>,
    /// Its URL, if the configuration has it.
    pub redirect_url: Option<Box<str>>,
    pub logout_uri: Option<Box<str>>,
    pub frontchannel_logout_uri: Option<Box<str>>,
    pub backchannel_logout_uri: Option<Box<str>>,
    pub signing: Signing,
    /// The keys that its tokens are encrypted to; `None`: they are signed only.
    pub openers: Option<Arc<KeySet>>,
    pub post_logout_uri: Option<Box<str>>,
    pub has_token_hint: bool,
    /// `None`: the provider's metadata decides.
    pub has_pkce: Option<bool>,
    pub scope: Box<str>,
    pub has_userinfo: bool,
    pub session_timeout_s: u32,
    pub request_timeout_ms: u64,
    /// It is asked over `http://`, at a loopback address.
    pub is_plain: bool,
    pub tls: Arc<Client>,
    /// Tells it apart in shared memory and in states.
    pub digest: [u8; 32],
    pub store: Store,
    /// The keys of logins in progress, the same for all providers; `None` with `-t`.
    keys: Option<Keys>,
    wanted_store: Option<(Box<str>, Span)>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Provider").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The providers while the configuration is read.
#[derive(Debug, Default)]
pub struct Draft {
    providers: Vec<(Provider, Span)>,
    used: Vec<(Box<str>, Span)>,
}

impl Draft {
    /// Notes that a location uses a provider, which may be declared later.
    pub fn refer(&mut self, word: &Word) {
        self.used.push(((*word.text).into(), word.span));
    }
}

/// The providers of a configuration.
#[derive(Debug, Default)]
pub struct Table(Vec<Provider>);

impl Table {
    pub fn provider(&self, name: &[u8]) -> Option<&Provider> {
        self.0.iter().find(|provider| provider.name.as_bytes() == name)
    }
}

fn keys_id() -> u64 {
    named::name("auth_oidc logins")
}

fn now_s() -> u32 {
    store::now_s()
}

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        let Draft { providers, used } = std::mem::take(&mut cx.drafts.auth_oidc);
        for (name, span) in used {
            if !providers.iter().any(|(provider, _)| provider.name == name) {
                let message = format!("oidc_provider \"{name}\" is not defined");
                let help =
                    format!("define it in \"http\": oidc_provider {name} {{ issuer …; client_id …; }}");
                cx.diagnostics.push(Diagnostic::error(span, message).help(help));
            }
        }
        let is_served = !cx.options.test_only && !cx.diagnostics.has_errors();
        let mut list: Vec<Provider> = Vec::new();
        for (mut provider, span) in providers {
            let declared = provider.wanted_store.take().map(|(name, span)| {
                let bytes = cx.drafts.keyval.bytes_of(&name).unwrap_or_else(|| {
                    let message = format!("zero size shared memory zone \"{name}\"");
                    let help = format!("declare it: keyval_zone zone={name}:8m;");
                    cx.diagnostics.push(Diagnostic::error(span, message).help(help));
                    store::BYTES
                });
                (format!("zone {name}"), bytes)
            });
            let default = || (format!("provider {}", provider.name), store::BYTES);
            let (name, bytes) = declared.unwrap_or_else(default);
            provider.store = Store::new(&name, bytes);
            if is_served {
                reported(provider.store.open(), "map the memory of", &name, Some(span), cx);
                let keys = Keys::open(keys_id(), KEY_PERIOD_S, now_s());
                provider.keys = reported(keys, "map the memory of", "auth_oidc", Some(span), cx);
            }
            list.push(provider);
        }
        Self(list)
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        zones.extend(self.0.iter().map(|provider| provider.store.used()));
        if !self.0.is_empty() {
            zones.push(Used { name: keys_id(), bytes: ticket_keys::ZONE_BYTES });
        }
    }

    fn tidy(&self) -> bool {
        for keys in self.0.iter().filter_map(|provider| provider.keys.as_ref()).take(1) {
            keys.erase_expired(now_s());
        }
        !self.0.is_empty()
    }
}

impl Provider {
    /// The session of the request's cookie, with its key.
    pub fn session(&self, request: &Request) -> Option<(store::Key, Session)> {
        let id = secret_of(cookie_value(request, &self.cookie_name)?)?;
        let key = store::key("session", &id);
        let session = self.store.session(&key, self.session_timeout_s)?;
        (session.provider == self.digest).then_some((key, session))
    }

    /// The key for new logins.
    pub fn with_key<T>(&self, use_it: impl FnOnce(&Key<'_>) -> Option<T>) -> Option<T> {
        let key = self.keys?.current(now_s(), fresh)?;
        let (name, bytes) = split(&key)?;
        use_it(&Key { name: *name, bytes })
    }

    /// The key of a name, for logins that come back.
    pub fn find_key(&self, name: &[u8; NAME_BYTES]) -> Option<[u8; 32]> {
        let key = self.keys?.find(name, now_s())?;
        split(&key).map(|(_, bytes)| *bytes)
    }

    /// The settings of a session's cookie, or of a login's: what follows its value.
    pub fn attributes(&self, request: &Request) -> &'static str {
        let is_secure = request.connection.tls.is_some() || self.redirect_url.is_some();
        if is_secure {
            "; Path=/; HttpOnly; SameSite=Lax; Secure"
        } else {
            "; Path=/; HttpOnly; SameSite=Lax"
        }
    }
}

/// The parts of a key that are used here: its name, and the last of its secrets.
fn split(key: &ticket_keys::Key) -> Option<(&[u8; NAME_BYTES], &[u8; 32])> {
    Some((key.first_chunk()?, key.last_chunk()?))
}

fn fresh() -> Option<ticket_keys::Key> {
    let mut key = Zeroizing::new([0; ticket_keys::KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut key[..]).ok()?;
    Some(key)
}

/// A secret of the system's generator; `None`: it has none.
pub fn secret() -> Option<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut secret).ok()?;
    Some(secret)
}

pub fn block(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let conf = cx.block(node, PROVIDER).auth_oidc.map(|conf| *conf).unwrap_or_default();
    let is_taken = cx.drafts.auth_oidc.providers.iter().any(|(it, _)| &*it.name == name);
    if is_taken || matches!(name, "" | "off") {
        let message = if is_taken { "duplicate" } else { "invalid name of" };
        return Err(Diagnostic::error(node.arg_span(0), format!("{message} oidc_provider \"{name}\"")));
    }
    let missing = |directive: &str| {
        let message = format!("\"{directive}\" is not set in oidc_provider \"{name}\"");
        Diagnostic::error(node.span, message)
    };
    let Conf {
        provider: draft, has_token_hint, has_userinfo, session_timeout_ms, request_timeout_ms, ..
    } = conf;
    let tls = tls(&draft, node.span, cx);
    let issuer =
        draft.issuer.ok_or_else(|| missing("issuer").help("write \"issuer https://HOST;\" into it"))?;
    let client_id = draft.client_id.ok_or_else(|| missing("client_id"))?;
    let config_url = draft.config_url.unwrap_or_else(|| {
        format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')).into()
    });
    let Some(config_url) = Url::parse(&config_url) else { return Err(missing("config_url")) };
    let Some(tls) = tls else { return Ok(()) };
    for (ms, directive) in
        [(&session_timeout_ms, "session_timeout"), (&request_timeout_ms, "request_timeout")]
    {
        if ms.get() == 0 {
            let message = format!("\"{directive}\" of oidc_provider \"{name}\" is zero: nobody could log in");
            return Err(Diagnostic::error(ms.span().unwrap_or(node.span), message));
        }
    }
    let signing = signing(draft.signed_with, draft.client_secret.as_ref().map(|secret| &***secret))?;
    let redirect_uri = draft.redirect_uri.unwrap_or_else(|| "/oidc_callback".into());
    let (redirect_path, redirect_url) = match redirect_uri.strip_prefix("https://") {
        Some(rest) => {
            let path = rest.find('/').map_or("/", |at| &rest[at..]);
            (path.into(), Some(redirect_uri.clone()))
        }
        None => (redirect_uri, None),
    };
    let digest = digest::digest(&digest::SHA256, format!("{issuer}\0{client_id}").as_bytes());
    let cookie_name = draft.cookie_name.unwrap_or_else(|| "NGX_OIDC_SESSION".into());
    let provider = Provider {
        name: name.into(),
        client_id,
        client_secret: draft.client_secret.filter(|secret| !secret.is_empty()),
        login_cookie_name: format!("{cookie_name}_LOGIN").into(),
        cookie_name,
        extra_auth_args: draft.extra_auth_args.unwrap_or_default(),
        redirect_path,
        redirect_url,
        logout_uri: draft.logout_uri,
        frontchannel_logout_uri: draft.frontchannel_logout_uri,
        backchannel_logout_uri: draft.backchannel_logout_uri,
        signing,
        openers: draft.key_file,
        post_logout_uri: draft.post_logout_uri,
        has_token_hint: has_token_hint.get(),
        has_pkce: draft.has_pkce,
        scope: draft.scope.unwrap_or_else(|| "openid".into()),
        has_userinfo: has_userinfo.get(),
        session_timeout_s: u32::try_from(session_timeout_ms.get().div_ceil(1000)).unwrap_or(u32::MAX / 2),
        request_timeout_ms: request_timeout_ms.get(),
        is_plain: !config_url.is_tls,
        config_url,
        tls,
        digest: digest.as_ref().try_into().unwrap_or([0; 32]),
        store: Store::default(),
        keys: None,
        wanted_store: draft.session_store,
        issuer,
    };
    cx.drafts.auth_oidc.providers.push((provider, node.span));
    Ok(())
}

/// The keys of tokens. Errors: the client's secret is missing, or too short for the algorithm.
fn signing(wanted: Option<(Algorithm, Span)>, secret: Option<&str>) -> Result<Signing, Diagnostic> {
    let Some((algorithm, span)) = wanted else { return Ok(Signing::Published(None)) };
    let Some(least) = algorithm.secret_bytes_min() else { return Ok(Signing::Published(Some(algorithm))) };
    let count = secret.map_or(0, str::len);
    match secret.and_then(|secret| KeySet::of_secret(secret.as_bytes(), algorithm)) {
        Some(keys) if count >= least => Ok(Signing::Secret(algorithm, Arc::new(keys))),
        _ => {
            let message = format!(
                "tokens of {} are signed with \"client_secret\", which has {count} bytes: it needs {least} at least",
                algorithm.name()
            );
            let help = "set the secret that the provider has for this client, or have it use RS256 or ES256";
            Err(Diagnostic::error(span, message).help(help))
        }
    }
}

/// TLS to a provider. `None`: an error was reported.
fn tls(draft: &Block, span: Span, cx: &mut Cx) -> Option<Arc<Client>> {
    let trusted = match &draft.trusted {
        Some(file) => {
            let data = files::read_trusted(file, files::CERTIFICATES, span, cx)?;
            reported(pem::certificates(&data), "load", file, Some(span), cx)?
        }
        // Nobody has to be judged at a loopback address without TLS.
        None if draft.issuer.as_ref().is_some_and(|issuer| issuer.starts_with("http://")) => Vec::new(),
        None => match authorities::system() {
            Ok(list) => list,
            Err(why) => {
                let help = "install the package ca-certificates, or set \"ssl_trusted_certificate\"";
                cx.diagnostics.push(Diagnostic::error(span, why).help(help));
                return None;
            }
        },
    };
    let lists = match &draft.crl {
        Some(file) => {
            let data = files::read_trusted(file, files::REVOKED, span, cx)?;
            reported(pem::revocation_lists(&data), "load", file, Some(span), cx)?
        }
        None => Vec::new(),
    };
    let trust = Trust::new(Purpose::Server, DEPTH_MAX, &trusted, &lists);
    let trust = reported(trust, "use", "the authorities of oidc_provider", Some(span), cx)?;
    let selected = selection::Selected::default();
    let client = Client::new(client::Settings {
        provider: selection::provider(&selected),
        versions: selected.protocols.versions(),
        trust: Some(Arc::new(trust)),
        certificate: None,
        sends_name: true,
        protocols: vec![b"http/1.1".to_vec()],
        reuses_sessions: true,
        key_log: None,
        prefix: "oidc",
    });
    reported(client, "use", "https", Some(span), cx).map(Arc::new)
}

/// Puts the value of a directive that may be given once.
fn put<T>(place: &mut Option<T>, value: T, node: &Node) -> Result<(), Diagnostic> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(duplicate(node)),
    }
}

fn invalid(node: &Node, help: &str) -> Diagnostic {
    let message = format!("invalid value \"{}\" in \"{}\" directive", node.arg(0), node.name.text);
    Diagnostic::error(node.arg_span(0), message).help(help)
}

/// A URL of the provider.
fn url(node: &Node) -> Result<Box<str>, Diagnostic> {
    let text = node.arg(0);
    let is_safe = Url::parse(text).is_some_and(|url| url.is_tls || url.is_loopback());
    match is_safe {
        true => Ok(text.into()),
        false => Err(invalid(node, "write https://HOST/…; http:// is allowed at 127.0.0.1 and [::1]")),
    }
}

/// A path of this server.
fn path(node: &Node) -> Result<Box<str>, Diagnostic> {
    let text = node.arg(0);
    let is_path = text.starts_with('/') && !text.starts_with("//");
    match is_path && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\'))
    {
        true => Ok(text.into()),
        false => Err(invalid(node, "write a path that begins with one slash, without arguments")),
    }
}

pub fn issuer(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.issuer, url(node)?, node)
}

pub fn client_id(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    match node.arg(0) {
        "" => Err(invalid(node, "the provider gives each client an id")),
        id => put(&mut conf.provider.client_id, id.into(), node),
    }
}

pub fn client_secret(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.client_secret, Zeroizing::new(node.arg(0).to_owned()), node)
}

pub fn config_url(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.config_url, url(node)?, node)
}

pub fn cookie_name(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_token) {
        true => put(&mut conf.provider.cookie_name, name.into(), node),
        false => Err(invalid(node, "a cookie's name has letters, digits, - and _")),
    }
}

pub fn extra_auth_args(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let args = node.arg(0);
    match args.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        true => put(&mut conf.provider.extra_auth_args, args.trim_matches('&').into(), node),
        false => Err(invalid(node, "write the arguments as a URL has them: \"prompt=login&display=page\"")),
    }
}

pub fn frontchannel_logout_uri(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.frontchannel_logout_uri, path(node)?, node)
}

pub fn backchannel_logout_uri(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.backchannel_logout_uri, path(node)?, node)
}

pub fn id_token_signed_response_alg(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let algorithm = Algorithm::of(node.arg(0)).ok_or_else(|| {
        invalid(node, "write RS256, PS256, ES256, HS256, their kind with 384 or 512, or EdDSA")
    })?;
    put(&mut conf.provider.signed_with, (algorithm, node.arg_span(0)), node)
}

pub fn id_token_key_file(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let path = cx.options.folder.join(node.arg(0));
    cx.pairs.add_trusted(path.clone(), Kind::Keys);
    let read = file::read_regular(&path, SET_BYTES_MAX as u64);
    let keys = read
        .map_err(|error| format!("it cannot be read {}", log::Cause(&error)))
        .and_then(|(data, _)| KeySet::strict(&Zeroizing::new(data)).map_err(|error| error.to_string()));
    let keys = keys.and_then(|keys| match keys.decrypts() {
        true => Ok(keys),
        false => {
            Err("none of them is for decrypting: private RSA keys are, with all their members".to_owned())
        }
    });
    let keys = keys.map_err(|why| {
        let message = format!("cannot use the keys in \"{}\": {why}", path.display());
        Diagnostic::error(node.arg_span(0), message)
    })?;
    put(&mut conf.provider.key_file, Arc::new(keys), node)
}

pub fn pkce(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.has_pkce, params::flag(node, 0)?, node)
}

pub fn redirect_uri(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let is_url = Url::parse(text).is_some_and(|url| url.is_tls) && !text.contains('?');
    let uri = if is_url { text.into() } else { path(node)? };
    put(&mut conf.provider.redirect_uri, uri, node)
}

pub fn logout_uri(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.logout_uri, path(node)?, node)
}

pub fn post_logout_uri(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let is_path = text.starts_with('/') && !text.starts_with("//") && !text.contains('\\');
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_plain && (is_path || Url::parse(text).is_some()) {
        true => put(&mut conf.provider.post_logout_uri, text.into(), node),
        false => Err(invalid(node, "write a path of this server, or a URL")),
    }
}

pub fn scope(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let words = (0..node.args.len()).flat_map(|index| node.arg(index).split_ascii_whitespace());
    let words: Vec<&str> = words.filter(|word| *word != "openid").collect();
    let all: Vec<&str> = ["openid"].into_iter().chain(words).collect();
    put(&mut conf.provider.scope, all.join(" ").into(), node)
}

pub fn session_store(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.session_store, (node.arg(0).into(), node.arg_span(0)), node)
}

pub fn ssl_crl(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.crl, node.arg(0).into(), node)
}

pub fn ssl_trusted_certificate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.provider.trusted, node.arg(0).into(), node)
}

/// The words of the log that name a provider.
pub fn named_in_log(provider: &Provider) -> String {
    format!("OpenID provider \"{}\"", log::Text(provider.name.as_bytes()))
}

/// Seconds since 1970.
pub fn wall_s() -> u64 {
    u64::try_from(clock::wall_seconds()).unwrap_or(0)
}
