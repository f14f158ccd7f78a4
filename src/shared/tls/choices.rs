//! The choices that both sides of a connection can make: protocols, ciphers, groups, and OpenSSL's configuration commands
//! (`…_ssl_protocols`, `…_ssl_ciphers`, `ssl_ecdh_curve`, `…_ssl_conf_command`).
//!
//! Touches: nothing; each error is reported with the line of its directive.
//! Behaviour: nginx.org, ngx_http_ssl_module; SSL_CONF_cmd(3).

use crate::config::{Diagnostic, Inherit};
use crate::net::tls::settings::{self as selection, Choice, Selected};
use crate::net::tls::{ciphers, conf_command};
use crate::shared::tls::Secured;
use crate::shared::tls::files::{Name, Words, chosen};

/// The directives of one place.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    pub protocols: &'a Inherit<Words>,
    pub ciphers: &'a Inherit<Box<str>>,
    pub groups: Option<&'a Inherit<Box<str>>>,
    pub commands: &'a [Words],
}

impl<'a> Choices<'a> {
    /// The selection to offer; reports words without effect. `None`: an error was reported.
    pub fn select(self, cx: &mut impl Secured) -> Option<Selected> {
        let mut selected = Selected::default();
        if let Some(words) = self.protocols.as_ref() {
            selected.protocols = chosen(selection::protocols(words.iter()), words.span, cx)?;
        }
        if let Some(list) = self.ciphers.as_ref() {
            let span = self.ciphers.span().unwrap_or_default();
            match ciphers::ciphers(list) {
                // Without TLS 1.2 its ciphers do not matter.
                Err(selection::Error::NoCipher) if !selected.protocols.tls12 => {}
                choice => selected.ciphers = chosen(choice, span, cx)?,
            }
        }
        if let Some((groups, list)) = self.groups.and_then(|groups| Some((groups, groups.as_ref()?))) {
            selected.groups = chosen(selection::groups(list), groups.span().unwrap_or_default(), cx)?;
        }
        for words in self.commands.iter().filter(|words| conf_command::file(words.first()).is_none()) {
            let dropped = conf_command::apply(&mut selected, words.first(), value(words));
            chosen(dropped.map(|dropped| Choice { value: (), dropped }), words.span, cx)?;
        }
        Some(selected)
    }

    /// The certificates of commands, each with its key: they take the places of those that other directives name. `None`: an
    /// error was reported.
    pub fn certificates(self, cx: &mut impl Secured) -> Option<Vec<(Name<'a>, Name<'a>)>> {
        let of = |kind| {
            let is_it = move |words: &&Words| conf_command::file(words.first()) == Some(kind);
            self.commands.iter().filter(is_it).map(|words| Name {
                name: value(words),
                span: words.span,
                is_issued: false,
            })
        };
        let (mut certificates, mut keys) =
            (of(conf_command::File::Certificate), of(conf_command::File::PrivateKey));
        let mut pairs = Vec::new();
        loop {
            let (message, span) = match (certificates.next(), keys.next()) {
                (None, None) => return Some(pairs),
                (Some(certificate), Some(key)) => {
                    pairs.push((certificate, key));
                    continue;
                }
                (Some(certificate), None) => {
                    ("no \"PrivateKey\" command for this \"Certificate\" command", certificate.span)
                }
                (None, Some(key)) => ("no \"Certificate\" command for this \"PrivateKey\" command", key.span),
            };
            let help = "write one command of each kind for a certificate, in the same order";
            cx.diagnostics().push(Diagnostic::error(span, message).help(help));
            return None;
        }
    }
}

fn value(words: &Words) -> &str {
    words.words.get(1).map_or("", |word| word)
}
