//! Certificates that change on disk: which files they come from, when to read them again, when they expire.
//!
//! The decisions are values: the time and the files' stamps go in, what to do comes out. Touches: the files'
//! metadata ([`Stamp::of`]) and contents ([`load`]). `master/certificates.rs` performs the rest.
//!
//! ```text
//!            stamp differs            the same for QUIET_MS
//! in force ───────────────▶ waiting ───────────────────────▶ read ──taken──▶ in force
//!    ▲                        ▲  │ differs again: from now    │ faulty
//!    │ the same again         └──┘                            ▼
//!    └────────────────────── the old one stays; reported once, if the files stay as they are for FAULT_MS
//! ```

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::jose::{KeyError, KeySet, SET_BYTES_MAX};
use crate::base::mmdb::{self, Database};
use crate::config::Span;
use crate::log::{Cause, Text};
use crate::net::tls::certificate::{self, Certificate};
use crate::net::tls::client::Client;
use crate::net::tls::parcel;
use crate::net::tls::pem::{self, Passwords};
use crate::sys::{clock_local, file, trusted};

/// How long files must stay as they are before they are read: a certificate and its key change one after
/// the other.
pub const QUIET_MS: u64 = 1000;
/// How long the files of a faulty pair must stay as they are before the fault is reported: until then, the
/// other half may be on its way.
pub const FAULT_MS: u64 = 5000;
/// Interval of looking at all files, for filesystems without events.
pub const LOOK_MS: u64 = 60_000;
/// The most pairs that are read in one go: taking a key costs up to a millisecond.
pub const PAIRS_A_LOOK_MAX: usize = 16;
/// The largest file that is read, as when the configuration is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

const DAY_S: i64 = 86_400;
/// The days before the end of validity on which there is a warning.
const WARN_DAYS: [i64; 3] = [1, 7, 14];

/// The files of a certificate, by absolute paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// `ssl_password_file`.
    pub passwords: Option<PathBuf>,
    /// `ssl_stapling_file`.
    pub ocsp: Option<PathBuf>,
    /// The workers' user writes certificate and key, so that root must not follow a link there.
    pub is_issued: bool,
}

impl Files {
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let optional = [self.passwords.as_deref(), self.ocsp.as_deref()];
        [Some(&*self.certificate), Some(&*self.key)].into_iter().chain(optional).flatten()
    }
}

/// A file by which peers are judged: workers begin with its contents, and new ones with others.
#[derive(Clone, Debug)]
pub struct Trusted {
    pub path: PathBuf,
    pub kind: Kind,
    /// Of the file before it was read.
    pub stamp: Stamp,
}

/// The contents of a [`Trusted`] file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Certificates,
    /// Lists of revoked certificates.
    Revoked,
    /// A database of addresses (`base/mmdb.rs`).
    Addresses,
    /// JSON Web Keys (`base/jose.rs`).
    Keys,
}

/// A place where a certificate is used: the index of a server, and the position among its certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    pub server: usize,
    pub position: usize,
}

/// A certificate of a configuration that can be read again.
#[derive(Clone, Debug)]
pub struct Pair {
    pub files: Files,
    pub uses: Vec<Use>,
    /// Those that show it to upstreams.
    pub clients: Vec<Arc<Client>>,
    /// The directives that name it.
    pub spans: Vec<Span>,
    /// Of the files before they were read.
    pub stamp: Stamp,
}

/// The pairs of a configuration while it is read; a thousand servers may share one.
#[derive(Debug, Default)]
pub struct Pairs {
    list: Vec<Pair>,
    indexes: HashMap<Files, usize>,
    trusted: Vec<Trusted>,
}

impl Pairs {
    /// Notes that a certificate of these files is about to be read; returns its index.
    pub fn add(&mut self, files: Files) -> usize {
        if let Some(index) = self.indexes.get(&files) {
            return *index;
        }
        let (index, stamp) = (self.list.len(), Stamp::of(&files));
        self.indexes.insert(files.clone(), index);
        self.list.push(Pair { files, uses: Vec::new(), clients: Vec::new(), spans: Vec::new(), stamp });
        index
    }

    /// Notes the place of a certificate.
    pub fn add_use(&mut self, index: usize, place: Use, span: Span) {
        let Some(pair) = self.list.get_mut(index) else { return };
        pair.uses.push(place);
        pair.add_span(span);
    }

