//! Groups of upstream servers: which peer is next, which connection to it is kept, who may be tried again.
//!
//! Speaks no protocol: the rooms above bring the request, this one answers with a peer or a connection to
//! it. The configuration of a group is immutable; what changes while serving are the words of its peers
//! and the idle connections, which belong to one worker.

pub mod balance;
pub mod fault;
pub mod follow;
pub mod group;
pub mod known;
pub mod peer;
pub mod pool;
pub mod session;
pub mod unresolved;

pub use fault::{Fault, Faults};
pub use group::Group;
pub use peer::{Peer, Server};
pub use session::{Outcome, Session};
