//! Answers of upstreams kept as files: `proxy_store`.
//!
//! Touches: the file system, on the blocking pool. A file gets its name only when it is whole; one that cannot be
//! written is given up, the answer goes on.
//! Behaviour: nginx.org, ngx_http_proxy_module.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, core, static_file};
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::temp_file::{Keep, TempFile, TempPath};
use crate::http::variable::Variable;
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;

/// Where answers go.
#[derive(Clone, Debug)]
enum Place {
    Off,
    /// The file that the URI names below `root` or `alias`.
    Root,
    File(Script),
}

#[derive(Debug, Default)]
pub struct Conf {
    place: Inherit<Place>,
    access: Inherit<u32>,
    /// For files under way, where no `proxy_temp_path` is set.
    folder: Option<TempPath>,
}

const ANY: Context = Context::ANY;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("proxy_store", ANY, Arity::exactly(1), store, "Keeps answers with status 200 as files: on (below root), or a path with variables; off."),
    custom("proxy_store_access", ANY, Arity::between(1, 3), access, "Who may read and write these files: user:rw group:r all:r; user:rw."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.place.merge(&outer.place);
        self.access.merge(&outer.access);
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        if !matches!(self.place.as_ref(), None | Some(Place::Off)) {
            let path = cx.path("proxy_temp");
            cx.need_folder(&path);
            self.folder = Some(TempPath::plain(path));
        }
    }
}

fn store(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let place = match node.arg(0) {
        "off" => Place::Off,
        "on" => Place::Root,
        _ => Place::File(Script::compile(&node.args[0], cx)?),
    };
    conf.place.put(place, node)
}

fn access(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut mode = 0o600;
    for word in &node.args {
        let invalid = || {
            Diagnostic::error(word.span, format!("invalid value \"{}\"", word.text))
                .help("write user:, group: or all: and r or rw, as in group:r")
        };
        let (who, what) = word.text.split_once(':').ok_or_else(invalid)?;
        let bits = match what {
            "r" => 0o4,
            "rw" => 0o6,
            _ => return Err(invalid()),
        };
        mode |= match who {
            "user" => bits << 6,
            "group" => bits << 3,
            "all" => bits << 3 | bits,
            _ => return Err(invalid()),
        };
    }
    conf.access.put(mode, node)
}

/// One answer on its way into a file.
#[derive(Debug)]
pub struct Store {
    /// `None` once it was given up.
    file: Option<TempFile>,
    target: PathBuf,
    mode: u32,
    modified: Option<SystemTime>,
}

/// Whether the answer that has begun is to be kept.
pub fn is_wanted(request: &Request, status: u16) -> bool {
    let place = request.location.proxy_store.place.as_ref();
    !matches!(place, None | Some(Place::Off)) && status == 200 && request.method != Method::Head
}

impl Store {
    /// Begins a file. An error is logged: the answer goes on without.
    pub async fn begin(request: &mut Request) -> Option<Self> {
        let conf: &'static Conf = &request.location.proxy_store;
        let target = match conf.place.as_ref()? {
            Place::Off => return None,
            Place::Root => {
                let mut name = Vec::new();
                static_file::file_name(request, &mut name);
                PathBuf::from(OsString::from_vec(name))
            }
            Place::File(script) => PathBuf::from(OsString::from_vec(script.to_vec(request))),
        };
        let target = request.config.prefix.join(target);
        let folder = request.location.proxy_buffering.temp_path().or(conf.folder.as_ref())?;
        let modified = request
            .response
            .headers
            .get(Id::LastModified)
            .and_then(|value| httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok());
        match TempFile::create(folder, Keep::Kept).await {
            Ok(file) => Some(Self { file: Some(file), target, mode: conf.access.get(0o600), modified }),
            Err(why) => {
                log::error!(core::error_log(request), &*request, "{why}: this answer is not stored");
                None
            }
        }
    }

    pub async fn append(&mut self, request: &Request, data: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if let Err(why) = file.append(data.to_vec()).await {
            log::error!(core::error_log(request), request, "{why}: this answer is not stored");
            self.file = None;
        }
    }

    /// The answer came whole: the file gets its name.
    pub async fn complete(self, request: &Request) {
        let Some(file) = self.file else { return };
        let target = self.target.clone();
        if let Err(why) = file.rename(target, self.mode, self.modified).await {
            log::error!(core::error_log(request), request, "{why}: this answer is not stored");
        }
    }
}