    /// Notes a client that shows the certificate to upstreams.
    pub fn add_client(&mut self, index: usize, client: Arc<Client>, span: Span) {
        let Some(pair) = self.list.get_mut(index) else { return };
        pair.clients.push(client);
        pair.add_span(span);
    }

    /// Notes that a file by which peers are judged is about to be read.
    pub fn add_trusted(&mut self, path: PathBuf, kind: Kind) {
        if self.trusted.iter().all(|known| known.path != path || known.kind != kind) {
            let stamp = Stamp::of_file(&path);
            self.trusted.push(Trusted { path, kind, stamp });
        }
    }

    /// Those that are in use, and the files by which peers are judged.
    pub fn finish(self) -> (Vec<Pair>, Vec<Trusted>) {
        let is_used = |pair: &Pair| !pair.uses.is_empty() || !pair.clients.is_empty();
        (self.list.into_iter().filter(is_used).collect(), self.trusted)
    }
}

impl Pair {
    fn add_span(&mut self, span: Span) {
        // Servers that inherit a directive come one after the other.
        if self.spans.last() != Some(&span) {
            self.spans.push(span);
        }
    }
}

impl Trusted {
    /// Checks that the file can be read, and has what it is for. Errors: it is not to be used yet.
    pub fn check(&self) -> Result<(), Error> {
        let what = match self.kind {
            Kind::Certificates => "certificate",
            Kind::Revoked => "CRL",
            Kind::Addresses => return self.check_addresses(),
            Kind::Keys => return self.check_keys(),
        };
        let data = read(&self.path, what)?;
        let outcome = match self.kind {
            Kind::Revoked => pem::revocation_lists(&data).map(drop),
            _ => pem::certificates(&data).map(drop),
        };
        outcome.map_err(|error| Error::Unusable {
            what,
            path: self.path.clone(),
            error: certificate::Error::Certificate(error),
        })
    }
}

impl Trusted {
    fn check_addresses(&self) -> Result<(), Error> {
        let path = &self.path;
        let unreadable = |error| Error::Unreadable { what: "database", path: path.clone(), error };
        let (data, _) = file::read_regular(path, mmdb::BYTES_MAX).map_err(unreadable)?;
        let parsed = Database::parse(data.into());
        parsed.map(drop).map_err(|error| Error::NoDatabase { path: path.clone(), error })
    }

    fn check_keys(&self) -> Result<(), Error> {
        let path = &self.path;
        let unreadable = |error| Error::Unreadable { what: "keys", path: path.clone(), error };
        let (data, _) = file::read_regular(path, SET_BYTES_MAX as u64).map_err(unreadable)?;
        let read = KeySet::strict(&Zeroizing::new(data));
        read.map(drop).map_err(|error| Error::NoKeys { path: path.clone(), error })
    }
}

/// The state of a pair's files as far as the filesystem tells it: equal stamps mean equal contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp([Option<FileStamp>; 4]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Also tells of changed permissions.
    changed: (i64, i64),
}

impl Stamp {
    /// A file that cannot be found has a stamp too.
    pub fn of(files: &Files) -> Self {
        let optional = |path: &Option<PathBuf>| path.as_deref().and_then(FileStamp::of_path);
        let of = FileStamp::of_path;
        Self([of(&files.certificate), of(&files.key), optional(&files.passwords), optional(&files.ocsp)])
    }
}

impl Stamp {
    /// Of a single file.
    pub fn of_file(path: &Path) -> Self {
        Self([FileStamp::of_path(path), None, None, None])
    }
}

