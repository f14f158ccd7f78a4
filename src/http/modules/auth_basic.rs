//! Access by user name and password (`auth_basic`, `auth_basic_user_file`).
//!
//! Runs in the access phase. Touches: the file of users, which is read for each request as in nginx (on
//! another thread if it is not in memory); another thread for passwords that are slow to check. A worker
//! remembers the results of slow checks, checks a password once when several requests bring it at the same
//! time, and bounds how many checks wait (`blocking::PASSWORDS_WAITING_MAX`).
//! Behaviour: nginx.org, ngx_http_auth_basic_module. RFC 7617.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File as Opened;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;

use crate::base::base64;
use crate::base::crypt::{self, Scheme};
use crate::config::directive::{custom, millis};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::http::verdict::{Reply, Then, Verdict, Work};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::runtime::blocking::{self, Lane, PASSWORDS_WAITING_MAX};
use crate::runtime::channel::Notify;
use crate::runtime::{self, now_ms};
use crate::script::file_path::FilePath;
use crate::sys::file as cached;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// The value `off` disables the check.
        realm: Inherit<Script>,
        file: Inherit<File>,
        delay_ms: Setting<u64> = 0,
    }
}

/// The file of users; a relative path is relative to the directory of the configuration.
#[derive(Clone, Debug)]
struct File {
    folder: PathBuf,
    /// A client must not choose a file that it has written.
    path: FilePath<Request>,
}

const CONTEXTS: Context = Context::ANY.or(Context::LIMIT_EXCEPT);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("auth_basic", CONTEXTS, Arity::exactly(1), auth_basic,
        "Requires a user name and a password, and names the protected area (the realm); off disables an inherited one.").default("off"),
    custom("auth_basic_user_file", CONTEXTS, Arity::exactly(1), auth_basic_user_file,
        "Names the file of users, with name:password in each line. Passwords have the formats of htpasswd (bcrypt, apr1, SHA), of crypt(3) ($1$, $5$, \
         $6$), {SSHA} or {PLAIN}. The file must be a regular file of at most 4 MiB. A worker checks slow passwords (bcrypt, $5$, $6$) one at a time; up to \
         16 more wait, and further requests get 503."),
    millis("auth_delay", Context::ANY, |c| &mut c.delay_ms, "Delays responses with status 401 by this time."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.realm.is_set()
    }
}

impl Conf {
    /// How long a 401 is delayed, whichever module refuses the request.
    pub fn delay_ms(&self) -> u64 {
        self.delay_ms.get()
    }
}

fn auth_basic(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let realm = Script::compile(&node.args[0], cx)?;
    conf.realm.put(realm, node)
}

fn auth_basic_user_file(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let path = FilePath::compile(node.arg(0), node.arg_span(0), cx)?;
    let file = File { folder: cx.options.folder.clone(), path };
    conf.file.put(file, node)
}

pub fn access(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.auth_basic;
    match (conf.realm.as_ref(), conf.file.as_ref()) {
        (Some(realm), Some(file)) => check(request, realm, file),
        _ => Verdict::Next,
    }
}

fn check(request: &mut Request, realm: &'static Script, file: &'static File) -> Verdict {
    if realm.to_vec(request) == b"off" {
        return Verdict::Next;
    }
    if credentials(request).is_none_or(|(user, _)| user.is_empty()) {
        let what = "no user/password was provided for basic authentication";
        log::info!(request.error_log(), &*request, "{}", what);
        return refuse(request);
    }
    let name = match file.path.evaluate(request) {
        Ok(name) => name,
        Err(name) => {
            let name = log::Text(&name);
            log::error!(request.error_log(), &*request, "\"{}\" leads out of its directory", name);
            return Verdict::Done(Reply::Status(403));
        }
    };
    let path = file.folder.join(OsStr::from_bytes(&name)).into_os_string().into_vec();
    match read_users(&path, false) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let job = move || -> Then {
                let users = read_users(&path, true);
                Box::new(move |request| check_against(request, &path, users))
            };
            Work::on_files(job).into()
        }
        users => check_against(request, &path, users),
    }
}

