//! How much of an answer is held between an upstream and its client, and how fast it is taken.
//!
//! Settings only; the relay is `http/upstream/relay.rs`. What has arrived is always sent at once; buffers only let the
//! upstream go on while its client takes nothing.
//! Behaviour: nginx.org, ngx_http_proxy_module; unlike there nothing goes to disk unless it is asked for.

use crate::config::directive::{Accepted, accepted, custom, flag, size};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, params};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, limit_rate};
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::temp_file::TempPath;
use crate::http::variable::Variable;
use crate::net::pace::Pace;

/// nginx's eight pages.
const BUFFERS: (u64, u64) = (8, 4096);

#[derive(Debug, Default)]
pub struct Conf {
    buffering: Inherit<bool>,
    buffers: Inherit<(u64, u64)>,
    limit_rate: Inherit<Script>,
    /// Bytes of a temporary file; not set: none.
    temp_file_max: Inherit<u64>,
    temp_path: Inherit<TempPath>,
    /// In force where `proxy_temp_path` is not set.
    default_path: Option<TempPath>,
}

const ANY: Context = Context::ANY;
const ONE: Arity = Arity::exactly(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("proxy_buffering", ANY, |c| &mut c.buffering, "Reads answers ahead of a client that is slower, as far as proxy_buffers; on."),
    custom("proxy_buffers", ANY, Arity::exactly(2), buffers, "Number and size of buffers: their product is read ahead at most; 8 4k."),
    size("proxy_max_temp_file_size", ANY, |c| &mut c.temp_file_max,
        "Bytes of an answer that may wait in a temporary file when the buffers are full, 0: none; 0."),
    custom("proxy_limit_rate", ANY, ONE, |c, cx, node| limit_rate::size(&mut c.limit_rate, cx, node),
        "Bytes a second that are read from an upstream for one answer, 0: no limit; 0."),
    custom("proxy_temp_path", ANY, Arity::between(1, 4), temp_path,
        "Directory for temporary files of answers, and up to three levels of directories in it; proxy_temp."),
    accepted("proxy_busy_buffers_size", ANY, ONE, Accepted::Size, "What has arrived is always sent at once."),
    accepted("proxy_temp_file_write_size", ANY, ONE, Accepted::Size, "Temporary files are written by the buffer."),
    accepted("proxy_send_lowat", ANY, ONE, Accepted::Size, "Data is never held back to fill a packet; 0."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.buffering.merge(&outer.buffering);
        self.buffers.merge(&outer.buffers);
        self.limit_rate.merge(&outer.limit_rate);
        self.temp_file_max.merge(&outer.temp_file_max);
        self.temp_path.merge(&outer.temp_path);
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        if self.temp_file_bytes_max() > 0 && !self.temp_path.is_set() {
            let path = cx.path("proxy_temp");
            cx.need_folder(&path);
            self.default_path = Some(TempPath::plain(path));
        }
    }
}

impl Conf {
    pub fn is_on(&self) -> bool {
        self.buffering.get(true)
    }

    /// Bytes read ahead of the client.
    pub fn bytes(&self) -> usize {
        let (count, size) = self.buffers.get(BUFFERS);
        usize::try_from(count.saturating_mul(size)).unwrap_or(usize::MAX)
    }

    /// Where files under way are.
    pub fn temp_path(&self) -> Option<&TempPath> {
        self.temp_path.as_ref().or(self.default_path.as_ref())
    }

    /// Bytes that may wait in a temporary file; 0: none.
    pub fn temp_file_bytes_max(&self) -> u64 {
        self.temp_file_max.get(0)
    }
}

fn temp_path(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.temp_path.put(TempPath::read(node, cx)?, node)
}

fn buffers(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let buffers = params::buffers(node)?;
    if buffers.0 < 2 {
        return Err(Diagnostic::error(node.arg_span(0), "there must be at least 2 \"proxy_buffers\""));
    }
    conf.buffers.put(buffers, node)
}

/// How fast the answer of an upstream is read; `None`: as fast as it comes.
pub fn pace(request: &mut Request) -> Option<Pace> {
    let conf: &'static Conf = &request.location.proxy_buffering;
    let script = conf.limit_rate.as_ref()?;
    Pace::new(limit_rate::evaluate(Some(script), request), 0)
}
