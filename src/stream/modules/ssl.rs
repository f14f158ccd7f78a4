//! TLS to clients (`ssl_*`) of streams: the table of its directives.
//!
//! The settings and what becomes of them are in `shared/tls/`; handshakes are made by `stream/handshake.rs`. Touches:
//! nothing. Behaviour: nginx.org, ngx_stream_ssl_module.

use crate::shared::tls::rows::ssl_rows;
pub use crate::shared::tls::server::Draft as Loaded;
use crate::shared::tls::server::{self, Memory};
use crate::shared::tls::upstream;
use crate::shm::named::Used;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;
use crate::stream::session::Session;

pub type Conf = server::Conf<Session>;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = ssl_rows!(Conf, (Context::STREAM, Context::STREAM_SERVER), "60s", [
    custom("ssl_alpn", CONTEXTS, Arity::at_least(1), |c: &mut Conf, _, node| upstream::alpn(&mut c.alpn, node),
        "Accepts these protocols by ALPN, the first one that the client offers too; a client that offers others only is refused."),
]);

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

/// The memory that TLS shares between the workers.
#[derive(Debug)]
pub struct Table(Memory);

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        Self(Memory::open(cx))
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        self.0.add_zones(zones);
    }

    fn tidy(&self) -> bool {
        self.0.tidy()
    }
}
