//! The destination of a request body that is read completely: `client_body_in_file_only` and related
//! directives.
//!
//! Settings only; the reading is in `http/request/body_file.rs`. Nothing is written to disk unless the
//! configuration asks for it: by these directives, by `proxy_request_buffering on`, by naming
//! `$request_body_file`, or by allowing another upstream to be tried after a failure
//! (`http/upstream/failover.rs`).
//! Behaviour: nginx.org, ngx_http_core_module.

use crate::config::directive::{Accepted, accepted, custom, one_of};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, keywords, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::{Request, target};
use crate::http::scope::{Script, Variable};
use crate::http::temp_file::{Keep, TempPath};
use crate::http::upstream::cache::conf::conditions;
use crate::http::verdict::{Pause, Reply, Verdict};
use crate::script::value;
use crate::script::variable::variable;

/// The default of `client_body_temp_path`.
pub const DEFAULT_FOLDER: &str = "client_body_temp";

settings! {
    /// The settings of one block.
    #[derive(Clone, Debug)]
    pub struct Conf {
        in_file_only: Setting<Keep> = Keep::Unnamed,
        temp_path: Inherit<TempPath>,
        early_read: Vec<Script> => replace,
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        cx.body_files |= self.in_file_only() || self.acts();
    }

    fn acts(&self) -> bool {
        !self.early_read.is_empty()
    }
}

impl Conf {
    /// True if every body that is read goes to a file.
    pub fn in_file_only(&self) -> bool {
        self.in_file_only.get() != Keep::Unnamed
    }

    /// Whether the file of a body is kept.
    pub fn keep(&self) -> Keep {
        self.in_file_only.get()
    }

    /// The directory that the configuration names.
    pub fn temp_path(&self) -> Option<&TempPath> {
        self.temp_path.as_ref()
    }
}

keywords!(Keep { "off" => Unnamed, "on" => Kept, "clean" => Removed });

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    one_of("client_body_in_file_only", Context::ANY, |conf| &mut conf.in_file_only,
        "Writes every request body that is passed on to a file, and keeps the file after the request (on) or removes it (clean)."),
    custom("client_body_temp_path", Context::ANY, Arity::between(1, 4), temp_path,
        "Sets the directory for files of request bodies, and how many digits name each of up to three levels of subdirectories.").default("client_body_temp"),
    accepted("client_body_in_single_buffer", Context::ANY, Arity::exactly(1), Accepted::Flag,
        "A body in memory always occupies a single buffer.").default("off"),
    custom("client_body_early_read", Context::HTTP.or(Context::SERVER), Arity::at_least(1),
        |conf: &mut Conf, cx, node| conditions(&mut conf.early_read, cx, node),
        "Reads the request body before anything is decided about the request, if one of the strings is neither empty nor 0, so that rewrite rules and \
         the choice of a location may depend on $request_body. The server's settings apply to the reading: client_max_body_size, \
         client_body_buffer_size and their like."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("request_body", |request, _, out| { let body = request.body.kept(); out.extend_from_slice(body); !body.is_empty() },
        "The request body, if it was read into memory."),
    variable("request_body_file", |request, _, out| {
        let path = request.body.file().map(|file| file.path().as_os_str().as_encoded_bytes());
        out.extend_from_slice(path.unwrap_or_default());
        path.is_some()
    },
        "The name of the file that holds the request body."),
];

/// Reads the body before a location is found, with the server's settings.
pub fn read_early(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.server.root.confs.request_body;
    if !conf.early_read.iter().any(|condition| value::is_true(&condition.to_vec(request))) {
        return Verdict::Next;
    }
    target::bound_body(request);
    match target::admit_body(request) {
        Some(status) => Verdict::Done(Reply::Status(status)),
        None => Verdict::Wait(Pause::body(|_| Verdict::Next)),
    }
}

/// The directory for the files of a request's location.
pub fn folder(request: &Request) -> &'static TempPath {
    request.location.confs.request_body.temp_path().unwrap_or(&request.config.client_body_temp_path)
}

fn temp_path(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let path = cx.temp_path(node)?;
    conf.temp_path.put(path, node)
}