impl FileStamp {
    /// `None`: there is no file. A named pipe counts as none: what was in it was read with the configuration, and
    /// whoever writes into it again changes nothing until a reload.
    fn of_path(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().filter(Metadata::is_file).map(|meta| Self::of(&meta))
    }

    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Decides when to read which pair again. The default has nothing to watch.
#[derive(Debug, Default)]
pub struct Watch {
    states: Vec<State>,
    /// The next look at all files without an event.
    regular_ms: u64,
    is_stirred: bool,
}

#[derive(Debug)]
struct State {
    /// Of the files when they were last read. `None`: read them in any case.
    judged: Option<Stamp>,
    /// Other files, and since when they are as they are.
    waiting: Option<(Stamp, u64)>,
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Fault {
    text: String,
    due_ms: u64,
    is_told: bool,
    /// It passes with time.
    is_early: bool,
}

/// What to do after a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The pairs to read now; each is answered by [`Watch::taken`] or [`Watch::failed`].
    pub read: Vec<usize>,
    /// Faults to report.
    pub faults: Vec<(usize, String)>,
    /// Some path may lead elsewhere now: watch anew.
    pub has_changed: bool,
}

impl Watch {
    /// For pairs whose files had these stamps when they were read. The first look is due at once.
    pub fn new(stamps: impl Iterator<Item = Option<Stamp>>) -> Self {
        let state = |judged| State { judged, waiting: None, fault: None };
        Self { states: stamps.map(state).collect(), regular_ms: 0, is_stirred: false }
    }

    /// Some file may have changed: the next look is due at once.
    pub fn stir(&mut self) {
        self.is_stirred = true;
    }

    /// When to look next; `None`: there is nothing to watch.
    pub fn due_ms(&self) -> Option<u64> {
        if self.states.is_empty() {
            return None;
        }
        if self.is_stirred {
            return Some(0);
        }
        let of_state = |state: &State| {
            let waiting = state.waiting.map(|(_, since_ms)| since_ms + QUIET_MS);
            let fault = state.fault.as_ref().filter(|fault| !fault.is_told).map(|fault| fault.due_ms);
            [waiting, fault].into_iter().flatten().min()
        };
        self.states.iter().filter_map(of_state).chain([self.regular_ms]).min()
    }

    /// True if it is time for the look that comes every minute.
    pub fn is_regular(&self, now_ms: u64) -> bool {
        now_ms >= self.regular_ms
    }

    /// Compares the files with what they were; one stamp for each pair.
    pub fn look(&mut self, now_ms: u64, stamps: impl Iterator<Item = Stamp>) -> Look {
        let is_regular = self.is_regular(now_ms);
        if is_regular {
            self.regular_ms = now_ms + LOOK_MS;
        }
        self.is_stirred = false;
        let mut look = Look::default();
        for (index, (state, stamp)) in self.states.iter_mut().zip(stamps).enumerate() {
            let has_room = look.read.len() < PAIRS_A_LOOK_MAX;
            if state.judged == Some(stamp) {
                state.waiting = None;
                let Some(fault) = &mut state.fault else { continue };
                if !fault.is_told && now_ms >= fault.due_ms {
                    fault.is_told = true;
                    look.faults.push((index, fault.text.clone()));
                }
                if fault.is_early && is_regular && has_room {
                    look.read.push(index);
                }
                continue;
            }
            match state.waiting {
                Some((known, since_ms)) if known == stamp => {
                    if now_ms >= since_ms + QUIET_MS && has_room {
                        look.read.push(index);
                        look.has_changed = true;
                    }
                }
                _ => {
                    state.waiting = Some((stamp, now_ms));
                    look.has_changed = true;
                }
            }
        }
        look
    }

    /// A pair was read, and is in force or was so before; `stamp` is that of the look.
    pub fn taken(&mut self, index: usize, stamp: Stamp) {
        if let Some(state) = self.states.get_mut(index) {
            *state = State { judged: Some(stamp), waiting: None, fault: None };
        }
    }

