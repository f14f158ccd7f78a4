//! TLS to clients (`ssl_*`): the settings of a server, and what becomes of them.
//!
//! A server's settings become one `net::tls::server::Server` when the configuration has been read. The rows of the
//! directives are `rows.rs`. Touches: files of certificates and keys, while the configuration is read.
//! Behaviour: nginx.org, ngx_http_ssl_module and ngx_stream_ssl_module.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::KeyLog;
use rustls::server::ProducesTickets;

use crate::config::inherit::replace;
use crate::config::{Diagnostic, Inherit, Keyword, Node, Setting, Span, keywords, settings};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::context::{self, Context};
use crate::net::tls::ocsp::cache;
use crate::net::tls::ocsp::staples::Staples;
use crate::net::tls::pem;
use crate::net::tls::server::{self, Clients, Order, Server};
use crate::net::tls::session_cache::{self, SessionCache, Zone, Zones};
use crate::net::tls::settings::{self as selection, Selected};
use crate::net::tls::ticket::{Keys, SharedKeys, TicketKey, Ticketer};
use crate::net::tls::verify::{ClientVerifier, Mode, Purpose, Trust};
use crate::net::tls::watch::{Files, Use, is_ocsp_response};
use crate::net::tls::{certificate_compression, conf_command};
use crate::script::value::{self, Script};
use crate::script::{Compile, Scope};
use crate::shared::tls::choices::Choices;
use crate::shared::tls::files::{
    CERTIFICATES, Name, REVOKED, Words, add_words, key_log_file, load_pair, passwords, read, read_trusted,
    reported, shown, watched_files,
};
use crate::shared::tls::{Secured, dynamic, status};
use crate::shm::named::Used;

/// `ssl_verify_client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyClient {
    Off,
    On,
    Optional,
    OptionalNoCa,
}
keywords!(VerifyClient { "off" => Off, "on" => On, "optional" => Optional, "optional_no_ca" => OptionalNoCa });

/// `ssl_ocsp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ocsp {
    Off,
    On,
    Leaf,
}
keywords!(Ocsp { "off" => Off, "on" => On, "leaf" => Leaf });

settings! {
    #[derive(Debug)]
    pub struct Conf<S> {
        pub certificates: Vec<Words> => replace,
        pub keys: Vec<Words> => replace,
        /// The values of both, in the same order, for names with variables.
        pub certificate_scripts: Vec<Arc<Script<S>>> => replace,
        pub key_scripts: Vec<Arc<Script<S>>> => replace,
        pub certificate_cache: Inherit<Arc<dynamic::Cache>>,
        pub password_file: Inherit<Box<str>>,
        pub protocols: Inherit<Words>,
        pub ciphers: Inherit<Box<str>>,
        pub prefer_server_ciphers: Inherit<bool>,
        pub ecdh_curve: Inherit<Box<str>>,
        pub conf_commands: Vec<Words> => replace,
        pub verify_client: Setting<VerifyClient> = VerifyClient::Off,
        pub verify_depth: Setting<u64> = 1,
        pub client_certificate: Inherit<Box<str>>,
        pub trusted_certificate: Inherit<Box<str>>,
        pub crl: Inherit<Box<str>>,
        pub session_cache: Inherit<Words>,
        pub session_tickets: Setting<bool> = true,
        pub ticket_keys: Vec<Words> => replace,
        pub session_timeout_ms: Setting<u64> = 300_000,
        pub buffer_size: Setting<u64> = 16_384,
        /// Every address of the server speaks TLS (`ssl`); only in HTTP.
        pub switch: Setting<bool> = false,
        pub early_data: Setting<bool> = false,
        pub reject_handshake: Setting<bool> = false,
        pub certificate_compression: Setting<bool> = false,
        pub handshake_timeout_ms: Inherit<u64>,
        pub handshakes_max: Setting<u64> = 1024,
        pub stapling: Setting<bool> = false,
        pub stapling_file: Inherit<Box<str>>,
        pub stapling_responder: Inherit<Box<str>>,
        pub stapling_verify: Setting<bool> = false,
        pub ocsp: Setting<Ocsp> = Ocsp::Off,
        pub ocsp_responder: Inherit<Box<str>>,
        pub ocsp_cache: Inherit<cache::Directive>,
        pub key_log: Inherit<Box<str>>,
        /// Only where the language part has no protocols of its own.
        pub alpn: Inherit<Words>,
    }
}

