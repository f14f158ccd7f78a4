//! A listener: its address, its socket options, and the protocol of the connections it accepts.
//!
//! Pure data. The protocols describe their listeners in these terms, so that the master can open sockets and
//! a worker can accept from them without knowing any protocol.

use crate::config::Span;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One address that a configuration listens on.
///
/// A configuration has each address once, however many servers share it. The master opens its sockets; the
/// messages between master and workers name it by its index. The worker that accepts from it asks `serves`
/// for the protocol to pass the connection to.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SockAddr,
    pub options: ListenOptions,
    /// The first line that asks for it; `None`: it is the default of a server without such a line.
    pub span: Option<Span>,
    pub serves: Serves,
}

/// The protocol of a listener's connections, with the listener's index in that protocol's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    Http(usize),
    Stream(usize),
    Mail(usize),
    /// Operators: the process that speaks the control protocol accepts from it, and no worker does.
    Control(usize),
}

impl Serves {
    /// True if the clients are operators.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Control(_))
    }
}
