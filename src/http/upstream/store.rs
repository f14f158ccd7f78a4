//! Stores responses of upstreams as files: `proxy_store`, and its counterparts in other families.
//!
//! Touches: the file system, on the blocking pool. A file gets its name only when it is complete; if it
//! cannot be written it is given up, and the response continues.
//! Behaviour: nginx.org, ngx_http_proxy_module.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::{Diagnostic, Inherit, Node, Setting};
use crate::http::config::compile::Cx;
use crate::http::modules::static_file;
use crate::http::request::Request;
use crate::http::temp_file::{self, TempFile};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::script::file_path::FilePath;

/// Where responses are stored.
#[derive(Clone, Debug)]
pub enum Place {
    Off,
    /// As the file that the URI names below `root` or `alias`.
    Root,
    File(FilePath<Request>),
}

/// Reads `proxy_store`.
pub fn place(slot: &mut Inherit<Place>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let place = match node.arg(0) {
        "off" => Place::Off,
        "on" => Place::Root,
        text => Place::File(FilePath::compile(text, node.arg_span(0), cx)?),
    };
    slot.put(place, node)
}

/// Reads `proxy_store_access`.
pub fn access(slot: &mut Setting<u32>, node: &Node) -> Result<(), Diagnostic> {
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
    slot.put(mode, node)
}

/// A response being written to a file.
#[derive(Debug)]
pub struct Store {
    /// `None` after it was given up.
    file: Option<TempFile>,
    target: PathBuf,
    mode: u32,
    modified: Option<SystemTime>,
}

/// True if the current response is to be stored.
pub fn is_wanted(request: &Request, status: u16) -> bool {
    request.passes().store().is_some() && status == 200 && request.upstream_method() != Method::Head
}

impl Store {
    /// Creates a file. An error is logged, and the response continues without it; so does one whose path the client has extended
    /// by `..`.
    pub async fn begin(request: &mut Request) -> Option<Self> {
        let conf = request.passes();
        let target = match conf.store()? {
            Place::Off => return None,
            Place::Root => static_file::path(request).ok()?,
            Place::File(path) => match path.evaluate(request) {
                Ok(path) => path,
                Err(path) => {
                    let path = log::Text(&path);
                    log::error!(request.error_log(), &*request, "\"{path}\" leads out of its directory");
                    return None;
                }
            },
        };
        let target = PathBuf::from(OsString::from_vec(target));
        let target = request.config.prefix.join(target);
        let folder = conf.temp_path()?;
        let modified = request
            .response
            .headers
            .get(Id::LastModified)
            .and_then(|value| httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok());
        match TempFile::create_at(temp_file::Place::In(folder)).await {
            Ok(file) => Some(Self { file: Some(file), target, mode: conf.store_mode(), modified }),
            Err(why) => {
                log::error!(request.error_log(), &*request, "{why}: this response is not stored");
                None
            }
        }
    }

    pub async fn append(&mut self, request: &Request, data: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if let Err(why) = file.append(data.to_vec()).await {
            log::error!(request.error_log(), request, "{why}: this response is not stored");
            self.file = None;
        }
    }

    /// The response is complete: the file gets its name.
    pub async fn complete(self, request: &Request) {
        let Some(file) = self.file else { return };
        let target = self.target.clone();
        if let Err(why) = file.rename(target, self.mode, self.modified).await {
            log::error!(request.error_log(), request, "{why}: this response is not stored");
        }
    }
}