/// Limits the file of users, to about a hundred thousand lines, since each request reads and searches it.
const USERS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads a file of users. Unless it `may_wait`, only what is in memory is read.
///
/// Errors: `WouldBlock` if part of the file is not in memory; a file that is too large, or not a regular file
/// (opening a FIFO would block).
fn read_users(path: &[u8], may_wait: bool) -> io::Result<Vec<u8>> {
    let open = if may_wait { cached::open_waiting } else { cached::open_cached };
    let file = Opened::from(open(path, cached::READ)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if metadata.len() > USERS_BYTES_MAX {
        let why =
            format!("it is larger than {USERS_BYTES_MAX} bytes, the most that a file of users may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    let mut users = vec![0; metadata.len() as usize];
    if may_wait {
        let count = cached::read_waiting(&file, &mut users, 0)?;
        users.truncate(count);
    } else if !users.is_empty() && cached::read_cached(&file, &mut users, 0)? < users.len() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(users)
}

fn check_against(request: &mut Request, path: &[u8], users: io::Result<Vec<u8>>) -> Verdict {
    let Some((user, password)) = credentials(request) else { return refuse(request) };
    let users = match users {
        Ok(users) => users,
        Err(error) => {
            let (name, cause) = (log::Text(path), log::Cause(&error));
            if error.kind() == io::ErrorKind::NotFound {
                log::error!(request.error_log(), &*request, "open() \"{}\" failed {}", name, cause);
                return Verdict::Done(Reply::Status(403));
            }
            log::crit!(request.error_log(), &*request, "open() \"{}\" failed {}", name, cause);
            return Verdict::Done(Reply::Status(500));
        }
    };
    runtime::charge((users.len() / SEARCHED_BYTES) as u32);
    let Some(stored) = stored_password(&users, &user) else {
        let (user, name) = (log::Text(&user), log::Text(path));
        log::error!(request.error_log(), &*request, "user \"{}\" was not found in \"{}\"", user, name);
        return refuse(request);
    };
    let Some((stored, scheme)) =
        std::str::from_utf8(stored).ok().and_then(|text| Some((text, Scheme::of(text)?)))
    else {
        let user = log::Text(&user);
        let what = "the password is stored in a way that is not supported";
        log::error!(request.error_log(), &*request, "user \"{}\": {}", user, what);
        return Verdict::Done(Reply::Status(500));
    };
    if !scheme.is_slow(password.len()) {
        return answer(request, Outcome::of(crypt::verify(&password, stored)));
    }
    let key = CHECKS.with_borrow(|checks| checks.hasher.hash_one((&password, stored)));
    if let Some(outcome) = CHECKS.with_borrow_mut(|checks| checks.known(key)) {
        return answer(request, outcome);
    }
    let check = check_slowly(key, password, stored.to_owned());
    let run = async move {
        let outcome = check.await;
        Box::new(move |request: &mut Request| answer(request, outcome)) as Then
    };
    Work { run: Box::pin(run), lane: Lane::Passwords }.into()
}

/// Bytes that are read and searched in a microsecond.
const SEARCHED_BYTES: usize = 4096;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Wrong,
    Right,
    /// The check was not made, because too many are waiting.
    Refused,
}

impl Outcome {
    fn of(is_right: bool) -> Self {
        if is_right { Self::Right } else { Self::Wrong }
    }
}

fn answer(request: &mut Request, outcome: Outcome) -> Verdict {
    if outcome == Outcome::Right {
        return Verdict::Granted;
    }
    let user = credentials(request).map(|(user, _)| user).unwrap_or_default();
    let user = log::Text(&user);
    if outcome == Outcome::Refused {
        log::error!(
            request.error_log(),
            &*request,
            "user \"{}\": {} passwords are already waiting to be checked: \"limit_req\" here, or passwords that are stored with \
             a cheaper hash, would help",
            user,
            PASSWORDS_WAITING_MAX
        );
        return Verdict::Done(Reply::Status(503));
    }
    log::error!(request.error_log(), &*request, "user \"{}\": password mismatch", user);
    refuse(request)
}

/// Checks a password on another thread, once for all requests that bring it at the same time.
async fn check_slowly(key: u64, password: Vec<u8>, stored: String) -> Outcome {
    loop {
        if let Some(outcome) = CHECKS.with_borrow_mut(|checks| checks.known(key)) {
            return outcome;
        }
        let under_way = CHECKS.with_borrow(|checks| checks.under_way.get(&key).cloned());
        match under_way {
            Some(check) => check.notified().await, // if its client leaves, a waiting request takes over
            None => break,
        }
    }
    let Ok(check) = blocking::try_run(Lane::Passwords, move || crypt::verify(&password, &stored)) else {
        return Outcome::Refused;
    };
    let _under_way = UnderWay::begin(key);
    let outcome = Outcome::of(check.await);
    CHECKS.with_borrow_mut(|checks| checks.remember(key, outcome));
    outcome
}

/// Marks a check as in progress until it is dropped.
struct UnderWay(u64);

impl UnderWay {
    fn begin(key: u64) -> Self {
        CHECKS.with_borrow_mut(|checks| checks.under_way.insert(key, Rc::default()));
        Self(key)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let check = CHECKS.with_borrow_mut(|checks| checks.under_way.remove(&self.0));
        if let Some(check) = check {
            check.notify();
        }
    }
}

/// What this worker knows of slow passwords. The key hashes password and stored text with a secret of the
/// worker.
struct Checks {
    hasher: RandomState,
    right: HashSet<u64>,
    /// The wrong passwords of the last [`WRONG_MS`], and those of the same time before.
    wrong: [HashSet<u64>; 2],
    wrong_since_ms: u64,
    under_way: HashMap<u64, Rc<Notify>>,
}

/// Maximum number of passwords in each set.
const KNOWN_MAX: usize = 1024;
/// A wrong password is remembered for at least this long, and for at most twice as long.
const WRONG_MS: u64 = 5_000;

thread_local! {
    static CHECKS: RefCell<Checks> = RefCell::new(Checks::new());
}

impl Checks {
    fn new() -> Self {
        let (right, wrong, under_way) = (HashSet::new(), [HashSet::new(), HashSet::new()], HashMap::new());
        Self { hasher: RandomState::new(), right, wrong, wrong_since_ms: 0, under_way }
    }

    fn known(&mut self, key: u64) -> Option<Outcome> {
        self.forget_wrong(now_ms());
        if self.right.contains(&key) {
            return Some(Outcome::Right);
        }
        self.wrong.iter().any(|wrong| wrong.contains(&key)).then_some(Outcome::Wrong)
    }

    fn remember(&mut self, key: u64, outcome: Outcome) {
        let known = if outcome == Outcome::Right { &mut self.right } else { &mut self.wrong[0] };
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key);
    }

    fn forget_wrong(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.wrong_since_ms);
        if passed_ms < WRONG_MS {
            return;
        }
        self.wrong.swap(0, 1);
        self.wrong[0].clear();
        if passed_ms >= 2 * WRONG_MS {
            self.wrong[1].clear();
        }
        self.wrong_since_ms = now_ms;
    }
}

