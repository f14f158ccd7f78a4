//! Whether a request comes from a page of an allowed site (`valid_referers`, `$invalid_referer`).
//!
//! Touches: the request's `Referer`, and the names of its server. Decides nothing itself: `if
//! ($invalid_referer)` does.
//! Behaviour: nginx.org, ngx_http_referer_module.

use std::sync::Arc;

use crate::base::wildcard::{Conflict, NameTable};
use crate::config::directive::{Accepted, accepted, custom};
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, Span, Word, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::proto::header::Id;
use crate::script::regex::{Pattern, Regex};
use crate::script::variable::replaceable;

/// No valid host is longer.
const HOST_BYTES_MAX: usize = 256;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// `None`: the directive is not set.
        valid: Option<Arc<Valid>> => Clone::clone_from,
        /// The block's own list while it is being read.
        draft: Option<(Valid, Span)> => own,
    }
}

#[derive(Debug, Default)]
struct Valid {
    /// Requests without the field.
    none: bool,
    /// A value without a scheme, as proxies and firewalls leave it.
    blocked: bool,
    server_names: bool,
    /// The required start of the path, by host.
    hosts: NameTable<Box<str>>,
    regexes: Vec<Regex>,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("valid_referers", Context::SERVER.or(Context::LOCATION), Arity::at_least(1), valid_referers,
        "Lists the valid values of Referer, for which $invalid_referer is empty: none (the field is missing), blocked (it has no scheme), server_names, \
         hosts with or without the start of a path, also as *.wildcard and wildcard.*, or ~regex for the text after the scheme."),
    accepted("referer_hash_max_size", Context::SERVER.or(Context::LOCATION), Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("referer_hash_bucket_size", Context::SERVER.or(Context::LOCATION), Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    replaceable("invalid_referer", |request, _, out| {
        let conf: &'static Conf = &request.location.confs.referer;
        if conf.valid.as_deref().is_some_and(|valid| !valid.admits(request)) {
            out.push(b'1');
        }
        true
    },
        "1 if the Referer field matches no value of valid_referers, otherwise empty."),
];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        let Some((draft, span)) = self.draft.take() else { return };
        let has_hosts = draft.server_names || !draft.hosts.is_empty() || !draft.regexes.is_empty();
        if !has_hosts {
            let message = "the \"none\" or \"blocked\" referers are specified in the \"valid_referers\" directive \
                           without any valid referer";
            cx.diagnostics.push(Diagnostic::error(span, message).help("name a host too, or server_names"));
        }
        self.valid = Some(Arc::new(draft));
    }
}

fn valid_referers(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (draft, _) = conf.draft.get_or_insert_with(|| (Valid::default(), node.span));
    node.args.iter().try_for_each(|word| draft.add(word, cx))
}

impl Valid {
    fn add(&mut self, word: &Word, cx: &mut Cx) -> Result<(), Diagnostic> {
        match &*word.text {
            "none" => self.none = true,
            "blocked" => self.blocked = true,
            "server_names" => self.server_names = true,
            text => {
                if let Some(pattern) = text.strip_prefix('~') {
                    self.regexes.push(Pattern::new(pattern, true, word.span)?.declare(&mut cx.variables));
                    return Ok(());
                }
                let at = text.find('/').unwrap_or(text.len());
                let (host, path) = text.split_at(at);
                let inserted = self.hosts.insert(&host.to_ascii_lowercase(), path.into());
                inserted.map_err(|conflict| {
                    let (what, help) = match conflict {
                        Conflict::Duplicate => ("conflicting parameter", "a host may be listed only once"),
                        Conflict::Invalid => (
                            "invalid hostname or wildcard",
                            "a \"*\" is allowed only at its start or its end",
                        ),
                    };
                    Diagnostic::error(word.span, format!("{what} \"{text}\"")).help(help)
                })?;
            }
        }
        Ok(())
    }

    fn admits(&'static self, request: &mut Request) -> bool {
        let Some(referer) = request.header(Id::Referer).map(<[u8]>::to_vec) else { return self.none };
        let Some(rest) = without_scheme(&referer) else { return self.blocked };
        let host_end = rest.iter().position(|byte| matches!(byte, b'/' | b':')).unwrap_or(rest.len());
        if host_end > HOST_BYTES_MAX {
            return false;
        }
        let host = rest[..host_end].to_ascii_lowercase();
        if let Some(path) = self.hosts.lookup(&host) {
            let path_start = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            return rest[path_start..].starts_with(path.as_bytes());
        }
        if self.server_names && is_name_of(request, &host) {
            return true;
        }
        self.regexes.iter().any(|regex| regex.find(request, rest).is_some())
    }
}

/// The text after `http://` or `https://`; a value that is too short is not an address.
fn without_scheme(referer: &[u8]) -> Option<&[u8]> {
    if referer.len() < "http://i.ru".len() {
        return None;
    }
    ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = referer.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    })
}

/// True if a host is one of the names of the request's server.
fn is_name_of(request: &Request, host: &[u8]) -> bool {
    let is_it = |name: &str| match name.as_bytes() {
        [b'.', domain @ ..] => host == domain || host.ends_with(name.as_bytes()),
        [b'*', domain @ ..] => host.len() > domain.len() && host.ends_with(domain),
        [start @ .., b'*'] => host.len() > start.len() && host.starts_with(start),
        name => host == name,
    };
    if request.server.names.iter().any(|name| !name.starts_with('~') && is_it(name)) {
        return true;
    }
    let chosen = request.connection.listen.server_for(host);
    let by_regex = chosen.ok().and_then(|(index, regex)| regex.map(|_| index));
    by_regex.is_some_and(|index| std::ptr::eq(&raw const request.config.servers[index], request.server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_have_a_host() {
        let cases = [
            ("http://example.org/x", Some("example.org/x")),
            ("HTTPS://example.org", Some("example.org")),
            ("http://a.b", None),
            ("ftp://example.org/", None),
            ("blocked by the firewall", None),
            ("", None),
        ];
        for (referer, expected) in cases {
            assert_eq!(without_scheme(referer.as_bytes()), expected.map(str::as_bytes), "{referer}");
        }
    }
}
