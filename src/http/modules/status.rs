//! The numbers of all workers, servers and upstreams: `status` serves JSON, Prometheus' text and a page that shows them.
//!
//! Runs in the content phase. One table of metrics (`status/metrics.rs`) says what there is; JSON and text are
//! written from it. Touches: shared memory, on another thread, since there may be ten thousand servers: the
//! worker's own requests do not wait for it.

pub mod metrics;
pub mod view;
pub mod write;

use std::borrow::Cow;

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Then, Verdict, Work};
use crate::proto::header::Id;
use crate::runtime::blocking::Lane;
use view::View;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        format: Option<Format> => own,
    }
}

/// The form of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// By the query, otherwise by what the client accepts: browsers get the page.
    Any,
    Json,
    Prometheus,
    Page,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("status", Context::SERVER.or(Context::LOCATION), Arity::between(0, 1), status,
        "Responds with the numbers of all workers, servers and upstreams: json, prometheus, or page, which shows them in a browser. Without an argument \
         browsers get the page, Prometheus its text and others JSON; ?format= overrides that."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false; // it is the content of its own block only
    const INHERITS_NAMELESS: bool = true;

    fn acts(&self) -> bool {
        self.format.is_some()
    }
}

fn status(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let format = match node.arg(0) {
        "" => Format::Any,
        word => named(word).ok_or_else(|| {
            let message = format!("invalid value \"{word}\"");
            Diagnostic::error(node.arg_span(0), message).help("the formats are json, prometheus and page")
        })?,
    };
    match conf.format.replace(format) {
        None => Ok(()),
        Some(_) => Err(crate::config::inherit::duplicate(node)),
    }
}

fn named(word: &str) -> Option<Format> {
    Some(match word {
        "json" => Format::Json,
        "prometheus" => Format::Prometheus,
        "page" => Format::Page,
        _ => return None,
    })
}

pub fn content(request: &mut Request) -> Verdict {
    let Some(format) = request.location.confs.status.format else { return Verdict::Next };
    if !request.method.is_get_or_head() {
        return Verdict::Done(Reply::Status(405));
    }
    let format = match format {
        Format::Any => asked(request),
        format => format,
    };
    if format == Format::Page {
        let page = include_str!("status/page.html").as_bytes();
        return Verdict::Done(reply(b"text/html; charset=utf-8", Cow::Borrowed(page)));
    }
    let (config, groups) = (request.config, request.worker.upstreams.present());
    let others = request.worker.shown.get().copied().unwrap_or_default().others();
    Work::on(Lane::Documents, move || -> Then {
        let view = View::new(config, groups, others);
        let (kind, text): (&'static [u8], _) = match format {
            Format::Prometheus => (b"text/plain; version=0.0.4; charset=utf-8", write::prometheus(&view)),
            _ => (b"application/json", write::json(&view)),
        };
        Box::new(move |_| Verdict::Done(reply(kind, Cow::Owned(text))))
    })
    .into()
}

/// The format that the query names, or that the client accepts.
fn asked(request: &Request) -> Format {
    let named_here = request.args.split(|byte| *byte == b'&').find_map(|pair| {
        let word = pair.strip_prefix(b"format=")?;
        named(std::str::from_utf8(word).ok()?)
    });
    let accepts = |what: &[u8]| {
        request.header(Id::Accept).is_some_and(|value| memchr::memmem::find(value, what).is_some())
    };
    match named_here {
        Some(format) => format,
        None if accepts(b"text/html") => Format::Page,
        None if accepts(b"openmetrics") || accepts(b"version=0.0.4") => Format::Prometheus,
        None => Format::Json,
    }
}

fn reply(content_type: &[u8], body: Cow<'static, [u8]>) -> Reply {
    let mut response = Response::with_type(200, content_type);
    response.headers.push_id(Id::CacheControl, b"no-store");
    Reply::Response(Box::new(response), Body::Bytes(body))
}
