//! The status of certificates: what handshakes staple (`ssl_stapling`), and what clients' certificates are
//! checked with (`ssl_ocsp`).
//!
//! Runs while the configuration is read. Touches: the files of trusted certificates.
//! Behaviour: nginx.org, ngx_http_ssl_module.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::config::{Diagnostic, Inherit, Node};
use crate::net::tls::ocsp::cache::{Directive, Zone};
use crate::net::tls::ocsp::clients::{Depth, StatusCheck};
use crate::net::tls::ocsp::responder::Responder;
use crate::net::tls::ocsp::stapling;
use crate::net::tls::pem;
use crate::net::tls::server::Server;
use crate::net::tls::verify::{Mode, Purpose, Trust};
use crate::script::Scope;
use crate::shared::tls::Secured;
use crate::shared::tls::files::{read, reported, shown};
use crate::shared::tls::server::{Conf, Ocsp};

/// The certificates between an issuer and its root, at most.
const DEPTH_MAX: usize = 100;

/// The certificates of `ssl_client_certificate` and `ssl_trusted_certificate`, for stapling.
#[derive(Clone)]
pub(super) struct Trusted {
    certificates: Arc<[CertificateDer<'static>]>,
    trust: Arc<Trust>,
}

/// Reads `ssl_ocsp_cache`.
pub fn set_cache<S>(conf: &mut Conf<S>, node: &Node) -> Result<(), Diagnostic> {
    let directive = Directive::parse(node.arg(0)).map_err(|error| {
        let help = "write off, or shared:NAME:SIZE, such as shared:OCSP:1m";
        Diagnostic::error(node.args[0].span, error.to_string()).help(help)
    })?;
    conf.ocsp_cache.put(directive, node)
}

impl<S: Scope> Conf<S> {
    /// The needs of asking for OCSP responses to staple; the inner `None`: they are not asked for. The outer
    /// one: an error was reported.
    #[allow(clippy::option_option, reason = "one is a setting, the other an error")]
    pub(super) fn stapling_settings(&self, cx: &mut impl Secured) -> Option<Option<Arc<stapling::Settings>>> {
        if !self.stapling.get() || self.stapling_file.as_ref().is_some() || self.is_dynamic() {
            return Some(None);
        }
        let Trusted { certificates, trust } = self.trusted(cx)?;
        let name = |name: &str| match shown(name) {
            "data:" => "data:".into(),
            name => cx.prefix().join(name).to_string_lossy().into(),
        };
        Some(Some(Arc::new(stapling::Settings {
            responder: self.stapling_responder.as_ref().cloned(),
            is_verified: self.stapling_verify.get(),
            trusted: certificates,
            trust,
            names: self.certificates.iter().map(|words| name(words.first())).collect(),
            staples: cx.tls_memory().add_stapled(self.certificates.len()),
        })))
    }

    /// `None`: an error was reported.
    fn trusted(&self, cx: &mut impl Secured) -> Option<Trusted> {
        let files = [&self.client_certificate, &self.trusted_certificate];
        let key: Vec<Box<str>> =
            files.iter().map(|file| file.as_ref().cloned().unwrap_or_default()).collect();
        if let Some(known) = cx.tls_memory().stapling.get(&key) {
            return Some(known.clone());
        }
        let mut certificates = Vec::new();
        for file in files {
            certificates.extend(list(file, cx)?);
        }
        let trust = Trust::new(Purpose::OcspSigner, DEPTH_MAX, &certificates, []);
        let file = files.into_iter().rev().find(|file| file.as_ref().is_some());
        let name = file.and_then(Inherit::as_ref).map_or("", |name| name);
        let trust = Arc::new(reported(trust, "use", name, file.and_then(Inherit::span), cx)?);
        let trusted = Trusted { certificates: certificates.into(), trust };
        cx.tls_memory().stapling.insert(key, trusted.clone());
        Some(trusted)
    }

    /// Warns of certificates with which nothing can be stapled, once for each directive.
    pub(super) fn report_unstapled(&self, server: &Server, cx: &mut impl Secured) {
        for (position, ignored) in server.certificates().unstapled() {
            let Some(words) = self.certificates.get(position) else { continue };
            if cx.tls_files().noted.insert(words.span) {
                cx.diagnostics().push(Diagnostic::warning(words.span, ignored.to_string()));
            }
        }
    }

    /// How the status of clients' certificates is checked; the inner `None`: it is not. The outer one: an
    /// error was reported.
    #[allow(clippy::option_option, reason = "one is a setting, the other an error")]
    pub(super) fn status_check(&self, mode: Mode, cx: &mut impl Secured) -> Option<Option<StatusCheck>> {
        let depth = match self.ocsp.get() {
            Ocsp::Off => return Some(None),
            Ocsp::On => Depth::Path,
            Ocsp::Leaf => Depth::Leaf,
        };
        if mode == Mode::OptionalNoCa {
            let message = "\"ssl_ocsp\" is incompatible with \"ssl_verify_client optional_no_ca\"";
            let help = "write \"ssl_verify_client optional\": without an issuer no responder can be believed";
            let span = self.ocsp.span().unwrap_or_default();
            cx.diagnostics().push(Diagnostic::error(span, message).help(help));
            return None;
        }
        let responder = match self.ocsp_responder.as_ref().map(|url| Responder::parse(url)) {
            None => None,
            Some(Ok(responder)) => Some(responder),
            Some(Err(bad)) => {
                let span = self.ocsp_responder.span().unwrap_or_default();
                let message = format!("{bad} in \"ssl_ocsp_responder\"");
                cx.diagnostics().push(Diagnostic::error(span, message));
                return None;
            }
        };
        Some(Some(StatusCheck { depth, responder, cache: self.status_cache(cx)? }))
    }

    /// The outer `None`: an error was reported.
    #[allow(clippy::option_option, reason = "one is a setting, the other an error")]
    fn status_cache(&self, cx: &mut impl Secured) -> Option<Option<Arc<Zone>>> {
        let Some(Directive::Shared { zone, bytes }) = self.ocsp_cache.as_ref() else { return Some(None) };
        match cx.tls_memory().ocsp_zones.declare(zone, *bytes) {
            Ok(zone) => Some(Some(zone)),
            Err(error) => {
                let span = self.ocsp_cache.span().unwrap_or_default();
                cx.diagnostics().push(Diagnostic::error(span, error.to_string()));
                None
            }
        }
    }
}

/// The certificates of a file. `None`: an error was reported.
fn list(file: &Inherit<Box<str>>, cx: &mut impl Secured) -> Option<Vec<CertificateDer<'static>>> {
    let Some(name) = file.as_ref() else { return Some(Vec::new()) };
    let data = read(name, "certificate", file.span().unwrap_or_default(), cx)?;
    reported(pem::certificates(&data), "load", name, file.span(), cx)
}
