//! A listener: an address, how its sockets are made, and which protocol's connections it accepts.
//!
//! Pure data. The protocols' configurations name their listeners in these terms, so that the master opens sockets and a
//! worker accepts from them without knowing any protocol.

use crate::config::Span;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One address that a configuration listens on.
///
/// A configuration has each address once, however many servers share it. The master opens its sockets, and the messages
/// between master and workers name it by its index. Whoever accepts from it asks `serves` where the connection goes.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SockAddr,
    pub options: ListenOptions,
    /// The first line that asks for it; `None`: a server without such a line has it by default.
    pub span: Option<Span>,
    pub serves: Serves,
}

/// The protocol that a listener's connections speak, with the listener's index in that protocol's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    Http(usize),
}
