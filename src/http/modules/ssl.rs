//! TLS to clients (`ssl_*`) in HTTP: the tables of its directives and variables.
//!
//! The settings and what becomes of them are in `shared/tls/`; handshakes are made by `http/handshake.rs`. Touches:
//! nothing. Behaviour: nginx.org, ngx_http_ssl_module, ngx_http_v2_module and ngx_http_v3_module.

use crate::config::{Diagnostic, Node, params};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::script::variable::{Argument, variable};
use crate::shared::tls::rows::ssl_rows;
use crate::shared::tls::server;
pub use crate::shared::tls::server::Draft as Loaded;
use crate::shm::named::Used;

pub type Conf = server::Conf<Request>;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = ssl_rows!(Conf, (Context::HTTP, Context::SERVER), "client_header_timeout", [
    custom("ssl", CONTEXTS, Arity::exactly(1), |c: &mut Conf, cx, node| switch(c, cx, node),
        "The parameter ssl for each listen of the server, as nginx had it until 1.25.").default("off"),
    flag("ssl_early_data", CONTEXTS, |c: &mut Conf| &mut c.early_data,
        "Answers requests in the first packet of a resumed TLS 1.3 session at once. Each session can do that once, so it requires ssl_session_cache \
         shared:. Backends should be told by proxy_set_header Early-Data $ssl_early_data, and answer 425 where a repetition would do harm."),
]);

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("ssl_early_data", early_data,
        "1 while the request's TLS handshake is not complete: the request may be a copy of one that was sent earlier. Otherwise no value."),
    variable("ssl_ech_outer_server_name", none, "The public name of Encrypted Client Hello, which is not available: no value."),
    variable("ssl_ech_status", none, "The result of Encrypted Client Hello, which is not available: no value."),
];

impl BlockConf for Conf {}

/// nginx's warning until it removed the directive.
fn switch(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let message = "the \"ssl\" directive is deprecated, use the \"listen ... ssl\" directive instead";
    cx.diagnostics.push(Diagnostic::warning(node.span, message));
    conf.switch.put(params::flag(node, 0)?, node)
}

/// No value: `-` in the access log.
fn none(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    false
}

fn early_data(request: &mut Request, _: &Argument, out: &mut Vec<u8>) -> bool {
    let is_early = request.connection.tls.as_deref().is_some_and(|info| info.is_early.get());
    if is_early {
        out.push(b'1');
    }
    is_early
}

/// The memory that TLS shares between the workers.
#[derive(Debug)]
pub struct Table(server::Memory);

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        Self(server::Memory::open(cx))
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        self.0.add_zones(zones);
    }

    fn tidy(&self) -> bool {
        self.0.tidy()
    }
}
