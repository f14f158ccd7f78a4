//! TLS to upstreams: the `…_ssl_*` directives of every family, and what a location makes of them.
//!
//! When the configuration is read, each location that may pass requests to `https://` gets a [`Layer`]; equal
//! settings share one client. Certificates whose names have variables are loaded while serving
//! (`certificates.rs`). Touches: the files that the directives name, while the configuration is read.
//! Behaviour: nginx.org, `proxy_ssl_*` of ngx_http_proxy_module.

use std::sync::Arc;

use rustls::KeyLog;

use crate::config::inherit::replace;
use crate::config::{Diagnostic, Inherit, Node, Setting, Span, settings};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::client::{self, Client, Terms};
use crate::net::tls::pem;
use crate::net::tls::settings as selection;
use crate::net::tls::verify::{Purpose, Trust};
use crate::script::value::{self, Script};
use crate::script::{Compile, Scope};
use crate::shared::name::Prefix;
use crate::shared::tls::Secured;
use crate::shared::tls::certificates::Certificates;
use crate::shared::tls::choices::Choices;
use crate::shared::tls::files::{self, Cache, Words, load_pair, reported, watched_files};

settings! {
    /// The values of the directives.
    #[derive(Debug)]
    pub struct Settings<S> {
        pub session_reuse: Setting<bool> = true,
        pub protocols: Inherit<Words>,
        pub ciphers: Inherit<Box<str>>,
        pub conf_commands: Vec<Words> => replace,
        pub name: Inherit<Script<S>>,
        pub server_name: Setting<bool> = false,
        pub verify: Setting<bool> = false,
        pub verify_depth: Setting<u64> = 1,
        pub trusted_certificate: Inherit<Box<str>>,
        pub crl: Inherit<Box<str>>,
        pub certificate: Inherit<Script<S>>,
        pub certificate_key: Inherit<Script<S>>,
        pub certificate_cache: Inherit<Cache>,
        pub password_file: Inherit<Box<str>>,
        pub key_log: Inherit<Box<str>>,
        pub alpn: Inherit<Protocols<S>>,
    }
}

/// The protocols of `…_ssl_alpn`, in the order of preference.
#[derive(Debug)]
pub struct Protocols<S> {
    words: Words,
    /// Their values, if one has variables.
    scripts: Option<Arc<[Script<S>]>>,
}

impl<S> Clone for Protocols<S> {
    fn clone(&self) -> Self {
        Self { words: self.words.clone(), scripts: self.scripts.clone() }
    }
}

/// TLS to the upstreams of one location.
#[derive(Debug)]
pub struct Layer<S> {
    client: Arc<Client>,
    name: Option<Script<S>>,
    /// The terms of all requests, if nothing of them depends on the request.
    fixed: Option<Arc<Terms>>,
    certificates: Option<Certificates<S>>,
    /// ALPN with variables.
    protocols: Option<Arc<[Script<S>]>>,
}

impl<S: Scope> Layer<S> {
    /// The terms of a request's connection. `host` is the host of its upstream, which is the name if
    /// `proxy_ssl_name` gives no other.
    pub fn terms(&self, scope: &mut S, host: &str) -> Arc<Terms> {
        if let Some(fixed) = &self.fixed {
            return Arc::clone(fixed);
        }
        let name = match &self.name {
            Some(name) => String::from_utf8_lossy(&name.to_vec(scope)).into_owned(),
            None => host.to_owned(),
        };
        let certificate = self.certificates.as_ref().map(|pair| pair.evaluate(scope));
        let terms = Terms::new(Arc::clone(&self.client), &name, certificate);
        Arc::new(match &self.protocols {
            Some(scripts) => terms.with_protocols(scripts.iter().map(|script| script.to_vec(scope))),
            None => terms,
        })
    }

    /// The client that makes handshakes on these terms.
    ///
    /// Errors: the message for the log, since the certificate cannot be loaded.
    pub async fn client(&self, terms: &Terms) -> Result<Arc<Client>, String> {
        match (&self.certificates, &terms.certificate) {
            (Some(certificates), Some(names)) => certificates.client(&self.client, names).await,
            _ => Ok(Arc::clone(&self.client)),
        }
    }
}

