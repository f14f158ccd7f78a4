//! The names of servers that share an address (`server_name`): which server serves a host.
//!
//! Pure. Behaviour: nginx.org, "Server names"; `server_name` of ngx_http_core_module and ngx_stream_core_module.

use crate::base::wildcard::{Conflict, NameTable};
use crate::config::{Diagnostic, HasDiagnostics, Node, Severity, Span};
use crate::script::Compile;
use crate::script::regex::{GaveUp, Pattern, Regex};
use crate::sys::address::SockAddr;
use crate::sys::names;

/// The names of the servers of one address.
#[derive(Debug, Default)]
pub struct ServerNames {
    names: NameTable<u32>,
    /// The server without a name: nginx's default `server_name ""`.
    nameless: Option<u32>,
    regexes: Vec<(Regex, u32)>,
}

impl ServerNames {
    /// Adds a name of `server`. Errors: another server has it already and keeps it, or it is not a valid
    /// name.
    pub fn add_name(&mut self, name: &str, server: usize) -> Result<(), Conflict> {
        let server = server as u32;
        if !name.is_empty() {
            return self.names.insert(name, server);
        }
        match self.nameless.replace(server) {
            None => Ok(()),
            Some(first) => {
                self.nameless = Some(first);
                Err(Conflict::Duplicate)
            }
        }
    }

    pub fn add_regex(&mut self, regex: Regex, server: usize) {
        self.regexes.push((regex, server as u32));
    }

    /// The index of the server for a lower-case host, with the regular expression that matched; `None`: no name fits.
    ///
    /// Errors: it is unknown whether an expression matches.
    pub fn find(&self, host: &[u8]) -> Result<Option<(usize, Option<&Regex>)>, GaveUp> {
        if host.is_empty() {
            return Ok(self.nameless.map(|index| (index as usize, None)));
        }
        if let Some(&index) = self.names.lookup(host) {
            return Ok(Some((index as usize, None)));
        }
        for (regex, index) in &self.regexes {
            if regex.is_match(host)? {
                return Ok(Some((*index as usize, Some(regex))));
            }
        }
        Ok(None)
    }

    /// Adds the names that a server has by its directives. Returns what is wrong with them, to be reported if servers share
    /// the address: nginx does not look at names otherwise.
    pub fn add_all(
        &mut self,
        (server, names, server_span): (usize, &[(Box<str>, Span)], Span),
        address: &SockAddr,
        cx: &mut impl Compile,
    ) -> Vec<Diagnostic> {
        let nameless = [(Box::default(), server_span)]; // nginx's default server_name
        let names = if names.is_empty() { &nameless } else { names };
        let mut held = Vec::new();
        for (name, span) in names {
            if let Some(pattern) = name.strip_prefix('~') {
                match Pattern::new(pattern, true, *span) {
                    Ok(regex) => self.add_regex(regex.declare(cx.variables()), server),
                    Err(diagnostic) => cx.diagnostics().push(diagnostic),
                }
                continue;
            }
            held.extend(self.add_name(name, server).err().map(|conflict| match conflict {
                Conflict::Duplicate => {
                    let message = format!("conflicting server name \"{name}\" on {address}, ignored");
                    Diagnostic::warning(*span, message)
                }
                Conflict::Invalid => {
                    let message = format!("invalid server name or wildcard \"{name}\" on {address}");
                    let help = "one \"*\" is allowed, at the start or the end, next to a dot";
                    Diagnostic::error(*span, message).help(help)
                }
            }));
        }
        held
    }
}

/// Reports what is wrong with the names on an address.
pub fn report(held: Vec<Diagnostic>, is_shared: bool, cx: &mut impl HasDiagnostics) {
    for mut finding in held {
        match finding.severity {
            _ if is_shared => {}
            Severity::Warning => continue,
            Severity::Error => finding.severity = Severity::Warning,
        }
        cx.diagnostics().push(finding);
    }
}

/// Reads the words of a `server_name`, each with its place.
pub fn read(node: &Node, cx: &mut impl HasDiagnostics) -> Result<Vec<(Box<str>, Span)>, Diagnostic> {
    let mut names = Vec::with_capacity(node.args.len());
    for word in &node.args {
        let text = &*word.text;
        let is_wild = text.starts_with("*.") && text.len() > 2;
        if text.starts_with('*') && !is_wild || text == "." {
            let message = format!("server name \"{text}\" is invalid");
            let help = "\"*.example.com\" and \".example.com\" stand for all names below one";
            return Err(Diagnostic::error(word.span, message).help(help));
        }
        if text == "~" {
            return Err(Diagnostic::error(word.span, format!("empty regex in server name \"{text}\"")));
        }
        if text.contains('/') {
            let message = format!("server name \"{text}\" has suspicious symbols");
            cx.diagnostics().push(Diagnostic::warning(word.span, message));
        }
        let name: Box<str> = match text.strip_prefix('~') {
            Some(_) => text.into(),
            None if text.eq_ignore_ascii_case("$hostname") => names::hostname().into(),
            None => text.to_ascii_lowercase().into(),
        };
        names.push((name, word.span));
    }
    Ok(names)
}
