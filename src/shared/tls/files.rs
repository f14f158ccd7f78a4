//! The files of certificates, keys and lists that directives of TLS name, for both sides of a connection.
//!
//! Touches: these files, while the configuration is read. What is wrong is reported with the line of the
//! directive. Behaviour: nginx.org, ngx_http_ssl_module and `proxy_ssl_*` of ngx_http_proxy_module.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::number::parse_millis;
use crate::config::{Diagnostic, Node, Span, Word, params};
use crate::log;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::client::Client;
use crate::net::tls::key_log::KeyLogFile;
use crate::net::tls::pem::Passwords;
use crate::net::tls::settings::{self as selection, Choice};
use crate::net::tls::watch::{Files, Kind};
use crate::script::value;
use crate::shared::tls::Secured;
use crate::sys::trusted;

/// The largest file of certificates, keys or passwords that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Words of a directive, with their place.
#[derive(Clone, Debug)]
pub struct Words {
    pub words: Box<[Box<str>]>,
    pub span: Span,
}

impl Words {
    pub fn of(node: &Node) -> Self {
        let words = (0..node.args.len()).map(|index| node.arg(index).into()).collect();
        Self { words, span: node.args.first().map_or(node.span, |word| word.span) }
    }

    pub fn first(&self) -> &str {
        self.words.first().map_or("", |word| word)
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|word| &**word)
    }
}

/// Adds the words of a directive that may be given several times.
pub fn add_words(list: &mut Vec<Words>, node: &Node) -> Result<(), Diagnostic> {
    list.push(Words::of(node));
    Ok(())
}

/// The cache of certificates whose names have variables (`ssl_certificate_cache`, `proxy_ssl_certificate_cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    #[default]
    Off,
    On {
        /// Certificates with their keys; nginx counts each of both (`max`).
        pairs_max: usize,
        inactive_ms: u64,
        valid_ms: u64,
    },
}

/// Results of reading files, by their names: a thousand servers may share one certificate.
#[derive(Default)]
pub struct Loaded {
    /// By the files of certificate and key.
    certificates: HashMap<(String, String), Certificate>,
    /// The contents of files, by path: each is read once, since a named pipe gives them once, and since all that is made
    /// of a file must come from one version of it.
    contents: HashMap<PathBuf, Arc<Zeroizing<Vec<u8>>>>,
    /// The places about which something was reported already.
    pub noted: HashSet<Span>,
    /// By path.
    key_logs: HashMap<PathBuf, Arc<KeyLogFile>>,
    /// By all settings of TLS to upstreams.
    pub clients: HashMap<Vec<String>, Arc<Client>>,
}

/// The file of a certificate or a key, with its place.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    pub name: &'a str,
    pub span: Span,
    /// An authority gives it, perhaps later.
    pub is_issued: bool,
}

impl<'a> From<&'a Words> for Name<'a> {
    fn from(words: &'a Words) -> Self {
        Name { name: words.first(), span: words.span, is_issued: false }
    }
}

/// Loads a certificate and its key, unless this has been done before.
pub fn load_pair(
    certificate: Name<'_>,
    key: Name<'_>,
    passwords: &Passwords,
    cx: &mut impl Secured,
) -> Option<Certificate> {
    let names = (certificate.name.to_owned(), key.name.to_owned());
    if let Some(known) = cx.tls_files().certificates.get(&names) {
        return Some(known.clone());
    }
    if certificate.is_issued {
        let loaded = issued(certificate.name, cx);
        cx.tls_files().certificates.insert(names, loaded.clone());
        return Some(loaded);
    }
    let chain = read(certificate.name, "certificate", certificate.span, cx)?;
    let key_data = read(key.name, "certificate key", key.span, cx)?;
    match Certificate::from_pem(&chain, &key_data, passwords) {
        Ok(loaded) => {
            cx.tls_files().certificates.insert(names, loaded.clone());
            Some(loaded)
        }
        Err(error) => {
            let (what, place) =
                if error.is_of_key() { ("certificate key", key) } else { ("certificate", certificate) };
            let message = format!("cannot load {what} \"{}\": {error}", shown(place.name));
            cx.diagnostics().push(Diagnostic::error(place.span, message));
            None
        }
    }
}