impl<S: Scope> Settings<S> {
    /// Makes a location's TLS to upstreams. `host`: the host of a `proxy_pass` without variables; `offered`: the
    /// protocol that ALPN offers, unless a directive says otherwise. `None`: an error was reported.
    pub fn layer(
        &self,
        prefix: Prefix,
        (host, offered): (Option<&str>, Option<&str>),
        span: Span,
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Arc<Layer<S>>> {
        let text = |script: &Script<S>| Some(String::from_utf8_lossy(script.as_text()?).into_owned());
        let pair = match (self.certificate.as_ref(), self.certificate_key.as_ref()) {
            (None, _) => None,
            (Some(certificate), _) if certificate.as_text() == Some(b"") => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(certificate), None) => {
                let message = format!(
                    "no \"{}\" is defined for certificate \"{}\"",
                    prefix.directive("ssl_certificate_key"),
                    text(certificate).unwrap_or_default()
                );
                cx.diagnostics().push(Diagnostic::error(certificate.span(), message));
                return None;
            }
        };
        let fixed = pair.and_then(|(certificate, key)| Some((text(certificate)?, text(key)?)));
        let client = self.client((prefix, offered), fixed.as_ref(), span, cx)?;
        let certificates = match pair.filter(|_| fixed.is_none()) {
            Some((certificate, key)) => {
                let passwords = self.passwords(cx)?;
                let cache = self.certificate_cache.as_ref().copied();
                let folder = cx.folder().to_owned();
                Some(Certificates::new(
                    certificate.clone(),
                    key.clone(),
                    passwords,
                    cache.unwrap_or_default(),
                    folder,
                ))
            }
            None => None,
        };
        let name = self.name.as_ref().cloned();
        let fixed_name = match &name {
            Some(name) => text(name),
            None => host.map(ToOwned::to_owned),
        };
        let protocols = self.alpn.as_ref().and_then(|protocols| protocols.scripts.clone());
        let fixed = fixed_name
            .filter(|_| certificates.is_none() && protocols.is_none())
            .map(|name| Arc::new(Terms::new(Arc::clone(&client), &name, None)));
        Some(Arc::new(Layer { client, name, fixed, certificates, protocols }))
    }

    fn passwords(&self, cx: &mut impl Secured<Scope = S>) -> Option<pem::Passwords> {
        let file = self.password_file.as_ref().map(|name| &**name);
        files::passwords(file, self.password_file.span(), cx)
    }

    /// The client of these settings; equal settings have the same.
    fn client(
        &self,
        (prefix, offered): (Prefix, Option<&str>),
        pair: Option<&(String, String)>,
        span: Span,
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<Arc<Client>> {
        let mut key = self.key(prefix, pair);
        key.extend(offered.map(ToOwned::to_owned));
        if let Some(known) = cx.tls_files().clients.get(&key) {
            return Some(Arc::clone(known));
        }
        let selected = self.choices().select(cx)?;
        let key_log = self.key_log.as_ref().map(|name| &**name);
        let key_log = files::key_log_file(key_log, self.key_log.span(), cx)?;
        let (certificate, watched) = self.certificate(pair, cx)?;
        let settings = client::Settings {
            provider: selection::provider(&selected),
            versions: selected.protocols.versions(),
            trust: if self.verify.get() { Some(self.trust(prefix, cx)?) } else { None },
            certificate,
            sends_name: self.server_name.get(),
            protocols: self.protocols(offered),
            reuses_sessions: self.session_reuse.get(),
            key_log: key_log.map(|file| file as Arc<dyn KeyLog>),
            prefix: prefix.0.trim_end_matches('_'),
        };
        let client = Arc::new(reported(Client::new(settings), "use", "https", Some(span), cx)?);
        if let Some((pair, span)) = watched {
            cx.pairs().add_client(pair, Arc::clone(&client), span);
        }
        cx.tls_files().clients.insert(key, Arc::clone(&client));
        Some(client)
    }

    /// All that a client is made of, as text.
    fn key(&self, prefix: Prefix, pair: Option<&(String, String)>) -> Vec<String> {
        let words = |words: &Words| words.words.join(" ");
        let text = |text: &Inherit<Box<str>>| format!("{:?}", text.as_ref());
        let mut key = vec![
            prefix.0.to_owned(),
            format!("{:?}", (self.session_reuse.get(), self.server_name.get(), self.verify.get())),
            format!("{:?} {pair:?}", self.verify_depth.get()),
            text(&self.trusted_certificate),
            text(&self.crl),
            text(&self.ciphers),
            text(&self.password_file),
            text(&self.key_log),
            self.protocols.as_ref().map(words).unwrap_or_default(),
            self.alpn.as_ref().map(|protocols| words(&protocols.words)).unwrap_or_default(),
        ];
        key.extend(self.conf_commands.iter().map(words));
        key
    }

    /// The certificate to show, if there is one: that of a command, or `pair`; and its index among those that are watched for
    /// changes, if it comes from files. `None`: an error was reported.
    #[allow(clippy::type_complexity, reason = "a pair of two optional values")]
    fn certificate(
        &self,
        pair: Option<&(String, String)>,
        cx: &mut impl Secured<Scope = S>,
    ) -> Option<(Option<Certificate>, Option<(usize, Span)>)> {
        let at = |script: &Inherit<Script<S>>| script.as_ref().map(Script::span).unwrap_or_default();
        let own = pair.map(|(certificate, key)| {
            let certificate =
                files::Name { name: certificate, span: at(&self.certificate), is_issued: false };
            (certificate, files::Name { name: key, span: at(&self.certificate_key), is_issued: false })
        });
        let Some((certificate, key)) = self.choices().certificates(cx)?.last().copied().or(own) else {
            return Some((None, None));
        };
        let passwords = self.password_file.as_ref().map(|name| &**name);
        let files = watched_files(cx.folder(), (certificate, key), passwords);
        let watched = files.map(|files| (cx.pairs().add(files), certificate.span));
        let passwords = self.passwords(cx)?;
        Some((Some(load_pair(certificate, key, &passwords, cx)?), watched))
    }

    /// The protocols of all connections. `offered`: the one without the directive.
    fn protocols(&self, offered: Option<&str>) -> Vec<Vec<u8>> {
        match self.alpn.as_ref() {
            Some(protocols) if protocols.scripts.is_some() => Vec::new(),
            Some(protocols) => protocols.words.iter().map(|word| word.as_bytes().to_vec()).collect(),
            None => offered.iter().map(|name| name.as_bytes().to_vec()).collect(),
        }
    }

    fn choices(&self) -> Choices<'_> {
        let Self { protocols, ciphers, conf_commands: commands, .. } = self;
        Choices { protocols, ciphers, groups: None, commands }
    }

