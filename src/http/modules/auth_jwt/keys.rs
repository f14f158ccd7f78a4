//! The sources of keys for tokens: files and subrequests.
//!
//! A file with a fixed name is read by the process that reads the configuration, which may read what workers may not, and
//! watched for changes (`net/tls/watch.rs`). Other files are read by another thread, and long key sets are parsed there.
//! Touches: the files; a worker's memory of key sets that subrequests have brought, one for each server and URI.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Check;
use crate::base::jose::{KeyError, KeySet, SET_BYTES_MAX};
use crate::config::{Diagnostic, Node};
use crate::http::config::compile::Cx;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::http::verdict::{Ask, Pause, Reply, Then, Verdict, Work};
use crate::log;
use crate::net::tls::watch::Kind;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::now_ms;
use crate::shared::tls::Secured;
use crate::sys::file;
use flight::Turn;

mod flight;

/// One `auth_jwt_key_file` or `auth_jwt_key_request`.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file that was read with the configuration.
    Fixed(Arc<KeySet>),
    /// A file whose name has variables; a relative one is relative to the directory of the configuration.
    File {
        folder: PathBuf,
        path: Script,
    },
    Request(Script),
}

impl Source {
    /// Errors: the file cannot be read, or a key in it cannot be used.
    pub fn file(cx: &mut Cx, node: &Node) -> Result<Self, Diagnostic> {
        let path = Script::compile(&node.args[0], cx)?;
        let folder = cx.options.folder.clone();
        let Some(name) = path.as_text() else { return Ok(Self::File { folder, path }) };
        let path = folder.join(OsStr::from_bytes(name));
        if let Some(known) = cx.drafts.auth_jwt.files.get(&path) {
            return Ok(Self::Fixed(known.clone()));
        }
        cx.pairs().add_trusted(path.clone(), Kind::Keys);
        let keys = read(&path, KeySet::strict).map_err(|error| {
            let message = format!("cannot use the keys in \"{}\": {error}", path.display());
            Diagnostic::error(node.arg_span(0), message)
        })?;
        for weak in keys.weak() {
            let message = format!("weak key in \"{}\": {weak}", path.display());
            cx.diagnostics.push(Diagnostic::warning(node.arg_span(0), message));
        }
        let keys = Arc::new(keys);
        cx.drafts.auth_jwt.files.insert(path, keys.clone());
        Ok(Self::Fixed(keys))
    }

    pub fn request(cx: &mut Cx, node: &Node) -> Result<Self, Diagnostic> {
        Ok(Self::Request(Script::compile(&node.args[0], cx)?))
    }

    /// Adds the keys to the check. `Err`: the verdict, which may be to wait for them.
    pub(super) fn find(&'static self, request: &mut Request, mut check: Check) -> Result<Check, Verdict> {
        match self {
            Self::Fixed(keys) => {
                check.sets.push(keys.clone());
                Ok(check)
            }
            Self::File { folder, path } => {
                let (check, path) = check.evaluate(request, path);
                Err(read_later(check, folder.join(OsStr::from_bytes(&path))))
            }
            Self::Request(uri) => {
                let is_fixed = uri.as_text().is_some();
                let (mut check, uri) = check.evaluate(request, uri);
                let cache_ms = if is_fixed { check.conf.key_cache_ms.get() } else { 0 };
                let place = Place { server: std::ptr::from_ref(request.server).addr(), uri };
                if let Some(keys) = kept(&place, cache_ms) {
                    check.sets.push(keys);
                    return Ok(check);
                }
                let cache = Cache { place, ms: cache_ms, turn: None };
                Err(match cache_ms {
                    0 => ask(check, cache),
                    _ => flight::ask_once(check, cache),
                })
            }
        }
    }
}

/// Why there are no keys.
enum Error {
    /// The name has `..` in it.
    LeadsUp,
    Unreadable(io::Error),
    Unusable(KeyError),
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LeadsUp => out.write_str("its name has \"..\", and a variable"),
            Self::Unreadable(error) => write!(out, "it cannot be read {}", log::Cause(error)),
            Self::Unusable(error) => error.fmt(out),
        }
    }
}

fn read(path: &Path, parse: fn(&[u8]) -> Result<KeySet, KeyError>) -> Result<KeySet, Error> {
    let (data, _) = file::read_regular(path, SET_BYTES_MAX as u64).map_err(Error::Unreadable)?;
    parse(&Zeroizing::new(data)).map_err(Error::Unusable)
}

