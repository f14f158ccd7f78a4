//! The parts of a request by which an upstream group chooses a peer for it: the key of `hash`, the client's address.
//!
//! The group itself knows no protocol; its balancers get bytes (`upstream/balance/`). Touches: the request's
//! variables. Behaviour: nginx.org, ngx_http_upstream_module.

use crate::http::Config;
use crate::http::request::Request;
use crate::http::upstream::sticky::{Binding, Sticky};
use crate::shared::balance_key::Key;
use crate::upstream::{GroupState, Session};

/// The part of an `upstream` block that needs a request.
#[derive(Debug, Default)]
pub struct Selection {
    pub key: Key<Request>,
    pub sticky: Option<Sticky>,
}

impl Selection {
    /// True if the group needs nothing of the request.
    pub fn is_empty(&self) -> bool {
        matches!(self.key, Key::None) && self.sticky.is_none()
    }
}

/// Begins a request's course through a group; for a sticky one, with what binds the request to a peer. That is returned
/// in `binding`, since a session in a pair would be copied twice more.
pub fn session(request: &mut Request, group: &GroupState, binding: &mut Option<Box<Binding>>) -> Session {
    let tries = request.passes().next_tries();
    let config: &'static Config = request.config;
    if let Some(selection) = config.tables.upstream.selection(&group.group) {
        return begin(request, selection, Session::new(group, tries), binding);
    }
    Session::new(group, tries)
}

#[cold]
fn begin(
    request: &mut Request,
    selection: &'static Selection,
    session: Session,
    binding: &mut Option<Box<Binding>>,
) -> Session {
    let session = selection.key.give(request, session);
    let Some(sticky) = &selection.sticky else { return session };
    let (session, bound) = sticky.begin(request, session);
    *binding = Some(bound);
    session
}