/// The memory that servers share, as declared while the configuration is read.
#[derive(Default)]
pub struct Draft {
    pub(super) zones: Zones,
    pub(super) ocsp_zones: cache::Zones,
    /// By the names of their files.
    pub(super) stapling: HashMap<Vec<Box<str>>, status::Trusted>,
    pub(super) staples: Arc<Staples>,
    /// The certificates that share them.
    pub(super) stapled_count: usize,
    /// By the lifetime of the tickets, in seconds.
    pub(super) ticket_keys: HashMap<u32, Arc<SharedKeys>>,
}

impl Draft {
    /// Counts certificates whose OCSP responses workers share.
    pub(super) fn add_stapled(&mut self, count: usize) -> Arc<Staples> {
        self.stapled_count += count;
        Arc::clone(&self.staples)
    }
}

/// The memory that TLS shares between the workers.
#[derive(Debug)]
pub struct Memory {
    zones: Vec<Arc<Zone>>,
    ocsp_zones: Vec<Arc<cache::Zone>>,
    staples: Arc<Staples>,
    ticket_keys: Vec<Arc<SharedKeys>>,
}

impl Memory {
    /// Maps what has been declared, once everything is read.
    pub fn open(cx: &mut impl Secured) -> Self {
        let loaded = std::mem::take(cx.tls_memory());
        let table = Self {
            zones: loaded.zones.iter().cloned().collect(),
            ocsp_zones: loaded.ocsp_zones.iter().cloned().collect(),
            staples: loaded.staples,
            ticket_keys: loaded.ticket_keys.into_values().collect(),
        };
        if !cx.is_test() {
            let zones = table.zones.iter().map(|zone| (zone.open(), zone.name()));
            let keys = table.ticket_keys.iter().map(|keys| (keys.open(), "ssl_session_tickets"));
            let caches = table.ocsp_zones.iter().map(|zone| (zone.open(), zone.name()));
            let count = loaded.stapled_count;
            let staples = (count > 0).then(|| (table.staples.open(count), "ssl_stapling"));
            for (outcome, name) in zones.chain(keys).chain(caches).chain(staples).collect::<Vec<_>>() {
                reported(outcome, "map the memory of", name, None, cx);
            }
        }
        table
    }

    /// Adds the shared memory zones that it uses.
    pub fn add_zones(&self, zones: &mut Vec<Used>) {
        zones.extend(self.zones.iter().map(|zone| zone.used()));
        zones.extend(self.ocsp_zones.iter().map(|zone| zone.used()));
        zones.extend(self.staples.used());
        zones.extend(self.ticket_keys.iter().map(|keys| keys.used()));
    }

    /// Erases keys that are out of date. False: there are none, and never will be.
    pub fn tidy(&self) -> bool {
        self.ticket_keys.iter().for_each(|keys| keys.erase_expired());
        !self.ticket_keys.is_empty()
    }
}

impl<S: Scope> Conf<S> {
    /// `ssl_verify_client`; `None`: off.
    pub fn client_mode(&self) -> Option<Mode> {
        match self.verify_client.get() {
            VerifyClient::Off => None,
            VerifyClient::On => Some(Mode::On),
            VerifyClient::Optional => Some(Mode::Optional),
            VerifyClient::OptionalNoCa => Some(Mode::OptionalNoCa),
        }
    }

    /// True if every client must have a certificate that is trusted.
    pub fn requires_certificate(&self) -> bool {
        self.verify_client.get() == VerifyClient::On
    }