/// Reads a file on another thread.
fn read_later(mut check: Check, path: PathBuf) -> Verdict {
    let job = move || -> Then {
        // A client may have chosen a part of the name.
        let leads_up = path.iter().any(|part| part == "..");
        let outcome = if leads_up { Err(Error::LeadsUp) } else { read(&path, KeySet::strict) };
        Box::new(move |request| match outcome {
            Ok(keys) => {
                check.sets.push(Arc::new(keys));
                check.proceed(request)
            }
            Err(error) => {
                let path = path.display();
                log::error!(request.error_log(), &*request, "cannot use the keys in \"{}\": {}", path, error);
                Verdict::Done(Reply::Status(500))
            }
        })
    };
    Work::on_files(job).into()
}

/// Where a subrequest goes: a URI leads elsewhere in another server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    /// Its address.
    server: usize,
    uri: Vec<u8>,
}

/// Where the keys that a subrequest brings are kept.
struct Cache {
    place: Place,
    /// 0: nowhere.
    ms: u64,
    /// The others that wait for them.
    turn: Option<Turn>,
}

impl Cache {
    /// Keeps the keys, and tells those that wait for them.
    fn settle(self, outcome: Result<KeySet, KeyError>) -> Result<Arc<KeySet>, KeyError> {
        let Self { place, ms, turn } = self;
        let outcome = outcome.map(Arc::new);
        if let (Ok(keys), 1..) = (&outcome, ms) {
            let kept = Kept { keys: keys.clone(), until_ms: now_ms().saturating_add(ms) };
            KEPT.with_borrow_mut(|all| all.insert(place, kept));
        }
        turn.into_iter().for_each(Turn::end);
        outcome
    }
}

/// Asks for the keys.
fn ask(check: Check, cache: Cache) -> Verdict {
    let uri = cache.place.uri.clone();
    let then = move |request: &mut Request, inner: &mut Request, body: Option<Vec<u8>>| {
        let status = inner.response.status;
        let why = match body.filter(|_| status == 200) {
            Some(body) => return parse(request, check, body, cache),
            None if status == 200 => format!("it broke off, or is longer than {SET_BYTES_MAX} bytes"),
            None => format!("status {status}"),
        };
        let uri = log::Text(&cache.place.uri);
        log::error!(request.error_log(), &*request, "cannot use the keys of \"{}\": {}", uri, why);
        cache.turn.into_iter().for_each(Turn::end);
        Verdict::Done(Reply::Status(500))
    };
    Verdict::Wait(Pause::Answer(Box::new(Ask { uri, kept_bytes_max: SET_BYTES_MAX, then: Box::new(then) })))
}

/// The longest text that is parsed at once: some ten keys, in less than a millisecond.
const AT_ONCE_BYTES_MAX: usize = 8 * 1024;

fn parse(request: &mut Request, check: Check, body: Vec<u8>, cache: Cache) -> Verdict {
    let uri = log::Text(&cache.place.uri).to_string();
    if body.len() <= AT_ONCE_BYTES_MAX {
        let outcome = cache.settle(KeySet::read(&body));
        return parsed(request, check, outcome, &uri);
    }
    let run = async move {
        let outcome = blocking::run(Lane::Files, move || KeySet::read(&body)).await;
        // Here, since the others wait in this thread, whether or not the request goes on.
        let outcome = cache.settle(outcome);
        Box::new(move |request: &mut Request| parsed(request, check, outcome, &uri)) as Then
    };
    Work { run: Box::pin(run), lane: Lane::Files }.into()
}

fn parsed(
    request: &mut Request,
    mut check: Check,
    outcome: Result<Arc<KeySet>, KeyError>,
    uri: &str,
) -> Verdict {
    let keys = match outcome {
        Ok(keys) => keys,
        Err(error) => {
            log::error!(request.error_log(), &*request, "cannot use the keys of \"{}\": {}", uri, error);
            return Verdict::Done(Reply::Status(500));
        }
    };
    if let Some(fault) = keys.faults().next() {
        log::warn!(request.error_log(), &*request, "not all keys of \"{}\" are used: {}", uri, fault);
    }
    if let Some(weak) = keys.weak().next() {
        log::warn!(request.error_log(), &*request, "weak key in \"{}\": {}", uri, weak);
    }
    check.sets.push(keys);
    check.proceed(request)
}

/// Keys that a subrequest has brought.
struct Kept {
    keys: Arc<KeySet>,
    until_ms: u64,
}

thread_local! {
    /// As many as servers have such lines in the configuration: a URI with variables is not kept.
    static KEPT: RefCell<HashMap<Place, Kept>> = RefCell::default();
}

fn kept(place: &Place, cache_ms: u64) -> Option<Arc<KeySet>> {
    if cache_ms == 0 {
        return None;
    }
    KEPT.with_borrow(|all| {
        all.get(place).filter(|kept| now_ms() < kept.until_ms).map(|kept| kept.keys.clone())
    })
}