/// The names of the fields of a challenge and its answer, and the status of a refusal: CONNECT asks a proxy.
pub fn fields(request: &Request) -> (Id, Id, u16) {
    match request.method {
        Method::Connect => (Id::ProxyAuthenticate, Id::ProxyAuthorization, 407),
        _ => (Id::WwwAuthenticate, Id::Authorization, 401),
    }
}

/// Refuses the request with 401 or 407, which asks for a user name and password.
fn refuse(request: &mut Request) -> Verdict {
    let mut value = b"Basic realm=\"".to_vec();
    if let Some(realm) = request.location.confs.auth_basic.realm.as_ref() {
        realm.evaluate(request, &mut value);
    }
    value.push(b'"');
    let (challenge, _, status) = fields(request);
    request.forget(challenge);
    request.keep(challenge, Some(&value));
    Verdict::Done(Reply::Status(status))
}

/// The user name and password of `Authorization: Basic`, or of `Proxy-Authorization`.
fn credentials(request: &Request) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = request.header(fields(request).1)?.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut user = base64::decode(encoded.trim_ascii())?;
    let colon = memchr::memchr(b':', &user)?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

/// The password field of the user's line, without further fields after another colon.
fn stored_password<'a>(users: &'a [u8], user: &[u8]) -> Option<&'a [u8]> {
    if user.starts_with(b"#") || user.contains(&b'\n') {
        return None; // a comment, or a name that spans lines
    }
    let start = [user, b":"].concat();
    let begins_line = |at: &usize| *at == 0 || users[*at - 1] == b'\n';
    let at = memchr::memmem::find_iter(users, &start).find(begins_line)?;
    let rest = &users[at + start.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b':' | b'\r' | b'\n')).unwrap_or(rest.len());
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_in_their_lines() {
        let users = b"# comment:x\n\njoe:one\r\njoey:two:comment\nempty:\nlast:three";
        for (user, expected) in [
            ("joe", Some("one")),
            ("joey", Some("two")),
            ("empty", Some("")),
            ("last", Some("three")),
            ("jo", None),
            ("# comment", None),
            ("", None),
            ("joe:one", None),
            ("x\n\njoe", None),
        ] {
            assert_eq!(stored_password(users, user.as_bytes()), expected.map(str::as_bytes), "{user}");
        }
    }

    #[test]
    fn a_wrong_password_is_known_for_a_few_seconds_and_a_right_one_for_longer() {
        let mut checks = Checks::new();
        checks.forget_wrong(100_000);
        checks.remember(1, Outcome::Wrong);
        checks.remember(2, Outcome::Right);
        let known = |checks: &mut Checks, now_ms, key| {
            checks.forget_wrong(now_ms);
            checks.right.contains(&key) || checks.wrong.iter().any(|wrong| wrong.contains(&key))
        };
        assert!(
            known(&mut checks, 104_999, 1)
                && known(&mut checks, 105_000, 1)
                && known(&mut checks, 109_999, 1)
        );
        assert!(!known(&mut checks, 110_000, 1) && known(&mut checks, 110_000, 2));
        checks.remember(1, Outcome::Wrong);
        assert!(!known(&mut checks, 120_000, 1));
        for key in 0..5_000 {
            checks.remember(key, Outcome::Wrong);
            assert!(checks.wrong[0].len() <= KNOWN_MAX);
        }
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string().into_vec();
        nix::unistd::mkfifo(&folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(folder.path().join("users"), "joe:one").unwrap();
        Opened::create(folder.path().join("large")).unwrap().set_len(USERS_BYTES_MAX + 1).unwrap();
        for may_wait in [false, true] {
            let kind = |name: &str| read_users(&path(name), may_wait).map_err(|error| error.kind());
            assert_eq!(kind("fifo"), Err(io::ErrorKind::InvalidInput));
            assert_eq!(kind("large"), Err(io::ErrorKind::FileTooLarge));
        }
        assert_eq!(read_users(&path("none"), true).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read_users(&path("users"), true).unwrap(), b"joe:one");
    }
}
