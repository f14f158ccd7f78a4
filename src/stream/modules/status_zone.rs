//! Counts the sessions of servers together under a name (`status_zone`).
//!
//! The counting is in `counters`, in the log phase. Touches: the counters' names in shared memory.
//! Behaviour: nginx.org, ngx_http_api_module.

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::shared::status_zone::Place;
pub use crate::shared::status_zone::Zones;
use crate::shm::counter::Slot;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        server: Inherit<Option<Slot>> => own,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("status_zone", Context::STREAM_SERVER, Arity::exactly(1), status_zone,
        "Counts the sessions of the server under this name: statuses, protocols, bytes and times, which status and the API show. \
         Several servers may share it."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Conf {
    /// The counters of a server with this conf.
    pub fn of_server(&self) -> Option<Slot> {
        self.server.as_ref().copied().flatten()
    }
}

impl ModuleTable for Zones {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.status_zone)
    }
}

fn status_zone(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    if name.is_empty() {
        return Err(Diagnostic::error(node.arg_span(0), "a zone needs a name"));
    }
    let slot = cx.drafts.status_zone.named(Place::Stream, name, cx.options.test_only);
    conf.server.put(slot, node)
}