/// A certificate that an authority gives. Until it is there, or while it cannot be used, one that handshakes are refused with.
fn issued(name: &str, cx: &mut impl Secured) -> Certificate {
    let data = trusted::read(&cx.folder().join(name), FILE_BYTES_MAX);
    let loaded = data.ok().and_then(|data| Certificate::from_pem(&data, &data, &Passwords::default()).ok());
    loaded.unwrap_or_else(Certificate::pending)
}

/// The files of a certificate and its key, to be watched for changes. `None`: not all of it is in files whose names are known.
pub fn watched_files(
    folder: &Path,
    (certificate, key): (Name<'_>, Name<'_>),
    passwords: Option<&str>,
) -> Option<Files> {
    let is_file = |name: &str| !name.starts_with("data:") && !value::has_variables(name);
    let path = |name: &str| folder.join(name);
    let names = [Some(certificate.name), Some(key.name), passwords];
    names.into_iter().flatten().all(is_file).then(|| Files {
        certificate: path(certificate.name),
        key: path(key.name),
        passwords: passwords.map(path),
        ocsp: None,
        is_issued: certificate.is_issued,
    })
}

/// The passwords of `ssl_password_file` and similar directives; none without a file.
pub fn passwords(file: Option<&str>, span: Option<Span>, cx: &mut impl Secured) -> Option<Passwords> {
    let Some(name) = file else { return Some(Passwords::default()) };
    let span = span.unwrap_or_default();
    let data = read(name, "passwords", span, cx)?;
    match Passwords::read(&data) {
        Ok(passwords) => Some(passwords),
        Err(error) => {
            cx.diagnostics().push(Diagnostic::error(span, format!("{error} in \"{}\"", shown(name))));
            None
        }
    }
}

/// Opens a file for the secrets of connections (`ssl_key_log`), once for each path. With `-t` it is not opened.
/// The outer `None`: an error was reported.
#[allow(clippy::option_option, reason = "one is a setting, the other an error")]
pub fn key_log_file(
    file: Option<&str>,
    span: Option<Span>,
    cx: &mut impl Secured,
) -> Option<Option<Arc<KeyLogFile>>> {
    let Some(name) = file.filter(|_| !cx.is_test()) else { return Some(None) };
    let path = cx.prefix().join(name);
    if let Some(known) = cx.tls_files().key_logs.get(&path) {
        return Some(Some(Arc::clone(known)));
    }
    let opened = KeyLogFile::open(&path).map_err(|error| log::Cause(&error).to_string());
    let opened = reported(opened, "open", name, span, cx)?;
    cx.tls_files().key_logs.insert(path, Arc::clone(&opened));
    Some(Some(opened))
}

/// Reads a file that a directive names, or the text behind `data:`; reports what is wrong.
pub fn read(name: &str, what: &str, span: Span, cx: &mut impl Secured) -> Option<Arc<Zeroizing<Vec<u8>>>> {
    let full = (!name.starts_with("data:")).then(|| cx.folder().join(name));
    if let Some(known) = full.as_ref().and_then(|full| cx.tls_files().contents.get(full)) {
        return Some(Arc::clone(known));
    }
    let (path, data) = read_at(cx.folder(), name);
    match data {
        Ok(data) => {
            let data = Arc::new(data);
            if let Some(full) = full {
                cx.tls_files().contents.insert(full, Arc::clone(&data));
            }
            Some(data)
        }
        Err(error) => {
            let message = format!("cannot load {what} \"{path}\" {}", log::Cause(&error));
            cx.diagnostics().push(Diagnostic::error(span, message));
            None
        }
    }
}

