//! Opens files for requests, without waiting for a disk in the loop, and with a cache (`open_file_cache`).
//!
//! Touches: the file system. Questions that the kernel cannot answer from memory go to the blocking pool.
//!
//! Without a directive each worker keeps recently opened files, and before each use one `stat` of the path
//! checks that it is still the same file with the same times: a response is always the one that a fresh open
//! would give. The content of a small file is kept only if the file had not changed for a minute when it was
//! read, since changes that are close together may share a timestamp; until then its descriptor is kept. With
//! a directive nginx's rules apply: nothing is checked within `open_file_cache_valid`.
//! Behaviour: nginx.org, ngx_http_core_module.

mod cache;
mod opened;

pub use opened::{Entry, FileKind, Found, etag};

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::stat::stat;

use crate::base::path::steps_up;
use crate::config::directive::{Accepted, accepted, custom, flag, millis, number};
use crate::config::{self, Arity, Context, Diagnostic, Inherit, Node, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::disable_symlinks::Links;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::verdict::{Then, Verdict, Work};
use crate::log;
use crate::net::room;
use crate::runtime;
use crate::runtime::blocking::{self, Lane};
use crate::sys::file;
use cache::{Bounds, Cache};
use opened::{How, Opened, Stamp};

/// The value of `open_file_cache`.
#[derive(Clone, Copy, Debug)]
enum Setting {
    Off,
    /// `number` distinguishes the caches of several directives.
    On {
        number: u32,
        max: u64,
        inactive_ms: u64,
    },
}

settings! {
    #[derive(Debug)]
    pub struct Conf {
        cache: Inherit<Setting>,
        valid_ms: config::Setting<u64> = 60_000,
        min_uses: config::Setting<u64> = 1,
        errors: config::Setting<bool> = false,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("open_file_cache", Context::ANY, Arity::between(1, 2), set_cache,
        "Keeps files open: at most max= files, each until it has not been used for inactive= (60s). Cached information is trusted for \
         open_file_cache_valid. Without this directive files are kept for ten seconds and checked before each use; off disables even that."),
    millis("open_file_cache_valid", Context::ANY, |c: &mut Conf| &mut c.valid_ms,
        "Sets how long open_file_cache trusts what it knows of a file.").default("60s"),
    number("open_file_cache_min_uses", Context::ANY, (1, u32::MAX as u64), |c: &mut Conf| &mut c.min_uses,
        "Sets how many times a file must be used within the inactive time before open_file_cache keeps it.").default("1"),
    flag("open_file_cache_errors", Context::ANY, |c: &mut Conf| &mut c.errors, "Makes open_file_cache remember errors in opening files too.").default("off"),
    accepted("open_file_cache_events", Context::ANY, Arity::exactly(1), Accepted::Flag, "Files are checked before each use.").default("off"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn set_cache(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    static NUMBERS: AtomicU32 = AtomicU32::new(1);
    let (mut max, mut inactive_ms) = (None, 60_000);
    for (index, word) in node.args.iter().enumerate() {
        if let Some(text) = params::value(word, "max") {
            let number = text.parse().ok().filter(|number| *number > 0);
            max = Some(number.ok_or_else(|| Diagnostic::error(word.span, "invalid number of files"))?);
        } else if let Some(text) = params::value(word, "inactive") {
            let ms = crate::base::number::parse_millis(text);
            inactive_ms = ms.ok_or_else(|| Diagnostic::error(word.span, "invalid time"))?;
        } else if index == 0 && node.args.len() == 1 && &*word.text == "off" {
            return conf.cache.put(Setting::Off, node);
        } else {
            let help = params::invalid_parameter(word, &["max=", "inactive="]).help;
            let message = format!("invalid \"open_file_cache\" parameter \"{}\"", word.text);
            return Err(Diagnostic { help, ..Diagnostic::error(word.span, message) });
        }
    }
    let Some(max) = max else {
        let message = "\"open_file_cache\" must have the \"max\" parameter";
        return Err(Diagnostic::error(node.span, message));
    };
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    conf.cache.put(Setting::On { number, max, inactive_ms }, node)
}

/// The rules of one cache.
#[derive(Clone, Copy, Debug)]
struct Policy {
    number: u32,
    bounds: Bounds,
    inactive_ms: u64,
    /// How long cached information is trusted.
    valid_ms: u64,
    uses_min: u64,
    /// Keeps directories, and files on other machines, too.
    keeps_all: bool,
    keeps_errors: bool,
}

/// Maximum bytes of small files in memory, for each cache of a worker.
const BYTES_MAX: usize = 1024 * 1024;

/// The cache in use without a directive. It keeps few descriptors for a short time: a removed file occupies
/// its disk until its last descriptor is closed.
const UNASKED: Policy = Policy {
    number: 0,
    bounds: Bounds { entries: 1000, bytes: BYTES_MAX, descriptors: 64 },
    inactive_ms: 10_000,
    valid_ms: 0,
    uses_min: 0,
    keeps_all: false,
    keeps_errors: false,
};

/// The cache of files of stored responses. A file that a newer one has replaced is another file, so each use checks the name,
/// whatever `open_file_cache` says.
const STORED: Policy = Policy { number: u32::MAX, ..UNASKED };

/// Opens the file of a stored response. `None`: the kernel does not have it in memory ([`stored_waiting`]).
pub fn stored(path: &[u8]) -> Option<Outcome> {
    if let Some(found) = cached(&STORED, path) {
        return Some(found);
    }
    let how = How { reads: true, asks_place: true, may_wait: false };
    match file::open_cached(path, file::READ).and_then(|fd| Opened::read(fd, how)) {
        Err(errno) if errno == Errno::EAGAIN || room::ask_for_descriptors(errno) => None,
        opened => Some(conclude(path, Purpose::Read, Some(&STORED), opened)),
    }
}

/// The same on a thread that may wait for the disk.
pub async fn stored_waiting(path: Box<[u8]>) -> Outcome {
    let how = How { reads: true, asks_place: true, may_wait: true };
    let open = move || {
        let opened = file::open_waiting(&path, file::READ).and_then(|fd| Opened::read(fd, how));
        (path, opened)
    };
    let (path, opened) = blocking::run(Lane::Files, open).await;
    conclude(&path, Purpose::Read, Some(&STORED), opened)
}

impl Conf {
    fn policy(&self) -> Option<Policy> {
        match self.cache.as_ref() {
            None => Some(UNASKED),
            Some(Setting::Off) => None,
            Some(Setting::On { number, max, inactive_ms }) => {
                let entries = usize::try_from(*max).unwrap_or(usize::MAX);
                Some(Policy {
                    number: *number,
                    bounds: Bounds { entries, bytes: BYTES_MAX, descriptors: entries },
                    inactive_ms: *inactive_ms,
                    valid_ms: self.valid_ms.get(),
                    uses_min: self.min_uses.get(),
                    keeps_all: true,
                    keeps_errors: self.errors.get(),
                })
            }
        }
    }
}

thread_local! {
    /// The caches of this worker, by number.
    static CACHES: RefCell<Vec<(u32, Cache)>> = const { RefCell::new(Vec::new()) };
}

fn with_cache<T>(policy: &Policy, act: impl FnOnce(&mut Cache) -> T) -> T {
    CACHES.with_borrow_mut(|caches| {
        let at = match caches.iter().position(|(number, _)| *number == policy.number) {
            Some(at) => at,
            None => {
                caches.push((policy.number, Cache::new(policy.bounds)));
                caches.len() - 1
            }
        };
        act(&mut caches[at].1)
    })
}

/// The cached result for a path, if it can be trusted now.
fn cached(policy: &Policy, path: &[u8]) -> Option<Outcome> {
    let now_ms = runtime::now_ms();
    with_cache(policy, |cache| {
        let (kept, checked_ms) = cache.get(path, now_ms)?;
        if now_ms.saturating_sub(checked_ms) < policy.valid_ms {
            return Some(kept.clone());
        }
        if let Ok(Found::File(entry)) = kept
            && !entry.is_overdue()
            && let Ok(found) = stat(path)
            && Stamp::of(&found) == entry.stamp
        {
            let entry = Found::File(entry.clone());
            cache.confirm(path, now_ms);
            return Some(Ok(entry));
        }
        cache.drop_kept(path);
        None
    })
}

/// Caches a result if the rules allow it.
fn keep(policy: &Policy, path: &[u8], found: &Outcome) {
    let is_kept = match found {
        Ok(Found::File(entry)) => policy.keeps_all || entry.is_local(),
        Ok(Found::Directory | Found::Other) => policy.keeps_all,
        Err(_) => policy.keeps_errors,
    };
    if !is_kept {
        return;
    }
    let is_swept = with_cache(policy, |cache| {
        cache.put(path, found.clone(), runtime::now_ms(), policy.uses_min);
        std::mem::replace(&mut cache.is_swept, true)
    });
    if !is_swept {
        runtime::spawn(sweep(*policy));
    }
}

/// Closes what is no longer used, until the cache is empty.
async fn sweep(policy: Policy) {
    loop {
        runtime::sleep((policy.inactive_ms / 2).max(1000)).await;
        let unused_since = runtime::now_ms().saturating_sub(policy.inactive_ms);
        let is_left = with_cache(&policy, |cache| {
            cache.is_swept = cache.expire(unused_since);
            cache.is_swept
        });
        if !is_left {
            return;
        }
    }
}

/// The result of opening a path.
pub type Outcome = Result<Found, Errno>;

/// How often, and after which pauses, to retry opening a file when descriptors have run out.
const DESCRIPTOR_TRIES: u32 = 8;
const DESCRIPTOR_WAIT: std::time::Duration = std::time::Duration::from_millis(2);

/// The purpose of looking at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To send it.
    Read,
    /// To learn whether it exists, and what it is.
    Kind,
}

impl Purpose {
    fn flags(self) -> nix::fcntl::OFlag {
        if self == Self::Read { file::READ } else { file::ASK }
    }
}

/// Opens a path. `Err`: another thread must do it.
pub fn open(request: &mut Request, path: &[u8]) -> Result<Outcome, Box<Lookup>> {
    look(request, path, Purpose::Read)
}

/// The kind of file at a path, whether it can be read or not. `Err`: as for [`open`].
pub fn kind(request: &mut Request, path: &[u8]) -> Result<Result<FileKind, Errno>, Box<Lookup>> {
    look(request, path, Purpose::Kind).map(|found| found.map(|found| found.kind()))
}

/// The mode of a file, for callers that cannot wait for another thread. `None`: the path has no link to be
/// refused, so a plain `stat` gives the same answer.
pub fn mode_without_links(request: &mut Request, path: &[u8]) -> Option<nix::Result<u32>> {
    let links = Links::of(request, path);
    let mode = || Ok(nix::sys::stat::fstat(links.open(path, file::ASK)?)?.st_mode);
    (!links.are_followed()).then(mode)
}

fn look(request: &mut Request, path: &[u8], purpose: Purpose) -> Result<Outcome, Box<Lookup>> {
    if climbs(request, path) {
        return Ok(Err(Errno::ENOENT));
    }
    let links = Links::of(request, path);
    let policy = request.location.confs.open_file_cache.policy().filter(|_| links.are_followed());
    if let Some(found) = policy.as_ref().and_then(|policy| cached(policy, path)) {
        return Ok(found);
    }
    let how = How { reads: purpose == Purpose::Read, asks_place: policy.is_some(), may_wait: false };
    let opened = match links.are_followed() {
        true => file::open_cached(path, purpose.flags()).and_then(|fd| Opened::read(fd, how)),
        false => Err(Errno::EAGAIN), // the path is walked step by step
    };
    let must_wait = |errno| errno == Errno::EAGAIN || room::ask_for_descriptors(errno);
    match opened {
        Err(errno) if must_wait(errno) => {
            Err(Box::new(Lookup { path: path.into(), purpose, links, how, policy }))
        }
        opened => Ok(conclude(path, purpose, policy.as_ref(), opened)),
    }
}

fn conclude(path: &[u8], purpose: Purpose, policy: Option<&Policy>, opened: nix::Result<Opened>) -> Outcome {
    let found = opened.map(Opened::into_found);
    // a file that was only asked about has not been opened
    if let Some(policy) = policy
        && (purpose == Purpose::Read || !matches!(found, Ok(Found::File(_))))
    {
        keep(policy, path, &found);
    }
    found
}

/// A path that another thread must look at, because the kernel does not have it in memory.
#[must_use]
pub struct Lookup {
    path: Box<[u8]>,
    purpose: Purpose,
    links: Links,
    how: How,
    policy: Option<Policy>,
}

impl Lookup {
    /// Has another thread look at it; `next` decides by the result.
    pub fn then(
        self: Box<Self>,
        next: impl FnOnce(&mut Request, Outcome) -> Verdict + Send + 'static,
    ) -> Verdict {
        let job = move || -> Then {
            let opened = self.open();
            let Self { path, purpose, policy, .. } = *self;
            Box::new(move |request| {
                let found = conclude(&path, purpose, policy.as_ref(), opened);
                next(request, found)
            })
        };
        Work::on_files(job).into()
    }

    /// The same for [`kind`].
    pub fn then_kind(
        self: Box<Self>,
        next: impl FnOnce(&mut Request, Result<FileKind, Errno>) -> Verdict + Send + 'static,
    ) -> Verdict {
        self.then(|request, found| next(request, found.map(|found| found.kind())))
    }

    /// Runs on a thread that may wait for the disk, and for descriptors.
    fn open(&self) -> nix::Result<Opened> {
        let how = How { may_wait: true, ..self.how };
        let open = || self.links.open(&self.path, self.purpose.flags()).and_then(|fd| Opened::read(fd, how));
        let mut opened = open();
        for _ in 0..DESCRIPTOR_TRIES {
            if !matches!(opened, Err(Errno::EMFILE | Errno::ENFILE)) {
                break;
            }
            std::thread::sleep(DESCRIPTOR_WAIT); // meanwhile idle connections are closing
            opened = open();
        }
        opened
    }
}

/// True if a path contains more `..` than the configuration: parts taken from a request must not add any.
pub fn climbs(request: &Request, path: &[u8]) -> bool {
    if memchr::memmem::find(path, b"/..").is_none() {
        return false;
    }
    let allowed = match request.location.confs.http_core.root() {
        Some(root) => root.steps_up,
        None => steps_up(request.config.prefix.as_os_str().as_encoded_bytes()),
    };
    let climbs = steps_up(path) > allowed;
    if climbs {
        let path = log::Text(path);
        log::error!(request.error_log(), request, "\"{path}\" leads out of its directory");
    }
    climbs
}