    /// A pair was read and cannot be used. The fault is reported by a later look, once for each state of the
    /// files.
    pub fn failed(&mut self, index: usize, stamp: Stamp, now_ms: u64, error: &Error) {
        let Some(state) = self.states.get_mut(index) else { return };
        let is_told = state.judged == Some(stamp) && state.fault.as_ref().is_some_and(|fault| fault.is_told);
        let due_ms = now_ms + FAULT_MS;
        let is_early = matches!(error, Error::Early { .. });
        let fault = Some(Fault { text: error.to_string(), due_ms, is_told, is_early });
        *state = State { judged: Some(stamp), waiting: None, fault };
    }
}

/// Why a changed pair is not taken. The text names the file and the remedy.
#[derive(Debug)]
pub enum Error {
    Unreadable { what: &'static str, path: PathBuf, error: io::Error },
    Unusable { what: &'static str, path: PathBuf, error: certificate::Error },
    Passwords { path: PathBuf, error: pem::Error },
    NoDatabase { path: PathBuf, error: mmdb::Error },
    NoKeys { path: PathBuf, error: KeyError },
    Ocsp { path: PathBuf },
    TooLong { path: PathBuf },
    Expired { path: PathBuf, at_s: i64 },
    Early { path: PathBuf, at_s: i64 },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { what, path, error } => {
                let remedy = match error.kind() {
                    io::ErrorKind::NotFound => "put it back".to_owned(),
                    io::ErrorKind::PermissionDenied => {
                        format!("let the user of the master process (uid {}) read it", nix::unistd::geteuid())
                    }
                    _ => "mend it".to_owned(),
                };
                write!(out, "cannot read {what} \"{}\" {}: {remedy}", path.display(), Cause(error))
            }
            Self::Unusable { what, path, error } => write!(
                out,
                "cannot load {what} \"{}\": {error}: write a certificate and the key that belongs to it",
                path.display()
            ),
            Self::Passwords { path, error } => {
                write!(out, "cannot use the passwords in \"{}\": {error}: mend the file", path.display())
            }
            Self::NoDatabase { path, error } => {
                write!(out, "cannot use database \"{}\": {error}: write another one", path.display())
            }
            Self::NoKeys { path, error } => {
                write!(out, "cannot use the keys in \"{}\": {error}: mend the file", path.display())
            }
            Self::Ocsp { path } => {
                write!(out, "\"{}\" is no successful OCSP response in DER: fetch another one", path.display())
            }
            Self::TooLong { path } => {
                write!(
                    out,
                    "certificate \"{}\" is too long: leave out what is not of its chain",
                    path.display()
                )
            }
            Self::Expired { path, at_s } => {
                write!(out, "certificate \"{}\" expired on {}: renew it", path.display(), date(*at_s))
            }
            Self::Early { path, at_s } => write!(
                out,
                "certificate \"{}\" is not valid before {}: it will be taken then, unless the clock of this machine \
                 is wrong",
                path.display(),
                date(*at_s)
            ),
        }
    }
}

/// A pair that was read and can be used.
pub struct Loaded {
    pub certificate: Certificate,
    /// The same for workers (`parcel.rs`).
    pub parcel: Zeroizing<Vec<u8>>,
}

/// Reads a pair and checks it: it parses, the key fits, and it is valid at `now_s`.
pub fn load(files: &Files, now_s: i64) -> Result<Loaded, Error> {
    let read_own = |path: &Path, what| match files.is_issued {
        true => trusted::read(path, FILE_BYTES_MAX).map_err(|error| Error::Unreadable {
            what,
            path: path.into(),
            error,
        }),
        false => read(path, what),
    };
    let chain = read_own(&files.certificate, "certificate")?;
    let key = read_own(&files.key, "certificate key")?;
    let passwords = match &files.passwords {
        None => Passwords::default(),
        Some(path) => Passwords::read(&read(path, "passwords")?)
            .map_err(|error| Error::Passwords { path: path.clone(), error })?,
    };
    let ocsp = match &files.ocsp {
        None => Vec::new(),
        Some(path) => {
            let response = read(path, "OCSP response")?.to_vec();
            Some(response)
                .filter(|response| is_ocsp_response(response))
                .ok_or_else(|| Error::Ocsp { path: path.clone() })?
        }
    };
    let unusable = |error: certificate::Error| {
        let (what, path) = if error.is_of_key() {
            ("certificate key", files.key.clone())
        } else {
            ("certificate", files.certificate.clone())
        };
        Error::Unusable { what, path, error }
    };
    let chain = pem::certificates(&chain).map_err(certificate::Error::Certificate).map_err(unusable)?;
    let key = pem::private_key(&key, &passwords).map_err(certificate::Error::Key).map_err(unusable)?;
    let parcel = parcel::write(&chain, &key, &ocsp);
    let certificate = Certificate::from_der(chain, &key).map_err(unusable)?.with_ocsp(ocsp);
    let path = files.certificate.clone();
    if certificate.not_after_s() < now_s {
        return Err(Error::Expired { path, at_s: certificate.not_after_s() });
    }
    if certificate.not_before_s() > now_s {
        return Err(Error::Early { path, at_s: certificate.not_before_s() });
    }
    let parcel = parcel.ok_or(Error::TooLong { path })?;
    Ok(Loaded { certificate, parcel })
}

fn read(path: &Path, what: &'static str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let read = || {
        // A named pipe must not stop the master.
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let length = regular_bytes(&file)?;
        // One byte more, so that the end is seen without another allocation, which would leave a copy.
        let mut data = Zeroizing::new(Vec::with_capacity(length + 1));
        file.take(length as u64 + 1).read_to_end(&mut data)?;
        Ok(data)
    };
    read().map_err(|error| Error::Unreadable { what, path: path.into(), error })
}