    /// `ssl_alpn`, in the order of preference.
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        let words =
            self.alpn.as_ref().map(|words| words.iter().map(|word| word.as_bytes().to_vec()).collect());
        words.unwrap_or_default()
    }

    /// `ssl_reject_handshake`.
    pub fn rejects_handshakes(&self) -> bool {
        self.reject_handshake.get()
    }

    /// `ssl_handshake_timeout`; `None`: that of a request's head.
    pub fn handshake_timeout_ms(&self) -> Option<u64> {
        self.handshake_timeout_ms.as_ref().copied()
    }

    /// `ssl_handshakes_max`.
    pub fn handshakes_max(&self) -> usize {
        usize::try_from(self.handshakes_max.get()).unwrap_or(usize::MAX)
    }

    /// True if there is something to make a handshake with.
    pub fn has_certificate(&self) -> bool {
        !self.certificates.is_empty()
            || self.conf_commands.iter().any(|words| conf_command::file(words.first()).is_some())
    }

    /// Makes the TLS of the server with this index, and notes the files of its certificates, to be watched for changes. `issued`:
    /// the file of the certificate that an authority gives it, which need not be there yet. `None`: it has no certificate, or an
    /// error was reported.
    pub fn watched_server(
        &self,
        index: usize,
        names: &[Box<str>],
        protocols: Vec<Vec<u8>>,
        issued: Option<&str>,
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Server> {
        let named = self.named(issued, cx)?;
        let files = self.files(&named, cx.folder());
        let pairs: Vec<_> =
            files.into_iter().map(|(files, span)| (files.map(|files| cx.pairs().add(files)), span)).collect();
        let server = self.server(names, protocols, &named, cx);
        for (position, (pair, span)) in pairs.into_iter().enumerate() {
            let place = Use { server: index, position };
            pair.into_iter().for_each(|pair| cx.pairs().add_use(pair, place, span));
        }
        server
    }

    /// Makes the server's side of TLS from these settings, for these protocols of ALPN. `None`: it has no certificate, or an error was
    /// reported.
    fn server(
        &self,
        names: &[Box<str>],
        protocols: Vec<Vec<u8>>,
        named: &[(Name<'_>, Name<'_>)],
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Server> {
        let certificates = if self.is_dynamic() { Vec::new() } else { self.load(named, cx)? };
        let selected = self.choices().select(cx)?;
        let compresses = selected.certificate_compression.unwrap_or(self.certificate_compression.get());
        let (clients, trusted) = self.clients(cx)?;
        // Servers with the same name on other addresses differ by their certificates' files.
        let mut identity: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        identity.extend(named.iter().map(|(certificate, _)| certificate.name.as_bytes()));
        let context = Context::new(&context::Settings {
            server: &identity,
            verify: self.verify_client.get().word(),
            depth: u32::try_from(self.verify_depth.get()).unwrap_or(u32::MAX),
            trusted: &trusted,
            crls: &[],
        });
        let issues_tickets = selected.session_tickets.unwrap_or(self.session_tickets.get());
        let key_log = self.key_log.as_ref().map(|name| &**name);
        let key_log = key_log_file(key_log, self.key_log.span(), cx)?;
        let settings = server::Settings {
            provider: selection::provider(&selected),
            versions: selected.protocols.versions().to_vec(),
            certificates,
            stapling: self.stapling_settings(cx)?,
            order: self.order(&selected),
            sessions: Some(Arc::new(self.session_cache(context, cx)?)),
            // Early data is accepted once for each session, so sessions are kept instead.
            tickets: if issues_tickets && !self.early_data.get() {
                Some(self.ticketer(context, cx)?)
            } else {
                None
            },
            ticket_count: selected.ticket_count,
            clients,
            protocols,
            takes_early_data: self.early_data.get(),
            key_log: key_log.map(|file| file as Arc<dyn KeyLog>),
            compressors: if compresses { certificate_compression::compressors() } else { Vec::new() },
            record_bytes: usize::try_from(self.buffer_size.get()).unwrap_or(usize::MAX),
        };
        match Server::new(settings) {
            Ok(server) => {
                self.report_unstapled(&server, cx);
                Some(server)
            }
            Err(error) => {
                let span = named.first().map_or(Span::default(), |(certificate, _)| certificate.span);
                cx.diagnostics().push(Diagnostic::error(span, error.to_string()));
                None
            }
        }
    }

    /// Whose order of cipher suites counts: OpenSSL's options decide before the directive.
    fn order(&self, selected: &Selected) -> Order {
        let own = if selected.prioritizes_chacha { Order::ServerAfterChaCha } else { Order::Server };
        let given = selected.server_preference.or(self.prefer_server_ciphers.as_ref().copied());
        given.map_or(Order::default(), |is_own| if is_own { own } else { Order::Client })
    }

    fn choices(&self) -> Choices<'_> {
        let Self { protocols, ciphers, ecdh_curve, conf_commands: commands, .. } = self;
        Choices { protocols, ciphers, groups: Some(ecdh_curve), commands }
    }

    fn session_timeout_s(&self) -> u32 {
        u32::try_from(self.session_timeout_ms.get() / 1000).unwrap_or(u32::MAX)
    }

    /// `None`: an error was reported.
    fn session_cache(&self, context: Context, cx: &mut impl Secured<Scope = S>) -> Option<SessionCache> {
        let Some(words) = self.session_cache.as_ref() else { return Some(SessionCache::none(context)) };
        let directive = match session_cache::Directive::parse(words.words.iter().map(|word| &**word)) {
            Ok(directive) => directive,
            Err(error) => {
                let diagnostic = Diagnostic::error(words.span, error.to_string()).help(error.help());
                cx.diagnostics().push(diagnostic);
                return None;
            }
        };
        match directive {
            session_cache::Directive::Off => Some(SessionCache::off(context)),
            session_cache::Directive::None => Some(SessionCache::none(context)),
            session_cache::Directive::Builtin { sessions } => {
                let zone = cx.tls_memory().zones.builtin(sessions, self.client_mode().is_some());
                Some(SessionCache::shared(zone, context, self.session_timeout_s()))
            }
            session_cache::Directive::Shared { zone, bytes } => {
                let declared = cx.tls_memory().zones.declare(&zone, bytes);
                let zone = declared.map_err(|error| Diagnostic::error(words.span, error.to_string()));
                match zone {
                    Ok(zone) => Some(SessionCache::shared(zone, context, self.session_timeout_s())),
                    Err(diagnostic) => {
                        cx.diagnostics().push(diagnostic);
                        None
                    }
                }
            }
        }
    }

    /// `None`: an error was reported.
    fn ticketer(
        &self,
        context: Context,
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Arc<dyn ProducesTickets>> {
        let timeout_s = self.session_timeout_s();
        let keys = if self.ticket_keys.is_empty() {
            let shared = cx.tls_memory().ticket_keys.entry(timeout_s);
            Keys::Shared(Arc::clone(shared.or_insert_with(|| Arc::new(SharedKeys::new(timeout_s)))))
        } else {
            let mut keys = Vec::new();
            for words in &self.ticket_keys {
                let path = cx.folder().join(words.first());
                let key = TicketKey::read(&path);
                keys.push(reported(key, "use", &path.to_string_lossy(), Some(words.span), cx)?);
            }
            Keys::Files(keys.into())
        };
        Some(Arc::new(Ticketer::new(keys, context, timeout_s)))
    }

    /// How clients are checked, and the digests of what they are checked with; the inner `None`: they are not
    /// asked. The outer one: an error was reported.
    fn clients<X: Secured<Scope = S>>(&self, cx: &mut X) -> Option<(Option<Clients>, Vec<[u8; 32]>)> {
        let Some(mode) = self.client_mode() else { return Some((None, Vec::new())) };
        let mut digests = Vec::new();
        let mut known = DefaultHasher::new();
        let mut list = |path: &Inherit<Box<str>>, cx: &mut X| {
            let Some(name) = path.as_ref() else { return Some(Vec::new()) };
            name.hash(&mut known);
            let data = read_trusted(name, CERTIFICATES, path.span().unwrap_or_default(), cx)?;
            data.hash(&mut known);
            digests.push(sha256(&data));
            reported(pem::certificates(&data), "load", name, path.span(), cx)
        };
        let named = list(&self.client_certificate, cx)?;
        let trusted = list(&self.trusted_certificate, cx)?;
        if named.is_empty() && trusted.is_empty() && mode != Mode::OptionalNoCa {
            let message = "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client";
            let help = "name a file with the CA certificates that clients' certificates are checked with";
            let span = self.verify_client.span().unwrap_or_default();
            cx.diagnostics().push(Diagnostic::error(span, message).help(help));
            return None;
        }
        let lists = match self.crl.as_ref() {
            Some(name) => {
                let data = read_trusted(name, REVOKED, self.crl.span().unwrap_or_default(), cx)?;
                data.hash(&mut known);
                digests.push(sha256(&data));
                reported(pem::revocation_lists(&data), "load", name, self.crl.span(), cx)?
            }
            None => Vec::new(),
        };
        let depth = usize::try_from(self.verify_depth.get()).unwrap_or(usize::MAX);
        depth.hash(&mut known);
        let trust = Trust::new(Purpose::Client, depth, named.iter().chain(&trusted), &lists);
        let span = self.client_certificate.span().or(self.trusted_certificate.span());
        let trust =
            reported(trust, "use", self.client_certificate.as_ref().map_or("", |name| name), span, cx)?;
        // A server that asks responders does not take clients of another one that does not.
        self.ocsp.get().word().hash(&mut known);
        self.ocsp_responder.as_ref().hash(&mut known);
        let id = known.finish().max(1);
        let verifier = ClientVerifier::new(&named);
        let status = self.status_check(mode, cx)?;
        Some((Some(Clients { verifier, trust: Arc::new(trust), status, id }), digests))
    }

    /// The certificates of the server, each with its key. Those of `ssl_conf_command` come last, so that they replace others of
    /// the same kind. `None`: an error was reported.
    fn named<'a>(
        &'a self,
        issued: Option<&'a str>,
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Vec<(Name<'a>, Name<'a>)>> {
        let commands = self.choices().certificates(cx)?;
        let mut pairs = Vec::new();
        for (index, certificate) in self.certificates.iter().enumerate() {
            let Some(key) = self.keys.get(index) else {
                let message = format!(
                    "no \"ssl_certificate_key\" is defined for certificate \"{}\"",
                    shown(certificate.first())
                );
                cx.diagnostics().push(Diagnostic::error(certificate.span, message));
                return None;
            };
            let mut pair = (Name::from(certificate), Name::from(key));
            if is_issued(pair.0.name) || is_issued(pair.1.name) {
                let both = [pair.0.name, pair.1.name] == ISSUED;
                let Some(file) = issued.filter(|_| both) else {
                    let message = format!(
                        "\"{}\" and \"{}\" need each other, and \"acme_certificate\" in the server",
                        ISSUED[0], ISSUED[1]
                    );
                    let help = "write \"acme_certificate ISSUER;\" next to \"server_name\"";
                    cx.diagnostics().push(Diagnostic::error(pair.0.span, message).help(help));
                    return None;
                };
                pair = (
                    Name { name: file, is_issued: true, ..pair.0 },
                    Name { name: file, is_issued: true, ..pair.1 },
                );
            }
            pairs.push(pair);
        }
        pairs.extend(commands);
        Some(pairs)
    }

    /// The position of the certificate that `ssl_stapling_file` is for: the first of `ssl_certificate`, if there is one.
    fn stapled_position(&self) -> Option<usize> {
        (!self.certificates.is_empty()).then_some(0)
    }

    /// The files of each certificate, in their order, each with its directive; `None`: it is not in files.
    fn files(&self, named: &[(Name<'_>, Name<'_>)], folder: &Path) -> Vec<(Option<Files>, Span)> {
        let passwords = self.password_file.as_ref().map(|name| &**name);
        let ocsp = self.stapled_file().map(|name| folder.join(name));
        let of = |(index, pair): (usize, &(Name<'_>, Name<'_>))| {
            let ocsp = ocsp.clone().filter(|_| self.stapled_position() == Some(index));
            let files = watched_files(folder, *pair, passwords);
            (files.map(|files| Files { ocsp, ..files }), pair.0.span)
        };
        named.iter().enumerate().map(of).collect()
    }

    /// `ssl_stapling_file`, with `ssl_stapling on`.
    pub(super) fn stapled_file(&self) -> Option<&str> {
        self.stapling_file.as_ref().map(|name| &**name).filter(|_| self.stapling.get())
    }

    /// The OCSP response for the first certificate; empty: none. `None`: an error was reported.
    fn ocsp(&self, cx: &mut impl Secured<Scope = S>) -> Option<Vec<u8>> {
        let Some(name) = self.stapled_file() else { return Some(Vec::new()) };
        let span = self.stapling_file.span().unwrap_or_default();
        let response = read(name, "OCSP response", span, cx)?.to_vec();
        if !is_ocsp_response(&response) {
            let message = format!("\"{name}\" is no successful OCSP response");
            let help = "write one in DER, as \"openssl ocsp -respout\" does";
            cx.diagnostics().push(Diagnostic::error(span, message).help(help));
            return None;
        }
        Some(response)
    }

    /// True if names of certificates or keys have variables: they are loaded for each handshake.
    pub fn is_dynamic(&self) -> bool {
        let mut names = self.certificates.iter().chain(&self.keys);
        names.any(|name| value::has_variables(name.first()) && !is_issued(name.first()))
    }

    fn load(
        &self,
        named: &[(Name<'_>, Name<'_>)],
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Vec<Certificate>> {
        let passwords =
            passwords(self.password_file.as_ref().map(|name| &**name), self.password_file.span(), cx)?;
        let mut loaded = Vec::new();
        for (certificate, key) in named {
            loaded.push(load_pair(*certificate, *key, &passwords, cx)?);
        }
        let ocsp = self.ocsp(cx)?;
        let stapled = self.stapled_position().and_then(|position| loaded.get_mut(position));
        if let Some(first) = stapled.filter(|_| !ocsp.is_empty()) {
            *first = first.clone().with_ocsp(ocsp);
        }
        (!loaded.is_empty()).then_some(loaded)
    }
}

/// Adds the name of a file, which may have variables.
pub fn add_file<S: Scope>(
    (names, scripts): (&mut Vec<Words>, &mut Vec<Arc<Script<S>>>),
    cx: &mut impl Compile<Scope = S>,
    node: &Node,
) -> Result<(), Diagnostic> {
    scripts.push(Arc::new(Script::compile(&node.args[0], cx)?));
    add_words(names, node)
}

/// The values of `ssl_certificate` and `ssl_certificate_key` that stand for the certificate of `acme_certificate`.
const ISSUED: [&str; 2] = ["$acme_certificate", "$acme_certificate_key"];

fn is_issued(name: &str) -> bool {
    ISSUED.contains(&name) || matches!(name, "${acme_certificate}" | "${acme_certificate_key}")
}

fn sha256(data: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().unwrap_or_default()
}

/// The error about a server without a certificate on an address with `ssl`.
pub fn certificate_missing(span: Span) -> Diagnostic {
    let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
    let help = "write \"ssl_certificate FILE;\" and \"ssl_certificate_key FILE;\" into this server";
    Diagnostic::error(span, message).help(help)
}