    /// What upstreams' certificates are checked with.
    fn trust(&self, prefix: Prefix, cx: &mut impl Secured<Scope = S>) -> Option<Arc<Trust>> {
        let Some(name) = self.trusted_certificate.as_ref().filter(|name| !name.is_empty()) else {
            let trusted = prefix.directive("ssl_trusted_certificate");
            let message = format!("no {trusted} for {}", prefix.directive("ssl_verify"));
            let help = format!(
                "write \"{trusted} FILE;\" with the CA certificates of the upstreams, or with their own certificates"
            );
            let span = self.verify.span().unwrap_or_default();
            cx.diagnostics().push(Diagnostic::error(span, message).help(help));
            return None;
        };
        let span = self.trusted_certificate.span();
        let data = files::read_trusted(name, files::CERTIFICATES, span.unwrap_or_default(), cx)?;
        let trusted = reported(pem::certificates(&data), "load", name, span, cx)?;
        let lists = match self.crl.as_ref() {
            Some(name) => {
                let data =
                    files::read_trusted(name, files::REVOKED, self.crl.span().unwrap_or_default(), cx)?;
                reported(pem::revocation_lists(&data), "load", name, self.crl.span(), cx)?
            }
            None => Vec::new(),
        };
        let depth = usize::try_from(self.verify_depth.get()).unwrap_or(usize::MAX);
        let trust = Trust::new(Purpose::Server, depth, &trusted, &lists);
        reported(trust, "use", name, span, cx).map(Arc::new)
    }
}

/// Reads a value that may have variables.
pub fn script<S: Scope>(
    slot: &mut Inherit<Script<S>>,
    cx: &mut impl Compile<Scope = S>,
    node: &Node,
) -> Result<(), Diagnostic> {
    let value = Script::compile(&node.args[0], cx)?;
    slot.put(value, node)
}

/// The protocols of ALPN: each has 1 to 255 bytes.
pub fn alpn(slot: &mut Inherit<Words>, node: &Node) -> Result<(), Diagnostic> {
    slot.put(protocol_names(node)?, node)
}

/// The protocols of ALPN for upstreams, which may have variables.
pub fn alpn_scripts<S: Scope>(
    slot: &mut Inherit<Protocols<S>>,
    cx: &mut impl Compile<Scope = S>,
    node: &Node,
) -> Result<(), Diagnostic> {
    let words = protocol_names(node)?;
    let scripts = if words.iter().any(value::has_variables) {
        let scripts: Result<Vec<_>, _> = node.args.iter().map(|word| Script::compile(word, cx)).collect();
        Some(scripts?.into())
    } else {
        None
    };
    slot.put(Protocols { words, scripts }, node)
}

fn protocol_names(node: &Node) -> Result<Words, Diagnostic> {
    if let Some(word) = node.args.iter().find(|word| word.text.is_empty() || word.text.len() > 255) {
        return Err(Diagnostic::error(word.span, format!("invalid protocol \"{}\"", word.text)));
    }
    Ok(Words::of(node))
}