fn regular_bytes(file: &File) -> io::Result<usize> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let length = usize::try_from(meta.len()).ok().filter(|length| *length as u64 <= FILE_BYTES_MAX);
    length.ok_or_else(|| io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")))
}

/// True for an OCSP response that carries an answer (RFC 6960 §4.2.1): a sequence whose status is successful.
/// Its signature and dates are for clients to check.
pub fn is_ocsp_response(der: &[u8]) -> bool {
    let Ok((rest, whole)) = x509_parser::der_parser::parse_der(der) else { return false };
    let status = whole.as_sequence().ok().and_then(|parts| parts.first()?.as_u32().ok());
    rest.is_empty() && status == Some(0)
}

/// Whether two certificates are the same to clients.
pub fn is_same(one: &Certificate, other: &Certificate) -> bool {
    one.chain() == other.chain() && one.certified_key().ocsp == other.certified_key().ocsp
}

/// Decides when to warn that certificates expire: once for each of [`WARN_DAYS`], and daily afterwards.
#[derive(Debug, Default)]
pub struct Expiry {
    /// By the index of the pair: the last warning's days, and when it was.
    told: Vec<Option<(i64, i64)>>,
}

impl Expiry {
    pub fn new(count: usize) -> Self {
        Self { told: vec![None; count] }
    }

    /// True if there is something to say about this pair at `now_s`.
    pub fn is_due(&mut self, index: usize, now_s: i64, not_after_s: i64) -> bool {
        let Some(told) = self.told.get_mut(index) else { return false };
        let left_s = not_after_s.saturating_sub(now_s);
        let step =
            if left_s < 0 { Some(0) } else { WARN_DAYS.into_iter().find(|days| left_s <= days * DAY_S) };
        let Some(step) = step else {
            *told = None; // a newer certificate
            return false;
        };
        let is_due = match *told {
            None => true,
            Some((0, at_s)) if step == 0 => now_s - at_s >= DAY_S,
            Some((before, _)) => before != step,
        };
        if is_due {
            *told = Some((step, now_s));
        }
        is_due
    }
}

/// The end of a certificate's validity, for the log and for `-t`.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending {
    pub is_expired: bool,
    pub text: String,
}

/// What to say about a certificate that expires within 14 days, or has expired.
pub fn ending(path: &Path, certificate: &Certificate, now_s: i64) -> Option<Ending> {
    let left_s = certificate.not_after_s().saturating_sub(now_s);
    if left_s > WARN_DAYS[2] * DAY_S {
        return None;
    }
    let (is_expired, on) = (left_s < 0, date(certificate.not_after_s()));
    let what = match left_s {
        ..0 => format!("has expired on {on}"),
        _ => match left_s.div_euclid(DAY_S) + i64::from(left_s % DAY_S > 0) {
            ..=1 => format!("expires within a day, on {on}"),
            days => format!("expires in {days} days, on {on}"),
        },
    };
    let text = format!("certificate \"{}\" ({}) {what}", path.display(), names(certificate));
    Some(Ending { is_expired, text })
}

/// The names of a certificate for people: the first few.
pub fn names(certificate: &Certificate) -> String {
    const SHOWN_MAX: usize = 5;
    let all = certificate.names();
    let shown: Vec<String> =
        all.iter().take(SHOWN_MAX).map(|name| Text(name.as_bytes()).to_string()).collect();
    let more = if all.len() > SHOWN_MAX { ", …" } else { "" };
    if shown.is_empty() { "no names".to_owned() } else { format!("{}{more}", shown.join(", ")) }
}

/// `2026-11-29 12:00 UTC`.
pub fn date(seconds: i64) -> String {
    let mut out = Vec::new();
    clock_local::format(seconds, true, b"%Y-%m-%d %H:%M UTC", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
