//! Files that clients write: WebDAV's PUT, DELETE, MKCOL, COPY and MOVE (`dav_methods`).
//!
//! Runs in the content phase. The body of a PUT goes to a file in `client_body_temp_path`, which then gets its name.
//! Touches: the file system, on the blocking pool; whole trees on threads of their own. Properties and locks (PROPFIND,
//! LOCK) are left to backends, as in nginx. Conditions of the request (`If-Match` and the like) are heeded, since ignoring
//! them would lose another client's change.
//! Behaviour: nginx.org, ngx_http_dav_module; RFC 4918.

mod tree;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::base::path::{Escape, climbs, escape_uri, normalize_uri};
use crate::config::directive::{custom, flag, number};
use crate::config::{Arity, Context, Diagnostic, Diagnostics, Node, Setting, Span, settings};
use crate::http::config::compile::Cx;
use crate::http::config::server::Server;
use crate::http::modules::disable_symlinks::Links;
use crate::http::modules::{BlockConf, Directive, open_file_cache, static_file};
use crate::http::request::Request;
use crate::http::response::{Body, Response, condition, redirect};
use crate::http::scope::Variable;
use crate::http::upstream::store;
use crate::http::verdict::{Pause, Reply, Then, Verdict, Work};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::{BodyLength, Method};
use crate::proto::uri;
use crate::runtime::blocking::Lane;
use tree::{Depth, Refusal, Transfer};

/// The methods of `dav_methods`, with their bits in [`Conf::methods`].
const METHODS: [(&str, Method); 5] = [
    ("PUT", Method::Put),
    ("DELETE", Method::Delete),
    ("MKCOL", Method::Mkcol),
    ("COPY", Method::Copy),
    ("MOVE", Method::Move),
];

