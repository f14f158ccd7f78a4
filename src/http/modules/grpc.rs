//! gRPC to upstreams: every `grpc_…` directive except `grpc_pass`.
//!
//! Settings only. Those that other upstream protocols share are in `http/upstream/conf.rs`; requests are HTTP/2
//! (`http/upstream/h2.rs`). Neither direction is buffered: both sides may send at any time.
//! Behaviour: nginx.org, ngx_http_grpc_module.

use std::sync::{Arc, LazyLock};

use crate::config::inherit::{own, replace};
use crate::config::settings;
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::rows::upstream_rows;
use crate::http::upstream::set_header::{self, Lines, Sent};
use crate::http::upstream::tls;
use crate::shared::tls::upstream_rows::Secures;

/// Fields of a response that are hidden from the client (nginx's list).
const HIDDEN: &[&str] = &[
    "Date",
    "Server",
    "X-Accel-Expires",
    "X-Accel-Redirect",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
];

static FAMILY: Family = Family::of_streams("grpc_", HIDDEN);

settings! {
    /// The settings of one block: those of every family, and those specific to gRPC.
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
        set_headers: Lines => replace,
        sent: Option<Arc<Sent>> => own,
    }
}

/// The fields of requests where no `grpc_` directive is set.
static DEFAULT: LazyLock<Sent> = LazyLock::new(|| Sent::new(&Vec::new()));

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("grpc_", Conf, upstream, [fields, tls], [
    custom("grpc_set_header", ANY, Arity::exactly(2), |c: &mut Conf, cx, node| set_header::push(&mut c.set_headers, cx, node),
        "Sets a field of the request to the gRPC server. Host is sent as :authority; without one, or if it is empty, that is the name in grpc_pass.")
        .default("Content-Length $content_length"),
]);

pub static VARIABLES: &[Variable] = &[];

impl Conf {
    /// The request fields set by `grpc_set_header`.
    pub fn sent(&self) -> &Sent {
        self.sent.as_deref().unwrap_or_else(|| &DEFAULT)
    }
}

impl Secures for Conf {
    type Scope = Request;

    fn tls(&mut self) -> &mut tls::Settings {
        &mut self.upstream.set.tls
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        self.upstream.freeze(cx);
        self.sent = Some(Arc::new(Sent::new(&self.set_headers)));
    }
}
