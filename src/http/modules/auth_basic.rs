//! Access by user and password (`auth_basic`, `auth_basic_user_file`).
//!
//! Runs in the access phase. Touches: the file of users, read for each request as nginx does; another thread for
//! passwords whose check is slow. A worker remembers such passwords once they were right.
//! Behaviour: nginx.org, ngx_http_auth_basic_module. RFC 7617.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::base::base64;
use crate::base::crypt::{self, Scheme};
use crate::config::directive::{custom, millis};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node};
use crate::http::compile::Cx;
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::pipeline::{Reply, Verdict, Work};
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::variable::Variable;
use crate::log;
use crate::proto::header::Id;

#[derive(Debug, Default)]
pub struct Conf {
    /// `off` as a value switches it off.
    realm: Inherit<Script>,
    file: Inherit<File>,
    delay_ms: Inherit<u64>,
}

/// The file of users; a relative path begins at the folder of the configuration.
#[derive(Clone, Debug)]
struct File {
    folder: PathBuf,
    path: Script,
}

const CONTEXTS: Context = Context::ANY.or(Context::LIMIT_EXCEPT);

pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("auth_basic", CONTEXTS, Arity::exactly(1), auth_basic, "Asks for a user and password, under this name of the area; off."),
    custom("auth_basic_user_file", CONTEXTS, Arity::exactly(1), auth_basic_user_file, "The file of users, name:password in each line; passwords as of htpasswd (bcrypt, apr1, SHA), crypt(3)'s $1$, $5$ and $6$, {SSHA} or {PLAIN}."),
    millis("auth_delay", Context::ANY, |c| &mut c.delay_ms, "How long a request waits for its status 401; 0."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.realm.merge(&outer.realm);
        self.file.merge(&outer.file);
        self.delay_ms.merge(&outer.delay_ms);
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.realm.is_set()
    }
}

impl Conf {
    /// How long a refusal with 401 waits, whoever refuses.
    pub fn delay_ms(&self) -> u64 {
        self.delay_ms.get(0)
    }
}

fn auth_basic(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let realm = Script::compile(&node.args[0], cx)?;
    conf.realm.put(realm, node)
}

fn auth_basic_user_file(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let path = Script::compile(&node.args[0], cx)?;
    let file = File { folder: cx.options.folder.clone(), path };
    conf.file.put(file, node)
}


pub fn access(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.auth_basic;
    match (conf.realm.as_ref(), conf.file.as_ref()) {
        (Some(realm), Some(file)) => check(request, realm, file),
        _ => Verdict::Next,
    }
}

fn check(request: &mut Request, realm: &'static Script, file: &'static File) -> Verdict {
    if realm.to_vec(request) == b"off" {
        return Verdict::Next;
    }
    let Some((user, password)) = credentials(request) else {
        let what = "no user/password was provided for basic authentication";
        log::info!(core::error_log(request), &*request, "{}", what);
        return refuse(request);
    };
    let path = file.folder.join(OsStr::from_bytes(&file.path.to_vec(request)));
    let users = match std::fs::read(&path) {
        Ok(users) => users,
        Err(error) => {
            let (name, cause) = (log::Text(path.as_os_str().as_bytes()), log::Cause(&error));
            if error.kind() == std::io::ErrorKind::NotFound {
                log::error!(core::error_log(request), &*request, "open() \"{}\" failed {}", name, cause);
                return Verdict::Done(Reply::Status(403));
            }
            log::crit!(core::error_log(request), &*request, "open() \"{}\" failed {}", name, cause);
            return Verdict::Done(Reply::Status(500));
        }
    };
    let Some(stored) = stored_password(&users, &user) else {
        let (user, name) = (log::Text(&user), log::Text(path.as_os_str().as_bytes()));
        log::error!(core::error_log(request), &*request, "user \"{}\" was not found in \"{}\"", user, name);
        return refuse(request);
    };
    let Some((stored, scheme)) = std::str::from_utf8(stored).ok().and_then(|text| Some((text, Scheme::of(text)?))) else {
        let user = log::Text(&user);
        let what = "the password is stored in a way that is not supported";
        log::error!(core::error_log(request), &*request, "user \"{}\": {}", user, what);
        return Verdict::Done(Reply::Status(500));
    };
    if !scheme.is_slow() {
        return answer(request, u64::from(crypt::verify(&password, stored)));
    }
    let key = KNOWN.with_borrow(|known| known.hasher.hash_one((&password, stored)).max(2));
    if KNOWN.with_borrow(|known| known.keys.contains(&key)) {
        return Verdict::Granted;
    }
    let stored = stored.to_owned();
    let run = move || if crypt::verify(&password, &stored) { key } else { 0 };
    Verdict::Work(Box::new(Work { run: Box::new(run), then: answer }))
}

/// What follows from a check: 0 is a wrong password, 1 a right one, more its key to remember it by.
fn answer(request: &mut Request, key: u64) -> Verdict {
    if key == 0 {
        let user = credentials(request).map(|(user, _)| user).unwrap_or_default();
        log::error!(core::error_log(request), &*request, "user \"{}\": password mismatch", log::Text(&user));
        return refuse(request);
    }
    if key > 1 {
        KNOWN.with_borrow_mut(|known| {
            if known.keys.len() >= KNOWN_MAX {
                known.keys.clear();
            }
            known.keys.insert(key);
        });
    }
    Verdict::Granted
}

/// Passwords that were right, by a hash that only this worker knows.
struct Known {
    hasher: RandomState,
    keys: HashSet<u64>,
}

const KNOWN_MAX: usize = 1024;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known { hasher: RandomState::new(), keys: HashSet::new() });
}

/// Asks for a user and password.
fn refuse(request: &mut Request) -> Verdict {
    let mut value = b"Basic realm=\"".to_vec();
    if let Some(realm) = request.location.auth_basic.realm.as_ref() {
        realm.evaluate(request, &mut value);
    }
    value.push(b'"');
    request.forget(Id::WwwAuthenticate);
    request.keep(Id::WwwAuthenticate, Some(&value));
    Verdict::Done(Reply::Status(401))
}

/// User and password of `Authorization: Basic`.
fn credentials(request: &Request) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = request.header(Id::Authorization)?.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut user = base64::decode(encoded.trim_ascii())?;
    let colon = memchr::memchr(b':', &user)?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

/// The password that stands in the user's line, without what follows another colon.
fn stored_password<'a>(users: &'a [u8], user: &[u8]) -> Option<&'a [u8]> {
    let lines = users.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
    let mut found = lines.filter_map(|line| line.strip_prefix(user)?.strip_prefix(b":"));
    found.next().map(|rest| {
        let end = rest.iter().position(|byte| matches!(byte, b':' | b'\r')).unwrap_or(rest.len());
        &rest[..end]
    })
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
        ] {
            assert_eq!(stored_password(users, user.as_bytes()), expected.map(str::as_bytes), "{user}");
        }
    }
}
