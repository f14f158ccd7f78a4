//! The upstream's side of a connection that has switched protocols.
//!
//! The exchange leaves it to the request, and the client's connection takes it from there. Touches: nothing; it keeps the
//! connection open, and counted.

use std::rc::Rc;

use crate::net::Transport;
use crate::net::open::Place;
use crate::upstream::GroupState;
use crate::upstream::peer::InUse;

#[derive(Debug)]
pub struct Switched {
    pub transport: Transport,
    pub place: Place,
    /// The connection among those of its peer, which counts until the end of the tunnel. `None`: the configuration has no
    /// such peer any more.
    pub used: Option<InUse>,
    /// The peer's group, whose name the next worker needs. `None`: the configuration has it no more.
    pub group: Option<Rc<GroupState>>,
}

impl Switched {
    pub fn group_name(&self) -> &str {
        self.group.as_ref().map_or("", |state| &state.group.name)
    }
}