settings! {
    #[derive(Debug)]
    pub struct Conf {
        methods: Setting<u8> = 0,
        create_full_put_path: Setting<bool> = false,
        access: Setting<u32> = 0o600,
        min_delete_depth: Setting<u64> = 0,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("dav_methods", Context::ANY, Arity::at_least(1), |conf: &mut Conf, _: &mut Cx, node| methods(&mut conf.methods, node),
        "Allows clients to change files by these methods: PUT, DELETE, MKCOL, COPY, MOVE; off allows none. Restrict who may: auth_basic, allow, limit_except.")
        .default("off"),
    flag("create_full_put_path", Context::ANY, |c| &mut c.create_full_put_path, "Makes the directories on the way to a file that is put."),
    custom("dav_access", Context::ANY, Arity::between(1, 3), |conf: &mut Conf, _: &mut Cx, node| store::access(&mut conf.access, node),
        "Sets the permissions of new files and directories.").default("user:rw"),
    number("min_delete_depth", Context::ANY, (0, u32::MAX as u64), |c| &mut c.min_delete_depth,
        "Refuses to delete what has fewer elements in its path."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.methods.get() != 0
    }
}

/// Warns of locations in which everybody may change files, once for each line that allows it.
pub fn warn_of_open_doors(servers: &[Server], out: &mut Diagnostics) {
    let mut told: Vec<Span> = Vec::new();
    for location in servers.iter().flat_map(Server::locations) {
        let Some(span) = location.confs.dav.methods.span() else { continue };
        let mut allowed =
            METHODS.iter().enumerate().filter(|(bit, _)| location.confs.dav.methods.get() & 1 << bit != 0);
        let is_open = |(_, (_, method)): (usize, &(&str, Method))| {
            let confs = &location.for_method(*method).confs;
            let is_guarded = confs.are_guarded();
            !is_guarded && !confs.proxy_pass.is_set() && !confs.ssl.requires_certificate()
        };
        if !told.contains(&span) && allowed.any(is_open) {
            told.push(span);
            let message = "every client may change files here";
            let help =
                "add access rules, such as \"limit_except GET { allow 127.0.0.1; deny all; }\" or auth_basic";
            out.push(Diagnostic::warning(span, message).help(help));
        }
    }
}

fn methods(slot: &mut Setting<u8>, node: &Node) -> Result<(), Diagnostic> {
    let mut bits = 0;
    for word in &node.args {
        match METHODS.iter().position(|(name, _)| **name == *word.text) {
            Some(bit) => bits |= 1 << bit,
            None if &*word.text == "off" && node.args.len() == 1 => {}
            None => {
                return Err(Diagnostic::error(word.span, format!("invalid value \"{}\"", word.text))
                    .help("write off, or some of PUT, DELETE, MKCOL, COPY, MOVE"));
            }
        }
    }
    slot.put(bits, node)
}

pub fn content(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.dav;
    let Some(bit) = METHODS.iter().position(|(_, method)| *method == request.method) else {
        return Verdict::Next;
    };
    if conf.methods.get() & 1 << bit == 0 {
        return Verdict::Next;
    }
    let has_body = match request.body.declared() {
        BodyLength::None => false,
        BodyLength::Length(length) => length > 0,
        BodyLength::Chunked | BodyLength::UntilClose => true,
    };
    if has_body && request.method != Method::Put {
        return refuse(request, 415, "this method with a body is unsupported");
    }
    let path = match static_file::path(request) {
        Ok(path) => PathBuf::from(OsString::from_vec(path)),
        Err(status) => return Verdict::Done(Reply::Status(status)),
    };
    let act: Act = match request.method {
        Method::Put => put,
        Method::Delete => delete,
        Method::Mkcol => make_collection,
        _ => transfer,
    };
    on_condition(request, conf, path, act)
}

/// A change of the file or directory at a path.
type Act = fn(&mut Request, &'static Conf, PathBuf) -> Verdict;

/// Makes the change if the conditions of the request hold for what is there now, and the path has no links that
/// `disable_symlinks` forbids.
fn on_condition(request: &mut Request, conf: &'static Conf, path: PathBuf, act: Act) -> Verdict {
    let links = Links::of(request, path.as_os_str().as_bytes());
    let conditions = [Id::IfMatch, Id::IfNoneMatch, Id::IfUnmodifiedSince];
    if links.are_followed() && conditions.iter().all(|id| request.header(*id).is_none()) {
        return act(request, conf, path);
    }
    let job = move || -> Then {
        if let Err(refusal) = tree::check_links(&links, &path) {
            return Box::new(move |request| refuse(request, refusal.status, &refusal.why));
        }
        let found = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
        Box::new(move |request| {
            let holds = match &found {
                Some(found) => {
                    let etag = open_file_cache::etag(found.mtime(), found.size() as i64);
                    condition::condition(request, Some(found.mtime()), etag.as_bytes()).is_none()
                }
                // no tag is that of a file that does not exist
                None => request.header(Id::IfMatch).is_none(),
            };
            if holds { act(request, conf, path) } else { Verdict::Done(Reply::Status(412)) }
        })
    };
    Work::on_files(job).into()
}

fn put(request: &mut Request, conf: &'static Conf, path: PathBuf) -> Verdict {
    if request.uri.last() == Some(&b'/') {
        return refuse(request, 409, "cannot PUT to a collection");
    }
    if request.header(Id::ContentRange).is_some() {
        return refuse(request, 501, "PUT with range is unsupported");
    }
    request.body.want_file();
    // Another client may have changed the file while the body came, which may have taken minutes.
    let then = move |request: &mut Request| on_condition(request, conf, path, arrived);
    Verdict::Wait(Pause::body(then))
}

/// The body is in a file.
fn arrived(request: &mut Request, conf: &'static Conf, path: PathBuf) -> Verdict {
    let Some(file) = request.body.take_file() else { return Verdict::Done(Reply::Status(500)) };
    let date = request.header(Id::Date).and_then(|value| std::str::from_utf8(value).ok());
    let modified = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let folder_mode = conf.create_full_put_path.get().then(|| folder_mode(conf));
    let mode = conf.access.get();
    work(Lane::Files, move || tree::put(file, &path, mode, folder_mode, modified))
}

fn make_collection(request: &mut Request, conf: &'static Conf, path: PathBuf) -> Verdict {
    if request.uri.last() != Some(&b'/') {
        return refuse(request, 409, "MKCOL can create a collection only");
    }
    work(Lane::Files, move || tree::make_collection(&path, folder_mode(conf)))
}

fn delete(request: &mut Request, conf: &'static Conf, path: PathBuf) -> Verdict {
    let (elements, min) = (elements(&request.uri), conf.min_delete_depth.get());
    if elements < min {
        return refuse(
            request,
            409,
            &format!("insufficient URI depth:{elements} to DELETE (min_delete_depth {min})"),
        );
    }
    let Ok(depth) = depth(request) else { return Verdict::Done(Reply::Status(400)) };
    let is_collection = request.uri.last() == Some(&b'/');
    work(lane(is_collection), move || tree::delete(&path, is_collection, depth))
}

/// The number of elements of a path.
fn elements(uri: &[u8]) -> u64 {
    uri.split(|byte| *byte == b'/').filter(|element| !element.is_empty()).count() as u64
}

/// COPY or MOVE.
fn transfer(request: &mut Request, conf: &'static Conf, from: PathBuf) -> Verdict {
    let Some(text) = request.header(Id::Destination).map(<[u8]>::to_vec) else {
        return refuse(request, 400, "client sent no \"Destination\" header");
    };
    let invalid = format!("client sent invalid \"Destination\" header: \"{}\"", log::Text(&text));
    let Ok(target) = uri::parse(Method::Get, &text) else { return refuse(request, 400, &invalid) };
    if let Some(host) = target.host.clone() {
        let scheme: &[u8] = if request.connection.tls.is_some() { b"https:" } else { b"http:" };
        if !text.get(..scheme.len()).is_some_and(|own| own.eq_ignore_ascii_case(scheme)) {
            return refuse(request, 400, &invalid);
        }
        if uri::authority(&text[host]).ok().as_deref() != Some(&*request.host) {
            let text = log::Text(&text);
            let why = format!(
                "\"Destination\" URI \"{text}\" is handled by different repository than the source URI"
            );
            return refuse(request, 400, &why);
        }
    }
    let path = &text[target.path_and_query];
    let path = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or(path);
    let mut to = Vec::new();
    let is_path = normalize_uri(path, true, &mut to).is_ok() && to.first() == Some(&b'/');
    if !is_path || climbs(path) {
        return refuse(request, 400, &invalid);
    }
    let is_collection = request.uri.last() == Some(&b'/');
    if is_collection != (to.last() == Some(&b'/')) {
        let why = "both URI and \"Destination\" URI should be either collections or non-collections";
        return refuse(request, 409, why);
    }
    let is_move = request.method == Method::Move;
    let Ok(depth) = depth(request) else { return Verdict::Done(Reply::Status(400)) };
    let depth = depth.unwrap_or(Depth::Infinity);
    if depth == Depth::One || is_move && depth == Depth::Zero {
        let why = if is_move { "must be infinity" } else { "must be 0 or infinity" };
        return refuse(request, 400, &format!("\"Depth\" header {why}"));
    }
    let overwrites = match request.header(Id::Overwrite) {
        None | Some(b"T" | b"t") => true,
        Some(b"F" | b"f") => false,
        Some(other) => {
            let why = format!("client sent invalid \"Overwrite\" header: \"{}\"", log::Text(other));
            return refuse(request, 400, &why);
        }
    };
    let to = match static_file::path_of(request, to) {
        Ok(to) => PathBuf::from(OsString::from_vec(to)),
        Err(status) => return refuse(request, status, &invalid),
    };
    let (folder_mode, links) = (folder_mode(conf), Links::of(request, to.as_os_str().as_bytes()));
    let task = Transfer { from, to, is_collection, is_move, depth, overwrites, folder_mode };
    work(lane(is_collection), move || {
        tree::check_links(&links, &task.to)?;
        tree::transfer(&task)
    })
}

/// The field `Depth`; `None`: there is none. Errors: it is invalid, and logged.
fn depth(request: &mut Request) -> Result<Option<Depth>, ()> {
    match request.header(Id::Depth) {
        None => Ok(None),
        Some(b"0") => Ok(Some(Depth::Zero)),
        Some(b"1") => Ok(Some(Depth::One)),
        Some(b"infinity") => Ok(Some(Depth::Infinity)),
        Some(other) => {
            let why = format!("client sent invalid \"Depth\" header: \"{}\"", log::Text(other));
            refuse(request, 400, &why);
            Err(())
        }
    }
}

/// Directories can be entered by those who may read files.
fn folder_mode(conf: &Conf) -> u32 {
    let mode = conf.access.get();
    mode | (mode & 0o444) >> 2
}

fn lane(is_collection: bool) -> Lane {
    if is_collection { Lane::Trees } else { Lane::Files }
}

fn refuse(request: &mut Request, status: u16, why: &str) -> Verdict {
    log::error!(request.error_log(), &*request, "{why}");
    Verdict::Done(Reply::Status(status))
}

/// Has a change made on another thread.
fn work(lane: Lane, job: impl FnOnce() -> Result<u16, Refusal> + Send + 'static) -> Verdict {
    let job = move || -> Then {
        let done = job();
        Box::new(move |request| match done {
            Ok(status) => Verdict::Done(reply(request, status)),
            Err(refusal) => {
                match refusal.is_critical {
                    true => log::crit!(request.error_log(), &*request, "{}", refusal.why),
                    false => log::error!(request.error_log(), &*request, "{}", refusal.why),
                }
                Verdict::Done(Reply::Status(refusal.status))
            }
        })
    };
    Work::on(lane, job).into()
}

fn reply(request: &Request, status: u16) -> Reply {
    let mut response = Response::with_type(status, b"");
    if status == 201 && matches!(request.method, Method::Put | Method::Mkcol) {
        let mut path = Vec::new();
        escape_uri(&request.uri, Escape::Uri, &mut path);
        let url = redirect::absolute(request, &path);
        response.headers.push_id(Id::Location, url.as_deref().unwrap_or(&path));
    }
    Reply::Response(Box::new(response), Body::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_of_a_path_is_its_number_of_elements() {
        for (uri, count) in [("/", 0), ("/a", 1), ("/a/", 1), ("/a/b", 2), ("/a/b/c/", 3)] {
            assert_eq!(elements(uri.as_bytes()), count, "{uri}");
        }
    }
}
