//! TLS to clients (`ssl_*`) of mail servers: the table of its directives.
//!
//! The settings and what becomes of them are in `shared/tls/`; handshakes are made by `mail/handshake.rs`. Touches:
//! nothing. Behaviour: nginx.org, ngx_mail_ssl_module.

use crate::mail::config::compile::Cx;
use crate::mail::modules::{BlockConf, Directive, ModuleTable};
use crate::mail::session::Session;
use crate::shared::tls::rows::ssl_rows;
pub use crate::shared::tls::server::Draft as Loaded;
use crate::shared::tls::server::{self, Memory};
use crate::shm::named::Used;

pub type Conf = server::Conf<Session>;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = ssl_rows!(Conf, (Context::MAIL, Context::MAIL_SERVER), "that of the server's timeout", []);

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
