//! The parts of a request by which an upstream group chooses a peer for it: the key of `hash`, the client's address, the
//! connection that is bound to the client's.
//!
//! The group itself knows no protocol; its balancers get bytes (`upstream/balance/`). Touches: the request's
//! variables. Behaviour: nginx.org, ngx_http_upstream_module.

use crate::http::Config;
use crate::http::request::Request;
use crate::http::upstream::sticky::{Binding, Sticky};
use crate::proto::header::Id;
use crate::shared::balance_key::Key;
use crate::upstream::pool::ClientNumber;
use crate::upstream::{GroupState, Session};

/// The part of an `upstream` block that needs a request.
#[derive(Debug, Default)]
pub struct Selection {
    pub key: Key<Request>,
    pub sticky: Option<Sticky>,
    /// `ntlm`: a client's requests go to the peer of the connection that is bound to the client's.
    pub binds: bool,
}

impl Selection {
    /// True if the group needs nothing of the request.
    pub fn is_empty(&self) -> bool {
        matches!(self.key, Key::None) && self.sticky.is_none() && !self.binds
    }
}

/// Begins a request's course through a group; for a sticky one, with what binds the request to a peer. That is returned
/// in `binding`, since a session in a pair would be copied twice more.
#[inline(always)]
pub fn session(request: &mut Request, group: &GroupState, binding: &mut Option<Box<Binding>>) -> Session {
    let tries = request.passes().next_tries();
    let config: &'static Config = request.config;
    match config.tables.upstream.selection(&group.group) {
        None => Session::new(group, tries),
        Some(selection) => begin(request, selection, (Session::new(group, tries), group), binding),
    }
}

#[cold]
fn begin(
    request: &mut Request,
    selection: &'static Selection,
    (session, group): (Session, &GroupState),
    binding: &mut Option<Box<Binding>>,
) -> Session {
    let mut session = selection.key.give(request, session);
    if let Some(sticky) = &selection.sticky {
        let (bound_session, bound) = sticky.begin(request, session);
        session = bound_session;
        *binding = Some(bound);
    }
    if selection.binds
        && let Some(bound) = client(request).and_then(|client| group.bound(client))
    {
        session = session.prefer(bound);
    }
    session
}

/// The client's connection, if a connection to a peer may be bound to it; a request of our own has none.
pub fn client(request: &Request) -> Option<ClientNumber> {
    ClientNumber::new(request.connection.number)
}

/// True if a request begins or goes on to authenticate its connection: NTLM, and Negotiate, which may be NTLM inside.
pub fn authenticates(request: &Request) -> bool {
    let Some(value) = request.header(Id::Authorization) else { return false };
    let begins =
        |scheme: &[u8]| value.get(..scheme.len()).is_some_and(|found| found.eq_ignore_ascii_case(scheme));
    begins(b"NTLM") || begins(b"Negotiate")
}
