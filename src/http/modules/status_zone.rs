//! Counts the requests of servers and locations together under a name (`status_zone`).
//!
//! The counting is in `counters`, in the log phase. Touches: the counters' names in shared memory.
//! Behaviour: nginx.org, ngx_http_api_module.

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::scope::Variable;
use crate::shared::status_zone::Place;
pub use crate::shared::status_zone::Zones;
use crate::shm::counter::Slot;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// Of a server.
        server: Inherit<Option<Slot>> => own,
        /// Of a location; `off` ends what it would inherit.
        location: Inherit<Option<Slot>>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("status_zone", Context::SERVER.or(Context::LOCATION).or(Context::LOCATION_IF), Arity::exactly(1), status_zone,
        "Counts the requests of the server, or of the location in which their processing ends, under this name: statuses, protocols, ends, bytes and times, \
         which status and the API show. Several servers or locations may share a name; off takes it from the locations inside. 1,024 zones and upstreams \
         together are counted so."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Conf {
    /// The counters of a server with this conf.
    pub fn of_server(&self) -> Option<Slot> {
        self.server.as_ref().copied().flatten()
    }

    /// The counters of a location with this conf.
    #[inline]
    pub fn of_location(&self) -> Option<Slot> {
        self.location.as_ref().copied().flatten()
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
    let (place, field) = match cx.is_in_location() {
        true => (Place::Location, &mut conf.location),
        false => (Place::Server, &mut conf.server),
    };
    let is_off = name == "off" && place == Place::Location;
    let slot = if is_off { None } else { cx.drafts.status_zone.named(place, name, cx.options.test_only) };
    field.put(slot, node)
}