/// The same for certificates, or lists of revoked ones, by which peers are judged: the file is watched for changes.
pub fn read_trusted(
    name: &str,
    (what, is_crl): (&str, bool),
    span: Span,
    cx: &mut impl Secured,
) -> Option<Arc<Zeroizing<Vec<u8>>>> {
    if !name.starts_with("data:") {
        let path = cx.folder().join(name);
        cx.pairs().add_trusted(path, if is_crl { Kind::Revoked } else { Kind::Certificates });
    }
    read(name, what, span, cx)
}

/// The second argument of [`read_trusted`].
pub const CERTIFICATES: (&str, bool) = ("certificate", false);
pub const REVOKED: (&str, bool) = ("CRL", true);

/// A name for messages: without the contents, which may be a key.
pub fn shown(name: &str) -> &str {
    if name.starts_with("data:") { "data:" } else { name }
}

/// Reads a file below `folder`, or the text behind `data:`. Also returns what to call it in messages.
pub fn read_at(folder: &Path, name: &str) -> (String, io::Result<Zeroizing<Vec<u8>>>) {
    if let Some(text) = name.strip_prefix("data:") {
        return ("data:".to_owned(), Ok(Zeroizing::new(text.as_bytes().to_vec())));
    }
    let path = folder.join(name);
    let read = || {
        let file = File::open(&path)?;
        let mut data = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut data)?;
        if data.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        Ok(data)
    };
    let data = read();
    (path.display().to_string(), data)
}

/// The value, or `None` after reporting the error.
pub fn reported<T, E: std::fmt::Display>(
    outcome: Result<T, E>,
    what: &str,
    name: &str,
    span: Option<Span>,
    cx: &mut impl Secured,
) -> Option<T> {
    outcome
        .map_err(|error| {
            let message = format!("cannot {what} \"{}\": {error}", shown(name));
            cx.diagnostics().push(Diagnostic::error(span.unwrap_or_default(), message));
        })
        .ok()
}

/// A selection, after reporting once what has no effect; `None` after reporting the error.
pub fn chosen<T>(
    choice: Result<Choice<T>, selection::Error>,
    span: Span,
    cx: &mut impl Secured,
) -> Option<T> {
    match choice {
        Ok(Choice { value, dropped }) => {
            if !dropped.is_empty() && cx.tls_files().noted.insert(span) {
                let notes: Vec<String> = dropped.iter().map(ToString::to_string).collect();
                cx.diagnostics().push(Diagnostic::warning(span, notes.join("; ")));
            }
            Some(value)
        }
        Err(error) => {
            if cx.tls_files().noted.insert(span) {
                cx.diagnostics().push(Diagnostic::error(span, error.to_string()));
            }
            None
        }
    }
}

/// `off`, or `max=N [inactive=time] [valid=time]`.
pub fn certificate_cache(node: &Node) -> Result<Cache, Diagnostic> {
    let (mut max, mut inactive_ms, mut valid_ms) = (None, 10_000, 60_000);
    let time = |word: &Word, text: &str| {
        parse_millis(text)
            .ok_or_else(|| Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text)))
    };
    let mut is_off = false;
    for word in &node.args {
        if &*word.text == "off" {
            is_off = true;
        } else if let Some(text) = params::value(word, "max") {
            max = text.parse().ok().filter(|max: &usize| *max > 0);
            if max.is_none() {
                return Err(Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text)));
            }
        } else if let Some(text) = params::value(word, "inactive") {
            inactive_ms = time(word, text)?;
        } else if let Some(text) = params::value(word, "valid") {
            valid_ms = time(word, text)?;
        } else {
            return Err(params::invalid_parameter(word, &["max=", "inactive=", "valid="]));
        }
    }
    match (is_off, max) {
        (true, _) => Ok(Cache::Off),
        (false, Some(max)) => Ok(Cache::On { pairs_max: usize::max(max / 2, 1), inactive_ms, valid_ms }),
        (false, None) => {
            let message = format!("\"{}\" must have the \"max\" parameter", node.name.text);
            Err(Diagnostic::error(node.span, message))
        }
    }
}
